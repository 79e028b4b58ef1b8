/* rows.c: of softmax and normalizations, whether their parameters are sane, and how much work they are. */
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

static int32_t is_normal(int64_t n, const float *gain, const float *shift, double in_scale, double epsilon) {
    return n <= QK_NORMALIZE_MAX && gain && shift && in_scale > 0 && isfinite(in_scale) && epsilon >= 0 &&
           isfinite(epsilon);
}

int32_t qk_normalize_valid(const qk_op *op) {
    const qk_normalize_params *p = op->params;
    return runs_are_valid(p->rows, p->count, p->in_pitch, p->out_pitch) &&
           is_normal(p->count, p->gain, p->shift, p->in_scale, p->epsilon) && p->origin >= -1 && p->origin <= 255 &&
           is_u8(p->zero_point);
}

int32_t qk_group_normalize_valid(const qk_op *op) {
    const qk_group_normalize_params *p = op->params;
    return runs_are_valid(p->batch, p->channels, p->in_pitch, p->out_pitch) && p->groups >= 1 &&
           p->channels % p->groups == 0 && p->pixels >= 0 && p->pixels <= QK_NORMALIZE_MAX &&
           p->channels <= QK_NORMALIZE_MAX &&
           is_normal(p->pixels * (p->channels / p->groups), p->gain, p->shift, p->in_scale, p->epsilon) &&
           is_u8(p->zero_point);
}

int32_t qk_lrn_valid(const qk_op *op) {
    const qk_lrn_params *p = op->params;
    if (!runs_are_valid(p->rows, p->count, p->in_pitch, p->out_pitch) || p->count > QK_NORMALIZE_MAX || !p->segments ||
        p->before < 0 || p->after < 0 || (int64_t)p->before + p->after >= QK_LRN_WINDOW_MAX ||
        !is_u8(p->in_zero_point) || !is_u8(p->zero_point))
        return 0;
    const int32_t farthest = p->in_zero_point > 127 ? p->in_zero_point : 255 - p->in_zero_point;
    const float largest = (float)((p->before + p->after + 1) * farthest * farthest);
    int32_t bits;
    memcpy(&bits, &largest, 4);
    return (bits >> 16) - QK_LRN_FIRST_SEGMENT < p->segment_count;
}

/* ---- work: what AVX2 was measured to do in a nanosecond on one core ---- */

qk_work qk_softmax_work(const qk_op *op) {
    const qk_softmax_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count + 100)};
}

qk_work qk_normalize_work(const qk_op *op) {
    const qk_normalize_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count / 4 + 20)};
}

qk_work qk_group_normalize_work(const qk_op *op) {
    const qk_group_normalize_params *p = op->params;
    const int64_t units = p->pixels ? p->batch * qk_divide_up(p->groups, qk_groups_a_unit(p)) : 0;
    return (qk_work){units, p->batch * p->pixels * p->channels / 4 + 20 * units};
}

qk_work qk_lrn_work(const qk_op *op) {
    const qk_lrn_params *p = op->params;
    return (qk_work){p->rows, p->rows * (p->count * (16 + p->before + p->after) / 16 + 10)};
}
