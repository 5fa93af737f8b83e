/* test_staging.c: the staging buffers of the process, and what goes through them (check.h: run_cases).
 *
 * Linked with --wrap=gio_plan_next, so that plans can be counted.
 */
#include "check.h"

enum { KIB = 1024, MIB = 1024 * 1024, PAGE = 4096 };

static atomic_uint_fast64_t plans;

void __real_gio_plan_next(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                          gio_piece *piece, gio_cursor *after);
void __wrap_gio_plan_next(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                          gio_piece *piece, gio_cursor *after);
void __wrap_gio_plan_next(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                          gio_piece *piece, gio_cursor *after)
{
    atomic_fetch_add(&plans, 1);
    __real_gio_plan_next(operation, limits, segments, piece, after);
}

typedef struct {
    gio_queue *queue;
    gio_file *file;
    char path[512];
} bench;

static bench bench_open(uint64_t number, uint32_t depth)
{
    bench made;
    gio_file_facts facts;
    int written = snprintf(made.path, sizeof made.path, "%s/file%d", folder, (int)number);

    CHECK(written > 0 && (size_t)written < sizeof made.path);
    CHECK_EQUAL(gio_queue_open(backend, depth, 4 * MIB, &made.queue), 0);
    CHECK_EQUAL(gio_file_open(made.queue, platform_path(made.path), GIO_ACCESS_READ | GIO_ACCESS_WRITE,
                              GIO_OPEN_TRUNCATE, GIO_DIRECT_AUTO, 0, &made.file, &facts),
                0);
    return made;
}

static void bench_close(bench *bench)
{
    CHECK_EQUAL(gio_file_drain(bench->file, LONG_NS), 0);
    CHECK_EQUAL(gio_file_close(bench->file), 0);
    gio_file_free(bench->file);
    CHECK_EQUAL(gio_queue_close(bench->queue, LONG_NS), 0);
    check_idle(bench->queue);
    gio_queue_free(bench->queue);
    CHECK_EQUAL(remove(bench->path), 0);
}

/* Far more operations than there are buffers for, each looked at whenever one comes back. */
static void test_each_piece_is_planned_once(void)
{
    enum { BYTES = 4 * MIB, PAGES = BYTES / PAGE, OPERATIONS = 16 };
    bench bench = bench_open(0, OPERATIONS);
    pages memory = pages_new(2 * BYTES);
    gio_segment *segments = malloc(PAGES * sizeof *segments);
    gio_completion *ends = calloc(OPERATIONS, sizeof *ends);

    CHECK(segments != NULL);
    for (uint64_t i = 0; i < PAGES; i++) {
        segments[i] = segment_of(memory.at + 2 * i * PAGE, PAGE);
        data_fill(memory.at + 2 * i * PAGE, PAGE, 1, i * PAGE);
    }
    atomic_store(&plans, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 8, 0), 0); /* all the large buffers of a queue */
    for (uint64_t i = 0; i < OPERATIONS; i++)
        CHECK_EQUAL(gio_submit(bench.file, GIO_WRITE, segments, PAGES, i * BYTES, GIO_STAGE_ALL, 0, &ends[i]), 0);
    CHECK_EQUAL(stats_of(bench.queue).staged, 8);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_NONE, 0, 0, 0), 0);
    for (uint64_t i = 0; i < OPERATIONS; i++)
        CHECK_ENDED(bench.queue, &ends[i], BYTES, BYTES);
    CHECK_EQUAL(stats_of(bench.queue).staged, OPERATIONS * BYTES / GIO_STAGE_BYTES);
    CHECK_EQUAL(atomic_load(&plans), OPERATIONS * BYTES / GIO_STAGE_BYTES);
    unsigned char *found = malloc(BYTES);
    CHECK(found != NULL);
    for (uint64_t i = 0; i < OPERATIONS; i++) {
        CHECK_EQUAL(oracle_read(bench.path, i * BYTES, found, BYTES), BYTES);
        CHECK_EQUAL(data_compare(found, BYTES, 1, 0), BYTES);
    }
    free(found);
    free(ends);
    free(segments);
    pages_free(memory);
    bench_close(&bench);
}

