/* binder.c - from tensors in files to the forms that ops read. */
#include "tensor/binder.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/memory.h"
#include "tensor/placing.h"
#include "tensor/quantize.h"

/* Memory that converted tensors are taken from. */
static void *store_take(ink_binder *binder, size_t size) {
    return binder->acquired ? ink_arena_take(&binder->residency->buffer, size) : ink_store_take(binder->store, size);
}

/* ---- names and shapes -------------------------------------------------------------------------------------------- */

const char *ink_binder_origin(const ink_binder *binder) {
    return binder->synthetic ? "random weights" : ink_weights_origin(binder->weights);
}

enum { MAX_NAME = 256, MAX_SHAPE_TEXT = 22 * INK_MAX_DIMS + 3 };

static const char *shape_text(char text[MAX_SHAPE_TEXT], const ink_tensor_info *info) {
    size_t n = (size_t)snprintf(text, MAX_SHAPE_TEXT, "[");
    for (int i = 0; i < info->n_dims; i++)
        n += (size_t)snprintf(text + n, MAX_SHAPE_TEXT - n, "%s%lld", i ? ", " : "", (long long)info->shape[i]);
    snprintf(text + n, MAX_SHAPE_TEXT - n, "]");
    return text;
}

static void collect_missing(ink_binder *binder, const char *name) {
    char *copy = ink_strdup(name);
    char **missing = copy ? ink_list_grow(binder->missing, binder->n_missing, sizeof *missing, &binder->missing_capacity) : NULL;
    if (!missing) {
        ink_free(copy);
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory for the list of missing tensors",
                                  ink_weights_origin(binder->weights));
        return;
    }
    binder->missing = missing;
    binder->missing[binder->n_missing++] = copy;
}

/* A tensor that the file has and the model uses. */
static void note(ink_binder *binder, const ink_tensor_info *info) {
    if (info->n_bytes > (size_t)binder->largest_bytes) binder->largest_bytes = (int64_t)info->n_bytes;
    if (binder->part && !binder->acquired && !ink_residency_note(binder->part, info->data, info->n_bytes))
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory for the list of its blocks",
                                  ink_weights_origin(binder->weights));
}

/* The tensor of that name, marked as used; NULL when there is none, of which the status tells unless the mode is to report. */
static const ink_tensor_info *look_up(ink_binder *binder, const char *name) {
    const ink_tensor_info *info = ink_weights_find(binder->weights, name);
    if (info && binder->used) {
        /* The list is sorted and in one piece: its first element gives the place of any other. */
        binder->used[info - ink_weights_at(binder->weights, 0)] = true;
    } else if (!info && binder->mode == INK_BIND_REPORT) {
        collect_missing(binder, name);
    } else if (!info) {
        binder->status = ink_fail(binder->error, INK_ERROR_FORMAT, "%s: tensor %s is missing", ink_weights_origin(binder->weights),
                                  name);
    }
    if (info) note(binder, info);
    return info;
}

/* The tensor BASE + SUFFIX if there is one: it may be absent without being missing. */
static const ink_tensor_info *look_beside(ink_binder *binder, const char *base, const char *suffix) {
    char name[MAX_NAME + 16];
    snprintf(name, sizeof name, "%s%s", base, suffix);
    return ink_weights_find(binder->weights, name) ? look_up(binder, name) : NULL;
}

INK_PRINTF(3, 0)
static bool make_name(char name[MAX_NAME], ink_binder *binder, const char *format, va_list arguments) {
    if (binder->status != INK_OK) return false;
    if (vsnprintf(name, MAX_NAME, format, arguments) < MAX_NAME) return true;
    binder->status = ink_fail(binder->error, INK_ERROR_INTERNAL, "%s: the tensor name %s is too long", ink_binder_origin(binder),
                              name);
    return false;
}

static void fail_shape(ink_binder *binder, const ink_tensor_info *info, const char *expected) {
    char found[MAX_SHAPE_TEXT];
    binder->status = ink_fail(binder->error, INK_ERROR_FORMAT, "%s: tensor %s has shape %s, expected %s",
                              ink_weights_origin(binder->weights), info->name, shape_text(found, info), expected);
}

