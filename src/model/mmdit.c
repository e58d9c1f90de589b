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
    bind_linear(b, &s->q, &s->q_bias, d, d, block, names->q);
    bind_linear(b, &s->k, &s->k_bias, d, d, block, names->k);
    bind_linear(b, &s->v, &s->v_bias, d, d, block, names->v);
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
    for (int i = 0; i < config->n_layers; i++) {
        ink_bind_part(b, i);
        bind_block(m, b, i);
    }
    ink_bind_part(b, -1);
    ink_bind_sensitive_matrix(b, &m->proj_out, config->in_channels, d, "proj_out.weight");
    ink_bind_vector(b, &m->proj_out_bias, config->in_channels, "proj_out.bias");
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

/* dst = act(x W^T + bias) with the layer of that name, which is loaded for this product alone. */
static void linear_once(ink_ctx *c, ink_binder *b, ink_tensor dst, ink_tensor x, ink_activation act, const char *name) {
    ink_weight w;
    ink_tensor bias;
    int64_t before = b->stored_bytes;
    char weight_name[80];
    snprintf(weight_name, sizeof weight_name, "%s.weight", name);
    ink_bind_sensitive_matrix(b, &w, dst.cols, x.cols, "%s", weight_name);
    ink_bind_vector(b, &bias, dst.cols, "%s.bias", name);
    if (b->status != INK_OK && c->status == INK_OK) c->status = b->status;
    if (c->status == INK_OK) ink_linear(c, dst, x, &w, (ink_linear_epilogue){.bias = &bias, .activation = act});
    b->stored_bytes = before;
    if (b->mode != INK_BIND_LOAD) return;
    ink_bind_drop(b, weight_name);
    ink_store_release(b->store);
}

void ink_mmdit_modulate(ink_ctx *c, const ink_mmdit_config *config, ink_binder *b, ink_tensor times,
                        const ink_modulation *modulation) {
    int64_t n = modulation->n_steps, d = config->dim;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor waves = ink_scratch(c, n, TIME_CHANNELS), hidden = ink_scratch(c, n, d), time = ink_scratch(c, n, d);
    ink_timestep_embed(c, waves, times);
    linear_once(c, b, hidden, waves, INK_ACT_SILU, "time_text_embed.timestep_embedder.linear_1");
    /* Every use of the time embedding is through a SiLU, so it is applied here, once. */
    linear_once(c, b, time, hidden, INK_ACT_SILU, "time_text_embed.timestep_embedder.linear_2");
    for (int i = 0; i < config->n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "transformer_blocks.%d.txt_mod.1", i);
        linear_once(c, b, ink_rows(modulation->blocks, (2 * i + TXT) * n, n), time, INK_ACT_NONE, name);
        snprintf(name, sizeof name, "transformer_blocks.%d.img_mod.1", i);
        linear_once(c, b, ink_rows(modulation->blocks, (2 * i + IMG) * n, n), time, INK_ACT_NONE, name);
    }
    linear_once(c, b, modulation->out, time, INK_ACT_NONE, "norm_out.linear");
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
        c->status = b->status;
    }
    ink_residency_prefetch(b->residency, i + 1 < m->config->n_layers || last_step ? i + 1 : 0);
    return &m->blocks[i];
}

/* ---- forward ------------------------------------------------------------------------------------------------------- */

/* The buffers of a forward, for all tokens or for the rows of one stream. */
typedef struct tokens {
    ink_tensor x;        /* [n, dim] the residual stream */
    ink_tensor y;        /* [n, dim] normed input of a layer, and its output */
    ink_tensor qkv;      /* [n, 3 dim] */
    ink_tensor attended; /* [n, dim] */
    ink_tensor cos, sin; /* [n, head_dim / 2] */
} tokens;

static tokens tokens_of(const tokens *all, int64_t first, int64_t n) {
    return (tokens){ink_rows(all->x, first, n),        ink_rows(all->y, first, n),   ink_rows(all->qkv, first, n),
                    ink_rows(all->attended, first, n), ink_rows(all->cos, first, n), ink_rows(all->sin, first, n)};
}

/* Where the tokens of a side stand in the buffer, and its text in the tables of angles. */
typedef struct place {
    int64_t first_txt, n_txt, first_img, txt_angles;
} place;

/* What is done to a stream is done to these runs of rows. */
typedef struct layout {
    place sides[INK_MAX_SIDES];
    tokens txt[INK_MAX_SIDES], img;
    int n_sides, n_txt_runs;
    int64_t n_img, n;
} layout;

