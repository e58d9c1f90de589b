/*
 * cuda_decode.cu - stored forms to operands of products. All of it is bound by memory: a thread takes eight elements, so that a warp
 * reads and writes whole lines, wherever the addresses are aligned; elsewhere it takes them one by one.
 */
#include "ops/cuda/cuda_decode.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <type_traits>

/* ---- weights ---------------------------------------------------------------------------------------------------------- */

/* An ink_weight as kernels get it. */
struct stored {
    const unsigned char *data, *scales, *biases;
    int64_t rows, cols;
    int64_t groups; /* in a row; AFFINE */
    int group_bits; /* a group has 1 << group_bits elements; AFFINE */
    ink_dtype scale_dtype;
    bool scale_per_row; /* F8 and I8 */
};

static __device__ unsigned load_u16(const unsigned char *p) {
    if ((reinterpret_cast<uintptr_t>(p) & 1) == 0) return *reinterpret_cast<const uint16_t *>(p);
    return p[0] | (unsigned)p[1] << 8;
}

static __device__ unsigned load_u32(const unsigned char *p) {
    if ((reinterpret_cast<uintptr_t>(p) & 3) == 0) return *reinterpret_cast<const uint32_t *>(p);
    return p[0] | (unsigned)p[1] << 8 | (unsigned)p[2] << 16 | (unsigned)p[3] << 24;
}

static __device__ float of_bf16(unsigned bits) { return __uint_as_float(bits << 16); }
static __device__ float of_f16(unsigned bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }
static __device__ float of_f8(unsigned bits) {
    return __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)bits, __NV_E4M3)));
}

/* Element i of an array of F32, BF16 or F16 at any address. */
static __device__ float load_scale(const unsigned char *scales, ink_dtype type, int64_t i) {
    if (type == INK_F32) return __uint_as_float(load_u32(scales + 4 * i));
    const unsigned bits = load_u16(scales + 2 * i);
    return type == INK_BF16 ? of_bf16(bits) : of_f16(bits);
}

/* The number that is stored as element i, before scale and bias. */
template <ink_dtype FORM> static __device__ float stored_one(const unsigned char *data, int64_t i) {
    if constexpr (FORM == INK_F32) return __uint_as_float(load_u32(data + 4 * i));
    if constexpr (FORM == INK_BF16) return of_bf16(load_u16(data + 2 * i));
    if constexpr (FORM == INK_F16) return of_f16(load_u16(data + 2 * i));
    if constexpr (FORM == INK_F8_E4M3) return of_f8(data[i]);
    if constexpr (FORM == INK_AFFINE_8) return (float)data[i];
    if constexpr (FORM == INK_I8) return (float)(signed char)data[i];
    if constexpr (FORM == INK_AFFINE_4) return (float)(data[i / 2] >> (i % 2 * 4) & 15);
    return 0;
}

/* Eight of them, of a piece that is aligned to its own size, or to 16. */
template <ink_dtype FORM> static __device__ void stored_eight(const unsigned char *data, int64_t i, float v[INK_PIECE]) {
    if constexpr (FORM == INK_F32) ink_load8(reinterpret_cast<const float *>(data) + i, v);
    if constexpr (FORM == INK_BF16) ink_load8(reinterpret_cast<const __nv_bfloat16 *>(data) + i, v);
    if constexpr (FORM == INK_F16) {
        const uint4 bits = *reinterpret_cast<const uint4 *>(data + 2 * i);
        const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int j = 0; j < INK_PIECE; j++) v[j] = of_f16(words[j / 2] >> (j % 2 * 16) & 0xffff);
    }
    if constexpr (FORM == INK_F8_E4M3 || FORM == INK_AFFINE_8 || FORM == INK_I8) {
        const uint2 bits = *reinterpret_cast<const uint2 *>(data + i);
        const unsigned words[2] = {bits.x, bits.y};
#pragma unroll
        for (int j = 0; j < INK_PIECE; j++) {
            const unsigned byte = words[j / 4] >> (j % 4 * 8) & 0xff;
            v[j] = FORM == INK_F8_E4M3 ? of_f8(byte) : FORM == INK_I8 ? (float)(signed char)byte : (float)byte;
        }
    }
    if constexpr (FORM == INK_AFFINE_4) {
        const unsigned word = *reinterpret_cast<const uint32_t *>(data + i / 2);
#pragma unroll
        for (int j = 0; j < INK_PIECE; j++) v[j] = (float)(word >> (j * 4) & 15);
    }
}

