/*
 * cuda_pack.h - elements of rows that a thread reads and writes at once.
 */
#ifndef INK_OPS_CUDA_CUDA_PACK_H
#define INK_OPS_CUDA_CUDA_PACK_H

#include "ops/cuda/cuda_state.h"

namespace {

/* W elements, read and written at once. */
template <typename T, int W> struct alignas(sizeof(T) * W) pack {
    T e[W];

    __device__ float get(int i) const { return ink_load(&e[i]); }
    __device__ void set(const float (&v)[W]) {
#pragma unroll
        for (int i = 0; i < W; i++) ink_store(&e[i], v[i]);
    }
};

/* As words. Elements that are variables of their own are taken apart, and so waited for, right after each read. */
template <int W> struct alignas(2 * W) word_pack {
    unsigned words[W / 2]; /* the first element of two is in the low half */

    __device__ float get(int i) const { return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16); }
    __device__ void set(const float (&v)[W]) {
#pragma unroll
        for (int i = 0; i < W; i += 2) {
            unsigned low = __bfloat16_as_ushort(__float2bfloat16_rn(v[i])),
                     high = __bfloat16_as_ushort(__float2bfloat16_rn(v[i + 1]));
            words[i / 2] = high << 16 | low;
        }
    }
};

template <> struct pack<__nv_bfloat16, 4> : word_pack<4> {};
template <> struct pack<__nv_bfloat16, 8> : word_pack<8> {};

template <int W, typename T> __device__ void load_pack(float (&v)[W], const T *p) {
    pack<T, W> raw = *reinterpret_cast<const pack<T, W> *>(p);
#pragma unroll
    for (int i = 0; i < W; i++) v[i] = raw.get(i);
}

template <int W, typename T> __device__ void store_pack(T *p, const float (&v)[W]) {
    pack<T, W> raw;
    raw.set(v);
    *reinterpret_cast<pack<T, W> *>(p) = raw;
}

/* Whether each row can be read in packs of n elements. */
inline bool in_packs(ink_tensor x, int64_t n) {
    int64_t size = x.type == INK_BF16 ? 2 : 4;
    return reinterpret_cast<uintptr_t>(x.data) % (uintptr_t)(n * size) == 0 && x.cols % n == 0 &&
           (x.rows <= 1 || x.stride % n == 0);
}

} // namespace

#endif
