/*
 * fuzz_hub_answers.c - the hub's foreign bytes: the list of files ('L' before it), header lines ('H'), and the record that lies in
 * a folder ('R'). What is accepted must be safe to make below a folder.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hub/hub_client.h"
#include "hub/hub_listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A part that is "..", not one that only begins so, as in "..safetensors". */
static int leads_out(const char *path) {
    size_t n = strlen(path);
    return *path == '/' || strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0 || strstr(path, "/../") ||
           (n >= 3 && strcmp(path + n - 3, "/..") == 0);
}

static void check_files(const app_pull_file *files, size_t n) {
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const char *path = files[i].path;
        if (leads_out(path) || strchr(path, '\\') || strchr(path, '\n')) abort();
        if (files[i].size > 0 && __builtin_add_overflow(total, files[i].size, &total)) abort();
        if (files[i].sha256[0] && strlen(files[i].sha256) != 64) abort();
    }
}

static void check_listing(const char *text, size_t size) {
    hub_listing listing;
    ink_error error;
    if (hub_listing_parse(&listing, text, size, "input", &error) != INK_OK) return;
    check_files(listing.files, listing.n_files);
    size_t n = listing.n_files;
    if (hub_listing_keep_needed(&listing, "a/b", &error) == INK_OK)
        for (size_t i = 0; i < listing.n_files; i++)
            if (listing.files[i].size < 0 || (!listing.files[i].sha256[0] && strlen(listing.files[i].git_sha1) != 40)) abort();
    if (listing.n_files > n) abort();
    hub_listing_clear(&listing);
}

/* Lines as they come, one after the other. */
static void check_headers(const char *text, size_t size) {
    hub_range range = {0};
    for (const char *end = text + size; text < end;) {
        const char *feed = memchr(text, '\n', (size_t)(end - text)), *next = feed ? feed + 1 : end;
        hub_range_read_header(&range, text, (size_t)(next - text));
        if (range.given && (range.first < 0 || range.last < range.first || (range.total >= 0 && range.last >= range.total)))
            abort();
        text = next;
    }
}

static void check_record(const char *text, size_t size) {
    app_pull_record record;
    ink_error error;
    if (app_pull_record_parse(&record, text, size, "input", &error) != INK_OK) return;
    check_files(record.files, record.n_files);
    if (!app_repo_is_valid(record.repo)) abort();
    app_pull_record_missing(&record, "/nonexistent");
    app_pull_record_clear(&record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *copy = malloc(size); /* of this size exactly, so that a read behind it is seen */
    if (!copy) return 0;
    memcpy(copy, data, size);
    if (copy[0] == 'L') check_listing(copy + 1, size - 1);
    if (copy[0] == 'H') check_headers(copy + 1, size - 1);
    if (copy[0] == 'R') check_record(copy + 1, size - 1);
    free(copy);
    return 0;
}
