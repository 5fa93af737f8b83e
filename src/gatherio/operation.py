"""One read or write under way, and waiting for several of them.

An operation has the method names of `concurrent.futures.Future` and can be awaited in asyncio. It goes on by itself:
nobody has to wait for it, and nothing that Python does meanwhile holds it up. Until its outcome is known, the queue
holds it and it holds its arrays, whatever the caller drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ._futures import NO_LOCK, Waiters, equal, for_its_thread
from ._handle import Handle
from ._native import ClosedAtExitError, check, deadline_ns, error, ffi, is_over, lib, slice_ns
from .asyncio_bridge import Bridge, no_loop
from .errors import CancelledError, TimeoutError

if TYPE_CHECKING:
    from .file import File
    from .queue import CompletionQueue

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Operation", "as_completed", "wait"]

_LOG: Final = logging.getLogger("gatherio")


class Operation(Handle):
    """A read or write that has been submitted. Made by the methods of `File`, never directly.

    Attributes
    ----------
    file : File
    offset : int or ndarray of uint64
        Bytes from the start of the file; of `File.read_many` and `File.write_many` one for each array.
    nbytes : int
        Bytes that it is to move.
    tag : object
        What was given to the call that submitted it.
    """

    __slots__ = (
        "__weakref__",
        "_buffers",
        "_file",
        "_key",
        "_nbytes",
        "_offset",
        "_outcome",
        "_queue",
        "_ticket",
        "_watchers",
        "_writes",
        "tag",
    )

    _instead = "wait for it in the process that has submitted it"

    _outcome: tuple[int, int, int] | None  # code, bytes transferred, bytes known to be in place
    _watchers: list[Callable[[Operation], object] | tuple[Bridge, asyncio.Future[None]]] | None

    def __init__(
        self,
        file: File,
        queue: CompletionQueue,
        key: int,
        writes: bool,
        offset: int | npt.NDArray[np.uint64],
        nbytes: int,
        buffers: object,
        tag: object = None,
    ) -> None:
        self._file = file
        self._queue = queue
        self._key = key
        self._writes = writes
        self._offset = offset
        self._nbytes = nbytes
        self._buffers = buffers
        self.tag = tag
        self._ticket = 0
        self._outcome = None
        self._watchers = None

    @property
    def file(self) -> File:
        return self._file

    @property
    def offset(self) -> int | npt.NDArray[np.uint64]:
        return self._offset

    @property
    def nbytes(self) -> int:
        return self._nbytes

    # -- what the queue tells ---------------------------------------------------------------------------

    def _finish(self, code: int, transferred: int, in_place: int) -> object:
        """Take the outcome. May be told twice; the watchers are called once.

        Returns
        -------
        object
            What holds the memory. To be let go of where no lock is held: finalisers may do anything.
        """
        if code and self._writes and code != lib.GIO_E_CANCELLED and self._outcome is None:
            self._file._untold[self._key] = self
        self._outcome = (code, transferred, in_place)
        buffers, self._buffers = self._buffers, None
        return buffers

    def _call_watchers(self) -> None:
        while self._watchers:  # one by one, so that an exception in one of them leaves the others where they are
            with self._queue._lock:
                if not self._watchers:  # another thread had the last one
                    return
                watcher = self._watchers.pop(0)
            if isinstance(watcher, tuple):
                watcher[0].resolve(watcher[1])
            else:
                self._call_back(watcher)

    def _call_back(self, callback: Callable[[Operation], object]) -> None:
        with self._queue._lock:
            self._queue._watched -= 1
        try:
            callback(self)
        except ClosedAtExitError:  # it submits one after the other for as long as it is let
            pass
        except (Exception, asyncio.CancelledError):
            _LOG.exception("exception calling callback for %r", self)

    def _watch(self, watcher: Callable[[Operation], object] | tuple[Bridge, asyncio.Future[None]]) -> None:
        if self._queue._pid != os.getpid():
            raise error(lib.GIO_E_FORKED, f"watching the {self._doing()}", self._file.name)
        with self._queue._lock:
            if self._watchers is None:
                self._watchers = [watcher]
            else:
                self._watchers.append(watcher)
            if not isinstance(watcher, tuple):
                self._queue._watched += 1
                self._queue._attend()
        if self._outcome is not None:  # it finished meanwhile, perhaps without having seen the watcher
            self._call_watchers()

    # -- waiting ----------------------------------------------------------------------------------------

    def _wait(self, deadline: int | None) -> bool:
        """Wait until the outcome is known or the deadline has come."""
        if self._outcome is not None:
            return True
        queue = self._queue
        room = queue._room()
        while self._outcome is None:
            code = lib.gio_operation_wait(queue._native, self._ticket, slice_ns(deadline), room.rows)
            if code == 0:
                queue._note(room, 1, self)
            elif code == lib.GIO_E_GONE:  # another thread was told
                time.sleep(0)
            elif code != lib.GIO_E_TIMEOUT and code != lib.GIO_E_INTERRUPTED:
                raise error(code, f"waiting for the {self._doing()}", self._file.name)
            elif is_over(deadline):
                break
        queue._rooms.append(room)
        return self._outcome is not None

    def done(self) -> bool:
        """Whether the outcome is known. Does not wait."""
        return self._wait(0)

    def result(self, timeout: float | None = None) -> int:
        """Wait for the operation and return how many bytes it transferred.

        A write transfers all its bytes or raises. A read that crosses the end of the file returns the bytes there
        were, one that starts at or past it 0; what the array holds behind them is unspecified.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits as long as it takes.

        Raises
        ------
        OSError
            The operation failed: a subclass by errno, with ``filename``. The text tells offset, length and how many
            bytes from the start are known to be in place; so does the attribute ``bytes_in_place``.
        concurrent.futures.CancelledError
            It was cancelled before it had moved everything.
        concurrent.futures.TimeoutError
            The time is up. The operation goes on.

        Notes
        -----
        Any exception here, KeyboardInterrupt included, leaves the operation running and its arrays safe.
        """
        if self._outcome is None and not self._wait(deadline_ns(timeout)):
            raise TimeoutError(f"not finished within {timeout} s: {self._doing()}")
        code, transferred, _ = self._outcome  # type: ignore[misc]
        if self._queue._hands_out:
            self._queue._mark_told(self)
        if code == 0:
            return transferred
        raise self._exception()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the operation and return its exception, or None. Raises as `result` for cancelling and time."""
        if self._outcome is None and not self._wait(deadline_ns(timeout)):
            raise TimeoutError(f"not finished within {timeout} s: {self._doing()}")
        if self._queue._hands_out:
            self._queue._mark_told(self)
        if self._outcome is None or self._outcome[0] == 0:
            return None
        failure = self._exception()
        if isinstance(failure, CancelledError):
            raise failure
        return failure

    def _doing(self) -> str:
        if isinstance(self._offset, int):
            where = str(self._offset)
        else:
            where = f"{self._offset[0] if self._offset.size else 0} and {max(0, self._offset.size - 1)} others"
        return f"{'write' if self._writes else 'read'} of {self._nbytes} bytes at offset {where}"

    def _exception(self) -> BaseException:
        """The exception for the outcome; from here on somebody has been told."""
        assert self._outcome is not None
        code, _, in_place = self._outcome
        self._file._untold.pop(self._key, None)
        if code == lib.GIO_E_CANCELLED:
            return CancelledError(f"cancelled: {self._doing()}; the first {in_place} bytes are in place")
        doing = f"{self._doing()}; the first {in_place} bytes are in place"
        failure = error(code, doing, self._file.name)
        failure.bytes_in_place = in_place  # type: ignore[attr-defined]
        return failure

    # -- cancelling and telling others -------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ask for the operation to be dropped. False if it has finished already, in another way than by `cancel`.

        True promises nothing: the outcome is the full result or CancelledError, and until it is known the arrays are
        the kernel's.
        """
        if self._outcome is not None:
            return self.cancelled()
        code = lib.gio_operation_cancel(self._queue._native, self._ticket)
        if code != lib.GIO_E_GONE:
            check(code, f"cancelling the {self._doing()}", self._file.name)
        return bool(code == 0)

    def cancelled(self) -> bool:
        """Whether it ended without having moved everything because of `cancel`."""
        return self.done() and self._outcome is not None and self._outcome[0] == lib.GIO_E_CANCELLED

    def running(self) -> bool:
        """Whether it is still under way."""
        return not self.done()

    def add_done_callback(self, fn: Callable[[Operation], object]) -> None:
        """Call ``fn(operation)`` once when the operation has finished; at once if it has.

        It runs in the thread that learns of the outcome first: one that waits, or one of the library's own. An
        exception in it is logged (logger ``gatherio``) and otherwise ignored.

        asyncio's own functions and methods are for the thread of a loop: added while one runs in this thread, they are
        called in it (``add_done_callback(queue.put_nowait)`` with an `asyncio.Queue`).
        """
        self._watch(for_its_thread(fn))

    def remove_done_callback(self, fn: Callable[[Operation], object]) -> int:
        """Take back each callback that equals `fn` and has not been called. Gives their number."""
        found = equal(list(self._watchers or ()), fn)  # without the lock: to compare may run anybody's code
        with self._queue._lock:
            watchers = self._watchers or []
            kept = [watcher for watcher in watchers if not any(watcher is one for one in found)]
            removed = len(watchers) - len(kept)
            watchers[:] = kept
            self._queue._watched -= removed
        return removed

    # What concurrent.futures.wait and as_completed want of a future beside that. It is always running: what has
    # finished tells its waiters.
    _condition = NO_LOCK
    _state = "RUNNING"

    @property
    def _waiters(self) -> Waiters:
        return Waiters(self)

    # -- in asyncio ---------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, int]:
        """Wait in an asyncio task. Cancelling the task leaves the operation running and its arrays safe.

        `asyncio.gather`, ``wait``, ``wait_for``, ``timeout``, ``shield``, ``as_completed`` and ``ensure_future`` take
        operations as they are. Where a coroutine is asked for (``create_task``, `asyncio.TaskGroup`,
        ``run_coroutine_threadsafe``), ``asyncio.wait_for(op, None)`` is one.

        Raises
        ------
        RuntimeError
            No loop of asyncio (or uvloop) runs in this thread. In trio: ``await trio.to_thread.run_sync(op.result)``.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise no_loop("op.result") from None
        if self._outcome is None:
            yield from Bridge.of(self._queue, loop).wait_for(self, loop)
        return self.result()

    def __repr__(self) -> str:
        state = "running"
        if self._outcome is not None:
            code = self._outcome[0]
            state = "cancelled" if code == lib.GIO_E_CANCELLED else f"failed with {code}" if code else "finished"
        if asyncio._get_running_loop() is not None:  # create_task and wrap_future say no more than what they were given
            state += "; asyncio.ensure_future(op) makes a task of it"
        return f"<gatherio.Operation: {self._doing()} of {self._file.name!r}, {state}>"


