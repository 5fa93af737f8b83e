/* check.h: what the native tests share: checks that stay in a build with -DNDEBUG, self-describing data, and
 * an opened queue and file to try things on. */
#ifndef GATHERIO_TEST_CHECK_H
#define GATHERIO_TEST_CHECK_H

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "platform.h"

/* ---- checks ---------------------------------------------------------------------------------------------- */

#define CHECK(condition) check_true((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(found, expected) \
    check_equal((int64_t)(found), (int64_t)(expected), #found, #expected, __FILE__, __LINE__)

static inline void check_failed(void)
{
    fflush(NULL);
    _Exit(1); /* at once: other threads may be inside the core */
}

static inline void check_true(int holds, const char *text, const char *file, int line)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, text);
    check_failed();
}

static inline void check_equal(int64_t found, int64_t expected, const char *text, const char *expected_text,
                               const char *file, int line)
{
    if (found == expected)
        return;
    fprintf(stderr, "%s:%d: %s is %" PRId64 " (0x%" PRIx64 "), not %s = %" PRId64 " (0x%" PRIx64 ")\n", file, line,
            text, found, (uint64_t)found, expected_text, expected, (uint64_t)expected);
    check_failed();
}

/* ---- time ------------------------------------------------------------------------------------------------ */

/* Longer than anything takes here on a slow machine under a sanitizer. Waits end by themselves long before; one that
 * does not has lost its wake-up. */
static const int64_t LONG_NS = INT64_C(20) * 1000 * 1000 * 1000;
static const int64_t SHORT_NS = 20 * 1000 * 1000;

/* ---- data: each 8-byte word holds its own file offset, mixed with the number of the writer --------------- */

static inline uint64_t data_word(uint64_t writer, uint64_t position) /* of the word that `position` lies in; never 0 */
{
    return (position & ~UINT64_C(7)) ^ writer << 40 ^ UINT64_C(0x5a) << 56;
}

/* How many bytes from `position` on lie in the same word, at most `limit`; `*bytes` gets them. */
static inline uint64_t data_piece(uint64_t writer, uint64_t position, uint64_t limit, unsigned char bytes[8])
{
    uint64_t word = data_word(writer, position), skip = position & 7;
    memcpy(bytes, (unsigned char *)&word + skip, 8 - skip);
    return gio_min(8 - skip, limit);
}

static inline void data_fill(void *memory, uint64_t nbytes, uint64_t writer, uint64_t position)
{
    unsigned char *at = memory, bytes[8];
    for (uint64_t i = 0, take; i < nbytes; i += take) {
        take = data_piece(writer, position + i, nbytes - i, bytes);
        if (take == 8)
            memcpy(at + i, bytes, 8); /* one store */
        else
            memcpy(at + i, bytes, take);
    }
}

/* Where the first wrong byte is; `nbytes` if there is none. */
static inline uint64_t data_compare(const void *memory, uint64_t nbytes, uint64_t writer, uint64_t position)
{
    const unsigned char *at = memory;
    unsigned char bytes[8];
    for (uint64_t i = 0, take; i < nbytes; i += take) {
        take = data_piece(writer, position + i, nbytes - i, bytes);
        if (take == 8 ? memcmp(at + i, bytes, 8) : memcmp(at + i, bytes, take))
            for (uint64_t k = 0;; k++)
                if (at[i + k] != bytes[k])
                    return i + k;
    }
    return nbytes;
}

static inline uint64_t random_next(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- page-aligned memory --------------------------------------------------------------------------------- */

typedef struct {
    unsigned char *at;
    uint64_t allocated;
} pages;

static inline pages pages_new(uint64_t nbytes)
{
    pages made;
    void *address = NULL;
    CHECK_EQUAL(gio_pages_allocate(nbytes, GIO_HUGE_AUTO, &address, &made.allocated), 0);
    made.at = address;
    return made;
}

static inline void pages_free(pages memory) { gio_pages_free(memory.allocated, memory.at); }

static inline gio_segment segment_of(const void *address, uint64_t nbytes)
{
    return (gio_segment){(uint64_t)(uintptr_t)address, nbytes};
}

/* ---- the file, read by the C library alone --------------------------------------------------------------- */

static inline uint64_t oracle_read(const char *path, uint64_t offset, void *to, uint64_t nbytes)
{
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    CHECK_EQUAL(platform_seek(file, offset), 0);
    uint64_t got = fread(to, 1, nbytes, file);
    CHECK_EQUAL(fclose(file), 0);
    return got;
}

static inline void oracle_write(const char *path, const void *from, uint64_t nbytes)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK_EQUAL(fwrite(from, 1, nbytes, file), nbytes);
    CHECK_EQUAL(fclose(file), 0);
}

#define CHECK_FILE(path, writer, offset, nbytes) check_file(path, writer, offset, nbytes, __FILE__, __LINE__)
static inline void check_file(const char *path, uint64_t writer, uint64_t offset, uint64_t nbytes, const char *file,
                              int line)
{
    unsigned char *found = malloc(nbytes + 1);
    CHECK(found != NULL);
    uint64_t got = oracle_read(path, offset, found, nbytes);
    uint64_t good = data_compare(found, got, writer, offset);
    free(found);
    if (got == nbytes && good == nbytes)
        return;
    fprintf(stderr, "%s:%d: %s from %" PRIu64 " on: %" PRIu64 " of %" PRIu64 " bytes read, %" PRIu64 " are right\n",
            file, line, path, offset, got, nbytes, good);
    check_failed();
}

