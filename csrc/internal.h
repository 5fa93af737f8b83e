/* internal.h: what the files of the core share among themselves. Reading order: README.md. */
#ifndef GATHERIO_INTERNAL_H
#define GATHERIO_INTERNAL_H

#include <stddef.h>

#include "gatherio.h"

/* ---- the operating system: the same symbols in os_linux.c and os_windows.c ------------------------------- */

/* Storage for the system's own types; each os_*.c asserts that it is large enough. */
typedef struct { uint64_t storage[8]; } gio_mutex;
typedef struct { uint64_t storage[8]; } gio_condition;
typedef struct { uint64_t storage[2]; } gio_thread;

void gio_mutex_init(gio_mutex *mutex);
void gio_mutex_destroy(gio_mutex *mutex);
void gio_mutex_lock(gio_mutex *mutex);
void gio_mutex_unlock(gio_mutex *mutex);
void gio_condition_init(gio_condition *condition);
void gio_condition_destroy(gio_condition *condition);
void gio_condition_wait(gio_condition *condition, gio_mutex *mutex, int64_t deadline_ns);
void gio_condition_wake_one(gio_condition *condition);
void gio_condition_wake_all(gio_condition *condition);
int32_t gio_thread_start(gio_thread *thread, void *(*body)(void *), void *argument); /* all signals blocked */
void gio_thread_join(gio_thread *thread);
int64_t gio_now_ns(void);                         /* monotonic */
int64_t gio_deadline_ns(int64_t timeout_ns);      /* negative: never */
uint64_t gio_fork_count(void);                    /* how many forks lie between this process and its ancestor */
/* What was written before `value` is there for whoever reads it, in another thread and without a lock. */
void gio_publish(int64_t *place, int64_t value);

/* Codes that shared code must tell apart. */
int gio_code_is_transient(int32_t code);          /* the same request may simply be started again */
int gio_code_is_for_now(int32_t code);            /* of these: but not without a pause */
int gio_code_is_cancelled(int32_t code);          /* the kernel dropped the request without finishing it */
int gio_code_is_doubtful(int32_t code);           /* of a write to stable storage: it may be another write's error */
int gio_code_is_shortage(int32_t code);           /* too much is in flight, or the request is too large */
int32_t gio_code_no_memory(void);
int32_t gio_code_invalid(void);
int32_t gio_code_cancelled(void);

/* ---- one operation ------------------------------------------------------------------------------------- */

/* Where in its segments an operation stands. */
typedef struct {
    uint64_t index;  /* segment */
    uint64_t within; /* bytes of it that are behind us */
} gio_cursor;

typedef enum {
    GIO_FREE,    /* not in use */
    GIO_BEHIND,  /* others of its file come first */
    GIO_WAITING, /* on the backlog: some of its bytes belong to no request yet */
    GIO_COVERED, /* every byte belongs to a request, or no further request will be made (failed, cancelled) */
} gio_state;

typedef struct gio_backend gio_backend;
typedef struct gio_workers gio_workers;
typedef struct gio_stage gio_stage;

/* A staged piece that has been planned and waits for its buffer. */
typedef struct {
    int32_t there;  /* 0: none */
    int32_t making; /* a thread is about it, without the lock */
    gio_piece piece;
    gio_cursor after; /* the cursor behind it */
} gio_planned;

