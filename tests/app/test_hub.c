/* test_hub.c - the parts of a pull that need no server: names, addresses, header lines, hashes, the record. */
#define _XOPEN_SOURCE 700 /* mkdtemp, setenv */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "hub/hub_client.h"
#include "hub/hub_digest.h"
#include "hub/hub_listing.h"

static const char commit[] = "0123456789abcdef0123456789abcdef01234567";

static void test_paths(void **state) {
    (void)state;
    char longest[514];
    static const char *const safe[] = {"a", "vae/config.json", "a/b/c/d.json", "..a", ".gitattributes", "a b/\303\251", "partial"};
    static const char *const unsafe[] = {"",
                                         "/a",
                                         "a/",
                                         "a//b",
                                         ".",
                                         "..",
                                         "a/..",
                                         "../a",
                                         "a/../b",
                                         "a/./b",
                                         "a\\b",
                                         "C:a",
                                         "a\nb",
                                         "a\033[0m",
                                         "a\177",
                                         ".partial",
                                         "x.partial",
                                         "vae/x.partial",
                                         "inkstone-pull.json",
                                         ".inkstone-pull.lock"};
    for (size_t i = 0; i < sizeof safe / sizeof *safe; i++)
        if (!app_pull_path_is_safe(safe[i])) fail_msg("%s", safe[i]);
    for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++)
        if (app_pull_path_is_safe(unsafe[i])) fail_msg("%s", unsafe[i]);
    memset(longest, 'a', sizeof longest - 1);
    longest[513] = 0;
    for (size_t i = 100; i < 513; i += 100) longest[i] = '/';
    assert_false(app_pull_path_is_safe(longest));
    longest[512] = 0;
    assert_true(app_pull_path_is_safe(longest));
    longest[100] = longest[200] = 'a';
    assert_false(app_pull_path_is_safe(longest)); /* a part that no file system takes */
}

