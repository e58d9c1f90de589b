/*
 * generate.c - from prompt to picture, straight through: encode_prompts, prepare, denoise, decode.
 *
 * The run is written once and executed twice. Dry, with headers for weights and an arena that only counts, it tells how much
 * memory a request needs; then in earnest, in an arena of exactly that size. A component's weights are held while it works.
 */
#include "pipeline/generate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/system.h"
#include "model/rope.h"
#include "pipeline/image.h"
#include "pipeline/latents.h"
#include "pipeline/request.h"
#include "pipeline/run.h"
#include "pipeline/scheduler.h"

/* While the picture is drawn. */
static bool may_round(const ink_run *r) { return r->model->precision != INK_PRECISION_F32; }

/* ---- the story ------------------------------------------------------------------------------------------------------ */

static void tokenize(ink_run *r) {
    const char *texts[2] = {r->request.prompt, r->request.negative_prompt};
    const char *names[2] = {"prompt", "negative prompt"};
    r->n_sides = ink_request_guided(&r->request) ? 2 : 1;
    for (int i = 0; i < r->n_sides && !ink_run_failed(r); i++)
        r->ctx.status = r->model->synthetic
                            ? ink_prompt_synthetic(&r->sides[i].prompt, r->model->synthetic_tokens,
                                                   r->model->config.text_encoder.vocab_size, r->error)
                            : ink_prompt_encode(&r->sides[i].prompt, r->model->tokenizer, texts[i], names[i], r->error);
    r->plan->prompt_tokens = r->sides[0].prompt.n_text;
    r->plan->prompt_cut = r->sides[0].prompt.n_cut;
    r->plan->negative_tokens = r->sides[1].prompt.n_text;
    r->plan->negative_cut = r->sides[1].prompt.n_cut;
}

/* Tables of angles, which the host fills. */
typedef struct host_tables {
    ink_tensor cos, sin;
} host_tables;

static host_tables begin_tables(ink_run *r, ink_tensor cos, ink_tensor sin) {
    return (host_tables){ink_host_begin(&r->ctx, cos, INK_HOST_WRITE), ink_host_begin(&r->ctx, sin, INK_HOST_WRITE)};
}

static void end_tables(ink_run *r, host_tables tables, ink_tensor cos, ink_tensor sin) {
    ink_host_end(&r->ctx, tables.cos, cos, INK_HOST_WRITE);
    ink_host_end(&r->ctx, tables.sin, sin, INK_HOST_WRITE);
}

/* Fills the sides' states, all by one forward: so each layer's weights are read once. */
static void encode_sides(ink_run *r, ink_text_encoder *encoder) {
    const ink_text_encoder_config *config = encoder->config;
    ink_text_tokens texts[INK_MAX_SIDES];
    int64_t first[INK_MAX_SIDES], n = 0;
    for (int i = 0; i < r->n_sides; i++) {
        texts[i] = (ink_text_tokens){r->sides[i].prompt.ids, r->sides[i].prompt.n};
        first[i] = n;
        n += texts[i].n;
    }
    ink_tensor all = ink_scratch(&r->ctx, n, config->hidden_size);
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor cos = ink_scratch(&r->ctx, n, config->head_dim / 2), sin = ink_scratch(&r->ctx, n, config->head_dim / 2);
    if (!ink_run_is_dry(r) && !ink_run_failed(r)) {
        host_tables tables = begin_tables(r, cos, sin);
        for (int i = 0; i < r->n_sides && !ink_run_failed(r); i++)
            ink_rope_text(ink_rows(tables.cos, first[i], texts[i].n), ink_rows(tables.sin, first[i], texts[i].n),
                          config->rope_theta);
        end_tables(r, tables, cos, sin);
    }
    ink_text_encoder_forward(&r->ctx, encoder, all, &(ink_text_input){texts, r->n_sides, cos, sin});
    ink_arena_release(&r->arena, mark);
    for (int i = 0; i < r->n_sides; i++) {
        const ink_prompt *prompt = &r->sides[i].prompt;
        r->sides[i].states = ink_rows(all, first[i] + prompt->drop, prompt->n - prompt->drop);
    }
}

