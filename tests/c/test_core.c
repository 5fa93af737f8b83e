/* test_core.c: the core by itself, one backend at a time (check.h: run_cases).
 *
 * Every case opens a queue and a file of its own and closes them again. What is in the file is judged by the C library
 * (check.h: CHECK_FILE), never by the core.
 */
#include "check.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

/* ---- a queue and a file to try things on ----------------------------------------------------------------- */

typedef struct {
    gio_queue *queue;
    gio_file *file;
    gio_file_facts facts;
    char path[512];
} bench;

static void path_of(const char *name, char *path, size_t bytes)
{
    int written = snprintf(path, bytes, "%s/%s", folder, name);
    CHECK(written > 0 && (size_t)written < bytes);
}

static bench bench_open(uint32_t depth, uint64_t request_bytes, int32_t direct, int32_t durable)
{
    bench made;
    memset(&made, 0, sizeof made);
    path_of("file", made.path, sizeof made.path);
    CHECK_EQUAL(gio_queue_open(backend, depth, request_bytes, &made.queue), 0);
    CHECK_EQUAL(gio_file_open(made.queue, platform_path(made.path), GIO_ACCESS_READ | GIO_ACCESS_WRITE,
                              GIO_OPEN_TRUNCATE, direct, durable, &made.file, &made.facts),
                0);
    return made;
}

static bench bench_default(void) { return bench_open(16, 256 * KIB, GIO_DIRECT_AUTO, 0); }

static void bench_close_file(bench *bench)
{
    CHECK_EQUAL(gio_file_drain(bench->file, LONG_NS), 0);
    CHECK_EQUAL(gio_file_close(bench->file), 0);
    CHECK_EQUAL(gio_file_close(bench->file), 0);
    gio_file_free(bench->file);
    bench->file = NULL;
}

static void bench_close(bench *bench)
{
    if (bench->file)
        bench_close_file(bench);
    CHECK_EQUAL(gio_queue_close(bench->queue, LONG_NS), 0);
    CHECK_EQUAL(gio_queue_close(bench->queue, LONG_NS), 0);
    check_idle(bench->queue);
    gio_queue_free(bench->queue);
    CHECK_EQUAL(remove(bench->path), 0);
}

static uint64_t hold_one(bench *bench, const void *memory, uint64_t nbytes, uint64_t key)
{
    CHECK_EQUAL(gio_queue_fault(bench->queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
    return CHECK_TICKET(gio_submit_one(bench->file, GIO_WRITE, memory, nbytes, 0, key));
}

static void release_held(gio_queue *queue) { CHECK_EQUAL(gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0), 0); }

/* The kernel has done it, and only the telling is held: before that it might still drop it. */
static void wait_until_held(gio_queue *queue, uint64_t ticket)
{
    gio_outcome outcome;
    int held;
    do {
        CHECK_EQUAL(gio_operation_wait(queue, ticket, SHORT_NS, &outcome), GIO_E_TIMEOUT);
        gio_mutex_lock(&queue->mutex);
        held = queue->held != NULL;
        gio_mutex_unlock(&queue->mutex);
    } while (!held);
}

static uint64_t file_size(bench *bench)
{
    uint64_t size;
    CHECK_EQUAL(gio_file_size(bench->file, &size), 0);
    return size;
}

/* ---- memory, events -------------------------------------------------------------------------------------- */

static void test_system(void)
{
    gio_system_facts facts;
    gio_system(&facts);
    CHECK(facts.page_size >= 4096 && (facts.page_size & (facts.page_size - 1)) == 0);
    CHECK(facts.allocation_granularity % facts.page_size == 0);
    CHECK(facts.max_segments >= 16 && facts.max_request_bytes >= MIB);

    uint32_t count = 0;
    for (; gio_backend_name(count); count++)
        for (uint32_t other = 0; other < count; other++)
            CHECK(strcmp(gio_backend_name(count), gio_backend_name(other)) != 0);
    CHECK(count >= 2);
    CHECK(gio_backend_name(count + 1) == NULL && gio_backend_name(UINT32_MAX) == NULL);
}

static void test_pages(void)
{
    static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 9 * MIB};
    gio_system_facts facts;
    void *address;
    uint64_t allocated;

    gio_system(&facts);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int32_t huge = GIO_HUGE_AUTO; huge <= GIO_HUGE_NO; huge++) {
            CHECK_EQUAL(gio_pages_allocate(sizes[i], huge, &address, &allocated), 0);
            CHECK(allocated >= sizes[i] && allocated < sizes[i] + 2 * facts.page_size);
            CHECK_EQUAL(allocated % facts.page_size, 0);
            CHECK_EQUAL((uintptr_t)address % facts.page_size, 0);
            if (huge == GIO_HUGE_AUTO && platform_huge_pages_are_automatic() && sizes[i] >= facts.huge_page_size)
                CHECK_EQUAL((uintptr_t)address % facts.huge_page_size, 0);
            CHECK_EQUAL(gio_pages_prefault(address, sizes[i]), 0);
            const unsigned char *at = address;
            for (uint64_t k = 0; k < allocated; k += 509)
                CHECK_EQUAL(at[k], 0);
            memset(address, 0x7f, allocated);
            CHECK_EQUAL(gio_pages_prefault(address, allocated), 0); /* keeps what is there */
            CHECK_EQUAL(at[0], 0x7f);
            CHECK_EQUAL(at[allocated - 1], 0x7f);
            gio_pages_free(allocated, address);
        }
    CHECK(gio_pages_allocate(UINT64_MAX, GIO_HUGE_AUTO, &address, &allocated) != 0);
    CHECK(gio_pages_allocate(UINT64_MAX / 2, GIO_HUGE_NO, &address, &allocated) != 0);
    CHECK(gio_pages_allocate(UINT64_C(1) << 60, GIO_HUGE_AUTO, &address, &allocated) != 0);
    if (gio_pages_allocate(1, GIO_HUGE_YES, &address, &allocated) == 0) { /* where huge pages are reserved */
        CHECK(allocated >= facts.huge_page_size && (uintptr_t)address % facts.huge_page_size == 0);
        gio_pages_free(allocated, address);
    }
}

static void test_events(void)
{
    gio_event *event;
    CHECK_EQUAL(gio_event_create(&event), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_event_wait(event, SHORT_NS), GIO_E_TIMEOUT);
    int64_t handle = gio_event_handle(event); /* -1 where nothing polls them */
    gio_event_clear(event); /* of one that is not set: nothing */
    for (int round = 0; round < 3; round++) {
        gio_event_set(event);
        gio_event_set(event);
        CHECK(handle < 0 || platform_is_readable(handle, 0));
        CHECK_EQUAL(gio_event_wait(event, -1), 0);
        CHECK_EQUAL(gio_event_wait(event, 0), 0); /* waiting does not clear it */
        gio_event_clear(event);
        CHECK(handle < 0 || !platform_is_readable(handle, 0));
        CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);
    }
    gio_event_free(event);
    gio_event_free(NULL);
}

/* ---- transfers ------------------------------------------------------------------------------------------- */

static void contiguous(int32_t direct, int32_t durable)
{
    enum { BYTES = 3 * MIB };
    bench bench = bench_open(4, 256 * KIB, direct, durable);
    pages out = pages_new(BYTES), in = pages_new(BYTES);

    data_fill(out.at, BYTES, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, out.at, BYTES, 0, 0), BYTES);
    CHECK_EQUAL(file_size(&bench), BYTES);
    CHECK_FILE(bench.path, 1, 0, BYTES);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, in.at, BYTES, 0, 0), BYTES);
    CHECK_EQUAL(data_compare(in.at, BYTES, 1, 0), BYTES);
    CHECK_EQUAL(gio_file_flush(bench.file), 0);

    gio_queue_stats stats = stats_of(bench.queue);
    CHECK_EQUAL(stats.operations, 2);
    CHECK_EQUAL(stats.finished, 2);
    CHECK_EQUAL(stats.bytes_written, BYTES);
    CHECK_EQUAL(stats.bytes_read, BYTES);
    CHECK_EQUAL(stats.writes - stats.resumed, BYTES / (256 * KIB)); /* contiguous runs are no gathers */
    CHECK_EQUAL(stats.gathers + stats.scatters + stats.staged + stats.ragged, 0);
    pages_free(out);
    pages_free(in);
    bench_close(&bench);
}

static void test_contiguous(void)
{
    contiguous(GIO_DIRECT_AUTO, 0);
    contiguous(GIO_DIRECT_AUTO, 1);
    contiguous(GIO_DIRECT_NO, 0);
}

/* More segments than a request can hold, in an order that cannot be joined, and in one that can. */
static void test_scattered(void)
{
    enum { COUNT = 2500, PAGE = 4096, BYTES = COUNT * PAGE };
    bench bench = bench_open(8, 64 * MIB, GIO_DIRECT_AUTO, 0);
    pages out = pages_new(BYTES), in = pages_new(BYTES);
    gio_segment *segments = malloc(COUNT * sizeof *segments);
    CHECK(segments != NULL);

    for (uint64_t i = 0; i < COUNT; i++) { /* page i of the file comes from the end of the memory */
        unsigned char *page = out.at + (COUNT - 1 - i) * PAGE;
        data_fill(page, PAGE, 2, i * PAGE);
        segments[i] = segment_of(page, PAGE);
    }
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, segments, COUNT, 0, GIO_STAGE_NOTHING, 0), BYTES);
    CHECK_FILE(bench.path, 2, 0, BYTES);
    gio_queue_stats stats = stats_of(bench.queue);
    CHECK(stats.gathers >= 3 && stats.writes == 0 && stats.staged == 0);

    for (uint64_t i = 0; i < COUNT; i++) /* back in yet another order: even pages first */
        segments[i] = segment_of(in.at + (i < COUNT / 2 ? 2 * i : 2 * (i - COUNT / 2) + 1) * PAGE, PAGE);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, segments, COUNT, 0, GIO_STAGE_NOTHING, 0), BYTES);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_EQUAL(data_compare((void *)(uintptr_t)segments[i].address, PAGE, 2, i * PAGE), PAGE);
    CHECK(stats_of(bench.queue).scatters >= 3);

    for (uint64_t i = 0, page = 0; i < COUNT; i++) /* neighbours are one run, the empty count for nothing */
        segments[i] = i % 10 == 3 ? segment_of(in.at, 0) : segment_of(out.at + page++ * PAGE, PAGE);
    uint64_t joined = (COUNT - COUNT / 10) * (uint64_t)PAGE;
    data_fill(out.at, joined, 3, 0);
    stats = stats_of(bench.queue);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, segments, COUNT, 0, GIO_STAGE_NOTHING, 0), joined);
    CHECK_FILE(bench.path, 3, 0, joined);
    CHECK_FILE(bench.path, 2, joined, BYTES - joined);
    CHECK_EQUAL(stats_of(bench.queue).gathers, stats.gathers);
    free(segments);
    pages_free(out);
    pages_free(in);
    bench_close(&bench);
}

