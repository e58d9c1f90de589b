/* test_threads.c - every task runs exactly once, whatever the number of threads, round after round. Also run under a thread
 * sanitizer, which needs what the tasks write to be plain memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "base/memory.h"
#include "base/threads.h"

enum { MOST_TASKS = 257, MOST_THREADS = 9 };

typedef struct counts {
    int64_t n_threads;
    int of_task[MOST_TASKS];
    int of_worker[MOST_THREADS];
} counts;

/* Tasks of one worker run one after the other, so its counter needs no lock. */
static void count(void *context, int64_t i, int64_t worker) {
    counts *c = context;
    c->of_task[i]++;
    c->of_worker[worker]++;
}

static void check_round(ink_threads *threads, int64_t n_tasks) {
    counts c = {.n_threads = ink_threads_count(threads)};
    ink_threads_run(threads, n_tasks, count, &c);
    int total = 0;
    for (int64_t i = 0; i < MOST_TASKS; i++) assert_int_equal(c.of_task[i], i < n_tasks);
    for (int64_t i = 0; i < c.n_threads; i++) total += c.of_worker[i];
    assert_int_equal(total, n_tasks);
}

static void test_each_task_once(void **state) {
    (void)state;
    for (int64_t n = 1; n <= MOST_THREADS; n++) {
        ink_threads *threads = ink_threads_create(n);
        assert_non_null(threads);
        assert_int_equal(ink_threads_count(threads), n);
        for (int64_t n_tasks = 0; n_tasks < 20; n_tasks++) check_round(threads, n_tasks);
        check_round(threads, MOST_TASKS);
        ink_threads_destroy(threads);
    }
}

static void test_many_rounds(void **state) {
    (void)state;
    ink_threads *threads = ink_threads_create(3);
    for (int64_t round = 0; round < 5000; round++) check_round(threads, round % 7);
    ink_threads_destroy(threads);
}

/* What one round wrote, the next round and the caller see. */
typedef struct line {
    int64_t values[MOST_TASKS], next[MOST_TASKS];
} line;

static void shift(void *context, int64_t i, int64_t worker) {
    (void)worker;
    line *l = context;
    l->next[i] = l->values[(i + 1) % MOST_TASKS] + 1;
}

static void test_rounds_see_each_other(void **state) {
    (void)state;
    ink_threads *threads = ink_threads_create(4);
    static line l;
    memset(&l, 0, sizeof l);
    for (int64_t round = 1; round <= 200; round++) {
        ink_threads_run(threads, MOST_TASKS, shift, &l);
        memcpy(l.values, l.next, sizeof l.values);
        for (int64_t i = 0; i < MOST_TASKS; i++) assert_int_equal(l.values[i], round);
    }
    ink_threads_destroy(threads);
}

/* With one thread, tasks run on the caller in order. */
static void in_order(void *context, int64_t i, int64_t worker) {
    int64_t *next = context;
    if (i == *next && worker == 0) ++*next;
}

static void test_one_thread(void **state) {
    (void)state;
    ink_threads *threads = ink_threads_create(1);
    int64_t next = 0;
    ink_threads_run(threads, 100, in_order, &next);
    assert_int_equal(next, 100);
    ink_threads_destroy(threads);
}

/* Callers of one pool: each has all of it for its rounds, which none of the others disturbs. */
static atomic_int n_inside;

typedef struct caller {
    ink_threads *threads;
    int64_t n_tasks;
    int64_t n_done, n_disturbed; /* n_done: by its own tasks, one caller at a time */
} caller;

static void note_inside(void *context, int64_t i, int64_t worker) {
    (void)i, (void)worker;
    caller *c = context;
    int others = atomic_fetch_add(&n_inside, 1);
    if (others >= (int)ink_threads_count(c->threads)) __atomic_add_fetch(&c->n_disturbed, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&c->n_done, 1, __ATOMIC_RELAXED);
    atomic_fetch_sub(&n_inside, 1);
}

static void *call_often(void *context) {
    caller *c = context;
    for (int round = 0; round < 300; round++) ink_threads_run(c->threads, c->n_tasks, note_inside, c);
    return NULL;
}

static void test_two_callers(void **state) {
    (void)state;
    for (int64_t n = 1; n <= 3; n += 2) {
        ink_threads *threads = ink_threads_create(n);
        caller callers[3] = {{threads, 7, 0, 0}, {threads, 1, 0, 0}, {threads, 50, 0, 0}};
        pthread_t others[2];
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&others[i], NULL, call_often, &callers[i]), 0);
        call_often(&callers[2]);
        for (int i = 0; i < 2; i++) pthread_join(others[i], NULL);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(callers[i].n_done, 300 * callers[i].n_tasks);
            assert_int_equal(callers[i].n_disturbed, 0);
        }
        ink_threads_destroy(threads);
    }
}

static void test_unused_and_null(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        ink_threads *threads = ink_threads_create(4);
        assert_non_null(threads);
        ink_threads_destroy(threads);
    }
    ink_threads_destroy(NULL);
    assert_true(ink_threads_available() >= 1);
}

static void test_no_memory(void **state) {
    (void)state;
    for (int allowed = 0; allowed < 2; allowed++) {
        ink_alloc_fail_after(allowed);
        assert_null(ink_threads_create(2));
    }
    ink_alloc_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_task_once), cmocka_unit_test(test_many_rounds), cmocka_unit_test(test_rounds_see_each_other),
        cmocka_unit_test(test_one_thread),     cmocka_unit_test(test_two_callers), cmocka_unit_test(test_unused_and_null),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
