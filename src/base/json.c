/* json.c - JSON text to jansson objects, and typed fields of them. */
#include "base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/memory.h"

enum {
    MAX_FILE_BYTES = 64 << 20,
    PIECE_BYTES = 1 << 16 /* of an object that is read entry by entry: its tree stays in the caches */
};

static ink_status fail_memory(const char *origin, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to read it as JSON", origin);
}

ink_status ink_json_parse(json_t **root, const char *text, size_t size, const char *origin, ink_error *error) {
    *root = NULL;
    json_error_t trouble;
    json_t *value = json_loadb(text ? text : "", text ? size : 0, JSON_REJECT_DUPLICATES, &trouble);
    if (!value) {
        /* jansson says nothing at all where an object could not be allocated. */
        if (!trouble.text[0] || json_error_code(&trouble) == json_error_out_of_memory) return fail_memory(origin, error);
        return ink_fail(error, INK_ERROR_FORMAT, "%s: is not valid JSON: line %d, column %d: %s", origin, trouble.line,
                        trouble.column, trouble.text);
    }
    if (!json_is_object(value)) {
        char found[INK_JSON_DESCRIPTION];
        ink_fail(error, INK_ERROR_FORMAT, "%s: must hold a JSON object, found %s", origin, ink_json_describe(found, value));
        json_decref(value);
        return INK_ERROR_FORMAT;
    }
    *root = value;
    return INK_OK;
}

ink_status ink_json_load(json_t **root, const char *path, ink_error *error) {
    *root = NULL;
    ink_mapfile file;
    ink_status status = ink_mapfile_open(&file, path, error);
    if (status != INK_OK) return status;
    if (file.size > MAX_FILE_BYTES)
        status = ink_fail(error, INK_ERROR_FORMAT, "%s: has %zu bytes, a JSON file may have %d", path, file.size, MAX_FILE_BYTES);
    else
        status = ink_json_parse(root, (const char *)file.data, file.size, path, error);
    ink_mapfile_close(&file);
    return status;
}

/* ---- an object entry by entry -------------------------------------------------------------------------------------- */

static size_t skip_space(const char *text, size_t size, size_t at) {
    while (at < size && strchr(" \t\r\n", text[at]) && text[at]) at++;
    return at;
}

/* Where entries that begin at `at` may be cut off: a comma between two of them, or else what closes the object; size: nowhere. */
static size_t find_cut(const char *text, size_t size, size_t at) {
    const size_t enough = at + PIECE_BYTES;
    bool quoted = false;
    int64_t depth = 0;
    for (; at < size; at++) {
        char c = text[at];
        if (quoted && c == '\\')
            at++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '{' || c == '['))
            depth++;
        else if (!quoted && (c == '}' || c == ']') && depth-- == 0)
            return at;
        else if (!quoted && c == ',' && depth == 0 && at >= enough)
            return at;
    }
    return size;
}

/* Entries, as an object of their own. */
static ink_status parse_entries(json_t **root, const char *entries, size_t n, const char *origin, ink_error *error) {
    *root = NULL;
    char *text = ink_alloc(n + 2);
    if (!text) return fail_memory(origin, error);
    text[0] = '{';
    memcpy(text + 1, entries, n);
    text[n + 1] = '}';
    ink_status status = ink_json_parse(root, text, n + 2, origin, error);
    ink_free(text);
    return status;
}

static ink_status call_for_each(json_t *object, ink_json_entry_fn f, void *user) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        ink_status status = f(user, key, value);
        if (status != INK_OK) return status;
    }
    return INK_OK;
}

