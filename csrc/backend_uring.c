/* backend_uring.c: io_uring by raw system calls.
 *
 * How io_uring fits together, as far as this file needs it. A ring is two arrays in memory shared with the kernel:
 *
 *   - the submission queue: entries (SQEs) that we fill, and a tail that we move on; the kernel reads them and moves
 *     the head on during io_uring_enter(2) ......................... new_entry, publish, uring_submit
 *   - the completion queue: entries (CQEs) that the kernel fills, and a tail that it moves on, at any time; we read
 *     them and move the head on .................................... uring_reap
 *
 * io_uring_enter hands over SQEs, sleeps until there are CQEs, or both (uring_sleep). A CQE carries the `user_data`
 * of its SQE and one signed number: bytes, or -errno. Each SQE gives exactly one CQE, in any order.
 *
 * The barriers, of which there are four, two for each array, and each is half of a pair whose other half is in the
 * kernel (io_uring/io_uring.c):
 *
 *   - we publish SQEs by a store-release of the tail: the entries' contents are visible before the tail says so;
 *   - we read the SQ head by a load-acquire before we re-use an entry: the kernel has done with it;
 *   - we read the CQ tail by a load-acquire before the CQEs: their contents are there;
 *   - we give CQEs back by a store-release of the head: we have read them before the kernel may overwrite them.
 *
 * Which ring: the plain kind. SINGLE_ISSUER and DEFER_TASKRUN are cheaper by a little, but tie submission and waiting
 * to one thread (EEXIST for all others), and completions then wait for that thread: neither "submit anywhere" nor
 * "goes on by itself" would hold. In the plain kind the kernel interrupts the submitting thread for a moment to post
 * a CQE, and if that thread has exited, posts it itself.
 *
 * Entries are filled and published under the queue's lock, and handed over without it: io_uring_enter carries out what the
 * page cache has, and so may take long. Threads that call it at the same time do no harm, for the kernel lets one in at a
 * time, and the others find fewer entries.
 *
 * When io_uring_enter begins to fail for good (a sandbox that closes behind us, a descriptor that somebody else has closed),
 * the ring is broken: what the kernel has not taken is given back with that error, what it has taken still completes in the
 * memory that we share, and what is started from then on goes to workers.c.
 *
 * Lifetimes: the kernel reads SQE and segment array during submission (IORING_FEAT_SUBMIT_STABLE), the data until the
 * CQE. The request owns the first two until its CQE as well, which is simpler to reason about.
 *
 * The structures are spelled out here, and checked against the kernel's ABI below, because the headers of the systems
 * that wheels are built on are older than io_uring.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "internal.h"

/* ---- the kernel's ABI (include/uapi/linux/io_uring.h) --------------------------------------------------- */

enum { NR_IO_URING_SETUP = 425, NR_IO_URING_ENTER = 426, NR_IO_URING_REGISTER = 427 }; /* on every architecture */

struct submission_entry {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t offset;
    uint64_t address; /* of the data, or of the segment array */
    uint32_t length;  /* bytes, or segments */
    uint32_t operation_flags;
    uint64_t user_data;
    uint16_t buffer_index; /* of the fixed operations */
    uint16_t unused_1[3];
    uint64_t unused_2[2];
};

struct completion_entry {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

struct submission_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
    uint64_t address;
};

struct completion_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, entries, flags, reserved;
    uint64_t address;
};

struct ring_parameters {
    uint32_t submission_entries, completion_entries, flags, thread_cpu, thread_idle, features, workers_fd;
    uint32_t reserved[3];
    struct submission_offsets submission;
    struct completion_offsets completion;
};

struct table_registration { uint32_t count, flags; uint64_t reserved, data, tags; };
struct table_update { uint32_t first, reserved_1; uint64_t data, tags; uint32_t count, reserved_2; };
struct operation_support { uint8_t operation, reserved_1; uint16_t flags; uint32_t reserved_2; };
struct operation_probe { uint8_t last, count; uint16_t reserved_1; uint32_t reserved_2[3]; struct operation_support support[64]; };

