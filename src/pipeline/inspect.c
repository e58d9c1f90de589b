/* inspect.c - what a checkpoint holds, read from configs and tensor headers. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "inkstone.h"
#include "model/config_infer.h"
#include "pipeline/model.h"

/* The public report with what it points to. */
typedef struct component {
    ink_component_report report;
    char *dtypes, *problem, *path, *runs, **missing, **unexpected;
    size_t n_missing, n_unexpected;
} component;

typedef struct report {
    ink_report public; /* first, so that its address is the report's */
    ink_component_report reports[INK_N_COMPONENTS + 2];
    component components[INK_N_COMPONENTS];
    char *tokenizer_problem, *scheduler_problem;
    ink_sources sources;
} report;

static const char *const class_names[INK_N_COMPONENTS] = {
    [INK_TEXT_ENCODER] = "Qwen2_5_VLForConditionalGeneration",
    [INK_TRANSFORMER] = "QwenImageTransformer2DModel",
    [INK_VAE] = "AutoencoderKLQwenImage",
};

/* "BF16", or "BF16 1900, F32 33". */
static char *describe_dtypes(const ink_weights *weights) {
    enum { MAX_KINDS = 16 };
    const char *names[MAX_KINDS];
    size_t counts[MAX_KINDS] = {0}, n = 0;
    for (size_t i = 0; i < ink_weights_count(weights); i++) {
        const char *name = ink_weights_at(weights, i)->dtype_name;
        size_t kind = 0;
        while (kind < n && strcmp(names[kind], name) != 0) kind++;
        if (kind == MAX_KINDS) continue;
        if (kind == n) names[n++] = name;
        counts[kind]++;
    }
    if (n == 1) return ink_strdup(names[0]);
    char *text = ink_strdup("");
    for (size_t kind = 0; kind < n && text; kind++) {
        char *longer = ink_format("%s%s%s %zu", text, kind ? ", " : "", names[kind], counts[kind]);
        ink_free(text);
        text = longer;
    }
    return text;
}

static bool list_unexpected(component *part, const ink_weights *weights, const bool *used) {
    part->unexpected = ink_alloc_array(ink_weights_count(weights), sizeof *part->unexpected);
    for (size_t i = 0; i < ink_weights_count(weights) && part->unexpected; i++) {
        if (used[i]) continue;
        char *name = ink_strdup(ink_weights_at(weights, i)->name);
        if (!name) return false;
        part->unexpected[part->n_unexpected++] = name;
    }
    return part->unexpected != NULL;
}

/* "Q4_K, Q6_K decoded while multiplying, BF16 in place": what becomes of the matrices at the precision in which they are stored. */
static char *describe_runs(const ink_weights *weights, ink_component which) {
    char in_place[80] = "", decoded[200] = "";
    for (int dtype = 0; dtype <= INK_OTHER_DTYPE; dtype++) {
        bool any = false, plain = dtype == INK_F32 || dtype == INK_BF16 || dtype == INK_F16;
        for (size_t i = 0; i < ink_weights_count(weights) && !any; i++) {
            const ink_tensor_info *info = ink_weights_at(weights, i);
            /* Integers of no type of their own come with scales and biases, in groups. */
            any = info->n_dims > 1 && (int)info->dtype == dtype && !strstr(info->name, ".scales") &&
                  !strstr(info->name, ".biases") && (dtype != INK_OTHER_DTYPE || strcmp(info->dtype_name, "U32") == 0);
        }
        if (!any) continue;
        char *list = plain ? in_place : decoded;
        size_t n = strlen(list), size = plain ? sizeof in_place : sizeof decoded;
        snprintf(list + n, size - n, "%s%s", n ? ", " : "",
                 dtype == INK_OTHER_DTYPE ? "groups of integers" : ink_dtype_name((ink_dtype)dtype));
    }
    if (which == INK_VAE) return ink_format("%s%s%s rearranged when loaded", in_place, *in_place && *decoded ? ", " : "", decoded);
    return ink_format("%s%s%s%s%s", decoded, *decoded ? " decoded while multiplying" : "", *decoded && *in_place ? ", " : "",
                      in_place, *in_place ? " in place" : "");
}

