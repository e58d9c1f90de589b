/* rng.c - the normal noise of PyTorch's CPU and CUDA generators, in its order of draws and of roundings. */
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>

#include "base/bf16.h"

#define TWO_PI 6.28318530717958647692

/* A uniform number is as many low bits of a draw as the type has mantissa bits, times one unit of the last place. */
#define MASK_F32 0xffffffu
#define STEP_F32 0x1p-24f
#define MASK_BF16 0xffu
#define STEP_BF16 0x1p-8f

/* ---- mt19937 ------------------------------------------------------------------------------------------------------ */

enum { STATE_WORDS = 624, MIDDLE = 397 };

typedef struct mt19937 {
    uint32_t state[STATE_WORDS];
    int next;
} mt19937;

/* torch keeps 32 bits of the seed. */
static void mt19937_seed(mt19937 *mt, uint64_t seed) {
    mt->state[0] = (uint32_t)seed;
    for (uint32_t j = 1; j < STATE_WORDS; j++) mt->state[j] = 1812433253u * (mt->state[j - 1] ^ (mt->state[j - 1] >> 30)) + j;
    mt->next = STATE_WORDS;
}

static void mt19937_twist(mt19937 *mt) {
    uint32_t *s = mt->state;
    for (int j = 0; j < STATE_WORDS; j++) {
        uint32_t y = (s[j] & 0x80000000u) | (s[(j + 1) % STATE_WORDS] & 0x7fffffffu);
        s[j] = s[(j + MIDDLE) % STATE_WORDS] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    mt->next = 0;
}

static uint32_t mt19937_u32(mt19937 *mt) {
    if (mt->next == STATE_WORDS) mt19937_twist(mt);
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static double mt19937_uniform_double(mt19937 *mt) {
    uint64_t high = mt19937_u32(mt);
    uint64_t bits = high << 32 | mt19937_u32(mt);
    return (double)(bits & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* ---- CPU generator ------------------------------------------------------------------------------------------------ */

/* Short tensors: one value at a time in double. The second value of each pair is kept for the next call. */
static void fill_one_by_one(float *dst, int64_t n, mt19937 *mt) {
    double kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (i % 2 == 1) {
            dst[i] = (float)kept;
            continue;
        }
        double angle = TWO_PI * mt19937_uniform_double(mt);
        double radius = sqrt(-2 * log1p(-mt19937_uniform_double(mt)));
        dst[i] = (float)(radius * cos(angle));
        kept = radius * sin(angle);
    }
}

/* 8 pairs of uniforms, d[j] with d[j + 8], become 8 pairs of normals. */
static void transform_f32(float d[16]) {
    for (int j = 0; j < 8; j++) {
        float radius = sqrtf(-2.0f * logf(1.0f - d[j]));
        float angle = (float)TWO_PI * d[j + 8];
        d[j] = radius * cosf(angle);
        d[j + 8] = radius * sinf(angle);
    }
}

/* The same where every single result is a bf16. */
static void transform_bf16(float d[16]) {
    for (int j = 0; j < 8; j++) {
        float log_u = ink_round_to_bf16(logf(ink_round_to_bf16(1.0f - d[j])));
        float radius = ink_round_to_bf16(sqrtf(ink_round_to_bf16(-2.0f * log_u)));
        float angle = ink_round_to_bf16((float)(TWO_PI * d[j + 8]));
        d[j] = ink_round_to_bf16(radius * ink_round_to_bf16(cosf(angle)));
        d[j + 8] = ink_round_to_bf16(radius * ink_round_to_bf16(sinf(angle)));
    }
}

static void fill_uniform(float *dst, int64_t n, mt19937 *mt, uint32_t mask, float step) {
    for (int64_t i = 0; i < n; i++) dst[i] = (float)(mt19937_u32(mt) & mask) * step;
}

/* Long tensors: all uniforms first, then chunks of 16. A last chunk that is not full takes 16 new draws for the last 16 places. */
static void fill_in_chunks(float *dst, int64_t n, mt19937 *mt, uint32_t mask, float step, void (*transform)(float[16])) {
    fill_uniform(dst, n, mt, mask, step);
    for (int64_t i = 0; i + 16 <= n; i += 16) transform(dst + i);
    if (n % 16 == 0) return;
    fill_uniform(dst + n - 16, 16, mt, mask, step);
    transform(dst + n - 16);
}

void ink_randn_torch_cpu_f32(float *dst, int64_t n, uint64_t seed) {
    mt19937 mt;
    mt19937_seed(&mt, seed);
    if (n < 16)
        fill_one_by_one(dst, n, &mt);
    else
        fill_in_chunks(dst, n, &mt, MASK_F32, STEP_F32, transform_f32);
}

/* Each chunk is drawn and transformed before the next one is drawn: the last, not full, chunk takes other draws than in f32. */
static void fill_chunk_by_chunk(float *dst, int64_t n, mt19937 *mt) {
    for (int64_t i = 0; i + 16 <= n; i += 16) {
        fill_uniform(dst + i, 16, mt, MASK_F32, STEP_F32);
        transform_f32(dst + i);
    }
    if (n % 16 == 0) return;
    fill_uniform(dst + n - 16, 16, mt, MASK_F32, STEP_F32);
    transform_f32(dst + n - 16);
}

void ink_randn_torch_cpu_bf16(float *dst, int64_t n, uint64_t seed) {
    mt19937 mt;
    mt19937_seed(&mt, seed);
    if (n < 16)
        fill_one_by_one(dst, n, &mt);
    else
        fill_chunk_by_chunk(dst, n, &mt);
    for (int64_t i = 0; i < n; i++) dst[i] = ink_round_to_bf16(dst[i]);
}

void ink_randn_torch_2_11_cpu_bf16(float *dst, int64_t n, uint64_t seed) {
    mt19937 mt;
    mt19937_seed(&mt, seed);
    if (n < 16)
        fill_one_by_one(dst, n, &mt);
    else
        fill_in_chunks(dst, n, &mt, MASK_BF16, STEP_BF16, transform_bf16);
    for (int64_t i = 0; i < n; i++) dst[i] = ink_round_to_bf16(dst[i]);
}

/* ---- CUDA generator ----------------------------------------------------------------------------------------------- */

static void philox_round(uint32_t c[4], const uint32_t key[2]) {
    uint64_t a = (uint64_t)0xd2511f53u * c[0];
    uint64_t b = (uint64_t)0xcd9e8d57u * c[2];
    uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
    for (int i = 0; i < 4; i++) c[i] = next[i];
}

/* Four random words of the counter (position, thread) under the key `seed`. */
static void philox4x32_10(uint32_t words[4], uint64_t position, uint64_t thread, uint64_t seed) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    words[0] = (uint32_t)position;
    words[1] = (uint32_t)(position >> 32);
    words[2] = (uint32_t)thread;
    words[3] = (uint32_t)(thread >> 32);
    for (int round = 0; round < 10; round++) {
        philox_round(words, key);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
}

/* cuRAND's Box-Muller, where the sine comes first; the GPU contracts both conversions to fused multiply-adds. */
static float box_muller(uint32_t a, uint32_t b, bool second) {
    const float word = 2.3283064e-10f; /* 2^-32 */
    const float word_2pi = 2.3283064e-10f * 6.2831855f;
    float u = fmaf((float)a, word, word / 2);
    float v = fmaf((float)b, word_2pi, word_2pi / 2);
    float radius = sqrtf(-2.0f * logf(u));
    return radius * (second ? cosf(v) : sinf(v));
}

/*
 * A grid of at most sms * threads_per_sm threads walks over the tensor: thread t writes the places t, t + T, t + 2 T, t + 3 T
 * with the four normals of its counter 0, the next four with those of counter 1, and so on.
 */
void ink_randn_torch_cuda_f32(float *dst, int64_t n, uint64_t seed, int64_t sms, int64_t threads_per_sm) {
    const int64_t block = 256;
    int64_t blocks = (n + block - 1) / block;
    int64_t most_blocks = sms * (threads_per_sm / block);
    int64_t threads = block * (blocks < most_blocks ? blocks : most_blocks);
    for (int64_t i = 0; i < n; i++) {
        int64_t draw = i / threads;
        uint32_t words[4];
        philox4x32_10(words, (uint64_t)(draw / 4), (uint64_t)(i % threads), seed);
        int64_t pair = draw % 4 / 2 * 2;
        dst[i] = box_muller(words[pair], words[pair + 1], draw % 2 == 1);
    }
}
