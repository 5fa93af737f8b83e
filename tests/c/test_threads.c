/* test_threads.c: many threads on one queue and one file at once (check.h: run_cases). Made for ThreadSanitizer, and
 * useful without.
 *
 * What the kernel writes (the rings of io_uring, the targets of reads) ThreadSanitizer does not see, so it neither
 * complains about that nor proves anything about it: no suppressions are needed. What it does see is that a buffer
 * which one thread hands over and another one fills or empties (staging) changes hands under the queue's lock.
 *
 * A completion lives in memory of its own, which is freed as soon as it is seen filled: often without a lock, while the
 * thread that fills it is still about it. So the sanitizers find a write that comes after the last one.
 */
#include "check.h"

enum { KIB = 1024, WRITERS = 4, REGION = 256 * KIB, LARGEST = 48 * KIB, NAMES = 512 /* of each writer */ };

/* A completion that others use, too: it goes only when none of them is about it. */
typedef struct {
    gio_mutex mutex;
    gio_completion *completion; /* NULL: none at this moment */
} slot;

static void slot_put(slot *slot, gio_completion *completion)
{
    gio_mutex_lock(&slot->mutex);
    slot->completion = completion;
    gio_mutex_unlock(&slot->mutex);
}

/* Asks for what is there to be cancelled. 1: in time. */
static int slot_cancel(slot *slot, gio_queue *queue)
{
    int32_t code = GIO_E_GONE;
    gio_mutex_lock(&slot->mutex);
    if (slot->completion)
        code = gio_operation_cancel(queue, slot->completion);
    gio_mutex_unlock(&slot->mutex);
    CHECK(code == 0 || code == GIO_E_GONE);
    return code == 0;
}

/* Memory that says nothing of how an operation has ended. */
static gio_completion *completion_new(void)
{
    gio_completion *made = malloc(sizeof *made);
    CHECK(made != NULL);
    memset(made, 0x5a, sizeof *made);
    return made;
}

typedef struct {
    gio_queue *queue;
    gio_file *file;
    int troubled;
    atomic_int stop;     /* for those who go on until they are told */
    slot slots[WRITERS]; /* the writers' latest: for others to cancel and to wait for */
    atomic_uchar named[1 + WRITERS * NAMES], told_of[1 + WRITERS * NAMES]; /* given to an operation; told to anybody */
    atomic_uint_fast64_t told, cancelled, moved;
} shared;

typedef struct {
    shared *shared;
    uint64_t number;
    uint64_t rounds; /* 0: until the queue is closed */
    uint64_t names;  /* given so far */
} writer;

/* Somebody who looks, and is woken when he is to stop. */
typedef struct {
    shared *shared;
    int32_t woken;
} looker;

/* ---- what the threads do --------------------------------------------------------------------------------- */

/* A name that nobody has had before; for one in three none. Those who never stop take theirs again. */
static uint64_t name_next(writer *me, uint64_t *state)
{
    if (random_next(state) % 3 == 0)
        return 0;
    uint64_t name = 1 + me->number * NAMES + me->names++ % NAMES;
    CHECK(me->rounds == 0 || me->names <= NAMES);
    atomic_store(&me->shared->named[name], 1);
    return name;
}

static void note_told(shared *shared, const finished *found)
{
    for (uint32_t i = 0; i < found->count; i++) {
        uint64_t name = found->names[i];
        CHECK(name != 0 && name <= WRITERS * NAMES);
        CHECK(atomic_load(&shared->named[name]));
        atomic_store(&shared->told_of[name], 1);
    }
    atomic_fetch_add(&shared->told, found->count);
}

