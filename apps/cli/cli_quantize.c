/* cli_quantize.c - inkstone quantize: a model in another precision, with a bar, and what it cost in accuracy. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/interrupt.h"
#include "common/request_json.h"
#include "common/text_format.h"

static int show(void *user, const ink_quantize_progress *state) {
    app_progress *progress = user;
    double speed = state->seconds > 0.5 ? (double)state->done_bytes / state->seconds : 0;
    app_progress_bytes(progress, state->activity, state->done_bytes, state->total_bytes, speed);
    return app_interrupt_caught() != 0;
}

/* ---- results ---- */

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *rows_to_json(const ink_quantize_report *report) {
    json_t *list = json_array();
    for (size_t i = 0; i < report->n_rows; i++) {
        const ink_quantize_row *row = &report->rows[i];
        json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:b, s:I, s:o, s:o}", "component", row->component, "name",
                                              cli_json_text(row->name), "stored", row->stored, "quantised", row->quantised, "bytes",
                                              (json_int_t)row->bytes, "weight_error", number(row->weight_error), "output_error",
                                              number(row->output_error)));
    }
    return list;
}

static json_t *report_to_json(const ink_quantize_report *report, const cli_options *options) {
    return json_pack("{s:o, s:s, s:I, s:I, s:o, s:o}", "dir", cli_json_text(options->given[CLI_FOLDER]), "precision",
                     app_precision_name(options->precision), "source_bytes", (json_int_t)report->source_bytes, "bytes",
                     (json_int_t)report->bytes, "calibration", cli_json_text(report->calibration), "tensors", rows_to_json(report));
}

static void print_error_column(double value) {
    if (isnan(value))
        printf("  %8s", "-");
    else
        printf("  %8.5f", value);
}

static const ink_quantize_row *worse(const ink_quantize_row *a, const ink_quantize_row *b) {
    return !a || b->weight_error > a->weight_error ? b : a;
}

static void print_report(const ink_quantize_report *report, const cli_options *options) {
    const ink_quantize_row *worst = NULL;
    char before[APP_SHOWN_SIZE], after[APP_SHOWN_SIZE];
    size_t n = 0;
    puts("  weight    output  stored          bytes  tensor");
    for (size_t i = 0; i < report->n_rows; i++) {
        const ink_quantize_row *row = &report->rows[i];
        if (!row->quantised) continue;
        print_error_column(row->weight_error);
        print_error_column(row->output_error);
        printf("  %-7s %12" PRId64 "  ", row->stored, row->bytes);
        app_print_clean(stdout, row->name);
        putchar('\n');
        worst = worse(worst, row);
        n++;
    }
    printf("\n%zu of %zu tensors are smaller now, the others have at most 16 bits or are as they were.\n", n, report->n_rows);
    puts("weight: relative L2 error of the matrix; output: of what it gives on a short run.");
    printf("Calibration: ");
    app_print_clean(stdout, report->calibration);
    puts(".");
    if (worst) {
        printf("Largest error of a matrix: %.5f, ", worst->weight_error);
        app_print_clean(stdout, worst->name);
        putchar('\n');
        if (isinf(worst->weight_error)) puts("It holds numbers that are none, or infinite: what is drawn with it will be black.");
    }
    app_print_clean(stdout, options->given[CLI_FOLDER]);
    printf(": %s, of %s\n", app_show_bytes(after, report->bytes), app_show_bytes(before, report->source_bytes));
}

/* ---- the command ---- */

/* Patterns without their "=bf16". Released with release_patterns. */
static char **copy_patterns(const cli_options *options) {
    char **patterns = calloc(options->n_keep + 1, sizeof *patterns);
    for (size_t i = 0; patterns && i < options->n_keep; i++) {
        const char *typed = options->keep[i];
        patterns[i] = app_format("%.*s", (int)(strrchr(typed, '=') - typed), typed);
        if (!patterns[i]) {
            while (i > 0) free(patterns[--i]);
            free(patterns);
            return NULL;
        }
    }
    return patterns;
}

static void release_patterns(char **patterns) {
    for (char **pattern = patterns; pattern && *pattern; pattern++) free(*pattern);
    free(patterns);
}

static ink_status check(const cli_options *options, ink_error *error) {
    if (!options->given[CLI_FOLDER])
        return app_fail(error, INK_ERROR_ARGUMENT, "where to? Name a new folder with -o, such as -o qwen-image-q4");
    if (!options->given[CLI_PRECISION])
        return app_fail(
            error, INK_ERROR_ARGUMENT,
            "in which precision? --precision q8, q4, fp8, int8 or bf16; inkstone plan says which ones fit this machine");
    return INK_OK;
}

int cli_quantize(const cli_options *options) {
    ink_error error = {0};
    ink_quantize_report *report = NULL;
    app_progress progress;
    ink_model_options source = {.precision = INK_PRECISION_AUTO};
    const char *dir;
    char *shown = NULL, **patterns = NULL;
    bool json = options->given[CLI_JSON] != NULL;
    app_progress_begin(&progress, stderr, options->given[CLI_QUIET] != NULL);
    ink_status status = check(options, &error);
    if (status == INK_OK) status = cli_find_model(&shown, &dir, &source, options, NULL, &error);
    if (status == INK_OK && !(patterns = copy_patterns(options))) status = app_fail_memory(&error, "the patterns");
    if (status == INK_OK) {
        const ink_quantize_options asked = {.precision = options->precision,
                                            .keep = (const char *const *)patterns,
                                            .n_keep = options->n_keep,
                                            .source = &source,
                                            .calibration = options->calibration,
                                            .threads = options->threads,
                                            .progress = show,
                                            .progress_user = &progress};
        status = ink_quantize_model(&report, dir, options->given[CLI_FOLDER], &asked, &error);
    }
    app_progress_clear(&progress);
    int exit_status;
    if (status != INK_OK) {
        exit_status = cli_report_error(json, &error);
    } else if (json) {
        exit_status = cli_print_json(report_to_json(report, options));
    } else {
        if (!options->given[CLI_QUIET]) print_report(report, options);
        exit_status = cli_finish_output(CLI_DONE);
    }
    ink_quantize_report_destroy(&report);
    release_patterns(patterns);
    free(shown);
    return exit_status;
}
