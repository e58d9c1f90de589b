/*
 * cuda_attention_hopper.cu - fused attention, not causal, of heads of 128 channels on compute capability 9.0.
 *
 * A block of threads takes 128 queries of a head at a time, 64 for each of two warpgroups, and goes over the keys, 160 at a time. A
 * thread of a third warpgroup brings queries, keys and values to shared memory (TMA), up to two blocks of keys ahead. Scores,
 * weights of the softmax and sums stay in registers (WGMMA):
 *
 *     scores of the first keys, their weights
 *     for each block of keys after the first:
 *         begin the scores of this block, and the sum of values of the one before
 *         the weights of this block, as soon as its scores are there (the compiler puts all but the largest of
 *         a row behind the end of the sums; in the order of the text it is slower, see docs/attempts.md)
 *     the sum of values of the last block
 *
 * The warpgroups take turns at beginning products, so that the products of one run beside the softmax of the other. Weights are
 * powers of two of what a score exceeds a row's reference by; the reference is a score, the largest of the first block, and only
 * moves, and what was summed with it, where a later score exceeds it by more than LEAST_RISE. (The scheme is that of
 * FlashAttention-3, Shah et al. 2024, arXiv:2407.08608; the reference that seldom moves is FlashAttention-4's.)
 */
#include "ops/cuda/cuda_attention.h"

#include <cuda.h>

#include <algorithm>
#include <cmath>

#ifdef INK_CUDA_HOPPER /* there is code for sm_90a in this build */

namespace {

constexpr int HEAD = 128;
constexpr int KEYS = 160; /* of a block of keys: 4160 of them, the tokens of 1024 x 1024 with 64 of text, are 26 blocks */
constexpr int STAGES = 2; /* blocks of keys in shared memory, and of values */
constexpr int GROUPS = 2; /* warpgroups that multiply */
constexpr int ROWS = 64;  /* queries of one */
constexpr int TILE = GROUPS * ROWS;
constexpr int GROUP = 128; /* threads of a warpgroup */
constexpr int THREADS = (1 + GROUPS) * GROUP;
constexpr int HALF = 64; /* channels whose rows lie in shared memory one behind the other: 128 bytes, as far as its swizzle goes */
constexpr int ROW_BYTES = HALF * 2;
constexpr int Q_BYTES = ROWS * HEAD * 2, KV_BYTES = KEYS * HEAD * 2;
constexpr int ALIGNMENT = 1024; /* of what is brought */
constexpr int SHARED_BYTES = GROUPS * Q_BYTES + 2 * STAGES * KV_BYTES + ALIGNMENT;
constexpr int N_SCORES = KEYS / 2, N_SUMS = HEAD / 2; /* that a thread holds */
constexpr float LEAST_RISE = 8;                       /* in powers of two */

/* Other architectures of the same build never run it, and get no code. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool HAS_WGMMA = true;
#else
constexpr bool HAS_WGMMA = false;
#endif

struct problem {
    int n_q, n_kv, heads_per_kv;
    int tiles_per_head, n_tiles, n_blocks;
    float scale; /* times log2(e) */
    __nv_bfloat16 *dst;
    int64_t dst_stride;
};

/* ---- barriers, copies ------------------------------------------------------------------------------------------------ */

__device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ void barrier_init(uint64_t *b, int n) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n));
}

__device__ void barrier_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

__device__ void barrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

/* Until as many phases of that parity have ended. */
__device__ void barrier_wait(uint64_t *b, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}

/* A box of HALF columns; rows beyond the tensor's are zeros. */
__device__ void bring(void *dst, const CUtensorMap *map, int col, int row, uint64_t *full) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_address(dst)),
                 "l"(map), "r"(col), "r"(row), "r"(shared_address(full))
                 : "memory");
}

/* Both halves of some rows of a head. */
__device__ void bring_head(char *dst, int bytes, const CUtensorMap *map, int head, int row, uint64_t *full) {
    barrier_expect(full, bytes);
    bring(dst, map, head * HEAD, row, full);
    bring(dst + bytes / 2, map, head * HEAD + HALF, row, full);
}

