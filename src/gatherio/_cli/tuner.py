"""`gatherio tune`: picks settings for the device under a folder, by measuring, within a minute.

request size    what carries one array fastest, written and read; the smaller half of the field leaves the
                race after each round
depth           the least that small random reads gain nothing beyond
registered      if it saves CPU time with separate pages in place, and is no slower
stage_below     up to which length runs of separate pages are better copied through large buffers
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Final, Literal

from .. import probe
from .._core.queue import DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE
from .._memory.pages import PAGE_SIZE
from .._memory.segments import Segments
from .._settings import Tuning
from ..probe import KIB, MIB, Bed, Run
from .text import Step

Aim = Literal["throughput", "cpu"]

REQUEST_SIZES: Final = tuple(2**power * KIB for power in range(8, 15))  # 256 KiB to 16 MiB
RUNS: Final = (1, 4, 16, 64)  # pages that stand together in memory
DEPTHS: Final = (16, 32, 64, 128, 256)
READS: Final = 12_000
#: Shares of the time, and what is left for making the files.
SEQUENTIAL_SHARE, DEPTH_SHARE, REGISTERED_SHARE = 0.4, 0.2, 0.1
#: Less than this is noise, and the default stays.
NOTICEABLE: Final = 0.03
#: What the cheapest setting may cost in throughput.
CPU_AIM_RATE: Final = 0.9
#: What registered memory may cost at most, of the CPU time without: where the user may lock none, it saves nothing.
REGISTERED_CPU: Final = 0.8
ROUNDS_MAX: Final = 7


@dataclass
class Candidate:
    """A setting in the race, and what it has reached."""

    name: str
    value: Any
    write: Callable[[], Run]
    read: Callable[[], Run]
    runs: list[tuple[Run, Run]] = field(default_factory=list)

    def race(self) -> None:
        """Run once more."""
        self.runs.append((self.write(), self.read()))

    @property
    def rate(self) -> float:
        """MiB/s of writing and then reading the same; the median of the rounds."""
        return median(2 / (1 / probe.rate(write) + 1 / probe.rate(read)) for write, read in self.runs)

    @property
    def cpu(self) -> float:
        """CPU seconds per GiB of the two, on average."""
        return median((probe.cpu_per_gib(write) + probe.cpu_per_gib(read)) / 2 for write, read in self.runs)

    def told(self) -> dict[str, Any]:
        """For the file and the screen."""
        return {"name": self.name, "mib_per_s": round(self.rate, 1), "cpu_s_per_gib": round(self.cpu, 5)}


@dataclass
class Tuner:
    """Measures within a time limit.

    Parameters
    ----------
    bed : Bed
    aim : "throughput" or "cpu"
    seconds : float
        For everything.
    step : callable(done, total, what)
        Called before each run.
    """

    bed: Bed
    aim: Aim
    seconds: float
    step: Step
    measured: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def pick(self) -> Tuning:
        """Measure, and decide."""
        self.bed.file("write")
        self.bed.file("read")
        request_size = self._request_size()
        depth = self._depth(request_size)
        registered = self._registered(request_size, depth)
        return Tuning(request_size, depth, registered, self._stage_below(request_size, depth, registered))

    def _over(self, share: float) -> bool:
        """Whether this share of the time is over."""
        return time.monotonic() - self.began >= share * self.seconds

    def _tell(self, what: str) -> None:
        self.step(min(int(time.monotonic() - self.began), int(self.seconds)), int(self.seconds), what)

    # -- request size -----------------------------------------------------------------------------------------

    def _request_size(self) -> int:
        field_of = [
            Candidate(f"requests of {size // KIB} KiB", size, *self._sequential(size, in_flight(size)))
            for size in sorted(REQUEST_SIZES, key=lambda size: size != DEFAULT_REQUEST_SIZE)
            if size <= max(self.bed.size // 2, min(REQUEST_SIZES))
        ]
        self._race(field_of, SEQUENTIAL_SHARE)
        return int(self._best(field_of, DEFAULT_REQUEST_SIZE).value)

    def _sequential(self, size: int, depth: int) -> tuple[Callable[[], Run], Callable[[], Run]]:
        array = self.bed.array()
        settings: dict[str, Any] = {"request_size": size, "depth": depth}
        opened, to_write, to_read = probe.opened, self.bed.file("write"), self.bed.file("read")
        write = partial(opened, to_write, "r+", lambda file: probe.write_all(file, [array]), **settings)
        read = partial(opened, to_read, "r", lambda file: probe.read_all(file, [array]), **settings)
        return write, read

    def _race(self, candidates: Sequence[Candidate], share: float) -> None:
        """Rounds until the time is over; the slower ones leave, three stay to the end. The first one warms up."""
        left = list(candidates)
        for number in range(ROUNDS_MAX):
            for candidate in left if number % 2 == 0 else reversed(left):
                if candidates[0].runs and self._over(share):
                    break
                self._tell(candidate.name)
                candidate.race()
            if self._over(share):
                break
            if number > 1:
                left = sorted(left, key=lambda candidate: candidate.rate, reverse=True)[: max(3, len(left) // 2)]
        for candidate in candidates:
            del candidate.runs[: 1 if len(candidate.runs) > 1 else 0]
        self.measured += [found.told() for found in sorted(candidates, key=lambda found: found.value) if found.runs]

    def _best(self, candidates: Sequence[Candidate], usual: Any) -> Candidate:
        """By aim; the usual setting if the best is not noticeably better."""
        candidates = [candidate for candidate in candidates if candidate.runs]  # there was time for
        fastest = max(candidates, key=lambda candidate: candidate.rate)
        chosen = fastest
        if self.aim == "cpu":
            enough = [candidate for candidate in candidates if candidate.rate >= CPU_AIM_RATE * fastest.rate]
            chosen = min(enough, key=lambda candidate: candidate.cpu)
        for candidate in candidates:
            if candidate.value == usual and not self._noticeably_better(chosen, candidate):
                return candidate
        return chosen

    def _noticeably_better(self, one: Candidate, other: Candidate) -> bool:
        if self.aim == "cpu" and other.rate >= CPU_AIM_RATE * one.rate:
            return one.cpu < (1 - NOTICEABLE) * other.cpu
        return one.rate > (1 + NOTICEABLE) * other.rate

    # -- depth ------------------------------------------------------------------------------------------------

    def _depth(self, request_size: int) -> int:
        count = READS if not self.bed.tiny else 64
        found: dict[int, list[float]] = {}
        for _ in range(3):
            for depth in sorted(DEPTHS, key=lambda depth: depth != DEFAULT_DEPTH):
                if found and self._over(SEQUENTIAL_SHARE + DEPTH_SHARE):
                    break
                self._tell(f"{depth} small reads in flight")
                job = probe.Job(self.bed.file(), "read", 4 * KIB, depth, max(count, 2 * depth))
                found.setdefault(depth, []).append(probe.operations_per_second(probe.objects(job)))
        rates = {depth: median(values) for depth, values in found.items()}
        self.measured += [
            {"name": f"{depth} small reads in flight", "per_s": round(value)} for depth, value in sorted(rates.items())
        ]
        enough = (1 - NOTICEABLE) * max(rates.values())
        depth = min(depth for depth, value in rates.items() if value >= enough)
        if rates.get(DEFAULT_DEPTH, 0) >= enough and self.aim == "throughput":
            depth = DEFAULT_DEPTH
        return max(depth, in_flight(request_size))

    # -- registered memory ------------------------------------------------------------------------------------

    def _registered(self, request_size: int, depth: int) -> bool:
        """Whether to register memory for transfers of separate pages in place; with one array it saves nothing."""
        if not probe.has_registered() or self._over(SEQUENTIAL_SHARE + DEPTH_SHARE):
            return False
        segments = probe.Places(self.bed, 1).segments
        settings = {"request_size": request_size, "depth": depth}
        candidates = [
            Candidate(
                f"separate pages in place, {name} buffers",
                value,
                *self._scattered(segments, False, {**settings, "registered": value}),
            )
            for name, value in (("plain", False), ("registered", True))
        ]
        self._race(candidates, SEQUENTIAL_SHARE + DEPTH_SHARE + REGISTERED_SHARE)
        plain, registered = candidates
        if not registered.runs:
            return False
        return registered.rate >= (1 - NOTICEABLE) * plain.rate and registered.cpu <= REGISTERED_CPU * plain.cpu

    # -- separate pages ---------------------------------------------------------------------------------------

    def _stage_below(self, request_size: int, depth: int, registered: bool) -> int:
        """A byte more than the longest runs for which staging is better; shorter ones gain more from it."""
        below = 0
        for number, pages in enumerate(RUNS):
            if self._over(0.95):
                break
            segments = probe.Places(self.bed, pages).segments
            settings = {"request_size": request_size, "depth": depth, "registered": registered}
            candidates = [
                Candidate(f"runs of {pages} pages, {name}", copy, *self._scattered(segments, copy, settings))
                for name, copy in (("in place", False), ("staged", True))
            ]
            share = SEQUENTIAL_SHARE + DEPTH_SHARE + REGISTERED_SHARE
            self._race(candidates, share + (1 - share) * (number + 1) / len(RUNS))
            if not self._stages(*candidates):
                break
            below = pages * PAGE_SIZE + 1
        return below

    def _stages(self, in_place: Candidate, staged: Candidate) -> bool:
        """Who wants to save CPU time does not copy, however much faster that is, unless it is cheaper as well."""
        if self.aim == "cpu":
            return bool(in_place.runs and staged.runs) and staged.cpu < (1 - NOTICEABLE) * in_place.cpu
        return self._best([in_place, staged], False) is staged

    def _scattered(
        self, segments: Segments, copy: bool, settings: dict[str, Any]
    ) -> tuple[Callable[[], Run], Callable[[], Run]]:
        path = self.bed.file("write")
        write = partial(probe.opened, path, "r+", lambda file: probe.write_all(file, segments, copy=copy), **settings)
        read = partial(probe.opened, path, "r+", lambda file: probe.read_all(file, segments, copy=copy), **settings)
        return write, read


def in_flight(request_size: int) -> int:
    """How many requests of this size a queue holds."""
    return max(2, probe.BYTES_IN_FLIGHT_MAX // request_size)


SIZE_MAX: Final = 512 * MIB
"""Of the files: enough to see the device's speed, little enough for many rounds."""