/* Waits in one of the ways there are until it is filled, and frees it at once. Its code. */
static int32_t ended(shared *shared, slot *slot, gio_completion *completion, uint64_t length, uint64_t way)
{
    int32_t code;
    if (way == 0) { /* looks at it, without the core */
        int64_t deadline_ns = gio_deadline_ns(LONG_NS);
        while (platform_acquire(&completion->result) == GIO_PENDING) {
            CHECK(gio_now_ns() < deadline_ns);
            platform_pause_ms(0);
        }
    } else if (way == 1) { /* now and then */
        while ((code = gio_operation_wait(shared->queue, completion, 100 * 1000)) != 0)
            CHECK(code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED);
    } else {
        CHECK_EQUAL(gio_operation_wait(shared->queue, completion, LONG_NS), 0);
    }
    int64_t result = platform_acquire(&completion->result);
    uint64_t in_place = completion->in_place;
    if (slot)
        slot_put(slot, NULL);
    free(completion);
    CHECK(result != GIO_PENDING);
    CHECK(result < 0 ? in_place <= length : (uint64_t)result == length && in_place == length);
    return result < 0 ? (int32_t)-result : 0;
}

/* A call that changes nothing of what anybody has written, in line with all the others. Its code, or CLOSED. */
static int32_t call_in_line(shared *shared, uint64_t *state)
{
    gio_completion *called = completion_new();
    int32_t call = GIO_CALL_FLUSH + (int32_t)(random_next(state) % 3);
    int32_t code = gio_submit_call(shared->file, call, WRITERS * REGION, 0, called);

    if (code) {
        free(called);
        return code;
    }
    if (random_next(state) % 4 == 0) {
        code = gio_operation_cancel(shared->queue, called);
        CHECK(code == 0 || code == GIO_E_GONE);
    }
    code = ended(shared, NULL, called, 0, random_next(state) % 4);
    return code == GIO_E_CANCELLED ? 0 : code;
}

/* Writes into a region of its own, in all ways there are, and reads back. */
static void *write_and_read(void *argument)
{
    writer *me = argument;
    shared *shared = me->shared;
    slot *slot = shared->troubled ? &shared->slots[me->number] : NULL;
    uint64_t state = me->number, begin = me->number * REGION;
    pages out = pages_new(3 * LARGEST), in = pages_new(3 * LARGEST);

    for (uint64_t round = 0; me->rounds == 0 || round < me->rounds; round++) {
        uint64_t odd = random_next(&state) % 2, unit = odd ? 1 : 4096;
        uint64_t length = (1 + random_next(&state) % (LARGEST / unit)) * unit;
        uint64_t offset = begin + random_next(&state) % ((REGION - LARGEST) / unit) * unit;
        int32_t staging = random_next(&state) % 3 ? GIO_STAGE_RAGGED : GIO_STAGE_ALL;
        uint64_t half = length / 2 / unit * unit;
        gio_segment from[2] = {segment_of(out.at, half), segment_of(out.at + 2 * LARGEST, length - half)};
        gio_segment to[2] = {segment_of(in.at, half), segment_of(in.at + 2 * LARGEST, length - half)};

        data_fill(out.at, half, round, offset);
        data_fill(out.at + 2 * LARGEST, length - half, round, offset + half);
        gio_completion *written = completion_new();
        int32_t code = gio_submit(shared->file, GIO_WRITE, from, 2, offset, staging, name_next(me, &state), written);
        if (code == GIO_E_CLOSED && me->rounds == 0) {
            free(written);
            break;
        }
        CHECK_EQUAL(code, 0);
        if (slot)
            slot_put(slot, written);
        code = ended(shared, slot, written, length, random_next(&state) % 4);
        CHECK(code == 0 || code == GIO_E_CANCELLED);
        if (code != 0)
            continue;
        atomic_fetch_add(&shared->moved, length);
        gio_completion *read = completion_new();
        code = gio_submit(shared->file, GIO_READ, to, 2, offset, staging, name_next(me, &state), read);
        if (code == GIO_E_CLOSED && me->rounds == 0) {
            free(read);
            break;
        }
        CHECK_EQUAL(code, 0);
        CHECK_EQUAL(ended(shared, NULL, read, length, random_next(&state) % 4), 0);
        CHECK_EQUAL(data_compare(in.at, half, round, offset), half);
        CHECK_EQUAL(data_compare(in.at + 2 * LARGEST, length - half, round, offset + half), length - half);
        code = random_next(&state) % 4 ? 0 : call_in_line(shared, &state);
        if (code == GIO_E_CLOSED && me->rounds == 0)
            break;
        CHECK_EQUAL(code, 0);
    }
    pages_free(out);
    pages_free(in);
    return NULL;
}

