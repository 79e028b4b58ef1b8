/* rows.h: ops on runs of contiguous bytes, each run by itself: softmax and layer normalization. A unit is one run. */
#ifndef QK_ROWS_H
#define QK_ROWS_H

#include "elementwise.h"

/* count * 255 < 2^31 holds below this; sums of squares times count stay below 2^63. */
enum { QK_NORMALIZE_MAX = 1 << 23 };

int32_t qk_softmax_valid(const qk_op *op);
int32_t qk_normalize_valid(const qk_op *op);
qk_work qk_softmax_work(const qk_op *op);
qk_work qk_normalize_work(const qk_op *op);

static inline float qk_softmax_factor(const qk_softmax_params *p, int64_t sum) {
    return (float)(1.0 / ((double)sum * (double)p->out_scale));
}

/* sum: S; squares: the sum of x^2. */
static inline float qk_normalize_factor(const qk_normalize_params *p, int64_t sum, int64_t squares) {
    const double count = (double)p->count;
    const double variance = (double)(p->count * squares - sum * sum) / (count * count) * (p->in_scale * p->in_scale);
    return (float)(p->in_scale / sqrt(variance + p->epsilon) / count);
}

#endif