/* True when the dimensions from `first` on are all 1. */
static bool only_ones(const ink_tensor_info *info, int first) {
    for (int i = first; i < info->n_dims; i++)
        if (info->shape[i] != 1) return false;
    return true;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

/* Counts size bytes as used in place. */
static void count_mapped(ink_binder *binder, int64_t size) {
    if (binder->memory) return; /* it will be placed */
    binder->mapped_bytes += size;
    if (binder->part && !binder->acquired) binder->part->mapped_bytes += size;
}

/* Counts size bytes as a part's. */
static void count_stored(ink_binder *binder, int64_t size) {
    if (binder->memory || !binder->part || binder->acquired) return;
    binder->part->stored_bytes += size;
    binder->part->buffer_bytes += (int64_t)ink_arena_rounded((size_t)size);
}

/* Counts size bytes as held by the store and, when loading, takes them. NULL when there is nothing to fill. */
static void *take(ink_binder *binder, const char *name, int64_t size) {
    count_stored(binder, size);
    if (!binder->memory) ink_binder_count_held(binder, size);
    if (binder->mode != INK_BIND_LOAD) return NULL;
    void *block = store_take(binder, (size_t)size);
    if (!block)
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory for tensor %s, %lld bytes",
                                  ink_binder_origin(binder), name, (long long)size);
    return block;
}

/* dst, whose type, rows and cols are set, in memory that `take` gives: everything but its numbers. */
static void take_described(ink_binder *binder, ink_weight *dst, const char *name) {
    ink_quantize_describe(dst, dst->dtype, dst->rows, dst->cols);
    int64_t n_groups = dst->group ? dst->rows * (dst->cols / dst->group) : 0;
    dst->data = take(binder, name, ink_weight_data_bytes(dst));
    if (dst->group) {
        dst->scales = take(binder, name, n_groups * (int64_t)sizeof(uint16_t));
        dst->biases = take(binder, name, n_groups * (int64_t)sizeof(uint16_t));
    } else if (dst->n_scales) {
        dst->scales = take(binder, name, dst->n_scales * (int64_t)sizeof(float));
    }
}

/* A tensor that is dropped from the mapping as soon as it is converted. */
static void count_converted(ink_binder *binder, const ink_tensor_info *info) {
    if (info->n_bytes > (size_t)binder->largest_converted_bytes) binder->largest_converted_bytes = (int64_t)info->n_bytes;
}

static void report_loaded(ink_binder *binder) {
    if (binder->status == INK_OK && binder->mode == INK_BIND_LOAD && binder->loaded)
        binder->status = binder->loaded(binder->user, binder);
}

/* ---- random numbers -------------------------------------------------------------------------------------------------- */

static void bind_random_vector(ink_binder *binder, ink_tensor *dst, const char *name) {
    size_t mark = ink_place_mark(binder);
    dst->data = take(binder, name, dst->cols * (int64_t)sizeof(float));
    if (dst->data) ink_synthetic_vector(binder->synthetic, dst->data, dst->cols, name);
    ink_place_vector(binder, dst, mark, name);
    report_loaded(binder);
}

/* dst, whose type, rows and cols are set. */
static void make_random_matrix(ink_binder *binder, ink_weight *dst, const char *name) {
    take_described(binder, dst, name);
    if (binder->mode == INK_BIND_LOAD && binder->status == INK_OK && !ink_synthetic_matrix(binder->synthetic, dst, name))
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory to make tensor %s", ink_binder_origin(binder),
                                  name);
}

static void bind_random_matrix(ink_binder *binder, ink_weight *dst, ink_dtype form, const char *name) {
    size_t mark = ink_place_mark(binder);
    dst->dtype = form;
    make_random_matrix(binder, dst, name);
    ink_place_weight(binder, dst, mark, name);
}

/* ---- vectors -------------------------------------------------------------------------------------------------------- */

static void fail_type(ink_binder *binder, const ink_tensor_info *info, const char *supported) {
    binder->status = ink_fail(binder->error, INK_ERROR_UNSUPPORTED, "%s: tensor %s is stored as %s, only %s are supported",
                              ink_weights_origin(binder->weights), info->name, info->dtype_name, supported);
}

