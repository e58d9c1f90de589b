/* text_encoder.c - the language tower, layer by layer. */
#include "model/text_encoder.h"

#include <math.h>

#include "base/memory.h"

enum { MOST_TOKENS = 2048 }; /* of a run: two prompts as long as they may be, and then some */

static void bind_layer(ink_text_layer *layer, const ink_text_encoder_config *config, ink_binder *b, int i) {
    int64_t hidden = config->hidden_size, mlp = config->intermediate_size;
    int64_t q_dim = config->n_heads * config->head_dim, kv_dim = config->n_kv_heads * config->head_dim;
    ink_bind_matrix(b, &layer->q, q_dim, hidden, "model.layers.%d.self_attn.q_proj.weight", i);
    ink_bind_vector(b, &layer->q_bias, q_dim, "model.layers.%d.self_attn.q_proj.bias", i);
    ink_bind_matrix(b, &layer->k, kv_dim, hidden, "model.layers.%d.self_attn.k_proj.weight", i);
    ink_bind_vector(b, &layer->k_bias, kv_dim, "model.layers.%d.self_attn.k_proj.bias", i);
    ink_bind_matrix(b, &layer->v, kv_dim, hidden, "model.layers.%d.self_attn.v_proj.weight", i);
    ink_bind_vector(b, &layer->v_bias, kv_dim, "model.layers.%d.self_attn.v_proj.bias", i);
    ink_bind_matrix(b, &layer->o, hidden, q_dim, "model.layers.%d.self_attn.o_proj.weight", i);
    ink_bind_vector(b, &layer->post_attention_norm, hidden, "model.layers.%d.post_attention_layernorm.weight", i);
    ink_bind_matrix(b, &layer->gate, mlp, hidden, "model.layers.%d.mlp.gate_proj.weight", i);
    ink_bind_matrix(b, &layer->up, mlp, hidden, "model.layers.%d.mlp.up_proj.weight", i);
    ink_bind_matrix(b, &layer->down, hidden, mlp, "model.layers.%d.mlp.down_proj.weight", i);
}

void ink_text_encoder_bind(ink_text_encoder *encoder, const ink_text_encoder_config *config, ink_binder *b) {
    *encoder = (ink_text_encoder){.config = config, .binder = b};
    encoder->layers = ink_alloc_array((size_t)config->n_layers, sizeof *encoder->layers);
    if (!encoder->layers) {
        b->status = ink_fail(b->error, INK_ERROR_MEMORY, "no memory for the text encoder's layer list");
        return;
    }
    ink_bind_table(b, &encoder->embed_tokens, config->vocab_size, config->hidden_size, MOST_TOKENS, "model.embed_tokens.weight");
    for (int i = 0; i < config->n_layers; i++) {
        /* Of no part, for the layer before uses it. */
        ink_bind_vector(b, &encoder->layers[i].input_norm, config->hidden_size, "model.layers.%d.input_layernorm.weight", i);
        ink_bind_part(b, i);
        bind_layer(&encoder->layers[i], config, b, i);
        ink_bind_part(b, -1);
    }
    ink_bind_vector(b, &encoder->norm, config->hidden_size, "model.norm.weight");
    ink_bind_finish(b);
    ink_bind_ignore(b, "lm_head."); /* the hidden states are what is wanted */
    ink_bind_ignore(b, "visual.");  /* text alone */
}

void ink_text_encoder_release(ink_text_encoder *encoder) {
    ink_free(encoder->layers);
    *encoder = (ink_text_encoder){0};
}

/* The layer, of which the next one is on its way. */
static const ink_text_layer *acquire(ink_ctx *c, ink_text_encoder *encoder, int64_t i) {
    ink_binder *b = encoder->binder;
    if (c->status == INK_OK && ink_bind_acquire(b, i)) {
        bind_layer(&encoder->layers[i], encoder->config, b, (int)i);
        ink_bind_part(b, -1);
    }
    if (c->status == INK_OK) c->status = b->status;
    ink_residency_prefetch(b->residency, i + 1);
    return &encoder->layers[i];
}

