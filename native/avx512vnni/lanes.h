/* lanes.h: 16 float lanes. The same names are in avx2/lanes.h with 8; the *_lanes.inc templates are written in them. */
#ifndef QK_AVX512VNNI_LANES_H
#define QK_AVX512VNNI_LANES_H

#include "avx2/bytes.h"

#define LANES_TARGET     QK_TARGET_AVX512VNNI
#define LANES_INLINE     static inline QK_TARGET_AVX512VNNI __attribute__((always_inline))
#define LANES_SYMBOL(op) qk_##op##_avx512vnni

enum { LANES = 16 };
typedef __m512 lanes_f32;

LANES_INLINE lanes_f32 lanes_set(float v) {
    return _mm512_set1_ps(v);
}
LANES_INLINE lanes_f32 lanes_add(lanes_f32 a, lanes_f32 b) {
    return _mm512_add_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_subtract(lanes_f32 a, lanes_f32 b) {
    return _mm512_sub_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_multiply(lanes_f32 a, lanes_f32 b) {
    return _mm512_mul_ps(a, b);
}
LANES_INLINE lanes_f32 lanes_divide(lanes_f32 a, lanes_f32 b) {
    return _mm512_div_ps(a, b);
}

/* NaN gives `most`: vminps returns its second operand. */
LANES_INLINE lanes_f32 lanes_clamp(lanes_f32 v, lanes_f32 least, lanes_f32 most) {
    return _mm512_max_ps(_mm512_min_ps(v, most), least);
}

/* n in 0..16: the lanes below n. */
LANES_INLINE __mmask16 lanes_mask(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}

LANES_INLINE lanes_f32 lanes_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

LANES_INLINE lanes_f32 lanes_load_u8_part(const uint8_t *p, int64_t n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes_mask(n), p)));
}

/* rne(v) + zero_point as bytes; v was clamped so that the sum is in 0..255. */
LANES_INLINE __m128i lanes_to_u8(lanes_f32 v, int32_t zero_point) {
    return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(zero_point)));
}

LANES_INLINE void lanes_store_u8(uint8_t *p, lanes_f32 v, int32_t zero_point) {
    _mm_storeu_si128((__m128i *)p, lanes_to_u8(v, zero_point));
}

LANES_INLINE void lanes_store_u8_part(uint8_t *p, lanes_f32 v, int32_t zero_point, int64_t n) {
    _mm_mask_storeu_epi8(p, lanes_mask(n), lanes_to_u8(v, zero_point));
}

/* 64 bytes less a zero point -> four vectors, in the order that unpacking bytes, then words, within 128 bits gives;
 * packing undoes it. A byte below the word 0x4b00 is the float 2^23 + byte; `base` is 2^23 + zero point, so the
 * difference is exact. */
LANES_INLINE void lanes_load_u8_x4(const uint8_t *p, lanes_f32 base, lanes_f32 v[4]) {
    const __m512i u8x64 = _mm512_loadu_si512(p), exponent = _mm512_set1_epi16(0x4b00);
    const __m512i low = _mm512_unpacklo_epi8(u8x64, _mm512_setzero_si512());
    const __m512i high = _mm512_unpackhi_epi8(u8x64, _mm512_setzero_si512());
    v[0] = lanes_subtract(_mm512_castsi512_ps(_mm512_unpacklo_epi16(low, exponent)), base);
    v[1] = lanes_subtract(_mm512_castsi512_ps(_mm512_unpackhi_epi16(low, exponent)), base);
    v[2] = lanes_subtract(_mm512_castsi512_ps(_mm512_unpacklo_epi16(high, exponent)), base);
    v[3] = lanes_subtract(_mm512_castsi512_ps(_mm512_unpackhi_epi16(high, exponent)), base);
}

/* clamp(rne(v) + zero_point, low, high) of four such vectors; |v| < 2^31. Every step saturates, so no clamp comes
 * before. */
LANES_INLINE void lanes_store_u8_x4(uint8_t *p, const lanes_f32 v[4], int32_t zero_point, int32_t low, int32_t high) {
    const __m512i zero_i16x32 = _mm512_set1_epi16((int16_t)zero_point);
    const __m512i y0 = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
    const __m512i y1 = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
    const __m512i y = _mm512_packus_epi16(_mm512_adds_epi16(y0, zero_i16x32), _mm512_adds_epi16(y1, zero_i16x32));
    const __m512i low_u8x64 = _mm512_set1_epi8((char)low), high_u8x64 = _mm512_set1_epi8((char)high);
    _mm512_storeu_si512(p, _mm512_min_epu8(_mm512_max_epu8(y, low_u8x64), high_u8x64));
}

/* 16 floats, of which the first n count -> 16 bytes. */
LANES_INLINE __m128i lanes_quantize_16(const float *x, int64_t n, lanes_f32 scale, lanes_f32 least, lanes_f32 most,
                                       int32_t zero_point) {
    const lanes_f32 x0 = n >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(lanes_mask(n), x);
    return lanes_to_u8(lanes_clamp(lanes_divide(x0, scale), least, most), zero_point);
}

/* 16 bytes -> the first n of 16 floats. */
LANES_INLINE void lanes_dequantize_16(float *y, int64_t n, __m128i u8x16, lanes_f32 scale, lanes_f32 zero_point) {
    const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(u8x16));
    const __m512 y0 = lanes_multiply(lanes_subtract(q, zero_point), scale);
    if (n >= 16)
        _mm512_storeu_ps(y, y0);
    else
        _mm512_mask_storeu_ps(y, lanes_mask(n), y0);
}

#endif
