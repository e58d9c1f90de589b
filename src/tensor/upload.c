/* upload.c - copies in parts, and page-locked memory that is filled while the link is at work. */
#include "tensor/upload.h"

#include <stdatomic.h>
#include <string.h>

#include "base/mapfile.h"

enum {
    PART_BYTES = 1 << 20,
    SMALL_BYTES = 1 << 20,
    PENDING_BYTES = 1 << 30 /* of a list, after which it is carried out: a moment */
};

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

/* A lane takes the next part of all items until none is left, through two stagings of its own in turn. */
typedef struct sending {
    const ink_upload *upload;
    const ink_upload_list *list;
    size_t part_bytes;
    _Atomic int64_t next; /* of the parts of all items, which follow each other */
} sending;

/* Goes on from the item whose first part is `first` to that of a later part. False behind the last. */
static bool find_part(const sending *s, int64_t *item, int64_t *first, int64_t part) {
    for (; *item < s->list->n; ++*item) {
        int64_t n_parts = (int64_t)((s->list->items[*item].size + s->part_bytes - 1) / s->part_bytes);
        if (part - *first < n_parts) return true;
        *first += n_parts;
    }
    return false;
}

static void send_lane(void *context, int64_t lane, int64_t worker) {
    (void)worker;
    sending *s = context;
    const ink_upload *u = s->upload;
    int64_t item = 0, first = 0;
    for (int64_t turn = 0;; turn = 1 - turn) {
        int64_t part = atomic_fetch_add(&s->next, 1);
        if (!find_part(s, &item, &first, part)) return;
        size_t at = (size_t)(part - first) * s->part_bytes, rest = s->list->items[item].size - at, room = 0;
        size_t n = rest < s->part_bytes ? rest : s->part_bytes;
        void *staging = u->memory->staging(u->device, 2 * lane + turn, &room);
        if (!staging) return;
        read_bytes(u, staging, s->list->items[item].src + at, n);
        u->memory->send(u->device, 2 * lane + turn, s->list->items[item].dst + at, n);
    }
}

void ink_upload_all(const ink_upload *u, ink_upload_list *list) {
    sending s = {.upload = u, .list = list};
    if (list->n == 0) return;
    int64_t n_lanes = u->threads ? ink_threads_count(u->threads) : 1;
    if (n_lanes > INK_N_STAGINGS / 2) n_lanes = INK_N_STAGINGS / 2;
    if (u->memory->staging(u->device, 0, &s.part_bytes)) run(u, n_lanes, send_lane, &s);
    list->n = 0;
    list->bytes = 0;
}

void ink_upload_later(const ink_upload *u, ink_upload_list *list, void *dst, const void *src, size_t size) {
    if (size < SMALL_BYTES) {
        u->memory->upload(u->device, dst, src, size);
        return;
    }
    list->items[list->n].dst = dst;
    list->items[list->n].src = src;
    list->items[list->n++].size = size;
    list->bytes += size;
    if (list->n == INK_MOST_PENDING || list->bytes >= PENDING_BYTES) ink_upload_all(u, list);
}

void ink_upload_bytes(const ink_upload *u, void *dst, const void *src, size_t size) {
    ink_upload_list alone = {.n = 0};
    ink_upload_later(u, &alone, dst, src, size);
    ink_upload_all(u, &alone);
}
