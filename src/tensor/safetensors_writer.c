/* safetensors_writer.c - a safetensors file written piece by piece, whose header comes last. */
#define _POSIX_C_SOURCE 200809L
#include "tensor/safetensors_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

enum { PREFIX_BYTES = 8 };

static ink_status fail_memory(const char *path, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to write it", path);
}

static ink_status fail_write(const char *path, ink_error *error) {
    return ink_fail(error, INK_ERROR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static bool write_at(int descriptor, const void *bytes, size_t size, int64_t offset) {
    const unsigned char *next = bytes;
    while (size > 0) {
        /* The kernel takes at most about 2 GiB at once. */
        ssize_t n = pwrite(descriptor, next, size < (1u << 30) ? size : (1u << 30), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        next += n;
        offset += n;
        size -= (size_t)n;
    }
    return true;
}

/* ---- header --------------------------------------------------------------------------------------------------------- */

static bool count_bytes(ink_writer_tensor *tensor) {
    int64_t n = tensor->element_bytes;
    if (tensor->n_dims < 0 || tensor->n_dims > INK_MAX_DIMS) return false;
    for (int i = 0; i < tensor->n_dims; i++)
        if (!ink_mul_fits(n, tensor->shape[i], &n)) return false;
    tensor->n_bytes = n;
    return true;
}

static json_t *make_entry(const ink_writer_tensor *tensor) {
    json_t *shape = json_array();
    int failed = !shape;
    for (int i = 0; i < tensor->n_dims; i++) failed |= json_array_append_new(shape, json_integer(tensor->shape[i]));
    /* 'o' steals shape, also when packing fails. */
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensor->dtype, "shape", shape, "data_offsets",
                              (json_int_t)tensor->begin, (json_int_t)(tensor->begin + tensor->n_bytes));
    if (!failed) return entry;
    json_decref(entry);
    return NULL;
}

static ink_status add_metadata(json_t *header, const char *path, const char *const *metadata, ink_error *error) {
    if (!metadata || !*metadata) return INK_OK;
    json_t *pairs = json_object();
    int failed = json_object_set_new(header, "__metadata__", pairs);
    for (; !failed && metadata[0]; metadata += 2) failed = json_object_set_new(pairs, metadata[0], json_string(metadata[1]));
    return failed ? fail_memory(path, error) : INK_OK;
}

/* Gives every tensor its place, those of the largest elements first, and names it in the header. */
static ink_status place_tensors(json_t *header, const ink_safetensors_writer *writer, ink_error *error) {
    int64_t offset = 0;
    for (size_t i = 0; i < writer->n_tensors; i++)
        if (!count_bytes(&writer->tensors[i]))
            return ink_fail(error, INK_ERROR_ARGUMENT, "%s: tensor %s has an impossible shape", writer->path,
                            writer->tensors[i].name);
    for (int64_t element_bytes = 8; element_bytes > 0; element_bytes /= 2)
        for (size_t i = 0; i < writer->n_tensors; i++) {
            ink_writer_tensor *tensor = &writer->tensors[i];
            if (tensor->element_bytes != element_bytes) continue;
            tensor->begin = offset;
            tensor->n_written = 0;
            if (!ink_add_fits(offset, tensor->n_bytes, &offset))
                return ink_fail(error, INK_ERROR_ARGUMENT, "%s: its tensors have too many bytes", writer->path);
            if (json_object_get(header, tensor->name))
                return ink_fail(error, INK_ERROR_ARGUMENT, "%s: tensor %s is given twice", writer->path, tensor->name);
            if (json_object_set_new(header, tensor->name, make_entry(tensor)) != 0) return fail_memory(writer->path, error);
        }
    return INK_OK;
}

/* The header as text, padded so that the data starts at a multiple of 8. */
static ink_status make_header(ink_safetensors_writer *writer, const char *const *metadata, ink_error *error) {
    json_t *header = json_object();
    ink_status status = header ? add_metadata(header, writer->path, metadata, error) : fail_memory(writer->path, error);
    if (status == INK_OK) status = place_tensors(header, writer, error);
    size_t length = status == INK_OK ? json_dumpb(header, NULL, 0, JSON_COMPACT) : 0;
    writer->n_header = (length + 7) / 8 * 8;
    writer->header = length ? ink_alloc(writer->n_header) : NULL;
    bool made = false;
    if (writer->header) {
        memset(writer->header, ' ', writer->n_header);
        made = json_dumpb(header, writer->header, writer->n_header, JSON_COMPACT) == length;
    }
    json_decref(header);
    return status == INK_OK && !made ? fail_memory(writer->path, error) : status;
}

/* ---- the file ------------------------------------------------------------------------------------------------------- */

ink_status ink_safetensors_writer_open(ink_safetensors_writer *writer, const char *path, ink_writer_tensor *tensors,
                                       size_t n_tensors, const char *const *metadata, ink_error *error) {
    *writer = (ink_safetensors_writer){.path = ink_strdup(path), .descriptor = -1, .tensors = tensors, .n_tensors = n_tensors};
    ink_status status = writer->path ? make_header(writer, metadata, error) : fail_memory(path, error);
    if (status == INK_OK) {
        writer->descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->descriptor < 0) status = ink_fail(error, INK_ERROR_IO, "%s: cannot be created: %s", path, strerror(errno));
    }
    if (status != INK_OK) ink_safetensors_writer_discard(writer);
    return status;
}

ink_status ink_safetensors_writer_put(ink_safetensors_writer *writer, size_t i, int64_t offset, const void *bytes, int64_t size,
                                      ink_error *error) {
    ink_writer_tensor *tensor = &writer->tensors[i];
    int64_t place = PREFIX_BYTES + (int64_t)writer->n_header + tensor->begin + offset;
    if (!write_at(writer->descriptor, bytes, (size_t)size, place)) return fail_write(writer->path, error);
    tensor->n_written += size;
    return INK_OK;
}

static ink_status finish(ink_safetensors_writer *writer, ink_error *error) {
    for (size_t i = 0; i < writer->n_tensors; i++)
        if (writer->tensors[i].n_written != writer->tensors[i].n_bytes)
            return ink_fail(error, INK_ERROR_INTERNAL, "%s: tensor %s is not complete", writer->path, writer->tensors[i].name);
    unsigned char prefix[PREFIX_BYTES];
    for (int i = 0; i < PREFIX_BYTES; i++) prefix[i] = (unsigned char)((uint64_t)writer->n_header >> (8 * i));
    /* The data must have arrived before the header can say that it is there. */
    bool ok = fsync(writer->descriptor) == 0 && write_at(writer->descriptor, writer->header, writer->n_header, PREFIX_BYTES) &&
              write_at(writer->descriptor, prefix, sizeof prefix, 0) && fsync(writer->descriptor) == 0;
    if (!ok) return fail_write(writer->path, error);
    int closed = close(writer->descriptor);
    writer->descriptor = -1;
    if (closed == 0) return INK_OK;
    ink_status status = fail_write(writer->path, error);
    unlink(writer->path);
    return status;
}

ink_status ink_safetensors_writer_finish(ink_safetensors_writer *writer, ink_error *error) {
    ink_status status = finish(writer, error);
    ink_safetensors_writer_discard(writer);
    return status;
}

void ink_safetensors_writer_discard(ink_safetensors_writer *writer) {
    if (writer->path && writer->descriptor >= 0) {
        close(writer->descriptor);
        unlink(writer->path);
    }
    ink_free(writer->path);
    ink_free(writer->header);
    *writer = (ink_safetensors_writer){.descriptor = -1};
}
