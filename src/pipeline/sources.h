/*
 * sources.h - where the parts of a model lie: in a checkpoint folder, or in single files as other programs keep them.
 */
#ifndef INK_PIPELINE_SOURCES_H
#define INK_PIPELINE_SOURCES_H

#include "inkstone.h"
#include "model/checkpoint_names.h"
#include "model/config.h"
#include "model/tokenizer.h"

typedef struct ink_sources {
    char *dir;                     /* NULL: none was named */
    bool published;                /* dir has a model_index.json */
    char *paths[INK_N_COMPONENTS]; /* of the weights: a folder, or a file */
    bool is_file[INK_N_COMPONENTS];
    char *tokenizer;      /* folder; NULL: none */
    bool tokenizer_named; /* by the caller, so that it counts more than one in a file */
    char **notes;         /* what the user should know of the choice */
    size_t n_notes;
} ink_sources;

/*
 * Looks for every part, first where options say, then in dir by its layout: the published one, with or without a model_index.json,
 * or files anywhere in it, known by the tensors that they hold. dir may be NULL when options name the rest; so may options.
 * Errors: IO (nothing there), UNSUPPORTED (another family), ARGUMENT (neither dir nor option for a part). Release in any case.
 */
ink_status ink_sources_find(ink_sources *sources, const char *dir, const ink_model_options *options, ink_error *error);
void ink_sources_release(ink_sources *sources);

/* "text_encoder": the name of its folder. Static storage. */
const char *ink_component_name(ink_component component);

/* "diffusion_pytorch_model": the name of its files, without the suffix. Static storage. */
const char *ink_component_stem(ink_component component);

/* The component's config.json: beside the weights of a folder, else in dir. Owned; NULL in *path: there is none. Errors: MEMORY. */
ink_status ink_component_config(const ink_sources *sources, ink_component component, char **path, ink_error *error);

/* Opens the weights of one component, under the names that models ask for. */
ink_status ink_component_open(ink_weights **weights, const ink_sources *sources, ink_component component, ink_error *error);

/*
 * Reads the configs that are there as files; known says of which components. What a published folder must have is an error when it
 * has it not; otherwise the scheduler is as published. Release *config with ink_config_close in any case.
 */
ink_status ink_sources_read_configs(ink_config *config, const ink_sources *sources, bool known[INK_N_COMPONENTS], ink_error *error);

/* Its steps, in this order, for who wants to know of more than the first that fails. */
ink_status ink_sources_begin_configs(ink_config *config, const ink_sources *sources, ink_error *error);
ink_status ink_sources_read_config(ink_config *config, const ink_sources *sources, ink_component component, bool *known,
                                   ink_error *error);
ink_status ink_sources_read_scheduler(ink_config *config, const ink_sources *sources, ink_error *error);
ink_status ink_sources_read_defaults(ink_config *config, const ink_sources *sources, ink_error *error);

/* Opens the tokenizer of a folder: vocab.json and merges.txt, or where these are not, tokenizer.json. */
ink_status ink_tokenizer_open_folder(ink_tokenizer **tokenizer, const char *folder, ink_error *error);

/* Opens the tokenizer: of the folder, or in the text encoder's GGUF file. text_encoder may be NULL. */
ink_status ink_sources_open_tokenizer(ink_tokenizer **tokenizer, const ink_sources *sources, const ink_weights *text_encoder,
                                      ink_error *error);

#endif
