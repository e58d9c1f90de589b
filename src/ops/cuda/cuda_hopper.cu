/*
 * cuda_hopper.cu - products of bf16 on Hopper's tensor cores, with what follows them done in registers.
 *
 * dst [m, n] = f(x [m, k] w [n, k]^T). A cluster of two blocks takes tiles of 256 x 256: each block its 128 rows of x, while the
 * rows of w are read once for both, half by each. In a block one warp brings x and w by the bulk copy engine into a ring of
 * stages; two warpgroups multiply 64 rows each. While they finish a tile the ring fills for the next.
 * Each number is summed over k in order, by one warpgroup: a row's numbers do not depend on which other rows there are.
 */
#include "ops/cuda/cuda_hopper.h"

#include <cuda.h>

namespace {

constexpr int TILE_M = 128, TILE_N = 256, TILE_K = 64; /* of a block */
constexpr int CLUSTER = 2;                             /* blocks, one above the other */
constexpr int STAGES = 4;
constexpr int HEAD = 128;  /* columns of a head, and those that a warpgroup stores at a time */
constexpr int GROUP = 128;             /* threads of a warpgroup */
constexpr int THREADS = 3 * GROUP;     /* one that brings, two that multiply */
constexpr int BAND = 8;                /* clusters of rows that go through all of n together: what is read stays in the cache */
constexpr int X_BYTES = TILE_M * TILE_K * 2, W_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = X_BYTES + W_BYTES;
constexpr int ROWS = 64;                         /* of a warpgroup */
constexpr int OUT_BYTES = ROWS * HEAD * 2;       /* of a warpgroup */
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + 2 * OUT_BYTES + 1024;
constexpr int RUN = 64; /* columns of dst that lie in one run of 128 bytes */

static_assert(SHARED_BYTES <= 227 * 1024, "more than a block can have");

struct shape {
    int m, n, k;
    int tiles_m; /* of clusters */
    int tiles;
};

/* ---- what Hopper adds ------------------------------------------------------------------------------------------------ */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ void barrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ void barrier_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

__device__ void barrier_wait(uint64_t *b, int phase) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(phase)
                 : "memory");
}

/* At the barrier of that block of the cluster. What is released was read by products, which are done: no store is to be waited for,
   as a release to the cluster would. */
__device__ void barrier_arrive(uint64_t *b, int block) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(block)
                 : "memory");
}

__device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ int cluster_rank() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* A box of the tensor whose first element is (row, col) to shared memory; its bytes count at the barrier. */
__device__ void bring(void *dst, const CUtensorMap *map, int col, int row, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_address(dst)),
                 "l"(map), "r"(col), "r"(row), "r"(shared_address(b))
                 : "memory");
}

/* ... to the same place in all blocks of the cluster. */
__device__ void bring_to_all(void *dst, const CUtensorMap *map, int col, int row, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
                 "[%4], %5;" ::"r"(shared_address(dst)),
                 "l"(map), "r"(col), "r"(row), "r"(shared_address(b)), "h"((uint16_t)((1 << CLUSTER) - 1))
                 : "memory");
}

__device__ void send(const CUtensorMap *map, int col, int row, const void *src) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(col), "r"(row),
                 "r"(shared_address(src))
                 : "memory");
}

/* Rows of 64 bf16, swizzled over 128 bytes, eight rows 1024 bytes after eight. */
__device__ uint64_t operand_at(const void *p) {
    const uint64_t swizzle_128 = 1, eight_rows = 1024;
    return (uint64_t)((shared_address(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (eight_rows >> 4) << 32 | swizzle_128 << 62;
}

#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIXTEEN(d, i) FOUR(d, i), FOUR(d, i + 4), FOUR(d, i + 8), FOUR(d, i + 12)

/* d [64, 256] (+)= x [64, 16] w [256, 16]^T */
__device__ void multiply(float (&d)[128], uint64_t x, uint64_t w, bool add) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, add, 1, 1, 0, 0;\n"
                 "}\n"
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48), SIXTEEN(d, 64), SIXTEEN(d, 80), SIXTEEN(d, 96),
                   SIXTEEN(d, 112)
                 : "l"(x), "l"(w), "r"((int)add));
}

