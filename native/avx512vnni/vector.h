/* vector.h, AVX-512: 16 lanes of 32 bits. `left` is how many lanes exist, if fewer than 16. */
#ifndef QK_AVX512_VECTOR_H
#define QK_AVX512_VECTOR_H

#include "../internal.h"

#if QK_X86
#include <immintrin.h>
#include <string.h>

#define QK_VECTOR_TARGET QK_TARGET_AVX512VNNI
#define V_INLINE         static inline __attribute__((always_inline)) QK_TARGET_AVX512VNNI

typedef __m512i vi;
typedef __m512 vf;
enum { LANES = 16 };

V_INLINE vi v_broadcast(const char *p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return _mm512_set1_epi32(bits);
}
V_INLINE vi v_set_i32(int32_t x) {
    return _mm512_set1_epi32(x);
}
V_INLINE vf v_set_f32(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE vf v_to_float(vi x) {
    return _mm512_cvtepi32_ps(x);
}
V_INLINE vi v_round(vf x) {
    return _mm512_cvtps_epi32(x);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE vf v_add(vf a, vf b) {
    return _mm512_add_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
V_INLINE vi v_add_i32(vi a, vi b) {
    return _mm512_add_epi32(a, b);
}
V_INLINE vi v_sub_i32(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}

V_INLINE __mmask16 v_mask(int32_t left) {
    return left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
}

V_INLINE vi v_mul_i32(vi a, vi b) {
    return _mm512_mullo_epi32(a, b);
}
V_INLINE vi v_shift_left_i32(vi a, int32_t count) {
    return _mm512_slli_epi32(a, (unsigned)count);
}
V_INLINE vi v_shift_right_i32(vi a, int32_t count) {
    return _mm512_srai_epi32(a, (unsigned)count);
}
V_INLINE vi v_add_i16(vi a, vi b) {
    return _mm512_add_epi16(a, b);
}
V_INLINE vi v_sub_i16(vi a, vi b) {
    return _mm512_sub_epi16(a, b);
}
V_INLINE vi v_shift_left_i16(vi a, int32_t count) {
    return _mm512_slli_epi16(a, (unsigned)count);
}

V_INLINE vi v_load_u8_to_s16(const uint8_t *p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
V_INLINE vi v_load_u8(const uint8_t *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
V_INLINE vf v_load_f32(const float *p, int64_t left) {
    return _mm512_maskz_loadu_ps(v_mask((int32_t)qk_min64(left, LANES)), p);
}
V_INLINE void v_store_f32(float *p, vf x, int32_t left) {
    _mm512_mask_storeu_ps(p, v_mask(left), x);
}

/* Bytes and words; packing and unpacking work within 128-bit lanes. */
V_INLINE vi v_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE void v_store(uint8_t *p, vi x) {
    _mm512_storeu_si512(p, x);
}
V_INLINE vi v_unpack_low8(vi a, vi b) {
    return _mm512_unpacklo_epi8(a, b);
}
V_INLINE vi v_unpack_high8(vi a, vi b) {
    return _mm512_unpackhi_epi8(a, b);
}
V_INLINE vi v_unpack_low16(vi a, vi b) {
    return _mm512_unpacklo_epi16(a, b);
}
V_INLINE vi v_unpack_high16(vi a, vi b) {
    return _mm512_unpackhi_epi16(a, b);
}
V_INLINE vi v_pack_s16(vi a, vi b) {
    return _mm512_packs_epi32(a, b);
}
V_INLINE vi v_pack_u8(vi a, vi b) {
    return _mm512_packus_epi16(a, b);
}
/* After v_pack_u8(v_pack_s16(a, b), v_pack_s16(c, d)): the bytes of a, then of b, c, d. */
V_INLINE vi v_unmix(vi x) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
}
V_INLINE vi v_adds_s16(vi a, vi b) {
    return _mm512_adds_epi16(a, b);
}
V_INLINE vi v_max_u8(vi a, vi b) {
    return _mm512_max_epu8(a, b);
}
V_INLINE vi v_min_u8(vi a, vi b) {
    return _mm512_min_epu8(a, b);
}
V_INLINE vi v_set_i16(int16_t x) {
    return _mm512_set1_epi16(x);
}
V_INLINE vi v_set_u8(uint8_t x) {
    return _mm512_set1_epi8((char)x);
}
V_INLINE __mmask64 v_byte_mask(int64_t left) {
    return left >= 4 * LANES ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
}
V_INLINE vi v_load_bytes(const uint8_t *p, int64_t left) {
    return _mm512_maskz_loadu_epi8(v_byte_mask(left), p);
}
V_INLINE void v_store_bytes(uint8_t *p, vi x, int64_t left) {
    if (left >= 4 * LANES)
        _mm512_storeu_si512(p, x);
    else
        _mm512_mask_storeu_epi8(p, v_byte_mask(left), x);
}

#endif
#endif
