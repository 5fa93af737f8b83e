/* mapping_linux.c: sections, and the windows that are mapped of them. The names are those of Windows, which came first.
 *
 * A section is what can be mapped: a file, or memory, with a name or without. Here it is a descriptor: of the file, of a
 * memfd, or of a file in /dev/shm that stands for the name. A window is one mmap of a part of it. Windows outlive the
 * section's being closed, for arrays lie in them; the structure goes with the last of both.
 *
 * A file that is cut shorter under a mapping turns its tail into SIGBUS. Within this process that is refused, as Windows
 * does: all sections are in one list, and who sets a file's length asks gio_is_mapped. Against other
 * processes nothing helps but not to touch the memory oneself: gio_section_copy has the kernel do it
 * (process_vm_readv(2) with our own process at both ends), which answers EFAULT where a load would be a SIGBUS.
 *
 * A name has to go with its last user, and a user who was killed cannot clean up. So a name's file carries two locks,
 * each a byte far behind its end, and the kernel drops a dead process's locks:
 *
 *     LIFE   shared, by everyone who has the name open. Who could have it exclusively is alone.
 *     GATE   exclusively, by who comes or goes, while he does so.
 *
 *     open:  take the gate; look again whether the file still has the name (else begin anew). Is life to be had
 *            exclusively? Then nobody lives here: what stands there is fresh, or was left by the dead; empty it, it is ours.
 *            Else share life. The creator keeps the gate until the memory is ready for others (gio_section_publish).
 *     close: take the gate; is life to be had exclusively? Then we are the last: remove the name. The locks go with the
 *            descriptor.
 *
 * They are OFD locks: they belong to the descriptor that open(2) made, not to the process, so that a process may open a
 * name twice. A forked child has that same descriptor and would speak for its parent: it takes one of its own
 * (hold_names_in_child).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "os_linux.h"

#define SHARED_MEMORY "/dev/shm"

enum { HUGE_PAGE_BYTES = 2 * 1024 * 1024, HUGE_PAGE_SHIFT = 21 };
static const off_t GATE = (off_t)1 << 62, LIFE = ((off_t)1 << 62) + 1;

struct gio_section {
    gio_section *next;     /* in the list of all */
    int fd;                /* of what is mapped */
    int gate;              /* of the same file, with the locks of the name, or -1. Not mapped: that keeps locks alive */
    char *name;            /* its path in /dev/shm, or NULL */
    uint64_t device, inode, size;
    int protection, flags; /* of mmap */
    int is_file;           /* somebody else may cut it shorter */
    int closed;            /* takes no more calls ... */
    uint64_t calls;        /* ... and the descriptors go when these have left */
    uint64_t windows;
    int held;              /* by its owner, until gio_section_free */
};

/* ---- the list of all --------------------------------------------------------------------------------------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the list and the counts */
static gio_section *sections;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lock_list(void) { pthread_mutex_lock(&mutex); }
static void unlock_list(void) { pthread_mutex_unlock(&mutex); }

/* A forked child goes on using what is mapped: the list must be whole then, and the mutex not some other thread's. */
static void hold_names_in_child(void);
static void watch_forks(void) { pthread_atfork(lock_list, unlock_list, hold_names_in_child); }

static void link_section(gio_section *section)
{
    pthread_once(&once, watch_forks);
    lock_list();
    section->next = sections;
    sections = section;
    unlock_list();
}

static void remove_name(const char *path, int fd);
static void close_gate(int fd);

/* List locked, and released meanwhile. Gives back what nobody needs any more. */
static void settle(gio_section *section)
{
    int fd = section->closed && section->calls == 0 ? section->fd : -1, gate = section->gate;
    if (fd >= 0) {
        section->fd = section->gate = -1;
        section->calls++; /* nobody frees it under us */
        unlock_list();
        close(fd);
        if (gate >= 0) {
            remove_name(section->name, gate);
            close_gate(gate);
        }
        lock_list();
        section->calls--;
    }
    if (section->fd >= 0 || section->held || section->calls != 0 || section->windows != 0)
        return;
    gio_section **at = &sections;
    while (*at && *at != section)
        at = &(*at)->next;
    if (*at)
        *at = section->next;
    free(section->name);
    free(section);
}