void ink_bind_vector(ink_binder *binder, ink_tensor *dst, int64_t n, const char *format, ...) {
    char name[MAX_NAME];
    *dst = ink_view(NULL, 1, n);
    va_list arguments;
    va_start(arguments, format);
    bool named = make_name(name, binder, format, arguments);
    va_end(arguments);
    if (named && binder->synthetic) {
        bind_random_vector(binder, dst, name);
        return;
    }
    const ink_tensor_info *info = named ? look_up(binder, name) : NULL;
    if (!info) return;
    size_t mark = ink_place_mark(binder);
    if (info->n_dims < 1 || info->shape[0] != n || !only_ones(info, 1)) {
        char expected[32];
        snprintf(expected, sizeof expected, "[%lld]", (long long)n);
        fail_shape(binder, info, expected);
    } else if (!ink_dtype_is_float(info->dtype)) {
        fail_type(binder, info, "F32, BF16, F16 and F8_E4M3");
    } else if (info->dtype == INK_F32 && (uintptr_t)info->data % sizeof(float) == 0) {
        count_mapped(binder, (int64_t)info->n_bytes);
        /* Tensors of activations can be written, hence the type; a bound one never is. */
        if (binder->mode == INK_BIND_LOAD) dst->data = (float *)(uintptr_t)info->data;
    } else {
        dst->data = take(binder, name, n * (int64_t)sizeof(float));
        if (dst->data) ink_convert(dst->data, INK_F32, info->data, info->dtype, n);
    }
    ink_place_vector(binder, dst, mark, name);
    report_loaded(binder);
}

/* ---- matrices as they are stored -------------------------------------------------------------------------------------- */

static bool is_scale_type(ink_dtype dtype) { return dtype == INK_F32 || dtype == INK_BF16 || dtype == INK_F16; }

/* Packed integers [rows, cols * bits / 32] of U32, with scales and biases [rows, cols / group]. */
static bool read_affine(ink_binder *binder, ink_weight *w, const ink_tensor_info *info, const char *base) {
    const ink_tensor_info *scales = look_beside(binder, base, ".scales"), *biases = look_beside(binder, base, ".biases");
    int64_t words = info->n_dims == 2 ? info->shape[1] : 0;
    if (!scales || !biases || strcmp(info->dtype_name, "U32") != 0) {
        fail_type(binder, info, "F32, BF16, F16, F8_E4M3, GGUF's types, and U32 with scales and biases");
        return false;
    }
    w->dtype = words * 8 == w->cols ? INK_AFFINE_4 : words * 4 == w->cols ? INK_AFFINE_8 : INK_OTHER_DTYPE;
    if (info->n_dims != 2 || info->shape[0] != w->rows || w->dtype == INK_OTHER_DTYPE) {
        char expected[120];
        snprintf(expected, sizeof expected, "[%lld, %lld] (4 bits) or [%lld, %lld] (8 bits)", (long long)w->rows,
                 (long long)w->cols / 8, (long long)w->rows, (long long)w->cols / 4);
        fail_shape(binder, info, expected);
        return false;
    }
    int64_t groups = scales->n_dims == 2 ? scales->shape[1] : 0;
    w->group = groups > 0 && w->cols % groups == 0 ? w->cols / groups : 0;
    bool fits = w->group >= 16 && INK_MAX_GROUP % w->group == 0 && scales->shape[0] == w->rows && biases->n_dims == 2 &&
                biases->shape[0] == w->rows && biases->shape[1] == groups;
    if (!fits || !is_scale_type(scales->dtype) || biases->dtype != scales->dtype) {
        binder->status = ink_fail(
            binder->error, INK_ERROR_FORMAT,
            "%s: %s.scales and %s.biases must be [%lld, %lld / group] of one float type, with a group of 16 to %d",
            ink_weights_origin(binder->weights), base, base, (long long)w->rows, (long long)w->cols, INK_MAX_GROUP);
        return false;
    }
    w->scales = scales->data;
    w->biases = biases->data;
    w->scale_dtype = scales->dtype;
    return true;
}

