/* vector.h, AVX-512: 16 lanes of 32 bits. `left` is how many lanes exist, if fewer than 16. */
#ifndef QK_AVX512_VECTOR_H
#define QK_AVX512_VECTOR_H

#include "../internal.h"

#if QK_X86
#include <immintrin.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline)) QK_TARGET_AVX512VNNI

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

V_INLINE vi v_load_u8(const uint8_t *p, int32_t left) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(v_mask(left), p));
}
V_INLINE void v_store_u8(uint8_t *p, vi x, int32_t left) {
    _mm_mask_storeu_epi8(p, v_mask(left), _mm512_cvtepi32_epi8(x));
}
V_INLINE void v_store_f32(float *p, vf x, int32_t left) {
    _mm512_mask_storeu_ps(p, v_mask(left), x);
}

/* Bytes: a whole vector, and 4 vectors of 32-bit lanes that unpacking bytes and words of one vector gave. */
V_INLINE vi v_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
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
V_INLINE vi v_pack(vi a, vi b, vi c, vi d) {
    return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
}
V_INLINE __mmask64 v_byte_mask(int64_t left) {
    return left >= 4 * LANES ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
}
V_INLINE vi v_load_bytes(const uint8_t *p, int64_t left) {
    return _mm512_maskz_loadu_epi8(v_byte_mask(left), p);
}
V_INLINE void v_store_bytes(uint8_t *p, vi x, int64_t left) {
    _mm512_mask_storeu_epi8(p, v_byte_mask(left), x);
}

#endif
#endif
