/*
 * quantize_model.c - writing a model in another precision, row by row: plan, calibrate, then one file after the other.
 *
 * The folder takes its name when all is in it. Until then it is called OUT.partial-...; its model_index.json comes last, and a file
 * of weights is none before its header, which comes last too.
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/memory.h"
#include "base/system.h"
#include "base/threads.h"
#include "pipeline/output_folder.h"
#include "pipeline/quantize_calibrate.h"
#include "pipeline/quantize_plan.h"
#include "tensor/quantize.h"
#include "tensor/safetensors_writer.h"

static const int64_t CALIBRATE_BELOW_BYTES = 2000000000;
static const int64_t CHUNK_ELEMENTS =
    1 << 21; /* of one piece of work: large enough for threads and disk, small enough for any machine */
enum { COPY_BYTES = 1 << 23, MAX_FILE_NAME = 80 };

static const char *const precision_names[] = {"auto", "f32", "bf16", "fp8", "q8", "q4", "int8"};

typedef struct job {
    ink_model *model;
    const ink_quantize_options *options;
    ink_quantize_plan plan;
    ink_threads *threads;
    ink_output_folder folder;
    char *calibration;
    double began;
    int64_t done_bytes; /* of the source */
    ink_error *error;
} job;

static ink_status fail_memory(const job *j) { return ink_fail(j->error, INK_ERROR_MEMORY, "no memory to write the model"); }

static ink_status report(const job *j) {
    const ink_quantize_options *options = j->options;
    const ink_quantize_progress progress = {.activity = "writing",
                                            .done_bytes = j->done_bytes,
                                            .total_bytes = j->plan.source_bytes,
                                            .seconds = ink_seconds() - j->began};
    if (!options->progress || options->progress(options->progress_user, &progress) == 0) return INK_OK;
    return ink_fail(j->error, INK_ERROR_CANCELLED, "cancelled");
}

/* ---- one matrix ------------------------------------------------------------------------------------------------------ */

/* Some rows of a matrix on their way. */
typedef struct chunk {
    const ink_weight *stored;
    int64_t first;        /* row of the matrix that is row 0 here */
    ink_weight made;      /* its memory is owned */
    float *rows;          /* [workers][2 * cols]: a row before and after */
    ink_error_sums *sums; /* [made.rows] */
} chunk;

/* Of scales, and of biases: bytes for each row. */
static int64_t scale_bytes(const ink_weight *w) {
    return w->group ? w->cols / w->group * (int64_t)sizeof(uint16_t) : w->n_scales ? (int64_t)sizeof(float) : 0;
}

static bool take_chunk(chunk *c, const job *j, const ink_quantize_item *item) {
    const ink_weight *w = &item->stored;
    int64_t rows = CHUNK_ELEMENTS / w->cols;
    if (rows < 1) rows = 1;
    if (rows > w->rows) rows = w->rows;
    *c = (chunk){.stored = w};
    ink_quantize_describe(&c->made, item->form, rows, w->cols);
    c->made.data = ink_alloc((size_t)ink_weight_data_bytes(&c->made));
    const size_t n_scale_bytes = (size_t)(rows * scale_bytes(&c->made));
    if (n_scale_bytes > 0) { /* a form without scales has none, not empty ones */
        c->made.scales = ink_alloc(n_scale_bytes);
        c->made.biases = ink_alloc(n_scale_bytes);
        if (!c->made.scales || !c->made.biases) return false;
    }
    c->rows = ink_alloc_array((size_t)ink_threads_count(j->threads), 2 * (size_t)w->cols * sizeof *c->rows);
    c->sums = ink_alloc_array((size_t)rows, sizeof *c->sums);
    return c->made.data && c->rows && c->sums;
}

static void release_chunk(chunk *c) {
    ink_free((void *)(uintptr_t)c->made.data);
    ink_free((void *)(uintptr_t)c->made.scales);
    ink_free((void *)(uintptr_t)c->made.biases);
    ink_free(c->rows);
    ink_free(c->sums);
}

static void convert_row(void *context, int64_t i, int64_t worker) {
    chunk *c = context;
    int64_t cols = c->made.cols;
    float *before = c->rows + 2 * worker * cols, *after = before + cols;
    ink_weight_decode(before, c->stored, c->first + i, 0, cols);
    ink_quantize_encode_row(&c->made, i, before);
    ink_weight_decode(after, &c->made, i, 0, cols);
    ink_error_sums sums = {0, 0};
    for (int64_t k = 0; k < cols; k++) {
        double difference = (double)after[k] - before[k];
        sums.difference += difference * difference;
        sums.norm += (double)before[k] * before[k];
    }
    c->sums[i] = sums;
}

