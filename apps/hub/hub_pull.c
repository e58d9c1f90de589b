/* hub_pull.c - the plan of a pull and the loop that carries it out. */
#define _DEFAULT_SOURCE /* flock */
#define _POSIX_C_SOURCE 200809L
#include "hub/hub_pull.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/model_store.h"
#include "common/text_format.h"
#include "hub/hub_fetch.h"
#include "hub/hub_listing.h"

/* Left free on the disk, for the record and for whoever else writes there. */
static const int64_t spare_bytes = INT64_C(64) << 20;

typedef struct pull {
    const hub_pull_options *options;
    hub_pull_result *result;
    hub_client client;
    hub_listing listing;
    int lock; /* descriptor, or -1 */
    CURLM *multi;
    hub_fetch fetches[HUB_MOST_JOBS];
    size_t next; /* file of the record */
    int64_t rate_bytes;
    double rate_clock, rate;
} pull;

void hub_pull_result_clear(hub_pull_result *result) {
    app_pull_record_clear(&result->record);
    free(result->name);
    free(result->dir);
    free(result->have_bytes);
    *result = (hub_pull_result){0};
}

/* ---- the list of files ---- */

static ink_status fetch_listing(pull *run, ink_error *error) {
    hub_client *client = &run->client;
    char *url = hub_listing_url(&client->endpoint, client->repo, client->revision), *text = NULL;
    size_t size = 0;
    if (!url) return app_fail_memory(error, "an address");
    ink_status status = hub_get_text(client, url, client->repo, &text, &size, error);
    if (status == INK_OK) status = hub_listing_parse(&run->listing, text, size, client->repo, error);
    if (status == INK_OK) status = hub_listing_keep_needed(&run->listing, client->repo, error);
    free(text);
    free(url);
    return status;
}

/* ---- the folder ---- */

static ink_status make_dir(const char *dir, ink_error *error) {
    char *path = app_format("%s", dir);
    if (!path) return app_fail_memory(error, "a file name");
    bool made = true;
    for (char *slash = strchr(path + 1, '/'); made; slash = strchr(slash + 1, '/')) {
        if (slash) *slash = 0;
        made = mkdir(path, 0777) == 0 || errno == EEXIST;
        if (!slash) break;
        *slash = '/';
    }
    ink_status status = made ? INK_OK : app_fail(error, INK_ERROR_IO, "cannot make the folder %s: %s", dir, strerror(errno));
    free(path);
    return status;
}

/* The lock is the kernel's and ends with the process, however that ends; the number in the file is for the sentence only. */
static ink_status take_lock(pull *run, ink_error *error) {
    const char *dir = run->result->dir;
    char *path = app_format("%s/.inkstone-pull.lock", dir), text[24] = "";
    if (!path) return app_fail_memory(error, "a file name");
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    int reason = errno;
    bool locked = run->lock >= 0 && flock(run->lock, LOCK_EX | LOCK_NB) == 0;
    if (run->lock >= 0 && !locked) reason = errno;
    ink_status status = INK_OK;
    if (!locked && run->lock >= 0 && reason == EWOULDBLOCK) {
        int64_t process = 0;
        ssize_t n = pread(run->lock, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = 0;
        if (!app_parse_int(text, &process)) process = 0;
        status = app_fail(error, INK_ERROR_IO, "another pull (process %" PRId64 ") is loading into %s", process, dir);
    } else if (!locked) {
        status = app_fail(error, INK_ERROR_IO, "cannot lock %s: %s", path, strerror(reason));
    } else {
        int length = snprintf(text, sizeof text, "%ld", (long)getpid());
        if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, text, (size_t)length, 0) != length)
            status = app_fail(error, INK_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
    }
    free(path);
    return status;
}

/* ---- the plan ---- */

