"""Registered memory: pages that the kernel keeps at hand from one transfer to the next."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from ._native import ffi, lib

if TYPE_CHECKING:
    from .queue import CompletionQueue

__all__ = ["Registration"]

Array: TypeAlias = npt.NDArray[Any]


class Registration:
    """The memory of one array, registered with one `CompletionQueue`. Made by `CompletionQueue.register`.

    It keeps the array's memory alive, and ends with `close`, with its ``with`` block, with the object itself or with
    the queue.

    Attributes
    ----------
    nbytes : int
        Bytes that are pinned.
    """

    def __init__(self, queue: CompletionQueue, array: Array) -> None:
        self.nbytes = array.nbytes
        self._array: Array | None = array
        self._end = weakref.finalize(
            self, lib.gio_queue_unregister, queue._native, ffi.cast("void *", array.ctypes.data), array.nbytes
        )
        self._end.atexit = False  # the queue goes anyway

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._array is None

    def close(self) -> None:
        """Let go of the pages. Transfers under way keep them until they have finished. Twice is fine."""
        self._end()
        self._array = None

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<gatherio.Registration: {self.nbytes} bytes{', closed' if self.closed else ''}>"
