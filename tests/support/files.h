/*
 * files.h - temporary folders full of good and hostile files, and a jansson that runs out of memory, for tests.
 *
 * What goes wrong here is a defect of the test or of the machine: it ends the program.
 */
#ifndef INK_TEST_FILES_H
#define INK_TEST_FILES_H

#include <stddef.h>
#include <stdint.h>

enum { TEST_PATH = 512 };

/* A new folder below TMPDIR or /tmp; folder is filled and returned. test_folder_remove deletes it and all that is in it. */
char *test_folder_create(char folder[TEST_PATH]);
void test_folder_remove(const char *folder);

/* FOLDER/NAME in the buffer, which is returned. */
char *test_path(char path[TEST_PATH], const char *folder, const char *name);

/* Entries of a folder, hidden ones too. */
size_t test_count_entries(const char *folder);

/* Writes FOLDER/NAME; makes the folders of NAME. */
void test_write(const char *folder, const char *name, const void *bytes, size_t size);
void test_write_text(const char *folder, const char *name, const char *text);

/* A safetensors file: the length, the header, then data. */
void test_write_safetensors(const char *folder, const char *name, const char *header, const void *data, size_t n_data);

/*
 * After `allowed` more allocations every one of jansson's fails; negative: never, with the standard functions.
 * Only for programs of one thread.
 */
void test_json_fail_after(int64_t allowed);

#endif
