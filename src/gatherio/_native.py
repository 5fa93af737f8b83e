"""The compiled core: the one module that imports it, and the one place where its codes become exceptions."""

from __future__ import annotations

import errno
import functools
import operator
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from gatherio import _gatherio  # type: ignore[attr-defined]

from .errors import LockedError, NotLockedError

if sys.platform == "win32":

    def remedy(number: int, path: object) -> str:
        """What is in the way, and what to do: Windows' own words say it."""
        return ""

else:
    from ._remedy import remedy as remedy

ffi: Final[Any] = _gatherio.ffi
lib: Final[Any] = _gatherio.lib

# A wait comes back this often even if nothing happened, so that Python sees signals which another thread was
# interrupted by, or which arrived just before the kernel began to wait. Less often on Linux, where a signal interrupts
# who waits in the kernel for all; on Windows none interrupts anybody.
SLICE_NS: Final = 50_000_000 if sys.platform == "win32" else 200_000_000

_PROBLEMS: Final[dict[int, str]] = {
    lib.GIO_E_NO_PROGRESS: "the system accepts the request again and again and moves nothing",
    lib.GIO_E_TOO_OLD: "the kernel's io_uring is older than Linux 5.11",
    lib.GIO_E_UNTOLD: "this file system keeps its files in memory and has no direct I/O",
    lib.GIO_E_NOT_ASKED: "buffered as asked (direct=False)",
    lib.GIO_E_UNREGISTRABLE: "there is no registered memory (it needs io_uring of Linux 5.19 or later)",
    lib.GIO_E_TABLE_FULL: "no more memory can be registered in one queue",
    lib.GIO_E_MISCOUNTED: "io_uring tells wrong counts where a FUSE server moves less than asked",
    lib.GIO_E_COARSE: "this file system has direct I/O in blocks of more than 2 MiB only",
    lib.GIO_E_MAPPED: "the file is mapped and cannot become shorter: close the mapping and drop its arrays first",
    lib.GIO_E_LOCKED: "a lock on the range, or on a part of it, is in the way",
    lib.GIO_E_NOT_LOCKED: "there is no lock of exactly this range",
    lib.GIO_E_NO_FILE: "only regular files can be mapped, and memory",
    lib.GIO_E_FIXED_SIZE: "a device has the size it has: nothing of it can be reserved, and its length cannot be set",
    lib.GIO_E_OTHER_FILE: "another file has taken the place of that which the name stands for",
    lib.GIO_E_FOREIGN: "what has this name is another user's, or no shared memory of gatherio's: take another name, or "
    "have it removed",
    lib.GIO_E_SHRUNK: "the file has become shorter than that since it was mapped",
    lib.GIO_E_BROKEN: "io_uring has stopped working (a sandbox forbids it now, or something has closed its "
    "descriptor): this was being handed over; what follows goes through threads",
    lib.GIO_E_DIRECTION: "permission denied: to write, and to lock exclusively, takes the right to write the file; to "
    "read, and to lock shared, that to read it",
    lib.GIO_E_NO_PROC: "/proc is not mounted here, and through it alone the file can be opened once more, which direct "
    "I/O and locks need; mount it: mount -t proc proc /proc",
}


_NUMBERS: Final[dict[int, int]] = {
    lib.GIO_E_NO_PROGRESS: errno.EIO,
    lib.GIO_E_BROKEN: errno.EIO,
    lib.GIO_E_UNTOLD: errno.EINVAL,
    lib.GIO_E_COARSE: errno.EINVAL,
    lib.GIO_E_UNREGISTRABLE: errno.EOPNOTSUPP,
    lib.GIO_E_TABLE_FULL: errno.ENOBUFS,
    lib.GIO_E_TOO_OLD: errno.ENOSYS,
    lib.GIO_E_MAPPED: errno.EBUSY,
    lib.GIO_E_NO_FILE: errno.ENODEV,
    lib.GIO_E_FIXED_SIZE: errno.EINVAL,
    lib.GIO_E_OTHER_FILE: errno.ESTALE,
    lib.GIO_E_FOREIGN: errno.EACCES,
    lib.GIO_E_SHRUNK: errno.EIO,
    lib.GIO_E_LOCKED: errno.EACCES,
    lib.GIO_E_DIRECTION: errno.EACCES,
    lib.GIO_E_NOT_LOCKED: errno.EINVAL,
    lib.GIO_E_NO_PROC: errno.EOPNOTSUPP,
}
# Of numbers whose own words say nothing in our case.
_WORDS: Final[dict[int, str]] = {
    errno.ESPIPE: "pipes, sockets and terminals have no offsets to read from or write to",
    errno.EBADF: "the file's descriptor is not open any more: something in this process has closed it (os.close, "
    "os.closerange), and not by this object; open the file again",
}
_KINDS: Final[dict[int, type[OSError]]] = {lib.GIO_E_LOCKED: LockedError, lib.GIO_E_NOT_LOCKED: NotLockedError}


