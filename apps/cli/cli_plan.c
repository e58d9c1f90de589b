/* cli_plan.c - inkstone plan: what a picture needs in every precision, and which of them suits this machine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/request_json.h"
#include "common/text_format.h"

/* From the most exact to the smallest; see docs/numerics.md. AUTO: of a model that holds small numbers already. */
static const ink_precision precisions[] = {INK_PRECISION_AUTO, INK_PRECISION_F32,  INK_PRECISION_BF16, INK_PRECISION_Q8,
                                           INK_PRECISION_FP8,  INK_PRECISION_INT8, INK_PRECISION_Q4};
enum { N_PRECISIONS = sizeof precisions / sizeof *precisions };

typedef enum fit { FITS_WELL, FITS_REREADING, FITS_NOT, FIT_UNKNOWN } fit;

typedef struct row {
    ink_precision precision;
    ink_memory_plan plan;
    int64_t file_bytes; /* of the weights in this precision; 0: of f32, which is not written */
    bool stored;        /* what the model has now */
    bool too_large;     /* for the budget */
    fit fit;
    ink_memory_plan gpu; /* the same for a GPU; all 0 without one */
    fit gpu_fit;
} row;

typedef struct table {
    row rows[N_PRECISIONS];
    int n_rows;
    ink_request request; /* of the last model: numbers only */
    const row *best, *gpu_best;
} table;

/* A machine has other things to do: weights and scratch shall leave a tenth of what is free. */
static fit judge(const ink_memory_plan *plan) {
    if (plan->available_bytes == 0) return FIT_UNKNOWN;
    if (plan->peak_bytes > plan->available_bytes) return FITS_NOT;
    if (plan->streamed_blocks > 0) return FITS_REREADING;
    return plan->peak_bytes + plan->mapped_bytes <= plan->available_bytes / 10 * 9 ? FITS_WELL : FITS_REREADING;
}

static void build_request(ink_request *request, const ink_model *model, const cli_options *options) {
    static const cli_option_id ids[] = {CLI_NEGATIVE, CLI_WIDTH,      CLI_HEIGHT,     CLI_STEPS,
                                        CLI_GUIDANCE, CLI_RAM_BUDGET, CLI_VRAM_BUDGET};
    ink_request_init(request, model);
    request->prompt = "a red circle on a blue background";
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) cli_options_apply(options, ids[i], request);
    /* Guidance needs two prompts; who asks for it means it. */
    if (options->given[CLI_GUIDANCE] && request->guidance > 1 && !request->negative_prompt) request->negative_prompt = " ";
}

/* Whether a GPU is to be looked at: when the first row had none, the others have none either. */
static bool may_use_gpu(const table *t, const row *r, const cli_options *options) {
    const char *backend = options->given[CLI_BACKEND];
    return (!backend || strcmp(backend, "cpu") != 0) && (r == t->rows || t->rows[0].gpu.gpu_least_bytes > 0);
}

/* Only the session that would draw knows its GPU. That the picture does not fit there is no mistake. */
static ink_status plan_on_gpu(row *r, ink_model *model, const ink_request *request, const cli_options *options, ink_error *error) {
    const ink_session_options session_options = {.threads = 1, .backend = options->given[CLI_BACKEND]};
    ink_session *session = NULL;
    ink_request of_gpu = *request;
    of_gpu.ram_budget = 0;
    ink_status status = ink_session_create(&session, model, &session_options, error);
    if (status == INK_OK) cli_note_processor(options, session);
    if (status == INK_OK) status = ink_session_plan(&r->gpu, session, &of_gpu, error);
    bool small = status == INK_ERROR_MEMORY && r->gpu.gpu_least_bytes > 0;
    r->gpu_fit = small ? FITS_NOT : r->gpu.streamed_blocks + r->gpu.streamed_text_layers > 0 ? FITS_REREADING : FITS_WELL;
    ink_session_destroy(&session);
    return small ? INK_OK : status;
}

