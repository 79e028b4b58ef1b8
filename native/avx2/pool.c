/* Maximum and average pooling, channels last, 64 or 32 channels at a time. */
#include "elementwise.h"

#if QK_X86
#include "avx2/bytes.h"

/* Every body gets the taps as rows x columns; a caller that passes constants has them unrolled. */

QK_AVX2_INLINE __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

QK_AVX2_INLINE void maximum_64(const qk_pool_window *w, int64_t c, int32_t rows, int32_t columns) {
    __m256i most0 = _mm256_setzero_si256(), most1 = most0;
    for (int32_t ky = 0; ky < rows; ky++)
        for (int32_t kx = 0; kx < columns; kx++) {
            const uint8_t *x = w->in + ky * w->row_step + kx * w->column_step + c;
            most0 = _mm256_max_epu8(most0, load(x));
            most1 = _mm256_max_epu8(most1, load(x + 32));
        }
    _mm256_storeu_si256((__m256i *)(w->out + c), most0);
    _mm256_storeu_si256((__m256i *)(w->out + c + 32), most1);
}

QK_AVX2_INLINE void maximum_32(const qk_pool_window *w, int64_t c, int32_t rows, int32_t columns) {
    __m256i most = _mm256_setzero_si256();
    for (int32_t ky = 0; ky < rows; ky++)
        for (int32_t kx = 0; kx < columns; kx++)
            most = _mm256_max_epu8(most, load(w->in + ky * w->row_step + kx * w->column_step + c));
    _mm256_storeu_si256((__m256i *)(w->out + c), most);
}

/* n in 1..16 channels, loads of `read` >= n bytes. */
QK_AVX2_INLINE void maximum_part(const qk_pool_window *w, int64_t c, int64_t n, int64_t read, int32_t rows,
                                 int32_t columns) {
    __m128i most = _mm_setzero_si128();
    for (int32_t ky = 0; ky < rows; ky++)
        for (int32_t kx = 0; kx < columns; kx++)
            most = _mm_max_epu8(most, bytes_load(w->in + ky * w->row_step + kx * w->column_step + c, read));
    bytes_store(w->out + c, most, n);
}

/* A last block that overlaps the one before it writes the same bytes again. room: bytes that may be read from the first
 * channel of the last tap on. */
QK_AVX2_INLINE void maximum(const qk_pool_window *w, int64_t channels, int64_t room, int32_t rows, int32_t columns) {
    int64_t c = 0;
    for (; c + 64 <= channels; c += 64)
        maximum_64(w, c, rows, columns);
    for (; c + 32 <= channels; c += 32)
        maximum_32(w, c, rows, columns);
    if (c == channels)
        return;
    if (channels >= 32) {
        maximum_32(w, channels - 32, rows, columns);
    } else if (channels >= 16) {
        maximum_part(w, 0, 16, 16, rows, columns);
        maximum_part(w, channels - 16, 16, 16, rows, columns);
    } else if (room >= 16) {
        maximum_part(w, 0, channels, 16, rows, columns);
    } else {
        maximum_part(w, 0, channels, channels, rows, columns);
    }
}

static QK_TARGET_AVX2 void maximum_of_window(const qk_pool_window *w, int64_t channels, int64_t room) {
    if (w->rows == 3 && w->columns == 3)
        maximum(w, channels, room, 3, 3);
    else if (w->rows == 2 && w->columns == 2)
        maximum(w, channels, room, 2, 2);
    else
        maximum(w, channels, room, w->rows, w->columns);
}

/* Sums of 32 channels in the order that unpacking bytes, then words, within 128 bits gives; packing undoes it. */
typedef struct {
    __m256i i32x8[4];
} sums_32;

enum { TAPS_PER_U16 = 257 }; /* 257 * 255 = 65,535 */

QK_AVX2_INLINE void widen(sums_32 *sums, __m256i low_u16x16, __m256i high_u16x16) {
    const __m256i zero = _mm256_setzero_si256();
    sums->i32x8[0] = _mm256_add_epi32(sums->i32x8[0], _mm256_unpacklo_epi16(low_u16x16, zero));
    sums->i32x8[1] = _mm256_add_epi32(sums->i32x8[1], _mm256_unpackhi_epi16(low_u16x16, zero));
    sums->i32x8[2] = _mm256_add_epi32(sums->i32x8[2], _mm256_unpacklo_epi16(high_u16x16, zero));
    sums->i32x8[3] = _mm256_add_epi32(sums->i32x8[3], _mm256_unpackhi_epi16(high_u16x16, zero));
}

/* The first n of 32 channels; nothing further is read. */
QK_AVX2_INLINE __m256i load_channels(const uint8_t *p, int64_t n) {
    if (n == 32)
        return load(p);
    return _mm256_setr_m128i(bytes_load(p, qk_min64(n, 16)), n > 16 ? bytes_load(p + 16, n - 16) : _mm_setzero_si128());
}

