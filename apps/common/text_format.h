/*
 * text_format.h - numbers and strings as people read and type them: strict parsing, sizes, durations, and foreign text
 * made safe to show. Nothing here depends on the locale.
 */
#ifndef APP_COMMON_TEXT_FORMAT_H
#define APP_COMMON_TEXT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/failure.h"

/* The whole text must be the number: no spaces, no trailing unit, no overflow. */
bool app_parse_int(const char *text, int64_t *value);
bool app_parse_uint(const char *text, uint64_t *value);
bool app_parse_real(const char *text, double *value);

/* A size in bytes: a number, perhaps with a fraction, and K, M, G or T for powers of 1024, as in "8G", "1.5GiB" or "500MB". */
bool app_parse_bytes(const char *text, int64_t *value);

/* Room for what the app_show functions write. */
enum { APP_SHOWN_SIZE = 32 };

/* "0 B", "17 KiB", "1.2 GiB". Returns text. */
char *app_show_bytes(char text[APP_SHOWN_SIZE], int64_t bytes);

/* The same rounded up: who gives as much gives enough. */
char *app_show_least(char text[APP_SHOWN_SIZE], int64_t bytes);

/* "0:07", "12:05", "1:02:03". Returns text. */
char *app_show_duration(char text[APP_SHOWN_SIZE], double seconds);

/* Three significant digits, and no more than milliseconds: "0.012", "1.23", "12.3", "123". Returns text. */
char *app_show_seconds(char text[APP_SHOWN_SIZE], double seconds);

/* snprintf into a fresh string, released with free. NULL when memory is out. */
char *app_format(const char *format, ...) APP_PRINTF(1, 2);

/*
 * A copy that any UTF-8 reader accepts: bytes that are no UTF-8 become U+FFFD. Released with free; NULL when memory is out.
 * For paths and messages, which may hold any bytes.
 */
char *app_valid_utf8(const char *text);

/*
 * Prints text with control characters (escape sequences above all) as '?', line feeds too, and what turns the
 * direction of writing. Names of tensors, files and prompts come from strangers, and a terminal obeys what it is sent.
 */
void app_print_clean(FILE *out, const char *text);

/* Whether coloured text is welcome on out: a terminal that can, and no NO_COLOR. */
bool app_colour_allowed(FILE *out);

#endif