/* Adds one file to the plan, which has room; what earlier has told about the path is taken over. */
static ink_status plan_file(app_pull_record *plan, const app_pull_file *listed, const app_pull_file *earlier, ink_error *error) {
    app_pull_file *file = &plan->files[plan->n_files];
    *file = *listed;
    file->path = app_format("%s", listed->path);
    if (!file->path) return app_fail_memory(error, "the list of files");
    plan->n_files++;
    file->wanted = true;
    file->done = earlier && earlier->done && app_pull_same_content(earlier, listed);
    file->ours = earlier && (earlier->done || earlier->ours);
    return INK_OK;
}

/* Small files first: what is wrong with the access to a repository shows at once. */
static int compare_sizes(const void *a, const void *b) {
    const app_pull_file *x = a, *y = b;
    return x->size != y->size ? (x->size > y->size) - (x->size < y->size) : strcmp(x->path, y->path);
}

/*
 * The new record: files that are asked for, and those that an earlier pull brought, which must all be of one commit. Those that
 * the commit no longer has are kept as not wanted, so that they can be removed at the end.
 */
static ink_status make_plan(pull *run, const app_pull_record *earlier, ink_error *error) {
    app_pull_record *plan = &run->result->record;
    const hub_listing *listing = &run->listing;
    const char *only = run->options->only;
    bool any = false;
    plan->files = calloc(listing->n_files + earlier->n_files, sizeof *plan->files);
    plan->repo = app_format("%s", run->client.repo);
    plan->revision = app_format("%s", run->client.revision);
    if (!plan->files || !plan->repo || !plan->revision) return app_fail_memory(error, "the list of files");
    snprintf(plan->commit, sizeof plan->commit, "%s", listing->commit);
    plan->n_needed = listing->n_files;
    for (size_t i = 0; i < listing->n_files; i++) {
        const app_pull_file *listed = &listing->files[i], *known = app_pull_record_find(earlier, listed->path);
        bool chosen = !only || hub_matches_pattern(listed->path, only);
        any = any || chosen;
        if (!chosen && !(known && known->wanted)) continue;
        ink_status status = plan_file(plan, listed, known, error);
        if (status != INK_OK) return status;
    }
    if (!any)
        return app_fail(error, INK_ERROR_ARGUMENT, "--only %.60s: none of the %zu files of %s matches; --dry-run lists them", only,
                        listing->n_files, run->client.repo);
    for (size_t i = 0; i < earlier->n_files; i++) {
        const app_pull_file *known = &earlier->files[i];
        if (app_pull_record_find(plan, known->path)) continue;
        ink_status status = plan_file(plan, known, known, error);
        if (status != INK_OK) return status;
        plan->files[plan->n_files - 1].wanted = false;
    }
    qsort(plan->files, plan->n_files, sizeof *plan->files, compare_sizes);
    return INK_OK;
}