ink_status ink_json_each_entry(const char *text, size_t size, const char *origin, ink_json_entry_fn f, void *user,
                               ink_error *error) {
    ink_status status = INK_OK;
    json_t *root;
    size_t at = skip_space(text, size, 0);
    bool well_formed = at < size && text[at] == '{', more = well_formed;
    while (more && well_formed && status == INK_OK) {
        size_t begin = at + 1;
        at = find_cut(text, size, begin);
        more = at < size && text[at] == ',';
        /* Behind a comma there must be something. */
        well_formed = at < size && text[at] != ']' && (text[begin - 1] != ',' || skip_space(text, at, begin) < at);
        if (!well_formed) break;
        status = parse_entries(&root, text + begin, at - begin, origin, error);
        well_formed = status != INK_ERROR_FORMAT;
        if (status == INK_OK) status = call_for_each(root, f, user);
        json_decref(root);
    }
    if (well_formed && status == INK_OK) well_formed = skip_space(text, size, at + 1) == size;
    if (well_formed) return status;
    /* The whole tells where in it what is wrong. */
    status = ink_json_parse(&root, text, size, origin, error);
    json_decref(root);
    return status == INK_OK ? fail_memory(origin, error) : status;
}

/* ---- sentences ------------------------------------------------------------------------------------------------------- */

