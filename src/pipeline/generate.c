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
#include "pipeline/budget.h"
#include "pipeline/image.h"
#include "pipeline/latents.h"
#include "pipeline/prompt.h"
#include "pipeline/request.h"
#include "pipeline/scheduler.h"

/* One prompt on its way: its tokens, then its text states. */
typedef struct side {
    ink_prompt prompt;
    ink_tensor states; /* [n - drop, hidden] */
} side;

typedef struct run {
    ink_session *session; /* NULL in a dry run */
    const ink_model *model;
    ink_request request; /* resolved */
    const float *noise;  /* to start from, or NULL */
    ink_memory_plan *plan;
    ink_stages *stages; /* or NULL */
    ink_error *error;
    ink_ctx ctx;
    ink_arena arena;
    const ink_device *device;  /* that draws, or will; NULL in a dry run for the host */
    ink_networks own;          /* ... and of it the networks, unless the session keeps them */
    ink_networks *networks;    /* own, or the session's */
    ink_adapters *adapters;    /* owned; NULL without LoRA */
    side sides[INK_MAX_SIDES]; /* the prompt; with guidance, the negative prompt */
    int n_sides;
    int64_t latent_height, latent_width, n_img; /* in latent pixels; in tokens */
    ink_tensor latents;                         /* [n_img, channels] */
    ink_tensor cos, sin;                        /* of the positions of all sides' texts, then of all sides' images */
    ink_tensor velocity;                        /* [n_sides * n_img, channels] */
    bool bound_ahead;                           /* the transformer, before the prompts are read */
    float *sigmas;                              /* owned: [steps + 1] */
    ink_modulation modulation;
    ink_tensor pixels;                         /* [height * width, 3] */
    ink_need needs[INK_N_NEEDS];               /* from a dry run */
    double phase_work[INK_N_PHASES];           /* from a dry run: of the whole phase */
    int64_t component_bytes[INK_N_COMPONENTS]; /* from a dry run: what loading goes through */
    int64_t kept_bytes;                        /* from a dry run: of the modulation, for a device to keep */
    ink_phase phase;
    int64_t done, total; /* units of the phase */
    double phase_began, phase_first_work, last_report;
} run;

static bool is_dry(const run *r) { return !r->session; }

static bool failed(const run *r) { return r->ctx.status != INK_OK; }

/* Whether weights and activations lie on a device. */
static bool is_remote(const run *r) { return r->device && r->device->memory; }

/* While the picture is drawn. */
static bool may_round(const run *r) { return r->model->precision != INK_PRECISION_F32; }

static void fail_memory(run *r, const char *what) {
    if (!failed(r)) r->ctx.status = ink_fail(r->error, INK_ERROR_MEMORY, "no memory for the %s", what);
}

/* ---- progress ------------------------------------------------------------------------------------------------------ */

static void report(run *r, double fraction) {
    if (is_dry(r) || failed(r) || !r->request.progress) return;
    double now = ink_seconds();
    ink_progress progress = {.phase = r->phase, .done = r->done, .total = r->total, .phase_seconds = now - r->phase_began};
    progress.fraction = fraction < 1 ? fraction : 1;
    r->last_report = now;
    if (r->request.progress(r->request.progress_user, &progress) != 0)
        r->ctx.status = ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
}

static bool report_is_due(const run *r) { return ink_seconds() - r->last_report > 0.1; }

/* After each op: what it did moves the fraction, now and then. */
static void op_worked(void *user) {
    run *r = user;
    double whole = r->phase_work[r->phase];
    if (whole > 0 && report_is_due(r)) report(r, (r->ctx.work - r->phase_first_work) / whole);
}

static void begin_phase(run *r, ink_phase phase, int64_t total) {
    r->phase = phase;
    r->done = 0;
    r->total = total;
    r->phase_began = ink_seconds();
    r->phase_first_work = r->ctx.work;
    report(r, 0);
}

static void unit_done(run *r) {
    r->done++;
    report(r, (double)r->done / (double)r->total);
}

