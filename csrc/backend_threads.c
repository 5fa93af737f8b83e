/* backend_threads.c: preadv2 and pwritev2 from a small pool of threads (workers.c), for a Linux that has no io_uring or
 * forbids it, and for the files that io_uring cannot serve. */
#include "internal.h"

static void threads_close(gio_queue *queue)
{
    (void)queue; /* the workers go with the queue, whichever its backend is */
}

static int threads_submit(gio_queue *queue)
{
    (void)queue; /* the workers have seen it already */
    return 0;
}

const gio_backend gio_backend_threads = {
    .name = "threads",
    .open = gio_workers_open,
    .close = threads_close,
    .start = gio_workers_start,
    .submit = threads_submit,
    .cancel = gio_workers_cancel,
};
