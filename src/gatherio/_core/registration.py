"""Registered memory: pages that the kernel keeps at hand from one transfer to the next."""

from __future__ import annotations

import threading
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from .._handle import Handle
from .._memory.pages import exact, memory_of
from .._native import ffi, lib

if TYPE_CHECKING:
    from .queue import CompletionQueue

__all__ = ["Registration"]

Array: TypeAlias = npt.NDArray[Any]


class Registration(Handle):
    """The memory of one array, registered with one `CompletionQueue`. Made by `CompletionQueue.register`.

    It keeps the array's memory alive and where it is, and ends with `close`, with its ``with`` block, with the object
    itself or with the queue.

    Attributes
    ----------
    nbytes : int
        Bytes that are pinned.
    """

    _instead = "register the array where it is to be transferred"

    def __init__(self, queue: CompletionQueue, array: Array) -> None:
        # Its end is there before it begins, and ends it while the array still is: memory that went first might be
        # another array's by then. And as with pages, no function of Python's, in which a signal could raise.
        self._closing = threading.RLock()  # who comes second waits until it has ended; a signal handler may be that
        self._native = made = ffi.new("gio_registration *")
        memory = memory_of(exact(array))
        self.nbytes = nbytes = len(memory)
        self._memory = memory = ffi.gc(memory, partial(lib.gio_unregister, made))
        self._code = int(lib.gio_queue_register(queue._native, memory, nbytes, made))

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return not self._native.queue

    def close(self) -> None:
        """Let go of the pages. Transfers under way keep them until they have finished. Twice is fine."""
        with self._closing:
            ffi.release(self._memory)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<gatherio.Registration: {self.nbytes} bytes{', closed' if self.closed else ''}>"
