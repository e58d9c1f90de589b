/*
 * error.h - how a sentence about a failure is made and passed up. ink_error itself is public (inkstone.h).
 */
#ifndef INK_BASE_ERROR_H
#define INK_BASE_ERROR_H

#include "inkstone.h"

#if defined(__GNUC__)
#define INK_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define INK_PRINTF(format_index, first_argument)
#endif

/* Sets status INK_OK and an empty message. error may be NULL. */
void ink_error_clear(ink_error *error);

/* Writes the sentence and returns status, so that callers can `return ink_fail(...)`. error may be NULL. */
ink_status ink_fail(ink_error *error, ink_status status, const char *format, ...) INK_PRINTF(3, 4);

#endif
