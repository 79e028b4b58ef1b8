/* conv.c, AVX-VNNI: vpdpbusd in its VEX form, 8 lanes. */
#include "../avx2/vector.h"

#if QK_X86
#define GEMM_TARGET         QK_TARGET_AVXVNNI
#define GEMM_NAME           qk_conv_gemm_avxvnni
#define GEMM_DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define GEMM_WIDE           0
#define GEMM_LOOKUP         qk_lookup_rows_avx2
#define GEMM_WIDTH          2
#include "../conv_gemm.inc"
#endif
