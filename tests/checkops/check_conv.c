/* check_conv.c - the ops on pixels: conv2d and upsample2x. */
#include <math.h>

#include "checkops.h"

typedef struct conv_case {
    ink_tensor dst, x, bias, residual;
    ink_weight w;
    bool adds;
    bool rounded; /* x are bf16 numbers */
    ink_conv_shape shape;
} conv_case;

static void call(const ink_device *device, const void *arguments) {
    const conv_case *a = arguments;
    ink_conv_shape shape = a->shape;
    shape.packed = room_for_packing(device, ink_packed_bytes(a->dst.rows, shape.kernel * shape.kernel, a->x.cols));
    device->ops->conv2d(device, a->dst, a->x, &a->w, a->bias, a->adds ? &a->residual : NULL, shape);
}

/* As for linear, over the taps that fall on the picture. */
static const double *conv_bound(checker *c, const conv_case *a) {
    const ink_conv_shape *s = &a->shape;
    /* A device with memory of its own takes f32 pixels in two parts. */
    bool rounds = rounds_rows(c, a->w.dtype);
    operand_rounding rounding = !rounds ? KEPT : c->device.memory && !(c->narrow & NARROW_X) ? TO_TWO_BF16 : TO_BF16;
    double *bound = take_bounds(c, a->dst.rows * a->dst.cols);
    int64_t width = ink_conv_out_width(*s);
    for (int64_t pixel = 0; pixel < a->dst.rows; pixel++) {
        for (int64_t o = 0; o < a->dst.cols; o++) {
            double sum = a->bias.data[o], magnitude = 0, operands = 0;
            for (int64_t tap = 0; tap < s->kernel * s->kernel; tap++) {
                int64_t y = pixel / width * s->stride + tap / s->kernel - s->pad_above;
                int64_t x = pixel % width * s->stride + tap % s->kernel - s->pad_left;
                if (y < 0 || y >= s->height || x < 0 || x >= s->width) continue;
                for (int64_t i = 0; i < a->x.cols; i++) {
                    double left = ink_row(a->x, y * s->width + x)[i], right = weight_at(&a->w, o, tap * a->x.cols + i);
                    sum += left * right;
                    magnitude += fabs(left * right);
                    operands += fabs(left) + fabs(right);
                }
            }
            double residual = a->adds ? fabs(ink_row(a->residual, pixel)[o]) : 0;
            double error = product_error(rounding, a->w.dtype, a->w.cols, magnitude, operands, a->rounded) +
                           ROUNDING * sum_factor(a->w.cols) * fabs(a->bias.data[o]);
            /* What is added is first put where the result goes. */
            if (c->narrow & NARROW_DST && a->adds) error += ONE_TO_BF16 * residual;
            bound[pixel * a->dst.cols + o] = error + 2 * ROUNDING * (fabs(sum) + residual) + 4 * SMALLEST;
        }
    }
    return bound;
}

typedef enum residual { NO_RESIDUAL, RESIDUAL, RESIDUAL_IS_DST, N_RESIDUALS } residual;

static void check_shape(checker *c, ink_conv_shape s, int64_t in, int64_t out, ink_dtype dtype, fill kind, residual added) {
    static const char *const residuals[] = {"", ", residual", ", residual is dst"};
    begin_case(c, "%lld x %lld, channels %lld to %lld, kernel %lld, stride %lld, padding %lld %lld %lld %lld, w %s, %s%s",
               (long long)s.height, (long long)s.width, (long long)in, (long long)out, (long long)s.kernel, (long long)s.stride,
               (long long)s.pad_above, (long long)s.pad_below, (long long)s.pad_left, (long long)s.pad_right, ink_dtype_name(dtype),
               fill_name(kind), residuals[added]);
    int64_t pixels = ink_conv_out_height(s) * ink_conv_out_width(s);
    bool exact = kind == INTEGERS || kind == ZEROS;
    fill others = exact ? kind : NORMAL;
    conv_case a = {.x = take_for(c, NARROW_X, s.height * s.width, in, kind, 1),
                   .w = take_weight(c, dtype, out, s.kernel * s.kernel * in, others, exact ? 1 : 0.1),
                   .bias = take_for(c, NARROW_VECTORS, 1, out, others, 1),
                   .adds = added != NO_RESIDUAL,
                   .shape = s};
    a.residual = take_for(c, NARROW_DST, pixels, out, others, 1);
    a.dst = added == RESIDUAL_IS_DST ? a.residual : take_blank(c, pixels, out);
    if (rounds_rows(c, dtype) && (c->narrow & NARROW_X || random_below(c, 2))) {
        a.rounded = true;
        round_rows(a.x);
    }
    result r = {a.dst, exact ? NULL : conv_bound(c, &a)};
    check_call(c, call, &a, &r, 1);
}

