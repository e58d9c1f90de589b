/* bench_phases.h - what ink_bench measures: single phases, or whole pictures. */
#ifndef INK_PIPELINE_BENCH_PHASES_H
#define INK_PIPELINE_BENCH_PHASES_H

#include <stdbool.h>

#include "pipeline/generate.h"

/* All cases of one precision. Options are resolved: nothing in them stands for a default. */
typedef struct ink_bench_run {
    const ink_bench_options *options;
    ink_session *session;
    ink_model *model;      /* synthetic, of this precision */
    ink_bench_case *cases; /* [n_sizes], with what is known before anything runs */
    ink_error *error;
} ink_bench_run;

/* Fill in what was measured. Errors: MEMORY, CANCELLED. */
ink_status ink_bench_phases(ink_bench_run *run);
ink_status ink_bench_picture(ink_bench_run *run, size_t i);

/* What single phases fill in beside times, for a whole picture: products, and forward and block from the time of a step. */
ink_status ink_bench_add_flops(ink_bench_run *run, ink_bench_case *c);

/* Least and median of times [n], which are sorted by this; n >= 1. */
ink_bench_time ink_bench_time_of(double *times, int64_t n, double flops);

enum { INK_BENCH_MOST_RUNS = 10000 };

#endif
