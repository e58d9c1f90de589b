/*
 * cuda_conv.cu - conv2d as products: the pixels under the kernel, of some rows of the result at a time, side by side in a panel,
 * which `linear` multiplies by the weight. The panel costs a pass over memory, which products of these sizes hide.
 */
#include "ops/cuda/cuda_state.h"

#include <algorithm>

constexpr size_t PANEL_BYTES = (size_t)512 << 20;

/* One element of VECTOR numbers a thread; in: channels / VECTOR. */
template <typename V>
static __global__ void gather_kernel(V *panel, const V *x, int64_t stride, int64_t first, int64_t n_rows, int64_t channels,
                                     int64_t out_width, ink_conv_shape s) {
    const int64_t taps = s.kernel * s.kernel, per_row = taps * channels, total = n_rows * per_row;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t row = i / per_row, rest = i - row * per_row, tap = rest / channels, channel = rest - tap * channels;
        const int64_t pixel = first + row, oy = pixel / out_width, ox = pixel - oy * out_width;
        const int64_t y = oy * s.stride - s.pad_above + tap / s.kernel, x_pos = ox * s.stride - s.pad_left + tap % s.kernel;
        const bool inside = y >= 0 && y < s.height && x_pos >= 0 && x_pos < s.width;
        panel[i] = inside ? x[(y * s.width + x_pos) * stride + channel] : V{};
    }
}

template <typename V, typename T>
static void launch_gather(ink_cuda *c, void *panel, ink_tensor x, int64_t first, int64_t n_rows, int64_t out_width,
                          ink_conv_shape s) {
    constexpr int64_t width = (int64_t)(sizeof(V) / sizeof(T));
    const int64_t total = n_rows * s.kernel * s.kernel * x.cols / width, threads = 256;
    const unsigned blocks = (unsigned)std::min<int64_t>((total + threads - 1) / threads, (int64_t)1 << 20);
    gather_kernel<V><<<blocks, threads, 0, c->stream>>>((V *)panel, (const V *)x.data, x.stride / width, first, n_rows,
                                                        x.cols / width, out_width, s);
    ink_cuda_launched(c, "conv2d");
}

static void gather(ink_cuda *c, void *panel, ink_tensor x, int64_t first, int64_t n_rows, int64_t out_width, ink_conv_shape s) {
    const int64_t size = x.type == INK_BF16 ? 2 : 4;
    const bool aligned = (uintptr_t)x.data % 16 == 0 && x.stride * size % 16 == 0 && x.cols * size % 16 == 0;
    if (aligned && x.type == INK_BF16)
        launch_gather<uint4, __nv_bfloat16>(c, panel, x, first, n_rows, out_width, s);
    else if (aligned)
        launch_gather<uint4, float>(c, panel, x, first, n_rows, out_width, s);
    else if (x.type == INK_BF16)
        launch_gather<uint16_t, __nv_bfloat16>(c, panel, x, first, n_rows, out_width, s);
    else
        launch_gather<float, float>(c, panel, x, first, n_rows, out_width, s);
}

void ink_cuda_op_conv2d(const ink_device *device, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                        const ink_tensor *residual, ink_conv_shape shape) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    const int64_t size = x.type == INK_BF16 ? 2 : 4, depth = shape.kernel * shape.kernel * x.cols;
    const int64_t most = std::clamp<int64_t>((int64_t)PANEL_BYTES / (depth * size), 1, dst.rows);
    void *panel = ink_cuda_panel_scratch(c, (size_t)(most * depth * size));
    if (!panel) return;
    if (residual && residual->data != dst.data) ink_cuda_convert(c, dst, *residual);
    ink_linear_epilogue e = {};
    e.bias = &bias;
    e.add_to_dst = residual != nullptr;
    e.may_round = x.type == INK_BF16;
    for (int64_t first = 0; first < dst.rows && !ink_cuda_failed(c); first += most) {
        const int64_t n = std::min(most, dst.rows - first);
        gather(c, panel, x, first, n, ink_conv_out_width(shape), shape);
        const ink_tensor rows = {(float *)panel, n, depth, depth, x.type};
        ink_cuda_op_linear(device, ink_rows(dst, first, n), rows, w, e);
    }
}
