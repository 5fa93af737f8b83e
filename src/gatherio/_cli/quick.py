"""`gatherio bench --quick`: what a user does most, beside numpy's ways and the system's own calls.

What is compared takes turns (A B C, then C B A) after a round that does not count, since disks and their caches drift;
a ratio is taken within each round. The results have the shape of the study's, which builds on this.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from .. import _measure, probe
from .._core.file import open as open_file
from .._core.queue import DEFAULT_REQUEST_SIZE
from .._core.replace import write_file
from .._device import block_device
from .._folders import work_folder
from .._formats import npy
from .._measure import GIB
from .._memory import pages
from .._text import shown
from ..info import info
from ..probe import Array, Bed, Run
from .arguments import ADVICE, OK
from .text import markdown_table, number, progress, say, spread_text

Row: TypeAlias = dict[str, Any]
Content: TypeAlias = dict[str, Any]
Way: TypeAlias = Callable[[], Run]

SCHEMA_NAME: Final = "gatherio-study-1"
SECONDS: Final = 50
"""Under a minute, with what comes before and after."""
ROUNDS: Final = 3
SIZE_MAX: Final = GIB // 4
PAGES_DEPTH: Final = 32  # requests that the staged way and one array need, and plenty for the way in place
READS: Final = {1: 6_000, 32: 30_000}  # by how many are in flight
LOAD_BUSY: Final = 0.5  # above this, somebody else is at work, and figures are too low


# --- what is compared ---


class Comparison(NamedTuple):
    """Ways to do the same, by their names."""

    section: str
    group: str
    ours: Mapping[str, tuple[str, Way]]  # with what they are in the table; of those alike the fastest is shown
    theirs: Mapping[str, Way]  # none where the system has no such thing
    check: Callable[[], object] = lambda: None  # that what was moved is right; when all rounds are through
    by_operation: bool = False
    #: Of memory to be touched before each run. The host of a virtual machine takes back what nobody uses, and giving it
    #: again can cost ten times the CPU time of a transfer: whoever lets the page cache grow would pay for that.
    touched_bytes: int = 0

    @property
    def ways(self) -> dict[str, Way]:
        """All of them."""
        return {**{name: way for name, (_, way) in self.ours.items()}, **self.theirs}


def comparisons(bed: Bed) -> list[Callable[[], Comparison]]:
    """In their order; each makes its files and arrays when it is called."""
    return [
        *(partial(make, bed, how) for make in (_one_array, _npy_file, _pages) for how in ("write", "read")),
        *(partial(_reads, bed, depth) for depth in READS),
    ]


def _one_array(bed: Bed, how: str) -> Comparison:
    """To and from a file that is there; what is written is on stable storage when the call is over."""
    path, array = bed.file(how), bed.array()
    probe.fill_pattern(array)

    def both(write: Callable[[], object], flush: Callable[[], object]) -> Run:
        return probe.measured(lambda: (write(), flush()), array.nbytes)

    def ours() -> Run:
        with open_file(path, "r" if how == "read" else "r+") as file:
            if how == "read":
                return probe.read_all(file, [array])
            return both(file.write_gather([array], 0).result, file.flush)

    def numpys() -> Run:
        if how == "read":
            return probe.measured(lambda: np.fromfile(path, np.uint8), array.nbytes, reads=path)
        with open(path, "rb+", buffering=0) as file:
            return both(partial(array.tofile, file), partial(os.fsync, file.fileno()))

    def check() -> None:
        probe.fill_pattern(array)
        if how == "write":
            ours()
            probe.require_stored(path, array.nbytes, "what write_gather left in the file")
        else:
            array[...] = 0
            ours()
            probe.require_pattern(array, "what read_scatter put into the array")

    title = "read it, cold" if how == "read" else "write one array over an old file"
    theirs = {"np.fromfile" if how == "read" else "tofile + fsync": numpys}
    return Comparison("sequential", how, {"gatherio": (title, ours)}, theirs, check, touched_bytes=_touched(bed))


def _touched(bed: Bed) -> int:
    return 0 if bed.tiny else 3 * bed.size


def _npy_file(bed: Bed, how: str) -> Comparison:
    return _save(bed) if how == "write" else _load(bed)


def _save(bed: Bed) -> Comparison:
    """A new file each time, until it is on stable storage."""
    path, aligned, ordinary = bed.folder / "saved.npy", bed.array().view(np.uint64), _ordinary(bed.size)
    probe.fill_pattern(aligned)

    def ours(array: Array) -> Run:
        probe.remove(path)
        # It returns when all is on stable storage: nothing is left to flush.
        return probe.measured(lambda: npy.save(path, array, durable=True), array.nbytes, flush=lambda: None)

    def numpys() -> Run:
        probe.remove(path)
        with open(path, "wb") as file:
            flush = partial(os.fsync, file.fileno())
            return probe.measured(lambda: np.save(file, ordinary), ordinary.nbytes, flush=flush)

    def check() -> None:
        for array in (aligned, ordinary):
            ours(array)
            probe.require_pattern(np.load(path, mmap_mode="r"), "what gatherio.save wrote")
        path.unlink()

    saves = {
        "gatherio.save, page-aligned array": ("save .npy, durable", partial(ours, aligned)),
        "gatherio.save, ordinary array": ("the same, ordinary array", partial(ours, ordinary)),
    }
    theirs = {"np.save + fsync": numpys}
    return Comparison("arrays", "save, durable", saves, theirs, check, touched_bytes=_touched(bed))


def _ordinary(size: int) -> Array:
    """What numpy makes by itself: an array that starts somewhere in a page."""
    array = np.empty(size // 8 + 1, np.uint64)
    array = array[1:] if pages.is_aligned(array) else array[:-1]
    probe.fill_pattern(array)
    return array


def _load(bed: Bed) -> Comparison:
    """From the disk: the page cache is dropped before each."""
    path, out = bed.folder / "loaded.npy", bed.array().view(np.uint64)
    probe.fill_pattern(out)
    npy.save(path, out, durable=True)

    def load(call: Callable[[], object]) -> Run:
        return probe.measured(call, out.nbytes, reads=path)

    def check() -> None:
        probe.require_pattern(npy.load(path), "what gatherio.load made of its own file")
        out[...] = 0
        npy.load(path, out=out)
        probe.require_pattern(out, "what gatherio.load put into out=")
        path.unlink()

    loads = {
        "gatherio.load": ("load .npy, cold", partial(load, lambda: npy.load(path))),
        "gatherio.load, out=": ("the same into an old array", partial(load, lambda: npy.load(path, out=out))),
    }
    theirs = {"np.load": partial(load, lambda: np.load(path))}
    return Comparison("arrays", "load, cold", loads, theirs, check, touched_bytes=_touched(bed))


def _pages(bed: Bed, how: str) -> Comparison:
    """Single pages in random order, in place and staged; as much as one array beside them."""
    path, places = bed.file("write"), probe.Places(bed, 1)
    array = bed.array()[: places.nbytes]
    transfer = probe.write_all if how == "write" else probe.read_all
    way = partial(probe.opened, path, "r+", request_size=DEFAULT_REQUEST_SIZE, depth=PAGES_DEPTH)
    title = f"{how} separate 4 KiB pages"
    ours = {
        "pages in place": (title, partial(way, lambda file: transfer(file, places.segments))),
        "pages staged": (title, partial(way, lambda file: transfer(file, places.segments, copy=True))),
    }
    theirs = {"one array": partial(way, lambda file: transfer(file, [array]))}
    check = partial(probe.require_places, path, places)
    return Comparison("separate", f"{how}, runs of 1 page, shuffled", ours, theirs, check)


def _reads(bed: Bed, depth: int) -> Comparison:
    """4 KiB at random places, an operation object each."""
    size = 4 * probe.KIB
    job = probe.Job(bed.file(), "read", size, depth, min(4 * depth if bed.tiny else READS[depth], bed.size // size))
    name, title = "objects, queue.batch()", f"the same, depth {depth}"
    if depth == 1:
        name, title = "objects, result()", "4 KiB random reads, depth 1"
    theirs = {"os.preadv": partial(probe.in_threads, job)} if hasattr(os, "preadv") else {}
    ours = {name: (title, partial(probe.objects, job))}
    return Comparison("small", f"read 4 KiB, depth {depth}", ours, theirs, by_operation=True)


# --- turns and limits ---


@dataclass
class Limits:
    """When to stop. What is under way ends with the rounds it has, if it has any."""

    seconds: float | None = None
    nbytes: int | None = None
    began: float = field(default_factory=time.monotonic)
    moved: int = 0

    def reached(self) -> str:
        """Which limit, or ""."""
        if self.seconds is not None and time.monotonic() - self.began >= self.seconds:
            return f"--max-seconds {self.seconds:g}"
        if self.nbytes is not None and self.moved >= self.nbytes:
            return f"--max-bytes {self.nbytes}"
        return ""


def take_turns(
    compared: Comparison, rounds: int, limits: Limits, step: Callable[[str], object]
) -> dict[str, list[Run]]:
    """The runs that count, of as many rounds as there is time for."""
    runs: dict[str, list[Run]] = {name: [] for name in compared.ways}
    for number_of_round in range(rounds + 1):  # the first one does not count
        if number_of_round > 1 and limits.reached():
            break
        for name in list(runs)[:: -1 if number_of_round and number_of_round % 2 == 0 else 1]:
            step(f"{compared.section}, {compared.group}: {name}")
            touch(compared.touched_bytes)
            run = compared.ways[name]()
            limits.moved += run.sample.nbytes
            if number_of_round:
                runs[name].append(run)
    compared.check()
    return runs


def touch(nbytes: int) -> None:
    """Take memory and give it back, as much of it as is there to be had."""
    nbytes = min(nbytes, (_measure.available_memory() or 0) // 2)
    if nbytes:
        pages.empty(nbytes, np.uint8)


# --- results ---


def row(
    section: str,
    group: str,
    name: str,
    runs: Sequence[Run],
    *,
    by_operation: bool = False,
    axes: Mapping[str, Any] | None = None,
    note: str = "",
) -> Row:
    """One way, as it stands in the results: see SCHEMA in benchmarks/study/document.py."""
    metric: probe.Metric = probe.operations_per_second if by_operation else probe.rate
    latencies = {of: [run.latency_us[of] for run in runs] for run in runs for of in run.latency_us}
    loss = next((run.loss for run in runs if run.loss), "")
    samples = [(run.sample, run.operations / 1e6 if by_operation else run.sample.nbytes / GIB) for run in runs]
    return {
        "section": section,
        "group": group,
        "name": name,
        "axes": dict(axes or {}),
        "rounds": len(runs),
        "unit": "1/s" if by_operation else "MiB/s",
        "rate": probe.spread_of(map(metric, runs)),
        "durable_rate": probe.spread_of(probe.durable_rate(run) for run in runs if run.durable),
        "cpu_unit": "us/op" if by_operation else "s/GiB",
        "cpu": probe.spread_of(sample.cpu_s / amount for sample, amount in samples),
        "system_cpu": probe.spread_of(
            sample.system_cpu_s / amount for sample, amount in samples if sample.system_cpu_s is not None
        ),
        "cache_percent": probe.spread_of(
            probe.cache_percent(run) for run in runs if run.sample.cache_bytes is not None
        ),
        "samples": [sample._asdict() for sample, _ in samples],
        "latency_us": {of: probe.Spread.of(values).median for of, values in latencies.items()} or None,
        # Results are shown to others: the user's own folder is nobody's business.
        "told": next((run.told for run in runs if run.told), "").replace(str(Path.home()), "~"),
        "note": f"LOSES DATA: {loss}" if loss else note,
    }


def facts(folder: Path) -> dict[str, Any]:
    """What the figures depend on. What the system does not tell is None."""
    about, device = info(folder), block_device(folder)
    return {
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_bytes": _measure.total_memory(),
        "system": platform.system(),
        "kernel": platform.version() if sys.platform == "win32" else platform.release(),
        "file_system": about["path"]["file_system"],
        "device": device.name if device else None,
        "direct": about["path"]["direct"],
        "backend": about["backend"],
        "backend_reason": about["reason"],
        "gatherio": about["version"],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def save_results(path: Path | None, content: Content) -> None:
    """Replace the file of results, if one is wanted, in one step: whoever pulls the plug finds the old or the new."""
    if path is not None:
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file.

    Raises
    ------
    probe.ProbeError
        There is something that is no file.
    OSError
        It cannot be written.
    """
    try:
        write_file(path, content)
    except ValueError as error:
        raise probe.ProbeError(str(error)) from error


