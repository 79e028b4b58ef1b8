/* conv_vector.c, AVX2: large matrices times one or two rows. Each weight is used once or twice, so its way from memory
 * is what takes the time: weights stay s8, half of what conv_gemm packs, and are widened on their way into vpmaddwd.
 *
 * A panel is 4 vectors of channels. Packed: for each panel int32 start, f32 multiplier, then for each pair of inputs
 * the 2 weights of each channel; last a pixel full of in_zero_point. */
#include "vector.h"

#if QK_X86
#include <math.h>
#include <string.h>

#define GEMM_TARGET QK_TARGET_AVX2
#define GEMM_LOOKUP qk_lookup_rows_avx2
#define GEMM_WIDTH  4
#include "../conv_finish.inc"

enum {
    ROWS_MAX = 2,
    WEIGHTS_MIN = 128 << 10, /* fewer stay in the L2 cache as s16 too */
    PANEL_CHANNELS = GEMM_WIDTH * LANES,
    STEP_BYTES = 2 * PANEL_CHANNELS
};

typedef struct {
    int64_t steps, panels, panel_bytes; /* steps of 2 inputs */
} vector_shape;

static vector_shape shape_of(const qk_conv_params *c) {
    vector_shape s = {.steps = qk_divide_up(c->in_c, 2), .panels = qk_divide_up(c->out_c, PANEL_CHANNELS)};
    s.panel_bytes = PANEL_CHANNELS * 8 + s.steps * STEP_BYTES;
    return s;
}

static int32_t vector_accepts(const qk_op *op) {
    const qk_conv_params *c = op->params;
    return c->groups == 1 && conv_taps(c) == 1 && c->in_c >= 16 && (int64_t)c->in_c * c->out_c >= WEIGHTS_MIN &&
           conv_rows(c) > 0 && conv_rows(c) <= ROWS_MAX;
}

/* ---- Packing ---- */

static int64_t vector_packed_bytes(const qk_conv_params *c) {
    const vector_shape s = shape_of(c);
    return s.panels * s.panel_bytes + c->in_c;
}

static void vector_pack(const qk_conv_params *c, const int8_t *weights, const int32_t *bias, const float *multiplier,
                        void *packed) {
    const vector_shape s = shape_of(c);
    memset(packed, 0, (size_t)(s.panels * s.panel_bytes));
    memset((char *)packed + s.panels * s.panel_bytes, c->in_zero_point, (size_t)c->in_c);
    for (int64_t out = 0; out < c->out_c; out++, weights += c->in_c) {
        char *panel = (char *)packed + out / PANEL_CHANNELS * s.panel_bytes;
        const int64_t lane = out % PANEL_CHANNELS;
        int8_t *to = (int8_t *)panel + PANEL_CHANNELS * 8 + 2 * lane;
        int32_t sum = 0;
        for (int64_t k = 0; k < c->in_c; k++) {
            sum += weights[k];
            to[k / 2 * STEP_BYTES + k % 2] = weights[k];
        }
        ((int32_t *)panel)[lane] = bias[out] - c->in_zero_point * sum;
        ((float *)panel)[PANEL_CHANNELS + lane] = multiplier[out];
    }
}

/* ---- The kernel ---- */

V_INLINE vi load_weights(const char *w, int32_t v) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w + v));
}

V_INLINE vi add_products(vi sum, vi inputs, vi weights) {
    return v_add_i32(sum, _mm256_madd_epi16(inputs, weights));
}

