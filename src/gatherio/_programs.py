"""Programs and modules of others that we run: where the system or the user has put them, never the working directory.

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

_SUFFIX: Final = ".exe" if sys.platform == "win32" else ""


class ProgramError(Exception):
    """A program has failed; the text says how."""


def find(name: str) -> str | None:
    """The whole path of a program in a folder that PATH names wholly; None if it is in none.

    Not by shutil.which: empty and relative parts of PATH are the working directory, and Windows' looks there first.
    """
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        folder = folder.strip('"') if sys.platform == "win32" else folder
        if not _is_whole(folder):
            continue
        program = os.path.join(folder, name + _SUFFIX)
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return None


def _is_whole(path: str) -> bool:
    """Whether a path means the same wherever we stand. On Windows one without a drive does not."""
    return os.path.isabs(path) and (sys.platform != "win32" or os.path.splitdrive(path)[0] != "")


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
        executable=program if _is_whole(program) else os.path.join(folder if sys.platform == "win32" else ".", program),
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


# --- Python ---


def python(code: str) -> list[str]:
    """The command that runs `code` in a new interpreter, which imports from where this one does.

    Nothing is imported before its path is set.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {import_path()!r}; {code}"]


def import_path() -> list[str]:
    """What `sys.path` holds without the working directory, which -m, -c and an empty part of PYTHONPATH put there."""
    # Some installers have names there that are no folders, for hooks of theirs.
    path = [entry for entry in sys.path if os.path.isabs(entry) or (entry and not os.path.exists(entry))]
    try:
        here = os.getcwd()
    except OSError:  # it is gone
        return path
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    relative = [os.path.abspath(part) for part in parts if not os.path.isabs(part)] if parts != [""] else []
    if path and path[0] == here and _begins_with_working_directory():
        del path[0]
    return [entry for entry in path if entry not in relative]


def _begins_with_working_directory() -> bool:
    """Whether this interpreter was started with -m, which puts it in front. A script has its own folder there."""
    if getattr(sys.flags, "safe_path", sys.flags.isolated):
        return False
    return getattr(sys.modules["__main__"], "__spec__", None) is not None


@contextmanager
def imports_from_elsewhere() -> Iterator[None]:
    """Within the block nothing is imported from the working directory."""
    before = sys.path[:]
    sys.path[:] = import_path()
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within the block `folder` is the working directory: for modules that read settings from there when imported."""
    try:
        before = os.getcwd()
    except OSError:  # it is gone, and nobody can read anything there
        yield
        return
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
