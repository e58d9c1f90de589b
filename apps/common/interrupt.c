/* interrupt.c - Ctrl-C and its kin. */
#define _POSIX_C_SOURCE 200809L
#include "common/interrupt.h"

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

enum { N_FILES = 4 };

static volatile sig_atomic_t caught;
static _Atomic(ink_session *) watched;
static char files[N_FILES][PATH_MAX];
static atomic_bool file_used[N_FILES];

static void remove_files(void) {
    for (int i = 0; i < N_FILES; i++)
        if (atomic_load(&file_used[i])) unlink(files[i]);
}

/* A file that is mapped has become shorter, or its disk fails: what was to be read there is not, and there is no way on. */
static void handle_lost_file(int number, siginfo_t *info, void *context) {
    static const char sentence[] =
        "\ninkstone: a file of the model can no longer be read: it has become shorter since it was opened, or "
        "its disk or network fails; nothing was written\n";
    (void)context;
    if (info->si_code != BUS_ADRERR) { /* something else is wrong: as if there were no handler */
        signal(number, SIG_DFL);
        return;
    }
    remove_files();
    (void)!write(STDERR_FILENO, sentence, sizeof sentence - 1);
    _exit(EXIT_FAILURE);
}

static void handle(int number) {
    if (caught) {
        remove_files();
        _exit(128 + number);
    }
    caught = number;
    ink_session *session = atomic_load(&watched);
    if (session) ink_session_cancel(session);
}

void app_interrupt_install(void) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = handle; /* without SA_RESTART, so that a read from a terminal ends too */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* nohup has SIGHUP ignored, and wants it so. */
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
    /* These would end the program with its temporary files in place; the failing write reports them instead. */
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
    action.sa_sigaction = handle_lost_file;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, NULL);
}

int app_interrupt_caught(void) { return caught; }

void app_interrupt_watch(ink_session *session) {
    atomic_store(&watched, session);
    /* A signal that came before there was a session must not be lost. */
    if (session && caught) ink_session_cancel(session);
}

int app_interrupt_add_file(const char *path) {
    size_t size = strlen(path) + 1;
    if (size > PATH_MAX) return -1;
    for (int i = 0; i < N_FILES; i++)
        if (!atomic_load(&file_used[i])) {
            memcpy(files[i], path, size);
            atomic_store(&file_used[i], true);
            return i;
        }
    return -1;
}

void app_interrupt_drop_file(int handle_index) {
    if (handle_index >= 0) atomic_store(&file_used[handle_index], false);
}
