"""The main job in one go: pages gathered into a file and scattered back, arrays saved and loaded; checked.

Two phases. `_Pages` gathers the rows of several arrays in random order into one file and scatters them, in
another order, into other arrays. `_WholeArray` saves and loads a .npy file. Each is a list of steps, those of
numpy among them. A round takes every step once, the next round takes them the other way about, so that
whatever changes on the machine meets all of them. Each step measures one transfer and then checks it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _measure, npy, pages
from . import queue as queues
from ._measure import GIB, Sample, measuring
from ._report import size_text
from .file import open as open_file
from .info import info
from .operation import Operation
from .pages import PAGE_SIZE
from .queue import CompletionQueue
from .segments import Segments

__all__ = ["Check", "DemoError", "Facts", "Result", "Step", "run"]

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Direction: TypeAlias = Literal["write", "read"]

MIB: Final = 1 << 20
SIZE_MIN: Final = MIB
SIZE_MAX: Final = GIB  # unless more is asked for: enough to see the disk's speed
ROUNDS_MIN: Final = 2
ROUNDS_WISHED: Final = 3  # the least that has a median worth the name
ROUNDS_MAX: Final = 5
#: Seconds that all of it is to take: they decide about the size, then about the number of rounds.
SECONDS: Final = 35
#: A phase takes no further round after this long: the disk turned out slower than it had seemed.
PHASE_SECONDS_MAX: Final = 20
STEPS: Final = 12  # of both phases
PROBE_BYTES: Final = 32 * MIB
#: Beside the disk's work, per GiB and round: copying in numpy's steps, wiping and comparing in all of them.
CPU_SECONDS_PER_GIB: Final = 4.0
#: Once, per GiB: making the arrays, and reading back plainly what was written.
SETUP_SECONDS_PER_GIB: Final = 8.0
#: Two files at most, and room for whoever else writes there.
DISK_FACTOR: Final = 2.25
#: Four arrays at most, and what numpy copies aside.
MEMORY_FACTOR: Final = 4.25
#: Rows of one array that go through a list of arrays and not through Segments.rows.
LISTED_MAX: Final = 2048
COMPARED_BYTES: Final = 8 * MIB


class DemoError(Exception):
    """The demo cannot be run here; the text says why."""


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
    direction: Direction
    run: Callable[[], Sample]


class Facts(NamedTuple):
    """What is known before the first step."""

    directory: str
    system: dict[str, Any]  # as gatherio.info tells it, with "path"
    direct: bool
    backend: str
    reason: str
    nbytes: int
    rounds: int


class Result(NamedTuple):
    """What came out."""

    facts: Facts
    pages: dict[str, int]
    segments_s: float  # building the lists of segments, both of them
    samples: list[tuple[Step, list[Sample]]]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether every check found all bytes equal."""
        return all(check.ok for check in self.checks)


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


def _fill(array: Array, rng: np.random.Generator) -> Array:
    """Random bytes, which no file system can compress."""
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


