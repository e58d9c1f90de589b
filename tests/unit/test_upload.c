/* test_upload.c - bytes of files and of the host's memory, in pieces, by several threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mapfile.h"
#include "support/files.h"
#include "support/lagging_device.h"
#include "tensor/upload.h"

enum { MOST = 5 << 20 };

static unsigned char *noise(size_t n) {
    unsigned char *bytes = malloc(n);
    assert_non_null(bytes);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)((state = state * 1664525u + 1013904223u) >> 24);
    return bytes;
}

/* Any size, to memory of the host and to a device, with one thread and with several. */
static void test_memory(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 999, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3000000, MOST};
    unsigned char *src = noise(MOST + 1), *dst = malloc(MOST + 1);
    assert_non_null(dst);
    ink_device device = lagging_device(64 << 20);
    for (int64_t n_threads = 0; n_threads <= 3; n_threads += 3) {
        ink_threads *threads = n_threads ? ink_threads_create(n_threads) : NULL;
        const ink_upload upload = {NULL, threads, device.memory, &device};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            memset(dst, 0x55, MOST + 1);
            ink_upload_copy(&upload, dst, src + 1, sizes[i]);
            assert_memory_equal(dst, src + 1, sizes[i]);
            assert_int_equal(dst[sizes[i]], 0x55);

            unsigned char *there = device.memory->alloc(&device, sizes[i]);
            assert_non_null(there);
            ink_upload_bytes(&upload, there, src, sizes[i]);
            device.memory->download(&device, dst, there, sizes[i]);
            assert_memory_equal(dst, src, sizes[i]);
            device.memory->release(&device, there);
        }
        ink_threads_destroy(threads);
    }
    device.close(&device);
    free(src);
    free(dst);
}

/* More copies than a list holds, of any size, by one thread and by several. */
static void test_list(void **state) {
    (void)state;
    enum { N = 73, STEP = (1 << 20) + 77 };
    unsigned char *src = noise((size_t)N * STEP), *dst = malloc(STEP + N);
    assert_non_null(dst);
    ink_device device = lagging_device(256 << 20);
    for (int64_t n_threads = 0; n_threads <= 3; n_threads += 3) {
        ink_threads *threads = n_threads ? ink_threads_create(n_threads) : NULL;
        const ink_upload upload = {NULL, threads, device.memory, &device};
        ink_upload_list list = {.n = 0};
        unsigned char *there[N];
        for (int i = 0; i < N; i++) {
            size_t size = (size_t)(i % 5 == 0 ? 100 + i : STEP - i);
            there[i] = device.memory->alloc(&device, size);
            assert_non_null(there[i]);
            ink_upload_later(&upload, &list, there[i], src + (size_t)i * STEP, size);
        }
        ink_upload_all(&upload, &list);
        assert_int_equal(list.n, 0);
        assert_int_equal(list.bytes, 0);
        for (int i = 0; i < N; i++) {
            size_t size = (size_t)(i % 5 == 0 ? 100 + i : STEP - i);
            device.memory->download(&device, dst, there[i], size);
            assert_memory_equal(dst, src + (size_t)i * STEP, size);
            device.memory->release(&device, there[i]);
        }
        ink_threads_destroy(threads);
    }
    device.close(&device);
    free(src);
    free(dst);
}

/* What has been waited for is there, while the rest is still under way. */
static void test_in_order(void **state) {
    (void)state;
    enum { N = 12, SIZE = 10001, STEP = 3 };
    unsigned char *src = noise((size_t)N * SIZE), dst[SIZE], *there[N];
    ink_device device = lagging_device(64 << 20);
    lagging_device_let_senders_lag(true);
    for (int i = 0; i < N; i++) assert_non_null(there[i] = device.memory->alloc(&device, SIZE));
    for (int64_t n_threads = 1; n_threads <= 3; n_threads += 2) {
        ink_threads *threads = ink_threads_create(n_threads);
        const ink_upload upload = {NULL, threads, device.memory, &device};
        ink_upload_list list = {.n = 0};
        int64_t left;
        for (int i = 0; i < N; i++) ink_upload_later(&upload, &list, there[i], src + (size_t)i * SIZE, SIZE);
        ink_uploading *uploading = ink_upload_start(&upload, &list);
        assert_non_null(uploading);
        for (int n = 0; n <= N; n += STEP) {
            while (!ink_uploading_wait(uploading, (size_t)n, 0.01, &left)) continue;
            assert_in_range(left, 0, (int64_t)(N - n) * SIZE);
            for (int i = 0; i < n; i++) {
                device.memory->download(&device, dst, there[i], SIZE);
                assert_memory_equal(dst, src + (size_t)i * SIZE, SIZE);
            }
        }
        ink_uploading_end(&uploading, false);
        for (int i = 0; i < N; i++) device.memory->upload(&device, there[i], dst, SIZE);
        ink_threads_destroy(threads);
    }
    lagging_device_let_senders_lag(false);
    for (int i = 0; i < N; i++) device.memory->release(&device, there[i]);
    assert_null(device.memory->failure(&device));
    device.close(&device);
    free(src);
}

