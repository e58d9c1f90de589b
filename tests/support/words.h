/* words.h - looking for what an error sentence has to say. */
#ifndef INK_TEST_WORDS_H
#define INK_TEST_WORDS_H

/* words: "width|500|multiple of 16". NULL when the sentence holds all of them, else the first that it lacks. */
const char *test_missing_word(const char *sentence, const char *words);

#endif