static void end_phase(run *r) {
    /* What was queued in a phase is done in it. */
    if (!is_dry(r) && is_remote(r)) r->device->memory->wait(r->device);
    if (is_dry(r))
        r->phase_work[r->phase] += r->ctx.work - r->phase_first_work;
    else
        r->session->stats.phase_seconds[r->phase] += ink_seconds() - r->phase_began;
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static ink_status tensor_loaded(void *user, const ink_binder *binder) {
    run *r = user;
    if (atomic_load(&r->session->cancel)) return ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
    r->done = binder->mapped_bytes + binder->stored_bytes - (int64_t)binder->uploads.bytes;
    if (report_is_due(r)) report(r, (double)r->done / (double)r->total);
    return r->ctx.status;
}

static ink_binder binder_of(run *r, ink_component component, ink_store *store) {
    return (ink_binder){.weights = r->model->weights[component],
                        .synthetic = r->model->synthetic,
                        .mode = is_dry(r) ? INK_BIND_CHECK : INK_BIND_LOAD,
                        .precision = r->model->precision,
                        .adapters = component == INK_TRANSFORMER ? r->adapters : NULL,
                        .merge = r->request.merge_loras != 0,
                        .threads = is_dry(r) ? NULL : r->session->threads,
                        .store = store,
                        .memory = is_remote(r) ? r->device->memory : NULL,
                        .device = r->device,
                        .error = r->error,
                        .loaded = is_dry(r) ? NULL : tensor_loaded,
                        .loaded_user = r};
}

/* Gets ready to bind a network of n parts, some of which may come and go; 0: all of it stays. */
static ink_holding *begin_binding(run *r, ink_component component, const ink_need *need, int64_t n_parts) {
    ink_holding *h = &r->networks->holdings[component];
    h->binder = binder_of(r, component, &h->store);
    /* Random weights are not made anew at each step. */
    if (n_parts == 0 || failed(r) || (h->binder.synthetic && !is_remote(r))) return h;
    int64_t n_stay = is_dry(r) ? n_parts : need->n_stay;
    const ink_weights *weights = h->binder.synthetic ? NULL : h->binder.weights;
    r->ctx.status = ink_residency_create(&h->residency, weights, n_parts, n_stay, r->error);
    if (!failed(r) && is_remote(r) && !is_dry(r))
        r->ctx.status = ink_residency_to_device(h->residency, r->device->memory, r->device, need->parts, r->error);
    h->binder.residency = h->residency;
    h->binder.status = r->ctx.status;
    return h;
}

/* Takes over how the binding went; a dry run keeps what was counted. */
static void bound(run *r, ink_binder *binder, ink_component component, ink_need *need) {
    if (!failed(r)) r->ctx.status = binder->status;
    if (!failed(r) && !is_dry(r)) r->ctx.status = ink_residency_start(binder->residency, r->error);
    binder->loaded = NULL; /* blocks that are read again are not loading */
    if (!is_dry(r) || failed(r)) return;
    r->component_bytes[component] = binder->mapped_bytes + binder->stored_bytes;
    *need = (ink_need){.mapped_bytes = binder->mapped_bytes, .stored_bytes = binder->peak_bytes};
    need->passing_bytes = binder->largest_converted_bytes;
    if (!binder->residency) return;
    need->n_parts = binder->residency->n_parts;
    need->parts = ink_alloc_array((size_t)need->n_parts, sizeof *need->parts);
    if (!need->parts) fail_memory(r, "plan");
    for (int64_t i = 0; need->parts && i < need->n_parts; i++) {
        need->parts[i] = binder->residency->parts[i];
        need->parts[i].ranges = NULL;
        need->mapped_bytes -= need->parts[i].mapped_bytes;
        need->stored_bytes -= need->parts[i].stored_bytes;
    }
}

/*
 * Ends the use of a component: its files' pages need not stay with this process, and what was converted is freed, unless the
 * device has room for it and the next picture can use it, which it cannot with a LoRA.
 */
static void leave(run *r, ink_component component) {
    ink_holding *h = &r->networks->holdings[component];
    if (!is_dry(r) && !r->model->synthetic) ink_weights_drop(r->model->weights[component]);
    h->held = !is_dry(r) && !failed(r) && is_remote(r) && r->plan->gpu_keeps_weights &&
              !(component == INK_TRANSFORMER && r->request.n_loras > 0);
    h->binder.error = NULL; /* of this run */
    h->binder.adapters = NULL;
    if (!h->held) ink_networks_drop(r->networks, component);
}

/* ---- the story ------------------------------------------------------------------------------------------------------ */

static void tokenize(run *r) {
    const char *texts[2] = {r->request.prompt, r->request.negative_prompt};
    const char *names[2] = {"prompt", "negative prompt"};
    r->n_sides = ink_request_guided(&r->request) ? 2 : 1;
    for (int i = 0; i < r->n_sides && !failed(r); i++)
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

static host_tables begin_tables(run *r, ink_tensor cos, ink_tensor sin) {
    return (host_tables){ink_host_begin(&r->ctx, cos, INK_HOST_WRITE), ink_host_begin(&r->ctx, sin, INK_HOST_WRITE)};
}

static void end_tables(run *r, host_tables tables, ink_tensor cos, ink_tensor sin) {
    ink_host_end(&r->ctx, tables.cos, cos, INK_HOST_WRITE);
    ink_host_end(&r->ctx, tables.sin, sin, INK_HOST_WRITE);
}

/* Fills sides[i].states. */
static void encode_side(run *r, ink_text_encoder *encoder, side *s) {
    const ink_text_encoder_config *config = encoder->config;
    ink_tensor all = ink_scratch(&r->ctx, s->prompt.n, config->hidden_size);
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor cos = ink_scratch(&r->ctx, s->prompt.n, config->head_dim / 2),
               sin = ink_scratch(&r->ctx, s->prompt.n, config->head_dim / 2);
    if (!is_dry(r) && !failed(r)) {
        host_tables tables = begin_tables(r, cos, sin);
        if (!failed(r)) ink_rope_text(tables.cos, tables.sin, config->rope_theta);
        end_tables(r, tables, cos, sin);
    }
    ink_text_encoder_forward(&r->ctx, encoder, all, s->prompt.ids, cos, sin);
    ink_arena_release(&r->arena, mark);
    s->states = ink_rows(all, s->prompt.drop, s->prompt.n - s->prompt.drop);
}

/*
 * On a device that has room for all weights they travel while the host goes on, up to await_weights: the transformer's while the
 * prompts are read.
 */
static bool binds_ahead(const run *r) { return !is_dry(r) && is_remote(r) && r->plan->gpu_keeps_weights; }

/* Starts to bring them, or sees that they are there. */
static void bring_weights(run *r, ink_component component) {
    ink_holding *h = &r->networks->holdings[component];
    if (h->binder.follows) h->coming = ink_bind_bring(&h->binder);
    h->binder.follows = false;
}

static void await_weights(run *r, ink_component component) {
    ink_holding *h = &r->networks->holdings[component];
    int64_t left = 0;
    if (!h->coming || failed(r)) return;
    begin_phase(r, INK_PHASE_LOAD, r->component_bytes[component]);
    while (!failed(r) && !ink_uploading_wait(h->coming, 0.1, &left)) {
        r->done = r->total - left;
        report(r, (double)r->done / (double)r->total);
        if (!failed(r) && atomic_load(&r->session->cancel))
            r->ctx.status = ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
    }
    ink_uploading_end(&h->coming, failed(r));
    if (!is_dry(r)) ink_check_device(&r->ctx);
    end_phase(r);
}

static void bind_text_encoder(run *r) {
    const ink_text_encoder_config *config = &r->model->config.text_encoder;
    ink_need *need = &r->needs[INK_NEED_TEXT];
    ink_holding *h = begin_binding(r, INK_TEXT_ENCODER, need, config->n_layers);
    h->binder.follows = binds_ahead(r);
    begin_phase(r, INK_PHASE_LOAD, r->component_bytes[INK_TEXT_ENCODER]);
    ink_text_encoder_bind(&r->networks->text_encoder, config, &h->binder);
    bring_weights(r, INK_TEXT_ENCODER);
    bound(r, &h->binder, INK_TEXT_ENCODER, need);
    end_phase(r);
}

static void encode_prompts(run *r) {
    await_weights(r, INK_TEXT_ENCODER);
    begin_phase(r, INK_PHASE_TEXT, r->n_sides);
    for (int i = 0; i < r->n_sides && !failed(r); i++) {
        encode_side(r, &r->networks->text_encoder, &r->sides[i]);
        unit_done(r);
    }
    leave(r, INK_TEXT_ENCODER);
    end_phase(r);
}

static void open_adapters(run *r) {
    if (r->request.n_loras == 0 || failed(r)) return;
    r->ctx.status = ink_adapters_open(&r->adapters, r->request.loras, r->request.n_loras, r->error);
}

/* Both bindings of the transformer have been through: by now every tensor of the LoRA files has found its matrix. */
static void check_adapters(run *r) {
    if (!r->adapters || failed(r)) return;
    int64_t applied;
    ink_adapters_count(r->adapters, &applied, &r->plan->lora_tensors);
    r->ctx.status = ink_adapters_check_applied(r->adapters, r->error);
}

static void bind_transformer(run *r) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_need *need = &r->needs[INK_NEED_DENOISE];
    if (is_remote(r) && !is_dry(r)) ink_replay_release(r->device, &r->networks->forward);
    ink_holding *h = begin_binding(r, INK_TRANSFORMER, need, config->n_layers);
    h->binder.follows = r->bound_ahead;
    begin_phase(r, INK_PHASE_LOAD, r->component_bytes[INK_TRANSFORMER]);
    ink_mmdit_bind(&r->networks->mmdit, config, &h->binder);
    bring_weights(r, INK_TRANSFORMER);
    bound(r, &h->binder, INK_TRANSFORMER, need);
    end_phase(r);
}

/*
 * Its forward on numbers that mean nothing, while weights travel: at the first use of a shape a device looks for the best way to do
 * it, and loads the code of that, which takes as long as half of the weights.
 */
static void rehearse(run *r) {
    const ink_config *config = &r->model->config;
    ink_ctx *c = &r->ctx;
    ink_mmdit_input input = {.latents = r->latents, .n_sides = r->n_sides, .last = true};
    size_t mark = ink_arena_mark(&r->arena);
    int64_t n_tokens = r->n_sides * r->n_img;
    begin_phase(r, INK_PHASE_LOAD, r->component_bytes[INK_TRANSFORMER]);
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
    if (!failed(r)) ink_mmdit_rehearse(c, &r->networks->mmdit, velocity, &input, &modulation);
    c->may_round = false;
    ink_arena_release(&r->arena, mark);
    end_phase(r);
}

static void bind_transformer_ahead(run *r) {
    if (failed(r) || !binds_ahead(r) || r->request.n_loras > 0 || r->networks->holdings[INK_TRANSFORMER].held) return;
    r->bound_ahead = true;
    bind_transformer(r);
    if (!failed(r) && r->networks->holdings[INK_TRANSFORMER].coming) rehearse(r);
}

/* Room for the modulation, which a device keeps for later pictures of the same times. True when it holds theirs. */
static bool take_modulation(run *r, const float *times) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_networks *networks = r->networks;
    int64_t n_steps = r->request.steps;
    if (is_dry(r) || failed(r) || !is_remote(r)) {
        r->modulation = ink_modulation_take(&r->ctx, config, n_steps);
        return false;
    }
    bool known = r->request.n_loras == 0 && ink_networks_know(networks, times, n_steps);
    if (!known && !ink_networks_take_modulation(networks, &r->ctx, config, n_steps, (size_t)r->kept_bytes))
        fail_memory(r, "modulation");
    r->modulation = networks->modulation;
    return known;
}

