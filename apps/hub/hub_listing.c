/* hub_listing.c - parsing and choosing. */
#define _POSIX_C_SOURCE 200809L
#include "hub/hub_listing.h"

#include <fnmatch.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text_format.h"

void hub_listing_clear(hub_listing *listing) {
    app_pull_files_free(listing->files, listing->n_files);
    *listing = (hub_listing){0};
}

/* Limits that no repository comes near, so that sums of sizes and comparisons of names stay in bounds. */
static const int64_t largest_file = INT64_C(1) << 48;
enum { MOST_FILES = 10000 };

/* ---- parsing ---- */

/*
 * Sizes and hashes are missing for files that the hub does not tell them of; whether that matters is found out when they are
 * needed. A hash that is there and is none is a fault.
 */
static ink_status parse_file(app_pull_file *file, json_t *entry, const char *origin, ink_error *error) {
    const char *path, *blob = "", *sha256 = "";
    json_int_t size = -1;
    json_t *lfs = json_object_get(entry, "lfs");
    if (json_unpack(entry, "{s:s, s?I, s?s}", "rfilename", &path, "size", &size, "blobId", &blob) != 0)
        return app_fail(error, INK_ERROR_FORMAT, "%s: an entry of \"siblings\" is no file with a name", origin);
    if (!app_pull_path_is_safe(path))
        return app_fail(error, INK_ERROR_FORMAT, "%s: refusing the file name \"%.100s\", which may lead out of the folder", origin,
                        path);
    if (json_is_object(lfs) && json_unpack(lfs, "{s:s, s?I}", "sha256", &sha256, "size", &size) != 0)
        return app_fail(error, INK_ERROR_FORMAT, "%s: %s: \"lfs\" has no \"sha256\"", origin, path);
    if ((*sha256 && !app_is_hex(sha256, 64, 64)) || (*blob && !app_is_hex(blob, 40, 40)) || size < -1 || size > largest_file)
        return app_fail(error, INK_ERROR_FORMAT, "%s: %s: the size or the hash is none", origin, path);
    *file = (app_pull_file){.path = app_format("%s", path), .size = size};
    if (*sha256)
        snprintf(file->sha256, sizeof file->sha256, "%s", sha256);
    else
        snprintf(file->git_sha1, sizeof file->git_sha1, "%s", blob);
    return file->path ? INK_OK : app_fail_memory(error, "a file name");
}

static ink_status parse_root(hub_listing *listing, json_t *root, const char *origin, ink_error *error) {
    const char *commit;
    json_t *files;
    if (json_unpack(root, "{s:s, s:o}", "sha", &commit, "siblings", &files) != 0 || !json_is_array(files))
        return app_fail(error, INK_ERROR_FORMAT, "%s: no list of files (\"sha\" and \"siblings\") in the answer", origin);
    if (!app_is_hex(commit, 7, 64)) return app_fail(error, INK_ERROR_FORMAT, "%s: \"sha\" is no commit", origin);
    snprintf(listing->commit, sizeof listing->commit, "%s", commit);
    size_t n = json_array_size(files);
    if (n > MOST_FILES) return app_fail(error, INK_ERROR_FORMAT, "%s: %zu files are too many for a model", origin, n);
    listing->files = calloc(n ? n : 1, sizeof *listing->files);
    if (!listing->files) return app_fail_memory(error, "the list of files");
    for (size_t i = 0; i < n; i++) {
        ink_status status = parse_file(&listing->files[i], json_array_get(files, i), origin, error);
        if (status != INK_OK) return status;
        listing->n_files++;
    }
    return INK_OK;
}

ink_status hub_listing_parse(hub_listing *listing, const char *text, size_t size, const char *origin, ink_error *error) {
    json_error_t fault;
    *listing = (hub_listing){0};
    json_t *root = json_loadb(text, size, 0, &fault);
    if (!root) return app_fail(error, INK_ERROR_FORMAT, "%s: the answer is no JSON (line %d: %s)", origin, fault.line, fault.text);
    ink_status status = parse_root(listing, root, origin, error);
    json_decref(root);
    if (status != INK_OK) hub_listing_clear(listing);
    return status;
}

/* ---- choosing ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n_text = strlen(text), n_end = strlen(end);
    return n_text >= n_end && strcmp(text + n_text - n_end, end) == 0;
}

/* The name within a folder of the pipeline, or NULL. */
static const char *name_in(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/') ? path + n + 1 : NULL;
}

