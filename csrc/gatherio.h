/* gatherio.h: the contract between the C core and whoever calls it (the Python package, the C tests).
 *
 * True for every function here:
 *   - One that can fail returns 0, or a code: the operating system's own error number (errno, GetLastError), or one of
 *     GIO_E_*, which start at bit 29, where neither system has numbers of its own. Codes are taken in the line after the
 *     call that failed; errno is never read again.
 *   - It knows nothing of Python and may be called from any thread, with or without the GIL. Unless its text says
 *     "waits", it does not wait for a transfer.
 *   - Sizes, offsets and counts are 64 bits and in bytes unless the name says otherwise; times are nanoseconds
 *     (`_ns`), and a negative time means for ever.
 *   - Memory named by a segment belongs to the kernel from gio_submit until the operation's completion has been filled.
 *     Nothing the caller does (cancel, time out, close) shortens that.
 *   - After fork(), everything that the parent opened answers GIO_E_FORKED in the child and touches nothing, but for
 *     sections and what is mapped of them.
 *
 * Between the two cdef marks stands what Python sees: fixed-width integers and opaque pointers only, so that the
 * generated module is the same on every system.
 */
#ifndef GATHERIO_H
#define GATHERIO_H

#include <stdint.h>

/* cdef begin */
enum {
    GIO_E_TIMEOUT = 0x20000001,     /* the time is up; nothing else has changed */
    GIO_E_INTERRUPTED = 0x20000002, /* a signal arrived: let Python look at it, then wait again */
    GIO_E_CLOSED = 0x20000003,      /* the queue is closed, or closing */
    GIO_E_FORKED = 0x20000004,      /* opened by the parent process */
    GIO_E_GONE = 0x20000005,        /* the operation has ended */
    GIO_E_CANCELLED = 0x20000006,   /* the operation ended without having moved everything, as asked */
    GIO_E_NO_PROGRESS = 0x20000007, /* the system keeps accepting the request and moving nothing */
    GIO_E_ALIGNMENT = 0x20000008,   /* cannot be done without staging, and staging was not allowed */
    GIO_E_UNTOLD = 0x20000009,      /* this file system does not tell whether it has direct I/O, and has none */
    GIO_E_NOT_ASKED = 0x2000000a,   /* buffered because the caller asked for that */
    GIO_E_TOO_OLD = 0x2000000b,     /* the kernel's io_uring lacks a feature that this library builds on */
    GIO_E_COARSE = 0x2000000c,      /* direct I/O only in blocks larger than a staging buffer */
    GIO_E_MAPPED = 0x2000000d,      /* the file cannot become shorter: it is mapped */
    GIO_E_SHRUNK = 0x2000000e,      /* a mapped file has become shorter than the range */
    GIO_E_EMPTY = 0x2000000f,       /* an empty file cannot be mapped */
    GIO_E_BEYOND = 0x20000010,      /* beyond the end of what there is to map */
    GIO_E_LOCKED = 0x20000011,      /* a lock on this range is in the way */
    GIO_E_NOT_LOCKED = 0x20000012,  /* there is no lock of exactly this range */
    GIO_E_NO_FILE = 0x20000013,     /* a device, a pipe or something else that cannot be mapped */
    GIO_E_UNREGISTRABLE = 0x20000014, /* this backend, or this kernel, has no registered memory */
    GIO_E_TABLE_FULL = 0x20000015,  /* no more registrations in this queue */
    GIO_E_MISCOUNTED = 0x20000016,  /* io_uring tells wrong counts of transfers with this file system (FUSE) */
    GIO_E_NO_PROC = 0x20000017,     /* an open file cannot be opened once more: /proc is not mounted */
    GIO_E_FIXED_SIZE = 0x20000018,  /* a device: it has the size it has */
    GIO_E_OTHER_FILE = 0x20000019,  /* at the path is another file than the one that is meant */
    GIO_E_FOREIGN = 0x2000001a,     /* what has the name is another user's, or no shared memory */
    GIO_E_BROKEN = 0x2000001b,      /* io_uring_enter(2) has begun to fail for good */
    GIO_E_DIRECTION = 0x20000020    /* the file may not be opened for this: an exclusive lock takes the right to write it */
};

enum { GIO_READ = 0, GIO_WRITE = 1, GIO_ANONYMOUS = 2 };

/* What may be staged (copied through a page-aligned buffer): nothing, what alignment forbids otherwise, all. */
enum { GIO_STAGE_NOTHING = 0, GIO_STAGE_RAGGED = 1, GIO_STAGE_ALL = 2 };