static void modulate(run *r, const float *host_times) {
    const ink_config *config = &r->model->config;
    int64_t n_steps = r->request.steps;
    ink_store store = {0};
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor times = ink_scratch(&r->ctx, 1, n_steps);
    if (!is_dry(r) && !failed(r)) {
        ink_tensor host = ink_host_begin(&r->ctx, times, INK_HOST_WRITE);
        if (!failed(r)) memcpy(host.data, host_times, (size_t)n_steps * sizeof *host_times);
        ink_host_end(&r->ctx, host, times, INK_HOST_WRITE);
    }
    ink_binder binder = binder_of(r, INK_TRANSFORMER, &store);
    binder.loaded = NULL;
    ink_mmdit_modulate(&r->ctx, &config->mmdit, &binder, times, &r->modulation);
    ink_need *need = &r->needs[INK_NEED_MODULATION];
    bound(r, &binder, INK_TRANSFORMER, need);
    ink_store_release(&store);
    /* Of the files a layer at a time. */
    need->mapped_bytes = 0;
    need->passing_bytes = binder.largest_bytes;
    ink_arena_release(&r->arena, mark);
}

/* Room for what the network says, and the angles of all tokens' positions. */
static void place_tokens(run *r) {
    const ink_mmdit_config *config = &r->model->config.mmdit;
    ink_ctx *c = &r->ctx;
    int64_t n_txt[INK_MAX_SIDES], n_tokens = r->n_sides * r->n_img, patch = config->patch_size;
    begin_phase(r, INK_PHASE_PREPARE, 1);
    for (int i = 0; i < r->n_sides; i++) n_tokens += n_txt[i] = r->sides[i].states.rows;
    r->velocity = ink_scratch(c, r->n_sides * r->n_img, config->in_channels);
    r->cos = ink_scratch(c, n_tokens, config->head_dim / 2);
    r->sin = ink_scratch(c, n_tokens, config->head_dim / 2);
    if (!is_dry(r) && !failed(r)) {
        host_tables tables = begin_tables(r, r->cos, r->sin);
        if (!failed(r))
            ink_rope_joint(tables.cos, tables.sin, config->rope_axes, n_txt, r->n_sides, r->latent_height / patch,
                           r->latent_width / patch);
        end_tables(r, tables, r->cos, r->sin);
    }
    end_phase(r);
}

