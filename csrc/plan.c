/* plan.c: how an operation is cut into pieces. Pure: sizes, addresses and limits in, the plan out.
 *
 * An operation moves one contiguous range of a file from or to a list of segments of memory. What one request can
 * carry is bounded four ways: by its bytes, by its segments, by where direct I/O can begin and end in the file
 * (offset_alignment), and by where it can begin in memory (memory_alignment). So the range falls into pieces:
 *
 *     file      |  ragged  |      in place      |     staged     |   in place   |  ragged  |
 *               ^ offset   ^ whole page         ^ memory is not aligned here    ^ whole page
 *
 *   in place  the device moves the segments' own bytes.
 *   staged    they are copied through a page-aligned buffer, because a segment begins or ends where the device
 *             cannot, or because the caller asked for it. Reads are rounded out to whole blocks of the file.
 *   ragged    the ends of a write that are no whole pages go through the page cache, less than a page at each
 *             end, and with them what is between, if that is little (direct_bytes_min). The kernel then merges them
 *             with their neighbours, and ends the file at the right byte; two writers that meet within a page, in one
 *             process or in two, both get their bytes. To read the block, merge and write it back ourselves would
 *             lose one of the two; so would a direct write to one part of a page while the page cache holds another
 *             part of it, older. Where nothing may be staged the caller has asked for direct writes of parts of pages,
 *             and gets them. (A page is here what the file system writes back as one, which may be more:
 *             gio_limits.ragged_bytes.)
 *
 * A buffered file is one whose alignments are 1: everything goes in place.
 */
#include "internal.h"

#include <string.h>

/* While staging, go back to in-place transfer only for a run as long as this: a request costs as much as copying
 * some tens of KiB. */
static const uint64_t RUN_WORTH_A_REQUEST = 64 * 1024;

typedef struct {
    uint64_t address;
    uint64_t length; /* 0: no more segments */
} run;

/* The bytes at `cursor` that lie next to each other in memory, at most `limit` of them. Moves the cursor behind
 * them. Neighbouring segments are joined: a page list of a contiguous array is one run. */
static run next_run(const gio_operation *operation, gio_cursor *cursor, uint64_t limit)
{
    run found = {0, 0};
    while (cursor->index < operation->segment_count && found.length < limit) {
        const gio_segment *segment = &operation->segments[cursor->index];
        uint64_t address = segment->address + cursor->within;
        if (found.length != 0 && address != found.address + found.length && segment->length != 0)
            break;
        if (found.length == 0)
            found.address = address;
        uint64_t take = gio_min(segment->length - cursor->within, limit - found.length);
        found.length += take;
        cursor->within += take;
        if (cursor->within == segment->length) {
            cursor->index++;
            cursor->within = 0;
        }
    }
    return found;
}

/* The part of the operation that may go around the page cache: [*first, *last) in the file. */
static void direct_range(const gio_operation *operation, const gio_limits *limits, uint64_t *first, uint64_t *last)
{
    uint64_t begin = operation->offset, end = operation->offset + operation->length;
    uint64_t unit = operation->staging == GIO_STAGE_NOTHING ? limits->offset_alignment : limits->ragged_bytes;
    *first = operation->through_cache ? end : begin;
    *last = end;
    if (operation->through_cache || operation->direction == GIO_READ || limits->offset_alignment == 1)
        return; /* a read of a whole block harms nobody: ragged ends of reads are staged */
    if (begin % unit)
        *first = gio_min(gio_round_up(begin, limits->ragged_bytes), end);
    if (end % unit)
        *last = gio_max(gio_round_down(end, limits->ragged_bytes), *first);
    if (operation->staging != GIO_STAGE_NOTHING && (begin % unit || end % unit) && *last - *first < limits->direct_bytes_min)
        *first = *last = end;
}

