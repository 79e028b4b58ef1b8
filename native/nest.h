/* nest.h: strided loop nests. Copies, fills and elementwise ops are cut here, the same way for every ISA, into units:
 * a unit is a range of one dim inside one step of the dims around it. */
#ifndef QK_NEST_H
#define QK_NEST_H

#include <stdint.h>
#include "internal.h"

enum { QK_NEST_RANK = 6, QK_NEST_OPERANDS = 3, QK_NEST_BLOCK = 4096, QK_NEST_TRANSPOSE_ROWS = 64 };

typedef struct {
    int32_t rank, operands;                         /* operand 0 is the output */
    int64_t dims[QK_NEST_RANK];                     /* outermost first */
    int64_t stride[QK_NEST_OPERANDS][QK_NEST_RANK]; /* bytes */
    int32_t transpose;     /* output contiguous along the last dim, input along the last but one */
    int32_t quads;         /* elements of 4 bytes, the last dim: output contiguous along the last dim but two, input
                              along the last but one */
    int32_t split;         /* the dim that units cut into ranges: the last or the last but one */
    int64_t block, blocks; /* elements of a range (the last one is longer), ranges */
    int64_t steps;         /* product of the dims before `split` */
} qk_nest;

/* One unit: planes x rows x count elements of the last three dims; element (p, r, i) of operand o is at
 * offset[o] + p * plane_stride[o] + r * row_stride[o] + i * stride[o]. */
typedef struct {
    int64_t planes, rows, count;
    int64_t offset[QK_NEST_OPERANDS];
    int64_t plane_stride[QK_NEST_OPERANDS], row_stride[QK_NEST_OPERANDS], stride[QK_NEST_OPERANDS];
} qk_nest_unit;

static inline void qk_nest_swap(qk_nest *nest, int32_t i, int32_t j) {
    const int64_t dim = nest->dims[i];
    nest->dims[i] = nest->dims[j];
    nest->dims[j] = dim;
    for (int32_t o = 0; o < nest->operands; o++) {
        const int64_t stride = nest->stride[o][i];
        nest->stride[o][i] = nest->stride[o][j];
        nest->stride[o][j] = stride;
    }
}

static inline int qk_nest_mergeable(const qk_nest *nest, int32_t i) {
    for (int32_t o = 0; o < nest->operands; o++)
        if (nest->stride[o][i] != nest->dims[i + 1] * nest->stride[o][i + 1])
            return 0;
    return 1;
}

static inline void qk_nest_remove(qk_nest *nest, int32_t i) {
    for (; i + 1 < nest->rank; i++)
        qk_nest_swap(nest, i, i + 1);
    nest->rank--;
}

/* Orders the dims by output stride, largest first, drops dims of 1 and joins dims that are contiguous in every operand.
 */
static inline void qk_nest_simplify(qk_nest *nest) {
    for (int32_t i = nest->rank - 1; i >= 0; i--)
        if (nest->dims[i] == 1 && nest->rank > 1)
            qk_nest_remove(nest, i);
    for (int32_t i = 1; i < nest->rank; i++)
        for (int32_t j = i; j > 0 && nest->stride[0][j - 1] < nest->stride[0][j]; j--)
            qk_nest_swap(nest, j - 1, j);
    for (int32_t i = nest->rank - 2; i >= 0; i--)
        if (qk_nest_mergeable(nest, i)) {
            nest->dims[i + 1] *= nest->dims[i];
            qk_nest_remove(nest, i);
        }
}

/* Cuts the nest into units of about QK_NEST_BLOCK elements: ranges of the innermost of the last three dims that is long
 * enough. Both dims of a transpose stay in a unit, 64 rows or more. */
static inline void qk_nest_cut(qk_nest *nest) {
    int32_t split = nest->rank - 1;
    int64_t inside = 1; /* elements of the dims after `split` */
    while (split > 0 && split > nest->rank - 3 &&
           ((nest->transpose && split == nest->rank - 1) || inside * nest->dims[split] <= QK_NEST_BLOCK / 2))
        inside *= nest->dims[split--];
    if (nest->quads) {
        split = nest->rank - 3;
        inside = nest->dims[split + 1] * nest->dims[split + 2];
    }
    nest->split = split;
    nest->block = qk_max64(1, QK_NEST_BLOCK / qk_max64(1, inside));
    if (nest->quads || (nest->transpose && split == nest->rank - 2))
        nest->block = qk_max64(QK_NEST_TRANSPOSE_ROWS, nest->block);
    nest->blocks = qk_max64(1, nest->dims[split] / nest->block);
    nest->steps = inside * nest->dims[split] == 0 ? 0 : 1;
    for (int32_t i = 0; i < split; i++)
        nest->steps *= nest->dims[i];
}

