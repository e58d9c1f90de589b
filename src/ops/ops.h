/*
 * ops.h - the operations that the networks are made of, and the context in which they run. device.h beside it defines each.
 *
 * An op exists once as a wrapper (ops.c), which checks shapes, counts in a dry run, and traces; and once per tier as an
 * implementation, in a table of function pointers. Tier `ref` is the definition. Models call the wrappers only.
 *
 * The context's status is sticky: after a failure or a cancellation every op does nothing, and the caller looks once, at the end
 * of a block. Numbers are f32; sums may be taken in any order that does not depend on the number of threads.
 */
#ifndef INK_OPS_OPS_H
#define INK_OPS_OPS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/threads.h"
#include "ops/device.h"

/* Fills *device with the tier of that name, or the best one of this processor for NULL or "auto"; "cuda" and "cuda:1" are GPUs.
   False when the name is unknown or the machine lacks it; *why then says so (not owned). threads may be NULL only for `ref`. */
bool ink_device_open(ink_device *device, const char *tier, ink_threads *threads, const char **why);

/* Whether a name is that of a GPU, which may not be there: "cuda", "cuda:1". */
bool ink_device_names_gpu(const char *name);
void ink_device_close(ink_device *device);

/* What takes time before a GPU is opened for the first time, "auto" being any. Nothing is open after it, and nothing fails. */
void ink_device_prepare(const char *name);

/* The name of the i-th tier that this processor can run, `ref` first and the best last; NULL past the end. Static storage. */
const char *ink_device_tier(int i);

typedef struct ink_ctx {
    const ink_device *device; /* may be NULL in a dry run of ops alone */
    const ink_device *check;  /* if not NULL: run every op there too and fail on a difference */
    ink_arena *arena;         /* of scratch; a dry arena makes the run dry: shapes are checked, nothing is computed */
    const atomic_int *cancel; /* may be NULL */
    bool may_round;           /* linear and attention may round activations that they multiply to bf16 */
    FILE *trace;              /* may be NULL */
    double work;              /* of all ops so far, in multiplications and the like; counted in a dry run as well */
    double products;          /* of linear, attention and conv2d alone: a product and a sum each, so half of the FLOP */
    bool only_products; /* skip every other op, for a measurement: results of products go nowhere, operands stay as they were */
    void (*worked)(void *user); /* may be NULL: called after each op */
    void *worked_user;
    /* May be NULL: shown what goes into each `linear`, before it runs; not in a dry run. */
    void (*observe)(void *user, ink_tensor x, const ink_weight *w);
    void *observe_user;
    bool aside, waits_for_join; /* between begin and end, and begin and join, on a device with two queues */
    size_t aside_mark;          /* of the arena, when the first that waits began */
    ink_error *error;
    ink_status status; /* sticky */
} ink_ctx;

static inline bool ink_ctx_dry(const ink_ctx *c) { return !c->arena->memory; }

/* What the implementations of a product are given as `packed`. */
int64_t ink_packed_bytes(int64_t rows, int64_t n_parts, int64_t k);

/* Scratch [rows, cols], uninitialised, until the arena is released; sets status MEMORY when there is none. */
ink_tensor ink_scratch(ink_ctx *c, int64_t rows, int64_t cols);

/* The same for numbers that are made to go into products alone: bf16 where the device prefers that and the context may round. */
ink_tensor ink_scratch_rounded(ink_ctx *c, int64_t rows, int64_t cols);

/*
 * x, whose rows lie next to each other, as the host reads and writes it, until ink_host_end: x itself where the device works in the
 * host's memory, else a copy. WRITE: its numbers are not there at first, and are x's in the end. data is NULL, and status set, when
 * there is none; never call in a dry run.
 */
typedef enum ink_host_access { INK_HOST_READ, INK_HOST_WRITE } ink_host_access;
ink_tensor ink_host_begin(ink_ctx *c, ink_tensor x, ink_host_access access);
void ink_host_end(ink_ctx *c, ink_tensor host, ink_tensor x, ink_host_access access);

/* dst [n, d], F32 with rows next to each other, = rows ids [n] of a table, which the host looks up. */
void ink_embed_rows(ink_ctx *c, ink_tensor dst, const ink_table *table, const int32_t *ids);

/*
 * What lies between ink_begin_aside and ink_end_aside may be done beside what follows, up to ink_join_aside. It begins when all
 * before is done; after ink_go_on_aside in place of the first, when what was done aside before is, though the rest may still be at
 * work since the last ink_begin_aside. A device with one queue does all in its order.
 */
void ink_begin_aside(ink_ctx *c);
void ink_go_on_aside(ink_ctx *c);
void ink_end_aside(ink_ctx *c);
void ink_join_aside(ink_ctx *c);

/* Gives scratch back; what is used aside stays in use up to the join. */
void ink_scratch_release(ink_ctx *c, size_t mark);

/*
 * Work that is done over and over, on the same memory. A device that can records it the second time and replays it from then on:
 *
 *     if (ink_replay_begin(c, &replay)) forward(...);
 *     ink_replay_end(c, &replay);
 */
typedef struct ink_replay {
    void *record; /* the device's; NULL: none yet */
    bool recording;
    int64_t n_times;       /* that it was done */
    double work, products; /* of one time */
} ink_replay;

/* Sets status when the device has failed. */
void ink_check_device(ink_ctx *c);

/* Whether the work is to be called. */
bool ink_replay_begin(ink_ctx *c, ink_replay *replay);
void ink_replay_end(ink_ctx *c, ink_replay *replay);
void ink_replay_release(const ink_device *device, ink_replay *replay);

/* The wrappers. Arguments as in ink_ops. */
void ink_linear(ink_ctx *c, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e);
void ink_layernorm_modulate(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps);
void ink_gated_residual_layernorm_modulate(ink_ctx *c, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift,
                                           float eps);
void ink_rmsnorm(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor w, float eps);
void ink_residual_rmsnorm(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps);
void ink_rmsnorm_rope(ink_ctx *c, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin, int64_t n_heads,
                      float eps);
void ink_rope_half(ink_ctx *c, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads);
void ink_attention(ink_ctx *c, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape);
void ink_silu_mul(ink_ctx *c, ink_tensor dst, ink_tensor a, ink_tensor b);
void ink_conv2d(ink_ctx *c, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias, const ink_tensor *residual,
                ink_conv_shape shape);
void ink_rmsnorm_channels(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu);
void ink_upsample2x(ink_ctx *c, ink_tensor dst, ink_tensor x, int64_t height, int64_t width);
void ink_timestep_embed(ink_ctx *c, ink_tensor dst, ink_tensor t);
void ink_unpatchify(ink_ctx *c, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height, int64_t width,
                    int64_t patch);
void ink_cfg_combine(ink_ctx *c, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale);
void ink_euler_step(ink_ctx *c, ink_tensor x, ink_tensor v, float dt);
void ink_copy(ink_ctx *c, ink_tensor dst, ink_tensor x);

#endif
