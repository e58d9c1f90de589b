/*
 * json.h - JSON files (read by jansson) and typed fields with errors that name file, key, expectation and finding.
 *
 * Strict: duplicate keys, NUL in strings, NaN and anything after the object are errors.
 */
#ifndef INK_BASE_JSON_H
#define INK_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Parses a file whose top level is an object, at most 64 MiB. *root is released with json_decref. Errors: IO, FORMAT, MEMORY. */
ink_status ink_json_load(json_t **root, const char *path, ink_error *error);

/* The same for text in memory; origin names it in sentences. */
ink_status ink_json_parse(json_t **root, const char *text, size_t size, const char *origin, ink_error *error);

/*
 * Calls f for each key of an object in memory, in order, without a tree of the whole, which takes ten times the text and longer
 * than its pieces. A key that is there twice may reach f twice. value is borrowed; what f returns beside INK_OK ends it. f may have
 * been called before an error that stands further behind. Errors: FORMAT, MEMORY, and those of f.
 */
typedef ink_status (*ink_json_entry_fn)(void *user, const char *key, const json_t *value);
ink_status ink_json_each_entry(const char *text, size_t size, const char *origin, ink_json_entry_fn f, void *user,
                               ink_error *error);

/*
 * A reader over one object, sticky: after the first failure the others return their fallback, and the caller looks at
 * `status` once at the end. `origin` (a file path) names the place in sentences. Required fields fail when absent;
 * the *_or forms return the fallback when the key is absent or null, and fail when it has another type.
 */
typedef struct ink_json_reader {
    const json_t *object;
    const char *origin;
    ink_error *error;
    ink_status status;
} ink_json_reader;

int64_t ink_json_int(ink_json_reader *reader, const char *key, int64_t least, int64_t most);
int64_t ink_json_int_or(ink_json_reader *reader, const char *key, int64_t fallback, int64_t least, int64_t most);
double ink_json_number(ink_json_reader *reader, const char *key);
double ink_json_number_or(ink_json_reader *reader, const char *key, double fallback);
bool ink_json_bool_or(ink_json_reader *reader, const char *key, bool fallback);
/* Borrowed from the object; NULL (or fallback) when it fails. */
const char *ink_json_string(ink_json_reader *reader, const char *key);
const char *ink_json_string_or(ink_json_reader *reader, const char *key, const char *fallback);
/* Fills values[0..n) and returns n, the length of the array; fails when it is longer than capacity or holds another type. */
size_t ink_json_ints(ink_json_reader *reader, const char *key, int64_t *values, size_t capacity);
size_t ink_json_numbers(ink_json_reader *reader, const char *key, double *values, size_t capacity);
size_t ink_json_bools(ink_json_reader *reader, const char *key, bool *values, size_t capacity);
/* A nested object, borrowed; NULL when absent or null. */
const json_t *ink_json_object_or_null(ink_json_reader *reader, const char *key);

/* True when the key is there and not null. */
bool ink_json_has(const ink_json_reader *reader, const char *key);

/* Makes the reader fail with "ORIGIN: SENTENCE", unless it has failed before. Returns the reader's status. */
ink_status ink_json_fail(ink_json_reader *reader, ink_status status, const char *format, ...) INK_PRINTF(3, 4);

enum { INK_JSON_DESCRIPTION = 96 };

/* Writes what a value is, for sentences, such as `"abc"`, `12`, `an array of 3`, and returns the buffer. value may be NULL. */
const char *ink_json_describe(char buffer[INK_JSON_DESCRIPTION], const json_t *value);

#endif
