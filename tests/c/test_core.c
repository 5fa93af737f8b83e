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
    gio_completion done; /* for those who have one operation at a time */
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

static void hold_one(bench *bench, const void *memory, uint64_t nbytes, uint64_t user_data, gio_completion *held)
{
    CHECK_EQUAL(gio_queue_fault(bench->queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
    CHECK_EQUAL(gio_submit_one(bench->file, GIO_WRITE, memory, nbytes, 0, user_data, held), 0);
}

static void release_held(gio_queue *queue) { CHECK_EQUAL(gio_queue_fault(queue, GIO_FAULT_NONE, 0, 0, 0), 0); }

/* The kernel has done it, and only the telling is held: before that it might still drop it. */
static void wait_until_held(gio_queue *queue, const gio_completion *completion)
{
    int held;
    do {
        CHECK_EQUAL(gio_operation_wait(queue, completion, SHORT_NS), GIO_E_TIMEOUT);
        gio_mutex_lock(&queue->mutex);
        held = queue->held != NULL;
        gio_mutex_unlock(&queue->mutex);
    } while (!held);
}

#define CHECK_REFUSED(bench, submitted, code)                                    \
    do {                                                                         \
        gio_completion before;                                                   \
        memset(&before, 0x5a, sizeof before);                                    \
        (bench).done = before;                                                   \
        CHECK_EQUAL(submitted, code);                                            \
        CHECK_EQUAL(memcmp(&before, &(bench).done, sizeof before), 0); /* untouched */ \
    } while (0)

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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, out.at, BYTES, 0, 0, &bench.done), BYTES);
    CHECK_EQUAL(file_size(&bench), BYTES);
    CHECK_FILE(bench.path, 1, 0, BYTES);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, in.at, BYTES, 0, 0, &bench.done), BYTES);
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
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, segments, COUNT, 0, GIO_STAGE_NOTHING, 0, &bench.done), BYTES);
    CHECK_FILE(bench.path, 2, 0, BYTES);
    gio_queue_stats stats = stats_of(bench.queue);
    CHECK(stats.gathers >= 3 && stats.writes == 0 && stats.staged == 0);

    for (uint64_t i = 0; i < COUNT; i++) /* back in yet another order: even pages first */
        segments[i] = segment_of(in.at + (i < COUNT / 2 ? 2 * i : 2 * (i - COUNT / 2) + 1) * PAGE, PAGE);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, segments, COUNT, 0, GIO_STAGE_NOTHING, 0, &bench.done), BYTES);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_EQUAL(data_compare((void *)(uintptr_t)segments[i].address, PAGE, 2, i * PAGE), PAGE);
    CHECK(stats_of(bench.queue).scatters >= 3);

    for (uint64_t i = 0, page = 0; i < COUNT; i++) /* neighbours are one run, the empty count for nothing */
        segments[i] = i % 10 == 3 ? segment_of(in.at, 0) : segment_of(out.at + page++ * PAGE, PAGE);
    uint64_t joined = (COUNT - COUNT / 10) * (uint64_t)PAGE;
    data_fill(out.at, joined, 3, 0);
    stats = stats_of(bench.queue);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, segments, COUNT, 0, GIO_STAGE_NOTHING, 0, &bench.done),
                joined);
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
            CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, from, length, offset, 0, &bench.done), length);
            CHECK_EQUAL(file_size(&bench), size); /* ends at the very byte */
            memset(memory.at, 0xee, BYTES);
            CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, from, length, offset, 0, &bench.done), length);
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
    gio_completion done[COUNT];
    uint64_t lengths[COUNT], order[COUNT], offsets[COUNT], state = 42, end = 0, used = 0;

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
        CHECK_EQUAL(
            gio_submit_one(bench.file, GIO_WRITE, memory.at + used, lengths[at], offsets[at], at, &done[at]), 0);
        used += lengths[at];
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_ENDED(bench.queue, &done[i], lengths[i], lengths[i]);
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
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, &whole, 1, 0, GIO_STAGE_ALL, 0, &bench.done), BYTES);
    CHECK_FILE(bench.path, 4, 0, BYTES);
    gio_queue_stats stats = stats_of(bench.queue);
    CHECK(stats.staged != 0 && stats.staged == stats.writes);
    whole = segment_of(in.at, BYTES);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, &whole, 1, 0, GIO_STAGE_ALL, 0, &bench.done), BYTES);
    CHECK_EQUAL(data_compare(in.at, BYTES, 4, 0), BYTES);

    uint64_t nbytes = ROWS * (uint64_t)ROW, offset = 777; /* odd rows apart from each other, odd offset */
    for (uint64_t i = 0; i < ROWS; i++) {
        segments[i] = segment_of(out.at + 8 + i * STEP, ROW);
        data_fill(out.at + 8 + i * STEP, ROW, 5, offset + i * ROW);
    }
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, segments, ROWS, offset, GIO_STAGE_RAGGED, 0, &bench.done),
                nbytes);
    CHECK_FILE(bench.path, 4, 0, offset);
    CHECK_FILE(bench.path, 5, offset, nbytes);
    CHECK_FILE(bench.path, 4, offset + nbytes, BYTES - offset - nbytes);
    memset(in.at, 0xee, BYTES);
    for (uint64_t i = 0; i < ROWS; i++)
        segments[i] = segment_of(in.at + 8 + i * STEP, ROW);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, segments, ROWS, offset, GIO_STAGE_RAGGED, 0, &bench.done),
                nbytes);
    for (uint64_t i = 0; i < ROWS; i++) {
        CHECK_EQUAL(data_compare(in.at + 8 + i * STEP, ROW, 5, offset + i * ROW), ROW);
        CHECK_EQUAL(in.at[8 + i * STEP - 1], 0xee);
        CHECK_EQUAL(in.at[8 + i * STEP + ROW], 0xee);
    }

    gio_completion done[40];
    for (uint64_t i = 0; i < 40; i++) {
        data_fill(out.at + i * 128 * KIB, 128 * KIB, 6, i * 128 * KIB);
        segments[i] = segment_of(out.at + i * 128 * KIB, 128 * KIB);
        CHECK_EQUAL(gio_submit(bench.file, GIO_WRITE, &segments[i], 1, i * 128 * KIB, GIO_STAGE_ALL, i, &done[i]), 0);
    }
    for (uint64_t i = 0; i < 40; i++)
        CHECK_ENDED(bench.queue, &done[i], 128 * KIB, 128 * KIB);
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
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, &even, 1, 0, GIO_STAGE_NOTHING, 0, &bench.done), 16 * KIB);
    int64_t expected = bench.facts.direct ? -(int64_t)GIO_E_ALIGNMENT : 16 * KIB;
    CHECK_ENDS(bench, gio_submit(bench.file, GIO_WRITE, &odd, 1, 32 * KIB, GIO_STAGE_NOTHING, 0, &bench.done), expected,
               bench.facts.direct ? 0 : 16 * KIB);
    CHECK_EQUAL(file_size(&bench), bench.facts.direct ? 16 * KIB : 48 * KIB);
    CHECK_ENDS(bench, gio_submit(bench.file, GIO_READ, &even, 1, 1, GIO_STAGE_NOTHING, 0, &bench.done), expected,
               bench.facts.direct ? 0 : 16 * KIB);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 0, 0, &bench.done), SIZE); /* across */
    CHECK_EQUAL(data_compare(memory.at, SIZE, 1, 0), SIZE);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 8 * KIB, 98304, 0, &bench.done), SIZE - 98304);
    CHECK_EQUAL(data_compare(memory.at, SIZE - 98304, 1, 98304), SIZE - 98304);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 10, SIZE - 3, 0, &bench.done), 3);
    CHECK_EQUAL(data_compare(memory.at, 3, 1, SIZE - 3), 3);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, SIZE, 0, &bench.done), 0); /* at */
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 512 * KIB, 0, &bench.done), 0); /* past */
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 5, UINT64_C(1) << 40, 0, &bench.done), 0);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0, &bench.done), SIZE);
    CHECK_EQUAL(data_compare(memory.at + 128 * KIB, SIZE, 1, 0), SIZE);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, halves, 2, 7, GIO_STAGE_ALL, 0, &bench.done), SIZE - 7);
    CHECK_EQUAL(data_compare(memory.at + 128 * KIB, SIZE - 7, 1, 7), SIZE - 7);

    /* Nothing is read, written or made longer by an operation on nothing. */
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 512 * KIB, 0, &bench.done), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 0, 0, 0, &bench.done), 0);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, NULL, 0, 512 * KIB, GIO_STAGE_NOTHING, 0, &bench.done), 0);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 50001, offset, 0, &bench.done), 50001);
    CHECK_EQUAL(file_size(&bench), offset + 50001);
    CHECK_FILE(bench.path, 1, offset, 50001);
    memset(memory.at, 0, 64 * KIB);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 64 * KIB, offset, 0, &bench.done), 50001);
    CHECK_EQUAL(data_compare(memory.at, 50001, 1, offset), 50001);

    CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 1, UINT64_MAX, 0, &bench.done),
                  gio_code_invalid());
    CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, INT64_MAX - 4095, 0, &bench.done),
                  gio_code_invalid());
    CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_READ, memory.at, UINT64_MAX, 0, 0, &bench.done),
                  gio_code_invalid());
    gio_segment halves[2] = {segment_of(memory.at, UINT64_C(1) << 63), segment_of(memory.at, UINT64_C(1) << 63)};
    /* The sum is no 64-bit number. */
    CHECK_REFUSED(bench, gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0, &bench.done),
                  gio_code_invalid());
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
    int32_t invalid = gio_code_invalid();

    data_fill(memory.at, 64 * KIB, 1, 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 0, &bench.done), 64 * KIB);
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        void *address = NULL;
        uint64_t allocated, id, size;
        int32_t reserved;
        gio_segment one = segment_of(memory.at, 4096), two[2] = {one, segment_of(memory.at, huge[i])};
        uint64_t offsets[2] = {0, huge[i]};

        CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, huge[i], 0, &bench.done), invalid);
        CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_READ, memory.at, huge[i], 1, 0, &bench.done), invalid);
        CHECK_REFUSED(bench, gio_submit(bench.file, GIO_READ, two, 2, 0, GIO_STAGE_RAGGED, 0, &bench.done), invalid);
        CHECK_REFUSED(bench, gio_submit(bench.file, GIO_READ, &one, 1, huge[i], GIO_STAGE_ALL, 0, &bench.done),
                      invalid);
        CHECK_REFUSED(bench, gio_submit_batch(bench.file, GIO_READ, two, offsets, 2, 0, &bench.done), invalid);
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
            CHECK_EQUAL(gio_queue_fault(bench.queue, kind, 0, 1, huge[i]), invalid);
        CHECK_EQUAL(gio_file_size(bench.file, &size), 0);
        CHECK_EQUAL(size, 64 * KIB);
    }
    CHECK_REFUSED(bench, gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_RAGGED, 0, &bench.done), invalid);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    pages_free(memory);
    bench_close(&bench);
}


