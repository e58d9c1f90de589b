/*
 * cli_options.h - the options of all commands: one table, one parser, one struct. A command lists the options it takes;
 * what an option does with its value is said once.
 */
#ifndef APP_CLI_CLI_OPTIONS_H
#define APP_CLI_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/failure.h"

typedef enum cli_option_id {
    CLI_MODEL = 0,
    CLI_DIFFUSION_MODEL,
    CLI_TEXT_ENCODER,
    CLI_VAE,
    CLI_TOKENIZER,
    CLI_PROMPT,
    CLI_NEGATIVE,
    CLI_NO_NEGATIVE,
    CLI_OUTPUT,
    CLI_WIDTH,
    CLI_HEIGHT,
    CLI_STEPS,
    CLI_GUIDANCE,
    CLI_SEED,
    CLI_AGAIN,
    CLI_LORA,
    CLI_NO_LORA,
    CLI_LORA_MERGE,
    CLI_PRESET,
    CLI_RNG,
    CLI_NOISE_DTYPE,
    CLI_PRECISION,
    CLI_RAM_BUDGET,
    CLI_BACKEND,
    CLI_VRAM_BUDGET,
    CLI_THREADS,
    CLI_CPU,
    CLI_DUMP,
    CLI_NO_METADATA,
    CLI_STDIN,
    CLI_REVISION,
    CLI_ONLY,
    CLI_JOBS,
    CLI_TRIES,
    CLI_TIMEOUT,
    CLI_DRY_RUN,
    CLI_FOLDER,
    CLI_KEEP,
    CLI_CALIBRATE,
    CLI_SYNTHETIC,
    CLI_SIZE,
    CLI_PRECISIONS,
    CLI_BATCH,
    CLI_TEXT_TOKENS,
    CLI_REPEAT,
    CLI_PHASES,
    CLI_PICTURE,
    CLI_JSON,
    CLI_QUIET,
    CLI_HELP,
    CLI_VERSION,
    CLI_HELP_ENV,
    CLI_N_OPTIONS
} cli_option_id;

typedef struct cli_option {
    char letter;          /* 0: none */
    const char *name;     /* without the dashes */
    const char *argument; /* as help shows it; NULL: the option takes none */
    const char *help;     /* lines parted by '\n' */
} cli_option;

struct cli_options;

typedef struct cli_command {
    const char *name;
    const char *summary;     /* one line */
    const char *usage;       /* after "Usage: " */
    const char *explanation; /* teaching text */
    const char *examples;
    const cli_option_id *options; /* in the order of the help, ended by CLI_N_OPTIONS */
    const char *operand;          /* name of the one argument without a dash, or NULL */
    int (*run)(const struct cli_options *options);
} cli_command;

enum { CLI_MAX_LORAS = 16 };

/* FILE[:SCALE]: the first n_path bytes of what was typed, borrowed. */
typedef struct cli_lora {
    const char *typed;
    size_t n_path;
    double scale;
} cli_lora;

enum { CLI_MOST_PATTERNS = 64, CLI_MOST_SIZES = 32, CLI_MOST_PRECISIONS = 16 };

typedef struct cli_options {
    const cli_command *command;
    const char *given[CLI_N_OPTIONS]; /* the value as typed, "" for an option without one; NULL: not given */
    const char *operand;              /* NULL: not given */
    ink_request request;              /* prompt .. noise_dtype, as far as given */
    ink_precision precision;
    int64_t threads;
    cli_lora loras[CLI_MAX_LORAS];
    size_t n_loras;
    bool random_seed;                    /* -S random */
    const char *keep[CLI_MOST_PATTERNS]; /* as typed: PATTERN=bf16 */
    size_t n_keep;
    ink_calibration calibration;
    int64_t jobs, tries, timeout_seconds; /* 0: not given */
    ink_bench_size sizes[CLI_MOST_SIZES];
    size_t n_sizes;
    ink_precision precisions[CLI_MOST_PRECISIONS];
    size_t n_precisions;
    int64_t batch, text_tokens, repeat; /* 0: not given */
    unsigned phases;                    /* INK_BENCH_..., 0: not given */
} cli_options;

extern const cli_option cli_option_table[CLI_N_OPTIONS];

/*
 * Reads arguments[0..n) for a command. Strings are borrowed. Errors: ARGUMENT. --help and its kin end the parsing at once
 * and succeed, whatever else is wrong.
 */
ink_status cli_options_parse(cli_options *options, const cli_command *command, int n, char *const *arguments, ink_error *error);

/* Copies the value of one given option into a request; nothing for an option that is no part of it. */
void cli_options_apply(const cli_options *options, cli_option_id id, ink_request *request);

/* "-W" or "--threads": as short as it goes. Returns text. */
char *cli_option_show(char text[32], cli_option_id id);

/* The name nearest to a mistyped one, or NULL when none is near. names ends with NULL. */
const char *cli_nearest_name(const char *typed, const char *const *names);

#endif
