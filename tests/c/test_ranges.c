/* test_ranges.c: the table of locked ranges (csrc/ranges.c) beside a plain list, of which every byte is looked at.
 *
 * What is locked lies in a few bytes, so that locks meet, cover each other and touch all the time: at the start of all offsets,
 * around the last one of Linux, and at the end of 64 bits. */
#include "check.h"

enum { CELLS = 24, HELD_MAX = 40, STEPS = 60000, MANY = 100000 };

typedef struct {
    uint64_t base, state; /* the first byte; of what is random */
    gio_ranges table;
    gio_lock *held[HELD_MAX];
    uint64_t count, ids;
} subject;

static uint64_t below(subject *now, uint64_t bound) { return random_next(&now->state) % bound; }

static gio_lock *new_lock(uint64_t id, uint64_t offset, uint64_t length, int exclusive)
{
    gio_lock *lock = calloc(1, sizeof *lock);
    CHECK(lock != NULL);
    lock->id = id;
    lock->offset = offset;
    lock->length = length;
    lock->exclusive = exclusive;
    return lock;
}

/* ---- the oracle: cell by cell ----------------------------------------------------------------------------- */

static int has_byte(uint64_t offset, uint64_t length, uint64_t byte) { return byte >= offset && byte - offset < length; }

static int are_in_the_way(subject *now, const gio_lock *lock, uint64_t offset, uint64_t length)
{
    if (lock->length == 0 && length == 0)
        return 0;
    if (lock->length == 0)
        return lock->offset != 0 && has_byte(offset, length, lock->offset - 1) && has_byte(offset, length, lock->offset);
    if (length == 0)
        return offset != 0 && has_byte(lock->offset, lock->length, offset - 1) &&
               has_byte(lock->offset, lock->length, offset);
    for (uint64_t i = 0; i < CELLS; i++)
        if (has_byte(lock->offset, lock->length, now->base + i) && has_byte(offset, length, now->base + i))
            return 1;
    return 0;
}

static int is_of_kind(const gio_lock *lock, int kind)
{
    int empty = kind == GIO_RANGES_EMPTY_SHARED || kind == GIO_RANGES_EMPTY_EXCLUSIVE;
    int exclusive = kind == GIO_RANGES_EXCLUSIVE || kind == GIO_RANGES_EMPTY_EXCLUSIVE;
    return (lock->length == 0) == empty && lock->exclusive == exclusive;
}

static int is_covered(subject *now, uint64_t byte, uint64_t top)
{
    for (uint64_t i = 0; i < now->count; i++) {
        const gio_lock *lock = now->held[i];
        if (lock->length != 0 && gio_min(lock->offset, top) <= byte && byte <= gio_min(lock->offset + (lock->length - 1), top))
            return 1;
    }
    return 0;
}

/* ---- the checks --------------------------------------------------------------------------------------------- */

static void choose_range(subject *now, uint64_t *offset, uint64_t *length)
{
    uint64_t cell = below(now, CELLS);
    *offset = now->base + cell;
    *length = below(now, CELLS - cell + 1);
}

static void check_meetings(subject *now)
{
    uint64_t offset, length;

    choose_range(now, &offset, &length);
    for (int kind = 0; kind < GIO_RANGES_KINDS; kind++) {
        int expected = 0;
        for (uint64_t i = 0; i < now->count; i++)
            expected |= is_of_kind(now->held[i], kind) && are_in_the_way(now, now->held[i], offset, length);
        CHECK_EQUAL(gio_ranges_meet(&now->table, kind, offset, length), expected);
    }
}

static void check_gap(subject *now, uint64_t top)
{
    uint64_t first = gio_min(now->base + below(now, CELLS), top), last, gap_first = 0, gap_last = 0;

    last = gio_min(first + below(now, now->base + (CELLS - 1) - first + 1), top);
    int found = gio_ranges_gap(&now->table, first, last, top, &gap_first, &gap_last);
    uint64_t end = last - first + 1; /* the gap's, counted from `first` on */
    while (end != 0 && is_covered(now, first + (end - 1), top))
        end--;
    uint64_t begin = end;
    while (begin != 0 && !is_covered(now, first + (begin - 1), top))
        begin--;
    CHECK_EQUAL(found, end != 0);
    CHECK(!found || (gap_first == first + begin && gap_last == first + (end - 1)));
}

