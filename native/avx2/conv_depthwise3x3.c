/* conv_depthwise3x3.c, AVX2: depthwise 3x3 with a horizontal stride of 1 or 2.
 *
 * Taps go in pairs: of each column the upper two; of the lower row the second and third, which leaves one tap alone.
 * The others' l are between 0 and 15 in size and of the sign that the weight of that one has not; it stays whole. So
 * the sums of l and of it are within 255 * 127 and 255 * 8 * 15, and those of h within 255 * 8 * 8: all below 2^15.
 *
 * Two pixels at a time share each load of weights, and the interleaved columns of the pixels before stay in registers:
 * 61 vector operations for 32 channels of a pixel of a layer that ends in a ReLU. */
#include "vector.h"

#if QK_X86
#define SIDE          3
#define LOWS          5 /* columns of the upper two rows, the tap alone, the pair of the lower row */
#define HIGHS         4 /* the same without the tap alone */
#define LINES_STEP    16
#define LINES_STRIDES 2
#define LINES_NAME    qk_conv_depthwise3x3_avx2
#include "conv_depthwise_lines.inc"

static int64_t lines_filter_scratch(const qk_conv_params *c) {
    (void)c;
    return 0;
}

/* Puts the weights of one channel in 16-bit lane `place`. Returns their step. */
static int32_t put_channel(half_block *to, int32_t place, const int8_t *w, int32_t stride) {
    static const int8_t first_of_pair[5] = {0, 1, 2, -1, 7}, second_of_pair[5] = {3, 4, 5, -1, 8};
    const int32_t sign = w[6] < 0 ? 1 : -1; /* of what is left of the others */
    for (int32_t pair = 0; pair < 5; pair++) {
        int8_t *low = (int8_t *)&to->low[pair] + 2 * place,
               *high = (int8_t *)&to->high[pair < 3 ? pair : 3] + 2 * place;
        if (pair == 3) {
            low[stride - 1] = w[6];
            continue;
        }
        for (int32_t i = 0; i < 2; i++) {
            const int32_t value = w[(i ? second_of_pair : first_of_pair)[pair]];
            const int32_t left = sign > 0 ? value & (LINES_STEP - 1) : -(-value & (LINES_STEP - 1));
            low[i] = (int8_t)left;
            high[i] = (int8_t)((value - left) / LINES_STEP);
        }
    }
    return LINES_STEP;
}

/* Where a row is read: at columns that the loops have seen to be inside. */
typedef struct {
    const uint8_t *at;
    int64_t step, far;
} lines_row;

LINES_INLINE vi inside_column(lines_row r, int32_t column, int32_t split) {
    return load_lanes(r.at + column * r.step, r.far, split);
}

/* The last interleaved columns: of the upper two rows; of the lower row; of that one the last bytes. */
typedef struct {
    vi upper[2], lower, last;
} lines_columns;

#define UPPER(COLUMN, i) interleave(COLUMN(0, i), COLUMN(1, i), half)

/* Two pixels. COLUMN(row, i): bytes of new column i. */
#define TWO_PIXELS(COLUMN)                                                                                             \
    {                                                                                                                  \
        vi low[2], high[2];                                                                                            \
        __asm__ volatile("" : "+r"(b)); /* else gcc would keep the address of each weight */                           \
        if (stride == 1) {                                                                                             \
            BEGIN(low, c.upper[0], c.upper[1], &b->low[0])                                                             \
            BEGIN(high, c.upper[0], c.upper[1], &b->high[0])                                                           \
            c.upper[0] = UPPER(COLUMN, 0);                                                                             \
            ADD(low, c.upper[1], c.upper[0], &b->low[1])                                                               \
            ADD(high, c.upper[1], c.upper[0], &b->high[1])                                                             \
            c.upper[1] = UPPER(COLUMN, 1);                                                                             \
            ADD(low, c.upper[0], c.upper[1], &b->low[2])                                                               \
            ADD(high, c.upper[0], c.upper[1], &b->high[2])                                                             \
            const vi middle = COLUMN(2, 0), lower = interleave(c.last, middle, half);                                  \
            ADD(low, c.lower, lower, &b->low[3])                                                                       \
            c.last = COLUMN(2, 1);                                                                                     \
            c.lower = interleave(middle, c.last, half);                                                                \
            ADD(low, lower, c.lower, &b->low[4])                                                                       \
            ADD(high, lower, c.lower, &b->high[3])                                                                     \
        } else {                                                                                                       \
            const vi third = UPPER(COLUMN, 1);                                                                         \
            BEGIN(low, c.upper[0], third, &b->low[0])                                                                  \
            BEGIN(high, c.upper[0], third, &b->high[0])                                                                \
            const vi second = UPPER(COLUMN, 0), fourth = UPPER(COLUMN, 2);                                             \
            ADD(low, second, fourth, &b->low[1])                                                                       \
            ADD(high, second, fourth, &b->high[1])                                                                     \
            c.upper[0] = UPPER(COLUMN, 3);                                                                             \
            ADD(low, third, c.upper[0], &b->low[2])                                                                    \
            ADD(high, third, c.upper[0], &b->high[2])                                                                  \
            const vi lower = interleave(COLUMN(2, 0), COLUMN(2, 1), half);                                             \
            ADD(low, c.lower, lower, &b->low[3])                                                                       \
            c.lower = interleave(COLUMN(2, 2), COLUMN(2, 3), half);                                                    \
            ADD(low, lower, c.lower, &b->low[4])                                                                       \
            ADD(high, lower, c.lower, &b->high[3])                                                                     \
        }                                                                                                              \
        finish(p, b, &s, low, high, half, split, writes, is_relu);                                                     \
    }

