/* cli_generate.c - inkstone generate: from the options to a picture in a file. */
#define _GNU_SOURCE /* getrandom */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "cli/cli_commands.h"
#include "common/image_write.h"
#include "common/interrupt.h"
#include "common/model_path.h"
#include "common/output_file.h"
#include "common/png_metadata.h"
#include "common/request_json.h"
#include "common/text_format.h"

/* One run, from its options to its files. Zeroed at first; release_job accepts it in any state. */
typedef struct job {
    cli_options options; /* as typed, with the prompt from standard input in its place */
    char *stdin_prompt;
    app_record again; /* what --again found */
    cli_engine engine;
    ink_request request;
    ink_lora loras[CLI_MAX_LORAS]; /* of the request; paths are owned */
    ink_memory_plan plan;
    app_image_format format;
    app_output_file picture, dump;
    ink_image *image;
    ink_stats stats;
} job;

/* The options that become part of the request, in the order in which they are applied. */
static const cli_option_id request_options[] = {CLI_PRESET, CLI_LORA_MERGE,  CLI_PROMPT,     CLI_NEGATIVE,   CLI_NO_NEGATIVE,
                                                CLI_WIDTH,  CLI_HEIGHT,      CLI_STEPS,      CLI_GUIDANCE,   CLI_SEED,
                                                CLI_RNG,    CLI_NOISE_DTYPE, CLI_RAM_BUDGET, CLI_VRAM_BUDGET};
enum { N_REQUEST_OPTIONS = sizeof request_options / sizeof *request_options };

static const char *given(const job *run, cli_option_id id) { return run->options.given[id]; }

/* ---- what is asked for ---- */

static ink_status read_again(job *run, ink_error *error) {
    const char *path = given(run, CLI_AGAIN);
    app_png_metadata metadata;
    FILE *stream = fopen(path, "rb");
    if (!stream) return app_fail(error, INK_ERROR_IO, "cannot open %s: %s", path, strerror(errno));
    ink_status status = app_png_metadata_read(&metadata, stream, path, error);
    fclose(stream);
    if (status != INK_OK) return status;
    if (metadata.record)
        status = app_record_parse(&run->again, metadata.record, strlen(metadata.record), path, error);
    else if (metadata.parameters)
        status = app_fail(error, INK_ERROR_FORMAT, "%s was not made by inkstone; it says of itself: %.600s", path,
                          metadata.parameters);
    else
        status = app_fail(error, INK_ERROR_FORMAT, "%s holds no record of how it was made", path);
    app_png_metadata_clear(&metadata);
    return status;
}

/* Everything that can be known before the model is looked at. */
static ink_status read_options(job *run, ink_error *error) {
    const char *output = given(run, CLI_OUTPUT);
    ink_status status = output ? app_image_format_of(&run->format, output, error) : INK_OK;
    if (status == INK_OK && !given(run, CLI_PROMPT) && !given(run, CLI_AGAIN))
        return app_fail(error, INK_ERROR_ARGUMENT,
                        "what should be drawn? For example: inkstone -p \"a red circle on a blue background\"");
    if (status == INK_OK && given(run, CLI_AGAIN)) status = read_again(run, error);
    if (status == INK_OK && given(run, CLI_PROMPT) && strcmp(given(run, CLI_PROMPT), "-") == 0) {
        status = cli_read_stdin(&run->stdin_prompt, error);
        run->options.request.prompt = run->stdin_prompt;
    }
    return status;
}

/* The options that name parts of the model, as a record counts them. */
static const cli_option_id file_options[APP_N_MODEL_FILES] = {[APP_DIFFUSION_MODEL] = CLI_DIFFUSION_MODEL,
                                                              [APP_TEXT_ENCODER] = CLI_TEXT_ENCODER,
                                                              [APP_VAE] = CLI_VAE,
                                                              [APP_TOKENIZER] = CLI_TOKENIZER};