typedef struct gio_operation {
    struct gio_operation *next, *previous; /* in the list that its state says: free or backlog */
    struct gio_operation *older, *newer;   /* of its file, in the order of submission */
    gio_file *file;
    uint64_t user_data; /* the submitter's own name for it; 0: nobody is told but who waits for the completion */
    gio_completion *completion;
    uint64_t ticket; /* generation << GIO_INDEX_BITS | index; a generation is never used twice */
    gio_state state;
    int32_t direction;
    int32_t staging;
    int32_t code;
    int32_t call;  /* or GIO_CALL_NONE: it moves bytes */
    uint64_t size; /* of the call */
    const gio_segment *segments;
    uint64_t segment_count;
    gio_segment only; /* the segment array of an operation on one array */
    const uint64_t *offsets; /* of a batch: where each segment belongs; else NULL */
    uint64_t offset;
    uint64_t length;
    uint64_t planned;   /* bytes from the start that belong to a request */
    uint64_t intact;    /* bytes from the start below every failure and below the end of the file */
    gio_cursor cursor;  /* at `planned` */
    gio_planned ahead;  /* what comes next, so that it is not planned at each look */
    uint32_t requests;  /* in flight, or a buffer for the next one is being made */
    uint8_t cancelling;
    uint8_t anonymous;     /* the memory is no mapped file's, so that its pages are there */
    uint8_t through_cache; /* all of it goes to the buffered handle, which has a lock on it. Windows */
} gio_operation;

enum { GIO_INDEX_BITS = 24, GIO_OPERATIONS_PER_BLOCK = 64 };

/* One request: what one system call, submission entry or OVERLAPPED carries. It owns everything that the kernel
 * reads until the result is in. */
typedef enum {
    GIO_TRANSFER,   /* a read or a write */
    GIO_CACHED,     /* a ragged end that has been written to the page cache and has to go on to the disk */
    GIO_WRITE_BACK, /* it is on its way there, with others perhaps, */
    GIO_CARRIED,    /* which are these: `leader` tells with whom */
    GIO_CALL,       /* what the operation's `call` says */
} gio_verb;

typedef enum {
    GIO_PREPARING, /* its bytes are being copied */
    GIO_WAITS,     /* for other writes of the file (order.c) */
    GIO_STARTED,
} gio_standing;

typedef struct {
    uint64_t begin, end;
} gio_range;

typedef struct gio_request {
    struct gio_request *next; /* in the list that it is on: free, returned, held, a backend's own */
    gio_operation *operation; /* NULL: free */
    uint64_t sequence;        /* of the start, so that a stray completion is recognised */
    gio_verb verb;
    gio_piece piece;
    gio_cursor cursor;        /* at piece.begin */
    gio_segment *segments;    /* &single, or `many` */
    gio_segment single;
    gio_segment *many;        /* max_segments of them, made when first needed and kept */
    uint64_t segment_first;   /* those before it have been moved */
    uint64_t segment_count;
    uint64_t from;            /* bytes of the piece that the present start leaves out */
    uint64_t reached;         /* bytes of the piece known to have been moved */
    uint64_t most;            /* bytes of one start at most: less than the piece after a shortage. Windows */
    uint32_t retries;         /* without progress */
    int64_t refused_ns;       /* it has waited so long because the system refused it, since it last got on (refused.c) */
    int64_t pause_ns, due_ns; /* the present pause, and its end */
    uint32_t doubts;          /* written again after an error that may be another write's */
    int32_t suspect;          /* the error that another write was told, and which may be this one's; 0: none */
    gio_standing stands;
    uint8_t in_order;         /* not before what lies in front of it in the same operation */
    uint64_t number;          /* of the file's writes, in the order in which they began */
    struct gio_request *previous_write, *next_write; /* in the file's list */
    struct gio_request *behind; /* it waited for this one when it was last looked at */
    struct gio_request *leader;
    gio_range write_back;     /* of the file; the leader's */
    gio_stage *stage;         /* the staging buffer, or NULL */
    int64_t result;           /* of the last start: bytes, or a negative code */
} gio_request;

typedef struct gio_lock {
    uint64_t id, offset, length;
    int32_t exclusive;
    struct gio_lock *before, *behind; /* in the table: below this one (ranges.c) */
    uint64_t reach;                   /* the last byte of those and of this one */
} gio_lock;

/* Empty: of no bytes. */
enum {
    GIO_RANGES_SHARED,
    GIO_RANGES_EXCLUSIVE,
    GIO_RANGES_EMPTY_SHARED,
    GIO_RANGES_EMPTY_EXCLUSIVE,
    GIO_RANGES_KINDS
};

typedef struct {
    gio_lock *trees[GIO_RANGES_KINDS];
} gio_ranges;

