/*
 * request_json.h - the record of a request: what a picture carries so that it can be drawn again, as JSON (the "inkstone"
 * chunk) and as the text that web interfaces show ("parameters"). Also the names of the request's choices.
 */
#ifndef APP_COMMON_REQUEST_JSON_H
#define APP_COMMON_REQUEST_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "common/failure.h"

/* Parts of a model that lie in files of their own. */
typedef enum app_model_file { APP_DIFFUSION_MODEL, APP_TEXT_ENCODER, APP_VAE, APP_TOKENIZER, APP_N_MODEL_FILES } app_model_file;

typedef struct app_record {
    const char *version;                  /* of the program that drew it */
    const char *model;                    /* folder, absolute; or the first of the files where there is none */
    const char *files[APP_N_MODEL_FILES]; /* absolute; NULL: the folder's */
    const char *precision;                /* as app_precision_parse takes it */
    const char *cpu;                      /* tier that ran, or NULL */
    ink_request request;                  /* prompt .. shift_terminal; the rest is unset */
    ink_lora *loras;                      /* owned: those of the request, in a parsed record */
    json_t *owner;                        /* keeps the strings of a parsed record alive; NULL in a record made by hand */
} app_record;

/* One line of pure ASCII JSON, released with free. NULL when memory is out or a string is no UTF-8. */
char *app_record_to_json(const app_record *record);

/* Foreign text: everything is checked. Release with app_record_clear. Errors: FORMAT, UNSUPPORTED. origin names it in sentences. */
ink_status app_record_parse(app_record *record, const char *text, size_t size, const char *origin, ink_error *error);
void app_record_clear(app_record *record);

/* "prompt\nNegative prompt: ...\nSteps: 20, ...". Released with free; NULL when memory is out. */
char *app_record_to_parameters(const app_record *record);

/* Adds LoRA files, merging and schedule, as far as the request has any. False when memory is out. */
bool app_request_extras_to_json(json_t *root, const ink_request *request);

/* An integer where every JSON reader keeps it exact (below 2^53), else a string of digits. NULL when memory is out. */
json_t *app_seed_to_json(uint64_t seed);

const char *app_noise_name(ink_noise_dtype noise);
bool app_noise_parse(const char *text, ink_noise_dtype *noise);
bool app_precision_parse(const char *text, ink_precision *precision);
/* The same back. Static storage. */
const char *app_precision_name(ink_precision precision);

#endif
