/*
 * adapters.c - reading LoRA files and adding up what they change.
 *
 * Each form is two small matrices p and q and a way to combine them: low-rank pairs and LoKr by the Kronecker product (with q = [1]
 * for a pair), LoHa element by element. Where p and q are products of narrow matrices so is the change, whose rank is the product
 * of theirs: so LoKr and LoHa too stay small beside a matrix. Sources of the scales: PEFT, tuners/{lora,lokr,loha}/layer.py;
 * LyCORIS; ComfyUI, weight_adapter.
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
#include "tensor/adapter_names.h"
#include "tensor/safetensors.h"

static const double MAX_SCALE = 1e4;      /* that a request may ask for */
static const double MAX_FILE_SCALE = 1e6; /* with alpha over rank */

typedef struct source {
    ink_safetensors file;
    char *origin;  /* owned: how sentences name it */
    json_t *about; /* owned: PEFT's configuration, or NULL */
} source;

typedef enum kind { LOW_RANK, LOKR, LOHA } kind;

/* What one file changes in one matrix. */
typedef struct module {
    ink_adapter_name name; /* of its first tensor */
    const char *tensor;    /* that tensor's whole name, for sentences */
    size_t source;
    const ink_tensor_info *parts[INK_N_ADAPTER_PARTS];
    kind kind;
    double scale; /* of the request, times alpha over rank */
    bool applied;
} module;

struct ink_adapters {
    source *sources;
    size_t n_sources;
    module *modules; /* sorted by key, then by file */
    size_t n_modules, n_tensors;
};

static const char *origin_of(const ink_adapters *adapters, const module *m) { return adapters->sources[m->source].origin; }

static bool has(const module *m, ink_adapter_part part) { return m->parts[part] != NULL; }