static ink_status fill_row(table *t, row *r, const char *dir, const ink_model_options *parts, const cli_options *options,
                           ink_error *error) {
    ink_model_options opened = *parts;
    opened.precision = r->precision;
    const ink_quantize_options counted = {.precision = r->precision, .source = parts, .dry_run = 1};
    ink_model *model = NULL;
    ink_quantize_report *report = NULL;
    ink_status status = ink_model_open(&model, dir, &opened, error);
    if (status == INK_OK) {
        build_request(&t->request, model, options);
        status = ink_plan(&r->plan, model, &t->request, error);
        if (status == INK_ERROR_MEMORY && t->request.ram_budget > 0) {
            /* Too small a budget for this precision is no mistake, and the rest of its row is of interest. */
            ink_request unlimited = t->request;
            unlimited.ram_budget = 0;
            status = ink_plan(&r->plan, model, &unlimited, error);
            r->too_large = status == INK_OK;
        }
        if (status == INK_OK && may_use_gpu(t, r, options)) status = plan_on_gpu(r, model, &t->request, options, error);
    }
    ink_model_close(&model);
    if (status == INK_OK && r->precision >= INK_PRECISION_BF16) {
        /* Some files cannot be written anew; what a picture needs of them is known all the same. */
        if (ink_quantize_model(&report, dir, NULL, &counted, NULL) == INK_OK) r->file_bytes = report->bytes;
        ink_quantize_report_destroy(&report);
    }
    r->fit = r->too_large ? FITS_NOT : judge(&r->plan);
    return status;
}

/*
 * The most exact that fits well, else the smallest that fits at all. Numbers larger than those that are stored win
 * nothing: they are listed for those who check.
 */
static const row *choose(const table *t, bool gpu) {
    const row *best = NULL;
    bool mixed = t->rows[0].precision == INK_PRECISION_AUTO;
    for (int i = 0; i < t->n_rows; i++) {
        const row *r = &t->rows[i];
        bool larger = r->precision == INK_PRECISION_F32 || (mixed && r->precision == INK_PRECISION_BF16);
        if (larger && !r->stored && t->n_rows > 1) continue;
        fit found = gpu ? r->gpu_fit : r->fit;
        if (found == FITS_WELL) return r;
        if (found == FITS_REREADING) best = r;
    }
    return best;
}

static ink_status fill(table *t, const char *dir, const ink_model_options *parts, const cli_options *options, ink_error *error) {
    ink_precision stored = INK_PRECISION_AUTO, asked = options->given[CLI_PRECISION] ? options->precision : INK_PRECISION_AUTO;
    ink_model_options others = *parts; /* of all models but the first, whose tokenizer they share */
    ink_model *model = NULL;
    ink_status status = ink_model_open(&model, dir, parts, error);
    if (status == INK_OK) app_precision_parse(ink_model_precision(model), &stored); /* it stays AUTO where forms are mixed */
    others.same_tokenizer = model;
    for (int i = 0; i < N_PRECISIONS && status == INK_OK; i++) {
        if (precisions[i] == INK_PRECISION_AUTO && stored != INK_PRECISION_AUTO) continue;
        if (asked != INK_PRECISION_AUTO && precisions[i] != asked) continue;
        row *r = &t->rows[t->n_rows++];
        r->precision = precisions[i];
        r->stored = stored == r->precision;
        status = fill_row(t, r, dir, &others, options, error);
        /* Of a model that is small already, most precisions change nothing. */
        const ink_memory_plan *first = &t->rows[0].plan, *plan = &r->plan;
        if (r > t->rows && t->rows[0].precision == INK_PRECISION_AUTO && plan->weight_bytes == first->weight_bytes &&
            plan->mapped_bytes == first->mapped_bytes)
            t->n_rows--;
    }
    ink_model_close(&model);
    if (status == INK_OK) t->best = choose(t, false);
    if (status == INK_OK && t->rows[0].gpu.gpu_least_bytes > 0) t->gpu_best = choose(t, true);
    return status;
}

/* ---- what is said ---- */

static void print_fit(const row *r) {
    static const char *const texts[] = {"fits", "fits, but files are read again at every step", "does not fit", "unknown"};
    char bytes[APP_SHOWN_SIZE];
    if (r->too_large)
        printf("does not fit: the least is %s\n", app_show_least(bytes, r->plan.least_bytes));
    else if (r->fit == FITS_REREADING && r->plan.streamed_blocks > 0)
        printf("fits, %" PRId64 " of %" PRId64 " blocks (%s) read again at each step\n", r->plan.streamed_blocks, r->plan.blocks,
               app_show_bytes(bytes, r->plan.streamed_bytes));
    else
        puts(texts[r->fit]);
}

