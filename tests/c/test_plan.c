/* test_plan.c: random plans, and what holds for each of them (check.h: run_cases). Made for the sanitizers of addresses
 * and of undefined behaviour: every array is as long as it has to be and no longer.
 *
 * What is right is found out here a second time, and more simply: a walk over the segments that knows nothing of
 * requests, and, where the memory is real, the plan carried out on a file of plain bytes.
 *
 * Plan i is made from SEED + i alone. A failure names it; where a sanitizer ends the program, the last line says where
 * the thousand begins that it is one of. */
#include "check.h"

enum { PLANS = 260000, CARRIED_OUT = 40000, KIB = 1024, PAGE = 4096, SEGMENTS_MAX = 1100, PIECES_MAX = 48 };
enum { ARENA = 256 * KIB, MODEL = 512 * KIB };
#define SEED UINT64_C(20260)
#define LAST ((uint64_t)INT64_MAX) /* no file reaches further */

typedef struct {
    uint64_t number, state; /* of the plan; of what is random */
    gio_operation operation;
    gio_limits limits;
    gio_segment *segments;
    uint64_t *offsets; /* of a batch; else NULL */
} subject;

static subject now; /* for messages */

#define HOLDS(condition) holds((condition) != 0, #condition, __LINE__)
static void holds(int condition, const char *text, int line)
{
    const gio_operation *operation = &now.operation;
    if (condition)
        return;
    fprintf(stderr,
            "%s:%d: does not hold for plan %" PRIu64 " of seed %" PRIu64 ": %s\n"
            "(direction %d, staging %d, %" PRIu64 " segments, offset %" PRIu64 ", length %" PRIu64 ", planned %" PRIu64
            ")\n",
            __FILE__, line, now.number, SEED, text, (int)operation->direction, (int)operation->staging,
            operation->segment_count, operation->offset, operation->length, operation->planned);
    check_failed();
}

/* ---- what is random -------------------------------------------------------------------------------------- */

static uint64_t below(uint64_t bound) { return random_next(&now.state) % bound; }
static int one_in(uint64_t n) { return below(n) == 0; }
static uint64_t power_of_two(unsigned largest) { return UINT64_C(1) << below(largest + 1); }
static uint64_t some_bits(void) { return random_next(&now.state) >> below(64); } /* each size as often as another */

static void *exactly(uint64_t count, size_t bytes) /* so that one more is seen */
{
    void *made = malloc(count ? (size_t)count * bytes : 1);
    CHECK(made != NULL);
    return made;
}

static void choose_limits(int is_small)
{
    gio_limits *limits = &now.limits;
    int is_buffered = one_in(5);
    uint64_t block = is_buffered ? 1 : is_small ? UINT64_C(512) << below(4) : power_of_two(21);

    limits->offset_alignment = block;
    limits->memory_alignment = is_buffered ? 1 : is_small ? power_of_two(12) : power_of_two(21);
    limits->ragged_bytes = gio_round_up(gio_max(PAGE, UINT64_C(1024) << below(7)), block);
    limits->request_bytes = gio_max(gio_round_down(is_small ? below(64 * KIB) : some_bits() >> 1, block), block);
    limits->stage_bytes = gio_max(gio_round_down(one_in(3) ? GIO_STAGE_BYTES : below(GIO_STAGE_BYTES), block), block);
    limits->max_segments = 1 + below(one_in(2) ? 1024 : 8);
    limits->buffered_segments = 1 + below(one_in(2) ? 1024 : 8);
    limits->segment_unit = one_in(2) ? 1 : PAGE;
    limits->direct_bytes_min = one_in(2) ? 0 : some_bits() >> below(40);
}

static uint64_t a_length(void)
{
    switch (below(8)) {
    case 0: return below(2);
    case 1: return PAGE - 1 + below(3);
    case 2: return now.limits.offset_alignment * below(4);
    case 3: return now.limits.offset_alignment * (1 + below(40));
    case 4: return 60 * KIB + below(300 * KIB);
    case 5: return one_in(4) ? some_bits() >> 1 : 512;
    default: return below(3 * PAGE);
    }
}

