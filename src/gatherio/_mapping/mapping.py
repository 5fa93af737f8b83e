"""File mappings as numpy arrays, and memory that processes share by a name.

What CreateFileMapping, OpenFileMapping, MapViewOfFile, FlushViewOfFile and UnmapViewOfFile do on Windows, and mmap,
memfd_create, msync and munmap on Linux, with the same rules on both; examples/README.md sets the two side by side.

Mapped are views of some GiB, far larger than most arrays, and the last few stay mapped: a million small arrays need
no million system calls. An array refers to the view it lies in, and a view goes with the last one who refers to
it. Nothing else unmaps.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import math
import operator
import os
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Literal, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from .._handle import members
from .._mapping import records
from .._memory.pages import Hold, exact, is_anonymous, is_array
from .._native import begin_to_end, check, closed, ffi, lib
from .sections import HEADER_BYTES, SIZE_MAX, Header, Section, checked_name, find, hold

__all__ = ["Mapping"]

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Access: TypeAlias = Literal["r", "r+", "c"]

_ACCESS: Final[dict[str, int]] = {"r": lib.GIO_MAP_READ, "r+": lib.GIO_MAP_WRITE, "c": lib.GIO_MAP_COPY}
_ADVICE: Final[dict[str, int]] = {
    "normal": lib.GIO_ADVICE_NORMAL,
    "sequential": lib.GIO_ADVICE_SEQUENTIAL,
    "random": lib.GIO_ADVICE_RANDOM,
    "willneed": lib.GIO_ADVICE_WILLNEED,
    "dontneed": lib.GIO_ADVICE_DONTNEED,
}
#: Views begin at multiples of this and are twice as long, so that an array of up to this size lies within one of
#: them wherever it begins. Addresses are plenty (128 TiB), and what is mapped and not touched costs nothing else.
VIEW_BYTES: Final = 1 << 30
#: Memory that is committed at once: a tenth of a second, in which Python does not see signals.
_COMMIT_BYTES: Final = 1 << 28
#: Views that stay mapped with no array in them.
VIEWS_KEPT: Final = 8


class Mapping:
    """A file, or memory, mapped. Close it, or use it in a ``with`` block; arrays stay valid after that.

    Parameters
    ----------
    path : str, bytes or os.PathLike, or None
        A regular file. None: memory, zero at first, of `size` bytes.
    access : {"r+", "r", "c"}
        Read and write; read only; copy on write: what is written stays with this object.
    size : int, optional
        Bytes. None is the file's size. With "r+" a shorter file grows first, its space reserved, so that a full disk
        is an OSError now and not a fault later. See the notes for file systems that cannot reserve.
    name : str, optional
        By which other processes of this user open the same (`Mapping.open`, or the same call again). It goes with the
        last who has it open.
    execute : bool
        Machine code in it can be run: PAGE_EXECUTE_READ and so on, PROT_EXEC.
    reserve : bool
        Of memory: addresses only, to which `commit` gives memory: SEC_RESERVE.
    large_pages : bool
        Of memory: in large pages, all of them now or an error: SEC_LARGE_PAGES, MFD_HUGETLB.
    no_cache : bool
        Memory that the processor does not cache, for devices: SEC_NOCACHE. Linux has none to give.

    Attributes
    ----------
    path, access, name
        As given. Who opened a name that stands for a file finds its path here.
    size : int
        Bytes that can be used.
    created : bool
        False: the name existed, and this is what it stands for.

    Raises
    ------
    OSError
        The system's: FileNotFoundError, IsADirectoryError, PermissionError, ENODEV for what is no regular file,
        ENOSPC; PermissionError for a name that another user has taken, FileExistsError for one that stands for
        something else; EOPNOTSUPP for what this system lacks.
    ValueError
        An empty file and no size; a size beyond the end of a file that is not to be written; arguments that make no
        sense.

    Notes
    -----
    Arrays of one mapping, of several of the same file and in several processes, and plain reads and writes of the
    file show the same bytes at once. Direct transfers (`gatherio.open`) go around what is mapped: `flush` before
    one reads, and touch nothing while one writes.

    A file system without fallocate(2) reserves nothing (ext2 and ext3, NFS before 4.2). There a file is made longer if
    it fits at this moment, and when the disk is full later, the first write to a mapped page is a SIGBUS. Growing
    writes no byte, and the file does not become shorter than others make it meanwhile. One window remains, without
    fallocate(2) and while somebody else has the file open: what is appended behind `size` within some microseconds is
    cut.

    When another process cuts a mapped file shorter, or the file in /dev/shm of memory with a name, `read`, `write`,
    `put` and `get` raise OSError behind its new end. Touching an array there ends the process on Linux (SIGBUS);
    Windows refuses the cut. Cuts through gatherio in this process are refused on both (EBUSY). Memory without a name
    cannot be cut. Where a sandbox refuses process_vm_readv(2), a cut in the very moment of a copy is a SIGBUS as well.
    """

    path: Path | None
    access: str
    name: str | None
    size: int
    created: bool

    _section: Section  # what is mapped
    _holder: Section  # what has the name, if it has one; the same as `_section` for named memory that is written
    _whole_path: str | bytes  # wherever the working directory moves
    _access: int
    _flags: int
    _closed = True

    def __init__(
        self,
        path: Path | None,
        access: Access = "r+",
        size: int | None = None,
        *,
        name: str | None = None,
        execute: bool = False,
        reserve: bool = False,
        large_pages: bool = False,
        no_cache: bool = False,
    ) -> None:
        if size is None and path is None:
            raise ValueError("memory needs a size")
        size = None if size is None else operator.index(size)
        if size is not None and not 0 < size <= SIZE_MAX:
            raise ValueError(f"a mapping has 1 to {SIZE_MAX} bytes, not {size}")
        if path is not None and (reserve or large_pages):
            raise ValueError("reserve and large_pages are for memory, not for files")
        if reserve and large_pages:
            raise ValueError("large pages are committed at once: reserve=True and large_pages=True exclude each other")
        if name is not None:
            checked_name(name)
        self._set_up(path, access, name)
        self._flags = (
            lib.GIO_MAP_EXECUTE * bool(execute)
            | lib.GIO_MAP_RESERVE * bool(reserve)
            | lib.GIO_MAP_LARGE_PAGES * bool(large_pages)
            | lib.GIO_MAP_NO_CACHE * bool(no_cache)
        )
        try:
            self._make(path, name, size)
        except BaseException:
            self._abandon()
            raise

    def _make(self, path: Path | None, name: str | None, size: int | None) -> None:
        wanted = Header(size or 0, 0, 0, self._flags, b"")
        if path is not None:
            self._whole_path = os.path.abspath(os.fspath(path))
            self._section.open_file(path, self._access, self._flags, size or 0)
            self.size = self._section.size
            wanted = Header(self.size, *self._section.identity, self._flags, os.fsencode(self._whole_path))
        elif name is None:
            self._section.open_memory(None, None, self._access, self._flags, wanted.size)
            self.size = wanted.size
        if name is not None:
            found = hold(self._holder, name, wanted)
            self.created = self._holder.created
            if not found.stands_for_the_same_as(wanted):
                raise FileExistsError(errno.EEXIST, "the name exists already, and stands for something else", name)
            if path is None:
                if found.size < wanted.size:
                    raise ValueError(f"the name {name!r} exists, with {found.size} bytes, and {size} are asked for")
                self._map_named_memory(found)
        self._ready()

    @classmethod
    def open(cls, name: str, access: Access = "r+", *, execute: bool = False) -> Mapping:
        """Open what a program of this user has given a name to.

        Raises
        ------
        FileNotFoundError
            There is no such name, or no more the file that it stands for.
        PermissionError
            Another user has taken the name, or it is no shared memory (a folder on Linux: IsADirectoryError).
        OSError
            Another file has taken the place of that which the name stands for (ESTALE); nothing is done to it. The
            memory has become shorter (EIO), or the file, and cannot be made as long as it was.
        ValueError
            What the name stands for cannot be told: another program has written there.
        """
        checked_name(name)
        mapping = cls.__new__(cls)
        mapping._set_up(None, access, name)
        mapping._flags = lib.GIO_MAP_EXECUTE * bool(execute)
        mapping.created = False
        try:
            mapping._find(name)
        except BaseException:
            mapping._abandon()
            raise
        return mapping

    def _find(self, name: str) -> None:
        found = find(self._holder, name)
        if not found.path:
            self._map_named_memory(found)
        else:
            path = os.fsdecode(found.path)
            self.path = self._whole_path = path
            identity = found.device, found.inode
            self._section.open_file(path, self._access, self._flags, found.size, identity)
            self.size = self._section.size
        self._ready()

    def _abandon(self) -> None:
        """A traceback keeps the half-made mapping alive, and must not keep its name."""
        with contextlib.suppress(OSError):  # why it was not made is what is to be told
            self.close()

    # -- making it --------------------------------------------------------------------------------------------------

    def _set_up(self, path: Path | None, access: str, name: str | None) -> None:
        if access not in _ACCESS:
            raise ValueError(f"access is one of {', '.join(_ACCESS)}, not {access!r}")
        self.path, self.access, self.name, self.created = path, access, name, True
        self.size = 0
        self._access = _ACCESS[access]
        self._section, self._holder = Section(), Section()
        self._base = 0  # of the data in the section
        self._advice = lib.GIO_ADVICE_NORMAL
        self._lock = threading.RLock()  # a signal handler may use the mapping as well
        self._kept: OrderedDict[tuple[int, int], Bytes] = OrderedDict()
        self._living: weakref.WeakValueDictionary[tuple[int, int], Bytes] = weakref.WeakValueDictionary()

    def _map_named_memory(self, found: Header) -> None:
        self._flags |= found.flags & ~lib.GIO_MAP_EXECUTE
        if self._access != lib.GIO_MAP_WRITE or self._flags & ~found.flags:
            self._section.open_memory(self.name, None, self._access, self._flags, 0)
        else:
            self._section = self._holder
        self.size, self._base = found.size, HEADER_BYTES

    def _ready(self) -> None:
        self._end = self._base + self.size
        self._closed = False
        if self._access == lib.GIO_MAP_COPY or self._flags & lib.GIO_MAP_EXECUTE:
            self._view(0, 1, checked=False)  # what cannot be mapped so, fails now
        _living.add(self)

    # -- views ----------------------------------------------------------------------------------------------------

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """The view for the section's bytes [start, stop)."""
        # One view for all of a private copy: another one would be another copy.
        if self._access == lib.GIO_MAP_COPY or self._end <= 2 * VIEW_BYTES:
            return 0, self._end
        first = start - start % VIEW_BYTES
        if stop <= first + 2 * VIEW_BYTES:
            return first, min(first + 2 * VIEW_BYTES, self._end)
        return self._tight_span(start, stop)

    def _tight_span(self, start: int, stop: int) -> tuple[int, int]:
        step = self._section.granularity
        return start - start % step, min(-(-stop // step) * step, self._end)

    def _view(self, offset: int, nbytes: int, checked: bool = True) -> tuple[Bytes, int]:
        """A view that holds the range, and where in it the range begins."""
        start, stop = self._base + offset, self._base + offset + nbytes
        with self._lock:
            self._check_open()
            span = self._span(start, stop)
            view = self._kept.get(span)
            if view is not None:
                self._kept.move_to_end(span)
            else:
                view = self._living.get(span)
                if view is None:
                    span, view = self._map(span, start, stop)
                self._keep(span, view)
        if checked and self._flags & lib.GIO_MAP_RESERVE:
            self._check_committed(view, span, start, nbytes)
        return view, start - span[0]

    def _map(self, span: tuple[int, int], start: int, stop: int) -> tuple[tuple[int, int], Bytes]:
        try:
            view = self._section.map(*span)
        except OSError as failure:
            tight = self._tight_span(start, stop)
            if failure.errno != errno.ENOMEM or tight == span or self._access == lib.GIO_MAP_COPY:
                raise
            self._kept.clear()  # addresses are limited here (RLIMIT_AS)
            span, view = tight, self._section.map(*tight)
        if self._advice != lib.GIO_ADVICE_NORMAL:
            self._advise(view, 0, view.size, self._advice)
        self._living[span] = view
        return span, view

    def _keep(self, span: tuple[int, int], view: Bytes) -> None:
        self._kept[span] = view
        while len(self._kept) > VIEWS_KEPT:
            self._kept.popitem(last=False)

    def _check_committed(self, view: Bytes, span: tuple[int, int], start: int, nbytes: int) -> None:
        address = ffi.from_buffer("char[]", view) + (start - span[0])
        code = lib.gio_section_committed(self._section.native, address, start, nbytes)
        if code == lib.GIO_E_BEYOND:
            raise ValueError(
                f"no memory yet for all of {nbytes} bytes at offset {start - self._base}: commit them first"
            )
        check(code, "looking for committed memory", self._about())

    def _views_over(self, offset: int, nbytes: int) -> Iterator[tuple[Bytes, int, int]]:
        """Views that together cover a range of any length: each with where in it the part begins, and its length."""
        while nbytes > 0:
            step = min(nbytes, VIEW_BYTES)
            view, position = self._view(offset, step, checked=False)
            yield view, position, step
            offset += step
            nbytes -= step

    # -- checks -----------------------------------------------------------------------------------------------------

    def _about(self) -> object:
        return self.path if self.path is not None else self.name

    def _check_open(self) -> None:
        if self._closed:
            raise closed(f"operation on a closed mapping of {self._about()!r}")

    def _checked_range(self, offset: int, nbytes: int | None) -> tuple[int, int]:
        self._check_open()
        offset = operator.index(offset)
        size = self._end - self._base  # what is mapped, whatever `size` has been set to
        nbytes = size - offset if nbytes is None else operator.index(nbytes)
        if offset < 0 or nbytes < 0 or offset + nbytes > size:
            raise ValueError(f"{nbytes} bytes at offset {offset} do not lie within the mapping's {size}")
        return offset, nbytes

    def _check_writeable(self) -> None:
        if self._access == lib.GIO_MAP_READ:
            raise PermissionError(
                errno.EACCES, "mapped for reading only; access 'r+' writes, 'c' into a copy", self._about()
            )

    # -- using it ---------------------------------------------------------------------------------------------------

    def array(
        self, shape: Shape, dtype: npt.DTypeLike = float, offset: int = 0, order: Literal["C", "F"] = "C"
    ) -> Array:
        """Return an array of the mapped bytes themselves.

        Parameters
        ----------
        shape : int or sequence of int
        dtype : dtype
            Any but those that hold Python objects.
        offset : int
            Bytes from the start; any.
        order : {"C", "F"}

        Returns
        -------
        ndarray
            What lies under it stays mapped while it, or a view of it, lives, also after `close`. Read-only with access
            "r".

        Raises
        ------
        ValueError
            It does not lie within the mapping, or the mapping is closed.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"mapped bytes cannot hold Python objects: {kind}")
        sizes = _as_shape(shape)
        if any(size < 0 for size in sizes):
            raise ValueError(f"negative dimensions are not allowed: {sizes}")
        offset, nbytes = self._checked_range(offset, math.prod(sizes) * kind.itemsize)
        if nbytes == 0:  # lies nowhere
            nothing: Array = np.ndarray(sizes, kind, order=order)  # np.empty gives "U0" a character
            nothing.flags.writeable = self._access != lib.GIO_MAP_READ
            return nothing
        view, position = self._view(offset, nbytes)
        array: Array = np.ndarray(sizes, kind, view, position, order=order)
        return array

    def write(self, data: Any, offset: int) -> int:
        """Copy bytes into the mapping.

        Parameters
        ----------
        data : bytes-like or ndarray
            An array goes in C order.
        offset : int

        Returns
        -------
        int
            How many.

        Raises
        ------
        OSError
            The file has become shorter (see `Mapping`).
        PermissionError
            Mapped for reading only.
        """
        self._check_open()
        self._check_writeable()
        if not is_array(data):
            source = np.frombuffer(memoryview(data).cast("B"), np.uint8)
            with Hold(source):
                self._copy(lib.GIO_WRITE, offset, source)
            return source.size
        array = exact(data).view()  # its own: nobody changes it meanwhile
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype} holds Python objects, not bytes")
        with Hold(array):
            self._copy(lib.GIO_WRITE, offset, records.flat_bytes(np.ascontiguousarray(array)))
        return int(array.nbytes)

    def read(self, offset: int, nbytes: int | None = None, out: Any = None) -> Any:
        """Copy bytes out of the mapping.

        Parameters
        ----------
        offset : int
        nbytes : int, optional
            None: as many as `out` has, or all there are.
        out : ndarray or other writeable buffer, optional
            Contiguous, of `nbytes` bytes.

        Returns
        -------
        bytes, or `out`

        Raises
        ------
        OSError
            The file has become shorter (see `Mapping`).
        """
        if out is None:
            offset, nbytes = self._checked_range(offset, nbytes)
            room = io.BytesIO(bytes(nbytes))  # whose memory is the result's: nothing is copied twice
            with room.getbuffer() as memory:
                self._copy(lib.GIO_READ, offset, np.frombuffer(memory, np.uint8))
            return room.getvalue()
        target = self._target(out)
        if nbytes is not None and nbytes != target.size:
            raise ValueError(f"out has {target.size} bytes, and {nbytes} are asked for")
        with Hold(target):
            self._copy(lib.GIO_READ, offset, target)
        return out

    @staticmethod
    def _target(out: Any) -> Bytes:
        if is_array(out):
            array = exact(out).view()  # its own: nobody changes it meanwhile
            if not array.flags.writeable or not array.flags.c_contiguous or array.dtype.hasobject:
                raise ValueError("out is a C-contiguous, writeable array without Python objects")
            return records.flat_bytes(array)
        target = np.frombuffer(memoryview(out).cast("B"), np.uint8)
        if not target.flags.writeable:
            raise ValueError("out is read-only")
        return target

    def _copy(self, direction: int, offset: int, memory: Bytes) -> None:
        offset, nbytes = self._checked_range(offset, memory.size)
        if nbytes == 0:
            return
        view, position = self._view(offset, nbytes)
        code = self._section.copy(direction, view, position, memory, self._base + offset + nbytes)
        self._check(code, f"{'reading' if direction == lib.GIO_READ else 'writing'} {nbytes} bytes at offset {offset}")

    def _check(self, code: int, doing: str) -> None:
        if code == lib.GIO_E_CLOSED:  # by another thread just now
            self._check_open()
        check(code, doing, self._about())

    # -- objects ----------------------------------------------------------------------------------------------------

    def put(self, obj: Any, offset: int, *, allow_pickle: bool = False) -> int:
        """Store one object: a numpy array, or what json can hold.

        It comes back as it was, or is refused. But tuples come back as lists, and an object of a subclass as one of
        the plain class that JSON has: ``np.float64`` as float, an IntEnum as int, an OrderedDict as dict.

        Parameters
        ----------
        obj : object
        offset : int
            Any; at a multiple of 64 an array's data is aligned.
        allow_pickle : bool
            Pickle what is neither.

        Returns
        -------
        int
            Bytes used.

        Raises
        ------
        TypeError
            It would have to be pickled; among others a dict with keys that are no str, and an array of Python objects
            or of a dtype that is not numpy's own (bfloat16). Or it is a masked array.
        ValueError
            It does not fit.
        """
        self._check_open()
        self._check_writeable()
        array = exact(obj).view() if is_array(obj) else None
        if array is None or array.dtype.hasobject:
            return self._put(records.encode(obj, allow_pickle), offset)
        with Hold(array):
            if not is_anonymous(array):
                array = self._fetched(array)
            return self._put(records.encode(array, allow_pickle), offset)

    def _put(self, record: records.Record, offset: int) -> int:
        offset, nbytes = self._checked_range(offset, record.nbytes)
        body = offset + records.HEADER_BYTES
        self.write(bytes(len(records.MAGIC)), offset)  # no record from here on ...
        self.write(record.description, body)
        self.write(record.data, body + len(record.description))
        self.write(record.header(), offset)  # ... until here
        return nbytes

    def _fetched(self, array: Array) -> Array:
        """What the checksum may look at: of a mapped file, which somebody may cut shorter, a copy."""
        if not array.flags.forc or array.nbytes == 0:
            return array
        copy = np.empty_like(array, subok=False)
        code = self._section.copy(lib.GIO_WRITE, records.flat_bytes(copy), 0, records.flat_bytes(array), 0)
        self._check(code, f"copying an array of {array.nbytes} bytes")
        return copy

    def get(self, offset: int, *, allow_pickle: bool = False) -> Any:
        """Load what `put` has stored: a copy, checked to be whole.

        Raises
        ------
        ValueError
            No record begins there, it is torn (being written, or left half), or it is pickled and `allow_pickle` is
            False. Unpickling runs whatever the writer wants: allow it if you trust everybody who can write there.
        """
        offset, available = self._checked_range(offset, None)

        def read(position: int, out: Bytes) -> None:
            self._copy(lib.GIO_READ, offset + position, out)

        return records.decode(read, available, allow_pickle, f"at offset {offset} of {self._about()!r}")

    def nbytes_of(self, obj: Any, *, allow_pickle: bool = False) -> int:
        """Tell how many bytes `put` would use."""
        return records.encode(obj, allow_pickle).nbytes

    # -- the system's side ------------------------------------------------------------------------------------------

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Bring what was written to the file to stable storage: all of it, or a range.

        Memory and copies have none, and nothing is done.

        Notes
        -----
        fsync(2), or msync(2) for a range; on Windows FlushViewOfFile and then FlushFileBuffers, for the first alone
        only begins to write.
        """
        offset, nbytes = self._checked_range(offset, length)
        if self.path is None or self._access != lib.GIO_MAP_WRITE:
            return
        if nbytes == self.size:
            self._check(lib.gio_section_flush_all(self._section.native), "flushing to stable storage")
            return
        for view, position, step in self._views_over(offset, nbytes):
            address = ffi.from_buffer("char[]", view) + position
            self._check(
                lib.gio_section_flush(self._section.native, address, step),
                f"flushing {nbytes} bytes at offset {offset} to stable storage",
            )

    def commit(self, offset: int, length: int) -> None:
        """Give memory to a range of addresses that were only reserved. Twice is fine.

        Parameters
        ----------
        offset, length : int
            Bytes; rounded to whole pages.

        Raises
        ------
        OSError
            There is not so much memory.
        ValueError
            This mapping was not made with ``reserve=True``.
        """
        offset, nbytes = self._checked_range(offset, length)
        if not self._flags & lib.GIO_MAP_RESERVE:
            raise ValueError("only memory that was made with reserve=True is committed part by part")
        step = self._section.granularity
        start = (self._base + offset) // step * step - self._base
        most = _COMMIT_BYTES
        for view, position, part in self._views_over(start, offset + nbytes - start if nbytes else 0):
            address = ffi.from_buffer("char[]", view) + position
            done = 0
            while done < part:
                now = min(part - done, most)
                code = lib.gio_section_commit(self._section.native, address + done, self._base + start + done, now)
                if code == lib.GIO_E_INTERRUPTED:  # Linux gives all of it up when there is a signal: less at once
                    most = max(most // 2 // step * step, step)
                    continue
                self._check(code, f"committing {nbytes} bytes at offset {offset}")
                done += now
            start += part

    def advise(
        self,
        advice: Literal["normal", "sequential", "random", "willneed", "dontneed"],
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        """Tell the system what is about to happen. It changes speed only.

        Notes
        -----
        madvise(2). Windows has PrefetchVirtualMemory for "willneed" and VirtualUnlock, which takes pages out of the
        working set, for "dontneed"; "sequential" and "random" do nothing there. A copy keeps what was written to it.
        """
        if advice not in _ADVICE:
            raise ValueError(f"advice is one of {', '.join(_ADVICE)}, not {advice!r}")
        offset, nbytes = self._checked_range(offset, length)
        code = _ADVICE[advice]
        if nbytes == self.size and advice in ("normal", "sequential", "random"):
            self._advice = code  # for views to come, too
        for view, position, step in self._views_over(offset, nbytes):
            self._advise(view, position, step, code)

    def _advise(self, view: Bytes, position: int, nbytes: int, advice: int) -> None:
        address = ffi.from_buffer("char[]", view) + position
        check(lib.gio_section_advise(self._section.native, address, nbytes, advice), "giving advice", self._about())

    # -- closing and moving -----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def close(self) -> None:
        """Give out no more arrays, and let go of the file or the name. Arrays there are stay valid. Twice is fine.

        Raises
        ------
        OSError
            What close(2) tells: on network file systems and FUSE that what was written has not been stored (EIO,
            EDQUOT, ENOSPC). It is closed all the same.
            Nobody is told of that when a mapping goes without having been closed.
        """
        with self._lock:
            self._closed = True
            self._kept.clear()
        # Also where it is closed already: a signal may have raised in between.
        codes = [section.close() for section in (self._section, self._holder)]
        code = next(filter(None, codes), 0)
        check(code, "closing the mapping: what was written to it may not have been stored", self._about())

    def __enter__(self) -> Mapping:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it again where it is unpickled: by its name, or by the file's path."""
        self._check_open()
        execute = bool(self._flags & lib.GIO_MAP_EXECUTE)
        if self._access == lib.GIO_MAP_COPY:
            raise TypeError("a copy-on-write mapping cannot be pickled: what was written to it is this process's own")
        if self.name is not None:
            return _open_name, (self.name, self.access, execute)
        if self.path is None:
            raise TypeError("memory without a name cannot be pickled: give it one")
        return _open_file, (self._whole_path, self.access, self.size, execute)

    def __del__(self) -> None:
        if not self._closed and not sys.is_finalizing():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        what = f"{self.path!r}" if self.path is not None else "memory"
        name = f", name {self.name!r}" if self.name is not None else ""
        state = ", closed" if self._closed else ""
        return f"<gatherio.Mapping: {what}, access {self.access!r}, {self.size} bytes{name}{state}>"


def _as_shape(shape: Shape) -> tuple[int, ...]:
    try:
        return (operator.index(shape),)  # type: ignore[arg-type]
    except TypeError:
        return tuple(map(operator.index, shape))  # type: ignore[arg-type]


def _open_name(name: str, access: Access, execute: bool) -> Mapping:
    return Mapping.open(name, access, execute=execute)


def _open_file(path: Path, access: Access, size: int, execute: bool) -> Mapping:
    return Mapping(path, access, size, execute=execute)


_living: weakref.WeakSet[Mapping] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """What is mapped is the child's as well; but a lock may have been another thread's."""
    for mapping in members(_living):
        mapping._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _close_at_exit() -> None:
    """Give names back: the interpreter may end without asking objects to go."""
    begin_to_end()
    failure = None
    for mapping in members(_living):
        try:
            mapping.close()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure  # and Python prints it
