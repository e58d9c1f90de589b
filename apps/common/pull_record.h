/*
 * pull_record.h - inkstone-pull.json, which lies in every folder that `inkstone pull` fills: where the files come from, what
 * each must be, and which are there. It makes a second pull cheap, and a half-loaded model known as such.
 */
#ifndef APP_COMMON_PULL_RECORD_H
#define APP_COMMON_PULL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/failure.h"

#define APP_PULL_RECORD_NAME "inkstone-pull.json"

typedef struct app_pull_file {
    char *path; /* relative to the folder, parted by '/', safe by app_pull_path_is_safe */
    int64_t size;
    char sha256[65];   /* of the content, in lower-case hex digits; empty where only git's hash is known */
    char git_sha1[41]; /* of "blob SIZE", a zero byte and the content; empty where sha256 is known */
    bool done;         /* was checked and has its name */
    bool ours;         /* what now has the name, if anything, was put there by a pull and may be replaced */
    bool wanted;       /* false: of an older revision, to be removed when the newer one is complete */
} app_pull_file;

typedef struct app_pull_record {
    char *repo;      /* "Qwen/Qwen-Image-2512" */
    char *revision;  /* as asked for: "main" */
    char commit[65]; /* hex digits */
    size_t n_needed; /* files that the pipeline needs of this commit; more than are wanted after --only */
    app_pull_file *files;
    size_t n_files;
} app_pull_record;

/* Whether a file of a foreign list may be made below a folder: relative, no "." or "..", nothing that a shell or a terminal
 * would take for something else, no name that a pull uses itself. */
bool app_pull_path_is_safe(const char *path);

/* Whether text has least..most characters and all are lower-case hex digits. */
bool app_is_hex(const char *text, size_t least, size_t most);

/* "Org/Name" as the hub allows it. */
bool app_repo_is_valid(const char *repo);

/* The part after the slash, in lower case: "qwen-image-2512". Released with free; NULL when memory is out. */
char *app_repo_short_name(const char *repo);

/* Foreign text: everything is checked. Release with app_pull_record_clear. Errors: FORMAT, MEMORY. */
ink_status app_pull_record_parse(app_pull_record *record, const char *text, size_t size, const char *origin, ink_error *error);

/* Reads DIR/inkstone-pull.json. Without one, record->repo stays NULL and the call succeeds. Errors: IO, FORMAT, MEMORY. */
ink_status app_pull_record_load(app_pull_record *record, const char *dir, ink_error *error);

/* Writes it so that there is always a whole one, whenever the program ends. Errors: IO, MEMORY. */
ink_status app_pull_record_save(const app_pull_record *record, const char *dir, ink_error *error);

/* The entry of a path, or NULL. */
app_pull_file *app_pull_record_find(const app_pull_record *record, const char *path);

/* Whether two entries name the same content. */
bool app_pull_same_content(const app_pull_file *a, const app_pull_file *b);

/* Wanted files that are not done, or no longer there with their size. */
size_t app_pull_record_missing(const app_pull_record *record, const char *dir);

/* Accepts a zeroed record. */
void app_pull_record_clear(app_pull_record *record);

/* Releases a list of n files. */
void app_pull_files_free(app_pull_file *files, size_t n);

#endif
