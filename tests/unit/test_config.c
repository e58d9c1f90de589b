/* test_config.c - configs as published, as recorded, with each field changed, and folders that are something else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/config.h"
#include "support/files.h"

/* As published, without what nothing reads. */
static const char *const published[INK_N_CONFIG_PARTS] = {
    [INK_CONFIG_INDEX] = "{\"_class_name\":\"QwenImagePipeline\",\"_diffusers_version\":\"0.34.0.dev0\","
                         "\"scheduler\":[\"diffusers\",\"FlowMatchEulerDiscreteScheduler\"],"
                         "\"text_encoder\":[\"transformers\",\"Qwen2_5_VLForConditionalGeneration\"],"
                         "\"tokenizer\":[\"transformers\",\"Qwen2Tokenizer\"],"
                         "\"transformer\":[\"diffusers\",\"QwenImageTransformer2DModel\"],"
                         "\"vae\":[\"diffusers\",\"AutoencoderKLQwenImage\"]}",
    [INK_CONFIG_TEXT_ENCODER] =
        "{\"architectures\":[\"Qwen2_5_VLForConditionalGeneration\"],\"hidden_act\":\"silu\",\"hidden_size\":3584,"
        "\"intermediate_size\":18944,\"model_type\":\"qwen2_5_vl\",\"num_attention_heads\":28,\"num_hidden_layers\":28,"
        "\"num_key_value_heads\":4,\"rms_norm_eps\":1e-06,"
        "\"rope_scaling\":{\"mrope_section\":[16,24,24],\"rope_type\":\"default\",\"type\":\"default\"},\"rope_theta\":1000000.0,"
        "\"sliding_window\":32768,\"use_sliding_window\":false,\"vocab_size\":152064}",
    [INK_CONFIG_MMDIT] =
        "{\"_class_name\":\"QwenImageTransformer2DModel\",\"attention_head_dim\":128,\"axes_dims_rope\":[16,56,56],"
        "\"guidance_embeds\":false,\"in_channels\":64,\"joint_attention_dim\":3584,\"num_attention_heads\":24,\"num_layers\":60,"
        "\"out_channels\":16,\"patch_size\":2,\"pooled_projection_dim\":768}",
    [INK_CONFIG_VAE] =
        "{\"_class_name\":\"AutoencoderKLQwenImage\",\"attn_scales\":[],\"base_dim\":96,\"dim_mult\":[1,2,4,4],\"dropout\":0.0,"
        "\"latents_mean\":[-0.7571,-0.7089,-0.9113,0.1075,-0.1745,0.9653,-0.1517,1.5508,0.4134,-0.0715,0.5517,-0.3632,-0.1922,"
        "-0.9497,0.2503,-0.2921],\"latents_std\":[2.8184,1.4541,2.3275,2.6558,1.2196,1.7708,2.6052,2.0743,3.2687,2.1526,2.8652,"
        "1.5579,1.6382,1.1253,2.8251,1.916],\"num_res_blocks\":2,\"temperal_downsample\":[false,true,true],\"z_dim\":16}",
    [INK_CONFIG_SCHEDULER] =
        "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"base_image_seq_len\":256,\"base_shift\":0.5,\"invert_sigmas\":"
        "false,"
        "\"max_image_seq_len\":8192,\"max_shift\":0.9,\"num_train_timesteps\":1000,\"shift\":1.0,\"shift_terminal\":0.02,"
        "\"stochastic_sampling\":false,\"time_shift_type\":\"exponential\",\"use_beta_sigmas\":false,"
        "\"use_dynamic_shifting\":true,\"use_exponential_sigmas\":false,\"use_karras_sigmas\":false}",
    [INK_CONFIG_DEFAULTS] = "{\"width\":128,\"height\":64,\"steps\":20,\"guidance\":3.5,\"negative_prompt\":\"blurry\"}",
};

static const char *const files[INK_N_CONFIG_PARTS] = {
    "model_index.json", "text_encoder/config.json",        "transformer/config.json",
    "vae/config.json",  "scheduler/scheduler_config.json", "inkstone.json"};

static void write_published(const char *folder) {
    for (int part = 0; part < INK_N_CONFIG_PARTS; part++) test_write_text(folder, files[part], published[part]);
}

