/* hub_fetch.c - the states of one file on its way. */
#define _XOPEN_SOURCE 700
#include "hub/hub_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/text_format.h"

static void fail_errno(hub_fetch *fetch, const char *verb, const char *path) {
    app_fail(&fetch->error, INK_ERROR_IO, "cannot %s %s: %s", verb, path, strerror(errno));
    fetch->phase = HUB_FAILED;
}

static void fail_memory(hub_fetch *fetch) {
    app_fail_memory(&fetch->error, "loading a file");
    fetch->phase = HUB_FAILED;
}

/* ---- files ---- */

/* mkdir -p for the folders of fetch->path below the model's. */
static bool make_folders(const hub_fetch *fetch, size_t dir_length) {
    char *path = app_format("%s", fetch->path);
    bool made = path != NULL;
    for (char *slash = path ? strchr(path + dir_length + 1, '/') : NULL; made && slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        made = mkdir(path, 0777) == 0 || errno == EEXIST;
        *slash = '/';
    }
    int reason = errno;
    free(path);
    errno = reason;
    return made;
}

static void close_file(hub_fetch *fetch) {
    if (fetch->descriptor >= 0) close(fetch->descriptor);
    fetch->descriptor = -1;
}

/* Empties the partial file and the digest. */
static bool start_over(hub_fetch *fetch) {
    fetch->have = 0;
    if (ftruncate(fetch->descriptor, 0) != 0) {
        fail_errno(fetch, "write", fetch->partial);
        return false;
    }
    if (hub_digest_restart(fetch->digest)) return true;
    fail_memory(fetch);
    return false;
}

static void open_partial(hub_fetch *fetch) {
    struct stat info;
    close_file(fetch);
    /* O_NOFOLLOW: nothing is written through a link that somebody put there. */
    fetch->descriptor = open(fetch->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fetch->descriptor < 0 || fstat(fetch->descriptor, &info) != 0) {
        fail_errno(fetch, "write", fetch->partial);
    } else if (!S_ISREG(info.st_mode)) {
        errno = EINVAL;
        fail_errno(fetch, "write", fetch->partial);
    } else if (info.st_size > fetch->file->size) {
        if (start_over(fetch)) fetch->phase = HUB_WAIT;
    } else if (!hub_digest_restart(fetch->digest)) {
        fail_memory(fetch);
    } else {
        fetch->have = 0;
        fetch->phase = HUB_CHECK_PARTIAL;
    }
}

/* So that the new name outlives a power cut. A file system that cannot do this is no reason to fail. */
static void sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? app_format("%.*s/.", (int)(slash - path), path) : NULL;
    int descriptor = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (descriptor >= 0) {
        fsync(descriptor);
        close(descriptor);
    }
    free(folder);
}

/* All bytes are there: to the name, or back to nothing. */
static void conclude(hub_fetch *fetch) {
    if (!hub_digest_matches(fetch->digest)) {
        fetch->best = 0;
        fetch->hops = 0;
        free(fetch->url); /* another server may have better bytes */
        fetch->url = NULL;
        if (!start_over(fetch)) return;
        if (fetch->wrong_hashes++ == 0) {
            fetch->phase = HUB_WAIT;
            return;
        }
        app_fail(&fetch->error, INK_ERROR_FORMAT,
                 "%s: the bytes that arrive do not have the hash that the hub lists, twice; nothing of them was kept",
                 fetch->file->path);
        unlink(fetch->partial);
        fetch->phase = HUB_FAILED;
        return;
    }
    if (fsync(fetch->descriptor) != 0) {
        fail_errno(fetch, "write", fetch->partial);
        return;
    }
    close_file(fetch);
    if (rename(fetch->partial, fetch->path) != 0) {
        fail_errno(fetch, "name", fetch->path);
        return;
    }
    sync_folder(fetch->path);
    fetch->file->done = fetch->file->ours = true;
    fetch->phase = HUB_DONE;
}

/* ---- what is there ---- */

ink_status hub_fetch_check_place(const app_pull_file *file, const char *path, const struct stat *info, ink_error *error) {
    if (S_ISREG(info->st_mode) && (file->ours || info->st_size == file->size)) return INK_OK;
    return app_fail(error, INK_ERROR_IO, "%s is in the way and was not put there by a pull; move it away", path);
}

/* A file that has the name already: one of the right size may be the right one; one that is not ours is nobody's to replace. */
static void look_at_final(hub_fetch *fetch) {
    struct stat info;
    if (stat(fetch->path, &info) != 0) {
        if (errno == ENOENT)
            open_partial(fetch);
        else
            fail_errno(fetch, "look at", fetch->path);
        return;
    }
    if (hub_fetch_check_place(fetch->file, fetch->path, &info, &fetch->error) != INK_OK) {
        fetch->phase = HUB_FAILED;
    } else if (info.st_size == fetch->file->size) {
        fetch->descriptor = open(fetch->path, O_RDONLY | O_CLOEXEC);
        fetch->phase = HUB_CHECK_FINAL;
        if (fetch->descriptor < 0) fail_errno(fetch, "read", fetch->path);
    } else {
        open_partial(fetch);
    }
}

