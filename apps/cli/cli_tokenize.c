/* cli_tokenize.c - inkstone tokenize: the ids of a text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli_commands.h"
#include "common/model_path.h"

static json_t *ids_to_json(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return json_pack("{s:o}", "ids", list);
}

static int print_ids(const cli_options *options, const int32_t *ids, size_t n) {
    if (options->given[CLI_JSON]) return cli_print_json(ids_to_json(ids, n));
    for (size_t i = 0; i < n; i++) printf("%s%" PRId32, i ? " " : "", ids[i]);
    putchar('\n');
    return cli_finish_output(CLI_DONE);
}

static ink_status find_text(const cli_options *options, const char **text, char **owned, ink_error *error) {
    *text = options->operand;
    if (options->given[CLI_STDIN] && options->operand)
        return app_fail(error, INK_ERROR_ARGUMENT, "both a TEXT and --stdin are given");
    if (options->given[CLI_STDIN]) {
        ink_status status = cli_read_stdin(owned, error);
        *text = *owned;
        return status;
    }
    if (*text) return INK_OK;
    return app_fail(error, INK_ERROR_ARGUMENT, "which text? For example: inkstone tokenize \"a red circle\"");
}

int cli_tokenize(const cli_options *options) {
    ink_error error = {0};
    const char *text;
    char *owned = NULL, *dir = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    ink_status status = find_text(options, &text, &owned, &error);
    if (status == INK_OK) status = app_model_path(&dir, options->given[CLI_MODEL], &error);
    if (status == INK_OK) status = ink_tokenize(dir, text, &ids, &n, &error);
    int exit_status = status == INK_OK ? print_ids(options, ids, n) : cli_report_error(options->given[CLI_JSON] != NULL, &error);
    ink_free(ids);
    free(dir);
    free(owned);
    return exit_status;
}