/* One of the published texts with a field set to a JSON value, or without it where value is NULL. "a/b" is b within a. */
static json_t *changed(ink_config_part part, const char *key, const char *value) {
    json_t *root = json_loads(published[part], 0, NULL), *object = root;
    char name[80];
    assert_non_null(root);
    for (const char *slash = strchr(key, '/'); slash; key = slash + 1, slash = strchr(key, '/')) {
        snprintf(name, sizeof name, "%.*s", (int)(slash - key), key);
        object = json_object_get(object, name);
        assert_non_null(object);
    }
    if (value) {
        json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(parsed);
        json_object_set_new(object, key, parsed);
    } else {
        json_object_del(object, key);
    }
    return root;
}

static ink_status parse_changed(ink_config *config, ink_config_part part, const char *key, const char *value, ink_error *error) {
    json_t *root = changed(part, key, value);
    *config = (ink_config){0};
    ink_error_clear(error);
    ink_status status = ink_config_parse(config, part, root, "C", error);
    json_decref(root);
    return status;
}

/* Every file of a folder, and what they must agree on. */
static ink_status open_folder(ink_config *config, const char *dir, ink_error *error) {
    ink_status status = INK_OK;
    *config = (ink_config){0};
    for (int part = 0; status == INK_OK && part < INK_N_CONFIG_PARTS; part++)
        status = ink_config_read(config, (ink_config_part)part, dir, error);
    if (status == INK_OK) status = ink_config_check(config, dir, error);
    if (status != INK_OK) ink_config_close(config);
    return status;
}

static void test_published(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    write_published(folder);
    ink_config c;
    ink_error error;
    if (open_folder(&c, folder, &error) != INK_OK) fail_msg("%s", error.message);
    const ink_text_encoder_config *t = &c.text_encoder;
    assert_true(t->vocab_size == 152064 && t->hidden_size == 3584 && t->intermediate_size == 18944 && t->n_layers == 28);
    assert_true(t->n_heads == 28 && t->n_kv_heads == 4 && t->head_dim == 128 && t->rms_norm_eps == 1e-6 && t->rope_theta == 1e6);
    const ink_mmdit_config *m = &c.mmdit;
    assert_true(m->patch_size == 2 && m->in_channels == 64 && m->out_channels == 16 && m->n_layers == 60 && m->head_dim == 128);
    assert_true(m->n_heads == 24 && m->joint_dim == 3584 && m->dim == 3072);
    assert_true(m->rope_axes[0] == 16 && m->rope_axes[1] == 56 && m->rope_axes[2] == 56);
    const ink_vae_config *v = &c.vae;
    assert_true(v->base_dim == 96 && v->z_dim == 16 && v->n_levels == 4 && v->n_res_blocks == 2 && v->scale == 8);
    assert_true(v->dim_mult[0] == 1 && v->dim_mult[1] == 2 && v->dim_mult[2] == 4 && v->dim_mult[3] == 4);
    assert_true(!v->temporal_downsample[0] && v->temporal_downsample[1] && v->temporal_downsample[2]);
    assert_true(v->latents_mean[15] == -0.2921 && v->latents_std[0] == 2.8184);
    const ink_scheduler_config *s = &c.scheduler;
    assert_true(s->n_train_timesteps == 1000 && s->base_image_seq_len == 256 && s->max_image_seq_len == 8192 && s->shift == 1.0);
    assert_true(s->base_shift == 0.5 && s->max_shift == 0.9 && s->shift_terminal == 0.02);
    assert_true(s->use_dynamic_shifting && s->exponential_shift);
    const ink_default_config *d = &c.defaults;
    assert_true(d->width == 128 && d->height == 64 && d->steps == 20 && d->guidance == 3.5);
    assert_string_equal(d->negative_prompt, "blurry");
    ink_config_close(&c);

    assert_int_equal(remove(test_path(path, folder, "inkstone.json")), 0);
    assert_int_equal(open_folder(&c, folder, &error), INK_OK);
    assert_true(c.defaults.width == 1024 && c.defaults.height == 1024 && c.defaults.steps == 50 && c.defaults.guidance == 4.0);
    assert_null(c.defaults.negative_prompt);
    ink_config_close(&c);
    test_folder_remove(folder);
}