/* ---- completions, names, waits --------------------------------------------------------------------------- */

static void test_completions(void)
{
    enum { COUNT = 12 };
    bench bench = bench_default();
    pages memory = pages_new(COUNT * 4096);
    gio_completion done[COUNT], before;
    uint64_t seen = 0;

    CHECK_EQUAL(look_at(bench.queue, NULL, NAMES_MAX).count, 0);
    CHECK_EQUAL(queue_wait(bench.queue, 0), GIO_E_TIMEOUT);
    data_fill(memory.at, COUNT * 4096, 1, 0);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_EQUAL(
            gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, 1000 + i, &done[i]), 0);
    CHECK_EQUAL(queue_wait(bench.queue, LONG_NS), 0);
    CHECK_EQUAL(gio_file_drain(bench.file, LONG_NS), 0);
    CHECK_EQUAL(queue_wait(bench.queue, 0), 0); /* they are still there to be told */
    for (uint32_t i = 0; i < COUNT; i++) { /* filled, though nobody has asked for them */
        CHECK_EQUAL(done[i].result, 4096);
        CHECK_EQUAL(done[i].in_place, 4096);
        for (uint32_t other = 0; other < i; other++)
            CHECK(done[i].ticket != done[other].ticket);
    }

    finished told = look_at(bench.queue, NULL, COUNT + 1);
    CHECK_EQUAL(told.count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        seen |= UINT64_C(1) << (told.names[i] - 1000);
    CHECK_EQUAL(seen, (1u << COUNT) - 1);
    finished again = look_at(bench.queue, NULL, COUNT);
    CHECK_EQUAL(memcmp(&told, &again, sizeof told), 0); /* told again, in the same order, up to the same position */

    finished five = look_at(bench.queue, NULL, 5);
    CHECK_EQUAL(five.count, 5);
    CHECK_EQUAL(five.position, told.position - (COUNT - 5));
    CHECK_EQUAL(memcmp(five.names, told.names, 5 * sizeof told.names[0]), 0);
    CHECK_EQUAL(look_at(bench.queue, NULL, 0).count, 0);
    CHECK_EQUAL(gio_queue_seen(bench.queue, look_at(bench.queue, NULL, 0).position), 0); /* nothing was told */
    for (int twice = 0; twice < 2; twice++) {
        CHECK_EQUAL(gio_queue_seen(bench.queue, five.position), 0);
        again = look_at(bench.queue, NULL, 3);
        CHECK_EQUAL(again.count, 3);
        CHECK_EQUAL(memcmp(again.names, told.names + 5, 3 * sizeof told.names[0]), 0);
    }
    CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    CHECK_EQUAL(gio_queue_seen(bench.queue, five.position), 0); /* late: what was seen stays seen */
    CHECK_EQUAL(gio_queue_seen(bench.queue, 0), 0);
    CHECK_EQUAL(look_at(bench.queue, NULL, NAMES_MAX).count, 0);
    CHECK_EQUAL(queue_wait(bench.queue, SHORT_NS), GIO_E_TIMEOUT);

    memcpy(&before, &done[11], sizeof before);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &done[11], 0), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &done[11], -1), 0);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &done[11]), GIO_E_GONE);
    CHECK_EQUAL(memcmp(&before, &done[11], sizeof before), 0);

    CHECK_EQUAL(gio_queue_seen(bench.queue, UINT64_MAX), 0); /* beyond the end: of what comes nothing was seen */
    CHECK_EQUAL(gio_queue_seen(bench.queue, told.position + 1), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, 0, 99, &bench.done), 4096);
    told = look_at(bench.queue, NULL, NAMES_MAX);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(told.names[0], 99);
    CHECK_FILE(bench.path, 1, 0, COUNT * 4096);
    pages_free(memory);
    bench_close(&bench);
}

/* Of those named 0 nothing is told, however they end. */
static void test_without_a_name(void)
{
    bench bench = bench_default();
    pages memory = pages_new(8192);
    gio_segment halves[2] = {segment_of(memory.at, 4096), segment_of(memory.at + 4096, 4096)};
    uint64_t offsets[2] = {4096, 0};
    gio_completion named;

    data_fill(memory.at, 8192, 1, 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 8192, 0, 0, &bench.done), 8192);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 0, 0, &bench.done), 0);
    CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, halves, 2, 0, GIO_STAGE_ALL, 0, &bench.done), 8192);
    CHECK_MOVES(bench, gio_submit_batch(bench.file, GIO_READ, halves, offsets, 2, 0, &bench.done), 8192);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, 1, 5), 0);
    CHECK_ENDS(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), -5, 0);
    release_held(bench.queue);
    CHECK_EQUAL(queue_wait(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_submit_batch(bench.file, GIO_READ, halves, offsets, 2, 5, &named), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 4096, 0, 0, &bench.done), 4096);
    CHECK_ENDED(bench.queue, &named, 8192, 8192);
    finished told = look_at(bench.queue, NULL, NAMES_MAX);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(told.names[0], 5);
    pages_free(memory);
    bench_close(&bench);
}

static uint64_t place_of(const gio_completion *completion) /* in the core */
{
    return completion->ticket & ((UINT64_C(1) << GIO_INDEX_BITS) - 1);
}

/* A completion that is filled stays as it is however often its place in the core is used again, and the places are used
 * again. */
