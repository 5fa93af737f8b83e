"""The main job in one go: pages gathered into a file and scattered back, arrays saved and loaded; checked.

Two phases. `Pages` gathers the rows of several arrays in random order into one file and scatters them, in
another order, into other arrays. `WholeArray` saves and loads a .npy file. Each is a list of steps, those of
numpy among them. A round takes every step once, the next round takes them the other way about, so that
whatever changes on the machine meets all of them. Each step measures one transfer and then checks it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from .. import _measure
from .._core.file import open as open_file
from .._core.queue import CompletionQueue
from .._folders import work_folder
from .._formats import npy
from .._measure import GIB, Sample, measuring
from .._memory import pages
from .._text import size_text
from ..info import info
from .arguments import ADVICE
from .demo_phases import Check, Pages, Step, Steps, WholeArray, fill

__all__ = ["Check", "DemoError", "Facts", "Result", "Step", "run"]

MIB: Final = 1 << 20
SIZE_MIN: Final = MIB
SIZE_MAX: Final = GIB  # unless more is asked for: enough to see the disk's speed
ROUNDS_MIN: Final = 2
ROUNDS_WISHED: Final = 3  # the least that has a median worth the name
ROUNDS_MAX: Final = 5
#: Seconds that all of it is to take: they decide about the size, then about the number of rounds.
SECONDS: Final = 28
#: A phase takes no further round after this long: the disk turned out slower than it had seemed.
PHASE_SECONDS_MAX: Final = 15
STEPS: Final = 12  # of both phases
PROBE_BYTES: Final = 32 * MIB
#: Beside the disk's work, per GiB and round: copying in numpy's steps, wiping and comparing in all of them.
CPU_SECONDS_PER_GIB: Final = 4.0
#: Once, per GiB: making the arrays, and reading back plainly what was written.
SETUP_SECONDS_PER_GIB: Final = 8.0
#: Two files at most, and room for whoever else writes there.
DISK_FACTOR: Final = 2.25
#: Below, what a small file system keeps for itself weighs as much as the data; who insists names a size.
FREE_MIN: Final = 16 * MIB
#: Four arrays at most, and what numpy copies aside.
MEMORY_FACTOR: Final = 4.25


class DemoError(Exception):
    """The demo cannot be run here; the text says why."""


class Facts(NamedTuple):
    """What is known before the first step."""

    directory: str
    system: dict[str, Any]  # as gatherio.info tells it, with "path"
    direct: bool
    backend: str
    reason: str
    nbytes: int
    rounds: int


class Result(NamedTuple):
    """What came out."""

    facts: Facts
    pages: dict[str, int]
    segments_s: float  # building the lists of segments, both of them
    samples: list[tuple[Step, list[Sample]]]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether every check found all bytes equal."""
        return all(check.ok for check in self.checks)


# --- how much, how often ---


def _lives_in_memory(system: dict[str, Any]) -> bool:
    return bool(system["path"]["file_system"] in ("tmpfs", "ramfs"))


def _memory_factor(system: dict[str, Any]) -> float:
    """Bytes of memory needed per byte of data."""
    return MEMORY_FACTOR + (DISK_FACTOR if _lives_in_memory(system) else 0)


def _check_room(folder: Path, nbytes: int, system: dict[str, Any]) -> None:
    """Raise DemoError unless disk and memory have room for this much data."""
    if nbytes < SIZE_MIN:
        raise DemoError(f"the size is at least {size_text(SIZE_MIN)}, not {size_text(nbytes)}")
    free, needed = _measure.free_space(folder), int(nbytes * DISK_FACTOR)
    if needed > free:
        raise DemoError(
            f"not enough space in {folder}: {size_text(nbytes)} of data needs {size_text(needed)}, "
            f"and {size_text(free)} is free; give a smaller --size or another folder"
        )
    memory, needed = _measure.available_memory(), int(nbytes * _memory_factor(system))
    if memory is not None and needed > memory:
        raise DemoError(
            f"not enough memory: {size_text(nbytes)} of data needs {size_text(needed)}, "
            f"and {size_text(memory)} is available; give a smaller --size"
        )


