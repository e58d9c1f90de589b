/* cli_help.c - the commands and the texts that teach them. */
#include <stdio.h>
#include <string.h>

#include "cli/cli_commands.h"

static const cli_option_id generate_options[] = {
    CLI_PROMPT,      CLI_NEGATIVE,   CLI_NO_NEGATIVE, CLI_MODEL,       CLI_DIFFUSION_MODEL, CLI_TEXT_ENCODER, CLI_VAE,
    CLI_TOKENIZER,   CLI_OUTPUT,     CLI_WIDTH,       CLI_HEIGHT,      CLI_STEPS,           CLI_GUIDANCE,     CLI_SEED,
    CLI_AGAIN,       CLI_LORA,       CLI_NO_LORA,     CLI_LORA_MERGE,  CLI_PRESET,          CLI_RNG,          CLI_NOISE_DTYPE,
    CLI_PRECISION,   CLI_RAM_BUDGET, CLI_BACKEND,     CLI_VRAM_BUDGET, CLI_THREADS,         CLI_CPU,          CLI_DUMP,
    CLI_NO_METADATA, CLI_JSON,       CLI_QUIET,       CLI_HELP,        CLI_VERSION,         CLI_HELP_ENV,     CLI_N_OPTIONS};
static const cli_option_id tokenize_options[] = {CLI_MODEL, CLI_STDIN, CLI_JSON, CLI_HELP, CLI_N_OPTIONS};
static const cli_option_id inspect_options[] = {CLI_MODEL, CLI_DIFFUSION_MODEL, CLI_TEXT_ENCODER, CLI_VAE, CLI_TOKENIZER, CLI_JSON,
                                                CLI_HELP,  CLI_N_OPTIONS};
static const cli_option_id verify_options[] = {
    CLI_MODEL, CLI_DIFFUSION_MODEL, CLI_TEXT_ENCODER, CLI_VAE,      CLI_TOKENIZER, CLI_PRECISION, CLI_BACKEND, CLI_THREADS, CLI_CPU,
    CLI_JSON,  CLI_QUIET,           CLI_HELP,         CLI_N_OPTIONS};
static const cli_option_id quantize_options[] = {CLI_MODEL,  CLI_DIFFUSION_MODEL, CLI_TEXT_ENCODER, CLI_VAE,       CLI_TOKENIZER,
                                                 CLI_FOLDER, CLI_PRECISION,       CLI_KEEP,         CLI_CALIBRATE, CLI_THREADS,
                                                 CLI_JSON,   CLI_QUIET,           CLI_HELP,         CLI_N_OPTIONS};
static const cli_option_id plan_options[] = {CLI_MODEL,     CLI_DIFFUSION_MODEL, CLI_TEXT_ENCODER, CLI_VAE,         CLI_TOKENIZER,
                                             CLI_WIDTH,     CLI_HEIGHT,          CLI_STEPS,        CLI_GUIDANCE,    CLI_NEGATIVE,
                                             CLI_PRECISION, CLI_RAM_BUDGET,      CLI_BACKEND,      CLI_VRAM_BUDGET, CLI_JSON,
                                             CLI_HELP,      CLI_N_OPTIONS};
static const cli_option_id bench_options[] = {CLI_SYNTHETIC, CLI_SIZE,    CLI_PRECISIONS, CLI_BATCH,   CLI_TEXT_TOKENS, CLI_PHASES,
                                              CLI_REPEAT,    CLI_PICTURE, CLI_STEPS,      CLI_BACKEND, CLI_VRAM_BUDGET, CLI_THREADS,
                                              CLI_CPU,       CLI_JSON,    CLI_QUIET,      CLI_HELP,    CLI_N_OPTIONS};
static const cli_option_id pull_options[] = {CLI_REVISION, CLI_ONLY, CLI_JOBS,  CLI_TRIES, CLI_TIMEOUT,
                                             CLI_DRY_RUN,  CLI_JSON, CLI_QUIET, CLI_HELP,  CLI_N_OPTIONS};
static const cli_option_id models_options[] = {CLI_JSON, CLI_HELP, CLI_N_OPTIONS};

