/*
 * fuzz_model_file.c - bytes of one file that is named for every part of a model at once: its container, its names, the config
 * that is read off its shapes, and the binding of what is there. Whatever it is, the call ends with a report or a sentence.
 */
#define _POSIX_C_SOURCE 200809L
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inkstone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

static void check_report(const ink_report *report) {
    for (size_t i = 0; i < report->n_components; i++) {
        const ink_component_report *part = &report->components[i];
        require(part->name && part->class_name && part->dtypes && part->path && part->container && part->runs);
        require(part->n_tensors >= 0 && part->n_bytes >= 0 && part->n_parameters >= 0);
        for (size_t j = 0; j < part->n_missing; j++) require(part->missing[j] != NULL);
        for (size_t j = 0; j < part->n_unexpected; j++) require(part->unexpected[j] != NULL);
        require(!part->problem || part->problem[0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[] = "/tmp/inkstone-fuzz-XXXXXX";
    int descriptor = mkstemp(path);
    require(descriptor >= 0);
    for (size_t done = 0; done < size;) {
        ssize_t n = write(descriptor, data + done, size - done);
        require(n > 0);
        done += (size_t)n;
    }
    require(close(descriptor) == 0);
    const ink_model_options options = {.transformer_file = path,
                                       .text_encoder_file = path,
                                       .vae_file = path,
                                       .tokenizer_dir = INK_TEST_SOURCE_DIR "/tests/golden/tiny/tokenizer"};
    ink_report *report;
    ink_error error;
    if (ink_inspect(&report, NULL, &options, &error) == INK_OK)
        check_report(report);
    else
        require(!report && error.status != INK_OK && error.message[0]);
    ink_report_destroy(&report);
    require(unlink(path) == 0);
    return 0;
}
