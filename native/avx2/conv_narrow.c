/* conv_narrow.c, AVX2: 1x1 convolution by vpmaddwd for few input channels, where what is done for each tile weighs as
 * much as its products. Rows are widened to s16 a block at a time, one behind the other, so that a tile needs no
 * pointers; it goes down all rows of the block, and its sums become bytes in registers.
 *
 * A panel is 4 vectors of channels, or what is left of them; a vector that is not full is a panel of its own. Those of
 * 4 hold channels in the order that packing to bytes undoes: vector v those from 4 v on and from 16 + 4 v on, 4 each.
 * Packed: for each panel int32 start, f32 multiplier, then for each pair of inputs one vector of s16 pairs per vector
 * of channels. Last a pixel full of in_zero_point. */
#include "vector.h"

#if QK_X86
#include <math.h>
#include <string.h>

#include "../conv_requantize.inc"
#include "bytes.h"
#include "lookup.h"

enum {
    DEPTH_MIN = 8,
    DEPTH_MAX = 256, /* rows of a block and weights of a panel, 16 KB each, stay in the L1 cache */
    ROWS_MIN = 8,
    STEPS_A_TURN = 4,
    BLOCK_ROWS = 32,
    WIDEST = 4, /* vectors of a panel */
    MOST_TILE_ROWS = 8,
    PANEL_CHANNELS = WIDEST * LANES
};

typedef struct {
    int32_t steps, turns;   /* of 2 inputs; of up to STEPS_A_TURN steps */
    int32_t vectors, whole; /* vectors of all channels; those that are full */
    int32_t panels;
    int64_t vector_bytes, row_bytes, rows, blocks;
} narrow_shape;

static narrow_shape shape_of(const qk_conv_params *c) {
    narrow_shape s = {.steps = (int32_t)qk_divide_up(c->in_c, 2), .rows = conv_rows(c)};
    s.turns = (int32_t)qk_divide_up(s.steps, STEPS_A_TURN);
    s.vectors = (int32_t)qk_divide_up(c->out_c, LANES);
    s.whole = c->out_c / LANES;
    s.panels = (int32_t)qk_divide_up(s.whole, WIDEST) + s.vectors - s.whole;
    s.vector_bytes = (int64_t)sizeof(vi) * (2 + s.steps);
    s.row_bytes = (int64_t)s.steps * 4;
    s.blocks = qk_divide_up(s.rows, BLOCK_ROWS);
    return s;
}

static int32_t narrow_accepts(const qk_op *op) {
    const qk_conv_params *c = op->params;
    return c->groups == 1 && conv_taps(c) == 1 && c->in_c >= DEPTH_MIN && c->in_c <= DEPTH_MAX &&
           (conv_rows(c) == 0 || conv_rows(c) >= ROWS_MIN);
}

/* ---- Packing ---- */

/* The first vector of a panel. */
static int32_t start_of(const narrow_shape *s, int32_t panel) {
    return (int32_t)qk_min64(panel * WIDEST, panel == s->panels ? s->vectors : s->whole);
}

static int32_t width_of(const narrow_shape *s, int32_t panel) {
    return start_of(s, panel + 1) - start_of(s, panel);
}

/* The channel of a panel that is in this lane. */
static int32_t channel_of(int32_t width, int32_t vector, int32_t lane) {
    return width == WIDEST ? lane / 4 * 16 + vector * 4 + lane % 4 : vector * LANES + lane;
}

static int64_t narrow_packed_bytes(const qk_conv_params *c) {
    const narrow_shape s = shape_of(c);
    return s.vectors * s.vector_bytes + c->in_c;
}

static void pack_channel(const qk_conv_params *c, const int8_t *weights, int32_t bias, float multiplier, int32_t width,
                         int32_t *column) {
    int32_t sum = 0, *steps = column + 2 * width * LANES;
    for (int32_t k = 0; k < c->in_c; k++) {
        sum += weights[k];
        ((int16_t *)&steps[(int64_t)(k / 2) * width * LANES])[k % 2] = weights[k];
    }
    *column = bias - c->in_zero_point * sum;
    memcpy(column + width * LANES, &multiplier, sizeof multiplier);
}

