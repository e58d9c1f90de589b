/* progress.c - a bar with steps, seconds per step and time left. */
#define _DEFAULT_SOURCE /* struct winsize */
#include "common/progress.h"

#include <inttypes.h>
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
    *progress = (app_progress){.out = out, .quiet = quiet, .live = live, .last_draw = clock_seconds(), .last_phase = INK_N_PHASES};
}

void app_progress_clear(app_progress *progress) {
    if (progress->drawn) fputs("\r\033[K", progress->out);
    if (progress->drawn) fflush(progress->out);
    progress->drawn = false;
}

/* "12/50  1.23 s/step  0:47 left", or less where less is known. */
static void describe(char *text, size_t size, const ink_progress *state) {
    char each[APP_SHOWN_SIZE], left[APP_SHOWN_SIZE];
    double seconds = state->done > 0 ? state->phase_seconds / (double)state->done : 0;
    app_show_duration(left, seconds * (double)(state->total - state->done));
    if (state->phase == INK_PHASE_DENOISE) {
        int length = snprintf(text, size, "step %" PRId64 "/%" PRId64, state->done, state->total);
        if (state->done > 0 && length > 0 && (size_t)length < size)
            length += snprintf(text + length, size - (size_t)length, "  %s s/step", app_show_seconds(each, seconds));
        if (state->done > 0 && state->done < state->total && length > 0 && (size_t)length < size)
            snprintf(text + length, size - (size_t)length, "  %s left", left);
    } else if (state->done > 0) {
        snprintf(text, size, "%3.0f%%  %s left", 100.0 * (double)state->done / (double)state->total, left);
    } else {
        snprintf(text, size, "  0%%");
    }
}

static void draw_bar(app_progress *progress, const ink_progress *state) {
    enum { WIDEST = 32, NARROWEST = 6 };
    char text[120], bar[WIDEST + 1];
    struct winsize window;
    int columns = ioctl(fileno(progress->out), TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    const char *label = phases[state->phase].label;
    describe(text, sizeof text, state);
    int width = columns - 1 - 18 - (int)strlen(text) - 6; /* the longest label, brackets and spaces */
    if (width > WIDEST) width = WIDEST;
    if (width < NARROWEST) {
        /* A line that wraps cannot be rewritten. */
        fprintf(progress->out, "\r%.*s\033[K", columns - 1, text);
    } else {
        int filled = (int)((double)width * (double)state->done / (double)state->total);
        for (int i = 0; i < width; i++) bar[i] = i < filled ? '#' : '.';
        bar[width] = 0;
        fprintf(progress->out, "\r%-18s  [%s]  %s\033[K", label, bar, text);
    }
    fflush(progress->out);
    progress->drawn = true;
}

void app_progress_update(app_progress *progress, const ink_progress *state) {
    if (progress->quiet || state->phase < 0 || state->phase >= INK_N_PHASES || state->total <= 0) return;
    double now = clock_seconds();
    bool complete = state->done >= state->total;
    if (progress->live) {
        if (state->phase == progress->last_phase && !complete && now - progress->last_draw < redraw_seconds) return;
        draw_bar(progress, state);
    } else {
        char text[120];
        bool worth = complete && (state->phase == INK_PHASE_DENOISE || state->phase_seconds >= worth_a_line_seconds);
        if (!worth && now - progress->last_draw < plain_line_seconds) return;
        describe(text, sizeof text, state);
        fprintf(progress->out, "%s: %s\n", phases[state->phase].label, text + strspn(text, " "));
        fflush(progress->out);
    }
    progress->last_draw = now;
    progress->last_phase = state->phase;
}
