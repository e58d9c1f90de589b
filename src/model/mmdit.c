/* mmdit.c - the diffusion transformer, block by block. */
#include "model/mmdit.h"

#include <math.h>

#include "base/memory.h"

static const float EPS = 1e-6f; /* of every norm in this network; fixed in the reference */

enum { TIME_CHANNELS = 256, TXT = 0, IMG = 1 };

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* The names of a stream's tensors inside a block; the reference calls the text stream "added". */
typedef struct stream_names {
    const char *q, *k, *v, *out, *q_norm, *k_norm, *mlp;
} stream_names;

static const stream_names txt_names = {"attn.add_q_proj",   "attn.add_k_proj",   "attn.add_v_proj", "attn.to_add_out",
                                       "attn.norm_added_q", "attn.norm_added_k", "txt_mlp"};
static const stream_names img_names = {"attn.to_q",   "attn.to_k",   "attn.to_v", "attn.to_out.0",
                                       "attn.norm_q", "attn.norm_k", "img_mlp"};

static void bind_linear(ink_binder *b, ink_weight *w, ink_tensor *bias, int64_t out, int64_t in, int block, const char *name) {
    ink_bind_matrix(b, w, out, in, "transformer_blocks.%d.%s.weight", block, name);
    ink_bind_vector(b, bias, out, "transformer_blocks.%d.%s.bias", block, name);
}

static void bind_stream(ink_mmdit_stream *s, const stream_names *names, const ink_mmdit_config *config, ink_binder *b, int block) {
    int64_t d = config->dim;
    ink_bind_together(b, 3);
    bind_linear(b, &s->q, &s->q_bias, d, d, block, names->q);
    bind_linear(b, &s->k, &s->k_bias, d, d, block, names->k);
    bind_linear(b, &s->v, &s->v_bias, d, d, block, names->v);
    ink_bind_together(b, 0);
    bind_linear(b, &s->out, &s->out_bias, d, d, block, names->out);
    ink_bind_vector(b, &s->q_norm, config->head_dim, "transformer_blocks.%d.%s.weight", block, names->q_norm);
    ink_bind_vector(b, &s->k_norm, config->head_dim, "transformer_blocks.%d.%s.weight", block, names->k_norm);
    ink_bind_matrix(b, &s->mlp_up, 4 * d, d, "transformer_blocks.%d.%s.net.0.proj.weight", block, names->mlp);
    ink_bind_vector(b, &s->mlp_up_bias, 4 * d, "transformer_blocks.%d.%s.net.0.proj.bias", block, names->mlp);
    ink_bind_matrix(b, &s->mlp_down, d, 4 * d, "transformer_blocks.%d.%s.net.2.weight", block, names->mlp);
    ink_bind_vector(b, &s->mlp_down_bias, d, "transformer_blocks.%d.%s.net.2.bias", block, names->mlp);
}

static void bind_block(ink_mmdit *m, ink_binder *b, int block) {
    bind_stream(&m->blocks[block].txt, &txt_names, m->config, b, block);
    bind_stream(&m->blocks[block].img, &img_names, m->config, b, block);
}

void ink_mmdit_bind(ink_mmdit *m, const ink_mmdit_config *config, ink_binder *b) {
    *m = (ink_mmdit){.config = config, .binder = b};
    m->blocks = ink_alloc_array((size_t)config->n_layers, sizeof *m->blocks);
    if (!m->blocks) {
        b->status = ink_fail(b->error, INK_ERROR_MEMORY, "no memory for the transformer's block list");
        return;
    }
    int64_t d = config->dim;
    ink_bind_sensitive_matrix(b, &m->img_in, d, config->in_channels, "img_in.weight");
    ink_bind_vector(b, &m->img_in_bias, d, "img_in.bias");
    ink_bind_vector(b, &m->txt_norm, config->joint_dim, "txt_norm.weight");
    ink_bind_sensitive_matrix(b, &m->txt_in, d, config->joint_dim, "txt_in.weight");
    ink_bind_vector(b, &m->txt_in_bias, d, "txt_in.bias");
    ink_bind_sensitive_matrix(b, &m->proj_out, config->in_channels, d, "proj_out.weight");
    ink_bind_vector(b, &m->proj_out_bias, config->in_channels, "proj_out.bias");
    m->n_end_uploads = b->uploads.n;
    for (int i = 0; i < config->n_layers; i++) {
        ink_bind_part(b, i);
        bind_block(m, b, i);
    }
    ink_bind_part(b, -1);
    ink_bind_finish(b);
}