/* Requests that wait for a thread of the backend's. */
typedef struct {
    gio_request *first, *last;
} gio_request_list;

struct gio_file {
    gio_queue *queue;
    const gio_backend *backend; /* the queue's, or one that serves this file where that cannot */
    uint64_t file_system;    /* as in gio_file_facts */
    int64_t handle;          /* for transfers */
    int64_t buffered_handle; /* for ragged ends; the same one when the file is buffered */
    int32_t durable;
    int32_t writes_through;  /* ragged ends are on the device, or an error, when their write has finished */
    int32_t may_block;       /* the system may carry requests out while it is being handed them. Windows */
    int32_t writeable;
    gio_limits limits;
    uint64_t operations;     /* in flight */
    gio_operation *oldest, *newest; /* these, and calls that are being made directly */
    gio_operation *barrier;  /* the oldest of those that let what is newer begin after them */
    gio_request *first_write, *last_write; /* those that have begun and not ended, in the order in which they began */
    uint64_t writes_begun;   /* so far */
    uint64_t ragged;         /* of these: through the page cache */
    uint64_t folio_bytes;    /* what the page cache may keep in one piece */
    uint64_t known_end;      /* the file is this long at least, as far as this gio_file knows */
    uint64_t valid_end;      /* a write below does not extend what has ever been written; beyond, it may block. Windows */
    uint64_t reserved_end;   /* space was reserved up to here, perhaps beyond the end of the file; 0: none */
    int32_t gives_back;      /* what of it lies beyond the end goes back when the file is closed */
    int32_t closed;
    int32_t close_code;      /* what closing it gave */
    int32_t heeds_locks;     /* of others */
    int64_t lock_handle;     /* where the system has the locks of this file; -1: none yet */
    gio_mutex lock_mutex;    /* guards these three and lock_handle, also while the system is asked; the queue's is not held */
    gio_ranges locks;
    uint64_t lock_ids;
    int32_t locks_closed;
};

/* ---- plan.c: pure -------------------------------------------------------------------------------------- */

/* The next piece of `operation`, its segments, and the cursor behind it. Touches nothing else. */
void gio_plan_next(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                   gio_piece *piece, gio_cursor *after);
/* Between the segments and a staging buffer. 0, or the system's code for an address with no memory behind it. */
int32_t gio_copy_from_segments(const gio_operation *operation, gio_cursor cursor, void *to, uint64_t nbytes);
int32_t gio_copy_to_segments(const gio_operation *operation, gio_cursor cursor, const void *from, uint64_t nbytes);
void gio_copy_plainly(int32_t direction, const gio_segment *memory, uint64_t count, void *ours);

/* ---- copy_*.c: memory whose pages may be gone ------------------------------------------------------------ */

/* Between `count` (1024 at most) segments of less than 2 GiB together and one run: GIO_WRITE takes from the segments,
 * GIO_READ fills them. Where the segments or the run are of a mapped file, and the file has been cut: the code of the system
 * for an address with nothing behind it, and no signal or exception. Plain copies where the system refuses to do that. */
int32_t gio_copy_guarded(int32_t direction, const gio_segment *memory, uint64_t count, void *ours);
int gio_copy_is_guarded(void); /* 0: it refuses */

/* ---- order.c: of what is in flight for one file. Lock held ----------------------------------------------- */

/* Whether all that comes first has finished. */
int gio_order_lets_begin(const gio_operation *operation);
void gio_order_add(gio_operation *operation);
void gio_order_remove(gio_operation *operation); /* whose turn has come by that is put on the backlog */

void gio_writes_add(gio_request *request);
void gio_writes_remove(gio_request *request);
void gio_writes_go_ragged(gio_request *request); /* its rest, before its route says so */
int gio_writes_must_wait(gio_request *request);
gio_range gio_writes_blocks(const gio_request *request); /* of the file, around its bytes */
/* Puts cached ragged ends into one group: the request that is to write them back, or NULL. */
gio_request *gio_writes_group(gio_file *file);
void gio_writes_suspect(gio_file *file, int32_t code); /* those in the page cache, which an error may be about as well */

