/* matmul.c: are the parameters of a QK_MATMUL sane? */
#include <math.h>

#include "matmul.h"

static int32_t is_u8(int32_t value) {
    return value >= 0 && value <= 255;
}

int32_t qk_matmul_valid(const qk_op *op) {
    const qk_matmul_params *p = op->params;
    return p->batch[0] >= 0 && p->batch[1] >= 0 && p->rows >= 0 && p->columns >= 1 && p->depth >= 1 &&
           p->depth <= QK_MATMUL_MAX_DEPTH && p->a_pitch >= 0 && p->out_pitch >= p->columns && is_u8(p->a_zero_point) &&
           is_u8(p->b_zero_point) && is_u8(p->zero_point) && p->multiplier >= 0 && isfinite(p->multiplier);
}
