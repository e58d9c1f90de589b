/*
 * threads.h - a pool that runs the tasks of one op at a time. Results must not depend on which thread ran which task.
 */
#ifndef INK_BASE_THREADS_H
#define INK_BASE_THREADS_H

#include <stdint.h>

typedef struct ink_threads ink_threads;

/* n >= 1 threads, the caller of ink_threads_run being one of them. NULL when they cannot be made. */
ink_threads *ink_threads_create(int64_t n);
void ink_threads_destroy(ink_threads *threads);
int64_t ink_threads_count(const ink_threads *threads);

/* Memory of a worker for as long as a task of its runs, INK_WORKSPACE_BYTES of it, aligned to 64. */
enum { INK_WORKSPACE_BYTES = 3 << 20 };
void *ink_threads_workspace(const ink_threads *threads, int64_t worker);

/* Cores that this process may use, at least 1. */
int64_t ink_threads_available(void);

/* Calls task(context, i, worker) for every i in 0..n_tasks, worker in 0..ink_threads_count, and returns when all are done. Threads
   that call it at the same time are served one after the other. */
typedef void (*ink_task_fn)(void *context, int64_t i, int64_t worker);
void ink_threads_run(ink_threads *threads, int64_t n_tasks, ink_task_fn task, void *context);

#endif
