/* doctor.c - safetensors files with something changed. */
#define _XOPEN_SOURCE 700
#include "support/doctor.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/files.h"
#include "tensor/safetensors.h"

enum { MAX_TENSORS = 512, MAX_METADATA = 64 };

struct test_doctor {
    ink_named_f32 tensors[MAX_TENSORS]; /* names and data owned */
    size_t n_tensors;
    char *metadata[2 * MAX_METADATA + 1]; /* owned: key, value, ..., NULL */
    size_t n_metadata;                    /* strings */
};

static void give_up(const char *what, const char *name) {
    fprintf(stderr, "test: %s: %s\n", name, what);
    abort();
}

static char *copy_text(const char *text) {
    char *copy = strdup(text);
    if (!copy) give_up("no memory", text);
    return copy;
}

static float *numbers(int64_t n) {
    float *x = calloc((size_t)n + 1, sizeof *x);
    if (!x) give_up("no memory", "numbers");
    return x;
}

static void read_tensor(test_doctor *doctor, const ink_tensor_info *info) {
    if (info->dtype != INK_F32) give_up("is not stored as F32", info->name);
    if (doctor->n_tensors == MAX_TENSORS) give_up("one tensor too many", info->name);
    float *data = numbers(info->n_elements);
    memcpy(data, info->data, info->n_bytes);
    ink_named_f32 *tensor = &doctor->tensors[doctor->n_tensors++];
    *tensor = (ink_named_f32){.name = copy_text(info->name), .data = data, .n_dims = info->n_dims};
    memcpy(tensor->shape, info->shape, sizeof tensor->shape);
}

test_doctor *test_doctor_open(const char *path) {
    ink_error error;
    ink_safetensors file;
    if (ink_safetensors_open(&file, path, &error) != INK_OK) give_up(error.message, path);
    test_doctor *doctor = calloc(1, sizeof *doctor);
    if (!doctor) give_up("no memory", path);
    for (size_t i = 0; i < file.n_tensors; i++) read_tensor(doctor, &file.tensors[i]);
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(file.header, "__metadata__"), key, value) {
        test_doctor_set(doctor, key, json_string_value(value));
    }
    ink_safetensors_close(&file);
    return doctor;
}

static void release_tensor(const ink_named_f32 *tensor) {
    free((void *)(uintptr_t)tensor->name);
    free((void *)(uintptr_t)tensor->data);
}

void test_doctor_close(test_doctor *doctor) {
    for (size_t i = 0; i < doctor->n_tensors; i++) release_tensor(&doctor->tensors[i]);
    for (size_t i = 0; i < doctor->n_metadata; i++) free(doctor->metadata[i]);
    free(doctor);
}

static ink_named_f32 *find(test_doctor *doctor, const char *name) {
    for (size_t i = 0; i < doctor->n_tensors; i++)
        if (strcmp(doctor->tensors[i].name, name) == 0) return &doctor->tensors[i];
    give_up("there is no such tensor", name);
    return NULL;
}

static int64_t n_elements(const ink_named_f32 *tensor) {
    int64_t n = 1;
    for (int i = 0; i < tensor->n_dims; i++) n *= tensor->shape[i];
    return n;
}

float *test_doctor_tensor(test_doctor *doctor, const char *name, int64_t *n) {
    ink_named_f32 *tensor = find(doctor, name);
    if (n) *n = n_elements(tensor);
    return (float *)(uintptr_t)tensor->data;
}

void test_doctor_drop(test_doctor *doctor, const char *name) {
    ink_named_f32 *tensor = find(doctor, name);
    release_tensor(tensor);
    *tensor = doctor->tensors[--doctor->n_tensors];
}

void test_doctor_reshape(test_doctor *doctor, const char *name, int n_dims, const int64_t *shape) {
    ink_named_f32 *tensor = find(doctor, name);
    int64_t before = n_elements(tensor);
    tensor->n_dims = n_dims;
    memcpy(tensor->shape, shape, (size_t)n_dims * sizeof *shape);
    if (n_elements(tensor) > before) give_up("cannot grow", name);
}

void test_doctor_add(test_doctor *doctor, const char *name, int64_t n) {
    if (doctor->n_tensors == MAX_TENSORS) give_up("one tensor too many", name);
    doctor->tensors[doctor->n_tensors++] = (ink_named_f32){.name = copy_text(name), .data = numbers(n), .n_dims = 1, .shape = {n}};
}

void test_doctor_set(test_doctor *doctor, const char *key, const char *value) {
    size_t i = 0;
    while (i < doctor->n_metadata && strcmp(doctor->metadata[i], key) != 0) i += 2;
    if (i < doctor->n_metadata) {
        free(doctor->metadata[i]);
        free(doctor->metadata[i + 1]);
        doctor->metadata[i] = doctor->metadata[doctor->n_metadata - 2];
        doctor->metadata[i + 1] = doctor->metadata[doctor->n_metadata - 1];
        doctor->n_metadata -= 2;
    }
    if (value) {
        if (doctor->n_metadata == 2 * MAX_METADATA) give_up("one key too many", key);
        doctor->metadata[doctor->n_metadata++] = copy_text(key);
        doctor->metadata[doctor->n_metadata++] = copy_text(value);
    }
    doctor->metadata[doctor->n_metadata] = NULL;
}

void test_doctor_write(const test_doctor *doctor, const char *path) {
    ink_error error;
    if (ink_safetensors_write(path, doctor->tensors, doctor->n_tensors, (const char *const *)doctor->metadata, &error) != INK_OK)
        give_up(error.message, path);
}

static void link_entries(const char *from, const char *to, const char *except) {
    if (mkdir(to, 0777) != 0) give_up("cannot be made", to);
    DIR *dir = opendir(from);
    if (!dir) give_up("cannot be read", from);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char target[TEST_PATH], place[TEST_PATH];
        if (entry->d_name[0] == '.' || (except && strcmp(entry->d_name, except) == 0)) continue;
        test_path(target, from, entry->d_name);
        if (symlink(target, test_path(place, to, entry->d_name)) != 0) give_up("cannot be linked", place);
    }
    closedir(dir);
}

void test_checkpoint_link(const char *folder, const char *name, const char *checkpoint, const char *part) {
    char to[TEST_PATH], part_from[TEST_PATH], part_to[TEST_PATH];
    link_entries(checkpoint, test_path(to, folder, name), part);
    link_entries(test_path(part_from, checkpoint, part), test_path(part_to, to, part), NULL);
}
