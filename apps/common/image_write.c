/* image_write.c - pictures as PNG, JPEG (libjpeg) and lossless WebP. */
#define _POSIX_C_SOURCE 200809L
#include "common/image_write.h"

#include <errno.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

#include "common/png_metadata.h"

enum { JPEG_QUALITY = 95, JPEG_MOST_COMMENT = 65533 };

/* How an encoder ended: well, by an error, or because it was told to stop. */
enum { ENCODED = 0, FAILED = -1, STOPPED = 1 };

static int report(const app_picture *from, int64_t done, int64_t total) {
    return from->progress && from->progress(from->progress_user, done, total) ? STOPPED : ENCODED;
}

static ink_status conclude(int end, const char *message, ink_error *error) {
    if (end == STOPPED) return app_fail(error, INK_ERROR_CANCELLED, "interrupted");
    return end == FAILED ? app_fail(error, INK_ERROR_IO, "%s", message) : INK_OK;
}

ink_status app_image_format_of(app_image_format *format, const char *path, ink_error *error) {
    static const struct {
        const char *suffix;
        app_image_format format;
    } known[] = {{".png", APP_IMAGE_PNG}, {".jpg", APP_IMAGE_JPEG}, {".jpeg", APP_IMAGE_JPEG}, {".webp", APP_IMAGE_WEBP}};
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    for (size_t i = 0; dot && i < sizeof known / sizeof *known; i++)
        if (strcasecmp(dot, known[i].suffix) == 0) {
            *format = known[i].format;
            return INK_OK;
        }
    return app_fail(error, INK_ERROR_ARGUMENT, "%s: the name of the picture must end in .png, .jpg, .jpeg or .webp", path);
}

ink_status app_image_check_size(app_image_format format, int64_t width, int64_t height, ink_error *error) {
    int64_t most = format == APP_IMAGE_JPEG ? JPEG_MAX_DIMENSION : format == APP_IMAGE_WEBP ? WEBP_MAX_DIMENSION : 1 << 24;
    if (width <= most && height <= most) return INK_OK;
    return app_fail(error, INK_ERROR_ARGUMENT, "a %s picture has at most %lld pixels on a side; write a .png instead",
                    format == APP_IMAGE_JPEG ? "JPEG" : "WebP", (long long)most);
}

/* ---- PNG ---- */

typedef struct png_sink {
    png_structp png;
    png_infop info;
    char message[200];
} png_sink;

static void on_png_error(png_structp png, png_const_charp message) {
    png_sink *sink = png_get_error_ptr(png);
    snprintf(sink->message, sizeof sink->message, "%s", errno ? strerror(errno) : message);
    png_longjmp(png, 1);
}

static void on_png_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static bool is_ascii(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80) return false;
    return true;
}

/*
 * The plain chunk where it can hold the text, as every reader knows it; it is Latin-1, so the rest needs the other one.
 * libpng only reads the strings, whatever its types say.
 */
static png_text png_text_chunk(const char *key, const char *text) {
    return (png_text){.compression = is_ascii(text) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                      .key = (png_charp)(uintptr_t)key,
                      .text = (png_charp)(uintptr_t)text,
                      .text_length = strlen(text)};
}