/* Writes at any offset, of any length, from anywhere, against a plain array. */
static void ragged(int32_t direct, int32_t durable)
{
    enum { BYTES = 64 * KIB, PAD = 64 };
    static const uint64_t offsets[] = {0, 1, 511, 512, 513, 4095, 4096, 4097, 6 * 512, 8191, 12288, 20001};
    static const uint64_t lengths[] = {1, 7, 511, 512, 513, 1024, 4095, 4096, 4097, 8192, 12289, 30000};
    bench bench = bench_open(8, 16 * KIB, direct, durable);
    pages memory = pages_new(BYTES + PAD);
    unsigned char *model = malloc(BYTES), *found = malloc(BYTES);
    uint64_t writer = 0, size = 0;

    CHECK(model != NULL && found != NULL);
    memset(model, 0, BYTES);
    for (size_t o = 0; o < sizeof offsets / sizeof offsets[0]; o++)
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
            uint64_t offset = offsets[o], length = lengths[l];
            unsigned char *from = memory.at + (o + l) % 3 * 8;
            data_fill(from, length, ++writer, offset);
            memcpy(model + offset, from, length);
            size = gio_max(size, offset + length);
            CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, from, length, offset, 0), length);
            CHECK_EQUAL(file_size(&bench), size); /* ends at the very byte */
            memset(memory.at, 0xee, BYTES);
            CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, from, length, offset, 0), length);
            CHECK_EQUAL(memcmp(from, model + offset, length), 0);
            CHECK(from == memory.at || from[-1] == 0xee); /* not a byte beside the target */
            CHECK_EQUAL(from[length], 0xee);
        }
    CHECK_EQUAL(oracle_read(bench.path, 0, found, BYTES), size);
    CHECK_EQUAL(memcmp(found, model, size), 0);
    free(model);
    free(found);
    pages_free(memory);
    bench_close(&bench);
}

static void test_ragged(void)
{
    ragged(GIO_DIRECT_AUTO, 0);
    ragged(GIO_DIRECT_AUTO, 1);
    ragged(GIO_DIRECT_NO, 0);
}

/* Many writes of all kinds under way at once, none of which overlaps another, but many of which share a page. */
static void test_crowded(void)
{
    enum { COUNT = 300, BYTES = 4 * MIB };
    bench bench = bench_open(32, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES + 64 * COUNT);
    unsigned char *found = malloc(BYTES);
    uint64_t tickets[COUNT], lengths[COUNT], order[COUNT], offsets[COUNT], state = 42, end = 0, used = 0;

    CHECK(found != NULL);
    for (int i = 0; i < COUNT; i++) {
        uint64_t kind = random_next(&state) % 4;
        lengths[i] = kind == 0 ? 1 + random_next(&state) % 3000 : 512 * (1 + random_next(&state) % 40);
        offsets[i] = end;
        end += lengths[i];
        if (i % 7 == 6) /* or else everything after the first odd length would be odd */
            end = gio_round_up(end, 512);
        order[i] = (uint64_t)i;
    }
    CHECK(end <= BYTES);
    for (int i = COUNT - 1; i > 0; i--) {
        uint64_t j = random_next(&state) % (uint64_t)(i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (int i = 0; i < COUNT; i++) {
        uint64_t at = order[i];
        used = random_next(&state) % 2 ? gio_round_up(used, 512) : used + 1;
        CHECK(used + lengths[at] <= memory.allocated);
        data_fill(memory.at + used, lengths[at], 9, offsets[at]);
        tickets[at] = CHECK_TICKET(
            gio_submit_one(bench.file, GIO_WRITE, memory.at + used, lengths[at], offsets[at], at));
        used += lengths[at];
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_MOVES(bench.queue, (int64_t)tickets[i], lengths[i]);
    CHECK_EQUAL(file_size(&bench), offsets[COUNT - 1] + lengths[COUNT - 1]);
    CHECK_EQUAL(oracle_read(bench.path, 0, found, BYTES), offsets[COUNT - 1] + lengths[COUNT - 1]);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQUAL(data_compare(found + offsets[i], lengths[i], 9, offsets[i]), lengths[i]);
    free(found);
    pages_free(memory);
    bench_close(&bench);
}

/* Through staging buffers: because all is to be, or because of odd segments; more at once than there are buffers. */
static void test_staged(void)
{
    enum { BYTES = 5 * MIB, ROWS = 700, ROW = 3001, STEP = 3016 };
    bench bench = bench_open(32, 128 * KIB, GIO_DIRECT_AUTO, 0);
    pages out = pages_new(BYTES), in = pages_new(BYTES);
    gio_segment *segments = malloc(ROWS * sizeof *segments), whole = segment_of(out.at, BYTES);
    CHECK(segments != NULL);

    data_fill(out.at, BYTES, 4, 0);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, &whole, 1, 0, GIO_STAGE_ALL, 0), BYTES);
    CHECK_FILE(bench.path, 4, 0, BYTES);
    gio_queue_stats stats = stats_of(bench.queue);
    CHECK(stats.staged != 0 && stats.staged == stats.writes);
    whole = segment_of(in.at, BYTES);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, &whole, 1, 0, GIO_STAGE_ALL, 0), BYTES);
    CHECK_EQUAL(data_compare(in.at, BYTES, 4, 0), BYTES);

    uint64_t nbytes = ROWS * (uint64_t)ROW, offset = 777; /* odd rows apart from each other, odd offset */
    for (uint64_t i = 0; i < ROWS; i++) {
        segments[i] = segment_of(out.at + 8 + i * STEP, ROW);
        data_fill(out.at + 8 + i * STEP, ROW, 5, offset + i * ROW);
    }
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, segments, ROWS, offset, GIO_STAGE_RAGGED, 0), nbytes);
    CHECK_FILE(bench.path, 4, 0, offset);
    CHECK_FILE(bench.path, 5, offset, nbytes);
    CHECK_FILE(bench.path, 4, offset + nbytes, BYTES - offset - nbytes);
    memset(in.at, 0xee, BYTES);
    for (uint64_t i = 0; i < ROWS; i++)
        segments[i] = segment_of(in.at + 8 + i * STEP, ROW);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, segments, ROWS, offset, GIO_STAGE_RAGGED, 0), nbytes);
    for (uint64_t i = 0; i < ROWS; i++) {
        CHECK_EQUAL(data_compare(in.at + 8 + i * STEP, ROW, 5, offset + i * ROW), ROW);
        CHECK_EQUAL(in.at[8 + i * STEP - 1], 0xee);
        CHECK_EQUAL(in.at[8 + i * STEP + ROW], 0xee);
    }

    uint64_t tickets[40];
    for (uint64_t i = 0; i < 40; i++) {
        data_fill(out.at + i * 128 * KIB, 128 * KIB, 6, i * 128 * KIB);
        segments[i] = segment_of(out.at + i * 128 * KIB, 128 * KIB);
        tickets[i] = CHECK_TICKET(
            gio_submit(bench.file, GIO_WRITE, &segments[i], 1, i * 128 * KIB, GIO_STAGE_ALL, i));
    }
    for (uint64_t i = 0; i < 40; i++)
        CHECK_MOVES(bench.queue, (int64_t)tickets[i], 128 * KIB);
    CHECK_FILE(bench.path, 6, 0, BYTES);
    free(segments);
    pages_free(out);
    pages_free(in);
    bench_close(&bench);
}

static void test_staging_not_allowed(void)
{
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    gio_segment odd = segment_of(memory.at + 1, 16 * KIB), even = segment_of(memory.at, 16 * KIB);

    data_fill(memory.at, 64 * KIB, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, &even, 1, 0, GIO_STAGE_NOTHING, 0), 16 * KIB);
    gio_outcome outcome = outcome_of(
        bench.queue, CHECK_TICKET(gio_submit(bench.file, GIO_WRITE, &odd, 1, 32 * KIB, GIO_STAGE_NOTHING, 0)));
    CHECK_EQUAL(outcome.code, bench.facts.direct ? GIO_E_ALIGNMENT : 0);
    CHECK_EQUAL(outcome.transferred, bench.facts.direct ? 0 : 16 * KIB);
    CHECK_EQUAL(outcome.in_place, outcome.transferred);
    CHECK_EQUAL(file_size(&bench), bench.facts.direct ? 16 * KIB : 48 * KIB);
    outcome = outcome_of(bench.queue,
                         CHECK_TICKET(gio_submit(bench.file, GIO_READ, &even, 1, 1, GIO_STAGE_NOTHING, 0)));
    CHECK_EQUAL(outcome.code, bench.facts.direct ? GIO_E_ALIGNMENT : 0);
    pages_free(memory);
    bench_close(&bench);
}

