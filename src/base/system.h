/* system.h - what the machine can give. */
#ifndef INK_BASE_SYSTEM_H
#define INK_BASE_SYSTEM_H

#include <stdint.h>

/* Memory that a process may still take without swapping: the least of what the kernel reports and the cgroup limit. 0: unknown. */
int64_t ink_available_memory(void);

/* The same where "/proc" and "/sys" lie under ROOT rather than "/": for tests. */
int64_t ink_available_memory_under(const char *root);

/*
 * The most memory that this process ever had resident, mapped files included, since it began or, where the system lets it
 * (Linux), since ink_reset_peak_memory. 0: unknown.
 */
int64_t ink_peak_memory(void);
void ink_reset_peak_memory(void);

/* Memory that this process has now: its own, and the pages of mapped files that it uses. 0: unknown. */
int64_t ink_resident_memory(void);

/* Seconds on a clock that never goes back. */
double ink_seconds(void);

#endif
