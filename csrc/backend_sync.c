/* backend_sync.c: does the transfer at submission, in the submitting thread. The reference: when another backend and
 * this one disagree, the other one is wrong. Its operations are finished when gio_submit returns, but for what another
 * thread has taken off the list meanwhile.
 */
#include "internal.h"

#include <stdlib.h>

static int32_t sync_open(gio_queue *queue)
{
    queue->backend_state = calloc(1, sizeof(gio_request_list)); /* started, and in nobody's hands yet */
    return queue->backend_state ? 0 : gio_code_no_memory();
}

static void sync_close(gio_queue *queue)
{
    free(queue->backend_state);
}

static void sync_start(gio_queue *queue, gio_request *request)
{
    gio_requests_append(queue->backend_state, request);
}

static int sync_submit(gio_queue *queue)
{
    gio_request *request;
    int any = 0;

    while ((request = gio_requests_take(queue->backend_state)) != NULL) {
        gio_mutex_unlock(&queue->mutex);
        int64_t result = gio_request_carry_out(request);
        gio_mutex_lock(&queue->mutex);
        gio_request_returned(queue, request, result);
        any = 1;
    }
    if (!any && queue->refused) { /* nobody else would start it again */
        gio_condition_wait(&queue->changed, &queue->mutex, gio_refused_until(queue, -1));
        any = 1;
    }
    return any;
}

const gio_backend gio_backend_sync = {
    .name = "sync",
    .open = sync_open,
    .close = sync_close,
    .start = sync_start,
    .submit = sync_submit,
};
