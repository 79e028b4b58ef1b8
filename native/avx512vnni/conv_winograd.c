/* conv_winograd.c, AVX512-VNNI: 3x3 with stride 1 in a quarter of the multiplications, vpdpwssd. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET           QK_TARGET_AVX512VNNI
#define GEMM_DOT(sum, a, b)   _mm512_dpwssd_epi32(sum, a, b)
#define GEMM_LOOKUP           qk_lookup_rows_avx512vnni
#define GEMM_WIDTH            4
#define WINOGRAD_NAME         qk_conv_winograd_avx512vnni
#define WINOGRAD_DIRECT       qk_conv_gemm_avx512vnni
#define WINOGRAD_CHANNELS_MIN 32
#define WINOGRAD_PIXELS_MIN   256
#include "../conv_winograd.inc"
#endif
