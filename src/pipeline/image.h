/* image.h - a picture, made of the pixels that the decoder gives. */
#ifndef INK_PIPELINE_IMAGE_H
#define INK_PIPELINE_IMAGE_H

#include "inkstone.h"

struct ink_image {
    int64_t width, height;
    uint8_t *pixels; /* owned: [height, width, 3] */
};

/* A pixel of -1..1 as one of 0..1. */
static inline float ink_shade(float pixel) {
    float clamped = pixel < -1.0f ? -1.0f : pixel > 1.0f ? 1.0f : pixel;
    return clamped * 0.5f + 0.5f;
}

/* Of pixels [height, width, 3]. *n_nan: how many have a channel that is no number, and is black. NULL without memory. */
ink_image *ink_image_make(const float *pixels, int64_t width, int64_t height, int64_t *n_nan);

#endif
