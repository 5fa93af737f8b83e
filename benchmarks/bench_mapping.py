"""What asking for locks costs a transfer, and what a mapped array costs.

Sections: `locks`, small transfers through the page cache with and without asking; `views`, arrays of a mapped file
against numpy.memmap; `copies`, m.read and m.write against a plain copy of the mapped array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from measure import MIB, Bench, Run, Spread, Target

import gatherio as gio

Array = npt.NDArray[Any]

TARGETS = {
    ("locks", "asking, no locks"): Target("<=", 1.0),
    ("locks", "asking, 10 locks"): Target("<=", 1.0),
    ("views", "m.array of 64 bytes"): Target("<=", 3.0),
    ("views", "m.array: rate / np.memmap's"): Target(">=", 5.0),
}


# --- locks ---


def locks(bench: Bench) -> None:
    """64 bytes into the page cache: the cheapest transfer there is, so that what is added shows."""
    count = 200 if bench.tiny else 50_000
    with ExitStack() as stack:
        queue = stack.enter_context(gio.CompletionQueue(backend="sync"))
        contenders: dict[str, Callable[[], Run]] = {}
        for name, honors, held in LOCK_CASES:
            path = measure.written_file(bench.folder / f"locks {name}", np.zeros(MIB // 8, np.uint64))
            stack.callback(path.unlink)
            file, other = (
                stack.enter_context(gio.open(path, "r+", direct=False, queue=queue, honor_locks=honors)) for _ in "12"
            )
            for i in range(held):  # elsewhere in the file: in nobody's way
                (file, other)[i % 2].lock(MIB // 2 + 100 * i, 10)
            for what in ("write_at", "read_at"):
                contenders[f"{name}: {what}"] = partial(transfers, getattr(file, what), count)
        runs = measure.interleaved(contenders, bench.rounds, "locks")
    bench.report.add_operations("locks", runs)
    for name, honors, _ in LOCK_CASES:
        differences = [
            measure.cpu_per_operation(asking) - measure.cpu_per_operation(not_asking)
            for what in ("write_at", "read_at")
            for asking, not_asking in zip(runs[f"{name}: {what}"], runs[f"not asking: {what}"], strict=True)
        ]
        if honors:
            bench.report.add_figure(
                "locks", name, "us", Spread.of(differences), "of CPU time, added to a transfer; it waits for nothing"
            )


#: Whether the file asks, and how many locks there are, half of them another file object's.
LOCK_CASES = (
    ("not asking", False, 0),
    ("asking, no locks", True, 0),
    ("asking, 10 locks", True, 10),
    ("asking, 200 locks", True, 200),
)


def transfers(call: Callable[[Array, int], gio.Operation], count: int) -> Run:
    array = np.zeros(64, np.uint8)

    def all_of_them() -> None:
        for _ in range(count):
            call(array, 0).result()

    return measure.measured(all_of_them, 64 * count, operations=count)


# --- views ---


def views(bench: Bench) -> None:
    """Small arrays all over a file, of which nothing is touched."""
    path = measure.written_file(bench.folder / "views", np.zeros(bench.size // 8, np.uint64))
    count = 200 if bench.tiny else 200_000
    offsets = np.random.default_rng(1).integers(0, bench.size - 64, count).tolist()
    with gio.Mapping(path, "r") as m:
        runs = measure.interleaved(
            {
                "m.array": partial(made, lambda offset: m.array(16, "f4", offset), offsets),
                "np.memmap": partial(
                    made, lambda offset: np.memmap(path, "f4", "r", offset, 16), offsets[: count // 20]
                ),
            },
            bench.rounds,
            "views",
        )
    bench.report.add_operations("views", runs)
    cost = Spread.of(map(measure.cpu_per_operation, runs["m.array"]))
    bench.report.add_figure("views", "m.array of 64 bytes", "us", cost, "of CPU time")
    ratio = Spread.ratio(measure.operations_per_second, runs["m.array"], runs["np.memmap"])
    bench.report.add_figure("views", "m.array: rate / np.memmap's", "x", ratio)
    path.unlink()


def made(make: Callable[[int], Array], offsets: list[int]) -> Run:
    def all_of_them() -> None:
        for offset in offsets:
            make(offset)

    return measure.measured(all_of_them, 64 * len(offsets), operations=len(offsets))


# --- copies ---


def copies(bench: Bench) -> None:
    """All of a mapped file that is in the page cache, in steps of 1 MiB."""
    path = measure.written_file(bench.folder / "copies", np.zeros(bench.size // 8, np.uint64))
    target = gio.zeros(MIB, np.uint8)
    with gio.Mapping(path) as m:
        whole = m.array(m.size, np.uint8)
        whole[::4096].sum()  # what is not in the cache yet comes now

        def plain(start: int) -> None:
            target[:] = whole[start : start + MIB]

        steps: dict[str, Callable[[int], object]] = {
            "m.read(out=)": lambda start: m.read(start, out=target),
            "a copy of the array": plain,
            "m.write": lambda start: m.write(target, start),
        }
        contenders = {name: partial(in_steps, step, bench.size) for name, step in steps.items()}
        runs = measure.interleaved(contenders, bench.rounds, "copies")
    bench.report.add_transfers("copies", runs)
    ratio = Spread.ratio(measure.rate, runs["m.read(out=)"], runs["a copy of the array"])
    note = "the kernel copies, so that a file that shrinks is an error and not a SIGBUS"
    bench.report.add_figure("copies", "m.read(out=): rate / a copy of the array's", "x", ratio, note)
    path.unlink()


def in_steps(step: Callable[[int], object], size: int) -> Run:
    def all_of_them() -> None:
        for start in range(0, size - MIB + 1, MIB):
            step(start)

    return measure.measured(all_of_them, size)


def main() -> int:
    assert __doc__ is not None
    sections = {"locks": locks, "views": views, "copies": copies}
    return measure.run_script("bench_mapping", __doc__, sections, TARGETS, disk_factor=1.1, memory_factor=1.1)


if __name__ == "__main__":
    sys.exit(main())
