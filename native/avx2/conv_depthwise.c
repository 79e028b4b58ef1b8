/* conv_depthwise.c, AVX2: pairs of taps, vpmaddubsw on halves of weights. */
#include "vector.h"

#if QK_X86
#define DEPTHWISE_TARGET         QK_TARGET_AVX2
#define DEPTHWISE_NAME           qk_conv_depthwise_avx2
#define DEPTHWISE_GROUP          2
#define DEPTHWISE_DOT(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define DEPTHWISE_PRODUCTS(a, b) _mm256_maddubs_epi16(a, b)
#define DEPTHWISE_LOOKUP         qk_lookup_rows_avx2
#define DEPTHWISE_PAYS(channels) 1
#include "conv_depthwise.inc"
#endif