static layout places_of(const ink_mmdit_input *input, bool together) {
    layout l = {.n_sides = input->n_sides, .n_img = input->latents.rows};
    int64_t n_txt = 0;
    for (int i = 0; i < l.n_sides; i++) {
        l.sides[i] = (place){.first_txt = n_txt, .n_txt = input->text[i].rows, .txt_angles = n_txt};
        n_txt += l.sides[i].n_txt;
    }
    for (int i = 0; i < l.n_sides; i++) l.sides[i].first_img = n_txt + i * l.n_img;
    l.n = n_txt + l.n_sides * l.n_img;
    l.n_txt_runs = 1;
    if (!together || l.n_sides < 2) return l;
    l.n_txt_runs = 2;
    l.sides[0].first_img = l.sides[0].n_txt;
    l.sides[1].first_img = l.sides[0].first_img + l.n_img;
    l.sides[1].first_txt = l.sides[1].first_img + l.n_img;
    return l;
}

/* The angles of all tokens where the layout has them. */
static void place_angles(ink_ctx *c, const layout *l, tokens *all, const ink_mmdit_input *input) {
    all->cos = input->cos;
    all->sin = input->sin;
    if (l->n_txt_runs == 1) return;
    all->cos = ink_scratch(c, l->n, input->cos.cols);
    all->sin = ink_scratch(c, l->n, input->sin.cols);
    int64_t img_angles = l->n - l->n_sides * l->n_img, n_img = l->n_sides * l->n_img;
    for (const place *side = l->sides; side < l->sides + l->n_sides; side++) {
        ink_copy(c, ink_rows(all->cos, side->first_txt, side->n_txt), ink_rows(input->cos, side->txt_angles, side->n_txt));
        ink_copy(c, ink_rows(all->sin, side->first_txt, side->n_txt), ink_rows(input->sin, side->txt_angles, side->n_txt));
    }
    ink_copy(c, ink_rows(all->cos, l->sides[0].first_img, n_img), ink_rows(input->cos, img_angles, n_img));
    ink_copy(c, ink_rows(all->sin, l->sides[0].first_img, n_img), ink_rows(input->sin, img_angles, n_img));
}

/* Queries, keys and values of one stream. */
static void project_qkv(ink_ctx *c, const ink_mmdit_config *config, const ink_mmdit_stream *s, const tokens *t,
                        const block_modulation *mod) {
    int64_t d = config->dim;
    ink_tensor q = ink_cols(t->qkv, 0, d), k = ink_cols(t->qkv, d, d), v = ink_cols(t->qkv, 2 * d, d);
    ink_layernorm_modulate(c, t->y, t->x, mod->scale1, mod->shift1, EPS);
    ink_linear(c, q, t->y, &s->q, (ink_linear_epilogue){.bias = &s->q_bias});
    ink_linear(c, k, t->y, &s->k, (ink_linear_epilogue){.bias = &s->k_bias});
    ink_linear(c, v, t->y, &s->v, (ink_linear_epilogue){.bias = &s->v_bias});
    ink_rmsnorm_rope(c, q, s->q_norm, t->cos, t->sin, config->n_heads, EPS);
    ink_rmsnorm_rope(c, k, s->k_norm, t->cos, t->sin, config->n_heads, EPS);
}

/* Adds what the attention found, and then the MLP, to one stream. */
static void finish_stream(ink_ctx *c, const ink_mmdit_stream *s, const tokens *t, const block_modulation *mod) {
    ink_linear(c, t->y, t->attended, &s->out, (ink_linear_epilogue){.bias = &s->out_bias});
    ink_gated_residual_layernorm_modulate(c, t->y, t->x, mod->gate1, t->y, mod->scale2, mod->shift2, EPS);
    int64_t most = c->device->mlp_rows > 0 ? c->device->mlp_rows : t->x.rows;
    int64_t n_blocks = (t->x.rows + most - 1) / most, n = (t->x.rows + n_blocks - 1) / n_blocks;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor hidden = ink_scratch_rounded(c, n, s->mlp_up.rows);
    for (int64_t first = 0; first < t->x.rows; first += n) {
        if (n > t->x.rows - first) n = t->x.rows - first;
        hidden.rows = n;
        ink_linear(c, hidden, ink_rows(t->y, first, n), &s->mlp_up,
                   (ink_linear_epilogue){.bias = &s->mlp_up_bias, .activation = INK_ACT_GELU_TANH});
        ink_linear(c, ink_rows(t->x, first, n), hidden, &s->mlp_down,
                   (ink_linear_epilogue){.bias = &s->mlp_down_bias, .gate = &mod->gate2, .add_to_dst = true});
    }
    ink_arena_release(c->arena, mark);
}

