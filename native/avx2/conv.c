/* conv.c, AVX2: rows widened to s16, vpmaddwd. vpmaddubsw would need half the work, but it saturates. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET         QK_TARGET_AVX2
#define GEMM_NAME           qk_conv_gemm_avx2
#define GEMM_DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define GEMM_WIDE           1
#define GEMM_LOOKUP         qk_lookup_rows_avx2
#define GEMM_WIDTH          2
#include "../conv_gemm.inc"
#endif