void ink_mmdit_release(ink_mmdit *m) {
    ink_free(m->blocks);
    *m = (ink_mmdit){0};
}

/* ---- modulation of all steps --------------------------------------------------------------------------------------- */

ink_modulation ink_modulation_take(ink_ctx *c, const ink_mmdit_config *config, int64_t n_steps) {
    return (ink_modulation){
        .n_steps = n_steps,
        .blocks = ink_scratch(c, config->n_layers * 2 * n_steps, 6 * config->dim),
        .out = ink_scratch(c, n_steps, 2 * config->dim),
    };
}

/* Layers: two of the time; those of blocks, of each the text's and the image's; and that of the network's end. */
enum { TIME_FIRST, TIME_SECOND, BLOCKS_FIRST };

struct ink_modulator_layer {
    ink_weight w;
    ink_tensor bias;
};

static int n_modulator_layers(const ink_mmdit_config *config) { return BLOCKS_FIRST + 2 * (int)config->n_layers + 1; }

static const char *name_layer(char name[64], const ink_mmdit_config *config, int i) {
    int of_block = i - BLOCKS_FIRST;
    if (i < BLOCKS_FIRST)
        snprintf(name, 64, "time_text_embed.timestep_embedder.linear_%d", i + 1);
    else if (i < n_modulator_layers(config) - 1)
        snprintf(name, 64, "transformer_blocks.%d.%s_mod.1", of_block / 2, of_block % 2 == TXT ? "txt" : "img");
    else
        snprintf(name, 64, "norm_out.linear");
    return name;
}

/* n layers from `first` on. */
static void bind_layers(ink_binder *b, const ink_mmdit_config *config, struct ink_modulator_layer *layers, int first, int n) {
    for (int i = first; i < first + n; i++, layers++) {
        char name[64];
        int64_t d = config->dim, in = i == TIME_FIRST ? TIME_CHANNELS : d, last = n_modulator_layers(config) - 1;
        int64_t out = i < BLOCKS_FIRST ? d : i < last ? 6 * d : 2 * d;
        name_layer(name, config, i);
        ink_bind_sensitive_matrix(b, &layers->w, out, in, "%s.weight", name);
        ink_bind_vector(b, &layers->bias, out, "%s.bias", name);
    }
    ink_bind_finish(b);
}

void ink_modulator_bind(ink_modulator *m, const ink_mmdit_config *config, ink_binder *b) {
    int n = n_modulator_layers(config);
    m->layers = ink_alloc_array((size_t)n, sizeof *m->layers);
    if (m->layers)
        bind_layers(b, config, m->layers, 0, n);
    else
        b->status = ink_fail(b->error, INK_ERROR_MEMORY, "no memory for the list of the modulation's layers");
}

void ink_modulator_release(ink_modulator *m) {
    ink_free(m->layers);
    m->layers = NULL;
}

/* Layers that are on their way to the device together save it from waiting; elsewhere they would only take memory. */
enum { MOST_AT_ONCE = 4 };

/* What ink_mmdit_modulate is given. */
typedef struct modulating {
    ink_ctx *c;
    const ink_mmdit_config *config;
    const ink_modulator *modulator; /* NULL: the binder's */
    ink_binder *binder;
} modulating;

