/*
 * test_forms.c - one tiny model in every form that is read, each written by its own tool (tools/make_forms.py): the same picture
 * as from the published layout, bit for bit where the form loses nothing, and near it where it does.
 */
#define _POSIX_C_SOURCE 200809L /* symlink */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "inkstone.h"
#include "support/files.h"
#include "tensor/binder.h"

#define FORMS INK_TEST_SOURCE_DIR "/tests/golden/forms"
#define HEAD128 INK_TEST_SOURCE_DIR "/tests/golden/head128"

enum { WIDTH = 64, HEIGHT = 48, N_BYTES = WIDTH * HEIGHT * 3 };

/* ---- helpers ------------------------------------------------------------------------------------------------------- */

static void draw_with(unsigned char bytes[N_BYTES], ink_model *model) {
    ink_error error;
    ink_session *session = NULL;
    ink_image *image = NULL;
    ink_request request;
    ink_request_init(&request, model);
    request.prompt = "a red circle on a blue background";
    request.negative_prompt = "猫";
    request.width = WIDTH;
    request.height = HEIGHT;
    request.steps = 3;
    request.seed = 11;
    request.noise_dtype = INK_NOISE_F32;            /* the same start, whatever the weights are stored in */
    const ink_session_options exact = {.cpu = "c"}; /* the best tier may round activations, which is another matter than forms */
    if (ink_session_create(&session, model, &exact, &error) != INK_OK || ink_generate(session, &request, &image, &error) != INK_OK)
        fail_msg("%s", error.message);
    memcpy(bytes, ink_image_pixels(image), N_BYTES);
    ink_image_destroy(&image);
    ink_session_destroy(&session);
}

static ink_model *open_or_fail(const char *dir, const ink_model_options *options) {
    ink_error error;
    ink_model *model = NULL;
    if (ink_model_open(&model, dir, options, &error) != INK_OK) fail_msg("%s", error.message);
    return model;
}

static void draw(unsigned char bytes[N_BYTES], const char *dir, const ink_model_options *options) {
    ink_model *model = open_or_fail(dir, options);
    draw_with(bytes, model);
    ink_model_close(&model);
}

/* In dB, of 8-bit pictures. */
static double psnr(const unsigned char *a, const unsigned char *b) {
    double sum = 0;
    for (int i = 0; i < N_BYTES; i++) sum += (double)(a[i] - b[i]) * (a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * N_BYTES / sum) : INFINITY;
}

static void assert_open_fails(const char *dir, const ink_model_options *options, ink_status expected, const char *part) {
    ink_error error;
    ink_model *model = NULL;
    ink_status status = ink_model_open(&model, dir, options, &error);
    if (status != expected || !strstr(error.message, part))
        fail_msg("expected %s: ...%s..., got %s: %s", ink_status_name(expected), part, ink_status_name(status), error.message);
    assert_null(model);
}

/* ---- the same picture ------------------------------------------------------------------------------------------------ */

#define COMFYUI FORMS "/comfyui/diffusion_models/forms_"

