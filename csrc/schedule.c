/* schedule.c: from operations to requests.
 *
 * gio_queue_advance, called by whoever holds the lock and has reason to think that something can move (a submitter, a waiter,
 * the queue's own thread, a worker), looks at every result that came back and starts as many pieces of the backlog as there is
 * room for, one piece of each operation in turn, so that a small read does not queue behind a large write.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Those that were refused, and whose pause is over. */
static int start_refused(gio_queue *queue)
{
    gio_request *request = gio_refused_take(queue);

    if (request == NULL)
        return 0;
    if (request->operation->cancelling) {
        gio_request_settle_failure(queue, request, gio_code_cancelled());
    } else {
        queue->stats.retried++;
        gio_request_start(queue, request);
    }
    return 1;
}

/* What is behind a failure does not begin: it would lengthen the file beyond what is there. 0, or the failure. */
static int32_t why_not_begin(const gio_operation *operation)
{
    return operation->cancelling ? GIO_E_CANCELLED : operation->code;
}

/* A staged piece is planned once, however often it is looked at before there is a buffer for it. */
static void plan_ahead(gio_operation *operation, gio_segment *segments)
{
    gio_planned *ahead = &operation->ahead;

    if (!ahead->there)
        gio_plan_next(operation, &operation->file->limits, segments, &ahead->piece, &ahead->after);
    ahead->there = ahead->piece.route == GIO_STAGED;
}

/* Tests make a shortage here. 0, or its code. */
static int32_t meets_shortage(gio_queue *queue)
{
    if (queue->fault.kind != GIO_FAULT_STAGE || queue->fault.count == 0)
        return 0;
    if (queue->fault.after != 0) {
        queue->fault.after--;
        return 0;
    }
    queue->fault.count--;
    return (int32_t)queue->fault.value;
}

/* One that is counted already. Lock held, and let go of meanwhile: the operation counts as in flight, and nobody else starts
 * its next piece. */
static int32_t make_stage(gio_queue *queue, gio_operation *operation, int kind, gio_stage **stage)
{
    operation->ahead.making = 1;
    operation->requests++;
    gio_mutex_unlock(&queue->mutex);
    int32_t code = gio_stage_make(kind, stage);
    gio_mutex_lock(&queue->mutex);
    operation->requests--;
    operation->ahead.making = 0;
    return code;
}

/* A buffer for the piece that is next, and a request for it. NULL: the operation has to wait until the queue gets back one
 * of its own (0), or something else has changed (1). Lock held, and let go of while a buffer is made. */
static int find_stage(gio_queue *queue, gio_operation *operation, gio_stage **stage)
{
    int kind = gio_stage_kind(operation->ahead.piece.file_length);

    if (operation->ahead.making || !gio_stage_take(&queue->staging, kind, stage))
        return 0;
    int32_t code = meets_shortage(queue);
    if (code == 0 && *stage)
        return 1;
    if (code == 0)
        code = make_stage(queue, operation, kind, stage);
    int goes_on = operation->state == GIO_WAITING;
    if (code == 0 && goes_on && queue->free_requests)
        return 1;
    if (*stage)
        gio_stage_give(&queue->staging, *stage);
    else
        gio_stage_go_without(&queue->staging, kind);
    *stage = NULL;
    if (code && goes_on && queue->staging.used[kind] != 0)
        return 0; /* the queue goes on with those it has */
    if (code && goes_on)
        gio_operation_break_off(queue, operation, code, operation->planned);
    gio_operation_finish_if_done(queue, operation);
    return 1;
}

/* The free request that has been made ready for `operation` becomes its own. */
static void take_request(gio_queue *queue, gio_operation *operation, gio_request *request, gio_verb verb)
{
    queue->free_requests = request->next;
    request->operation = operation;
    request->verb = verb;
    request->cursor = operation->cursor;
    request->segment_first = 0;
    request->segment_count = request->piece.segment_count;
    request->from = request->reached = 0;
    request->retries = request->doubts = 0;
    request->refused_ns = 0;
    request->suspect = 0;
    request->most = UINT64_MAX;
    request->stage = NULL;
    request->leader = NULL;
    gio_request_count(queue, request, +1);
}

/* The same for one that is a call: a request that moves no bytes. */
static void start_call(gio_queue *queue, gio_operation *operation)
{
    gio_request *request = queue->free_requests;

    memset(&request->piece, 0, sizeof request->piece);
    take_request(queue, operation, request, GIO_CALL);
    request->sequence = 0;
    gio_operation_stop_planning(queue, operation);
    gio_request_start(queue, request);
}

/* Plans the next piece for a request that is free yet. 0, or why there is none. */
static int32_t plan_piece(const gio_queue *queue, gio_operation *operation, gio_request *request)
{
    int several = operation->segment_count > 1 && operation->offsets == NULL;

    if (several && request->many == NULL)
        request->many = malloc((size_t)queue->system.max_segments * sizeof *request->many);
    if (several && request->many == NULL)
        return gio_code_no_memory();
    request->segments = several ? request->many : &request->single;
    plan_ahead(operation, request->segments);
    return operation->ahead.piece.code;
}

/* The request gets what was planned, and the operation goes on behind it. */
static void take_piece(gio_queue *queue, gio_operation *operation, gio_request *request)
{
    gio_piece *piece = &request->piece;

    *piece = operation->ahead.piece;
    operation->ahead.there = 0;
    take_request(queue, operation, request, GIO_TRANSFER);
    if (operation->direction == GIO_WRITE)
        gio_writes_add(request);
    operation->cursor = operation->ahead.after;
    operation->planned = piece->end;
    if (operation->planned == operation->length)
        gio_operation_stop_planning(queue, operation);
    queue->stats.ragged += piece->route == GIO_RAGGED;
    queue->stats.staged += piece->route == GIO_STAGED;
}

