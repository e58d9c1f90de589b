/*
 * fuzz_tokenizer.c - the tokenizer's files and texts. The first byte of an input chooses, the rest is cut at the bytes 0xFF,
 * which UTF-8 never holds:
 *
 *     'f'  vocab.json, merges.txt, tokenizer_config.json, added_tokens.json and a text for them; empty or missing: no such file
 *     'v'  the same, but the first part is added to a vocabulary that has a token for every byte
 *     any other: all of the rest is a text for a fixed small vocabulary, whose ids must spell the normalised text
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/nfc.h"
#include "model/tokenizer.h"

enum { N_PARTS = 5, SEPARATOR = 0xFF, VOCAB_BYTES = 256 * 16, MAX_IDS_ALLOWED = 1 << 24 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* ---- a vocabulary in which the id of a byte is the byte ---- */

/* Tokens beyond the bytes, from id 256 on, in plain text and as the files spell them. */
static const struct {
    const char *text, *spelling;
} more_tokens[] = {
    {"th", "th"}, {"the", "the"}, {" t", "Ġt"}, {" the", "Ġthe"}, {"aa", "aa"},  {"aaa", "aaa"},   {"\n\n", "ĊĊ"},
    {"é", "Ã©"},  {"  ", "ĠĠ"},   {"he", "he"}, {"<|a|>", NULL},  {"<|a", NULL}, {"<|a|>b", NULL},
};

static const char merges[] = "#version: 0.2\nt h\nĠt he\nh e\nth e\nĠ t\nĠ the\naa a\na a\nĊ Ċ\nÃ ©\nĠ Ġ\n";
static const char added_tokens[] = "{\"<|a|>\": 266, \"<|a\": 267, \"<|a|>b\": 268}";

static char *put_symbol(char *at, int byte, int *n_unprintable) {
    int printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int point = printable ? byte : 256 + (*n_unprintable)++;
    if (point < 0x80) {
        if (point == '"' || point == '\\') *at++ = '\\';
        *at++ = (char)point;
    } else {
        *at++ = (char)(0xC0 | point >> 6);
        *at++ = (char)(0x80 | (point & 0x3F));
    }
    return at;
}

/* Writes the members for the 256 bytes, without the last brace; returns the end. */
static char *put_bytes(char *at) {
    int n_unprintable = 0;
    for (int byte = 0; byte < 256; byte++) {
        *at++ = byte ? ',' : '{';
        *at++ = '"';
        at = put_symbol(at, byte, &n_unprintable);
        at += sprintf(at, "\":%d", byte);
    }
    return at;
}

/* Made once, for all inputs. */
static const ink_tokenizer *fixed_tokenizer(void) {
    static ink_tokenizer *tokenizer;
    if (tokenizer) return tokenizer;
    char vocab[VOCAB_BYTES], *at = put_bytes(vocab);
    for (size_t i = 0; i < sizeof more_tokens / sizeof *more_tokens; i++)
        if (more_tokens[i].spelling) at += sprintf(at, ",\"%s\":%d", more_tokens[i].spelling, 256 + (int)i);
    *at++ = '}';
    ink_tokenizer_files files = {.folder = "fixed",
                                 .vocab = {vocab, (size_t)(at - vocab)},
                                 .merges = {merges, sizeof merges - 1},
                                 .added_tokens = {added_tokens, sizeof added_tokens - 1}};
    ink_error error;
    require(ink_tokenizer_parse(&tokenizer, &files, &error) == INK_OK, error.message);
    return tokenizer;
}

/* ---- texts ---- */

/* That the ids spell the bytes. */
static void check_spelling(const int32_t *ids, size_t n_ids, const char *text, size_t n_bytes) {
    size_t at = 0;
    for (size_t i = 0; i < n_ids; i++) {
        char byte = (char)ids[i];
        const char *token = ids[i] < 256 ? &byte : more_tokens[ids[i] - 256].text;
        size_t n = ids[i] < 256 ? 1 : strlen(token);
        require(n <= n_bytes - at && memcmp(text + at, token, n) == 0, "the ids do not spell the text");
        at += n;
    }
    require(at == n_bytes, "the ids do not spell all of the text");
}