/* What does not change over the steps, beside positions: sigmas and modulation. */
static void prepare(run *r) {
    int64_t n_steps = r->request.steps;
    await_weights(r, INK_TRANSFORMER);
    begin_phase(r, INK_PHASE_PREPARE, 1);
    r->sigmas = ink_alloc_array((size_t)n_steps + 1, sizeof *r->sigmas);
    float *times = ink_alloc_array((size_t)n_steps, sizeof *times);
    if (!r->sigmas || !times) fail_memory(r, "schedule");
    const ink_scheduler_config schedule = ink_request_schedule(&r->request, r->model);
    if (!failed(r)) {
        ink_scheduler_sigmas(r->sigmas, &schedule, n_steps, r->n_img);
        ink_scheduler_times(times, &schedule, r->sigmas, n_steps);
    }
    bool known = take_modulation(r, times);
    if (!known && !failed(r)) modulate(r, times);
    if (is_remote(r) && !is_dry(r) && !failed(r) && r->request.n_loras == 0 && !known) {
        r->networks->times = times;
        times = NULL;
    }
    ink_free(times);
    unit_done(r);
    end_phase(r);
}

/* What a recorded forward is of; another one makes it void. */
static void check_record(run *r) {
    ink_networks *networks = r->networks;
    if (!is_remote(r) || is_dry(r)) return;
    const int64_t now[6] = {r->latent_height,
                            r->latent_width,
                            r->sides[0].states.rows,
                            r->n_sides == 2 ? r->sides[1].states.rows : 0,
                            (int64_t)(intptr_t)r->arena.memory,
                            (int64_t)r->arena.used};
    if (memcmp(now, networks->recorded, sizeof now) != 0) ink_replay_release(r->device, &networks->forward);
    memcpy(networks->recorded, now, sizeof now);
}

