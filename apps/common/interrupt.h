/*
 * interrupt.h - Ctrl-C and its kin. The first signal asks the running session to stop, and the program then leaves in good
 * order; a second one removes the unfinished files and ends the program at once.
 *
 * This is the one place of the programs with state of its own: a signal handler has no other way to reach anything.
 */
#ifndef APP_COMMON_INTERRUPT_H
#define APP_COMMON_INTERRUPT_H

#include "inkstone.h"

/*
 * Catches SIGINT, SIGTERM and SIGHUP; turns broken pipes and exceeded file sizes into write errors. Where a mapped file can no
 * longer be read (SIGBUS) the program ends at once, with a sentence and without its unfinished files.
 */
void app_interrupt_install(void);

/* The signal that was caught, or 0. */
int app_interrupt_caught(void);

/* The session to cancel, or NULL. Set it to NULL before the session is destroyed. */
void app_interrupt_watch(ink_session *session);

/* A file to remove when the program is killed by a second signal. Returns a handle, or -1 where there is no more room. */
int app_interrupt_add_file(const char *path);
void app_interrupt_drop_file(int handle);

#endif