static inline int64_t qk_nest_units(const qk_nest *nest) {
    return nest->steps * nest->blocks;
}

static inline qk_nest_unit qk_nest_at(const qk_nest *nest, int64_t index) {
    const int32_t last = nest->rank - 1, split = nest->split;
    const int64_t range = index % nest->blocks, begin = range * nest->block;
    const int64_t length = range + 1 == nest->blocks ? nest->dims[split] - begin : nest->block;
    qk_nest_unit unit = {.planes = split == last - 2 ? length : 1,
                         .rows = split == last - 1  ? length
                                 : split < last - 1 ? nest->dims[last - 1]
                                                    : 1,
                         .count = split == last ? length : nest->dims[last]};
    for (int32_t o = 0; o < nest->operands; o++) {
        unit.offset[o] = begin * nest->stride[o][split];
        unit.stride[o] = nest->stride[o][last];
        unit.row_stride[o] = split < last ? nest->stride[o][last - 1] : 0;
        unit.plane_stride[o] = split < last - 1 ? nest->stride[o][last - 2] : 0;
    }
    int64_t step = index / nest->blocks;
    for (int32_t i = split - 1; i >= 0; i--) {
        const int64_t at = step % nest->dims[i];
        step /= nest->dims[i];
        for (int32_t o = 0; o < nest->operands; o++)
            unit.offset[o] += at * nest->stride[o][i];
    }
    return unit;
}

/* Where row `row` of planes * rows starts in operand o. */
static inline int64_t qk_nest_row(const qk_nest_unit *unit, int32_t o, int64_t row) {
    return unit->offset[o] + row / unit->rows * unit->plane_stride[o] + row % unit->rows * unit->row_stride[o];
}

/* QK_BINARY: operands out, a, b. */
static inline qk_nest qk_nest_of_binary(const qk_binary_params *p) {
    qk_nest nest = {.rank = 3, .operands = 3, .dims = {p->batch, p->pixels, p->channels}};
    for (int32_t i = 0; i < 3; i++) {
        nest.stride[0][i] = p->out_stride[i];
        nest.stride[1][i] = p->a_stride[i];
        nest.stride[2][i] = p->b_stride[i];
    }
    qk_nest_simplify(&nest);
    qk_nest_cut(&nest);
    return nest;
}

/* Moves dim i to place j > i; those between move up. */
static inline void qk_nest_move(qk_nest *nest, int32_t i, int32_t j) {
    for (; i < j; i++)
        qk_nest_swap(nest, i, i + 1);
}

/* Copies whose operands are contiguous along different dims: bytes, or groups of 4 (floats). */
static inline void qk_nest_find_transpose(qk_nest *nest) {
    const int32_t last = nest->rank - 1, bytes = nest->stride[1][last] != 1;
    const int32_t quads = !bytes && last > 1 && nest->dims[last] == 4 && nest->stride[0][last - 1] == 4;
    const int64_t step = bytes ? 1 : 4;
    if (nest->stride[0][last] != 1 || !(bytes || quads))
        return;
    for (int32_t i = 0; i < last - quads; i++)
        if (nest->stride[1][i] == step) {
            qk_nest_move(nest, i, last - 1);
            nest->transpose = bytes;
            nest->quads = quads;
            return;
        }
}

/* QK_COPY, QK_LOOKUP, QK_FILL (has_input 0): operands out, in. */
static inline qk_nest qk_nest_of_copy(const qk_copy_params *p, int has_input) {
    qk_nest nest = {.rank = QK_NEST_RANK, .operands = has_input ? 2 : 1};
    for (int32_t i = 0; i < QK_NEST_RANK; i++) {
        nest.dims[i] = p->dims[i];
        nest.stride[0][i] = p->out_stride[i];
        nest.stride[1][i] = p->in_stride[i];
    }
    qk_nest_simplify(&nest);
    if (has_input)
        qk_nest_find_transpose(&nest);
    qk_nest_cut(&nest);
    return nest;
}

#endif