/* ---- a backend ----------------------------------------------------------------------------------------- */

struct gio_backend {
    const char *name;
    int32_t (*open)(gio_queue *queue);  /* tries for real that it works here; sets queue->backend_state */
    void (*close)(gio_queue *queue);    /* nothing is in flight; also in a forked child, where it only lets go */
    int32_t leaves_calls; /* GIO_CALL requests go to the queue's workers: it has nothing that carries them out and does not block */
    /* The lock is held in these, and no system call is made under it. start takes over a request; its result comes by
     * gio_request_returned, at once or later. cancel may be NULL. wake makes the sleeper look up. */
    void (*start)(gio_queue *queue, gio_request *request);
    void (*cancel)(gio_queue *queue, gio_request *request);
    void (*wake)(gio_queue *queue);
    /* The lock is held, and let go of around the system calls. submit hands to the kernel what was started; whether there
     * is more to look at because of that. reap returns what has finished; it may be NULL where threads of the backend
     * return requests by themselves. sleep hands over what was started and sleeps until there is something to reap, or
     * until wake is called. It is NULL where completions come by themselves; where they do not, the queue runs a thread
     * that steps in when nobody waits. */
    int (*submit)(gio_queue *queue);
    void (*reap)(gio_queue *queue);
    int32_t (*sleep)(gio_queue *queue, int64_t timeout_ns);
    int64_t (*poll_handle)(gio_queue *queue); /* may be NULL */
    /* Registered memory; may be NULL. The lock is not held, but memory_mutex is. */
    int32_t (*add_memory)(gio_queue *queue, void *address, uint64_t nbytes);
    void (*remove_memory)(gio_queue *queue, void *address, uint64_t nbytes);
    /* A file was opened for this queue; may be NULL. Where this backend cannot serve it, another one is put into
     * file->backend, and the reason into `why`. */
    int32_t (*adopt)(gio_queue *queue, gio_file *file, int32_t *why);
};

extern const gio_backend gio_backend_uring, gio_backend_threads, gio_backend_iocp, gio_backend_sync;
extern const gio_backend *const gio_backends[]; /* of this system, best first, NULL at the end */

/* ---- staging.c -------------------------------------------------------------------------------------------- */

/* Two kinds of staging buffers, by what they hold: a huge page, or a small piece, of which many have to be in flight. */
enum { GIO_STAGE_LARGE = 0, GIO_STAGE_SMALL = 1, GIO_STAGE_KINDS = 2 };
#define GIO_STAGE_BYTES ((uint64_t)2 * 1024 * 1024)
#define GIO_STAGE_SMALL_BYTES ((uint64_t)16 * 1024)

struct gio_stage {
    void *memory;    /* page-aligned */
    gio_stage *next; /* in the list of those that are free */
    struct gio_stage_block *block;
};

/* What a queue has of them. The queue's lock is held in the calls that take this, but for the last one. */
typedef struct {
    uint32_t used[GIO_STAGE_KINDS]; /* or being made */
    int32_t joined;                 /* it has staged something */
    int32_t trims;                  /* there are more free ones than are kept: gio_staging_trim is to be called */
} gio_staging;

int gio_stage_kind(uint64_t nbytes);
/* Takes one. 0: the queue uses its share. `*stage` NULL: none is free, and the next call is one of these two. */
int gio_stage_take(gio_staging *own, int kind, gio_stage **stage);
int32_t gio_stage_make(int kind, gio_stage **stage); /* no lock is held */
void gio_stage_go_without(gio_staging *own, int kind);
void gio_stage_give(gio_staging *own, gio_stage *stage);
void gio_staging_trim(void); /* no lock is held in these two */
void gio_staging_leave(gio_staging *own); /* the queue has closed */
void gio_staging_before_fork(void);
void gio_staging_after_fork(int is_child);

/* ---- a queue -------------------------------------------------------------------------------------------- */