static void test_repos(void **state) {
    (void)state;
    static const char *const bad[] = {"",       "a",    "a/",   "/a",    "a/b/c", "../b",  "a/..",
                                      "a/b..c", "-a/b", "a/.b", "a b/c", "a/b?c", "a/b%2e"};
    assert_true(app_repo_is_valid("Qwen/Qwen-Image-2512"));
    assert_true(app_repo_is_valid("a_b/v1.5"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (app_repo_is_valid(bad[i])) fail_msg("%s", bad[i]);
    char *name = app_repo_short_name("Qwen/Qwen-Image-2512");
    assert_string_equal(name, "qwen-image-2512");
    free(name);
}

static bool read_range(hub_range *range, const char *line) {
    *range = (hub_range){0};
    hub_range_read_header(range, line, strlen(line));
    return range->given;
}

static void test_ranges(void **state) {
    (void)state;
    hub_range range;
    static const char *const bad[] = {"Content-Range: bytes 9-5/10\r\n",
                                      "Content-Range: bytes 5-9/9\r\n",
                                      "Content-Range: bytes */10\r\n",
                                      "Content-Range: bytes 5-9/10x\r\n",
                                      "Content-Range: bytes -5-9/10\r\n",
                                      "Content-Range: items 5-9/10\r\n",
                                      "Content-Range: bytes 5-9/99999999999999999999\r\n",
                                      "Content-Length: bytes 5-9/10\r\n",
                                      "Content-Range: bytes 5-9",
                                      "Content-Range:",
                                      ""};
    assert_true(read_range(&range, "content-RANGE:  bytes 5-9/10\r\n"));
    assert_true(range.first == 5 && range.last == 9 && range.total == 10);
    assert_true(read_range(&range, "Content-Range: bytes 0-0/*"));
    assert_true(range.first == 0 && range.last == 0 && range.total == -1);
    hub_range_read_header(&range, "HTTP/1.1 200 OK\r\n", 17);
    assert_false(range.given);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (read_range(&range, bad[i])) fail_msg("%s", bad[i]);
}

/* ---- addresses ---- */

static void find_endpoint(hub_endpoint *endpoint, const char *url) {
    ink_error error = {0};
    setenv("HF_ENDPOINT", url, 1);
    if (hub_endpoint_find(endpoint, &error) != INK_OK) fail_msg("%s: %s", url, error.message);
}

static void test_endpoints(void **state) {
    (void)state;
    hub_endpoint endpoint;
    ink_error error = {0};
    static const char *const bad[] = {"huggingface.co", "ftp://a",    "https://",    "http://a@b",
                                      "http://a?b",     "http://a b", "https://a\nb"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("HF_ENDPOINT", bad[i], 1);
        if (hub_endpoint_find(&endpoint, &error) != INK_ERROR_ARGUMENT) fail_msg("%s", bad[i]);
    }
    find_endpoint(&endpoint, "");
    assert_string_equal(endpoint.url, "https://huggingface.co");
    assert_true(endpoint.https && !endpoint.loopback);
    assert_true(hub_may_follow(&endpoint, "https://elsewhere.example/x"));
    assert_false(hub_may_follow(&endpoint, "http://huggingface.co/x"));
    assert_true(hub_is_endpoint(&endpoint, "HTTPS://HuggingFace.co:443/x"));
    assert_false(hub_is_endpoint(&endpoint, "http://huggingface.co/x"));
    assert_false(hub_is_endpoint(&endpoint, "https://huggingface.co:444/x"));
    assert_false(hub_is_endpoint(&endpoint, "https://huggingface.co.example/x"));
    assert_false(hub_is_endpoint(&endpoint, "https://huggingface.co@example/x"));
    char *url = hub_listing_url(&endpoint, "a/b", "refs/pr/1?");
    assert_string_equal(url, "https://huggingface.co/api/models/a/b/revision/refs%2Fpr%2F1%3F?blobs=true");
    free(url);
    url = hub_file_url(&endpoint, "a/b", commit, "vae/x #1.json");
    assert_string_equal(url, "https://huggingface.co/a/b/resolve/0123456789abcdef0123456789abcdef01234567/vae/x%20%231.json");
    free(url);
    hub_endpoint_clear(&endpoint);
    find_endpoint(&endpoint, "http://localhost:8080/hub//");
    assert_string_equal(endpoint.url, "http://localhost:8080/hub");
    assert_true(!endpoint.https && endpoint.loopback);
    assert_true(hub_may_follow(&endpoint, "http://elsewhere.example/x"));
    assert_false(hub_may_follow(&endpoint, "file:///etc/passwd"));
    hub_endpoint_clear(&endpoint);
    find_endpoint(&endpoint, "http://mirror.example");
    assert_true(!endpoint.https && !endpoint.loopback);
    hub_endpoint_clear(&endpoint);
    unsetenv("HF_ENDPOINT");
}

static void expect_token(const char *expected) {
    hub_endpoint endpoint;
    find_endpoint(&endpoint, "");
    if (expected)
        assert_string_equal(endpoint.token, expected);
    else
        assert_null(endpoint.token);
    hub_endpoint_clear(&endpoint);
}

static void test_tokens(void **state) {
    (void)state;
    char folder[] = "/tmp/inkstone-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/token", folder);
    setenv("HF_HOME", folder, 1);
    unsetenv("HF_TOKEN");
    unsetenv("HF_TOKEN_PATH");
    unsetenv("HUGGING_FACE_HUB_TOKEN");
    expect_token(NULL);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("hf_file \r\n", file);
    fclose(file);
    expect_token("hf_file");
    setenv("HF_TOKEN_PATH", "/nonexistent", 1);
    expect_token(NULL);
    setenv("HUGGING_FACE_HUB_TOKEN", "hf_old", 1);
    expect_token("hf_old");
    setenv("HF_TOKEN", "hf_new", 1);
    expect_token("hf_new");
    unsetenv("HF_TOKEN");
    unsetenv("HUGGING_FACE_HUB_TOKEN");
    unlink(path);
    rmdir(folder);
}

/* ---- hashes, lists, records ---- */

static void check_digest(const app_pull_file *file, const char *text, bool expected) {
    hub_digest *digest = hub_digest_create(file);
    assert_non_null(digest);
    assert_true(hub_digest_add(digest, "noise", 5) && hub_digest_restart(digest));
    for (const char *c = text; *c; c++) assert_true(hub_digest_add(digest, c, 1));
    assert_int_equal(hub_digest_matches(digest), expected);
    hub_digest_destroy(&digest);
    hub_digest_destroy(&digest);
}

static void test_digests(void **state) {
    (void)state;
    app_pull_file sha256 = {.size = 3, .sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"};
    app_pull_file git = {.size = 6, .git_sha1 = "ce013625030ba8dba906f756967f9e9ca394464a"}; /* git hash-object */
    check_digest(&sha256, "abc", true);
    check_digest(&sha256, "abd", false);
    check_digest(&git, "hello\n", true);
    check_digest(&git, "hello", false);
}

static void test_patterns(void **state) {
    (void)state;
    assert_true(hub_matches_pattern("vae/config.json", "*.json"));
    assert_true(hub_matches_pattern("vae/config.json", "config.*"));
    assert_true(hub_matches_pattern("vae/config.json", "vae/*"));
    assert_true(hub_matches_pattern("vae/model-q4.safetensors", "model-q4*"));
    assert_false(hub_matches_pattern("vae/config.json", "config"));
}

static void test_record(void **state) {
    (void)state;
    char folder[] = "/tmp/inkstone-test-XXXXXX", path[64];
    ink_error error = {0};
    app_pull_record again;
    char repo[] = "a/b", revision[] = "main", name[] = "vae/x", other[] = "y";
    app_pull_file files[] = {{.path = name, .size = 5, .done = true, .ours = true, .wanted = true},
                             {.path = other, .size = 0, .ours = true, .wanted = true}};
    app_pull_record record = {.repo = repo, .revision = revision, .n_needed = 3, .files = files, .n_files = 2};
    memset(files[0].sha256, 'a', 64);
    memset(files[1].git_sha1, 'b', 40);
    memcpy(record.commit, commit, sizeof commit);
    assert_non_null(mkdtemp(folder));
    assert_int_equal(app_pull_record_load(&again, folder, &error), INK_OK);
    assert_null(again.repo);
    assert_int_equal(app_pull_record_save(&record, folder, &error), INK_OK);
    assert_int_equal(app_pull_record_load(&again, folder, &error), INK_OK);
    assert_string_equal(again.repo, "a/b");
    assert_string_equal(again.commit, commit);
    assert_int_equal(again.n_needed, 3);
    assert_int_equal(again.n_files, 2);
    for (size_t i = 0; i < 2; i++) {
        const app_pull_file *file = app_pull_record_find(&again, files[i].path);
        assert_non_null(file);
        assert_true(app_pull_same_content(file, &files[i]));
        assert_true(file->done == files[i].done && file->ours == files[i].ours && file->wanted == files[i].wanted);
    }
    assert_null(app_pull_record_find(&again, "z"));
    assert_int_equal(app_pull_record_missing(&again, folder), 2); /* the one that is done is not there */
    app_pull_record_clear(&again);
    snprintf(path, sizeof path, "%s/" APP_PULL_RECORD_NAME, folder);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* no other file was left */
    assert_int_equal(app_pull_record_save(&record, folder, &error), INK_ERROR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_paths),    cmocka_unit_test(test_repos),
                                       cmocka_unit_test(test_ranges),   cmocka_unit_test(test_endpoints),
                                       cmocka_unit_test(test_tokens),   cmocka_unit_test(test_digests),
                                       cmocka_unit_test(test_patterns), cmocka_unit_test(test_record)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
