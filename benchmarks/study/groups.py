"""Contenders that take turns, and the claims that are made of what came out.

What is compared takes turns (A B C, C B A, A B C, ...) after one round that does not count, since disks and
their caches drift; a ratio is taken within each round, and the median of the rounds is what is told, with the
smallest and the largest beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from gatherio.probe import Metric, Run, Spread, rate

from .runs import Target

Axes: TypeAlias = Mapping[str, Any]  # where it stands: request size, depth, ...
Runs: TypeAlias = dict[str, list[Run]]


@dataclass(frozen=True)
class Contender:
    """One way to do it. Without `run` it can't be done here, and `note` says why."""

    name: str
    run: Callable[[], Run] | None
    axes: Axes = field(default_factory=dict)
    note: str = ""
    foreign: bool = False  # not ours: if it fails, its row says so, and the study goes on


@dataclass(frozen=True)
class Claim:
    """A figure made of a group's runs: a value, or a ratio or difference within each round.

    `ours` and `theirs` are names of contenders; a name that ends with "*" is the best of all that begin so.
    """

    name: str
    unit: str
    metric: Metric
    ours: str
    theirs: str | None = None
    target: Target | None = None
    lower_is_better: bool = False
    difference: bool = False  # ours less theirs, not divided by theirs

    def value(self, runs: Runs) -> tuple[Spread | None, str]:
        """The figure, and a note: which contenders it was, or why there is none."""
        ours = self._best(runs, self.ours)
        if ours is None:
            return None, f"there is no {self.ours.rstrip('*')} here"
        chosen = ours if self.ours.endswith("*") else ""
        if self.theirs is None:
            value = Spread.of(map(self.metric, runs[ours]))
            return (None, "this system does not tell") if math.isnan(value.median) else (value, chosen)
        theirs = self._best(runs, self.theirs)
        if theirs is None:
            return None, f"there is no {self.theirs.rstrip('*')} here"
        pairs = zip(runs[ours], runs[theirs], strict=False)
        figures = [(self.metric(mine), self.metric(other)) for mine, other in pairs]
        value = Spread.of(a - b if self.difference else a / max(b, 1e-9) for a, b in figures)
        named = [name for name, rule in ((ours, self.ours), (theirs, self.theirs)) if rule.endswith("*")]
        return value, " / ".join(named)

    def _best(self, runs: Runs, rule: str) -> str | None:
        if not rule.endswith("*"):
            return rule if runs.get(rule) else None
        found = [name for name, of_name in runs.items() if name.startswith(rule[:-1]) and of_name]
        choose = min if self.lower_is_better else max
        return choose(found, key=lambda name: Spread.of(map(self.metric, runs[name])).median, default=None)


@dataclass(frozen=True)
class Group:
    """What is compared with each other, measured together and saved together."""

    section: str
    name: str
    contenders: Sequence[Contender]
    rounds: int
    claims: Sequence[Claim] = ()
    per: Literal["GiB", "operation"] = "GiB"  # rates in MiB/s and CPU by GiB, or both by operation
    warm_up: bool = True
    #: Of memory to be touched before each run. The host of a virtual machine takes back what nobody uses, and giving it
    #: again can cost ten times the CPU time of a transfer: whoever lets the page cache grow would pay for that.
    touched_bytes: int = 0
    done: Callable[[], object] = lambda: None  # called when the group is through, whatever happened

    @property
    def turns(self) -> int:
        """How many runs it takes."""
        able = sum(contender.run is not None for contender in self.contenders)
        return able * (self.rounds + self.warm_up)


def turns(group: Group) -> Iterator[tuple[int, Contender]]:
    """Who is next, with the number of the round; 0 does not count. Forwards in one round, backwards in the next."""
    able = [contender for contender in group.contenders if contender.run is not None]
    if group.warm_up:
        yield from ((0, contender) for contender in able)
    for number in range(1, group.rounds + 1):
        yield from ((number, contender) for contender in (able if number % 2 else reversed(able)))


def fastest(runs: Runs, count: int, metric: Metric = rate) -> list[str]:
    """Names of the contenders with the highest medians."""
    measured = [name for name in runs if runs[name]]
    return sorted(measured, key=lambda name: Spread.of(map(metric, runs[name])).median, reverse=True)[:count]
