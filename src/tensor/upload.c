/* upload.c - copies in parts, and page-locked memory that is filled while the link is at work. */
#define _POSIX_C_SOURCE 200809L /* pthread_condattr_setclock */
#include "tensor/upload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/mapfile.h"
#include "base/memory.h"

enum { PART_BYTES = 1 << 20 };

/* ---- within the host ------------------------------------------------------------------------------------------------- */

static void read_bytes(const ink_upload *u, unsigned char *dst, const unsigned char *src, size_t n) {
    const ink_mapfile *file = u->weights ? ink_weights_file_of(u->weights, src) : NULL;
    size_t n_read = file ? ink_mapfile_read(file, dst, src, n) : 0;
    if (n_read < n) memcpy(dst + n_read, src + n_read, n - n_read);
}

typedef struct copying {
    const ink_upload *upload;
    unsigned char *dst;
    const unsigned char *src;
    size_t size;
} copying;

static void copy_part(void *context, int64_t part, int64_t worker) {
    (void)worker;
    const copying *c = context;
    size_t at = (size_t)part * PART_BYTES, rest = c->size - at;
    read_bytes(c->upload, c->dst + at, c->src + at, rest < PART_BYTES ? rest : PART_BYTES);
}

static void run(const ink_upload *u, int64_t n_tasks, ink_task_fn task, void *context) {
    if (u->threads)
        ink_threads_run(u->threads, n_tasks, task, context);
    else
        for (int64_t i = 0; i < n_tasks; i++) task(context, i, 0);
}

void ink_upload_copy(const ink_upload *u, void *dst, const void *src, size_t size) {
    copying c = {u, dst, src, size};
    run(u, (int64_t)((size + PART_BYTES - 1) / PART_BYTES), copy_part, &c);
}

/* ---- to a device ------------------------------------------------------------------------------------------------------- */

/* Somebody who waits for what is being sent. */
typedef struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;         /* under the lock */
    atomic_bool waits; /* for a lane to get on */
} waiter;

enum { MOST_LANES = INK_N_STAGINGS / 2 };

/* A lane takes the next part of all items until none is left, through two stagings of its own in turn. */
typedef struct sending {
    ink_upload upload;
    ink_upload_list list;
    int64_t n_lanes;
    _Atomic int64_t next;           /* of the parts of all items, which follow each other */
    _Atomic int64_t at[MOST_LANES]; /* no part before that is in the hands of the lane */
    _Atomic int64_t left;           /* bytes that are not sent */
    atomic_bool stop;
    waiter *waiter; /* or NULL */
} sending;

static void lay_out(sending *s, const ink_upload *u, const ink_upload_list *list) {
    s->upload = *u;
    s->list = *list;
    s->n_lanes = u->threads ? ink_threads_count(u->threads) : 1;
    if (s->n_lanes > MOST_LANES) s->n_lanes = MOST_LANES;
    for (int64_t i = 0; i < s->n_lanes; i++) atomic_store(&s->at[i], INT64_MAX);
    atomic_store(&s->left, (int64_t)list->bytes);
}

static int64_t parts_of(const sending *s, size_t item) {
    const size_t part_bytes = s->upload.memory->staging_bytes;
    return (int64_t)((s->list.items[item].size + part_bytes - 1) / part_bytes);
}

/* Goes on from the item whose first part is `first` to that of a later part. False behind the last. */
static bool find_part(const sending *s, size_t *item, int64_t *first, int64_t part) {
    for (; *item < s->list.n; ++*item) {
        int64_t n_parts = parts_of(s, *item);
        if (part - *first < n_parts) return true;
        *first += n_parts;
    }
    return false;
}

