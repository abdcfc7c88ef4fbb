/* A small pool of threads that sleep on condition variables between jobs and never spin.
 *
 * The caller works too and takes one part after the other, as the workers do, so a worker whose core is busy with
 * something else delays no more than the part it is at. One job runs at a time: a second caller, or a call from
 * within a job, does its work alone. A forked child starts with an empty pool.
 */
#include "common.h"

#if defined(_WIN32) || defined(DG_NO_THREADS)

void dg_parallel(dg_work work, void *context, int64_t count, int64_t threads) {
    (void)threads;
    for (int64_t i = 0; i < count; i++) work(context, i);
}

#else

#include <pthread.h>
#include <signal.h>

enum { MOST_WORKERS = 63 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    pthread_mutex_t owner; /* held by whoever runs a job */
    int workers;           /* threads that exist */
    dg_work work;
    void *context;
    int64_t next, count, unfinished;
    int64_t helpers; /* how many workers may still join this job */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER,
          .owner = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* In a forked child no worker is alive, and locks may be held by threads that are not there. */
static void forget(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_mutex_init(&pool.owner, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.workers = 0;
    pool.next = pool.count = pool.unfinished = pool.helpers = 0;
}

static void prepare(void) { pthread_atfork(NULL, NULL, forget); }

/* Take parts until none is left; the lock is held at the beginning and at the end. */
static void take_parts(void) {
    while (pool.next < pool.count) {
        int64_t mine = pool.next++;
        dg_work work = pool.work;
        void *context = pool.context;
        pthread_mutex_unlock(&pool.lock);
        work(context, mine);
        pthread_mutex_lock(&pool.lock);
        if (--pool.unfinished == 0) pthread_cond_signal(&pool.done);
    }
}

static void *serve(void *unused) {
    (void)unused;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.helpers == 0 || pool.next >= pool.count) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.helpers--;
        take_parts();
    }
    return NULL;
}

static void hire(int64_t wanted) {
    if (pool.workers >= wanted) return;
    pthread_attr_t attributes;
    sigset_t all, before;
    /* signals are for the threads of the program */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.workers < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, serve, NULL)) break; /* fewer will do */
        pool.workers++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void dg_parallel(dg_work work, void *context, int64_t count, int64_t threads) {
    int64_t helpers = dg_min(dg_min(threads, count) - 1, MOST_WORKERS);
    pthread_once(&once, prepare);
    if (helpers < 1 || pthread_mutex_trylock(&pool.owner)) {
        for (int64_t i = 0; i < count; i++) work(context, i);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    hire(helpers);
    pool.work = work;
    pool.context = context;
    pool.next = 0;
    pool.count = pool.unfinished = count;
    pool.helpers = helpers;
    pthread_cond_broadcast(&pool.wake);
    take_parts();
    while (pool.unfinished) pthread_cond_wait(&pool.done, &pool.lock);
    pool.helpers = 0;
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&pool.owner);
}

#endif
