/* test_vae.c - the decoder in bands of rows: the same picture, bit for bit, as in one; and what memory it takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "inkstone.h"
#include "model/architecture.h"
#include "model/vae.h"

typedef struct bench {
    ink_threads *one, *three;
    ink_synthetic *synthetic;
    ink_store store;
    ink_config config;
    ink_vae_decoder *decoder;
    ink_error error;
} bench;

static void set_up(bench *b, const char *architecture, ink_bind_mode mode) {
    int64_t whole_blocks;
    *b = (bench){.one = ink_threads_create(1), .three = ink_threads_create(3), .decoder = test_malloc(sizeof *b->decoder)};
    assert_int_equal(ink_architecture_find(&b->config, &whole_blocks, architecture, &b->error), INK_OK);
    b->synthetic = ink_synthetic_create(b->one);
    assert_non_null(b->synthetic);
    ink_binder binder = {
        .synthetic = b->synthetic, .mode = mode, .precision = INK_PRECISION_BF16, .store = &b->store, .error = &b->error};
    ink_vae_decoder_bind(b->decoder, &b->config.vae, &binder);
    assert_int_equal(binder.status, INK_OK);
}

static void tear_down(bench *b) {
    ink_store_release(&b->store);
    ink_synthetic_destroy(&b->synthetic);
    ink_config_close(&b->config);
    ink_threads_destroy(b->three);
    ink_threads_destroy(b->one);
    test_free(b->decoder);
}

static void count_op(void *user) { ++*(int64_t *)user; }

/* What a decoding gave. */
typedef struct decoding {
    float *pixels; /* owned */
    size_t bytes;  /* of pixels */
    size_t planned, reached;
    int64_t n_ops;
} decoding;

static void run(bench *b, ink_ctx *c, decoding *d, int64_t height, int64_t width) {
    const ink_vae_config *config = &b->config.vae;
    ink_tensor latents = ink_scratch(c, height * width, config->z_dim);
    ink_tensor pixels = ink_scratch(c, height * width * config->scale * config->scale, 3);
    bool real = c->arena->memory && c->status == INK_OK;
    for (int64_t i = 0; real && i < latents.rows * latents.cols; i++) latents.data[i] = (float)(i * 2654435761 % 1021 - 510) / 256;
    ink_vae_decode(c, b->decoder, pixels, latents, height, width);
    if (!real || c->status != INK_OK) return;
    d->bytes = (size_t)(pixels.rows * pixels.cols) * sizeof(float);
    d->pixels = test_malloc(d->bytes);
    memcpy(d->pixels, pixels.data, d->bytes);
}

/* Scratch, as a dry run tells. */
static size_t count(bench *b, const ink_device *device, int64_t height, int64_t width) {
    ink_arena arena;
    ink_arena_create_dry(&arena);
    ink_ctx c = {.device = device, .arena = &arena, .error = &b->error};
    run(b, &c, NULL, height, width);
    assert_int_equal(c.status, INK_OK);
    return arena.peak;
}

static decoding decode(bench *b, const ink_device *device, int64_t height, int64_t width) {
    decoding d = {.planned = count(b, device, height, width)};
    ink_arena arena;
    assert_true(ink_arena_create(&arena, d.planned));
    arena.poison = true;
    ink_ctx c = {
        .device = device, .arena = &arena, .may_round = true, .error = &b->error, .worked = count_op, .worked_user = &d.n_ops};
    run(b, &c, &d, height, width);
    assert_int_equal(c.status, INK_OK);
    d.reached = arena.peak;
    ink_arena_destroy(&arena);
    return d;
}

/* Heights from one row to many times what the convolutions fall behind; whole with one thread, and with three in bands of 1, 2, 3
   and 5 rows of latents. */
static void check_tier(const char *tier) {
    static const int64_t sizes[][2] = {{1, 1}, {2, 3}, {7, 2}, {8, 1}, {9, 3}, {13, 2}, {31, 1}};
    static const int64_t bands[] = {1, 2, 3, 5};
    bench b;
    set_up(&b, "tiny", INK_BIND_LOAD);
    ink_device device;
    const char *why;
    assert_true(ink_device_open(&device, tier, b.one, &why));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t height = sizes[i][0], width = sizes[i][1], scale = b.config.vae.scale;
        device.threads = b.one;
        device.decode_pixels = 0;
        decoding whole = decode(&b, &device, height, width);
        device.threads = b.three;
        for (size_t j = 0; j < sizeof bands / sizeof *bands; j++) {
            device.decode_pixels = bands[j] * width * scale * scale;
            decoding banded = decode(&b, &device, height, width);
            assert_int_equal(banded.reached, banded.planned);
            if (memcmp(banded.pixels, whole.pixels, whole.bytes) != 0)
                fail_msg("tier %s: %lld x %lld latents in bands of %lld rows give another picture", tier, (long long)height,
                         (long long)width, (long long)bands[j]);
            /* More than fell behind: there were bands. */
            if (height > 8 + bands[j]) assert_true(banded.n_ops > whole.n_ops);
            test_free(banded.pixels);
        }
        test_free(whole.pixels);
    }
    ink_device_close(&device);
    tear_down(&b);
}

static void test_bands_make_the_same_picture(void **state) {
    (void)state;
    for (int i = 0; ink_device_tier(i); i++) check_tier(ink_device_tier(i));
}

/* Whatever is missing, a status tells so. */
static void test_too_little_scratch(void **state) {
    (void)state;
    enum { HEIGHT = 13, WIDTH = 2, N_STEPS = 60 };
    bench b;
    set_up(&b, "tiny", INK_BIND_LOAD);
    ink_device device;
    const char *why;
    assert_true(ink_device_open(&device, "auto", b.one, &why));
    device.decode_pixels = 1;
    size_t planned = count(&b, &device, HEIGHT, WIDTH);
    for (size_t i = 0; i < N_STEPS; i++) {
        ink_arena arena;
        assert_true(ink_arena_create(&arena, planned * i / N_STEPS));
        ink_ctx c = {.device = &device, .arena = &arena, .error = &b.error};
        decoding d;
        run(&b, &c, &d, HEIGHT, WIDTH);
        assert_int_equal(c.status, INK_ERROR_MEMORY);
        ink_arena_destroy(&arena);
    }
    ink_device_close(&device);
    tear_down(&b);
}

/* At the published size: of a picture eight times as high only what is at the size of the latents takes more. */
static void test_scratch_grows_with_the_width(void **state) {
    (void)state;
    bench b;
    set_up(&b, "qwen-image", INK_BIND_CHECK);
    ink_device device;
    const char *why;
    assert_true(ink_device_open(&device, "ref", b.one, &why));
    const int64_t pixel_bytes = 3 * (int64_t)sizeof(float), latent_bytes = 5 * 384 * (int64_t)sizeof(float);
    for (int64_t height = 1024, width = 512; height <= 8192; height *= 2) {
        int64_t n = height * width, scratch = (int64_t)count(&b, &device, height / 8, width / 8);
        assert_true(scratch <= n * pixel_bytes + n / 64 * latent_bytes + ((int64_t)128 << 20));
    }
    device.decode_pixels = 0;
    assert_true(count(&b, &device, 128, 128) > (size_t)1400 << 20);
    ink_device_close(&device);
    tear_down(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bands_make_the_same_picture),
        cmocka_unit_test(test_too_little_scratch),
        cmocka_unit_test(test_scratch_grows_with_the_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