static void check_both(checker *c, ink_conv_shape s, int64_t in, int64_t out) {
    residual added = (residual)random_below(c, N_RESIDUALS);
    bool bf16 = random_below(c, 2);
    check_shape(c, s, in, out, bf16 ? INK_BF16 : INK_F32, INTEGERS, added);
    check_shape(c, s, in, out, bf16 ? INK_F32 : INK_BF16, NORMAL, added);
}

void check_conv2d(checker *c) {
    /* kernel, stride, padding above, below, left and right: what the VAE has, whole and in bands, and its neighbours */
    static const int64_t kinds[][6] = {{1, 1, 0, 0, 0, 0}, {3, 1, 1, 1, 1, 1}, {3, 1, 1, 0, 1, 1}, {3, 1, 0, 1, 1, 1},
                                       {3, 1, 0, 0, 1, 1}, {3, 2, 0, 1, 0, 1}, {3, 2, 1, 0, 1, 0}, {3, 1, 0, 2, 0, 2},
                                       {3, 2, 1, 1, 1, 1}, {2, 2, 0, 0, 0, 0}, {5, 1, 2, 2, 2, 2}, {1, 2, 0, 0, 0, 0},
                                       {3, 1, 2, 0, 2, 0}, {3, 2, 1, 2, 0, 1}};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int64_t n = 1; n <= 9; n++) {
            const int64_t *kind = kinds[k];
            ink_conv_shape s = {n, 10 - n, kind[0], kind[1], kind[2], kind[3], kind[4], kind[5], NULL};
            if (s.height + s.pad_above + s.pad_below < s.kernel || s.width + s.pad_left + s.pad_right < s.kernel) continue;
            check_both(c, s, 1 + random_below(c, 20), 1 + random_below(c, 20));
        }
    }
    const ink_conv_shape same = {7, 5, 3, 1, 1, 1, 1, 1, NULL}, point = {7, 5, 1, 1, 0, 0, 0, 0, NULL},
                         down = {8, 6, 3, 2, 0, 1, 0, 1, NULL};
    for (int64_t n = 1; n <= 40; n++) {
        check_both(c, same, n, 3);
        check_both(c, same, 3, n);
        check_both(c, point, n, 41 - n);
    }
    static const int64_t channels[][2] = {{16, 384}, {3, 96}, {96, 3}, {384, 17}, {96, 96}, {192, 40}, {257, 9}};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        check_both(c, same, channels[i][0], channels[i][1]);
        check_both(c, point, channels[i][0], channels[i][1]);
        check_both(c, down, channels[i][0], channels[i][1]);
    }
    /* More output pixels than a block of rows. */
    check_both(c, (ink_conv_shape){17, 23, 3, 1, 1, 1, 1, 1, NULL}, 16, 70);
    check_both(c, (ink_conv_shape){1, 200, 3, 1, 1, 1, 1, 1, NULL}, 5, 7);
    if (c->real_shapes) {
        check_both(c, (ink_conv_shape){32, 32, 3, 1, 1, 1, 1, 1, NULL}, 96, 96);
        check_both(c, (ink_conv_shape){128, 96, 3, 1, 1, 1, 1, 1, NULL}, 96, 3);
        check_both(c, (ink_conv_shape){16, 16, 3, 1, 1, 1, 1, 1, NULL}, 192, 96);
    }
    for (int kind = 0; kind < N_FILLS; kind++)
        for (int added = 0; added < N_RESIDUALS; added++) check_shape(c, same, 12, 10, INK_F32, (fill)kind, (residual)added);
}

/* ---- upsample2x ------------------------------------------------------------------------------------------------------ */

typedef struct upsample_case {
    ink_tensor dst, x;
    int64_t height, width;
} upsample_case;

static void call_upsample(const ink_device *device, const void *arguments) {
    const upsample_case *a = arguments;
    device->ops->upsample2x(device, a->dst, a->x, a->height, a->width);
}

void check_upsample2x(checker *c) {
    static const int64_t shapes[][3] = {{1, 1, 1}, {1, 9, 3}, {9, 1, 4}, {5, 7, 16}, {7, 5, 17}, {16, 12, 96}, {2, 3, 385}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t height = shapes[i][0], width = shapes[i][1], channels = shapes[i][2];
        begin_case(c, "%lld x %lld pixels of %lld", (long long)height, (long long)width, (long long)channels);
        upsample_case a = {take_blank(c, 4 * height * width, channels), take_for(c, NARROW_X, height * width, channels, NORMAL, 1),
                           height, width};
        result r = {a.dst, NULL};
        check_call(c, call_upsample, &a, &r, 1);
    }
}
