/* files.c - files for tests. */
#define _XOPEN_SOURCE 700
#include "support/files.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void give_up(const char *what, const char *path) {
    fprintf(stderr, "test: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

char *test_folder_create(char folder[TEST_PATH]) {
    const char *base = getenv("TMPDIR");
    snprintf(folder, TEST_PATH, "%s/inkstone-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder)) give_up("cannot make", folder);
    return folder;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status, (void)kind, (void)place;
    return remove(path);
}

void test_folder_remove(const char *folder) {
    if (nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) give_up("cannot remove", folder);
}

char *test_path(char path[TEST_PATH], const char *folder, const char *name) {
    if (snprintf(path, TEST_PATH, "%s/%s", folder, name) >= TEST_PATH) give_up("too long a path", name);
    return path;
}

size_t test_count_entries(const char *folder) {
    DIR *dir = opendir(folder);
    size_t n = 0;
    if (!dir) give_up("cannot read", folder);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static FILE *create(const char *folder, const char *name) {
    char path[TEST_PATH];
    test_path(path, folder, name);
    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0777) != 0 && errno != EEXIST) give_up("cannot make", path);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    if (!file) give_up("cannot write", path);
    return file;
}

static void put(FILE *file, const void *bytes, size_t size) {
    if (size && fwrite(bytes, 1, size, file) != size) give_up("cannot write", "a file");
}

static void finish(FILE *file) {
    if (fclose(file) != 0) give_up("cannot write", "a file");
}

void test_write(const char *folder, const char *name, const void *bytes, size_t size) {
    FILE *file = create(folder, name);
    put(file, bytes, size);
    finish(file);
}

void test_write_text(const char *folder, const char *name, const char *text) { test_write(folder, name, text, strlen(text)); }

void test_write_safetensors(const char *folder, const char *name, const char *header, const void *data, size_t n_data) {
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)strlen(header) >> (8 * i));
    FILE *file = create(folder, name);
    put(file, prefix, sizeof prefix);
    put(file, header, strlen(header));
    put(file, data, n_data);
    finish(file);
}

static int64_t allowed_allocations;

static void *rationed_malloc(size_t size) { return allowed_allocations-- > 0 ? malloc(size) : NULL; }

void test_json_fail_after(int64_t allowed) {
    allowed_allocations = allowed;
    json_set_alloc_funcs(allowed < 0 ? malloc : rationed_malloc, free);
}
