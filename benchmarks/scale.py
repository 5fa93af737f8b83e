"""How the cost of things grows with how many there are: as slopes, with the class that each belongs to.

    python benchmarks/scale.py DIR [--most N] [--only WORD] [--report FOLDER]

Each row is done for 10, 30, 100, ... things, up to its own most or `--most`, three times each; the least counts. A
slope is that of the last decade in a log-log plot: 1 is linear, 2 quadratic, and what sorts is a little above 1. A row
is above its class if its slope is more than half above it. The exit code is 1 if any is. `--report` writes scale.md,
and scale.png if matplotlib is there.

What is counted is CPU time of this process, all threads and the kernel's part included, or something exact where that
is to be had: system calls by strace, bytes of memory. No row depends on how fast the disk is. See tests/test_scale.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

import gatherio as gio
from gatherio._native import lib

PAGE: Final = 4096
SMALL: Final = 512  # bytes of a small transfer
#: Above its class by this much is another class: a quadratic is by 1, a sort by less than 0.2.
TOLERANCE: Final = 0.5
ROUNDS: Final = 3
_LONG_S: Final = 20.0  # a row does not go on to more things when one run has taken so long


class Row(NamedTuple):
    """What is measured."""

    name: str
    measure: Callable[[Bed, int], float]
    unit: str  # of what `measure` gives: "s", "calls", "bytes"
    growth: float  # the class: 1 is linear
    most: int  # things in a full run
    few: int  # and in the tests: enough for the growth to show


class Bed:
    """Where it is measured: a folder, and what is made in it for one run."""

    def __init__(self, folder: Path, at_end: contextlib.ExitStack) -> None:
        self.folder = folder
        self._at_end = at_end

    def queue(self, depth: int = 32, backend: str | None = None) -> gio.CompletionQueue:
        return self._at_end.enter_context(gio.CompletionQueue(depth, backend=backend))

    def file(self, queue: gio.CompletionQueue | None = None, nbytes: int = 64 * PAGE, **options: Any) -> gio.File:
        """A file of zeros, open."""
        path = self.folder / "file"
        if not path.exists() or path.stat().st_size != nbytes:
            path.write_bytes(bytes(nbytes))
        return self._at_end.enter_context(gio.open(path, "r+", queue=queue, tuning=False, **options))

    def reads(self, file: gio.File, count: int) -> list[gio.Operation]:
        array = np.empty(SMALL, np.uint8)
        return [file.read_at(array, i % 64 * PAGE) for i in range(count)]

    @contextlib.contextmanager
    def held(self, queue: gio.CompletionQueue) -> Iterator[None]:
        """Nothing that is submitted meanwhile ends before the block does."""
        assert lib.gio_queue_fault(queue._native, lib.GIO_FAULT_HOLD, 0, 2**62, 0) == 0
        try:
            yield
        finally:
            lib.gio_queue_fault(queue._native, lib.GIO_FAULT_NONE, 0, 0, 0)

    def later(self, close: Callable[[], object]) -> None:
        self._at_end.callback(close)


class Clock:
    """CPU seconds of a ``with`` block."""

    def __enter__(self) -> Clock:
        gc.collect()
        self._begin = time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.process_time() - self._begin


# --- operations ---


def submitted(bed: Bed, count: int) -> float:
    queue = bed.queue()
    file = bed.file(queue)
    with bed.held(queue), Clock() as clock:
        operations = bed.reads(file, count)
    gio.wait(operations)
    return clock.seconds


def asked(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue())
    with Clock() as clock:
        for operation in bed.reads(file, count):
            operation.result()
    return clock.seconds


def dropped(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue())
    with Clock() as clock:
        array = np.empty(SMALL, np.uint8)
        for i in range(count):
            file.read_at(array, i % 64 * PAGE)
        file.flush()
    return clock.seconds


def cancelled(bed: Bed, count: int) -> float:
    """Few of them have begun."""
    queue = bed.queue()
    file = bed.file(queue)
    with bed.held(queue):
        operations = bed.reads(file, count)
        with Clock() as clock:
            for operation in operations:
                operation.cancel()
    with clock_goes_on(clock):
        for operation in operations:
            operation.cancelled()
    return clock.seconds


@contextlib.contextmanager
def clock_goes_on(clock: Clock) -> Iterator[None]:
    before = clock.seconds
    with clock:
        yield
    clock.seconds += before


def awaited(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue())

    async def one(operation: gio.Operation) -> int:
        return await operation

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, bed.reads(file, count)))

    with Clock() as clock:
        asyncio.run(all_of_them())
    return clock.seconds


def gotten(bed: Bed, count: int) -> float:
    queue = bed.queue()
    queue.get(0)
    operations = bed.reads(bed.file(queue), count)
    gio.wait(operations)
    with Clock() as clock:
        left = count
        while left:
            left -= len(queue.get(max=1))
    return clock.seconds


@contextlib.contextmanager
def one_by_one(bed: Bed) -> Iterator[gio.File]:
    """A file of which nothing begins, for its queue has one request and that is held: `cancel` ends one at a time."""
    queue = bed.queue(1)
    file = bed.file(queue)
    with bed.held(queue):
        bed.reads(file, 1)
        yield file


def completed(bed: Bed, count: int) -> float:
    """Each ends when the one before has been looked at."""
    with one_by_one(bed) as file, Clock() as clock:
        operations = bed.reads(file, count)
        operations[0].cancel()
        for number, _ in enumerate(gio.as_completed(operations), 1):
            if number < count:
                operations[number].cancel()
    return clock.seconds


def end_in_turn(operations: list[gio.Operation]) -> None:
    """Each ends when the end of the one before is known."""
    for one, other in zip(operations, operations[1:], strict=False):
        one.add_done_callback(lambda _, other=other: other.cancel())
    operations[0].cancel()


def waited_for_all(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue(2))
    with Clock() as clock:
        gio.wait(bed.reads(file, count))
    return clock.seconds


def waited_for_a_failure(bed: Bed, count: int) -> float:
    """There is none, so all are seen to end, one by one."""
    with one_by_one(bed) as file, Clock() as clock:
        operations = bed.reads(file, count)
        end_in_turn(operations)
        gio.wait(operations, return_when=gio.FIRST_EXCEPTION)
    return clock.seconds


def waited_for_the_last(bed: Bed, count: int) -> float:
    """For the first of all of a list, while those of another list end one by one, and then one of these."""
    with one_by_one(bed) as file, Clock() as clock:
        others, operations = bed.reads(file, count), bed.reads(file, count)
        end_in_turn([*others, operations[0]])
        gio.wait(operations, return_when=gio.FIRST_COMPLETED)
    return clock.seconds


def waited_one_by_one(bed: Bed, count: int) -> float:
    """Of a window of 32, for the next one to end, again and again."""
    file = bed.file(bed.queue())
    array = np.empty(SMALL, np.uint8)
    with Clock() as clock:
        waiting = {file.read_at(array, i % 64 * PAGE) for i in range(32)}
        left = count
        while left > 0:
            done, waiting = gio.wait(waiting, return_when=gio.FIRST_COMPLETED)
            left -= len(done)
            waiting |= {file.read_at(array, i % 64 * PAGE) for i in range(len(done))}
        gio.wait(waiting)
    return clock.seconds


def watched(bed: Bed, count: int) -> float:
    """All by one operation."""
    queue = bed.queue()
    file = bed.file(queue)
    calls: list[gio.Operation] = []
    with Clock() as clock:
        with bed.held(queue):
            (operation,) = bed.reads(file, 1)
            for _ in range(count):
                operation.add_done_callback(calls.append)
        operation.result()
        while len(calls) < count:
            time.sleep(0.001)
    return clock.seconds


def watched_each(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue())
    calls: list[gio.Operation] = []
    with Clock() as clock:
        for operation in bed.reads(file, count):
            operation.add_done_callback(calls.append)
        while len(calls) < count:
            time.sleep(0.001)
    return clock.seconds


def batched(bed: Bed, count: int) -> float:
    queue = bed.queue()
    file = bed.file(queue)
    with Clock() as clock:
        with queue.batch():
            operations = bed.reads(file, count)
        gio.wait(operations)
    return clock.seconds


def placed_in_a_batch(bed: Bed, count: int) -> float:
    file = bed.file(bed.queue())
    rows, offsets = np.empty((count, SMALL), np.uint8), np.arange(count) % 64 * PAGE
    with Clock() as clock:
        file.read_many(rows, offsets).result()
    return clock.seconds


def gathered(bed: Bed, count: int) -> float:
    """Segments, all staged."""
    file = bed.file(bed.queue(), nbytes=PAGE)
    rows = np.empty((2 * count, 64), np.uint8)
    with Clock() as clock:
        file.read_scatter(gio.Segments.rows(rows, np.arange(0, 2 * count, 2)), 0, copy=True).result()
    return clock.seconds


def written_in_parts(bed: Bed, count: int) -> float:
    """Ragged ends, none of which share a page: what one waits for is not looked for among all."""
    file = bed.file(bed.queue(128), nbytes=PAGE)
    array = np.zeros(100, np.uint8)
    with Clock() as clock:
        gio.wait([file.write_at(array, i * 2 * PAGE + 50) for i in range(count)])
    return clock.seconds


def staged_at_once(bed: Bed, count: int) -> float:
    """Of 1 MiB each, in pages: more than there are staging buffers for."""
    file = bed.file(bed.queue(128), nbytes=1 << 20)
    rows = gio.empty((512, PAGE), np.uint8)
    segments = [gio.Segments.rows(gio.empty((512, PAGE), np.uint8), np.arange(0, 512, 2)) for _ in range(min(count, 8))]
    del rows
    with Clock() as clock:
        gio.wait([file.write_gather(segments[i % len(segments)], 0, copy=True) for i in range(count)])
    return clock.seconds


# --- what lives beside them ---


def a_queue_beside(bed: Bed, count: int) -> float:
    """One more, opened and closed, with so many living."""
    for _ in range(count):
        bed.queue(1, "sync")
    with Clock() as clock:
        for _ in range(200):
            gio.CompletionQueue(1, backend="sync").close()
    return clock.seconds


def an_array_beside(bed: Bed, count: int) -> float:
    """One more, made and freed, with so many queues living."""
    for _ in range(count):
        queue = bed.queue(1, "sync")
        bed.file(queue).read_at(np.empty(SMALL, np.uint8), 0).result()
    with Clock() as clock:
        for _ in range(1000):
            gio.empty(PAGE, np.uint8)
    return clock.seconds


def a_file_beside(bed: Bed, count: int) -> float:
    """One more, opened and closed, with so many open on the same queue."""
    queue = bed.queue()
    for _ in range(count):
        bed.file(queue)
    path = bed.folder / "file"
    with Clock() as clock:
        for _ in range(100):
            gio.open(path, queue=queue, tuning=False).close()
    return clock.seconds


def registered(bed: Bed, count: int) -> float:
    """A queue has room for some hundreds."""
    queue = bed.queue()
    arrays = [gio.empty(PAGE, np.uint8) for _ in range(count)]
    kept = []
    try:
        with Clock() as clock:
            for array in arrays:
                kept.append(queue.register(array))
            for registration in kept:
                registration.close()
    except OSError as failure:
        raise NotMeasuredError(f"{failure.strerror}") from failure
    return clock.seconds


def staging_of_queues(bed: Bed, count: int) -> float:
    """Memory of queues each of which has had one unaligned piece, beyond that of queues which had none."""
    script = """
