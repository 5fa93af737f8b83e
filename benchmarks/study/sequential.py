"""One array to and from a file that is there, with what `gatherio.open` gives: against fio and the bare C loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import numpy as np

from gatherio._core.file import open as open_file
from gatherio._core.queue import DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE
from gatherio._settings import settings_for
from gatherio.probe import (
    BYTES_IN_FLIGHT_MAX,
    KIB,
    MIB,
    Array,
    Run,
    cache_percent,
    cpu_per_gib,
    fill_pattern,
    measured,
    rate,
    read_all,
    require_pattern,
    require_stored,
    write_all,
)

from . import bare_loop
from .bed import Bed
from .fio import FioJob
from .groups import Claim, Contender, Group
from .runs import Target

How = Literal["write", "read"]
HOWS: Final[tuple[How, ...]] = ("write", "read")

#: What fio may choose from: its own sweep. Deeper or larger gained nothing on the disks seen.
FIO_SETTINGS: Final = tuple(itertools.product((256 * KIB, 1 * MIB, 4 * MIB, 16 * MIB), (1, 4, 16, 64)))
#: fio keeps all of a setting in flight; more than this only pins memory.
FIO_BYTES_MAX: Final = 256 * MIB
FIO_FINALISTS: Final = 2

RATE: Final = Target(">=", 0.98)  # of fio's best
CPU: Final = Target("<=", 1.2)  # of the bare loop's
MEMCPY_CPU: Final = Target("<=", 1.15)  # of one memcpy's


def sequential(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    for how in HOWS:
        if not _is_small(bed):
            jobs = [_fio(bed, how, *setting) for setting in FIO_SETTINGS if setting[0] * setting[1] <= FIO_BYTES_MAX]
            yield Group("sequential", _sweep_name(how), jobs, rounds=2, warm_up=False)
        yield _against_others(bed, how)
    if not bed.extent.quick:
        yield _plain_arrays(bed)


def _is_small(bed: Bed) -> bool:
    return bed.extent.quick or bed.extent.tiny


def _sweep_name(how: How) -> str:
    return f"fio's sweep, {how}"


def our_settings(bed: Bed) -> tuple[int, int]:
    """Request size, and how many of them `gatherio.open` keeps in flight here."""
    settings = settings_for(bed.folder / "any", None)
    request_size = (settings and settings.request_size) or DEFAULT_REQUEST_SIZE
    depth = (settings and settings.depth) or DEFAULT_DEPTH
    return request_size, max(1, min(depth, max(BYTES_IN_FLIGHT_MAX, 2 * request_size) // request_size))


# --- beside fio and the bare loop ---


def _against_others(bed: Bed, how: How) -> Group:
    request_size, depth = our_settings(bed)
    axes = {"how": how, "request_size": request_size, "depth": depth}
    same = _fio(bed, how, request_size, depth)
    bare = f"bare C loop {_name(request_size, depth)}"
    registered = f"{bare}, registered"
    contenders = [
        Contender("gatherio", partial(_ours, bed, how), {**axes, "library": "gatherio"}),
        _bare(bed, bare, how, request_size, depth),
        _bare(bed, registered, how, request_size, depth, fixed=True),
        same,
        *([] if _is_small(bed) else [_finalist(bed, how, place) for place in range(FIO_FINALISTS)]),
    ]
    claims = [
        Claim(f"{how}: rate / fio's, same requests", "x", rate, "gatherio", same.name),
        Claim(f"{how}: rate / fio's best", "x", rate, "gatherio", "fio*", RATE),
        Claim(f"{how}: rate / bare C loop's", "x", rate, "gatherio", bare),
        Claim(f"{how}: CPU / bare C loop's", "x", cpu_per_gib, "gatherio", bare, CPU),
        Claim(f"{how}: CPU / registered bare C loop's", "x", cpu_per_gib, "gatherio", registered),
        Claim(f"{how}: CPU", "s/GiB", cpu_per_gib, "gatherio"),
        Claim(f"{how}: page cache grew by", "%", cache_percent, "gatherio", target=Target("<=", 1.0)),
    ]
    return Group("sequential", how, contenders, bed.extent.rounds, claims, done=partial(_check, bed))


def _ours(bed: Bed, how: How) -> Run:
    array = bed.array()
    with open_file(bed.file(how), "r" if how == "read" else "r+") as file:
        # Without fsync: neither fio nor the loop does one here.
        return read_all(file, [array]) if how == "read" else write_all(file, [array], flush=False)


def _check(bed: Bed) -> None:
    """End the study unless the bytes that are written and read are those."""
    array = bed.array()
    fill_pattern(array)  # what a contender has read may be another one's zeros
    _ours(bed, "write")
    require_stored(bed.file("write"), array.nbytes, "what write_gather left in the file")
    array[...] = 0
    _ours(bed, "read")
    require_pattern(array, "what read_scatter put into the array")


def _name(request_size: int, depth: int) -> str:
    size = f"{request_size // MIB} MiB" if request_size >= MIB else f"{request_size // KIB} KiB"
    return f"{size} x {depth}"


def _fio(bed: Bed, how: How, request_size: int, depth: int) -> Contender:
    def run() -> Run:
        return FioJob(bed.file(how), how, bed.size, min(request_size, bed.size), depth).run()

    axes = {"how": how, "request_size": request_size, "depth": depth, "library": "fio"}
    name = f"fio {_name(request_size, depth)}"
    return Contender(name, None if bed.no_fio else run, axes, bed.no_fio, foreign=True)


def _finalist(bed: Bed, how: How, place: int) -> Contender:
    """fio with the setting that came first, or second, in its sweep."""

    def run() -> Run:
        rows = [row for row in bed.results("sequential", _sweep_name(how)) if row["rate"]]
        if len(rows) <= place:
            raise RuntimeError("there is no sweep of fio's to choose from")
        best = sorted(rows, key=lambda row: float(row["rate"]["median"]), reverse=True)[place]
        axes = best["axes"]
        job = FioJob(bed.file(how), how, bed.size, min(axes["request_size"], bed.size), axes["depth"])
        return replace(job.run(), told=str(best["name"]))

    name = f"fio, {('first', 'second')[place]} of its sweep"
    return Contender(
        name, None if bed.no_fio else run, {"how": how, "library": "fio", "place": place}, bed.no_fio, foreign=True
    )


def _bare(bed: Bed, name: str, how: How, request_size: int, depth: int, *, fixed: bool = False) -> Contender:
    program = bed.bare_loop

    def run() -> Run:
        assert program is not None
        size = min(request_size, bed.size)
        return bare_loop.run(program, bed.file(how), how, size, depth, bed.size, whole=True, fixed=fixed)

    axes = {"how": how, "request_size": request_size, "depth": depth, "registered": fixed, "library": "bare C loop"}
    return Contender(name, run if program else None, axes, bed.no_bare_loop, foreign=True)


# --- arrays as a user has them ---


def _plain_arrays(bed: Bed) -> Group:
    """Written from numpy's own memory, which starts somewhere in a page, against the one memcpy that this takes."""

    def plain() -> Array:
        made = np.empty(bed.size + 16, np.uint8)
        shift = 16 if made.__array_interface__["data"][0] % 4096 == 0 else 0
        return made[shift : shift + bed.size]

    source: list[Array] = []

    def ours() -> Run:
        if not source:
            source.append(plain())
            fill_pattern(source[0])
        with open_file(bed.file("write"), "r+") as file:
            array = source[0]
            return measured(lambda: file.write_at(array, 0).result(), array.nbytes, flush=file.flush, told=file.reason)

    def memcpy() -> Run:
        if not source:
            source.append(plain())
            fill_pattern(source[0])
        target, array = bed.array(), source[0]
        return measured(lambda: np.copyto(target, array), array.nbytes)

    contenders = [
        Contender("gatherio.write_at, plain array", ours, {"library": "gatherio"}),
        Contender("one memcpy of it", memcpy, {"library": "memcpy"}, foreign=True),
    ]
    claim = Claim(
        "plain array: CPU / one memcpy's",
        "x",
        cpu_per_gib,
        "gatherio.write_at, plain array",
        "one memcpy of it",
        MEMCPY_CPU,
    )

    def done() -> None:
        if source:
            require_stored(bed.file("write"), bed.size, "what write_at left of a plain array")
        source.clear()

    return Group("sequential", "plain arrays", contenders, bed.extent.rounds, [claim], done=done)
