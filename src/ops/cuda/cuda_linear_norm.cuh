/*
 * cuda_linear_norm.cuh - a product, what it is added to, and the norm after it, in one kernel of Hopper's: of bf16 [m, k] and [n,
 * k],
 *
 *     STAYS: y = a w^T + bias;  dst = LN(x + gate * y) * (1 + scale) + shift
 *     else:  x += before * y + gate * (a w^T + bias);  dst = LN(x) * (1 + scale) + shift
 *
 * A cluster of two blocks takes tiles of 256 x 256, in order, from a counter. In a block one warp brings operands, and then the
 * tile's part of the stream, through a ring of stages; two warpgroups multiply 64 rows each, add, and store; and three warps make
 * the norm of tiles whose rows are complete, beside the products of later ones. Means and squares of parts of rows meet in memory.
 * Nobody who multiplies waits for another block, and tiles are taken in order, so what is waited for is always being made.
 *
 * As fast as cuBLASLt without what follows the product. With it 2.5 % slower than cuBLASLt and the two norms: see docs/attempts.md.
 */
#include <cstdint>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace {

constexpr int TILE_M = 128, TILE_N = 256, TILE_K = 64; /* of a block */
constexpr int CLUSTER = 2;                             /* blocks, one above the other */
constexpr int STAGES = 4;
constexpr int GROUP = 128;         /* threads of a warpgroup */
constexpr int THREADS = 3 * GROUP; /* one that brings and normalises, two that multiply */
constexpr int A_BYTES = TILE_M * TILE_K * 2, W_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = A_BYTES + W_BYTES;
constexpr int ROWS = 64;  /* of a warpgroup */
constexpr int CHUNK = 64; /* columns of the stream that a stage takes */
constexpr int X_BYTES = TILE_M * CHUNK * 4, Y_BYTES = TILE_M * CHUNK * 2;
constexpr int SLOTS = 16; /* tiles drawn whose rows are not normalised yet */
constexpr int MOST_TILES_N = SLOTS - 2;
constexpr int WARPS = GROUP / 32, NORMERS = WARPS - 1; /* of a warpgroup; that normalise */
constexpr int MOST_NORMERS = NORMERS + 2 * WARPS;      /* at the end */
constexpr int SHARES = NORMERS * MOST_NORMERS;
constexpr int RING = 4; /* rows that a warp has under way */
constexpr int ROW_BYTES = TILE_N * 6;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + NORMERS * RING * ROW_BYTES + 1024;
static_assert(X_BYTES + Y_BYTES <= STAGE_BYTES, "");

struct vec {
    const void *data;
    bool rounded;
};

struct end {
    float *x;
    int64_t x_stride;
    __nv_bfloat16 *y;
    int64_t y_stride; /* STAYS: the product is stored; else read */
    __nv_bfloat16 *dst;
    int64_t dst_stride;
    vec bias, gate, before, scale, shift; /* before: gate of y, if it is read */
    float4 *parts;                        /* [m, tiles_n] */
    int *arrived;                         /* [m / 128], 0 between calls */
    int *drawn;                           /* 0 between calls */
    float eps;
};

