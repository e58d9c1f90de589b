/*
 * test_golden.c - every recorded reference against this library: whole requests on every tier and in both precisions, and single
 * parts of the networks fed with recorded inputs. The last group changes references, to see that a wrong one does not pass.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/mmdit.h"
#include "model/rope.h"
#include "model/text_encoder.h"
#include "model/vae.h"
#include "pipeline/generate.h"
#include "pipeline/prompt.h"
#include "pipeline/scheduler.h"
#include "support/doctor.h"
#include "support/golden.h"
#include "support/words.h"

/* What f32 must reach, whatever ink_verify asks for. */
static const double MOST_EMBEDS = 2e-6, MOST_NOISE = 2e-6, MOST_SIGMAS = 1e-6, MOST_LATENTS = 2e-5, LEAST_PSNR = 90;
/* A single pass through a network from recorded inputs. */
static const double MOST_STAGE = 5e-6;

enum { N_THREADS = 2, MANY_ROWS = 200, SCRATCH_BYTES = 32 << 20 };

static test_reference references[TEST_MAX_REFERENCES];
static size_t n_references;

/* ---- a model, a session and a reference ---------------------------------------------------------------------------- */

typedef struct bench {
    const test_reference *reference;
    ink_model *model;
    ink_session *session;
    ink_safetensors file;
} bench;

static bench bench_open(const test_reference *reference, ink_precision precision, const char *tier) {
    ink_error error;
    bench b = {.reference = reference};
    const ink_model_options model_options = {.precision = precision};
    const ink_session_options session_options = {.threads = N_THREADS, .cpu = tier};
    if (ink_model_open(&b.model, reference->model, &model_options, &error) != INK_OK ||
        ink_session_create(&b.session, b.model, &session_options, &error) != INK_OK ||
        ink_safetensors_open(&b.file, reference->path, &error) != INK_OK)
        fail_msg("%s", error.message);
    return b;
}

static void bench_close(bench *b) {
    ink_safetensors_close(&b->file);
    ink_session_destroy(&b->session);
    ink_model_close(&b->model);
}

static const ink_tensor_info *stage_or_null(const bench *b, const char *name) { return ink_safetensors_find(&b->file, name); }

/* A recorded stage as a matrix; the last dimension makes the columns. Its data is the file's: not to be written. */
static ink_tensor stage(const bench *b, const char *name) {
    const ink_tensor_info *info = stage_or_null(b, name);
    if (!info || info->dtype != INK_F32 || (uintptr_t)info->data % sizeof(float) != 0)
        fail_msg("%s has no F32 stage %s", b->reference->name, name);
    int64_t cols = info->shape[info->n_dims - 1];
    return ink_view((float *)(uintptr_t)info->data, info->n_elements / cols, cols);
}

static const char *metadata(const bench *b, const char *key) {
    const char *value = ink_safetensors_metadata(&b->file, key);
    if (!value) fail_msg("%s: no metadata %s", b->reference->name, key);
    return value;
}

/* A recorded number, which every reference or only some have. */
static bool number(const bench *b, const char *key, double *value) {
    const char *text = ink_safetensors_metadata(&b->file, key);
    if (text) *value = strtod(text, NULL);
    return text != NULL;
}

static int64_t integer(const bench *b, const char *key) { return strtoll(metadata(b, key), NULL, 10); }

/* Tier ref takes its time over long prompts. */
static bool too_slow(const bench *b, const char *tier) {
    return strcmp(tier, "ref") == 0 && stage(b, "prompt_embeds").rows > MANY_ROWS;
}

/* ---- measures ------------------------------------------------------------------------------------------------------ */

static double relative_l2(ink_tensor x, ink_tensor expected) {
    assert_true(x.rows == expected.rows && x.cols == expected.cols);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            double e = ink_row(expected, i)[j], d = ink_row(x, i)[j] - e;
            difference += d * d;
            norm += e * e;
        }
    assert_true(norm > 0);
    return sqrt(difference / norm);
}

static double max_error(ink_tensor x, ink_tensor expected) {
    assert_true(x.rows == expected.rows && x.cols == expected.cols);
    double worst = 0;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            double error = fabs((double)ink_row(x, i)[j] - (double)ink_row(expected, i)[j]);
            if (error > worst || isnan(error)) worst = error;
        }
    return worst;
}

static double psnr(ink_tensor x, ink_tensor expected) {
    assert_true(x.rows == expected.rows && x.cols == expected.cols);
    double sum = 0;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            double d = (double)ink_row(x, i)[j] - (double)ink_row(expected, i)[j];
            sum += d * d;
        }
    return -10 * log10(sum / (double)(x.rows * x.cols));
}

/* NaN fails. */
static void assert_at_most(const bench *b, const char *what, double error, double most) {
    if (!(error <= most)) fail_msg("%s: %s is %.3g, at most %.3g is allowed", b->reference->name, what, error, most);
}

static void assert_at_least(const bench *b, const char *what, double value, double least) {
    if (!(value >= least)) fail_msg("%s: %s is %.3g, at least %.3g is wanted", b->reference->name, what, value, least);
}

/* ---- whole requests ------------------------------------------------------------------------------------------------ */