/* What is under way is there in the end, or has been left out. */
static void test_beside(void **state) {
    (void)state;
    enum { N = 20, SIZE = 300001 };
    unsigned char *src = noise((size_t)N * SIZE), *dst = malloc(SIZE), *there[N];
    assert_non_null(dst);
    ink_device device = lagging_device(64 << 20);
    for (int i = 0; i < N; i++) assert_non_null(there[i] = device.memory->alloc(&device, SIZE));
    for (int64_t n_threads = 1; n_threads <= 3; n_threads += 2) {
        ink_threads *threads = ink_threads_create(n_threads);
        const ink_upload upload = {NULL, threads, device.memory, &device};
        ink_upload_list lists[2] = {{.n = 0}, {.n = 0}};
        int64_t left;
        assert_null(ink_upload_start(&upload, &lists[0]));
        /* Two at once, by the same threads. */
        for (int i = 0; i < N; i++) ink_upload_later(&upload, &lists[i & 1], there[i], src + (size_t)i * SIZE, SIZE);
        ink_uploading *uploads[2];
        for (int i = 0; i < 2; i++) {
            assert_non_null(uploads[i] = ink_upload_start(&upload, &lists[i]));
            assert_int_equal(lists[i].n, 0);
        }
        for (int i = 0; i < 2; i++) {
            while (!ink_uploading_wait(uploads[i], N, 0.01, &left)) assert_in_range(left, 0, (int64_t)N * SIZE);
            assert_int_equal(left, 0);
            ink_uploading_end(&uploads[i], false);
            assert_null(uploads[i]);
        }
        for (int i = 0; i < N; i++) {
            device.memory->download(&device, dst, there[i], SIZE);
            assert_memory_equal(dst, src + (size_t)i * SIZE, SIZE);
        }
        for (int i = 0; i < N; i++) ink_upload_later(&upload, &lists[0], there[i], src, SIZE);
        assert_non_null(uploads[0] = ink_upload_start(&upload, &lists[0]));
        ink_uploading_end(&uploads[0], true);
        ink_upload_later(&upload, &lists[0], there[0], src, SIZE);
        ink_upload_forget(&lists[0]);
        ink_threads_destroy(threads);
    }
    ink_uploading *none = NULL;
    ink_uploading_end(&none, true);
    for (int i = 0; i < N; i++) device.memory->release(&device, there[i]);
    assert_null(device.memory->failure(&device));
    device.close(&device);
    free(src);
    free(dst);
}

/* A mapping is read from its file; what the file has lost is not said to have been read. */
static void test_mapping(void **state) {
    (void)state;
    unsigned char *src = noise(MOST), *dst = malloc(MOST);
    assert_non_null(dst);
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_write(folder, "bytes", src, MOST);
    test_path(path, folder, "bytes");
    ink_error error;
    ink_mapfile file;
    assert_int_equal(ink_mapfile_open(&file, path, &error), INK_OK);
    assert_int_equal(ink_mapfile_read(&file, dst, file.data + 12345, MOST - 12345), MOST - 12345);
    assert_memory_equal(dst, src + 12345, MOST - 12345);
    assert_int_equal(ink_mapfile_read(&file, dst, file.data + MOST - 10, 10), 10);
    test_write(folder, "bytes", src, 1000);
    assert_int_equal(ink_mapfile_read(&file, dst, file.data + 500, 1000), 500);
    ink_mapfile_close(&file);
    test_folder_remove(folder);
    free(src);
    free(dst);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory), cmocka_unit_test(test_list), cmocka_unit_test(test_in_order),
                                       cmocka_unit_test(test_beside), cmocka_unit_test(test_mapping)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
