"""How an asyncio event loop learns that operations have finished, without a thread.

One bridge serves one queue in one loop. While tasks of the loop await operations of the queue, two descriptors are
watched by ``add_reader``: the ring's own, readable while completions stand in it unread, and an eventfd that the core
sets when somebody else (a waiting thread, the queue's own thread, a worker) was first to see an operation finish.
Backends without a ring have the second only.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ._native import check, ffi, lib

if TYPE_CHECKING:
    from .operation import Operation
    from .queue import CompletionQueue


class Bridge:
    """Between one `CompletionQueue` and one event loop."""

    def __init__(self, queue: CompletionQueue, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = weakref.ref(loop)
        self._awaited = 0
        self._looking = 0  # the thread that is looking for completions on the loop's behalf
        self._watching: list[int] = []
        place = ffi.new("gio_event **")
        check(lib.gio_event_create(place), "making an event")
        self._event = ffi.gc(place[0], lib.gio_event_free)

    @staticmethod
    def of(queue: CompletionQueue, loop: asyncio.AbstractEventLoop) -> Bridge:
        """The bridge between these two, made when it is first needed."""
        bridge = queue._bridges.get(loop)
        if bridge is None:
            bridge = queue._bridges[loop] = Bridge(queue, loop)
            weakref.finalize(loop, _forget, weakref.ref(queue), bridge._event)
        return bridge

    def wait_for(self, operation: Operation, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
        """Wait in a task until the operation's outcome is known. The descriptors are watched meanwhile."""
        future: asyncio.Future[None] = loop.create_future()
        self._awaited += 1
        try:
            if not self._watching:
                self._watch(loop)
            operation._watch((self, future))
            yield from future
        finally:
            self._awaited -= 1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        ring = lib.gio_queue_poll_handle(self._queue._native)
        # Attended: where the ring itself is watched, the queue's thread need not wake up on our account.
        check(lib.gio_queue_listen(self._queue._native, self._event, ring >= 0), "awaiting an operation")
        self._watching = [handle for handle in (lib.gio_event_handle(self._event), ring) if handle >= 0]
        for handle in self._watching:
            loop.add_reader(handle, self._on_readable)

    def _on_readable(self) -> None:
        lib.gio_event_clear(self._event)
        if self._awaited == 0:  # nobody awaits any more: stop watching only now, for the next one may come at once
            loop = self._loop()
            for handle in self._watching:
                if loop is not None:
                    loop.remove_reader(handle)
            self._watching = []
            lib.gio_queue_unlisten(self._queue._native, self._event)
            return
        self._looking = threading.get_ident()
        try:
            self._queue._collect(self._event)
        finally:
            self._looking = 0

    def resolve(self, future: asyncio.Future[None]) -> None:
        """Wake the task that awaits `future`, from whichever thread this is."""
        if self._looking == threading.get_ident():
            _set(future)
            return
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed with the task still waiting
                loop.call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _forget(queue: weakref.ref[CompletionQueue], event: Any) -> None:
    living = queue()
    if living is not None:
        lib.gio_queue_unlisten(living._native, event)
