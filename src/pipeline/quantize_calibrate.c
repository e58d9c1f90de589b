/* quantize_calibrate.c - a run of the model as it is, looked at by one who knows what its matrices will become. */
#include "pipeline/quantize_calibrate.h"

#include <inttypes.h>

#include "base/memory.h"
#include "base/system.h"
#include "pipeline/generate.h"
#include "tensor/quantize.h"

enum { MOST_INPUTS = 8, MOST_PIXELS = 256, STEPS = 2 };

static const char prompt[] = "a red circle on a blue background";

typedef struct onlooker {
    ink_quantize_plan *plan;
    const ink_quantize_options *options;
    ink_threads *threads; /* of the session: idle while an op has not begun */
    double began;
    bool no_memory;
} onlooker;

/* One matrix and some of its inputs. */
typedef struct look {
    const ink_quantize_item *item;
    ink_tensor x;
    int64_t stride, n_inputs; /* rows 0, stride, ... of x */
    int64_t worker_bytes;
    unsigned char *memory; /* [workers][worker_bytes] */
    ink_error_sums *sums;  /* [rows] */
} look;

/* Row i of the matrix: what it gives, before and after. */
static void look_at_row(void *context, int64_t i, int64_t worker) {
    const look *l = context;
    const ink_weight *w = &l->item->stored;
    float *before = (float *)(void *)(l->memory + worker * l->worker_bytes), *after = before + w->cols;
    unsigned char *codes = (unsigned char *)(after + w->cols);
    uint16_t *scales = (uint16_t *)(void *)(codes + (w->cols + 63) / 64 * 64), *biases = scales + w->cols / INK_AFFINE_GROUP;
    float scale;
    ink_weight row;
    ink_quantize_describe(&row, l->item->form, 1, w->cols);
    row.data = codes;
    row.scales = row.group ? (void *)scales : (void *)&scale;
    row.biases = biases;
    ink_weight_decode(before, w, i, 0, w->cols);
    ink_quantize_encode_row(&row, 0, before);
    ink_weight_decode(after, &row, 0, 0, w->cols);
    ink_error_sums sums = {0, 0};
    for (int64_t n = 0; n < l->n_inputs; n++) {
        const float *x = ink_row(l->x, n * l->stride);
        double y = 0, difference = 0;
        for (int64_t j = 0; j < w->cols; j++) {
            y += (double)x[j] * before[j];
            difference += (double)x[j] * (after[j] - before[j]);
        }
        sums.difference += difference * difference;
        sums.norm += y * y;
    }
    l->sums[i] = sums;
}

/* As `observe` of a context. */
static void observe(void *user, ink_tensor x, const ink_weight *w) {
    onlooker *o = user;
    ink_quantize_item *item = w->name ? ink_quantize_plan_find(o->plan, w->name) : NULL;
    if (!item || !ink_quantize_is_smaller(item) || o->no_memory) return;
    look l = {.item = item, .x = x, .n_inputs = x.rows < MOST_INPUTS ? x.rows : MOST_INPUTS};
    l.stride = x.rows / l.n_inputs;
    /* Two rows of f32, codes, scales and biases. */
    l.worker_bytes = (2 * (int64_t)sizeof(float) * w->cols + (w->cols + 63) / 64 * 64 + 4 * (w->cols / INK_AFFINE_GROUP) + 63) /
                     64 * 64;
    l.memory = ink_alloc_array((size_t)ink_threads_count(o->threads), (size_t)l.worker_bytes);
    l.sums = ink_alloc_array((size_t)w->rows, sizeof *l.sums);
    o->no_memory = !l.memory || !l.sums;
    if (!o->no_memory) ink_threads_run(o->threads, w->rows, look_at_row, &l);
    for (int64_t i = 0; i < w->rows && !o->no_memory; i++) {
        item->output.difference += l.sums[i].difference;
        item->output.norm += l.sums[i].norm;
    }
    ink_free(l.memory);
    ink_free(l.sums);
}

static int show(void *user, const ink_progress *state) {
    const onlooker *o = user;
    (void)state;
    const ink_quantize_progress progress = {
        .activity = "calibrating", .total_bytes = o->plan->source_bytes, .seconds = ink_seconds() - o->began};
    return o->options->progress ? o->options->progress(o->options->progress_user, &progress) : o->no_memory;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

ink_status ink_quantize_calibrate(ink_quantize_plan *plan, ink_model *model, const ink_quantize_options *options, char **sentence,
                                  ink_error *error) {
    const ink_session_options session_options = {.threads = options->threads};
    ink_session *session;
    ink_status status = ink_session_create(&session, model, &session_options, error);
    if (status != INK_OK) return status;
    onlooker o = {.plan = plan, .options = options, .threads = session->threads, .began = ink_seconds()};
    session->observe = observe;
    session->observe_user = &o;
    ink_request request;
    ink_request_init(&request, model);
    request.prompt = prompt;
    request.negative_prompt = NULL;
    request.width = least(request.width, MOST_PIXELS);
    request.height = least(request.height, MOST_PIXELS);
    request.steps = STEPS;
    request.progress = show;
    request.progress_user = &o;
    ink_image *image;
    status = ink_generate(session, &request, &image, error);
    ink_image_destroy(&image);
    ink_session_destroy(&session);
    if (o.no_memory) return ink_fail(error, INK_ERROR_MEMORY, "no memory for the calibration run");
    if (status != INK_OK) return status;
    *sentence = ink_format("\"%s\", %" PRId64 " x %" PRId64 ", %d steps", prompt, request.width, request.height, STEPS);
    return *sentence ? INK_OK : ink_fail(error, INK_ERROR_MEMORY, "no memory for the report");
}
