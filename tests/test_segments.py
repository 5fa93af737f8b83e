"""Segments: the list of places in memory, built once and used many times."""

from __future__ import annotations

import gc
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from oracle import PAGE, assert_same_bytes, pages, placed, target, words

import gatherio as gio


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


def test_rows_beyond_4_gib_of_addresses() -> None:
    """The table's arithmetic is in 64 bits; nothing is touched."""
    array = np.lib.stride_tricks.as_strided(np.zeros(1, "u1"), (2**20, 8192), (8192, 1))
    segments = gio.Segments.rows(array, [2**20 - 1, 0])
    assert segments.nbytes == 16384
    last, first = segments._table[:, 0].tolist()
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