/* ---- operations ------------------------------------------------------------------------------------------ */

/* Waits until it is filled. */
static inline void wait_for(gio_queue *queue, const gio_completion *done)
{
    CHECK_EQUAL(gio_operation_wait(queue, done, LONG_NS), 0);
    CHECK(done->result != GIO_PENDING);
}

#define CHECK_ENDED(queue, done, result, in_place) check_ended(queue, done, result, in_place, __FILE__, __LINE__)
static inline void check_ended(gio_queue *queue, const gio_completion *done, int64_t result, uint64_t in_place,
                               const char *file, int line)
{
    wait_for(queue, done);
    check_equal(done->result, result, "the result", "what was expected", file, line);
    check_equal((int64_t)done->in_place, (int64_t)in_place, "in_place", "what was expected", file, line);
}

/* Of one that was submitted for the completion of a bench, and is waited for. */
#define CHECK_ENDS(bench, submitted, result, in_place)          \
    do {                                                        \
        CHECK_EQUAL(submitted, 0);                              \
        CHECK_ENDED((bench).queue, &(bench).done, result, in_place); \
    } while (0)
#define CHECK_MOVES(bench, submitted, nbytes) CHECK_ENDS(bench, submitted, nbytes, nbytes)

/* Names of operations that have finished, and where they stand. */
enum { NAMES_MAX = 64 };
typedef struct {
    uint64_t names[NAMES_MAX], position;
    uint32_t count;
} finished;

/* Looks, without waiting, at `max` of them at most. */
static inline finished look_at(gio_queue *queue, gio_event *listener, uint32_t max)
{
    finished found;
    memset(&found, 0, sizeof found);
    CHECK(max <= NAMES_MAX);
    CHECK_EQUAL(gio_queue_peek(queue, 0, listener, NULL, found.names, max, &found.count, &found.position), 0);
    CHECK(found.count <= max);
    return found;
}

/* Waits until there is one to look at, and leaves it where it is. */
static inline int32_t queue_wait(gio_queue *queue, int64_t timeout_ns)
{
    uint64_t name, position;
    uint32_t count;
    int32_t code = gio_queue_peek(queue, timeout_ns, NULL, NULL, &name, 1, &count, &position);
    return code == 0 && count == 0 ? GIO_E_TIMEOUT : code;
}

static inline gio_queue_stats stats_of(gio_queue *queue)
{
    gio_queue_stats stats;
    gio_queue_read_stats(queue, &stats);
    return stats;
}

/* The books of a closed queue balance: what went up has come down. */
static inline void check_idle(const gio_queue *queue)
{
    CHECK_EQUAL(queue->live, 0);
    CHECK_EQUAL(queue->backlog.count, 0);
    CHECK_EQUAL(queue->requests_started, 0);
    CHECK_EQUAL(queue->bytes_in_flight, 0);
    CHECK_EQUAL(queue->inside + queue->followers, 0);
    CHECK_EQUAL(queue->stats.operations, queue->stats.finished);
    CHECK_EQUAL(queue->staging.used[GIO_STAGE_LARGE] + queue->staging.used[GIO_STAGE_SMALL], 0);
    CHECK(queue->held == NULL && queue->returned == NULL);
    CHECK_EQUAL(queue->free_operations.count, queue->operation_count);
    CHECK(queue->finished_end - queue->finished_first <= queue->finished_room);
}

/* ---- a program of cases ---------------------------------------------------------------------------------- */

enum { EXIT_SKIPPED = 77 };

static const char *folder, *backend;

typedef struct {
    const char *name;
    void (*run)(void);
} test_case;

/* PROGRAM FOLDER BACKEND [CASE] runs them all, or one; PROGRAM --list tells their names. An exit code of 0 is not
 * believed: a program may have ended early. So each case that has passed is named in a line of its own, and the last
 * line counts them: tests/test_c_core.py compares. Ends with 1 at the first check that fails, and with 77 if the
 * backend cannot be had here. */
static inline int run_cases(int argc, char **argv, const test_case *cases, size_t count)
{
    gio_queue *queue;
    size_t ran = 0;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++)
            printf("%s\n", cases[i].name);
        return 0;
    }
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: %s FOLDER BACKEND [CASE] | --list\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    backend = argv[2];
    int32_t code = gio_queue_open(backend, 4, 4096, &queue);
    if (code) {
        printf("no %s here: code %d\n", backend, (int)code);
        return EXIT_SKIPPED;
    }
    gio_queue_free(queue);
    for (size_t i = 0; i < count; i++) {
        if (argc == 4 && strcmp(argv[3], cases[i].name) != 0)
            continue;
        int64_t begin_ns = gio_now_ns();
        printf("begins: %s\n", cases[i].name);
        fflush(stdout);
        cases[i].run();
        printf("passed: %s (%.3f s)\n", cases[i].name, (double)(gio_now_ns() - begin_ns) / 1e9);
        ran++;
    }
    printf("%zu cases passed\n", ran);
    return ran ? 0 : 2;
}

#endif
