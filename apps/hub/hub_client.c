/* hub_client.c - requests by libcurl, and judging their answers. */
#define _GNU_SOURCE /* getrandom */
#include "hub/hub_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "common/text_format.h"

double hub_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- header lines ---- */

/* Digits at *text, before end, as a number of at most 2^62; -1 when there are none or too many. */
static int64_t read_number(const char **text, const char *end) {
    const int64_t most = INT64_C(1) << 62;
    int64_t number = 0;
    const char *start = *text;
    for (; *text < end && **text >= '0' && **text <= '9'; ++*text) {
        if (number > (most - 9) / 10) return -1;
        number = 10 * number + (**text - '0');
    }
    return *text > start ? number : -1;
}

static bool skip(const char **text, const char *end, char expected) {
    if (*text >= end || **text != expected) return false;
    ++*text;
    return true;
}

/* "5-9/10" or "5-9/ *" without the space. */
static void read_range(hub_range *range, const char *text, const char *end) {
    range->first = read_number(&text, end);
    if (range->first < 0 || !skip(&text, end, '-')) return;
    range->last = read_number(&text, end);
    if (range->last < range->first || !skip(&text, end, '/')) return;
    range->total = -1;
    if (!skip(&text, end, '*') && ((range->total = read_number(&text, end)) < 0 || range->last >= range->total)) return;
    while (text < end && (*text == ' ' || *text == '\r' || *text == '\n')) text++;
    range->given = text == end;
}

void hub_range_read_header(hub_range *range, const char *line, size_t size) {
    static const char name[] = "content-range:";
    const char *end = line + size, *text = line + sizeof name - 1;
    if (size >= 5 && memcmp(line, "HTTP/", 5) == 0) *range = (hub_range){0};
    if (size < sizeof name - 1 || strncasecmp(line, name, sizeof name - 1) != 0) return;
    while (text < end && *text == ' ') text++;
    range->given = false;
    if (end - text > 6 && strncasecmp(text, "bytes ", 6) == 0) read_range(range, text + 6, end);
}

static size_t take_header(char *line, size_t size, size_t count, void *user) {
    hub_range_read_header(user, line, size * count);
    return size * count;
}

/* ---- requests ---- */

static int check_stopped(void *user, curl_off_t total, curl_off_t now, curl_off_t upload_total, curl_off_t upload_now) {
    const hub_client *client = user;
    (void)total, (void)now, (void)upload_total, (void)upload_now;
    return client->stopped(client->user);
}

static bool add_header(struct curl_slist **headers, char *line) {
    struct curl_slist *longer = line ? curl_slist_append(*headers, line) : NULL;
    free(line);
    if (longer) *headers = longer;
    return longer != NULL;
}

static bool set_headers(hub_request *request, const hub_client *client, const char *url) {
    const hub_endpoint *endpoint = &client->endpoint;
    /* A compressed answer would make nonsense of sizes and ranges. */
    bool set = add_header(&request->headers, app_format("Accept-Encoding: identity"));
    if (endpoint->token && (endpoint->https || endpoint->loopback) && hub_is_endpoint(endpoint, url))
        set = set && add_header(&request->headers, app_format("Authorization: Bearer %s", endpoint->token));
    return set && curl_easy_setopt(request->easy, CURLOPT_HTTPHEADER, request->headers) == CURLE_OK;
}

bool hub_request_create(hub_request *request, const hub_client *client, const char *url, int64_t first, hub_range *range,
                        curl_write_callback write, void *user) {
    char from[32];
    CURL *easy = curl_easy_init();
    *request = (hub_request){.easy = easy};
    if (!easy) return false;
    snprintf(from, sizeof from, "%" PRId64 "-", first);
    bool set = curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, client->endpoint.https ? "https" : "http,https") == CURLE_OK &&
               (first == 0 || curl_easy_setopt(easy, CURLOPT_RANGE, from) == CURLE_OK) && set_headers(request, client, url);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "inkstone");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* one connection for each large file */
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 512L * 1024);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)client->timeout_seconds);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)client->timeout_seconds);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, write);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, user);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, check_stopped);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, client);
    if (range) {
        *range = (hub_range){0};
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, range);
    }
    if (!set) hub_request_destroy(request);
    return set;
}

void hub_request_destroy(hub_request *request) {
    curl_easy_cleanup(request->easy);
    curl_slist_free_all(request->headers);
    *request = (hub_request){0};
}

/* ---- judging ---- */

static const char *host_of(const hub_request *request, char host[100]) {
    char *url = NULL;
    curl_easy_getinfo(request->easy, CURLINFO_EFFECTIVE_URL, &url);
    const char *start = url ? strstr(url, "://") : NULL;
    start = start ? start + 3 : "";
    snprintf(host, 100, "%.*s", (int)(strcspn(start, "/?") < 90 ? strcspn(start, "/?") : 90), start);
    return host;
}

