/* failure.c - sentences about failures. */
#include "common/failure.h"

#include <stdarg.h>
#include <stdio.h>

ink_status app_fail(ink_error *error, ink_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return status;
}

void app_fail_in_front(ink_error *error, const char *format, ...) {
    const ink_error behind = *error;
    char words[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    app_fail(error, behind.status, "%s: %s", words, behind.message);
}

ink_status app_fail_memory(ink_error *error, const char *what) {
    return app_fail(error, INK_ERROR_MEMORY, "not enough memory for %s", what);
}