/* dst[i] = act(x W^T + bias) with n layers from `first` on. */
static void pass(const modulating *m, const ink_tensor *dst, ink_tensor x, ink_activation act, int first, int n) {
    ink_binder *b = m->binder;
    struct ink_modulator_layer passing[MOST_AT_ONCE];
    const struct ink_modulator_layer *layers = m->modulator ? m->modulator->layers + first : passing;
    int64_t before = b->stored_bytes;
    if (!m->modulator) bind_layers(b, m->config, passing, first, n);
    if (b->status != INK_OK && m->c->status == INK_OK) m->c->status = b->status;
    for (int i = 0; i < n && m->c->status == INK_OK; i++)
        ink_linear(m->c, dst[i], x, &layers[i].w, (ink_linear_epilogue){.bias = &layers[i].bias, .activation = act});
    b->stored_bytes = before;
    if (b->mode != INK_BIND_LOAD || m->modulator) return;
    for (int i = first; i < first + n; i++) {
        char name[64], of_weight[80];
        snprintf(of_weight, sizeof of_weight, "%s.weight", name_layer(name, m->config, i));
        ink_bind_drop(b, of_weight);
    }
    ink_store_release(b->store);
}

void ink_mmdit_modulate(ink_ctx *c, const ink_mmdit_config *config, const ink_modulator *modulator, ink_binder *b, ink_tensor times,
                        const ink_modulation *modulation) {
    const modulating m = {c, config, modulator, b};
    int64_t n = modulation->n_steps, d = config->dim;
    int at_once = b->memory ? MOST_AT_ONCE : 1, n_layers = 2 * (int)config->n_layers;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor waves = ink_scratch(c, n, TIME_CHANNELS), hidden = ink_scratch(c, n, d), time = ink_scratch(c, n, d);
    ink_timestep_embed(c, waves, times);
    pass(&m, &hidden, waves, INK_ACT_SILU, TIME_FIRST, 1);
    /* Every use of the time embedding is through a SiLU, so it is applied here, once. */
    pass(&m, &time, hidden, INK_ACT_SILU, TIME_SECOND, 1);
    for (int first = 0; first < n_layers; first += at_once) {
        int n_now = n_layers - first < at_once ? n_layers - first : at_once;
        ink_tensor dst[MOST_AT_ONCE];
        for (int i = 0; i < n_now; i++) dst[i] = ink_rows(modulation->blocks, (first + i) * n, n);
        pass(&m, dst, time, INK_ACT_NONE, BLOCKS_FIRST + first, n_now);
    }
    pass(&m, &modulation->out, time, INK_ACT_NONE, BLOCKS_FIRST + n_layers, 1);
    ink_arena_release(c->arena, mark);
}

void ink_modulation_copy_step(ink_ctx *c, const ink_modulation *dst, const ink_modulation *src, int64_t step) {
    /* Of every block and stream one row in n_steps. */
    ink_tensor rows = ink_rows(src->blocks, step, 1);
    rows.rows = dst->blocks.rows;
    rows.stride = src->n_steps * src->blocks.stride;
    ink_copy(c, dst->blocks, rows);
    ink_copy(c, dst->out, ink_rows(src->out, step, 1));
}

/* The six vectors of one stream in one block at one step, each [1, dim]. */
typedef struct block_modulation {
    ink_tensor shift1, scale1, gate1, shift2, scale2, gate2;
} block_modulation;

static block_modulation modulation_at(const ink_modulation *m, int64_t block, int stream, int64_t step, int64_t d) {
    ink_tensor row = ink_rows(m->blocks, (2 * block + stream) * m->n_steps + step, 1);
    return (block_modulation){ink_cols(row, 0, d),     ink_cols(row, d, d),     ink_cols(row, 2 * d, d),
                              ink_cols(row, 3 * d, d), ink_cols(row, 4 * d, d), ink_cols(row, 5 * d, d)};
}

/* ---- blocks that come and go ---------------------------------------------------------------------------------------- */

