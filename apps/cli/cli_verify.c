/* cli_verify.c - inkstone verify: every stage against a recorded run. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/text_format.h"

/* JSON knows no NaN and no infinity: null stands for a number that there is not. */
static json_t *number_to_json(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *row_to_json(const ink_verify_row *row) {
    json_t *shape = json_array();
    for (int i = 0; i < 3 && row->shape[i] > 0; i++) json_array_append_new(shape, json_integer(row->shape[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o}", "stage", cli_json_text(row->stage), "shape", shape,
                     "max_error", number_to_json(row->max_error), "relative_l2", number_to_json(row->relative_l2),
                     "last_relative_l2", number_to_json(row->last_relative_l2), "psnr", number_to_json(row->psnr), "limit",
                     cli_json_text(row->limit), "passed", row->passed, "note", cli_json_text(row->note));
}

static json_t *verification_to_json(const ink_verification *result, const char *reference) {
    json_t *rows = json_array();
    for (size_t i = 0; i < result->n_rows; i++) json_array_append_new(rows, row_to_json(&result->rows[i]));
    return json_pack("{s:o, s:b, s:o}", "reference", cli_json_text(reference), "passed", result->passed, "stages", rows);
}

static void show_shape(char text[72], const int64_t shape[3]) {
    int length = 0;
    text[0] = 0;
    for (int i = 0; i < 3 && shape[i] > 0; i++)
        length += snprintf(text + length, 72 - (size_t)length, "%s%" PRId64, i ? "x" : "", shape[i]);
}

static void show_number(char text[16], const char *format_nan, double value, int digits) {
    if (isnan(value))
        snprintf(text, 16, "%s", format_nan);
    else if (digits)
        snprintf(text, 16, "%.*e", digits, value);
    else
        snprintf(text, 16, "%.1f", value);
}

static void print_row(const ink_verify_row *row, int stage_width, bool colour) {
    char shape[72], max_error[16], relative[16], psnr[16];
    show_shape(shape, row->shape);
    show_number(max_error, "nan", row->max_error, 2);
    show_number(relative, "nan", row->relative_l2, 2);
    show_number(psnr, "-", row->psnr, 0);
    app_print_clean(stdout, row->stage);
    printf("%*s  %-14s  %9s  %9s  %6s  ", stage_width - (int)strlen(row->stage), "", shape, row->note[0] ? "-" : max_error,
           row->note[0] ? "-" : relative, row->note[0] ? "-" : psnr);
    const char *verdict = row->passed ? "PASS" : "FAIL";
    if (colour)
        printf("\033[%dm%s\033[0m  ", row->passed ? 32 : 31, verdict);
    else
        printf("%s  ", verdict);
    app_print_clean(stdout, row->note[0] ? row->note : row->limit);
    putchar('\n');
}

static void print_table(const ink_verification *result) {
    bool colour = app_colour_allowed(stdout);
    int width = 5;
    size_t n_passed = 0;
    for (size_t i = 0; i < result->n_rows; i++) {
        int length = (int)strlen(result->rows[i].stage);
        if (length > width) width = length;
        n_passed += result->rows[i].passed != 0;
    }
    printf("%-*s  %-14s  %9s  %9s  %6s  %s\n", width, "stage", "shape", "max error", "rel. L2", "PSNR", "result");
    for (size_t i = 0; i < result->n_rows; i++) print_row(&result->rows[i], width, colour);
    printf("\n%s: %zu of %zu stages agree\n", result->passed ? "PASS" : "FAIL", n_passed, result->n_rows);
}

int cli_verify(const cli_options *options) {
    ink_error error = {0};
    cli_engine engine = {0};
    ink_verification *result = NULL;
    bool json = options->given[CLI_JSON] != NULL;
    ink_status status = INK_OK;
    if (!options->operand)
        status = app_fail(&error, INK_ERROR_ARGUMENT, "which reference? For example: inkstone verify -m DIR ref.safetensors");
    /* The reference is an f32 run: another precision has to be asked for. */
    if (status == INK_OK) status = cli_open_model(&engine, options, NULL, INK_PRECISION_F32, &error);
    if (status == INK_OK) status = cli_open_session(&engine, options, options->given[CLI_CPU], &error);
    if (status == INK_OK) {
        cli_note(options, "model: %s, %s", engine.dir, ink_model_precision(engine.model));
        status = ink_verify(engine.session, options->operand, cli_show_progress, &engine, &result, &error);
        app_progress_clear(&engine.progress);
    }
    int exit_status;
    if (status != INK_OK) {
        exit_status = cli_report_error(json, &error);
    } else {
        if (json)
            exit_status = cli_print_json(verification_to_json(result, options->operand));
        else if (options->given[CLI_QUIET])
            exit_status = CLI_DONE;
        else
            print_table(result), exit_status = cli_finish_output(CLI_DONE);
        if (exit_status == CLI_DONE && !result->passed) exit_status = CLI_FAILED;
    }
    ink_verification_destroy(&result);
    cli_close_engine(&engine);
    return exit_status;
}