/* On a device that has room for all weights they travel while the host goes on, up to ink_run_await or, block by block, in the
 * first step. */
static bool binds_ahead(const ink_run *r) { return !ink_run_is_dry(r) && ink_run_is_remote(r) && r->plan->gpu_keeps_weights; }

static void bind_text_encoder(ink_run *r) {
    const ink_text_encoder_config *config = &r->model->config.text_encoder;
    ink_need *need = &r->needs[INK_NEED_TEXT];
    ink_binder *binder = ink_run_begin_binding(r, INK_TEXT_ENCODER, need, config->n_layers, binds_ahead(r));
    ink_text_encoder_bind(&r->networks->text_encoder, config, binder);
    ink_run_end_binding(r, INK_TEXT_ENCODER, need);
}

static void encode_prompts(ink_run *r) {
    ink_run_await(r, INK_TEXT_ENCODER, INK_ALL_UPLOADS);
    ink_run_begin_phase(r, INK_PHASE_TEXT, 1);
    if (!ink_run_failed(r)) encode_sides(r, &r->networks->text_encoder);
    ink_run_unit_done(r);
    ink_run_leave(r, INK_TEXT_ENCODER);
    ink_run_end_phase(r);
}

static void open_adapters(ink_run *r) {
    if (r->request.n_loras == 0 || ink_run_failed(r)) return;
    r->ctx.status = ink_adapters_open(&r->adapters, r->request.loras, r->request.n_loras, r->error);
}

/* Both bindings of the transformer have been through: by now every tensor of the LoRA files has found its matrix. */
static void check_adapters(ink_run *r) {
    if (!r->adapters || ink_run_failed(r)) return;
    int64_t applied;
    ink_adapters_count(r->adapters, &applied, &r->plan->lora_tensors);
    r->ctx.status = ink_adapters_check_applied(r->adapters, r->error);
}

/* Sigmas, and the times that the network is told. */
static void make_schedule(ink_run *r) {
    int64_t n_steps = r->request.steps;
    r->sigmas = ink_alloc_array((size_t)n_steps + 1, sizeof *r->sigmas);
    r->times = ink_alloc_array((size_t)n_steps, sizeof *r->times);
    if (!r->sigmas || !r->times) ink_run_fail_memory(r, "schedule");
    if (ink_run_failed(r)) return;
    const ink_scheduler_config schedule = ink_request_schedule(&r->request, r->model);
    ink_scheduler_sigmas(r->sigmas, &schedule, n_steps, r->n_img);
    ink_scheduler_times(r->times, &schedule, r->sigmas, n_steps);
}

/* The modulation that a device keeps for later pictures of the same times is that of this one. */
static bool knows_modulation(const ink_run *r) {
    return r->request.n_loras == 0 && ink_networks_know(r->networks, r->times, r->request.steps);
}

/* Where there is room, weights of the modulation come in one go, ahead of the transformer's; else a few at a time, later. */
static void bind_modulator_ahead(ink_run *r, ink_binder *transformer) {
    if (!r->needs[INK_NEED_MODULATION].whole || transformer->status != INK_OK || knows_modulation(r)) return;
    ink_binder binder = ink_run_binder(r, INK_TRANSFORMER, &r->modulator_store);
    binder.loaded = NULL;
    binder.follows = true;
    ink_modulator_bind(&r->modulator, &r->model->config.mmdit, &binder);
    transformer->uploads = binder.uploads;
    transformer->status = binder.status;
    r->n_modulator_uploads = binder.uploads.n;
}

static void bind_transformer(ink_run *r) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_need *need = &r->needs[INK_NEED_DENOISE];
    if (ink_run_is_remote(r) && !ink_run_is_dry(r)) ink_replay_release(r->device, &r->networks->forward);
    ink_binder *binder = ink_run_begin_binding(r, INK_TRANSFORMER, need, config->n_layers, r->bound_ahead);
    if (r->bound_ahead) bind_modulator_ahead(r, binder);
    ink_mmdit_bind(&r->networks->mmdit, config, binder);
    ink_run_end_binding(r, INK_TRANSFORMER, need);
}

