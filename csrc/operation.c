/* operation.c: the life of an operation, from gio_submit to its outcome. The same on every system.
 *
 *     FREE -> WAITING -> COVERED -> FINISHED -> FREE
 *
 * gio_submit puts an operation on the queue's backlog. gio_queue_advance, called by whoever holds the lock and has
 * reason to think that something can move (a submitter, a waiter, the queue's own thread, a worker of the threads
 * backend), looks at every result that came back and starts as many pieces of the backlog as there is room for,
 * one piece of each operation in turn, so that a small read does not queue behind a large write. When every byte
 * belongs to a request the operation is COVERED, and FINISHED with its last request.
 *
 * One function moves each request on: settle(). Its rule for short transfers: what is left is tried from the very next byte
 * on, through the page cache where no direct transfer can begin there; if that reaches no further, it is the end of the
 * file for a read and an error for a write.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* A request is started again this often without progress after EINTR, EAGAIN or a cancellation that nobody asked
 * for (the kernel cancels what waits in a worker queue of a thread that exits). More than chance explains. */
enum { RETRIES_MAX = 64 };

/* The kernel notes that a write-back of the file has failed, whoever's it was, and tells it to each descriptor that asks for
 * stable storage next, once. So a write that is told an error then is done again; one that fails three times is our own. */
enum { DOUBTS_MAX = 2 };

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

