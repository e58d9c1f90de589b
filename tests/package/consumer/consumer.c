/* consumer.c - the least that a user of an installed library does: opening a folder that is not there fails with a sentence. */
#include <inkstone.h>
#include <stdio.h>

int main(void) {
    ink_error error;
    ink_model *model;
    ink_status status = ink_model_open(&model, "/nonexistent", NULL, &error);
    printf("Inkstone %s: %s: %s\n", ink_version(), ink_status_name(status), error.message);
    return status == INK_ERROR_IO && !model ? 0 : 1;
}
