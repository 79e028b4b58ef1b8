/* float32 <-> u8 with a change of layout, 16 lanes at a time. */
#include "elementwise.h"

#if QK_X86
#include "avx512vnni/lanes.h"

#include "convert_lanes.inc"
#endif
