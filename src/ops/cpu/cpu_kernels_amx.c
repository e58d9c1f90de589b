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
#include "ops/cpu/cpu_kernels_avx512.h"

#define INK_KERNELS ink_cpu_kernels_amx
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#define PRODUCT_BF16 bf16_product
#define DECODE_AFFINE decode_affine
#define DECODE_F8_E4M3 decode_f8_e4m3
#define DECODE_I8 decode_i8
#define PRODUCT_I8 i8_product
static const ink_cpu_product bf16_product, i8_product;
static void decode_affine(uint16_t *dst, const unsigned char *q, bool nibbles, float scale, float bias, int64_t n);
static void decode_f8_e4m3(uint16_t *dst, const unsigned char *q, float scale, int64_t n);
static void decode_i8(uint16_t *dst, const int8_t *q, float scale, int64_t n);
#include "ops/cpu/cpu_kernels_template.h"

/* A tile holds AMX_STEP numbers of bf16, AMX_ROW_BYTES integers, of 16 rows; AMX_ROWS is the side of a product. */
enum { AMX_STEP = 32, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = 1024, AMX_ROWS = 32, AMX_STEP_BYTES = 2 * AMX_TILE_BYTES };

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

/* 32 numbers of a row, rounded; of which n are there. */
static inline __m512i round_step(const float *row, int64_t n) {
    uint32_t there = n >= AMX_STEP ? UINT32_MAX : ((uint32_t)1 << n) - 1;
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, row), high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), row + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

static void amx_pack_left(void *panel, const float *const *rows, int64_t k) {
    for (int64_t row = 0; row < AMX_ROWS; row++) {
        unsigned char *to = (unsigned char *)panel + row * 64;
        for (int64_t at = 0; at < k; at += AMX_STEP, to += AMX_STEP_BYTES)
            _mm512_store_si512(to, rows[row] ? round_step(rows[row] + at, k - at) : _mm512_setzero_si512());
    }
}

/* A tile whose row i holds the i-th four bytes of each of 16 rows. */
static inline void transpose_tile(unsigned char *tile, const unsigned char *rows, int64_t stride) {
    __m512i part[4][4]; /* [c][i]: of rows i, i + 4, i + 8, i + 12 the bytes from 16 c on */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const unsigned char *from = rows + i * stride + c * 16;
            __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const void *)from));
            x = _mm512_mask_broadcast_i32x4(x, 0x00f0, _mm_loadu_si128((const void *)(from + 4 * stride)));
            x = _mm512_mask_broadcast_i32x4(x, 0x0f00, _mm_loadu_si128((const void *)(from + 8 * stride)));
            part[c][i] = _mm512_mask_broadcast_i32x4(x, 0xf000, _mm_loadu_si128((const void *)(from + 12 * stride)));
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_unpacklo_epi32(part[c][0], part[c][1]), b = _mm512_unpackhi_epi32(part[c][0], part[c][1]);
        __m512i d = _mm512_unpacklo_epi32(part[c][2], part[c][3]), e = _mm512_unpackhi_epi32(part[c][2], part[c][3]);
        _mm512_store_si512(tile + c * 256, _mm512_unpacklo_epi64(a, d));
        _mm512_store_si512(tile + c * 256 + 64, _mm512_unpackhi_epi64(a, d));
        _mm512_store_si512(tile + c * 256 + 128, _mm512_unpacklo_epi64(b, e));
        _mm512_store_si512(tile + c * 256 + 192, _mm512_unpackhi_epi64(b, e));
    }
}

/* n rows of `bytes` bytes, of which four make a word of a right tile. */
static void pack_right_bytes(void *panel, const unsigned char *w, int64_t stride, int64_t n, int64_t bytes) {
    enum { AHEAD = 8 * AMX_ROW_BYTES }; /* how far memory is asked for before it is needed */
    for (int64_t half = 0; half < 2; half++) {
        unsigned char *to = (unsigned char *)panel + half * AMX_TILE_BYTES;
        int64_t n_rows = n - 16 * half < 16 ? n - 16 * half : 16;
        const unsigned char *rows = w + 16 * half * stride;
        for (int64_t at = 0; at < bytes; at += AMX_ROW_BYTES, to += AMX_STEP_BYTES) {
            if (n_rows == 16 && at + AMX_ROW_BYTES <= bytes) {
                for (int64_t i = 0; i < 16; i++) _mm_prefetch((const char *)(rows + i * stride + at + AHEAD), _MM_HINT_T0);
                transpose_tile(to, rows + at, stride);
                continue;
            }
            _Alignas(64) unsigned char rest[16][AMX_ROW_BYTES] = {{0}};
            size_t there = (size_t)(bytes - at < AMX_ROW_BYTES ? bytes - at : AMX_ROW_BYTES);
            for (int64_t i = 0; i < n_rows; i++) memcpy(rest[i], rows + i * stride + at, there);
            transpose_tile(to, rest[0], sizeof *rest);
        }
    }
}

