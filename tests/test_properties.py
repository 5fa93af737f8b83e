"""Random sequences of operations against a bytearray that is the file as it should be."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import BACKENDS, KIB, ON_WINDOWS, PAGE, assert_same_bytes, fault, placed, target

import gatherio as gio

# Near the boundaries that matter, and anywhere.
around = st.builds(
    lambda base, step: max(0, base + step),
    st.sampled_from([0, 512, PAGE, 2 * PAGE, 3 * PAGE, 5 * PAGE, 16 * PAGE]),
    st.sampled_from([-513, -512, -1, 0, 0, 0, 1, 7, 512]),
)
offsets = around | st.integers(0, 100_000)
lengths = around | st.integers(0, 30_000)
shifts = st.sampled_from([0, 0, 1, 8, 511, 512, 1000])
pieces = st.tuples(lengths, shifts)


class Write(NamedTuple):
    offset: int
    length: int
    shift: int


class Read(NamedTuple):
    offset: int
    length: int
    shift: int


class Gather(NamedTuple):
    offset: int
    pieces: list[tuple[int, int]]
    copy: bool | None


class Scatter(NamedTuple):
    offset: int
    pieces: list[tuple[int, int]]
    copy: bool | None


class GatherPages(NamedTuple):
    """What can be done without a copy, in any order of memory."""

    page: int
    order: list[int]
    copy: bool | None
    tail: int


class ScatterPages(NamedTuple):
    page: int
    order: list[int]
    copy: bool | None


class Truncate(NamedTuple):
    size: int


class Preallocate(NamedTuple):
    size: int


class Reopen(NamedTuple):
    pass


orders = st.permutations(range(24)).flatmap(lambda all_: st.integers(1, 24).map(lambda n: all_[:n]))
copies = st.sampled_from([False, None, True])
staged = st.sampled_from([None, True])
steps = st.one_of(
    st.builds(Write, offsets, lengths, shifts),
    st.builds(Read, offsets, lengths, shifts),
    st.builds(Gather, offsets, st.lists(pieces, max_size=6), staged),
    st.builds(Scatter, offsets, st.lists(pieces, max_size=6), staged),
    st.builds(GatherPages, st.integers(0, 20), orders, copies, st.integers(0, 8)),
    st.builds(ScatterPages, st.integers(0, 20), orders, copies),
    st.builds(Truncate, offsets),
    st.builds(Preallocate, offsets),
    st.builds(Reopen),
)


class Machine:
    """The file, and the bytearray that says what it should hold."""

    def __init__(self, path: Path, queue: gio.CompletionQueue, direct: bool | None) -> None:
        self.path, self.queue, self.direct = path, queue, direct
        self.model = bytearray()
        self.random = np.random.default_rng(0)
        self.f = gio.open(path, "w+", direct=direct, queue=queue)

    def some(self, nbytes: int) -> np.ndarray[Any, Any]:
        return self.random.integers(1, 256, nbytes, "u1")  # no zeros: those are holes

    def put(self, offset: int, data: bytes) -> None:
        if data:
            self.model.extend(bytes(max(0, offset + len(data) - len(self.model))))
            self.model[offset : offset + len(data)] = data

    def check_read(self, arrays: list[np.ndarray[Any, Any]], offset: int, count: int) -> None:
        found = b"".join(array.tobytes() for array in arrays)
        expected = bytes(self.model[offset : offset + len(found)])
        assert count == len(expected)
        assert_same_bytes(found[:count], expected, offset)

    def run(self, step: Any) -> None:
        match step:
            case Write(offset, length, shift):
                data = self.some(length)
                assert self.f.write_at(placed(data, shift), offset).result() == length
                self.put(offset, data.tobytes())
            case Read(offset, length, shift):
                array = target(length, shift)
                self.check_read([array], offset, self.f.read_at(array, offset).result())
            case Gather(offset, parts, copy):
                arrays = [placed(self.some(length), shift) for length, shift in parts]
                total = sum(length for length, _ in parts)
                assert self.f.write_gather(arrays, offset, copy=copy).result() == total
                self.put(offset, b"".join(array.tobytes() for array in arrays))
            case Scatter(offset, parts, copy):
                arrays = [target(length, shift) for length, shift in parts]
                self.check_read(arrays, offset, self.f.read_scatter(arrays, offset, copy=copy).result())
            case GatherPages(page, order, copy, tail):
                memory = placed(self.some(24 * PAGE)).reshape(24, PAGE)
                arrays = [memory[i] for i in order]
                if tail:
                    block = self.f.alignment
                    arrays[-1] = arrays[-1][: max(block, tail * 512 // block * block)]
                total = sum(array.nbytes for array in arrays)
                assert self.f.write_gather(arrays, page * PAGE, copy=copy).result() == total
                self.put(page * PAGE, b"".join(array.tobytes() for array in arrays))
            case ScatterPages(page, order, copy):
                memory = target(24 * PAGE).reshape(24, PAGE)
                segments = gio.Segments.rows(memory, order)
                count = self.f.read_scatter(segments, page * PAGE, copy=copy).result()
                self.check_read([memory[i] for i in order], page * PAGE, count)
                rest = np.delete(memory, order, axis=0)
                assert (rest == 0xDD).all()
            case Truncate(size):
                self.f.truncate(size)
                del self.model[size:]
                self.model.extend(bytes(size - len(self.model)))
            case Preallocate(size):
                self.f.preallocate(size)
            case Reopen():
                self.close()
                self.f = gio.open(self.path, "r+", direct=self.direct, queue=self.queue)
        if not self.f.closed:
            assert self.f.size == len(self.model)

    def close(self) -> None:
        self.f.close()
        assert_same_bytes(self.path.read_bytes(), bytes(self.model))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("place", ["disk", "buffered"] if ON_WINDOWS else ["disk", "tmpfs", "buffered"])
def test_any_sequence(name: str, place: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue("tmpfs_dir" if place == "tmpfs" else "disk_dir")

    # A shallow queue of small requests: everything has to be cut up, and to wait.
    with gio.CompletionQueue(3, backend=name, request_size=16 * KIB) as queue:

        @settings(
            max_examples=250,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(steps, max_size=12))
        def check(sequence: list[Any]) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as inner:
                machine = Machine(Path(inner, "file"), queue, False if place == "buffered" else None)
                try:
                    for step in sequence:
                        machine.run(step)
                    machine.close()
                finally:
                    machine.f.close()

        check()


@pytest.mark.parametrize("name", BACKENDS)
def test_any_sequence_of_short_transfers(disk_dir: Path, name: str) -> None:
    """The same, with every few requests cut short at a count that changes."""

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(steps, max_size=8), st.integers(PAGE, 3 * PAGE))
    def check(sequence: list[Any], value: int) -> None:
        with (
            tempfile.TemporaryDirectory(dir=disk_dir) as inner,
            gio.CompletionQueue(3, backend=name, request_size=16 * KIB) as queue,
        ):
            machine = Machine(Path(inner, "file"), queue, None)
            try:
                for i, step in enumerate(sequence):
                    with fault(queue, "SHORT", after=i % 3, count=2 + i, value=value):
                        machine.run(step)
                machine.close()
            finally:
                machine.f.close()

    check()


@pytest.mark.parametrize("name", BACKENDS)
def test_any_set_of_operations_in_flight_together(disk_dir: Path, name: str) -> None:
    """Writes that do not overlap, all submitted at once and in any order; then reads of the same kind."""

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(pieces, min_size=1, max_size=40), st.randoms(use_true_random=False), offsets)
    def check(parts: list[tuple[int, int]], random: Any, start: int) -> None:
        data = np.random.default_rng(len(parts)).integers(1, 256, sum(n for n, _ in parts), "u1")
        begins = np.cumsum([0, *(n for n, _ in parts)])[:-1].tolist()
        jobs = list(zip(begins, parts, strict=True))
        random.shuffle(jobs)
        with (
            tempfile.TemporaryDirectory(dir=disk_dir) as inner,
            gio.CompletionQueue(5, backend=name, request_size=16 * KIB) as queue,
            gio.open(Path(inner, "file"), "w+", queue=queue) as f,
        ):
            writes = [f.write_at(placed(data[at : at + n], shift), start + at) for at, (n, shift) in jobs]
            assert sum(operation.result() for operation in writes) == data.size
            content = Path(inner, "file").read_bytes()
            if data.size:
                assert content[:start] == bytes(start)
                assert_same_bytes(content[start:], data)
            arrays = [(at, target(n, shift)) for at, (n, shift) in jobs]
            gio.wait([f.read_at(array, start + at) for at, array in arrays])
            for at, array in arrays:
                assert_same_bytes(array, data[at : at + array.size])

    check()