/* Absent fields take the defaults of the classes of diffusers, which are the published values but for the scheduler. */
static void test_class_defaults(void **state) {
    (void)state;
    ink_config c = {0}, full = {0};
    json_t *empty = json_object(), *vae = json_loads(published[INK_CONFIG_VAE], 0, NULL);
    json_t *mmdit = json_loads(published[INK_CONFIG_MMDIT], 0, NULL);
    assert_int_equal(ink_config_parse(&c, INK_CONFIG_MMDIT, empty, "C", NULL), INK_OK);
    assert_int_equal(ink_config_parse(&c, INK_CONFIG_VAE, empty, "C", NULL), INK_OK);
    assert_int_equal(ink_config_parse(&full, INK_CONFIG_MMDIT, mmdit, "C", NULL), INK_OK);
    assert_int_equal(ink_config_parse(&full, INK_CONFIG_VAE, vae, "C", NULL), INK_OK);
    assert_memory_equal(&c.mmdit, &full.mmdit, sizeof c.mmdit);
    assert_memory_equal(&c.vae, &full.vae, sizeof c.vae);
    assert_int_equal(ink_config_parse(&c, INK_CONFIG_SCHEDULER, empty, "C", NULL), INK_OK);
    assert_true(c.scheduler.max_image_seq_len == 4096 && c.scheduler.max_shift == 1.15 && c.scheduler.shift_terminal == 0);
    assert_true(!c.scheduler.use_dynamic_shifting && c.scheduler.exponential_shift && c.scheduler.shift == 1.0);
    json_decref(empty);
    json_decref(vae);
    json_decref(mmdit);
}

