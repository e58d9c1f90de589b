/*
 * output_folder.h - a folder that appears whole or not at all: it is filled under another name beside the wanted one, and renamed
 * when it is complete.
 */
#ifndef INK_PIPELINE_OUTPUT_FOLDER_H
#define INK_PIPELINE_OUTPUT_FOLDER_H

#include "base/error.h"

typedef struct ink_output_folder {
    char *path;    /* wanted; owned */
    char *partial; /* PATH.partial-..., NULL when there is none (any more); owned */
} ink_output_folder;

/* path must not exist, or be an empty folder. Errors: IO, MEMORY. After a failure there is nothing to discard. */
ink_status ink_output_folder_open(ink_output_folder *folder, const char *path, ink_error *error);

/* Makes a folder in it. */
ink_status ink_output_folder_add(const ink_output_folder *folder, const char *name, ink_error *error);

/* Copies a file into it, under NAME. A source that is not there is no error. */
ink_status ink_output_folder_copy(const ink_output_folder *folder, const char *source, const char *name, ink_error *error);

/* Writes a text as NAME. */
ink_status ink_output_folder_write(const ink_output_folder *folder, const char *name, const char *text, size_t size,
                                   ink_error *error);

/* Gives it its name. */
ink_status ink_output_folder_publish(ink_output_folder *folder, ink_error *error);

/* Removes what is not published, and releases. Accepts a zeroed folder. */
void ink_output_folder_discard(ink_output_folder *folder);

#endif
