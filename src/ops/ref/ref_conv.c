/* ref_conv.c - definition of the ops on pixels. */
#include "ops/ref/ref_ops.h"

void ink_ref_conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                    const ink_tensor *residual, ink_conv_shape s) {
    (void)d;
    int64_t out_width = ink_conv_out_width(s);
    for (int64_t pixel = 0; pixel < dst.rows; pixel++) {
        int64_t top = pixel / out_width * s.stride - s.pad_above;
        int64_t left = pixel % out_width * s.stride - s.pad_left;
        for (int64_t o = 0; o < dst.cols; o++) {
            double v = bias.data[o];
            for (int64_t ky = 0; ky < s.kernel; ky++) {
                for (int64_t kx = 0; kx < s.kernel; kx++) {
                    int64_t sy = top + ky, sx = left + kx;
                    if (sy < 0 || sy >= s.height || sx < 0 || sx >= s.width) continue;
                    const float *source = ink_row(x, sy * s.width + sx);
                    for (int64_t c = 0; c < x.cols; c++)
                        v += source[c] * ink_ref_weight_at(w, o, (ky * s.kernel + kx) * x.cols + c);
                }
            }
            if (residual) v += ink_row(*residual, pixel)[o];
            ink_row(dst, pixel)[o] = (float)v;
        }
    }
}

void ink_ref_upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    (void)d;
    for (int64_t py = 0; py < 2 * height; py++)
        for (int64_t px = 0; px < 2 * width; px++)
            for (int64_t c = 0; c < x.cols; c++) ink_row(dst, py * 2 * width + px)[c] = ink_row(x, py / 2 * width + px / 2)[c];
}