struct wait_time { int64_t seconds, nanoseconds; };
struct wait_argument { uint64_t signal_mask; uint32_t signal_mask_bytes, minimum_wait_us; uint64_t time; };

_Static_assert(sizeof(struct submission_entry) == 64, "struct io_uring_sqe");
_Static_assert(offsetof(struct submission_entry, user_data) == 32, "struct io_uring_sqe");
_Static_assert(offsetof(struct submission_entry, buffer_index) == 40, "struct io_uring_sqe");
_Static_assert(sizeof(struct table_registration) == 32, "struct io_uring_rsrc_register");
_Static_assert(sizeof(struct table_update) == 32, "struct io_uring_rsrc_update2");
_Static_assert(sizeof(struct operation_probe) == 16 + 64 * 8, "struct io_uring_probe");
_Static_assert(sizeof(struct completion_entry) == 16, "struct io_uring_cqe");
_Static_assert(sizeof(struct ring_parameters) == 120, "struct io_uring_params");
_Static_assert(sizeof(struct wait_argument) == 24, "struct io_uring_getevents_arg");

enum {
    OP_NOP = 0,
    OP_READV = 1,
    OP_WRITEV = 2,
    OP_READ_FIXED = 4,
    OP_WRITE_FIXED = 5,
    OP_SYNC_FILE_RANGE = 8,
    OP_ASYNC_CANCEL = 14,
    OP_READ = 22,
    OP_WRITE = 23,
    OP_READV_FIXED = 60, /* Linux 6.15 */
    OP_WRITEV_FIXED = 61,
};
enum { REGISTER_PROBE = 8, REGISTER_BUFFERS2 = 15, REGISTER_BUFFERS_UPDATE = 16 };
enum { TABLE_IS_SPARSE = 1, OPERATION_IS_SUPPORTED = 1 };
enum { MAP_AT_RINGS = 0, MAP_AT_ENTRIES = 0x10000000 };
enum { ENTER_GETEVENTS = 1 << 0, ENTER_EXT_ARG = 1 << 3 };
enum { RING_OVERFLOWED = 1 << 1 }; /* of the submission queue's flags: completions wait for room in the completion queue */

/* What we build on, all there since Linux 5.11: one mapping for both rings, no completion is ever dropped, the kernel
 * does not look at our structures after submission, and io_uring_enter takes a time-out. */
enum { FEATURES_NEEDED = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 8 };

enum { FLAG_RWF_DSYNC = 2 };        /* <linux/fs.h> */
enum { FLAG_SYNC_RANGE_ALL = 1 | 2 | 4 }; /* wait before, write, wait after (<linux/fs.h>) */

/* Registrations of one ring. The kernel takes at most 1 GiB in one. */
enum { SLOTS = 256 };
static const uint64_t SLOT_BYTES = (uint64_t)1 << 30;

/* ---- the ring ------------------------------------------------------------------------------------------- */

typedef struct {
    int fd;
    void *rings;
    size_t rings_bytes;
    struct submission_entry *entries;
    size_t entries_bytes;
    uint32_t entry_count, entry_mask, completion_mask;
    uint32_t *submission_head, *submission_tail, *submission_flags, *completion_head, *completion_tail;
    struct completion_entry *completions;
    uint32_t tail;          /* of the submission queue; published once an entry is filled */
    uint32_t claimed;       /* up to here, threads have set out to hand over */
    uint32_t entering;      /* threads inside io_uring_enter */
    uint32_t outstanding;   /* requests in the ring, handed over or not */
    int32_t woken;          /* the completion of no request is on its way to the sleeper */
    int32_t broken;         /* io_uring_enter fails for good: what is told of it; 0: it does not */
    int32_t is_foreign;     /* the descriptor's number is somebody else's by now */

    int32_t table; /* of registered memory: 0 not tried yet, 1 there, -1 not to be had */
    int32_t table_code; /* why not */
    int32_t has_vectors; /* the fixed operations take several segments, too */
    uint32_t slots_used; /* none is in use behind it */
    gio_segment slots[SLOTS]; /* length 0: free */
} ring;

