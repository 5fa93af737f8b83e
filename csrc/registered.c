/* registered.c: memory that the kernel knows, so that it need not look up and pin its pages for each request.
 *
 * Somebody asks for it and keeps the memory alive meanwhile; or it is kept without that, from one transfer to the next. What
 * is kept must be given up before its pages go: else new memory at the old address would be written from the old pages. That
 * is why gio_pages_free is here. It is given up before a fork, too, which would copy all of it.
 *
 * To register a GiB takes the kernel a tenth of a second and more. So it is done under a mutex of the queue's that guards
 * nothing else (memory_mutex), and what is kept stands in a table of the process with one of its own, under which nothing
 * takes long: who frees memory waits for nobody's transfer and for nobody's registration, but for its own.
 */
#include "internal.h"

#include <stdlib.h>

typedef struct gio_kept {
    struct gio_kept *next;           /* in the same bucket */
    struct gio_kept *of_queue, **at; /* the next in the list of its queue, and what points here in it */
    gio_queue *queue;
    gio_segment memory;
    uint64_t number; /* of those noted so far */
} kept;

/* By address, so that who frees memory finds what is kept of it at once, however much is kept. Zeros are an unlocked mutex on
 * both systems. Before any other mutex, and held for the look into the table alone; but for the moment of a fork. */
static struct {
    gio_mutex mutex;
    kept **buckets; /* twice as many whenever there are as many entries */
    uint64_t room, count, bytes, numbers;
} table;

/* ---- one queue ------------------------------------------------------------------------------------------- */

int32_t gio_registered_add(gio_queue *queue, void *address, uint64_t nbytes)
{
    int32_t code;

    if (queue->backend->add_memory == NULL)
        return GIO_E_UNREGISTRABLE;
    gio_mutex_lock(&queue->memory_mutex);
    code = queue->released ? GIO_E_CLOSED : queue->backend->add_memory(queue, address, nbytes);
    gio_mutex_unlock(&queue->memory_mutex);
    return code;
}

static void remove_memory(gio_queue *queue, gio_segment memory)
{
    gio_mutex_lock(&queue->memory_mutex);
    if (!queue->released) /* with the backend it has gone anyway */
        queue->backend->remove_memory(queue, (void *)(uintptr_t)memory.address, memory.length);
    gio_mutex_unlock(&queue->memory_mutex);
}

int32_t gio_queue_register(gio_queue *queue, void *address, uint64_t nbytes, gio_registration *made)
{
    int32_t code = gio_queue_usable(queue);
    if (code == 0)
        code = gio_registered_add(queue, address, nbytes);
    if (code)
        return code;
    gio_queue_count_holder(queue, 1);
    *made = (gio_registration){queue, nbytes};
    return 0;
}

void gio_unregister(gio_registration *made, void *address)
{
    gio_queue *queue = made->queue;
    if (queue == NULL)
        return;
    if (gio_queue_usable(queue) == 0) {
        remove_memory(queue, (gio_segment){(uint64_t)(uintptr_t)address, made->nbytes});
        gio_mutex_lock(&table.mutex);
        queue->kept_refused = 0;
        gio_mutex_unlock(&table.mutex);
    }
    *made = (gio_registration){NULL, 0};
    gio_queue_count_holder(queue, -1);
}

/* ---- the table of what is kept. Its mutex is held -------------------------------------------------------- */

