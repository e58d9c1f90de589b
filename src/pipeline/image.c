/* image.c - a picture in memory. */
#include "pipeline/image.h"

#include <math.h>

#include "base/memory.h"

ink_image *ink_image_make(const float *pixels, int64_t width, int64_t height, int64_t *n_nan) {
    int64_t n = width * height;
    ink_image *image = ink_alloc(sizeof *image);
    if (image) image->pixels = ink_alloc((size_t)n * 3);
    if (!image || !image->pixels) {
        ink_image_destroy(&image);
        return NULL;
    }
    image->width = width;
    image->height = height;
    *n_nan = 0;
    for (int64_t i = 0; i < n; i++) {
        bool nan = false;
        for (int64_t at = 3 * i; at < 3 * i + 3; at++) {
            float value = ink_shade(pixels[at]);
            nan = nan || isnan(value);
            image->pixels[at] = isnan(value) ? 0 : (uint8_t)lrintf(value * 255.0f);
        }
        *n_nan += nan;
    }
    return image;
}

int64_t ink_image_width(const ink_image *image) { return image->width; }

int64_t ink_image_height(const ink_image *image) { return image->height; }

const uint8_t *ink_image_pixels(const ink_image *image) { return image->pixels; }

void ink_image_destroy(ink_image **image) {
    if (!*image) return;
    ink_free((*image)->pixels);
    ink_free(*image);
    *image = NULL;
}