/* transformers 5: the language tower's fields in text_config, and what stands beside it does not count. */
static void test_forms_of_the_text_encoder(void **state) {
    static const char *const forms[] = {
        ("{\"model_type\":\"qwen2_5_vl\",\"hidden_size\":1,\"rope_theta\":5,\"use_sliding_window\":true,\"text_config\":{"
         "\"vocab_size\":430,\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
         "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6,\"layer_types\":[\"full_attention\",\"full_attention\"],"
         "\"rope_parameters\":{\"mrope_section\":[1,1,2],\"rope_theta\":10000.0,\"rope_type\":\"default\"}}}"),
        ("{\"model_type\":\"qwen2_5_vl\",\"text_config\":{\"vocab_size\":430,\"hidden_size\":32,\"intermediate_size\":48,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,"
         "\"rope_scaling\":{\"type\":\"mrope\",\"mrope_section\":[1,1,2]}}}"),
        ("{\"model_type\":\"qwen2_5_vl\",\"vocab_size\":430,\"hidden_size\":32,\"intermediate_size\":48,\"head_dim\":8,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,"
         "\"text_config\":null,\"rope_scaling\":null}"),
        ("{\"model_type\":\"qwen2_5_vl\",\"vocab_size\":430,\"hidden_size\":32,\"intermediate_size\":48,\"rope_parameters\":"
         "{\"rope_theta\":10000},\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-"
         "6}"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        ink_config c = {0};
        ink_error error;
        json_t *root = json_loads(forms[i], 0, NULL);
        assert_non_null(root);
        if (ink_config_parse(&c, INK_CONFIG_TEXT_ENCODER, root, "C", &error) != INK_OK) fail_msg("%s", error.message);
        const ink_text_encoder_config expected = {430, 32, 48, 2, 4, 2, 8, 1e-6, 10000.0};
        assert_memory_equal(&c.text_encoder, &expected, sizeof expected);
        json_decref(root);
    }
    ink_config c;
    ink_error error;
    assert_int_equal(parse_changed(&c, INK_CONFIG_TEXT_ENCODER, "rope_theta", NULL, &error), INK_OK);
    assert_true(c.text_encoder.rope_theta == 1e6);
    assert_int_equal(parse_changed(&c, INK_CONFIG_TEXT_ENCODER, "rms_norm_eps", NULL, &error), INK_OK);
    assert_true(c.text_encoder.rms_norm_eps == 1e-5);
    assert_int_equal(parse_changed(&c, INK_CONFIG_TEXT_ENCODER, "num_key_value_heads", "null", &error), INK_OK);
    assert_int_equal(c.text_encoder.n_kv_heads, 28);
}

typedef struct change {
    ink_config_part part;
    const char *key, *value;
    ink_status status;
    const char *sentence; /* part of it */
} change;

#define I INK_CONFIG_INDEX
#define E INK_CONFIG_TEXT_ENCODER
#define M INK_CONFIG_MMDIT
#define V INK_CONFIG_VAE
#define S INK_CONFIG_SCHEDULER
#define D INK_CONFIG_DEFAULTS
#define FORMAT INK_ERROR_FORMAT
#define UNSUPPORTED INK_ERROR_UNSUPPORTED

static const change changes[] = {
    {I, "_class_name", NULL, FORMAT, "C: \"_class_name\" is missing"},
    {I, "_class_name", "7", FORMAT, "must be a string, found 7"},
    {I, "_class_name", "\"QwenImageEditPipeline\"", UNSUPPORTED,
     "C: is of a Qwen-Image-Edit checkpoint (QwenImageEditPipeline): editing is not supported yet"},
    {I, "_class_name", "\"QwenImageEditPlusPipeline\"", UNSUPPORTED, "a Qwen-Image-Edit-Plus checkpoint"},
    {I, "_class_name", "\"QwenImageLayeredPipeline\"", UNSUPPORTED, "a Qwen-Image-Layered checkpoint"},
    {I, "_class_name", "\"QwenImageControlNetPipeline\"", UNSUPPORTED, "ControlNets are not supported yet"},
    {I, "_class_name", "\"QwenImage21Pipeline\"", UNSUPPORTED, "a Qwen-Image 2.x checkpoint (QwenImage21Pipeline): only"},
    {I, "_class_name", "\"FluxPipeline\"", UNSUPPORTED, "a FLUX.1 checkpoint"},
    {I, "_class_name", "\"Flux2KleinPipeline\"", UNSUPPORTED, "a FLUX.2 checkpoint"},
    {I, "_class_name", "\"ZImagePipeline\"", UNSUPPORTED, "a Z-Image checkpoint"},
    {I, "_class_name", "\"StableDiffusionXLPipeline\"", UNSUPPORTED, "a Stable Diffusion XL checkpoint"},
    {I, "_class_name", "\"StableDiffusion3Pipeline\"", UNSUPPORTED, "a Stable Diffusion 3 checkpoint"},
    {I, "_class_name", "\"StableDiffusionPipeline\"", UNSUPPORTED, "a Stable Diffusion checkpoint"},
    {I, "_class_name", "\"HunyuanImagePipeline\"", UNSUPPORTED, "a HunyuanImage checkpoint"},
    {I, "_class_name", "\"MyPipeline\"", UNSUPPORTED, "names the class MyPipeline, which is not supported"},
    {I, "text_encoder", "[\"transformers\",\"Qwen3VLForConditionalGeneration\"]", UNSUPPORTED, "a Qwen-Image 2.x checkpoint"},
    {I, "vae", NULL, FORMAT, "\"vae\" must be an array of a library and a class such as \"AutoencoderKLQwenImage\", found nothing"},
    {I, "vae", "[null,null]", FORMAT, "found an array of 2"},
    {I, "transformer", "[\"diffusers\",\"FluxTransformer2DModel\"]", UNSUPPORTED, "a FLUX.1 checkpoint"},
    {I, "scheduler", "[\"diffusers\",\"DPMSolverMultistepScheduler\"]", UNSUPPORTED, "the class DPMSolverMultistepScheduler"},
    {I, "tokenizer", "[\"transformers\",\"T5Tokenizer\"]", UNSUPPORTED, "the class T5Tokenizer"},

    {E, "model_type", NULL, FORMAT, "\"model_type\" is missing"},
    {E, "model_type", "\"qwen3_vl\"", UNSUPPORTED, "a Qwen-Image 2.x checkpoint"},
    {E, "model_type", "\"t5\"", UNSUPPORTED, "of type t5, only qwen2_5_vl is supported"},
    {E, "quantization_config", "{\"quant_method\":\"bitsandbytes\"}", UNSUPPORTED, "the weights are quantized (bitsandbytes)"},
    {E, "text_config", "[]", FORMAT, "\"text_config\" must be an object"},
    {E, "text_config", "{}", FORMAT, "\"vocab_size\" is missing"},
    {E, "vocab_size", "0", FORMAT, "\"vocab_size\" must be an integer from 1 to 16777216, found 0"},
    {E, "hidden_size", "3584.0", FORMAT, "found the real number 3584"},
    {E, "hidden_size", "3585", FORMAT, "28 attention heads of 128 do not make the hidden size 3585"},
    {E, "hidden_size", "10", FORMAT, "do not make the hidden size 10"},
    {E, "hidden_size", "9223372036854775807", FORMAT, "\"hidden_size\" must be an integer from 1 to 1048576"},
    {E, "intermediate_size", "-1", FORMAT, "\"intermediate_size\" must be"},
    {E, "num_hidden_layers", "1025", FORMAT, "\"num_hidden_layers\" must be"},
    {E, "num_attention_heads", "0", FORMAT, "\"num_attention_heads\" must be"},
    {E, "num_attention_heads", "512", FORMAT, "an even number up to 4096 is expected"},
    {E, "num_key_value_heads", "5", FORMAT, "28 attention heads cannot share 5 key-value heads evenly"},
    {E, "head_dim", "64", FORMAT, "28 attention heads of 64 do not make"},
    {E, "rms_norm_eps", "0", FORMAT, "\"rms_norm_eps\" must be greater than 0, found 0"},
    {E, "hidden_act", "\"gelu\"", UNSUPPORTED, "the activation is gelu, only silu is supported"},
    {E, "use_sliding_window", "true", UNSUPPORTED, "\"use_sliding_window\" is true, which is not supported"},
    {E, "layer_types", "[\"full_attention\",\"sliding_attention\"]", UNSUPPORTED, "holds sliding_attention"},
    {E, "layer_types", "[1]", UNSUPPORTED, "\"layer_types\" holds what is no string"},
    {E, "rope_theta", "-1", FORMAT, "\"rope_theta\" must be greater than 0"},
    {E, "rope_theta", "\"1e6\"", FORMAT, "\"rope_theta\" must be a number, found \"1e6\""},
    {E, "rope_scaling", "[]", FORMAT, "\"rope_scaling\" must be an object"},
    {E, "rope_scaling/rope_type", "\"yarn\"", UNSUPPORTED, "the rotary embedding is of type yarn"},
    {E, "rope_scaling/rope_type", "1", FORMAT, "\"rope_type\" must be a string, found 1"},
    {E, "rope_scaling/rope_theta", "0", FORMAT, "\"rope_theta\" must be greater than 0"},
    {E, "rope_scaling/mrope_section", "[16,24,25]", FORMAT, "\"mrope_section\" must be three numbers with the sum 64"},
    {E, "rope_scaling/mrope_section", "[16,48]", FORMAT, "three numbers with the sum 64"},
    {E, "rope_scaling/mrope_section", "[-16,40,40]", FORMAT, "three numbers with the sum 64"},
    {E, "rope_scaling/mrope_section", "[9223372036854775807,9223372036854775807,66]", FORMAT, "three numbers with the sum 64"},
    {E, "rope_scaling/mrope_section", "[16,24,24,0]", FORMAT, "of at most 3, found 4"},

    {M, "_class_name", "\"QwenImage21Transformer2DModel\"", UNSUPPORTED, "a Qwen-Image 2.x checkpoint"},
    {M, "quantization_config", "{}", UNSUPPORTED, "the weights are quantized"},
    {M, "guidance_embeds", "true", UNSUPPORTED, "\"guidance_embeds\" is true"},
    {M, "guidance_embeds", "1", FORMAT, "\"guidance_embeds\" must be true or false, found 1"},
    {M, "zero_cond_t", "true", UNSUPPORTED, "\"zero_cond_t\" is true"},
    {M, "use_additional_t_cond", "true", UNSUPPORTED, "\"use_additional_t_cond\" is true"},
    {M, "use_layer3d_rope", "true", UNSUPPORTED, "\"use_layer3d_rope\" is true"},
    {M, "axes_dims_rope", "[16,56,58]", FORMAT, "three even numbers with the sum 128"},
    {M, "axes_dims_rope", "[15,57,56]", FORMAT, "three even numbers"},
    {M, "axes_dims_rope", "[64,64]", FORMAT, "three even numbers"},
    {M, "axes_dims_rope", "[-2,74,56]", FORMAT, "three even numbers"},
    {M, "axes_dims_rope", "[0,72,56]", FORMAT, "three even numbers"},
    {M, "axes_dims_rope", "\"16\"", FORMAT, "\"axes_dims_rope\" must be an array of integers, found \"16\""},
    {M, "attention_head_dim", "130", FORMAT, "with the sum 130"},
    {M, "attention_head_dim", "0", FORMAT, "\"attention_head_dim\" must be"},
    {M, "num_attention_heads", "4097", FORMAT, "\"num_attention_heads\" must be"},
    {M, "num_layers", "0", FORMAT, "\"num_layers\" must be"},
    {M, "in_channels", "32", FORMAT, "\"out_channels\" 16 in patches of 2 x 2 do not make \"in_channels\" 32"},
    {M, "out_channels", "null", FORMAT, "\"out_channels\" 64 in patches"},
    {M, "patch_size", "1", UNSUPPORTED, "\"patch_size\" is 1, only 2 is supported"},
    {M, "joint_attention_dim", "[]", FORMAT, "\"joint_attention_dim\" must be an integer"},

    {V, "_class_name", "\"AutoencoderKL\"", UNSUPPORTED, "names the class AutoencoderKL,"},
    {V, "_class_name", "\"AutoencoderKLQwenImage21\"", UNSUPPORTED, "a Qwen-Image 2.x checkpoint"},
    {V, "z_dim", "64", UNSUPPORTED, "\"z_dim\" is 64, as in Qwen-Image 2.x"},
    {V, "z_dim", "12", FORMAT, "\"latents_mean\" has 16 numbers, 12 are expected"},
    {V, "latents_mean", NULL, INK_OK, ""},
    {V, "latents_mean", "[1]", FORMAT, "\"latents_mean\" has 1 numbers, 16 are expected"},
    {V, "latents_mean", "[1e31,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]", FORMAT, "\"latents_mean\" item 0 is 1e+31, which is out of range"},
    {V, "latents_std", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0]", FORMAT, "\"latents_std\" item 15 must be greater than 0, found 0"},
    {V, "latents_std", "[1,-1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", FORMAT, "item 1 must be greater than 0, found -1"},
    {V, "latents_std", "\"1\"", FORMAT, "\"latents_std\" must be an array of numbers"},
    {V, "attn_scales", "[0.25]", UNSUPPORTED, "\"attn_scales\" is not empty"},
    {V, "attn_scales", "[1,2]", FORMAT, "\"attn_scales\" must be"},
    {V, "input_channels", "4", UNSUPPORTED, "\"input_channels\" is 4, only pictures of 3 channels"},
    {V, "dim_mult", "[]", FORMAT, "\"temperal_downsample\" has 3 items, one fewer than the 0"},
    {V, "dim_mult", "[1,2,4]", FORMAT, "one fewer than the 3 of \"dim_mult\" are expected"},
    {V, "dim_mult", "[1,0,4,4]", FORMAT, "\"dim_mult\" makes a level of 0 times 96 channels"},
    {V, "dim_mult", "[1,2,4,1000000]", FORMAT, "a level of 1000000 times 96 channels"},
    {V, "dim_mult", "[1,2,4,9223372036854775807]", FORMAT, "a level of 9223372036854775807 times"},
    {V, "dim_mult", "[1,1,1,1,1,1,1,1,1]", FORMAT, "of at most 8, found 9"},
    {V, "temperal_downsample", "[true,false]", FORMAT, "has 2 items"},
    {V, "temperal_downsample", "[0,1,1]", FORMAT, "must be an array of true and false, item 0 is 0"},
    {V, "base_dim", "0", FORMAT, "\"base_dim\" must be"},
    {V, "num_res_blocks", "-1", FORMAT, "\"num_res_blocks\" must be"},

    {S, "_class_name", "\"EulerDiscreteScheduler\"", UNSUPPORTED, "names the class EulerDiscreteScheduler"},
    {S, "use_karras_sigmas", "true", UNSUPPORTED, "\"use_karras_sigmas\" is true"},
    {S, "use_exponential_sigmas", "true", UNSUPPORTED, "\"use_exponential_sigmas\" is true"},
    {S, "use_beta_sigmas", "true", UNSUPPORTED, "\"use_beta_sigmas\" is true"},
    {S, "invert_sigmas", "true", UNSUPPORTED, "\"invert_sigmas\" is true"},
    {S, "stochastic_sampling", "true", UNSUPPORTED, "\"stochastic_sampling\" is true"},
    {S, "time_shift_type", "\"cosine\"", UNSUPPORTED, "\"time_shift_type\" is cosine"},
    {S, "time_shift_type", "\"linear\"", INK_OK, ""},
    {S, "shift", "0", FORMAT, "\"shift\" must be greater than 0"},
    {S, "shift_terminal", "null", INK_OK, ""},
    {S, "shift_terminal", "1", FORMAT, "\"shift_terminal\" must be from 0 to below 1, found 1"},
    {S, "shift_terminal", "-0.5", FORMAT, "\"shift_terminal\" must be from 0 to below 1, found -0.5"},
    {S, "max_image_seq_len", "256", FORMAT, "are both 256, they must differ"},
    {S, "num_train_timesteps", "0", FORMAT, "\"num_train_timesteps\" must be"},
    {S, "base_shift", "\"x\"", FORMAT, "\"base_shift\" must be a number"},

    {D, "width", "0", FORMAT, "\"width\" must be an integer from 1 to 65536, found 0"},
    {D, "steps", "0", FORMAT, "\"steps\" must be"},
    {D, "guidance", "-1", FORMAT, "\"guidance\" must be from 0 to 1000, found -1"},
    {D, "negative_prompt", "null", INK_OK, ""},
    {D, "negative_prompt", "1", FORMAT, "\"negative_prompt\" must be a string, found 1"},
    {D, "cfg", "1", FORMAT, "\"cfg\" is no setting; they are width, height, steps, guidance, negative_prompt"},
};

