/* conv_winograd.c, AVX-VNNI: 3x3 with stride 1 in a quarter of the multiplications, vpdpwssd in its VEX form. */
#include "../avx2/vector.h"

#if QK_X86
#define GEMM_TARGET           QK_TARGET_AVXVNNI
#define GEMM_DOT(sum, a, b)   _mm256_dpwssd_avx_epi32(sum, a, b)
#define GEMM_LOOKUP           qk_lookup_rows_avx2
#define GEMM_WIDTH            2
#define WINOGRAD_NAME         qk_conv_winograd_avxvnni
#define WINOGRAD_DIRECT       qk_conv_gemm_avxvnni
#define WINOGRAD_CHANNELS_MIN 32
#define WINOGRAD_PIXELS_MIN   100
#include "../conv_winograd.inc"
#endif
