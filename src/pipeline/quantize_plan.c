/*
 * quantize_plan.c - deciding on every tensor. What a precision means is asked of the binder, which is what loading asks too: so a
 * model that is written holds what loading would have made.
 */
#define _POSIX_C_SOURCE 200809L
#include "pipeline/quantize_plan.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/quantize.h"

static const int64_t SHARD_BYTES = 5000000000; /* as published checkpoints are cut */

static bool is_plain(ink_dtype dtype) { return dtype == INK_F32 || dtype == INK_BF16 || dtype == INK_F16; }

/* ---- names ---------------------------------------------------------------------------------------------------------- */

/* Of "X.weight" the characters of X, else all. */
static int base_length(const char *name) {
    static const char suffix[] = ".weight";
    size_t length = strlen(name), n = sizeof suffix - 1;
    return (int)(length > n && strcmp(name + length - n, suffix) == 0 ? length - n : length);
}

static ink_quantize_item *find_in(const ink_quantize_component *part, const char *name) {
    const ink_tensor_info *info = part->items ? ink_weights_find(part->weights, name) : NULL;
    return info ? &part->items[info - ink_weights_at(part->weights, 0)] : NULL;
}

ink_quantize_item *ink_quantize_plan_find(const ink_quantize_plan *plan, const char *name) {
    for (int i = 0; i < INK_N_COMPONENTS; i++) {
        ink_quantize_item *item = find_in(&plan->components[i], name);
        if (item && item->info->name == name) return item; /* the very tensor: names of components might meet */
    }
    return NULL;
}

/* ---- forms ---------------------------------------------------------------------------------------------------------- */

bool ink_quantize_is_smaller(const ink_quantize_item *item) { return item->converted && !is_plain(item->form); }

const char *ink_quantize_form_name(const ink_quantize_item *item) {
    if (!item->converted) return item->info->dtype_name;
    return item->form == INK_AFFINE_4 ? "Q4" : item->form == INK_AFFINE_8 ? "Q8" : ink_dtype_name(item->form);
}

static void set_part(ink_quantize_part *part, const ink_quantize_item *item, const char *suffix, const char *dtype,
                     int64_t element_bytes, int64_t rows, int64_t cols) {
    snprintf(part->name, sizeof part->name, "%.*s%s", base_length(item->info->name), item->info->name, suffix);
    part->dtype = dtype;
    part->element_bytes = element_bytes;
    part->n_dims = 2;
    part->shape[0] = rows;
    part->shape[1] = cols;
    part->n_bytes = rows * cols * element_bytes;
}

int ink_quantize_parts(ink_quantize_part parts[INK_MAX_PARTS], const ink_quantize_item *item) {
    const ink_tensor_info *info = item->info;
    const ink_weight *w = &item->stored;
    if (ink_quantize_is_smaller(item)) {
        if (item->form == INK_F8_E4M3 || item->form == INK_I8) {
            set_part(&parts[0], item, ".weight", ink_dtype_name(item->form), 1, w->rows, w->cols);
            set_part(&parts[1], item, ".weight_scale", "F32", 4, w->rows, 1);
            return 2;
        }
        set_part(&parts[0], item, ".weight", "U32", 4, w->rows, w->cols / (item->form == INK_AFFINE_8 ? 4 : 8));
        set_part(&parts[1], item, ".scales", "BF16", 2, w->rows, w->cols / INK_AFFINE_GROUP);
        set_part(&parts[2], item, ".biases", "BF16", 2, w->rows, w->cols / INK_AFFINE_GROUP);
        return 3;
    }
    ink_quantize_part *part = &parts[0];
    snprintf(part->name, sizeof part->name, "%s", info->name);
    part->dtype = item->converted ? ink_dtype_name(item->form) : info->dtype_name;
    part->n_bytes = item->converted ? w->rows * w->cols * (int64_t)ink_dtype_size(item->form) : (int64_t)info->n_bytes;
    part->element_bytes = info->n_elements > 0 ? part->n_bytes / (item->converted ? w->rows * w->cols : info->n_elements) : 1;
    part->n_dims = info->n_dims;
    memcpy(part->shape, info->shape, sizeof part->shape);
    /* Integers that are decoded: the file's shape is that of the words that hold them. */
    if (item->converted && info->dtype == INK_OTHER_DTYPE) part->shape[1] = w->cols;
    return 1;
}

/* ---- choosing ------------------------------------------------------------------------------------------------------- */

typedef struct chooser {
    ink_quantize_component *part;
    const ink_quantize_options *options;
    bool *kept; /* [n_keep]: patterns that fitted */
} chooser;

static bool is_kept(const chooser *c, const char *name) {
    char base[INK_MAX_TENSOR_NAME];
    bool any = false;
    snprintf(base, sizeof base, "%.*s", base_length(name), name);
    for (size_t i = 0; i < c->options->n_keep; i++) {
        const char *pattern = c->options->keep[i];
        bool fits = fnmatch(pattern, name, 0) == 0 || fnmatch(pattern, base, 0) == 0;
        c->kept[i] |= fits;
        any |= fits;
    }
    return any;
}

static void drop(chooser *c, const char *name, const char *suffix) {
    char beside[INK_MAX_TENSOR_NAME + 16];
    snprintf(beside, sizeof beside, "%.*s%s", base_length(name), name, suffix);
    ink_quantize_item *item = find_in(c->part, beside);
    if (item) item->dropped = true;
}