static const ink_verify_row *find_row(const ink_verification *v, const char *name) {
    for (size_t i = 0; i < v->n_rows; i++)
        if (strcmp(v->rows[i].stage, name) == 0) return &v->rows[i];
    fail_msg("%s was not compared", name);
    return NULL;
}

static ink_verification *verify(const bench *b, const char *path) {
    ink_error error;
    ink_verification *v = NULL;
    if (ink_verify(b->session, path, NULL, NULL, &v, &error) != INK_OK) fail_msg("%s: %s", b->reference->name, error.message);
    assert_int_equal(error.status, INK_OK);
    return v;
}

static void assert_passed(const bench *b, const ink_verification *v) {
    for (size_t i = 0; i < v->n_rows; i++)
        if (!v->rows[i].passed)
            fail_msg("%s: %s: relative L2 %.3g, max %.3g, PSNR %.3g, required %s %s", b->reference->name, v->rows[i].stage,
                     v->rows[i].relative_l2, v->rows[i].max_error, v->rows[i].psnr, v->rows[i].limit, v->rows[i].note);
    assert_true(v->passed);
}

static void check_f32_rows(const bench *b, const ink_verification *v) {
    bool guided = stage_or_null(b, "negative_embeds") != NULL;
    assert_int_equal(v->n_rows, guided ? 6 : 5);
    assert_at_most(b, "prompt_embeds", find_row(v, "prompt_embeds")->relative_l2, MOST_EMBEDS);
    if (guided) assert_at_most(b, "negative_embeds", find_row(v, "negative_embeds")->relative_l2, MOST_EMBEDS);
    assert_at_most(b, "noise", find_row(v, "noise")->max_error, MOST_NOISE);
    assert_at_most(b, "sigmas", find_row(v, "sigmas")->max_error, MOST_SIGMAS);
    assert_at_most(b, "latents", find_row(v, "latents")->relative_l2, MOST_LATENTS);
    assert_at_most(b, "last latents", find_row(v, "latents")->last_relative_l2, MOST_LATENTS);
    assert_true(isnan(find_row(v, "image")->last_relative_l2));
    assert_at_least(b, "image", find_row(v, "image")->psnr, LEAST_PSNR);
}

static void test_f32_on_every_tier(void **state) {
    (void)state;
    for (int t = 0; ink_device_tier(t); t++)
        for (size_t i = 0; i < n_references; i++) {
            bench b = bench_open(&references[i], INK_PRECISION_F32, ink_device_tier(t));
            assert_string_equal(ink_model_precision(b.model), "f32");
            if (!too_slow(&b, ink_device_tier(t))) {
                ink_verification *v = verify(&b, references[i].path);
                assert_passed(&b, v);
                check_f32_rows(&b, v);
                ink_verification_destroy(&v);
            }
            bench_close(&b);
        }
}

/* The request of the file, put together by hand; run with all stages kept. */
static ink_stages run_reference(const bench *b) {
    ink_error error;
    ink_request request;
    ink_request_init(&request, b->model);
    request.prompt = metadata(b, "prompt");
    request.negative_prompt = stage_or_null(b, "negative_embeds") ? metadata(b, "negative_prompt") : NULL;
    request.width = integer(b, "width");
    request.height = integer(b, "height");
    request.steps = integer(b, "steps");
    request.seed = strtoull(metadata(b, "seed"), NULL, 10);
    request.guidance = strtod(metadata(b, "cfg"), NULL);
    request.noise_dtype = strcmp(metadata(b, "noise_dtype"), "bf16") == 0 ? INK_NOISE_BF16 : INK_NOISE_F32;
    ink_stages stages = {0};
    if (ink_request_set_rng(&request, metadata(b, "rng"), &error) != INK_OK ||
        ink_generate_run(b->session, &request, NULL, NULL, &stages, &error) != INK_OK)
        fail_msg("%s: %s", b->reference->name, error.message);
    return stages;
}

static ink_tensor found(const ink_stages *stages, ink_stage_name name) {
    const ink_stage *s = &stages->stage[name];
    int64_t n = 1, cols = s->shape[s->n_dims - 1];
    for (int i = 0; i < s->n_dims; i++) n *= s->shape[i];
    return ink_view(s->data, n / cols, cols);
}

/* Of [steps, n_img, channels], the last step. */
static ink_tensor last_step(ink_tensor latents, int64_t steps) {
    int64_t n_img = latents.rows / steps;
    return ink_rows(latents, (steps - 1) * n_img, n_img);
}

/* ink_verify measures all steps together; here the last one, where errors have grown most. */
static void test_last_step(void **state) {
    (void)state;
    for (size_t i = 0; i < n_references; i++) {
        bench b = bench_open(&references[i], INK_PRECISION_F32, NULL);
        ink_stages stages = run_reference(&b);
        int64_t steps = integer(&b, "steps");
        assert_at_most(&b, "last latents",
                       relative_l2(last_step(found(&stages, INK_STAGE_LATENTS), steps), last_step(stage(&b, "latents"), steps)),
                       MOST_LATENTS);
        ink_stages_release(&stages);
        bench_close(&b);
    }
}