/* A queue that has a buffer of its own under way waits for that one; one that has none is told, and the next one is not. */
static void test_shortage(void)
{
    enum { BYTES = 300 * KIB };
    bench bench = bench_open(0, 8);
    pages memory = pages_new(BYTES);
    gio_segment whole = segment_of(memory.at, BYTES);
    gio_completion ends[2];

    data_fill(memory.at, BYTES, 3, 0);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_HOLD, 0, 1, 0), 0);
    CHECK_EQUAL(gio_submit(bench.file, GIO_WRITE, &whole, 1, 0, GIO_STAGE_ALL, 0, &ends[0]), 0);
    for (int held = 0; !held;) {
        CHECK_EQUAL(gio_operation_wait(bench.queue, &ends[0], SHORT_NS), GIO_E_TIMEOUT);
        gio_mutex_lock(&bench.queue->mutex);
        held = bench.queue->held != NULL;
        gio_mutex_unlock(&bench.queue->mutex);
    }
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_STAGE, 0, UINT64_MAX, (uint64_t)gio_code_no_memory()), 0);
    CHECK_EQUAL(gio_submit(bench.file, GIO_WRITE, &whole, 1, MIB, GIO_STAGE_ALL, 0, &ends[1]), 0);
    CHECK_EQUAL(gio_operation_wait(bench.queue, &ends[1], SHORT_NS), GIO_E_TIMEOUT);
    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_NONE, 0, 0, 0), 0);
    CHECK_ENDED(bench.queue, &ends[0], BYTES, BYTES);
    CHECK_ENDED(bench.queue, &ends[1], BYTES, BYTES);

    CHECK_EQUAL(gio_queue_fault(bench.queue, GIO_FAULT_STAGE, 0, 1, (uint64_t)gio_code_no_memory()), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQUAL(gio_submit(bench.file, GIO_READ, &whole, 1, 0, GIO_STAGE_ALL, 0, &ends[i]), 0);
    CHECK_ENDED(bench.queue, &ends[0], -(int64_t)gio_code_no_memory(), 0);
    CHECK_ENDED(bench.queue, &ends[1], BYTES, BYTES);
    CHECK_EQUAL(data_compare(memory.at, BYTES, 3, 0), BYTES);
    pages_free(memory);
    bench_close(&bench);
}

/* Small, large, in several pieces, ragged; some cancelled; a queue with every round. */
static void *stage_and_close(void *argument)
{
    enum { ROUNDS = 4, LARGEST = 5 * MIB };
    static const uint64_t lengths[] = {100, 5 * KIB, 16 * KIB, 300 * KIB + 1, 2 * MIB, LARGEST - 7};
    uint64_t number = *(uint64_t *)argument, state = number;
    pages out = pages_new(LARGEST + PAGE), in = pages_new(LARGEST + PAGE);

    for (uint64_t round = 0; round < ROUNDS; round++) {
        bench bench = bench_open(number, 8);
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            uint64_t shift = random_next(&state) % PAGE, offset = random_next(&state) % MIB;
            gio_segment from = segment_of(out.at + shift, lengths[i]), to = segment_of(in.at + shift, lengths[i]);
            data_fill(out.at + shift, lengths[i], number, offset);
            gio_completion ends[3];
            CHECK_EQUAL(gio_submit(bench.file, GIO_WRITE, &from, 1, offset, GIO_STAGE_ALL, 0, &ends[0]), 0);
            CHECK_ENDED(bench.queue, &ends[0], (int64_t)lengths[i], lengths[i]);
            for (uint64_t k = 0; k < 3; k++) /* the same bytes to the same place, one after the other */
                CHECK_EQUAL(gio_submit(bench.file, k == 2 ? GIO_READ : GIO_WRITE, k == 2 ? &to : &from, 1, offset,
                                       GIO_STAGE_ALL, 0, &ends[k]),
                            0);
            gio_operation_cancel(bench.queue, &ends[random_next(&state) % 2]);
            for (uint64_t k = 0; k < 3; k++) {
                CHECK_EQUAL(gio_operation_wait(bench.queue, &ends[k], LONG_NS), 0);
                CHECK(ends[k].result >= 0 || (ends[k].result == -(int64_t)GIO_E_CANCELLED && k != 2));
            }
            CHECK_EQUAL(data_compare(in.at + shift, lengths[i], number, offset), lengths[i]);
        }
        bench_close(&bench);
    }
    pages_free(out);
    pages_free(in);
    return NULL;
}

static void test_queues_come_and_go(void)
{
    enum { THREADS = 4 };
    gio_thread threads[THREADS];
    uint64_t numbers[THREADS];

    for (uint64_t i = 0; i < THREADS; i++) {
        numbers[i] = i + 1;
        CHECK_EQUAL(gio_thread_start(&threads[i], stage_and_close, &numbers[i]), 0);
    }
    for (uint64_t i = 0; i < THREADS; i++)
        gio_thread_join(&threads[i]);
    CHECK_EQUAL(gio_staging_allocated(), 0);
}

static const test_case cases[] = {
    {"each_piece_is_planned_once", test_each_piece_is_planned_once},
    {"shortage", test_shortage},
    {"queues_come_and_go", test_queues_come_and_go},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
