/*
 * cuda_rows.cu - ops that reduce over rows or turn them: the normalisations, alone and fused with what comes before and after, and
 * the rotary embeddings.
 *
 * They are bound by memory, so a row is read once and kept in registers: by a block, by a warp for the heads of an attention, or by
 * a part of a warp for the channels of a pixel. Rows that are too long for that, or not aligned, are read anew in every pass. A
 * thread reads and writes the same columns in every pass, which is why operations in place need no care. Sums go by shuffles and
 * shared memory in a fixed order.
 */
#include <type_traits>

#include "ops/cuda/cuda_pack.h"

namespace {

/* ---- parts of rows ------------------------------------------------------------------------------------------------- */

/* A row [1, n] of either type. */
struct row_vector {
    const void *data;
    bool bf16;
};

row_vector vector_of(ink_tensor x) { return {x.data, x.type == INK_BF16}; }

template <int W> __device__ void load_pack(float (&v)[W], row_vector p, int64_t col) {
    if (p.bf16)
        load_pack(v, static_cast<const __nv_bfloat16 *>(p.data) + col);
    else
        load_pack(v, static_cast<const float *>(p.data) + col);
}

template <typename T> __device__ T *row_of(ink_tensor x, int64_t row) { return reinterpret_cast<T *>(x.data) + row * x.stride; }

/* Threads that share a row. */
struct team {
    int thread, n_threads;
};

/* Calls f(k, col) for each pack of W columns that is this thread's. With N packs at most, k tells which; for N == 0 it is 0. */
template <int W, int N, typename F> __device__ void each_pack(team t, int64_t cols, F f) {
    if constexpr (N > 0) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            int col = (k * t.n_threads + t.thread) * W;
            if (col < cols) f(k, (int64_t)col);
        }
    } else {
        for (int64_t col = (int64_t)t.thread * W; col < cols; col += (int64_t)t.n_threads * W) f(0, col);
    }
}

/* A thread's part of a row: all N packs; or, for N == 0, the one at work. As stored, so that a sum counts as it was rounded. */
template <typename T, int W, int N> struct row_part {
    pack<T, W> raw[N > 0 ? N : 1];
    T *row;

    __device__ void read(int k, int64_t col) { raw[k] = *reinterpret_cast<const pack<T, W> *>(row + col); }
    /* After a pass over the row. */
    __device__ void read_again(int k, int64_t col) {
        if constexpr (N == 0) read(k, col);
    }
    __device__ void write(int k, int64_t col) { *reinterpret_cast<pack<T, W> *>(row + col) = raw[k]; }
    __device__ float at(int k, int i) const { return raw[k].get(i); }
    __device__ void set(int k, const float (&v)[W]) { raw[k].set(v); }
};

/* ---- sums ----------------------------------------------------------------------------------------------------------- */

constexpr int WARP = 32;

/* Over each run of `lanes` lanes, a power of two; the same in all of them, to the bit. */
__device__ float warp_sum(float v, int lanes = WARP) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

/* Sums over the block, the same in all threads. Each call of a kernel has shared memory of its own, so one barrier is enough. */
template <int K> __device__ void block_sums(float (&v)[K], float (*shared)[WARP]) {
#pragma unroll
    for (int k = 0; k < K; k++) v[k] = warp_sum(v[k]);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    if (n_warps == 1) return;
#pragma unroll
    for (int k = 0; k < K; k++)
        if (lane == 0) shared[k][warp] = v[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; k++) v[k] = warp_sum(lane < n_warps ? shared[k][lane] : 0.0f);
}