__device__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Until at most n groups of products are under way. */
template <int N> __device__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

/* Numbers that products under way have as their sums may not be looked at before this, which tells the compiler. */
__device__ void products_are_here(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; i += 16) asm volatile("" : SIXTEEN(d, i)::"memory");
}

__device__ void group_sync(int group) {
    __syncwarp();
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(GROUP) : "memory");
}

/* ---- what follows a product -------------------------------------------------------------------------------------------- */

/*
 * A thread has of each 64 rows those of `row` and row + 8, and of each eight columns two that are neighbours: d[4 j] and d[4 j + 1]
 * of the first row, d[4 j + 2] and d[4 j + 3] of the second.
 */
struct position {
    int row, col; /* inside 64 rows and eight columns */
};

__device__ float2 load_two(ink_cuda_vector v, int i) {
    if (!v.data) return make_float2(0, 0);
    if (!v.rounded) return *reinterpret_cast<const float2 *>(static_cast<const float *>(v.data) + i);
    const unsigned bits = *reinterpret_cast<const unsigned *>(static_cast<const __nv_bfloat16 *>(v.data) + i);
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

/* By tanh, whose instruction is as close as bf16 needs it. */
__device__ float gelu(float v) {
    const float sqrt_2_over_pi = 0.79788456080286535588f;
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(sqrt_2_over_pi * v * fmaf(0.044715f * v, v, 1.0f)));
    return 0.5f * v * (1.0f + t);
}

/* Sum over the four threads that share a row. */
__device__ float row_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

/* One head: of its rows first and first + 8, which d has from number `at` on. */
__device__ void normalise_and_turn(float (&d)[128], int at, const ink_cuda_heads &h, ink_cuda_vector w, position p, int first, int m) {
    float squares[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < HEAD / 2; i++) squares[i / 2 % 2] = fmaf(d[at + i], d[at + i], squares[i / 2 % 2]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / sqrtf(row_sum(squares[r]) / HEAD + h.eps);
        const int row = min(first + 8 * r, m - 1);
        const float *cosines = h.cos + (int64_t)row * h.stride, *sines = h.sin + (int64_t)row * h.stride;
#pragma unroll
        for (int j = 0; j < HEAD / 8; j++) {
            const int col = 8 * j + p.col;
            const float2 weight = load_two(w, col);
            const float c = cosines[col / 2], s = sines[col / 2];
            float &even = d[at + 4 * j + 2 * r], &odd = d[at + 4 * j + 2 * r + 1];
            const float a = even * inverse * weight.x, b = odd * inverse * weight.y;
            even = fmaf(a, c, -(b * s));
            odd = fmaf(a, s, b * c);
        }
    }
}

/* HEAD columns from col on, which d has from number `at` on. */
template <ink_cuda_follow FOLLOW>
__device__ void finish(float (&d)[128], int at, const ink_cuda_hopper_end &end, position p, int row, int col, int m) {
#pragma unroll
    for (int j = 0; j < HEAD / 8; j++) {
        const float2 bias = load_two(end.bias, col + 8 * j + p.col);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            d[at + 4 * j + 2 * r] += bias.x;
            d[at + 4 * j + 2 * r + 1] += bias.y;
        }
    }
    if constexpr (FOLLOW == INK_CUDA_GELU) {
#pragma unroll
        for (int i = 0; i < HEAD / 2; i++) d[at + i] = gelu(d[at + i]);
    }
    if constexpr (FOLLOW == INK_CUDA_HEADS)
        if (col < 2 * end.heads.cols)
            normalise_and_turn(d, at, end.heads, col < end.heads.cols ? end.heads.q : end.heads.k, p, row, m);
}

/* HEAD columns as bf16 to where they are sent from: two runs of 64 columns, swizzled as they are brought. */
__device__ void stage(char *out, const float (&d)[128], int at, position p) {
#pragma unroll
    for (int j = 0; j < HEAD / 8; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = p.row + 8 * r;
            const __nv_bfloat162 two = __floats2bfloat162_rn(d[at + 4 * j + 2 * r], d[at + 4 * j + 2 * r + 1]);
            *reinterpret_cast<__nv_bfloat162 *>(out + j / 8 * (ROWS * RUN * 2) + row * (RUN * 2) + ((j % 8) ^ (row % 8)) * 16 +
                                                p.col * 2) = two;
        }
}