static ink_status open_model(job *run, ink_error *error) {
    ink_precision precision = INK_PRECISION_AUTO;
    /* The recorded files belong to the recorded folder. */
    for (int i = 0; i < APP_N_MODEL_FILES && !given(run, CLI_MODEL); i++)
        if (!given(run, file_options[i])) run->options.given[file_options[i]] = run->again.files[i];
    if (run->again.precision) app_precision_parse(run->again.precision, &precision);
    ink_status status = cli_open_model(&run->engine, &run->options, run->again.model, precision, error);
    if (status == INK_ERROR_IO && run->again.model && !given(run, CLI_MODEL)) {
        char reason[sizeof error->message];
        snprintf(reason, sizeof reason, "%s", error->message);
        app_fail(error, status, "the model that drew %.300s cannot be opened (%.400s); name its folder with -m DIR",
                 given(run, CLI_AGAIN), reason);
    }
    return status;
}

/* The library says what is wrong with a request, but not who said so: look for an option that is refused on its own. */
static void name_the_source(const job *run, ink_error *error) {
    /* A budget is never wrong on its own: the picture decides what the least is. */
    if (given(run, CLI_RAM_BUDGET) && error->status == INK_ERROR_MEMORY && run->request.ram_budget < run->plan.least_bytes) {
        app_fail_in_front(error, "--ram-budget %.40s", given(run, CLI_RAM_BUDGET));
        return;
    }
    for (int i = 0; i < N_REQUEST_OPTIONS; i++) {
        cli_option_id id = request_options[i];
        ink_request alone;
        ink_memory_plan plan;
        ink_error problem;
        char option[32];
        if (!given(run, id) || id == CLI_RAM_BUDGET) continue;
        ink_request_init(&alone, run->engine.model);
        alone.prompt = "";
        cli_options_apply(&run->options, id, &alone);
        if (ink_plan(&plan, run->engine.model, &alone, &problem) == INK_OK) continue;
        bool text = id == CLI_PROMPT || id == CLI_NEGATIVE; /* may be long, may be no UTF-8 */
        app_fail(error, problem.status, "%s%s%.40s: %.900s", cli_option_show(option, id), text ? "" : " ",
                 text ? "" : given(run, id), problem.message);
        return;
    }
    if (run->again.owner && error->status == INK_ERROR_ARGUMENT) {
        app_fail_in_front(error, "the settings in %.300s", given(run, CLI_AGAIN));
        error->status = INK_ERROR_FORMAT;
    }
}

static ink_status random_seed(uint64_t *seed, ink_error *error) {
    uint32_t drawn; /* 32 bits: short enough to type again, and enough pictures */
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        return app_fail(error, INK_ERROR_IO, "the system gives no random seed (%s); choose one with -S", strerror(errno));
    *seed = drawn;
    return INK_OK;
}

/* The files given here, else those of the picture to repeat. Whole paths, since they are recorded in the picture. */
static ink_status list_loras(job *run, ink_error *error) {
    const cli_options *options = &run->options;
    const ink_request *recorded = &run->again.request;
    bool typed = options->n_loras > 0;
    size_t n = typed ? options->n_loras : given(run, CLI_NO_LORA) ? 0 : recorded->n_loras;
    run->request.loras = run->loras;
    for (size_t i = 0; i < n; i++) {
        char *path = typed ? app_format("%.*s", (int)options->loras[i].n_path, options->loras[i].typed) : NULL;
        run->loras[i].path = app_absolute_path(typed && path ? path : typed ? "" : recorded->loras[i].path);
        run->loras[i].scale = typed ? options->loras[i].scale : recorded->loras[i].scale;
        free(path);
        run->request.n_loras = i + 1;
        if (!run->loras[i].path || (typed && !path)) return app_fail_memory(error, "a file name");
    }
    return INK_OK;
}

static bool seed_is_random(const job *run) { return run->options.random_seed || (!given(run, CLI_SEED) && !given(run, CLI_AGAIN)); }

