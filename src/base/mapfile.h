/*
 * mapfile.h - a file mapped read-only. Hostile files are the caller's matter; a file that shrinks while it is mapped is not
 * defended against.
 */
#ifndef INK_BASE_MAPFILE_H
#define INK_BASE_MAPFILE_H

#include <stddef.h>

#include "base/error.h"

typedef struct ink_mapfile {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
    int descriptor; /* where data is not NULL */
    char *path;     /* owned: for sentences */
} ink_mapfile;

/* Errors: IO (cannot be opened, no regular file), MEMORY. On failure *file is all zero. */
ink_status ink_mapfile_open(ink_mapfile *file, const char *path, ink_error *error);
void ink_mapfile_close(ink_mapfile *file);

/* Copies bytes of the mapping without touching its pages, as far as the system reads them; how many that were. */
size_t ink_mapfile_read(const ink_mapfile *file, void *dst, const void *data, size_t size);

/* Tells the system that these bytes are not needed soon; they can still be read. The range is clipped to whole pages inside it. */
void ink_mapfile_drop(const void *data, size_t size);

/* The same for every page that holds some of the bytes, which the system's cache need not keep either: until they are read again.
 */
void ink_mapfile_evict(const ink_mapfile *file, const void *data, size_t size);

enum { INK_READ_AHEAD_BYTES = 2 << 20 };

/* Asks for at most INK_READ_AHEAD_BYTES to be read soon, and returns before they are, unless the disk has enough to do. */
void ink_mapfile_read_ahead(const void *data, size_t size);

#endif
