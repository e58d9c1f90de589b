/*
 * device.h - what a back end is: a table of the ops, a table for its memory if that is not the host's, and what it likes. C and C++
 * read this file; it declares no functions, so that a back end can be a module of its own.
 *
 * Shapes stand in comments as [rows, cols]. dst may be the same view as a source only where the comment says "in place".
 */
#ifndef INK_OPS_DEVICE_H
#define INK_OPS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/device_memory.h"
#include "tensor/tensor.h"
#include "tensor/weight.h"

typedef enum ink_activation { INK_ACT_NONE, INK_ACT_GELU_TANH, INK_ACT_SILU } ink_activation;

/* What `linear` does with x W^T before it stores: add bias, activate, multiply by gate, add to what dst holds. */
typedef struct ink_linear_epilogue {
    const ink_tensor *bias;    /* [1, out] or NULL */
    ink_activation activation; /* after the bias */
    const ink_tensor *gate;    /* [1, out] or NULL: per column, after the activation */
    bool add_to_dst;           /* dst += v rather than dst = v */
    const ink_tensor *low;     /* set by the wrapper, for a weight with a branch: [n, rank], x down^T; or x itself without down */
    bool may_round;            /* set by the wrapper: x and low to bf16, where that is faster, and x to 8 bits for weights in I8
                                  (ink_weight_takes_integers); else to two numbers of bf16 each */
    void *packed;              /* set by the wrapper: ink_packed_bytes of memory that the implementation may use, aligned to 64 */
} ink_linear_epilogue;

/*
 * What a product may need to hold a block of its left rows, each of n_parts parts of k numbers, in the order that it likes. Those
 * of a convolution have many parts, and are taken in smaller blocks. There is room for so many of `rows` rows, whole tiles of any
 * tier, with 4 bytes for a number.
 */
enum { INK_PACKED_ROWS = 2112, INK_PACKED_TILE = 96, INK_PACKED_UNIT = 64 };
static inline int64_t ink_packed_rows(int64_t rows, int64_t n_parts) {
    int64_t most = n_parts > 1 ? INK_PACKED_ROWS / 2 : INK_PACKED_ROWS;
    return rows < most ? (rows + INK_PACKED_TILE - 1) / INK_PACKED_TILE * INK_PACKED_TILE : most;
}

enum { INK_MAX_HEAD_DIM = 4096 };

/* Rows of a view that come in two runs: row i >= split lies `rows` rows further down than it otherwise would. {0, 0}: one run. */
typedef struct ink_gap {
    int64_t split, rows;
} ink_gap;

static inline float *ink_row_across(ink_tensor x, ink_gap gap, int64_t row) {
    return ink_row(x, row < gap.split ? row : row + gap.rows);
}

typedef struct ink_attention_shape {
    int64_t n_heads, n_kv_heads, head_dim; /* query head i uses key head i / (n_heads / n_kv_heads) */
    float scale;                           /* of q.k before the softmax; > 0 */
    bool causal;                           /* query i sees keys 0..i */
    ink_gap q_gap, kv_gap;                 /* of q and dst; of k and v. What lies inside a gap is neither read nor written */
    bool may_round;                        /* q, k, v and weights of the softmax to bf16, where that is faster; by the wrapper */
    bool by_library;                       /* of the device, if there is one, even where our kernel is faster; by the wrapper */
} ink_attention_shape;

enum { INK_MOST_ADDED = 2 };

/* A residual stream, and what one or two layers have left beside it: not added yet, or added for the next layer only. */
typedef struct ink_residual {
    ink_tensor x;                                       /* [n, d], F32 */
    int n;                                              /* of the following */
    ink_tensor gate[INK_MOST_ADDED], y[INK_MOST_ADDED]; /* [1, d]; [n, d], all of one type */
    bool stays;                                         /* x is only read */
} ink_residual;

/* A square convolution over pixels [height * width, channels], zero-padded. A part of a picture that goes on has no padding there.
 */
typedef struct ink_conv_shape {
    int64_t height, width; /* of the source */
    int64_t kernel, stride;
    int64_t pad_above, pad_below, pad_left, pad_right;
    void *packed; /* as in ink_linear_epilogue, for kernel * kernel parts */
} ink_conv_shape;

static inline int64_t ink_conv_out_height(ink_conv_shape s) {
    return (s.height + s.pad_above + s.pad_below - s.kernel) / s.stride + 1;
}

static inline int64_t ink_conv_out_width(ink_conv_shape s) {
    return (s.width + s.pad_left + s.pad_right - s.kernel) / s.stride + 1;
}

/* Of what this file declares: a module built from another one is refused. */
enum { INK_DEVICE_INTERFACE = 11 };

