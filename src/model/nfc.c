/* nfc.c - decompose, order the marks, compose. */
#include "model/nfc.h"

#include <stdbool.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"

static const utf8proc_option_t options = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

enum {
    N_COMBINING_CLASSES = 256,
    BEFORE_HANGUL_TRAILING = 0x11A7,
    MAX_TEXT_BYTES = 1 << 29 /* normalisation makes at most three bytes of one; all positions then fit 32 bits */
};

/* What a text decomposes to. */
typedef struct decomposition {
    size_t n_points;
    size_t longest_marks; /* the most marks (characters of a combining class other than 0) in a row */
} decomposition;

static uint8_t combining_class(int32_t point) { return (uint8_t)utf8proc_get_property(point)->combining_class; }

/* Counts the code points of the decomposition and, when points is not NULL, writes them there. */
static ink_status decompose(decomposition *result, int32_t *points, const char *text, size_t n_bytes, ink_error *error) {
    size_t n = 0, marks = 0;
    *result = (decomposition){0};
    for (size_t offset = 0; offset < n_bytes;) {
        int32_t point, pieces[4];
        utf8proc_ssize_t used = utf8proc_iterate((const uint8_t *)text + offset, (utf8proc_ssize_t)(n_bytes - offset), &point);
        if (used <= 0) return ink_fail(error, INK_ERROR_ARGUMENT, "the text is not valid UTF-8 at byte offset %zu", offset);
        int unused_boundary = 0;
        utf8proc_ssize_t n_pieces = utf8proc_decompose_char(point, pieces, 4, options, &unused_boundary);
        if (n_pieces < 1 || n_pieces > 4)
            return ink_fail(error, INK_ERROR_INTERNAL, "U+%04X cannot be normalised", (unsigned)point);
        for (utf8proc_ssize_t i = 0; i < n_pieces; i++) {
            marks = combining_class(pieces[i]) ? marks + 1 : 0;
            if (marks > result->longest_marks) result->longest_marks = marks;
            if (points) points[n] = pieces[i];
            n++;
        }
        offset += (size_t)used;
    }
    result->n_points = n;
    return INK_OK;
}

static bool marks_in_order(const int32_t *marks, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (combining_class(marks[i - 1]) > combining_class(marks[i])) return false;
    return true;
}

/* Counting sort by combining class: stable, and linear however many marks a text heaps on one letter. */
static void order_marks(int32_t *marks, size_t n, int32_t *scratch) {
    size_t place[N_COMBINING_CLASSES] = {0};
    if (marks_in_order(marks, n)) return;
    for (size_t i = 0; i < n; i++) place[combining_class(marks[i])]++;
    size_t total = 0;
    for (size_t c = 0; c < N_COMBINING_CLASSES; c++) {
        size_t count = place[c];
        place[c] = total;
        total += count;
    }
    for (size_t i = 0; i < n; i++) scratch[place[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, scratch, n * sizeof *marks);
}

static void order_all_marks(int32_t *points, size_t n, int32_t *scratch) {
    for (size_t start = 0; start < n;) {
        size_t end = start;
        while (end < n && combining_class(points[end])) end++;
        if (end > start) order_marks(points + start, end - start, scratch);
        start = end + 1;
    }
}

/*
 * Composes in place and returns the new length, or a negative number. U+11A7, one before the first trailing consonant of
 * Hangul, composes with nothing, but utf8proc 2.8 swallows it after a syllable: every piece that it begins is composed alone.
 */
static utf8proc_ssize_t compose(int32_t *points, size_t n) {
    size_t n_composed = 0;
    for (size_t start = 0; start < n;) {
        size_t end = start + 1;
        while (end < n && points[end] != BEFORE_HANGUL_TRAILING) end++;
        utf8proc_ssize_t length = utf8proc_normalize_utf32(points + start, (utf8proc_ssize_t)(end - start), options);
        if (length < 0) return length;
        memmove(points + n_composed, points + start, (size_t)length * sizeof *points);
        n_composed += (size_t)length;
        start = end;
    }
    return (utf8proc_ssize_t)n_composed;
}

ink_status ink_nfc(char **normal, size_t *n_normal, const char *text, size_t n_bytes, ink_error *error) {
    decomposition size;
    *normal = NULL;
    *n_normal = 0;
    if (n_bytes > MAX_TEXT_BYTES)
        return ink_fail(error, INK_ERROR_ARGUMENT, "the text has %zu bytes, at most %d can be encoded", n_bytes, MAX_TEXT_BYTES);
    ink_status status = decompose(&size, NULL, text, n_bytes, error);
    if (status != INK_OK) return status;

    /* One more than the text needs: utf8proc ends what it writes with a zero byte. */
    int32_t *points = ink_alloc_array(size.n_points + 1, sizeof *points);
    int32_t *scratch = ink_alloc_array(size.longest_marks, sizeof *scratch);
    if (!points || !scratch) {
        ink_free(points);
        ink_free(scratch);
        return ink_fail(error, INK_ERROR_MEMORY, "too little memory to normalise a text of %zu bytes", n_bytes);
    }
    decompose(&size, points, text, n_bytes, NULL);
    order_all_marks(points, size.n_points, scratch);
    ink_free(scratch);
    utf8proc_ssize_t length = compose(points, size.n_points);
    if (length >= 0) length = utf8proc_reencode(points, length, (utf8proc_option_t)0);
    if (length < 0) {
        ink_free(points);
        return ink_fail(error, INK_ERROR_INTERNAL, "the text cannot be normalised: %s", utf8proc_errmsg(length));
    }
    *normal = (char *)points;
    *n_normal = (size_t)length;
    return INK_OK;
}
