/* conv.c, scalar: the law. Plain C; the window of one output pixel is gathered as int16, then one dot product a
 * channel. */
#include <math.h>
#include <string.h>

#include "conv.h"

/* Packed: int32 start[out_c] (bias - in_zero_point * sum(w)), f32 multiplier[out_c], int16 weights[out_c][depth]. */
static int64_t packed_bytes(const qk_conv_params *c) {
    return (int64_t)c->out_c * (8 + 2 * (int64_t)conv_depth(c));
}

static void pack(const qk_conv_params *c, const int8_t *weights, const int32_t *bias, const float *multiplier,
                 void *packed) {
    const int32_t depth = conv_depth(c);
    int32_t *start = packed;
    int16_t *wide = (int16_t *)(start + 2 * (int64_t)c->out_c);
    memcpy(start + c->out_c, multiplier, (size_t)c->out_c * sizeof *multiplier);
    for (int64_t channel = 0; channel < c->out_c; channel++) {
        int32_t sum = 0;
        for (int32_t k = 0; k < depth; k++) {
            const int8_t w = weights[channel * depth + k];
            wide[channel * depth + k] = w;
            sum += w;
        }
        start[channel] = bias[channel] - c->in_zero_point * sum;
    }
}

static void gather(const qk_conv_params *c, const uint8_t *in, conv_window window, int32_t first_channel, int16_t *x) {
    const int32_t channels = c->in_c / c->groups;
    for (int32_t tap_y = 0; tap_y < c->kernel_h; tap_y++)
        for (int32_t tap_x = 0; tap_x < c->kernel_w; tap_x++) {
            const uint8_t *pixel = conv_pixel(c, in, window, tap_y, tap_x);
            for (int32_t i = 0; i < channels; i++)
                *x++ = pixel ? pixel[first_channel + i] : (int16_t)c->in_zero_point;
        }
}

static int32_t dot(const int16_t *x, const int16_t *w, int32_t count) {
    int32_t sum = 0;
    for (int32_t k = 0; k < count; k++)
        sum += x[k] * w[k];
    return sum;
}

static float activated(const qk_epilogue *e, float v, int32_t channel) {
    if (e->activation == QK_IDENTITY)
        return v;
    if (e->activation == QK_LEAKY_RELU)
        return v * (v < 0 ? e->falling : e->rising);
    const float sixfold = v * fminf(fmaxf(v + 3.0f, 0.0f), 6.0f);
    const float y = sixfold * e->activation_scale[channel];
    return e->activation_shift ? y + e->activation_shift[channel] : y;
}

/* clamp before the conversion to int: rne(clamp(v, low - zp, high - zp)) + zp == clamp(rne(v) + zp, low, high). */
static uint8_t requantize(const qk_epilogue *e, int32_t channel, int32_t acc, float multiplier,
                          const uint8_t *residual) {
    float v = (float)acc * multiplier;
    if (residual) {
        const float r = (float)(*residual - e->residual_zero_point) * e->residual_multiplier;
        v = v + r;
    }
    v = activated(e, v, channel);
    const float low = (float)(e->low - e->zero_point), high = (float)(e->high - e->zero_point);
    v = v < low ? low : v > high ? high : v;
    const int32_t q = (int32_t)nearbyintf(v) + e->zero_point;
    return e->table ? e->table[q] : (uint8_t)q;
}

static void one_pixel(const qk_op *op, const qk_task *task, int64_t row) {
    const qk_conv_params *c = op->params;
    const int32_t depth = conv_depth(c), channels = c->out_c / c->groups;
    const int32_t *start = qk_packed_body(c);
    const float *multiplier = (const float *)(start + c->out_c);
    const int16_t *weights = (const int16_t *)(multiplier + c->out_c);
    const uint8_t *residual = qk_at(task, op->in[1]);
    uint8_t *out = qk_at(task, op->out);
    const conv_window window = conv_window_of_row(c, row);
    for (int32_t group = 0; group < c->groups; group++) {
        gather(c, qk_at(task, op->in[0]), window, group * (c->in_c / c->groups), task->scratch);
        for (int32_t channel = group * channels; channel < (group + 1) * channels; channel++) {
            const int32_t acc = start[channel] + dot(task->scratch, weights + (int64_t)channel * depth, depth);
            const int64_t at = row * c->out_pitch + channel;
            if (c->epilogue.to_float)
                ((float *)out)[at] = (float)acc * multiplier[channel];
            else
                out[at] = requantize(&c->epilogue, channel, acc, multiplier[channel],
                                     residual ? residual + row * c->residual_pitch + channel : NULL);
        }
    }
}

/* A unit is one output pixel. About 2 multiply-adds a nanosecond. */
static qk_work work(const qk_op *op) {
    const qk_conv_params *c = op->params;
    return (qk_work){.units = conv_rows(c), .nanoseconds = conv_rows(c) * c->out_c * conv_depth(c) / 2};
}

static int64_t scratch_bytes(const qk_op *op) {
    return 2 * (int64_t)conv_depth(op->params);
}

static void run(const qk_op *op, const qk_task *task) {
    for (int64_t row = task->begin; row < task->end; row++)
        one_pixel(op, task, row);
}

const qk_kernel qk_conv_scalar = {.valid = qk_conv_valid,
                                  .work = work,
                                  .scratch_bytes = scratch_bytes,
                                  .run = run,
                                  .packed_bytes = packed_bytes,
                                  .pack = pack};