/* attended [n, hidden] = o(attention(q, k, v)) of normed [n, hidden]; may be the same view. */
static void self_attention(ink_ctx *c, const ink_text_encoder *encoder, const ink_text_layer *layer, const ink_text_input *input,
                           ink_tensor attended, ink_tensor normed) {
    const ink_text_encoder_config *config = encoder->config;
    int64_t n = normed.rows, q_dim = config->n_heads * config->head_dim, kv_dim = config->n_kv_heads * config->head_dim;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor qkv = ink_scratch(c, n, q_dim + 2 * kv_dim), heads = ink_scratch(c, n, q_dim);
    ink_tensor q = ink_cols(qkv, 0, q_dim), k = ink_cols(qkv, q_dim, kv_dim), v = ink_cols(qkv, q_dim + kv_dim, kv_dim);

    ink_linear(c, q, normed, &layer->q, (ink_linear_epilogue){.bias = &layer->q_bias});
    ink_linear(c, k, normed, &layer->k, (ink_linear_epilogue){.bias = &layer->k_bias});
    ink_linear(c, v, normed, &layer->v, (ink_linear_epilogue){.bias = &layer->v_bias});
    ink_rope_half(c, q, input->cos, input->sin, config->n_heads);
    ink_rope_half(c, k, input->cos, input->sin, config->n_kv_heads);
    const ink_attention_shape shape = {.n_heads = config->n_heads,
                                       .n_kv_heads = config->n_kv_heads,
                                       .head_dim = config->head_dim,
                                       .scale = (float)(1.0 / sqrt((double)config->head_dim)),
                                       .causal = true};
    for (int64_t i = 0, first = 0; i < input->n_texts; first += input->texts[i].n, i++) {
        int64_t n_rows = input->texts[i].n;
        ink_attention(c, ink_rows(heads, first, n_rows), ink_rows(q, first, n_rows), ink_rows(k, first, n_rows),
                      ink_rows(v, first, n_rows), shape);
    }
    ink_linear(c, attended, heads, &layer->o, (ink_linear_epilogue){0});
    ink_arena_release(c->arena, mark);
}

/* out [n, hidden] = down(silu(gate(normed)) * up(normed)); may be the same view. */
static void mlp(ink_ctx *c, const ink_text_layer *layer, ink_tensor out, ink_tensor normed) {
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor gate = ink_scratch(c, normed.rows, layer->gate.rows), up = ink_scratch(c, normed.rows, layer->up.rows);
    ink_linear(c, gate, normed, &layer->gate, (ink_linear_epilogue){0});
    ink_linear(c, up, normed, &layer->up, (ink_linear_epilogue){0});
    ink_silu_mul(c, gate, gate, up);
    ink_linear(c, out, gate, &layer->down, (ink_linear_epilogue){0});
    ink_arena_release(c->arena, mark);
}

void ink_text_encoder_forward(ink_ctx *c, ink_text_encoder *encoder, ink_tensor states, const ink_text_input *input) {
    const ink_text_encoder_config *config = encoder->config;
    const float eps = (float)config->rms_norm_eps;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor x = ink_scratch(c, states.rows, config->hidden_size); /* the residual stream */
    ink_tensor y = ink_scratch(c, states.rows, config->hidden_size); /* normed, then what a layer adds to x */

    ink_residency_begin(encoder->binder->residency);
    for (int64_t i = 0, first = 0; i < input->n_texts; first += input->texts[i].n, i++)
        ink_embed_rows(c, ink_rows(x, first, input->texts[i].n), &encoder->embed_tokens, input->texts[i].ids);
    ink_rmsnorm(c, y, x, encoder->layers[0].input_norm, eps);
    for (int64_t i = 0; i < config->n_layers; i++) {
        const ink_text_layer *layer = acquire(c, encoder, i);
        bool last = i == config->n_layers - 1;
        self_attention(c, encoder, layer, input, y, y);
        ink_residual_rmsnorm(c, y, x, y, layer->post_attention_norm, eps);
        mlp(c, layer, y, y);
        ink_residual_rmsnorm(c, last ? states : y, x, y, last ? encoder->norm : encoder->layers[i + 1].input_norm, eps);
        ink_residency_release(encoder->binder->residency, i);
    }
    ink_arena_release(c->arena, mark);
}
