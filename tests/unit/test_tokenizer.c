/*
 * test_tokenizer.c - the tokenizer and its parts: normalisation, pre-tokens, merges, and the reading of its files.
 *
 * Ids are compared with what transformers' Qwen2Tokenizer gave (tests/golden, and the vectors below). Those of the published
 * vocabulary need its vocab.json and merges.txt, in the folder that INK_TEST_QWEN_TOKENIZER names or in
 * ../shared/tokenizer/qwen2.5 beside the source tree; without them these tests are skipped.
 */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mapfile.h"
#include "base/memory.h"
#include "model/bpe.h"
#include "model/nfc.h"
#include "model/pretokenize.h"
#include "model/token_table.h"
#include "model/tokenizer.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GOLDEN INK_TEST_SOURCE_DIR "/tests/golden"

/* What quadratic work on a text of 100 kB would exceed by far, even on a slow machine under a sanitizer. */
static const double MAX_CPU_SECONDS = 20;

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* ---- vocabularies ----------------------------------------------------------------------------------------------- */

/* Appends the symbol of a byte, in UTF-8. */
static char *put_symbol(char *at, int byte) {
    int n_unprintable = 0, point = byte;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        point = printable ? b : 256 + n_unprintable++;
    }
    if (point < 0x80)
        *at++ = (char)point;
    else {
        *at++ = (char)(0xC0 | point >> 6);
        *at++ = (char)(0x80 | (point & 0x3F));
    }
    return at;
}

enum { NO_BYTE = -1 };

/*
 * A vocab.json with the symbol of every byte but one, whose id is the byte, and `more` (such as ", \"ab\": 256") at the end.
 */
static char *make_vocab(int left_out, const char *more) {
    char *vocab = malloc(256 * 12 + strlen(more) + 16), *at = vocab;
    assert_non_null(vocab);
    at += sprintf(at, "{\"xxx\":400");
    for (int byte = 0; byte < 256; byte++) {
        if (byte == left_out) continue;
        *at++ = ',';
        *at++ = '"';
        if (byte == '"' || byte == '\\') *at++ = '\\';
        at = put_symbol(at, byte);
        at += sprintf(at, "\":%d", byte);
    }
    sprintf(at, "%s}", more);
    return vocab;
}

static ink_tokenizer_file file_of(const char *text) { return (ink_tokenizer_file){text, text ? strlen(text) : 0}; }

/* Parses a tokenizer of the byte symbols and `more`; merges, config and added_tokens are whole files, NULL for none. */
static ink_status parse(ink_tokenizer **tokenizer, const char *more, const char *merges, const char *config,
                        const char *added_tokens, ink_error *error) {
    char *vocab = make_vocab(NO_BYTE, more);
    ink_tokenizer_files files = {"here", file_of(vocab), file_of(merges), file_of(config), file_of(added_tokens)};
    ink_status status = ink_tokenizer_parse(tokenizer, &files, error);
    free(vocab);
    return status;
}

