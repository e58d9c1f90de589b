/* residency.c - the list of what each part reads, and a thread that reads ahead. */
#include "tensor/residency.h"

#include <pthread.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/memory.h"
#include "tensor/shuttle.h"

typedef struct ink_part_range {
    const unsigned char *data;
    size_t size;
} range;

/*
 * A thread of its own, since a request to read ahead waits for the disk when that has many already. It holds no data: whatever it
 * has not come to is read when it is touched.
 */
typedef struct ink_reader {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t asked;
    const ink_part *part; /* to read next, or being read; NULL: none */
    bool stop;
} reader;

/* ---- parts --------------------------------------------------------------------------------------------------------- */

ink_status ink_residency_create(ink_residency **residency, const ink_weights *weights, int64_t n_parts, int64_t n_stay,
                                ink_error *error) {
    ink_residency *r = ink_alloc(sizeof *r);
    if (r) *r = (ink_residency){.weights = weights, .n_parts = n_parts, .n_stay = n_stay};
    if (r) r->parts = ink_alloc_array((size_t)n_parts, sizeof *r->parts);
    *residency = r;
    if (r && r->parts) return INK_OK;
    ink_residency_destroy(residency);
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for the list of its blocks",
                    weights ? ink_weights_origin(weights) : "random weights");
}

ink_status ink_residency_to_device(ink_residency *r, const ink_device_memory *memory, const struct ink_device *device,
                                   const ink_part *counted, ink_error *error) {
    return r->n_stay < r->n_parts ? ink_shuttle_create(&r->shuttle, memory, device, r, counted, error) : INK_OK;
}

static void stop_reading(ink_residency *r) {
    reader *ahead = r->reader;
    if (!ahead) return;
    pthread_mutex_lock(&ahead->lock);
    ahead->stop = true;
    pthread_cond_signal(&ahead->asked);
    pthread_mutex_unlock(&ahead->lock);
    pthread_join(ahead->thread, NULL);
    pthread_cond_destroy(&ahead->asked);
    pthread_mutex_destroy(&ahead->lock);
    ink_free(ahead);
    r->reader = NULL;
}

void ink_residency_destroy(ink_residency **residency) {
    ink_residency *r = *residency;
    if (!r) return;
    stop_reading(r);
    ink_shuttle_destroy(&r->shuttle);
    for (int64_t i = 0; r->parts && i < r->n_parts; i++) ink_free(r->parts[i].ranges);
    ink_free(r->parts);
    ink_arena_destroy(&r->buffer);
    ink_free(r);
    *residency = NULL;
}

bool ink_residency_stays(const ink_residency *r, int64_t part) { return !r || ink_part_stays(r->n_parts, r->n_stay, part); }

int64_t ink_residency_index(const ink_residency *r, int64_t part) { return ink_parts_gone(r->n_parts, r->n_stay, part); }

bool ink_residency_note(ink_part *p, const void *data, size_t size) {
    range *ranges = ink_list_grow(p->ranges, p->n_ranges, sizeof *ranges, &p->capacity);
    if (!ranges) return false;
    p->ranges = ranges;
    p->ranges[p->n_ranges++] = (range){data, size};
    p->file_bytes += (int64_t)size;
    return true;
}

/* ---- reading ahead --------------------------------------------------------------------------------------------------- */

/* False when something else is wanted by now. */
static bool read_range(reader *ahead, const ink_part *part, range r) {
    for (size_t at = 0; at < r.size; at += INK_READ_AHEAD_BYTES) {
        size_t rest = r.size - at;
        ink_mapfile_read_ahead(r.data + at, rest < INK_READ_AHEAD_BYTES ? rest : INK_READ_AHEAD_BYTES);
        pthread_mutex_lock(&ahead->lock);
        bool wanted = !ahead->stop && ahead->part == part;
        pthread_mutex_unlock(&ahead->lock);
        if (!wanted) return false;
    }
    return true;
}

static void *read_ahead(void *argument) {
    reader *ahead = argument;
    pthread_mutex_lock(&ahead->lock);
    while (!ahead->stop) {
        const ink_part *part = ahead->part;
        if (!part) {
            pthread_cond_wait(&ahead->asked, &ahead->lock);
            continue;
        }
        pthread_mutex_unlock(&ahead->lock);
        for (size_t i = 0; i < part->n_ranges && read_range(ahead, part, part->ranges[i]);) i++;
        pthread_mutex_lock(&ahead->lock);
        if (ahead->part == part) ahead->part = NULL;
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

ink_status ink_residency_start(ink_residency *r, ink_error *error) {
    if (!r || r->shuttle || r->n_stay >= r->n_parts) return INK_OK;
    int64_t most = 0;
    for (int64_t i = 0; i < r->n_parts; i++)
        if (!ink_residency_stays(r, i) && r->parts[i].buffer_bytes > most) most = r->parts[i].buffer_bytes;
    reader *ahead = ink_alloc(sizeof *ahead);
    if (!ahead || !ink_arena_create(&r->buffer, (size_t)most)) {
        ink_free(ahead);
        return ink_fail(error, INK_ERROR_MEMORY, "no memory for a block that is read again at each step");
    }
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->asked, NULL);
    if (pthread_create(&ahead->thread, NULL, read_ahead, ahead) != 0) {
        pthread_cond_destroy(&ahead->asked);
        pthread_mutex_destroy(&ahead->lock);
        ink_free(ahead);
        return ink_fail(error, INK_ERROR_MEMORY, "no thread can be made that reads ahead");
    }
    r->reader = ahead;
    return INK_OK;
}

void ink_residency_begin(const ink_residency *r) {
    if (r && r->shuttle) ink_shuttle_begin(r->shuttle);
}

void ink_residency_prefetch(ink_residency *r, int64_t part) {
    if (!r || !r->reader) return;
    while (part < r->n_parts && ink_residency_stays(r, part)) part++;
    if (part >= r->n_parts) return;
    const ink_part *wanted = &r->parts[part];
    pthread_mutex_lock(&r->reader->lock);
    r->reader->part = wanted;
    pthread_cond_signal(&r->reader->asked);
    pthread_mutex_unlock(&r->reader->lock);
}

void ink_residency_release(ink_residency *r, int64_t part) {
    if (ink_residency_stays(r, part)) return;
    if (r->shuttle) {
        ink_shuttle_release(r->shuttle, ink_residency_index(r, part));
        return;
    }
    const ink_part *p = &r->parts[part];
    for (size_t i = 0; i < p->n_ranges; i++) {
        const ink_mapfile *file = ink_weights_file_of(r->weights, p->ranges[i].data);
        if (file) ink_mapfile_evict(file, p->ranges[i].data, p->ranges[i].size);
    }
    ink_arena_release(&r->buffer, 0);
}
