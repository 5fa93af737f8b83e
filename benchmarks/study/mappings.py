"""What a mapped file costs, and what asking for locks adds to a transfer: CPU time, nothing of it waits for a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final

import numpy as np

from gatherio._core.file import open as open_file
from gatherio._core.operation import Operation
from gatherio._core.queue import CompletionQueue
from gatherio._mapping.mapping import Mapping
from gatherio._memory import pages
from gatherio.probe import MIB, Array, Run, measured, operations_per_second, rate

from .bed import Bed
from .groups import Claim, Contender, Group
from .runs import Target, cpu_per_operation

ADDED_TARGET: Final = Target("<=", 1.0)  # microseconds for each transfer
VIEW_TARGET: Final = Target("<=", 3.0)
VIEWS_TARGET: Final = Target(">=", 5.0)  # of the rate of np.memmap, a mapping each

NOT_ASKING: Final = "not asking"
#: Whether the file asks, and how many locks there are elsewhere in it, half of them another file object's.
LOCK_CASES: Final = (
    (NOT_ASKING, False, 0),
    ("asking, no locks", True, 0),
    ("asking, 10 locks", True, 10),
    ("asking, 200 locks", True, 200),
)


def mappings(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    for how in ("write", "read"):
        yield _locks(bed, how)
    yield _views(bed)
    yield _copies(bed)


# --- locks ---


def _locks(bed: Bed, how: str) -> Group:
    """64 bytes and the page cache: the cheapest transfer there is, so that what is added shows."""
    count = 200 if bed.extent.tiny else 20_000

    def run(honors: bool, held: int) -> Run:
        path = bed.file("write")
        with ExitStack() as stack:
            queue = stack.enter_context(CompletionQueue(backend="sync"))
            file, other = (
                stack.enter_context(open_file(path, "r+", direct=False, queue=queue, honor_locks=honors)) for _ in "12"
            )
            for i in range(held):  # in nobody's way
                (file, other)[i % 2].lock(MIB // 2 + 100 * i, 10)
            return _transfers(file.read_at if how == "read" else file.write_at, count)

    contenders = [
        Contender(name, partial(run, honors, held), {"how": how, "locks": held}) for name, honors, held in LOCK_CASES
    ]
    claims = [
        Claim(
            f"{how}, {name}: added to a transfer",
            "us",
            cpu_per_operation,
            name,
            NOT_ASKING,
            None if held > 10 else ADDED_TARGET,
            difference=True,
        )
        for name, honors, held in LOCK_CASES
        if honors
    ]
    return Group("mappings", f"locks, {how} 64 bytes", contenders, bed.extent.rounds, claims, per="operation")


def _transfers(call: Callable[[Array, int], Operation], count: int) -> Run:
    array = np.zeros(64, np.uint8)

    def all_of_them() -> None:
        for _ in range(count):
            call(array, 0).result()

    return measured(all_of_them, array.nbytes * count, operations=count)


# --- views ---


def _views(bed: Bed) -> Group:
    """Small arrays all over a file, of which nothing is touched."""
    count = 200 if bed.extent.tiny else 100_000
    offsets = np.random.default_rng(1).integers(0, bed.size - 64, count).tolist()

    def ours() -> Run:
        with Mapping(bed.file(), "r") as m:
            return _made(lambda offset: m.array(16, "f4", offset), offsets)

    def theirs() -> Run:
        path = bed.file()
        return _made(lambda offset: np.memmap(path, "f4", "r", offset, 16), offsets[: count // 20])

    contenders = [Contender("m.array", ours), Contender("np.memmap", theirs, {"library": "numpy"}, foreign=True)]
    claims = [
        Claim("m.array of 64 bytes: CPU", "us", cpu_per_operation, "m.array", target=VIEW_TARGET),
        Claim("m.array: rate / np.memmap's", "x", operations_per_second, "m.array", "np.memmap", VIEWS_TARGET),
    ]
    return Group("mappings", "views", contenders, bed.extent.rounds, claims, per="operation")


def _made(make: Callable[[int], Array], offsets: list[int]) -> Run:
    def all_of_them() -> None:
        for offset in offsets:
            make(offset)

    return measured(all_of_them, 64 * len(offsets), operations=len(offsets))


# --- copies ---


def _copies(bed: Bed) -> Group:
    """All of a mapped file that is in the page cache. `m.read` and `m.write` stand one that shrinks."""
    target = pages.zeros(MIB, np.uint8)

    def run(name: str) -> Run:
        with Mapping(bed.file("write")) as m:
            whole = m.array(m.size, np.uint8)
            int(whole[::4096].sum())  # what is not in the cache yet comes now

            def plain(start: int) -> None:
                target[:] = whole[start : start + MIB]

            steps: dict[str, Callable[[int], object]] = {
                "m.read(out=)": lambda start: m.read(start, out=target),
                "a copy of the array": plain,
                "m.write": lambda start: m.write(target, start),
            }
            return _in_steps(steps[name], bed.size)

    contenders = [Contender(name, partial(run, name)) for name in ("m.read(out=)", "a copy of the array", "m.write")]
    claim = Claim("m.read(out=): rate / a copy of the array's", "x", rate, "m.read(out=)", "a copy of the array")
    return Group("mappings", "copies", contenders, bed.extent.few_rounds, [claim], touched_bytes=bed.touched_bytes)


def _in_steps(step: Callable[[int], object], size: int) -> Run:
    def all_of_them() -> None:
        for start in range(0, size - MIB + 1, MIB):
            step(start)

    return measured(all_of_them, size)
