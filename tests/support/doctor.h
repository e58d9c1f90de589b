/*
 * doctor.h - a safetensors file of f32 tensors with something changed, and a checkpoint folder with one such file in it.
 *
 * As in files.h, what goes wrong here ends the program.
 */
#ifndef INK_TEST_DOCTOR_H
#define INK_TEST_DOCTOR_H

#include <stddef.h>
#include <stdint.h>

typedef struct test_doctor test_doctor;

/* Reads a whole file. Names and metadata that are passed to the others are copied. */
test_doctor *test_doctor_open(const char *path);
void test_doctor_close(test_doctor *doctor);

/* The elements of a tensor, to be changed; *n, if not NULL, receives their number. */
float *test_doctor_tensor(test_doctor *doctor, const char *name, int64_t *n);
void test_doctor_drop(test_doctor *doctor, const char *name);
void test_doctor_reshape(test_doctor *doctor, const char *name, int n_dims, const int64_t *shape);
/* A vector of n zeros. */
void test_doctor_add(test_doctor *doctor, const char *name, int64_t n);
/* value NULL: without that key. */
void test_doctor_set(test_doctor *doctor, const char *key, const char *value);

void test_doctor_write(const test_doctor *doctor, const char *path);

/* A new folder FOLDER/NAME with links to all that is in a checkpoint folder, where PART ("transformer") can be written to. */
void test_checkpoint_link(const char *folder, const char *name, const char *checkpoint, const char *part);

#endif
