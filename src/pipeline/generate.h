/* generate.h - a session, and the run that turns a request into a picture. */
#ifndef INK_PIPELINE_GENERATE_H
#define INK_PIPELINE_GENERATE_H

#include "ops/ops.h"
#include "pipeline/model.h"
#include "pipeline/networks.h"
#include "pipeline/stages.h"

struct ink_session {
    const ink_model *model; /* borrowed */
    ink_threads *threads;
    ink_device device;
    ink_device definition; /* tier ref, for INK_CHECK */
    char no_gpu[200];      /* why "auto" took none; "" */
    bool check, poison;
    FILE *trace;
    void (*observe)(void *user, ink_tensor x, const ink_weight *w); /* as in ink_ctx; NULL */
    void *observe_user;
    atomic_int cancel;
    ink_networks networks; /* kept on a device */
    ink_stats stats;       /* of the last run */
};

/*
 * Runs a checked request dry and counts. device: NULL, or the one that is to draw; kept: NULL, or what its session has there
 * already. Errors: ARGUMENT, FORMAT (a tensor that does not fit), MEMORY.
 */
ink_status ink_generate_plan(ink_memory_plan *plan, const ink_model *model, const ink_device *device, const ink_networks *kept,
                             const ink_request *request, ink_error *error);

/*
 * Draws. image and stages may each be NULL; stages must be empty and are released by the caller in any case. noise, if not NULL, is
 * [n_img * channels], packed: drawing starts from it instead of from what the generator draws, which is still kept as the stage.
 */
ink_status ink_generate_run(ink_session *session, const ink_request *request, const float *noise, ink_image **image,
                            ink_stages *stages, ink_error *error);

#endif
