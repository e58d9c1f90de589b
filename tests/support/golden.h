/* golden.h - the tiny checkpoints of tests/golden and the references that were recorded with them. */
#ifndef INK_TEST_GOLDEN_H
#define INK_TEST_GOLDEN_H

#include <stddef.h>

#include "support/files.h"

#define TEST_GOLDEN INK_TEST_SOURCE_DIR "/tests/golden/"

typedef struct test_reference {
    char model[TEST_PATH]; /* the checkpoint folder */
    char path[TEST_PATH];  /* of the reference */
    char name[64];         /* "tiny/ref_plain" */
} test_reference;

enum { TEST_MAX_REFERENCES = 64 };

/* Fills references, by name, and returns their number. */
size_t test_find_references(test_reference references[TEST_MAX_REFERENCES]);

#endif