/* Turns of the two warpgroups: a hardware barrier for each, at which one waits and the other only arrives. */
__device__ void turn_wait(int group) { asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(GROUPS * GROUP) : "memory"); }
__device__ void turn_give(int group) { asm volatile("bar.arrive %0, %1;" ::"r"(group + 1), "n"(GROUPS * GROUP) : "memory"); }

/* ---- products -------------------------------------------------------------------------------------------------------- */

/*
 * A matrix operand in shared memory (PTX, "Matrix descriptor"): swizzle of 128 bytes, groups of eight rows one behind the other. Of
 * values the columns are what the product runs along, and the second half of them lies `next_half` behind the first.
 */
__device__ uint64_t operand_at(const void *p, int next_half) {
    const uint64_t swizzle_128 = 1, eight_rows = 8 * ROW_BYTES;
    return (uint64_t)((shared_address(p) & 0x3ffff) >> 4) | (uint64_t)(next_half >> 4) << 16 | (eight_rows >> 4) << 32 |
           swizzle_128 << 62;
}

#define INK_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define INK_16(d, i) INK_4(d, i), INK_4(d, i + 4), INK_4(d, i + 8), INK_4(d, i + 12)

/* d [64, KEYS] (+)= q [64, 16] k [KEYS, 16]^T. */
__device__ void multiply_keys(float (&d)[N_SCORES], uint64_t q, uint64_t k, bool adds) {
    static_assert(KEYS == 160, "the instruction's shape");
    asm volatile("{\n"
                 ".reg .pred adds;\n"
                 "setp.ne.b32 adds, %82, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79}, "
                 "%80, %81, adds, 1, 1, 0, 0;\n"
                 "}\n"
                 : INK_16(d, 0), INK_16(d, 16), INK_16(d, 32), INK_16(d, 48), INK_16(d, 64)
                 : "l"(q), "l"(k), "r"((int)adds));
}

/* d [64, HEAD] (+)= w [64, 16] v [16, HEAD]; w: of this thread. */
__device__ void multiply_values(float (&d)[N_SUMS], const uint32_t *w, uint64_t v, bool adds) {
    static_assert(HEAD == 128, "the instruction's shape");
    asm volatile("{\n"
                 ".reg .pred adds;\n"
                 "setp.ne.b32 adds, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, adds, 1, 1, 1;\n"
                 "}\n"
                 : INK_16(d, 0), INK_16(d, 16), INK_16(d, 32), INK_16(d, 48)
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(v), "r"((int)adds));
}

__device__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/* Until all but the last N that were begun have ended. */
template <int N> __device__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

/* The compiler neither moves a use of d to before this place nor an assignment to behind it. */
template <int N> __device__ void pin(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> __device__ void pin(uint32_t (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}

__device__ void begin_scores(float (&scores)[N_SCORES], const char *q, const char *k) {
    const uint64_t a = operand_at(q, 0), b = operand_at(k, 0);
    pin(scores);
    products_begin();
#pragma unroll
    for (int i = 0; i < HEAD / 16; i++) {
        const int half = i * 16 / HALF, within = i * 16 % HALF * 2;
        multiply_keys(scores, a + ((half * (Q_BYTES / 2) + within) >> 4), b + ((half * (KV_BYTES / 2) + within) >> 4), i > 0);
    }
    products_end();
}

__device__ void begin_sums(float (&sums)[N_SUMS], uint32_t (&weights)[N_SCORES / 2], const char *v, bool adds) {
    const uint64_t b = operand_at(v, KV_BYTES / 2);
    pin(sums);
    pin(weights);
    products_begin();
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) multiply_values(sums, weights + 4 * i, b + (i * 16 * ROW_BYTES >> 4), i > 0 || adds);
    products_end();
}

/* ---- softmax --------------------------------------------------------------------------------------------------------- */

/*
 * Of 64 rows a warp has 16. Thread t of it has rows t / 4 and t / 4 + 8, and of each eight columns the two at t % 4 * 2: for
 * columns 8 i to 8 i + 7, numbers 4 i and 4 i + 1 of what it holds are of the first row, 4 i + 2 and 4 i + 3 of the second.
 */

__device__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ uint32_t round_two(float first, float second) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
    return r;
}

