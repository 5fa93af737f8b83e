"""Programs of others that we run: where the system or the user has put them, never the working directory.

Whoever calls us may stand in a folder that somebody else fills. So a program is looked up here and called by its whole
path; it runs in a folder that its caller names, because the loader, compilers and Python read empty and relative parts
of their own search paths from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import gatherio
from gatherio._cli.search_path import import_path, is_whole, whole_folders

_SUFFIX: Final = ".exe" if sys.platform == "win32" else ""


class ProgramError(Exception):
    """A program has failed; the text says how."""


def find(name: str) -> str | None:
    """The whole path of a program in a folder that PATH names wholly; None if it is in none.

    Not by shutil.which: empty and relative parts of PATH are the working directory, and Windows' looks there first.
    """
    for folder in whole_folders():
        program = os.path.join(folder, name + _SUFFIX)
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return None


def output_of(
    command: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    given: str = "",
    environment: dict[str, str] | None = None,
) -> str:
    """Run a program in a folder of ours, and return what it prints.

    Parameters
    ----------
    command : sequence of str
        The program's whole path, or the name of one in `folder`; and its arguments.
    folder : str or os.PathLike
        Nobody else writes there. A path in /proc/self/fd serves.
    given : str
        Its standard input.
    environment : dict, optional
        In addition to ours.

    Raises
    ------
    ProgramError
        It ended with another code than 0.
    OSError
        It could not be started.
    """
    program = command[0]
    done = subprocess.run(
        list(command),
        # Windows looks up a path without a drive from where we stand, Linux from where the program will.
        executable=program if is_whole(program) else os.path.join(folder if sys.platform == "win32" else ".", program),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip()).split("\n")[0]
        raise ProgramError(f"{os.path.basename(program)} ended with {done.returncode}: {told}")
    return done.stdout


def python(module: str, function: str) -> list[str]:
    """The command that calls a function of the study in a new interpreter, which imports from where this one does.

    Nothing is imported before its path is set. The package is found wherever it was, behind all else.
    """
    package, study = Path(gatherio.__file__).resolve().parents[1], Path(__file__).resolve().parent
    found = f"import_study(Path({str(study)!r}), {module!r}).{function}()"
    code = f"from pathlib import Path; from gatherio._cli.bench import import_study; {found}"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {[*import_path(), str(package)]!r}; {code}"]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within the block `folder` is the working directory: for modules that read settings from there when imported."""
    if sys.platform == "win32":
        before = os.getcwd()
    else:  # by its name another one may be found, or none that this user could enter
        before = os.open(os.curdir, os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        yield
    finally:
        os.chdir(before)
        if not isinstance(before, str):
            os.close(before)