/* How one piece of an operation travels: from where it stands, through a staging buffer, or as a ragged end
 * through the page cache. */
enum { GIO_IN_PLACE = 0, GIO_STAGED = 1, GIO_RAGGED = 2 };

enum { GIO_OPEN_EXISTING = 0, GIO_OPEN_TRUNCATE = 1, GIO_OPEN_NEW = 2, GIO_OPEN_OR_CREATE = 3 };
enum { GIO_ACCESS_READ = 1, GIO_ACCESS_WRITE = 2, GIO_ACCESS_HEED_LOCKS = 4 }; /* of others */
enum { GIO_DIRECT_AUTO = -1, GIO_DIRECT_NO = 0, GIO_DIRECT_YES = 1 };
enum { GIO_HUGE_AUTO = -1, GIO_HUGE_NO = 0, GIO_HUGE_YES = 1 };

/* What is done to a file as a whole. FLUSH brings to stable storage what was submitted before it, once that has finished, and
 * holds up nothing. RESIZE begins once all that was submitted before it has finished, and what is submitted after it begins
 * after it. RESERVE waits for nobody but those; on Windows it is in this as RESIZE, for there it could cut the file. */
enum { GIO_CALL_NONE = 0, GIO_CALL_FLUSH = 1, GIO_CALL_RESERVE = 2, GIO_CALL_RESIZE = 3 };

/* Rare events made on demand, for tests: the next requests are reported as shorter, as failed, or only once
 * they are released; the next staging buffers cannot be had. */
enum { GIO_FAULT_NONE = 0, GIO_FAULT_SHORT = 1, GIO_FAULT_FAIL = 2, GIO_FAULT_HOLD = 3, GIO_FAULT_STAGE = 4 };

typedef struct gio_queue gio_queue;
typedef struct gio_file gio_file;
typedef struct gio_event gio_event;

typedef struct {
    uint64_t page_size;
    uint64_t allocation_granularity; /* where an address range can start */
    uint64_t huge_page_size;         /* 0: none */
    uint64_t max_segments;           /* in one request */
    uint64_t buffered_segments;      /* in one request through the page cache */
    uint64_t segment_unit;           /* of a request's several segments each is a multiple of this */
    uint64_t max_request_bytes;      /* in one request */
    uint64_t folio_bytes;            /* what the page cache may keep, and throw away, in one piece */
    uint64_t direct_bytes_min;       /* between ragged ends of a write: less is not worth a request of its own */
} gio_system_facts;

typedef struct {
    uint64_t offset_alignment; /* of direct transfers; 0 when the file system has none */
    uint64_t memory_alignment;
    uint64_t block_bytes;      /* the file system's own; 0: no larger than a page, or not told */
    uint64_t device_segments;  /* pieces of memory in one request of the device; 0: not told */
    uint64_t file_system;      /* the magic number of statfs(2), or 0 */
    uint8_t file_system_name[16]; /* where the system tells a name: ASCII, NUL-terminated */
    int64_t handle;            /* the descriptor, or HANDLE, that transfers go through */
    int32_t direct;            /* 1: transfers bypass the page cache */
    int32_t direct_code;       /* else why not */
    int32_t alignment_told;    /* 1: the alignments come from the kernel, 0: assumed */
    int32_t created;           /* 1: there was no such file before */
    int32_t backend_code;      /* why the queue's backend does not serve this file, but `threads`; 0: it does */
    int32_t reserved;
} gio_file_facts;

typedef struct {
    uint64_t address;
    uint64_t length;
} gio_segment; /* a row of a C-contiguous uint64 array of shape (n, 2) */

/* How an operation has ended, in memory of the submitter's, which stays where it is until it is filled. Whoever sees a
 * `result` other than GIO_PENDING may read the rest, and let go of it: nothing has to be fetched or released. */
#define GIO_PENDING -0x7fffffffffffffff
typedef struct {
    int64_t result;    /* GIO_PENDING; at the end bytes transferred, or a negative code. The last field to be filled */
    uint64_t in_place; /* bytes from the start that are known to have been moved, whatever the result */
    uint64_t ticket;   /* the core's own */
} gio_completion;