import sys, numpy as np, gatherio as gio
sys.path.insert(0, sys.argv[4])
from pathlib import Path
path, count, shift = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
page = 4096
array = gio.zeros(3 * page, "u1")[shift : shift + 2 * page]
kept = []
for _ in range(count):
    queue = gio.CompletionQueue(4)
    file = gio.open(path, "r", queue=queue, tuning=False)
    assert file.read_at(array, shift).result() == 2 * page
    kept.append((queue, file))
print(int(Path("/proc/self/statm").read_text().split()[1]) * page)
for queue, file in kept:
    file.close()
    queue.close()
"""
    bed.file()
    resident = [int(run_script(script, bed.folder / "file", count, shift, bed.folder)) for shift in (100, 0)]
    return max(0, resident[0] - resident[1]) + (1 << 20)


def threads_on_one_queue(bed: Bed, count: int) -> float:
    """The same number of reads, by so many threads."""
    file = bed.file(bed.queue(128))
    total = 4096

    def work() -> None:
        array = np.empty(SMALL, np.uint8)
        for i in range(total // count):
            file.read_at(array, i % 64 * PAGE).result()

    threads = [threading.Thread(target=work) for _ in range(count)]
    with Clock() as clock:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return clock.seconds


# --- locks ---


def locked_in_a_row(bed: Bed, count: int) -> float:
    """Side by side, which is one range for the kernel; given back in the same order."""
    file = bed.file(bed.queue())
    with Clock() as clock:
        locks = [file.lock(i * 10, 10) for i in range(count)]
        for lock in locks:
            lock.unlock()
    return clock.seconds


def unlocked_around(bed: Bed, count: int) -> float:
    """One that covers so many others."""
    file = bed.file(bed.queue())
    around = file.lock(0, count * 10, exclusive=False)
    locks = [file.lock(i * 10, 10, exclusive=False) for i in range(count)]
    with Clock() as clock:
        around.unlock()
    for lock in reversed(locks):
        lock.unlock()
    return clock.seconds


def asked_for_beside_locks(bed: Bed, count: int) -> float:
    """System calls for one batch of so many places, with ten locks of somebody else between them."""
    script = """
