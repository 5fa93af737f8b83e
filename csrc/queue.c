/* queue.c: opening and closing a queue, waiting on it, and the thread that steps in when nobody waits.
 *
 * Who looks after completions? On a backend whose completions have to be fetched (io_uring) it is, in this order:
 *
 *   1. The waiters themselves. The first of them takes the lead: it sleeps in the kernel, fetches what arrives for
 *      everybody, starts what there is room for, and passes the lead on when its own wait is over. The others sleep
 *      on `changed`. A thread that waits for its own completion so pays for no hand-over between threads, which on
 *      a small machine costs as much as a small read.
 *   2. The pump, a thread of the queue's own, when there is a backlog (or a listener that cannot watch the ring) and
 *      nobody has taken the lead, for which it gives them a moment. That is how a large operation goes on while Python
 *      holds the GIL or computes.
 *   3. The pump again, every TICK_NS while operations are in flight, for what else may need a hand (a short transfer
 *      to be resumed, a request that the kernel dropped); less often where somebody leads. An idle queue's pump is
 *      parked and costs nothing.
 *
 * Backends with worker threads (threads) or none (sync) need no pump: whoever finishes a request calls
 * gio_queue_advance.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Long enough that a hundred wake-ups a second cost nothing, short enough that nobody notices a request which had to
 * be resumed with nobody waiting for it. */
static const int64_t TICK_NS = 10 * 1000 * 1000;
/* While somebody leads there is nothing to look for, and whoever leaves a backlog behind calls. */
static const int64_t LED_TICK_NS = 100 * 1000 * 1000;
/* Who submits is often about to wait, and then leads at no cost. Less than what is in flight keeps a device busy for. */
static const int64_t PATIENCE_NS = 200 * 1000;

/* Requests in flight are enough when they keep the device busy while the next are being prepared; beyond that, more
 * bytes only pin more memory. */
static const uint64_t BYTES_IN_FLIGHT_MAX = 32 * 1024 * 1024;

/* ---- opening ------------------------------------------------------------------------------------------- */

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

static void *pump(void *argument);

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
        code = gio_thread_start(&queue->pump, pump, queue);
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

/* ---- waking -------------------------------------------------------------------------------------------- */

void gio_queue_operation_finished(gio_queue *queue)
{
    queue->stats.finished++;
    if (queue->led && queue->backend->wake)
        queue->backend->wake(queue); /* it sleeps for this one, perhaps, and has no completion to wait for */
    if (queue->followers)
        gio_condition_wake_all(&queue->changed);
    for (uint32_t i = 0; i < queue->listener_count; i++)
        if (queue->listeners[i].event != queue->quiet)
            gio_event_set(queue->listeners[i].event);
}

static int nobody_attends(const gio_queue *queue)
{
    return !queue->led && queue->followers == 0 && queue->requests_started != 0 &&
           (queue->backlog.count != 0 || queue->waiting_writes != 0 || queue->unattended_count != 0);
}