static void end_of_file(int32_t direct)
{
    enum { SIZE = 100003, BYTES = 256 * KIB };
    bench bench = bench_open(4, 32 * KIB, direct, 0);
    pages memory = pages_new(BYTES);
    gio_segment halves[2] = {segment_of(memory.at + 128 * KIB, 128 * KIB), segment_of(memory.at, 128 * KIB)};

    data_fill(memory.at, SIZE, 1, 0);
    oracle_write(bench.path, memory.at, SIZE);
    memset(memory.at, 0, BYTES);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 0, 0), SIZE); /* across */
    CHECK_EQUAL(data_compare(memory.at, SIZE, 1, 0), SIZE);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 8 * KIB, 98304, 0), SIZE - 98304);
    CHECK_EQUAL(data_compare(memory.at, SIZE - 98304, 1, 98304), SIZE - 98304);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 10, SIZE - 3, 0), 3);
    CHECK_EQUAL(data_compare(memory.at, 3, 1, SIZE - 3), 3);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, SIZE, 0), 0); /* at */
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 512 * KIB, 0), 0); /* past */
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 5, UINT64_C(1) << 40, 0), 0);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0), SIZE);
    CHECK_EQUAL(data_compare(memory.at + 128 * KIB, SIZE, 1, 0), SIZE);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, halves, 2, 7, GIO_STAGE_ALL, 0), SIZE - 7);
    CHECK_EQUAL(data_compare(memory.at + 128 * KIB, SIZE - 7, 1, 7), SIZE - 7);

    /* Nothing is read, written or made longer by an operation on nothing. */
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 512 * KIB, 0), 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 0, 0, 0), 0);
    CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, NULL, 0, 512 * KIB, GIO_STAGE_NOTHING, 0), 0);
    CHECK_EQUAL(file_size(&bench), SIZE);
    pages_free(memory);
    bench_close(&bench);
}

static void test_end_of_file(void)
{
    end_of_file(GIO_DIRECT_AUTO);
    end_of_file(GIO_DIRECT_NO);
}

static void test_far_offsets(void)
{
    const uint64_t offset = (UINT64_C(5) << 30) + 12288;
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);

    data_fill(memory.at, 50001, 1, offset);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 50001, offset, 0), 50001);
    CHECK_EQUAL(file_size(&bench), offset + 50001);
    CHECK_FILE(bench.path, 1, offset, 50001);
    memset(memory.at, 0, 64 * KIB);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, 64 * KIB, offset, 0), 50001);
    CHECK_EQUAL(data_compare(memory.at, 50001, 1, offset), 50001);

    CHECK(gio_submit_one(bench.file, GIO_READ, memory.at, 1, UINT64_MAX, 0) < 0);
    CHECK(gio_submit_one(bench.file, GIO_READ, memory.at, 4096, INT64_MAX - 4095, 0) < 0);
    CHECK(gio_submit_one(bench.file, GIO_READ, memory.at, UINT64_MAX, 0, 0) < 0);
    gio_segment halves[2] = {segment_of(memory.at, UINT64_C(1) << 63), segment_of(memory.at, UINT64_C(1) << 63)};
    CHECK(gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0) < 0); /* the sum is no 64-bit number */
    CHECK_EQUAL(stats_of(bench.queue).operations, 2);
    pages_free(memory);
    bench_close(&bench);
}

/* Numbers that no file, no memory and no request has: refused, or the system's error, and nothing is touched. */
static void test_absurd_numbers(void)
{
    static const uint64_t huge[] = {UINT64_C(1) << 63, (UINT64_C(1) << 63) - 1, UINT64_MAX, UINT64_MAX - 4095};
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    gio_segment halves[2] = {segment_of(memory.at, UINT64_C(1) << 62), segment_of(memory.at, UINT64_C(1) << 62)};
    gio_registration registration = {NULL, 0};
    int64_t invalid = -(int64_t)gio_code_invalid();

    data_fill(memory.at, 64 * KIB, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 0), 64 * KIB);
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        void *address = NULL;
        uint64_t allocated, id, size;
        int32_t reserved;
        gio_segment one = segment_of(memory.at, 4096), two[2] = {one, segment_of(memory.at, huge[i])};
        uint64_t offsets[2] = {0, huge[i]};

        CHECK_EQUAL(gio_submit_one(bench.file, GIO_READ, memory.at, 4096, huge[i], 0), invalid);
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_READ, memory.at, huge[i], 1, 0), invalid);
        CHECK_EQUAL(gio_submit(bench.file, GIO_READ, two, 2, 0, GIO_STAGE_RAGGED, 0), invalid);
        CHECK_EQUAL(gio_submit(bench.file, GIO_READ, &one, 1, huge[i], GIO_STAGE_ALL, 0), invalid);
        CHECK_EQUAL(gio_submit_batch(bench.file, GIO_READ, two, offsets, 2, 0), invalid);
        CHECK(gio_pages_allocate(huge[i], GIO_HUGE_AUTO, &address, &allocated) != 0 && address == NULL);
        if (gio_file_resize(bench.file, huge[i]) == 0) { /* tmpfs has files of that length */
            CHECK_EQUAL(huge[i], INT64_MAX);
            CHECK_EQUAL(gio_file_resize(bench.file, 64 * KIB), 0);
        }
        CHECK(gio_file_reserve(bench.file, huge[i], &reserved) != 0);
        CHECK(gio_file_lock(bench.file, huge[i], UINT64_MAX, 1, &id) != 0);
        CHECK(gio_queue_register(bench.queue, memory.at, huge[i], &registration) != 0 && registration.queue == NULL);
        CHECK(gio_queue_keep(bench.queue, memory.at, huge[i], UINT64_MAX) != 0);
        for (int32_t kind = GIO_FAULT_SHORT; kind <= GIO_FAULT_FAIL; kind++)
            CHECK_EQUAL(gio_queue_fault(bench.queue, kind, 0, 1, huge[i]), -invalid);
        CHECK_EQUAL(gio_file_size(bench.file, &size), 0);
        CHECK_EQUAL(size, 64 * KIB);
    }
    CHECK_EQUAL(gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0), invalid);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    pages_free(memory);
    bench_close(&bench);
}


/* ---- outcomes, tickets, waits ---------------------------------------------------------------------------- */

static void test_outcomes(void)
{
    enum { COUNT = 12 };
    bench bench = bench_default();
    pages memory = pages_new(COUNT * 4096);
    gio_outcome told[COUNT + 1], again[COUNT + 1], outcome;
    uint64_t tickets[COUNT];
    uint32_t count, seen = 0;

    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, told, COUNT, &count), 0);
    CHECK_EQUAL(count, 0);
    CHECK_EQUAL(queue_wait(bench.queue, 0), GIO_E_TIMEOUT);
    data_fill(memory.at, COUNT * 4096, 1, 0);
    for (uint64_t i = 0; i < COUNT; i++)
        tickets[i] = CHECK_TICKET(
            gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, 1000 + i));
    CHECK_EQUAL(queue_wait(bench.queue, LONG_NS), 0);
    CHECK_EQUAL(gio_file_drain(bench.file, LONG_NS), 0);
    CHECK_EQUAL(queue_wait(bench.queue, 0), 0); /* they are still there to be told */

    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, told, COUNT + 1, &count), 0);
    CHECK_EQUAL(count, COUNT);
    for (uint32_t i = 0; i < count; i++) {
        CHECK_EQUAL(told[i].code, 0);
        CHECK_EQUAL(told[i].transferred, 4096);
        CHECK_EQUAL(told[i].ticket, tickets[told[i].key - 1000]);
        seen |= 1u << (told[i].key - 1000);
    }
    CHECK_EQUAL(seen, (1u << COUNT) - 1);
    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, again, COUNT + 1, &count), 0);
    CHECK_EQUAL(count, COUNT);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQUAL(again[i].ticket, told[i].ticket); /* told again, in the same order */

    CHECK_EQUAL(gio_queue_release(bench.queue, told, 5), 0);
    CHECK_EQUAL(gio_queue_release(bench.queue, told, 5), 0); /* twice does nothing */
    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, again, 3, &count), 0);
    CHECK_EQUAL(count, 3);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQUAL(again[i].ticket, told[5 + i].ticket);
    CHECK_EQUAL(gio_operation_wait(bench.queue, told[0].ticket, LONG_NS, &outcome), GIO_E_GONE);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, told[0].ticket), GIO_E_GONE);
    CHECK_EQUAL(gio_operation_wait(bench.queue, told[11].ticket, 0, &outcome), 0);
    CHECK_EQUAL(outcome.key, told[11].key);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, told[11].ticket), GIO_E_GONE); /* it has finished */
    CHECK_EQUAL(gio_queue_release(bench.queue, &told[5], COUNT - 5), 0);
    CHECK_EQUAL(queue_wait(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_FILE(bench.path, 1, 0, COUNT * 4096);
    pages_free(memory);
    bench_close(&bench);
}

/* A ticket stays stale however often its place is used again, and the places are used again. */
static void test_stale_tickets(void)
{
    enum { COUNT = 5000 };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_outcome outcome;
    uint64_t first = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1));

    CHECK_EQUAL(outcome_of(bench.queue, first).code, 0);
    for (int i = 0; i < COUNT; i++) {
        CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 0, 2), 0);
        CHECK_EQUAL(gio_operation_wait(bench.queue, first, 0, &outcome), GIO_E_GONE);
    }
    CHECK(bench.queue->operation_count <= 2 * GIO_OPERATIONS_PER_BLOCK); /* memory does not grow with their number */
    outcome.ticket = first;
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    static const uint64_t strangers[] = {
        0, 1, 63, 64, UINT64_MAX, UINT64_C(1) << 63, (UINT64_C(1) << GIO_INDEX_BITS) - 1};
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
        CHECK_EQUAL(gio_operation_wait(bench.queue, strangers[i], 0, &outcome), GIO_E_GONE);
        CHECK_EQUAL(gio_operation_cancel(bench.queue, strangers[i]), GIO_E_GONE);
    }
    pages_free(memory);
    bench_close(&bench);
}

