/* Elementwise add and multiply, 8 lanes at a time. */
#include "elementwise.h"

#if QK_X86
#include "avx2/lanes.h"
#include "avx2/lookup.h"

#include "binary_lanes.inc"
#endif
