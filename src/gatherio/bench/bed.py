"""What runs work on: files and arrays, how large, how often; made when first asked for, and shared by sections."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .. import _measure, pages
from .._measure import GIB
from ..file import File
from ..file import open as open_file
from ..operation import Operation
from ..pages import PAGE_SIZE
from ..queue import CompletionQueue
from ..segments import Segments
from . import bare_loop, fio
from .room import fill_pattern, written_file
from .runs import MIB, Run, measured

Array = npt.NDArray[Any]

#: Rounds of a figure that is quoted. Fewer have no median that stays where it is.
ROUNDS: Final = 11
#: Rounds of a map: two hundred cells beside each other show an outlier by themselves.
MAP_ROUNDS: Final = 3
#: Seconds of one run in a map.
CELL_SECONDS: Final = 0.25
#: In flight in one queue at most, whatever its depth: the core's own bound (BYTES_IN_FLIGHT_MAX in csrc/queue.c).
BYTES_IN_FLIGHT_MAX: Final = 32 * MIB
TINY_SIZE: Final = 2 * MIB
#: Disk and memory that are needed, in sizes.
DISK_FACTOR, MEMORY_FACTOR = 3.3, 3.5


@dataclass(frozen=True)
class Extent:
    """How large and how often."""

    size: int
    rounds: int = ROUNDS
    map_rounds: int = MAP_ROUNDS
    cell_seconds: float = CELL_SECONDS
    quick: bool = False
    tiny: bool = False  # see that it works: the figures mean nothing

    @property
    def few_rounds(self) -> int:
        """Of comparisons that nobody quotes to the percent."""
        return min(self.rounds, 3)


def automatic_size(folder: Path, quick: bool) -> int:
    """At most 1 GiB (quick: a quarter of it), a twentieth of the free space, an eighth of the memory."""
    limits = [GIB // 4 if quick else GIB, _measure.free_space(folder) // 20]
    memory = _measure.available_memory()
    if memory is not None:
        limits.append(memory // 8)
    nbytes = min(limits)
    unit = 64 * MIB if nbytes >= 256 * MIB else MIB
    return max(TINY_SIZE, nbytes - nbytes % unit)


class Bed:
    """Files and arrays in one folder.

    Attributes
    ----------
    folder : Path
    extent : Extent
    no_fio, no_bare_loop : str
        Why there is none, or "".
    """

    def __init__(self, folder: Path, extent: Extent, bare_loop_source: Path | None = None) -> None:
        self.folder = folder
        self.extent = extent
        #: The rows that a group has had so far.
        self.results: Callable[[str, str], list[dict[str, Any]]] = lambda section, group: []
        self._arrays: dict[tuple[int, bool | None], Array] = {}
        self.no_fio = fio.why_not(folder)
        self.bare_loop, self.no_bare_loop = bare_loop.build(folder, bare_loop_source)

    @property
    def size(self) -> int:
        """Bytes of the common file."""
        return self.extent.size

    @property
    def touched_bytes(self) -> int:
        """For groups in which some let the page cache grow: what they take, with their arrays."""
        return 0 if self.extent.tiny else 3 * self.size

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


# --- the transfers that most sections are made of ---


def write_all(file: File, arrays: list[Array] | Segments, *, copy: bool | None = False, flush: bool = True) -> Run:
    """Gather into the file from its start on, and push it to stable storage."""
    nbytes = arrays.nbytes if isinstance(arrays, Segments) else sum(array.nbytes for array in arrays)
    return measured(
        lambda: file.write_gather(arrays, 0, copy=copy).result(),
        nbytes,
        flush=file.flush if flush else None,
        told=file.reason,
    )


def read_all(file: File, arrays: list[Array] | Segments, *, copy: bool | None = False) -> Run:
    """Scatter from the file's start on; the page cache has let go of it."""
    nbytes = arrays.nbytes if isinstance(arrays, Segments) else sum(array.nbytes for array in arrays)
    return measured(
        lambda: file.read_scatter(arrays, 0, copy=copy).result(), nbytes, reads=Path(str(file.name)), told=file.reason
    )


def finished(operations: list[Operation]) -> None:
    """Wait for all of them."""
    for operation in operations:
        operation.result()


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


# --- what a system may have or lack ---


@functools.cache
def has_registered() -> bool:
    """Whether memory can be registered with the kernel here."""
    with CompletionQueue(1) as queue, contextlib.suppress(OSError), queue.register(pages.zeros(1, np.uint8)):
        return True
    return False


def variants() -> dict[str, bool]:
    """Plain and registered buffers, as far as there are any."""
    return {"plain": False, "registered": True} if has_registered() else {"plain": False}


def in_queue(request_size: int, depth: int) -> bool:
    """Whether a queue of this depth holds more requests of this size than one of half the depth does."""
    room = max(BYTES_IN_FLIGHT_MAX, 2 * request_size)
    return depth == 1 or depth * request_size <= room


def whole_pages(nbytes: int) -> int:
    """Rounded down."""
    return nbytes - nbytes % PAGE_SIZE
