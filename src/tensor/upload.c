/* upload.c - copies in parts, and page-locked memory that is filled while the link is at work. */
#define _POSIX_C_SOURCE 200809L /* pthread_condattr_setclock */
#include "tensor/upload.h"

#include <pthread.h>
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

enum { MOST_LANES = INK_N_STAGINGS / 2 };

/* A lane takes the next part of all items until none is left, through two stagings of its own in turn. */
typedef struct sending {
    ink_upload upload;
    ink_upload_list list;
    int64_t n_lanes;
    pthread_mutex_t lock;       /* of what follows */
    pthread_cond_t changed;     /* any of it */
    size_t item, at;            /* what comes next: of which item, from which byte on */
    size_t in_hand[MOST_LANES]; /* the item of the part that a lane sends; SIZE_MAX: none */
    int64_t left;               /* bytes that are not sent */
    bool stop, over;            /* no part is to be taken; all lanes have ended */
} sending;

static void begin(sending *s, const ink_upload *u, const ink_upload_list *list) {
    *s = (sending){.upload = *u, .list = *list, .left = (int64_t)list->bytes};
    s->n_lanes = u->threads ? ink_threads_count(u->threads) : 1;
    if (s->n_lanes > MOST_LANES) s->n_lanes = MOST_LANES;
    for (int i = 0; i < MOST_LANES; i++) s->in_hand[i] = SIZE_MAX;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    u->memory->begin_sending(u->device);
}

static void end(sending *s) {
    s->upload.memory->end_sending(s->upload.device);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
}

static void set(sending *s, bool *flag) {
    pthread_mutex_lock(&s->lock);
    *flag = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* The part before has been sent, so many bytes. False when there is no other. */
static bool take_part(sending *s, int64_t lane, size_t sent, ink_upload_item *part) {
    const size_t most = s->upload.memory->staging_bytes;
    pthread_mutex_lock(&s->lock);
    s->left -= (int64_t)sent;
    bool there = !s->stop && s->item < s->list.n;
    s->in_hand[lane] = there ? s->item : SIZE_MAX;
    if (there) {
        const ink_upload_item *of = &s->list.items[s->item];
        size_t rest = of->size - s->at, n = rest < most ? rest : most;
        *part = (ink_upload_item){of->dst + s->at, of->src + s->at, n};
        s->item += n == rest;
        s->at = n == rest ? 0 : s->at + n;
    }
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return there;
}

static void send_lane(void *context, int64_t lane, int64_t worker) {
    (void)worker;
    sending *s = context;
    const ink_upload *u = &s->upload;
    ink_upload_item part = {.size = 0};
    for (int64_t turn = 0; take_part(s, lane, part.size, &part); turn = 1 - turn) {
        void *staging = u->memory->staging(u->device, 2 * lane + turn);
        if (!staging) return;
        read_bytes(u, staging, part.src, part.size);
        u->memory->send(u->device, 2 * lane + turn, part.dst, part.size);
    }
}

/* Whether the first n items, or all, have been. Under the lock. */
static bool has_sent(const sending *s, size_t n) {
    bool sent = s->item >= n;
    for (int64_t i = 0; sent && i < s->n_lanes; i++) sent = s->in_hand[i] >= n;
    return sent || s->over;
}

void ink_upload_forget(ink_upload_list *list) {
    ink_free(list->items);
    *list = (ink_upload_list){0};
}

static void send_now(const ink_upload *u, const ink_upload_list *list) {
    sending s;
    begin(&s, u, list);
    run(u, s.n_lanes, send_lane, &s);
    end(&s);
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
};

static void *send_all(void *context) {
    sending *s = context;
    run(&s->upload, s->n_lanes, send_lane, s);
    set(s, &s->over);
    return NULL;
}

ink_uploading *ink_upload_start(const ink_upload *upload, ink_upload_list *list) {
    ink_uploading *u = list->n > 0 ? ink_alloc(sizeof *u) : NULL;
    if (!u) return NULL;
    begin(&u->sending, upload, list);
    if (pthread_create(&u->thread, NULL, send_all, &u->sending) != 0) {
        end(&u->sending);
        ink_free(u);
        return NULL;
    }
    *list = (ink_upload_list){0};
    return u;
}

bool ink_uploading_wait(ink_uploading *u, size_t n, double seconds, int64_t *left) {
    sending *s = &u->sending;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t at = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(at / 1000000000);
    until.tv_nsec = at % 1000000000;
    pthread_mutex_lock(&s->lock);
    while (!has_sent(s, n) && pthread_cond_timedwait(&s->changed, &s->lock, &until) == 0) continue;
    bool sent = has_sent(s, n);
    *left = s->left;
    pthread_mutex_unlock(&s->lock);
    if (sent) s->upload.memory->see_sent(s->upload.device);
    return sent;
}

void ink_uploading_end(ink_uploading **uploading, bool stop) {
    ink_uploading *u = *uploading;
    if (!u) return;
    if (stop) set(&u->sending, &u->sending.stop);
    pthread_join(u->thread, NULL);
    end(&u->sending);
    ink_upload_forget(&u->sending.list);
    ink_free(u);
    *uploading = NULL;
}
