/*
 * rng.h - torch-compatible normal noise. Source: PyTorch, aten/src/ATen/core/MT19937RNGEngine.h and
 * native/cpu/DistributionTemplates.h (CPU), native/cuda/DistributionTemplates.h (CUDA).
 */
#ifndef INK_BASE_RNG_H
#define INK_BASE_RNG_H

#include <stdint.h>

/*
 * What torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed)) returns, dtype float32.
 * dst: [n] f32. Agrees with torch to about 1e-6 (its vectorised log and sincos differ in the last bits).
 */
void ink_randn_torch_cpu_f32(float *dst, int64_t n, uint64_t seed);

/*
 * The same with dtype=bfloat16, widened to f32, as torch 2.13 draws it: where n is a multiple of 16, as for latents, the f32
 * sample rounded. A value next to a rounding boundary may come out on its other side.
 */
void ink_randn_torch_cpu_bf16(float *dst, int64_t n, uint64_t seed);

/* The same as torch 2.11 and older draw it: 8-bit uniforms and bf16 arithmetic, so quite another picture. Agrees exactly. */
void ink_randn_torch_2_11_cpu_bf16(float *dst, int64_t n, uint64_t seed);

/*
 * What a CUDA generator returns for the first randn after manual_seed, on a GPU with `sms` multiprocessors of
 * `threads_per_sm` resident threads. dst: [n] f32. A bf16 result of torch is this one rounded to bf16.
 */
void ink_randn_torch_cuda_f32(float *dst, int64_t n, uint64_t seed, int64_t sms, int64_t threads_per_sm);

#endif
