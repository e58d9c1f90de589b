/* scheduler.c - sigmas, in the f32 and f64 steps of the reference. */
#include "pipeline/scheduler.h"

#include <math.h>

/* How far large pictures shift the schedule towards noise. */
static double dynamic_mu(const ink_scheduler_config *config, int64_t n_img) {
    double slope = (config->max_shift - config->base_shift) / (double)(config->max_image_seq_len - config->base_image_seq_len);
    return (double)n_img * slope + (config->base_shift - slope * (double)config->base_image_seq_len);
}

static float shift(float sigma, const ink_scheduler_config *config, double mu) {
    if (config->use_dynamic_shifting) {
        float e = (float)(config->exponential_shift ? exp(mu) : mu);
        return e / (e + (1.0f / sigma - 1.0f));
    }
    return (float)config->shift * sigma / (1.0f + (float)(config->shift - 1.0) * sigma);
}

void ink_scheduler_sigmas(float *sigmas, const ink_scheduler_config *config, int64_t n_steps, int64_t n_img) {
    double mu = dynamic_mu(config, n_img), last = 1.0 / (double)n_steps;
    for (int64_t i = 0; i < n_steps; i++) {
        double even = i == n_steps - 1 ? last : 1.0 + (double)i * ((last - 1.0) / (double)(n_steps - 1));
        sigmas[i] = shift((float)even, config, mu);
    }
    /* Nothing to stretch where all noise stays to the end: a single step, or a shift so large that it rounds to 1. */
    if (config->shift_terminal != 0 && n_steps > 1 && sigmas[n_steps - 1] < 1.0f) {
        float stretch = (1.0f - sigmas[n_steps - 1]) / (float)(1.0 - config->shift_terminal);
        for (int64_t i = 0; i < n_steps; i++) sigmas[i] = 1.0f - (1.0f - sigmas[i]) / stretch;
    }
    sigmas[n_steps] = 0.0f;
}

void ink_scheduler_times(float *times, const ink_scheduler_config *config, const float *sigmas, int64_t n_steps) {
    /* There and back, since the reference keeps timesteps of 0..1000 and divides them by 1000. */
    for (int64_t i = 0; i < n_steps; i++) times[i] = sigmas[i] * (float)config->n_train_timesteps / 1000.0f;
}