static ink_tokenizer *parse_good(const char *more, const char *merges, const char *config, const char *added_tokens) {
    ink_error error;
    ink_tokenizer *tokenizer;
    if (parse(&tokenizer, more, merges, config, added_tokens, &error) != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(error.status, INK_OK);
    return tokenizer;
}

/* ---- comparing ids ---------------------------------------------------------------------------------------------- */

static void print_ids(const char *label, const int32_t *ids, size_t n) {
    print_error("%s:", label);
    for (size_t i = 0; i < n; i++) print_error(" %d", (int)ids[i]);
    print_error("\n");
}

static void expect_ids(const ink_tokenizer *tokenizer, const char *text, size_t n_bytes, const int32_t *expected,
                       size_t n_expected) {
    int32_t *ids;
    size_t n;
    ink_error error;
    if (ink_tokenizer_encode(tokenizer, text, n_bytes, &ids, &n, &error) != INK_OK) fail_msg("%s", error.message);
    if (n != n_expected || memcmp(ids, expected, n * sizeof *ids) != 0) {
        print_error("text: \"%.*s\"\n", (int)n_bytes, text);
        print_ids("expected", expected, n_expected);
        print_ids("found", ids, n);
        fail();
    }
    ink_free(ids);
}

/* expected: ids in decimal, with spaces between. */
static void expect(const ink_tokenizer *tokenizer, const char *text, const char *expected) {
    int32_t ids[256];
    size_t n = 0;
    char *end;
    for (const char *at = expected; *at; at = end) {
        assert_in_range(n, 0, COUNT(ids) - 1);
        ids[n++] = (int32_t)strtol(at, &end, 10);
        if (end == at) fail_msg("\"%s\" is not a list of ids", expected);
    }
    expect_ids(tokenizer, text, strlen(text), ids, n);
}

/* ---- the published vocabulary ----------------------------------------------------------------------------------- */

static const char ADDED_22[] =
    "{\"<|endoftext|>\": 151643, \"<|im_start|>\": 151644, \"<|im_end|>\": 151645, \"<|object_ref_start|>\": 151646,"
    "\"<|object_ref_end|>\": 151647, \"<|box_start|>\": 151648, \"<|box_end|>\": 151649, \"<|quad_start|>\": 151650,"
    "\"<|quad_end|>\": 151651, \"<|vision_start|>\": 151652, \"<|vision_end|>\": 151653, \"<|vision_pad|>\": 151654,"
    "\"<|image_pad|>\": 151655, \"<|video_pad|>\": 151656, \"<tool_call>\": 151657, \"</tool_call>\": 151658,"
    "\"<|fim_prefix|>\": 151659, \"<|fim_middle|>\": 151660, \"<|fim_suffix|>\": 151661, \"<|fim_pad|>\": 151662,"
    "\"<|repo_name|>\": 151663, \"<|file_sep|>\": 151664}";

static const char *published_folder(void) {
    const char *folder = getenv("INK_TEST_QWEN_TOKENIZER");
    return folder && *folder ? folder : INK_TEST_SOURCE_DIR "/../shared/tokenizer/qwen2.5";
}

/* The published vocabulary with exactly the added tokens of Qwen-Image, whatever the folder says; skips the test without it. */
static ink_tokenizer *open_published(void) {
    char path[4096];
    ink_error error;
    ink_mapfile vocab, merges;
    snprintf(path, sizeof path, "%s/vocab.json", published_folder());
    if (ink_mapfile_open(&vocab, path, &error) != INK_OK) {
        print_message("skipped: the published vocabulary is not there: %s\n", error.message);
        skip();
    }
    snprintf(path, sizeof path, "%s/merges.txt", published_folder());
    if (ink_mapfile_open(&merges, path, &error) != INK_OK) fail_msg("%s", error.message);

    ink_tokenizer *tokenizer;
    ink_tokenizer_files files = {.folder = published_folder(),
                                 .vocab = {(const char *)vocab.data, vocab.size},
                                 .merges = {(const char *)merges.data, merges.size},
                                 .added_tokens = file_of(ADDED_22)};
    if (ink_tokenizer_parse(&tokenizer, &files, &error) != INK_OK) fail_msg("%s", error.message);
    ink_mapfile_close(&vocab);
    ink_mapfile_close(&merges);
    return tokenizer;
}

static void published_vectors(void **state) {
    (void)state;
    static const struct {
        const char *text, *ids;
    } vectors[] = {
        {"", ""},
        {" ", "220"},
        {"Hello world", "9707 1879"},
        {" Hello world", "21927 1879"},
        {"A cinematic photo of a cat", "32 64665 6548 315 264 8251"},
        {"A cat holding a sign that says hello world", "32 8251 9963 264 1841 429 2727 23811 1879"},
        {"Picture 1: ", "24669 220 16 25 220"},
        {"一只猫坐在沙发上，阳光明媚。", "102292 100472 104427 117733 3837 104166 117716 1773"},
        {"I'm  sure it's 12345 'S  \n\n  done ", "40 2776 220 2704 432 594 220 16 17 18 19 20 364 50 18611 220 2814 220"},
        {"e\u0301te\u0301 naïve café", "38783 94880 586 51950"},
        {"🐱🚀 emoji", "146110 145836 42365"},
        {"line1\r\nline2\t\ttab", "1056 16 319 1056 17 197 58149"},
        {"  leading", "220 6388"},
        {"trailing   ", "376 14277 262"},
        {"नमस्ते दुनिया", "60096 87244 78368 30484 97 34370 14925 99 72653 60096 42311 107 23868"},
        {"한국어 テスト", "23573 124785 31079 20711 228 70534"},
        {"$2 per cup, \"π-通义千问\"", "3 17 817 10525 11 330 48245 12 31935 64559 99320 56007 1"},
        {"don'T we'LL they'RE", "15007 17323 582 6 4086 807 94153"},
        {"a\u00a0b\u3000c", "64 4102 65 22441 66"},
        {"x<|im_end|>y <tool_call>", "87 151645 88 220 151657"},
        {" , Ultra HD, 4K, cinematic composition.", "1154 28213 12169 11 220 19 42 11 64665 18037 13"},
        {"<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
         "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n",
         "151644 8948 198 74785 279 2168 553 44193 279 1894 11 6083 11 1379 11 10434 11 12194 11 1467 11 27979 11871 315 279 "
         "6171 323 4004 25 151645 198 151644 872 198"},
        {"<|im_end|>\n<|im_start|>assistant\n", "151645 198 151644 77091 198"},
    };
    ink_tokenizer *tokenizer = open_published();
    for (size_t i = 0; i < COUNT(vectors); i++) expect(tokenizer, vectors[i].text, vectors[i].ids);
    assert_int_equal(ink_tokenizer_size(tokenizer), 151665);
    assert_int_equal(ink_tokenizer_id(tokenizer, "<|image_pad|>"), 151655);
    ink_tokenizer_close(&tokenizer);
}

static void published_edit_prefix_has_64_tokens(void **state) {
    (void)state;
    static const char prefix[] =
        "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), "
        "then explain how the user's text instruction should alter or modify the image. Generate a new image that meets the "
        "user's requirements while maintaining consistency with the original input where appropriate.<|im_end|>\n<|im_start|>"
        "user\n";
    ink_tokenizer *tokenizer = open_published();
    int32_t *ids;
    size_t n;
    assert_int_equal(ink_tokenizer_encode(tokenizer, prefix, strlen(prefix), &ids, &n, NULL), INK_OK);
    assert_int_equal(n, 64);
    ink_free(ids);
    ink_tokenizer_close(&tokenizer);
}

/* The folder as it is, with its own tokenizer_config.json. */
static void published_folder_opens(void **state) {
    (void)state;
    ink_error error;
    ink_tokenizer *tokenizer = open_published();
    ink_tokenizer_close(&tokenizer);
    if (ink_tokenizer_open(&tokenizer, published_folder(), &error) != INK_OK) fail_msg("%s", error.message);
    assert_true(ink_tokenizer_size(tokenizer) >= 151665);
    assert_int_equal(ink_tokenizer_id(tokenizer, "<|im_end|>"), 151645);
    assert_int_equal(ink_tokenizer_id(tokenizer, "Ġworld"), 1879);
    assert_int_equal(ink_tokenizer_id(tokenizer, "no such token"), -1);
    ink_tokenizer_close(&tokenizer);
}

/* ---- recorded cases --------------------------------------------------------------------------------------------- */

/*
 * slow_ids, where there, are those of a normaliser that sees the whole text first, as the tokenizer of the published
 * pipeline did; ids are those of newer versions, which split at the added tokens before.
 */
static void replay(const ink_tokenizer *tokenizer, const char *path) {
    json_error_t trouble;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &trouble);
    if (!cases) fail_msg("%s: %s", path, trouble.text);
    assert_true(json_array_size(cases) > 100);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i), *text = json_object_get(entry, "text");
        const json_t *ids = json_object_get(entry, "slow_ids");
        if (!ids) ids = json_object_get(entry, "ids");
        size_t n = json_array_size(ids);
        int32_t *expected = calloc(n + 1, sizeof *expected);
        assert_non_null(expected);
        for (size_t k = 0; k < n; k++) expected[k] = (int32_t)json_integer_value(json_array_get(ids, k));
        expect_ids(tokenizer, json_string_value(text), json_string_length(text), expected, n);
        free(expected);
    }
    json_decref(cases);
}

static void replay_folder(const char *folder, const char *cases) {
    ink_error error;
    ink_tokenizer *tokenizer;
    if (ink_tokenizer_open(&tokenizer, folder, &error) != INK_OK) fail_msg("%s", error.message);
    replay(tokenizer, cases);
    ink_tokenizer_close(&tokenizer);
}