/* Bytes of the file or of its partial one. A file that is not there with its size is not done, whatever the record says. */
static int64_t look_at_file(app_pull_file *file, const char *dir) {
    struct stat info;
    int64_t have = 0;
    char *path = app_format("%s/%s", dir, file->path), *partial = app_format("%s/%s" HUB_PARTIAL_SUFFIX, dir, file->path);
    bool there = path && stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == file->size;
    file->done = file->done && there;
    if (there)
        have = file->size;
    else if (partial && lstat(partial, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= file->size)
        have = info.st_size;
    free(path);
    free(partial);
    return have;
}

/* Before anything is written: else a folder of somebody's own would count as a pull that is not complete. */
static ink_status check_place(const pull *run, ink_error *error) {
    const app_pull_record *plan = &run->result->record;
    ink_status status = INK_OK;
    for (size_t i = 0; status == INK_OK && i < plan->n_files; i++) {
        struct stat info;
        if (!plan->files[i].wanted) continue;
        char *path = app_format("%s/%s", run->result->dir, plan->files[i].path);
        if (!path)
            status = app_fail_memory(error, "a file name");
        else if (stat(path, &info) == 0)
            status = hub_fetch_check_place(&plan->files[i], path, &info, error);
        free(path);
    }
    return status;
}

static ink_status look_at_files(pull *run, ink_error *error) {
    hub_pull_result *result = run->result;
    app_pull_record *plan = &result->record;
    result->have_bytes = calloc(plan->n_files, sizeof *result->have_bytes);
    if (!result->have_bytes) return app_fail_memory(error, "the list of files");
    for (size_t i = 0; i < plan->n_files; i++) {
        if (!plan->files[i].wanted) continue;
        result->have_bytes[i] = look_at_file(&plan->files[i], result->dir);
        result->total_bytes += plan->files[i].size;
    }
    return INK_OK;
}

/* What an earlier pull left of another content than is now wanted under the name is of no use. */
static void drop_outdated_partials(pull *run, const app_pull_record *earlier) {
    const app_pull_record *plan = &run->result->record;
    for (size_t i = 0; i < plan->n_files; i++) {
        const app_pull_file *file = &plan->files[i], *known = app_pull_record_find(earlier, file->path);
        if (!known || (file->wanted && app_pull_same_content(file, known))) continue;
        char *partial = app_format("%s/%s" HUB_PARTIAL_SUFFIX, run->result->dir, file->path);
        if (partial) unlink(partial);
        free(partial);
    }
}

static ink_status plan_pull(pull *run, ink_error *error) {
    app_pull_record earlier = {0};
    ink_status status = app_pull_record_load(&earlier, run->result->dir, error);
    if (status == INK_OK && earlier.repo && strcmp(earlier.repo, run->client.repo) != 0)
        status = app_fail(error, INK_ERROR_IO, "%s holds %s already; move it away, or set INK_MODELS to another folder",
                          run->result->dir, earlier.repo);
    if (status == INK_OK) status = make_plan(run, &earlier, error);
    if (status == INK_OK) status = check_place(run, error);
    if (status == INK_OK && !run->options->dry_run) drop_outdated_partials(run, &earlier);
    if (status == INK_OK) status = look_at_files(run, error);
    app_pull_record_clear(&earlier);
    return status;
}

static ink_status check_disk(const pull *run, ink_error *error) {
    const hub_pull_result *result = run->result;
    char needed[APP_SHOWN_SIZE], has[APP_SHOWN_SIZE];
    struct statvfs disk;
    int64_t missing = result->total_bytes;
    for (size_t i = 0; i < result->record.n_files; i++) missing -= result->have_bytes[i];
    if (missing == 0 || statvfs(result->dir, &disk) != 0) return INK_OK; /* a system that does not tell will say it in time */
    double free_bytes = (double)disk.f_bavail * (double)disk.f_frsize;
    if ((double)missing + (double)spare_bytes <= free_bytes) return INK_OK;
    return app_fail(error, INK_ERROR_IO, "%s more are needed in %s, and %s are free there; INK_MODELS names another place",
                    app_show_bytes(needed, missing), result->dir,
                    app_show_bytes(has, free_bytes < 9e18 ? (int64_t)free_bytes : INT64_MAX));
}

/* ---- the loop ---- */

static void report_progress(pull *run) {
    const hub_pull_result *result = run->result;
    hub_pull_progress progress = {.total_bytes = result->total_bytes, .checking = true};
    double now = hub_clock(), passed = now - run->rate_clock;
    for (size_t i = 0; i < result->record.n_files; i++) {
        const app_pull_file *file = &result->record.files[i];
        if (!file->wanted) continue;
        progress.done_bytes += i >= run->next ? result->have_bytes[i] : file->done ? file->size : 0;
    }
    for (int64_t i = 0; i < run->options->jobs; i++) {
        const hub_fetch *fetch = &run->fetches[i];
        if (!fetch->client || fetch->phase == HUB_DONE) continue;
        bool checked = fetch->phase == HUB_CHECK_FINAL || fetch->phase == HUB_CHECK_PARTIAL;
        /* What is being checked counts as there: a bar that starts at nothing again would frighten. */
        progress.done_bytes += checked ? result->have_bytes[fetch->file - result->record.files] : fetch->have;
        progress.checking = progress.checking && checked;
    }
    if (passed >= 0.5) {
        double latest = (double)(run->client.received_bytes - run->rate_bytes) / passed;
        run->rate = run->rate > 0 ? 0.8 * run->rate + 0.2 * latest : latest;
        run->rate_bytes = run->client.received_bytes;
        run->rate_clock = now;
    }
    progress.bytes_per_second = run->rate;
    if (run->options->progress) run->options->progress(run->options->user, &progress);
}

/* Gives a free place to the next file that is not done. */
static void fill_place(pull *run, hub_fetch *fetch) {
    app_pull_record *plan = &run->result->record;
    while (run->next < plan->n_files) {
        app_pull_file *file = &plan->files[run->next++];
        if (!file->wanted || file->done) continue;
        hub_fetch_open(fetch, &run->client, file, run->result->dir, plan->commit);
        return;
    }
}

/* One step of one place. */
static ink_status step(pull *run, hub_fetch *fetch, bool *busy, ink_error *error) {
    double now = hub_clock();
    ink_status status = INK_OK;
    if (!fetch->client) fill_place(run, fetch);
    if (!fetch->client) return INK_OK;
    if (fetch->phase == HUB_CHECK_FINAL || fetch->phase == HUB_CHECK_PARTIAL) {
        hub_fetch_check(fetch);
        *busy = true;
    } else if (fetch->phase == HUB_WAIT && now >= fetch->not_before && now >= run->client.not_before) {
        hub_fetch_start(fetch, run->multi);
        *busy = true;
    }
    if (fetch->phase == HUB_FAILED) *error = fetch->error, status = error->status;
    if (fetch->phase == HUB_DONE) {
        hub_fetch_close(fetch, run->multi);
        status = app_pull_record_save(&run->result->record, run->result->dir, error);
        *busy = true;
    }
    return status;
}

static void take_messages(pull *run) {
    int n_left;
    for (CURLMsg *message; (message = curl_multi_info_read(run->multi, &n_left));) {
        hub_fetch *fetch = NULL;
        CURLcode code = message->data.result; /* the message ends with the handle's removal */
        if (message->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &fetch);
        hub_fetch_end(fetch, run->multi, code);
    }
}

/* How long nothing can happen unless something arrives: until the next wait ends, and short enough to see a signal soon. */
static int idle_ms(const pull *run) {
    double now = hub_clock(), least = 0.2;
    for (int64_t i = 0; i < run->options->jobs; i++) {
        const hub_fetch *fetch = &run->fetches[i];
        if (!fetch->client || fetch->phase != HUB_WAIT) continue;
        double then = fetch->not_before > run->client.not_before ? fetch->not_before : run->client.not_before;
        if (then - now < least) least = then - now;
    }
    return least > 0 ? (int)(1000 * least) + 1 : 0;
}

static ink_status run_loop(pull *run, ink_error *error) {
    ink_status status = INK_OK;
    bool working = true;
    while (status == INK_OK && working) {
        bool busy = false;
        int n_running;
        working = false;
        for (int64_t i = 0; i < run->options->jobs && status == INK_OK; i++) {
            status = step(run, &run->fetches[i], &busy, error);
            working = working || run->fetches[i].client || busy;
        }
        if (curl_multi_perform(run->multi, &n_running) != CURLM_OK) status = app_fail_memory(error, "the transfers");
        take_messages(run);
        report_progress(run);
        if (run->options->stopped(run->options->user)) status = app_fail(error, INK_ERROR_CANCELLED, "interrupted");
        if (status == INK_OK && working && !busy) curl_multi_poll(run->multi, NULL, 0, idle_ms(run), NULL);
    }
    for (int64_t i = 0; i < run->options->jobs; i++) hub_fetch_close(&run->fetches[i], run->multi);
    return status;
}

/* ---- the end ---- */

/* Everything of the new commit is there: what the older one had besides goes. */
static ink_status remove_outdated(pull *run, ink_error *error) {
    app_pull_record *plan = &run->result->record;
    size_t n = 0;
    for (size_t i = 0; i < plan->n_files; i++) {
        app_pull_file *file = &plan->files[i];
        if (file->wanted) {
            run->result->have_bytes[n] = run->result->have_bytes[i];
            plan->files[n++] = *file;
            continue;
        }
        char *path = file->ours ? app_format("%s/%s", run->result->dir, file->path) : NULL;
        if (path) unlink(path);
        free(path);
        free(file->path);
    }
    plan->n_files = n;
    return app_pull_record_save(plan, run->result->dir, error);
}

static ink_status load_all(pull *run, ink_error *error) {
    ink_status status = app_pull_record_save(&run->result->record, run->result->dir, error);
    if (status != INK_OK) return status;
    run->multi = curl_multi_init();
    if (!run->multi) return app_fail_memory(error, "the transfers");
    run->rate_clock = hub_clock();
    status = run_loop(run, error);
    run->result->fetched_bytes = run->client.received_bytes;
    curl_multi_cleanup(run->multi);
    if (status == INK_OK) status = remove_outdated(run, error);
    return status;
}

static ink_status name_place(pull *run, ink_error *error) {
    char *folder = app_models_folder();
    if (!folder)
        return app_fail(error, INK_ERROR_IO, "there is no home folder to keep models in: set INK_MODELS to the folder that should");
    run->result->name = app_repo_short_name(run->options->repo);
    run->result->dir = run->result->name ? app_format("%s/%s", folder, run->result->name) : NULL;
    free(folder);
    return run->result->dir ? INK_OK : app_fail_memory(error, "a file name");
}

static ink_status pull_locked(pull *run, ink_error *error) {
    ink_status status = run->options->dry_run ? INK_OK : make_dir(run->result->dir, error);
    if (status == INK_OK && !run->options->dry_run) status = take_lock(run, error);
    if (status == INK_OK) status = plan_pull(run, error);
    if (status == INK_OK && !run->options->dry_run) status = check_disk(run, error);
    if (status == INK_OK && !run->options->dry_run) status = load_all(run, error);
    if (run->lock >= 0) close(run->lock);
    return status;
}

ink_status hub_pull(hub_pull_result *result, const hub_pull_options *options, ink_error *error) {
    *result = (hub_pull_result){0};
    if (!app_repo_is_valid(options->repo))
        return app_fail(error, INK_ERROR_ARGUMENT, "\"%.100s\" is no repository; expected ORG/NAME, such as Qwen/Qwen-Image",
                        options->repo);
    pull *run = calloc(1, sizeof *run);
    if (!run) return app_fail_memory(error, "a pull");
    run->options = options;
    run->result = result;
    run->lock = -1;
    run->client = (hub_client){.repo = options->repo,
                               .revision = options->revision ? options->revision : "main",
                               .tries = options->tries,
                               .timeout_seconds = options->timeout_seconds,
                               .stopped = options->stopped,
                               .note = options->note,
                               .user = options->user};
    ink_status status = name_place(run, error);
    if (status == INK_OK) status = hub_endpoint_find(&run->client.endpoint, error);
    if (status == INK_OK && curl_global_init(CURL_GLOBAL_DEFAULT) != 0) status = app_fail_memory(error, "libcurl");
    if (status == INK_OK) status = fetch_listing(run, error);
    if (status == INK_OK) status = pull_locked(run, error);
    hub_listing_clear(&run->listing);
    hub_endpoint_clear(&run->client.endpoint);
    free(run);
    return status;
}