/* Fills `segments` with aligned runs, up to the limits and `room` bytes. */
static uint64_t plan_in_place(const gio_operation *operation, const gio_limits *limits, uint64_t room,
                              int any_alignment, gio_segment *segments, uint64_t *count, gio_cursor *cursor)
{
    uint64_t memory = any_alignment ? 1 : limits->memory_alignment;
    uint64_t block = any_alignment ? 1 : limits->offset_alignment;
    uint64_t most = any_alignment ? limits->buffered_segments : limits->max_segments;
    uint64_t moved = 0;

    room = gio_min(room, limits->request_bytes);
    *count = 0;
    while (moved < room && *count < most) {
        gio_cursor before = *cursor;
        run found = next_run(operation, cursor, room - moved);
        uint64_t take = found.address % memory ? 0 : gio_round_down(found.length, block);
        if (*count != 0) /* what is left goes alone */
            take = gio_round_down(take, limits->segment_unit);
        if (take < found.length) { /* the rest of this run has to go alone, or to be staged */
            *cursor = before;
            if (take != 0)
                next_run(operation, cursor, take);
        }
        if (take == 0)
            break;
        segments[*count].address = found.address;
        segments[*count].length = take;
        ++*count;
        moved += take;
        if (take < found.length || take % limits->segment_unit != 0)
            break;
    }
    return moved;
}

/* How many bytes from `position` on to stage: until the buffer is full, or until the segments are aligned again for
 * a run that is worth a request. `file_begin` is the block that the buffer starts with. */
static uint64_t plan_staged(const gio_operation *operation, const gio_limits *limits, uint64_t position,
                            uint64_t room, gio_cursor *cursor)
{
    uint64_t file_begin = gio_round_down(position, limits->offset_alignment);
    uint64_t staged = 0;

    room = gio_min(room, limits->stage_bytes - (position - file_begin));
    while (staged < room) {
        gio_cursor before = *cursor;
        run found = next_run(operation, cursor, room - staged + RUN_WORTH_A_REQUEST);
        uint64_t here = position + staged;
        uint64_t skip = gio_round_up(here, limits->offset_alignment) - here; /* to the next block */
        *cursor = before;
        if (operation->staging != GIO_STAGE_ALL && staged + skip > 0 && staged + skip <= room &&
            (found.address + skip) % limits->memory_alignment == 0 && found.length >= skip + RUN_WORTH_A_REQUEST) {
            if (skip != 0)
                next_run(operation, cursor, skip);
            return staged + skip;
        }
        staged += next_run(operation, cursor, room - staged).length;
    }
    return staged;
}

/* Of a batch the segment that is next, as an operation of its own. */
static void plan_in_batch(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                          gio_piece *piece, gio_cursor *after)
{
    gio_operation part = *operation;
    gio_cursor cursor = operation->cursor;

    while (operation->segments[cursor.index].length == 0)
        cursor.index++;
    part.segments = &operation->segments[cursor.index];
    part.segment_count = 1;
    part.offset = operation->offsets[cursor.index];
    part.offsets = NULL;
    part.length = part.segments->length;
    part.planned = part.cursor.within = cursor.within;
    part.cursor.index = 0;
    gio_plan_next(&part, limits, segments, piece, after);
    piece->end += operation->planned - piece->begin;
    piece->begin = operation->planned;
    after->index += cursor.index;
}

