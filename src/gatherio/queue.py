"""Completion queues: where operations are carried out, and where their ends are found."""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import logging
import operator
import os
import struct
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from ._handle import Handle, members
from ._native import (
    SLICE_NS,
    begin_to_end,
    check,
    closed,
    deadline_ns,
    describe,
    end_with_the_interpreter,
    error,
    ffi,
    is_over,
    lib,
    os_error,
    slice_ns,
)
from .pages import allocation_of
from .registration import Registration
from .segments import Array, checked

if TYPE_CHECKING:
    import asyncio

    from .asyncio_bridge import Bridge
    from .file import File
    from .operation import Operation

__all__ = ["BACKENDS", "DEFAULT_DEPTH", "DEFAULT_REQUEST_SIZE", "CompletionQueue", "default_queue"]

#: Requests in flight at most. Small random reads gain up to about this many; large transfers are bounded in bytes.
DEFAULT_DEPTH: Final = 128
#: Bytes in one request at most. One larger gains nothing on the disks measured (benchmarks/).
DEFAULT_REQUEST_SIZE: Final = 4 * 1024 * 1024
#: A ring of this many entries is more than any disk asks for; the kernel's own limit is 32768.
MAX_DEPTH: Final = 4096

BACKENDS: Final[tuple[str, ...]] = tuple(
    ffi.string(name).decode() for name in itertools.takewhile(bool, map(lib.gio_backend_name, itertools.count()))
)

_OUTCOME: Final = struct.Struct("=QQQQii")  # gio_outcome: key, ticket, transferred, in_place, code, reserved
_NOTHING_YET: Final = (0, lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED, lib.GIO_E_CLOSED)

_LOG: Final = logging.getLogger("gatherio")
_BATCH: Final = 256  # outcomes fetched in one call
_TRANSFERRED_MAX: Final = 4096  # allocations that are remembered
#: A quarter of the memory, because what is registered cannot be swapped out, and not all of the kernel's table, which
#: has a place for each GiB.
_KEPT_BYTES_MAX: int = 0
if sys.platform != "win32":
    _KEPT_BYTES_MAX = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4, 64 << 30)
_LOOK_S: Final = 0.02  # between two looks of a thread that nothing wakes
_SWEEP_BYTES: Final = 1 << 20  # operations this large are swept at the next submission, not by the hundred


_MEMLOCK: Final = (
    "the limit of locked memory (memlock) is used up; raise it: ulimit -l, LimitMEMLOCK= or docker --ulimit"
)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _cure(code: int) -> str:
    """What makes io_uring available when setting it up failed with `code`."""
    disabled = _read("/proc/sys/kernel/io_uring_disabled")
    if code == lib.GIO_E_TOO_OLD:
        return "run Linux 5.11 or later"
    if code == errno.ENOSYS:
        return "run Linux 5.11 or later, built with CONFIG_IO_URING, in a sandbox that passes the call on"
    if code == errno.EPERM and disabled in ("1", "2"):
        return f"the sysctl kernel.io_uring_disabled is {disabled}; as root: sysctl kernel.io_uring_disabled=0"
    if code in (errno.EPERM, errno.EACCES):
        return (
            "the container's seccomp profile (Docker's default) or a security module forbids it; allow io_uring_setup "
            "and io_uring_enter, with Docker: --security-opt seccomp=PROFILE.json"
        )
    if code == errno.ENOMEM:
        return _MEMLOCK
    return "see io_uring_setup(2)"


def try_backend(name: str, depth: int, request_size: int) -> tuple[Any, int]:
    """Open a queue of the core: (queue, 0), or (None, code)."""
    place = ffi.new("gio_queue **")
    code = lib.gio_queue_open(name.encode(), depth, request_size, place)
    return (None, code) if code else (ffi.gc(place[0], lib.gio_queue_free), 0)


def why_not(name: str, code: int) -> str:
    """Why a backend cannot be had, and what to do about it."""
    cure = f"; {_cure(code)}" if name == "uring" else ""
    return f"{name} cannot be had: {describe(code)}{cure}"


_PRAISE: Final = {
    "uring": "io_uring: the kernel carries requests on by itself",
    "threads": "threads: preadv2 and pwritev2, or preadv and pwritev where those are refused, from a small pool",
    "iocp": "iocp: overlapped calls and a completion port",
    "sync": "sync: each transfer is done when it is submitted",
}


