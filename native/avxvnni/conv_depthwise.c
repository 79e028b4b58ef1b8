/* conv_depthwise.c, AVX-VNNI: groups of 4 taps. */
#include "../avx2/vector.h"

#if QK_X86
#define DEPTHWISE_TARGET         QK_TARGET_AVXVNNI
#define DEPTHWISE_NAME           qk_conv_depthwise_avxvnni
#define DEPTHWISE_GROUP          4
#define DEPTHWISE_DOT(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#define DEPTHWISE_LOOKUP         qk_lookup_rows_avx2
#define DEPTHWISE_PAYS(channels) 1
#include "conv_depthwise.inc"
#endif
