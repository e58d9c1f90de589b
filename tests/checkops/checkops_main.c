/*
 * checkops_main.c - checks every op of every tier of this machine against its definition, tier `ref`.
 *
 *     checkops [--seed N] [--op NAME] [--tier NAME]    exit status 1 when anything differs
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
    {"linear", check_linear},
    {"layernorm_modulate", check_layernorm_modulate},
    {"gated_residual_layernorm_modulate", check_gated_residual_layernorm_modulate},
    {"rmsnorm", check_rmsnorm},
    {"residual_rmsnorm", check_residual_rmsnorm},
    {"rmsnorm_rope", check_rmsnorm_rope},
    {"rope_half", check_rope_half},
    {"attention", check_attention},
    {"silu_mul", check_silu_mul},
    {"conv2d", check_conv2d},
    {"rmsnorm_channels", check_rmsnorm_channels},
    {"upsample2x", check_upsample2x},
    {"embed_rows", check_embed_rows},
    {"timestep_embed", check_timestep_embed},
    {"unpatchify", check_unpatchify},
    {"cfg_combine", check_cfg_combine},
    {"euler_step", check_euler_step},
    {"copy", check_copy},
    {NULL, NULL},
};

/* The number of failures of one tier. */
static int64_t check_tier(checker *c, const char *tier, const char *op) {
    ink_device device;
    const char *why = NULL;
    int64_t n_failures = 0;
    if (!ink_device_open(&device, tier, c->threads[0], &why)) {
        fprintf(stderr, "checkops: tier %s: %s\n", tier, why);
        return 1;
    }
    for (const family *f = families; f->op; f++) {
        if (op && strcmp(op, f->op) != 0) continue;
        double began = ink_seconds();
        checker_begin(c, &device, f->op);
        f->check(c);
        printf("%-4s %-9s %-34s %4" PRId64 " cases, at most %3.0f%% of what is allowed, %5.2f s\n", c->n_failures ? "FAIL" : "ok",
               device.tier, f->op, c->n_cases, 100 * c->worst, ink_seconds() - began);
        fflush(stdout);
        n_failures += c->n_failures;
    }
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
        n_failures = run_planted(&c);
    else if (tier)
        n_failures = check_tier(&c, tier, op);
    else
        /* Tier 0 is the definition itself. */
        for (int i = 1; ink_device_tier(i); i++) n_failures += check_tier(&c, ink_device_tier(i), op);
    checker_destroy(&c);
    return n_failures > 0;
}
