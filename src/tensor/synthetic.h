/*
 * synthetic.h - random numbers in place of a checkpoint's, for measurements: in the form that a precision asks for, made fast.
 *
 * A matrix is copied together from a pool: some rows of normal numbers of deviation 1 / sqrt(cols), encoded once for each type
 * and width as a real matrix would be. Every row of a matrix is a row of the pool, turned by whole groups, both chosen by the name
 * and the row. So codes and scales are those of quantised data, each matrix has memory of its own, and a name always gives the
 * same numbers, whatever was filled before and on any number of threads.
 */
#ifndef INK_TENSOR_SYNTHETIC_H
#define INK_TENSOR_SYNTHETIC_H

#include <stdbool.h>

#include "base/threads.h"
#include "tensor/weight.h"

typedef struct ink_synthetic ink_synthetic;

/* The threads are borrowed, and used while filling. NULL without memory. */
ink_synthetic *ink_synthetic_create(ink_threads *threads);
void ink_synthetic_destroy(ink_synthetic **synthetic);

/* Fills w, as ink_quantize_describe describes it, whose memory is the caller's. False without memory for a pool. */
bool ink_synthetic_matrix(ink_synthetic *synthetic, const ink_weight *w, const char *name);

/* dst [n], numbers of bf16 as the published files have: around 1 for the weights of a norm, which the name tells, else around 0. */
void ink_synthetic_vector(ink_synthetic *synthetic, float *dst, int64_t n, const char *name);

/* Spent on filling so far, on the caller's clock. */
double ink_synthetic_seconds(const ink_synthetic *synthetic);

#endif