static json_t *gpu_to_json(const row *r, const char *fits) {
    const ink_memory_plan *plan = &r->gpu;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s?}", "weight_bytes", (json_int_t)plan->gpu_weight_bytes,
                     "scratch_bytes", (json_int_t)plan->scratch_bytes, "peak_bytes", (json_int_t)plan->gpu_peak_bytes,
                     "least_bytes", (json_int_t)plan->gpu_least_bytes, "available_bytes", (json_int_t)plan->gpu_available_bytes,
                     "streamed_blocks", (json_int_t)plan->streamed_blocks, "streamed_bytes", (json_int_t)plan->streamed_bytes,
                     "streamed_text_layers", (json_int_t)plan->streamed_text_layers, "host_bytes", (json_int_t)plan->gpu_host_bytes,
                     "keeps_weights", plan->gpu_keeps_weights, "fits", fits);
}

static json_t *table_to_json(const table *t, const char *dir) {
    static const char *const fits[] = {"well", "rereading", "no", NULL};
    json_t *list = json_array();
    for (int i = 0; i < t->n_rows; i++) {
        const row *r = &t->rows[i];
        const ink_memory_plan *plan = &r->plan;
        json_array_append_new(list, json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s?}", "precision",
                                              app_precision_name(r->precision), "stored", (int)r->stored, "weight_bytes",
                                              (json_int_t)plan->weight_bytes, "mapped_bytes", (json_int_t)plan->mapped_bytes,
                                              "scratch_bytes", (json_int_t)plan->scratch_bytes, "peak_bytes",
                                              (json_int_t)plan->peak_bytes, "budget_bytes", (json_int_t)plan->budget_bytes,
                                              "least_bytes", (json_int_t)plan->least_bytes, "streamed_bytes",
                                              (json_int_t)plan->streamed_bytes, "file_bytes",
                                              r->file_bytes ? json_integer(r->file_bytes) : json_null(), "fits", fits[r->fit]));
        if (r->gpu.gpu_least_bytes > 0)
            json_object_set_new(json_array_get(list, json_array_size(list) - 1), "gpu", gpu_to_json(r, fits[r->gpu_fit]));
    }
    json_t *root = json_pack("{s:o, s:I, s:I, s:I, s:I, s:o, s:s?}", "dir", cli_json_text(dir), "width",
                             (json_int_t)t->request.width, "height", (json_int_t)t->request.height, "steps",
                             (json_int_t)t->request.steps, "available_bytes", (json_int_t)t->rows[0].plan.available_bytes,
                             "precisions", list, "best", t->best ? app_precision_name(t->best->precision) : NULL);
    if (root && t->rows[0].gpu.gpu_least_bytes > 0)
        json_object_set_new(root, "best_gpu", t->gpu_best ? json_string(app_precision_name(t->gpu_best->precision)) : json_null());
    return root;
}

/* The row that fits the smallest budget, if none fits the one that was given; else NULL. */
static const row *least_row(const table *t) {
    const row *least = t->rows;
    for (int i = 0; i < t->n_rows; i++) {
        if (!t->rows[i].too_large) return NULL;
        if (t->rows[i].plan.least_bytes < least->plan.least_bytes) least = &t->rows[i];
    }
    return least;
}

static void print_best(const table *t, const char *dir) {
    const row *least = least_row(t);
    if (least) {
        char bytes[APP_SHOWN_SIZE];
        printf("Nothing here fits that --ram-budget; the least is %s, in %s.\n", app_show_least(bytes, least->plan.least_bytes),
               app_precision_name(least->precision));
        return;
    }
    if (!t->best) {
        puts(t->rows[0].fit == FIT_UNKNOWN ? "How much memory this machine has is not known."
                                           : "Nothing here fits this machine; a smaller picture (-W, -H) needs less scratch.");
        return;
    }
    const char *name = app_precision_name(t->best->precision);
    bool makes = !t->best->stored && t->best->file_bytes > 0 && t->best->precision != INK_PRECISION_BF16;
    printf("Best here: %s%s.", name, t->best->stored ? ", as the model is stored" : "");
    if (makes) {
        printf(" Once: inkstone quantize -m ");
        app_print_clean(stdout, dir);
        printf(" -o NEW_FOLDER --precision %s", name);
    }
    putchar('\n');
}

