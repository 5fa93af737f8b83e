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

from ._core.file import File, open
from ._core.locks import Lock
from ._core.operation import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Operation, as_completed, wait
from ._core.queue import CompletionQueue
from ._core.registration import Registration
from ._formats.npy import load, save
from ._mapping.mapping import Mapping
from ._memory.pages import Pool, asaligned, empty, empty_like, full, is_aligned, prefault, zeros
from ._memory.segments import Segments
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
from .info import info

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

for _name in __all__:  # as they are to be imported, and not where they are written
    if getattr(globals()[_name], "__module__", "").startswith("gatherio."):
        globals()[_name].__module__ = "gatherio"
del _name
