/* test_checkpoint_names.c - names of other programs on their way to ours, and configs read off shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/checkpoint_names.h"
#include "model/config_infer.h"
#include "support/files.h"

/* ---- files of empty tensors -------------------------------------------------------------------------------------------- */

typedef struct named_shape {
    const char *name, *shape;
} named_shape;

enum { MAX_HEADER = 1 << 16 };

/* A file whose tensors have these shapes, ended by a null name; all share no bytes, for each has a dimension of 0 or is U8. */
static ink_weights *open_shapes(const char *folder, const named_shape *tensors) {
    static char header[MAX_HEADER];
    static const unsigned char zeros[1 << 16];
    size_t n = 0, offset = 0;
    for (const named_shape *t = tensors; t->name; t++) {
        size_t size = 1, left = strlen(t->shape);
        long value = 0;
        for (const char *c = t->shape; left-- > 0; c++) {
            if (*c >= '0' && *c <= '9') value = 10 * value + *c - '0';
            if (*c == ',' || (*c == ']' && c > t->shape && c[-1] != '[')) size *= (size_t)value;
            if (*c == ',') value = 0;
        }
        n += (size_t)snprintf(header + n, sizeof header - n, "%s\"%s\":{\"dtype\":\"U8\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                              n ? "," : "{", t->name, t->shape, offset, offset + size);
        offset += size;
    }
    snprintf(header + n, sizeof header - n, "}");
    assert_true(offset <= sizeof zeros);
    test_write_safetensors(folder, "x.safetensors", header, zeros, offset);
    char path[TEST_PATH];
    ink_error error;
    ink_weights *weights;
    if (ink_weights_open_file(&weights, test_path(path, folder, "x.safetensors"), &error) != INK_OK) fail_msg("%s", error.message);
    return weights;
}

/* ---- names --------------------------------------------------------------------------------------------------------------- */

/* ours NULL: dropped. */
typedef struct translation {
    const char *theirs, *ours;
} translation;

static void check(const ink_spelling *spelling, const translation *names) {
    for (; names->theirs; names++) {
        char renamed[INK_MAX_TENSOR_NAME] = "";
        ink_renaming renaming = ink_spelling_rename(spelling, renamed, names->theirs);
        const char *got = renaming == INK_NAME_DROPPED ? "(dropped)" : renaming == INK_NAME_KEPT ? names->theirs : renamed;
        const char *expected = names->ours ? names->ours : "(dropped)";
        if (strcmp(got, expected) != 0) fail_msg("%s: %s, expected %s", names->theirs, got, expected);
        /* What is ours already stays, as long as nothing stands before it. */
        if (names->ours && !spelling->prefix[0] && spelling->level_length == 0)
            assert_int_equal(ink_spelling_rename(spelling, renamed, names->ours), INK_NAME_KEPT);
    }
}

static void find(ink_spelling *spelling, ink_component component, const char *folder, const named_shape *tensors,
                 const char *prefix) {
    ink_weights *weights = open_shapes(folder, tensors);
    assert_true(ink_spelling_find(spelling, component, weights));
    assert_string_equal(spelling->prefix, prefix);
    for (int other = 0; other < INK_N_COMPONENTS; other++) {
        ink_spelling none;
        if (other != (int)component) assert_false(ink_spelling_find(&none, (ink_component)other, weights));
    }
    ink_weights_close(&weights);
}

static void test_transformer(void **state) {
    static const named_shape comfyui[] = {{"model.diffusion_model.transformer_blocks.0.img_mod.1.weight", "[1]"}, {NULL, NULL}};
    static const named_shape mflux[] = {{"transformer_blocks.0.img_mod_linear.weight", "[1]"}, {NULL, NULL}};
    static const translation with_prefix[] = {
        {"model.diffusion_model.img_in.weight", "img_in.weight"},
        {"model.diffusion_model.transformer_blocks.59.attn.to_out.0.weight", "transformer_blocks.59.attn.to_out.0.weight"},
        {"model.diffusion_model.transformer_blocks.0.attn.to_q.scale_weight", "transformer_blocks.0.attn.to_q.scale_weight"},
        {"model.diffusion_model.transformer_blocks.0.attn.to_q.weight_scale", "transformer_blocks.0.attn.to_q.weight_scale"},
        {"model.diffusion_model.transformer_blocks.0.attn.to_q.scale_input", NULL},
        {"model.diffusion_model.transformer_blocks.0.attn.to_q.input_scale", NULL},
        {"model.diffusion_model.transformer_blocks.0.attn.to_q.comfy_quant", NULL},
        {"model.diffusion_model.scaled_fp8", NULL},
        {"scaled_fp8", NULL},
        {"vae.decoder.conv1.weight", NULL},
        {"img_in.weight", NULL},
        {NULL, NULL},
    };
    static const translation of_mflux[] = {
        {"img_in.scales", "img_in.scales"},
        {"transformer_blocks.7.attn.attn_to_out.0.weight", "transformer_blocks.7.attn.to_out.0.weight"},
        {"transformer_blocks.7.attn.attn_to_out.0.biases", "transformer_blocks.7.attn.to_out.0.biases"},
        {"transformer_blocks.7.img_mod_linear.bias", "transformer_blocks.7.img_mod.1.bias"},
        {"transformer_blocks.7.txt_mod_linear.scales", "transformer_blocks.7.txt_mod.1.scales"},
        {"transformer_blocks.7.img_ff.mlp_in.weight", "transformer_blocks.7.img_mlp.net.0.proj.weight"},
        {"transformer_blocks.7.txt_ff.mlp_out.weight", "transformer_blocks.7.txt_mlp.net.2.weight"},
        {"transformer_blocks.7.attn.norm_added_q.weight", "transformer_blocks.7.attn.norm_added_q.weight"},
        {NULL, NULL},
    };
    (void)state;
    char folder[TEST_PATH];
    ink_spelling spelling;
    test_folder_create(folder);
    find(&spelling, INK_TRANSFORMER, folder, comfyui, "model.diffusion_model.");
    check(&spelling, with_prefix);
    find(&spelling, INK_TRANSFORMER, folder, mflux, "");
    check(&spelling, of_mflux);
    test_folder_remove(folder);
}

static void test_text_encoder(void **state) {
    static const struct {
        named_shape marker[2];
        const char *prefix;
        translation names[6];
    } cases[] = {
        {{{"model.layers.0.mlp.gate_proj.weight", "[1]"}},
         "",
         {{"model.norm.weight", "model.norm.weight"},
          {"lm_head.weight", "lm_head.weight"},
          {"visual.merger.ln_q.weight", "visual.merger.ln_q.weight"}}},
        {{{"model.language_model.layers.0.mlp.gate_proj.weight", "[1]"}},
         "",
         {{"model.language_model.layers.27.self_attn.q_proj.bias", "model.layers.27.self_attn.q_proj.bias"},
          {"model.visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"}}},
        {{{"text_encoders.qwen25_7b.transformer.model.layers.0.mlp.gate_proj.weight", "[1]"}},
         "text_encoders.qwen25_7b.transformer.",
         {{"text_encoders.qwen25_7b.transformer.model.embed_tokens.weight", "model.embed_tokens.weight"},
          {"text_encoders.qwen25_7b.transformer.visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"},
          {"model.diffusion_model.img_in.weight", NULL}}},
        {{{"encoder.layers.0.mlp.gate_proj.weight", "[1]"}},
         "",
         {{"encoder.embed_tokens.weight", "model.embed_tokens.weight"},
          {"encoder.layers.3.mlp.down_proj.scales", "model.layers.3.mlp.down_proj.scales"},
          {"encoder.norm.weight", "model.norm.weight"},
          {"encoder.visual.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight"}}},
        {{{"blk.0.ffn_gate.weight", "[1]"}},
         "",
         {{"token_embd.weight", "model.embed_tokens.weight"},
          {"output_norm.weight", "model.norm.weight"},
          {"output.weight", "lm_head.weight"},
          {"blk.10.attn_output.weight", "model.layers.10.self_attn.o_proj.weight"},
          {"blk.10.ffn_norm.weight", "model.layers.10.post_attention_layernorm.weight"}}},
        {{{"blk.0.ffn_gate.weight", "[1]"}},
         "",
         {{"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
          {"blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias"},
          {"blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"},
          {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"},
          {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"}}},
    };
    (void)state;
    char folder[TEST_PATH];
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ink_spelling spelling;
        find(&spelling, INK_TEXT_ENCODER, folder, cases[i].marker, cases[i].prefix);
        check(&spelling, cases[i].names);
    }
    test_folder_remove(folder);
}

static void test_vae(void **state) {
    /* As many layers to a level as in the published VAE. */
    static const named_shape wan[] = {{"first_stage_model.decoder.middle.0.residual.0.gamma", "[1]"},
                                      {"first_stage_model.decoder.upsamples.11.resample.1.weight", "[1]"},
                                      {"first_stage_model.decoder.upsamples.3.resample.1.weight", "[1]"},
                                      {"first_stage_model.decoder.upsamples.7.resample.1.weight", "[1]"},
                                      {NULL, NULL}};
    static const named_shape mflux[] = {{"decoder.mid_block.resnets.0.conv1.conv3d.weight", "[1]"}, {NULL, NULL}};
#define W "first_stage_model."
    static const translation of_wan[] = {
        {W "conv1.weight", "quant_conv.weight"},
        {W "conv2.bias", "post_quant_conv.bias"},
        {W "encoder.conv1.weight", "encoder.conv_in.weight"},
        {W "encoder.downsamples.0.residual.0.gamma", "encoder.down_blocks.0.norm1.gamma"},
        {W "decoder.conv1.weight", "decoder.conv_in.weight"},
        {W "decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"},
        {W "decoder.middle.0.residual.2.weight", "decoder.mid_block.resnets.0.conv1.weight"},
        {W "decoder.middle.1.to_qkv.weight", "decoder.mid_block.attentions.0.to_qkv.weight"},
        {W "decoder.middle.1.norm.gamma", "decoder.mid_block.attentions.0.norm.gamma"},
        {W "decoder.middle.2.residual.6.bias", "decoder.mid_block.resnets.1.conv2.bias"},
        {W "decoder.upsamples.0.residual.3.gamma", "decoder.up_blocks.0.resnets.0.norm2.gamma"},
        {W "decoder.upsamples.3.resample.1.weight", "decoder.up_blocks.0.upsamplers.0.resample.1.weight"},
        {W "decoder.upsamples.3.time_conv.weight", "decoder.up_blocks.0.upsamplers.0.time_conv.weight"},
        {W "decoder.upsamples.4.shortcut.weight", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"},
        {W "decoder.upsamples.14.residual.6.weight", "decoder.up_blocks.3.resnets.2.conv2.weight"},
        {W "decoder.head.0.gamma", "decoder.norm_out.gamma"},
        {W "decoder.head.2.weight", "decoder.conv_out.weight"},
        {NULL, NULL},
    };
    static const translation of_mflux[] = {
        {"post_quant_conv.conv3d.weight", "post_quant_conv.weight"},
        {"decoder.conv_in.conv3d.bias", "decoder.conv_in.bias"},
        {"decoder.norm_out.weight", "decoder.norm_out.gamma"},
        {"decoder.mid_block.attentions.0.norm.weight", "decoder.mid_block.attentions.0.norm.gamma"},
        {"decoder.mid_block.attentions.0.proj.weight", "decoder.mid_block.attentions.0.proj.weight"},
        {"decoder.up_block3.resnets.0.norm1.weight", "decoder.up_blocks.3.resnets.0.norm1.gamma"},
        {"decoder.up_block1.resnets.0.skip_conv.conv3d.weight", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight"},
        {"decoder.up_block0.upsamplers.0.resample_conv.bias", "decoder.up_blocks.0.upsamplers.0.resample.1.bias"},
        {NULL, NULL},
    };
    (void)state;
    char folder[TEST_PATH];
    ink_spelling spelling;
    test_folder_create(folder);
    find(&spelling, INK_VAE, folder, wan, W);
    assert_true(spelling.level_length == 4 && !spelling.channels_last);
    check(&spelling, of_wan);
    find(&spelling, INK_VAE, folder, mflux, "");
    assert_true(spelling.level_length == 0 && spelling.channels_last);
    check(&spelling, of_mflux);
    test_folder_remove(folder);
}

/* Names are foreign bytes: long ones, numbers out of range, dots without end. */
static void test_strange_names(void **state) {
    char renamed[INK_MAX_TENSOR_NAME], longest[600];
    ink_spelling spelling = {.component = INK_VAE, .level_length = 3};
    (void)state;
    static const char *const kept[] = {"",
                                       ".",
                                       "....",
                                       "decoder.upsamples.",
                                       "decoder.upsamples.x.residual.",
                                       "decoder.upsamples.-1.a",
                                       "decoder.upsamples.99999999999999999999.a",
                                       "decoder.upsamples.5"};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        assert_int_equal(ink_spelling_rename(&spelling, renamed, kept[i]), INK_NAME_KEPT);
    for (size_t n = 200; n < sizeof longest; n++) {
        memset(longest, 'a', n);
        memcpy(longest, "decoder.upsamples.1.residual.0.", 31);
        longest[n] = '\0';
        ink_renaming renaming = ink_spelling_rename(&spelling, renamed, longest);
        /* On its way it grows by 10 bytes: what has no room stays as it was. */
        assert_int_equal(renaming, n + 10 < INK_MAX_TENSOR_NAME ? INK_NAME_CHANGED : INK_NAME_KEPT);
        if (renaming == INK_NAME_CHANGED) assert_true(strlen(renamed) < INK_MAX_TENSOR_NAME);
    }
}

/* ---- configs --------------------------------------------------------------------------------------------------------------- */

static void test_wrong_shapes(void **state) {
    static const struct {
        ink_component component;
        named_shape tensors[8];
        ink_status status;
        const char *part;
    } cases[] = {
        {INK_TRANSFORMER, {{"a", "[1]"}}, INK_ERROR_FORMAT, "tensor img_in.bias is missing"},
        {INK_TRANSFORMER, {{"img_in.bias", "[]"}}, INK_ERROR_FORMAT, "tensor img_in.bias has no shape to learn sizes from"},
        {INK_TRANSFORMER, {{"img_in.bias", "[0]"}}, INK_ERROR_FORMAT, "tensor img_in.bias has no shape"},
        {INK_TRANSFORMER,
         {{"img_in.bias", "[200]"},
          {"transformer_blocks.0.attn.norm_q.weight", "[128]"},
          {"proj_out.bias", "[64]"},
          {"txt_norm.weight", "[8]"}},
         INK_ERROR_FORMAT,
         "200 channels do not divide into heads of 128"},
        {INK_TRANSFORMER,
         {{"img_in.bias", "[128]"},
          {"transformer_blocks.0.attn.norm_q.weight", "[64]"},
          {"proj_out.bias", "[64]"},
          {"txt_norm.weight", "[8]"}},
         INK_ERROR_UNSUPPORTED,
         "transformer/config.json says so (-m DIR)"},
        {INK_TRANSFORMER,
         {{"img_in.bias", "[128]"},
          {"transformer_blocks.0.attn.norm_q.weight", "[128]"},
          {"proj_out.bias", "[65]"},
          {"txt_norm.weight", "[8]"}},
         INK_ERROR_FORMAT,
         "\"in_channels\" 65"},
        {INK_TEXT_ENCODER,
         {{"model.norm.weight", "[256]"},
          {"model.layers.0.self_attn.q_proj.weight", "[256]"},
          {"model.layers.0.self_attn.k_proj.weight", "[100]"},
          {"model.layers.0.mlp.gate_proj.weight", "[8]"},
          {"model.embed_tokens.weight", "[9]"}},
         INK_ERROR_UNSUPPORTED,
         "256 and 100 channels of queries and keys do not divide into heads of 128"},
        {INK_TEXT_ENCODER,
         {{"model.norm.weight", "[200]"},
          {"model.layers.0.self_attn.q_proj.weight", "[256]"},
          {"model.layers.0.self_attn.k_proj.weight", "[128]"},
          {"model.layers.0.mlp.gate_proj.weight", "[8]"},
          {"model.embed_tokens.weight", "[9]"}},
         INK_ERROR_FORMAT,
         "2 attention heads of 128 do not make the hidden size 200"},
        {INK_VAE,
         {{"post_quant_conv.bias", "[16]"},
          {"decoder.norm_out.gamma", "[8]"},
          {"decoder.conv_out.bias", "[4]"},
          {"decoder.up_blocks.0.resnets.0.conv1.weight", "[8]"},
          {"decoder.up_blocks.0.resnets.0.conv1.bias", "[8]"}},
         INK_ERROR_UNSUPPORTED,
         "\"input_channels\" is 4"},
        {INK_VAE,
         {{"post_quant_conv.bias", "[16]"}, {"decoder.norm_out.gamma", "[8]"}, {"decoder.conv_out.bias", "[3]"}},
         INK_ERROR_FORMAT,
         "tensor decoder.up_blocks.0.resnets.0.conv1.weight is missing"},
        {INK_VAE,
         {{"post_quant_conv.bias", "[16]"},
          {"decoder.norm_out.gamma", "[8]"},
          {"decoder.conv_out.bias", "[3]"},
          {"decoder.up_blocks.0.resnets.0.conv1.weight", "[12]"},
          {"decoder.up_blocks.0.resnets.0.conv1.bias", "[12]"}},
         INK_ERROR_UNSUPPORTED,
         "levels of 12 and 8 channels are no multiples of one number"},
    };
    (void)state;
    char folder[TEST_PATH];
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ink_weights *weights = open_shapes(folder, cases[i].tensors);
        ink_config config = {0};
        ink_error error = {INK_OK, ""};
        ink_status status = ink_config_infer(&config, cases[i].component, weights, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].part))
            fail_msg("case %zu: expected ...%s..., got %s", i, cases[i].part, error.message);
        ink_config_close(&config);
        ink_weights_close(&weights);
    }
    test_folder_remove(folder);
}

/* What is read off the weights is what the config beside them says. */
static void test_recorded_configs(void **state) {
    static const struct {
        const char *name, *stem;
        ink_config_part part;
    } parts[INK_N_COMPONENTS] = {{"text_encoder", "model", INK_CONFIG_TEXT_ENCODER},
                                 {"transformer", "diffusion_pytorch_model", INK_CONFIG_MMDIT},
                                 {"vae", "diffusion_pytorch_model", INK_CONFIG_VAE}};
    (void)state;
    ink_config read = {0}, inferred = {0};
    ink_error error;
    for (int i = 0; i < INK_N_COMPONENTS; i++) {
        char folder[TEST_PATH];
        ink_weights *weights;
        snprintf(folder, sizeof folder, INK_TEST_SOURCE_DIR "/tests/golden/head128/%s", parts[i].name);
        assert_int_equal(ink_weights_open(&weights, folder, parts[i].stem, &error), INK_OK);
        if (ink_config_infer(&inferred, (ink_component)i, weights, &error) != INK_OK) fail_msg("%s", error.message);
        ink_weights_close(&weights);
        assert_int_equal(ink_config_read(&read, parts[i].part, INK_TEST_SOURCE_DIR "/tests/golden/head128", &error), INK_OK);
    }
    assert_memory_equal(&read.text_encoder, &inferred.text_encoder, sizeof read.text_encoder);
    assert_memory_equal(&read.mmdit, &inferred.mmdit, sizeof read.mmdit);
    assert_memory_equal(&read.vae, &inferred.vae, sizeof read.vae);
    ink_config_set_published(&inferred);
    assert_int_equal(ink_config_read(&read, INK_CONFIG_SCHEDULER, INK_TEST_SOURCE_DIR "/tests/golden/head128", &error), INK_OK);
    assert_memory_equal(&read.scheduler, &inferred.scheduler, sizeof read.scheduler);
    ink_config_close(&read);
    ink_config_close(&inferred);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transformer),   cmocka_unit_test(test_text_encoder), cmocka_unit_test(test_vae),
        cmocka_unit_test(test_strange_names), cmocka_unit_test(test_wrong_shapes), cmocka_unit_test(test_recorded_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