/* The same for a sum in double. */
__device__ double block_sum(double v, double *shared) {
    for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    if (n_warps == 1) return v;
    if (lane == 0) shared[warp] = v;
    __syncthreads();
    v = lane < n_warps ? shared[lane] : 0.0;
    for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

/*
 * 1 / sqrt(max(mean of n squares + eps, least)). squares(scale) is the sum over a team of (scale * x)^2; all lanes of a warp call
 * it together. Where squares overflow, which no f32 number should bring about, they are summed again of smaller numbers, beside
 * which eps is nothing.
 */
template <typename F> __device__ float inverse_rms(float n, float eps, float least, F squares) {
    float sum = squares(1.0f), inverse = 1.0f / sqrtf(fmaxf(sum / n + eps, least));
    if (__any_sync(~0u, isinf(sum))) {
        float scaled = 1.0f / sqrtf(squares(0x1p-80f) / n) * 0x1p-80f;
        if (isinf(sum)) inverse = scaled;
    }
    return inverse;
}

/* Of what this thread has of the row. */
template <int W, int N, typename R> __device__ float squares_of(R &x, team t, int64_t cols, float scale) {
    float sum = 0;
    each_pack<W, N>(t, cols, [&](int k, int64_t col) {
        x.read_again(k, col);
#pragma unroll
        for (int i = 0; i < W; i++) {
            float v = x.at(k, i) * scale;
            sum = fmaf(v, v, sum);
        }
    });
    return sum;
}

/* The division by 1 + exp(-x) may be coarse, and 0 where that is huge: below -87 silu is next to nothing. */
__device__ float silu(float x) { return __fdividef(x, 1.0f + expf(-x)); }

/* ---- rows of tokens: a block each ---------------------------------------------------------------------------------- */

constexpr int NORM_PACK = 8;     /* columns of a thread, where all is aligned to as many: 3072 are 384 threads */
constexpr int MAX_THREADS = 512; /* so that they have 128 registers each */
constexpr int LOOP_THREADS = 256;

struct norm_arguments {
    ink_tensor dst, x, y[2]; /* y: what is added to x, if anything is */
    row_vector gate[2];      /* NULL data: 1 */
    row_vector scale, shift; /* rmsnorm has no shift */
    float eps, least;
    bool stays; /* x does, whatever is added to it */
    bool silu;
};

/* x and TERMS gated rows beside it, as their sum. */
template <int TERMS, typename TX, typename TY, int W, int N> struct summed_row {
    const norm_arguments &a;
    row_part<TX, W, N> x;
    row_part<TY, W, N> y[TERMS > 0 ? TERMS : 1];

    __device__ summed_row(const norm_arguments &arguments, team t, int64_t cols) : a(arguments) {
        x.row = row_of<TX>(a.x, blockIdx.x);
#pragma unroll
        for (int i = 0; i < TERMS; i++) y[i].row = row_of<TY>(a.y[i], blockIdx.x);
        if constexpr (N > 0) {
            /* Alone, so that all reads are under way before the first is waited for. */
            each_pack<W, N>(t, cols, [&](int k, int64_t col) { read(k, col); });
            each_pack<W, N>(t, cols, [&](int k, int64_t col) {
                add(k, col);
                store(k, col);
            });
        }
    }
    __device__ void read(int k, int64_t col) {
        x.read(k, col);
#pragma unroll
        for (int i = 0; i < TERMS; i++) y[i].read(k, col);
    }
    __device__ void add(int k, int64_t col) {
        if constexpr (TERMS > 0) {
            float sum[W], gate[W];
#pragma unroll
            for (int j = 0; j < W; j++) sum[j] = x.at(k, j);
#pragma unroll
            for (int i = 0; i < TERMS; i++) {
                if (a.gate[i].data) load_pack(gate, a.gate[i], col);
#pragma unroll
                for (int j = 0; j < W; j++) sum[j] = fmaf(a.gate[i].data ? gate[j] : 1.0f, y[i].at(k, j), sum[j]);
            }
            x.set(k, sum);
        }
    }
    __device__ void store(int k, int64_t col) {
        if (TERMS > 0 && !a.stays) x.write(k, col);
    }
    /* In each pass over the row; the last one stores what the first has not. */
    __device__ void read_again(int k, int64_t col, bool last = false) {
        if constexpr (N == 0) {
            read(k, col);
            add(k, col);
            if (last) store(k, col);
        }
    }
    __device__ float at(int k, int i) const { return x.at(k, i); }
};

template <int TERMS, typename TX, typename TY, typename TD, int W, int N>
__global__ void __launch_bounds__(MAX_THREADS) layernorm_rows(norm_arguments a) {
    __shared__ float shared[1][WARP];
    __shared__ double sums[WARP];
    team t = {(int)threadIdx.x, (int)blockDim.x};
    int64_t cols = a.x.cols;
    summed_row<TERMS, TX, TY, W, N> x(a, t, cols);

    /*
     * x may be far from 0 and vary little, or close to its mean: the mean must be known better than f32 has it. So each thread
     * keeps what its sum rounds away, and the sums of threads meet in double.
     */
    float sum = 0, rounded = 0;
    each_pack<W, N>(t, cols, [&](int k, int64_t col) {
        x.read_again(k, col);
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float v = x.at(k, i), grown = __fadd_rn(sum, v), added = __fsub_rn(grown, sum);
            rounded += __fadd_rn(__fsub_rn(sum, __fsub_rn(grown, added)), __fsub_rn(v, added));
            sum = grown;
        }
    });
    const double exact_mean = block_sum((double)sum + (double)rounded, sums) / (double)cols;
    const float mean = (float)exact_mean, mean_rest = (float)(exact_mean - (double)mean);

    float squares[1] = {0};
    each_pack<W, N>(t, cols, [&](int k, int64_t col) {
        x.read_again(k, col);
#pragma unroll
        for (int i = 0; i < W; i++) {
            float v = x.at(k, i) - mean - mean_rest;
            squares[0] = fmaf(v, v, squares[0]);
        }
    });
    block_sums(squares, shared);
    float inverse = 1.0f / sqrtf(squares[0] / (float)cols + a.eps);

    TD *dst = row_of<TD>(a.dst, blockIdx.x);
    each_pack<W, N>(t, cols, [&](int k, int64_t col) {
        x.read_again(k, col, true);
        float scale[W], shift[W], v[W];
        load_pack(scale, a.scale, col);
        load_pack(shift, a.shift, col);
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = fmaf((x.at(k, i) - mean - mean_rest) * inverse, 1.0f + scale[i], shift[i]);
        store_pack(dst + col, v);
    });
}

