/* mapping_linux.c: sections, and the views that are mapped of them. The names are those of Windows, which came first.
 *
 * A section is what can be mapped: a file, or memory, with a name or without. Here it is a descriptor: of the file, of a
 * memfd, or of a file in /dev/shm that stands for the name. A view is one mmap of a part of it. Views outlive the
 * section's being closed, for arrays lie in them; the structure goes with the last of both.
 *
 * A file that is cut shorter under a mapping turns its tail into SIGBUS. Within this process that is refused, as Windows
 * does: all sections are in one list, and who sets a file's length asks gio_is_mapped. Memory without a name is sealed
 * against it (F_SEAL_SHRINK in fcntl(2)). For files, that of a name included, nothing helps against other processes but not
 * to touch the memory oneself: gio_section_copy has the kernel do it (copy_linux.c), which answers EFAULT where a load would
 * be a SIGBUS.
 *
 * A name has to go with its last user, and a user who was killed cannot clean up. So a name's file carries two locks,
 * each a byte far behind its end, and the kernel drops a dead process's locks:
 *
 *     USERS_LOCK   shared, by everyone who has the name open. Who could have it exclusively is alone.
 *     NAME_LOCK    exclusively, by who comes or goes, while he does so.
 *
 *     open:  lock the name; look again whether the file still has it (else begin anew). Is the users' lock to be had
 *            exclusively? Then there are none: what stands there is fresh, or was left by the dead; empty it, it is ours.
 *            Else share it. The creator keeps the name's lock until the memory is ready for others (gio_section_reserve).
 *     close: lock the name; is the users' lock to be had exclusively? Then we are the last: remove the name. The locks go
 *            with the descriptor.
 *
 * They are OFD locks: they belong to the open file description that open(2) made, not to the process, so that a process may
 * open a name twice. A forked child has that same one and would speak for its parent: it is given one of its own, before it
 * is there, so that it has the name whatever its parent does next (hold_names_for_child). A view refers to the one it was
 * mapped of, and a child's views would keep a dead parent's locks alive: so views are mapped of another one, which is
 * opened for that and closed again. A name costs one descriptor.
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
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "os_linux.h"

#define SHARED_MEMORY "/dev/shm"

enum { HUGE_PAGE_BYTES = 2 * 1024 * 1024, HUGE_PAGE_SHIFT = 21 };
/* Memory that is given pages at once: a tenth of a second, in which Python does not see signals. */
enum { STEP_BYTES = 256 * 1024 * 1024, STEP_BYTES_MIN = 64 * 1024 };
static const off_t NAME_LOCK = (off_t)1 << 62, USERS_LOCK = ((off_t)1 << 62) + 1, LENGTH = ((off_t)1 << 62) + 2;

struct gio_section {
    gio_section *next;     /* in the list of all */
    int fd;                /* of what is mapped; of a name's file with the locks of the name */
    int childs_fd;         /* the same for a child, while the process forks */
    char *name;            /* its path in /dev/shm, or NULL */
    uint64_t device, inode, size;
    int unpublished;       /* a new name, which is locked until it is ready */
    int grows;             /* the file is not that long yet, ... */
    uint64_t reserved;     /* ... its space is there up to here, ... */
    uint64_t step;         /* ... and so much more is asked for next; 0: not begun */
    int protection, flags; /* of mmap */
    int cuttable;          /* somebody else may make it shorter */
    int closed;            /* takes no more calls ... */
    uint64_t calls;        /* ... and the descriptors go when these have left */
    uint64_t views;
    int held;              /* by its owner, until gio_section_free */
};

/* ---- the list of all --------------------------------------------------------------------------------------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards the list and the counts */
static gio_section *sections;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lock_list(void) { pthread_mutex_lock(&mutex); }
static void unlock_list(void) { pthread_mutex_unlock(&mutex); }

/* A forked child goes on using what is mapped: the list must be whole then, and the mutex not some other thread's. */
static void hold_names_for_child(void);
static void let_go_of_childs(void);
static void take_childs(void);
static void watch_forks(void) { pthread_atfork(hold_names_for_child, let_go_of_childs, take_childs); }

