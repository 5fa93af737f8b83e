/* file.c: files as a queue knows them: limits from the facts of the opened file, length and reserved space, closing. The same
 * on every system; the system's part is in os_*.c. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* A request that the device takes in whole parts: one of 1024 pages is five parts on a device that takes 254. Of some
 * 512 segments the next ones can be prepared while these are under way (measured: 5 to 15 % over 1024). */
static uint64_t max_segments(const gio_queue *queue, const gio_file_facts *facts)
{
    uint64_t device = facts->direct ? facts->device_segments : 0, most = queue->system.max_segments;
    if (!facts->direct)
        most = queue->system.buffered_segments;
    return device == 0 || device >= most ? most : gio_round_down(gio_max(most / 2, device), device);
}

/* ---- opening -------------------------------------------------------------------------------------------- */

static void find_limits(gio_file *file, const gio_file_facts *facts)
{
    const gio_queue *queue = file->queue;
    uint64_t block = facts->direct ? facts->offset_alignment : 1;

    file->limits.offset_alignment = block;
    file->limits.memory_alignment = facts->direct ? facts->memory_alignment : 1;
    file->limits.ragged_bytes = gio_round_up(gio_max(queue->system.page_size, facts->block_bytes), block);
    file->limits.request_bytes = gio_max(gio_round_down(queue->request_bytes, block), block);
    file->limits.stage_bytes = gio_round_down(GIO_STAGE_BYTES, block);
    file->limits.max_segments = max_segments(queue, facts);
    file->limits.buffered_segments = queue->system.buffered_segments;
    file->limits.segment_unit = queue->system.segment_unit;
    file->limits.direct_bytes_min = queue->system.direct_bytes_min;
    file->folio_bytes = gio_max(queue->system.folio_bytes, file->limits.ragged_bytes);
    file->file_system = facts->file_system;
}

/* The system has opened it: what the queue has to know of it. */
static int32_t adopt(gio_file *file, gio_file_facts *facts)
{
    gio_queue *queue = file->queue;
    int32_t code = gio_os_file_size(file, &file->known_end);

    find_limits(file, facts);
    file->valid_end = file->known_end;
    file->backend = queue->backend;
    if (code == 0)
        code = gio_queue_enter(queue);
    if (code)
        return code;
    if (queue->backend->adopt)
        code = queue->backend->adopt(queue, file, &facts->backend_code);
    gio_queue_leave(queue);
    return code;
}

static gio_file *new_file(gio_queue *queue, int32_t access, int32_t durable)
{
    gio_file *file = calloc(1, sizeof *file);

    if (file == NULL)
        return NULL;
    file->queue = queue;
    file->lock_handle = -1;
    file->durable = durable;
    file->writeable = (access & GIO_ACCESS_WRITE) != 0;
    file->heeds_locks = (access & GIO_ACCESS_HEED_LOCKS) != 0;
    gio_mutex_init(&file->lock_mutex);
    return file;
}

static void discard(gio_file *file)
{
    gio_mutex_destroy(&file->lock_mutex);
    free(file);
}

static int32_t is_closing(gio_queue *queue)
{
    gio_mutex_lock(&queue->mutex);
    int32_t closing = queue->closing;
    gio_mutex_unlock(&queue->mutex);
    return closing;
}

int32_t gio_file_open(gio_queue *queue, const void *path, int32_t access, int32_t create, int32_t direct,
                      int32_t durable, gio_file **out, gio_file_facts *facts)
{
    int32_t code = gio_queue_usable(queue), rights = access & (GIO_ACCESS_READ | GIO_ACCESS_WRITE);

    if (code)
        return code;
    if (is_closing(queue)) /* before anything is made or cut */
        return GIO_E_CLOSED;
    gio_file *file = new_file(queue, access, durable);
    if (file == NULL)
        return gio_code_no_memory();
    code = gio_os_file_open(file, path, rights, create, direct, durable, facts);
    if (code == 0 && (code = adopt(file, facts)) != 0)
        gio_os_file_close(file, 0);
    if (code) {
        discard(file);
        return code;
    }
    gio_queue_count_holder(queue, +1);
    *out = file;
    return 0;
}

/* ---- an open file ---------------------------------------------------------------------------------------- */

/* 0, FORKED or CLOSED. It is for the caller to see to it that nobody closes the file meanwhile. */
static int32_t usable(gio_file *file)
{
    int32_t code = gio_queue_usable(file->queue);
    return code ? code : file->closed ? GIO_E_CLOSED : 0;
}

int32_t gio_file_size(gio_file *file, uint64_t *size)
{
    int32_t code = usable(file);
    return code ? code : gio_os_file_size(file, size);
}

/* ---- calls ----------------------------------------------------------------------------------------------- */