static void test_places_are_used_again(void)
{
    enum { COUNT = 5000 };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_completion first, before, held;

    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1, &first), 0);
    CHECK_ENDED(bench.queue, &first, 4096, 4096);
    memcpy(&before, &first, sizeof before);
    for (int i = 0; i < COUNT; i++) {
        uint64_t ticket = bench.done.ticket;
        CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 0, 0, &bench.done), 0);
        CHECK(bench.done.ticket != ticket && bench.done.ticket != first.ticket);
        CHECK_EQUAL(gio_operation_wait(bench.queue, &first, 0), 0);
        CHECK_EQUAL(gio_operation_cancel(bench.queue, &first), GIO_E_GONE);
    }
    CHECK(bench.queue->operation_count <= 2 * GIO_OPERATIONS_PER_BLOCK); /* memory does not grow with their number */

    /* While its place is somebody else's, cancelling it is not cancelling that one. */
    do
        CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 0, 0, &bench.done), 0);
    while (bench.queue->operations[place_of(&first)] != bench.queue->free_operations.first);
    hold_one(&bench, memory.at, 4096, 2, &held);
    CHECK_EQUAL(place_of(&held), place_of(&first));
    wait_until_held(bench.queue, &held);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &first), GIO_E_GONE);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &first, -1), 0);
    CHECK(!bench.queue->operations[place_of(&first)]->cancelling);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &held, 4096, 4096);
    CHECK_EQUAL(memcmp(&before, &first, sizeof before), 0);

    static const uint64_t strangers[] = {
        0, 1, 63, 64, UINT64_MAX, UINT64_C(1) << 63, (UINT64_C(1) << GIO_INDEX_BITS) - 1};
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
        gio_completion stranger = {.result = i % 2 ? GIO_PENDING : 4096, .ticket = strangers[i]};
        CHECK_EQUAL(gio_operation_cancel(bench.queue, &stranger), GIO_E_GONE);
        CHECK_EQUAL(gio_operation_wait(bench.queue, &stranger, 0), i % 2 ? GIO_E_TIMEOUT : 0);
        CHECK_EQUAL(stranger.ticket, strangers[i]);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* Thousands have finished, and nobody has looked. */
static void test_nobody_looks(void)
{
    enum { COUNT = 5000, LIVE = 1000, AT_ONCE = 40, SEEN = 37 };
    bench bench = bench_open(1, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(4096);
    gio_completion held, *done = malloc((LIVE + 1) * sizeof *done);
    unsigned char told_of[LIVE + 1];
    uint64_t name = 0, next = 0;

    CHECK(done != NULL);
    /* Those on nothing finish as they are submitted: their order is known. Now and then some are seen, so that the ring grows
     * while its beginning lies anywhere in it. */
    while (name < COUNT) {
        for (int i = 0; i < AT_ONCE; i++)
            CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 0, 0, ++name, &bench.done), 0);
        finished told = look_at(bench.queue, NULL, name < COUNT / 2 ? SEEN : 1);
        for (uint32_t i = 0; i < told.count; i++)
            CHECK_EQUAL(told.names[i], ++next);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    }
    CHECK(bench.queue->finished_end - bench.queue->finished_first > COUNT / 3);
    while (next < name) {
        finished told = look_at(bench.queue, NULL, 1 + next % NAMES_MAX);
        CHECK_EQUAL(told.count, gio_min(1 + next % NAMES_MAX, name - next));
        for (uint32_t i = 0; i < told.count; i++)
            CHECK_EQUAL(told.names[i], ++next);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    }
    CHECK_EQUAL(look_at(bench.queue, NULL, 1).count, 0);

    /* A place is kept for each that is still to finish, also for one that is named only later (gio_transfer). */
    uint64_t unseen = bench.queue->finished_room - 2;
    for (uint64_t i = 0; i < unseen; i++)
        CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, 0, 0, ++name, &bench.done), 0);
    memset(told_of, 0, sizeof told_of);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
    held.result = GIO_PENDING;
    CHECK_EQUAL(gio_transfer(bench.file, GIO_WRITE, memory.at, 4096, 0, name + LIVE + 1, 0, &held), GIO_E_TIMEOUT);
    for (uint64_t i = 0; i < LIVE; i++)
        CHECK_EQUAL(
            gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 4096 * (1 + i), name + 1 + i, &done[i]), 0);
    release_held(bench.queue);
    CHECK_EQUAL(gio_file_drain(bench.file, LONG_NS), 0);
    CHECK_EQUAL(bench.queue->finished_end - bench.queue->finished_first, unseen + LIVE + 1);
    while (next < name + LIVE + 1) {
        finished told = look_at(bench.queue, NULL, NAMES_MAX);
        CHECK(told.count != 0);
        for (uint32_t i = 0; i < told.count; i++)
            if (++next <= name)
                CHECK_EQUAL(told.names[i], next);
            else
                CHECK_EQUAL(told_of[told.names[i] - name - 1]++, 0);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    }
    for (uint64_t i = 0; i < LIVE; i++)
        CHECK_ENDED(bench.queue, &done[i], 4096, 4096);
    CHECK_ENDED(bench.queue, &held, 4096, 4096);
    free(done);
    pages_free(memory);
    bench_close(&bench);
}

/* Who waits for any is told of the one that has finished, and not of the other one. */
static void test_wait_for_any(void)
{
    bench bench = bench_default();
    pages memory = pages_new(2 * 4096);
    gio_completion held;

    hold_one(&bench, memory.at, 4096, 7, &held);
    CHECK_EQUAL(queue_wait(bench.queue, 0), GIO_E_TIMEOUT);
    /* The fault takes the next request that comes back, whichever it is: the held one has to have come back. */
    wait_until_held(bench.queue, &held);
    CHECK_EQUAL(queue_wait(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 8, &bench.done), 0);
    for (int twice = 0; twice < 2; twice++) {
        CHECK_EQUAL(queue_wait(bench.queue, LONG_NS), 0);
        finished told = look_at(bench.queue, NULL, NAMES_MAX);
        CHECK_EQUAL(told.count, 1);
        CHECK_EQUAL(told.names[0], twice ? 7 : 8);
        CHECK_EQUAL(twice ? held.result : bench.done.result, 4096);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
        CHECK_EQUAL(queue_wait(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
        release_held(bench.queue);
    }
    pages_free(memory);
    bench_close(&bench);
}

static void test_timeouts(void)
{
    bench bench = bench_default();
    pages memory = pages_new(4096);
    gio_completion held;

    hold_one(&bench, memory.at, 4096, 0, &held);
    for (int64_t timeout_ns = 0; timeout_ns <= SHORT_NS; timeout_ns += SHORT_NS) {
        int64_t begin_ns = gio_now_ns();
        CHECK_EQUAL(gio_operation_wait(bench.queue, &held, timeout_ns), GIO_E_TIMEOUT);
        CHECK_EQUAL(queue_wait(bench.queue, timeout_ns), GIO_E_TIMEOUT);
        CHECK_EQUAL(gio_file_drain(bench.file, timeout_ns), GIO_E_TIMEOUT);
        int64_t took_ns = gio_now_ns() - begin_ns;
        CHECK(took_ns >= 3 * timeout_ns && took_ns < LONG_NS);
    }
    CHECK_EQUAL(held.result, GIO_PENDING);
    CHECK_EQUAL(gio_file_close(bench.file), GIO_E_TIMEOUT); /* and nothing done */
    release_held(bench.queue);
    /* Longer than the clock reaches is for ever, and not "the time is up". */
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, INT64_MAX), 0);
    CHECK_EQUAL(held.result, 4096);
    for (int i = 0; i < 200; i++) {
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 0);
        CHECK_EQUAL(gio_operation_wait(bench.queue, &bench.done, INT64_MAX), 0);
        CHECK_EQUAL(bench.done.result, 4096);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* As if the kernel had a request more, or no longer: who waits then sleeps in the backend, where it can. */
static void pretend_in_flight(gio_queue *queue, int step)
{
    gio_mutex_lock(&queue->mutex);
    queue->requests_started += (uint32_t)step;
    gio_mutex_unlock(&queue->mutex);
}

/* Submitted and waited for with one call. When that breaks off, it is an operation like any other. */
static void test_transfer(void)
{
    enum { TIMED_OUT, CANCELLED, SIGNALLED, WAYS };
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    gio_completion before = {.result = GIO_PENDING}, held;
    int interrupted = 0, can_interrupt = strcmp(backend, "uring") == 0; /* the others wait where no signal reaches */

    data_fill(memory.at, 64 * KIB, 1, 0);
    CHECK_MOVES(bench, gio_transfer(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 1, -1, &bench.done), 64 * KIB);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    CHECK_EQUAL(gio_transfer(bench.file, GIO_READ, memory.at, 4096, 64 * KIB - 100, 2, LONG_NS, &bench.done), 0);
    CHECK_EQUAL(bench.done.result, 100);
    CHECK_EQUAL(gio_transfer(bench.file, GIO_READ, memory.at, 0, 0, 3, 0, &bench.done), 0);
    CHECK_EQUAL(bench.done.result, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, 1, 5), 0);
    CHECK_ENDS(bench, gio_transfer(bench.file, GIO_READ, memory.at, 4096, 0, 4, -1, &bench.done), -5, 0);
    release_held(bench.queue);
    CHECK_EQUAL(look_at(bench.queue, NULL, NAMES_MAX).count, 0); /* nobody but the caller is told */
    bench.done = before;
    CHECK_EQUAL(gio_transfer(bench.file, GIO_READ, memory.at, 4096, UINT64_MAX, 5, -1, &bench.done),
                gio_code_invalid());
    CHECK_EQUAL(memcmp(&before, &bench.done, sizeof before), 0);

    for (int round = 0; round < 3 * WAYS + 30 && (round < 3 * WAYS || (can_interrupt && !interrupted)); round++) {
        int way = round < 3 * WAYS ? round % WAYS : SIGNALLED;
        uint64_t name = 100 + (uint64_t)round;
        int32_t code;
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
        data_fill(memory.at, 64 * KIB, name, 0);
        held = before;
        if (way == SIGNALLED && platform_interrupt_me_after(10)) {
            pretend_in_flight(bench.queue, +1);
            code = gio_transfer(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, name, 10 * SHORT_NS, &held);
            pretend_in_flight(bench.queue, -1);
            CHECK(code == GIO_E_TIMEOUT || (can_interrupt && code == GIO_E_INTERRUPTED));
            interrupted += code == GIO_E_INTERRUPTED;
        } else {
            int64_t timeout_ns = round % 2 ? SHORT_NS : 0;
            code = gio_transfer(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, name, timeout_ns, &held);
            CHECK_EQUAL(code, GIO_E_TIMEOUT);
        }
        wait_until_held(bench.queue, &held);
        CHECK_EQUAL(held.result, GIO_PENDING);
        CHECK_EQUAL(look_at(bench.queue, NULL, NAMES_MAX).count, 0);
        if (way == CANCELLED) /* too late: the kernel has done all of it */
            CHECK_EQUAL(gio_operation_cancel(bench.queue, &held), 0);
        release_held(bench.queue);
        if (way == TIMED_OUT)
            CHECK_EQUAL(queue_wait(bench.queue, LONG_NS), 0);
        CHECK_ENDED(bench.queue, &held, 64 * KIB, 64 * KIB);
        CHECK_FILE(bench.path, name, 0, 64 * KIB);
        finished told = look_at(bench.queue, NULL, NAMES_MAX);
        CHECK_EQUAL(told.count, 1);
        CHECK_EQUAL(told.names[0], name);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
        CHECK_EQUAL(gio_operation_cancel(bench.queue, &held), GIO_E_GONE);
    }
    CHECK_EQUAL(interrupted != 0, can_interrupt);

    /* With no time at all: either it is over by then, or it is told of. */
    bench_close(&bench);
    bench = bench_open(16, 64 * KIB, GIO_DIRECT_NO, 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 0, &bench.done), 64 * KIB);
    for (uint64_t name = 1; name <= 200; name++) {
        bench.done = before;
        int32_t code = gio_transfer(bench.file, GIO_READ, memory.at, 4096, 0, name, 0, &bench.done);
        CHECK(code == GIO_E_TIMEOUT || (code == 0 && bench.done.result == 4096));
        CHECK_EQUAL(queue_wait(bench.queue, code ? LONG_NS : 0), code ? 0 : GIO_E_TIMEOUT);
        finished told = look_at(bench.queue, NULL, NAMES_MAX);
        CHECK_EQUAL(told.count, code ? 1 : 0);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
        CHECK_ENDED(bench.queue, &bench.done, 4096, 4096);
    }

    /* And one that is broken off before all of it has begun. */
    bench_close(&bench);
    bench = bench_open(1, 4096, GIO_DIRECT_AUTO, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
    held = before;
    CHECK_EQUAL(gio_transfer(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 9, SHORT_NS, &held), GIO_E_TIMEOUT);
    wait_until_held(bench.queue, &held);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &held), 0);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &held, -(int64_t)GIO_E_CANCELLED, 4096);
    CHECK_EQUAL(look_at(bench.queue, NULL, NAMES_MAX).names[0], 9);
    pages_free(memory);
    bench_close(&bench);
}