/* Allocations begin on pages; the multiplication (by 2^64 over the golden ratio) spreads what is regular. */
static kept **bucket_of(kept **buckets, uint64_t room, uint64_t address)
{
    return &buckets[(address >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 32 & (room - 1)];
}

/* What is kept of the allocation at this address, by this queue or (NULL) by any; NULL: nothing. */
static kept *find(const gio_queue *queue, uint64_t address)
{
    kept *at = table.room ? *bucket_of(table.buckets, table.room, address) : NULL;
    while (at && (at->memory.address != address || (queue && at->queue != queue)))
        at = at->next;
    return at;
}

static int32_t grow(void)
{
    uint64_t room = gio_max(16, 2 * table.room);
    kept **buckets = calloc((size_t)room, sizeof *buckets);

    if (buckets == NULL)
        return gio_code_no_memory();
    for (uint64_t i = 0; i < table.room; i++)
        for (kept *at = table.buckets[i], *next; at; at = next) {
            kept **bucket = bucket_of(buckets, room, at->memory.address);
            next = at->next;
            at->next = *bucket;
            *bucket = at;
        }
    free(table.buckets);
    table.buckets = buckets;
    table.room = room;
    return 0;
}

/* Whether it may be kept: `most` bytes of all queues, and so many pieces of each. */
static int may_keep(const gio_queue *queue, uint64_t nbytes, uint64_t most)
{
    if (queue->kept_count == GIO_KEPT_MAX || table.bytes > most || nbytes > most - table.bytes)
        return 0;
    return queue->kept_refused == 0 || nbytes < queue->kept_refused; /* to be refused takes as long as to be granted */
}

/* Puts it into the table, if it may be kept. */
static int32_t note(gio_queue *queue, gio_segment memory, uint64_t most)
{
    if (!may_keep(queue, memory.length, most))
        return GIO_E_TABLE_FULL;
    int32_t code = table.count == table.room ? grow() : 0;
    kept *made = code ? NULL : malloc(sizeof *made);
    if (made == NULL)
        return gio_code_no_memory();
    kept **bucket = bucket_of(table.buckets, table.room, memory.address);
    *made = (kept){*bucket, queue->kept, &queue->kept, queue, memory, ++table.numbers};
    *bucket = made;
    if (queue->kept)
        queue->kept->at = &made->of_queue;
    queue->kept = made;
    queue->kept_count++;
    table.count++;
    table.bytes += memory.length;
    return 0;
}

static kept take_out(kept *entry)
{
    kept taken = *entry, **link = bucket_of(table.buckets, table.room, entry->memory.address);

    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    *entry->at = entry->of_queue;
    if (entry->of_queue)
        entry->of_queue->at = entry->at;
    free(entry);
    taken.queue->kept_count--;
    taken.queue->kept_refused = 0;
    table.count--;
    table.bytes -= taken.memory.length;
    return taken;
}

/* ---- keeping and giving up ------------------------------------------------------------------------------- */

int32_t gio_queue_keep(gio_queue *queue, void *address, uint64_t nbytes, uint64_t most)
{
    gio_segment memory = {(uint64_t)(uintptr_t)address, nbytes};
    int32_t code = gio_queue_usable(queue);

    if (code)
        return code;
    if (queue->backend->add_memory == NULL)
        return GIO_E_UNREGISTRABLE;
    gio_mutex_lock(&table.mutex);
    int was_kept = find(queue, memory.address) != NULL;
    code = was_kept ? 0 : note(queue, memory, most); /* noted first: nobody else does the same meanwhile */
    uint64_t number = table.numbers;
    gio_mutex_unlock(&table.mutex);
    if (was_kept || code)
        return code;
    code = gio_registered_add(queue, address, nbytes);
    gio_mutex_lock(&table.mutex);
    kept *entry = find(queue, memory.address);
    int was_given_up = entry == NULL || entry->number != number; /* by a fork, before there was anything */
    if (code && !was_given_up)
        take_out(entry);
    if (code)
        queue->kept_refused = memory.length;
    gio_mutex_unlock(&table.mutex);
    if (code == 0 && was_given_up)
        remove_memory(queue, memory);
    return code;
}

/* 0: nothing is kept of it. */
static int give_up(uint64_t address)
{
    gio_mutex_lock(&table.mutex);
    kept *entry = find(NULL, address), taken;
    if (entry) {
        taken = take_out(entry);
        gio_queue_count_holder(taken.queue, +1);
    }
    gio_mutex_unlock(&table.mutex);
    if (entry == NULL)
        return 0;
    remove_memory(taken.queue, taken.memory);
    gio_queue_count_holder(taken.queue, -1);
    return 1;
}

void gio_pages_free(uint64_t allocated, void *address)
{
    gio_fork_count(); /* from now on forks find our mutex unlocked */
    while (give_up((uint64_t)(uintptr_t)address))
        continue;
    gio_os_pages_free(address, allocated);
}

void gio_pages_let_go(const uint64_t *allocated, void **address)
{
    if (*address)
        gio_pages_free(*allocated, *address);
    *address = NULL;
}

void gio_registered_forget(gio_queue *queue)
{
    gio_mutex_lock(&table.mutex);
    while (queue->kept)
        take_out(queue->kept);
    gio_mutex_unlock(&table.mutex);
}

/* ---- fork ------------------------------------------------------------------------------------------------ */

void gio_registered_before_fork(void)
{
    gio_mutex_lock(&table.mutex);
    for (uint64_t i = 0; i < table.room && table.count != 0; i++)
        while (table.buckets[i]) {
            kept taken = take_out(table.buckets[i]);
            remove_memory(taken.queue, taken.memory);
        }
}

/* The child has no use for its parent's queues, and there is nothing of them in the table. */
void gio_registered_after_fork(void)
{
    gio_mutex_unlock(&table.mutex);
}