def _automatic_size(folder: Path, system: dict[str, Any], seconds_per_byte: float) -> int:
    """At most 1 GiB, a tenth of the free space, an eighth of the memory, what three rounds have time for."""
    memory = _measure.available_memory()
    share = 16 if _lives_in_memory(system) else 8
    in_time = SECONDS / (SETUP_SECONDS_PER_GIB / GIB + ROUNDS_WISHED * seconds_per_byte)
    limits = [SIZE_MAX, _measure.free_space(folder) // 10, int(in_time)]
    if memory is not None:
        limits.append(memory // share)
    nbytes = min(limits)
    unit = 64 * MIB if nbytes >= 256 * MIB else MIB
    return max(SIZE_MIN, nbytes - nbytes % unit)


def _rounds(nbytes: int, seconds_per_byte: float) -> int:
    left = SECONDS - SETUP_SECONDS_PER_GIB * nbytes / GIB
    return max(ROUNDS_MIN, min(ROUNDS_MAX, int(left / (seconds_per_byte * nbytes))))


def _round_seconds_per_byte(folder: Path, queue: CompletionQueue) -> float:
    """What one round will take, from a small save and load."""
    nbytes = min(PROBE_BYTES, max(SIZE_MIN, _measure.free_space(folder) // 10))
    nbytes -= nbytes % MIB
    path = folder / "probe.npy"
    array = fill(pages.empty(nbytes, np.uint8), np.random.default_rng())
    with measuring(nbytes) as written:
        npy.save(path, array, queue=queue)
        _measure.flush_to_disk(path)
    with measuring(nbytes, reads=path) as read:
        npy.load(path, out=array, queue=queue)
    path.unlink()
    each = (written.sample.seconds + read.sample.seconds) / 2 / nbytes
    return STEPS * each + CPU_SECONDS_PER_GIB / GIB


# --- the folder ---


def _opened(folder: Path, queue: CompletionQueue) -> tuple[bool, str]:
    """Whether files here are direct, and why."""
    path = folder / "asked.bin"
    with open_file(path, "x", queue=queue) as file:
        found = file.direct, file.reason
    path.unlink()
    return found


def _in_turn(steps: Steps, number: int) -> list[Step]:
    """The steps of one round: writes before reads, and every other round the other way about among them."""
    turn = -1 if number % 2 else 1
    return [
        *[step for step in steps if step.direction == "write"][::turn],
        *[step for step in steps if step.direction == "read"][::turn],
    ]


class _Runner:
    """Takes the steps of the phases, round by round."""

    def __init__(self, rounds: int, progress: Callable[[int, int, str], object]) -> None:
        self._rounds, self._progress = rounds, progress
        self._done, self._total = 0, rounds * STEPS
        self.samples: list[tuple[Step, list[Sample]]] = []

    def run(self, steps: Steps) -> None:
        """Take all rounds of one phase, or as many as there is time for."""
        found: dict[Step, list[Sample]] = {step: [] for step in steps}
        start = time.perf_counter()
        for number in range(self._rounds):
            if number >= ROUNDS_MIN and time.perf_counter() - start > PHASE_SECONDS_MAX:
                self._total -= (self._rounds - number) * len(steps)
                break
            for step in _in_turn(steps, number):
                self._progress(self._done, self._total, f"round {number + 1} of {self._rounds}: {step.name}")
                found[step].append(steps[step]())
                self._done += 1
        self.samples += found.items()


def run(
    directory: str | os.PathLike[str] = ".",
    *,
    size: int | None = None,
    backend: str | None = None,
    begin: Callable[[Facts], object] = lambda facts: None,
    progress: Callable[[int, int, str], object] = lambda done, total, what: None,
) -> Result:
    """Do the main job in a folder, check and measure it.

    Parameters
    ----------
    directory : str or os.PathLike
        Where a temporary folder is made, and removed at the end.
    size : int, optional
        Bytes of data in each phase. None: as much as disk, memory and half a minute have room for, 1 GiB at
        most.
    backend : str, optional
        As for `gatherio.CompletionQueue`.
    begin : callable(facts)
        Called when it is known what will be done how.
    progress : callable(done, total, what)
        Called before each step.

    Raises
    ------
    DemoError
        It cannot be done here; nothing has been left behind.
    OSError
        A transfer failed.
    """
    parent = Path(directory)
    with CompletionQueue(backend=backend) as queue, work_folder(_usable(parent), "gatherio-demo", ADVICE) as folder:
        system = info(parent)
        if size is not None:
            _check_room(parent, size, system)
        elif _measure.free_space(parent) < FREE_MIN:
            raise DemoError(
                f"not enough space in {parent}: the demo needs {size_text(FREE_MIN)} free, and "
                f"{size_text(_measure.free_space(parent))} is; give another folder, or --size 1M, "
                f"which needs {size_text(int(SIZE_MIN * DISK_FACTOR))}"
            )
        round_seconds = _round_seconds_per_byte(folder, queue)
        nbytes = size - size % MIB if size is not None else _automatic_size(folder, system, round_seconds)
        _check_room(parent, nbytes, system)
        rounds = _rounds(nbytes, round_seconds)
        direct, reason = _opened(folder, queue)
        facts = Facts(str(parent), system, direct, queue.backend, reason, nbytes, rounds)
        begin(facts)
        return _run_phases(facts, folder, queue, progress)


def _run_phases(
    facts: Facts, folder: Path, queue: CompletionQueue, progress: Callable[[int, int, str], object]
) -> Result:
    runner, checks, rng = _Runner(facts.rounds, progress), list[Check](), np.random.default_rng()
    progress(0, 1, "making arrays")
    separate = Pages(folder, facts.nbytes, queue, rng, checks)
    runner.run(separate.steps())
    counts, segments_s = separate.counts(), separate.segments_s
    del separate  # its memory is the next phase's
    (folder / "gathered.bin").unlink()
    whole = WholeArray(folder, facts.nbytes, queue, rng, checks)
    runner.run(whole.steps())
    return Result(facts, counts, segments_s, runner.samples, checks)


def _usable(parent: Path) -> Path:
    """The folder itself, if a file can be made in it."""
    if not parent.exists():
        raise DemoError(f"no such folder: {parent}")
    if not parent.is_dir():
        raise DemoError(f"not a folder: {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DemoError(f"nothing can be made in {parent}: it is read-only for you")
    return parent