static void check_finding(subject *now)
{
    uint64_t offset, length;
    int there = 0;

    choose_range(now, &offset, &length);
    for (uint64_t i = 0; i < now->count; i++) {
        const gio_lock *lock = now->held[i];
        CHECK(gio_ranges_find(&now->table, lock->offset, lock->length, lock->id) == lock);
        CHECK(gio_ranges_find(&now->table, lock->offset, lock->length, now->ids + 1) == NULL);
        there |= lock->offset == offset && lock->length == length;
    }
    const gio_lock *found = gio_ranges_find(&now->table, offset, length, 0);
    CHECK_EQUAL(found != NULL, there);
    CHECK(!there || (found->offset == offset && found->length == length));
    CHECK_EQUAL(gio_ranges_any(&now->table) != NULL, now->count != 0);
}

static void step(subject *now)
{
    if (now->count != 0 && (now->count == HELD_MAX || below(now, 2))) {
        uint64_t at = below(now, now->count);
        gio_lock *lock = now->held[at];
        gio_ranges_remove(&now->table, lock);
        now->held[at] = now->held[--now->count];
        free(lock);
    } else {
        uint64_t offset, length;
        choose_range(now, &offset, &length);
        gio_lock *lock = new_lock(++now->ids, offset, length, (int)below(now, 2)); /* whether or not others are in the way */
        gio_ranges_add(&now->table, lock);
        now->held[now->count++] = lock;
    }
}

static void test_against_a_list(void)
{
    static const uint64_t bases[] = {0, (uint64_t)INT64_MAX - CELLS / 2, UINT64_MAX - (CELLS - 1)};

    for (size_t i = 0; i < sizeof bases / sizeof bases[0]; i++) {
        subject now = {.base = bases[i], .state = i};
        for (uint64_t k = 0; k < STEPS; k++) {
            step(&now);
            check_meetings(&now);
            check_gap(&now, UINT64_MAX);
            if (now.base < INT64_MAX)
                check_gap(&now, INT64_MAX);
            if (k % 16 == 0)
                check_finding(&now);
        }
        while (now.count != 0) {
            gio_ranges_remove(&now.table, now.held[--now.count]);
            free(now.held[now.count]);
        }
        CHECK(gio_ranges_any(&now.table) == NULL);
    }
}

static uint64_t levels(const gio_lock *at) { return at ? 1 + gio_max(levels(at->before), levels(at->behind)) : 0; }

/* In whatever order they come: a tree of 100,000 that is as high as it is good has 17 levels. */
static void test_many_stay_low(void)
{
    enum { LEVELS_MAX = 60 };
    gio_lock **locks = calloc(MANY, sizeof *locks);

    CHECK(locks != NULL);
    for (int order = 0; order < 3; order++) { /* upwards, downwards, from both ends */
        gio_ranges table = {{NULL}};
        for (uint64_t i = 0; i < MANY; i++) {
            uint64_t place = order == 0 ? i : order == 1 ? MANY - i : i % 2 ? i : 2 * MANY - i;
            locks[i] = new_lock(i + 1, 10 * place, 10 + place % 7, 0);
            gio_ranges_add(&table, locks[i]);
        }
        CHECK(levels(table.trees[GIO_RANGES_SHARED]) <= LEVELS_MAX);
        for (uint64_t i = 0; i < MANY; i += 2) {
            gio_ranges_remove(&table, locks[i]);
            free(locks[i]);
        }
        CHECK(levels(table.trees[GIO_RANGES_SHARED]) <= LEVELS_MAX);
        for (uint64_t i = 1; i < MANY; i += 2)
            free(locks[i]);
    }
    free(locks);
}

static const test_case cases[] = {
    {"against_a_list", test_against_a_list},
    {"many_stay_low", test_many_stay_low},
};

int main(int argc, char **argv) { return run_cases(argc, argv, cases, sizeof cases / sizeof cases[0]); }
