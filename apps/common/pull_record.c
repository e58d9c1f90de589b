/* pull_record.c - reading, writing and judging inkstone-pull.json. */
#define _POSIX_C_SOURCE 200809L
#include "common/pull_record.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/text_format.h"

/* Of the record's layout; a reader that meets a higher one leaves the folder alone. */
enum { PULL_FORMAT = 1, LONGEST_PATH = 512, LONGEST_PART = 200, MOST_RECORD_BYTES = 16 << 20 };

static const char partial_suffix[] = ".partial";

/* ---- names ---- */

static bool part_is_safe(const char *part, size_t length) {
    size_t suffix = sizeof partial_suffix - 1;
    if (length == 0 || length > LONGEST_PART) return false;
    if (part[0] == '.' && (length == 1 || (length == 2 && part[1] == '.'))) return false;
    return length < suffix || memcmp(part + length - suffix, partial_suffix, suffix) != 0;
}

bool app_pull_path_is_safe(const char *path) {
    if (strlen(path) > LONGEST_PATH || strcmp(path, APP_PULL_RECORD_NAME) == 0 || strcmp(path, ".inkstone-pull.lock") == 0)
        return false;
    for (const unsigned char *c = (const unsigned char *)path; *c; c++)
        if (*c < 0x20 || *c == 0x7f || *c == '\\' || *c == ':') return false;
    for (;; path++) {
        size_t length = strcspn(path, "/");
        if (!part_is_safe(path, length)) return false;
        path += length;
        if (!*path) return true;
    }
}

bool app_is_hex(const char *text, size_t least, size_t most) {
    size_t n = strspn(text, "0123456789abcdef");
    return !text[n] && n >= least && n <= most;
}

static bool repo_part_is_valid(const char *part, size_t length) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (length == 0 || length > 96 || part[0] == '.' || part[0] == '-') return false;
    for (size_t i = 0; i < length; i++)
        if (!strchr(letters, part[i]) || (part[i] == '.' && i > 0 && part[i - 1] == '.')) return false;
    return true;
}

bool app_repo_is_valid(const char *repo) {
    const char *slash = strchr(repo, '/');
    return slash && repo_part_is_valid(repo, (size_t)(slash - repo)) && repo_part_is_valid(slash + 1, strlen(slash + 1));
}

char *app_repo_short_name(const char *repo) {
    const char *slash = strrchr(repo, '/');
    char *name = app_format("%s", slash ? slash + 1 : repo);
    for (char *c = name; c && *c; c++)
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 'a' - 'A');
    return name;
}

/* ---- judging ---- */

app_pull_file *app_pull_record_find(const app_pull_record *record, const char *path) {
    for (size_t i = 0; i < record->n_files; i++)
        if (strcmp(record->files[i].path, path) == 0) return &record->files[i];
    return NULL;
}

bool app_pull_same_content(const app_pull_file *a, const app_pull_file *b) {
    return a->size == b->size && strcmp(a->sha256, b->sha256) == 0 && strcmp(a->git_sha1, b->git_sha1) == 0;
}

size_t app_pull_record_missing(const app_pull_record *record, const char *dir) {
    size_t n = 0;
    for (size_t i = 0; i < record->n_files; i++) {
        const app_pull_file *file = &record->files[i];
        struct stat info;
        char *path = file->wanted ? app_format("%s/%s", dir, file->path) : NULL;
        if (file->wanted) n += !file->done || !path || stat(path, &info) != 0 || info.st_size != file->size;
        free(path);
    }
    return n;
}

void app_pull_files_free(app_pull_file *files, size_t n) {
    for (size_t i = 0; i < n; i++) free(files[i].path);
    free(files);
}

void app_pull_record_clear(app_pull_record *record) {
    app_pull_files_free(record->files, record->n_files);
    free(record->repo);
    free(record->revision);
    *record = (app_pull_record){0};
}

/* ---- reading ---- */

static bool parse_file(app_pull_file *file, json_t *entry) {
    const char *path, *sha256 = "", *git_sha1 = "";
    json_int_t size;
    int done, ours, wanted;
    if (json_unpack(entry, "{s:s, s:I, s?s, s?s, s:b, s:b, s:b}", "path", &path, "size", &size, "sha256", &sha256, "git_sha1",
                    &git_sha1, "done", &done, "ours", &ours, "wanted", &wanted) != 0)
        return false;
    bool hashed = *sha256 ? app_is_hex(sha256, 64, 64) && !*git_sha1 : app_is_hex(git_sha1, 40, 40);
    if (!app_pull_path_is_safe(path) || size < 0 || !hashed) return false;
    *file = (app_pull_file){.path = app_format("%s", path), .size = size, .done = done, .ours = ours, .wanted = wanted};
    snprintf(file->sha256, sizeof file->sha256, "%s", sha256);
    snprintf(file->git_sha1, sizeof file->git_sha1, "%s", git_sha1);
    return file->path != NULL;
}