typedef struct {
    uint64_t offset_alignment; /* 1: buffered, everything goes */
    uint64_t memory_alignment;
    uint64_t ragged_bytes;     /* ragged ends reach to a multiple of this */
    uint64_t request_bytes;
    uint64_t stage_bytes;      /* the size of a staging buffer */
    uint64_t max_segments;
    uint64_t buffered_segments; /* of pieces that travel through the page cache */
    uint64_t segment_unit;     /* of several segments each is a multiple of this; 1: any */
    uint64_t direct_bytes_min; /* between ragged ends: less is not worth a request of its own */
} gio_limits;

typedef struct {
    uint64_t nbytes;  /* of all segments, modulo 2^64 */
    uint64_t longest; /* bytes */
    uint64_t last;    /* bytes of the last one */
    uint64_t loose;   /* the first one that begins on no page or, but for the last, ends on none; none: their count */
} gio_segments_facts;

typedef struct {
    uint64_t begin; /* the bytes of the operation that this piece moves: [begin, end) */
    uint64_t end;
    uint64_t file_offset; /* the bytes of the file it touches; more than end - begin where a read is rounded out */
    uint64_t file_length;
    uint64_t head;          /* of these bytes, those before `begin` */
    uint64_t segment_count; /* after joining neighbours in memory */
    int32_t route;          /* GIO_IN_PLACE, GIO_STAGED, GIO_RAGGED */
    int32_t code;           /* GIO_E_ALIGNMENT when there is no way */
} gio_piece;

typedef struct {
    uint64_t operations; /* submitted */
    uint64_t finished;   /* operations whose outcome is known */
    uint64_t reads;      /* requests by the call that carried them: one run of memory each, ... */
    uint64_t writes;
    uint64_t scatters;   /* ... or several */
    uint64_t gathers;
    uint64_t registered; /* of these: from or to registered memory */
    uint64_t staged;     /* of these: through a staging buffer */
    uint64_t ragged;     /* of these: the ends of writes, through the page cache */
    uint64_t resumed;    /* started again after a short transfer */
    uint64_t retried;    /* started again after EINTR, EAGAIN, an unasked cancellation or a shortage of memory */
    uint64_t handed_over; /* issued by the queue's own thread, because the system could have kept the caller waiting */
    uint64_t submits;    /* system calls that handed requests over */
    uint64_t sleeps;     /* waits in the kernel for a completion */
    uint64_t pumped;     /* of these: by the queue's own thread */
    uint64_t bytes_read;
    uint64_t bytes_written;
} gio_queue_stats;

typedef struct {
    gio_queue *queue; /* NULL: none */
    uint64_t nbytes;
} gio_registration;

typedef struct {
    gio_queue *queue; /* NULL: none */
} gio_batch;

typedef struct {
    gio_queue *queue; /* NULL: none */
    gio_event *event;
} gio_listening;

/* The system. */
void gio_system(gio_system_facts *facts);

/* Pages. `nbytes` is rounded up to whole pages; the memory is zero, private, and starts on a huge page when it
 * may use them. GIO_HUGE_YES means huge pages for sure (MAP_HUGETLB, MEM_LARGE_PAGES) or an error. */
int32_t gio_pages_allocate(uint64_t nbytes, int32_t huge, void **address, uint64_t *allocated);
/* Faults pages in for writing, and loses nothing that others write to them meanwhile. EACCES: the memory cannot be written.
 * EFAULT: its file has become shorter, its disk is full, or there are no huge pages left. Before Linux 5.14, and on Windows,
 * these end the process. INTERRUPTED: call it again. */
int32_t gio_pages_prefault(void *address, uint64_t nbytes);
void gio_pages_free(uint64_t allocated, void *address);
/* Frees the pages that stand at `address`, if any, and takes them away there. What comes last is the place of the thing itself,
 * here and in what else lets go: Python binds the rest, and makes this the place's end, before the thing is made. So no
 * bytecode, in which a signal could raise, stands between a thing's making and its having an owner, or between an object's end
 * and the thing's. */
void gio_pages_let_go(const uint64_t *allocated, void **address);

/* Queues. `backend` is a name from gio_backend_name, never NULL. gio_queue_close takes no more submissions and
 * waits for what is in flight; it may be called again after TIMEOUT or INTERRUPTED. gio_queue_free closes as well; the
 * structure lives until the last of its files, registrations and batches has gone, too. */