/* The last pixel of an odd number. */
LINES_INLINE void one_pixel(const lines_pass *p, const half_block *b, const lines_columns *c, lines_state *s,
                            int32_t column, int32_t half, int32_t split, int32_t stride, int32_t writes,
                            int32_t is_relu) {
    vi first[SIDE], next[SIDE];
    any_column(p, column, split, first);
    if (stride == 2)
        any_column(p, column + 1, split, next);
    const vi new_upper = interleave(first[0], first[1], half);
    const vi second = stride == 1 ? c->upper[1] : new_upper;
    const vi third = stride == 1 ? new_upper : interleave(next[0], next[1], half);
    const vi lower = stride == 1 ? interleave(c->last, first[2], half) : interleave(first[2], next[2], half);
    vi low = MULTIPLY(c->upper[0], b->low[0]), high = MULTIPLY(c->upper[0], b->high[0]);
    low = v_add_i16(low, MULTIPLY(second, b->low[1]));
    high = v_add_i16(high, MULTIPLY(second, b->high[1]));
    low = v_add_i16(low, MULTIPLY(third, b->low[2]));
    high = v_add_i16(high, MULTIPLY(third, b->high[2]));
    low = v_add_i16(v_add_i16(low, MULTIPLY(c->lower, b->low[3])), MULTIPLY(lower, b->low[4]));
    high = v_add_i16(high, MULTIPLY(lower, b->high[3]));
    finish_last(p, b, s, low, high, half, split, writes, is_relu);
}

#define ANY(row, i)    columns[i][row]
#define INSIDE(row, i) inside_column(r##row, i, split)

LINES_INLINE void run_pass(const lines_pass *p, const half_block *b, int32_t half, int32_t split, int32_t stride,
                           int32_t writes, int32_t is_relu) {
    const int32_t fresh = stride == 1 ? 2 : 1; /* the first new column of a pixel */
    lines_state s = {p->words, p->out};
    lines_columns c;
    vi columns[4][3];
    any_column(p, p->column, split, columns[0]);
    c.upper[0] = UPPER(ANY, 0);
    if (stride == 1) {
        any_column(p, p->column + 1, split, columns[1]);
        c.upper[1] = UPPER(ANY, 1);
        c.lower = interleave(ANY(2, 0), ANY(2, 1), half);
        c.last = ANY(2, 1);
    } else {
        c.lower = interleave(ANY(2, 0), ANY(2, 0), half);
    }
    /* Two pixels whose new columns are all inside begin below `end`. */
    const int32_t most = p->columns - p->column - fresh - 2 * stride - (split ? p->far_columns : 0);
    const int32_t end = most < 0 ? 0 : most / stride + 1 < p->pixels ? most / stride + 1 : p->pixels - 1;
    int32_t x = 0;
    while (x + 1 < p->pixels) {
        const int32_t column = p->column + x * stride + fresh;
        if (column >= 0 && x < end) {
            lines_row r0 = {p->row[0] + column * p->step[0], p->step[0], p->far[0]};
            lines_row r1 = {p->row[1] + column * p->step[1], p->step[1], p->far[1]};
            lines_row r2 = {p->row[2] + column * p->step[2], p->step[2], p->far[2]};
            for (; x < end; x += 2) {
                TWO_PIXELS(INSIDE)
                r0.at += 2 * stride * r0.step;
                r1.at += 2 * stride * r1.step;
                r2.at += 2 * stride * r2.step;
            }
        } else {
            for (int32_t i = 0; i < 2 * stride; i++)
                any_column(p, column + i, split, columns[i]);
            TWO_PIXELS(ANY)
            x += 2;
        }
    }
    if (x < p->pixels)
        one_pixel(p, b, &c, &s, p->column + x * stride + fresh, half, split, stride, writes, is_relu);
}

#include "conv_depthwise_lines_run.inc"
#endif
