/*
 * model_store.h - the models that are known by a name: those that were pulled, those in the hub's own cache, and those that are
 * shipped. Nothing here asks the network.
 */
#ifndef APP_COMMON_MODEL_STORE_H
#define APP_COMMON_MODEL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/failure.h"

typedef enum app_model_origin {
    APP_MODEL_PULLED = 0, /* has the record of a pull */
    APP_MODEL_FOLDER,     /* lies among the pulled ones, put there by hand */
    APP_MODEL_CACHED,     /* in the cache that the hub's own tools keep */
    APP_MODEL_SHIPPED
} app_model_origin;

typedef struct app_model_entry {
    char *name; /* what -m takes: "qwen-image-2512" */
    char *dir;
    char *repo;   /* "Qwen/Qwen-Image-2512", or NULL */
    char *commit; /* or NULL */
    app_model_origin origin;
    int64_t n_bytes;   /* of all files that are there */
    size_t n_missing;  /* files that a pull has still to bring, as far as known */
    size_t n_left_out; /* files that the pipeline needs and --only left out */
} app_model_entry;

typedef struct app_model_list {
    app_model_entry *entries; /* in the order in which names are looked up */
    size_t n_entries;
} app_model_list;

/* Where pulled models lie: $INK_MODELS, else $XDG_DATA_HOME/inkstone/models, else ~/.local/share/inkstone/models. */
char *app_models_folder(void);
/* $HF_HOME, else huggingface in $XDG_CACHE_HOME or ~/.cache. */
char *app_hub_home(void);
/* Each is released with free, and NULL when there is no home folder, or no memory. */

/* All models that are there. Folders that cannot be read count as empty. Release with app_model_list_clear. Errors: MEMORY. */
ink_status app_model_list_find(app_model_list *list, ink_error *error);
void app_model_list_clear(app_model_list *list);

/* The model of a name or of a repository ("Org/Name"), in any case of letters; NULL when there is none. */
const app_model_entry *app_model_list_get(const app_model_list *list, const char *name);

/* "pulled", "folder", "cache", "shipped". */
const char *app_model_origin_name(app_model_origin origin);

#endif
