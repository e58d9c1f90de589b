/*
 * bench_phases.c - single phases with random weights, each run several times.
 *
 * A phase is told by five functions (`kind`). As in generate.c it is executed twice: dry, which counts memory and products; then in
 * earnest. Weights of a phase are filled once for all sizes.
 */
#include "pipeline/bench_phases.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/system.h"
#include "model/mmdit.h"
#include "model/rope.h"
#include "model/text_encoder.h"
#include "model/vae.h"
#include "pipeline/prompt.h"

/* A phase on its way. */
typedef struct work {
    ink_bench_run *run;
    const struct kind *kind;
    ink_bench_case *c; /* the size at work */
    bool dry;
    ink_binder binder;
    ink_store store;
    ink_arena arena;
    ink_ctx ctx;
    ink_text_encoder encoder;
    ink_mmdit mmdit;
    ink_vae_decoder *decoder;
    ink_prompt prompt;
    ink_tensor input, output, text, cos, sin, times; /* as the phase needs them */
    ink_modulation modulation;
    ink_replay replay, floor_replay; /* of what is called; of its products alone */
    void *scratch;                   /* on a device */
    int64_t latent_height, latent_width, n_img;
    int64_t done, total; /* units of progress */
    double began, whole_work, last_report;
} work;

typedef struct kind {
    unsigned bit; /* INK_BENCH_... */
    ink_phase phase;
    bool per_size, once; /* whether time depends on the size; whether it is run but once, since it fills its weights itself */
    void (*bind)(work *w);
    void (*setup)(work *w); /* takes and fills what goes in */
    void (*call)(work *w);  /* what is timed */
    void (*release)(work *w);
    void (*store)(ink_bench_case *c, const work *w, ink_bench_time time);
} kind;

/* ---- progress ------------------------------------------------------------------------------------------------------ */

static void report(work *w, ink_phase phase, double fraction) {
    const ink_bench_options *o = w->run->options;
    double now = ink_seconds();
    if (w->dry || !o->progress || w->ctx.status != INK_OK || (now - w->last_report < 0.1 && w->done < w->total)) return;
    w->last_report = now;
    const ink_progress progress = {.phase = phase,
                                   .done = w->done,
                                   .total = w->total,
                                   .fraction = fraction < 1 ? fraction : 1,
                                   .phase_seconds = now - w->began};
    if (o->progress(o->user, &progress) != 0) w->ctx.status = ink_fail(w->run->error, INK_ERROR_CANCELLED, "cancelled");
}

static void op_worked(void *user) {
    work *w = user;
    report(w, w->kind->phase, w->whole_work > 0 ? w->ctx.work / (w->whole_work * (double)w->total) : 0);
}

static ink_status tensor_filled(void *user, const ink_binder *binder) {
    work *w = user;
    w->done = binder->stored_bytes;
    report(w, INK_PHASE_LOAD, w->total > 0 ? (double)w->done / (double)w->total : 0);
    return w->ctx.status;
}

/* ---- text ------------------------------------------------------------------------------------------------------------ */

/* Random numbers of deviation `size`; nothing in a dry run. */
static void randomise(work *w, ink_tensor x, float size, uint64_t seed) {
    if (w->dry || w->ctx.status != INK_OK) return;
    ink_tensor host = ink_host_begin(&w->ctx, x, INK_HOST_WRITE);
    if (w->ctx.status == INK_OK) {
        ink_randn_torch_cpu_f32(host.data, x.rows * x.cols, seed);
        for (int64_t i = 0; i < x.rows * x.cols; i++) host.data[i] *= size;
    }
    ink_host_end(&w->ctx, host, x, INK_HOST_WRITE);
}

static void text_bind(work *w) { ink_text_encoder_bind(&w->encoder, &w->run->model->config.text_encoder, &w->binder); }

static void text_release(work *w) { ink_text_encoder_release(&w->encoder); }

static void text_setup(work *w) {
    const ink_text_encoder_config *config = &w->run->model->config.text_encoder;
    ink_status status = ink_prompt_synthetic(&w->prompt, w->c->text_tokens, config->vocab_size, w->run->error);
    if (w->ctx.status == INK_OK) w->ctx.status = status;
    w->output = ink_scratch(&w->ctx, w->prompt.n, config->hidden_size);
    w->cos = ink_scratch(&w->ctx, w->prompt.n, config->head_dim / 2);
    w->sin = ink_scratch(&w->ctx, w->prompt.n, config->head_dim / 2);
    if (w->dry || w->ctx.status != INK_OK) return;
    ink_tensor cos = ink_host_begin(&w->ctx, w->cos, INK_HOST_WRITE), sin = ink_host_begin(&w->ctx, w->sin, INK_HOST_WRITE);
    if (w->ctx.status == INK_OK) ink_rope_text(cos, sin, config->rope_theta);
    ink_host_end(&w->ctx, cos, w->cos, INK_HOST_WRITE);
    ink_host_end(&w->ctx, sin, w->sin, INK_HOST_WRITE);
}

