/* ops_tiers.h - the tables that tiers are made of. */
#ifndef INK_OPS_OPS_TIERS_H
#define INK_OPS_OPS_TIERS_H

#include "ops/ops.h"

extern const ink_ops ink_ops_ref; /* the definition of every op: ops/ref */
extern const ink_ops ink_ops_cpu; /* tiers c, avx2, ...: ops/cpu */

#endif