static void denoise_step(run *r, const ink_modulation *current, int64_t step) {
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
    ink_euler_step(c, r->latents, velocity, failed(r) ? 0 : r->sigmas[step + 1] - r->sigmas[step]);
}

static void keep_latents(run *r, int64_t step) {
    if (!r->stages || failed(r)) return;
    int64_t n = r->latents.rows * r->latents.cols;
    ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_READ);
    if (!failed(r)) memcpy(r->stages->stage[INK_STAGE_LATENTS].data + step * n, host.data, (size_t)n * sizeof(float));
    ink_host_end(&r->ctx, host, r->latents, INK_HOST_READ);
}

static void denoise(run *r) {
    int64_t n_steps = r->request.steps;
    /* A LoRA is of one run. */
    if (r->request.n_loras > 0) ink_networks_drop(r->networks, INK_TRANSFORMER);
    if (!r->networks->holdings[INK_TRANSFORMER].held && !r->bound_ahead) bind_transformer(r);
    check_adapters(r);

    begin_phase(r, INK_PHASE_DENOISE, n_steps);
    r->ctx.may_round = may_round(r);
    const ink_modulation current = ink_modulation_take(&r->ctx, &r->model->config.mmdit, 1);
    check_record(r);
    /* One step tells a dry run what all of them need. */
    for (int64_t step = 0; step < (is_dry(r) ? 1 : n_steps) && !failed(r); step++) {
        denoise_step(r, &current, step);
        /* What was queued is not done; waiting costs nothing that a step would notice, and progress is true. */
        if (is_remote(r) && !is_dry(r)) r->device->memory->wait(r->device);
        keep_latents(r, step);
        unit_done(r);
    }
    leave(r, INK_TRANSFORMER);
    end_phase(r);
    if (is_dry(r)) r->phase_work[INK_PHASE_DENOISE] *= (double)n_steps;
}

