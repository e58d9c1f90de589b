/*
 * cpu_kernels_amx.c - tier `amx`: tier `avx512`, and products of bf16 numbers, of 8-bit integers and of f32 numbers in parts by
 * tiles (Intel's AMX, since Sapphire Rapids).
 *
 * A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile of left rows, 16 by 32 numbers, with a tile of
 * right ones, 32 by 16 in pairs, and adds to 16 by 16 sums in f32. Two by two tiles of sums, two left and two right ones are all
 * eight registers: a product of 32 by 32. Numbers below the normal range count as zero, before and after. Of 8-bit integers it is
 * 16 by 64 and 64 by 16 in fours, added to int32: the same bytes in the same places.
 *
 * An f32 number is the sum of three in bf16, exactly: h, what bf16 makes of it, m, what bf16 makes of the rest, and l, the rest of
 * that. m is at most 2^-8 of the number and l 2^-17, so of the nine products of two numbers six are enough: what is left out is
 * below 2^-24 of theirs, as is the error of one rounding.
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
#define PRODUCT_F32_PARTS parts_product
#define PRODUCT_BF16 bf16_product
#define PRODUCT_I8 i8_product
static const ink_cpu_product parts_product, bf16_product, i8_product;
#include "ops/cpu/cpu_kernels_template.h"

/* A tile holds BF16_STEP numbers of bf16, AMX_ROW_BYTES integers, of 16 rows; AMX_ROWS is the side of a product. */
enum { AMX_GROUP_COLS = 192, AMX_ROW_BYTES = 64, AMX_TILE_BYTES = 1024, AMX_ROWS = 32, AMX_STEP_BYTES = 2 * AMX_TILE_BYTES };
/* Of numbers in parts a step of a panel has that of h, that of m and that of l. */
enum { N_PARTS = 3, H = 0, M = AMX_STEP_BYTES, L = 2 * AMX_STEP_BYTES, PARTS_STEP_BYTES = N_PARTS * AMX_STEP_BYTES };

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

/*
 * 2^x to 9e-5 of it, a twentieth of what bf16 rounds away: x = n + r with 0 <= r < 1, 2^r by a minimax fit of our own; the
 * multiplication by 2^n takes of x what is n. r of an infinity is 0, so 2^x is 0 below all numbers; NaN stays.
 */
static inline __m512 rough_exp2_lanes(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.0770670421f), _mm512_set1_ps(0.227644991f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.695116786f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f)), x);
}

/* As weight_lanes, for a weight that will be rounded. */
static inline __m512 rough_weight_lanes(__m512 score, __m512 factor, __m512 largest) {
    return rough_exp2_lanes(below_largest(score, factor, largest));
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
            low = rough_weight_lanes(_mm512_loadu_ps(scores + i), factor, largest);
            high = rough_weight_lanes(_mm512_loadu_ps(scores + i + 16), factor, largest);
        } else if (i < seen) {
            uint32_t there = ((uint32_t)1 << (seen - i)) - 1;
            __mmask16 first = (__mmask16)there, second = (__mmask16)(there >> 16);
            low = _mm512_maskz_mov_ps(first, rough_weight_lanes(_mm512_maskz_loadu_ps(first, scores + i), factor, largest));
            high = _mm512_maskz_mov_ps(second, rough_weight_lanes(_mm512_maskz_loadu_ps(second, scores + i + 16), factor, largest));
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

/* What bf16 rounds to infinity becomes its largest number; infinity does too, and then leaves no number as its rest. */
static inline __m512 below_infinity(__m512 x) {
    const __m512 largest = _mm512_set1_ps(0x1.fep127f), least = _mm512_set1_ps(-0x1.fep127f);
    return _mm512_min_ps(largest, _mm512_max_ps(least, x)); /* the second operand where one is no number */
}

static inline __m512 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

/* 32 numbers of a row in parts; of which n are there. */
static inline void split_step(__m512i parts[N_PARTS], const float *row, int64_t n) {
    uint32_t there = n >= BF16_STEP ? UINT32_MAX : ((uint32_t)1 << n) - 1;
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, row), high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), row + 16);
    parts[0] = (__m512i)_mm512_cvtne2ps_pbh(below_infinity(high), below_infinity(low));
    for (int i = 1; i < N_PARTS; i++) {
        low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(parts[i - 1])));
        high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(parts[i - 1], 1)));
        parts[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    }
}

