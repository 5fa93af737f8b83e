/* os_linux.c: what the core asks of Linux, apart from the transfers of the other backends.
 *
 * A file is opened once or twice. The first descriptor is an ordinary one. Where direct I/O is wanted and to be had, a
 * second one is opened for the same inode (through /proc/self/fd, so that a rename in between changes nothing) with
 * O_DIRECT: transfers go through it, around the page cache, and must be aligned. The first one then serves the ragged
 * ends of writes alone. Both have O_DSYNC when the file is durable, so that what a caller does with fileno() is
 * durable as well; each request says RWF_DSYNC besides.
 *
 * Whether there is direct I/O, and with which alignments, statx(2) tells per file (STATX_DIOALIGN, Linux 6.1). Where
 * the kernel or the file system does not tell, opening with O_DIRECT tells whether, and we assume the page size, which
 * every disk's block divides. tmpfs is the exception: it takes O_DIRECT and means nothing by it.
 *
 * In this file: pages, locks and threads, the clock, codes, files, transfers, events.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "os_linux.h"

_Static_assert(sizeof(struct iovec) == sizeof(gio_segment) && sizeof(void *) == 8,
               "a segment array is handed to the kernel as it is: 64-bit systems only");
_Static_assert(sizeof(off_t) == 8, "file offsets");

/* ---- the system, pages --------------------------------------------------------------------------------- */

enum { HUGE_PAGE_BYTES = 2 * 1024 * 1024 }; /* x86-64, and arm64 with 4 KiB pages; elsewhere a harmless alignment */

void gio_system(gio_system_facts *facts)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    facts->page_size = page;
    facts->allocation_granularity = page;
    facts->huge_page_size = HUGE_PAGE_BYTES;
    facts->max_segments = 1024; /* IOV_MAX; one more and the call is EINVAL */
    facts->buffered_segments = 1024;
    facts->segment_unit = 1;
    facts->max_request_bytes = gio_round_down(0x7ffff000, page); /* MAX_RW_COUNT: more is cut short */
    facts->folio_bytes = HUGE_PAGE_BYTES; /* a large folio is no larger: MAX_PAGECACHE_ORDER of the kernel */
    /* A write with ragged ends is three requests, each of which waits for the one before (order.c). Up to here one request
     * through the page cache takes less time (measured, in turns: 0.4 to 0.9 of it). */
    facts->direct_bytes_min = 256 * 1024;
}

int32_t gio_pages_allocate(uint64_t nbytes, int32_t huge, void **address, uint64_t *allocated)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    int wants_huge = huge == GIO_HUGE_YES || (huge == GIO_HUGE_AUTO && nbytes >= HUGE_PAGE_BYTES);

    if (nbytes > (uint64_t)INT64_MAX - 2 * HUGE_PAGE_BYTES)
        return ENOMEM;
    nbytes = gio_round_up(gio_max(nbytes, 1), huge == GIO_HUGE_YES ? HUGE_PAGE_BYTES : page);
    *allocated = nbytes;
    if (huge == GIO_HUGE_YES) {
        /* Reserved pages of this size: the kernel fails the call when it has not enough of them. */
        void *mapped = mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26 /* MAP_HUGE_2MB */, -1, 0);
        if (mapped == MAP_FAILED)
            return errno;
        *address = mapped;
        return 0;
    }
    /* Map a huge page more than needed, keep the part that begins on one. */
    uint64_t spare = wants_huge ? HUGE_PAGE_BYTES : 0;
    char *mapped = mmap(NULL, nbytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return errno;
    if (wants_huge) {
        uint64_t head = gio_round_up((uint64_t)(uintptr_t)mapped, HUGE_PAGE_BYTES) - (uint64_t)(uintptr_t)mapped;
        if (head != 0)
            munmap(mapped, head);
        if (head != spare)
            munmap(mapped + head + nbytes, spare - head);
        mapped += head;
        madvise(mapped, nbytes, MADV_HUGEPAGE); /* a wish: a kernel without huge pages refuses, and works */
    } else if (huge == GIO_HUGE_NO) {
        madvise(mapped, nbytes, MADV_NOHUGEPAGE);
    }
    *address = mapped;
    return 0;
}

