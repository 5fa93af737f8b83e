/* queue.c: opening and closing a queue. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Between two looks at whether the others have left a queue that closes. */
static const int64_t LEAVING_NS = 1000 * 1000;

/* Requests in flight are enough when they keep the device busy while the next are being prepared; beyond that, more
 * bytes only pin more memory. */
static const uint64_t BYTES_IN_FLIGHT_MAX = 32 * 1024 * 1024;

const char *gio_backend_name(uint32_t index)
{
    for (uint32_t i = 0; gio_backends[i]; i++)
        if (i == index)
            return gio_backends[i]->name;
    return NULL;
}

int32_t gio_queue_usable(gio_queue *queue)
{
    return queue->fork_count == gio_fork_count() ? 0 : GIO_E_FORKED;
}

/* In a forked child the lock may be anyone's; there is one thread, and nothing to guard against. */
static int lock_unless_forked(gio_queue *queue)
{
    int forked = gio_queue_usable(queue) != 0;
    if (!forked)
        gio_mutex_lock(&queue->mutex);
    return !forked;
}

static void release(gio_queue *queue)
{
    if (gio_queue_usable(queue) == 0) { /* in a forked child the parent's threads wait on them for ever */
        gio_mutex_destroy(&queue->memory_mutex);
        gio_mutex_destroy(&queue->mutex);
        gio_condition_destroy(&queue->changed);
        gio_condition_destroy(&queue->pump_wake);
    }
    for (uint32_t i = 0; queue->requests && i < queue->depth; i++)
        free(queue->requests[i].many);
    for (uint64_t i = 0; i < queue->operation_count; i += GIO_OPERATIONS_PER_BLOCK)
        free(queue->operations[i]);
    free(queue->operations);
    free(queue->finished);
    free(queue->requests);
    free(queue->listeners);
    free(queue);
}

int32_t gio_queue_open(const char *backend, uint32_t depth, uint64_t request_bytes, gio_queue **out)
{
    const gio_backend *found = NULL;
    for (uint32_t i = 0; gio_backends[i]; i++)
        if (strcmp(gio_backends[i]->name, backend) == 0)
            found = gio_backends[i];
    if (found == NULL || depth == 0 || request_bytes == 0)
        return gio_code_invalid();

    gio_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return gio_code_no_memory();
    gio_mutex_init(&queue->mutex);
    gio_mutex_init(&queue->memory_mutex);
    gio_condition_init(&queue->changed);
    gio_condition_init(&queue->pump_wake);
    gio_system(&queue->system);
    queue->backend = found;
    queue->fork_count = gio_fork_count();
    queue->depth = depth;
    uint64_t page = queue->system.page_size, largest = gio_round_down(queue->system.max_request_bytes, page);
    queue->request_bytes = gio_min(gio_round_up(gio_min(request_bytes, largest), page), largest);
    queue->bytes_in_flight_max = gio_max(BYTES_IN_FLIGHT_MAX, 2 * queue->request_bytes);
    queue->bytes_in_flight_ceiling = queue->bytes_in_flight_max;
    queue->returned_end = &queue->returned;
    queue->requests = calloc(depth, sizeof *queue->requests);
    if (queue->requests == NULL) {
        release(queue);
        return gio_code_no_memory();
    }
    for (uint32_t i = depth; i-- > 0;) {
        queue->requests[i].next = queue->free_requests;
        queue->free_requests = &queue->requests[i];
    }

    int32_t code = found->open(queue);
    if (code == 0 && found->sleep) {
        code = gio_thread_start(&queue->pump, gio_queue_pump, queue);
        if (code)
            found->close(queue);
        else
            queue->pump_started = 1;
    }
    if (code) {
        release(queue);
        return code;
    }
    *out = queue;
    return 0;
}

static int all_finished(gio_queue *queue, void *unused)
{
    (void)unused;
    return queue->live == 0;
}

int32_t gio_queue_batch(gio_queue *queue, gio_batch *begun)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    queue->batches++;
    gio_mutex_unlock(&queue->mutex);
    gio_queue_count_holder(queue, +1);
    begun->queue = queue;
    return 0;
}

