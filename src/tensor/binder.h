/*
 * binder.h - binding: a model names each tensor that it needs, with its shape, once, in one function that serves three ends.
 *
 * Vectors (norms, biases) become f32. Matrices take the form that the precision says: used in place from the mapping when the
 * file stores that form, else converted into memory of a store.
 */
#ifndef INK_TENSOR_BINDER_H
#define INK_TENSOR_BINDER_H

#include <stdbool.h>

#include "base/threads.h"
#include "tensor/adapters.h"
#include "tensor/device_memory.h"
#include "tensor/residency.h"
#include "tensor/shuttle.h"
#include "tensor/store.h"
#include "tensor/synthetic.h"
#include "tensor/tensor.h"
#include "tensor/upload.h"
#include "tensor/weight.h"
#include "tensor/weights.h"

/*
 *   INK_BIND_CHECK   looks names, shapes and types up in the headers and counts bytes; what it fills has no data: for a dry run
 *   INK_BIND_LOAD    fills with data
 *   INK_BIND_REPORT  as CHECK, but goes on after a missing tensor and collects its name
 * Sticky: after a failure further calls do nothing; look at `status` once at the end.
 */
typedef enum ink_bind_mode { INK_BIND_CHECK, INK_BIND_LOAD, INK_BIND_REPORT } ink_bind_mode;

/* Blocks of a device that lie one behind the other: of data, scales, biases of groups; of vectors. */
enum { INK_RUN_DATA, INK_RUN_SCALES, INK_RUN_BIASES, INK_RUN_VECTORS, INK_N_RUNS };
typedef struct ink_placed_run {
    unsigned char *next;       /* NULL in a dry run */
    int64_t room_left, n_left; /* for those that are still to come */
    bool begun;
} ink_placed_run;

typedef struct ink_binder {
    const ink_weights *weights;
    /* NULL, or what fills random numbers in: weights are then not looked at, and any name and shape is as the model has it. */
    ink_synthetic *synthetic;
    ink_bind_mode mode;
    ink_precision precision;         /* INK_PRECISION_AUTO: every matrix as it is stored */
    ink_adapters *adapters;          /* NULL, or what is to be added to matrices */
    bool merge;                      /* add it to the weights themselves, which must be of 16 bits or more, not beside them */
    ink_threads *threads;            /* that read and convert; NULL: the caller alone */
    ink_store *store;                /* receives converted weights (INK_BIND_LOAD) and branches; NULL only without adapters */
    const ink_device_memory *memory; /* NULL, or where all weights go: the store's then, too. GGUF's types become BF16 there */
    const struct ink_device *device; /* ... of which device */
    ink_upload_list uploads;         /* to there, of numbers as files hold them */
    bool follows;                    /* ... which are left for ink_bind_bring */
    ink_uploading *coming;           /* ... which has begun to bring them; NULL: nothing is on its way */
    int64_t coming_bytes;            /* ... so many */
    int64_t n_together;              /* set by ink_bind_together */
    ink_placed_run runs[INK_N_RUNS];
    ink_residency *residency; /* NULL, or what stays of the parts that the model names */
    ink_part *part;           /* set by ink_bind_part: to which what is being bound belongs; NULL: to none */
    bool later;               /* ... and it is only looked up, since it will come and go */
    bool acquired;            /* ... and it has come, into the residency's buffer */
    ink_cargo *cargo;         /* ... or on a device: it is loaded to travel; NULL: it stays */
    ink_error *error;
    ink_status status;
    int64_t mapped_bytes;            /* used in place */
    int64_t stored_bytes;            /* converted, or to be converted */
    int64_t peak_bytes;              /* the most that stored_bytes ever was */
    int64_t largest_bytes;           /* of a tensor in the file ... */
    int64_t largest_converted_bytes; /* ... that is converted, and of use no longer than that takes */
    /* INK_BIND_LOAD, may be NULL: called after each tensor; a status other than INK_OK ends the binding. */
    ink_status (*loaded)(void *user, const struct ink_binder *binder);
    /* May be NULL: called about ten times a second while weights are awaited of which `left` bytes have not been sent; the same. */
    ink_status (*awaited)(void *user, const struct ink_binder *binder, int64_t left);
    void *user; /* of both */
    /* May be NULL: called for each matrix and convolution, as the file holds it, with the type that it takes at this precision. */
    void (*chosen)(void *user, const ink_tensor_info *info, const ink_weight *stored, ink_dtype form);
    void *chosen_user;
    bool *used;     /* [count] or NULL: marks tensors that were asked for */
    char **missing; /* INK_BIND_REPORT: owned names */
    size_t n_missing, missing_capacity;
} ink_binder;