static void test_changed_fields(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        const change *c = &changes[i];
        ink_config config;
        ink_error error;
        ink_status status = parse_changed(&config, c->part, c->key, c->value, &error);
        if (status != c->status || error.status != c->status || !strstr(error.message, c->sentence))
            fail_msg("%s %s: expected %s ...%s..., got %s: %s", c->key, c->value ? c->value : "(absent)",
                     ink_status_name(c->status), c->sentence, ink_status_name(status), error.message);
        if (status != INK_OK) assert_int_equal(strncmp(error.message, "C: ", 3), 0);
        ink_config_close(&config);
    }
}

static void assert_open_fails(const char *dir, ink_status status, const char *part) {
    ink_config config;
    ink_error error;
    static const ink_config zero;
    assert_int_equal(open_folder(&config, dir, &error), status);
    if (error.status != status || !strstr(error.message, part)) fail_msg("expected ...%s..., got %s", part, error.message);
    assert_memory_equal(&config, &zero, sizeof zero);
}

static void open_changed(const char *folder, ink_config_part part, const char *key, const char *value, const char *sentence) {
    json_t *root = changed(part, key, value);
    char path[TEST_PATH];
    assert_int_equal(json_dump_file(root, test_path(path, folder, files[part]), 0), 0);
    json_decref(root);
    assert_open_fails(folder, INK_ERROR_FORMAT, sentence);
    test_write_text(folder, files[part], published[part]);
}

