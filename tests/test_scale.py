"""No cost grows faster than its class: the rows of benchmarks/scale.py, each with few things and the tenth of them.

It is no test of speed: a row fails whose slope in a log-log plot is more than half above its class, so that a quadratic
fails where a sort passes, and of CPU time the least of several runs counts.
"""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from oracle import ON_WINDOWS, not_on_windows

pytestmark = not_on_windows("a process's CPU time comes in steps of 16 ms")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"
ROUNDS = 3
MORE_ROUNDS = 5  # for who is above after these: a busy machine only ever adds


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module  # for annotations
    spec.loader.exec_module(module)
    return module


scale: Any = None if ON_WINDOWS else load()
ROWS = [None] if ON_WINDOWS else scale.ROWS


def slope_of(row: Any, folder: Path) -> float:
    """Between the tenth and all; measured again while it is above, for that may be chance."""
    points = [(count, scale.least(row, folder, count, 1)) for count in (row.few // 10, row.few)]
    for number in range(1, ROUNDS + MORE_ROUNDS):
        if number >= ROUNDS and not scale.is_above(row, scale.slope(*points)):
            break
        if row.unit != "s":
            break  # exact
        points = [(count, min(cost, scale.least(row, folder, count, 1))) for count, cost in points]
    return float(scale.slope(*points))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name if row else "none")
def test_no_slope_is_above_its_class(row: Any, disk_dir: Path) -> None:
    scale.more_descriptors()
    found = slope_of(row, disk_dir)
    assert not scale.is_above(row, found), f"slope {found:.2f}, of class {row.growth}"


# --- the test itself ---


def spin(steps: int) -> float:
    begin = time.process_time()
    for _ in range(steps):
        pass
    return time.process_time() - begin


def linear(bed: Any, count: int) -> float:
    return spin(100 * count)


def sorting(bed: Any, count: int) -> float:
    values = [random.random() for _ in range(30 * count)]
    begin = time.process_time()
    values.sort()
    return time.process_time() - begin


def quadratic(bed: Any, count: int) -> float:
    return spin(count * count // 3)


def from_the_front(bed: Any, count: int) -> float:
    """What `q.get` once did: a dict walks over all that were taken from its front to find the first one."""
    ready = dict.fromkeys(range(10 * count))
    begin = time.process_time()
    while ready:
        ready.pop(next(iter(ready)))
    return time.process_time() - begin


def constant(bed: Any, count: int) -> float:
    return spin(100_000)


@pytest.mark.parametrize(
    ("measure", "growth", "is_above"),
    [
        (constant, 0, False),
        (linear, 0, True),
        (linear, 1, False),
        (sorting, 1, False),
        (quadratic, 1, True),
        (from_the_front, 1, True),
        (quadratic, 2, False),
    ],
)
def test_a_slope_above_is_found(
    measure: Callable[[Any, int], float], growth: float, is_above: bool, tmp_path: Path
) -> None:
    row = scale.Row(measure.__name__, measure, "s", growth, 10_000, 3_000)
    assert scale.is_above(row, slope_of(row, tmp_path)) == is_above


def test_the_script_writes_a_table_and_a_picture(disk_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, disk_dir, "--most", "100", "--only", "open", "--report", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), done.stderr  # of so few things no slope says anything
    found = (tmp_path / "scale.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert (f"| {row.name} |" in found) == ("open" in row.name)
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gatherio[pictures]'")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert not list(disk_dir.iterdir())