/* The block, of which the next one is on its way; after the last one that of the next step. */
static const ink_mmdit_block *acquire(ink_ctx *c, ink_mmdit *m, int64_t i, bool last_step) {
    ink_binder *b = m->binder;
    if (c->status == INK_OK && ink_bind_acquire(b, i)) {
        bind_block(m, b, (int)i);
        ink_bind_part(b, -1);
    }
    if (c->status == INK_OK) c->status = b->status;
    ink_residency_prefetch(b->residency, i + 1 < m->config->n_layers || last_step ? i + 1 : 0);
    return &m->blocks[i];
}

/* ---- forward ------------------------------------------------------------------------------------------------------- */

/* The buffers of one stream, of all sides. */
typedef struct tokens {
    ink_tensor x;        /* [n, dim] the residual stream */
    ink_tensor y;        /* [n, dim] normed; and what the attention's last layer makes of `attended`, which is not yet in x */
    ink_tensor qkv;      /* [n, 3 dim] */
    ink_tensor attended; /* [n, dim]; and what goes into the MLP, and comes out of it, which is not yet in x either */
    ink_tensor cos, sin; /* [n, head_dim / 2] */
} tokens;

/* Where the tokens of a side stand: its text in the stream, and both in the buffers of the attention. */
typedef struct place {
    int64_t stream_txt, n_txt, first_txt, first_img;
} place;

typedef struct layout {
    place sides[INK_MAX_SIDES];
    int n_sides;
    int64_t n_txt, n_img, n; /* of all sides; n_img of each */
    bool together;           /* the attention's rows are not those of the streams */
} layout;

static layout places_of(const ink_mmdit_input *input, bool together) {
    layout l = {.n_sides = input->n_sides, .n_img = input->latents.rows, .together = together && input->n_sides == 2};
    for (int i = 0; i < l.n_sides; i++) {
        l.sides[i] = (place){.stream_txt = l.n_txt, .n_txt = input->text[i].rows, .first_txt = l.n_txt};
        l.n_txt += l.sides[i].n_txt;
    }
    for (int i = 0; i < l.n_sides; i++) l.sides[i].first_img = l.n_txt + i * l.n_img;
    l.n = l.n_txt + l.n_sides * l.n_img;
    if (!l.together) return l;
    l.sides[0].first_img = l.sides[0].n_txt;
    l.sides[1].first_img = l.sides[0].first_img + l.n_img;
    l.sides[1].first_txt = l.sides[1].first_img + l.n_img;
    return l;
}

/* The buffers of a forward: those of the streams, and of the attention, of which the streams' are views where they can be. */
typedef struct buffers {
    tokens txt, img;
    ink_tensor qkv, attended; /* [n, 3 dim], [n, dim] */
} buffers;

static buffers take_buffers(ink_ctx *c, const layout *l, const ink_mmdit_input *input, int64_t d) {
    ink_tensor x = ink_scratch(c, l->n, d), y = ink_scratch_rounded(c, l->n, d);
    buffers b = {.qkv = ink_scratch_rounded(c, l->n, 3 * d), .attended = ink_scratch_rounded(c, l->n, d)};
    int64_t n_img = l->n_sides * l->n_img, first_img = l->sides[0].first_img;
    b.txt = (tokens){.x = ink_rows(x, 0, l->n_txt),
                     .y = ink_rows(y, 0, l->n_txt),
                     .qkv = l->together ? ink_scratch_rounded(c, l->n_txt, 3 * d) : ink_rows(b.qkv, 0, l->n_txt),
                     .attended = l->together ? ink_scratch_rounded(c, l->n_txt, d) : ink_rows(b.attended, 0, l->n_txt),
                     .cos = ink_rows(input->cos, 0, l->n_txt),
                     .sin = ink_rows(input->sin, 0, l->n_txt)};
    b.img = (tokens){.x = ink_rows(x, l->n_txt, n_img),
                     .y = ink_rows(y, l->n_txt, n_img),
                     .qkv = ink_rows(b.qkv, first_img, n_img),
                     .attended = ink_rows(b.attended, first_img, n_img),
                     .cos = ink_rows(input->cos, l->n_txt, n_img),
                     .sin = ink_rows(input->sin, l->n_txt, n_img)};
    return b;
}