__device__ float largest_of_row(const float (&scores)[N_SCORES], int r) {
    float v = fmaxf(scores[2 * r], scores[2 * r + 1]);
#pragma unroll
    for (int i = 4; i < N_SCORES; i += 4) v = fmaxf(fmaxf(v, scores[i + 2 * r]), scores[i + 2 * r + 1]);
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}

/* Scores of row r become weights; the sum of this thread's. */
__device__ float weigh_row(float (&scores)[N_SCORES], int r, float scale, float reference) {
    const float less = reference * scale;
    float even = 0, odd = 0;
#pragma unroll
    for (int i = 2 * r; i < N_SCORES; i += 4) {
        scores[i] = power_of_two(fmaf(scores[i], scale, -less));
        scores[i + 1] = power_of_two(fmaf(scores[i + 1], scale, -less));
        even += scores[i];
        odd += scores[i + 1];
    }
    return even + odd;
}

struct softmax {
    float reference[2], total[2]; /* of each row; the latter of what this thread has of it */
};

/* Scores of the first keys become weights. */
__device__ void weigh_first(softmax &s, float (&scores)[N_SCORES], float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        s.reference[r] = largest_of_row(scores, r);
        s.total[r] = weigh_row(scores, r, scale, s.reference[r]);
    }
}

/* ... of others. factor: of what was summed before. Whether it is not 1 for some row of the warp. */
__device__ bool weigh_next(softmax &s, float (&scores)[N_SCORES], float scale, float (&factor)[2]) {
    bool moves = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float largest = largest_of_row(scores, r), rise = (largest - s.reference[r]) * scale;
        factor[r] = 1;
        if (rise > LEAST_RISE) {
            factor[r] = power_of_two(-rise);
            s.reference[r] = largest;
            moves = true;
        }
        s.total[r] = fmaf(s.total[r], factor[r], weigh_row(scores, r, scale, s.reference[r]));
    }
    return __any_sync(~0u, moves);
}

__device__ void round_weights(uint32_t (&weights)[N_SCORES / 2], const float (&scores)[N_SCORES]) {
#pragma unroll
    for (int i = 0; i < N_SCORES / 2; i++) weights[i] = round_two(scores[2 * i], scores[2 * i + 1]);
}

/* Keys beyond the last lose all weight. key: the first of the scores. */
__device__ void hide(float (&scores)[N_SCORES], int key, int n_kv) {
    if (n_kv - key >= KEYS) return;
    const int seen = n_kv - key - threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < N_SCORES; i++)
        if (i / 4 * 8 + i % 2 >= seen) scores[i] = -INFINITY;
}

/* ---- the kernel ------------------------------------------------------------------------------------------------------ */

