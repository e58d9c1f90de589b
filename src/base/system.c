/* system.c - memory that the machine or its container can still give, and a clock. Linux; elsewhere memory is unknown. */
#define _POSIX_C_SOURCE 200809L
#include "base/system.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_PATH = 4096 };

/* The number after KEY in a file of lines "KEY number"; key NULL: the file is one number. -1: there is none ("max", no file). */
static int64_t read_number(const char *path, const char *key) {
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    char line[256];
    int64_t value = -1;
    while (value < 0 && fgets(line, sizeof line, file)) {
        const char *number = line;
        if (key) {
            size_t length = strlen(key);
            if (strncmp(line, key, length) != 0 || (line[length] != ' ' && line[length] != '\t')) continue;
            number += length;
        }
        if (sscanf(number, "%" SCNd64, &value) != 1 || value < 0) value = -1;
        if (!key) break;
    }
    fclose(file);
    return value;
}

/* The files of a memory controller. Version 1 counts a group's children only under the names "total_". */
typedef struct controller {
    const char *mount, *limit, *usage, *inactive_file, *active_file;
} controller;

static const controller version_1 = {"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                     "total_inactive_file", "total_active_file"};
static const controller version_2 = {"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file"};

static int64_t least(int64_t a, int64_t b) { return a < 0 ? b : b < 0 || a < b ? a : b; }

/* One group: its limit less its usage, where cached pages of files do not count, for the kernel drops them first. -1: no limit. */
static int64_t group_available(const char *root, const controller *c, const char *group) {
    char path[LONGEST_PATH];
    snprintf(path, sizeof path, "%s/%s%s/%s", root, c->mount, group, c->limit);
    int64_t limit = read_number(path, NULL);
    if (limit < 0) return -1;
    snprintf(path, sizeof path, "%s/%s%s/%s", root, c->mount, group, c->usage);
    int64_t usage = read_number(path, NULL);
    if (usage < 0) return -1;
    snprintf(path, sizeof path, "%s/%s%s/memory.stat", root, c->mount, group);
    const char *const caches[] = {c->inactive_file, c->active_file};
    for (int i = 0; i < 2; i++) {
        int64_t cache = read_number(path, caches[i]);
        if (cache > 0) usage -= cache;
    }
    if (usage < 0) usage = 0;
    return limit > usage ? limit - usage : 0;
}

/* A group and all groups above it: each may have a limit. In a container the path may lie outside what is mounted, so that only
   the topmost is found. */
static int64_t path_available(const char *root, const controller *c, char *group) {
    int64_t available = -1;
    for (;;) {
        char *slash = strrchr(group, '/');
        if (slash && !slash[1]) *slash = 0;
        available = least(available, group_available(root, c, group));
        slash = strrchr(group, '/');
        if (!slash) return available;
        *slash = 0;
    }
}

/* Lines of /proc/self/cgroup: "4:memory:/path" of version 1, "0::/path" of version 2. */
static int64_t cgroup_available(const char *root) {
    char path[LONGEST_PATH], line[LONGEST_PATH];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    int64_t available = -1;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (strcmp(controllers, ":") == 0)
            available = least(available, path_available(root, &version_2, group));
        else if (strcmp(controllers, ":memory") == 0)
            available = least(available, path_available(root, &version_1, group));
    }
    fclose(file);
    return available;
}

int64_t ink_available_memory_under(const char *root) {
    char path[LONGEST_PATH];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    int64_t kib = read_number(path, "MemAvailable:");
    int64_t machine = kib < 0 || kib > INT64_MAX / 1024 ? -1 : kib * 1024;
    int64_t available = least(machine, cgroup_available(root));
    return available < 0 ? 0 : available;
}

int64_t ink_available_memory(void) { return ink_available_memory_under(""); }

int64_t ink_peak_memory(void) {
    int64_t kib = read_number("/proc/self/status", "VmHWM:");
    return kib < 0 || kib > INT64_MAX / 1024 ? 0 : kib * 1024;
}

void ink_reset_peak_memory(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}

int64_t ink_resident_memory(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    int64_t size, pages;
    int n = fscanf(file, "%" SCNd64 " %" SCNd64, &size, &pages);
    fclose(file);
    return n == 2 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

double ink_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
