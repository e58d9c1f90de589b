/* golden.c - finding the references. */
#define _XOPEN_SOURCE 700
#include "support/golden.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char pattern[] = TEST_GOLDEN "*/ref_*.safetensors", ending[] = ".safetensors";

size_t test_find_references(test_reference references[TEST_MAX_REFERENCES]) {
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0 || found.gl_pathc > TEST_MAX_REFERENCES) {
        fprintf(stderr, "test: %s: none, or more than %d\n", pattern, TEST_MAX_REFERENCES);
        abort();
    }
    size_t n = found.gl_pathc;
    for (size_t i = 0; i < n; i++) {
        test_reference *reference = &references[i];
        const char *path = found.gl_pathv[i], *name = path + strlen(TEST_GOLDEN);
        snprintf(reference->path, sizeof reference->path, "%s", path);
        snprintf(reference->model, sizeof reference->model, "%.*s", (int)(strrchr(path, '/') - path), path);
        snprintf(reference->name, sizeof reference->name, "%.*s", (int)(strlen(name) - strlen(ending)), name);
    }
    globfree(&found);
    return n;
}
