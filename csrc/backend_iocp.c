/* backend_iocp.c: overlapped calls and a completion port.
 *
 * A completion port is a queue in the kernel. Each handle is bound to it once, when it is opened, and from then on
 * every call on the handle that the system accepts ends as one packet in the port, in whatever order. The packet brings
 * the address of the call's OVERLAPPED, and that is a request's own: element i of `calls` is request i's. A call that
 * finishes while it is being made sends its packet, too (we do not ask for FILE_SKIP_COMPLETION_PORT_ON_SUCCESS), so that
 * "finished at once" and "pending" are one case; one that is refused sends none.
 *
 * The rules that this rests on:
 *
 *   - The OVERLAPPED, the list of pages and the pages themselves stay where they are until the packet has been taken off;
 *     what the OVERLAPPED says before that means nothing.
 *   - GetQueuedCompletionStatusEx returns TRUE when it took off packets, also those of failed calls: each result is
 *     looked at for itself (gio_overlapped_result).
 *   - CancelIoEx asks. The packet still comes, with ERROR_OPERATION_ABORTED or with the full result.
 *   - A thread that exits takes its pending calls with it only where the handle is not bound to a port.
 *
 * Who makes the call? The submitting thread, where Windows only takes note of it. But it carries some calls out while the
 * caller waits: writes beyond what the file has had written to it so far, all of a compressed or encrypted file, and
 * writes through the cache, which throttles. These go to the issuer, a thread of the queue's own that is made when it is
 * first needed, and count as `handed_over`.
 */
#include "os_windows.h"

#include <stdlib.h>

enum { PACKETS_MAX = 64 }; /* taken off in one call */

typedef struct {
    gio_queue *queue;
    HANDLE handle;
    gio_overlapped_call *calls; /* one for each request of the queue */
    int32_t woken; /* a packet of no call is on its way, */
    int32_t wakes; /* or is to be sent */
    gio_request_list started; /* their calls are to be made by who hands over */

    gio_thread issuer;
    gio_condition work;
    gio_request_list waiting; /* for the issuer */
    int32_t issuer_started, stop;
} port;

static gio_overlapped_call *call_of(const gio_queue *queue, const gio_request *request)
{
    return &((port *)queue->backend_state)->calls[request - queue->requests];
}

/* ---- making calls --------------------------------------------------------------------------------------- */

/* Whether it was refused. The lock is let go of meanwhile, and once the call is accepted its packet may be settled, and the
 * request be another's, before we are back. */
static int make_call(gio_queue *queue, gio_request *request)
{
    gio_mutex_unlock(&queue->mutex);
    DWORD error = gio_overlapped_issue(call_of(queue, request), request);
    gio_mutex_lock(&queue->mutex);
    if (error)
        gio_request_returned(queue, request, gio_overlapped_failure(request, error));
    return error != 0;
}

static void *issuer(void *argument)
{
    port *port = argument;
    gio_queue *queue = port->queue;

    gio_mutex_lock(&queue->mutex);
    for (;;) {
        gio_request *request = gio_requests_take(&port->waiting);
        if (request == NULL) {
            if (port->stop)
                break;
            gio_condition_wait(&port->work, &queue->mutex, -1);
            continue;
        }
        if (make_call(queue, request))
            gio_queue_advance(queue);
    }
    gio_mutex_unlock(&queue->mutex);
    return NULL;
}

/* Whether Windows may carry the request out while the caller waits. */
static int may_block(const gio_request *request)
{
    const gio_file *file = request->operation->file;
    const gio_piece *piece = &request->piece;

    if (file->may_block)
        return 1;
    if (request->operation->direction == GIO_READ)
        return 0;
    return gio_request_handle(request) == file->buffered_handle ||
           piece->file_offset + piece->file_length > file->valid_end;
}

static int hand_over(gio_queue *queue, gio_request *request)
{
    port *port = queue->backend_state;

    if (!port->issuer_started) {
        if (gio_thread_start(&port->issuer, issuer, port))
            return 0; /* then the caller has to wait */
        port->issuer_started = 1;
    }
    gio_requests_append(&port->waiting, request);
    queue->stats.handed_over++;
    gio_condition_wake_one(&port->work);
    return 1;
}

static void iocp_start(gio_queue *queue, gio_request *request)
{
    if (may_block(request) && hand_over(queue, request))
        return;
    gio_requests_append(&((port *)queue->backend_state)->started, request);
}

static void post_wake(gio_queue *queue)
{
    port *port = queue->backend_state;

    if (!port->wakes)
        return;
    port->wakes = 0;
    gio_mutex_unlock(&queue->mutex);
    BOOL sent = PostQueuedCompletionStatus(port->handle, 0, 0, NULL);
    gio_mutex_lock(&queue->mutex);
    if (!sent)
        port->woken = 0;
}

static int iocp_submit(gio_queue *queue)
{
    port *port = queue->backend_state;
    gio_request *request;
    int refused = 0;

    while ((request = gio_requests_take(&port->started)) != NULL)
        refused |= make_call(queue, request);
    post_wake(queue);
    return refused;
}