/* The modules of a matrix: they stand together. */
static module *find_modules(const ink_adapters *adapters, const char *name, size_t *n) {
    char key[INK_ADAPTER_KEY];
    size_t low = 0, high = adapters->n_modules;
    *n = 0;
    if (!ink_adapter_key(key, name)) return NULL;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(adapters->modules[middle].name.key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    while (low + *n < adapters->n_modules && strcmp(adapters->modules[low + *n].name.key, key) == 0) ++*n;
    return adapters->modules + low;
}

/* ---- factors --------------------------------------------------------------------------------------------------------------- */

/* p or q: the tensors that make it, whole or as a pair; both NULL: the number 1. */
typedef struct factor {
    const ink_tensor_info *whole, *a, *b;
    int64_t rows, cols, rank;
} factor;

static factor factor_of(const module *m, ink_adapter_part whole, ink_adapter_part a, ink_adapter_part b) {
    factor f = {.whole = m->parts[whole], .a = m->parts[a], .b = m->parts[b]};
    f.rows = f.whole ? f.whole->shape[0] : f.a->shape[0];
    f.cols = f.whole ? f.whole->shape[1] : f.b->shape[1];
    /* A whole matrix is itself times the identity, on its narrower side. */
    f.rank = !f.whole ? f.a->shape[1] : f.rows < f.cols ? f.rows : f.cols;
    return f;
}

static void factors_of(const module *m, factor f[2]) {
    f[1] = (factor){.rows = 1, .cols = 1, .rank = 1};
    if (m->kind == LOW_RANK) {
        const ink_tensor_info *up = m->parts[INK_UP], *down = m->parts[INK_DOWN];
        f[0] = (factor){.a = up, .b = down, .rows = up->shape[0], .cols = down->shape[1], .rank = up->shape[1]};
    } else if (m->kind == LOHA) {
        f[0] = (factor){.a = m->parts[INK_HADA_W1_A], .b = m->parts[INK_HADA_W1_B]};
        f[1] = (factor){.a = m->parts[INK_HADA_W2_A], .b = m->parts[INK_HADA_W2_B]};
        for (int i = 0; i < 2; i++) {
            f[i].rows = f[i].a->shape[0];
            f[i].cols = f[i].b->shape[1];
            f[i].rank = f[i].a->shape[1];
        }
    } else {
        f[0] = factor_of(m, INK_LOKR_W1, INK_LOKR_W1_A, INK_LOKR_W1_B);
        f[1] = factor_of(m, INK_LOKR_W2, INK_LOKR_W2_A, INK_LOKR_W2_B);
    }
}

/* ---- finding ------------------------------------------------------------------------------------------------------------- */

/* The size of a module's change, and its rank. False when a number of them has no place. */
static bool measure(const module *m, int64_t *rows, int64_t *cols, int64_t *rank) {
    factor f[2];
    factors_of(m, f);
    *rows = f[0].rows;
    *cols = f[0].cols;
    bool fits = ink_mul_fits(f[0].rank, f[1].rank, rank);
    return fits && (m->kind == LOHA || (ink_mul_fits(*rows, f[1].rows, rows) && ink_mul_fits(*cols, f[1].cols, cols)));
}

ink_status ink_adapters_find(ink_adapters *adapters, ink_adapter_form *form, const char *name, int64_t rows, int64_t cols,
                             ink_error *error) {
    size_t n;
    module *found = find_modules(adapters, name, &n);
    bool narrow = true, pairs = true;
    *form = (ink_adapter_form){0};
    for (size_t i = 0; i < n; i++) {
        int64_t own_rows, own_cols, rank;
        bool sized = measure(&found[i], &own_rows, &own_cols, &rank);
        if (!sized || own_rows != rows || own_cols != cols)
            return ink_fail(error, INK_ERROR_FORMAT,
                            "%s: %s does not fit %s, which is [%" PRId64 ", %" PRId64 "]: a LoRA of another model?",
                            origin_of(adapters, &found[i]), found[i].tensor, name, rows, cols);
        found[i].applied = true;
        narrow = narrow && ink_add_fits(form->rank, rank, &form->rank);
        pairs = pairs && found[i].kind == LOW_RANK;
    }
    int64_t numbers, most;
    narrow = narrow && ink_add_fits(rows, cols, &most) && ink_mul_fits(form->rank, most, &numbers);
    if (n > 0 && (!narrow || (!pairs && ink_mul_fits(rows, cols, &most) && numbers >= most)))
        *form = (ink_adapter_form){.dense = true};
    return INK_OK;
}

void ink_adapters_count(const ink_adapters *adapters, int64_t *applied, int64_t *total) {
    *applied = 0;
    *total = (int64_t)adapters->n_tensors;
    for (size_t i = 0; i < adapters->n_modules; i++)
        for (int p = 0; p < INK_N_ADAPTER_PARTS; p++) *applied += adapters->modules[i].applied && adapters->modules[i].parts[p];
}

ink_status ink_adapters_check_applied(const ink_adapters *adapters, ink_error *error) {
    for (size_t i = 0; i < adapters->n_modules; i++)
        if (!adapters->modules[i].applied)
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s fits no matrix of this transformer: a LoRA of another model?",
                            origin_of(adapters, &adapters->modules[i]), adapters->modules[i].tensor);
    return INK_OK;
}

/* ---- the change of one matrix ------------------------------------------------------------------------------------------- */

/* A factor as numbers: a [rows, rank] times b [rank, cols], both owned; NULL is the identity. */
typedef struct product {
    int64_t rows, cols, rank;
    float *a, *b;
} product;

typedef struct term {
    bool kronecker; /* p and q as blocks; else element by element */
    float scale;
    product p, q;
} term;

struct ink_change {
    term *terms;
    size_t n_terms;
    int64_t rows, cols, rank;
    float *p_row, *q_row; /* [cols] each */
};

/* *values = the elements of a tensor. */
static ink_status read_values(float **values, const ink_tensor_info *info, const char *origin, ink_error *error) {
    *values = ink_alloc_array((size_t)info->n_elements, sizeof **values);
    if (!*values) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for tensor %s", origin, info->name);
    ink_convert(*values, INK_F32, info->data, info->dtype, info->n_elements);
    for (int64_t i = 0; i < info->n_elements; i++)
        if (!isfinite((*values)[i]))
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s holds NaN or infinity", origin, info->name);
    return INK_OK;
}

static ink_status read_product(product *dst, const factor *f, const char *origin, ink_error *error) {
    ink_status status = INK_OK;
    *dst = (product){.rows = f->rows, .cols = f->cols, .rank = f->rank};
    if (f->whole) return read_values(f->cols == f->rank ? &dst->a : &dst->b, f->whole, origin, error);
    if (f->a) status = read_values(&dst->a, f->a, origin, error);
    if (f->b && status == INK_OK) status = read_values(&dst->b, f->b, origin, error);
    return status;
}

