/* env.c - the table of environment variables. */
#include "base/env.h"

#include <stdlib.h>
#include <string.h>

#include "inkstone.h"

static const ink_env_var table[] = {
    {"INK_MODEL", "DIR", "the program's model when -m is not given"},
    {"INK_CPU", "auto|ref|c|avx2|avx512|avx512_vnni|avx512_bf16|amx|neon|neon_bf16",
     "the CPU tier to run; ref is the slow definition of every op"},
    {"INK_BACKEND", "auto|cpu|cuda|cuda:N", "where to compute; auto is a GPU if one can be used"},
    {"INK_CUDA_MODULE", "FILE", "the CUDA module, if it does not lie beside the program or the library"},
    {"INK_TRACE", "FILE", "write one line per executed op: name, tier, shapes, microseconds"},
    {"INK_CHECK", "1", "run every op again with its definition (tier ref) and stop at the first that differs"},
    {"INK_POISON", "1", "fill scratch memory with NaN before use, so that a read of unwritten memory shows"},
    {NULL, NULL, NULL},
};

const ink_env_var *ink_env_vars(void) { return table; }

const char *ink_env(const char *name) {
    for (const ink_env_var *variable = table; variable->name; variable++)
        if (strcmp(variable->name, name) == 0) {
            const char *value = getenv(name);
            return value && *value ? value : NULL;
        }
    return NULL;
}

bool ink_env_flag(const char *name) {
    const char *value = ink_env(name);
    return value && strcmp(value, "0") != 0;
}
