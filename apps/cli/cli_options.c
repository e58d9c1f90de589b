/* cli_options.c - the table of options and the parser. */
#include "cli/cli_options.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli/cli_commands.h"
#include "common/request_json.h"
#include "common/text_format.h"

const cli_option cli_option_table[CLI_N_OPTIONS] = {
    [CLI_MODEL] = {'m', "model", "DIR",
                   "folder of the model, in the published layout, or a\n"
                   "name that \"inkstone models\" lists (default:\n"
                   "$INK_MODEL, else the demo model that is shipped)"},
    [CLI_DIFFUSION_MODEL] = {0, "diffusion-model", "FILE",
                             "transformer from this file, safetensors or GGUF; with\n"
                             "the next three no -m is needed"},
    [CLI_TEXT_ENCODER] = {0, "text-encoder", "FILE", "text encoder from this file"},
    [CLI_VAE] = {0, "vae", "FILE", "VAE from this file"},
    [CLI_TOKENIZER] = {0, "tokenizer", "DIR",
                       "folder of vocab.json and merges.txt, or tokenizer.json\n"
                       "(default: the model's, or a GGUF text encoder's own)"},
    [CLI_PROMPT] = {'p', "prompt", "TEXT", "what to draw; - reads it from standard input"},
    [CLI_NEGATIVE] = {'n', "negative", "TEXT", "what to keep away from, with guidance above 1"},
    [CLI_NO_NEGATIVE] = {0, "no-negative", NULL, "drop the negative prompt of the model's defaults"},
    [CLI_OUTPUT] = {'o', "output", "FILE",
                    "picture to write over or anew: .png, .jpg or .webp\n"
                    "(default: a new name from the prompt and the seed)"},
    [CLI_WIDTH] = {'W', "width", "PIXELS", "width, a multiple of 16"},
    [CLI_HEIGHT] = {'H', "height", "PIXELS", "height, a multiple of 16"},
    [CLI_STEPS] = {'s', "steps", "COUNT", "denoising steps: more take longer and draw finer"},
    [CLI_GUIDANCE] = {'g', "guidance", "SCALE",
                      "how hard to pull towards the prompt; 1 turns guidance\n"
                      "off and takes half the time"},
    [CLI_SEED] = {'S', "seed", "NUMBER",
                  "picks one picture out of all that fit the prompt\n"
                  "(default: random, and printed)"},
    [CLI_AGAIN] = {0, "again", "FILE.png",
                   "draw the picture in this file once more, as recorded\n"
                   "in it; options beside it change single values"},
    [CLI_LORA] = {0, "lora", "FILE[:SCALE]",
                  "draw with a LoRA, a file or a folder of PEFT; may be\n"
                  "given more than once"},
    [CLI_NO_LORA] = {0, "no-lora", NULL, "drop the LoRA of the picture that --again repeats"},
    [CLI_LORA_MERGE] = {0, "lora-merge", NULL,
                        "add LoRA to the weights (f32 or 16 bits) instead of\n"
                        "beside them: longer to load, no longer to draw"},
    [CLI_PRESET] = {0, "preset", "NAME",
                    "steps, guidance and schedule of a distilled LoRA:\n"
                    "lightning-4 or lightning-8; options beside it win"},
    [CLI_RNG] = {0, "rng", "NAME",
                 "whose random numbers: torch-cpu, torch-cpu-2.13, or\n"
                 "of a GPU torch-cuda[:SMs[xTHREADS]] (132: an H100)"},
    [CLI_NOISE_DTYPE] = {0, "noise-dtype", "TYPE", "f32, bf16 or auto: type of the noise to start from"},
    [CLI_PRECISION] = {0, "precision", "TYPE",
                       "type of the weights: f32, bf16, or smaller and coarser\n"
                       "fp8, q8, q4, int8 (default: auto, as stored; of\n"
                       "verify: f32; quantize wants to be told)"},
    [CLI_RAM_BUDGET] = {0, "ram-budget", "SIZE",
                        "memory to keep within, such as 8G or 500M: what does\n"
                        "not fit is read from the files again at each step"},
    [CLI_BACKEND] = {0, "backend", "NAME",
                     "where to compute: cpu, cuda, cuda:N for one of several\n"
                     "GPUs, or auto: a GPU if one can be used (default)"},
    [CLI_VRAM_BUDGET] = {0, "vram-budget", "SIZE",
                         "the most of the GPU's memory to use, such as 12G: what\n"
                         "does not fit comes from the host's at each step"},
    [CLI_THREADS] = {'t', "threads", "COUNT", "threads to use (default: one per core)"},
    [CLI_CPU] = {0, "cpu", "TIER", "instruction set: ref, c, avx2, amx ... (default: best)"},
    [CLI_DUMP] = {0, "dump", "FILE", "also write every stage of the run (safetensors)"},
    [CLI_NO_METADATA] = {0, "no-metadata", NULL, "do not record prompt and settings in the picture"},
    [CLI_STDIN] = {0, "stdin", NULL, "read standard input, less one last line feed"},
    [CLI_REVISION] = {0, "revision", "NAME", "branch, tag or commit to load (default: main)"},
    [CLI_ONLY] = {0, "only", "PATTERN",
                  "of the files that are needed those whose path or name\n"
                  "matches, such as \"vae/*\" or \"*.json\""},
    [CLI_JOBS] = {'j', "jobs", "COUNT", "files to load at a time (default: 4)"},
    [CLI_TRIES] = {0, "tries", "COUNT", "attempts in a row that may bring nothing (default: 8)"},
    [CLI_TIMEOUT] = {0, "timeout", "SECONDS", "silence after which a connection is given up\n(default: 30)"},
    [CLI_DRY_RUN] = {0, "dry-run", NULL, "list what would be loaded, and load nothing"},
    [CLI_FOLDER] = {'o', "output", "DIR", "new folder to write the model to"},
    [CLI_KEEP] = {0, "keep", "PATTERN=bf16",
                  "leave matrices in 16 bits whose name matches, such as\n"
                  "\"*.attn.*=bf16\"; may be given more than once"},
    [CLI_CALIBRATE] = {0, "calibrate", "on|off",
                       "also measure what the layers give, on a short run\n"
                       "(default: on for models below 2 GB)"},
    [CLI_SYNTHETIC] = {0, "synthetic", "NAME[:BLOCKS]",
                       "random weights of the sizes of qwen-image, all of its\n"
                       "blocks or some; tiny takes no time"},
    [CLI_SIZE] = {0, "size", "WxH",
                  "size of the picture, such as 1024x768; may be given\n"
                  "more than once (default: 512x512 and 1024x1024)"},
    [CLI_PRECISIONS] = {0, "precision", "TYPE[,TYPE]",
                        "f32, bf16, fp8, q8, q4, int8: one, or several that are\n"
                        "timed in turn (default: bf16)"},
    [CLI_BATCH] = {0, "batch", "COUNT", "passes in a step: 2, as with guidance, or 1 (default: 2)"},
    [CLI_TEXT_TOKENS] = {0, "text-tokens", "COUNT", "length of each prompt (default: 34)"},
    [CLI_REPEAT] = {0, "repeat", "COUNT", "runs of each phase (default: 3)"},
    [CLI_PHASES] = {0, "phases", "NAME[,NAME]",
                    "text, modulation, denoise, decode: what is timed\n"
                    "(default: all)"},
    [CLI_PICTURE] = {0, "picture", NULL, "draw whole pictures instead of repeating phases"},
    [CLI_JSON] = {0, "json", NULL, "print the result as one line of JSON"},
    [CLI_QUIET] = {'q', "quiet", NULL, "print nothing but errors"},
    [CLI_HELP] = {'h', "help", NULL, "explain this command"},
    [CLI_VERSION] = {0, "version", NULL, "print the version"},
    [CLI_HELP_ENV] = {0, "help-env", NULL, "list the environment variables"},
};

