"""Measures what a device gives: one array, separate pages, small reads.

For `gatherio tune` and `gatherio bench --quick`; the study (benchmarks/study in the sources) is built on it, too. Every
8-byte word of the data holds its own offset, so that one can tell what went where.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _measure
from ._core.file import File
from ._core.file import open as open_file
from ._core.operation import Operation
from ._core.queue import DEFAULT_REQUEST_SIZE, CompletionQueue
from ._device import block_device, mount_of, read
from ._measure import GIB, Sample, measuring
from ._memory import pages
from ._memory.pages import PAGE_SIZE
from ._memory.segments import Segments
from ._text import size_text

Array: TypeAlias = npt.NDArray[Any]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
HUGE_PAGE: Final = 2 * MIB
SIZE_MIN: Final = 2 * MIB
WORDS_AT_ONCE: Final = 1 << 20  # few enough that comparing needs no memory to speak of
#: In flight in one queue at most, whatever its depth: the core's own bound (BYTES_IN_FLIGHT_MAX in csrc/queue.c).
BYTES_IN_FLIGHT_MAX: Final = 32 * MIB
#: Disk and memory that are needed, in sizes of a file; and the share of what is free that may be taken.
DISK_FACTOR, MEMORY_FACTOR = 3.3, 3.5
SHARE_OF_DISK, SHARE_OF_MEMORY = 0.4, 0.8
TINY: Final = 1e-9  # a clock may stand still during a very short run


class ProbeError(Exception):
    """Nothing can be measured here, or what was measured is wrong; the text says why."""


# --- one run, and several ---


@dataclass(frozen=True)
class Run:
    """One transfer that was measured."""

    sample: Sample
    operations: int = 1
    durable: bool = False  # whether `sample.seconds` ended with the data on stable storage
    told: str = ""  # which way it went, in the library's own words
    latency_us: Mapping[str, float] = field(default_factory=dict)  # percentiles of single operations
    memory_mib: float = 0.0  # that it held beside the data, or left behind
    loss: str = ""  # what was missing or wrong in what it left behind


Metric: TypeAlias = Callable[[Run], float]


def rate(run: Run) -> float:
    """MiB/s until the call returned."""
    return run.sample.nbytes / MIB / max(run.sample.returned_s, TINY)


def durable_rate(run: Run) -> float:
    """MiB/s until the data was on stable storage."""
    return run.sample.nbytes / MIB / max(run.sample.seconds, TINY)


def operations_per_second(run: Run) -> float:
    """Operations by the time they took."""
    return run.operations / max(run.sample.returned_s, TINY)


def cpu_per_gib(run: Run) -> float:
    """Seconds of this process's CPU time."""
    return run.sample.cpu_per_gib


def cache_percent(run: Run) -> float:
    """How much the page cache grew, in percent of the data; not a number where the system does not tell."""
    grown = run.sample.cache_bytes
    return math.nan if grown is None else 100 * grown / max(run.sample.nbytes, 1)


def measured(
    transfer: Callable[[], object],
    nbytes: int,
    *,
    operations: int = 1,
    flush: Callable[[], object] | None = None,
    reads: Path | None = None,
    told: str = "",
) -> Run:
    """Run `transfer`, then `flush`. CPU and cache are those of both.

    Parameters
    ----------
    reads : Path, optional
        The file it reads, which is dropped from the page cache first.
    """
    gc.collect(1)  # the young ones: all of them would take longer than many a run
    with measuring(nbytes, reads) as meter:
        kept = transfer()  # giving the memory of a result back is no part of the transfer
        meter.returned()
        if flush is not None:
            flush()
    del kept
    return Run(meter.sample, operations, flush is not None, told)


