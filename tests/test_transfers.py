"""Transfers: what is written is what plain `open` reads, for every backend, way and file system."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import (
    BACKENDS,
    GIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    pages,
    placed,
    target,
    words,
)

import gatherio as gio

Opener = Callable[..., gio.File]

# One byte to either side of each boundary that matters: a word, a disk's block, a page, two pages.
EDGES = [0, 1, 7, 511, 512, 513, PAGE - 1, PAGE, PAGE + 1, PAGE + 512, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1]


# --- gather and scatter ---


def test_gather_and_scatter_whole_pages(any_folder: Path, open_file: Opener) -> None:
    count = 300
    path = any_folder / "file"
    with open_file(path, "w+") as f:
        assert f.write_gather(pages(count), 0).result() == count * PAGE
        assert_same_bytes(path.read_bytes(), words(0, count * PAGE))
        order = random.Random(1).sample(range(2 * count), count)
        memory = gio.full((2 * count, PAGE), 0xDD, "u1")
        assert f.read_scatter([memory[i] for i in order], 0).result() == count * PAGE
    assert_same_bytes(memory[order], words(0, count * PAGE))
    assert (np.delete(memory, order, axis=0) == 0xDD).all()


def test_list_order_is_file_order(folder: Path, open_file: Opener) -> None:
    """Backwards in memory, one of them three times."""
    memory = gio.empty((5, 2 * PAGE), "u1")
    memory[...] = words(0, 10 * PAGE).reshape(memory.shape)
    order = [4, 2, 2, 0, 1, 2, 3]
    with open_file(folder / "file", "w") as f:
        f.write_gather([memory[i] for i in order], 3 * PAGE).result()
    assert_same_bytes((folder / "file").read_bytes()[3 * PAGE :], memory[order])


def test_arrays_of_many_shapes_and_types(folder: Path, open_file: Opener) -> None:
    arrays = [
        gio.full((4, 1024), 1.5, "f4"),
        gio.full((2, 256, 8), 7, "i8"),
        gio.zeros(0, "f8"),
        gio.full(512, np.datetime64("2024-02-29", "ns"), "M8[ns]"),
        gio.zeros(256, [("a", "<i4"), ("b", "<f8"), ("c", "S4")]),
        gio.full(100, "text", "U8"),
    ]
    arrays[4]["b"] = np.arange(256)
    data = b"".join(array.tobytes() for array in arrays)
    with open_file(folder / "file", "w+") as f:
        assert f.write_gather(arrays, 0, copy=None).result() == len(data)
        assert_same_bytes((folder / "file").read_bytes(), data)
        back = [gio.zeros(array.shape, array.dtype) for array in arrays]
        assert f.read_scatter(back, 0, copy=None).result() == len(data)
    for found, expected in zip(back, arrays, strict=True):
        assert_same_bytes(found.tobytes(), expected.tobytes())


def test_read_only_arrays_can_be_written(folder: Path, open_file: Opener) -> None:
    array = placed(words(0, 2 * PAGE))
    array.flags.writeable = False
    with open_file(folder / "file", "w") as f:
        f.write_gather([array], 0).result()
        f.write_at(array, 2 * PAGE).result()
    assert_same_bytes((folder / "file").read_bytes(), np.tile(words(0, 2 * PAGE), 2))


@pytest.mark.parametrize("copy", [False, None, True])
def test_more_segments_than_one_request_takes(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener, copy: bool | None
) -> None:
    """3000 pages, no two of them neighbours: three requests at least where nothing is copied."""
    count = 3000
    memory = gio.empty((2 * count, PAGE), "u1")
    order = np.random.default_rng(2).permutation(count) * 2
    memory[order] = words(0, count * PAGE).reshape(count, PAGE)
    segments = gio.Segments.rows(memory, order)
    with open_file(folder / "file", "w+") as f:
        assert f.write_gather(segments, 0, copy=copy).result() == count * PAGE
        assert_same_bytes((folder / "file").read_bytes(), words(0, count * PAGE))
        if copy is not True and (f.direct or not ON_WINDOWS):  # there, gathers are for direct files
            assert queue.stats()["gathers"] >= 3
        memory[...] = 0xDD
        assert f.read_scatter(segments, 0, copy=copy).result() == count * PAGE
    assert_same_bytes(memory[order], words(0, count * PAGE))
    assert (memory[1::2] == 0xDD).all()


def test_contiguous_runs_are_plain_reads_and_writes(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    memory = placed(words(0, 100 * PAGE)).reshape(100, PAGE)
    with open_file(folder / "file", "w+") as f:
        f.write_gather(list(memory), 0).result()
        f.read_scatter(list(memory), 0).result()
    stats = queue.stats()
    assert (stats["writes"], stats["reads"], stats["gathers"], stats["scatters"]) == (1, 1, 0, 0)


@pytest.mark.parametrize("copy", [None, True])
def test_unaligned_arrays_are_staged(any_folder: Path, open_file: Opener, copy: bool | None) -> None:
    rng = random.Random(3)
    for offset in (0, 100, PAGE, 3 * PAGE + 513):
        lengths = [rng.choice([0, 1, 100, 511, 512, PAGE, 5000, 70_000, 300_000]) for _ in range(40)]
        begins = [offset + sum(lengths[:i]) for i in range(len(lengths))]
        arrays = [
            placed(words(begin, length), rng.choice([0, 1, 8, 512, 1000]))
            for begin, length in zip(begins, lengths, strict=True)
        ]
        total = sum(lengths)
        with open_file(any_folder / "file", "w+") as f:
            assert f.write_gather(arrays, offset, copy=copy).result() == total
            content = (any_folder / "file").read_bytes()
            assert content[:offset] == bytes(offset)
            assert_same_bytes(content[offset:], words(offset, total), offset)
            back = [target(length, rng.choice([0, 3, 512])) for length in lengths]
            assert f.read_scatter(back, offset, copy=copy).result() == total
        for found, begin in zip(back, begins, strict=True):
            assert_same_bytes(found, words(begin, found.size), begin)


def test_only_what_must_be_is_copied(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        f.write_gather([placed(words(0, MIB))], 0, copy=None).result()
        assert queue.stats()["staged"] == 0
        f.write_gather([placed(words(0, MIB))], 0, copy=True).result()
        assert queue.stats()["staged"] > 0


# --- what cannot be done without a copy ---


def test_alignment_is_checked_before_any_request(
    any_folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    """The same exception everywhere: also where the file system would have taken it."""
    page, two = gio.zeros(PAGE, "u1"), gio.zeros(2 * PAGE, "u1")
    matrix = gio.zeros((64, PAGE), "u1")
    cases = [
        ([placed(words(0, PAGE), 8)], 0, "starts 8 bytes behind a page boundary"),
        ([page, placed(words(0, PAGE), 512)], 0, "array 1 of 2 .* starts 512 bytes behind"),
        ([page[:512], page], 0, "array 0 of 2 .* no whole number of pages"),
        ([page, two[: PAGE + 512], page], 0, "array 1 of 3 .* no whole number of pages"),
        ([page, two[:100]], 0, "ends the transfer at no multiple of"),
        ([page[:1]], 0, "ends the transfer at no multiple of"),
        ([page], 1, "offset 1 is no multiple of the file's alignment"),
        ([page], PAGE + 100, "offset .* is no multiple"),
        ([page], 511, "offset 511 is no multiple"),
        ([matrix[:, :100]], 0, "not C-contiguous"),
        ([matrix.T], 0, "not C-contiguous"),
        ([page[::-1]], 0, "not C-contiguous"),
    ]
    with open_file(any_folder / "file", "w+") as f:
        for arrays, offset, text in cases:
            for transfer in (f.write_gather, f.read_scatter):
                with pytest.raises(gio.AlignmentError, match=text):
                    transfer(arrays, offset)
        assert queue.stats()["operations"] == 0
        assert f.size == 0
        with pytest.raises(gio.AlignmentError, match="copy=None.*gatherio.empty"):
            f.write_gather([page[:-1]], 0)
    assert issubclass(gio.AlignmentError, ValueError)


def test_the_last_array_may_end_at_a_block_of_the_file(any_folder: Path, open_file: Opener) -> None:
    with open_file(any_folder / "file", "w+") as f:
        block = f.alignment
        array = placed(words(0, 4 * PAGE))
        assert f.write_gather([array[:PAGE], array[PAGE : 2 * PAGE + block]], 0).result() == 2 * PAGE + block
        assert f.write_gather([array[:PAGE]], 2 * PAGE + block).result() == PAGE
    expected = np.concatenate([words(0, 2 * PAGE + block), words(0, PAGE)])
    assert_same_bytes((any_folder / "file").read_bytes(), expected)


@pytest.mark.parametrize("copy", [False, None, True])
def test_arguments_that_make_no_sense(folder: Path, open_file: Opener, copy: bool | None) -> None:
    array = gio.zeros((4, PAGE), "u1")
    locked = gio.zeros(PAGE, "u1")
    locked.flags.writeable = False
    objects = np.empty(3, object)
    with open_file(folder / "file", "w+") as f:
        for transfer in (f.write_gather, f.read_scatter):
            for arrays, offset, kind in (
                ([array], -1, ValueError),
                ([array], 2**63, ValueError),
                ([array], 2**63 - PAGE, ValueError),
                ([array], 1.0, TypeError),
                ([array], None, TypeError),
                (array, 0, TypeError),
                ([array, b"bytes"], 0, TypeError),
                ([array, None], 0, TypeError),
                ([objects], 0, TypeError),
                (7, 0, TypeError),
            ):
                with pytest.raises(kind):
                    transfer(arrays, offset, copy=copy)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="copy is"):
                transfer([array], 0, copy="maybe")  # type: ignore[arg-type]
        for arrays in ([locked], [array[0], locked], [array[1], array[1]], [array[:2], array[1:]]):
            with pytest.raises(ValueError):
                f.read_scatter(arrays, 0, copy=copy)
        for one in (f.write_at, f.read_at):
            for data, offset, kind in (
                (array, -1, ValueError),
                (array, 2**63, ValueError),
                (array, 0.5, TypeError),
                (array.T, 0, ValueError),
                (array[:, ::2], 0, ValueError),
                ([array], 0, TypeError),
                (b"bytes", 0, TypeError),
                (objects, 0, TypeError),
            ):
                with pytest.raises(kind):
                    one(data, offset)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="read-only"):
            f.read_at(locked, 0)
        assert f.size == 0


# --- one array, anywhere ---


@pytest.mark.parametrize("shift", [0, 1])
def test_write_at_every_edge(any_folder: Path, open_file: Opener, shift: int) -> None:
    """Into a file that has bytes before and behind: none of them changes."""
    path = any_folder / "file"
    old = words(0, 5 * PAGE, salt=1)
    room = placed(words(0, 8 * PAGE, salt=2), shift)
    with open_file(path, "w+") as f:
        f.write_at(old, 0).result()
        for offset, length in itertools.product(EDGES, EDGES):
            data = words(offset, length, salt=2)
            source = room[:length]
            source[...] = data
            assert f.write_at(source, offset).result() == length
            content = np.fromfile(path, "u1")
            assert_same_bytes(content[:offset], old[:offset])
            assert_same_bytes(content[offset : offset + length], data, offset)
            assert_same_bytes(content[offset + length :], old[offset + length :], offset + length)
            f.write_at(old, 0).result()


def test_read_at_every_edge(any_folder: Path, open_file: Opener) -> None:
    path = any_folder / "file"
    size = 4 * PAGE + 100
    path.write_bytes(words(0, size))
    with open_file(path, "r") as f:
        for offset, length, shift in itertools.product(EDGES, EDGES, (0, 1, 512)):
            array = target(length + 64, shift)
            count = f.read_at(array[:length], offset).result()
            assert count == max(0, min(length, size - offset))
            assert_same_bytes(array[:count], words(offset, count), offset)
            assert (array[length:] == 0xDD).all()


@pytest.mark.parametrize("reserve", [None, 16 * PAGE])
def test_a_file_that_grows_ends_where_the_data_ends(any_folder: Path, open_file: Opener, reserve: int | None) -> None:
    """And holds zeros where nothing was written: no stale bytes, no padding."""
    path = any_folder / "file"
    path.write_bytes(b"\xaa" * 10 * PAGE)  # blocks with something in them, to be re-used
    for offset, length in itertools.product(EDGES, EDGES[1:]):
        with open_file(path, "w", preallocate=reserve) as f:
            f.write_at(placed(words(offset, length)), offset).result()
        content = path.read_bytes()
        assert content[:offset] == bytes(offset)
        assert_same_bytes(content[offset:], words(offset, length), offset)


def test_a_shorter_rewrite_leaves_what_is_behind_it(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w+") as f:
        f.write_at(words(0, 10_000, 1), 0).result()
        f.write_at(words(0, 5000, 2), 0).result()
        f.truncate(7000)
        f.truncate(9000)
    expected = np.concatenate([words(0, 10_000, 2)[:5000], words(0, 7000, 1)[5000:], np.zeros(2000, "u1")])
    assert_same_bytes((folder / "file").read_bytes(), expected)


@pytest.mark.parametrize("handles", [1, 2])
@pytest.mark.parametrize("unit", [1, 512])
def test_neighbours_in_flight_together_do_not_harm_each_other(
    folder: Path, open_file: Opener, unit: int, handles: int
) -> None:
    """Many writes that meet within a page, from many threads, through one File or two.

    In units of one byte, and of 512: then some may go around the page cache and some may not.
    """
    rng = random.Random(unit * handles)
    for round_ in range(6):
        lengths = [rng.choice([1, 3, 8, 11]) * unit + rng.randrange(0, 2) * (unit // 2) for _ in range(240)]
        begins = list(itertools.accumulate(lengths, initial=0))
        pieces = list(zip(begins[:-1], lengths, strict=True))
        rng.shuffle(pieces)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open_file(folder / "file", "w")) for _ in range(handles)]
            start = threading.Barrier(4)

            def write(
                share: list[tuple[int, int]],
                f: gio.File,
                start: threading.Barrier = start,
                salt: int = round_,
            ) -> None:
                start.wait()
                for operation in [f.write_at(words(at, n, salt), at) for at, n in share]:
                    operation.result()

            threads = [threading.Thread(target=write, args=(pieces[i::4], files[i % handles])) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert_same_bytes((folder / "file").read_bytes(), words(0, begins[-1], round_))


@pytest.mark.parametrize("unit", [1, 512])
def test_neighbours_of_two_processes_do_not_harm_each_other(folder: Path, backend: str, unit: int) -> None:
    script = """
        import sys, random, gatherio as gio
        from oracle import words
        path, backend, unit, parity = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        print("ready", flush=True)
        sys.stdin.readline()
        with gio.CompletionQueue(backend=backend) as q, gio.open(path, "r+", queue=q) as f:
            lengths = [(1 + i % 7) * unit + (i % 3 == 1) * (unit // 2) for i in range(1200)]
            begins = [sum(lengths[:i]) for i in range(len(lengths))]
            mine = list(zip(begins, lengths))[parity::2]
            operations = [f.write_at(words(at, n), at) for at, n in mine]
            for operation in operations:
                operation.result()
    """
    (folder / "file").touch()
    command = [sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    writers = [
        subprocess.Popen(
            [*command, folder / "file", backend, str(unit), str(parity)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for parity in (0, 1)
    ]
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
    assert [writer.returncode for writer in writers] == [0, 0]
    total = sum((1 + i % 7) * unit + (i % 3 == 1) * (unit // 2) for i in range(1200))
    assert_same_bytes((folder / "file").read_bytes(), words(0, total))


# --- far and large ---


@pytest.mark.parametrize("offset", [2**31 - 100, 2**32 - PAGE, 2**32 + 512, 5 * GIB + 123, 2**40 + 77])
def test_far_offsets(folder: Path, open_file: Opener, offset: int) -> None:
    """Beyond 31 and 32 bits; the files are sparse."""
    length = 3 * PAGE + 100
    with open_file(folder / "file", "w+") as f:
        assert f.write_at(placed(words(offset, length), 8), offset).result() == length
        assert f.size == offset + length
        array = target(length, 8)
        assert f.read_at(array, offset).result() == length
        assert_same_bytes(array, words(offset, length), offset)
        even = offset // PAGE * PAGE
        f.write_gather([placed(words(even, PAGE, 1))], even).result()
    with open(folder / "file", "rb") as plain:
        plain.seek(offset)
        content = plain.read()
        plain.seek(even)
        assert_same_bytes(plain.read(PAGE), words(even, PAGE, 1), even)
    behind = even + PAGE
    assert_same_bytes(content[behind - offset :], words(behind, offset + length - behind), behind)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
def test_more_than_2_gib_in_one_call(disk_dir: Path, backend: str) -> None:
    """Written from one small region again and again; read as one array, in requests of the largest size."""
    rows = 33
    region = gio.empty((rows, MIB), "u1")
    region.reshape(-1)[...] = words(0, rows * MIB)
    order = [i * 7 % rows for i in range(2 * 1024 + 3)]
    total = len(order) * MIB
    with gio.CompletionQueue(backend=backend) as queue:
        with gio.open(disk_dir / "file", "w", queue=queue, preallocate=total) as f:
            assert f.write_gather(gio.Segments.rows(region, order), 0).result() == total
    assert (disk_dir / "file").stat().st_size == total > 2 * GIB
    with open(disk_dir / "file", "rb") as plain:
        for i in [0, 1, 1023, 2047, 2048, len(order) - 1]:
            plain.seek(i * MIB)
            assert plain.read(MIB) == region[order[i]].tobytes()
    array = gio.empty((len(order), MIB), "u1")
    with gio.CompletionQueue(backend=backend, request_size=2**33) as queue:
        with gio.open(disk_dir / "file", queue=queue) as f:
            assert f.read_scatter([array], 0).result() == total
        assert queue.stats()["reads"] >= 2  # one request moves less than 2 GiB
    for i, row in enumerate(order):
        assert np.array_equal(array[i], region[row]), i


# --- the end of the file ---


@pytest.mark.parametrize("size", [0, 1, 100, 512, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 100])
def test_reading_at_the_end(any_folder: Path, open_file: Opener, size: int) -> None:
    (any_folder / "file").write_bytes(words(0, size))
    with open_file(any_folder / "file", "r") as f:
        for offset in (size, size + 1, size + PAGE, size // PAGE * PAGE + 10 * PAGE, 2**40 + 1):
            assert f.read_at(target(1000), offset).result() == 0
        for offset in (0, size // 2, max(size - 1, 0)):
            array = target(5 * PAGE)
            assert f.read_at(array, offset).result() == size - offset
            assert_same_bytes(array[: size - offset], words(offset, size - offset), offset)
        memory = gio.full((10, PAGE), 0xDD, "u1")
        even = size // PAGE * PAGE
        assert f.read_scatter(list(memory[::2]), 0).result() == size
        assert_same_bytes(memory[::2].tobytes()[:size], words(0, size))
        assert (memory[1::2] == 0xDD).all()
        assert f.read_scatter([memory[0]], even).result() == size - even
        assert f.read_scatter([memory[0]], even + PAGE).result() == 0


def test_a_long_read_across_the_end(folder: Path, backend: str, direct: bool | None) -> None:
    """Many requests, most of them behind the end."""
    size = 1_000_001
    (folder / "file").write_bytes(words(0, size))
    with gio.CompletionQueue(backend=backend, request_size=64 * 1024) as queue:
        with gio.open(folder / "file", queue=queue, direct=direct) as f:
            array = target(4 * MIB)
            assert f.read_at(array, 0).result() == size
            assert_same_bytes(array[:size], words(0, size))
            assert f.read_at(array[:-3], 3).result() == size - 3
            assert_same_bytes(array[: size - 3], words(3, size - 3), 3)


def test_a_zero_length_write_touches_nothing(folder: Path, open_file: Opener) -> None:
    path = folder / "file"
    path.write_bytes(words(0, 100))
    second = 10**9
    os.utime(path, ns=(second, second))
    with open_file(path, "r+") as f:
        for operation in (
            f.write_at(gio.zeros(0, "u1"), 1 << 30),
            f.write_at(np.zeros((0, 5)), 7),
            f.write_gather([], 3 * PAGE),
            f.write_gather([gio.zeros((3, 0))], 0),
            f.write_gather([np.zeros(0)], 10, copy=None),
            f.read_at(gio.zeros(0, "u1"), 0),
            f.read_scatter([], 0),
        ):
            assert operation.result() == 0
            assert operation.done() and operation.exception() is None
    assert path.stat().st_mtime_ns == second
    assert_same_bytes(path.read_bytes(), words(0, 100))