/* `user_data` is the request's index and the low bits of its sequence number: a completion that fits no present start
 * is not taken for another one's. Cancellations and wake-ups carry an index that no request has. */
enum { INDEX_BITS = 20 };
static const uint64_t NO_REQUEST = ((uint64_t)1 << INDEX_BITS) - 1;
static const uint64_t WAKE_UP = ((uint64_t)2 << INDEX_BITS) - 1;

static uint64_t tag_of(const gio_queue *queue, const gio_request *request)
{
    return request->sequence << INDEX_BITS | (uint64_t)(request - queue->requests);
}

static int enter(const ring *ring, uint32_t submit, uint32_t minimum, uint32_t flags, const void *argument,
                 size_t bytes)
{
    long result = syscall(NR_IO_URING_ENTER, (long)ring->fd, (long)submit, (long)minimum, (long)flags, argument, bytes);
    return result < 0 ? -errno : (int)result;
}

static uint32_t unsubmitted(const ring *ring)
{
    return ring->tail - __atomic_load_n(ring->submission_head, __ATOMIC_ACQUIRE);
}

static int has_overflowed(const ring *ring)
{
    return (__atomic_load_n(ring->submission_flags, __ATOMIC_RELAXED) & RING_OVERFLOWED) != 0;
}

/* Room is always left for a start of each request. */
static struct submission_entry *new_entry(const gio_queue *queue, uint32_t left_free)
{
    ring *ring = queue->backend_state;
    if (unsubmitted(ring) + left_free >= ring->entry_count)
        return NULL;
    struct submission_entry *entry = &ring->entries[ring->tail & ring->entry_mask];
    memset(entry, 0, sizeof *entry);
    return entry;
}

static void publish(ring *ring)
{
    __atomic_store_n(ring->submission_tail, ++ring->tail, __ATOMIC_RELEASE);
}

/* The request that an entry or a completion is about, or NULL. */
static gio_request *request_of(const gio_queue *queue, uint64_t tag)
{
    uint64_t index = tag & NO_REQUEST;
    gio_request *request = index < queue->depth ? &queue->requests[index] : NULL;
    return request && request->operation && tag_of(queue, request) == tag ? request : NULL;
}

/* ---- io_uring_enter -------------------------------------------------------------------------------------- */

/* Between two tries where nobody tells when the next one is worth it. */
static const int64_t NAP_NS = 1000 * 1000;

/* No memory for a request, or for what the kernel notes of a thread; completions that have to be fetched first. */
static int is_shortage(int result)
{
    return result == -EAGAIN || result == -ENOMEM || result == -EBUSY;
}

/* Which refusals are for now. The entries then stay where they are, for the next call. Refusals of a single entry arrive as
 * its completion. */
static int is_for_now(int result)
{
    return result >= 0 || is_shortage(result) || result == -EINTR || result == -ETIME;
}

/* Nobody is inside io_uring_enter: the kernel looks at none of the entries, and never will. */
static void take_back(gio_queue *queue)
{
    ring *ring = queue->backend_state;
    uint32_t head = __atomic_load_n(ring->submission_head, __ATOMIC_ACQUIRE);

    for (uint32_t at = head; at != ring->tail; at++) {
        gio_request *request = request_of(queue, ring->entries[at & ring->entry_mask].user_data);
        if (request) {
            ring->outstanding--;
            gio_request_returned(queue, request, -(int64_t)ring->broken);
        }
    }
    ring->tail = ring->claimed = head;
    __atomic_store_n(ring->submission_tail, head, __ATOMIC_RELEASE);
}

