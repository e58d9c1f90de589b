/* networks.h - the networks of a run and the weights that they hold. */
#ifndef INK_PIPELINE_NETWORKS_H
#define INK_PIPELINE_NETWORKS_H

#include "inkstone.h"
#include "model/mmdit.h"
#include "model/text_encoder.h"
#include "model/vae.h"
#include "pipeline/sources.h"

/* The weights of one network. */
typedef struct ink_holding {
    bool held; /* they are there */
    ink_binder binder;
    ink_store store;
    ink_residency *residency;
} ink_holding;

/*
 * The networks of a run. A session on a device with memory of its own keeps them, and what else the next picture can use, from one
 * picture to the next.
 */
typedef struct ink_networks {
    ink_holding holdings[INK_N_COMPONENTS];
    ink_text_encoder text_encoder;
    ink_mmdit mmdit;
    ink_vae_decoder *vae; /* owned: some thousand pointers, too large for a stack */
    void *scratch;        /* on the device */
    size_t scratch_bytes;
    ink_arena kept; /* ... of what outlives a phase: the modulation of `times` */
    ink_modulation modulation;
    float *times; /* owned: [modulation.n_steps] that modulation is of, or NULL */
    ink_replay forward;
    int64_t recorded[6]; /* what that forward was of; see generate.c */
} ink_networks;

/* Frees the weights of one network. */
void ink_networks_drop(ink_networks *networks, ink_component component);

/* What the device may be filled with: the budget, if there is one, or what it can give beside what is kept (NULL: nothing). */
int64_t ink_networks_limit(const ink_networks *kept, const ink_device *device, int64_t budget);

/*
 * The arena of a run, of plan->scratch_bytes in memory that is kept. What the session keeps for its pictures does not stand in the
 * way of one that needs more: unless all weights may stay, none do, nor more scratch and modulation (kept_bytes) than this picture
 * needs. False without memory.
 */
bool ink_networks_take_arena(ink_networks *networks, const ink_device *device, ink_arena *arena, const ink_memory_plan *plan,
                             size_t kept_bytes);

/* Whether the modulation is of these times. */
bool ink_networks_know(const ink_networks *networks, const float *times, int64_t n_steps);

/* Room for the modulation of n_steps, in kept_bytes of memory that is kept; its times are not known. False without memory. */
bool ink_networks_take_modulation(ink_networks *networks, const ink_ctx *c, const ink_mmdit_config *config, int64_t n_steps,
                                  size_t kept_bytes);

/* Frees all that is kept; device: that it is kept on. */
void ink_networks_release(ink_networks *networks, const ink_device *device);

#endif
