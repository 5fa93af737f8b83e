"""`gatherio bench`: with --quick the headline, else the study, which is in the sources and not in the package."""

from __future__ import annotations

import argparse
import stat
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final, TypeAlias

from .._cli import quick
from .._folders import RefusedError
from ..probe import SIZE_MIN, ProbeError
from .arguments import FAILED, UNUSABLE, add_command, refuse, size

Study: TypeAlias = Callable[[argparse.Namespace, Path], int]

#: Of the study, in the order in which they are measured.
SECTIONS: Final = ("sequential", "arrays", "separate", "small", "peers", "kinds", "mappings", "memory", "maps")
ROUNDS: Final = 11  # of what is quoted; fewer have no median that stays where it is
TEXT: Final = """\
Measure the disk under DIR. With --quick: what is done most, beside numpy and
the system's own calls. Without it, the whole study: gatherio at every request
size and depth, beside fio, numpy and other libraries (those that are
installed), in turns, with the CPU time of the process and of the whole machine,
and the growth of the page cache. Everything happens in a temporary folder
inside DIR, which goes at the end, also after Ctrl-C.

The study is part of the sources, not of the installed package: it runs from a
checkout, or an unpacked sdist, by "gatherio bench" where that one is installed
(pip install -e .), else by "python benchmarks/study". --quick runs everywhere.
"""
EPILOG: Final = """\
examples:
  gatherio bench /data --quick
  gatherio bench /data --json study.json --report study/
  gatherio bench /data --resume study.json     go on where it was stopped
  gatherio bench --section maps --max-seconds 300

How to read the tables: benchmarks/README.md.

exit code: 0; 1 if something of ours failed, or with --strict a target is not
met; 2 if it cannot be run in DIR, or there is no study here; 130 after Ctrl-C,
143 after SIGTERM.
"""


def add(commands: Any, study: Study | None = None) -> None:
    """The command, its options and its help; `study` runs the study, None is that of the checkout around us."""
    summary = "this disk beside numpy (--quick), or the study: at every size and depth, beside fio and others"
    command = add_command(commands, "bench", summary, TEXT, EPILOG)
    command.set_defaults(run=partial(run, study))
    add = command.add_argument
    add("directory", nargs="?", default=".", metavar="DIR", help="a folder on the disk to measure (default: this one)")
    add("--quick", action="store_true", help="the headline table in less than a minute")
    add("--section", action="append", choices=SECTIONS, metavar="NAME", help=f"only this one: {', '.join(SECTIONS)}")
    add("--json", type=Path, metavar="FILE", help="write the results there, after each comparison")
    add("--resume", type=Path, metavar="FILE", help="go on with the results in FILE, and write them there")
    add("--report", type=Path, metavar="FOLDER", help="write tables (Markdown) and pictures (matplotlib) there")
    add("--max-seconds", type=float, metavar="N", help="begin nothing new after that long")
    add("--max-bytes", type=size, metavar="BYTES", help="nor after having moved so much")
    add("--size", type=size, metavar="BYTES", help="of the file that is used; by default up to 1G (quick: 256M)")
    add("--rounds", type=int, metavar="N", help=f"of what is quoted (default: {ROUNDS}; quick: {quick.ROUNDS})")
    add(
        "--bare-loop",
        type=Path,
        metavar="FILE",
        help="the C source to compile and run beside it (default: that of the study)",
    )
    add("--strict", action="store_true", help="exit code 1 unless every target was measured and is met")
    add("--tiny", action="store_true", help=argparse.SUPPRESS)  # see that it works: the figures mean nothing


def run(study: Study | None, arguments: argparse.Namespace) -> int:
    """Run what the arguments say; the exit code."""
    of_study = [name for name in ("section", "resume", "report", "bare_loop", "strict") if getattr(arguments, name)]
    try:
        parent = _checked(arguments)
        if arguments.quick and not of_study:
            return quick.run(arguments, parent)
        return (study or _study_around_us(of_study if arguments.quick else []))(arguments, parent)
    except ProbeError as error:
        return refuse("bench", str(error), FAILED if str(error).startswith("wrong data") else UNUSABLE)
    except RefusedError as error:
        return refuse("bench", f"{error.filename}: {error.strerror}")


def _checked(arguments: argparse.Namespace) -> Path:
    """The folder to measure in, if the arguments make sense."""
    parent = Path(arguments.directory)
    if not parent.is_dir():
        raise ProbeError(f"no such folder: {parent}")
    if arguments.rounds is not None and arguments.rounds < 1:
        raise ProbeError("--rounds is 1 or more")
    if arguments.size is not None and arguments.size < SIZE_MIN:
        raise ProbeError("--size is 2M or more")
    return parent


# --- the study of a checkout ---


def _study_around_us(instead: list[str]) -> Study:
    """Runs the study of the checkout that this module lies in. `instead` are options that --quick has only with it.

    Raises
    ------
    ProbeError
        It lies in none.
    """
    folder = study_folder()
    if folder is None:
        without = " without --" + ", --".join(name.replace("_", "-") for name in instead) if instead else ""
        raise ProbeError(
            "the study is not part of the installed package: run python benchmarks/study in a checkout of gatherio; "
            f"gatherio bench --quick works here{without}"
        )
    found: Study = import_study(folder, "command").run_study
    return found


def study_folder() -> Path | None:
    """benchmarks/study in the checkout that this module lies in; None if it lies in none.

    An installed package may lie anywhere, below a folder that everybody writes to, too. So it has to be a checkout, and
    nobody may have a say in the study who has none in this module.
    """
    module = Path(__file__).resolve()
    checkout = module.parents[3]
    study = checkout / "benchmarks" / "study"
    marks = [checkout / "pyproject.toml", checkout / "csrc" / "gatherio.h", study / "__init__.py"]
    if module != checkout / "src" / "gatherio" / "_cli" / "bench.py" or not all(mark.is_file() for mark in marks):
        return None
    places = [checkout, study.parent, study, *study.rglob("*")]
    return study if all(is_as_safe_as(module, place) for place in places) else None


def is_as_safe_as(own: Path, place: Path) -> bool:
    """Whether nobody may replace what is in a place who may not write to `own`. Windows' rights are not looked at."""
    has, found = own.stat(), place.lstat()
    if stat.S_ISLNK(found.st_mode):
        return False
    if sys.platform == "win32":
        return True
    if found.st_uid not in (0, has.st_uid) or found.st_mode & stat.S_IWOTH:
        return False
    groups = has.st_gid if has.st_mode & stat.S_IWGRP else 0  # who may write to the module
    return not found.st_mode & stat.S_IWGRP or found.st_gid in (0, groups)


def import_study(folder: Path, module: str) -> Any:
    """A module of the study in this folder, whatever else may have its name and stand in front of it in `sys.path`."""
    init = folder / "__init__.py"
    loaded = sys.modules.get("study")
    if loaded is None or loaded.__file__ != str(init):
        spec = spec_from_file_location("study", init, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        sys.modules["study"] = package = module_from_spec(spec)
        spec.loader.exec_module(package)
    return import_module(f"study.{module}")