/*
 * Its forward on numbers that mean nothing, while weights travel: at the first use of a shape a device looks for the best way to do
 * it and loads the code of that, some tenths of a second for all of them.
 */
static void rehearse(ink_run *r) {
    const ink_config *config = &r->model->config;
    ink_ctx *c = &r->ctx;
    ink_mmdit_input input = {.latents = r->latents, .n_sides = r->n_sides, .last = true};
    size_t mark = ink_arena_mark(&r->arena);
    int64_t n_tokens = r->n_sides * r->n_img;
    ink_run_begin_phase(r, INK_PHASE_LOAD, r->component_bytes[INK_TRANSFORMER]);
    for (int i = 0; i < r->n_sides; i++) {
        const ink_prompt *prompt = &r->sides[i].prompt;
        input.text[i] = ink_scratch(c, prompt->n - prompt->drop, config->text_encoder.hidden_size);
        n_tokens += prompt->n - prompt->drop;
    }
    input.cos = ink_scratch(c, n_tokens, config->mmdit.head_dim / 2);
    input.sin = ink_scratch(c, n_tokens, config->mmdit.head_dim / 2);
    ink_tensor velocity = ink_scratch(c, r->n_sides * r->n_img, config->mmdit.in_channels);
    const ink_modulation modulation = ink_modulation_take(c, &config->mmdit, 1);
    c->may_round = may_round(r);
    if (!ink_run_failed(r)) ink_mmdit_rehearse(c, &r->networks->mmdit, velocity, &input, &modulation);
    c->may_round = false;
    ink_arena_release(&r->arena, mark);
    ink_run_end_phase(r);
}

/* Its weights are on their way while the prompts are read. */
static void bind_transformer_ahead(ink_run *r) {
    if (ink_run_failed(r) || !binds_ahead(r) || r->request.n_loras > 0 || r->networks->holdings[INK_TRANSFORMER].held) return;
    r->bound_ahead = true;
    bind_transformer(r);
    bool watched = r->ctx.trace || r->ctx.observe; /* by those who want to see what is drawn */
    if (!ink_run_failed(r) && !watched && r->networks->holdings[INK_TRANSFORMER].binder.coming) rehearse(r);
}

/* Room for the modulation, which a device keeps. True when it holds what is to be made. */
static bool take_modulation(ink_run *r) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_networks *networks = r->networks;
    int64_t n_steps = r->request.steps;
    if (ink_run_is_dry(r) || ink_run_failed(r) || !ink_run_is_remote(r)) {
        r->modulation = ink_modulation_take(&r->ctx, config, n_steps);
        return false;
    }
    bool known = knows_modulation(r);
    if (!known && !ink_networks_take_modulation(networks, &r->ctx, config, n_steps, (size_t)r->kept_bytes))
        ink_run_fail_memory(r, "modulation");
    r->modulation = networks->modulation;
    return known;
}

/* What its weights would take all at once, which those of files may that nothing is added to. */
static void count_modulator(ink_run *r, ink_need *need) {
    ink_modulator modulator;
    ink_binder binder = ink_run_binder(r, INK_TRANSFORMER, NULL);
    ink_modulator_bind(&modulator, &r->model->config.mmdit, &binder);
    ink_modulator_release(&modulator);
    if (!ink_run_failed(r)) r->ctx.status = binder.status;
    need->whole_bytes = binder.stored_bytes;
}

static void modulate(ink_run *r) {
    const ink_config *config = &r->model->config;
    int64_t n_steps = r->request.steps;
    ink_store store = {0};
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor times = ink_scratch(&r->ctx, 1, n_steps);
    if (!ink_run_is_dry(r) && !ink_run_failed(r)) {
        ink_tensor host = ink_host_begin(&r->ctx, times, INK_HOST_WRITE);
        if (!ink_run_failed(r)) memcpy(host.data, r->times, (size_t)n_steps * sizeof *r->times);
        ink_host_end(&r->ctx, host, times, INK_HOST_WRITE);
    }
    ink_binder binder = ink_run_binder(r, INK_TRANSFORMER, &store);
    binder.loaded = NULL;
    const ink_modulator *modulator = r->modulator.layers ? &r->modulator : NULL;
    ink_mmdit_modulate(&r->ctx, &config->mmdit, modulator, &binder, times, &r->modulation);
    ink_need *need = &r->needs[INK_NEED_MODULATION];
    ink_run_bound(r, &binder, INK_TRANSFORMER, need);
    ink_store_release(&store);
    ink_store_release(&r->modulator_store);
    ink_arena_release(&r->arena, mark);
    if (!ink_run_is_dry(r) || ink_run_failed(r)) return;
    /* Of the files a layer at a time. */
    need->mapped_bytes = 0;
    need->passing_bytes = binder.largest_bytes;
    if (ink_run_is_remote(r) && r->request.n_loras == 0 && !r->model->synthetic) count_modulator(r, need);
}

