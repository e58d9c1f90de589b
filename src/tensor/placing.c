/* placing.c - where on a device tensors come to lie, alone or one behind the other, for good or in a part that comes and goes. */
#include "tensor/placing.h"

#include <string.h>

#include "base/memory.h"
#include "inkstone.h"
#include "tensor/shuttle.h"
#include "tensor/upload.h"

enum {
    GRANULE = 256,
    PENDING_BYTES = 1 << 30 /* of uploads that are put off, after which they are carried out: a moment */
};

/* A block of its own. NULL in a dry run, which counts it, and without memory. */
static unsigned char *take_block(ink_binder *binder, int64_t bytes) {
    bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE;
    ink_binder_count_held(binder, bytes);
    if (binder->part) {
        binder->part->stored_bytes += bytes;
        binder->part->buffer_bytes += bytes;
    }
    if (binder->mode != INK_BIND_LOAD) return NULL;
    if (binder->cargo) return ink_cargo_take(binder->cargo, (size_t)bytes);
    ink_blocks *placed = &binder->store->placed;
    void *block = ink_blocks_make_room(placed) ? binder->memory->alloc(binder->device, (size_t)bytes) : NULL;
    if (block) placed->list[placed->n++] = block;
    return block;
}

/*
 * A place for size bytes, of which there may be `room` as far as a dry run knows: what it counts is what is taken. In a run (NULL:
 * in none) the first takes room for all, and the others come right behind it if they fit.
 */
static unsigned char *take_place(ink_binder *binder, int64_t size, int64_t room, ink_placed_run *run) {
    bool in_run = run && binder->n_together > 0;
    if (in_run && run->n_left > 0 && room <= run->room_left) {
        unsigned char *place = run->next;
        run->n_left--;
        run->room_left -= room;
        if (place) run->next += size;
        return place;
    }
    int64_t n = in_run && !run->begun ? binder->n_together : 1;
    unsigned char *place = take_block(binder, n * room);
    if (n > 1) *run = (ink_placed_run){place ? place + size : NULL, (n - 1) * room, n - 1, true};
    return place;
}

void ink_bind_together(ink_binder *binder, int64_t n) {
    binder->n_together = binder->memory ? n : 0;
    memset(binder->runs, 0, sizeof binder->runs);
}

static ink_upload upload_of(const ink_binder *binder) {
    return (ink_upload){binder->weights, binder->threads, binder->memory, binder->device};
}

/* What went wrong on the device up to here; name: of the tensor at work, or NULL. */
static void note_failure(ink_binder *binder, const char *name) {
    const char *failure = binder->memory->failure(binder->device);
    if (failure && binder->status == INK_OK)
        binder->status = ink_fail(binder->error, INK_ERROR_DEVICE, "%s: %s%s: %s", ink_binder_origin(binder),
                                  name ? "tensor " : "its tensors", name ? name : "", failure);
}

/* Brings size bytes, if there are any, to the device, where *data then points. */
static void place_bytes(ink_binder *binder, const void **data, int64_t size, int64_t room, ink_placed_run *run, const char *name) {
    if (size == 0 || binder->status != INK_OK) return;
    if (binder->mode == INK_BIND_LOAD) {
        binder->store->memory = binder->memory;
        binder->store->device = binder->device;
    }
    unsigned char *place = take_place(binder, size, room, run);
    if (binder->mode != INK_BIND_LOAD) return;
    if (!place) {
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY,
                                  "%s: no memory on the device for tensor %s, %lld bytes, after %.2f GiB of others",
                                  ink_binder_origin(binder), name, (long long)size, (double)binder->stored_bytes / 1073741824.0);
        return;
    }
    const ink_upload upload = upload_of(binder);
    bool stays = binder->weights && ink_weights_file_of(binder->weights, *data); /* what was converted is released soon */
    if (binder->cargo)
        ink_upload_copy(&upload, ink_cargo_host(binder->cargo, place), *data, (size_t)size);
    else if (stays)
        ink_upload_later(&upload, &binder->uploads, place, *data, (size_t)size);
    else
        ink_upload_bytes(&upload, place, *data, (size_t)size);
    if (binder->part) binder->part->n_uploads = binder->uploads.n;
    if (!binder->follows && binder->uploads.bytes >= PENDING_BYTES) ink_upload_all(&upload, &binder->uploads);
    note_failure(binder, name);
    *data = place;
}