/* n in 1..32 bytes of each tap. */
QK_AVX2_INLINE sums_32 sum_window(const qk_pool_window *w, int64_t c, int64_t n, int32_t rows, int32_t columns) {
    const __m256i zero = _mm256_setzero_si256();
    sums_32 sums = {{zero, zero, zero, zero}};
    __m256i low = zero, high = zero;
    int32_t room = TAPS_PER_U16;
    for (int32_t ky = 0; ky < rows; ky++) {
        const uint8_t *x = w->in + ky * w->row_step + c;
        for (int32_t kx = 0; kx < columns; kx++, x += w->column_step) {
            const __m256i u8x32 = load_channels(x, n);
            low = _mm256_add_epi16(low, _mm256_unpacklo_epi8(u8x32, zero));
            high = _mm256_add_epi16(high, _mm256_unpackhi_epi8(u8x32, zero));
            if (--room == 0) {
                widen(&sums, low, high);
                low = high = zero;
                room = TAPS_PER_U16;
            }
        }
    }
    widen(&sums, low, high);
    return sums;
}

QK_AVX2_INLINE __m256i requantize(__m256i sum_i32x8, __m256i offset, __m256 multiplier, __m256 least, __m256 most) {
    const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sum_i32x8, offset)), multiplier);
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(v, most), least));
}

QK_AVX2_INLINE void average_32(const qk_pool_params *p, const qk_pool_window *w, int64_t c, int64_t n, int64_t read,
                               int32_t rows, int32_t columns) {
    const sums_32 sums = sum_window(w, c, read, rows, columns);
    const __m256i offset = _mm256_set1_epi32(rows * columns * p->in_zero_point);
    const __m256 multiplier = _mm256_set1_ps(p->multiplier_by_count[w->count]);
    const __m256 least = _mm256_set1_ps((float)-p->zero_point), most = _mm256_set1_ps((float)(255 - p->zero_point));
    __m256i y[4];
    for (int32_t i = 0; i < 4; i++)
        y[i] = requantize(sums.i32x8[i], offset, multiplier, least, most);
    const __m256i zero_i16x16 = _mm256_set1_epi16((int16_t)p->zero_point);
    const __m256i low = _mm256_add_epi16(_mm256_packs_epi32(y[0], y[1]), zero_i16x16);
    const __m256i high = _mm256_add_epi16(_mm256_packs_epi32(y[2], y[3]), zero_i16x16);
    const __m256i u8x32 = _mm256_packus_epi16(low, high);
    if (n == 32) {
        _mm256_storeu_si256((__m256i *)(w->out + c), u8x32);
        return;
    }
    bytes_store(w->out + c, _mm256_castsi256_si128(u8x32), qk_min64(n, 16));
    if (n > 16)
        bytes_store(w->out + c + 16, _mm256_extracti128_si256(u8x32, 1), n - 16);
}

QK_AVX2_INLINE void average(const qk_pool_params *p, const qk_pool_window *w, int64_t channels, int64_t room,
                            int32_t rows, int32_t columns) {
    int64_t c = 0;
    for (; c + 32 <= channels; c += 32)
        average_32(p, w, c, 32, 32, rows, columns);
    if (c == channels)
        return;
    if (channels >= 32)
        average_32(p, w, channels - 32, 32, 32, rows, columns);
    else if (room >= 32)
        average_32(p, w, 0, channels, 32, rows, columns);
    else
        average_32(p, w, 0, channels, channels, rows, columns);
}

static QK_TARGET_AVX2 void average_of_window(const qk_pool_params *p, const qk_pool_window *w, int64_t channels,
                                             int64_t room) {
    if (w->rows == 3 && w->columns == 3)
        average(p, w, channels, room, 3, 3);
    else if (w->rows == 2 && w->columns == 2)
        average(p, w, channels, room, 2, 2);
    else
        average(p, w, channels, room, w->rows, w->columns);
}

static QK_TARGET_AVX2 void pool(const qk_op *op, const qk_task *task) {
    const qk_pool_params *p = op->params;
    const uint8_t *in = qk_at(task, op->in[0]);
    uint8_t *out = qk_at(task, op->out);
    const uint8_t *in_end = in + ((int64_t)p->batch * p->in_h * p->in_w - 1) * p->in_pitch + p->channels;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_pool_row row = qk_pool_row_at(p, u, in, out);
        for (int32_t x = 0; x < p->out_w; x++) {
            const qk_pool_window w = qk_pool_window_at(p, &row, x);
            const int64_t room = in_end - (w.in + (w.rows - 1) * w.row_step + (w.columns - 1) * w.column_step);
            if (p->average)
                average_of_window(p, &w, row.channels, room);
            else
                maximum_of_window(&w, row.channels, room);
        }
    }
}

const qk_kernel qk_pool_avx2 = {.valid = qk_pool_valid, .work = qk_pool_work, .run = pool};
#endif
