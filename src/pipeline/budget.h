/*
 * budget.h - how many blocks of each network stay in memory, so that a run keeps within what it may have.
 */
#ifndef INK_PIPELINE_BUDGET_H
#define INK_PIPELINE_BUDGET_H

#include "inkstone.h"
#include "tensor/residency.h"

/* The weights that a phase of a run holds, as a dry run has counted them. */
typedef struct ink_need {
    int64_t mapped_bytes, stored_bytes; /* held throughout: in place, and of our own */
    int64_t passing_bytes;              /* of a file, while it is converted or used once */
    ink_part *parts;                    /* [n_parts] owned, without their ranges: what comes on top, part by part */
    int64_t n_parts, n_stay;
    int64_t whole_bytes; /* on a device, where there is room: held instead of stored_bytes; 0: never */
    bool whole;
} ink_need;

enum { INK_NEED_TEXT, INK_NEED_MODULATION, INK_NEED_DENOISE, INK_NEED_VAE, INK_N_NEEDS };

/*
 * Sets n_stay of every need, and `whole`, and what follows from it in the plan, whose scratch_bytes and available_bytes are known.
 * asked: 0, or the most that may be resident; without one, a limit is set where the weights do not fit what is available.
 * base_bytes: what the process has anyway. Errors: MEMORY (too small a budget; the sentence names the least).
 */
ink_status ink_budget_apply(ink_memory_plan *plan, ink_need needs[INK_N_NEEDS], int64_t asked, int64_t base_bytes,
                            ink_error *error);

/*
 * The same for a device with memory of its own. limit: the most that may be used; extra: what is used beside weights and scratch.
 * Errors: MEMORY (of the device, where the sentence names the least, or of the host for what comes and goes); the plan is filled in
 * all the same.
 */
ink_status ink_budget_apply_device(ink_memory_plan *plan, ink_need needs[INK_N_NEEDS], int64_t limit, int64_t extra,
                                   ink_error *error);

void ink_needs_release(ink_need needs[INK_N_NEEDS]);

#endif
