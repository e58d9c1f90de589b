/* system.h - what the machine can give. */
#ifndef INK_BASE_SYSTEM_H
#define INK_BASE_SYSTEM_H

#include <stdint.h>

/* Memory that a process may still take without swapping: the least of what the kernel reports and the cgroup limit. 0: unknown. */
int64_t ink_available_memory(void);

/* The same where "/proc" and "/sys" lie under ROOT rather than "/": for tests. */
int64_t ink_available_memory_under(const char *root);

/* Memory that this process has now: its own, and the pages of mapped files that it uses. 0: unknown. */
int64_t ink_resident_memory(void);

/* Seconds on a clock that never goes back. */
double ink_seconds(void);

#endif
