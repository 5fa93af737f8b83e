"""How the waiting functions of the standard library wait for an operation, which is no future of theirs.

`asyncio.wait` adds a callback that is for the loop's own thread. `concurrent.futures.wait` and ``as_completed`` put a
waiter into a private list of each future, under its private lock; an object without them would raise while the locks
of the futures beside it are held, for good. So it is in CPython 3.10 to 3.14 (Lib/concurrent/futures/_base.py).

What else asyncio has (gather, wait_for, shield, as_completed, ensure_future) makes a task of what can be awaited; so
does its wait before Python 3.11.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .operation import Operation

    Callback = Callable[[Operation], object]


class Wrapped:
    """A callback in the place of `fn`, by which it is taken back."""

    __slots__ = ("fn",)

    fn: Any


class InLoop(Wrapped):
    """A callback that an asyncio loop is to call."""

    __slots__ = ("_loop",)

    def __init__(self, fn: Callback, loop: asyncio.AbstractEventLoop) -> None:
        self.fn = fn
        self._loop = loop

    def __call__(self, operation: Operation) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits in it any more
            self._loop.call_soon_threadsafe(self.fn, operation)


def for_its_thread(fn: Callback) -> Callback:
    """`fn`; of asyncio's own functions and methods, which no other thread may call, one that asks the running loop."""
    module = getattr(fn, "__module__", None)
    if isinstance(module, str) and module.partition(".")[0] == "asyncio":
        loop = asyncio._get_running_loop()
        if loop is not None:
            return InLoop(fn, loop)
    return fn


class _Tell(Wrapped):
    """A callback that tells a waiter of `concurrent.futures`."""

    __slots__ = ()

    def __init__(self, waiter: Any) -> None:
        self.fn = waiter

    def __call__(self, operation: Operation) -> None:
        if operation.cancelled():
            self.fn.add_cancelled(operation)
        elif operation._has_failed():
            self.fn.add_exception(operation)
        else:
            self.fn.add_result(operation)


def equal(callbacks: list[Any], fn: object) -> list[Any]:
    """Those of the callbacks that `fn` has been given for."""
    return [one for one in callbacks if (one.fn if isinstance(one, Wrapped) else one) == fn]


class Waiters:
    """An operation's callbacks as the list of waiters of `concurrent.futures`."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def append(self, waiter: Any) -> None:
        self._operation.done()  # one that has finished is told of at once, as futures are
        self._operation.add_done_callback(_Tell(waiter))

    def remove(self, waiter: Any) -> None:
        self._operation.remove_done_callback(waiter)


class _NoLock(contextlib.nullcontext[None]):
    """In the place of the lock under which a future's state is looked at: an operation tells its waiters alone."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


NO_LOCK: Final = _NoLock()
