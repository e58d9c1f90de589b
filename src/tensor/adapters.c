/*
 * adapters.c - reading LoRA files and adding up what they change.
 *
 * Files differ in how they write a module's name: prefixes come and go, and kohya turns dots into underscores. Here every name is
 * brought to one key (known prefixes off, dots as underscores), which a matrix of the model is brought to as well.
 * Sources of the names and of the scales: diffusers, lora_conversion_utils.py; PEFT, tuners/{lora,lokr,loha}; LyCORIS.
 */
#include "tensor/adapters.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/memory.h"
#include "tensor/safetensors.h"

enum { MAX_KEY = 256 };

typedef enum part { DOWN, UP, ALPHA, W1, W1_A, W1_B, W2, W2_A, W2_B, HADA1_A, HADA1_B, HADA2_A, HADA2_B, N_PARTS } part;

typedef enum kind { LOW_RANK, LOKR, LOHA } kind;

/* Endings of tensor names. Those of a form that is known and not run have no part. */
static const struct {
    const char *suffix;
    int part;
} suffixes[] = {
    {".lora_A.weight", DOWN},
    {".lora_B.weight", UP},
    {".lora_A.default.weight", DOWN},
    {".lora_B.default.weight", UP},
    {".lora_down.weight", DOWN},
    {".lora_up.weight", UP},
    {".alpha", ALPHA},
    {".lokr_w1", W1},
    {".lokr_w1_a", W1_A},
    {".lokr_w1_b", W1_B},
    {".lokr_w2", W2},
    {".lokr_w2_a", W2_A},
    {".lokr_w2_b", W2_B},
    {".hada_w1_a", HADA1_A},
    {".hada_w1_b", HADA1_B},
    {".hada_w2_a", HADA2_A},
    {".hada_w2_b", HADA2_B},
    {".dora_scale", -1},
    {".lokr_t2", -1},
    {".hada_t1", -1},
    {".hada_t2", -1},
    {".lora_magnitude_vector", -1},
    {".lora_mid.weight", -1},
    {".diff", -1},
    {".diff_b", -1},
};

static const char *const prefixes[] = {
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "lora_unet_", "lycoris_"};

/* What one file changes in one matrix. */
typedef struct module {
    char key[MAX_KEY];
    const char *tensor; /* a name in the file, for sentences */
    const ink_safetensors *file;
    const ink_tensor_info *parts[N_PARTS];
    kind kind;
    double scale; /* of the request, times alpha over rank */
    bool applied;
} module;

struct ink_adapters {
    ink_safetensors *files;
    size_t n_files;
    module *modules; /* sorted by key */
    size_t n_modules, n_tensors;
};

/* ---- names --------------------------------------------------------------------------------------------------------------- */

/* key = the first `length` bytes of name without known prefixes, dots as underscores. False when it is too long. */
static bool make_key(char key[MAX_KEY], const char *name, size_t length) {
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (length > n && strncmp(name, prefixes[i], n) == 0) {
            name += n;
            length -= n;
        }
    }
    if (length == 0 || length >= MAX_KEY) return false;
    for (size_t i = 0; i < length; i++) key[i] = name[i] == '.' ? '_' : name[i];
    key[length] = '\0';
    return true;
}

/* The index of the suffix that name ends with, or -1. */
static int find_suffix(const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t n = strlen(suffixes[i].suffix);
        if (length > n && strcmp(name + length - n, suffixes[i].suffix) == 0) return (int)i;
    }
    return -1;
}

