/* output_file.c - files that appear whole or not at all. */
#define _GNU_SOURCE /* getrandom */
#include "common/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/interrupt.h"
#include "common/text_format.h"

static int folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash - path) + 1 : 0;
}

/* stat of the folder that a path lies in. */
static int look_at_folder(const char *path, struct stat *info) {
    char *folder = app_format("%.*s.", folder_length(path), path);
    int result = folder ? stat(folder, info) : -1, reason = folder ? errno : ENOMEM;
    free(folder);
    errno = reason;
    return result;
}

bool app_output_same(const char *path, const char *other) {
    struct stat folder, other_folder;
    return strcmp(path + folder_length(path), other + folder_length(other)) == 0 && look_at_folder(path, &folder) == 0 &&
           look_at_folder(other, &other_folder) == 0 && folder.st_dev == other_folder.st_dev &&
           folder.st_ino == other_folder.st_ino;
}

/* Everything that would make the final rename fail and can be known now. */
static ink_status check_target(const char *path, bool keep_others, ink_error *error) {
    struct stat info;
    if (!path[folder_length(path)]) return app_fail(error, INK_ERROR_IO, "%s: a file name is missing", *path ? path : "\"\"");
    if (stat(path, &info) != 0) {
        if (errno == ENOENT) return INK_OK;
        return app_fail(error, INK_ERROR_IO, "cannot write %s: %s", path, strerror(errno));
    }
    if (S_ISDIR(info.st_mode)) return app_fail(error, INK_ERROR_IO, "cannot write %s: it is a folder; add a file name", path);
    if (!keep_others && !S_ISREG(info.st_mode))
        return app_fail(error, INK_ERROR_IO, "cannot write %s: it is no ordinary file", path);
    if (!keep_others && access(path, W_OK) != 0)
        return app_fail(error, INK_ERROR_IO, "cannot write %s: the file exists and is write-protected", path);
    return INK_OK;
}

static ink_status create_temporary(app_output_file *file, ink_error *error) {
    int length = folder_length(file->path), descriptor = -1;
    for (int attempt = 0; attempt < 100 && descriptor < 0; attempt++) {
        uint32_t tag;
        if (getrandom(&tag, sizeof tag, 0) != (ssize_t)sizeof tag) tag = (uint32_t)getpid() + (uint32_t)attempt;
        free(file->temporary);
        file->temporary = app_format("%.*s.inkstone-%08x.tmp", length, file->path, (unsigned)tag);
        if (!file->temporary) return app_fail_memory(error, "a file name");
        /* Not mkstemp: the finished file should have the permissions that the umask gives to every new file. */
        descriptor = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor < 0 && errno != EEXIST) break;
    }
    if (descriptor < 0) {
        int reason = errno;
        struct stat info;
        bool there = look_at_folder(file->path, &info) == 0 || errno == ENOMEM;
        free(file->temporary); /* never made, or not made here: nothing to remove */
        file->temporary = NULL;
        if (!there)
            return app_fail(error, INK_ERROR_IO, "cannot write %s: there is no folder %.*s", file->path, length, file->path);
        return app_fail(error, INK_ERROR_IO, "cannot write %s: no file can be made in %.*s: %s", file->path,
                        length ? length : INT_MAX, length ? file->path : "the current folder", strerror(reason));
    }
    file->interrupt = app_interrupt_add_file(file->temporary);
    file->stream = fdopen(descriptor, "wb");
    if (file->stream) return INK_OK;
    close(descriptor);
    return app_fail_memory(error, "a file");
}

ink_status app_output_open(app_output_file *file, const char *path, bool keep_others, ink_error *error) {
    *file = (app_output_file){.keep_others = keep_others, .interrupt = -1};
    ink_status status = check_target(path, keep_others, error);
    if (status != INK_OK) return status;
    file->path = app_format("%s", path);
    if (!file->path) return app_fail_memory(error, "a file name");
    status = create_temporary(file, error);
    if (status != INK_OK) app_output_discard(file);
    return status;
}

/* Gives the temporary file a name that no file has: link() refuses to replace, which rename() cannot be told portably. */
static int take_free_name(app_output_file *file) {
    int folder = folder_length(file->path);
    const char *dot = strrchr(file->path + folder, '.');
    int stem = dot ? (int)(dot - file->path) : (int)strlen(file->path);
    char *candidate = app_format("%s", file->path);
    for (int number = 2; candidate && number < 100000; number++) {
        if (link(file->temporary, candidate) == 0) {
            unlink(file->temporary);
            free(file->path);
            file->path = candidate;
            return 0;
        }
        if (errno != EEXIST) {
            /* File systems without hard links: look, then rename. */
            struct stat info;
            bool taken = lstat(candidate, &info) == 0;
            if (!taken && rename(file->temporary, candidate) == 0) {
                free(file->path);
                file->path = candidate;
                return 0;
            }
            if (!taken) break;
        }
        free(candidate);
        candidate = app_format("%.*s-%d%s", stem, file->path, number, file->path + stem);
    }
    int reason = candidate ? errno : ENOMEM;
    free(candidate);
    errno = reason;
    return -1;
}

static int complete_stream(app_output_file *file) {
    FILE *stream = file->stream;
    file->stream = NULL;
    if (!stream) return 0;
    bool written = fflush(stream) == 0 && !ferror(stream) && fsync(fileno(stream)) == 0;
    int reason = errno;
    if (fclose(stream) == 0 && written) return 0;
    if (!written) errno = reason;
    return -1;
}

ink_status app_output_publish(app_output_file *file, ink_error *error) {
    int result = complete_stream(file);
    if (result == 0) result = file->keep_others ? take_free_name(file) : rename(file->temporary, file->path);
    if (result == 0) {
        app_interrupt_drop_file(file->interrupt);
        file->interrupt = -1;
        free(file->temporary);
        file->temporary = NULL;
        return INK_OK;
    }
    app_fail(error, INK_ERROR_IO, "cannot write %s: %s", file->path, strerror(errno));
    app_output_discard(file);
    return INK_ERROR_IO;
}

void app_output_discard(app_output_file *file) {
    if (file->stream) fclose(file->stream);
    if (file->temporary) {
        unlink(file->temporary);
        app_interrupt_drop_file(file->interrupt);
    }
    free(file->temporary);
    free(file->path);
    *file = (app_output_file){.interrupt = -1};
}