static void upload_all(ink_binder *binder, const ink_upload *upload) {
    if (binder->status == INK_OK)
        ink_upload_all(upload, &binder->uploads);
    else
        ink_upload_forget(&binder->uploads);
    note_failure(binder, NULL);
}

void ink_bind_finish(ink_binder *binder) {
    if (!binder->memory || binder->mode != INK_BIND_LOAD || binder->follows) return;
    const ink_upload upload = upload_of(binder);
    upload_all(binder, &upload);
}

void ink_bind_bring(ink_binder *binder) {
    if (!binder->follows) return;
    const ink_upload upload = upload_of(binder);
    binder->coming_bytes = (int64_t)binder->uploads.bytes;
    if (binder->status == INK_OK) binder->coming = ink_upload_start(&upload, &binder->uploads);
    binder->follows = false;
    if (!binder->coming) upload_all(binder, &upload);
}

void ink_bind_await(ink_binder *binder, size_t n_uploads) {
    int64_t left;
    while (binder->coming && binder->status == INK_OK && !ink_uploading_wait(binder->coming, n_uploads, 0.1, &left))
        if (binder->awaited) binder->status = binder->awaited(binder->user, binder, left);
}

void ink_bind_end_bringing(ink_binder *binder, bool stop) {
    if (!binder->coming) return;
    ink_uploading_end(&binder->coming, stop);
    note_failure(binder, NULL);
}

/* runs: of data, scales and biases, or NULL. */
static void place_matrix(ink_binder *binder, ink_weight *w, ink_placed_run *runs, const char *name) {
    int64_t data_bytes = ink_weight_data_bytes(w), scale_bytes = ink_weight_scale_bytes(w), bias_bytes = w->group ? scale_bytes : 0;
    place_bytes(binder, &w->data, data_bytes, data_bytes, runs ? &runs[INK_RUN_DATA] : NULL, name);
    place_bytes(binder, &w->scales, scale_bytes, scale_bytes, runs ? &runs[INK_RUN_SCALES] : NULL, name);
    place_bytes(binder, &w->biases, bias_bytes, bias_bytes, runs ? &runs[INK_RUN_BIASES] : NULL, name);
}

size_t ink_place_mark(const ink_binder *binder) { return binder->store ? binder->store->host.n : 0; }

void ink_place_weight(ink_binder *binder, ink_weight *w, size_t mark, const char *name) {
    if (!binder->memory) return;
    place_matrix(binder, w, binder->runs, name);
    /* The binder made them, and nobody else has them yet. */
    ink_weight *down = (ink_weight *)(uintptr_t)w->down, *up = (ink_weight *)(uintptr_t)w->up;
    if (down) place_matrix(binder, down, NULL, name);
    if (up) place_matrix(binder, up, NULL, name);
    if (!binder->store) return;
    ink_blocks *host = &binder->store->host;
    size_t n_kept = mark;
    for (size_t i = mark; i < host->n; i++)
        if (host->list[i] == down || host->list[i] == up)
            host->list[n_kept++] = host->list[i];
        else
            ink_free(host->list[i]);
    host->n = n_kept;
}

/* Vectors take 16 bits where they have no more, but with f32 everywhere. A dry run does not know; it leaves room for 32. */
void ink_place_vector(ink_binder *binder, ink_tensor *x, size_t mark, const char *name) {
    if (!binder->memory) return;
    bool halves = binder->precision != INK_PRECISION_F32 && x->data;
    for (int64_t i = 0; halves && i < x->cols; i++) halves = ink_round_to_bf16(x->data[i]) == x->data[i];
    uint16_t *narrow = halves ? ink_store_take(binder->store, (size_t)x->cols * sizeof *narrow) : NULL;
    for (int64_t i = 0; narrow && i < x->cols; i++) narrow[i] = ink_bf16_from_f32(x->data[i]);
    const void *data = narrow ? (const void *)narrow : x->data;
    if (narrow) x->type = INK_BF16;
    place_bytes(binder, &data, x->cols * (int64_t)ink_dtype_size(x->type), x->cols * (int64_t)sizeof(float),
                &binder->runs[INK_RUN_VECTORS], name);
    x->data = (float *)(uintptr_t)data;
    ink_place_weight(binder, &(ink_weight){0}, mark, name);
}
