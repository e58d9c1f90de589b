/*
 * checkops.h - what the checks of the ops share: memory with guards, random numbers, and the call that compares a tier with the
 * definition. The checks of an op stand in check_<family>.c, one function per op.
 *
 * A check makes a case: it takes tensors, fills them, works out how far a result may be from the definition, and hands the call to
 * check_call. All tensors of a case lie in one block of memory, at odd places and strides, and all bytes between them are NaN. What
 * is read from there spoils the result; what is written there is found, as is a change of an operand that the op must only read.
 */
#ifndef CHECKOPS_H
#define CHECKOPS_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/ops.h"

/* Half of the distance from 1 to the next f32: the largest relative error of one rounding. */
#define ROUNDING 0x1p-24
/* The distance between subnormal numbers: the largest error of a rounding that has no relative bound. */
#define SMALLEST 0x1p-149

enum { N_THREAD_COUNTS = 3 };

/*
 * Cases with BF16 tensors, for devices with rounds_scratch. A check makes its case in f32 as ever; these bits say which operands
 * the device under test is given in BF16 (narrowing.c). Their numbers must be bf16 numbers: take_for sees to that.
 */
typedef enum narrow_role {
    NARROW_X = 1,       /* the first source, or all sources that are alike: q, k and v */
    NARROW_Y = 2,       /* what is added to the residual stream */
    NARROW_DST = 4,     /* and what is added to it */
    NARROW_VECTORS = 8, /* bias, gate, scale, shift, weights of norms */
} narrow_role;

enum { MOST_NARROWED = 8 };

typedef struct checker {
    ink_device device;    /* under test; check_call sets its threads */
    ink_device narrowing; /* gives it BF16 */
    ink_device definition;
    ink_threads *threads[N_THREAD_COUNTS]; /* 1, 2, 3 */
    uint64_t seed;
    uint64_t random;
    bool quiet;       /* print no failures, and jump to `stop` after the first */
    jmp_buf stop;     /* also taken when the device has failed */
    float *copies[8]; /* of results, in use */
    int n_copies;
    double worst; /* the largest difference, as a part of what was allowed */
    int64_t n_cases, n_failures, n_printed;
    const char *op;
    char label[256];
    unsigned char *memory, *snapshot; /* of a case; the first is shared with a device that has memory of its own */
    size_t memory_bytes, memory_used;
    bool real_shapes; /* also those of the published model, where the device is fast enough to wait for `ref` alone */
    bool aligned;     /* this case: as allocations are, where the fast paths of a device begin */
    unsigned narrow;  /* narrow_role */
    uint16_t *halves, *halves_before; /* memory as BF16, element by element */
    struct {
        const float *first, *end;
    } narrowed[MOST_NARROWED]; /* views of the last call */
    int n_narrowed;
    double *bounds; /* of a case */
    size_t bounds_used;
} checker;

void checker_create(checker *c, uint64_t seed);
void checker_destroy(checker *c);
/* Takes and returns the memory of a device's cases. */
void checker_open(checker *c, const ink_device *device);
void checker_close(checker *c);
/* Starts the checks of an op: the random numbers depend on seed and op alone. */
void checker_begin(checker *c, const char *op, unsigned narrow);

/* ---- making a case -------------------------------------------------------------------------------------------------- */

/* Forgets the tensors of the last case. */
__attribute__((format(printf, 2, 3))) void begin_case(checker *c, const char *format, ...);

typedef enum fill {
    NORMAL,
    INTEGERS,   /* -4..4: products and sums of them are exact */
    ZEROS,      /* of both signs */
    MASSIVE,    /* normal, and one column 10000 times larger, as in trained transformers */
    OFFSET,     /* 1000 and a hundredth of a normal */
    SUBNORMALS, /* -4..4 times the smallest f32 */
    N_FILLS
} fill;

const char *fill_name(fill kind);

/* [rows, cols], each element size times a number of that kind. */
ink_tensor take(checker *c, int64_t rows, int64_t cols, fill kind, double size);
/* The same, of bf16 numbers if operands of that role are given as BF16. */
ink_tensor take_for(checker *c, narrow_role role, int64_t rows, int64_t cols, fill kind, double size);
/* [rows, cols] of NaN: for results. */
ink_tensor take_blank(checker *c, int64_t rows, int64_t cols);
/* F32 or BF16 */
ink_weight take_weight(checker *c, ink_dtype dtype, int64_t rows, int64_t cols, fill kind, double size);
/* Any other form, filled with bytes at random whose numbers are below 8, at any alignment; cols is a multiple of its block. */
ink_weight take_packed_weight(checker *c, ink_dtype dtype, int64_t rows, int64_t cols);
double weight_at(const ink_weight *w, int64_t row, int64_t col);
/* Devices with memory of their own are never given blocks of GGUF: those are converted before. */
bool takes_weights(const checker *c, ink_dtype dtype);

uint64_t random_bits(checker *c);
/* 0..n-1 */
int64_t random_below(checker *c, int64_t n);
double random_normal(checker *c);

/* ---- judging a case ------------------------------------------------------------------------------------------------- */

/* One result: how far from the definition each element may be, [rows * cols], or NULL: it must be equal. */
typedef struct result {
    ink_tensor view;
    const double *bound;
} result;

/* [n] numbers that live as long as the case. */
double *take_bounds(checker *c, int64_t n);

