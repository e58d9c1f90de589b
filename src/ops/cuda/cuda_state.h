/*
 * cuda_state.h - what the files of the CUDA back end share: the device's state, its failure, scratch, and typed loads and stores.
 *
 * The back end is a module of its own, opened at run time, that calls nothing of the rest of the program. Every op queues work on
 * one stream and returns. The first thing that goes wrong is kept in the state; after it ops do nothing.
 */
#ifndef INK_OPS_CUDA_CUDA_STATE_H
#define INK_OPS_CUDA_CUDA_STATE_H

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

extern "C" {
#include "ops/device.h"
}

struct ink_cuda_linear;  /* plans of cuda_linear.cu */
struct ink_cuda_cudnn;   /* ... of cuda_attention_cudnn.cpp */
struct ink_cuda_staging; /* pinned memory of cuda_memory.cu */

/* A queue, and what the ops in it use one after the other. */
struct ink_cuda_lane {
    cudaStream_t stream;
    void *blas_workspace;
    void *scratch; /* ink_cuda_scratch */
    size_t scratch_bytes;
    void *panel; /* ink_cuda_panel_scratch */
    size_t panel_bytes;
    cudaEvent_t reached; /* the end of what was queued when it was last recorded */
};

/* Memory that a stream of its own fills again and again. */
struct ink_cuda_slot {
    cudaEvent_t filled;
    cudaEvent_t left[2]; /* by each lane ... */
    bool was_left[2];    /* ... which only counts what belongs to the same record */
};

/* The lane at work is part of the state: ops know of one. */
struct ink_cuda : ink_cuda_lane {
    int ordinal;
    int n_sms, major, minor; /* multiprocessors; compute capability */
    cublasLtHandle_t blas;
    size_t blas_workspace_bytes;
    ink_cuda_lane other; /* that is not at work */
    bool is_aside;
    bool spares; /* small products leave multiprocessors to the other lane */
    bool recording;
    cudaStream_t copies; /* into slots, and of pieces */
    cudaEvent_t sent;    /* where one waits for the other */
    int n_sending;       /* that have begun and not ended */
    ink_cuda_slot slots[2];
    std::atomic<bool> failed; /* several threads may send at once */
    std::mutex failing;
    char failure[256]; /* if failed */
    ink_cuda_linear *linear;
    ink_cuda_cudnn *cudnn; /* NULL: nothing has asked for it */
    ink_cuda_staging *staging;
};

static inline ink_cuda *ink_cuda_of(const ink_device *device) { return (ink_cuda *)const_cast<void *>(device->kernels); }

static inline bool ink_cuda_failed(const ink_cuda *c) { return c->failed.load(std::memory_order_acquire); }

/* Keeps the sentence, if it is the first. */
__attribute__((format(printf, 2, 3))) void ink_cuda_fail(ink_cuda *c, const char *format, ...);

/* False, and a failure, unless it went well. `what`: for the sentence, "layernorm_modulate". */
bool ink_cuda_ok(ink_cuda *c, cudaError_t status, const char *what);
bool ink_cuda_ok(ink_cuda *c, cublasStatus_t status, const char *what);

/* After a launch. */
static inline void ink_cuda_launched(ink_cuda *c, const char *what) { ink_cuda_ok(c, cudaGetLastError(), what); }

/*
 * Memory for the op at work, aligned to 256; what an earlier call gave is void. It grows when an op asks for more than ever before,
 * which is a failure while work is recorded. NULL after a failure.
 */
void *ink_cuda_scratch(ink_cuda *c, size_t bytes);

/* The same for an op that is made of calls of `linear`, which take the scratch. */
void *ink_cuda_panel_scratch(ink_cuda *c, size_t bytes);

static inline size_t ink_cuda_aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* What is opened and closed with the state. */
bool ink_cuda_staging_open(ink_cuda *c);
void ink_cuda_staging_close(ink_cuda *c);
bool ink_cuda_slots_open(ink_cuda *c);
void ink_cuda_slots_close(ink_cuda *c);
bool ink_cuda_linear_open(ink_cuda *c);
void ink_cuda_linear_close(ink_cuda *c);
void ink_cuda_cudnn_close(ink_cuda *c);

/* ---- elements ------------------------------------------------------------------------------------------------------ */

static inline __device__ float ink_load(const float *p) { return *p; }
static inline __device__ float ink_load(const __nv_bfloat16 *p) { return __bfloat162float(*p); }
static inline __device__ void ink_store(float *p, float v) { *p = v; }
static inline __device__ void ink_store(__nv_bfloat16 *p, float v) { *p = __float2bfloat16_rn(v); }

/* The elements of a tensor of that type. */
template <typename T> static inline T *ink_elements(ink_tensor x) { return reinterpret_cast<T *>(x.data); }

/* Calls f with a null pointer of the element type of x: f([&](auto *p) { using T = std::remove_pointer_t<decltype(p)>; ... }). */
template <typename F> static inline void ink_with_type(ink_tensor x, F f) {
    if (x.type == INK_BF16)
        f(static_cast<__nv_bfloat16 *>(nullptr));
    else
        f(static_cast<float *>(nullptr));
}

extern const ink_device_memory ink_cuda_memory; /* cuda_memory.cu */

/* ---- the table ------------------------------------------------------------------------------------------------------- */

void ink_cuda_op_linear(const ink_device *, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e);
void ink_cuda_op_layernorm_modulate(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift,
                                    float eps);
void ink_cuda_op_gated_residual_layernorm_modulate(const ink_device *, ink_tensor dst, ink_residual r, ink_tensor scale,
                                                   ink_tensor shift, float eps);
void ink_cuda_op_rmsnorm(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor w, float eps);
void ink_cuda_op_residual_rmsnorm(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps);
void ink_cuda_op_rmsnorm_rope(const ink_device *, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                              int64_t n_heads, float eps);
void ink_cuda_op_rope_half(const ink_device *, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads);
void ink_cuda_op_attention(const ink_device *, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape);
void ink_cuda_op_silu_mul(const ink_device *, ink_tensor dst, ink_tensor a, ink_tensor b);
void ink_cuda_op_conv2d(const ink_device *, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                        const ink_tensor *residual, ink_conv_shape shape);
void ink_cuda_op_rmsnorm_channels(const ink_device *, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu);
void ink_cuda_op_upsample2x(const ink_device *, ink_tensor dst, ink_tensor x, int64_t height, int64_t width);
void ink_cuda_op_timestep_embed(const ink_device *, ink_tensor dst, ink_tensor t);
void ink_cuda_op_unpatchify(const ink_device *, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                            int64_t width, int64_t patch);
void ink_cuda_op_cfg_combine(const ink_device *, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale);
void ink_cuda_op_euler_step(const ink_device *, ink_tensor x, ink_tensor v, float dt);
void ink_cuda_op_copy(const ink_device *, ink_tensor dst, ink_tensor x);

/* What several files of the back end need of each other. */

/* dst [n, d] = x [n, d], converted. */
void ink_cuda_convert(ink_cuda *c, ink_tensor dst, ink_tensor x);

#endif
