/* operation.c: the life of an operation, from gio_submit to its completion. The same on every system.
 *
 *     FREE -> (BEHIND ->) WAITING -> COVERED -> FREE
 *
 * gio_submit puts an operation on the queue's backlog, once what comes first in its file has finished (order.c). schedule.c
 * makes requests of it. When every byte belongs to one the operation is COVERED, and with its last request it has finished: its
 * completion is filled, its name goes onto the ring of those that have, and the place is free for another.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- lists --------------------------------------------------------------------------------------------- */

void gio_list_append(gio_operation_list *list, gio_operation *operation)
{
    operation->next = NULL;
    operation->previous = list->last;
    if (list->last)
        list->last->next = operation;
    else
        list->first = operation;
    list->last = operation;
    list->count++;
}

void gio_list_remove(gio_operation_list *list, gio_operation *operation)
{
    if (operation->previous)
        operation->previous->next = operation->next;
    else
        list->first = operation->next;
    if (operation->next)
        operation->next->previous = operation->previous;
    else
        list->last = operation->previous;
    list->count--;
}

/* ---- operations ---------------------------------------------------------------------------------------- */

/* Memory of operations is kept until the queue is freed: a stale ticket finds a newer generation, never a hole. */
static int32_t more_operations(gio_queue *queue)
{
    uint64_t count = queue->operation_count + GIO_OPERATIONS_PER_BLOCK;
    if (count >> GIO_INDEX_BITS)
        return gio_code_no_memory();
    gio_operation **table = realloc(queue->operations, (size_t)count * sizeof *table);
    if (table == NULL)
        return gio_code_no_memory();
    queue->operations = table;
    gio_operation *block = calloc(GIO_OPERATIONS_PER_BLOCK, sizeof *block);
    if (block == NULL)
        return gio_code_no_memory();
    for (uint64_t i = 0; i < GIO_OPERATIONS_PER_BLOCK; i++) {
        block[i].ticket = queue->operation_count + i; /* its index; generation 0 is never handed out */
        table[queue->operation_count + i] = &block[i];
        gio_list_append(&queue->free_operations, &block[i]);
    }
    queue->operation_count = count;
    return 0;
}

gio_operation *gio_operation_find(gio_queue *queue, uint64_t ticket)
{
    uint64_t index = ticket & (((uint64_t)1 << GIO_INDEX_BITS) - 1);
    gio_operation *operation = index < queue->operation_count ? queue->operations[index] : NULL;
    return operation && operation->ticket == ticket && operation->state != GIO_FREE ? operation : NULL;
}

/* Room for the names of all that are live, and of one more, so that finishing cannot fail. */
static int32_t more_room_for_finished(gio_queue *queue)
{
    uint64_t room = queue->finished_room ? queue->finished_room : 64;
    while (room <= queue->finished_end - queue->finished_first + queue->live)
        room *= 2;
    if (room == queue->finished_room)
        return 0;
    uint64_t *grown = malloc((size_t)room * sizeof *grown);
    if (grown == NULL)
        return gio_code_no_memory();
    for (uint64_t at = queue->finished_first; at != queue->finished_end; at++)
        grown[at & (room - 1)] = queue->finished[at & (queue->finished_room - 1)];
    free(queue->finished);
    queue->finished = grown;
    queue->finished_room = room;
    return 0;
}

/* No byte beyond those planned is going to belong to a request. */
void gio_operation_stop_planning(gio_queue *queue, gio_operation *operation)
{
    if (operation->state == GIO_WAITING)
        gio_list_remove(&queue->backlog, operation);
    else if (operation->state == GIO_BEHIND)
        queue->behind--;
    operation->state = GIO_COVERED;
}

/* From `position` on (bytes from the start) nothing is sure to have been moved: because of `code`, or because the
 * file ends there (code 0). Of several failures the one nearest to the start is told. */
void gio_operation_break_off(gio_queue *queue, gio_operation *operation, int32_t code, uint64_t position)
{
    if (code && (operation->code == 0 || position < operation->intact))
        operation->code = code;
    operation->intact = gio_min(operation->intact, position);
    gio_operation_stop_planning(queue, operation);
}

