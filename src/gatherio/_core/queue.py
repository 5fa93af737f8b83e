"""Completion queues: where operations are carried out, and where their ends are found."""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import operator
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from .._handle import Handle, members
from .._memory.pages import allocation_of
from .._memory.segments import Array, checked
from .._native import (
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
    owned,
    slice_ns,
)
from .engine import Engine
from .registration import Registration

if TYPE_CHECKING:
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

_TRANSFERRED_MAX: Final = 4096  # allocations that are remembered
#: A quarter of the memory, because what is registered cannot be swapped out, and not all of the kernel's table, which
#: has a place for each GiB.
_KEPT_BYTES_MAX: int = 0
if sys.platform != "win32":
    _KEPT_BYTES_MAX = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4, 64 << 30)

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
    """Open a queue of the core: a place that owns it, and 0; or None and a code."""
    place = owned("gio_queue **", lib.gio_queue_let_go)
    code = lib.gio_queue_open(name.encode(), depth, request_size, place)
    return (None, code) if code else (place, 0)


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


def _open_place(backend: str | None, depth: int, request_size: int) -> tuple[Any, str, str]:
    if backend is not None:
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; this system has {', '.join(BACKENDS)}")
        place, code = try_backend(backend, depth, request_size)
        if place is None:
            raise os_error(code, why_not(backend, code))
        return place, backend, f"asked for by name; {_PRAISE[backend]}"
    failures: list[str] = []
    for name in BACKENDS:
        place, code = try_backend(name, depth, request_size)
        if place is not None:
            return place, name, "; ".join([*failures, _PRAISE[name]])
        failures.append(why_not(name, code))
    raise os_error(code, "; ".join(failures))


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
        place, self.backend, self.reason = _open_place(backend, depth, request_size)
        self._engine = Engine(place, hands_out=True)
        self._native = self._engine.native
        self._files: weakref.WeakSet[File] = weakref.WeakSet()
        # No WeakSet: it has a function of Python's called when a registration goes, and a signal may raise in that.
        self._registrations: list[weakref.ref[Registration]] = []
        self._transferred: dict[int, int] = {}  # bytes, by the serial of an allocation that may be worth registering
        _living.add(self)

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
        engine = self._engine
        while True:
            is_empty = engine.closed and not engine.inflight
            waits = not (engine.untold or engine.told or is_empty)
            if waits:
                engine.wait_to_take(slice_ns(deadline))
            else:
                engine.look()
            found = engine.take(max)
            if found:
                return found
            if is_empty:
                raise closed("the completion queue is closed, and nothing is left in it")
            if is_over(deadline):
                return []

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Hand over what is submitted in this ``with`` block several operations at a time, for fewer system calls.

        Small operations are handed over together anyway where others are in flight: up to eight, when anybody waits or
        looks for results, and else after a quarter of a millisecond, or twice that while more are being submitted. In
        this block the first one waits as well. Each has its own result all the same. While another thread waits,
        nothing is held back.

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
        with self._engine.lock:
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
        return self._engine.closed

    def close(self) -> None:
        """Wait for what is in flight, then give everything back to the system. Twice is fine.

        Files of this queue cannot be used any more, except to be closed.
        """
        engine = self._engine
        engine.closed = True
        if engine.pid != os.getpid():
            return
        while True:
            code = lib.gio_queue_close(engine.native, SLICE_NS)
            if code not in (lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                break
        engine.look()
        for reference in self._registrations:
            registration = reference()
            if registration is not None:
                registration.close()  # it has ended: its memory need not stay
        engine.stop_watching()
        check(code, "closing a completion queue")

    def __enter__(self) -> CompletionQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.hands_out and not engine.closed and engine.pid == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        engine = self._engine
        state = "closed" if engine.closed else f"{len(engine.inflight)} operations in flight"
        return f"<gatherio.CompletionQueue: {self.backend}, depth {self.depth}, {state}>"


_living: weakref.WeakSet[CompletionQueue] = weakref.WeakSet()
#: By depth and request size. Those of a device with settings go with the last file that uses them.
_defaults: weakref.WeakValueDictionary[tuple[int, int], CompletionQueue] = weakref.WeakValueDictionary()
_kept_default: CompletionQueue | None = None
_default_lock = threading.RLock()  # a signal handler may open files, too


def default_queue(depth: int | None = None, request_size: int | None = None) -> CompletionQueue:
    """The queue of files that are opened without one, shared by all with the same settings.

    It is the process's own: a forked child gets a new one.
    """
    global _kept_default
    key = (depth or DEFAULT_DEPTH, request_size or DEFAULT_REQUEST_SIZE)
    made: CompletionQueue | None = None
    while True:
        with _default_lock:
            found = _defaults.get(key)
            if made is not None and not _is_usable(found):
                _defaults[key] = found = made
                if key == (DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE):
                    _kept_default = made
        if _is_usable(found):
            if made is not None and made is not found:  # another thread was faster
                made.close()
            return found
        made = CompletionQueue(key[0], request_size=key[1])  # without the lock: it looks after others' operations
        made._engine.hands_out = False


def _is_usable(queue: CompletionQueue | None) -> TypeGuard[CompletionQueue]:
    return queue is not None and queue._engine.pid == os.getpid() and not queue.closed


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()
    for queue in members(_living):
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
