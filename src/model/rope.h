/* rope.h - tables of rotary position angles, made on the host once per run. */
#ifndef INK_MODEL_ROPE_H
#define INK_MODEL_ROPE_H

#include "tensor/tensor.h"

/* 1 / theta ^ (2 j / dim), in the f32 steps of the references. */
float ink_rope_frequency(double theta, int64_t j, int64_t dim);

/* Row i of cos, sin [n, dim / 2]: position i. Source: transformers, Qwen2_5_VLRotaryEmbedding, for text alone. */
void ink_rope_text(ink_tensor cos, ink_tensor sin, double theta);

/*
 * Rows of cos, sin [all n_txt + n_sides * h * w, head_dim / 2]: the text tokens of each side, then for each side the image tokens
 * of one h x w grid, row-major. Sides do not see each other: each has the positions that it would have alone.
 * axes: head_dim's shares of frame, row and column. Source: diffusers, transformer_qwenimage.py, QwenEmbedRope (scale_rope).
 */
void ink_rope_joint(ink_tensor cos, ink_tensor sin, const int64_t axes[3], const int64_t *n_txt, int n_sides, int64_t height,
                    int64_t width);

#endif