/* Room for what the network says, and the angles of all tokens' positions. */
static void place_tokens(ink_run *r) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_ctx *c = &r->ctx;
    int64_t n_txt[INK_MAX_SIDES], n_tokens = r->n_sides * r->n_img, patch = config->patch_size;
    ink_run_begin_phase(r, INK_PHASE_PREPARE, 1);
    for (int i = 0; i < r->n_sides; i++) n_tokens += n_txt[i] = r->sides[i].states.rows;
    r->velocity = ink_scratch(c, r->n_sides * r->n_img, config->in_channels);
    r->cos = ink_scratch(c, n_tokens, config->head_dim / 2);
    r->sin = ink_scratch(c, n_tokens, config->head_dim / 2);
    if (!ink_run_is_dry(r) && !ink_run_failed(r)) {
        host_tables tables = begin_tables(r, r->cos, r->sin);
        if (!ink_run_failed(r))
            ink_rope_joint(tables.cos, tables.sin, config->rope_axes, n_txt, r->n_sides, r->latent_height / patch,
                           r->latent_width / patch);
        end_tables(r, tables, r->cos, r->sin);
    }
    ink_run_end_phase(r);
}

/* What does not change over the steps, beside positions. */
static void prepare(ink_run *r) {
    bool comes_first = r->modulator.layers || knows_modulation(r);
    ink_run_await(r, INK_TRANSFORMER, comes_first ? r->n_modulator_uploads : INK_ALL_UPLOADS);
    ink_run_begin_phase(r, INK_PHASE_PREPARE, 1);
    bool known = take_modulation(r);
    if (!known && !ink_run_failed(r)) modulate(r);
    if (ink_run_is_remote(r) && !ink_run_is_dry(r) && !ink_run_failed(r) && r->request.n_loras == 0 && !known) {
        r->networks->times = r->times;
        r->times = NULL;
    }
    ink_run_unit_done(r);
    ink_run_end_phase(r);
}

/* What a recorded forward is of; another one makes it void. */
static void check_record(ink_run *r) {
    ink_networks *networks = r->networks;
    if (!ink_run_is_remote(r) || ink_run_is_dry(r)) return;
    const int64_t now[6] = {r->latent_height,
                            r->latent_width,
                            r->sides[0].states.rows,
                            r->n_sides == 2 ? r->sides[1].states.rows : 0,
                            (int64_t)(intptr_t)r->arena.memory,
                            (int64_t)r->arena.used};
    if (memcmp(now, networks->recorded, sizeof now) != 0) ink_replay_release(r->device, &networks->forward);
    memcpy(networks->recorded, now, sizeof now);
}

static void denoise_step(ink_run *r, const ink_modulation *current, int64_t step) {
    ink_ctx *c = &r->ctx;
    ink_mmdit_input input = {.latents = r->latents, .n_sides = r->n_sides, .cos = r->cos, .sin = r->sin};
    input.last = step == r->request.steps - 1;
    for (int i = 0; i < r->n_sides; i++) input.text[i] = r->sides[i].states;
    ink_modulation_copy_step(c, current, &r->modulation, step);
    if (ink_replay_begin(c, &r->networks->forward)) ink_mmdit_forward(c, &r->networks->mmdit, r->velocity, &input, current, 0);
    ink_replay_end(c, &r->networks->forward);
    ink_tensor velocity = ink_rows(r->velocity, 0, r->n_img);
    if (r->n_sides == 2)
        ink_cfg_combine(c, velocity, velocity, ink_rows(r->velocity, r->n_img, r->n_img), (float)r->request.guidance);
    ink_euler_step(c, r->latents, velocity, ink_run_failed(r) ? 0 : r->sigmas[step + 1] - r->sigmas[step]);
}

