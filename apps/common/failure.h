/*
 * failure.h - how the programs make the one sentence that a failure gets. They share the library's ink_error, so that a
 * sentence travels the same way whether the library or the program found the fault.
 */
#ifndef APP_COMMON_FAILURE_H
#define APP_COMMON_FAILURE_H

#include "inkstone.h"

#if defined(__GNUC__)
#define APP_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define APP_PRINTF(format_index, first_argument)
#endif

/* Writes the sentence and returns status, so that callers can `return app_fail(...)`. */
ink_status app_fail(ink_error *error, ink_status status, const char *format, ...) APP_PRINTF(3, 4);

/* Puts words, and ": ", in front of the sentence that error has. */
void app_fail_in_front(ink_error *error, const char *format, ...) APP_PRINTF(2, 3);

/* app_fail for want of memory; what names the thing that was to be held. */
ink_status app_fail_memory(ink_error *error, const char *what);

#endif