void gio_plan_next(const gio_operation *operation, const gio_limits *limits, gio_segment *segments,
                   gio_piece *piece, gio_cursor *after)
{
    if (operation->offsets) {
        plan_in_batch(operation, limits, segments, piece, after);
        return;
    }
    uint64_t position = operation->offset + operation->planned;
    uint64_t end = operation->offset + operation->length;
    uint64_t first, last, moved = 0, count = 1;
    gio_cursor cursor = operation->cursor;

    memset(piece, 0, sizeof *piece);
    direct_range(operation, limits, &first, &last);
    piece->begin = operation->planned;
    piece->file_offset = position;

    if (position < first || position >= last) {
        piece->route = GIO_RAGGED;
        moved = plan_in_place(operation, limits, (position < first ? first : end) - position, 1, segments,
                              &count, &cursor);
    } else if (operation->staging != GIO_STAGE_ALL && position % limits->offset_alignment == 0) {
        piece->route = GIO_IN_PLACE;
        moved = plan_in_place(operation, limits, last - position, 0, segments, &count, &cursor);
    }
    piece->file_length = moved;
    if (moved == 0 && operation->staging == GIO_STAGE_NOTHING) {
        piece->code = GIO_E_ALIGNMENT;
    } else if (moved == 0) {
        piece->route = GIO_STAGED;
        moved = plan_staged(operation, limits, position, last - position, &cursor);
        piece->file_offset = gio_round_down(position, limits->offset_alignment);
        piece->file_length = gio_round_up(position + moved, limits->offset_alignment) - piece->file_offset;
        count = 1;
    }
    piece->head = position - piece->file_offset;
    piece->end = piece->begin + moved;
    piece->segment_count = count;
    *after = cursor;
}

int32_t gio_plan(int32_t direction, const gio_segment *segments, uint64_t count, uint64_t offset, int32_t staging,
                 const gio_limits *limits, gio_piece *pieces, uint64_t max, uint64_t *planned)
{
    gio_operation operation;
    gio_segment scratch[1024];

    memset(&operation, 0, sizeof operation);
    operation.direction = direction;
    operation.staging = staging;
    operation.segments = segments;
    operation.segment_count = count;
    operation.offset = offset;
    for (uint64_t i = 0; i < count; i++) {
        if (segments[i].length > (uint64_t)INT64_MAX - operation.length)
            return gio_code_invalid();
        operation.length += segments[i].length;
    }
    if (offset > (uint64_t)INT64_MAX - operation.length)
        return gio_code_invalid();
    gio_limits bounded = *limits;
    bounded.max_segments = gio_min(limits->max_segments, sizeof scratch / sizeof scratch[0]);
    bounded.buffered_segments = gio_min(limits->buffered_segments, sizeof scratch / sizeof scratch[0]);

    for (*planned = 0; operation.planned < operation.length && *planned < max; ++*planned) {
        gio_piece *piece = &pieces[*planned];
        gio_plan_next(&operation, &bounded, scratch, piece, &operation.cursor);
        if (piece->code)
            return piece->code;
        operation.planned = piece->end;
    }
    return 0;
}

/* ---- copies between an operation's segments and a staging buffer ---------------------------------------------- */

void gio_copy_plainly(int32_t direction, const gio_segment *memory, uint64_t count, void *ours)
{
    for (char *at = ours; count != 0; at += memory->length, memory++, count--) {
        void *address = (void *)(uintptr_t)memory->address;
        memcpy(direction == GIO_WRITE ? at : address, direction == GIO_WRITE ? address : at, (size_t)memory->length);
    }
}

static int32_t copy_segments(const gio_operation *operation, gio_cursor cursor, char *stage, uint64_t nbytes)
{
    enum { TOGETHER = 64 }; /* so many runs share the cost of one system call */
    gio_segment runs[TOGETHER];
    int32_t code = 0;

    while (nbytes != 0 && code == 0) {
        uint64_t count = 0, together = 0;
        for (; count < TOGETHER && together < nbytes; count++) {
            run found = next_run(operation, &cursor, nbytes - together);
            runs[count].address = found.address;
            runs[count].length = found.length;
            together += found.length;
        }
        if (operation->anonymous)
            gio_copy_plainly(operation->direction, runs, count, stage);
        else
            code = gio_copy_guarded(operation->direction, runs, count, stage);
        stage += together;
        nbytes -= together;
    }
    return code;
}

int32_t gio_copy_from_segments(const gio_operation *operation, gio_cursor cursor, void *to, uint64_t nbytes)
{
    return copy_segments(operation, cursor, to, nbytes);
}

int32_t gio_copy_to_segments(const gio_operation *operation, gio_cursor cursor, const void *from, uint64_t nbytes)
{
    return copy_segments(operation, cursor, (char *)from, nbytes);
}
