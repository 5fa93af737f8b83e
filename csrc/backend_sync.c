/* backend_sync.c: does the transfer at submission, in the submitting thread. The reference: when another backend and
 * this one disagree, the other one is wrong. Its operations are finished when gio_submit returns. */
#include "internal.h"

static int32_t sync_open(gio_queue *queue)
{
    (void)queue;
    return 0;
}

static void sync_close(gio_queue *queue)
{
    (void)queue;
}

static void sync_start(gio_queue *queue, gio_request *request)
{
    gio_request_returned(queue, request, gio_os_transfer(request));
}

static void sync_submit(gio_queue *queue)
{
    (void)queue;
}

const gio_backend gio_backend_sync = {
    .name = "sync",
    .open = sync_open,
    .close = sync_close,
    .start = sync_start,
    .submit = sync_submit,
};
