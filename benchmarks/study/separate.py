"""Separate pages of memory gathered into a file and scattered from it: in place and staged, against one array."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from gatherio._core.file import open as open_file
from gatherio._core.queue import DEFAULT_REQUEST_SIZE
from gatherio.probe import (
    Places,
    Run,
    cpu_per_gib,
    opened,
    rate,
    read_all,
    require_places,
    write_all,
)

from .bed import Bed, variants
from .groups import Axes, Claim, Contender, Group
from .runs import Target

RUNS: Final = (1, 4, 16, 64)  # pages that stand together in memory
#: What separate pages are to reach of the sequential rate, and what they are to cost.
TARGET_RATE: Final = {"write": Target(">=", 0.9), "read": Target(">=", 0.85)}
TARGET_CPU: Final = Target("<=", 0.03)
#: Requests that the staged way and the sequential one need, and plenty for the way in place.
DEPTH: Final = 32


def separate(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    small = bed.extent.quick or bed.extent.tiny
    for run_pages in (1,) if small else RUNS:
        for order in ("shuffled",) if small else ("in order", "shuffled"):
            for how in ("write", "read"):
                yield _group(bed, how, run_pages, order)


def _group(bed: Bed, how: str, run_pages: int, order: str) -> Group:
    made: list[Places] = []

    def places() -> Places:
        if not made:
            made.append(Places(bed, run_pages, order))
        return made[0]

    def sequential() -> Run:
        array = bed.array()[: places().nbytes]
        with open_file(bed.file("write"), "r+") as file:
            return write_all(file, [array]) if how == "write" else read_all(file, [array])

    def scattered(copy: bool | None, registered: bool) -> Run:
        transfer = write_all if how == "write" else read_all
        return opened(
            bed.file("write"),
            "r+",
            lambda file: transfer(file, places().segments, copy=copy),
            request_size=DEFAULT_REQUEST_SIZE,
            depth=DEPTH,
            registered=registered,
        )

    axes: Axes = {"how": how, "run_pages": run_pages, "order": order}
    contenders = [Contender("one array", sequential, {**axes, "placing": "sequential", "buffers": "plain"})]
    for buffers, registered in variants().items():
        for placing, copy in (("in place", False), ("staged", True)):
            name = f"pages {placing}, {buffers} buffers"  # alike, so that a claim can name the best of them
            run = partial(scattered, copy, registered)
            contenders.append(Contender(name, run, {**axes, "placing": placing, "buffers": buffers}))

    def done() -> None:
        if made:
            require_places(bed.file("write"), made[0])
        made.clear()

    title = f"{how}, runs of {run_pages} page{'s' if run_pages > 1 else ''}, {order}"
    rounds = bed.extent.rounds if run_pages == 1 else bed.extent.few_rounds
    claims = _claims(how, title, quoted=run_pages == 1)
    return Group("separate", title, contenders, rounds, claims, done=done)


def _claims(how: str, title: str, *, quoted: bool) -> list[Claim]:
    best = Claim(
        f"{title}, for throughput: rate / one array's",
        "x",
        rate,
        "pages*",
        "one array",
        TARGET_RATE[how] if quoted else None,
    )
    cheapest = Claim(
        f"{title}, for CPU: CPU",
        "s/GiB",
        cpu_per_gib,
        "pages*",
        target=TARGET_CPU if quoted else None,
        lower_is_better=True,
    )
    ways = [
        Claim(f"{title}, {placing}: rate / one array's", "x", rate, f"pages {placing}, plain buffers", "one array")
        for placing in ("in place", "staged")
    ]
    return [best, cheapest, *ways]
