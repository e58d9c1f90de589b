/* text_format.c - numbers and strings as people read and type them. */
#define _POSIX_C_SOURCE 200809L
#include "common/text_format.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* strtoll and its kin skip leading space; a number on a command line starts at once. */
static bool starts_number(const char *text) { return *text && *text != ' ' && !(*text >= '\t' && *text <= '\r'); }

bool app_parse_int(const char *text, int64_t *value) {
    char *end;
    errno = 0;
    long long parsed = starts_number(text) ? strtoll(text, &end, 10) : (end = NULL, 0);
    if (!end || end == text || *end || errno) return false;
    *value = parsed;
    return true;
}

bool app_parse_uint(const char *text, uint64_t *value) {
    char *end;
    if (*text < '0' || *text > '9') return false; /* strtoull would take "-1" for 2^64 - 1 */
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, 10);
    if (*end || errno) return false;
    *value = parsed;
    return true;
}

bool app_parse_real(const char *text, double *value) {
    char *end;
    if (!starts_number(text)) return false;
    double parsed = strtod(text, &end);
    if (end == text || *end) return false;
    *value = parsed;
    return true;
}

bool app_parse_bytes(const char *text, int64_t *value) {
    static const char units[] = "KMGT";
    char number[APP_SHOWN_SIZE];
    size_t n = strspn(text, "0123456789.");
    double size;
    if (n == 0 || n >= sizeof number) return false;
    memcpy(number, text, n);
    number[n] = 0;
    const char *unit = text + n;
    const char *power = *unit ? strchr(units, *unit >= 'a' && *unit <= 'z' ? *unit - 'a' + 'A' : *unit) : NULL;
    if (power) unit++;
    if (strcmp(unit, "") != 0 && strcmp(unit, "B") != 0 && !(power && strcmp(unit, "iB") == 0)) return false;
    if (!app_parse_real(number, &size)) return false;
    for (const char *u = units; power && u <= power; u++) size *= 1024;
    if (!(size < 9e18)) return false;
    *value = (int64_t)size;
    return true;
}

static char *show_bytes(char text[APP_SHOWN_SIZE], int64_t bytes, bool up) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    /* 1023.95 would print as 1024.0 of the smaller unit. */
    for (; value >= 1023.95 && unit + 1 < sizeof units / sizeof *units; unit++) value /= 1024;
    if (up) value = unit < 2 ? ceil(value) : ceil(value * 10) / 10;
    snprintf(text, APP_SHOWN_SIZE, unit < 2 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

char *app_show_bytes(char text[APP_SHOWN_SIZE], int64_t bytes) { return show_bytes(text, bytes, false); }

char *app_show_least(char text[APP_SHOWN_SIZE], int64_t bytes) { return show_bytes(text, bytes, true); }

char *app_show_duration(char text[APP_SHOWN_SIZE], double seconds) {
    if (!(seconds >= 0)) seconds = 0;
    if (seconds > 1e9) seconds = 1e9;
    long long whole = (long long)(seconds + 0.5), hours = whole / 3600, minutes = whole / 60 % 60;
    if (hours > 0)
        snprintf(text, APP_SHOWN_SIZE, "%lld:%02lld:%02lld", hours, minutes, whole % 60);
    else
        snprintf(text, APP_SHOWN_SIZE, "%lld:%02lld", minutes, whole % 60);
    return text;
}

char *app_show_seconds(char text[APP_SHOWN_SIZE], double seconds) {
    int digits = seconds >= 99.95 ? 0 : seconds >= 9.995 ? 1 : seconds >= 0.9995 ? 2 : 3;
    snprintf(text, APP_SHOWN_SIZE, "%.*f", digits, seconds);
    return text;
}

char *app_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

/* Length of the well-formed UTF-8 sequence at text, or 0. The terminating zero stops every overrun. */
static size_t utf8_length(const unsigned char *text) {
    unsigned char lead = text[0];
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    /* The second byte has a narrower range after some leads: no overlong forms, no surrogates, nothing above U+10FFFF. */
    unsigned char least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (text[1] < least || text[1] > most) return 0;
    for (size_t i = 2; i < length; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    return length;
}

char *app_valid_utf8(const char *text) {
    size_t size = strlen(text);
    char *copy = size < SIZE_MAX / 4 ? malloc(3 * size + 1) : NULL, *out = copy;
    if (!copy) return NULL;
    for (const unsigned char *in = (const unsigned char *)text; *in;) {
        size_t length = utf8_length(in);
        memcpy(out, length ? (const char *)in : "\xef\xbf\xbd", length ? length : 3);
        out += length ? length : 3;
        in += length ? length : 1;
    }
    *out = 0;
    return copy;
}

void app_print_clean(FILE *out, const char *text) {
    for (const unsigned char *in = (const unsigned char *)text; *in;) {
        size_t length = utf8_length(in);
        bool control = length == 0 || *in < 0x20 || *in == 0x7f || (*in == 0xc2 && in[1] < 0xa0);
        /* U+202A to U+202E and U+2066 to U+2069 turn the direction of what follows. */
        bool turns = length == 3 && *in == 0xe2 &&
                     ((in[1] == 0x80 && in[2] >= 0xaa && in[2] <= 0xae) || (in[1] == 0x81 && in[2] >= 0xa6 && in[2] <= 0xa9));
        if (control || turns)
            fputc('?', out);
        else
            fwrite(in, 1, length, out);
        in += length ? length : 1;
    }
}

bool app_colour_allowed(FILE *out) {
    const char *none = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return !(none && *none) && terminal && strcmp(terminal, "dumb") != 0 && isatty(fileno(out));
}
