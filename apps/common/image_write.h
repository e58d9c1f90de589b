/*
 * image_write.h - pictures as PNG, JPEG or WebP files. Encoding only: where the bytes go is decided by output_file.h.
 */
#ifndef APP_COMMON_IMAGE_WRITE_H
#define APP_COMMON_IMAGE_WRITE_H

#include <stdint.h>
#include <stdio.h>

#include "common/failure.h"

typedef enum app_image_format { APP_IMAGE_PNG = 0, APP_IMAGE_JPEG, APP_IMAGE_WEBP } app_image_format;

/* By the suffix, in either case: .png, .jpg, .jpeg, .webp. Errors: ARGUMENT. */
ink_status app_image_format_of(app_image_format *format, const char *path, ink_error *error);

/* Whether the format can hold a picture of this size. Errors: ARGUMENT. */
ink_status app_image_check_size(app_image_format format, int64_t width, int64_t height, ink_error *error);

typedef struct app_image_text {
    const char *parameters; /* UTF-8; NULL: none. PNG text chunk, JPEG comment; WebP has no place for it. */
    const char *record;     /* ASCII; NULL: none. PNG only. */
} app_image_text;

/* Returns non-zero to stop the encoder. */
typedef int (*app_image_progress_fn)(void *user, int64_t done, int64_t total);

typedef struct app_picture {
    const uint8_t *pixels; /* [height, width, 3] RGB */
    int64_t width, height;
    app_image_text text;
    app_image_progress_fn progress; /* may be NULL */
    void *progress_user;
} app_picture;

/* Errors: IO, MEMORY, CANCELLED. */
ink_status app_image_write(FILE *stream, app_image_format format, const app_picture *picture, ink_error *error);

#endif
