/* test_arena.c - taking, marking and releasing; counting dry; running out. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/memory.h"

static void test_alignment(void **state) {
    (void)state;
    ink_arena arena;
    assert_true(ink_arena_create(&arena, 4096));
    unsigned char *last = NULL;
    const size_t sizes[] = {1, 63, 64, 65, 0, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = ink_arena_take(&arena, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        if (i > 0) assert_true(p >= last + sizes[i - 1]);
        memset(p, 1, sizes[i]);
        last = p;
    }
    assert_int_equal(arena.used, 64 + 64 + 64 + 128 + 0 + 128);
    ink_arena_destroy(&arena);
    assert_null(arena.memory);
}

static void test_mark_and_release(void **state) {
    (void)state;
    ink_arena arena;
    assert_true(ink_arena_create(&arena, 1024));
    ink_arena_take(&arena, 64);
    size_t mark = ink_arena_mark(&arena);
    void *first = ink_arena_take(&arena, 512);
    ink_arena_release(&arena, mark);
    assert_ptr_equal(ink_arena_take(&arena, 256), first);
    assert_int_equal(arena.used, 320);
    assert_int_equal(arena.peak, 576);
    ink_arena_destroy(&arena);
}

/* One program of takes and releases; true when all of them got memory. */
static bool run(ink_arena *arena) {
    bool all = true;
    size_t start = ink_arena_mark(arena);
    for (size_t i = 1; i < 20; i++) {
        size_t mark = ink_arena_mark(arena);
        all = ink_arena_take(arena, 100 * i) && all;
        all = ink_arena_take(arena, 7) && all;
        if (i % 3 != 0) ink_arena_release(arena, mark);
    }
    ink_arena_release(arena, start);
    return all;
}

static void test_dry_peak_is_exact(void **state) {
    (void)state;
    ink_arena dry, real, small;
    ink_arena_create_dry(&dry);
    assert_true(run(&dry));
    assert_false(dry.overflow);

    assert_true(ink_arena_create(&real, dry.peak));
    assert_true(run(&real));
    assert_false(real.overflow);
    assert_int_equal(real.peak, dry.peak);

    assert_true(ink_arena_create(&small, dry.peak - 1));
    assert_false(run(&small));
    assert_true(small.overflow);
    ink_arena_destroy(&small);
    ink_arena_destroy(&real);
    ink_arena_destroy(&dry);
}

/* A dry address may be checked against NULL and passed on: it is aligned, like a real one. */
static void test_dry_address(void **state) {
    (void)state;
    ink_arena dry;
    ink_arena_create_dry(&dry);
    void *p = ink_arena_take(&dry, (size_t)1 << 50);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    ink_arena_destroy(&dry);
}

static void test_overflow(void **state) {
    (void)state;
    ink_arena arena;
    assert_true(ink_arena_create(&arena, 256));
    assert_non_null(ink_arena_take(&arena, 256));
    assert_null(ink_arena_take(&arena, 1));
    assert_true(arena.overflow);
    assert_int_equal(arena.used, 256);
    ink_arena_release(&arena, 0);
    assert_null(ink_arena_take(&arena, SIZE_MAX));
    assert_null(ink_arena_take(&arena, SIZE_MAX - 63));
    assert_null(ink_arena_take(&arena, 257));
    assert_non_null(ink_arena_take(&arena, 193));
    ink_arena_destroy(&arena);

    ink_arena_create_dry(&arena);
    assert_non_null(ink_arena_take(&arena, SIZE_MAX / 2));
    assert_null(ink_arena_take(&arena, SIZE_MAX / 2 + 2));
    assert_true(arena.overflow);
    ink_arena_destroy(&arena);
}

static void test_poison(void **state) {
    (void)state;
    ink_arena arena;
    assert_true(ink_arena_create(&arena, 1024));
    arena.poison = true;
    for (int round = 0; round < 2; round++) {
        float *x = ink_arena_take(&arena, 100 * sizeof *x);
        for (int i = 0; i < 100; i++) {
            assert_true(isnan(x[i]));
            x[i] = 0;
        }
        ink_arena_release(&arena, 0);
    }
    ink_arena_destroy(&arena);
}

static void test_no_memory(void **state) {
    (void)state;
    ink_arena arena;
    ink_alloc_fail_after(0);
    assert_false(ink_arena_create(&arena, 64));
    ink_alloc_fail_after(-1);
    ink_arena_destroy(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment),   cmocka_unit_test(test_mark_and_release), cmocka_unit_test(test_dry_peak_is_exact),
        cmocka_unit_test(test_dry_address), cmocka_unit_test(test_overflow),         cmocka_unit_test(test_poison),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
