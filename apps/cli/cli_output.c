/* cli_output.c - what all commands do alike: notes, errors, JSON, standard input, a model with a session. */
#include "cli/cli_commands.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/interrupt.h"
#include "common/model_path.h"
#include "common/text_format.h"

void cli_note(const cli_options *options, const char *format, ...) {
    char line[1400];
    va_list arguments;
    if (options->given[CLI_QUIET]) return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    app_print_clean(stderr, line);
    fputc('\n', stderr);
}

json_t *cli_json_text(const char *text) {
    char *valid = app_valid_utf8(text);
    json_t *value = valid ? json_string(valid) : NULL;
    free(valid);
    return value;
}

int cli_print_json(json_t *root) {
    char *line = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!line) {
        fputs("inkstone: not enough memory for the result\n", stderr);
        return CLI_FAILED;
    }
    puts(line);
    free(line);
    return cli_finish_output(CLI_DONE);
}

int cli_finish_output(int exit_status) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return exit_status;
    fprintf(stderr, "inkstone: cannot write the result: %s\n", strerror(errno));
    return CLI_FAILED;
}

static void print_error(bool json, ink_status status, const char *sentence) {
    char message[sizeof((ink_error *)NULL)->message];
    snprintf(message, sizeof message, "%s", sentence);
    /* One line, whatever was quoted in it. */
    for (char *c = message; *c; c++)
        if (*c == '\n') *c = ' ';
    fputs(app_colour_allowed(stderr) ? "\033[1minkstone:\033[0m " : "inkstone: ", stderr);
    app_print_clean(stderr, message);
    fputc('\n', stderr);
    if (json)
        cli_print_json(json_pack("{s:{s:s, s:o}}", "error", "status", ink_status_name(status), "message", cli_json_text(message)));
}

int cli_report_interruption(bool json, const char *sentence) {
    int caught = app_interrupt_caught();
    print_error(json, INK_ERROR_CANCELLED, sentence);
    return caught ? 128 + caught : CLI_FAILED;
}

int cli_report_error(bool json, const ink_error *error) {
    if (error->status == INK_ERROR_CANCELLED) return cli_report_interruption(json, "interrupted; nothing was written");
    print_error(json, error->status, error->message);
    return error->status == INK_ERROR_ARGUMENT ? CLI_MISUSED : CLI_FAILED;
}

ink_status cli_read_stdin(char **text, ink_error *error) {
    enum { MOST = 1 << 20 };
    *text = NULL;
    char *bytes = malloc(MOST + 1);
    if (!bytes) return app_fail_memory(error, "the prompt");
    errno = 0;
    size_t n = fread(bytes, 1, MOST + 1, stdin);
    ink_status status = INK_OK;
    if (app_interrupt_caught())
        status = app_fail(error, INK_ERROR_CANCELLED, "interrupted");
    else if (ferror(stdin))
        status = app_fail(error, INK_ERROR_IO, "cannot read standard input: %s", strerror(errno));
    else if (n > MOST)
        status = app_fail(error, INK_ERROR_ARGUMENT, "the text on standard input is longer than 1 MiB");
    else if (memchr(bytes, 0, n))
        status = app_fail(error, INK_ERROR_ARGUMENT, "the text on standard input holds a zero byte; is it a text?");
    if (status != INK_OK) {
        free(bytes);
        return status;
    }
    if (n > 0 && bytes[n - 1] == '\n') n--;
    bytes[n] = 0;
    *text = bytes;
    return INK_OK;
}

ink_status cli_find_model(char **shown, const char **dir, ink_model_options *model_options, const cli_options *options,
                          const char *fallback, ink_error *error) {
    const char *const *given = options->given;
    model_options->transformer_file = given[CLI_DIFFUSION_MODEL];
    model_options->text_encoder_file = given[CLI_TEXT_ENCODER];
    model_options->vae_file = given[CLI_VAE];
    model_options->tokenizer_dir = given[CLI_TOKENIZER];
    *dir = NULL;
    const char *named = given[CLI_MODEL] ? given[CLI_MODEL] : fallback, *variable = getenv("INK_MODEL");
    const char *file = given[CLI_DIFFUSION_MODEL] ? given[CLI_DIFFUSION_MODEL]
                       : given[CLI_TEXT_ENCODER]  ? given[CLI_TEXT_ENCODER]
                                                  : given[CLI_VAE];
    /* The demo model has nothing to add to another one's files. A record of files alone names the first of them as its model. */
    bool alone = named ? file && strcmp(named, file) == 0 : !(variable && *variable);
    if (file && alone) {
        *shown = app_format("%s", file);
        return *shown ? INK_OK : app_fail_memory(error, "a file name");
    }
    ink_status status = app_model_path(shown, named, error);
    if (status == INK_OK) *dir = *shown;
    return status;
}

