/* conv_maddubs.c, AVX2: convolution by vpmaddubsw, exact: 42 multiply-adds a cycle on Zen 5 instead of 28.
 *
 * vpmaddubsw adds two products u8 x s8 in 16 bits, and saturates. Weights are known, so it can be known that it does
 * not: 255 times the sum of the weights of one sign must stay below 2^15. Here even the sum of two such results must,
 * so that one vpmaddwd by ones and one 32-bit addition serve 4 products a sum. Which inputs share a sum is free: for
 * each panel of 8 channels the inputs are brought into an order in which large weights of one sign are apart. Where no
 * order is found, a constant for each sum shifts its range into s16: then 255 times the sum of all sizes must stay
 * below 2^16. Weights that leave too many sums half empty are left to the next kernel.
 *
 * A step is 8 inputs of a panel in its order: 2 dwords, 2 bins (4 products in a sum of 16 bits), both in each channel.
 * A lane is 1 or 2 steps, an entry the two lanes that one shuffle of 32 bytes makes. Places that no input needs stay
 * empty.
 *
 * Packed: where each panel lies, a pixel full of in_zero_point, the panels: maddubs_panel, entries, lanes, the steps'
 * weights. */
#include "vector.h"

#if QK_X86
#include <stdlib.h>
#include <string.h>

#include <math.h>

#define GEMM_TARGET QK_TARGET_AVX2
#define GEMM_LOOKUP qk_lookup_rows_avx2
#define GEMM_WIDTH  1
#include "../conv_finish.inc"
#include "../conv_finished.inc"

enum {
    LANE_INPUTS = 16,
    MOST_ROWS = 8,
    ROW_BYTES = 2 * LANE_INPUTS,
    ENTRY_BYTES = MOST_ROWS * ROW_BYTES,
    NO_INPUT = 0x80,       /* vpshufb makes 0 of it */
    DEPTH_MIN = 64,        /* below, few orders are possible */
    TAP_CHANNELS_MIN = 16, /* several taps are gathered one by one: with 3 channels 8 times the time of conv_gemm */
    ROWS_MIN = 8,
    CHUNK_BYTES = 256 << 10 /* packed panels that a unit goes through: they stay in the L2 cache for the next unit */
};

/* The 32 bytes of a row from `source` on, in the order of `byte`, each half by itself. */
typedef struct {
    int32_t source, unused[7];
    uint8_t byte[2 * LANE_INPUTS];
} maddubs_entry;

/* Two steps, of which the last ones are shifted, or one shifted step. */
enum { TWO_PLAIN, ONE_SHIFTED, TWO_SHIFTED, SINGLE_SHIFTED, KINDS };

typedef struct {
    int32_t of_kind[KINDS];                        /* lanes, in this order */
    int32_t entries, lanes_offset, weights_offset; /* bytes from here */
    int32_t bytes;                                 /* to the next panel */
    int32_t start[LANES];
    float multiplier[LANES];
} maddubs_panel;

typedef struct {
    int32_t depth, blocks, panels; /* inputs of a row; blocks of 16 of them; panels of 8 channels */
    int32_t most_entries;          /* of a panel */
    int32_t chunk, chunks;         /* panels of a unit */
    int64_t most_lanes;            /* of all panels: with a quarter more than full ones vpmaddwd is as fast */
    int64_t padding_offset, panels_offset;
    int64_t rows, tiles; /* tiles of up to 8 rows */
} maddubs_shape;

static maddubs_shape shape_of(const qk_conv_params *c) {
    maddubs_shape s = {.depth = conv_depth(c), .panels = c->out_c / LANES, .rows = conv_rows(c)};
    s.blocks = (int32_t)qk_divide_up(s.depth, LANE_INPUTS);
    s.most_entries = s.blocks + 2;
    s.most_lanes = (int64_t)s.panels * s.blocks * 5 / 4;
    s.chunks = (int32_t)qk_divide_up((int64_t)s.panels * s.blocks * 192, CHUNK_BYTES);
    s.chunk = (int32_t)qk_divide_up(s.panels, s.chunks);
    s.chunks = (int32_t)qk_divide_up(s.panels, s.chunk);
    s.padding_offset = qk_round_up(s.panels * (int64_t)sizeof(int64_t), 64);
    s.panels_offset = s.padding_offset + qk_round_up(c->in_c, 64);
    s.tiles = qk_divide_up(s.rows, 8);
    return s;
}

static int32_t maddubs_accepts(const qk_op *op) {
    const qk_conv_params *c = op->params;
    return c->groups == 1 && c->out_c % LANES == 0 && conv_depth(c) >= DEPTH_MIN &&
           (conv_taps(c) == 1 || c->in_c >= TAP_CHANNELS_MIN) && (conv_rows(c) == 0 || conv_rows(c) >= ROWS_MIN);
}

#include "conv_maddubs_bins.inc"

#include "conv_maddubs_weights.inc"

#include "conv_maddubs_tiles.inc"

/* ---- Scratch: the inputs of two panels [entry][row][32], rows whose inputs do not lie a pitch apart ---- */

typedef struct {
    uint8_t *inputs[2];
    uint8_t *gathered; /* [MOST_ROWS][depth] */
} maddubs_scratch;

static maddubs_scratch scratch_of(const maddubs_shape *s, void *scratch) {
    const int64_t inputs = (int64_t)s->most_entries * MOST_ROWS * 2 * LANE_INPUTS;
    maddubs_scratch w = {.inputs = {scratch, (uint8_t *)scratch + inputs}};
    w.gathered = w.inputs[1] + inputs;
    return w;
}

