/* cli_bench.c - inkstone bench: random weights of the real sizes, timed; a table for people, a line of JSON for each case. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/interrupt.h"
#include "common/request_json.h"
#include "common/text_format.h"

typedef struct bench {
    const cli_options *options;
    app_progress progress;
    bool began; /* a case was shown */
    int exit_status;
} bench;

static int show_progress(void *user, const ink_progress *state) {
    bench *b = user;
    app_progress_update(&b->progress, state);
    return app_interrupt_caught() != 0;
}

/* All blocks, where only some were run. */
static double whole_forward(const ink_bench_case *c) {
    return c->forward.median + (double)(c->whole_blocks - c->blocks) * c->block.median;
}

static double rate(ink_bench_time t) { return t.median > 0 ? t.flops / t.median : 0; }

/* ---- JSON ---- */

static json_t *known(double value) { return value > 0 ? json_real(value) : json_null(); }

static void set_time(json_t *root, const char *name, ink_bench_time t, bool with_rate) {
    char key[64];
    snprintf(key, sizeof key, "%s_seconds", name);
    json_object_set_new(root, key, known(t.median));
    snprintf(key, sizeof key, "%s_seconds_min", name);
    json_object_set_new(root, key, known(t.min));
    if (!with_rate) return;
    snprintf(key, sizeof key, "%s_tflops", name);
    json_object_set_new(root, key, known(1e-12 * rate(t)));
}

static json_t *case_to_json(const ink_bench_case *c, int64_t runs) {
    json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:I}", "synthetic", c->architecture,
                             "backend", c->backend, "tier", c->tier, "threads", (json_int_t)c->threads, "precision",
                             app_precision_name(c->precision), "width", (json_int_t)c->width, "height", (json_int_t)c->height,
                             "batch", (json_int_t)c->batch, "blocks", (json_int_t)c->blocks, "text_tokens",
                             (json_int_t)c->text_tokens, "picture", c->picture, "repeat", (json_int_t)runs);
    if (!root) return NULL;
    json_object_set_new(root, "steps", json_integer(c->steps));
    json_object_set_new(root, "seconds_per_forward", known(c->forward.median));
    json_object_set_new(root, "seconds_per_forward_min", known(c->forward.min));
    json_object_set_new(root, "seconds_per_block", known(c->block.median));
    json_object_set_new(root, "seconds_per_block_min", known(c->block.min));
    json_object_set_new(root, "seconds_per_step", known(c->step.median));
    json_object_set_new(root, "seconds_per_step_min", known(c->step.min));
    json_object_set_new(root, "floor_seconds_per_forward", known(c->floor.median));
    json_object_set_new(root, "floor_seconds_per_forward_min", known(c->floor.min));
    json_object_set_new(root, "tflops", known(1e-12 * rate(c->forward)));
    json_object_set_new(root, "gflop_per_block", known(1e-9 * c->block.flops));
    json_object_set_new(root, "extrapolated_blocks", c->blocks < c->whole_blocks ? json_integer(c->whole_blocks) : json_null());
    json_object_set_new(root, "extrapolated_seconds_per_forward",
                        c->blocks < c->whole_blocks ? known(whole_forward(c)) : json_null());
    set_time(root, "text", c->text, true);
    set_time(root, "modulation", c->modulation, true);
    set_time(root, "decode", c->decode, true);
    json_object_set_new(root, "total_seconds", known(c->total_seconds));
    json_object_set_new(root, "fill_seconds", json_real(c->fill_seconds));
    json_object_set_new(root, "roofline_tflops", known(1e-12 * c->roofline_flops));
    json_object_set_new(root, "memory_read_gb_per_second", known(1e-9 * c->read_bytes_per_second));
    json_object_set_new(root, "memory_copy_gb_per_second", known(1e-9 * c->copy_bytes_per_second));
    json_object_set_new(root, "weight_bytes", json_integer(c->weight_bytes));
    json_object_set_new(root, "scratch_bytes", json_integer(c->scratch_bytes));
    json_object_set_new(root, "peak_bytes", json_integer(c->peak_bytes));
    json_object_set_new(root, "streamed_blocks", json_integer(c->streamed_blocks));
    json_object_set_new(root, "streamed_bytes", json_integer(c->streamed_bytes));
    json_object_set_new(root, "process_peak_bytes", c->process_peak_bytes ? json_integer(c->process_peak_bytes) : json_null());
    return root;
}

/* ---- the table ---- */

static void print_machine(const ink_bench_case *c) {
    if (strcmp(c->backend, "cpu") != 0) {
        puts("On the GPU. Random weights. Seconds: median and best; the rate is that of the median.");
        return;
    }
    printf("%s, tier %s, %" PRId64 " thread%s; memory: %.1f GB/s read, %.1f GB/s copied\n", c->backend, c->tier, c->threads,
           c->threads == 1 ? "" : "s", 1e-9 * c->read_bytes_per_second, 1e-9 * c->copy_bytes_per_second);
    puts("Random weights. Seconds: median and best; the rate is that of the median, and its part of the tier's");
    puts("inner loop fed from the cache.");
}

static void print_time(const ink_bench_case *c, const char *name, ink_bench_time t, const char *note) {
    if (t.median <= 0) return;
    printf("  %-28s %10.4f %10.4f", name, t.median, t.min);
    if (t.flops > 0) printf(" %9.3f TFLOP/s", 1e-12 * rate(t));
    if (t.flops > 0 && c->roofline_flops > 0) printf(" %4.0f %%", 100 * rate(t) / c->roofline_flops);
    printf("%s%s\n", *note ? "  " : "", note);
}