static void keep_latents(ink_run *r, int64_t step) {
    if (!r->stages || ink_run_failed(r)) return;
    int64_t n = r->latents.rows * r->latents.cols;
    ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_READ);
    if (!ink_run_failed(r)) memcpy(r->stages->stage[INK_STAGE_LATENTS].data + step * n, host.data, (size_t)n * sizeof(float));
    ink_host_end(&r->ctx, host, r->latents, INK_HOST_READ);
}

static void denoise(ink_run *r) {
    int64_t n_steps = r->request.steps;
    /* A LoRA is of one run. */
    if (r->request.n_loras > 0) ink_networks_drop(r->networks, INK_TRANSFORMER);
    if (!r->networks->holdings[INK_TRANSFORMER].held && !r->bound_ahead) bind_transformer(r);
    check_adapters(r);

    ink_run_begin_phase(r, INK_PHASE_DENOISE, n_steps);
    r->ctx.may_round = may_round(r);
    const ink_modulation current = ink_modulation_take(&r->ctx, &r->model->config.mmdit, 1);
    check_record(r);
    /* One step tells a dry run what all of them need. */
    for (int64_t step = 0; step < (ink_run_is_dry(r) ? 1 : n_steps) && !ink_run_failed(r); step++) {
        denoise_step(r, &current, step);
        ink_run_end_bringing(r, INK_TRANSFORMER);
        /* What was queued is not done; waiting costs nothing that a step would notice, and progress is true. */
        if (ink_run_is_remote(r) && !ink_run_is_dry(r)) r->device->memory->wait(r->device);
        keep_latents(r, step);
        ink_run_unit_done(r);
    }
    ink_run_leave(r, INK_TRANSFORMER);
    ink_run_end_phase(r);
    if (ink_run_is_dry(r)) r->phase_work[INK_PHASE_DENOISE] *= (double)n_steps;
}

static void bind_decoder(ink_run *r) {
    if (!r->networks->vae) r->networks->vae = ink_alloc(sizeof *r->networks->vae);
    if (!r->networks->vae) {
        ink_run_fail_memory(r, "decoder");
        return;
    }
    ink_binder *binder = ink_run_begin_binding(r, INK_VAE, NULL, 0, false);
    ink_vae_decoder_bind(r->networks->vae, &r->model->config.vae, binder);
    ink_run_end_binding(r, INK_VAE, &r->needs[INK_NEED_VAE]);
}

/* mean and std [1, z_dim] of a picture's latents. */
static void fill_statistics(ink_run *r, ink_tensor mean, ink_tensor std) {
    const ink_vae_config *config = &r->model->config.vae;
    ink_tensor host_mean = ink_host_begin(&r->ctx, mean, INK_HOST_WRITE), host_std = ink_host_begin(&r->ctx, std, INK_HOST_WRITE);
    for (int64_t i = 0; i < config->z_dim && !ink_run_failed(r); i++) {
        host_mean.data[i] = (float)config->latents_mean[i];
        /* The reference divides by a rounded reciprocal; so do we, by multiplying with its reciprocal. */
        host_std.data[i] = 1.0f / (1.0f / (float)config->latents_std[i]);
    }
    ink_host_end(&r->ctx, host_mean, mean, INK_HOST_WRITE);
    ink_host_end(&r->ctx, host_std, std, INK_HOST_WRITE);
}

/* Fills pixels. */
static void decode(ink_run *r) {
    const ink_vae_config *config = &r->model->config.vae;
    ink_ctx *c = &r->ctx;
    if (!r->networks->holdings[INK_VAE].held) bind_decoder(r);
    if (ink_run_failed(r)) return;

    ink_run_begin_phase(r, INK_PHASE_DECODE, 1);
    r->pixels = ink_scratch(c, r->request.height * r->request.width, 3);
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor grid = ink_scratch(c, r->latent_height * r->latent_width, config->z_dim);
    ink_tensor mean = ink_scratch(c, 1, config->z_dim), std = ink_scratch(c, 1, config->z_dim);
    if (!ink_run_is_dry(r) && !ink_run_failed(r)) fill_statistics(r, mean, std);
    ink_unpatchify(c, grid, r->latents, mean, std, r->latent_height, r->latent_width, r->model->config.mmdit.patch_size);
    ink_vae_decode(c, r->networks->vae, r->pixels, grid, r->latent_height, r->latent_width);
    ink_arena_release(&r->arena, mark);
    ink_run_leave(r, INK_VAE);
    ink_run_unit_done(r);
    ink_run_end_phase(r);
}

