/*
 * cpu_kernels_amx.c - tier `amx`: tier `avx512`, and products of bf16 numbers and of 8-bit integers by tiles (Intel's AMX, since
 * Sapphire Rapids).
 *
 * A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of left rows, 16 by 32 numbers, with a tile of
 * right ones, 32 by 16 in pairs, and adds to 16 by 16 sums in f32. Two by two tiles of sums, two left and two right ones are all
 * eight registers: a product of 32 by 32. Numbers below the normal range count as zero, before and after. Of 8-bit integers it is
 * 16 by 64 and 64 by 16 in fours, added to int32: the same bytes in the same places.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "ops/cpu/cpu_kernels.h"

#define RIGHT_ROW_BYTES 64
#define RIGHT_HALF_BYTES 1024
#include "ops/cpu/cpu_kernels_avx512_bf16.h"

#define INK_KERNELS ink_cpu_kernels_amx
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#define PRODUCT_BF16 bf16_product
#define PRODUCT_I8 i8_product
static const ink_cpu_product bf16_product, i8_product;
#include "ops/cpu/cpu_kernels_template.h"

/* A tile holds BF16_STEP numbers of bf16, AMX_ROW_BYTES integers, of 16 rows; AMX_ROWS is the side of a product. */
enum { AMX_GROUP_COLS = 192, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = 1024, AMX_ROWS = 32, AMX_STEP_BYTES = 2 * AMX_TILE_BYTES };

/* What LDTILECFG reads: palette 1, and the size of each register. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static void amx_begin(void) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* Not the compiler's function for it: GCC 12 believes that it reads 8 bytes, and drops the stores to the others. */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

static void amx_end(void) { __asm__ volatile("tilerelease"); }

/* ---- packing --------------------------------------------------------------------------------------------------------------- */

static void amx_pack_left(void *panel, const float *const *rows, int64_t k) {
    for (int64_t row = 0; row < AMX_ROWS; row++) {
        unsigned char *to = (unsigned char *)panel + row * 64;
        for (int64_t at = 0; at < k; at += BF16_STEP, to += AMX_STEP_BYTES)
            _mm512_store_si512(to, rows[row] ? round_step(rows[row] + at, k - at) : _mm512_setzero_si512());
    }
}

/* Steps are 32 weights, rounded: what the tile of the next product reads. */
static float amx_pack_weights(void *panel, int64_t row, const float *scores, int64_t seen, int64_t n, float scale, float *max) {
    unsigned char *to = (unsigned char *)panel + row * AMX_ROW_BYTES;
    raise_max(scores, seen, scale, max);
    const __m512 factor = _mm512_set1_ps(scale), largest = _mm512_set1_ps(*max);
    __m512 sum = _mm512_setzero_ps(), rest = sum;
    for (int64_t i = 0; i < n; i += BF16_STEP, to += AMX_STEP_BYTES) {
        __m512 low = _mm512_setzero_ps(), high = low;
        if (i + BF16_STEP <= seen) {
            low = weight_lanes(_mm512_loadu_ps(scores + i), factor, largest);
            high = weight_lanes(_mm512_loadu_ps(scores + i + 16), factor, largest);
        } else if (i < seen) {
            uint32_t there = ((uint32_t)1 << (seen - i)) - 1;
            __mmask16 first = (__mmask16)there, second = (__mmask16)(there >> 16);
            low = _mm512_maskz_mov_ps(first, weight_lanes(_mm512_maskz_loadu_ps(first, scores + i), factor, largest));
            high = _mm512_maskz_mov_ps(second, weight_lanes(_mm512_maskz_loadu_ps(second, scores + i + 16), factor, largest));
        }
        _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        sum = _mm512_add_ps(sum, low);
        rest = _mm512_add_ps(rest, high);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, rest));
}

static void amx_pack_right_i8(void *panel, const int8_t *w, int64_t stride, int64_t n, int64_t k) {
    pack_right_bytes(panel, (const unsigned char *)w, stride, n, k);
}