const char *gio_backend_name(uint32_t index);
int32_t gio_queue_open(const char *backend, uint32_t depth, uint64_t request_bytes, gio_queue **queue);
int32_t gio_queue_close(gio_queue *queue, int64_t timeout_ns);
void gio_queue_free(gio_queue *queue);
void gio_queue_let_go(gio_queue **place); /* closes and frees what stands there, if anything */
/* For those who have not asked for each operation: the names (user_data) of those that have finished, first finished first,
 * `max` at most. Waits for one, with a time of 0 not at all, or until `*woken` (or NULL) is set by gio_queue_wake. They are
 * told again until they have been seen, up to the position that is told with them: an exception that strikes the caller
 * between two steps loses nothing, and of several threads that look each sees all. `listener`, or NULL, is not set for what
 * this very call, which then must not wait, tells. */
int32_t gio_queue_peek(gio_queue *queue, int64_t timeout_ns, gio_event *listener, const int32_t *woken, uint64_t *user_data,
                       uint32_t max, uint32_t *count, uint64_t *position);
int32_t gio_queue_seen(gio_queue *queue, uint64_t position);
int32_t gio_queue_wake(gio_queue *queue, int32_t *woken);
/* Until the batch ends, operations may be handed to the kernel several at a time: a little later, with fewer system calls.
 * The end hands over what is left. Ending what is all zeros, never begun or ended, does nothing. */
int32_t gio_queue_batch(gio_queue *queue, gio_batch *begun);
void gio_batch_end(gio_batch *begun);
/* A descriptor that polls readable while completions stand unread in the ring; -1 where there is none. */
int64_t gio_queue_poll_handle(gio_queue *queue);
/* From now on (no longer) set `event` whenever an operation finishes. `attended` says that the listener itself
 * also watches the poll handle, so that the queue's own thread need not wake up for its sake. */
int32_t gio_queue_listen(gio_queue *queue, gio_event *event, int32_t attended);
int32_t gio_queue_unlisten(gio_queue *queue, gio_event *event);
/* The same as a thing that ends once, also where a signal has struck: the queue stays for as long, and the end names the place of
 * the event, so that whoever binds it there keeps that, too. Ending what is all zeros, never begun or ended, does nothing. */
int32_t gio_listening_begin(gio_queue *queue, gio_event *event, int32_t attended, gio_listening *begun);
void gio_listening_end(gio_event **place, gio_listening *begun);
void gio_queue_read_stats(gio_queue *queue, gio_queue_stats *stats);
/* From the `after`-th next request on, `count` requests meet the fault. GIO_FAULT_NONE ends it and releases
 * those held. */
int32_t gio_queue_fault(gio_queue *queue, int32_t fault, uint64_t after, uint64_t count, uint64_t value);

/* Memory that is transferred again and again. Once registered, its pages are pinned and known to the kernel, which else
 * looks them up and pins them for each request. Used by every request whose memory lies in one registration. The memory
 * must stay until it is unregistered; requests under way keep what they need. Unregistering a registration that is all
 * zeros, never made or ended, does nothing. */
int32_t gio_queue_register(gio_queue *queue, void *address, uint64_t nbytes, gio_registration *made);
void gio_unregister(gio_registration *made, void *address);
/* The same for all of the memory from one gio_pages_allocate until it is freed, or the process forks, which would copy
 * pinned pages. At most `most` bytes in all queues together. Cheap where it is kept already. */
int32_t gio_queue_keep(gio_queue *queue, void *address, uint64_t nbytes, uint64_t most);

/* Lists of segments: made of addresses and lengths, and described; and whether no byte is in them twice. */
void gio_segments_make(void *const *addresses, const uint64_t *lengths, uint64_t count, uint64_t page_size,
                       gio_segment *segments, gio_segments_facts *facts);
void gio_segments_describe(const gio_segment *segments, uint64_t count, uint64_t page_size, gio_segments_facts *facts);
int32_t gio_segments_are_distinct(const gio_segment *segments, uint64_t count, int32_t *distinct);

/* Operations. Memory, segments and completion must stay as they are until the completion has been filled; after a code they
 * are not used. `user_data` is the caller's own name for the operation; gio_queue_peek tells nothing of those named 0. To a
 * direction GIO_ANONYMOUS is added where the memory is sure to be no mapped file's, which somebody may cut shorter: then
 * copies are cheaper. */
int32_t gio_submit(gio_file *file, int32_t direction, const gio_segment *segments, uint64_t count, uint64_t offset,
                   int32_t staging, uint64_t user_data, gio_completion *completion);
int32_t gio_submit_one(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                       uint64_t user_data, gio_completion *completion);
/* The same for many places of the file: segment i is the memory of the bytes from offsets[i] on. One operation, whose bytes
 * are those of the segments in their order. */
