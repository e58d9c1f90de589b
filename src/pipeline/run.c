/* run.c - what the steps of a run have in common: telling how far it is, and holding weights while they are used. */
#include "pipeline/run.h"

#include "base/memory.h"
#include "base/system.h"

void ink_run_fail_memory(ink_run *r, const char *what) {
    if (!ink_run_failed(r)) r->ctx.status = ink_fail(r->error, INK_ERROR_MEMORY, "no memory for the %s", what);
}

/* ---- progress ------------------------------------------------------------------------------------------------------ */

static void report_as(ink_run *r, ink_phase phase, int64_t done, int64_t total, double fraction) {
    if (ink_run_is_dry(r) || ink_run_failed(r) || !r->request.progress) return;
    double now = ink_seconds();
    ink_progress progress = {.phase = phase, .done = done, .total = total, .phase_seconds = now - r->phase_began};
    progress.fraction = fraction < 1 ? fraction : 1;
    r->last_report = now;
    if (r->request.progress(r->request.progress_user, &progress) != 0)
        r->ctx.status = ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
}

static void report(ink_run *r, double fraction) { report_as(r, r->phase, r->done, r->total, fraction); }

static bool report_is_due(const ink_run *r) { return ink_seconds() - r->last_report > 0.1; }

void ink_run_op_worked(void *user) {
    ink_run *r = user;
    double whole = r->phase_work[r->phase] * (double)(r->total - r->phase_first) / (double)r->total;
    if (whole > 0 && report_is_due(r)) report(r, (r->ctx.work - r->phase_first_work) / whole);
}

void ink_run_begin_phase(ink_run *r, ink_phase phase, int64_t total) {
    r->phase = phase;
    r->done = r->phase_first = 0;
    r->total = total;
    r->phase_began = ink_seconds();
    r->phase_first_work = r->ctx.work;
    report(r, 0);
}

void ink_run_unit_done(ink_run *r) {
    int64_t first = r->phase_first;
    r->done++;
    report(r, r->total > first ? (double)(r->done - first) / (double)(r->total - first) : 1);
}

static void account_phase(ink_run *r) {
    if (ink_run_is_dry(r))
        r->phase_work[r->phase] += r->ctx.work - r->phase_first_work;
    else
        r->session->stats.phase_seconds[r->phase] += ink_seconds() - r->phase_began;
}

