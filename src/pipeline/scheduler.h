/*
 * scheduler.h - the noise levels of a run: flow-match Euler with dynamic shift and terminal stretch.
 * Source: diffusers, scheduling_flow_match_euler_discrete.py and pipeline_qwenimage.py (calculate_shift).
 */
#ifndef INK_PIPELINE_SCHEDULER_H
#define INK_PIPELINE_SCHEDULER_H

#include "model/config.h"

/*
 * sigmas [n_steps + 1], falling from 1, the last one 0, for a picture of n_img tokens. With one step the stretch to
 * shift_terminal has no meaning (the reference divides by zero): sigmas are then 1, 0.
 */
void ink_scheduler_sigmas(float *sigmas, const ink_scheduler_config *config, int64_t n_steps, int64_t n_img);

/* times [n_steps]: sigma as the transformer is given it. */
void ink_scheduler_times(float *times, const ink_scheduler_config *config, const float *sigmas, int64_t n_steps);

#endif