/* What nobody has taken yet ends here; the system is asked to drop the rest. */
static void iocp_cancel(gio_queue *queue, gio_request *request)
{
    port *port = queue->backend_state;

    if (gio_requests_remove(&port->waiting, request) || gio_requests_remove(&port->started, request))
        gio_request_returned(queue, request, -(int64_t)gio_code_cancelled());
    else
        CancelIoEx((HANDLE)(intptr_t)gio_request_handle(request), &call_of(queue, request)->overlapped);
}

/* ---- packets -------------------------------------------------------------------------------------------- */

static void settle_packets(gio_queue *queue, const OVERLAPPED_ENTRY *packets, ULONG count)
{
    port *port = queue->backend_state;

    for (ULONG i = 0; i < count; i++) {
        OVERLAPPED *overlapped = packets[i].lpOverlapped;
        if (overlapped == NULL) {
            port->woken = 0;
            continue;
        }
        gio_overlapped_call *call = CONTAINING_RECORD(overlapped, gio_overlapped_call, overlapped);
        gio_request *request = &queue->requests[call - port->calls];
        gio_request_returned(queue, request, gio_overlapped_result(call, request, FALSE));
    }
}

/* Takes off what is there, or what arrives within the time, without the lock, and settles it. */
static int32_t take_packets(gio_queue *queue, DWORD timeout_ms)
{
    port *port = queue->backend_state;
    OVERLAPPED_ENTRY packets[PACKETS_MAX];
    ULONG count = 0;

    gio_mutex_unlock(&queue->mutex);
    BOOL taken = GetQueuedCompletionStatusEx(port->handle, packets, PACKETS_MAX, &count, timeout_ms, FALSE);
    DWORD error = taken ? 0 : GetLastError();
    gio_mutex_lock(&queue->mutex);
    if (taken)
        settle_packets(queue, packets, count);
    return error == WAIT_TIMEOUT ? GIO_E_TIMEOUT : (int32_t)error;
}

/* A packet of no call makes the sleeper look up. */
static void iocp_wake(gio_queue *queue)
{
    port *port = queue->backend_state;
    if (!port->woken)
        port->woken = port->wakes = 1;
}

/* One who goes to sleep while we are at it may find nothing, and his wake-up be what we have taken: he gets another one. */
static void iocp_reap(gio_queue *queue)
{
    const port *port = queue->backend_state;
    int any = 0;

    queue->inside++;
    while ((queue->requests_started != 0 || port->woken) && !queue->led && take_packets(queue, 0) == 0)
        any = 1;
    if (any && queue->led) {
        iocp_wake(queue);
        post_wake(queue);
    }
    queue->inside--;
}

static int32_t iocp_sleep(gio_queue *queue, int64_t timeout_ns)
{
    iocp_submit(queue);
    if (queue->returned)
        return 0; /* a call was refused */
    return take_packets(queue, gio_milliseconds(timeout_ns));
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static int32_t iocp_open(gio_queue *queue)
{
    port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return ERROR_NOT_ENOUGH_MEMORY;
    port->queue = queue;
    port->calls = calloc(queue->depth, sizeof *port->calls);
    port->handle = port->calls ? CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0) : NULL;
    if (port->handle == NULL) {
        int32_t code = port->calls ? (int32_t)GetLastError() : ERROR_NOT_ENOUGH_MEMORY;
        free(port->calls);
        free(port);
        return code;
    }
    gio_condition_init(&port->work);
    queue->backend_state = port;
    return 0;
}

static void iocp_close(gio_queue *queue)
{
    port *port = queue->backend_state;

    gio_mutex_lock(&queue->mutex);
    port->stop = 1;
    gio_condition_wake_all(&port->work);
    gio_mutex_unlock(&queue->mutex);
    if (port->issuer_started)
        gio_thread_join(&port->issuer);
    gio_condition_destroy(&port->work);
    CloseHandle(port->handle);
    for (uint32_t i = 0; i < queue->depth; i++)
        gio_overlapped_free(&port->calls[i]);
    free(port->calls);
    free(port);
}

static int32_t bind_handle(port *port, int64_t handle)
{
    return CreateIoCompletionPort((HANDLE)(intptr_t)handle, port->handle, 0, 0) ? 0 : (int32_t)GetLastError();
}

static int32_t iocp_adopt(gio_queue *queue, gio_file *file, int32_t *why)
{
    (void)why;
    int32_t code = bind_handle(queue->backend_state, file->handle);
    return code || file->buffered_handle == file->handle ? code : bind_handle(queue->backend_state, file->buffered_handle);
}

const gio_backend gio_backend_iocp = {
    .name = "iocp",
    .leaves_calls = 1,
    .open = iocp_open,
    .close = iocp_close,
    .start = iocp_start,
    .submit = iocp_submit,
    .reap = iocp_reap,
    .cancel = iocp_cancel,
    .sleep = iocp_sleep,
    .wake = iocp_wake,
    .adopt = iocp_adopt,
};
