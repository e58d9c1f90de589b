/*
 * checkops_main.c - checks every op of every tier of this machine against its definition, tier `ref`.
 *
 *     checkops [--seed N] [--op NAME] [--tier NAME]    exit status 1 when anything differs. Tier `typed`: not a tier, but `ref`
 *                                                      in place of a device with BF16 and memory of its own
 *     checkops --planted                               checks the checks: known bugs must be caught
 *     checkops --bench [--tier NAME] [--op NAME] [--filter TEXT] [--threads N] [--no-ref] [--no-cold]
 *                                                      times the ops; with --filter rows whose name holds TEXT
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "checkops.h"

const family families[] = {
    {"linear", check_linear, {NARROW_X | NARROW_DST | NARROW_VECTORS, NARROW_X, NARROW_DST | NARROW_VECTORS}},
    {"layernorm_modulate",
     check_layernorm_modulate,
     {NARROW_DST, NARROW_DST | NARROW_VECTORS, NARROW_X | NARROW_DST | NARROW_VECTORS}},
    {"gated_residual_layernorm_modulate",
     check_gated_residual_layernorm_modulate,
     {NARROW_Y | NARROW_DST, NARROW_Y | NARROW_DST | NARROW_VECTORS}},
    {"rmsnorm", check_rmsnorm, {NARROW_DST, NARROW_X | NARROW_DST | NARROW_VECTORS}},
    {"residual_rmsnorm", check_residual_rmsnorm, {NARROW_Y | NARROW_DST, NARROW_Y | NARROW_DST | NARROW_VECTORS}},
    {"rmsnorm_rope", check_rmsnorm_rope, {NARROW_X, NARROW_X | NARROW_VECTORS}},
    {"rope_half", check_rope_half, {NARROW_X}},
    {"attention", check_attention, {NARROW_X | NARROW_DST}},
    {"silu_mul", check_silu_mul, {NARROW_X | NARROW_DST}},
    {"conv2d", check_conv2d, {NARROW_X | NARROW_DST, NARROW_X | NARROW_DST | NARROW_VECTORS, NARROW_X}},
    {"rmsnorm_channels", check_rmsnorm_channels, {NARROW_X | NARROW_DST, NARROW_X | NARROW_DST | NARROW_VECTORS}},
    {"upsample2x", check_upsample2x, {NARROW_X | NARROW_DST}},
    {"timestep_embed", check_timestep_embed, {0}},
    {"unpatchify", check_unpatchify, {NARROW_DST}},
    {"cfg_combine", check_cfg_combine, {0}},
    {"euler_step", check_euler_step, {0}},
    {"copy", check_copy, {NARROW_X, NARROW_DST, NARROW_X | NARROW_DST}},
    {NULL, NULL, {0}},
};

void run_check(checker *c, const char *op) {
    if (setjmp(c->stop)) {
        free_copies(c);
        return;
    }
    for (const family *f = families; f->op; f++)
        if (strcmp(f->op, op) == 0) f->check(c);
}

/* One line of the table, of f32 operands or of a typed form. False when the device has failed. */
static bool check_form(checker *c, const family *f, unsigned narrow, int64_t *n_failures) {
    double began = ink_seconds();
    checker_begin(c, f->op, narrow);
    run_check(c, f->op);
    printf("%-4s %-9s %-34s %4" PRId64 " cases, at most %3.0f%% of what is allowed, %5.2f s%s\n", c->n_failures ? "FAIL" : "ok",
           c->device.tier, f->op, c->n_cases, 100 * c->worst, ink_seconds() - began, narrow_name(narrow));
    fflush(stdout);
    *n_failures += c->n_failures;
    if (!c->device.memory || !c->device.memory->failure(&c->device)) return true;
    printf("     %s: no more checks on a device that has failed\n", c->device.tier);
    return false;
}

/* The number of failures of one device. */
static int64_t check_device(checker *c, const ink_device *device, const char *op) {
    int64_t n_failures = 0;
    bool goes_on = true;
    checker_open(c, device);
    for (const family *f = families; f->op && goes_on; f++) {
        if (op && strcmp(op, f->op) != 0) continue;
        goes_on = check_form(c, f, 0, &n_failures);
        for (int i = 0; device->rounds_scratch && goes_on && i < MOST_TYPED && f->typed[i]; i++)
            goes_on = check_form(c, f, f->typed[i], &n_failures);
    }
    checker_close(c);
    return n_failures;
}

/* The number of failures of one tier, or of the stand-in for a device. */
static int64_t check_tier(checker *c, const char *tier, const char *op) {
    ink_device device;
    const char *why = NULL;
    if (strcmp(tier, "typed") == 0) {
        device = typed_device(NO_BUG);
        return check_device(c, &device, op);
    }
    if (!ink_device_open(&device, tier, c->threads[0], &why)) {
        fprintf(stderr, "checkops: tier %s: %s\n", tier, why);
        return 1;
    }
    c->real_shapes = device.memory != NULL;
    int64_t n_failures = check_device(c, &device, op);
    c->real_shapes = false;
    if (device.close) device.close(&device);
    return n_failures;
}

static bool is_op(const char *name) {
    for (const family *f = families; f->op; f++)
        if (strcmp(f->op, name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    const char *op = NULL, *tier = NULL;
    uint64_t seed = 1;
    bool bench = false, planted = false;
    bench_options timing = {.with_ref = true, .with_cold = true};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--seed") == 0 && has_value)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--op") == 0 && has_value && is_op(argv[i + 1]))
            op = argv[++i];
        else if (strcmp(argv[i], "--tier") == 0 && has_value)
            tier = argv[++i];
        else if (strcmp(argv[i], "--bench") == 0)
            bench = true;
        else if (strcmp(argv[i], "--filter") == 0 && has_value)
            timing.filter = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && has_value && atoi(argv[i + 1]) > 0)
            timing.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--no-ref") == 0)
            timing.with_ref = false;
        else if (strcmp(argv[i], "--no-cold") == 0)
            timing.with_cold = false;
        else if (strcmp(argv[i], "--planted") == 0)
            planted = true;
        else {
            fprintf(stderr,
                    "usage: checkops [--seed N] [--op NAME] [--tier NAME] [--planted]\n"
                    "       checkops --bench [--tier NAME] [--op NAME] [--filter TEXT] [--threads N] [--no-ref] [--no-cold]\n");
            return 2;
        }
    }
    if (bench) {
        timing.tier = tier;
        timing.op = op;
        run_bench(&timing);
        return 0;
    }
    checker c;
    checker_create(&c, seed);
    printf("seed %" PRIu64 "\n", seed);
    int64_t n_failures = 0;
    if (planted)
        n_failures = run_planted(&c) + run_planted_typed(&c);
    else if (tier)
        n_failures = check_tier(&c, tier, op);
    else
        /* Tier 0 is the definition itself. */
        for (int i = 1; ink_device_tier(i); i++) n_failures += check_tier(&c, ink_device_tier(i), op);
    checker_destroy(&c);
    return n_failures > 0;
}
