/* synthetic.c - pools of encoded random rows, and matrices copied together from them. */
#include "tensor/synthetic.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/system.h"
#include "inkstone.h"
#include "tensor/quantize.h"

enum {
    POOL_ROWS = 64,
    N_NORMALS = 8209,      /* of the pool of vectors: a prime, so that no length goes round in it evenly */
    CHUNK_BYTES = 1 << 20, /* of a matrix, filled by one task */
    SEED = 20250804,       /* of all numbers here */
};

typedef struct pool {
    ink_weight rows; /* [POOL_ROWS, cols] */
    struct pool *next;
} pool;

struct ink_synthetic {
    ink_threads *threads;
    pool *pools;
    float *normals; /* [N_NORMALS] */
    double seconds;
};

ink_synthetic *ink_synthetic_create(ink_threads *threads) {
    ink_synthetic *s = ink_alloc(sizeof *s);
    if (!s) return NULL;
    s->threads = threads;
    s->normals = ink_alloc_array(N_NORMALS, sizeof *s->normals);
    if (!s->normals) {
        ink_free(s);
        return NULL;
    }
    ink_randn_torch_cpu_f32(s->normals, N_NORMALS, SEED);
    return s;
}

static void release_pool(pool *p) {
    if (!p) return;
    ink_free((void *)(uintptr_t)p->rows.data);
    ink_free((void *)(uintptr_t)p->rows.scales);
    ink_free((void *)(uintptr_t)p->rows.biases);
    ink_free(p);
}

void ink_synthetic_destroy(ink_synthetic **synthetic) {
    if (!*synthetic) return;
    for (pool *p = (*synthetic)->pools, *next; p; p = next) {
        next = p->next;
        release_pool(p);
    }
    ink_free((*synthetic)->normals);
    ink_free(*synthetic);
    *synthetic = NULL;
}

double ink_synthetic_seconds(const ink_synthetic *synthetic) { return synthetic->seconds; }

/* ---- pools --------------------------------------------------------------------------------------------------------- */

/* Bytes of n elements of a row, and of their scales (and as many of biases). */
static size_t data_bytes(const ink_weight *w, int64_t n) {
    return (size_t)(n / ink_dtype_block_elements(w->dtype) * ink_dtype_block_bytes(w->dtype));
}

static size_t scale_bytes(const ink_weight *w, int64_t n) {
    return w->group ? (size_t)(n / w->group) * ink_dtype_size(w->scale_dtype) : 0;
}

static pool *make_pool(ink_dtype dtype, int64_t cols) {
    pool *p = ink_alloc(sizeof *p);
    float *x = ink_alloc_array((size_t)cols, POOL_ROWS * sizeof *x);
    if (p && x) {
        ink_weight *w = &p->rows;
        ink_quantize_describe(w, dtype, POOL_ROWS, cols);
        w->data = ink_alloc_array(POOL_ROWS, data_bytes(w, cols));
        if (w->group) {
            w->scales = ink_alloc_array(POOL_ROWS, scale_bytes(w, cols));
            w->biases = ink_alloc_array(POOL_ROWS, scale_bytes(w, cols));
        } else if (w->n_scales) {
            w->scales = ink_alloc_array(POOL_ROWS, sizeof(float));
        }
    }
    bool complete = p && x && p->rows.data && (!p->rows.group || (p->rows.scales && p->rows.biases)) &&
                    (!p->rows.n_scales || p->rows.scales);
    if (complete) {
        float deviation = 1.0f / sqrtf((float)cols);
        ink_randn_torch_cpu_f32(x, POOL_ROWS * cols, (uint64_t)(SEED + cols));
        for (int64_t i = 0; i < POOL_ROWS * cols; i++) x[i] *= deviation;
        for (int64_t i = 0; i < POOL_ROWS; i++) ink_quantize_encode_row(&p->rows, i, x + i * cols);
    } else {
        release_pool(p);
        p = NULL;
    }
    ink_free(x);
    return p;
}

static const pool *find_pool(ink_synthetic *s, ink_dtype dtype, int64_t cols) {
    for (const pool *p = s->pools; p; p = p->next)
        if (p->rows.dtype == dtype && p->rows.cols == cols) return p;
    pool *made = make_pool(dtype, cols);
    if (!made) return NULL;
    made->next = s->pools;
    s->pools = made;
    return made;
}

/* ---- filling ------------------------------------------------------------------------------------------------------- */

static uint64_t hash_name(const char *name) {
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3;
    return hash;
}

/* Steele, Lea and Flood, "Fast splittable pseudorandom number generators": every bit of the result depends on all of x. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

typedef struct filling {
    const ink_weight *w, *pool;
    uint64_t key;
    int64_t rows_in_task;
} filling;

static void copy_turned(unsigned char *dst, const unsigned char *src, size_t n, size_t first) {
    memcpy(dst, src + first, n - first);
    memcpy(dst + n - first, src, first);
}

static void fill_part(const void *dst, const void *src, size_t n, size_t first, int64_t row, int64_t from) {
    copy_turned((unsigned char *)(uintptr_t)dst + (size_t)row * n, (const unsigned char *)src + (size_t)from * n, n, first);
}

static void fill_rows(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const filling *f = context;
    const ink_weight *w = f->w;
    int64_t end = (task + 1) * f->rows_in_task < w->rows ? (task + 1) * f->rows_in_task : w->rows;
    for (int64_t row = task * f->rows_in_task; row < end; row++) {
        uint64_t bits = mix(f->key + (uint64_t)row);
        int64_t unit = w->group ? w->group : 1, from = (int64_t)(bits % POOL_ROWS);
        int64_t first = (int64_t)((bits >> 8) % (uint64_t)(w->cols / unit)) * unit;
        fill_part(w->data, f->pool->data, data_bytes(w, w->cols), data_bytes(w, first), row, from);
        if (w->group) {
            fill_part(w->scales, f->pool->scales, scale_bytes(w, w->cols), scale_bytes(w, first), row, from);
            fill_part(w->biases, f->pool->biases, scale_bytes(w, w->cols), scale_bytes(w, first), row, from);
        } else if (w->n_scales) {
            fill_part(w->scales, f->pool->scales, sizeof(float), 0, row, from);
        }
    }
}

bool ink_synthetic_matrix(ink_synthetic *s, const ink_weight *w, const char *name) {
    double began = ink_seconds();
    const pool *p = find_pool(s, w->dtype, w->cols);
    if (!p) return false;
    filling f = {.w = w, .pool = &p->rows, .key = hash_name(name)};
    f.rows_in_task = 1 + CHUNK_BYTES / (int64_t)data_bytes(w, w->cols);
    ink_threads_run(s->threads, (w->rows + f.rows_in_task - 1) / f.rows_in_task, fill_rows, &f);
    s->seconds += ink_seconds() - began;
    return true;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

void ink_synthetic_vector(ink_synthetic *s, float *dst, int64_t n, const char *name) {
    bool norm = strstr(name, "norm") && !ends_with(name, ".bias");
    float mean = norm ? 1.0f : 0.0f, deviation = norm ? 0.1f : 0.02f;
    int64_t at = (int64_t)(mix(hash_name(name)) % N_NORMALS);
    for (int64_t i = 0; i < n; i++, at = at + 1 < N_NORMALS ? at + 1 : 0)
        dst[i] = ink_round_to_bf16(mean + deviation * s->normals[at]);
}