static ink_status build_request(job *run, ink_error *error) {
    ink_request *request = &run->request;
    const ink_request *recorded = &run->again.request;
    ink_request_init(request, run->engine.model);
    if (run->again.owner) {
        request->prompt = recorded->prompt;
        request->negative_prompt = recorded->negative_prompt;
        request->width = recorded->width;
        request->height = recorded->height;
        request->steps = recorded->steps;
        request->guidance = recorded->guidance;
        request->seed = recorded->seed;
        request->rng = recorded->rng;
        if (recorded->cuda_sms) request->cuda_sms = recorded->cuda_sms; /* 0 when the generator is none of a GPU */
        if (recorded->cuda_threads_per_sm) request->cuda_threads_per_sm = recorded->cuda_threads_per_sm;
        request->noise_dtype = recorded->noise_dtype;
        request->merge_loras = recorded->merge_loras;
        request->base_shift = recorded->base_shift;
        request->max_shift = recorded->max_shift;
        request->shift_terminal = recorded->shift_terminal;
    }
    ink_status status = list_loras(run, error);
    if (status != INK_OK) return status;
    for (int i = 0; i < N_REQUEST_OPTIONS; i++) cli_options_apply(&run->options, request_options[i], request);
    if (seed_is_random(run)) status = random_seed(&request->seed, error);
    if (status != INK_OK) return status;
    /* The plan also reads the prompts and the LoRA files, which ink_request_check does not. */
    status = ink_session_plan(&run->plan, run->engine.session, request, error);
    if (status != INK_OK) {
        name_the_source(run, error);
        return error->status;
    }
    return app_image_check_size(run->format, request->width, request->height, error);
}

/* ---- where it goes ---- */

/* "a-red-circle-on-a-blue-1234.png": people find a picture by what is on it. Only letters and digits of ASCII are taken. */
static char *default_name(const ink_request *request) {
    enum { LONGEST = 40 };
    char stem[LONGEST + 1];
    size_t n = 0, word_end = 0;
    bool cut = false;
    for (const char *in = request->prompt; *in; in++) {
        char c = *in >= 'A' && *in <= 'Z' ? (char)(*in + 'a' - 'A') : *in;
        bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!letter && n > 0 && stem[n - 1] != '-') word_end = n;
        if (!letter && (n == 0 || stem[n - 1] == '-')) continue;
        cut = n == LONGEST;
        if (cut) break;
        stem[n++] = letter ? c : '-';
    }
    /* A word that was cut is left out, unless it is the only one. */
    if (cut && word_end > 0) n = word_end;
    while (n > 0 && stem[n - 1] == '-') n--;
    stem[n] = 0;
    return app_format("%s-%" PRIu64 ".png", n ? stem : "inkstone", request->seed);
}

/* Before the work: an hour of drawing should not end in "permission denied". */
static ink_status open_outputs(job *run, ink_error *error) {
    const char *output = given(run, CLI_OUTPUT);
    char *made_up = output ? NULL : default_name(&run->request);
    if (!output && !made_up) return app_fail_memory(error, "a file name");
    ink_status status = app_output_open(&run->picture, output ? output : made_up, !output, error);
    free(made_up);
    if (status != INK_OK || !given(run, CLI_DUMP)) return status;
    if (app_output_same(given(run, CLI_DUMP), run->picture.path))
        return app_fail(error, INK_ERROR_ARGUMENT, "%s cannot hold both the picture and the dump", run->picture.path);
    status = app_output_open(&run->dump, given(run, CLI_DUMP), false, error);
    run->request.dump_path = run->dump.temporary;
    return status;
}

/* ---- what is said on the way ---- */

static bool guidance_active(const ink_request *request) { return request->guidance > 1 && request->negative_prompt; }

static void note_cut(const cli_options *options, const char *what, int64_t n, int64_t n_cut) {
    if (n_cut > 0)
        cli_note(options, "note: the %s has %" PRId64 " tokens, the model reads %" PRId64 ": the rest is cut", what, n, n - n_cut);
}

static void note_request(const job *run) {
    const ink_request *request = &run->request;
    char guidance[40];
    const cli_options *options = &run->options;
    snprintf(guidance, sizeof guidance, guidance_active(request) ? "guidance %g" : "no guidance", request->guidance);
    cli_note(options, "model: %s, %s", run->engine.dir, ink_model_precision(run->engine.model));
    cli_note(options, "picture: %" PRId64 " x %" PRId64 ", %" PRId64 " step%s, %s, seed %" PRIu64 "%s", request->width,
             request->height, request->steps, request->steps == 1 ? "" : "s", guidance, request->seed,
             seed_is_random(run) ? " (random)" : "");
    if (request->n_loras > 0)
        cli_note(options, "lora: applied %" PRId64 " of %" PRId64 " tensors%s", run->plan.lora_tensors, run->plan.lora_tensors,
                 request->merge_loras ? ", merged into the weights" : "");
    note_cut(options, "prompt", run->plan.prompt_tokens, run->plan.prompt_cut);
    note_cut(options, "negative prompt", run->plan.negative_tokens, run->plan.negative_cut);
    if (given(run, CLI_GUIDANCE) && request->guidance > 1 && !request->negative_prompt)
        cli_note(options, "note: guidance is off without a negative prompt; -n \" \" turns it on");
    if (given(run, CLI_NEGATIVE) && request->guidance <= 1)
        cli_note(options, "note: the negative prompt has no effect while guidance is off; -g 4 turns it on");
    bool on_gpu = run->plan.gpu_peak_bytes > 0;
    if (given(run, on_gpu ? CLI_RAM_BUDGET : CLI_VRAM_BUDGET))
        cli_note(options, on_gpu ? "note: --ram-budget has no effect on a GPU; --vram-budget limits its memory"
                                 : "note: --vram-budget has no effect on the processor; --ram-budget limits its memory");
}

