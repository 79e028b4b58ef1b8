/* Maximum and average pooling, channels last: the law. The equations are in qk_pool_params. */
#include "elementwise.h"

static uint8_t maximum(const qk_pool_window *w, int32_t c) {
    uint8_t most = 0;
    for (int32_t ky = 0; ky < w->rows; ky++)
        for (int32_t kx = 0; kx < w->columns; kx++) {
            const uint8_t x = w->in[ky * w->row_step + kx * w->column_step + c];
            most = x > most ? x : most;
        }
    return most;
}

static uint8_t average(const qk_pool_params *p, const qk_pool_window *w, int32_t c) {
    int32_t sum = 0;
    for (int32_t ky = 0; ky < w->rows; ky++)
        for (int32_t kx = 0; kx < w->columns; kx++)
            sum += w->in[ky * w->row_step + kx * w->column_step + c] - p->in_zero_point;
    return qk_requantize((float)sum * p->multiplier_by_count[w->count], p->zero_point, 0, 255);
}

static void pool(const qk_op *op, const qk_task *task) {
    const qk_pool_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_pool_row row = qk_pool_row_at(p, u, in, out);
        for (int32_t x = 0; x < p->out_w; x++) {
            const qk_pool_window w = qk_pool_window_at(p, &row, x);
            for (int32_t c = 0; c < row.channels; c++)
                w.out[c] = p->average ? average(p, &w, c) : maximum(&w, c);
        }
    }
}

const qk_kernel qk_pool_scalar = {.valid = qk_pool_valid, .work = qk_pool_work, .run = pool};
