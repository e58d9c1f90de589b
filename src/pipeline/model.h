/* model.h - an opened checkpoint: configs, tokenizer and mapped weights, all immutable. */
#ifndef INK_PIPELINE_MODEL_H
#define INK_PIPELINE_MODEL_H

#include "inkstone.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "pipeline/sources.h"
#include "tensor/binder.h"
#include "tensor/weights.h"

struct ink_model {
    ink_sources sources;
    ink_config config;
    ink_tokenizer *tokenizer;
    ink_weights *weights[INK_N_COMPONENTS];
    /* Of a model that is only measured: random numbers instead of weights, of which there are none, nor a tokenizer. */
    ink_synthetic *synthetic;
    int64_t synthetic_tokens; /* of every prompt: rows that the transformer is given */
    ink_precision precision;  /* INK_PRECISION_AUTO when the files mix forms that are used as they are */
};

/* Names all tensors of a component to a binder that only checks or reports. */
void ink_model_bind_all(ink_binder *binder, const ink_config *config, ink_component which);

#endif
