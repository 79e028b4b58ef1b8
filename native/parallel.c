/* parallel.c: a pool of threads, one per session.
 *
 * Not OpenMP: GNU's runtime hangs in a child of fork, and one team per calling thread oversubscribes the machine. Here
 * a second caller of a busy pool works alone, and a forked child starts its workers anew on first use.
 *
 * `state` holds the generation of the job, whether it is open, and how many workers are in it. A worker joins an open
 * job it has not seen; the caller closes the job when no range is left and waits only for the workers that joined, so
 * one that sleeps through a short job costs nothing. */
#define _GNU_SOURCE /* CPU_SET, pthread_setaffinity_np */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "internal.h"

enum { JOB_OPEN = 1 << 15, JOB_WORKERS = JOB_OPEN - 1, MAX_THREADS = 1024 };
#define JOB_GENERATION ((uint64_t)1 << 16)

/* 100 microseconds (Zen 5) to 300 (Skylake): longer than the gap between two ops or two requests that follow each
 * other, shorter than anyone notices. */
enum { SPINS_BEFORE_SLEEP = 6000 };

/* The units that a thread takes first; what is left of them when others are done, the others take. */
typedef struct {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
} pool_share;

typedef struct {
    qk_pool *pool;
    pthread_t handle;
    int32_t thread;
} pool_worker;

struct qk_pool {
    _Atomic uint64_t state;
    _Atomic int32_t sleepers, busy, stop;
    int64_t grain;
    int32_t sharers;
    qk_range_fn *fn;
    void *context;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    int32_t threads, started; /* started: running workers */
    int32_t *cpus;            /* one a thread to keep to, or NULL */
#ifdef __linux__
    cpu_set_t caller_cpus; /* what a pinned caller may use when it has left */
#endif
    qk_pool *previous, *next; /* all pools of the process, for fork */
    pool_share *shares;       /* one a thread */
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

#ifdef __linux__
static void pin_thread(int32_t cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
}

static void pin_caller(qk_pool *pool) {
    pthread_getaffinity_np(pthread_self(), sizeof pool->caller_cpus, &pool->caller_cpus);
    pin_thread(pool->cpus[0]);
}

static void unpin_caller(const qk_pool *pool) {
    pthread_setaffinity_np(pthread_self(), sizeof pool->caller_cpus, &pool->caller_cpus);
}
#else
static void pin_thread(int32_t cpu) {
    (void)cpu;
}

static void pin_caller(qk_pool *pool) {
    (void)pool;
}

static void unpin_caller(const qk_pool *pool) {
    (void)pool;
}
#endif

/* Half of what is left of a share at a time: few steps, and not much to wait for at the end. */
static void take_share(qk_pool *pool, pool_share *share, int32_t thread) {
    int64_t begin = atomic_load_explicit(&share->next, memory_order_relaxed);
    while (begin < share->end) {
        const int64_t end = qk_min64(begin + qk_max64(pool->grain, (share->end - begin) / 2), share->end);
        if (atomic_compare_exchange_weak_explicit(&share->next, &begin, end, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            pool->fn(pool->context, thread, begin, end);
            begin = atomic_load_explicit(&share->next, memory_order_relaxed);
        }
    }
}

/* A thread's own share comes first: it is the same part of the image in every op, so what it reads is mostly what it
 * wrote. */
static void take_ranges(qk_pool *pool, int32_t thread) {
    for (int32_t i = 0; i < pool->sharers; i++)
        take_share(pool, &pool->shares[(thread + i) % pool->sharers], thread);
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
    if (pool->cpus)
        pin_thread(pool->cpus[worker->thread]);
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
    if (pool)
        pool->shares = aligned_alloc(64, (size_t)threads * sizeof(pool_share));
    if (!pool || !pool->shares) {
        free(pool);
        return NULL;
    }
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

void qk_pool_pin(qk_pool *pool, const int32_t *cpus) {
    pool->cpus = malloc((size_t)pool->threads * sizeof *cpus);
    for (int32_t i = 0; pool->cpus && i < pool->threads; i++)
        pool->cpus[i] = cpus[i];
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
    free(pool->cpus);
    free(pool->shares);
    free(pool);
}

qk_team qk_pool_enter(qk_pool *pool) {
    const qk_team alone = {.threads = 1};
    if (!pool || (pool->threads == 1 && !pool->cpus) || atomic_exchange(&pool->busy, 1))
        return alone;
    if (pool->cpus)
        pin_caller(pool);
    if (pool->started < pool->threads - 1)
        start_workers(pool);
    return (qk_team){.threads = pool->started + 1, .holds = 1};
}

void qk_pool_leave(qk_pool *pool, qk_team team) {
    if (!team.holds)
        return;
    if (pool->cpus)
        unpin_caller(pool);
    atomic_store(&pool->busy, 0);
}

void qk_pool_for(qk_pool *pool, int32_t threads, int64_t units, int64_t grain, qk_range_fn *fn, void *context) {
    if (threads == 1 || units <= grain) {
        if (units > 0)
            fn(context, 0, 0, units);
        return;
    }
    pool->grain = grain;
    pool->sharers = threads;
    for (int32_t i = 0; i < threads; i++) {
        atomic_store_explicit(&pool->shares[i].next, units * i / threads, memory_order_relaxed);
        pool->shares[i].end = units * (i + 1) / threads;
    }
    pool->fn = fn;
    pool->context = context;
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