void hub_fetch_open(hub_fetch *fetch, hub_client *client, app_pull_file *file, const char *dir, const char *commit) {
    *fetch = (hub_fetch){.client = client, .file = file, .descriptor = -1};
    fetch->path = app_format("%s/%s", dir, file->path);
    fetch->partial = app_format("%s/%s" HUB_PARTIAL_SUFFIX, dir, file->path);
    fetch->first_url = hub_file_url(&client->endpoint, client->repo, commit, file->path);
    fetch->digest = hub_digest_create(file);
    if (!fetch->path || !fetch->partial || !fetch->first_url || !fetch->digest)
        fail_memory(fetch);
    else if (!make_folders(fetch, strlen(dir)))
        fail_errno(fetch, "make the folder of", fetch->path);
    else
        look_at_final(fetch);
}

/* The whole file with the name was read. */
static void judge_final(hub_fetch *fetch) {
    if (hub_digest_matches(fetch->digest)) {
        fetch->file->done = fetch->file->ours = true;
        fetch->phase = HUB_DONE;
        close_file(fetch);
        unlink(fetch->partial); /* of a run that this file made needless */
    } else if (fetch->file->ours) {
        open_partial(fetch);
    } else {
        app_fail(&fetch->error, INK_ERROR_IO, "%s is another file than the hub's and was not put there by a pull; move it away",
                 fetch->path);
        fetch->phase = HUB_FAILED;
    }
}

void hub_fetch_check(hub_fetch *fetch) {
    enum { PIECE = 1 << 16, N_PIECES = 128 }; /* of 8 MiB together: some 10 ms, in which transfers may wait */
    char piece[PIECE];
    ssize_t n = 1;
    for (int i = 0; i < N_PIECES && n > 0; i++) {
        n = pread(fetch->descriptor, piece, sizeof piece, fetch->have);
        if (n > 0 && !hub_digest_add(fetch->digest, piece, (size_t)n)) {
            fail_memory(fetch);
            return;
        }
        if (n > 0) fetch->have += n;
    }
    if (n < 0) fail_errno(fetch, "read", fetch->phase == HUB_CHECK_FINAL ? fetch->path : fetch->partial);
    if (n != 0) return;
    fetch->best = fetch->have;
    if (fetch->phase == HUB_CHECK_FINAL)
        judge_final(fetch);
    else if (fetch->have == fetch->file->size)
        conclude(fetch);
    else
        fetch->phase = HUB_WAIT;
}

/* ---- receiving ---- */

static void refuse_body(hub_fetch *fetch, const char *why, int64_t found, int64_t expected) {
    app_fail(&fetch->error, INK_ERROR_FORMAT, "%s: the answer %s %" PRId64 ", expected %" PRId64, fetch->file->path, why, found,
             expected);
}

/*
 * At the first byte of a body: is this the rest that was asked for, or the whole file? An answer of any other length is another
 * file, such as the login page of a network, and must not get into the partial file.
 */
static bool accept_body(hub_fetch *fetch, long status) {
    curl_off_t length = -1;
    const hub_range *range = &fetch->range;
    int64_t size = fetch->file->size;
    curl_easy_getinfo(fetch->request.easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (status == 200) {
        if (length >= 0 && length != size) return refuse_body(fetch, "has a length of", length, size), false;
        return fetch->have == 0 || start_over(fetch); /* ranges are not known there */
    }
    if (!range->given) return refuse_body(fetch, "is a part and does not say which; from byte", -1, fetch->have), false;
    if (range->first != fetch->have) return refuse_body(fetch, "begins at byte", range->first, fetch->have), false;
    if (range->total >= 0 && range->total != size) return refuse_body(fetch, "is of a file of length", range->total, size), false;
    if (range->last >= size) return refuse_body(fetch, "ends at byte", range->last, size - 1), false;
    if (length >= 0 && length != range->last - range->first + 1)
        return refuse_body(fetch, "has a length of", length, range->last - range->first + 1), false;
    return true;
}

static bool write_all(hub_fetch *fetch, const char *bytes, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t written = pwrite(fetch->descriptor, bytes + done, n - done, fetch->have + (int64_t)done);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        done += (size_t)written;
    }
    return true;
}