static void recorded_cases_of_small_vocabularies(void **state) {
    (void)state;
    replay_folder(GOLDEN "/tiny/tokenizer", GOLDEN "/tiny/tokenizer_cases.json");
    replay_folder(GOLDEN "/static-shift/tokenizer", GOLDEN "/static-shift/tokenizer_cases.json");
}

static void recorded_cases_of_the_published_vocabulary(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = open_published();
    replay(tokenizer, GOLDEN "/tokenizer_cases.json");
    ink_tokenizer_close(&tokenizer);
}

/* ---- normalisation ---------------------------------------------------------------------------------------------- */

static void expect_nfc(const char *text, size_t n_bytes, const char *expected, size_t n_expected) {
    char *normal;
    size_t n;
    ink_error error;
    if (ink_nfc(&normal, &n, text, n_bytes, &error) != INK_OK) fail_msg("%s", error.message);
    if (n != n_expected || memcmp(normal, expected, n) != 0)
        fail_msg("NFC of \"%.*s\": expected \"%.*s\", found \"%.*s\"", (int)n_bytes, text, (int)n_expected, expected, (int)n,
                 normal);
    ink_free(normal);
}

static void normalises(void **state) {
    (void)state;
    static const struct {
        const char *text, *normal;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"e\u0301", "é"},
        {"\u1e9b\u0323", "\u1e9b\u0323"},
        {"q\u0307\u0323", "q\u0323\u0307"},                                               /* marks are ordered */
        {"a\u0301\u0301\u0323\u0300", "\u1ea1\u0301\u0301\u0300"},                        /* stably */
        {"\u0344", "\u0308\u0301"},                                                       /* a mark that becomes two */
        {"\u1f82", "\u1f82"},                                                             /* four code points on the way */
        {"\u212b\u2126\u212a", "\u00c5\u03a9K"},                                          /* singletons */
        {"\u0958", "\u0915\u093c"},                                                       /* excluded from composition */
        {"\u1100\u1161\u11a8", "\uac01"},                                                 /* Hangul */
        {"\uac00\u11a8", "\uac01"},                                                       /* Hangul, half composed */
        {"\uac00\u11a7", "\uac00\u11a7"},                                                 /* one below the trailing consonants */
        {"\u1100\u1161\u11a7\u11a8", "\uac00\u11a7\u11a8"},                               /* which also separates */
        {"\uac00\u11a7\u0323\u0301\uac00\u11a7", "\uac00\u11a7\u0323\u0301\uac00\u11a7"}, /* and carries marks */
        {"\u11a7\u11a7\u11a7", "\u11a7\u11a7\u11a7"},
        {"\U0001d15e", "\U0001d157\U0001d165"},
        {">\u0338", "\u226f"},
        {"x\U000f0000\U0010ffff\ufffe\u0378", "x\U000f0000\U0010ffff\ufffe\u0378"}, /* private, no character, unassigned */
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        expect_nfc(cases[i].text, strlen(cases[i].text), cases[i].normal, strlen(cases[i].normal));
    expect_nfc("e\0\u0301", 4, "e\0\u0301", 4);
}

static void names_the_offset_of_invalid_utf8(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t offset;
    } cases[] = {
        {"\xff", 0},          {"ab\x80", 2},
        {"é\xc3", 2},         {"abc\xc0\x80", 3},
        {"a\xed\xa0\x80", 1}, {"\xf4\x90\x80\x80", 0},
        {"ab\xe4\xb8", 2},    {"ab\xe4\xb8x", 2},
        {"\xf0\x9f\x90", 0},  {"1234\xf8\x88\x80\x80\x80", 4},
        {"\xe0\x80\xaf", 0},  {"猫\xc1\xbf", 3},
    };
    ink_tokenizer *tokenizer = parse_good("", "", NULL, NULL);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char offset[40];
        ink_error error;
        int32_t *ids = (int32_t *)&error;
        size_t n = 1;
        assert_int_equal(ink_tokenizer_encode(tokenizer, cases[i].text, strlen(cases[i].text), &ids, &n, &error),
                         INK_ERROR_ARGUMENT);
        snprintf(offset, sizeof offset, "offset %zu", cases[i].offset);
        if (!strstr(error.message, offset)) fail_msg("case %zu: %s, expected %s", i, error.message, offset);
        assert_null(ids);
        assert_int_equal(n, 0);
    }
    ink_tokenizer_close(&tokenizer);
}

static void refuses_a_text_too_long(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = parse_good("", "", NULL, NULL);
    int32_t *ids;
    size_t n;
    ink_error error;
    assert_int_equal(ink_tokenizer_encode(tokenizer, "x", ((size_t)1 << 29) + 1, &ids, &n, &error), INK_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "536870913 bytes"));
    assert_null(ids);
    ink_tokenizer_close(&tokenizer);
}

/* ---- pre-tokens ------------------------------------------------------------------------------------------------- */

/* expected: the pre-tokens with `|` between them. */
static void expect_pretokens_sized(const char *text, size_t n_bytes, const char *expected, size_t n_expected) {
    char found[1024];
    size_t n = 0;
    for (size_t at = 0; at < n_bytes;) {
        size_t end = ink_pretoken_end(text, at, n_bytes);
        assert_true(end > at && end <= n_bytes);
        if (at > 0) found[n++] = '|';
        memcpy(found + n, text + at, end - at);
        n += end - at;
        at = end;
    }
    if (n != n_expected || memcmp(found, expected, n) != 0)
        fail_msg("expected \"%.*s\", found \"%.*s\"", (int)n_expected, expected, (int)n, found);
}

static void expect_pretokens(const char *text, const char *expected) {
    expect_pretokens_sized(text, strlen(text), expected, strlen(expected));
}

static void cuts_contractions(void **state) {
    (void)state;
    expect_pretokens("it's", "it|'s");
    expect_pretokens("'sure", "'s|ure");
    expect_pretokens("I'VE we'Ll he'D x'rE a'M b'T", "I|'VE| we|'Ll| he|'D| x|'rE| a|'M| b|'T");
    expect_pretokens("it'\u017fx", "it|'\u017f|x"); /* the long s folds to s */
    expect_pretokens("'\u212a", "'\u212a");         /* the Kelvin sign to k, which is no contraction */
    expect_pretokens("'r'v'l", "'r|'v|'l");         /* half of one: apostrophe and letters */
    expect_pretokens("'e 'lx", "'e| '|lx");
    expect_pretokens("''s", "''|s");
    expect_pretokens("''", "''");
    expect_pretokens("'", "'");
    expect_pretokens("'\xc5\x9f", "'\xc5\x9f"); /* U+015F shares the first byte of U+017F */
    expect_pretokens("\u2019s", "\u2019s");
}

