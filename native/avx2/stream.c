/* Sums and normalizations of float32 rows, 8 lanes at a time. */
#include "stream.h"

#if QK_X86
#include "avx2/lanes.h"

LANES_INLINE void store_f32(float *p, lanes_f32 v, int64_t n) {
    if (n >= LANES)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, lanes_mask(n), v);
}

LANES_INLINE lanes_f32 load_f32(const float *p, int64_t n) {
    return n >= LANES ? lanes_load_f32(p) : lanes_load_f32_part(p, n);
}

static LANES_TARGET void add_float(const qk_op *op, const qk_task *task) {
    const qk_add_float_params *p = op->params;
    for (int64_t u = task->begin; u < task->end; u++) {
        const qk_add_unit unit = qk_add_unit_at(p, u);
        const float *a = (const float *)qk_at(task, op->in[0]) + unit.first;
        const float *b = (const float *)qk_at(task, op->in[1]) + unit.repeated;
        float *out = (float *)qk_at(task, op->out) + unit.first;
        for (int64_t i = 0; i < unit.count; i += LANES) {
            const int64_t left = unit.count - i;
            store_f32(out + i, lanes_add(load_f32(a + i, left), load_f32(b + i, left)), left);
        }
    }
}

const qk_kernel qk_add_float_avx2 = {.valid = qk_add_float_valid, .work = qk_add_float_work, .run = add_float};

/* As qk_sum_of_eight: sums 0 to 3 and 4 to 7. */
LANES_INLINE double sum_of_eight(__m256d low, __m256d high) {
    const __m256d four = _mm256_add_pd(low, high);
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

/* A square of a float32 is exact in float64. Lanes behind the end are 0, which changes no sum. */
LANES_INLINE qk_float_normal normal_of_row(const qk_normalize_float_params *p, const float *x) {
    __m256d low_sum = _mm256_setzero_pd(), high_sum = low_sum, low_squares = low_sum, high_squares = low_sum;
    for (int64_t i = 0; i < p->count; i += LANES) {
        const lanes_f32 v = load_f32(x + i, p->count - i);
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
        low_sum = _mm256_add_pd(low_sum, low);
        high_sum = _mm256_add_pd(high_sum, high);
        low_squares = _mm256_add_pd(low_squares, _mm256_mul_pd(low, low));
        high_squares = _mm256_add_pd(high_squares, _mm256_mul_pd(high, high));
    }
    return qk_float_normal_of(p, sum_of_eight(low_sum, high_sum), sum_of_eight(low_squares, high_squares));
}

static LANES_TARGET void normalize_float(const qk_op *op, const qk_task *task) {
    const qk_normalize_float_params *p = op->params;
    for (int64_t row = task->begin; row < task->end; row++) {
        const float *x = (const float *)qk_at(task, op->in[0]) + row * p->count;
        float *y = (float *)qk_at(task, op->out) + row * p->count;
        const qk_float_normal normal = normal_of_row(p, x);
        const lanes_f32 mean = lanes_set(normal.mean), factor = lanes_set(normal.factor);
        for (int64_t i = 0; i < p->count; i += LANES) {
            const int64_t left = p->count - i;
            const lanes_f32 centred = lanes_multiply(lanes_subtract(load_f32(x + i, left), mean), factor);
            const lanes_f32 scaled = lanes_multiply(centred, load_f32(p->gain + i, left));
            store_f32(y + i, lanes_add(scaled, load_f32(p->shift + i, left)), left);
        }
    }
}

const qk_kernel qk_normalize_float_avx2 = {
    .valid = qk_normalize_float_valid, .work = qk_normalize_float_work, .run = normalize_float};
#endif
