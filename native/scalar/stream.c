/* Sums and normalizations of float32 rows: the law. The equations are in qk.h, beside the parameters. */
#include "stream.h"

static void add_float(const qk_op *op, const qk_task *task) {
    const qk_add_float_params *p = op->params;
    const float *a = qk_at(task, op->in[0]), *b = qk_at(task, op->in[1]);
    float *out = qk_at(task, op->out);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_add_unit unit = qk_add_unit_at(p, u);
        for (int64_t i = 0; i < unit.count; i++)
            out[unit.first + i] = a[unit.first + i] + b[unit.repeated + i];
    }
}

const qk_kernel qk_add_float_scalar = {.valid = qk_add_float_valid, .work = qk_add_float_work, .run = add_float};

static void normalize_float(const qk_op *op, const qk_task *task) {
    const qk_normalize_float_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const float *x = (const float *)qk_at(task, op->in[0]) + row * p->count;
        float *y = (float *)qk_at(task, op->out) + row * p->count;
        double sums[QK_STREAM_SUMS] = {0}, squares[QK_STREAM_SUMS] = {0};
        for (int64_t i = 0; i < p->count; i++) {
            const double v = (double)x[i];
            sums[i % QK_STREAM_SUMS] += v;
            squares[i % QK_STREAM_SUMS] += v * v;
        }
        const qk_float_normal normal = qk_float_normal_of(p, qk_sum_of_eight(sums), qk_sum_of_eight(squares));
        for (int64_t i = 0; i < p->count; i++) {
            const float centred = (x[i] - normal.mean) * normal.factor;
            const float scaled = centred * p->gain[i];
            y[i] = scaled + p->shift[i];
        }
    }
}

const qk_kernel qk_normalize_float_scalar = {
    .valid = qk_normalize_float_valid, .work = qk_normalize_float_work, .run = normalize_float};