static void cuts_words_and_numbers(void **state) {
    (void)state;
    expect_pretokens("Hello world", "Hello| world");
    expect_pretokens("\tx\u00a0y!z-é", "\tx|\u00a0y|!z|-é");
    expect_pretokens("\nx\ry", "\n|x|\r|y");
    expect_pretokens("a12½Ⅷ٣b", "a|1|2|½|Ⅷ|٣|b");
    expect_pretokens(" 1", " |1");
    expect_pretokens("  a", " | a");
    expect_pretokens("e\u0323\u0301x", "e|\u0323\u0301|x"); /* marks are neither letter nor number */
    expect_pretokens("e\u0323x", "e|\u0323x");
    expect_pretokens("猫の한", "猫の한");
    expect_pretokens("🐱a🐱🐱 🐱", "🐱a|🐱🐱| 🐱");
    expect_pretokens_sized("a\0b\0\0c", 6, "a|\0b|\0\0|c", 9);
    expect_pretokens("\x1c\x1d\x1e\x1f ", "\x1c\x1d\x1e\x1f| "); /* no white space, though Python's isspace says so */
}

static void cuts_punctuation(void **state) {
    (void)state;
    expect_pretokens("...", "...");
    expect_pretokens(" ...\r\n\nx", " ...\r\n\n|x");
    expect_pretokens("! !", "!| !");
    expect_pretokens("\t!", "\t|!");
    expect_pretokens("  !", " | !");
    expect_pretokens(".\xc2\x85\n", ".|\xc2\x85\n");
}

static void cuts_white_space(void **state) {
    (void)state;
    expect_pretokens("   ", "   ");
    expect_pretokens("a   ", "a|   ");
    expect_pretokens("a   b", "a|  | b");
    expect_pretokens(" \n \r\n  b", " \n \r\n| | b");
    expect_pretokens("\n\n", "\n\n");
    expect_pretokens(" \u3000\u20031", " \u3000|\u2003|1");
    expect_pretokens("\u3000"
                     "1",
                     "\u3000|1");
    static const char *const spaces[] = {"\t",     "\n",     "\v",     "\f",     "\r",     " ",      "\xc2\x85", "\u00a0", "\u1680",
                                         "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",   "\u2007", "\u2008",
                                         "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
    for (size_t i = 0; i < COUNT(spaces); i++) {
        char text[16], expected[16];
        /* Only white space keeps the last character of a run for what follows. */
        snprintf(text, sizeof text, "1\t%s1", spaces[i]);
        if (*spaces[i] == '\n' || *spaces[i] == '\r')
            snprintf(expected, sizeof expected, "1|\t%s|1", spaces[i]);
        else
            snprintf(expected, sizeof expected, "1|\t|%s|1", spaces[i]);
        expect_pretokens(text, expected);
    }
    expect_pretokens("1\u200b\ufeff\u180e1", "1|\u200b\ufeff\u180e|1"); /* not white space */
}

/* ---- merges ----------------------------------------------------------------------------------------------------- */

enum { MAX_SYMBOLS = 64, MAX_WORD = 40 };

/* The definition: again and again, one pass from left to right over the pair of lowest rank. */
static size_t merge_slowly(uint32_t *symbols, size_t n, const ink_merges *merges) {
    for (;;) {
        size_t best = merges->n_merges;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t rank = 0; rank < best; rank++)
                if (merges->merges[rank].left == symbols[i] && merges->merges[rank].right == symbols[i + 1]) best = rank;
        if (best == merges->n_merges) return n;
        size_t n_new = 0;
        for (size_t i = 0; i < n; i++) {
            bool pair = i + 1 < n && merges->merges[best].left == symbols[i] && merges->merges[best].right == symbols[i + 1];
            symbols[n_new++] = pair ? merges->merges[best].result : symbols[i];
            i += pair;
        }
        n = n_new;
    }
}

/* Random merges over `n_letters` letters; the same string is the same symbol. Then ranks are in no useful order. */
static void make_merges(ink_merges *merges, uint32_t n_letters) {
    char strings[MAX_SYMBOLS][MAX_SYMBOLS] = {{0}};
    uint32_t n_strings = n_letters;
    ink_merge list[MAX_SYMBOLS];
    size_t n = 0;
    for (uint32_t i = 0; i < n_letters; i++) strings[i][0] = (char)('a' + i);
    for (int tries = 0; tries < 30 && n_strings < MAX_SYMBOLS; tries++) {
        char both[2 * MAX_SYMBOLS];
        uint32_t left = random_below(n_strings), right = random_below(n_strings), result = 0;
        snprintf(both, sizeof both, "%s%s", strings[left], strings[right]);
        if (strlen(both) > 8) continue;
        while (result < n_strings && strcmp(strings[result], both) != 0) result++;
        if (result == n_strings) memcpy(strings[n_strings++], both, strlen(both) + 1);
        list[n++] = (ink_merge){left, right, result};
    }
    assert_true(ink_merges_create(merges, n));
    while (n > 0) {
        size_t chosen = random_below((uint32_t)n);
        ink_added added = ink_merges_add(merges, list[chosen]);
        assert_true(added == INK_ADDED || added == INK_ADD_REPEATED);
        list[chosen] = list[--n];
    }
}

static void merges_like_the_definition(void **state) {
    (void)state;
    ink_bpe bpe = {0};
    for (int round = 0; round < 2000; round++) {
        uint32_t n_letters = 1 + random_below(4);
        ink_merges merges;
        make_merges(&merges, n_letters);
        for (int word = 0; word < 20; word++) {
            uint32_t expected[MAX_WORD];
            size_t n = random_below(MAX_WORD + 1);
            assert_true(ink_bpe_reserve(&bpe, n + 1));
            for (size_t i = 0; i < n; i++) bpe.symbols[i] = expected[i] = random_below(n_letters);
            size_t n_found = ink_bpe_apply(&bpe, n, &merges), n_expected = merge_slowly(expected, n, &merges);
            assert_int_equal(n_found, n_expected);
            assert_memory_equal(bpe.symbols, expected, n_found * sizeof *expected);
        }
        ink_merges_destroy(&merges);
    }
    ink_bpe_destroy(&bpe);
}

