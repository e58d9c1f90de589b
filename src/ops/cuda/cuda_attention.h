/* cuda_attention.h - the fused attentions: our own for Hopper, and cuDNN's. */
#ifndef INK_OPS_CUDA_CUDA_ATTENTION_H
#define INK_OPS_CUDA_CUDA_ATTENTION_H

#include "ops/cuda/cuda_state.h"

/*
 * dst = softmax(scale q k^T) v of bf16 numbers; strides in elements, from row to row; heads lie next to each other. Rows begin at
 * multiples of 16 bytes.
 */
struct ink_cuda_attention {
    int64_t n_q, n_kv, n_heads, n_kv_heads, head_dim;
    int64_t q_stride, k_stride, v_stride, dst_stride;
    float scale;
    int32_t causal; /* 0 or 1 */
};

/* False where it cannot, or is not there: nothing was done then. */
bool ink_cuda_attend_hopper(ink_cuda *c, const ink_cuda_attention &shape, void *dst, const void *q, const void *k, const void *v);
bool ink_cuda_attend_cudnn(ink_cuda *c, const ink_cuda_attention &shape, void *dst, const void *q, const void *k, const void *v);

#endif