void gio_operation_finish_if_done(gio_queue *queue, gio_operation *operation)
{
    gio_file *file = operation->file;

    if (operation->state != GIO_COVERED || operation->requests != 0)
        return;
    *(operation->direction == GIO_WRITE ? &queue->stats.bytes_written : &queue->stats.bytes_read) +=
        operation->intact;
    file->operations--;
    gio_order_remove(operation);
    queue->live--;
    if (operation->user_data)
        queue->finished[queue->finished_end++ & (queue->finished_room - 1)] = operation->user_data;
    gio_completion *completion = operation->completion;
    completion->in_place = operation->intact;
    operation->state = GIO_FREE;
    gio_list_append(&queue->free_operations, operation);
    gio_publish(&completion->result, /* its last use: from here on it is not ours */
                operation->code ? -(int64_t)operation->code : (int64_t)operation->intact);
    gio_queue_operation_finished(queue);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* It is asked for: what has not begun does not begin, perhaps. */
static void cancel(gio_queue *queue, gio_request *request)
{
    const gio_backend *backend = request->operation->file->backend;

    if (request->verb == GIO_CALL && backend->leaves_calls)
        gio_workers_cancel(queue, request);
    else if (backend->cancel)
        backend->cancel(queue, request);
}

/* ---- the backlog --------------------------------------------------------------------------------------- */

/* A small operation waits for company where company is there (Nagle's rule): while the kernel is busy with others, it is
 * handed over together with up to seven more, or by whoever looks or waits next, or by the pump if nobody does. In a batch the
 * first one waits, too. Who sleeps already would not look before the next completion, which may take long. */
static int may_submit_later(const gio_queue *queue, uint64_t length)
{
    enum { TOGETHER = 8, SMALL_BYTES = 64 * 1024 };
    uint64_t waiting = queue->sequence - queue->submitted;

    if (queue->backend->sleep == NULL || queue->led || queue->followers != 0)
        return 0;
    if (waiting >= TOGETHER || length > SMALL_BYTES)
        return 0;
    return queue->batches != 0 || queue->requests_started > waiting;
}

/* ---- from outside -------------------------------------------------------------------------------------- */

/* A copy of `wanted` that has a ticket. There is a free one, and room for its name. */
static gio_operation *make_operation(gio_queue *queue, const gio_operation *wanted)
{
    gio_operation *operation = queue->free_operations.first;
    uint64_t index = operation->ticket & (((uint64_t)1 << GIO_INDEX_BITS) - 1);

    gio_list_remove(&queue->free_operations, operation);
    *operation = *wanted;
    operation->ticket = ++queue->generation << GIO_INDEX_BITS | index;
    if (operation->segment_count == 1) {
        operation->only = *wanted->segments;
        operation->segments = &operation->only;
    }
    operation->intact = operation->length;
    operation->completion->result = GIO_PENDING;
    operation->completion->ticket = operation->ticket;
    operation->state = gio_order_lets_begin(operation) ? GIO_WAITING : GIO_BEHIND;
    if (operation->state == GIO_WAITING)
        gio_list_append(&queue->backlog, operation);
    else
        queue->behind++;
    gio_order_add(operation);
    operation->file->operations++;
    queue->live++;
    queue->stats.operations++;
    return operation;
}

int32_t gio_operation_begin(gio_operation *wanted)
{
    gio_queue *queue = wanted->file->queue;
    int32_t code = gio_queue_usable(queue);

    if (code)
        return code;
    if (wanted->offset > INT64_MAX || wanted->length > (uint64_t)INT64_MAX - wanted->offset)
        return gio_code_invalid();
    /* A call asks when it is made. The queue's lock is not held: it may take a round trip to a server. */
    int32_t refused = wanted->call ? 0 : gio_locks_check_operation(wanted);
    gio_mutex_lock(&queue->mutex);
    if (queue->closing || wanted->file->closed)
        code = GIO_E_CLOSED;
    else if (queue->free_operations.first == NULL)
        code = more_operations(queue);
    if (code == 0)
        code = more_room_for_finished(queue);
    if (code) {
        gio_mutex_unlock(&queue->mutex);
        return code;
    }
    gio_operation *operation = make_operation(queue, wanted);
    if (refused)
        gio_operation_break_off(queue, operation, refused, 0);
    if (operation->length == 0 && !operation->call) /* touches nothing */
        gio_operation_stop_planning(queue, operation);
    gio_operation_finish_if_done(queue, operation);
    gio_queue_prepare(queue);
    return 0;
}

static int32_t submit(gio_operation *wanted)
{
    gio_queue *queue = wanted->file->queue;
    int32_t code = gio_operation_begin(wanted);

    if (code)
        return code;
    if (!may_submit_later(queue, wanted->length) && gio_queue_hand_over(queue))
        gio_queue_advance(queue);
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return 0;
}

static gio_operation describe(gio_file *file, int32_t direction, const gio_segment *segments, uint64_t count,
                              int32_t staging, gio_completion *completion)
{
    gio_operation wanted;

    memset(&wanted, 0, sizeof wanted);
    wanted.file = file;
    wanted.direction = direction & GIO_WRITE;
    wanted.anonymous = (direction & GIO_ANONYMOUS) != 0;
    wanted.segments = segments;
    wanted.segment_count = count;
    wanted.staging = staging;
    wanted.completion = completion;
    return wanted;
}

gio_operation gio_operation_on(gio_file *file, int32_t direction, const gio_segment *memory, uint64_t offset,
                               gio_completion *completion)
{
    gio_operation wanted = describe(file, direction, memory, 1, GIO_STAGE_RAGGED, completion);

    wanted.offset = offset;
    wanted.length = memory->length;
    return wanted;
}

int32_t gio_submit(gio_file *file, int32_t direction, const gio_segment *segments, uint64_t count, uint64_t offset,
                   int32_t staging, uint64_t user_data, gio_completion *completion)
{
    gio_operation wanted = describe(file, direction, segments, count, staging, completion);

    wanted.user_data = user_data;
    wanted.offset = offset;
    for (uint64_t i = 0; i < count; i++) {
        if (segments[i].length > (uint64_t)INT64_MAX - wanted.length)
            return gio_code_invalid();
        wanted.length += segments[i].length;
    }
    return submit(&wanted);
}

int32_t gio_submit_batch(gio_file *file, int32_t direction, const gio_segment *segments, const uint64_t *offsets,
                         uint64_t count, uint64_t user_data, gio_completion *completion)
{
    gio_operation wanted = describe(file, direction, segments, count, GIO_STAGE_RAGGED, completion);

    wanted.user_data = user_data;
    wanted.offsets = offsets;
    for (uint64_t i = 0; i < count; i++) {
        if (segments[i].length > (uint64_t)INT64_MAX - wanted.length ||
            offsets[i] > (uint64_t)INT64_MAX - segments[i].length)
            return gio_code_invalid();
        wanted.length += segments[i].length;
    }
    return submit(&wanted);
}

int32_t gio_submit_one(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                       uint64_t user_data, gio_completion *completion)
{
    gio_segment segment = {(uint64_t)(uintptr_t)address, nbytes};
    gio_operation wanted = gio_operation_on(file, direction, &segment, offset, completion);

    wanted.user_data = user_data;
    return submit(&wanted);
}

/* Workers for calls are made when the first one is submitted. */
static int32_t open_workers(gio_queue *queue)
{
    int32_t code = gio_queue_enter(queue);

    if (code == 0) {
        code = gio_workers_open(queue);
        gio_queue_leave(queue);
    }
    return code;
}

int32_t gio_submit_call(gio_file *file, int32_t call, uint64_t size, uint64_t user_data, gio_completion *completion)
{
    gio_operation wanted = describe(file, GIO_READ, NULL, 0, GIO_STAGE_NOTHING, completion);
    int32_t code = gio_queue_usable(file->queue);

    if (code)
        return code;
    if (call < GIO_CALL_FLUSH || call > GIO_CALL_RESIZE || size > INT64_MAX)
        return gio_code_invalid();
    if (file->backend->leaves_calls && (code = open_workers(file->queue)) != 0)
        return code;
    wanted.user_data = user_data;
    wanted.call = call;
    wanted.size = size;
    return submit(&wanted);
}

int32_t gio_operation_cancel(gio_queue *queue, const gio_completion *completion)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    gio_operation *operation = gio_operation_find(queue, completion->ticket);
    if (operation == NULL) {
        code = GIO_E_GONE;
    } else if (!operation->cancelling) {
        operation->cancelling = 1;
        if (operation->state != GIO_COVERED)
            gio_operation_break_off(queue, operation, GIO_E_CANCELLED, operation->planned);
        queue->write_ended = 1; /* those that wait are looked at */
        for (uint32_t i = 0; i < queue->depth && operation->requests != 0; i++)
            if (queue->requests[i].operation == operation && queue->requests[i].stands == GIO_STARTED)
                cancel(queue, &queue->requests[i]);
        gio_operation_finish_if_done(queue, operation);
        gio_queue_advance(queue);
        gio_queue_call_attention(queue);
    }
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_queue_fault(gio_queue *queue, int32_t fault, uint64_t after, uint64_t count, uint64_t value)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    if (value > INT32_MAX) /* a count or a code that no request brings back */
        return gio_code_invalid();
    gio_mutex_lock(&queue->mutex);
    queue->fault.kind = fault;
    queue->fault.after = after;
    queue->fault.count = count;
    queue->fault.value = value;
    while (fault == GIO_FAULT_NONE && queue->held) {
        gio_request *request = queue->held;
        queue->held = request->next;
        gio_request_append_returned(queue, request);
    }
    gio_queue_advance(queue);
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return 0;
}