/* As `chosen` of a binder. */
static void choose(void *user, const ink_tensor_info *info, const ink_weight *stored, ink_dtype form) {
    chooser *c = user;
    ink_quantize_item *item = &c->part->items[info - ink_weights_at(c->part->weights, 0)];
    if (!is_plain(form) && is_plain(stored->dtype) && is_kept(c, info->name)) form = stored->dtype == INK_F16 ? INK_F16 : INK_BF16;
    item->stored = *stored;
    item->form = form;
    item->converted = form != stored->dtype;
    if (!item->converted || !stored->scales) return;
    static const char *const beside[] = {".scales", ".biases", ".scale_weight", ".weight_scale"};
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) drop(c, info->name, beside[i]);
}

static ink_status choose_all(ink_quantize_component *part, const ink_model *model, const ink_quantize_options *options, bool *kept,
                             ink_error *error) {
    chooser c = {part, options, kept};
    ink_binder binder = {.weights = part->weights,
                         .mode = INK_BIND_CHECK,
                         .precision = options->precision,
                         .error = error,
                         .chosen = choose,
                         .chosen_user = &c};
    part->n_items = ink_weights_count(part->weights);
    part->items = ink_alloc_array(part->n_items, sizeof *part->items);
    if (!part->items) return ink_fail(error, INK_ERROR_MEMORY, "no memory for the list of what to write");
    for (size_t i = 0; i < part->n_items; i++) {
        ink_quantize_item *item = &part->items[i];
        item->info = ink_weights_at(part->weights, i);
        /* No network of this family reads the language model's output, and it is large. */
        item->dropped = part->component == INK_TEXT_ENCODER && strncmp(item->info->name, "lm_head.", 8) == 0;
    }
    ink_model_bind_all(&binder, &model->config, part->component);
    return binder.status;
}

static int64_t item_bytes(const ink_quantize_item *item) {
    ink_quantize_part parts[INK_MAX_PARTS];
    int64_t bytes = 0;
    for (int i = ink_quantize_parts(parts, item) - 1; i >= 0; i--) bytes += parts[i].n_bytes;
    return bytes;
}

/* Gives every item its file, one after the other as they fill, and counts. */
static ink_status cut(ink_quantize_plan *plan, ink_quantize_component *part, int64_t most, ink_error *error) {
    int64_t filled = 0;
    part->n_shards = 1;
    for (size_t i = 0; i < part->n_items; i++) {
        ink_quantize_item *item = &part->items[i];
        plan->model_bytes += (int64_t)item->info->n_bytes;
        if (item->dropped) continue;
        bool block = item->info->dtype >= INK_Q8_0 && item->info->dtype < INK_AFFINE_4;
        if (!item->converted && block)
            return ink_fail(error, INK_ERROR_UNSUPPORTED,
                            "%s: tensor %s is stored as %s, which is small already and has no form in a safetensors file",
                            ink_weights_origin(part->weights), item->info->name, item->info->dtype_name);
        int64_t bytes = item_bytes(item);
        if (filled > 0 && filled + bytes > most) {
            part->n_shards++;
            filled = 0;
        }
        filled += bytes;
        item->shard = part->n_shards - 1;
        plan->bytes += bytes;
        plan->source_bytes += (int64_t)item->info->n_bytes;
        plan->n_written++;
    }
    return INK_OK;
}

static ink_status make(ink_quantize_plan *plan, const ink_model *model, const ink_quantize_options *options, bool *kept,
                       ink_error *error) {
    ink_status status = INK_OK;
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) {
        ink_quantize_component *part = &plan->components[i];
        *part = (ink_quantize_component){.component = (ink_component)i, .weights = model->weights[i]};
        if (ink_weights_channels_last(part->weights))
            return ink_fail(error, INK_ERROR_UNSUPPORTED,
                            "%s: has its convolutions in MLX's order, which is not written; name the published VAE with --vae "
                            "(vae_file)",
                            ink_weights_origin(part->weights));
        status = choose_all(part, model, options, kept, error);
        if (status == INK_OK) status = cut(plan, part, options->shard_bytes > 0 ? options->shard_bytes : SHARD_BYTES, error);
    }
    for (size_t i = 0; status == INK_OK && i < options->n_keep; i++)
        if (!kept[i])
            status = ink_fail(error, INK_ERROR_ARGUMENT,
                              "the pattern \"%.200s\" fits no tensor that would become smaller; for example \"*.attn.*\" does",
                              options->keep[i]);
    return status;
}

ink_status ink_quantize_plan_make(ink_quantize_plan *plan, const ink_model *model, const ink_quantize_options *options,
                                  ink_error *error) {
    *plan = (ink_quantize_plan){0};
    bool *kept = ink_alloc_array(options->n_keep, sizeof *kept);
    if (!kept) return ink_fail(error, INK_ERROR_MEMORY, "no memory for the list of what to write");
    ink_status status = make(plan, model, options, kept, error);
    ink_free(kept);
    return status;
}

void ink_quantize_plan_release(ink_quantize_plan *plan) {
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_free(plan->components[i].items);
    *plan = (ink_quantize_plan){0};
}
