"""Lets groups run within the limits, and saves after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gatherio._cli.quick import Limits, touch
from gatherio._cli.text import Step
from gatherio._folders import named
from gatherio.probe import ProbeError, Run

from .document import Document
from .groups import Contender, Group, Runs, turns


@dataclass
class Outcome:
    """What became of the groups."""

    measured: int = 0
    skipped: int = 0  # had been measured before
    left: int = 0  # for another time
    stopped_by: str = ""
    failures: list[str] = field(default_factory=list)  # of contenders that are ours


def run_groups(
    groups: Sequence[Group],
    document: Document,
    limits: Limits,
    step: Step,
    finished: Callable[[Group], object] = lambda group: None,
) -> Outcome:
    """Measure each group that the document does not have yet.

    Parameters
    ----------
    step : callable(done, total, what)
        Called before each turn.
    finished : callable(group)
        Called when a group is in the document.
    """
    outcome = Outcome()
    waiting = [group for group in groups if not document.has(group)]
    outcome.skipped = len(groups) - len(waiting)
    done, total = 0, sum(group.turns for group in waiting)
    for number, group in enumerate(waiting):
        if reason := limits.reached():
            outcome.stopped_by, outcome.left = reason, len(waiting) - number
            break
        runs, notes = _run_group(group, limits, partial(_step_from, step, done, total))
        outcome.failures += [f"{group.section}, {group.name}: {text}" for text in _ours(group, notes)]
        document.add(group, runs, notes)
        outcome.measured += 1
        done += group.turns
        finished(group)
    return outcome


def _step_from(step: Step, before: int, total: int, done: int, what: str) -> None:
    step(before + done, total, what)


def _ours(group: Group, notes: dict[str, str]) -> list[str]:
    return [
        f"{contender.name} {notes[contender.name]}"
        for contender in group.contenders
        if contender.name in notes and not contender.foreign
    ]


def _run_group(group: Group, limits: Limits, step: Callable[[int, str], object]) -> tuple[Runs, dict[str, str]]:
    runs: Runs = {contender.name: [] for contender in group.contenders}
    notes: dict[str, str] = {}
    try:
        for i, (number, contender) in enumerate(turns(group)):
            if number > 1 and limits.reached() and _complete(runs, notes, group):
                break
            step(i, f"{group.section}, {group.name}: {contender.name}")
            if contender.name in notes:
                continue
            touch(group.touched_bytes)
            run = _attempt(contender, notes)
            if run is not None:
                limits.moved += run.sample.nbytes
                if number:
                    runs[contender.name].append(run)
    finally:
        group.done()
    for name in notes:
        runs[name] = []  # a contender that fails now and then has no median
    return runs, notes


def _complete(runs: Runs, notes: dict[str, str], group: Group) -> bool:
    """Whether every contender that is able has had as many rounds as the others."""
    counts = {len(runs[c.name]) for c in group.contenders if c.run is not None and c.name not in notes}
    return len(counts) <= 1


def _attempt(contender: Contender, notes: dict[str, str]) -> Run | None:
    assert contender.run is not None
    try:
        return contender.run()
    except Exception as error:
        if isinstance(error, ProbeError):
            raise  # wrong data ends the study
        notes[contender.name] = named(f"failed: {type(error).__name__}: {error}").replace("\n", " ")[:300]
        return None
