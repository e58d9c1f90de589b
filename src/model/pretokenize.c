/*
 * pretokenize.c - the alternatives of
 *
 *     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * one after the other. Only the white-space rules look back from the end of a run, and the part of the run that they leave
 * over holds no line end, so no run is read more than twice.
 */
#include "model/pretokenize.h"

#include <stdbool.h>
#include <stdint.h>
#include <utf8proc.h>

typedef enum char_class { CLASS_END, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_LINE_END, CLASS_OTHER } char_class;

typedef struct character {
    char_class class;
    size_t size; /* bytes; 0 at the end of the text */
} character;

static bool is_space(int32_t point) {
    return (point >= 0x09 && point <= 0x0D) || point == 0x20 || point == 0x85 || point == 0xA0 || point == 0x1680 ||
           (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 || point == 0x202F || point == 0x205F ||
           point == 0x3000;
}

static char_class classify(int32_t point) {
    if (point == '\r' || point == '\n') return CLASS_LINE_END;
    if (is_space(point)) return CLASS_SPACE;
    switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CLASS_NUMBER;
    default: return CLASS_OTHER;
    }
}

static character character_at(const char *text, size_t at, size_t end) {
    int32_t point;
    if (at >= end) return (character){CLASS_END, 0};
    utf8proc_ssize_t size = utf8proc_iterate((const uint8_t *)text + at, (utf8proc_ssize_t)(end - at), &point);
    if (size <= 0) return (character){CLASS_OTHER, 1}; /* not in valid UTF-8; but every step must go forward */
    return (character){classify(point), (size_t)size};
}

/* The end of the run of characters of one class that begins at `at`. */
static size_t run_end(const char *text, size_t at, size_t end, char_class class) {
    for (;;) {
        character next = character_at(text, at, end);
        if (next.class != class) return at;
        at += next.size;
    }
}

static bool is_letter(char byte, char lower) { return byte == lower || byte == lower - 'a' + 'A'; }

/* The end of 's 't 're 've 'm 'll 'd at start, or start. */
static size_t contraction_end(const char *text, size_t start, size_t end) {
    static const char contractions[][3] = {"s", "t", "re", "ve", "m", "ll", "d"};
    size_t left = end - start;
    const char *at = text + start;
    if (left < 2 || at[0] != '\'') return start;
    for (size_t i = 0; i < sizeof contractions / sizeof *contractions; i++) {
        const char *letters = contractions[i];
        if (!is_letter(at[1], letters[0])) continue;
        if (!letters[1]) return start + 2;
        if (left > 2 && is_letter(at[2], letters[1])) return start + 3;
    }
    /* U+017F, the long s, is the only other character whose simple case folding is one of these letters. */
    if (left > 2 && at[1] == '\xC5' && at[2] == '\xBF') return start + 3;
    return start;
}

/* start is at white space. Through the last line end; else all of it if nothing follows; else all but its last character. */
static size_t white_space_end(const char *text, size_t start, size_t end) {
    size_t at = start, last = start, after_line_end = start;
    for (;;) {
        character next = character_at(text, at, end);
        if (next.class != CLASS_SPACE && next.class != CLASS_LINE_END) break;
        last = at;
        at += next.size;
        if (next.class == CLASS_LINE_END) after_line_end = at;
    }
    if (after_line_end > start) return after_line_end;
    return at == end || last == start ? at : last;
}

size_t ink_pretoken_end(const char *text, size_t start, size_t end) {
    size_t taken = contraction_end(text, start, end);
    if (taken > start) return taken;

    character first = character_at(text, start, end);
    size_t second = start + first.size;
    if (first.class == CLASS_LETTER) return run_end(text, second, end, CLASS_LETTER);
    if (first.class == CLASS_NUMBER) return second;
    if (first.class != CLASS_LINE_END && character_at(text, second, end).class == CLASS_LETTER)
        return run_end(text, second, end, CLASS_LETTER);

    size_t others = text[start] == ' ' ? second : start;
    size_t others_end = run_end(text, others, end, CLASS_OTHER);
    if (others_end > others) return run_end(text, others_end, end, CLASS_LINE_END);

    return white_space_end(text, start, end);
}