static void link_section(gio_section *section)
{
    pthread_once(&once, watch_forks);
    lock_list();
    section->next = sections;
    sections = section;
    unlock_list();
}

static void remove_name(const char *path, int fd);
static void close_name(int fd);

/* List locked, and released meanwhile. Gives back what nobody needs any more. Returns what closing the file gave. */
static int32_t settle(gio_section *section)
{
    int fd = section->closed && section->calls == 0 ? section->fd : -1;
    int32_t code = 0;
    if (fd >= 0) {
        section->fd = -1;
        section->calls++; /* nobody frees it under us */
        unlock_list();
        if (section->name) {
            remove_name(section->name, fd);
            close_name(fd);
        } else {
            code = gio_close_descriptor(fd);
        }
        lock_list();
        section->calls--;
    }
    if (section->fd >= 0 || section->held || section->calls != 0 || section->views != 0)
        return code;
    gio_section **at = &sections;
    while (*at && *at != section)
        at = &(*at)->next;
    if (*at)
        *at = section->next;
    free(section->name);
    free(section);
    return code;
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

/* Returns `code`. If another thread has closed the section meanwhile, it is closed now: what that gives is told here. */
static int32_t leave(gio_section *section, int32_t code)
{
    lock_list();
    section->calls--;
    int32_t closing = settle(section);
    unlock_list();
    return code ? code : closing;
}

int gio_is_mapped(uint64_t device, uint64_t inode)
{
    lock_list();
    const gio_section *at = sections;
    while (at && !(at->cuttable && at->device == device && at->inode == inode && (!at->closed || at->views != 0)))
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
    section->fd = -1;
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
    free(section->name);
    free(section);
}

static void tell(gio_section *section, int32_t flags, int32_t created, gio_section_facts *facts)
{
    facts->size = section->size;
    facts->granularity = flags & GIO_MAP_LARGE_PAGES ? HUGE_PAGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE);
    facts->created = created;
    facts->device = section->name ? 0 : section->device;
    facts->inode = section->name ? 0 : section->inode;
    link_section(section);
}

static void is_known_by(gio_section *section, const struct stat *status)
{
    section->cuttable = 1;
    section->device = (uint64_t)status->st_dev;
    section->inode = (uint64_t)status->st_ino;
}

static int32_t refuse_other_file(const struct stat *status, const gio_file_identity *expected)
{
    if (!S_ISREG(status->st_mode))
        return S_ISDIR(status->st_mode) ? EISDIR : GIO_E_NO_FILE;
    return expected && ((uint64_t)status->st_dev != expected->device || (uint64_t)status->st_ino != expected->inode)
               ? GIO_E_OTHER_FILE
               : 0;
}