@dataclass(frozen=True)
class Spread:
    """The outcome of several runs."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = [float(value) for value in values]
        return Spread(statistics.median(found), min(found), max(found))


def spread_of(values: Iterable[float]) -> dict[str, float] | None:
    """The same as it stands in JSON; None of no values."""
    found = list(values)
    return asdict(Spread.of(found)) if found else None


# --- room on the disk and in memory ---


def automatic_size(folder: Path, most: int = GIB) -> int:
    """At most 1 GiB, a twentieth of the free space, an eighth of the memory."""
    limits = [most, _measure.free_space(folder) // 20]
    memory = _measure.available_memory()
    if memory is not None:
        limits.append(memory // 8)
    nbytes = min(limits)
    unit = 64 * MIB if nbytes >= 256 * MIB else MIB
    return max(SIZE_MIN, nbytes - nbytes % unit)


def require_room_for(folder: Path, size: int) -> None:
    """Raise ProbeError unless files and arrays of this size fit; in tmpfs the files are in memory, too."""
    mount = mount_of(folder)
    in_memory = mount is not None and mount.file_system in ("tmpfs", "ramfs")
    require_room(folder, int(size * DISK_FACTOR), int(size * (MEMORY_FACTOR + (DISK_FACTOR if in_memory else 0))))


def require_room(folder: Path, disk_bytes: int, memory_bytes: int) -> None:
    """Raise ProbeError unless this fits with plenty to spare."""
    free = _measure.free_space(folder)
    if disk_bytes > SHARE_OF_DISK * free:
        raise ProbeError(
            f"{size_text(disk_bytes)} do not fit: {folder} has {size_text(free)} free, and more than half of it stays "
            "so; give a smaller --size"
        )
    available = _measure.available_memory()
    if available is not None and memory_bytes > SHARE_OF_MEMORY * available:
        raise ProbeError(
            f"{size_text(memory_bytes)} of memory are needed, {size_text(available)} are available; "
            "give a smaller --size"
        )


def settle(folder: Path) -> None:
    """Wait until the disk has done what earlier runs left to it: journal commits, discards."""
    if sys.platform == "win32":
        return  # it takes an administrator to flush a volume
    os.sync()
    device = block_device(folder)
    idle_since = started = time.monotonic()
    while device is not None and time.monotonic() - idle_since < 0.02 and time.monotonic() - started < 2:
        if any(map(int, read(device / "inflight").split())):
            idle_since = time.monotonic()
        time.sleep(0.004)


def remove(path: Path) -> None:
    """So that no run has to dispose of what another one wrote."""
    path.unlink(missing_ok=True)
    settle(path.parent)


# --- data that tells where it belongs ---


def fill_pattern(array: Array) -> None:
    """Let each 8-byte word hold its own offset."""
    words = array.reshape(-1).view(np.uint64)
    for start in range(0, words.size, WORDS_AT_ONCE):
        stop = min(start + WORDS_AT_ONCE, words.size)
        words[start:stop] = np.arange(start, stop, dtype=np.uint64) * 8


def difference(array: Array, start: int = 0) -> str:
    """Where an array is not what stands in the pattern from a byte on; empty if it is."""
    words = array.reshape(-1).view(np.uint64)
    for at in range(0, words.size, WORDS_AT_ONCE):
        part = words[at : at + WORDS_AT_ONCE]
        expected = np.arange(start // 8 + at, start // 8 + at + part.size, dtype=np.uint64) * 8
        if not np.array_equal(part, expected):
            return f"wrong from byte {start + (at + int(np.argmax(part != expected))) * 8} on"
    return ""


def stored_difference(path: Path, nbytes: int, data_offset: int = 0) -> str:
    """The same of a file, read by plain means."""
    with open(path, "rb") as file:
        file.seek(data_offset)
        for start in range(0, nbytes, 8 * WORDS_AT_ONCE):
            wanted = min(8 * WORDS_AT_ONCE, nbytes - start)
            part = file.read(wanted)
            if len(part) < wanted:
                return f"{nbytes - start - len(part)} of {nbytes} bytes are missing at the end"
            if found := difference(np.frombuffer(part, np.uint8), start):
                return found
    return ""


def require_pattern(array: Array, what: str) -> None:
    """Raise ProbeError if something else was moved than is claimed."""
    if found := difference(array):
        raise ProbeError(f"wrong data: {what}, {found}")


def require_stored(path: Path, nbytes: int, what: str) -> None:
    """The same of a file."""
    if found := stored_difference(path, nbytes):
        raise ProbeError(f"wrong data: {what}, {found}")


# --- files and arrays, made when first asked for ---


class Bed:
    """Files and arrays in one folder.

    Attributes
    ----------
    folder : Path
    size : int
        Bytes of each file.
    tiny : bool
        See that it works: the figures mean nothing.
    """

    def __init__(self, folder: Path, size: int, *, tiny: bool = False) -> None:
        self.folder, self.size, self.tiny = folder, size, tiny
        self._arrays: dict[tuple[int, bool | None], Array] = {}

    def array(self, nbytes: int | None = None, huge_pages: bool | None = None) -> Array:
        """Page-aligned bytes, faulted in, that held the pattern when they were made."""
        key = (nbytes or self.size, huge_pages)
        if key not in self._arrays:
            made = pages.empty(key[0], np.uint8, huge_pages=huge_pages)
            fill_pattern(made)
            self._arrays[key] = made
        return self._arrays[key]

    def file(self, how: str = "read") -> Path:
        """A file of `size` bytes: one that keeps the pattern, for reading, or another one to be written over."""
        path = self.folder / ("kept.bin" if how == "read" else "overwritten.bin")
        if not path.exists():
            content = self.array()
            fill_pattern(content)
            written_file(path, content)
        return path

    def release(self) -> None:
        """Give back memory and files."""
        self._arrays.clear()
        for path in self.folder.glob("*.bin"):
            path.unlink()


def written_file(path: Path, array: Array) -> Path:
    """A file with the array's bytes, in space that was reserved in one go, on stable storage."""
    with open_file(path, "w", preallocate=array.nbytes) as file:
        file.truncate(array.nbytes)
        file.write_at(array, 0).result()
        file.flush()
    return path


