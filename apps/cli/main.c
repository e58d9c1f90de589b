/* main.c - picks the command. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli_commands.h"
#include "common/interrupt.h"

/*
 * A file that is opened while one of the standard streams is closed would become that stream, and get all that is said there. In
 * its place there is one that cannot be used either way.
 */
static void keep_standard_streams(void) {
    for (int i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) == -1) (void)!open("/dev/null", i == 0 ? O_WRONLY : O_RDONLY);
}

/* Looked for before anything is parsed, so that a mistake in the other options is reported as JSON too. */
static bool has_json(int n, char *const *arguments) {
    for (int i = 0; i < n && strcmp(arguments[i], "--") != 0; i++)
        if (strcmp(arguments[i], "--json") == 0) return true;
    return false;
}

static int refuse_command(const char *typed, bool json) {
    ink_error error;
    const char *names[16] = {"help"};
    size_t n = 1;
    for (const cli_command *command = cli_command_table; command->name && n + 1 < sizeof names / sizeof *names; command++)
        names[n++] = command->name;
    const char *nearest = cli_nearest_name(typed, names);
    if (nearest)
        app_fail(&error, INK_ERROR_ARGUMENT, "unknown command \"%.60s\"; did you mean %s?", typed, nearest);
    else
        app_fail(&error, INK_ERROR_ARGUMENT, "unknown command \"%.60s\"; to draw it: inkstone -p \"%.60s\"", typed, typed);
    return cli_report_error(json, &error);
}

static int run_help(int n, char *const *arguments, bool json) {
    while (n > 0 && (arguments[0][0] == '-' || strcmp(arguments[0], "help") == 0)) n--, arguments++;
    const cli_command *command = n > 0 ? cli_find_command(arguments[0]) : NULL;
    if (n > 0 && !command) return refuse_command(arguments[0], json);
    if (command)
        cli_print_help(stdout, command);
    else
        cli_print_overview(stdout);
    return cli_finish_output(CLI_DONE);
}

/* "inkstone --help" shows what there is; "inkstone generate --help" explains the one command. */
static int answer(const cli_options *options, bool named) {
    if (options->given[CLI_VERSION])
        printf("inkstone %s\n", ink_version());
    else if (options->given[CLI_HELP_ENV])
        cli_print_environment(stdout);
    else if (named)
        cli_print_help(stdout, options->command);
    else
        cli_print_overview(stdout);
    return cli_finish_output(CLI_DONE);
}

int main(int n_arguments, char **arguments) {
    cli_options options;
    ink_error error = {0};
    keep_standard_streams();
    bool json = has_json(n_arguments, arguments), named = n_arguments > 1 && arguments[1][0] != '-';
    if (n_arguments < 2) {
        fputs("inkstone draws pictures from text. Try:\n\n    inkstone -p \"a red circle on a blue background\"\n\n"
              "inkstone --help tells more.\n",
              stderr);
        return CLI_MISUSED;
    }
    if (named && strcmp(arguments[1], "help") == 0) return run_help(n_arguments - 2, arguments + 2, json);
    const cli_command *command = named ? cli_find_command(arguments[1]) : cli_command_table;
    if (!command) return refuse_command(arguments[1], json);
    int first = named ? 2 : 1;
    if (cli_options_parse(&options, command, n_arguments - first, arguments + first, &error) != INK_OK) {
        int exit_status = cli_report_error(json, &error);
        fprintf(stderr, "inkstone help %s explains the options.\n", command->name);
        return exit_status;
    }
    if (options.given[CLI_HELP] || options.given[CLI_VERSION] || options.given[CLI_HELP_ENV]) return answer(&options, named);
    app_interrupt_install();
    return command->run(&options);
}