import sys, numpy as np, gatherio as gio
path, count = sys.argv[1], int(sys.argv[2])
with gio.open(path, "r+", tuning=False) as f, gio.open(path, "r+", tuning=False) as g:
    for i in range(10):
        g.lock(i * (count // 10) * 1024 + 600, 10)
    f.read_many(np.empty((count, 512), "u1"), np.arange(count) * 1024).result()
"""
    bed.file()
    return traced("fcntl", "F_OFD_GETLK", script, bed.folder / "file", count)


# --- opening, mapping ---


def opened(bed: Bed, count: int) -> float:
    bed.file()
    path = bed.folder / "file"
    queue = bed.queue()
    with Clock() as clock:
        for _ in range(count):
            gio.open(path, queue=queue, tuning=False).close()
    return clock.seconds


def asked_of_the_device(bed: Bed, count: int) -> float:
    """System calls that look into /sys."""
    script = """
import sys, gatherio as gio
for _ in range(int(sys.argv[2])):
    gio.open(sys.argv[1], tuning=False).close()
"""
    bed.file()
    return traced("%file", '"/sys/', script, bed.folder / "file", count)


def copied_from_a_mapping(bed: Bed, count: int) -> float:
    """Pages of 4 KiB, in one read."""
    path = bed.folder / "mapped"
    with open(path, "wb") as file:
        file.truncate(count * PAGE)
    with gio.Mapping(path, "r") as mapping:
        mapping.read(0, count * PAGE)
        with Clock() as clock:
            mapping.read(0, count * PAGE)
    return clock.seconds


# --- tools ---


class NotMeasuredError(Exception):
    """What a row needs is not to be had here."""


def run_script(script: str, *arguments: object, under: tuple[str, ...] = ()) -> str:
    command = [*under, sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def traced(calls: str, word: str, script: str, *arguments: object) -> float:
    """How many system calls of a script have a word in them."""
    strace = shutil.which("strace")
    if strace is None:
        raise NotMeasuredError("needs strace")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        run_script(script, *arguments, under=(strace, "-f", "-qq", "-s", "64", "-e", f"trace={calls}", "-o", str(log)))
        return float(sum(word in line for line in log.read_text(errors="replace").splitlines()))


ROWS: Final = [
    Row("submit", submitted, "s", 1, 10**6, 10_000),
    Row("submit and result", asked, "s", 1, 10**6, 10_000),
    Row("dropped", dropped, "s", 1, 10**6, 10_000),
    Row("cancel", cancelled, "s", 1, 10**6, 10_000),
    Row("await", awaited, "s", 1, 10**5, 3_000),
    Row("q.get, one at a time", gotten, "s", 1, 10**6, 10_000),
    Row("as_completed", completed, "s", 1, 10**5, 10_000),
    Row("wait for all", waited_for_all, "s", 1, 10**5, 3_000),
    Row("wait, FIRST_EXCEPTION, none fails", waited_for_a_failure, "s", 1, 10**4, 3_000),
    Row("wait, FIRST_COMPLETED, behind others", waited_for_the_last, "s", 1, 10**4, 3_000),
    Row("wait, FIRST_COMPLETED, a window of 32", waited_one_by_one, "s", 1, 10**5, 3_000),
    Row("callbacks of one operation", watched, "s", 1, 10**5, 10_000),
    Row("operations with a callback", watched_each, "s", 1, 10**5, 3_000),
    Row("batch()", batched, "s", 1, 10**5, 10_000),
    Row("read_many: places", placed_in_a_batch, "s", 1, 10**6, 10_000),
    Row("read_scatter: segments", gathered, "s", 1, 10**6, 100_000),
    Row("write_at: ragged, apart", written_in_parts, "s", 1, 10**4, 1_000),
    Row("copy=True in flight", staged_at_once, "s", 1, 128, 100),
    Row("queues beside a new one", a_queue_beside, "s", 0, 3_000, 3_000),
    Row("queues beside a new array", an_array_beside, "s", 0, 300, 50),
    Row("files beside a new one", a_file_beside, "s", 0, 300, 200),
    Row("registrations", registered, "s", 1, 100, 100),
    Row("staging memory of queues", staging_of_queues, "bytes", 0, 100, 20),
    Row("threads on one queue, CPU in all", threads_on_one_queue, "s", 0, 64, 32),
    Row("locks side by side", locked_in_a_row, "s", 1, 10**5, 30_000),
    Row("locks under one that goes", unlocked_around, "s", 1, 10**5, 10_000),
    Row("asking for locks: places in a batch", asked_for_beside_locks, "calls", 0, 10**4, 1_000),
    Row("open and close", opened, "s", 1, 10**4, 1_000),
    Row("looking into /sys: opens", asked_of_the_device, "calls", 0, 10**3, 100),
    Row("Mapping.read: pages", copied_from_a_mapping, "s", 1, 10**5, 30_000),
]


def run(row: Row, folder: Path, count: int) -> float:
    """What it costs, once."""
    with tempfile.TemporaryDirectory(prefix="scale-", dir=folder) as name, contextlib.ExitStack() as at_end:
        return row.measure(Bed(Path(name), at_end), count)


def least(row: Row, folder: Path, count: int, rounds: int = ROUNDS) -> float:
    return min(run(row, folder, count) for _ in range(rounds))


def slope(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Of a line through two points in a log-log plot. What costs nothing counts as one."""
    tiny = 1e-9
    return math.log(max(many[1], tiny) / max(few[1], tiny)) / math.log(many[0] / few[0])


def is_above(row: Row, found: float) -> bool:
    return found > row.growth + TOLERANCE


def counts(most: int) -> list[int]:
    """10, 30, 100, 300, ..., most."""
    steps = (step * 10**power for power in range(1, 9) for step in (1, 3))
    return [*(count for count in steps if count < most), most]


class Result(NamedTuple):
    row: Row
    points: list[tuple[int, float]]
    why_not: str = ""

    @property
    def slope(self) -> float:
        """Of the last decade."""
        last = self.points[-1]
        earlier = [point for point in self.points if point[0] * 9 <= last[0]] or self.points[:1]
        return slope(earlier[-1], last) if earlier[-1] is not last else 0.0


def measured(row: Row, folder: Path, most: int) -> Result:
    points: list[tuple[int, float]] = []
    for count in counts(min(most, row.most)):
        begin = time.monotonic()
        try:
            points.append((count, least(row, folder, count, ROUNDS if row.unit == "s" else 1)))
        except NotMeasuredError as failure:
            return Result(row, points, str(failure))
        if time.monotonic() - begin > _LONG_S:
            break
    return Result(row, points)


# --- telling ---


def shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    if unit == "calls":
        return f"{value:.0f} calls"
    return f"{value * 1e3:.3g} ms"


def table(results: list[Result]) -> str:
    lines = [
        "| | things | cost of the fewest | of the most | for each | slope | class | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, points, why_not in results:
        if not points:
            lines.append(f"| {row.name} | | | | | | {row.growth} | not measured: {why_not} |")
            continue
        (few, low), (many, high) = points[0], points[-1]
        found = Result(row, points).slope
        each = f"{high / many * 1e6:.2f} us" if row.unit == "s" and row.growth else ""
        verdict = "**above**" if is_above(row, found) else ""
        lines.append(
            f"| {row.name} | {few} to {many} | {shown(low, row.unit)} | {shown(high, row.unit)} | {each} | {found:.2f} "
            f"| {row.growth} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: list[Result], path: Path) -> bool:
    """A panel for each row, with its class as a dashed line. Whether there is matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError:
        return False
    found = [result for result in results if result.points]
    columns = 5
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(3 * columns, 2.4 * lines), layout="constrained")
    for number, result in enumerate(found):
        axes = figure.add_subplot(lines, columns, number + 1)
        counts_, costs = zip(*result.points, strict=True)
        axes.loglog(counts_, [max(cost, 1e-9) for cost in costs], "ko-", markersize=3, linewidth=1)
        guide = [costs[-1] * (count / counts_[-1]) ** result.row.growth for count in counts_]
        axes.loglog(counts_, [max(cost, 1e-9) for cost in guide], color="grey", linestyle="--", linewidth=1)
        mark = "  ABOVE" if is_above(result.row, result.slope) else ""
        axes.set_title(f"{result.row.name}: {result.slope:.2f}{mark}", fontsize=8)
        axes.set_ylabel(result.row.unit, fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_ylim(
            top=max(axes.get_ylim()[1], 10 * axes.get_ylim()[0])
        )  # a decade at least: no noise is drawn large
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(path, dpi=100)
    return True


def more_descriptors() -> None:
    """As many as may be had: rows with many files need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))


def main() -> int:
    parser = argparse.ArgumentParser(description="How the cost of things grows with how many there are.")
    parser.add_argument("folder", type=Path, help="where the files are made")
    parser.add_argument("--most", type=int, default=10**6, help="things at most")
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--report", type=Path, help="a folder for scale.md and scale.png")
    options = parser.parse_args()
    more_descriptors()
    results = []
    for row in ROWS:
        if options.only in row.name:
            results.append(measured(row, options.folder, options.most))
            print(table(results).splitlines()[-1], flush=True)
    if options.report:
        where = (
            f"{os.uname().sysname} {os.uname().release}, CPython {sys.version.split()[0]}, gatherio {gio.__version__}"
        )
        (options.report / "scale.md").write_text(f"{where}; {os.cpu_count()} processors\n\n{table(results)}")
        draw(results, options.report / "scale.png")
    return int(any(result.points and is_above(result.row, result.slope) for result in results))


if __name__ == "__main__":
    sys.exit(main())
