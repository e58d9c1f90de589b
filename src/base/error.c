/* error.c - statuses and their sentences. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

void ink_error_clear(ink_error *error) {
    if (!error) return;
    error->status = INK_OK;
    error->message[0] = '\0';
}

ink_status ink_fail(ink_error *error, ink_status status, const char *format, ...) {
    if (!error) return status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    error->status = status;
    return status;
}

const char *ink_status_name(ink_status status) {
    switch (status) {
    case INK_OK: return "ok";
    case INK_ERROR_ARGUMENT: return "argument";
    case INK_ERROR_IO: return "io";
    case INK_ERROR_FORMAT: return "format";
    case INK_ERROR_UNSUPPORTED: return "unsupported";
    case INK_ERROR_MEMORY: return "memory";
    case INK_ERROR_CANCELLED: return "cancelled";
    case INK_ERROR_INTERNAL: return "internal";
    }
    return "unknown";
}