/* Whether b follows a in memory. */
static bool follows(const void *a, const void *b, int64_t bytes) {
    return !a ? !b : (const unsigned char *)a + bytes == (const unsigned char *)b;
}

static bool are_neighbours(const ink_ctx *c, const ink_weight *a, const ink_weight *b) {
    int64_t data_bytes = ink_weight_data_bytes(a), scale_bytes = ink_weight_scale_bytes(a);
    bool alike = a->dtype == b->dtype && a->scale_dtype == b->scale_dtype && a->group == b->group && a->n_scales == b->n_scales &&
                 (a->n_scales == 0 || a->n_scales == a->rows) && !a->up && !b->up;
    return alike && (a->data || ink_ctx_dry(c)) && follows(a->data, b->data, data_bytes) &&
           follows(a->scales, b->scales, scale_bytes) && follows(a->biases, b->biases, scale_bytes);
}

/* qkv [n, 3 dim] of normed rows: three products, or one where a device has their weights as one. */
static void multiply_qkv(ink_ctx *c, const ink_mmdit_stream *s, const tokens *t) {
    int64_t d = t->y.cols;
    int64_t bias_bytes = d * (int64_t)ink_dtype_size(s->q_bias.type);
    bool one = c->device->memory && are_neighbours(c, &s->q, &s->k) && are_neighbours(c, &s->k, &s->v) &&
               s->q_bias.type == s->k_bias.type && s->k_bias.type == s->v_bias.type &&
               follows(s->q_bias.data, s->k_bias.data, bias_bytes) && follows(s->k_bias.data, s->v_bias.data, bias_bytes);
    if (one) {
        ink_weight w = s->q;
        ink_tensor bias = s->q_bias;
        w.rows *= 3;
        w.n_scales *= 3;
        bias.cols = bias.stride = 3 * d;
        ink_linear(c, t->qkv, t->y, &w, (ink_linear_epilogue){.bias = &bias});
        return;
    }
    ink_linear(c, ink_cols(t->qkv, 0, d), t->y, &s->q, (ink_linear_epilogue){.bias = &s->q_bias});
    ink_linear(c, ink_cols(t->qkv, d, d), t->y, &s->k, (ink_linear_epilogue){.bias = &s->k_bias});
    ink_linear(c, ink_cols(t->qkv, 2 * d, d), t->y, &s->v, (ink_linear_epilogue){.bias = &s->v_bias});
}

/* The stream, and what the layers of a block have left beside it. */
static ink_residual after_block(const tokens *t, const block_modulation *mod) {
    return (ink_residual){.x = t->x, .n = 2, .gate = {mod->gate1, mod->gate2}, .y = {t->y, t->attended}};
}

/* Queries, keys and values of one stream. before: the modulation of the block before, or NULL. */
static void project_qkv(ink_ctx *c, const ink_mmdit_config *config, const ink_mmdit_stream *s, const tokens *t,
                        const block_modulation *before, const block_modulation *mod) {
    int64_t d = config->dim;
    if (before)
        ink_gated_residual_layernorm_modulate(c, t->y, after_block(t, before), mod->scale1, mod->shift1, EPS);
    else
        ink_layernorm_modulate(c, t->y, t->x, mod->scale1, mod->shift1, EPS);
    multiply_qkv(c, s, t);
    ink_rmsnorm_rope(c, ink_cols(t->qkv, 0, 2 * d), s->q_norm, s->k_norm, t->cos, t->sin, config->n_heads, EPS);
}

