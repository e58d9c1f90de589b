/*
 * text_encoder.h - the language tower of Qwen2.5-VL: token ids to hidden states.
 * Source: transformers, modeling_qwen2_5_vl.py, Qwen2_5_VLTextModel.
 */
#ifndef INK_MODEL_TEXT_ENCODER_H
#define INK_MODEL_TEXT_ENCODER_H

#include "model/config.h"
#include "ops/ops.h"
#include "tensor/binder.h"

typedef struct ink_text_layer {
    ink_tensor input_norm, post_attention_norm; /* [1, hidden] */
    ink_weight q, k, v, o;
    ink_tensor q_bias, k_bias, v_bias;
    ink_weight gate, up, down;
} ink_text_layer;

typedef struct ink_text_encoder {
    const ink_text_encoder_config *config; /* borrowed */
    ink_table embed_tokens;                /* [vocab, hidden] */
    ink_text_layer *layers;                /* owned */
    ink_tensor norm;
    ink_binder *binder; /* borrowed: of layers that come and go, which it must outlive */
} ink_text_encoder;

/* Names every tensor of the tower to the binder, whose status tells how it went; layer i is part i. Release in any case. */
void ink_text_encoder_bind(ink_text_encoder *encoder, const ink_text_encoder_config *config, ink_binder *binder);
void ink_text_encoder_release(ink_text_encoder *encoder);

typedef struct ink_text_tokens {
    const int32_t *ids; /* [n] */
    int64_t n;
} ink_text_tokens;

/* Texts that do not see each other, n tokens in all: one text's behind the other's. */
typedef struct ink_text_input {
    const ink_text_tokens *texts;
    int n_texts;
    ink_tensor cos, sin; /* [n, head_dim / 2], of each text from ink_rope_text */
} ink_text_input;

/* states [n, hidden] = the last hidden states, after the final norm. All texts go through each layer together. */
void ink_text_encoder_forward(ink_ctx *c, ink_text_encoder *encoder, ink_tensor states, const ink_text_input *input);

#endif
