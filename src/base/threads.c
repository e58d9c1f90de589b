/* threads.c - workers that sleep between ops and draw task numbers from one counter. */
#define _GNU_SOURCE
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/memory.h"
#include "inkstone.h"

enum { STACK_BYTES = 2 << 20 };

typedef struct worker {
    struct ink_threads *pool;
    pthread_t thread;
    int64_t index;
} worker;

struct ink_threads {
    pthread_mutex_t turn; /* held by the caller that is served */
    pthread_mutex_t lock;
    pthread_cond_t started, finished;
    int64_t n;         /* threads, the caller included */
    int64_t n_working; /* workers that have not yet finished this round */
    uint64_t round;    /* counts calls of ink_threads_run */
    bool stop;
    ink_task_fn task;
    void *context;
    int64_t n_tasks;
    atomic_int_fast64_t next;
    unsigned char *workspaces; /* [n], INK_WORKSPACE_BYTES each */
    worker *workers;           /* [n], the first is the caller and has no thread */
};

static void draw_tasks(ink_threads *pool, int64_t index) {
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= pool->n_tasks) return;
        pool->task(pool->context, i, index);
    }
}

static void *worker_main(void *argument) {
    worker *self = argument;
    ink_threads *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->round == seen) pthread_cond_wait(&pool->started, &pool->lock);
        if (pool->stop) break;
        seen = pool->round;
        pthread_mutex_unlock(&pool->lock);
        draw_tasks(pool, self->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->n_working == 0) pthread_cond_signal(&pool->finished);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

ink_threads *ink_threads_create(int64_t n) {
    ink_threads *pool = ink_alloc(sizeof *pool);
    if (!pool) return NULL;
    pool->workers = ink_alloc_array((size_t)n, sizeof *pool->workers);
    pool->workspaces = ink_alloc_unset((size_t)n * INK_WORKSPACE_BYTES);
    if (!pool->workers || !pool->workspaces) {
        ink_free(pool->workers);
        ink_free(pool->workspaces);
        ink_free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->started, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->n = 1;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES); /* ops keep their blocks on it; some systems default to less */
    for (int64_t i = 1; i < n; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i};
        if (pthread_create(&pool->workers[i].thread, &attributes, worker_main, &pool->workers[i]) != 0) {
            pthread_attr_destroy(&attributes);
            ink_threads_destroy(pool);
            return NULL;
        }
        pool->n++;
    }
    pthread_attr_destroy(&attributes);
    return pool;
}

void ink_threads_destroy(ink_threads *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->started);
    pthread_mutex_unlock(&pool->lock);
    for (int64_t i = 1; i < pool->n; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->started);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->turn);
    ink_free(pool->workers);
    ink_free(pool->workspaces);
    ink_free(pool);
}

void *ink_threads_workspace(const ink_threads *pool, int64_t index) {
    return pool->workspaces + (size_t)index * INK_WORKSPACE_BYTES;
}

int64_t ink_threads_count(const ink_threads *pool) { return pool->n; }

int64_t ink_threads_available(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n;
}

static void run_by_all(ink_threads *pool, int64_t n_tasks, ink_task_fn task, void *context) {
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->context = context;
    pool->n_tasks = n_tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->n_working = pool->n - 1;
    pool->round++;
    pthread_cond_broadcast(&pool->started);
    pthread_mutex_unlock(&pool->lock);
    draw_tasks(pool, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->n_working > 0) pthread_cond_wait(&pool->finished, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void ink_threads_run(ink_threads *pool, int64_t n_tasks, ink_task_fn task, void *context) {
    pthread_mutex_lock(&pool->turn);
    if (pool->n > 1 && n_tasks > 1)
        run_by_all(pool, n_tasks, task, context);
    else
        for (int64_t i = 0; i < n_tasks; i++) task(context, i, 0);
    pthread_mutex_unlock(&pool->turn);
}