/* A refused submission leaves the completion, and all else, as it was. */
static void test_refused(void)
{
    bench bench = bench_default();
    pages memory = pages_new(8192);
    gio_segment halves[2] = {segment_of(memory.at, 4096), segment_of(memory.at + 4096, 4096)};
    uint64_t offsets[2] = {0, 4096};

    for (int closed = 0; closed < 2; closed++) { /* the file, then the queue as well */
        if (closed)
            CHECK_EQUAL(gio_queue_close(bench.queue, LONG_NS), 0);
        else
            CHECK_EQUAL(gio_file_close(bench.file), 0);
        CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1, &bench.done), GIO_E_CLOSED);
        CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 0, 0, 1, &bench.done), GIO_E_CLOSED);
        CHECK_REFUSED(bench, gio_submit(bench.file, GIO_WRITE, halves, 2, 0, GIO_STAGE_ALL, 1, &bench.done),
                      GIO_E_CLOSED);
        CHECK_REFUSED(bench, gio_submit_batch(bench.file, GIO_WRITE, halves, offsets, 2, 1, &bench.done), GIO_E_CLOSED);
        CHECK_REFUSED(bench, gio_transfer(bench.file, GIO_WRITE, memory.at, 4096, 0, 1, -1, &bench.done), GIO_E_CLOSED);
    }
    CHECK_EQUAL(stats_of(bench.queue).operations, 0);
    CHECK_EQUAL(queue_wait(bench.queue, -1), GIO_E_CLOSED);
    pages_free(memory);
    bench_close(&bench);
}

/* A waiter that sleeps in the kernel on behalf of all is woken when its operation ends in another thread. */
typedef struct {
    gio_queue *queue;
    const gio_completion *completion;
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
    CHECK_EQUAL(gio_operation_cancel(helper->queue, helper->completion), 0);
    return NULL;
}

static void test_woken_by_others(void)
{
    bench bench = bench_open(1, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(8192);
    gio_thread thread;
    gio_completion held, behind;
    helper helper = {.queue = bench.queue, .completion = &behind};

    hold_one(&bench, memory.at, 4096, 0, &held);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 0, &behind), 0);
    CHECK_EQUAL(gio_thread_start(&thread, cancel_later, &helper), 0);
    int64_t begin_ns = gio_now_ns();
    CHECK_EQUAL(gio_operation_wait(bench.queue, &behind, LONG_NS), 0);
    CHECK(gio_now_ns() - begin_ns < LONG_NS / 2);
    CHECK_EQUAL(behind.result, -(int64_t)GIO_E_CANCELLED);
    gio_thread_join(&thread);

    CHECK_EQUAL(gio_thread_start(&thread, release_later, &helper), 0);
    begin_ns = gio_now_ns();
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, LONG_NS), 0);
    CHECK(gio_now_ns() - begin_ns < LONG_NS / 2);
    CHECK_EQUAL(held.result, 4096);
    gio_thread_join(&thread);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- several that look ----------------------------------------------------------------------------------- */

typedef struct {
    gio_queue *queue;
    gio_thread thread;
    int32_t woken, code;
    int64_t took_ns;
    finished told;
    atomic_int done;
} looker;

static void *look_until_woken(void *argument)
{
    looker *me = argument;
    int64_t begin_ns = gio_now_ns();
    me->code = gio_queue_peek(me->queue, LONG_NS, NULL, &me->woken, me->told.names, NAMES_MAX, &me->told.count,
                              &me->told.position);
    me->took_ns = gio_now_ns() - begin_ns;
    atomic_store(&me->done, 1);
    return NULL;
}

static void start_looker(looker *me, gio_queue *queue)
{
    memset(me, 0, sizeof *me);
    me->queue = queue;
    CHECK_EQUAL(gio_thread_start(&me->thread, look_until_woken, me), 0);
}

typedef int (*condition)(const gio_queue *queue);

static int one_is_inside(const gio_queue *queue) { return queue->inside != 0; }
static int one_follows(const gio_queue *queue) { return queue->followers == 1; }
static int two_follow(const gio_queue *queue) { return queue->followers == 2; }
static int three_follow(const gio_queue *queue) { return queue->followers == 3; }
static int three_are_held(const gio_queue *queue)
{
    return queue->held && queue->held->next && queue->held->next->next;
}
static int one_leads(const gio_queue *queue) { return queue->led; }
static int one_leads_two_follow(const gio_queue *queue) { return queue->led && queue->followers == 2; }

