/* Softmax, 8 lanes at a time. */
#include "rows.h"

#if QK_X86
#include "avx2/lanes.h"
#include "avx2/lookup.h"

/* ---- Softmax: per run a table of the 256 results, from one sum ---- */

/* Runs shorter than this cost less one by one than by a table of 256. */
enum { SOFTMAX_TABLE_COUNT = 32 };

LANES_INLINE int32_t largest(const uint8_t *x, int64_t count) {
    __m256i most_u8x32 = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
        most_u8x32 = _mm256_max_epu8(most_u8x32, _mm256_loadu_si256((const __m256i *)(x + i)));
    __m128i most = _mm_max_epu8(_mm256_castsi256_si128(most_u8x32), _mm256_extracti128_si256(most_u8x32, 1));
    for (; i < count; i += 16)
        most = _mm_max_epu8(most, bytes_load(x + i, qk_min64(16, count - i)));
    most = _mm_max_epu8(most, _mm_srli_si128(most, 8));
    most = _mm_max_epu8(most, _mm_srli_si128(most, 4));
    most = _mm_max_epu8(most, _mm_srli_si128(most, 2));
    most = _mm_max_epu8(most, _mm_srli_si128(most, 1));
    return _mm_cvtsi128_si32(most) & 255;
}

/* Loads, not gathers: on no CPU does a gather of 8 beat 8 loads of cached entries by much. */
static int64_t sum_of_entries(const int32_t *entries, const uint8_t *x, int64_t count) {
    int64_t sums[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (int32_t j = 0; j < 4; j++)
            sums[j] += entries[x[i + j]];
    for (; i < count; i++)
        sums[0] += entries[x[i]];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* Entries of bytes above the run's largest come from beyond 255 and are 0. */
LANES_INLINE void result_table(const qk_softmax_params *p, const int32_t *exponentials, float factor, uint8_t *table) {
    const lanes_f32 factor_f32x8 = lanes_set(factor);
    const lanes_f32 least = lanes_set((float)-p->zero_point), most = lanes_set((float)(255 - p->zero_point));
    for (int32_t i = 0; i < 256; i += LANES) {
        const lanes_f32 e = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(exponentials + i)));
        lanes_store_u8(table + i, lanes_clamp(lanes_multiply(e, factor_f32x8), least, most), p->zero_point);
    }
}

static LANES_TARGET void softmax(const qk_op *op, const qk_task *task) {
    const qk_softmax_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        const int32_t *exponentials = p->exponentials + 255 - largest(x, p->count);
        const float factor = qk_softmax_factor(p, sum_of_entries(exponentials, x, p->count));
        if (p->count < SOFTMAX_TABLE_COUNT) {
            for (int64_t i = 0; i < p->count; i++)
                y[i] = qk_requantize((float)exponentials[x[i]] * factor, p->zero_point, 0, 255);
            continue;
        }
        uint8_t table[256];
        result_table(p, exponentials, factor, table);
        const qk_byte_rows one = {.out = y, .in = x, .rows = 1, .count = p->count};
        qk_lookup_rows_avx2(&one, table);
    }
}

const qk_kernel qk_softmax_avx2 = {.valid = qk_softmax_valid, .work = qk_softmax_work, .run = softmax};
#endif
