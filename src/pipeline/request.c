/* request.c - defaults and limits of a request. */
#include "pipeline/request.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "pipeline/model.h"

enum { DEFAULT_SMS = 132, DEFAULT_THREADS_PER_SM = 2048, MIN_THREADS_PER_SM = 256 };

void ink_request_init(ink_request *request, const ink_model *model) {
    const ink_default_config *defaults = &model->config.defaults;
    *request = (ink_request){
        .negative_prompt = defaults->negative_prompt,
        .width = defaults->width,
        .height = defaults->height,
        .steps = defaults->steps,
        .guidance = defaults->guidance,
        .cuda_sms = DEFAULT_SMS,
        .cuda_threads_per_sm = DEFAULT_THREADS_PER_SM,
    };
}

static ink_status check_side(const char *what, int64_t side, int64_t multiple, ink_error *error) {
    if (side < 1 || side > INK_MAX_SIDE)
        return ink_fail(error, INK_ERROR_ARGUMENT, "%s %" PRId64 " is out of range: expected %" PRId64 " to %d pixels", what, side,
                        multiple, INK_MAX_SIDE / (int)multiple * (int)multiple);
    if (side % multiple == 0) return INK_OK;
    int64_t below = side / multiple * multiple;
    if (below == 0)
        return ink_fail(error, INK_ERROR_ARGUMENT, "%s %" PRId64 " is no multiple of %" PRId64 ": the nearest is %" PRId64, what,
                        side, multiple, multiple);
    return ink_fail(error, INK_ERROR_ARGUMENT,
                    "%s %" PRId64 " is no multiple of %" PRId64 ": the nearest are %" PRId64 " and %" PRId64, what, side, multiple,
                    below, below + multiple);
}

ink_status ink_request_check(const ink_request *request, const ink_model *model, ink_error *error) {
    ink_error_clear(error);
    int64_t multiple = model->config.vae.scale * model->config.mmdit.patch_size;
    if (!request->prompt) return ink_fail(error, INK_ERROR_ARGUMENT, "the request has no prompt");
    ink_status status = check_side("width", request->width, multiple, error);
    if (status == INK_OK) status = check_side("height", request->height, multiple, error);
    if (status != INK_OK) return status;
    if (request->steps < 1 || request->steps > INK_MAX_STEPS)
        return ink_fail(error, INK_ERROR_ARGUMENT, "%" PRId64 " steps are out of range: expected 1 to %d", request->steps,
                        INK_MAX_STEPS);
    if (!isfinite(request->guidance) || fabs(request->guidance) > 1000)
        return ink_fail(error, INK_ERROR_ARGUMENT, "guidance %g is out of range: expected a number up to 1000; 1 means none",
                        request->guidance);
    if (request->rng < INK_RNG_TORCH_CPU || request->rng > INK_RNG_TORCH_CUDA)
        return ink_fail(error, INK_ERROR_ARGUMENT, "generator %d is none of those in inkstone.h", (int)request->rng);
    if (request->noise_dtype < INK_NOISE_AUTO || request->noise_dtype > INK_NOISE_BF16)
        return ink_fail(error, INK_ERROR_ARGUMENT, "noise type %d is none of those in inkstone.h", (int)request->noise_dtype);
    if (request->cuda_sms < 1 || request->cuda_sms > 4096)
        return ink_fail(error, INK_ERROR_ARGUMENT, "%" PRId64 " multiprocessors are out of range: expected 1 to 4096",
                        request->cuda_sms);
    if (request->cuda_threads_per_sm < MIN_THREADS_PER_SM || request->cuda_threads_per_sm > 65536)
        return ink_fail(error, INK_ERROR_ARGUMENT,
                        "%" PRId64 " threads on a multiprocessor are out of range: expected 256 to 65536",
                        request->cuda_threads_per_sm);
    return INK_OK;
}

bool ink_request_guided(const ink_request *request) { return request->guidance > 1.0 && request->negative_prompt; }

ink_request ink_request_resolved(const ink_request *request, const ink_model *model) {
    ink_request resolved = *request;
    if (resolved.noise_dtype == INK_NOISE_AUTO)
        resolved.noise_dtype = model->precision == INK_PRECISION_F32 ? INK_NOISE_F32 : INK_NOISE_BF16;
    return resolved;
}

void ink_request_get_rng(const ink_request *request, char *text, size_t size) {
    if (request->rng == INK_RNG_TORCH_CPU)
        snprintf(text, size, "torch-cpu");
    else if (request->rng == INK_RNG_TORCH_CPU_2_13)
        snprintf(text, size, "torch-cpu-2.13");
    else if (request->cuda_threads_per_sm == DEFAULT_THREADS_PER_SM)
        snprintf(text, size, "torch-cuda:%" PRId64, request->cuda_sms);
    else
        snprintf(text, size, "torch-cuda:%" PRId64 "x%" PRId64, request->cuda_sms, request->cuda_threads_per_sm);
}

ink_status ink_request_set_rng(ink_request *request, const char *text, ink_error *error) {
    int64_t sms = DEFAULT_SMS, threads = DEFAULT_THREADS_PER_SM;
    int end = 0;
    ink_error_clear(error);
    if (strcmp(text, "torch-cpu") == 0) {
        request->rng = INK_RNG_TORCH_CPU;
        return INK_OK;
    }
    if (strcmp(text, "torch-cpu-2.13") == 0) {
        request->rng = INK_RNG_TORCH_CPU_2_13;
        return INK_OK;
    }
    bool cuda = strcmp(text, "torch-cuda") == 0;
    if (!cuda) cuda = sscanf(text, "torch-cuda:%4" SCNd64 "%n", &sms, &end) == 1 && text[end] == '\0';
    if (!cuda) cuda = sscanf(text, "torch-cuda:%4" SCNd64 "x%5" SCNd64 "%n", &sms, &threads, &end) == 2 && text[end] == '\0';
    /* scanf would skip white space and read a sign. */
    if (!cuda || strpbrk(text, "+ \t\n\v\f\r") || sms < 1 || threads < MIN_THREADS_PER_SM)
        return ink_fail(error, INK_ERROR_ARGUMENT,
                        "generator \"%.60s\" is unknown: expected torch-cpu, torch-cpu-2.13, torch-cuda or "
                        "torch-cuda:SMs[xTHREADS]",
                        text);
    request->rng = INK_RNG_TORCH_CUDA;
    request->cuda_sms = sms;
    request->cuda_threads_per_sm = threads;
    return INK_OK;
}