/* The modules of a matrix name: they stand together. */
static const module *find_modules(const ink_adapters *adapters, const char *name, size_t *n) {
    static const char weight[] = ".weight";
    char key[MAX_KEY];
    size_t length = strlen(name), low = 0, high = adapters->n_modules;
    if (length > sizeof weight - 1 && strcmp(name + length - (sizeof weight - 1), weight) == 0) length -= sizeof weight - 1;
    *n = 0;
    if (!make_key(key, name, length)) return NULL;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(adapters->modules[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    while (low + *n < adapters->n_modules && strcmp(adapters->modules[low + *n].key, key) == 0) ++*n;
    return adapters->modules + low;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------- */

static float number(const ink_tensor_info *info, int64_t i) {
    float value;
    ink_convert(&value, INK_F32, info->data + (size_t)i * ink_dtype_size(info->dtype), info->dtype, 1);
    return value;
}

/* a [rows, n] times b [n, cols] at one place. */
static double product_at(const ink_tensor_info *a, const ink_tensor_info *b, int64_t row, int64_t col) {
    double sum = 0;
    for (int64_t i = 0; i < a->shape[1]; i++) sum += (double)number(a, row * a->shape[1] + i) * number(b, i * b->shape[1] + col);
    return sum;
}

/* A factor that is stored whole, or as a product of two. */
typedef struct factor {
    const ink_tensor_info *whole, *a, *b;
    int64_t rows, cols;
} factor;

static factor factor_of(const module *m, part whole, part a, part b) {
    factor f = {m->parts[whole], m->parts[a], m->parts[b], 0, 0};
    f.rows = f.whole ? f.whole->shape[0] : f.a->shape[0];
    f.cols = f.whole ? f.whole->shape[1] : f.b->shape[1];
    return f;
}

static double factor_at(const factor *f, int64_t row, int64_t col) {
    return f->whole ? number(f->whole, row * f->cols + col) : product_at(f->a, f->b, row, col);
}

static void add_row(const module *m, float *delta, int64_t row, int64_t cols) {
    if (m->kind == LOKR) {
        factor w1 = factor_of(m, W1, W1_A, W1_B), w2 = factor_of(m, W2, W2_A, W2_B);
        for (int64_t i = 0; i < w1.cols; i++) {
            double outer = m->scale * factor_at(&w1, row / w2.rows, i);
            for (int64_t j = 0; j < w2.cols; j++) delta[i * w2.cols + j] += (float)(outer * factor_at(&w2, row % w2.rows, j));
        }
        return;
    }
    for (int64_t col = 0; col < cols; col++) {
        double change = m->kind == LOHA ? product_at(m->parts[HADA1_A], m->parts[HADA1_B], row, col) *
                                              product_at(m->parts[HADA2_A], m->parts[HADA2_B], row, col)
                                        : product_at(m->parts[UP], m->parts[DOWN], row, col);
        delta[col] += (float)(m->scale * change);
    }
}

void ink_adapters_add_row(const ink_adapters *adapters, float *delta, const char *name, int64_t row, int64_t cols) {
    size_t n;
    const module *modules = find_modules(adapters, name, &n);
    for (size_t i = 0; i < n; i++) add_row(&modules[i], delta, row, cols);
}

void ink_adapters_fill_low_rank(const ink_adapters *adapters, float *down, float *up, const char *name, int64_t rows,
                                int64_t cols) {
    size_t n;
    const module *modules = find_modules(adapters, name, &n);
    int64_t rank = 0, first = 0;
    for (size_t i = 0; i < n; i++) rank += modules[i].parts[DOWN]->shape[0];
    for (size_t i = 0; i < n; i++) {
        const ink_tensor_info *low = modules[i].parts[DOWN], *high = modules[i].parts[UP];
        int64_t own = low->shape[0];
        ink_convert(down + first * cols, INK_F32, low->data, low->dtype, own * cols);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t r = 0; r < own; r++) up[row * rank + first + r] = (float)(modules[i].scale * number(high, row * own + r));
        first += own;
    }
}

/* ---- finding ------------------------------------------------------------------------------------------------------------- */

static bool module_fits(const module *m, int64_t rows, int64_t cols) {
    if (m->kind == LOW_RANK) return m->parts[UP]->shape[0] == rows && m->parts[DOWN]->shape[1] == cols;
    if (m->kind == LOHA) return m->parts[HADA1_A]->shape[0] == rows && m->parts[HADA1_B]->shape[1] == cols;
    factor w1 = factor_of(m, W1, W1_A, W1_B), w2 = factor_of(m, W2, W2_A, W2_B);
    int64_t own_rows, own_cols;
    return ink_mul_fits(w1.rows, w2.rows, &own_rows) && ink_mul_fits(w1.cols, w2.cols, &own_cols) && own_rows == rows &&
           own_cols == cols;
}

ink_status ink_adapters_find(ink_adapters *adapters, ink_adapter_branch *branch, const char *name, int64_t rows, int64_t cols,
                             ink_error *error) {
    size_t n;
    const module *found = find_modules(adapters, name, &n);
    *branch = (ink_adapter_branch){0};
    for (size_t i = 0; i < n; i++) {
        module *m = &adapters->modules[found - adapters->modules + (ptrdiff_t)i];
        if (!module_fits(m, rows, cols))
            return ink_fail(error, INK_ERROR_FORMAT,
                            "%s: %s does not fit %s, which is [%" PRId64 ", %" PRId64 "]: a LoRA of another model?",
                            m->file->file.path, m->tensor, name, rows, cols);
        m->applied = true;
        if (m->kind == LOW_RANK) branch->rank += m->parts[DOWN]->shape[0];
        branch->dense = branch->dense || m->kind != LOW_RANK;
    }
    /* A full change swallows the narrow ones beside it. */
    if (branch->dense) branch->rank = 0;
    return INK_OK;
}

void ink_adapters_count(const ink_adapters *adapters, int64_t *applied, int64_t *total) {
    *applied = 0;
    *total = (int64_t)adapters->n_tensors;
    for (size_t i = 0; i < adapters->n_modules; i++)
        for (int p = 0; p < N_PARTS; p++) *applied += adapters->modules[i].applied && adapters->modules[i].parts[p];
}

ink_status ink_adapters_check_applied(const ink_adapters *adapters, ink_error *error) {
    for (size_t i = 0; i < adapters->n_modules; i++)
        if (!adapters->modules[i].applied)
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s fits no matrix of this transformer: a LoRA of another model?",
                            adapters->modules[i].file->file.path, adapters->modules[i].tensor);
    return INK_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

/* What a file says of all its modules: the alpha and rank of PEFT's configuration. */
typedef struct defaults {
    double alpha, rank; /* 0: not said */
    bool rank_stabilised;
} defaults;

static ink_status read_defaults(defaults *d, const json_t *object, const char *prefix, const char *origin, ink_error *error) {
    char alpha[64], rank[64], stabilised[64], pattern[64];
    snprintf(alpha, sizeof alpha, "%slora_alpha", prefix);
    snprintf(rank, sizeof rank, "%sr", prefix);
    snprintf(stabilised, sizeof stabilised, "%suse_rslora", prefix);
    snprintf(pattern, sizeof pattern, "%salpha_pattern", prefix);
    if (!json_object_get(object, alpha)) snprintf(alpha, sizeof alpha, "%salpha", prefix);
    ink_json_reader reader = {.object = object, .origin = origin, .error = error};
    d->alpha = ink_json_number_or(&reader, alpha, 0);
    d->rank = ink_json_number_or(&reader, rank, 0);
    d->rank_stabilised = ink_json_bool_or(&reader, stabilised, false);
    if (reader.status == INK_OK && json_object_size(json_object_get(object, pattern)) > 0)
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: \"%s\" gives modules an alpha of their own, which is not supported",
                        origin, pattern);
    return reader.status;
}

/* From adapter_config.json of a folder, or from what diffusers keeps in the file's metadata. */
static ink_status find_defaults(defaults *d, const ink_safetensors *file, const char *folder, ink_error *error) {
    *d = (defaults){0};
    json_t *root = NULL;
    ink_status status;
    if (folder) {
        char *path = ink_format("%s/adapter_config.json", folder);
        if (!path) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", folder);
        status = ink_json_load(&root, path, error);
        if (status == INK_OK) status = read_defaults(d, root, "", path, error);
        ink_free(path);
    } else {
        const char *text = ink_safetensors_metadata(file, "lora_adapter_metadata");
        if (!text) return INK_OK;
        status = ink_json_parse(&root, text, strlen(text), file->file.path, error);
        if (status == INK_OK) status = read_defaults(d, root, "transformer.", file->file.path, error);
    }
    json_decref(root);
    return status;
}

static ink_status fail_module(const module *m, const char *what, ink_error *error) {
    return ink_fail(error, INK_ERROR_FORMAT, "%s: %s %s", m->file->file.path, m->tensor, what);
}

static bool has(const module *m, part p) { return m->parts[p] != NULL; }

/* a [rows, n] and b [n, cols]. */
static bool pair_fits(const module *m, part a, part b) {
    return has(m, a) && has(m, b) && m->parts[a]->shape[1] == m->parts[b]->shape[0] && m->parts[a]->shape[1] > 0;
}

/* Settles the kind, checks that the parts belong together, and gives the rank by which alpha is divided; 0: by none. */
static ink_status settle_kind(module *m, int64_t *rank, ink_error *error) {
    bool low = has(m, DOWN) || has(m, UP), kr = has(m, W1) || has(m, W1_A) || has(m, W2) || has(m, W2_A), ha = has(m, HADA1_A);
    if (low + kr + ha != 1) return fail_module(m, "is of no form that is known, or of several at once", error);
    m->kind = low ? LOW_RANK : kr ? LOKR : LOHA;
    if (low) {
        if (!pair_fits(m, UP, DOWN)) return fail_module(m, "lacks its other half, or their ranks differ", error);
        *rank = m->parts[DOWN]->shape[0];
    } else if (ha) {
        if (!pair_fits(m, HADA1_A, HADA1_B) || !pair_fits(m, HADA2_A, HADA2_B) ||
            m->parts[HADA1_A]->shape[0] != m->parts[HADA2_A]->shape[0] ||
            m->parts[HADA1_B]->shape[1] != m->parts[HADA2_B]->shape[1])
            return fail_module(m, "lacks parts of its LoHa, or they do not fit each other", error);
        *rank = m->parts[HADA1_B]->shape[0];
    } else {
        if ((!has(m, W1) && !pair_fits(m, W1_A, W1_B)) || (!has(m, W2) && !pair_fits(m, W2_A, W2_B)))
            return fail_module(m, "lacks parts of its LoKr, or they do not fit each other", error);
        /* Of two whole factors the scale is already in them. */
        *rank = !has(m, W2) ? m->parts[W2_B]->shape[0] : !has(m, W1) ? m->parts[W1_B]->shape[0] : 0;
    }
    return INK_OK;
}

static ink_status settle(module *m, const defaults *d, ink_error *error) {
    int64_t rank = 0;
    ink_status status = settle_kind(m, &rank, error);
    if (status != INK_OK) return status;
    if (has(m, ALPHA)) {
        if (m->parts[ALPHA]->n_elements != 1 || !isfinite(number(m->parts[ALPHA], 0)))
            return fail_module(m, "has an alpha that is no number", error);
        if (rank > 0) m->scale *= number(m->parts[ALPHA], 0) / (double)rank;
    } else if (d->alpha != 0) {
        double divisor = d->rank > 0 ? d->rank : (double)(rank > 0 ? rank : 1);
        m->scale *= d->alpha / (d->rank_stabilised ? sqrt(divisor) : divisor);
    }
    return INK_OK;
}

/* Adds one tensor of a file to the module that it belongs to, which is the last one or new: names are sorted. */
static ink_status add_tensor(ink_adapters *adapters, size_t first, const ink_safetensors *file, const ink_tensor_info *info,
                             double scale, ink_error *error) {
    int suffix = find_suffix(info->name);
    if (suffix < 0)
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s is part of no LoRA, LoKr or LoHa that is known",
                        file->file.path, info->name);
    if (suffixes[suffix].part < 0)
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s: this form of adapter is not supported", file->file.path,
                        info->name);
    bool matrix = suffixes[suffix].part != ALPHA;
    if (!ink_dtype_is_float(info->dtype) || (matrix && info->n_dims != 2))
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s must be a %s of F32, BF16 or F16", file->file.path, info->name,
                        matrix ? "matrix" : "number");
    char key[MAX_KEY];
    if (!make_key(key, info->name, strlen(info->name) - strlen(suffixes[suffix].suffix)))
        return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s: the name is too long", file->file.path, info->name);
    module *m = NULL;
    for (size_t i = adapters->n_modules; i > first && !m; i--)
        if (strcmp(adapters->modules[i - 1].key, key) == 0) m = &adapters->modules[i - 1];
    if (!m) {
        m = &adapters->modules[adapters->n_modules++];
        *m = (module){.file = file, .tensor = info->name, .scale = scale};
        memcpy(m->key, key, sizeof key);
    }
    if (m->parts[suffixes[suffix].part])
        return ink_fail(error, INK_ERROR_FORMAT, "%s: %s is there twice", file->file.path, info->name);
    m->parts[suffixes[suffix].part] = info;
    adapters->n_tensors++;
    return INK_OK;
}