int32_t gio_section_of_file(const void *path, int32_t access, int32_t flags, uint64_t size,
                            const gio_file_identity *expected, gio_section **out, gio_section_facts *facts)
{
    gio_section *section;
    struct stat status;
    int32_t code = flags & (GIO_MAP_NO_CACHE | GIO_MAP_LARGE_PAGES | GIO_MAP_RESERVE) ? EOPNOTSUPP : 0;

    if (code == 0 && size > INT64_MAX)
        code = EFBIG;
    if (code == 0 && stat(path, &status) < 0) /* looked at before it is opened, which may do something to a device */
        code = errno;
    if (code == 0)
        code = refuse_other_file(&status, expected);
    if (code == 0)
        code = new_section(access, flags, &section);
    if (code)
        return code;
    code = gio_open_checkable(path, access == GIO_MAP_WRITE ? O_RDWR : O_RDONLY, &section->fd, &status);
    if (code == 0)
        code = refuse_other_file(&status, expected); /* than the one that was looked at, perhaps */
    if (code == 0 && size == 0 && status.st_size == 0)
        code = GIO_E_EMPTY;
    if (code == 0 && size > (uint64_t)status.st_size && access != GIO_MAP_WRITE)
        code = GIO_E_BEYOND;
    if (code) {
        discard(section);
        return code;
    }
    section->size = size ? size : (uint64_t)status.st_size;
    if (section->size > (uint64_t)status.st_size) {
        section->grows = 1;
        section->reserved = (uint64_t)status.st_size;
    }
    is_known_by(section, &status);
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
    section->fd = memfd_create("gatherio", MFD_CLOEXEC | MFD_ALLOW_SEALING | (unsigned)huge);
    if (section->fd < 0 || ftruncate(section->fd, (off_t)size) < 0)
        code = errno;
    section->grows = huge != 0; /* reserved pages: all of them, or none */
    if (code) {
        discard(section);
        return code;
    }
    section->cuttable = fcntl(section->fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0;
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
static void close_name(int fd)
{
    struct flock all;
    memset(&all, 0, sizeof all);
    all.l_type = F_UNLCK;
    all.l_whence = SEEK_SET;
    fcntl(fd, F_OFD_SETLK, &all);
    close(fd);
}

/* Opens a name's file, where it must be one: /dev/shm is everybody's. A link, a socket, a file with a lease on it: not ours. */
static int open_name(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0600);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int32_t why_not_opened(int error)
{
    return error == ELOOP || error == ENXIO || error == EAGAIN ? GIO_E_FOREIGN : error;
}

/* Nobody else's file, and not one of ours to which somebody has given this name as well (link(2)). */
static int32_t check_ours(int fd, struct stat *status)
{
    if (fstat(fd, status) < 0)
        return errno;
    return S_ISREG(status->st_mode) && status->st_uid == geteuid() && (status->st_mode & 077) == 0 && status->st_nlink < 2
               ? 0
               : GIO_E_FOREIGN;
}

static int still_has_the_name(const char *path, const struct stat *status)
{
    struct stat now;
    return lstat(path, &now) == 0 && now.st_dev == status->st_dev && now.st_ino == status->st_ino;
}

/* Does not wait for ever: a process that was stopped may have the lock. */
static int32_t lock_patiently(int fd, off_t byte)
{
    enum { PATIENCE_MS = 1000 };
    static const struct timespec millisecond = {0, 1000000};
    int32_t code;

    for (int i = 0; (code = lock_byte(fd, byte, F_WRLCK, 0)) == EAGAIN && i < PATIENCE_MS; i++)
        nanosleep(&millisecond, NULL);
    return code;
}

/* The last one out. Where the name's lock is not to be had, the file is left to whoever makes a name later (sweep). */
static void remove_name(const char *path, int fd)
{
    struct stat status;

    if (lock_patiently(fd, NAME_LOCK) == 0 && lock_byte(fd, USERS_LOCK, F_WRLCK, 0) == 0 && fstat(fd, &status) == 0 &&
        still_has_the_name(path, &status))
        unlink(path);
}

static int name_prefix(char *prefix, size_t room)
{
    return snprintf(prefix, room, "gatherio-%u-", (unsigned)geteuid());
}

/* Whether somebody has it open, or is about to, or nobody can tell. */
static int is_in_use(int fd)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = NAME_LOCK;
    lock.l_len = USERS_LOCK - NAME_LOCK + 1;
    return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

/* Removes the file unless somebody has it open. Whoever is about to open it finds out (with the lock) that it has lost its
 * name. Returns whether somebody does. */
static int remove_if_dead(const char *path)
{
    struct stat status;
    int fd = open_name(path, 0);
    if (fd < 0)
        return 0;
    int in_use = is_in_use(fd);
    if (!in_use && check_ours(fd, &status) == 0 && lock_byte(fd, NAME_LOCK, F_WRLCK, 0) == 0 &&
        lock_byte(fd, USERS_LOCK, F_WRLCK, 0) == 0 && still_has_the_name(path, &status))
        unlink(path);
    if (in_use)
        close(fd);
    else
        close_name(fd);
    return in_use;
}

/* A folder's entries, a few at a time: readdir(3) would have the kernel list 32 KiB of them. */
_Static_assert(sizeof(ino_t) == 8 && offsetof(struct dirent, d_name) == 19, "struct linux_dirent64, of getdents64(2)");

typedef struct {
    int folder;
    size_t at, end;
    _Alignas(struct dirent) char buffer[1024];
} listing;

static void go_to(listing *list, off_t position)
{
    lseek(list->folder, position, SEEK_SET);
    list->at = list->end = 0;
}

static const struct dirent *next_entry(listing *list)
{
    if (list->at == list->end) {
        long count = syscall(SYS_getdents64, (long)list->folder, list->buffer, sizeof list->buffer);
        list->at = 0;
        list->end = count > 0 ? (size_t)count : 0;
    }
    if (list->at == list->end)
        return NULL;
    const struct dirent *entry = (const struct dirent *)(list->buffer + list->at);
    list->at += entry->d_reclen;
    return entry;
}

/* The first time in a process: another one for each, for some make a single name. */
static off_t anywhere(listing *list)
{
    const struct dirent *entry;
    uint64_t count = 0;
    off_t position = 0;

    while (next_entry(list))
        count++;
    go_to(list, 0);
    for (uint64_t i = count ? (uint64_t)getpid() % count : 0; i != 0 && (entry = next_entry(list)) != NULL; i--)
        position = entry->d_off;
    return position;
}

/* Removes what processes that were killed have left behind. It looks at a few names that are in use, and at the dead between
 * them, and goes on from there the next time. So a name costs the same however many there are, and the dead remain few. */
static void sweep(void)
{
    enum { LOOKS = 8, ENTRIES = 1000 /* others' files are in this folder, too */ };
    static off_t last = -1;
    char prefix[40], path[sizeof SHARED_MEMORY + 256];
    int length = name_prefix(prefix, sizeof prefix);
    listing list = {open(SHARED_MEMORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0, 0, {0}};

    if (list.folder < 0)
        return;
    off_t position = __atomic_load_n(&last, __ATOMIC_RELAXED);
    if (position < 0)
        position = anywhere(&list);
    go_to(&list, position);
    int wrapped = position == 0;
    for (int looks = 0, entries = 0; looks < LOOKS && entries < ENTRIES; entries++) {
        const struct dirent *entry = next_entry(&list);
        position = entry ? entry->d_off : 0;
        if (entry == NULL && wrapped++)
            break;
        if (entry == NULL)
            go_to(&list, 0);
        if (entry == NULL || strncmp(entry->d_name, prefix, (size_t)length) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", SHARED_MEMORY, entry->d_name);
        looks += remove_if_dead(path);
    }
    __atomic_store_n(&last, position, __ATOMIC_RELAXED);
    close(list.folder);
}

/* Opens the name's file and locks the name. `*alone`: nobody has it open. */
static int32_t open_and_lock_name(const char *path, int32_t create, int *out, int *alone)
{
    struct stat status;
    int32_t code;

    for (;;) {
        int fd = open_name(path, create ? O_CREAT : 0);
        if (fd < 0)
            return why_not_opened(errno);
        code = check_ours(fd, &status); /* before anything waits for it ... */
        if (code == 0)
            code = lock_byte(fd, NAME_LOCK, F_WRLCK, 1);
        if (code == 0)
            code = check_ours(fd, &status); /* ... and as it is by now */
        if (code == 0 && still_has_the_name(path, &status)) {
            code = lock_byte(fd, USERS_LOCK, F_WRLCK, 0);
            *alone = code == 0;
            if (code == EAGAIN)
                code = lock_byte(fd, USERS_LOCK, F_RDLCK, 0);
            if (code == 0) {
                *out = fd;
                return 0;
            }
        }
        close_name(fd);
        if (code)
            return code;
    }
}

/* What a new name is: empty, whatever the dead have left there; this user's alone, whatever the umask; its header written. */
static int32_t begin_name(int fd, const void *header, uint64_t header_bytes, int32_t flags, uint64_t size)
{
    int32_t code = flags & GIO_MAP_RESERVE ? 0 : would_fit(size);
    if (code)
        return code;
    if (ftruncate(fd, 0) < 0 || fchmod(fd, 0600) < 0 || (flags & GIO_MAP_RESERVE && ftruncate(fd, (off_t)size) < 0))
        return errno;
    ssize_t written = pwrite(fd, header, (size_t)header_bytes, 0);
    return written < 0 ? errno : (uint64_t)written < header_bytes ? ENOSPC : 0;
}

/* The name's file once more, with locks of its own: by the name, and if somebody has taken that away, by /proc. */
static int open_again(const gio_section *section)
{
    struct stat status;
    int fd = open_name(section->name, 0);

    if (fd >= 0 && fstat(fd, &status) == 0 && (uint64_t)status.st_dev == section->device &&
        (uint64_t)status.st_ino == section->inode)
        return fd;
    if (fd >= 0)
        close(fd);
    return gio_reopen(section->fd, O_RDWR);
}

static int32_t open_name_of(gio_section *section, const void *header, uint64_t header_bytes, int32_t flags, uint64_t size)
{
    struct stat status;
    int alone = 0;
    int32_t code = open_and_lock_name(section->name, header != NULL, &section->fd, &alone);

    if (code == 0 && alone && header == NULL) /* the dead's */
        code = ENOENT;
    if (code == 0 && alone) {
        sweep(); /* not this one: it is locked */
        code = begin_name(section->fd, header, header_bytes, flags, size);
    }
    if (code == 0 && fstat(section->fd, &status) < 0)
        code = errno;
    if (code && alone)
        remove_name(section->name, section->fd);
    if (code && section->fd >= 0) {
        close_name(section->fd);
        section->fd = -1;
    }
    if (code)
        return code;
    section->size = alone ? size : (uint64_t)status.st_size;
    section->grows = alone && !(flags & GIO_MAP_RESERVE);
    section->unpublished = alone;
    is_known_by(section, &status);
    if (!alone)
        lock_byte(section->fd, NAME_LOCK, F_UNLCK, 0);
    return 0;
}

static int32_t of_named_memory(const char *name, const void *header, uint64_t header_bytes, int32_t access, int32_t flags,
                               uint64_t size, gio_section **out, gio_section_facts *facts)
{
    char prefix[40], path[sizeof SHARED_MEMORY + 256];
    gio_section *section;

    name_prefix(prefix, sizeof prefix);
    if (snprintf(path, sizeof path, "%s/%s%s", SHARED_MEMORY, prefix, name) >= (int)sizeof path)
        return ENAMETOOLONG;
    int32_t code = new_section(access, flags, &section);
    if (code)
        return code;
    section->name = strdup(path);
    code = section->name ? open_name_of(section, header, header_bytes, flags, size) : ENOMEM;
    if (code) {
        discard(section);
        return code;
    }
    tell(section, flags, section->unpublished, facts);
    *out = section;
    return 0;
}

/* From now on others may open the name. From exclusive to shared, in one step: cannot fail. */
static void publish(gio_section *section)
{
    lock_byte(section->fd, USERS_LOCK, F_RDLCK, 0);
    lock_byte(section->fd, NAME_LOCK, F_UNLCK, 0);
    section->unpublished = 0;
}

int32_t gio_section_of_memory(const void *name, const void *header, uint64_t header_bytes, int32_t access, int32_t flags,
                              uint64_t size, gio_section **out, gio_section_facts *facts)
{
    if (flags & GIO_MAP_NO_CACHE || (name && flags & GIO_MAP_LARGE_PAGES))
        return EOPNOTSUPP;
    if (size > INT64_MAX)
        return ENOMEM;
    if (name)
        return of_named_memory(name, header, header_bytes, access, flags, size, out, facts);
    return of_nameless_memory(access, flags, size, out, facts);
}

/* Before a fork: a share of each name's users' lock for the child. Where that fails, the name is the parent's alone. */
static void hold_names_for_child(void)
{
    lock_list();
    for (gio_section *at = sections; at; at = at->next) {
        if (at->name == NULL || at->fd < 0)
            continue;
        at->childs_fd = open_again(at);
        if (at->childs_fd >= 0 && lock_byte(at->childs_fd, USERS_LOCK, F_RDLCK, 0) != 0) {
            close(at->childs_fd);
            at->childs_fd = -1;
        }
    }
}

/* In the parent. The child's locks stay: they are the open file description's, which the child has as well. */
static void let_go_of_childs(void)
{
    for (gio_section *at = sections; at; at = at->next) {
        if (at->name == NULL || at->fd < 0)
            continue;
        if (at->childs_fd >= 0)
            close(at->childs_fd);
    }
    unlock_list();
}

/* In the child, which has its parent's descriptors, too, and with them the parent's locks. */
static void take_childs(void)
{
    for (gio_section *at = sections; at; at = at->next) {
        if (at->name == NULL || at->fd < 0)
            continue;
        close(at->fd);
        at->fd = at->childs_fd;
        if (at->fd < 0) {
            free(at->name);
            at->name = NULL;
        }
    }
    unlock_list();
}

int32_t gio_section_close(gio_section *section)
{
    lock_list();
    section->closed = 1;
    int32_t code = settle(section);
    unlock_list();
    return code;
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

void gio_section_let_go(gio_section **place)
{
    gio_section_free(*place);
    *place = NULL;
}

static int is_shorter_than(gio_section *section, uint64_t end)
{
    struct stat status;
    return section->cuttable && fstat(section->fd, &status) == 0 && (uint64_t)status.st_size < end;
}

/* ---- space ------------------------------------------------------------------------------------------------------ */

/* Elsewhere than on local file systems somebody on another machine may append meanwhile: there it stays reserved. */
static void free_behind_end(int fd)
{
    struct statfs volume;
    if (fstatfs(fd, &volume) == 0 && gio_leases_bind_all((uint64_t)volume.f_type & 0xffffffff))
        gio_free_behind_end(fd);
}

/* Without fallocate(2) there is ftruncate(2) alone, which cuts what somebody has appended since one looked. So we look right
 * before, one of us at a time, under a lease where there is one to be had. Where there is none, because somebody else has the
 * file open or it is another user's, or somebody on another machine does not know of it, this remains: who within these
 * microseconds makes the file longer than `size` is cut back to it. Nothing below `size` is ever touched. */
static int32_t lengthen_by_ftruncate(int fd, uint64_t size)
{
    struct stat status;
    int32_t code = 0;
    int leased = gio_take_lease(fd);

    if (!leased)
        lock_patiently(fd, LENGTH);
    if (fstat(fd, &status) < 0 || ((uint64_t)status.st_size < size && ftruncate(fd, (off_t)size) < 0))
        code = errno;
    if (leased)
        gio_give_lease(fd);
    else
        lock_byte(fd, LENGTH, F_UNLCK, 0);
    return code;
}

/* Makes the file as long as the section, its space reserved where the file system can: first the space, which nobody sees,
 * a step in each call, then the length. Neither writes a byte or makes the file shorter, whatever others do to it meanwhile. */
static int32_t lengthen(gio_section *section)
{
    struct stat status;
    int fd = section->fd;

    if (fstat(fd, &status) < 0)
        return errno;
    uint64_t has = (uint64_t)status.st_blocks * 512;
    section->step = section->step ? section->step : STEP_BYTES;
    if (section->size > has && gio_is_too_much(fd, section->size - has))
        return ENOSPC; /* before ext4 takes all that there is, and then fails */
    if (section->reserved < section->size) {
        uint64_t step = gio_min(section->step, section->size - section->reserved);
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)section->reserved, (off_t)step) < 0) {
            section->step = gio_max(step / 2, STEP_BYTES_MIN); /* tmpfs gives up a whole step when there is a signal */
            return errno;
        }
        section->reserved += step;
    }
    if (section->reserved < section->size)
        return GIO_E_INTERRUPTED; /* nobody else looks at signals meanwhile */
    return fallocate(fd, 0, (off_t)section->size - 1, 1) < 0 ? errno : 0;
}

static int32_t make_as_long(gio_section *section)
{
    int fd = section->fd;
    int32_t code = lengthen(section);
    if (code == EOPNOTSUPP && fallocate(fd, 0, (off_t)section->reserved, (off_t)(section->size - section->reserved)) == 0)
        return 0; /* NFS 4.2 knows this way only */
    if (code == EOPNOTSUPP)
        code = errno;
    if (code == EOPNOTSUPP || code == ENOSYS)
        code = lengthen_by_ftruncate(fd, section->size);
    if (code == EINTR)
        return GIO_E_INTERRUPTED;
    if (code && code != GIO_E_INTERRUPTED)
        free_behind_end(fd);
    return code;
}

int32_t gio_section_reserve(gio_section *section)
{
    int32_t code = enter(section);
    if (code)
        return code;
    if (section->grows)
        code = make_as_long(section);
    if (code == ENOSPC && section->inode == 0) /* no file */
        code = ENOMEM;
    section->grows = section->grows && code != 0;
    if (section->unpublished && code == 0)
        publish(section);
    return leave(section, code);
}

/* ---- views -------------------------------------------------------------------------------------------------- */

int32_t gio_section_map(gio_section *section, uint64_t offset, uint64_t nbytes, void **view)
{
    int32_t code = enter(section);
    if (code)
        return code;
    int fd = section->name ? open_again(section) : section->fd; /* see above */
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, nbytes, section->protection, section->flags, fd, (off_t)offset);
    if (mapped == MAP_FAILED) {
        code = errno;
    } else {
        *view = mapped;
        lock_list();
        section->views++;
        unlock_list();
    }
    if (fd >= 0 && fd != section->fd)
        close(fd);
    return leave(section, code);
}

void gio_section_unmap(gio_section *section, uint64_t nbytes, void **view)
{
    if (*view == NULL)
        return; /* and there may be no section any more */
    munmap(*view, nbytes);
    *view = NULL;
    lock_list();
    section->views--;
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
    return leave(section, code);
}

/* What was written through any mapping is in the page cache like anything else. */
int32_t gio_section_flush_all(gio_section *section)
{
    int32_t code = enter(section);
    if (code)
        return code;
    if (fsync(section->fd) < 0)
        code = errno;
    return leave(section, code);
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
    (void)address; /* of a view that may be read-only, or a copy */
    int32_t code = would_fit(nbytes);
    if (code == 0)
        code = enter(section);
    if (code)
        return code;
    if (fallocate(section->fd, 0, (off_t)offset, (off_t)nbytes) < 0) {
        code = errno == EINTR ? GIO_E_INTERRUPTED : errno;
    } else {
        void *mapped = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, section->fd, (off_t)offset);
        if (mapped == MAP_FAILED) {
            code = errno;
        } else {
            code = gio_pages_prefault(mapped, nbytes);
            if (code == EFAULT)
                code = is_shorter_than(section, offset + nbytes) ? GIO_E_SHRUNK : ENOMEM;
            munmap(mapped, nbytes);
        }
    }
    return leave(section, code);
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
    return leave(section, code);
}