static int64_t maddubs_scratch_bytes(const qk_op *op) {
    const maddubs_shape s = shape_of(op->params);
    return (int64_t)(uintptr_t)scratch_of(&s, NULL).gathered + (int64_t)MOST_ROWS * s.depth;
}

/* ---- The kernel ---- */

static const maddubs_panel *panel_at(const qk_conv_params *c, int32_t panel) {
    const char *body = qk_packed_body(c);
    return (const maddubs_panel *)(body + ((const int64_t *)body)[panel]);
}

/* Points the tile to its rows: to the activations, or to a copy. */
static void find_rows(const qk_op *op, const qk_task *task, const maddubs_shape *s, int64_t first, int32_t rows,
                      maddubs_tile *tile) {
    const qk_conv_params *c = op->params;
    const uint8_t *in = qk_at(task, op->in[0]), *padding = (const uint8_t *)qk_packed_body(c) + s->padding_offset;
    uint8_t *to = scratch_of(s, task->scratch).gathered;
    if (conv_taps(c) == 1 && c->stride_h == 1 && c->stride_w == 1 && c->pad_top == 0 && c->pad_left == 0 &&
        c->out_h == c->in_h && c->out_w == c->in_w) {
        tile->rows = in + first * c->in_pitch;
        tile->row_pitch = c->in_pitch;
        return;
    }
    tile->rows = to;
    tile->row_pitch = s->depth;
    for (int32_t row = 0; row < rows; row++, to += s->depth) {
        const uint8_t *found = conv_inputs_of_row(c, in, padding, first + row, to);
        if (found != to)
            memcpy(to, found, (size_t)s->depth);
    }
}

/* All panels of the tile by way of their sums. channel: the first one. */
static GEMM_TARGET void finish_in_memory(maddubs_tile *t, gemm_finish *f, int64_t channel, int32_t rows) {
    vi sums[MOST_SUMS];
    swish_room swish;
    tiles[rows - 1](t, NULL, sums); /* prepares the first panel */
    for (; t->panel; channel += LANES) {
        repeat_multipliers(f, (const vf *)t->panel->multiplier);
        repeat_swish(f, channel, &swish);
        tiles[rows - 1](t, NULL, sums);
        (f->e->to_float ? finish_float : finish_u8)(f, sums, rows);
        f->out += LANES * (f->e->to_float ? 4 : 1);
        f->residual += f->residual ? LANES : 0;
    }
}

/* A tile of rows with panels begin..end-1. */
static GEMM_TARGET void multiply_rows(const qk_op *op, const qk_task *task, const maddubs_shape *s, gemm_finish *f,
                                      int64_t tile, int32_t begin, int32_t end, int fetches) {
    const qk_conv_params *c = op->params;
    const maddubs_scratch w = scratch_of(s, task->scratch);
    const int64_t first = tile * s->rows / s->tiles, channel = (int64_t)begin * LANES;
    const int32_t rows = (int32_t)((tile + 1) * s->rows / s->tiles - first);
    const uint8_t *residual = qk_at(task, op->in[1]);
    maddubs_tile t = {.next = panel_at(c, begin),
                      .left = end - begin,
                      .fetches = fetches,
                      .inputs = w.inputs[0],
                      .next_inputs = w.inputs[1]};
    f->out = (char *)qk_at(task, op->out) + (first * c->out_pitch + channel) * (c->epilogue.to_float ? 4 : 1);
    f->residual = residual ? residual + first * c->residual_pitch + channel : NULL;
    find_rows(op, task, s, first, rows, &t);
    if (finishes_in_registers(f))
        tiles[rows - 1](&t, f, NULL);
    else
        finish_in_memory(&t, f, channel, rows);
}

/* A unit is a tile of rows with a chunk of panels, whose weights the units of one chunk share. */
static qk_work maddubs_work(const qk_op *op) {
    const maddubs_shape s = shape_of(op->params);
    const int64_t vectors = s.rows * s.blocks * s.panels * 6; /* multiplied */
    return (qk_work){.units = s.tiles * s.chunks, .nanoseconds = vectors / 8};
}

static GEMM_TARGET void maddubs_run(const qk_op *op, const qk_task *task) {
    const qk_conv_params *c = op->params;
    const maddubs_shape s = shape_of(c);
    gemm_finish f = {.e = &c->epilogue,
                     .q = requantizer_of(c),
                     .width = 1,
                     .channels = LANES,
                     .out_pitch = (int64_t)c->out_pitch * (c->epilogue.to_float ? 4 : 1),
                     .residual_pitch = c->residual_pitch};
    for (int64_t unit = task->begin; unit < task->end; unit++) {
        const int32_t begin = (int32_t)(unit / s.tiles) * s.chunk, end = (int32_t)qk_min64(begin + s.chunk, s.panels);
        const int64_t tile = unit % s.tiles;
        multiply_rows(op, task, &s, &f, tile, begin, end, tile == 0 || unit == task->begin);
    }
}

const qk_kernel qk_conv_maddubs_avx2 = {.accepts = maddubs_accepts,
                                        .valid = qk_conv_valid,
                                        .work = maddubs_work,
                                        .scratch_bytes = maddubs_scratch_bytes,
                                        .run = maddubs_run,
                                        .packed_bytes = maddubs_packed_bytes,
                                        .pack_if_suited = maddubs_pack};
#endif