static ink_status read_file(ink_adapters *adapters, const ink_lora *lora, ink_error *error) {
    struct stat entry;
    if (!isfinite(lora->scale))
        return ink_fail(error, INK_ERROR_ARGUMENT, "%s: the scale %g is no number", lora->path, lora->scale);
    bool folder = stat(lora->path, &entry) == 0 && S_ISDIR(entry.st_mode);
    char *path = folder ? ink_format("%s/adapter_model.safetensors", lora->path) : ink_strdup(lora->path);
    if (!path) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", lora->path);
    ink_safetensors *file = &adapters->files[adapters->n_files];
    ink_status status = ink_safetensors_open(file, path, error);
    ink_free(path);
    if (status != INK_OK) return status;
    adapters->n_files++;
    module *larger = ink_alloc_array(adapters->n_modules + file->n_tensors, sizeof *larger);
    if (!larger) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for its list of modules", lora->path);
    if (adapters->n_modules) memcpy(larger, adapters->modules, adapters->n_modules * sizeof *larger);
    ink_free(adapters->modules);
    adapters->modules = larger;

    defaults d;
    size_t first = adapters->n_modules;
    status = find_defaults(&d, file, folder ? lora->path : NULL, error);
    for (size_t i = 0; status == INK_OK && i < file->n_tensors; i++)
        status = add_tensor(adapters, first, file, &file->tensors[i], lora->scale, error);
    for (size_t i = first; status == INK_OK && i < adapters->n_modules; i++) status = settle(&adapters->modules[i], &d, error);
    return status;
}

