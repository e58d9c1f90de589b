/* stages.c - keeping stages and writing them to a file. */
#include "pipeline/stages.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/safetensors.h"

static const char *const labels[INK_N_STAGES] = {"prompt_embeds", "negative_embeds", "noise", "sigmas", "latents", "image"};

const char *ink_stage_label(ink_stage_name name) { return labels[name]; }

bool ink_stages_take(ink_stages *stages, ink_stage_name name, int n_dims, const int64_t *shape) {
    ink_stage *stage = &stages->stage[name];
    int64_t n = sizeof(float);
    stage->n_dims = n_dims;
    for (int i = 0; i < n_dims; i++) {
        stage->shape[i] = shape[i];
        if (!ink_mul_fits(n, shape[i], &n)) return false;
    }
    stage->data = ink_alloc((size_t)n);
    return stage->data != NULL;
}

bool ink_stages_copy(ink_stages *stages, ink_stage_name name, ink_tensor x) {
    if (!ink_stages_take(stages, name, 2, (const int64_t[]){x.rows, x.cols})) return false;
    for (int64_t i = 0; i < x.rows; i++)
        memcpy(stages->stage[name].data + i * x.cols, ink_row(x, i), (size_t)x.cols * sizeof(float));
    return true;
}

void ink_stages_release(ink_stages *stages) {
    for (int i = 0; i < INK_N_STAGES; i++) ink_free(stages->stage[i].data);
    *stages = (ink_stages){0};
}

/* As JSON spells it: printf would use the decimal point of whatever locale the program has set. False without memory. */
static bool write_number(char *text, size_t size, double value) {
    json_t *number = value == floor(value) ? json_integer((json_int_t)value) : json_real(value);
    size_t n = number ? json_dumpb(number, text, size - 1, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : 0;
    json_decref(number);
    if (n == 0 || n >= size) return false;
    text[n] = '\0';
    return true;
}

ink_status ink_stages_write(const ink_stages *stages, const char *path, const ink_request *request, bool guided, ink_error *error) {
    ink_named_f32 tensors[INK_N_STAGES];
    size_t n = 0;
    for (int i = 0; i < INK_N_STAGES; i++) {
        const ink_stage *stage = &stages->stage[i];
        if (!stage->data) continue;
        tensors[n] = (ink_named_f32){.name = labels[i], .data = stage->data, .n_dims = stage->n_dims};
        memcpy(tensors[n++].shape, stage->shape, sizeof stage->shape);
    }
    char steps[24], guidance[32], width[24], height[24], seed[24], rng[40];
    snprintf(steps, sizeof steps, "%" PRId64, request->steps);
    if (!write_number(guidance, sizeof guidance, guided ? request->guidance : 1.0))
        return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to write it", path);
    snprintf(width, sizeof width, "%" PRId64, request->width);
    snprintf(height, sizeof height, "%" PRId64, request->height);
    snprintf(seed, sizeof seed, "%" PRIu64, request->seed);
    ink_request_get_rng(request, rng, sizeof rng);
    const char *const metadata[] = {"prompt",
                                    request->prompt,
                                    "negative_prompt",
                                    guided ? request->negative_prompt : "",
                                    "steps",
                                    steps,
                                    "cfg",
                                    guidance,
                                    "width",
                                    width,
                                    "height",
                                    height,
                                    "seed",
                                    seed,
                                    "rng",
                                    rng,
                                    "noise_dtype",
                                    request->noise_dtype == INK_NOISE_BF16 ? "bf16" : "f32",
                                    NULL};
    return ink_safetensors_write(path, tensors, n, metadata, error);
}