static bool parse_record(app_pull_record *record, json_t *root) {
    const char *repo, *revision, *commit;
    json_t *files;
    json_int_t needed;
    int format;
    if (json_unpack(root, "{s:i, s:s, s:s, s:s, s:I, s:o}", "format", &format, "repo", &repo, "revision", &revision, "commit",
                    &commit, "needed", &needed, "files", &files) != 0)
        return false;
    if (format != PULL_FORMAT || !app_repo_is_valid(repo) || !app_is_hex(commit, 7, 64) || needed < 0 || !json_is_array(files))
        return false;
    size_t n = json_array_size(files);
    record->files = calloc(n ? n : 1, sizeof *record->files);
    if (!record->files) return false;
    for (; record->n_files < n; record->n_files++)
        if (!parse_file(&record->files[record->n_files], json_array_get(files, record->n_files))) return false;
    snprintf(record->commit, sizeof record->commit, "%s", commit);
    record->n_needed = (size_t)needed;
    record->repo = app_format("%s", repo);
    record->revision = app_format("%s", revision);
    return record->repo && record->revision;
}

ink_status app_pull_record_parse(app_pull_record *record, const char *text, size_t size, const char *origin, ink_error *error) {
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    *record = (app_pull_record){0};
    bool parsed = root && parse_record(record, root);
    json_decref(root);
    if (parsed) return INK_OK;
    app_pull_record_clear(record);
    return app_fail(error, INK_ERROR_FORMAT, "%s is damaged, or of a newer program; remove it to have all files checked again",
                    origin);
}

/* The whole file, or NULL with errno set. */
static char *read_text(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *text = file ? malloc(MOST_RECORD_BYTES) : NULL;
    *size = text ? fread(text, 1, MOST_RECORD_BYTES, file) : 0;
    if (text && ferror(file)) {
        int reason = errno;
        free(text);
        text = NULL;
        errno = reason;
    }
    if (file) fclose(file);
    return text;
}

ink_status app_pull_record_load(app_pull_record *record, const char *dir, ink_error *error) {
    size_t size;
    *record = (app_pull_record){0};
    char *path = app_format("%s/" APP_PULL_RECORD_NAME, dir), *text = path ? read_text(path, &size) : NULL;
    ink_status status = INK_OK;
    if (!path)
        status = app_fail_memory(error, "a file name");
    else if (text)
        status = app_pull_record_parse(record, text, size, path, error);
    else if (errno != ENOENT && errno != ENOTDIR)
        status = app_fail(error, INK_ERROR_IO, "cannot read %s: %s", path, strerror(errno));
    free(text);
    free(path);
    return status;
}

/* ---- writing ---- */

static json_t *file_to_json(const app_pull_file *file) {
    bool sha256 = file->sha256[0] != 0;
    return json_pack("{s:s, s:I, s:s, s:b, s:b, s:b}", "path", file->path, "size", (json_int_t)file->size,
                     sha256 ? "sha256" : "git_sha1", sha256 ? file->sha256 : file->git_sha1, "done", file->done, "ours", file->ours,
                     "wanted", file->wanted);
}

static char *record_to_text(const app_pull_record *record) {
    json_t *files = json_array();
    for (size_t i = 0; i < record->n_files; i++)
        if (json_array_append_new(files, file_to_json(&record->files[i])) != 0) {
            json_decref(files);
            return NULL;
        }
    json_t *root = json_pack("{s:i, s:s, s:s, s:s, s:I, s:o}", "format", PULL_FORMAT, "repo", record->repo, "revision",
                             record->revision, "commit", record->commit, "needed", (json_int_t)record->n_needed, "files", files);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return text;
}

/* Content first, then the name: a power cut leaves the old record or the new one. */
static bool write_and_rename(const char *text, const char *temporary, const char *path) {
    size_t size = strlen(text);
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor < 0) return false;
    ssize_t written = write(descriptor, text, size);
    bool complete = written == (ssize_t)size && fsync(descriptor) == 0;
    if (written >= 0 && written < (ssize_t)size) errno = ENOSPC; /* a regular file takes less only when there is no room */
    int reason = errno;
    complete = close(descriptor) == 0 && complete && rename(temporary, path) == 0;
    if (!complete) {
        if (reason) errno = reason;
        reason = errno;
        unlink(temporary);
        errno = reason;
    }
    return complete;
}

ink_status app_pull_record_save(const app_pull_record *record, const char *dir, ink_error *error) {
    char *text = record_to_text(record), *path = app_format("%s/" APP_PULL_RECORD_NAME, dir);
    char *temporary = app_format("%s/" APP_PULL_RECORD_NAME "%s", dir, partial_suffix);
    ink_status status = INK_OK;
    errno = 0;
    if (!text || !path || !temporary)
        status = app_fail_memory(error, "the record of a pull");
    else if (!write_and_rename(text, temporary, path))
        status = app_fail(error, INK_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
    free(temporary);
    free(path);
    free(text);
    return status;
}
