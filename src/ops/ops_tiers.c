/* ops_tiers.c - the list of tiers: the only file that knows which back ends are built in and what the machine can run. */
#include "ops/ops_tiers.h"

#include <string.h>
#ifdef INK_HAVE_NEON
#include <sys/auxv.h>
#endif

#include "ops/cpu/cpu_kernels.h"

static const struct tier {
    const char *name;
    const ink_ops *ops;
    const void *kernels;
    bool rounds_rows;
} tiers[] = {
    /* Best last. */
    {"ref", &ink_ops_ref, NULL, false},
    {"c", &ink_ops_cpu, &ink_cpu_kernels_c, false},
#ifdef INK_HAVE_AVX2
    {"avx2", &ink_ops_cpu, &ink_cpu_kernels_avx2, false},
#endif
#ifdef INK_HAVE_NEON
    {"neon", &ink_ops_cpu, &ink_cpu_kernels_neon, false},
    {"neon_bf16", &ink_ops_cpu, &ink_cpu_kernels_neon_bf16, true},
#endif
};

enum { N_TIERS = sizeof tiers / sizeof *tiers };

static bool machine_runs(const char *name) {
#ifdef INK_HAVE_AVX2
    if (strcmp(name, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef INK_HAVE_NEON
    if (strcmp(name, "neon_bf16") == 0) return (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
#endif
    (void)name;
    return true;
}

bool ink_device_open(ink_device *device, const char *name, ink_threads *threads, const char **why) {
    bool best = !name || strcmp(name, "auto") == 0;
    for (int i = N_TIERS - 1; i >= 0; i--) {
        if (!best && strcmp(name, tiers[i].name) != 0) continue;
        if (machine_runs(tiers[i].name)) {
            *device = (ink_device){tiers[i].name, tiers[i].ops, tiers[i].kernels, threads, tiers[i].rounds_rows};
            return true;
        }
        *why = "this processor lacks its instructions";
        if (!best) return false;
    }
    *why = "this build has no such tier";
    return false;
}

const char *ink_device_tier(int i) {
    int seen = 0;
    for (int j = 0; j < N_TIERS; j++)
        if (machine_runs(tiers[j].name) && seen++ == i) return tiers[j].name;
    return NULL;
}
