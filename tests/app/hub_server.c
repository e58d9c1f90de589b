/*
 * hub_server.c - a hub on 127.0.0.1 that lies, stalls and cuts, for test_pull*.sh. Its files hold pseudo-random bytes, made as
 * they are sent. It prints its port and serves until it is killed.
 *
 *   --file "PATH SIZE lfs|git SEED"      a file of the repository, whose hash is listed as the hub lists it
 *   --rule "GLOB ACTION [ARG [TIMES]]"   what happens to requests whose path matches, the first TIMES (1) of them; -1: all
 *   --commit HEX   --token TEXT          what the listing says; without this token requests are answered 401
 *   --log FILE     --seed NUMBER         one line for every request; where cuts and wrong bytes fall
 *
 * Actions, of which one happens to a request:
 *   cut N        breaks off after 1..N bytes of the body        slow N       sends N bytes a second
 *   stall N      falls silent after N bytes                     flip         one byte of the body is wrong
 *   status N     answers with status N, 429 and 503 with Retry-After: 1
 *   later N      answers 503 with Retry-After: N
 *   noranges     answers a range with the whole file            norange      answers a part without saying which
 *   shift N      sends and says a range N bytes later           total N      says that the file is N bytes longer
 *   longer N     promises and sends N bytes more                shorter N    promises and sends N bytes fewer
 *   promise N    promises N bytes more, and does not send them  extra N      promises nothing and sends N bytes more
 *   page         a page of a hotel's network                    garbage      an answer that is no JSON
 *   redirect X   cdn: the same file of another host; loop: to itself; else the address X
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FILES = 32, MOST_RULES = 32, CHUNK = 1 << 16, TEXT = 1 << 14 };

typedef struct served_file {
    char path[256];
    int64_t size;
    uint64_t seed;
    bool lfs;
    char hash[65];
} served_file;

typedef struct rule {
    char glob[256], action[32], argument[256];
    int64_t number; /* of the argument */
    atomic_int left;
} rule;

static served_file files[MOST_FILES];
static int n_files;
static rule rules[MOST_RULES];
static int n_rules;
static const char *commit = "0123456789abcdef0123456789abcdef01234567", *token;
static FILE *request_log;
static int port;
static _Atomic uint64_t random_state = 1;

static void die(const char *why) {
    fprintf(stderr, "hub_server: %s\n", why);
    exit(1);
}

/* ---- bytes ---- */

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static int64_t draw(int64_t below) {
    uint64_t state = atomic_fetch_add(&random_state, UINT64_C(0x9e3779b97f4a7c15));
    return below > 0 ? (int64_t)(mix(state) % (uint64_t)below) : 0;
}

/* Bytes [first, first + n) of a file; it goes on behind its end. */
static void make_bytes(const served_file *file, int64_t first, unsigned char *bytes, size_t n) {
    for (size_t i = 0; i < n;) {
        uint64_t at = (uint64_t)first + i, word = mix(file->seed * UINT64_C(0x9e3779b97f4a7c15) + at / 8);
        for (size_t j = at % 8; j < 8 && i < n; j++, i++) bytes[i] = (unsigned char)(word >> (8 * j));
    }
}

static void hash_file(served_file *file) {
    unsigned char bytes[CHUNK], digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    char header[40];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_DigestInit_ex(context, file->lfs ? EVP_sha256() : EVP_sha1(), NULL);
    int length = snprintf(header, sizeof header, "blob %" PRId64, file->size);
    if (!file->lfs) EVP_DigestUpdate(context, header, (size_t)length + 1);
    /* A size that no disk has is for the test of the disk; nobody asks for its bytes. */
    for (int64_t at = 0; at < file->size && file->size < INT64_C(1) << 40; at += CHUNK) {
        size_t n = file->size - at < CHUNK ? (size_t)(file->size - at) : CHUNK;
        make_bytes(file, at, bytes, n);
        EVP_DigestUpdate(context, bytes, n);
    }
    EVP_DigestFinal_ex(context, digest, &size);
    EVP_MD_CTX_free(context);
    for (unsigned i = 0; i < size; i++) snprintf(file->hash + 2 * i, 3, "%02x", digest[i]);
}

/* ---- sending ---- */

static bool send_all(int peer, const void *bytes, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t sent = send(peer, (const char *)bytes + done, n - done, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        done += (size_t)sent;
    }
    return true;
}