# Codes of Windows for which Python's own table has another errno than Linux gives in the same case, or none. The names
# are those of <winerror.h>.
_WINDOWS_NUMBERS: Final[dict[int, int]] = {
    19: errno.EROFS,  # ERROR_WRITE_PROTECT
    23: errno.EIO,  # ERROR_CRC
    25: errno.EIO,  # ERROR_SEEK
    27: errno.EIO,  # ERROR_SECTOR_NOT_FOUND
    29: errno.EIO,  # ERROR_WRITE_FAULT
    30: errno.EIO,  # ERROR_READ_FAULT
    31: errno.EIO,  # ERROR_GEN_FAILURE
    39: errno.ENOSPC,  # ERROR_HANDLE_DISK_FULL
    50: errno.EOPNOTSUPP,  # ERROR_NOT_SUPPORTED
    132: errno.ESPIPE,  # ERROR_SEEK_ON_DEVICE
    223: errno.EFBIG,  # ERROR_FILE_TOO_LARGE
    336: errno.EISDIR,  # ERROR_DIRECTORY_NOT_SUPPORTED
    995: errno.ECANCELED,  # ERROR_OPERATION_ABORTED
    998: errno.EFAULT,  # ERROR_NOACCESS
    1117: errno.EIO,  # ERROR_IO_DEVICE
    1224: errno.EBUSY,  # ERROR_USER_MAPPED_FILE
    1237: errno.EAGAIN,  # ERROR_RETRY
    1295: errno.EDQUOT,  # ERROR_DISK_QUOTA_EXCEEDED
    1314: errno.EPERM,  # ERROR_PRIVILEGE_NOT_HELD
    1450: errno.ENOMEM,  # ERROR_NO_SYSTEM_RESOURCES
    1453: errno.ENOMEM,  # ERROR_WORKING_SET_QUOTA
    1455: errno.ENOMEM,  # ERROR_COMMITMENT_LIMIT
    1784: errno.ENOMEM,  # ERROR_INVALID_USER_BUFFER
}
# What Windows says where a rule of ours says no before it is asked.
_WINDOWS_CODES: Final[dict[int, int]] = {
    lib.GIO_E_LOCKED: 33,
    lib.GIO_E_NOT_LOCKED: 158,
    lib.GIO_E_MAPPED: 1224,
    lib.GIO_E_FOREIGN: 5,
}
if sys.platform == "win32":
    _KINDS[33] = LockedError  # ERROR_LOCK_VIOLATION, of a transfer


def describe(code: int) -> str:
    """The words for a code: the system's own for its own numbers."""
    if code in _PROBLEMS:
        return _PROBLEMS[code]
    number = errno_of(code)
    if number in _WORDS:
        return _WORDS[number]
    if sys.platform == "win32":
        return str(ffi.getwinerror(code)[1]).strip()
    return os.strerror(number)


def errno_of(code: int) -> int:
    """The errno for a code; the same for the same trouble on every system."""
    if code in _NUMBERS:
        return _NUMBERS[code]
    if sys.platform == "win32":
        return _WINDOWS_NUMBERS.get(code) or OSError(0, "", None, code).errno or errno.EINVAL
    return code


def os_error(code: int, text: str, path: object = None) -> OSError:
    """The OSError for a code: its subclass by errno, with `winerror` on Windows."""
    number = errno_of(code)
    kind = _KINDS.get(code, OSError)
    failure = kind(number, text) if path is None else kind(number, text, path)
    if sys.platform == "win32" and (code not in _NUMBERS or code in _WINDOWS_CODES):
        failure.winerror = _WINDOWS_CODES.get(code, code)
    return failure


# --- what the core makes ---


def owned(kind: str, end: Callable[[Any], object]) -> Any:
    """A place for the core to put something in, with its end attached before it is there.

    A signal during the call that makes it raises right behind that call, where nobody else knows of it yet.

    Parameters
    ----------
    kind : str
        The type of C that points to the place.
    end : callable
        Takes the place, and ends what stands there, if anything. A function of the core, with the first arguments
        bound: in one of Python's a signal could raise, unheard, and the rest would not be done.
    """
    return ffi.gc(ffi.new(kind), end)


