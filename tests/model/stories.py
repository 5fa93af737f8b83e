"""One seed: from empty files to the comparison at the end."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from oracle import KIB

from .contents import DifferenceError
from .machine import Machine
from .subjects import Lane, Place, lanes_for

SEEDS = Path(__file__).with_name("seeds.txt")
#: Of the file that several threads write to, each within bytes of its own. No multiple of anything.
_REGION = 211 * KIB + 313


def kept_seeds() -> list[int]:
    """Those that once found something."""
    lines = SEEDS.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


class Taken(NamedTuple):
    """What has happened, by name."""

    steps: Counter[str]
    outcomes: Counter[str]


def run(seed: int, folder: Path, steps: int) -> Taken:
    """Run one seed on new files, which are removed.

    Raises
    ------
    DifferenceError
        With the last steps, and the command that runs it again.
    """
    draw = random.Random(seed)
    threads = draw.choice([1, 1, 1, 1, 2, 4])
    with contextlib.ExitStack() as at_end:
        prefix = f"model-{secrets.token_hex(4)}-"
        at_end.callback(_remove, folder, prefix)
        lanes = at_end.enter_context(lanes_for(draw))
        machines = _machines(seed, folder / prefix, lanes, threads)
        failures: list[tuple[Machine, BaseException]] = []

        def go(machine: Machine) -> None:
            try:
                machine.run(steps // threads)
            except BaseException as failure:
                failures.append((machine, failure))

        if threads == 1:
            go(machines[0])
        else:
            running = [threading.Thread(target=go, args=(machine,), name=f"machine-{seed}") for machine in machines]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        if not failures:
            try:
                for lane in lanes:
                    lane.finish()
            except DifferenceError as failure:
                failures.append((machines[0], failure))
        if failures:
            machine, failure = failures[0]
            if not isinstance(failure, Exception):
                raise failure
            raise DifferenceError(_told(seed, folder, steps, machine, failure)) from failure
    return Taken(
        sum((machine.steps for machine in machines), Counter()),
        sum((machine.outcomes for machine in machines), Counter()),
    )


def _remove(folder: Path, prefix: str) -> None:
    """The files with these names. They lie in no folder of their own, for tests/fuse.py has no folders."""
    for path in folder.iterdir():
        if path.name.startswith(prefix):
            path.unlink()


def _machines(seed: int, start: Path, lanes: list[Lane], threads: int) -> list[Machine]:
    """One for each thread; several share a file, each with bytes of its own. The files' paths begin with `start`."""
    if threads == 1:
        return [Machine(f"{seed}", start, lanes, shared=None, alone=True)]
    path = Path(f"{start}shared")
    path.write_bytes(bytes(threads * _REGION))
    regions = [Place(path, i * _REGION, (i + 1) * _REGION) for i in range(threads)]
    return [Machine(f"{seed}:{i}", Path(f"{start}{i}-"), lanes, shared=regions[i], alone=False) for i in range(threads)]


def _told(seed: int, folder: Path, steps: int, machine: Machine, failure: BaseException) -> str:
    last = "\n    ".join(machine.trace)
    queues = ", ".join(f"{lane.queue.backend} of depth {lane.queue.depth}" for lane in machine.lanes)
    return (
        f"{type(failure).__name__}: {failure}\n  queues: {queues}\n  the last steps:\n    {last}\n"
        f"  again, in the folder tests: python -m model --dir {folder} --seed {seed} --steps {steps} --runs 1"
    )
