/*
 * hub_client.h - one request to the hub, what an answer's header says, and what to do about an answer that is not the wanted one.
 * Redirects are followed by hand: so the token goes to the hub alone, and never from an encrypted address to a plain one.
 */
#ifndef APP_HUB_HUB_CLIENT_H
#define APP_HUB_HUB_CLIENT_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hub/hub_endpoint.h"

/* Redirects of one request. */
enum { HUB_MOST_HOPS = 10 };

typedef struct hub_client {
    hub_endpoint endpoint;
    const char *repo, *revision;                    /* for sentences */
    int64_t tries;                                  /* attempts in a row that may bring nothing new */
    int64_t timeout_seconds;                        /* of silence */
    int (*stopped)(void *user);                     /* non-zero: give up, as soon as that can be done */
    void (*note)(void *user, const char *sentence); /* says why it takes longer; may be NULL */
    void *user;
    double not_before;      /* clock: the hub asked everybody to wait until then */
    int64_t received_bytes; /* of files, whether or not they were kept */
} hub_client;

/* Seconds of a clock that only goes forward. */
double hub_clock(void);

/* ---- the range that an answer covers ---- */

typedef struct hub_range {
    bool given;
    int64_t first, last; /* bytes, both counted in */
    int64_t total;       /* of the whole file; -1: not told */
} hub_range;

/* Takes one header line (foreign, any bytes). A range that is none leaves given false. A status line forgets what was before. */
void hub_range_read_header(hub_range *range, const char *line, size_t size);

/* ---- requests ---- */

/*
 * A request for url from byte first on (0: all of it). The token goes along where it may. range (may be NULL) is filled from
 * the answer; what is written goes to write. NULL when memory is out. Release with hub_request_destroy.
 */
typedef struct hub_request {
    CURL *easy;
    struct curl_slist *headers;
} hub_request;

bool hub_request_create(hub_request *request, const hub_client *client, const char *url, int64_t first, hub_range *range,
                        curl_write_callback write, void *user);
void hub_request_destroy(hub_request *request);

typedef enum hub_verdict {
    HUB_GOOD,     /* status 200 or 206, received to its end */
    HUB_REDIRECT, /* to hub_request_target */
    HUB_RETRY,    /* it may be better next time */
    HUB_HOPELESS
} hub_verdict;

/* Judges an ended request for what ("model.safetensors"). error gets the sentence for HUB_RETRY and HUB_HOPELESS. */
hub_verdict hub_judge(const hub_client *client, const hub_request *request, CURLcode code, const char *what, ink_error *error);

/* Where a redirect leads, released with free. Errors: FORMAT (nowhere, or where it may not), MEMORY. */
ink_status hub_request_target(const hub_client *client, const hub_request *request, char **url, ink_error *error);

/*
 * Seconds to wait after a failed request: what the answer asks for, else longer with every try in vain, and never the same, so
 * that many who were cut off together do not come back together.
 */
double hub_retry_delay(const hub_request *request, int64_t tries_in_vain);

/* Whether that is longer than anybody waits; error then gets the sentence. */
bool hub_waits_too_long(double delay_seconds, const char *what, ink_error *error);

/* ---- small texts ---- */

/* GET with redirects and retries. *text is released with free. Errors: IO, FORMAT, MEMORY, CANCELLED. */
ink_status hub_get_text(hub_client *client, const char *url, const char *what, char **text, size_t *size, ink_error *error);

#endif