/* A pair of a lower rank that a merge makes waits until the merge has been done everywhere. */
static void merges_all_occurrences_first(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = parse_good(",\"aa\":300,\"aaa\":301", "#version: 0.2\naa a\na a\n", NULL, NULL);
    expect(tokenizer, "aaa", "301");
    expect(tokenizer, "aaaa", "300 300");
    expect(tokenizer, "aaaaa", "300 301");
    ink_tokenizer_close(&tokenizer);
}

static void long_texts_take_linear_time(void **state) {
    (void)state;
    enum { N = 100000 };
    static const char *const patterns[] = {
        "a", "ab", "abcdefghijklmno", " ", "\n ", "\u0301\u0316", "\uac00\u11a7", "<|im_end|", "'", "1", "🐱"};
    ink_error error;
    ink_tokenizer *tokenizer;
    if (ink_tokenizer_open(&tokenizer, GOLDEN "/tiny/tokenizer", &error) != INK_OK) fail_msg("%s", error.message);
    char *text = malloc(2 * N);
    assert_non_null(text);
    for (size_t i = 0; i <= COUNT(patterns); i++) {
        size_t n = 0;
        if (i < COUNT(patterns))
            while (n < N) n += (size_t)sprintf(text + n, "%s", patterns[i]);
        else { /* marks in the worst order for sorting by exchanges */
            while (n < N / 2) n += (size_t)sprintf(text + n, "\u0301");
            while (n < N) n += (size_t)sprintf(text + n, "\u0316");
        }
        int32_t *ids;
        size_t n_ids;
        double start = cpu_seconds();
        assert_int_equal(ink_tokenizer_encode(tokenizer, text, n, &ids, &n_ids, &error), INK_OK);
        assert_true(n_ids > 0);
        if (cpu_seconds() - start > MAX_CPU_SECONDS) fail_msg("pattern %zu took %.1f s", i, cpu_seconds() - start);
        ink_free(ids);
    }
    free(text);
    ink_tokenizer_close(&tokenizer);
}

/* ---- added tokens ----------------------------------------------------------------------------------------------- */

static void added_tokens_match_longest_first(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = parse_good("", "", NULL,
                                          "{\"<a\":300,\"<a>\":301,\"<a>b<a>\":302,\"cc\":303,\"猫\":304,\"<ax\":305}");
    expect(tokenizer, "<a", "300");
    expect(tokenizer, "<a<a>", "300 301");
    expect(tokenizer, "<a>b<a>", "302");
    expect(tokenizer, "<a>b<a<ax", "301 98 300 305");
    expect(tokenizer, "<<a>b<", "60 301 98 60");
    expect(tokenizer, "xccc猫cc", "120 303 99 304 303");
    expect(tokenizer, "", "");
    assert_int_equal(ink_tokenizer_size(tokenizer), 401);
    ink_tokenizer_close(&tokenizer);
}

static void added_tokens_come_after_normalisation(void **state) {
    (void)state;
    /* U+0338 makes one character of the token's last and itself: nothing is left to match. */
    ink_tokenizer *tokenizer = parse_good("", "", NULL, "{\"<a>\":300,\"éé\":301}");
    expect(tokenizer, "<a>\u0338", "60 97 226 137 175");
    expect(tokenizer, "<a>\u0301", "300 204 129");
    expect(tokenizer, "ée\u0301", "301");
    ink_tokenizer_close(&tokenizer);
}

static void added_tokens_split_the_text(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = parse_good(
        ",\"ab\":256,\"ĠĠ\":258", "a b\nĠ Ġ\n",
        "{\"other\":[1],\"added_tokens_decoder\":{\"300\":{\"content\":\"||\",\"lstrip\":false,\"special\":true}}}",
        "{\"||\":300, \"ab\":256, \"^^\":299}");
    expect(tokenizer, "a||b", "97 300 98");
    expect(tokenizer, "  ||  x", "258 300 32 32 120");
    expect(tokenizer, "'||s", "39 300 115");
    expect(tokenizer, "xab^^^", "120 256 299 94");
    assert_int_equal(ink_tokenizer_id(tokenizer, "||"), 300);
    assert_int_equal(ink_tokenizer_id(tokenizer, "ab"), 256);
    assert_int_equal(ink_tokenizer_id(tokenizer, ""), -1);
    ink_tokenizer_close(&tokenizer);
}

static void encodes_nul_and_every_byte(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = parse_good("", "", NULL, NULL);
    static const int32_t nul[] = {97, 0, 98, 0};
    expect_ids(tokenizer, "a\0b\0", 4, nul, 4);
    /* All bytes that UTF-8 uses below U+0800, in characters that normalisation leaves alone. */
    for (int point = 0; point < 0x800; point++) {
        char text[2] = {(char)point};
        int32_t ids[2];
        size_t n = 1;
        if (point >= 0x80) {
            text[0] = (char)(0xC0 | point >> 6);
            text[1] = (char)(0x80 | (point & 0x3F));
            n = 2;
        }
        char *normal;
        size_t n_normal;
        assert_int_equal(ink_nfc(&normal, &n_normal, text, n, NULL), INK_OK);
        for (size_t i = 0; i < n; i++) ids[i] = (unsigned char)text[i];
        if (n_normal == n && memcmp(normal, text, n) == 0) expect_ids(tokenizer, text, n, ids, n);
        ink_free(normal);
    }
    ink_tokenizer_close(&tokenizer);
}

/* ---- damaged and hostile files ---------------------------------------------------------------------------------- */

typedef struct bad_case {
    const char *more, *merges, *config, *added; /* as for parse() */
    ink_status status;
    const char *sentence; /* a part of what must be said */
} bad_case;

