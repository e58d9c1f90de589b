/* latents.h - the noise that a picture starts from. */
#ifndef INK_PIPELINE_LATENTS_H
#define INK_PIPELINE_LATENTS_H

#include "inkstone.h"
#include "tensor/tensor.h"

/*
 * Fills latents [height/p * width/p, channels * p * p] with the request's noise; height and width in latent pixels.
 * Drawn in the order [channels, height, width] and then packed: channel c, pixel (dy, dx) of a patch goes to c * p * p + dy * p +
 * dx. noise_dtype must be F32 or BF16. sample [channels * height * width] is scratch.
 */
void ink_latents_noise(ink_tensor latents, float *sample, const ink_request *request, int64_t channels, int64_t height,
                       int64_t width, int64_t patch);

#endif