char *cli_option_show(char text[32], cli_option_id id) {
    const cli_option *option = &cli_option_table[id];
    if (option->letter)
        snprintf(text, 32, "-%c", option->letter);
    else
        snprintf(text, 32, "--%s", option->name);
    return text;
}

/* ---- mistyped names ---- */

/* Insertions, deletions and replacements that turn one word into the other; long words count as far apart. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 24 };
    int n_a = (int)strlen(a), n_b = (int)strlen(b), row[LONGEST + 1];
    if (n_a > LONGEST || n_b > LONGEST) return LONGEST;
    for (int j = 0; j <= n_b; j++) row[j] = j;
    for (int i = 1; i <= n_a; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]), least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = replace < least ? replace : least;
        }
    }
    return row[n_b];
}

const char *cli_nearest_name(const char *typed, const char *const *names) {
    const char *nearest = NULL;
    int best = 3; /* more than two slips are another word */
    for (; *names; names++) {
        int distance = edit_distance(typed, *names);
        if (distance < best && distance < (int)strlen(typed)) {
            best = distance;
            nearest = *names;
        }
    }
    return nearest;
}

/* ---- values ---- */

static ink_status refuse_value(cli_option_id id, const char *value, const char *expected, ink_error *error) {
    char option[32];
    return app_fail(error, INK_ERROR_ARGUMENT, "%s %.60s: expected %s", cli_option_show(option, id), value, expected);
}