/* Where it was recorded how far the framework's own bf16 run is from its f32 run: ours must not be farther. */
static void test_bf16_is_no_worse_than_the_frameworks(void **state) {
    (void)state;
    int n_tested = 0;
    for (int t = 0; ink_device_tier(t); t++)
        for (size_t i = 0; i < n_references; i++) {
            bench b = bench_open(&references[i], INK_PRECISION_BF16, ink_device_tier(t));
            double most_embeds, most_latents, least_psnr;
            if (number(&b, "bf16_rel_l2_prompt_embeds", &most_embeds) && !too_slow(&b, ink_device_tier(t))) {
                assert_true(number(&b, "bf16_rel_l2_latents", &most_latents) && number(&b, "bf16_psnr_image", &least_psnr));
                assert_string_equal(ink_model_precision(b.model), "bf16");
                ink_stages stages = run_reference(&b);
                int64_t steps = integer(&b, "steps");
                assert_at_most(&b, "bf16 prompt_embeds",
                               relative_l2(found(&stages, INK_STAGE_PROMPT_EMBEDS), stage(&b, "prompt_embeds")), most_embeds);
                assert_at_most(
                    &b, "bf16 last latents",
                    relative_l2(last_step(found(&stages, INK_STAGE_LATENTS), steps), last_step(stage(&b, "latents"), steps)),
                    most_latents);
                assert_at_least(&b, "bf16 image", psnr(found(&stages, INK_STAGE_IMAGE), stage(&b, "image")), least_psnr);
                ink_stages_release(&stages);
                n_tested++;
            }
            bench_close(&b);
        }
    assert_true(n_tested >= 4);
}

/* Also models that are stored in f32. */
static void test_bf16_stays_within_its_limits(void **state) {
    (void)state;
    for (size_t i = 0; i < n_references; i++) {
        bench b = bench_open(&references[i], INK_PRECISION_BF16, NULL);
        ink_verification *v = verify(&b, references[i].path);
        assert_passed(&b, v);
        assert_at_most(&b, "noise", find_row(v, "noise")->max_error, MOST_NOISE);
        assert_at_most(&b, "sigmas", find_row(v, "sigmas")->max_error, MOST_SIGMAS);
        ink_verification_destroy(&v);
        bench_close(&b);
    }
}

/* ---- tokens -------------------------------------------------------------------------------------------------------- */

/* Recorded are the tokens that the tokenizer kept, some 1024; ours end where nothing more is read of them. */
static bool compare_tokens(const bench *b, const char *name, const char *text_key) {
    enum { MAX_ROWS = 512 };
    if (!stage_or_null(b, name)) return false;
    ink_tensor expected = stage(b, name);
    ink_prompt prompt;
    assert_int_equal(ink_prompt_encode(&prompt, b->model->tokenizer, metadata(b, text_key), text_key, NULL), INK_OK);
    int64_t most = prompt.drop + MAX_ROWS;
    assert_int_equal(prompt.n, expected.cols < most ? expected.cols : most);
    for (int64_t i = 0; i < prompt.n; i++)
        if ((float)prompt.ids[i] != expected.data[i])
            fail_msg("%s: %s: token %d is %d, expected %g", b->reference->name, name, (int)i, (int)prompt.ids[i],
                     (double)expected.data[i]);
    ink_prompt_release(&prompt);
    return true;
}

static void test_tokens(void **state) {
    (void)state;
    int n_tested = 0;
    for (size_t i = 0; i < n_references; i++) {
        bench b = bench_open(&references[i], INK_PRECISION_F32, NULL);
        n_tested += compare_tokens(&b, "token_ids", "prompt");
        n_tested += compare_tokens(&b, "negative_token_ids", "negative_prompt");
        bench_close(&b);
    }
    assert_true(n_tested >= 20);
}

/* ---- parts of the networks, from recorded inputs -------------------------------------------------------------------- */

/* Room to run one network by itself. */
typedef struct lab {
    ink_arena arena;
    ink_store store;
    ink_error error;
    ink_ctx ctx;
} lab;

static void lab_open(lab *l, const bench *b) {
    *l = (lab){0};
    assert_true(ink_arena_create(&l->arena, SCRATCH_BYTES));
    l->arena.poison = true;
    l->ctx = (ink_ctx){.device = &b->session->device, .arena = &l->arena, .error = &l->error};
}

static void lab_close(lab *l) {
    if (l->ctx.status != INK_OK) fail_msg("%s", l->error.message);
    ink_store_release(&l->store);
    ink_arena_destroy(&l->arena);
}

static ink_binder lab_binder(lab *l, const bench *b, ink_component component) {
    return (ink_binder){.weights = b->model->weights[component],
                        .mode = INK_BIND_LOAD,
                        .precision = INK_PRECISION_F32,
                        .store = &l->store,
                        .error = &l->error};
}

static void assert_bound(const lab *l, const ink_binder *binder) {
    if (binder->status != INK_OK) fail_msg("%s", l->error.message);
}