/* Writes item, whose parts are first and those behind it. */
static ink_status write_converted(job *j, ink_safetensors_writer *writer, size_t first, ink_quantize_item *item) {
    chunk c;
    ink_status status = take_chunk(&c, j, item) ? INK_OK : fail_memory(j);
    const ink_weight *w = &item->stored;
    int64_t most = c.made.rows, row_source = ink_weight_data_bytes(w) / w->rows, row_scales = scale_bytes(&c.made);
    for (; status == INK_OK && c.first < w->rows; c.first += most) {
        /* The scales of 8-bit floats are counted by rows, and a last chunk may have fewer. */
        int64_t n = w->rows - c.first < most ? w->rows - c.first : most, row_bytes;
        ink_threads_run(j->threads, n, convert_row, &c);
        c.made.rows = n;
        row_bytes = ink_weight_data_bytes(&c.made) / n;
        status = ink_safetensors_writer_put(writer, first, c.first * row_bytes, c.made.data, n * row_bytes, j->error);
        if (status == INK_OK && row_scales)
            status = ink_safetensors_writer_put(writer, first + 1, c.first * row_scales, c.made.scales, n * row_scales, j->error);
        if (status == INK_OK && c.made.group)
            status = ink_safetensors_writer_put(writer, first + 2, c.first * row_scales, c.made.biases, n * row_scales, j->error);
        for (int64_t i = 0; i < n; i++) {
            item->weight.difference += c.sums[i].difference;
            item->weight.norm += c.sums[i].norm;
        }
        ink_mapfile_drop((const unsigned char *)w->data + c.first * row_source, (size_t)(n * row_source));
        j->done_bytes += n * row_source;
        if (status == INK_OK) status = report(j);
    }
    release_chunk(&c);
    return status;
}

static ink_status write_copied(job *j, ink_safetensors_writer *writer, size_t first, const ink_quantize_item *item) {
    ink_status status = INK_OK;
    int64_t size = (int64_t)item->info->n_bytes;
    for (int64_t at = 0, n; status == INK_OK && at < size; at += n) {
        n = size - at < COPY_BYTES ? size - at : COPY_BYTES;
        status = ink_safetensors_writer_put(writer, first, at, item->info->data + at, n, j->error);
        ink_mapfile_drop(item->info->data + at, (size_t)n);
        j->done_bytes += n;
        if (status == INK_OK) status = report(j);
    }
    return status;
}

/* ---- one file --------------------------------------------------------------------------------------------------------- */

static void shard_name(char name[MAX_FILE_NAME], const ink_quantize_component *part, size_t shard) {
    const char *stem = ink_component_stem(part->component);
    if (part->n_shards == 1)
        snprintf(name, MAX_FILE_NAME, "%s.safetensors", stem);
    else
        snprintf(name, MAX_FILE_NAME, "%s-%05zu-of-%05zu.safetensors", stem, shard + 1, part->n_shards);
}

/* The tensors of one file. */
typedef struct shard_list {
    ink_quantize_part *parts;   /* hold the names */
    ink_writer_tensor *tensors; /* the same for the writer */
    size_t n;
} shard_list;

static bool list_shard(shard_list *list, const ink_quantize_component *part, size_t shard) {
    size_t n_items = 0;
    for (size_t i = 0; i < part->n_items; i++) n_items += !part->items[i].dropped && part->items[i].shard == shard;
    *list = (shard_list){.parts = ink_alloc_array(n_items, INK_MAX_PARTS * sizeof *list->parts),
                         .tensors = ink_alloc_array(n_items, INK_MAX_PARTS * sizeof *list->tensors)};
    if (!list->parts || !list->tensors) return false;
    for (size_t i = 0; i < part->n_items; i++)
        if (!part->items[i].dropped && part->items[i].shard == shard)
            list->n += (size_t)ink_quantize_parts(&list->parts[list->n], &part->items[i]);
    for (size_t i = 0; i < list->n; i++) {
        const ink_quantize_part *from = &list->parts[i];
        list->tensors[i] = (ink_writer_tensor){
            .name = from->name, .dtype = from->dtype, .element_bytes = from->element_bytes, .n_dims = from->n_dims};
        memcpy(list->tensors[i].shape, from->shape, sizeof from->shape);
    }
    return true;
}