static bool pieces_aligned(const ink_weight *w) {
    size_t bytes = w->dtype == INK_AFFINE_4 ? 4 : w->dtype == INK_AFFINE_8 || w->dtype == INK_F8_E4M3 || w->dtype == INK_I8 ? 8 : 16;
    return ink_is_aligned(w->data, bytes) && w->cols % INK_PIECE == 0 && w->group % INK_PIECE == 0;
}

/* What element = stored * scale + bias needs at (row, col). */
template <ink_dtype FORM> static __device__ void load_affine(const stored &w, int64_t row, int64_t col, float *scale, float *bias) {
    *scale = 1, *bias = 0;
    if constexpr (FORM == INK_F8_E4M3 || FORM == INK_I8)
        if (w.scales) *scale = load_scale(w.scales, w.scale_dtype, w.scale_per_row ? row : 0);
    if constexpr (FORM == INK_AFFINE_4 || FORM == INK_AFFINE_8) {
        const int64_t group = row * w.groups + (col >> w.group_bits);
        *scale = load_scale(w.scales, w.scale_dtype, group);
        *bias = load_scale(w.biases, w.scale_dtype, group);
    }
}

/* Where rows of a weight go. */
struct target {
    void *data;
    ink_dtype type;
    int64_t rows, cols, stride; /* columns that the weight lacks become zero */
};

/* As ink_weight_decode, where stored * scale + bias is rounded twice. */
static __device__ float scaled(float v, float scale, float bias) { return __fadd_rn(__fmul_rn(v, scale), bias); }

template <ink_dtype FORM, typename T, bool ALIGNED>
static __global__ void __launch_bounds__(INK_PIECE_LANES *INK_PIECE_ROWS) decode_kernel(target to, stored w) {
    const int64_t col = ((int64_t)blockIdx.x * INK_PIECE_LANES + threadIdx.x) * INK_PIECE;
    if (col >= to.cols) return;
    for (int64_t row = (int64_t)blockIdx.y * INK_PIECE_ROWS + threadIdx.y; row < to.rows;
         row += (int64_t)gridDim.y * INK_PIECE_ROWS) {
        T *dst = static_cast<T *>(to.data) + row * to.stride;
        float v[INK_PIECE] = {0}, scale, bias;
        if constexpr (ALIGNED) {
            if (col < w.cols) {
                load_affine<FORM>(w, row, col, &scale, &bias);
                stored_eight<FORM>(w.data, row * w.cols + col, v);
#pragma unroll
                for (int j = 0; j < INK_PIECE; j++) v[j] = scaled(v[j], scale, bias);
            }
            ink_store8(dst + col, v);
        } else
            for (int64_t k = col; k < col + INK_PIECE && k < to.cols; k++) {
                float value = 0;
                if (k < w.cols) {
                    load_affine<FORM>(w, row, k, &scale, &bias);
                    value = scaled(stored_one<FORM>(w.data, row * w.cols + k), scale, bias);
                }
                ink_store(dst + k, value);
            }
    }
}

template <ink_dtype FORM, typename T> static void decode_to(ink_cuda *c, const target &to, const ink_weight *w) {
    stored s = {static_cast<const unsigned char *>(w->data),
                static_cast<const unsigned char *>(w->scales),
                static_cast<const unsigned char *>(w->biases),
                w->rows,
                w->cols,
                0,
                0,
                w->scale_dtype,
                w->n_scales > 1};
    if (w->group > 0) {
        s.groups = w->cols / w->group;
        while ((int64_t)1 << s.group_bits < w->group) s.group_bits++;
    }
    const dim3 grid = ink_piece_grid(to.rows, to.cols), block = ink_piece_block();
    if (pieces_aligned(w) && ink_rows_aligned(to.data, to.stride, to.type) && to.cols % INK_PIECE == 0)
        decode_kernel<FORM, T, true><<<grid, block, 0, c->stream>>>(to, s);
    else
        decode_kernel<FORM, T, false><<<grid, block, 0, c->stream>>>(to, s);
    ink_cuda_launched(c, "a weight's decoding");
}

template <ink_dtype FORM> static void decode_form(ink_cuda *c, const target &to, const ink_weight *w) {
    if (to.type == INK_F32)
        decode_to<FORM, float>(c, to, w);
    else
        decode_to<FORM, __nv_bfloat16>(c, to, w);
}

bool ink_cuda_decodes(const ink_weight *w) {
    switch (w->dtype) {
    case INK_F32:
    case INK_BF16:
    case INK_F16:
    case INK_F8_E4M3:
    case INK_AFFINE_4:
    case INK_AFFINE_8:
    case INK_I8: return true;
    default: return false;
    }
}

