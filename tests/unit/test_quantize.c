/* test_quantize.c - making 8-bit and 4-bit forms: what is decoded again is as near as the form allows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/quantize.h"
#include "tensor/weight.h"

enum { N = 4 * INK_AFFINE_GROUP };

/* Decodes what ink_quantize_affine makes of a row, and checks every element against half a step of its group. */
static void check_affine(ink_dtype dtype, const float *x) {
    unsigned char q[N];
    uint16_t scales[N / INK_AFFINE_GROUP], biases[N / INK_AFFINE_GROUP];
    float y[N];
    ink_quantize_affine(dtype, x, N, q, scales, biases);
    ink_weight w = {.dtype = dtype,
                    .data = q,
                    .rows = 1,
                    .cols = N,
                    .scales = scales,
                    .biases = biases,
                    .scale_dtype = INK_BF16,
                    .group = INK_AFFINE_GROUP};
    ink_weight_decode(y, &w, 0, 0, N);
    for (int first = 0; first < N; first += INK_AFFINE_GROUP) {
        float least = x[first], most = x[first];
        for (int i = first; i < first + INK_AFFINE_GROUP; i++) {
            least = fminf(least, x[i]);
            most = fmaxf(most, x[i]);
        }
        float steps = dtype == INK_AFFINE_8 ? 255 : 15, largest = fmaxf(fabsf(least), fabsf(most));
        /* Half a step, and what the scale and the bias lose as bf16. */
        float allowed = 0.52f * (most - least) / steps + 0x1p-7f * largest;
        for (int i = first; i < first + INK_AFFINE_GROUP; i++)
            if (!(fabsf(y[i] - x[i]) <= allowed)) fail_msg("element %d: %g became %g, allowed %g", i, x[i], y[i], allowed);
    }
}

static void test_affine(void **state) {
    (void)state;
    const ink_dtype dtypes[] = {INK_AFFINE_8, INK_AFFINE_4};
    for (int d = 0; d < 2; d++) {
        float x[N];
        uint32_t random = 1;
        for (int i = 0; i < N; i++) {
            random = random * 1664525u + 1013904223u;
            x[i] = ((float)(random >> 8) * 0x1p-24f - 0.5f) * (float)(1 + i / INK_AFFINE_GROUP);
        }
        check_affine(dtypes[d], x);
        for (int i = 0; i < N; i++) x[i] += 3;
        check_affine(dtypes[d], x);
        for (int i = 0; i < N; i++) x[i] = (float)(i % 3 == 0);
        check_affine(dtypes[d], x);
        for (int i = 0; i < N; i++) x[i] = -2.5f;
        check_affine(dtypes[d], x);
        memset(x, 0, sizeof x);
        check_affine(dtypes[d], x);
    }
}

/* Relative L2 of what 4 bits make of numbers of a bell curve, of which the largest of a group are rare. */
static void test_affine_search(void **state) {
    (void)state;
    double difference = 0, plain = 0, norm = 0;
    uint32_t random = 7;
    for (int round = 0; round < 200; round++) {
        unsigned char q[N / 2];
        uint16_t scales[N / INK_AFFINE_GROUP], biases[N / INK_AFFINE_GROUP];
        float x[N], y[N];
        for (int i = 0; i < N; i++) {
            x[i] = -6;
            for (int k = 0; k < 12; k++) {
                random = random * 1664525u + 1013904223u;
                x[i] += (float)(random >> 8) * 0x1p-24f;
            }
        }
        ink_quantize_affine(INK_AFFINE_4, x, N, q, scales, biases);
        ink_weight w;
        ink_quantize_describe(&w, INK_AFFINE_4, 1, N);
        w.data = q;
        w.scales = scales;
        w.biases = biases;
        ink_weight_decode(y, &w, 0, 0, N);
        for (int first = 0; first < N; first += INK_AFFINE_GROUP) {
            float least = x[first], most = x[first];
            for (int i = first; i < first + INK_AFFINE_GROUP; i++) {
                least = fminf(least, x[i]);
                most = fmaxf(most, x[i]);
            }
            float step = (most - least) / 15;
            for (int i = first; i < first + INK_AFFINE_GROUP; i++) {
                double spanning = least + step * rintf((x[i] - least) / step);
                plain += (spanning - x[i]) * (spanning - x[i]);
                difference += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
                norm += (double)x[i] * x[i];
            }
        }
    }
    assert_true(sqrt(difference / norm) < 0.086);
    assert_true(difference < 0.9 * plain);
}

/* Of all values of the type, the nearest; of two that are equally near, the one with an even last bit. */
static void check_f8(float value) {
    uint8_t found = ink_f8_e4m3_from_f32(value);
    double distance = fabs((double)ink_f32_from_f8_e4m3(found) - value);
    for (int b = 0; b < 256; b++) {
        double other = fabs((double)ink_f32_from_f8_e4m3((uint8_t)b) - value);
        if (other < distance || (other == distance && (found & 1) && !(b & 1) && fabsf(value) <= 448))
            fail_msg("%.9g became %.9g, nearer is %.9g", value, ink_f32_from_f8_e4m3(found), ink_f32_from_f8_e4m3((uint8_t)b));
    }
}

static void test_f8_is_nearest(void **state) {
    (void)state;
    for (int b = 0; b < 256; b++) {
        float value = ink_f32_from_f8_e4m3((uint8_t)b), next = ink_f32_from_f8_e4m3((uint8_t)(b + 1));
        if (isnan(value)) continue;
        assert_int_equal(ink_f8_e4m3_from_f32(value), b);
        if (isnan(next) || (b & 0x80) != ((b + 1) & 0x80)) continue;
        float middle = (value + next) / 2;
        check_f8(middle);
        check_f8(nextafterf(middle, value));
        check_f8(nextafterf(middle, next));
    }
    const float beyond[] = {448.1f, 463, 464, 465, 1e30f, INFINITY};
    for (int i = 0; i < 6; i++) {
        assert_true(ink_f32_from_f8_e4m3(ink_f8_e4m3_from_f32(beyond[i])) == 448);
        assert_true(ink_f32_from_f8_e4m3(ink_f8_e4m3_from_f32(-beyond[i])) == -448);
    }
    check_f8(1e-30f);
    assert_true(isnan(ink_f32_from_f8_e4m3(ink_f8_e4m3_from_f32(NAN))));
}

static void test_f8_row(void **state) {
    (void)state;
    float x[37], y, scale;
    unsigned char q[37];
    for (int i = 0; i < 37; i++) x[i] = (float)((i * 29) % 37 - 18) * 0.01f;
    ink_quantize_f8(x, 37, q, &scale);
    for (int i = 0; i < 37; i++) {
        y = ink_f32_from_f8_e4m3(q[i]) * scale;
        assert_true(fabsf(y - x[i]) <= 0x1p-4f * fabsf(x[i]) + 0x1p-10f * scale);
    }
    assert_true(fabsf(448 * scale - 0.18f) <= 1e-6f);
    memset(x, 0, sizeof x);
    ink_quantize_f8(x, 37, q, &scale);
    for (int i = 0; i < 37; i++) assert_true(ink_f32_from_f8_e4m3(q[i]) * scale == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affine),
        cmocka_unit_test(test_affine_search),
        cmocka_unit_test(test_f8_is_nearest),
        cmocka_unit_test(test_f8_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
