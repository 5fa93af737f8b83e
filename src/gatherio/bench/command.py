"""`gatherio bench`: the study's command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from .._device import mount_of
from .._folders import RefusedError, work_folder
from .._report import complain, progress, say
from .._text import shown
from ..demo import ADVICE
from ..tuning import settings_for
from . import bed as beds
from . import fio, report
from .arrays import arrays
from .bed import Bed, Extent
from .document import Document
from .groups import Group
from .kinds import kinds
from .machine import machine_facts
from .mappings import mappings
from .maps import maps
from .memory import memory
from .others import peers
from .room import BenchError, require_room
from .runner import Limits, Outcome, run_groups
from .separate import separate
from .sequential import sequential
from .small import small

Section = Callable[[Bed], Iterator[Group]]

#: In the order in which they are measured: what is quoted comes first, so that a limit cuts off the rest.
SECTIONS: Final[dict[str, Section]] = {
    "sequential": sequential,
    "arrays": arrays,
    "separate": separate,
    "small": small,
    "peers": peers,
    "kinds": kinds,
    "mappings": mappings,
    "memory": memory,
    "maps": maps,
}
TEXT: Final = """\
Measure the disk under DIR: gatherio at every request size and depth, beside
fio, numpy and other libraries (those that are installed), in turns, with the
CPU time of the process and of the whole machine, and the growth of the page
cache. Everything happens in a temporary folder inside DIR, which goes at the
end, also after Ctrl-C.
"""
EPILOG: Final = """\
examples:
  gatherio bench /data --quick
  gatherio bench /data --json study.json --report study/
  gatherio bench /data --resume study.json     go on where it was stopped
  gatherio bench --section maps --max-seconds 300

How to read the tables: benchmarks/README.md.