/* Looks and sees, one of several, until it is woken or the queue is closed. */
static void *collect(void *argument)
{
    looker *me = argument;
    finished found;
    uint64_t position = 0;

    for (;;) {
        int32_t code = gio_queue_peek(me->shared->queue, LONG_NS, NULL, &me->woken, found.names, 3, &found.count,
                                      &found.position);
        if (code == GIO_E_INTERRUPTED)
            continue;
        CHECK(code == 0 || code == GIO_E_CLOSED);
        if (found.count == 0) {
            CHECK(code == GIO_E_CLOSED || me->woken);
            break;
        }
        CHECK(found.position >= position + found.count);
        position = found.position;
        note_told(me->shared, &found);
        CHECK_EQUAL(gio_queue_seen(me->shared->queue, found.position), 0);
    }
    return NULL;
}

/* The same by way of an event, as an event loop does it. */
static void *listen(void *argument)
{
    shared *shared = ((looker *)argument)->shared;
    gio_event *event;

    CHECK_EQUAL(gio_event_create(&event), 0);
    for (int attended = 0; !atomic_load(&shared->stop); attended = !attended) {
        CHECK_EQUAL(gio_queue_listen(shared->queue, event, attended), 0);
        for (int round = 0; round < 20 && !atomic_load(&shared->stop); round++) {
            if (gio_event_wait(event, 2 * 1000 * 1000) == 0)
                gio_event_clear(event);
            finished found = look_at(shared->queue, event, 2);
            note_told(shared, &found);
            CHECK_EQUAL(gio_queue_seen(shared->queue, found.position), 0);
        }
        CHECK_EQUAL(gio_queue_unlisten(shared->queue, event), 0);
    }
    gio_event_free(event);
    return NULL;
}

static void *cancel(void *argument)
{
    shared *shared = ((looker *)argument)->shared;
    uint64_t state = 99;

    while (!atomic_load(&shared->stop)) {
        int in_time = slot_cancel(&shared->slots[random_next(&state) % WRITERS], shared->queue);
        atomic_fetch_add(&shared->cancelled, in_time);
        if (random_next(&state) % 8 == 0)
            platform_pause_ms(1);
    }
    return NULL;
}

/* Waits for others' operations, looks at everything that can be looked at, makes transfers short. */
static void *look(void *argument)
{
    shared *shared = ((looker *)argument)->shared;
    uint64_t state = 7, size;

    while (!atomic_load(&shared->stop)) {
        slot *slot = &shared->slots[random_next(&state) % WRITERS];
        int32_t code = 0;
        gio_mutex_lock(&slot->mutex);
        if (slot->completion)
            code = gio_operation_wait(shared->queue, slot->completion, 1000 * 1000);
        CHECK(code != 0 || slot->completion == NULL || slot->completion->result != GIO_PENDING);
        gio_mutex_unlock(&slot->mutex);
        CHECK(code == 0 || code == GIO_E_TIMEOUT || code == GIO_E_CLOSED || code == GIO_E_INTERRUPTED);
        code = gio_file_drain(shared->file, 100 * 1000);
        CHECK(code == 0 || code == GIO_E_TIMEOUT || code == GIO_E_CLOSED || code == GIO_E_INTERRUPTED);
        CHECK_EQUAL(gio_file_size(shared->file, &size), 0);
        code = gio_file_flush(shared->file);
        CHECK(code == 0 || code == GIO_E_TIMEOUT);
        gio_queue_stats stats = stats_of(shared->queue);
        CHECK(stats.finished <= stats.operations);
        gio_queue_poll_handle(shared->queue);
        switch (random_next(&state) % 5) {
        case 0: CHECK_EQUAL(gio_queue_fault(shared->queue, GIO_FAULT_SHORT, 0, 1, 8192), 0); break;
        case 2: CHECK_EQUAL(gio_queue_fault(shared->queue, GIO_FAULT_SHORT, 0, 2, 1000), 0); break; /* goes on in the cache */
        case 1: CHECK_EQUAL(gio_queue_fault(shared->queue, GIO_FAULT_HOLD, 0, 2, 0), 0); break;
        default: CHECK_EQUAL(gio_queue_fault(shared->queue, GIO_FAULT_NONE, 0, 0, 0), 0);
        }
        platform_pause_ms(1);
    }
    CHECK_EQUAL(gio_queue_fault(shared->queue, GIO_FAULT_NONE, 0, 0, 0), 0);
    return NULL;
}

