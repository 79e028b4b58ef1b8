/* blend.c: are the parameters of a QK_BLEND sane, and how much work is it? */
#include "blend.h"

static int32_t map_is_valid(const int32_t *map, int32_t out, int32_t in) {
    for (int32_t i = 0; i < out; i++) {
        const int32_t index = map[2 * i], weight = map[2 * i + 1];
        if (index < 0 || weight < 0 || weight > QK_BLEND_ONE || index + (weight > 0) >= in)
            return 0;
    }
    return out >= 0;
}

int32_t qk_blend_valid(const qk_op *op) {
    const qk_resize_params *p = op->params;
    return p->batch >= 0 && p->channels >= 0 && p->in_pitch >= p->channels && p->out_pitch >= p->channels && p->rows &&
           p->columns && map_is_valid(p->rows, p->out_h, p->in_h) && map_is_valid(p->columns, p->out_w, p->in_w);
}

/* About 4 bytes a nanosecond. */
qk_work qk_blend_work(const qk_op *op) {
    const qk_resize_params *p = op->params;
    const int64_t rows = (int64_t)p->batch * p->out_h;
    return (qk_work){rows, rows * p->out_w * p->channels / 4};
}