static void test_forms_of_each_part(void **state) {
    /* least is what was measured on every tier, less a margin of 1 dB; INFINITY: bit for bit. */
    static const struct {
        const char *transformer, *text_encoder, *vae;
        double least;
    } cases[] = {
        {COMFYUI "bf16.safetensors", NULL, NULL, INFINITY},
        {COMFYUI "fp8_e4m3fn.safetensors", NULL, NULL, 37},
        {COMFYUI "fp8_scaled.safetensors", NULL, NULL, 48.5},
        {NULL, FORMS "/comfyui/text_encoders/forms_text_fp8_scaled.safetensors", NULL, 47.3},
        {NULL, NULL, FORMS "/comfyui/vae/forms_vae.safetensors", INFINITY},
        {FORMS "/gguf/forms_q8_0.gguf", NULL, NULL, 56.8},
        {FORMS "/gguf/forms_mixed.gguf", NULL, NULL, 39.2},
        {NULL, FORMS "/gguf/forms_text_bf16.gguf", NULL, INFINITY},
        {FORMS "/mlx4/transformer", NULL, NULL, 29},
        {FORMS "/mlx8/transformer", NULL, NULL, 45.6},
        {NULL, FORMS "/mlx8/text_encoder", NULL, 54.5},
        {NULL, NULL, FORMS "/mlx8/vae", INFINITY},
    };
    static unsigned char published[N_BYTES], other[N_BYTES];
    (void)state;
    draw(published, FORMS, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ink_model_options options = {
            .transformer_file = cases[i].transformer, .text_encoder_file = cases[i].text_encoder, .vae_file = cases[i].vae};
        const char *named = cases[i].transformer    ? cases[i].transformer
                            : cases[i].text_encoder ? cases[i].text_encoder
                                                    : cases[i].vae;
        /* mflux's tokenizer is one file. */
        if (i % 2) options.tokenizer_dir = FORMS "/mlx8/tokenizer";
        draw(other, FORMS, &options);
        double found = psnr(other, published);
        print_message("%-60s %.1f dB\n", named + strlen(FORMS), found);
        if (!(found >= cases[i].least)) fail_msg("%s: %.2f dB, at least %.2f are expected", named, found, cases[i].least);
    }
}

/* ---- without configs --------------------------------------------------------------------------------------------------- */

/* folder/NAME -> target, with the folder that holds it. */
static void link_to(const char *folder, const char *sub, const char *name, const char *target) {
    char path[TEST_PATH];
    if (*sub) (void)mkdir(test_path(path, folder, sub), 0777);
    char place[2 * TEST_PATH];
    snprintf(place, sizeof place, "%s/%s%s%s", folder, sub, *sub ? "/" : "", name);
    assert_int_equal(symlink(target, place), 0);
}

static void draw_head128(unsigned char published[N_BYTES]) { draw(published, HEAD128, NULL); }

/* The layout of ComfyUI's models' folder; every dimension is inferred. */
static void link_comfyui(const char *folder) {
    link_to(folder, "diffusion_models", "b.safetensors", HEAD128 "/transformer/diffusion_pytorch_model.safetensors");
    link_to(folder, "text_encoders", "t.safetensors", HEAD128 "/text_encoder/model.safetensors");
    link_to(folder, "vae", "v.safetensors", HEAD128 "/vae/diffusion_pytorch_model.safetensors");
}

static void test_folders_of_files(void **state) {
    static unsigned char published[N_BYTES], other[N_BYTES];
    char folder[TEST_PATH];
    (void)state;
    draw_head128(published);
    test_folder_create(folder);
    link_comfyui(folder);
    assert_open_fails(folder, NULL, INK_ERROR_ARGUMENT, "no tokenizer: ");
    const ink_model_options options = {.tokenizer_dir = HEAD128 "/tokenizer"};
    draw(other, folder, &options);
    assert_memory_equal(other, published, N_BYTES);

    /* A smaller file that holds a transformer too, and comes first by name: it is not taken, but told of. */
    link_to(folder, "", "a.gguf", FORMS "/gguf/forms_mixed.gguf");
    ink_model *model = open_or_fail(folder, &options);
    const char *note = ink_model_note(model, 0);
    assert_non_null(note);
    if (!strstr(note, "2 files hold a transformer: ") || !strstr(note, "/diffusion_models/b.safetensors is taken, the largest") ||
        !strstr(note, "/a.gguf, is chosen with --diffusion-model (transformer_file)"))
        fail_msg("%s", note);
    assert_null(ink_model_note(model, 1));
    draw_with(other, model);
    assert_memory_equal(other, published, N_BYTES);
    ink_model_close(&model);
    test_folder_remove(folder);
}