static int compare_keys(const void *a, const void *b) { return strcmp(((const module *)a)->key, ((const module *)b)->key); }

ink_status ink_adapters_open(ink_adapters **adapters, const ink_lora *loras, size_t n, ink_error *error) {
    *adapters = ink_alloc(sizeof **adapters);
    if (*adapters) (*adapters)->files = ink_alloc_array(n, sizeof *(*adapters)->files);
    ink_status status = INK_OK;
    if (!*adapters || !(*adapters)->files) status = ink_fail(error, INK_ERROR_MEMORY, "no memory for the list of LoRA files");
    for (size_t i = 0; status == INK_OK && i < n; i++) status = read_file(*adapters, &loras[i], error);
    if (status == INK_OK && (*adapters)->n_modules)
        qsort((*adapters)->modules, (*adapters)->n_modules, sizeof *(*adapters)->modules, compare_keys);
    if (status != INK_OK) ink_adapters_close(adapters);
    return status;
}

void ink_adapters_close(ink_adapters **adapters) {
    if (!*adapters) return;
    for (size_t i = 0; i < (*adapters)->n_files; i++) ink_safetensors_close(&(*adapters)->files[i]);
    ink_free((*adapters)->files);
    ink_free((*adapters)->modules);
    ink_free(*adapters);
    *adapters = NULL;
}
