/* bare_uring.c: the least that a program in C can do with io_uring: a ring, `depth` requests in flight, nothing else. What
 * gatherio costs beyond this is what gatherio costs.
 *
 *     cc -O2 -o bare_uring bare_uring.c
 *     bare_uring --file F --rw read|write|randread|randwrite --block BYTES --depth N --bytes TOTAL
 *                [--segments N] [--fixed] [--buffered] [--batch N] [--whole]
 *
 * The file has to be there, and as long as TOTAL. --segments makes each request of N separate memory pages, each
 * BYTES / N long; --fixed registers the memory with the kernel beforehand; --batch waits for N completions at a time; with
 * --whole each request has memory of its own, as in one array of TOTAL bytes, and without it `depth` buffers are used over and
 * over. Prints one JSON object. The data is not looked at: for writes, the memory holds zeros.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { SETUP = 425, ENTER = 426, REGISTER = 427, GETEVENTS = 1, REGISTER_BUFFERS = 0 };
enum { READV = 1, WRITEV = 2, READ_FIXED = 4, WRITE_FIXED = 5, READ = 22, WRITE = 23, READV_FIXED = 60, WRITEV_FIXED = 61 };
enum { PAGE = 4096 };

struct sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, operation_flags;
    uint64_t user_data;
    uint16_t buffer_index, personality;
    uint32_t unused_1;
    uint64_t unused_2[2];
};
struct cqe { uint64_t user_data; int32_t result; uint32_t flags; };
struct params {
    uint32_t sq_entries, cq_entries, flags, sq_cpu, sq_idle, features, wq_fd, reserved[3];
    struct { uint32_t head, tail, mask, entries, flags, dropped, array, reserved; uint64_t address; } sq;
    struct { uint32_t head, tail, mask, entries, overflow, cqes, flags, reserved; uint64_t address; } cq;
};

static struct {
    const char *file;
    int writes, random, fixed, buffered, whole;
    uint64_t block, bytes, segments;
    uint32_t depth, batch;
} options = {.block = 1 << 20, .bytes = 1 << 30, .segments = 1, .depth = 8, .batch = 1};

static void fail(const char *what)
{
    fprintf(stderr, "bare_uring: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void usage(void)
{
    fprintf(stderr, "usage: bare_uring --file F --rw read|write|randread|randwrite --block BYTES --depth N --bytes TOTAL "
                    "[--segments N] [--fixed] [--buffered] [--batch N] [--whole]\n");
    exit(2);
}

static void parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--fixed") == 0) { options.fixed = 1; continue; }
        if (strcmp(name, "--buffered") == 0) { options.buffered = 1; continue; }
        if (strcmp(name, "--whole") == 0) { options.whole = 1; continue; }
        if (++i == argc)
            usage();
        if (strcmp(name, "--file") == 0) options.file = argv[i];
        else if (strcmp(name, "--rw") == 0) {
            options.random = strncmp(argv[i], "rand", 4) == 0;
            options.writes = strcmp(argv[i] + 4 * options.random, "write") == 0;
        }
        else if (strcmp(name, "--block") == 0) options.block = strtoull(argv[i], NULL, 10);
        else if (strcmp(name, "--bytes") == 0) options.bytes = strtoull(argv[i], NULL, 10);
        else if (strcmp(name, "--segments") == 0) options.segments = strtoull(argv[i], NULL, 10);
        else if (strcmp(name, "--depth") == 0) options.depth = (uint32_t)strtoul(argv[i], NULL, 10);
        else if (strcmp(name, "--batch") == 0) options.batch = (uint32_t)strtoul(argv[i], NULL, 10);
        else usage();
    }
    if (!options.file || !options.depth || !options.block || options.block % options.segments || options.bytes < options.block)
        usage();
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint64_t random_next(void) /* splitmix64 */
{
    static uint64_t state = 1;
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    int fd = open(options.file, (options.writes ? O_WRONLY : O_RDONLY) | (options.buffered ? 0 : O_DIRECT));
    if (fd < 0)
        fail(options.file);

    struct params params;
    memset(&params, 0, sizeof params);
    int ring = (int)syscall(SETUP, options.depth, &params);
    if (ring < 0)
        fail("io_uring_setup");
    size_t ring_bytes = params.sq.array + params.sq_entries * 4;
    if (ring_bytes < params.cq.cqes + params.cq_entries * sizeof(struct cqe))
        ring_bytes = params.cq.cqes + params.cq_entries * sizeof(struct cqe);
    char *rings = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, 0);
    struct sqe *sqes = mmap(NULL, params.sq_entries * sizeof(struct sqe), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_POPULATE, ring, 0x10000000);
    if (rings == MAP_FAILED || sqes == MAP_FAILED)
        fail("mmap of the rings");
    uint32_t *sq_tail = (uint32_t *)(rings + params.sq.tail), *array = (uint32_t *)(rings + params.sq.array);
    uint32_t *cq_head = (uint32_t *)(rings + params.cq.head), *cq_tail = (uint32_t *)(rings + params.cq.tail);
    uint32_t sq_mask = *(uint32_t *)(rings + params.sq.mask), cq_mask = *(uint32_t *)(rings + params.cq.mask);
    struct cqe *cqes = (struct cqe *)(rings + params.cq.cqes);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i;

    /* Segments lie in separate pages in both directions of sorting: slot by slot, every other page, last first. */
    uint64_t spread = options.segments > 1 ? 2 : 1, slot_bytes = options.block * spread;
    uint64_t total = options.bytes / options.block, started = 0, finished = 0;
    uint64_t slots = options.whole ? total : options.depth;
    uint64_t memory_bytes = (slots * slot_bytes + (2 << 20) - 1) >> 21 << 21;
    char *memory = mmap(NULL, memory_bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap of the buffers");
    memory = (char *)(((uintptr_t)memory + (2 << 20) - 1) >> 21 << 21);
    madvise(memory, memory_bytes, MADV_HUGEPAGE);
    memset(memory, 0, memory_bytes);
    struct iovec whole = {memory, memory_bytes};
    if (options.fixed && syscall(REGISTER, ring, REGISTER_BUFFERS, &whole, 1) < 0)
        fail("registering the buffers");
    uint64_t part = options.block / options.segments;
    struct iovec *vectors = calloc(slots * options.segments, sizeof *vectors);
    for (uint64_t i = 0; i < slots; i++)
        for (uint64_t k = 0; k < options.segments; k++)
            vectors[i * options.segments + k] =
                (struct iovec){memory + i * slot_bytes + (options.segments - 1 - k) * spread * part, part};

    uint32_t *free_slots = malloc(options.depth * sizeof *free_slots), free_count = options.depth;
    for (uint32_t i = 0; i < options.depth; i++)
        free_slots[i] = options.depth - 1 - i;
    static const uint8_t opcodes[2][2][2] = {{{READ, WRITE}, {READV, WRITEV}}, {{READ_FIXED, WRITE_FIXED}, {READV_FIXED, WRITEV_FIXED}}};
    uint8_t opcode = opcodes[options.fixed][options.segments > 1][options.writes];

    double begin = seconds(CLOCK_MONOTONIC), cpu = cpu_seconds();
    while (finished < total) {
        uint32_t tail = *sq_tail, submit = 0;
        for (; free_count && started < total; started++, submit++, tail++) {
            uint64_t user_data = free_slots[--free_count], slot = options.whole ? started : user_data;
            struct sqe *sqe = &sqes[tail & sq_mask];
            memset(sqe, 0, sizeof *sqe);
            sqe->opcode = opcode;
            sqe->fd = fd;
            sqe->offset = (options.random ? random_next() % total : started) * options.block;
            sqe->address = options.segments > 1 ? (uintptr_t)&vectors[slot * options.segments] : (uintptr_t)(memory + slot * slot_bytes);
            sqe->length = (uint32_t)(options.segments > 1 ? options.segments : options.block);
            sqe->user_data = user_data;
        }
        __atomic_store_n(sq_tail, tail, __ATOMIC_RELEASE);
        uint32_t in_flight = options.depth - free_count, wait = options.batch < in_flight ? options.batch : in_flight;
        if (syscall(ENTER, ring, submit, wait, GETEVENTS, NULL, 0) < 0 && errno != EINTR)
            fail("io_uring_enter");
        uint32_t head = *cq_head, ready = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE);
        for (; head != ready; head++, finished++) {
            struct cqe *cqe = &cqes[head & cq_mask];
            if (cqe->result != (int32_t)options.block) {
                errno = cqe->result < 0 ? -cqe->result : EIO;
                fail("a transfer");
            }
            free_slots[free_count++] = (uint32_t)cqe->user_data;
        }
        __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
    }
    double elapsed = seconds(CLOCK_MONOTONIC) - begin;
    cpu = cpu_seconds() - cpu;
    printf("{\"bytes\": %llu, \"operations\": %llu, \"seconds\": %.6f, \"cpu_s\": %.6f}\n",
           (unsigned long long)(total * options.block), (unsigned long long)total, elapsed, cpu);
    return 0;
}