static void amx_pack_left_i8(void *panel, const int8_t *rows, int64_t stride, int64_t k) {
    for (int64_t row = 0; row < AMX_ROWS; row++) {
        unsigned char *to = (unsigned char *)panel + row * AMX_ROW_BYTES;
        for (int64_t at = 0; at < k; at += AMX_ROW_BYTES, to += AMX_STEP_BYTES) {
            uint64_t there = k - at < AMX_ROW_BYTES ? ((uint64_t)1 << (k - at)) - 1 : UINT64_MAX;
            _mm512_store_si512(to, _mm512_maskz_loadu_epi8(there, rows + row * stride + at));
        }
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------------------ */

/*
 * Of integers or of bf16 numbers: `bytes` of each left row. Right tiles are read past the first-level cache, which keeps the left
 * ones for the next columns.
 */
static inline __attribute__((always_inline)) void multiply_tiles(bool integers, void *c, int64_t stride, const void *left,
                                                                 const void *right, int64_t bytes, bool add, const void *ahead) {
    const unsigned char *a = left, *b = right;
    const char *next = ahead;
    const int64_t word = 4, row = stride * word;
    unsigned char *c00 = c, *c01 = c00 + 16 * word, *c10 = c00 + 16 * row, *c11 = c10 + 16 * word;
    if (add) {
        _tile_loadd(0, c00, row);
        _tile_loadd(1, c01, row);
        _tile_loadd(2, c10, row);
        _tile_loadd(3, c11, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t at = 0; at < bytes; at += AMX_ROW_BYTES, a += AMX_STEP_BYTES, b += AMX_STEP_BYTES) {
        _tile_stream_loadd(6, b, AMX_ROW_BYTES);
        _tile_stream_loadd(7, b + AMX_TILE_BYTES, AMX_ROW_BYTES);
        _tile_loadd(4, a, AMX_ROW_BYTES);
        _tile_loadd(5, a + AMX_TILE_BYTES, AMX_ROW_BYTES);
        if (integers) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        /* Of eight lines two: they wake the prefetcher of the second-level cache, which brings the others without keeping the first
           one's few buffers busy for as long. */
        if (next) {
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + 64, _MM_HINT_T1);
            next += AMX_STEP_BYTES / 4;
        }
    }
    _tile_stored(0, c00, row);
    _tile_stored(1, c01, row);
    _tile_stored(2, c10, row);
    _tile_stored(3, c11, row);
}

static void amx_multiply(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_tiles(false, c, stride, left, right, k * (int64_t)sizeof(uint16_t), add, ahead);
}

static void amx_multiply_i8(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_tiles(true, c, stride, left, right, k, add, ahead);
}

static const ink_cpu_product bf16_product = {
    .tile_rows = AMX_ROWS,
    .tile_cols = AMX_ROWS,
    .k_unit = BF16_STEP,
    .element_bytes = 2,
    .group_cols = AMX_GROUP_COLS,
    .k_chunk = 1536,
    .k_near = 512,
    .begin = amx_begin,
    .end = amx_end,
    .pack_left = amx_pack_left,
    .pack_weights = amx_pack_weights,
    .pack_right_f32 = bf16_pack_right_f32,
    .pack_right_bf16 = bf16_pack_right_bf16,
    .pack_right_columns = bf16_pack_right_columns,
    .multiply = amx_multiply,
};

static const ink_cpu_product i8_product = {
    .tile_rows = AMX_ROWS,
    .tile_cols = AMX_ROWS,
    .k_unit = AMX_ROW_BYTES,
    .element_bytes = 1,
    .group_cols = AMX_GROUP_COLS,
    .k_chunk = 3072,
    .k_near = 1024,
    .integers = true,
    .begin = amx_begin,
    .end = amx_end,
    .pack_left_i8 = amx_pack_left_i8,
    .pack_right_i8 = amx_pack_right_i8,
    .multiply = amx_multiply_i8,
};