/* The states after `n_layers` layers. Ours always end with the final norm, so it is applied to recorded ones that lack it. */
static void check_text_layer(const bench *b, int64_t n_layers, const int32_t *ids, int64_t n) {
    lab l;
    lab_open(&l, b);
    ink_text_encoder_config config = b->model->config.text_encoder;
    bool whole = n_layers == config.n_layers;
    config.n_layers = n_layers;
    ink_text_encoder encoder;
    ink_binder binder = lab_binder(&l, b, INK_TEXT_ENCODER);
    ink_text_encoder_bind(&encoder, &config, &binder);
    assert_bound(&l, &binder);

    ink_tensor states = ink_scratch(&l.ctx, n, config.hidden_size), normed = ink_scratch(&l.ctx, n, config.hidden_size);
    ink_tensor cos = ink_scratch(&l.ctx, n, config.head_dim / 2), sin = ink_scratch(&l.ctx, n, config.head_dim / 2);
    ink_rope_text(cos, sin, config.rope_theta);
    ink_text_encoder_forward(&l.ctx, &encoder, states, &(ink_text_input){&(ink_text_tokens){ids, n}, 1, cos, sin});
    char name[32];
    snprintf(name, sizeof name, "text.%d", (int)n_layers);
    ink_tensor recorded = stage(b, name);
    if (!whole) ink_rmsnorm(&l.ctx, normed, recorded, encoder.norm, (float)config.rms_norm_eps);
    assert_int_equal(l.ctx.status, INK_OK);
    assert_at_most(b, name, relative_l2(states, whole ? recorded : normed), MOST_STAGE);
    ink_text_encoder_release(&encoder);
    lab_close(&l);
}

/* Texts that go through the layers together are what each is alone, bit for bit. */
static void check_texts_together(const bench *b, const int32_t *ids, int64_t n) {
    lab l;
    lab_open(&l, b);
    const ink_text_encoder_config *config = &b->model->config.text_encoder;
    ink_text_encoder encoder;
    ink_binder binder = lab_binder(&l, b, INK_TEXT_ENCODER);
    ink_text_encoder_bind(&encoder, config, &binder);
    assert_bound(&l, &binder);
    const ink_text_tokens texts[] = {{ids, n}, {ids + n / 3, n - n / 3}};
    int64_t total = n + texts[1].n;
    ink_tensor together = ink_scratch(&l.ctx, total, config->hidden_size), alone = ink_scratch(&l.ctx, n, config->hidden_size);
    ink_tensor cos = ink_scratch(&l.ctx, total, config->head_dim / 2), sin = ink_scratch(&l.ctx, total, config->head_dim / 2);
    ink_rope_text(ink_rows(cos, 0, n), ink_rows(sin, 0, n), config->rope_theta);
    ink_rope_text(ink_rows(cos, n, texts[1].n), ink_rows(sin, n, texts[1].n), config->rope_theta);
    ink_text_encoder_forward(&l.ctx, &encoder, together, &(ink_text_input){texts, 2, cos, sin});
    for (int64_t i = 0, first = 0; i < 2; first += texts[i].n, i++) {
        ink_tensor states = ink_rows(alone, 0, texts[i].n);
        const ink_text_input one = {&texts[i], 1, ink_rows(cos, first, texts[i].n), ink_rows(sin, first, texts[i].n)};
        ink_text_encoder_forward(&l.ctx, &encoder, states, &one);
        assert_int_equal(l.ctx.status, INK_OK);
        assert_memory_equal(states.data, ink_row(together, first), (size_t)(states.rows * states.cols) * sizeof(float));
    }
    ink_text_encoder_release(&encoder);
    lab_close(&l);
}

static void check_text_encoder(const bench *b) {
    ink_tensor recorded = stage(b, "token_ids");
    int32_t *ids = ink_alloc_array((size_t)recorded.cols, sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < recorded.cols; i++) ids[i] = (int32_t)recorded.data[i];
    for (int64_t n_layers = 1; n_layers <= b->model->config.text_encoder.n_layers; n_layers++)
        check_text_layer(b, n_layers, ids, recorded.cols);
    check_texts_together(b, ids, recorded.cols);

    lab l;
    lab_open(&l, b);
    ink_text_encoder encoder;
    ink_binder binder = lab_binder(&l, b, INK_TEXT_ENCODER);
    ink_text_encoder_bind(&encoder, &b->model->config.text_encoder, &binder);
    assert_bound(&l, &binder);
    ink_tensor embedded = ink_scratch(&l.ctx, recorded.cols, encoder.config->hidden_size);
    ink_embed_rows(&l.ctx, embedded, &encoder.embed_tokens, ids);
    assert_at_most(b, "text.0", max_error(embedded, stage(b, "text.0")), 0);
    ink_text_encoder_release(&encoder);
    lab_close(&l);
    ink_free(ids);
}

/* Modulation of the first step, as it follows from the recorded time embedding. dst [1, out]. */
static void project_recorded_temb(lab *l, const bench *b, ink_tensor dst, const char *layer) {
    ink_tensor temb = stage(b, "temb");
    ink_weight w;
    ink_tensor bias;
    ink_binder binder = lab_binder(l, b, INK_TRANSFORMER);
    ink_bind_matrix(&binder, &w, dst.cols, temb.cols, "%s.weight", layer);
    ink_bind_vector(&binder, &bias, dst.cols, "%s.bias", layer);
    assert_bound(l, &binder);
    ink_tensor activated = ink_scratch(&l->ctx, 1, temb.cols);
    for (int64_t i = 0; i < temb.cols; i++) activated.data[i] = temb.data[i] / (1.0f + expf(-temb.data[i]));
    ink_linear(&l->ctx, dst, activated, &w, (ink_linear_epilogue){.bias = &bias});
}