template <int TERMS, typename TX, typename TY, typename TD, int W, int N>
__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_rows(norm_arguments a) {
    __shared__ float shared[2][WARP];
    team t = {(int)threadIdx.x, (int)blockDim.x};
    int64_t cols = a.x.cols;
    summed_row<TERMS, TX, TY, W, N> x(a, t, cols);

    float(*next)[WARP] = shared;
    float inverse = inverse_rms((float)cols, a.eps, a.least, [&](float scale) {
        float sum[1] = {squares_of<W, N>(x, t, cols, scale)};
        block_sums(sum, next++);
        return sum[0];
    });

    TD *dst = row_of<TD>(a.dst, blockIdx.x);
    each_pack<W, N>(t, cols, [&](int k, int64_t col) {
        x.read_again(k, col, true);
        float w[W], v[W];
        load_pack(w, a.scale, col);
#pragma unroll
        for (int i = 0; i < W; i++) {
            v[i] = x.at(k, i) * inverse * w[i];
            if (a.silu) v[i] = silu(v[i]);
        }
        store_pack(dst + col, v);
    });
}

bool in_packs(row_vector x, int64_t n) { return reinterpret_cast<uintptr_t>(x.data) % (uintptr_t)(n * (x.bf16 ? 2 : 4)) == 0; }

template <bool LAYERNORM, int TERMS, typename TX, typename TY, typename TD> void launch_norm(ink_cuda *c, const norm_arguments &a) {
    bool packs = in_packs(a.x, NORM_PACK) && in_packs(a.dst, NORM_PACK) && in_packs(a.scale, NORM_PACK) &&
                 in_packs(a.shift, NORM_PACK) && a.x.cols <= (int64_t)NORM_PACK * MAX_THREADS;
    for (int i = 0; i < TERMS; i++) packs = packs && in_packs(a.y[i], NORM_PACK) && in_packs(a.gate[i], NORM_PACK);
    auto held = LAYERNORM ? layernorm_rows<TERMS, TX, TY, TD, NORM_PACK, 1> : rmsnorm_rows<TERMS, TX, TY, TD, NORM_PACK, 1>;
    auto looped = LAYERNORM ? layernorm_rows<TERMS, TX, TY, TD, 1, 0> : rmsnorm_rows<TERMS, TX, TY, TD, 1, 0>;
    int64_t threads = (a.x.cols + NORM_PACK - 1) / NORM_PACK;
    if (packs)
        held<<<(unsigned)a.x.rows, (unsigned)((threads + WARP - 1) / WARP * WARP), 0, c->stream>>>(a);
    else
        looped<<<(unsigned)a.x.rows, LOOP_THREADS, 0, c->stream>>>(a);
}