/* ", 40 of 60 blocks read again at each step (17.0 GiB), all within 12.0 GiB"; "" without a limit. */
static void say_streamed(char *text, size_t size, const ink_memory_plan *plan) {
    char bytes[APP_SHOWN_SIZE], budget[APP_SHOWN_SIZE];
    int n = 0;
    text[0] = 0;
    if (plan->streamed_blocks > 0)
        n = snprintf(text, size, ", %" PRId64 " of %" PRId64 " blocks read again at each step (%s)", plan->streamed_blocks,
                     plan->blocks, app_show_bytes(bytes, plan->streamed_bytes));
    bool is_there = plan->available_bytes == 0 || plan->budget_bytes <= plan->available_bytes;
    if (plan->budget_bytes > 0 && is_there)
        snprintf(text + n, size - (size_t)n, ", all within %s", app_show_bytes(budget, plan->budget_bytes));
}

static void note_gpu_memory(const job *run) {
    const ink_memory_plan *plan = &run->plan;
    char needed[APP_SHOWN_SIZE], weights[APP_SHOWN_SIZE], scratch[APP_SHOWN_SIZE], has[APP_SHOWN_SIZE];
    char streamed[CLI_STREAMED_SIZE];
    cli_note(&run->options, "memory of the GPU: %s needed (weights %s%s, scratch %s)%s, %s available",
             app_show_bytes(needed, plan->gpu_peak_bytes), app_show_bytes(weights, plan->gpu_weight_bytes),
             plan->gpu_keeps_weights ? "" : ", one network at a time", app_show_bytes(scratch, plan->scratch_bytes),
             cli_say_streamed(streamed, plan), app_show_bytes(has, plan->gpu_available_bytes));
}

static void note_memory(const job *run) {
    const ink_memory_plan *plan = &run->plan;
    if (plan->gpu_peak_bytes > 0) {
        note_gpu_memory(run);
        return;
    }
    char streamed[160];
    say_streamed(streamed, sizeof streamed, plan);
    char needed[APP_SHOWN_SIZE], weights[APP_SHOWN_SIZE], scratch[APP_SHOWN_SIZE], mapped[APP_SHOWN_SIZE], has[APP_SHOWN_SIZE];
    app_show_bytes(mapped, plan->mapped_bytes);
    app_show_bytes(has, plan->available_bytes);
    cli_note(&run->options, "memory: %s needed (weights %s, scratch %s)%s%s%s%s, %s%s", app_show_bytes(needed, plan->peak_bytes),
             app_show_bytes(weights, plan->weight_bytes), app_show_bytes(scratch, plan->scratch_bytes),
             plan->mapped_bytes > 0 ? ", " : "", plan->mapped_bytes > 0 ? mapped : "",
             plan->mapped_bytes > 0 ? " read in place from the files" : "", streamed, plan->available_bytes > 0 ? has : "unknown",
             " available");
}

/* Largest size that the process had, with libraries and mapped weights; 0 if unknown. */
static int64_t resident_peak(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (int64_t)usage.ru_maxrss;
#else
    return (int64_t)usage.ru_maxrss * 1024;
#endif
}

