"""The bare C loop over io_uring (benchmarks/bare_uring.c): what the kernel alone costs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final, Literal

from gatherio._cli.bench import is_as_safe_as
from gatherio.probe import Run

from .programs import ProgramError, find, output_of
from .runs import outside

COMPILERS: Final = ("cc", "gcc", "clang")
PROGRAM: Final = "bare_uring"
#: Beside the study.
SOURCE: Final = Path(__file__).resolve().parents[1] / "bare_uring.c"

How = Literal["read", "write", "randread", "randwrite"]


def own_source() -> Path | None:
    """The source beside the study; None if it is not there, or somebody has a say in it who has none in this module."""
    own = Path(__file__).resolve()
    safe = SOURCE.is_file() and all(is_as_safe_as(own, place) for place in (SOURCE.parent, SOURCE))
    return SOURCE if safe else None


def build(folder: Path, source: Path | None = None) -> tuple[Path | None, str]:
    """Compile it into a folder of ours: the program, or None and why there is none.

    Parameters
    ----------
    source : Path, optional
        What to compile instead of benchmarks/bare_uring.c.
    """
    if sys.platform != "linux":
        return None, "io_uring is Linux'"
    source = source or own_source()
    if source is None:
        return None, "benchmarks/bare_uring.c is not here, or others may write to it: give --bare-loop FILE"
    compiler = next(filter(None, map(find, COMPILERS)), None)
    if compiler is None:
        return None, "there is no C compiler to build benchmarks/bare_uring.c"
    try:
        # Who may write to TMPDIR may put other code between the compiler and the assembler.
        here = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), os.curdir)
        output_of([compiler, "-O2", "-o", PROGRAM, os.path.abspath(source)], folder, environment=here)
    except (ProgramError, OSError) as error:
        return None, f"{compiler} does not compile {source.name}: {error}"
    return folder / PROGRAM, ""


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
    """Let it move `nbytes` of an existing file beside it, directly; with `whole` from or to one array of that many."""
    command: list[Any] = [program.name, "--file", path.name, "--rw", how, "--block", request_size]
    command += ["--depth", depth, "--bytes", nbytes]
    if fixed:
        command.append("--fixed")
    if whole:
        command.append("--whole")
    if segments > 1:
        command += ["--segments", segments]
    told = json.loads(output_of(list(map(str, command)), program.parent))
    return outside(told["bytes"], told["operations"], told["seconds"], told["cpu_s"])
