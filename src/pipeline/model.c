/* model.c - opening a checkpoint and closing it. */
#include "pipeline/model.h"

#include <pthread.h>

#include "base/memory.h"
#include "model/config_infer.h"
#include "model/mmdit.h"
#include "model/text_encoder.h"
#include "model/vae.h"
#include "pipeline/generate.h"

/* What a transformer is stored in, when it is one of the plain precisions. */
static ink_precision stored_precision(const ink_weights *transformer) {
    bool f32 = true, plain = true;
    for (size_t i = 0; i < ink_weights_count(transformer); i++) {
        ink_dtype dtype = ink_weights_at(transformer, i)->dtype;
        f32 = f32 && dtype == INK_F32;
        plain = plain && (dtype == INK_F32 || dtype == INK_BF16 || dtype == INK_F16);
    }
    return f32 ? INK_PRECISION_F32 : plain ? INK_PRECISION_BF16 : INK_PRECISION_AUTO;
}

static ink_status open_weights(ink_model *model, ink_error *error) {
    bool known[INK_N_COMPONENTS];
    ink_status status = ink_sources_read_configs(&model->config, &model->sources, known, error);
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) {
        status = ink_component_open(&model->weights[i], &model->sources, (ink_component)i, error);
        if (status == INK_OK && !known[i]) status = ink_config_infer(&model->config, (ink_component)i, model->weights[i], error);
    }
    return status == INK_OK ? ink_config_check(&model->config, model->config.dir, error) : status;
}

typedef struct reading {
    ink_model *model;
    const ink_weights *text_encoder; /* NULL: the tokenizer does not lie in its file */
    ink_status status;
    ink_error error;
} reading;

static void *read_tokenizer(void *context) {
    reading *r = context;
    r->status = ink_sources_open_tokenizer(&r->model->tokenizer, &r->model->sources, r->text_encoder, &r->error);
    return NULL;
}

/* The tokenizer takes longer than the headers of all weights: they are read beside it, if it has files of its own. */
static ink_status open_weights_and_tokenizer(ink_model *model, ink_error *error) {
    const ink_sources *sources = &model->sources;
    reading tokenizer = {.model = model};
    pthread_t thread;
    bool apart = sources->tokenizer && (sources->tokenizer_named || !sources->is_file[INK_TEXT_ENCODER]);
    bool beside = apart && pthread_create(&thread, NULL, read_tokenizer, &tokenizer) == 0;
    ink_status status = open_weights(model, error);
    if (beside) {
        pthread_join(thread, NULL);
    } else if (status == INK_OK) {
        tokenizer.text_encoder = model->weights[INK_TEXT_ENCODER];
        read_tokenizer(&tokenizer);
    }
    if (status != INK_OK || tokenizer.status == INK_OK) return status;
    if (error) *error = tokenizer.error;
    return tokenizer.status;
}

static ink_status open_parts(ink_model *model, const char *dir, const ink_model_options *options, ink_error *error) {
    ink_precision precision = options ? options->precision : INK_PRECISION_AUTO;
    if (precision < INK_PRECISION_AUTO || precision > INK_PRECISION_INT8)
        return ink_fail(error, INK_ERROR_ARGUMENT, "precision %d is none of those in inkstone.h", (int)precision);
    ink_status status = ink_sources_find(&model->sources, dir, options, error);
    const ink_model *same = options ? options->same_tokenizer : NULL;
    if (same && status == INK_OK) model->tokenizer = ink_tokenizer_share(same->tokenizer);
    if (status == INK_OK) status = same ? open_weights(model, error) : open_weights_and_tokenizer(model, error);
    if (status != INK_OK) return status;

    if (ink_tokenizer_size(model->tokenizer) > model->config.text_encoder.vocab_size)
        return ink_fail(error, INK_ERROR_FORMAT, "%s: the tokenizer has ids up to %d, but the text encoder only %lld embeddings",
                        model->config.dir, (int)ink_tokenizer_size(model->tokenizer) - 1,
                        (long long)model->config.text_encoder.vocab_size);
    model->precision = precision == INK_PRECISION_AUTO ? stored_precision(model->weights[INK_TRANSFORMER]) : precision;
    /* A dry run names every tensor to the headers, so that a checkpoint that cannot work fails here, not after minutes. */
    ink_request smallest;
    ink_request_init(&smallest, model);
    smallest.prompt = "";
    smallest.width = smallest.height = model->config.vae.scale * model->config.mmdit.patch_size;
    ink_memory_plan plan;
    return ink_generate_plan(&plan, model, NULL, NULL, &smallest, error);
}

static void *prepare(void *backend) {
    ink_device_prepare(backend);
    return NULL;
}

ink_status ink_model_open(ink_model **model, const char *dir, const ink_model_options *options, ink_error *error) {
    ink_error_clear(error);
    *model = NULL;
    *model = ink_alloc(sizeof **model);
    if (!*model) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", dir ? dir : "the model");
    pthread_t thread;
    void *backend = options ? (void *)(uintptr_t)options->backend : NULL;
    bool prepares = backend && pthread_create(&thread, NULL, prepare, backend) == 0;
    ink_status status = open_parts(*model, dir, options, error);
    if (prepares) pthread_join(thread, NULL);
    if (status != INK_OK) ink_model_close(model);
    return status;
}

void ink_model_close(ink_model **model) {
    if (!*model) return;
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_weights_close(&(*model)->weights[i]);
    ink_tokenizer_close(&(*model)->tokenizer);
    ink_config_close(&(*model)->config);
    ink_sources_release(&(*model)->sources);
    ink_free(*model);
    *model = NULL;
}

void ink_model_bind_all(ink_binder *binder, const ink_config *config, ink_component which) {
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
        ink_mmdit_modulate(&dry, &config->mmdit, NULL, binder, ink_scratch(&dry, 1, 1), &modulation);
    } else {
        ink_vae_decoder *decoder = ink_alloc(sizeof *decoder);
        if (decoder)
            ink_vae_decoder_bind(decoder, &config->vae, binder);
        else
            binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "no memory for the decoder");
        ink_free(decoder);
    }
}

const char *ink_model_precision(const ink_model *model) {
    static const char *const names[] = {"as stored", "f32", "bf16", "fp8", "q8", "q4", "int8"};
    return names[model->precision];
}

const char *ink_model_note(const ink_model *model, size_t i) { return i < model->sources.n_notes ? model->sources.notes[i] : NULL; }