static size_t receive(char *bytes, size_t size, size_t count, void *user) {
    enum { MOST_OF_A_PAGE = 1 << 20 };
    hub_fetch *fetch = user;
    size_t n = size * count, rest;
    long status = 0;
    curl_easy_getinfo(fetch->request.easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) { /* the page that comes with an error or a redirect */
        fetch->page_bytes += n;
        return fetch->page_bytes <= MOST_OF_A_PAGE ? n : 0;
    }
    if (!fetch->judged) fetch->accepted = accept_body(fetch, status);
    fetch->judged = true;
    if (!fetch->accepted || fetch->phase != HUB_LOAD) return 0;
    fetch->client->received_bytes += (int64_t)n;
    rest = (size_t)(fetch->file->size - fetch->have);
    size_t taken = n < rest ? n : rest;
    if (!write_all(fetch, bytes, taken)) {
        fail_errno(fetch, "write", fetch->partial);
        return 0;
    }
    if (!hub_digest_add(fetch->digest, bytes, taken)) {
        fail_memory(fetch);
        return 0;
    }
    fetch->have += (int64_t)taken;
    return taken; /* less than n ends a transfer that brings more than the file has; the hash then tells whether it was it */
}

void hub_fetch_start(hub_fetch *fetch, CURLM *multi) {
    if (fetch->have == fetch->file->size) { /* an empty file, or one whose last cut came after its last byte */
        conclude(fetch);
        return;
    }
    fetch->judged = fetch->accepted = false;
    fetch->page_bytes = 0;
    if (!hub_request_create(&fetch->request, fetch->client, fetch->url ? fetch->url : fetch->first_url, fetch->have, &fetch->range,
                            receive, fetch)) {
        fail_memory(fetch);
        return;
    }
    curl_easy_setopt(fetch->request.easy, CURLOPT_PRIVATE, fetch);
    fetch->phase = HUB_LOAD;
    if (curl_multi_add_handle(multi, fetch->request.easy) != CURLM_OK) {
        hub_request_destroy(&fetch->request);
        fail_memory(fetch);
    }
}

/* ---- after a request ---- */

static void follow(hub_fetch *fetch) {
    char *target = NULL;
    bool known = hub_request_target(fetch->client, &fetch->request, &target, &fetch->error) == INK_OK;
    free(fetch->url);
    fetch->url = target;
    fetch->phase = known ? HUB_WAIT : HUB_FAILED;
    if (known && ++fetch->hops > HUB_MOST_HOPS) {
        app_fail(&fetch->error, INK_ERROR_FORMAT, "%s: redirected too often", fetch->file->path);
        fetch->phase = HUB_FAILED;
    }
}

/* Back to the hub's own address, later; or no more when nothing has come for too long. */
static void retry(hub_fetch *fetch) {
    long status = 0;
    hub_client *client = fetch->client;
    curl_easy_getinfo(fetch->request.easy, CURLINFO_RESPONSE_CODE, &status);
    fetch->tries_in_vain = fetch->have > fetch->best ? 0 : fetch->tries_in_vain + 1;
    if (fetch->have > fetch->best) fetch->best = fetch->have;
    double delay = hub_retry_delay(&fetch->request, fetch->tries_in_vain), now = hub_clock();
    free(fetch->url);
    fetch->url = NULL;
    fetch->hops = 0;
    fetch->not_before = now + delay;
    fetch->phase = HUB_WAIT;
    /* The server knows of fewer bytes than there are here. */
    if (status == 416 && fetch->have > 0 && !start_over(fetch)) return;
    if (fetch->tries_in_vain >= client->tries || hub_waits_too_long(delay, fetch->file->path, &fetch->error)) {
        fetch->phase = HUB_FAILED;
        return;
    }
    if (status == 429 && fetch->not_before > client->not_before) client->not_before = fetch->not_before;
    if (client->note && delay >= 1) client->note(client->user, fetch->error.message);
}

void hub_fetch_end(hub_fetch *fetch, CURLM *multi, CURLcode code) {
    ink_error error;
    curl_multi_remove_handle(multi, fetch->request.easy);
    if (fetch->phase == HUB_LOAD && fetch->have == fetch->file->size) {
        conclude(fetch);
    } else if (fetch->phase == HUB_LOAD) {
        hub_verdict verdict = hub_judge(fetch->client, &fetch->request, code, fetch->file->path, &error);
        bool refused = fetch->judged && !fetch->accepted; /* and told why */
        if (verdict == HUB_GOOD) app_fail(&error, INK_ERROR_FORMAT, "%s: the answer ends before its time", fetch->file->path);
        if (verdict == HUB_REDIRECT) {
            follow(fetch);
        } else {
            if (!refused) fetch->error = error;
            if (verdict == HUB_HOPELESS)
                fetch->phase = HUB_FAILED;
            else
                retry(fetch);
        }
    }
    hub_request_destroy(&fetch->request);
}

void hub_fetch_close(hub_fetch *fetch, CURLM *multi) {
    if (!fetch->client) return;
    if (fetch->request.easy) curl_multi_remove_handle(multi, fetch->request.easy);
    hub_request_destroy(&fetch->request);
    close_file(fetch);
    hub_digest_destroy(&fetch->digest);
    free(fetch->path);
    free(fetch->partial);
    free(fetch->first_url);
    free(fetch->url);
    *fetch = (hub_fetch){0};
}
