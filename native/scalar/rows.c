/* Softmax and normalizations: the law. The equations are in qk.h, beside the parameters. */
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

const qk_kernel qk_softmax_scalar = {.valid = qk_softmax_valid, .work = qk_softmax_work, .run = softmax};

static void add_moments(const uint8_t *x, int64_t count, int64_t *sum, int64_t *squares) {
    for (int64_t i = 0; i < count; i++) {
        *sum += x[i];
        *squares += x[i] * x[i];
    }
}

/* n: how many values `normal` is of. */
static void write_normal(const uint8_t *x, uint8_t *y, int64_t count, int64_t n, qk_normal normal, const float *gain,
                         const float *shift, int32_t zero_point) {
    for (int64_t i = 0; i < count; i++) {
        const float centred = (float)((int32_t)n * x[i] - normal.whole) * normal.factor;
        const float scaled = centred * gain[i];
        y[i] = qk_requantize(scaled + shift[i], zero_point, 0, 255);
    }
}

static void normalize(const qk_op *op, const qk_task *task) {
    const qk_normalize_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        int64_t sum = 0, squares = 0;
        add_moments(x, p->count, &sum, &squares);
        const qk_normal normal = qk_normal_of(p->count, p->origin, sum, squares, p->in_scale, p->epsilon);
        write_normal(x, y, p->count, p->count, normal, p->gain, p->shift, p->zero_point);
    }
}

const qk_kernel qk_normalize_scalar = {.valid = qk_normalize_valid, .work = qk_normalize_work, .run = normalize};

static void group_normalize(const qk_op *op, const qk_task *task) {
    const qk_group_normalize_params *p = op->params;
    for (int64_t index = task->begin; index < task->end; index++) {
        const qk_group_unit unit = qk_group_unit_at(p, index);
        for (int64_t group = unit.first; group < unit.first + unit.count; group++) {
            const int64_t channel = group * unit.channels, n = p->pixels * unit.channels;
            const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + unit.image * p->pixels * p->in_pitch + channel;
            uint8_t *y = (uint8_t *)qk_at(task, op->out) + unit.image * p->pixels * p->out_pitch + channel;
            int64_t sum = 0, squares = 0;
            for (int64_t pixel = 0; pixel < p->pixels; pixel++)
                add_moments(x + pixel * p->in_pitch, unit.channels, &sum, &squares);
            const qk_normal normal = qk_normal_of(n, -1, sum, squares, p->in_scale, p->epsilon);
            for (int64_t pixel = 0; pixel < p->pixels; pixel++)
                write_normal(x + pixel * p->in_pitch, y + pixel * p->out_pitch, unit.channels, n, normal,
                             p->gain + channel, p->shift + channel, p->zero_point);
        }
    }
}

const qk_kernel qk_group_normalize_scalar = {
    .valid = qk_group_normalize_valid, .work = qk_group_normalize_work, .run = group_normalize};

static void lrn(const qk_op *op, const qk_task *task) {
    const qk_lrn_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        for (int64_t i = 0; i < p->count; i++) {
            int32_t sum = 0;
            for (int64_t j = qk_max64(0, i - p->before); j < qk_min64(p->count, i + p->after + 1); j++)
                sum += (x[j] - p->in_zero_point) * (x[j] - p->in_zero_point);
            const float factor = qk_lrn_factor(p, sum > 1 ? sum : 1);
            y[i] = qk_requantize((float)(x[i] - p->in_zero_point) * factor, p->zero_point, 0, 255);
        }
    }
}

const qk_kernel qk_lrn_scalar = {.valid = qk_lrn_valid, .work = qk_lrn_work, .run = lrn};