static void *close_queue(void *argument)
{
    shared *shared = argument;
    int32_t code;

    platform_pause_ms(10); /* in the thick of it, or before: both are cases */
    do /* bit by bit, as somebody who looks after signals in between */
        code = gio_queue_close(shared->queue, 1000 * 1000);
    while (code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED);
    CHECK_EQUAL(code, 0);
    return NULL;
}

/* ---- the scenes ------------------------------------------------------------------------------------------ */

static char path[512]; /* of the file */

static void open_shared(shared *shared, uint32_t depth, int32_t direct)
{
    gio_file_facts facts;
    int written = snprintf(path, sizeof path, "%s/threads", folder);
    CHECK(written > 0 && (size_t)written < sizeof path);
    memset(shared, 0, sizeof *shared);
    for (int i = 0; i < WRITERS; i++)
        gio_mutex_init(&shared->slots[i].mutex);
    CHECK_EQUAL(gio_queue_open(backend, depth, 16 * KIB, &shared->queue), 0);
    CHECK_EQUAL(gio_file_open(shared->queue, platform_path(path), GIO_ACCESS_READ | GIO_ACCESS_WRITE,
                              GIO_OPEN_TRUNCATE, direct, 0, &shared->file, &facts),
                0);
    CHECK_EQUAL(gio_file_resize(shared->file, WRITERS * REGION), 0);
}

static void close_shared(shared *shared)
{
    CHECK_EQUAL(gio_file_drain(shared->file, LONG_NS), 0);
    CHECK_EQUAL(gio_file_close(shared->file), 0);
    CHECK_EQUAL(gio_queue_close(shared->queue, LONG_NS), 0);
    check_idle(shared->queue);
    gio_file_free(shared->file);
    gio_queue_free(shared->queue);
    for (int i = 0; i < WRITERS; i++)
        gio_mutex_destroy(&shared->slots[i].mutex);
    CHECK_EQUAL(remove(path), 0);
}

