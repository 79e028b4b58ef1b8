/* conv_strassen.c, AVX2: convolution in 7/8 or 49/64 of the multiplications, exact (Strassen 1969; Winograd's variant
 * with 15 additions).
 *
 * The matrix of inputs [rows][taps * in_c] and that of weights [taps * in_c][out_c] are cut into 2 x 2 blocks A and B.
 * Then
 *
 *     P1 = A11 B11            P5 = S1 T1     S1 = A21 + A22     T1 = B12 - B11     C11 = P1 + P2
 *     P2 = A12 B21            P6 = S2 T2     S2 = S1 - A11      T2 = B22 - T1      C12 = P1 + P6 + P5 + P3
 *     P3 = S4 B22             P7 = S3 T3     S3 = A11 - A21     T3 = B22 - B12     C21 = P1 + P6 + P7 + P4
 *     P4 = A22 (B21 - T2)                    S4 = A12 - S2                         C22 = P1 + P6 + P7 + P5
 *
 * On two levels the blocks of the 7 products are multiplied in the same way: 49 products of quarters. Sums of inputs
 * are within +-4 * 510 and sums of weights within +-16 * 127 then: s16. Sums of products are kept modulo 2^32, which
 * the results fit.
 *
 * A unit is a block of `parts` * `height` rows with a panel of `parts` * `width` vectors of channels. Packed: for each
 * panel the f32 multipliers, then for each product int32 start and for each pair of inputs one vector of s16 pairs per
 * vector of channels. Then a pixel full of in_zero_point. */
#include "vector.h"

#if QK_X86
#include <math.h>
#include <string.h>

#include "../conv_requantize.inc"
#include "lookup.h"

#define GEMM_TARGET         QK_TARGET_AVX2
#define GEMM_DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define GEMM_WIDTH          2
#include "../conv_tiles.inc"

enum {
    PRODUCTS = 7,
    MOST_PARTS = 4,
    MOST_PRODUCTS = PRODUCTS * PRODUCTS,
    S16_LANES = 2 * LANES,
    HEIGHT_MAX = 48,
    SMALL_HEIGHT_MAX = 13,   /* up to here the whole image is one block: 7 x 7 pixels in 4 parts */
    BLOCK_BYTES = 256 << 10, /* sums of inputs of a block: they stay in the L2 cache */
    CHANNELS_MIN = 64,
    OUTPUTS_MIN = 96, /* or INPUTS_MIN, of one tap: else preparing and joining costs what the products save */
    INPUTS_MIN = 256,
    ROWS_MIN = 24,
    PRODUCT_MAX = 1 << 21,   /* weights: at 3.5 bytes each instead of 2, more do not pay for their way */
    TWO_LEVELS_INPUTS = 256, /* of a row */
    TWO_LEVELS_OUTPUTS = 160,
    TWO_LEVELS_PRODUCT = 640 << 10, /* weights at most: they take 6 bytes each */
};

typedef struct {
    int32_t parts, products; /* 2 and 7, or 4 and 49 */
    int32_t inputs, depth;   /* of a row: channels of all taps; of a part */
    int32_t panels;
    int64_t row_bytes, panel_bytes; /* of a row of a product; of a panel of full width */
    int64_t rows, height, blocks;
    int64_t product_bytes; /* from the rows of one product to those of the next */
} strassen_shape;