/* mflux keeps the published folders, without an index and without configs. */
static void test_folders_without_configs(void **state) {
    static unsigned char published[N_BYTES], other[N_BYTES];
    char folder[TEST_PATH];
    (void)state;
    draw_head128(published);
    test_folder_create(folder);
    link_to(folder, "transformer", "0.safetensors", HEAD128 "/transformer/diffusion_pytorch_model.safetensors");
    link_to(folder, "text_encoder", "0.safetensors", HEAD128 "/text_encoder/model.safetensors");
    link_to(folder, "vae", "0.safetensors", HEAD128 "/vae/diffusion_pytorch_model.safetensors");
    link_to(folder, "", "tokenizer", HEAD128 "/tokenizer");
    draw(other, folder, NULL);
    assert_memory_equal(other, published, N_BYTES);
    test_folder_remove(folder);
}

static void test_files_alone(void **state) {
    static unsigned char published[N_BYTES], other[N_BYTES];
    ink_model_options options = {.transformer_file = HEAD128 "/transformer/diffusion_pytorch_model.safetensors",
                                 .text_encoder_file = HEAD128 "/text_encoder/model.safetensors",
                                 .vae_file = HEAD128 "/vae/diffusion_pytorch_model.safetensors"};
    (void)state;
    assert_open_fails(NULL, &options, INK_ERROR_ARGUMENT,
                      "text_encoder/model.safetensors brings none; name a folder with vocab.json");
    options.tokenizer_dir = HEAD128 "/tokenizer";
    draw_head128(published);
    draw(other, NULL, &options);
    assert_memory_equal(other, published, N_BYTES);

    ink_model_options broken = options;
    broken.vae_file = NULL;
    assert_open_fails(NULL, &broken, INK_ERROR_ARGUMENT, "no VAE: name one with --vae (vae_file), or a folder");
    broken.vae_file = options.text_encoder_file;
    assert_open_fails(NULL, &broken, INK_ERROR_UNSUPPORTED, "holds a Qwen2.5-VL text encoder, a Qwen-Image VAE is expected here");
    broken.vae_file = FORMS "/none.safetensors";
    assert_open_fails(NULL, &broken, INK_ERROR_IO, "none.safetensors: cannot be opened");
    broken.vae_file = FORMS "/scheduler/scheduler_config.json";
    assert_open_fails(NULL, &broken, INK_ERROR_FORMAT, "not a safetensors file?");
    broken = options;
    broken.transformer_file = FORMS "/gguf/forms_q8_0.gguf";
    assert_open_fails(NULL, &broken, INK_ERROR_UNSUPPORTED, "how heads of 64 channels divide into the axes of a position");
    broken = options;
    broken.text_encoder_file = FORMS "/text_encoder/model.safetensors";
    assert_open_fails(NULL, &broken, INK_ERROR_UNSUPPORTED,
                      "64 and 32 channels of queries and keys do not divide into heads of 128");
}

/* The metadata of llama.cpp tell how large heads are, and the file brings its tokenizer. */
static void test_text_encoder_with_tokenizer(void **state) {
    (void)state;
    const ink_model_options options = {.transformer_file = FORMS "/comfyui/diffusion_models/forms_bf16.safetensors",
                                       .text_encoder_file = FORMS "/gguf/forms_text_bf16.gguf",
                                       .vae_file = FORMS "/comfyui/vae/forms_vae.safetensors"};
    ink_report *report;
    ink_error error;
    assert_int_equal(ink_inspect(&report, NULL, &options, &error), INK_OK);
    assert_string_equal(report->components[0].path, FORMS "/gguf/forms_text_bf16.gguf");
    for (size_t i = 1; i < 4; i++) {
        const ink_component_report *part = &report->components[i];
        if (part->n_missing || part->n_unexpected) fail_msg("%s: %zu, %zu", part->name, part->n_missing, part->n_unexpected);
        /* The transformer's heads are not those of the published model. */
        assert_int_equal(part->problem != NULL, i == 2);
    }
    assert_string_equal(report->components[1].container, "GGUF");
    assert_string_equal(report->components[1].runs, "BF16 in place");
    assert_string_equal(report->components[3].container, "safetensors");
    ink_report_destroy(&report);
}

