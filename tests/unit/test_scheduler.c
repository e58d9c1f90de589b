/* test_scheduler.c - sigmas against those of the reference (diffusers, FlowMatchEulerDiscreteScheduler). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "pipeline/scheduler.h"

enum { MAX_STEPS = 10000, TOKENS_512 = 32 * 32, TOKENS_1024 = 64 * 64, TOKENS_1328 = 83 * 83 };

static const ink_scheduler_config published = {.n_train_timesteps = 1000,
                                               .base_image_seq_len = 256,
                                               .max_image_seq_len = 8192,
                                               .shift = 1.0,
                                               .base_shift = 0.5,
                                               .max_shift = 0.9,
                                               .shift_terminal = 0.02,
                                               .use_dynamic_shifting = true,
                                               .exponential_shift = true};

static void assert_close(const float *found, const float *expected, int n, float tolerance) {
    for (int i = 0; i < n; i++)
        if (!(fabsf(found[i] - expected[i]) <= tolerance))
            fail_msg("sigma %d is %.9g, expected %.9g", i, (double)found[i], (double)expected[i]);
}

static void test_four_steps(void **state) {
    (void)state;
    static const float expected[] = {1, 0.76670933f, 0.45561373f, 0.02f, 0};
    float sigmas[5];
    ink_scheduler_sigmas(sigmas, &published, 4, TOKENS_1024);
    assert_close(sigmas, expected, 5, 1.2e-7f);
    assert_true(sigmas[0] == 1.0f && sigmas[4] == 0.0f);
}

static void test_twenty_steps(void **state) {
    (void)state;
    static const float expected[] = {1,           0.97223651f, 0.94301116f, 0.91220546f, 0.87968749f, 0.84531039f, 0.80891037f,
                                     0.77030301f, 0.72928172f, 0.68561232f, 0.6390301f,  0.58923364f, 0.53587818f, 0.47856802f,
                                     0.41684681f, 0.35018474f, 0.2779637f,  0.19945824f, 0.11381066f, 0.01999998f, 0};
    float sigmas[21];
    ink_scheduler_sigmas(sigmas, &published, 20, TOKENS_1024);
    assert_close(sigmas, expected, 21, 1.2e-7f);
}

static void test_fifty_steps(void **state) {
    (void)state;
    static const float first[] = {1, 0.98970091f, 0.97919148f, 0.96846533f},
                       last[] = {0.13114905f, 0.0954985f, 0.05847579f, 0.01999998f, 0};
    static const float first_1328[] = {1, 0.99098831f, 0.98176795f, 0.97233158f},
                       last_1328[] = {0.1451475f, 0.1054486f, 0.06378275f, 0.01999998f, 0};
    float sigmas[51];
    ink_scheduler_sigmas(sigmas, &published, 50, TOKENS_1024);
    assert_close(sigmas, first, 4, 1.2e-7f);
    assert_close(sigmas + 46, last, 5, 1.2e-7f);
    ink_scheduler_sigmas(sigmas, &published, 50, TOKENS_1328);
    assert_close(sigmas, first_1328, 4, 1.2e-7f);
    assert_close(sigmas + 46, last_1328, 5, 1.2e-7f);
}

/* With the linear shift and no stretch the shift itself can be read off: s' = mu / (mu + 1 / s - 1) at s = 1/2. */
static void test_mu(void **state) {
    (void)state;
    static const struct {
        int64_t n_img;
        double mu;
    } cases[] = {{TOKENS_512, 0.538709677},
                 {TOKENS_1024, 0.693548387},
                 {TOKENS_1328, 0.834324597},
                 {104 * 58, 0.791129032},
                 {92 * 69, 0.807056452},
                 {99 * 66, 0.816431452},
                 {128 * 128, 1.312903226},
                 {256, 0.5},
                 {8192, 0.9},
                 {1, 0.4871472}};
    ink_scheduler_config linear = published;
    linear.exponential_shift = false;
    linear.shift_terminal = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float sigmas[3];
        ink_scheduler_sigmas(sigmas, &linear, 2, cases[i].n_img);
        double s = sigmas[1], mu = s / (1 - s);
        if (!(fabs(mu - cases[i].mu) < 5e-7)) fail_msg("%d tokens: mu %.9g, expected %.9g", (int)cases[i].n_img, mu, cases[i].mu);
    }
}

