"""Files: gather, scatter, and what stands around them."""

from __future__ import annotations

import errno
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .._handle import Handle
from .._memory.pages import PAGE_SIZE, is_anonymous, is_array, memory_of
from .._memory.segments import Segments, checked, checked_offsets, checked_targets
from .._native import (
    SLICE_NS,
    check,
    closed,
    describe,
    encode_path,
    end_with_the_interpreter,
    errno_of,
    error,
    ffi,
    lib,
    long_path,
)
from .._settings import Tuning, settings_for
from ..errors import AlignmentError
from .engine import LOOK_BEHIND, LOOK_EVERY, PENDING, new_completion
from .locks import Lock, acquire, acquire_async, release
from .loop import running_loop, to_its_end
from .operation import Call, Operation
from .queue import CompletionQueue, default_queue
from .registration import Registration

__all__ = ["File", "open"]

Array: TypeAlias = npt.NDArray[Any]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_READ: Final = lib.GIO_ACCESS_READ
_WRITE: Final = lib.GIO_ACCESS_WRITE
_MODES: Final[dict[str, tuple[int, int]]] = {
    "r": (_READ, lib.GIO_OPEN_EXISTING),
    "r+": (_READ | _WRITE, lib.GIO_OPEN_EXISTING),
    "w": (_WRITE, lib.GIO_OPEN_TRUNCATE),
    "w+": (_READ | _WRITE, lib.GIO_OPEN_TRUNCATE),
    "x": (_WRITE, lib.GIO_OPEN_NEW),
    "x+": (_READ | _WRITE, lib.GIO_OPEN_NEW),
}
_STAGING: Final = {False: lib.GIO_STAGE_NOTHING, None: lib.GIO_STAGE_RAGGED, True: lib.GIO_STAGE_ALL}
_REGISTER_BYTES: Final = 1 << 20  # below, to register memory for one transfer costs more than it saves,
_REGISTER_SEGMENT_MAX: Final = 1 << 18  # and so it does with segments of this size and more
_LOOK_BYTES: Final = 1 << 16  # below, to find out whose memory it is costs as much as a copy that need not know saves
_ANONYMOUS: Final = lib.GIO_ANONYMOUS
_OFFSET_MAX: Final = 2**63 - 1


