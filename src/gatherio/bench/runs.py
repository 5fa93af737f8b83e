"""What one run moved and cost, the spread of several runs, and what a figure is to reach."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from .._measure import GIB, Sample, measuring

KIB: Final = 1 << 10
MIB: Final = 1 << 20
TINY: Final = 1e-9  # a clock may stand still during a very short run


@dataclass(frozen=True)
class Run:
    """One run of a contender."""

    sample: Sample
    operations: int = 1
    durable: bool = False  # whether `sample.seconds` ended with the data on stable storage
    told: str = ""  # which way it went, in the library's own words
    latency_us: Mapping[str, float] = field(default_factory=dict)  # percentiles of single operations
    memory_mib: float = 0.0  # that it held beside the data, or left behind
    loss: str = ""  # what was missing or wrong in what it left behind


Metric: TypeAlias = Callable[[Run], float]


def rate(run: Run) -> float:
    """MiB/s until the call returned."""
    return run.sample.nbytes / MIB / max(run.sample.returned_s, TINY)


def durable_rate(run: Run) -> float:
    """MiB/s until the data was on stable storage."""
    return run.sample.nbytes / MIB / max(run.sample.seconds, TINY)


def operations_per_second(run: Run) -> float:
    """Operations by the time they took."""
    return run.operations / max(run.sample.returned_s, TINY)


def cpu_per_gib(run: Run) -> float:
    """Seconds of this process's CPU time."""
    return run.sample.cpu_per_gib


def cpu_per_operation(run: Run) -> float:
    """Microseconds of this process's CPU time."""
    return run.sample.cpu_s / run.operations * 1e6


def cache_percent(run: Run) -> float:
    """How much the page cache grew, in percent of the data; not a number where the system does not tell."""
    grown = run.sample.cache_bytes
    return math.nan if grown is None else 100 * grown / max(run.sample.nbytes, 1)


def measured(
    transfer: Callable[[], object],
    nbytes: int,
    *,
    operations: int = 1,
    flush: Callable[[], object] | None = None,
    reads: Path | None = None,
    told: str = "",
) -> Run:
    """Run `transfer`, then `flush`. CPU and cache are those of both.

    Parameters
    ----------
    reads : Path, optional
        The file it reads, which is dropped from the page cache first.
    """
    gc.collect(1)  # the young ones: all of them would take longer than many a run
    with measuring(nbytes, reads) as meter:
        kept = transfer()  # giving the memory of a result back is no part of the transfer
        meter.returned()
        if flush is not None:
            flush()
    del kept
    return Run(meter.sample, operations, flush is not None, told)


def outside(nbytes: int, operations: int, seconds: float, cpu_s: float, cache_bytes: int | None = None) -> Run:
    """A run of another program, which has measured itself."""
    return Run(Sample(nbytes, seconds, seconds, cpu_s, None, cache_bytes, None), operations)


@dataclass(frozen=True)
class Spread:
    """The outcome of several runs."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = [float(value) for value in values]
        return Spread(statistics.median(found), min(found), max(found))


@dataclass(frozen=True)
class Target:
    """What a figure is to reach."""

    direction: Literal[">=", "<="]
    threshold: float

    def met_by(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.threshold if self.direction == ">=" else value <= self.threshold


def in_gib(run: Run) -> float:
    """The data of a run, in GiB."""
    return run.sample.nbytes / GIB