ink_status ink_change_open(ink_change **change, const ink_adapters *adapters, const char *name, int64_t rows, int64_t cols,
                           ink_error *error) {
    size_t n;
    const module *found = find_modules(adapters, name, &n);
    ink_change *made = *change = ink_alloc(sizeof *made);
    if (made) {
        *made = (ink_change){.rows = rows, .cols = cols};
        made->terms = ink_alloc_array(n, sizeof *made->terms);
        made->p_row = ink_alloc_array((size_t)cols, sizeof *made->p_row);
        made->q_row = ink_alloc_array((size_t)cols, sizeof *made->q_row);
    }
    ink_status status = INK_OK;
    if (!made || !made->terms || !made->p_row || !made->q_row)
        status = ink_fail(error, INK_ERROR_MEMORY, "no memory for the LoRA of %s", name);
    for (size_t i = 0; i < n && status == INK_OK; i++) {
        const char *origin = origin_of(adapters, &found[i]);
        term *t = &made->terms[made->n_terms++];
        factor f[2];
        factors_of(&found[i], f);
        *t = (term){.kronecker = found[i].kind != LOHA, .scale = (float)found[i].scale};
        status = read_product(&t->p, &f[0], origin, error);
        if (status == INK_OK) status = read_product(&t->q, &f[1], origin, error);
        made->rank += f[0].rank * f[1].rank;
    }
    if (status != INK_OK) ink_change_close(change);
    return status;
}

void ink_change_close(ink_change **change) {
    if (!*change) return;
    for (size_t i = 0; i < (*change)->n_terms; i++) {
        const product *of[2] = {&(*change)->terms[i].p, &(*change)->terms[i].q};
        for (int j = 0; j < 2; j++) {
            ink_free(of[j]->a);
            ink_free(of[j]->b);
        }
    }
    ink_free((*change)->terms);
    ink_free((*change)->p_row);
    ink_free((*change)->q_row);
    ink_free(*change);
    *change = NULL;
}

static float left_at(const product *p, int64_t row, int64_t k) { return p->a ? p->a[row * p->rank + k] : (float)(row == k); }

static float right_at(const product *p, int64_t k, int64_t col) { return p->b ? p->b[k * p->cols + col] : (float)(k == col); }

/* The columns of up and rows of down that are a term's, from `first` on. */
static void fill_low_rank(const ink_change *change, const term *t, int64_t first, float *down, float *up) {
    const product *p = &t->p, *q = &t->q;
    for (int64_t row = 0; row < change->rows; row++) {
        int64_t p_row = t->kronecker ? row / q->rows : row, q_row = t->kronecker ? row % q->rows : row;
        float *dst = up + row * change->rank + first;
        for (int64_t i = 0; i < p->rank; i++)
            for (int64_t j = 0; j < q->rank; j++) *dst++ = t->scale * left_at(p, p_row, i) * left_at(q, q_row, j);
    }
    float *dst = down + first * change->cols;
    for (int64_t i = 0; i < p->rank; i++)
        for (int64_t j = 0; j < q->rank; j++) {
            if (!t->kronecker)
                for (int64_t col = 0; col < p->cols; col++) *dst++ = right_at(p, i, col) * right_at(q, j, col);
            else
                for (int64_t p_col = 0; p_col < p->cols; p_col++)
                    for (int64_t q_col = 0; q_col < q->cols; q_col++) *dst++ = right_at(p, i, p_col) * right_at(q, j, q_col);
        }
}

void ink_change_low_rank(const ink_change *change, float *down, float *up) {
    int64_t first = 0;
    for (size_t i = 0; i < change->n_terms; i++) {
        fill_low_rank(change, &change->terms[i], first, down, up);
        first += change->terms[i].p.rank * change->terms[i].q.rank;
    }
}