static void narrow_pack(const qk_conv_params *c, const int8_t *weights, const int32_t *bias, const float *multiplier,
                        void *packed) {
    const narrow_shape s = shape_of(c);
    memset(packed, 0, (size_t)(s.vectors * s.vector_bytes));
    memset((char *)packed + s.vectors * s.vector_bytes, c->in_zero_point, (size_t)c->in_c);
    for (int32_t panel = 0; panel < s.panels; panel++) {
        const int32_t width = width_of(&s, panel);
        int32_t *to = (int32_t *)((char *)packed + start_of(&s, panel) * s.vector_bytes);
        for (int32_t at = 0; at < width * LANES; at++) {
            const int64_t out = start_of(&s, panel) * LANES + channel_of(width, at / LANES, at % LANES);
            if (out < c->out_c)
                pack_channel(c, weights + out * c->in_c, bias[out], multiplier[out], width, to + at);
        }
    }
}

/* ---- Tiles ---- */

/* How sums end: packing alone makes the bytes; nothing but zero point and bounds; all there is. */
enum { PLAIN, LINEAR, ANY };

typedef struct {
    const qk_epilogue *e;
    const requantizer *q;
    swish_numbers swish; /* of the 4 vectors that become bytes together */
    const vi *panel;
    const char *rows; /* s16, row_bytes apart */
    int64_t row_bytes;
    int32_t turns, skipped; /* steps that the first turn has too many */
    int32_t count;          /* rows */
    int32_t end;
    uint8_t *out;
    const uint8_t *residual;
    int64_t out_pitch, residual_pitch; /* bytes */
} narrow_tile;

#include "conv_narrow_tiles.inc"

static int32_t end_of(const qk_conv_params *c, const requantizer *q, const uint8_t *residual) {
    if (residual || c->epilogue.to_float || q->may_overflow || q->activation != QK_IDENTITY)
        return ANY;
    return q->is_plain ? PLAIN : LINEAR;
}

/* The inputs of a block's rows widened, row_bytes apart. No byte beyond their channels is read. */
static QK_TARGET_AVX2 void widen_rows(const qk_conv_params *c, const narrow_shape *s, const uint8_t *in, int64_t block,
                                      char *to) {
    const int64_t first = block * BLOCK_ROWS, rows = qk_min64(BLOCK_ROWS, s->rows - first);
    const uint8_t *padding = (const uint8_t *)qk_packed_body(c) + s->vectors * s->vector_bytes;
    const int where_they_lie = c->stride_h == 1 && c->stride_w == 1 && c->pad_top == 0 && c->pad_left == 0 &&
                               c->out_h == c->in_h && c->out_w == c->in_w;
    if (where_they_lie && c->in_pitch == c->in_c && s->row_bytes == 2 * (int64_t)c->in_c) {
        v_widen_u8((int16_t *)to, in + first * c->in_pitch, rows * c->in_c);
        return;
    }
    conv_window w = conv_window_of_row(c, first);
    for (int64_t row = 0; row < rows; row++, to += s->row_bytes) {
        const uint8_t *pixel = conv_pixel(c, in, w, 0, 0);
        v_widen_u8((int16_t *)to, pixel ? pixel : padding, c->in_c);
        conv_next_window(c, &w);
    }
}

/* ---- The kernel ---- */

static int64_t narrow_scratch_bytes(const qk_op *op) {
    return BLOCK_ROWS * shape_of(op->params).row_bytes;
}

/* Fewer rows than a tile has, or channels than its vectors: through copies. */
static QK_TARGET_AVX2 void run_part(const narrow_tile *t, int32_t width, int32_t channels) {
    _Alignas(64) uint8_t out[MOST_TILE_ROWS * PANEL_CHANNELS * 4];
    _Alignas(64) uint8_t residual[MOST_TILE_ROWS * PANEL_CHANNELS];
    const int32_t element = t->e->to_float ? 4 : 1;
    narrow_tile part = *t;
    part.out = out;
    part.out_pitch = PANEL_CHANNELS * element;
    part.residual = t->residual ? residual : NULL;
    part.residual_pitch = PANEL_CHANNELS;
    for (int32_t row = 0; row < t->count; row += part.count) {
        part.count = (int32_t)qk_min64(t->count - row, tile_rows[width - 1]);
        part.rows = t->rows + row * t->row_bytes;
        for (int32_t i = 0; t->residual && i < part.count; i++)
            bytes_copy(residual + i * PANEL_CHANNELS, t->residual + (row + i) * t->residual_pitch, channels);
        tiles[width - 1](&part);
        for (int32_t i = 0; i < part.count; i++)
            bytes_copy(t->out + (row + i) * t->out_pitch, out + i * part.out_pitch, channels * element);
    }
}