static void decode(ink_cuda *c, const target &to, const ink_weight *w) {
    if (ink_cuda_failed(c) || to.rows <= 0 || to.cols <= 0) return;
    switch (w->dtype) {
    case INK_F32: decode_form<INK_F32>(c, to, w); break;
    case INK_BF16: decode_form<INK_BF16>(c, to, w); break;
    case INK_F16: decode_form<INK_F16>(c, to, w); break;
    case INK_F8_E4M3: decode_form<INK_F8_E4M3>(c, to, w); break;
    case INK_AFFINE_4: decode_form<INK_AFFINE_4>(c, to, w); break;
    case INK_AFFINE_8: decode_form<INK_AFFINE_8>(c, to, w); break;
    case INK_I8: decode_form<INK_I8>(c, to, w); break;
    default:
        ink_cuda_fail(c, "weight%s%s: form %d cannot be decoded on the device; it must be converted before it is uploaded",
                      w->name ? " " : "", w->name ? w->name : "", (int)w->dtype);
    }
}

void ink_cuda_decode_weight(ink_cuda *c, void *dst, ink_dtype type, int64_t ld, const ink_weight *w) {
    decode(c, target{dst, type, w->rows, ld, ld}, w);
}

static __global__ void scales_kernel(float *dst, int64_t n, const unsigned char *scales, ink_dtype type, bool per_row) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dst[i] = scales ? load_scale(scales, type, per_row ? i : 0) : 1.0f;
}

void ink_cuda_decode_scales(ink_cuda *c, float *dst, const ink_weight *w) {
    if (ink_cuda_failed(c) || w->rows <= 0) return;
    scales_kernel<<<(unsigned)((w->rows + 255) / 256), 256, 0, c->stream>>>(
        dst, w->rows, static_cast<const unsigned char *>(w->scales), w->scale_dtype, w->n_scales > 1);
    ink_cuda_launched(c, "a weight's scales");
}

/* ---- activations ------------------------------------------------------------------------------------------------------ */

/* What is left of v after it was rounded to bf16; nothing of what is too large for bf16. */
static __device__ float left_by_rounding(float v) {
    const float high = __bfloat162float(__float2bfloat16_rn(v));
    return isinf(high) ? 0.0f : v - high;
}

/* dst = x, and low = what is left, unless it is NULL. */
template <typename S, typename T, bool ALIGNED>
static __global__ void __launch_bounds__(INK_PIECE_LANES *INK_PIECE_ROWS)
    panel_kernel(T *dst, T *low, int64_t ld, const S *x, int64_t stride, int64_t rows, int64_t cols) {
    const int64_t col = ((int64_t)blockIdx.x * INK_PIECE_LANES + threadIdx.x) * INK_PIECE;
    if (col >= ld) return;
    for (int64_t row = (int64_t)blockIdx.y * INK_PIECE_ROWS + threadIdx.y; row < rows; row += (int64_t)gridDim.y * INK_PIECE_ROWS) {
        if constexpr (ALIGNED) {
            float v[INK_PIECE] = {0};
            if (col < cols) ink_load8(x + row * stride + col, v);
            ink_store8(dst + row * ld + col, v);
            if (low) {
#pragma unroll
                for (int j = 0; j < INK_PIECE; j++) v[j] = left_by_rounding(v[j]);
                ink_store8(low + row * ld + col, v);
            }
        } else
            for (int64_t k = col; k < col + INK_PIECE && k < ld; k++) {
                const float v = k < cols ? ink_load(x + row * stride + k) : 0.0f;
                ink_store(dst + row * ld + k, v);
                if (low) ink_store(low + row * ld + k, left_by_rounding(v));
            }
    }
}

template <typename T> static void make_panel(ink_cuda *c, T *dst, T *low, ink_dtype type, int64_t ld, ink_tensor x) {
    if (ink_cuda_failed(c) || x.rows <= 0 || ld <= 0) return;
    const dim3 grid = ink_piece_grid(x.rows, ld), block = ink_piece_block();
    const bool aligned = x.cols % INK_PIECE == 0 && ld % INK_PIECE == 0 && ink_rows_aligned(dst, ld, type) &&
                         (!low || ink_rows_aligned(low, ld, type)) &&
                         (ink_rows_aligned(x.data, x.stride, x.type) || (x.rows == 1 && ink_is_aligned(x.data, 16)));
    ink_with_type(x, [&](auto *p) {
        using S = std::remove_pointer_t<decltype(p)>;
        const S *source = ink_elements<S>(x);
        if (aligned)
            panel_kernel<S, T, true><<<grid, block, 0, c->stream>>>(dst, low, ld, source, x.stride, x.rows, x.cols);
        else
            panel_kernel<S, T, false><<<grid, block, 0, c->stream>>>(dst, low, ld, source, x.stride, x.rows, x.cols);
    });
    ink_cuda_launched(c, "an operand's conversion");
}

