/*
 * stages.h - what a run went through, kept for comparison: the content of a dump and of a reference file.
 */
#ifndef INK_PIPELINE_STAGES_H
#define INK_PIPELINE_STAGES_H

#include <stdbool.h>

#include "inkstone.h"
#include "tensor/tensor.h"

typedef enum ink_stage_name {
    INK_STAGE_PROMPT_EMBEDS,   /* [n_tokens, hidden] */
    INK_STAGE_NEGATIVE_EMBEDS, /* [n_tokens, hidden], with guidance only */
    INK_STAGE_NOISE,           /* [n_img, channels] */
    INK_STAGE_SIGMAS,          /* [steps + 1] */
    INK_STAGE_LATENTS,         /* [steps, n_img, channels], after each step */
    INK_STAGE_IMAGE,           /* [height, width, 3] in 0..1 */
    INK_N_STAGES
} ink_stage_name;

typedef struct ink_stage {
    float *data; /* owned; NULL when the run had no such stage */
    int n_dims;
    int64_t shape[3];
} ink_stage;

typedef struct ink_stages {
    ink_stage stage[INK_N_STAGES];
} ink_stages;

/* "latents", as in the files. Static storage. */
const char *ink_stage_label(ink_stage_name name);

/* Makes room for a stage of n_dims dimensions. False without memory. */
bool ink_stages_take(ink_stages *stages, ink_stage_name name, int n_dims, const int64_t *shape);
/* Takes a copy of x [rows, cols] as a whole stage. False without memory. */
bool ink_stages_copy(ink_stages *stages, ink_stage_name name, ink_tensor x);
void ink_stages_release(ink_stages *stages);

/* Writes them with the request as metadata. guided: whether guidance was active. Errors: IO, MEMORY. */
ink_status ink_stages_write(const ink_stages *stages, const char *path, const ink_request *request, bool guided, ink_error *error);

#endif