/* Everybody at once, for a number of rounds. */
static void everybody(uint32_t depth, int32_t direct, uint64_t rounds, int troubled)
{
    void *(*const bodies[])(void *) = {collect, collect, listen, look, cancel};
    enum { BODIES = 5 };
    static shared shared;
    writer writers[WRITERS];
    looker lookers[BODIES];
    gio_thread threads[WRITERS], others[BODIES];
    int bodies_used = troubled ? BODIES : 3;
    int64_t begin_ns = gio_now_ns();

    open_shared(&shared, depth, direct);
    shared.troubled = troubled;
    for (int i = 0; i < bodies_used; i++) {
        lookers[i] = (looker){&shared, 0};
        CHECK_EQUAL(gio_thread_start(&others[i], bodies[i], &lookers[i]), 0);
    }
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, rounds, 0};
        CHECK_EQUAL(gio_thread_start(&threads[i], write_and_read, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        gio_thread_join(&threads[i]);
    atomic_store(&shared.stop, 1);
    for (int i = 0; i < bodies_used; i++) {
        if (bodies[i] == collect)
            CHECK_EQUAL(gio_queue_wake(shared.queue, &lookers[i].woken), 0);
        gio_thread_join(&others[i]);
    }
    for (int name = 0; name <= WRITERS * NAMES; name++) /* what anybody has seen was told to him */
        CHECK_EQUAL(atomic_load(&shared.told_of[name]), atomic_load(&shared.named[name]));
    CHECK_EQUAL(look_at(shared.queue, NULL, 1).count, 0);
    printf("%.1f s: %" PRIu64 " KiB written, %" PRIu64 " names told, %" PRIu64 " cancellations\n",
           (double)(gio_now_ns() - begin_ns) / 1e9,
           (uint64_t)atomic_load(&shared.moved) / KIB, (uint64_t)atomic_load(&shared.told),
           (uint64_t)atomic_load(&shared.cancelled));
    CHECK(atomic_load(&shared.moved) != 0);
    close_shared(&shared);
}

/* The queue is closed, by two at once, under everybody's hands. */
static void closed_at_work(void)
{
    static shared shared;
    writer writers[WRITERS];
    looker looker = {&shared, 0};
    gio_thread threads[WRITERS], collector, listener, closers[2];

    open_shared(&shared, 4, GIO_DIRECT_AUTO);
    CHECK_EQUAL(gio_thread_start(&collector, collect, &looker), 0);
    CHECK_EQUAL(gio_thread_start(&listener, listen, &looker), 0);
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, 0, 0};
        CHECK_EQUAL(gio_thread_start(&threads[i], write_and_read, &writers[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL(gio_thread_start(&closers[i], close_queue, &shared), 0);
    for (int i = 0; i < 2; i++)
        gio_thread_join(&closers[i]);
    for (int i = 0; i < WRITERS; i++)
        gio_thread_join(&threads[i]);
    atomic_store(&shared.stop, 1);
    gio_thread_join(&collector);
    gio_thread_join(&listener);
    close_shared(&shared);
}

/* Threads that submit and end at once: others are told, by names that lead to the completions. */
typedef struct {
    gio_completion completion;
    uint64_t index;
} named;

static void *submit_and_end(void *argument)
{
    writer *me = argument;
    static _Alignas(4096) unsigned char zeros[4096];
    for (uint64_t i = 0; i < me->rounds; i++) {
        named *made = malloc(sizeof *made);
        CHECK(made != NULL);
        made->index = me->number * me->rounds + i;
        CHECK_EQUAL(gio_submit_one(me->shared->file, GIO_WRITE, zeros, 4096, me->number * REGION + i * 4096,
                                   (uint64_t)(uintptr_t)made, &made->completion),
                    0);
    }
    return NULL;
}

static void submitters_that_end(void)
{
    enum { ROUNDS = 32 };
    static shared shared;
    writer writers[WRITERS];
    gio_thread threads[WRITERS];
    unsigned char told_of[WRITERS * ROUNDS];
    uint32_t seen = 0;

    memset(told_of, 0, sizeof told_of);
    open_shared(&shared, 8, GIO_DIRECT_AUTO);
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, ROUNDS, 0};
        CHECK_EQUAL(gio_thread_start(&threads[i], submit_and_end, &writers[i]), 0);
    }
    while (seen < WRITERS * ROUNDS) { /* some of them while the others are still being submitted */
        CHECK_EQUAL(queue_wait(shared.queue, LONG_NS), 0);
        finished found = look_at(shared.queue, NULL, 16);
        for (uint32_t i = 0; i < found.count; i++) {
            named *ended = (named *)(uintptr_t)found.names[i];
            CHECK_EQUAL(ended->completion.result, 4096);
            CHECK_EQUAL(told_of[ended->index]++, 0);
            free(ended); /* before it is seen */
        }
        CHECK_EQUAL(gio_queue_seen(shared.queue, found.position), 0);
        seen += found.count;
    }
    for (int i = 0; i < WRITERS; i++)
        gio_thread_join(&threads[i]);
    CHECK_EQUAL(look_at(shared.queue, NULL, 1).count, 0);
    close_shared(&shared);
}

/* ---- four threads that do everything ---------------------------------------------------------------------- */

/* Each has a file of its own, on a queue of all: writes, reads back, cancels its own and others' operations, closes and
 * opens its file, registers memory, has it kept, frees it, makes requests fail; and one closes the queue under all. */

enum { FOUR = 4, CLOSER_ROUNDS = 40, MOST_ROUNDS = 60 };

typedef struct {
    gio_queue *queue;
    int frees_queue; /* the closer does: who still has a file keeps what is left of it */
    slot slots[FOUR];
    atomic_uint_fast64_t right, failed, refused; /* writes that were compared; transfers that failed; CLOSED */
} crowd;

typedef struct {
    crowd *crowd;
    uint64_t number, state;
    char path[512];
    gio_file *file, *anchor; /* the second one stays: while it does, the queue's memory does */
    pages out, in;
    gio_registration registration;
} member;

static uint64_t choose(member *me, uint64_t bound) { return random_next(&me->state) % bound; }

/* 0: the queue has been closed. */
static int open_member_file(member *me)
{
    gio_file_facts facts;
    int32_t direct = choose(me, 3) ? GIO_DIRECT_AUTO : GIO_DIRECT_NO;
    int32_t access = GIO_ACCESS_READ | GIO_ACCESS_WRITE;

    me->file = NULL;
    int32_t code = gio_file_open(me->crowd->queue, platform_path(me->path), access, GIO_OPEN_EXISTING, direct, 0,
                                 &me->file, &facts);
    CHECK(code == 0 || code == GIO_E_CLOSED);
    return code == 0;
}

/* Closed under what is in flight, if anything is. */
static void reopen(member *me, int in_flight)
{
    int32_t code = gio_file_close(me->file);
    CHECK(code == 0 || (code == GIO_E_TIMEOUT && in_flight));
    if (code == GIO_E_TIMEOUT)
        return;
    gio_completion untouched = {.result = 7, .in_place = 8, .ticket = 9};
    CHECK_EQUAL(gio_submit_one(me->file, GIO_READ, me->in.at, 512, 0, 1, &untouched), GIO_E_CLOSED);
    CHECK(untouched.result == 7 && untouched.in_place == 8 && untouched.ticket == 9);
    gio_file_free(me->file);
    if (!open_member_file(me))
        atomic_fetch_add(&me->crowd->refused, 1);
}

/* The old pages are gone, and whatever lies at their address next is other memory. */
static void renew(pages *memory)
{
    pages_free(*memory);
    *memory = pages_new(LARGEST);
}

static void register_memory(member *me)
{
    gio_unregister(&me->registration, me->out.at);
    int32_t code = gio_queue_register(me->crowd->queue, me->out.at, me->out.allocated, &me->registration);
    CHECK(code == 0 || code == GIO_E_UNREGISTRABLE || code == GIO_E_TABLE_FULL || code == GIO_E_CLOSED ||
          code == gio_code_no_memory());
}

static void keep_memory(member *me)
{
    pages *memory = choose(me, 2) ? &me->out : &me->in;
    int32_t code = gio_queue_keep(me->crowd->queue, memory->at, memory->allocated, 4 * LARGEST);
    CHECK(code == 0 || code == GIO_E_UNREGISTRABLE || code == GIO_E_TABLE_FULL || code == GIO_E_CLOSED ||
          code == gio_code_no_memory());
}

static void make_trouble(member *me)
{
    static const struct {
        int32_t kind;
        uint64_t value;
    } faults[] = {{GIO_FAULT_SHORT, 8192}, {GIO_FAULT_SHORT, 1000}, {GIO_FAULT_HOLD, 0}, {GIO_FAULT_FAIL, 5},
                  {GIO_FAULT_NONE, 0}};
    uint64_t which = choose(me, sizeof faults / sizeof faults[0]);
    CHECK_EQUAL(gio_queue_fault(me->crowd->queue, faults[which].kind, choose(me, 3), 1 + choose(me, 3),
                                faults[which].value),
                0);
}

/* Everybody waits like this, so that what one of them has held is let go of by another. */
static gio_completion ended_in_trouble(member *me, gio_completion *completion)
{
    gio_queue *queue = me->crowd->queue;
    int32_t code;

    if (choose(me, 3) == 0)
        while (platform_acquire(&completion->result) == GIO_PENDING) {
            CHECK_EQUAL(gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0), 0);
            platform_pause_ms(1);
        }
    else
        while ((code = gio_operation_wait(queue, completion, 2 * 1000 * 1000)) != 0) {
            CHECK(code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED);
            CHECK_EQUAL(gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0), 0);
        }
    CHECK(platform_acquire(&completion->result) != GIO_PENDING);
    gio_completion filled = *completion;
    slot_put(&me->crowd->slots[me->number], NULL);
    free(completion);
    if (me->file != NULL && choose(me, 4) == 0)
        reopen(me, 0); /* the operation has ended: nothing of it needs the file any more */
    return filled;
}