void ink_cuda_panel(ink_cuda *c, void *dst, ink_dtype type, int64_t ld, ink_tensor x) {
    if (type == INK_F32)
        make_panel<float>(c, static_cast<float *>(dst), nullptr, type, ld, x);
    else
        make_panel<__nv_bfloat16>(c, static_cast<__nv_bfloat16 *>(dst), nullptr, type, ld, x);
}

void ink_cuda_split_panel(ink_cuda *c, __nv_bfloat16 *high, __nv_bfloat16 *low, int64_t ld, ink_tensor x) {
    make_panel<__nv_bfloat16>(c, high, low, INK_BF16, ld, x);
}

/* ---- activations in fp8 ------------------------------------------------------------------------------------------------- */

enum { QUANTIZE_THREADS = 256, MOST_HELD = 10 }; /* pieces of a row that a thread holds in registers */

/* The largest of the block, in every thread. */
static __device__ float block_max(float v) {
    __shared__ float of_warp[QUANTIZE_THREADS / 32];
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = of_warp[0];
    for (int i = 1; i < QUANTIZE_THREADS / 32; i++) v = fmaxf(v, of_warp[i]);
    return v;
}

static __device__ unsigned pack_f8(float a, float b, float c, float d) {
    const unsigned low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    const unsigned high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
    return low | high << 16;
}

/* A row a block. */
template <typename S, int HELD>
static __global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_kernel(uint8_t *dst, float *scales, const S *x, int64_t stride, int64_t cols) {
    const float largest_f8 = 448.0f, smallest_scaled = 1e-30f; /* below it 448 / most is no number */
    const S *from = x + blockIdx.x * stride;
    float v[HELD][INK_PIECE], most = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int64_t col = ((int64_t)i * QUANTIZE_THREADS + threadIdx.x) * INK_PIECE;
        if (col >= cols) continue;
        ink_load8(from + col, v[i]);
#pragma unroll
        for (int j = 0; j < INK_PIECE; j++) most = fmaxf(most, fabsf(v[i][j]));
    }
    most = block_max(most);
    const bool scaled = most >= smallest_scaled;
    const float factor = scaled ? largest_f8 / most : 1.0f;
    if (threadIdx.x == 0) scales[blockIdx.x] = scaled ? most / largest_f8 : 1.0f;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int64_t col = ((int64_t)i * QUANTIZE_THREADS + threadIdx.x) * INK_PIECE;
        if (col >= cols) continue;
        const float *u = v[i];
        *reinterpret_cast<uint2 *>(dst + blockIdx.x * cols +
                                   col) = make_uint2(pack_f8(u[0] * factor, u[1] * factor, u[2] * factor, u[3] * factor),
                                                     pack_f8(u[4] * factor, u[5] * factor, u[6] * factor, u[7] * factor));
    }
}

bool ink_cuda_quantizes(ink_tensor x) {
    return x.cols % INK_PIECE == 0 && x.cols <= (int64_t)QUANTIZE_THREADS * INK_PIECE * MOST_HELD && x.rows <= INT32_MAX &&
           ink_rows_aligned(x.data, x.stride, x.type);
}

void ink_cuda_quantize_rows(ink_cuda *c, uint8_t *dst, float *scales, ink_tensor x) {
    if (ink_cuda_failed(c) || x.rows <= 0) return;
    const unsigned rows = (unsigned)x.rows;
    const int64_t held = (x.cols + QUANTIZE_THREADS * INK_PIECE - 1) / (QUANTIZE_THREADS * INK_PIECE);
    ink_with_type(x, [&](auto *p) {
        using S = std::remove_pointer_t<decltype(p)>;
        const S *source = ink_elements<S>(x);
        if (held <= 2)
            quantize_kernel<S, 2><<<rows, QUANTIZE_THREADS, 0, c->stream>>>(dst, scales, source, x.stride, x.cols);
        else if (held <= 6)
            quantize_kernel<S, 6><<<rows, QUANTIZE_THREADS, 0, c->stream>>>(dst, scales, source, x.stride, x.cols);
        else
            quantize_kernel<S, MOST_HELD><<<rows, QUANTIZE_THREADS, 0, c->stream>>>(dst, scales, source, x.stride, x.cols);
    });
    ink_cuda_launched(c, "the rounding of rows to fp8");
}