ink_status cli_open_model(cli_engine *engine, const cli_options *options, const char *fallback, ink_precision precision,
                          ink_error *error) {
    ink_model_options model_options = {.precision = options->given[CLI_PRECISION] ? options->precision : precision};
    const char *dir;
    model_options.backend = options->given[CLI_BACKEND] ? options->given[CLI_BACKEND] : options->given[CLI_CPU] ? NULL : "auto";
    ink_status status = cli_find_model(&engine->dir, &dir, &model_options, options, fallback, error);
    if (status == INK_OK) status = ink_model_open(&engine->model, dir, &model_options, error);
    for (size_t i = 0; status == INK_OK && ink_model_note(engine->model, i); i++)
        cli_note(options, "note: %s", ink_model_note(engine->model, i));
    return status;
}

/* Or a driver for one, at least: files of NVIDIA's driver, and the device of Windows' subsystem. */
static bool has_nvidia_gpu(void) { return access("/proc/driver/nvidia/version", F_OK) == 0 || access("/dev/dxg", F_OK) == 0; }

void cli_note_processor(const cli_options *options, const ink_session *session) {
    const char *why = ink_session_no_gpu(session);
    if (why && (options->given[CLI_BACKEND] || options->given[CLI_VRAM_BUDGET] || has_nvidia_gpu()))
        cli_note(options, "note: the processor is used, and no GPU: %s", why);
}

ink_status cli_open_session(cli_engine *engine, const cli_options *options, const char *cpu, ink_error *error) {
    ink_session_options session_options = {.threads = options->threads, .cpu = cpu, .backend = options->given[CLI_BACKEND]};
    ink_status status = ink_session_create(&engine->session, engine->model, &session_options, error);
    if (status != INK_OK) return status;
    cli_note_processor(options, engine->session);
    app_interrupt_watch(engine->session);
    app_progress_begin(&engine->progress, stderr, options->given[CLI_QUIET] != NULL);
    return INK_OK;
}

const char *cli_say_streamed(char text[CLI_STREAMED_SIZE], const ink_memory_plan *plan) {
    char bytes[APP_SHOWN_SIZE], host[APP_SHOWN_SIZE], layers[100] = "", blocks[100] = "";
    text[0] = 0;
    if (plan->streamed_text_layers > 0)
        snprintf(layers, sizeof layers, ", %" PRId64 " of %" PRId64 " layers of the text encoder come and go",
                 plan->streamed_text_layers, plan->text_layers);
    if (plan->streamed_blocks > 0)
        snprintf(blocks, sizeof blocks, ", %" PRId64 " of %" PRId64 " blocks come and go: %s to the GPU at each step",
                 plan->streamed_blocks, plan->blocks, app_show_bytes(bytes, plan->streamed_bytes));
    if (plan->gpu_host_bytes > 0)
        snprintf(text, CLI_STREAMED_SIZE, "%s%s, %s of the host's memory", layers, blocks,
                 app_show_bytes(host, plan->gpu_host_bytes));
    return text;
}

void cli_close_engine(cli_engine *engine) {
    app_interrupt_watch(NULL);
    ink_session_destroy(&engine->session);
    ink_model_close(&engine->model);
    free(engine->dir);
    engine->dir = NULL;
}

int cli_show_progress(void *user, const ink_progress *state) {
    cli_engine *engine = user;
    app_progress_update(&engine->progress, state);
    return app_interrupt_caught() != 0;
}

int cli_show_writing(void *user, int64_t done, int64_t total) {
    cli_engine *engine = user;
    app_progress_write(&engine->progress, done, total);
    return app_interrupt_caught() != 0;
}
