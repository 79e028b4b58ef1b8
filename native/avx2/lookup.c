/* y = table[x], 32 bytes at a time: 16 shuffles of 16 entries. */
#include "avx2/lookup.h"

#if QK_X86
#include "avx2/bytes.h"

/* differences[h] = entries 16 h .. 16 h + 15 xor the 16 before them; h = 0 and h = 8 start afresh. */
typedef struct {
    __m256i differences[16];
} lookup_table;

QK_AVX2_INLINE lookup_table table_of(const uint8_t *table) {
    lookup_table t;
    for (int32_t h = 0; h < 16; h++) {
        __m128i entries = _mm_loadu_si128((const __m128i *)(table + 16 * h));
        if (h % 8)
            entries = _mm_xor_si128(entries, _mm_loadu_si128((const __m128i *)(table + 16 * h - 16)));
        t.differences[h] = _mm256_broadcastsi128_si256(entries);
    }
    return t;
}

/* vpshufb gives 0 for a negative index, else the entry of its low 4 bits. Subtracting 16 (saturating) step by step, an
 * index of x in 0..127 is not negative for h = 0 .. x / 16, so the xor of the differences telescopes to the entry; an
 * index that starts negative stays negative. The upper half of the table does the same with x - 128. */
QK_AVX2_INLINE __m256i look_up(const lookup_table *t, __m256i x) {
    const __m256i sixteen = _mm256_set1_epi8(16);
    __m256i low = x, high = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
    __m256i y0 = _mm256_shuffle_epi8(t->differences[0], low), y1 = _mm256_shuffle_epi8(t->differences[8], high);
#pragma GCC unroll 7
    for (int32_t h = 1; h < 8; h++) {
        low = _mm256_subs_epi8(low, sixteen);
        high = _mm256_subs_epi8(high, sixteen);
        y0 = _mm256_xor_si256(y0, _mm256_shuffle_epi8(t->differences[h], low));
        y1 = _mm256_xor_si256(y1, _mm256_shuffle_epi8(t->differences[h + 8], high));
    }
    return _mm256_xor_si256(y0, y1);
}

/* The last 32 bytes are loaded before any is stored, so that they may overlap the ones before them, in place too. */
QK_AVX2_INLINE void look_up_run(const lookup_table *t, uint8_t *out, const uint8_t *in, int64_t count) {
    if (count >= 32) {
        const __m256i last = _mm256_loadu_si256((const __m256i *)(in + count - 32));
        for (int64_t i = 0; i + 32 < count; i += 32)
            _mm256_storeu_si256((__m256i *)(out + i), look_up(t, _mm256_loadu_si256((const __m256i *)(in + i))));
        _mm256_storeu_si256((__m256i *)(out + count - 32), look_up(t, last));
        return;
    }
    for (int64_t i = 0; i < count; i += 16) {
        const int64_t n = qk_min64(16, count - i);
        const __m256i y = look_up(t, _mm256_castsi128_si256(bytes_load(in + i, n)));
        bytes_store(out + i, _mm256_castsi256_si128(y), n);
    }
}

QK_TARGET_AVX2 void qk_lookup_rows_avx2(const qk_byte_rows *m, const uint8_t *table) {
    const lookup_table t = table_of(table);
    for (int64_t r = 0; r < m->rows; r++)
        look_up_run(&t, m->out + r * m->out_pitch, m->in + r * m->in_pitch, m->count);
}
#endif
