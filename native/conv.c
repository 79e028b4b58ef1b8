/* conv.c: what the conv kernels of all ISAs share, beyond conv.h. */
#include <string.h>

#include "conv.h"

int32_t qk_conv_valid(const qk_op *op) {
    const qk_conv_params *c = op->params;
    const qk_epilogue *e = &c->epilogue;
    const int sizes = c->batch >= 0 && c->out_h >= 0 && c->out_w >= 0 && c->in_h >= 0 && c->in_w >= 0;
    const int steps = c->stride_h >= 1 && c->stride_w >= 1 && c->dilation_h >= 1 && c->dilation_w >= 1;
    const int pitches = c->in_pitch >= c->in_c && c->out_pitch >= c->out_c;
    const int range = e->to_float || (0 <= e->low && e->low <= e->high && e->high <= 255);
    const int has_numbers = e->activation != QK_HARD_SWISH || e->activation_scale;
    const int wide =
        e->activation == QK_IDENTITY || (e->activation <= QK_LEAKY_RELU && !e->table && !e->to_float && has_numbers);
    const int residual = op->in[1].buffer < 0 || (!e->to_float && c->residual_pitch >= c->out_c);
    return sizes && steps && pitches && range && wide && residual && op->in[0].buffer >= 0 && op->out.buffer >= 0;
}

conv_tail conv_copy_tail(const qk_conv_params *c, const uint8_t *in, int32_t over, uint8_t *copy) {
    const int64_t pixels = (int64_t)c->batch * c->in_h * c->in_w;
    const int64_t copied = qk_min64(qk_divide_up(over, c->in_pitch), pixels);
    if (copied == 0)
        return (conv_tail){NULL, NULL};
    const uint8_t *unsafe = in + (pixels - copied) * c->in_pitch;
    memcpy(copy, unsafe, (size_t)((copied - 1) * c->in_pitch + c->in_c));
    return (conv_tail){unsafe, copy};
}

const uint8_t *conv_inputs_of_row(const qk_conv_params *c, const uint8_t *in, const uint8_t *padding, int64_t row,
                                  uint8_t *to) {
    const conv_window w = conv_window_of_row(c, row);
    if (conv_taps(c) == 1) {
        const uint8_t *pixel = conv_pixel(c, in, w, 0, 0);
        return pixel ? pixel : padding;
    }
    uint8_t *tap = to;
    for (int32_t tap_y = 0; tap_y < c->kernel_h; tap_y++)
        for (int32_t tap_x = 0; tap_x < c->kernel_w; tap_x++, tap += c->in_c) {
            const uint8_t *pixel = conv_pixel(c, in, w, tap_y, tap_x);
            memcpy(tap, pixel ? pixel : padding, (size_t)c->in_c);
        }
    return to;
}
