/* request.c: the life of a request, which carries one piece of an operation: it starts, comes back, goes on, ends.
 *
 * One function looks at each result and moves the request on: settle(). Its rule for short transfers: what is left is tried
 * from the very next byte on, through the page cache where no direct transfer can begin there; if that reaches no further, it
 * is the end of the file for a read and an error for a write.
 */
#include "internal.h"

/* A request is started again this often without progress after EINTR or a cancellation that nobody asked for (the kernel cancels
 * what waits in a worker queue of a thread that exits). More than chance explains. */
enum { RETRIES_MAX = 64 };

/* The kernel notes that a write-back of the file has failed, whoever's it was, and tells it to each descriptor that asks for
 * stable storage next, once. So a write that is told an error then is done again; one that fails three times is our own. */
enum { DOUBTS_MAX = 2 };

/* ---- lists --------------------------------------------------------------------------------------------- */

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

/* ---- requests ------------------------------------------------------------------------------------------ */

/* Tests make rare events here: what a request brought back is told differently, or later. */
static int meets_fault(gio_queue *queue, gio_request *request)
{
    if (queue->fault.kind == GIO_FAULT_NONE || queue->fault.kind == GIO_FAULT_STAGE || queue->fault.count == 0 ||
        (request->verb != GIO_TRANSFER && request->verb != GIO_CALL))
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

void gio_request_append_returned(gio_queue *queue, gio_request *request)
{
    request->next = NULL;
    *queue->returned_end = request;
    queue->returned_end = &request->next;
}

void gio_request_returned(gio_queue *queue, gio_request *request, int64_t result)
{
    queue->requests_started -= request->verb != GIO_CALL;
    request->result = result;
    if (meets_fault(queue, request)) {
        request->next = queue->held;
        queue->held = request;
    } else {
        gio_request_append_returned(queue, request);
    }
}

void gio_request_start(gio_queue *queue, gio_request *request)
{
    const gio_backend *backend = request->operation->file->backend;
    int several = request->segment_count - request->segment_first > 1;

    if (request->verb == GIO_TRANSFER && request->operation->direction == GIO_WRITE)
        ++*(several ? &queue->stats.gathers : &queue->stats.writes);
    else if (request->verb == GIO_TRANSFER)
        ++*(several ? &queue->stats.scatters : &queue->stats.reads);
    request->stands = GIO_STARTED;
    if (request->verb != GIO_CALL) { /* which nobody has to hand over, or to reap */
        request->sequence = ++queue->sequence;
        queue->requests_started++;
    }
    (request->verb == GIO_CALL && backend->leaves_calls ? gio_workers_start : backend->start)(queue, request);
}

int64_t gio_request_carry_out(const gio_request *request)
{
    return request->verb == GIO_CALL ? -(int64_t)gio_file_call(request->operation) : gio_os_transfer(request);
}

/* A write may have to wait for others of its file. One that was under way and goes on later is no longer waited for by those
 * in front of it. */
void gio_request_start_in_turn(gio_queue *queue, gio_request *request)
{
    if (request->operation->direction == GIO_WRITE && gio_writes_must_wait(request)) {
        queue->write_ended |= request->stands == GIO_STARTED;
        request->stands = GIO_WAITS;
        queue->waiting_writes++;
    } else {
        gio_request_start(queue, request);
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
void gio_request_count(gio_queue *queue, const gio_request *request, int step)
{
    queue->bytes_in_flight += (uint64_t)((int64_t)step * (int64_t)request->piece.file_length);
    request->operation->requests += (uint32_t)step;
}

/* ---- the end of a request -------------------------------------------------------------------------------- */

/* The request is over, with `reached` bytes of it moved. */
void gio_request_end(gio_queue *queue, gio_request *request, int32_t code)
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
        gio_operation_break_off(queue, operation, code, piece->begin + moved);
    gio_request_count(queue, request, -1);
    request->operation = NULL;
    request->next = queue->free_requests;
    queue->free_requests = request;
    gio_operation_finish_if_done(queue, operation);
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
            gio_request_end(queue, request, code);
            return;
        }
        request->most = gio_round_up(tried / 2, request->operation->file->limits.ragged_bytes);
    }
    request->next = queue->shelved;
    queue->shelved = request;
}