static void amx_pack_right_bf16(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k) {
    const int64_t size = sizeof *w;
    pack_right_bytes(panel, (const unsigned char *)w, stride * size, n, k * size);
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

static void amx_pack_right_f32(void *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
    _Alignas(64) uint16_t rounded[16][AMX_STEP];
    for (int64_t half = 0; half < 2; half++) {
        unsigned char *to = (unsigned char *)panel + half * AMX_TILE_BYTES;
        int64_t n_rows = n - 16 * half < 16 ? n - 16 * half : 16;
        for (int64_t at = 0; at < k; at += AMX_STEP, to += AMX_STEP_BYTES) {
            for (int64_t i = 0; i < 16; i++)
                _mm512_store_si512(rounded[i],
                                   i < n_rows ? round_step(w + (16 * half + i) * stride + at, k - at) : _mm512_setzero_si512());
            transpose_tile(to, (const unsigned char *)rounded, sizeof *rounded);
        }
    }
}

/* Pairs of rows, column by column: what a right tile holds. */
static void amx_pack_right_columns(void *panel, const float *const *rows, int64_t n, int64_t k) {
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    static const float no_row[AMX_ROWS];
    for (int64_t half = 0; half < 2; half++) {
        int64_t n_cols = n - 16 * half < 16 ? n - 16 * half : 16;
        __mmask16 there = (__mmask16)(n_cols <= 0 ? 0 : (1u << n_cols) - 1);
        for (int64_t at = 0; at < k; at += AMX_STEP) {
            unsigned char *tile = (unsigned char *)panel + at / AMX_STEP * AMX_STEP_BYTES + half * AMX_TILE_BYTES;
            for (int64_t i = 0; i < 16; i++) {
                const float *a = at + 2 * i < k ? rows[at + 2 * i] : no_row,
                            *b = at + 2 * i + 1 < k ? rows[at + 2 * i + 1] : no_row;
                __m512 first = _mm512_maskz_loadu_ps(there, a + 16 * half), second = _mm512_maskz_loadu_ps(there, b + 16 * half);
                __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
                _mm512_store_si512(tile + i * 64, _mm512_permutexvar_epi16(pairs, both));
            }
        }
    }
}

/* ---- the product ------------------------------------------------------------------------------------------------------------ */

/* Of integers or of bf16 numbers: `bytes` of each left row. */
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
        _tile_loadd(4, a, AMX_ROW_BYTES);
        _tile_loadd(6, b, AMX_ROW_BYTES);
        if (integers)
            _tile_dpbssd(0, 4, 6);
        else
            _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + AMX_TILE_BYTES, AMX_ROW_BYTES);
        if (integers)
            _tile_dpbssd(1, 4, 7);
        else
            _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + AMX_TILE_BYTES, AMX_ROW_BYTES);
        if (integers) {
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (next) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) _mm_prefetch(next + 64 * i, _MM_HINT_T1);
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
    .k_unit = AMX_STEP,
    .element_bytes = 2,
    .k_chunk = 3072,
    .k_near = 256,
    .begin = amx_begin,
    .end = amx_end,
    .pack_left = amx_pack_left,
    .pack_right_f32 = amx_pack_right_f32,
    .pack_right_bf16 = amx_pack_right_bf16,
    .pack_right_columns = amx_pack_right_columns,
    .multiply = amx_multiply,
};

static const ink_cpu_product i8_product = {
    .tile_rows = AMX_ROWS,
    .tile_cols = AMX_ROWS,
    .k_unit = AMX_ROW_BYTES,
    .element_bytes = 1,
    .k_chunk = 6144,
    .k_near = 512,
    .integers = true,
    .begin = amx_begin,
    .end = amx_end,
    .pack_left_i8 = amx_pack_left_i8,
    .pack_right_i8 = amx_pack_right_i8,
    .multiply = amx_multiply_i8,
};

/* ---- decoding --------------------------------------------------------------------------------------------------------------- */

/* Four bits choose among 16 numbers, which are computed once. */
static inline void decode_nibbles(uint16_t *dst, const unsigned char *q, __m512i levels, int64_t n) {
    const __m128i low_bits = _mm_set1_epi8(15);
    for (int64_t i = 0; i < n; i += 32) {
        __m128i bytes = _mm_loadu_si128((const void *)(q + i / 2));
        __m128i low = _mm_and_si128(bytes, low_bits), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), low_bits);
        __m256i codes = _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high));
        _mm512_storeu_si512(dst + i, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(codes), levels));
    }
}

static void decode_affine(uint16_t *dst, const unsigned char *q, bool nibbles, float scale, float bias, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale), b = _mm512_set1_ps(bias);
    if (nibbles) {
        const __m512 codes = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        __m512 numbers = _mm512_add_ps(_mm512_mul_ps(codes, s), b);
        decode_nibbles(dst, q, _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(numbers)), n);
        return;
    }
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(q + i))));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(q + i + 16))));
        low = _mm512_add_ps(_mm512_mul_ps(low, s), b);
        high = _mm512_add_ps(_mm512_mul_ps(high, s), b);
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Exponent and mantissa moved to their place in f32 are 2^120 too small, in numbers below the normal range too. */
static inline __m512 f8_e4m3(__m128i bytes, __m512 scale) {
    const __m512i magnitude_bits = _mm512_set1_epi32(127);
    __m512i wide = _mm512_cvtepu8_epi32(bytes), magnitude = _mm512_and_si512(wide, magnitude_bits);
    __m512 number = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), _mm512_set1_ps(0x1p120f));
    number = _mm512_mask_mov_ps(number, _mm512_cmpeq_epi32_mask(magnitude, magnitude_bits), _mm512_set1_ps(NAN));
    __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(magnitude_bits, wide), 24);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(number), sign)), scale);
}

static void decode_f8_e4m3(uint16_t *dst, const unsigned char *q, float scale, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = f8_e4m3(_mm_loadu_si128((const void *)(q + i)), s);
        __m512 high = f8_e4m3(_mm_loadu_si128((const void *)(q + i + 16)), s);
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

static void decode_i8(uint16_t *dst, const int8_t *q, float scale, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(q + i))));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(q + i + 16))));
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, s), _mm512_mul_ps(low, s)));
    }
}