static strassen_shape shape_of(const qk_conv_params *c) {
    const int32_t inputs = conv_depth(c);
    const int two = inputs >= TWO_LEVELS_INPUTS && c->out_c >= TWO_LEVELS_OUTPUTS && inputs % 8 == 0 &&
                    c->out_c % 32 == 0 && (int64_t)inputs * c->out_c <= TWO_LEVELS_PRODUCT;
    strassen_shape s = {.parts = two ? 4 : 2, .products = two ? MOST_PRODUCTS : PRODUCTS, .rows = conv_rows(c)};
    s.inputs = inputs;
    s.depth = inputs / s.parts;
    s.panels = (int32_t)qk_divide_up(c->out_c, 2 * LANES * s.parts);
    s.panel_bytes = 2 * (int64_t)LANES * 4 * (s.parts + s.products * (1 + s.depth / 2));
    s.row_bytes = qk_round_up(2 * s.depth, 64) + 64; /* rows fall into different sets */
    const int64_t fitting = qk_max64(MOST_ROWS, qk_min64(HEIGHT_MAX, BLOCK_BYTES / (s.products * s.row_bytes)));
    const int64_t most = s.rows <= SMALL_HEIGHT_MAX * s.parts ? SMALL_HEIGHT_MAX : fitting;
    s.blocks = qk_divide_up(s.rows, s.parts * most);
    s.height = s.blocks ? qk_divide_up(s.rows, s.blocks * s.parts) : 0;
    s.product_bytes = s.height * s.row_bytes;
    return s;
}

static int32_t panel_width(const qk_conv_params *c, const strassen_shape *s, int32_t panel) {
    return c->out_c - panel * 2 * LANES * s->parts < 2 * LANES * s->parts ? 1 : 2;
}

static int64_t panels_bytes(const qk_conv_params *c, const strassen_shape *s) {
    return s->panel_bytes * c->out_c / (2 * LANES * s->parts);
}

static int32_t strassen_accepts(const qk_op *op) {
    const qk_conv_params *c = op->params;
    const int pays = c->out_c >= OUTPUTS_MIN || (conv_taps(c) == 1 && c->in_c >= INPUTS_MIN);
    return pays && c->groups == 1 && c->in_c % 4 == 0 && c->out_c % 16 == 0 && c->in_c >= CHANNELS_MIN &&
           c->out_c >= CHANNELS_MIN && (int64_t)conv_depth(c) * c->out_c <= PRODUCT_MAX &&
           (conv_rows(c) == 0 || conv_rows(c) >= ROWS_MIN);
}

#include "conv_strassen_weights.inc"

/* ---- Scratch: rows of all products [product][height], their sums [product][height][width], pointers to rows ---- */

typedef struct {
    char *inputs;
    vi *sums;
    const char **rows;
    uint8_t *gathered; /* [part][inputs] */
} strassen_scratch;

static strassen_scratch scratch_of(const strassen_shape *s, void *scratch) {
    strassen_scratch w = {.inputs = scratch};
    w.sums = (vi *)(w.inputs + s->products * s->product_bytes);
    w.rows = (const char **)(w.sums + s->products * s->height * 2);
    w.gathered = (uint8_t *)(w.rows + s->height);
    return w;
}

static int64_t strassen_scratch_bytes(const qk_op *op) {
    const strassen_shape s = shape_of(op->params);
    return (int64_t)(uintptr_t)scratch_of(&s, NULL).gathered + (int64_t)s.parts * s.inputs;
}

/* ---- The kernel ---- */

V_INLINE void combine_inputs(vi a11, vi a12, vi a21, vi a22, vi product[PRODUCTS]) {
    const vi s1 = v_add_i16(a21, a22), s2 = v_sub_i16(s1, a11);
    product[0] = a11;
    product[1] = a12;
    product[2] = v_sub_i16(a12, s2);
    product[3] = a22;
    product[4] = s1;
    product[5] = s2;
    product[6] = v_sub_i16(a11, a21);
}

/* 16 channels of each part of a row of each part. */
V_INLINE void combine_2x2(const uint8_t *const *pixel, int64_t depth, char *to, int64_t product_bytes) {
    vi product[PRODUCTS];
    combine_inputs(v_load_u8_to_s16(pixel[0]), v_load_u8_to_s16(pixel[0] + depth), v_load_u8_to_s16(pixel[1]),
                   v_load_u8_to_s16(pixel[1] + depth), product);
    for (int32_t i = 0; i < PRODUCTS; i++)
        v_store((uint8_t *)to + i * product_bytes, product[i]);
}

