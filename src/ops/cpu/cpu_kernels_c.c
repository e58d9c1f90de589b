/* cpu_kernels_c.c - tier `c`: plain C for any processor; 16-byte vectors, which every 64-bit one has. */
#define INK_KERNELS ink_cpu_kernels_c
#define VECTOR_FLOATS 4
#define TILE_VECTORS 2
#define TILE_ROWS 4
#include "ops/cpu/cpu_kernels_template.h"
