"""Runs of other programs, and what a figure is to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gatherio._measure import Sample
from gatherio.probe import Run


def cpu_per_operation(run: Run) -> float:
    """Microseconds of this process's CPU time."""
    return run.sample.cpu_s / run.operations * 1e6


def outside(nbytes: int, operations: int, seconds: float, cpu_s: float, cache_bytes: int | None = None) -> Run:
    """A run of another program, which has measured itself."""
    return Run(Sample(nbytes, seconds, seconds, cpu_s, None, cache_bytes, None), operations)


@dataclass(frozen=True)
class Target:
    """What a figure is to reach."""

    direction: Literal[">=", "<="]
    threshold: float

    def met_by(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.threshold if self.direction == ">=" else value <= self.threshold
