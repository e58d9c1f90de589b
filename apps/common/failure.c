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

ink_status app_fail_memory(ink_error *error, const char *what) {
    return app_fail(error, INK_ERROR_MEMORY, "not enough memory for %s", what);
}