/* dst [cols] = a row of the product: by whole rows of b, which compilers turn into vectors. */
static void product_row(float *dst, const product *p, int64_t row) {
    if (!p->a || !p->b) {
        for (int64_t col = 0; col < p->cols; col++) dst[col] = p->a ? left_at(p, row, col) : right_at(p, row, col);
        return;
    }
    memset(dst, 0, (size_t)p->cols * sizeof *dst);
    for (int64_t k = 0; k < p->rank; k++) {
        const float *b = p->b + k * p->cols;
        float a = p->a[row * p->rank + k];
        for (int64_t col = 0; col < p->cols; col++) dst[col] += a * b[col];
    }
}

void ink_change_add_row(ink_change *change, float *dst, int64_t row) {
    float *x = change->p_row, *y = change->q_row;
    for (size_t i = 0; i < change->n_terms; i++) {
        const term *t = &change->terms[i];
        product_row(x, &t->p, t->kronecker ? row / t->q.rows : row);
        product_row(y, &t->q, t->kronecker ? row % t->q.rows : row);
        if (!t->kronecker)
            for (int64_t col = 0; col < change->cols; col++) dst[col] += t->scale * x[col] * y[col];
        else if (t->q.cols == 1)
            for (int64_t col = 0; col < change->cols; col++) dst[col] += t->scale * x[col] * y[0];
        else
            for (int64_t p_col = 0; p_col < t->p.cols; p_col++)
                for (int64_t q_col = 0; q_col < t->q.cols; q_col++)
                    dst[p_col * t->q.cols + q_col] += t->scale * x[p_col] * y[q_col];
    }
}

/* ---- alpha and rank ---------------------------------------------------------------------------------------------------------- */

/* Reads one key of PEFT's configuration; in the metadata of diffusers' files the keys have a prefix. */
typedef struct about_reader {
    ink_json_reader json;
    const char *prefix;
    char key[64];
} about_reader;

static const char *about_key(about_reader *from, const char *name) {
    snprintf(from->key, sizeof from->key, "%s%s", from->prefix, name);
    return from->key;
}

/* NAN when it is not said. */
static double about_number(about_reader *from, const char *name) {
    return ink_json_number_or(&from->json, about_key(from, name), NAN);
}

/* The value of the first pattern of that table that the module matches, else `otherwise`. */
static double about_pattern(about_reader *from, const char *name, const module *m, double otherwise) {
    const json_t *table = ink_json_object_or_null(&from->json, about_key(from, name)), *value;
    const char *pattern;
    if (!table || from->json.status != INK_OK) return otherwise;
    json_object_foreach((json_t *)(uintptr_t)table, pattern, value) {
        if (!ink_adapter_pattern_is_plain(pattern) || !json_is_number(value)) {
            ink_json_fail(&from->json, INK_ERROR_UNSUPPORTED,
                          "\"%s\": only plain names of modules with numbers are supported, not %.100s", from->key, pattern);
            return otherwise;
        }
        if (ink_adapter_pattern_matches(pattern, m->name.module, m->name.n_module)) return json_number_value(value);
    }
    return otherwise;
}

/* Some ways to begin a training change the weights themselves, and the file then is to be added to the changed ones. */
static void check_begin(about_reader *from) {
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal", "lycoris"};
    const json_t *value = json_object_get(from->json.object, about_key(from, "init_lora_weights"));
    if (!json_is_string(value)) return;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strcmp(json_string_value(value), harmless[i]) == 0) return;
    ink_json_fail(&from->json, INK_ERROR_UNSUPPORTED, "\"%s\" is %.60s: such a LoRA fits a changed model only", from->key,
                  json_string_value(value));
}

/* What stands in the file's own alpha. Converters also write integers. */
static double read_alpha(const ink_tensor_info *info) {
    float value;
    int64_t whole;
    int32_t short_whole;
    double number;
    if (info->n_elements != 1) return NAN;
    if (ink_dtype_is_float(info->dtype)) {
        ink_convert(&value, INK_F32, info->data, info->dtype, 1);
        return (double)value;
    }
    if (strcmp(info->dtype_name, "I64") == 0) return (double)*(int64_t *)memcpy(&whole, info->data, sizeof whole);
    if (strcmp(info->dtype_name, "I32") == 0) return (double)*(int32_t *)memcpy(&short_whole, info->data, sizeof short_whole);
    if (strcmp(info->dtype_name, "F64") == 0) return *(double *)memcpy(&number, info->data, sizeof number);
    return NAN;
}

