/* internal.h: what the C files of the engine share. Not seen by cffi. */
#ifndef QK_INTERNAL_H
#define QK_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "qk.h"

/* 0 builds the scalar kernels alone; -DQK_X86=0 does so on an x86 too. */
#ifndef QK_X86
#if (defined(__x86_64__) || defined(__amd64__)) && defined(__GNUC__)
#define QK_X86 1
#else
#define QK_X86 0
#endif
#endif

/* A file of kernels puts its ISA's attribute before every function that uses intrinsics. */
#define QK_TARGET_AVX2       __attribute__((target("avx2")))
#define QK_TARGET_AVX2_FMA   __attribute__((target("avx2,fma")))
#define QK_TARGET_AVXVNNI    __attribute__((target("avx2,avxvnni")))
#define QK_TARGET_AVX512VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

/* ---- Kernels ----
 * The work of an op is cut into `units` equal parts, numbered from 0, that may run in any order and on any thread. The
 * cut depends on the op alone, never on the threads. `nanoseconds` is a rough guess of the whole on one core; it only
 * decides how many units a thread takes at a time, and whether other threads are woken at all. */
typedef struct {
    int64_t units;
    int64_t nanoseconds;
} qk_work;

/* What a kernel is given: units begin..end-1 of the op, and scratch of its own (64-byte aligned). `kept` is -1 before a
 * thread's first units of an op; what a kernel writes there comes back with the next units on that thread, and its
 * scratch with it. */
typedef struct {
    void *const *buffers;
    int64_t begin, end;
    void *scratch;
    int64_t *kept; /* NULL for a kernel without scratch */
} qk_task;

/* The part of a thread's scratch that holds `kept`. */
enum { QK_KEPT_BYTES = 64 };

typedef struct {
    int32_t (*accepts)(const qk_op *op); /* should it run this op? NULL: every op of its kind */
    int32_t (*valid)(const qk_op *op);   /* are sizes, pitches and pointers sane? NULL: not checked */
    qk_work (*work)(const qk_op *op);
    int64_t (*scratch_bytes)(const qk_op *op); /* per thread. NULL: none */
    void (*run)(const qk_op *op, const qk_task *task);
    /* QK_CONV only: the packed form of weights, behind a header that dispatch.c owns. */
    int64_t (*packed_bytes)(const qk_conv_params *conv);
    void (*pack)(const qk_conv_params *conv, const int8_t *weights, const int32_t *bias, const float *multiplier,
                 void *packed);
    /* Instead of pack, where not all weights suit the kernel: 0 leaves them to the next one that accepts the op. */
    int32_t (*pack_if_suited)(const qk_conv_params *conv, const int8_t *weights, const int32_t *bias,
                              const float *multiplier, void *packed);
} qk_kernel;

/* Every row of kernels.inc names a `const qk_kernel` that a kernel file defines. */
#define X(op, isa, symbol, name) extern const qk_kernel symbol;
#include "kernels.inc"
#undef X

/* dispatch.c: the kernel that runs the op, its row in kernels.inc in *row (NULL allowed); NULL: none accepts it, or the
 * weights of a conv were packed for another ISA. Packed weights name their kernel. */
const qk_kernel *qk_find_kernel(qk_isa isa, const qk_op *op, int32_t *row);
/* The largest multiplier given to qk_conv_pack. */
float qk_packed_max_multiplier(const qk_conv_params *conv);
/* What qk_conv_pack's kernel wrote: a packed pointer without the header. */
#define QK_PACKED_HEADER 64
static inline const void *qk_packed_body(const qk_conv_params *conv) {
    return (const char *)conv->packed + QK_PACKED_HEADER;
}

/* The memory of a tensor; NULL if the op has none there. */
static inline void *qk_at(const qk_task *task, qk_ref ref) {
    return ref.buffer < 0 ? NULL : (char *)task->buffers[ref.buffer] + ref.offset;
}

static inline int64_t qk_min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static inline int64_t qk_max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static inline int64_t qk_divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline int64_t qk_round_up(int64_t a, int64_t b) {
    return (a + b - 1) / b * b;
}

/* ---- Threads (parallel.c) ----
 * A run of a plan enters the pool once, uses it for every op, and leaves it. Entering a busy pool, or NULL, grants one
 * thread: the caller. */
typedef void qk_range_fn(void *context, int32_t thread, int64_t begin, int64_t end);
typedef struct {
    int32_t threads; /* granted, the caller included */
    int32_t holds;   /* the pool is this caller's until it leaves */
} qk_team;
qk_team qk_pool_enter(qk_pool *pool);
void qk_pool_leave(qk_pool *pool, qk_team team);
/* fn over 0..units-1, in ranges that shrink towards the end, of at least `grain` units. thread is 0..threads-1. */
void qk_pool_for(qk_pool *pool, int32_t threads, int64_t units, int64_t grain, qk_range_fn *fn, void *context);

#endif