static uint64_t an_address(uint64_t behind)
{
    switch (below(6)) {
    case 0: return behind; /* neighbours */
    case 1: return random_next(&now.state);
    case 2: return UINT64_MAX - below(3 * PAGE); /* it ends where the numbers end, or goes round */
    case 3: return gio_round_down(random_next(&now.state), now.limits.memory_alignment);
    default: return gio_round_up(gio_min(behind, UINT64_MAX >> 1), gio_max(PAGE, now.limits.memory_alignment)) +
                    PAGE * below(3);
    }
}

static uint64_t an_offset(void)
{
    switch (below(5)) {
    case 0: return 0;
    case 1: return gio_min(now.limits.offset_alignment * below(100), LAST);
    case 2: return LAST - below(3 * PAGE);
    case 3: return some_bits() >> 1;
    default: return below(5 * PAGE);
    }
}

static void choose_operation(uint64_t count)
{
    gio_operation *operation = &now.operation;

    memset(operation, 0, sizeof *operation);
    operation->direction = one_in(2) ? GIO_READ : GIO_WRITE;
    operation->staging = (int32_t)below(3);
    operation->segments = now.segments;
    operation->segment_count = count;
}

/* Addresses with nothing behind them: only the numbers count. */
static void choose_numbers(void)
{
    uint64_t count = one_in(50) ? below(SEGMENTS_MAX + 1) : below(12), behind = random_next(&now.state);

    choose_limits(0);
    now.segments = exactly(count, sizeof *now.segments);
    choose_operation(count);
    for (uint64_t i = 0; i < count; i++) {
        now.segments[i].address = an_address(behind);
        now.segments[i].length = count > 12 ? gio_min(a_length(), PAGE) : a_length();
        behind = now.segments[i].address + now.segments[i].length;
    }
    now.operation.offset = an_offset();
}

/* ---- the segments, walked a second time ------------------------------------------------------------------- */

typedef struct {
    uint64_t index, within;
} place;

/* The next bytes that lie together in memory, at most `limit`. */
static gio_segment walk(place *at, uint64_t limit)
{
    gio_segment run = {0, 0};
    for (; at->index < now.operation.segment_count && run.length < limit; at->index++, at->within = 0) {
        gio_segment here = now.segments[at->index];
        here.address += at->within;
        here.length -= at->within;
        if (here.length == 0)
            continue;
        if (run.length == 0)
            run.address = here.address;
        else if (here.address != run.address + run.length)
            break;
        if (here.length > limit - run.length) {
            at->within += limit - run.length;
            run.length = limit;
            break;
        }
        run.length += here.length;
    }
    return run;
}

/* The segments of a piece are the bytes behind those of the one before it: all of them, once, in their order. */
static void check_segments(const gio_piece *piece, const gio_segment *found, place *at)
{
    uint64_t left = piece->end - piece->begin, count = 0;
    for (; left != 0; count++) {
        gio_segment expected = walk(at, left);
        left -= expected.length;
        if (piece->route == GIO_STAGED)
            continue;
        HOLDS(count < piece->segment_count);
        HOLDS(found[count].address == expected.address && found[count].length == expected.length);
    }
    HOLDS(piece->segment_count == (piece->route == GIO_STAGED ? 1 : count));
}

static void check_in_place(const gio_piece *piece, const gio_segment *found)
{
    const gio_limits *limits = &now.limits;

    HOLDS(now.operation.staging != GIO_STAGE_ALL);
    HOLDS(piece->file_offset % limits->offset_alignment == 0);
    HOLDS(piece->segment_count <= limits->max_segments);
    for (uint64_t i = 0; i < piece->segment_count; i++) {
        HOLDS(found[i].address % limits->memory_alignment == 0);
        HOLDS(found[i].length % limits->offset_alignment == 0);
        HOLDS(piece->segment_count == 1 || found[i].length % limits->segment_unit == 0);
    }
}

