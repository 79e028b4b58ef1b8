/* rows.h: softmax and normalizations. A unit is one run of contiguous bytes, or some groups of channels of an image. */
#ifndef QK_ROWS_H
#define QK_ROWS_H

#include <string.h>

#include "elementwise.h"

enum {
    QK_NORMALIZE_MAX = 1 << 23, /* n * 255 < 2^31 holds below this; sums of squares times n stay below 2^63 */
    QK_LRN_WINDOW_MAX = 257,    /* 257 * 255^2 < 2^24 */
    QK_LRN_FIRST_SEGMENT = 127 << 7,
    QK_GROUP_CHANNELS = 64 /* a unit of group normalization has about this many channels */
};

int32_t qk_softmax_valid(const qk_op *op);
int32_t qk_normalize_valid(const qk_op *op);
int32_t qk_group_normalize_valid(const qk_op *op);
int32_t qk_lrn_valid(const qk_op *op);
qk_work qk_softmax_work(const qk_op *op);
qk_work qk_normalize_work(const qk_op *op);
qk_work qk_group_normalize_work(const qk_op *op);
qk_work qk_lrn_work(const qk_op *op);

static inline float qk_softmax_factor(const qk_softmax_params *p, int64_t sum) {
    return (float)(1.0 / ((double)sum * (double)p->out_scale));
}

/* S and a of n values. squares: the sum of x^2. */
typedef struct {
    int32_t whole;
    float factor;
} qk_normal;

static inline qk_normal qk_normal_of(int64_t n, int32_t origin, int64_t sum, int64_t squares, double in_scale,
                                     double epsilon) {
    const int64_t whole = origin < 0 ? sum : n * origin;
    const int64_t spread =
        origin < 0 ? n * squares - sum * sum : n * (squares - 2 * origin * sum + n * origin * origin);
    const double count = (double)n;
    const double variance = (double)spread / (count * count) * (in_scale * in_scale);
    return (qk_normal){(int32_t)whole, (float)(in_scale / sqrt(variance + epsilon) / count)};
}

/* A unit of group normalization: groups first..first + count - 1 of an image. */
typedef struct {
    int64_t image, first, count, channels; /* channels: of one group */
} qk_group_unit;

static inline int64_t qk_groups_a_unit(const qk_group_normalize_params *p) {
    return qk_min64(p->groups, qk_max64(1, QK_GROUP_CHANNELS * p->groups / p->channels));
}

static inline qk_group_unit qk_group_unit_at(const qk_group_normalize_params *p, int64_t index) {
    const int64_t most = qk_groups_a_unit(p), blocks = qk_divide_up(p->groups, most), first = index % blocks * most;
    return (qk_group_unit){index / blocks, first, qk_min64(most, p->groups - first), p->channels / p->groups};
}

/* The factor of LRN for a sum of squares, at least 1. */
static inline float qk_lrn_factor(const qk_lrn_params *p, int32_t sum) {
    const float value = (float)sum;
    int32_t bits;
    memcpy(&bits, &value, 4);
    const float *segment = p->segments + 2 * ((bits >> 16) - QK_LRN_FIRST_SEGMENT);
    const float rise = (float)(bits & 0xffff) * segment[1];
    return segment[0] + rise;
}

#endif
