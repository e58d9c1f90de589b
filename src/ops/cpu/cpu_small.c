/* cpu_small.c - ops that move or touch little: layout changes, the sampler's steps. No tier needs loops of its own here. */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_ops.h"

typedef struct upsample {
    ink_tensor dst, x;
    int64_t width;
} upsample;

static void upsample_rows(void *context, int64_t first, int64_t last) {
    const upsample *op = context;
    for (int64_t i = first; i < last; i++) {
        int64_t y = i / (2 * op->width), x = i % (2 * op->width);
        memcpy(ink_row(op->dst, i), ink_row(op->x, y / 2 * op->width + x / 2), (size_t)op->x.cols * sizeof(float));
    }
}

void ink_cpu_upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    (void)height;
    upsample op = {dst, x, width};
    ink_cpu_for_rows(d, dst.rows, dst.cols, upsample_rows, &op);
}

void ink_cpu_timestep_embed(const ink_device *d, ink_tensor dst, ink_tensor t) {
    (void)d;
    int64_t half = dst.cols / 2;
    for (int64_t j = 0; j < half; j++) {
        /* The exponent in f32, its exponential rounded once: one unit in the last place here moves the angle by 6e-5. */
        float exponent = (float)-9.210340371976184 * (float)j / (float)half;
        float frequency = (float)exp((double)exponent);
        for (int64_t i = 0; i < dst.rows; i++) {
            float angle = 1000.0f * (t.data[i] * frequency);
            ink_row(dst, i)[j] = (float)cos((double)angle);
            ink_row(dst, i)[half + j] = (float)sin((double)angle);
        }
    }
}

void ink_cpu_unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                        int64_t width, int64_t patch) {
    (void)d;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const float *token = ink_row(latents, y / patch * (width / patch) + x / patch);
            float *pixel = ink_row(dst, y * width + x);
            int64_t inside = y % patch * patch + x % patch;
            for (int64_t c = 0; c < dst.cols; c++) pixel[c] = token[c * patch * patch + inside] * std.data[c] + mean.data[c];
        }
}

void ink_cpu_cfg_combine(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    (void)d;
    for (int64_t i = 0; i < dst.rows; i++) {
        const float *c = ink_row(cond, i), *u = ink_row(uncond, i);
        double cond_square = 0, mixed_square = 0;
        for (int64_t j = 0; j < dst.cols; j++) {
            float mixed = u[j] + scale * (c[j] - u[j]);
            cond_square += (double)c[j] * c[j];
            mixed_square += (double)mixed * mixed;
        }
        float ratio = (float)(sqrt(cond_square) / sqrt(mixed_square));
        float *out = ink_row(dst, i);
        for (int64_t j = 0; j < dst.cols; j++) out[j] = (u[j] + scale * (c[j] - u[j])) * ratio;
    }
}

void ink_cpu_euler_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row(x, i)[j] += dt * ink_row(v, i)[j];
}

void ink_cpu_copy(const ink_device *d, ink_tensor dst, ink_tensor x) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++) memcpy(ink_row(dst, i), ink_row(x, i), (size_t)x.cols * sizeof(float));
}