static ink_status write_items(job *j, ink_safetensors_writer *writer, const ink_quantize_component *part, size_t shard) {
    ink_status status = INK_OK;
    ink_quantize_part unused[INK_MAX_PARTS];
    size_t first = 0;
    for (size_t i = 0; status == INK_OK && i < part->n_items; i++) {
        ink_quantize_item *item = &part->items[i];
        if (item->dropped || item->shard != shard) continue;
        status = item->converted ? write_converted(j, writer, first, item) : write_copied(j, writer, first, item);
        first += (size_t)ink_quantize_parts(unused, item);
    }
    return status;
}

static ink_status write_shard(job *j, const ink_quantize_component *part, size_t shard) {
    char name[MAX_FILE_NAME];
    const char *const metadata[] = {
        "format", "pt", "inkstone_format", "1", "inkstone_precision", precision_names[j->options->precision], NULL};
    shard_list list;
    ink_safetensors_writer writer = {.descriptor = -1};
    shard_name(name, part, shard);
    char *path = ink_format("%s/%s/%s", j->folder.partial, ink_component_name(part->component), name);
    ink_status status = list_shard(&list, part, shard) && path ? INK_OK : fail_memory(j);
    if (status == INK_OK) status = ink_safetensors_writer_open(&writer, path, list.tensors, list.n, metadata, j->error);
    if (status == INK_OK) status = write_items(j, &writer, part, shard);
    if (status == INK_OK) status = ink_safetensors_writer_finish(&writer, j->error);
    ink_safetensors_writer_discard(&writer);
    ink_free(list.parts);
    ink_free(list.tensors);
    ink_free(path);
    return status;
}

/* ---- one component ------------------------------------------------------------------------------------------------------ */

/* {"metadata": {"total_size": n}, "weight_map": {tensor: file}}; NULL without memory. */
static json_t *make_index(const ink_quantize_component *part) {
    json_t *map = json_object();
    int64_t total = 0;
    int failed = !map;
    for (size_t i = 0; i < part->n_items; i++) {
        ink_quantize_part parts[INK_MAX_PARTS];
        char file[MAX_FILE_NAME];
        if (part->items[i].dropped) continue;
        shard_name(file, part, part->items[i].shard);
        for (int k = ink_quantize_parts(parts, &part->items[i]) - 1; k >= 0; k--) {
            failed |= json_object_set_new(map, parts[k].name, json_string(file));
            total += parts[k].n_bytes;
        }
    }
    json_t *index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (!failed) return index;
    json_decref(index);
    return NULL;
}

static ink_status write_index(job *j, const ink_quantize_component *part) {
    json_t *index = make_index(part);
    size_t size = index ? json_dumpb(index, NULL, 0, JSON_INDENT(2) | JSON_SORT_KEYS) : 0;
    char *text = size ? ink_alloc(size) : NULL;
    char *name = ink_format("%s/%s.safetensors.index.json", ink_component_name(part->component),
                            ink_component_stem(part->component));
    bool made = text && name && json_dumpb(index, text, size, JSON_INDENT(2) | JSON_SORT_KEYS) == size;
    ink_status status = made ? ink_output_folder_write(&j->folder, name, text, size, j->error) : fail_memory(j);
    json_decref(index);
    ink_free(text);
    ink_free(name);
    return status;
}

static ink_status write_component(job *j, const ink_quantize_component *part) {
    const char *folder = ink_component_name(part->component);
    char *config = NULL, *name = ink_format("%s/config.json", folder);
    ink_status status = name ? ink_output_folder_add(&j->folder, folder, j->error) : fail_memory(j);
    if (status == INK_OK) status = ink_component_config(&j->model->sources, part->component, &config, j->error);
    if (status == INK_OK && config) status = ink_output_folder_copy(&j->folder, config, name, j->error);
    ink_free(config);
    ink_free(name);
    for (size_t shard = 0; status == INK_OK && shard < part->n_shards; shard++) status = write_shard(j, part, shard);
    return status == INK_OK && part->n_shards > 1 ? write_index(j, part) : status;
}

/* ---- what is no weight ------------------------------------------------------------------------------------------------------ */

/* A file of the source's folder, under the same name; nothing when there is none. */
static ink_status copy_from_dir(job *j, const char *name) {
    if (!j->model->sources.dir) return INK_OK;
    char *source = ink_format("%s/%s", j->model->sources.dir, name);
    ink_status status = source ? ink_output_folder_copy(&j->folder, source, name, j->error) : fail_memory(j);
    ink_free(source);
    return status;
}