static void check_staged(const gio_piece *piece)
{
    uint64_t block = now.limits.offset_alignment;
    uint64_t tail = piece->file_length - piece->head - (piece->end - piece->begin);

    HOLDS(now.operation.staging != GIO_STAGE_NOTHING);
    HOLDS(piece->file_offset % block == 0 && piece->file_length % block == 0);
    HOLDS(piece->file_length <= now.limits.stage_bytes);
    HOLDS(piece->head < block && tail < block);
    if (now.operation.direction == GIO_WRITE) /* neither others' bytes nor old ones */
        HOLDS(piece->head == 0 && tail == 0);
}

static void check_piece(const gio_piece *piece, const gio_segment *found, uint64_t offset, place *at)
{
    const gio_operation *operation = &now.operation;

    HOLDS(piece->begin == operation->planned && piece->begin < piece->end && piece->end <= operation->length);
    HOLDS(piece->file_offset + piece->head == offset && offset + (piece->end - piece->begin) <= LAST);
    check_segments(piece, found, at);
    if (piece->route == GIO_STAGED) {
        check_staged(piece);
        return;
    }
    HOLDS(piece->head == 0 && piece->file_length == piece->end - piece->begin);
    HOLDS(piece->file_length <= now.limits.request_bytes);
    if (piece->route == GIO_IN_PLACE) {
        check_in_place(piece, found);
    } else {
        HOLDS(piece->route == GIO_RAGGED && operation->direction == GIO_WRITE);
        HOLDS(piece->segment_count <= now.limits.buffered_segments);
    }
}

/* There was no way: the bytes that are next cannot go from where they stand, and nothing may be staged. */
static void check_refusal(const gio_piece *piece, uint64_t offset, place at)
{
    gio_segment next = walk(&at, now.operation.length - now.operation.planned);
    HOLDS(piece->code == GIO_E_ALIGNMENT && now.operation.staging == GIO_STAGE_NOTHING);
    HOLDS(offset % now.limits.offset_alignment != 0 || next.address % now.limits.memory_alignment != 0 ||
          next.length < now.limits.offset_alignment);
}

/* Where in the file the next byte belongs. */
static uint64_t offset_at(const place *at)
{
    place next = *at;
    if (now.offsets == NULL)
        return now.operation.offset + now.operation.planned;
    while (next.index < now.operation.segment_count && now.segments[next.index].length - next.within == 0)
        next = (place){next.index + 1, 0};
    return now.offsets[next.index] + next.within;
}

/* Plans as submitting does, piece by piece, and hands each one to `carry_out`. How many there were. */
static uint64_t check_plan(void (*carry_out)(const gio_piece *, const gio_segment *, gio_cursor))
{
    gio_operation *operation = &now.operation;
    uint64_t most = gio_max(now.limits.max_segments, now.limits.buffered_segments), pieces = 0;
    gio_segment *found = exactly(most, sizeof *found);
    place at = {0, 0};

    for (; operation->planned < operation->length && pieces < PIECES_MAX; pieces++) {
        uint64_t offset = offset_at(&at);
        gio_cursor before = operation->cursor, after;
        gio_piece piece;
        gio_plan_next(operation, &now.limits, found, &piece, &after);
        if (piece.code) {
            check_refusal(&piece, offset, at);
            break;
        }
        check_piece(&piece, found, offset, &at);
        if (carry_out)
            carry_out(&piece, found, before);
        operation->cursor = after;
        operation->planned = piece.end;
    }
    free(found);
    return pieces;
}

/* gio_plan tells the same, or says what is wrong with the numbers. */
static void check_whole_plan(void)
{
    gio_operation *operation = &now.operation;
    uint64_t room = below(PIECES_MAX), planned = 77, length = 0;
    gio_piece *pieces = exactly(room, sizeof *pieces), again;
    gio_limits limits = now.limits;

    int32_t code = gio_plan(operation->direction, now.segments, operation->segment_count, operation->offset,
                            operation->staging, &limits, pieces, room, &planned);
    for (uint64_t i = 0; i < operation->segment_count && length <= LAST; i++)
        length = now.segments[i].length > LAST - length ? LAST + 1 : length + now.segments[i].length;
    if (length > LAST || operation->offset > LAST - length) {
        HOLDS(code == gio_code_invalid());
        operation->length = 0;
    } else {
        gio_segment *found = exactly(1024, sizeof *found);
        HOLDS(planned <= room && (code == 0 || code == GIO_E_ALIGNMENT));
        operation->length = length;
        for (uint64_t i = 0; i < planned; i++) {
            gio_plan_next(operation, &limits, found, &again, &operation->cursor);
            operation->planned = again.end;
            HOLDS(memcmp(&again, &pieces[i], sizeof again) == 0);
        }
        HOLDS(code != 0 || planned == room || operation->planned == length);
        operation->planned = 0;
        operation->cursor = (gio_cursor){0, 0};
        free(found);
    }
    free(pieces);
}

