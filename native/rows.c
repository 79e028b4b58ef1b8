/* rows.c: of the ops on runs of bytes, whether their parameters are sane, and how much work they are. */
#include "rows.h"

static int32_t runs_are_valid(int64_t rows, int64_t count, int64_t in_pitch, int64_t out_pitch) {
    return rows >= 0 && count >= 1 && in_pitch >= count && out_pitch >= count;
}

static int32_t is_u8(int32_t value) {
    return value >= 0 && value <= 255;
}

int32_t qk_softmax_valid(const qk_op *op) {
    const qk_softmax_params *p = op->params;
    return runs_are_valid(p->rows, p->count, p->in_pitch, p->out_pitch) && p->exponentials && p->out_scale > 0 &&
           isfinite(p->out_scale) && is_u8(p->zero_point);
}

int32_t qk_normalize_valid(const qk_op *op) {
    const qk_normalize_params *p = op->params;
    return runs_are_valid(p->rows, p->count, p->in_pitch, p->out_pitch) && p->count <= QK_NORMALIZE_MAX && p->gain &&
           p->shift && p->in_scale > 0 && p->epsilon >= 0 && isfinite(p->in_scale) && isfinite(p->epsilon) &&
           is_u8(p->zero_point);
}

qk_work qk_softmax_work(const qk_op *op) {
    const qk_softmax_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count + 100)};
}

qk_work qk_normalize_work(const qk_op *op) {
    const qk_normalize_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count / 4 + 20)};
}
