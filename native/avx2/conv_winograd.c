/* conv_winograd.c, AVX2: 3x3 with stride 1 in a quarter of the multiplications, vpmaddwd. */
#include "vector.h"

#if QK_X86
#define GEMM_TARGET           QK_TARGET_AVX2
#define GEMM_DOT(sum, a, b)   _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define GEMM_LOOKUP           qk_lookup_rows_avx2
#define GEMM_WIDTH            2
#define WINOGRAD_NAME         qk_conv_winograd_avx2
#define WINOGRAD_DIRECT       qk_conv_gemm_avx2
#define WINOGRAD_CHANNELS_MIN 16
#define WINOGRAD_PIXELS_MIN   1
#include "../conv_winograd.inc"
#endif
