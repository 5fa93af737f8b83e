/* locks_linux.c: locks between files and processes: OFD locks (fcntl(2), F_OFD_SETLK).
 *
 * They belong to an open descriptor and go with it, also when its process is killed. (Classic POSIX locks go when
 * any descriptor of the file is closed, some library's included.) A file's are on a descriptor of their own, opened with the
 * first lock: for reading and writing where that is allowed, for a shared lock needs the one and an exclusive lock the
 * other, whatever the file was opened for; and so that a forked child, which would keep them alive, can let go of them
 * (gio_file_forked).
 *
 * They are advisory: who does not ask is not stopped. We ask, once per operation, before it starts. POSIX locks of this
 * very process are not in the way then, as they are not in that of its other reads and writes.
 *
 * Offsets end at 2^63 - 1; of the half beyond, where no file reaches, all is one byte, the last one there is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "os_linux.h"

const int32_t gio_locks_bind_handle = 0;

static struct flock range(short type, uint64_t first, uint64_t last)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = (off_t)gio_min(first, INT64_MAX);
    lock.l_len = last >= INT64_MAX ? 0 : (off_t)(last - first + 1); /* 0: to the end of all offsets */
    return lock;
}

static int32_t open_lock_handle(gio_file *file)
{
    static const int modes[] = {O_RDWR, O_RDONLY, O_WRONLY};
    char path[40];
    int32_t code = 0;

    snprintf(path, sizeof path, "/proc/self/fd/%d", (int)file->buffered_handle);
    for (int i = 0; i < 3 && file->lock_handle < 0; i++) {
        file->lock_handle = open(path, modes[i] | O_CLOEXEC);
        if (file->lock_handle < 0)
            code = errno == ENOENT || errno == ENOTDIR ? GIO_E_NO_PROC : errno;
    }
    return file->lock_handle < 0 ? code : 0;
}

int32_t gio_os_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive)
{
    int32_t code = file->lock_handle < 0 ? open_lock_handle(file) : 0;
    if (code)
        return code;
    struct flock lock = range(exclusive ? F_WRLCK : F_RDLCK, offset, offset + (length - 1));
    if (fcntl((int)file->lock_handle, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? GIO_E_LOCKED : errno;
}

/* Gives back the parts of the lock that none of the others covers: for the kernel all of a descriptor's locks are one. */
int32_t gio_os_unlock(gio_file *file, const gio_lock *lock)
{
    uint64_t at = gio_min(lock->offset, INT64_MAX), last = gio_min(lock->offset + (lock->length - 1), INT64_MAX);
    uint64_t gap_first, gap_last;

    while (at <= last && gio_locks_gap(file, at, last, INT64_MAX, &gap_first, &gap_last)) {
        struct flock part = range(F_UNLCK, gap_first, gap_last);
        if (fcntl((int)file->lock_handle, F_OFD_SETLK, &part) < 0)
            return errno;
        at = gap_last + 1;
    }
    return 0;
}

/* Whether somebody else has a lock of the one kind (F_RDLCK: an exclusive one) in [first, last].
 *
 * For an open descriptor this process's own POSIX locks are somebody else's, and for this process the descriptor's OFD
 * locks are: fcntl(2) has no question that leaves out both. So where the first question finds a POSIX lock of ours, the
 * other one is asked about its range, where this file object can have shared locks at most, which locks.c has looked
 * at. Then the same for what is left on both sides, as the lock that is found need not be the lowest. */
static int32_t find_lock(int fd, short type, uint64_t first, uint64_t last)
{
    struct flock lock = range(type, first, last), others;

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        /* Where there are no locks nobody can have one. */
        return errno == EINVAL || errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP ? 0 : errno;
    if (lock.l_type == F_UNLCK)
        return 0;
    if (lock.l_pid != getpid()) /* -1 of an OFD lock */
        return GIO_E_LOCKED;
    uint64_t own_first = gio_max(first, (uint64_t)lock.l_start), own_last = last;
    if (lock.l_len != 0)
        own_last = gio_min(last, (uint64_t)lock.l_start + (uint64_t)lock.l_len - 1);
    others = range(type, own_first, own_last);
    if (fcntl(fd, F_GETLK, &others) < 0 || others.l_type != F_UNLCK)
        return GIO_E_LOCKED;
    int32_t code = own_first > first ? find_lock(fd, type, first, own_first - 1) : 0;
    return code == 0 && own_last < last ? find_lock(fd, type, own_last + 1, last) : code;
}

int32_t gio_os_lock_check(gio_file *file, int32_t direction, uint64_t offset, uint64_t length)
{
    int fd = (int)(file->lock_handle >= 0 ? file->lock_handle : file->buffered_handle);
    uint64_t last = gio_min(offset + (length - 1), INT64_MAX);

    return find_lock(fd, direction == GIO_WRITE ? F_WRLCK : F_RDLCK, gio_min(offset, INT64_MAX), last);
}

int32_t gio_os_locks_close(gio_file *file, int32_t forked)
{
    if (file->lock_handle < 0)
        return 0;
    if (!forked) { /* a child that has this descriptor, too, would keep them */
        struct flock all = range(F_UNLCK, 0, INT64_MAX);
        fcntl((int)file->lock_handle, F_OFD_SETLK, &all);
    }
    int32_t code = gio_close_descriptor((int)file->lock_handle);
    file->lock_handle = -1;
    return code;
}