class File(Handle):
    """An open file. Made by `gatherio.open`.

    An array that is handed over stays where it is until its operation has finished. What its memory belongs to, if that
    is not numpy or this library (a bytearray, an mmap, a SharedMemory), cannot be resized or closed meanwhile, and
    raises BufferError. Not in our hands are ``ndarray.resize(refcheck=False)``, ``ndarray.__setstate__`` and
    ``ctypes.resize``, which ask nobody: do not use them on an array that is being transferred. Nor is what lies under
    an array that was given on otherwise than as a buffer, by DLPack, ``__array_interface__`` or the ``from_buffer`` of
    ctypes and cffi. Of a subclass the memory is taken as numpy has it, whatever the subclass says.

    Attributes
    ----------
    name : str or bytes or os.PathLike
        As given to `open`.
    mode : str
    direct : bool
        Whether transfers go around the page cache.
    backend : str
        What carries them out: "uring", "threads", "iocp" or "sync".
    reason : str
        Why this way, in words.
    alignment : int
        Bytes. What `write_gather` and `read_scatter` without a copy ask of offsets and of the last array's length.
    """

    _native: Any = None
    _released = True

    _instead = "open it once more, by its name"

    def __init__(
        self,
        path: Path,
        mode: str,
        direct: bool | None,
        durable: bool,
        queue: CompletionQueue,
        preallocate: int | None = None,
        honor_locks: bool = True,
        tuning: Tuning | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode is one of {', '.join(_MODES)}, not {mode!r}; files are always binary")
        if direct not in (None, True, False):
            raise ValueError(f"direct is None, True or False, not {direct!r}")
        encoded = encode_path(path)
        self.name = path
        self.mode = mode
        self._access, create = _MODES[mode]
        if preallocate is not None and create == lib.GIO_OPEN_TRUNCATE:
            create = lib.GIO_OPEN_OR_CREATE  # what it holds goes once the space is there
        self._queue = queue
        self._engine = queue._engine
        self._lock = threading.RLock()  # a signal handler may close the file while the same thread waits in close
        self._closed = False
        self._untold: dict[int, Operation] = {}  # writes that failed, and nobody knows
        facts = ffi.new("gio_file_facts *")
        # Owned before it is there: a signal that came during the call raises right behind it.
        self._place = place = ffi.gc(ffi.new("gio_file **"), lib.gio_file_let_go)
        direct = None if direct is None else bool(direct)
        wish = lib.GIO_DIRECT_AUTO if direct is None else int(direct)
        access = self._access | (lib.GIO_ACCESS_HEED_LOCKS if honor_locks else 0)
        code = lib.gio_file_open(queue._native, encoded, access, create, wish, bool(durable), place, facts)
        if code:
            end_with_the_interpreter()  # the queue may have been closed meanwhile
            how = f"mode {mode!r}"
            if direct and errno_of(code) in (errno.EINVAL, errno.EOPNOTSUPP):
                how = "direct I/O asked for; direct=None goes buffered where there is none"
            raise error(code, f"opening the file, {how}", path)
        self._native = place[0]
        self._created = bool(facts.created)
        self._handle = int(facts.handle)
        self._descriptor: int | None = None  # for fileno(), on Windows
        self.direct = bool(facts.direct)
        self.backend = "threads" if facts.backend_code else queue.backend
        self.alignment = int(facts.offset_alignment) or PAGE_SIZE
        self.memory_alignment = int(facts.memory_alignment) or PAGE_SIZE
        self.file_system = ffi.string(facts.file_system_name).decode() or int(facts.file_system)
        carrier = f"threads: {describe(facts.backend_code)}" if facts.backend_code else queue.reason
        self.reason = "; ".join([_why_direct(facts), carrier, *([tuning.reason] if tuning else [])])
        self._stage_below = tuning.stage_below if tuning else 0
        self._registers = bool(tuning and tuning.registered)
        queue._files.add(self)
        self._released = False  # last: what a signal leaves half made is the core's to close

    # -- transfers ------------------------------------------------------------------------------------------

    def write_gather(
        self, arrays: Iterable[Array] | Segments, offset: int, *, copy: bool | None = False, tag: object = None
    ) -> Operation:
        """Write many arrays, one behind the other, to one contiguous range of the file.

        Parameters
        ----------
        arrays : iterable of ndarray, or Segments
            In the order of the file; C-contiguous. Leave them unchanged until the operation has finished.
        offset : int
            Bytes from the start of the file.
        copy : bool or None
            False: nothing is copied. Every array starts on a page and is whole pages, but the last, which is a
            multiple of `alignment`; so is `offset`. None: what is not aligned so is copied through page-aligned
            buffers, and the rest is not, unless settings stored for the device say that separate pages are to be
            (`tuning`, which `reason` tells). True: everything is copied, 2 MiB at a time, which on some disks is
            the faster way for many separate pages, and costs CPU time.
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            Submitted. Its result is the number of bytes. Operations may finish in any order, and none is
            atomic; what overlaps and is in flight together ends up mixed.

        Raises
        ------
        AlignmentError
            With ``copy=False``, before any system call, whatever the file system would have taken.
        PermissionError
            The file is open for reading.
        ValueError
            The file is closed, an argument makes no sense, or the memory of an array has gone: what it belongs to has
            been closed or resized.

        Notes
        -----
        IORING_OP_WRITEV or pwritev2(2) on Linux, WriteFileGather on Windows, where each page is a segment of its own.
        Neighbours in memory are joined, and what is then a single run goes as a plain write.

        Ends that are no whole pages (of the file system, where its blocks are larger) go through the page cache, so
        that two writers may meet anywhere. Not so with ``copy=False``, where `alignment` is less than a page: keep to
        whole pages there if somebody else, through another file object, writes to the same page at the same time.

        Who reads the file meanwhile and trusts its length sees data, no zeros: the last bytes of an operation are
        written last, and one that makes the file longer goes in the order of the file, if the queue's `request_size` is
        4 MiB or more (the default). With smaller requests it does not, for there the order would cost a fifth of the
        rate. Several operations are in no order.

        Many small pieces cost least as one call: ``write_gather(pieces, offset, copy=None)``. Each small write of its
        own that is no whole pages has to be brought to the disk through the page cache, which takes 0.1 to 0.5 ms;
        those that are in flight together and touch share that.
        """
        return self._many(True, arrays, offset, copy, tag)

    def read_scatter(
        self, arrays: Iterable[Array] | Segments, offset: int, *, copy: bool | None = False, tag: object = None
    ) -> Operation:
        """Read one contiguous range of the file into many arrays, one behind the other.

        As `write_gather` otherwise. The arrays must be writeable, and no byte may be in them twice. A read that
        crosses the end of the file has the short count as its result; what is in the arrays beyond it is unspecified.
        """
        return self._many(False, arrays, offset, copy, tag)

    def write_at(self, array: Array, offset: int, *, tag: object = None) -> Operation:
        """Write one array, of any size, to any offset.

        What is aligned goes from where it stands; the rest is copied through page-aligned buffers, and blocks that
        are written in part are merged with what the file has. A file that grows ends at exactly ``offset +
        array.nbytes``. For many small arrays one behind the other, `write_gather` with ``copy=None`` costs least.

        Parameters
        ----------
        array : ndarray
            C-contiguous. Leave it unchanged until the operation has finished.
        offset : int
            Bytes from the start of the file.
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            See `write_gather`. Its result is an OSError (EFAULT) where the array is of a mapped file that somebody has
            cut shorter, as with write(2). In a sandbox that refuses process_vm_readv(2) such memory, where it has to be
            copied, ends the process (SIGBUS), as it does when a program touches it.
        """
        return self._one(True, array, offset, tag)

    def read_at(self, array: Array, offset: int, *, tag: object = None) -> Operation:
        """Read into one array, of any size, from any offset. See `write_at` and `read_scatter`."""
        return self._one(False, array, offset, tag)

    def pwrite(self, array: Array, offset: int) -> int:
        """Write one array, of any size, to any offset, and wait for it: ``write_at(array, offset).result()``.

        For who has nothing else to do meanwhile: it costs one system call, and no `Operation` is made.

        Returns
        -------
        int
            ``array.nbytes``.

        Raises
        ------
        OSError, TypeError, ValueError
            As `write_at` and `Operation.result`.

        Notes
        -----
        KeyboardInterrupt, or what another signal handler raises, leaves the transfer running and the array safe. If it
        fails then, `close` tells.
        """
        return self._now(True, array, offset)

    def pread(self, array: Array, offset: int) -> int:
        """Read into one array, of any size, from any offset, and wait for it. See `pwrite`.

        Returns
        -------
        int
            Bytes read: fewer than ``array.nbytes`` where the file ends before, 0 where it does not reach `offset`.
        """
        return self._now(False, array, offset)

    def write_many(
        self, arrays: Array | Iterable[Array] | Segments, offsets: npt.ArrayLike, *, tag: object = None
    ) -> Operation:
        """Write many arrays, each to its own place in the file, as one operation.

        As `read_many` otherwise. Places that overlap end up mixed.
        """
        return self._batch(True, arrays, offsets, tag)

    def read_many(
        self, arrays: Array | Iterable[Array] | Segments, offsets: npt.ArrayLike, *, tag: object = None
    ) -> Operation:
        """Read into many arrays, each from its own place in the file, as one operation.

        Thousands of small random transfers so cost Python the time of one: they are submitted together, carried out in
        any order as many at a time as the queue has requests, and there is one result for all.

        Parameters
        ----------
        arrays : ndarray, iterable of ndarray, or Segments
            C-contiguous, of any sizes. Of a single array its rows, along the first axis.
        offsets : array_like of int, 1-d
            Bytes from the start of the file, one for each array; of any alignment.
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            Its result is the number of bytes. If some of the places reach beyond the end of the file, it is the bytes
            of the arrays in front of the first such one and what that one has; the others are read all the same.

        Raises
        ------
        ValueError
            Not as many offsets as arrays, an offset out of range, or a place in memory given twice.
        """
        return self._batch(False, arrays, offsets, tag)

    def _batch(
        self, writes: bool, arrays: Array | Iterable[Array] | Segments, offsets: npt.ArrayLike, tag: object
    ) -> Operation:
        segments = _segments_of(arrays)
        try:
            places = checked_offsets(offsets, len(segments))
            self._checked_range(writes, int(places.max(initial=0)), segments.longest)
            if not writes:
                segments.check_targets()
        except BaseException:
            if segments is not arrays:
                segments._let_go()
            raise
        self._keep_registered(segments._base, segments._nbytes)
        direction = writes | self._memory_of(segments) if segments._nbytes >= _LOOK_BYTES else writes
        operation = Operation(self, self._engine, writes, places, segments._nbytes, (segments, places), tag)
        native, count = segments._native, len(segments)
        del segments  # as above
        offsets_native = ffi.from_buffer("uint64_t[]", places)
        return self._submit(operation, lib.gio_submit_batch, direction, native, offsets_native, count)

    def _memory_for(self, writes: bool, array: Array, offset: int) -> tuple[Any, int, int]:
        """What the core is given for one array, checked: its memory, the place in the file, and the direction."""
        if type(array) is not np.ndarray or array.dtype.hasobject or not array.flags.c_contiguous:
            array = checked(array)
        nbytes = array.nbytes
        offset = self._checked_range(writes, offset, nbytes)
        if not writes and not array.flags.writeable:
            checked_targets(False)
        memory = memory_of(array)
        if self._registers:
            self._keep_registered(array, nbytes)
        looks = nbytes >= _LOOK_BYTES and self.direct
        return memory, offset, writes | _ANONYMOUS if looks and is_anonymous(array) else writes

    def _one(self, writes: bool, array: Array, offset: int, tag: object) -> Operation:
        memory, offset, direction = self._memory_for(writes, array, offset)
        nbytes = len(memory)
        operation = Operation(self, self._engine, writes, offset, nbytes, memory, tag)
        del memory  # the operation has it, and lets go of it if it has not been taken
        return self._submit(operation, lib.gio_submit_one, direction, operation._buffers, nbytes, offset)

    def _submit(self, operation: Operation, submit: Callable[..., int], *arguments: Any) -> Operation:
        """Hand it to the core, which has its memory from then on until it has ended."""
        engine = self._engine
        try:
            engine.inflight[operation._key] = operation  # before the kernel has it, so that no exception can part them
            code = submit(self._native, *arguments, operation._key, operation._completion)
            if code:
                self._check_open()  # closed by another thread just now
                raise error(code, operation._doing(), self.name)
        except BaseException:
            del arguments  # no traceback is to hold the memory
            engine.withdraw(operation)
            raise
        if not operation._key % LOOK_EVERY or operation._nbytes >= LOOK_BEHIND:
            engine.look_at_submission()
        return operation

    def _now(self, writes: bool, array: Array, offset: int) -> int:
        memory, offset, direction = self._memory_for(writes, array, offset)
        nbytes = len(memory)
        engine = self._engine
        key = next(engine.other_keys)
        completion = new_completion()
        operation: Operation | None = None
        try:
            engine.transfers[key] = memory, completion  # from before the kernel has it
            code = lib.gio_transfer(self._native, direction, memory, nbytes, offset, key, SLICE_NS, completion)
            while code == lib.GIO_E_TIMEOUT or code == lib.GIO_E_INTERRUPTED:
                code = lib.gio_operation_wait(engine.native, completion, SLICE_NS)
            transferred: int = completion.result
            if code == 0 and transferred >= 0:
                del engine.transfers[key]
                return transferred
            operation = Operation(self, engine, writes, offset, nbytes, None)
            operation._completion = completion
            if code:
                self._check_open()  # closed by another thread just now
                raise error(code, operation._doing(), self.name)
            raise operation._exception()
        except BaseException:
            operation = operation or Operation(self, engine, writes, offset, nbytes, memory)
            operation._key, operation._completion, operation._handed_on = key, completion, True
            self._leave_running(operation)
            raise

    def _leave_running(self, operation: Operation) -> None:
        """Hold the memory of a transfer that nobody waits for any more, if it has begun, until it has ended."""
        engine = self._engine
        if operation._completion.ticket:
            engine.inflight[operation._key] = operation
            if operation._completion.result != PENDING:
                engine.finish(operation)
        engine.transfers.pop(operation._key, None)  # last: nothing may be let go of under the kernel

    def _many(
        self, writes: bool, arrays: Iterable[Array] | Segments, offset: int, copy: bool | None, tag: object
    ) -> Operation:
        staging = _STAGING.get(copy)
        if staging is None:
            raise ValueError(f"copy is False, None or True, not {copy!r}")
        segments = arrays if type(arrays) is Segments else Segments(arrays)
        try:
            offset = self._checked_range(writes, offset, segments._nbytes)
            if staging == lib.GIO_STAGE_NOTHING:
                if offset % self.alignment or not segments.lie_in_place(self.alignment):
                    self._check_in_place(segments, offset)
            elif staging == lib.GIO_STAGE_RAGGED and segments._nbytes < self._stage_below * segments._count:
                staging = lib.GIO_STAGE_ALL
            if not writes:
                segments.check_targets()
        except BaseException:
            if segments is not arrays:
                segments._let_go()
            raise
        all_staged = staging == lib.GIO_STAGE_ALL
        kept = all_staged or not self._registers or self._keep_registered(segments._base, segments._nbytes)
        pinned = None if kept else self._pinned(segments)
        looks = staging != lib.GIO_STAGE_NOTHING and segments._nbytes >= _LOOK_BYTES
        direction = writes | self._memory_of(segments) if looks else writes
        operation = Operation(self, self._engine, writes, offset, segments._nbytes, (segments, pinned), tag)
        native, count = segments._native, segments._count
        del segments, pinned  # as above
        return self._submit(operation, lib.gio_submit, direction, native, count, offset, staging)

    def _check_in_place(self, segments: Segments, offset: int) -> None:
        if offset % self.alignment:
            raise AlignmentError(
                f"offset {offset} is no multiple of the file's alignment, {self.alignment} bytes: "
                "copy=None copies just what must be; write_at and read_at take any offset"
            )
        segments.check_in_place(self.alignment)

    def _memory_of(self, segments: Segments) -> int:
        """What the core is told of the memory, for copies: through the page cache there are none."""
        return _ANONYMOUS if self.direct and segments.anonymous else 0

    def _keep_registered(self, memory: Array | None, nbytes: int) -> bool:
        """Whether memory of `gatherio.empty` is registered for good by now, where that is wanted and to be had."""
        if not self._registers or memory is None or nbytes < _REGISTER_BYTES:
            return False
        return self._queue._keep_registered(memory, nbytes)

    def _pinned(self, segments: Segments) -> Registration | None:
        """The segments' memory registered for one transfer, where that is wanted and to be had.

        It pays for many small segments, each of which the kernel would look up by itself. One contiguous run costs the
        same either way: its pages are looked up once.
        """
        if not self._registers or segments._base is None:
            return None
        if segments._nbytes < _REGISTER_BYTES or segments._nbytes >= _REGISTER_SEGMENT_MAX * len(segments):
            return None
        registration = Registration(self._queue, segments._base)
        return None if registration.closed else registration

    def _checked_range(self, writes: bool, offset: int, nbytes: int) -> int:
        if self._closed:
            self._check_open()
        if not self._access & (_WRITE if writes else _READ):
            doing = "written" if writes else "read"
            modes = "'r+' or 'w'" if writes else "'r' or 'w+'"
            raise PermissionError(
                errno.EACCES,
                f"a file opened with mode {self.mode!r} cannot be {doing}; open it with {modes}",
                self.name,
            )
        if type(offset) is not int:
            offset = operator.index(offset)
        if not 0 <= offset <= _OFFSET_MAX - nbytes:
            raise ValueError(f"offset {offset} is out of range: files reach from 0 to {_OFFSET_MAX} bytes")
        return offset

    def _check_open(self) -> None:
        if self._closed:
            raise closed(f"I/O operation on closed file {self.name!r}")

    # -- length and stable storage --------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The file's length in bytes: as far as anything has been written, or what `truncate` has set."""
        size = ffi.new("uint64_t *")
        self._check_open()
        with self._lock:  # against being closed meanwhile, here and below
            self._check_open()
            check(lib.gio_file_size(self._native, size), "asking for the size", self.name)
        return int(size[0])

    def truncate(self, n: int) -> None:
        """Set the file's length to `n` bytes, once what is in flight has finished. Growing fills with zeros.

        ``f.truncate(f.size)`` gives back what is reserved beyond the end (`preallocate`), on Linux. What is submitted
        meanwhile by other threads begins afterwards. `truncate_async` waits for nothing.

        Raises
        ------
        LockedError
            Between the old and the new end somebody else has a lock, or this object a shared one.
        OSError
            EBUSY: it would become shorter, and this process has mapped it (`Mapping`). EINVAL: it is a device.
        """
        n = self._checked_range(True, n, 0)
        self._call(lib.GIO_CALL_RESIZE, n, lib.gio_file_resize, n)

    def truncate_async(self, n: int, *, tag: object = None) -> Operation:
        """Set the file's length to `n` bytes, as an operation that goes on by itself. See `truncate`.

        It begins once everything of this file that was submitted before has finished, and what is submitted after it
        begins after it.

        Parameters
        ----------
        n : int
            Bytes.
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            Its result is 0, or raises as `truncate` does. A failure that nobody asks for is raised by `close`.
        """
        n = self._checked_range(True, n, 0)
        return self._submit_call(Call(self, self._engine, lib.GIO_CALL_RESIZE, n, tag), n)

    def preallocate(self, n: int) -> None:
        """Reserve the space of the file's first `n` bytes, so that writing them cannot run out of it.

        The file's length stays what it is: for readers it ends where the written bytes end. Where the file system
        cannot reserve, what certainly does not fit is refused, and nothing else happens.

        `close` gives back what then lies beyond the end. On Linux it does so where nobody else has the file open, not
        even for reading (mappings and other objects of this process count), on ext4, xfs, btrfs, f2fs and tmpfs, for
        the file's owner and root; not where the garbage collector or the end of the program closes the file. What
        stays reserved goes back by ``truncate(f.size)``.

        Parameters
        ----------
        n : int
            Bytes from the start of the file. Less than the file has changes nothing.

        Raises
        ------
        OSError
            ENOSPC, EDQUOT: the space is not there. No byte and no length has been changed; where another program or a
            quota was in the way, part of the space may be reserved until the file is closed. EINVAL: it is a device.

        Notes
        -----
        fallocate(2) with FALLOC_FL_KEEP_SIZE on Linux, which waits for nothing that is in flight, but for a
        `truncate_async`. On Windows FILE_ALLOCATION_INFO, once what is in flight has finished; NTFS gives back what
        lies beyond the end when the last handle of the file is closed.

        Every system lets the writes that make a file longer wait for each other. In reserved space that costs little
        for large ones; those of 128 KiB and less run at about half the rate of writes into a file that is long
        already. A writer who is alone can set the length beforehand, ``truncate(n)`` after ``preallocate(n)``. Then the
        file shows zeros behind the data until the writer sets the length again, by `truncate`, at the end.
        """
        n = self._checked_range(True, n, 0)
        self._call(lib.GIO_CALL_RESERVE, n, lib.gio_file_reserve, n, ffi.new("int32_t *"))

    def preallocate_async(self, n: int, *, tag: object = None) -> Operation:
        """Reserve the space of the file's first `n` bytes, as an operation that goes on by itself. See `preallocate`.

        So a recorder reserves ahead while it writes. On Linux it waits for nobody but a `truncate_async` in front of
        it. On Windows, where an allocation beside writes could cut the file, it begins once everything of this file
        that was submitted before has finished, and what is submitted after it begins after it.

        Parameters
        ----------
        n : int
            Bytes from the start of the file. Less than the file has changes nothing.
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            Its result is 0, or raises as `preallocate` does. A failure that nobody asks for is not told: nothing is
            lost, and a write that finds no space fails.
        """
        n = self._checked_range(True, n, 0)
        return self._submit_call(Call(self, self._engine, lib.GIO_CALL_RESERVE, n, tag), n)

    def flush(self) -> None:
        """Wait for what is in flight, then bring the file to stable storage (fsync, FlushFileBuffers).

        What other threads submit meanwhile is not waited for. `flush_async` waits for nothing.

        Raises
        ------
        OSError
            The system could not; data of earlier writes may be lost. Or it could not for a `flush_async` that nobody
            has asked for its result.
        """
        self._call(lib.GIO_CALL_FLUSH, 0, lib.gio_file_flush)
        for operation in list(self._untold.values()):
            if isinstance(operation, Call) and operation.is_flush:
                raise operation._exception()

    def flush_async(self, *, tag: object = None) -> Operation:
        """Bring the file to stable storage (fsync, FlushFileBuffers), as an operation that goes on by itself.

        It begins once everything of this file that was submitted before has finished: that is on stable storage when
        it has finished. What is submitted after it does not wait for it.

        Parameters
        ----------
        tag : object
            Whatever is to be found in `Operation.tag`.

        Returns
        -------
        Operation
            Its result is 0. OSError: the system could not; data of earlier writes may be lost. A failure that nobody
            asks for is raised by the next `flush`, or by `close`.

        Examples
        --------
        >>> f.write_at(block, offset)
        >>> await f.flush_async()
        """
        self._check_open()
        return self._submit_call(Call(self, self._engine, lib.GIO_CALL_FLUSH, 0, tag), 0)

    def _call(self, call: int, n: int, directly: Callable[..., int], *arguments: Any) -> None:
        """Make a call and wait for it: in this thread where nothing that is in flight comes first, else in line."""
        operation = Call(self, self._engine, call, n)
        operation._handed_on = True  # it is nobody's but ours
        while True:
            with self._lock:  # against being closed meanwhile
                self._check_open()  # a signal handler may have closed it
                code = directly(self._native, *arguments)
            if code == lib.GIO_E_TIMEOUT and self._queue.closed:
                self._drain()  # no more is submitted there
            elif code == lib.GIO_E_TIMEOUT:
                self._wait_in_line(operation, n)
                break
            elif code != lib.GIO_E_INTERRUPTED:
                check(code, operation._doing(), self.name)
                break
        self._engine.look()  # callbacks may want the lock in another thread

    def _wait_in_line(self, operation: Call, n: int) -> None:
        try:
            self._submit_call(operation, n).result()
        except BaseException:
            operation.cancel()  # whoever is interrupted does not expect it to happen later
            raise

    def _submit_call(self, operation: Call, n: int) -> Operation:
        return self._submit(operation, lib.gio_submit_call, operation._call, n)

    def fileno(self) -> int:
        """The descriptor that transfers go through; opened with O_DIRECT if `direct`.

        It is not the caller's to close: whatever is done with the file then is OSError (EBADF).

        On Windows a descriptor of the C runtime on a duplicate of the handle, which `close` closes: for `os.fstat` and
        ``msvcrt.get_osfhandle``. `os.read` and `os.write` refuse it, because the handle is overlapped.
        """
        self._check_open()
        if sys.platform == "win32":
            with self._lock:
                self._check_open()
                if self._descriptor is None:
                    self._descriptor = _new_descriptor(self._handle, self._access)
                return self._descriptor
        return self._handle

    def _drain(self) -> None:
        """Wait until nothing of this file is in flight."""
        while True:
            code = lib.gio_file_drain(self._native, SLICE_NS)
            if code not in (lib.GIO_E_TIMEOUT, lib.GIO_E_INTERRUPTED):
                check(code, "waiting for operations in flight", self.name)
                return

    # -- locks ----------------------------------------------------------------------------------------------

    def lock(
        self, offset: int, length: int, *, exclusive: bool = True, wait: bool = False, timeout: float | None = None
    ) -> Lock:
        """Lock a range of bytes, which need not be there yet.

        Windows' rules on every system: a lock is refused where it meets another one, through this object, another
        or another process, unless both are shared. Within the range of an exclusive lock only this object reads and
        writes; a shared one lets all read and nobody write. One of no bytes is in the way of a range around it,
        within this object.

        Parameters
        ----------
        offset, length : int
            Up to 2**64 in all.
        exclusive : bool
        wait : bool
            Until the range is free, trying again after 1 to 20 ms. Ctrl-C ends the wait.
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        Lock
            Use it in a ``with`` block, or `Lock.unlock` it. It also goes with the file, and with the process.

        Raises
        ------
        LockedError
            Another lock is in the way.
        concurrent.futures.TimeoutError
            The time is up.
        PermissionError
            On Linux: an exclusive lock of a file that this process may not write, or a shared one of a file that it
            may not read.

        Notes
        -----
        LockFileEx on Windows, where locks bind every program. OFD locks (fcntl(2)) on Linux, where they bind those who
        ask, as every gatherio file does unless it was opened with ``honor_locks=False``. There another program's OFD
        and POSIX locks are in the way, and so are POSIX locks of this process (`fcntl.lockf`). The system drops the
        latter as soon as this process closes any descriptor of the file, also that of a `File`.
        """
        return acquire(self, offset, length, bool(exclusive), wait, timeout)

    async def lock_async(
        self, offset: int, length: int, *, exclusive: bool = True, timeout: float | None = None
    ) -> Lock:
        """Wait for a lock in an asyncio task, trying again after 1 to 20 ms. See `lock`.

        Cancelling the task leaves nothing locked, and nothing running.

        Raises
        ------
        RuntimeError
            No loop of asyncio (or uvloop) runs in this thread.

        Examples
        --------
        >>> async with await file.lock_async(0, 4096):
        ...     await file.write_at(header, 0)
        """
        return await acquire_async(self, offset, length, bool(exclusive), timeout)

    def unlock(self, offset: int, length: int) -> None:
        """Give back a lock of exactly this range.

        Raises
        ------
        NotLockedError
            There is none.
        """
        release(self, offset, length)

    # -- closing --------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def close(self) -> None:
        """Wait for what is in flight and close the file. Twice is fine.

        What is reserved beyond the end is given back where nobody else has the file open; see `preallocate`.

        Raises
        ------
        OSError
            A write had failed and nobody had asked for its result. Or the system could not store what was written,
            which network file systems tell only now (close(2): EIO, ENOSPC, EDQUOT). The file is closed all the same.
        """
        self._close(gives_back=True)

    async def aclose(self) -> None:
        """Close in an asyncio task: `close`, in a thread of the loop's executor.

        The file is closed when it returns or raises: cancelling the task does not cut it short, and is told afterwards.

        Raises
        ------
        OSError
            As `close`, also where the task has been cancelled.
        RuntimeError
            No loop of asyncio (or uvloop) runs in this thread.
        """
        await to_its_end(running_loop("f.close"), self.close)

    def _close(self, *, gives_back: bool) -> None:
        self._closed = True  # from here on nothing is submitted; what follows can be repeated after Ctrl-C
        if self._engine.pid != os.getpid():  # in a forked child: let go of its copy, and of no lock
            code = 0 if self._released else lib.gio_file_close(self._native)
            self._released = True
            check(code, "closing the file", self.name)
            return
        try:
            with self._lock:
                if self._released:  # twice is fine; what an exception has kept from being told is told now
                    return
                failure = self._close_descriptor()
                code = self._close_native(gives_back)
            if failure is not None:
                raise failure
            check(code, "closing the file", self.name)
        finally:
            self._engine.look()  # what failed is known from here on
            self._raise_untold()  # goes first: its write is known to be lost

    def _close_descriptor(self) -> OSError | None:
        """Close the one that `fileno` has made on Windows. Gives the error, for there is more to be closed."""
        if self._descriptor is None:
            return None
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.close(descriptor)
        except OSError as failure:
            failure.filename = self.name
            return failure
        return None

    def _close_native(self, gives_back: bool) -> int:
        code = 0
        while not self._released:
            self._drain()
            if self._released:  # by a signal handler, meanwhile
                break
            if gives_back:
                lib.gio_file_give_back(self._native)
            code = lib.gio_file_close(self._native)
            # TIMEOUT: another thread submitted in the last moment
            self._released = code != lib.GIO_E_TIMEOUT
        return int(code)

    def _forked(self) -> None:
        """In a forked child: locks end with the parent, not with the child that has its descriptors as well."""
        self._lock = threading.RLock()  # another thread may have had it
        if not self._released:
            lib.gio_file_forked(self._native)

    def _raise_untold(self) -> None:
        untold = list(self._untold.values())
        failures = [operation._exception() for operation in untold]
        if failures:
            first = failures[0]
            if len(failures) > 1 and isinstance(first, OSError):
                what = "operations" if any(isinstance(one, Call) for one in untold[1:]) else "writes"
                first.strerror = f"{first.strerror}; {len(failures) - 1} more {what} failed unnoticed"
            raise first

    def __enter__(self) -> File:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> File:
        running_loop("f.close")  # which leaving the block needs
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._close_forgotten()

    def _close_forgotten(self) -> None:
        """Close it because the object, or the interpreter, goes; warn if nobody else has."""
        if self._released:
            return
        try:
            if not self._closed:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self._close(gives_back=False)  # nobody waits for it here, and others may be writing

    def __repr__(self) -> str:
        state = "closed" if self._closed else "direct" if self.direct else "buffered"
        return f"<gatherio.File {self.name!r}, mode {self.mode!r}, {state}>"


if sys.platform == "win32":

    def _new_descriptor(handle: int, access: int) -> int:
        """A descriptor on a duplicate of the handle."""
        import _winapi
        import msvcrt

        process = _winapi.GetCurrentProcess()
        duplicate = _winapi.DuplicateHandle(process, handle, process, 0, False, _winapi.DUPLICATE_SAME_ACCESS)
        flags = os.O_RDWR if access == _READ | _WRITE else os.O_WRONLY if access == _WRITE else os.O_RDONLY
        return msvcrt.open_osfhandle(duplicate, flags | os.O_NOINHERIT | os.O_BINARY)


def _segments_of(arrays: Array | Iterable[Array] | Segments) -> Segments:
    if type(arrays) is Segments:
        return arrays
    if is_array(arrays):
        rows = checked(arrays).view()  # our own: nobody changes its shape
        return Segments.rows(rows, np.arange(rows.shape[0] if rows.ndim else 0))
    return Segments(arrays)


def _why_direct(facts: Any) -> str:
    if facts.direct:
        teller = "the volume" if sys.platform == "win32" else "statx(2)"
        told = f"as {teller} tells" if facts.alignment_told else "assumed, for the file system does not tell"
        multiples = f"offsets in multiples of {facts.offset_alignment} bytes, memory of {facts.memory_alignment}"
        return f"direct: {multiples}, {told}"
    if facts.direct_code == lib.GIO_E_NOT_ASKED:
        return describe(facts.direct_code)
    return f"buffered, because direct I/O is not to be had: {describe(facts.direct_code)}"


def open(
    path: Path,
    mode: str = "r",
    *,
    direct: bool | None = None,
    durable: bool = False,
    preallocate: int | None = None,
    queue: CompletionQueue | None = None,
    honor_locks: bool = True,
    tuning: Mapping[str, Any] | Literal[False] | None = None,
) -> File:
    """Open a file for gathering and scattering numpy arrays.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        A regular file, or on Linux a block device.
    mode : {"r", "r+", "w", "w+", "x", "x+"}
        As in the built-in `open`; always binary.
    direct : bool, optional
        None: around the page cache where the file system can, else buffered; `File.direct` and `File.reason` tell.
        True: direct or OSError. False: buffered.
    durable : bool
        Every write is on stable storage when it has finished (RWF_DSYNC, FILE_FLAG_WRITE_THROUGH).
    preallocate : int, optional
        Bytes to reserve at once; the file's length stays what it is. See `File.preallocate`.
    queue : CompletionQueue, optional
        Where operations are carried out, and handed out by `CompletionQueue.get`. None shares one queue among all
        such files of the process.
    honor_locks : bool
        Whether operations, `truncate` and mode "w" ask for locks of others first, and fail with LockedError. Others are
        other `File` objects, of this process too, and other programs (on Linux with OFD or POSIX locks, fcntl(2)); not
        so POSIX locks of this process, which no other way of reading and writing here sees either. That costs some
        0.4 us on a local file system, and a network round trip on some others. On Windows the system asks, always.
        On Linux anybody who may read a file can hold a shared lock on it, for as long as he likes, and writers fail
        with LockedError meanwhile: take False where strangers may read the file, and their locks are not to count.
    tuning : dict or False, optional
        None: the settings that ``gatherio tune`` has stored for the file's device, if any. A dict gives settings:
        ``request_size``, ``depth`` (of the shared queue; with `queue` that queue's own count), ``registered`` (memory
        of `empty`, `zeros` and the like stays registered once all of it has been transferred, up to a quarter of the
        machine's; other memory is for each transfer of many small segments in place), and ``stage_below``: with
        ``copy=None``, pages in segments shorter than this on average are staged. False: none. `File.reason` tells what
        is used and where it comes from.

    Returns
    -------
    File
        Use it in a ``with`` block, or close it.

    Raises
    ------
    OSError
        As the built-in `open`; also when `direct` is True and cannot be, or when the space to be reserved is not
        there. A file that existed is then as it was; but in mode "w" it is empty if another program takes the space in
        the moment in which its own is free.
    ValueError
        Unknown mode, or a closed queue.
    """
    if queue is not None and queue.closed:
        raise closed("the completion queue is closed")
    preallocate = None if preallocate is None else operator.index(preallocate)
    if preallocate is not None and preallocate < 0:
        raise ValueError(f"preallocate is a number of bytes, not {preallocate}")
    settings = settings_for(path, tuning)
    if queue is not None and settings is not None:
        settings = settings.beside_a_queue()
    if queue is None:
        queue = default_queue(settings.depth, settings.request_size) if settings else default_queue()
    made = "" if preallocate is None else os.path.abspath(os.fsdecode(path))  # wherever the working directory moves
    file = File(path, mode, direct, durable, queue, preallocate, honor_locks, settings)
    if preallocate is not None:
        try:
            file.preallocate(preallocate)
            if mode.startswith("w") and not file._created:
                file.truncate(0)
                file.preallocate(preallocate)
        except BaseException:
            try:
                file.close()
            finally:
                if file._created:
                    os.unlink(long_path(made))
            raise
    return file
