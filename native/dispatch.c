/* dispatch.c: the kernel table, and the choice of a kernel for an op. */
#include <math.h>

#include "internal.h"

typedef struct {
    qk_op_kind op;
    qk_isa isa;
    const qk_kernel *kernel;
    const char *name;
} kernel_row;

#define X(op, isa, symbol, name) {op, isa, &symbol, name},
static const kernel_row rows[] = {
#include "kernels.inc"
};
#undef X

enum { ROW_COUNT = (int)(sizeof rows / sizeof rows[0]) };

/* First bytes of packed weights: which row packed them, for a run at which ISA. */
typedef struct {
    uint32_t magic;
    int32_t row, isa;
    float max_multiplier;
} packed_header;

enum { PACKED_MAGIC = 0x716b7770 };

/* What a run at an ISA may use. AVX512-VNNI does not imply AVX-VNNI: the first generations have only the EVEX form. */
static const uint32_t usable[QK_ISA_COUNT] = {
    [QK_SCALAR] = 1u << QK_SCALAR,
    [QK_AVX2] = 1u << QK_AVX2 | 1u << QK_SCALAR,
    [QK_AVXVNNI] = 1u << QK_AVXVNNI | 1u << QK_AVX2 | 1u << QK_SCALAR,
    [QK_AVX512VNNI] = 1u << QK_AVX512VNNI | 1u << QK_AVX2 | 1u << QK_SCALAR,
};

static const packed_header *header_of(const qk_op *op) {
    return op->kind == QK_CONV ? ((const qk_conv_params *)op->params)->packed : NULL;
}

/* The kernel that packed the weights runs them, whatever the size of the images. */
static const qk_kernel *kernel_of_packed(const packed_header *header, qk_isa isa, int32_t *row) {
    if ((uintptr_t)header % 64 || header->magic != PACKED_MAGIC || header->isa != (int32_t)isa || header->row < 0 ||
        header->row >= ROW_COUNT)
        return NULL;
    if (row)
        *row = header->row;
    return rows[header->row].kernel;
}

/* The first row from `row` on that runs the op, ROW_COUNT if there is none. */
static int32_t next_row(qk_isa isa, const qk_op *op, int32_t row) {
    for (; row < ROW_COUNT; row++) {
        const kernel_row *r = &rows[row];
        if (r->op == op->kind && (usable[isa] >> r->isa & 1) && (!r->kernel->accepts || r->kernel->accepts(op)))
            break;
    }
    return row;
}

const qk_kernel *qk_find_kernel(qk_isa isa, const qk_op *op, int32_t *row) {
    if ((uint32_t)isa >= QK_ISA_COUNT)
        return NULL;
    if (header_of(op))
        return kernel_of_packed(header_of(op), isa, row);
    const int32_t found = next_row(isa, op, 0);
    if (found == ROW_COUNT)
        return NULL;
    if (row)
        *row = found;
    return rows[found].kernel;
}

int32_t qk_kernel_count(void) {
    return ROW_COUNT;
}

static const kernel_row *row_at(int32_t i) {
    return i >= 0 && i < ROW_COUNT ? &rows[i] : NULL;
}

const char *qk_kernel_name(int32_t i) {
    return row_at(i) ? row_at(i)->name : NULL;
}

qk_op_kind qk_kernel_op(int32_t i) {
    return row_at(i) ? row_at(i)->op : QK_OP_COUNT;
}

qk_isa qk_kernel_isa(int32_t i) {
    return row_at(i) ? row_at(i)->isa : QK_ISA_COUNT;
}

const char *qk_op_kernel_name(qk_isa isa, const qk_op *op) {
    int32_t row = -1;
    return qk_find_kernel(isa, op, &row) ? rows[row].name : NULL;
}

int64_t qk_op_scratch_bytes(qk_isa isa, const qk_op *op) {
    const qk_kernel *kernel = qk_find_kernel(isa, op, NULL);
    return kernel && kernel->scratch_bytes ? QK_KEPT_BYTES + qk_round_up(kernel->scratch_bytes(op), 64) : 0;
}

/* Sizes that the packed form depends on. The accumulator stays in int32 as long as 255 * 127 * K + |bias| < 2^31. */
static int geometry_is_valid(const qk_conv_params *c) {
    if (c->groups < 1 || c->in_c < 1 || c->out_c < 1 || c->kernel_h < 1 || c->kernel_w < 1)
        return 0;
    if (c->in_c % c->groups || c->out_c % c->groups || c->in_zero_point < 0 || c->in_zero_point > 255)
        return 0;
    return (int64_t)(c->in_c / c->groups) * c->kernel_h * c->kernel_w * (255 * 127) < INT32_MAX;
}

static qk_conv_params without_weights(const qk_conv_params *conv) {
    qk_conv_params copy = *conv;
    copy.packed = NULL;
    return copy;
}

int64_t qk_conv_packed_bytes(qk_isa isa, const qk_conv_params *conv) {
    const qk_conv_params unpacked = without_weights(conv);
    const qk_op op = {.kind = QK_CONV, .params = &unpacked};
    int64_t most = 0;
    if ((uint32_t)isa >= QK_ISA_COUNT || !geometry_is_valid(conv))
        return 0;
    for (int32_t row = next_row(isa, &op, 0); row < ROW_COUNT; row = next_row(isa, &op, row + 1)) {
        most = qk_max64(most, QK_PACKED_HEADER + qk_round_up(rows[row].kernel->packed_bytes(conv), 64));
        if (!rows[row].kernel->pack_if_suited)
            break;
    }
    return most;
}

qk_status qk_conv_pack(qk_isa isa, const qk_conv_params *conv, const int8_t *weights, const int32_t *bias,
                       const float *multiplier, void *packed) {
    const qk_conv_params unpacked = without_weights(conv);
    const qk_op op = {.kind = QK_CONV, .params = &unpacked};
    if (!geometry_is_valid(conv) || !weights || !bias || !multiplier || !packed || (uintptr_t)packed % 64)
        return QK_BAD_ARGUMENT;
    if (!qk_isa_available(isa))
        return QK_ISA_MISSING;
    float max_multiplier = 0;
    for (int32_t channel = 0; channel < conv->out_c; channel++) {
        if (!(multiplier[channel] >= 0 && multiplier[channel] < INFINITY))
            return QK_BAD_ARGUMENT;
        max_multiplier = fmaxf(max_multiplier, multiplier[channel]);
    }
    void *body = (char *)packed + QK_PACKED_HEADER;
    int32_t row = next_row(isa, &op, 0);
    while (row < ROW_COUNT && rows[row].kernel->pack_if_suited &&
           !rows[row].kernel->pack_if_suited(conv, weights, bias, multiplier, body))
        row = next_row(isa, &op, row + 1);
    if (row == ROW_COUNT)
        return QK_BAD_ARGUMENT;
    if (!rows[row].kernel->pack_if_suited)
        rows[row].kernel->pack(conv, weights, bias, multiplier, body);
    *(packed_header *)packed = (packed_header){PACKED_MAGIC, row, (int32_t)isa, max_multiplier};
    return QK_OK;
}

float qk_packed_max_multiplier(const qk_conv_params *conv) {
    const packed_header *header = conv->packed;
    return header->max_multiplier;
}
