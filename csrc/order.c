/* order.c: which operations of a file come one behind the other, which writes of a file may not be under way together, and
 * which requests of a write come last. Looks at the file's lists, and starts nothing: that is schedule.c's.
 *
 * Of operations, in the order of submission: a flush and a barrier (GIO_CALL_RESIZE; GIO_CALL_RESERVE on Windows) begin when
 * they are the oldest. What is newer than a barrier begins once that has gone. Each is looked at when it is submitted, when
 * the barrier in front of it goes, and when it becomes the oldest: with thousands in flight that costs no more.
 *
 * Of writes three rules, each for a reader or a neighbour that the kernel does not protect:
 *
 *   - Nothing is written to the page cache (a ragged end) while a write around it is under way where one folio of the cache
 *     may hold bytes of both. A folio is what the cache keeps in one piece: a page, or, on file systems with large folios,
 *     up to a huge page. The direct write throws away what the cache has of its range before it begins, dirty folios
 *     after writing them back, and once more when it is done; a folio that has become dirty meanwhile cannot be thrown
 *     away. The kernel then notes an I/O error for the file, and goes on with old bytes in the cache, which the next ragged
 *     end would write to the disk.
 *   - The last bytes of a write that are no whole page come last: they would make the file longer than what is there, and a
 *     reader who trusts the length would see zeros.
 *   - For the same reason what makes a file longer goes in the order of the file, where the requests are so large that the
 *     order costs next to nothing (IN_ORDER_BYTES).
 *
 * Writes are in the list from before their bytes are copied until their end. Each waits only for those before it, or for
 * those that have been started, so that one of them can always go on. Different operations are in no order but the
 * first rule's.
 */
#include "internal.h"

/* ---- operations ------------------------------------------------------------------------------------------ */

static int is_barrier(const gio_operation *operation)
{
    return operation->call == GIO_CALL_RESIZE || (operation->call == GIO_CALL_RESERVE && gio_reserve_is_alone);
}

static int comes_after_all(const gio_operation *operation)
{
    return operation->call == GIO_CALL_FLUSH || is_barrier(operation);
}

int gio_order_lets_begin(const gio_operation *operation)
{
    const gio_file *file = operation->file;
    return file->barrier == NULL && (file->oldest == NULL || !comes_after_all(operation));
}

void gio_order_add(gio_operation *operation)
{
    gio_file *file = operation->file;

    operation->newer = NULL;
    operation->older = file->newest;
    *(file->newest ? &file->newest->newer : &file->oldest) = operation;
    file->newest = operation;
    if (file->barrier == NULL && is_barrier(operation))
        file->barrier = operation;
}

static void let_begin(gio_operation *operation)
{
    if (operation->state == GIO_BEHIND) {
        operation->state = GIO_WAITING;
        operation->file->queue->behind--;
        gio_list_append(&operation->file->queue->backlog, operation);
    }
}

void gio_order_remove(gio_operation *operation)
{
    gio_file *file = operation->file;
    gio_operation *at = operation->newer;

    *(operation->older ? &operation->older->newer : &file->oldest) = operation->newer;
    *(operation->newer ? &operation->newer->older : &file->newest) = operation->older;
    if (operation == file->barrier) {
        for (; at && !is_barrier(at); at = at->newer)
            if (!comes_after_all(at))
                let_begin(at);
        file->barrier = at;
    }
    if (file->oldest)
        let_begin(file->oldest);
}

/* ---- writes ---------------------------------------------------------------------------------------------- */

/* File systems carry out one extending write after the other anyway. Measured: requests of 4 MiB one by one into ext4 run
 * at 0.98 to 1.04 of the rate of many at once, those of 1 MiB at 0.81. */
static const uint64_t IN_ORDER_BYTES = 4 * 1024 * 1024;

void gio_writes_add(gio_request *request)
{
    gio_operation *operation = request->operation;
    gio_file *file = operation->file;
    const gio_piece *piece = &request->piece;
    int ragged = piece->route == GIO_RAGGED;

    request->stands = GIO_PREPARING;
    request->number = ++file->writes_begun;
    request->behind = NULL;
    request->in_order = operation->offsets == NULL &&
                        ((ragged && piece->end == operation->length) ||
                         (file->limits.request_bytes >= IN_ORDER_BYTES &&
                          operation->offset + operation->length > file->known_end));
    request->previous_write = file->last_write;
    request->next_write = NULL;
    *(file->last_write ? &file->last_write->next_write : &file->first_write) = request;
    file->last_write = request;
    file->ragged += (uint64_t)ragged;
}

