/* blend.h: what the kernels of QK_BLEND share. */
#ifndef QK_BLEND_H
#define QK_BLEND_H

#include "internal.h"

enum { QK_BLEND_ONE = 2048 }; /* 255 * 2048 * 2048 + 2^21 < 2^31 */

int32_t qk_blend_valid(const qk_op *op);
qk_work qk_blend_work(const qk_op *op);

/* The two input rows of an output row, and the weight of the lower one. Without weight it is the upper one again. */
typedef struct {
    const uint8_t *upper, *lower;
    int32_t weight;
} qk_blend_row;

static inline qk_blend_row qk_blend_row_at(const qk_resize_params *p, int64_t index, const uint8_t *in) {
    const int32_t *map = p->rows + 2 * (index % p->out_h);
    const int64_t row_bytes = (int64_t)p->in_w * p->in_pitch;
    const uint8_t *upper = in + (index / p->out_h * p->in_h + map[0]) * row_bytes;
    return (qk_blend_row){upper, map[1] ? upper + row_bytes : upper, map[1]};
}

/* Bytes to the left pixel of an output pixel, from it to the right one, and the weight of that. */
typedef struct {
    int64_t offset, next;
    int32_t weight;
} qk_blend_pixel;

static inline qk_blend_pixel qk_blend_pixel_at(const qk_resize_params *p, int32_t x) {
    const int32_t *map = p->columns + 2 * x;
    return (qk_blend_pixel){(int64_t)map[0] * p->in_pitch, map[1] ? p->in_pitch : 0, map[1]};
}

#endif
