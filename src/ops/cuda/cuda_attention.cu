/*
 * cuda_attention.cu - attention: a fused kernel, ours or cuDNN's, where all is bf16 and may be rounded; else, in f32, a head at a
 * time, as two products around a softmax, of some queries at a time, so that the scores of all are never there at once.
 */
#include "ops/cuda/cuda_attention.h"

#include <algorithm>
#include <type_traits>

constexpr int64_t SCORE_BYTES = (int64_t)256 << 20;
constexpr int THREADS = 256;

/* ---- rows of a head, next to each other in f32 ----------------------------------------------------------------------- */

static __device__ int64_t row_across(ink_gap gap, int64_t row) { return row < gap.split ? row : row + gap.rows; }

/* dst [n, d], or transposed [d, n], = rows first .. first + n of x. */
template <typename T>
static __global__ void gather_kernel(float *dst, const T *x, int64_t stride, ink_gap gap, int64_t first, int64_t n, int64_t d,
                                     bool transposed) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n * d; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t row = transposed ? i % n : i / d, col = transposed ? i / n : i % d;
        dst[i] = ink_load(x + row_across(gap, first + row) * stride + col);
    }
}

template <typename T>
static __global__ void scatter_kernel(T *dst, const float *x, int64_t stride, ink_gap gap, int64_t first, int64_t n, int64_t d) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n * d; i += (int64_t)gridDim.x * blockDim.x)
        ink_store(dst + row_across(gap, first + i / d) * stride + i % d, x[i]);
}

static unsigned blocks_for(int64_t n) { return (unsigned)std::min<int64_t>((n + THREADS - 1) / THREADS, 65536); }

static void gather(ink_cuda *c, float *dst, ink_tensor x, ink_gap gap, int64_t first, int64_t n, bool transposed) {
    ink_with_type(x, [&](auto *p) {
        using T = std::remove_pointer_t<decltype(p)>;
        gather_kernel<T><<<blocks_for(n * x.cols), THREADS, 0, c->stream>>>(dst, ink_elements<T>(x), x.stride, gap, first, n,
                                                                            x.cols, transposed);
    });
    ink_cuda_launched(c, "attention");
}

static void scatter(ink_cuda *c, ink_tensor dst, const float *x, ink_gap gap, int64_t first, int64_t n) {
    ink_with_type(dst, [&](auto *p) {
        using T = std::remove_pointer_t<decltype(p)>;
        scatter_kernel<T>
            <<<blocks_for(n * dst.cols), THREADS, 0, c->stream>>>(ink_elements<T>(dst), x, dst.stride, gap, first, n, dst.cols);
    });
    ink_cuda_launched(c, "attention");
}

/* ---- softmax --------------------------------------------------------------------------------------------------------- */

static __device__ float block_reduce(float v, bool largest, float *shared) {
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, v, step);
        v = largest ? fmaxf(v, other) : v + other;
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (int i = 1; i < THREADS / 32; i++) v = largest ? fmaxf(v, shared[i]) : v + shared[i];
    __syncthreads();
    return v;
}

/* A block for each row of scores [n, m], in place; a causal row sees the first `first + row + 1` columns, the others become 0. */
static __global__ void softmax_kernel(float *scores, int64_t m, float scale, bool causal, int64_t first) {
    __shared__ float shared[THREADS / 32];
    float *row = scores + blockIdx.x * m;
    const int64_t n = causal ? first + blockIdx.x + 1 : m;
    float largest = -INFINITY, sum = 0;
    for (int64_t j = threadIdx.x; j < n; j += THREADS) largest = fmaxf(largest, scale * row[j]);
    largest = block_reduce(largest, true, shared);
    for (int64_t j = threadIdx.x; j < n; j += THREADS) {
        const float e = expf(scale * row[j] - largest);
        row[j] = e;
        sum += e;
    }
    sum = block_reduce(sum, false, shared);
    for (int64_t j = threadIdx.x; j < m; j += THREADS) row[j] = j < n ? row[j] / sum : 0.0f;
}

/* ---- the op ---------------------------------------------------------------------------------------------------------- */

static bool in_one_run(ink_gap gap, int64_t rows) { return gap.rows == 0 || gap.split >= rows || gap.split == 0; }

