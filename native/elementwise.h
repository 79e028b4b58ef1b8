/* elementwise.h: what the kernels of every op but conv share over the ISAs: how an op is cut into units, pooling
 * windows, rounding. Units write disjoint bytes, so any split over threads gives the same result. */
#ifndef QK_ELEMENTWISE_H
#define QK_ELEMENTWISE_H

#include <math.h>
#include <stdint.h>
#include "internal.h"
#include "nest.h"

enum { QK_CONVERT_PIXELS = 64, QK_POOL_CHANNELS = 256 };

/* elementwise.c: the `valid` and `work` of every kernel of a kind. */
int32_t qk_convert_valid(const qk_op *op);
int32_t qk_binary_valid(const qk_op *op);
int32_t qk_pool_valid(const qk_op *op);
int32_t qk_copy_valid(const qk_op *op);
int32_t qk_lookup_valid(const qk_op *op);
int32_t qk_resize_valid(const qk_op *op);
qk_work qk_convert_work(const qk_op *op);
qk_work qk_binary_work(const qk_op *op);
qk_work qk_pool_work(const qk_op *op);
qk_work qk_copy_work(const qk_op *op);
qk_work qk_fill_work(const qk_op *op);
qk_work qk_resize_work(const qk_op *op);

/* clamp(rne(v) + zero_point, low, high), clamped before rounding so that no float leaves the range of int; NaN gives
 * high. */
static inline uint8_t qk_requantize(float v, int32_t zero_point, int32_t low, int32_t high) {
    const float least = (float)(low - zero_point), most = (float)(high - zero_point);
    v = v < most ? v : most;
    v = v > least ? v : least;
    return (uint8_t)((int32_t)lrintf(v) + zero_point);
}

/* QK_QUANTIZE, QK_DEQUANTIZE: `runs` runs of `count` elements on both sides contiguous (pixels 1, or one channel
 * without gaps), or images of `count` pixels whose layout changes. A unit is a range of a run, or of the pixels of an
 * image. */
typedef struct {
    int contiguous;
    int64_t runs, count;
    int64_t float_stride, byte_stride; /* elements, from run to run */
    int64_t block, blocks;
} qk_convert_shape;

static inline qk_convert_shape qk_convert_shape_of(const qk_convert_params *p) {
    qk_convert_shape shape = {.contiguous = 1,
                              .runs = p->batch,
                              .count = p->channels,
                              .float_stride = p->channels,
                              .byte_stride = p->pitch,
                              .block = QK_NEST_BLOCK};
    if (p->channels == 1 && p->pitch == 1) {
        shape.runs = 1;
        shape.count = p->batch * p->pixels;
    } else if (p->pixels != 1) {
        shape.contiguous = 0;
        shape.count = p->pixels;
        shape.float_stride = p->channels * p->pixels;
        shape.byte_stride = p->pixels * p->pitch;
        shape.block = QK_CONVERT_PIXELS;
    }
    shape.blocks = shape.count / shape.block > 1 ? shape.count / shape.block : 1;
    if (shape.count == 0 || p->channels == 0)
        shape.runs = 0;
    return shape;
}

/* One unit: `count` elements or pixels from `first` on; where the run or image starts in the floats and in the bytes.
 */
typedef struct {
    int64_t first, count, float_offset, byte_offset;
} qk_convert_unit;

static inline qk_convert_unit qk_convert_at(const qk_convert_shape *shape, int64_t index) {
    const int64_t run = index / shape->blocks, range = index % shape->blocks, first = range * shape->block;
    const int64_t end = range + 1 == shape->blocks ? shape->count : first + shape->block;
    return (qk_convert_unit){first, end - first, run * shape->float_stride, run * shape->byte_stride};
}

/* The taps of one axis at one output position: [begin, end) lie inside the input; `counted` of them inside its pads
 * too. */
typedef struct {
    int32_t begin, end, counted;
} qk_taps;

static inline int32_t qk_taps_below(int32_t start, int32_t dilation, int32_t kernel, int32_t limit) {
    const int64_t room = (int64_t)limit - start; /* taps k with start + k * dilation < limit */
    const int64_t taps = room <= 0 ? 0 : dilation == 1 ? room : (room + dilation - 1) / dilation;
    return taps < kernel ? (int32_t)taps : kernel;
}

static inline qk_taps qk_taps_at(int32_t out, int32_t stride, int32_t dilation, int32_t kernel, int32_t size,
                                 int32_t pad_before, int32_t pad_after) {
    const int32_t start = out * stride - pad_before;
    return (qk_taps){.begin = qk_taps_below(start, dilation, kernel, 0),
                     .end = qk_taps_below(start, dilation, kernel, size),
                     .counted = qk_taps_below(start, dilation, kernel, size + pad_after)};
}

/* QK_POOL: a unit is a range of channels of one output row; ranges matter where an image has few rows (global pooling).
 */
typedef struct {
    int32_t channels;
    qk_taps y;
    const uint8_t *in; /* first channel of the range, input row of tap y.begin (only if there is one), column 0 */
    uint8_t *out;      /* first channel of the range, column 0 */
} qk_pool_row;

static inline int64_t qk_pool_channel_ranges(const qk_pool_params *p) {
    return p->out_h < 8 && p->channels > QK_POOL_CHANNELS ? qk_divide_up(p->channels, QK_POOL_CHANNELS) : 1;
}

static inline qk_pool_row qk_pool_row_at(const qk_pool_params *p, int64_t index, const uint8_t *in, uint8_t *out) {
    const int64_t ranges = qk_pool_channel_ranges(p), row = index / ranges;
    const int64_t image = row / p->out_h, out_y = row % p->out_h, first = index % ranges * QK_POOL_CHANNELS;
    qk_pool_row r = {.channels = (int32_t)(ranges > 1 ? qk_min64(QK_POOL_CHANNELS, p->channels - first) : p->channels)};
    r.y = qk_taps_at((int32_t)out_y, p->stride_h, p->dilation_h, p->kernel_h, p->in_h, p->pad_top, p->pad_bottom);
    const int64_t in_y = r.y.end > r.y.begin ? out_y * p->stride_h - p->pad_top + r.y.begin * p->dilation_h : 0;
    r.in = in + (image * p->in_h + in_y) * p->in_w * p->in_pitch + first;
    r.out = out + row * p->out_w * p->out_pitch + first;
    return r;
}

/* The taps inside the input of one output pixel: rows x columns of them, from `in` on; `count` divides an average. */
typedef struct {
    const uint8_t *in;
    uint8_t *out;
    int64_t row_step, column_step;
    int32_t rows, columns, count;
} qk_pool_window;

static inline qk_pool_window qk_pool_window_at(const qk_pool_params *p, const qk_pool_row *row, int32_t out_x) {
    const qk_taps x = qk_taps_at(out_x, p->stride_w, p->dilation_w, p->kernel_w, p->in_w, p->pad_left, p->pad_right);
    const int64_t in_x = x.end > x.begin ? (int64_t)out_x * p->stride_w - p->pad_left + x.begin * p->dilation_w : 0;
    qk_pool_window w = {.in = row->in + in_x * p->in_pitch,
                        .out = row->out + (int64_t)out_x * p->out_pitch,
                        .row_step = (int64_t)p->dilation_h * p->in_w * p->in_pitch,
                        .column_step = (int64_t)p->dilation_w * p->in_pitch,
                        .rows = row->y.end - row->y.begin,
                        .columns = x.end - x.begin};
    w.count = p->count_padding ? row->y.counted * x.counted : w.rows * w.columns;
    return w;
}

#endif
