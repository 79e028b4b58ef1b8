/* conv.c: what the conv kernels of all ISAs share, beyond conv.h. */
#include "conv.h"

int32_t qk_conv_valid(const qk_op *op) {
    const qk_conv_params *c = op->params;
    const qk_epilogue *e = &c->epilogue;
    const int sizes = c->batch >= 0 && c->out_h >= 0 && c->out_w >= 0 && c->in_h >= 0 && c->in_w >= 0;
    const int steps = c->stride_h >= 1 && c->stride_w >= 1 && c->dilation_h >= 1 && c->dilation_w >= 1;
    const int pitches = c->in_pitch >= c->in_c && c->out_pitch >= c->out_c;
    const int range = e->to_float || (0 <= e->low && e->low <= e->high && e->high <= 255);
    const int residual = op->in[1].buffer < 0 || (!e->to_float && c->residual_pitch >= c->out_c);
    return sizes && steps && pitches && range && residual && op->in[0].buffer >= 0 && op->out.buffer >= 0;
}
