/*
 * fuzz_png_metadata.c - what --again reads: the text chunks of a PNG file, and the record in one of them. An input that starts
 * with '{' goes to the record's parser at once, so that the fuzzer need not find out how a checksum is made.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/png_metadata.h"
#include "common/request_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A record that was accepted must survive being written and read again. */
static void check_record(const char *text, size_t size) {
    app_record record, again;
    ink_error error;
    if (app_record_parse(&record, text, size, "input", &error) != INK_OK) return;
    char *json = app_record_to_json(&record), *parameters = app_record_to_parameters(&record);
    if (!json || !parameters || app_record_parse(&again, json, strlen(json), "output", &error) != INK_OK) abort();
    if (strcmp(record.request.prompt, again.request.prompt) != 0 || record.request.seed != again.request.seed ||
        record.request.guidance != again.request.guidance || record.request.cuda_sms != again.request.cuda_sms)
        abort();
    app_record_clear(&again);
    app_record_clear(&record);
    free(parameters);
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    app_png_metadata metadata;
    ink_error error;
    if (size == 0) return 0;
    if (data[0] == '{') {
        check_record((const char *)data, size);
        return 0;
    }
    uint8_t *copy = malloc(size);
    FILE *stream = copy ? fmemopen(memcpy(copy, data, size), size, "rb") : NULL;
    if (stream) {
        if (app_png_metadata_read(&metadata, stream, "input", &error) == INK_OK && metadata.record)
            check_record(metadata.record, strlen(metadata.record));
        app_png_metadata_clear(&metadata);
        fclose(stream);
    }
    free(copy);
    return 0;
}
