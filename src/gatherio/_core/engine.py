"""What is in flight, how it ends, who is told, and the one place where callbacks run.

An engine belongs to one queue of the core. Everything public is a handle on it and names it; it names none of them. The
core writes each completion into memory that the operation owns, so `done` reads memory, and whoever waits for one
operation fetches nothing. Of those that nobody waits for the core keeps the names, which `Engine.look` takes over: for
dropped operations, callbacks, asyncio and `CompletionQueue.get`.

Whoever sees that a completion is filled may call `Engine.finish`: it can be called again, by another thread or after an
exception that struck between any two steps (KeyboardInterrupt), and each watcher is told once. User code (callbacks,
finalisers of arrays) never runs under a lock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

from .._handle import members
from .._native import (
    SLICE_NS,
    ClosedAtExitError,
    check,
    end_with_the_interpreter,
    error,
    ffi,
    is_over,
    lib,
    owned,
    slice_ns,
)

PENDING: Final[int] = lib.GIO_PENDING

_LOG: Final = logging.getLogger("gatherio")
_BATCH: Final = 256  # names taken over in one call
LOOK_EVERY: Final = 256  # submissions between two looks at what nobody waits for,
LOOK_BEHIND: Final = 1 << 20  # and bytes of one behind which they are looked at at once, for they hold as much memory
_LOOK_S: Final = 0.02  # between two looks of a thread that nothing wakes
_NOTHING_YET: Final = (0, lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED, lib.GIO_E_CLOSED)


_COMPLETION: Final = ffi.typeof("gio_completion *")


def new_completion() -> Any:
    """Memory for one completion, not filled."""
    completion = ffi.new(_COMPLETION)
    completion.result = PENDING
    return completion


class Watcher(Protocol):
    """Who waits for an operation."""

    def finished(self, operation: Any) -> None:
        """Called under no lock by a thread that has learned that it has finished. To be told twice does it no harm."""


class InFlight:
    """What the engine knows of an operation; the rest is its subclass's.

    Attributes
    ----------
    _key : int
        Its name in the core; never used twice.
    _completion : gio_completion *
        Where the core writes how it has ended.
    _buffers : object
        What holds the memory that the kernel uses, until then.
    _watchers : list of Watcher, or None
        They stay until all of them have been told: an exception that strikes meanwhile leaves nobody waiting.
    _callbacks : deque of callable, or None
        Those that have not been called.
    _teller : int
        The thread that is calling them.
    _handed_on : bool
        Whether it has been put where `CompletionQueue.get` finds it.
    """

    __slots__ = (
        "__weakref__",
        "_buffers",
        "_callbacks",
        "_completion",
        "_engine",
        "_handed_on",
        "_key",
        "_teller",
        "_watchers",
    )

    _engine: Engine
    _key: int
    _completion: Any
    _buffers: object
    _watchers: list[Watcher] | None
    _callbacks: deque[Callable[[Any], object]] | None
    _teller: int
    _handed_on: bool

    def _note_failure(self) -> None:
        """The completion tells of a failure. May be called again."""
        raise NotImplementedError

    def _trouble(self, code: int, doing: str) -> Exception:
        """The exception for a code of the core that concerns this operation."""
        raise NotImplementedError


class _Room:
    """Memory that the core writes names of finished operations into."""

    __slots__ = ("count", "names", "position")

    def __init__(self) -> None:
        self.names = ffi.new("uint64_t[]", _BATCH)
        self.count = ffi.new("uint32_t *")
        self.position = ffi.new("uint64_t *")


class Engine:
    """The operations of one queue of the core.

    Parameters
    ----------
    place : gio_queue **
        It frees the queue when it goes.
    hands_out : bool
        Whether `take` is going to be asked for finished operations.
    """

    def __init__(self, place: Any, hands_out: bool) -> None:
        self._place = place
        self.native = place[0]
        self.hands_out = hands_out
        self.closed = False
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.keys = itertools.count(1)
        self.other_keys = itertools.count(1 << 62)  # of transfers that are no operations, and none of LOOK_EVERY
        self.inflight: dict[int, InFlight] = {}
        self.transfers: dict[int, object] = {}  # the memory of those that are waited for, and no operations
        weakref.finalize(self, _busy.pop, id(self.inflight), None).atexit = False
        _busy[id(self.inflight)] = self.inflight
        self.untold: OrderedDict[int, InFlight] = OrderedDict()  # finished, for `take`; nobody knows
        self.told: OrderedDict[int, weakref.ref[InFlight]] = OrderedDict()  # the same, where somebody knows
        self._tidy_at = _BATCH
        self._rooms: list[_Room] = []  # between one use and the next
        #: What tells event loops (loop.py), each in one of them.
        self.bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()
        self.callbacks = 0  # that wait for their operation
        self._attended = 0
        self._sleepers: list[Any] = []  # flags of those in `wait_to_take`
        self._attendant: threading.Thread | None = None
        _look_after_others()
        _turns.append(weakref.ref(self))
        _living.add(self)

    # -- submitting ---------------------------------------------------------------------------------------

    def look_at_submission(self) -> None:
        """Look now and then at what nobody waits for, so that dropped operations do not pile up."""
        if not self.callbacks:  # else its own thread looks, and calls
            self.look()

    def withdraw(self, operation: InFlight) -> None:
        """It has not been submitted, if the core has not given it a ticket."""
        if not operation._completion.ticket:
            self.inflight.pop(operation._key, None)
            operation._buffers = None

    # -- the end of an operation ----------------------------------------------------------------------------

    def finish(self, operation: InFlight, asked: bool = False) -> bool:
        """Its completion is filled: tell who watches, and let go of its memory. `asked`: the caller knows by itself.

        False: one of its callbacks asks for the result, and the others have to be called yet.
        """
        failure: BaseException | None = None
        if operation._completion.result < 0:
            operation._note_failure()
        if self.hands_out:
            self._hand_on(operation, asked)
        if operation._watchers:
            self._tell(operation)
        if operation._callbacks:
            if operation._teller == threading.get_ident():
                return False
            failure = self._call_back(operation, operation._callbacks)
        self.inflight.pop(operation._key, None)
        operation._buffers = None
        if failure is not None:
            raise failure
        return True

    def _tell(self, operation: InFlight) -> None:
        for watcher in list(operation._watchers or ()):
            watcher.finished(operation)
        operation._watchers = None  # who came meanwhile sees by himself that it has finished

    def _call_back(self, operation: InFlight, callbacks: deque[Callable[[Any], object]]) -> BaseException | None:
        """Call its callbacks, in the order in which they came. Gives what is to be raised behind that."""
        failure: BaseException | None = None
        self.mark_told(operation)
        try:
            operation._teller = threading.get_ident()
            # Not in a call of ours, behind which a signal could raise and lose what was taken.
            for function in iter(callbacks.popleft, None):
                self.callbacks -= 1  # a hint; see attendant_leaves
                try:
                    function(operation)
                except ClosedAtExitError:  # it submits one after the other for as long as it is let
                    pass
                except (Exception, asyncio.CancelledError):
                    _LOG.exception("exception calling callback for %r", operation)
                except BaseException as struck:  # the others are called all the same
                    failure = failure or struck
        except IndexError:  # that was the last one
            pass
        finally:
            operation._teller = 0
        return failure

    def wait(self, operation: InFlight, deadline: int | None) -> bool:
        """Wait until it has finished, and know of it. False: the deadline has come."""
        completion = operation._completion
        while completion.result == PENDING:
            timeout_ns = SLICE_NS if deadline is None else slice_ns(deadline)
            code = lib.gio_operation_wait(self.native, completion, timeout_ns)
            if code in (lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                if is_over(deadline) and completion.result == PENDING:
                    return False
            elif code and completion.result == PENDING:
                raise operation._trouble(code, "waiting for the")
        if operation._key in self.inflight:
            self.finish(operation, asked=True)
        elif operation._key in self.untold:
            self.mark_told(operation)
        return True

    def look(self, timeout_ns: int = 0, listener: Any = ffi.NULL, woken: Any = ffi.NULL) -> int:
        """Take over what has finished; with a time, wait for the first or for `woken`. Gives the core's code."""
        try:
            room = self._rooms.pop()
        except IndexError:
            room = _Room()
        while True:
            code = int(
                lib.gio_queue_peek(
                    self.native, timeout_ns, listener, woken, room.names, _BATCH, room.count, room.position
                )
            )
            found = room.count[0]
            over = True
            if found:
                inflight = self.inflight
                for key in ffi.unpack(room.names, found):
                    operation = inflight.get(key)
                    if operation is not None:
                        over &= self.finish(operation)
                if over:  # else they are told again
                    lib.gio_queue_seen(self.native, room.position[0])
            elif code not in _NOTHING_YET:
                raise error(code, "collecting completions")
            if found < _BATCH or not over:
                self._rooms.append(room)  # not after an exception: it may be in use
                return code
            timeout_ns = 0

    def look_after_dropped(self) -> None:
        # Callbacks have a thread of their own, and are not called in the middle of somebody's constructor.
        if self.inflight and not self.callbacks and not self.closed and self.pid == os.getpid():
            with suppress(OSError, ValueError, RuntimeError):
                self.look()

    # -- watching -------------------------------------------------------------------------------------------

    def watch(self, operation: InFlight, watcher: Watcher) -> None:
        """Have it told once, at once if the operation has finished."""
        if self.pid != os.getpid():
            raise operation._trouble(lib.GIO_E_FORKED, "watching the")
        with self.lock:
            watchers = operation._watchers
            if watchers is None:
                operation._watchers = [watcher]
            else:  # nobody looks at them any more, perhaps
                watchers.append(watcher)
        if operation._completion.result != PENDING:  # perhaps the others were told before this one was there
            watcher.finished(operation)
            self.finish(operation)

    def unwatch(self, operation: InFlight, watcher: Watcher) -> None:
        """It need not be told any more."""
        with self.lock, suppress(AttributeError, ValueError):
            operation._watchers.remove(watcher)  # type: ignore[union-attr]

    def add_callback(self, operation: InFlight, function: Callable[[Any], object]) -> None:
        """Call ``function(operation)`` once it has finished, in whichever thread learns of it."""
        if self.pid != os.getpid():
            raise operation._trouble(lib.GIO_E_FORKED, "watching the")
        with self.lock:
            if operation._callbacks is None:
                operation._callbacks = deque()
            operation._callbacks.append(function)
            self._count_callback()
        if operation._completion.result != PENDING:  # perhaps the others were called before this one was there
            self.finish(operation)

    def remove_callbacks(self, operation: InFlight, functions: list[Callable[[Any], object]]) -> int:
        """These very functions are not to be called any more. Gives the number of those that had not been."""
        removed = 0
        callbacks = operation._callbacks or deque()
        for function in functions:
            with suppress(ValueError):  # it was called meanwhile
                callbacks.remove(function)
                removed += 1
        self.callbacks -= removed
        return removed

    def _count_callback(self) -> None:
        """One more callback waits for its operation: a thread looks after them. Lock held."""
        self.callbacks += 1
        if self._attendant is None or not self._attendant.is_alive():
            self._attendant = threading.Thread(target=_attend, args=(weakref.ref(self),), daemon=True, name="gatherio")
            self._attendant.start()

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Have that thread at work meanwhile."""
        self._attended += 1
        try:
            with self.lock:
                self._count_callback()
            yield
        finally:
            self._attended -= 1
            self.callbacks -= 1

    def attendant_leaves(self) -> bool:
        """Whether the thread that calls callbacks may end, for there are none. Counts them anew."""
        with self.lock:
            self.callbacks = self._attended + sum(len(one._callbacks or ()) for one in list(self.inflight.values()))
            if not self.callbacks:
                self._attendant = None
            return not self.callbacks

    def listen(self, event: Any, attended: bool = False) -> Any:
        """Have the core set the event (a place) whenever an operation finishes, until what this gives goes."""
        listening = owned("gio_listening *", partial(lib.gio_listening_end, event))
        code = lib.gio_listening_begin(self.native, event[0], attended, listening)
        check(code, "listening to a completion queue")
        return listening

    def stop_watching(self) -> None:
        """It is closed: event loops have nothing to watch any more."""
        for loop in members(self.bridges):
            self.bridges[loop].close()

    # -- handing out ------------------------------------------------------------------------------------------

    def _hand_on(self, operation: InFlight, asked: bool) -> None:
        with self.lock:
            if operation._handed_on:
                return
            if asked:
                self._keep_told(operation)
            else:
                self.untold[operation._key] = operation
            operation._handed_on = True
        for woken in list(self._sleepers):  # the core has nothing to tell them, where this thread has seen the name
            lib.gio_queue_wake(self.native, woken)

    def _keep_told(self, operation: InFlight) -> None:
        """For `take`, as long as anybody holds the operation. Lock held."""
        told = self.told
        told[operation._key] = weakref.ref(operation)
        if len(told) >= self._tidy_at:
            for key in [key for key, reference in told.items() if reference() is None]:
                del told[key]
            self._tidy_at = 2 * len(told) + _BATCH

    def mark_told(self, operation: InFlight) -> None:
        """Somebody knows how it has ended: keep it for `take` only as long as anybody holds it."""
        if operation._key in self.untold:
            with self.lock:
                if operation._key in self.untold:
                    self._keep_told(operation)
                    self.untold.pop(operation._key, None)

    def wait_to_take(self, timeout_ns: int) -> None:
        """Wait until there is something for `take`."""
        woken = ffi.new("int32_t *")
        self._sleepers.append(woken)
        try:
            if not self.untold and not self.told:
                self.look(timeout_ns, woken=woken)
        finally:
            self._sleepers.remove(woken)

    def take(self, limit: int | None) -> list[Any]:
        """Finished operations, each once."""
        with self.lock:
            told = list(islice(self.told.items(), limit))
            held = ((key, reference()) for key, reference in told)
            found = {key: operation for key, operation in held if operation is not None}
            left = None if limit is None else limit - len(found)
            found.update(islice(self.untold.items(), left))
            for key, _ in told:  # last, so that an exception before loses none
                self.told.pop(key, None)
            for key in found:
                self.untold.pop(key, None)
        return list(found.values())


def wait_for_any(operations: list[Any], deadline: int | None) -> None:
    """Wait once until some operation of one engine's has finished, or the deadline has come."""
    completions = [operation._completion for operation in operations]
    if any([completion.result != PENDING for completion in completions]):
        return
    places = ffi.new("gio_completion *[]", completions)
    while True:
        code = lib.gio_operation_wait_any(operations[0]._engine.native, places, len(completions), slice_ns(deadline))
        if code == 0 or (code in _NOTHING_YET and is_over(deadline)):
            return
        if code not in _NOTHING_YET:
            raise operations[0]._trouble(code, "waiting for the")