/* What tokenizers are read from, here or elsewhere. The folder may hold anything else, such as weights. */
static const char *const tokenizer_files[] = {"vocab.json",
                                              "merges.txt",
                                              "tokenizer.json",
                                              "added_tokens.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "chat_template.json",
                                              "chat_template.jinja"};

static ink_status copy_tokenizer(job *j) {
    const char *folder = j->model->sources.tokenizer;
    if (!folder || (ink_weights_gguf(j->model->weights[INK_TEXT_ENCODER]) && !j->model->sources.tokenizer_named))
        return ink_fail(j->error, INK_ERROR_ARGUMENT,
                        "the tokenizer lies in a GGUF file; name a folder with vocab.json and merges.txt with --tokenizer "
                        "(tokenizer_dir)");
    ink_status status = ink_output_folder_add(&j->folder, "tokenizer", j->error);
    for (size_t i = 0; status == INK_OK && i < sizeof tokenizer_files / sizeof *tokenizer_files; i++) {
        char *source = ink_format("%s/%s", folder, tokenizer_files[i]), *name = ink_format("tokenizer/%s", tokenizer_files[i]);
        status = source && name ? ink_output_folder_copy(&j->folder, source, name, j->error) : fail_memory(j);
        ink_free(source);
        ink_free(name);
    }
    return status;
}

static ink_status copy_small_files(job *j) {
    ink_status status = copy_tokenizer(j);
    if (status == INK_OK) status = ink_output_folder_add(&j->folder, "scheduler", j->error);
    if (status == INK_OK) status = copy_from_dir(j, ink_config_path(INK_CONFIG_SCHEDULER));
    if (status == INK_OK) status = copy_from_dir(j, ink_config_path(INK_CONFIG_DEFAULTS));
    if (status == INK_OK) status = ink_output_folder_add(&j->folder, "text_encoder", j->error);
    if (status == INK_OK) status = copy_from_dir(j, "text_encoder/generation_config.json");
    if (status == INK_OK) status = copy_from_dir(j, "LICENSE");
    return status;
}

/* What may fail at once comes before what takes long; the index, which makes it a model, comes last. */
static ink_status write_all(job *j) {
    ink_status status = copy_small_files(j);
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) status = write_component(j, &j->plan.components[i]);
    return status == INK_OK ? copy_from_dir(j, "model_index.json") : status;
}

/* ---- the report ------------------------------------------------------------------------------------------------------------ */

typedef struct full_report {
    ink_quantize_report public; /* first, so that its address is the report's */
    ink_quantize_row *rows;
    char *text; /* names and types, one behind the other */
    char *calibration;
} full_report;

/* Of numbers that are none, or infinite, nothing is near. */
static double relative(ink_error_sums sums) {
    if (!isfinite(sums.norm) || !isfinite(sums.difference)) return INFINITY;
    return sums.norm > 0 ? sqrt(sums.difference / sums.norm) : sums.difference > 0 ? INFINITY : 0;
}

static const char *keep_text(char **next, const char *text) {
    size_t size = strlen(text) + 1;
    char *kept = memcpy(*next, text, size);
    *next += size;
    return kept;
}

static void fill_rows(full_report *made, const job *j) {
    char *next = made->text;
    for (int c = 0; c < INK_N_COMPONENTS; c++)
        for (size_t i = 0; i < j->plan.components[c].n_items; i++) {
            const ink_quantize_item *item = &j->plan.components[c].items[i];
            ink_quantize_row *row = &made->rows[made->public.n_rows];
            if (item->dropped) continue;
            ink_quantize_part parts[INK_MAX_PARTS];
            for (int k = ink_quantize_parts(parts, item) - 1; k >= 0; k--) row->bytes += parts[k].n_bytes;
            row->component = ink_component_name((ink_component)c);
            row->name = keep_text(&next, parts[0].name);
            row->stored = keep_text(&next, ink_quantize_form_name(item));
            row->quantised = ink_quantize_is_smaller(item);
            row->weight_error = j->options->dry_run ? NAN : relative(item->weight);
            row->output_error = item->output.norm > 0 ? relative(item->output) : NAN;
            made->public.n_rows++;
        }
}