/* The scale of 8-bit floats and signed integers: one for all, or one for each row. */
static bool read_scale(ink_binder *binder, ink_weight *w, const ink_tensor_info *info, const char *base) {
    const ink_tensor_info *scale = look_beside(binder, base, ".scale_weight");
    if (!scale) scale = look_beside(binder, base, ".weight_scale");
    if (!scale && info->dtype == INK_I8) fail_type(binder, info, "integers with a scale for each row");
    if (!scale) return info->dtype != INK_I8;
    if ((scale->n_elements != 1 && scale->n_elements != w->rows) || !is_scale_type(scale->dtype)) {
        char expected[64];
        snprintf(expected, sizeof expected, "[1] or [%lld] of F32, BF16 or F16", (long long)w->rows);
        fail_shape(binder, scale, expected);
        return false;
    }
    w->scales = scale->data;
    w->scale_dtype = scale->dtype;
    w->n_scales = scale->n_elements;
    return true;
}

/* w, whose rows and cols say what is expected, as the file holds it. False when it does not. */
static bool read_stored(ink_binder *binder, ink_weight *w, const ink_tensor_info *info, const char *base) {
    w->dtype = info->dtype;
    w->data = info->data;
    if (info->dtype == INK_OTHER_DTYPE) return read_affine(binder, w, info, base);
    if (info->n_dims < 2 || info->shape[0] != w->rows || info->shape[1] != w->cols || !only_ones(info, 2)) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)w->rows, (long long)w->cols);
        fail_shape(binder, info, expected);
        return false;
    }
    return (info->dtype != INK_F8_E4M3 && info->dtype != INK_I8) || read_scale(binder, w, info, base);
}

/* ---- matrices in the form that is wanted ------------------------------------------------------------------------------- */

static bool is_small(ink_dtype dtype) { return dtype != INK_F32 && dtype != INK_BF16 && dtype != INK_F16; }

/* GGUF's, which only the host decodes. */
static bool is_block_type(ink_dtype dtype) { return dtype >= INK_Q8_0 && dtype < INK_AFFINE_4; }

/* What a matrix stored so becomes. */
static ink_dtype wanted_form(const ink_binder *binder, const ink_weight *stored, bool sensitive) {
    const ink_dtype plain = stored->dtype == INK_F16 ? INK_F16 : INK_BF16; /* both have 16 bits; each keeps what it has */
    switch (binder->precision) {
    case INK_PRECISION_AUTO: return stored->dtype;
    case INK_PRECISION_F32: return INK_F32;
    case INK_PRECISION_BF16: return plain;
    case INK_PRECISION_FP8:
    case INK_PRECISION_INT8:
        if (is_small(stored->dtype)) return stored->dtype;
        return sensitive ? plain : binder->precision == INK_PRECISION_FP8 ? INK_F8_E4M3 : INK_I8;
    case INK_PRECISION_Q8:
    case INK_PRECISION_Q4:
        if (is_small(stored->dtype)) return stored->dtype;
        if (sensitive || stored->cols % INK_AFFINE_GROUP != 0) return plain;
        return binder->precision == INK_PRECISION_Q8 ? INK_AFFINE_8 : INK_AFFINE_4;
    }
    return stored->dtype;
}

typedef struct conversion {
    ink_weight *dst;
    const ink_weight *stored;
    ink_threads *threads;
} conversion;

static void convert_row(void *context, int64_t row, int64_t worker) {
    const conversion *c = context;
    float *x = ink_threads_workspace(c->threads, worker);
    ink_weight_decode(x, c->stored, row, 0, c->dst->cols);
    ink_quantize_encode_row(c->dst, row, x);
}

/* By all threads, where there are some and their workspace holds a row. */
static bool convert_together(const ink_binder *binder, ink_weight *dst, const ink_weight *stored) {
    conversion c = {dst, stored, binder->threads};
    if (!c.threads || dst->cols > INK_WORKSPACE_BYTES / (int64_t)sizeof(float)) return false;
    ink_threads_run(c.threads, dst->rows, convert_row, &c);
    return true;
}

/* dst, whose type, rows and cols are set, in memory of the store; with what adapters change in it, if they are merged. */
static void convert(ink_binder *binder, ink_weight *dst, const ink_weight *stored, const char *name, bool merge) {
    take_described(binder, dst, name);
    if (binder->mode != INK_BIND_LOAD || binder->status != INK_OK) return;
    if (!merge && convert_together(binder, dst, stored)) return;
    ink_change *change = NULL;
    if (merge) binder->status = ink_change_open(&change, binder->adapters, name, dst->rows, dst->cols, binder->error);
    float *x = ink_alloc_array((size_t)dst->cols, sizeof *x);
    if (!x)
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory to convert tensor %s",
                                  ink_weights_origin(binder->weights), name);
    for (int64_t row = 0; binder->status == INK_OK && row < dst->rows; row++) {
        ink_weight_decode(x, stored, row, 0, dst->cols);
        if (change) ink_change_add_row(change, x, row);
        ink_quantize_encode_row(dst, row, x);
    }
    ink_free(x);
    ink_change_close(&change);
}

