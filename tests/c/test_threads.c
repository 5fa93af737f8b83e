/* test_threads.c: many threads on one queue and one file at once (check.h: run_cases). Made for ThreadSanitizer, and
 * useful without.
 *
 * What the kernel writes (the rings of io_uring, the targets of reads) ThreadSanitizer does not see, so it neither
 * complains about that nor proves anything about it: no suppressions are needed. What it does see is that a buffer
 * which one thread hands over and another one fills or empties (staging) changes hands under the queue's lock.
 */
#include "check.h"

enum { KIB = 1024, WRITERS = 4, REGION = 256 * KIB, LARGEST = 48 * KIB };

typedef struct {
    gio_queue *queue;
    gio_file *file;
    atomic_int stop;                      /* for those who go on until they are told */
    atomic_uint_fast64_t tickets[WRITERS]; /* the writers' latest: for others to cancel and to wait for */
    atomic_uint_fast64_t told, cancelled, moved;
} shared;

typedef struct {
    shared *shared;
    uint64_t number;
    uint64_t rounds; /* 0: until the queue is closed */
} writer;

/* ---- what the threads do --------------------------------------------------------------------------------- */

/* The operation has ended, whoever was told of it. Its code; that of one told to somebody else is lost, and -1. */
static int32_t ended(shared *shared, uint64_t ticket, int release)
{
    gio_outcome outcome;
    int32_t code = gio_operation_wait(shared->queue, ticket, LONG_NS, &outcome);
    if (code == GIO_E_GONE)
        return -1;
    CHECK_EQUAL(code, 0);
    CHECK_EQUAL(outcome.ticket, ticket);
    if (release)
        CHECK_EQUAL(gio_queue_release(shared->queue, &outcome, 1), 0);
    return outcome.code;
}

/* Writes into a region of its own, in all ways there are, and reads back. */
static void *write_and_read(void *argument)
{
    writer *me = argument;
    shared *shared = me->shared;
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
        int64_t ticket = gio_submit(shared->file, GIO_WRITE, from, 2, offset, staging, round);
        if (ticket == -(int64_t)GIO_E_CLOSED && me->rounds == 0)
            break;
        atomic_store(&shared->tickets[me->number], CHECK_TICKET(ticket));
        int32_t code = ended(shared, (uint64_t)ticket, (int)(random_next(&state) % 2));
        CHECK(code <= 0 || code == GIO_E_CANCELLED);
        if (code != 0)
            continue;
        atomic_fetch_add(&shared->moved, length);
        ticket = gio_submit(shared->file, GIO_READ, to, 2, offset, staging, round);
        if (ticket == -(int64_t)GIO_E_CLOSED && me->rounds == 0)
            break;
        code = ended(shared, CHECK_TICKET(ticket), 1);
        CHECK_EQUAL(code > 0, 0);
        if (code == 0) {
            CHECK_EQUAL(data_compare(in.at, half, round, offset), half);
            CHECK_EQUAL(data_compare(in.at + 2 * LARGEST, length - half, round, offset + half), length - half);
        }
    }
    pages_free(out);
    pages_free(in);
    return NULL;
}

/* Collects and releases what it finds: some of it before the one who waits for it. */
static void *collect(void *argument)
{
    shared *shared = argument;
    gio_outcome outcomes[3];
    uint32_t count;

    while (!atomic_load(&shared->stop)) {
        int32_t code = queue_wait(shared->queue, 2 * 1000 * 1000);
        if (code == GIO_E_CLOSED)
            break;
        CHECK(code == 0 || code == GIO_E_TIMEOUT || code == GIO_E_INTERRUPTED);
        CHECK_EQUAL(gio_queue_collect(shared->queue, 0, NULL, outcomes, 3, &count), 0);
        CHECK_EQUAL(gio_queue_release(shared->queue, outcomes, count), 0);
        atomic_fetch_add(&shared->told, count);
    }
    return NULL;
}

/* The same by way of an event, as an event loop does it. */
static void *listen(void *argument)
{
    shared *shared = argument;
    gio_outcome outcomes[2];
    gio_event *event;
    uint32_t count;

    CHECK_EQUAL(gio_event_create(&event), 0);
    for (int attended = 0; !atomic_load(&shared->stop); attended = !attended) {
        CHECK_EQUAL(gio_queue_listen(shared->queue, event, attended), 0);
        for (int round = 0; round < 20 && !atomic_load(&shared->stop); round++) {
            if (gio_event_wait(event, 2 * 1000 * 1000) == 0)
                gio_event_clear(event);
            CHECK_EQUAL(gio_queue_collect(shared->queue, 0, event, outcomes, 2, &count), 0);
            CHECK_EQUAL(gio_queue_release(shared->queue, outcomes, count), 0);
            atomic_fetch_add(&shared->told, count);
        }
        CHECK_EQUAL(gio_queue_unlisten(shared->queue, event), 0);
    }
    gio_event_free(event);
    return NULL;
}