/* Has the bytes travel through a staging buffer. 0, or why the request does not begin. Lock held, and let go of meanwhile. */
static int32_t fill_stage(gio_queue *queue, gio_operation *operation, gio_request *request, gio_stage *stage)
{
    const gio_piece *piece = &request->piece;

    request->stage = stage;
    request->single.address = (uint64_t)(uintptr_t)stage->memory;
    request->single.length = piece->file_length;
    request->segments = &request->single;
    if (operation->direction == GIO_READ)
        return 0;
    gio_queue_hand_over(queue);      /* the device works while we copy */
    gio_mutex_unlock(&queue->mutex); /* the request counts as in flight, so nothing can go away */
    int32_t code = gio_copy_from_segments(operation, request->cursor, stage->memory, piece->end - piece->begin);
    gio_mutex_lock(&queue->mutex);
    return code ? code : why_not_begin(operation);
}

/* Takes a free request for the next piece of `operation` and starts it. 0: it has to wait. */
static int start_piece(gio_queue *queue, gio_operation *operation)
{
    if (operation->call) {
        start_call(queue, operation);
        return 1;
    }
    int32_t code = plan_piece(queue, operation, queue->free_requests);
    if (code) {
        gio_operation_break_off(queue, operation, code, operation->planned);
        gio_operation_finish_if_done(queue, operation);
        return 1;
    }
    gio_stage *stage = NULL;
    if (operation->ahead.piece.route == GIO_STAGED) {
        int news = find_stage(queue, operation, &stage);
        if (stage == NULL)
            return news;
    }
    gio_request *request = queue->free_requests; /* another one than before, perhaps */
    take_piece(queue, operation, request);
    if (stage)
        code = fill_stage(queue, operation, request, stage);
    if (code)
        gio_request_end(queue, request, code);
    else
        gio_request_start_in_turn(queue, request);
    return 1;
}

/* Those whose turn has come since other writes ended. */
static int start_waiting(gio_queue *queue)
{
    int any = 0;

    if (!queue->write_ended)
        return 0;
    queue->write_ended = 0;
    for (uint32_t i = 0; i < queue->depth && queue->waiting_writes != 0; i++) {
        gio_request *request = &queue->requests[i];
        const gio_operation *operation = request->operation;
        if (operation == NULL || request->stands != GIO_WAITS)
            continue;
        int32_t code = why_not_begin(operation);
        if (code == 0 && gio_writes_must_wait(request))
            continue;
        any = 1;
        queue->waiting_writes--;
        request->stands = GIO_PREPARING;
        if (code)
            gio_request_end(queue, request, code);
        else
            gio_request_start(queue, request);
    }
    return any;
}

/* One piece of each waiting operation in turn, until there is no room or each of them has to wait. */
static int start_backlog(gio_queue *queue)
{
    /* The list is turned at each look, so that the next time, at the next completion, others are looked at. With nothing
     * in flight there will be none: then all are. */
    enum { LOOKS = 32, FIRST = 4, FIRST_BYTES = 1 << 20 };
    int any = 0;
    for (uint64_t passed = 0;
         passed < queue->backlog.count && (passed < LOOKS || queue->bytes_in_flight == 0);) {
        if (queue->free_requests == NULL || queue->shelved != NULL ||
            (queue->bytes_in_flight != 0 && queue->bytes_in_flight >= queue->bytes_in_flight_max))
            break;
        gio_operation *operation = queue->backlog.first;
        gio_list_remove(&queue->backlog, operation);
        gio_list_append(&queue->backlog, operation);
        if (!start_piece(queue, operation)) {
            passed++;
            continue;
        }
        any = 1, passed = 0;
        /* Of many small ones an idle device begins with the first while we prepare the rest. */
        if (queue->requests_started == FIRST && queue->bytes_in_flight < FIRST_BYTES && queue->batches == 0)
            gio_queue_hand_over(queue);
    }
    return any;
}

/* Lock held, and let go of meanwhile. */
static int trim_stages(gio_queue *queue)
{
    if (!queue->staging.trims)
        return 0;
    queue->staging.trims = 0;
    queue->inside++;
    gio_mutex_unlock(&queue->mutex);
    gio_staging_trim();
    gio_mutex_lock(&queue->mutex);
    queue->inside--;
    return 1;
}

int gio_queue_prepare(gio_queue *queue)
{
    int news = 0, any;

    if (queue->closed)
        return 0;
    do {
        /* While a thread sleeps in the backend for all of us, it alone takes completions off: one that was taken
         * away under a thread just about to sleep would leave it asleep. */
        if (queue->backend->reap && !queue->led)
            queue->backend->reap(queue);
        for (any = 0; queue->shelved && queue->requests_started == 0 && queue->returned == NULL; any = 1)
            gio_request_unshelve(queue); /* one that was cancelled ends, and starts nothing */
        any |= gio_requests_settle(queue) | start_refused(queue) | start_waiting(queue) | start_backlog(queue) | trim_stages(queue);
        news |= any;
    } while (any);
    return news;
}

int gio_queue_hand_over(gio_queue *queue)
{
    if (queue->closed)
        return 0;
    queue->submitted = queue->sequence;
    queue->inside++;
    int more = queue->backend->submit(queue);
    queue->inside--;
    return more;
}

void gio_queue_advance(gio_queue *queue)
{
    do
        gio_queue_prepare(queue);
    while (gio_queue_hand_over(queue));
}
