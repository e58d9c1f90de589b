/* stages.c - keeping stages and writing them to a file. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "pipeline/stages.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/safetensors.h"

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

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

/* Whole paths, so that the request can be repeated from any folder. NULL without memory. */
static char *loras_to_json(const ink_request *request) {
    json_t *list = json_array();
    char path[PATH_MAX];
    bool complete = list != NULL;
    for (size_t i = 0; complete && i < request->n_loras; i++) {
        const char *whole = realpath(request->loras[i].path, path);
        json_t *entry = json_pack("{s:s, s:f}", "path", whole ? whole : request->loras[i].path, "scale", request->loras[i].scale);
        complete = entry && json_array_append_new(list, entry) == 0;
    }
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(17), n = complete ? json_dumpb(list, NULL, 0, flags) : 0;
    char *text = n > 0 ? ink_alloc(n + 1) : NULL; /* zeroed: ends the text */
    if (text && json_dumpb(list, text, n, flags) != n) {
        ink_free(text);
        text = NULL;
    }
    json_decref(list);
    return text;
}

/* The request as pairs of key and value, ended by NULL. */
enum { N_NUMBERS = 9, NUMBER_SIZE = 40, MAX_PAIRS = 32 };

typedef struct request_text {
    char numbers[N_NUMBERS][NUMBER_SIZE];
    char *loras; /* owned */
    const char *pairs[2 * MAX_PAIRS + 1];
    int n_pairs;
} request_text;

static void add_pair(request_text *text, const char *key, const char *value) {
    text->pairs[2 * text->n_pairs] = key;
    text->pairs[2 * text->n_pairs++ + 1] = value;
}

/* Without what the model says where the request says nothing. False without memory. */
static bool describe_request(request_text *text, const ink_request *request, bool guided) {
    char(*number)[NUMBER_SIZE] = text->numbers;
    const double schedule[3] = {request->base_shift, request->max_shift, request->shift_terminal};
    static const char *const schedule_keys[3] = {"base_shift", "max_shift", "shift_terminal"};
    snprintf(number[0], NUMBER_SIZE, "%" PRId64, request->steps);
    if (!write_number(number[1], NUMBER_SIZE, guided ? request->guidance : 1.0)) return false;
    snprintf(number[2], NUMBER_SIZE, "%" PRId64, request->width);
    snprintf(number[3], NUMBER_SIZE, "%" PRId64, request->height);
    snprintf(number[4], NUMBER_SIZE, "%" PRIu64, request->seed);
    ink_request_get_rng(request, number[5], NUMBER_SIZE);
    add_pair(text, "prompt", request->prompt);
    add_pair(text, "negative_prompt", guided ? request->negative_prompt : "");
    add_pair(text, "steps", number[0]);
    add_pair(text, "cfg", number[1]);
    add_pair(text, "width", number[2]);
    add_pair(text, "height", number[3]);
    add_pair(text, "seed", number[4]);
    add_pair(text, "rng", number[5]);
    add_pair(text, "noise_dtype", request->noise_dtype == INK_NOISE_BF16 ? "bf16" : "f32");
    for (int i = 0; i < 3; i++) {
        if (isnan(schedule[i])) continue;
        if (!write_number(number[6 + i], NUMBER_SIZE, schedule[i])) return false;
        add_pair(text, schedule_keys[i], number[6 + i]);
    }
    if (request->n_loras == 0) return true;
    text->loras = loras_to_json(request);
    add_pair(text, "loras", text->loras);
    if (request->merge_loras) add_pair(text, "merge_loras", "1");
    return text->loras != NULL;
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
    request_text text = {.n_pairs = 0};
    ink_status status = describe_request(&text, request, guided)
                            ? ink_safetensors_write(path, tensors, n, text.pairs, error)
                            : ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to write it", path);
    ink_free(text.loras);
    return status;
}