static void test_sizes_that_do_not_agree(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    write_published(folder);
    open_changed(folder, INK_CONFIG_MMDIT, "joint_attention_dim", "4096",
                 "the transformer expects text states of 4096 channels, the text encoder makes 3584");
    open_changed(folder, INK_CONFIG_DEFAULTS, "width", "136", "the default size 136 x 64 must be in multiples of 16");
    test_write_text(folder, files[INK_CONFIG_VAE], "{\"z_dim\":4,\"latents_mean\":[0,0,0,0],\"latents_std\":[1,1,1,1]}");
    assert_open_fails(folder, INK_ERROR_FORMAT,
                      "the transformer has 64 input channels, expected 16: the VAE's 4 in patches of 2 x 2");
    test_write_text(folder, files[INK_CONFIG_VAE], "{");
    assert_open_fails(folder, INK_ERROR_FORMAT, "vae/config.json: is not valid JSON");
    assert_int_equal(remove(test_path(path, folder, files[INK_CONFIG_VAE])), 0);
    assert_open_fails(folder, INK_ERROR_IO, "vae/config.json: cannot be opened");
    test_folder_remove(folder);
}

static void test_folders_that_are_something_else(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    assert_open_fails(test_path(path, folder, "none"), INK_ERROR_IO, "none: there is no such folder");
    assert_open_fails(folder, INK_ERROR_IO, "has no model_index.json, so it is no checkpoint folder");
    test_write_text(folder, "a.safetensors", "");
    assert_open_fails(test_path(path, folder, "a.safetensors"), INK_ERROR_IO,
                      "is a single file, not a folder: name it with --diff");
    test_write_text(folder, "b.gguf", "GGUF");
    assert_open_fails(test_path(path, folder, "b.gguf"), INK_ERROR_IO, "is a single file, not a folder: name it with --diff");
    test_write_text(folder, "c.ckpt", "");
    assert_open_fails(test_path(path, folder, "c.ckpt"), INK_ERROR_UNSUPPORTED, "is a pickled checkpoint");
    test_write_text(folder, "modular_model_index.json", "{}");
    assert_open_fails(folder, INK_ERROR_UNSUPPORTED, "holds a modular pipeline");
    test_write_text(folder, "config.json", published[INK_CONFIG_MMDIT]);
    assert_open_fails(folder, INK_ERROR_IO, "its config.json names QwenImageTransformer2DModel, so it is one component");
    test_write_text(folder, "config.json", published[INK_CONFIG_TEXT_ENCODER]);
    assert_open_fails(folder, INK_ERROR_IO, "names Qwen2_5_VLForConditionalGeneration");
    test_write_text(folder, "model_index.json", "[]");
    assert_open_fails(folder, INK_ERROR_FORMAT, "model_index.json: must hold a JSON object");
    assert_open_fails(test_path(path, folder, "model_index.json"), INK_ERROR_IO, "is a JSON file; a checkpoint folder");
    test_folder_remove(folder);
}