static ink_image *make_image(ink_run *r) {
    ink_tensor host = ink_host_begin(&r->ctx, r->pixels, INK_HOST_READ);
    ink_image *image = ink_run_failed(r)
                           ? NULL
                           : ink_image_make(host.data, r->request.width, r->request.height, &r->session->stats.nan_pixels);
    if (!image) ink_run_fail_memory(r, "picture");
    ink_host_end(&r->ctx, host, r->pixels, INK_HOST_READ);
    return image;
}

/* ---- stages --------------------------------------------------------------------------------------------------------- */

static void keep(ink_run *r, bool kept) {
    if (!kept) ink_run_fail_memory(r, "stages to compare");
}

static void keep_tensor(ink_run *r, int stage, ink_tensor x) {
    ink_tensor host = ink_host_begin(&r->ctx, x, INK_HOST_READ);
    if (!ink_run_failed(r)) keep(r, ink_stages_copy(r->stages, stage, host));
    ink_host_end(&r->ctx, host, x, INK_HOST_READ);
}

static void keep_start(ink_run *r) {
    if (!r->stages || ink_run_failed(r)) return;
    keep_tensor(r, INK_STAGE_PROMPT_EMBEDS, r->sides[0].states);
    if (r->n_sides == 2) keep_tensor(r, INK_STAGE_NEGATIVE_EMBEDS, r->sides[1].states);
    keep_tensor(r, INK_STAGE_NOISE, r->latents);
    keep(r, ink_stages_take(r->stages, INK_STAGE_SIGMAS, 1, (const int64_t[]){r->request.steps + 1}));
    keep(r,
         ink_stages_take(r->stages, INK_STAGE_LATENTS, 3, (const int64_t[]){r->request.steps, r->latents.rows, r->latents.cols}));
    if (!ink_run_failed(r))
        memcpy(r->stages->stage[INK_STAGE_SIGMAS].data, r->sigmas, (size_t)(r->request.steps + 1) * sizeof *r->sigmas);
}

static void keep_image(ink_run *r) {
    if (!r->stages || ink_run_failed(r)) return;
    keep(r, ink_stages_take(r->stages, INK_STAGE_IMAGE, 3, (const int64_t[]){r->request.height, r->request.width, 3}));
    int64_t n = r->request.height * r->request.width * 3;
    ink_tensor host = ink_host_begin(&r->ctx, r->pixels, INK_HOST_READ);
    for (int64_t i = 0; i < n && !ink_run_failed(r); i++) r->stages->stage[INK_STAGE_IMAGE].data[i] = ink_shade(host.data[i]);
    ink_host_end(&r->ctx, host, r->pixels, INK_HOST_READ);
}

/* ---- running it ------------------------------------------------------------------------------------------------------ */

static void take_latents(ink_run *r) {
    const ink_config *config = &r->model->config;
    r->latent_height = r->request.height / config->vae.scale;
    r->latent_width = r->request.width / config->vae.scale;
    r->n_img = r->latent_height / config->mmdit.patch_size * (r->latent_width / config->mmdit.patch_size);
    r->latents = ink_scratch(&r->ctx, r->n_img, config->mmdit.in_channels);
}

static void draw_noise(ink_run *r) {
    const ink_config *config = &r->model->config;
    if (ink_run_is_dry(r) || ink_run_failed(r)) return;
    float *sample = ink_alloc_array((size_t)r->n_img, (size_t)config->mmdit.in_channels * sizeof *sample);
    if (!sample) ink_run_fail_memory(r, "noise");
    ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_WRITE);
    if (!ink_run_failed(r))
        ink_latents_noise(host, sample, &r->request, config->vae.z_dim, r->latent_height, r->latent_width,
                          config->mmdit.patch_size);
    ink_host_end(&r->ctx, host, r->latents, INK_HOST_WRITE);
    ink_free(sample);
}

