/* vector.h, AVX2: 8 lanes of 32 bits. Shared by AVX-VNNI. `left` is how many lanes exist, if fewer than 8. */
#ifndef QK_AVX2_VECTOR_H
#define QK_AVX2_VECTOR_H

#include "../internal.h"

#if QK_X86
#include <immintrin.h>
#include <string.h>

#define QK_VECTOR_TARGET QK_TARGET_AVX2
#define V_INLINE         static inline __attribute__((always_inline)) QK_TARGET_AVX2

typedef __m256i vi;
typedef __m256 vf;
enum { LANES = 8 };

V_INLINE vi v_broadcast(const char *p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return _mm256_set1_epi32(bits);
}
V_INLINE vi v_set_i32(int32_t x) {
    return _mm256_set1_epi32(x);
}
V_INLINE vf v_set_f32(float x) {
    return _mm256_set1_ps(x);
}
V_INLINE vf v_to_float(vi x) {
    return _mm256_cvtepi32_ps(x);
}
V_INLINE vi v_round(vf x) {
    return _mm256_cvtps_epi32(x);
}
V_INLINE vf v_mul(vf a, vf b) {
    return _mm256_mul_ps(a, b);
}
V_INLINE vf v_add(vf a, vf b) {
    return _mm256_add_ps(a, b);
}
V_INLINE vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
V_INLINE vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
V_INLINE vi v_add_i32(vi a, vi b) {
    return _mm256_add_epi32(a, b);
}
V_INLINE vi v_sub_i32(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}

V_INLINE vi v_mul_i32(vi a, vi b) {
    return _mm256_mullo_epi32(a, b);
}
V_INLINE vi v_shift_left_i32(vi a, int32_t count) {
    return _mm256_slli_epi32(a, count);
}
V_INLINE vi v_shift_right_i32(vi a, int32_t count) {
    return _mm256_srai_epi32(a, count);
}
V_INLINE vi v_add_i16(vi a, vi b) {
    return _mm256_add_epi16(a, b);
}
V_INLINE vi v_sub_i16(vi a, vi b) {
    return _mm256_sub_epi16(a, b);
}
V_INLINE vi v_shift_left_i16(vi a, int32_t count) {
    return _mm256_slli_epi16(a, count);
}

V_INLINE vi v_load_u8_to_s16(const uint8_t *p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}
V_INLINE vi v_load_u8(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
V_INLINE vf v_load_f32(const float *p, int64_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return left >= LANES ? _mm256_loadu_ps(p)
                         : _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)left), lane));
}
V_INLINE void v_store_f32(float *p, vf x, int32_t left) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    if (left >= LANES)
        _mm256_storeu_ps(p, x);
    else
        _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(left), lane), x);
}

/* Bytes and words; packing and unpacking work within 128-bit lanes. */
V_INLINE vi v_load(const uint8_t *p) {
    return _mm256_loadu_si256((const vi *)p);
}
V_INLINE void v_store(uint8_t *p, vi x) {
    _mm256_storeu_si256((vi *)p, x);
}
V_INLINE vi v_unpack_low8(vi a, vi b) {
    return _mm256_unpacklo_epi8(a, b);
}
V_INLINE vi v_unpack_high8(vi a, vi b) {
    return _mm256_unpackhi_epi8(a, b);
}
V_INLINE vi v_unpack_low16(vi a, vi b) {
    return _mm256_unpacklo_epi16(a, b);
}
V_INLINE vi v_unpack_high16(vi a, vi b) {
    return _mm256_unpackhi_epi16(a, b);
}
V_INLINE vi v_pack_s16(vi a, vi b) {
    return _mm256_packs_epi32(a, b);
}
V_INLINE vi v_pack_u8(vi a, vi b) {
    return _mm256_packus_epi16(a, b);
}
/* After v_pack_u8(v_pack_s16(a, b), v_pack_s16(c, d)): the bytes of a, then of b, c, d. */
V_INLINE vi v_unmix(vi x) {
    return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
V_INLINE vi v_adds_s16(vi a, vi b) {
    return _mm256_adds_epi16(a, b);
}
V_INLINE vi v_max_u8(vi a, vi b) {
    return _mm256_max_epu8(a, b);
}
V_INLINE vi v_min_u8(vi a, vi b) {
    return _mm256_min_epu8(a, b);
}
V_INLINE vi v_set_i16(int16_t x) {
    return _mm256_set1_epi16(x);
}
V_INLINE vi v_set_u8(uint8_t x) {
    return _mm256_set1_epi8((char)x);
}
V_INLINE void v_store_halves(uint8_t *low, uint8_t *high, vi x) {
    _mm_storeu_si128((__m128i *)low, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)high, _mm256_extracti128_si256(x, 1));
}
/* The upper half without a shuffle before it; _mm_storeh_pd asks for aligned addresses. */
typedef double any_double __attribute__((aligned(1), may_alias));
V_INLINE void store_upper(uint8_t *p, __m128i x) {
    *(any_double *)p = _mm_castsi128_pd(x)[1];
}
V_INLINE void v_store_quarters(uint8_t *p0, uint8_t *p1, uint8_t *p2, uint8_t *p3, vi x) {
    const __m128i low = _mm256_castsi256_si128(x), high = _mm256_extracti128_si256(x, 1);
    _mm_storel_epi64((__m128i *)p0, low);
    store_upper(p1, low);
    _mm_storel_epi64((__m128i *)p2, high);
    store_upper(p3, high);
}
V_INLINE vi v_load_bytes(const uint8_t *p, int64_t left) {
    if (left >= 4 * LANES)
        return v_load(p);
    uint8_t bytes[4 * LANES] = {0};
    memcpy(bytes, p, (size_t)left);
    return v_load(bytes);
}
V_INLINE void v_store_bytes(uint8_t *p, vi x, int64_t left) {
    if (left >= 4 * LANES) {
        _mm256_storeu_si256((vi *)p, x);
    } else {
        uint8_t bytes[4 * LANES];
        _mm256_storeu_si256((vi *)bytes, x);
        memcpy(p, bytes, (size_t)left);
    }
}

V_INLINE void v_widen_16(int16_t *to, const uint8_t *from) {
    _mm256_storeu_si256((vi *)to, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from)));
}

/* u8 to s16. Reads and writes exactly `count`; the last vectors overlap. */
V_INLINE void v_widen_u8(int16_t *to, const uint8_t *from, int64_t count) {
    if (count >= 16) {
        for (int64_t i = 0; i < count; i += 16) {
            const int64_t at = i + 16 <= count ? i : count - 16;
            _mm256_storeu_si256((__m256i *)(to + at),
                                _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(from + at))));
        }
    } else if (count >= 8) {
        for (int64_t i = 0; i < 2; i++) {
            const int64_t at = i * (count - 8);
            _mm_storeu_si128((__m128i *)(to + at), _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(from + at))));
        }
    } else {
        for (int64_t i = 0; i < count; i++)
            to[i] = from[i];
    }
}

#endif
#endif