/* What the tensors say without a config. False: no memory. */
static bool describe(component *part, const ink_weights *weights, ink_component which) {
    part->report.n_files = (int64_t)ink_weights_n_files(weights);
    part->report.n_tensors = (int64_t)ink_weights_count(weights);
    part->report.container = ink_weights_gguf(weights) ? "GGUF" : "safetensors";
    for (size_t i = 0; i < ink_weights_count(weights); i++) {
        part->report.n_parameters += ink_weights_at(weights, i)->n_elements;
        part->report.n_bytes += (int64_t)ink_weights_at(weights, i)->n_bytes;
    }
    part->dtypes = describe_dtypes(weights);
    part->runs = describe_runs(weights, which);
    return part->dtypes && part->runs;
}

/* Integers count as the numbers that they stand for, and what scales them does not count. As `chosen` of a binder. */
static void count_packed(void *user, const ink_tensor_info *info, const ink_weight *stored, ink_dtype form) {
    component *part = user;
    int64_t n = stored->rows * stored->cols;
    (void)form;
    if (info->dtype == INK_OTHER_DTYPE) part->report.n_parameters += n - info->n_elements;
    part->report.n_parameters -= stored->n_scales + (stored->group ? 2 * (n / stored->group) : 0);
}

/* Names the component's tensors, and takes over which are missing and which are too many. */
static ink_status list_names(component *part, const ink_weights *weights, const ink_config *config, ink_component which,
                             ink_error *finding) {
    ink_binder binder = {
        .weights = weights, .mode = INK_BIND_REPORT, .error = finding, .chosen = count_packed, .chosen_user = part};
    binder.used = ink_alloc_array(ink_weights_count(weights), sizeof *binder.used);
    if (binder.used) ink_model_bind_all(&binder, config, which);
    part->missing = binder.missing;
    part->n_missing = binder.n_missing;
    ink_status status = binder.status;
    if (!binder.used || (status == INK_OK && !list_unexpected(part, weights, binder.used)))
        status = ink_fail(finding, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
    binder.missing = NULL; /* taken over */
    binder.n_missing = 0;
    ink_binder_release(&binder);
    return status;
}

/* MEMORY is an error of the call; anything else that is wrong is a finding, of which *problem, owned, is the first. */
static ink_status note_finding(char **problem, const ink_error *finding, const ink_config *config, ink_error *error) {
    if (finding->status == INK_OK) return INK_OK;
    if (finding->status == INK_ERROR_MEMORY) return ink_fail(error, INK_ERROR_MEMORY, "%s", finding->message);
    if (*problem) return INK_OK;
    *problem = ink_strdup(finding->message);
    return *problem ? INK_OK : ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
}

/* Weights without a config that can be read are described, but their names mean nothing. */
static void inspect_weights(component *part, const ink_sources *sources, ink_config *config, bool known, ink_component which,
                            ink_weights **weights, ink_error *finding) {
    ink_status status = ink_component_open(weights, sources, which, finding);
    if (status == INK_OK && !describe(part, *weights, which))
        status = ink_fail(finding, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
    if (status != INK_OK || part->problem) return;
    if (!known) status = ink_config_infer(config, which, *weights, finding);
    if (status == INK_OK) list_names(part, *weights, config, which, finding);
}

static ink_status inspect_component(component *part, const ink_sources *sources, ink_config *config, bool *known,
                                    ink_component which, ink_weights **weights, ink_error *error) {
    ink_error of_config = {INK_OK, ""}, of_weights = {INK_OK, ""};
    part->report = (ink_component_report){.name = ink_component_name(which), .class_name = class_names[which], .container = ""};
    ink_sources_read_config(config, sources, which, known, &of_config);
    ink_status status = note_finding(&part->problem, &of_config, config, error);
    if (status == INK_OK) {
        inspect_weights(part, sources, config, *known, which, weights, &of_weights);
        status = note_finding(&part->problem, &of_weights, config, error);
    }
    if (status != INK_OK) return status;
    part->path = ink_strdup(sources->paths[which]);
    if (!part->path) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
    part->report.path = part->path;
    part->report.dtypes = part->dtypes ? part->dtypes : "";
    part->report.runs = part->runs ? part->runs : "";
    part->report.problem = part->problem;
    part->report.n_missing = part->n_missing;
    part->report.missing = (const char *const *)part->missing;
    part->report.n_unexpected = part->n_unexpected;
    part->report.unexpected = (const char *const *)part->unexpected;
    return INK_OK;
}

static ink_status inspect_tokenizer(report *made, const ink_config *config, const ink_weights *text_encoder, ink_error *error) {
    ink_tokenizer *tokenizer = NULL;
    ink_error finding = {INK_OK, ""};
    ink_sources_open_tokenizer(&tokenizer, &made->sources, text_encoder, &finding);
    ink_tokenizer_close(&tokenizer);
    ink_status status = note_finding(&made->tokenizer_problem, &finding, config, error);
    bool in_file = text_encoder && ink_weights_gguf(text_encoder) && !made->sources.tokenizer_named;
    made->reports[0] = (ink_component_report){.name = "tokenizer",
                                              .class_name = "Qwen2Tokenizer",
                                              .dtypes = "",
                                              .path = in_file || !made->sources.tokenizer ? made->sources.paths[INK_TEXT_ENCODER]
                                                                                          : made->sources.tokenizer,
                                              .problem = made->tokenizer_problem,
                                              .container = "",
                                              .runs = ""};
    return status;
}

static ink_status inspect_scheduler(report *made, ink_config *config, ink_error *error) {
    ink_error finding = {INK_OK, ""};
    ink_sources_read_scheduler(config, &made->sources, &finding);
    ink_status status = note_finding(&made->scheduler_problem, &finding, config, error);
    made->reports[1 + INK_N_COMPONENTS] = (ink_component_report){.name = "scheduler",
                                                                 .class_name = "FlowMatchEulerDiscreteScheduler",
                                                                 .dtypes = "",
                                                                 .path = "",
                                                                 .problem = made->scheduler_problem,
                                                                 .container = "",
                                                                 .runs = ""};
    return status;
}

/* Of each part what is wrong with it; if nothing is, whether they fit together. */
static ink_status inspect_parts(report *made, ink_config *config, ink_error *error) {
    bool known[INK_N_COMPONENTS], usable = true;
    ink_weights *weights[INK_N_COMPONENTS] = {NULL};
    ink_status status = ink_sources_begin_configs(config, &made->sources, error);
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) {
        status = inspect_component(&made->components[i], &made->sources, config, &known[i], (ink_component)i, &weights[i], error);
        made->reports[1 + i] = made->components[i].report;
        usable = usable && !made->components[i].problem;
    }
    if (status == INK_OK) status = inspect_tokenizer(made, config, weights[INK_TEXT_ENCODER], error);
    if (status == INK_OK) status = inspect_scheduler(made, config, error);
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_weights_close(&weights[i]);
    usable = usable && !made->tokenizer_problem && !made->scheduler_problem;
    if (status == INK_OK && usable) status = ink_sources_read_defaults(config, &made->sources, error);
    return status == INK_OK && usable ? ink_config_check(config, config->dir, error) : status;
}

ink_status ink_inspect(ink_report **out, const char *dir, const ink_model_options *options, ink_error *error) {
    ink_error_clear(error);
    *out = NULL;
    report *made = ink_alloc(sizeof *made);
    if (!made) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to inspect it", dir ? dir : "the model");
    ink_config config = {0};
    ink_status status = ink_sources_find(&made->sources, dir, options, error);
    if (status == INK_OK) status = inspect_parts(made, &config, error);
    ink_config_close(&config);
    made->public = (ink_report){.class_name = "QwenImagePipeline",
                                .n_components = INK_N_COMPONENTS + 2,
                                .components = made->reports,
                                .n_notes = made->sources.n_notes,
                                .notes = (const char *const *)made->sources.notes};
    *out = &made->public;
    if (status != INK_OK) ink_report_destroy(out);
    return status;
}

void ink_report_destroy(ink_report **out) {
    if (!*out) return;
    report *made = (report *)(void *)*out;
    for (int i = 0; i < INK_N_COMPONENTS; i++) {
        component *part = &made->components[i];
        for (size_t j = 0; j < part->n_missing; j++) ink_free(part->missing[j]);
        for (size_t j = 0; j < part->n_unexpected; j++) ink_free(part->unexpected[j]);
        ink_free(part->missing);
        ink_free(part->unexpected);
        ink_free(part->dtypes);
        ink_free(part->problem);
        ink_free(part->path);
        ink_free(part->runs);
    }
    ink_free(made->tokenizer_problem);
    ink_free(made->scheduler_problem);
    ink_sources_release(&made->sources);
    ink_free(made);
    *out = NULL;
}
