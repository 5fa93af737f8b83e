/* locks.c: locks on ranges of a file, by Windows' rules on every system. The system's part is in locks_*.c.
 *
 * Systems differ in what they do with two locks of one and the same holder: Windows keeps them apart, Linux melts them
 * into one and splits it again. So each file has a table of its locks (ranges.c), and the rules within one file are here:
 *
 *   - A lock is refused where it meets another one, unless both are shared.
 *   - It is given back as it was taken, or not at all.
 *   - A shared lock is a promise that nobody writes, not even its holder.
 *   - One of no bytes is in the way of a range that has its place inside, and of nothing else. The system is not told
 *     of it, for Linux cannot express it; so other files do not see it, on any system.
 *
 * Between files, and between processes, the system decides: OFD locks on Linux, LockFileEx on Windows.
 */
#include "internal.h"

#include <stdlib.h>

/* ---- taking and giving back ----------------------------------------------------------------------------- */

static int is_refused(const gio_file *file, const gio_lock *wanted)
{
    const gio_ranges *locks = &file->locks;
    uint64_t offset = wanted->offset, length = wanted->length;

    if (gio_ranges_meet(locks, GIO_RANGES_EXCLUSIVE, offset, length) ||
        gio_ranges_meet(locks, GIO_RANGES_EMPTY_EXCLUSIVE, offset, length))
        return 1;
    return wanted->exclusive && (gio_ranges_meet(locks, GIO_RANGES_SHARED, offset, length) ||
                                 gio_ranges_meet(locks, GIO_RANGES_EMPTY_SHARED, offset, length));
}

/* The file's mutex is held. */
static int32_t take(gio_file *file, gio_lock *wanted)
{
    if (file->locks_closed)
        return GIO_E_CLOSED;
    if (is_refused(file, wanted))
        return GIO_E_LOCKED;
    int32_t code = wanted->length ? gio_os_lock(file, wanted->offset, wanted->length, wanted->exclusive) : 0;
    if (code == 0) {
        wanted->id = ++file->lock_ids;
        gio_ranges_add(&file->locks, wanted);
    }
    return code;
}

int32_t gio_file_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive, uint64_t *id)
{
    int32_t code = gio_queue_usable(file->queue);

    if (code)
        return code;
    if (length != 0 && length - 1 > UINT64_MAX - offset)
        return gio_code_invalid();
    gio_lock *lock = calloc(1, sizeof *lock);
    if (lock == NULL)
        return gio_code_no_memory();
    lock->offset = offset;
    lock->length = length;
    lock->exclusive = exclusive;
    gio_mutex_lock(&file->lock_mutex);
    code = take(file, lock);
    if (code == 0)
        *id = lock->id;
    gio_mutex_unlock(&file->lock_mutex);
    if (code)
        free(lock);
    return code;
}

/* The file's mutex is held. */
static int32_t give_back(gio_file *file, gio_lock *lock)
{
    if (file->locks_closed)
        return GIO_E_CLOSED;
    if (lock == NULL)
        return GIO_E_NOT_LOCKED;
    gio_ranges_remove(&file->locks, lock);
    int32_t code = lock->length ? gio_os_unlock(file, lock) : 0;
    if (code)
        gio_ranges_add(&file->locks, lock); /* it still stands */
    else
        free(lock);
    return code;
}

int32_t gio_file_unlock(gio_file *file, uint64_t offset, uint64_t length, uint64_t id)
{
    int32_t code = gio_queue_usable(file->queue);

    if (code)
        return code;
    gio_mutex_lock(&file->lock_mutex);
    code = give_back(file, gio_ranges_find(&file->locks, offset, length, id));
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}

void gio_locks_free(gio_file *file)
{
    for (gio_lock *lock; (lock = gio_ranges_any(&file->locks)) != NULL; free(lock))
        gio_ranges_remove(&file->locks, lock);
}

/* ---- what is in the way of an operation ----------------------------------------------------------------- */

static int meets_own(const gio_file *file, int kind, const gio_range *places, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (gio_ranges_meet(&file->locks, kind, places[i].begin, places[i].end - places[i].begin))
            return 1;
    return 0;
}

