/* float32 <-> u8 with a change of layout: the law. The equations are in qk_convert_params. */
#include "elementwise.h"

static void quantize(const qk_op *op, const qk_task *task) {
    const qk_convert_params *p = op->params;
    const float *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    const qk_convert_shape shape = qk_convert_shape_of(p);
    const int64_t channels = shape.contiguous ? 1 : p->channels, pitch = shape.contiguous ? 1 : p->pitch;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_convert_unit unit = qk_convert_at(&shape, u);
        const float *x = in + unit.float_offset;
        uint8_t *y = out + unit.byte_offset;
        for (int64_t i = unit.first; i < unit.first + unit.count; i++)
            for (int64_t c = 0; c < channels; c++)
                y[i * pitch + c] = qk_requantize(x[c * shape.count + i] / p->scale, p->zero_point, 0, 255);
    }
}

static void dequantize(const qk_op *op, const qk_task *task) {
    const qk_convert_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    float *out = qk_at(task, op->out);
    const qk_convert_shape shape = qk_convert_shape_of(p);
    const int64_t channels = shape.contiguous ? 1 : p->channels, pitch = shape.contiguous ? 1 : p->pitch;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_convert_unit unit = qk_convert_at(&shape, u);
        const uint8_t *x = in + unit.byte_offset;
        float *y = out + unit.float_offset;
        for (int64_t i = unit.first; i < unit.first + unit.count; i++)
            for (int64_t c = 0; c < channels; c++)
                y[c * shape.count + i] = (float)(x[i * pitch + c] - p->zero_point) * p->scale;
    }
}

const qk_kernel qk_quantize_scalar = {.valid = qk_convert_valid, .work = qk_convert_work, .run = quantize};

const qk_kernel qk_dequantize_scalar = {.valid = qk_convert_valid, .work = qk_convert_work, .run = dequantize};