static void test_wait_any(void)
{
    bench bench = bench_default();
    pages memory = pages_new(3 * 4096);
    uint64_t tickets[3], index = 99;

    tickets[0] = hold_one(&bench, memory.at, 4096, 0);
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 1, 0, &index), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 1, SHORT_NS, &index), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 0, 0, &index), GIO_E_TIMEOUT);
    /* The fault takes the next request that comes back, whichever it is: the held one has come back by now. */
    tickets[1] = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 1));
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 2, LONG_NS, &index), 0);
    CHECK_EQUAL(index, 1);
    tickets[2] = tickets[1];
    CHECK_EQUAL(outcome_of(bench.queue, tickets[1]).code, 0);
    tickets[1] = tickets[0];
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 3, LONG_NS, &index), 0); /* GONE counts as over */
    CHECK_EQUAL(index, 2);
    release_held(bench.queue);
    CHECK_EQUAL(gio_operation_wait_any(bench.queue, tickets, 3, LONG_NS, &index), 0);
    CHECK_EQUAL(index, 0);
    CHECK_EQUAL(outcome_of(bench.queue, tickets[0]).code, 0);
    pages_free(memory);
    bench_close(&bench);
}

static void test_timeouts(void)
{
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_outcome outcome;
    uint64_t ticket = hold_one(&bench, memory.at, 4096, 0);

    for (int64_t timeout_ns = 0; timeout_ns <= SHORT_NS; timeout_ns += SHORT_NS) {
        int64_t begin_ns = gio_now_ns();
        CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, timeout_ns, &outcome), GIO_E_TIMEOUT);
        CHECK_EQUAL(queue_wait(bench.queue, timeout_ns), GIO_E_TIMEOUT);
        CHECK_EQUAL(gio_file_drain(bench.file, timeout_ns), GIO_E_TIMEOUT);
        int64_t took_ns = gio_now_ns() - begin_ns;
        CHECK(took_ns >= 3 * timeout_ns && took_ns < LONG_NS);
    }
    CHECK_EQUAL(gio_file_close(bench.file), GIO_E_TIMEOUT); /* and nothing done */
    release_held(bench.queue);
    /* Longer than the clock reaches is for ever, and not "the time is up". */
    CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, INT64_MAX, &outcome), 0);
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    for (int i = 0; i < 200; i++) {
        ticket = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0));
        CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, INT64_MAX, &outcome), 0);
        CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* A waiter that sleeps in the kernel on behalf of all is woken when its operation ends in another thread. */
typedef struct {
    gio_queue *queue;
    uint64_t ticket;
    atomic_int done;
} helper;

static void *release_later(void *argument)
{
    helper *helper = argument;
    platform_pause_ms(100); /* the other thread is asleep by now; if it is not, the test is only weaker */
    atomic_store(&helper->done, 1);
    release_held(helper->queue);
    return NULL;
}

static void *cancel_later(void *argument)
{
    helper *helper = argument;
    platform_pause_ms(100);
    atomic_store(&helper->done, 1);
    CHECK_EQUAL(gio_operation_cancel(helper->queue, helper->ticket), 0);
    return NULL;
}

static void test_woken_by_others(void)
{
    bench bench = bench_open(1, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(8192);
    gio_thread thread;
    gio_outcome outcome;
    helper helper = {.queue = bench.queue};

    uint64_t held = hold_one(&bench, memory.at, 4096, 0);
    helper.ticket = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 0));
    CHECK_EQUAL(gio_thread_start(&thread, cancel_later, &helper), 0);
    int64_t begin_ns = gio_now_ns();
    CHECK_EQUAL(gio_operation_wait(bench.queue, helper.ticket, LONG_NS, &outcome), 0);
    CHECK(gio_now_ns() - begin_ns < LONG_NS / 2);
    CHECK_EQUAL(outcome.code, GIO_E_CANCELLED);
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    gio_thread_join(&thread);

    CHECK_EQUAL(gio_thread_start(&thread, release_later, &helper), 0);
    begin_ns = gio_now_ns();
    CHECK_EQUAL(gio_operation_wait(bench.queue, held, LONG_NS, &outcome), 0);
    CHECK(gio_now_ns() - begin_ns < LONG_NS / 2);
    CHECK_EQUAL(outcome.code, 0);
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    gio_thread_join(&thread);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- cancelling ------------------------------------------------------------------------------------------ */

static void test_cancel(void)
{
    enum { BYTES = MIB, REQUEST = 64 * KIB };
    bench bench = bench_open(1, REQUEST, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);
    gio_outcome outcome;

    data_fill(memory.at, BYTES, 1, 0);
    uint64_t large = hold_one(&bench, memory.at, BYTES, 1); /* one request is held, the rest has to wait for it */
    uint64_t behind = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 2 * BYTES, 2));
    wait_until_held(bench.queue, large);

    CHECK_EQUAL(gio_operation_cancel(bench.queue, behind), 0); /* has not begun: ends at once */
    CHECK_EQUAL(gio_operation_wait(bench.queue, behind, 0, &outcome), 0);
    CHECK_EQUAL(outcome.code, GIO_E_CANCELLED);
    CHECK_EQUAL(outcome.transferred, 0);
    CHECK_EQUAL(outcome.in_place, 0);
    CHECK_EQUAL(outcome.key, 2);
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);

    CHECK_EQUAL(gio_operation_cancel(bench.queue, large), 0); /* its first request is under way: stays until then */
    CHECK_EQUAL(gio_operation_cancel(bench.queue, large), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, large, SHORT_NS, &outcome), GIO_E_TIMEOUT);
    release_held(bench.queue);
    outcome = outcome_of(bench.queue, large);
    CHECK_EQUAL(outcome.code, GIO_E_CANCELLED);
    CHECK_EQUAL(outcome.transferred, 0);
    CHECK_EQUAL(outcome.in_place, REQUEST);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, large), GIO_E_GONE);
    CHECK_EQUAL(file_size(&bench), REQUEST);
    CHECK_FILE(bench.path, 1, 0, REQUEST);

    /* All of it is under way: the outcome is the full result. */
    uint64_t whole = hold_one(&bench, memory.at, REQUEST, 3);
    wait_until_held(bench.queue, whole);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, whole), 0);
    release_held(bench.queue);
    CHECK_MOVES(bench.queue, (int64_t)whole, REQUEST);
    pages_free(memory);
    bench_close(&bench);
}

/* Cancelled at any moment, an operation ends with all or with CANCELLED, and what is said to be in place is. */
static void test_cancel_any_time(void)
{
    enum { ROUNDS = 60, BYTES = 512 * KIB, REQUEST = 16 * KIB };
    bench bench = bench_open(8, REQUEST, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);
    int cancelled = 0;

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        CHECK_EQUAL(gio_file_resize(bench.file, 0), 0);
        data_fill(memory.at, BYTES, round, 0);
        uint64_t ticket = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0));
        int64_t moment_ns = gio_now_ns() + (int64_t)round * 20000;
        while (gio_now_ns() < moment_ns)
            continue;
        int32_t code = gio_operation_cancel(bench.queue, ticket);
        CHECK(code == 0 || code == GIO_E_GONE);
        gio_outcome outcome = outcome_of(bench.queue, ticket);
        CHECK(outcome.code == 0 || (code == 0 && outcome.code == GIO_E_CANCELLED));
        CHECK_EQUAL(outcome.transferred, outcome.code ? 0 : BYTES);
        CHECK(outcome.in_place <= BYTES && (outcome.code || outcome.in_place == BYTES));
        if (outcome.in_place)
            CHECK_FILE(bench.path, round, 0, outcome.in_place);
        cancelled += outcome.code != 0;
    }
    printf("    %d of %d were cancelled in time\n", cancelled, ROUNDS);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- faults ---------------------------------------------------------------------------------------------- */