static void encode_fixed(const char *text, size_t n_bytes) {
    const ink_tokenizer *tokenizer = fixed_tokenizer();
    int32_t *ids, *again;
    size_t n_ids, n_again, n_normal, n_twice;
    char *normal, *twice;
    ink_error error;
    ink_status status = ink_tokenizer_encode(tokenizer, text, n_bytes, &ids, &n_ids, &error);
    require(status == INK_OK || status == INK_ERROR_ARGUMENT, error.message);
    require(ink_nfc(&normal, &n_normal, text, n_bytes, NULL) == status, "normalising and encoding disagree");
    if (status == INK_OK) {
        check_spelling(ids, n_ids, normal, n_normal);
        require(ink_nfc(&twice, &n_twice, normal, n_normal, NULL) == INK_OK, "normal text is not UTF-8");
        require(n_twice == n_normal && memcmp(twice, normal, n_normal) == 0, "normal text is not normal");
        require(ink_tokenizer_encode(tokenizer, normal, n_normal, &again, &n_again, NULL) == INK_OK, "normal text does not encode");
        require(n_again == n_ids && memcmp(again, ids, n_ids * sizeof *ids) == 0, "normal text has other ids");
        ink_free(twice);
        ink_free(again);
    } else
        require(!ids && n_ids == 0 && !normal && error.message[0], "a failure leaves something behind");
    ink_free(ids);
    ink_free(normal);
}

/* ---- files ---- */

static void encode_with(const ink_tokenizer *tokenizer, const ink_tokenizer_file *text) {
    int32_t *ids;
    size_t n_ids;
    ink_error error;
    require(ink_tokenizer_size(tokenizer) >= 256 && ink_tokenizer_size(tokenizer) <= MAX_IDS_ALLOWED, "the size is out of range");
    ink_status status = ink_tokenizer_encode(tokenizer, text->data ? text->data : "", text->n_bytes, &ids, &n_ids, &error);
    require(status == INK_OK || status == INK_ERROR_ARGUMENT, error.message);
    for (size_t i = 0; i < n_ids; i++) require(ids[i] >= 0 && ids[i] < ink_tokenizer_size(tokenizer), "an id is out of range");
    ink_free(ids);
}

static void parse(const ink_tokenizer_file parts[N_PARTS]) {
    ink_tokenizer_files files = {
        .folder = "fuzz", .vocab = parts[0], .merges = parts[1], .config = parts[2], .added_tokens = parts[3]};
    ink_tokenizer *tokenizer;
    ink_error error;
    ink_status status = ink_tokenizer_parse(&tokenizer, &files, &error);
    require(status == error.status && (status == INK_OK) == !error.message[0], "status and sentence disagree");
    require(status == INK_OK || status == INK_ERROR_FORMAT || status == INK_ERROR_IO || status == INK_ERROR_UNSUPPORTED,
            error.message);
    if (tokenizer) encode_with(tokenizer, &parts[4]);
    ink_tokenizer_close(&tokenizer);
}

static void parse_parts(const char *data, size_t size, int with_bytes) {
    ink_tokenizer_file parts[N_PARTS] = {{0}};
    size_t start = 0;
    for (int i = 0; i < N_PARTS; i++) {
        size_t end = start;
        while (end < size && ((uint8_t)data[end] != SEPARATOR || i == N_PARTS - 1)) end++;
        if (end > start) parts[i] = (ink_tokenizer_file){data + start, end - start};
        start = end < size ? end + 1 : end;
    }
    if (!with_bytes) {
        parse(parts);
        return;
    }
    char *vocab = malloc(VOCAB_BYTES + parts[0].n_bytes + 1);
    require(vocab != NULL, "too little memory");
    char *at = put_bytes(vocab);
    if (parts[0].n_bytes) memcpy(at, parts[0].data, parts[0].n_bytes);
    at += parts[0].n_bytes;
    *at++ = '}';
    parts[0] = (ink_tokenizer_file){vocab, (size_t)(at - vocab)};
    if (!parts[1].data) parts[1].data = "";
    parse(parts);
    free(vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const char *rest = (const char *)data + 1;
    if (data[0] == 'f' || data[0] == 'v')
        parse_parts(rest, size - 1, data[0] == 'v');
    else
        encode_fixed(rest, size - 1);
    return 0;
}