class Waiter:
    """A thread that waits for some operation of many, whichever finishes first. Used in a ``with`` block.

    Each operation costs it one step when it begins to wait and one when the operation finishes.
    """

    def __init__(self, operations: Iterable[InFlight]) -> None:
        self._found: dict[InFlight, None] = {}
        self._given: set[InFlight] = set()
        self._woken = ffi.new("int32_t *")
        self._thread = threading.get_ident()
        self._operations = list(operations)
        self._engines = list({one._engine: None for one in self._operations})
        self._event = new_event() if len(self._engines) > 1 else None
        self._listening: list[Any] = []

    def __enter__(self) -> Waiter:
        try:
            if self._event is not None:
                for engine in self._engines:
                    self._listening.append(engine.listen(self._event))
            for operation in self._operations:
                operation._engine.watch(operation, self)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for operation in self._operations:
            if operation._watchers:
                operation._engine.unwatch(operation, self)
        for listening in self._listening:
            ffi.release(listening)

    def finished(self, operation: InFlight) -> None:
        self._found[operation] = None
        if self._thread == threading.get_ident():
            return
        if self._event is None:  # it may be asleep
            lib.gio_queue_wake(operation._engine.native, self._woken)
        else:
            lib.gio_event_set(self._event[0])

    def wait(self, deadline: int | None) -> list[Any]:
        """Wait for the next ones and return them, each once; empty when the deadline has come."""
        self._thread = threading.get_ident()
        while True:
            told = list(self._found)
            found = [one for one in told if one not in self._given]
            self._given.update(found)
            for operation in told:  # also those that were told twice
                self._found.pop(operation, None)
            if found:
                return found
            code = self._look(deadline)
            if code == lib.GIO_E_TIMEOUT or code == lib.GIO_E_CLOSED:  # an exception may have kept us from being told
                for operation in self._operations:
                    if operation._completion.result != PENDING and operation not in self._given:
                        self._found[operation] = None
            elif code not in _NOTHING_YET:
                raise error(code, "waiting for operations")
            if not self._found and (code == lib.GIO_E_CLOSED or is_over(deadline)):
                return []

    def _look(self, deadline: int | None) -> int:
        """Sleep until something has happened, and look what."""
        if self._event is None:
            self._woken[0] = 0
            return 0 if self._found else self._engines[0].look(slice_ns(deadline), woken=self._woken)
        lib.gio_event_clear(self._event[0])
        for engine in self._engines:
            engine.look()
        return 0 if self._found else int(lib.gio_event_wait(self._event[0], slice_ns(deadline)))


