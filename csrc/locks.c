/* locks.c: locks on ranges of a file, by Windows' rules on every system. The system's part is in locks_*.c.
 *
 * Systems differ in what they do with two locks of one and the same holder: Windows keeps them apart, Linux melts them
 * into one and splits it again. So each file has a table of its locks, and the rules within one file are here:
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
#include <string.h>

/* Ranges may end at 2^64: nothing here adds offset and length. */
static int meets(const gio_lock *lock, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return lock->length != 0 && lock->offset < offset && offset - lock->offset < lock->length;
    if (lock->length == 0)
        return offset < lock->offset && lock->offset - offset < length;
    return lock->offset <= offset ? offset - lock->offset < lock->length : lock->offset - offset < length;
}

int32_t gio_file_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive, uint64_t *id)
{
    int32_t code = gio_queue_usable(file->queue);

    if (code)
        return code;
    if (length != 0 && length - 1 > UINT64_MAX - offset)
        return gio_code_invalid();
    gio_mutex_lock(&file->lock_mutex);
    if (file->locks_closed)
        code = GIO_E_CLOSED;
    for (uint64_t i = 0; i < file->lock_count && code == 0; i++)
        if ((exclusive || file->locks[i].exclusive) && meets(&file->locks[i], offset, length))
            code = GIO_E_LOCKED;
    if (code == 0 && file->lock_count == file->lock_room) {
        uint64_t room = gio_max(8, 2 * file->lock_room);
        gio_lock *grown = realloc(file->locks, (size_t)room * sizeof *grown);
        if (grown == NULL) {
            code = gio_code_no_memory();
        } else {
            file->locks = grown;
            file->lock_room = room;
        }
    }
    if (code == 0 && length != 0)
        code = gio_os_lock(file, offset, length, exclusive);
    if (code == 0) {
        gio_lock *lock = &file->locks[file->lock_count++];
        lock->id = *id = ++file->lock_ids;
        lock->offset = offset;
        lock->length = length;
        lock->exclusive = exclusive;
    }
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}

int32_t gio_file_unlock(gio_file *file, uint64_t offset, uint64_t length, uint64_t id)
{
    int32_t code = gio_queue_usable(file->queue);

    if (code)
        return code;
    gio_mutex_lock(&file->lock_mutex);
    uint64_t at = 0;
    while (at < file->lock_count && (file->locks[at].offset != offset || file->locks[at].length != length ||
                                     (id != 0 && file->locks[at].id != id)))
        at++;
    if (file->locks_closed) {
        code = GIO_E_CLOSED;
    } else if (at == file->lock_count) {
        code = GIO_E_NOT_LOCKED;
    } else {
        gio_lock lock = file->locks[at];
        file->locks[at] = file->locks[--file->lock_count];
        if (length != 0)
            code = gio_os_unlock(file, &lock);
        if (code)
            file->locks[file->lock_count++] = lock; /* it still stands */
    }
    gio_mutex_unlock(&file->lock_mutex);
    return code;
}

int gio_locks_touch(const gio_file *file, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < file->lock_count; i++)
        if (file->locks[i].length != 0 && meets(&file->locks[i], offset, length))
            return 1;
    return 0;
}

/* The first part of [at, last] that no lock of this file covers; 0: there is none. Offsets from `top` on are one. */
int gio_locks_gap(const gio_file *file, uint64_t at, uint64_t last, uint64_t top, uint64_t *gap_first,
                  uint64_t *gap_last)
{
    for (;;) {
        uint64_t until = last, covered_until = 0;
        int covered = 0;
        for (uint64_t i = 0; i < file->lock_count; i++) {
            const gio_lock *lock = &file->locks[i];
            if (lock->length == 0)
                continue;
            uint64_t first = gio_min(lock->offset, top), end = gio_min(lock->offset + (lock->length - 1), top);
            if (first <= at && at <= end) {
                covered = 1;
                covered_until = gio_max(covered_until, end);
            } else if (first > at) {
                until = gio_min(until, first - 1);
            }
        }
        if (!covered) {
            *gap_first = at;
            *gap_last = until;
            return 1;
        }
        if (covered_until >= last)
            return 0;
        at = covered_until + 1;
    }
}

int32_t gio_locks_check(gio_file *file, int32_t direction, uint64_t offset, uint64_t length, int32_t asks)
{
    if (length == 0 || !file->heeds_locks)
        return 0;
    if (file->locks_closed)
        return GIO_E_CLOSED;
    for (uint64_t i = 0; i < file->lock_count && direction == GIO_WRITE; i++)
        if (!file->locks[i].exclusive && file->locks[i].length != 0 && meets(&file->locks[i], offset, length))
            return GIO_E_LOCKED;
    return asks ? gio_os_lock_check(file, direction, offset, length) : 0;
}
