/* hub_endpoint.c - the hub's address, the token, and addresses made from them. */
#define _POSIX_C_SOURCE 200809L
#include "hub/hub_endpoint.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model_store.h"
#include "common/text_format.h"

static const char public_hub[] = "https://huggingface.co";

/* ---- parts of addresses ---- */

/* One part of an address, released with curl_free; NULL when it has none. */
static char *url_part(const char *url, CURLUPart part) {
    CURLU *parsed = curl_url();
    char *value = NULL;
    if (parsed && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK) curl_url_get(parsed, part, &value, CURLU_DEFAULT_PORT);
    curl_url_cleanup(parsed);
    return value;
}

static bool same_part(const char *a, const char *b, CURLUPart part) {
    char *of_a = url_part(a, part), *of_b = url_part(b, part);
    bool same = of_a && of_b && curl_strequal(of_a, of_b);
    curl_free(of_a);
    curl_free(of_b);
    return same;
}

bool hub_is_endpoint(const hub_endpoint *endpoint, const char *url) {
    return same_part(endpoint->url, url, CURLUPART_SCHEME) && same_part(endpoint->url, url, CURLUPART_HOST) &&
           same_part(endpoint->url, url, CURLUPART_PORT);
}

static bool has_scheme(const char *url, const char *expected) {
    char *scheme = url_part(url, CURLUPART_SCHEME);
    bool has = scheme && curl_strequal(scheme, expected);
    curl_free(scheme);
    return has;
}

bool hub_may_follow(const hub_endpoint *endpoint, const char *url) {
    return has_scheme(url, "https") || (!endpoint->https && has_scheme(url, "http"));
}

static bool is_loopback(const char *url) {
    char *host = url_part(url, CURLUPART_HOST);
    bool is = host && (curl_strequal(host, "localhost") || strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0);
    curl_free(host);
    return is;
}

/* ---- finding them ---- */

static ink_status find_url(hub_endpoint *endpoint, ink_error *error) {
    const char *named = getenv("HF_ENDPOINT");
    endpoint->url = app_format("%s", named && *named ? named : public_hub);
    if (!endpoint->url) return app_fail_memory(error, "an address");
    for (size_t n = strlen(endpoint->url); n > 0 && endpoint->url[n - 1] == '/'; n--) endpoint->url[n - 1] = 0;
    endpoint->https = has_scheme(endpoint->url, "https");
    endpoint->loopback = is_loopback(endpoint->url);
    bool plain = strncmp(endpoint->url, "https://", 8) == 0 || strncmp(endpoint->url, "http://", 7) == 0;
    for (const unsigned char *c = (const unsigned char *)endpoint->url; *c; c++) plain = plain && *c > ' ' && *c < 0x7f;
    if (plain && !strpbrk(endpoint->url, "?#@\\") && (endpoint->https || has_scheme(endpoint->url, "http"))) return INK_OK;
    return app_fail(error, INK_ERROR_ARGUMENT, "HF_ENDPOINT is \"%.100s\"; expected an address such as %s", endpoint->url,
                    public_hub);
}

/* The first line of a file, or NULL. */
static char *read_line(char *path) {
    char line[1024] = "";
    FILE *file = path ? fopen(path, "rb") : NULL;
    free(path);
    if (!file) return NULL;
    bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    return read ? app_format("%s", line) : NULL;
}

static char *token_from_file(void) {
    const char *path = getenv("HF_TOKEN_PATH");
    if (path && *path) return read_line(app_format("%s", path));
    char *home = app_hub_home(), *token = home ? read_line(app_format("%s/token", home)) : NULL;
    free(home);
    return token;
}

static ink_status find_token(hub_endpoint *endpoint, ink_error *error) {
    const char *named = getenv("HF_TOKEN");
    if (!named || !*named) named = getenv("HUGGING_FACE_HUB_TOKEN");
    char *token = named && *named ? app_format("%s", named) : token_from_file();
    if (!token) return INK_OK;
    size_t n = strlen(token);
    while (n > 0 && strchr(" \t\r\n", token[n - 1])) token[--n] = 0;
    bool plain = true; /* it becomes a header line, which a line feed would end */
    for (size_t i = 0; i < n; i++) plain = plain && (unsigned char)token[i] > ' ' && (unsigned char)token[i] < 0x7f;
    if (n > 0 && plain) {
        endpoint->token = token;
        return INK_OK;
    }
    free(token);
    if (n == 0) return INK_OK;
    return app_fail(error, INK_ERROR_ARGUMENT, "the hub's token (HF_TOKEN, or the file of it) holds characters that no token has");
}

ink_status hub_endpoint_find(hub_endpoint *endpoint, ink_error *error) {
    *endpoint = (hub_endpoint){0};
    ink_status status = find_url(endpoint, error);
    if (status == INK_OK) status = find_token(endpoint, error);
    if (status != INK_OK) hub_endpoint_clear(endpoint);
    return status;
}

void hub_endpoint_clear(hub_endpoint *endpoint) {
    free(endpoint->url);
    free(endpoint->token);
    *endpoint = (hub_endpoint){0};
}

/* ---- addresses ---- */

/* Everything but letters, digits and "-._~" as %XX, and the slash as itself where it parts a path. */
static char *escape(const char *text, bool keep_slash) {
    static const char digits[] = "0123456789ABCDEF";
    char *escaped = malloc(3 * strlen(text) + 1), *out = escaped;
    for (const unsigned char *in = (const unsigned char *)text; escaped && *in; in++) {
        bool plain = (*in >= 'a' && *in <= 'z') || (*in >= 'A' && *in <= 'Z') || (*in >= '0' && *in <= '9') || strchr("-._~", *in);
        if (plain || (keep_slash && *in == '/')) {
            *out++ = (char)*in;
        } else {
            *out++ = '%';
            *out++ = digits[*in >> 4];
            *out++ = digits[*in & 15];
        }
    }
    if (escaped) *out = 0;
    return escaped;
}

char *hub_listing_url(const hub_endpoint *endpoint, const char *repo, const char *revision) {
    char *escaped = escape(revision, false); /* "refs/pr/1" is one part of the address */
    char *url = escaped ? app_format("%s/api/models/%s/revision/%s?blobs=true", endpoint->url, repo, escaped) : NULL;
    free(escaped);
    return url;
}

char *hub_file_url(const hub_endpoint *endpoint, const char *repo, const char *commit, const char *path) {
    char *escaped = escape(path, true);
    char *url = escaped ? app_format("%s/%s/resolve/%s/%s", endpoint->url, repo, commit, escaped) : NULL;
    free(escaped);
    return url;
}
