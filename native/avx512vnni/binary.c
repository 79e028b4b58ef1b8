/* Elementwise add and multiply, 16 lanes at a time. */
#include "elementwise.h"

#if QK_X86
#include "avx2/lookup.h"
#include "avx512vnni/lanes.h"

#include "binary_lanes.inc"
#endif