/* ---- carried out ------------------------------------------------------------------------------------------ */

static unsigned char arena[ARENA], arena_before[ARENA];   /* the memory */
static unsigned char model[MODEL], model_before[MODEL]; /* the file, from `model_begin` on */
static uint64_t model_begin;

static void transfer(uint64_t file_offset, void *memory, uint64_t nbytes)
{
    HOLDS(file_offset >= model_begin && file_offset - model_begin + nbytes <= MODEL);
    unsigned char *place = model + (file_offset - model_begin);
    memcpy(now.operation.direction == GIO_WRITE ? place : memory, now.operation.direction == GIO_WRITE ? memory : place,
           (size_t)nbytes);
}

static void carry_out(const gio_piece *piece, const gio_segment *segments, gio_cursor cursor)
{
    uint64_t position = piece->file_offset;

    for (uint64_t i = 0; i < piece->segment_count && piece->route != GIO_STAGED; position += segments[i].length, i++)
        transfer(position, (void *)(uintptr_t)segments[i].address, segments[i].length);
    if (piece->route != GIO_STAGED)
        return;
    unsigned char *stage = exactly(piece->file_length, 1);
    memset(stage, 0x5e, (size_t)piece->file_length); /* what somebody else had in it */
    if (now.operation.direction == GIO_WRITE)
        HOLDS(gio_copy_from_segments(&now.operation, cursor, stage, piece->end - piece->begin) == 0);
    transfer(piece->file_offset, stage, piece->file_length);
    if (now.operation.direction == GIO_READ)
        HOLDS(gio_copy_to_segments(&now.operation, cursor, stage + piece->head, piece->end - piece->begin) == 0);
    free(stage);
}

/* Disjoint segments in the arena, in any order, with gaps and without. */
static void choose_memory(void)
{
    uint64_t count = one_in(4) ? below(150) : below(9); /* more than are copied together */
    uint64_t at = below(3) * 512, step = 1 + below(count < 9 ? 9000 : 400);
    uint64_t unit = one_in(3) ? 1 : 512;

    choose_limits(1);
    now.segments = exactly(count, sizeof *now.segments);
    choose_operation(count);
    now.operation.anonymous = !one_in(8);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t length = one_in(8) ? 0 : gio_max(gio_round_down(below(step), unit), 1);
        now.segments[i] = segment_of(arena + at, length);
        now.operation.length += length;
        at += length + (one_in(2) ? 0 : below(unit == 1 ? 100 : 3) * unit);
    }
    for (uint64_t i = count; i-- > 1 && one_in(2);) {
        uint64_t other = below(i + 1);
        gio_segment moved = now.segments[i];
        now.segments[i] = now.segments[other];
        now.segments[other] = moved;
    }
    HOLDS(at <= ARENA);
    now.operation.offset = one_in(4) ? LAST - MODEL - below(9) * 512 : below(8) * 512 + below(2) * below(512);
    model_begin = gio_round_down(now.operation.offset, PAGE);
}

/* Some of the segments have places of their own in the file, one behind another with gaps. */
static void choose_places(void)
{
    uint64_t at = now.operation.offset;

    now.offsets = exactly(now.operation.segment_count, sizeof *now.offsets);
    now.operation.offsets = now.offsets;
    now.operation.staging = GIO_STAGE_RAGGED;
    now.operation.offset = 0;
    for (uint64_t i = 0; i < now.operation.segment_count; i++) {
        now.offsets[i] = at;
        at += now.segments[i].length + below(3) * 100;
    }
}