static bool asks_the_hub(const hub_client *client, const hub_request *request) {
    char *url = NULL;
    curl_easy_getinfo(request->easy, CURLINFO_EFFECTIVE_URL, &url);
    return url && hub_is_endpoint(&client->endpoint, url);
}

static hub_verdict judge_failure(const hub_request *request, CURLcode code, const char *what, ink_error *error) {
    char host[100];
    host_of(request, host);
    switch (code) {
    case CURLE_OUT_OF_MEMORY: app_fail_memory(error, "a request"); return HUB_HOPELESS;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CIPHER:
        app_fail(error, INK_ERROR_IO, "%s: cannot talk to %s: %s", what, host, curl_easy_strerror(code));
        return HUB_HOPELESS;
    case CURLE_OPERATION_TIMEDOUT: app_fail(error, INK_ERROR_IO, "%s: %s fell silent", what, host); return HUB_RETRY;
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING: app_fail(error, INK_ERROR_IO, "%s: the connection to %s broke", what, host); return HUB_RETRY;
    default: app_fail(error, INK_ERROR_IO, "%s: %s: %s", what, host, curl_easy_strerror(code)); return HUB_RETRY;
    }
}

static hub_verdict refuse_access(const hub_client *client, long status, const char *what, ink_error *error) {
    const hub_endpoint *endpoint = &client->endpoint;
    bool sent = endpoint->token && (endpoint->https || endpoint->loopback);
    if (endpoint->token && !sent)
        app_fail(error, INK_ERROR_IO,
                 "%s: the hub refuses access (%ld), and the token was not sent because HF_ENDPOINT is not https", what, status);
    else
        app_fail(error, INK_ERROR_IO,
                 "%s: the hub refuses access (%ld): %s. A gated model also wants its licence accepted, on %s/%s", what, status,
                 sent ? "the token is wrong or has no right to it"
                      : "there is no such repository, or it takes a token: set HF_TOKEN",
                 endpoint->url, client->repo);
    return HUB_HOPELESS;
}

static hub_verdict judge_status(const hub_client *client, const hub_request *request, long status, const char *what,
                                ink_error *error) {
    char host[100];
    bool hub = asks_the_hub(client, request), hurried = status == 408 || status == 425 || status == 429;
    host_of(request, host);
    if (hub && (status == 401 || status == 403)) return refuse_access(client, status, what, error);
    if (hub && (status == 404 || status == 410)) {
        app_fail(error, INK_ERROR_IO, "%s: not found (%ld): %s has no %s with revision %s, or it lacks this", what, status,
                 client->endpoint.url, client->repo, client->revision);
        return HUB_HOPELESS;
    }
    app_fail(error, INK_ERROR_IO, "%s: %s answers %ld%s", what, host, status, status == 429 ? " (too many requests)" : "");
    /* Addresses that the hub hands out go stale, whatever the other host then says; the next try gets a new one. */
    return !hub || hurried || status == 416 || status >= 500 ? HUB_RETRY : HUB_HOPELESS;
}

hub_verdict hub_judge(const hub_client *client, const hub_request *request, CURLcode code, const char *what, ink_error *error) {
    long status = 0;
    curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
    bool redirect = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
    if (redirect && code == CURLE_OK) return HUB_REDIRECT; /* of one that was cut libcurl does not tell where it leads */
    if (status != 0 && status != 200 && status != 206 && !redirect) return judge_status(client, request, status, what, error);
    return code == CURLE_OK ? HUB_GOOD : judge_failure(request, code, what, error);
}

ink_status hub_request_target(const hub_client *client, const hub_request *request, char **url, ink_error *error) {
    char *target = NULL, host[100];
    *url = NULL;
    curl_easy_getinfo(request->easy, CURLINFO_REDIRECT_URL, &target);
    if (!target) return app_fail(error, INK_ERROR_FORMAT, "%s redirects to nowhere", host_of(request, host));
    if (!hub_may_follow(&client->endpoint, target))
        return app_fail(error, INK_ERROR_FORMAT, "%s redirects to \"%.200s\", which is not to be trusted", host_of(request, host),
                        target);
    *url = app_format("%s", target);
    return *url ? INK_OK : app_fail_memory(error, "an address");
}

bool hub_waits_too_long(double delay_seconds, const char *what, ink_error *error) {
    if (delay_seconds <= 15 * 60) return false;
    app_fail(error, INK_ERROR_IO, "%s: the server asks to come back in %.0f minutes", what, delay_seconds / 60);
    return true;
}