static void *cancel(void *argument)
{
    shared *shared = argument;
    uint64_t state = 99;

    while (!atomic_load(&shared->stop)) {
        uint64_t ticket = atomic_load(&shared->tickets[random_next(&state) % WRITERS]);
        int32_t code = gio_operation_cancel(shared->queue, ticket);
        CHECK(code == 0 || code == GIO_E_GONE);
        atomic_fetch_add(&shared->cancelled, code == 0);
        if (random_next(&state) % 8 == 0)
            platform_pause_ms(1);
    }
    return NULL;
}

/* Waits for others' operations, looks at everything that can be looked at, makes transfers short. */
static void *look(void *argument)
{
    shared *shared = argument;
    uint64_t tickets[WRITERS], state = 7, index, size;

    while (!atomic_load(&shared->stop)) {
        for (int i = 0; i < WRITERS; i++)
            tickets[i] = atomic_load(&shared->tickets[i]);
        int32_t code = gio_operation_wait_any(shared->queue, tickets, WRITERS, 1000 * 1000, &index);
        CHECK(code == 0 || code == GIO_E_TIMEOUT || code == GIO_E_CLOSED || code == GIO_E_INTERRUPTED);
        CHECK(code != 0 || index < WRITERS);
        code = gio_file_drain(shared->file, 100 * 1000);
        CHECK(code == 0 || code == GIO_E_TIMEOUT || code == GIO_E_CLOSED || code == GIO_E_INTERRUPTED);
        CHECK_EQUAL(gio_file_size(shared->file, &size), 0);
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
    CHECK_EQUAL(remove(path), 0);
}

/* Everybody at once, for a number of rounds. */
static void everybody(uint32_t depth, int32_t direct, uint64_t rounds, int troubled)
{
    void *(*const bodies[])(void *) = {collect, collect, listen, look, cancel};
    enum { BODIES = 5 };
    shared shared;
    writer writers[WRITERS];
    gio_thread threads[WRITERS], others[BODIES];
    int bodies_used = troubled ? BODIES : 3;
    int64_t begin_ns = gio_now_ns();

    open_shared(&shared, depth, direct);
    for (int i = 0; i < bodies_used; i++)
        CHECK_EQUAL(gio_thread_start(&others[i], bodies[i], &shared), 0);
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, rounds};
        CHECK_EQUAL(gio_thread_start(&threads[i], write_and_read, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        gio_thread_join(&threads[i]);
    atomic_store(&shared.stop, 1);
    for (int i = 0; i < bodies_used; i++)
        gio_thread_join(&others[i]);
    printf("%.1f s: %" PRIu64 " KiB written, %" PRIu64 " outcomes told to others, %" PRIu64 " cancellations\n",
           (double)(gio_now_ns() - begin_ns) / 1e9,
           (uint64_t)atomic_load(&shared.moved) / KIB, (uint64_t)atomic_load(&shared.told),
           (uint64_t)atomic_load(&shared.cancelled));
    CHECK(atomic_load(&shared.moved) != 0);
    close_shared(&shared);
}

/* The queue is closed, by two at once, under everybody's hands. */
static void closed_at_work(void)
{
    shared shared;
    writer writers[WRITERS];
    gio_thread threads[WRITERS], collector, listener, closers[2];

    open_shared(&shared, 4, GIO_DIRECT_AUTO);
    CHECK_EQUAL(gio_thread_start(&collector, collect, &shared), 0);
    CHECK_EQUAL(gio_thread_start(&listener, listen, &shared), 0);
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, 0};
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

/* Threads that submit and end at once: others are told. */
static void *submit_and_end(void *argument)
{
    writer *me = argument;
    static _Alignas(4096) unsigned char zeros[4096];
    for (uint64_t i = 0; i < me->rounds; i++)
        CHECK_TICKET(gio_submit_one(me->shared->file, GIO_WRITE, zeros, 4096, me->number * REGION + i * 4096, i));
    return NULL;
}

static void submitters_that_end(void)
{
    enum { ROUNDS = 32 };
    shared shared;
    writer writers[WRITERS];
    gio_thread threads[WRITERS];
    gio_outcome outcomes[16];
    uint32_t count, seen = 0;

    open_shared(&shared, 8, GIO_DIRECT_AUTO);
    for (uint64_t i = 0; i < WRITERS; i++) {
        writers[i] = (writer){&shared, i, ROUNDS};
        CHECK_EQUAL(gio_thread_start(&threads[i], submit_and_end, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        gio_thread_join(&threads[i]);
    for (; seen < WRITERS * ROUNDS; seen += count) {
        CHECK_EQUAL(queue_wait(shared.queue, LONG_NS), 0);
        CHECK_EQUAL(gio_queue_collect(shared.queue, 0, NULL, outcomes, 16, &count), 0);
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQUAL(outcomes[i].code, 0);
        CHECK_EQUAL(gio_queue_release(shared.queue, outcomes, count), 0);
    }
    close_shared(&shared);
}

/* ---- four threads that do everything ---------------------------------------------------------------------- */

/* Each has a file of its own, on a queue of all: writes, reads back, cancels its own and others' operations, closes and
 * opens its file, registers memory, has it kept, frees it, makes requests fail; and one closes the queue under all. */

enum { FOUR = 4, CLOSER_ROUNDS = 40, MOST_ROUNDS = 60 };

typedef struct {
    gio_queue *queue;
    int frees_queue; /* the closer does: who still has a file keeps what is left of it */
    atomic_uint_fast64_t tickets[FOUR];
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
static void reopen(member *me, uint64_t ticket)
{
    int32_t code = gio_file_close(me->file);
    CHECK(code == 0 || (code == GIO_E_TIMEOUT && ticket != 0));
    if (code == GIO_E_TIMEOUT)
        return;
    CHECK_EQUAL(gio_submit_one(me->file, GIO_READ, me->in.at, 512, 0, 0), -(int64_t)GIO_E_CLOSED);
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
static gio_outcome ended_in_trouble(member *me, uint64_t ticket)
{
    gio_queue *queue = me->crowd->queue;
    gio_outcome outcome;
    int32_t code;
    memset(&outcome, 0, sizeof outcome);
    while ((code = gio_operation_wait(queue, ticket, 2 * 1000 * 1000, &outcome)) == GIO_E_TIMEOUT)
        CHECK_EQUAL(gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0), 0);
    CHECK_EQUAL(code, 0);
    CHECK_EQUAL(outcome.ticket, ticket);
    if (me->file != NULL && choose(me, 4) == 0)
        reopen(me, 0); /* the operation has ended: nothing of it needs the file any more */
    CHECK_EQUAL(gio_queue_release(queue, &outcome, 1), 0);
    return outcome;
}

/* One transfer in one of the ways there are. Whether all of it was moved. */
static int transfer(member *me, int32_t direction, unsigned char *memory, uint64_t length, uint64_t offset)
{
    uint64_t half = length / 2, way = choose(me, 4), offsets[2] = {offset, offset + half};
    gio_segment segments[2] = {segment_of(memory, half), segment_of(memory + half, length - half)};
    gio_batch batch = {NULL};
    int64_t ticket;

    if (choose(me, 4) == 0)
        CHECK_EQUAL(gio_queue_batch(me->crowd->queue, &batch), 0);
    if (way == 0)
        ticket = gio_submit_one(me->file, direction, memory, length, offset, 0);
    else if (way == 1)
        ticket = gio_submit_batch(me->file, direction, segments, offsets, 2, 0);
    else
        ticket = gio_submit(me->file, direction, segments, 2, offset, way == 2 ? GIO_STAGE_RAGGED : GIO_STAGE_ALL, 0);
    if (ticket > 0) {
        atomic_store(&me->crowd->tickets[me->number], (uint64_t)ticket);
        if (choose(me, 6) == 0)
            gio_operation_cancel(me->crowd->queue, atomic_load(&me->crowd->tickets[choose(me, FOUR)]));
        if (choose(me, 4) == 0)
            reopen(me, (uint64_t)ticket);
    }
    gio_batch_end(&batch);
    if (ticket < 0) {
        CHECK_EQUAL(ticket, -(int64_t)GIO_E_CLOSED);
        atomic_fetch_add(&me->crowd->refused, 1);
        return 0;
    }
    gio_outcome outcome = ended_in_trouble(me, (uint64_t)ticket);
    CHECK(outcome.code == 0 ? outcome.transferred == length : outcome.transferred == 0 && outcome.in_place <= length);
    atomic_fetch_add(&me->crowd->failed, outcome.code != 0);
    return outcome.code == 0;
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
    for (uint64_t i = 0; i < FOUR; i++)
        join_crowd(&members[i], crowd, i, seed);
    for (uint64_t i = 0; i < FOUR; i++)
        CHECK_EQUAL(gio_thread_start(&threads[i], do_everything, &members[i]), 0);
    for (uint64_t i = 0; i < FOUR; i++)
        gio_thread_join(&threads[i]);
    if (!crowd->frees_queue) {
        check_idle(crowd->queue);
        gio_queue_free(crowd->queue);
    }
    for (uint64_t i = 0; i < FOUR; i++)
        CHECK_EQUAL(remove(members[i].path), 0);
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