/* The start of a string in quotes: no character is cut in two, and control characters do not reach a terminal. */
static void describe_string(char buffer[INK_JSON_DESCRIPTION], const char *text) {
    enum { LONGEST = 60 };
    size_t n = strlen(text);
    bool whole = n <= LONGEST;
    if (!whole)
        for (n = LONGEST; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80;) n--;
    snprintf(buffer, INK_JSON_DESCRIPTION, "\"%.*s\"%s", (int)n, text, whole ? "" : "...");
    for (char *c = buffer; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = '?';
}

const char *ink_json_describe(char buffer[INK_JSON_DESCRIPTION], const json_t *value) {
    size_t size = INK_JSON_DESCRIPTION;
    if (!value) {
        snprintf(buffer, size, "nothing");
        return buffer;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: snprintf(buffer, size, "an object"); break;
    case JSON_ARRAY: snprintf(buffer, size, "an array of %zu", json_array_size(value)); break;
    case JSON_STRING: describe_string(buffer, json_string_value(value)); break;
    case JSON_INTEGER: snprintf(buffer, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: snprintf(buffer, size, "the real number %.17g", json_real_value(value)); break;
    case JSON_TRUE: snprintf(buffer, size, "true"); break;
    case JSON_FALSE: snprintf(buffer, size, "false"); break;
    case JSON_NULL: snprintf(buffer, size, "null"); break;
    }
    return buffer;
}

ink_status ink_json_fail(ink_json_reader *reader, ink_status status, const char *format, ...) {
    if (reader->status != INK_OK) return reader->status;
    char sentence[sizeof reader->error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return reader->status = ink_fail(reader->error, status, "%s: %s", reader->origin, sentence);
}

static void fail_field(ink_json_reader *reader, const char *key, const char *expected, const json_t *value) {
    char found[INK_JSON_DESCRIPTION];
    if (value)
        ink_json_fail(reader, INK_ERROR_FORMAT, "\"%s\" must be %s, found %s", key, expected, ink_json_describe(found, value));
    else
        ink_json_fail(reader, INK_ERROR_FORMAT, "\"%s\" is missing, it must be %s", key, expected);
}

/* NULL once the reader has failed, and when the key is absent or null. */
static const json_t *get(const ink_json_reader *reader, const char *key) {
    if (reader->status != INK_OK) return NULL;
    const json_t *value = json_object_get(reader->object, key);
    return json_is_null(value) ? NULL : value;
}

bool ink_json_has(const ink_json_reader *reader, const char *key) {
    const json_t *value = json_object_get(reader->object, key);
    return value && !json_is_null(value);
}

/* A required field; NULL when the reader has failed, before or just now. */
static const json_t *require(ink_json_reader *reader, const char *key, const char *expected) {
    if (reader->status != INK_OK) return NULL;
    const json_t *value = json_object_get(reader->object, key);
    if (!value) fail_field(reader, key, expected, NULL);
    return value;
}

static int64_t read_int(ink_json_reader *reader, const char *key, const json_t *value, int64_t least, int64_t most) {
    if (json_is_integer(value) && json_integer_value(value) >= least && json_integer_value(value) <= most)
        return json_integer_value(value);
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)least, (long long)most);
    fail_field(reader, key, expected, value);
    return least;
}

int64_t ink_json_int(ink_json_reader *reader, const char *key, int64_t least, int64_t most) {
    const json_t *value = require(reader, key, "an integer");
    return value ? read_int(reader, key, value, least, most) : least;
}

int64_t ink_json_int_or(ink_json_reader *reader, const char *key, int64_t fallback, int64_t least, int64_t most) {
    const json_t *value = get(reader, key);
    return value ? read_int(reader, key, value, least, most) : fallback;
}

double ink_json_number_or(ink_json_reader *reader, const char *key, double fallback) {
    const json_t *value = get(reader, key);
    if (!value) return fallback;
    if (json_is_number(value)) return json_number_value(value);
    fail_field(reader, key, "a number", value);
    return fallback;
}

double ink_json_number(ink_json_reader *reader, const char *key) {
    const json_t *value = require(reader, key, "a number");
    if (json_is_null(value)) fail_field(reader, key, "a number", value);
    return ink_json_number_or(reader, key, 0.0);
}

bool ink_json_bool_or(ink_json_reader *reader, const char *key, bool fallback) {
    const json_t *value = get(reader, key);
    if (!value) return fallback;
    if (json_is_boolean(value)) return json_is_true(value);
    fail_field(reader, key, "true or false", value);
    return fallback;
}

const char *ink_json_string_or(ink_json_reader *reader, const char *key, const char *fallback) {
    const json_t *value = get(reader, key);
    if (!value) return fallback;
    if (json_is_string(value)) return json_string_value(value);
    fail_field(reader, key, "a string", value);
    return fallback;
}

const char *ink_json_string(ink_json_reader *reader, const char *key) {
    const json_t *value = require(reader, key, "a string");
    if (json_is_null(value)) fail_field(reader, key, "a string", value);
    return ink_json_string_or(reader, key, NULL);
}

const json_t *ink_json_object_or_null(ink_json_reader *reader, const char *key) {
    const json_t *value = get(reader, key);
    if (!value || json_is_object(value)) return value;
    fail_field(reader, key, "an object", value);
    return NULL;
}

/* The array under key and its length; NULL when it is no array or longer than capacity. */
static const json_t *require_array(ink_json_reader *reader, const char *key, const char *expected, size_t capacity) {
    const json_t *array = require(reader, key, expected);
    if (!array) return NULL;
    if (!json_is_array(array)) {
        fail_field(reader, key, expected, array);
        return NULL;
    }
    if (json_array_size(array) > capacity) {
        ink_json_fail(reader, INK_ERROR_FORMAT, "\"%s\" must be %s of at most %zu, found %zu", key, expected, capacity,
                      json_array_size(array));
        return NULL;
    }
    return array;
}

static void fail_item(ink_json_reader *reader, const char *key, const char *expected, size_t i, const json_t *item) {
    char found[INK_JSON_DESCRIPTION];
    ink_json_fail(reader, INK_ERROR_FORMAT, "\"%s\" must be %s, item %zu is %s", key, expected, i, ink_json_describe(found, item));
}

size_t ink_json_ints(ink_json_reader *reader, const char *key, int64_t *values, size_t capacity) {
    static const char expected[] = "an array of integers";
    const json_t *array = require_array(reader, key, expected, capacity);
    size_t n = json_array_size(array);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_integer(item)) {
            fail_item(reader, key, expected, i, item);
            return 0;
        }
        values[i] = json_integer_value(item);
    }
    return n;
}

size_t ink_json_numbers(ink_json_reader *reader, const char *key, double *values, size_t capacity) {
    static const char expected[] = "an array of numbers";
    const json_t *array = require_array(reader, key, expected, capacity);
    size_t n = json_array_size(array);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_number(item)) {
            fail_item(reader, key, expected, i, item);
            return 0;
        }
        values[i] = json_number_value(item);
    }
    return n;
}

size_t ink_json_bools(ink_json_reader *reader, const char *key, bool *values, size_t capacity) {
    static const char expected[] = "an array of true and false";
    const json_t *array = require_array(reader, key, expected, capacity);
    size_t n = json_array_size(array);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_boolean(item)) {
            fail_item(reader, key, expected, i, item);
            return 0;
        }
        values[i] = json_is_true(item);
    }
    return n;
}