/* ---- branches -------------------------------------------------------------------------------------------------------- */

/* A matrix in the store, filled by the caller when loading. NULL without memory. */
static ink_weight *take_matrix(ink_binder *binder, const char *name, int64_t rows, int64_t cols, ink_dtype dtype) {
    count_stored(binder, (int64_t)sizeof(ink_weight));
    ink_weight *w = store_take(binder, sizeof *w);
    if (!w)
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "no memory for the LoRA of %s", name);
    else
        *w = (ink_weight){
            .dtype = dtype, .rows = rows, .cols = cols, .data = take(binder, name, rows * cols * (int64_t)ink_dtype_size(dtype))};
    return w;
}

/* Fills a branch that is no product of narrow matrices. */
static void fill_dense(ink_binder *binder, ink_weight *dst, ink_change *change, const char *name) {
    float *x = ink_alloc_array((size_t)dst->cols, sizeof *x);
    if (!x) binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "no memory for the LoRA of %s", name);
    for (int64_t row = 0; x && row < dst->rows; row++) {
        memset(x, 0, (size_t)dst->cols * sizeof *x);
        ink_change_add_row(change, x, row);
        ink_quantize_encode_row(dst, row, x);
    }
    ink_free(x);
}

/* Hangs what the adapters change beside the matrix; in a dry run without data, since ops take scratch for it. */
static void attach_branch(ink_binder *binder, ink_weight *dst, ink_adapter_form form, const char *name) {
    /* A dense change weighs as much as the matrix: it takes 16 bits wherever those of the matrix are not f32. */
    ink_dtype dense = dst->dtype == INK_F32 ? INK_F32 : INK_BF16;
    ink_weight *down = form.dense ? NULL : take_matrix(binder, name, form.rank, dst->cols, INK_F32);
    ink_weight *up = form.dense ? take_matrix(binder, name, dst->rows, dst->cols, dense)
                                : take_matrix(binder, name, dst->rows, form.rank, INK_F32);
    dst->down = down;
    dst->up = up;
    if (binder->mode != INK_BIND_LOAD || binder->status != INK_OK) return;
    ink_change *change;
    binder->status = ink_change_open(&change, binder->adapters, name, dst->rows, dst->cols, binder->error);
    if (binder->status != INK_OK) return;
    if (form.dense)
        fill_dense(binder, up, change, name);
    else
        ink_change_low_rank(change, (float *)(uintptr_t)down->data, (float *)(uintptr_t)up->data);
    ink_change_close(&change);
}

/* The form of a matrix that a change is merged into. */
static ink_dtype merged_form(ink_binder *binder, ink_dtype form, const char *name) {
    if (form == INK_F32 || form == INK_BF16) return form;
    /* Nothing here writes 16 bits of this kind, and of the others one would lose what the weights have. */
    if (form == INK_F16) return INK_F32;
    binder->status = ink_fail(
        binder->error, INK_ERROR_ARGUMENT,
        "a LoRA can be merged into weights of F32, BF16 and F16, and %s is %s: not merged it stays beside them", name,
        ink_dtype_name(form));
    return form;
}

/* The name without .weight at its end. */
static void base_of(char base[MAX_NAME], const char *name) {
    static const char suffix[] = ".weight";
    size_t length = strlen(name), n_base = length >= sizeof suffix - 1 ? length - (sizeof suffix - 1) : 0;
    snprintf(base, MAX_NAME, "%.*s", (int)(strcmp(name + n_base, suffix) == 0 ? n_base : length), name);
}

/* The matrix of that name as the file holds it; *stored: its rows and cols say what is expected. NULL when there is none such. */
static const ink_tensor_info *find_stored(ink_binder *binder, ink_weight *stored, const char *name) {
    char base[MAX_NAME];
    base_of(base, name);
    const ink_tensor_info *info = look_up(binder, name);
    return info && read_stored(binder, stored, info, base) ? info : NULL;
}