static void short_transfers(int32_t direct)
{
    enum { BYTES = MIB, REQUEST = 256 * KIB, PIECE = 16 * KIB };
    static const uint64_t shorts[] = {1, 511, 512, 4096, 4096 + 100, 65537, 131072, REQUEST - 1};
    bench bench = bench_open(4, REQUEST, direct, 0);
    pages out = pages_new(BYTES), in = pages_new(BYTES);
    gio_segment scattered[BYTES / PIECE];
    uint64_t writer = 0, gain = bench.facts.direct ? bench.facts.offset_alignment : 1;
    gio_system_facts system;

    gio_system(&system);
    for (size_t i = 0; i < sizeof shorts / sizeof shorts[0]; i++)
        for (int way = 0; way < 3; way++) { /* contiguous, scattered, staged */
            if (way == 1 && !bench.facts.direct && system.buffered_segments == 1 && shorts[i] >= PIECE)
                continue; /* each run goes alone, and is no longer than that */
            for (uint64_t k = 0; k < BYTES / PIECE; k++)
                scattered[k] = segment_of(out.at + (BYTES / PIECE - 1 - k) * PIECE, PIECE);
            gio_segment whole = segment_of(out.at, BYTES);
            const gio_segment *segments = way == 1 ? scattered : &whole;
            uint64_t count = way == 1 ? BYTES / PIECE : 1;
            int32_t staging = way == 2 ? GIO_STAGE_ALL : GIO_STAGE_NOTHING;
            writer++;
            for (uint64_t at = 0, k = 0; k < count; at += segments[k++].length)
                data_fill((void *)(uintptr_t)segments[k].address, segments[k].length, writer, at);

            uint64_t resumed = stats_of(bench.queue).resumed;
            /* Not twice: twice as short at the same place would be no progress. */
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, way == 2 ? 0 : 1, 1, shorts[i]), 0);
            CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, segments, count, 0, staging, 0), BYTES);
            release_held(bench.queue);
            CHECK_EQUAL(file_size(&bench), BYTES);
            CHECK_FILE(bench.path, writer, 0, BYTES);
            CHECK(stats_of(bench.queue).resumed > resumed);
            if (way != 1) /* through Windows' cache each run goes alone */
                CHECK_EQUAL(stats_of(bench.queue).resumed, resumed + 1);

            memset(in.at, 0xee, BYTES);
            for (uint64_t k = 0; k < BYTES / PIECE; k++)
                scattered[k] = segment_of(in.at + (BYTES / PIECE - 1 - k) * PIECE, PIECE);
            whole = segment_of(in.at, BYTES);
            resumed = stats_of(bench.queue).resumed;
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, 1, gio_max(shorts[i], gain)), 0);
            CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, segments, count, 0, staging, 0), BYTES);
            release_held(bench.queue);
            CHECK(stats_of(bench.queue).resumed > resumed);
            for (uint64_t at = 0, k = 0; k < count; at += segments[k++].length)
                CHECK_EQUAL(data_compare((void *)(uintptr_t)segments[k].address, segments[k].length, writer, at),
                            segments[k].length);
        }

    /* Nothing moves: an error for a write, the end of the file for a read. */
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, 1, 0), 0);
    gio_outcome outcome = outcome_of(
        bench.queue, CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, out.at, 4096, 0, 0)));
    CHECK_EQUAL(outcome.code, GIO_E_NO_PROGRESS);
    CHECK_EQUAL(outcome.in_place, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, 1, 0), 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, in.at, 4096, 0, 0), 0);
    /* It moves a little each time, from any byte on. */
    data_fill(out.at, 4096, 77, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, UINT64_MAX, 100), 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, out.at, 4096, 0, 0), 4096);
    memset(in.at, 0xee, 4096);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, in.at, 4096, 0, 0), 4096);
    CHECK_EQUAL(data_compare(in.at, 4096, 77, 0), 4096);
    release_held(bench.queue);
    pages_free(out);
    pages_free(in);
    bench_close(&bench);
}

static void test_short_transfers(void)
{
    short_transfers(GIO_DIRECT_AUTO);
    short_transfers(GIO_DIRECT_NO);
}

static void test_failures(void)
{
    enum { BYTES = 512 * KIB, REQUEST = 64 * KIB, FAILURE = 5 /* any number of the system's: EIO on Linux */ };
    bench bench = bench_open(1, REQUEST, GIO_DIRECT_AUTO, 0); /* one after the other: the order is known */
    pages memory = pages_new(BYTES);

    data_fill(memory.at, BYTES, 1, 0);
    for (int32_t direction = GIO_READ; direction <= GIO_WRITE; direction++)
        for (uint64_t after = 0; after < BYTES / REQUEST; after++) {
            CHECK_EQUAL(gio_file_resize(bench.file, BYTES), 0);
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, after, 1, FAILURE), 0);
            gio_outcome outcome = outcome_of(
                bench.queue, CHECK_TICKET(gio_submit_one(bench.file, direction, memory.at, BYTES, 0, after)));
            CHECK_EQUAL(outcome.code, FAILURE);
            CHECK_EQUAL(outcome.transferred, 0);
            CHECK_EQUAL(outcome.in_place, after * REQUEST); /* the first bytes are where they belong */
            CHECK_EQUAL(outcome.key, after);
        }
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0), BYTES);

    /* Short, then failed: what the short one moved counts, down to the byte. */
    gio_outcome outcome;
    uint64_t ticket = hold_one(&bench, memory.at, REQUEST, 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, SHORT_NS, &outcome), GIO_E_TIMEOUT);
    release_held(bench.queue);
    CHECK_EQUAL(outcome_of(bench.queue, ticket).code, 0);

    /* What passes by itself is tried again, but not for ever; so is a cancellation that nobody asked for. */
    int32_t transient = 1;
    while (!gio_code_is_transient(transient))
        CHECK(++transient < 4096);
    for (int i = 0; i < 2; i++) {
        int32_t code = i ? gio_code_cancelled() : transient;
        uint64_t retried = stats_of(bench.queue).retried;
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, 7, (uint64_t)code), 0);
        CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0), BYTES);
        CHECK_EQUAL(stats_of(bench.queue).retried, retried + 7);
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, UINT64_MAX, (uint64_t)code), 0);
        outcome = outcome_of(bench.queue,
                             CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0)));
        CHECK_EQUAL(outcome.code, code);
        CHECK_EQUAL(outcome.in_place, 0);
        release_held(bench.queue);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* Of several failures the one nearest to the start is told, whatever comes back first. */
/* When the system is short of memory for what is in flight, less is in flight, and then less is in a request. */
static void test_shortage(void)
{
    enum { BYTES = 4 * MIB, PIECE = 16 * KIB, COUNT = BYTES / PIECE };
    /* Alone, a request is halved each time it is refused: six times from 256 KiB to a page. */
    static const uint64_t failing[] = {1, 2, 5, 6};
    int32_t code = platform_shortage_code();
    pages out = pages_new(BYTES), in = pages_new(BYTES);
    gio_segment from[COUNT], to[COUNT];
    uint64_t writer = 0;

    if (code == 0)
        printf("    never short of memory here\n");
    for (uint64_t k = 0; k < COUNT; k++) { /* cannot be joined */
        from[k] = segment_of(out.at + (COUNT - 1 - k) * PIECE, PIECE);
        to[k] = segment_of(in.at + (COUNT - 1 - k) * PIECE, PIECE);
    }
    for (uint32_t depth = 1; depth <= 16 && code; depth *= 4)
        for (size_t i = 0; i < sizeof failing / sizeof failing[0]; i++) {
            bench bench = bench_open(depth, 256 * KIB, GIO_DIRECT_AUTO, 0);
            writer++;
            for (uint64_t k = 0; k < COUNT; k++)
                data_fill((void *)(uintptr_t)from[k].address, PIECE, writer, k * PIECE);
            uint64_t times = failing[i];
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, times, (uint64_t)code), 0);
            CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_WRITE, from, COUNT, 0, GIO_STAGE_NOTHING, 0), BYTES);
            CHECK_FILE(bench.path, writer, 0, BYTES);
            CHECK_EQUAL(stats_of(bench.queue).retried, times);
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, times, (uint64_t)code), 0);
            CHECK_MOVES(bench.queue, gio_submit(bench.file, GIO_READ, to, COUNT, 0, GIO_STAGE_NOTHING, 0), BYTES);
            for (uint64_t k = 0; k < COUNT; k++)
                CHECK_EQUAL(data_compare((void *)(uintptr_t)to[k].address, PIECE, writer, k * PIECE), PIECE);
            CHECK_EQUAL(stats_of(bench.queue).retried, 2 * times);

            /* For ever: it is told, not tried for ever. */
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, UINT64_MAX, (uint64_t)code), 0);
            gio_outcome outcome = outcome_of(
                bench.queue, CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, out.at, BYTES, 0, 0)));
            CHECK_EQUAL(outcome.code, code);
            release_held(bench.queue);
            bench_close(&bench);
        }
    pages_free(out);
    pages_free(in);
}

/* Calls that Windows would carry out while their caller waits are made by a thread of the queue's own. */
static void test_handed_over(void)
{
    enum { BYTES = MIB };
    int has_issuer = strcmp(backend, "iocp") == 0;
    bench bench = bench_open(8, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);
    uint64_t handed_over;

    data_fill(memory.at, BYTES, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0), BYTES); /* extends */
    handed_over = stats_of(bench.queue).handed_over;
    CHECK_EQUAL(handed_over, has_issuer ? BYTES / (64 * KIB) : 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 0, 0), BYTES);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0), BYTES); /* overwrites */
    CHECK_EQUAL(stats_of(bench.queue).handed_over, handed_over + (has_issuer && !bench.facts.direct ? 16 : 0));
    handed_over = stats_of(bench.queue).handed_over;
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 100, 0, 0), 100); /* through the cache */
    CHECK_EQUAL(stats_of(bench.queue).handed_over, handed_over + (has_issuer ? 1 : 0));
    handed_over = stats_of(bench.queue).handed_over;

    CHECK_EQUAL(gio_file_resize(bench.file, 4096), 0); /* what was cut off and grown again was never written */
    CHECK_EQUAL(gio_file_resize(bench.file, BYTES), 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 0), 4096);
    CHECK_EQUAL(stats_of(bench.queue).handed_over, handed_over + (has_issuer ? 1 : 0));
    CHECK_FILE(bench.path, 1, 0, 8192);
    pages_free(memory);
    bench_close(&bench);
}

static void test_several_failures(void)
{
    enum { BYTES = 512 * KIB, REQUEST = 64 * KIB, FAILURE = 5 };
    bench bench = bench_open(8, REQUEST, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);

    for (uint64_t after = 0; after < BYTES / REQUEST; after++) {
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, after, BYTES / REQUEST - after, FAILURE), 0);
        gio_outcome outcome = outcome_of(
            bench.queue, CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0)));
        CHECK_EQUAL(outcome.code, FAILURE);
        CHECK(outcome.in_place % REQUEST == 0 && outcome.in_place <= after * REQUEST);
        release_held(bench.queue);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* The request that carries an operation at this moment, or NULL. */
static gio_request *request_of(gio_queue *queue, uint64_t ticket)
{
    gio_request *found = NULL;
    gio_mutex_lock(&queue->mutex);
    for (uint32_t i = 0; i < queue->depth; i++)
        if (queue->requests[i].operation && queue->requests[i].operation->ticket == ticket)
            found = &queue->requests[i];
    gio_mutex_unlock(&queue->mutex);
    return found;
}