/*
 * Runs the call on `ref` and on the device under test, there with 1, 2 and 3 threads and with 1 again. Fails when a result is too
 * far from the definition, when runs differ in any bit, or when anything but the results changed. Afterwards the results hold what
 * the device made with one thread.
 */
typedef void (*op_call)(const ink_device *device, const void *arguments);
void free_copies(checker *c); /* after a jump to `stop` */
void check_call(checker *c, op_call call, const void *arguments, const result *results, int n_results);

/* The call on the device under test alone, for properties beside the definition. */
void call_device(checker *c, op_call call, const void *arguments);
/* Until the device has done what was queued; jumps to `stop` when it has failed. */
void settle(checker *c);

/* ", bf16 x dst"; static storage */
const char *narrow_name(unsigned narrow);

/* For properties beside the definition: found must be within bound (NULL: equal) of expected, both of one shape. */
void check_equal(checker *c, const char *property, ink_tensor found, ink_tensor expected, const double *bound);

/*
 * The factor of ROUNDING that a sum of n terms may be wrong by, relative to the sum of the terms' magnitudes, in any order of f32
 * summation. Errors of random sign grow with the square root of the depth: 0.58 sqrt(n) of them in the worst case, that of a large
 * first term, and seven times that is never seen. A term left out of n is 1 / n of the sum, and a bf16 accumulator loses 2^-9 of
 * it: both are far more.
 */
double sum_factor(int64_t n);

/*
 * Whether the tier under test rounds both sides of a product with weights of that type to bf16. Integers as INTEGERS has them
 * stay exact. What is rounded already must come out as close as from any tier, so half of the cases begin with round_rows.
 */
bool rounds_rows(const checker *c, ink_dtype dtype);
void round_rows(ink_tensor x);
/* How far a sum of n products may be off: `rounding` says how, `magnitude` is the sum of |x w|, `operands`
   that of |x| + |w|, `rounded` whether the x are bf16 numbers. dtype is that of the w. */
typedef enum operand_rounding { KEPT, TO_TWO_BF16, TO_BF16, TO_F8 } operand_rounding; /* of the x; the w are bf16 but with KEPT */
double product_error(operand_rounding rounding, ink_dtype dtype, int64_t n, double magnitude, double operands, bool rounded);

/* Memory for ink_linear_epilogue and ink_conv_shape, of which the last taken holds; never released. */
void *room_for_packing(const ink_device *device, int64_t bytes);

/* ---- BF16 ------------------------------------------------------------------------------------------------------------ */

/* The largest relative error of a rounding to bf16: half the distance from 1 to the next; and the largest of subnormals. */
#define ONE_TO_BF16 0x1p-8
#define LEAST_TO_BF16 0x1p-134

/* A table whose ops give the device under test the operands of c->narrow in BF16, and widen what it made of them. */
extern const ink_ops narrowing_ops;
/* Whether the last call gave the tensor at that address as BF16. */
bool was_narrowed(const checker *c, const float *data);

/*
 * A device on the host that does what a rounding device with memory of its own does: `ref` on widened copies, rounded. With it the
 * checks of such devices are run where there is none.
 */
typedef enum typed_bug {
    NO_BUG,
    TRUNCATES,
    ROUNDS_SUM,       /* to bf16, before the bias */
    WRITES_PAST_BF16, /* a row, by one number */
    ROUNDS_RESIDUAL,  /* x of the residual stream loses bits */
    BF16_SCORES,
    VECTORS_AS_F32, /* though they are BF16 */
    F8_PRODUCT_LOST,
    F32_PIXELS_ROUNDED,
    FAILS,
} typed_bug;
ink_device typed_device(typed_bug bug);

/* ---- the checks, by name of the op ---------------------------------------------------------------------------------- */

enum { MOST_TYPED = 3 };

typedef struct family {
    const char *op;
    void (*check)(checker *c);
    unsigned typed[MOST_TYPED]; /* what may be BF16, of narrow_role; up to the first 0 */
} family;

extern const family families[]; /* ended by a null name */

void check_linear(checker *c);
void check_layernorm_modulate(checker *c);
void check_gated_residual_layernorm_modulate(checker *c);
void check_rmsnorm(checker *c);
void check_residual_rmsnorm(checker *c);
void check_rmsnorm_channels(checker *c);
void check_rmsnorm_rope(checker *c);
void check_rope_half(checker *c);
void check_attention(checker *c);
void check_conv2d(checker *c);
void check_upsample2x(checker *c);
void check_silu_mul(checker *c);
void check_timestep_embed(checker *c);
void check_unpatchify(checker *c);
void check_cfg_combine(checker *c);
void check_euler_step(checker *c);
void check_copy(checker *c);

/* Runs the checks on implementations that are wrong on purpose; the number of those that were not caught. */
int run_planted(checker *c);
int run_planted_typed(checker *c);
/* Runs the check of that op; returns when it is done, and early when the device has failed, or quietly when a case has. */
void run_check(checker *c, const char *op);

typedef struct bench_options {
    const char *tier, *op; /* NULL: all; tier "auto": the best one */
    const char *filter;    /* NULL, or a part of the names of rows that are wanted: "bf16 [1056" */
    int64_t threads;       /* 0: one per core */
    bool with_ref;         /* the definition as well, on some rows of each shape */
    bool with_cold;        /* also with weights that no cache holds */
} bench_options;

/* Times the ops on shapes of the published model. */
void run_bench(const bench_options *options);

#endif