static void send_text(int peer, const char *format, ...) {
    char text[TEXT];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (n > 0) send_all(peer, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void send_status(int peer, int64_t status, int64_t later) {
    static const char body[] = "the body of an error";
    char line[48] = "";
    if (status == 429 || status == 503) snprintf(line, sizeof line, "Retry-After: %" PRId64 "\r\n", later);
    send_text(peer, "HTTP/1.1 %" PRId64 " Because\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status, line,
              sizeof body - 1, body);
}

static bool is(const rule *happens, const char *action) { return happens && strcmp(happens->action, action) == 0; }

static int64_t amount(const rule *happens, const char *action) { return is(happens, action) ? happens->number : 0; }

/* The peer hears a reset at times, and at times an end. */
static void break_off(int peer) {
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (draw(2)) setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

/* Until the peer has had enough. */
static void wait_for_end(int peer) {
    char byte;
    while (recv(peer, &byte, 1, 0) > 0) continue;
}

static void send_json(int peer, const char *json, size_t n, const rule *happens) {
    bool cut = is(happens, "cut"), stall = is(happens, "stall");
    send_text(peer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", n);
    send_all(peer, json, cut || stall ? n / 2 : n);
    if (cut) break_off(peer);
    if (stall) wait_for_end(peer);
}

static void send_body(int peer, const served_file *file, int64_t first, int64_t n, const rule *happens) {
    unsigned char bytes[CHUNK];
    int64_t until = is(happens, "cut") ? 1 + draw(happens->number) : is(happens, "stall") ? happens->number : n;
    int64_t wrong = is(happens, "flip") ? draw(n) : -1, piece = is(happens, "slow") ? happens->number / 50 : CHUNK;
    if (piece < 1) piece = 1;
    if (piece > CHUNK) piece = CHUNK;
    if (until > n) until = n;
    for (int64_t at = 0; at < until;) {
        int64_t size = until - at < piece ? until - at : piece;
        make_bytes(file, first + at, bytes, (size_t)size);
        if (wrong >= at && wrong < at + size) bytes[wrong - at] ^= 1;
        if (!send_all(peer, bytes, (size_t)size)) return;
        at += size;
        if (is(happens, "slow")) nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    }
    if (is(happens, "cut")) break_off(peer);
    if (is(happens, "stall")) wait_for_end(peer);
}

static void send_file(int peer, const served_file *file, int64_t first, const rule *happens) {
    char length[64] = "", range[96] = "";
    bool part = first > 0 && !is(happens, "noranges");
    if (first > file->size || (part && first == file->size)) {
        send_status(peer, 416, 0);
        return;
    }
    if (!part) first = 0;
    if (part && is(happens, "shift")) first += first + happens->number < file->size ? happens->number : 0;
    int64_t n = file->size - first + amount(happens, "longer") + amount(happens, "extra") - amount(happens, "shorter");
    if (n < 0) n = 0;
    if (!is(happens, "extra")) snprintf(length, sizeof length, "Content-Length: %" PRId64 "\r\n", n + amount(happens, "promise"));
    if (part && !is(happens, "norange"))
        snprintf(range, sizeof range, "Content-Range: bytes %" PRId64 "-%" PRId64 "/%" PRId64 "\r\n", first, file->size - 1,
                 file->size + amount(happens, "total"));
    send_text(peer, "HTTP/1.1 %s\r\n%s%sAccept-Ranges: bytes\r\nConnection: close\r\n\r\n", part ? "206 Partial Content" : "200 OK",
              length, range);
    send_body(peer, file, first, n, happens);
}

static void send_redirect(int peer, const char *path, const rule *happens) {
    const char *to = happens->argument, *below = strstr(path, "/resolve/");
    if (strcmp(to, "cdn") == 0)
        send_text(peer, "HTTP/1.1 302 Found\r\nLocation: http://localhost:%d/cdn%s\r\n", port, below ? below : path);
    else
        send_text(peer, "HTTP/1.1 307 Temporary Redirect\r\nLocation: %s\r\n", strcmp(to, "loop") == 0 ? path : to);
    send_text(peer, "Content-Length: 5\r\nConnection: close\r\n\r\nmoved");
}

/* ---- the hub ---- */

static void escape_json(char *out, size_t room, const char *text) {
    size_t n = 0;
    for (; *text && n + 8 < room; text++) {
        bool control = (unsigned char)*text < 0x20;
        if (control)
            n += (size_t)snprintf(out + n, room - n, "\\u%04x", (unsigned)*text);
        else
            n += (size_t)snprintf(out + n, room - n, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    }
    out[n] = 0;
}

static void send_listing(int peer, const rule *happens) {
    char *json = malloc(MOST_FILES * 2048);
    size_t n = 0, room = MOST_FILES * 2048;
    if (!json) return;
    n += (size_t)snprintf(json, room, "{\"id\": \"test\", \"sha\": \"%s\", \"siblings\": [", commit);
    for (int i = 0; i < n_files; i++) {
        const served_file *file = &files[i];
        char path[1024] = "";
        escape_json(path, sizeof path, file->path);
        n += (size_t)snprintf(json + n, room - n, "%s{\"rfilename\": \"%s\", \"size\": %" PRId64 ", \"blobId\": \"%.40s\"",
                              i ? ", " : "", path, file->size, file->hash);
        if (file->lfs)
            n += (size_t)snprintf(json + n, room - n,
                                  ", \"lfs\": {\"sha256\": \"%s\", \"size\": %" PRId64 ", \"pointerSize\": 135}", file->hash,
                                  file->size);
        n += (size_t)snprintf(json + n, room - n, "}");
    }
    n += (size_t)snprintf(json + n, room - n, "]}");
    send_json(peer, json, n, happens);
    free(json);
}

/* The file whose path ends the request's, behind the commit. */
static const served_file *find_file(const char *path) {
    char behind[64];
    snprintf(behind, sizeof behind, "/resolve/%s/", commit);
    const char *below = strstr(path, behind);
    for (int i = 0; below && i < n_files; i++)
        if (strcmp(below + strlen(behind), files[i].path) == 0) return &files[i];
    return NULL;
}

static rule *find_rule(const char *path) {
    for (int i = 0; i < n_rules; i++) {
        if (fnmatch(rules[i].glob, path, 0) != 0) continue;
        int left = atomic_load(&rules[i].left);
        while (left > 0 && !atomic_compare_exchange_weak(&rules[i].left, &left, left - 1)) continue;
        if (left != 0) return &rules[i];
    }
    return NULL;
}

static void answer(int peer, const char *path, int64_t first, bool allowed) {
    const rule *happens = find_rule(path);
    const served_file *file = find_file(path);
    if (is(happens, "status"))
        send_status(peer, happens->number, 1);
    else if (is(happens, "later"))
        send_status(peer, 503, happens->number);
    else if (is(happens, "redirect"))
        send_redirect(peer, path, happens);
    else if (is(happens, "page"))
        send_text(peer, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>log in!</html>");
    else if (is(happens, "garbage"))
        send_json(peer, "{\"sha\": [\377", 10, NULL);
    else if (!allowed)
        send_status(peer, 401, 0);
    else if (strncmp(path, "/api/models/test/", 17) == 0)
        send_listing(peer, happens);
    else if (file)
        send_file(peer, file, first, happens);
    else
        send_status(peer, 404, 0);
}

/* ---- connections ---- */

static void *serve(void *user) {
    int peer = *(int *)user;
    char request[8192], path[2048] = "", expected[300];
    size_t n = 0;
    free(user);
    request[0] = 0;
    while (n + 1 < sizeof request && !strstr(request, "\r\n\r\n")) {
        ssize_t got = recv(peer, request + n, sizeof request - 1 - n, 0);
        if (got <= 0) break;
        n += (size_t)got;
        request[n] = 0;
    }
    const char *range = strcasestr(request, "\r\nrange: bytes="), *who = strcasestr(request, "\r\nauthorization: ");
    int64_t first = range ? strtoll(range + 15, NULL, 10) : 0;
    if (sscanf(request, "GET %2047s", path) == 1) {
        snprintf(expected, sizeof expected, "\r\nauthorization: bearer %s\r\n", token ? token : "");
        bool known = strncmp(path, "/cdn/", 5) == 0 || !token || strcasestr(request, expected);
        const char *host = strcasestr(request, "\r\nhost: ");
        fprintf(request_log, "%s from=%" PRId64 " auth=%s host=%.*s\n", path, first, who ? "yes" : "no",
                host ? (int)strcspn(host + 8, ":\r") : 0, host ? host + 8 : "");
        fflush(request_log);
        answer(peer, path, first, known);
    }
    close(peer);
    return NULL;
}

static void read_file(const char *text) {
    served_file *file = &files[n_files++];
    char kind[8];
    if (n_files > MOST_FILES || sscanf(text, "%255s %" SCNd64 " %7s %" SCNu64, file->path, &file->size, kind, &file->seed) != 4)
        die("--file \"PATH SIZE lfs|git SEED\"");
    for (char *c = file->path; *c; c++)
        if (*c == '^') *c = '\n'; /* for names that no command line holds well */
    file->lfs = strcmp(kind, "lfs") == 0;
    hash_file(file);
}

static void read_rule(const char *text) {
    rule *added = &rules[n_rules++];
    int left = 1;
    if (n_rules > MOST_RULES || sscanf(text, "%255s %31s %255s %d", added->glob, added->action, added->argument, &left) < 2)
        die("--rule \"GLOB ACTION [ARG [TIMES]]\"");
    added->number = strtoll(added->argument, NULL, 10);
    atomic_store(&added->left, left);
}

static void read_options(int n, char **arguments) {
    request_log = stderr;
    for (int i = 1; i + 1 < n; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (strcmp(name, "--file") == 0)
            read_file(value);
        else if (strcmp(name, "--rule") == 0)
            read_rule(value);
        else if (strcmp(name, "--commit") == 0)
            commit = value;
        else if (strcmp(name, "--token") == 0)
            token = value;
        else if (strcmp(name, "--log") == 0)
            request_log = fopen(value, "w");
        else if (strcmp(name, "--seed") == 0)
            atomic_store(&random_state, strtoull(value, NULL, 10));
        else
            die("unknown option");
    }
    if (!request_log) die("the log cannot be written");
}

int main(int n, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed leaves no server */
    signal(SIGPIPE, SIG_IGN);
    read_options(n, arguments);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        die(strerror(errno));
    port = ntohs(address.sin_port);
    printf("%d\n", port);
    fflush(stdout);
    for (;;) {
        pthread_t thread;
        int *peer = malloc(sizeof *peer);
        if (!peer || (*peer = accept(listener, NULL, NULL)) < 0) {
            free(peer);
            continue;
        }
        if (pthread_create(&thread, NULL, serve, peer) == 0) {
            pthread_detach(thread);
        } else {
            close(*peer);
            free(peer);
        }
    }
}
