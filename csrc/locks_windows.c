/* locks_windows.c: locks between files and processes: LockFileEx.
 *
 * They belong to a handle, and they bind: Windows refuses a transfer through any other handle, also of this file. A direct
 * file has two handles, and its locks are on the second one, for the ragged ends of writes. So an operation on a range that
 * its own file has locked goes through that handle as a whole, ends and middle, which means through the cache
 * (gio_operation.through_cache). Locked ranges are small as a rule: headers, indexes, counters.
 *
 * Nobody has to ask before a transfer, and nobody can ask: there is no call for it. Only setting a file's length, which
 * Windows does not check, tries for a moment to lock what it is about to cut.
 */
#include "os_windows.h"

#include <stdlib.h>
#include <string.h>

const int32_t gio_locks_bind_handle = 1;

typedef enum { LOCK_SHARED, LOCK_EXCLUSIVE, UNLOCK } action;

/* No completion for this call shall go to the port that the handle is bound to: an event with its lowest bit set says so. */
static int32_t change(gio_file *file, action what, uint64_t offset, uint64_t length)
{
    HANDLE handle = (HANDLE)(intptr_t)file->buffered_handle, event = CreateEventW(NULL, TRUE, FALSE, NULL);
    DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (what == LOCK_EXCLUSIVE ? LOCKFILE_EXCLUSIVE_LOCK : 0), unused;
    OVERLAPPED where;
    BOOL done;

    if (event == NULL)
        return (int32_t)GetLastError();
    memset(&where, 0, sizeof where);
    where.Offset = (DWORD)offset;
    where.OffsetHigh = (DWORD)(offset >> 32);
    where.hEvent = (HANDLE)((uintptr_t)event | 1);
    if (what == UNLOCK)
        done = UnlockFileEx(handle, 0, (DWORD)length, (DWORD)(length >> 32), &where);
    else
        done = LockFileEx(handle, flags, 0, (DWORD)length, (DWORD)(length >> 32), &where);
    DWORD error = done ? 0 : GetLastError();
    if (error == ERROR_IO_PENDING)
        error = GetOverlappedResult(handle, &where, &unused, TRUE) ? 0 : GetLastError();
    CloseHandle(event);
    return error == ERROR_LOCK_VIOLATION ? GIO_E_LOCKED : (int32_t)error;
}

int32_t gio_os_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive)
{
    return change(file, exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED, offset, length);
}

int32_t gio_os_unlock(gio_file *file, const gio_lock *lock)
{
    return change(file, UNLOCK, lock->offset, lock->length);
}

/* What we have locked ourselves is in nobody else's way; the parts in between are tried. */
static int32_t try_range(gio_file *file, action what, uint64_t first, uint64_t last)
{
    uint64_t gap_first, gap_last;

    while (gio_ranges_gap(&file->locks, first, last, UINT64_MAX, &gap_first, &gap_last)) {
        uint64_t nbytes = gap_last - gap_first + 1;
        int32_t code = change(file, what, gap_first, nbytes);
        if (code)
            return code;
        change(file, UNLOCK, gap_first, nbytes);
        if (gap_first == first)
            break;
        last = gap_first - 1;
    }
    return 0;
}

int32_t gio_os_lock_look(gio_file *file, int32_t direction, gio_range all)
{
    (void)file; /* nobody can ask */
    (void)direction;
    (void)all;
    return GIO_E_LOCKED;
}

int32_t gio_os_lock_check(gio_file *file, int32_t direction, const gio_range *places, uint64_t count)
{
    int32_t code = 0;

    for (uint64_t i = 0; i < count && code == 0; i++)
        code = try_range(file, direction == GIO_WRITE ? LOCK_EXCLUSIVE : LOCK_SHARED, places[i].begin, places[i].end - 1);
    return code;
}

/* Closing gives them back as well, but when, Windows does not say. */
int32_t gio_os_locks_close(gio_file *file, int32_t forked)
{
    (void)forked;
    for (gio_lock *lock; (lock = gio_ranges_any(&file->locks)) != NULL; free(lock)) {
        gio_ranges_remove(&file->locks, lock);
        if (lock->length != 0)
            change(file, UNLOCK, lock->offset, lock->length);
    }
    return 0; /* what could not be given back goes with the handle */
}