/* Where ops run. The inner loops of a tier are compiled for its instruction set; the tables above them may be shared by tiers. */
typedef struct ink_device {
    const char *tier; /* "ref", "c", "avx2", "neon" ..., "cuda" */
    const struct ink_ops *ops;
    const void *kernels;             /* what the implementations of this table need of their tier; NULL for `ref` */
    struct ink_threads *threads;     /* borrowed */
    bool rounds_rows;                /* products round both sides to bf16, unless the weight is F32 or the caller says otherwise */
    const ink_device_memory *memory; /* NULL: ops work in the host's memory */
    bool rounds_scratch;             /* ink_scratch_rounded gives bf16, where the caller may round */
    bool sides_together;             /* attention is fastest on rows that lie in one run */
    int64_t mlp_rows;                /* that an MLP is best given at a time; 0: all */
    int64_t decode_pixels;           /* of a picture, that its decoder is best given at a time; 0: all */
    void (*close)(struct ink_device *); /* NULL: nothing is to be closed */
} ink_device;

/*
 * Implementations get checked shapes. On a device with rounds_scratch any tensor [n, ...] of activations may be BF16, but for the
 * residual streams x, and vectors [1, ...] too where their numbers have no more bits; elsewhere all are F32.
 */
typedef struct ink_ops {
    /* dst [n, out] (=, or +=) act(x [n, in] W^T [out, in] + bias) * gate; a weight with a branch adds low [n, rank] up^T
       [out, rank] to x W^T */
    void (*linear)(const ink_device *, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e);

    /* dst [n, d] = LN(x [n, d]) * (1 + scale [1, d]) + shift [1, d];  LN(x) = (x - mean) / sqrt(var + eps), biased variance */
    void (*layernorm_modulate)(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps);

    /* dst [n, d] = layernorm_modulate(x + gate * y + ...), a sum that also becomes x unless that stays. dst may be y[0]. */
    void (*gated_residual_layernorm_modulate)(const ink_device *, ink_tensor dst, ink_residual r, ink_tensor scale,
                                              ink_tensor shift, float eps);

    /* dst [n, d] = x [n, d] / sqrt(mean(x^2) + eps) * w [1, d]. In place allowed. */
    void (*rmsnorm)(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor w, float eps);

    /* x [n, d], F32, += r [n, d], in place; then dst = rmsnorm(x). dst may be r. */
    void (*residual_rmsnorm)(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps);

    /* Per head of queries and keys qk [n, 2 * heads * hd], in place: rmsnorm with wq (the first half) or wk (the second) [1, hd],
       then rotate adjacent pairs (2k, 2k + 1) by the angle whose cosine and sine are cos, sin [n, hd / 2]. */
    void (*rmsnorm_rope)(const ink_device *, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                         int64_t n_heads, float eps);

    /* Per head of x [n, heads * hd], in place: rotate the pairs (k, k + hd / 2) by cos, sin [n, hd / 2]. */
    void (*rope_half)(const ink_device *, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads);

    /* dst [n, heads * hd] = softmax(scale q k^T) v, per head; q [n, heads * hd], k and v [m, kv_heads * hd]; causal: n == m */
    void (*attention)(const ink_device *, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape);

    /* dst [n, d] = silu(a [n, d]) * b [n, d]. In place allowed. */
    void (*silu_mul)(const ink_device *, ink_tensor dst, ink_tensor a, ink_tensor b);

    /* dst [oh * ow, out] = conv(x [height * width, in]) + bias [1, out] + residual [oh * ow, out] (if not NULL).
       w [out, kernel * kernel * in], order (ky, kx, channel). residual may be dst. */
    void (*conv2d)(const ink_device *, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                   const ink_tensor *residual, ink_conv_shape shape);

    /* dst [n, c] = x / max(|x|_2, 1e-12) * sqrt(c) * gamma [1, c], then silu if asked. In place allowed. */
    void (*rmsnorm_channels)(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu);

    /* dst [2h * 2w, c] = each pixel of x [h * w, c] twice in both directions */
    void (*upsample2x)(const ink_device *, ink_tensor dst, ink_tensor x, int64_t height, int64_t width);

    /* dst [n, 2m] = cos(1000 (t_i f_j)) for j < m, then sin; t [1, n]; f_j = exp(-ln(10000) j / m) */
    void (*timestep_embed)(const ink_device *, ink_tensor dst, ink_tensor t);

    /* dst [h * w, c] = latents [h/p * w/p, c * p * p] * std [1, c] + mean [1, c]; channel c * p * p + dy * p + dx of a token is
       channel c of pixel (dy, dx) of its patch */
    void (*unpatchify)(const ink_device *, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                       int64_t width, int64_t patch);

    /* dst [n, c] = m * |cond| / |m| per row, m = uncond + scale (cond - uncond). dst may be cond or uncond. */
    void (*cfg_combine)(const ink_device *, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale);

    /* x [n, c] += dt * v [n, c], in place */
    void (*euler_step)(const ink_device *, ink_tensor x, ink_tensor v, float dt);

    /* dst [n, d] = x [n, d] */
    void (*copy)(const ink_device *, ink_tensor dst, ink_tensor x);
} ink_ops;

#endif