struct shape {
    int m, n, k, tiles_n, tiles;
};

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
__device__ void barrier_wait_cluster(uint64_t *b, int phase) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(phase)
                 : "memory");
}
__device__ void barrier_arrive(uint64_t *b, int block) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(block)
                 : "memory");
}
__device__ void barrier_arrive(uint64_t *b, int block, int times) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there], %2;\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(block), "r"(times)
                 : "memory");
}
__device__ void send(const CUtensorMap *map, int col, int row, const void *src) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(col), "r"(row),
                 "r"(shared_address(src))
                 : "memory");
}
__device__ void barrier_arrive_release(uint64_t *b, int block) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(block)
                 : "memory");
}
__device__ void store_there(int *p, int block, int v) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "st.shared::cluster.u32 [there], %2;\n"
                 "}\n" ::"r"(shared_address(p)),
                 "r"(block), "r"(v)
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
__device__ void bring(void *dst, const CUtensorMap *map, int col, int row, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_address(dst)),
                 "l"(map), "r"(col), "r"(row), "r"(shared_address(b))
                 : "memory");
}
__device__ void bring_to_all(void *dst, const CUtensorMap *map, int col, int row, uint64_t *b) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
        "[%4], %5;" ::"r"(shared_address(dst)),
        "l"(map), "r"(col), "r"(row), "r"(shared_address(b)), "h"((uint16_t)((1 << CLUSTER) - 1))
        : "memory");
}
__device__ void bring_near(const CUtensorMap *map, int col, int row) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(col), "r"(row) : "memory");
}
__device__ uint64_t operand_at(const void *p) {
    const uint64_t swizzle_128 = 1, eight_rows = 1024;
    return (uint64_t)((shared_address(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (eight_rows >> 4) << 32 | swizzle_128 << 62;
}

#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIXTEEN(d, i) FOUR(d, i), FOUR(d, i + 4), FOUR(d, i + 8), FOUR(d, i + 12)
__device__ void multiply(float (&d)[128], uint64_t x, uint64_t w) {
    asm volatile("{\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, 1, 1, 1, 0, 0;\n"
                 "}\n"
                 : SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48), SIXTEEN(d, 64), SIXTEEN(d, 80), SIXTEEN(d, 96),
                   SIXTEEN(d, 112)
                 : "l"(x), "l"(w));
}
__device__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
__device__ void products_are_here(float (&d)[128]) {
#pragma unroll
    for (int i = 0; i < 128; i += 16) asm volatile("" : SIXTEEN(d, i)::"memory");
}
__device__ void group_sync(int group) {
    __syncwarp();
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(GROUP) : "memory");
}

__device__ float2 load_two(vec v, int i) {
    if (!v.data) return make_float2(0, 0);
    if (!v.rounded) return *reinterpret_cast<const float2 *>(static_cast<const float *>(v.data) + i);
    const unsigned bits = *reinterpret_cast<const unsigned *>(static_cast<const __nv_bfloat16 *>(v.data) + i);
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ void load_eight(float (&f)[8], vec v, int i) {
    if (v.rounded) {
        const uint4 b = *reinterpret_cast<const uint4 *>(static_cast<const __nv_bfloat16 *>(v.data) + i);
        const unsigned w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 0; j < 8; j++) f[j] = __uint_as_float(j % 2 ? w[j / 2] & 0xffff0000u : w[j / 2] << 16);
    } else {
        const float4 *p = reinterpret_cast<const float4 *>(static_cast<const float *>(v.data) + i);
        const float4 a = p[0], b = p[1];
        f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
    }
}
__device__ float row_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}
__device__ unsigned round_two(float a, float b) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const unsigned *>(&two);
}
__device__ float low(unsigned v) { return __uint_as_float(v << 16); }
__device__ float high(unsigned v) { return __uint_as_float(v & 0xffff0000u); }

/* Where it is, in the order of the text: else all stores of an end wait for its last, with their numbers in registers. */
__device__ void store_two(bool is, void *p, unsigned a, unsigned b) {
    asm volatile("{\n"
                 ".reg .pred is;\n"
                 "setp.ne.b32 is, %0, 0;\n"
                 "@is st.global.v2.b32 [%1], {%2, %3};\n"
                 "}\n" ::"r"((int)is),
                 "l"(p), "r"(a), "r"(b)
                 : "memory");
}

struct block_memory {
    char *stages;
    uint64_t *full, *empty;        /* [STAGES] */
    uint64_t *was_drawn, *is_free; /* [SLOTS] */
    int *tiles;                    /* [SLOTS] */
    float4 *vectors;               /* [2][TILE_N / 2] */
    float2 *before;                /* [2][TILE_N / 2] */
    char *rows;                    /* [NORMERS][RING][ROW_BYTES] */
};

__device__ int next_tile(const block_memory &b, int i) {
    barrier_wait_cluster(&b.was_drawn[i % SLOTS], i / SLOTS & 1);
    return *(volatile int *)&b.tiles[i % SLOTS];
}

