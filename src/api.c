/*
 * api.c - the public functions that create, destroy and run: argument checks, then the pipeline. Functions that belong to one
 * part of the library (ink_model_open, ink_request_init, ink_inspect, ...) are defined there.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/memory.h"
#include "inkstone.h"
#include "model/tokenizer.h"
#include "pipeline/generate.h"
#include "pipeline/request.h"
#include "pipeline/sources.h"
#include "tensor/safetensors.h"

#define TEXT(x) #x
#define VERSION_TEXT(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *ink_version(void) { return VERSION_TEXT(INK_VERSION_MAJOR, INK_VERSION_MINOR, INK_VERSION_PATCH); }

/* Of a folder of single files, as a model of it has it. */
static ink_status find_tokenizer(ink_tokenizer **tokenizer, const char *dir, ink_error *error) {
    ink_sources sources;
    ink_weights *text_encoder = NULL;
    ink_status status = ink_sources_find(&sources, dir, NULL, error);
    if (status == INK_OK && sources.is_file[INK_TEXT_ENCODER]) /* which may hold it */
        status = ink_component_open(&text_encoder, &sources, INK_TEXT_ENCODER, error);
    if (status == INK_OK) status = ink_sources_open_tokenizer(tokenizer, &sources, text_encoder, error);
    ink_weights_close(&text_encoder);
    ink_sources_release(&sources);
    return status;
}

static ink_status open_tokenizer(ink_tokenizer **tokenizer, const char *dir, ink_error *error) {
    char *folder = ink_format("%s/tokenizer", dir);
    if (!folder) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", dir);
    bool is_there = access(folder, F_OK) == 0;
    ink_status status = is_there ? ink_tokenizer_open_folder(tokenizer, folder, error) : find_tokenizer(tokenizer, dir, error);
    ink_free(folder);
    return status;
}

ink_status ink_tokenize(const char *dir, const char *text, int32_t **ids, size_t *n_ids, ink_error *error) {
    ink_error_clear(error);
    *ids = NULL;
    *n_ids = 0;
    if (!dir || !text) return ink_fail(error, INK_ERROR_ARGUMENT, "%s is given to encode", dir ? "no text" : "no model folder");
    ink_tokenizer *tokenizer;
    ink_status status = open_tokenizer(&tokenizer, dir, error);
    if (status != INK_OK) return status;
    status = ink_tokenizer_encode(tokenizer, text, strlen(text), ids, n_ids, error);
    ink_tokenizer_close(&tokenizer);
    return status;
}

ink_status ink_plan(ink_memory_plan *plan, const ink_model *model, const ink_request *request, ink_error *error) {
    ink_status status = ink_request_check(request, model, error);
    return status == INK_OK ? ink_generate_plan(plan, model, NULL, NULL, request, error) : status;
}

ink_status ink_session_plan(ink_memory_plan *plan, const ink_session *session, const ink_request *request, ink_error *error) {
    const ink_device *device = session->device.memory ? &session->device : NULL;
    ink_status status = ink_request_check(request, session->model, error);
    return status == INK_OK ? ink_generate_plan(plan, session->model, device, &session->networks, request, error) : status;
}

/* ---- session ------------------------------------------------------------------------------------------------------- */

enum { MAX_THREADS = 1024 };

static ink_status fail_tier(const char *tier, const char *why, ink_error *error) {
    char known[128] = "auto";
    for (int i = 0; ink_device_tier(i); i++) {
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, ", %s", ink_device_tier(i));
    }
    return ink_fail(error, INK_ERROR_ARGUMENT, "CPU tier \"%.60s\": %s, expected one of %s", tier, why, known);
}

