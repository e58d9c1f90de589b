/*
 * cuda_device.cu - opening and closing a GPU, its table of ops, its failure and its scratch.
 */
#include "ops/cuda/cuda_state.h"

#include <cstdarg>
#include <cstdio>
#include <new>

extern "C" {
#include "ops/cuda/cuda_module.h"
}

/* Pictures of 1328 x 1328 and the like whole, so that their bits do not depend on bands; 2048 x 2048 in 2.4 GiB of scratch, not 4.5. */
constexpr int64_t DECODE_PIXELS = (int64_t)1 << 21;

/* ---- failures -------------------------------------------------------------------------------------------------------- */

void ink_cuda_fail(ink_cuda *c, const char *format, ...) {
    std::lock_guard<std::mutex> alone(c->failing);
    if (ink_cuda_failed(c)) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->failure, sizeof c->failure, format, arguments);
    va_end(arguments);
    c->failed.store(true, std::memory_order_release);
}

bool ink_cuda_ok(ink_cuda *c, cudaError_t status, const char *what) {
    if (status == cudaSuccess) return true;
    ink_cuda_fail(c, "%s: %s", what, cudaGetErrorString(status));
    return false;
}

bool ink_cuda_ok(ink_cuda *c, cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    ink_cuda_fail(c, "%s: cuBLASLt: %s", what, cublasLtGetStatusString(status));
    return false;
}

/* ---- scratch --------------------------------------------------------------------------------------------------------- */

static void *grow(ink_cuda *c, void **memory, size_t *size, size_t bytes) {
    if (ink_cuda_failed(c)) return nullptr;
    if (bytes <= *size) return *memory;
    if (c->recording) {
        ink_cuda_fail(c, "an op asked for %zu bytes of scratch while its work was recorded", bytes);
        return nullptr;
    }
    /* Some more, so that ops a little larger than the last one do not each grow it. */
    size_t grown = bytes + bytes / 8 + (size_t)1024 * 1024;
    if (*memory) cudaFreeAsync(*memory, c->stream);
    *memory = nullptr;
    *size = 0;
    if (!ink_cuda_ok(c, cudaMallocAsync(memory, grown, c->stream), "scratch of an op")) return nullptr;
    *size = grown;
    return *memory;
}

void *ink_cuda_scratch(ink_cuda *c, size_t bytes) { return grow(c, &c->scratch, &c->scratch_bytes, bytes); }

void *ink_cuda_panel_scratch(ink_cuda *c, size_t bytes) { return grow(c, &c->panel, &c->panel_bytes, bytes); }

/* ---- opening --------------------------------------------------------------------------------------------------------- */

static const ink_ops cuda_ops = {
    ink_cuda_op_linear,
    ink_cuda_op_layernorm_modulate,
    ink_cuda_op_gated_residual_layernorm_modulate,
    ink_cuda_op_rmsnorm,
    ink_cuda_op_residual_rmsnorm,
    ink_cuda_op_rmsnorm_rope,
    ink_cuda_op_rope_half,
    ink_cuda_op_attention,
    ink_cuda_op_silu_mul,
    ink_cuda_op_conv2d,
    ink_cuda_op_rmsnorm_channels,
    ink_cuda_op_upsample2x,
    ink_cuda_op_timestep_embed,
    ink_cuda_op_unpatchify,
    ink_cuda_op_cfg_combine,
    ink_cuda_op_euler_step,
    ink_cuda_op_copy,
};

static void close_lane(ink_cuda_lane *lane) {
    if (!lane->stream) return;
    if (lane->panel) cudaFreeAsync(lane->panel, lane->stream);
    if (lane->scratch) cudaFreeAsync(lane->scratch, lane->stream);
    if (lane->blas_workspace) cudaFreeAsync(lane->blas_workspace, lane->stream);
    if (lane->reached) cudaEventDestroy(lane->reached);
    cudaStreamSynchronize(lane->stream);
    cudaStreamDestroy(lane->stream);
}