/* MADV_POPULATE_WRITE, Linux 5.14: faults all in one call, or says why not. */
static int32_t populate(void *begin, size_t nbytes)
{
    enum { POPULATE_WRITE = 23 };
    if (madvise(begin, nbytes, POPULATE_WRITE) == 0)
        return 0;
    return errno == EINTR || errno == EAGAIN ? GIO_E_INTERRUPTED : errno;
}

/* Another thread may be writing there: an atomic addition loses nothing of it, and changes nothing. The compiler is not to
 * know of what: of an addition of 0 some make a load, which gives no page. */
static void touch(char *begin, char *end, uint64_t page)
{
    volatile char nothing = 0;
    for (char *at = begin; at < end; at += page)
        __atomic_fetch_add(at, nothing, __ATOMIC_RELAXED);
}

int32_t gio_pages_prefault(void *address, uint64_t nbytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    char *begin = (char *)(uintptr_t)gio_round_down((uint64_t)(uintptr_t)address, page);
    char *end = (char *)(uintptr_t)gio_round_up((uint64_t)(uintptr_t)address + nbytes, page);

    int32_t code = populate(begin, (size_t)(end - begin));
    if (code == EINVAL && populate(begin, 0) == 0)
        return EACCES; /* the kernel knows the call: it is the memory that does not take it */
    if (code == EINVAL) {
        touch(begin, end, page);
        return 0;
    }
    return code == EHWPOISON ? ENOMEM : code;
}

void gio_os_pages_free(void *address, uint64_t allocated)
{
    munmap(address, allocated);
}

/* ---- locks, threads, clock, fork ----------------------------------------------------------------------- */

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(gio_mutex), "gio_mutex is too small");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(gio_condition), "gio_condition is too small");
_Static_assert(sizeof(pthread_t) <= sizeof(gio_thread), "gio_thread is too small");

void gio_mutex_init(gio_mutex *mutex) { pthread_mutex_init((pthread_mutex_t *)mutex, NULL); }
void gio_mutex_destroy(gio_mutex *mutex) { pthread_mutex_destroy((pthread_mutex_t *)mutex); }
void gio_mutex_lock(gio_mutex *mutex) { pthread_mutex_lock((pthread_mutex_t *)mutex); }
void gio_mutex_unlock(gio_mutex *mutex) { pthread_mutex_unlock((pthread_mutex_t *)mutex); }

void gio_condition_init(gio_condition *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* a deadline must not move when the clock is set */
    pthread_cond_init((pthread_cond_t *)condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void gio_condition_destroy(gio_condition *condition) { pthread_cond_destroy((pthread_cond_t *)condition); }
void gio_condition_wake_one(gio_condition *condition) { pthread_cond_signal((pthread_cond_t *)condition); }
void gio_condition_wake_all(gio_condition *condition) { pthread_cond_broadcast((pthread_cond_t *)condition); }

void gio_condition_wait(gio_condition *condition, gio_mutex *mutex, int64_t deadline_ns)
{
    if (deadline_ns < 0) {
        pthread_cond_wait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex);
    } else {
        struct timespec until = {deadline_ns / 1000000000, deadline_ns % 1000000000};
        pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, &until);
    }
}

