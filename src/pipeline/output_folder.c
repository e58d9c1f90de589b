/* output_folder.c - filling a folder under another name. */
#define _XOPEN_SOURCE 700
#include "pipeline/output_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mapfile.h"
#include "base/memory.h"

static ink_status fail_memory(const char *path, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to write it", path);
}

static bool is_dots(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

/* Entries but "." and ".."; -1: no folder that can be read. */
static int count_entries(const char *path) {
    DIR *folder = opendir(path);
    int n = 0;
    if (!folder) return -1;
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) n += !is_dots(entry->d_name);
    closedir(folder);
    return n;
}

/* Whether another folder can take its place: not that of ".", nor of one that something is mounted on. */
static bool is_replaceable(const char *path, const struct stat *status) {
    const char *name = strrchr(path, '/');
    struct stat above;
    char *parent = ink_format("%s/..", path);
    bool same = parent && stat(parent, &above) == 0 && above.st_dev == status->st_dev && above.st_ino != status->st_ino;
    ink_free(parent);
    return same && !is_dots(name ? name + 1 : path);
}

static ink_status check_free(const char *path, ink_error *error) {
    struct stat status;
    if (lstat(path, &status) != 0) return INK_OK;
    if (S_ISDIR(status.st_mode) && !is_replaceable(path, &status))
        return ink_fail(error, INK_ERROR_IO, "%s: cannot be replaced by a folder of that name: name a new one, in it or elsewhere",
                        path);
    if (!S_ISDIR(status.st_mode)) return ink_fail(error, INK_ERROR_IO, "%s: exists and is no folder: name a new one", path);
    if (count_entries(path) != 0) return ink_fail(error, INK_ERROR_IO, "%s: exists and is not empty: name a new folder", path);
    return INK_OK;
}

/* The process id tells processes apart, mkdir the threads of one. */
static ink_status create_partial(ink_output_folder *folder, ink_error *error) {
    for (int i = 0; i < 1000; i++) {
        folder->partial = ink_format("%s.partial-%ld-%d", folder->path, (long)getpid(), i);
        if (!folder->partial) return fail_memory(folder->path, error);
        if (mkdir(folder->partial, 0777) == 0) return INK_OK;
        int code = errno;
        ink_free(folder->partial);
        folder->partial = NULL;
        if (code != EEXIST) return ink_fail(error, INK_ERROR_IO, "%s: cannot be created: %s", folder->path, strerror(code));
    }
    return ink_fail(error, INK_ERROR_IO, "%s: cannot be created: too many unfinished ones lie beside it", folder->path);
}

ink_status ink_output_folder_open(ink_output_folder *folder, const char *path, ink_error *error) {
    *folder = (ink_output_folder){.path = ink_strdup(path)};
    if (!folder->path) return fail_memory(path, error);
    for (size_t n = strlen(path); n > 1 && folder->path[n - 1] == '/'; n--) folder->path[n - 1] = '\0';
    ink_status status = check_free(folder->path, error);
    if (status == INK_OK) status = create_partial(folder, error);
    if (status != INK_OK) ink_output_folder_discard(folder);
    return status;
}

static ink_status fail_name(const ink_output_folder *folder, const char *name, ink_error *error) {
    return ink_fail(error, INK_ERROR_IO, "%s/%s: cannot be written: %s", folder->path, name, strerror(errno));
}

ink_status ink_output_folder_add(const ink_output_folder *folder, const char *name, ink_error *error) {
    char *path = ink_format("%s/%s", folder->partial, name);
    if (!path) return fail_memory(folder->path, error);
    bool made = mkdir(path, 0777) == 0 || errno == EEXIST;
    ink_status status = made ? INK_OK : fail_name(folder, name, error);
    ink_free(path);
    return status;
}

static bool write_all(int descriptor, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t n = write(descriptor, bytes, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        bytes += n;
        size -= (size_t)n;
    }
    return fsync(descriptor) == 0;
}

ink_status ink_output_folder_write(const ink_output_folder *folder, const char *name, const char *text, size_t size,
                                   ink_error *error) {
    char *path = ink_format("%s/%s", folder->partial, name);
    if (!path) return fail_memory(folder->path, error);
    int descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool ok = descriptor >= 0 && write_all(descriptor, text, size);
    ink_status status = ok ? INK_OK : fail_name(folder, name, error);
    if (descriptor >= 0 && close(descriptor) != 0 && status == INK_OK) status = fail_name(folder, name, error);
    ink_free(path);
    return status;
}

ink_status ink_output_folder_copy(const ink_output_folder *folder, const char *source, const char *name, ink_error *error) {
    ink_mapfile file;
    if (access(source, F_OK) != 0) return INK_OK;
    ink_status status = ink_mapfile_open(&file, source, error);
    if (status != INK_OK) return status;
    status = ink_output_folder_write(folder, name, (const char *)file.data, file.size, error);
    ink_mapfile_close(&file);
    return status;
}

ink_status ink_output_folder_publish(ink_output_folder *folder, ink_error *error) {
    if (rename(folder->partial, folder->path) != 0)
        return ink_fail(error, INK_ERROR_IO, "%s: cannot take its name: %s", folder->path, strerror(errno));
    ink_free(folder->partial);
    folder->partial = NULL;
    return INK_OK;
}

/*
 * Removes what is in the folder, which is closed. Two levels, which is all that is ever made, and without memory of ours, which may
 * be what is wanting. What stays behind does no harm: it has a name that says so.
 */
static void empty_folder(int descriptor, int depth) {
    DIR *folder = fdopendir(descriptor);
    if (!folder) {
        close(descriptor);
        return;
    }
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        if (is_dots(entry->d_name) || unlinkat(descriptor, entry->d_name, 0) == 0 || depth == 0) continue;
        int inner = openat(descriptor, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner >= 0) empty_folder(inner, depth - 1);
        unlinkat(descriptor, entry->d_name, AT_REMOVEDIR);
    }
    closedir(folder);
}

void ink_output_folder_discard(ink_output_folder *folder) {
    int descriptor = folder->partial ? open(folder->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (descriptor >= 0) {
        empty_folder(descriptor, 1);
        rmdir(folder->partial);
    }
    ink_free(folder->partial);
    ink_free(folder->path);
    *folder = (ink_output_folder){0};
}
