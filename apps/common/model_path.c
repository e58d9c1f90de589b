/*
 * model_path.c - which model a program uses: by path, by name, or when none was named. The build says where the shipped models lie:
 * INK_INSTALL_MODELS_RELATIVE, as seen from the folder of an installed program, and INK_SOURCE_MODELS, in the source tree.
 */
#define _XOPEN_SOURCE 700 /* realpath */
#include "common/model_path.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/model_store.h"
#include "common/text_format.h"

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

/* The folder of the running program, with its slash; empty when the system does not tell. */
static void program_folder(char folder[PATH_MAX]) {
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[length > 0 ? length : 0] = 0;
    char *slash = strrchr(folder, '/');
    folder[slash ? slash + 1 - folder : 0] = 0;
}

/* Takes path over: it becomes *dir if a model lies there, and is released if not. */
static int use_if_model(char **dir, char *path) {
    char *index = path ? app_format("%s/model_index.json", path) : NULL;
    int found = index && access(index, F_OK) == 0;
    free(index);
    if (found)
        *dir = path;
    else
        free(path);
    return found;
}

char *app_shipped_model(void) {
    char folder[PATH_MAX], *dir = NULL;
    program_folder(folder);
    if (*folder && use_if_model(&dir, app_format("%s" INK_INSTALL_MODELS_RELATIVE "/demo", folder))) return dir;
    use_if_model(&dir, app_format("%s", INK_SOURCE_MODELS "/demo"));
    return dir;
}

/* No path and no name: says which names there are. */
static ink_status refuse_name(const app_model_list *list, const char *named, ink_error *error) {
    char names[400] = "";
    size_t length = 0;
    for (size_t i = 0; i < list->n_entries && length + 100 < sizeof names; i++)
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%.90s", i ? ", " : "", list->entries[i].name);
    return app_fail(error, INK_ERROR_IO,
                    "%.300s: there is no such folder and no model of that name; %s%s. To load one: inkstone pull %s", named,
                    *names ? "there are: " : "none is there yet", names, strchr(named, '/') ? "ORG/NAME" : "Qwen/Qwen-Image");
}

static ink_status find_by_name(char **dir, const char *named, ink_error *error) {
    app_model_list list;
    ink_status status = app_model_list_find(&list, error);
    if (status != INK_OK) return status;
    const app_model_entry *entry = app_model_list_get(&list, named);
    if (!entry)
        status = refuse_name(&list, named, error);
    else if (entry->n_missing > 0)
        status = app_fail(error, INK_ERROR_IO, "%s is not complete, %zu of its files are missing; to go on: inkstone pull %s",
                          entry->name, entry->n_missing, entry->repo);
    else if (!(*dir = app_format("%s", entry->dir)))
        status = app_fail_memory(error, "a file name");
    app_model_list_clear(&list);
    return status;
}

ink_status app_model_path(char **dir, const char *named, ink_error *error) {
    const char *variable = getenv("INK_MODEL");
    *dir = NULL;
    if (!named && variable && *variable) named = variable;
    if (named) {
        if (access(named, F_OK) != 0) return find_by_name(dir, named, error);
        *dir = app_format("%s", named);
        return *dir ? INK_OK : app_fail_memory(error, "a file name");
    }
    *dir = app_shipped_model();
    if (*dir) return INK_OK;
    return app_fail(error, INK_ERROR_IO, "the demo model is not installed: name a model folder with -m DIR, or set INK_MODEL");
}

char *app_absolute_path(const char *dir) {
    char *absolute = realpath(dir, NULL);
    return absolute ? absolute : app_format("%s", dir);
}
