/* ranges.c: the table of a file's locked ranges. Pure: it asks no system, and allocates nothing.
 *
 * A search tree for each kind of lock, in the order of offset, length and id. Each lock in it knows how far the locks at and
 * below it reach, so that what lies in a range is found without a look at all of them. Which of two locks is the higher one
 * is drawn by lot (a treap: Seidel and Aragon, "Randomized search trees", 1996): that keeps the tree low, some 2 ln n levels,
 * in whatever order locks come and go.
 *
 * Ranges may end at 2^64: nothing here adds offset and length. A lock of no bytes lies in front of the byte at its offset.
 */
#include "internal.h"

static uint64_t last_of(const gio_lock *lock) { return lock->length ? lock->offset + (lock->length - 1) : lock->offset; }

static gio_lock **tree_of(gio_ranges *ranges, const gio_lock *lock)
{
    int is_empty = lock->length == 0;
    return &ranges->trees[is_empty ? (lock->exclusive ? GIO_RANGES_EMPTY_EXCLUSIVE : GIO_RANGES_EMPTY_SHARED)
                                   : (lock->exclusive ? GIO_RANGES_EXCLUSIVE : GIO_RANGES_SHARED)];
}

/* ---- the tree ------------------------------------------------------------------------------------------- */

static int precedes(const gio_lock *lock, uint64_t offset, uint64_t length, uint64_t id)
{
    if (lock->offset != offset)
        return lock->offset < offset;
    return lock->length != length ? lock->length < length : lock->id < id;
}

/* Ids are counted; this spreads them (the last step of splitmix64). */
static uint64_t lot_of(const gio_lock *lock)
{
    uint64_t lot = lock->id * 0x9e3779b97f4a7c15;
    lot = (lot ^ lot >> 30) * 0xbf58476d1ce4e5b9;
    lot = (lot ^ lot >> 27) * 0x94d049bb133111eb;
    return lot ^ lot >> 31;
}

/* What stands below it has changed. */
static void renew(gio_lock *lock)
{
    lock->reach = last_of(lock);
    if (lock->before)
        lock->reach = gio_max(lock->reach, lock->before->reach);
    if (lock->behind)
        lock->reach = gio_max(lock->reach, lock->behind->reach);
}

static void split(gio_lock *whole, const gio_lock *at, gio_lock **before, gio_lock **behind)
{
    if (whole == NULL) {
        *before = *behind = NULL;
    } else if (precedes(whole, at->offset, at->length, at->id)) {
        *before = whole;
        split(whole->behind, at, &whole->behind, behind);
        renew(whole);
    } else {
        *behind = whole;
        split(whole->before, at, before, &whole->before);
        renew(whole);
    }
}

static gio_lock *join(gio_lock *before, gio_lock *behind)
{
    if (before == NULL || behind == NULL)
        return before ? before : behind;
    if (lot_of(before) > lot_of(behind)) {
        before->behind = join(before->behind, behind);
        renew(before);
        return before;
    }
    behind->before = join(before, behind->before);
    renew(behind);
    return behind;
}

static gio_lock *without(gio_lock *whole, const gio_lock *lock)
{
    if (whole == lock)
        return join(whole->before, whole->behind);
    if (precedes(whole, lock->offset, lock->length, lock->id))
        whole->behind = without(whole->behind, lock);
    else
        whole->before = without(whole->before, lock);
    renew(whole);
    return whole;
}

/* How far the locks that begin at or before `first` reach; 0: there are none. */
static int furthest(const gio_lock *at, uint64_t first, uint64_t *reach)
{
    int any = 0;

    *reach = 0;
    while (at) {
        if (at->offset > first) {
            at = at->before;
            continue;
        }
        any = 1;
        *reach = gio_max(*reach, last_of(at));
        if (at->before)
            *reach = gio_max(*reach, at->before->reach);
        at = at->behind;
    }
    return any;
}

/* Whether one lock begins at or before `first` and has a byte at or behind `last`. */
static int reaches(const gio_lock *at, uint64_t first, uint64_t last)
{
    uint64_t reach;
    return furthest(at, first, &reach) && reach >= last;
}

/* The smallest offset of those locks that have a byte at or behind `last`; UINT64_MAX: there are none. */
static uint64_t first_reaching(const gio_lock *at, uint64_t last)
{
    while (at && at->reach >= last) {
        if (at->before && at->before->reach >= last)
            at = at->before;
        else if (last_of(at) >= last)
            return at->offset;
        else
            at = at->behind;
    }
    return UINT64_MAX;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

void gio_ranges_add(gio_ranges *ranges, gio_lock *lock)
{
    gio_lock **whole = tree_of(ranges, lock), *before, *behind;

    lock->before = lock->behind = NULL;
    renew(lock);
    split(*whole, lock, &before, &behind);
    *whole = join(join(before, lock), behind);
}

void gio_ranges_remove(gio_ranges *ranges, const gio_lock *lock)
{
    gio_lock **whole = tree_of(ranges, lock);
    *whole = without(*whole, lock);
}

gio_lock *gio_ranges_find(const gio_ranges *ranges, uint64_t offset, uint64_t length, uint64_t id)
{
    for (int kind = 0; kind < GIO_RANGES_KINDS; kind++) {
        gio_lock *found = NULL;
        for (gio_lock *at = ranges->trees[kind]; at;)
            if (precedes(at, offset, length, id)) {
                at = at->behind;
            } else {
                found = at;
                at = at->before;
            }
        if (found && found->offset == offset && found->length == length && (id == 0 || found->id == id))
            return found;
    }
    return NULL;
}

gio_lock *gio_ranges_any(const gio_ranges *ranges)
{
    for (int kind = 0; kind < GIO_RANGES_KINDS; kind++)
        if (ranges->trees[kind])
            return ranges->trees[kind];
    return NULL;
}

int gio_ranges_meet(const gio_ranges *ranges, int kind, uint64_t offset, uint64_t length)
{
    const gio_lock *whole = ranges->trees[kind];
    uint64_t last = offset + (length - 1);

    if (kind == GIO_RANGES_EMPTY_SHARED || kind == GIO_RANGES_EMPTY_EXCLUSIVE) /* those that have a byte of the range on either side */
        return length > 1 && reaches(whole, last, offset + 1);
    if (length == 0) /* the byte in front of it, and the one behind, in one lock */
        return offset != 0 && reaches(whole, offset - 1, offset);
    return reaches(whole, last, offset);
}

int gio_ranges_gap(const gio_ranges *ranges, uint64_t first, uint64_t last, uint64_t top, uint64_t *gap_first,
                   uint64_t *gap_last)
{
    for (;;) {
        uint64_t begin = first, covered = UINT64_MAX, reach;
        int is_covered = 0;
        for (int kind = GIO_RANGES_SHARED; kind <= GIO_RANGES_EXCLUSIVE; kind++) {
            if (!furthest(ranges->trees[kind], last == top ? UINT64_MAX : last, &reach))
                continue;
            if (reach < last) {
                begin = gio_max(begin, reach + 1);
            } else {
                is_covered = 1;
                covered = gio_min(covered, first_reaching(ranges->trees[kind], last));
            }
        }
        if (!is_covered) {
            *gap_first = begin;
            *gap_last = last;
            return 1;
        }
        covered = gio_min(covered, last); /* beyond the top all is one */
        if (covered <= first)
            return 0;
        last = covered - 1;
    }
}