typedef struct {
    gio_operation *first, *last;
    uint64_t count;
} gio_operation_list;

typedef struct {
    gio_event *event;
    int32_t attended;
} gio_listener;

enum { GIO_KEPT_MAX = 128 };

struct gio_queue {
    gio_mutex mutex;       /* guards all of this, the files and the operations */
    gio_condition changed; /* an operation finished, or the lead fell vacant */
    gio_condition pump_wake;
    const gio_backend *backend;
    void *backend_state;
    gio_workers *workers;  /* threads that make calls which may block; NULL: not needed so far */
    uint64_t fork_count;   /* of the process that opened it */
    uint64_t holders;      /* files, registrations and batches that have not gone */
    int32_t abandoned;     /* freed by its owner, kept for those */
    int32_t closing, closed, gone; /* no more submissions; nothing in flight; the backend is gone */
    int32_t released;      /* the same as `gone`; memory_mutex guards it */

    uint32_t depth;
    uint64_t request_bytes, bytes_in_flight_max, bytes_in_flight_ceiling;
    gio_system_facts system;

    gio_request *requests;      /* `depth` of them */
    gio_request *free_requests;
    gio_request *returned;      /* results that request.c has not looked at yet, first returned first */
    gio_request **returned_end;
    gio_request *held;          /* by a fault */
    gio_request *shelved;       /* the system was short of memory: they wait until others have ended */
    gio_request *refused;       /* by the system, for now: each waits for the end of its pause */
    uint32_t requests_started;  /* with the backend: neither being copied nor held by a fault, nor a call */
    uint32_t waiting_writes;    /* GIO_WAITS */
    uint64_t behind;            /* operations that are GIO_BEHIND */
    int32_t write_ended;        /* or came to wait, since those were last looked at */
    uint64_t bytes_in_flight;
    uint64_t sequence;          /* of the last start */
    uint64_t submitted;         /* of the last one that the backend has been asked to submit */
    uint32_t batches;           /* begun and not ended */

    gio_staging staging;

    gio_operation **operations; /* by index */
    uint64_t operation_count;
    uint64_t generation;
    gio_operation_list free_operations, backlog;
    uint64_t live;              /* operations that have not finished */
    uint64_t *finished;         /* names of those that have, and that nobody has seen yet: a ring of `finished_room`, which
                                   is a power of two and has room for all that are live */
    uint64_t finished_room, finished_first, finished_end; /* positions count from the first one ever */

    uint32_t followers;         /* threads asleep on `changed` */
    uint32_t inside;            /* threads that wait, open a file, or are in the backend without the lock: close lets them leave */
    int32_t led;                /* a thread is asleep in the backend for all of us */
    gio_listener *listeners;
    uint32_t listener_count, unattended_count;
    gio_event *quiet;      /* a listener that is looking at this moment */

    gio_thread pump;
    int32_t pump_started, pump_parked, pump_patient, pump_stop;
    uint64_t pump_seen;         /* operations submitted when it last looked */

    gio_mutex memory_mutex;     /* registered memory: held while it comes and goes. Before `mutex` */
    struct gio_kept *kept;      /* what stays registered; registered.c's mutex guards these three */
    uint64_t kept_count;
    uint64_t kept_refused;      /* bytes that the system would not keep registered; 0: none */

    struct { int32_t kind; uint64_t after, count, value; } fault;
    gio_queue_stats stats;
};

/* operation.c. Lock held. */
/* No byte beyond those planned is going to belong to a request. */
void gio_operation_stop_planning(gio_queue *queue, gio_operation *operation);
/* From `position` on (bytes from the start) nothing is sure to have been moved. */
void gio_operation_break_off(gio_queue *queue, gio_operation *operation, int32_t code, uint64_t position);
void gio_operation_finish_if_done(gio_queue *queue, gio_operation *operation);