/* The library knows which numbers make sense for a model; here only what is no number is refused. */
static ink_status store_int(cli_option_id id, const char *value, int64_t *number, ink_error *error) {
    return app_parse_int(value, number) ? INK_OK : refuse_value(id, value, "a whole number, such as 512", error);
}

static ink_status store_seed(cli_options *options, const char *value, ink_error *error) {
    options->random_seed = strcmp(value, "random") == 0;
    if (options->random_seed || app_parse_uint(value, &options->request.seed)) return INK_OK;
    return refuse_value(CLI_SEED, value, "a whole number from 0 to 18446744073709551615, or random", error);
}

static ink_status store_threads(cli_options *options, const char *value, ink_error *error) {
    if (app_parse_int(value, &options->threads) && options->threads >= 1) return INK_OK;
    return refuse_value(CLI_THREADS, value, "a number of threads, at least 1", error);
}

static ink_status store_budget(cli_option_id id, const char *value, int64_t *budget, ink_error *error) {
    if (app_parse_bytes(value, budget) && *budget > 0) return INK_OK;
    return refuse_value(id, value, "a size such as 8G, 1.5G or 500M", error);
}

static bool is_no_number(const char *text) {
    static const char *const spellings[] = {"nan", "inf", "infinity"};
    text += *text == '-' || *text == '+';
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++)
        if (strcasecmp(text, spellings[i]) == 0) return true;
    return false;
}

/* A path may hold colons: the last one parts it from the scale only if a number follows. */
static ink_status store_lora(cli_options *options, const char *value, ink_error *error) {
    const char *colon = strrchr(value, ':');
    cli_lora lora = {value, strlen(value), 1};
    if (colon && is_no_number(colon + 1)) return refuse_value(CLI_LORA, value, "a scale that is a number", error);
    if (colon && app_parse_real(colon + 1, &lora.scale)) lora.n_path = (size_t)(colon - value);
    if (lora.n_path == 0) return refuse_value(CLI_LORA, *value ? value : "\"\"", "FILE[:SCALE]", error);
    if (options->n_loras == CLI_MAX_LORAS)
        return app_fail(error, INK_ERROR_ARGUMENT, "more than %d LoRA files are given", CLI_MAX_LORAS);
    options->loras[options->n_loras++] = lora;
    return INK_OK;
}

static ink_status store_count(cli_option_id id, const char *value, int64_t most, int64_t *number, ink_error *error) {
    char expected[64];
    if (app_parse_int(value, number) && *number >= 1 && *number <= most) return INK_OK;
    snprintf(expected, sizeof expected, "a whole number from 1 to %" PRId64, most);
    return refuse_value(id, value, expected, error);
}

static ink_status store_pattern(cli_options *options, const char *value, ink_error *error) {
    const char *type = strrchr(value, '=');
    if (!type || type == value || strcmp(type, "=bf16") != 0)
        return refuse_value(CLI_KEEP, value, "PATTERN=bf16, such as \"*.attn.*=bf16\"", error);
    if (options->n_keep == CLI_MOST_PATTERNS) return refuse_value(CLI_KEEP, value, "at most 64 patterns", error);
    options->keep[options->n_keep++] = value;
    return INK_OK;
}

static ink_status store_calibration(cli_options *options, const char *value, ink_error *error) {
    bool on = strcmp(value, "on") == 0;
    if (!on && strcmp(value, "off") != 0) return refuse_value(CLI_CALIBRATE, value, "on or off", error);
    options->calibration = on ? INK_CALIBRATE_ON : INK_CALIBRATE_OFF;
    return INK_OK;
}

