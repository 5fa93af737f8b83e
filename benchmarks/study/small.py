"""Small reads and writes at random places, each an operation of its own: rates, CPU per operation, latencies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import numpy as np

from gatherio._core.file import File
from gatherio._core.operation import Operation
from gatherio._core.queue import CompletionQueue
from gatherio._memory import pages
from gatherio.probe import (
    KIB,
    MIB,
    Array,
    Job,
    Run,
    has_registered,
    in_queue,
    in_threads,
    objects,
    operations_per_second,
    require_words,
)

from . import bare_loop
from .bed import Bed, finished
from .fio import FioJob
from .groups import Axes, Claim, Contender, Group
from .runs import Target, cpu_per_operation

SIZES: Final = (4 * KIB, 64 * KIB)
DEPTHS: Final = (1, 4, 16, 32, 64, 128)
QUICK_DEPTHS: Final = (1, 32)
#: Operations of one run, by depth and size: some 0.3 s on the disks seen.
COUNTS: Final = {4 * KIB: {1: 6_000, 4: 15_000}, 64 * KIB: {1: 3_000, 4: 6_000}}
COUNT_DEEPER: Final = {4 * KIB: 30_000, 64 * KIB: 8_000}
BATCH_BYTES: Final = MIB  # more of them do not fit into a processor's second-level cache
PERCENTILES: Final = (50, 90, 99, 99.9, 100)

OBJECTS_TARGET: Final = Target(">=", 0.95)  # of the bare loop's rate, at depths 1, 32 and 128
BATCH_TARGET: Final = Target(">=", 1.0)
ASYNCIO_TARGET: Final = Target(">=", 0.85)  # at depth 32
QUOTED_DEPTHS: Final = (1, 32, 128)


Way = Callable[[Job], Run]
BARE: Final[dict[str, Literal["randread", "randwrite"]]] = {"read": "randread", "write": "randwrite"}


def small(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    limited = bed.extent.quick or bed.extent.tiny
    for size in SIZES[:1] if bed.extent.quick else SIZES:
        for how in ("read",) if bed.extent.quick else ("read", "write"):
            for depth in QUICK_DEPTHS if limited else DEPTHS:
                yield _group(bed, how, size, depth)
    for depth in () if bed.extent.quick else QUICK_DEPTHS if bed.extent.tiny else DEPTHS:
        yield _latencies(bed, depth)


def _count(bed: Bed, size: int, depth: int) -> int:
    count = 4 * depth if bed.extent.tiny else COUNTS[size].get(depth, COUNT_DEEPER[size])
    return min(count, bed.size // size)  # the bare loop wants no more than the file


def _group(bed: Bed, how: str, size: int, depth: int) -> Group:
    quoted = how == "read" and size == 4 * KIB and depth in QUOTED_DEPTHS
    axes: Axes = {"how": how, "size": size, "depth": depth}
    contenders = [_way(bed, name, way, axes, registered) for name, way, registered in _ways(how, depth)]
    contenders.insert(2, _bare(bed, axes))  # next to those that are compared with it: disks drift
    contenders.append(_fio(bed, axes))
    rounds = bed.extent.rounds if quoted else bed.extent.few_rounds
    title = f"{how} {size // KIB} KiB, depth {depth}"
    claims = _claims(title, [contender.name for contender in contenders], depth, quoted=quoted)
    return Group("small", title, contenders, rounds, claims, per="operation")


def _ways(how: str, depth: int) -> list[tuple[str, Way, bool]]:
    """Name, function, and whether buffers are registered."""
    ways: list[tuple[str, Way, bool]] = [
        ("objects, result()" if depth == 1 else "objects, queue.batch()", objects, False),
        ("batches", batches, False),
    ]
    if depth > 1:
        ways.append(("objects, no batch()", partial(objects, together=False), False))
    if has_registered():
        ways += [("objects, registered buffers", objects, True), ("batches, registered buffers", batches, True)]
    ways.append(("asyncio", in_asyncio, False))
    if hasattr(os, "preadv"):
        ways.append(("os.preadv" if how == "read" else "os.pwritev", in_threads, False))
    return ways


def _way(bed: Bed, name: str, way: Way, axes: Axes, registered: bool) -> Contender:
    def run() -> Run:
        how, size, depth = str(axes["how"]), int(axes["size"]), int(axes["depth"])
        return way(Job(bed.file(how), how, size, depth, _count(bed, size, depth), registered))

    library = "os" if name.startswith("os.") else "gatherio"
    return Contender(name, run, {**axes, "library": library}, foreign=library == "os")


def _bare(bed: Bed, axes: Axes) -> Contender:
    program = bed.bare_loop
    how, size, depth = str(axes["how"]), int(axes["size"]), int(axes["depth"])

    def run() -> Run:
        assert program is not None
        count = _count(bed, size, depth)
        return bare_loop.run(program, bed.file(how), BARE[how], size, depth, count * size)

    name = "bare C loop"
    return Contender(name, run if program else None, {**axes, "library": name}, bed.no_bare_loop, foreign=True)


def _fio(bed: Bed, axes: Axes) -> Contender:
    how, size, depth = str(axes["how"]), int(axes["size"]), int(axes["depth"])

    def run() -> Run:
        return FioJob(bed.file(how), BARE[how], bed.size, size, depth, _count(bed, size, depth)).run()

    return Contender("fio", None if bed.no_fio else run, {**axes, "library": "fio"}, bed.no_fio, foreign=True)


def _claims(title: str, names: list[str], depth: int, *, quoted: bool) -> list[Claim]:
    claims = []
    for name in names:
        target = None
        if name.startswith("objects"):
            target = OBJECTS_TARGET
        elif name == "batches":
            target = BATCH_TARGET
        elif name == "asyncio" and depth == 32:
            target = ASYNCIO_TARGET
        elif name not in ("asyncio", "batches, registered buffers"):
            continue
        if not quoted or name in ("objects, registered buffers", "objects, no batch()"):
            target = None
        claims.append(
            Claim(f"{title}, {name}: rate / bare C loop's", "x", operations_per_second, name, "bare C loop", target)
        )
        claims.append(Claim(f"{title}, {name}: CPU", "us/op", cpu_per_operation, name))
    return claims


# --- latencies ---


def _latencies(bed: Bed, depth: int) -> Group:
    """Of single reads of 4 KiB: from the call that submits to the moment that Python has the result."""
    axes: Axes = {"how": "read", "size": SIZES[0], "depth": depth}
    contenders = [_way(bed, "operation objects", timed_objects, axes, False)]
    return Group("small", f"latency of 4 KiB reads, depth {depth}", contenders, bed.extent.few_rounds, per="operation")


def timed_objects(job: Job) -> Run:
    """As `objects`, with the time that each operation took."""
    buffers, places, took = list(job.buffers()), iter(job.places()), list[float]()

    def transfers(file: File, queue: CompletionQueue) -> None:
        begin, now = file.read_at, time.perf_counter
        flying = {}
        for buffer, place in zip(buffers, places, strict=False):
            flying[begin(buffer, place)] = buffer, now()
        while flying:
            for operation in queue.get():
                operation.result()
                buffer, since = flying.pop(operation)
                took.append(now() - since)
                following = next(places, None)
                if following is not None:
                    since = now()
                    flying[begin(buffer, following)] = buffer, since

    run = in_queue(job, transfers)
    values = np.percentile(np.array(took) * 1e6, PERCENTILES)
    return replace(run, latency_us={f"{p:g}": float(value) for p, value in zip(PERCENTILES, values, strict=True)})


# --- ways to do it ---


def batches(job: Job) -> Run:
    """Many at a time with one completion for all, two such batches under way; `depth` of them in flight."""
    length = max(job.depth, BATCH_BYTES // job.size)
    buffers, places = pages.zeros((2 * length, job.size), np.uint8), np.array(job.places())
    halves = [buffers[:length], buffers[length:]]

    def transfers(file: File, queue: CompletionQueue) -> None:
        begin = file.read_many if job.how == "read" else file.write_many
        flying: list[Operation] = []
        for number, start in enumerate(range(0, job.count, length)):
            part = places[start : start + length]
            if len(flying) > 1:
                flying.pop(0).result()
            flying.append(begin(halves[number % 2][: len(part)], part))
        finished(flying)

    run = in_queue(job, transfers, buffers)
    require_words(job, buffers)
    return run


def in_asyncio(job: Job) -> Run:
    """A task for each operation in flight."""
    buffers, places = job.buffers(), iter(job.places())

    async def all_of_it(file: File) -> None:
        begin = file.read_at if job.how == "read" else file.write_at

        async def task(buffer: Array) -> None:
            for place in places:
                await begin(buffer, place)

        await asyncio.gather(*map(task, buffers))

    run = in_queue(job, lambda file, queue: asyncio.run(all_of_it(file)))
    require_words(job, buffers)
    return run