/* Under the lock: who has gone to sleep is seen asleep, or at the very last step before. */
static void wait_until_it(gio_queue *queue, condition holds)
{
    int64_t deadline_ns = gio_deadline_ns(LONG_NS);
    for (int held = 0; !held; platform_pause_ms(held ? 0 : 1)) {
        gio_mutex_lock(&queue->mutex);
        held = holds(queue);
        gio_mutex_unlock(&queue->mutex);
        CHECK(gio_now_ns() < deadline_ns);
    }
}

static void check_woken(looker *me)
{
    gio_thread_join(&me->thread);
    CHECK_EQUAL(me->code, 0);
    CHECK_EQUAL(me->told.count, 0);
    CHECK_EQUAL(me->woken, 1);
    CHECK(me->took_ns < LONG_NS / 2); /* or it has looked up because its time was over */
}

static void test_wake(void)
{
    enum { ROUNDS = 300 };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    int sleeps = bench.queue->backend->sleep != NULL;
    looker one, other;
    finished told;

    /* Beforehand: nothing is waited for. Twice is as once. */
    memset(&one, 0, sizeof one);
    for (int twice = 0; twice < 2; twice++) {
        CHECK_EQUAL(gio_queue_wake(bench.queue, &one.woken), 0);
        CHECK_EQUAL(one.woken, 1);
        CHECK_EQUAL(gio_queue_peek(bench.queue, -1, NULL, &one.woken, told.names, 1, &told.count, &told.position), 0);
        CHECK_EQUAL(told.count, 0);
    }

    for (int leads = 0; leads <= sleeps; leads++) { /* asleep on the condition; in the backend */
        pretend_in_flight(bench.queue, leads ? +1 : 0);
        start_looker(&one, bench.queue);
        wait_until_it(bench.queue, leads ? one_leads : one_follows);
        CHECK_EQUAL(gio_queue_wake(bench.queue, &one.woken), 0);
        check_woken(&one);

        /* On its way: wherever it is, it does not miss it. */
        for (int round = 0; round < ROUNDS; round++) {
            start_looker(&one, bench.queue);
            if (round % 3)
                wait_until_it(bench.queue, one_is_inside);
            CHECK_EQUAL(gio_queue_wake(bench.queue, &one.woken), 0);
            check_woken(&one);
        }
        pretend_in_flight(bench.queue, leads ? -1 : 0);
    }

    /* Only the one that is meant. The other one goes on until there is something to tell. */
    start_looker(&one, bench.queue);
    wait_until_it(bench.queue, one_follows);
    start_looker(&other, bench.queue);
    wait_until_it(bench.queue, two_follow);
    CHECK_EQUAL(gio_queue_wake(bench.queue, &one.woken), 0);
    check_woken(&one);
    CHECK_EQUAL(atomic_load(&other.done), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 42, &bench.done), 4096);
    gio_thread_join(&other.thread);
    CHECK_EQUAL(other.code, 0);
    CHECK_EQUAL(other.told.count, 1);
    CHECK_EQUAL(other.told.names[0], 42);

    /* Who is woken is told what there is. */
    CHECK_EQUAL(gio_queue_peek(bench.queue, -1, NULL, &one.woken, told.names, 1, &told.count, &told.position), 0);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    int32_t woken = 0;
    CHECK_EQUAL(gio_queue_peek(bench.queue, SHORT_NS, NULL, &woken, told.names, 1, &told.count, &told.position),
                GIO_E_TIMEOUT);
    CHECK_EQUAL(told.count, 0);
    CHECK_EQUAL(gio_queue_close(bench.queue, LONG_NS), 0);
    CHECK_EQUAL(gio_queue_wake(bench.queue, &woken), 0);
    CHECK_EQUAL(woken, 1);
    pages_free(memory);
    bench_close(&bench);
}

/* Each of those who wait is told all, for nobody has seen it yet. */
static void test_all_are_told(void)
{
    enum { LOOKERS = 3 };
    bench bench = bench_default();
    pages memory = pages_new(4096);
    looker lookers[LOOKERS];
    uint64_t name = 0;

    for (int leads = 0; leads <= (bench.queue->backend->sleep != NULL); leads++) {
        pretend_in_flight(bench.queue, leads ? +1 : 0);
        for (int i = 0; i < LOOKERS; i++)
            start_looker(&lookers[i], bench.queue);
        wait_until_it(bench.queue, leads ? one_leads_two_follow : three_follow);
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_READ, memory.at, 0, 0, ++name, &bench.done), 0);
        CHECK_EQUAL(bench.done.result, 0);
        for (int i = 0; i < LOOKERS; i++) {
            gio_thread_join(&lookers[i].thread);
            CHECK_EQUAL(lookers[i].code, 0);
            CHECK_EQUAL(lookers[i].told.count, 1);
            CHECK_EQUAL(lookers[i].told.names[0], name);
            CHECK_EQUAL(lookers[i].told.position, lookers[0].told.position);
        }
        pretend_in_flight(bench.queue, leads ? -1 : 0);
        for (int i = 0; i < LOOKERS; i++)
            CHECK_EQUAL(gio_queue_seen(bench.queue, lookers[i].told.position), 0);
        CHECK_EQUAL(look_at(bench.queue, NULL, 1).count, 0);
    }
    pages_free(memory);
    bench_close(&bench);
}

enum { NAMED = 3000 };

typedef struct {
    gio_queue *queue;
    gio_thread thread;
    uint32_t max;
    int32_t woken;
    unsigned char told[NAMED + 1];
} reader;

static void *look_and_see(void *argument)
{
    reader *me = argument;
    finished found;
    uint64_t position = 0;

    for (;;) {
        CHECK_EQUAL(gio_queue_peek(me->queue, LONG_NS, NULL, &me->woken, found.names, me->max, &found.count,
                                   &found.position),
                    0);
        if (found.count == 0)
            break;
        CHECK(found.count <= me->max && found.position >= position + found.count);
        position = found.position;
        for (uint32_t i = 0; i < found.count; i++) {
            CHECK(found.names[i] > 0 && found.names[i] <= NAMED);
            CHECK_EQUAL(i == 0 || found.names[i] > found.names[i - 1], 1);
            me->told[found.names[i]] = 1;
        }
        CHECK_EQUAL(gio_queue_seen(me->queue, found.position), 0);
    }
    CHECK_EQUAL(me->woken, 1);
    return NULL;
}

/* Two look, and say what they have seen, as they come: nothing gets lost between them. */
static void test_two_look_and_see(void)
{
    bench bench = bench_default();
    reader *readers = calloc(2, sizeof *readers);

    CHECK(readers != NULL);
    for (uint32_t i = 0; i < 2; i++) {
        readers[i].queue = bench.queue;
        readers[i].max = i ? 5 : NAMES_MAX;
        CHECK_EQUAL(gio_thread_start(&readers[i].thread, look_and_see, &readers[i]), 0);
    }
    for (uint64_t name = 1; name <= NAMED; name++)
        CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, NULL, 0, 0, name, &bench.done), 0);
    for (int i = 0; i < 2; i++) /* they are told the rest before they leave */
        CHECK_EQUAL(gio_queue_wake(bench.queue, &readers[i].woken), 0);
    for (int i = 0; i < 2; i++)
        gio_thread_join(&readers[i].thread);
    for (int name = 1; name <= NAMED; name++)
        CHECK(readers[0].told[name] || readers[1].told[name]);
    CHECK_EQUAL(look_at(bench.queue, NULL, 1).count, 0);
    free(readers);
    bench_close(&bench);
}

/* Transfers with no time at all, while another thread takes in what comes back: each is either over, or told of. */
static void test_transfer_in_company(void)
{
    enum { ROUNDS = 1000 };
    bench bench = bench_open(16, 64 * KIB, GIO_DIRECT_NO, 0);
    pages memory = pages_new(4096);
    reader *reader = calloc(1, sizeof *reader);
    unsigned char goes_on[ROUNDS + 1];

    CHECK(reader != NULL);
    reader->queue = bench.queue;
    reader->max = NAMES_MAX;
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 4096);
    if (bench.queue->backend->sleep)
        pretend_in_flight(bench.queue, +1);
    CHECK_EQUAL(gio_thread_start(&reader->thread, look_and_see, reader), 0);
    for (uint64_t name = 1; name <= ROUNDS; name++) {
        bench.done.result = GIO_PENDING;
        int32_t code = gio_transfer(bench.file, GIO_READ, memory.at, 4096, 0, name, 0, &bench.done);
        CHECK(code == GIO_E_TIMEOUT || (code == 0 && bench.done.result == 4096));
        goes_on[name] = code != 0;
        CHECK_ENDED(bench.queue, &bench.done, 4096, 4096);
    }
    CHECK_EQUAL(gio_queue_wake(bench.queue, &reader->woken), 0);
    gio_thread_join(&reader->thread);
    if (bench.queue->backend->sleep)
        pretend_in_flight(bench.queue, -1);
    for (int name = 1; name <= ROUNDS; name++)
        CHECK_EQUAL(reader->told[name], goes_on[name]);
    free(reader);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- cancelling ------------------------------------------------------------------------------------------ */

