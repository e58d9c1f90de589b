/* words.c - looking for words. */
#include "support/words.h"

#include <stdio.h>
#include <string.h>

const char *test_missing_word(const char *sentence, const char *words) {
    static _Thread_local char word[200];
    while (*words) {
        size_t n = strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, words);
        if (!strstr(sentence, word)) return word;
        words += n + (words[n] == '|');
    }
    return NULL;
}