void gio_writes_remove(gio_request *request)
{
    gio_file *file = request->operation->file;

    *(request->previous_write ? &request->previous_write->next_write : &file->first_write) = request->next_write;
    *(request->next_write ? &request->next_write->previous_write : &file->last_write) = request->previous_write;
    file->ragged -= (uint64_t)(request->piece.route == GIO_RAGGED);
}

void gio_writes_go_ragged(gio_request *request)
{
    request->operation->file->ragged += request->piece.route != GIO_RAGGED;
}

/* Whether one folio may hold bytes of both. */
static int are_near(const gio_piece *one, const gio_piece *other, uint64_t folio)
{
    return gio_round_down(one->file_offset, folio) < other->file_offset + other->file_length &&
           gio_round_down(other->file_offset, folio) < one->file_offset + one->file_length;
}

/* Whether `request` has to wait for `other`, which may be a request of any kind. */
static int is_in_the_way(const gio_request *request, const gio_request *other)
{
    const gio_operation *operation = request->operation;
    const gio_file *file = operation->file;
    int is_before = other->number < request->number;

    if (other == request || other->operation == NULL || other->operation->file != file ||
        other->operation->direction != GIO_WRITE || (!is_before && other->stands != GIO_STARTED))
        return 0;
    if (is_before && request->in_order && other->operation == operation)
        return 1;
    int fills_cache = other->piece.route == GIO_RAGGED && other->verb == GIO_TRANSFER;
    return file->handle != file->buffered_handle &&
           (request->piece.route == GIO_RAGGED ? other->piece.route != GIO_RAGGED : fills_cache) &&
           are_near(&request->piece, &other->piece, file->folio_bytes);
}

int gio_writes_must_wait(gio_request *request)
{
    const gio_file *file = request->operation->file;

    if (!request->in_order && (file->ragged == 0 || file->handle == file->buffered_handle))
        return 0;
    if (request->behind && is_in_the_way(request, request->behind))
        return 1; /* still, most often: in a deep queue it would take long to look at all */
    for (request->behind = file->first_write; request->behind; request->behind = request->behind->next_write)
        if (is_in_the_way(request, request->behind))
            return 1;
    return 0;
}

/* ---- ragged ends on their way to the disk ---------------------------------------------------------------- */

/* Whole blocks: what the kernel writes back. */
gio_range gio_writes_blocks(const gio_request *request)
{
    uint64_t block = request->operation->file->limits.ragged_bytes;
    gio_range range;
    range.begin = gio_round_down(request->piece.file_offset, block);
    range.end = gio_round_up(request->piece.file_offset + request->piece.file_length, block);
    return range;
}

/* The kernel tells an error to one of those who ask about a file together, whosever the bytes were. So one asks at a time,
 * for all that have been cached meanwhile, wherever in the file; what is written again after an error asks alone. */
gio_request *gio_writes_group(gio_file *file)
{
    enum { GROUP_BYTES_MAX = 1 << 30 }; /* io_uring counts in 32 bits */
    gio_request *leader = NULL;

    for (gio_request *at = file->first_write; at; at = at->next_write) {
        if (at->verb == GIO_WRITE_BACK)
            return NULL;
        if (leader == NULL && at->verb == GIO_CACHED)
            leader = at;
    }
    if (leader == NULL)
        return NULL;
    gio_range range = gio_writes_blocks(leader);
    leader->verb = GIO_WRITE_BACK;
    leader->leader = leader;
    for (gio_request *at = leader->next_write; at && leader->doubts == 0; at = at->next_write) {
        gio_range own = gio_writes_blocks(at);
        uint64_t begin = gio_min(range.begin, own.begin), end = gio_max(range.end, own.end);
        if (at->verb != GIO_CACHED || at->doubts != 0 || end - begin > GROUP_BYTES_MAX)
            continue;
        range.begin = begin;
        range.end = end;
        at->verb = GIO_CARRIED;
        at->leader = leader;
    }
    leader->write_back = range;
    return leader;
}

/* Whether the kernel tells its errors to those who ask on the same descriptor: the first of them. */
static int shares_errors(const gio_request *write)
{
    const gio_file *file = write->operation->file;
    return write->piece.route == GIO_RAGGED || (file->durable && file->handle == file->buffered_handle);
}

void gio_writes_suspect(gio_file *file, int32_t code)
{
    for (gio_request *at = file->first_write; at; at = at->next_write)
        if (shares_errors(at) && (at->verb == GIO_CACHED || (at->verb == GIO_TRANSFER && at->stands == GIO_STARTED)))
            at->suspect = code;
}
