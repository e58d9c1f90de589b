/*
 * progress.h - how far a run is: one updating line on a terminal, now and then a plain line elsewhere.
 */
#ifndef APP_COMMON_PROGRESS_H
#define APP_COMMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "inkstone.h"

typedef struct app_progress {
    FILE *out;
    bool quiet;
    bool live;        /* a terminal that can rewrite its line */
    bool drawn;       /* the line holds a bar now */
    double last_draw; /* clock, in seconds */
    const char *last_label;
    double write_start; /* clock, at the first app_progress_write */
} app_progress;

void app_progress_begin(app_progress *progress, FILE *out, bool quiet);
void app_progress_update(app_progress *progress, const ink_progress *state);

/* The same for what the program does after the library: encoding the picture. */
void app_progress_write(app_progress *progress, int64_t done, int64_t total);

/* The same for bytes that arrive. label has static storage; per_second is the speed of late, 0 when it is not known. */
void app_progress_bytes(app_progress *progress, const char *label, int64_t done, int64_t total, double per_second);

/* Takes the bar away, so that something else can be printed. */
void app_progress_clear(app_progress *progress);

/* "load", "text", ... as in records and summaries. Static storage. */
const char *app_phase_name(ink_phase phase);

#endif