/* One transfer in one of the ways there are. Whether all of it was moved. */
static int transfer(member *me, int32_t direction, unsigned char *memory, uint64_t length, uint64_t offset)
{
    uint64_t half = length / 2, way = choose(me, 5), offsets[2] = {offset, offset + half};
    gio_segment segments[2] = {segment_of(memory, half), segment_of(memory + half, length - half)};
    gio_batch batch = {NULL};
    gio_completion *completion = completion_new();
    uint64_t name = choose(me, 2) ? 1 + me->number : 0;
    int32_t code;

    if (choose(me, 4) == 0)
        CHECK_EQUAL(gio_queue_batch(me->crowd->queue, &batch), 0);
    if (way == 0)
        code = gio_submit_one(me->file, direction, memory, length, offset, name, completion);
    else if (way == 1)
        code = gio_submit_batch(me->file, direction, segments, offsets, 2, name, completion);
    else if (way == 2) {
        completion->result = GIO_PENDING;
        code = gio_transfer(me->file, direction, memory, length, offset, name, 1000 * 1000, completion);
        CHECK(code != 0 || completion->result != GIO_PENDING);
        CHECK(code != GIO_E_CLOSED || completion->result == GIO_PENDING);
        if (code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED)
            code = 0; /* it goes on */
    } else
        code = gio_submit(me->file, direction, segments, 2, offset, way == 3 ? GIO_STAGE_RAGGED : GIO_STAGE_ALL, name,
                          completion);
    if (code == 0) {
        slot_put(&me->crowd->slots[me->number], completion);
        if (choose(me, 6) == 0)
            slot_cancel(&me->crowd->slots[choose(me, FOUR)], me->crowd->queue);
        if (choose(me, 4) == 0)
            reopen(me, 1);
    }
    gio_batch_end(&batch);
    if (code != 0) {
        CHECK_EQUAL(code, GIO_E_CLOSED);
        free(completion);
        atomic_fetch_add(&me->crowd->refused, 1);
        return 0;
    }
    gio_completion ended = ended_in_trouble(me, completion);
    CHECK(ended.result < 0 ? ended.in_place <= length : (uint64_t)ended.result == length && ended.in_place == length);
    atomic_fetch_add(&me->crowd->failed, ended.result < 0);
    return ended.result >= 0;
}

