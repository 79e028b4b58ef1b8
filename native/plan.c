/* plan.c: qk_run, one call for a whole native region. */
#include <time.h>

#include "internal.h"

/* An op shorter than this is not worth waking threads for; a range shorter than MIN_RANGE_NS not worth handing out. */
enum { MIN_PARALLEL_NS = 6000, MIN_RANGE_NS = 2000 };

typedef struct {
    const qk_kernel *kernel;
    const qk_op *op;
    void *const *buffers;
    char *scratch;
    int64_t scratch_per_thread;
} op_run;

/* NULL if the kernel has none. */
static char *scratch_of(const op_run *run, int32_t thread) {
    return run->kernel->scratch_bytes ? run->scratch + thread * run->scratch_per_thread : NULL;
}

static void run_range(void *context, int32_t thread, int64_t begin, int64_t end) {
    const op_run *run = context;
    char *scratch = scratch_of(run, thread);
    const qk_task task = {.buffers = run->buffers,
                          .begin = begin,
                          .end = end,
                          .scratch = scratch ? scratch + QK_KEPT_BYTES : NULL,
                          .kept = (int64_t *)scratch};
    run->kernel->run(run->op, &task);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static qk_status run_op(qk_isa isa, qk_pool *pool, int32_t threads, op_run *run) {
    run->kernel = qk_find_kernel(isa, run->op, NULL);
    if (!run->kernel || (run->kernel->valid && !run->kernel->valid(run->op)))
        return QK_BAD_ARGUMENT;
    if (run->op->kind == QK_CONV && !((const qk_conv_params *)run->op->params)->packed)
        return QK_BAD_ARGUMENT;
    if (run->kernel->scratch_bytes &&
        (!run->scratch || QK_KEPT_BYTES + run->kernel->scratch_bytes(run->op) > run->scratch_per_thread))
        return QK_BAD_ARGUMENT;
    for (int32_t thread = 0; run->kernel->scratch_bytes && thread < threads; thread++)
        *(int64_t *)scratch_of(run, thread) = -1;
    const qk_work work = run->kernel->work(run->op);
    if (threads == 1 || work.nanoseconds < MIN_PARALLEL_NS) {
        if (work.units > 0)
            run_range(run, 0, 0, work.units);
        return QK_OK;
    }
    const int64_t grain = qk_max64(1, work.units * MIN_RANGE_NS / work.nanoseconds);
    qk_pool_for(pool, threads, work.units, grain, run_range, run);
    return QK_OK;
}

qk_status qk_run(qk_isa isa, qk_pool *pool, const qk_op *ops, int32_t op_count, void *const *buffers, void *scratch,
                 int64_t scratch_per_thread, int64_t *nanoseconds, int32_t *failed_op) {
    qk_status status = qk_isa_available(isa) ? QK_OK : QK_ISA_MISSING;
    if (status != QK_OK)
        return status;
    if ((uintptr_t)scratch % 64 || scratch_per_thread % 64)
        return QK_BAD_ARGUMENT;
    const qk_team team = qk_pool_enter(pool);
    op_run run = {.buffers = buffers, .scratch = scratch, .scratch_per_thread = scratch_per_thread};
    int64_t start = nanoseconds ? now_ns() : 0;
    for (int32_t i = 0; i < op_count && status == QK_OK; i++) {
        run.op = &ops[i];
        status = run_op(isa, pool, team.threads, &run);
        if (status != QK_OK && failed_op)
            *failed_op = i;
        if (nanoseconds) {
            const int64_t end = now_ns();
            nanoseconds[i] = end - start;
            start = end;
        }
    }
    qk_pool_leave(pool, team);
    return status;
}