const cli_command cli_command_table[] = {
    {.name = "generate",
     .summary = "draw a picture from a text (this is what happens without a command)",
     .usage = "inkstone [generate] -p TEXT [options]",
     .explanation = "Draws the picture that TEXT describes and prints the name of the file. Sizes,\n"
                    "steps and guidance that are not given come from the model.\n"
                    "\n"
                    "A picture starts as noise, which the seed picks, and becomes clearer with every\n"
                    "step. The same request with the same seed is the same picture, on any number of\n"
                    "threads. Without -S a random seed is taken and printed.\n"
                    "\n"
                    "Guidance takes two prompts: each step is pulled towards the prompt and pushed\n"
                    "away from the negative prompt, and costs twice the time. It is off with -g 1,\n"
                    "and off when there is no negative prompt at all; -n \" \" is the usual one for\n"
                    "\"nothing in particular\".\n"
                    "\n"
                    "--lora adds a LoRA, as file or folder, with a scale behind a colon if it is\n"
                    "not 1; several add up. All of its tensors must fit the model. One that was\n"
                    "distilled to few steps takes its --preset along.\n"
                    "\n"
                    "A model that is larger than the memory is drawn with all the same: blocks that\n"
                    "do not fit are read from the files again at each step. --ram-budget keeps the\n"
                    "program within less; the picture stays the same, bit for bit. The same holds of\n"
                    "a GPU, to which blocks come from the host's memory, and of --vram-budget.\n"
                    "\n"
                    "A .png file keeps its request: --again draws it once more, pixel for pixel. The\n"
                    "file is written when it is complete; Ctrl-C leaves nothing behind.\n",
     .examples = "  inkstone -p \"a red circle on a blue background\"\n"
                 "  inkstone -p \"a fox in the snow, watercolour\" -W 512 -H 768 -s 30 -o fox.png\n"
                 "  inkstone -p \"a street at night\" -n \"blurry, people\" -g 4 -S 7 -o street.webp\n"
                 "  inkstone --again street.png -s 50        the same with more steps\n"
                 "  inkstone --again street.png -S random    another one like it\n"
                 "  inkstone -p \"a fox\" --lora lightning.safetensors --preset lightning-4\n"
                 "  inkstone -p \"a fox\" --lora ink-style.safetensors:0.8 --lora fox.safetensors\n"
                 "  inkstone -p \"a fox\" -m ~/models/Qwen-Image --ram-budget 12G\n"
                 "  fortune | inkstone -p - --json\n",
     .options = generate_options,
     .run = cli_generate},
    {.name = "tokenize",
     .summary = "print the token ids of a text",
     .usage = "inkstone tokenize [-m DIR] TEXT",
     .explanation = "Prints the ids of the bare text, without the template that a prompt is put in:\n"
                    "one line, parted by spaces. Only DIR/tokenizer is needed.\n",
     .examples = "  inkstone tokenize -m models/demo \"a red circle\"\n"
                 "  inkstone tokenize -m models/demo -- \"--a text that starts with dashes\"\n"
                 "  inkstone tokenize -m models/demo --stdin < prompt.txt\n",
     .options = tokenize_options,
     .operand = "TEXT",
     .run = cli_tokenize},
    {.name = "inspect",
     .summary = "show what a model folder holds, and what it lacks",
     .usage = "inkstone inspect [-m DIR] [options]",
     .explanation = "Lists the components of a model with their number types, parameters and bytes,\n"
                    "where each lies and how it will run, and the tensors that are missing or\n"
                    "unexpected. Only headers are read, so it is quick on any size. The exit status\n"
                    "is 1 when the model cannot be used.\n",
     .examples = "  inkstone inspect -m ~/models/Qwen-Image\n"
                 "  inkstone inspect -m ~/models/Qwen-Image --json | jq .components[0]\n"
                 "  inkstone inspect -m ~/ComfyUI/models --diffusion-model qwen-image-Q4_K_M.gguf\n",
     .options = inspect_options,
     .run = cli_inspect},
    {.name = "verify",
     .summary = "compare every stage with a recorded run",
     .usage = "inkstone verify [-m DIR] REF.safetensors",
     .explanation = "Repeats the request that is recorded in the file and compares every stage: text\n"
                    "states, noise, sigmas, latents after each step, the picture. It runs in f32,\n"
                    "the reference mode, unless --precision asks for another; the limits of those\n"
                    "are wider. Such a file comes from inkstone --dump, or from\n"
                    "tools/make_reference.py, which runs the reference implementation. The exit\n"
                    "status is 1 when a stage differs by more than its limit.\n",
     .examples = "  inkstone -p \"a red circle\" -S 1 -s 4 --precision f32 --dump here.safetensors\n"
                 "  inkstone verify here.safetensors --cpu ref\n",
     .options = verify_options,
     .operand = "FILE",
     .run = cli_verify},
    {.name = "plan",
     .summary = "what a picture needs in every precision, and which suits this machine",
     .usage = "inkstone plan [-m DIR] [-W PIXELS -H PIXELS] [options]",
     .explanation = "Shows, without loading anything, how much memory a picture takes in every\n"
                    "precision and how large the model would be on disk, and names the best precision\n"
                    "that fits: the most exact one that leaves a tenth of the free memory.\n"
                    "\n"
                    "What is used in place from the files is not memory of the program. Where it does\n"
                    "not fit beside the rest, or not within --ram-budget, some blocks are read again\n"
                    "at each step: how many, and how much that is, is said for each precision.\n"
                    "\n"
                    "Where there is a GPU, a second table is of its memory. Blocks that do not fit it,\n"
                    "or not within --vram-budget, come from the host's memory at each step.\n",
     .examples = "  inkstone plan -m ~/models/Qwen-Image -W 1024 -H 1024 -g 4\n"
                 "  inkstone plan -m ~/models/Qwen-Image --json | jq -r .best\n",
     .options = plan_options,
     .run = cli_plan},
    {.name = "quantize",
     .summary = "write a model in fewer bits",
     .usage = "inkstone quantize [-m DIR] -o NEW_DIR --precision q8|q4|fp8|int8 [options]",
     .explanation = "Writes the model to a new folder with its matrices in fewer bits, which loads at\n"
                    "once and takes less memory; --precision alone would convert at every start. The\n"
                    "pictures are the same, bit for bit. The ends of the network, where errors weigh\n"
                    "most, keep 16 bits, and so do matrices that match --keep.\n"
                    "\n"
                    "Prints the error of every matrix, and on a short run the error of what its layer\n"
                    "gives. Takes little memory for a model of any size. The folder appears when it\n"
                    "is complete; a killed run leaves NEW_DIR.partial-..., which can be deleted.\n",
     .examples = "  inkstone quantize -m ~/models/Qwen-Image -o ~/models/qwen-image-q4 --precision q4\n"
                 "  inkstone quantize -o demo-q4 --precision q4 --keep \"*.to_v=bf16\"\n"
                 "  inkstone -m demo-q4 -p \"a red circle\"\n",
     .options = quantize_options,
     .run = cli_quantize},
    {.name = "bench",
     .summary = "how fast this machine is, phase by phase, without a model",
     .usage = "inkstone bench --synthetic qwen-image[:BLOCKS] [options]",
     .explanation = "Fills the published networks with random weights, in memory and in the form of\n"
                    "each precision, and times them: the text encoder with one prompt, the modulation\n"
                    "of all steps, a step of denoising, the decoder. A phase runs --repeat times after\n"
                    "one run to warm up; median and best are shown, TFLOP/s of the median, and beside\n"
                    "them what the machine can do, measured in the same run: its inner loop for\n"
                    "products fed from the cache, and its memory.\n"
                    "\n"
                    "The 60 blocks of the transformer are alike, and do not fit every machine: with\n"
                    "qwen-image:4 four of them are run. The time of a block is what counts then; that\n"
                    "of all 60 is worked out from it and marked as such.\n"
                    "\n"
                    "--picture runs all phases once, with -s steps, as for a real picture; of a GPU\n"
                    "within --vram-budget. What it takes to make the random weights is never part of\n"
                    "a time.\n",
     .examples = "  inkstone bench --synthetic qwen-image:2 --phases denoise\n"
                 "  inkstone bench --synthetic qwen-image:2 --precision bf16,q4 --size 512x512 --json\n"
                 "  inkstone bench --synthetic qwen-image --picture --precision q4 --size 512x512\n",
     .options = bench_options,
     .run = cli_bench},
    {.name = "pull",
     .summary = "load a model from the hub",
     .usage = "inkstone pull [options] ORG/NAME",
     .explanation = "Loads the files that a pipeline reads, and no others, into the models' folder,\n"
                    "and checks each by the hash that the hub lists. From then on -m takes the last\n"
                    "part of the name, in lower case.\n"
                    "\n"
                    "What breaks off is no loss: the same command goes on where it was, after Ctrl-C\n"
                    "and after a power cut too. When all is there, it costs one request. A newer\n"
                    "revision replaces the files that differ.\n"
                    "\n"
                    "A gated model takes a token: HF_TOKEN, or the file that the hub's own tools\n"
                    "keep. HF_ENDPOINT names a mirror, INK_MODELS the models' folder (default:\n"
                    "~/.local/share/inkstone/models).\n",
     .examples = "  inkstone pull Qwen/Qwen-Image-2512\n"
                 "  inkstone -m qwen-image-2512 -p \"a red circle\"\n"
                 "  inkstone pull Qwen/Qwen-Image --dry-run\n"
                 "  inkstone pull Qwen/Qwen-Image --only \"tokenizer/*\"\n",
     .options = pull_options,
     .operand = "ORG/NAME",
     .run = cli_pull},
    {.name = "models",
     .summary = "list the models that are here",
     .usage = "inkstone models",
     .explanation = "Lists what -m takes by name: models that were pulled or lie beside those, those\n"
                    "in the cache of the hub's own tools, and the one that is shipped. A model whose\n"
                    "pull has not ended is listed with what is missing.\n",
     .examples = "  inkstone models\n"
                 "  inkstone models --json | jq -r \".models[].name\"\n",
     .options = models_options,
     .run = cli_models},
    {.name = NULL},
};