static void text_call(work *w) {
    const ink_text_tokens text = {w->prompt.ids, w->prompt.n};
    ink_text_encoder_forward(&w->ctx, &w->encoder, w->output, &(ink_text_input){&text, 1, w->cos, w->sin});
}

static void text_store(ink_bench_case *c, const work *w, ink_bench_time time) {
    (void)w;
    c->text = time;
}

/* ---- modulation ------------------------------------------------------------------------------------------------------ */

static void modulation_bind(work *w) { (void)w; }

static void modulation_release(work *w) { (void)w; }

static void modulation_setup(work *w) {
    w->modulation = ink_modulation_take(&w->ctx, &w->run->model->config.mmdit, w->c->steps);
    w->times = ink_scratch(&w->ctx, 1, w->c->steps);
    if (w->dry || w->ctx.status != INK_OK) return;
    ink_tensor times = ink_host_begin(&w->ctx, w->times, INK_HOST_WRITE);
    for (int64_t i = 0; i < w->c->steps && w->ctx.status == INK_OK; i++) times.data[i] = 1.0f - (float)i / (float)w->c->steps;
    ink_host_end(&w->ctx, times, w->times, INK_HOST_WRITE);
}

static void modulation_call(work *w) {
    ink_mmdit_modulate(&w->ctx, &w->run->model->config.mmdit, NULL, &w->binder, w->times, &w->modulation);
}

static void modulation_store(ink_bench_case *c, const work *w, ink_bench_time time) {
    (void)w;
    c->modulation = time;
}

/* ---- denoise --------------------------------------------------------------------------------------------------------- */

static void denoise_bind(work *w) { ink_mmdit_bind(&w->mmdit, &w->run->model->config.mmdit, &w->binder); }

static void denoise_release(work *w) { ink_mmdit_release(&w->mmdit); }

static void denoise_setup(work *w) {
    const ink_mmdit_config *config = &w->run->model->config.mmdit;
    const int64_t n_txt[INK_MAX_SIDES] = {w->c->text_tokens, w->c->text_tokens};
    int64_t n_sides = w->c->batch, n = n_sides * (n_txt[0] + w->n_img);
    w->modulation = ink_modulation_take(&w->ctx, config, 1);
    w->input = ink_scratch(&w->ctx, w->n_img, config->in_channels);
    w->output = ink_scratch(&w->ctx, n_sides * w->n_img, config->in_channels);
    w->text = ink_scratch(&w->ctx, n_txt[0], config->joint_dim);
    w->cos = ink_scratch(&w->ctx, n, config->head_dim / 2);
    w->sin = ink_scratch(&w->ctx, n, config->head_dim / 2);
    randomise(w, w->modulation.blocks, 0.1f, 1);
    randomise(w, w->modulation.out, 0.1f, 2);
    randomise(w, w->input, 1, 3);
    randomise(w, w->text, 1, 4);
    if (w->dry || w->ctx.status != INK_OK) return;
    ink_tensor cos = ink_host_begin(&w->ctx, w->cos, INK_HOST_WRITE), sin = ink_host_begin(&w->ctx, w->sin, INK_HOST_WRITE);
    if (w->ctx.status == INK_OK)
        ink_rope_joint(cos, sin, config->rope_axes, n_txt, (int)n_sides, w->latent_height / config->patch_size,
                       w->latent_width / config->patch_size);
    ink_host_end(&w->ctx, cos, w->cos, INK_HOST_WRITE);
    ink_host_end(&w->ctx, sin, w->sin, INK_HOST_WRITE);
}

/* A step, its passes together, without what combines them, which costs nothing beside them. */
static void denoise_call(work *w) {
    const ink_mmdit_input input = {
        .latents = w->input, .text = {w->text, w->text}, .n_sides = (int)w->c->batch, .cos = w->cos, .sin = w->sin};
    ink_replay *replay = w->ctx.only_products ? &w->floor_replay : &w->replay;
    w->ctx.may_round = w->run->model->precision != INK_PRECISION_F32;
    if (ink_replay_begin(&w->ctx, replay)) ink_mmdit_forward(&w->ctx, &w->mmdit, w->output, &input, &w->modulation, 0);
    ink_replay_end(&w->ctx, replay);
}