static void picture(ink_run *r) {
    tokenize(r);
    open_adapters(r);
    take_latents(r);
    make_schedule(r);
    size_t mark = ink_arena_mark(&r->arena);
    if (!ink_run_failed(r) && !r->networks->holdings[INK_TEXT_ENCODER].held) bind_text_encoder(r);
    bind_transformer_ahead(r);
    draw_noise(r);
    if (!ink_run_failed(r)) encode_prompts(r);
    if (!ink_run_failed(r)) place_tokens(r);
    if (!ink_run_failed(r)) prepare(r);
    keep_start(r);
    if (r->noise && !ink_run_is_dry(r) && !ink_run_failed(r)) {
        ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_WRITE);
        if (!ink_run_failed(r)) memcpy(host.data, r->noise, (size_t)(r->latents.rows * r->latents.cols) * sizeof(float));
        ink_host_end(&r->ctx, host, r->latents, INK_HOST_WRITE);
    }
    if (!ink_run_failed(r)) denoise(r);
    ink_arena_release(&r->arena, mark);
    if (!ink_run_failed(r)) decode(r);
    keep_image(r);
}

static void release(ink_run *r) {
    for (int i = 0; i < r->n_sides; i++) ink_prompt_release(&r->sides[i].prompt);
    ink_free(r->sigmas);
    ink_free(r->times);
    ink_adapters_close(&r->adapters);
    ink_networks_release(&r->own, r->device);
    ink_modulator_release(&r->modulator);
    ink_store_release(&r->modulator_store);
    ink_arena_destroy(&r->arena);
}

/* What the process has beside a run's weights and scratch: what it has now, and then the picture, stacks and lists. */
static int64_t base_bytes(const ink_run *r) {
    const int64_t small_things = 16 << 20, pixel_bytes = 16;
    return ink_resident_memory() + small_things + pixel_bytes * r->request.width * r->request.height;
}

/* Of a device, beside weights and the arena: workspaces of its libraries and what its ops take for themselves. */
static const int64_t DEVICE_EXTRA_BYTES = (int64_t)1536 << 20;

/* Runs r, of which model, request, device and plan are set, dry. kept: what a session already has on the device, or NULL. */
static ink_status run_dry(ink_run *r, const ink_networks *kept) {
    ink_device host;
    const char *why;
    *r->plan = (ink_memory_plan){.available_bytes = ink_available_memory()};
    if (!ink_device_open(&host, "ref", NULL, &why)) return ink_fail(r->error, INK_ERROR_INTERNAL, "tier ref: %s", why);
    ink_arena_create_dry(&r->arena);
    r->networks = &r->own;
    r->ctx = (ink_ctx){.device = r->device ? r->device : &host, .arena = &r->arena, .error = r->error};
    picture(r);
    r->plan->scratch_bytes = (int64_t)r->arena.peak;
    /* With a transformer that is there nothing is ahead of it. */
    if (kept && kept->holdings[INK_TRANSFORMER].held) r->needs[INK_NEED_MODULATION].whole_bytes = 0;
    ink_status status = r->ctx.status;
    release(r);
    if (status != INK_OK) return status;
    if (!ink_run_is_remote(r)) return ink_budget_apply(r->plan, r->needs, r->request.ram_budget, base_bytes(r), r->error);
    const ink_mmdit_config *config = &r->model->config.mmdit;
    r->kept_bytes = r->request.steps * config->dim * (12 * config->n_layers + 2) * (int64_t)sizeof(float) + 4096;
    return ink_budget_apply_device(r->plan, r->needs, ink_networks_limit(kept, r->device, r->request.vram_budget),
                                   r->kept_bytes + DEVICE_EXTRA_BYTES, r->error);
}

