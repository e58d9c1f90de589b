/* latents.c - drawing and packing noise. */
#include "pipeline/latents.h"

#include "base/rng.h"
#include "tensor/dtype.h"

static void draw(float *sample, int64_t n, const ink_request *request) {
    bool bf16 = request->noise_dtype == INK_NOISE_BF16;
    if (request->rng == INK_RNG_TORCH_CUDA) {
        ink_randn_torch_cuda_f32(sample, n, request->seed, request->cuda_sms, request->cuda_threads_per_sm);
        for (int64_t i = 0; bf16 && i < n; i++) sample[i] = ink_round_to_bf16(sample[i]);
    } else if (!bf16) {
        ink_randn_torch_cpu_f32(sample, n, request->seed);
    } else if (request->rng == INK_RNG_TORCH_CPU) {
        ink_randn_torch_2_11_cpu_bf16(sample, n, request->seed);
    } else {
        ink_randn_torch_cpu_bf16(sample, n, request->seed);
    }
}

void ink_latents_noise(ink_tensor latents, float *sample, const ink_request *request, int64_t channels, int64_t height,
                       int64_t width, int64_t patch) {
    draw(sample, channels * height * width, request);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++) {
                int64_t token = y / patch * (width / patch) + x / patch;
                int64_t channel = c * patch * patch + y % patch * patch + x % patch;
                ink_row(latents, token)[channel] = sample[(c * height + y) * width + x];
            }
}
