/* bytes.h: parts of a 16-byte vector, never touching a byte beyond the part, and transposes of bytes. */
#ifndef QK_AVX2_BYTES_H
#define QK_AVX2_BYTES_H

#include <immintrin.h>
#include <string.h>

#include "internal.h"

#define QK_AVX2_INLINE static inline QK_TARGET_AVX2 __attribute__((always_inline))

/* n in 0..8 bytes, the first in the lowest byte; zeros above. */
QK_AVX2_INLINE uint64_t bytes_load_8(const uint8_t *p, int64_t n) {
    uint64_t value = 0;
    if (n == 8) {
        memcpy(&value, p, 8);
        return value;
    }
    uint32_t four;
    uint16_t two;
    const uint8_t *end = p + n;
    if (n & 1)
        value = *--end;
    if (n & 2) {
        memcpy(&two, end -= 2, 2);
        value = value << 16 | two;
    }
    if (n & 4) {
        memcpy(&four, end -= 4, 4);
        value = value << 32 | four;
    }
    return value;
}

QK_AVX2_INLINE void bytes_store_8(uint8_t *p, uint64_t value, int64_t n) {
    if (n == 8) {
        memcpy(p, &value, 8);
        return;
    }
    if (n & 4) {
        memcpy(p, &value, 4);
        value >>= 32;
        p += 4;
    }
    if (n & 2) {
        memcpy(p, &value, 2);
        value >>= 16;
        p += 2;
    }
    if (n & 1)
        *p = (uint8_t)value;
}

/* n in 0..16. */
QK_AVX2_INLINE __m128i bytes_load(const uint8_t *p, int64_t n) {
    if (n == 16)
        return _mm_loadu_si128((const __m128i *)p);
    if (n <= 8)
        return _mm_cvtsi64_si128((int64_t)bytes_load_8(p, n));
    return _mm_set_epi64x((int64_t)bytes_load_8(p + 8, n - 8), (int64_t)bytes_load_8(p, 8));
}

QK_AVX2_INLINE void bytes_store(uint8_t *p, __m128i u8x16, int64_t n) {
    if (n == 16) {
        _mm_storeu_si128((__m128i *)p, u8x16);
        return;
    }
    if (n >= 8) {
        _mm_storel_epi64((__m128i *)p, u8x16);
        u8x16 = _mm_unpackhi_epi64(u8x16, u8x16);
        p += 8;
        n -= 8;
    }
    bytes_store_8(p, (uint64_t)_mm_cvtsi128_si64(u8x16), n);
}

/* Copies n bytes between tensors that do not overlap; short runs are not worth a call of memcpy. */
QK_AVX2_INLINE void bytes_copy(uint8_t *out, const uint8_t *in, int64_t n) {
    if (n > 128) {
        memcpy(out, in, (size_t)n);
    } else if (n >= 32) {
        for (int64_t i = 0; i < n - 32; i += 32)
            _mm256_storeu_si256((__m256i *)(out + i), _mm256_loadu_si256((const __m256i *)(in + i)));
        _mm256_storeu_si256((__m256i *)(out + n - 32), _mm256_loadu_si256((const __m256i *)(in + n - 32)));
    } else if (n >= 16) {
        const __m128i last = _mm_loadu_si128((const __m128i *)(in + n - 16));
        _mm_storeu_si128((__m128i *)out, _mm_loadu_si128((const __m128i *)in));
        _mm_storeu_si128((__m128i *)(out + n - 16), last);
    } else {
        bytes_store(out, bytes_load(in, n), n);
    }
}

/* rows[i] byte j -> byte j * n + i of the n rows joined; n = 2, 4, 8 or 16 (a transpose). Each round rotates the
 * address (row, byte) left by one bit: log2(n) rounds exchange the two. */
QK_AVX2_INLINE void bytes_interleave(__m128i *rows, int32_t n) {
    __m128i next[16];
#pragma GCC unroll 4
    for (int32_t round = 1; round < n; round *= 2) {
#pragma GCC unroll 8
        for (int32_t i = 0; i < n / 2; i++) {
            next[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + n / 2]);
            next[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + n / 2]);
        }
#pragma GCC unroll 16
        for (int32_t i = 0; i < n; i++)
            rows[i] = next[i];
    }
}

/* Three planes of 16 bytes -> 48 bytes. Output vector v takes byte (16 v + j) / 3 of plane (16 v + j) % 3. */
QK_AVX2_INLINE void bytes_interleave_3(uint8_t *y, __m128i plane0, __m128i plane1, __m128i plane2) {
    static const int8_t select[3][3][16] = {{{0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5},
                                             {-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1},
                                             {-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1}},
                                            {{-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1},
                                             {5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10},
                                             {-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1}},
                                            {{-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1},
                                             {-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1},
                                             {10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15}}};
    for (int32_t v = 0; v < 3; v++) {
        const __m128i part0 = _mm_shuffle_epi8(plane0, _mm_loadu_si128((const __m128i *)select[v][0]));
        const __m128i part1 = _mm_shuffle_epi8(plane1, _mm_loadu_si128((const __m128i *)select[v][1]));
        const __m128i part2 = _mm_shuffle_epi8(plane2, _mm_loadu_si128((const __m128i *)select[v][2]));
        _mm_storeu_si128((__m128i *)(y + 16 * v), _mm_or_si128(part0, _mm_or_si128(part1, part2)));
    }
}

#endif
