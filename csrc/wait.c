/* wait.c: waiting for operations, and the thread that steps in when nobody waits.
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
 *      Or when small operations have waited for company long enough, and nobody else has handed them over.
 *   3. The pump again, every TICK_NS while operations are in flight, for what else may need a hand (a short transfer
 *      to be resumed, a request that the kernel dropped); less often where somebody leads. An idle queue's pump is
 *      parked and costs nothing.
 *
 * Backends with worker threads (threads) or none (sync) need no pump: whoever finishes a request calls
 * gio_queue_advance.
 */
#include "internal.h"

#include <stdlib.h>

/* Long enough that a hundred wake-ups a second cost nothing, short enough that nobody notices a request which had to
 * be resumed with nobody waiting for it. */
static const int64_t TICK_NS = 10 * 1000 * 1000;

/* While somebody leads there is nothing to look for, and whoever leaves a backlog behind calls. */
static const int64_t LED_TICK_NS = 100 * 1000 * 1000;

/* Who submits is often about to wait, and then leads at no cost. Less than what is in flight keeps a device busy for. */
static const int64_t PATIENCE_NS = 200 * 1000;

/* Small operations that wait for company wait no longer than this, or twice this while others are being submitted. */
static const int64_t COMPANY_NS = 250 * 1000;

/* ---- waking -------------------------------------------------------------------------------------------- */

static void wake_waiters(gio_queue *queue)
{
    if (queue->led && queue->backend->wake)
        queue->backend->wake(queue); /* it sleeps for this one, perhaps, and has no completion to wait for */
    if (queue->followers)
        gio_condition_wake_all(&queue->changed);
}

void gio_queue_operation_finished(gio_queue *queue)
{
    queue->stats.finished++;
    wake_waiters(queue);
    for (uint32_t i = 0; i < queue->listener_count; i++)
        if (queue->listeners[i].event != queue->quiet)
            gio_event_set(queue->listeners[i].event);
}

static int nobody_attends(const gio_queue *queue)
{
    return !queue->led && queue->followers == 0 && queue->requests_started != 0 &&
           (queue->backlog.count != 0 || queue->waiting_writes != 0 || queue->behind != 0 || queue->unattended_count != 0);
}

/* Something has been started, and nobody is there yet who is going to hand it over. */
static int waits_for_company(const gio_queue *queue)
{
    return queue->sequence != queue->submitted && !queue->led && queue->followers == 0;
}