static void check_modulation(lab *l, const bench *b, const ink_modulation *modulation) {
    const ink_mmdit_config *config = &b->model->config.mmdit;
    ink_tensor expected = ink_scratch(&l->ctx, 1, 6 * config->dim);
    for (int64_t i = 0; i < 2 * config->n_layers; i++) {
        char layer[64];
        snprintf(layer, sizeof layer, "transformer_blocks.%d.%s_mod.1", (int)(i / 2), i % 2 ? "img" : "txt");
        project_recorded_temb(l, b, expected, layer);
        assert_at_most(b, layer, relative_l2(ink_rows(modulation->blocks, i * modulation->n_steps, 1), expected), MOST_STAGE);
    }
    ink_tensor expected_out = ink_scratch(&l->ctx, 1, 2 * config->dim);
    project_recorded_temb(l, b, expected_out, "norm_out.linear");
    assert_at_most(b, "norm_out.linear", relative_l2(ink_rows(modulation->out, 0, 1), expected_out), MOST_STAGE);
}

/* The first step's velocity with the recorded text states of one side or two, through the first `n_layers` blocks. */
static ink_tensor first_velocity(lab *l, const bench *b, const ink_modulation *modulation, const char *text_stage,
                                 const char *second_text_stage, int64_t n_layers) {
    ink_mmdit_config config = b->model->config.mmdit;
    int64_t patch = config.patch_size, scale = b->model->config.vae.scale;
    ink_tensor noise = stage(b, "noise");
    ink_mmdit_input input = {.latents = noise, .text = {stage(b, text_stage)}, .n_sides = second_text_stage ? 2 : 1};
    if (second_text_stage) input.text[1] = stage(b, second_text_stage);
    const int64_t n_txt[] = {input.text[0].rows, input.text[1].rows};
    config.n_layers = n_layers;
    ink_mmdit mmdit;
    ink_binder binder = lab_binder(l, b, INK_TRANSFORMER);
    ink_mmdit_bind(&mmdit, &config, &binder);
    assert_bound(l, &binder);
    ink_tensor velocity = ink_scratch(&l->ctx, input.n_sides * noise.rows, config.in_channels);
    int64_t n_tokens = n_txt[0] + n_txt[1] + velocity.rows;
    input.cos = ink_scratch(&l->ctx, n_tokens, config.head_dim / 2);
    input.sin = ink_scratch(&l->ctx, n_tokens, config.head_dim / 2);
    ink_rope_joint(input.cos, input.sin, config.rope_axes, n_txt, input.n_sides, integer(b, "height") / scale / patch,
                   integer(b, "width") / scale / patch);
    ink_mmdit_forward(&l->ctx, &mmdit, velocity, &input, modulation, 0);
    ink_mmdit_release(&mmdit);
    assert_int_equal(l->ctx.status, INK_OK);
    return velocity;
}

/* What the output layers make of the recorded image stream behind a block. */
static ink_tensor velocity_of_block(lab *l, const bench *b, const ink_modulation *modulation, int64_t block) {
    const ink_mmdit_config *config = &b->model->config.mmdit;
    char name[32];
    snprintf(name, sizeof name, "block.%d.img", (int)block);
    ink_tensor x = stage(b, name), out = ink_rows(modulation->out, 0, 1), bias;
    ink_weight w;
    ink_binder binder = lab_binder(l, b, INK_TRANSFORMER);
    ink_bind_matrix(&binder, &w, config->in_channels, config->dim, "proj_out.weight");
    ink_bind_vector(&binder, &bias, config->in_channels, "proj_out.bias");
    assert_bound(l, &binder);
    ink_tensor normed = ink_scratch(&l->ctx, x.rows, x.cols), velocity = ink_scratch(&l->ctx, x.rows, config->in_channels);
    ink_layernorm_modulate(&l->ctx, normed, x, ink_cols(out, 0, config->dim), ink_cols(out, config->dim, config->dim), 1e-6f);
    ink_linear(&l->ctx, velocity, normed, &w, (ink_linear_epilogue){.bias = &bias});
    return velocity;
}