/* ---- the kernel ---------------------------------------------------------------------------------------------------------- */

/* The first row and column of a cluster's tile. */
__device__ int2 tile_at(const shape &s, int tile) {
    const int tiles_n = s.n / TILE_N, band = tile / (BAND * tiles_n), in_band = tile % (BAND * tiles_n);
    const int rows = min(BAND, s.tiles_m - band * BAND);
    return make_int2((band * BAND + in_band % rows) * TILE_M * CLUSTER, in_band / rows * TILE_N);
}

struct memory_of_block {
    char *stages, *out;
    uint64_t *full, *empty; /* [STAGES] */
};

__device__ void bring_all(const shape &s, const memory_of_block &b, const CUtensorMap *x, const CUtensorMap *w) {
    const int rank = cluster_rank();
    int step = 0;
    for (int tile = blockIdx.x / CLUSTER; tile < s.tiles; tile += gridDim.x / CLUSTER) {
        const int2 at = tile_at(s, tile);
        for (int k = 0; k < s.k; k += TILE_K, step++) {
            const int i = step % STAGES;
            barrier_wait(&b.empty[i], (step / STAGES & 1) ^ 1);
            barrier_expect(&b.full[i], STAGE_BYTES);
            char *stage = b.stages + i * STAGE_BYTES;
            bring(stage, x, k, at.x + rank * TILE_M, &b.full[i]);
            bring_to_all(stage + X_BYTES + rank * (W_BYTES / CLUSTER), w, k, at.y + rank * (TILE_N / CLUSTER), &b.full[i]);
        }
    }
}

template <ink_cuda_follow FOLLOW>
__device__ void multiply_all(const shape &s, const memory_of_block &b, const CUtensorMap *dst, const ink_cuda_hopper_end &end,
                             int group) {
    const int rank = cluster_rank(), thread = threadIdx.x % GROUP, lane = thread % 32;
    const position p = {thread / 32 * 16 + lane / 4, lane % 4 * 2};
    char *out = b.out + group * OUT_BYTES;
    int step = 0;
    for (int tile = blockIdx.x / CLUSTER; tile < s.tiles; tile += gridDim.x / CLUSTER) {
        float d[128];
        int before = -1; /* the stage of the products that may still be under way */
        for (int k = 0; k < s.k; k += TILE_K, step++) {
            const int i = step % STAGES;
            const char *x = b.stages + i * STAGE_BYTES + group * (ROWS * TILE_K * 2), *w = b.stages + i * STAGE_BYTES + X_BYTES;
            barrier_wait(&b.full[i], step / STAGES & 1);
            products_begin();
#pragma unroll
            for (int part = 0; part < TILE_K / 16; part++)
                multiply(d, operand_at(x + part * 32), operand_at(w + part * 32), k > 0 || part > 0);
            products_end();
            products_wait<1>();
            if (before >= 0 && lane < CLUSTER) barrier_arrive(&b.empty[before], lane);
            __syncwarp();
            before = i;
        }
        products_wait<0>();
        products_are_here(d);
        if (lane < CLUSTER) barrier_arrive(&b.empty[before], lane);

        const int2 at = tile_at(s, tile);
        const int first = at.x + rank * TILE_M + group * ROWS;
#pragma unroll
        for (int part = 0; part < TILE_N / HEAD; part++) {
            finish<FOLLOW>(d, part * HEAD / 2, end, p, first + p.row, at.y + part * HEAD, s.m);
            /* What was sent from here has been read. */
            if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            group_sync(group);
            stage(out, d, part * HEAD / 2, p);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_sync(group);
            if (thread == 0 && first < s.m) {
                send(dst, at.y + part * HEAD, first, out);
                send(dst, at.y + part * HEAD + RUN, first, out + ROWS * RUN * 2);
                asm volatile("cp.async.bulk.commit_group;" ::: "memory");
            }
        }
    }
    if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    __syncwarp();
}