static void print_case(const ink_bench_case *c) {
    char weights[APP_SHOWN_SIZE], scratch[APP_SHOWN_SIZE], peak[APP_SHOWN_SIZE], process[APP_SHOWN_SIZE], name[64];
    bool all = c->blocks == c->whole_blocks;
    printf("\n%s, %s, %" PRId64 " x %" PRId64 ", %" PRId64 " text tokens, %" PRId64 " of %" PRId64 " blocks", c->architecture,
           app_precision_name(c->precision), c->width, c->height, c->text_tokens, c->blocks, c->whole_blocks);
    if (c->roofline_flops > 0) printf("; at most %.3f TFLOP/s", 1e-12 * c->roofline_flops);
    putchar('\n');
    print_time(c, "text encoder, one prompt", c->text, "");
    snprintf(name, sizeof name, "modulation of %" PRId64 " steps", c->steps);
    print_time(c, name, c->modulation, "");
    snprintf(name, sizeof name, "step of %" PRId64 " pass%s", c->batch, c->batch == 1 ? "" : "es");
    print_time(c, name, c->step, "");
    print_time(c, "forward", c->forward, "");
    if (c->floor.median > 0) {
        char times[32];
        snprintf(times, sizeof times, "forward = %.3f x", c->forward.median / c->floor.median);
        print_time(c, "its products alone (floor)", c->floor, times);
    }
    print_time(c, "block", c->block, "");
    print_time(c, "decode", c->decode, "");
    if (c->picture)
        printf("  %-28s %10.4f  %" PRId64 " steps, all phases\n", "picture", c->total_seconds, c->steps);
    else if (!all && c->forward.median > 0)
        printf("  %-28s %10.4f  not run: extrapolated to %" PRId64 " blocks from %" PRId64 "\n", "whole forward", whole_forward(c),
               c->whole_blocks, c->blocks);
    printf("  peak %s as counted (weights %s, scratch %s)", app_show_bytes(peak, c->peak_bytes),
           app_show_bytes(weights, c->weight_bytes), app_show_bytes(scratch, c->scratch_bytes));
    if (c->process_peak_bytes) printf(", %s of the process", app_show_bytes(process, c->process_peak_bytes));
    if (c->streamed_blocks > 0)
        printf("\n  %" PRId64 " of %" PRId64 " blocks come and go: %s to the GPU at each step", c->streamed_blocks, c->blocks,
               app_show_bytes(peak, c->streamed_bytes));
    printf("\n  %.1f s to make the weights, counted nowhere else\n", c->fill_seconds);
}

static void show_case(void *user, const ink_bench_case *c) {
    bench *b = user;
    app_progress_clear(&b->progress);
    if (b->options->given[CLI_JSON]) {
        int exit_status = cli_print_json(case_to_json(c, c->step.runs > 0     ? c->step.runs
                                                         : c->decode.runs > 0 ? c->decode.runs
                                                                              : 1));
        if (exit_status != CLI_DONE) b->exit_status = exit_status;
    } else {
        if (!b->began) print_machine(c);
        print_case(c);
    }
    fflush(stdout);
    b->began = true;
}

/* ---- the command ---- */

static ink_status check(const cli_options *options, ink_error *error) {
    if (!options->given[CLI_SYNTHETIC])
        return app_fail(error, INK_ERROR_ARGUMENT,
                        "what shall be timed? --synthetic qwen-image, or --synthetic qwen-image:2 for two of its 60 blocks");
    if (options->given[CLI_PICTURE] && options->given[CLI_PHASES])
        return app_fail(error, INK_ERROR_ARGUMENT, "--picture runs all phases: leave --phases out");
    if (options->given[CLI_PICTURE] && options->given[CLI_REPEAT])
        return app_fail(error, INK_ERROR_ARGUMENT, "--picture runs every phase once: leave --repeat out");
    if (options->given[CLI_VRAM_BUDGET] && !options->given[CLI_PICTURE])
        return app_fail(error, INK_ERROR_ARGUMENT, "--vram-budget is of whole pictures: add --picture");
    /* To the library 0 means that nothing was said. */
    if (options->given[CLI_STEPS] && options->request.steps < 1)
        return app_fail(error, INK_ERROR_ARGUMENT, "-s %" PRId64 ": expected a number of steps, at least 1",
                        options->request.steps);
    return INK_OK;
}

int cli_bench(const cli_options *options) {
    ink_error error = {0};
    bench b = {.options = options, .exit_status = CLI_DONE};
    app_progress_begin(&b.progress, stderr, options->given[CLI_QUIET] != NULL);
    const ink_bench_options asked = {.synthetic = options->given[CLI_SYNTHETIC],
                                     .sizes = options->sizes,
                                     .n_sizes = options->n_sizes,
                                     .precisions = options->precisions,
                                     .n_precisions = options->n_precisions,
                                     .batch = options->batch,
                                     .text_tokens = options->text_tokens,
                                     .steps = options->request.steps,
                                     .repeat = options->repeat,
                                     .phases = options->phases,
                                     .picture = options->given[CLI_PICTURE] != NULL,
                                     .vram_budget = options->request.vram_budget,
                                     .threads = options->threads,
                                     .cpu = options->given[CLI_CPU],
                                     .backend = options->given[CLI_BACKEND],
                                     .progress = show_progress,
                                     .result = show_case,
                                     .user = &b};
    ink_status status = check(options, &error);
    if (status == INK_OK) status = ink_bench(&asked, &error);
    app_progress_clear(&b.progress);
    if (status != INK_OK) return cli_report_error(options->given[CLI_JSON] != NULL, &error);
    return cli_finish_output(b.exit_status);
}
