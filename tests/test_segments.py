"""Segments: the list of places in memory, built once and used many times."""

from __future__ import annotations

import gc
import operator
import sys
import time
import weakref
from collections import UserList, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import PAGE, assert_same_bytes, pages, placed, target, words

import gatherio as gio


class Index:
    """An integer of a type of its own."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value})"


def addresses(segments: gio.Segments) -> list[int]:
    return [segment.address for segment in segments._native]


def test_length_and_bytes() -> None:
    arrays = [gio.zeros(10, "f8"), gio.zeros((3, 5), "u1"), gio.zeros(0), gio.zeros((), "i4")]
    segments = gio.Segments(arrays)
    assert len(segments) == 4
    assert segments.nbytes == 80 + 15 + 0 + 4 and type(segments.nbytes) is int
    assert "4 segments, 99 bytes" in repr(segments)
    assert len(gio.Segments([])) == 0 and gio.Segments([]).nbytes == 0
    assert len(gio.Segments(array for array in arrays)) == 4  # any iterable


def test_they_keep_their_arrays() -> None:
    arrays = pages(3)
    seen = [weakref.ref(array) for array in arrays]
    segments = gio.Segments(arrays)
    rows = gio.Segments.rows(target(4 * PAGE).reshape(4, PAGE), [1, 2])
    del arrays
    gc.collect()
    assert all(ref() is not None for ref in seen)
    del segments
    gc.collect()
    assert all(ref() is None for ref in seen)
    assert len(rows) == 2


def test_they_are_used_many_times(folder: Path, direct: bool | None) -> None:
    memory = placed(words(0, 10 * PAGE)).reshape(10, PAGE)
    segments = gio.Segments([memory[i] for i in (7, 1, 4)])
    with gio.open(folder / "file", "w+", direct=direct) as f:
        for at in range(0, 30, 3):
            f.write_gather(segments, at * PAGE)
        f.flush()
        memory[[7, 1, 4]] = 0
        assert f.read_scatter(segments, 3 * PAGE).result() == 3 * PAGE
    assert_same_bytes(memory[[7, 1, 4]], words(0, 10 * PAGE).reshape(10, PAGE)[[7, 1, 4]])
    expected = np.tile(memory[[7, 1, 4]].reshape(-1), 10)
    assert_same_bytes((folder / "file").read_bytes(), expected)


@pytest.mark.parametrize(
    "indices",
    [
        [3, 1, 2],
        [-1, 0, -8],
        np.array([5, 5, 5], "u1"),
        np.array([7, 0], "i2"),
        np.array([6, 4], ">i8"),
        range(8),
        np.arange(16)[::2] // 2,
        [],
        (2,),
    ],
    ids=str,
)
def test_rows_are_those_of_numpy(quick_dir: Path, indices: object) -> None:
    array = placed(words(0, 8 * 100)).reshape(8, 4, 25)
    segments = gio.Segments.rows(array, indices)  # type: ignore[arg-type]
    expected = array[np.asarray(indices, "i8")]
    assert len(segments) == len(expected)
    assert segments.nbytes == expected.nbytes
    with gio.open(quick_dir / "file", "w") as f:
        f.write_gather(segments, 0, copy=None).result()
    assert (quick_dir / "file").read_bytes() == expected.tobytes()


def test_rows_of_what_has_none() -> None:
    array = gio.zeros((4, PAGE), "u1")
    for index in ([4], [0, 99], [-5], [2**40], [-(2**40)]):
        with pytest.raises(IndexError):
            gio.Segments.rows(array, index)
    with pytest.raises(IndexError):
        gio.Segments.rows(array[:0], [0])
    assert len(gio.Segments.rows(array[:0], [])) == 0
    for bad in ([0.5], [[0, 1]], [True, False, True, False], ["a"], 0, None):
        with pytest.raises((TypeError, IndexError)):
            gio.Segments.rows(array, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        gio.Segments.rows(gio.zeros(()), [0])
    with pytest.raises(gio.AlignmentError):
        gio.Segments.rows(array.T, [0])
    with pytest.raises(TypeError):
        gio.Segments.rows([[1, 2]], [0])  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        gio.Segments.rows(array, np.array([2**64 - 1], "u8"))  # not -1


@pytest.mark.parametrize(
    "indices",
    [
        [np.uint64(3), 1, 2],
        (np.uint64(7), -1, 0),
        [-8, np.uint64(0)],
        [np.int64(1), np.uint64(2)],
        [Index(2), 1],
        [np.uint64(2), Index(1), np.int8(-1)],
        deque([np.uint64(1), 5]),
        UserList([np.uint64(1), 5]),
        [np.array(2, "u8"), np.array(-2)],
    ],
    ids=str,
)
def test_rows_of_integers_of_several_types(indices: Any) -> None:
    """numpy makes float64 of uint64 together with signed integers."""
    array = gio.zeros((8, 100), "u1")
    start = array.ctypes.data
    expected = [start + operator.index(index) % 8 * 100 for index in indices]
    assert addresses(gio.Segments.rows(array, indices)) == expected


def test_rows_by_what_are_no_integers() -> None:
    array = gio.zeros((8, 100), "u1")
    mixed = np.array([np.uint64(3), 1])
    assert mixed.dtype == np.float64
    with pytest.raises(TypeError, match="integers, not of float64; numpy makes float64 of uint64 together with signed"):
        gio.Segments.rows(array, mixed)
    for bad in (
        [np.uint64(3), 1.0],
        [1.0, 2.0],
        [1, "2"],
        [1, None],
        [np.bool_(True), np.bool_(False)],
        np.array([True, False]),
        np.array([1, 2], object),
        [np.uint64(1), [2]],
        "12",
        b"12",
        iter([1, 2]),
    ):
        with pytest.raises((TypeError, ValueError)):
            gio.Segments.rows(array, bad)  # type: ignore[arg-type]
    for beyond in ([2**64, 1], [np.uint64(8), -1], [-(2**70)], [np.uint64(2**63), 0]):
        with pytest.raises(IndexError, match="out of range for 8 rows"):
            gio.Segments.rows(array, beyond)


def test_rows_are_those_that_were_checked() -> None:
    """The indices are copied: what another thread makes of them meanwhile leads nowhere else."""
    array, indices = gio.zeros((8, 100), "u1"), np.array([1, 2], np.int64)
    changed = False

    def change(frame: object, event: str, called: Any) -> None:
        nonlocal changed
        if (
            event == "c_return"
            and isinstance(getattr(called, "__self__", None), np.ndarray)
            and called.__name__ == "max"
        ):
            indices[:] = 1 << 40
            changed = True

    sys.setprofile(change)
    try:
        segments = gio.Segments.rows(array, indices)
    finally:
        sys.setprofile(None)
    assert changed
    assert addresses(segments) == [array.ctypes.data + 100, array.ctypes.data + 200]


def test_rows_beyond_4_gib_of_addresses() -> None:
    """The table's arithmetic is in 64 bits; nothing is touched."""
    array = np.lib.stride_tricks.as_strided(np.zeros(1, "u1"), (2**20, 8192), (8192, 1))
    segments = gio.Segments.rows(array, [2**20 - 1, 0])
    assert segments.nbytes == 16384
    last, first = addresses(segments)
    assert last - first == (2**20 - 1) * 8192