__device__ void draw(const shape &s, const block_memory &b, int *drawn, int i) {
    barrier_wait_cluster(&b.is_free[i % SLOTS], (i / SLOTS & 1) ^ 1);
    int tile = atomicAdd(drawn, 1);
    if (tile >= s.tiles) {
        if (tile == s.tiles + (int)gridDim.x / CLUSTER - 1) atomicExch(drawn, 0);
        tile = -1;
    }
    for (int block = 0; block < CLUSTER; block++) {
        store_there(&b.tiles[i % SLOTS], block, tile);
        barrier_arrive_release(&b.was_drawn[i % SLOTS], block);
    }
}

template <bool STAYS>
__device__ void bring_all(const shape &s, const block_memory &b, const CUtensorMap *a, const CUtensorMap *w, const CUtensorMap *x,
                          const CUtensorMap *y, int *drawn) {
    const int rank = cluster_rank();
    int step = 0;
    if (rank == 0) draw(s, b, drawn, 0);
    for (int i = 0;; i++) {
        const int tile = next_tile(b, i);
        if (tile < 0) break;
        if (rank == 0) draw(s, b, drawn, i + 1);
        barrier_arrive(&b.is_free[i % SLOTS], 0);
        const int row = (tile / s.tiles_n * CLUSTER + rank) * TILE_M, col = tile % s.tiles_n * TILE_N;
        for (int k = 0; k < s.k; k += TILE_K, step++) {
            const int at = step % STAGES;
            barrier_wait(&b.empty[at], (step / STAGES & 1) ^ 1);
            barrier_expect(&b.full[at], STAGE_BYTES);
            char *stage = b.stages + at * STAGE_BYTES;
            bring(stage, a, k, row, &b.full[at]);
            bring_to_all(stage + A_BYTES + rank * (W_BYTES / CLUSTER), w, k, col + rank * (TILE_N / CLUSTER), &b.full[at]);
            if (k < 8 * TILE_K) {
                bring_near(x, col + k / 2, row);
                if (!STAYS && k < 4 * TILE_K) bring_near(y, col + k, row);
            }
        }
        for (int c = 0; c < TILE_N; c += CHUNK, step++) {
            const int at = step % STAGES;
            barrier_wait(&b.empty[at], (step / STAGES & 1) ^ 1);
            barrier_expect(&b.full[at], STAYS ? X_BYTES : X_BYTES + Y_BYTES);
            char *stage = b.stages + at * STAGE_BYTES;
            bring(stage, x, col + c, row, &b.full[at]);
            bring(stage + X_BYTES / 2, x, col + c + CHUNK / 2, row, &b.full[at]);
            if (!STAYS) bring(stage + X_BYTES, y, col + c, row, &b.full[at]);
        }
    }
}

struct norm_of_row {
    float mean, rest, inverse;
};

__device__ norm_of_row combine(const float4 *parts, int n, float eps) {
    double first = 0, sum = 0, squares = 0; /* of distances of means to the first */
#pragma unroll 4
    for (int i = 0; i < n; i++) {
        const float4 p = __ldcg(parts + i);
        const double mean = (double)p.x + (double)p.y;
        if (i == 0) first = mean;
        sum += mean - first;
        squares += (double)p.z + TILE_N * ((mean - first) * (mean - first));
    }
    const double mean = first + sum / n;
    norm_of_row r;
    r.mean = (float)mean;
    r.rest = (float)(mean - (double)r.mean);
    const double variance = (squares / TILE_N - sum * sum / n) / n;
    r.inverse = 1.0f / sqrtf((float)variance + eps);
    return r;
}

__device__ void copy_16(void *dst, const void *src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(dst)), "l"(src) : "memory");
}

