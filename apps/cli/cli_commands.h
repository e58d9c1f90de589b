/* cli_commands.h - the commands, their help, and what they share: notes, errors, a model with a session, progress. */
#ifndef APP_CLI_CLI_COMMANDS_H
#define APP_CLI_CLI_COMMANDS_H

#include <jansson.h>

#include "cli/cli_options.h"
#include "common/progress.h"

/* Exit statuses; a run that a signal ended leaves with 128 + its number. */
enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_MISUSED = 2 };

int cli_generate(const cli_options *options);
int cli_tokenize(const cli_options *options);
int cli_inspect(const cli_options *options);
int cli_verify(const cli_options *options);
int cli_quantize(const cli_options *options);
int cli_plan(const cli_options *options);
int cli_bench(const cli_options *options);
int cli_pull(const cli_options *options);
int cli_models(const cli_options *options);

/* ---- help ---- */

/* All commands, the first being the one that needs no name; ended by an entry without a name. */
extern const cli_command cli_command_table[];

const cli_command *cli_find_command(const char *name);
void cli_print_overview(FILE *out);
void cli_print_help(FILE *out, const cli_command *command);
void cli_print_environment(FILE *out);

/* ---- what commands say ---- */

/* A line on standard error, unless -q. */
void cli_note(const cli_options *options, const char *format, ...) APP_PRINTF(2, 3);

/*
 * Prints the sentence on standard error, and with --json as {"error": ...} on standard output too. Returns the exit status
 * that fits: 2 for a request that makes no sense, 128 + signal after an interruption, else 1.
 */
int cli_report_error(bool json, const ink_error *error);

/* The same for a run that a signal ended and that left something behind, which the sentence names. */
int cli_report_interruption(bool json, const char *sentence);

/* Prints one line of JSON on standard output and releases it; root may be NULL for want of memory. Returns the exit status. */
int cli_print_json(json_t *root);

/* The exit status of a command that has printed its result: what could not be written is a failure. */
int cli_finish_output(int exit_status);

/* A JSON string of text that may not be UTF-8, such as a path. NULL when memory is out. */
json_t *cli_json_text(const char *text);

/* What stands on standard input, without one last line feed. *text is released with free. Errors: IO, ARGUMENT, MEMORY. */
ink_status cli_read_stdin(char **text, ink_error *error);

/* ---- a model and a session ---- */

typedef struct cli_engine {
    char *dir;
    ink_model *model;
    ink_session *session;
    app_progress progress;
} cli_engine;

/*
 * Where the model is: *dir for the library, NULL when files were named and no -m; *shown for people, released with free. Fills the
 * files and the folder of *model_options from the options. fallback: as below.
 */
ink_status cli_find_model(char **shown, const char **dir, ink_model_options *model_options, const cli_options *options,
                          const char *fallback, ink_error *error);

/* Opens the model that -m names, or else fallback (may be NULL), or else the default. Precision: --precision, or else precision. */
ink_status cli_open_model(cli_engine *engine, const cli_options *options, const char *fallback, ink_precision precision,
                          ink_error *error);

/*
 * Says why a session that could have taken a GPU has taken none, where that is of interest: an option speaks of it, or the machine
 * seems to have one.
 */
void cli_note_processor(const cli_options *options, const ink_session *session);

/* Creates the session, with that note, and lets Ctrl-C stop it. cpu may be NULL. */
ink_status cli_open_session(cli_engine *engine, const cli_options *options, const char *cpu, ink_error *error);

/*
 * What of a plan for a GPU comes and goes: ", 42 of 60 blocks come and go: 18.9 GiB to the GPU at each step, 18.9 GiB of the host's
 * memory"; "" when all stays. Returns text.
 */
enum { CLI_STREAMED_SIZE = 240 };
const char *cli_say_streamed(char text[CLI_STREAMED_SIZE], const ink_memory_plan *plan);

/* Accepts a zeroed engine. */
void cli_close_engine(cli_engine *engine);

/* The ink_progress_fn of all commands; user is the cli_engine. */
int cli_show_progress(void *user, const ink_progress *state);

/* The app_image_progress_fn of all commands; user is the cli_engine. */
int cli_show_writing(void *user, int64_t done, int64_t total);

#endif