/* What ought to be where: by one copy for each segment. */
static void check_bytes(void)
{
    uint64_t position = now.operation.offset;
    for (uint64_t i = 0; i < now.operation.segment_count; position += now.segments[i].length, i++) {
        uint64_t in_memory = now.segments[i].address - (uint64_t)(uintptr_t)arena;
        uint64_t in_file = (now.offsets ? now.offsets[i] : position) - model_begin;
        if (now.operation.direction == GIO_WRITE)
            memcpy(model_before + in_file, arena + in_memory, (size_t)now.segments[i].length);
        else
            memcpy(arena_before + in_memory, model + in_file, (size_t)now.segments[i].length);
    }
    HOLDS(memcmp(model, model_before, MODEL) == 0);
    HOLDS(memcmp(arena, arena_before, ARENA) == 0);
}

static void make_different(unsigned char *one, unsigned char *before, size_t nbytes)
{
    uint64_t word = random_next(&now.state); /* somewhere: the rest differs from what it meets anyhow */
    memcpy(one + below(nbytes - sizeof word), &word, sizeof word);
    memcpy(before, one, nbytes);
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

static void begin_plan(uint64_t number)
{
    if (number % 1000 == 0) {
        printf("plans from %" PRIu64 " on, of seed %" PRIu64 "\n", number, SEED);
        fflush(stdout);
    }
    memset(&now, 0, sizeof now);
    now.number = number;
    now.state = SEED + number;
}

static void end_plan(void)
{
    free(now.segments);
    free(now.offsets);
}

static void test_numbers(void)
{
    uint64_t planned = 0, refused = 0;
    for (uint64_t i = 0; i < PLANS - CARRIED_OUT; i++) {
        begin_plan(i);
        choose_numbers();
        check_whole_plan(); /* and sets the length */
        uint64_t pieces = check_plan(NULL);
        planned += pieces;
        refused += pieces == 0;
        end_plan();
    }
    printf("%" PRIu64 " pieces; %" PRIu64 " plans have none\n", planned, refused);
    CHECK(planned > PLANS && refused < PLANS / 2);
}

static void test_bytes(void)
{
    for (size_t i = 0; i < ARENA; i++)
        arena[i] = (unsigned char)(i * 31 >> 3);
    for (size_t i = 0; i < MODEL; i++)
        model[i] = (unsigned char)(i * 17 >> 2);
    for (uint64_t i = PLANS - CARRIED_OUT; i < PLANS; i++) {
        begin_plan(i);
        choose_memory();
        if (one_in(4))
            choose_places();
        make_different(arena, arena_before, ARENA);
        make_different(model, model_before, MODEL);
        check_plan(carry_out);
        if (now.operation.planned == now.operation.length)
            check_bytes();
        end_plan();
    }
}

/* Limits that no system has: the array inside gio_plan is no longer for them. */
static void test_large_limits(void)
{
    enum { COUNT = 5000 };
    gio_limits limits = {512, 512, PAGE, UINT64_C(1) << 40, GIO_STAGE_BYTES, UINT64_MAX, UINT64_MAX, 1, UINT64_MAX};
    gio_segment *segments = exactly(COUNT, sizeof *segments);
    gio_piece *pieces = exactly(COUNT, sizeof *pieces);
    uint64_t planned;

    for (uint64_t i = 0; i < COUNT; i++)
        segments[i] = (gio_segment){PAGE + 1024 * i, 512};
    for (int32_t staging = GIO_STAGE_NOTHING; staging <= GIO_STAGE_ALL; staging++)
        for (uint64_t offset = 0; offset < 2; offset++) {
            int32_t code = gio_plan(GIO_WRITE, segments, COUNT, offset, staging, &limits, pieces, COUNT, &planned);
            CHECK(code == 0 || (code == GIO_E_ALIGNMENT && staging == GIO_STAGE_NOTHING && offset == 1));
            for (uint64_t i = 0; i < planned; i++)
                CHECK(pieces[i].segment_count <= 1024);
        }
    free(segments);
    free(pieces);
}

static const test_case cases[] = {
    {"numbers", test_numbers},
    {"bytes", test_bytes},
    {"large_limits", test_large_limits},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
