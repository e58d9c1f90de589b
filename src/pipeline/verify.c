/*
 * verify.c - repeats the request of a reference file and compares every stage.
 *
 * Limits. f32: what rounding alone explains, with room for another order of summation. bf16: the reference is meant to be an f32
 * run, and weights rounded to bf16 move a run by about a percent; see docs/numerics.md.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "pipeline/generate.h"
#include "pipeline/request.h"
#include "tensor/safetensors.h"

typedef enum measure { RELATIVE_L2, MAX_ERROR, PSNR } measure;

typedef struct limit {
    measure measure;
    double f32, bf16;
    const char *f32_text, *bf16_text;
} limit;

static const limit limits[INK_N_STAGES] = {
    [INK_STAGE_PROMPT_EMBEDS] = {RELATIVE_L2, 2e-6, 2e-2, "relative L2 <= 2e-6", "relative L2 <= 2e-2"},
    [INK_STAGE_NEGATIVE_EMBEDS] = {RELATIVE_L2, 2e-6, 2e-2, "relative L2 <= 2e-6", "relative L2 <= 2e-2"},
    [INK_STAGE_NOISE] = {MAX_ERROR, 2e-6, 2e-6, "max error <= 2e-6", "max error <= 2e-6"},
    [INK_STAGE_SIGMAS] = {MAX_ERROR, 1e-6, 1e-6, "max error <= 1e-6", "max error <= 1e-6"},
    [INK_STAGE_LATENTS] = {RELATIVE_L2, 2e-5, 5e-2, "relative L2 <= 2e-5", "relative L2 <= 5e-2"},
    [INK_STAGE_IMAGE] = {PSNR, 90, 25, "PSNR >= 90 dB", "PSNR >= 25 dB"},
};

/* Two f32 samples that agree to 1e-6 can be rounded to bf16 on either side of a boundary: a few values then differ by a unit. */
static const limit rounded_noise_limit = {RELATIVE_L2, 1e-4, 1e-4, "relative L2 <= 1e-4", "relative L2 <= 1e-4"};

/* ---- the request of a file ------------------------------------------------------------------------------------------- */

static ink_status metadata_error(const ink_safetensors *file, const char *key, const char *expected, ink_error *error) {
    const char *found = ink_safetensors_metadata(file, key);
    return ink_fail(error, INK_ERROR_FORMAT, "%s: metadata \"%s\" must be %s, found %s%.60s%s", file->file.path, key, expected,
                    found ? "\"" : "nothing", found ? found : "", found ? "\"" : "");
}

/* As JSON spells numbers, since strtod would want the decimal point of whatever locale the program has set. */
static bool read_number(const ink_safetensors *file, const char *key, double *value) {
    const char *text = ink_safetensors_metadata(file, key);
    json_t *number = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    bool found = json_is_number(number);
    *value = json_number_value(number);
    json_decref(number);
    return found;
}

static ink_status read_integer(const ink_safetensors *file, const char *key, int64_t *value, ink_error *error) {
    double number;
    if (!read_number(file, key, &number) || number != floor(number) || fabs(number) > 1e9)
        return metadata_error(file, key, "an integer", error);
    *value = (int64_t)number;
    return INK_OK;
}

static ink_status read_seed(const ink_safetensors *file, uint64_t *seed, ink_error *error) {
    const char *text = ink_safetensors_metadata(file, "seed");
    char *end;
    errno = 0;
    if (text && *text >= '0' && *text <= '9') {
        *seed = strtoull(text, &end, 10);
        if (*end == '\0' && errno == 0) return INK_OK;
    }
    return metadata_error(file, "seed", "an integer of 64 bits", error);
}

/*
 * "torch-cpu" alone does not tell which torch drew bf16 noise, and the two samples have nothing in common: takes the one whose
 * first value is the file's.
 */
