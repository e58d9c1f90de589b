/*
 * cuda_decode.h - operands of products made from what is stored: weights of any form as panels of bf16 or f32, activations in
 * bf16 (one part or two) or fp8. Also loads and stores of eight elements.
 *
 * A panel has rows of `ld` elements; what is beyond the columns of its source is zero, so that a depth can be padded.
 */
#ifndef INK_OPS_CUDA_CUDA_DECODE_H
#define INK_OPS_CUDA_CUDA_DECODE_H

#include "ops/cuda/cuda_state.h"

/* Whether a weight has one of the forms that are decoded on the device: all but the blocks of GGUF. */
bool ink_cuda_decodes(const ink_weight *w);

/* dst [w->rows, ld] of type F32 or BF16 = w; ld >= w->cols. */
void ink_cuda_decode_weight(ink_cuda *c, void *dst, ink_dtype type, int64_t ld, const ink_weight *w);

/* dst [w->rows] = the scale of each row of an F8_E4M3 weight. */
void ink_cuda_decode_scales(ink_cuda *c, float *dst, const ink_weight *w);

/* dst [x.rows, ld] of type F32 or BF16 = x, rounded to nearest; ld >= x.cols. */
void ink_cuda_panel(ink_cuda *c, void *dst, ink_dtype type, int64_t ld, ink_tensor x);

/* high, low [x.rows, ld]: high = x rounded to bf16, low = what that leaves, rounded: together x to 2^-17 of it. */
void ink_cuda_split_panel(ink_cuda *c, __nv_bfloat16 *high, __nv_bfloat16 *low, int64_t ld, ink_tensor x);

/*
 * dst [x.rows, x.cols] of e4m3, scales [x.rows]: x = dst * scale, the largest of a row being the largest e4m3. For x that
 * ink_cuda_quantizes.
 */
void ink_cuda_quantize_rows(ink_cuda *c, uint8_t *dst, float *scales, ink_tensor x);
bool ink_cuda_quantizes(ink_tensor x);

/* ---- eight elements --------------------------------------------------------------------------------------------------- */

/* A matrix is taken in pieces of eight columns of a row: a warp takes 32 pieces of a row side by side, a block INK_PIECE_ROWS rows,
   and more where the grid ends. */
enum { INK_PIECE = 8, INK_PIECE_LANES = 32, INK_PIECE_ROWS = 8 };

static inline dim3 ink_piece_block(void) { return dim3(INK_PIECE_LANES, INK_PIECE_ROWS); }

static inline dim3 ink_piece_grid(int64_t rows, int64_t cols) {
    const int64_t across = INK_PIECE * INK_PIECE_LANES, most_down = 65535;
    int64_t down = (rows + INK_PIECE_ROWS - 1) / INK_PIECE_ROWS;
    return dim3((unsigned)((cols + across - 1) / across), (unsigned)(down < most_down ? down : most_down));
}

static inline bool ink_is_aligned(const void *p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

static inline size_t ink_size_of(ink_dtype type) { return type == INK_F32 ? 4 : 2; }

/* Whether all rows start at multiples of 16 bytes. */
static inline bool ink_rows_aligned(const void *data, int64_t ld, ink_dtype type) {
    return ink_is_aligned(data, 16) && (size_t)ld * ink_size_of(type) % 16 == 0;
}

/* p is aligned to 16. */
static inline __device__ void ink_load8(const float *p, float v[INK_PIECE]) {
    const float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

static inline __device__ void ink_load8(const __nv_bfloat16 *p, float v[INK_PIECE]) {
    const uint4 bits = *reinterpret_cast<const uint4 *>(p);
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

static inline __device__ void ink_store8(float *p, const float v[INK_PIECE]) {
    reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

static inline __device__ unsigned ink_pack_bf16(float first, float second) {
    return (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(first)) | (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(second))
                                                                            << 16;
}

static inline __device__ void ink_store8(__nv_bfloat16 *p, const float v[INK_PIECE]) {
    *reinterpret_cast<uint4 *>(p) = make_uint4(ink_pack_bf16(v[0], v[1]), ink_pack_bf16(v[2], v[3]), ink_pack_bf16(v[4], v[5]),
                                               ink_pack_bf16(v[6], v[7]));
}

#endif
