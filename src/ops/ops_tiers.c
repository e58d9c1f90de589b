/* ops_tiers.c - the list of tiers: the only file that knows which back ends there are and what the machine can run. */
#define _GNU_SOURCE
#include "ops/ops_tiers.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef INK_HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#ifdef INK_HAVE_NEON
#include <sys/auxv.h>
#endif

#include "base/env.h"
#include "ops/cpu/cpu_kernels.h"
#include "ops/cuda/cuda_module.h"

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
    {"avx512", &ink_ops_cpu, &ink_cpu_kernels_avx512, false},
    {"avx512_vnni", &ink_ops_cpu, &ink_cpu_kernels_avx512_vnni, false},
    {"avx512_bf16", &ink_ops_cpu, &ink_cpu_kernels_avx512_bf16, true},
#endif
#ifdef INK_HAVE_AMX
    {"amx", &ink_ops_cpu, &ink_cpu_kernels_amx, true},
#endif
#ifdef INK_HAVE_NEON
    {"neon", &ink_ops_cpu, &ink_cpu_kernels_neon, false},
    {"neon_bf16", &ink_ops_cpu, &ink_cpu_kernels_neon_bf16, true},
#endif
};

enum {
    N_TIERS = sizeof tiers / sizeof *tiers,
    CACHED_MLP_ROWS = 1056,  /* of an MLP, whose hidden numbers, the most there are, a last-level cache may hold */
    DECODE_PIXELS = 1 << 16, /* of a picture: less saves no memory beside what its attention takes, and more is no faster */
};