struct barriers {
    uint64_t q_full[GROUPS], q_empty[GROUPS];
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

struct block_memory {
    barriers *b;
    char *q, *k, *v; /* [GROUPS][Q_BYTES], [STAGES][KV_BYTES] each */
};

/* The first key of block i: the last ones, which may be less than a whole block, come first, so that the loop hides nothing. */
__device__ int key_of(const problem &s, int i) { return (i == 0 ? s.n_blocks - 1 : i - 1) * KEYS; }

__device__ void bring_all(const problem &s, const block_memory &m, const CUtensorMap *q, const CUtensorMap *k,
                          const CUtensorMap *v) {
    int step = 0, parity_q = 1;
    for (int tile = blockIdx.x; tile < s.n_tiles; tile += gridDim.x, parity_q ^= 1) {
        const int head = tile / s.tiles_per_head, kv_head = head / s.heads_per_kv, row = tile % s.tiles_per_head * TILE;
        for (int i = 0; i < s.n_blocks; i++, step++) {
            const int at = step % STAGES, parity = (step / STAGES & 1) ^ 1, key = key_of(s, i);
            barrier_wait(&m.b->k_empty[at], parity);
            bring_head(m.k + at * KV_BYTES, KV_BYTES, k, kv_head, key, &m.b->k_full[at]);
            for (int g = 0; i == 0 && g < GROUPS; g++) {
                barrier_wait(&m.b->q_empty[g], parity_q);
                bring_head(m.q + g * Q_BYTES, Q_BYTES, q, head, row + g * ROWS, &m.b->q_full[g]);
            }
            barrier_wait(&m.b->v_empty[at], parity);
            bring_head(m.v + at * KV_BYTES, KV_BYTES, v, kv_head, key, &m.b->v_full[at]);
        }
    }
}

/* The rows of this thread, by the sum of all their weights. */
__device__ void store(const problem &s, const float (&sums)[N_SUMS], const softmax &weighing, int head, int row) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = weighing.total[r];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (row + 8 * r >= s.n_q) continue;
        const float inverse = 1 / total;
        __nv_bfloat16 *dst = s.dst + (row + 8 * r) * s.dst_stride + head * HEAD + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 2 * r; i < N_SUMS; i += 4)
            *reinterpret_cast<uint32_t *>(dst + i / 4 * 8) = round_two(sums[i] * inverse, sums[i + 1] * inverse);
    }
}

__device__ void attend_all(const problem &s, const block_memory &m, int group) {
    const int thread = threadIdx.x % GROUP;
    const char *const q = m.q + group * Q_BYTES;
    float scores[N_SCORES], sums[N_SUMS];
    uint32_t weights[N_SCORES / 2];
    int step = 0, parity_q = 0;
    if (group == 1) turn_give(0);
    for (int tile = blockIdx.x; tile < s.n_tiles; tile += gridDim.x, parity_q ^= 1) {
        const int head = tile / s.tiles_per_head;
        const int row = tile % s.tiles_per_head * TILE + group * ROWS + thread / 32 * 16 + thread % 32 / 4;
        softmax weighing;
        barrier_wait(&m.b->q_full[group], parity_q);
        barrier_wait(&m.b->k_full[step % STAGES], step / STAGES & 1);
        turn_wait(group);
        begin_scores(scores, q, m.k + step % STAGES * KV_BYTES);
        turn_give(group ^ 1);
        products_wait<0>();
        pin(scores);
        if (thread == 0) {
            barrier_arrive(&m.b->k_empty[step % STAGES]);
            if (s.n_blocks == 1) barrier_arrive(&m.b->q_empty[group]);
        }
        hide(scores, key_of(s, 0), s.n_kv);
        weigh_first(weighing, scores, s.scale);
        round_weights(weights, scores);
        for (int i = 1; i < s.n_blocks; i++, step++) {
            const int next = step + 1;
            barrier_wait(&m.b->k_full[next % STAGES], next / STAGES & 1);
            turn_wait(group);
            begin_scores(scores, q, m.k + next % STAGES * KV_BYTES);
            barrier_wait(&m.b->v_full[step % STAGES], step / STAGES & 1);
            begin_sums(sums, weights, m.v + step % STAGES * KV_BYTES, i > 1);
            turn_give(group ^ 1);
            products_wait<1>();
            pin(scores);
            if (thread == 0) {
                barrier_arrive(&m.b->k_empty[next % STAGES]);
                if (i == s.n_blocks - 1) barrier_arrive(&m.b->q_empty[group]);
            }
            float factor[2];
            const bool moves = weigh_next(weighing, scores, s.scale, factor);
            products_wait<0>();
            pin(sums);
            pin(weights);
            if (thread == 0) barrier_arrive(&m.b->v_empty[step % STAGES]);
            if (moves) {
#pragma unroll
                for (int j = 0; j < N_SUMS; j++) sums[j] *= factor[j / 2 % 2];
            }
            round_weights(weights, scores);
        }
        barrier_wait(&m.b->v_full[step % STAGES], step / STAGES & 1);
        turn_wait(group);
        begin_sums(sums, weights, m.v + step % STAGES * KV_BYTES, s.n_blocks > 1);
        turn_give(group ^ 1);
        products_wait<0>();
        pin(sums);
        if (thread == 0) barrier_arrive(&m.b->v_empty[step % STAGES]);
        step++;
        store(s, sums, weighing, head, row);
    }
    if (group == 0) turn_wait(0); /* the last turn that was given */
}

