/* cpu_kernels_avx512.c - tier `avx512`: 64-byte vectors; 24 of 32 registers hold the tile. */
#include "ops/cpu/cpu_kernels_avx512.h"

#define INK_KERNELS ink_cpu_kernels_avx512
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#define I8_UNIT 2 /* as in tier `avx2` */
#define I8_DOT(sum, right, left) \
    (int_vector) _mm512_add_epi32((__m512i)(sum), _mm512_madd_epi16((__m512i)(right), _mm512_set1_epi32(left)))
#include "ops/cpu/cpu_kernels_template.h"
