/*
 * lagging_device.h - a stand-in on the host for a device with memory of its own, which does what it is told as late as it may: work
 * aside when it is joined, or the other work when work aside waits for it, copies to slots when they are awaited, what is sent
 * beside the work when it is to be seen; until then there is NaN. Its ops are those of `ref`. Recorded work is kept and replayed.
 * There is one at a time.
 */
#ifndef INK_TEST_LAGGING_DEVICE_H
#define INK_TEST_LAGGING_DEVICE_H

#include "ops/device.h"

typedef struct lagging_counts {
    int64_t bytes, peak_bytes;   /* of the device: now, and at most since the last reset */
    int64_t shared, peak_shared; /* the same of page-locked memory */
    int64_t n_fetched;           /* copies to slots */
    int64_t n_replayed;
    int64_t n_beside; /* ops that were given while something was being sent */
} lagging_counts;

/* total_bytes: what it says that it has, and gives no more than. */
ink_device lagging_device(int64_t total_bytes);

/* Which of the two queues is late from the next device on: what is aside, as at first, or the other one. */
void lagging_device_let_main_lag(bool lags);

/* Whether it takes a moment until a piece may be filled anew, so that ops catch up with what is sent beside them. */
void lagging_device_let_senders_lag(bool lag);

lagging_counts lagging_device_counts(void);
void lagging_device_reset_counts(void);

/* The n-th taking of memory from now on, of either kind, fails, once; 0: none. */
void lagging_device_fail_at(int64_t n);
/* The n-th op from now on calls this, before it runs. */
void lagging_device_call_at(int64_t n, void (*call)(void *user), void *user);

#endif
