/* Linear resizing: the law. The equation is in qk_resize_params. */
#include "blend.h"

/* A unit is one output row. */
static void blend(const qk_op *op, const qk_task *task) {
    const qk_resize_params *p = op->params;
    const int64_t channels = p->channels;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_blend_row row = qk_blend_row_at(p, u, qk_at(task, op->in[0]));
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + u * p->out_w * p->out_pitch;
        for (int32_t i = 0; i < p->out_w; i++, y += p->out_pitch) {
            const qk_blend_pixel at = qk_blend_pixel_at(p, i);
            const uint8_t *upper = row.upper + at.offset, *lower = row.lower + at.offset;
            for (int64_t c = 0; c < channels; c++) {
                const int32_t left = upper[c] * (QK_BLEND_ONE - row.weight) + lower[c] * row.weight;
                const int32_t right =
                    upper[c + at.next] * (QK_BLEND_ONE - row.weight) + lower[c + at.next] * row.weight;
                y[c] = (uint8_t)((left * (QK_BLEND_ONE - at.weight) + right * at.weight + (1 << 21)) >> 22);
            }
        }
    }
}

const qk_kernel qk_blend_scalar = {.valid = qk_blend_valid, .work = qk_blend_work, .run = blend};