# --- for people ---


def opening(machine: dict[str, Any]) -> str:
    """What is measured where."""
    parts = ["# gatherio bench", machine_text(machine)]
    if (machine["load_average"] or 0) > LOAD_BUSY:
        parts.append("This machine is busy with something else: figures are too low, and the spread is wide.")
    return "\n\n".join(parts) + "\n"


def machine_text(machine: dict[str, Any]) -> str:
    """The facts in one paragraph, without those that are not known."""
    known = {name: value for name, value in machine.items() if value is not None}
    return "; ".join(f"{name.replace('_', ' ')} {shown(str(value))}" for name, value in known.items())


def table_lines(compared: Comparison, rows: Sequence[Row]) -> list[list[str]]:
    """A line for each title, with the fastest of ours that have it."""
    fastest: dict[str, Row] = {}
    by_name = {row["name"]: row for row in rows}
    for name, (title, _) in compared.ours.items():
        if title not in fastest or _rate(by_name[name])["median"] > _rate(fastest[title])["median"]:
            fastest[title] = by_name[name]
    return [
        _line(title, ours, next((by_name[name] for name in compared.theirs), None)) for title, ours in fastest.items()
    ]


def _line(title: str, ours: Row, theirs: Row | None) -> list[str]:
    if theirs is None:
        return [title, *_rate_and_cpu(ours), "-", "", "", ""]
    key = "seconds" if ours["durable_rate"] else "returned_s"
    rounds = zip(ours["samples"], theirs["samples"], strict=True)
    times = probe.spread_of(
        other[key] / max(mine[key], probe.TINY) * mine["nbytes"] / other["nbytes"] for mine, other in rounds
    )
    return [title, *_rate_and_cpu(ours), theirs["name"], *_rate_and_cpu(theirs), spread_text(times)]