int32_t gio_thread_start(gio_thread *thread, void *(*body)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    int code = pthread_create((pthread_t *)thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

void gio_thread_join(gio_thread *thread) { pthread_join(*(pthread_t *)thread, NULL); }

int64_t gio_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t gio_deadline_ns(int64_t timeout_ns)
{
    int64_t now_ns = gio_now_ns();
    return timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? -1 : now_ns + timeout_ns;
}

static uint64_t fork_count;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    gio_registered_before_fork();
    gio_staging_before_fork();
}
static void in_parent(void)
{
    gio_staging_after_fork(0);
    gio_registered_after_fork();
}
static void in_child(void) /* which has one thread */
{
    fork_count++;
    gio_staging_after_fork(1);
    gio_registered_after_fork();
}
static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

void gio_publish(int64_t *place, int64_t value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }

uint64_t gio_fork_count(void)
{
    pthread_once(&fork_once, watch_forks);
    return fork_count;
}

/* ---- codes --------------------------------------------------------------------------------------------- */

int gio_code_is_transient(int32_t code) { return code == EINTR || code == EAGAIN; }
int gio_code_is_for_now(int32_t code) { return code == EAGAIN; }
int gio_code_is_cancelled(int32_t code) { return code == ECANCELED; }

int gio_code_is_doubtful(int32_t code) { return code == EIO; } /* errseq_t: one for each file */

int gio_code_is_shortage(int32_t code)
{
    (void)code; /* io_uring says EAGAIN, and means the moment */
    return 0;
}

int32_t gio_code_no_memory(void) { return ENOMEM; }
int32_t gio_code_invalid(void) { return EINVAL; }
int32_t gio_code_cancelled(void) { return ECANCELED; }

/* ---- files: opening ------------------------------------------------------------------------------------ */

/* struct statx of <linux/stat.h>, whose older versions lack the last fields we ask for. */
struct file_status {
    uint32_t mask, block_size;
    uint64_t attributes;
    uint32_t links, user, group;
    uint16_t mode, unused_1;
    uint64_t inode, size, blocks, attributes_mask;
    uint64_t times[8];
    uint32_t special_major, special_minor, device_major, device_minor;
    uint64_t mount;
    uint32_t direct_memory_alignment, direct_offset_alignment;
    uint64_t unused_2[12];
};
_Static_assert(sizeof(struct file_status) == 256, "struct statx");
_Static_assert(offsetof(struct file_status, mount) == 0x90, "struct statx");
_Static_assert(offsetof(struct file_status, direct_memory_alignment) == 0x98, "struct statx");

enum { MASK_TYPE = 1, MASK_DIRECT_ALIGNMENT = 0x2000, MASK_MOUNT = 0x4000 }; /* STATX_TYPE, _DIOALIGN, _MNT_ID_UNIQUE */

static int read_status(int folder, const char *path, int flags, struct file_status *status)
{
    memset(status, 0, sizeof *status);
    return syscall(SYS_statx, (long)folder, path, (long)flags, (long)(MASK_TYPE | MASK_DIRECT_ALIGNMENT | MASK_MOUNT),
                   status) == 0;
}

static uint64_t mount_of(const struct file_status *status) { return status->mask & MASK_MOUNT ? status->mount : 0; }

uint64_t gio_mount_of(const void *path)
{
    struct file_status status;
    return read_status(AT_FDCWD, path, 0, &status) ? mount_of(&status) : 0;
}

/* Of the device that a file lies on, or that it is. */
static uint64_t find_device_segments(const struct file_status *status)
{
    if (S_ISBLK(status->mode))
        return gio_device_segments(0, status->special_major, status->special_minor);
    return gio_device_segments(mount_of(status), status->device_major, status->device_minor);
}

/* What the page cache writes back as one where it is larger than a page (XFS). Network file systems tell what they like to
 * transfer instead, which may be a MiB and means nothing here. */
static uint64_t block_of(const struct statfs *volume)
{
    enum { BLOCK_BYTES_MAX = 64 * 1024 }; /* the largest of any file system with a cache of Linux' */
    uint64_t block = (uint64_t)volume->f_bsize;
    return block <= BLOCK_BYTES_MAX && (block & (block - 1)) == 0 ? block : 0;
}

static int32_t find_alignment(int fd, struct file_status *status, gio_file_facts *facts)
{
    struct statfs volume;

    if (fstatfs(fd, &volume) == 0) {
        facts->file_system = (uint64_t)volume.f_type & 0xffffffff;
        facts->block_bytes = block_of(&volume);
    }
    if (read_status(fd, "", AT_EMPTY_PATH, status) && (status->mask & MASK_DIRECT_ALIGNMENT)) {
        facts->alignment_told = 1;
        facts->offset_alignment = status->direct_offset_alignment;
        facts->memory_alignment = status->direct_memory_alignment;
        if (facts->offset_alignment == 0 || facts->memory_alignment == 0)
            return EOPNOTSUPP; /* told: there is none */
        return gio_max(facts->offset_alignment, facts->memory_alignment) > GIO_STAGE_BYTES ? GIO_E_COARSE : 0;
    }
    if (facts->file_system == TMPFS_MAGIC || facts->file_system == RAMFS_MAGIC ||
        facts->file_system == HUGETLBFS_MAGIC)
        return GIO_E_UNTOLD;
    facts->offset_alignment = facts->memory_alignment = (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}

static int open_retrying(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* What is open once more: the same inode, whatever has its name by now. */
int gio_reopen(int fd, int flags)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open_retrying(path, flags & ~(O_CREAT | O_EXCL));
}

/* Somebody has a lease on the file (F_SETLEASE in fcntl(2)), which the kernel has asked him to give up. That is waited for
 * with the inode in hand, so that it is not a pipe that is waited for. */
static int32_t open_behind_lease(const char *path, int flags, int *fd)
{
    struct stat status;
    int held = open_retrying(path, O_PATH);

    if (held < 0)
        return errno;
    int32_t code = fstat(held, &status) < 0 ? errno : S_ISREG(status.st_mode) ? 0 : EAGAIN;
    if (code == 0 && (*fd = gio_reopen(held, flags)) < 0)
        code = errno == ENOENT || errno == ENOTDIR ? GIO_E_NO_PROC : errno;
    close(held);
    return code;
}

int32_t gio_open_checkable(const char *path, int flags, int *fd, struct stat *status)
{
    int32_t code = 0;
    *fd = open_retrying(path, flags | O_NONBLOCK);
    if (*fd < 0)
        code = errno == EWOULDBLOCK ? open_behind_lease(path, flags, fd) : errno;
    /* The flag has done its work: of a file that has it io_uring does not wait for the disk. */
    if (code == 0 && (fstat(*fd, status) < 0 || fcntl(*fd, F_SETFL, 0) < 0))
        code = errno;
    return code;
}

/* Looked at before it is opened, for that may already do something: it rewinds a tape, and takes a pipe's other end out of its
 * waiting. */
static int32_t refuse_what_has_no_offsets(const struct stat *status)
{
    if (S_ISDIR(status->st_mode))
        return EISDIR;
    return S_ISREG(status->st_mode) || S_ISBLK(status->st_mode) ? 0 : ESPIPE;
}

/* A device was opened though it may not be ready, which O_NONBLOCK means there. Now that it is known to be one: as asked. */
static int32_t open_device(int flags, int *fd)
{
    int opened = gio_reopen(*fd, flags);
    if (opened < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 /* no /proc */ : errno;
    close(*fd);
    *fd = opened;
    return 0;
}

/* Opens the ordinary descriptor. Does not truncate: that waits until nothing can fail any more. What was looked at may have
 * been replaced since, so what has been opened is looked at again. */
static int32_t open_ordinary(const char *path, int flags, int32_t create, int *fd, int *created)
{
    struct stat status;
    int32_t code;

    *created = 0;
    if (create != GIO_OPEN_NEW && stat(path, &status) == 0 && (code = refuse_what_has_no_offsets(&status)) != 0)
        return code;
    if (create == GIO_OPEN_EXISTING) {
        code = gio_open_checkable(path, flags, fd, &status);
    } else {
        code = gio_open_checkable(path, flags | O_CREAT | O_EXCL, fd, &status);
        *created = *fd >= 0;
        if (code == EEXIST && create != GIO_OPEN_NEW)
            code = gio_open_checkable(path, flags | O_CREAT, fd, &status);
    }
    if (code == 0)
        code = refuse_what_has_no_offsets(&status);
    return code == 0 && S_ISBLK(status.st_mode) ? open_device(flags, fd) : code;
}

/* Opens the same inode again, for direct I/O. */
static int32_t open_direct(int ordinary, int flags, int *fd, gio_file_facts *facts)
{
    struct file_status status;
    int32_t code = find_alignment(ordinary, &status, facts);

    if (code)
        return code;
    *fd = gio_reopen(ordinary, flags | O_DIRECT);
    if (*fd >= 0) {
        facts->device_segments = facts->alignment_told ? find_device_segments(&status) : 0;
        return 0;
    }
    return errno == ENOENT || errno == ENOTDIR ? GIO_E_NO_PROC : errno; /* the file is there: it is open */
}

/* Takes away what was made in vain; not what somebody has put there since. */
static void remove_created(const char *path, int fd)
{
    struct stat status, now;
    if (fstat(fd, &status) == 0 && lstat(path, &now) == 0 && now.st_dev == status.st_dev && now.st_ino == status.st_ino)
        unlink(path);
}

static int32_t truncate_unlocked(gio_file *file)
{
    struct stat status;

    if (fstat((int)file->buffered_handle, &status) < 0)
        return errno;
    if (!S_ISREG(status.st_mode)) /* a device has the size it has */
        return 0;
    int32_t code = gio_locks_check_resize(file, (uint64_t)status.st_size, 0);
    return code ? code : gio_os_file_resize(file, 0);
}

/* Makes of the ordinary descriptor the one or two that the file is to have. */
static int32_t open_transfers(int ordinary, int flags, int32_t direct, int *transfers, gio_file_facts *facts)
{
    struct file_status unused;
    int around;

    *transfers = ordinary;
    if (direct == GIO_DIRECT_NO) {
        find_alignment(ordinary, &unused, facts); /* the rules of write_gather are the same for buffered files */
        facts->direct_code = GIO_E_NOT_ASKED;
        return 0;
    }
    facts->direct_code = open_direct(ordinary, flags, &around, facts);
    facts->direct = facts->direct_code == 0;
    if (facts->direct)
        *transfers = around;
    return direct == GIO_DIRECT_YES ? facts->direct_code : 0;
}

int32_t gio_os_file_open(gio_file *file, const void *path, int32_t access, int32_t create, int32_t direct,
                         int32_t durable, gio_file_facts *facts)
{
    int flags = access == GIO_ACCESS_READ ? O_RDONLY : access == GIO_ACCESS_WRITE ? O_WRONLY : O_RDWR;
    int ordinary = -1, transfers = -1, created;

    memset(facts, 0, sizeof *facts);
    if (durable)
        flags |= O_DSYNC;
    int32_t code = open_ordinary(path, flags, create, &ordinary, &created);
    if (code == 0)
        code = open_transfers(ordinary, flags, direct, &transfers, facts);
    file->buffered_handle = ordinary;
    file->handle = facts->handle = transfers;
    file->writes_through = durable; /* O_DSYNC */
    facts->created = created;
    if (code == 0 && create == GIO_OPEN_TRUNCATE && !created)
        code = truncate_unlocked(file);
    if (code == 0)
        return 0;
    if (transfers >= 0 && transfers != ordinary)
        close(transfers);
    if (ordinary >= 0 && created)
        remove_created(path, ordinary);
    if (ordinary >= 0)
        close(ordinary);
    return code;
}

/* ---- files: length and stable storage ------------------------------------------------------------------ */

int32_t gio_os_file_size(gio_file *file, uint64_t *size)
{
    struct stat status;
    if (fstat((int)file->buffered_handle, &status) < 0)
        return errno;
    off_t end = status.st_size;
    if (S_ISBLK(status.st_mode) && (end = lseek((int)file->buffered_handle, 0, SEEK_END)) < 0)
        return errno;
    *size = (uint64_t)end;
    return 0;
}

/* A device has its size. A mapped file Linux would cut, and an access behind its new end would be a SIGBUS; Windows refuses. */
static int32_t check_resizable(int fd, uint64_t size)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return errno;
    if (!S_ISREG(status.st_mode))
        return GIO_E_FIXED_SIZE;
    return size < (uint64_t)status.st_size && gio_is_mapped((uint64_t)status.st_dev, (uint64_t)status.st_ino) ? GIO_E_MAPPED : 0;
}

int32_t gio_os_file_resize(gio_file *file, uint64_t size)
{
    int fd = (int)file->buffered_handle, result;
    int32_t code = check_resizable(fd, size);
    if (code)
        return code;
    do
        result = ftruncate(fd, (off_t)size);
    while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

/* Whether so many bytes more are more than there is room for, as far as the file system tells: one of 0 blocks does not
 * know. Root may use what is set aside for it. */
int gio_is_too_much(int fd, uint64_t nbytes)
{
    struct statfs volume;

    if (nbytes == 0 || fstatfs(fd, &volume) < 0 || volume.f_blocks == 0)
        return 0;
    uint64_t block = (uint64_t)(volume.f_frsize ? volume.f_frsize : volume.f_bsize), room = volume.f_bavail;
    if (geteuid() == 0)
        room = gio_max(room, volume.f_bfree);
    return block != 0 && (nbytes - 1) / block >= room;
}

const int32_t gio_reserve_is_alone = 0;

/* Looks before it tries: where there is too little, ext4 takes all that there is and then fails; and what it took cannot be
 * given back before the file is closed (gio_free_behind_end). */
int32_t gio_os_file_reserve(gio_file *file, uint64_t size, int32_t *reserved)
{
    int fd = (int)file->buffered_handle;
    struct stat status;

    *reserved = 0;
    if (fstat(fd, &status) < 0)
        return errno;
    if (!S_ISREG(status.st_mode))
        return GIO_E_FIXED_SIZE;
    uint64_t has = (uint64_t)status.st_blocks * 512;
    if (size > has && gio_is_too_much(fd, size - has))
        return ENOSPC;
    *reserved = 1;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) == 0)
        return 0;
    int32_t code = errno;
    *reserved = code != EOPNOTSUPP && code != ENOSYS;
    if (!*reserved)
        return 0; /* the file system cannot; that the file will fit nobody promises */
    return code == EINTR ? GIO_E_INTERRUPTED : code;
}

int32_t gio_os_file_flush(gio_file *file)
{
    int result;
    do
        result = fsync((int)file->handle);
    while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

void gio_os_drop_cache(gio_file *file, uint64_t offset, uint64_t length)
{
    uint64_t page = file->limits.ragged_bytes; /* the kernel drops whole pages only */
    uint64_t begin = gio_round_down(offset, page), end = gio_round_up(offset + length, page);
    posix_fadvise((int)file->buffered_handle, (off_t)begin, (off_t)(end - begin), POSIX_FADV_DONTNEED);
}

/* ---- files: closing ------------------------------------------------------------------------------------- */

int32_t gio_close_descriptor(int fd)
{
    return close(fd) == 0 || errno == EINTR ? 0 : errno; /* a signal does not keep Linux from closing it */
}

/* Elsewhere (network file systems, FUSE) Linux may give a lease that other machines know nothing of. */
int gio_leases_bind_all(uint64_t file_system)
{
    static const uint64_t local[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                     F2FS_SUPER_MAGIC, TMPFS_MAGIC,     OVERLAYFS_SUPER_MAGIC};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        if (file_system == local[i])
            return 1;
    return 0;
}

/* A descriptor for gio_free_behind_end, or -1. */
static int open_to_free(const gio_file *file)
{
    int fd = (int)file->buffered_handle;
    struct stat status;

    if (fstat(fd, &status) < 0 || (uint64_t)status.st_size >= file->reserved_end ||
        !gio_leases_bind_all(file->file_system))
        return -1;
    return gio_reopen(fd, O_WRONLY);
}

/* Whoever else has the file open is in the way. So is a request of io_uring's, which lets go of its file a moment after its
 * completion has been seen; hence the patience, of 31 ms in all. Who has to wait has us told by a signal, SIGIO if none is
 * named, which would end the process. */
int gio_take_lease(int fd)
{
    if (fcntl(fd, F_SETSIG, SIGURG) < 0)
        return 0;
    for (long ms = 1; fcntl(fd, F_SETLEASE, F_WRLCK) < 0; ms *= 2) {
        struct timespec moment = {0, ms * 1000000};
        if (errno != EAGAIN || ms > 16)
            return 0;
        nanosleep(&moment, NULL);
    }
    return 1;
}

void gio_give_lease(int fd) { fcntl(fd, F_SETLEASE, F_UNLCK); }

/* Frees the blocks behind the end of the file: setting the length that it has does that. Who appended between our look at
 * the length and that would be cut; so it is done under a lease (F_SETLEASE in fcntl(2)), which the kernel gives to one
 * who alone has the file open, and during which everybody else waits in open(2). The descriptor was opened for this:
 * nobody can have a copy of it. Where there is no lease to be had, for somebody has the file open, or it is another user's,
 * the space stays reserved. */
void gio_free_behind_end(int fd)
{
    struct stat status;

    if (!gio_take_lease(fd))
        return;
    if (fstat(fd, &status) == 0)
        while (ftruncate(fd, status.st_size) < 0 && errno == EINTR)
            continue;
    gio_give_lease(fd);
}

int32_t gio_os_file_close(gio_file *file, int32_t gives_back)
{
    int last = gives_back ? open_to_free(file) : -1;
    int32_t code = file->handle != file->buffered_handle ? gio_close_descriptor((int)file->handle) : 0;
    int32_t other = gio_close_descriptor((int)file->buffered_handle);

    code = code ? code : other;
    if (last >= 0) {
        gio_free_behind_end(last);
        other = gio_close_descriptor(last);
    }
    return code ? code : other;
}

/* ---- transfers in the calling thread -------------------------------------------------------------------- */

/* What a system says that does not have these calls, or not this flag, or forbids them: Linux before 4.7, a sandbox. */
static int is_refused_call(int code) { return code == ENOSYS || code == EOPNOTSUPP || code == EPERM; }

/* By number, for musl has their names since 1.2.5 only. The 0 behind the offset is its upper half, of 32-bit systems. Where they
 * are refused the older calls do the same: a file that is to be durable was opened with O_DSYNC. */
static long transfer(int writes, int fd, const struct iovec *vector, int count, off_t offset, int durable)
{
    long flags = writes && durable ? RWF_DSYNC : 0;
    long result = syscall(writes ? SYS_pwritev2 : SYS_preadv2, (long)fd, vector, (long)count, (long)offset, 0L, flags);

    if (result >= 0 || !is_refused_call(errno))
        return result;
    return writes ? pwritev(fd, vector, count, offset) : preadv(fd, vector, count, offset);
}

int64_t gio_os_transfer(const gio_request *request)
{
    const struct iovec *vector = (const struct iovec *)&request->segments[request->segment_first];
    int count = (int)(request->segment_count - request->segment_first);
    int fd = (int)gio_request_handle(request);
    off_t offset = (off_t)(request->piece.file_offset + request->from);
    const gio_operation *operation = request->operation;
    long result;

    if (request->verb == GIO_WRITE_BACK)
        result = sync_file_range(fd, (off_t)request->write_back.begin,
                                 (off_t)(request->write_back.end - request->write_back.begin),
                                 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    else
        result = transfer(operation->direction == GIO_WRITE, fd, vector, count, offset, operation->file->durable);
    return result < 0 ? -(int64_t)errno : result;
}

/* ---- events: eventfd ------------------------------------------------------------------------------------ */

struct gio_event {
    int fd;
    int is_set; /* saves the system call of setting it twice */
    uint64_t fork_count;
};

int32_t gio_event_create(gio_event **out)
{
    gio_event *event = calloc(1, sizeof *event);
    if (event == NULL)
        return ENOMEM;
    event->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event->fd < 0) {
        int32_t code = errno;
        free(event);
        return code;
    }
    event->fork_count = gio_fork_count();
    *out = event;
    return 0;
}

int64_t gio_event_handle(gio_event *event) { return event->fd; }

void gio_event_set(gio_event *event)
{
    uint64_t one = 1;
    if (event->fork_count != gio_fork_count())
        return; /* a child would wake its parent */
    if (__atomic_exchange_n(&event->is_set, 1, __ATOMIC_ACQ_REL) == 0 && write(event->fd, &one, sizeof one) < 0)
        __atomic_store_n(&event->is_set, 0, __ATOMIC_RELEASE); /* cannot happen: the counter is at 0 */
}

/* First the counter, then the flag: whoever finds the flag still up has finished something before we go on to look. */
void gio_event_clear(gio_event *event)
{
    uint64_t count;
    if (event->fork_count != gio_fork_count() || read(event->fd, &count, sizeof count) < 0)
        return;
    __atomic_store_n(&event->is_set, 0, __ATOMIC_SEQ_CST);
}

int32_t gio_event_wait(gio_event *event, int64_t timeout_ns)
{
    struct pollfd poller = {event->fd, POLLIN, 0};
    struct timespec time = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int result = ppoll(&poller, 1, timeout_ns < 0 ? NULL : &time, NULL);
    if (result < 0)
        return errno == EINTR ? GIO_E_INTERRUPTED : errno;
    return result == 0 ? GIO_E_TIMEOUT : 0;
}

void gio_event_free(gio_event *event)
{
    if (event == NULL)
        return;
    close(event->fd);
    free(event);
}

void gio_event_let_go(gio_event **place)
{
    gio_event_free(*place);
    *place = NULL;
}

/* ---- what this system has ------------------------------------------------------------------------------- */

const gio_backend *const gio_backends[] = {&gio_backend_uring, &gio_backend_threads, &gio_backend_sync, NULL};
