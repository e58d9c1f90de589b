/* cpu_kernels_avx512.c - tier `avx512`: 64-byte vectors; 24 of 32 registers hold the tile. */
#include "ops/cpu/cpu_kernels_avx512.h"

#define INK_KERNELS ink_cpu_kernels_avx512
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#include "ops/cpu/cpu_kernels_template.h"