def test_a_place_twice_is_refused_for_a_scatter_only(folder: Path) -> None:
    array = gio.zeros((4, PAGE), "u1")
    again = [
        gio.Segments.rows(array, [0, 1, 0]),
        gio.Segments.rows(array, [-1, 3]),
        gio.Segments([array[0], array[0]]),
        gio.Segments([array[2], array[:3]]),
        gio.Segments([array.reshape(-1)[: PAGE + 512], array[1]]),
    ]
    with gio.open(folder / "file", "w+") as f:
        for segments in again:
            f.write_gather(segments, 0, copy=None).result()
            for copy in (False, None, True):
                with pytest.raises(ValueError):
                    f.read_scatter(segments, 0, copy=copy)
        neighbours = gio.Segments([array[1], array[0], array[2:2], array[2]])
        assert f.read_scatter(neighbours, 0).result() == 3 * PAGE


@pytest.mark.parametrize("copy", [False, None, True])
def test_targets_that_overlap_by_one_byte(folder: Path, copy: bool | None) -> None:
    """Wherever they stand in the list; and those that only touch do not overlap."""
    memory = gio.zeros(4 * PAGE, "u1")

    def piece(begin: int, end: int) -> Any:
        return memory[begin:end]

    overlapping = [
        [piece(0, PAGE + 1), piece(PAGE, 2 * PAGE)],
        [piece(PAGE, 2 * PAGE), piece(0, PAGE + 1)],
        [piece(0, 100), piece(99, 200)],
        [piece(0, 10), piece(2 * PAGE, 3 * PAGE), piece(9, 20), piece(3 * PAGE, 3 * PAGE + 1)],
        [piece(0, 3 * PAGE), piece(3 * PAGE - 1, 3 * PAGE)],
        [piece(5, 6), piece(0, 100)],
        [piece(7, 8), piece(7, 8)],
    ]
    touching = [
        [piece(0, PAGE), piece(PAGE, 2 * PAGE)],
        [piece(100, 200), piece(0, 100), piece(200, 201)],
        [piece(7, 8), piece(7, 7), piece(8, 9), piece(7, 7)],
    ]
    (folder / "file").write_bytes(words(0, 4 * PAGE).tobytes())
    with gio.open(folder / "file", "r+") as f:
        for arrays in overlapping:
            with pytest.raises(ValueError, match="twice" if copy is not False else None):
                f.read_scatter(arrays, 0, copy=copy)
            with pytest.raises(ValueError, match="twice"):
                f.read_many(arrays, [0, 5, 9, 77][: len(arrays)])
            assert not memory.any()
        for arrays in touching:
            expected = gio.Segments(arrays).nbytes
            if copy is not False or arrays is touching[0]:
                assert f.read_scatter(arrays, 0, copy=copy).result() == expected
            assert f.read_many(arrays, [0, 5, 9, 77][: len(arrays)]).result() == expected
        f.write_gather(overlapping[2], 0, copy=None).result()


def test_a_quarter_of_a_million_rows_take_no_loop() -> None:
    """10 ms on the machines measured; here with room for a slow one, and less than a loop could do."""
    count = 262_144
    array = np.lib.stride_tricks.as_strided(np.zeros(1, "u1"), (count, PAGE), (PAGE, 1))
    order = np.random.default_rng(4).permutation(count)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        segments = gio.Segments.rows(array, order)
        times.append(time.perf_counter() - begin)
    assert len(segments) == count
    assert min(times) < 0.05
