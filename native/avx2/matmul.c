/* matmul.c, AVX2: both operands widened to s16, vpmaddwd. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET         QK_TARGET_AVX2
#define GEMM_DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define GEMM_WIDE           1
#define GEMM_WIDTH          2
#define MATMUL_NAME         qk_matmul_avx2
#include "../matmul.inc"
#endif
