"""`gatherio bench`: the study's command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from gatherio._cli import quick
from gatherio._cli.arguments import ADVICE, FAILED, OK
from gatherio._cli.bench import ROUNDS
from gatherio._cli.main import call, parser
from gatherio._cli.quick import Limits
from gatherio._cli.text import complain, progress, say
from gatherio._folders import work_folder
from gatherio._measure import GIB
from gatherio._settings import settings_for
from gatherio._text import shown
from gatherio.probe import SIZE_MIN, automatic_size, require_room_for

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
from .runner import Outcome, run_groups
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
QUICK: Final = ("arrays", "sequential", "separate", "small")


def main(argv: Sequence[str] | None = None) -> int:
    """`gatherio bench`, with this study; the exit code. None takes the arguments from `sys.argv`."""
    return call(parser(run_study), ["bench", *(sys.argv[1:] if argv is None else argv)])


def run_study(arguments: argparse.Namespace, parent: Path) -> int:
    """Run the study in a folder of its own in `parent`, as the arguments say; the exit code."""
    extent = _extent(arguments, parent)
    require_room_for(parent, extent.size)
    names = arguments.section or list(QUICK if extent.quick else SECTIONS)
    asked = {"size": extent.size, "rounds": extent.rounds, "quick": extent.quick, "tiny": extent.tiny}
    with work_folder(parent, "gatherio-bench", ADVICE) as folder:
        facts = {**machine_facts(folder), "fio": fio.version(folder), "tuning": _tuning(folder)}
        results = Document({**asked, "sections": list(names)}, facts, arguments.resume or arguments.json)
        if arguments.resume:
            results.take_up(arguments.resume)
        say(quick.opening(results.content["machine"]))
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
    most = quick.SIZE_MAX if arguments.quick else GIB
    size = arguments.size or (SIZE_MIN if arguments.tiny else automatic_size(parent, most))
    rounds = arguments.rounds or (1 if arguments.tiny else quick.ROUNDS if arguments.quick else ROUNDS)
    seconds = 0.001 if arguments.tiny else beds.CELL_SECONDS
    return Extent(size - size % SIZE_MIN, rounds, cell_seconds=seconds, quick=arguments.quick, tiny=arguments.tiny)


def _limits(arguments: argparse.Namespace, extent: Extent) -> Limits:
    seconds = arguments.max_seconds
    if seconds is None and extent.quick:
        seconds = quick.SECONDS
    return Limits(seconds, arguments.max_bytes, time.monotonic())


def _tuning(folder: Path) -> str | None:
    settings = settings_for(folder, None)
    return str(settings) if settings else None  # without the file's name, which is this user's own affair