/* What PEFT's configuration says of the module's scale. */
static double scale_by_configuration(const source *s, const module *m, int64_t rank, about_reader *from) {
    double alpha = about_number(from, "lora_alpha"), r = about_number(from, "r");
    if (isnan(alpha)) alpha = about_number(from, "alpha");
    alpha = about_pattern(from, "alpha_pattern", m, alpha);
    r = about_pattern(from, "rank_pattern", m, r);
    /* The tensors know better, but for LoKr, where PEFT divides by the rank that was asked for. */
    if (m->kind != LOKR || isnan(r)) r = (double)(rank > 0 ? rank : 1);
    bool stabilised = ink_json_bool_or(&from->json, about_key(from, "use_rslora"), false);
    if (isnan(alpha) || !s->about) return 1;
    return alpha / (stabilised ? sqrt(r) : r);
}

static ink_status settle_scale(const ink_adapters *adapters, module *m, int64_t rank, ink_error *error) {
    const source *s = &adapters->sources[m->source];
    double scale = 1;
    if (has(m, INK_ALPHA)) {
        double alpha = read_alpha(m->parts[INK_ALPHA]);
        if (!isfinite(alpha))
            return ink_fail(error, INK_ERROR_FORMAT, "%s: %s has an alpha that is no number", s->origin, m->tensor);
        if (rank > 0) scale = alpha / (double)rank;
    } else if (s->about) {
        /* Of the two kinds of configuration only that in the metadata holds dots in its keys. */
        bool prefixed = json_object_get(s->about, "transformer.r") != NULL;
        about_reader from = {.json = {.object = s->about, .origin = s->origin, .error = error},
                             .prefix = prefixed ? "transformer." : ""};
        check_begin(&from);
        scale = scale_by_configuration(s, m, rank, &from);
        if (from.json.status != INK_OK) return from.json.status;
    }
    m->scale *= scale;
    if (fabs(m->scale) <= MAX_FILE_SCALE) return INK_OK;
    return ink_fail(error, INK_ERROR_FORMAT, "%s: the alpha of %s makes a scale of %g", s->origin, m->tensor, m->scale);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

static ink_status fail_module(const ink_adapters *adapters, const module *m, const char *what, ink_error *error) {
    return ink_fail(error, INK_ERROR_FORMAT, "%s: %s %s", origin_of(adapters, m), m->tensor, what);
}

/* a [rows, n] and b [n, cols]. */
static bool pair_fits(const module *m, ink_adapter_part a, ink_adapter_part b) {
    return has(m, a) && has(m, b) && m->parts[a]->shape[1] == m->parts[b]->shape[0] && m->parts[a]->shape[1] > 0;
}

static bool factor_fits(const module *m, ink_adapter_part whole, ink_adapter_part a, ink_adapter_part b) {
    return has(m, whole) ? !has(m, a) && !has(m, b) : pair_fits(m, a, b);
}

/* Settles the kind, checks that the parts belong together, and gives the rank by which alpha is divided; 0: by none. */
static ink_status settle(const ink_adapters *adapters, module *m, ink_error *error) {
    bool low = has(m, INK_DOWN) || has(m, INK_UP), kr = false, ha = false;
    int64_t rank = 0;
    for (int p = INK_LOKR_W1; p <= INK_LOKR_W2_B; p++) kr = kr || m->parts[p];
    for (int p = INK_HADA_W1_A; p <= INK_HADA_W2_B; p++) ha = ha || m->parts[p];
    int n_kinds = low + kr + ha;
    if (n_kinds != 1) return fail_module(adapters, m, n_kinds > 0 ? "is LoRA, LoKr and LoHa at once" : "is alone", error);
    m->kind = low ? LOW_RANK : kr ? LOKR : LOHA;
    if (low) {
        if (!pair_fits(m, INK_UP, INK_DOWN)) return fail_module(adapters, m, "lacks its other half, or their ranks differ", error);
        rank = m->parts[INK_DOWN]->shape[0];
    } else if (ha) {
        if (!pair_fits(m, INK_HADA_W1_A, INK_HADA_W1_B) || !pair_fits(m, INK_HADA_W2_A, INK_HADA_W2_B) ||
            m->parts[INK_HADA_W1_A]->shape[0] != m->parts[INK_HADA_W2_A]->shape[0] ||
            m->parts[INK_HADA_W1_B]->shape[1] != m->parts[INK_HADA_W2_B]->shape[1])
            return fail_module(adapters, m, "lacks parts of its LoHa, or they do not fit each other", error);
        rank = m->parts[INK_HADA_W1_B]->shape[0];
    } else {
        if (!factor_fits(m, INK_LOKR_W1, INK_LOKR_W1_A, INK_LOKR_W1_B) ||
            !factor_fits(m, INK_LOKR_W2, INK_LOKR_W2_A, INK_LOKR_W2_B))
            return fail_module(adapters, m, "lacks parts of its LoKr, or they do not fit each other", error);
        /* Of two whole factors the scale is already in them. */
        rank = !has(m, INK_LOKR_W2)   ? m->parts[INK_LOKR_W2_B]->shape[0]
               : !has(m, INK_LOKR_W1) ? m->parts[INK_LOKR_W1_B]->shape[0]
                                      : 0;
    }
    return settle_scale(adapters, m, rank, error);
}

/* A tensor of a file and what its name says. */
typedef struct entry {
    ink_adapter_name name;
    const ink_tensor_info *info;
} entry;

/* By key, then by the tensors' names, which differ. */
static int compare_entries(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = strcmp(x->name.key, y->name.key);
    return order ? order : strcmp(x->info->name, y->info->name);
}

static int compare_modules(const void *a, const void *b) {
    const module *x = a, *y = b;
    int order = strcmp(x->name.key, y->name.key);
    return order ? order : (x->source > y->source) - (x->source < y->source);
}

static ink_status read_entries(entry *entries, const source *s, ink_error *error) {
    ink_status status = INK_OK;
    for (size_t i = 0; i < s->file.n_tensors && status == INK_OK; i++) {
        const ink_tensor_info *info = &s->file.tensors[i];
        entries[i].info = info;
        status = ink_adapter_name_parse(&entries[i].name, info->name, s->origin, error);
        if (status != INK_OK || entries[i].name.part == INK_ALPHA) continue;
        if (!ink_dtype_is_float(info->dtype) || info->n_dims != 2)
            status = ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s must be a matrix of F32, BF16, F16 or F8_E4M3",
                              s->origin, info->name);
    }
    if (status == INK_OK && s->file.n_tensors > 0) qsort(entries, s->file.n_tensors, sizeof *entries, compare_entries);
    return status;
}

