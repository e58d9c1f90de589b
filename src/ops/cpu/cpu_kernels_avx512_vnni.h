/*
 * cpu_kernels_avx512_vnni.h - products of 8-bit integers by VPDPBUSD, for the template. It multiplies numbers without sign by
 * signed ones, four at a time, and adds to 32 bits without saturating. The weights are those without: 128 is added to each, and
 * taken off the sums 128 times the sum of a left row. So left words can be read from memory by the instruction itself.
 */
#ifndef INK_OPS_CPU_CPU_KERNELS_AVX512_VNNI_H
#define INK_OPS_CPU_CPU_KERNELS_AVX512_VNNI_H

#include <immintrin.h>

#define I8_UNIT 4
#define I8_RIGHT_OFFSET 128
#define I8_DOT(sum, right, left) (int_vector) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(right), _mm512_set1_epi32(left))

#endif
