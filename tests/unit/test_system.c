/* test_system.c - memory as the kernel and the control groups tell it, from made-up files; and the clock. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/system.h"
#include "inkstone.h"

typedef struct machine {
    char root[64];
    char *paths[16]; /* files and folders in the order in which they were made */
    int n_paths;
} machine;

static int setup(void **state) {
    machine *m = ink_alloc(sizeof *m);
    if (!m) return -1;
    strcpy(m->root, "/tmp/inkstone-system-XXXXXX");
    *state = m;
    return mkdtemp(m->root) ? 0 : -1;
}

static int teardown(void **state) {
    machine *m = *state;
    while (m->n_paths > 0) {
        remove(m->paths[--m->n_paths]);
        ink_free(m->paths[m->n_paths]);
    }
    rmdir(m->root);
    ink_free(m);
    return 0;
}

static void put(machine *m, const char *path, const char *text) {
    char *full = ink_format("%s/%s", m->root, path);
    for (char *slash = strchr(full + strlen(m->root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(full, 0700) == 0) m->paths[m->n_paths++] = ink_strdup(full);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    m->paths[m->n_paths++] = full;
}

static void put_meminfo(machine *m) {
    put(m, "proc/meminfo", "MemTotal:        8000 kB\nMemFree:          100 kB\nMemAvailable:    4000 kB\n");
}

static void test_nothing_is_known(void **state) {
    machine *m = *state;
    assert_int_equal(ink_available_memory_under(m->root), 0);
}

static void test_machine_alone(void **state) {
    machine *m = *state;
    put_meminfo(m);
    assert_int_equal(ink_available_memory_under(m->root), 4000 * 1024);
    put(m, "proc/self/cgroup", "0::/\n");
    assert_int_equal(ink_available_memory_under(m->root), 4000 * 1024);
}

/* The limit of the parent is the tighter one; the group itself has none. */
static void test_version_2(void **state) {
    machine *m = *state;
    put_meminfo(m);
    put(m, "proc/self/cgroup", "0::/outer/inner\n");
    put(m, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put(m, "sys/fs/cgroup/outer/memory.max", "3000000\n");
    put(m, "sys/fs/cgroup/outer/memory.current", "1500000\n");
    assert_int_equal(ink_available_memory_under(m->root), 1500000);
    put(m, "sys/fs/cgroup/outer/memory.stat", "anon 1000000\ninactive_file 200000\nactive_file 100000\n");
    assert_int_equal(ink_available_memory_under(m->root), 1800000);
}

/* As in a container: the group of the line is not below the mount, whose top is the group. */
static void test_version_1(void **state) {
    machine *m = *state;
    put_meminfo(m);
    put(m, "proc/self/cgroup", "5:cpuset:/\n4:memory:/container/abc\n");
    put(m, "sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n");
    put(m, "sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
    put(m, "sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 100000\n");
    assert_int_equal(ink_available_memory_under(m->root), 1600000);
}

static void test_unlimited_version_1(void **state) {
    machine *m = *state;
    put_meminfo(m);
    put(m, "proc/self/cgroup", "4:memory:/\n");
    put(m, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(m, "sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n");
    assert_int_equal(ink_available_memory_under(m->root), 4000 * 1024);
}

static void test_damaged_files(void **state) {
    machine *m = *state;
    put(m, "proc/meminfo", "MemAvailable: lots\n");
    put(m, "proc/self/cgroup", "\n0\n:\n0::no slash\n");
    put(m, "sys/fs/cgroup/memory.max", "");
    assert_int_equal(ink_available_memory_under(m->root), 0);
}

static void test_this_machine(void **state) {
    (void)state;
    int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    assert_true(ink_available_memory() >= 0 && ink_available_memory() <= all);
}

static void test_clock(void **state) {
    (void)state;
    double last = ink_seconds();
    for (int i = 0; i < 1000; i++) {
        double now = ink_seconds();
        assert_true(now >= last);
        last = now;
    }
}

#define ON_MACHINE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

/* What was resident for a moment counts until it is set back. */
static void test_peak(void **state) {
    (void)state;
    const size_t size = 64 << 20;
    int64_t before = ink_peak_memory();
    if (before == 0) skip();
    unsigned char *memory = ink_alloc_unset(size);
    assert_non_null(memory);
    memset(memory, 1, size);
    int64_t with = ink_peak_memory();
    assert_true(with >= (int64_t)size && with >= before);
    ink_free(memory);
    assert_true(ink_peak_memory() >= with - (8 << 20));
    ink_reset_peak_memory();
    assert_true(ink_peak_memory() <= with + with / 2); /* not all kernels let it be set back; sanitizers keep what was freed */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peak),    ON_MACHINE(test_nothing_is_known),   ON_MACHINE(test_machine_alone),
        ON_MACHINE(test_version_2),     ON_MACHINE(test_version_1),          ON_MACHINE(test_unlimited_version_1),
        ON_MACHINE(test_damaged_files), cmocka_unit_test(test_this_machine), cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
