/* request_json.c - the record of a request as JSON and as text. */
#include "common/request_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text_format.h"

/* Of the record's layout. A reader that meets a higher one says so instead of drawing something else. */
enum { RECORD_FORMAT = 1, RNG_SIZE = 40 };

static const uint64_t largest_exact = (UINT64_C(1) << 53) - 1;

/* ---- names ---- */

static const char *const noise_names[] = {[INK_NOISE_AUTO] = "auto", [INK_NOISE_F32] = "f32", [INK_NOISE_BF16] = "bf16"};
static const char *const precision_names[] = {
    [INK_PRECISION_AUTO] = "auto", [INK_PRECISION_F32] = "f32", [INK_PRECISION_BF16] = "bf16", [INK_PRECISION_FP8] = "fp8",
    [INK_PRECISION_Q8] = "q8",     [INK_PRECISION_Q4] = "q4",   [INK_PRECISION_INT8] = "int8"};

enum { N_PRECISIONS = sizeof precision_names / sizeof *precision_names };

static int find_name(const char *const *names, int n, const char *text) {
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], text) == 0) return i;
    return -1;
}

const char *app_noise_name(ink_noise_dtype noise) { return noise_names[noise]; }

bool app_noise_parse(const char *text, ink_noise_dtype *noise) {
    int found = find_name(noise_names, 3, text);
    if (found >= 0) *noise = (ink_noise_dtype)found;
    return found >= 0;
}

const char *app_precision_name(ink_precision precision) { return precision_names[precision]; }

bool app_precision_parse(const char *text, ink_precision *precision) {
    int found = find_name(precision_names, N_PRECISIONS, text);
    if (found >= 0) *precision = (ink_precision)found;
    return found >= 0;
}

/* The numbers of the schedule, which are NAN where the model's are meant. */
enum { N_SHIFTS = 3, MAX_LORAS = 16 };
static const char *const shift_keys[N_SHIFTS] = {"base_shift", "max_shift", "shift_terminal"};

/* ---- writing ---- */

static const char *const file_keys[APP_N_MODEL_FILES] = {"diffusion_model", "text_encoder", "vae", "tokenizer"};

json_t *app_seed_to_json(uint64_t seed) {
    char digits[24];
    if (seed <= largest_exact) return json_integer((json_int_t)seed);
    snprintf(digits, sizeof digits, "%" PRIu64, seed);
    return json_string(digits);
}

static json_t *optional_string(const char *text) { return text ? json_string(text) : json_null(); }

/* One line of ASCII, so that the plain text chunk of PNG, which is Latin-1, holds it. */
static char *dump_checked(const json_t *root) {
    char *text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(17));
    /* When memory runs out in the middle, jansson leaves a part out and says nothing. */
    json_t *again = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (!again || !json_equal(root, again)) {
        free(text);
        text = NULL;
    }
    json_decref(again);
    return text;
}

static json_t *loras_to_json(const ink_request *request) {
    json_t *list = json_array();
    bool complete = list != NULL;
    for (size_t i = 0; complete && i < request->n_loras; i++) {
        char *path = app_valid_utf8(request->loras[i].path);
        json_t *entry = path ? json_pack("{s:s, s:f}", "path", path, "scale", request->loras[i].scale) : NULL;
        complete = entry && json_array_append_new(list, entry) == 0;
        free(path);
    }
    if (complete) return list;
    json_decref(list);
    return NULL;
}

bool app_request_extras_to_json(json_t *root, const ink_request *request) {
    const double shifts[N_SHIFTS] = {request->base_shift, request->max_shift, request->shift_terminal};
    bool complete = request->n_loras == 0 || json_object_set_new(root, "loras", loras_to_json(request)) == 0;
    if (request->n_loras > 0 && request->merge_loras)
        complete = complete && json_object_set_new(root, "merge_loras", json_true()) == 0;
    for (int i = 0; i < N_SHIFTS; i++)
        if (!isnan(shifts[i])) complete = complete && json_object_set_new(root, shift_keys[i], json_real(shifts[i])) == 0;
    return complete;
}

char *app_record_to_json(const app_record *record) {
    const ink_request *request = &record->request;
    char rng[RNG_SIZE];
    ink_request_get_rng(request, rng, sizeof rng);
    /* Not "s?" and "s*" for what is optional: they take a string that found no memory for one that is absent. */
    json_t *root = json_pack(
        "{s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:s, s:o, s:s, s:o, s:I, s:I, s:I, s:f, s:o, s:s, s:s}", "format", RECORD_FORMAT,
        "version", record->version, "model", record->model, file_keys[0], optional_string(record->files[0]), file_keys[1],
        optional_string(record->files[1]), file_keys[2], optional_string(record->files[2]), file_keys[3],
        optional_string(record->files[3]), "precision", record->precision, "cpu", optional_string(record->cpu), "prompt",
        request->prompt, "negative_prompt", optional_string(request->negative_prompt), "width", (json_int_t)request->width,
        "height", (json_int_t)request->height, "steps", (json_int_t)request->steps, "guidance", request->guidance, "seed",
        app_seed_to_json(request->seed), "rng", rng, "noise_dtype", app_noise_name(request->noise_dtype));
    char *text = root && app_request_extras_to_json(root, request) ? dump_checked(root) : NULL;
    json_decref(root);
    return text;
}