static void refuses_damaged_files(void **state) {
    (void)state;
    static const bad_case cases[] = {
        {"", NULL, NULL, NULL, INK_ERROR_IO, "here/merges.txt: is missing"},
        {",", "", NULL, NULL, INK_ERROR_FORMAT, "here/vocab.json"},
        {",\"a\":300", "", NULL, NULL, INK_ERROR_FORMAT, "here/vocab.json"}, /* the token twice */
        {",\"ab\":97", "", NULL, NULL, INK_ERROR_FORMAT, "here/vocab.json: \"ab\" has the id 97, which another token has"},
        {",\"ab\":-1", "", NULL, NULL, INK_ERROR_FORMAT, "\"ab\" has the id -1"},
        {",\"ab\":16777216", "", NULL, NULL, INK_ERROR_FORMAT, "ids are 0 to 16777215"},
        {",\"ab\":4294967552", "", NULL, NULL, INK_ERROR_FORMAT, "ids are 0 to 16777215"},
        {",\"ab\":9223372036854775807", "", NULL, NULL, INK_ERROR_FORMAT, "ids are 0 to 16777215"},
        {",\"ab\":256.0", "", NULL, NULL, INK_ERROR_FORMAT, "the id of \"ab\" is not an integer"},
        {",\"ab\":null", "", NULL, NULL, INK_ERROR_FORMAT, "the id of \"ab\" is not an integer"},
        {",\"ab\":256", "#version: 0.2\n\na b\nab\n", NULL, NULL, INK_ERROR_FORMAT, "here/merges.txt: line 4: must hold two"},
        {",\"ab\":256", "a  b\n", NULL, NULL, INK_ERROR_FORMAT, "line 1: must hold two"},
        {",\"ab\":256", "a b \n", NULL, NULL, INK_ERROR_FORMAT, "line 1: must hold two"},
        {",\"ab\":256", " ab\n", NULL, NULL, INK_ERROR_FORMAT, "line 1: must hold two"},
        {",\"ab\":256", "ab ", NULL, NULL, INK_ERROR_FORMAT, "line 1: must hold two"},
        {",\"ab\":256", "a b\n#version: 0.2\n", NULL, NULL, INK_ERROR_FORMAT, "line 2: the first symbol"},
        {",\"ab\":256", "a b\r\na b\r\n", NULL, NULL, INK_ERROR_FORMAT, "line 2: the same merge"},
        {",\"ab\":256", "abc b\n", NULL, NULL, INK_ERROR_FORMAT, "line 1: the first symbol is not in vocab.json"},
        {",\"ab\":256", "a \xff\n", NULL, NULL, INK_ERROR_FORMAT, "line 1: the second symbol is not in vocab.json"},
        {",\"ab\":256", "b a", NULL, NULL, INK_ERROR_FORMAT, "line 1: the two symbols together are not in vocab.json"},
        {"", "a b\n", NULL, "{\"ab\":256}", INK_ERROR_FORMAT, "line 1: the two symbols together"},
        {"", "", "[]", NULL, INK_ERROR_FORMAT, "here/tokenizer_config.json"},
        {"", "", "{\"added_tokens_decoder\":[]}", NULL, INK_ERROR_FORMAT, "must be an object"},
        {"", "", "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", NULL, INK_ERROR_FORMAT, "\"x\" is not an id"},
        {"", "", "{\"added_tokens_decoder\":{\"\":{\"content\":\"y\"}}}", NULL, INK_ERROR_FORMAT, "\"\" is not an id"},
        {"", "", "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"y\"}}}", NULL, INK_ERROR_FORMAT, "\"-1\" is not an id"},
        {"", "", "{\"added_tokens_decoder\":{\"18446744073709551916\":{\"content\":\"yy\"}}}", NULL, INK_ERROR_FORMAT,
         "is not an id"},
        {"", "", "{\"added_tokens_decoder\":{\"16777216\":{\"content\":\"yy\"}}}", NULL, INK_ERROR_FORMAT, "ids are 0 to 16777215"},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{}}}", NULL, INK_ERROR_FORMAT, "the token 300 has no string \"content\""},
        {"", "", "{\"added_tokens_decoder\":{\"300\":7}}", NULL, INK_ERROR_FORMAT, "the token 300 has no string \"content\""},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"\"}}}", NULL, INK_ERROR_FORMAT, "has 0 bytes"},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"xy\",\"lstrip\":true}}}", NULL, INK_ERROR_UNSUPPORTED,
         "\"lstrip\""},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"xy\",\"rstrip\":1}}}", NULL, INK_ERROR_UNSUPPORTED,
         "\"rstrip\""},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"xy\",\"single_word\":true}}}", NULL, INK_ERROR_UNSUPPORTED,
         "\"single_word\" of the token 300"},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"xy\"},\"0300\":{\"content\":\"yx\"}}}", NULL, INK_ERROR_FORMAT,
         "which another token has"},
        {"", "", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"xy\"}}}", "{\"xy\":301}", INK_ERROR_FORMAT,
         "here/added_tokens.json: \"xy\" has the id 301 here and 300 elsewhere"},
        {"", "", NULL, "{\"a\":301}", INK_ERROR_FORMAT, "\"a\" has the id 301 here and 97 elsewhere"},
        {"", "", NULL, "{\"xy\":97}", INK_ERROR_FORMAT, "which another token has"},
        {"", "", NULL, "{\"xy\":\"300\"}", INK_ERROR_FORMAT, "the id of \"xy\" is not an integer"},
        {"", "", NULL, "{\"xy\":300", INK_ERROR_FORMAT, "here/added_tokens.json"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ink_error error;
        ink_tokenizer *tokenizer = (ink_tokenizer *)&error;
        ink_status status = parse(&tokenizer, cases[i].more, cases[i].merges, cases[i].config, cases[i].added, &error);
        if (status != cases[i].status || error.status != status || !strstr(error.message, cases[i].sentence))
            fail_msg("case %zu: expected \"%s\", found %s \"%s\"", i, cases[i].sentence, ink_status_name(status), error.message);
        assert_null(tokenizer);
        status = parse(&tokenizer, cases[i].more, cases[i].merges, cases[i].config, cases[i].added, NULL);
        assert_int_equal(status, cases[i].status);
    }
}

static void refuses_a_missing_byte(void **state) {
    (void)state;
    for (int byte = 0; byte < 256; byte++) {
        char sentence[64];
        char *vocab = make_vocab(byte, "");
        ink_error error;
        ink_tokenizer *tokenizer;
        ink_tokenizer_files files = {.folder = "here", .vocab = file_of(vocab), .merges = file_of("")};
        assert_int_equal(ink_tokenizer_parse(&tokenizer, &files, &error), INK_ERROR_FORMAT);
        snprintf(sentence, sizeof sentence, "which stands for the byte 0x%02X", (unsigned)byte);
        if (!strstr(error.message, sentence)) fail_msg("%s, expected %s", error.message, sentence);
        free(vocab);
    }
}