V_INLINE void combine_4x4(const uint8_t *const *pixel, int64_t depth, char *to, int64_t product_bytes) {
    vi outer[4][PRODUCTS], product[PRODUCTS];
    for (int32_t i = 0; i < 4; i++) {
        const uint8_t *top = pixel[i / 2] + i % 2 * depth, *bottom = pixel[2 + i / 2] + i % 2 * depth;
        combine_inputs(v_load_u8_to_s16(top), v_load_u8_to_s16(top + 2 * depth), v_load_u8_to_s16(bottom),
                       v_load_u8_to_s16(bottom + 2 * depth), outer[i]);
    }
    for (int32_t i = 0; i < PRODUCTS; i++) {
        combine_inputs(outer[0][i], outer[1][i], outer[2][i], outer[3][i], product);
        for (int32_t j = 0; j < PRODUCTS; j++, to += product_bytes)
            v_store((uint8_t *)to, product[j]);
    }
}

static GEMM_TARGET void combine_row(const strassen_shape *s, const uint8_t *const *pixels, char *to) {
    for (int64_t k = 0; k < s->depth; k += S16_LANES) {
        const int64_t at = qk_min64(k, s->depth - S16_LANES);
        const uint8_t *here[MOST_PARTS];
        for (int32_t part = 0; part < s->parts; part++)
            here[part] = pixels[part] + at;
        if (s->parts == 2)
            combine_2x2(here, s->depth, to + 2 * at, s->product_bytes);
        else
            combine_4x4(here, s->depth, to + 2 * at, s->product_bytes);
    }
}

/* Rows past the last one are the last one again. */
static GEMM_TARGET void prepare_block(const qk_op *op, const qk_task *task, const strassen_shape *s, int64_t first) {
    const qk_conv_params *c = op->params;
    const strassen_scratch w = scratch_of(s, task->scratch);
    const uint8_t *padding = (const uint8_t *)qk_packed_body(c) + panels_bytes(c, s), *in = qk_at(task, op->in[0]);
    for (int64_t row = 0; row < s->height; row++) {
        const uint8_t *pixels[MOST_PARTS];
        for (int32_t part = 0; part < s->parts; part++) {
            const int64_t own = qk_min64(first + part * s->height + row, s->rows - 1);
            pixels[part] = conv_inputs_of_row(c, in, padding, own, w.gathered + (int64_t)part * s->inputs);
        }
        w.rows[row] = w.inputs + row * s->row_bytes;
        combine_row(s, pixels, w.inputs + row * s->row_bytes);
    }
}

static GEMM_TARGET void multiply_block(const strassen_shape *s, const strassen_scratch *w, const vi *weights,
                                       int32_t width) {
    const int64_t panel_step = width * (1 + (int64_t)s->depth / 2);
    const int32_t rows = (int32_t)s->height, most = tallest[width - 1], parts = (rows + most - 1) / most;
    gemm_tile tile = {
        .segments = 1, .steps = s->depth / 2, .sums_stride = width, .ahead = panel_step * (int64_t)sizeof(vi)};
    for (int32_t product = 0; product < s->products; product++) {
        tile.start = weights + product * panel_step;
        tile.panel = tile.start + width;
        tile.shift = product * s->product_bytes;
        for (int32_t part = 0, row = 0; part < parts; part++) {
            const int32_t count = (rows - row + parts - part - 1) / (parts - part);
            tile.rows = w->rows + row;
            tiles[width - 1][count - 1](&tile, w->sums + ((int64_t)product * rows + row) * width);
            row += count;
        }
    }
}

/* 11, 12, 21, 22 of the sums, from those of the products, `stride` apart. */
V_INLINE void combine_sums(const vi *product, int64_t stride, vi c[4]) {
    const vi u2 = v_add_i32(product[0], product[5 * stride]), u3 = v_add_i32(u2, product[6 * stride]);
    c[0] = v_add_i32(product[0], product[stride]);
    c[1] = v_add_i32(v_add_i32(u2, product[4 * stride]), product[2 * stride]);
    c[2] = v_add_i32(u3, product[3 * stride]);
    c[3] = v_add_i32(u3, product[4 * stride]);
}