/* request.c. Lock held. */
void gio_request_append_returned(gio_queue *queue, gio_request *request);
void gio_request_start(gio_queue *queue, gio_request *request);
void gio_request_start_in_turn(gio_queue *queue, gio_request *request);
void gio_request_count(gio_queue *queue, const gio_request *request, int step); /* in what is in flight: +1, -1 */
void gio_request_end(gio_queue *queue, gio_request *request, int32_t code);
void gio_request_unshelve(gio_queue *queue);
void gio_request_settle_failure(gio_queue *queue, gio_request *request, int32_t code);
int gio_requests_settle(gio_queue *queue); /* one of those that came back; whether there was one */

/* wait.c. Lock held, and let go of meanwhile. */
void *gio_queue_pump(void *queue); /* the body of the queue's own thread */
int32_t gio_queue_wait_until(gio_queue *queue, int (*ready)(gio_queue *, void *), void *argument, int64_t timeout_ns);

/* operation.c, schedule.c */
void gio_request_returned(gio_queue *queue, gio_request *request, int64_t result); /* lock held */
/* Lock held, and let go of now and then. The second one leaves what was started to be handed over, and tells whether it has
 * done anything; the third hands over, and tells whether there is more to look at because of it. */
void gio_queue_advance(gio_queue *queue);
int gio_queue_prepare(gio_queue *queue);
int gio_queue_hand_over(gio_queue *queue);
void gio_list_append(gio_operation_list *list, gio_operation *operation);
void gio_list_remove(gio_operation_list *list, gio_operation *operation);
gio_operation *gio_operation_find(gio_queue *queue, uint64_t ticket); /* NULL: it has finished */
/* A description of one on one array. */
gio_operation gio_operation_on(gio_file *file, int32_t direction, const gio_segment *memory, uint64_t offset,
                               gio_completion *completion);
/* 0, with the lock held and nothing handed over yet; or a code, without the lock. */
int32_t gio_operation_begin(gio_operation *wanted);

/* In the calling thread, without the lock. Bytes, or a negative code. */
int64_t gio_request_carry_out(const gio_request *request);
void gio_requests_append(gio_request_list *list, gio_request *request);
gio_request *gio_requests_take(gio_request_list *list);                     /* the first, or NULL */
int gio_requests_remove(gio_request_list *list, const gio_request *request); /* whether it was there */

/* queue.c */
int32_t gio_queue_usable(gio_queue *queue);      /* 0 or FORKED; no lock needed */
int32_t gio_queue_enter(gio_queue *queue);       /* no lock. CLOSED; else the backend and the workers stay until: */
void gio_queue_leave(gio_queue *queue);
void gio_queue_count_holder(gio_queue *queue, int step); /* no lock. +1: one more; -1: one less, and perhaps the last */
void gio_queue_operation_finished(gio_queue *queue); /* lock held: wake whom it concerns */
void gio_queue_call_attention(gio_queue *queue); /* lock held: there may be work that nobody looks after */

/* file.c */
int32_t gio_file_call(const gio_operation *operation); /* makes the operation's call, in the calling thread. No lock is held */

/* workers.c. Lock held in the last three; see gio_backend. */
int32_t gio_workers_open(gio_queue *queue); /* sees to it that queue->workers is there; who calls it is inside */
void gio_workers_close(gio_queue *queue, gio_workers *workers);
void gio_workers_start(gio_queue *queue, gio_request *request);
void gio_workers_cancel(gio_queue *queue, gio_request *request);
void gio_workers_wake(gio_workers *workers); /* one of them looks for what there is to do */

/* refused.c. Lock held. */
int gio_refused_add(gio_queue *queue, gio_request *request); /* 0: it has been refused for too long */
gio_request *gio_refused_take(gio_queue *queue); /* one whose pause is over, or that is no longer wanted; NULL: none */
int64_t gio_refused_until(const gio_queue *queue, int64_t deadline_ns); /* the end of the first pause, if that is earlier */

/* registered.c. No lock is held. */
int32_t gio_registered_add(gio_queue *queue, void *address, uint64_t nbytes);
void gio_registered_forget(gio_queue *queue); /* what it keeps has gone, with the backend */
void gio_registered_before_fork(void);
void gio_registered_after_fork(void);

