/* elementwise.c: of every op but conv, whether its parameters are sane, and how much work it is. */
#include "elementwise.h"

static int32_t is_u8(int32_t value) {
    return value >= 0 && value <= 255;
}

/* ---- valid ---- */

int32_t qk_convert_valid(const qk_op *op) {
    const qk_convert_params *p = op->params;
    return p->batch >= 0 && p->channels >= 0 && p->pixels >= 0 && p->pitch >= p->channels && p->scale > 0 &&
           isfinite(p->scale) && is_u8(p->zero_point);
}

int32_t qk_binary_valid(const qk_op *op) {
    const qk_binary_params *p = op->params;
    return p->batch >= 0 && p->pixels >= 0 && p->channels >= 0 && is_u8(p->a_zero_point) && is_u8(p->b_zero_point) &&
           is_u8(p->zero_point) && is_u8(p->low) && is_u8(p->high) && p->low <= p->high && isfinite(p->a_multiplier) &&
           (p->multiply || isfinite(p->b_multiplier));
}

static int32_t axis_is_valid(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t dilation, int32_t before,
                             int32_t after) {
    return in >= 0 && out >= 0 && kernel >= 1 && stride >= 1 && dilation >= 1 && before >= 0 && after >= 0 &&
           (int64_t)out * stride + (int64_t)kernel * dilation <= INT32_MAX && (int64_t)in + after <= INT32_MAX;
}

/* Sums of bytes stay in int32 up to 2^23 taps. */
int32_t qk_pool_valid(const qk_op *op) {
    const qk_pool_params *p = op->params;
    return p->batch >= 0 && p->channels >= 0 && p->in_pitch >= p->channels && p->out_pitch >= p->channels &&
           axis_is_valid(p->in_h, p->out_h, p->kernel_h, p->stride_h, p->dilation_h, p->pad_top, p->pad_bottom) &&
           axis_is_valid(p->in_w, p->out_w, p->kernel_w, p->stride_w, p->dilation_w, p->pad_left, p->pad_right) &&
           (int64_t)p->kernel_h * p->kernel_w <= 1 << 23 &&
           (!p->average || (p->multiplier_by_count && is_u8(p->in_zero_point) && is_u8(p->zero_point)));
}

int32_t qk_copy_valid(const qk_op *op) {
    const qk_copy_params *p = op->params;
    for (int32_t i = 0; i < QK_NEST_RANK; i++)
        if (p->dims[i] < 0)
            return 0;
    return is_u8(p->value);
}

int32_t qk_lookup_valid(const qk_op *op) {
    const qk_copy_params *p = op->params;
    return p->table && qk_copy_valid(op);
}

int32_t qk_resize_valid(const qk_op *op) {
    const qk_resize_params *p = op->params;
    if (p->batch < 0 || p->channels < 0 || p->in_pitch < p->channels || p->out_pitch < p->channels || !p->rows ||
        !p->columns)
        return 0;
    for (int32_t y = 0; y < p->out_h; y++)
        if (p->rows[y] < 0 || p->rows[y] >= p->in_h)
            return 0;
    for (int32_t x = 0; x < p->out_w; x++)
        if (p->columns[x] < 0 || p->columns[x] >= p->in_w)
            return 0;
    return p->out_h >= 0 && p->out_w >= 0;
}

/* ---- work: what AVX2 was measured to do in a nanosecond on one core ---- */

qk_work qk_convert_work(const qk_op *op) {
    const qk_convert_params *p = op->params;
    const qk_convert_shape shape = qk_convert_shape_of(p);
    return (qk_work){shape.runs * shape.blocks, p->batch * p->channels * p->pixels / 8};
}

qk_work qk_binary_work(const qk_op *op) {
    const qk_binary_params *p = op->params;
    const qk_nest nest = qk_nest_of_binary(p);
    return (qk_work){qk_nest_units(&nest), p->batch * p->pixels * p->channels / 10};
}

qk_work qk_pool_work(const qk_op *op) {
    const qk_pool_params *p = op->params;
    const int64_t rows = (int64_t)p->batch * p->out_h, taps = (int64_t)p->kernel_h * p->kernel_w;
    if (p->out_w == 0 || p->channels == 0)
        return (qk_work){0, 0};
    return (qk_work){rows * qk_pool_channel_ranges(p), rows * p->out_w * p->channels * taps / 64};
}

static qk_work nest_work(const qk_op *op, int has_input) {
    const qk_nest nest = qk_nest_of_copy(op->params, has_input);
    int64_t bytes = 1;
    for (int32_t i = 0; i < nest.rank; i++)
        bytes *= nest.dims[i];
    return (qk_work){qk_nest_units(&nest), bytes / 16};
}

qk_work qk_copy_work(const qk_op *op) {
    return nest_work(op, 1);
}

qk_work qk_fill_work(const qk_op *op) {
    return nest_work(op, 0);
}

qk_work qk_resize_work(const qk_op *op) {
    const qk_resize_params *p = op->params;
    const int64_t rows = (int64_t)p->batch * p->out_h;
    return (qk_work){rows, rows * p->out_w * p->channels / 32};
}