void gio_queue_call_attention(gio_queue *queue)
{
    if (queue->backend->sleep == NULL)
        return;
    if (!queue->led && queue->followers && queue->requests_started)
        gio_condition_wake_all(&queue->changed); /* one of them takes the lead */
    else if (!queue->pump_patient &&
             (queue->pump_parked ? queue->live != 0 : nobody_attends(queue) || waits_for_company(queue)))
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

/* Hands over what has waited for company long enough. Goes on looking for as long as operations are submitted, so that
 * nobody has to wake it for each. */
static void pump_company(gio_queue *queue)
{
    uint64_t operations;

    do {
        uint64_t submitted = queue->submitted;
        operations = queue->stats.operations;
        queue->pump_patient = 1;
        pump_sleep(queue, COMPANY_NS);
        queue->pump_patient = 0;
        if (waits_for_company(queue) && queue->submitted == submitted)
            gio_queue_advance(queue);
    } while (!queue->pump_stop && !nobody_attends(queue) && operations != queue->stats.operations);
}

void *gio_queue_pump(void *argument)
{
    gio_queue *queue = argument;
    int leading = 0;

    gio_mutex_lock(&queue->mutex);
    while (!queue->pump_stop) {
        if (waits_for_company(queue) && !nobody_attends(queue))
            pump_company(queue);
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
int32_t gio_queue_wait_until(gio_queue *queue, int (*ready)(gio_queue *, void *), void *argument, int64_t timeout_ns)
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
            gio_condition_wait(&queue->changed, &queue->mutex, gio_refused_until(queue, deadline_ns));
            queue->followers--;
        } else {
            int64_t until_ns = gio_refused_until(queue, deadline_ns);
            if (until_ns != deadline_ns)
                left_ns = until_ns - gio_now_ns();
            code = lead(queue, until_ns < 0 ? -1 : left_ns < 0 ? 0 : left_ns); /* INTERRUPTED is told after one more look */
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

static int64_t left_until(int64_t deadline_ns)
{
    int64_t now_ns = gio_now_ns();
    return deadline_ns < 0 ? -1 : deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

static int any_finished(gio_queue *queue, void *woken)
{
    return queue->finished_first != queue->finished_end || (woken && *(const int32_t *)woken);
}

static int file_idle(gio_queue *queue, void *file)
{
    (void)queue;
    return ((gio_file *)file)->operations == 0;
}

static int is_filled(gio_queue *queue, void *completion)
{
    (void)queue;
    return ((const gio_completion *)completion)->result != GIO_PENDING;
}

int32_t gio_operation_wait(gio_queue *queue, const gio_completion *completion, int64_t timeout_ns)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    code = gio_queue_wait_until(queue, is_filled, (void *)completion, timeout_ns);
    gio_mutex_unlock(&queue->mutex);
    return code;
}

typedef struct {
    const gio_completion *const *at;
    uint64_t count;
} completions;

static int is_any_filled(gio_queue *queue, void *list_)
{
    const completions *list = list_;
    for (uint64_t i = 0; i < list->count; i++)
        if (is_filled(queue, (void *)list->at[i]))
            return 1;
    return 0;
}

int32_t gio_operation_wait_any(gio_queue *queue, const gio_completion *const *at, uint64_t count, int64_t timeout_ns)
{
    completions list = {at, count};
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    code = gio_queue_wait_until(queue, is_any_filled, &list, timeout_ns);
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_transfer(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                     uint64_t user_data, int64_t timeout_ns, gio_completion *completion)
{
    gio_queue *queue = file->queue;
    gio_segment memory = {(uint64_t)(uintptr_t)address, nbytes};
    gio_operation wanted = gio_operation_on(file, direction, &memory, offset, completion);

    int32_t code = gio_operation_begin(&wanted);
    if (code)
        return code;
    code = gio_queue_wait_until(queue, is_filled, completion, timeout_ns);
    gio_operation *operation = gio_operation_find(queue, completion->ticket);
    if (operation)
        operation->user_data = user_data;
    else
        code = 0;
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
    code = gio_queue_wait_until(queue, file_idle, file, timeout_ns);
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_queue_peek(gio_queue *queue, int64_t timeout_ns, gio_event *listener, const int32_t *woken, uint64_t *user_data,
                       uint32_t max, uint32_t *count, uint64_t *position)
{
    int32_t code = gio_queue_usable(queue);
    *count = 0;
    if (code)
        return code;
    int64_t deadline_ns = gio_deadline_ns(timeout_ns), left_ns = timeout_ns;
    gio_mutex_lock(&queue->mutex);
    queue->quiet = listener;
    if (timeout_ns == 0)
        gio_queue_advance(queue);
    else
        while ((code = gio_queue_wait_until(queue, any_finished, (void *)woken, left_ns)) == 0 &&
               !any_finished(queue, (void *)woken)) /* the lock was let go of, and another thread has seen it */
            left_ns = left_until(deadline_ns);
    queue->quiet = NULL;
    uint64_t at = queue->finished_first;
    for (; at != queue->finished_end && *count < max; at++)
        user_data[(*count)++] = queue->finished[at & (queue->finished_room - 1)];
    *position = at;
    if (at != queue->finished_end && listener)
        gio_event_set(listener); /* there was no room for this one */
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return *count ? 0 : code;
}

int32_t gio_queue_seen(gio_queue *queue, uint64_t position)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    queue->finished_first = gio_max(queue->finished_first, gio_min(position, queue->finished_end));
    gio_mutex_unlock(&queue->mutex);
    return 0;
}

int32_t gio_queue_wake(gio_queue *queue, int32_t *woken)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    *woken = 1;
    wake_waiters(queue);
    gio_queue_advance(queue); /* hands over what wakes one who sleeps in the backend */
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return 0;
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
        if (queue->finished_first != queue->finished_end)
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

int32_t gio_listening_begin(gio_queue *queue, gio_event *event, int32_t attended, gio_listening *begun)
{
    int32_t code = gio_queue_listen(queue, event, attended);
    if (code)
        return code;
    gio_queue_count_holder(queue, +1);
    *begun = (gio_listening){queue, event};
    return 0;
}

void gio_listening_end(gio_event **place, gio_listening *begun)
{
    gio_queue *queue = begun->queue;
    (void)place;
    if (queue == NULL)
        return;
    begun->queue = NULL;
    gio_queue_unlisten(queue, begun->event);
    gio_queue_count_holder(queue, -1);
}
