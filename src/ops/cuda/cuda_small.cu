/*
 * cuda_small.cu - ops that go over their operands once, element by element, and the guidance, which also needs lengths of rows.
 *
 * Most are a functor that is called for W columns of a row: W is 4 where everything is aligned to as many elements, else 1.
 */
#include <type_traits>

#include "ops/cuda/cuda_pack.h"

namespace {

/* ---- going over rows ------------------------------------------------------------------------------------------------ */

template <typename T> __device__ T *at(ink_tensor x, int64_t row, int64_t col) {
    return reinterpret_cast<T *>(x.data) + row * x.stride + col;
}

/* Where speed does not matter: an element of either type. */
__device__ float any_at(ink_tensor x, int64_t row, int64_t col) {
    return x.type == INK_BF16 ? ink_load(at<const __nv_bfloat16>(x, row, col)) : ink_load(at<const float>(x, row, col));
}

constexpr int THREADS = 256, MAX_GRID_Y = 65535, MAX_GRID_X = INT32_MAX;

/* A thread per W columns: blockDim.x of them side by side, blockDim.y rows. */
template <int W, typename F> __global__ void __launch_bounds__(THREADS) go_over(int64_t rows, int64_t cols, F f) {
    for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += (int64_t)gridDim.x * blockDim.y)
        for (int64_t col = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * W; col < cols;
             col += (int64_t)gridDim.y * blockDim.x * W)
            f(row, col);
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* cols is a multiple of W. */
template <int W, typename F> void launch(ink_cuda *c, int64_t rows, int64_t cols, F f, const char *name) {
    if (rows == 0 || cols == 0) return;
    int64_t packs = cols / W;
    unsigned width = 1;
    while (width < packs && width < THREADS) width *= 2;
    unsigned height = THREADS / width;
    dim3 grid((unsigned)least((rows + height - 1) / height, MAX_GRID_X), (unsigned)least((packs + width - 1) / width, MAX_GRID_Y));
    go_over<W><<<grid, dim3(width, height), 0, c->stream>>>(rows, cols, f);
    ink_cuda_launched(c, name);
}

constexpr int PACK = 4;

/* Calls f with a constant of that value: f([&](auto w) { constexpr int W = decltype(w)::value; ... }). */
template <typename F> void with_width(bool packs, F f) {
    if (packs)
        f(std::integral_constant<int, PACK>());
    else
        f(std::integral_constant<int, 1>());
}

template <typename P> using element = std::remove_pointer_t<P>;

/* ---- element by element ---------------------------------------------------------------------------------------------- */

template <typename TD, typename TA, typename TB, int W> struct silu_mul {
    ink_tensor dst, a, b;

    __device__ void operator()(int64_t row, int64_t col) const {
        float x[W], y[W];
        load_pack(x, at<TA>(a, row, col));
        load_pack(y, at<TB>(b, row, col));
        /* The division may be coarse, and 0 where 1 + exp(-x) is huge: below -87 silu is next to nothing. */
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = __fdividef(x[i], 1.0f + expf(-x[i])) * y[i];
        store_pack(at<TD>(dst, row, col), x);
    }
};

template <typename TX, typename TV, int W> struct euler_step {
    ink_tensor x, v;
    float dt;

    __device__ void operator()(int64_t row, int64_t col) const {
        float a[W], b[W];
        load_pack(a, at<TX>(x, row, col));
        load_pack(b, at<TV>(v, row, col));
#pragma unroll
        for (int i = 0; i < W; i++) a[i] = fmaf(dt, b[i], a[i]);
        store_pack(at<TX>(x, row, col), a);
    }
};

template <typename TD, typename TX, int W> struct copy {
    ink_tensor dst, x;

    __device__ void operator()(int64_t row, int64_t col) const {
        float v[W];
        load_pack(v, at<TX>(x, row, col));
        store_pack(at<TD>(dst, row, col), v);
    }
};

/* Over the pixels of x. */
template <typename TD, typename TX, int W> struct upsample2x {
    ink_tensor dst, x;
    unsigned width;

    __device__ void operator()(int64_t row, int64_t col) const {
        float v[W];
        load_pack(v, at<TX>(x, row, col));
        int64_t y = (unsigned)row / width, first = (4 * y * width) + 2 * ((unsigned)row % width);
        store_pack(at<TD>(dst, first, col), v);
        store_pack(at<TD>(dst, first + 1, col), v);
        store_pack(at<TD>(dst, first + 2 * (int64_t)width, col), v);
        store_pack(at<TD>(dst, first + 2 * (int64_t)width + 1, col), v);
    }
};

/* Over [n, m], a frequency each. Rounded where the definition rounds, and nowhere else. */
template <typename TD> struct timestep_embed {
    ink_tensor dst, t;

    __device__ void operator()(int64_t row, int64_t col) const {
        const float minus_ln_10000 = -9.210340371976184f;
        int64_t half = dst.cols / 2;
        float exponent = __fdiv_rn(__fmul_rn(minus_ln_10000, (float)col), (float)half);
        float frequency = (float)exp((double)exponent);
        double angle = (double)__fmul_rn(1000.0f, __fmul_rn(any_at(t, 0, row), frequency));
        ink_store(at<TD>(dst, row, col), (float)cos(angle));
        ink_store(at<TD>(dst, row, half + col), (float)sin(angle));
    }
};

template <typename TD> struct unpatchify {
    ink_tensor dst, latents, mean, std;
    int64_t width, patch;

    __device__ void operator()(int64_t row, int64_t col) const {
        int64_t py = row / width, px = row % width, token = py / patch * (width / patch) + px / patch;
        float v = any_at(latents, token, col * patch * patch + py % patch * patch + px % patch);
        ink_store(at<TD>(dst, row, col), fmaf(v, any_at(std, 0, col), any_at(mean, 0, col)));
    }
};

/* ---- cfg_combine ----------------------------------------------------------------------------------------------------- */

constexpr int WARP = 32;

/* The same in all lanes, to the bit. */
__device__ float warp_sum(float v) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

/* A warp per row; a lane reads what it writes over, so dst may be a source. */
template <typename TD, typename TC, typename TU>
__global__ void __launch_bounds__(THREADS) cfg_combine_rows(ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= dst.rows) return;
    auto mix = [scale](float with, float without) { return fmaf(scale, with - without, without); };
    float cond_squares = 0, mixed_squares = 0;
    for (int64_t col = lane; col < dst.cols; col += WARP) {
        float with = ink_load(at<TC>(cond, row, col)), mixed = mix(with, ink_load(at<TU>(uncond, row, col)));
        cond_squares = fmaf(with, with, cond_squares);
        mixed_squares = fmaf(mixed, mixed, mixed_squares);
    }
    float ratio = sqrtf(warp_sum(cond_squares)) / sqrtf(warp_sum(mixed_squares));
    for (int64_t col = lane; col < dst.cols; col += WARP) {
        float mixed = mix(ink_load(at<TC>(cond, row, col)), ink_load(at<TU>(uncond, row, col)));
        ink_store(at<TD>(dst, row, col), mixed * ratio);
    }
}

} // namespace

