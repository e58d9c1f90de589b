/* png_metadata.c - the text chunks of a PNG file, read by libpng under limits. */
#include "common/png_metadata.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_CHUNKS = 16,           /* text chunks that libpng keeps */
    MOST_CHUNK_BYTES = 8 << 20, /* of one chunk, decompressed */
    MOST_SIDE = 1 << 24         /* pixels are not decoded: any size that is no nonsense */
};

typedef struct png_source {
    png_structp png;
    png_infop info;
    FILE *stream;
    size_t n_read;
    char message[200];
} png_source;

static void on_error(png_structp png, png_const_charp message) {
    png_source *source = png_get_error_ptr(png);
    snprintf(source->message, sizeof source->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message; /* about chunks that are of no interest here */
}

/*
 * libpng takes room for a chunk of the length that the file claims, up to 2 GiB, before it reads the first byte, and
 * png_set_chunk_malloc_max does not reach there; so its allocations are limited here.
 */
static png_voidp on_malloc(png_structp png, png_alloc_size_t size) {
    (void)png;
    return size <= MOST_CHUNK_BYTES + 4096 ? malloc(size) : NULL;
}

static void on_free(png_structp png, png_voidp memory) {
    (void)png;
    free(memory);
}

static void on_read(png_structp png, png_bytep bytes, size_t size) {
    png_source *source = png_get_io_ptr(png);
    size_t got = fread(bytes, 1, size, source->stream);
    source->n_read += got;
    if (got != size) png_error(png, ferror(source->stream) ? "it cannot be read" : "it ends too early");
}

/* Chunks that libpng would parse, decompress or keep, and that say nothing about the request. */
static void ignore_other_chunks(png_structp png) {
    static const png_byte names[] = "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0sTER\0tIME";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
}

/* Everything that may jump; what it changes lives behind the pointer, so the caller sees it after a jump. */
static int read_headers(png_source *source) {
    if (setjmp(png_jmpbuf(source->png))) return -1;
    png_set_read_fn(source->png, source, on_read);
    png_set_user_limits(source->png, MOST_SIDE, MOST_SIDE);
    png_set_chunk_cache_max(source->png, MOST_CHUNKS);
    png_set_chunk_malloc_max(source->png, MOST_CHUNK_BYTES);
    ignore_other_chunks(source->png);
    png_read_info(source->png, source->info);
    return 0;
}

/* The first chunk with this key, copied; *value stays NULL when there is none. */
static int copy_text(png_source *source, const char *key, char **value) {
    png_textp texts;
    int n = 0;
    png_get_text(source->png, source->info, &texts, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(texts[i].key, key) != 0 || !texts[i].text) continue;
        size_t size = strlen(texts[i].text) + 1;
        *value = malloc(size);
        if (!*value) return -1;
        memcpy(*value, texts[i].text, size);
        return 0;
    }
    return 0;
}

ink_status app_png_metadata_read(app_png_metadata *metadata, FILE *stream, const char *origin, ink_error *error) {
    png_source source = {.stream = stream};
    ink_status status = INK_OK;
    *metadata = (app_png_metadata){0};
    source.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning, NULL, on_malloc, on_free);
    source.info = source.png ? png_create_info_struct(source.png) : NULL;
    if (!source.info) {
        status = app_fail_memory(error, "reading a picture");
    } else if (read_headers(&source) != 0) {
        /* libpng's own sentence about the first eight bytes is less clear than the fact. */
        status = source.n_read <= 8 && !ferror(stream)
                     ? app_fail(error, INK_ERROR_FORMAT, "%s is no PNG file, and only those carry a record", origin)
                     : app_fail(error, ferror(stream) ? INK_ERROR_IO : INK_ERROR_FORMAT, "%s: damaged PNG file: %s", origin,
                                source.message);
    } else if (copy_text(&source, APP_PNG_KEY_RECORD, &metadata->record) != 0 ||
               copy_text(&source, APP_PNG_KEY_PARAMETERS, &metadata->parameters) != 0) {
        app_png_metadata_clear(metadata);
        status = app_fail_memory(error, "reading a picture");
    }
    png_destroy_read_struct(&source.png, &source.info, NULL);
    return status;
}

void app_png_metadata_clear(app_png_metadata *metadata) {
    free(metadata->record);
    free(metadata->parameters);
    *metadata = (app_png_metadata){0};
}