/* F32 and BF16 are read in place as numbers; a file aligns its data to nothing in particular. */
static bool is_readable(const ink_weight *stored) {
    bool as_numbers = stored->dtype == INK_F32 || stored->dtype == INK_BF16;
    return !as_numbers || (uintptr_t)stored->data % ink_dtype_size(stored->dtype) == 0;
}

/* In place as the file holds it, of which `used` bytes are. */
static void bind_stored(ink_binder *binder, ink_weight *dst, const ink_weight *stored, int64_t used) {
    count_mapped(binder, used);
    *dst = *stored;
    if (binder->mode != INK_BIND_LOAD) dst->data = NULL;
}

static void bind_weight(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *name, bool sensitive) {
    *dst = (ink_weight){.dtype = INK_BF16, .rows = rows, .cols = cols};
    if (binder->synthetic) {
        /* As if the published files, of 16 bits, were read. */
        bind_random_matrix(binder, dst, wanted_form(binder, dst, sensitive), name);
        report_loaded(binder);
        return;
    }
    ink_weight stored = {.rows = rows, .cols = cols};
    const ink_tensor_info *info = find_stored(binder, &stored, name);
    if (!info) return;
    ink_adapter_form change = {0};
    if (binder->adapters) binder->status = ink_adapters_find(binder->adapters, &change, name, rows, cols, binder->error);
    bool changed = change.dense || change.rank > 0, merge = changed && binder->merge;
    ink_dtype form = wanted_form(binder, &stored, sensitive);
    if (binder->memory && is_block_type(form)) form = INK_BF16;
    if (merge) form = merged_form(binder, form, name);
    if (binder->status != INK_OK) return;
    if (binder->chosen) binder->chosen(binder->chosen_user, info, &stored, form);
    size_t mark = ink_place_mark(binder);
    if (form == stored.dtype && is_readable(&stored) && !merge) {
        bind_stored(binder, dst, &stored, ink_weight_bytes(&stored));
    } else {
        dst->dtype = form;
        count_converted(binder, info);
        convert(binder, dst, &stored, name, merge);
        if (binder->mode == INK_BIND_LOAD) ink_mapfile_drop(info->data, info->n_bytes);
    }
    dst->name = info->name;
    if (changed && !merge && binder->status == INK_OK) attach_branch(binder, dst, change, name);
    ink_place_weight(binder, dst, mark, name);
    report_loaded(binder);
}