/* A completion of an earlier start of a request is nobody's: not the one's that uses it now, and not if it is free. */
static void test_stale_completions(void)
{
    enum { ROUNDS = 20, INDEX_BITS = 20 /* of the tag, in backend_uring.c */, FAILURE = 5 };
    bench bench = bench_open(4, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(4096);
    gio_outcome outcome;
    uint32_t count;
    int64_t ring = gio_queue_poll_handle(bench.queue);

    if (platform_post_completion(ring, UINT64_MAX, 0) != 0) {
        printf("    no such completions here\n");
        pages_free(memory);
        bench_close(&bench);
        return;
    }
    data_fill(memory.at, 4096, 1, 0);
    /* With one in flight the queue's own thread sleeps between its looks. */
    uint64_t held = hold_one(&bench, memory.at, 4096, 1);
    CHECK_EQUAL(gio_operation_wait(bench.queue, held, SHORT_NS, &outcome), GIO_E_TIMEOUT);
    for (int round = 0; round < ROUNDS; round++) {
        gio_batch batch = {NULL};
        CHECK_EQUAL(gio_queue_batch(bench.queue, &batch), 0); /* the kernel does not have it yet */
        uint64_t ticket = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 2));
        gio_request *request = request_of(bench.queue, ticket);
        if (request) {
            uint64_t index = (uint64_t)(request - bench.queue->requests), sequence = request->sequence;
            for (uint64_t back = 1; back < 3; back++)
                CHECK_EQUAL(platform_post_completion(ring, (sequence - back) << INDEX_BITS | index, -FAILURE), 0);
            CHECK_EQUAL(platform_post_completion(ring, (sequence + 1) << INDEX_BITS | index, -FAILURE), 0);
            CHECK_EQUAL(platform_post_completion(ring, index, -FAILURE), 0);
        }
        gio_batch_end(&batch);
        CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, &outcome, 1, &count), 0);
        CHECK_MOVES(bench.queue, (int64_t)ticket, 4096);
        if (request) /* it is free now: what would be its own comes twice */
            CHECK_EQUAL(platform_post_completion(
                            ring, request->sequence << INDEX_BITS | (uint64_t)(request - bench.queue->requests), 4096),
                        0);
        CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, &outcome, 1, &count), 0);
    }
    CHECK_FILE(bench.path, 1, 0, 4096);
    release_held(bench.queue);
    CHECK_MOVES(bench.queue, (int64_t)held, 4096);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- listeners ------------------------------------------------------------------------------------------- */

static void test_listeners(void)
{
    bench bench = bench_default();
    pages memory = pages_new(8 * 4096);
    gio_outcome told[8];
    gio_event *event, *other;
    uint32_t count;

    CHECK_EQUAL(gio_event_create(&event), 0);
    CHECK_EQUAL(gio_event_create(&other), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, event, 0), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, other, 0), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);
    CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1));
    CHECK_EQUAL(gio_event_wait(event, LONG_NS), 0); /* with nobody waiting on the queue */
    CHECK_EQUAL(gio_event_wait(other, LONG_NS), 0);
    gio_event_clear(event);
    gio_event_clear(other);
    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, event, told, 8, &count), 0);
    CHECK_EQUAL(count, 1);
    CHECK_EQUAL(gio_queue_release(bench.queue, told, count), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);

    /* Whoever has no room for all is not left without a sign of the rest. */
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 3, 0), 0);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, i));
    release_held(bench.queue);
    for (uint32_t left = 3; left != 0; left -= count) {
        CHECK_EQUAL(gio_event_wait(event, LONG_NS), 0);
        gio_event_clear(event);
        CHECK_EQUAL(gio_queue_collect(bench.queue, 0, event, told, 1, &count), 0);
        CHECK_EQUAL(gio_queue_release(bench.queue, told, count), 0);
    }

    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    gio_event_clear(event);
    gio_event_clear(other);
    CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 2));
    CHECK_EQUAL(gio_event_wait(other, LONG_NS), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_queue_unlisten(bench.queue, other), 0);
    gio_event_clear(event);
    CHECK_EQUAL(gio_queue_listen(bench.queue, event, 0), 0); /* something is there to be told already */
    CHECK_EQUAL(gio_event_wait(event, 0), 0);
    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    gio_event_free(event);
    gio_event_free(other);
    pages_free(memory);
    bench_close(&bench);
}

/* As an event loop does it: watch the event and the poll handle, never wait in the core; with room for one outcome. */
static void test_attended(void)
{
    enum { COUNT = 200 };
    bench bench = bench_open(64, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(COUNT * 4096);
    gio_event *event;
    gio_outcome told;
    uint32_t count, seen = 0;
    int64_t poll_handle = gio_queue_poll_handle(bench.queue), deadline_ns = gio_deadline_ns(LONG_NS);

    CHECK_EQUAL(gio_event_create(&event), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, event, poll_handle >= 0), 0);
    data_fill(memory.at, COUNT * 4096, 1, 0);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, i));
    while (seen < COUNT) {
        CHECK(gio_now_ns() < deadline_ns);
        int64_t handle = gio_event_handle(event);
        int stirs = handle < 0 ? gio_event_wait(event, SHORT_NS) == 0 : platform_is_readable(handle, 1);
        if (!stirs && !(poll_handle >= 0 && platform_is_readable(poll_handle, 0)))
            continue;
        gio_event_clear(event);
        CHECK_EQUAL(gio_queue_collect(bench.queue, 0, event, &told, 1, &count), 0);
        CHECK_EQUAL(gio_queue_release(bench.queue, &told, count), 0);
        seen += count;
    }
    CHECK_FILE(bench.path, 1, 0, COUNT * 4096);
    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    gio_event_free(event);
    pages_free(memory);
    bench_close(&bench);
}

/* A large operation ends though nobody ever calls the core to wait for it. */
static void test_goes_on_by_itself(void)
{
    enum { BYTES = 8 * MIB };
    bench bench = bench_open(2, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);
    int64_t deadline_ns = gio_deadline_ns(LONG_NS);

    data_fill(memory.at, BYTES, 1, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 5, 3, 12345), 0);
    uint64_t ticket = CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0));
    while (stats_of(bench.queue).finished == 0) { /* only looks */
        CHECK(gio_now_ns() < deadline_ns);
        platform_pause_ms(1);
    }
    CHECK_MOVES(bench.queue, (int64_t)ticket, BYTES);
    CHECK_FILE(bench.path, 1, 0, BYTES);
    pages_free(memory);
    bench_close(&bench);
}

static void *wait_for_helper(void *argument)
{
    helper *helper = argument;
    gio_outcome outcome;
    CHECK_EQUAL(gio_operation_wait(helper->queue, helper->ticket, LONG_NS, &outcome), 0);
    return NULL;
}

static int somebody_follows(gio_queue *queue)
{
    gio_mutex_lock(&queue->mutex);
    int follows = queue->followers != 0;
    gio_mutex_unlock(&queue->mutex);
    return follows;
}

/* In a batch nothing is held back while somebody listens, or waits already: nobody would look for it. */
static void test_batches(void)
{
    enum { ROUNDS = 30 };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_event *event;
    gio_thread thread;
    gio_outcome outcome;
    int counts = strcmp(backend, "uring") == 0; /* elsewhere there is nothing to be handed over */

    data_fill(memory.at, 4096, 1, 0);
    uint64_t held = hold_one(&bench, memory.at, 4096, 0); /* with one in flight the pump sleeps between its looks */
    CHECK_EQUAL(gio_operation_wait(bench.queue, held, SHORT_NS, &outcome), GIO_E_TIMEOUT);
    helper helper = {.queue = bench.queue, .ticket = held};
    CHECK_EQUAL(gio_event_create(&event), 0);
    for (int waits = 0; waits < 2; waits++) {
        if (waits)
            CHECK_EQUAL(gio_thread_start(&thread, wait_for_helper, &helper), 0);
        else
            CHECK_EQUAL(gio_queue_listen(bench.queue, event, 1), 0);
        for (int round = 0; round < ROUNDS; round++) {
            gio_batch batch = {NULL};
            while (waits && !somebody_follows(bench.queue))
                platform_pause_ms(1);
            CHECK_EQUAL(gio_queue_batch(bench.queue, &batch), 0);
            uint64_t before = stats_of(bench.queue).submits;
            int64_t ticket = gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1);
            if (counts)
                CHECK(stats_of(bench.queue).submits > before);
            CHECK_MOVES(bench.queue, ticket, 4096);
            gio_batch_end(&batch);
        }
        if (!waits)
            CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    }
    release_held(bench.queue);
    gio_thread_join(&thread);
    CHECK_MOVES(bench.queue, (int64_t)held, 4096);
    CHECK_FILE(bench.path, 1, 0, 4096);
    gio_event_free(event);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- closing --------------------------------------------------------------------------------------------- */

