/*
 * png_metadata.h - the text chunks that a PNG file carries before its pixels. The file is a stranger's: sizes are limited,
 * and nothing but the headers is read.
 */
#ifndef APP_COMMON_PNG_METADATA_H
#define APP_COMMON_PNG_METADATA_H

#include <stdio.h>

#include "common/failure.h"

/* The keywords of the two chunks that inkstone writes. */
#define APP_PNG_KEY_RECORD "inkstone"
#define APP_PNG_KEY_PARAMETERS "parameters"

typedef struct app_png_metadata {
    char *record;     /* NULL when absent. Both released with app_png_metadata_clear. */
    char *parameters; /* NULL when absent */
} app_png_metadata;

/* Reads from the start of stream. origin names the file in sentences. Errors: IO, FORMAT, MEMORY. */
ink_status app_png_metadata_read(app_png_metadata *metadata, FILE *stream, const char *origin, ink_error *error);
void app_png_metadata_clear(app_png_metadata *metadata);

#endif
