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

static int is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

static int32_t open_lock_handle(gio_file *file)
{
    static const int modes[] = {O_RDWR, O_RDONLY, O_WRONLY};
    int fd = (int)file->buffered_handle;
    int32_t code = 0;

    for (int i = 0; i < 3 && file->lock_handle < 0; i++) {
        file->lock_handle = gio_reopen(fd, modes[i]);
        if (file->lock_handle < 0)
            code = errno;
    }
    if (file->lock_handle >= 0)
        return 0;
    if (code == ENOENT || code == ENOTDIR)
        return is_open(fd) ? GIO_E_NO_PROC : EBADF;
    return code;
}

int32_t gio_os_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive)
{
    int32_t code = file->lock_handle < 0 ? open_lock_handle(file) : 0;
    if (code)
        return code;
    struct flock lock = range(exclusive ? F_WRLCK : F_RDLCK, offset, offset + (length - 1));
    if (fcntl((int)file->lock_handle, F_OFD_SETLK, &lock) == 0)
        return 0;
    code = errno;
    if (code == EBADF && is_open((int)file->lock_handle))
        return GIO_E_DIRECTION;
    return code == EAGAIN || code == EACCES ? GIO_E_LOCKED : code;
}

/* Gives back the parts of the lock that none of the others covers: for the kernel all of a descriptor's locks are one. From
 * the end on: what is left of it then is the first that the kernel looks at. */
int32_t gio_os_unlock(gio_file *file, const gio_lock *lock)
{
    uint64_t first = gio_min(lock->offset, INT64_MAX), last = gio_min(lock->offset + (lock->length - 1), INT64_MAX);
    uint64_t gap_first, gap_last;

    while (gio_ranges_gap(&file->locks, first, last, INT64_MAX, &gap_first, &gap_last)) {
        struct flock part = range(F_UNLCK, gap_first, gap_last);
        if (fcntl((int)file->lock_handle, F_OFD_SETLK, &part) < 0)
            return errno;
        if (gap_first == first)
            break;
        last = gap_first - 1;
    }
    return 0;
}

/* ---- asking for the locks of others ---------------------------------------------------------------------- */

typedef struct {
    int fd;
    short type; /* F_RDLCK: exclusive locks are in the way */
    const gio_range *places;
    uint64_t count;
} question;

/* Narrows [*first, *last] to what lies between the first and the last byte of places in it. 0: there are none. */
static int narrow(const question *asked, uint64_t *first, uint64_t *last)
{
    uint64_t low = 0, high = asked->count; /* the first place that ends behind `first` */

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (asked->places[middle].end <= *first)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == asked->count || asked->places[low].begin > *last)
        return 0;
    *first = gio_max(*first, asked->places[low].begin);
    high = asked->count; /* the first one that begins behind `last` */
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (asked->places[middle].begin <= *last)
            low = middle + 1;
        else
            high = middle;
    }
    *last = gio_min(*last, asked->places[low - 1].end - 1);
    return 1;
}

/* Whether somebody, this file object apart, has a lock of the kind in [*first, *last]: LOCKED, and what of that one is in the
 * range. `ours`: it is a POSIX lock of this process. */
static int32_t ask(const question *asked, int command, uint64_t *first, uint64_t *last, int *ours)
{
    struct flock lock = range(asked->type, *first, *last);

    if (fcntl(asked->fd, command, &lock) < 0)
        /* Where there are no locks nobody can have one. */
        return errno == EINVAL || errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP ? 0 : errno;
    if (lock.l_type == F_UNLCK)
        return 0;
    *ours = lock.l_pid == getpid(); /* -1 of an OFD lock */
    *first = gio_max(*first, (uint64_t)lock.l_start);
    if (lock.l_len != 0)
        *last = gio_min(*last, (uint64_t)lock.l_start + (uint64_t)lock.l_len - 1);
    return GIO_E_LOCKED;
}

/* Whether somebody else has a lock of the kind on a byte of the places in [first, last]. Of a lock that is on none of them the
 * range is left out, and both sides are asked about: the lock that the kernel tells need not be the lowest, for it has them by
 * their holders. The shorter side goes first, so that there are no more calls inside each other than a number has bits.
 *
 * For an open descriptor (F_OFD_GETLK) this process's own POSIX locks are somebody else's, and for this process (F_GETLK) the
 * descriptor's OFD locks are: fcntl(2) has no question that leaves out both. So where the first question finds a POSIX lock
 * of ours, the other one is asked about its range, where this file object can have shared locks at most, which locks.c has
 * looked at. */
static int32_t find_lock(const question *asked, int command, uint64_t first, uint64_t last)
{
    while (narrow(asked, &first, &last)) {
        uint64_t begin = first, end = last;
        int ours;
        int32_t code = ask(asked, command, &begin, &end, &ours);
        if (code != GIO_E_LOCKED)
            return code;
        uint64_t met_first = begin, met_last = end;
        if (narrow(asked, &met_first, &met_last)) {
            code = ours ? find_lock(asked, F_GETLK, met_first, met_last) : GIO_E_LOCKED;
            if (code)
                return code;
        }
        uint64_t before = begin - first, behind = last - end;
        if (before < behind) {
            code = before ? find_lock(asked, command, first, begin - 1) : 0;
            first = end + 1;
        } else {
            code = behind ? find_lock(asked, command, end + 1, last) : 0;
            if (before == 0)
                return code;
            last = begin - 1;
        }
        if (code)
            return code;
    }
    return 0;
}

static question question_of(const gio_file *file, int32_t direction, const gio_range *places, uint64_t count)
{
    int fd = (int)(file->lock_handle >= 0 ? file->lock_handle : file->buffered_handle);
    return (question){fd, direction == GIO_WRITE ? F_WRLCK : F_RDLCK, places, count};
}

int32_t gio_os_lock_look(gio_file *file, int32_t direction, gio_range all)
{
    question asked = question_of(file, direction, &all, 1);
    uint64_t first = all.begin, last = all.end - 1;
    int ours;

    return ask(&asked, F_OFD_GETLK, &first, &last, &ours);
}

int32_t gio_os_lock_check(gio_file *file, int32_t direction, const gio_range *places, uint64_t count)
{
    question asked = question_of(file, direction, places, count);

    return find_lock(&asked, F_OFD_GETLK, 0, INT64_MAX);
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
