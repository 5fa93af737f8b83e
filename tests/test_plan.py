"""How an operation is cut into pieces (csrc/plan.c): a pure function, so without a disk and without memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatherio._native import ffi, lib

READ, WRITE = lib.GIO_READ, lib.GIO_WRITE
NOTHING, RAGGED_ONLY, ALL = lib.GIO_STAGE_NOTHING, lib.GIO_STAGE_RAGGED, lib.GIO_STAGE_ALL
IN_PLACE, STAGED, RAGGED = lib.GIO_IN_PLACE, lib.GIO_STAGED, lib.GIO_RAGGED
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
LAST = (1 << 63) - 1  # no file reaches further

Segments = list[tuple[int, int]]  # address, length


class Limits(NamedTuple):
    block: int = 512  # offset_alignment
    memory: int = 512  # memory_alignment
    ragged: int = PAGE
    request: int = MIB
    stage: int = 2 * MIB
    segments: int = 1024
    buffered: int = 1024  # segments of pieces through the page cache
    unit: int = 1  # of several segments each is a multiple
    direct_min: int = 0  # whole pages between ragged ends; fewer go with them


DIRECT = Limits()
BUFFERED = Limits(block=1, memory=1)


class Piece(NamedTuple):
    begin: int
    end: int
    file_offset: int
    file_length: int
    segment_count: int
    route: int


class Plan(NamedTuple):
    code: int
    pieces: list[Piece]

    @property
    def routes(self) -> list[int]:
        return [piece.route for piece in self.pieces]

    @property
    def cuts(self) -> list[int]:
        return [piece.end for piece in self.pieces]


def plan(
    direction: int,
    segments: Segments,
    offset: int = 0,
    staging: int = RAGGED_ONLY,
    limits: Limits = DIRECT,
    room: int = 5000,
) -> Plan:
    rows = np.array(segments, np.uint64).reshape(-1, 2)
    pieces = ffi.new("gio_piece[]", max(room, 1))
    planned: Any = ffi.new("uint64_t *")
    code = lib.gio_plan(
        direction,
        ffi.cast("gio_segment *", rows.ctypes.data),
        len(rows),
        offset,
        staging,
        ffi.new("gio_limits *", tuple(limits)),
        pieces,
        room,
        planned,
    )
    found = [
        Piece(p.begin, p.end, p.file_offset, p.file_length, p.segment_count, p.route) for p in pieces[0 : planned[0]]
    ]
    return Plan(code, found)


def total(segments: Segments) -> int:
    return sum(length for _, length in segments)


def runs(segments: Segments, begin: int, end: int) -> Segments:
    """What of the segments lies in [begin, end), with neighbours in memory joined."""
    found: Segments = []
    position = 0
    for address, length in segments:
        low, high = max(begin, position), min(end, position + length)
        if low < high:
            at = address + low - position
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + high - low)
            else:
                found.append((at, high - low))
        position += length
    return found


# --- what holds for every plan ---


def check(made: Plan, direction: int, segments: Segments, offset: int, staging: int, limits: Limits) -> None:
    position, end = 0, total(segments)
    for piece in made.pieces:
        assert piece.begin == position < piece.end <= end  # in order, without a gap, never empty
        position = piece.end
        nbytes = piece.end - piece.begin
        here = runs(segments, piece.begin, piece.end)
        if piece.route == IN_PLACE:
            assert staging != ALL
            assert (piece.file_offset, piece.file_length) == (offset + piece.begin, nbytes)
            assert piece.file_offset % limits.block == 0
            assert all(address % limits.memory == 0 and length % limits.block == 0 for address, length in here)
            assert nbytes <= limits.request
            assert piece.segment_count == len(here) <= limits.segments
            assert len(here) == 1 or all(length % limits.unit == 0 for _, length in here)
        elif piece.route == STAGED:
            assert staging != NOTHING
            head = offset + piece.begin - piece.file_offset
            tail = piece.file_offset + piece.file_length - offset - piece.end
            assert piece.file_offset % limits.block == piece.file_length % limits.block == 0
            assert piece.file_length <= limits.stage
            assert 0 <= head < limits.block and 0 <= tail < limits.block
            assert direction == READ or head == tail == 0  # a write touches nobody else's bytes
            assert piece.segment_count == 1
        else:
            assert piece.route == RAGGED and direction == WRITE
            assert (piece.file_offset, piece.file_length) == (offset + piece.begin, nbytes)
            assert nbytes <= limits.request
            assert piece.segment_count == len(here) <= limits.buffered
            assert len(here) == 1 or all(length % limits.unit == 0 for _, length in here)
            low, high = piece.file_offset, piece.file_offset + piece.file_length
            head_end = -(-offset // limits.ragged) * limits.ragged
            tail_begin = (offset + end) // limits.ragged * limits.ragged
            unit = limits.block if staging == NOTHING else limits.ragged  # parts of pages go direct only if they must
            at_head = offset % unit != 0 and high <= head_end
            at_tail = (offset + end) % unit != 0 and low >= tail_begin
            assert at_head or at_tail or goes_through_the_cache(offset, end, staging, limits)
    if made.code == 0:
        assert position == end
    else:
        assert made.code == lib.GIO_E_ALIGNMENT and staging == NOTHING
        here = runs(segments, position, end)
        assert (
            any(address % limits.memory or length % limits.block for address, length in here)
            or (offset + position) % limits.block != 0
        )


def goes_through_the_cache(offset: int, nbytes: int, staging: int, limits: Limits) -> bool:
    """Whether a write has ragged ends, and few whole pages between them."""
    first = -(-offset // limits.ragged) * limits.ragged
    last = (offset + nbytes) // limits.ragged * limits.ragged
    is_ragged = offset % limits.ragged != 0 or (offset + nbytes) % limits.ragged != 0
    return staging != NOTHING and is_ragged and max(last - first, 0) < limits.direct_min


def is_aligned(segments: Segments, offset: int, limits: Limits) -> bool:
    return offset % limits.block == 0 and all(
        address % limits.memory == 0 and length % limits.block == 0
        for address, length in runs(segments, 0, total(segments))
    )


LENGTHS = st.one_of(
    st.just(0),
    st.integers(1, 1500),
    st.integers(1, 40).map(lambda n: n * 512),
    st.integers(1, 40).map(lambda n: n * PAGE),
    st.integers(60 * KIB, 300 * KIB),
)
# From the end of one segment to the beginning of the next: nothing, to the next page, or anything.
GAPS = st.one_of(st.just(0), st.just(0), st.just(-1), st.integers(1, 3 * PAGE))


@st.composite
def segment_lists(draw: st.DrawFn, length: st.SearchStrategy[int] = LENGTHS) -> Segments:
    address = draw(st.sampled_from([PAGE, 7 * PAGE, PAGE + 512, PAGE + 3, 1 << 46]))
    segments = []
    for gap, nbytes in draw(st.lists(st.tuples(GAPS, length), max_size=25)):
        address = (address // PAGE + 2) * PAGE if gap < 0 else address + gap
        segments.append((address, nbytes))
        address += nbytes
    return segments


@st.composite
def limit_sets(draw: st.DrawFn) -> Limits:
    block = draw(st.sampled_from([512, 512, 4096, 16384]))
    memory = draw(st.sampled_from([4, 512, 4096]))
    return Limits(
        block=block,
        memory=memory,
        ragged=max(PAGE, block),
        request=draw(st.integers(1, 40)) * max(block, memory),  # else its second half is off in memory
        stage=draw(st.integers(1, 40)) * block,
        segments=draw(st.integers(1, 20)),
        buffered=draw(st.integers(1, 20)),
        # As on Linux or as on Windows. Where memory asks for more than the file, a cut behind half a unit is off.
        unit=draw(st.sampled_from([1, memory])) if memory <= block else memory,
        direct_min=draw(st.sampled_from([0, PAGE, 64 * KIB])),
    )


OFFSETS = st.one_of(
    st.just(0), st.integers(0, 20000), st.integers(0, 100).map(lambda n: n * 512), st.just((1 << 42) + PAGE)
)
DIRECTIONS = st.sampled_from([READ, WRITE])
STAGINGS = st.sampled_from([NOTHING, RAGGED_ONLY, ALL])


@settings(max_examples=600, deadline=None)
@given(DIRECTIONS, segment_lists(), OFFSETS, STAGINGS, limit_sets())
@example(WRITE, [], 5, RAGGED_ONLY, DIRECT)
@example(WRITE, [(PAGE, 0), (PAGE + 3, 0)], 5, NOTHING, DIRECT)
@example(WRITE, [(PAGE, 100)], 4090, RAGGED_ONLY, DIRECT)  # ragged on both sides of a page's edge
@example(READ, [(PAGE + 1, 300 * KIB)], 511, ALL, Limits(stage=512))
@example(WRITE, [(3 * PAGE, 1)] * 25, 1, RAGGED_ONLY, Limits(segments=1, buffered=1))
def test_every_plan_keeps_the_rules(
    direction: int, segments: Segments, offset: int, staging: int, limits: Limits
) -> None:
    made = plan(direction, segments, offset, staging, limits)
    check(made, direction, segments, offset, staging, limits)
    if staging != NOTHING:
        assert made.code == 0
    whole_pages = offset % limits.ragged == total(segments) % limits.ragged == 0
    in_place = staging == NOTHING or (staging == RAGGED_ONLY and (direction == READ or whole_pages))
    if is_aligned(segments, offset, limits) and in_place:
        assert made.code == 0 and set(made.routes) <= {IN_PLACE}
        lengths = [length for _, length in runs(segments, 0, total(segments))]
        alone = sum(length % limits.unit != 0 for length in lengths)  # and each may end a piece before it
        together = total(segments) // limits.request + len(lengths) // limits.segments + 1
        assert len(made.pieces) <= together + 2 * alone


@settings(max_examples=200, deadline=None)
@given(DIRECTIONS, segment_lists(), OFFSETS, st.sampled_from([NOTHING, RAGGED_ONLY]), st.integers(1, 9))
def test_a_buffered_file_takes_everything_in_place(
    direction: int, segments: Segments, offset: int, staging: int, most: int
) -> None:
    limits = BUFFERED._replace(request=100_003, segments=most)
    made = plan(direction, segments, offset, staging, limits)
    check(made, direction, segments, offset, staging, limits)
    assert made.code == 0 and set(made.routes) <= {IN_PLACE}


@settings(max_examples=200, deadline=None)
@given(DIRECTIONS, segment_lists(), OFFSETS, STAGINGS, limit_sets(), st.data())
def test_empty_segments_and_cuts_between_neighbours_change_nothing(
    direction: int, segments: Segments, offset: int, staging: int, limits: Limits, data: st.DataObject
) -> None:
    cut: Segments = []
    for address, length in segments:
        where = data.draw(st.integers(0, length))
        cut += [(address, where), (data.draw(st.integers(0, 1 << 50)), 0), (address + where, length - where)]
    assert plan(direction, cut, offset, staging, limits) == plan(direction, segments, offset, staging, limits)


@settings(max_examples=100, deadline=None)
@given(DIRECTIONS, segment_lists(), OFFSETS, limit_sets(), st.integers(0, 10))
def test_no_more_pieces_are_told_than_there_is_room_for(
    direction: int, segments: Segments, offset: int, limits: Limits, room: int
) -> None:
    whole = plan(direction, segments, offset, RAGGED_ONLY, limits)
    assert plan(direction, segments, offset, RAGGED_ONLY, limits, room).pieces == whole.pieces[:room]


@settings(max_examples=300, deadline=None)
@given(
    DIRECTIONS,
    segment_lists(st.integers(0, 1 << 58)),
    st.integers(0, 1 << 61),
    STAGINGS,
    st.sampled_from([512, 4096, 1 << 20]),
    st.booleans(),
)
@example(WRITE, [(0, LAST)], 0, RAGGED_ONLY, 4096, True)
@example(READ, [(0, LAST)], 0, RAGGED_ONLY, 4096, True)
@example(WRITE, [(1, LAST - 1)], 1, ALL, 512, True)
@example(READ, [(1, 10)], LAST - 10, RAGGED_ONLY, 1 << 20, False)
@example(WRITE, [(1, 10)], LAST - 10, RAGGED_ONLY, 1 << 20, False)
def test_sizes_near_the_end_of_the_numbers(
    direction: int, segments: Segments, offset: int, staging: int, block: int, big: bool
) -> None:
    if offset + total(segments) > LAST:
        segments = segments[:1]
    limits = Limits(block, 512, max(PAGE, block), 1 << 62 if big else 1 << 54, 1 << 61 if big else 1 << 54)
    made = plan(direction, segments, offset, staging, limits)
    check(made, direction, segments, offset, staging, limits)
    assert made.code == 0 or staging == NOTHING


# --- examples ---


def test_nothing_has_no_pieces() -> None:
    for segments in ([], [(PAGE, 0)], [(1, 0)] * 2000):
        assert plan(WRITE, segments, 3) == Plan(0, [])


@pytest.mark.parametrize("direction", [READ, WRITE])
@pytest.mark.parametrize("staging", [NOTHING, RAGGED_ONLY])
def test_an_aligned_array_goes_in_whole_requests(direction: int, staging: int) -> None:
    made = plan(direction, [(64 * PAGE, 5 * MIB + PAGE)], 3 * MIB, staging)
    assert made.routes == [IN_PLACE] * 6
    assert made.cuts == [MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB, 5 * MIB + PAGE]
    assert {piece.segment_count for piece in made.pieces} == {1}


def test_the_pages_of_one_array_are_joined() -> None:
    pages = [(64 * PAGE + i * PAGE, PAGE) for i in range(1280)]
    assert plan(WRITE, pages) == plan(WRITE, [(64 * PAGE, 5 * MIB)])
    # Backwards they are not neighbours.
    made = plan(WRITE, pages[::-1], limits=DIRECT._replace(request=64 * MIB))
    assert [piece.segment_count for piece in made.pieces] == [1024, 256]


@pytest.mark.parametrize("most", [1, 100, 1024])
@pytest.mark.parametrize("request_bytes", [PAGE, 100 * PAGE, 64 * MIB])
def test_scattered_pages_fill_their_requests(most: int, request_bytes: int) -> None:
    pages = [((3000 - i) * 2 * PAGE, PAGE) for i in range(2500)]
    limits = DIRECT._replace(request=request_bytes, segments=most)
    made = plan(READ, pages, 0, NOTHING, limits)
    assert made.code == 0
    assert len(made.pieces) == -(-2500 // min(most, request_bytes // PAGE))
    assert sum(piece.segment_count for piece in made.pieces) == 2500


@pytest.mark.parametrize(
    ("offset", "length", "cuts", "routes"),
    [
        (0, 4 * PAGE, [4 * PAGE], [IN_PLACE]),
        (1, 100, [100], [RAGGED]),
        (0, 100, [100], [RAGGED]),
        (512, 512, [512], [RAGGED]),
        (512, 513, [513], [RAGGED]),
        (511, 513, [513], [RAGGED]),
        (0, 4 * PAGE + 7, [4 * PAGE, 4 * PAGE + 7], [IN_PLACE, RAGGED]),
        (0, 4 * PAGE + 512, [4 * PAGE, 4 * PAGE + 512], [IN_PLACE, RAGGED]),
        (0, 4 * PAGE + 519, [4 * PAGE, 4 * PAGE + 519], [IN_PLACE, RAGGED]),
        (PAGE - 512, 3 * PAGE, [512, 2 * PAGE + 512, 3 * PAGE], [RAGGED, IN_PLACE, RAGGED]),
        (4090, 12, [6, 12], [RAGGED, RAGGED]),
    ],
)
def test_the_ends_of_a_write(offset: int, length: int, cuts: list[int], routes: list[int]) -> None:
    made = plan(WRITE, [(64 * PAGE, length)], offset)
    assert (made.cuts, made.routes) == (cuts, routes)


@pytest.mark.parametrize(("offset", "length"), [(512, 512), (0, 4 * PAGE + 512), (PAGE - 512, 3 * PAGE)])
def test_parts_of_pages_go_direct_only_if_nothing_may_be_staged(offset: int, length: int) -> None:
    made = plan(WRITE, [(64 * PAGE, length)], offset, NOTHING)
    assert (made.cuts, made.routes) == ([length], [IN_PLACE])


@pytest.mark.parametrize(("offset", "pages"), [(0, 8), (100, 9), (PAGE - 1, 9)])
def test_few_pages_between_ragged_ends_go_with_them(offset: int, pages: int) -> None:
    limits = DIRECT._replace(direct_min=8 * PAGE)
    few = pages * PAGE - PAGE - offset % PAGE + 50
    assert plan(WRITE, [(64 * PAGE, few)], offset, limits=limits).routes == [RAGGED]
    assert plan(WRITE, [(64 * PAGE, few)], offset, ALL, limits=limits).routes == [RAGGED]
    many = plan(WRITE, [(64 * PAGE, few + PAGE)], offset, limits=limits)
    assert set(many.routes) > {RAGGED}
    # Whole pages are worth it however few they are, and where nothing may be staged the caller has decided.
    assert plan(WRITE, [(64 * PAGE, PAGE)], 0, limits=limits).routes == [IN_PLACE]
    assert plan(WRITE, [(64 * PAGE, PAGE + 512)], 0, NOTHING, limits=limits).routes == [IN_PLACE]


def test_a_ragged_head_puts_the_rest_of_the_memory_off_its_pages() -> None:
    made = plan(WRITE, [(64 * PAGE, 3 * PAGE)], 100)
    assert made.routes == [RAGGED, STAGED, RAGGED]
    assert made.cuts == [PAGE - 100, 3 * PAGE - 100, 3 * PAGE]
    # ... unless it begins in memory where it begins in its block of the file.
    made = plan(WRITE, [(64 * PAGE + 100, 3 * PAGE)], 100)
    assert made.routes == [RAGGED, IN_PLACE, RAGGED]


def test_the_ends_of_a_read_are_rounded_out() -> None:
    (piece,) = plan(READ, [(64 * PAGE, 100)], 1000).pieces
    assert (piece.route, piece.file_offset, piece.file_length) == (STAGED, 512, 1024)
    made = plan(READ, [(64 * PAGE, 4 * PAGE + 7)], 0)
    assert made.routes == [IN_PLACE, STAGED]
    assert (made.pieces[1].file_offset, made.pieces[1].file_length) == (4 * PAGE, 512)


@pytest.mark.parametrize(
    ("direction", "segments", "offset"),
    [
        (WRITE, [(PAGE + 4, 8 * PAGE)], 0),
        (READ, [(PAGE + 4, 8 * PAGE)], 0),
        (READ, [(PAGE, 8 * PAGE)], 1),
        (READ, [(PAGE, 100)], 0),
        (WRITE, [(PAGE, 100), (4 * PAGE, PAGE - 100)], 0),
        (READ, [(PAGE, 100), (4 * PAGE, PAGE - 100)], 0),
    ],
)
def test_without_staging_what_is_not_aligned_is_refused(direction: int, segments: Segments, offset: int) -> None:
    assert plan(direction, segments, offset, NOTHING) == Plan(lib.GIO_E_ALIGNMENT, [])
    assert plan(direction, segments, offset, RAGGED_ONLY).code == 0


def test_the_refusal_comes_at_the_segment_that_is_not_aligned() -> None:
    made = plan(WRITE, [(PAGE, 2 * PAGE), (9 * PAGE + 1, 2 * PAGE)], 0, NOTHING)
    assert (made.code, made.cuts, made.routes) == (lib.GIO_E_ALIGNMENT, [2 * PAGE], [IN_PLACE])


def test_all_is_staged_when_asked() -> None:
    made = plan(WRITE, [(64 * PAGE, 5 * MIB)], 0, ALL)
    assert (made.cuts, made.routes) == ([2 * MIB, 4 * MIB, 5 * MIB], [STAGED] * 3)
    made = plan(READ, [(64 * PAGE, 5 * MIB)], 100, ALL)
    assert made.routes == [STAGED] * 3
    assert plan(WRITE, [(64 * PAGE, MIB)], 0, ALL, BUFFERED).routes == [STAGED]


def test_after_staging_a_long_aligned_run_goes_in_place_again() -> None:
    odd = (PAGE + 4, PAGE)
    assert plan(WRITE, [odd, (64 * PAGE, 512 * KIB)]).routes == [STAGED, IN_PLACE]
    assert plan(WRITE, [odd, (64 * PAGE, 32 * KIB)]).routes == [STAGED]  # not worth a request
    assert plan(WRITE, [odd, (64 * PAGE, 32 * KIB)] * 20).routes == [STAGED]
    assert plan(WRITE, [odd, (64 * PAGE, 512 * KIB)] * 3).routes == [STAGED, IN_PLACE] * 3
    # The head of a read is staged just up to where both file and memory are aligned.
    made = plan(READ, [(64 * PAGE + 100, MIB)], 100, limits=DIRECT._replace(request=2 * MIB))
    assert made.routes == [STAGED, IN_PLACE, STAGED]
    assert made.cuts == [412, MIB - 100, MIB]


def test_alignments_of_file_and_memory_are_told_apart() -> None:
    fine = DIRECT._replace(memory=4)
    assert plan(READ, [(PAGE + 4, MIB)], 0, NOTHING, fine).routes == [IN_PLACE]
    assert plan(READ, [(PAGE + 2, MIB)], 0, NOTHING, fine).code == lib.GIO_E_ALIGNMENT
    coarse = Limits(block=16384, ragged=16384)
    assert plan(WRITE, [(PAGE, MIB)], PAGE, RAGGED_ONLY, coarse).routes == [RAGGED, IN_PLACE, RAGGED]
    assert plan(WRITE, [(PAGE, MIB)], 16384, NOTHING, coarse).routes == [IN_PLACE]


WINDOWS = Limits(memory=PAGE, segments=4096, buffered=1, unit=PAGE)


@pytest.mark.parametrize("direction", [READ, WRITE])
def test_of_several_segments_each_is_whole_pages_where_the_system_asks_for_it(direction: int) -> None:
    """WriteFileGather and ReadFileScatter take one page for each element; a part of a page goes by itself."""
    pages = [(100 * PAGE, 2 * PAGE), (200 * PAGE, PAGE)]
    assert plan(direction, pages, 0, NOTHING, WINDOWS).cuts == [3 * PAGE]
    made = plan(direction, [*pages, (300 * PAGE, PAGE + 512)], 0, NOTHING, WINDOWS)
    assert [(piece.end, piece.segment_count) for piece in made.pieces] == [(4 * PAGE, 3), (4 * PAGE + 512, 1)]
    made = plan(direction, [(100 * PAGE, PAGE + 512), *pages], 0, NOTHING, WINDOWS)
    assert made.cuts == [PAGE + 512, 4 * PAGE + 512]


def test_through_the_page_cache_each_run_goes_alone_where_the_system_asks_for_it() -> None:
    buffered = WINDOWS._replace(block=1, memory=1, segments=1)
    assert plan(WRITE, [(PAGE, PAGE), (9 * PAGE, 100)], 7, NOTHING, buffered).cuts == [PAGE, PAGE + 100]
    made = plan(WRITE, [(PAGE, 10), (9 * PAGE, 10)], 7, RAGGED_ONLY, WINDOWS)
    assert (made.cuts, made.routes) == ([10, 20], [RAGGED, RAGGED])


@pytest.mark.parametrize("direction", [READ, WRITE])
def test_the_largest_file(direction: int) -> None:
    limits = DIRECT._replace(request=1 << 62)
    made = plan(direction, [(64 * PAGE, 1 << 62), (1 << 62, (1 << 62) - PAGE)], 0, NOTHING, limits)
    assert (made.code, made.routes) == (0, [IN_PLACE, IN_PLACE])
    made = plan(direction, [(1 << 62, GIB)], LAST - GIB, RAGGED_ONLY, DIRECT._replace(request=4 * GIB))
    check(made, direction, [(1 << 62, GIB)], LAST - GIB, RAGGED_ONLY, DIRECT._replace(request=4 * GIB))
    assert made.code == 0 and made.cuts[-1] == GIB