void gio_queue_call_attention(gio_queue *queue)
{
    if (queue->backend->sleep == NULL)
        return;
    if (!queue->led && queue->followers && queue->requests_started)
        gio_condition_wake_all(&queue->changed); /* one of them takes the lead */
    else if (!queue->pump_patient && (queue->pump_parked ? queue->live != 0 : nobody_attends(queue)))
        gio_condition_wake_one(&queue->pump_wake);
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

/* Sleeps in the backend on behalf of every waiter. Lock held, and released meanwhile. */
static int32_t lead(gio_queue *queue, int64_t timeout_ns)
{
    queue->led = 1;
    queue->submitted = queue->sequence;
    queue->stats.sleeps++;
    int32_t code = queue->backend->sleep(queue, timeout_ns);
    queue->led = 0;
    return code;
}

/* The lock was let go of since the pump last looked: it may be asked to stop, and nobody asks twice. */
static void pump_sleep(gio_queue *queue, int64_t timeout_ns)
{
    if (!queue->pump_stop)
        gio_condition_wait(&queue->pump_wake, &queue->mutex, gio_deadline_ns(timeout_ns));
}

static void *pump(void *argument)
{
    gio_queue *queue = argument;
    int leading = 0;

    gio_mutex_lock(&queue->mutex);
    while (!queue->pump_stop) {
        if (nobody_attends(queue) && queue->unattended_count == 0 && !leading) {
            queue->pump_patient = 1;
            pump_sleep(queue, PATIENCE_NS);
            queue->pump_patient = 0;
        }
        leading = nobody_attends(queue);
        if (leading) {
            queue->stats.pumped++;
            lead(queue, TICK_NS);
        }
        gio_queue_advance(queue);
        gio_queue_call_attention(queue); /* a waiter leads better than we do */
        if (nobody_attends(queue))
            continue;
        leading = 0;
        if (queue->live == 0 && queue->pump_seen == queue->stats.operations) {
            queue->pump_parked = 1;
            pump_sleep(queue, -1);
            queue->pump_parked = 0;
        } else {
            queue->pump_seen = queue->stats.operations;
            pump_sleep(queue, queue->led ? LED_TICK_NS : TICK_NS);
        }
    }
    gio_mutex_unlock(&queue->mutex);
    return NULL;
}

/* Waits until `ready` says so. Lock held. */
static int32_t wait_until(gio_queue *queue, int (*ready)(gio_queue *, void *), void *argument, int64_t timeout_ns)
{
    int64_t deadline_ns = gio_deadline_ns(timeout_ns);
    int32_t code = 0;
    int handed_over = 0;

    queue->inside++;
    for (;;) {
        int news = gio_queue_prepare(queue);
        if (ready(queue, argument)) {
            code = 0;
            break;
        }
        if (queue->closed)
            code = GIO_E_CLOSED;
        if (code)
            break;
        int64_t left_ns = deadline_ns < 0 ? -1 : timeout_ns == 0 ? 0 : deadline_ns - gio_now_ns();
        if (deadline_ns >= 0 && left_ns <= 0) {
            code = GIO_E_TIMEOUT;
            break;
        }
        if (queue->backend->sleep == NULL || queue->led || queue->requests_started == 0) {
            if (news || !handed_over) { /* the lock is let go of, perhaps: look once more before going to sleep */
                handed_over = 1;
                gio_queue_hand_over(queue);
                continue;
            }
            handed_over = 0;
            queue->followers++;
            gio_condition_wait(&queue->changed, &queue->mutex, deadline_ns);
            queue->followers--;
        } else {
            code = lead(queue, left_ns); /* INTERRUPTED is told after one more look */
            if (code == GIO_E_TIMEOUT)
                code = 0;
        }
    }
    while (gio_queue_hand_over(queue))
        gio_queue_prepare(queue);
    queue->inside--;
    gio_queue_call_attention(queue); /* the lead is vacant */
    return code;
}

static int any_finished(gio_queue *queue, void *unused)
{
    (void)unused;
    return queue->finished.first != NULL;
}

static int all_finished(gio_queue *queue, void *unused)
{
    (void)unused;
    return queue->live == 0;
}

static int file_idle(gio_queue *queue, void *file)
{
    (void)queue;
    return ((gio_file *)file)->operations == 0;
}

static int operation_over(gio_queue *queue, void *ticket)
{
    gio_operation *operation = gio_operation_find(queue, *(uint64_t *)ticket);
    return operation == NULL || operation->state == GIO_FINISHED;
}

typedef struct {
    const uint64_t *tickets;
    uint64_t count;
    uint64_t index;
} ticket_list;

static int any_over(gio_queue *queue, void *list_)
{
    ticket_list *list = list_;
    for (list->index = 0; list->index < list->count; list->index++)
        if (operation_over(queue, (void *)&list->tickets[list->index]))
            return 1;
    return 0;
}

int32_t gio_operation_wait(gio_queue *queue, uint64_t ticket, int64_t timeout_ns, gio_outcome *outcome)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    code = wait_until(queue, operation_over, &ticket, timeout_ns);
    if (code == 0) {
        gio_operation *operation = gio_operation_find(queue, ticket);
        if (operation)
            gio_operation_tell(operation, outcome);
        else
            code = GIO_E_GONE;
    }
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_transfer(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                     uint64_t key, int64_t timeout_ns, gio_outcome *outcome)
{
    gio_queue *queue = file->queue;
    gio_segment memory = {(uint64_t)(uintptr_t)address, nbytes};
    gio_operation wanted = gio_operation_on(file, direction, &memory, offset, key);

    wanted.is_private = 1;
    outcome->ticket = 0;
    int64_t begun = gio_operation_begin(&wanted);
    if (begun < 0)
        return (int32_t)-begun;
    uint64_t ticket = outcome->ticket = (uint64_t)begun;
    int32_t code = wait_until(queue, operation_over, &ticket, timeout_ns);
    gio_operation *operation = gio_operation_find(queue, ticket);
    if (code == 0) {
        gio_operation_tell(operation, outcome);
        gio_operation_release(queue, operation);
    }
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_operation_wait_any(gio_queue *queue, const uint64_t *tickets, uint64_t count, int64_t timeout_ns,
                               uint64_t *index)
{
    ticket_list list = {tickets, count, 0};
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    code = wait_until(queue, any_over, &list, timeout_ns);
    *index = list.index;
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_file_drain(gio_file *file, int64_t timeout_ns)
{
    gio_queue *queue = file->queue;
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    code = wait_until(queue, file_idle, file, timeout_ns);
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_queue_collect(gio_queue *queue, int64_t timeout_ns, gio_event *listener, gio_outcome *outcomes,
                          uint32_t max, uint32_t *count)
{
    int32_t code = gio_queue_usable(queue);
    *count = 0;
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    queue->quiet = listener;
    if (timeout_ns != 0)
        code = wait_until(queue, any_finished, NULL, timeout_ns);
    else
        gio_queue_advance(queue);
    queue->quiet = NULL;
    gio_operation *at = queue->finished.first;
    for (; at && *count < max; at = at->next)
        gio_operation_tell(at, &outcomes[(*count)++]);
    if (at && listener)
        gio_event_set(listener); /* there was no room for this one */
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return *count ? 0 : code;
}

int32_t gio_queue_release(gio_queue *queue, const gio_outcome *outcomes, uint32_t count)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    for (uint32_t i = 0; i < count; i++) {
        gio_operation *operation = gio_operation_find(queue, outcomes[i].ticket);
        if (operation && operation->state == GIO_FINISHED) /* else another thread was told, too, and was faster */
            gio_operation_release(queue, operation);
    }
    gio_mutex_unlock(&queue->mutex);
    return 0;
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

/* ---- listening ------------------------------------------------------------------------------------------- */

int64_t gio_queue_poll_handle(gio_queue *queue)
{
    if (gio_queue_usable(queue) || queue->backend->poll_handle == NULL)
        return -1;
    gio_mutex_lock(&queue->mutex);
    int64_t handle = queue->closed ? -1 : queue->backend->poll_handle(queue);
    gio_mutex_unlock(&queue->mutex);
    return handle;
}

int32_t gio_queue_listen(gio_queue *queue, gio_event *event, int32_t attended)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    gio_listener *grown = realloc(queue->listeners, (queue->listener_count + 1) * sizeof *grown);
    if (grown == NULL) {
        code = gio_code_no_memory();
    } else {
        queue->listeners = grown;
        queue->listeners[queue->listener_count++] = (gio_listener){event, attended};
        queue->unattended_count += !attended;
        if (queue->finished.first)
            gio_event_set(event);
        gio_queue_call_attention(queue);
    }
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_queue_unlisten(gio_queue *queue, gio_event *event)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    for (uint32_t i = 0; i < queue->listener_count; i++)
        if (queue->listeners[i].event == event) {
            queue->unattended_count -= !queue->listeners[i].attended;
            queue->listeners[i] = queue->listeners[--queue->listener_count];
            break;
        }
    gio_mutex_unlock(&queue->mutex);
    return 0;
}

void gio_queue_read_stats(gio_queue *queue, gio_queue_stats *stats)
{
    int locked = lock_unless_forked(queue);
    *stats = queue->stats;
    if (locked)
        gio_mutex_unlock(&queue->mutex);
}

/* ---- closing -------------------------------------------------------------------------------------------- */

int32_t gio_queue_close(gio_queue *queue, int64_t timeout_ns)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    queue->closing = 1;
    code = wait_until(queue, all_finished, NULL, timeout_ns);
    if (code == 0 && queue->closed) { /* by another thread, which may still be about it */
        int64_t deadline_ns = gio_deadline_ns(timeout_ns);
        while (!queue->gone && code == 0) {
            gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(TICK_NS / 10));
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
        gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(TICK_NS / 10));
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