static ink_bench_time scaled(ink_bench_time t, double factor) {
    return (ink_bench_time){t.min * factor, t.median * factor, t.flops * factor, t.runs};
}

/*
 * The last block drops its text, and before and behind the blocks there is a little more: what a whole block takes is told by its
 * share of the products.
 */
static void denoise_store(ink_bench_case *c, const work *w, ink_bench_time time) {
    double d = (double)w->run->model->config.mmdit.dim, n = (double)(c->text_tokens + w->n_img);
    double block_flops = 24 * d * d * n + 4 * n * n * d;
    c->step = time;
    c->forward = scaled(time, 1 / (double)c->batch);
    c->block = scaled(c->forward, block_flops / c->forward.flops);
}

/* ---- decode ---------------------------------------------------------------------------------------------------------- */

static void decode_bind(work *w) {
    /* Some thousand pointers: too large for a stack. */
    w->decoder = ink_alloc(sizeof *w->decoder);
    if (w->decoder)
        ink_vae_decoder_bind(w->decoder, &w->run->model->config.vae, &w->binder);
    else
        w->binder.status = ink_fail(w->run->error, INK_ERROR_MEMORY, "no memory for the decoder");
}

static void decode_release(work *w) {
    ink_free(w->decoder);
    w->decoder = NULL;
}

static void decode_setup(work *w) {
    w->output = ink_scratch(&w->ctx, w->c->height * w->c->width, 3);
    w->input = ink_scratch(&w->ctx, w->latent_height * w->latent_width, w->run->model->config.vae.z_dim);
    randomise(w, w->input, 1, 5);
}

static void decode_call(work *w) {
    w->ctx.may_round = w->run->model->precision != INK_PRECISION_F32;
    ink_vae_decode(&w->ctx, w->decoder, w->output, w->input, w->latent_height, w->latent_width);
}

static void decode_store(ink_bench_case *c, const work *w, ink_bench_time time) {
    (void)w;
    c->decode = time;
}

/* ---- running a phase ------------------------------------------------------------------------------------------------- */

