/*
 * output_file.h - files that appear whole or not at all. A temporary file is made beside the wanted one before the work
 * starts, which proves that the place can be written; it takes the wanted name when it is complete.
 */
#ifndef APP_COMMON_OUTPUT_FILE_H
#define APP_COMMON_OUTPUT_FILE_H

#include <stdbool.h>
#include <stdio.h>

#include "common/failure.h"

typedef struct app_output_file {
    char *path;       /* wanted */
    char *temporary;  /* in the same folder; NULL when there is none (any more) */
    FILE *stream;     /* of the temporary file */
    bool keep_others; /* an existing file keeps its name, and this one gets a number */
    int interrupt;    /* handle of app_interrupt_add_file */
} app_output_file;

/*
 * Checks that path can be written and creates the temporary file. With keep_others, a file that exists is left alone and
 * app_output_publish appends "-2", "-3", ... before the suffix; else it is replaced. file must be zeroed or discarded before.
 * Errors: IO, MEMORY. After a failure there is nothing to discard.
 */
ink_status app_output_open(app_output_file *file, const char *path, bool keep_others, ink_error *error);

/* Whether two paths name one place: the same name in the same folder, however that is spelt. */
bool app_output_same(const char *path, const char *other);

/* Completes the file and gives it its name, which file->path then holds. On failure the temporary file is gone. */
ink_status app_output_publish(app_output_file *file, ink_error *error);

/* Removes the temporary file, if there is one, and releases everything. Accepts a zeroed file. */
void app_output_discard(app_output_file *file);

#endif