void ink_bind_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...) {
    char name[MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    *dst = (ink_weight){.dtype = INK_BF16, .rows = rows, .cols = cols};
    if (make_name(name, binder, format, arguments)) bind_weight(binder, dst, rows, cols, name, false);
    va_end(arguments);
}

void ink_bind_sensitive_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...) {
    char name[MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    *dst = (ink_weight){.dtype = INK_BF16, .rows = rows, .cols = cols};
    if (make_name(name, binder, format, arguments)) bind_weight(binder, dst, rows, cols, name, true);
    va_end(arguments);
}

/* Of a table that is used in place. The system maps pages that it has around one that is touched, up to so many bytes. */
static int64_t touched_bytes(const ink_weight *stored, int64_t n_looked_up) {
    const int64_t around = 64 << 10;
    int64_t all = ink_weight_bytes(stored), of_row = all / stored->rows + around;
    return n_looked_up < all / of_row ? n_looked_up * of_row : all;
}

static void bind_table(ink_binder *binder, ink_table *dst, int64_t n_looked_up, const char *name) {
    ink_weight *w = &dst->stored;
    if (binder->synthetic) {
        make_random_matrix(binder, w, name);
        return;
    }
    ink_weight stored = {.rows = w->rows, .cols = w->cols};
    const ink_tensor_info *info = find_stored(binder, &stored, name);
    if (!info) return;
    ink_dtype form = wanted_form(binder, &stored, true);
    if (binder->chosen) binder->chosen(binder->chosen_user, info, &stored, form);
    if (is_readable(&stored)) {
        bind_stored(binder, w, &stored, touched_bytes(&stored, n_looked_up));
    } else {
        w->dtype = stored.dtype;
        convert(binder, w, &stored, name, false);
    }
    w->name = info->name;
    dst->rounds = form == INK_BF16 && stored.dtype != INK_BF16;
}

void ink_bind_table(ink_binder *binder, ink_table *dst, int64_t rows, int64_t cols, int64_t n_looked_up, const char *format, ...) {
    char name[MAX_NAME];
    va_list arguments;
    va_start(arguments, format);
    *dst = (ink_table){.stored = {.dtype = INK_BF16, .rows = rows, .cols = cols}};
    if (make_name(name, binder, format, arguments)) bind_table(binder, dst, n_looked_up, name);
    va_end(arguments);
    report_loaded(binder);
}

/* ---- convolutions -------------------------------------------------------------------------------------------------------- */

/* How a file stores a convolution: channels behind the taps is how MLX has them, and ours. */
typedef struct conv_layout {
    bool fits, channels_last;
    int64_t kt; /* time slices, of which the last is taken */
} conv_layout;

/* Row o of dst [out][k * k][in] from src [out][in][kt][k * k] or [out][kt][k * k][in], its last kt; `taps` holds k * k numbers. */
static void repack_row(ink_weight *dst, int64_t o, const ink_tensor_info *src, conv_layout layout, int64_t kk, float *taps) {
    int64_t in = dst->cols / kk, kt = layout.kt;
    size_t src_size = ink_dtype_size(src->dtype), dst_size = ink_dtype_size(dst->dtype);
    unsigned char *data = (unsigned char *)(uintptr_t)dst->data;
    if (layout.channels_last) {
        const unsigned char *last_slice = src->data + (size_t)((o * kt + kt - 1) * kk * in) * src_size;
        ink_convert(data + (size_t)(o * kk * in) * dst_size, dst->dtype, last_slice, src->dtype, kk * in);
        return;
    }
    for (int64_t i = 0; i < in; i++) {
        int64_t last_slice = ((o * in + i) * kt + kt - 1) * kk, first = o * kk * in + i;
        ink_convert(taps, INK_F32, src->data + (size_t)last_slice * src_size, src->dtype, kk);
        for (int64_t j = 0; j < kk; j++) ink_convert(data + (size_t)(first + j * in) * dst_size, dst->dtype, &taps[j], INK_F32, 1);
    }
}

static conv_layout layout_of(const ink_tensor_info *info, int64_t out, int64_t in, int64_t k, bool channels_last) {
    int n = info->n_dims, kernel = channels_last ? n - 3 : n - 2; /* its first dimension */
    const int64_t *shape = info->shape;
    conv_layout layout = {.kt = 1, .channels_last = channels_last};
    if ((n != 4 && n != 5) || shape[0] != out) return layout;
    if (n == 5) layout.kt = shape[kernel - 1];
    layout.fits = shape[channels_last ? n - 1 : 1] == in && shape[kernel] == k && shape[kernel + 1] == k && layout.kt >= 1;
    return layout;
}

static void bind_conv(ink_binder *binder, ink_weight *dst, int64_t in, int64_t k, const char *name) {
    if (binder->synthetic) {
        bind_random_matrix(binder, dst, binder->precision == INK_PRECISION_F32 ? INK_F32 : INK_BF16, name);
        return;
    }
    const ink_tensor_info *info = look_up(binder, name);
    if (!info) return;
    conv_layout layout = layout_of(info, dst->rows, in, k, ink_weights_channels_last(binder->weights));
    if (!layout.fits) {
        char expected[220];
        long long o = dst->rows, i = in, side = k;
        snprintf(expected, sizeof expected,
                 layout.channels_last ? "[%lld, %lld, %lld, %lld] or [%lld, n, %lld, %lld, %lld]"
                                      : "[%lld, %lld, %lld, %lld] or [%lld, %lld, n, %lld, %lld]",
                 o, layout.channels_last ? side : i, side, layout.channels_last ? i : side, o, layout.channels_last ? side : i,
                 side, layout.channels_last ? i : side);
        fail_shape(binder, info, expected);
        return;
    }
    if (!ink_dtype_is_float(info->dtype)) {
        fail_type(binder, info, "F32, BF16, F16 and F8_E4M3");
        return;
    }
    bool f32 = binder->precision == INK_PRECISION_F32 || (binder->precision == INK_PRECISION_AUTO && info->dtype == INK_F32);
    int64_t kk = k * k;
    dst->dtype = f32 ? INK_F32 : INK_BF16;
    const ink_weight stored = {.dtype = info->dtype, .data = info->data, .rows = dst->rows, .cols = info->n_elements / dst->rows};
    if (binder->chosen) binder->chosen(binder->chosen_user, info, &stored, dst->dtype);
    if ((kk == 1 || layout.channels_last) && layout.kt == 1 && info->dtype == dst->dtype &&
        (uintptr_t)info->data % ink_dtype_size(dst->dtype) == 0) {
        count_mapped(binder, (int64_t)info->n_bytes);
        if (binder->mode == INK_BIND_LOAD) dst->data = info->data;
        ink_place_weight(binder, dst, ink_place_mark(binder), name);
        return;
    }
    size_t mark = ink_place_mark(binder);
    count_converted(binder, info);
    dst->data = take(binder, name, dst->rows * dst->cols * (int64_t)ink_dtype_size(dst->dtype));
    if (!dst->data) {
        ink_place_weight(binder, dst, mark, name);
        return;
    }
    float *taps = ink_alloc_array((size_t)kk, sizeof *taps);
    if (!taps)
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory to rearrange tensor %s",
                                  ink_weights_origin(binder->weights), name);
    for (int64_t o = 0; taps && o < dst->rows; o++) repack_row(dst, o, info, layout, kk, taps);
    ink_free(taps);
    ink_place_weight(binder, dst, mark, name);
    ink_mapfile_drop(info->data, info->n_bytes);
}