/* Of each side, the text and the image look at each other: rows that lie in one run or in two. Or the image alone looks at both. */
static void attend(ink_ctx *c, const ink_mmdit_config *config, const tokens *all, const layout *l, bool image_only) {
    int64_t d = config->dim;
    ink_attention_shape heads = {.n_heads = config->n_heads,
                                 .n_kv_heads = config->n_heads,
                                 .head_dim = config->head_dim,
                                 .scale = (float)(1.0 / sqrt((double)config->head_dim))};
    for (const place *side = l->sides; side < l->sides + l->n_sides; side++) {
        bool img_first = side->first_img < side->first_txt;
        int64_t first = img_first ? side->first_img : side->first_txt, n_first = img_first ? l->n_img : side->n_txt;
        int64_t second = img_first ? side->first_txt : side->first_img;
        tokens both = tokens_of(all, first, side->n_txt + l->n_img);
        tokens asking = image_only ? tokens_of(all, side->first_img, l->n_img) : both;
        heads.kv_gap = (ink_gap){n_first, second - first - n_first};
        heads.q_gap = image_only ? (ink_gap){0, 0} : heads.kv_gap;
        ink_attention(c, asking.attended, ink_cols(asking.qkv, 0, d), ink_cols(both.qkv, d, d), ink_cols(both.qkv, 2 * d, d),
                      heads);
    }
}

/* Text states and latents of all sides, as the network's channels. */
static void embed(ink_ctx *c, const ink_mmdit *m, const ink_mmdit_input *input, const layout *l, const tokens *all) {
    size_t mark = ink_arena_mark(c->arena);
    int64_t n_txt = l->n - l->n_sides * l->n_img, first = 0;
    ink_tensor normed = ink_scratch_rounded(c, n_txt, m->config->joint_dim);
    for (int i = 0; i < l->n_sides; i++) {
        const place *side = &l->sides[i];
        ink_rmsnorm(c, ink_rows(normed, side->txt_angles, side->n_txt), input->text[i], m->txt_norm, EPS);
        ink_linear(c, ink_rows(all->x, side->first_img, l->n_img), input->latents, &m->img_in,
                   (ink_linear_epilogue){.bias = &m->img_in_bias});
    }
    for (int i = 0; i < l->n_txt_runs; i++) {
        ink_linear(c, l->txt[i].x, ink_rows(normed, first, l->txt[i].x.rows), &m->txt_in,
                   (ink_linear_epilogue){.bias = &m->txt_in_bias});
        first += l->txt[i].x.rows;
    }
    ink_arena_release(c->arena, mark);
}

void ink_mmdit_forward(ink_ctx *c, ink_mmdit *m, ink_tensor velocity, const ink_mmdit_input *input,
                       const ink_modulation *modulation, int64_t step) {
    const ink_mmdit_config *config = m->config;
    int64_t d = config->dim;
    layout l = places_of(input, c->device->sides_together);
    size_t mark = ink_arena_mark(c->arena);
    tokens all = {.x = ink_scratch(c, l.n, d),
                  .y = ink_scratch_rounded(c, l.n, d),
                  .qkv = ink_scratch_rounded(c, l.n, 3 * d),
                  .attended = ink_scratch_rounded(c, l.n, d)};
    place_angles(c, &l, &all, input);
    int64_t n_img = l.n_sides * l.n_img;
    l.img = tokens_of(&all, l.sides[0].first_img, n_img);
    for (int i = 0; i < l.n_txt_runs; i++)
        l.txt[i] = tokens_of(&all, l.sides[i].first_txt, l.n_txt_runs > 1 ? l.sides[i].n_txt : l.n - n_img);
    embed(c, m, input, &l, &all);

    for (int64_t i = 0; i < config->n_layers; i++) {
        const ink_mmdit_block *block = acquire(c, m, i, input->last);
        /* Of the last block only the image goes on: its text is no longer asked for. */
        bool last = i == config->n_layers - 1;
        block_modulation txt_mod = modulation_at(modulation, i, TXT, step, d), img_mod = modulation_at(modulation, i, IMG, step, d);
        for (int j = 0; j < l.n_txt_runs; j++) project_qkv(c, config, &block->txt, &l.txt[j], &txt_mod);
        project_qkv(c, config, &block->img, &l.img, &img_mod);
        attend(c, config, &all, &l, last);
        finish_stream(c, &block->img, &l.img, &img_mod);
        for (int j = 0; j < l.n_txt_runs && !last; j++) finish_stream(c, &block->txt, &l.txt[j], &txt_mod);
        ink_residency_release(m->binder->residency, i);
    }

    /* Here the scale comes first, unlike in the blocks. */
    ink_tensor out = ink_rows(modulation->out, step, 1);
    ink_layernorm_modulate(c, l.img.y, l.img.x, ink_cols(out, 0, d), ink_cols(out, d, d), EPS);
    ink_linear(c, velocity, l.img.y, &m->proj_out, (ink_linear_epilogue){.bias = &m->proj_out_bias});
    ink_arena_release(c->arena, mark);
}
