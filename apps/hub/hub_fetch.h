/*
 * hub_fetch.h - one file on its way: NAME.partial grows by ranges, over any number of cuts, and becomes NAME when its size and
 * its hash are right. A fetch never waits: its owner drives many of them from one loop.
 */
#ifndef APP_HUB_HUB_FETCH_H
#define APP_HUB_HUB_FETCH_H

#include <sys/stat.h>

#include "common/pull_record.h"
#include "hub/hub_client.h"
#include "hub/hub_digest.h"

#define HUB_PARTIAL_SUFFIX ".partial"

typedef enum hub_phase {
    HUB_CHECK_FINAL = 0, /* hashing a file that already has the name */
    HUB_CHECK_PARTIAL,   /* hashing what an earlier run left */
    HUB_WAIT,            /* ready for a request, at not_before */
    HUB_LOAD,            /* a request runs */
    HUB_DONE,            /* the file has its name; file->done */
    HUB_FAILED           /* error says why; what is there stays for the next run */
} hub_phase;

typedef struct hub_fetch {
    hub_client *client;
    app_pull_file *file;
    hub_phase phase;
    char *path, *partial;  /* of the file system */
    char *first_url, *url; /* of the hub, and where it redirected to */
    int descriptor;        /* of what is hashed or written */
    hub_digest *digest;
    int64_t have; /* bytes that are in the file and in the digest */
    int64_t best; /* most that there ever were, since the hash was wrong: more is progress */
    hub_request request;
    hub_range range;
    bool judged, accepted; /* whether the body of the running answer is known for what was asked for, and is */
    size_t page_bytes;     /* of the text that comes with an error or a redirect */
    int64_t tries_in_vain, wrong_hashes;
    int hops;
    double not_before;
    ink_error error;
} hub_fetch;

/* Whether what lies at path, info of stat, may be the file, or be replaced by it: its size is right, or a pull put it there. */
ink_status hub_fetch_check_place(const app_pull_file *file, const char *path, const struct stat *info, ink_error *error);

/* Looks at what is there. fetch need not be zeroed; it ends in any phase. Folders are made. */
void hub_fetch_open(hub_fetch *fetch, hub_client *client, app_pull_file *file, const char *dir, const char *commit);

/* In a HUB_CHECK phase: hashes the next piece. */
void hub_fetch_check(hub_fetch *fetch);

/* In HUB_WAIT, when the time has come: adds the request to multi. */
void hub_fetch_start(hub_fetch *fetch, CURLM *multi);

/* In HUB_LOAD, when the request has ended. */
void hub_fetch_end(hub_fetch *fetch, CURLM *multi, CURLcode code);

/* Stops in any phase and keeps what is there. Accepts a zeroed fetch. */
void hub_fetch_close(hub_fetch *fetch, CURLM *multi);

#endif
