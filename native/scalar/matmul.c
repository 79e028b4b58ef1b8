/* The product of two u8 tensors: the law. The equation is in qk_matmul_params. */
#include "elementwise.h"
#include "matmul.h"

/* A unit is one row of one matrix. */
static void matmul(const qk_op *op, const qk_task *task) {
    const qk_matmul_params *p = op->params;
    for (int64_t u = task->begin; u < task->end; u++) {
        const int64_t matrix = u / p->rows, row = u % p->rows;
        const uint8_t *a =
            (const uint8_t *)qk_at(task, op->in[0]) + qk_matmul_offset(p, p->a_batch_stride, matrix) + row * p->a_pitch;
        const uint8_t *b = (const uint8_t *)qk_at(task, op->in[1]) + qk_matmul_offset(p, p->b_batch_stride, matrix);
        uint8_t *y =
            (uint8_t *)qk_at(task, op->out) + qk_matmul_offset(p, p->out_batch_stride, matrix) + row * p->out_pitch;
        for (int64_t column = 0; column < p->columns; column++) {
            int32_t acc = 0;
            for (int64_t k = 0; k < p->depth; k++)
                acc += (a[k] - p->a_zero_point) * (b[k * p->b_stride[0] + column * p->b_stride[1]] - p->b_zero_point);
            y[column] = qk_requantize((float)acc * p->multiplier, p->zero_point, 0, 255);
        }
    }
}

static qk_work work(const qk_op *op) {
    const qk_matmul_params *p = op->params;
    const int64_t rows = p->batch[0] * p->batch[1] * p->rows;
    return (qk_work){.units = rows, .nanoseconds = rows * p->columns * p->depth};
}

const qk_kernel qk_matmul_scalar = {.valid = qk_matmul_valid, .work = work, .run = matmul};