static ink_status store_size(cli_options *options, const char *value, ink_error *error) {
    char width[16];
    size_t n = strcspn(value, "x");
    ink_bench_size size;
    snprintf(width, sizeof width, "%.*s", (int)(n < sizeof width ? n : 0), value);
    if (value[n] != 'x' || !app_parse_int(width, &size.width) || !app_parse_int(value + n + 1, &size.height))
        return refuse_value(CLI_SIZE, value, "width and height, such as 1024x768", error);
    if (options->n_sizes == CLI_MOST_SIZES) return refuse_value(CLI_SIZE, value, "at most 32 sizes", error);
    options->sizes[options->n_sizes++] = size;
    return INK_OK;
}

/* Calls store(options, word) for each word between commas; false when a word is empty or is refused. */
static bool for_words(cli_options *options, const char *list, bool (*store)(cli_options *options, const char *word)) {
    for (;;) {
        char word[16];
        size_t n = strcspn(list, ",");
        if (n == 0 || n >= sizeof word) return false;
        snprintf(word, sizeof word, "%.*s", (int)n, list);
        if (!store(options, word)) return false;
        if (!list[n]) return true;
        list += n + 1;
    }
}

static bool store_precision_word(cli_options *options, const char *word) {
    ink_precision precision;
    if (!app_precision_parse(word, &precision) || precision == INK_PRECISION_AUTO) return false;
    if (options->n_precisions == CLI_MOST_PRECISIONS) return false;
    options->precisions[options->n_precisions++] = precision;
    return true;
}

static bool store_phase_word(cli_options *options, const char *word) {
    static const char *const names[] = {"text", "modulation", "denoise", "decode"};
    static const unsigned bits[] = {INK_BENCH_TEXT, INK_BENCH_MODULATION, INK_BENCH_DENOISE, INK_BENCH_DECODE};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(word, names[i]) == 0) {
            options->phases |= bits[i];
            return true;
        }
    return false;
}

static ink_status store_value(cli_options *options, cli_option_id id, const char *value, ink_error *error) {
    ink_request *request = &options->request;
    options->given[id] = value;
    switch (id) {
    case CLI_PROMPT: request->prompt = value; return INK_OK;
    case CLI_NEGATIVE: request->negative_prompt = value; return INK_OK;
    case CLI_WIDTH: return store_int(id, value, &request->width, error);
    case CLI_HEIGHT: return store_int(id, value, &request->height, error);
    case CLI_STEPS: return store_int(id, value, &request->steps, error);
    case CLI_SEED: return store_seed(options, value, error);
    case CLI_THREADS: return store_threads(options, value, error);
    case CLI_RAM_BUDGET: return store_budget(id, value, &request->ram_budget, error);
    case CLI_VRAM_BUDGET: return store_budget(id, value, &request->vram_budget, error);
    case CLI_JOBS: return store_count(id, value, 32, &options->jobs, error);
    case CLI_TRIES: return store_count(id, value, 1000, &options->tries, error);
    case CLI_TIMEOUT: return store_count(id, value, 3600, &options->timeout_seconds, error);
    case CLI_KEEP: return store_pattern(options, value, error);
    case CLI_CALIBRATE: return store_calibration(options, value, error);
    case CLI_SIZE: return store_size(options, value, error);
    case CLI_BATCH: return store_count(id, value, 2, &options->batch, error);
    case CLI_TEXT_TOKENS: return store_count(id, value, 512, &options->text_tokens, error);
    case CLI_REPEAT: return store_count(id, value, 10000, &options->repeat, error);
    case CLI_PRECISIONS:
        if (for_words(options, value, store_precision_word)) return INK_OK;
        return refuse_value(id, *value ? value : "\"\"", "f32, bf16, fp8, q8, q4 or int8, or several with commas between", error);
    case CLI_PHASES:
        if (for_words(options, value, store_phase_word)) return INK_OK;
        return refuse_value(id, *value ? value : "\"\"", "text, modulation, denoise or decode, or several with commas between",
                            error);
    case CLI_GUIDANCE:
        if (app_parse_real(value, &request->guidance)) return INK_OK;
        return refuse_value(id, value, "a number, such as 4 or 2.5", error);
    case CLI_LORA: return store_lora(options, value, error);
    case CLI_PRESET: return ink_request_set_preset(&(ink_request){0}, value, error);
    case CLI_RNG: return ink_request_set_rng(request, value, error);
    case CLI_NOISE_DTYPE:
        if (app_noise_parse(value, &request->noise_dtype)) return INK_OK;
        return refuse_value(id, value, "f32, bf16 or auto", error);
    case CLI_PRECISION:
        if (app_precision_parse(value, &options->precision)) return INK_OK;
        return refuse_value(id, value, "f32, bf16, fp8, q8, q4, int8 or auto", error);
    case CLI_MODEL:
    case CLI_DIFFUSION_MODEL:
    case CLI_TEXT_ENCODER:
    case CLI_VAE:
    case CLI_TOKENIZER:
    case CLI_FOLDER:
    case CLI_REVISION:
    case CLI_ONLY:
    case CLI_AGAIN:
    case CLI_DUMP:
    case CLI_SYNTHETIC:
    case CLI_OUTPUT: return *value ? INK_OK : refuse_value(id, "\"\"", "a name", error);
    default: return INK_OK;
    }
}

