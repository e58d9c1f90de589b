/* cli_models.c - inkstone models: what -m takes by name. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/model_store.h"
#include "common/text_format.h"

static json_t *list_to_json(const app_model_list *list, const char *folder) {
    json_t *models = json_array();
    for (size_t i = 0; i < list->n_entries; i++) {
        const app_model_entry *entry = &list->entries[i];
        json_array_append_new(models,
                              json_pack("{s:o, s:o, s:s, s:s?, s:s?, s:I, s:b, s:I, s:I}", "name", cli_json_text(entry->name),
                                        "dir", cli_json_text(entry->dir), "origin", app_model_origin_name(entry->origin), "repo",
                                        entry->repo, "commit", entry->commit, "bytes", (json_int_t)entry->n_bytes, "complete",
                                        entry->n_missing == 0 && entry->n_left_out == 0, "missing_files",
                                        (json_int_t)entry->n_missing, "left_out_files", (json_int_t)entry->n_left_out));
    }
    return json_pack("{s:o, s:o}", "folder", folder ? cli_json_text(folder) : json_null(), "models", models);
}

static void print_entry(const app_model_entry *entry, int width) {
    char size[APP_SHOWN_SIZE];
    int length = (int)strlen(entry->name);
    app_print_clean(stdout, entry->name);
    printf("%*s  %-7s  %10s  ", width > length ? width - length : 0, "", app_model_origin_name(entry->origin),
           app_show_bytes(size, entry->n_bytes));
    app_print_clean(stdout, entry->dir);
    putchar('\n');
    if (entry->n_missing > 0)
        printf("%*s  not complete: %zu files are missing; inkstone pull %s goes on\n", width, "", entry->n_missing, entry->repo);
    if (entry->n_left_out > 0) printf("%*s  in part: %zu files were left out by --only\n", width, "", entry->n_left_out);
}

static int print_list(const app_model_list *list, const char *folder) {
    int width = 0;
    for (size_t i = 0; i < list->n_entries; i++) {
        int length = (int)strlen(list->entries[i].name);
        width = length > width ? length : width;
    }
    for (size_t i = 0; i < list->n_entries; i++) print_entry(&list->entries[i], width);
    if (list->n_entries == 0) {
        fputs("no models; inkstone pull Qwen/Qwen-Image-2512 loads one into ", stdout);
        app_print_clean(stdout, folder ? folder : "the folder that INK_MODELS names");
        putchar('\n');
    }
    return cli_finish_output(CLI_DONE);
}

int cli_models(const cli_options *options) {
    ink_error error = {0};
    app_model_list list;
    char *folder = app_models_folder();
    bool json = options->given[CLI_JSON] != NULL;
    int exit_status;
    if (app_model_list_find(&list, &error) != INK_OK)
        exit_status = cli_report_error(json, &error);
    else
        exit_status = json ? cli_print_json(list_to_json(&list, folder)) : print_list(&list, folder);
    app_model_list_clear(&list);
    free(folder);
    return exit_status;
}
