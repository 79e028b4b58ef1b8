/* conv_depthwise.c, AVX512-VNNI: groups of 4 taps. */
#include "vector.h"

#if QK_X86
#define DEPTHWISE_TARGET         QK_TARGET_AVX512VNNI
#define DEPTHWISE_NAME           qk_conv_depthwise_avx512vnni
#define DEPTHWISE_GROUP          4
#define DEPTHWISE_DOT(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#define DEPTHWISE_LOOKUP         qk_lookup_rows_avx512vnni
#define DEPTHWISE_PAYS(channels) 1
#include "conv_depthwise.inc"
#endif
