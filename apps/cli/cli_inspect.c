/* cli_inspect.c - inkstone inspect: what a model folder holds, and what it lacks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/text_format.h"

enum { MOST_NAMES = 10 }; /* of each list; --json has them all */

static bool usable(const ink_report *report) {
    for (size_t i = 0; i < report->n_components; i++)
        if (report->components[i].n_missing > 0 || report->components[i].problem) return false;
    return true;
}

static json_t *names_to_json(const char *const *names, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, cli_json_text(names[i]));
    return list;
}

static json_t *component_to_json(const ink_component_report *part) {
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "name", cli_json_text(part->name), "class",
        cli_json_text(part->class_name), "dtypes", cli_json_text(part->dtypes), "path", cli_json_text(part->path), "container",
        cli_json_text(part->container), "runs", cli_json_text(part->runs), "files", (json_int_t)part->n_files, "tensors",
        (json_int_t)part->n_tensors, "parameters", (json_int_t)part->n_parameters, "bytes", (json_int_t)part->n_bytes, "missing",
        names_to_json(part->missing, part->n_missing), "unexpected", names_to_json(part->unexpected, part->n_unexpected), "problem",
        part->problem ? cli_json_text(part->problem) : json_null());
}

static json_t *report_to_json(const ink_report *report, const char *dir) {
    json_t *parts = json_array();
    for (size_t i = 0; i < report->n_components; i++) json_array_append_new(parts, component_to_json(&report->components[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:b}", "dir", cli_json_text(dir), "class", cli_json_text(report->class_name),
                     "components", parts, "notes", names_to_json(report->notes, report->n_notes), "usable", (int)usable(report));
}

/* Pads by hand: names come from files, and printf's width would count bytes of what app_print_clean changes. */
static void print_column(const char *text, size_t width) {
    size_t length = strlen(text);
    app_print_clean(stdout, text);
    for (; length < width + 2; length++) putchar(' ');
}

static size_t widest(const ink_report *report, const char *title, const char *(*column)(const ink_component_report *part)) {
    size_t width = strlen(title);
    for (size_t i = 0; i < report->n_components; i++) {
        size_t length = strlen(column(&report->components[i]));
        if (length > width) width = length;
    }
    return width;
}

static const char *name_of(const ink_component_report *part) { return part->name; }
static const char *class_of(const ink_component_report *part) { return part->class_name; }
static const char *dtypes_of(const ink_component_report *part) { return *part->dtypes ? part->dtypes : "-"; }

static void print_row(const ink_component_report *part, const size_t widths[3]) {
    char size[APP_SHOWN_SIZE];
    print_column(part->name, widths[0]);
    print_column(part->class_name, widths[1]);
    print_column(dtypes_of(part), widths[2]);
    printf("%5" PRId64 "  %7" PRId64 "  %12" PRId64 "  %13" PRId64 "  %10s\n", part->n_files, part->n_tensors, part->n_parameters,
           part->n_bytes, app_show_bytes(size, part->n_bytes));
}

static void print_names(const ink_component_report *part, const char *what, const char *const *names, size_t n) {
    if (n == 0) return;
    printf("\n%s: %zu %s tensor%s:\n", part->name, n, what, n == 1 ? "" : "s");
    for (size_t i = 0; i < n && i < MOST_NAMES; i++) {
        fputs("  ", stdout);
        app_print_clean(stdout, names[i]);
        putchar('\n');
    }
    if (n > MOST_NAMES) printf("  ... and %zu more (--json lists all)\n", n - MOST_NAMES);
}

/* Where each part lies and how it will run, and what was chosen. */
static void print_places(const ink_report *report, size_t width) {
    putchar('\n');
    for (size_t i = 0; i < report->n_components; i++) {
        const ink_component_report *part = &report->components[i];
        if (!*part->path) continue;
        print_column(part->name, width);
        app_print_clean(stdout, part->path);
        if (*part->container) printf(" (%s): ", part->container);
        app_print_clean(stdout, part->runs);
        putchar('\n');
    }
    for (size_t i = 0; i < report->n_notes; i++) {
        fputs("\nnote: ", stdout);
        app_print_clean(stdout, report->notes[i]);
        putchar('\n');
    }
}

static void print_report(const ink_report *report, const char *dir) {
    int64_t n_parameters = 0, n_bytes = 0, n_files = 0, n_tensors = 0;
    const size_t widths[3] = {widest(report, "component", name_of), widest(report, "class", class_of),
                              widest(report, "dtypes", dtypes_of)};
    app_print_clean(stdout, report->class_name);
    fputs(" in ", stdout);
    app_print_clean(stdout, dir);
    fputs("\n\n", stdout);
    print_column("component", widths[0]);
    print_column("class", widths[1]);
    print_column("dtypes", widths[2]);
    puts("files  tensors    parameters          bytes        size");
    for (size_t i = 0; i < report->n_components; i++) {
        const ink_component_report *part = &report->components[i];
        print_row(part, widths);
        n_files += part->n_files;
        n_tensors += part->n_tensors;
        n_parameters += part->n_parameters;
        n_bytes += part->n_bytes;
    }
    print_row(&(ink_component_report){.name = "total",
                                      .class_name = "",
                                      .dtypes = " ",
                                      .n_files = n_files,
                                      .n_tensors = n_tensors,
                                      .n_parameters = n_parameters,
                                      .n_bytes = n_bytes},
              widths);
    print_places(report, widths[0]);
    for (size_t i = 0; i < report->n_components; i++) {
        const ink_component_report *part = &report->components[i];
        print_names(part, "missing", part->missing, part->n_missing);
        print_names(part, "unexpected", part->unexpected, part->n_unexpected);
        if (!part->problem) continue;
        printf("\n%s cannot be used: ", part->name);
        app_print_clean(stdout, part->problem);
        putchar('\n');
    }
}

int cli_inspect(const cli_options *options) {
    ink_error error = {0};
    char *shown = NULL;
    const char *dir;
    ink_model_options model_options = {.precision = INK_PRECISION_AUTO};
    ink_report *report = NULL;
    int exit_status;
    ink_status status = cli_find_model(&shown, &dir, &model_options, options, NULL, &error);
    if (status == INK_OK) status = ink_inspect(&report, dir, &model_options, &error);
    if (status != INK_OK) {
        exit_status = cli_report_error(options->given[CLI_JSON] != NULL, &error);
    } else {
        if (options->given[CLI_JSON])
            exit_status = cli_print_json(report_to_json(report, shown));
        else
            print_report(report, shown), exit_status = cli_finish_output(CLI_DONE);
        if (exit_status == CLI_DONE && !usable(report)) exit_status = CLI_FAILED;
    }
    ink_report_destroy(&report);
    free(shown);
    return exit_status;
}
