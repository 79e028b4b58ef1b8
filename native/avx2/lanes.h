/* lanes.h: 8 float lanes. The same names are in avx512vnni/lanes.h with 16; the *_lanes.inc templates are written in
 * them. */
#ifndef QK_AVX2_LANES_H
#define QK_AVX2_LANES_H

#include "avx2/bytes.h"

#define LANES_TARGET     QK_TARGET_AVX2
#define LANES_INLINE     QK_AVX2_INLINE
#define LANES_SYMBOL(op) qk_##op##_avx2

enum { LANES = 8 };
typedef __m256 lanes_f32;

LANES_INLINE lanes_f32 lanes_set(float v) {
    return _mm256_set1_ps(v);
}
LANES_INLINE lanes_f32 lanes_add(lanes_f32 a, lanes_f32 b) {
    return _mm256_add_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_subtract(lanes_f32 a, lanes_f32 b) {
    return _mm256_sub_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_multiply(lanes_f32 a, lanes_f32 b) {
    return _mm256_mul_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_divide(lanes_f32 a, lanes_f32 b) {
    return _mm256_div_ps(a, b);
}

/* NaN gives `most`: vminps returns its second operand. */
LANES_INLINE lanes_f32 lanes_clamp(lanes_f32 v, lanes_f32 least, lanes_f32 most) {
    return _mm256_max_ps(_mm256_min_ps(v, most), least);
}

LANES_INLINE lanes_f32 lanes_load_f32(const float *p) {
    return _mm256_loadu_ps(p);
}

LANES_INLINE __m256i lanes_mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* n may be anything: lanes from n on are zero, or not written. */
LANES_INLINE lanes_f32 lanes_load_f32_part(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, lanes_mask(n));
}

LANES_INLINE lanes_f32 lanes_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

LANES_INLINE lanes_f32 lanes_load_u8_part(const uint8_t *p, int64_t n) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes_load_8(p, n))));
}

/* rne(v) + zero_point as bytes; v was clamped so that the sum is in 0..255. */
LANES_INLINE __m128i lanes_to_u8(lanes_f32 v, int32_t zero_point) {
    const __m256i i32x8 = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(zero_point));
    const __m128i u16x8 = _mm_packs_epi32(_mm256_castsi256_si128(i32x8), _mm256_extracti128_si256(i32x8, 1));
    return _mm_packus_epi16(u16x8, u16x8);
}

LANES_INLINE void lanes_store_u8(uint8_t *p, lanes_f32 v, int32_t zero_point) {
    _mm_storel_epi64((__m128i *)p, lanes_to_u8(v, zero_point));
}

LANES_INLINE void lanes_store_u8_part(uint8_t *p, lanes_f32 v, int32_t zero_point, int64_t n) {
    bytes_store_8(p, (uint64_t)_mm_cvtsi128_si64(lanes_to_u8(v, zero_point)), n);
}

/* 32 bytes less a zero point -> four vectors, in the order that unpacking bytes, then words, within 128 bits gives;
 * packing undoes it. A byte below the word 0x4b00 is the float 2^23 + byte; `base` is 2^23 + zero point, so the
 * difference is exact. */
LANES_INLINE void lanes_load_u8_x4(const uint8_t *p, lanes_f32 base, lanes_f32 v[4]) {
    const __m256i u8x32 = _mm256_loadu_si256((const __m256i *)p), exponent = _mm256_set1_epi16(0x4b00);
    const __m256i low = _mm256_unpacklo_epi8(u8x32, _mm256_setzero_si256());
    const __m256i high = _mm256_unpackhi_epi8(u8x32, _mm256_setzero_si256());
    v[0] = lanes_subtract(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low, exponent)), base);
    v[1] = lanes_subtract(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low, exponent)), base);
    v[2] = lanes_subtract(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high, exponent)), base);
    v[3] = lanes_subtract(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high, exponent)), base);
}

/* clamp(rne(v) + zero_point, low, high) of four such vectors; |v| < 2^31. Every step saturates, so no clamp comes
 * before. */
LANES_INLINE void lanes_store_u8_x4(uint8_t *p, const lanes_f32 v[4], int32_t zero_point, int32_t low, int32_t high) {
    const __m256i zero_i16x16 = _mm256_set1_epi16((int16_t)zero_point);
    const __m256i y0 = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    const __m256i y1 = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
    const __m256i y = _mm256_packus_epi16(_mm256_adds_epi16(y0, zero_i16x16), _mm256_adds_epi16(y1, zero_i16x16));
    const __m256i low_u8x32 = _mm256_set1_epi8((char)low), high_u8x32 = _mm256_set1_epi8((char)high);
    _mm256_storeu_si256((__m256i *)p, _mm256_min_epu8(_mm256_max_epu8(y, low_u8x32), high_u8x32));
}

/* 16 floats, of which the first n count -> 16 bytes. */
LANES_INLINE __m128i lanes_quantize_16(const float *x, int64_t n, lanes_f32 scale, lanes_f32 least, lanes_f32 most,
                                       int32_t zero_point) {
    const lanes_f32 x0 = n >= 16 ? lanes_load_f32(x) : lanes_load_f32_part(x, n);
    const lanes_f32 x1 = n >= 16 ? lanes_load_f32(x + 8) : lanes_load_f32_part(x + 8, n - 8);
    const __m256i q0 = _mm256_cvtps_epi32(lanes_clamp(lanes_divide(x0, scale), least, most));
    const __m256i q1 = _mm256_cvtps_epi32(lanes_clamp(lanes_divide(x1, scale), least, most));
    const __m256i mixed = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8);
    const __m256i u16x16 = _mm256_add_epi16(mixed, _mm256_set1_epi16((int16_t)zero_point));
    return _mm_packus_epi16(_mm256_castsi256_si128(u16x16), _mm256_extracti128_si256(u16x16, 1));
}

/* 16 bytes -> the first n of 16 floats. */
LANES_INLINE void lanes_dequantize_16(float *y, int64_t n, __m128i u8x16, lanes_f32 scale, lanes_f32 zero_point) {
    const __m256 q0 = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(u8x16));
    const __m256 q1 = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(u8x16, u8x16)));
    const __m256 y0 = lanes_multiply(lanes_subtract(q0, zero_point), scale);
    const __m256 y1 = lanes_multiply(lanes_subtract(q1, zero_point), scale);
    if (n >= 16) {
        _mm256_storeu_ps(y, y0);
        _mm256_storeu_ps(y + 8, y1);
    } else {
        _mm256_maskstore_ps(y, lanes_mask(n), y0);
        _mm256_maskstore_ps(y + 8, lanes_mask(n - 8), y1);
    }
}

#endif
