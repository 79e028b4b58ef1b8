/* stream.c: of sums and normalizations of float32, whether their parameters are sane, and how much work they are. */
#include "stream.h"

int32_t qk_add_float_valid(const qk_op *op) {
    const qk_add_float_params *p = op->params;
    return p->repeats >= 0 && p->period >= 0;
}

int32_t qk_normalize_float_valid(const qk_op *op) {
    const qk_normalize_float_params *p = op->params;
    return p->rows >= 0 && p->count >= 1 && p->gain && p->shift && p->epsilon >= 0 && isfinite(p->epsilon);
}

/* ---- work: what AVX2 was measured to do in a nanosecond on one core ---- */

qk_work qk_add_float_work(const qk_op *op) {
    const qk_add_float_params *p = op->params;
    return (qk_work){p->repeats * qk_add_blocks(p), p->repeats * p->period / 8};
}

qk_work qk_normalize_float_work(const qk_op *op) {
    const qk_normalize_float_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count / 4 + 20)};
}