static void accepts_what_is_unusual(void **state) {
    (void)state;
    /* No header, CR LF, empty lines, no line end at the end; gaps between ids; tokens that no merge makes. */
    ink_tokenizer *tokenizer = parse_good(",\"ab\":16777215,\"abc\":5000,\"\":700,\"not bytes 猫\":701", "a b\r\n\r\n\n\nab c",
                                          "{\"added_tokens_decoder\":null,\"x\":{}}", "{}");
    expect(tokenizer, "abcab", "5000 16777215");
    assert_int_equal(ink_tokenizer_size(tokenizer), 16777216);
    ink_tokenizer_close(&tokenizer);
    ink_tokenizer_close(&tokenizer);

    tokenizer = parse_good("", "", NULL, NULL);
    expect(tokenizer, "ab", "97 98");
    ink_tokenizer_close(&tokenizer);

    /* A merge may look like the header, but not on the first line. */
    tokenizer = parse_good(",\"#v\":300", "\n# v\n", NULL, NULL);
    expect(tokenizer, "#v", "300");
    expect(tokenizer, "##v", "35 35 118");
    ink_tokenizer_close(&tokenizer);
}

static void bounds_the_length_of_added_tokens(void **state) {
    (void)state;
    for (int n = 1024; n <= 1025; n++) {
        char added[1100], text[1026];
        ink_tokenizer *tokenizer;
        memset(text, 'x', (size_t)n);
        text[n] = '\0';
        snprintf(added, sizeof added, "{\"%s\":300}", text);
        assert_int_equal(parse(&tokenizer, "", "", NULL, added, NULL), n == 1024 ? INK_OK : INK_ERROR_FORMAT);
        if (tokenizer) expect(tokenizer, text, "300");
        ink_tokenizer_close(&tokenizer);
    }
}

/* Tokens and merges that begin their search at the same few slots. */
static void refuses_tables_made_to_collide(void **state) {
    (void)state;
    enum { N = 300, TABLE = 1024 };
    ink_token_table tokens;
    assert_true(ink_token_table_create(&tokens, N, N * 8));
    assert_int_equal(tokens.slot_mask, TABLE - 1);
    int n_tokens = 0;
    bool added = true;
    for (int i = 0; added && n_tokens < N; i++) {
        char token[8];
        int length = snprintf(token, sizeof token, "%x", (unsigned)i);
        if ((ink_token_hash(token, (size_t)length, NULL, 0) & (TABLE - 1)) >= 8) continue;
        added = ink_token_table_add(&tokens, token, (size_t)length, i) == INK_ADDED;
        n_tokens += added;
        assert_true(!added || ink_token_table_find(&tokens, token, (size_t)length, NULL, 0) == (uint32_t)n_tokens - 1);
    }
    assert_in_range(n_tokens, INK_MAX_PROBES - 8, INK_MAX_PROBES + 8);
    ink_token_table_destroy(&tokens);

    ink_merges merges;
    ink_added outcome = INK_ADDED;
    assert_true(ink_merges_create(&merges, N));
    for (uint32_t i = 0; outcome == INK_ADDED; i++)
        if ((ink_mix_bits((uint64_t)i << 32 | 7) & (TABLE - 1)) < 8) outcome = ink_merges_add(&merges, (ink_merge){i, 7, 0});
    assert_int_equal(outcome, INK_ADD_REFUSED);
    assert_in_range(merges.n_merges, INK_MAX_PROBES - 8, INK_MAX_PROBES + 8);
    ink_merges_destroy(&merges);
}

static void says_when_tokens_collide(void **state) {
    (void)state;
    enum { N = 256, TABLE = 2048 };
    char more[N * 24], *at = more;
    /* The table of these and the byte symbols has TABLE slots. */
    for (int i = 0, n = 0; n < N; i++) {
        char token[16];
        int length = snprintf(token, sizeof token, "_%x_", (unsigned)i);
        if ((ink_token_hash(token, (size_t)length, NULL, 0) & (TABLE - 1)) >= 4) continue;
        at += sprintf(at, ",\"%s\":%d", token, 1000 + n++);
    }
    ink_error error;
    ink_tokenizer *tokenizer;
    assert_int_equal(parse(&tokenizer, more, "", NULL, NULL, &error), INK_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "too many tokens collide"));
}

/* ---- files on disk ---------------------------------------------------------------------------------------------- */

typedef struct folder {
    char path[64], file[128];
} folder;

static void make_folder(folder *f) {
    strcpy(f->path, "/tmp/test_tokenizer_XXXXXX");
    assert_non_null(mkdtemp(f->path));
}

static const char *in_folder(folder *f, const char *name) {
    snprintf(f->file, sizeof f->file, "%s/%s", f->path, name);
    return f->file;
}

