/* conv.h: what the conv kernels of all ISAs share. */
#ifndef QK_CONV_H
#define QK_CONV_H

#include "internal.h"

/* An output row is one output pixel: rows are numbered over batch, out_h, out_w. */
static inline int64_t conv_rows(const qk_conv_params *c) {
    return (int64_t)c->batch * c->out_h * c->out_w;
}
static inline int32_t conv_taps(const qk_conv_params *c) {
    return c->kernel_h * c->kernel_w;
}
static inline int32_t conv_depth(const qk_conv_params *c) {
    return c->in_c / c->groups * conv_taps(c);
}

/* Where the window of an output row lies: image, and the input coordinates of its first tap (negative in the padding).
 */
typedef struct {
    int64_t image;
    int32_t y, x;
} conv_window;

static inline conv_window conv_window_of_row(const qk_conv_params *c, int64_t row) {
    const int64_t line = row / c->out_w;
    return (conv_window){.image = line / c->out_h,
                         .y = (int32_t)(line % c->out_h) * c->stride_h - c->pad_top,
                         .x = (int32_t)(row % c->out_w) * c->stride_w - c->pad_left};
}

static inline void conv_next_window(const qk_conv_params *c, conv_window *w) {
    w->x += c->stride_w;
    if (w->x >= c->out_w * c->stride_w - c->pad_left) {
        w->x = -c->pad_left;
        w->y += c->stride_h;
        if (w->y >= c->out_h * c->stride_h - c->pad_top) {
            w->y = -c->pad_top;
            w->image++;
        }
    }
}

/* The input pixel of a tap, or NULL in the padding. */
static inline const uint8_t *conv_pixel(const qk_conv_params *c, const uint8_t *in, conv_window w, int32_t tap_y,
                                        int32_t tap_x) {
    const int32_t y = w.y + tap_y * c->dilation_h, x = w.x + tap_x * c->dilation_w;
    if (y < 0 || y >= c->in_h || x < 0 || x >= c->in_w)
        return NULL;
    return in + ((w.image * c->in_h + y) * c->in_w + x) * c->in_pitch;
}

/* Kernels read whole vectors, up to `over` bytes past a pixel's last channel. The pixels from which that would leave
 * the tensor are copied to scratch, of conv_tail_bytes. */
typedef struct {
    const uint8_t *unsafe; /* the first of them; NULL if over is 0 */
    const uint8_t *copy;
} conv_tail;

conv_tail conv_copy_tail(const qk_conv_params *c, const uint8_t *in, int32_t over, uint8_t *copy);

static inline int64_t conv_tail_bytes(const qk_conv_params *c, int32_t over) {
    return qk_divide_up(over, c->in_pitch) * c->in_pitch + c->in_c + over;
}

static inline const uint8_t *conv_safe(conv_tail tail, const uint8_t *pixel) {
    return tail.unsafe && pixel >= tail.unsafe ? tail.copy + (pixel - tail.unsafe) : pixel;
}

/* The inputs of an output row, without groups: where they lie, or of several taps one after the other at `to`.
 * padding: in_c bytes of in_zero_point. */
const uint8_t *conv_inputs_of_row(const qk_conv_params *c, const uint8_t *in, const uint8_t *padding, int64_t row,
                                  uint8_t *to);

/* qk_kernel.valid of every conv kernel: the sizes that qk_conv_pack did not see. */
int32_t qk_conv_valid(const qk_op *op);

#endif