/* The counts belong to the generator of a GPU; the others leave those of the model's defaults. */
static void copy_rng(ink_request *to, const ink_request *from) {
    to->rng = from->rng;
    if (from->cuda_sms) to->cuda_sms = from->cuda_sms;
    if (from->cuda_threads_per_sm) to->cuda_threads_per_sm = from->cuda_threads_per_sm;
}

void cli_options_apply(const cli_options *options, cli_option_id id, ink_request *request) {
    if (!options->given[id]) return;
    switch (id) {
    case CLI_PROMPT: request->prompt = options->request.prompt; break;
    case CLI_NEGATIVE: request->negative_prompt = options->request.negative_prompt; break;
    case CLI_NO_NEGATIVE: request->negative_prompt = NULL; break;
    case CLI_WIDTH: request->width = options->request.width; break;
    case CLI_HEIGHT: request->height = options->request.height; break;
    case CLI_STEPS: request->steps = options->request.steps; break;
    case CLI_GUIDANCE: request->guidance = options->request.guidance; break;
    case CLI_SEED: request->seed = options->request.seed; break;
    case CLI_PRESET: ink_request_set_preset(request, options->given[id], NULL); break;
    case CLI_LORA_MERGE: request->merge_loras = 1; break;
    case CLI_RNG: copy_rng(request, &options->request); break;
    case CLI_RAM_BUDGET: request->ram_budget = options->request.ram_budget; break;
    case CLI_VRAM_BUDGET: request->vram_budget = options->request.vram_budget; break;
    case CLI_NOISE_DTYPE: request->noise_dtype = options->request.noise_dtype; break;
    default: break;
    }
}

/* ---- the parser ---- */

static bool takes(const cli_command *command, cli_option_id id) {
    for (const cli_option_id *option = command->options; *option != CLI_N_OPTIONS; option++)
        if (*option == id) return true;
    return false;
}

/* The option of this command with the letter, or with the name of n characters. CLI_N_OPTIONS: there is none. */
static cli_option_id find_option(const cli_command *command, char letter, const char *name, size_t n) {
    for (int i = 0; i < CLI_N_OPTIONS; i++) {
        const cli_option *option = &cli_option_table[i];
        if (!takes(command, (cli_option_id)i)) continue;
        if (letter && option->letter == letter) return (cli_option_id)i;
        if (name && strlen(option->name) == n && memcmp(option->name, name, n) == 0) return (cli_option_id)i;
    }
    return CLI_N_OPTIONS;
}

static ink_status refuse_option(const cli_command *command, const char *typed, ink_error *error) {
    const char *names[CLI_N_OPTIONS + 1] = {NULL};
    char name[32];
    size_t n = 0, length = typed[1] == '-' ? strcspn(typed + 2, "=") : 0;
    for (const cli_option_id *option = command->options; *option != CLI_N_OPTIONS; option++)
        names[n++] = cli_option_table[*option].name;
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : 0), typed + 2 * (length > 0));
    const char *nearest = length ? cli_nearest_name(name, names) : NULL;
    if (nearest) return app_fail(error, INK_ERROR_ARGUMENT, "unknown option %.60s; did you mean --%s?", typed, nearest);
    if (command->operand)
        return app_fail(error, INK_ERROR_ARGUMENT, "unknown option %.60s (put -- before a %s that starts with a dash)", typed,
                        command->operand);
    return app_fail(error, INK_ERROR_ARGUMENT, "unknown option %.60s", typed);
}

