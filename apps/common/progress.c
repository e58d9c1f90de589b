/* progress.c - a bar with steps, seconds per step and time left. */
#define _DEFAULT_SOURCE /* struct winsize */
#include "common/progress.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/text_format.h"

static const double redraw_seconds = 0.1;     /* of the bar */
static const double plain_line_seconds = 5.0; /* between lines where nothing can be rewritten */
static const double worth_a_line_seconds = 1.0;

static const struct {
    const char *name, *label;
} phases[INK_N_PHASES] = {
    [INK_PHASE_LOAD] = {"load", "loading"},         [INK_PHASE_TEXT] = {"text", "reading the prompt"},
    [INK_PHASE_PREPARE] = {"prepare", "preparing"}, [INK_PHASE_DENOISE] = {"denoise", "drawing"},
    [INK_PHASE_DECODE] = {"decode", "decoding"},
};

const char *app_phase_name(ink_phase phase) { return phases[phase].name; }

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void app_progress_begin(app_progress *progress, FILE *out, bool quiet) {
    const char *terminal = getenv("TERM");
    bool live = terminal && strcmp(terminal, "dumb") != 0 && isatty(fileno(out));
    *progress = (app_progress){.out = out, .quiet = quiet, .live = live, .last_draw = clock_seconds()};
}

void app_progress_clear(app_progress *progress) {
    if (progress->drawn) fputs("\r\033[K", progress->out);
    if (progress->drawn) fflush(progress->out);
    progress->drawn = false;
}

/* What is being done, and how far. */
typedef struct task {
    const char *label;
    bool steps; /* counted by name; else as a percentage */
    int64_t done, total;
    double fraction; /* of the work, 0..1: moves between units */
    double seconds;
    bool bytes; /* with sizes, and time left by the speed of late: what is done may be of an earlier run */
    double per_second;
} task;

/* " 24%  9.8 GiB of 40.9 GiB  23.4 MiB/s  0:47 left" */
static void describe_bytes(char *text, size_t size, const task *state) {
    char done[APP_SHOWN_SIZE], total[APP_SHOWN_SIZE], speed[APP_SHOWN_SIZE], left[APP_SHOWN_SIZE];
    int length = snprintf(text, size, "%3.0f%%  %s of %s", 100.0 * (double)state->done / (double)state->total,
                          app_show_bytes(done, state->done), app_show_bytes(total, state->total));
    if (state->per_second < 1 || state->done >= state->total) return;
    snprintf(text + length, size - (size_t)length, "  %s/s  %s left", app_show_bytes(speed, (int64_t)state->per_second),
             app_show_duration(left, (double)(state->total - state->done) / state->per_second));
}

/* "step 12/50  1.23 s/step  0:47 left", " 24%  0:47 left", or less where less is known. */
static void describe(char *text, size_t size, const task *state) {
    if (state->bytes) {
        describe_bytes(text, size, state);
        return;
    }
    char each[APP_SHOWN_SIZE], left[APP_SHOWN_SIZE];
    double whole_seconds = state->fraction > 0 ? state->seconds / state->fraction : 0;
    bool left_known = state->fraction > 0 && state->fraction < 1;
    int length;
    if (state->steps) {
        length = snprintf(text, size, "step %" PRId64 "/%" PRId64, state->done, state->total);
        if (state->fraction > 0)
            length += snprintf(text + length, size - (size_t)length, "  %s s/step",
                               app_show_seconds(each, whole_seconds / (double)state->total));
    } else {
        length = snprintf(text, size, "%3.0f%%", 100.0 * state->fraction);
    }
    app_show_duration(left, whole_seconds - state->seconds);
    if (left_known) snprintf(text + length, size - (size_t)length, "  %s left", left);
}

enum { TEXT_SIZE = 160, LABEL_WIDTH = 18, BYTES_LABEL_WIDTH = 8 }; /* of the longest label; of those beside long texts */

static void draw_bar(app_progress *progress, const task *state) {
    enum { WIDEST = 32, NARROWEST = 6 };
    char text[TEXT_SIZE], bar[WIDEST + 1];
    struct winsize window;
    int columns = ioctl(fileno(progress->out), TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    describe(text, sizeof text, state);
    int label_width = state->bytes ? BYTES_LABEL_WIDTH : LABEL_WIDTH;
    int width = columns - 1 - label_width - (int)strlen(text) - 6; /* brackets and spaces */
    if (width > WIDEST) width = WIDEST;
    if (width < NARROWEST) {
        /* A line that wraps cannot be rewritten. */
        fprintf(progress->out, "\r%.*s\033[K", columns - 1, text);
    } else {
        int filled = (int)((double)width * state->fraction);
        for (int i = 0; i < width; i++) bar[i] = i < filled ? '#' : '.';
        bar[width] = 0;
        fprintf(progress->out, "\r%-*s  [%s]  %s\033[K", label_width, state->label, bar, text);
    }
    fflush(progress->out);
    progress->drawn = true;
}

static void show(app_progress *progress, const task *state) {
    double now = clock_seconds();
    bool complete = state->done >= state->total;
    if (progress->live) {
        if (state->label == progress->last_label && !complete && now - progress->last_draw < redraw_seconds) return;
        draw_bar(progress, state);
    } else {
        char text[TEXT_SIZE];
        bool worth = complete && (state->steps || state->seconds >= worth_a_line_seconds);
        if (!worth && now - progress->last_draw < plain_line_seconds) return;
        describe(text, sizeof text, state);
        fprintf(progress->out, "%s: %s\n", state->label, text + strspn(text, " "));
        fflush(progress->out);
    }
    progress->last_draw = now;
    progress->last_label = state->label;
}

void app_progress_update(app_progress *progress, const ink_progress *state) {
    if (progress->quiet || state->phase < 0 || state->phase >= INK_N_PHASES || state->total <= 0) return;
    show(progress, &(task){.label = phases[state->phase].label,
                           .steps = state->phase == INK_PHASE_DENOISE,
                           .done = state->done,
                           .total = state->total,
                           .fraction = state->fraction,
                           .seconds = state->phase_seconds});
}

void app_progress_write(app_progress *progress, int64_t done, int64_t total) {
    if (progress->quiet || total <= 0) return;
    if (progress->write_start == 0) progress->write_start = clock_seconds();
    show(progress, &(task){.label = "writing",
                           .done = done,
                           .total = total,
                           .fraction = (double)done / (double)total,
                           .seconds = clock_seconds() - progress->write_start});
}

void app_progress_bytes(app_progress *progress, const char *label, int64_t done, int64_t total, double per_second) {
    if (progress->quiet || total <= 0) return;
    show(progress, &(task){.label = label,
                           .done = done,
                           .total = total,
                           .fraction = (double)done / (double)total,
                           .bytes = true,
                           .per_second = per_second});
}