void ink_bind_conv(ink_binder *binder, ink_weight *dst, int64_t out, int64_t in, int64_t k, const char *format, ...) {
    char name[MAX_NAME];
    *dst = (ink_weight){.dtype = INK_BF16, .rows = out, .cols = k * k * in};
    va_list arguments;
    va_start(arguments, format);
    if (make_name(name, binder, format, arguments)) bind_conv(binder, dst, in, k, name);
    va_end(arguments);
    report_loaded(binder);
}

/* ---- parts ---------------------------------------------------------------------------------------------------------------- */

void ink_bind_part(ink_binder *binder, int64_t part) {
    ink_residency *r = binder->residency;
    if (!r) return;
    if (binder->later) binder->mode = INK_BIND_LOAD;
    binder->acquired = binder->later = false;
    binder->cargo = NULL;
    binder->part = part < 0 ? NULL : &r->parts[part];
    if (part < 0 || binder->mode != INK_BIND_LOAD || binder->status != INK_OK || ink_residency_stays(r, part)) return;
    if (r->shuttle) {
        binder->cargo = ink_shuttle_load(r->shuttle, ink_residency_index(r, part), binder->error);
        if (!binder->cargo) binder->status = INK_ERROR_MEMORY;
    } else {
        binder->later = true;
        binder->mode = INK_BIND_CHECK;
    }
}

bool ink_bind_acquire(ink_binder *binder, int64_t part) {
    ink_residency *r = binder->residency;
    if (binder->coming) ink_bind_await(binder, r ? r->parts[part].n_uploads : INK_ALL_UPLOADS);
    if (ink_residency_stays(r, part)) return false;
    if (r->shuttle) {
        ink_shuttle_acquire(r->shuttle, ink_residency_index(r, part));
        return false;
    }
    binder->part = &r->parts[part];
    binder->acquired = true;
    return true;
}

/* ---- what was asked for ---------------------------------------------------------------------------------------------------- */

void ink_bind_ignore(ink_binder *binder, const char *prefix) {
    for (size_t i = 0; binder->used && i < ink_weights_count(binder->weights); i++)
        if (strncmp(ink_weights_at(binder->weights, i)->name, prefix, strlen(prefix)) == 0) binder->used[i] = true;
}

void ink_bind_drop(const ink_binder *binder, const char *name) {
    const ink_tensor_info *info = binder->synthetic ? NULL : ink_weights_find(binder->weights, name);
    if (info) ink_mapfile_drop(info->data, info->n_bytes);
}

void ink_binder_release(ink_binder *binder) {
    for (size_t i = 0; i < binder->n_missing; i++) ink_free(binder->missing[i]);
    ink_free(binder->missing);
    ink_free(binder->used);
    binder->missing = NULL;
    binder->n_missing = binder->missing_capacity = 0;
    binder->used = NULL;
}
