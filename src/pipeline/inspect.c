/* inspect.c - what a checkpoint holds, read from configs and tensor headers. */
#include <string.h>

#include "base/memory.h"
#include "inkstone.h"
#include "model/mmdit.h"
#include "model/text_encoder.h"
#include "model/vae.h"
#include "pipeline/model.h"

/* The public report with what it points to. */
typedef struct component {
    ink_component_report report;
    char *dtypes, *problem, **missing, **unexpected;
    size_t n_missing, n_unexpected;
} component;

typedef struct report {
    ink_report public; /* first, so that its address is the report's */
    ink_component_report reports[INK_N_COMPONENTS + 2];
    component components[INK_N_COMPONENTS];
} report;

static const char *const class_names[INK_N_COMPONENTS] = {
    [INK_TEXT_ENCODER] = "Qwen2_5_VLForConditionalGeneration",
    [INK_TRANSFORMER] = "QwenImageTransformer2DModel",
    [INK_VAE] = "AutoencoderKLQwenImage",
};

/* Names all tensors of a component to the binder. */
static void bind_all(ink_binder *binder, const ink_config *config, ink_component which) {
    if (which == INK_TEXT_ENCODER) {
        ink_text_encoder encoder;
        ink_text_encoder_bind(&encoder, &config->text_encoder, binder);
        ink_text_encoder_release(&encoder);
    } else if (which == INK_TRANSFORMER) {
        ink_mmdit mmdit;
        ink_mmdit_bind(&mmdit, &config->mmdit, binder);
        ink_mmdit_release(&mmdit);
        ink_arena arena;
        ink_arena_create_dry(&arena);
        ink_ctx dry = {.arena = &arena, .error = binder->error};
        ink_modulation modulation = ink_modulation_take(&dry, &config->mmdit, 1);
        ink_mmdit_modulate(&dry, &config->mmdit, binder, ink_scratch(&dry, 1, 1), &modulation);
    } else {
        ink_vae_decoder *decoder = ink_alloc(sizeof *decoder);
        if (decoder)
            ink_vae_decoder_bind(decoder, &config->vae, binder);
        else
            binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "no memory for the decoder");
        ink_free(decoder);
    }
}

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

/* MEMORY is an error of the call; anything else that is wrong is a finding. */
static ink_status inspect_component(component *part, const ink_config *config, ink_component which, ink_error *error) {
    ink_error finding = {INK_OK, ""};
    ink_weights *weights;
    part->report.name = ink_component_name(which);
    part->report.class_name = class_names[which];
    ink_status status = ink_component_open(&weights, config->dir, which, &finding);
    if (status == INK_OK) {
        part->report.n_files = (int64_t)ink_weights_n_files(weights);
        part->report.n_tensors = (int64_t)ink_weights_count(weights);
        for (size_t i = 0; i < ink_weights_count(weights); i++) {
            part->report.n_parameters += ink_weights_at(weights, i)->n_elements;
            part->report.n_bytes += (int64_t)ink_weights_at(weights, i)->n_bytes;
        }
        ink_binder binder = {.weights = weights, .mode = INK_BIND_REPORT, .error = &finding};
        binder.used = ink_alloc_array(ink_weights_count(weights), sizeof *binder.used);
        part->dtypes = describe_dtypes(weights);
        if (binder.used) bind_all(&binder, config, which);
        part->missing = binder.missing;
        part->n_missing = binder.n_missing;
        status = binder.status;
        if (!binder.used || !part->dtypes || (status == INK_OK && !list_unexpected(part, weights, binder.used)))
            status = ink_fail(&finding, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
        binder.missing = NULL; /* taken over */
        binder.n_missing = 0;
        ink_binder_release(&binder);
        ink_weights_close(&weights);
    }
    if (status == INK_ERROR_MEMORY) return ink_fail(error, status, "%s", finding.message);
    if (status != INK_OK && !(part->problem = ink_strdup(finding.message)))
        return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to inspect it", config->dir);
    part->report.dtypes = part->dtypes ? part->dtypes : "";
    part->report.problem = part->problem;
    part->report.n_missing = part->n_missing;
    part->report.missing = (const char *const *)part->missing;
    part->report.n_unexpected = part->n_unexpected;
    part->report.unexpected = (const char *const *)part->unexpected;
    return INK_OK;
}

static ink_status inspect_tokenizer(ink_component_report *part, const ink_config *config, ink_error *error) {
    *part = (ink_component_report){.name = "tokenizer", .class_name = "Qwen2Tokenizer", .dtypes = ""};
    ink_tokenizer *tokenizer = NULL;
    char *folder = ink_format("%s/tokenizer", config->dir);
    ink_status status = folder ? ink_tokenizer_open(&tokenizer, folder, error) : ink_fail(error, INK_ERROR_MEMORY, "no memory");
    ink_tokenizer_close(&tokenizer);
    ink_free(folder);
    return status;
}

ink_status ink_inspect(ink_report **out, const char *dir, ink_error *error) {
    ink_error_clear(error);
    *out = NULL;
    if (!dir) return ink_fail(error, INK_ERROR_ARGUMENT, "no model folder is given");
    ink_config config;
    ink_status status = ink_config_open(&config, dir, error);
    if (status != INK_OK) return status;
    report *made = ink_alloc(sizeof *made);
    if (!made) status = ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to inspect it", dir);
    if (status == INK_OK) status = inspect_tokenizer(&made->reports[0], &config, error);
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) {
        status = inspect_component(&made->components[i], &config, (ink_component)i, error);
        made->reports[1 + i] = made->components[i].report;
    }
    ink_config_close(&config);
    if (made) {
        made->reports[1 + INK_N_COMPONENTS] = (ink_component_report){
            .name = "scheduler", .class_name = "FlowMatchEulerDiscreteScheduler", .dtypes = ""};
        made->public = (ink_report){"QwenImagePipeline", INK_N_COMPONENTS + 2, made->reports};
        *out = &made->public;
    }
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
    }
    ink_free(made);
    *out = NULL;
}
