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
#include <string.h>

typedef struct {
    gio_queue *queue;
    gio_segment memory;
    uint64_t number; /* of those noted so far */
} kept;

/* Zeros are an unlocked mutex on both systems. Before any other mutex, and held for the look into the table alone; but for
 * the moment of a fork. */
static struct {
    gio_mutex mutex;
    kept *kept;
    uint64_t count, room, numbers;
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

static int is_kept(const gio_queue *queue, uint64_t address)
{
    uint64_t i = 0;
    while (i < table.count && (table.kept[i].queue != queue || table.kept[i].memory.address != address))
        i++;
    return i < table.count;
}

/* Notes it, if it may be kept: `most` bytes of all queues, and so many pieces of each. */
static int32_t note(gio_queue *queue, gio_segment memory, uint64_t most)
{
    uint64_t kept_bytes = 0, pieces = 0;

    for (uint64_t i = 0; i < table.count; i++) {
        kept_bytes += table.kept[i].memory.length;
        pieces += table.kept[i].queue == queue;
    }
    if (pieces == GIO_KEPT_MAX || kept_bytes > most || memory.length > most - kept_bytes)
        return GIO_E_TABLE_FULL;
    if (queue->kept_refused && memory.length >= queue->kept_refused) /* to be refused takes as long as to be granted */
        return GIO_E_TABLE_FULL;
    if (table.count == table.room) {
        uint64_t room = gio_max(16, 2 * table.room);
        kept *grown = realloc(table.kept, (size_t)room * sizeof *grown);
        if (grown == NULL)
            return gio_code_no_memory();
        table.kept = grown;
        table.room = room;
    }
    table.kept[table.count++] = (kept){queue, memory, ++table.numbers};
    return 0;
}

/* Where it stands, or `count`: it has been taken out since it was noted. */
static uint64_t place_of(uint64_t number)
{
    uint64_t i = 0;
    while (i < table.count && table.kept[i].number != number)
        i++;
    return i;
}

/* Takes one out that begins in the range, of this queue or (NULL) of any. 0: there is none. */
static int take_out(const gio_queue *queue, uint64_t address, uint64_t nbytes, kept *taken)
{
    for (uint64_t i = 0; i < table.count; i++)
        if (table.kept[i].memory.address - address < nbytes && (queue == NULL || table.kept[i].queue == queue)) {
            *taken = table.kept[i];
            table.kept[i] = table.kept[--table.count];
            taken->queue->kept_refused = 0;
            return 1;
        }
    return 0;
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
    int was_kept = is_kept(queue, memory.address);
    code = was_kept ? 0 : note(queue, memory, most); /* noted first: nobody else does the same meanwhile */
    uint64_t number = table.numbers;
    gio_mutex_unlock(&table.mutex);
    if (was_kept || code)
        return code;
    code = gio_registered_add(queue, address, nbytes);
    gio_mutex_lock(&table.mutex);
    uint64_t place = place_of(number);
    int was_given_up = place == table.count; /* by a fork, before there was anything */
    if (code) {
        queue->kept_refused = memory.length;
        if (!was_given_up)
            table.kept[place] = table.kept[--table.count];
    }
    gio_mutex_unlock(&table.mutex);
    if (code == 0 && was_given_up)
        remove_memory(queue, memory);
    return code;
}

void gio_pages_free(uint64_t allocated, void *address)
{
    kept taken;

    gio_fork_count(); /* from now on forks find our mutex unlocked */
    for (;;) {
        gio_mutex_lock(&table.mutex);
        int found = take_out(NULL, (uint64_t)(uintptr_t)address, allocated, &taken);
        if (found)
            gio_queue_count_holder(taken.queue, +1);
        gio_mutex_unlock(&table.mutex);
        if (!found)
            break;
        remove_memory(taken.queue, taken.memory);
        gio_queue_count_holder(taken.queue, -1);
    }
    gio_os_pages_free(address, allocated);
}

void gio_pages_let_go(const uint64_t *allocated, void **address)
{
    if (*address)
        gio_pages_free(*allocated, *address);
    *address = NULL;
}

void gio_registered_forget(const gio_queue *queue)
{
    kept taken;

    gio_mutex_lock(&table.mutex);
    while (take_out(queue, 0, UINT64_MAX, &taken))
        continue;
    gio_mutex_unlock(&table.mutex);
}

/* ---- fork ------------------------------------------------------------------------------------------------ */

void gio_registered_before_fork(void)
{
    kept taken;

    gio_mutex_lock(&table.mutex);
    while (take_out(NULL, 0, UINT64_MAX, &taken))
        remove_memory(taken.queue, taken.memory);
}

/* The child has no use for its parent's queues, and there is nothing of them in the table. */
void gio_registered_after_fork(void)
{
    gio_mutex_unlock(&table.mutex);
}
