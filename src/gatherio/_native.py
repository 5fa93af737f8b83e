"""The compiled core: the one module that imports it, and the one place where its codes become exceptions."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from gatherio import _gatherio  # type: ignore[attr-defined]

from .errors import LockedError, NotLockedError

ffi: Final[Any] = _gatherio.ffi
lib: Final[Any] = _gatherio.lib

# A wait comes back this often even if nothing happened, so that Python sees signals which another thread was
# interrupted by, or which arrived just before the kernel began to wait.
SLICE_NS: Final = 50_000_000

_PROBLEMS: Final[dict[int, str]] = {
    lib.GIO_E_NO_PROGRESS: "the system accepts the request again and again and moves nothing",
    lib.GIO_E_TOO_OLD: "the kernel's io_uring is older than Linux 5.11",
    lib.GIO_E_UNTOLD: "this file system keeps its files in memory and has no direct I/O",
    lib.GIO_E_NOT_ASKED: "buffered as asked (direct=False)",
    lib.GIO_E_COARSE: "this file system has direct I/O in blocks of more than 2 MiB only",
    lib.GIO_E_MAPPED: "the file cannot become shorter than it is mapped: close the mapping and drop its arrays first",
    lib.GIO_E_LOCKED: "a lock on the range, or on a part of it, is in the way",
    lib.GIO_E_NOT_LOCKED: "there is no lock of exactly this range",
    lib.GIO_E_SHRUNK: "the file has become shorter than that since it was mapped",
}


_NUMBERS: Final[dict[int, int]] = {
    lib.GIO_E_NO_PROGRESS: errno.EIO,
    lib.GIO_E_UNTOLD: errno.EINVAL,
    lib.GIO_E_COARSE: errno.EINVAL,
    lib.GIO_E_TOO_OLD: errno.ENOSYS,
    lib.GIO_E_MAPPED: errno.EBUSY,
    lib.GIO_E_SHRUNK: errno.EIO,
    lib.GIO_E_LOCKED: errno.EACCES,
    lib.GIO_E_NOT_LOCKED: errno.EINVAL,
}
_KINDS: Final[dict[int, type[OSError]]] = {lib.GIO_E_LOCKED: LockedError, lib.GIO_E_NOT_LOCKED: NotLockedError}


def describe(code: int) -> str:
    """The words for a code: the system's own for its own numbers."""
    return _PROBLEMS.get(code) or os.strerror(code)


def error(code: int, doing: str, path: object = None) -> Exception:
    """The exception for a code of the core.

    Parameters
    ----------
    code : int
        What a function of the core returned; not 0.
    doing : str
        What was tried, with offset and length where there are any.
    path : object
        The file concerned; becomes ``filename``.
    """
    if code == lib.GIO_E_FORKED:
        return RuntimeError(
            f"{doing}: opened before fork() and usable in the parent process only; open it again in this one"
        )
    if code == lib.GIO_E_CLOSED:
        return ValueError(f"{doing}: the completion queue is closed")
    if code == lib.GIO_E_ALIGNMENT:
        return ValueError(f"{doing}: not aligned")
    number = _NUMBERS.get(code, code)
    if number == errno.EBADF:  # a descriptor opened for the other direction; Windows says access denied
        number = errno.EACCES
    text = f"{describe(code)} ({doing})"
    kind = _KINDS.get(code, OSError)
    return kind(number, text) if path is None else kind(number, text, path)


def check(code: int, doing: str, path: object = None) -> None:
    """Raise the exception for `code` unless it is 0."""
    if code:
        raise error(code, doing, path)