/* Makes modules of the sorted entries of the last source, after those that are there. */
static ink_status group_entries(ink_adapters *adapters, const entry *entries, double scale, ink_error *error) {
    const source *s = &adapters->sources[adapters->n_sources - 1];
    module *m = NULL;
    for (size_t i = 0; i < s->file.n_tensors; i++) {
        const entry *e = &entries[i];
        if (!m || strcmp(m->name.key, e->name.key) != 0) {
            m = &adapters->modules[adapters->n_modules++];
            *m = (module){.name = e->name, .tensor = e->info->name, .source = adapters->n_sources - 1, .scale = scale};
        }
        if (m->parts[e->name.part])
            return ink_fail(error, INK_ERROR_FORMAT, "%s: %s and %s are the same part of a module", s->origin,
                            m->parts[e->name.part]->name, e->info->name);
        m->parts[e->name.part] = e->info;
        adapters->n_tensors++;
    }
    return INK_OK;
}

/* Adds the modules of the last source, whose file is open. */
static ink_status add_source(ink_adapters *adapters, double scale, ink_error *error) {
    const source *s = &adapters->sources[adapters->n_sources - 1];
    size_t first = adapters->n_modules;
    /* A number that is not NaN and not large. */
    if (!(fabs(scale) <= MAX_SCALE))
        return ink_fail(error, INK_ERROR_ARGUMENT, "%s: the scale %g is out of range: expected a number from %g to %g", s->origin,
                        scale, -MAX_SCALE, MAX_SCALE);
    module *larger = ink_alloc_array(first + s->file.n_tensors, sizeof *larger);
    entry *entries = ink_alloc_array(s->file.n_tensors, sizeof *entries);
    ink_status status = INK_OK;
    if (larger) {
        if (first > 0) memcpy(larger, adapters->modules, first * sizeof *larger);
        ink_free(adapters->modules);
        adapters->modules = larger;
    }
    if (!larger || !entries) status = ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for its list of modules", s->origin);
    if (status == INK_OK && s->file.n_tensors == 0) status = ink_fail(error, INK_ERROR_FORMAT, "%s: holds no tensor", s->origin);
    if (status == INK_OK) status = read_entries(entries, s, error);
    if (status == INK_OK) status = group_entries(adapters, entries, scale, error);
    for (size_t i = first; status == INK_OK && i < adapters->n_modules; i++)
        status = settle(adapters, &adapters->modules[i], error);
    ink_free(entries);
    return status;
}