/* Between enter and leave the descriptor stays open. */
static int32_t enter(gio_section *section)
{
    lock_list();
    int32_t code = section->closed ? GIO_E_CLOSED : 0;
    section->calls += code == 0;
    unlock_list();
    return code;
}

static void leave(gio_section *section)
{
    lock_list();
    section->calls--;
    settle(section);
    unlock_list();
}

int gio_is_mapped(uint64_t device, uint64_t inode)
{
    lock_list();
    const gio_section *at = sections;
    while (at && !(at->is_file && at->device == device && at->inode == inode && (!at->closed || at->windows != 0)))
        at = at->next;
    unlock_list();
    return at != NULL;
}

/* ---- making sections ---------------------------------------------------------------------------------------- */

static int32_t new_section(int32_t access, int32_t flags, gio_section **out)
{
    gio_section *section = calloc(1, sizeof *section);
    if (section == NULL)
        return ENOMEM;
    section->fd = section->gate = -1;
    section->held = 1;
    section->protection = PROT_READ | (access == GIO_MAP_READ ? 0 : PROT_WRITE) |
                          (flags & GIO_MAP_EXECUTE ? PROT_EXEC : 0);
    /* A private copy is charged when it is made, page by page, not for its whole length at once. */
    section->flags = access == GIO_MAP_COPY ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
    *out = section;
    return 0;
}

static void discard(gio_section *section)
{
    if (section->fd >= 0)
        close(section->fd);
    if (section->gate >= 0)
        close_gate(section->gate);
    free(section->name);
    free(section);
}

static void tell(gio_section *section, int32_t flags, int32_t created, gio_section_facts *facts)
{
    facts->size = section->size;
    facts->granularity = flags & GIO_MAP_LARGE_PAGES ? HUGE_PAGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE);
    facts->created = created;
    facts->device = section->device;
    facts->inode = section->inode;
    link_section(section);
}

/* Makes the file `size` bytes long with the new part's space reserved. */
static int32_t grow(int fd, uint64_t before, uint64_t size)
{
    static const char zeros[64 * 1024];
    int result;

    do
        result = fallocate(fd, 0, (off_t)before, (off_t)(size - before));
    while (result < 0 && errno == EINTR);
    int32_t code = result < 0 ? errno : 0;
    if (code == EOPNOTSUPP || code == ENOSYS) { /* no reservation here: zeros take their place for real */
        code = 0;
        for (uint64_t at = before; at < size && code == 0;) {
            ssize_t count = pwrite(fd, zeros, (size_t)gio_min(size - at, sizeof zeros), (off_t)at);
            if (count >= 0)
                at += (uint64_t)count;
            else if (errno != EINTR)
                code = errno;
        }
    }
    if (code && ftruncate(fd, (off_t)before) < 0) /* what it did reserve */
        return errno;
    return code;
}