static QK_TARGET_AVX2 void run_panel(const narrow_tile *block, int32_t width, int32_t channels) {
    narrow_tile t = *block;
    if (channels == width * LANES) {
        t.count = block->count / tile_rows[width - 1] * tile_rows[width - 1];
        tiles[width - 1](&t);
        t.rows += t.count * t.row_bytes;
        t.out += t.count * t.out_pitch;
        t.residual += t.residual ? t.count * t.residual_pitch : 0;
        t.count = block->count - t.count;
    }
    if (t.count)
        run_part(&t, width, channels);
}

typedef struct {
    vf scale[WIDEST], shift[WIDEST];
} swish_room;

static void order_numbers(const float *numbers, int32_t width, int32_t channels, vf *to) {
    for (int32_t i = 0; i < WIDEST * LANES; i++) {
        const int32_t channel = channel_of(width, i / LANES % width, i % LANES);
        ((float *)to)[i] = channel < channels ? numbers[channel] : 0;
    }
}

/* The numbers of HardSwish of `channels` channels from `channel` on, in the order of their panel. */
static swish_numbers swish_of(const qk_epilogue *e, int32_t width, int32_t channel, int32_t channels,
                              swish_room *room) {
    if (e->activation != QK_HARD_SWISH)
        return (swish_numbers){NULL, NULL};
    order_numbers(e->activation_scale + channel, width, channels, room->scale);
    if (e->activation_shift)
        order_numbers(e->activation_shift + channel, width, channels, room->shift);
    return (swish_numbers){room->scale, e->activation_shift ? room->shift : NULL};
}

/* The widened rows of a block with one panel. */
static QK_TARGET_AVX2 void multiply_block(const qk_op *op, const qk_task *task, const narrow_shape *s,
                                          const requantizer *q, int64_t block, int32_t panel) {
    const qk_conv_params *c = op->params;
    const int64_t first = block * BLOCK_ROWS;
    const int32_t vector = start_of(s, panel), channel = vector * LANES, width = width_of(s, panel);
    const int32_t channels = (int32_t)qk_min64(width * LANES, c->out_c - channel);
    const int32_t element = c->epilogue.to_float ? 4 : 1;
    const uint8_t *residual = qk_at(task, op->in[1]);
    swish_room room;
    const narrow_tile t = {.e = &c->epilogue,
                           .q = q,
                           .swish = swish_of(&c->epilogue, width, channel, channels, &room),
                           .panel = (const vi *)((const char *)qk_packed_body(c) + vector * s->vector_bytes),
                           .rows = task->scratch,
                           .row_bytes = s->row_bytes,
                           .turns = s->turns,
                           .skipped = s->turns * STEPS_A_TURN - s->steps,
                           .count = (int32_t)qk_min64(BLOCK_ROWS, s->rows - first),
                           .end = end_of(c, q, residual),
                           .out = (uint8_t *)qk_at(task, op->out) + (first * c->out_pitch + channel) * element,
                           .residual = residual ? residual + first * c->residual_pitch + channel : NULL,
                           .out_pitch = (int64_t)c->out_pitch * element,
                           .residual_pitch = c->residual_pitch};
    run_panel(&t, width, channels);
    if (c->epilogue.table) {
        const qk_byte_rows bytes = {t.out, t.out, c->out_pitch, c->out_pitch, t.count, channels};
        qk_lookup_rows_avx2(&bytes, c->epilogue.table);
    }
}

/* A unit is a block of rows with one panel; the panels of a block follow each other and share the rows. */
static qk_work narrow_work(const qk_op *op) {
    const narrow_shape s = shape_of(op->params);
    const int64_t vectors = s.rows * s.vectors * s.steps; /* multiplied */
    return (qk_work){.units = s.blocks * s.panels, .nanoseconds = vectors / 8};
}

static QK_TARGET_AVX2 void narrow_run(const qk_op *op, const qk_task *task) {
    const narrow_shape s = shape_of(op->params);
    const requantizer q = requantizer_of(op->params);
    for (int64_t unit = task->begin; unit < task->end; unit++) {
        const int64_t block = unit / s.panels;
        if (*task->kept != block)
            widen_rows(op->params, &s, qk_at(task, op->in[0]), block, task->scratch);
        *task->kept = block;
        multiply_block(op, task, &s, &q, block, (int32_t)(unit % s.panels));
    }
}

const qk_kernel qk_conv_narrow_avx2 = {.accepts = narrow_accepts,
                                       .valid = qk_conv_valid,
                                       .work = narrow_work,
                                       .scratch_bytes = narrow_scratch_bytes,
                                       .run = narrow_run,
                                       .packed_bytes = narrow_packed_bytes,
                                       .pack = narrow_pack};
#endif
