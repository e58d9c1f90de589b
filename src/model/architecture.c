/*
 * architecture.c - the published sizes. Source: config.json of text_encoder, transformer and vae in Qwen/Qwen-Image, revision
 * 75e0b4be04f60ec59a75f475837eced720f823b6, whose weights have 20 430 401 088 parameters in the transformer, 8 292 166 656 in the
 * text encoder (of which 7 070 619 136 are read for text) and 126 892 531 in the VAE.
 */
#include "model/architecture.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "inkstone.h"

/* Of the published VAE; a latent is made a picture's with them, whatever the size of the network. */
#define LATENTS_MEAN                                                                                                             \
    {                                                                                                                            \
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, \
            0.2503, -0.2921                                                                                                      \
    }
#define LATENTS_STD                                                                                                             \
    {                                                                                                                           \
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, \
            1.916                                                                                                               \
    }

static const struct architecture {
    const char *name;
    ink_text_encoder_config text_encoder;
    ink_mmdit_config mmdit;
    ink_vae_config vae;
} architectures[] = {
    {.name = "qwen-image",
     .text_encoder = {.vocab_size = 152064,
                      .hidden_size = 3584,
                      .intermediate_size = 18944,
                      .n_layers = 28,
                      .n_heads = 28,
                      .n_kv_heads = 4,
                      .head_dim = 128,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 1e6},
     .mmdit = {.patch_size = 2,
               .in_channels = 64,
               .out_channels = 16,
               .n_layers = 60,
               .head_dim = 128,
               .n_heads = 24,
               .joint_dim = 3584,
               .dim = 3072,
               .rope_axes = {16, 56, 56}},
     .vae = {.base_dim = 96,
             .z_dim = 16,
             .n_levels = 4,
             .dim_mult = {1, 2, 4, 4},
             .n_res_blocks = 2,
             .temporal_downsample = {false, true, true},
             .latents_mean = LATENTS_MEAN,
             .latents_std = LATENTS_STD,
             .scale = 8}},
    {.name = "tiny",
     .text_encoder = {.vocab_size = 512,
                      .hidden_size = 128,
                      .intermediate_size = 192,
                      .n_layers = 2,
                      .n_heads = 4,
                      .n_kv_heads = 2,
                      .head_dim = 32,
                      .rms_norm_eps = 1e-6,
                      .rope_theta = 1e6},
     .mmdit = {.patch_size = 2,
               .in_channels = 64,
               .out_channels = 16,
               .n_layers = 2,
               .head_dim = 32,
               .n_heads = 4,
               .joint_dim = 128,
               .dim = 128,
               .rope_axes = {8, 12, 12}},
     .vae = {.base_dim = 8,
             .z_dim = 16,
             .n_levels = 4,
             .dim_mult = {1, 2, 2, 2},
             .n_res_blocks = 1,
             .temporal_downsample = {false, true, true},
             .latents_mean = LATENTS_MEAN,
             .latents_std = LATENTS_STD,
             .scale = 8}},
};

ink_status ink_architecture_find(ink_config *config, int64_t *whole_blocks, const char *name, ink_error *error) {
    const char *colon = strchr(name, ':');
    size_t n = colon ? (size_t)(colon - name) : strlen(name);
    *config = (ink_config){0};
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        const struct architecture *a = &architectures[i];
        if (strlen(a->name) != n || strncmp(name, a->name, n) != 0) continue;
        config->text_encoder = a->text_encoder;
        config->mmdit = a->mmdit;
        config->vae = a->vae;
        ink_config_set_published(config);
        *whole_blocks = a->mmdit.n_layers;
        if (!colon) return INK_OK;
        int end = 0;
        int64_t blocks = 0;
        /* scanf would skip white space and read a sign. */
        bool number = colon[1] >= '0' && colon[1] <= '9' && sscanf(colon + 1, "%6" SCNd64 "%n", &blocks, &end) == 1;
        if (number && !colon[1 + end] && blocks >= 1 && blocks <= *whole_blocks) {
            config->mmdit.n_layers = blocks;
            return INK_OK;
        }
        return ink_fail(error, INK_ERROR_ARGUMENT, "\"%.60s\": expected a number of blocks from 1 to %" PRId64 " behind the colon",
                        name, *whole_blocks);
    }
    return ink_fail(error, INK_ERROR_ARGUMENT,
                    "architecture \"%.60s\" is unknown: expected qwen-image, or qwen-image:N for N blocks", name);
}
