/* request.c - defaults and limits of a request. */
#include "pipeline/request.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "pipeline/model.h"

enum { DEFAULT_SMS = 132, DEFAULT_THREADS_PER_SM = 2048, MIN_THREADS_PER_SM = 256, MAX_LORA_SCALE = 10000, MAX_SHIFT = 10 };

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
        .base_shift = NAN,
        .max_shift = NAN,
        .shift_terminal = NAN,
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

static ink_status check_loras(const ink_request *request, ink_error *error) {
    if (request->n_loras > 0 && !request->loras) return ink_fail(error, INK_ERROR_ARGUMENT, "the list of LoRA files is missing");
    for (size_t i = 0; i < request->n_loras; i++) {
        const ink_lora *lora = &request->loras[i];
        if (!lora->path || !*lora->path) return ink_fail(error, INK_ERROR_ARGUMENT, "LoRA %zu has no path", i + 1);
        if (!(fabs(lora->scale) <= MAX_LORA_SCALE))
            return ink_fail(error, INK_ERROR_ARGUMENT, "%s: the scale %g is out of range: expected a number from %d to %d",
                            lora->path, lora->scale, -MAX_LORA_SCALE, MAX_LORA_SCALE);
    }
    return INK_OK;
}

static ink_status check_schedule(const ink_request *request, ink_error *error) {
    const double shifts[] = {request->base_shift, request->max_shift};
    for (int i = 0; i < 2; i++)
        if (!isnan(shifts[i]) && !(fabs(shifts[i]) <= MAX_SHIFT))
            return ink_fail(error, INK_ERROR_ARGUMENT, "the shift %g is out of range: expected a number from %d to %d", shifts[i],
                            -MAX_SHIFT, MAX_SHIFT);
    if (!isnan(request->shift_terminal) && !(request->shift_terminal >= 0 && request->shift_terminal < 1))
        return ink_fail(error, INK_ERROR_ARGUMENT, "the last noise level %g is out of range: expected a number from 0 to below 1",
                        request->shift_terminal);
    return INK_OK;
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
    int64_t budget = request->ram_budget < 0 ? request->ram_budget : request->vram_budget;
    if (budget < 0)
        return ink_fail(error, INK_ERROR_ARGUMENT,
                        "a memory budget of %" PRId64 " bytes is out of range: expected 0 (none) or more", budget);
    status = check_loras(request, error);
    return status == INK_OK ? check_schedule(request, error) : status;
}

bool ink_request_guided(const ink_request *request) { return request->guidance > 1.0 && request->negative_prompt; }

ink_request ink_request_resolved(const ink_request *request, const ink_model *model) {
    ink_request resolved = *request;
    if (resolved.noise_dtype == INK_NOISE_AUTO)
        resolved.noise_dtype = model->precision == INK_PRECISION_F32 ? INK_NOISE_F32 : INK_NOISE_BF16;
    return resolved;
}

ink_scheduler_config ink_request_schedule(const ink_request *request, const ink_model *model) {
    ink_scheduler_config schedule = model->config.scheduler;
    if (!isnan(request->base_shift)) schedule.base_shift = request->base_shift;
    if (!isnan(request->max_shift)) schedule.max_shift = request->max_shift;
    if (!isnan(request->base_shift) || !isnan(request->max_shift)) {
        /* A shift of the request means what it says on models too whose own is fixed, or is no exponent. */
        schedule.use_dynamic_shifting = schedule.exponential_shift = true;
        if (schedule.max_image_seq_len == schedule.base_image_seq_len) schedule.max_image_seq_len++;
    }
    if (!isnan(request->shift_terminal)) schedule.shift_terminal = request->shift_terminal;
    return schedule;
}

ink_status ink_request_set_preset(ink_request *request, const char *name, ink_error *error) {
    static const struct {
        const char *name;
        int64_t steps;
    } presets[] = {{"lightning-4", 4}, {"lightning-8", 8}};
    ink_error_clear(error);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(name, presets[i].name) != 0) continue;
        request->steps = presets[i].steps;
        request->guidance = 1;
        /* The same for pictures of all sizes, and from full noise down to none. */
        request->base_shift = request->max_shift = log(3.0);
        request->shift_terminal = 0;
        return INK_OK;
    }
    return ink_fail(error, INK_ERROR_ARGUMENT, "preset \"%.60s\" is unknown: expected lightning-4 or lightning-8", name);
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
