/* cpu_kernels_avx2.c - tier `avx2`: 32-byte vectors and fused multiply-add; 12 of 16 registers hold the tile. */
#include <immintrin.h>

#define INK_KERNELS ink_cpu_kernels_avx2
#define VECTOR_FLOATS 8
#define TILE_VECTORS 2
#define TILE_ROWS 6
/* In 16 bits, of which no pair of products can run over; the instruction for 8 bits saturates. */
#define I8_UNIT 2
#define I8_DOT(sum, right, left) \
    (int_vector) _mm256_add_epi32((__m256i)(sum), _mm256_madd_epi16((__m256i)(right), _mm256_set1_epi32(left)))
#include "ops/cpu/cpu_kernels_template.h"