__global__ void __launch_bounds__(THREADS, 1)
    attend_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const __grid_constant__ CUtensorMap v, const problem s) {
    if (!HAS_WGMMA) return;
    extern __shared__ char memory[];
    __shared__ barriers b;
    block_memory m = {&b, memory, nullptr, nullptr};
    m.q += (ALIGNMENT - shared_address(memory) % ALIGNMENT) % ALIGNMENT;
    m.k = m.q + GROUPS * Q_BYTES;
    m.v = m.k + STAGES * KV_BYTES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < GROUPS; i++) {
            barrier_init(&b.q_full[i], 1);
            barrier_init(&b.q_empty[i], 1);
        }
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&b.k_full[i], 1);
            barrier_init(&b.v_full[i], 1);
            barrier_init(&b.k_empty[i], GROUPS);
            barrier_init(&b.v_empty[i], GROUPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) bring_all(s, m, &q, &k, &v);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        attend_all(s, m, threadIdx.x / GROUP - 1);
    }
}

/* ---- the call -------------------------------------------------------------------------------------------------------- */

/* cuTensorMapEncodeTiled of the driver, which is not linked. */
typedef CUresult encode_function(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                                 const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

encode_function *find_encode() {
    void *f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? (encode_function *)f : nullptr;
}

/* Boxes of `box_rows` rows and HALF columns of data [rows, cols]. */
bool map_rows(CUtensorMap *map, const void *data, int64_t rows, int64_t cols, int64_t stride, int box_rows) {
    static encode_function *const encode = find_encode();
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[2] = {HALF, (cuuint32_t)box_rows}, every[2] = {1, 1};
    return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(data), sizes, strides, box, every,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

} // namespace

bool ink_cuda_attend_hopper(ink_cuda *c, const ink_cuda_attention &a, void *dst, const void *q, const void *k, const void *v) {
    const int64_t most_rows = 1 << 24, most_heads = 1 << 10; /* tiles are counted in 32 bits */
    if (c->major != 9 || a.causal || a.head_dim != HEAD || a.n_q > most_rows || a.n_kv > most_rows || a.n_heads > most_heads)
        return false;
    problem s = {};
    s.n_q = (int)a.n_q;
    s.n_kv = (int)a.n_kv;
    s.heads_per_kv = (int)(a.n_heads / a.n_kv_heads);
    s.tiles_per_head = (int)((a.n_q + TILE - 1) / TILE);
    s.n_tiles = s.tiles_per_head * (int)a.n_heads;
    s.n_blocks = (int)((a.n_kv + KEYS - 1) / KEYS);
    s.scale = (float)(a.scale * M_LOG2E);
    s.dst = (__nv_bfloat16 *)dst;
    s.dst_stride = a.dst_stride;
    CUtensorMap q_map, k_map, v_map;
    if (!map_rows(&q_map, q, a.n_q, a.n_heads * HEAD, a.q_stride, ROWS) ||
        !map_rows(&k_map, k, a.n_kv, a.n_kv_heads * HEAD, a.k_stride, KEYS) ||
        !map_rows(&v_map, v, a.n_kv, a.n_kv_heads * HEAD, a.v_stride, KEYS))
        return false;
    if (ink_cuda_ok(c, cudaFuncSetAttribute(attend_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES),
                    "attention")) {
        attend_kernel<<<std::min(s.n_tiles, c->n_sms), THREADS, SHARED_BYTES, c->stream>>>(q_map, k_map, v_map, s);
        ink_cuda_launched(c, "attention");
    }
    return true;
}

#else

bool ink_cuda_attend_hopper(ink_cuda *, const ink_cuda_attention &, void *, const void *, const void *, const void *) {
    return false;
}

#endif
