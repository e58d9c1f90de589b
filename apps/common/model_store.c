/* model_store.c - looking through the folders where models lie. */
#define _XOPEN_SOURCE 700
#include "common/model_store.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>

#include "common/model_path.h"
#include "common/pull_record.h"
#include "common/text_format.h"

/* ---- folders ---- */

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* $NAME/BELOW, else ~/USUAL/BELOW. */
static char *folder_of_user(const char *name, const char *usual, const char *below) {
    const char *named = variable(name), *home = variable("HOME");
    if (named) return app_format("%s/%s", named, below);
    return home ? app_format("%s/%s/%s", home, usual, below) : NULL;
}

char *app_models_folder(void) {
    const char *named = variable("INK_MODELS");
    return named ? app_format("%s", named) : folder_of_user("XDG_DATA_HOME", ".local/share", "inkstone/models");
}

char *app_hub_home(void) {
    const char *named = variable("HF_HOME");
    return named ? app_format("%s", named) : folder_of_user("XDG_CACHE_HOME", ".cache", "huggingface");
}

static char *hub_cache(void) {
    const char *named = variable("HF_HUB_CACHE");
    if (!named) named = variable("HUGGINGFACE_HUB_CACHE"); /* its older name */
    if (named) return app_format("%s", named);
    char *home = app_hub_home(), *cache = home ? app_format("%s/hub", home) : NULL;
    free(home);
    return cache;
}

static bool has_index(const char *dir) {
    struct stat info;
    char *path = app_format("%s/model_index.json", dir);
    bool has = path && stat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return has;
}

/* In the published layout; what was made of single files has no index. */
static bool is_model(const char *dir) {
    struct stat info;
    char *path = app_format("%s/transformer", dir);
    bool has = has_index(dir) || (path && stat(path, &info) == 0 && S_ISDIR(info.st_mode));
    free(path);
    return has;
}

/* Bytes of the files below a folder, behind links too; links of a cache never lead to folders. */
static int64_t folder_bytes(const char *dir, int depth) {
    int64_t n_bytes = 0;
    DIR *entries = depth > 0 ? opendir(dir) : NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        char *path = app_format("%s/%s", dir, entry->d_name);
        if (path && stat(path, &info) == 0)
            n_bytes += S_ISDIR(info.st_mode) ? folder_bytes(path, depth - 1) : S_ISREG(info.st_mode) ? (int64_t)info.st_size : 0;
        free(path);
    }
    if (entries) closedir(entries);
    return n_bytes;
}

enum { DEEPEST = 4 }; /* folders below a model's; two are usual */

/* ---- entries ---- */

static void clear_entry(app_model_entry *entry) {
    free(entry->name);
    free(entry->dir);
    free(entry->repo);
    free(entry->commit);
}

void app_model_list_clear(app_model_list *list) {
    for (size_t i = 0; i < list->n_entries; i++) clear_entry(&list->entries[i]);
    free(list->entries);
    *list = (app_model_list){0};
}

/* Takes the strings of entry over, in any case. */
static bool add_entry(app_model_list *list, app_model_entry entry) {
    app_model_entry *longer = entry.name && entry.dir ? realloc(list->entries, (list->n_entries + 1) * sizeof *longer) : NULL;
    if (!longer) {
        clear_entry(&entry);
        return false;
    }
    list->entries = longer;
    longer[list->n_entries++] = entry;
    return true;
}

const app_model_entry *app_model_list_get(const app_model_list *list, const char *name) {
    for (size_t i = 0; i < list->n_entries; i++) {
        const app_model_entry *entry = &list->entries[i];
        if (strcasecmp(entry->name, name) == 0 || (entry->repo && strcasecmp(entry->repo, name) == 0)) return entry;
    }
    return NULL;
}

const char *app_model_origin_name(app_model_origin origin) {
    static const char *const names[] = {"pulled", "folder", "cache", "shipped"};
    return names[origin];
}

/* ---- pulled models ---- */

/* What lies in the models' folder under one name; nothing that is no model is added. */
static bool add_pulled(app_model_list *list, const char *folder, const char *name) {
    app_pull_record record;
    ink_error ignored;
    app_model_entry entry = {.name = app_format("%s", name), .dir = app_format("%s/%s", folder, name)};
    if (!entry.dir) return add_entry(list, entry);
    bool readable = app_pull_record_load(&record, entry.dir, &ignored) == INK_OK;
    if (!(readable && record.repo) && !is_model(entry.dir)) {
        clear_entry(&entry);
        return true;
    }
    entry.origin = readable && record.repo ? APP_MODEL_PULLED : APP_MODEL_FOLDER;
    entry.n_bytes = folder_bytes(entry.dir, DEEPEST);
    if (entry.origin == APP_MODEL_PULLED) {
        size_t n_wanted = 0;
        for (size_t i = 0; i < record.n_files; i++) n_wanted += record.files[i].wanted;
        entry.repo = app_format("%s", record.repo);
        entry.commit = app_format("%s", record.commit);
        entry.n_missing = app_pull_record_missing(&record, entry.dir);
        entry.n_left_out = record.n_needed > n_wanted ? record.n_needed - n_wanted : 0;
    }
    if (readable) app_pull_record_clear(&record);
    return add_entry(list, entry);
}