static void choose_cpu_sample(ink_request *request, const ink_safetensors *file) {
    const ink_tensor_info *noise = ink_safetensors_find(file, ink_stage_label(INK_STAGE_NOISE));
    enum { FEWEST = 16 }; /* of which the generator draws as of many */
    float newer[FEWEST], theirs;
    if (request->rng != INK_RNG_TORCH_CPU || request->noise_dtype != INK_NOISE_BF16) return;
    if (!noise || noise->n_elements == 0 || !ink_dtype_is_float(noise->dtype)) return;
    ink_convert(&theirs, INK_F32, noise->data, noise->dtype, 1);
    ink_randn_torch_cpu_bf16(newer, FEWEST, request->seed);
    if (fabsf(theirs - newer[0]) <= 0.01f) request->rng = INK_RNG_TORCH_CPU_2_13;
}

/* A number that may be absent; *value is then left as it is. */
static ink_status read_optional(const ink_safetensors *file, const char *key, double *value, ink_error *error) {
    if (!ink_safetensors_metadata(file, key) || read_number(file, key, value)) return INK_OK;
    return metadata_error(file, key, "a number", error);
}

/* The LoRA files of a request: what they point to is owned. */
typedef struct lora_list {
    ink_lora *loras;
    size_t n;
} lora_list;

static void lora_list_release(lora_list *list) {
    for (size_t i = 0; i < list->n; i++) ink_free((char *)(uintptr_t)list->loras[i].path);
    ink_free(list->loras);
}

/* [{"path": ..., "scale": ...}]; a path that is not whole starts at the folder of the file. */
static ink_status read_loras(lora_list *list, const ink_safetensors *file, ink_error *error) {
    static const char expected[] = "a list of {\"path\": text, \"scale\": number}";
    const char *text = ink_safetensors_metadata(file, "loras"), *slash = strrchr(file->file.path, '/');
    json_t *root = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    ink_status status = !text || json_is_array(root) ? INK_OK : metadata_error(file, "loras", expected, error);
    if (status == INK_OK && text) list->loras = ink_alloc_array(json_array_size(root), sizeof *list->loras);
    if (status == INK_OK && text && !list->loras)
        status = ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for its LoRA", file->file.path);
    for (size_t i = 0; status == INK_OK && i < json_array_size(root); i++) {
        const json_t *entry = json_array_get(root, i), *scale = json_object_get(entry, "scale");
        const char *path = json_string_value(json_object_get(entry, "path"));
        if (!path || !json_is_number(scale)) {
            status = metadata_error(file, "loras", expected, error);
            continue;
        }
        int folder = *path == '/' || !slash ? 0 : (int)(slash + 1 - file->file.path);
        char *whole = ink_format("%.*s%s", folder, file->file.path, path);
        list->loras[list->n++] = (ink_lora){whole, json_number_value(scale)};
        if (!whole) status = ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for its LoRA", file->file.path);
    }
    json_decref(root);
    return status;
}

