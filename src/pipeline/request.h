/* request.h - what a request means for a model: defaults resolved. */
#ifndef INK_PIPELINE_REQUEST_H
#define INK_PIPELINE_REQUEST_H

#include <stdbool.h>

#include "inkstone.h"
#include "model/config.h"

/* The model's schedule with what the request says of it. */
ink_scheduler_config ink_request_schedule(const ink_request *request, const ink_model *model);

/* Whether classifier-free guidance runs: the reference asks for both a scale above 1 and a negative prompt. */
bool ink_request_guided(const ink_request *request);

/* A copy with INK_NOISE_AUTO replaced by what it stands for. */
ink_request ink_request_resolved(const ink_request *request, const ink_model *model);

#endif
