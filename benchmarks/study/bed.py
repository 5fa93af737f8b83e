"""What runs work on: files and arrays, how large, how often; made when first asked for, and shared by sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gatherio import probe
from gatherio._cli.bench import ROUNDS
from gatherio._core.operation import Operation
from gatherio._memory.pages import PAGE_SIZE
from gatherio.probe import BYTES_IN_FLIGHT_MAX, has_registered

from . import bare_loop, fio

#: Rounds of a map: two hundred cells beside each other show an outlier by themselves.
MAP_ROUNDS: Final = 3
#: Seconds of one run in a map.
CELL_SECONDS: Final = 0.25


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


class Bed(probe.Bed):
    """Files and arrays in one folder.

    Attributes
    ----------
    folder : Path
    extent : Extent
    no_fio, no_bare_loop : str
        Why there is none, or "".
    """

    def __init__(self, folder: Path, extent: Extent, bare_loop_source: Path | None = None) -> None:
        super().__init__(folder, extent.size, tiny=extent.tiny)
        self.extent = extent
        #: The rows that a group has had so far.
        self.results: Callable[[str, str], list[dict[str, Any]]] = lambda section, group: []
        self.no_fio = fio.why_not(folder)
        self.bare_loop, self.no_bare_loop = bare_loop.build(folder, bare_loop_source)

    @property
    def touched_bytes(self) -> int:
        """For groups in which some let the page cache grow: what they take, with their arrays."""
        return 0 if self.extent.tiny else 3 * self.size


def finished(operations: list[Operation]) -> None:
    """Wait for all of them."""
    for operation in operations:
        operation.result()


# --- what a system may have or lack ---


def variants() -> dict[str, bool]:
    """Plain and registered buffers, as far as there are any."""
    return {"plain": False, "registered": True} if has_registered() else {"plain": False}


def fits_in_queue(request_size: int, depth: int) -> bool:
    """Whether a queue of this depth holds more requests of this size than one of half the depth does."""
    room = max(BYTES_IN_FLIGHT_MAX, 2 * request_size)
    return depth == 1 or depth * request_size <= room


def whole_pages(nbytes: int) -> int:
    """Rounded down."""
    return nbytes - nbytes % PAGE_SIZE