const cli_command *cli_find_command(const char *name) {
    for (const cli_command *command = cli_command_table; command->name; command++)
        if (strcmp(command->name, name) == 0) return command;
    return NULL;
}

void cli_print_overview(FILE *out) {
    fputs("Usage: inkstone -p TEXT [options]\n"
          "       inkstone COMMAND [options]\n"
          "\n"
          "Inkstone draws pictures from text with the Qwen-Image family of models.\n"
          "\n"
          "    inkstone -p \"a red circle on a blue background\"\n"
          "\n"
          "draws with the small model that is shipped; -m DIR names another model, -o FILE\n"
          "the picture, -W and -H its size, -S the seed.\n"
          "\n"
          "Commands:\n",
          out);
    for (const cli_command *command = cli_command_table; command->name; command++)
        fprintf(out, "  %-10s %s\n", command->name, command->summary);
    fputs("  help       explain a command: inkstone help generate\n"
          "\n"
          "  --version  print the version\n"
          "  --help-env list the environment variables\n"
          "\n"
          "Exit status: 0 done, 1 failed (verify: or differs), 2 the command line makes no\n"
          "sense, 130 after Ctrl-C.\n",
          out);
}

static void print_option(FILE *out, const cli_option *option) {
    enum { COLUMN = 26 };
    char left[64], letter[8] = "    ";
    if (option->letter) snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", letter, option->name, option->argument ? " " : "",
             option->argument ? option->argument : "");
    fprintf(out, "%-*s", COLUMN, left);
    if (strlen(left) >= COLUMN) fprintf(out, "\n%*s", COLUMN, "");
    for (const char *line = option->help; *line;) {
        int length = (int)strcspn(line, "\n");
        fprintf(out, "%.*s\n", length, line);
        line += length;
        if (*line) fprintf(out, "%*s", COLUMN, (line++, ""));
    }
}

