"""Whole arrays in .npy files: written and read past the page cache, in the format of `numpy.save`.

A .npy file is a magic string, the length of a header, the header (a Python literal: descr, fortran_order,
shape) and the data. The header may be padded with spaces. `save` pads it until the data begins at byte 4096,
so that an array's pages go to the disk from where they stand; to `numpy.load` it is a .npy file like any
other. `load` reads every .npy file that holds no Python objects, wherever its data begins.

`save` never touches the old file: a new one takes its place once it is whole (`_replace`).
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._core.file import File
from .._core.file import open as open_file
from .._core.operation import Operation
from .._core.queue import CompletionQueue
from .._core.replace import Place, Target
from .._memory import pages
from .._progress import Progress, reporting
from .npy_header import (
    ENCODING,
    HEADER_MAX,
    LENGTH_FIELD,
    MAGIC,
    Version,
    cut,
    descr_of,
    fields_of,
    invalid,
    parse_fields,
    parse_prefix,
    prefix_size_of,
    short,
    truncated,
)

Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Where the data may begin: on a page, on the next one if the header needs more, else as numpy has it.
DATA_OFFSETS = (4096, 8192)
NUMPY_ALIGNMENT = 64
# What any memory of numpy's has at least.
MALLOC_ALIGNMENT = 16
# np.load refuses longer headers unless it is told otherwise, and padding counts.
NUMPY_HEADER_MAX = 10_000
# The length field of version 1.0 has 16 bits; a newline and padding come on top of the text.
TEXT_MAX_1_0 = 0xFFFF - NUMPY_ALIGNMENT
# A whole array could go as one operation. It goes in pieces where somebody watches, and where page faults are
# to overlap with the reading. There the pieces begin small, as the first one's faults overlap with nothing,
# and double, as each costs some 60 us of CPU time. Three in flight keep the queue full while the next is made
# ready.
PIECE = 64 << 20
FIRST_FAULTED_PIECE = 4 << 20
IN_FLIGHT_MAX = 3

# What a non-contiguous array is copied through, one buffer more than are in flight: 32 MiB, half of what
# `save` may use beside the array. A block of at most an eighth of a buffer leaves no more than that unused,
# and what was read for it still stands in the processor's cache.
BUFFER_BYTES = 8 << 20
BUFFERS = IN_FLIGHT_MAX + 1
BLOCK_BYTES = BUFFER_BYTES // 8


# --- save ---


def save(
    path: Path,
    array: npt.ArrayLike,
    *,
    durable: bool = False,
    progress: Progress = None,
    queue: CompletionQueue | None = None,
    honor_locks: bool = True,
) -> None:
    """Write an array to a .npy file that `numpy.load` reads, with or without ``mmap_mode``.

    The file at `path` is replaced in one step when the new one is whole; whatever happens before, it stays as
    it was. Until then the disk has to hold both. The new file has owner, group, mode, ACL and extended attributes
    of the one it replaces, as far as this process may give them, and fewer rights where it may not; or those of
    any new file. Other hard links to the old file keep the old content. A symbolic link stays, and what it points
    at is replaced. A relative path is that of the moment of the call.

    On Linux a process that is killed leaves nothing behind where the file system has files without a name
    (O_TMPFILE: ext4, xfs, btrfs, tmpfs). Elsewhere it leaves a file ``.gatherio-*.tmp`` in the folder; on Linux
    the next `save` to the same path removes it, and SIGTERM leaves none where the main thread saves.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file's name, taken as it is: unlike `numpy.save`, nothing is appended to it.
    array : array_like
        Any shape and dtype without Python objects; `numpy.asanyarray` is applied. C- and Fortran-contiguous
        arrays are written from where they stand (the latter in Fortran order), others are copied block by
        block through 32 MiB of buffers.
    durable : bool, optional
        Return only when the file and its name are on stable storage.
    progress : True or callable(done_bytes, total_bytes), optional
        True shows a bar (needs tqdm). A callable is called by this thread with bytes of the array's data:
        `done_bytes` never decreases, and is `total_bytes` in the last call. What it raises ends the save.
    queue : CompletionQueue, optional
        Where it is carried out; None takes the process's own.
    honor_locks : bool, optional
        As for `open`, where the old file is written in place. A file that is replaced is not written: locks on
        it are not in the way, and stay with the old content.

    Raises
    ------
    ValueError
        If the dtype holds Python objects or can't be described in a .npy header (bfloat16, float8, int4 and other
        types that are not numpy's own; the message names the view that can be saved), or `path` is there and no
        regular file.
    TypeError
        If `array` is a masked array: the format has no place for a mask.
    OSError
        If the file can't be written. Where the file system can reserve space, a lack of it is noticed before
        anything is written. On Windows also if somebody has the old file open, or mapped, for more than a second.
        Also if `path` is a symbolic link of another user in a folder that everybody may write to (EACCES).

    Warns
    -----
    InPlaceWarning
        Linux: the name cannot be given to another file, because it is a mount point or the folder may not be
        written. So the old file is written in place, as `numpy.save` does: if that fails, or the process is killed,
        its content is lost.
    """
    name = os.fsdecode(path)
    durable, honor_locks = bool(durable), bool(honor_locks)
    with Target(name, durable=durable) as target:
        source = _plain(array)
        head = _header_bytes(source)
        total = head.size + source.nbytes
        with pages.Hold(source), reporting(progress, source.nbytes, os.path.basename(name)) as report:

            def write(place: Place) -> None:
                in_place = place.mode == "w"
                with open_file(
                    place.path,
                    place.mode,
                    preallocate=total if in_place else None,  # the old content goes when there is space for the new one
                    queue=queue,
                    honor_locks=honor_locks and in_place,  # a new file is nobody's to lock
                ) as file:
                    place.check(file)
                    file.preallocate(total)
                    if not in_place:
                        file.truncate(total)  # nobody sees it yet, and writes that lengthen no file are faster
                    with _InFlight(_unheard if place.again else report, done=-head.size) as flight:
                        if source.flags.c_contiguous or source.flags.f_contiguous:
                            _write_in_place(file, head, _data_of(source), flight, watched=progress is not None)
                        else:
                            _write_in_blocks(file, head, source, flight)
                    if durable:
                        file.flush()

            target.replace(write)


def _unheard(done: int) -> None:
    """For what is written a second time: to the caller it is done."""


def _plain(array: npt.ArrayLike) -> Array:
    """An ndarray of our own on the same memory: whatever becomes of `array`, header and data fit together."""
    source = np.asanyarray(array)
    pages.refuse_masked(source)
    plain: Array = np.asarray(source).view()
    return plain


def _data_of(array: Array) -> Bytes:
    """The bytes of a contiguous array in the order in which they stand in memory, not copied."""
    ordered = array if array.flags.c_contiguous else array.T
    if ordered.nbytes == 0:
        return np.empty(0, np.uint8)
    return ordered.reshape(-1).view(np.uint8)


def _write_in_place(file: File, head: Bytes, data: Bytes, flight: _InFlight, *, watched: bool) -> None:
    piece = PIECE if watched else max(data.size, 1)
    first = [head, data[:piece]] if data.size else [head]
    flight.add(file.write_gather(first, 0, copy=None))
    for start in range(piece, data.size, piece):
        flight.add(file.write_at(data[start : start + piece], head.size + start))


def _write_in_blocks(file: File, head: Bytes, array: Array, flight: _InFlight) -> None:
    """Write header and array as one stream through a few buffers, the next filled while the last are written.

    Only whole pages are sent; what stands behind the last one moves on to the next buffer. So each write is
    aligned, and no two in flight share a page of the file.
    """
    total = head.size + array.nbytes
    count = 1 if total <= BUFFER_BYTES else BUFFERS
    buffers = itertools.cycle([pages.empty(min(total, BUFFER_BYTES), np.uint8) for _ in range(count)])
    buffer, fill, offset = next(buffers), head.size, 0
    buffer[:fill] = head
    for block in _blocks(_as_items(array), BLOCK_BYTES):
        if fill + block.nbytes > buffer.size:
            sent = fill - fill % pages.PAGE_SIZE
            flight.add(file.write_at(buffer[:sent], offset))
            previous, buffer = buffer, next(buffers)
            buffer[: fill - sent] = previous[sent:fill]
            fill, offset = fill - sent, offset + sent
        np.copyto(buffer[fill : fill + block.nbytes].view(block.dtype).reshape(block.shape), block)
        fill += block.nbytes
    flight.add(file.write_at(buffer[:fill], offset))


def _as_items(array: Array) -> Array:
    """The same array with items that are copied as plain bytes, padding included, each at most a block."""
    if array.itemsize <= BLOCK_BYTES:
        return array.view(f"V{array.itemsize}")
    return array[..., np.newaxis].view(np.uint8)


def _blocks(array: Array, nbytes: int) -> Iterator[Array]:
    """Views that together are `array` in C order, as large as `nbytes` allows."""
    if array.nbytes <= nbytes:
        yield array
        return
    row_bytes = array.nbytes // len(array)
    if row_bytes > nbytes:
        for row in array:
            yield from _blocks(row, nbytes)
        return
    rows = nbytes // row_bytes
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


# --- load ---


def load(
    path: Path,
    out: Array | None = None,
    *,
    progress: Progress = None,
    queue: CompletionQueue | None = None,
    honor_locks: bool = True,
) -> Array:
    """Read a .npy file, as `numpy.load` does without ``allow_pickle`` and ``mmap_mode``.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file's name. Versions 1.0, 2.0 and 3.0 are read, with data at any offset; bytes behind the data
        are ignored. The header may come from anybody. It is read as what numpy writes, up to 1 MiB of it; what is
        merely Python (comments, one string behind another, a key twice), and several types in one string, are
        refused. Up to the 10,000 characters that `numpy.load` reads, it costs 10 ms and 10 MiB at most.
    out : ndarray, optional
        Where to put the data: writeable, with exactly the file's shape and dtype, and contiguous in its order
        (C or Fortran). Where the file has bytes of no type ("V2", as which `numpy.save` stores bfloat16), any type
        of the same size takes them. If the reading fails half-way, its contents are unspecified.
    progress : True or callable(done_bytes, total_bytes), optional
        As for `save`. What a callable raises ends the load.
    queue : CompletionQueue, optional
        Where it is carried out; None takes the process's own.
    honor_locks : bool, optional
        As for `open`: whether an exclusive lock that somebody else has on the file makes it fail.

    Returns
    -------
    ndarray
        `out`, or a new writeable array with the file's shape, dtype and order. It starts on a page if the data does so
        in the file, as `save` sees to; else as far behind one as it does there, so that it need not be copied.

    Raises
    ------
    ValueError
        If this is no whole .npy file, or one with Python objects: nothing is ever unpickled. If `out` does
        not fit.
    TypeError
        If `out` is no array, or a masked one.
    OSError
        If the file can't be opened or read. LockedError if somebody else has an exclusive lock on a part of it.
    MemoryError
        If there is no memory for the array.
    """
    name = os.fsdecode(path)
    with open_file(name, "r", queue=queue, honor_locks=honor_locks) as file:
        header = _read_header(file, name)
        array = _new_array(header, name, _place_in_block(file, header)) if out is None else _fitting(out, header, name)
        with (
            reporting(progress, header.nbytes, os.path.basename(name)) as report,
            _InFlight(report) as flight,
        ):
            data = _data_of(array)
            if out is None:
                _read_faulting(file, data, header.data_offset, flight)
            else:
                _read_in_place(file, data, header.data_offset, flight, watched=progress is not None)
    if flight.done != header.nbytes:
        raise truncated(name, "data", header.data_offset + header.nbytes, header.data_offset + flight.done)
    return array if out is None else out


def _place_in_block(file: File, header: _Header) -> int:
    """How far behind a block's start the data is to lie in memory: as far as in the file.

    Then whole blocks come straight to where they belong. 0, a page's start, where that is no place for numbers.
    """
    place = header.data_offset % max(file.alignment, file.memory_alignment) if file.direct else 0
    return place if place % MALLOC_ALIGNMENT == 0 else 0


def _new_array(header: _Header, name: str, place: int) -> Array:
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    try:
        if header.nbytes == 0:
            # No memory to align. And of the ways to make an array this one leaves items of no bytes alone.
            nothing: Array = np.ndarray(header.shape, header.dtype, order=order)
            return nothing
        memory = pages.empty(place + header.nbytes, np.uint8, prefault=False)
        array: Array = np.ndarray(header.shape, header.dtype, memory, place, order=order)
        return array
    except (ValueError, OverflowError) as error:
        kind = cut(str(header.dtype))
        raise invalid(name, f"no array has shape {short(header.shape)} and dtype {kind}: {error}") from None


def _fitting(out: Array, header: _Header, name: str) -> Array:
    """A view of `out` that is ours alone, if the file's data fits into it."""
    if not pages.is_array(out):
        raise TypeError(f"out is an ndarray, not {type(out).__name__}")
    out = pages.exact(out).view()
    if out.shape != header.shape:
        raise ValueError(f"out has shape {out.shape}, {name!r} has {header.shape}")
    if not _takes(out.dtype, header.dtype):
        raise ValueError(f"out has dtype {cut(str(out.dtype))}, {name!r} has {cut(str(header.dtype))}")
    if not (out.flags.f_contiguous if header.fortran_order else out.flags.c_contiguous):
        order = "Fortran" if header.fortran_order else "C"
        raise ValueError(f"out is not {order}-contiguous, and {name!r} is in {order} order")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out