/* Calls add for every folder in dir, in the order of names. false when memory is out. */
static bool each_folder(app_model_list *list, const char *dir, bool (*add)(app_model_list *, const char *, const char *)) {
    struct dirent **names;
    int n = dir ? scandir(dir, &names, NULL, alphasort) : -1;
    bool added = true;
    for (int i = 0; i < n; i++) {
        if (added && names[i]->d_name[0] != '.') added = add(list, dir, names[i]->d_name);
        free(names[i]);
    }
    if (n >= 0) free(names);
    return added;
}

/* ---- the hub's cache: models--ORG--NAME/{refs/main, snapshots/COMMIT/...} ---- */

/* The commit that refs/main names; empty when it names none. */
static void read_ref(const char *dir, char commit[65]) {
    char line[80] = "";
    char *path = app_format("%s/refs/main", dir);
    FILE *file = path ? fopen(path, "rb") : NULL;
    free(path);
    if (file && !fgets(line, sizeof line, file)) line[0] = 0;
    if (file) fclose(file);
    line[strcspn(line, "\r\n")] = 0;
    snprintf(commit, 65, "%.64s", app_is_hex(line, 7, 64) ? line : "");
}

/* The snapshot of refs/main, else any that holds a model: the newest. NULL when there is none. */
static char *find_snapshot(const char *dir, char commit[65]) {
    char *found = NULL, *folder;
    time_t newest = 0;
    read_ref(dir, commit);
    char *main_snapshot = *commit ? app_format("%s/snapshots/%s", dir, commit) : NULL;
    if (main_snapshot && has_index(main_snapshot)) return main_snapshot;
    free(main_snapshot);
    folder = app_format("%s/snapshots", dir);
    DIR *entries = folder ? opendir(folder) : NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        struct stat info;
        char *path = app_is_hex(entry->d_name, 7, 64) ? app_format("%s/%s", folder, entry->d_name) : NULL;
        if (path && has_index(path) && stat(path, &info) == 0 && (!found || info.st_mtime > newest)) {
            free(found);
            found = path;
            newest = info.st_mtime;
            snprintf(commit, 65, "%.64s", entry->d_name);
        } else {
            free(path);
        }
    }
    if (entries) closedir(entries);
    free(folder);
    return found;
}

static bool add_cached(app_model_list *list, const char *cache, const char *name) {
    static const char prefix[] = "models--";
    char commit[65] = "";
    const char *org = name + sizeof prefix - 1, *parted = NULL;
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) parted = strstr(org, "--");
    if (!parted) return true;
    char *repo = app_format("%.*s/%s", (int)(parted - org), org, parted + 2), *dir = app_format("%s/%s", cache, name);
    char *snapshot = repo && dir && app_repo_is_valid(repo) ? find_snapshot(dir, commit) : NULL;
    bool usable = snapshot != NULL, no_memory = !repo || !dir;
    app_model_entry entry = {.dir = snapshot, .repo = repo, .origin = APP_MODEL_CACHED};
    free(dir);
    if (!usable) {
        clear_entry(&entry);
        return !no_memory;
    }
    entry.name = app_repo_short_name(repo);
    entry.commit = app_format("%s", commit);
    entry.n_bytes = folder_bytes(snapshot, DEEPEST);
    return add_entry(list, entry);
}

/* ---- all ---- */

static bool add_shipped(app_model_list *list) {
    char *dir = app_shipped_model();
    if (!dir) return true;
    return add_entry(
        list, (app_model_entry){
                  .name = app_format("demo"), .dir = dir, .origin = APP_MODEL_SHIPPED, .n_bytes = folder_bytes(dir, DEEPEST)});
}

ink_status app_model_list_find(app_model_list *list, ink_error *error) {
    char *models = app_models_folder(), *cache = hub_cache();
    *list = (app_model_list){0};
    bool added = each_folder(list, models, add_pulled) && each_folder(list, cache, add_cached) && add_shipped(list);
    free(models);
    free(cache);
    if (added) return INK_OK;
    app_model_list_clear(list);
    return app_fail_memory(error, "the list of models");
}