/* Lock held, and let go of first: there are workers before anything is sent to them. If there can be none, the code is told
 * to all. */
static void give_up(gio_queue *queue, int32_t code)
{
    ring *ring = queue->backend_state;

    gio_mutex_unlock(&queue->mutex);
    gio_workers_open(queue);
    gio_mutex_lock(&queue->mutex);
    if (ring->broken) /* another thread was faster */
        return;
    ring->broken = GIO_E_BROKEN;
    ring->is_foreign = code == EBADF || code == EOPNOTSUPP;
    for (uint32_t i = 0; i < queue->listener_count; i++)
        queue->listeners[i].attended = 0; /* who watches the ring is told nothing any more */
    queue->unattended_count = queue->listener_count;
}

/* io_uring_enter, without the lock, for the entries that nobody else has set out to hand over. */
static int enter_unlocked(gio_queue *queue, uint32_t minimum, uint32_t flags, const void *argument, size_t bytes)
{
    ring *ring = queue->backend_state;
    uint32_t count = ring->tail - ring->claimed, head = ring->tail - unsubmitted(ring);

    queue->stats.submits += count != 0;
    ring->claimed = ring->tail;
    ring->entering++;
    gio_mutex_unlock(&queue->mutex);
    int result = enter(ring, count, minimum, flags, argument, bytes);
    gio_mutex_lock(&queue->mutex);
    ring->entering--;
    ring->claimed -= count - (uint32_t)(result > 0 ? gio_min((uint64_t)result, count) : 0); /* those taken may be another's */
    if (count != 0 && result >= 0 && unsubmitted(ring) >= ring->tail - head)
        result = -EBADF; /* another ring has the descriptor's number, and got our call */
    if (!is_for_now(result) && ring->broken == 0)
        give_up(queue, -result);
    if (ring->broken && ring->entering == 0)
        take_back(queue);
    return result;
}

static int uring_submit(gio_queue *queue)
{
    ring *ring = queue->backend_state;
    int overflowed = has_overflowed(ring);

    if ((ring->tail == ring->claimed && !overflowed) || ring->broken)
        return 0;
    enter_unlocked(queue, 0, overflowed ? ENTER_GETEVENTS : 0, NULL, 0);
    return overflowed || ring->broken;
}

/* ---- requests -------------------------------------------------------------------------------------------- */

/* The slot that all of these lie in, or -1. */
static int32_t find_slot(const ring *ring, const gio_segment *segments, uint64_t count)
{
    if (ring->slots_used == 0 || (count > 1 && !ring->has_vectors)) /* which is known before the first slot is used */
        return -1;
    for (uint32_t i = 0; i < ring->slots_used; i++) {
        const gio_segment *slot = &ring->slots[i];
        uint64_t k = 0;
        while (k < count && segments[k].address - slot->address < slot->length &&
               segments[k].length <= slot->length - (segments[k].address - slot->address))
            k++;
        if (k == count)
            return (int32_t)i;
    }
    return -1;
}

static void fill(gio_queue *queue, const gio_request *request, struct submission_entry *entry)
{
    gio_segment *segments = &request->segments[request->segment_first];
    uint64_t count = request->segment_count - request->segment_first;
    int writes = request->operation->direction == GIO_WRITE;

    entry->fd = (int32_t)gio_request_handle(request);
    entry->offset = request->piece.file_offset + request->from;
    entry->user_data = tag_of(queue, request);
    if (request->verb == GIO_WRITE_BACK) {
        entry->opcode = OP_SYNC_FILE_RANGE;
        entry->offset = request->write_back.begin;
        entry->length = (uint32_t)(request->write_back.end - request->write_back.begin);
        entry->operation_flags = FLAG_SYNC_RANGE_ALL;
        return;
    }
    if (count == 1) {
        entry->opcode = writes ? OP_WRITE : OP_READ;
        entry->address = segments->address;
        entry->length = (uint32_t)segments->length;
    } else {
        entry->opcode = writes ? OP_WRITEV : OP_READV;
        entry->address = (uint64_t)(uintptr_t)segments;
        entry->length = (uint32_t)count;
    }
    if (writes && request->operation->file->durable)
        entry->operation_flags = FLAG_RWF_DSYNC;
    int32_t slot = find_slot(queue->backend_state, segments, count);
    if (slot >= 0) {
        static const uint8_t fixed[2][2] = {{OP_READ_FIXED, OP_WRITE_FIXED}, {OP_READV_FIXED, OP_WRITEV_FIXED}};
        entry->opcode = fixed[count > 1][writes];
        entry->buffer_index = (uint16_t)slot;
        queue->stats.registered++;
    }
}

