"""Whole arrays: gatherio.save and load, and numpy's ways to do the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from gatherio._formats import npy
from gatherio._memory import pages
from gatherio.probe import (
    Array,
    Run,
    cache_percent,
    cpu_per_gib,
    durable_rate,
    fill_pattern,
    measured,
    rate,
    remove,
    require_pattern,
)

from . import numpy_ways
from .bed import Bed
from .groups import Claim, Contender, Group
from .runs import Target

SAVE_TARGET: Final = Target(">=", 1.4)  # of np.save + fsync
LOAD_TARGET: Final = Target(">=", 1.15)  # of np.load
LOAD_CPU_TARGET: Final = Target("<=", 0.05)  # of np.load's


def arrays(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    yield _save(bed)
    yield _load(bed)


def _save(bed: Bed) -> Group:
    """A new file each time, until it is on stable storage."""
    path = bed.folder / "saved.npy"
    made: dict[str, Array] = {}

    def array(kind: str) -> Array:
        if kind not in made:
            made[kind] = _aligned(bed.size) if kind == "page-aligned" else _ordinary(bed.size)
        return made[kind]

    def ours(kind: str) -> Run:
        remove(path)
        source = array(kind)
        # It returns when all is on stable storage: nothing is left to flush.
        return measured(lambda: npy.save(path, source, durable=True), source.nbytes, flush=lambda: None)

    contenders = [
        Contender(f"gatherio.save, {kind} array", partial(ours, kind), {"library": "gatherio", "how": "write"})
        for kind in ("page-aligned", "ordinary")
    ]
    for name, write in numpy_ways.WRITES[:1] if bed.extent.quick else numpy_ways.WRITES:
        contenders.append(_numpy(name, "write", lambda write=write: write(path, array("ordinary"))))  # type: ignore[misc]
    reference = numpy_ways.WRITES[0][0]
    claims = [
        Claim(f"save, {kind} array: {text} / np.save's", "x", metric, f"gatherio.save, {kind} array", reference, target)
        for kind in ("page-aligned", "ordinary")
        for text, metric, target in (
            ("durable rate", durable_rate, SAVE_TARGET if kind == "page-aligned" else None),
            ("CPU", cpu_per_gib, None),
        )
    ]
    claims.append(Claim("save: page cache grew by", "%", cache_percent, "gatherio.save, page-aligned array"))

    def done() -> None:
        for kind in list(made):
            ours(kind)
            require_pattern(np.load(path, mmap_mode="r"), f"what gatherio.save wrote of the {kind} array")
        made.clear()
        path.unlink(missing_ok=True)

    return Group(
        "arrays", "save, durable", contenders, bed.extent.rounds, claims, touched_bytes=bed.touched_bytes, done=done
    )


def _numpy(name: str, how: str, run: Callable[[], Run]) -> Contender:
    return Contender(name, run, {"library": "numpy", "how": how}, foreign=True)


def _load(bed: Bed) -> Group:
    """From the disk: the page cache is dropped before each."""
    path = bed.folder / "loaded.npy"
    out: list[Array] = []

    def file() -> Path:
        if not path.exists():
            npy.save(path, _aligned(bed.size), durable=True)
        return path

    def target() -> Array:
        if not out:
            out.append(pages.empty(bed.size // 8, np.uint64))
        return out[0]

    def ours(into: bool) -> Run:
        where, array = file(), target() if into else None
        return measured(lambda: npy.load(where, out=array), bed.size, reads=where)

    contenders = [
        Contender("gatherio.load", partial(ours, False), {"library": "gatherio", "how": "read"}),
        Contender("gatherio.load, out=", partial(ours, True), {"library": "gatherio", "how": "read"}),
    ]
    for name, read in numpy_ways.READS[:1] if bed.extent.quick else numpy_ways.READS:
        contenders.append(_numpy(name, "read", lambda read=read: read(file(), target())))  # type: ignore[misc]
    reference = numpy_ways.READS[0][0]
    claims = [
        Claim("load: rate / np.load's", "x", rate, "gatherio.load", reference),
        Claim("load: CPU / np.load's", "x", cpu_per_gib, "gatherio.load", reference),
        Claim("load, out=: rate / np.load's", "x", rate, "gatherio.load, out=", reference, LOAD_TARGET),
        Claim("load, out=: CPU / np.load's", "x", cpu_per_gib, "gatherio.load, out=", reference, LOAD_CPU_TARGET),
    ]

    def done() -> None:
        require_pattern(npy.load(file()), "what gatherio.load made of its own file")
        array = target()
        array[...] = 0
        npy.load(file(), out=array)
        require_pattern(array, "what gatherio.load put into out=")
        out.clear()
        path.unlink(missing_ok=True)

    return Group(
        "arrays", "load, cold", contenders, bed.extent.rounds, claims, touched_bytes=bed.touched_bytes, done=done
    )


def _ordinary(size: int) -> Array:
    """What numpy makes by itself: an array that starts somewhere in a page."""
    array = np.empty(size // 8 + 1, np.uint64)
    array = array[1:] if pages.is_aligned(array) else array[:-1]
    fill_pattern(array)
    return array


def _aligned(size: int) -> Array:
    array = pages.empty(size // 8, np.uint64)
    fill_pattern(array)
    return array
