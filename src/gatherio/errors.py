"""The exceptions that are gatherio's own. Everything else is a subclass of OSError, ValueError or TypeError."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as TimeoutError  # before Python 3.11 not the built-in one

__all__ = [
    "AlignmentError",
    "AllocationError",
    "CancelledError",
    "InPlaceWarning",
    "LockedError",
    "NotLockedError",
    "PoolError",
    "TimeoutError",
]


class AlignmentError(ValueError):
    """An array, an offset or a length is not aligned as a transfer without a copy needs it.

    The text names what is not, and the call that would work.
    """


class AllocationError(MemoryError, ValueError):
    """The shape asked for is larger than any address space.

    numpy raises ValueError for it; it is a MemoryError as well, so that one ``except`` serves every array that cannot
    be had.
    """


class PoolError(ValueError):
    """An array was released to a pool that did not hand it out, or twice."""


class LockedError(PermissionError):
    """A lock on the range, or on a part of it, is in the way: errno EACCES, winerror 33 on Windows."""


class NotLockedError(OSError, ValueError):
    """There is no lock of exactly this range to be given back (errno EINVAL; winerror 158 on Windows).

    A ValueError as well, as io.UnsupportedOperation is: it is the system's rule and the caller's mistake.
    """


class InPlaceWarning(UserWarning):
    """A file is about to be written in place, because no other file can be given its name.

    If that fails, or the process is killed meanwhile, the old content is lost. With ``warnings.simplefilter("error",
    gatherio.InPlaceWarning)`` nothing is written then.
    """
