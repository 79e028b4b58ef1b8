/* Copies, table lookups, fills and nearest resizing: contiguous runs, transposes of 16 x 16 bytes or 8 x 8 floats,
 * interleaves of two. */
#include <string.h>

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
            bytes_interleave(block, 16);
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
        bytes_interleave(block, 16);
        for (int32_t k = 0; k < 16; k++)
            bytes_store(m->y + (i + k) * m->out_pitch, block[k], m->count);
    }
}

/* n = 2, 4 or 8 columns side by side: the channel shuffle of n groups. */
QK_AVX2_INLINE void interleave(const byte_matrix *m, int32_t n) {
    for (int64_t row = 0; row < m->rows; row += 16) {
        const int64_t i = qk_min64(row, m->rows - 16);
        __m128i block[8];
        for (int32_t k = 0; k < n; k++)
            block[k] = _mm_loadu_si128((const __m128i *)(m->x + k * m->in_pitch + i));
        bytes_interleave(block, n);
        for (int32_t k = 0; k < n; k++)
            _mm_storeu_si128((__m128i *)(m->y + i * n + 16 * k), block[k]);
    }
}

static QK_TARGET_AVX2 void interleave_2(const byte_matrix *m) {
    interleave(m, 2);
}
static QK_TARGET_AVX2 void interleave_4(const byte_matrix *m) {
    interleave(m, 4);
}
static QK_TARGET_AVX2 void interleave_8(const byte_matrix *m) {
    interleave(m, 8);
}

static QK_TARGET_AVX2 void interleave_3(const byte_matrix *m) {
    for (int64_t row = 0; row < m->rows; row += 16) {
        const int64_t i = qk_min64(row, m->rows - 16);
        const uint8_t *x = m->x + i;
        bytes_interleave_3(m->y + 3 * i, _mm_loadu_si128((const __m128i *)x),
                           _mm_loadu_si128((const __m128i *)(x + m->in_pitch)),
                           _mm_loadu_si128((const __m128i *)(x + 2 * m->in_pitch)));
    }
}

static void transpose_few(const byte_matrix *m) {
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < m->count; j++)
            m->y[i * m->out_pitch + j] = m->x[j * m->in_pitch + i];
}

typedef void transpose_fn(const byte_matrix *m);

/* By columns, where output rows have no gaps. */
static transpose_fn *const interleave_functions[9] = {
    [2] = interleave_2, [3] = interleave_3, [4] = interleave_4, [8] = interleave_8};

static transpose_fn *transpose_function(const qk_nest_unit *unit) {
    if (unit->rows < 16)
        return transpose_few;
    if (unit->count >= 16)
        return transpose;
    if (unit->count <= 8 && unit->count == unit->row_stride[0] && interleave_functions[unit->count])
        return interleave_functions[unit->count];
    return transpose_narrow;
}

static void copy_transposed(const qk_nest_unit *unit, const uint8_t *x, uint8_t *y) {
    transpose_fn *const run = transpose_function(unit);
    byte_matrix m = {x, y, unit->stride[1], unit->row_stride[0], unit->rows, unit->count};
    for (int64_t plane = 0; plane < unit->planes; plane++) {
        run(&m);
        m.x += unit->plane_stride[1];
        m.y += unit->plane_stride[0];
    }
}

/* Row k of the eight becomes column k. Three rounds, each of which doubles how many floats of a column are together. */
QK_AVX2_INLINE void transpose_8x8_floats(const uint8_t *x, int64_t in_pitch, uint8_t *y, int64_t out_pitch) {
    __m256 pairs[8], quads[8];
    for (int32_t k = 0; k < 8; k += 2) {
        const __m256 even = _mm256_loadu_ps((const float *)(x + k * in_pitch));
        const __m256 odd = _mm256_loadu_ps((const float *)(x + (k + 1) * in_pitch));
        pairs[k] = _mm256_unpacklo_ps(even, odd);
        pairs[k + 1] = _mm256_unpackhi_ps(even, odd);
    }
    for (int32_t k = 0; k < 8; k++) {
        const __m256d low = _mm256_castps_pd(pairs[(k & 4) + (k >> 1 & 1)]);
        const __m256d high = _mm256_castps_pd(pairs[(k & 4) + (k >> 1 & 1) + 2]);
        quads[k] = _mm256_castpd_ps(k & 1 ? _mm256_unpackhi_pd(low, high) : _mm256_unpacklo_pd(low, high));
    }
    for (int32_t k = 0; k < 4; k++) {
        _mm256_storeu_ps((float *)(y + k * out_pitch), _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x20));
        _mm256_storeu_ps((float *)(y + (k + 4) * out_pitch), _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x31));
    }
}

