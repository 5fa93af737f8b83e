"""The bare C loop over io_uring (benchmarks/bare_uring.c): what the kernel alone costs."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, Final, Literal

from .._programs import ProgramError, find, output_of
from .runs import Run, outside

COMPILERS: Final = ("cc", "gcc", "clang")
PROGRAM: Final = "bare_uring"
#: Of a checkout, from this module's folder src/gatherio/bench on upwards.
CHECKOUT: Final = Path(__file__).resolve().parents[3]

How = Literal["read", "write", "randread", "randwrite"]


def checkout_source() -> Path | None:
    """The source in the checkout that this module lies in; None if it lies in none.

    An installed package may lie anywhere, below a folder that everybody writes to, too. So it has to be a checkout, and
    nobody may have a say in the source who has none in this module.
    """
    module, source = Path(__file__).resolve(), CHECKOUT / "benchmarks" / "bare_uring.c"
    marks = [CHECKOUT / "pyproject.toml", CHECKOUT / "csrc" / "gatherio.h", source]
    if module.parent != CHECKOUT / "src" / "gatherio" / "bench" or not all(mark.is_file() for mark in marks):
        return None
    own = module.stat()
    trusted = all(_is_as_safe_as(own, place) for place in (CHECKOUT, source.parent, source))
    return source if trusted else None


def _is_as_safe_as(own: os.stat_result, place: Path) -> bool:
    found = place.lstat()
    if found.st_uid not in (0, own.st_uid) or found.st_mode & stat.S_IWOTH or stat.S_ISLNK(found.st_mode):
        return False
    groups = own.st_gid if own.st_mode & stat.S_IWGRP else 0  # who may write to the module
    return not found.st_mode & stat.S_IWGRP or found.st_gid in (0, groups)


def build(folder: Path, source: Path | None = None) -> tuple[Path | None, str]:
    """Compile it into a folder of ours: the program, or None and why there is none.

    Parameters
    ----------
    source : Path, optional
        What to compile instead of benchmarks/bare_uring.c in the checkout.
    """
    if sys.platform != "linux":
        return None, "io_uring is Linux'"
    source = source or checkout_source()
    if source is None:
        return None, "benchmarks/bare_uring.c is not here: run this in a checkout of gatherio, or give --bare-loop FILE"
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
