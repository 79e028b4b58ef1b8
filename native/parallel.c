/* parallel.c: a pool of threads, one per session.
 *
 * Not OpenMP: GNU's runtime hangs in a child of fork, and one team per calling thread oversubscribes the machine. Here
 * a second caller of a busy pool works alone, and a forked child starts its workers anew on first use.
 *
 * `state` holds the generation of the job, whether it is open, and how many workers are in it. A worker joins an open
 * job it has not seen; the caller closes the job when no range is left and waits only for the workers that joined, so
 * one that sleeps through a short job costs nothing. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

enum { JOB_OPEN = 1 << 15, JOB_WORKERS = JOB_OPEN - 1, MAX_THREADS = 1024 };
#define JOB_GENERATION ((uint64_t)1 << 16)

/* About 50 microseconds: longer than the gap between two ops of a plan, shorter than anyone notices. */
enum { SPINS_BEFORE_SLEEP = 2000 };

typedef struct {
    qk_pool *pool;
    pthread_t handle;
    int32_t thread;
} pool_worker;

struct qk_pool {
    _Atomic uint64_t state;
    _Atomic int64_t next_unit;
    _Atomic int32_t sleepers, busy, stop;
    int64_t units, grain;
    qk_range_fn *fn;
    void *context;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    int32_t threads, started; /* started: running workers */
    qk_pool *previous, *next; /* all pools of the process, for fork */
    pool_worker workers[];
};

static pthread_mutex_t pools_mutex = PTHREAD_MUTEX_INITIALIZER;
static qk_pool *pools;

static void before_fork(void) {
    pthread_mutex_lock(&pools_mutex);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&pools_mutex);
}

static void reset(qk_pool *pool) {
    atomic_store(&pool->state, 0);
    atomic_store(&pool->sleepers, 0);
    atomic_store(&pool->busy, 0);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->started = 0;
}

/* The child has none of the workers, and perhaps a copy of a pool that another thread was using. */
static void after_fork_in_child(void) {
    for (qk_pool *pool = pools; pool; pool = pool->next)
        reset(pool);
    pthread_mutex_init(&pools_mutex, NULL);
}

static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static inline void pause_briefly(void) {
#if QK_X86
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

static void take_ranges(qk_pool *pool, int32_t thread) {
    for (;;) {
        const int64_t begin = atomic_fetch_add_explicit(&pool->next_unit, pool->grain, memory_order_relaxed);
        if (begin >= pool->units)
            return;
        pool->fn(pool->context, thread, begin, qk_min64(begin + pool->grain, pool->units));
    }
}

static int has_news(const qk_pool *pool, uint64_t seen) {
    const uint64_t state = atomic_load(&pool->state);
    return atomic_load(&pool->stop) || ((state & JOB_OPEN) && state / JOB_GENERATION != seen);
}

static void wait_for_news(qk_pool *pool, uint64_t seen) {
    for (int32_t i = 0; i < SPINS_BEFORE_SLEEP; i++) {
        if (has_news(pool, seen))
            return;
        pause_briefly();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool, seen))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *work(void *argument) {
    pool_worker *worker = argument;
    qk_pool *pool = worker->pool;
    uint64_t seen = 0;
    for (;;) {
        wait_for_news(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        uint64_t state = atomic_load(&pool->state);
        while ((state & JOB_OPEN) && !atomic_compare_exchange_weak(&pool->state, &state, state + 1))
            ;
        if (!(state & JOB_OPEN))
            continue;
        seen = state / JOB_GENERATION;
        take_ranges(pool, worker->thread);
        atomic_fetch_sub(&pool->state, 1);
    }
}

static void wake_sleepers(qk_pool *pool) {
    if (!atomic_load(&pool->sleepers))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* Workers that cannot be started are done without. */
static void start_workers(qk_pool *pool) {
    while (pool->started < pool->threads - 1) {
        pool_worker *worker = &pool->workers[pool->started];
        *worker = (pool_worker){.pool = pool, .thread = pool->started + 1};
        if (pthread_create(&worker->handle, NULL, work, worker))
            return;
        pool->started++;
    }
}

qk_pool *qk_pool_create(int32_t threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (threads < 1 || threads > MAX_THREADS)
        return NULL;
    qk_pool *pool = calloc(1, sizeof *pool + (size_t)(threads - 1) * sizeof(pool_worker));
    if (!pool)
        return NULL;
    pthread_once(&once, watch_forks);
    reset(pool);
    pool->threads = threads;
    pthread_mutex_lock(&pools_mutex);
    pool->next = pools;
    if (pools)
        pools->previous = pool;
    pools = pool;
    pthread_mutex_unlock(&pools_mutex);
    return pool;
}

void qk_pool_destroy(qk_pool *pool) {
    if (!pool)
        return;
    pthread_mutex_lock(&pools_mutex);
    if (pool->previous)
        pool->previous->next = pool->next;
    else
        pools = pool->next;
    if (pool->next)
        pool->next->previous = pool->previous;
    pthread_mutex_unlock(&pools_mutex);
    atomic_store(&pool->stop, 1);
    wake_sleepers(pool);
    for (int32_t i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].handle, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    free(pool);
}

int32_t qk_pool_enter(qk_pool *pool) {
    if (!pool || pool->threads == 1 || atomic_exchange(&pool->busy, 1))
        return 1;
    if (pool->started < pool->threads - 1)
        start_workers(pool);
    if (pool->started)
        return pool->started + 1;
    atomic_store(&pool->busy, 0);
    return 1;
}

void qk_pool_leave(qk_pool *pool, int32_t threads) {
    if (threads > 1)
        atomic_store(&pool->busy, 0);
}

void qk_pool_for(qk_pool *pool, int32_t threads, int64_t units, int64_t grain, qk_range_fn *fn, void *context) {
    if (threads == 1 || units <= grain) {
        if (units > 0)
            fn(context, 0, 0, units);
        return;
    }
    pool->units = units;
    pool->grain = grain;
    pool->fn = fn;
    pool->context = context;
    atomic_store(&pool->next_unit, 0);
    const uint64_t generation = atomic_load(&pool->state) / JOB_GENERATION + 1;
    atomic_store(&pool->state, generation * JOB_GENERATION | JOB_OPEN);
    wake_sleepers(pool);
    take_ranges(pool, 0);
    atomic_fetch_and(&pool->state, ~(uint64_t)JOB_OPEN);
    for (int32_t spins = 0; atomic_load(&pool->state) & JOB_WORKERS; spins++) {
        if (spins < SPINS_BEFORE_SLEEP)
            pause_briefly();
        else
            sched_yield();
    }
}