/* Strings are borrowed from the file. */
static ink_status read_request(ink_request *request, const lora_list *list, const ink_safetensors *file, const ink_model *model,
                               ink_error *error) {
    ink_request_init(request, model);
    request->prompt = ink_safetensors_metadata(file, "prompt");
    if (!request->prompt) return metadata_error(file, "prompt", "the prompt", error);
    ink_status status = read_integer(file, "steps", &request->steps, error);
    if (status == INK_OK) status = read_integer(file, "width", &request->width, error);
    if (status == INK_OK) status = read_integer(file, "height", &request->height, error);
    if (status == INK_OK) status = read_seed(file, &request->seed, error);
    if (status != INK_OK) return status;
    if (!read_number(file, "cfg", &request->guidance)) return metadata_error(file, "cfg", "a number", error);
    const char *rng = ink_safetensors_metadata(file, "rng"), *noise = ink_safetensors_metadata(file, "noise_dtype");
    if (!rng || ink_request_set_rng(request, rng, NULL) != INK_OK)
        return metadata_error(file, "rng", "torch-cpu, torch-cpu-2.13, torch-cuda or torch-cuda:SMs[xTHREADS]", error);
    if (!noise || (strcmp(noise, "f32") != 0 && strcmp(noise, "bf16") != 0))
        return metadata_error(file, "noise_dtype", "f32 or bf16", error);
    request->noise_dtype = strcmp(noise, "f32") == 0 ? INK_NOISE_F32 : INK_NOISE_BF16;
    /* An empty negative prompt may mean that there was none: then it was not encoded either. */
    const char *negative = ink_safetensors_metadata(file, "negative_prompt");
    bool encoded = ink_safetensors_find(file, ink_stage_label(INK_STAGE_NEGATIVE_EMBEDS)) != NULL;
    bool guided = request->guidance > 1 && (encoded || (negative && *negative));
    if (guided && !negative) return metadata_error(file, "negative_prompt", "the negative prompt", error);
    request->negative_prompt = guided ? negative : NULL;
    choose_cpu_sample(request, file);
    double merge = 0;
    status = read_optional(file, "base_shift", &request->base_shift, error);
    if (status == INK_OK) status = read_optional(file, "max_shift", &request->max_shift, error);
    if (status == INK_OK) status = read_optional(file, "shift_terminal", &request->shift_terminal, error);
    if (status == INK_OK) status = read_optional(file, "merge_loras", &merge, error);
    if (status != INK_OK) return status;
    request->merge_loras = merge != 0;
    request->loras = list->loras;
    request->n_loras = list->n;
    ink_error trouble;
    status = ink_request_check(request, model, &trouble);
    return status == INK_OK ? status : ink_fail(error, INK_ERROR_FORMAT, "%s: metadata: %s", file->file.path, trouble.message);
}

/* ---- comparing --------------------------------------------------------------------------------------------------------- */

static void fail_row(ink_verify_row *row, const char *note) {
    snprintf(row->note, sizeof row->note, "%s", note);
    row->max_error = row->relative_l2 = row->last_relative_l2 = row->psnr = NAN;
}

static bool same_shape(const ink_tensor_info *expected, const ink_stage *found) {
    if (expected->n_dims != found->n_dims) return false;
    for (int i = 0; i < found->n_dims; i++)
        if (expected->shape[i] != found->shape[i]) return false;
    return true;
}

static double relative(double difference, double norm) { return sqrt(difference / (norm > 0 ? norm : 1)); }

static void measure_row(ink_verify_row *row, const ink_tensor_info *expected, const ink_stage *found, const limit *allowed,
                        bool f32) {
    double worst = 0, difference = 0, norm = 0, difference_before = 0, norm_before = 0;
    int64_t last_step = found->n_dims == 3 ? expected->n_elements - expected->n_elements / found->shape[0] : 0;
    for (int64_t i = 0; i < expected->n_elements; i++) {
        float value;
        if (i == last_step) {
            difference_before = difference;
            norm_before = norm;
        }
        ink_convert(&value, INK_F32, expected->data + (size_t)i * ink_dtype_size(expected->dtype), expected->dtype, 1);
        double error = fabs((double)found->data[i] - (double)value);
        if (error > worst || isnan(error)) worst = error; /* NaN counts as worst, and stays */
        difference += error * error;
        norm += (double)value * (double)value;
    }
    row->max_error = worst;
    row->relative_l2 = relative(difference, norm);
    row->last_relative_l2 = row->psnr = NAN;
    if (strcmp(row->stage, ink_stage_label(INK_STAGE_LATENTS)) == 0)
        row->last_relative_l2 = relative(difference - difference_before, norm - norm_before);
    double most = f32 ? allowed->f32 : allowed->bf16;
    switch (allowed->measure) {
    case RELATIVE_L2: row->passed = row->relative_l2 <= most; break;
    case MAX_ERROR: row->passed = row->max_error <= most; break;
    case PSNR:
        row->psnr = -10 * log10(difference / (double)expected->n_elements);
        row->passed = row->psnr >= most;
        break;
    }
}