def _open_native(backend: str | None, depth: int, request_size: int) -> tuple[Any, str, str]:
    if backend is not None:
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; this system has {', '.join(BACKENDS)}")
        native, code = try_backend(backend, depth, request_size)
        if native is None:
            raise os_error(code, why_not(backend, code))
        return native, backend, f"asked for by name; {_PRAISE[backend]}"
    failures: list[str] = []
    for name in BACKENDS:
        native, code = try_backend(name, depth, request_size)
        if native is not None:
            return native, name, "; ".join([*failures, _PRAISE[name]])
        failures.append(why_not(name, code))
    raise os_error(code, "; ".join(failures))


class _Room:
    """Memory that the core writes outcomes into, and a view to read them by."""

    __slots__ = ("count", "first", "rows", "view")

    def __init__(self) -> None:
        self.rows = ffi.new("gio_outcome[]", _BATCH)
        self.first = self.rows[0]
        self.count = ffi.new("uint32_t *")
        self.view = memoryview(ffi.buffer(self.rows))


class CompletionQueue(Handle):
    """An io_uring, a completion port or a pool of threads, with the operations that are under way in it.

    Parameters
    ----------
    depth : int
        Requests in flight at most, 1 to 4096. Operations beyond that wait inside the queue and start by themselves.
    backend : {"uring", "threads", "iocp", "sync"}, optional
        None takes the best that works here. A name gives that one or OSError. Linux has "uring", "threads" and
        "sync", Windows "iocp" and "sync".
    request_size : int
        Bytes in one request at most; rounded up to whole pages. Large operations are cut into requests of this size.

    Attributes
    ----------
    depth : int
    backend : str
    reason : str
        Why this backend, and what would give a better one.

    Raises
    ------
    OSError
        The backend asked for cannot be had; the text says why, and what to do.
    ValueError
        A depth or request size out of range, or an unknown backend.
    """

    _instead = "make one for each process"

    def __init__(
        self,
        depth: int = DEFAULT_DEPTH,
        *,
        backend: str | None = None,
        request_size: int = DEFAULT_REQUEST_SIZE,
    ) -> None:
        end_with_the_interpreter()  # nobody would wait for what goes through a new queue
        depth, request_size = operator.index(depth), operator.index(request_size)
        if not 1 <= depth <= MAX_DEPTH:
            raise ValueError(f"depth is 1 to {MAX_DEPTH} requests, not {depth}")
        if not 1 <= request_size < 2**40:
            raise ValueError(f"request_size is a positive number of bytes, not {request_size}")
        self.depth = depth
        self._native, self.backend, self.reason = _open_native(backend, depth, request_size)
        self._closed = False
        self._hands_out = True
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._keys = itertools.count(1)
        self._inflight: dict[int, Operation] = {}
        _busy[id(self._inflight)] = self._inflight
        weakref.finalize(self, _busy.pop, id(self._inflight)).atexit = False
        self._sweep_at = _BATCH
        # Ordered, for a plain dict walks over all that were taken from its front to find the first one.
        self._ready: OrderedDict[int, Operation] = OrderedDict()  # finished, not yet handed out
        self._told: OrderedDict[int, weakref.ref[Operation]] = OrderedDict()  # the same, whose outcome was asked for
        self._tidy_at = _BATCH
        self._rooms: list[_Room] = []  # between one use and the next
        self._files: weakref.WeakSet[File] = weakref.WeakSet()
        # No WeakSet: it has a function of Python's called when a registration goes, and a signal may raise in that.
        self._registrations: list[weakref.ref[Registration]] = []
        self._transferred: dict[int, int] = {}  # bytes, by the serial of an allocation that may be worth registering
        self._bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bridge] = weakref.WeakKeyDictionary()
        self._watched = 0  # callbacks that wait for their operation
        self._attendant: threading.Thread | None = None
        for queue in members(_living):  # one that was dropped with work in flight has nobody else to look after it
            queue._sweep_dropped()
        _living.add(self)

    # -- for operations and files -------------------------------------------------------------------------

    def _room(self) -> _Room:
        """Room for outcomes. Back to `_rooms` with it, but not after an exception: the room may be in use."""
        try:
            return self._rooms.pop()
        except IndexError:
            return _Room()

    def _note(self, room: _Room, count: int, asked: Operation | None = None) -> None:
        """Take over outcomes from the core; `asked` is the operation that somebody waits for, if any.

        In this order, so that an exception between any two steps (KeyboardInterrupt) loses nothing: the core tells an
        outcome again until it is released, and to be told twice does no harm until the operation is let go of.
        """
        for key, _, transferred, in_place, code, _ in _OUTCOME.iter_unpack(room.view[: count * _OUTCOME.size]):
            with self._lock:
                operation = self._inflight.get(key)
                if operation is None:
                    continue
                if operation._outcome is None and self._hands_out:
                    if operation is asked:
                        self._keep_told(operation)
                    else:
                        self._ready[key] = operation
                buffers = operation._finish(code, transferred, in_place)
            del buffers  # here, where no lock is held
            if operation._watchers is not None:
                operation._call_watchers()
            self._inflight.pop(key, None)
        lib.gio_queue_release(self._native, room.rows, count)

    def _collect(self, listener: Any = ffi.NULL, timeout_ns: int = 0) -> int:
        """Take over what has finished; waits for the first, if there is a time. Gives the core's code."""
        room = self._room()
        while True:
            code = int(lib.gio_queue_collect(self._native, timeout_ns, listener, room.rows, _BATCH, room.count))
            found = room.count[0]
            if found:
                self._note(room, found)
            elif code not in _NOTHING_YET:
                raise error(code, "collecting completions")
            if found < _BATCH:
                self._rooms.append(room)
                return code
            timeout_ns = 0

    def _keep_told(self, operation: Operation) -> None:
        """For `get`, as long as anybody holds the operation. Lock held."""
        told = self._told
        told[operation._key] = weakref.ref(operation)
        if len(told) >= self._tidy_at:
            for key in [key for key, reference in told.items() if reference() is None]:
                del told[key]
            self._tidy_at = 2 * len(told) + _BATCH

    def _mark_told(self, operation: Operation) -> None:
        """Somebody knows the outcome: keep the operation for `get` only as long as anybody holds it."""
        if operation._key in self._ready:
            with self._lock:
                if self._ready.pop(operation._key, None) is not None:
                    self._keep_told(operation)

    def _sweep(self, nbytes: int) -> None:
        """Let go of what finished and nobody asked for, now and then, so that dropped operations do not pile up."""
        if self._watched:
            return  # it would call callbacks in the middle of a submission; their own thread is at work
        if nbytes >= _SWEEP_BYTES or len(self._inflight) >= self._sweep_at:
            self._collect()
            self._sweep_at = len(self._inflight) + _BATCH

    def _sweep_dropped(self) -> None:
        # Callbacks have a thread of their own, and are not called in the middle of somebody's constructor.
        if self._inflight and not self._watched and not self._closed and self._pid == os.getpid():
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._collect()

    @contextlib.contextmanager
    def _listening(self, event: Any) -> Iterator[None]:
        check(lib.gio_queue_listen(self._native, event, 0), "listening to a completion queue")
        try:
            yield
        finally:
            lib.gio_queue_unlisten(self._native, event)

    def _attend(self) -> None:
        """See to it that a thread calls the callbacks of operations that nobody waits for. Lock held."""
        if self._attendant is None or not self._attendant.is_alive():
            self._attendant = threading.Thread(target=_attend, args=(weakref.ref(self),), daemon=True, name="gatherio")
            self._attendant.start()

    @contextlib.contextmanager
    def _attended(self) -> Iterator[None]:
        """Have that thread at work meanwhile."""
        with self._lock:
            self._watched += 1
            self._attend()
        try:
            yield
        finally:
            with self._lock:
                self._watched -= 1

    # -- for users ----------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None, max: int | None = None) -> list[Operation]:
        """Wait for operations to finish and return them.

        Of the files that were opened with ``queue=`` this queue, each operation is handed out once, by `get` alone;
        one that nobody holds any more and whose outcome has been asked for is not kept.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the first one; None waits as long as it takes, 0 does not wait.
        max : int, optional
            Return at most this many; the others stay for the next call.

        Returns
        -------
        list of Operation
            Empty when the time is up.

        Raises
        ------
        ValueError
            The queue is closed and everything has been handed out, or `max` is not positive.

        Notes
        -----
        What GetQueuedCompletionStatusEx does on Windows and io_uring_enter with IORING_ENTER_GETEVENTS on Linux.
        """
        max = None if max is None else operator.index(max)
        if max is not None and max < 1:
            raise ValueError(f"max is a positive number of operations, not {max}")
        deadline = deadline_ns(timeout)
        while True:
            is_empty = self._closed and not self._inflight
            waits = not (self._ready or self._told or is_empty)
            self._collect(timeout_ns=slice_ns(deadline) if waits else 0)
            found = self._take_finished(max)
            if found:
                return found
            if is_empty:
                raise closed("the completion queue is closed, and nothing is left in it")
            if is_over(deadline):
                return []

    def _take_finished(self, limit: int | None) -> list[Operation]:
        found: list[Operation] = []
        with self._lock:
            while self._told and (limit is None or len(found) < limit):
                operation = self._told.popitem(last=False)[1]()
                if operation is not None:
                    found.append(operation)
            while self._ready and (limit is None or len(found) < limit):
                found.append(self._ready.popitem(last=False)[1])
        return found

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Hand over what is submitted in this ``with`` block several operations at a time, for fewer system calls.

        For many small operations: with dozens in flight, where a system call and a notification of the device for each
        cost more than the transfer does. Each has its own result all the same. Eight at most wait for each other; what
        is left is handed over at the end of the block, when anybody looks for results, and else after a tenth of a
        second. While somebody waits already, or in asyncio, nothing is held back.

        Where all results are wanted together, `File.read_many` and `File.write_many` cost less still.

        Examples
        --------
        >>> with queue.batch():
        ...     for operation in queue.get():
        ...         operations.add(file.read_at(buffer, next(offsets)))

        Notes
        -----
        io_uring_enter(2) takes any number of requests. On Windows each is a call of its own, and this does nothing.
        """
        begun = ffi.gc(ffi.new("gio_batch *"), lib.gio_batch_end)  # there beforehand, whenever Ctrl-C comes
        check(lib.gio_queue_batch(self._native, begun), "beginning a batch")
        try:
            yield
        finally:
            ffi.release(begun)

    def register(self, array: Array) -> Registration:
        """Register an array's memory, for arrays that are transferred again and again through this queue.

        The kernel looks up and pins the pages of what it transfers, each time anew. Registered pages are pinned once:
        many separate pages then cost about half as much CPU time, and large transfers next to nothing. Transfers find
        out by themselves; nothing else changes.

        Parameters
        ----------
        array : ndarray
            C-contiguous, of any shape and dtype. Until the registration ends its pages stay in memory, and count
            against the limit of locked memory (memlock). What they belong to (a bytearray, an mmap, a SharedMemory)
            cannot be resized or closed meanwhile, and raises BufferError. Do not resize an array of numpy's own with
            ``refcheck=False``, and do not have pages replaced (madvise(2) with MADV_DONTNEED): the kernel would go on
            using the old ones.

        Returns
        -------
        Registration
            Keep it as long as it is to last, or use it in a ``with`` block.

        Raises
        ------
        OSError
            The backend has no such thing (only "uring" has), the kernel is older than Linux 5.19, the limit of locked
            memory is reached, or the memory cannot be pinned (a file mapping).
        ValueError
            The queue is closed, the array is empty or not contiguous, or its memory has gone.

        Notes
        -----
        IORING_REGISTER_BUFFERS2 and IORING_OP_READ_FIXED; for many separate pages IORING_OP_READV_FIXED (Linux 6.15).
        """
        array = checked(array)
        if array.nbytes == 0:
            raise ValueError("an empty array has no memory to be registered")
        registration = Registration(self, array)
        code = registration._code
        if code:
            registration.close()  # no traceback is to keep the memory
            cure = f"; {_MEMLOCK}" if code == errno.ENOMEM else ""
            raise error(code, f"registering {array.nbytes} bytes with the backend {self.backend!r}{cure}")
        with self._lock:
            self._registrations = [other for other in self._registrations if other() is not None]
            self._registrations.append(weakref.ref(registration))
        return registration

    def _keep_registered(self, array: Array, nbytes: int) -> bool:
        """Register an allocation of ours once as much has been transferred as it holds. Whether it is registered.

        It stays so until it is freed, or the process forks.
        """
        allocation = allocation_of(array)
        if allocation is None:
            return False
        transferred = self._transferred.get(allocation.serial, 0)
        if transferred < allocation.length:
            if len(self._transferred) >= _TRANSFERRED_MAX:
                self._transferred.clear()
            self._transferred[allocation.serial] = transferred + nbytes
            return False
        address = ffi.cast("void *", allocation.ctypes.data)
        return bool(lib.gio_queue_keep(self._native, address, allocation.nbytes, _KEPT_BYTES_MAX) == 0)

    def stats(self) -> dict[str, int]:
        """Count what the queue has done since it was opened.

        Returns
        -------
        dict
            ``operations`` submitted and ``finished``; requests by call: ``reads``, ``writes`` (one run of memory each),
            ``scatters``, ``gathers`` (several); of these ``registered`` (see `register`), ``staged``, ``ragged``,
            ``resumed`` after a short transfer,
            ``retried``, and ``handed_over`` to a thread of the queue because the system could have kept the caller
            waiting (Windows); ``submits`` and ``sleeps``, system calls; ``pumped``, sleeps of the queue's own thread;
            ``bytes_read``, ``bytes_written``.
        """
        stats = ffi.new("gio_queue_stats *")
        lib.gio_queue_read_stats(self._native, stats)
        return {name: getattr(stats, name) for name, _ in ffi.typeof("gio_queue_stats").fields}

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def close(self) -> None:
        """Wait for what is in flight, then give everything back to the system. Twice is fine.

        Files of this queue cannot be used any more, except to be closed.
        """
        if self._closed and not self._inflight:
            return
        self._closed = True
        if self._pid != os.getpid():
            return
        while True:
            code = lib.gio_queue_close(self._native, SLICE_NS)
            if code not in (lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                break
        self._collect()
        for reference in self._registrations:
            registration = reference()
            if registration is not None:
                registration.close()  # it has ended: its memory need not stay
        for loop in members(self._bridges):
            self._bridges[loop].close()
        check(code, "closing a completion queue")

    def __enter__(self) -> CompletionQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._inflight)} operations in flight"
        return f"<gatherio.CompletionQueue: {self.backend}, depth {self.depth}, {state}>"


def _attend(reference: weakref.ref[CompletionQueue]) -> None:
    """Body of the thread that calls callbacks. It ends when none has been waiting for a second."""
    from .operation import new_event

    queue = reference()
    while queue is not None and not queue._closed:
        try:
            with new_event() as event, queue._listening(event):
                _call_callbacks(queue, event)
            return
        except (ValueError, RuntimeError):  # closed just now
            return
        except OSError:  # there is no descriptor to be had at the moment: look without being woken
            time.sleep(_LOOK_S)
            _look(queue)


def _call_callbacks(queue: CompletionQueue, event: Any) -> None:
    idle_since = time.monotonic()
    while not queue._closed:
        lib.gio_event_wait(event, SLICE_NS)
        lib.gio_event_clear(event)
        _look(queue)
        if queue._watched:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > 1:
            with queue._lock:
                if not queue._watched:
                    queue._attendant = None
                    return


def _look(queue: CompletionQueue) -> None:
    """Find what has finished. Whatever a callback raises ends no thread in which others wait for theirs."""
    try:
        queue._collect()
    except BaseException as failure:
        end_with_the_interpreter()
        if not queue._closed:
            _LOG.exception("%s in a callback", type(failure).__name__)


# What is in flight holds its queue, file and arrays, and this holds what is in flight: the garbage collector must not
# take all of them together while the kernel still uses the arrays.
_busy: dict[int, dict[int, Operation]] = {}
_living: weakref.WeakSet[CompletionQueue] = weakref.WeakSet()
_defaults: dict[tuple[int, int], CompletionQueue] = {}  # by depth and request size: a tuned device has its own
_default_lock = threading.RLock()  # a signal handler may open files, too


def default_queue(depth: int | None = None, request_size: int | None = None) -> CompletionQueue:
    """The queue of files that are opened without one, shared by all with the same settings.

    It is the process's own: a forked child gets a new one.
    """
    key = (depth or DEFAULT_DEPTH, request_size or DEFAULT_REQUEST_SIZE)
    made: CompletionQueue | None = None
    while True:
        with _default_lock:
            found = _defaults.get(key)
            if made is not None and not _is_usable(found):
                _defaults[key] = found = made
        if _is_usable(found):
            if made is not None and made is not found:  # another thread was faster
                made.close()
            return found
        made = CompletionQueue(key[0], request_size=key[1])  # without the lock: it looks after others' operations
        made._hands_out = False


def _is_usable(queue: CompletionQueue | None) -> TypeGuard[CompletionQueue]:
    return queue is not None and queue._pid == os.getpid() and not queue._closed


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()
    for queue in members(_living):
        queue._lock = threading.RLock()  # another thread may have had it
        for operation in list(queue._inflight.values()):
            operation._buffers = None  # it is the parent's, and goes on with the parent's memory
        for file in members(queue._files):
            file._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _drain_at_exit() -> None:
    """Let what is in flight end before the interpreter and its arrays go."""
    begin_to_end()
    failures: list[OSError] = []
    for queue in members(_living):
        for file in members(queue._files):
            try:
                file._close_forgotten()
            except OSError as failure:
                failures.append(failure)
            except Exception:
                pass
        with contextlib.suppress(Exception):
            queue.close()
    if failures:
        raise failures[0]  # Python prints it, and goes on