def _takes(wanted: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    """Whether items of the one dtype can be read from a file of the other: the same, but for bytes of no type."""
    if wanted == stored:
        return True
    if wanted.hasobject or wanted.itemsize != stored.itemsize:
        return False
    if stored.subdtype is not None:
        return wanted.shape == stored.shape and _takes(wanted.base, stored.base)
    if stored.names is None:
        return stored.type is np.void
    return wanted.names == stored.names and all(
        ours[2] == theirs[2] and _takes(ours[1], theirs[1])
        for ours, theirs in zip(fields_of(wanted), fields_of(stored), strict=True)
    )


def _read_faulting(file: File, data: Bytes, offset: int, flight: _InFlight) -> None:
    """Read into fresh memory: a piece's pages are faulted in while the pieces before it are read."""
    start, size = 0, FIRST_FAULTED_PIECE
    while start < data.size:
        end = start + size - (offset + start + size) % pages.PAGE_SIZE  # the next piece begins with a page of the file
        piece = data[start:end]
        pages.prefault(piece)
        flight.add(file.read_at(piece, offset + start))
        start, size = end, min(2 * size, PIECE)


def _read_in_place(file: File, data: Bytes, offset: int, flight: _InFlight, *, watched: bool) -> None:
    step = PIECE if watched else max(data.size, 1)
    for start in range(0, data.size, step):
        flight.add(file.read_at(data[start : start + step], offset + start))


# --- operations in flight ---


class _InFlight:
    """Operations waited for in the order of their submission, and all of them before anything leaves.

    Parameters
    ----------
    report : callable(done_bytes)
        Called when an operation has ended, and at least once.
    done : int
        Where the count begins: minus the bytes that are not the array's.
    """

    def __init__(self, report: Callable[[int], object], done: int = 0) -> None:
        self.done = done
        self._report = report
        self._reported = False
        self._operations: deque[Operation] = deque()

    def __enter__(self) -> _InFlight:
        return self

    def add(self, operation: Operation) -> None:
        """Take note of an operation, and wait for the oldest if there are now too many."""
        self._operations.append(operation)
        if len(self._operations) > IN_FLIGHT_MAX:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        self.done += self._operations[0].result()
        self._operations.popleft()
        self._report(max(self.done, 0))
        self._reported = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._operations and error is None:
                self._finish_oldest()
            if not self._reported and error is None:
                self._report(self.done)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """End what is still under way. Its failure is told by the first one's."""
        for operation in self._operations:
            with suppress(Exception):
                operation.cancel()
        for operation in self._operations:
            with suppress(Exception):
                operation.result()


# --- the header ---


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    data_offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _header_bytes(array: Array) -> Bytes:
    """Everything before the data, in pages of its own."""
    fields = {
        "descr": descr_of(array.dtype),
        "fortran_order": array.flags.f_contiguous and not array.flags.c_contiguous,
        "shape": array.shape,
    }
    # To the letter what numpy writes: some readers look for its commas.
    version, text = _encode("{" + "".join(f"'{key}': {value!r}, " for key, value in fields.items()) + "}")
    prefix_size = prefix_size_of(version)
    size = _padded_size(prefix_size, prefix_size + len(text) + 1)
    if size - prefix_size > HEADER_MAX:
        raise ValueError(f"the dtype needs a header of {size} bytes, and load reads {HEADER_MAX} at most")
    prefix = MAGIC + bytes(version) + struct.pack(LENGTH_FIELD[version], size - prefix_size)
    head = pages.empty(size, np.uint8)
    head[:] = ord(" ")
    head[: prefix_size + len(text)] = np.frombuffer(prefix + text, np.uint8)
    head[-1] = ord("\n")
    return head


def _encode(text: str) -> tuple[Version, bytes]:
    """The header's text in the oldest version of the format that takes it."""
    try:
        encoded = text.encode(ENCODING[1, 0])
    except UnicodeEncodeError:
        return (3, 0), text.encode(ENCODING[3, 0])
    return (1, 0) if len(encoded) <= TEXT_MAX_1_0 else (2, 0), encoded


def _padded_size(prefix_size: int, unpadded_size: int) -> int:
    """Where the data begins, when the header alone ends at `unpadded_size`."""
    for offset in DATA_OFFSETS:
        if unpadded_size <= offset:
            return offset
    padded = -(-unpadded_size // NUMPY_ALIGNMENT) * NUMPY_ALIGNMENT
    padding_is_too_much = unpadded_size - prefix_size <= NUMPY_HEADER_MAX < padded - prefix_size
    return unpadded_size if padding_is_too_much else padded


def _read_header(file: File, name: str) -> _Header:
    """The header, checked against the size of the file."""
    first = _read_start(file, DATA_OFFSETS[0])
    version, prefix_size, size = parse_prefix(first, name)
    start = first if size <= len(first) else _read_start(file, size)
    if len(start) < size:
        raise truncated(name, "header", size, len(start))
    shape, fortran_order, dtype = parse_fields(start[prefix_size:size], version, name)
    header = _Header(shape, fortran_order, dtype, size)
    if size + header.nbytes > file.size:
        raise truncated(name, "data", size + header.nbytes, file.size)
    return header


def _read_start(file: File, nbytes: int) -> bytes:
    buffer = pages.empty(nbytes, np.uint8)
    return buffer[: file.read_at(buffer, 0).result()].tobytes()