/* ---- copies that survive a file's being cut ------------------------------------------------------------------- */

static int32_t copy(int32_t direction, int plainly, void *view, void *memory, uint64_t nbytes)
{
    gio_segment all = {(uint64_t)(uintptr_t)memory, nbytes};
    if (!plainly)
        return gio_copy_guarded(direction, &all, 1, view);
    gio_copy_plainly(direction, &all, 1, view);
    return 0;
}

/* A page at a time, into a page that is thrown away. */
static int is_gone(char *memory, uint64_t nbytes)
{
    char page[4096];
    int32_t code = 0;
    for (uint64_t at = 0; at < nbytes && code == 0; at += sizeof page)
        code = copy(GIO_WRITE, 0, page, memory + at, gio_min(nbytes - at, sizeof page));
    return code != 0;
}

int32_t gio_section_copy(gio_section *section, int32_t direction, void *view, void *memory, uint64_t nbytes,
                         uint64_t end)
{
    int plainly = !section->cuttable && (direction & GIO_ANONYMOUS);
    int32_t code = enter(section);
    if (code)
        return code;
    direction &= GIO_WRITE;
    if (!plainly && !gio_copy_is_guarded() && is_shorter_than(section, end))
        code = GIO_E_SHRUNK; /* and hope that nobody cuts the file in this moment */
    else
        code = copy(direction, plainly, view, memory, nbytes);
    /* The rest of the last page reads as zeros and takes what is written, and all of it is lost. */
    if (code == 0 && is_shorter_than(section, end))
        code = GIO_E_SHRUNK;
    if (code == EFAULT && section->cuttable && !is_gone(memory, nbytes))
        code = GIO_E_SHRUNK; /* though by now it may be long enough again */
    return leave(section, code);
}