def _rate(row: Row) -> dict[str, float]:
    """Until the data was on stable storage, where that was measured."""
    found: dict[str, float] = row["durable_rate"] or row["rate"]
    return found


def _rate_and_cpu(row: Row) -> list[str]:
    rate = f"{number(_rate(row)['median'])} {row['unit'].replace('1/s', 'per s')}"
    return [rate, f"{number(row['cpu']['median'])} {row['cpu_unit'].replace('us/op', 'us each')}"]


# --- the command ---


def run(arguments: argparse.Namespace, parent: Path) -> int:
    """Measure in a folder of our own in `parent`; the exit code."""
    size = arguments.size or (2 * probe.MIB if arguments.tiny else probe.automatic_size(parent, SIZE_MAX))
    size -= size % (2 * probe.MIB)
    rounds = arguments.rounds or (1 if arguments.tiny else ROUNDS)
    probe.require_room_for(parent, size)
    seconds = SECONDS if arguments.max_seconds is None else arguments.max_seconds
    with work_folder(parent, "gatherio-bench", ADVICE) as folder:
        content: Content = {
            "schema": SCHEMA_NAME,
            "arguments": {"size": size, "rounds": rounds, "quick": True, "tiny": arguments.tiny},
            "machine": facts(folder),
            "rows": [],
            "figures": [],
        }
        say(opening(content["machine"]))
        limits = Limits(seconds, arguments.max_bytes)
        lines, left = _measure_all(Bed(folder, size, tiny=arguments.tiny), rounds, limits, content, arguments.json)
    head = ["", "gatherio", "CPU", "beside", "its rate", "its CPU", "times as fast"]
    say("\n\n".join(["## In short", markdown_table(head, lines), *left]))
    return OK


def _measure_all(
    bed: Bed, rounds: int, limits: Limits, content: Content, path: Path | None
) -> tuple[list[list[str]], list[str]]:
    """Every comparison there is time for, saved after each: the lines, and what is to be said of the others."""
    made, lines = comparisons(bed), list[list[str]]()
    with progress() as step:
        for done, make in enumerate(made):
            if reason := limits.reached():
                return lines, [f"Stopped by {reason}: {len(made) - done} comparisons are left."]
            compared = make()
            runs = take_turns(compared, rounds, limits, partial(step, done, len(made)))
            about = partial(row, compared.section, compared.group, by_operation=compared.by_operation)
            rows = [about(name, of_name) for name, of_name in runs.items()]
            lines += table_lines(compared, rows)
            content["rows"] += rows
            save_results(path, content)
    return lines, []