/* What the parser walks along. */
typedef struct cursor {
    char *const *arguments;
    int n, next;
} cursor;

static ink_status parse_value(cli_options *options, cursor *at, cli_option_id id, const char *attached, ink_error *error) {
    char option[32];
    const char *value = attached;
    if (!value && at->next < at->n) value = at->arguments[at->next++];
    if (value) return store_value(options, id, value, error);
    return app_fail(error, INK_ERROR_ARGUMENT, "%s needs a value: %s %s", cli_option_show(option, id), option,
                    cli_option_table[id].argument);
}

static ink_status parse_long(cli_options *options, cursor *at, const char *typed, ink_error *error) {
    const char *name = typed + 2, *equals = strchr(name, '=');
    cli_option_id id = find_option(options->command, 0, name, equals ? (size_t)(equals - name) : strlen(name));
    if (id == CLI_N_OPTIONS) return refuse_option(options->command, typed, error);
    if (cli_option_table[id].argument) return parse_value(options, at, id, equals ? equals + 1 : NULL, error);
    if (equals) return app_fail(error, INK_ERROR_ARGUMENT, "--%s takes no value", cli_option_table[id].name);
    return store_value(options, id, "", error);
}

/* "-q", "-W512", "-qW512". */
static ink_status parse_short(cli_options *options, cursor *at, const char *typed, ink_error *error) {
    for (const char *letter = typed + 1; *letter; letter++) {
        cli_option_id id = find_option(options->command, *letter, NULL, 0);
        if (id == CLI_N_OPTIONS) return refuse_option(options->command, typed, error);
        if (cli_option_table[id].argument) return parse_value(options, at, id, letter[1] ? letter + 1 : NULL, error);
        store_value(options, id, "", error);
    }
    return INK_OK;
}

static ink_status parse_operand(cli_options *options, const char *typed, ink_error *error) {
    const cli_command *command = options->command;
    if (!command->operand) {
        char hint[100] = "";
        if (cli_find_command(typed))
            snprintf(hint, sizeof hint, "; a command comes first: inkstone %.40s", typed);
        else if (takes(command, CLI_PROMPT))
            snprintf(hint, sizeof hint, "; give the prompt with -p, in quotes");
        else if (takes(command, CLI_MODEL))
            snprintf(hint, sizeof hint, "; name the model with -m");
        return app_fail(error, INK_ERROR_ARGUMENT, "unexpected argument \"%.60s\"%s", typed, hint);
    }
    if (options->operand)
        return app_fail(error, INK_ERROR_ARGUMENT,
                        "more than one %s: \"%.40s\" and \"%.40s\"; put quotes around a text with spaces", command->operand,
                        options->operand, typed);
    options->operand = typed;
    return INK_OK;
}

static bool wants_help(const cli_options *options) {
    return options->given[CLI_HELP] || options->given[CLI_VERSION] || options->given[CLI_HELP_ENV];
}

ink_status cli_options_parse(cli_options *options, const cli_command *command, int n, char *const *arguments, ink_error *error) {
    cursor at = {arguments, n, 0};
    ink_status status = INK_OK;
    bool only_operands = false;
    *options = (cli_options){.command = command};
    while (status == INK_OK && at.next < n && !wants_help(options)) {
        const char *typed = arguments[at.next++];
        if (!only_operands && strcmp(typed, "--") == 0)
            only_operands = true;
        else if (!only_operands && typed[0] == '-' && typed[1] == '-')
            status = parse_long(options, &at, typed, error);
        else if (!only_operands && typed[0] == '-' && typed[1])
            status = parse_short(options, &at, typed, error);
        else
            status = parse_operand(options, typed, error);
    }
    if (status == INK_OK && options->given[CLI_NEGATIVE] && options->given[CLI_NO_NEGATIVE])
        status = app_fail(error, INK_ERROR_ARGUMENT, "-n and --no-negative contradict each other");
    if (status == INK_OK && options->given[CLI_LORA] && options->given[CLI_NO_LORA])
        status = app_fail(error, INK_ERROR_ARGUMENT, "--lora and --no-lora contradict each other");
    return status;
}