static void check_transformer(const bench *b) {
    const ink_config *config = &b->model->config;
    int64_t n_steps = integer(b, "steps"), n_layers = config->mmdit.n_layers;
    lab l;
    lab_open(&l, b);
    ink_modulation modulation = ink_modulation_take(&l.ctx, &config->mmdit, n_steps);
    ink_tensor times = ink_scratch(&l.ctx, 1, n_steps);
    ink_scheduler_times(times.data, &config->scheduler, stage(b, "sigmas").data, n_steps);
    ink_binder binder = lab_binder(&l, b, INK_TRANSFORMER);
    ink_mmdit_modulate(&l.ctx, &config->mmdit, NULL, &binder, times, &modulation);
    assert_bound(&l, &binder);
    check_modulation(&l, b, &modulation);

    for (int64_t i = 1; i < n_layers; i++) {
        char name[32];
        size_t mark = ink_arena_mark(&l.arena);
        snprintf(name, sizeof name, "block.%d.img", (int)i - 1);
        ink_tensor velocity = first_velocity(&l, b, &modulation, "prompt_embeds", NULL, i);
        assert_at_most(b, name, relative_l2(velocity, velocity_of_block(&l, b, &modulation, i - 1)), MOST_STAGE);
        ink_arena_release(&l.arena, mark);
    }
    ink_tensor velocity = first_velocity(&l, b, &modulation, "prompt_embeds", NULL, n_layers);
    assert_at_most(b, "velocity.cond", relative_l2(velocity, stage(b, "velocity.cond")), MOST_STAGE);
    if (stage_or_null(b, "velocity.uncond")) {
        ink_tensor uncond = first_velocity(&l, b, &modulation, "negative_embeds", NULL, n_layers);
        assert_at_most(b, "velocity.uncond", relative_l2(uncond, stage(b, "velocity.uncond")), MOST_STAGE);
        /* Together both are what each is alone, bit for bit. */
        ink_tensor both = first_velocity(&l, b, &modulation, "prompt_embeds", "negative_embeds", n_layers);
        size_t bytes = (size_t)(velocity.rows * velocity.cols) * sizeof(float);
        assert_memory_equal(both.data, velocity.data, bytes);
        assert_memory_equal(ink_row(both, velocity.rows), uncond.data, bytes);
    }
    lab_close(&l);
}

/* The picture of the recorded last latents. */
static void check_vae(const bench *b) {
    const ink_vae_config *config = &b->model->config.vae;
    int64_t height = integer(b, "height"), width = integer(b, "width"), h = height / config->scale, w = width / config->scale;
    lab l;
    lab_open(&l, b);
    ink_vae_decoder *decoder = ink_alloc(sizeof *decoder);
    assert_non_null(decoder);
    ink_binder binder = lab_binder(&l, b, INK_VAE);
    ink_vae_decoder_bind(decoder, config, &binder);
    assert_bound(&l, &binder);
    ink_tensor grid = ink_scratch(&l.ctx, h * w, config->z_dim), pixels = ink_scratch(&l.ctx, height * width, 3);
    ink_tensor mean = ink_scratch(&l.ctx, 1, config->z_dim), std = ink_scratch(&l.ctx, 1, config->z_dim);
    for (int64_t i = 0; i < config->z_dim; i++) {
        mean.data[i] = (float)config->latents_mean[i];
        std.data[i] = (float)config->latents_std[i];
    }
    ink_unpatchify(&l.ctx, grid, last_step(stage(b, "latents"), integer(b, "steps")), mean, std, h, w,
                   b->model->config.mmdit.patch_size);
    ink_vae_decode(&l.ctx, decoder, pixels, grid, h, w);
    assert_int_equal(l.ctx.status, INK_OK);
    for (int64_t i = 0; i < pixels.rows * pixels.cols; i++)
        pixels.data[i] = 0.5f * fminf(fmaxf(pixels.data[i], -1.0f), 1.0f) + 0.5f;
    ink_tensor expected = stage(b, "image");
    assert_at_least(b, "image of recorded latents", psnr(pixels, ink_view(expected.data, pixels.rows, pixels.cols)), 110);
    ink_free(decoder);
    lab_close(&l);
}

static void test_parts(void **state) {
    (void)state;
    int n_tested = 0;
    for (size_t i = 0; i < n_references; i++) {
        bench b = bench_open(&references[i], INK_PRECISION_F32, NULL);
        if (stage_or_null(&b, "velocity.cond")) {
            check_text_encoder(&b);
            check_transformer(&b);
            n_tested++;
        }
        check_vae(&b);
        bench_close(&b);
    }
    assert_true(n_tested >= 10);
}

/* ---- references that are wrong -------------------------------------------------------------------------------------- */

static const char guided_reference[] = "tiny/ref_cfg", plain_reference[] = "tiny/ref_plain";

/* A bench with a reference to be changed, and where to write it. */
typedef struct patient {
    bench b;
    test_doctor *doctor;
    char folder[TEST_PATH], path[TEST_PATH];
} patient;

static patient admit(const char *name) {
    patient p = {0};
    size_t i = 0;
    while (i < n_references && strcmp(references[i].name, name) != 0) i++;
    if (i == n_references) fail_msg("there is no %s", name);
    p.b = bench_open(&references[i], INK_PRECISION_F32, NULL);
    p.doctor = test_doctor_open(references[i].path);
    test_path(p.path, test_folder_create(p.folder), "ref.safetensors");
    return p;
}

static void discharge(patient *p) {
    test_doctor_close(p->doctor);
    test_folder_remove(p->folder);
    bench_close(&p->b);
}

/* What a stage is computed from: verification starts from the reference's noise, so that it moves what comes behind it. */
static bool follows(const char *name, const char *changed) {
    return strcmp(changed, "noise") == 0 && (strcmp(name, "latents") == 0 || strcmp(name, "image") == 0);
}