static const kind kinds[] = {
    {INK_BENCH_TEXT, INK_PHASE_TEXT, false, false, text_bind, text_setup, text_call, text_release, text_store},
    {INK_BENCH_MODULATION, INK_PHASE_PREPARE, false, true, modulation_bind, modulation_setup, modulation_call, modulation_release,
     modulation_store},
    {INK_BENCH_DENOISE, INK_PHASE_DENOISE, true, false, denoise_bind, denoise_setup, denoise_call, denoise_release, denoise_store},
    {INK_BENCH_DECODE, INK_PHASE_DECODE, true, false, decode_bind, decode_setup, decode_call, decode_release, decode_store},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* The weights of a phase: bound, when that went well. */
static ink_status begin_phase(work *w, ink_bench_run *run, const kind *k, bool dry, int64_t total_bytes) {
    *w = (work){.run = run, .kind = k, .dry = dry, .total = total_bytes, .began = ink_seconds()};
    w->binder = (ink_binder){.synthetic = run->model->synthetic,
                             .mode = dry ? INK_BIND_CHECK : INK_BIND_LOAD,
                             .precision = run->model->precision,
                             .threads = run->session->threads,
                             .store = &w->store,
                             .memory = run->session->device.memory,
                             .device = &run->session->device,
                             .error = run->error,
                             .loaded = dry ? NULL : tensor_filled,
                             .user = w};
    k->bind(w);
    w->binder.loaded = NULL;
    return w->binder.status;
}

static void end_phase(work *w) {
    w->kind->release(w);
    ink_store_release(&w->store);
}

static void begin_size(work *w, ink_bench_case *c) {
    const ink_config *config = &w->run->model->config;
    w->c = c;
    w->latent_height = c->height / config->vae.scale;
    w->latent_width = c->width / config->vae.scale;
    w->n_img = w->latent_height * w->latent_width / (config->mmdit.patch_size * config->mmdit.patch_size);
    w->ctx = (ink_ctx){.device = &w->run->session->device, .arena = &w->arena, .error = w->run->error};
}

static void end_size(work *w) {
    const ink_device *device = &w->run->session->device;
    ink_replay_release(device, &w->replay);
    ink_replay_release(device, &w->floor_replay);
    if (w->scratch) device->memory->release(device, w->scratch);
    w->scratch = NULL;
    ink_prompt_release(&w->prompt);
    ink_arena_destroy(&w->arena);
}

/* What one run of a phase takes. */
typedef struct count {
    int64_t weight_bytes, scratch_bytes;
    double work, products;
} count;

/* On a device a step is run in turn with its products alone. */
static bool measures_floor(const work *w) { return w->run->session->device.memory && w->kind->bit == INK_BENCH_DENOISE; }

static ink_status count_size(count *n, work *w, ink_bench_case *c) {
    ink_arena_create_dry(&w->arena);
    begin_size(w, c);
    w->kind->setup(w);
    if (w->ctx.status == INK_OK) w->kind->call(w);
    double all_work = w->ctx.work, products = w->ctx.products;
    if (w->ctx.status == INK_OK && measures_floor(w)) {
        /* Which needs some scratch more, and no further counting. */
        w->ctx.only_products = true;
        w->kind->call(w);
    }
    *n = (count){w->binder.peak_bytes, (int64_t)w->arena.peak, all_work, products};
    ink_status status = w->ctx.status;
    end_size(w);
    return status;
}

/* counts [n_kinds][n_sizes] of the phases that were asked for; and whether this machine can run them. */
static ink_status count_all(count *counts, ink_bench_run *run) {
    const ink_bench_options *o = run->options;
    const double gib = 1073741824.0;
    const ink_device *device = &run->session->device;
    int64_t available = ink_available_memory(), total = 0;
    if (device->memory) device->memory->info(device, &available, &total);
    ink_status status = INK_OK;
    for (int k = 0; k < N_KINDS && status == INK_OK; k++) {
        if (!(o->phases & kinds[k].bit)) continue;
        work w;
        status = begin_phase(&w, run, &kinds[k], true, 0);
        for (size_t i = 0; i < o->n_sizes && status == INK_OK; i++) {
            ink_bench_case *c = &run->cases[i];
            count *n = &counts[(size_t)k * o->n_sizes + i];
            status = count_size(n, &w, c);
            int64_t peak = n->weight_bytes + n->scratch_bytes;
            if (n->weight_bytes > c->weight_bytes) c->weight_bytes = n->weight_bytes;
            if (n->scratch_bytes > c->scratch_bytes) c->scratch_bytes = n->scratch_bytes;
            if (peak > c->peak_bytes) c->peak_bytes = peak;
            if (status == INK_OK && available > 0 && peak > available)
                status = ink_fail(
                    run->error, INK_ERROR_MEMORY,
                    "%s at %lld x %lld needs %.1f GiB of memory and %.1f GiB are available: ask for fewer blocks, such as "
                    "qwen-image:4, for a smaller precision, or for other phases",
                    ink_model_precision(run->model), (long long)c->width, (long long)c->height, (double)peak / gib,
                    (double)available / gib);
        }
        end_phase(&w);
    }
    return status;
}

ink_status ink_bench_add_flops(ink_bench_run *run, ink_bench_case *c) {
    ink_bench_time *const times[N_KINDS] = {&c->text, &c->modulation, &c->step, &c->decode};
    ink_status status = INK_OK;
    for (int k = 0; k < N_KINDS && status == INK_OK; k++) {
        work w;
        count n;
        status = begin_phase(&w, run, &kinds[k], true, 0);
        if (status == INK_OK) status = count_size(&n, &w, c);
        times[k]->flops = status == INK_OK ? 2 * n.products : 0;
        w.c = c;
        if (status == INK_OK) kinds[k].store(c, &w, *times[k]);
        end_phase(&w);
    }
    return status;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

ink_bench_time ink_bench_time_of(double *times, int64_t n, double flops) {
    qsort(times, (size_t)n, sizeof *times, by_size);
    double median = n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) / 2;
    return (ink_bench_time){times[0], median, flops, n};
}

/* One call, until it is done. */
static double time_call(work *w, bool only_products) {
    const ink_device *device = w->ctx.device;
    double filled = ink_synthetic_seconds(w->run->model->synthetic), began = ink_seconds();
    w->ctx.only_products = only_products;
    w->kind->call(w);
    if (device->memory) device->memory->wait(device);
    w->ctx.only_products = false;
    return ink_seconds() - began - (ink_synthetic_seconds(w->run->model->synthetic) - filled);
}

/* Runs that count, after those that warm up if there are several: one, or on a device also the recording. floors: NULL, or times of
   the products alone. */
static void time_runs(work *w, double *times, double *floors, int64_t n) {
    int64_t n_warm = n > 1 ? w->ctx.device->memory ? 3 : 1 : 0;
    w->done = 0;
    w->total = n + n_warm;
    w->began = ink_seconds();
    for (int64_t i = 0; i < w->total && w->ctx.status == INK_OK; i++) {
        double seconds = time_call(w, false), floor = floors ? time_call(w, true) : 0;
        if (i >= n_warm) times[i - n_warm] = seconds;
        if (i >= n_warm && floors) floors[i - n_warm] = floor;
        w->done++;
        report(w, w->kind->phase, (double)w->done / (double)w->total);
    }
}

/* Scratch of a device, or of the host. */
static bool take_scratch(work *w, int64_t bytes) {
    const ink_device *device = &w->run->session->device;
    if (!device->memory) return ink_arena_create(&w->arena, (size_t)bytes);
    w->scratch = device->memory->alloc(device, (size_t)bytes);
    ink_arena_create_over(&w->arena, w->scratch, (size_t)bytes);
    return w->scratch != NULL;
}

/* Of a device, by all of its users. */
static int64_t device_bytes(const ink_device *device) {
    int64_t free_bytes, total_bytes;
    device->memory->info(device, &free_bytes, &total_bytes);
    return total_bytes - free_bytes;
}

static ink_status time_size(work *w, ink_bench_case *c, const count *n, double *times) {
    int64_t runs = w->kind->once ? 1 : w->run->options->repeat;
    ink_session *session = w->run->session;
    bool on_device = session->device.memory != NULL;
    if (!take_scratch(w, n->scratch_bytes))
        return ink_fail(w->run->error, INK_ERROR_MEMORY, "no memory for %.1f MiB of scratch", (double)n->scratch_bytes / 1048576.0);
    ink_reset_peak_memory();
    begin_size(w, c);
    w->arena.poison = session->poison && !on_device;
    w->ctx.check = session->check && !on_device ? &session->definition : NULL;
    w->ctx.trace = session->trace;
    w->ctx.cancel = &session->cancel;
    w->whole_work = n->work;
    w->kind->setup(w);
    w->ctx.worked = op_worked;
    w->ctx.worked_user = w;
    bool with_floor = measures_floor(w);
    time_runs(w, times, with_floor ? times + runs : NULL, runs);
    ink_status status = w->ctx.status;
    if (status == INK_OK) {
        int64_t peak = ink_peak_memory();
        if (peak > c->process_peak_bytes) c->process_peak_bytes = peak;
        w->kind->store(c, w, ink_bench_time_of(times, runs, 2 * n->products));
        if (with_floor) c->floor = scaled(ink_bench_time_of(times + runs, runs, 2 * n->products), 1 / (double)c->batch);
        if (on_device) c->process_peak_bytes = device_bytes(&session->device);
    }
    end_size(w);
    return status;
}

/* A phase that no size changes is run for the first one, and what it took is told of all. */
static void share_with_others(ink_bench_run *run, const work *w, ink_bench_time time) {
    for (size_t i = 1; i < run->options->n_sizes; i++) {
        w->kind->store(&run->cases[i], w, time);
        if (run->cases[0].process_peak_bytes > run->cases[i].process_peak_bytes)
            run->cases[i].process_peak_bytes = run->cases[0].process_peak_bytes;
    }
}

static ink_status time_phase(ink_bench_run *run, const kind *k, const count *counts, double *times) {
    size_t n_sizes = k->per_size ? run->options->n_sizes : 1;
    double filled = ink_synthetic_seconds(run->model->synthetic);
    work w;
    ink_status status = begin_phase(&w, run, k, false, counts[0].weight_bytes);
    for (size_t i = 0; i < n_sizes && status == INK_OK; i++) status = time_size(&w, &run->cases[i], &counts[i], times);
    if (status == INK_OK && !k->per_size)
        share_with_others(run, &w, k->bit == INK_BENCH_TEXT ? run->cases[0].text : run->cases[0].modulation);
    end_phase(&w);
    for (size_t i = 0; i < run->options->n_sizes; i++)
        run->cases[i].fill_seconds += ink_synthetic_seconds(run->model->synthetic) - filled;
    return status;
}

ink_status ink_bench_phases(ink_bench_run *run) {
    const ink_bench_options *o = run->options;
    count *counts = ink_alloc_array(o->n_sizes, N_KINDS * sizeof *counts);
    double *times = ink_alloc_array((size_t)o->repeat, 2 * sizeof *times); /* and floors */
    ink_status status = INK_OK;
    if (!counts || !times)
        status = ink_fail(run->error, INK_ERROR_MEMORY, "no memory for the times of %lld runs", (long long)o->repeat);
    if (status == INK_OK) status = count_all(counts, run);
    for (int k = 0; k < N_KINDS && status == INK_OK; k++)
        if (o->phases & kinds[k].bit) status = time_phase(run, &kinds[k], counts + (size_t)k * o->n_sizes, times);
    ink_free(counts);
    ink_free(times);
    return status;
}