class _Pages:
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

    def steps(self) -> list[Step]:
        """The transfers to be measured, writes first."""
        return [
            Step("write_gather", "gatherio", "write", lambda: self._write("write_gather", False)),
            Step("write_gather, copied", "gatherio", "write", lambda: self._write("copy=True", True)),
            Step("numpy a[i].tofile", "numpy", "write", self._write_numpy),
            Step("read_scatter", "gatherio", "read", lambda: self._read("read_scatter", False)),
            Step("read_scatter, copied", "gatherio", "read", lambda: self._read("copy=True", True)),
            Step("numpy fromfile", "numpy", "read", self._read_numpy),
        ]

    def _write(self, name: str, copy: bool) -> Sample:
        path = self._folder / "staged.bin" if copy else self._gathered
        path.unlink(missing_ok=True)
        with measuring(self.nbytes) as meter:
            with open_file(path, "w", preallocate=self.nbytes, queue=self._queue) as file:
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
        source=_fill(pages.empty(shape, dtype), rng),
        target=pages.empty(shape, dtype),
        order=shuffled[min(count // 4, LISTED_MAX) :],
        moved=rng.permutation(count),
    )


def _finish(operations: Iterator[Operation]) -> None:
    """Submit them all, then wait for them."""
    for operation in list(operations):
        operation.result()


# --- the second phase: one large array ---


class _WholeArray:
    """Saves and loads one array as .npy, by gatherio and by numpy."""

    def __init__(self, folder: Path, nbytes: int, rng: np.random.Generator, checks: list[Check]) -> None:
        self._checks = checks
        self._mine, self._theirs, self._other = (
            folder / "gatherio.npy",
            folder / "numpy.npy",
            folder / "ordinary.npy",
        )
        self._checked: set[Path] = set()
        self._aligned = _fill(pages.empty((nbytes // 4096, 1024), np.float32), rng)
        self._ordinary = np.array(self._aligned)
        self._out = pages.empty(self._aligned.shape, np.float32)
        self.nbytes = self._aligned.nbytes

    def steps(self) -> list[Step]:
        """The transfers to be measured, writes first."""
        return [
            Step("gio.save", "gatherio", "write", lambda: self._write(self._mine, self._aligned)),
            Step("gio.save plain array", "gatherio", "write", lambda: self._write(self._other, self._ordinary)),
            Step("np.save", "numpy", "write", self._write_numpy),
            Step("gio.load", "gatherio", "read", self._read),
            Step("gio.load out=", "gatherio", "read", self._read_into),
            Step("np.load", "numpy", "read", self._read_numpy),
        ]

    def _write(self, path: Path, array: Array) -> Sample:
        path.unlink(missing_ok=True)
        with measuring(self.nbytes) as meter:
            npy.save(path, array)
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
            self._check("file written by np.save, read by gio.load", npy.load(self._theirs))
        self._theirs.unlink()
        return meter.sample

    def _read(self) -> Sample:
        with measuring(self.nbytes, reads=self._mine) as meter:
            found = npy.load(self._mine)
        self._check("array read by gio.load", found)
        return meter.sample

    def _read_into(self) -> Sample:
        _bytes_of(self._out).fill(0)
        with measuring(self.nbytes, reads=self._mine) as meter:
            npy.load(self._mine, out=self._out)
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


# --- how much, how often ---


def _lives_in_memory(system: dict[str, Any]) -> bool:
    return bool(system["path"]["file_system"] in ("tmpfs", "ramfs"))


def _memory_factor(system: dict[str, Any]) -> float:
    """Bytes of memory needed per byte of data."""
    return MEMORY_FACTOR + (DISK_FACTOR if _lives_in_memory(system) else 0)


def _check_room(folder: Path, nbytes: int, system: dict[str, Any]) -> None:
    """Raise DemoError unless disk and memory have room for this much data."""
    if nbytes < SIZE_MIN:
        raise DemoError(f"the size is at least {size_text(SIZE_MIN)}, not {size_text(nbytes)}")
    free, needed = _measure.free_space(folder), int(nbytes * DISK_FACTOR)
    if needed > free:
        raise DemoError(
            f"not enough space in {folder}: {size_text(nbytes)} of data needs {size_text(needed)}, "
            f"and {size_text(free)} is free; give a smaller --size or another folder"
        )
    memory, needed = _measure.available_memory(), int(nbytes * _memory_factor(system))
    if memory is not None and needed > memory:
        raise DemoError(
            f"not enough memory: {size_text(nbytes)} of data needs {size_text(needed)}, "
            f"and {size_text(memory)} is available; give a smaller --size"
        )


def _automatic_size(folder: Path, system: dict[str, Any], seconds_per_byte: float) -> int:
    """At most 1 GiB, a tenth of the free space, an eighth of the memory, what three rounds have time for."""
    memory = _measure.available_memory()
    share = 16 if _lives_in_memory(system) else 8
    in_time = SECONDS / (SETUP_SECONDS_PER_GIB / GIB + ROUNDS_WISHED * seconds_per_byte)
    limits = [SIZE_MAX, _measure.free_space(folder) // 10, int(in_time)]
    if memory is not None:
        limits.append(memory // share)
    nbytes = min(limits)
    unit = 64 * MIB if nbytes >= 256 * MIB else MIB
    return max(SIZE_MIN, nbytes - nbytes % unit)


def _rounds(nbytes: int, seconds_per_byte: float) -> int:
    left = SECONDS - SETUP_SECONDS_PER_GIB * nbytes / GIB
    return max(ROUNDS_MIN, min(ROUNDS_MAX, int(left / (seconds_per_byte * nbytes))))


def _round_seconds_per_byte(folder: Path) -> float:
    """What one round will take, from a small save and load."""
    nbytes = min(PROBE_BYTES, max(SIZE_MIN, _measure.free_space(folder) // 10))
    path = folder / "probe.npy"
    array = _fill(pages.empty(nbytes, np.uint8), np.random.default_rng())
    with measuring(nbytes) as written:
        npy.save(path, array)
        _measure.flush_to_disk(path)
    with measuring(nbytes, reads=path) as read:
        npy.load(path, out=array)
    path.unlink()
    each = (written.sample.seconds + read.sample.seconds) / 2 / nbytes
    return STEPS * each + CPU_SECONDS_PER_GIB / GIB


@contextmanager
def _queue_of(backend: str | None) -> Iterator[CompletionQueue]:
    """The queue to be used. Save and load take the default one, so that is exchanged meanwhile."""
    if backend is None:
        yield queues.default_queue()
        return
    with CompletionQueue(backend=backend) as queue:
        queue._hands_out = False
        before, queues._default = queues._default, queue
        try:
            yield queue
        finally:
            queues._default = before


# --- the folder ---


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end with all that is in it, whatever the end is."""
    folder = parent / f"gatherio-demo-{secrets.token_hex(6)}"
    try:  # before it is made: a signal may come at any moment
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # Ctrl-C once more
        _remove(folder)
        raise


def _opened(folder: Path, queue: CompletionQueue) -> tuple[bool, str]:
    """Whether files here are direct, and why."""
    path = folder / "asked.bin"
    with open_file(path, "x", queue=queue) as file:
        found = file.direct, file.reason
    path.unlink()
    return found


def _in_turn(steps: list[Step], number: int) -> list[Step]:
    """The steps of one round: writes before reads, and every other round the other way about among them."""
    turn = -1 if number % 2 else 1
    return [
        *[step for step in steps if step.direction == "write"][::turn],
        *[step for step in steps if step.direction == "read"][::turn],
    ]


class _Runner:
    """Takes the steps of the phases, round by round."""

    def __init__(self, rounds: int, progress: Callable[[int, int, str], object]) -> None:
        self._rounds, self._progress = rounds, progress
        self._done, self._total = 0, rounds * STEPS
        self.samples: list[tuple[Step, list[Sample]]] = []

    def run(self, steps: list[Step]) -> None:
        found: dict[str, list[Sample]] = {step.name: [] for step in steps}
        start = time.perf_counter()
        for number in range(self._rounds):
            if number >= ROUNDS_MIN and time.perf_counter() - start > PHASE_SECONDS_MAX:
                self._total -= (self._rounds - number) * len(steps)
                break
            for step in _in_turn(steps, number):
                self._progress(self._done, self._total, f"round {number + 1} of {self._rounds}: {step.name}")
                found[step.name].append(step.run())
                self._done += 1
        self.samples += [(step, found[step.name]) for step in steps]


def run(
    directory: str | os.PathLike[str] = ".",
    *,
    size: int | None = None,
    backend: str | None = None,
    begin: Callable[[Facts], object] = lambda facts: None,
    progress: Callable[[int, int, str], object] = lambda done, total, what: None,
) -> Result:
    """Do the main job in a folder, check and measure it.

    Parameters
    ----------
    directory : str or os.PathLike
        Where a temporary folder is made, and removed at the end.
    size : int, optional
        Bytes of data in each phase. None: as much as disk, memory and half a minute have room for, 1 GiB at
        most.
    backend : str, optional
        As for `gatherio.CompletionQueue`.
    begin : callable(facts)
        Called when it is known what will be done how.
    progress : callable(done, total, what)
        Called before each step.

    Raises
    ------
    DemoError
        It cannot be done here; nothing has been left behind.
    OSError
        A transfer failed.
    """
    parent = Path(directory)
    with _queue_of(backend) as queue, _work_folder(_usable(parent)) as folder:
        system = info(parent)
        if size is not None:
            _check_room(parent, size, system)
        round_seconds = _round_seconds_per_byte(folder)
        nbytes = size - size % MIB if size is not None else _automatic_size(folder, system, round_seconds)
        _check_room(parent, nbytes, system)
        rounds = _rounds(nbytes, round_seconds)
        direct, reason = _opened(folder, queue)
        facts = Facts(str(parent), system, direct, queue.backend, reason, nbytes, rounds)
        begin(facts)
        return _run_phases(facts, folder, queue, progress)


def _run_phases(
    facts: Facts, folder: Path, queue: CompletionQueue, progress: Callable[[int, int, str], object]
) -> Result:
    runner, checks, rng = _Runner(facts.rounds, progress), list[Check](), np.random.default_rng()
    progress(0, 1, "making arrays")
    separate = _Pages(folder, facts.nbytes, queue, rng, checks)
    runner.run(separate.steps())
    counts, segments_s = separate.counts(), separate.segments_s
    del separate  # its memory is the next phase's
    (folder / "gathered.bin").unlink()
    whole = _WholeArray(folder, facts.nbytes, rng, checks)
    runner.run(whole.steps())
    return Result(facts, counts, segments_s, runner.samples, checks)


def _usable(parent: Path) -> Path:
    """The folder itself, if a file can be made in it."""
    if not parent.exists():
        raise DemoError(f"no such folder: {parent}")
    if not parent.is_dir():
        raise DemoError(f"not a folder: {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DemoError(f"nothing can be made in {parent}: it is read-only for you")
    if _measure.free_space(parent) < 16 * MIB:
        raise DemoError(f"not enough space in {parent}: less than 16 MiB is free")
    return parent
