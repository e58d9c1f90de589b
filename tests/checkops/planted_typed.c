/* planted_typed.c - the test of the test for BF16 operands and devices with memory of their own: bugs of the stand-in. */
#include <stdio.h>

#include "checkops.h"

static const struct planted {
    const char *op;
    unsigned narrow;
    typed_bug bug;
    const char *name;
} planted[] = {
    {"copy", NARROW_DST, TRUNCATES, "bf16 by truncation"},
    {"layernorm_modulate", NARROW_DST, TRUNCATES, "bf16 by truncation"},
    {"attention", NARROW_X | NARROW_DST, TRUNCATES, "bf16 by truncation"},
    {"conv2d", NARROW_X | NARROW_DST, TRUNCATES, "bf16 by truncation"},
    {"linear", NARROW_X | NARROW_DST | NARROW_VECTORS, ROUNDS_SUM, "the sum rounded to bf16 before the bias"},
    {"silu_mul", NARROW_X | NARROW_DST, WRITES_PAST_BF16, "writes past the end of each row"},
    {"attention", NARROW_X | NARROW_DST, WRITES_PAST_BF16, "writes past the end of each row"},
    {"gated_residual_layernorm_modulate", NARROW_Y | NARROW_DST, ROUNDS_RESIDUAL, "x rounded to bf16"},
    {"attention", NARROW_X | NARROW_DST, BF16_SCORES, "scores rounded to bf16"},
    {"rmsnorm", NARROW_X | NARROW_DST | NARROW_VECTORS, VECTORS_AS_F32, "bf16 vectors read as f32"},
    {"conv2d", NARROW_X | NARROW_DST | NARROW_VECTORS, VECTORS_AS_F32, "bf16 vectors read as f32"},
    {"linear", 0, F8_PRODUCT_LOST, "the last product of 8-bit sums is lost"},
    {"linear", NARROW_X, F8_PRODUCT_LOST, "the last product of 8-bit sums is lost"},
    {"conv2d", 0, F32_PIXELS_ROUNDED, "f32 pixels rounded to bf16"},
    {"linear", 0, FAILS, "the device fails"},
    {"linear", NARROW_DST | NARROW_VECTORS, FAILS, "the device fails"},
};

int run_planted_typed(checker *c) {
    int n = sizeof planted / sizeof *planted, n_missed = 0;
    c->quiet = true;
    for (int i = 0; i < n; i++) {
        ink_device device = typed_device(planted[i].bug);
        checker_open(c, &device);
        checker_begin(c, planted[i].op, planted[i].narrow);
        run_check(c, planted[i].op);
        checker_close(c);
        if (c->n_failures == 0) n_missed++;
        printf("%-6s %s%s: %s (case %lld)\n", c->n_failures ? "caught" : "MISSED", planted[i].op, narrow_name(planted[i].narrow),
               planted[i].name, (long long)c->n_cases);
    }
    printf("%d of %d planted bugs of devices caught\n", n - n_missed, n);
    return n_missed;
}
