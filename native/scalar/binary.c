/* Elementwise add and multiply of u8 tensors: the law. The equations are in qk_binary_params. */
#include "elementwise.h"

static uint8_t binary_one(const qk_binary_params *p, uint8_t a, uint8_t b) {
    float v;
    if (p->multiply) {
        v = (float)((a - p->a_zero_point) * (b - p->b_zero_point)) * p->a_multiplier;
    } else {
        const float from_a = (float)(a - p->a_zero_point) * p->a_multiplier;
        const float from_b = (float)(b - p->b_zero_point) * p->b_multiplier;
        v = from_a + from_b;
    }
    const uint8_t y = qk_requantize(v, p->zero_point, p->low, p->high);
    return p->table ? p->table[y] : y;
}

static void binary(const qk_op *op, const qk_task *task) {
    const qk_binary_params *p = op->params;
    const uint8_t *a = qk_at(task, op->in[0]), *b = qk_at(task, op->in[1]);
    uint8_t *out = qk_at(task, op->out);
    const qk_nest nest = qk_nest_of_binary(p);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_nest_unit unit = qk_nest_at(&nest, u);
        for (int64_t row = 0; row < unit.planes * unit.rows; row++) {
            const uint8_t *a_row = a + qk_nest_row(&unit, 1, row), *b_row = b + qk_nest_row(&unit, 2, row);
            uint8_t *out_row = out + qk_nest_row(&unit, 0, row);
            for (int64_t i = 0; i < unit.count; i++)
                out_row[i * unit.stride[0]] = binary_one(p, a_row[i * unit.stride[1]], b_row[i * unit.stride[2]]);
        }
    }
}

const qk_kernel qk_binary_scalar = {.valid = qk_binary_valid, .work = qk_binary_work, .run = binary};
