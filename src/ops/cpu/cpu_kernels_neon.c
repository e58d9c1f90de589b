/* cpu_kernels_neon.c - tier `neon`: 16-byte vectors and fused multiply-add; 24 of 32 registers hold the tile. */
#define INK_KERNELS ink_cpu_kernels_neon
#define VECTOR_FLOATS 4
#define TILE_VECTORS 4
#define TILE_ROWS 6
#define AFTER_ROW __asm__ volatile("" ::: "memory") /* no loads ahead: there is no register for them, and sums would be spilt */
#include "ops/cpu/cpu_kernels_template.h"
