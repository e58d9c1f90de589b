/* test_cli_options.c - the option parser: every way to write an option, and every way to write it wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli_commands.h"

enum { MOST_WORDS = 16 };

/* Words parted by single spaces; '_' stands for a space inside a word. */
static ink_status parse(cli_options *options, const char *name, const char *line, ink_error *error) {
    static char text[512];
    char *words[MOST_WORDS];
    int n = 0;
    memset(error, 0, sizeof *error);
    assert_true(strlen(line) < sizeof text);
    memcpy(text, line, strlen(line) + 1);
    for (char *word = text; *word;) {
        assert_true(n < MOST_WORDS);
        words[n++] = word;
        word += strcspn(word, " ");
        if (*word) *word++ = 0;
    }
    for (size_t i = 0; i < sizeof text; i++)
        if (text[i] == '_') text[i] = ' ';
    return cli_options_parse(options, cli_find_command(name), n, words, error);
}

static void accept(cli_options *options, const char *name, const char *line) {
    ink_error error;
    assert_int_equal(parse(options, name, line, &error), INK_OK);
}

static void refuse(const char *name, const char *line, const char *part_of_sentence) {
    cli_options options;
    ink_error error;
    assert_int_equal(parse(&options, name, line, &error), INK_ERROR_ARGUMENT);
    if (!strstr(error.message, part_of_sentence)) fail_msg("%s: \"%s\" lacks \"%s\"", line, error.message, part_of_sentence);
}

static void test_forms(void **state) {
    (void)state;
    cli_options options;
    static const char *const same[] = {"-p a_b -W 512 -q", "--prompt a_b --width 512 --quiet", "--prompt=a_b --width=512 -q",
                                       "-qpa_b -W512", "-qW512 -pa_b"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        accept(&options, "generate", same[i]);
        assert_string_equal(options.given[CLI_PROMPT], "a b");
        assert_int_equal(options.request.width, 512);
        assert_non_null(options.given[CLI_QUIET]);
        assert_null(options.given[CLI_HEIGHT]);
    }
    accept(&options, "generate", "-p -W -S 18446744073709551615");
    assert_string_equal(options.given[CLI_PROMPT], "-W"); /* a value may begin with a dash */
    assert_true(options.request.seed == UINT64_MAX);
    accept(&options, "generate", "-W 16 -W 32 -S random");
    assert_int_equal(options.request.width, 32); /* the last one counts */
    assert_true(options.random_seed);
    accept(&options, "tokenize", "-- --json");
    assert_string_equal(options.operand, "--json");
    assert_null(options.given[CLI_JSON]);
    accept(&options, "tokenize", "-");
    assert_string_equal(options.operand, "-");
    accept(&options, "generate", "--help --nonsense");
}

static void test_mistakes(void **state) {
    (void)state;
    refuse("generate", "--heigth 5", "did you mean --height?");
    refuse("generate", "-x", "unknown option -x");
    refuse("generate", "-qx", "unknown option -qx");
    refuse("generate", "-W", "-W needs a value: -W PIXELS");
    refuse("generate", "--rng", "--rng needs a value");
    refuse("generate", "--json=1", "takes no value");
    refuse("generate", "-W 12px", "-W 12px: expected a whole number");
    refuse("generate", "-s 1e3", "whole number");
    refuse("generate", "-g four", "-g four: expected a number");
    refuse("generate", "-S -1", "from 0 to 18446744073709551615");
    refuse("generate", "-t 0", "threads");
    refuse("generate", "--precision f16", "f32, bf16, fp8, q8, q4, int8 or auto");
    refuse("generate", "--noise-dtype f64", "f32, bf16 or auto");
    refuse("generate", "--output=", "expected a name");
    refuse("generate", "a_red_circle", "give the prompt with -p");
    refuse("generate", "-n x --no-negative", "contradict");
    refuse("tokenize", "a b", "more than one TEXT");
    refuse("tokenize", "-x", "put -- before");
    refuse("tokenize", "-W 5 x", "unknown option -W");
    refuse("inspect", "somewhere", "unexpected argument");
}

static void test_rng(void **state) {
    (void)state;
    cli_options options;
    static const char *const bad[] = {"",
                                      "torch",
                                      "torch-cuda:",
                                      "torch-cuda:0",
                                      "torch-cuda:-1",
                                      "torch-cpu:1",
                                      "torch-cuda:82x",
                                      "torch-cuda:82x0",
                                      "torch-cuda:82x1536x",
                                      "torch-cuda:99999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[64] = "--rng=";
        memcpy(line + 6, bad[i], strlen(bad[i]) + 1);
        refuse("generate", line, "torch-cpu");
    }
    ink_request request = {.cuda_sms = 132, .cuda_threads_per_sm = 2048};
    accept(&options, "generate", "--rng torch-cuda:82x1536");
    cli_options_apply(&options, CLI_RNG, &request);
    assert_true(request.rng == INK_RNG_TORCH_CUDA && request.cuda_sms == 82 && request.cuda_threads_per_sm == 1536);
    accept(&options, "generate", "--rng torch-cuda:108");
    cli_options_apply(&options, CLI_RNG, &request);
    assert_true(request.cuda_sms == 108 && request.cuda_threads_per_sm == 2048);
    accept(&options, "generate", "--rng torch-cpu-2.13");
    cli_options_apply(&options, CLI_RNG, &request);
    assert_true(request.rng == INK_RNG_TORCH_CPU_2_13 && request.cuda_sms == 108);
    accept(&options, "generate", "--rng torch-cpu");
    cli_options_apply(&options, CLI_RNG, &request);
    assert_true(request.rng == INK_RNG_TORCH_CPU);
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const names[] = {"generate", "tokenize", "inspect", "verify", "help", NULL};
    assert_string_equal(cli_nearest_name("tokenise", names), "tokenize");
    assert_string_equal(cli_nearest_name("genrate", names), "generate");
    assert_null(cli_nearest_name("circle", names));
    assert_null(cli_nearest_name("", names));
    assert_null(cli_nearest_name("a word that is longer than any name there is", names));
}

/* Help must know every option, and no two options of one command may share a letter. */
static void test_table(void **state) {
    (void)state;
    bool listed[CLI_N_OPTIONS] = {false};
    for (const cli_command *command = cli_command_table; command->name; command++) {
        char letters[CLI_N_OPTIONS + 1] = "";
        for (const cli_option_id *id = command->options; *id != CLI_N_OPTIONS; id++) {
            const cli_option *option = &cli_option_table[*id];
            listed[*id] = true;
            assert_true(option->name && option->help && *option->help);
            if (!option->letter) continue;
            assert_null(strchr(letters, option->letter));
            letters[strlen(letters)] = option->letter;
        }
    }
    for (int i = 0; i < CLI_N_OPTIONS; i++) assert_true(listed[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_mistakes), cmocka_unit_test(test_rng),
                                       cmocka_unit_test(test_nearest), cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