/* Without something to add. */
template <bool LAYERNORM> void norm(const ink_device *device, const norm_arguments &a, const char *name) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || a.x.rows == 0 || a.x.cols == 0) return;
    ink_with_type(a.x, [&](auto *x) {
        ink_with_type(a.dst, [&](auto *dst) {
            launch_norm<LAYERNORM, 0, std::remove_pointer_t<decltype(x)>, float, std::remove_pointer_t<decltype(dst)>>(c, a);
        });
    });
    ink_cuda_launched(c, name);
}

/* With TERMS rows that are added to one of f32. */
template <bool LAYERNORM, int TERMS> void residual_norm(const ink_device *device, const norm_arguments &a, const char *name) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || a.x.rows == 0 || a.x.cols == 0) return;
    ink_with_type(a.y[0], [&](auto *y) {
        ink_with_type(a.dst, [&](auto *dst) {
            launch_norm<LAYERNORM, TERMS, float, std::remove_pointer_t<decltype(y)>, std::remove_pointer_t<decltype(dst)>>(c, a);
        });
    });
    ink_cuda_launched(c, name);
}

/* ---- rows of channels: a part of a warp each ------------------------------------------------------------------------ */

constexpr int PACK = 4; /* columns, here and below */
constexpr int PIXEL_THREADS = 256;
constexpr int PIXEL_HELD = 3; /* packs that a thread keeps: 96, 192 and 384 channels are 8, 16 and 32 lanes of 3 */

template <typename TX, typename TD> __global__ void __launch_bounds__(PIXEL_THREADS) rmsnorm_pixels(norm_arguments a, int lanes) {
    team t = {(int)threadIdx.x % lanes, lanes};
    int64_t row = (int64_t)blockIdx.x * (PIXEL_THREADS / lanes) + threadIdx.x / lanes;
    /* A team behind the last row takes part in the shuffles, with no columns. */
    int64_t cols = row < a.x.rows ? a.x.cols : 0;
    row_part<TX, PACK, PIXEL_HELD> x;
    x.row = row_of<TX>(a.x, row);
    each_pack<PACK, PIXEL_HELD>(t, cols, [&](int k, int64_t col) { x.read(k, col); });
    float inverse = inverse_rms((float)a.x.cols, a.eps, a.least,
                                [&](float scale) { return warp_sum(squares_of<PACK, PIXEL_HELD>(x, t, cols, scale), lanes); });
    TD *dst = row_of<TD>(a.dst, row);
    each_pack<PACK, PIXEL_HELD>(t, cols, [&](int k, int64_t col) {
        float w[PACK], v[PACK];
        load_pack(w, a.scale, col);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            v[i] = x.at(k, i) * inverse * w[i];
            if (a.silu) v[i] = silu(v[i]);
        }
        store_pack(dst + col, v);
    });
}

/* ---- rotary embeddings ---------------------------------------------------------------------------------------------- */

constexpr int ROPE_THREADS = 256;
constexpr int ROPE_HEAD = WARP * PACK; /* the size of heads that a warp holds */
constexpr int ROPE_HELD = 3;           /* heads at once: the 24 of a row are 8 warps of 3 */

__device__ void rotate(float &x, float &y, float cosine, float sine) {
    float turned = fmaf(x, cosine, -(y * sine));
    y = fmaf(x, sine, y * cosine);
    x = turned;
}

/* A block for the queries of a row and one for its keys, a warp per head of 128. */
template <typename T>
__global__ void __launch_bounds__(ROPE_THREADS)
    rmsnorm_rope_rows(ink_tensor qk, row_vector wq, row_vector wk, ink_tensor cos, ink_tensor sin, int64_t n_heads, float eps) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
    T *row = row_of<T>(qk, blockIdx.x) + blockIdx.y * n_heads * ROPE_HEAD + lane * PACK;
    float cosine[PACK / 2], sine[PACK / 2], weight[PACK];
    load_pack(cosine, row_of<float>(cos, blockIdx.x) + lane * (PACK / 2));
    load_pack(sine, row_of<float>(sin, blockIdx.x) + lane * (PACK / 2));
    load_pack(weight, blockIdx.y == 0 ? wq : wk, lane * PACK);
    for (int64_t first = warp; first < n_heads; first += ROPE_HELD * n_warps) {
        pack<T, PACK> raw[ROPE_HELD];
#pragma unroll
        for (int k = 0; k < ROPE_HELD; k++)
            if (first + k * n_warps < n_heads)
                raw[k] = *reinterpret_cast<const pack<T, PACK> *>(row + (first + k * n_warps) * ROPE_HEAD);
#pragma unroll
        for (int k = 0; k < ROPE_HELD; k++) {
            if (first + k * n_warps >= n_heads) break;
            float v[PACK];
#pragma unroll
            for (int i = 0; i < PACK; i++) v[i] = raw[k].get(i);
            float inverse = inverse_rms(ROPE_HEAD, eps, 0, [&](float scale) {
                float sum = 0;
#pragma unroll
                for (int i = 0; i < PACK; i++) sum = fmaf(v[i] * scale, v[i] * scale, sum);
                return warp_sum(sum);
            });
#pragma unroll
            for (int i = 0; i < PACK; i++) v[i] = v[i] * inverse * weight[i];
#pragma unroll
            for (int i = 0; i < PACK / 2; i++) rotate(v[2 * i], v[2 * i + 1], cosine[i], sine[i]);
            store_pack(row + (first + k * n_warps) * ROPE_HEAD, v);
        }
    }
}