/* A tile's rows first, first + step, ... */
template <bool STAYS>
__device__ void normalise(const shape &s, const end &e, int tile, int rank, char *ring, int warp, int n_warps) {
    const int lane = threadIdx.x % 32, row = (tile / s.tiles_n * CLUSTER + rank) * TILE_M,
              col = tile % s.tiles_n * TILE_N + lane * 8;
    if (row >= s.m) return;
    ring += lane * (ROW_BYTES / 32); /* what this lane brings is for itself */
    float scale[8], shift[8], gate[8];
    load_eight(scale, e.scale, col);
    load_eight(shift, e.shift, col);
    if (STAYS) load_eight(gate, e.gate, col);
#pragma unroll
    for (int j = 0; j < 8; j++) scale[j] += 1;
    int *arrived = &e.arrived[row / TILE_M];
    if (lane == 0) {
        int n;
        for (;;) {
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(n) : "l"(arrived) : "memory");
            if (n >= 2 * s.tiles_n) break;
            __nanosleep(100);
        }
    }
    __syncwarp();
    const int first = row + warp, end = min(row + TILE_M, s.m), n = end > first ? (end - first + n_warps - 1) / n_warps : 0;
    const float *x = e.x + first * e.x_stride + col;
    const __nv_bfloat16 *y = e.y + first * e.y_stride + col;
    __nv_bfloat16 *dst = e.dst + first * e.dst_stride + col;
    int coming = 0;
    auto bring_next = [&]() {
        if (coming < n) {
            char *to = ring + coming % RING * ROW_BYTES;
            copy_16(to, x);
            copy_16(to + 16, x + 4);
            if (STAYS) copy_16(to + 32, y);
            x += n_warps * e.x_stride;
            y += n_warps * e.y_stride;
        }
        coming++;
    };
    auto commit = [&]() { asm volatile("cp.async.commit_group;" ::: "memory"); };
    bring_next();
    bring_next();
    commit();
    bring_next();
    bring_next();
    commit();
    norm_of_row norm = {0, 0, 0}; /* of a row for each lane */
    for (int l = 0; l < n; l += 2) {
        if (l % 32 == 0 && l + lane < n)
            norm = combine(e.parts + (int64_t)(first + n_warps * (l + lane)) * s.tiles_n, s.tiles_n, e.eps);
        __syncwarp();
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        float4 v[2][2];
        uint4 y[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const char *p = ring + (l + u) % RING * ROW_BYTES;
            v[u][0] = *reinterpret_cast<const float4 *>(p);
            v[u][1] = *reinterpret_cast<const float4 *>(p + 16);
            if (STAYS) y[u] = *reinterpret_cast<const uint4 *>(p + 32);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const float mean = __shfl_sync(~0u, norm.mean, (l + u) % 32), rest = __shfl_sync(~0u, norm.rest, (l + u) % 32),
                        inverse = __shfl_sync(~0u, norm.inverse, (l + u) % 32);
            float f[8] = {v[u][0].x, v[u][0].y, v[u][0].z, v[u][0].w, v[u][1].x, v[u][1].y, v[u][1].z, v[u][1].w};
            const unsigned words[4] = {y[u].x, y[u].y, y[u].z, y[u].w};
            unsigned out[4];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (STAYS) f[j] = fmaf(gate[j], j % 2 ? high(words[j / 2]) : low(words[j / 2]), f[j]);
                f[j] = fmaf((f[j] - mean - rest) * inverse, scale[j], shift[j]);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) out[j] = round_two(f[2 * j], f[2 * j + 1]);
            if (l + u < n)
                *reinterpret_cast<uint4 *>(dst + (l + u) * n_warps * e.dst_stride) = make_uint4(out[0], out[1], out[2], out[3]);
        }
        bring_next();
        bring_next();
        commit();
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
    const int share = SHARES / n_warps, all = (2 + SHARES) * s.tiles_n;
    if (lane == 0 && atomicAdd(arrived, share) == all - share) atomicExch(arrived, 0);
}

template <bool STAYS> __device__ void normalise_all(const shape &s, const block_memory &b, const end &e, int warp) {
    const int rank = cluster_rank(), lane = threadIdx.x % 32;
    int next = next_tile(b, 0);
    for (int i = 0; next >= 0; i++) {
        const int tile = next;
        next = next_tile(b, i + 1);
        normalise<STAYS>(s, e, tile, rank, b.rows + warp * RING * ROW_BYTES, warp, next < 0 ? MOST_NORMERS : NORMERS);
        __syncwarp();
        if (lane == 0) barrier_arrive(&b.is_free[i % SLOTS], 0);
    }
}

/* The rows of a warpgroup that have been summed up: their sums are stored, and what is sent has arrived. By one thread. */
__device__ void tell(const shape &s, const end &e, int tile, int rank, int group) {
    const int first = (tile / s.tiles_n * CLUSTER + rank) * TILE_M;
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    __threadfence();
    if (first < s.m) atomicAdd(&e.arrived[first / TILE_M], 1);
}