static void close_state(ink_cuda *c) {
    cudaSetDevice(c->ordinal);
    if (c->other.stream) cudaStreamSynchronize(c->other.stream);
    if (c->stream) cudaStreamSynchronize(c->stream);
    ink_cuda_slots_close(c);
    ink_cuda_cudnn_close(c);
    ink_cuda_linear_close(c);
    ink_cuda_staging_close(c);
    close_lane(&c->other);
    close_lane(c);
    if (c->blas) cublasLtDestroy(c->blas);
    delete c;
}

static void close_device(ink_device *device) {
    close_state(ink_cuda_of(device));
    *device = ink_device{};
}

/* Memory that is released stays with the process, so that the next picture does not ask the driver for it again. */
static bool keep_released_memory(ink_cuda *c) {
    cudaMemPool_t pool;
    uint64_t all = UINT64_MAX;
    return ink_cuda_ok(c, cudaDeviceGetDefaultMemPool(&pool, c->ordinal), "memory pool") &&
           ink_cuda_ok(c, cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "memory pool");
}

static bool open_lane(ink_cuda *c, ink_cuda_lane *lane) {
    return ink_cuda_ok(c, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking), "stream") &&
           ink_cuda_ok(c, cudaEventCreateWithFlags(&lane->reached, cudaEventDisableTiming), "event") &&
           ink_cuda_ok(c, cudaMallocAsync(&lane->blas_workspace, c->blas_workspace_bytes, lane->stream), "workspace of products") &&
           ink_cuda_ok(c, cudaStreamSynchronize(lane->stream), "stream");
}

static bool open_state(ink_cuda *c) {
    if (!ink_cuda_ok(c, cudaSetDevice(c->ordinal), "device") || !keep_released_memory(c)) return false;
    cudaDeviceGetAttribute(&c->n_sms, cudaDevAttrMultiProcessorCount, c->ordinal);
    cudaDeviceGetAttribute(&c->major, cudaDevAttrComputeCapabilityMajor, c->ordinal);
    cudaDeviceGetAttribute(&c->minor, cudaDevAttrComputeCapabilityMinor, c->ordinal);
    c->blas_workspace_bytes = (size_t)64 << 20;
    return open_lane(c, c) && open_lane(c, &c->other) && ink_cuda_ok(c, cublasLtCreate(&c->blas), "cuBLASLt") &&
           ink_cuda_staging_open(c) && ink_cuda_slots_open(c) && ink_cuda_linear_open(c);
}

/* Static storage for a failure that is still in a state about to go. */
static const char *reason_of(const ink_cuda *c) {
    (void)c;
    cudaError_t last = cudaGetLastError();
    return last != cudaSuccess ? cudaGetErrorString(last) : "the GPU or its libraries cannot be used";
}

extern "C" __attribute__((visibility("default"))) const char *ink_cuda_module_open(ink_device *device, int ordinal,
                                                                                     int interface) {
    if (interface != INK_DEVICE_INTERFACE) return "the CUDA module belongs to another version";
    int n = 0, major = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status == cudaErrorInsufficientDriver) return "there is no NVIDIA driver, or an older one than this build needs";
    if (status != cudaSuccess) return cudaGetErrorString(status);
    if (n == 0) return "there is no GPU";
    if (ordinal < 0 || ordinal >= n) return "there is no GPU of that number";
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal);
    if (major < 8) return "the GPU is older than compute capability 8.0";
    ink_cuda *c = new (std::nothrow) ink_cuda{};
    if (!c) return "no memory";
    c->ordinal = ordinal;
    if (!open_state(c)) {
        const char *why = reason_of(c);
        close_state(c);
        return why;
    }
    *device = ink_device{};
    device->tier = "cuda";
    device->ops = &cuda_ops;
    device->kernels = c;
    device->rounds_rows = true;
    device->memory = &ink_cuda_memory;
    device->rounds_scratch = true;
    device->sides_together = true;
    device->decode_pixels = DECODE_PIXELS;
    device->close = close_device;
    return nullptr;
}
