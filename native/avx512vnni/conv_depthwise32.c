/* conv_depthwise.c, AVX512-VNNI with 8 lanes: groups of 4 taps, for layers that would leave half of 64 bytes empty. */
#include "../avx2/vector.h"

#if QK_X86
#define DEPTHWISE_TARGET         QK_TARGET_AVX512VNNI
#define DEPTHWISE_NAME           qk_conv_depthwise32_avx512vnni
#define DEPTHWISE_GROUP          4
#define DEPTHWISE_DOT(sum, a, b) _mm256_dpbusd_epi32(sum, a, b)
#define DEPTHWISE_LOOKUP         qk_lookup_rows_avx512vnni
#define DEPTHWISE_PAYS(channels) ((channels) <= 32)
#include "conv_depthwise.inc"
#endif
