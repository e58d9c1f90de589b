/* bench_run.c - measuring without a checkpoint: options, the roofline, and a case for each precision and size. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/system.h"
#include "model/architecture.h"
#include "ops/roofline.h"
#include "pipeline/bench_phases.h"
#include "pipeline/request.h"

enum { MOST_TOKENS = 512, DEFAULT_TOKENS = 34, DEFAULT_STEPS = 20, DEFAULT_REPEAT = 3 };

static const ink_bench_size default_sizes[] = {{512, 512}, {1024, 1024}};
static const ink_precision default_precision = INK_PRECISION_BF16;

/* ---- options ------------------------------------------------------------------------------------------------------- */

/* What stands for defaults is replaced. */
static ink_bench_options resolved(const ink_bench_options *options) {
    ink_bench_options o = *options;
    if (o.n_sizes == 0) {
        o.sizes = default_sizes;
        o.n_sizes = sizeof default_sizes / sizeof *default_sizes;
    }
    if (o.n_precisions == 0) {
        o.precisions = &default_precision;
        o.n_precisions = 1;
    }
    if (o.batch == 0) o.batch = 2;
    if (o.text_tokens == 0) o.text_tokens = DEFAULT_TOKENS;
    if (o.steps == 0) o.steps = DEFAULT_STEPS;
    if (o.repeat == 0) o.repeat = DEFAULT_REPEAT;
    if (o.phases == 0) o.phases = INK_BENCH_TEXT | INK_BENCH_MODULATION | INK_BENCH_DENOISE | INK_BENCH_DECODE;
    return o;
}

static ink_status check_range(const char *what, int64_t value, int64_t most, ink_error *error) {
    if (value >= 1 && value <= most) return INK_OK;
    return ink_fail(error, INK_ERROR_ARGUMENT, "%" PRId64 " %s: expected 1 to %" PRId64, value, what, most);
}

static ink_status check(const ink_bench_options *o, const ink_model *model, ink_error *error) {
    if (o->batch != 1 && o->batch != 2)
        return ink_fail(error, INK_ERROR_ARGUMENT, "batch %" PRId64 ": expected 1, or 2 for both passes of guidance", o->batch);
    ink_status status = check_range("text tokens", o->text_tokens, MOST_TOKENS, error);
    if (status == INK_OK) status = check_range("runs of each phase", o->repeat, INK_BENCH_MOST_RUNS, error);
    for (size_t i = 0; status == INK_OK && i < o->n_precisions; i++)
        if (o->precisions[i] < INK_PRECISION_AUTO || o->precisions[i] > INK_PRECISION_INT8)
            status = ink_fail(error, INK_ERROR_ARGUMENT, "precision %d is none of those in inkstone.h", (int)o->precisions[i]);
    for (size_t i = 0; status == INK_OK && i < o->n_sizes; i++) {
        ink_request request;
        ink_request_init(&request, model);
        request.prompt = "";
        request.width = o->sizes[i].width;
        request.height = o->sizes[i].height;
        request.steps = o->steps;
        status = ink_request_check(&request, model, error);
    }
    return status;
}

/* ---- the machine --------------------------------------------------------------------------------------------------- */

/* As far as memory allows, a buffer beyond all caches; a tiny network is to take no time. */
static ink_bandwidth measure_bandwidth(const ink_device *device, bool tiny) {
    if (device->memory) return (ink_bandwidth){0, 0};
    const int64_t mib = 1 << 20, available = ink_available_memory();
    int64_t bytes = 1024 * mib;
    if (available > 0 && bytes > available / 8) bytes = available / 8;
    return ink_cpu_bandwidth(device, tiny ? 2 * mib : bytes, tiny ? 0.002 : 2);
}

static double measure_peak(const ink_bench_run *run, bool tiny) {
    if (run->session->device.memory) return 0; /* its floor is measured with each case */
    ink_dtype weights = run->model->precision == INK_PRECISION_F32    ? INK_F32
                        : run->model->precision == INK_PRECISION_INT8 ? INK_I8
                                                                      : INK_BF16;
    return ink_cpu_peak_flops(&run->session->device, weights, tiny ? 0.002 : 0.5);
}