/* The first row, when the gap lies before all of them. */
static ink_tensor behind_gap(ink_tensor x, ink_gap gap) {
    return gap.split == 0 && gap.rows != 0 ? ink_rows(x, gap.rows, x.rows) : x;
}

static bool is_fast(ink_tensor x) { return x.type == INK_BF16 && (uintptr_t)x.data % 16 == 0 && x.stride % 8 == 0; }

static bool attend_fused(ink_cuda *c, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, const ink_attention_shape &s) {
    if (!s.may_round || s.head_dim % 8 != 0 || s.head_dim > 128 || !in_one_run(s.q_gap, q.rows) || !in_one_run(s.kv_gap, k.rows))
        return false;
    dst = behind_gap(dst, s.q_gap);
    q = behind_gap(q, s.q_gap);
    k = behind_gap(k, s.kv_gap);
    v = behind_gap(v, s.kv_gap);
    if (!is_fast(dst) || !is_fast(q) || !is_fast(k) || !is_fast(v)) return false;
    ink_cuda_attention shape = {};
    shape.n_q = q.rows;
    shape.n_kv = k.rows;
    shape.n_heads = s.n_heads;
    shape.n_kv_heads = s.n_kv_heads;
    shape.head_dim = s.head_dim;
    shape.q_stride = q.stride;
    shape.k_stride = k.stride;
    shape.v_stride = v.stride;
    shape.dst_stride = dst.stride;
    shape.scale = s.scale;
    shape.causal = s.causal;
    const auto first = s.by_library ? ink_cuda_attend_cudnn : ink_cuda_attend_hopper;
    const auto second = s.by_library ? ink_cuda_attend_hopper : ink_cuda_attend_cudnn;
    return first(c, shape, dst.data, q.data, k.data, v.data) || second(c, shape, dst.data, q.data, k.data, v.data);
}

void ink_cuda_op_attention(const ink_device *device, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v,
                           ink_attention_shape s) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || attend_fused(c, dst, q, k, v, s)) return;
    const int64_t n = q.rows, m = k.rows, d = s.head_dim;
    const int64_t most = std::clamp<int64_t>(SCORE_BYTES / (m * (int64_t)sizeof(float)), 1, n);
    const size_t kv_bytes = ink_cuda_aligned((size_t)(m * d) * sizeof(float));
    const size_t q_bytes = ink_cuda_aligned((size_t)(most * d) * sizeof(float));
    char *panel = (char *)ink_cuda_panel_scratch(c, 2 * kv_bytes + 2 * q_bytes + (size_t)(most * m) * sizeof(float));
    if (!panel) return;
    float *keys = (float *)panel, *values = (float *)(panel + kv_bytes), *queries = (float *)(panel + 2 * kv_bytes);
    float *found = (float *)(panel + 2 * kv_bytes + q_bytes), *scores = (float *)(panel + 2 * kv_bytes + 2 * q_bytes);
    ink_weight as_keys = {}, as_values = {};
    as_keys.data = keys;
    as_keys.rows = m;
    as_keys.cols = d;
    as_values.data = values;
    as_values.rows = d;
    as_values.cols = m;
    for (int64_t h = 0; h < s.n_heads && !ink_cuda_failed(c); h++) {
        const int64_t kv_head = h / (s.n_heads / s.n_kv_heads);
        if (h % (s.n_heads / s.n_kv_heads) == 0) {
            gather(c, keys, ink_cols(k, kv_head * d, d), s.kv_gap, 0, m, false);
            gather(c, values, ink_cols(v, kv_head * d, d), s.kv_gap, 0, m, true);
        }
        for (int64_t first = 0; first < n && !ink_cuda_failed(c); first += most) {
            const int64_t rows = std::min(most, n - first);
            gather(c, queries, ink_cols(q, h * d, d), s.q_gap, first, rows, false);
            ink_cuda_op_linear(device, ink_view(scores, rows, m), ink_view(queries, rows, d), &as_keys, ink_linear_epilogue{});
            softmax_kernel<<<(unsigned)rows, THREADS, 0, c->stream>>>(scores, m, s.scale, s.causal, first);
            ink_cuda_launched(c, "attention");
            ink_cuda_op_linear(device, ink_view(found, rows, d), ink_view(scores, rows, m), &as_values, ink_linear_epilogue{});
            scatter(c, ink_cols(dst, h * d, d), found, s.q_gap, first, rows);
        }
    }
}