/* As `transpose`, of elements of 4 bytes: blocks of 8 x 8, the last one of an axis moved back. */
static QK_TARGET_AVX2 void copy_quads(const qk_nest_unit *unit, const uint8_t *x, uint8_t *y) {
    const int64_t rows = unit->rows, count = unit->planes;
    const int64_t in_pitch = unit->plane_stride[1], out_pitch = unit->row_stride[0];
    if (rows < 8 || count < 8) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < count; j++)
                memcpy(y + i * out_pitch + 4 * j, x + j * in_pitch + 4 * i, 4);
        return;
    }
    for (int64_t row = 0; row < rows; row += 8) {
        const int64_t i = qk_min64(row, rows - 8);
        for (int64_t column = 0; column < count; column += 8) {
            const int64_t j = qk_min64(column, count - 8);
            transpose_8x8_floats(x + j * in_pitch + 4 * i, in_pitch, y + i * out_pitch + 4 * j, out_pitch);
        }
    }
}

static void copy_strided(const qk_nest_unit *unit, const uint8_t *in, uint8_t *out, const uint8_t *table) {
    const int64_t out_stride = unit->stride[0], in_stride = unit->stride[1];
    for (int64_t row = 0; row < unit->planes * unit->rows; row++) {
        const uint8_t *x = in + qk_nest_row(unit, 1, row);
        uint8_t *y = out + qk_nest_row(unit, 0, row);
        if (table)
            for (int64_t i = 0; i < unit->count; i++)
                y[i * out_stride] = table[x[i * in_stride]];
        else
            for (int64_t i = 0; i < unit->count; i++)
                y[i * out_stride] = x[i * in_stride];
    }
}

static QK_TARGET_AVX2 void copy_rows(const qk_byte_rows *m) {
    for (int64_t r = 0; r < m->rows; r++)
        bytes_copy(m->out + r * m->out_pitch, m->in + r * m->in_pitch, m->count);
}

/* table: NULL, or applied by `lookup`. */
static void copy_contiguous(const qk_nest_unit *unit, const uint8_t *x, uint8_t *y, const uint8_t *table,
                            qk_lookup_fn *lookup) {
    qk_byte_rows m = {y, x, unit->row_stride[0], unit->row_stride[1], unit->rows, unit->count};
    for (int64_t plane = 0; plane < unit->planes; plane++) {
        if (table)
            lookup(&m, table);
        else
            copy_rows(&m);
        m.in += unit->plane_stride[1];
        m.out += unit->plane_stride[0];
    }
}

QK_TARGET_AVX2 void qk_copy_with(const qk_op *op, const qk_task *task, qk_lookup_fn *lookup) {
    const qk_copy_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    const qk_nest nest = qk_nest_of_copy(p, 1);
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_nest_unit unit = qk_nest_at(&nest, u);
        if (nest.transpose && !p->table)
            copy_transposed(&unit, in + unit.offset[1], out + unit.offset[0]);
        else if (nest.quads && !p->table)
            copy_quads(&unit, in + unit.offset[1], out + unit.offset[0]);
        else if (unit.stride[0] == 1 && unit.stride[1] == 1)
            copy_contiguous(&unit, in + unit.offset[1], out + unit.offset[0], p->table, lookup);
        else
            copy_strided(&unit, in, out, p->table);
    }
}

static void copy(const qk_op *op, const qk_task *task) {
    qk_copy_with(op, task, qk_lookup_rows_avx2);
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