void ink_run_end_phase(ink_run *r) {
    /* What was queued in a phase is done in it. */
    if (!ink_run_is_dry(r) && ink_run_is_remote(r)) r->device->memory->wait(r->device);
    account_phase(r);
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static ink_status tensor_loaded(void *user, const ink_binder *binder) {
    ink_run *r = user;
    if (atomic_load(&r->session->cancel)) return ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
    int64_t done = binder->mapped_bytes + binder->stored_bytes - (int64_t)binder->uploads.bytes;
    r->done = done > 0 ? done : 0;
    if (report_is_due(r)) report(r, (double)r->done / (double)r->total);
    return r->ctx.status;
}

static ink_status weights_awaited(void *user, const ink_binder *binder, int64_t left) {
    ink_run *r = user;
    if (atomic_load(&r->session->cancel)) return ink_fail(r->error, INK_ERROR_CANCELLED, "cancelled");
    int64_t total = binder->coming_bytes;
    report_as(r, INK_PHASE_LOAD, total - left, total, (double)(total - left) / (double)total);
    return r->ctx.status;
}

ink_binder ink_run_binder(ink_run *r, ink_component component, ink_store *store) {
    return (ink_binder){.weights = r->model->weights[component],
                        .synthetic = r->model->synthetic,
                        .mode = ink_run_is_dry(r) ? INK_BIND_CHECK : INK_BIND_LOAD,
                        .precision = r->model->precision,
                        .adapters = component == INK_TRANSFORMER ? r->adapters : NULL,
                        .merge = r->request.merge_loras != 0,
                        .threads = ink_run_is_dry(r) ? NULL : r->session->threads,
                        .store = store,
                        .memory = ink_run_is_remote(r) ? r->device->memory : NULL,
                        .device = r->device,
                        .error = r->error,
                        .loaded = ink_run_is_dry(r) ? NULL : tensor_loaded,
                        .awaited = ink_run_is_dry(r) ? NULL : weights_awaited,
                        .user = r};
}

/* Random weights are not made anew at each step. */
static void create_residency(ink_run *r, ink_holding *h, const ink_need *need, int64_t n_parts) {
    if (n_parts == 0 || ink_run_failed(r) || (h->binder.synthetic && !ink_run_is_remote(r))) return;
    int64_t n_stay = ink_run_is_dry(r) ? n_parts : need->n_stay;
    const ink_weights *weights = h->binder.synthetic ? NULL : h->binder.weights;
    r->ctx.status = ink_residency_create(&h->residency, weights, n_parts, n_stay, r->error);
    if (!ink_run_failed(r) && ink_run_is_remote(r) && !ink_run_is_dry(r))
        r->ctx.status = ink_residency_to_device(h->residency, r->device->memory, r->device, need->parts, r->error);
    h->binder.residency = h->residency;
    h->binder.status = r->ctx.status;
}

ink_binder *ink_run_begin_binding(ink_run *r, ink_component component, const ink_need *need, int64_t n_parts, bool follows) {
    ink_holding *h = &r->networks->holdings[component];
    h->binder = ink_run_binder(r, component, &h->store);
    h->binder.follows = follows;
    create_residency(r, h, need, n_parts);
    ink_run_begin_phase(r, INK_PHASE_LOAD, r->component_bytes[component]);
    return &h->binder;
}

void ink_run_bound(ink_run *r, ink_binder *binder, ink_component component, ink_need *need) {
    if (!ink_run_failed(r)) r->ctx.status = binder->status;
    if (!ink_run_failed(r) && !ink_run_is_dry(r)) r->ctx.status = ink_residency_start(binder->residency, r->error);
    binder->loaded = NULL; /* blocks that are read again are not loading */
    if (!ink_run_is_dry(r) || ink_run_failed(r)) return;
    r->component_bytes[component] = binder->mapped_bytes + binder->stored_bytes;
    *need = (ink_need){.mapped_bytes = binder->mapped_bytes, .stored_bytes = binder->peak_bytes};
    need->passing_bytes = binder->largest_converted_bytes;
    if (!binder->residency) return;
    need->n_parts = binder->residency->n_parts;
    need->parts = ink_alloc_array((size_t)need->n_parts, sizeof *need->parts);
    if (!need->parts) ink_run_fail_memory(r, "plan");
    for (int64_t i = 0; need->parts && i < need->n_parts; i++) {
        need->parts[i] = binder->residency->parts[i];
        need->parts[i].ranges = NULL;
        need->mapped_bytes -= need->parts[i].mapped_bytes;
        need->stored_bytes -= need->parts[i].stored_bytes;
    }
}

void ink_run_end_binding(ink_run *r, ink_component component, ink_need *need) {
    ink_holding *h = &r->networks->holdings[component];
    ink_bind_bring(&h->binder);
    ink_run_bound(r, &h->binder, component, need);
    ink_run_end_phase(r);
}

void ink_run_await(ink_run *r, ink_component component, size_t n_uploads) {
    ink_holding *h = &r->networks->holdings[component];
    if (!h->binder.coming || ink_run_failed(r)) return;
    ink_run_begin_phase(r, INK_PHASE_LOAD, r->component_bytes[component]);
    ink_bind_await(&h->binder, n_uploads);
    if (!ink_run_failed(r)) r->ctx.status = h->binder.status;
    if (n_uploads == INK_ALL_UPLOADS) ink_bind_end_bringing(&h->binder, ink_run_failed(r));
    ink_check_device(&r->ctx);
    /* Nothing was queued here that is to be done by now: the device would be waited for until other weights, too, are there. */
    account_phase(r);
}

void ink_run_end_bringing(ink_run *r, ink_component component) {
    ink_holding *h = &r->networks->holdings[component];
    if (!h->binder.coming || ink_run_failed(r)) return;
    ink_bind_end_bringing(&h->binder, false);
    ink_check_device(&r->ctx);
    double now = ink_seconds();
    r->session->stats.phase_seconds[INK_PHASE_LOAD] += now - r->phase_began;
    r->phase_began = now;
    r->phase_first = r->done + 1;
    r->phase_first_work = r->ctx.work;
}

void ink_run_leave(ink_run *r, ink_component component) {
    ink_holding *h = &r->networks->holdings[component];
    if (!ink_run_is_dry(r) && !r->model->synthetic) ink_weights_drop(r->model->weights[component]);
    h->held = !ink_run_is_dry(r) && !ink_run_failed(r) && ink_run_is_remote(r) && r->plan->gpu_keeps_weights &&
              !(component == INK_TRANSFORMER && r->request.n_loras > 0);
    h->binder.error = NULL; /* of this run */
    h->binder.adapters = NULL;
    h->binder.awaited = NULL;
    if (!h->held) ink_networks_drop(r->networks, component);
}
