/*
 * cpu_kernels_avx512_vnni.c - tier `avx512_vnni`: tier `avx512`, and products of 8-bit integers by VPDPBUSD. It multiplies numbers
 * without sign by signed ones, four at a time, and adds to 32 bits without saturating. The weights are those without: 128 is added
 * to each, and taken off the sums 128 times the sum of a left row. So left words can be read from memory by the instruction itself.
 */
#include "ops/cpu/cpu_kernels_avx512.h"

#define INK_KERNELS ink_cpu_kernels_avx512_vnni
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#define I8_UNIT 4
#define I8_RIGHT_OFFSET 128
#define I8_DOT(sum, right, left) (int_vector) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(right), _mm512_set1_epi32(left))
#include "ops/cpu/cpu_kernels_template.h"
