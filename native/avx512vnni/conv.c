/* conv.c, AVX512-VNNI: vpdpbusd, 16 lanes. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET         QK_TARGET_AVX512VNNI
#define GEMM_NAME           qk_conv_gemm_avx512vnni
#define GEMM_DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define GEMM_WIDE           0
#define GEMM_LOOKUP         qk_lookup_rows_avx512vnni
#define GEMM_WIDTH          4
#include "../conv_gemm.inc"
#endif