static void test_close_in_flight(void)
{
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    gio_file_facts facts;
    gio_outcome outcome;
    uint32_t count;

    data_fill(memory.at, 64 * KIB, 1, 0);
    uint64_t ticket = hold_one(&bench, memory.at, 64 * KIB, 7);
    CHECK_EQUAL(gio_queue_close(bench.queue, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_queue_close(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0), -(int64_t)GIO_E_CLOSED);
    CHECK_EQUAL(gio_file_close(bench.file), GIO_E_TIMEOUT);
    release_held(bench.queue);
    CHECK_EQUAL(gio_queue_close(bench.queue, LONG_NS), 0);
    CHECK_EQUAL(gio_queue_close(bench.queue, 0), 0);

    /* Outcomes outlive the closing; nothing else happens any more. */
    CHECK_EQUAL(queue_wait(bench.queue, 0), 0);
    CHECK_EQUAL(gio_queue_collect(bench.queue, 0, NULL, &outcome, 1, &count), 0);
    CHECK_EQUAL(count, 1);
    CHECK_EQUAL(outcome.ticket, ticket);
    CHECK_EQUAL(outcome.transferred, 64 * KIB);
    CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, -1, &outcome), 0);
    CHECK_EQUAL(gio_queue_release(bench.queue, &outcome, 1), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, ticket, -1, &outcome), GIO_E_GONE);
    CHECK_EQUAL(queue_wait(bench.queue, -1), GIO_E_CLOSED);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, ticket), GIO_E_GONE);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0), -(int64_t)GIO_E_CLOSED);
    CHECK_EQUAL(gio_queue_poll_handle(bench.queue), -1);
    gio_file *late = NULL;
    CHECK_EQUAL(gio_file_open(bench.queue, platform_path(bench.path), GIO_ACCESS_WRITE, GIO_OPEN_TRUNCATE,
                              GIO_DIRECT_AUTO, 0, &late, &facts),
                GIO_E_CLOSED);
    CHECK(late == NULL);
    bench_close_file(&bench);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    gio_queue_free(bench.queue);
    gio_queue_free(NULL);

    /* Closed with no limit while work is in flight: it is waited for. */
    bench = bench_default();
    for (uint64_t i = 0; i < 16; i++)
        CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, i));
    CHECK_EQUAL(gio_queue_close(bench.queue, -1), 0);
    bench_close_file(&bench);
    gio_queue_free(bench.queue);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    pages_free(memory);
    CHECK_EQUAL(remove(bench.path), 0);
}

static void *wait_for_any(void *argument)
{
    helper *helper = argument;
    CHECK_EQUAL(queue_wait(helper->queue, LONG_NS), GIO_E_CLOSED);
    atomic_store(&helper->done, 1);
    return NULL;
}

/* Closing wakes those who wait for what will never come. */
static void test_close_wakes_waiters(void)
{
    for (int round = 0; round < 20; round++) {
        bench bench = bench_default();
        helper helper = {.queue = bench.queue};
        gio_thread threads[3];
        int64_t begin_ns = gio_now_ns();
        for (int i = 0; i < 3; i++)
            CHECK_EQUAL(gio_thread_start(&threads[i], wait_for_any, &helper), 0);
        if (round % 2)
            platform_pause_ms(2);
        CHECK_EQUAL(gio_queue_close(bench.queue, LONG_NS), 0);
        for (int i = 0; i < 3; i++)
            gio_thread_join(&threads[i]);
        CHECK(gio_now_ns() - begin_ns < LONG_NS / 2);
        bench_close(&bench);
    }
}

/* A signal ends no wait before its time but the caller's own, and frees nothing that is in use. */
static void test_interrupted(void)
{
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_thread thread;
    gio_outcome outcome;
    helper helper = {.queue = bench.queue};
    uint64_t ticket = hold_one(&bench, memory.at, 4096, 0);

    if (!platform_interrupt_me_after(50)) {
        printf("    no signals here\n");
    } else {
        int32_t code = gio_operation_wait(bench.queue, ticket, 300 * (int64_t)1000000, &outcome);
        CHECK(code == GIO_E_INTERRUPTED || code == GIO_E_TIMEOUT);
        CHECK(platform_interrupt_me_after(50));
        code = gio_queue_close(bench.queue, 300 * (int64_t)1000000);
        CHECK(code == GIO_E_INTERRUPTED || code == GIO_E_TIMEOUT);
        CHECK(platform_interrupt_me_after(30));
    }
    CHECK_EQUAL(gio_thread_start(&thread, release_later, &helper), 0);
    gio_queue_free(bench.queue); /* waits, signal or not */
    CHECK_EQUAL(atomic_load(&helper.done), 1);
    gio_thread_join(&thread);
    CHECK_EQUAL(gio_file_close(bench.file), 0); /* could not be closed before; it keeps what it needs of the queue */
    gio_file_free(bench.file);
    pages_free(memory);
    CHECK_EQUAL(remove(bench.path), 0);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void oracle_append(const char *path, const void *from, uint64_t nbytes)
{
    FILE *file = fopen(path, "ab");
    CHECK(file != NULL);
    CHECK_EQUAL(fwrite(from, 1, nbytes, file), nbytes);
    CHECK_EQUAL(fclose(file), 0);
}

/* Space is reserved beyond the end, and the file is as long as what is written, whoever writes. */
static void test_reserve(void)
{
    bench bench = bench_default();
    pages memory = pages_new(256 * KIB);
    int32_t reserved = -1, can_reserve;
    uint64_t end = 4096 + 100001;

    data_fill(memory.at, 256 * KIB, 1, 0);
    CHECK_EQUAL(gio_file_reserve(bench.file, 0, &reserved), 0);
    CHECK_EQUAL(gio_file_reserve(bench.file, 4 * MIB, &reserved), 0);
    CHECK_EQUAL(file_size(&bench), 0);
    can_reserve = reserved;
    if (can_reserve)
        CHECK(platform_allocated_bytes(bench.path) >= 4 * MIB);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0), 4096);
    CHECK_EQUAL(file_size(&bench), 4096);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 100001, 4096, 0), 100001);
    CHECK_EQUAL(file_size(&bench), end);

    /* What somebody else has appended stays: less, as much and more is reserved than there is. */
    oracle_append(bench.path, memory.at + end, 256 * KIB - end);
    CHECK_EQUAL(gio_file_reserve(bench.file, end, &reserved), 0);
    CHECK_EQUAL(gio_file_reserve(bench.file, 256 * KIB, &reserved), 0);
    CHECK_EQUAL(gio_file_reserve(bench.file, 2 * MIB, &reserved), 0);
    CHECK_EQUAL(file_size(&bench), 256 * KIB);
    CHECK_FILE(bench.path, 1, 0, 256 * KIB);

    CHECK_EQUAL(gio_file_resize(bench.file, 0), 0);
    CHECK_EQUAL(gio_file_resize(bench.file, 3 * MIB), 0); /* long, and all of it a hole */
    CHECK_EQUAL(gio_file_reserve(bench.file, 3 * MIB, &reserved), 0);
    CHECK_EQUAL(reserved, can_reserve);
    if (can_reserve)
        CHECK(platform_allocated_bytes(bench.path) >= 3 * MIB);
    CHECK(gio_file_reserve(bench.file, UINT64_C(1) << 61, &reserved) != 0); /* fails, having changed nothing */
    CHECK_EQUAL(file_size(&bench), 3 * MIB);
    pages_free(memory);
    bench_close(&bench);
}

/* Nothing of the file is waited for, or, where that has to be, nothing is done. */
static void test_reserve_in_flight(void)
{
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    int32_t reserved;

    data_fill(memory.at, 64 * KIB, 1, 0);
    uint64_t ticket = hold_one(&bench, memory.at, 64 * KIB, 7);
    int32_t code = gio_file_reserve(bench.file, MIB, &reserved);
    CHECK(code == 0 || (code == GIO_E_TIMEOUT && !reserved));
    release_held(bench.queue);
    CHECK_MOVES(bench.queue, (int64_t)ticket, 64 * KIB);
    CHECK_EQUAL(gio_file_reserve(bench.file, MIB, &reserved), 0);
    CHECK_EQUAL(file_size(&bench), 64 * KIB);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    pages_free(memory);
    bench_close(&bench);
}

/* A write into reserved space fails in the middle. The file ends with what has been written of it (the fault fails a request
 * behind its call), and closing changes nothing of that. */
static void test_reserve_and_fail(void)
{
    for (int32_t direct = GIO_DIRECT_AUTO; direct <= GIO_DIRECT_NO; direct++) {
        bench bench = bench_open(1, 16 * KIB, direct, 0);
        pages memory = pages_new(64 * KIB);
        int32_t reserved;

        data_fill(memory.at, 64 * KIB, 1, 0);
        CHECK_EQUAL(gio_file_reserve(bench.file, MIB, &reserved), 0);
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 2, 1, 5), 0);
        gio_outcome outcome = outcome_of(
            bench.queue, CHECK_TICKET(gio_submit_one(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 0)));
        release_held(bench.queue);
        CHECK_EQUAL(outcome.code, 5);
        CHECK_EQUAL(outcome.in_place, 32 * KIB);
        uint64_t end = file_size(&bench);
        CHECK_EQUAL(end, 48 * KIB);
        gio_file_give_back(bench.file);
        bench_close_file(&bench);
        CHECK_FILE(bench.path, 1, 0, end);
        CHECK_EQUAL(oracle_read(bench.path, end, memory.at, 1), 0);
        CHECK(platform_allocated_bytes(bench.path) < MIB / 2);
        pages_free(memory);
        bench_close(&bench);
    }
}

