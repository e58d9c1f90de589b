/* run.h - one run on its way from a request to a picture: what it has, its progress, and the weights that it holds. */
#ifndef INK_PIPELINE_RUN_H
#define INK_PIPELINE_RUN_H

#include "pipeline/budget.h"
#include "pipeline/generate.h"
#include "pipeline/prompt.h"

/* One prompt on its way: its tokens, then its text states. */
typedef struct ink_side {
    ink_prompt prompt;
    ink_tensor states; /* [n - drop, hidden] */
} ink_side;

typedef struct ink_run {
    ink_session *session; /* NULL in a dry run */
    const ink_model *model;
    ink_request request; /* resolved */
    const float *noise;  /* to start from, or NULL */
    ink_memory_plan *plan;
    ink_stages *stages; /* or NULL */
    ink_error *error;
    ink_ctx ctx;
    ink_arena arena;
    const ink_device *device;      /* that draws, or will; NULL in a dry run for the host */
    ink_networks own;              /* ... and of it the networks, unless the session keeps them */
    ink_networks *networks;        /* own, or the session's */
    ink_adapters *adapters;        /* owned; NULL without LoRA */
    ink_side sides[INK_MAX_SIDES]; /* the prompt; with guidance, the negative prompt */
    int n_sides;
    int64_t latent_height, latent_width, n_img; /* in latent pixels; in tokens */
    ink_tensor latents;                         /* [n_img, channels] */
    ink_tensor cos, sin;                        /* of the positions of all sides' texts, then of all sides' images */
    ink_tensor velocity;                        /* [n_sides * n_img, channels] */
    bool bound_ahead;                           /* the transformer, before the prompts are read */
    float *sigmas, *times;                      /* owned: [steps + 1], [steps] */
    ink_modulation modulation;
    ink_modulator modulator; /* whose weights have come with the transformer's; else it has no layers */
    ink_store modulator_store;
    size_t n_modulator_uploads;
    ink_tensor pixels;                         /* [height * width, 3] */
    ink_need needs[INK_N_NEEDS];               /* from a dry run */
    double phase_work[INK_N_PHASES];           /* from a dry run: of the whole phase */
    int64_t component_bytes[INK_N_COMPONENTS]; /* from a dry run: what loading goes through */
    int64_t kept_bytes;                        /* from a dry run: of the modulation, for a device to keep */
    ink_phase phase;
    int64_t done, total; /* units of the phase */
    int64_t phase_first; /* ... of which so many are not in its time and fraction */
    double phase_began, phase_first_work, last_report;
} ink_run;

static inline bool ink_run_is_dry(const ink_run *r) { return !r->session; }

static inline bool ink_run_failed(const ink_run *r) { return r->ctx.status != INK_OK; }

/* Whether weights and activations lie on a device. */
static inline bool ink_run_is_remote(const ink_run *r) { return r->device && r->device->memory; }

void ink_run_fail_memory(ink_run *run, const char *what);

/* ---- progress ------------------------------------------------------------------------------------------------------ */

/* A phase of so many units; what was queued in it is done when it ends. A dry run counts its work. */
void ink_run_begin_phase(ink_run *run, ink_phase phase, int64_t total);
void ink_run_unit_done(ink_run *run);
void ink_run_end_phase(ink_run *run);

/* After each op: what it did moves the fraction, now and then. */
void ink_run_op_worked(void *run);

/* ---- weights ------------------------------------------------------------------------------------------------------- */

ink_binder ink_run_binder(ink_run *run, ink_component component, ink_store *store);

/* Takes over how a binding went; a dry run keeps what was counted. */
void ink_run_bound(ink_run *run, ink_binder *binder, ink_component component, ink_need *need);

/*
 * Around the binding of a network, which is a phase: of n parts, some of which may come and go; 0: all of it stays. follows: what
 * is not there at the end is on its way.
 */
ink_binder *ink_run_begin_binding(ink_run *run, ink_component component, const ink_need *need, int64_t n_parts, bool follows);
void ink_run_end_binding(ink_run *run, ink_component component, ink_need *need);

/* Waits for what is on its way, the first n_uploads of it or all (INK_ALL_UPLOADS), in a phase of its own. */
void ink_run_await(ink_run *run, ink_component component, size_t n_uploads);

/* After the first pass through a network whose weights were on their way: by now all are there, and the time was spent on that. */
void ink_run_end_bringing(ink_run *run, ink_component component);

/*
 * Ends the use of a component: its files' pages need not stay with this process, and what was converted is freed, unless the
 * device has room for it and the next picture can use it, which it cannot with a LoRA.
 */
void ink_run_leave(ink_run *run, ink_component component);

#endif
