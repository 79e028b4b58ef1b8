/* lookup.h: y = table[x] over a contiguous run, in place if out == in. */
#ifndef QK_AVX2_LOOKUP_H
#define QK_AVX2_LOOKUP_H

#include "internal.h"

void qk_lookup_run_avx2(uint8_t *out, const uint8_t *in, int64_t count, const uint8_t *table);

#endif