/* Before a lane takes its next part, and at its end. Whoever waits looks at `next` first, so no part in between escapes it. */
static void get_on(sending *s, int64_t lane, int64_t at) {
    atomic_store(&s->at[lane], at);
    waiter *w = s->waiter;
    if (!w || !atomic_load(&w->waits)) return;
    pthread_mutex_lock(&w->lock);
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void send_parts(sending *s, int64_t lane) {
    const ink_upload *u = &s->upload;
    const size_t part_bytes = u->memory->staging_bytes;
    size_t item = 0;
    int64_t first = 0;
    for (int64_t turn = 0; !atomic_load_explicit(&s->stop, memory_order_relaxed); turn = 1 - turn) {
        get_on(s, lane, atomic_load(&s->next));
        int64_t part = atomic_fetch_add(&s->next, 1);
        if (!find_part(s, &item, &first, part)) return;
        const ink_upload_item *of = &s->list.items[item];
        size_t at = (size_t)(part - first) * part_bytes, rest = of->size - at, n = rest < part_bytes ? rest : part_bytes;
        void *staging = u->memory->staging(u->device, 2 * lane + turn);
        if (!staging) return;
        read_bytes(u, staging, of->src + at, n);
        u->memory->send(u->device, 2 * lane + turn, of->dst + at, n);
        atomic_fetch_sub_explicit(&s->left, (int64_t)n, memory_order_relaxed);
    }
}

static void send_lane(void *context, int64_t lane, int64_t worker) {
    (void)worker;
    send_parts(context, lane);
    get_on(context, lane, INT64_MAX);
}

static bool has_sent(const sending *s, int64_t n_parts) {
    bool sent = atomic_load(&s->next) >= n_parts;
    for (int64_t i = 0; sent && i < s->n_lanes; i++) sent = atomic_load(&s->at[i]) >= n_parts;
    return sent;
}

void ink_upload_forget(ink_upload_list *list) {
    ink_free(list->items);
    *list = (ink_upload_list){0};
}

static void send_now(const ink_upload *u, const ink_upload_list *list) {
    sending s = {.next = 0};
    lay_out(&s, u, list);
    u->memory->begin_sending(u->device);
    run(u, s.n_lanes, send_lane, &s);
    u->memory->end_sending(u->device);
}

void ink_upload_all(const ink_upload *u, ink_upload_list *list) {
    if (list->n > 0) send_now(u, list);
    ink_upload_forget(list);
}

static bool is_small(const ink_upload *u, size_t size) { return size < u->memory->staging_bytes / 2; }

void ink_upload_bytes(const ink_upload *u, void *dst, const void *src, size_t size) {
    ink_upload_item item = {dst, src, size};
    if (is_small(u, size))
        u->memory->upload(u->device, dst, src, size);
    else
        send_now(u, &(ink_upload_list){&item, 1, 1, size});
}

void ink_upload_later(const ink_upload *u, ink_upload_list *list, void *dst, const void *src, size_t size) {
    ink_upload_item *items = is_small(u, size) ? NULL : ink_list_grow(list->items, list->n, sizeof *items, &list->capacity);
    if (!items) {
        ink_upload_bytes(u, dst, src, size);
        return;
    }
    list->items = items;
    list->items[list->n++] = (ink_upload_item){dst, src, size};
    list->bytes += size;
}

/* ---- beside other work ------------------------------------------------------------------------------------------------- */

struct ink_uploading {
    sending sending;
    pthread_t thread;
    waiter waiter;
};

static void *send_all(void *context) {
    ink_uploading *u = context;
    run(&u->sending.upload, u->sending.n_lanes, send_lane, &u->sending);
    pthread_mutex_lock(&u->waiter.lock);
    u->waiter.done = true;
    pthread_cond_signal(&u->waiter.changed);
    pthread_mutex_unlock(&u->waiter.lock);
    return NULL;
}

static void destroy(ink_uploading *u) {
    pthread_cond_destroy(&u->waiter.changed);
    pthread_mutex_destroy(&u->waiter.lock);
    ink_free(u);
}

ink_uploading *ink_upload_start(const ink_upload *upload, ink_upload_list *list) {
    ink_uploading *u = list->n > 0 ? ink_alloc(sizeof *u) : NULL;
    if (!u) return NULL;
    lay_out(&u->sending, upload, list);
    u->sending.waiter = &u->waiter;
    pthread_mutex_init(&u->waiter.lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&u->waiter.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    upload->memory->begin_sending(upload->device);
    if (pthread_create(&u->thread, NULL, send_all, u) != 0) {
        upload->memory->end_sending(upload->device);
        destroy(u);
        return NULL;
    }
    *list = (ink_upload_list){0};
    return u;
}

bool ink_uploading_wait(ink_uploading *u, size_t n, double seconds, int64_t *left) {
    sending *s = &u->sending;
    waiter *w = &u->waiter;
    int64_t n_parts = 0;
    for (size_t i = 0; i < n && i < s->list.n; i++) n_parts += parts_of(s, i);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t at = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(at / 1000000000);
    until.tv_nsec = at % 1000000000;
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->waits, n < s->list.n);
    while (!w->done && !has_sent(s, n_parts) && pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0) continue;
    bool sent = w->done || has_sent(s, n_parts);
    atomic_store(&w->waits, false);
    pthread_mutex_unlock(&w->lock);
    *left = atomic_load(&s->left);
    if (sent) s->upload.memory->see_sent(s->upload.device);
    return sent;
}

void ink_uploading_end(ink_uploading **uploading, bool stop) {
    ink_uploading *u = *uploading;
    if (!u) return;
    if (stop) atomic_store(&u->sending.stop, true);
    pthread_join(u->thread, NULL);
    u->sending.upload.memory->end_sending(u->sending.upload.device);
    ink_upload_forget(&u->sending.list);
    destroy(u);
    *uploading = NULL;
}