/*
 * What the attention found goes through its last layer and, added to the stream, through the MLP. The results of both stay beside
 * the stream, y and attended: the next norm adds them on its way, so the stream is written once in a block.
 */
static void finish_stream(ink_ctx *c, const ink_mmdit_stream *s, const tokens *t, const block_modulation *mod) {
    ink_linear(c, t->y, t->attended, &s->out, (ink_linear_epilogue){.bias = &s->out_bias});
    ink_residual sum = {.x = t->x, .n = 1, .gate = {mod->gate1}, .y = {t->y}, .stays = true};
    ink_gated_residual_layernorm_modulate(c, t->attended, sum, mod->scale2, mod->shift2, EPS);
    int64_t most = c->device->mlp_rows > 0 ? c->device->mlp_rows : t->x.rows;
    int64_t n_blocks = (t->x.rows + most - 1) / most, n = (t->x.rows + n_blocks - 1) / n_blocks;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor hidden = ink_scratch_rounded(c, n, s->mlp_up.rows);
    for (int64_t first = 0; first < t->x.rows; first += n) {
        if (n > t->x.rows - first) n = t->x.rows - first;
        hidden.rows = n;
        ink_tensor rows = ink_rows(t->attended, first, n);
        ink_linear(c, hidden, rows, &s->mlp_up, (ink_linear_epilogue){.bias = &s->mlp_up_bias, .activation = INK_ACT_GELU_TANH});
        ink_linear(c, rows, hidden, &s->mlp_down, (ink_linear_epilogue){.bias = &s->mlp_down_bias});
    }
    ink_scratch_release(c, mark);
}

/*
 * Of each side, the text and the image look at each other: rows that lie in one run or in two. After the last block nobody asks for
 * what the text has found, but a device gets ready for each shape anew, which takes it longer than that.
 */
static void attend(ink_ctx *c, const ink_mmdit_config *config, const buffers *b, const layout *l) {
    int64_t d = config->dim;
    ink_attention_shape heads = {.n_heads = config->n_heads,
                                 .n_kv_heads = config->n_heads,
                                 .head_dim = config->head_dim,
                                 .scale = (float)(1.0 / sqrt((double)config->head_dim))};
    for (const place *side = l->sides + l->n_sides - 1; side >= l->sides; side--) {
        if (side > l->sides) ink_begin_aside(c);
        bool img_first = side->first_img < side->first_txt;
        int64_t first = img_first ? side->first_img : side->first_txt, n_first = img_first ? l->n_img : side->n_txt;
        int64_t second = img_first ? side->first_txt : side->first_img, n = side->n_txt + l->n_img;
        heads.q_gap = heads.kv_gap = (ink_gap){n_first, second - first - n_first};
        ink_tensor qkv = ink_rows(b->qkv, first, n);
        ink_attention(c, ink_rows(b->attended, first, n), ink_cols(qkv, 0, d), ink_cols(qkv, d, d), ink_cols(qkv, 2 * d, d), heads);
        ink_end_aside(c);
    }
    ink_join_aside(c);
}

/* The texts' queries, keys and values to where the attention wants them; what it found for them back. */
static void bring_text(ink_ctx *c, const buffers *b, const layout *l) {
    for (const place *side = l->sides; l->together && side < l->sides + l->n_sides; side++)
        ink_copy(c, ink_rows(b->qkv, side->first_txt, side->n_txt), ink_rows(b->txt.qkv, side->stream_txt, side->n_txt));
}

static void fetch_text(ink_ctx *c, const buffers *b, const layout *l) {
    for (const place *side = l->sides; l->together && side < l->sides + l->n_sides; side++)
        ink_copy(c, ink_rows(b->txt.attended, side->stream_txt, side->n_txt), ink_rows(b->attended, side->first_txt, side->n_txt));
}

