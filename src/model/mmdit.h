/*
 * mmdit.h - the diffusion transformer: latents, a time and text states to a velocity.
 * Source: diffusers, transformer_qwenimage.py, QwenImageTransformer2DModel.
 *
 * Two streams, text and image, each with weights of its own, meet in every attention. Guidance asks about two prompts: both sides
 * go through each block together, so that its weights are read once. All tokens live in one buffer, stream by stream:
 *
 *     text of side 0 | text of side 1 | image of side 0 | image of side 1
 *
 * What is done to a stream is one call for both sides; attention is one call for each side, whose rows lie in two runs. For a
 * device that wants those in one run (sides_together), queries, keys, values and what the attention finds lie otherwise, and the
 * texts', which are short, are copied there and back:
 *
 *     text of side 0 | image of side 0 | image of side 1 | text of side 1
 *
 * What depends on the time alone, the modulation (shift, scale and gate of every block), is computed for all steps at once, before
 * the first: ink_mmdit_modulate. Its weights, a third of the model, are loaded for that alone: block by block, or
 * where there is room all of them.
 */
#ifndef INK_MODEL_MMDIT_H
#define INK_MODEL_MMDIT_H

#include "model/config.h"
#include "ops/ops.h"
#include "tensor/binder.h"

/* The weights of one stream in one block. */
typedef struct ink_mmdit_stream {
    ink_weight q, k, v, out, mlp_up, mlp_down;
    ink_tensor q_bias, k_bias, v_bias, out_bias, mlp_up_bias, mlp_down_bias;
    ink_tensor q_norm, k_norm; /* [1, head_dim] */
} ink_mmdit_stream;

typedef struct ink_mmdit_block {
    ink_mmdit_stream txt, img;
} ink_mmdit_block;

typedef struct ink_mmdit {
    const ink_mmdit_config *config; /* borrowed */
    ink_weight img_in, txt_in, proj_out;
    ink_tensor img_in_bias, txt_in_bias, proj_out_bias, txt_norm;
    ink_mmdit_block *blocks; /* owned */
    ink_binder *binder;      /* borrowed: of blocks that come and go, or are on their way, which it must outlive */
    size_t n_end_uploads;    /* of the binder's: all but the blocks' */
} ink_mmdit;

/* Names every tensor but the modulation's to the binder, whose status tells how it went; block i is part i. Release in any case. */
void ink_mmdit_bind(ink_mmdit *mmdit, const ink_mmdit_config *config, ink_binder *binder);
void ink_mmdit_release(ink_mmdit *mmdit);

/* Modulation vectors of all steps. */
typedef struct ink_modulation {
    int64_t n_steps;
    ink_tensor blocks; /* [n_layers * 2 * n_steps, 6 dim]: for block, stream (text, image), step: shift, scale, gate, twice */
    ink_tensor out;    /* [n_steps, 2 dim]: scale, shift */
} ink_modulation;

/* Room for it in the context's arena. */
ink_modulation ink_modulation_take(ink_ctx *c, const ink_mmdit_config *config, int64_t n_steps);

/* The vectors of one step, as those of a run of one step: what is recorded reads them from one place. */
void ink_modulation_copy_step(ink_ctx *c, const ink_modulation *dst, const ink_modulation *src, int64_t step);

/* The layers that make the modulation: two of the time, one of each block and stream, and one of the network's end. */
typedef struct ink_modulator {
    struct ink_modulator_layer *layers; /* owned */
} ink_modulator;

/* Names all of their tensors to the binder, whose status tells how it went. Release in any case. */
void ink_modulator_bind(ink_modulator *modulator, const ink_mmdit_config *config, ink_binder *binder);
void ink_modulator_release(ink_modulator *modulator);

/*
 * Fills modulation for the times [1, n_steps] (sigma as the scheduler hands it to the model, 0..1), with the layers of modulator.
 * NULL: binds them one by one with the binder's weights and mode and releases each after use; the binder's store must be empty.
 */
void ink_mmdit_modulate(ink_ctx *c, const ink_mmdit_config *config, const ink_modulator *modulator, ink_binder *binder,
                        ink_tensor times, const ink_modulation *modulation);

enum { INK_MAX_SIDES = 2 };

typedef struct ink_mmdit_input {
    ink_tensor latents;             /* [n_img, in_channels]: the same for all sides */
    ink_tensor text[INK_MAX_SIDES]; /* [n_txt, joint_dim] the encoder's states of each side, which may differ in length */
    int n_sides;
    bool last;           /* of the run: no forward follows */
    ink_tensor cos, sin; /* [all n_txt + n_sides * n_img, head_dim / 2] from ink_rope_joint */
} ink_mmdit_input;

/* velocity [n_sides * n_img, in_channels] at one step, side after side; each is what it would be alone, bit for bit. */
void ink_mmdit_forward(ink_ctx *c, ink_mmdit *mmdit, ink_tensor velocity, const ink_mmdit_input *input,
                       const ink_modulation *modulation, int64_t step);

/*
 * The same with some blocks alone, of which nothing but the shapes counts: a device gets ready for a forward. Weights, latents,
 * text, angles and modulation need not be there yet, only their memory, and velocity means nothing.
 */
void ink_mmdit_rehearse(ink_ctx *c, const ink_mmdit *mmdit, ink_tensor velocity, const ink_mmdit_input *input,
                        const ink_modulation *modulation);

#endif