static bool has_file(const hub_listing *listing, const char *path) {
    for (size_t i = 0; i < listing->n_files; i++)
        if (strcmp(listing->files[i].path, path) == 0) return true;
    return false;
}

/* Length of the "-00001-of-00004" before ".safetensors", or 0. */
static size_t shard_length(const char *name) {
    static const char pattern[] = "-00000-of-00000", end[] = ".safetensors";
    size_t n = sizeof pattern - 1, length = strlen(name);
    if (!ends_with(name, end) || length < n + sizeof end) return 0;
    const char *shard = name + length - (sizeof end - 1) - n;
    for (size_t i = 0; i < n; i++)
        if (pattern[i] == '0' ? shard[i] < '0' || shard[i] > '9' : shard[i] != pattern[i]) return 0;
    return n;
}

/*
 * Weights of a network, by the name within its folder. A variant has a dot in its stem ("model.fp16.safetensors"). Shards
 * count only beside their index, and the single file only without one.
 */
static bool weights_needed(const hub_listing *listing, const char *folder, const char *name) {
    static const char end[] = ".safetensors", index_end[] = ".safetensors.index.json";
    bool index = ends_with(name, index_end), single = !index && ends_with(name, end);
    if (!index && !single) return false;
    size_t stem = strlen(name) - strlen(index ? index_end : end), shard = index ? 0 : shard_length(name);
    stem -= shard;
    if (stem == 0 || memchr(name, '.', stem)) return false;
    if (index) return true;
    char *path = app_format("%s/%.*s%s", folder, (int)stem, name, index_end);
    bool indexed = path && has_file(listing, path);
    free(path);
    return indexed == (shard > 0);
}

static bool is_one_of(const char *name, const char *const *names) {
    while (*names && strcmp(name, *names) != 0) names++;
    return *names != NULL;
}

static bool is_needed(const hub_listing *listing, const char *path) {
    static const char *const top[] = {"model_index.json", "inkstone.json", NULL};
    static const char *const networks[] = {"text_encoder", "transformer", "vae", NULL};
    static const char *const tokenizer[] = {
        "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", NULL};
    const char *name = name_in(path, "scheduler");
    if (is_one_of(path, top) || (name && ends_with(name, ".json"))) return true;
    name = name_in(path, "tokenizer");
    if (name)
        return is_one_of(name, tokenizer) || (strcmp(name, "tokenizer.json") == 0 && !has_file(listing, "tokenizer/vocab.json"));
    for (const char *const *folder = networks; *folder; folder++) {
        name = name_in(path, *folder);
        if (name) return strcmp(name, "config.json") == 0 || weights_needed(listing, *folder, name);
    }
    return false;
}

ink_status hub_listing_keep_needed(hub_listing *listing, const char *repo, ink_error *error) {
    if (!has_file(listing, "model_index.json"))
        return app_fail(error, INK_ERROR_UNSUPPORTED,
                        "%s holds no pipeline in the published layout (there is no model_index.json in it)", repo);
    bool *needed = calloc(listing->n_files, sizeof *needed); /* all are judged before any is dropped */
    if (!needed) return app_fail_memory(error, "the list of files");
    for (size_t i = 0; i < listing->n_files; i++) needed[i] = is_needed(listing, listing->files[i].path);
    size_t n = 0;
    for (size_t i = 0; i < listing->n_files; i++) {
        if (needed[i])
            listing->files[n++] = listing->files[i];
        else
            free(listing->files[i].path);
    }
    listing->n_files = n;
    free(needed);
    for (size_t i = 0; i < n; i++) {
        const app_pull_file *file = &listing->files[i];
        if (file->size < 0 || (!file->sha256[0] && !file->git_sha1[0]))
            return app_fail(error, INK_ERROR_FORMAT, "%s: the hub tells no size or no hash of %s, so it cannot be checked", repo,
                            file->path);
        for (size_t j = 0; j < i; j++)
            if (strcmp(listing->files[j].path, file->path) == 0)
                return app_fail(error, INK_ERROR_FORMAT, "%s: the hub lists %s twice", repo, file->path);
    }
    return INK_OK;
}

bool hub_matches_pattern(const char *path, const char *pattern) {
    const char *name = strrchr(path, '/');
    return fnmatch(pattern, path, 0) == 0 || (name && fnmatch(pattern, name + 1, 0) == 0);
}