int32_t gio_submit_batch(gio_file *file, int32_t direction, const gio_segment *segments, const uint64_t *offsets,
                         uint64_t count, uint64_t user_data, gio_completion *completion);
/* One of GIO_CALL_*, as an operation: see gio_file_flush, gio_file_reserve and gio_file_resize for what it does. Its result is 0. */
int32_t gio_submit_call(gio_file *file, int32_t call, uint64_t size, uint64_t user_data, gio_completion *completion);
/* gio_submit_one and the wait for it at once, with one system call for both where the backend can. The completion is pending
 * beforehand, and still is if nothing was submitted. 0: it is filled, and gio_queue_peek tells nothing. TIMEOUT,
 * INTERRUPTED: the transfer goes on, as any other operation. */
int32_t gio_transfer(gio_file *file, int32_t direction, const void *address, uint64_t nbytes, uint64_t offset,
                     uint64_t user_data, int64_t timeout_ns, gio_completion *completion);
/* Waits until it is filled. */
int32_t gio_operation_wait(gio_queue *queue, const gio_completion *completion, int64_t timeout_ns);
/* Waits until any of them is filled. */
int32_t gio_operation_wait_any(gio_queue *queue, const gio_completion *const *completions, uint64_t count,
                               int64_t timeout_ns);
/* Asks: what has not begun does not begin, what the kernel holds it is asked to drop. GONE if it has ended. */
int32_t gio_operation_cancel(gio_queue *queue, const gio_completion *completion);

/* Files. `path` is NUL-terminated in the system's own encoding: bytes on Linux, UTF-16 on Windows. CLOSED, and nothing done,
 * on a closed queue. */
int32_t gio_file_open(gio_queue *queue, const void *path, int32_t access, int32_t create, int32_t direct,
                      int32_t durable, gio_file **file, gio_file_facts *facts);
/* A number of the mount that a path lies in, which no other mount has, had or will have; 0: the system tells none. */
uint64_t gio_mount_of(const void *path);
int32_t gio_file_drain(gio_file *file, int64_t timeout_ns); /* waits for this file's operations */
int32_t gio_file_size(gio_file *file, uint64_t *size);
/* The next three are done by the calling thread, at once. TIMEOUT, and nothing done, where operations in flight come first:
 * then gio_submit_call gets in line. */
int32_t gio_file_flush(gio_file *file);
int32_t gio_file_resize(gio_file *file, uint64_t size);
/* Reserves the space of the file's first `size` bytes. Its length and its bytes stay as they are, also after an error.
 * `*reserved` is 0 where the file system cannot reserve. INTERRUPTED by a signal: to be called again. */
int32_t gio_file_reserve(gio_file *file, uint64_t size, int32_t *reserved);
/* When the file is closed, give back what is reserved beyond its end, if nobody else has it open. */
void gio_file_give_back(gio_file *file);
/* Locks on ranges of bytes, which may lie anywhere below 2^64. LOCKED when another one is in the way; they do not wait.
 * Unlocking names the exact range; `id` 0 is any lock of it. They go with the file. Operations, gio_file_resize and
 * opening with GIO_OPEN_TRUNCATE ask for the locks of others where the file was opened with GIO_ACCESS_HEED_LOCKS. */
int32_t gio_file_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive, uint64_t *id);
int32_t gio_file_unlock(gio_file *file, uint64_t offset, uint64_t length, uint64_t id);
void gio_file_forked(gio_file *file); /* in a forked child: the locks are the parent's alone */
/* Closes the descriptors; TIMEOUT, and nothing done, while operations are in flight. Any other code: the file is closed, and
 * the system could not store what had been written to it (close(2), where network file systems tell). Told again when it
 * is closed again. */
int32_t gio_file_close(gio_file *file);
void gio_file_free(gio_file *file);
void gio_file_let_go(gio_file **place); /* closes and frees what stands there, if anything */

/* Events: a flag that other threads set and a poll loop can watch. */
int32_t gio_event_create(gio_event **event);
int64_t gio_event_handle(gio_event *event); /* for a poll loop; -1 where events have none */
void gio_event_set(gio_event *event);
void gio_event_clear(gio_event *event);
int32_t gio_event_wait(gio_event *event, int64_t timeout_ns); /* waits */
void gio_event_free(gio_event *event);
void gio_event_let_go(gio_event **place); /* frees what stands there, if anything */

