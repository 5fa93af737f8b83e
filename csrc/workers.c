/* workers.c: a small pool of threads that carry out requests one system call each, for the backend `threads`, for files that
 * another backend cannot serve, and for calls (GIO_CALL), which block.
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

struct gio_workers {
    gio_queue *queue;
    gio_condition work;
    gio_request_list started; /* not yet taken by a worker */
    gio_thread threads[WORKERS_MAX];
    uint32_t count, idle, waiting; /* waiting: requests on the list */
    int32_t stop;
};

static void *worker(void *argument)
{
    gio_workers *workers = argument;
    gio_queue *queue = workers->queue;

    gio_mutex_lock(&queue->mutex);
    for (;;) {
        gio_request *request = gio_requests_take(&workers->started);
        if (request == NULL) {
            if (workers->stop)
                break;
            workers->idle++;
            gio_condition_wait(&workers->work, &queue->mutex, gio_refused_until(queue, -1));
            workers->idle--;
            if (queue->refused) {
                gio_queue_advance(queue);
                gio_queue_call_attention(queue);
            }
            continue;
        }
        workers->waiting--;
        gio_mutex_unlock(&queue->mutex);
        int64_t result = gio_request_carry_out(request);
        gio_mutex_lock(&queue->mutex);
        gio_request_returned(queue, request, result);
        gio_queue_advance(queue);
        gio_queue_call_attention(queue); /* what it has started may be another backend's */
    }
    gio_mutex_unlock(&queue->mutex);
    return NULL;
}

int32_t gio_workers_open(gio_queue *queue)
{
    gio_mutex_lock(&queue->mutex);
    int there = queue->workers != NULL;
    gio_mutex_unlock(&queue->mutex);
    if (there)
        return 0;
    gio_workers *workers = calloc(1, sizeof *workers);
    if (workers == NULL)
        return gio_code_no_memory();
    workers->queue = queue;
    gio_condition_init(&workers->work);
    int32_t code = gio_thread_start(&workers->threads[0], worker, workers); /* one at least, or none at all */
    if (code) {
        gio_condition_destroy(&workers->work);
        free(workers);
        return code;
    }
    workers->count = 1;
    gio_mutex_lock(&queue->mutex);
    int first = queue->workers == NULL; /* while it closes, too: who comes here is inside, and close waits for that */
    if (first)
        queue->workers = workers;
    gio_mutex_unlock(&queue->mutex);
    if (!first) /* another thread was faster */
        gio_workers_close(queue, workers);
    return 0;
}

void gio_workers_close(gio_queue *queue, gio_workers *workers)
{
    if (workers == NULL)
        return;
    if (gio_queue_usable(queue) == 0) { /* in a forked child there are no workers, and the lock may be anyone's */
        gio_mutex_lock(&queue->mutex);
        workers->stop = 1;
        gio_condition_wake_all(&workers->work);
        gio_mutex_unlock(&queue->mutex);
        for (uint32_t i = 0; i < workers->count; i++)
            gio_thread_join(&workers->threads[i]);
        gio_condition_destroy(&workers->work);
    }
    free(workers);
}

void gio_workers_start(gio_queue *queue, gio_request *request)
{
    gio_workers *workers = queue->workers;

    gio_requests_append(&workers->started, request);
    workers->waiting++;
    if (workers->waiting <= workers->idle)
        gio_condition_wake_one(&workers->work);
    else if (workers->count < WORKERS_MAX && workers->count < queue->depth &&
             gio_thread_start(&workers->threads[workers->count], worker, workers) == 0)
        workers->count++; /* where no thread can be had, those there are do it all */
}

void gio_workers_wake(gio_workers *workers) { gio_condition_wake_one(&workers->work); }

/* What no worker has taken yet ends here; the rest runs to its end. */
void gio_workers_cancel(gio_queue *queue, gio_request *request)
{
    gio_workers *workers = queue->workers;

    if (gio_requests_remove(&workers->started, request)) {
        workers->waiting--;
        gio_request_returned(queue, request, -(int64_t)gio_code_cancelled());
    }
}
