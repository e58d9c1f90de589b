/* error.c - statuses and their sentences. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void ink_error_clear(ink_error *error) {
    if (!error) return;
    error->status = INK_OK;
    error->message[0] = '\0';
}

/*
 * Sentences quote names out of files: a control character must not reach a terminal, and a sentence that was cut off must not end
 * inside a character.
 */
static void clean(char *message) {
    size_t length = strlen(message), start = length;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)message[i] < 0x20 || message[i] == 0x7f) message[i] = '?';
    while (start > 0 && length - start < 3 && ((unsigned char)message[start - 1] & 0xc0) == 0x80) start--;
    if (start == 0) return;
    unsigned char lead = (unsigned char)message[start - 1];
    size_t expected = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (length - start < expected) message[start - 1] = '\0';
}

ink_status ink_fail(ink_error *error, ink_status status, const char *format, ...) {
    if (!error) return status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    clean(error->message);
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
    case INK_ERROR_DEVICE: return "device";
    }
    return "unknown";
}