/* Everything that may jump. */
static int encode_png(png_sink *sink, FILE *stream, const app_picture *from) {
    png_text texts[2];
    int n_texts = 0;
    if (setjmp(png_jmpbuf(sink->png))) return FAILED;
    png_init_io(sink->png, stream);
    png_set_user_limits(sink->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    /* What looks like a photograph takes a third of the time of zlib's default, 6, and as many bytes to 4 % more. */
    png_set_compression_level(sink->png, 4);
    png_set_IHDR(sink->png, sink->info, (png_uint_32)from->width, (png_uint_32)from->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (from->text.parameters) texts[n_texts++] = png_text_chunk(APP_PNG_KEY_PARAMETERS, from->text.parameters);
    if (from->text.record) texts[n_texts++] = png_text_chunk(APP_PNG_KEY_RECORD, from->text.record);
    if (n_texts) png_set_text(sink->png, sink->info, texts, n_texts);
    png_write_info(sink->png, sink->info);
    for (int64_t y = 0; y < from->height; y++) {
        if (report(from, y, from->height) == STOPPED) return STOPPED;
        png_write_row(sink->png, from->pixels + 3 * from->width * y);
    }
    png_write_end(sink->png, NULL);
    return report(from, from->height, from->height);
}

static ink_status write_png(FILE *stream, const app_picture *from, ink_error *error) {
    png_sink sink = {.message = ""};
    ink_status status = INK_OK;
    sink.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &sink, on_png_error, on_png_warning);
    sink.info = sink.png ? png_create_info_struct(sink.png) : NULL;
    errno = 0;
    if (!sink.info)
        status = app_fail_memory(error, "the PNG encoder");
    else
        status = conclude(encode_png(&sink, stream, from), sink.message, error);
    png_destroy_write_struct(&sink.png, &sink.info);
    return status;
}

/* ---- JPEG ---- */

typedef struct jpeg_sink {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr manager;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
} jpeg_sink;

static void on_jpeg_error(j_common_ptr jpeg) {
    jpeg_sink *sink = jpeg->client_data;
    jpeg->err->format_message(jpeg, sink->message);
    if (errno) snprintf(sink->message, sizeof sink->message, "%s", strerror(errno));
    longjmp(sink->jump, 1);
}

static void on_jpeg_message(j_common_ptr jpeg) { (void)jpeg; }

static void write_jpeg_comment(j_compress_ptr jpeg, const char *text) {
    size_t left = strlen(text);
    for (; left > 0;) {
        size_t part = left < JPEG_MOST_COMMENT ? left : JPEG_MOST_COMMENT;
        jpeg_write_marker(jpeg, JPEG_COM, (const JOCTET *)text, (unsigned)part);
        text += part;
        left -= part;
    }
}

static int encode_jpeg(jpeg_sink *sink, FILE *stream, const app_picture *from) {
    j_compress_ptr jpeg = &sink->jpeg;
    if (setjmp(sink->jump)) return FAILED;
    jpeg_create_compress(jpeg);
    jpeg_stdio_dest(jpeg, stream);
    jpeg->image_width = (JDIMENSION)from->width;
    jpeg->image_height = (JDIMENSION)from->height;
    jpeg->input_components = 3;
    jpeg->in_color_space = JCS_RGB;
    jpeg_set_defaults(jpeg);
    jpeg_set_quality(jpeg, JPEG_QUALITY, TRUE);
    /* Full colour resolution: the model draws text, and coloured letters fray when colour is halved. */
    jpeg->comp_info[0].h_samp_factor = jpeg->comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(jpeg, TRUE);
    if (from->text.parameters) write_jpeg_comment(jpeg, from->text.parameters);
    while (jpeg->next_scanline < jpeg->image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(from->pixels + 3 * from->width * jpeg->next_scanline);
        if (report(from, jpeg->next_scanline, from->height) == STOPPED) return STOPPED;
        jpeg_write_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_compress(jpeg);
    return report(from, from->height, from->height);
}

static ink_status write_jpeg(FILE *stream, const app_picture *from, ink_error *error) {
    jpeg_sink sink;
    memset(&sink, 0, sizeof sink);
    sink.jpeg.err = jpeg_std_error(&sink.manager);
    sink.jpeg.client_data = &sink;
    sink.manager.error_exit = on_jpeg_error;
    sink.manager.output_message = on_jpeg_message;
    errno = 0;
    ink_status status = conclude(encode_jpeg(&sink, stream, from), sink.message, error);
    jpeg_destroy_compress(&sink.jpeg);
    return status;
}

/* ---- WebP ---- */

static int write_webp_bytes(const uint8_t *bytes, size_t size, const WebPPicture *image) {
    return fwrite(bytes, 1, size, image->custom_ptr) == size;
}

static int report_webp(int percent, const WebPPicture *image) {
    const app_picture *from = image->user_data;
    return report(from, percent, 100) == ENCODED;
}

static ink_status write_webp(FILE *stream, const app_picture *from, ink_error *error) {
    enum { EFFORT = 6 }; /* of 0..9; what libwebp's own tool takes for lossless files */
    WebPConfig config;
    WebPPicture image;
    if (!WebPConfigInit(&config) || !WebPConfigLosslessPreset(&config, EFFORT) || !WebPPictureInit(&image))
        return app_fail(error, INK_ERROR_INTERNAL, "the WebP library is of another version than its header");
    image.use_argb = 1;
    image.width = (int)from->width;
    image.height = (int)from->height;
    image.writer = write_webp_bytes;
    image.custom_ptr = stream;
    image.progress_hook = report_webp;
    image.user_data = (void *)(uintptr_t)from; /* only read there */
    ink_status status = INK_OK;
    errno = 0;
    if (!WebPPictureImportRGB(&image, from->pixels, (int)(3 * from->width)) || !WebPEncode(&config, &image)) {
        if (image.error_code == VP8_ENC_ERROR_OUT_OF_MEMORY || image.error_code == VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY)
            status = app_fail_memory(error, "the WebP encoder");
        else
            status = conclude(image.error_code == VP8_ENC_ERROR_USER_ABORT ? STOPPED : FAILED,
                              errno ? strerror(errno) : "the WebP encoder failed", error);
    }
    WebPPictureFree(&image);
    return status;
}

ink_status app_image_write(FILE *stream, app_image_format format, const app_picture *picture, ink_error *error) {
    switch (format) {
    case APP_IMAGE_PNG: return write_png(stream, picture, error);
    case APP_IMAGE_JPEG: return write_jpeg(stream, picture, error);
    case APP_IMAGE_WEBP: return write_webp(stream, picture, error);
    }
    return app_fail(error, INK_ERROR_INTERNAL, "unknown picture format");
}