static void uring_start(gio_queue *queue, gio_request *request)
{
    ring *ring = queue->backend_state;

    if (ring->broken) {
        if (queue->workers)
            gio_workers_start(queue, request);
        else
            gio_request_returned(queue, request, -(int64_t)ring->broken);
        return;
    }
    fill(queue, request, new_entry(queue, 0));
    ring->outstanding++;
    publish(ring);
}

static void uring_reap(gio_queue *queue)
{
    ring *ring = queue->backend_state;
    uint32_t head = *ring->completion_head; /* only we move it, under the queue's lock */
    uint32_t tail = __atomic_load_n(ring->completion_tail, __ATOMIC_ACQUIRE);

    if (head == tail)
        return;
    for (; head != tail; head++) {
        const struct completion_entry *entry = &ring->completions[head & ring->completion_mask];
        gio_request *request = request_of(queue, entry->user_data);
        if (entry->user_data == WAKE_UP)
            ring->woken = 0;
        if (request) {
            ring->outstanding--;
            gio_request_returned(queue, request, entry->result);
        }
    }
    __atomic_store_n(ring->completion_head, head, __ATOMIC_RELEASE);
}

static void nap(gio_queue *queue, int64_t timeout_ns)
{
    gio_condition_wait(&queue->changed, &queue->mutex,
                       gio_deadline_ns(timeout_ns < 0 || timeout_ns > NAP_NS ? NAP_NS : timeout_ns));
}

/* Nobody tells of completions any more: those that the kernel still owes have to be looked for. */
static int32_t sleep_beside_broken(gio_queue *queue, int64_t timeout_ns)
{
    const ring *ring = queue->backend_state;

    if (ring->outstanding != 0)
        nap(queue, timeout_ns);
    else
        gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(timeout_ns));
    return 0;
}

static int32_t uring_sleep(gio_queue *queue, int64_t timeout_ns)
{
    ring *ring = queue->backend_state;
    struct wait_time time = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct wait_argument argument = {0, 8, 0, timeout_ns < 0 ? 0 : (uint64_t)(uintptr_t)&time};

    if (ring->broken)
        return sleep_beside_broken(queue, timeout_ns);
    /* If another thread hands over some of these first, the kernel finds fewer, and comes back without waiting. */
    int result = enter_unlocked(queue, 1, ENTER_GETEVENTS | ENTER_EXT_ARG, &argument, sizeof argument);
    if (is_shortage(result)) /* else it would be tried without a pause */
        nap(queue, timeout_ns);
    if (result == -EINTR)
        return GIO_E_INTERRUPTED;
    return result == -ETIME ? GIO_E_TIMEOUT : 0;
}

/* Asks the kernel to drop a request. What it answers is of no interest: the request's own completion tells. */
static void uring_cancel(gio_queue *queue, gio_request *request)
{
    ring *ring = queue->backend_state;
    struct submission_entry *entry = ring->broken ? NULL : new_entry(queue, queue->depth);

    if (queue->workers)
        gio_workers_cancel(queue, request); /* if it went there */
    if (entry == NULL)
        return;
    entry->opcode = OP_ASYNC_CANCEL;
    entry->fd = -1;
    entry->address = tag_of(queue, request);
    entry->user_data = NO_REQUEST;
    publish(ring);
}