static void parts_pack_left(void *panel, const float *const *rows, int64_t k) {
    for (int64_t row = 0; row < AMX_ROWS; row++) {
        unsigned char *to = (unsigned char *)panel + row * AMX_ROW_BYTES;
        for (int64_t at = 0; at < k; at += BF16_STEP, to += PARTS_STEP_BYTES) {
            __m512i parts[N_PARTS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
            if (rows[row]) split_step(parts, rows[row] + at, k - at);
            for (int i = 0; i < N_PARTS; i++) _mm512_store_si512(to + i * AMX_STEP_BYTES, parts[i]);
        }
    }
}

static void parts_pack_right_f32(void *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
    enum { AHEAD = 128 }; /* how far memory is asked for before it is needed */
    _Alignas(64) uint16_t split[N_PARTS][16][BF16_STEP] = {{{0}}};
    for (int64_t half = 0; half < 2; half++) {
        unsigned char *to = (unsigned char *)panel + half * RIGHT_HALF_BYTES;
        int64_t n_rows = n - 16 * half < 16 ? n - 16 * half : 16;
        if (n_rows < 16) memset(split, 0, sizeof split);
        for (int64_t at = 0; at < k; at += BF16_STEP, to += PARTS_STEP_BYTES) {
            for (int64_t row = 0; row < n_rows; row++) {
                __m512i parts[N_PARTS];
                const float *from = w + (16 * half + row) * stride + at;
                _mm_prefetch((const char *)(from + AHEAD), _MM_HINT_T0);
                _mm_prefetch((const char *)(from + AHEAD + 16), _MM_HINT_T0);
                split_step(parts, from, k - at);
                for (int i = 0; i < N_PARTS; i++) _mm512_store_si512(split[i][row], parts[i]);
            }
            for (int i = 0; i < N_PARTS; i++)
                transpose_tile(to + i * AMX_STEP_BYTES, RIGHT_ROW_BYTES, (const unsigned char *)split[i], sizeof split[i][0]);
        }
    }
}

/* ---- the products ----------------------------------------------------------------------------------------------------------- */

/* Always inline, these and what they are for: the compiler does not know which tiles they change. */
#define TILES static inline __attribute__((always_inline))

TILES void load_left(const unsigned char *from) {
    _tile_loadd(4, from, AMX_ROW_BYTES);
    _tile_loadd(5, from + AMX_TILE_BYTES, AMX_ROW_BYTES);
}

/* Past the first-level cache, which keeps the left ones for the next columns. */
TILES void load_right(const unsigned char *from) {
    _tile_stream_loadd(6, from, AMX_ROW_BYTES);
    _tile_stream_loadd(7, from + AMX_TILE_BYTES, AMX_ROW_BYTES);
}

TILES void add_products(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

TILES void add_integer_products(void) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
}

TILES void zero_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

TILES void store_sums(unsigned char *c, int64_t row_bytes) {
    _tile_stored(0, c, row_bytes);
    _tile_stored(1, c + AMX_ROW_BYTES, row_bytes);
    _tile_stored(2, c + 16 * row_bytes, row_bytes);
    _tile_stored(3, c + 16 * row_bytes + AMX_ROW_BYTES, row_bytes);
}

/* Of eight lines two: they wake the prefetcher of the second-level cache, which brings the others without keeping the first one's
   few buffers busy for as long. */
TILES const char *ask_tiles(const char *next) {
    if (!next) return NULL;
    _mm_prefetch(next, _MM_HINT_T1);
    _mm_prefetch(next + 64, _MM_HINT_T1);
    return next + AMX_STEP_BYTES / 4;
}

/* Of integers or of bf16 numbers: `bytes` of each left row. */
TILES void multiply_tiles(bool integers, void *c, int64_t stride, const void *left, const void *right, int64_t bytes, bool add,
                          const void *ahead) {
    const unsigned char *a = left, *b = right;
    const char *next = ahead;
    const int64_t row = stride * (int64_t)sizeof(float);
    unsigned char *sums = c;
    if (add) {
        _tile_loadd(0, sums, row);
        _tile_loadd(1, sums + AMX_ROW_BYTES, row);
        _tile_loadd(2, sums + 16 * row, row);
        _tile_loadd(3, sums + 16 * row + AMX_ROW_BYTES, row);
    } else {
        zero_sums();
    }
    for (int64_t at = 0; at < bytes; at += AMX_ROW_BYTES, a += AMX_STEP_BYTES, b += AMX_STEP_BYTES) {
        load_right(b);
        load_left(a);
        if (integers)
            add_integer_products();
        else
            add_products();
        next = ask_tiles(next);
    }
    store_sums(sums, row);
}

static void amx_multiply(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_tiles(false, c, stride, left, right, k * (int64_t)sizeof(uint16_t), add, ahead);
}

static void amx_multiply_i8(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_tiles(true, c, stride, left, right, k, add, ahead);
}

static void add_sums(float *c, int64_t stride, const float *sums) {
    for (int64_t row = 0; row < AMX_ROWS; row++, c += stride, sums += AMX_ROWS)
        for (int64_t col = 0; col < AMX_ROWS; col += 16)
            _mm512_storeu_ps(c + col, _mm512_add_ps(_mm512_loadu_ps(c + col), _mm512_load_ps(sums + col)));
}

/*
 * All small products come first: they are below 2^-7 of the sum, so their roundings do not count beside those of h h'. Sums start
 * at zero and are added to c at the end, for a rounding of all of c less for each product.
 */
static void parts_multiply(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    const unsigned char *a = left, *b = right;
    const char *next = ahead;
    const int64_t n_steps = (k + BF16_STEP - 1) / BF16_STEP;
    zero_sums();
    for (int64_t i = 0; i < n_steps; i++, a += PARTS_STEP_BYTES, b += PARTS_STEP_BYTES) {
        load_left(a + H);
        load_right(b + L);
        add_products();
        next = ask_tiles(next);
        load_right(b + M);
        add_products();
        load_left(a + M);
        add_products();
        next = ask_tiles(next);
        load_right(b + H);
        add_products();
        load_left(a + L);
        add_products();
        next = ask_tiles(next);
    }
    a = left, b = right;
    for (int64_t i = 0; i < n_steps; i++, a += PARTS_STEP_BYTES, b += PARTS_STEP_BYTES) {
        load_right(b + H);
        load_left(a + H);
        add_products();
    }
    _Alignas(64) float sums[AMX_ROWS * AMX_ROWS];
    store_sums(add ? (unsigned char *)sums : c, (add ? AMX_ROWS : stride) * (int64_t)sizeof *sums);
    if (add) add_sums(c, stride, sums);
}

static const ink_cpu_product parts_product = {
    .tile_rows = AMX_ROWS,
    .tile_cols = AMX_ROWS,
    .k_unit = BF16_STEP,
    .element_bytes = N_PARTS * (int)sizeof(uint16_t),
    .group_cols = 128,
    .k_chunk = 1024,
    .k_near = 192,
    .begin = amx_begin,
    .end = amx_end,
    .pack_left = parts_pack_left,
    .pack_right_f32 = parts_pack_right_f32,
    .multiply = parts_multiply,
};

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