static void bind_decoder(run *r) {
    if (!r->networks->vae) r->networks->vae = ink_alloc(sizeof *r->networks->vae);
    if (!r->networks->vae) {
        fail_memory(r, "decoder");
        return;
    }
    ink_holding *h = begin_binding(r, INK_VAE, NULL, 0);
    begin_phase(r, INK_PHASE_LOAD, r->component_bytes[INK_VAE]);
    ink_vae_decoder_bind(r->networks->vae, &r->model->config.vae, &h->binder);
    bound(r, &h->binder, INK_VAE, &r->needs[INK_NEED_VAE]);
    end_phase(r);
}

/* mean and std [1, z_dim] of a picture's latents. */
static void fill_statistics(run *r, ink_tensor mean, ink_tensor std) {
    const ink_vae_config *config = &r->model->config.vae;
    ink_tensor host_mean = ink_host_begin(&r->ctx, mean, INK_HOST_WRITE), host_std = ink_host_begin(&r->ctx, std, INK_HOST_WRITE);
    for (int64_t i = 0; i < config->z_dim && !failed(r); i++) {
        host_mean.data[i] = (float)config->latents_mean[i];
        /* The reference divides by a rounded reciprocal; so do we, by multiplying with its reciprocal. */
        host_std.data[i] = 1.0f / (1.0f / (float)config->latents_std[i]);
    }
    ink_host_end(&r->ctx, host_mean, mean, INK_HOST_WRITE);
    ink_host_end(&r->ctx, host_std, std, INK_HOST_WRITE);
}

/* Fills pixels. */
static void decode(run *r) {
    const ink_vae_config *config = &r->model->config.vae;
    ink_ctx *c = &r->ctx;
    if (!r->networks->holdings[INK_VAE].held) bind_decoder(r);
    if (failed(r)) return;

    begin_phase(r, INK_PHASE_DECODE, 1);
    r->pixels = ink_scratch(c, r->request.height * r->request.width, 3);
    size_t mark = ink_arena_mark(&r->arena);
    ink_tensor grid = ink_scratch(c, r->latent_height * r->latent_width, config->z_dim);
    ink_tensor mean = ink_scratch(c, 1, config->z_dim), std = ink_scratch(c, 1, config->z_dim);
    if (!is_dry(r) && !failed(r)) fill_statistics(r, mean, std);
    ink_unpatchify(c, grid, r->latents, mean, std, r->latent_height, r->latent_width, r->model->config.mmdit.patch_size);
    ink_vae_decode(c, r->networks->vae, r->pixels, grid, r->latent_height, r->latent_width);
    ink_arena_release(&r->arena, mark);
    leave(r, INK_VAE);
    unit_done(r);
    end_phase(r);
}