static void test_cancel(void)
{
    enum { BYTES = MIB, REQUEST = 64 * KIB };
    bench bench = bench_open(1, REQUEST, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(BYTES);
    gio_completion large, behind, whole;

    data_fill(memory.at, BYTES, 1, 0);
    hold_one(&bench, memory.at, BYTES, 1, &large); /* one request is held, the rest has to wait for it */
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 2 * BYTES, 2, &behind), 0);
    wait_until_held(bench.queue, &large);

    CHECK_EQUAL(gio_operation_cancel(bench.queue, &behind), 0); /* has not begun: ends at once */
    CHECK_EQUAL(behind.result, -(int64_t)GIO_E_CANCELLED);
    CHECK_EQUAL(behind.in_place, 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &behind, 0), 0);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &behind), GIO_E_GONE);
    finished told = look_at(bench.queue, NULL, NAMES_MAX);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(told.names[0], 2);

    CHECK_EQUAL(gio_operation_cancel(bench.queue, &large), 0); /* its first request is under way: stays until then */
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &large), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &large, SHORT_NS), GIO_E_TIMEOUT);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &large, -(int64_t)GIO_E_CANCELLED, REQUEST);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &large), GIO_E_GONE);
    CHECK_EQUAL(file_size(&bench), REQUEST);
    CHECK_FILE(bench.path, 1, 0, REQUEST);

    /* All of it is under way: the result is the full one. */
    hold_one(&bench, memory.at, REQUEST, 3, &whole);
    wait_until_held(bench.queue, &whole);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &whole), 0);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &whole, REQUEST, REQUEST);
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
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), 0);
        int64_t moment_ns = gio_now_ns() + (int64_t)round * 20000;
        while (gio_now_ns() < moment_ns)
            continue;
        int32_t code = gio_operation_cancel(bench.queue, &bench.done);
        CHECK(code == 0 || code == GIO_E_GONE);
        wait_for(bench.queue, &bench.done);
        int64_t result = bench.done.result;
        uint64_t in_place = bench.done.in_place;
        CHECK(result == BYTES ? in_place == BYTES : code == 0 && result == -(int64_t)GIO_E_CANCELLED);
        CHECK(in_place <= BYTES);
        if (in_place)
            CHECK_FILE(bench.path, round, 0, in_place);
        cancelled += result < 0;
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
            CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, segments, count, 0, staging, 0, &bench.done), BYTES);
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
            CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, segments, count, 0, staging, 0, &bench.done), BYTES);
            release_held(bench.queue);
            CHECK(stats_of(bench.queue).resumed > resumed);
            for (uint64_t at = 0, k = 0; k < count; at += segments[k++].length)
                CHECK_EQUAL(data_compare((void *)(uintptr_t)segments[k].address, segments[k].length, writer, at),
                            segments[k].length);
        }

    /* Nothing moves: an error for a write, the end of the file for a read. */
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, 1, 0), 0);
    CHECK_ENDS(bench, gio_submit_one(bench.file, GIO_WRITE, out.at, 4096, 0, 0, &bench.done),
               -(int64_t)GIO_E_NO_PROGRESS, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, 1, 0), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, in.at, 4096, 0, 0, &bench.done), 0);
    /* It moves a little each time, from any byte on. */
    data_fill(out.at, 4096, 77, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_SHORT, 0, UINT64_MAX, 100), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, out.at, 4096, 0, 0, &bench.done), 4096);
    memset(in.at, 0xee, 4096);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, in.at, 4096, 0, 0, &bench.done), 4096);
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
            /* The first bytes are where they belong. */
            CHECK_ENDS(bench, gio_submit_one(bench.file, direction, memory.at, BYTES, 0, after + 1, &bench.done),
                       -FAILURE, after * REQUEST);
            finished told = look_at(bench.queue, NULL, NAMES_MAX);
            CHECK_EQUAL(told.count, 1);
            CHECK_EQUAL(told.names[0], after + 1);
            CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
        }
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), BYTES);

    /* Short, then failed: what the short one moved counts, down to the byte. */
    gio_completion held;
    hold_one(&bench, memory.at, REQUEST, 0, &held);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, SHORT_NS), GIO_E_TIMEOUT);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &held, REQUEST, REQUEST);

    /* What passes by itself is tried again, but not for ever; so is a cancellation that nobody asked for. */
    int32_t transient = 1;
    while (!gio_code_is_transient(transient))
        CHECK(++transient < 4096);
    for (int i = 0; i < 2; i++) {
        int32_t code = i ? gio_code_cancelled() : transient;
        uint64_t retried = stats_of(bench.queue).retried;
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, 7, (uint64_t)code), 0);
        CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), BYTES);
        CHECK_EQUAL(stats_of(bench.queue).retried, retried + 7);
        CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, UINT64_MAX, (uint64_t)code), 0);
        CHECK_ENDS(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done),
                   -(int64_t)code, 0);
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
            CHECK_MOVES(bench, gio_submit(bench.file, GIO_WRITE, from, COUNT, 0, GIO_STAGE_NOTHING, 0, &bench.done),
                        BYTES);
            CHECK_FILE(bench.path, writer, 0, BYTES);
            CHECK_EQUAL(stats_of(bench.queue).retried, times);
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, times, (uint64_t)code), 0);
            CHECK_MOVES(bench, gio_submit(bench.file, GIO_READ, to, COUNT, 0, GIO_STAGE_NOTHING, 0, &bench.done),
                        BYTES);
            for (uint64_t k = 0; k < COUNT; k++)
                CHECK_EQUAL(data_compare((void *)(uintptr_t)to[k].address, PIECE, writer, k * PIECE), PIECE);
            CHECK_EQUAL(stats_of(bench.queue).retried, 2 * times);

            /* For ever: it is told, not tried for ever. */
            CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, UINT64_MAX, (uint64_t)code), 0);
            CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, out.at, BYTES, 0, 0, &bench.done), 0);
            wait_for(bench.queue, &bench.done);
            CHECK_EQUAL(bench.done.result, -(int64_t)code);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), BYTES); /* extends */
    handed_over = stats_of(bench.queue).handed_over;
    CHECK_EQUAL(handed_over, has_issuer ? BYTES / (64 * KIB) : 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_READ, memory.at, BYTES, 0, 0, &bench.done), BYTES);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done),
                BYTES); /* overwrites */
    CHECK_EQUAL(stats_of(bench.queue).handed_over, handed_over + (has_issuer && !bench.facts.direct ? 16 : 0));
    handed_over = stats_of(bench.queue).handed_over;
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 100, 0, 0, &bench.done),
                100); /* through the cache */
    CHECK_EQUAL(stats_of(bench.queue).handed_over, handed_over + (has_issuer ? 1 : 0));
    handed_over = stats_of(bench.queue).handed_over;

    CHECK_EQUAL(gio_file_resize(bench.file, 4096), 0); /* what was cut off and grown again was never written */
    CHECK_EQUAL(gio_file_resize(bench.file, BYTES), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 4096, 4096, 0, &bench.done), 4096);
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
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), 0);
        wait_for(bench.queue, &bench.done);
        CHECK_EQUAL(bench.done.result, -FAILURE);
        CHECK(bench.done.in_place % REQUEST == 0 && bench.done.in_place <= after * REQUEST);
        release_held(bench.queue);
    }
    pages_free(memory);
    bench_close(&bench);
}

