/* registered.c: memory that the kernel knows, so that it need not look up and pin its pages for each request.
 *
 * Somebody asks for it and keeps the memory alive meanwhile; or it is kept without that, from one transfer to the next. What is
 * kept must be given up before its pages go: else new memory at the old address would be written from the old pages. That is why gio_pages_free is here. It is given up before a fork, too, which would copy all of it.
 */
#include "internal.h"

/* The queues of this process that can register memory. Its mutex is taken before any queue's own. Zeros are an unlocked
 * mutex on both systems. */
static struct {
    gio_mutex mutex;
    gio_queue *first;
} listed;

int32_t gio_queue_register(gio_queue *queue, void *address, uint64_t nbytes, gio_registration *made)
{
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    if (queue->closing)
        code = GIO_E_CLOSED;
    else if (queue->backend->add_memory == NULL)
        code = GIO_E_UNREGISTRABLE;
    else
        code = queue->backend->add_memory(queue, address, nbytes);
    gio_mutex_unlock(&queue->mutex);
    if (code)
        return code;
    gio_queue_count_holder(queue, 1);
    *made = (gio_registration){queue, nbytes};
    return 0;
}

/* Lock held. With the backend it has gone anyway. */
static void remove_memory(gio_queue *queue, uint64_t address, uint64_t nbytes)
{
    if (!queue->closed)
        queue->backend->remove_memory(queue, (void *)(uintptr_t)address, nbytes);
}

void gio_unregister(gio_registration *made, void *address)
{
    gio_queue *queue = made->queue;
    if (queue == NULL)
        return;
    if (gio_queue_usable(queue) == 0) {
        gio_mutex_lock(&queue->mutex);
        remove_memory(queue, (uint64_t)(uintptr_t)address, made->nbytes);
        queue->kept_refused = 0;
        gio_mutex_unlock(&queue->mutex);
    }
    *made = (gio_registration){NULL, 0};
    gio_queue_count_holder(queue, -1);
}

/* ---- kept ------------------------------------------------------------------------------------------------ */

static int is_kept(const gio_queue *queue, uint64_t address)
{
    uint32_t i = 0;
    while (i < queue->kept_count && queue->kept[i].address != address)
        i++;
    return i < queue->kept_count;
}

/* In all queues; a closed one has nothing any more, though it may be there for long. `listed` is locked, no queue is. */
static uint64_t count_kept_bytes(void)
{
    uint64_t kept_bytes = 0;
    for (gio_queue *at = listed.first; at; at = at->next_listed) {
        gio_mutex_lock(&at->mutex);
        kept_bytes += at->closed ? 0 : at->kept_bytes;
        gio_mutex_unlock(&at->mutex);
    }
    return kept_bytes;
}

/* `room`: bytes that may be kept besides those that are. */
static int32_t add_kept(gio_queue *queue, gio_segment memory, uint64_t room)
{
    if (queue->closing)
        return GIO_E_CLOSED;
    if (queue->backend->add_memory == NULL)
        return GIO_E_UNREGISTRABLE;
    if (queue->kept_count == GIO_KEPT_MAX || memory.length > room)
        return GIO_E_TABLE_FULL;
    if (queue->kept_refused && memory.length >= queue->kept_refused) /* to be refused takes as long as to be granted */
        return GIO_E_TABLE_FULL;
    int32_t code = queue->backend->add_memory(queue, (void *)(uintptr_t)memory.address, memory.length);
    if (code) {
        queue->kept_refused = memory.length;
        return code;
    }
    queue->kept[queue->kept_count++] = memory;
    queue->kept_bytes += memory.length;
    return 0;
}

int32_t gio_queue_keep(gio_queue *queue, void *address, uint64_t nbytes, uint64_t most)
{
    gio_segment memory = {(uint64_t)(uintptr_t)address, nbytes};
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    int kept = is_kept(queue, memory.address);
    gio_mutex_unlock(&queue->mutex);
    if (kept)
        return 0;
    gio_mutex_lock(&listed.mutex);
    uint64_t kept_bytes = count_kept_bytes();
    gio_mutex_lock(&queue->mutex);
    if (!is_kept(queue, memory.address)) /* by another thread, meanwhile */
        code = add_kept(queue, memory, most - gio_min(kept_bytes, most));
    gio_mutex_unlock(&queue->mutex);
    gio_mutex_unlock(&listed.mutex);
    return code;
}

/* All that begins in this range. `listed` is locked. */
static void give_up(gio_queue *queue, uint64_t address, uint64_t nbytes)
{
    gio_mutex_lock(&queue->mutex);
    for (uint32_t i = queue->kept_count; i-- > 0;) {
        gio_segment memory = queue->kept[i];
        if (memory.address - address >= nbytes)
            continue;
        remove_memory(queue, memory.address, memory.length);
        queue->kept[i] = queue->kept[--queue->kept_count];
        queue->kept_bytes -= memory.length;
        queue->kept_refused = 0;
    }
    gio_mutex_unlock(&queue->mutex);
}

void gio_pages_free(uint64_t allocated, void *address)
{
    gio_fork_count(); /* from now on forks find our mutex unlocked */
    gio_mutex_lock(&listed.mutex);
    for (gio_queue *queue = listed.first; queue; queue = queue->next_listed)
        give_up(queue, (uint64_t)(uintptr_t)address, allocated);
    gio_mutex_unlock(&listed.mutex);
    gio_os_pages_free(address, allocated);
}

/* ---- the list of queues ---------------------------------------------------------------------------------- */

void gio_registered_add_queue(gio_queue *queue)
{
    if (queue->backend->add_memory == NULL)
        return;
    gio_mutex_lock(&listed.mutex);
    queue->next_listed = listed.first;
    listed.first = queue;
    gio_mutex_unlock(&listed.mutex);
}

void gio_registered_remove_queue(gio_queue *queue)
{
    gio_mutex_lock(&listed.mutex);
    gio_queue **at = &listed.first;
    while (*at && *at != queue)
        at = &(*at)->next_listed;
    if (*at)
        *at = queue->next_listed;
    gio_mutex_unlock(&listed.mutex);
}

void gio_registered_before_fork(void)
{
    gio_mutex_lock(&listed.mutex);
    for (gio_queue *queue = listed.first; queue; queue = queue->next_listed)
        give_up(queue, 0, UINT64_MAX);
}

/* The child has no use for its parent's queues. */
void gio_registered_after_fork(int in_child)
{
    if (in_child)
        listed.first = NULL;
    gio_mutex_unlock(&listed.mutex);
}
