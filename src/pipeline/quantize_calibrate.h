/* quantize_calibrate.h - what the rounding of a matrix does to the output of its layer, on a short run of the model. */
#ifndef INK_PIPELINE_QUANTIZE_CALIBRATE_H
#define INK_PIPELINE_QUANTIZE_CALIBRATE_H

#include "pipeline/quantize_plan.h"

/*
 * Draws a small picture with the model as it is stored, and fills `output` of the items that become smaller: x W^T against x V^T,
 * V being what W becomes, for some rows of every x. *sentence (owned by the caller) says what was run. Errors: as ink_generate.
 */
ink_status ink_quantize_calibrate(ink_quantize_plan *plan, ink_model *model, const ink_quantize_options *options, char **sentence,
                                  ink_error *error);

#endif