static void test_static_shift(void **state) {
    (void)state;
    ink_scheduler_config config = published;
    config.use_dynamic_shifting = false;
    config.shift = 3;
    config.shift_terminal = 0;
    float sigmas[5];
    ink_scheduler_sigmas(sigmas, &config, 4, TOKENS_1024);
    /* 3 s / (1 + 2 s) at 1, 3/4, 1/2, 1/4. */
    assert_close(sigmas, (const float[]){1, 0.9f, 0.75f, 0.5f, 0}, 5, 1.2e-7f);
}

/* Distilled models: no stretch, and a shift that does not depend on the size. */
static void test_constant_shift(void **state) {
    (void)state;
    ink_scheduler_config config = published;
    config.base_shift = config.max_shift = log(3);
    config.shift_terminal = 0;
    float small[5], large[5];
    ink_scheduler_sigmas(small, &config, 4, 16);
    ink_scheduler_sigmas(large, &config, 4, TOKENS_1328);
    assert_close(small, (const float[]){1, 0.9f, 0.75f, 0.5f, 0}, 5, 1.2e-7f);
    assert_close(large, small, 5, 0);
}

/* The reference divides zero by zero here. */
static void test_one_step(void **state) {
    (void)state;
    ink_scheduler_config config = published;
    float sigmas[2] = {-1, -1}, time = -1;
    ink_scheduler_sigmas(sigmas, &config, 1, TOKENS_1024);
    assert_true(sigmas[0] == 1.0f && sigmas[1] == 0.0f);
    ink_scheduler_times(&time, &config, sigmas, 1);
    assert_true(time == 1.0f);
    config.shift_terminal = 0;
    ink_scheduler_sigmas(sigmas, &config, 1, TOKENS_1024);
    assert_true(sigmas[0] == 1.0f && sigmas[1] == 0.0f);
}

/* From one token to the largest picture that a request may ask for, where the shift rounds every sigma to 1. */
static void test_always_finite_and_falling(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 256, TOKENS_1328, 300 * 300, 600 * 600, 1024 * 1024};
    static const int64_t steps[] = {1, 2, 3, 50, MAX_STEPS};
    static float sigmas[MAX_STEPS + 1];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof steps / sizeof *steps; j++) {
            ink_scheduler_sigmas(sigmas, &published, steps[j], sizes[i]);
            for (int64_t k = 0; k < steps[j]; k++)
                if (!(sigmas[k] > 0 && sigmas[k] <= 1 && sigmas[k + 1] <= sigmas[k]))
                    fail_msg("%d tokens, %d steps: sigma %d is %g, then %g", (int)sizes[i], (int)steps[j], (int)k,
                             (double)sigmas[k], (double)sigmas[k + 1]);
            assert_true(sigmas[steps[j]] == 0.0f);
        }
}

static void test_times(void **state) {
    (void)state;
    const float sigmas[] = {1, 0.76670933f, 0.45561373f, 0.02f, 0};
    float times[4];
    ink_scheduler_times(times, &published, sigmas, 4);
    assert_close(times, sigmas, 4, 1.2e-7f);
    ink_scheduler_config other = published;
    other.n_train_timesteps = 500;
    ink_scheduler_times(times, &other, sigmas, 4);
    assert_close(times, (const float[]){0.5f, 0.383354665f, 0.227806865f, 0.01f}, 4, 1.2e-7f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_four_steps),   cmocka_unit_test(test_twenty_steps),
        cmocka_unit_test(test_fifty_steps),  cmocka_unit_test(test_mu),
        cmocka_unit_test(test_static_shift), cmocka_unit_test(test_constant_shift),
        cmocka_unit_test(test_one_step),     cmocka_unit_test(test_always_finite_and_falling),
        cmocka_unit_test(test_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
