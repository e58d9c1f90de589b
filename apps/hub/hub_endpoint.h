/*
 * hub_endpoint.h - where the hub is, who asks, and the addresses of its answers. Nothing here opens a connection.
 */
#ifndef APP_HUB_HUB_ENDPOINT_H
#define APP_HUB_HUB_ENDPOINT_H

#include <stdbool.h>

#include "common/failure.h"

typedef struct hub_endpoint {
    char *url;     /* "https://huggingface.co", without a slash at the end */
    char *token;   /* NULL: nobody */
    bool https;    /* then every redirect must be https too */
    bool loopback; /* of this machine: the only one that a token is sent to without encryption */
} hub_endpoint;

/*
 * $HF_ENDPOINT, else the public hub; the token from $HF_TOKEN, $HUGGING_FACE_HUB_TOKEN, $HF_TOKEN_PATH or $HF_HOME/token.
 * Release with hub_endpoint_clear. Errors: ARGUMENT (an address or a token that is none), MEMORY.
 */
ink_status hub_endpoint_find(hub_endpoint *endpoint, ink_error *error);
void hub_endpoint_clear(hub_endpoint *endpoint);

/* Released with free; NULL when memory is out. Every character that has a meaning in an address is escaped. */
char *hub_listing_url(const hub_endpoint *endpoint, const char *repo, const char *revision);
char *hub_file_url(const hub_endpoint *endpoint, const char *repo, const char *commit, const char *path);

/* Whether url has the scheme, host and port of the endpoint: what a token may be sent to. */
bool hub_is_endpoint(const hub_endpoint *endpoint, const char *url);

/* Whether a redirect to url may be followed: http or https, and not from https to http. */
bool hub_may_follow(const hub_endpoint *endpoint, const char *url);

#endif
