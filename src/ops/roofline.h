/*
 * roofline.h - what a machine can do at most, measured: against these rates stand those of the ops.
 *
 * Rates are per second, of all threads of a device together, the best of some trials: other work only ever slows one down.
 */
#ifndef INK_OPS_ROOFLINE_H
#define INK_OPS_ROOFLINE_H

#include "ops/ops.h"

/*
 * FLOP per second of the tier's inner loop for products with weights of that type, packed panels of left rows and of weights in the
 * second-level cache: what `linear` would reach without packing, memory and epilogue. seconds is about how long
 * it takes. 0: the tier has no such loop (`ref`), or there is no memory.
 */
double ink_cpu_peak_flops(const ink_device *device, ink_dtype weights, double seconds);

/* Bytes per second; 0: no memory. */
typedef struct ink_bandwidth {
    double read; /* one pass over a buffer */
    double copy; /* from one half of it to the other, bytes read and bytes written */
} ink_bandwidth;

/* Of a buffer of so many bytes, which should be much larger than the caches. */
ink_bandwidth ink_cpu_bandwidth(const ink_device *device, int64_t bytes, double seconds);

#endif