class DoneAndNotDone(NamedTuple):
    """What `wait` returns."""

    done: set[Operation]
    not_done: set[Operation]


def _checked(ops: Iterable[Operation], call: str) -> set[Operation]:
    """The operations, each once.

    Raises
    ------
    TypeError
        It is no iterable, or holds something else; the text names it, and the call that waits for it.
    """
    if isinstance(ops, Operation) or not isinstance(ops, Iterable):
        raise TypeError(f"gatherio.{call} takes an iterable of operations, as in {call}([op]), not {_named(ops)}")
    found = list(ops)
    for other in found:
        if not isinstance(other, Operation):
            raise TypeError(f"gatherio.{call} takes gatherio.Operations, not {_named(other)}{_instead(other, call)}")
    return set(found)


def _named(other: object) -> str:
    kind = type(other)
    module = "gatherio" if kind.__module__.startswith("gatherio.") else kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _instead(other: object, call: str) -> str:
    """The call that takes it, if any."""
    if isinstance(other, Future):
        return f": concurrent.futures.{call} takes it"
    if asyncio.isfuture(other) or asyncio.iscoroutine(other):
        return f": asyncio.{call} takes it; to await operations together there is asyncio.gather"
    if isinstance(other, (list, tuple, set, frozenset)) and all(isinstance(one, Operation) for one in other):
        return f": give the operations in one list, as in {call}([*first, *second])"
    return ""


