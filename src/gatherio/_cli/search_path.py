"""Where modules and programs are looked for: never in the working directory, which somebody else may have filled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def whole_folders() -> list[str]:
    """The folders that PATH names wholly: empty and relative parts are the working directory."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.platform == "win32":
        folders = [folder.strip('"') for folder in folders]
    return list(filter(is_whole, folders))


def is_whole(path: str) -> bool:
    """Whether a path means the same wherever we stand. On Windows one without a drive does not."""
    return os.path.isabs(path) and (sys.platform != "win32" or os.path.splitdrive(path)[0] != "")


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
        os.environ["PATH"] = os.pathsep.join(whole_folders()) or os.path.abspath(os.devnull)
    try:
        yield
    finally:
        sys.path[:] = path
        if programs is not None:
            os.environ["PATH"] = programs