static void note_stats(const job *run) {
    char line[256], seconds[APP_SHOWN_SIZE], peak[APP_SHOWN_SIZE], resident[APP_SHOWN_SIZE];
    int length = 0;
    for (int phase = 0; phase < INK_N_PHASES; phase++)
        length += snprintf(line + length, sizeof line - (size_t)length, "%s%s %s", phase ? ", " : "",
                           app_phase_name((ink_phase)phase), app_show_seconds(seconds, run->stats.phase_seconds[phase]));
    cli_note(&run->options, "time: %s s (%s) on %" PRId64 " threads, %s", app_show_seconds(seconds, run->stats.total_seconds), line,
             run->stats.threads, run->stats.cpu);
    cli_note(&run->options, "memory: %s at the peak, %s with the program and its files",
             app_show_bytes(peak, run->stats.peak_bytes), app_show_bytes(resident, resident_peak()));
    if (run->stats.nan_pixels > 0)
        cli_note(&run->options,
                 "note: %" PRId64 " pixels are no numbers, and black: a weight is damaged, or too large for this precision",
                 run->stats.nan_pixels);
    if (run->again.cpu && strcmp(run->again.cpu, run->stats.cpu) != 0)
        cli_note(&run->options, "note: drawn with %s at first and with %s now; single pixels may differ by a shade", run->again.cpu,
                 run->stats.cpu);
}

static json_t *job_to_json(const job *run) {
    const ink_request *request = &run->request;
    char rng[40];
    json_t *phases = json_object();
    ink_request_get_rng(request, rng, sizeof rng);
    for (int phase = 0; phase < INK_N_PHASES; phase++)
        json_object_set_new(phases, app_phase_name((ink_phase)phase), json_real(run->stats.phase_seconds[phase]));
    json_t *root = json_pack("{s:o, s:o, s:I, s:I, s:I, s:f, s:o, s:s, s:s?, s:s, s:s, s:s, s:I, s:s, s:o, s:f, s:I, s:I, s:I}",
                             "file", cli_json_text(run->picture.path), "model", cli_json_text(run->engine.dir), "width",
                             (json_int_t)request->width, "height", (json_int_t)request->height, "steps", (json_int_t)request->steps,
                             "guidance", request->guidance, "seed", app_seed_to_json(request->seed), "prompt", request->prompt,
                             "negative_prompt", request->negative_prompt, "rng", rng, "noise_dtype",
                             app_noise_name(request->noise_dtype), "precision", ink_model_precision(run->engine.model), "threads",
                             (json_int_t)run->stats.threads, "cpu", run->stats.cpu, "phase_seconds", phases, "total_seconds",
                             run->stats.total_seconds, "peak_bytes", (json_int_t)run->stats.peak_bytes, "resident_bytes",
                             (json_int_t)resident_peak(), "nan_pixels", (json_int_t)run->stats.nan_pixels);
    if (root && app_request_extras_to_json(root, request)) return root;
    json_decref(root);
    return NULL;
}

/* ---- the work ---- */

/* A picture is repeated with the instruction set that drew it, if this machine has it and the caller chose none. */
static ink_status open_session(job *run, ink_error *error) {
    const char *cpu = given(run, CLI_CPU), *variable = getenv("INK_CPU");
    bool repeat_cpu = !cpu && run->again.cpu && !(variable && *variable);
    ink_status status = cli_open_session(&run->engine, &run->options, repeat_cpu ? run->again.cpu : cpu, error);
    if (status == INK_ERROR_ARGUMENT && repeat_cpu) status = cli_open_session(&run->engine, &run->options, NULL, error);
    return status;
}

/* The library knows the dump by the name that it has until it is complete. */
static void name_the_dump(const job *run, ink_error *error) {
    const size_t n = run->dump.temporary ? strlen(run->dump.temporary) : 0;
    if (n == 0 || strncmp(error->message, run->dump.temporary, n) != 0) return;
    char reason[sizeof error->message];
    snprintf(reason, sizeof reason, "%s", error->message + n);
    app_fail(error, error->status, "%.600s%.300s", run->dump.path, reason);
}

static ink_status draw(job *run, ink_error *error) {
    run->request.progress = cli_show_progress;
    run->request.progress_user = &run->engine;
    ink_status status = ink_generate(run->engine.session, &run->request, &run->image, error);
    app_progress_clear(&run->engine.progress);
    if (status != INK_OK) name_the_dump(run, error);
    if (status == INK_OK) ink_session_stats(&run->stats, run->engine.session);
    return status;
}

