"""How an asyncio event loop learns that operations have finished: on Linux without a thread.

One bridge serves one queue in one loop. On Linux, from the first operation that a task of the loop awaits, two
descriptors are watched by ``add_reader``: the ring's, readable while completions stand in it unread, and an eventfd
that the core sets when somebody else (a waiting thread, the queue's own thread, a worker) was first to see an operation
finish.
Backends without a ring have the second only. They are watched until one of them stirs with nobody awaiting, or until
the queue is closed or gone.

The ring is watched through a duplicate of its descriptor, which is the bridge's own: a loop goes on believing in a
number that somebody else has closed, and would not notice when the number becomes another file's.

On Windows no loop can watch what we have: the selector loop takes sockets only, and the proactor loop's port is its
own, while a handle is bound to one port for life, and ours are bound to the queue's. There the thread that calls
callbacks (engine.py) tells the loop, whichever loop it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Any

from .._native import ffi, lib
from .engine import Engine, InFlight, new_event


class Bridge:
    """Between one `Engine` and one event loop. It keeps neither of them alive."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = weakref.ref(engine, _closing(self))  # the loop holds what it watches, and with it this
        self._loop = weakref.ref(loop)
        self._awaited = 0
        self._looking = 0  # the thread that is looking for completions on the loop's behalf
        self._watched: list[int] = []
        self._ring = -1
        self._listening: Any = None
        self._place = new_event()
        self._event = self._place[0]
        ring = lib.gio_queue_poll_handle(engine.native)
        if ring >= 0:
            self._ring = os.dup(ring)
        self._can_watch = lib.gio_event_handle(self._event) >= 0

    @staticmethod
    def of(engine: Engine, loop: asyncio.AbstractEventLoop) -> Bridge:
        """The bridge between these two, made when it is first needed."""
        bridge: Bridge | None = engine.bridges.get(loop)
        if bridge is None:
            bridge = engine.bridges[loop] = Bridge(engine, loop)
        return bridge

    def wait_for(self, operation: InFlight, loop: asyncio.AbstractEventLoop) -> Generator[Any, None, None]:
        """Wait in a task until the operation's outcome is known."""
        future: asyncio.Future[None] = loop.create_future()
        if not self._can_watch:
            with operation._engine.attended():
                operation._engine.watch(operation, _Awaiting(self, future))
                yield from future
            return
        self._awaited += 1
        try:
            if self._listening is None:
                self._watch(operation._engine, loop)
            operation._engine.watch(operation, _Awaiting(self, future))
            yield from future
        finally:
            self._awaited -= 1

    def _watch(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        if self._ring >= 0:
            try:
                loop.add_reader(self._ring, self._on_readable)
                self._watched.append(self._ring)
            except OSError:  # its descriptor has been closed behind our back, and the number is another file's
                self._close_ring()
        # Attended: where the ring itself is watched, the queue's thread need not wake up on our account.
        self._listening = engine.listen(self._place, self._ring >= 0)
        handle = int(lib.gio_event_handle(self._event))
        loop.add_reader(handle, self._on_readable)
        self._watched.append(handle)

    def _on_readable(self) -> None:
        lib.gio_event_clear(self._event)
        engine = self._engine()
        if self._awaited == 0 or engine is None:  # only now: the next operation may be awaited at once
            self._stop_watching()
            return
        self._looking = threading.get_ident()
        try:
            engine.look(listener=self._event)
        finally:
            self._looking = 0

    def _stop_watching(self) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            for handle in self._watched:
                loop.remove_reader(handle)
        if self._listening is not None:
            ffi.release(self._listening)
            self._listening = None
        self._watched = []

    def resolve(self, future: asyncio.Future[None]) -> None:
        """Wake the task that awaits `future`, from whichever thread this is."""
        if self._looking == threading.get_ident():
            _set(future)
            return
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed with the task still waiting
                loop.call_soon_threadsafe(_set, future)

    def close(self) -> None:
        """The queue is closed or gone: stop watching, in the loop's own thread where it still runs."""
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed just now
                loop.call_soon_threadsafe(self._finish)
                return
        self._finish()

    def _finish(self) -> None:
        self._stop_watching()
        self._close_ring()

    def _close_ring(self) -> None:
        ring, self._ring = self._ring, -1
        if ring >= 0:
            os.close(ring)

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            self._finish()


class _Awaiting:
    """A task that awaits an operation."""

    __slots__ = ("_bridge", "_future")

    def __init__(self, bridge: Bridge, future: asyncio.Future[None]) -> None:
        self._bridge = bridge
        self._future = future

    def finished(self, _: object) -> None:
        self._bridge.resolve(self._future)


def no_loop(call: str) -> RuntimeError:
    """The exception for an await where no loop of asyncio runs; `call` is what blocks and does the same."""
    return RuntimeError(
        "no running event loop of asyncio in this thread, and under others (trio) nothing of gatherio can be awaited: "
        f"call {call} in a thread, in trio: await trio.to_thread.run_sync({call})"
    )


def running_loop(call: str) -> asyncio.AbstractEventLoop:
    """The loop that runs in this thread; else the exception."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise no_loop(call) from None


async def to_its_end(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call in a thread of the loop's executor. The task comes back when that has ended, cancelled meanwhile or not."""
    calling = loop.run_in_executor(None, call)
    cancelled: asyncio.CancelledError | None = None
    while not calling.done():
        try:
            await asyncio.wait([calling])
        except asyncio.CancelledError as asked:
            cancelled = asked
    calling.result()
    if cancelled is not None:
        raise cancelled


def _closing(bridge: Bridge) -> Callable[[object], None]:
    """What closes it, if it is still there."""
    reference = weakref.ref(bridge)

    def close(_: object) -> None:
        living = reference()
        if living is not None:
            living.close()

    return close


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