template <bool STAYS>
__device__ void multiply_all(const shape &s, const block_memory &b, const CUtensorMap *to, const end &e, int group) {
    const int rank = cluster_rank(), thread = threadIdx.x % GROUP, lane = thread % 32, q = lane % 4;
    const int row_in = thread / 32 * 16 + lane / 4; /* and that + 8, of 64 */
    float4 *vectors = b.vectors + group * (TILE_N / 2);
    float2 *before = b.before + group * (TILE_N / 2);
    const int turned = lane / 4 ^ q / 2, from = (group * ROWS + row_in) * 128;
    int step = 0, tile_before = -1;
    for (int i = 0;; i++) {
        const int tile = next_tile(b, i);
        if (tile < 0) break;
        const int first = (tile / s.tiles_n * CLUSTER + rank) * TILE_M + group * ROWS, col = tile % s.tiles_n * TILE_N;
        const float2 bias = load_two(e.bias, col + 2 * thread), gate = load_two(e.gate, col + 2 * thread);
        float2 gate_before = make_float2(0, 0);
        if (!STAYS) gate_before = load_two(e.before, col + 2 * thread);
        float d[128];
#pragma unroll
        for (int j = 0; j < 128; j++) d[j] = 0;
        int last = -1;
        for (int k = 0; k < s.k; k += TILE_K, step++) {
            const int at = step % STAGES;
            const char *a = b.stages + at * STAGE_BYTES + group * (ROWS * TILE_K * 2), *w = b.stages + at * STAGE_BYTES + A_BYTES;
            barrier_wait(&b.full[at], step / STAGES & 1);
            products_begin();
#pragma unroll
            for (int part = 0; part < TILE_K / 16; part++) multiply(d, operand_at(a + part * 32), operand_at(w + part * 32));
            products_end();
            if (k == 4 * TILE_K && thread == 0 && tile_before >= 0) tell(s, e, tile_before, rank, group);
            __syncwarp();
            products_wait<1>();
            if (last >= 0 && lane < CLUSTER) barrier_arrive(&b.empty[last], lane);
            __syncwarp();
            last = at;
        }
        vectors[thread] = make_float4(bias.x, bias.y, gate.x, gate.y);
        if (!STAYS) before[thread] = gate_before;
        products_wait<0>();
        products_are_here(d);
        if (lane < CLUSTER) barrier_arrive(&b.empty[last], lane);
        group_sync(group);

#pragma unroll
        for (int c = 0; c < TILE_N / CHUNK; c++, step++) {
            const int at = step % STAGES;
            char *stage = b.stages + at * STAGE_BYTES, *here = stage + from;
            barrier_wait(&b.full[at], step / STAGES & 1);
#pragma unroll
            for (int j = 0; j < CHUNK / 8; j++) {
                const float4 v = vectors[c * (CHUNK / 2) + j * 4 + q];
                float2 g1;
                if (!STAYS) g1 = before[c * (CHUNK / 2) + j * 4 + q];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float2 *x = reinterpret_cast<float2 *>(here + j / 4 * (X_BYTES / 2) + r * 1024 + (turned ^ j % 4 * 2) * 16 +
                                                           q % 2 * 8);
                    unsigned *y = reinterpret_cast<unsigned *>(here + X_BYTES + r * 1024 + (j ^ lane / 4) * 16 + q * 4);
                    float &d0 = d[c * 32 + 4 * j + 2 * r], &d1 = d[c * 32 + 4 * j + 2 * r + 1];
                    if (STAYS) {
                        const unsigned rounded = round_two(d0 + v.x, d1 + v.y);
                        d0 = fmaf(v.z, low(rounded), x->x);
                        d1 = fmaf(v.w, high(rounded), x->y);
                        *y = rounded;
                    } else {
                        d0 = fmaf(v.z, d0 + v.x, fmaf(g1.x, low(*y), x->x));
                        d1 = fmaf(v.w, d1 + v.y, fmaf(g1.y, high(*y), x->y));
                        *x = make_float2(d0, d1);
                    }
                }
            }
            /* What was read has been, before the copy engine writes there; what was written is there for it. */
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            group_sync(group);
            if (thread < 32) {
                if (thread == 0) {
                    if (first < s.m) {
                        if (STAYS)
                            send(to, col + c * CHUNK, first, stage + X_BYTES + group * (ROWS * 128));
                        else {
                            send(to, col + c * CHUNK, first, stage + group * (ROWS * 128));
                            send(to, col + c * CHUNK + CHUNK / 2, first, stage + X_BYTES / 2 + group * (ROWS * 128));
                        }
                    }
                    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                    asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
                }
                __syncwarp();
                if (c > 0 && lane < CLUSTER) barrier_arrive(&b.empty[(step - 1) % STAGES], lane, WARPS);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float pivot = __shfl_sync(~0u, d[2 * r], lane & ~3);
            float sum = 0, squares = 0;
#pragma unroll
            for (int j = 0; j < 128; j += 4) sum += (d[j + 2 * r] - pivot) + (d[j + 2 * r + 1] - pivot);
            const float rest = row_sum(sum) / TILE_N;
#pragma unroll
            for (int j = 0; j < 128; j += 4) {
                const float u = d[j + 2 * r] - pivot - rest, v = d[j + 2 * r + 1] - pivot - rest;
                squares = fmaf(u, u, squares);
                squares = fmaf(v, v, squares);
            }
            squares = row_sum(squares);
            const int to = first + row_in + 8 * r;
            if (q == 0 && to < s.m)
                __stcg(&e.parts[(int64_t)to * s.tiles_n + tile % s.tiles_n], make_float4(pivot, rest, squares, 0));
        }
        if (thread < 32) {
            if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
            __syncwarp();
            if (lane < CLUSTER) barrier_arrive(&b.empty[(step - 1) % STAGES], lane, WARPS);
        }
        group_sync(group);
        if (thread == 0) barrier_arrive(&b.is_free[i % SLOTS], 0);
        __syncwarp();
        tile_before = tile;
    }
    if (thread == 0 && tile_before >= 0) tell(s, e, tile_before, rank, group);
    __syncwarp();
    /* Of each stage, a warpgroup's own rows of the stream are free now. */
    static_assert(STAGES == WARPS && RING * ROW_BYTES <= ROWS * 128, "");
    if (tile_before >= 0)
        normalise<STAYS>(s, e, tile_before, rank, b.stages + thread / 32 * STAGE_BYTES + group * (ROWS * 128),
                         NORMERS + WARPS * group + thread / 32, MOST_NORMERS);
}

