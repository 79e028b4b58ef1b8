/* stream.h: sums and normalizations of float32 rows, between products that end in float32. */
#ifndef QK_STREAM_H
#define QK_STREAM_H

#include "elementwise.h"

enum { QK_STREAM_SUMS = 8 }; /* partial sums of a row: value i belongs to sum i % 8 */

int32_t qk_add_float_valid(const qk_op *op);
int32_t qk_normalize_float_valid(const qk_op *op);
qk_work qk_add_float_work(const qk_op *op);
qk_work qk_normalize_float_work(const qk_op *op);

/* Elements of a unit of QK_ADD_FLOAT: a range of one period. */
typedef struct {
    int64_t first, repeated, count; /* in a and the output; in b */
} qk_add_unit;

static inline int64_t qk_add_blocks(const qk_add_float_params *p) {
    return qk_divide_up(p->period, QK_NEST_BLOCK);
}

static inline qk_add_unit qk_add_unit_at(const qk_add_float_params *p, int64_t index) {
    const int64_t blocks = qk_add_blocks(p), begin = index % blocks * QK_NEST_BLOCK;
    return (qk_add_unit){index / blocks * p->period + begin, begin, qk_min64(QK_NEST_BLOCK, p->period - begin)};
}

typedef struct {
    float mean, factor;
} qk_float_normal;

/* The eight sums of a tree: (0 + 4), (1 + 5)..., then those two apart, then the neighbours. */
static inline double qk_sum_of_eight(const double s[QK_STREAM_SUMS]) {
    const double even = (s[0] + s[4]) + (s[2] + s[6]), odd = (s[1] + s[5]) + (s[3] + s[7]);
    return even + odd;
}

static inline qk_float_normal qk_float_normal_of(const qk_normalize_float_params *p, double sum, double squares) {
    const double count = (double)p->count, mean = p->centred ? sum / count : 0.0;
    const double variance = squares / count - mean * mean;
    return (qk_float_normal){(float)mean, (float)(1.0 / sqrt((variance > 0.0 ? variance : 0.0) + p->epsilon))};
}

#endif
