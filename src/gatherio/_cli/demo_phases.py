"""The demo's two phases: what is transferred, measured and checked.

Everything that is read is compared in every round; what is written is read back by plain means in the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _measure
from .._core.file import open as open_file
from .._core.operation import Operation
from .._core.queue import CompletionQueue
from .._formats import npy
from .._measure import Sample, measuring
from .._memory import pages
from .._memory.pages import PAGE_SIZE
from .._memory.segments import Segments

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

MIB: Final = 1 << 20
#: Rows of one array that go through a list of arrays and not through Segments.rows.
LISTED_MAX: Final = 2048
COMPARED_BYTES: Final = 8 * MIB


class Check(NamedTuple):
    """One comparison of what was transferred with what should have been."""

    what: str
    nbytes: int
    difference: str | None  # None: equal

    @property
    def ok(self) -> bool:
        """Whether all bytes were equal."""
        return self.difference is None


class Step(NamedTuple):
    """One transfer that is measured."""

    name: str
    library: Literal["gatherio", "numpy"]
    direction: Literal["write", "read"]


Steps: TypeAlias = dict[Step, Callable[[], Sample]]
"""What is measured, and what does it, checks it and gives the sample. In the order of the report."""


# --- comparing ---


def _bytes_of(array: Array) -> Bytes:
    return array.reshape(-1).view(np.uint8)


def _difference(found: Bytes, expected: Bytes, start: int) -> str | None:
    """Where and how two runs of bytes differ first; `start` is the place of their first byte."""
    for at in range(0, max(found.size, expected.size), COMPARED_BYTES):
        mine, theirs = found[at : at + COMPARED_BYTES], expected[at : at + COMPARED_BYTES]
        if np.array_equal(mine, theirs):
            continue
        if mine.size != theirs.size:
            return f"{found.size} bytes from byte {start} on, and {expected.size} expected"
        wrong = np.flatnonzero(mine != theirs)
        first = int(wrong[0])
        return (
            f"byte {start + at + first} is {mine[first]:#04x} and should be {theirs[first]:#04x}; "
            f"{wrong.size} of the {mine.size} bytes around it differ"
        )
    return None


def fill(array: Array, rng: np.random.Generator) -> Array:
    """Fill an array with random bytes, which no file system can compress, and return it."""
    words = _bytes_of(array).view(np.uint64)
    for at in range(0, words.size, MIB):
        part = words[at : at + MIB]
        part[:] = rng.integers(0, 2**64, part.size, np.uint64)
    return array


# --- the first phase: separate pages ---


class _Rows(NamedTuple):
    """An array whose rows are whole pages, and where they go."""

    source: Array
    target: Array
    order: npt.NDArray[np.int64]  # the rows in the order of the file; the other rows go through the list
    moved: npt.NDArray[np.int64]  # row i of the source ends up in row moved[i] of the target


class Pages:
    """Gathers the rows of several arrays into one file, and scatters them into others in another order."""

    def __init__(
        self, folder: Path, nbytes: int, queue: CompletionQueue, rng: np.random.Generator, checks: list[Check]
    ) -> None:
        self._folder, self._queue, self._checks = folder, queue, checks
        self._gathered = folder / "gathered.bin"
        self._checked: set[str] = set()
        count = nbytes // PAGE_SIZE
        event = np.dtype([("time", "<i8"), ("value", "<f4"), ("flags", "<u4")])
        self._rows = [
            _make_rows(rng, (count // 2, 2, PAGE_SIZE // 4), np.dtype(np.uint16)),
            _make_rows(rng, (count // 4, PAGE_SIZE // 16), event),
            _make_rows(rng, (count // 8, 4, PAGE_SIZE // 16), np.dtype(np.float64)),
        ]
        listed = [(rows, int(i)) for rows in self._rows for i in np.setdiff1d(np.arange(len(rows.source)), rows.order)]
        self._listed = [listed[i] for i in rng.permutation(len(listed))]
        self._listed_sources = [rows.source[i] for rows, i in self._listed]
        self._listed_targets = [rows.target[rows.moved[i]] for rows, i in self._listed]
        start = time.perf_counter()
        self._sources = [Segments.rows(rows.source, rows.order) for rows in self._rows]
        self._sources.append(Segments(self._listed_sources))
        self._targets = [Segments.rows(rows.target, rows.moved[rows.order]) for rows in self._rows]
        self._targets.append(Segments(self._listed_targets))
        self.segments_s = time.perf_counter() - start
        self.nbytes = sum(segments.nbytes for segments in self._sources)
        self._offsets = np.cumsum([0, *(segments.nbytes for segments in self._sources)]).tolist()

    def counts(self) -> dict[str, int]:
        """How many segments go which way."""
        return {
            "pages": self.nbytes // PAGE_SIZE,
            "arrays": len(self._rows),
            "segments": sum(map(len, self._sources)),
            "listed": len(self._listed),
        }

    def steps(self) -> Steps:
        """The transfers to be measured, writes first."""
        return {
            Step("write_gather", "gatherio", "write"): lambda: self._write("in place", False),
            Step("write_gather, copied", "gatherio", "write"): lambda: self._write("copied", True),
            Step("numpy a[i].tofile", "numpy", "write"): self._write_numpy,
            Step("read_scatter", "gatherio", "read"): lambda: self._read("in place", False),
            Step("read_scatter, copied", "gatherio", "read"): lambda: self._read("copied", True),
            Step("numpy fromfile", "numpy", "read"): self._read_numpy,
        }

    def _write(self, name: str, copy: bool) -> Sample:
        path = self._folder / "staged.bin" if copy else self._gathered
        path.unlink(missing_ok=True)
        with measuring(self.nbytes) as meter:
            with open_file(path, "w", preallocate=self.nbytes, queue=self._queue) as file:
                file.truncate(self.nbytes)  # nobody else looks at it
                _finish(
                    file.write_gather(segments, offset, copy=copy)
                    for segments, offset in zip(self._sources, self._offsets, strict=False)
                )
            meter.returned()
            _measure.flush_to_disk(path)
        if name not in self._checked:
            self._checked.add(name)
            self._check(f"file written by write_gather ({name}), against open().read()", self._compare_file(path))
        if copy:
            path.unlink()
        return meter.sample

    def _write_numpy(self) -> Sample:
        path = self._folder / "numpy.bin"
        with measuring(self.nbytes) as meter:
            with open(path, "wb") as file:
                for rows in self._rows:
                    rows.source[rows.order].tofile(file)
                for page in self._listed_sources:
                    file.write(page.data)
            meter.returned()
            _measure.flush_to_disk(path)
        path.unlink()
        return meter.sample

    def _read(self, name: str, copy: bool) -> Sample:
        self._wipe()
        with (
            measuring(self.nbytes, reads=self._gathered) as meter,
            open_file(self._gathered, queue=self._queue) as file,
        ):
            _finish(
                file.read_scatter(segments, offset, copy=copy)
                for segments, offset in zip(self._targets, self._offsets, strict=False)
            )
        self._check(f"arrays read by read_scatter ({name})", self._compare_targets())
        return meter.sample

    def _read_numpy(self) -> Sample:
        self._wipe()
        with measuring(self.nbytes, reads=self._gathered) as meter, open(self._gathered, "rb") as file:
            for rows in self._rows:
                found = np.fromfile(file, rows.source.dtype, rows.order.size * rows.source[0].size)
                rows.target[rows.moved[rows.order]] = found.reshape(-1, *rows.source.shape[1:])
                del found
            for page in self._listed_targets:
                file.readinto(page.data)
        self._check("gathered file read by numpy", self._compare_targets())
        return meter.sample

    def _wipe(self) -> None:
        for rows in self._rows:
            _bytes_of(rows.target).fill(0)

    def _check(self, what: str, difference: str | None) -> None:
        self._checks.append(Check(what, self.nbytes, difference))

    def _compare_file(self, path: Path) -> str | None:
        at = 0
        with open(path, "rb") as file:
            for expected in self._pieces():
                found = np.frombuffer(file.read(expected.size), np.uint8)
                if difference := _difference(found, expected, at):
                    return difference
                at += expected.size
            return "the file goes on behind its last page" if file.read(1) else None

    def _pieces(self) -> Iterator[Bytes]:
        """What should be in the file, piece by piece."""
        for rows in self._rows:
            step = max(1, COMPARED_BYTES // rows.source[0].nbytes)
            for at in range(0, rows.order.size, step):
                yield _bytes_of(rows.source[rows.order[at : at + step]])
        yield from map(_bytes_of, self._listed_sources)

    def _compare_targets(self) -> str | None:
        for number, rows in enumerate(self._rows):
            step = max(1, COMPARED_BYTES // rows.source[0].nbytes)
            for at in range(0, len(rows.source), step):
                found, expected = rows.target[rows.moved[at : at + step]], rows.source[at : at + step]
                difference = _difference(_bytes_of(found), _bytes_of(expected), at * rows.source[0].nbytes)
                if difference:
                    return f"array {number}, before its rows were moved: {difference}"
        return None


def _make_rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Rows:
    count = shape[0]
    shuffled = rng.permutation(count)
    return _Rows(
        source=fill(pages.empty(shape, dtype), rng),
        target=pages.empty(shape, dtype),
        order=shuffled[min(count // 4, LISTED_MAX) :],
        moved=rng.permutation(count),
    )


def _finish(operations: Iterator[Operation]) -> None:
    """Submit them all, then wait for them."""
    for operation in list(operations):
        operation.result()


# --- the second phase: one large array ---


class WholeArray:
    """Saves and loads one array as .npy, by gatherio and by numpy."""

    def __init__(
        self, folder: Path, nbytes: int, queue: CompletionQueue, rng: np.random.Generator, checks: list[Check]
    ) -> None:
        self._queue, self._checks = queue, checks
        self._mine, self._theirs, self._other = (
            folder / "gatherio.npy",
            folder / "numpy.npy",
            folder / "ordinary.npy",
        )
        self._checked: set[Path] = set()
        self._aligned = fill(pages.empty((nbytes // 4096, 1024), np.float32), rng)
        self._ordinary = np.array(self._aligned)
        self._out = pages.empty(self._aligned.shape, np.float32)
        self.nbytes = self._aligned.nbytes

    def steps(self) -> Steps:
        """The transfers to be measured, writes first."""
        return {
            Step("gio.save", "gatherio", "write"): lambda: self._write(self._mine, self._aligned),
            Step("gio.save plain array", "gatherio", "write"): lambda: self._write(self._other, self._ordinary),
            Step("np.save", "numpy", "write"): self._write_numpy,
            Step("gio.load", "gatherio", "read"): self._read,
            Step("gio.load out=", "gatherio", "read"): self._read_into,
            Step("np.load", "numpy", "read"): self._read_numpy,
        }

    def _write(self, path: Path, array: Array) -> Sample:
        path.unlink(missing_ok=True)
        with measuring(self.nbytes) as meter:
            npy.save(path, array, queue=self._queue)
            meter.returned()
            _measure.flush_to_disk(path)
        if path not in self._checked:
            self._checked.add(path)
            which = "page-aligned" if array is self._aligned else "plain"
            self._check(f"file written by gio.save ({which} array), read by np.load", np.load(path))
        if path == self._other:
            path.unlink()
        return meter.sample

    def _write_numpy(self) -> Sample:
        with measuring(self.nbytes) as meter:
            np.save(self._theirs, self._ordinary)
            meter.returned()
            _measure.flush_to_disk(self._theirs)
        if self._theirs not in self._checked:
            self._checked.add(self._theirs)
            _measure.drop_from_cache(self._theirs)
            self._check("file written by np.save, read by gio.load", npy.load(self._theirs, queue=self._queue))
        self._theirs.unlink()
        return meter.sample

    def _read(self) -> Sample:
        with measuring(self.nbytes, reads=self._mine) as meter:
            found = npy.load(self._mine, queue=self._queue)
        self._check("array read by gio.load", found)
        return meter.sample

    def _read_into(self) -> Sample:
        _bytes_of(self._out).fill(0)
        with measuring(self.nbytes, reads=self._mine) as meter:
            npy.load(self._mine, out=self._out, queue=self._queue)
        self._check("array read by gio.load with out=", self._out)
        return meter.sample

    def _read_numpy(self) -> Sample:
        with measuring(self.nbytes, reads=self._mine) as meter:
            found = np.load(self._mine)
        self._check("file written by gio.save, read by np.load", found)
        return meter.sample

    def _check(self, what: str, found: Array) -> None:
        expected = self._aligned
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            difference: str | None = f"{found.dtype} of shape {found.shape}, not {expected.dtype} of {expected.shape}"
        else:
            difference = _difference(_bytes_of(found), _bytes_of(expected), 0)
        self._checks.append(Check(what, self.nbytes, difference))