/* The request that carries an operation at this moment, or NULL. */
static gio_request *request_of(gio_queue *queue, const gio_completion *completion)
{
    gio_request *found = NULL;
    gio_mutex_lock(&queue->mutex);
    for (uint32_t i = 0; i < queue->depth; i++)
        if (queue->requests[i].operation && queue->requests[i].operation->completion == completion)
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
    gio_completion held;
    int64_t ring = gio_queue_poll_handle(bench.queue);

    if (platform_post_completion(ring, UINT64_MAX, 0) != 0) {
        printf("    no such completions here\n");
        pages_free(memory);
        bench_close(&bench);
        return;
    }
    data_fill(memory.at, 4096, 1, 0);
    /* With one in flight the queue's own thread sleeps between its looks. */
    hold_one(&bench, memory.at, 4096, 1, &held);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, SHORT_NS), GIO_E_TIMEOUT);
    for (int round = 0; round < ROUNDS; round++) {
        gio_batch batch = {NULL};
        CHECK_EQUAL(gio_queue_batch(bench.queue, &batch), 0); /* the kernel does not have it yet */
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 0);
        gio_request *request = request_of(bench.queue, &bench.done);
        if (request) {
            uint64_t index = (uint64_t)(request - bench.queue->requests), sequence = request->sequence;
            for (uint64_t back = 1; back < 3; back++)
                CHECK_EQUAL(platform_post_completion(ring, (sequence - back) << INDEX_BITS | index, -FAILURE), 0);
            CHECK_EQUAL(platform_post_completion(ring, (sequence + 1) << INDEX_BITS | index, -FAILURE), 0);
            CHECK_EQUAL(platform_post_completion(ring, index, -FAILURE), 0);
        }
        gio_batch_end(&batch);
        look_at(bench.queue, NULL, 1);
        CHECK_ENDED(bench.queue, &bench.done, 4096, 4096);
        if (request) /* it is free now: what would be its own comes twice */
            CHECK_EQUAL(platform_post_completion(
                            ring, request->sequence << INDEX_BITS | (uint64_t)(request - bench.queue->requests), 4096),
                        0);
        look_at(bench.queue, NULL, 1);
    }
    CHECK_FILE(bench.path, 1, 0, 4096);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &held, 4096, 4096);
    pages_free(memory);
    bench_close(&bench);
}

/* ---- listeners ------------------------------------------------------------------------------------------- */

static void test_listeners(void)
{
    bench bench = bench_default();
    pages memory = pages_new(8 * 4096);
    gio_completion done[3];
    gio_event *event, *other;
    finished told;

    CHECK_EQUAL(gio_event_create(&event), 0);
    CHECK_EQUAL(gio_event_create(&other), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, event, 0), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, other, 0), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1, &bench.done), 0);
    CHECK_EQUAL(gio_event_wait(event, LONG_NS), 0); /* with nobody waiting on the queue */
    CHECK_EQUAL(gio_event_wait(other, LONG_NS), 0);
    gio_event_clear(event);
    gio_event_clear(other);
    told = look_at(bench.queue, event, 8);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    CHECK_EQUAL(gio_event_wait(event, 0), GIO_E_TIMEOUT);

    /* Whoever has no room for all is not left without a sign of the rest. */
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 3, 0), 0);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, 1 + i, &done[i]), 0);
    wait_until_it(bench.queue, three_are_held);
    release_held(bench.queue);
    for (uint32_t left = 3; left != 0; left--) {
        CHECK_EQUAL(gio_event_wait(event, LONG_NS), 0);
        gio_event_clear(event);
        told = look_at(bench.queue, event, 1);
        CHECK_EQUAL(told.count, 1);
        CHECK_EQUAL(gio_event_wait(event, 0), left == 1 ? GIO_E_TIMEOUT : 0);
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    }
    CHECK_EQUAL(look_at(bench.queue, event, 1).count, 0);

    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    gio_event_clear(event);
    gio_event_clear(other);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 2, &bench.done), 0);
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

/* As an event loop does it: watch the event and the poll handle, never wait in the core; with room for one name. */
static void test_attended(void)
{
    enum { COUNT = 200 };
    bench bench = bench_open(64, 64 * KIB, GIO_DIRECT_AUTO, 0);
    pages memory = pages_new(COUNT * 4096);
    gio_event *event;
    gio_completion done[COUNT];
    uint32_t seen = 0;
    int64_t poll_handle = gio_queue_poll_handle(bench.queue), deadline_ns = gio_deadline_ns(LONG_NS);

    CHECK_EQUAL(gio_event_create(&event), 0);
    CHECK_EQUAL(gio_queue_listen(bench.queue, event, poll_handle >= 0), 0);
    data_fill(memory.at, COUNT * 4096, 1, 0);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, 1 + i, &done[i]), 0);
    while (seen < COUNT) {
        CHECK(gio_now_ns() < deadline_ns);
        int64_t handle = gio_event_handle(event);
        int stirs = handle < 0 ? gio_event_wait(event, SHORT_NS) == 0 : platform_is_readable(handle, 1);
        if (!stirs && !(poll_handle >= 0 && platform_is_readable(poll_handle, 0)))
            continue;
        gio_event_clear(event);
        finished told = look_at(bench.queue, event, 1);
        if (told.count != 0) { /* its name says which: it is filled */
            gio_completion *completion = &done[told.names[0] - 1];
            CHECK_EQUAL(completion->result, 4096);
            memset(completion, 0, sizeof *completion);
        }
        CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
        seen += told.count;
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
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, BYTES, 0, 0, &bench.done), 0);
    while (platform_acquire(&bench.done.result) == GIO_PENDING) { /* only looks */
        CHECK(gio_now_ns() < deadline_ns);
        platform_pause_ms(1);
    }
    CHECK_ENDED(bench.queue, &bench.done, BYTES, BYTES);
    CHECK_FILE(bench.path, 1, 0, BYTES);
    pages_free(memory);
    bench_close(&bench);
}

static void *wait_for_helper(void *argument)
{
    helper *helper = argument;
    CHECK_EQUAL(gio_operation_wait(helper->queue, helper->completion, LONG_NS), 0);
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
    gio_completion held;
    int counts = strcmp(backend, "uring") == 0; /* elsewhere there is nothing to be handed over */

    data_fill(memory.at, 4096, 1, 0);
    hold_one(&bench, memory.at, 4096, 0, &held); /* with one in flight the pump sleeps between its looks */
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, SHORT_NS), GIO_E_TIMEOUT);
    helper helper = {.queue = bench.queue, .completion = &held};
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
            CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 1, &bench.done), 0);
            if (counts && waits) /* who sleeps would not look */
                CHECK(stats_of(bench.queue).submits > before);
            CHECK_ENDED(bench.queue, &bench.done, 4096, 4096);
            gio_batch_end(&batch);
        }
        if (!waits)
            CHECK_EQUAL(gio_queue_unlisten(bench.queue, event), 0);
    }
    release_held(bench.queue);
    gio_thread_join(&thread);
    CHECK_ENDED(bench.queue, &held, 4096, 4096);
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
    gio_completion held, done[16], never = {.result = GIO_PENDING};

    data_fill(memory.at, 64 * KIB, 1, 0);
    hold_one(&bench, memory.at, 64 * KIB, 7, &held);
    CHECK_EQUAL(gio_queue_close(bench.queue, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_queue_close(bench.queue, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), GIO_E_CLOSED);
    CHECK_EQUAL(gio_file_close(bench.file), GIO_E_TIMEOUT);
    release_held(bench.queue);
    CHECK_EQUAL(gio_queue_close(bench.queue, LONG_NS), 0);
    CHECK_EQUAL(gio_queue_close(bench.queue, 0), 0);

    /* Completions and names outlive the closing; nothing else happens any more. */
    CHECK_EQUAL(held.result, 64 * KIB);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &held, -1), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &never, -1), GIO_E_CLOSED);
    CHECK_EQUAL(queue_wait(bench.queue, 0), 0);
    CHECK_EQUAL(queue_wait(bench.queue, -1), 0);
    finished told = look_at(bench.queue, NULL, NAMES_MAX);
    CHECK_EQUAL(told.count, 1);
    CHECK_EQUAL(told.names[0], 7);
    CHECK_EQUAL(gio_queue_seen(bench.queue, told.position), 0);
    CHECK_EQUAL(queue_wait(bench.queue, -1), GIO_E_CLOSED);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &held), GIO_E_GONE);
    CHECK_REFUSED(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), GIO_E_CLOSED);
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
        CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + i * 4096, 4096, i * 4096, i, &done[i]), 0);
    CHECK_EQUAL(gio_queue_close(bench.queue, -1), 0);
    for (uint64_t i = 0; i < 16; i++)
        CHECK_EQUAL(done[i].result, 4096);
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
    gio_completion held;
    helper helper = {.queue = bench.queue};

    hold_one(&bench, memory.at, 4096, 0, &held);
    if (!platform_interrupt_me_after(50)) {
        printf("    no signals here\n");
    } else {
        int32_t code = gio_operation_wait(bench.queue, &held, 300 * (int64_t)1000000);
        CHECK(code == GIO_E_INTERRUPTED || code == GIO_E_TIMEOUT);
        CHECK(platform_interrupt_me_after(50));
        code = gio_queue_close(bench.queue, 300 * (int64_t)1000000);
        CHECK(code == GIO_E_INTERRUPTED || code == GIO_E_TIMEOUT);
        CHECK(platform_interrupt_me_after(30));
    }
    CHECK_EQUAL(gio_thread_start(&thread, release_later, &helper), 0);
    gio_queue_free(bench.queue); /* waits, signal or not */
    CHECK_EQUAL(atomic_load(&helper.done), 1);
    CHECK_EQUAL(held.result, 4096);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 4096);
    CHECK_EQUAL(file_size(&bench), 4096);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at + 4096, 100001, 4096, 0, &bench.done), 100001);
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
    hold_one(&bench, memory.at, 64 * KIB, 7, &bench.done);
    int32_t code = gio_file_reserve(bench.file, MIB, &reserved);
    CHECK(code == 0 || (code == GIO_E_TIMEOUT && !reserved));
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &bench.done, 64 * KIB, 64 * KIB);
    CHECK_EQUAL(gio_file_reserve(bench.file, MIB, &reserved), 0);
    CHECK_EQUAL(file_size(&bench), 64 * KIB);
    CHECK_FILE(bench.path, 1, 0, 64 * KIB);
    pages_free(memory);
    bench_close(&bench);
}