/* os_*.c */
void gio_os_pages_free(void *address, uint64_t allocated);
/* for files: mechanism under gio_file_* */
int32_t gio_os_file_open(gio_file *file, const void *path, int32_t access, int32_t create, int32_t direct,
                         int32_t durable, gio_file_facts *facts);
/* Closes all descriptors whatever happens, and tells the first error. `gives_back`: frees what is reserved beyond the end. */
int32_t gio_os_file_close(gio_file *file, int32_t gives_back);
int32_t gio_os_file_size(gio_file *file, uint64_t *size);
int32_t gio_os_file_resize(gio_file *file, uint64_t size);
/* `*reserved` may be 1 after an error, too: then part of the space may be reserved. */
int32_t gio_os_file_reserve(gio_file *file, uint64_t size, int32_t *reserved);
extern const int32_t gio_reserve_is_alone; /* nothing of the file may be in flight meanwhile. Windows */
int32_t gio_os_file_flush(gio_file *file);
void gio_os_drop_cache(gio_file *file, uint64_t offset, uint64_t length);
/* ranges.c: pure. The table holds locks that belong to others. */
void gio_ranges_add(gio_ranges *ranges, gio_lock *lock);
void gio_ranges_remove(gio_ranges *ranges, const gio_lock *lock); /* which is in it */
/* The lock of exactly this range, with `id` 0 any of them; NULL: there is none. */
gio_lock *gio_ranges_find(const gio_ranges *ranges, uint64_t offset, uint64_t length, uint64_t id);
gio_lock *gio_ranges_any(const gio_ranges *ranges); /* NULL: the table is empty */
/* Whether a lock of the kind is in the way of the range. No empty one is in the way of another. */
int gio_ranges_meet(const gio_ranges *ranges, int kind, uint64_t offset, uint64_t length);
/* The last part of [first, last] that no lock covers; 0: there is none. Offsets from `top` on are one. */
int gio_ranges_gap(const gio_ranges *ranges, uint64_t first, uint64_t last, uint64_t top, uint64_t *gap_first,
                   uint64_t *gap_last);

/* locks.c. Of an operation: whether a lock is in its way, 0, LOCKED or another code. It may wait for the system. */
int32_t gio_locks_check_operation(gio_operation *operation);
int32_t gio_locks_check_resize(gio_file *file, uint64_t before, uint64_t size); /* which writes to all bytes in between */
void gio_locks_free(gio_file *file);
/* The system's part, in locks_*.c. The file's lock_mutex is held. */
extern const int32_t gio_locks_bind_handle; /* the system itself refuses transfers through other handles. Windows */
int32_t gio_os_lock(gio_file *file, uint64_t offset, uint64_t length, int32_t exclusive);
int32_t gio_os_unlock(gio_file *file, const gio_lock *lock); /* which is no longer in the table */
/* Whether a lock of others may be in the way somewhere in a range: LOCKED. One question to the system, where it can be asked. */
int32_t gio_os_lock_look(gio_file *file, int32_t direction, gio_range all);
/* Whether a lock of others is in the way in any of these, which are in order and do not meet. */
int32_t gio_os_lock_check(gio_file *file, int32_t direction, const gio_range *places, uint64_t count);
int32_t gio_os_locks_close(gio_file *file, int32_t forked);

/* Does one request in the calling thread. Returns bytes, or a negative code. */
int64_t gio_os_transfer(const gio_request *request);

static inline uint64_t gio_round_down(uint64_t value, uint64_t multiple) { return value - value % multiple; }
static inline uint64_t gio_round_up(uint64_t value, uint64_t multiple)
{
    return gio_round_down(value + multiple - 1, multiple);
}
static inline uint64_t gio_min(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t gio_max(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* The descriptor that a request goes to. */
static inline int64_t gio_request_handle(const gio_request *request)
{
    const gio_file *file = request->operation->file;
    return request->piece.route == GIO_RAGGED ? file->buffered_handle : file->handle;
}

#endif