int32_t gio_section_of_file(const void *path, int32_t access, int32_t flags, uint64_t size, gio_section **out,
                            gio_section_facts *facts)
{
    gio_section *section;
    struct stat status;
    int32_t code;

    if (flags & (GIO_MAP_NO_CACHE | GIO_MAP_LARGE_PAGES | GIO_MAP_RESERVE))
        return EOPNOTSUPP;
    if (stat(path, &status) < 0) /* before it is opened: that would wait for the other end of a pipe */
        return errno;
    if (!S_ISREG(status.st_mode))
        return S_ISDIR(status.st_mode) ? EISDIR : GIO_E_NO_FILE;
    code = new_section(access, flags, &section);
    if (code)
        return code;
    do
        section->fd = open(path, (access == GIO_MAP_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    while (section->fd < 0 && errno == EINTR);
    if (section->fd < 0 || fstat(section->fd, &status) < 0)
        code = errno;
    else if (!S_ISREG(status.st_mode))
        code = GIO_E_NO_FILE;
    else if (size == 0 && status.st_size == 0)
        code = GIO_E_EMPTY;
    else if (size > (uint64_t)status.st_size && access != GIO_MAP_WRITE)
        code = GIO_E_BEYOND;
    else if (size > (uint64_t)status.st_size)
        code = grow(section->fd, (uint64_t)status.st_size, size);
    if (code) {
        discard(section);
        return code;
    }
    section->is_file = 1;
    section->size = size ? size : (uint64_t)status.st_size;
    section->device = (uint64_t)status.st_dev;
    section->inode = (uint64_t)status.st_ino;
    tell(section, flags, 0, facts);
    *out = section;
    return 0;
}

/* More memory than there is would be granted, and end in the kernel's killing somebody. */
static int32_t would_fit(uint64_t nbytes)
{
    struct sysinfo info;
    if (sysinfo(&info) < 0)
        return 0;
    return nbytes > ((uint64_t)info.totalram + info.totalswap) * info.mem_unit ? ENOMEM : 0;
}

static int32_t of_nameless_memory(int32_t access, int32_t flags, uint64_t size, gio_section **out,
                                  gio_section_facts *facts)
{
    gio_section *section;
    int32_t code = flags & GIO_MAP_RESERVE ? 0 : would_fit(size);
    int huge = flags & GIO_MAP_LARGE_PAGES ? MFD_HUGETLB | HUGE_PAGE_SHIFT << 26 /* MFD_HUGE_2MB */ : 0;

    if (code == 0)
        code = new_section(access, flags, &section);
    if (code)
        return code;
    if (huge)
        size = gio_round_up(size, HUGE_PAGE_BYTES);
    section->size = size;
    section->fd = memfd_create("gatherio", MFD_CLOEXEC | (unsigned)huge);
    if (section->fd < 0 || ftruncate(section->fd, (off_t)size) < 0)
        code = errno;
    else if (huge && fallocate(section->fd, 0, 0, (off_t)size) < 0) /* reserved pages: all of them, or none */
        code = errno == ENOSPC ? ENOMEM : errno;
    if (code) {
        discard(section);
        return code;
    }
    tell(section, flags, 1, facts);
    *out = section;
    return 0;
}

/* ---- names ---------------------------------------------------------------------------------------------------- */

static int32_t lock_byte(int fd, off_t byte, short type, int waits)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    if (fcntl(fd, waits ? F_OFD_SETLKW : F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EINTR ? GIO_E_INTERRUPTED : errno == EACCES ? EAGAIN : errno;
}

/* Closing gives locks back only with the last descriptor, and a child that was forked in this moment may have one. */
static void close_gate(int fd)
{
    struct flock all;
    memset(&all, 0, sizeof all);
    all.l_type = F_UNLCK;
    all.l_whence = SEEK_SET;
    fcntl(fd, F_OFD_SETLK, &all);
    close(fd);
}

/* Nobody else's file, no link, no pipe: /dev/shm is everybody's. */
static int32_t check_ours(int fd, struct stat *status)
{
    if (fstat(fd, status) < 0)
        return errno;
    return S_ISREG(status->st_mode) && status->st_uid == geteuid() && (status->st_mode & 077) == 0 ? 0 : EACCES;
}

static int still_has_the_name(const char *path, const struct stat *status)
{
    struct stat now;
    return lstat(path, &now) == 0 && now.st_dev == status->st_dev && now.st_ino == status->st_ino;
}

/* The last one out. Does not wait for ever: a process that was stopped may hold the gate. The file is then left to whoever
 * makes a name next (sweep). */
static void remove_name(const char *path, int fd)
{
    enum { PATIENCE_MS = 1000 };
    static const struct timespec millisecond = {0, 1000000};
    struct stat status;
    int32_t code;

    for (int i = 0; (code = lock_byte(fd, GATE, F_WRLCK, 0)) == EAGAIN && i < PATIENCE_MS; i++)
        nanosleep(&millisecond, NULL);
    if (code == 0 && lock_byte(fd, LIFE, F_WRLCK, 0) == 0 && fstat(fd, &status) == 0 &&
        still_has_the_name(path, &status))
        unlink(path);
}

static int name_prefix(char *prefix, size_t room)
{
    return snprintf(prefix, room, "gatherio-%u-", (unsigned)geteuid());
}

/* Removes what processes that were killed have left behind. Whoever is about to open such a file finds out (at the
 * gate) that it has lost its name. */
static void sweep(void)
{
    char prefix[40], path[sizeof SHARED_MEMORY + 256];
    int length = name_prefix(prefix, sizeof prefix);
    struct dirent *entry;
    struct stat status;
    DIR *folder = opendir(SHARED_MEMORY);

    while (folder && (entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, prefix, (size_t)length) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", SHARED_MEMORY, entry->d_name);
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            continue;
        if (check_ours(fd, &status) == 0 && lock_byte(fd, GATE, F_WRLCK, 0) == 0 &&
            lock_byte(fd, LIFE, F_WRLCK, 0) == 0 && still_has_the_name(path, &status))
            unlink(path);
        close_gate(fd);
    }
    if (folder)
        closedir(folder);
}

/* Opens the name's file and goes through the gate, which stays ours. `*alone`: nobody has the name open. */
static int32_t enter_gate(const char *path, int32_t create, int *out, int *alone)
{
    struct stat status;
    int32_t code;

    for (;;) {
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (create ? O_CREAT : 0), 0600);
        if (fd < 0 && errno == EINTR)
            continue;
        if (fd < 0)
            return errno == ELOOP ? EACCES : errno; /* a link: not ours */
        code = check_ours(fd, &status);
        if (code == 0)
            code = lock_byte(fd, GATE, F_WRLCK, 1);
        if (code == 0 && still_has_the_name(path, &status)) {
            code = lock_byte(fd, LIFE, F_WRLCK, 0);
            *alone = code == 0;
            if (code == EAGAIN)
                code = lock_byte(fd, LIFE, F_RDLCK, 0);
            if (code == 0) {
                *out = fd;
                return 0;
            }
        }
        close_gate(fd);
        if (code)
            return code;
    }
}

static int32_t fill_new_name(int fd, int32_t flags, uint64_t size)
{
    if (ftruncate(fd, 0) < 0 /* what the dead have left */ || fchmod(fd, 0600) < 0 /* whatever the umask */)
        return errno;
    if (flags & GIO_MAP_RESERVE)
        return ftruncate(fd, (off_t)size) < 0 ? errno : 0;
    int32_t code = would_fit(size);
    return code ? code : grow(fd, 0, size);
}

/* The same file by another descriptor, with locks of its own. */
static int open_again(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

static int32_t of_named_memory(const char *name, int32_t create, int32_t access, int32_t flags, uint64_t size,
                               gio_section **out, gio_section_facts *facts)
{
    char prefix[40], path[sizeof SHARED_MEMORY + 256];
    struct stat status;
    int alone = 0;
    gio_section *section;

    name_prefix(prefix, sizeof prefix);
    if (snprintf(path, sizeof path, "%s/%s%s", SHARED_MEMORY, prefix, name) >= (int)sizeof path)
        return ENAMETOOLONG;
    int32_t code = new_section(access, flags, &section);
    if (code)
        return code;
    code = enter_gate(path, create, &section->gate, &alone);
    if (code == 0 && alone && !create) { /* the dead's */
        unlink(path);
        code = ENOENT;
    }
    if (code == 0 && alone) {
        sweep(); /* not this one: its gate is taken */
        code = fill_new_name(section->gate, flags, size);
    }
    if (code == 0 && ((section->fd = open_again(section->gate)) < 0 || fstat(section->fd, &status) < 0))
        code = errno;
    if (code == 0 && (section->name = strdup(path)) == NULL)
        code = ENOMEM;
    if (code) {
        if (alone && create)
            unlink(path);
        discard(section);
        return code;
    }
    section->size = (uint64_t)status.st_size;
    tell(section, flags, alone, facts);
    if (!alone)
        gio_section_publish(section);
    *out = section;
    return 0;
}

void gio_section_publish(gio_section *section)
{
    if (section->gate < 0 || enter(section))
        return;
    lock_byte(section->gate, LIFE, F_RDLCK, 0); /* from exclusive to shared, in one step: cannot fail */
    lock_byte(section->gate, GATE, F_UNLCK, 0);
    leave(section);
}

int32_t gio_section_of_memory(const void *name, int32_t create, int32_t access, int32_t flags, uint64_t size,
                              gio_section **out, gio_section_facts *facts)
{
    if (flags & GIO_MAP_NO_CACHE || (name && flags & GIO_MAP_LARGE_PAGES))
        return EOPNOTSUPP;
    if (size > INT64_MAX)
        return ENOMEM;
    if (name)
        return of_named_memory(name, create, access, flags, size, out, facts);
    return of_nameless_memory(access, flags, size, out, facts);
}

/* The child shares its parent's descriptors and with them the parent's locks. Ones of its own, with its own share of life;
 * where that fails, the name is the parent's alone. The list is locked: by the thread that forked. */
static void hold_names_in_child(void)
{
    for (gio_section *at = sections; at; at = at->next) {
        if (at->gate < 0)
            continue;
        int gate = open_again(at->gate);
        if (gate >= 0 && lock_byte(gate, LIFE, F_RDLCK, 0) != 0) {
            close(gate);
            gate = -1;
        }
        close(at->gate);
        at->gate = gate;
    }
    unlock_list();
}

void gio_section_close(gio_section *section)
{
    lock_list();
    section->closed = 1;
    settle(section);
    unlock_list();
}

void gio_section_free(gio_section *section)
{
    if (section == NULL)
        return;
    lock_list();
    section->closed = 1;
    section->held = 0;
    settle(section);
    unlock_list();
}

/* ---- windows -------------------------------------------------------------------------------------------------- */

int32_t gio_section_map(gio_section *section, uint64_t offset, uint64_t nbytes, void **address)
{
    int32_t code = enter(section);
    if (code)
        return code;
    void *mapped = mmap(NULL, nbytes, section->protection, section->flags, section->fd, (off_t)offset);
    if (mapped == MAP_FAILED) {
        code = errno;
    } else {
        *address = mapped;
        lock_list();
        section->windows++;
        unlock_list();
    }
    leave(section);
    return code;
}

void gio_section_unmap(gio_section *section, uint64_t nbytes, void *address)
{
    munmap(address, nbytes);
    lock_list();
    section->windows--;
    settle(section);
    unlock_list();
}

/* msync(2) is fsync(2) of a range. */
int32_t gio_section_flush(gio_section *section, void *address, uint64_t nbytes)
{
    int32_t code = enter(section);
    if (code)
        return code;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), slack = (uint64_t)(uintptr_t)address % page;
    if (msync((char *)address - slack, (size_t)(nbytes + slack), MS_SYNC) < 0)
        code = errno;
    leave(section);
    return code;
}

/* What was written through any mapping is in the page cache like anything else. */
int32_t gio_section_flush_all(gio_section *section)
{
    int32_t code = enter(section);
    if (code)
        return code;
    if (fsync(section->fd) < 0)
        code = errno;
    leave(section);
    return code;
}

int32_t gio_section_advise(gio_section *section, void *address, uint64_t nbytes, int32_t advice)
{
    static const int native[] = {MADV_NORMAL, MADV_SEQUENTIAL, MADV_RANDOM, MADV_WILLNEED, MADV_DONTNEED};
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), slack = (uint64_t)(uintptr_t)address % page;

    if (advice == GIO_ADVICE_DONTNEED) { /* whole pages inside only; of a private copy it would drop what was written */
        uint64_t skip = slack ? gio_min(page - slack, nbytes) : 0;
        address = (char *)address + skip;
        nbytes = gio_round_down(nbytes - skip, page);
        slack = 0;
        if (nbytes == 0 || section->flags & MAP_PRIVATE)
            return 0;
    }
    return madvise((char *)address - slack, (size_t)(nbytes + slack), native[advice]) < 0 ? errno : 0;
}

/* Memory of a section that was only reserved: allocate it, and touch it, so that gio_section_committed finds it. */
int32_t gio_section_commit(gio_section *section, void *address, uint64_t offset, uint64_t nbytes)
{
    (void)address; /* of a window that may be read-only, or a copy */
    int result;
    int32_t code = would_fit(nbytes);
    if (code == 0)
        code = enter(section);
    if (code)
        return code;
    do
        result = fallocate(section->fd, 0, (off_t)offset, (off_t)nbytes);
    while (result < 0 && errno == EINTR);
    if (result < 0) {
        code = errno;
    } else {
        void *mapped = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, section->fd, (off_t)offset);
        if (mapped == MAP_FAILED) {
            code = errno;
        } else {
            code = gio_pages_prefault(mapped, nbytes);
            munmap(mapped, nbytes);
        }
    }
    leave(section);
    return code;
}