static void test_open(void)
{
    enum { BOTH = GIO_ACCESS_READ | GIO_ACCESS_WRITE };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_file *file = NULL;
    gio_file_facts facts;
    gio_queue *queue = NULL;
    char missing[512];

    path_of("missing", missing, sizeof missing);
    CHECK(gio_queue_open("no such backend", 4, 4096, &queue) != 0);
    CHECK(gio_queue_open(backend, 0, 4096, &queue) != 0);
    CHECK(gio_queue_open(backend, 4, 0, &queue) != 0);
    CHECK(queue == NULL);

    data_fill(memory.at, 4096, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0), 4096);
    CHECK(gio_file_open(bench.queue, platform_path(bench.path), BOTH, GIO_OPEN_NEW, GIO_DIRECT_AUTO, 0, &file,
                        &facts) != 0);
    CHECK_FILE(bench.path, 1, 0, 4096);
    CHECK(gio_file_open(bench.queue, platform_path(missing), BOTH, GIO_OPEN_EXISTING, GIO_DIRECT_AUTO, 0, &file,
                        &facts) != 0);
    CHECK(gio_file_open(bench.queue, platform_path(folder), GIO_ACCESS_READ, GIO_OPEN_EXISTING, GIO_DIRECT_AUTO, 0,
                        &file, &facts) != 0);
    CHECK(file == NULL && fopen(missing, "rb") == NULL);

    CHECK_EQUAL(gio_file_open(bench.queue, platform_path(missing), BOTH, GIO_OPEN_NEW, GIO_DIRECT_NO, 0, &file, &facts),
                0);
    CHECK_EQUAL(facts.direct, 0);
    CHECK_EQUAL(facts.direct_code, GIO_E_NOT_ASKED);
    CHECK_EQUAL(gio_file_close(file), 0);
    gio_file_free(file);
    CHECK_EQUAL(remove(missing), 0);

    /* Direct or an error; after the error nothing new lies about. */
    int32_t code = gio_file_open(bench.queue, platform_path(missing), BOTH, GIO_OPEN_NEW, GIO_DIRECT_YES, 0, &file,
                                 &facts);
    CHECK_EQUAL(code == 0, bench.facts.direct);
    if (code == 0) {
        CHECK(facts.direct == 1 && facts.offset_alignment != 0 && facts.memory_alignment != 0);
        CHECK_EQUAL(gio_file_close(file), 0);
        gio_file_free(file);
        CHECK_EQUAL(remove(missing), 0);
    } else {
        CHECK_EQUAL(code, bench.facts.direct_code);
        CHECK(fopen(missing, "rb") == NULL);
    }

    /* The wrong direction fails in the operation, and moves nothing. */
    CHECK_EQUAL(gio_file_open(bench.queue, platform_path(bench.path), GIO_ACCESS_READ, GIO_OPEN_EXISTING,
                              GIO_DIRECT_AUTO, 0, &file, &facts),
                0);
    data_fill(memory.at, 4096, 2, 0);
    gio_outcome outcome = outcome_of(bench.queue, CHECK_TICKET(gio_submit_one(file, GIO_WRITE, memory.at, 4096, 0, 0)));
    CHECK(outcome.code != 0 && outcome.in_place == 0);
    CHECK_EQUAL(gio_file_close(file), 0);
    CHECK_EQUAL(gio_submit_one(file, GIO_READ, memory.at, 4096, 0, 0), -(int64_t)GIO_E_CLOSED);
    gio_file_free(file);
    CHECK_FILE(bench.path, 1, 0, 4096);

    CHECK_EQUAL(gio_file_open(bench.queue, platform_path(bench.path), BOTH, GIO_OPEN_TRUNCATE, GIO_DIRECT_AUTO, 0, &file,
                              &facts),
                0);
    CHECK_EQUAL(file_size(&bench), 0); /* the same file, seen through the first one */
    CHECK_EQUAL(gio_file_close(file), 0);
    gio_file_free(file);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- fork ------------------------------------------------------------------------------------------------ */

typedef struct {
    bench *bench;
    uint64_t ticket;
    unsigned char *memory;
    gio_event *event;
} inherited;

/* In the child: exit code 0, or the number of the check that failed. */
static int use_inherited(void *argument)
{
    inherited *have = argument;
    gio_queue *queue = have->bench->queue;
    gio_file *file = have->bench->file, *opened;
    gio_file_facts facts;
    gio_outcome outcome;
    uint64_t number;
    uint32_t count = 9;
    int32_t reserved;

    const int32_t codes[] = {
        gio_submit_one(file, GIO_WRITE, have->memory, 4096, 0, 0) == -(int64_t)GIO_E_FORKED ? GIO_E_FORKED : 0,
        gio_operation_wait(queue, have->ticket, -1, &outcome),
        gio_operation_wait_any(queue, &have->ticket, 1, -1, &number),
        gio_operation_cancel(queue, have->ticket),
        queue_wait(queue, -1),
        gio_queue_collect(queue, 0, NULL, &outcome, 1, &count),
        gio_queue_release(queue, &outcome, 0),
        gio_queue_listen(queue, have->event, 0),
        gio_queue_unlisten(queue, have->event),
        gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0),
        gio_queue_close(queue, -1),
        gio_file_open(queue, platform_path(have->bench->path), GIO_ACCESS_READ, GIO_OPEN_EXISTING, GIO_DIRECT_AUTO, 0,
                      &opened, &facts),
        gio_file_drain(file, -1),
        gio_file_size(file, &number),
        gio_file_resize(file, 0),
        gio_file_reserve(file, MIB, &reserved),
        gio_file_flush(file),
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i] != GIO_E_FORKED)
            return 1 + (int)i;
    gio_queue_stats stats;
    gio_queue_read_stats(queue, &stats); /* cannot fail, and must not wait for a lock that nobody will give back */
    if (gio_queue_poll_handle(queue) != -1 || count != 0)
        return 100;
    if (gio_file_close(file) != 0)
        return 101;
    gio_file_free(file);
    gio_queue_free(queue);
    return 0;
}

static void test_fork(void)
{
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    inherited have = {.bench = &bench, .memory = memory.at};
    gio_thread waiter;
    helper helper = {.queue = bench.queue};

    CHECK_EQUAL(gio_event_create(&have.event), 0);
    data_fill(memory.at, 64 * KIB, 1, 0);
    for (int in_flight = 0; in_flight < 2; in_flight++) { /* with an idle queue, with one that is being waited on */
        if (in_flight) {
            have.ticket = hold_one(&bench, memory.at, 64 * KIB, 0);
            CHECK_EQUAL(gio_thread_start(&waiter, release_later, &helper), 0);
        }
        int result = platform_in_forked_child(use_inherited, &have);
        if (result == -2)
            printf("    no fork here\n");
        else
            CHECK_EQUAL(result, 0);
    }
    gio_thread_join(&waiter);
    CHECK_MOVES(bench.queue, (int64_t)have.ticket, 64 * KIB); /* the parent's go on */
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0), 4096);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    gio_event_free(have.event);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- memory with nothing behind it --------------------------------------------------------------------------- */

/* As that of a mapped file which was cut: to look at it would end this program. The first 64 KiB are nobody's, on both
 * systems. */
static const char *const GONE = (const char *)4096;

static void test_guarded_copies(void)
{
    unsigned char from[3][5000], to[15000], back[3][5000];
    gio_segment segments[3], backwards[3];

    CHECK(gio_copy_is_guarded());
    for (int i = 0; i < 3; i++) {
        data_fill(from[i], sizeof from[i], 1, (uint64_t)i * 5000);
        segments[i] = segment_of(from[i], sizeof from[i]);
        backwards[i] = segment_of(back[i], sizeof back[i]);
    }
    CHECK_EQUAL(gio_copy_guarded(GIO_WRITE, segments, 3, to), 0);
    CHECK_EQUAL(data_compare(to, sizeof to, 1, 0), sizeof to);
    CHECK_EQUAL(gio_copy_guarded(GIO_READ, backwards, 3, to), 0);
    CHECK(memcmp(from, back, sizeof from) == 0);
    CHECK_EQUAL(gio_copy_guarded(GIO_WRITE, segments, 0, to), 0);
    for (int i = 0; i < 3; i++) {
        gio_segment before = segments[i];
        segments[i] = segment_of(GONE, 100);
        for (int32_t direction = GIO_READ; direction <= GIO_WRITE; direction++)
            CHECK(gio_copy_guarded(direction, segments, 3, to) > 0);
        segments[i] = before;
    }
}

/* Staged, with good memory in front: an error, and the queue goes on. */
static void test_gone_memory(void)
{
    static const uint64_t offsets[] = {0, 4096};
    bench bench = bench_open(4, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(16384);
    data_fill(memory.at, 16384, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 16384, 0, 0), 16384);
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++)
        for (int32_t direction = GIO_READ; direction <= GIO_WRITE; direction++)
            for (uint64_t skew = 0; skew < 2; skew++) {
                gio_segment segments[2] = {segment_of(memory.at, 4096),
                                           segment_of(GONE + skew, 4096)};
                uint64_t ticket =
                    CHECK_TICKET(gio_submit(bench.file, direction, segments, 2, offsets[i], GIO_STAGE_ALL, 0));
                gio_outcome outcome = outcome_of(bench.queue, ticket);
                CHECK(outcome.code != 0);
                CHECK(outcome.in_place <= 4096);
            }
    data_fill(memory.at, 16384, 1, 0);
    CHECK_MOVES(bench.queue, gio_submit_one(bench.file, GIO_WRITE, memory.at, 16384, 0, 0), 16384);
    CHECK_FILE(bench.path, 1, 0, 16384);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

static const test_case cases[] = {
    {"system", test_system},
    {"pages", test_pages},
    {"events", test_events},
    {"contiguous", test_contiguous},
    {"scattered", test_scattered},
    {"ragged", test_ragged},
    {"crowded", test_crowded},
    {"staged", test_staged},
    {"staging_not_allowed", test_staging_not_allowed},
    {"end_of_file", test_end_of_file},
    {"far_offsets", test_far_offsets},
    {"absurd_numbers", test_absurd_numbers},
    {"outcomes", test_outcomes},
    {"stale_tickets", test_stale_tickets},
    {"wait_any", test_wait_any},
    {"timeouts", test_timeouts},
    {"woken_by_others", test_woken_by_others},
    {"cancel", test_cancel},
    {"cancel_any_time", test_cancel_any_time},
    {"short_transfers", test_short_transfers},
    {"failures", test_failures},
    {"shortage", test_shortage},
    {"handed_over", test_handed_over},
    {"several_failures", test_several_failures},
    {"stale_completions", test_stale_completions},
    {"listeners", test_listeners},
    {"attended", test_attended},
    {"goes_on_by_itself", test_goes_on_by_itself},
    {"batches", test_batches},
    {"close_in_flight", test_close_in_flight},
    {"close_wakes_waiters", test_close_wakes_waiters},
    {"interrupted", test_interrupted},
    {"reserve", test_reserve},
    {"reserve_in_flight", test_reserve_in_flight},
    {"reserve_and_fail", test_reserve_and_fail},
    {"open", test_open},
    {"fork", test_fork},
    {"guarded_copies", test_guarded_copies},
    {"gone_memory", test_gone_memory},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
