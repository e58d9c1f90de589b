/* mapfile.c - read-only mappings. Nothing here looks at what a file holds. */
#define _GNU_SOURCE
#include "base/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

static ink_status fail_errno(ink_error *error, const char *path, const char *what, int code) {
    return ink_fail(error, code == ENOMEM ? INK_ERROR_MEMORY : INK_ERROR_IO, "%s: %s: %s", path, what, strerror(code));
}

static ink_status map(ink_mapfile *file, int descriptor, const char *path, ink_error *error) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return fail_errno(error, path, "cannot be examined", errno);
    if (!S_ISREG(status.st_mode))
        return ink_fail(error, INK_ERROR_IO, "%s: is %s, not a regular file", path,
                        S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
    if ((uintmax_t)status.st_size > SIZE_MAX)
        return ink_fail(error, INK_ERROR_IO, "%s: is too large for this machine's addresses", path);
    file->size = (size_t)status.st_size;
    if (file->size == 0) return INK_OK; /* a mapping of no bytes is an error to mmap */
    void *data = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) return fail_errno(error, path, "cannot be mapped", errno);
    file->data = data;
    file->descriptor = descriptor;
    return INK_OK;
}

ink_status ink_mapfile_open(ink_mapfile *file, const char *path, ink_error *error) {
    *file = (ink_mapfile){0};
    file->path = ink_strdup(path);
    if (!file->path) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", path);

    /* Not to wait for the other end when a pipe stands where a file should. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ink_status status = INK_OK;
    if (descriptor < 0)
        status = fail_errno(error, path, "cannot be opened", errno);
    else
        status = map(file, descriptor, path, error);
    if (descriptor >= 0 && !file->data) close(descriptor);
    if (status != INK_OK) ink_mapfile_close(file);
    return status;
}

void ink_mapfile_close(ink_mapfile *file) {
    if (file->data) {
        munmap((void *)(uintptr_t)file->data, file->size);
        close(file->descriptor);
    }
    ink_free(file->path);
    *file = (ink_mapfile){0};
}

size_t ink_mapfile_read(const ink_mapfile *file, void *dst, const void *data, size_t size) {
    size_t at = 0;
    off_t first = (off_t)((uintptr_t)data - (uintptr_t)file->data);
    while (at < size) {
        ssize_t n = pread(file->descriptor, (unsigned char *)dst + at, size - at, first + (off_t)at);
        if (n == 0 || (n < 0 && errno != EINTR)) break;
        if (n > 0) at += (size_t)n;
    }
    return at;
}

void ink_mapfile_drop(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + size) / page * page;
    /* Advice: whether it is taken changes nothing that a caller could rely on. */
    if (data && start < end) (void)madvise((void *)start, end - start, MADV_DONTNEED);
}

/* The pages that hold some of the bytes. */
static void widen(uintptr_t *start, uintptr_t *end, const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    *start = (uintptr_t)data / page * page;
    *end = ((uintptr_t)data + size + page - 1) / page * page;
}

void ink_mapfile_evict(const ink_mapfile *file, const void *data, size_t size) {
    uintptr_t start, end, first = (uintptr_t)file->data;
    if (size == 0) return;
    widen(&start, &end, data, size);
    (void)madvise((void *)start, end - start, MADV_DONTNEED);
    (void)posix_fadvise(file->descriptor, (off_t)(start - first), (off_t)(end - start), POSIX_FADV_DONTNEED);
}

void ink_mapfile_read_ahead(const void *data, size_t size) {
    uintptr_t start, end;
    if (size == 0) return;
    widen(&start, &end, data, size);
    (void)madvise((void *)start, end - start, MADV_WILLNEED);
}