def _by_queue(operations: Iterable[Operation]) -> dict[CompletionQueue, list[Operation]]:
    groups: dict[CompletionQueue, list[Operation]] = {}
    for operation in operations:
        groups.setdefault(operation._queue, []).append(operation)
    return groups


def _finished(operations: Iterable[Operation]) -> set[Operation]:
    """Those whose outcome is known by now."""
    for queue in {operation._queue for operation in operations}:
        queue._collect()
    return {operation for operation in operations if operation._outcome is not None}


def _wait_for_any(operations: Iterable[Operation], deadline: int | None) -> None:
    """Return when one of these has finished, or the time is up."""
    groups = _by_queue(operations)
    if len(groups) == 1:
        ((queue, waiting),) = groups.items()
        tickets = np.array([operation._ticket for operation in waiting], np.uint64)
        index = ffi.new("uint64_t *")
        while not any(operation._outcome for operation in waiting):
            code = lib.gio_operation_wait_any(
                queue._native, ffi.from_buffer("uint64_t[]", tickets), len(tickets), slice_ns(deadline), index
            )
            if code not in (0, lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                raise error(code, "waiting for operations")
            queue._collect()
            if is_over(deadline):
                return
        return
    with contextlib.ExitStack() as stack:
        event = stack.enter_context(new_event())
        for queue in groups:
            stack.enter_context(queue._listening(event))
        while True:
            lib.gio_event_clear(event)
            for queue in groups:
                queue._collect()
            if any(operation._outcome for group in groups.values() for operation in group) or is_over(deadline):
                return
            code = lib.gio_event_wait(event, slice_ns(deadline))
            if code not in (0, lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                raise error(code, "waiting for operations")


@contextlib.contextmanager
def new_event() -> Iterator[Any]:
    """An event of the core, freed at the end."""
    place = ffi.new("gio_event **")
    check(lib.gio_event_create(place), "making an event")
    try:
        yield place[0]
    finally:
        lib.gio_event_free(place[0])


def wait(ops: Iterable[Operation], timeout: float | None = None, return_when: str = ALL_COMPLETED) -> DoneAndNotDone:
    """Wait for several operations, of one queue or of several, as `concurrent.futures.wait` does.

    Parameters
    ----------
    ops : iterable of Operation
        Duplicates are looked at once.
    timeout : float, optional
        Seconds to wait at most.
    return_when : {"FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"}
        The constants of `concurrent.futures`.

    Returns
    -------
    (done, not_done) : named tuple of two sets of Operation

    Raises
    ------
    TypeError
        Something in `ops` is no Operation.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"invalid return condition: {return_when!r}")
    not_done, done = _checked(ops, "wait"), set[Operation]()
    deadline = deadline_ns(timeout)
    while True:
        newly = _finished(not_done)
        done |= newly
        not_done -= newly
        failed = any(operation._outcome[0] not in (0, lib.GIO_E_CANCELLED) for operation in newly if operation._outcome)
        if newly and (return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and failed)):
            break
        if not not_done or is_over(deadline):
            break
        if return_when == ALL_COMPLETED:  # nothing to look at before the last of them
            for operation in not_done:
                operation._wait(deadline)
        else:
            _wait_for_any(not_done, deadline)
    return DoneAndNotDone(done, not_done)


def as_completed(ops: Iterable[Operation], timeout: float | None = None) -> Iterator[Operation]:
    """Yield operations as they finish, each once, as `concurrent.futures.as_completed` does.

    Raises
    ------
    concurrent.futures.TimeoutError
        Not all of them finished within `timeout` seconds of the call.
    TypeError
        Something in `ops` is no Operation.
    """
    not_done = _checked(ops, "as_completed")
    total = len(not_done)
    deadline = deadline_ns(timeout)

    def completed() -> Iterator[Operation]:
        while not_done:
            newly = _finished(not_done)
            not_done.difference_update(newly)
            yield from newly
            if not newly:
                if is_over(deadline):
                    raise TimeoutError(f"{len(not_done)} (of {total}) operations unfinished")
                _wait_for_any(not_done, deadline)

    return completed()
