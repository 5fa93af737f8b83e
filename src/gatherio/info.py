"""What this system, and a file system, have to offer."""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from . import _settings as tuning
from ._core.file import File
from ._core.queue import BACKENDS, CompletionQueue, default_queue, try_backend, why_not
from ._folders import known_as, opened, path_of
from ._memory.pages import FACTS
from ._native import remedy
from ._version import __version__

__all__ = ["info"]

_FILE_SYSTEMS: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x6969: "nfs",
    0x794C7630: "overlayfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x65735546: "fuse",
    0x2011BAB0: "exfat",
    0x4D44: "vfat",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
}


def _backends() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name in BACKENDS:
        native, code = try_backend(name, 1, FACTS["page_size"])
        del native  # closes it
        found[name] = {"available": code == 0, "reason": "works" if code == 0 else why_not(name, code)}
    return found


def _describe(file: File, path: str) -> dict[str, Any]:
    known = file.file_system
    return {
        "path": path,
        "file_system": _FILE_SYSTEMS.get(known, hex(known)) if isinstance(known, int) else known,
        "direct": file.direct,
        "reason": file.reason,
        "offset_alignment": file.alignment,
        "memory_alignment": file.memory_alignment,
        "free_bytes": shutil.disk_usage(path).free,
        "tuning": _tuning_of(path),
    }


def _tuning_of(path: str) -> dict[str, Any] | None:
    """What `open` uses for files there, and where that comes from."""
    settings = tuning.stored_for(path)
    if settings is None:
        return None
    entry = tuning.entry_for(path) or {}
    known = {name: entry.get(name) for name in ("aim", "when", "gatherio")}
    return {**tuning.as_dict(settings), **known, "file": settings.source, "reason": settings.reason}


def _about(path: str) -> dict[str, Any]:
    queue: CompletionQueue = default_queue()
    if not os.path.isdir(path):
        with File(path, "r", None, False, queue) as file:
            return _describe(file, path)
    with _new_file(path) as name, File(name, "r", None, False, queue) as file:
        return _describe(file, path)


@contextmanager
def _new_file(folder: str) -> Iterator[str]:
    """A path to a new, empty file in a folder: to this one, whatever becomes of its name, which goes at the end."""
    with opened(folder) as inside:
        path = inside / f".gatherio-{secrets.token_hex(8)}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            why = remedy(error.errno, os.path.join(folder, path.name))
            raise OSError(
                error.errno,
                f"{error.strerror}: no file can be made there to ask about{': ' if why else ''}{why}; "
                "give a file to read, or a folder to write to",
                folder,
            ) from None
        place = path_of(descriptor)
        try:
            if not place:
                os.close(descriptor)
            with known_as(place or str(path), folder):
                yield place or str(path)
        finally:
            if place:
                os.close(descriptor)
            path.unlink()


def info(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Tell what gatherio finds here.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A file, or a folder in which a temporary file can be made: what its file system offers is told as well.

    Returns
    -------
    dict
        ``version``, ``system``, ``python``; sizes in bytes: ``page_size``, ``allocation_granularity``,
        ``huge_page_size``, ``folio_bytes`` (what the page cache may keep in one piece), ``direct_bytes_min`` (a write
        with ragged ends and fewer bytes in whole pages between them goes through the page cache),
        ``max_request_bytes``, and ``max_segments`` per request; ``backends``, a dict per backend with ``available``
        and ``reason``; ``backend`` and ``reason``, the default's; ``tuning``, a dict: the ``file`` with settings
        stored by ``gatherio tune``, whether it ``exists``, how many ``devices`` it knows, and what ``problem`` it
        has; with `path` also ``path``, a dict: ``tuning``, the settings that `open` uses there, or None;
        ``file_system``, ``direct`` and ``reason``, ``offset_alignment``, ``memory_alignment``, ``free_bytes``.
    """
    queue = default_queue()
    found: dict[str, Any] = {
        "version": __version__,
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **FACTS,
        "backends": _backends(),
        "backend": queue.backend,
        "reason": queue.reason,
        "tuning": tuning.about(),
    }
    if path is not None:
        found["path"] = _about(os.fspath(path))
    return found