static ink_image *make_image(run *r) {
    ink_tensor host = ink_host_begin(&r->ctx, r->pixels, INK_HOST_READ);
    ink_image *image = failed(r) ? NULL : ink_image_make(host.data, r->request.width, r->request.height);
    if (!image) fail_memory(r, "picture");
    ink_host_end(&r->ctx, host, r->pixels, INK_HOST_READ);
    return image;
}

/* ---- stages --------------------------------------------------------------------------------------------------------- */

static void keep(run *r, bool kept) {
    if (!kept) fail_memory(r, "stages to compare");
}

static void keep_tensor(run *r, int stage, ink_tensor x) {
    ink_tensor host = ink_host_begin(&r->ctx, x, INK_HOST_READ);
    if (!failed(r)) keep(r, ink_stages_copy(r->stages, stage, host));
    ink_host_end(&r->ctx, host, x, INK_HOST_READ);
}

static void keep_start(run *r) {
    if (!r->stages || failed(r)) return;
    keep_tensor(r, INK_STAGE_PROMPT_EMBEDS, r->sides[0].states);
    if (r->n_sides == 2) keep_tensor(r, INK_STAGE_NEGATIVE_EMBEDS, r->sides[1].states);
    keep_tensor(r, INK_STAGE_NOISE, r->latents);
    keep(r, ink_stages_take(r->stages, INK_STAGE_SIGMAS, 1, (const int64_t[]){r->request.steps + 1}));
    keep(r,
         ink_stages_take(r->stages, INK_STAGE_LATENTS, 3, (const int64_t[]){r->request.steps, r->latents.rows, r->latents.cols}));
    if (!failed(r)) memcpy(r->stages->stage[INK_STAGE_SIGMAS].data, r->sigmas, (size_t)(r->request.steps + 1) * sizeof *r->sigmas);
}

static void keep_image(run *r) {
    if (!r->stages || failed(r)) return;
    keep(r, ink_stages_take(r->stages, INK_STAGE_IMAGE, 3, (const int64_t[]){r->request.height, r->request.width, 3}));
    int64_t n = r->request.height * r->request.width * 3;
    ink_tensor host = ink_host_begin(&r->ctx, r->pixels, INK_HOST_READ);
    for (int64_t i = 0; i < n && !failed(r); i++) r->stages->stage[INK_STAGE_IMAGE].data[i] = ink_shade(host.data[i]);
    ink_host_end(&r->ctx, host, r->pixels, INK_HOST_READ);
}

/* ---- running it ------------------------------------------------------------------------------------------------------ */

static void draw_noise(run *r) {
    const ink_config *config = &r->model->config;
    r->latent_height = r->request.height / config->vae.scale;
    r->latent_width = r->request.width / config->vae.scale;
    r->n_img = r->latent_height / config->mmdit.patch_size * (r->latent_width / config->mmdit.patch_size);
    r->latents = ink_scratch(&r->ctx, r->n_img, config->mmdit.in_channels);
    if (is_dry(r) || failed(r)) return;
    float *sample = ink_alloc_array((size_t)r->n_img, (size_t)config->mmdit.in_channels * sizeof *sample);
    if (!sample) fail_memory(r, "noise");
    ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_WRITE);
    if (!failed(r))
        ink_latents_noise(host, sample, &r->request, config->vae.z_dim, r->latent_height, r->latent_width,
                          config->mmdit.patch_size);
    ink_host_end(&r->ctx, host, r->latents, INK_HOST_WRITE);
    ink_free(sample);
}