static void write_and_compare(member *me, uint64_t round)
{
    uint64_t unit = choose(me, 2) ? 1 : 4096;
    uint64_t length = (1 + choose(me, LARGEST / unit)) * unit;
    uint64_t offset = choose(me, (REGION - LARGEST) / unit) * unit;

    data_fill(me->out.at, length, round, offset);
    if (!transfer(me, GIO_WRITE, me->out.at, length, offset) || me->file == NULL ||
        !transfer(me, GIO_READ, me->in.at, length, offset))
        return;
    CHECK_EQUAL(data_compare(me->in.at, length, round, offset), length);
    atomic_fetch_add(&me->crowd->right, 1);
}

static void close_for_all(member *me)
{
    int32_t code;
    if (me->crowd->frees_queue) {
        gio_queue_free(me->crowd->queue);
        return;
    }
    do
        code = gio_queue_close(me->crowd->queue, 1000 * 1000);
    while (code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED);
    CHECK_EQUAL(code, 0);
}

static void *do_everything(void *argument)
{
    member *me = argument;
    uint64_t refused_before = 0;

    for (uint64_t round = 0; round < MOST_ROUNDS && refused_before == 0; round++) {
        if (me->number == 0 && round == CLOSER_ROUNDS) {
            close_for_all(me);
            break;
        }
        switch (choose(me, 8)) {
        case 0: register_memory(me); break;
        case 1: keep_memory(me); break;
        case 2: make_trouble(me); break;
        case 3: renew(&me->in); break;
        case 4:
            gio_unregister(&me->registration, me->out.at); /* whose memory may go only behind that */
            renew(&me->out);
            break;
        default: break;
        }
        write_and_compare(me, round);
        refused_before = atomic_load(&me->crowd->refused);
    }
    CHECK(me->file == NULL || gio_file_close(me->file) == 0);
    gio_file_free(me->file);
    gio_unregister(&me->registration, me->out.at);
    pages_free(me->out);
    pages_free(me->in);
    gio_file_let_go(&me->anchor);
    return NULL;
}