/* The tensor NAME (made as by printf) as a vector of n f32. Its shape in the file may have further dimensions of 1. */
void ink_bind_vector(ink_binder *binder, ink_tensor *dst, int64_t n, const char *format, ...) __attribute__((format(printf, 4, 5)));

/*
 * The tensor NAME (made as by printf) as a matrix. With a name X.weight, packed integers come with X.scales and X.biases, and 8-bit
 * floats may come with X.scale_weight or X.weight_scale.
 */
void ink_bind_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The same for a matrix where errors weigh most, as at the ends of a network: no precision makes it smaller than 16 bits. */
void ink_bind_sensitive_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/*
 * A sensitive matrix of which rows are looked up, at most n_looked_up in a run. It stays in the host's memory, in place as the file
 * holds it, whatever the device and the precision, to which rows are rounded when they are looked up. Adapters change nothing in
 * it.
 */
void ink_bind_table(ink_binder *binder, ink_table *dst, int64_t rows, int64_t cols, int64_t n_looked_up, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/*
 * A convolution [out, in, kt, k, k] or [out, in, k, k], or where ink_weights_channels_last says so [out, kt, k, k, in] or
 * [out, k, k, in], as a matrix [out, k * k * in] in the order (ky, kx, channel), f32 or bf16. Of a causal 3-D kernel only the last
 * time slice is kept: at T = 1 the others see zeros.
 */
void ink_bind_conv(ink_binder *binder, ink_weight *dst, int64_t out, int64_t in, int64_t k, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/*
 * What follows belongs to that part (a block), up to the next call; -1: to none. A part that does not stay is only looked up here:
 * its weights have no data until it is acquired. On a device it is loaded, but is not there until it is acquired.
 */
void ink_bind_part(ink_binder *binder, int64_t part);

/*
 * Before a part is used. True: it comes and goes, and its tensors are to be named once more, now to be loaded, up to
 * ink_bind_part(binder, -1). False: it is there, or on a device will be when it is needed, unless the status says otherwise.
 * ink_residency_release ends its use.
 */
bool ink_bind_acquire(ink_binder *binder, int64_t part);

/*
 * The next n matrices, and the next n vectors, lie one behind the other on a device, if they are alike: as one of n times the rows.
 * 0 ends that. Without effect in the host's memory.
 */
void ink_bind_together(ink_binder *binder, int64_t n);

/*
 * After the last tensor of those that are used together: on a device they are there, for what is queued from here on. Without
 * effect in the host's memory.
 */
void ink_bind_finish(ink_binder *binder);

/*
 * After a binding: starts to bring what `follows`, in the order in which it was bound, which ends that. What is queued from then on
 * sees a part once it has been acquired, and the first n_uploads of `uploads` once they have been awaited.
 */
#define INK_ALL_UPLOADS SIZE_MAX
void ink_bind_bring(ink_binder *binder);
void ink_bind_await(ink_binder *binder, size_t n_uploads);

/* After all of it has been awaited, or with `stop` before. Without effect when nothing is on its way. */
void ink_bind_end_bringing(ink_binder *binder, bool stop);

/* Marks every tensor whose name starts with prefix as known though not needed. */
void ink_bind_ignore(ink_binder *binder, const char *prefix);

/* Tells the system that the file's bytes of a tensor are not needed soon. Others may still use them: they are read again. */
void ink_bind_drop(const ink_binder *binder, const char *name);

/* Releases what the binder itself owns (used, missing), not the store. */
void ink_binder_release(ink_binder *binder);

#endif