/* One vector of channels of each part: sums[part of rows][part of channels], `width` apart. */
V_INLINE void sums_2x2(const vi *product, int64_t stride, int32_t width, vi *sums) {
    vi c[4];
    combine_sums(product, stride, c);
    for (int32_t i = 0; i < 4; i++)
        sums[i * width] = c[i];
}

V_INLINE void sums_4x4(const vi *product, int64_t stride, int32_t width, vi *sums) {
    vi inner[PRODUCTS][4], c[4];
    for (int32_t i = 0; i < PRODUCTS; i++)
        combine_sums(product + i * PRODUCTS * stride, stride, inner[i]);
    for (int32_t i = 0; i < 4; i++) {
        combine_sums(&inner[0][i], 4, c);
        for (int32_t j = 0; j < 4; j++)
            sums[((j / 2 * 2 + i / 2) * MOST_PARTS + j % 2 * 2 + i % 2) * width] = c[j];
    }
}

typedef struct {
    const qk_epilogue *e;
    requantizer q;
    const vf *multiplier;
    swish_numbers swish; /* of the vectors of a row, or of 4 */
    const vi *sums;      /* [product][row][vector] */
    int64_t stride;      /* vectors of a product */
    char *out;
    const uint8_t *residual;
    int64_t out_pitch, residual_pitch; /* bytes */
    int64_t parts_left;                /* parts that still have this row */
} strassen_finish;

/* Up to 4 vectors of channels of a row, from the v-th on. */
V_INLINE void finish_u8(const strassen_finish *f, const vi *sums, int32_t v, int32_t vectors, uint8_t *out,
                        const uint8_t *residual) {
    vf value[4];
    for (int32_t i = 0; i < 4; i++) {
        value[i] = v_mul(v_to_float(sums[i % vectors]), f->multiplier[v + i % vectors]);
        if (residual)
            value[i] = add_residual(&f->q, value[i], v_load_u8(residual + (v + i % vectors) * LANES));
    }
    out += v * LANES;
    v_store_bytes(out,
                  v_unmix(requantize_shortest(&f->q, value[0], value[1], value[2], value[3], swish_from(f->swish, v))),
                  vectors * LANES);
}

/* The same row of each part of the rows. */
V_INLINE void finish_row(const strassen_finish *f, int32_t parts, int32_t width) {
    vi sums[MOST_PARTS * MOST_PARTS * 2];
    const int32_t vectors = parts * width, step = vectors < 4 ? vectors : 4;
#pragma GCC unroll 2
    for (int32_t v = 0; v < width; v++)
        if (parts == 2)
            sums_2x2(f->sums + v, f->stride, width, sums + v);
        else
            sums_4x4(f->sums + v, f->stride, width, sums + v);
#pragma GCC unroll 4
    for (int32_t part = 0; part < parts; part++) {
        if (part == f->parts_left)
            return;
        char *out = f->out + part * f->out_pitch;
        const uint8_t *residual = f->residual ? f->residual + part * f->residual_pitch : NULL;
#pragma GCC unroll 2
        for (int32_t v = 0; v < vectors; v += step)
            if (f->e->to_float)
                for (int32_t i = v; i < v + step; i++)
                    v_store_f32((float *)out + i * LANES, v_mul(v_to_float(sums[part * vectors + i]), f->multiplier[i]),
                                LANES);
            else
                finish_u8(f, sums + part * vectors + v, v, step, (uint8_t *)out, residual);
    }
}

/* `channels` channels of the rows of a block, from `out` on in each pixel. */
static void look_up_block(const qk_conv_params *c, const strassen_shape *s, int64_t first, uint8_t *out,
                          int32_t channels) {
    uint8_t *at = out + first * c->out_pitch;
    const int64_t rows = qk_min64(s->parts * s->height, s->rows - first);
    const qk_byte_rows pixels = {at, at, c->out_pitch, c->out_pitch, rows, channels};
    qk_lookup_rows_avx2(&pixels, c->epilogue.table);
}

