/* cpu_kernels_avx512_vnni.c - tier `avx512_vnni`: tier `avx512`, and products of 8-bit integers by VPDPBUSD. */
#include "ops/cpu/cpu_kernels_avx512_vnni.h"

#include "ops/cpu/cpu_kernels_avx512.h"

#define INK_KERNELS ink_cpu_kernels_avx512_vnni
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#include "ops/cpu/cpu_kernels_template.h"