/* A completion of no request makes the sleeper look up. */
static void uring_wake(gio_queue *queue)
{
    ring *ring = queue->backend_state;
    struct submission_entry *entry = ring->broken || ring->woken ? NULL : new_entry(queue, queue->depth);

    if (ring->broken)
        gio_condition_wake_all(&queue->changed);
    if (entry == NULL)
        return;
    entry->opcode = OP_NOP;
    entry->user_data = WAKE_UP;
    ring->woken = 1;
    publish(ring);
}

static int64_t uring_poll_handle(gio_queue *queue)
{
    const ring *ring = queue->backend_state;
    return ring->broken ? -1 : ring->fd;
}

/* ---- registered memory ---------------------------------------------------------------------------------- */

static int32_t register_with(const ring *ring, uint32_t what, const void *argument, uint32_t count)
{
    return syscall(NR_IO_URING_REGISTER, (long)ring->fd, (long)what, argument, (long)count) < 0 ? errno : 0;
}

/* An empty table, which is filled and emptied slot by slot (Linux 5.19). */
static int32_t make_table(ring *ring)
{
    struct table_registration table = {SLOTS, TABLE_IS_SPARSE, 0, 0, 0};
    struct operation_probe probe;

    if (ring->table != 0)
        return ring->table_code;
    ring->table_code = register_with(ring, REGISTER_BUFFERS2, &table, sizeof table);
    ring->table = ring->table_code ? -1 : 1;
    if (ring->table_code == EINVAL)
        ring->table_code = GIO_E_UNREGISTRABLE;
    memset(&probe, 0, sizeof probe);
    ring->has_vectors = register_with(ring, REGISTER_PROBE, &probe, 64) == 0 && probe.last >= OP_WRITEV_FIXED &&
                        (probe.support[OP_READV_FIXED].flags & probe.support[OP_WRITEV_FIXED].flags &
                         OPERATION_IS_SUPPORTED);
    return ring->table_code;
}

static int32_t update_table(const ring *ring, uint32_t slot, gio_segment memory)
{
    struct table_update update = {slot, 0, (uint64_t)(uintptr_t)&memory, 0, 1, 0};
    long result = syscall(NR_IO_URING_REGISTER, (long)ring->fd, (long)REGISTER_BUFFERS_UPDATE, &update, sizeof update);
    return result < 0 ? errno : 0;
}

/* What requests find from now on. Lock held. */
static void set_slot(ring *ring, uint32_t slot, gio_segment memory)
{
    ring->slots[slot] = memory;
    while (memory.length && ring->slots_used <= slot)
        ring->slots_used = slot + 1;
    while (ring->slots_used && ring->slots[ring->slots_used - 1].length == 0)
        ring->slots_used--;
}

/* The slot of exactly this memory, or SLOTS. */
static uint32_t slot_of(const ring *ring, uint64_t address, uint64_t nbytes)
{
    for (uint32_t i = 0; i < ring->slots_used; i++)
        if (ring->slots[i].address == address && ring->slots[i].length == nbytes)
            return i;
    return SLOTS;
}

/* Entries that nobody has set out to hand over: written anew, by what is registered now. */
static void fill_anew(gio_queue *queue)
{
    ring *ring = queue->backend_state;

    for (uint32_t at = ring->claimed; at != ring->tail; at++) {
        struct submission_entry *entry = &ring->entries[at & ring->entry_mask];
        const gio_request *request = request_of(queue, entry->user_data);
        if (request) {
            memset(entry, 0, sizeof *entry);
            fill(queue, request, entry);
        }
    }
}

/* All entries so far, by this thread and by those who have set out to. Those that the kernel refuses for now stay, and name
 * no memory that is registered no more. */
