/* lookup.h: y = table[x] over rows of contiguous bytes; in place if out == in and the pitches are equal. */
#ifndef QK_AVX2_LOOKUP_H
#define QK_AVX2_LOOKUP_H

#include "internal.h"

typedef struct {
    uint8_t *out;
    const uint8_t *in;
    int64_t out_pitch, in_pitch, rows, count;
} qk_byte_rows;

typedef void qk_lookup_fn(const qk_byte_rows *rows, const uint8_t *table);
qk_lookup_fn qk_lookup_rows_avx2, qk_lookup_rows_avx512vnni;

/* avx2/move.c: QK_COPY and QK_LOOKUP with the lookup of an ISA. */
void qk_copy_with(const qk_op *op, const qk_task *task, qk_lookup_fn *lookup);

#endif