static void print_gpu(const table *t) {
    char weights[APP_SHOWN_SIZE], rest[APP_SHOWN_SIZE], peak[APP_SHOWN_SIZE], least[APP_SHOWN_SIZE], streamed[CLI_STREAMED_SIZE];
    const ink_memory_plan *first = &t->rows[0].gpu;
    if (first->gpu_least_bytes == 0) return;
    printf("\nThe GPU; %s of its memory available\n\n", app_show_bytes(weights, first->gpu_available_bytes));
    printf("%-9s  %9s  %9s  %9s  %9s\n", "precision", "weights", "the rest", "peak", "least");
    for (int i = 0; i < t->n_rows; i++) {
        const row *r = &t->rows[i];
        const ink_memory_plan *plan = &r->gpu;
        printf("%-9s  %9s  %9s  %9s  %9s  ", app_precision_name(r->precision), app_show_bytes(weights, plan->gpu_weight_bytes),
               app_show_bytes(rest, plan->gpu_peak_bytes - plan->gpu_weight_bytes), app_show_bytes(peak, plan->gpu_peak_bytes),
               app_show_bytes(least, plan->gpu_least_bytes));
        if (r->gpu_fit == FITS_NOT && plan->gpu_least_bytes <= plan->gpu_available_bytes)
            printf("does not fit: what comes and goes takes %s of the host's memory\n",
                   app_show_bytes(least, plan->gpu_host_bytes));
        else if (r->gpu_fit == FITS_NOT)
            puts("does not fit");
        else if (r->gpu_fit == FITS_REREADING)
            printf("fits%s\n", cli_say_streamed(streamed, plan));
        else
            puts(plan->gpu_keeps_weights ? "fits" : "fits, one network at a time");
    }
    if (t->gpu_best)
        printf("\nBest on the GPU: %s%s.\n", app_precision_name(t->gpu_best->precision),
               t->gpu_best->stored ? ", as the model is stored" : "");
    else
        puts("\nNothing here fits the GPU; a smaller picture (-W, -H) needs less.");
}

static void print_table(const table *t, const char *dir) {
    char weights[APP_SHOWN_SIZE], mapped[APP_SHOWN_SIZE], scratch[APP_SHOWN_SIZE], peak[APP_SHOWN_SIZE], file[APP_SHOWN_SIZE];
    app_print_clean(stdout, dir);
    printf(", %" PRId64 " x %" PRId64 "; %s of memory available\n\n", t->request.width, t->request.height,
           app_show_bytes(weights, t->rows[0].plan.available_bytes));
    printf("%-9s  %9s  %9s  %9s  %9s  %9s\n", "precision", "weights", "scratch", "peak", "in place", "on disk");
    for (int i = 0; i < t->n_rows; i++) {
        const row *r = &t->rows[i];
        app_show_bytes(file, r->file_bytes);
        printf("%-9s  %9s  %9s  %9s  %9s  %9s  ", app_precision_name(r->precision), app_show_bytes(weights, r->plan.weight_bytes),
               app_show_bytes(scratch, r->plan.scratch_bytes), app_show_bytes(peak, r->plan.peak_bytes),
               app_show_bytes(mapped, r->plan.mapped_bytes), r->file_bytes ? file : "-");
        print_fit(r);
    }
    puts("\nweights, scratch: memory of our own, together at the peak; in place: used from the mapped files.");
    print_best(t, dir);
    print_gpu(t);
}

int cli_plan(const cli_options *options) {
    ink_error error = {0};
    table t = {.n_rows = 0};
    ink_model_options parts = {.precision = INK_PRECISION_AUTO};
    const char *dir;
    char *shown = NULL;
    bool json = options->given[CLI_JSON] != NULL;
    int exit_status;
    ink_status status = cli_find_model(&shown, &dir, &parts, options, NULL, &error);
    if (status == INK_OK) status = fill(&t, dir, &parts, options, &error);
    if (status != INK_OK) {
        exit_status = cli_report_error(json, &error);
    } else if (json) {
        exit_status = cli_print_json(table_to_json(&t, shown));
    } else {
        print_table(&t, shown);
        exit_status = cli_finish_output(CLI_DONE);
    }
    free(shown);
    return exit_status;
}