void cli_print_help(FILE *out, const cli_command *command) {
    fprintf(out, "Usage: %s\n\n%s\nOptions:\n", command->usage, command->explanation);
    for (const cli_option_id *id = command->options; *id != CLI_N_OPTIONS; id++) print_option(out, &cli_option_table[*id]);
    fprintf(out, "\nExamples:\n%s", command->examples);
}

void cli_print_environment(FILE *out) {
    static const ink_env_var of_models[] = {
        {"INK_MODELS", "DIR", "where pull puts models, and -m finds them by name"},
        {"HF_TOKEN", "TOKEN", "who asks the hub (default: the file HF_HOME/token)"},
        {"HF_ENDPOINT", "URL", "the hub, or a mirror of it"},
        {"HF_HOME", "DIR", "where the hub's own tools keep the token and their cache"},
    };
    fputs("Environment variables:\n", out);
    for (const ink_env_var *variable = ink_env_vars(); variable->name; variable++)
        fprintf(out, "  %-11s %-18s %s\n", variable->name, variable->values, variable->help);
    for (size_t i = 0; i < sizeof of_models / sizeof *of_models; i++)
        fprintf(out, "  %-11s %-18s %s\n", of_models[i].name, of_models[i].values, of_models[i].help);
    fprintf(out, "  %-11s %-18s %s\n", "NO_COLOR", "1", "print without colours");
}
