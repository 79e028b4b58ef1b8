/* conv_depthwise5x5.c, AVX2: depthwise 5x5 with a horizontal stride of 1.
 *
 * Taps go in pairs: of each column the first and second row, and the third and fourth; of the last row the columns 0
 * and 1, 2 and 3; 4 is alone. A pass first interleaves the columns of its lines, and leaves them in scratch; then two
 * pixels at a time share each load of weights.
 *
 * w = step h + l. The sums of l of one sign, and those of h, must be within 128, as 255 * 128 is below 2^15. A step of
 * 16 does it unless most of the weights are large and of one sign; then a larger one does. */
#include "vector.h"

#if QK_X86
#define SIDE          5
#define LOWS          13 /* pairs: of column c at 2 c and 2 c + 1, of the last row at 10 and 11, the tap alone */
#define HIGHS         13
#define LINES_STEP    0 /* each channel has its own */
#define LINES_STRIDES 1
#define LINES_NAME    qk_conv_depthwise5x5_avx2
#include "conv_depthwise_lines.inc"

enum { TAPS = SIDE * SIDE, MOST_IN_SUM = 128, FIRST_STEP = 16, LAST_STEP = 40 };

static int32_t sum_of_sign(const int32_t *x, int32_t sign) {
    int32_t sum = 0;
    for (int32_t tap = 0; tap < TAPS; tap++)
        sum += x[tap] * sign > 0 ? x[tap] * sign : 0;
    return sum;
}

/* Moves the largest l of one sign to the other, until those of that sign are few enough. */
static void balance(int32_t *low, int32_t *high, int32_t step, int32_t sign) {
    while (sum_of_sign(low, sign) > MOST_IN_SUM) {
        int32_t largest = 0;
        for (int32_t tap = 1; tap < TAPS; tap++)
            if (low[tap] * sign > low[largest] * sign)
                largest = tap;
        low[largest] -= step * sign;
        high[largest] += sign;
    }
}

static int32_t cut(const int8_t *w, int32_t step, int32_t *low, int32_t *high) {
    for (int32_t tap = 0; tap < TAPS; tap++) {
        high[tap] = (w[tap] + (w[tap] < 0 ? -step : step) / 2) / step;
        low[tap] = w[tap] - step * high[tap];
    }
    balance(low, high, step, 1);
    balance(low, high, step, -1);
    return sum_of_sign(low, 1) <= MOST_IN_SUM && sum_of_sign(high, 1) <= MOST_IN_SUM &&
           sum_of_sign(high, -1) <= MOST_IN_SUM;
}

/* The place of a tap: its pair, and the first or second of it. */
static int32_t slot_of(int32_t tap) {
    const int32_t y = tap / SIDE, x = tap % SIDE;
    return y < 4 ? 2 * (2 * x + y / 2) + y % 2 : x < 4 ? 20 + x : 25;
}

/* Puts the weights of one channel in 16-bit lane `place`. Returns their step; 0: none is found. */
static int32_t put_channel(half_block *to, int32_t place, const int8_t *w, int32_t stride) {
    (void)stride;
    int32_t low[TAPS], high[TAPS], step = FIRST_STEP;
    while (!cut(w, step, low, high))
        if (++step > LAST_STEP)
            return 0;
    for (int32_t tap = 0; tap < TAPS; tap++) {
        const int32_t slot = slot_of(tap), byte = 2 * place + slot % 2;
        ((int8_t *)&to->low[slot / 2])[byte] = (int8_t)low[tap];
        ((int8_t *)&to->high[slot / 2])[byte] = (int8_t)high[tap];
    }
    return step;
}

/* Interleaved bytes of a column: rows 0 and 1, rows 2 and 3, and of the last row this column and the next. */
enum { OF_COLUMN = 3 };

LINES_INLINE void put_column(const vi *rows, int32_t half, vi *last, vi *to) {
    to[0] = interleave(rows[0], rows[1], half);
    to[1] = interleave(rows[2], rows[3], half);
    to[2 - OF_COLUMN] = interleave(*last, rows[4], half);
    *last = rows[4];
}

LINES_INLINE void interleave_columns(const lines_pass *p, int32_t half, int32_t split) {
    const int32_t end = p->column + p->pixels - 1 + SIDE;
    const int32_t inside = p->columns - (split ? p->far_columns : 0);
    vi *to = p->interleaved + OF_COLUMN, rows[SIDE], last = v_set_i32(0);
    for (int32_t column = p->column; column < end;) {
        if (column >= 0 && column < inside) {
            const int32_t until = end < inside ? end : inside;
            const uint8_t *at[SIDE];
            for (int32_t y = 0; y < SIDE; y++)
                at[y] = p->row[y] + column * p->step[y];
            for (; column < until; column++, to += OF_COLUMN) {
                for (int32_t y = 0; y < SIDE; y++) {
                    rows[y] = load_lanes(at[y], p->far[y], split);
                    at[y] += p->step[y];
                }
                put_column(rows, half, &last, to);
            }
        } else {
            any_column(p, column++, split, rows);
            put_column(rows, half, &last, to);
            to += OF_COLUMN;
        }
    }
}

/* Products with both parts of a pair's weights. */
#define ADD_BOTH(x, next, pair)                                                                                        \
    ADD(low, x, next, &b->low[pair])                                                                                   \
    ADD(high, x, next, &b->high[pair])

/* Column c of two pixels: that of the second one is the next column of the first. */
#define COLUMN(c)                                                                                                      \
    {                                                                                                                  \
        const vi before = upper, middle_before = middle;                                                               \
        upper = load_here(&x[OF_COLUMN * (c + 1)]);                                                                    \
        ADD_BOTH(before, upper, 2 * c)                                                                                 \
        middle = load_here(&x[OF_COLUMN * (c + 1) + 1]);                                                               \
        ADD_BOTH(middle_before, middle, 2 * c + 1)                                                                     \
    }

LINES_INLINE void run_pass(const lines_pass *p, const half_block *b, int32_t half, int32_t split, int32_t stride,
                           int32_t writes, int32_t is_relu) {
    (void)stride;
    interleave_columns(p, half, split);
    lines_state s = {p->words, p->out};
    const vi *x = p->interleaved + OF_COLUMN;
    for (int32_t pixel = 0; pixel < p->pixels; pixel += 2, x += 2 * OF_COLUMN) {
        vi low[2], high[2];
        __asm__ volatile("" : "+r"(b)); /* else gcc would keep the address of each weight */
        vi first = load_here(&x[2]), second = load_here(&x[OF_COLUMN + 2]);
        BEGIN(low, first, second, &b->low[10]);
        BEGIN(high, first, second, &b->high[10]);
        first = load_here(&x[2 * OF_COLUMN + 2]);
        second = load_here(&x[3 * OF_COLUMN + 2]);
        ADD_BOTH(first, second, 11);
        first = load_here(&x[4 * OF_COLUMN + 2]);
        ADD_BOTH(second, first, 12);
        vi upper = load_here(&x[0]), middle = load_here(&x[1]);
        COLUMN(0);
        COLUMN(1);
        COLUMN(2);
        COLUMN(3);
        COLUMN(4);
        if (pixel + 1 < p->pixels)
            finish(p, b, &s, low, high, half, split, writes, is_relu);
        else
            finish_last(p, b, &s, low[0], high[0], half, split, writes, is_relu);
    }
}

static int64_t lines_filter_scratch(const qk_conv_params *c) {
    return ((int64_t)c->out_w + SIDE + 2) * OF_COLUMN * (int64_t)sizeof(vi);
}

#include "conv_depthwise_lines_run.inc"
#endif