static void join_crowd(member *me, crowd *crowd, uint64_t number, uint64_t seed)
{
    gio_file_facts facts;

    memset(me, 0, sizeof *me);
    me->crowd = crowd;
    me->number = number;
    me->state = seed * FOUR + number;
    CHECK(snprintf(me->path, sizeof me->path, "%s/one-of-four-%d", folder, (int)number) < (int)sizeof me->path);
    CHECK_EQUAL(gio_file_open(crowd->queue, platform_path(me->path), GIO_ACCESS_READ | GIO_ACCESS_WRITE,
                              GIO_OPEN_OR_CREATE, GIO_DIRECT_NO, 0, &me->anchor, &facts),
                0);
    CHECK_EQUAL(gio_file_resize(me->anchor, REGION), 0);
    CHECK(open_member_file(me));
    me->out = pages_new(LARGEST);
    me->in = pages_new(LARGEST);
}

static void four(uint64_t seed, crowd *crowd)
{
    static const uint32_t depths[] = {1, 2, 5, 32};
    member members[FOUR];
    gio_thread threads[FOUR];

    CHECK_EQUAL(gio_queue_open(backend, depths[seed % 4], 16 * KIB, &crowd->queue), 0);
    crowd->frees_queue = (int)(seed / 4 % 2);
    for (uint64_t i = 0; i < FOUR; i++) {
        gio_mutex_init(&crowd->slots[i].mutex);
        join_crowd(&members[i], crowd, i, seed);
    }
    for (uint64_t i = 0; i < FOUR; i++)
        CHECK_EQUAL(gio_thread_start(&threads[i], do_everything, &members[i]), 0);
    for (uint64_t i = 0; i < FOUR; i++)
        gio_thread_join(&threads[i]);
    if (!crowd->frees_queue) {
        check_idle(crowd->queue);
        gio_queue_free(crowd->queue);
    }
    for (uint64_t i = 0; i < FOUR; i++) {
        gio_mutex_destroy(&crowd->slots[i].mutex);
        CHECK_EQUAL(remove(members[i].path), 0);
    }
}

/* The threads meet as they like: the same seed does not do quite the same twice. */
static void test_four_do_everything(void)
{
    enum { CROWDS = 8 };
    crowd crowd;

    memset(&crowd, 0, sizeof crowd);
    for (uint64_t seed = 0; seed < CROWDS; seed++) {
        printf("crowd of seed %" PRIu64 "\n", seed);
        fflush(stdout);
        atomic_store(&crowd.refused, 0);
        four(seed, &crowd);
    }
    printf("%" PRIu64 " writes compared, %" PRIu64 " transfers failed\n", (uint64_t)atomic_load(&crowd.right),
           (uint64_t)atomic_load(&crowd.failed));
    CHECK(atomic_load(&crowd.right) > CROWDS * CLOSER_ROUNDS / 2);
    CHECK(atomic_load(&crowd.failed) != 0);
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

static void test_everybody(void) { everybody(32, GIO_DIRECT_AUTO, 60, 0); }
static void test_troubled(void) { everybody(3, GIO_DIRECT_AUTO, 60, 1); }
static void test_troubled_buffered(void) { everybody(3, GIO_DIRECT_NO, 60, 1); }

static void test_closed_at_work(void)
{
    for (int round = 0; round < 4; round++)
        closed_at_work();
}

static const test_case cases[] = {
    {"everybody", test_everybody},
    {"troubled", test_troubled},
    {"troubled_buffered", test_troubled_buffered},
    {"submitters_that_end", submitters_that_end},
    {"closed_at_work", test_closed_at_work},
    {"four_do_everything", test_four_do_everything},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