double hub_retry_delay(const hub_request *request, int64_t tries_in_vain) {
    enum { LONGEST_DOUBLING = 6 }; /* 32 seconds */
    curl_off_t asked = 0;
    uint16_t drawn = 0;
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn) drawn = (uint16_t)(1e6 * hub_clock());
    double jitter = 0.5 + 0.5 * drawn / UINT16_MAX;
    curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &asked);
    if (asked > 0) return (double)asked + 0.2 * jitter;
    if (tries_in_vain <= 0) return 0.1 * jitter; /* it got on: a cut and no more */
    return jitter * 0.5 * (double)(1 << (tries_in_vain < LONGEST_DOUBLING ? tries_in_vain : LONGEST_DOUBLING));
}

/* ---- small texts ---- */

typedef struct growing_text {
    char *bytes;
    size_t size;
    bool no_room;
} growing_text;

static size_t append_text(char *bytes, size_t size, size_t count, void *user) {
    enum { MOST = 16 << 20 };
    growing_text *text = user;
    size_t n = size * count;
    char *longer = n <= MOST - text->size ? realloc(text->bytes, text->size + n + 1) : NULL;
    if (!longer) {
        text->no_room = true;
        return 0;
    }
    memcpy(longer + text->size, bytes, n);
    text->bytes = longer;
    text->size += n;
    return n;
}

/* Sleeps in small pieces; false when the user wants to stop. */
static bool wait_until(const hub_client *client, double then) {
    while (hub_clock() < then && !client->stopped(client->user)) nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
    return !client->stopped(client->user);
}

/* One request; *url becomes the target of a redirect. */
static hub_verdict ask_once(hub_client *client, char **url, const char *what, growing_text *text, double *delay, int64_t tries,
                            ink_error *error) {
    hub_request request;
    if (!hub_request_create(&request, client, *url, 0, NULL, append_text, text)) {
        app_fail_memory(error, "a request");
        return HUB_HOPELESS;
    }
    CURLcode code = curl_easy_perform(request.easy);
    hub_verdict verdict = hub_judge(client, &request, code, what, error);
    if (text->no_room) {
        app_fail(error, INK_ERROR_FORMAT, "%s: the answer is too long", what);
        verdict = HUB_HOPELESS;
    }
    *delay = hub_retry_delay(&request, tries);
    if (verdict == HUB_REDIRECT) {
        char *target;
        if (hub_request_target(client, &request, &target, error) == INK_OK) {
            free(*url);
            *url = target;
        } else {
            verdict = HUB_HOPELESS;
        }
    }
    hub_request_destroy(&request);
    return verdict;
}

/* From the first address to an answer, or to the end of a chain that leads nowhere. */
static hub_verdict ask_through_redirects(hub_client *client, const char *first_url, const char *what, growing_text *text,
                                         double *delay, int64_t tries, ink_error *error) {
    char *url = app_format("%s", first_url);
    hub_verdict verdict = HUB_REDIRECT;
    for (int hop = 0; url && verdict == HUB_REDIRECT && hop <= HUB_MOST_HOPS; hop++) {
        text->size = 0;
        verdict = ask_once(client, &url, what, text, delay, tries, error);
    }
    if (verdict == HUB_REDIRECT) {
        app_fail(error, INK_ERROR_FORMAT, "%s: redirected too often", what);
        verdict = HUB_HOPELESS;
    }
    free(url);
    return verdict;
}

ink_status hub_get_text(hub_client *client, const char *url, const char *what, char **text, size_t *size, ink_error *error) {
    growing_text answer = {0};
    hub_verdict verdict = HUB_RETRY;
    double delay = 0;
    *text = NULL;
    for (int64_t tries = 1; verdict == HUB_RETRY && tries <= client->tries; tries++) {
        verdict = ask_through_redirects(client, url, what, &answer, &delay, tries, error);
        if (client->stopped(client->user)) break;
        if (verdict != HUB_RETRY || tries == client->tries) continue;
        if (hub_waits_too_long(delay, what, error)) break;
        if (client->note && delay >= 1) client->note(client->user, error->message);
        if (!wait_until(client, hub_clock() + delay)) break;
    }
    if (client->stopped(client->user)) verdict = HUB_HOPELESS, app_fail(error, INK_ERROR_CANCELLED, "interrupted");
    if (verdict == HUB_GOOD && answer.bytes) {
        answer.bytes[answer.size] = 0;
        *text = answer.bytes;
        *size = answer.size;
        return INK_OK;
    }
    free(answer.bytes);
    return verdict == HUB_GOOD ? app_fail(error, INK_ERROR_FORMAT, "%s: the answer is empty", what) : error->status;
}