static void hand_over_all(gio_queue *queue)
{
    ring *ring = queue->backend_state;
    uint32_t end = ring->tail;

    for (uint32_t before = UINT32_MAX, left; (left = end - (ring->tail - unsubmitted(ring))) - 1 < INT32_MAX;) {
        if (ring->entering != 0 && (ring->tail == ring->claimed || ring->broken)) {
            gio_condition_wait(&queue->changed, &queue->mutex, gio_deadline_ns(NAP_NS));
        } else if (left < before) {
            before = left;
            gio_queue_hand_over(queue);
        } else {
            fill_anew(queue);
            end = ring->claimed; /* what others are about */
            before = UINT32_MAX;
        }
    }
}

static void uring_remove_memory(gio_queue *queue, void *address, uint64_t nbytes)
{
    ring *ring = queue->backend_state;
    gio_segment nothing = {0, 0};
    uint32_t slots[SLOTS], count = 0;

    gio_mutex_lock(&queue->mutex);
    for (uint64_t done = 0; done < nbytes; done += SLOT_BYTES) { /* one slot for each: the same may be registered twice */
        uint32_t slot = slot_of(ring, (uint64_t)(uintptr_t)address + done, gio_min(nbytes - done, SLOT_BYTES));
        if (slot != SLOTS) {
            set_slot(ring, slot, nothing);
            slots[count++] = slot;
        }
    }
    if (count)
        hand_over_all(queue); /* entries that name one of them get its pages now; later there would be none */
    gio_mutex_unlock(&queue->mutex);
    for (uint32_t i = 0; i < count; i++)
        update_table(ring, slots[i], nothing); /* whatever the kernel says: nobody finds it any more */
}

static int32_t uring_add_memory(gio_queue *queue, void *address, uint64_t nbytes)
{
    ring *ring = queue->backend_state;
    int32_t code = make_table(ring);
    uint64_t done = 0;

    for (uint32_t slot = 0; code == 0 && done < nbytes; slot++) {
        gio_segment part = {(uint64_t)(uintptr_t)address + done, gio_min(nbytes - done, SLOT_BYTES)};
        if (slot == SLOTS) {
            code = GIO_E_TABLE_FULL;
        } else if (ring->slots[slot].length == 0 && (code = update_table(ring, slot, part)) == 0) {
            gio_mutex_lock(&queue->mutex);
            set_slot(ring, slot, part);
            gio_mutex_unlock(&queue->mutex);
            done += part.length;
        }
    }
    if (code)
        uring_remove_memory(queue, address, done);
    return code;
}

/* ---- opening and closing -------------------------------------------------------------------------------- */

static void release(ring *ring)
{
    if (ring->entries != MAP_FAILED)
        munmap(ring->entries, ring->entries_bytes);
    if (ring->rings != MAP_FAILED)
        munmap(ring->rings, ring->rings_bytes);
    if (ring->fd >= 0 && !ring->is_foreign)
        close(ring->fd);
    free(ring);
}

static void *map(int fd, size_t nbytes, off_t what)
{
    return mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);
}

static int32_t map_ring(ring *ring, const struct ring_parameters *parameters)
{
    const struct submission_offsets *submission = &parameters->submission;
    const struct completion_offsets *completion = &parameters->completion;
    size_t submission_bytes = submission->array + parameters->submission_entries * sizeof(uint32_t);
    size_t completion_bytes = completion->entries + parameters->completion_entries * sizeof(struct completion_entry);

    ring->rings_bytes = gio_max(submission_bytes, completion_bytes);
    ring->rings = map(ring->fd, ring->rings_bytes, MAP_AT_RINGS);
    if (ring->rings == MAP_FAILED)
        return errno;
    ring->entries_bytes = parameters->submission_entries * sizeof(struct submission_entry);
    ring->entries = map(ring->fd, ring->entries_bytes, MAP_AT_ENTRIES);
    if (ring->entries == MAP_FAILED)
        return errno;

    char *base = ring->rings;
    ring->entry_count = parameters->submission_entries;
    ring->entry_mask = *(uint32_t *)(base + submission->ring_mask);
    ring->completion_mask = *(uint32_t *)(base + completion->ring_mask);
    ring->submission_head = (uint32_t *)(base + submission->head);
    ring->submission_tail = (uint32_t *)(base + submission->tail);
    ring->submission_flags = (uint32_t *)(base + submission->flags);
    ring->completion_head = (uint32_t *)(base + completion->head);
    ring->completion_tail = (uint32_t *)(base + completion->tail);
    ring->completions = (struct completion_entry *)(base + completion->entries);
    /* The kernel finds entry i of the queue through array[i]. We use the entries in turn: it never changes. */
    uint32_t *array = (uint32_t *)(base + submission->array);
    for (uint32_t i = 0; i < ring->entry_count; i++)
        array[i] = i;
    return 0;
}