static void picture(run *r) {
    tokenize(r);
    open_adapters(r);
    draw_noise(r);
    size_t mark = ink_arena_mark(&r->arena);
    if (!failed(r) && !r->networks->holdings[INK_TEXT_ENCODER].held) bind_text_encoder(r);
    bind_transformer_ahead(r);
    if (!failed(r)) encode_prompts(r);
    if (!failed(r)) place_tokens(r);
    if (!failed(r)) prepare(r);
    keep_start(r);
    if (r->noise && !is_dry(r) && !failed(r)) {
        ink_tensor host = ink_host_begin(&r->ctx, r->latents, INK_HOST_WRITE);
        if (!failed(r)) memcpy(host.data, r->noise, (size_t)(r->latents.rows * r->latents.cols) * sizeof(float));
        ink_host_end(&r->ctx, host, r->latents, INK_HOST_WRITE);
    }
    if (!failed(r)) denoise(r);
    ink_arena_release(&r->arena, mark);
    if (!failed(r)) decode(r);
    keep_image(r);
}

static void release(run *r) {
    for (int i = 0; i < r->n_sides; i++) ink_prompt_release(&r->sides[i].prompt);
    ink_free(r->sigmas);
    ink_adapters_close(&r->adapters);
    ink_networks_release(&r->own, r->device);
    ink_arena_destroy(&r->arena);
}

/* What the process has beside a run's weights and scratch: what it has now, and then the picture, stacks and lists. */
static int64_t base_bytes(const run *r) {
    const int64_t small_things = 16 << 20, pixel_bytes = 16;
    return ink_resident_memory() + small_things + pixel_bytes * r->request.width * r->request.height;
}

/* Of a device, beside weights and the arena: workspaces of its libraries and what its ops take for themselves. */
static const int64_t DEVICE_EXTRA_BYTES = (int64_t)1536 << 20;

/* Runs r, of which model, request, device and plan are set, dry. kept: what a session already has on the device, or NULL. */
static ink_status run_dry(run *r, const ink_networks *kept) {
    ink_device host;
    const char *why;
    *r->plan = (ink_memory_plan){.available_bytes = ink_available_memory()};
    if (!ink_device_open(&host, "ref", NULL, &why)) return ink_fail(r->error, INK_ERROR_INTERNAL, "tier ref: %s", why);
    ink_arena_create_dry(&r->arena);
    r->networks = &r->own;
    r->ctx = (ink_ctx){.device = r->device ? r->device : &host, .arena = &r->arena, .error = r->error};
    picture(r);
    r->plan->scratch_bytes = (int64_t)r->arena.peak;
    ink_status status = r->ctx.status;
    release(r);
    if (status != INK_OK) return status;
    if (!is_remote(r)) return ink_budget_apply(r->plan, r->needs, r->request.ram_budget, base_bytes(r), r->error);
    const ink_mmdit_config *config = &r->model->config.mmdit;
    r->kept_bytes = r->request.steps * config->dim * (12 * config->n_layers + 2) * (int64_t)sizeof(float) + 4096;
    return ink_budget_apply_device(r->plan, r->needs, ink_networks_limit(kept, r->device, r->request.vram_budget),
                                   r->kept_bytes + DEVICE_EXTRA_BYTES, r->error);
}

ink_status ink_generate_plan(ink_memory_plan *plan, const ink_model *model, const ink_device *device, const ink_networks *kept,
                             const ink_request *request, ink_error *error) {
    run dry = {.model = model, .device = device, .request = ink_request_resolved(request, model), .plan = plan, .error = error};
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
    run dry = {.model = model,
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

    run r = {.session = session,
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
                      .worked = op_worked,
                      .worked_user = &r,
                      .observe = session->observe,
                      .observe_user = session->observe_user,
                      .error = error};
    picture(&r);
    if (image && !failed(&r)) *image = make_image(&r);
    status = r.ctx.status;
    /* After a failure nobody knows what is there, and work may still be under way. */
    if (failed(&r) && device->memory) {
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