#ifdef INK_HAVE_AMX
/* Linux saves the tile registers of those processes alone that have asked for them (arch_prctl, ARCH_REQ_XCOMP_PERM). */
static bool may_use_tiles(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool tiles = d >> 24 & 1, bf16_tiles = d >> 22 & 1, int8_tiles = d >> 25 & 1;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
    bool bf16_vectors = a >> 5 & 1;
    return tiles && bf16_tiles && int8_tiles && bf16_vectors && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

static bool machine_runs(const char *name) {
#ifdef INK_HAVE_AVX2
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (strcmp(name, "avx2") == 0) return avx2;
    if (strcmp(name, "avx512") == 0) return avx512;
    bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (strcmp(name, "avx512_vnni") == 0) return vnni;
    if (strcmp(name, "avx512_bf16") == 0) return vnni && __builtin_cpu_supports("avx512bf16");
#endif
#ifdef INK_HAVE_AMX
    if (strcmp(name, "amx") == 0) return avx512 && may_use_tiles();
#endif
#ifdef INK_HAVE_NEON
    const unsigned long wanted = HWCAP2_BF16 | HWCAP2_I8MM; /* of one generation */
    if (strcmp(name, "neon_bf16") == 0) return (getauxval(AT_HWCAP2) & wanted) == wanted;
#endif
    (void)name;
    return true;
}

/* VDPBF16PS does twice the work of an FMA in f32 on AMD's processors, and half of it on Intel's. */
static bool worth_choosing(const char *name) {
#ifdef INK_HAVE_AVX2
    if (strcmp(name, "avx512_bf16") == 0) return __builtin_cpu_is("amd");
#endif
    (void)name;
    return true;
}

/* ---- CUDA ------------------------------------------------------------------------------------------------------------ */

enum { MAX_PATH = 4096 };

/* The module lies beside the program or the library that this code is part of, in its lib folder, or above the tests of a build. */
static bool find_module(char path[MAX_PATH]) {
    Dl_info here;
    const char *named = ink_env("INK_CUDA_MODULE"), *slash = NULL;
    if (named) return snprintf(path, MAX_PATH, "%s", named) < MAX_PATH;
    if (dladdr((const void *)&tiers, &here) && here.dli_fname) slash = strrchr(here.dli_fname, '/');
    static const char *const folders[] = {"/", "/../lib/", "/inkstone/", "/../lib/inkstone/", "/../"};
    bool found = false;
    for (size_t i = 0; slash && !found && i < sizeof folders / sizeof *folders; i++) {
        int n = (int)(slash - here.dli_fname);
        found = snprintf(path, MAX_PATH, "%.*s%s" INK_CUDA_MODULE_FILE, n, here.dli_fname, folders[i]) < MAX_PATH &&
                access(path, R_OK) == 0;
    }
    return found;
}

static void *load_module(void) {
    char path[MAX_PATH];
    return dlopen(find_module(path) ? path : INK_CUDA_MODULE_FILE, RTLD_NOW | RTLD_LOCAL);
}

/* The function of that name, or NULL, to *function. */
static void find_function(void *library, const char *name, void *function) {
    void *symbol = library ? dlsym(library, name) : NULL;
    memcpy(function, &symbol, sizeof symbol);
}

/* The number behind "cuda:", 0 for "cuda" alone; -1 when the name is another. */
static int cuda_ordinal(const char *name) {
    if (strncmp(name, "cuda", 4) != 0) return -1;
    if (!name[4]) return 0;
    int ordinal = 0, n = 5;
    for (; name[4] == ':' && name[n] >= '0' && name[n] <= '9' && n < 8; n++) ordinal = 10 * ordinal + name[n] - '0';
    return n > 5 && !name[n] ? ordinal : -1;
}

bool ink_device_names_gpu(const char *name) { return cuda_ordinal(name) >= 0; }

static bool open_cuda(ink_device *device, int ordinal, ink_threads *threads, const char **why) {
    void *module = load_module();
    if (!module) {
        static const char absent[] = INK_CUDA_MODULE_FILE ": cannot open shared object file";
        *why = dlerror(); /* owned by the C library, until its next failure in this thread */
        if (strncmp(*why, absent, sizeof absent - 1) == 0)
            *why = "there is no " INK_CUDA_MODULE_FILE " beside the program; cmake --preset cuda builds it";
        return false;
    }
    /* The module stays: its libraries do not like to be unloaded. */
    ink_cuda_module_open_fn *open;
    find_function(module, INK_CUDA_MODULE_OPEN, &open);
    *why = open ? open(device, ordinal, INK_DEVICE_INTERFACE) : "the CUDA module is none of ours";
    if (*why) return false;
    device->threads = threads;
    return true;
}

static void *load_beside(void *unused) {
    (void)unused;
    load_module();
    return NULL;
}

/* Starts the driver, and makes the GPU's context while the module and its libraries are loaded: the driver loads some of its own at
   first, which would wait for those. */
static void start_driver(int ordinal) {
    int (*start)(unsigned flags);
    int (*retain_context)(void **context, int device);
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *context;
    find_function(driver, "cuInit", &start);
    find_function(driver, "cuDevicePrimaryCtxRetain", &retain_context);
    pthread_t loader;
    if (!start || !retain_context || start(0) != 0 || pthread_create(&loader, NULL, load_beside, NULL) != 0) return;
    retain_context(&context, ordinal);
    pthread_join(loader, NULL);
}

void ink_device_prepare(const char *name) {
    bool any = strcmp(name, "auto") == 0;
    const char *wanted = any && ink_env("INK_BACKEND") ? ink_env("INK_BACKEND") : name;
    int ordinal = any && ink_env("INK_CPU") ? -1 : strcmp(wanted, "auto") == 0 ? 0 : cuda_ordinal(wanted);
    char path[MAX_PATH];
    if (ordinal >= 0 && find_module(path)) start_driver(ordinal);
}

/* ---- all of them ------------------------------------------------------------------------------------------------------- */

void ink_device_close(ink_device *device) {
    if (device->close) device->close(device);
}

bool ink_device_open(ink_device *device, const char *name, ink_threads *threads, const char **why) {
    bool best = !name || strcmp(name, "auto") == 0;
    if (!best && cuda_ordinal(name) >= 0) return open_cuda(device, cuda_ordinal(name), threads, why);
    for (int i = N_TIERS - 1; i >= 0; i--) {
        if (best ? !worth_choosing(tiers[i].name) : strcmp(name, tiers[i].name) != 0) continue;
        if (machine_runs(tiers[i].name)) {
            *device = (ink_device){.tier = tiers[i].name,
                                   .ops = tiers[i].ops,
                                   .kernels = tiers[i].kernels,
                                   .threads = threads,
                                   .rounds_rows = tiers[i].rounds_rows,
                                   .mlp_rows = CACHED_MLP_ROWS,
                                   .decode_pixels = DECODE_PIXELS};
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