static void write_file(folder *f, const char *name, const char *text) {
    FILE *file = fopen(in_folder(f, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void remove_folder(folder *f) {
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"};
    for (size_t i = 0; i < COUNT(names); i++)
        if (remove(in_folder(f, names[i])) != 0) assert_int_equal(errno, ENOENT);
    assert_int_equal(rmdir(f->path), 0);
}

static void expect_open_fails(folder *f, ink_status status, const char *sentence) {
    ink_error error;
    ink_tokenizer *tokenizer;
    assert_int_equal(ink_tokenizer_open(&tokenizer, f->path, &error), status);
    if (!strstr(error.message, sentence)) fail_msg("%s, expected %s", error.message, sentence);
    assert_null(tokenizer);
}

static void opens_a_folder(void **state) {
    (void)state;
    folder f;
    ink_error error;
    ink_tokenizer *tokenizer;
    char *vocab = make_vocab(NO_BYTE, ",\"ab\":256");
    make_folder(&f);
    expect_open_fails(&f, INK_ERROR_IO, "vocab.json");
    write_file(&f, "vocab.json", vocab);
    expect_open_fails(&f, INK_ERROR_IO, "merges.txt");
    write_file(&f, "merges.txt", "a b\n");
    assert_int_equal(ink_tokenizer_open(&tokenizer, f.path, &error), INK_OK);
    expect(tokenizer, "ab|", "256 124");
    ink_tokenizer_close(&tokenizer);
    write_file(&f, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"300\":{\"content\":\"||\"}}}");
    write_file(&f, "added_tokens.json", "{\"+-\":301}");
    assert_int_equal(ink_tokenizer_open(&tokenizer, f.path, &error), INK_OK);
    assert_int_equal(error.status, INK_OK);
    expect(tokenizer, "ab||+-", "256 300 301");
    ink_tokenizer_close(&tokenizer);
    write_file(&f, "vocab.json", "");
    expect_open_fails(&f, INK_ERROR_FORMAT, "vocab.json");
    remove_folder(&f);
    expect_open_fails(&f, INK_ERROR_IO, "vocab.json");
    free(vocab);
}

static void refuses_what_is_no_file_or_too_long(void **state) {
    (void)state;
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"};
    char *vocab = make_vocab(NO_BYTE, "");
    folder f;
    make_folder(&f);
    for (size_t i = 0; i < COUNT(names); i++) {
        write_file(&f, "vocab.json", vocab);
        write_file(&f, "merges.txt", "");
        write_file(&f, "tokenizer_config.json", "{}");
        write_file(&f, "added_tokens.json", "{}");
        assert_int_equal(truncate(in_folder(&f, names[i]), (64 << 20) + 1), 0);
        expect_open_fails(&f, INK_ERROR_FORMAT, names[i]);
        assert_int_equal(remove(in_folder(&f, names[i])), 0);
        assert_int_equal(mkdir(in_folder(&f, names[i]), 0700), 0);
        expect_open_fails(&f, INK_ERROR_IO, names[i]);
        assert_int_equal(rmdir(in_folder(&f, names[i])), 0);
    }
    remove_folder(&f);
    free(vocab);
}

/* ---- memory runs out -------------------------------------------------------------------------------------------- */

static long json_allowed = -1; /* more allocations of jansson that succeed; negative: all */

static void *json_malloc(size_t size) {
    if (json_allowed == 0) return NULL;
    if (json_allowed > 0) json_allowed--;
    return malloc(size);
}

/* Opens the folder and encodes; what was allocated is given back in any case. */
static ink_status open_and_encode(const char *path, ink_error *error) {
    static const char text[] =
        "a text, e\u0301\u0323\u0301 <|im_start|> with a_word_that_is_longer_than_sixty_four_bytes_so_that_the_workspace_grows";
    ink_tokenizer *tokenizer;
    int32_t *ids = NULL;
    size_t n = 0;
    ink_status status = ink_tokenizer_open(&tokenizer, path, error);
    if (status == INK_OK) status = ink_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &n, error);
    assert_true((status == INK_OK) == (ids != NULL) && (status == INK_OK) == (n > 0));
    assert_true(error->status == status && (status == INK_OK) == (error->message[0] == '\0'));
    ink_free(ids);
    ink_tokenizer_close(&tokenizer);
    return status;
}

static void survives_every_failing_allocation(void **state) {
    (void)state;
    static const char path[] = GOLDEN "/tiny/tokenizer";
    ink_error error;
    ink_status status = INK_ERROR_MEMORY;
    int64_t n = 0;
    for (; status != INK_OK; n++) {
        ink_alloc_fail_after(n);
        status = open_and_encode(path, &error);
        ink_alloc_fail_after(-1);
        if (status != INK_OK && status != INK_ERROR_MEMORY) fail_msg("allocation %d: %s", (int)n, error.message);
    }
    assert_true(n > 20);
}

static void survives_every_failing_allocation_of_json(void **state) {
    (void)state;
    static const char path[] = GOLDEN "/tiny/tokenizer";
    ink_error error;
    ink_status status = INK_ERROR_MEMORY;
    long n = 0;
    json_set_alloc_funcs(json_malloc, free);
    for (; status != INK_OK; n++) {
        json_allowed = n;
        status = open_and_encode(path, &error);
        /* Where a string cannot be allocated jansson says that the text is damaged. */
        bool taken_for_damage = status == INK_ERROR_FORMAT && strstr(error.message, "is not valid JSON");
        if (status != INK_OK && status != INK_ERROR_MEMORY && !taken_for_damage) break;
    }
    json_allowed = -1;
    json_set_alloc_funcs(malloc, free);
    if (status != INK_OK) fail_msg("allocation %ld: %s", n, error.message);
    assert_true(n > 1000);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void *encode_often(void *argument) {
    const ink_tokenizer *tokenizer = argument;
    static const char text[] = "a cat <|im_end|> and 1234 dogs, e\u0301tude";
    int32_t *first = NULL;
    size_t n_first = 0;
    bool same = ink_tokenizer_encode(tokenizer, text, sizeof text - 1, &first, &n_first, NULL) == INK_OK;
    for (int i = 0; same && i < 200; i++) {
        int32_t *ids;
        size_t n;
        same = ink_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &n, NULL) == INK_OK && n == n_first &&
               memcmp(ids, first, n * sizeof *ids) == 0;
        ink_free(ids);
    }
    ink_free(first);
    return same ? argument : NULL;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    ink_tokenizer *tokenizer;
    pthread_t threads[4];
    assert_int_equal(ink_tokenizer_open(&tokenizer, GOLDEN "/tiny/tokenizer", NULL), INK_OK);
    for (size_t i = 0; i < COUNT(threads); i++) assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, tokenizer);
    }
    ink_tokenizer_close(&tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normalises),
        cmocka_unit_test(names_the_offset_of_invalid_utf8),
        cmocka_unit_test(refuses_a_text_too_long),
        cmocka_unit_test(cuts_contractions),
        cmocka_unit_test(cuts_words_and_numbers),
        cmocka_unit_test(cuts_punctuation),
        cmocka_unit_test(cuts_white_space),
        cmocka_unit_test(merges_like_the_definition),
        cmocka_unit_test(merges_all_occurrences_first),
        cmocka_unit_test(long_texts_take_linear_time),
        cmocka_unit_test(added_tokens_match_longest_first),
        cmocka_unit_test(added_tokens_come_after_normalisation),
        cmocka_unit_test(added_tokens_split_the_text),
        cmocka_unit_test(encodes_nul_and_every_byte),
        cmocka_unit_test(refuses_damaged_files),
        cmocka_unit_test(refuses_a_missing_byte),
        cmocka_unit_test(accepts_what_is_unusual),
        cmocka_unit_test(bounds_the_length_of_added_tokens),
        cmocka_unit_test(refuses_tables_made_to_collide),
        cmocka_unit_test(says_when_tokens_collide),
        cmocka_unit_test(opens_a_folder),
        cmocka_unit_test(refuses_what_is_no_file_or_too_long),
        cmocka_unit_test(survives_every_failing_allocation),
        cmocka_unit_test(survives_every_failing_allocation_of_json),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(recorded_cases_of_small_vocabularies),
        cmocka_unit_test(recorded_cases_of_the_published_vocabulary),
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(published_edit_prefix_has_64_tokens),
        cmocka_unit_test(published_folder_opens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