/* ---- cases --------------------------------------------------------------------------------------------------------- */

static ink_status run_precision(ink_bench_run *run, const char *tier, ink_bandwidth bandwidth, int64_t whole_blocks, bool tiny) {
    const ink_bench_options *o = run->options;
    double peak = measure_peak(run, tiny);
    for (size_t i = 0; i < o->n_sizes; i++)
        run->cases[i] = (ink_bench_case){.architecture = o->synthetic,
                                         .backend = run->session->device.memory ? "cuda" : "cpu",
                                         .tier = tier,
                                         .threads = ink_threads_count(run->session->threads),
                                         .precision = run->model->precision,
                                         .width = o->sizes[i].width,
                                         .height = o->sizes[i].height,
                                         .batch = o->batch,
                                         .text_tokens = o->text_tokens,
                                         .blocks = run->model->config.mmdit.n_layers,
                                         .whole_blocks = whole_blocks,
                                         .steps = o->steps,
                                         .picture = o->picture != 0,
                                         .roofline_flops = peak,
                                         .read_bytes_per_second = bandwidth.read,
                                         .copy_bytes_per_second = bandwidth.copy};
    ink_status status = o->picture ? INK_OK : ink_bench_phases(run);
    for (size_t i = 0; i < o->n_sizes && status == INK_OK; i++) {
        if (o->picture) status = ink_bench_picture(run, i);
        /* Once more: what other programs do to the machine is rarely the same before and after. */
        double again = status == INK_OK && (o->picture || i == 0) ? measure_peak(run, tiny) : 0;
        if (again > peak) peak = again;
        run->cases[i].roofline_flops = peak;
        if (status == INK_OK && o->result) o->result(o->user, &run->cases[i]);
    }
    return status;
}

static ink_status run_all(const ink_bench_options *o, ink_model *model, ink_session *session, int64_t whole_blocks,
                          ink_error *error) {
    ink_bench_run run = {.options = o, .session = session, .model = model, .error = error};
    bool tiny = strncmp(o->synthetic, "tiny", 4) == 0;
    run.cases = ink_alloc_array(o->n_sizes, sizeof *run.cases);
    model->synthetic = ink_synthetic_create(session->threads);
    ink_status status = INK_OK;
    if (!run.cases || !model->synthetic) status = ink_fail(error, INK_ERROR_MEMORY, "no memory for the list of cases");
    ink_bandwidth bandwidth = {0, 0};
    if (status == INK_OK) bandwidth = measure_bandwidth(&session->device, tiny);
    for (size_t i = 0; i < o->n_precisions && status == INK_OK; i++) {
        model->precision = o->precisions[i] == INK_PRECISION_AUTO ? INK_PRECISION_BF16 : o->precisions[i];
        status = run_precision(&run, session->device.tier, bandwidth, whole_blocks, tiny);
    }
    ink_synthetic_destroy(&model->synthetic);
    ink_free(run.cases);
    return status;
}

ink_status ink_bench(const ink_bench_options *options, ink_error *error) {
    ink_error_clear(error);
    if (!options->synthetic) return ink_fail(error, INK_ERROR_ARGUMENT, "no architecture is named to be measured");
    const ink_bench_options o = resolved(options);
    ink_model model = {.synthetic_tokens = o.text_tokens};
    int64_t whole_blocks = 0;
    ink_session *session = NULL;
    ink_status status = ink_architecture_find(&model.config, &whole_blocks, o.synthetic, error);
    if (status == INK_OK) status = check(&o, &model, error);
    if (status == INK_OK)
        status = ink_session_create(&session, &model,
                                    &(ink_session_options){.threads = o.threads, .cpu = o.cpu, .backend = o.backend}, error);
    if (status == INK_OK) status = run_all(&o, &model, session, whole_blocks, error);
    ink_session_destroy(&session);
    ink_config_close(&model.config);
    return status;
}
