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
    for folder in _whole_folders():
        program = os.path.join(folder, name + _SUFFIX)
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return None


def _whole_folders() -> list[str]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.platform == "win32":
        folders = [folder.strip('"') for folder in folders]
    return list(filter(_is_whole, folders))


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

    Nothing is imported before its path is set. We are found wherever we were, behind all else.
    """
    path = [*import_path(), str(Path(__file__).resolve().parents[1])]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"]


def import_path() -> list[str]:
    """What `sys.path` holds without the working directory, which -m, -c and an empty part of PYTHONPATH put there."""
    # Some installers have names there that are no folders, for hooks of theirs.
    path = [entry for entry in sys.path if os.path.isabs(entry) or (entry and not os.path.exists(entry))]
    try:
        here = os.getcwd()
    except OSError:  # it is gone
        return path
    if path and path[0] == here and _begins_with_working_directory():
        del path[0]
    parts = os.environ.get("PYTHONPATH") or here
    if any(os.path.normpath(part) == os.curdir for part in parts.split(os.pathsep)):
        path = [entry for entry in path if entry != here]
    return path


def _begins_with_working_directory() -> bool:
    """Whether this interpreter was started with -m, which puts it in front. A script has its own folder there."""
    if getattr(sys.flags, "safe_path", sys.flags.isolated):
        return False
    return getattr(sys.modules["__main__"], "__spec__", None) is not None


@contextmanager
def nothing_from_here() -> Iterator[None]:
    """Within the block no module is imported from the working directory, and no library finds a program there."""
    path, programs = sys.path[:], os.environ.get("PATH")
    sys.path[:] = import_path()
    if programs is not None:  # an empty PATH would be the working directory
        os.environ["PATH"] = os.pathsep.join(_whole_folders()) or os.path.abspath(os.devnull)
    try:
        yield
    finally:
        sys.path[:] = path
        if programs is not None:
            os.environ["PATH"] = programs


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
