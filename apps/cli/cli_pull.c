/* cli_pull.c - inkstone pull: a model from the hub, with one bar, and what to do next. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/interrupt.h"
#include "common/text_format.h"
#include "hub/hub_pull.h"

typedef struct pull_view {
    const cli_options *options;
    app_progress progress;
} pull_view;

static int stopped(void *user) {
    (void)user;
    return app_interrupt_caught();
}

static void note(void *user, const char *sentence) {
    pull_view *view = user;
    app_progress_clear(&view->progress);
    cli_note(view->options, "%s; trying again", sentence);
}

static void show(void *user, const hub_pull_progress *state) {
    pull_view *view = user;
    app_progress_bytes(&view->progress, state->checking ? "checking" : "loading", state->done_bytes, state->total_bytes,
                       state->bytes_per_second);
}

/* ---- results ---- */

static const char *state_of(const hub_pull_result *result, size_t i) {
    const app_pull_file *file = &result->record.files[i];
    if (!file->wanted) return "outdated";
    if (file->done) return "there";
    return result->have_bytes[i] == file->size ? "to check" : result->have_bytes[i] > 0 ? "begun" : "missing";
}

static json_t *files_to_json(const hub_pull_result *result) {
    json_t *list = json_array();
    for (size_t i = 0; i < result->record.n_files; i++) {
        const app_pull_file *file = &result->record.files[i];
        json_array_append_new(list,
                              json_pack("{s:o, s:I, s:I, s:s}", "path", cli_json_text(file->path), "bytes", (json_int_t)file->size,
                                        "have_bytes", (json_int_t)result->have_bytes[i], "state", state_of(result, i)));
    }
    return list;
}

static int64_t missing_bytes(const hub_pull_result *result) {
    int64_t missing = result->total_bytes;
    for (size_t i = 0; i < result->record.n_files; i++) missing -= result->have_bytes[i];
    return missing;
}

static json_t *result_to_json(const hub_pull_result *result, bool dry_run) {
    const app_pull_record *record = &result->record;
    return json_pack("{s:s, s:s, s:o, s:s, s:o, s:b, s:I, s:I, s:o}", "model", result->name, "repo", record->repo, "revision",
                     cli_json_text(record->revision), "commit", record->commit, "dir", cli_json_text(result->dir), "dry_run",
                     dry_run, "total_bytes", (json_int_t)result->total_bytes, dry_run ? "missing_bytes" : "fetched_bytes",
                     (json_int_t)(dry_run ? missing_bytes(result) : result->fetched_bytes), "files", files_to_json(result));
}

static int print_plan(const hub_pull_result *result) {
    char total[APP_SHOWN_SIZE], missing[APP_SHOWN_SIZE];
    for (size_t i = 0; i < result->record.n_files; i++) {
        printf("%15" PRId64 "  %-8s  ", result->record.files[i].size, state_of(result, i));
        app_print_clean(stdout, result->record.files[i].path);
        putchar('\n');
    }
    printf("%s, commit %.12s: %s in all, %s to load\n", result->record.repo, result->record.commit,
           app_show_bytes(total, result->total_bytes), app_show_bytes(missing, missing_bytes(result)));
    return cli_finish_output(CLI_DONE);
}

static int print_done(const cli_options *options, const hub_pull_result *result) {
    char fetched[APP_SHOWN_SIZE];
    if (result->fetched_bytes > 0)
        cli_note(options, "%s loaded and checked, in %s", app_show_bytes(fetched, result->fetched_bytes), result->dir);
    else
        cli_note(options, "everything is there, in %s", result->dir);
    if (!options->given[CLI_ONLY]) cli_note(options, "to draw with it: inkstone -m %s -p \"a red circle\"", result->name);
    if (!options->given[CLI_QUIET]) puts(result->name);
    return cli_finish_output(CLI_DONE);
}

static int report_failure(const cli_options *options, const hub_pull_result *result, const ink_error *error) {
    bool json = options->given[CLI_JSON] != NULL;
    char sentence[400];
    if (error->status != INK_ERROR_CANCELLED) return cli_report_error(json, error);
    bool begun = result->record.n_files > 0 && !options->given[CLI_DRY_RUN];
    snprintf(sentence, sizeof sentence,
             begun ? "interrupted; what arrived is kept, and inkstone pull %.200s goes on" : "interrupted%.0s", options->operand);
    return cli_report_interruption(json, sentence);
}

int cli_pull(const cli_options *options) {
    ink_error error = {0};
    hub_pull_result result = {0};
    pull_view view = {.options = options};
    bool dry_run = options->given[CLI_DRY_RUN] != NULL;
    if (!options->operand) {
        app_fail(&error, INK_ERROR_ARGUMENT, "which model? For example: inkstone pull Qwen/Qwen-Image-2512");
        return cli_report_error(options->given[CLI_JSON] != NULL, &error);
    }
    app_progress_begin(&view.progress, stderr, options->given[CLI_QUIET] != NULL);
    hub_pull_options asked = {.repo = options->operand,
                              .revision = options->given[CLI_REVISION],
                              .only = options->given[CLI_ONLY],
                              .jobs = options->jobs ? options->jobs : 4,
                              .tries = options->tries ? options->tries : 8,
                              .timeout_seconds = options->timeout_seconds ? options->timeout_seconds : 30,
                              .dry_run = dry_run,
                              .stopped = stopped,
                              .note = note,
                              .progress = show,
                              .user = &view};
    ink_status status = hub_pull(&result, &asked, &error);
    app_progress_clear(&view.progress);
    int exit_status;
    if (status != INK_OK)
        exit_status = report_failure(options, &result, &error);
    else if (options->given[CLI_JSON])
        exit_status = cli_print_json(result_to_json(&result, dry_run));
    else
        exit_status = dry_run ? print_plan(&result) : print_done(options, &result);
    hub_pull_result_clear(&result);
    return exit_status;
}
