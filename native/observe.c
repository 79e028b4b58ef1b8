/* observe.c: statistics of float32 data for calibration. The AVX2 versions give the same numbers as the scalar ones. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "internal.h"

#if QK_X86
#include <immintrin.h>
#endif

typedef struct {
    float low, high;
    int64_t not_finite;
} extremes;

static void min_max_scalar(const float *x, int64_t count, extremes *e) {
    for (int64_t i = 0; i < count; i++) {
        if (!(fabsf(x[i]) <= FLT_MAX)) {
            e->not_finite++;
            continue;
        }
        e->low = x[i] < e->low ? x[i] : e->low;
        e->high = x[i] > e->high ? x[i] : e->high;
    }
}

/* floor((x - low) / width) in float64, where the difference and, short of rounding to a multiple, the quotient are
 * exact. */
static void histogram_scalar(const float *x, int64_t count, double low, double width, int32_t bins, int64_t *counts) {
    const double last = bins - 1;
    for (int64_t i = 0; i < count; i++) {
        if (!(fabsf(x[i]) <= FLT_MAX))
            continue;
        double bin = ((double)x[i] - low) / width;
        bin = bin > 0 ? bin : 0;
        bin = bin < last ? bin : last;
        counts[(int32_t)bin]++;
    }
}

#if QK_X86

QK_TARGET_AVX2 static void min_max_avx2(const float *x, int64_t count, extremes *e) {
    const __m256 largest = _mm256_set1_ps(FLT_MAX), no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
    __m256 low0 = _mm256_set1_ps(e->low), high0 = _mm256_set1_ps(e->high), low1 = low0, high1 = high0;
    int64_t finite = 0, i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        const __m256 ok0 = _mm256_cmp_ps(_mm256_and_ps(x0, no_sign), largest, _CMP_LE_OQ);
        const __m256 ok1 = _mm256_cmp_ps(_mm256_and_ps(x1, no_sign), largest, _CMP_LE_OQ);
        const uint32_t both = (uint32_t)_mm256_movemask_ps(ok0) << 8 | (uint32_t)_mm256_movemask_ps(ok1);
        finite += __builtin_popcount(both);
        low0 = _mm256_min_ps(low0, _mm256_blendv_ps(low0, x0, ok0));
        high0 = _mm256_max_ps(high0, _mm256_blendv_ps(high0, x0, ok0));
        low1 = _mm256_min_ps(low1, _mm256_blendv_ps(low1, x1, ok1));
        high1 = _mm256_max_ps(high1, _mm256_blendv_ps(high1, x1, ok1));
    }
    float lows[8], highs[8];
    _mm256_storeu_ps(lows, _mm256_min_ps(low0, low1));
    _mm256_storeu_ps(highs, _mm256_max_ps(high0, high1));
    for (int32_t lane = 0; lane < 8; lane++) {
        e->low = lows[lane] < e->low ? lows[lane] : e->low;
        e->high = highs[lane] > e->high ? highs[lane] : e->high;
    }
    e->not_finite += i - finite;
    min_max_scalar(x + i, count - i, e);
}

/* Increments of one bin wait for each other: four tables let runs of equal values (zeros after ReLU) overlap. */
enum { TABLES = 4, TABLE_BINS = 2048, TABLE_VALUES = 1 << 30 };

QK_TARGET_AVX2 static __m128i bins_of(const float *x, __m256d low, __m256d width, __m256d last, uint32_t *finite) {
    const __m128 x_f32x4 = _mm_loadu_ps(x);
    const __m128 no_sign = _mm_castsi128_ps(_mm_set1_epi32(INT32_MAX));
    *finite = (uint32_t)_mm_movemask_ps(_mm_cmp_ps(_mm_and_ps(x_f32x4, no_sign), _mm_set1_ps(FLT_MAX), _CMP_LE_OQ));
    const __m256d bin = _mm256_div_pd(_mm256_sub_pd(_mm256_cvtps_pd(x_f32x4), low), width);
    return _mm256_cvttpd_epi32(_mm256_min_pd(_mm256_max_pd(bin, _mm256_setzero_pd()), last));
}

QK_TARGET_AVX2 static void histogram_avx2(const float *x, int64_t count, double low, double width, int32_t bins,
                                          int64_t *counts) {
    const __m256d low_f64x4 = _mm256_set1_pd(low), width_f64x4 = _mm256_set1_pd(width);
    const __m256d last = _mm256_set1_pd(bins - 1);
    uint32_t tables[TABLES][TABLE_BINS];
    for (int32_t t = 0; t < TABLES; t++)
        memset(tables[t], 0, (size_t)bins * sizeof tables[t][0]);
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint32_t finite, bin[4];
        _mm_storeu_si128((__m128i *)bin, bins_of(x + i, low_f64x4, width_f64x4, last, &finite));
        for (int32_t t = 0; t < TABLES; t++)
            tables[t][bin[t]] += finite >> t & 1;
    }
    for (int32_t b = 0; b < bins; b++)
        counts[b] += (int64_t)tables[0][b] + tables[1][b] + tables[2][b] + tables[3][b];
    histogram_scalar(x + i, count - i, low, width, bins, counts);
}
#endif

void qk_min_max(const float *x, int64_t count, float *low, float *high, int64_t *not_finite) {
    extremes e = {INFINITY, -INFINITY, 0};
#if QK_X86
    if (qk_isa_available(QK_AVX2))
        min_max_avx2(x, count, &e);
    else
#endif
        min_max_scalar(x, count, &e);
    *low = e.low + 0.0f; /* -0 becomes 0: which of the two comes first would depend on the lanes */
    *high = e.high + 0.0f;
    *not_finite = e.not_finite;
}

void qk_histogram(const float *x, int64_t count, float low, float width, int32_t bins, int64_t *counts) {
#if QK_X86
    if (bins <= TABLE_BINS && count >= 4 * (int64_t)bins && qk_isa_available(QK_AVX2)) {
        for (int64_t i = 0; i < count; i += TABLE_VALUES) /* no 32-bit counter can overflow */
            histogram_avx2(x + i, qk_min64(TABLE_VALUES, count - i), low, width, bins, counts);
        return;
    }
#endif
    histogram_scalar(x, count, low, width, bins, counts);
}
