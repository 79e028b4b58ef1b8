/* Softmax and layer normalization: the law. The equations are in qk_softmax_params and qk_normalize_params. */
#include "rows.h"

static void softmax(const qk_op *op, const qk_task *task) {
    const qk_softmax_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        int32_t most = 0;
        for (int64_t i = 0; i < p->count; i++)
            most = x[i] > most ? x[i] : most;
        const int32_t *exponentials = p->exponentials + 255 - most;
        int64_t sum = 0;
        for (int64_t i = 0; i < p->count; i++)
            sum += exponentials[x[i]];
        const float factor = qk_softmax_factor(p, sum);
        for (int64_t i = 0; i < p->count; i++)
            y[i] = qk_requantize((float)exponentials[x[i]] * factor, p->zero_point, 0, 255);
    }
}

static void normalize(const qk_op *op, const qk_task *task) {
    const qk_normalize_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        int64_t sum = 0, squares = 0;
        for (int64_t i = 0; i < p->count; i++) {
            sum += x[i];
            squares += x[i] * x[i];
        }
        const float factor = qk_normalize_factor(p, sum, squares);
        for (int64_t i = 0; i < p->count; i++) {
            const float normal = (float)(int32_t)(p->count * x[i] - sum) * factor;
            const float scaled = normal * p->gain[i];
            y[i] = qk_requantize(scaled + p->shift[i], p->zero_point, 0, 255);
        }
    }
}

const qk_kernel qk_softmax_scalar = {.valid = qk_softmax_valid, .work = qk_softmax_work, .run = softmax};

const qk_kernel qk_normalize_scalar = {.valid = qk_normalize_valid, .work = qk_normalize_work, .run = normalize};