char *app_record_to_parameters(const app_record *record) {
    const ink_request *request = &record->request;
    char rng[RNG_SIZE];
    const char *negative = request->negative_prompt;
    const char *model = strrchr(record->model, '/');
    model = model && model[1] ? model + 1 : record->model;
    ink_request_get_rng(request, rng, sizeof rng);
    return app_format("%s%s%s\nSteps: %" PRId64 ", Sampler: Euler, CFG scale: %g, Seed: %" PRIu64 ", Size: %" PRId64 "x%" PRId64
                      ", Model: %s, RNG: %s, Version: inkstone %s",
                      request->prompt, negative ? "\nNegative prompt: " : "", negative ? negative : "", request->steps,
                      request->guidance, request->seed, request->width, request->height, model, rng, record->version);
}

/* ---- reading ---- */

typedef struct reader {
    const json_t *object;
    const char *origin;
    ink_error *error;
    ink_status status; /* sticky */
} reader;

static void refuse(reader *from, const char *key, const char *expected) {
    if (from->status == INK_OK)
        from->status = app_fail(from->error, INK_ERROR_FORMAT, "%s: the record's \"%s\" is no %s", from->origin, key, expected);
}

/* Not even an absent string is NULL, unless it is optional: what follows a failure may look at it. */
static const char *read_string(reader *from, const char *key, bool optional) {
    const json_t *value = json_object_get(from->object, key);
    if (json_is_string(value)) return json_string_value(value);
    if (optional && (!value || json_is_null(value))) return NULL;
    refuse(from, key, "text");
    return "";
}

static int64_t read_int(reader *from, const char *key) {
    const json_t *value = json_object_get(from->object, key);
    if (!json_is_integer(value)) refuse(from, key, "whole number");
    return json_integer_value(value);
}

static uint64_t read_seed(reader *from) {
    const json_t *value = json_object_get(from->object, "seed");
    uint64_t seed = 0;
    if (json_is_integer(value) && json_integer_value(value) >= 0) return (uint64_t)json_integer_value(value);
    if (!json_is_string(value) || !app_parse_uint(json_string_value(value), &seed)) refuse(from, "seed", "seed");
    return seed;
}

static void read_loras(reader *from, app_record *record) {
    const json_t *list = json_object_get(from->object, "loras"), *merge = json_object_get(from->object, "merge_loras");
    size_t n = json_array_size(list);
    if (merge && !json_is_boolean(merge)) refuse(from, "merge_loras", "true or false");
    record->request.merge_loras = json_is_true(merge);
    if (!list) return;
    if (!json_is_array(list) || n > MAX_LORAS) refuse(from, "loras", "list of files");
    record->loras = from->status == INK_OK ? calloc(n + 1, sizeof *record->loras) : NULL;
    if (from->status == INK_OK && !record->loras) from->status = app_fail_memory(from->error, "the record of the picture");
    for (size_t i = 0; i < n && from->status == INK_OK; i++) {
        const json_t *entry = json_array_get(list, i), *scale = json_object_get(entry, "scale");
        record->loras[i] = (ink_lora){json_string_value(json_object_get(entry, "path")), json_number_value(scale)};
        if (!record->loras[i].path || !json_is_number(scale)) refuse(from, "loras", "list of files with scales");
    }
    record->request.loras = record->loras;
    record->request.n_loras = n;
}

static double read_shift(reader *from, const char *key) {
    const json_t *value = json_object_get(from->object, key);
    if (value && !json_is_number(value)) refuse(from, key, "number");
    return value ? json_number_value(value) : NAN;
}

static void read_fields(reader *from, app_record *record) {
    ink_request *request = &record->request;
    ink_precision precision;
    record->version = read_string(from, "version", false);
    record->model = read_string(from, "model", false);
    for (int i = 0; i < APP_N_MODEL_FILES; i++) record->files[i] = read_string(from, file_keys[i], true);
    record->precision = read_string(from, "precision", false);
    record->cpu = read_string(from, "cpu", true);
    request->prompt = read_string(from, "prompt", false);
    request->negative_prompt = read_string(from, "negative_prompt", true);
    request->width = read_int(from, "width");
    request->height = read_int(from, "height");
    request->steps = read_int(from, "steps");
    request->seed = read_seed(from);
    const json_t *guidance = json_object_get(from->object, "guidance");
    if (!json_is_number(guidance)) refuse(from, "guidance", "number");
    request->guidance = json_number_value(guidance);
    if (ink_request_set_rng(request, read_string(from, "rng", false), NULL) != INK_OK) refuse(from, "rng", "generator known here");
    if (!app_noise_parse(read_string(from, "noise_dtype", false), &request->noise_dtype))
        refuse(from, "noise_dtype", "type known here");
    if (!app_precision_parse(record->precision, &precision)) refuse(from, "precision", "precision known here");
    request->base_shift = read_shift(from, shift_keys[0]);
    request->max_shift = read_shift(from, shift_keys[1]);
    request->shift_terminal = read_shift(from, shift_keys[2]);
    read_loras(from, record);
}

ink_status app_record_parse(app_record *record, const char *text, size_t size, const char *origin, ink_error *error) {
    json_error_t problem;
    *record = (app_record){.owner = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem)};
    if (!record->owner) return app_fail(error, INK_ERROR_FORMAT, "%s: the inkstone record is damaged (%s)", origin, problem.text);
    reader from = {record->owner, origin, error, INK_OK};
    int64_t format = read_int(&from, "format");
    if (from.status == INK_OK && format != RECORD_FORMAT)
        from.status = app_fail(error, INK_ERROR_UNSUPPORTED,
                               "%s: its record has format %" PRId64 ", and this version of inkstone (%s) reads format %d", origin,
                               format, ink_version(), RECORD_FORMAT);
    if (from.status == INK_OK) read_fields(&from, record);
    if (from.status != INK_OK) app_record_clear(record);
    return from.status;
}

void app_record_clear(app_record *record) {
    json_decref(record->owner);
    free(record->loras);
    *record = (app_record){0};
}
