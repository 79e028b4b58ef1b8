/* float32 <-> u8 with a change of layout, 8 lanes at a time. */
#include "elementwise.h"

#if QK_X86
#include "avx2/lanes.h"

#include "convert_lanes.inc"
#endif