/* Calls as operations, each in its place among the others of the file. */
static void test_calls(void)
{
    bench bench = bench_default();
    pages memory = pages_new(64 * KIB);
    gio_completion first, flush, reserve, resize, last, second_resize, second_flush;
    int32_t reserved;

    data_fill(memory.at, 64 * KIB, 1, 0);
    hold_one(&bench, memory.at, 64 * KIB, 7, &first);
    wait_until_held(bench.queue, &first);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_FLUSH, 0, 8, &flush), 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, MIB, 0, &bench.done), 4096);
    CHECK_EQUAL(flush.result, GIO_PENDING);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESERVE, 2 * MIB, 0, &reserve), 0);
    if (!gio_reserve_is_alone)
        CHECK_ENDED(bench.queue, &reserve, 0, 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESIZE, 4096, 0, &resize), 0);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at + 8192, 4096, 8192, 0, &last), 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESIZE, 1, 0, &second_resize), 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_FLUSH, 0, 0, &second_flush), 0);
    CHECK_EQUAL(gio_file_flush(bench.file), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_file_resize(bench.file, 0), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_file_reserve(bench.file, MIB, &reserved), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &last, SHORT_NS), GIO_E_TIMEOUT);
    CHECK_EQUAL(file_size(&bench), MIB + 4096);

    CHECK_EQUAL(gio_operation_cancel(bench.queue, &second_resize), 0); /* at once, and nobody goes in front because of it */
    CHECK_EQUAL(second_resize.result, -(int64_t)GIO_E_CANCELLED);
    CHECK_EQUAL(last.result, GIO_PENDING);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &first, 64 * KIB, 64 * KIB);
    CHECK_ENDED(bench.queue, &flush, 0, 0);
    CHECK_ENDED(bench.queue, &reserve, 0, 0);
    CHECK_ENDED(bench.queue, &resize, 0, 0);
    CHECK_ENDED(bench.queue, &last, 4096, 4096);
    CHECK_ENDED(bench.queue, &second_flush, 0, 0);
    CHECK_EQUAL(file_size(&bench), 8192 + 4096);
    CHECK_FILE(bench.path, 1, 8192, 4096);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_NONE, 0, 0, &flush), gio_code_invalid());
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESIZE, UINT64_MAX, 0, &flush), gio_code_invalid());

    /* Those between two barriers begin when the first goes, also when it is cancelled. */
    hold_one(&bench, memory.at, 64 * KIB, 7, &first);
    wait_until_held(bench.queue, &first);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESIZE, 0, 0, &resize), 0);
    CHECK_EQUAL(gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, MIB, 0, &last), 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_RESIZE, 1, 0, &second_resize), 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_FLUSH, 0, 0, &flush), 0);
    CHECK_EQUAL(last.result, GIO_PENDING);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &resize), 0);
    CHECK_ENDED(bench.queue, &last, 4096, 4096);
    CHECK_EQUAL(gio_operation_cancel(bench.queue, &flush), 0);
    CHECK_EQUAL(flush.result, -(int64_t)GIO_E_CANCELLED);
    release_held(bench.queue);
    CHECK_ENDED(bench.queue, &second_resize, 0, 0);
    CHECK_EQUAL(file_size(&bench), 1);

    /* A call fails, and is told of its own failure only. */
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_FAIL, 0, 1, 5), 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_FLUSH, 0, 0, &flush), 0);
    CHECK_ENDED(bench.queue, &flush, -5, 0);
    CHECK_EQUAL(gio_submit_call(bench.file, GIO_CALL_FLUSH, 0, 0, &flush), 0);
    CHECK_ENDED(bench.queue, &flush, 0, 0);
    CHECK_EQUAL(gio_file_flush(bench.file), 0);
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
        CHECK_ENDS(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 64 * KIB, 0, 0, &bench.done), -5, 32 * KIB);
        release_held(bench.queue);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 4096);
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
    CHECK_EQUAL(gio_submit_one(file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 0);
    wait_for(bench.queue, &bench.done);
    CHECK(bench.done.result < 0 && bench.done.in_place == 0);
    CHECK_EQUAL(gio_file_close(file), 0);
    CHECK_REFUSED(bench, gio_submit_one(file, GIO_READ, memory.at, 4096, 0, 0, &bench.done), GIO_E_CLOSED);
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
    gio_completion held;
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
    gio_completion done, before;
    uint64_t number;
    uint32_t count = 9;
    int32_t reserved, woken = 0;

    memset(&before, 0x5a, sizeof before);
    done = before;

    const int32_t codes[] = {
        gio_submit_one(file, GIO_WRITE, have->memory, 4096, 0, 1, &done),
        gio_transfer(file, GIO_WRITE, have->memory, 4096, 0, 1, -1, &done),
        gio_operation_wait(queue, &have->held, -1),
        gio_operation_cancel(queue, &have->held),
        queue_wait(queue, -1),
        gio_queue_peek(queue, 0, NULL, NULL, &number, 1, &count, &number),
        gio_queue_seen(queue, 0),
        gio_queue_wake(queue, &woken),
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
    if (gio_queue_poll_handle(queue) != -1 || count != 0 || woken != 0 || memcmp(&done, &before, sizeof done) != 0)
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
            hold_one(&bench, memory.at, 64 * KIB, 0, &have.held);
            CHECK_EQUAL(gio_thread_start(&waiter, release_later, &helper), 0);
        }
        int result = platform_in_forked_child(use_inherited, &have);
        if (result == -2)
            printf("    no fork here\n");
        else
            CHECK_EQUAL(result, 0);
    }
    gio_thread_join(&waiter);
    CHECK_ENDED(bench.queue, &have.held, 64 * KIB, 64 * KIB); /* the parent's go on */
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 4096, 0, 0, &bench.done), 4096);
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
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 16384, 0, 0, &bench.done), 16384);
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++)
        for (int32_t direction = GIO_READ; direction <= GIO_WRITE; direction++)
            for (uint64_t skew = 0; skew < 2; skew++) {
                gio_segment segments[2] = {segment_of(memory.at, 4096),
                                           segment_of(GONE + skew, 4096)};
                CHECK_EQUAL(gio_submit(bench.file, direction, segments, 2, offsets[i], GIO_STAGE_ALL, 0, &bench.done),
                            0);
                wait_for(bench.queue, &bench.done);
                CHECK(bench.done.result < 0);
                CHECK(bench.done.in_place <= 4096);
            }
    data_fill(memory.at, 16384, 1, 0);
    CHECK_MOVES(bench, gio_submit_one(bench.file, GIO_WRITE, memory.at, 16384, 0, 0, &bench.done), 16384);
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
    {"completions", test_completions},
    {"without_a_name", test_without_a_name},
    {"places_are_used_again", test_places_are_used_again},
    {"nobody_looks", test_nobody_looks},
    {"wait_for_any", test_wait_for_any},
    {"timeouts", test_timeouts},
    {"transfer", test_transfer},
    {"refused", test_refused},
    {"woken_by_others", test_woken_by_others},
    {"wake", test_wake},
    {"all_are_told", test_all_are_told},
    {"two_look_and_see", test_two_look_and_see},
    {"transfer_in_company", test_transfer_in_company},
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
    {"calls", test_calls},
    {"reserve_and_fail", test_reserve_and_fail},
    {"open", test_open},
    {"fork", test_fork},
    {"guarded_copies", test_guarded_copies},
    {"gone_memory", test_gone_memory},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