/* Verification must fail in that stage and in no other that does not follow from it. */
static void assert_caught(patient *p, const char *name, const char *note) {
    test_doctor_write(p->doctor, p->path);
    ink_verification *v = verify(&p->b, p->path);
    assert_false(v->passed);
    for (size_t i = 0; i < v->n_rows; i++) {
        bool changed = strcmp(v->rows[i].stage, name) == 0;
        if (v->rows[i].passed == changed && !follows(v->rows[i].stage, name))
            fail_msg("%s changed: %s %s", name, v->rows[i].stage, changed ? "passed" : "failed");
    }
    assert_non_null(strstr(find_row(v, name)->note, note));
    assert_true(find_row(v, name)->note[0] == '\0' || isnan(find_row(v, name)->max_error));
    ink_verification_destroy(&v);
    assert_null(v);
}

static const char *const stage_names[] = {"prompt_embeds", "negative_embeds", "noise", "sigmas", "latents", "image"};

enum { N_STAGES = sizeof stage_names / sizeof *stage_names };

/* The last step is also judged by itself: what is wrong in an earlier one does not count. */
static void test_last_step_alone(void **state) {
    (void)state;
    patient p = admit(guided_reference);
    int64_t n;
    float *latents = test_doctor_tensor(p.doctor, "latents", &n);
    latents[0] += 100;
    for (int last = 0; last < 2; last++) {
        if (last) latents[n - 1] += 100;
        test_doctor_write(p.doctor, p.path);
        ink_verification *v = verify(&p.b, p.path);
        assert_true(find_row(v, "latents")->relative_l2 > 0.1);
        assert_true((find_row(v, "latents")->last_relative_l2 > 0.1) == last);
        ink_verification_destroy(&v);
    }
    discharge(&p);
}

/* An untouched copy passes: what fails below fails for its one change. */
static void test_unchanged_copy_passes(void **state) {
    (void)state;
    patient p = admit(guided_reference);
    test_doctor_write(p.doctor, p.path);
    ink_verification *v = verify(&p.b, p.path);
    assert_passed(&p.b, v);
    check_f32_rows(&p.b, v);
    ink_verification_destroy(&v);
    discharge(&p);
}

/* The first and the last value of every stage a little off, and one in between that is no number. */
static void test_one_wrong_value(void **state) {
    (void)state;
    static const float changes[] = {0.01f, -0.01f, NAN, INFINITY};
    for (int s = 0; s < N_STAGES; s++) {
        patient p = admit(guided_reference);
        int64_t n;
        float *x = test_doctor_tensor(p.doctor, stage_names[s], &n);
        for (int c = 0; c < 4; c++) {
            int64_t i = (const int64_t[]){0, n - 1, n / 2, n / 3}[c];
            float before = x[i];
            x[i] += changes[c];
            assert_caught(&p, stage_names[s], "");
            x[i] = before;
        }
        discharge(&p);
    }
}

static void test_wrong_shape(void **state) {
    (void)state;
    for (int s = 0; s < N_STAGES; s++) {
        patient p = admit(guided_reference);
        int64_t n;
        test_doctor_tensor(p.doctor, stage_names[s], &n);
        test_doctor_reshape(p.doctor, stage_names[s], 2, (const int64_t[]){1, n});
        assert_caught(&p, stage_names[s], "shape");
        test_doctor_reshape(p.doctor, stage_names[s], 1, (const int64_t[]){n - 1});
        assert_caught(&p, stage_names[s], "shape");
        test_doctor_reshape(p.doctor, stage_names[s], 1, (const int64_t[]){0});
        assert_caught(&p, stage_names[s], "shape");
        discharge(&p);
    }
}

static void test_missing_stage(void **state) {
    (void)state;
    for (int s = 0; s < N_STAGES; s++) {
        patient p = admit(guided_reference);
        test_doctor_drop(p.doctor, stage_names[s]);
        assert_caught(&p, stage_names[s], "no such stage");
        discharge(&p);
    }
}

static void test_stage_too_many(void **state) {
    (void)state;
    patient p = admit(plain_reference);
    test_doctor_add(p.doctor, "negative_embeds", 10);
    assert_caught(&p, "negative_embeds", "no such stage");
    discharge(&p);
}