static void test_recorded_checkpoints(void **state) {
    static const char *const models[] = {"tiny", "published", "head128", "static-shift", "small-values"};
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char folder[TEST_PATH];
        ink_config config;
        ink_error error;
        snprintf(folder, sizeof folder, "%s/tests/golden/%s", INK_TEST_SOURCE_DIR, models[i]);
        if (open_folder(&config, folder, &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(config.vae.scale, 8);
        ink_config_close(&config);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    char folder[TEST_PATH];
    test_folder_create(folder);
    write_published(folder);
    for (int jansson = 0; jansson < 2; jansson++) {
        ink_status status = INK_ERROR_MEMORY;
        for (int64_t n = 0; status != INK_OK; n++) {
            ink_config config;
            ink_error error;
            (jansson ? test_json_fail_after : ink_alloc_fail_after)(n);
            status = open_folder(&config, folder, &error);
            (jansson ? test_json_fail_after : ink_alloc_fail_after)(-1);
            assert_true(status == INK_OK || status == INK_ERROR_MEMORY || (jansson && status == INK_ERROR_FORMAT));
            ink_config_close(&config);
        }
    }
    /* Folders without an index: guessing what they are must not need memory to fail well. */
    char path[TEST_PATH];
    assert_int_equal(remove(test_path(path, folder, "model_index.json")), 0);
    test_write_text(folder, "config.json", published[INK_CONFIG_MMDIT]);
    for (int64_t n = 0; n < 20; n++) {
        ink_config config;
        ink_alloc_fail_after(n);
        ink_status status = open_folder(&config, folder, NULL);
        ink_alloc_fail_after(-1);
        assert_true(status == INK_ERROR_IO || status == INK_ERROR_MEMORY);
    }
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_class_defaults),
        cmocka_unit_test(test_forms_of_the_text_encoder),
        cmocka_unit_test(test_changed_fields),
        cmocka_unit_test(test_sizes_that_do_not_agree),
        cmocka_unit_test(test_folders_that_are_something_else),
        cmocka_unit_test(test_recorded_checkpoints),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