@functools.cache
def has_registered() -> bool:
    """Whether memory can be registered with the kernel here."""
    with CompletionQueue(1) as queue, contextlib.suppress(OSError), queue.register(pages.zeros(1, np.uint8)):
        return True
    return False


# --- arrays and separate pages ---


class Places:
    """Runs of pages: every second row of an array, so that no two stand together."""

    def __init__(self, bed: Bed, run_pages: int, order: str = "shuffled") -> None:
        count = max(2, bed.size // 2 // (run_pages * PAGE_SIZE))
        nbytes = 2 * count * run_pages * PAGE_SIZE
        self.rows: Array = bed.array(nbytes).reshape(2 * count, run_pages * PAGE_SIZE)
        index = np.arange(0, 2 * count, 2)
        if order == "shuffled":
            index = np.random.default_rng(1).permutation(index)
        self.index = index
        self.segments = Segments.rows(self.rows, index)
        self.nbytes = self.segments.nbytes


def require_places(path: Path, places: Places) -> None:
    """Raise ProbeError unless the pages arrive in a file in their order, and find their way back, both ways."""
    for copy in (False, True):
        fill_pattern(places.rows)
        expected = places.rows[places.index]
        with open_file(path, "r+") as file:
            file.write_gather(places.segments, 0, copy=copy).result()
            stored = np.fromfile(path, np.uint8, places.nbytes).reshape(expected.shape)
            if not np.array_equal(stored, expected):
                raise ProbeError(f"wrong data: what write_gather left in the file, with copy={copy}")
            places.rows[...] = 0
            file.read_scatter(places.segments, 0, copy=copy).result()
        if not np.array_equal(places.rows[places.index], expected):
            raise ProbeError(f"wrong data: what read_scatter put into the pages, with copy={copy}")


def write_all(file: File, arrays: list[Array] | Segments, *, copy: bool | None = False, flush: bool = True) -> Run:
    """Gather into the file from its start on, and push it to stable storage."""
    return measured(
        lambda: file.write_gather(arrays, 0, copy=copy).result(),
        _nbytes(arrays),
        flush=file.flush if flush else None,
        told=file.reason,
    )


def read_all(file: File, arrays: list[Array] | Segments, *, copy: bool | None = False) -> Run:
    """Scatter from the file's start on; the page cache has let go of it."""
    return measured(
        lambda: file.read_scatter(arrays, 0, copy=copy).result(),
        _nbytes(arrays),
        reads=Path(str(file.name)),
        told=file.reason,
    )


def _nbytes(arrays: list[Array] | Segments) -> int:
    return arrays.nbytes if isinstance(arrays, Segments) else sum(array.nbytes for array in arrays)


def opened(
    path: Path,
    mode: str,
    run: Callable[[File], Run],
    *,
    request_size: int,
    depth: int,
    direct: bool | None = None,
    durable: bool = False,
    backend: str | None = None,
    registered: bool = False,
    register: Array | None = None,
    preallocate: int | None = None,
) -> Run:
    """Open a file with a queue of its own for one run. Memory to `register` is registered before the clock starts."""
    with (
        CompletionQueue(depth, backend=backend, request_size=request_size) as queue,
        contextlib.nullcontext() if register is None else queue.register(register),
        open_file(
            path,
            mode,
            direct=direct,
            durable=durable,
            queue=queue,
            preallocate=preallocate,
            tuning={"registered": registered},
        ) as file,
    ):
        if preallocate is not None:
            file.truncate(preallocate)  # as long as it will be, for nobody else looks at it
        return run(file)


# --- small transfers at random places ---


@dataclass(frozen=True)
class Job:
    """What is to be done: `count` operations of `size` bytes at `depth`."""

    path: Path
    how: str
    size: int
    depth: int
    count: int
    registered: bool = False

    def places(self) -> list[int]:
        """Random offsets of whole blocks in the file."""
        blocks = self.path.stat().st_size // self.size
        offsets: list[int] = (np.random.default_rng().integers(0, blocks, self.count) * self.size).tolist()
        return offsets

    def buffers(self) -> Array:
        """One for each operation in flight, on huge pages."""
        count = max(self.depth, HUGE_PAGE // self.size)
        return pages.zeros((count, self.size), np.uint8)[: self.depth]


def in_queue(job: Job, transfers: Callable[[File, CompletionQueue], object], buffers: Array | None = None) -> Run:
    """Run `transfers` with the job's file, in a queue of its own."""
    mode = "r" if job.how == "read" else "r+"
    with (
        CompletionQueue(job.depth, request_size=DEFAULT_REQUEST_SIZE) as queue,
        open_file(job.path, mode, queue=queue, tuning=False) as file,
        queue.register(buffers) if job.registered and buffers is not None else contextlib.nullcontext(),
    ):
        return measured(
            lambda: transfers(file, queue), job.count * job.size, operations=job.count, reads=job.path, told=file.reason
        )


def objects(job: Job, *, together: bool = True) -> Run:
    """As many operations in flight as `depth` says, an object each; what has finished is fetched in batches."""
    buffers, places = job.buffers(), job.places()
    ways = _one_by_one if job.depth == 1 else functools.partial(keep_busy, together=together)
    way = functools.partial(ways, job.how, list(buffers), iter(places))
    run = in_queue(job, way, buffers)
    require_words(job, buffers)
    return run


def _one_by_one(how: str, buffers: list[Array], places: Iterator[int], file: File, queue: CompletionQueue) -> None:
    begin, buffer = file.read_at if how == "read" else file.write_at, buffers[0]
    for place in places:
        begin(buffer, place).result()


def keep_busy(
    how: str, buffers: list[Array], places: Iterator[int], file: File, queue: CompletionQueue, *, together: bool = True
) -> None:
    """As many operations in flight as there are buffers, until there are no more places."""
    begin = file.read_at if how == "read" else file.write_at
    flying: dict[Operation, Array] = {
        begin(buffer, place): buffer for buffer, place in zip(buffers, places, strict=False)
    }
    while flying:
        finished = queue.get()
        with queue.batch() if together else contextlib.nullcontext():
            for operation in finished:
                operation.result()
                buffer = flying.pop(operation)
                place = next(places, None)
                if place is not None:
                    flying[begin(buffer, place)] = buffer


def in_threads(job: Job) -> Run:
    """Without us: preadv or pwritev in as many threads, on a descriptor that is as direct as ours."""
    buffers, places = job.buffers(), iter(job.places())

    def work(descriptor: int, buffer: Array) -> None:
        call = getattr(os, "preadv" if job.how == "read" else "pwritev")  # Windows has neither
        view = [buffer.data]
        for place in places:
            call(descriptor, view, place)

    def transfers(file: File, queue: CompletionQueue) -> None:
        if job.depth == 1:
            work(file.fileno(), buffers[0])
            return
        with ThreadPoolExecutor(job.depth) as pool:
            list(pool.map(functools.partial(work, file.fileno()), buffers))

    return in_queue(job, transfers)


def require_words(job: Job, buffers: Array) -> None:
    """Raise ProbeError if reads brought something else than the file's words."""
    if job.how != "read":
        return
    words = buffers[buffers.any(axis=1)].view(np.uint64)  # few reads may have left some buffer without any
    if not len(words) or (words - words[:, :1] != np.arange(job.size // 8, dtype=np.uint64) * 8).any():
        raise ProbeError("wrong data: a random read brought something else than the file's words")
