"""Maps: request size by queue depth, direct and buffered, for each way to read and write, by backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from gatherio import _measure
from gatherio._core.file import File
from gatherio._core.queue import BACKENDS, try_backend
from gatherio.probe import KIB, MIB, Array, Run, measured, opened, remove

from .bed import Bed, fits_in_queue, whole_pages
from .groups import Axes, Contender, Group

SIZES: Final = tuple(4**power * KIB for power in range(1, 9))  # 4 KiB to 64 MiB
DEPTHS: Final = (1, 2, 4, 8, 16, 32, 64)
#: For backends that are not the default: their maps have fewer steps.
COARSE_SIZES: Final = (4 * KIB, 64 * KIB, 1 * MIB, 4 * MIB)
COARSE_DEPTHS: Final = (1, 8, 64)
TINY_SIZES: Final = (4 * KIB, 1 * MIB)
TINY_DEPTHS: Final = (1, 4)

#: The least that a run moves, however slow: enough to fill the queue twice.
LEAST_REQUESTS: Final = 2
LEAST_BYTES: Final = 256 * KIB
#: A run may take this much longer than the time that the first small one led to expect.
PROBE_SHARE: Final = 16

KINDS: Final = (
    "read cold",
    "read warm",
    "extending write",
    "preallocated write",
    "overwrite",
    "durable write",
)


@dataclass(frozen=True)
class Cell:
    """One place in a map."""

    kind: str
    direct: bool
    request_size: int
    depth: int
    backend: str


def maps(bed: Bed) -> Iterator[Group]:
    """The section's groups: a row of a map each, all depths at one request size."""
    best = _best_backend()
    tiny = bed.extent.tiny
    for kind in KINDS:
        for direct in (True, False):
            sizes: tuple[int, ...] = TINY_SIZES if tiny else SIZES
            depths: tuple[int, ...] = TINY_DEPTHS if tiny else DEPTHS if direct else DEPTHS[::2]
            for request_size in sizes:
                yield _row(bed, [Cell(kind, direct, request_size, depth, best) for depth in depths])
    for backend in BACKENDS:
        if backend == best:
            continue
        few: tuple[int, ...] = (1,) if backend == "sync" else TINY_DEPTHS if tiny else COARSE_DEPTHS
        for kind in ("read cold", "overwrite"):
            for direct in (True, False):
                for request_size in TINY_SIZES if tiny else COARSE_SIZES:
                    yield _row(bed, [Cell(kind, direct, request_size, depth, backend) for depth in few])


def _best_backend() -> str:
    return next((name for name in BACKENDS if try_backend(name, 1, 4 * KIB)[0] is not None), BACKENDS[-1])


def _row(bed: Bed, cells: list[Cell]) -> Group:
    first = cells[0]
    way = "direct" if first.direct else "buffered"
    name = f"{first.backend}, {first.kind}, {way}, {first.request_size // KIB} KiB"
    contenders = [_contender(bed, cell) for cell in cells if _is_of_use(bed, cell)]
    return Group("maps", name, contenders, min(bed.extent.rounds, bed.extent.map_rounds), warm_up=False)


def _is_of_use(bed: Bed, cell: Cell) -> bool:
    """Whether the queue, and the file, hold that many requests: else the cell is the one before it once more."""
    return fits_in_queue(cell.request_size, cell.depth) and cell.request_size * cell.depth <= bed.size


def _contender(bed: Bed, cell: Cell) -> Contender:
    axes: Axes = {
        "kind": cell.kind,
        "direct": cell.direct,
        "request_size": cell.request_size,
        "depth": cell.depth,
        "backend": cell.backend,
    }
    native, code = try_backend(cell.backend, 1, 4 * KIB)
    del native
    note = "" if code == 0 else f"{cell.backend} cannot be had"
    return Contender(f"depth {cell.depth}", None if code else _Runner(bed, cell).run, axes, note)


class _Runner:
    """Runs a cell for about as long as is wished: a small run first tells how much that is."""

    def __init__(self, bed: Bed, cell: Cell) -> None:
        self._bed, self._cell = bed, cell
        self._nbytes = 0

    def run(self) -> Run:
        if not self._nbytes:
            least = max(LEAST_REQUESTS * self._cell.request_size * self._cell.depth, LEAST_BYTES)
            nbytes = min(least, self._bed.size)
            sample = self._transfer(nbytes).sample
            wished = nbytes * self._bed.extent.cell_seconds / max(sample.seconds, 1e-6)
            self._nbytes = whole_pages(int(max(nbytes, min(wished, self._bed.size))))
        return self._transfer(self._nbytes)

    def _transfer(self, nbytes: int) -> Run:
        array = self._bed.array()[:nbytes]
        kind = self._cell.kind
        if kind.startswith("read"):
            return self._read(array, warm=kind == "read warm")
        if kind in ("overwrite", "durable write"):
            return self._open(self._bed.file("write"), "r+", partial(_write, array), durable=kind == "durable write")
        path = self._bed.folder / "new.bin"
        remove(path)
        preallocate = nbytes if kind == "preallocated write" else None
        try:
            return self._open(path, "x", partial(_write, array), preallocate=preallocate)
        finally:
            path.unlink(missing_ok=True)

    def _read(self, array: Array, *, warm: bool) -> Run:
        path = self._bed.file()
        if warm:
            _warm(path, array.nbytes)
        return self._open(path, "r", partial(_read, array, None if warm else path))

    def _open(
        self,
        path: Path,
        mode: str,
        run: Callable[[File], Run],
        *,
        durable: bool = False,
        preallocate: int | None = None,
    ) -> Run:
        cell = self._cell
        return opened(
            path,
            mode,
            run,
            request_size=cell.request_size,
            depth=cell.depth,
            direct=None if cell.direct else False,
            durable=durable,
            backend=cell.backend,
            preallocate=preallocate,
        )


def _write(array: Array, file: File) -> Run:
    return measured(lambda: file.write_at(array, 0).result(), array.nbytes, flush=file.flush, told=file.reason)


def _read(array: Array, drops: Path | None, file: File) -> Run:
    return measured(lambda: file.read_at(array, 0).result(), array.nbytes, reads=drops, told=file.reason)


def _warm(path: Path, nbytes: int) -> None:
    """Have the start of a file in the page cache."""
    if (_measure.resident_bytes(path) or 0) >= nbytes:
        return
    with open(path, "rb", buffering=0) as file:
        part = bytearray(MIB)
        for _ in range(0, nbytes, MIB):
            file.readinto(part)