static GEMM_TARGET void repeat_numbers(const float *numbers, int32_t vectors, vf *to) {
    for (int32_t i = 0; i < MOST_PARTS * 2; i++)
        to[i] = v_load_f32(numbers + i % vectors * LANES, LANES);
}

static GEMM_TARGET void finish_block(const qk_op *op, const qk_task *task, const strassen_shape *s, int32_t panel,
                                     int64_t first, const vf *multiplier) {
    const qk_conv_params *c = op->params;
    const int32_t width = panel_width(c, s, panel), element = c->epilogue.to_float ? 4 : 1;
    const int64_t channel = (int64_t)panel * 2 * LANES * s->parts;
    const uint8_t *residual = qk_at(task, op->in[1]);
    strassen_finish f = {.e = &c->epilogue,
                         .q = requantizer_of(c),
                         .multiplier = multiplier,
                         .sums = scratch_of(s, task->scratch).sums,
                         .stride = s->height * width,
                         .out = (char *)qk_at(task, op->out) + (first * c->out_pitch + channel) * element,
                         .residual = residual ? residual + first * c->residual_pitch + channel : NULL,
                         .out_pitch = s->height * c->out_pitch * element,
                         .residual_pitch = s->height * c->residual_pitch};
    vf scale[MOST_PARTS * 2], shift[MOST_PARTS * 2];
    if (c->epilogue.activation == QK_HARD_SWISH) {
        repeat_numbers(c->epilogue.activation_scale + channel, s->parts * width, scale);
        if (c->epilogue.activation_shift)
            repeat_numbers(c->epilogue.activation_shift + channel, s->parts * width, shift);
        f.swish = (swish_numbers){scale, c->epilogue.activation_shift ? shift : NULL};
    }
    for (int64_t row = first; row < first + s->height && row < s->rows; row++, f.sums += width) {
        f.parts_left = qk_divide_up(s->rows - row, s->height);
        if (s->parts == 2)
            width == 2 ? finish_row(&f, 2, 2) : finish_row(&f, 2, 1);
        else
            width == 2 ? finish_row(&f, 4, 2) : finish_row(&f, 4, 1);
        f.out += (int64_t)c->out_pitch * element;
        f.residual += f.residual ? c->residual_pitch : 0;
    }
    if (c->epilogue.table)
        look_up_block(c, s, first, (uint8_t *)qk_at(task, op->out) + channel, s->parts * width * LANES);
}

/* The panels of one block follow each other and share its inputs. */
static qk_work strassen_work(const qk_op *op) {
    const strassen_shape s = shape_of(op->params);
    const int64_t vectors = s.blocks * s.height * s.products * s.panels * 2 * (s.depth / 2); /* multiplied */
    return (qk_work){.units = s.blocks * s.panels, .nanoseconds = vectors / 4};
}

static GEMM_TARGET void strassen_run(const qk_op *op, const qk_task *task) {
    const qk_conv_params *c = op->params;
    const strassen_shape s = shape_of(c);
    const strassen_scratch w = scratch_of(&s, task->scratch);
    for (int64_t unit = task->begin; unit < task->end; unit++) {
        const int64_t block = unit / s.panels, first = block * s.height * s.parts;
        const int32_t panel = (int32_t)(unit % s.panels), width = panel_width(c, &s, panel);
        const vi *multiplier = (const vi *)((const char *)qk_packed_body(c) + panel * s.panel_bytes);
        if (*task->kept != block)
            prepare_block(op, task, &s, first);
        *task->kept = block;
        multiply_block(&s, &w, multiplier + s.parts * width, width);
        finish_block(op, task, &s, panel, first, (const vf *)multiplier);
    }
}

const qk_kernel qk_conv_strassen_avx2 = {.accepts = strassen_accepts,
                                         .valid = qk_conv_valid,
                                         .work = strassen_work,
                                         .scratch_bytes = strassen_scratch_bytes,
                                         .run = strassen_run,
                                         .packed_bytes = strassen_packed_bytes,
                                         .pack = strassen_pack};
#endif
