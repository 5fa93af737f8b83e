/* backend_threads.c: preadv2 and pwritev2 from a small pool of threads, for a Linux that has no io_uring or forbids
 * it.
 *
 * A started request is put on a list; a worker takes it off, does the system call without the lock, returns the
 * result and lets the queue advance, so that completions need nobody to fetch them. Workers are made as requests
 * find none idle, and end with the queue.
 */
#include "internal.h"

#include <stdlib.h>

/* Enough to keep a disk busy with large requests and a flash device with small ones; more threads than this cost
 * more in switching than they add. */
enum { WORKERS_MAX = 16 };

typedef struct {
    gio_queue *queue;
    gio_condition work;
    gio_request_list started; /* not yet taken by a worker */
    gio_thread workers[WORKERS_MAX];
    uint32_t worker_count, idle, waiting; /* waiting: requests on the list */
    int32_t stop;
} pool;

static void *worker(void *argument)
{
    pool *pool = argument;
    gio_queue *queue = pool->queue;

    gio_mutex_lock(&queue->mutex);
    for (;;) {
        gio_request *request = gio_requests_take(&pool->started);
        if (request == NULL) {
            if (pool->stop)
                break;
            pool->idle++;
            gio_condition_wait(&pool->work, &queue->mutex, -1);
            pool->idle--;
            continue;
        }
        pool->waiting--;
        gio_mutex_unlock(&queue->mutex);
        int64_t result = gio_os_transfer(request);
        gio_mutex_lock(&queue->mutex);
        gio_request_returned(queue, request, result);
        gio_queue_advance(queue);
    }
    gio_mutex_unlock(&queue->mutex);
    return NULL;
}

static int32_t threads_open(gio_queue *queue)
{
    pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return gio_code_no_memory();
    pool->queue = queue;
    gio_condition_init(&pool->work);
    int32_t code = gio_thread_start(&pool->workers[0], worker, pool); /* one at least, or no queue */
    if (code) {
        gio_condition_destroy(&pool->work);
        free(pool);
        return code;
    }
    pool->worker_count = 1;
    queue->backend_state = pool;
    return 0;
}

static void threads_close(gio_queue *queue)
{
    pool *pool = queue->backend_state;
    if (gio_queue_usable(queue) == 0) { /* in a forked child there are no workers, and the lock may be anyone's */
        gio_mutex_lock(&queue->mutex);
        pool->stop = 1;
        gio_condition_wake_all(&pool->work);
        gio_mutex_unlock(&queue->mutex);
        for (uint32_t i = 0; i < pool->worker_count; i++)
            gio_thread_join(&pool->workers[i]);
        gio_condition_destroy(&pool->work);
    }
    free(pool);
}

static void threads_start(gio_queue *queue, gio_request *request)
{
    pool *pool = queue->backend_state;

    gio_requests_append(&pool->started, request);
    pool->waiting++;
    if (pool->waiting <= pool->idle)
        gio_condition_wake_one(&pool->work);
    else if (pool->worker_count < WORKERS_MAX && pool->worker_count < queue->depth &&
             gio_thread_start(&pool->workers[pool->worker_count], worker, pool) == 0)
        pool->worker_count++; /* where no thread can be had, those there are do it all */
}

static void threads_submit(gio_queue *queue)
{
    (void)queue; /* the workers have seen it already */
}

/* What no worker has taken yet ends here; the rest runs to its end. */
static void threads_cancel(gio_queue *queue, gio_request *request)
{
    pool *pool = queue->backend_state;

    if (gio_requests_remove(&pool->started, request)) {
        pool->waiting--;
        gio_request_returned(queue, request, -(int64_t)gio_code_cancelled());
    }
}

const gio_backend gio_backend_threads = {
    .name = "threads",
    .open = threads_open,
    .close = threads_close,
    .start = threads_start,
    .submit = threads_submit,
    .cancel = threads_cancel,
};
