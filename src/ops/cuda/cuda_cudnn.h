/* cuda_cudnn.h - the fused attention of cuDNN. */
#ifndef INK_OPS_CUDA_CUDA_CUDNN_H
#define INK_OPS_CUDA_CUDA_CUDNN_H

#include "ops/cuda/cuda_state.h"

/* dst = softmax(scale q k^T) v of bf16 numbers; strides in elements, from row to row; heads lie next to each other. */
struct ink_cuda_fused_attention {
    int64_t n_q, n_kv, n_heads, n_kv_heads, head_dim;
    int64_t q_stride, k_stride, v_stride, dst_stride;
    float scale;
    int32_t causal; /* 0 or 1 */
};

/* False where cuDNN cannot, or is not there: nothing was done then. */
bool ink_cuda_attend_fused(ink_cuda *c, const ink_cuda_fused_attention &shape, void *dst, const void *q, const void *k,
                           const void *v);

#endif