void ink_cuda_op_silu_mul(const ink_device *device, ink_tensor dst, ink_tensor a, ink_tensor b) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_with_type(dst, [&](auto *d) {
        ink_with_type(a, [&](auto *p) {
            ink_with_type(b, [&](auto *q) {
                with_width(in_packs(dst, PACK) && in_packs(a, PACK) && in_packs(b, PACK), [&](auto w) {
                    constexpr int W = decltype(w)::value;
                    silu_mul<element<decltype(d)>, element<decltype(p)>, element<decltype(q)>, W> f = {dst, a, b};
                    launch<W>(c, dst.rows, dst.cols, f, "silu_mul");
                });
            });
        });
    });
}

void ink_cuda_op_euler_step(const ink_device *device, ink_tensor x, ink_tensor v, float dt) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_with_type(x, [&](auto *p) {
        ink_with_type(v, [&](auto *q) {
            with_width(in_packs(x, PACK) && in_packs(v, PACK), [&](auto w) {
                constexpr int W = decltype(w)::value;
                euler_step<element<decltype(p)>, element<decltype(q)>, W> f = {x, v, dt};
                launch<W>(c, x.rows, x.cols, f, "euler_step");
            });
        });
    });
}

void ink_cuda_convert(ink_cuda *c, ink_tensor dst, ink_tensor x) {
    if (ink_cuda_failed(c)) return;
    ink_with_type(dst, [&](auto *p) {
        ink_with_type(x, [&](auto *q) {
            with_width(in_packs(dst, PACK) && in_packs(x, PACK), [&](auto w) {
                constexpr int W = decltype(w)::value;
                copy<element<decltype(p)>, element<decltype(q)>, W> f = {dst, x};
                launch<W>(c, x.rows, x.cols, f, "copy");
            });
        });
    });
}

void ink_cuda_op_copy(const ink_device *device, ink_tensor dst, ink_tensor x) { ink_cuda_convert(ink_cuda_of(device), dst, x); }

void ink_cuda_op_upsample2x(const ink_device *device, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    if (height * width > UINT32_MAX) {
        ink_cuda_fail(c, "upsample2x: %lld x %lld pixels are too many", (long long)height, (long long)width);
        return;
    }
    ink_with_type(dst, [&](auto *p) {
        ink_with_type(x, [&](auto *q) {
            with_width(in_packs(dst, PACK) && in_packs(x, PACK), [&](auto w) {
                constexpr int W = decltype(w)::value;
                upsample2x<element<decltype(p)>, element<decltype(q)>, W> f = {dst, x, (unsigned)width};
                launch<W>(c, x.rows, x.cols, f, "upsample2x");
            });
        });
    });
}

void ink_cuda_op_timestep_embed(const ink_device *device, ink_tensor dst, ink_tensor t) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_with_type(dst, [&](auto *p) {
        timestep_embed<element<decltype(p)>> f = {dst, t};
        launch<1>(c, dst.rows, dst.cols / 2, f, "timestep_embed");
    });
}

void ink_cuda_op_unpatchify(const ink_device *device, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std,
                            int64_t height, int64_t width, int64_t patch) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_with_type(dst, [&](auto *p) {
        unpatchify<element<decltype(p)>> f = {dst, latents, mean, std, width, patch};
        launch<1>(c, height * width, dst.cols, f, "unpatchify");
    });
}

void ink_cuda_op_cfg_combine(const ink_device *device, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || dst.rows == 0) return;
    int64_t rows_per_block = THREADS / WARP, blocks = (dst.rows + rows_per_block - 1) / rows_per_block;
    ink_with_type(dst, [&](auto *d) {
        ink_with_type(cond, [&](auto *p) {
            ink_with_type(uncond, [&](auto *q) {
                cfg_combine_rows<element<decltype(d)>, element<decltype(p)>, element<decltype(q)>>
                    <<<(unsigned)blocks, THREADS, 0, c->stream>>>(dst, cond, uncond, scale);
            });
        });
    });
    ink_cuda_launched(c, "cfg_combine");
}