/* Places in the order of the file that do not meet. `asks`: the system as well, about the locks of others. */
static int32_t check_places(gio_file *file, int32_t direction, const gio_range *places, uint64_t count, int asks)
{
    if (!file->heeds_locks)
        return 0;
    if (file->locks_closed)
        return GIO_E_CLOSED;
    if (direction == GIO_WRITE && meets_own(file, GIO_RANGES_SHARED, places, count))
        return GIO_E_LOCKED;
    return asks ? gio_os_lock_check(file, direction, places, count) : 0;
}

static int32_t check_operation(gio_operation *operation, const gio_range *places, uint64_t count)
{
    gio_file *file = operation->file;

    if (gio_locks_bind_handle && file->handle != file->buffered_handle)
        operation->through_cache = meets_own(file, GIO_RANGES_SHARED, places, count) ||
                                   meets_own(file, GIO_RANGES_EXCLUSIVE, places, count);
    return check_places(file, operation->direction, places, count, !gio_locks_bind_handle);
}

/* All that lies between the first byte of a batch and the last. */
static gio_range hull_of(const gio_operation *batch)
{
    gio_range hull = {UINT64_MAX, 0};

    for (uint64_t i = 0; i < batch->segment_count; i++)
        if (batch->segments[i].length != 0) {
            hull.begin = gio_min(hull.begin, batch->offsets[i]);
            hull.end = gio_max(hull.end, batch->offsets[i] + batch->segments[i].length);
        }
    return hull;
}

static int by_begin(const void *one, const void *other)
{
    uint64_t a = ((const gio_range *)one)->begin, b = ((const gio_range *)other)->begin;
    return a < b ? -1 : a > b;
}

/* The places of a batch in the order of the file, neighbours joined. NULL: no memory. */
static gio_range *places_of(const gio_operation *batch, uint64_t *count)
{
    gio_range *places = malloc((size_t)batch->segment_count * sizeof *places);
    uint64_t found = 0, joined = 0;

    if (places == NULL)
        return NULL;
    for (uint64_t i = 0; i < batch->segment_count; i++)
        if (batch->segments[i].length != 0)
            places[found++] = (gio_range){batch->offsets[i], batch->offsets[i] + batch->segments[i].length};
    qsort(places, (size_t)found, sizeof *places, by_begin);
    for (uint64_t i = 0; i < found; i++)
        if (joined != 0 && places[i].begin <= places[joined - 1].end)
            places[joined - 1].end = gio_max(places[joined - 1].end, places[i].end);
        else
            places[joined++] = places[i];
    *count = joined;
    return places;
}

/* Whether there may be a lock of interest in a range: LOCKED. */
static int32_t look_at(gio_file *file, int32_t direction, gio_range all)
{
    if (meets_own(file, GIO_RANGES_SHARED, &all, 1) ||
        (gio_locks_bind_handle && meets_own(file, GIO_RANGES_EXCLUSIVE, &all, 1)))
        return GIO_E_LOCKED;
    return file->heeds_locks && !gio_locks_bind_handle ? gio_os_lock_look(file, direction, all) : 0;
}

/* First at all that lies between the places, with one question to the system: there hardly ever is a lock. */
static int32_t check_batch(gio_operation *operation)
{
    uint64_t count;
    int32_t code = look_at(operation->file, operation->direction, hull_of(operation));

    if (code != GIO_E_LOCKED)
        return code;
    gio_range *places = places_of(operation, &count);
    if (places == NULL)
        return gio_code_no_memory();
    code = check_operation(operation, places, count);
    free(places);
    return code;
}

int32_t gio_locks_check_operation(gio_operation *operation)
{
    gio_file *file = operation->file;

    if (operation->length == 0 || (!file->heeds_locks && !gio_locks_bind_handle))
        return 0;
    gio_range place = {operation->offset, operation->offset + operation->length};
    gio_mutex_lock(&file->lock_mutex);
    int32_t code = operation->offsets ? check_batch(operation) : check_operation(operation, &place, 1);
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}

int32_t gio_locks_check_resize(gio_file *file, uint64_t before, uint64_t size)
{
    gio_range between = {gio_min(before, size), gio_max(before, size)};

    if (before == size)
        return 0;
    gio_mutex_lock(&file->lock_mutex);
    int32_t code = check_places(file, GIO_WRITE, &between, 1, 1);
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}
