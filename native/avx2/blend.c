/* Linear resizing, 8 channels at a time: rows blended by vpmaddwd, columns by vpmulld. */
#include "blend.h"

#if QK_X86
#include "avx2/bytes.h"

typedef struct {
    __m256i rows_s16x16, left, right; /* weights: pairs (upper, lower); of the two columns */
} blend_weights;

/* upper and lower: 8 bytes each -> 8 sums of both rows. */
QK_AVX2_INLINE __m256i blend_rows(const blend_weights *w, uint64_t upper, uint64_t lower) {
    const __m128i pairs = _mm_unpacklo_epi8(_mm_cvtsi64_si128((int64_t)upper), _mm_cvtsi64_si128((int64_t)lower));
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(pairs), w->rows_s16x16);
}

QK_AVX2_INLINE uint64_t blend_8(const blend_weights *w, const uint8_t *upper, const uint8_t *lower, int64_t next,
                                int64_t n) {
    const __m256i left = blend_rows(w, bytes_load_8(upper, n), bytes_load_8(lower, n));
    const __m256i right = blend_rows(w, bytes_load_8(upper + next, n), bytes_load_8(lower + next, n));
    const __m256i sum = _mm256_add_epi32(_mm256_mullo_epi32(left, w->left), _mm256_mullo_epi32(right, w->right));
    const __m256i y = _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 21)), 22);
    const __m128i u16x8 = _mm_packus_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(u16x8, u16x8));
}

/* A unit is one output row. */
static QK_TARGET_AVX2 void blend(const qk_op *op, const qk_task *task) {
    const qk_resize_params *p = op->params;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_blend_row row = qk_blend_row_at(p, u, qk_at(task, op->in[0]));
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + u * p->out_w * p->out_pitch;
        blend_weights w = {.rows_s16x16 = _mm256_set1_epi32(row.weight << 16 | (QK_BLEND_ONE - row.weight))};
        for (int32_t i = 0; i < p->out_w; i++, y += p->out_pitch) {
            const qk_blend_pixel at = qk_blend_pixel_at(p, i);
            const uint8_t *upper = row.upper + at.offset, *lower = row.lower + at.offset;
            w.left = _mm256_set1_epi32(QK_BLEND_ONE - at.weight);
            w.right = _mm256_set1_epi32(at.weight);
            int64_t c = 0;
            for (; c + 8 <= p->channels; c += 8) {
                const uint64_t eight = blend_8(&w, upper + c, lower + c, at.next, 8);
                memcpy(y + c, &eight, 8);
            }
            if (c < p->channels)
                bytes_store_8(y + c, blend_8(&w, upper + c, lower + c, at.next, p->channels - c), p->channels - c);
        }
    }
}

const qk_kernel qk_blend_avx2 = {.valid = qk_blend_valid, .work = qk_blend_work, .run = blend};
#endif
