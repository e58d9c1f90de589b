/*
 * env.h - every INK_* variable, in one table (env.c), which `inkstone --help-env` prints.
 */
#ifndef INK_BASE_ENV_H
#define INK_BASE_ENV_H

#include <stdbool.h>

/* The value of a variable of the table, or NULL when unset or empty. Asking for a name outside the table returns NULL. */
const char *ink_env(const char *name);

/* Whether a variable of the table is set, and not to 0. */
bool ink_env_flag(const char *name);

#endif