/* A GPU that was asked for by name must be there; "auto" does without, and remembers why. */
static ink_status open_device(ink_session *session, const ink_session_options *options, ink_error *error) {
    const char *tier = options && options->cpu ? options->cpu : ink_env("INK_CPU"), *why = NULL;
    const char *backend = options && options->backend ? options->backend : ink_env("INK_BACKEND");
    bool any = !backend || strcmp(backend, "auto") == 0, gpu = backend && ink_device_names_gpu(backend);
    if (!any && !gpu && strcmp(backend, "cpu") != 0)
        return ink_fail(error, INK_ERROR_ARGUMENT, "back end \"%.60s\": expected auto, cpu, cuda or cuda:N", backend);
    if ((any && !tier) || gpu) {
        if (ink_device_open(&session->device, gpu ? backend : "cuda", session->threads, &why)) return INK_OK;
        snprintf(session->no_gpu, sizeof session->no_gpu, "%s", why);
        if (gpu) return ink_fail(error, INK_ERROR_DEVICE, "back end %.60s cannot be used: %s", backend, session->no_gpu);
    }
    return ink_device_open(&session->device, tier, session->threads, &why) ? INK_OK : fail_tier(tier, why, error);
}

static ink_status open_session(ink_session *session, const ink_session_options *options, ink_error *error) {
    int64_t n = options ? options->threads : 0;
    if (n < 0 || n > MAX_THREADS)
        return ink_fail(error, INK_ERROR_ARGUMENT, "%lld threads are out of range: expected 1 to %d", (long long)n, MAX_THREADS);
    if (n == 0) n = ink_threads_available();
    session->threads = ink_threads_create(n);
    if (!session->threads) return ink_fail(error, INK_ERROR_MEMORY, "%lld threads cannot be created", (long long)n);

    ink_status status = open_device(session, options, error);
    if (status != INK_OK) return status;
    const char *why = NULL;
    if (!ink_device_open(&session->definition, "ref", session->threads, &why))
        return ink_fail(error, INK_ERROR_INTERNAL, "CPU tier \"ref\": %s", why);
    session->check = ink_env_flag("INK_CHECK");
    session->poison = ink_env_flag("INK_POISON");
    const char *trace = ink_env("INK_TRACE");
    if (trace && !(session->trace = fopen(trace, "w")))
        return ink_fail(error, INK_ERROR_IO, "INK_TRACE: %s cannot be written: %s", trace, strerror(errno));
    return INK_OK;
}

ink_status ink_session_create(ink_session **session, ink_model *model, const ink_session_options *options, ink_error *error) {
    ink_error_clear(error);
    *session = ink_alloc(sizeof **session);
    if (!*session) return ink_fail(error, INK_ERROR_MEMORY, "no memory for a session");
    (*session)->model = model;
    ink_status status = open_session(*session, options, error);
    if (status == INK_OK)
        (*session)->stats = (ink_stats){.threads = ink_threads_count((*session)->threads), .cpu = (*session)->device.tier};
    else
        ink_session_destroy(session);
    return status;
}

void ink_session_destroy(ink_session **session) {
    if (!*session) return;
    ink_networks_release(&(*session)->networks, &(*session)->device);
    ink_device_close(&(*session)->device);
    ink_threads_destroy((*session)->threads);
    if ((*session)->trace) fclose((*session)->trace);
    ink_free(*session);
    *session = NULL;
}

void ink_session_cancel(ink_session *session) { atomic_store(&session->cancel, 1); }

const char *ink_session_no_gpu(const ink_session *session) { return session->no_gpu[0] ? session->no_gpu : NULL; }

void ink_session_stats(ink_stats *stats, const ink_session *session) { *stats = session->stats; }

ink_status ink_generate(ink_session *session, const ink_request *request, ink_image **image, ink_error *error) {
    *image = NULL;
    ink_status status = ink_request_check(request, session->model, error);
    /* Hours of work are not to end in a file that cannot be written. */
    if (status == INK_OK && request->dump_path) status = ink_safetensors_check_writable(request->dump_path, error);
    if (status != INK_OK) return status;
    ink_stages stages = {0};
    status = ink_generate_run(session, request, NULL, image, request->dump_path ? &stages : NULL, error);
    if (status == INK_OK && request->dump_path) {
        ink_request resolved = ink_request_resolved(request, session->model);
        status = ink_stages_write(&stages, request->dump_path, &resolved, ink_request_guided(request), error);
        if (status != INK_OK) ink_image_destroy(image);
    }
    ink_stages_release(&stages);
    return status;
}