template <bool STAYS>
__global__ void __cluster_dims__(CLUSTER) __launch_bounds__(THREADS, 1)
    fused(shape s, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap w,
          const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap y, const __grid_constant__ CUtensorMap to,
          end e) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char raw[];
    __shared__ uint64_t full[STAGES], empty[STAGES], was_drawn[SLOTS], is_free[SLOTS];
    __shared__ int tiles[SLOTS];
    __shared__ float4 vectors[TILE_N];
    __shared__ float2 before[TILE_N];
    block_memory b;
    b.stages = raw + (1024 - (shared_address(raw) & 1023)) % 1024;
    b.full = full;
    b.empty = empty;
    b.was_drawn = was_drawn;
    b.is_free = is_free;
    b.tiles = tiles;
    b.vectors = vectors;
    b.before = before;
    b.rows = b.stages + STAGES * STAGE_BYTES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], CLUSTER * 2 * GROUP / 32);
        }
        for (int i = 0; i < SLOTS; i++) {
            barrier_init(&was_drawn[i], 1);
            barrier_init(&is_free[i], CLUSTER * (1 + 2 + NORMERS));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    if (threadIdx.x < GROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
        if (threadIdx.x >= 32)
            normalise_all<STAYS>(s, b, e, (int)threadIdx.x / 32 - 1);
        else if (threadIdx.x == 0)
            bring_all<STAYS>(s, b, &a, &w, &x, &y, e.drawn);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
        multiply_all<STAYS>(s, b, &to, e, (int)threadIdx.x / GROUP - 1);
    }
    cluster_sync();
#endif
}

} // namespace
