/* Copies, table lookups, fills and nearest resizing: the law. */
#include <string.h>

#include "elementwise.h"

static void copy(const qk_op *op, const qk_task *task) {
    const qk_copy_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    const qk_nest nest = qk_nest_of_copy(p, 1);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_nest_unit unit = qk_nest_at(&nest, u);
        for (int64_t row = 0; row < unit.planes * unit.rows; row++) {
            const uint8_t *x = in + qk_nest_row(&unit, 1, row);
            uint8_t *y = out + qk_nest_row(&unit, 0, row);
            for (int64_t i = 0; i < unit.count; i++) {
                const uint8_t value = x[i * unit.stride[1]];
                y[i * unit.stride[0]] = p->table ? p->table[value] : value;
            }
        }
    }
}

static void fill(const qk_op *op, const qk_task *task) {
    const qk_copy_params *p = op->params;
    uint8_t *out = qk_at(task, op->out);
    const qk_nest nest = qk_nest_of_copy(p, 0);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_nest_unit unit = qk_nest_at(&nest, u);
        for (int64_t row = 0; row < unit.planes * unit.rows; row++) {
            uint8_t *y = out + qk_nest_row(&unit, 0, row);
            if (unit.stride[0] == 1)
                memset(y, p->value, (size_t)unit.count);
            else
                for (int64_t i = 0; i < unit.count; i++)
                    y[i * unit.stride[0]] = (uint8_t)p->value;
        }
    }
}

/* A unit is one output row. */
static void resize(const qk_op *op, const qk_task *task) {
    const qk_resize_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    for (int64_t u = task->begin; u < task->end; u++) {
        const uint8_t *x = in + (u / p->out_h * p->in_h + p->rows[u % p->out_h]) * p->in_w * p->in_pitch;
        uint8_t *y = out + u * p->out_w * p->out_pitch;
        for (int64_t i = 0; i < p->out_w; i++)
            memcpy(y + i * p->out_pitch, x + (int64_t)p->columns[i] * p->in_pitch, (size_t)p->channels);
    }
}

const qk_kernel qk_lookup_scalar = {.valid = qk_lookup_valid, .work = qk_copy_work, .run = copy};
const qk_kernel qk_copy_scalar = {.valid = qk_copy_valid, .work = qk_copy_work, .run = copy};
const qk_kernel qk_fill_scalar = {.valid = qk_copy_valid, .work = qk_fill_work, .run = fill};
const qk_kernel qk_resize_scalar = {.valid = qk_resize_valid, .work = qk_resize_work, .run = resize};