#endif

template <ink_cuda_follow FOLLOW>
__global__ void __cluster_dims__(CLUSTER) __launch_bounds__(THREADS, 1)
    hopper_linear(shape s, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                  const __grid_constant__ CUtensorMap dst, ink_cuda_hopper_end end) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char raw[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    memory_of_block b;
    b.stages = raw + (1024 - (shared_address(raw) & 1023)) % 1024;
    b.out = b.stages + STAGES * STAGE_BYTES;
    b.full = full;
    b.empty = empty;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], CLUSTER * 2 * GROUP / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    if (threadIdx.x < GROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) bring_all(s, b, &x, &w);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        multiply_all<FOLLOW>(s, b, &dst, end, (int)threadIdx.x / GROUP - 1);
    }
    /* A block that is gone cannot be written to. */
    cluster_sync();
#endif
}

typedef CUresult (*encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                                    const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                    CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* Rows of bf16 in boxes of 64 columns. */
bool describe(encode_function encode, CUtensorMap *map, const void *data, int64_t rows, int64_t cols, int64_t stride, int box_rows) {
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[2] = {64, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(data), sizes, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

encode_function find_encode() {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess)
        return nullptr;
    return reinterpret_cast<encode_function>(found);
}

bool is_aligned(const void *p, int64_t stride) { return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 8 == 0; }

bool is_aligned(ink_cuda_vector v) { return reinterpret_cast<uintptr_t>(v.data) % 8 == 0; }

} // namespace

bool ink_cuda_hopper_suits(const ink_cuda *c, ink_tensor dst, ink_tensor x, const void *w, const ink_cuda_hopper_end &end) {
    const bool fits = dst.rows <= INT32_MAX / 2 && dst.cols <= INT32_MAX && x.cols <= INT32_MAX;
    return c->major == 9 && fits && x.type == INK_BF16 && dst.type == INK_BF16 && dst.cols % TILE_N == 0 && x.cols % TILE_K == 0 &&
           is_aligned(x.data, x.stride) && is_aligned(dst.data, dst.stride) && is_aligned(w, x.cols) && is_aligned(end.bias) &&
           is_aligned(end.heads.q) && is_aligned(end.heads.k);
}

void ink_cuda_hopper_linear(ink_cuda *c, ink_tensor dst, ink_tensor x, const void *w, ink_cuda_follow follow,
                            const ink_cuda_hopper_end &end) {
    static const encode_function encode = find_encode();
    if (ink_cuda_failed(c) || dst.rows == 0) return;
    CUtensorMap x_map, w_map, dst_map;
    if (!encode || !describe(encode, &x_map, x.data, x.rows, x.cols, x.stride, TILE_M) ||
        !describe(encode, &w_map, w, dst.cols, x.cols, x.cols, TILE_N / CLUSTER) ||
        !describe(encode, &dst_map, dst.data, dst.rows, dst.cols, dst.stride, ROWS)) {
        ink_cuda_fail(c, "linear: the driver cannot describe x [%lld, %lld]", (long long)x.rows, (long long)x.cols);
        return;
    }
    shape s = {(int)dst.rows, (int)dst.cols, (int)x.cols, 0, 0};
    s.tiles_m = (s.m + CLUSTER * TILE_M - 1) / (CLUSTER * TILE_M);
    s.tiles = s.tiles_m * (s.n / TILE_N);
    const int clusters = s.tiles < c->n_sms / CLUSTER ? s.tiles : c->n_sms / CLUSTER;
    auto kernel = follow == INK_CUDA_GELU    ? hopper_linear<INK_CUDA_GELU>
                  : follow == INK_CUDA_HEADS ? hopper_linear<INK_CUDA_HEADS>
                                             : hopper_linear<INK_CUDA_BIAS>;
    if (!ink_cuda_ok(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES), "linear")) return;
    kernel<<<(unsigned)(clusters * CLUSTER), THREADS, SHARED_BYTES, c->stream>>>(s, x_map, w_map, dst_map, end);
    ink_cuda_launched(c, "linear");
}
