/*
 * hub_pull.h - a model from the hub into the models' folder: list, choose, check the disk, load several files at a time, check
 * each by its hash, and remember all of it in the record. What breaks off goes on with the next call.
 */
#ifndef APP_HUB_HUB_PULL_H
#define APP_HUB_HUB_PULL_H

#include "common/pull_record.h"

enum { HUB_MOST_JOBS = 32 };

typedef struct hub_pull_progress {
    int64_t done_bytes, total_bytes; /* of all wanted files, those from earlier runs too */
    double bytes_per_second;         /* of late; 0 when not known yet */
    bool checking;                   /* nothing arrives: what an earlier run left is being hashed */
} hub_pull_progress;

typedef struct hub_pull_options {
    const char *repo;        /* "Org/Name" */
    const char *revision;    /* a branch, a tag or a commit; NULL: main */
    const char *only;        /* pattern for the files to load, see hub_matches_pattern; NULL: all that are needed */
    int64_t jobs;            /* files at a time, 1..HUB_MOST_JOBS */
    int64_t tries;           /* attempts in a row that may bring nothing, at least 1 */
    int64_t timeout_seconds; /* of silence, at least 1 */
    bool dry_run;            /* look, and change nothing */
    int (*stopped)(void *user);
    void (*note)(void *user, const char *sentence);
    void (*progress)(void *user, const hub_pull_progress *progress);
    void *user;
} hub_pull_options;

typedef struct hub_pull_result {
    char *name;             /* what -m takes */
    char *dir;              /* where it lies */
    app_pull_record record; /* files that are not wanted are of an older revision */
    int64_t *have_bytes;    /* for each file of the record, when the call began */
    int64_t total_bytes;    /* of all wanted files */
    int64_t fetched_bytes;  /* that arrived in this call */
} hub_pull_result;

/*
 * *result is filled as far as the call came, on failure too; release it with hub_pull_result_clear.
 * Errors: ARGUMENT, IO, FORMAT, UNSUPPORTED, MEMORY, CANCELLED (options->stopped; everything that arrived is kept).
 */
ink_status hub_pull(hub_pull_result *result, const hub_pull_options *options, ink_error *error);
void hub_pull_result_clear(hub_pull_result *result);

#endif