void gio_batch_end(gio_batch *begun)
{
    gio_queue *queue = begun->queue;
    if (queue == NULL)
        return;
    if (gio_queue_usable(queue) == 0) {
        gio_mutex_lock(&queue->mutex);
        queue->batches--;
        gio_queue_advance(queue);
        gio_queue_call_attention(queue);
        gio_mutex_unlock(&queue->mutex);
    }
    begun->queue = NULL;
    gio_queue_count_holder(queue, -1);
}

void gio_queue_read_stats(gio_queue *queue, gio_queue_stats *stats)
{
    int locked = lock_unless_forked(queue);
    *stats = queue->stats;
    if (locked)
        gio_mutex_unlock(&queue->mutex);
}

int32_t gio_queue_close(gio_queue *queue, int64_t timeout_ns)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    queue->closing = 1;
    code = gio_queue_wait_until(queue, all_finished, NULL, timeout_ns);
    if (code == 0 && queue->closed) { /* by another thread, which may still be about it */
        int64_t deadline_ns = gio_deadline_ns(timeout_ns);
        while (!queue->gone && code == 0) {
            gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(LEAVING_NS));
            if (!queue->gone && deadline_ns >= 0 && gio_now_ns() >= deadline_ns)
                code = GIO_E_TIMEOUT;
        }
        gio_mutex_unlock(&queue->mutex);
        return code;
    }
    if (code) {
        gio_mutex_unlock(&queue->mutex);
        return code;
    }
    queue->closed = 1; /* nothing is in flight and nothing can be submitted: waiters leave */
    while (queue->inside != 0) {
        gio_condition_wake_all(&queue->changed);
        gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(LEAVING_NS));
    }
    queue->pump_stop = 1;
    gio_condition_wake_all(&queue->pump_wake);
    gio_mutex_unlock(&queue->mutex);
    if (queue->pump_started)
        gio_thread_join(&queue->pump);
    gio_workers_close(queue, queue->workers);
    queue->workers = NULL;
    gio_mutex_lock(&queue->memory_mutex);
    queue->backend->close(queue);
    queue->released = 1;
    gio_mutex_unlock(&queue->memory_mutex);
    gio_registered_forget(queue);
    gio_staging_leave(&queue->staging);
    gio_mutex_lock(&queue->mutex);
    queue->gone = 1;
    gio_condition_wake_all(&queue->changed);
    gio_mutex_unlock(&queue->mutex);
    return 0;
}

int32_t gio_queue_enter(gio_queue *queue)
{
    gio_mutex_lock(&queue->mutex);
    int32_t code = queue->closing ? GIO_E_CLOSED : 0;
    queue->inside += code == 0;
    gio_mutex_unlock(&queue->mutex);
    return code;
}

void gio_queue_leave(gio_queue *queue)
{
    gio_mutex_lock(&queue->mutex);
    queue->inside--;
    gio_mutex_unlock(&queue->mutex);
}

void gio_queue_count_holder(gio_queue *queue, int step)
{
    int locked = lock_unless_forked(queue);
    queue->holders += (uint64_t)(int64_t)step;
    int last = queue->abandoned && queue->holders == 0;
    if (locked)
        gio_mutex_unlock(&queue->mutex);
    if (last)
        release(queue);
}

void gio_queue_free(gio_queue *queue)
{
    if (queue == NULL)
        return;
    if (gio_queue_usable(queue) == 0)
        while (gio_queue_close(queue, -1) != 0)
            continue; /* interrupted: nothing may be freed under the kernel */
    else if (!queue->closed) {
        gio_workers_close(queue, queue->workers);
        queue->backend->close(queue);
    }
    int locked = lock_unless_forked(queue);
    queue->closed = queue->abandoned = 1;
    int last = queue->holders == 0;
    if (locked)
        gio_mutex_unlock(&queue->mutex);
    if (last)
        release(queue);
}

void gio_queue_let_go(gio_queue **place)
{
    gio_queue_free(*place);
    *place = NULL;
}
