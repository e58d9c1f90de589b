/* upload.c - copies in parts, and page-locked memory that is filled while the link is at work. */
#include "tensor/upload.h"

#include <string.h>

#include "base/mapfile.h"

enum { PART_BYTES = 1 << 20, SMALL_BYTES = 1 << 20 };

typedef struct copying {
    unsigned char *dst;
    const unsigned char *src;
    size_t size;
    const ink_mapfile *file;
} copying;

static void copy_part(void *context, int64_t part, int64_t worker) {
    (void)worker;
    const copying *c = context;
    size_t at = (size_t)part * PART_BYTES, rest = c->size - at, n = rest < PART_BYTES ? rest : PART_BYTES;
    size_t n_read = c->file ? ink_mapfile_read(c->file, c->dst + at, c->src + at, n) : 0;
    if (n_read < n) memcpy(c->dst + at + n_read, c->src + at + n_read, n - n_read);
}

void ink_upload_copy(const ink_upload *u, void *dst, const void *src, size_t size) {
    copying c = {.dst = dst, .src = src, .size = size, .file = u->weights ? ink_weights_file_of(u->weights, src) : NULL};
    int64_t n_parts = (int64_t)((size + PART_BYTES - 1) / PART_BYTES);
    if (u->threads)
        ink_threads_run(u->threads, n_parts, copy_part, &c);
    else
        for (int64_t part = 0; part < n_parts; part++) copy_part(&c, part, 0);
}

void ink_upload_bytes(const ink_upload *u, void *dst, const void *src, size_t size) {
    if (size < SMALL_BYTES) {
        u->memory->upload(u->device, dst, src, size);
        return;
    }
    size_t at = 0, room = 0;
    while (at < size) {
        void *staging = u->memory->staging(u->device, &room);
        if (!staging) return;
        size_t n = size - at < room ? size - at : room;
        ink_upload_copy(u, staging, (const unsigned char *)src + at, n);
        u->memory->send(u->device, (unsigned char *)dst + at, staging, n);
        at += n;
    }
}