void gio_requests_append(gio_request_list *list, gio_request *request)
{
    request->next = NULL;
    if (list->first)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

gio_request *gio_requests_take(gio_request_list *list)
{
    gio_request *request = list->first;
    if (request)
        list->first = request->next;
    return request;
}

int gio_requests_remove(gio_request_list *list, const gio_request *request)
{
    gio_request *previous = NULL;
    for (gio_request *at = list->first; at; previous = at, at = at->next)
        if (at == request) {
            *(previous ? &previous->next : &list->first) = at->next;
            if (list->last == at)
                list->last = previous;
            return 1;
        }
    return 0;
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

void gio_operation_tell(const gio_operation *operation, gio_outcome *outcome)
{
    outcome->key = operation->key;
    outcome->ticket = operation->ticket;
    outcome->code = operation->code;
    outcome->reserved = 0;
    outcome->in_place = operation->intact;
    outcome->transferred = operation->code ? 0 : operation->intact;
}

void gio_operation_release(gio_queue *queue, gio_operation *operation)
{
    if (!operation->is_private)
        gio_list_remove(&queue->finished, operation);
    operation->state = GIO_FREE;
    gio_list_append(&queue->free_operations, operation);
}

/* No byte beyond those planned is going to belong to a request. */
static void stop_planning(gio_queue *queue, gio_operation *operation)
{
    if (operation->state == GIO_WAITING) {
        gio_list_remove(&queue->backlog, operation);
        operation->state = GIO_COVERED;
    }
}

/* From `position` on (bytes from the start) nothing is sure to have been moved: because of `code`, or because the
 * file ends there (code 0). Of several failures the one nearest to the start is told. */
static void break_off(gio_queue *queue, gio_operation *operation, int32_t code, uint64_t position)
{
    if (code && (operation->code == 0 || position < operation->intact))
        operation->code = code;
    operation->intact = gio_min(operation->intact, position);
    stop_planning(queue, operation);
}

static void finish_if_done(gio_queue *queue, gio_operation *operation)
{
    gio_file *file = operation->file;

    if (operation->state != GIO_COVERED || operation->requests != 0)
        return;
    *(operation->direction == GIO_WRITE ? &queue->stats.bytes_written : &queue->stats.bytes_read) +=
        operation->intact;
    operation->state = GIO_FINISHED;
    if (!operation->is_private)
        gio_list_append(&queue->finished, operation);
    file->operations--;
    queue->live--;
    gio_queue_operation_finished(queue);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* Tests make rare events here: what a request brought back is told differently, or later. */
static int meets_fault(gio_queue *queue, gio_request *request)
{
    if (queue->fault.kind == GIO_FAULT_NONE || queue->fault.kind == GIO_FAULT_STAGE || request->verb != GIO_TRANSFER ||
        queue->fault.count == 0)
        return 0;
    if (queue->fault.after != 0) {
        queue->fault.after--;
        return 0;
    }
    queue->fault.count--;
    if (queue->fault.kind == GIO_FAULT_SHORT && request->result > (int64_t)queue->fault.value)
        request->result = (int64_t)queue->fault.value;
    if (queue->fault.kind == GIO_FAULT_FAIL)
        request->result = -(int64_t)queue->fault.value;
    return queue->fault.kind == GIO_FAULT_HOLD;
}

static void append_returned(gio_queue *queue, gio_request *request)
{
    request->next = NULL;
    *queue->returned_end = request;
    queue->returned_end = &request->next;
}

void gio_request_returned(gio_queue *queue, gio_request *request, int64_t result)
{
    queue->requests_started--;
    request->result = result;
    if (meets_fault(queue, request)) {
        request->next = queue->held;
        queue->held = request;
    } else {
        append_returned(queue, request);
    }
}

static void start(gio_queue *queue, gio_request *request)
{
    int several = request->segment_count - request->segment_first > 1;

    if (request->verb == GIO_TRANSFER && request->operation->direction == GIO_WRITE)
        ++*(several ? &queue->stats.gathers : &queue->stats.writes);
    else if (request->verb == GIO_TRANSFER)
        ++*(several ? &queue->stats.scatters : &queue->stats.reads);
    request->stands = GIO_STARTED;
    request->sequence = ++queue->sequence;
    queue->requests_started++;
    request->operation->file->backend->start(queue, request);
}

/* A write may have to wait for others of its file. One that was under way and goes on later is no longer waited for by those
 * in front of it. */
static void start_in_turn(gio_queue *queue, gio_request *request)
{
    if (request->operation->direction == GIO_WRITE && gio_writes_must_wait(request)) {
        queue->write_ended |= request->stands == GIO_STARTED;
        request->stands = GIO_WAITS;
        queue->waiting_writes++;
    } else {
        start(queue, request);
    }
}

/* Leaves the first `nbytes` out of the request's segments. */
static void skip_segments(gio_request *request, uint64_t nbytes)
{
    while (nbytes != 0) {
        gio_segment *segment = &request->segments[request->segment_first];
        uint64_t take = gio_min(nbytes, segment->length);
        segment->address += take;
        segment->length -= take;
        nbytes -= take;
        if (segment->length == 0)
            request->segment_first++;
    }
}

/* Counts of what is in flight, up (+1) and down (-1). */
static void count_request(gio_queue *queue, const gio_request *request, int step)
{
    queue->bytes_in_flight += (uint64_t)((int64_t)step * (int64_t)request->piece.file_length);
    request->operation->requests += (uint32_t)step;
}

/* ---- the end of a request -------------------------------------------------------------------------------- */

/* The request is over, with `reached` bytes of it moved. */
static void end_request(gio_queue *queue, gio_request *request, int32_t code)
{
    gio_operation *operation = request->operation;
    gio_piece *piece = &request->piece;
    uint64_t moved =
        request->reached > piece->head ? gio_min(request->reached - piece->head, piece->end - piece->begin) : 0;

    if (request->stage) {
        if (operation->direction == GIO_READ && moved != 0) {
            gio_queue_hand_over(queue);      /* the device works while we copy */
            gio_mutex_unlock(&queue->mutex); /* the request still counts as in flight, so nothing can go away */
            int32_t copied =
                gio_copy_to_segments(operation, request->cursor, (char *)request->stage->memory + piece->head, moved);
            gio_mutex_lock(&queue->mutex);
            if (copied)
                code = copied, moved = 0;
        }
        gio_stage_give(&queue->staging, request->stage);
        request->stage = NULL;
    }
    if (operation->direction == GIO_WRITE) {
        gio_writes_remove(request);
        queue->write_ended = 1;
    }
    if (operation->direction == GIO_WRITE && moved != 0) {
        operation->file->known_end = gio_max(operation->file->known_end, piece->file_offset + moved);
        operation->file->valid_end = gio_max(operation->file->valid_end, piece->file_offset + moved);
    }
    if (code == 0 && moved < piece->end - piece->begin && operation->offsets)
        operation->intact = gio_min(operation->intact, piece->begin + moved); /* the other places are none beyond it */
    else if (code || moved < piece->end - piece->begin)
        break_off(queue, operation, code, piece->begin + moved);
    count_request(queue, request, -1);
    request->operation = NULL;
    request->next = queue->free_requests;
    queue->free_requests = request;
    finish_if_done(queue, operation);
}

/* The system could not take the request: too much memory is locked by what is in flight, ours or others'. Fewer bytes
 * are in flight from now on, and this one waits until another has ended. One that is refused when it is alone is too
 * large: half of it is tried, down to a block. */
static void shelve(gio_queue *queue, gio_request *request, int32_t code)
{
    const gio_piece *piece = &request->piece;

    queue->bytes_in_flight_max = gio_max(queue->bytes_in_flight_max / 2, queue->request_bytes);
    if (queue->requests_started == 0) {
        uint64_t tried = gio_min(request->most, piece->file_length - request->from);
        if (tried <= request->operation->file->limits.ragged_bytes) {
            end_request(queue, request, code);
            return;
        }
        request->most = gio_round_up(tried / 2, request->operation->file->limits.ragged_bytes);
    }
    request->next = queue->shelved;
    queue->shelved = request;
}

static void unshelve(gio_queue *queue)
{
    gio_request *request = queue->shelved;
    queue->shelved = request->next;
    if (request->operation->cancelling) {
        end_request(queue, request, GIO_E_CANCELLED);
    } else {
        queue->stats.retried++;
        start(queue, request);
    }
}

/* ---- ragged ends on their way to the disk ---------------------------------------------------------------- */

/* Pushes out what stands in the page cache, so that an error shows now and the bytes are as much on the device as those that
 * went directly. All of a file's ends go together: a stream of small appends so costs a wait for the device now and then,
 * not one each. */
static void write_back(gio_queue *queue, gio_file *file)
{
    gio_request *leader = gio_writes_group(file);
    if (leader)
        start(queue, leader);
}

/* Once more from the start. 0: that is not possible, or not wanted. */
static int write_anew(gio_queue *queue, gio_request *request)
{
    if (request->from != 0 || request->operation->cancelling)
        return 0;
    request->verb = GIO_TRANSFER;
    request->reached = 0;
    request->suspect = 0;
    queue->stats.retried++;
    start_in_turn(queue, request);
    return 1;
}

/* The same after an error of its own, which may be that of another write. 0: it has been told often enough. */
static int write_again(gio_queue *queue, gio_request *request)
{
    return request->doubts < DOUBTS_MAX && ++request->doubts && write_anew(queue, request);
}

/* Another write was told an error that may be about this one. */
static void settle_suspect(gio_queue *queue, gio_request *request)
{
    if (write_anew(queue, request))
        return;
    request->reached = 0;
    end_request(queue, request, request->operation->cancelling ? GIO_E_CANCELLED : request->suspect);
}

static void drop_cache(gio_file *file, const gio_request *leader)
{
    gio_range run = {0, 0};

    for (const gio_request *at = file->first_write; at; at = at->next_write) {
        gio_range own = gio_writes_blocks(at);
        if (at->leader != leader)
            continue;
        if (own.begin > run.end || own.end < run.begin) { /* they do not touch */
            if (run.end)
                gio_os_drop_cache(file, run.begin, run.end - run.begin);
            run = own;
        }
        run.begin = gio_min(run.begin, own.begin);
        run.end = gio_max(run.end, own.end);
    }
    gio_os_drop_cache(file, run.begin, run.end - run.begin);
}

/* The leader has come back, and with it what it carried. */
static void settle_write_back(gio_queue *queue, gio_request *leader, int32_t code)
{
    gio_file *file = leader->operation->file;
    int dropped = gio_code_is_cancelled(code);

    if (code == 0)
        drop_cache(file, leader);
    else if (!dropped)
        gio_writes_suspect(file, code);
    for (gio_request *at = file->first_write, *next; at; at = next) {
        next = at->next_write;
        if (at->leader != leader) {
            if (at->verb == GIO_CACHED && at->suspect)
                settle_suspect(queue, at);
            continue;
        }
        at->leader = NULL;
        if (dropped && at != leader)
            at->verb = GIO_CACHED; /* it was another one that was cancelled */
        else if (code == 0)
            end_request(queue, at, 0);
        else if (!write_again(queue, at)) {
            at->reached = 0; /* its bytes are in the page cache and may never reach the disk */
            end_request(queue, at, dropped && at->operation->cancelling ? GIO_E_CANCELLED : code);
        }
    }
    write_back(queue, file);
}

/* ---- results ----------------------------------------------------------------------------------------------- */

/* Nobody knows whether anything was moved by this start. */
static void settle_failure(gio_queue *queue, gio_request *request, int32_t code)
{
    gio_operation *operation = request->operation;
    int dropped = gio_code_is_cancelled(code);

    if (gio_code_is_shortage(code) && !operation->cancelling) {
        shelve(queue, request, code);
    } else if ((gio_code_is_transient(code) || (dropped && !operation->cancelling)) &&
               request->retries++ < RETRIES_MAX) {
        queue->stats.retried++;
        start(queue, request);
    } else if (request->verb == GIO_WRITE_BACK) {
        settle_write_back(queue, request, code);
    } else if (operation->direction == GIO_WRITE && operation->file->durable && gio_code_is_doubtful(code)) {
        if (request->piece.route == GIO_RAGGED)
            gio_writes_suspect(operation->file, code);
        if (!write_again(queue, request))
            end_request(queue, request, code);
    } else {
        end_request(queue, request, dropped && operation->cancelling ? GIO_E_CANCELLED : code);
    }
}

/* Tries the rest of a request that came back short, `further` than before or not. 0: there is no way to go on. */
static int resume(gio_queue *queue, gio_request *request, int further)
{
    const gio_file *file = request->operation->file;
    gio_piece *piece = &request->piece;
    uint64_t block =
        piece->route == GIO_RAGGED ? 1 : gio_max(file->limits.offset_alignment, file->limits.memory_alignment);
    uint64_t from = request->reached;

    if (from % block && file->handle != file->buffered_handle) {
        if (request->operation->direction == GIO_WRITE)
            gio_writes_go_ragged(request);
        piece->route = GIO_RAGGED; /* exactly the bytes that are left */
    } else if (!further) {
        return 0;
    } else {
        from = gio_round_down(from, block);
    }
    skip_segments(request, from - request->from);
    request->from = from;
    queue->stats.resumed++;
    start_in_turn(queue, request);
    return 1;
}

/* Looks at one result and moves the request on. */
static void settle(gio_queue *queue, gio_request *request)
{
    gio_operation *operation = request->operation;
    gio_file *file = operation->file;
    gio_piece *piece = &request->piece;

    if (request->result < 0) {
        settle_failure(queue, request, (int32_t)-request->result);
        return;
    }
    if (queue->shelved)
        unshelve(queue);
    else if (queue->bytes_in_flight_max < queue->bytes_in_flight_ceiling)
        queue->bytes_in_flight_max += queue->system.page_size; /* after a shortage, slowly back */
    if (request->verb == GIO_WRITE_BACK) {
        settle_write_back(queue, request, 0);
        return;
    }
    uint64_t reached = request->from + (uint64_t)request->result;
    int further = reached > request->reached;
    if (further) {
        request->reached = reached;
        request->retries = 0;
    }
    if (request->reached == piece->file_length && request->suspect) {
        settle_suspect(queue, request);
    } else if (request->reached == piece->file_length && piece->route == GIO_RAGGED &&
               operation->direction == GIO_WRITE && !file->writes_through) {
        request->verb = GIO_CACHED;
        queue->write_ended = 1;
        write_back(queue, file);
    } else if (request->reached == piece->file_length) {
        end_request(queue, request, 0);
    } else if (further && operation->cancelling) {
        end_request(queue, request, GIO_E_CANCELLED);
    } else if (!resume(queue, request, further)) {
        end_request(queue, request, operation->direction == GIO_WRITE ? GIO_E_NO_PROGRESS : 0);
    }
}

static int settle_returned(gio_queue *queue)
{
    gio_request *request = queue->returned;
    if (request == NULL)
        return 0;
    queue->returned = request->next;
    if (queue->returned == NULL)
        queue->returned_end = &queue->returned;
    settle(queue, request);
    return 1;
}

/* ---- the backlog --------------------------------------------------------------------------------------- */

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
        break_off(queue, operation, code, operation->planned);
    finish_if_done(queue, operation);
    return 1;
}

/* Takes a free request for the next piece of `operation` and starts it. 0: it has to wait. */
static int start_piece(gio_queue *queue, gio_operation *operation)
{
    gio_request *request = queue->free_requests;

    int several = operation->segment_count > 1 && operation->offsets == NULL;

    if (several && request->many == NULL &&
        (request->many = malloc((size_t)queue->system.max_segments * sizeof *request->many)) == NULL) {
        break_off(queue, operation, gio_code_no_memory(), operation->planned);
        finish_if_done(queue, operation);
        return 1;
    }
    request->segments = several ? request->many : &request->single;
    plan_ahead(operation, request->segments);
    if (operation->ahead.piece.code) {
        break_off(queue, operation, operation->ahead.piece.code, operation->planned);
        finish_if_done(queue, operation);
        return 1;
    }
    gio_stage *stage = NULL;
    if (operation->ahead.piece.route == GIO_STAGED) {
        int news = find_stage(queue, operation, &stage);
        if (stage == NULL)
            return news;
        request = queue->free_requests; /* another one than before, perhaps */
    }
    gio_piece *piece = &request->piece;
    *piece = operation->ahead.piece;
    operation->ahead.there = 0;

    queue->free_requests = request->next;
    request->operation = operation;
    request->verb = GIO_TRANSFER;
    request->cursor = operation->cursor;
    request->segment_first = 0;
    request->segment_count = piece->segment_count;
    request->from = request->reached = 0;
    request->retries = request->doubts = 0;
    request->suspect = 0;
    request->most = UINT64_MAX;
    request->stage = stage;
    request->leader = NULL;
    count_request(queue, request, +1);
    if (operation->direction == GIO_WRITE)
        gio_writes_add(request);
    operation->cursor = operation->ahead.after;
    operation->planned = piece->end;
    if (operation->planned == operation->length)
        stop_planning(queue, operation);

    if (piece->route == GIO_RAGGED)
        queue->stats.ragged++;
    if (piece->route == GIO_STAGED) {
        queue->stats.staged++;
        request->single.address = (uint64_t)(uintptr_t)stage->memory;
        request->single.length = piece->file_length;
        request->segments = &request->single;
        if (operation->direction == GIO_WRITE) {
            gio_queue_hand_over(queue);      /* the device works while we copy */
            gio_mutex_unlock(&queue->mutex); /* the request counts as in flight, so nothing can go away */
            int32_t code =
                gio_copy_from_segments(operation, request->cursor, stage->memory, piece->end - piece->begin);
            gio_mutex_lock(&queue->mutex);
            if (code == 0)
                code = why_not_begin(operation);
            if (code) {
                end_request(queue, request, code);
                return 1;
            }
        }
    }
    start_in_turn(queue, request);
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
            end_request(queue, request, code);
        else
            start(queue, request);
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
            unshelve(queue); /* one that was cancelled ends, and starts nothing */
        any |= settle_returned(queue) | start_waiting(queue) | start_backlog(queue) | trim_stages(queue);
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

/* In a batch a few operations wait for each other. Whoever looks for completions submits them as well, and if nobody does,
 * the pump at its next tick; but who sleeps already would not look, and listeners expect to be called. */
static int may_submit_later(const gio_queue *queue)
{
    enum { TOGETHER = 8 };
    return queue->batches != 0 && queue->backend->sleep != NULL && !queue->led &&
           queue->sequence - queue->submitted < TOGETHER &&
           queue->followers == 0 && queue->listener_count == 0;
}

/* ---- locks --------------------------------------------------------------------------------------------- */

static int32_t check_range(gio_operation *operation, uint64_t offset, uint64_t length)
{
    gio_file *file = operation->file;

    if (gio_locks_bind_handle && file->handle != file->buffered_handle && gio_locks_touch(file, offset, length))
        operation->through_cache = 1;
    return gio_locks_check(file, operation->direction, offset, length, !gio_locks_bind_handle);
}

/* Of a batch first all that lies between its places: to ask about each of them costs a system call each, and there hardly
 * ever is a lock. */
static int32_t check_places(gio_operation *operation)
{
    uint64_t first = UINT64_MAX, last = 0;

    if (operation->offsets == NULL)
        return check_range(operation, operation->offset, operation->length);
    for (uint64_t i = 0; i < operation->segment_count; i++) {
        first = gio_min(first, operation->offsets[i]);
        last = gio_max(last, operation->offsets[i] + operation->segments[i].length);
    }
    if (operation->length == 0 || check_range(operation, first, last - first) == 0)
        return 0;
    operation->through_cache = 0;
    for (uint64_t i = 0; i < operation->segment_count; i++) {
        int32_t code = check_range(operation, operation->offsets[i], operation->segments[i].length);
        if (code)
            return code;
    }
    return 0;
}

/* 0, or why the operation may not be. The queue's lock is not held: to ask may take a round trip to a server. */
static int32_t check_locks(gio_operation *operation)
{
    gio_file *file = operation->file;

    if (!file->heeds_locks && !gio_locks_bind_handle)
        return 0;
    gio_mutex_lock(&file->lock_mutex);
    int32_t code = check_places(operation);
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}

/* ---- from outside -------------------------------------------------------------------------------------- */

/* A copy of `wanted` that has a ticket. There is a free one. */
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
    operation->state = GIO_WAITING;
    gio_list_append(&queue->backlog, operation);
    operation->file->operations++;
    queue->live++;
    queue->stats.operations++;
    return operation;
}

int64_t gio_operation_begin(gio_operation *wanted)
{
    gio_queue *queue = wanted->file->queue;
    int32_t code = gio_queue_usable(queue);

    if (code)
        return -(int64_t)code;
    if (wanted->offset > INT64_MAX || wanted->length > (uint64_t)INT64_MAX - wanted->offset)
        return -(int64_t)gio_code_invalid();
    int32_t refused = check_locks(wanted);
    gio_mutex_lock(&queue->mutex);
    if (queue->closing || wanted->file->closed)
        code = GIO_E_CLOSED;
    else if (queue->free_operations.first == NULL)
        code = more_operations(queue);
    if (code) {
        gio_mutex_unlock(&queue->mutex);
        return -(int64_t)code;
    }
    gio_operation *operation = make_operation(queue, wanted);
    int64_t ticket = (int64_t)operation->ticket;
    if (refused)
        break_off(queue, operation, refused, 0);
    if (operation->length == 0) /* touches nothing */
        stop_planning(queue, operation);
    finish_if_done(queue, operation);
    gio_queue_prepare(queue);
    return ticket;
}

static int64_t submit(gio_operation *wanted)
{
    gio_queue *queue = wanted->file->queue;
    int64_t ticket = gio_operation_begin(wanted);

    if (ticket < 0)
        return ticket;
    if (!may_submit_later(queue) && gio_queue_hand_over(queue))
        gio_queue_advance(queue);
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return ticket;
}

static gio_operation describe(gio_file *file, int32_t direction, const gio_segment *segments, uint64_t count,
                              int32_t staging, uint64_t key)
{
    gio_operation wanted;

    memset(&wanted, 0, sizeof wanted);
    wanted.file = file;
    wanted.direction = direction & GIO_WRITE;
    wanted.anonymous = (direction & GIO_ANONYMOUS) != 0;
    wanted.segments = segments;
    wanted.segment_count = count;
    wanted.staging = staging;
    wanted.key = key;
    return wanted;
}

gio_operation gio_operation_on(gio_file *file, int32_t direction, const gio_segment *memory, uint64_t offset,
                               uint64_t key)
{
    gio_operation wanted = describe(file, direction, memory, 1, GIO_STAGE_RAGGED, key);

    wanted.offset = offset;
    wanted.length = memory->length;
    return wanted;
}

int64_t gio_submit(gio_file *file, int32_t direction, const gio_segment *segments, uint64_t count,
                   uint64_t offset, int32_t staging, uint64_t key)
{
    gio_operation wanted = describe(file, direction, segments, count, staging, key);

    wanted.offset = offset;
    for (uint64_t i = 0; i < count; i++) {
        if (segments[i].length > (uint64_t)INT64_MAX - wanted.length)
            return -(int64_t)gio_code_invalid();
        wanted.length += segments[i].length;
    }
    return submit(&wanted);
}

int64_t gio_submit_batch(gio_file *file, int32_t direction, const gio_segment *segments, const uint64_t *offsets,
                         uint64_t count, uint64_t key)
{
    gio_operation wanted = describe(file, direction, segments, count, GIO_STAGE_RAGGED, key);

    wanted.offsets = offsets;
    for (uint64_t i = 0; i < count; i++) {
        if (segments[i].length > (uint64_t)INT64_MAX - wanted.length ||
            offsets[i] > (uint64_t)INT64_MAX - segments[i].length)
            return -(int64_t)gio_code_invalid();
        wanted.length += segments[i].length;
    }
    return submit(&wanted);
}

int64_t gio_submit_one(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                       uint64_t key)
{
    gio_segment segment = {(uint64_t)(uintptr_t)address, nbytes};
    gio_operation wanted = gio_operation_on(file, direction, &segment, offset, key);

    return submit(&wanted);
}

int32_t gio_operation_give(gio_queue *queue, uint64_t ticket)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    gio_operation *operation = gio_operation_find(queue, ticket);
    if (operation && operation->is_private) {
        operation->is_private = 0;
        if (operation->state == GIO_FINISHED)
            gio_list_append(&queue->finished, operation);
    }
    gio_mutex_unlock(&queue->mutex);
    return operation ? 0 : GIO_E_GONE;
}

int32_t gio_operation_cancel(gio_queue *queue, uint64_t ticket)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    gio_operation *operation = gio_operation_find(queue, ticket);
    if (operation == NULL || operation->state == GIO_FINISHED) {
        code = GIO_E_GONE;
    } else if (!operation->cancelling) {
        operation->cancelling = 1;
        if (operation->state == GIO_WAITING)
            break_off(queue, operation, GIO_E_CANCELLED, operation->planned);
        queue->write_ended = 1; /* those that wait are looked at */
        for (uint32_t i = 0; i < queue->depth && operation->file->backend->cancel; i++)
            if (queue->requests[i].operation == operation && queue->requests[i].stands == GIO_STARTED)
                operation->file->backend->cancel(queue, &queue->requests[i]);
        finish_if_done(queue, operation);
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
        append_returned(queue, request);
    }
    gio_queue_advance(queue);
    gio_queue_call_attention(queue);
    gio_mutex_unlock(&queue->mutex);
    return 0;
}
