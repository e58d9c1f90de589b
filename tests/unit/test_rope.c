/* test_rope.c - positions and angles: which token stands where, on which axis, with which frequency. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model/rope.h"

static const int64_t published_axes[3] = {16, 56, 56};

typedef struct tables {
    ink_tensor cos, sin;
} tables;

static tables make_tables(int64_t rows, int64_t cols) {
    tables t = {ink_view(malloc((size_t)(rows * cols) * sizeof(float)), rows, cols),
                ink_view(malloc((size_t)(rows * cols) * sizeof(float)), rows, cols)};
    assert_non_null(t.cos.data);
    assert_non_null(t.sin.data);
    return t;
}

static void release(tables t) {
    free(t.cos.data);
    free(t.sin.data);
}

/* The angle is the f32 product of position and frequency, whose exponent is rounded too: some 4e-7 of the angle. */
static void assert_angle(const tables *t, int64_t row, int64_t col, int64_t position, double frequency) {
    double angle = (double)((float)position * (float)frequency);
    double tolerance = 1e-7 + 4e-7 * fabs(angle);
    double cosine = ink_row(t->cos, row)[col], sine = ink_row(t->sin, row)[col];
    if (!(fabs(cosine - cos(angle)) <= tolerance && fabs(sine - sin(angle)) <= tolerance))
        fail_msg("row %d, column %d: (%.9g, %.9g), expected position %d with frequency %.9g: (%.9g, %.9g)", (int)row, (int)col,
                 cosine, sine, (int)position, frequency, cos(angle), sin(angle));
}

/* Column k of an axis of `dim` has the frequency 10000^(-2k / dim). */
static void assert_axis(const tables *t, int64_t row, int64_t first_col, int64_t dim, int64_t position) {
    for (int64_t k = 0; k < dim / 2; k++)
        assert_angle(t, row, first_col + k, position, pow(10000.0, -2.0 * (double)k / (double)dim));
}

static void assert_token(const tables *t, const int64_t axes[3], int64_t row, int64_t frame, int64_t y, int64_t x) {
    assert_axis(t, row, 0, axes[0], frame);
    assert_axis(t, row, axes[0] / 2, axes[1], y);
    assert_axis(t, row, axes[0] / 2 + axes[1] / 2, axes[2], x);
}

/* 64 rows are -32..31, 83 are -42..40, one is -1; the text begins at the larger half. */
static void test_joint(void **state) {
    (void)state;
    static const struct {
        int64_t height, width, top, left, first_text;
    } cases[] = {{64, 64, -32, -32, 32}, {83, 5, -42, -3, 41}, {5, 83, -3, -42, 41},
                 {1, 1, -1, -1, 0},      {1, 2, -1, -1, 1},    {7, 4, -4, -2, 3}};
    enum { N_TXT = 9 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t h = cases[i].height, w = cases[i].width;
        tables t = make_tables(N_TXT + h * w, 64);
        ink_rope_joint(t.cos, t.sin, published_axes, (const int64_t[]){N_TXT}, 1, h, w);
        for (int64_t j = 0; j < N_TXT; j++) {
            int64_t p = cases[i].first_text + j;
            assert_token(&t, published_axes, j, p, p, p);
        }
        const int64_t ys[] = {0, h / 2, h - 1}, xs[] = {0, w / 2, w - 1};
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < 3; b++)
                assert_token(&t, published_axes, N_TXT + ys[a] * w + xs[b], 0, cases[i].top + ys[a], cases[i].left + xs[b]);
        release(t);
    }
}

/* Axes of other lengths, into columns of a wider buffer: nothing else of it is touched. */
static void test_joint_strided(void **state) {
    (void)state;
    static const int64_t axes[3] = {4, 6, 2};
    enum { N_TXT = 2, H = 3, W = 2, COLS = 6, STRIDE = 9 };
    tables t = make_tables(N_TXT + H * W, STRIDE);
    for (int64_t i = 0; i < t.cos.rows * STRIDE; i++) t.cos.data[i] = t.sin.data[i] = 7;
    tables inner = {ink_cols(t.cos, 1, COLS), ink_cols(t.sin, 1, COLS)};
    ink_rope_joint(inner.cos, inner.sin, axes, (const int64_t[]){N_TXT}, 1, H, W);
    for (int64_t i = 0; i < N_TXT; i++) assert_token(&inner, axes, i, 1 + i, 1 + i, 1 + i);
    for (int64_t i = 0; i < H * W; i++) assert_token(&inner, axes, N_TXT + i, 0, i / W - 2, i % W - 1);
    for (int64_t i = 0; i < t.cos.rows; i++)
        for (int64_t j = 0; j < STRIDE; j++)
            if (j < 1 || j > COLS) assert_true(ink_row(t.cos, i)[j] == 7 && ink_row(t.sin, i)[j] == 7);
    release(t);
}

/* Two texts, then two pictures: each token has the angles that it has where its side is alone. */
static void test_two_sides(void **state) {
    (void)state;
    enum { H = 3, W = 2, N_IMG = H * W };
    static const int64_t n_txt[2] = {4, 7};
    tables both = make_tables(4 + 7 + 2 * N_IMG, 64);
    ink_rope_joint(both.cos, both.sin, published_axes, n_txt, 2, H, W);
    for (int64_t side = 0, first_txt = 0; side < 2; first_txt += n_txt[side++]) {
        tables alone = make_tables(n_txt[side] + N_IMG, 64);
        ink_rope_joint(alone.cos, alone.sin, published_axes, &n_txt[side], 1, H, W);
        for (int64_t i = 0; i < alone.cos.rows; i++) {
            int64_t row = i < n_txt[side] ? first_txt + i : 4 + 7 + side * N_IMG + i - n_txt[side];
            assert_memory_equal(ink_row(both.cos, row), ink_row(alone.cos, i), 64 * sizeof(float));
            assert_memory_equal(ink_row(both.sin, row), ink_row(alone.sin, i), 64 * sizeof(float));
        }
        release(alone);
    }
    release(both);
}

static void test_text(void **state) {
    (void)state;
    enum { N = 546 };
    tables t = make_tables(N, 64);
    ink_rope_text(t.cos, t.sin, 1e6);
    for (int64_t i = 0; i < N; i += 5)
        for (int64_t j = 0; j < 64; j++) assert_angle(&t, i, j, i, pow(1e6, -2.0 * (double)j / 128.0));
    for (int64_t j = 0; j < 64; j++) assert_true(t.cos.data[j] == 1.0f && t.sin.data[j] == 0.0f);
    release(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joint),
        cmocka_unit_test(test_joint_strided),
        cmocka_unit_test(test_two_sides),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