static void compare(ink_verify_row *row, const ink_safetensors *file, const ink_stage *found, ink_stage_name name,
                    const limit *allowed, bool f32) {
    const ink_tensor_info *expected = ink_safetensors_find(file, ink_stage_label(name));
    row->stage = ink_stage_label(name);
    row->limit = f32 ? allowed->f32_text : allowed->bf16_text;
    for (int i = 0; expected && i < expected->n_dims && i < 3; i++) row->shape[i] = expected->shape[i];
    if (!expected)
        fail_row(row, "the reference has no such stage");
    else if (!found->data)
        fail_row(row, "the request that the metadata describes has no such stage");
    else if (expected->dtype == INK_OTHER_DTYPE)
        fail_row(row, "the reference is not stored as F32, F16 or BF16");
    else if (!same_shape(expected, found))
        fail_row(row, "the shape is another than ours");
    else
        measure_row(row, expected, found, allowed, f32);
}

/* ---- the call ----------------------------------------------------------------------------------------------------------- */

typedef struct verification {
    ink_verification public; /* first, so that its address is the verification's */
    ink_verify_row rows[INK_N_STAGES];
} verification;

/* *noise = the reference's, for the run to start from, so that each stage is judged by itself; NULL when it is not there. */
static ink_status read_noise(float **noise, const ink_safetensors *file, const ink_request *request, const ink_model *model,
                             ink_error *error) {
    const ink_tensor_info *info = ink_safetensors_find(file, ink_stage_label(INK_STAGE_NOISE));
    const ink_vae_config *vae = &model->config.vae;
    *noise = NULL;
    if (!info || !ink_dtype_is_float(info->dtype)) return INK_OK;
    if (info->n_elements != request->width / vae->scale * (request->height / vae->scale) * vae->z_dim) return INK_OK;
    *noise = ink_alloc_array((size_t)info->n_elements, sizeof **noise);
    if (!*noise) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for its noise", file->file.path);
    ink_convert(*noise, INK_F32, info->data, info->dtype, info->n_elements);
    return INK_OK;
}

static ink_status repeat(verification *made, ink_session *session, ink_request *request, const ink_safetensors *file,
                         ink_error *error) {
    ink_stages stages = {0};
    float *noise;
    bool rounded = request->noise_dtype == INK_NOISE_BF16 && request->rng != INK_RNG_TORCH_CPU;
    bool f32 = session->model->precision == INK_PRECISION_F32;
    ink_status status = read_noise(&noise, file, request, session->model, error);
    if (status == INK_OK) status = ink_generate_run(session, request, noise, NULL, &stages, error);
    made->public = (ink_verification){.rows = made->rows, .passed = 1};
    for (int i = 0; status == INK_OK && i < INK_N_STAGES; i++) {
        if (!stages.stage[i].data && !ink_safetensors_find(file, ink_stage_label((ink_stage_name)i))) continue;
        ink_verify_row *row = &made->rows[made->public.n_rows++];
        const limit *allowed = i == INK_STAGE_NOISE && rounded ? &rounded_noise_limit : &limits[i];
        compare(row, file, &stages.stage[i], (ink_stage_name)i, allowed, f32);
        if (!row->passed) made->public.passed = 0;
    }
    ink_free(noise);
    ink_stages_release(&stages);
    return status;
}

ink_status ink_verify(ink_session *session, const char *reference_path, ink_progress_fn progress, void *progress_user,
                      ink_verification **out, ink_error *error) {
    ink_error_clear(error);
    *out = NULL;
    if (!reference_path) return ink_fail(error, INK_ERROR_ARGUMENT, "no reference file is given");
    ink_safetensors file;
    ink_request request;
    ink_status status = ink_safetensors_open(&file, reference_path, error);
    if (status != INK_OK) return status;
    verification *made = ink_alloc(sizeof *made);
    lora_list list = {0};
    status = made ? read_loras(&list, &file, error)
                  : ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to compare it", reference_path);
    if (status == INK_OK) status = read_request(&request, &list, &file, session->model, error);
    if (status == INK_OK) {
        request.progress = progress;
        request.progress_user = progress_user;
        status = repeat(made, session, &request, &file, error);
    }
    lora_list_release(&list);
    ink_safetensors_close(&file);
    if (made) *out = &made->public;
    if (status != INK_OK) ink_verification_destroy(out);
    return status;
}

void ink_verification_destroy(ink_verification **out) {
    ink_free(*out);
    *out = NULL;
}