/* Heads of any size, a warp each. */
template <typename T>
__global__ void __launch_bounds__(ROPE_THREADS)
    rmsnorm_rope_heads(ink_tensor qk, row_vector wq, row_vector wk, ink_tensor cos, ink_tensor sin, int64_t n_heads, float eps) {
    int64_t id = (int64_t)blockIdx.x * (ROPE_THREADS / WARP) + threadIdx.x / WARP, row = id / (2 * n_heads);
    int64_t of_row = id % (2 * n_heads), head_dim = qk.cols / (2 * n_heads);
    if (row >= qk.rows) return;
    T *head = row_of<T>(qk, row) + of_row * head_dim;
    row_vector w = of_row < n_heads ? wq : wk;
    int lane = threadIdx.x % WARP;
    float inverse = inverse_rms((float)head_dim, eps, 0, [&](float scale) {
        float sum = 0;
        for (int64_t j = 2 * lane; j < head_dim; j += 2 * WARP) {
            float even = ink_load(head + j) * scale, odd = ink_load(head + j + 1) * scale;
            sum = fmaf(even, even, fmaf(odd, odd, sum));
        }
        return warp_sum(sum);
    });
    for (int64_t j = 2 * lane; j < head_dim; j += 2 * WARP) {
        float even_w[1], odd_w[1];
        load_pack(even_w, w, j);
        load_pack(odd_w, w, j + 1);
        float even = ink_load(head + j) * inverse * even_w[0], odd = ink_load(head + j + 1) * inverse * odd_w[0];
        rotate(even, odd, row_of<float>(cos, row)[j / 2], row_of<float>(sin, row)[j / 2]);
        ink_store(head + j, even);
        ink_store(head + j + 1, odd);
    }
}

/* A block per row, W pairs at a time. */
template <typename T, int W>
__global__ void __launch_bounds__(ROPE_THREADS) rope_half_rows(ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    unsigned half = (unsigned)(x.cols / n_heads / 2), n_pairs = (unsigned)n_heads * half;
    const float *cosines = row_of<float>(cos, blockIdx.x), *sines = row_of<float>(sin, blockIdx.x);
    for (unsigned pair = threadIdx.x * W; pair < n_pairs; pair += blockDim.x * W) {
        unsigned k = pair % half;
        T *first = row_of<T>(x, blockIdx.x) + (pair - k) * 2 + k, *second = first + half;
        float a[W], b[W], cosine[W], sine[W];
        load_pack(a, first);
        load_pack(b, second);
        load_pack(cosine, cosines + k);
        load_pack(sine, sines + k);
#pragma unroll
        for (int i = 0; i < W; i++) rotate(a[i], b[i], cosine[i], sine[i]);
        store_pack(first, a);
        store_pack(second, b);
    }
}

} // namespace

static norm_arguments arguments_of(ink_tensor dst, ink_tensor x, ink_tensor scale, float eps) {
    norm_arguments a = {};
    a.dst = dst;
    a.x = x;
    a.scale = vector_of(scale);
    a.eps = eps;
    return a;
}

void ink_cuda_op_layernorm_modulate(const ink_device *device, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift,
                                    float eps) {
    norm_arguments a = arguments_of(dst, x, scale, eps);
    a.shift = vector_of(shift);
    norm<true>(device, a, "layernorm_modulate");
}