static ink_status make_report(ink_quantize_report **out, job *j) {
    size_t text = 0;
    for (int c = 0; c < INK_N_COMPONENTS; c++)
        for (size_t i = 0; i < j->plan.components[c].n_items; i++) {
            const ink_quantize_item *item = &j->plan.components[c].items[i];
            text += strlen(item->info->name) + strlen(ink_quantize_form_name(item)) + sizeof ".weight_scale" + 2;
        }
    full_report *made = ink_alloc(sizeof *made);
    if (!made) return fail_memory(j);
    made->rows = ink_alloc_array(j->plan.n_written, sizeof *made->rows);
    made->text = ink_alloc(text);
    made->calibration = ink_strdup(j->calibration ? j->calibration : "nothing was run");
    made->public.rows = made->rows;
    *out = &made->public;
    if (!made->rows || !made->text || !made->calibration) {
        ink_quantize_report_destroy(out);
        return fail_memory(j);
    }
    fill_rows(made, j);
    made->public.source_bytes = j->plan.model_bytes;
    made->public.bytes = j->plan.bytes;
    made->public.calibration = made->calibration;
    return INK_OK;
}

void ink_quantize_report_destroy(ink_quantize_report **report) {
    if (!*report) return;
    full_report *made = (full_report *)(void *)*report;
    ink_free(made->rows);
    ink_free(made->text);
    ink_free(made->calibration);
    ink_free(made);
    *report = NULL;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------------- */

static ink_status check_options(const char *out, const ink_quantize_options *options, ink_error *error) {
    if (!options || options->precision < INK_PRECISION_BF16 || options->precision > INK_PRECISION_INT8)
        return ink_fail(error, INK_ERROR_ARGUMENT, "a model is written in precision bf16, fp8, q8, q4 or int8");
    if (!options->dry_run && (!out || !*out))
        return ink_fail(error, INK_ERROR_ARGUMENT, "no folder is given to write the model to");
    if (options->shard_bytes < 0 || options->threads < 0)
        return ink_fail(error, INK_ERROR_ARGUMENT, "sizes of files and numbers of threads are not negative");
    return INK_OK;
}

/* Runs what was asked for; what was not, and does not fit, is left out with a sentence. */
static ink_status calibrate(job *j) {
    const ink_calibration wanted = j->options->calibration;
    bool wide = j->plan.source_bytes >= CALIBRATE_BELOW_BYTES;
    ink_error problem;
    ink_status status = INK_OK;
    if (wanted == INK_CALIBRATE_OFF || j->options->precision == INK_PRECISION_BF16) return INK_OK;
    if (wanted == INK_CALIBRATE_AUTO && wide) {
        j->calibration = ink_strdup("nothing was run, as the model is large");
        return j->calibration ? INK_OK : fail_memory(j);
    }
    status = ink_quantize_calibrate(&j->plan, j->model, j->options, &j->calibration, &problem);
    if (status == INK_ERROR_MEMORY && wanted == INK_CALIBRATE_AUTO) {
        j->calibration = ink_format("nothing was run: %s", problem.message);
        return j->calibration ? INK_OK : fail_memory(j);
    }
    return status == INK_OK ? INK_OK : ink_fail(j->error, status, "%s", problem.message);
}

static ink_status run(job *j, const char *out) {
    ink_status status = ink_quantize_plan_make(&j->plan, j->model, j->options, j->error);
    if (status != INK_OK || j->options->dry_run) return status;
    status = ink_output_folder_open(&j->folder, out, j->error);
    if (status == INK_OK) status = calibrate(j);
    if (status != INK_OK) return status;
    int64_t n = j->options->threads > 0 ? j->options->threads : ink_threads_available();
    j->threads = ink_threads_create(n);
    if (!j->threads) return ink_fail(j->error, INK_ERROR_MEMORY, "%lld threads cannot be created", (long long)n);
    j->began = ink_seconds();
    return write_all(j);
}

ink_status ink_quantize_model(ink_quantize_report **out_report, const char *dir, const char *out,
                              const ink_quantize_options *options, ink_error *error) {
    ink_error local;
    if (!error) error = &local;
    ink_error_clear(error);
    if (out_report) *out_report = NULL;
    ink_status status = check_options(out, options, error);
    if (status != INK_OK) return status;
    ink_model_options source = options->source ? *options->source : (ink_model_options){0};
    source.precision = INK_PRECISION_AUTO;
    job j = {.options = options, .error = error};
    status = ink_model_open(&j.model, dir, &source, error);
    if (status == INK_OK) status = run(&j, out);
    if (status == INK_OK && out_report) status = make_report(out_report, &j);
    if (status == INK_OK && !options->dry_run) status = ink_output_folder_publish(&j.folder, error);
    if (status != INK_OK && out_report) ink_quantize_report_destroy(out_report);
    ink_output_folder_discard(&j.folder);
    ink_threads_destroy(j.threads);
    ink_quantize_plan_release(&j.plan);
    ink_free(j.calibration);
    ink_model_close(&j.model);
    return status;
}
