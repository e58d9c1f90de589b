/* bench_picture.c - a whole picture with random weights: the run of generate.c, watched from outside. */
#include <stdlib.h>

#include "base/memory.h"
#include "base/system.h"
#include "pipeline/bench_phases.h"

/* What the progress of a run tells. */
typedef struct watch {
    const ink_bench_run *run;
    double *steps;       /* [n steps] seconds of each */
    double step_began;   /* phase_seconds when it did */
    int64_t n_steps;     /* done */
    double prepare_fill; /* spent on filling when the phase began, then within it */
} watch;

static int look(void *user, const ink_progress *state) {
    watch *w = user;
    const ink_bench_options *o = w->run->options;
    if (state->phase == INK_PHASE_DENOISE && state->done > w->n_steps && w->n_steps < o->steps) {
        w->steps[w->n_steps++] = state->phase_seconds - w->step_began;
        w->step_began = state->phase_seconds;
    }
    if (state->phase == INK_PHASE_PREPARE && state->fraction == 0 && state->done == 0)
        w->prepare_fill = ink_synthetic_seconds(w->run->model->synthetic);
    else if (state->phase == INK_PHASE_PREPARE && state->done == state->total)
        w->prepare_fill = ink_synthetic_seconds(w->run->model->synthetic) - w->prepare_fill;
    return o->progress ? o->progress(o->user, state) : 0;
}

static ink_bench_time once(double seconds, int64_t divided_by) {
    double each = seconds / (double)divided_by;
    return (ink_bench_time){.min = each, .median = each, .runs = 1};
}

ink_status ink_bench_picture(ink_bench_run *run, size_t i) {
    const ink_bench_options *o = run->options;
    ink_bench_case *c = &run->cases[i];
    watch w = {.run = run, .steps = ink_alloc_array((size_t)o->steps, sizeof(double))};
    if (!w.steps) return ink_fail(run->error, INK_ERROR_MEMORY, "no memory for the times of %lld steps", (long long)o->steps);
    ink_request request;
    ink_request_init(&request, run->model);
    request.prompt = "";
    request.negative_prompt = o->batch == 2 ? "" : NULL;
    request.guidance = 4;
    request.width = c->width;
    request.height = c->height;
    request.steps = o->steps;
    request.vram_budget = o->vram_budget;
    request.progress = look;
    request.progress_user = &w;
    const ink_device *device = &run->session->device;
    ink_memory_plan plan;
    ink_image *image = NULL;
    double fill = ink_synthetic_seconds(run->model->synthetic);
    ink_reset_peak_memory();
    ink_status status = ink_generate_plan(&plan, run->model, device->memory ? device : NULL, NULL, &request, run->error);
    /* On a device the second picture counts, which finds weights and recorded work there, if they can stay. */
    for (int n = device->memory && plan.gpu_keeps_weights ? 2 : 1; n > 0 && status == INK_OK; n--) {
        w.n_steps = 0;
        w.step_began = 0;
        status = ink_generate_run(run->session, &request, NULL, &image, NULL, run->error);
        ink_image_destroy(&image);
    }
    if (status == INK_OK) {
        const double *seconds = run->session->stats.phase_seconds;
        double prepare = seconds[INK_PHASE_PREPARE] - w.prepare_fill;
        c->process_peak_bytes = ink_peak_memory();
        c->fill_seconds = ink_synthetic_seconds(run->model->synthetic) - fill;
        c->weight_bytes = plan.weight_bytes;
        c->scratch_bytes = plan.scratch_bytes;
        c->peak_bytes = plan.peak_bytes;
        if (device->memory) {
            c->weight_bytes = plan.gpu_weight_bytes;
            c->peak_bytes = plan.gpu_peak_bytes;
            c->streamed_blocks = plan.streamed_blocks;
            c->streamed_bytes = plan.streamed_bytes;
        }
        c->text = once(seconds[INK_PHASE_TEXT], o->batch);
        c->modulation = once(prepare, 1);
        c->decode = once(seconds[INK_PHASE_DECODE], 1);
        c->step = ink_bench_time_of(w.steps, w.n_steps, 0);
        status = ink_bench_add_flops(run, c);
        c->total_seconds = seconds[INK_PHASE_TEXT] + prepare + seconds[INK_PHASE_DENOISE] + seconds[INK_PHASE_DECODE];
    }
    ink_free(w.steps);
    return status;
}