int32_t gio_section_committed(gio_section *section, void *address, uint64_t offset, uint64_t nbytes)
{
    (void)address;
    int32_t code = enter(section);
    if (code)
        return code;
    off_t hole = lseek(section->fd, (off_t)offset, SEEK_HOLE);
    if (hole < 0)
        code = errno;
    else if ((uint64_t)hole < offset + nbytes)
        code = GIO_E_BEYOND;
    leave(section);
    return code;
}

/* ---- copies that survive a file's being cut ------------------------------------------------------------------- */

static int32_t kernel_copies(void *window, void *memory, uint64_t nbytes, int32_t direction)
{
    for (uint64_t done = 0; done < nbytes;) {
        size_t step = (size_t)gio_min(nbytes - done, 0x7ffff000); /* MAX_RW_COUNT: more is cut short */
        struct iovec here = {(char *)memory + done, step}, there = {(char *)window + done, step};
        ssize_t count = direction == GIO_READ ? process_vm_readv(getpid(), &here, 1, &there, 1, 0)
                                              : process_vm_writev(getpid(), &here, 1, &there, 1, 0);
        if (count < 0)
            return errno;
        if (count == 0)
            return EFAULT;
        done += (uint64_t)count;
    }
    return 0;
}

int32_t gio_section_copy(gio_section *section, int32_t direction, void *window, void *memory, uint64_t nbytes,
                         uint64_t end)
{
    struct stat status;
    int32_t code = enter(section);
    if (code)
        return code;
    /* Memory stays as long as it is: what is faster, for the processor need not fault every page in first. */
    code = section->is_file ? kernel_copies(window, memory, nbytes, direction) : ENOSYS;
    if (code == EPERM || code == ENOSYS) { /* in a sandbox: look, and hope that nobody cuts the file in this moment */
        code = section->is_file && fstat(section->fd, &status) == 0 && (uint64_t)status.st_size < end ? EFAULT : 0;
        if (code == 0)
            memcpy(direction == GIO_READ ? memory : window, direction == GIO_READ ? window : memory, (size_t)nbytes);
    }
    /* The rest of the last page reads as zeros and takes what is written, and all of it is lost. */
    if (section->is_file && code == 0 && fstat(section->fd, &status) == 0 && (uint64_t)status.st_size < end)
        code = EFAULT;
    if (code == EFAULT)
        code = GIO_E_SHRUNK; /* though by now it may be long enough again */
    leave(section);
    return code;
}