void gio_request_unshelve(gio_queue *queue)
{
    gio_request *request = queue->shelved;
    queue->shelved = request->next;
    if (request->operation->cancelling) {
        gio_request_end(queue, request, GIO_E_CANCELLED);
    } else {
        queue->stats.retried++;
        gio_request_start(queue, request);
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
        gio_request_start(queue, leader);
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
    gio_request_start_in_turn(queue, request);
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
    gio_request_end(queue, request, request->operation->cancelling ? GIO_E_CANCELLED : request->suspect);
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
            gio_request_end(queue, at, 0);
        else if (!write_again(queue, at)) {
            at->reached = 0; /* its bytes are in the page cache and may never reach the disk */
            gio_request_end(queue, at, dropped && at->operation->cancelling ? GIO_E_CANCELLED : code);
        }
    }
    write_back(queue, file);
}

/* ---- results ----------------------------------------------------------------------------------------------- */

static void settle_failed_call(gio_queue *queue, gio_request *request, int32_t code)
{
    const gio_operation *operation = request->operation;
    int once_more = gio_code_is_transient(code) || code == GIO_E_INTERRUPTED;

    if (once_more && !operation->cancelling && request->retries++ < RETRIES_MAX) {
        gio_request_start(queue, request);
        return;
    }
    if ((once_more || gio_code_is_cancelled(code)) && operation->cancelling)
        code = GIO_E_CANCELLED;
    else if (code == GIO_E_INTERRUPTED)
        code = GIO_E_NO_PROGRESS;
    if (operation->call == GIO_CALL_FLUSH && gio_code_is_doubtful(code))
        gio_writes_suspect(operation->file, code); /* it has been told what is now told nobody else */
    gio_request_end(queue, request, code);
}

/* Nobody knows whether anything was moved by this start. */
void gio_request_settle_failure(gio_queue *queue, gio_request *request, int32_t code)
{
    gio_operation *operation = request->operation;
    int for_now = gio_code_is_for_now(code);
    if (for_now && operation->cancelling)
        code = gio_code_cancelled();
    int dropped = gio_code_is_cancelled(code);

    if (gio_code_is_shortage(code) && !operation->cancelling) {
        shelve(queue, request, code);
    } else if (for_now && !dropped && gio_refused_add(queue, request)) {
        return;
    } else if (!for_now && (gio_code_is_transient(code) || (dropped && !operation->cancelling)) &&
               request->retries++ < RETRIES_MAX) {
        queue->stats.retried++;
        gio_request_start(queue, request);
    } else if (request->verb == GIO_WRITE_BACK) {
        settle_write_back(queue, request, code);
    } else if (operation->direction == GIO_WRITE && operation->file->durable && gio_code_is_doubtful(code)) {
        if (request->piece.route == GIO_RAGGED)
            gio_writes_suspect(operation->file, code);
        if (!write_again(queue, request))
            gio_request_end(queue, request, code);
    } else {
        gio_request_end(queue, request, dropped && operation->cancelling ? GIO_E_CANCELLED : code);
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
    gio_request_start_in_turn(queue, request);
    return 1;
}

/* Looks at one result and moves the request on. */
static void settle(gio_queue *queue, gio_request *request)
{
    gio_operation *operation = request->operation;
    gio_file *file = operation->file;
    gio_piece *piece = &request->piece;

    if (request->result < 0) {
        (request->verb == GIO_CALL ? settle_failed_call : gio_request_settle_failure)(queue, request, (int32_t)-request->result);
        return;
    }
    if (queue->shelved)
        gio_request_unshelve(queue);
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
        request->refused_ns = 0;
    }
    if (request->reached == piece->file_length && request->suspect) {
        settle_suspect(queue, request);
    } else if (request->reached == piece->file_length && piece->route == GIO_RAGGED &&
               operation->direction == GIO_WRITE && !file->writes_through) {
        request->verb = GIO_CACHED;
        queue->write_ended = 1;
        write_back(queue, file);
    } else if (request->reached == piece->file_length) {
        gio_request_end(queue, request, 0);
    } else if (further && operation->cancelling) {
        gio_request_end(queue, request, GIO_E_CANCELLED);
    } else if (!resume(queue, request, further)) {
        gio_request_end(queue, request, operation->direction == GIO_WRITE ? GIO_E_NO_PROGRESS : 0);
    }
}

int gio_requests_settle(gio_queue *queue)
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
