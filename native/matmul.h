/* matmul.h: what the kernels of QK_MATMUL share. */
#ifndef QK_MATMUL_H
#define QK_MATMUL_H

#include "internal.h"

/* depth * 255 * 255 < 2^31 */
enum { QK_MATMUL_MAX_DEPTH = 33025 };

int32_t qk_matmul_valid(const qk_op *op);

/* Where a matrix of the batch starts. */
static inline int64_t qk_matmul_offset(const qk_matmul_params *p, const int64_t stride[2], int64_t matrix) {
    return matrix / p->batch[1] * stride[0] + matrix % p->batch[1] * stride[1];
}

#endif