/* Text states and latents of all sides, as the network's channels. */
static void embed(ink_ctx *c, const ink_mmdit *m, const ink_mmdit_input *input, const layout *l, const buffers *b) {
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor normed = ink_scratch_rounded(c, l->n_txt, m->config->joint_dim);
    for (int i = 0; i < l->n_sides; i++) {
        ink_rmsnorm(c, ink_rows(normed, l->sides[i].stream_txt, l->sides[i].n_txt), input->text[i], m->txt_norm, EPS);
        ink_linear(c, ink_rows(b->img.x, i * l->n_img, l->n_img), input->latents, &m->img_in,
                   (ink_linear_epilogue){.bias = &m->img_in_bias});
    }
    ink_linear(c, b->txt.x, normed, &m->txt_in, (ink_linear_epilogue){.bias = &m->txt_in_bias});
    ink_arena_release(c->arena, mark);
}

void ink_mmdit_forward(ink_ctx *c, ink_mmdit *m, ink_tensor velocity, const ink_mmdit_input *input,
                       const ink_modulation *modulation, int64_t step) {
    const ink_mmdit_config *config = m->config;
    int64_t d = config->dim;
    layout l = places_of(input, c->device && c->device->sides_together);
    size_t mark = ink_arena_mark(c->arena);
    const buffers b = take_buffers(c, &l, input, d);
    ink_residency_begin(m->binder->residency);
    ink_bind_await(m->binder, m->n_end_uploads);
    embed(c, m, input, &l, &b);

    block_modulation txt_mod, img_mod, txt_before, img_before;
    for (int64_t i = 0; i < config->n_layers; i++) {
        const ink_mmdit_block *block = acquire(c, m, i, input->last);
        /* Of the last block only the image goes on: its text is no longer asked for. */
        bool last = i == config->n_layers - 1;
        txt_mod = modulation_at(modulation, i, TXT, step, d);
        img_mod = modulation_at(modulation, i, IMG, step, d);
        /* The text takes little of a device, but many calls. It is at the next block while the image is still in the last one. */
        if (i == 0)
            ink_begin_aside(c);
        else
            ink_go_on_aside(c);
        project_qkv(c, config, &block->txt, &b.txt, i > 0 ? &txt_before : NULL, &txt_mod);
        bring_text(c, &b, &l);
        ink_end_aside(c);
        project_qkv(c, config, &block->img, &b.img, i > 0 ? &img_before : NULL, &img_mod);
        ink_join_aside(c);
        attend(c, config, &b, &l);
        if (!last) {
            ink_begin_aside(c);
            fetch_text(c, &b, &l);
            finish_stream(c, &block->txt, &b.txt, &txt_mod);
            ink_end_aside(c);
        }
        finish_stream(c, &block->img, &b.img, &img_mod);
        txt_before = txt_mod;
        img_before = img_mod;
        ink_residency_release(m->binder->residency, i);
    }

    /* Here the scale comes first, unlike in the blocks. */
    ink_tensor out = ink_rows(modulation->out, step, 1);
    ink_gated_residual_layernorm_modulate(c, b.img.y, after_block(&b.img, &img_before), ink_cols(out, 0, d), ink_cols(out, d, d),
                                          EPS);
    ink_linear(c, velocity, b.img.y, &m->proj_out, (ink_linear_epilogue){.bias = &m->proj_out_bias});
    ink_arena_release(c->arena, mark);
}

void ink_mmdit_rehearse(ink_ctx *c, const ink_mmdit *m, ink_tensor velocity, const ink_mmdit_input *input,
                        const ink_modulation *modulation) {
    enum { BLOCKS = 2 }; /* the last one has no text to finish */
    ink_mmdit_config config = *m->config;
    ink_mmdit few = *m;
    ink_binder ready = *m->binder;
    ready.coming = NULL;
    few.binder = &ready;
    if (config.n_layers > BLOCKS) config.n_layers = BLOCKS;
    few.config = &config;
    ink_mmdit_forward(c, &few, velocity, input, modulation, 0);
}