def new_event() -> Any:
    """A place with an event of the core, which frees it when it goes."""
    place = owned("gio_event **", lib.gio_event_let_go)
    check(lib.gio_event_create(place), "making an event")
    return place


# --- the thread that calls callbacks ---


def _attend(reference: weakref.ref[Engine]) -> None:
    """Body of the thread that calls callbacks. It ends when none is waiting, once a second."""
    engine = reference()
    while engine is not None and not engine.closed:
        try:
            event = new_event()
            listening = engine.listen(event)
            try:
                _call_callbacks(engine, event[0])
            finally:
                ffi.release(listening)
            return
        except (ValueError, RuntimeError):  # closed just now
            return
        except OSError:  # there is no descriptor to be had at the moment: look without being woken
            time.sleep(_LOOK_S)
            _look(engine)
            if engine.attendant_leaves():
                return


def _call_callbacks(engine: Engine, event: Any) -> None:
    counted = time.monotonic()
    while not engine.closed:
        lib.gio_event_wait(event, SLICE_NS)
        lib.gio_event_clear(event)
        _look(engine)
        if time.monotonic() - counted > 1:
            if engine.attendant_leaves():
                return
            counted = time.monotonic()


def _look(engine: Engine) -> None:
    """Find what has finished. Whatever a callback raises ends no thread in which others wait for theirs."""
    try:
        engine.look()
    except BaseException as failure:
        end_with_the_interpreter()
        if not engine.closed:
            _LOG.exception("%s in a callback", type(failure).__name__)


# --- all engines ---

# What is in flight holds its queue, file and arrays, and this holds what is in flight: the garbage collector must not
# take all of them together while the kernel still uses the arrays.
_busy: dict[int, dict[int, InFlight]] = {}
_living: weakref.WeakSet[Engine] = weakref.WeakSet()
_turns: deque[weakref.ref[Engine]] = deque()


def _look_after_others() -> None:
    """Give two engines their turn: one whose files were dropped with work in flight has nobody else."""
    for _ in range(2):
        try:
            reference = _turns.popleft()
        except IndexError:
            return
        engine = reference()
        if engine is not None and not engine.closed:
            _turns.append(reference)
            engine.look_after_dropped()


def _after_fork_in_child() -> None:
    for engine in members(_living):
        engine.lock = threading.RLock()  # another thread may have had it
        for operation in list(engine.inflight.values()):
            operation._buffers = None  # it is the parent's, and goes on with the parent's memory


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