exit code: 0; 1 if something of ours failed, or with --strict a target is not
met; 2 if it cannot be run in DIR; 130 after Ctrl-C, 143 after SIGTERM.
"""
QUICK: Final = ("arrays", "sequential", "separate", "small")
QUICK_ROUNDS: Final = 3
QUICK_SECONDS: Final = 50
"""Under a minute, with what comes before and after."""

OK, FAILED, UNUSABLE = 0, 1, 2


def add_options(command: argparse.ArgumentParser, size: Callable[[str], int]) -> None:
    """The options of `gatherio bench`; `size` reads a number of bytes."""
    add = command.add_argument
    add("directory", nargs="?", default=".", metavar="DIR", help="a folder on the disk to measure (default: this one)")
    add("--quick", action="store_true", help="the headline table in less than a minute")
    add("--section", action="append", choices=SECTIONS, metavar="NAME", help=f"only this one: {', '.join(SECTIONS)}")
    add("--json", type=Path, metavar="FILE", help="write the results there, after each comparison")
    add("--resume", type=Path, metavar="FILE", help="go on with the results in FILE, and write them there")
    add("--report", type=Path, metavar="FOLDER", help="write tables (Markdown) and pictures (matplotlib) there")
    add("--max-seconds", type=float, metavar="N", help="begin nothing new after that long")
    add("--max-bytes", type=size, metavar="BYTES", help="nor after having moved so much")
    add("--size", type=size, metavar="BYTES", help="of the file that is used; by default up to 1G (quick: 256M)")
    add("--rounds", type=int, metavar="N", help=f"of what is quoted (default: {beds.ROUNDS}; quick: {QUICK_ROUNDS})")
    add(
        "--bare-loop",
        type=Path,
        metavar="FILE",
        help="the C source to compile and run beside it (default: the checkout's)",
    )
    add("--strict", action="store_true", help="exit code 1 unless every target was measured and is met")
    add("--tiny", action="store_true", help=argparse.SUPPRESS)  # see that it works: the figures mean nothing


def run_bench(arguments: argparse.Namespace) -> int:
    """Run the study as the arguments say; the exit code."""
    try:
        return _run(arguments)
    except BenchError as error:
        complain(f"gatherio bench: {error}")
        return FAILED if str(error).startswith("wrong data") else UNUSABLE
    except RefusedError as error:
        complain(f"gatherio bench: {error.filename}: {error.strerror}")
        return UNUSABLE


def _run(arguments: argparse.Namespace) -> int:
    parent = Path(arguments.directory)
    extent = _extent(arguments, parent)
    factor = 1 + beds.DISK_FACTOR if _in_memory(parent) else 1
    require_room(parent, int(extent.size * beds.DISK_FACTOR), int(extent.size * beds.MEMORY_FACTOR * factor))
    names = arguments.section or list(QUICK if extent.quick else SECTIONS)
    asked = {"size": extent.size, "rounds": extent.rounds, "quick": extent.quick, "tiny": extent.tiny}
    with work_folder(parent, "gatherio-bench", ADVICE) as folder:
        facts = {**machine_facts(folder), "fio": fio.version(folder), "tuning": _tuning(folder)}
        results = Document({**asked, "sections": list(names)}, facts, arguments.resume or arguments.json)
        if arguments.resume:
            results.take_up(arguments.resume)
        say(report.opening(results.content))
        outcome = _measure_sections(
            Bed(folder, extent, arguments.bare_loop), names, results, _limits(arguments, extent)
        )
    say(report.closing(results.content, outcome, results.path))
    if arguments.report:
        for path in report.write(results.content, arguments.report):
            say(shown(str(path)))
        if not report.has_pictures():
            say("no pictures: they need matplotlib, pip install 'gatherio[pictures]'")
    for failure in outcome.failures:
        complain(f"gatherio bench: {failure}")
    return FAILED if outcome.failures or (arguments.strict and not results.all_met()) else OK


def _measure_sections(bed: Bed, names: Sequence[str], results: Document, limits: Limits) -> Outcome:
    bed.results = lambda section, group: [
        row for row in results.rows if (row["section"], row["group"]) == (section, group)
    ]
    groups = [group for name in names for group in SECTIONS[name](bed)]
    shown: list[str] = []

    def finished(group: Group) -> None:
        following = groups[groups.index(group) + 1 :]
        if not any(other.section == group.section for other in following):
            bed.release()
        if group.section != "maps" and not bed.extent.quick:  # maps are for files, the headline comes at the end
            head = "" if group.section in shown else report.section_title(group.section)
            shown.append(group.section)
            say(head + report.group_text(results.content, group.section, group.name))

    with progress() as step:
        return run_groups(groups, results, limits, step, finished)


def _extent(arguments: argparse.Namespace, parent: Path) -> Extent:
    if not parent.is_dir():
        raise BenchError(f"no such folder: {parent}")
    if arguments.rounds is not None and arguments.rounds < 1:
        raise BenchError("--rounds is 1 or more")
    quick, tiny = arguments.quick, arguments.tiny
    size = arguments.size or (beds.TINY_SIZE if tiny else beds.automatic_size(parent, quick))
    if size < beds.TINY_SIZE:
        raise BenchError("--size is 2M or more")
    rounds = arguments.rounds or (1 if tiny else QUICK_ROUNDS if quick else beds.ROUNDS)
    seconds = 0.001 if tiny else beds.CELL_SECONDS
    return Extent(size - size % beds.TINY_SIZE, rounds, cell_seconds=seconds, quick=quick, tiny=tiny)


def _limits(arguments: argparse.Namespace, extent: Extent) -> Limits:
    seconds = arguments.max_seconds
    if seconds is None and extent.quick:
        seconds = QUICK_SECONDS
    return Limits(seconds, arguments.max_bytes, time.monotonic())


def _in_memory(folder: Path) -> bool:
    mount = mount_of(folder)
    return mount is not None and mount.file_system in ("tmpfs", "ramfs")


def _tuning(folder: Path) -> str | None:
    settings = settings_for(folder, None)
    return str(settings) if settings else None  # without the file's name, which is this user's own affair