/* A sandbox may allow the set-up and forbid the rest: send one entry through and wait for it. A moment's shortage is no
 * reason to do without io_uring from then on. */
static int32_t try_nop(gio_queue *queue)
{
    enum { TRIES = 100 };
    ring *ring = queue->backend_state;
    struct submission_entry *entry = new_entry(queue, 0);
    int result = -EAGAIN;

    entry->opcode = OP_NOP;
    entry->user_data = NO_REQUEST;
    publish(ring);
    for (int i = 0; i < TRIES && (is_shortage(result) || result == -EINTR); i++) {
        if (i != 0 && is_shortage(result))
            poll(NULL, 0, (int)(NAP_NS / 1000000));
        result = enter(ring, unsubmitted(ring), 1, ENTER_GETEVENTS, NULL, 0);
    }
    if (result < 0)
        return -result;
    ring->claimed = ring->tail;
    uring_reap(queue);
    return 0;
}

static int32_t uring_open(gio_queue *queue)
{
    struct ring_parameters parameters;
    int32_t code;
    ring *ring = calloc(1, sizeof *ring);

    if (ring == NULL)
        return ENOMEM;
    ring->rings = ring->entries = MAP_FAILED;
    memset(&parameters, 0, sizeof parameters);
    /* Of each request a start and a cancellation, and a wake-up: there is room for all of them at once. */
    ring->fd = (int)syscall(NR_IO_URING_SETUP, 2 * (long)queue->depth + 1, &parameters);
    if (ring->fd < 0)
        code = errno;
    else if ((parameters.features & FEATURES_NEEDED) != FEATURES_NEEDED)
        code = GIO_E_TOO_OLD;
    else
        code = map_ring(ring, &parameters);
    queue->backend_state = ring;
    if (code == 0)
        code = try_nop(queue);
    if (code)
        release(ring);
    return code;
}

/* A FUSE server may move less than asked, and io_uring then tells a count that is not what has been moved (seen in Linux
 * 6.18: 4,194,304 told and 3,831 right). pwritev2 and preadv2 tell the truth. */
static int32_t uring_adopt(gio_queue *queue, gio_file *file, int32_t *why)
{
    const ring *ring = queue->backend_state;

    if (file->file_system != FUSE_SUPER_MAGIC && !ring->broken)
        return 0;
    file->backend = &gio_backend_threads;
    *why = ring->broken ? ring->broken : GIO_E_MISCOUNTED;
    return gio_workers_open(queue);
}

static void uring_close(gio_queue *queue)
{
    release(queue->backend_state);
}

const gio_backend gio_backend_uring = {
    .name = "uring",
    .leaves_calls = 1,
    .open = uring_open,
    .close = uring_close,
    .start = uring_start,
    .submit = uring_submit,
    .reap = uring_reap,
    .cancel = uring_cancel,
    .sleep = uring_sleep,
    .wake = uring_wake,
    .poll_handle = uring_poll_handle,
    .add_memory = uring_add_memory,
    .remove_memory = uring_remove_memory,
    .adopt = uring_adopt,
};
