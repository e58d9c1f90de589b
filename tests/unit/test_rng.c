/* test_rng.c - the noise against what torch drew: recorded tensors (tests/golden/rng.safetensors), and values of CUDA runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/rng.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"

enum { LATENTS = 262144, CLAMPED = 440896 };

static float *numbers(int64_t n) {
    float *x = ink_alloc_array((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

static void assert_close(const float *x, const float *expected, int64_t n, float tolerance) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i] - expected[i]) <= tolerance))
            fail_msg("element %lld is %.9g, expected %.9g", (long long)i, x[i], expected[i]);
}

/* Names: cpu.f32.seed42.n16. bf16 may fall on the other side of a rounding boundary once in a while. */
static void replay(const ink_tensor_info *info) {
    char type[8];
    unsigned long long seed;
    long long n;
    if (sscanf(info->name, "cpu.%7[^.].seed%llu.n%lld", type, &seed, &n) != 3) fail_msg("odd name %s", info->name);
    assert_int_equal(n, info->n_elements);
    float *expected = numbers(n), *drawn = numbers(n);
    ink_convert(expected, INK_F32, info->data, info->dtype, n);
    if (strcmp(type, "f32") == 0) {
        ink_randn_torch_cpu_f32(drawn, n, seed);
        assert_close(drawn, expected, n, 2e-6f);
    } else {
        assert_string_equal(type, "bf16");
        ink_randn_torch_cpu_bf16(drawn, n, seed);
        int64_t n_off = 0;
        for (int64_t i = 0; i < n; i++) {
            n_off += drawn[i] != expected[i];
            assert_true(fabsf(drawn[i] - expected[i]) <= 0x1p-7f * fabsf(expected[i]));
        }
        assert_true(n_off <= 1 + n / 10000);
    }
    ink_free(drawn);
    ink_free(expected);
}

static void test_recorded(void **state) {
    (void)state;
    ink_error error;
    ink_safetensors st;
    if (ink_safetensors_open(&st, INK_TEST_SOURCE_DIR "/tests/golden/rng.safetensors", &error) != INK_OK)
        fail_msg("%s", error.message);
    assert_true(st.n_tensors > 0);
    for (size_t i = 0; i < st.n_tensors; i++) replay(&st.tensors[i]);
    ink_safetensors_close(&st);
}

static void test_latents_of_a_large_picture(void **state) {
    (void)state;
    static const float first[] = {1.926915f, 1.487284f, 0.900717f, -2.105521f}, last[] = {-2.329417f};
    float *x = numbers(LATENTS);
    ink_randn_torch_cpu_f32(x, LATENTS, 42);
    assert_close(x, first, 4, 2e-6f);
    assert_close(x + LATENTS - 1, last, 1, 2e-6f);
    ink_free(x);
}

static void test_bf16_is_the_rounded_f32(void **state) {
    (void)state;
    float *x = numbers(4096), *y = numbers(4096);
    ink_randn_torch_cpu_f32(x, 4096, 7);
    ink_randn_torch_cpu_bf16(y, 4096, 7);
    for (int i = 0; i < 4096; i++) assert_true(y[i] == ink_round_to_bf16(x[i]));
    ink_free(y);
    ink_free(x);
}

/* torch 2.11, seed 42. */
static void test_old_bf16(void **state) {
    (void)state;
    static const float expected[16] = {-0.808594f, -1.53125f, 0.40625f,   0.171875f,  -0.24707f, 0.204102f, -0.878906f, -0.386719f,
                                       0.601562f,  0.267578f, -0.851562f, -0.289062f, 1.0f,      -0.78125f, 1.375f,     0.118652f};
    float x[16];
    ink_randn_torch_2_11_cpu_bf16(x, 16, 42);
    assert_close(x, expected, 16, 1e-6f);
}

/* Only 32 bits of the seed count on the CPU, all 64 on the GPU. */
static void test_seed_width(void **state) {
    (void)state;
    float x[20], y[20];
    ink_randn_torch_cpu_f32(x, 20, 5);
    ink_randn_torch_cpu_f32(y, 20, UINT64_C(0x100000005));
    assert_memory_equal(x, y, sizeof x);
    ink_randn_torch_cuda_f32(x, 20, 5, 132, 2048);
    ink_randn_torch_cuda_f32(y, 20, UINT64_C(0x100000005), 132, 2048);
    assert_memory_not_equal(x, y, sizeof x);
}

static void test_cuda(void **state) {
    (void)state;
    static const float seed_0[] = {-0.9247f, -0.4253f, -2.6438f, 0.1452f, -0.1209f, -0.5797f, -0.6229f, -0.3284f};
    static const float seed_42[] = {0.1940f, 2.1614f, -0.1721f, 0.8491f, -1.9244f, 0.6530f, -0.6494f, -0.8175f, 0.5280f, -1.2753f};
    float x[10];
    ink_randn_torch_cuda_f32(x, 8, 0, 132, 2048);
    assert_close(x, seed_0, 8, 6e-5f);
    ink_randn_torch_cuda_f32(x, 10, 42, 132, 2048);
    assert_close(x, seed_42, 10, 6e-5f);
}

/* An H200, where the 440896 latents of 1328 x 1328 pixels are more than its 270336 threads. */
static void test_cuda_with_fewer_threads_than_elements(void **state) {
    (void)state;
    static const float from_thread_0[] = {-0.970190f, 2.127691f, -1.345707f, -2.387779f}, last[] = {1.309427f};
    float *x = numbers(CLAMPED);
    ink_randn_torch_cuda_f32(x, CLAMPED, 42, 132, 2048);
    assert_close(x + 270336, from_thread_0, 4, 4e-6f);
    assert_close(x + CLAMPED - 1, last, 1, 4e-6f);
    ink_free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_latents_of_a_large_picture),
        cmocka_unit_test(test_bf16_is_the_rounded_f32),
        cmocka_unit_test(test_old_bf16),
        cmocka_unit_test(test_seed_width),
        cmocka_unit_test(test_cuda),
        cmocka_unit_test(test_cuda_with_fewer_threads_than_elements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