def kept(pointer: Any, place: Any) -> Any:
    """A pointer to what stands in a place of `owned`, which stays as long as this does."""
    return ffi.gc(pointer, functools.partial(operator.is_, place))  # which does nothing but refer to it


# --- the end of the interpreter ---

_ended_by = 0  # the thread in which the interpreter ends, once it does


class ClosedAtExitError(ValueError):
    """It is closed because the interpreter ends, for those who run until then: callbacks of operations, above all."""


def begin_to_end() -> None:
    """From now on files are closed because the interpreter ends: its daemon threads may still be at work with them."""
    global _ended_by
    _ended_by = threading.get_ident()


def end_with_the_interpreter() -> None:
    """End this thread, in silence, if the interpreter ends in another one.

    By then all but daemon threads have been waited for. One that uses a built-in file then just does not come back from
    it. One that did not come back from here would be missed by who joins it at exit; `threading` says nothing of
    SystemExit.
    """
    if _ended_by not in (0, threading.get_ident()):
        raise SystemExit


def closed(text: str) -> ValueError:
    """The exception for the use of something that is closed."""
    end_with_the_interpreter()
    return ClosedAtExitError(text) if _ended_by else ValueError(text)


# --- time ---

#: Seconds: longer than the clock counts in 64 bits, some 146 years, is for ever.
_FOREVER_S: Final = float(2**62 // 10**9)


def deadline_ns(timeout: float | None) -> int | None:
    """The moment of time.monotonic_ns() at which `timeout` seconds are over; None where they never are.

    Raises
    ------
    TypeError, ValueError
        It is no number, or nan.
    """
    if timeout is None:
        return None
    try:
        if timeout < _FOREVER_S:
            return time.monotonic_ns() + int(float(max(0, timeout)) * 1e9)
        if timeout >= _FOREVER_S:
            return None
    except TypeError:
        raise TypeError(f"a timeout is a number of seconds, or None, not {timeout!r}") from None
    raise ValueError(f"a timeout is a number of seconds, or None, not {timeout!r}")


def slice_ns(deadline: int | None) -> int:
    """How long to wait in one go: until the deadline, but not longer than Python may be kept from signals."""
    return SLICE_NS if deadline is None else max(0, min(SLICE_NS, deadline - time.monotonic_ns()))


def is_over(deadline: int | None) -> bool:
    return deadline is not None and time.monotonic_ns() >= deadline


# --- names ---


def encode_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """A path as the core takes it, without the NUL that cffi's conversion from bytes adds."""
    if sys.platform != "win32":
        encoded = os.fsencode(path)
        if b"\0" in encoded:
            raise ValueError("embedded null byte in the path")
        return encoded
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError("embedded null character in the path")
    return long_path(name).encode("utf-16-le", "surrogatepass") + b"\0"  # its second zero byte is cffi's


def long_path(name: str) -> str:
    """A path as Windows takes it however long it is; elsewhere the same."""
    if sys.platform != "win32" or name.startswith(("\\\\?\\", "\\\\.\\")):
        return name
    # Without the prefix a path ends at 260 characters, the NUL included, and one for a folder at 248.
    whole = os.path.abspath(name)
    if len(whole) < 248:
        return name
    return "\\\\?\\UNC" + whole[1:] if whole.startswith("\\\\") else "\\\\?\\" + whole


def encode_name(name: str) -> bytes:
    """A name of shared memory, likewise."""
    return name.encode("utf-16-le") + b"\0" if sys.platform == "win32" else name.encode("utf-8")


def error(code: int, doing: str, path: object = None, *, is_file: bool = True) -> Exception:
    """The exception for a code of the core.

    Parameters
    ----------
    code : int
        What a function of the core returned; not 0.
    doing : str
        What was tried, with offset and length where there are any.
    path : object
        The file concerned; becomes ``filename``.
    is_file : bool
        Whether `path` is one, and no name of shared memory: then what is in its way is looked up.
    """
    if code == lib.GIO_E_FORKED:
        return RuntimeError(
            f"{doing}: opened before fork() and usable in the parent process only; open it again in this one"
        )
    if code == lib.GIO_E_CLOSED:
        return closed(f"{doing}: the completion queue is closed")
    if code == lib.GIO_E_ALIGNMENT:
        return ValueError(f"{doing}: not aligned")
    why = "" if code in _PROBLEMS else remedy(errno_of(code), path if is_file else None)
    return os_error(code, f"{describe(code)} ({doing}){': ' if why else ''}{why}", path)


def check(code: int, doing: str, path: object = None, *, is_file: bool = True) -> None:
    """Raise the exception for `code` unless it is 0."""
    if code:
        raise error(code, doing, path, is_file=is_file)