static QK_TARGET_AVX2 void multiply_1(const char *panel, const char *x, int64_t steps, vi *sums) {
    const vi *start = (const vi *)panel;
    vi s0 = start[0], s1 = start[1], s2 = start[2], s3 = start[3];
    const char *w = panel + PANEL_CHANNELS * 8;
    for (; steps > 0; steps--, x += 4, w += STEP_BYTES) {
        const vi inputs = v_broadcast(x);
        s0 = add_products(s0, inputs, load_weights(w, 0));
        s1 = add_products(s1, inputs, load_weights(w, 1));
        s2 = add_products(s2, inputs, load_weights(w, 2));
        s3 = add_products(s3, inputs, load_weights(w, 3));
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* Two rows, row_bytes apart. */
static QK_TARGET_AVX2 void multiply_2(const char *panel, const char *x, int64_t row_bytes, int64_t steps, vi *sums) {
    const vi *start = (const vi *)panel;
    vi s0 = start[0], s1 = start[1], s2 = start[2], s3 = start[3], t0 = s0, t1 = s1, t2 = s2, t3 = s3;
    const char *w = panel + PANEL_CHANNELS * 8;
    for (; steps > 0; steps--, x += 4, w += STEP_BYTES) {
        const vi first = v_broadcast(x), second = v_broadcast(x + row_bytes);
        const vi w0 = load_weights(w, 0), w1 = load_weights(w, 1), w2 = load_weights(w, 2), w3 = load_weights(w, 3);
        s0 = add_products(s0, first, w0);
        t0 = add_products(t0, second, w0);
        s1 = add_products(s1, first, w1);
        t1 = add_products(t1, second, w1);
        s2 = add_products(s2, first, w2);
        t2 = add_products(t2, second, w2);
        s3 = add_products(s3, first, w3);
        t3 = add_products(t3, second, w3);
    }
    const vi all[8] = {s0, s1, s2, s3, t0, t1, t2, t3};
    memcpy(sums, all, sizeof all);
}

static int64_t row_bytes_of(const vector_shape *s) {
    return qk_round_up(4 * s->steps, 64);
}

static int64_t vector_scratch_bytes(const qk_op *op) {
    const vector_shape s = shape_of(op->params);
    return ROWS_MAX * row_bytes_of(&s);
}

/* The inputs of up to ROWS_MAX rows widened to s16. */
static QK_TARGET_AVX2 void widen_rows(const qk_op *op, const qk_task *task, const vector_shape *s, int64_t first) {
    const qk_conv_params *c = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    const uint8_t *padding = (const uint8_t *)qk_packed_body(c) + s->panels * s->panel_bytes;
    for (int64_t row = 0; row < qk_min64(ROWS_MAX, conv_rows(c) - first); row++)
        v_widen_u8((int16_t *)((char *)task->scratch + row * row_bytes_of(s)),
                   conv_inputs_of_row(c, in, padding, first + row, NULL), c->in_c);
}

static QK_TARGET_AVX2 void multiply_panel(const qk_op *op, const qk_task *task, const vector_shape *s, gemm_finish *f,
                                          int64_t first, int64_t panel) {
    const qk_conv_params *c = op->params;
    const char *packed = (const char *)qk_packed_body(c) + panel * s->panel_bytes;
    const int32_t rows = (int32_t)qk_min64(ROWS_MAX, conv_rows(c) - first);
    const int64_t channel = panel * PANEL_CHANNELS;
    const uint8_t *residual = qk_at(task, op->in[1]);
    vi sums[MOST_SUMS];
    swish_room swish;
    f->channels = (int32_t)qk_min64(PANEL_CHANNELS, c->out_c - channel);
    f->out = (char *)qk_at(task, op->out) + first * f->out_pitch + channel * (c->epilogue.to_float ? 4 : 1);
    f->residual = residual ? residual + first * c->residual_pitch + channel : NULL;
    repeat_multipliers(f, (const vf *)packed + GEMM_WIDTH);
    repeat_swish(f, channel, &swish);
    if (rows == 1)
        multiply_1(packed, task->scratch, s->steps, sums);
    else
        multiply_2(packed, task->scratch, row_bytes_of(s), s->steps, sums);
    (c->epilogue.to_float ? finish_float : finish_u8)(f, sums, rows);
}

/* A unit is a panel with up to ROWS_MAX rows, whose units follow each other. */
static qk_work vector_work(const qk_op *op) {
    const vector_shape s = shape_of(op->params);
    const int64_t blocks = qk_divide_up(conv_rows(op->params), ROWS_MAX);
    return (qk_work){.units = blocks * s.panels, .nanoseconds = blocks * s.panels * s.panel_bytes / 20};
}

static QK_TARGET_AVX2 void vector_run(const qk_op *op, const qk_task *task) {
    const qk_conv_params *c = op->params;
    const vector_shape s = shape_of(c);
    gemm_finish f = {.e = &c->epilogue,
                     .q = requantizer_of(c),
                     .width = GEMM_WIDTH,
                     .out_pitch = (int64_t)c->out_pitch * (c->epilogue.to_float ? 4 : 1),
                     .residual_pitch = c->residual_pitch};
    for (int64_t unit = task->begin; unit < task->end; unit++) {
        const int64_t block = unit / s.panels;
        if (*task->kept != block)
            widen_rows(op, task, &s, block * ROWS_MAX);
        *task->kept = block;
        multiply_panel(op, task, &s, &f, block * ROWS_MAX, unit % s.panels);
    }
}

const qk_kernel qk_conv_vector_avx2 = {.accepts = vector_accepts,
                                       .valid = qk_conv_valid,
                                       .work = vector_work,
                                       .scratch_bytes = vector_scratch_bytes,
                                       .run = vector_run,
                                       .packed_bytes = vector_packed_bytes,
                                       .pack = vector_pack};
#endif
