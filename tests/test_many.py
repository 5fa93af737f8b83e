"""read_many and write_many: many small transfers as one operation."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import (
    FOREVER,
    KIB,
    MIB,
    PAGE,
    assert_same_bytes,
    fault,
    not_under_wine,
    placed,
    set_fault,
    target,
    words,
)

import gatherio as gio

Opener = Callable[..., gio.File]


def make(path: Path, nbytes: int) -> None:
    path.write_bytes(words(0, nbytes).tobytes())


def test_rows_of_one_array(disk_dir: Path, open_file: Opener) -> None:
    make(disk_dir / "file", 4 * MIB)
    offsets = np.random.default_rng(1).permutation(1024) * PAGE
    array = target(1024 * PAGE).reshape(1024, PAGE)
    with open_file(disk_dir / "file") as f:
        assert f.read_many(array, offsets).result(FOREVER) == array.nbytes
    for row, offset in zip(array, offsets, strict=True):
        assert_same_bytes(row, words(int(offset), PAGE))


def test_any_arrays_at_any_offsets(disk_dir: Path, open_file: Opener) -> None:
    make(disk_dir / "file", MIB)
    shapes = [(0, 5), (1, 3), (100_000, 77), (300, 4096), (PAGE, 0), (70_000, 513)]
    arrays = [target(nbytes, shift) for nbytes, shift in shapes]
    offsets = [7, 4095, 8192, 1, 500_000, 40_000]
    with open_file(disk_dir / "file") as f:
        operation = f.read_many(iter(arrays), offsets)
        assert operation.result(FOREVER) == sum(array.nbytes for array in arrays)
        assert "at offset 7 and 5 others" in repr(operation)
    for array, offset in zip(arrays, offsets, strict=True):
        assert_same_bytes(array, words(offset, array.nbytes))


def test_write(disk_dir: Path, open_file: Opener) -> None:
    path = disk_dir / "file"
    places = np.random.default_rng(2).permutation(300) * 5000
    with open_file(path, "w+") as f:
        rows = np.stack([words(int(place), 5000) for place in places])
        assert f.write_many(rows, places).result(FOREVER) == rows.nbytes
        assert f.size == 300 * 5000
    assert_same_bytes(path.read_bytes(), words(0, 300 * 5000))


def test_a_file_with_reserved_space_ends_where_the_last_place_ends(disk_dir: Path, open_file: Opener) -> None:
    path = disk_dir / "file"
    with open_file(path, "w", preallocate=MIB) as f:
        f.write_many([placed(words(9000, 10)), placed(words(0, 5000))], [9000, 0]).result(FOREVER)
    assert path.stat().st_size == 9010


def test_beyond_the_end_of_the_file(disk_dir: Path, open_file: Opener) -> None:
    """The result counts up to the first array that is not full; the others are read all the same."""
    make(disk_dir / "file", 3 * PAGE + 100)
    arrays = [target(PAGE) for _ in range(5)]
    with open_file(disk_dir / "file") as f:
        assert f.read_many(arrays, [0, 3 * PAGE, PAGE, 10 * PAGE, 2 * PAGE]).result(FOREVER) == PAGE + 100
        assert_same_bytes(arrays[0], words(0, PAGE))
        assert_same_bytes(arrays[1][:100], words(3 * PAGE, 100))
        assert_same_bytes(arrays[2], words(PAGE, PAGE))
        assert_same_bytes(arrays[4], words(2 * PAGE, PAGE))
        assert f.read_many(arrays[:1], [100 * PAGE]).result(FOREVER) == 0
        assert f.read_many([], []).result(FOREVER) == 0


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_failure_tells_how_far_the_first_bytes_got(disk_dir: Path, direction: str) -> None:
    make(disk_dir / "file", 64 * PAGE)
    rows = gio.zeros((64, PAGE), "u1")
    with gio.CompletionQueue(1) as queue, gio.open(disk_dir / "file", "r+", queue=queue) as f:
        with fault(queue, "FAIL", 5, 1, errno.EIO):
            operation = getattr(f, f"{direction}_many")(rows, np.arange(64)[::-1] * PAGE)
            with pytest.raises(OSError, match="at offset 258048 and 63 others; the first 20480 bytes") as told:
                operation.result(FOREVER)
        assert (told.value.errno, told.value.bytes_in_place) == (errno.EIO, 5 * PAGE)


def test_cancel(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    make(disk_dir / "file", MIB)
    with gio.open(disk_dir / "file", queue=queue) as f:
        set_fault(queue, "HOLD", 0, 1)
        operation = f.read_many(gio.empty((1000, PAGE), "u1"), np.arange(1000) % 256 * PAGE)
        operation.cancel()
        set_fault(queue, "NONE")
        with pytest.raises((gio.CancelledError, AssertionError)):
            assert operation.result(FOREVER) != 1000 * PAGE


def test_arrays_and_offsets_may_be_dropped_and_changed(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    make(disk_dir / "file", MIB)
    array = target(256 * PAGE).reshape(256, PAGE)
    offsets = np.arange(256) * PAGE
    with gio.open(disk_dir / "file", queue=queue) as f:
        with fault(queue, "HOLD", 0, 1):
            operation = f.read_many(list(array), offsets)
            offsets[:] = -1
            del offsets
        assert operation.result(FOREVER) == array.nbytes
    assert_same_bytes(array.reshape(-1), words(0, MIB))


@pytest.mark.parametrize("direction", ["read", "write"])
@pytest.mark.parametrize("dtype", ["u8", "i8", ">u8"])  # of the first no other form is needed
def test_offsets_changed_while_in_flight(disk_dir: Path, backend: str, direction: str, dtype: str) -> None:
    """One request at a time, and the first one is held: the places of all others are still to be looked at."""
    path = disk_dir / "file"
    make(path, 64 * PAGE)
    order = np.random.default_rng(3).permutation(64)
    offsets = (order * PAGE).astype(dtype)
    array = placed(words(0, 64 * PAGE, 7)).reshape(64, PAGE)
    with (
        gio.CompletionQueue(1, backend=backend) as queue,
        gio.open(path, "r+", queue=queue) as f,
        fault(queue, "HOLD", 0, 1) as let_go,
    ):
        operation = getattr(f, f"{direction}_many")(array, offsets)
        offsets[:] = 5 * PAGE
        let_go()
        assert operation.result(FOREVER) == array.nbytes
    if direction == "read":
        assert_same_bytes(array, words(0, 64 * PAGE).reshape(64, PAGE)[order])
    else:
        found = np.frombuffer(path.read_bytes(), "u1").reshape(64, PAGE)
        assert_same_bytes(found[order], words(0, 64 * PAGE, 7))


def test_offsets_of_several_integer_types(disk_dir: Path) -> None:
    """numpy makes float64 of uint64 together with signed integers."""
    make(disk_dir / "file", MIB)
    rows = target(3 * 8).reshape(3, 8)
    with gio.open(disk_dir / "file") as f:
        for offsets in ([np.uint64(16), 24, 32], (24, np.uint64(16), np.int8(32)), deque([np.uint64(0), 8, 16])):
            assert f.read_many(rows, offsets).result(FOREVER) == 24
            assert_same_bytes(rows, np.array([int(offset) for offset in offsets], "<u8"))
        with pytest.raises(TypeError, match="integers, not of float64; numpy makes float64 of uint64 together"):
            f.read_many(rows, np.array([np.uint64(16), 24, 32]))
        for bad in ([np.uint64(16), 24, 32.0], [16, 24, "32"], [True, False, True], np.array([16, 24, 32], object)):
            with pytest.raises(TypeError, match="1-d array of integers"):
                f.read_many(rows, bad)
        for beyond in ([2**64, 0, 1], [np.uint64(5), -1, 0], [2**63, 0, -1], [0, 0, -(2**80)], [2**63, 1, 2]):
            with pytest.raises(ValueError, match="is out of range"):
                f.read_many(rows, beyond)


def test_bad_arguments(disk_dir: Path) -> None:
    make(disk_dir / "file", MIB)
    array = gio.zeros((3, PAGE), "u1")
    with gio.open(disk_dir / "file") as f:
        with pytest.raises(ValueError, match="3 arrays and 2 offsets"):
            f.read_many(array, [0, 1])
        with pytest.raises(ValueError, match="-1 is out of range"):
            f.read_many(array, [0, -1, 2])
        with pytest.raises(ValueError, match="out of range"):
            f.read_many(array, np.array([0, 2**63 - 1, 0], np.uint64))
        with pytest.raises(TypeError, match="1-d array of integers"):
            f.read_many(array, [0.5, 1, 2])
        with pytest.raises(TypeError, match="1-d array of integers"):
            f.read_many(array, [[0, 1, 2]])
        with pytest.raises(ValueError, match="twice"):
            f.read_many([array[0], array[0]], [0, PAGE])
        with pytest.raises(ValueError, match="read-only"):
            f.read_many([np.frombuffer(b"1234", "u1")], [0])
        with pytest.raises(ValueError, match="0-d"):
            f.read_many(gio.zeros((), "u1"), [0])
        with pytest.raises(PermissionError):
            f.write_many(array, [0, 1, 2])
    with pytest.raises(ValueError, match="closed"):
        f.read_many(array, [0, 1, 2])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_against_a_bytearray(
    disk_dir: Path, queue: gio.CompletionQueue, direct: bool | None, data: st.DataObject
) -> None:
    """Places that do not overlap, in any order, of any lengths, from anywhere in memory."""
    cuts = sorted(data.draw(st.sets(st.integers(0, 40 * KIB), min_size=2, max_size=12)))
    pieces = data.draw(st.permutations(list(zip(cuts, cuts[1:], strict=False))))
    model = bytearray(words(0, 50 * KIB, 1).tobytes())
    (disk_dir / "file").write_bytes(model)
    arrays = []
    for begin, end in pieces:
        content = words(begin, end - begin, 2)
        model[begin:end] = content.tobytes()
        arrays.append(placed(content, data.draw(st.sampled_from([0, 0, 512, 3]))))
    with gio.open(disk_dir / "file", "r+", direct=direct, queue=queue) as f:
        total = cuts[-1] - cuts[0]
        assert f.write_many(arrays, [begin for begin, _ in pieces]).result(FOREVER) == total
        back = [target(end - begin, data.draw(st.sampled_from([0, 512, 3]))) for begin, end in pieces]
        assert f.read_many(back, [begin for begin, _ in pieces]).result(FOREVER) == total
    assert (disk_dir / "file").read_bytes() == bytes(model)
    for array, found in zip(arrays, back, strict=True):
        assert_same_bytes(found, array)


@not_under_wine("transfers go through locked ranges")
def test_locks_are_honored_place_by_place(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    path = disk_dir / "file"
    make(path, MIB)
    rows = gio.zeros((3, PAGE), "u1")
    with gio.open(path, "r+", queue=queue) as mine, gio.open(path, "r+") as other:
        with other.lock(10 * PAGE, PAGE):
            assert mine.write_many(rows, [0, 5 * PAGE, 20 * PAGE]).result(FOREVER) == rows.nbytes
            with pytest.raises(gio.LockedError):
                mine.write_many(rows, [0, 10 * PAGE + 5, 20 * PAGE]).result(FOREVER)
        with mine.lock(10 * PAGE, PAGE):
            assert mine.write_many(rows, [0, 10 * PAGE + 5, 20 * PAGE]).result(FOREVER) == rows.nbytes


@not_under_wine("transfers go through locked ranges")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_lock_beside_the_places_and_one_under_the_last_byte(
    disk_dir: Path, open_file: Opener, direction: str, count: int
) -> None:
    """A batch asks for its own places, all of each, and for nothing else: one of a single array, too."""
    path = disk_dir / "file"
    make(path, MIB)
    places = [10 * PAGE, 30 * PAGE, 20 * PAGE][:count]
    arrays = [placed(words(place, PAGE + 100)) for place in places]
    first, end = min(places), max(places) + PAGE + 100
    with open_file(path, "r+") as mine, gio.open(path, "r+") as other:

        def move() -> int:
            return getattr(mine, f"{direction}_many")(arrays, places).result(FOREVER)

        for offset, length in ((0, first), (0, 10), (first - 1, 1), (end, 1), (end, MIB)):
            with other.lock(offset, length):
                assert move() == count * (PAGE + 100)
        for place in places:
            for offset, length in ((place, 1), (place + PAGE + 99, 1), (place + PAGE + 99, MIB)):
                with other.lock(offset, length):
                    with pytest.raises(gio.LockedError) as told:
                        move()
                    assert told.value.bytes_in_place == 0
            for offset in (place - 1, place + PAGE + 100):
                with other.lock(offset, 1):
                    assert move() == count * (PAGE + 100)
    assert_same_bytes(path.read_bytes(), words(0, MIB))
