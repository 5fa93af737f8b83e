"""gatherio feeds numpy arrays to disk and back at the speed of the disk.

Overlapped gather and scatter between ordinary numpy arrays and files: io_uring and O_DIRECT on Linux, nothing copied
that need not be, and the CPU stays free.

    import gatherio as gio

    a = gio.empty((1024, 1024), "f4")            # an ordinary array, on page-aligned memory
    with gio.open("data.bin", "w+") as f:
        op = f.write_gather([a], 0)              # submitted; goes on by itself
        ...
        op.result()
"""

from ._version import __version__
from .errors import (
    AlignmentError,
    CancelledError,
    InPlaceWarning,
    LockedError,
    NotLockedError,
    PoolError,
    TimeoutError,
)
from .file import File, open
from .info import info
from .locks import Lock
from .mapping import Mapping
from .npy import load, save
from .operation import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Operation, as_completed, wait
from .pages import Pool, asaligned, empty, empty_like, full, is_aligned, prefault, zeros
from .queue import CompletionQueue
from .registration import Registration
from .segments import Segments

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AlignmentError",
    "CancelledError",
    "CompletionQueue",
    "File",
    "InPlaceWarning",
    "Lock",
    "LockedError",
    "Mapping",
    "NotLockedError",
    "Operation",
    "Pool",
    "PoolError",
    "Registration",
    "Segments",
    "TimeoutError",
    "__version__",
    "as_completed",
    "asaligned",
    "empty",
    "empty_like",
    "full",
    "info",
    "is_aligned",
    "load",
    "open",
    "prefault",
    "save",
    "wait",
    "zeros",
]