/* A path as a record has it; NULL when memory is out. Released with free. */
static char *recorded_path(const char *path) {
    char *absolute = app_absolute_path(path), *valid = absolute ? app_valid_utf8(absolute) : NULL;
    free(absolute);
    return valid;
}

/* The two texts that go into the picture. Released with free, also after a failure. */
static ink_status make_texts(const job *run, char **parameters, char **json, ink_error *error) {
    char *recorded_dir = recorded_path(run->engine.dir), *files[APP_N_MODEL_FILES] = {NULL};
    bool complete = recorded_dir != NULL;
    const char *precision = ink_model_precision(run->engine.model);
    ink_precision known;
    app_record record = {.version = ink_version(),
                         .model = recorded_dir,
                         /* A checkpoint of several types has no name for its precision. */
                         .precision = app_precision_parse(precision, &known) ? precision : "auto",
                         .cpu = run->stats.cpu,
                         .request = run->request};
    for (int i = 0; i < APP_N_MODEL_FILES; i++) {
        const char *path = given(run, file_options[i]);
        record.files[i] = files[i] = path ? recorded_path(path) : NULL;
        complete = complete && (!path || files[i]);
    }
    *parameters = complete ? app_record_to_parameters(&record) : NULL;
    *json = complete ? app_record_to_json(&record) : NULL;
    for (int i = 0; i < APP_N_MODEL_FILES; i++) free(files[i]);
    free(recorded_dir);
    return *parameters && *json ? INK_OK : app_fail_memory(error, "the record of the picture");
}

static ink_status encode(job *run, ink_error *error) {
    char *parameters = NULL, *json = NULL;
    app_picture picture = {.pixels = ink_image_pixels(run->image),
                           .width = ink_image_width(run->image),
                           .height = ink_image_height(run->image),
                           .progress = cli_show_writing,
                           .progress_user = &run->engine};
    ink_status status = given(run, CLI_NO_METADATA) ? INK_OK : make_texts(run, &parameters, &json, error);
    picture.text = (app_image_text){parameters, json};
    if (status == INK_OK) status = app_image_write(run->picture.stream, run->format, &picture, error);
    app_progress_clear(&run->engine.progress);
    if (status == INK_ERROR_IO) app_fail_in_front(error, "cannot write %.600s", run->picture.path);
    free(parameters);
    free(json);
    return status;
}

static ink_status save(job *run, ink_error *error) {
    ink_status status = encode(run, error);
    if (status == INK_OK && app_interrupt_caught()) status = app_fail(error, INK_ERROR_CANCELLED, "interrupted");
    if (status == INK_OK && run->request.dump_path) status = app_output_publish(&run->dump, error);
    if (status == INK_OK) status = app_output_publish(&run->picture, error);
    return status;
}

static void release_job(job *run) {
    ink_image_destroy(&run->image);
    cli_close_engine(&run->engine);
    app_output_discard(&run->picture);
    app_output_discard(&run->dump);
    app_record_clear(&run->again);
    free(run->stdin_prompt);
    for (size_t i = 0; i < CLI_MAX_LORAS; i++) free((char *)(uintptr_t)run->loras[i].path);
}

int cli_generate(const cli_options *options) {
    job run = {.options = *options};
    ink_error error = {0};
    int exit_status;
    bool json = options->given[CLI_JSON] != NULL;
    ink_status status = read_options(&run, &error);
    if (status == INK_OK) status = open_model(&run, &error);
    if (status == INK_OK) status = open_session(&run, &error);
    if (status == INK_OK) status = build_request(&run, &error);
    if (status == INK_OK) status = open_outputs(&run, &error);
    if (status == INK_OK) note_request(&run);
    if (status == INK_OK) note_memory(&run);
    if (status == INK_OK) status = draw(&run, &error);
    if (status == INK_OK) status = save(&run, &error);
    if (status != INK_OK) {
        exit_status = cli_report_error(json, &error);
    } else {
        note_stats(&run);
        if (json) {
            exit_status = cli_print_json(job_to_json(&run));
        } else {
            if (!options->given[CLI_QUIET]) puts(run.picture.path);
            exit_status = cli_finish_output(CLI_DONE);
        }
    }
    release_job(&run);
    return exit_status;
}
