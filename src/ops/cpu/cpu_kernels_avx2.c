/* cpu_kernels_avx2.c - tier `avx2`: 32-byte vectors and fused multiply-add; 12 of 16 registers hold the tile. */
#define INK_KERNELS ink_cpu_kernels_avx2
#define VECTOR_FLOATS 8
#define TILE_VECTORS 2
#define TILE_ROWS 6
#include "ops/cpu/cpu_kernels_template.h"