void ink_cuda_op_gated_residual_layernorm_modulate(const ink_device *device, ink_tensor dst, ink_residual r, ink_tensor scale,
                                                   ink_tensor shift, float eps) {
    const char *name = "gated_residual_layernorm_modulate";
    norm_arguments a = arguments_of(dst, r.x, scale, eps);
    a.shift = vector_of(shift);
    a.stays = r.stays;
    for (int i = 0; i < r.n; i++) {
        a.y[i] = r.y[i];
        a.gate[i] = vector_of(r.gate[i]);
    }
    if (r.n == 1)
        residual_norm<true, 1>(device, a, name);
    else
        residual_norm<true, 2>(device, a, name);
}

void ink_cuda_op_rmsnorm(const ink_device *device, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    norm<false>(device, arguments_of(dst, x, w, eps), "rmsnorm");
}

void ink_cuda_op_residual_rmsnorm(const ink_device *device, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    norm_arguments a = arguments_of(dst, x, w, eps);
    a.y[0] = r;
    residual_norm<false, 1>(device, a, "residual_rmsnorm");
}

void ink_cuda_op_rmsnorm_channels(const ink_device *device, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    ink_cuda *c = ink_cuda_of(device);
    /* x / max(|x|, 1e-12) * sqrt(n) is x over the root of the mean square, or of 1e-24 / n if that is more. */
    norm_arguments a = arguments_of(dst, x, gamma, 0);
    a.least = (float)(1e-24 / (double)x.cols);
    a.silu = silu;
    bool packs = in_packs(x, PACK) && in_packs(dst, PACK) && in_packs(a.scale, PACK) && x.cols <= PACK * PIXEL_HELD * WARP;
    if (!packs) {
        norm<false>(device, a, "rmsnorm_channels");
        return;
    }
    if (ink_cuda_failed(c) || x.rows == 0 || x.cols == 0) return;
    int lanes = 1;
    while (lanes * PACK * PIXEL_HELD < x.cols) lanes *= 2;
    int64_t rows_per_block = PIXEL_THREADS / lanes, blocks = (x.rows + rows_per_block - 1) / rows_per_block;
    ink_with_type(x, [&](auto *from) {
        ink_with_type(dst, [&](auto *to) {
            rmsnorm_pixels<std::remove_pointer_t<decltype(from)>, std::remove_pointer_t<decltype(to)>>
                <<<(unsigned)blocks, PIXEL_THREADS, 0, c->stream>>>(a, lanes);
        });
    });
    ink_cuda_launched(c, "rmsnorm_channels");
}

void ink_cuda_op_rmsnorm_rope(const ink_device *device, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                              int64_t n_heads, float eps) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || qk.rows == 0 || qk.cols == 0) return;
    row_vector q = vector_of(wq), k = vector_of(wk);
    bool packs = qk.cols == 2 * n_heads * ROPE_HEAD && in_packs(qk, PACK) && in_packs(q, PACK) && in_packs(k, PACK) &&
                 in_packs(cos, PACK / 2) && in_packs(sin, PACK / 2);
    int64_t heads_per_block = ROPE_THREADS / WARP, blocks = (qk.rows * 2 * n_heads + heads_per_block - 1) / heads_per_block;
    ink_with_type(qk, [&](auto *p) {
        using T = std::remove_pointer_t<decltype(p)>;
        if (packs)
            rmsnorm_rope_rows<T><<<dim3((unsigned)qk.rows, 2), ROPE_THREADS, 0, c->stream>>>(qk, q, k, cos, sin, n_heads, eps);
        else
            rmsnorm_rope_heads<T><<<(unsigned)blocks, ROPE_THREADS, 0, c->stream>>>(qk, q, k, cos, sin, n_heads, eps);
    });
    ink_cuda_launched(c, "rmsnorm_rope");
}

void ink_cuda_op_rope_half(const ink_device *device, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || x.rows == 0 || x.cols == 0) return;
    bool packs = x.cols / n_heads / 2 % PACK == 0 && in_packs(x, PACK) && in_packs(cos, PACK) && in_packs(sin, PACK);
    ink_with_type(x, [&](auto *p) {
        using T = std::remove_pointer_t<decltype(p)>;
        auto rows = packs ? rope_half_rows<T, PACK> : rope_half_rows<T, 1>;
        rows<<<(unsigned)x.rows, ROPE_THREADS, 0, c->stream>>>(x, cos, sin, n_heads);
    });
    ink_cuda_launched(c, "rope_half");
}