/* Sections: what can be mapped, a file or memory. Views: the parts that are. The words are those of Windows.
 * `size` 0 is the file's. With `expected` no other file than that one is mapped, or touched: OTHER_FILE. NULL: any. Memory is
 * zero at first. A name is plain text in the system's own encoding. It is this user's only, and what another user has put
 * there is refused: FOREIGN. Without a `header` it is opened; with one it is created if there is none yet (`created`), and
 * begins with the header. Such a call may wait for another process of this user, and be INTERRUPTED.
 * gio_section_reserve comes next: it makes a file that is shorter than `size` longer, with its space reserved, and gives new
 * memory its pages, a part at a time. INTERRUPTED: call it again, and it goes on. It never makes a file shorter, and writes
 * nothing. At its end others may open a new name; until then, or until the section is closed, they wait.
 * gio_section_close lets go of the file and the name; views stay. It tells what closing the file gave, or who is inside
 * another call for the section meanwhile does. gio_section_free comes last for the owner. Sections
 * are an exception to the rule about fork(): the child goes on with its parent's, and has names open in its own right. */
typedef struct gio_section gio_section;
typedef struct {
    uint64_t size;        /* in bytes; of a name that existed, what there is */
    uint64_t granularity; /* views begin at multiples of it */
    uint64_t device;      /* the file, so that it is known again; 0 for memory */
    uint64_t inode;
    int32_t created;      /* the memory is new */
    int32_t reserved;
} gio_section_facts;
typedef struct {
    uint64_t device;
    uint64_t inode;
} gio_file_identity;
enum { GIO_MAP_READ = 0, GIO_MAP_WRITE = 1, GIO_MAP_COPY = 2 };
enum { GIO_MAP_EXECUTE = 1, GIO_MAP_RESERVE = 2, GIO_MAP_LARGE_PAGES = 4, GIO_MAP_NO_CACHE = 8 };
enum {
    GIO_ADVICE_NORMAL = 0,
    GIO_ADVICE_SEQUENTIAL = 1,
    GIO_ADVICE_RANDOM = 2,
    GIO_ADVICE_WILLNEED = 3,
    GIO_ADVICE_DONTNEED = 4
};
int32_t gio_section_of_file(const void *path, int32_t access, int32_t flags, uint64_t size,
                            const gio_file_identity *expected, gio_section **section, gio_section_facts *facts);
int32_t gio_section_of_memory(const void *name, const void *header, uint64_t header_bytes, int32_t access, int32_t flags,
                              uint64_t size, gio_section **section, gio_section_facts *facts);
int32_t gio_section_reserve(gio_section *section);
int32_t gio_section_close(gio_section *section);
void gio_section_free(gio_section *section);
void gio_section_let_go(gio_section **place); /* frees what stands there, if anything */
int32_t gio_section_map(gio_section *section, uint64_t offset, uint64_t nbytes, void **view);
void gio_section_unmap(gio_section *section, uint64_t nbytes, void **view); /* what stands there, if anything */
/* To stable storage: a mapped range, or everything. */
int32_t gio_section_flush(gio_section *section, void *address, uint64_t nbytes);
int32_t gio_section_flush_all(gio_section *section);
int32_t gio_section_advise(gio_section *section, void *address, uint64_t nbytes, int32_t advice);
/* Of a section made with GIO_MAP_RESERVE, the range at `address` in a view and `offset` in the section, both multiples of
 * the granularity. BEYOND: not all of it is committed. */
int32_t gio_section_commit(gio_section *section, void *address, uint64_t offset, uint64_t nbytes);
int32_t gio_section_committed(gio_section *section, void *address, uint64_t offset, uint64_t nbytes);
/* At most 1 GiB between a view and other memory, GIO_READ out of the view; GIO_ANONYMOUS as for operations. SHRUNK, and no fault,
 * where the file has become shorter than `end`, where the range ends in the file. */
int32_t gio_section_copy(gio_section *section, int32_t direction, void *view, void *memory, uint64_t nbytes,
                         uint64_t end);

/* What the staging buffers of all queues hold of the system's memory, in bytes. For tests. */
uint64_t gio_staging_allocated(void);

/* The plan alone, for tests: the pieces that an operation is cut into. */
int32_t gio_plan(int32_t direction, const gio_segment *segments, uint64_t count, uint64_t offset, int32_t staging,
                 const gio_limits *limits, gio_piece *pieces, uint64_t max, uint64_t *planned);
/* cdef end */

#endif