static int32_t resize(gio_file *file, uint64_t size)
{
    uint64_t before;
    int32_t code = gio_os_file_size(file, &before);
    if (code == 0)
        code = gio_locks_check_resize(file, before, size);
    if (code == 0)
        code = gio_os_file_resize(file, size);
    if (code == 0) {
        gio_mutex_lock(&file->queue->mutex);
        file->known_end = size;
        file->valid_end = gio_min(file->valid_end, size);
        if (size <= before)
            file->reserved_end = 0; /* that frees what lies behind */
        gio_mutex_unlock(&file->queue->mutex);
    }
    return code;
}

static int32_t reserve(gio_file *file, uint64_t size, int32_t *reserved)
{
    *reserved = 0;
    if (size == 0)
        return 0;
    int32_t code = gio_os_file_reserve(file, size, reserved);
    if (*reserved) {
        gio_mutex_lock(&file->queue->mutex);
        file->reserved_end = gio_max(file->reserved_end, size);
        gio_mutex_unlock(&file->queue->mutex);
    }
    return code;
}

static int32_t make_call(const gio_operation *operation, int32_t *reserved)
{
    gio_file *file = operation->file;

    if (operation->call == GIO_CALL_FLUSH)
        return gio_os_file_flush(file);
    return operation->call == GIO_CALL_RESIZE ? resize(file, operation->size) : reserve(file, operation->size, reserved);
}

int32_t gio_file_call(const gio_operation *operation)
{
    int32_t reserved;
    return make_call(operation, &reserved);
}

/* It stands in the order like an operation, so that what is submitted meanwhile heeds it. */
static int32_t call_directly(gio_file *file, int32_t call, uint64_t size, int32_t *reserved)
{
    gio_queue *queue = file->queue;
    gio_operation self;

    memset(&self, 0, sizeof self);
    self.file = file;
    self.call = call;
    self.size = size;
    self.state = GIO_COVERED;
    int32_t code = gio_queue_usable(queue);
    if (code)
        return code;
    gio_mutex_lock(&queue->mutex);
    if (file->closed)
        code = GIO_E_CLOSED;
    else if (!gio_order_lets_begin(&self))
        code = GIO_E_TIMEOUT;
    else
        gio_order_add(&self);
    gio_mutex_unlock(&queue->mutex);
    if (code)
        return code;
    code = make_call(&self, reserved);
    gio_mutex_lock(&queue->mutex);
    if (call == GIO_CALL_FLUSH && gio_code_is_doubtful(code))
        gio_writes_suspect(file, code); /* it has been told what is now told nobody else */
    gio_order_remove(&self);
    if (queue->live != 0) {
        gio_queue_advance(queue);
        gio_queue_call_attention(queue);
    }
    gio_mutex_unlock(&queue->mutex);
    return code;
}

int32_t gio_file_flush(gio_file *file) { return call_directly(file, GIO_CALL_FLUSH, 0, NULL); }
int32_t gio_file_resize(gio_file *file, uint64_t size) { return call_directly(file, GIO_CALL_RESIZE, size, NULL); }

int32_t gio_file_reserve(gio_file *file, uint64_t size, int32_t *reserved)
{
    *reserved = 0;
    return call_directly(file, GIO_CALL_RESERVE, size, reserved);
}

/* ---- closing ---------------------------------------------------------------------------------------------- */

void gio_file_give_back(gio_file *file)
{
    if (usable(file))
        return;
    gio_mutex_lock(&file->queue->mutex);
    file->gives_back = 1;
    gio_mutex_unlock(&file->queue->mutex);
}

/* In a forked child the mutex may be anyone's; there is one thread. */
static int32_t close_locks(gio_file *file, int forked)
{
    if (!forked)
        gio_mutex_lock(&file->lock_mutex);
    file->locks_closed = 1;
    int32_t code = gio_os_locks_close(file, forked);
    if (!forked)
        gio_mutex_unlock(&file->lock_mutex);
    return code;
}

int32_t gio_file_close(gio_file *file)
{
    gio_queue *queue = file->queue;
    int forked = gio_queue_usable(queue) != 0; /* the child's copies of the descriptors are its own to close */

    if (!forked)
        gio_mutex_lock(&queue->mutex);
    int busy = !forked && file->operations != 0;
    int was_open = !file->closed;
    if (!busy)
        file->closed = 1;
    if (!forked)
        gio_mutex_unlock(&queue->mutex);
    if (busy)
        return GIO_E_TIMEOUT;
    if (was_open) {
        int32_t locks_code = close_locks(file, forked);
        int32_t code = gio_os_file_close(file, file->gives_back && file->reserved_end != 0 && !forked);
        file->close_code = code ? code : locks_code;
    }
    return file->close_code;
}

void gio_file_forked(gio_file *file)
{
    gio_os_locks_close(file, 1);
}

void gio_file_free(gio_file *file)
{
    if (file == NULL)
        return;
    gio_queue *queue = file->queue;
    gio_locks_free(file);
    if (gio_queue_usable(queue) == 0)
        gio_mutex_destroy(&file->lock_mutex);
    free(file);
    gio_queue_count_holder(queue, -1);
}

void gio_file_let_go(gio_file **place)
{
    if (*place == NULL)
        return;
    gio_file_close(*place);
    gio_file_free(*place);
    *place = NULL;
}
