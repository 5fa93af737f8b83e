"""One read, write or other call under way, and waiting for several of them.

An operation has the method names of `concurrent.futures.Future` and can be awaited in asyncio. It goes on by itself:
nobody has to wait for it, and nothing that Python does meanwhile holds it up. Until its outcome is known, the queue
holds it and it holds its arrays, whatever the caller drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .._handle import Handle
from .._native import check, deadline_ns, error, ffi, lib
from ..errors import CancelledError, TimeoutError
from .engine import PENDING, Engine, InFlight, Waiter, wait_for_any
from .futures import NO_LOCK, Waiters, equal, for_its_thread
from .loop import Bridge, no_loop

if TYPE_CHECKING:
    from .file import File

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "Operation", "as_completed", "wait"]

_COMPLETION: Final = ffi.typeof("gio_completion *")
_CANCELLED: Final[int] = -lib.GIO_E_CANCELLED


class Operation(InFlight, Handle):
    """A read, a write, or a call that concerns the whole file, that has been submitted.

    Made by the methods of `File`, never directly.

    Attributes
    ----------
    file : File
    offset : int or ndarray of uint64
        Bytes from the start of the file; of `File.read_many` and `File.write_many` one for each array. Of
        `File.truncate_async` the new length, of `File.preallocate_async` and `File.flush_async` 0.
    nbytes : int
        Bytes that it is to move; of `File.preallocate_async` those that it is to reserve, of the others 0.
    tag : object
        What was given to the call that submitted it.
    """

    __slots__ = ("_file", "_is_known", "_nbytes", "_offset", "_writes", "tag")

    _instead = "wait for it in the process that has submitted it"

    def __init__(
        self,
        file: File,
        engine: Engine,
        writes: bool,
        offset: int | npt.NDArray[np.uint64],
        nbytes: int,
        buffers: object,
        tag: object = None,
    ) -> None:
        self._engine = engine
        self._key = next(engine.keys)
        self._completion = completion = ffi.new(_COMPLETION)  # new_completion, without the call
        completion.result = PENDING
        self._buffers = buffers
        self._watchers = None
        self._callbacks = None
        self._teller = 0
        self._handed_on = False
        self._file = file
        self._writes = writes
        self._offset = offset
        self._nbytes = nbytes
        self._is_known = False  # that it has failed
        self.tag = tag

    @property
    def file(self) -> File:
        return self._file

    @property
    def offset(self) -> int | npt.NDArray[np.uint64]:
        return self._offset

    @property
    def nbytes(self) -> int:
        return self._nbytes

    # -- waiting ----------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the outcome is known. Does not wait."""
        return self._engine.wait(self, 0)

    def result(self, timeout: float | None = None) -> int:
        """Wait for the operation and return how many bytes it transferred; 0 of one that transfers none.

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
        if not self._engine.wait(self, None if timeout is None else deadline_ns(timeout)):
            raise TimeoutError(f"not finished within {timeout} s: {self._doing()}")
        transferred: int = self._completion.result
        if transferred >= 0:
            return transferred
        raise self._exception()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the operation and return its exception, or None. Raises as `result` for cancelling and time."""
        if not self._engine.wait(self, deadline_ns(timeout)):
            raise TimeoutError(f"not finished within {timeout} s: {self._doing()}")
        if self._completion.result >= 0:
            return None
        failure = self._exception()
        if isinstance(failure, CancelledError):
            raise failure
        return failure

    def _note_failure(self) -> None:
        if self._writes and self._has_failed():
            with self._engine.lock:
                if not self._is_known:
                    self._file._untold[self._key] = self

    def _has_failed(self) -> bool:
        return self._completion.result < 0 and bool(self._completion.result != _CANCELLED)

    def _trouble(self, code: int, doing: str) -> Exception:
        return error(code, f"{doing} {self._doing()}", self._file.name)

    def _doing(self) -> str:
        if isinstance(self._offset, int):
            where = str(self._offset)
        else:
            where = f"{self._offset[0] if self._offset.size else 0} and {max(0, self._offset.size - 1)} others"
        return f"{'write' if self._writes else 'read'} of {self._nbytes} bytes at offset {where}"

    def _exception(self) -> BaseException:
        """The exception for how it has ended; from here on somebody has been told."""
        failure = self._failure()
        with self._engine.lock:  # last, so that an exception in between leaves it untold
            self._is_known = True
            self._file._untold.pop(self._key, None)
        return failure

    def _failure(self) -> BaseException:
        code, in_place = -int(self._completion.result), int(self._completion.in_place)
        doing = self._doing() + self._how_far(in_place)
        if code == lib.GIO_E_CANCELLED:
            return CancelledError(f"cancelled: {doing}")
        failure = error(code, doing, self._file.name)
        failure.bytes_in_place = in_place  # type: ignore[attr-defined]
        return failure

    def _how_far(self, in_place: int) -> str:
        return f"; the first {in_place} bytes are in place"

    # -- cancelling and telling others -------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ask for the operation to be dropped. False if it has finished already, in another way than by `cancel`.

        True promises nothing: the outcome is the full result or CancelledError, and until it is known the arrays are
        the kernel's.
        """
        if self._completion.result != PENDING:
            return self.cancelled()
        code = lib.gio_operation_cancel(self._engine.native, self._completion)
        if code != lib.GIO_E_GONE:
            check(code, f"cancelling the {self._doing()}", self._file.name)
        return bool(code == 0)

    def cancelled(self) -> bool:
        """Whether it ended without having moved everything because of `cancel`."""
        return self.done() and bool(self._completion.result == _CANCELLED)

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
        self._engine.add_callback(self, for_its_thread(fn))

    def remove_done_callback(self, fn: Callable[[Operation], object]) -> int:
        """Take back each callback that equals `fn` and has not been called. Gives their number."""
        return self._engine.remove_callbacks(self, equal(list(self._callbacks or ()), fn))

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
        if self._completion.result == PENDING:
            yield from Bridge.of(self._engine, loop).wait_for(self, loop)
        return self.result()

    def __repr__(self) -> str:
        result = self._completion.result
        state = "running" if result == PENDING else "finished" if result >= 0 else f"failed with {-result}"
        state = "cancelled" if result == _CANCELLED else state
        if asyncio._get_running_loop() is not None:  # create_task and wrap_future say no more than what they were given
            state += "; asyncio.ensure_future(op) makes a task of it"
        return f"<gatherio.Operation: {self._doing()} of {self._file.name!r}, {state}>"


class Call(Operation):
    """One that concerns the file as a whole and moves no bytes. `result` gives 0.

    Parameters
    ----------
    call : int
        One of GIO_CALL_*.
    n : int
        Bytes; of a flush 0.
    """

    __slots__ = ("_call",)

    def __init__(self, file: File, engine: Engine, call: int, n: int, tag: object = None) -> None:
        where = (n, 0) if call == lib.GIO_CALL_RESIZE else (0, n)
        # `close` tells of failed writes that nobody has asked about, and of these; that space could not be reserved
        # loses nothing, and a write that finds none tells.
        writes = call != lib.GIO_CALL_RESERVE
        super().__init__(file, engine, writes, *where, None, tag)
        self._call = call

    @property
    def is_flush(self) -> bool:
        return bool(self._call == lib.GIO_CALL_FLUSH)

    def _doing(self) -> str:
        if self.is_flush:
            return "flushing to stable storage"
        if self._call == lib.GIO_CALL_RESERVE:
            return f"reserving {self._nbytes} bytes"
        return f"setting the length to {self._offset} bytes"

    def _how_far(self, in_place: int) -> str:
        return ""


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
    operations = _checked(ops, "wait")
    deadline = deadline_ns(timeout)
    if return_when == ALL_COMPLETED:
        _wait_for_all(operations, deadline)
    elif return_when == FIRST_COMPLETED and len({one._engine for one in operations}) == 1:
        wait_for_any(list(operations), deadline)
    elif operations:
        _wait_for_some(operations, deadline, return_when)
    done = {one for one in operations if one._completion.result != PENDING and one._engine.wait(one, 0)}
    return DoneAndNotDone(done, operations - done)


def _wait_for_all(operations: Iterable[Operation], deadline: int | None) -> None:
    for operation in operations:  # there is nothing to look at before the last of them
        if not operation._engine.wait(operation, deadline):
            return


def _wait_for_some(operations: set[Operation], deadline: int | None, return_when: str) -> None:
    """Until one has finished, or has failed, or all have finished."""
    left = len(operations)
    with Waiter(operations) as waiter:
        while left:
            found = waiter.wait(deadline)
            left -= len(found)
            if not found or return_when == FIRST_COMPLETED:
                return
            if any(operation._has_failed() for operation in found):
                return


def as_completed(ops: Iterable[Operation], timeout: float | None = None) -> Iterator[Operation]:
    """Yield operations as they finish, each once, as `concurrent.futures.as_completed` does.

    Raises
    ------
    concurrent.futures.TimeoutError
        Not all of them finished within `timeout` seconds of the call.
    TypeError
        Something in `ops` is no Operation.
    """
    operations = _checked(ops, "as_completed")
    return _completed(operations, deadline_ns(timeout))


def _completed(operations: set[Operation], deadline: int | None) -> Iterator[Operation]:
    left = total = len(operations)
    with Waiter(operations) as waiter:
        while left:
            found = waiter.wait(deadline)
            if not found:
                raise TimeoutError(f"{left} (of {total}) operations unfinished")
            left -= len(found)
            for operation in found:
                operation._engine.mark_told(operation)
                yield operation
