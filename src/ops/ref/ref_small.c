/* ref_small.c - definition of the ops that go over their operands once. */
#include <math.h>

#include "ops/ref/ref_ops.h"

void ink_ref_silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) {
    (void)d;
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) ink_row(dst, i)[j] = (float)(ink_ref_silu(ink_row(a, i)[j]) * ink_row(b, i)[j]);
}

/*
 * The one op that rounds on the way, because the angles go up to 1000 and the networks were trained with what an f32 program
 * makes of them: exponent, frequency, product and angle are each an f32. Source: diffusers, get_timestep_embedding.
 */
void ink_ref_timestep_embed(const ink_device *d, ink_tensor dst, ink_tensor t) {
    (void)d;
    const float minus_ln_10000 = -9.210340371976184f;
    int64_t half = dst.cols / 2;
    for (int64_t i = 0; i < dst.rows; i++) {
        for (int64_t j = 0; j < half; j++) {
            float exponent = minus_ln_10000 * (float)j / (float)half;
            float frequency = (float)exp((double)exponent);
            float angle = 1000.0f * (t.data[i] * frequency);
            ink_row(dst, i)[j] = (float)cos((double)angle);
            ink_row(dst, i)[half + j] = (float)sin((double)angle);
        }
    }
}

void ink_ref_unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                        int64_t width, int64_t patch) {
    (void)d;
    for (int64_t py = 0; py < height; py++) {
        for (int64_t px = 0; px < width; px++) {
            const float *token = ink_row(latents, py / patch * (width / patch) + px / patch);
            int64_t place = py % patch * patch + px % patch;
            for (int64_t c = 0; c < dst.cols; c++) {
                double v = token[c * patch * patch + place];
                ink_row(dst, py * width + px)[c] = (float)(v * std.data[c] + mean.data[c]);
            }
        }
    }
}

void ink_ref_cfg_combine(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    (void)d;
    for (int64_t i = 0; i < dst.rows; i++) {
        const float *c = ink_row(cond, i), *u = ink_row(uncond, i);
        double cond_squares = 0, mixed_squares = 0;
        for (int64_t j = 0; j < dst.cols; j++) {
            double mixed = u[j] + scale * ((double)c[j] - u[j]);
            cond_squares += (double)c[j] * c[j];
            mixed_squares += mixed * mixed;
        }
        double ratio = sqrt(cond_squares) / sqrt(mixed_squares);
        for (int64_t j = 0; j < dst.cols; j++) {
            double mixed = u[j] + scale * ((double)c[j] - u[j]);
            ink_row(dst, i)[j] = (float)(mixed * ratio);
        }
    }
}

void ink_ref_euler_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row(x, i)[j] = (float)(ink_row(x, i)[j] + (double)dt * ink_row(v, i)[j]);
}

void ink_ref_copy(const ink_device *d, ink_tensor dst, ink_tensor x) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row(dst, i)[j] = ink_row(x, i)[j];
}
