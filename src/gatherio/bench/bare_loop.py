"""The bare C loop over io_uring (benchmarks/bare_uring.c): what the kernel alone costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from .runs import Run, outside

#: In a checkout. An installed package has no benchmarks/ beside it; then it may stand in the current folder.
PLACES = (
    Path(__file__).parents[3] / "benchmarks" / "bare_uring.c",
    Path("benchmarks") / "bare_uring.c",
    Path("bare_uring.c"),
)
COMPILERS = ("cc", "gcc", "clang")

How = Literal["read", "write", "randread", "randwrite"]


def build(folder: Path) -> tuple[Path | None, str]:
    """Compile it into a folder: the program, or None and why there is none."""
    if sys.platform != "linux":
        return None, "io_uring is Linux'"
    source = next((place for place in PLACES if place.is_file()), None)
    if source is None:
        return None, "benchmarks/bare_uring.c is not here: run this in a checkout of gatherio"
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return None, "there is no C compiler to build benchmarks/bare_uring.c"
    program = folder / "bare_uring"
    done = subprocess.run([compiler, "-O2", "-o", program, source], capture_output=True, text=True)
    if done.returncode:
        return None, f"{compiler} does not compile bare_uring.c: {(done.stderr.splitlines() or ['?'])[0]}"
    return program, ""


def run(
    program: Path,
    path: Path,
    how: How,
    request_size: int,
    depth: int,
    nbytes: int,
    *,
    fixed: bool = False,
    segments: int = 1,
    whole: bool = False,
) -> Run:
    """Let it move `nbytes` of an existing file, directly; with `whole` from or to one array of that many bytes."""
    command: list[Any] = [program, "--file", path, "--rw", how, "--block", request_size, "--depth", depth]
    command += ["--bytes", nbytes]
    if fixed:
        command.append("--fixed")
    if whole:
        command.append("--whole")
    if segments > 1:
        command += ["--segments", segments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"bare_uring ended with {done.returncode}: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    return outside(told["bytes"], told["operations"], told["seconds"], told["cpu_s"])
