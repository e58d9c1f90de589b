/* model.h - an opened checkpoint: configs, tokenizer and mapped weights, all immutable. */
#ifndef INK_PIPELINE_MODEL_H
#define INK_PIPELINE_MODEL_H

#include "inkstone.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "tensor/weights.h"

typedef enum ink_component { INK_TEXT_ENCODER, INK_TRANSFORMER, INK_VAE, INK_N_COMPONENTS } ink_component;

struct ink_model {
    ink_config config;
    ink_tokenizer *tokenizer;
    ink_weights *weights[INK_N_COMPONENTS];
    ink_precision precision; /* INK_PRECISION_AUTO when the files mix forms that are used as they are */
};

/* "text_encoder": the name of its folder. Static storage. */
const char *ink_component_name(ink_component component);

/* Opens the weight files of one component of a checkpoint folder. */
ink_status ink_component_open(ink_weights **weights, const char *dir, ink_component component, ink_error *error);

#endif