/* What diffusers keeps of PEFT's configuration in the file's metadata. */
static ink_status read_metadata(source *s, ink_error *error) {
    const char *text = ink_safetensors_metadata(&s->file, "lora_adapter_metadata");
    return text ? ink_json_parse(&s->about, text, strlen(text), s->origin, error) : INK_OK;
}

/* PEFT's configuration beside its file; paths are owned. */
static ink_status open_folder(source *s, const char *folder, ink_error *error) {
    char *config = ink_format("%s/adapter_config.json", folder);
    s->origin = ink_format("%s/adapter_model.safetensors", folder);
    ink_status status = config && s->origin ? INK_OK : ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", folder);
    if (status == INK_OK) status = ink_safetensors_open(&s->file, s->origin, error);
    if (status == INK_OK) status = ink_json_load(&s->about, config, error);
    ink_free(config);
    return status;
}

static ink_status open_source(source *s, const char *path, ink_error *error) {
    struct stat found;
    if (!path) return ink_fail(error, INK_ERROR_ARGUMENT, "a LoRA has no path");
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode)) return open_folder(s, path, error);
    s->origin = ink_strdup(path);
    if (!s->origin) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", path);
    ink_status status = ink_safetensors_open(&s->file, path, error);
    return status == INK_OK ? read_metadata(s, error) : status;
}

static ink_status create(ink_adapters **adapters, size_t n, ink_error *error) {
    *adapters = ink_alloc(sizeof **adapters);
    if (*adapters) (*adapters)->sources = ink_alloc_array(n, sizeof *(*adapters)->sources);
    if (*adapters && (*adapters)->sources) return INK_OK;
    return ink_fail(error, INK_ERROR_MEMORY, "no memory for the list of LoRA files");
}

static ink_status finish(ink_adapters **adapters, ink_status status) {
    if (status != INK_OK)
        ink_adapters_close(adapters);
    else if ((*adapters)->n_modules > 0)
        qsort((*adapters)->modules, (*adapters)->n_modules, sizeof *(*adapters)->modules, compare_modules);
    return status;
}

ink_status ink_adapters_open(ink_adapters **adapters, const ink_lora *loras, size_t n, ink_error *error) {
    ink_status status = create(adapters, n, error);
    for (size_t i = 0; status == INK_OK && i < n; i++) {
        status = open_source(&(*adapters)->sources[(*adapters)->n_sources++], loras[i].path, error);
        if (status == INK_OK) status = add_source(*adapters, loras[i].scale, error);
    }
    return finish(adapters, status);
}

ink_status ink_adapters_parse(ink_adapters **adapters, const void *bytes, size_t size, const ink_lora *lora, ink_error *error) {
    ink_status status = create(adapters, 1, error);
    if (status == INK_OK) {
        source *s = &(*adapters)->sources[(*adapters)->n_sources++];
        s->origin = ink_strdup(lora->path);
        status = s->origin ? ink_safetensors_parse(&s->file, bytes, size, s->origin, error)
                           : ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to read it", lora->path);
        if (status == INK_OK) status = read_metadata(s, error);
        if (status == INK_OK) status = add_source(*adapters, lora->scale, error);
    }
    return finish(adapters, status);
}

void ink_adapters_close(ink_adapters **adapters) {
    if (!*adapters) return;
    for (size_t i = 0; i < (*adapters)->n_sources; i++) {
        source *s = &(*adapters)->sources[i];
        ink_safetensors_close(&s->file);
        json_decref(s->about);
        ink_free(s->origin);
    }
    ink_free((*adapters)->sources);
    ink_free((*adapters)->modules);
    ink_free(*adapters);
    *adapters = NULL;
}