ink_status ink_generate_plan(ink_memory_plan *plan, const ink_model *model, const ink_device *device, const ink_networks *kept,
                             const ink_request *request, ink_error *error) {
    ink_run dry = {.model = model, .device = device, .request = ink_request_resolved(request, model), .plan = plan, .error = error};
    ink_status status = run_dry(&dry, kept);
    ink_needs_release(dry.needs);
    return status;
}

static ink_status check_memory(const ink_memory_plan *plan, const ink_model *model, ink_error *error) {
    const double gib = 1073741824.0;
    if (plan->available_bytes == 0 || plan->peak_bytes <= plan->available_bytes) return INK_OK;
    return ink_fail(
        error, INK_ERROR_MEMORY,
        "this picture needs %.1f GiB of memory (weights %.1f, scratch %.1f) and %.1f GiB are available: ask for a smaller "
        "picture%s",
        (double)plan->peak_bytes / gib, (double)plan->weight_bytes / gib, (double)plan->scratch_bytes / gib,
        (double)plan->available_bytes / gib,
        plan->weight_bytes > plan->scratch_bytes && model->precision != INK_PRECISION_Q4 ? " or --precision q4" : "");
}

static ink_status draw(ink_session *session, const ink_request *request, const float *noise, ink_image **image, ink_stages *stages,
                       ink_error *error) {
    const ink_model *model = session->model;
    double began = ink_seconds();
    session->stats = (ink_stats){.threads = ink_threads_count(session->threads), .cpu = session->device.tier};
    ink_memory_plan plan;
    const ink_device *device = &session->device;
    ink_run dry = {.model = model,
                   .device = device->memory ? device : NULL,
                   .request = ink_request_resolved(request, model),
                   .plan = &plan,
                   .error = error};
    ink_status status = run_dry(&dry, &session->networks);
    if (status == INK_OK && !device->memory) status = check_memory(&plan, model, error);
    if (status != INK_OK) {
        ink_needs_release(dry.needs);
        return status;
    }

    ink_run r = {.session = session,
                 .device = device,
                 .kept_bytes = dry.kept_bytes,
                 .model = model,
                 .request = dry.request,
                 .noise = noise,
                 .plan = &plan,
                 .stages = stages,
                 .error = error};
    memcpy(r.needs, dry.needs, sizeof r.needs);
    memcpy(r.phase_work, dry.phase_work, sizeof r.phase_work);
    memcpy(r.component_bytes, dry.component_bytes, sizeof r.component_bytes);
    r.networks = device->memory ? &session->networks : &r.own;
    bool there = device->memory ? ink_networks_take_arena(r.networks, device, &r.arena, &plan, (size_t)r.kept_bytes)
                                : ink_arena_create(&r.arena, (size_t)plan.scratch_bytes);
    if (!there) {
        ink_needs_release(r.needs);
        return ink_fail(error, INK_ERROR_MEMORY, "no memory for %.1f MiB of scratch", (double)plan.scratch_bytes / 1048576.0);
    }
    r.arena.poison = session->poison && !device->memory;
    r.ctx = (ink_ctx){.device = &session->device,
                      .check = session->check && !device->memory ? &session->definition : NULL,
                      .arena = &r.arena,
                      .cancel = &session->cancel,
                      .trace = session->trace,
                      .worked = ink_run_op_worked,
                      .worked_user = &r,
                      .observe = session->observe,
                      .observe_user = session->observe_user,
                      .error = error};
    picture(&r);
    if (image && !ink_run_failed(&r)) *image = make_image(&r);
    status = r.ctx.status;
    /* After a failure nobody knows what is there, and work may still be under way. */
    if (ink_run_failed(&r) && device->memory) {
        device->memory->wait(device);
        ink_networks_release(&session->networks, device);
    }
    release(&r);
    ink_needs_release(r.needs);
    session->stats.peak_bytes = device->memory ? plan.gpu_peak_bytes : plan.peak_bytes;
    session->stats.total_seconds = ink_seconds() - began;
    return status;
}

ink_status ink_generate_run(ink_session *session, const ink_request *request, const float *noise, ink_image **image,
                            ink_stages *stages, ink_error *error) {
    ink_status status = draw(session, request, noise, image, stages, error);
    /* A cancellation is for the run that it ended, however that one ended. */
    atomic_store(&session->cancel, 0);
    return status;
}
