/* matmul.c, AVX512-VNNI: vpdpbusd, 16 lanes. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET         QK_TARGET_AVX512VNNI
#define GEMM_DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define GEMM_WIDE           0
#define GEMM_WIDTH          4
#define MATMUL_NAME         qk_matmul_avx512vnni
#include "../matmul.inc"
#endif