static void replace_bytes(const char *path, const char *old, const char *new) {
    static char bytes[1 << 20];
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    size_t n = fread(bytes, 1, sizeof bytes, file), length = strlen(old), i = 0;
    assert_int_equal(length, strlen(new));
    while (i + length <= n && memcmp(bytes + i, old, length) != 0) i++;
    assert_true(i + length <= n);
    assert_int_equal(fseek(file, (long)i, SEEK_SET), 0);
    assert_int_equal(fwrite(new, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void test_stage_of_another_type(void **state) {
    (void)state;
    patient p = admit(plain_reference);
    test_doctor_write(p.doctor, p.path);
    replace_bytes(p.path, "\"sigmas\":{\"dtype\":\"F32\"", "\"sigmas\":{\"dtype\":\"I32\"");
    ink_verification *v = verify(&p.b, p.path);
    assert_false(v->passed);
    assert_false(find_row(v, "sigmas")->passed);
    assert_non_null(strstr(find_row(v, "sigmas")->note, "F32, F16 or BF16"));
    assert_true(find_row(v, "noise")->passed);
    ink_verification_destroy(&v);
    discharge(&p);
}

/* Metadata that describes another request: the run goes on, and differs. */
static void test_other_request(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *stage;
    } cases[] = {{"prompt", "a blue circle", "prompt_embeds"},
                 {"negative_prompt", "x", "negative_embeds"},
                 {"steps", "4", "sigmas"},
                 {"seed", "1", "noise"},
                 {"cfg", "4.01", "latents"},
                 {"cfg", "1", "negative_embeds"},
                 {"rng", "torch-cuda", "noise"},
                 {"noise_dtype", "bf16", "noise"},
                 {"width", "80", "image"},
                 {"height", "64", "image"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        patient p = admit(guided_reference);
        test_doctor_set(p.doctor, cases[i].key, cases[i].value);
        test_doctor_write(p.doctor, p.path);
        ink_verification *v = verify(&p.b, p.path);
        if (v->passed || find_row(v, cases[i].stage)->passed) fail_msg("%s = %s passed", cases[i].key, cases[i].value);
        ink_verification_destroy(&v);
        discharge(&p);
    }
}

/* Metadata that describes no request: an error that names the file, the key and what was expected. */
static void test_bad_metadata(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *words;
    } cases[] = {{"prompt", NULL, "prompt|nothing"},
                 {"steps", NULL, "steps|an integer|nothing"},
                 {"steps", "four", "steps|an integer|four"},
                 {"steps", "1.5", "steps|an integer|1.5"},
                 {"steps", "", "steps|an integer"},
                 {"steps", "0", "0 steps|1 to 10000"},
                 {"steps", "1e300", "steps|an integer"},
                 {"width", "nan", "width|an integer|nan"},
                 {"width", "17", "width 17|multiple of 16"},
                 {"width", NULL, "width|nothing"},
                 {"height", "-16", "height -16|out of range"},
                 {"height", "[16]", "height|an integer"},
                 {"seed", NULL, "seed|64 bits|nothing"},
                 {"seed", "-1", "seed|64 bits|-1"},
                 {"seed", "18446744073709551616", "seed|64 bits"},
                 {"seed", "1x", "seed|64 bits|1x"},
                 {"cfg", NULL, "cfg|a number|nothing"},
                 {"cfg", "high", "cfg|a number|high"},
                 {"cfg", "4,5", "cfg|a number|4,5"},
                 {"cfg", "1e9", "guidance|1000"},
                 {"negative_prompt", NULL, "negative_prompt|nothing"},
                 {"rng", NULL, "rng|torch-cpu|nothing"},
                 {"rng", "numpy", "rng|torch-cpu-2.13|numpy"},
                 {"rng", "torch-cuda:5000", "multiprocessors|4096"},
                 {"noise_dtype", NULL, "noise_dtype|bf16|nothing"},
                 {"noise_dtype", "f16", "noise_dtype|f32 or bf16|f16"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        patient p = admit(guided_reference);
        test_doctor_set(p.doctor, cases[i].key, cases[i].value);
        test_doctor_write(p.doctor, p.path);
        ink_error error;
        ink_verification *v = (ink_verification *)(uintptr_t)1;
        if (ink_verify(p.b.session, p.path, NULL, NULL, &v, &error) != INK_ERROR_FORMAT)
            fail_msg("%s = %s: %s", cases[i].key, cases[i].value ? cases[i].value : "nothing", error.message);
        assert_null(v);
        const char *missing = test_missing_word(error.message, cases[i].words);
        if (missing || !strstr(error.message, p.path))
            fail_msg("\"%s\" or the path is not in: %s", missing ? missing : "", error.message);
        assert_int_equal(ink_verify(p.b.session, p.path, NULL, NULL, &v, NULL), INK_ERROR_FORMAT);
        discharge(&p);
    }
}

static void test_no_reference(void **state) {
    (void)state;
    patient p = admit(plain_reference);
    ink_error error;
    ink_verification *v;
    assert_int_equal(ink_verify(p.b.session, p.path, NULL, NULL, &v, &error), INK_ERROR_IO);
    assert_null(v);
    assert_int_equal(ink_verify(p.b.session, p.folder, NULL, NULL, &v, &error), INK_ERROR_IO);
    assert_non_null(strstr(error.message, "folder"));
    test_write_text(p.folder, "ref.safetensors", "not a safetensors file");
    assert_int_equal(ink_verify(p.b.session, p.path, NULL, NULL, &v, &error), INK_ERROR_FORMAT);
    assert_non_null(strstr(error.message, p.path));
    discharge(&p);
}

static int find(void **state) {
    (void)state;
    n_references = test_find_references(references);
    return n_references >= 15 ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_on_every_tier),
        cmocka_unit_test(test_last_step),
        cmocka_unit_test(test_bf16_is_no_worse_than_the_frameworks),
        cmocka_unit_test(test_bf16_stays_within_its_limits),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_last_step_alone),
        cmocka_unit_test(test_unchanged_copy_passes),
        cmocka_unit_test(test_one_wrong_value),
        cmocka_unit_test(test_wrong_shape),
        cmocka_unit_test(test_missing_stage),
        cmocka_unit_test(test_stage_too_many),
        cmocka_unit_test(test_stage_of_another_type),
        cmocka_unit_test(test_other_request),
        cmocka_unit_test(test_bad_metadata),
        cmocka_unit_test(test_no_reference),
    };
    return cmocka_run_group_tests(tests, find, NULL);
}