static void test_how_it_runs(void **state) {
    static const struct {
        const char *transformer, *dtypes, *runs;
    } cases[] = {
        {FORMS "/transformer", "BF16", "BF16 in place"},
        {COMFYUI "fp8_scaled.safetensors", "BF16 31, F32 14, F8_E4M3 14", "F8_E4M3 decoded while multiplying, BF16 in place"},
        {FORMS "/gguf/forms_q8_0.gguf", "F32 25, BF16 6, Q8_0 14", "Q8_0 decoded while multiplying, BF16 in place"},
        {FORMS "/mlx8/transformer", "BF16 65, U32 20", "groups of integers decoded while multiplying"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const ink_model_options options = {.transformer_file = cases[i].transformer};
        ink_report *report;
        ink_error error;
        if (ink_inspect(&report, FORMS, &options, &error) != INK_OK) fail_msg("%s", error.message);
        const ink_component_report *part = &report->components[2];
        if (part->problem) fail_msg("%s", part->problem);
        assert_true(part->n_missing == 0 && part->n_unexpected == 0);
        assert_string_equal(part->path, cases[i].transformer);
        assert_string_equal(part->dtypes, cases[i].dtypes);
        assert_string_equal(part->runs, cases[i].runs);
        ink_report_destroy(&report);
    }
}

/* Every allocation of the search, the names and the inference fails in turn. */
static void test_no_memory(void **state) {
    char folder[TEST_PATH];
    (void)state;
    test_folder_create(folder);
    link_comfyui(folder);
    link_to(folder, "", "a.gguf", FORMS "/gguf/forms_mixed.gguf");
    link_to(folder, "", "b.safetensors", FORMS "/comfyui/vae/forms_vae.safetensors");
    test_write_text(folder, "damaged.safetensors", "nothing");
    const ink_model_options options = {.tokenizer_dir = HEAD128 "/tokenizer"};
    for (int jansson = 0; jansson < 2; jansson++) {
        ink_status status = INK_ERROR_MEMORY;
        for (int64_t n = 0; status != INK_OK; n++) {
            ink_report *report;
            ink_error error;
            (jansson ? test_json_fail_after : ink_alloc_fail_after)(n);
            status = ink_inspect(&report, folder, &options, &error);
            (jansson ? test_json_fail_after : ink_alloc_fail_after)(-1);
            bool damaged = false; /* a file that cannot be read for want of memory is left out, with a note */
            for (size_t i = 0; status == INK_OK && jansson && i < report->n_notes; i++)
                damaged = damaged || (strstr(report->notes[i], "left out") && !strstr(report->notes[i], "damaged.safetensors"));
            if (status == INK_OK && !jansson) assert_int_equal(report->n_notes, 3);
            ink_report_destroy(&report);
            if (damaged) status = INK_ERROR_IO;
            assert_true(status == INK_OK || status == INK_ERROR_MEMORY || jansson);
        }
    }
    test_folder_remove(folder);
}

/* ---- other families ------------------------------------------------------------------------------------------------------ */

static void test_other_families(void **state) {
    static const struct {
        const char *tensor, *name;
    } cases[] = {
        {"double_blocks.0.img_attn.qkv.weight", "holds FLUX.1: only Qwen-Image"},
        {"model.diffusion_model.double_blocks.0.img_attn.proj.weight", "holds FLUX.1"},
        {"single_transformer_blocks.0.attn.to_q.weight", "holds FLUX.1"},
        {"double_stream_modulation_img.lin.weight", "holds FLUX.2"},
        {"model.diffusion_model.label_emb.0.0.weight", "holds Stable Diffusion XL"},
        {"model.diffusion_model.input_blocks.0.0.weight", "holds Stable Diffusion"},
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "holds Stable Diffusion 3"},
        {"transformer_blocks.0.ff_context.net.2.weight", "holds Stable Diffusion 3"},
        {"cap_pad_token", "holds Z-Image"},
        {"blocks.0.cross_attn.norm_k.weight", "holds Wan video"},
        {"model.diffusion_model.__index_timestep_zero__", "holds Qwen-Image-Edit-2511: editing is not supported yet"},
        {"time_text_embed.addition_t_embedding.weight", "holds Qwen-Image-Layered"},
        {"transformer_blocks.0.attn.to_q.lora_A.weight", "holds a LoRA: it goes beside a model"},
        {"model.layers.0.self_attn.q_norm.weight", "holds Qwen3"},
        {"v.blk.0.ffn_gate.weight", "holds the vision tower of a text encoder (mmproj): only pictures from text"},
        {"anything.else", "holds no Qwen-Image transformer: none of its tensors"},
        {"decoder.middle.0.residual.0.gamma", "holds a Qwen-Image VAE, a Qwen-Image transformer is expected here"},
    };
    char folder[TEST_PATH], path[TEST_PATH], header[300];
    (void)state;
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", cases[i].tensor);
        test_write_safetensors(folder, "other.safetensors", header, "x", 1);
        const ink_model_options options = {.transformer_file = test_path(path, folder, "other.safetensors")};
        assert_open_fails(FORMS, &options, INK_ERROR_UNSUPPORTED, cases[i].name);
    }
    /* In a folder that is searched, what a file is known to be is the reason why nothing was found. */
    test_write_safetensors(folder, "other.safetensors",
                           "{\"double_blocks.0.img_attn.x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x", 1);
    assert_open_fails(folder, NULL, INK_ERROR_UNSUPPORTED, "other.safetensors: holds FLUX.1");
    test_folder_remove(folder);
}

