/* Copies, table lookups, fills and nearest resizing: contiguous runs, transposes of 16 x 16 bytes, interleaves of two.
 */
#include "elementwise.h"

#if QK_X86
#include "avx2/bytes.h"
#include "avx2/lookup.h"

/* y[i][j] = x[j][i] for i < rows and j < count. x: rows of `rows` contiguous bytes, in_pitch apart. */
typedef struct {
    const uint8_t *x;
    uint8_t *y;
    int64_t in_pitch, out_pitch, rows, count;
} byte_matrix;

/* The last block of an axis overlaps the one before it: the same bytes again. rows and count are 16 or more. */
static QK_TARGET_AVX2 void transpose(const byte_matrix *m) {
    for (int64_t row = 0; row < m->rows; row += 16) {
        const int64_t i = qk_min64(row, m->rows - 16);
        for (int64_t column = 0; column < m->count; column += 16) {
            const int64_t j = qk_min64(column, m->count - 16);
            __m128i block[16];
            for (int32_t k = 0; k < 16; k++)
                block[k] = _mm_loadu_si128((const __m128i *)(m->x + (j + k) * m->in_pitch + i));
            bytes_transpose_16x16(block);
            for (int32_t k = 0; k < 16; k++)
                _mm_storeu_si128((__m128i *)(m->y + (i + k) * m->out_pitch + j), block[k]);
        }
    }
}

/* Fewer than 16 columns (a shuffle of a few groups): blocks of 16 rows, each output row `count` bytes. */
static QK_TARGET_AVX2 void transpose_narrow(const byte_matrix *m) {
    for (int64_t row = 0; row < m->rows; row += 16) {
        const int64_t i = qk_min64(row, m->rows - 16);
        __m128i block[16];
        for (int64_t k = 0; k < 16; k++)
            block[k] =
                k < m->count ? _mm_loadu_si128((const __m128i *)(m->x + k * m->in_pitch + i)) : _mm_setzero_si128();
        bytes_transpose_16x16(block);
        for (int32_t k = 0; k < 16; k++)
            bytes_store(m->y + (i + k) * m->out_pitch, block[k], m->count);
    }
}

/* Two columns side by side: the channel shuffle of two groups. */
static QK_TARGET_AVX2 void interleave_2(const byte_matrix *m) {
    for (int64_t row = 0; row < m->rows; row += 16) {
        const int64_t i = qk_min64(row, m->rows - 16);
        const __m128i first = _mm_loadu_si128((const __m128i *)(m->x + i));
        const __m128i second = _mm_loadu_si128((const __m128i *)(m->x + m->in_pitch + i));
        _mm_storeu_si128((__m128i *)(m->y + 2 * i), _mm_unpacklo_epi8(first, second));
        _mm_storeu_si128((__m128i *)(m->y + 2 * i + 16), _mm_unpackhi_epi8(first, second));
    }
}

static void transpose_few(const byte_matrix *m) {
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->count; j++)
            m->y[i * m->out_pitch + j] = m->x[j * m->in_pitch + i];
}

static QK_TARGET_AVX2 void copy_transposed(const qk_nest_unit *unit, const uint8_t *x, uint8_t *y) {
    const byte_matrix m = {x, y, unit->stride[1], unit->row_stride[0], unit->rows, unit->count};
    if (m.rows < 16)
        transpose_few(&m);
    else if (m.count >= 16)
        transpose(&m);
    else if (m.count == 2 && m.out_pitch == 2)
        interleave_2(&m);
    else
        transpose_narrow(&m);
}

static QK_TARGET_AVX2 void copy_row(const qk_nest_unit *unit, const uint8_t *x, uint8_t *y, const uint8_t *table) {
    const int64_t out_stride = unit->stride[0], in_stride = unit->stride[1];
    const int contiguous = out_stride == 1 && in_stride == 1;
    if (contiguous && table)
        qk_lookup_run_avx2(y, x, unit->count, table);
    else if (contiguous)
        bytes_copy(y, x, unit->count);
    else if (table)
        for (int64_t i = 0; i < unit->count; i++)
            y[i * out_stride] = table[x[i * in_stride]];
    else
        for (int64_t i = 0; i < unit->count; i++)
            y[i * out_stride] = x[i * in_stride];
}

static QK_TARGET_AVX2 void copy(const qk_op *op, const qk_task *task) {
    const qk_copy_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    const qk_nest nest = qk_nest_of_copy(p, 1);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_nest_unit unit = qk_nest_at(&nest, u);
        const uint8_t *x = in + unit.offset[1];
        uint8_t *y = out + unit.offset[0];
        if (nest.transpose && !p->table)
            copy_transposed(&unit, x, y);
        else
            for (int64_t r = 0; r < unit.rows; r++)
                copy_row(&unit, x + r * unit.row_stride[1], y + r * unit.row_stride[0], p->table);
    }
}

/* A unit is one output row. */
static QK_TARGET_AVX2 void resize(const qk_op *op, const qk_task *task) {
    const qk_resize_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    for (int64_t u = task->begin; u < task->end; u++) {
        const uint8_t *x = in + (u / p->out_h * p->in_h + p->rows[u % p->out_h]) * p->in_w * p->in_pitch;
        uint8_t *y = out + u * p->out_w * p->out_pitch;
        for (int64_t i = 0; i < p->out_w; i++)
            bytes_copy(y + i * p->out_pitch, x + (int64_t)p->columns[i] * p->in_pitch, p->channels);
    }
}

const qk_kernel qk_lookup_avx2 = {.valid = qk_lookup_valid, .work = qk_copy_work, .run = copy};
const qk_kernel qk_copy_avx2 = {.valid = qk_copy_valid, .work = qk_copy_work, .run = copy};
const qk_kernel qk_resize_avx2 = {.valid = qk_resize_valid, .work = qk_resize_work, .run = resize};
#endif