/* ---- as mlx dequantises -------------------------------------------------------------------------------------------------------
 */

static void check_mlx(const ink_weights *recorded, int bits) {
    char folder[TEST_PATH], name[100];
    ink_error error;
    ink_weights *weights;
    ink_weight w;
    snprintf(folder, sizeof folder, FORMS "/mlx%d/transformer", bits);
    snprintf(name, sizeof name, "transformer_blocks.0.attn.to_q.weight.%d", bits);
    assert_int_equal(ink_weights_open(&weights, folder, "none", &error), INK_OK);
    const ink_tensor_info *info = ink_weights_find(recorded, name);
    assert_non_null(info);
    ink_binder binder = {.weights = weights, .mode = INK_BIND_LOAD, .error = &error};
    ink_bind_matrix(&binder, &w, info->shape[0], info->shape[1], "transformer_blocks.0.attn.to_q.weight");
    if (binder.status != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(w.dtype, bits == 4 ? INK_AFFINE_4 : INK_AFFINE_8);
    assert_int_equal(w.group, 64);
    for (int64_t row = 0; row < w.rows; row++) {
        float ours[256], theirs[256];
        ink_weight_decode(ours, &w, row, 0, w.cols);
        ink_convert(theirs, INK_F32, info->data + row * w.cols * 4, INK_F32, w.cols);
        /* They may multiply and add with one rounding, we round twice: the last bit of the product. */
        for (int64_t i = 0; i < w.cols; i++)
            if (!(fabsf(ours[i] - theirs[i]) <= 1e-7f)) fail_msg("row %d, %d: %g, %g", (int)row, (int)i, ours[i], theirs[i]);
    }
    ink_weights_close(&weights);
}

static void test_mlx_dequantises_the_same(void **state) {
    (void)state;
    ink_error error;
    ink_weights *recorded;
    assert_int_equal(ink_weights_open_file(&recorded, FORMS "/mlx_dequantised.safetensors", &error), INK_OK);
    check_mlx(recorded, 4);
    check_mlx(recorded, 8);
    ink_weights_close(&recorded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_of_each_part),
        cmocka_unit_test(test_folders_of_files),
        cmocka_unit_test(test_folders_without_configs),
        cmocka_unit_test(test_files_alone),
        cmocka_unit_test(test_text_encoder_with_tokenizer),
        cmocka_unit_test(test_how_it_runs),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_other_families),
        cmocka_unit_test(test_mlx_dequantises_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
