"""Segments: the list of places in memory that one gather or scatter moves, in the order of the file."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib
from ..errors import AlignmentError
from .pages import PAGE_SIZE, PAGES, Allocation, address_of, exact, is_anonymous, is_array, memory_of, refuse_masked

__all__ = ["Segments"]

Array: TypeAlias = npt.NDArray[Any]

_SEGMENTS: Final = ffi.typeof("gio_segment[]")
_FACTS: Final = ffi.typeof("gio_segments_facts *")
_ADDRESSES: Final = ffi.typeof("void *[]")
_LENGTHS: Final = ffi.typeof("uint64_t[]")


def checked(array: object) -> Array:
    """`array` itself, or what is `exact` of it, if it is an ndarray whose bytes can be handed to the kernel."""
    if type(array) is not np.ndarray:
        array = exact(array)
    if array.dtype.hasobject:
        raise TypeError(f"an array of Python objects cannot go to a file: dtype {array.dtype}")
    if not array.flags.c_contiguous:
        raise AlignmentError(
            f"not C-contiguous: an array of shape {array.shape} and strides {array.strides} at address "
            f"{array.__array_interface__['data'][0]:#x}; numpy.ascontiguousarray makes a copy that is, and the "
            "transpose (.T) of a Fortran-contiguous array is one without a copy"
        )
    return array


def checked_targets(writeable: bool) -> None:
    """Raise unless what is to be read into may be written."""
    if not writeable:
        raise ValueError("cannot read into a read-only array; make it writeable or read into a copy")


def checked_offsets(offsets: npt.ArrayLike, count: int) -> npt.NDArray[np.uint64]:
    """The places in a file of `count` arrays, or an exception that says what is wrong with them."""
    places = _integers(offsets, "offsets")
    if len(places) != count:
        raise ValueError(f"{count} arrays and {len(places)} offsets: there has to be one for each")
    if places.size:
        low, high = int(places.min()), int(places.max())
        if low < 0 or high >= 2**63:
            bad = low if low < 0 else high
            raise ValueError(f"offset {bad} is out of range: files reach from 0 to {2**63 - 1} bytes")
    return places.astype(np.uint64, copy=False)


def _integers(values: npt.ArrayLike, what: str) -> Array:
    """A 1-d array of integers, of any integer dtype or of Python's. A copy: the caller may change theirs meanwhile."""
    refuse_masked(values)
    found = np.asarray(values)
    found = np.array(found)  # not in one step: an ``__array__`` may share its memory and say that it is a copy
    if found.ndim != 1:
        raise TypeError(f"{what} are a 1-d array of integers, not {found.ndim}-d of {found.dtype}")
    if found.dtype.kind in "iu" or not found.size:
        return found
    elements: Any = values
    if isinstance(elements, Sequence) and found.dtype.kind != "b":
        # numpy finds no integer dtype for uint64 beside signed ones, and none for what is beyond 64 bits.
        try:
            return np.array([operator.index(element) for element in elements], object)
        except TypeError as error:
            raise TypeError(f"{what} are a 1-d array of integers: {error}") from error
    cause = ""
    if found.dtype.kind == "f":
        cause = "; numpy makes float64 of uint64 together with signed integers: convert them to one type first"
    raise TypeError(f"{what} are a 1-d array of integers, not of {found.dtype}{cause}")


@final
class Segments:
    """The places in memory that a gather takes a file's bytes from, or that a scatter puts them in.

    Built once, used as often as you like, never changed. It keeps its arrays alive, and their memory where it is: what
    that belongs to (a bytearray, an mmap, a SharedMemory) cannot be resized or closed meanwhile, and raises
    BufferError.

    Parameters
    ----------
    arrays : iterable of ndarray
        C-contiguous, of any shapes and dtypes; in the order that they have in the file.

    Raises
    ------
    AlignmentError
        An array is not C-contiguous.
    TypeError
        Not an array, or one of Python objects, or a masked one.
    ValueError
        The memory of an array has gone: what it belongs to has been closed or resized.
    """

    __slots__ = (
        "_anonymous",
        "_base",
        "_count",
        "_distinct",
        "_facts",
        "_memories",
        "_native",
        "_nbytes",
        "_owners",
        "_rows",
        "_writeable",
    )

    _owners: list[Array]
    _native: Any  # a gio_segment for each
    _count: int
    _facts: Any  # gio_segments_facts *
    _nbytes: int
    _base: Array | None
    _writeable: bool
    _anonymous: bool | None
    _distinct: bool | None
    _memories: list[Any]  # what keeps their memory
    #: Which ones of an array, and between which two, until it is known whether one is there twice.
    _rows: tuple[npt.NDArray[np.int64], int, int] | None

    # Not __init__, which can be called again while the kernel reads the table.
    def __new__(cls, arrays: Iterable[Array]) -> Segments:
        if is_array(arrays):
            raise TypeError("expected a list of arrays, not an array; Segments.rows takes the rows of one")
        owners: list[Array] = []
        memories: list[Any] = []
        writeable = True
        try:
            for array in arrays:
                if type(array) is not np.ndarray or array.dtype.hasobject or not array.flags.c_contiguous:
                    array = checked(array)
                owners.append(array)
                base = array.base
                while type(base) is np.ndarray:
                    base = base.base
                stays = base is None or (type(base) is Allocation and type(base.base) is PAGES)
                memories.append(ffi.from_buffer(array) if stays else memory_of(array))
                writeable &= array.flags.writeable
        except BaseException:
            _release(memories)
            raise
        count = len(owners)
        native, facts = ffi.new(_SEGMENTS, count), ffi.new(_FACTS)
        lengths = ffi.new(_LENGTHS, list(map(len, memories)))
        lib.gio_segments_make(ffi.new(_ADDRESSES, memories), lengths, count, PAGE_SIZE, native, facts)
        return cls._of(native, facts, count, owners, memories, owners[0] if count == 1 else None, writeable)

    def __init_subclass__(cls) -> None:
        raise TypeError("gatherio.Segments cannot be subclassed: what it says of itself is what the kernel is told")

    def __copy__(self) -> Segments:
        return self  # nothing changes it

    @classmethod
    def _of(
        cls,
        native: Any,
        facts: Any,
        count: int,
        owners: list[Array],
        memories: list[Any],
        base: Array | None,
        writeable: bool,
    ) -> Segments:
        segments = object.__new__(cls)
        segments._native = native
        segments._count = count
        segments._facts = facts
        segments._nbytes = facts.nbytes
        segments._owners = owners
        segments._memories = memories
        segments._base = base
        segments._writeable = writeable
        segments._anonymous = None
        segments._distinct = None
        segments._rows = None
        return segments

    @classmethod
    def rows(cls, array: Array, indices: npt.ArrayLike) -> Segments:
        """Take rows of one array, chosen and ordered by an index array, without a loop over them.

        Parameters
        ----------
        array : ndarray
            C-contiguous, with at least one dimension. For transfers without a copy it starts on a page and its rows
            are whole pages.
        indices : array_like of int, 1-d
            Along the first axis. Negative ones count from the end, as in numpy.

        Raises
        ------
        IndexError
            An index is out of range.
        TypeError
            The indices are no integers, or one of the arrays is a masked one.
        """
        array = checked(array)
        if array.ndim == 0:
            raise ValueError("a 0-d array has no rows")
        index = _integers(indices, "indices")
        count = array.shape[0]
        if index.size:
            low, high = int(index.min()), int(index.max())
            if low < -count or high >= count:
                raise IndexError(f"row {low if low < -count else high} is out of range for {count} rows")
            index = index.astype(np.int64, copy=False)
            if low < 0:
                index = np.where(index < 0, index + count, index)
                low, high = 0, count - 1
        memory = memory_of(array)
        stride = len(memory) // count if count else 0
        table = np.empty((index.size, 2), np.uint64)
        np.multiply(index, stride, out=table[:, 0], casting="unsafe")
        table[:, 0] += np.uint64(address_of(memory))
        table[:, 1] = stride
        native, facts = ffi.from_buffer("gio_segment[]", table), ffi.new(_FACTS)
        lib.gio_segments_describe(native, len(table), PAGE_SIZE, facts)
        segments = cls._of(native, facts, len(table), [array], [memory], array, array.flags.writeable)
        if index.size and stride:
            segments._rows = index, low, high
        return segments

    def _let_go(self) -> None:
        """It will not be used, and no traceback that refers to it is to keep the memory."""
        _release(self._memories)

    @property
    def nbytes(self) -> int:
        """The sum of the arrays' bytes."""
        return self._nbytes

    @property
    def base(self) -> Array | None:
        """The array that all of them lie in, where there is one."""
        return self._base

    @property
    def longest(self) -> int:
        """Bytes of the longest segment."""
        return int(self._facts.longest)

    @property
    def anonymous(self) -> bool:
        """Whether none of this is a mapped file's memory, as far as can be told."""
        if self._anonymous is None:
            self._anonymous = all(map(is_anonymous, self._owners))
        return self._anonymous

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<gatherio.Segments: {len(self)} segments, {self.nbytes} bytes>"

    def lie_in_place(self, alignment: int) -> bool:
        """Whether all this can be moved without a copy; see `check_in_place`."""
        facts = self._facts
        return bool(facts.loose == self._count and facts.last % alignment == 0)

    def check_in_place(self, alignment: int) -> None:
        """Raise AlignmentError unless all this can be moved without a copy.

        Each segment starts on a page; each but the last is whole pages; the last is a multiple of `alignment`.
        """
        if self.lie_in_place(alignment):
            return
        count = self._count
        at = min(self._facts.loose, count - 1)
        address, length = self._native[at].address, self._native[at].length
        if address % PAGE_SIZE:
            problem = f"starts {address % PAGE_SIZE} bytes behind a page boundary"
        elif at < count - 1:
            problem = f"is no whole number of pages of {PAGE_SIZE} bytes, and not the last"
        else:
            problem = f"ends the transfer at no multiple of {alignment} bytes"
        raise AlignmentError(
            f"array {at} of {count} ({length} bytes at address {address:#x}) {problem}: "
            "copy=None copies just what must be; gatherio.empty and gatherio.asaligned give arrays that need no copy"
        )

    def check_targets(self) -> None:
        """Raise ValueError unless these can be read into: writeable, and no byte in it twice."""
        checked_targets(self._writeable)
        if self._distinct is None:
            self._distinct = self._are_distinct()
        if not self._distinct:
            raise ValueError(
                "a place in memory is in this scatter twice: which bytes it would end up with is undefined"
            )

    def _are_distinct(self) -> bool:
        rows = self._rows
        if rows is not None:
            self._rows = None
            return _all_different(*rows)  # rows do not overlap
        distinct = ffi.new("int32_t *")
        code = lib.gio_segments_are_distinct(self._native, self._count, distinct)
        check(code, "looking for a place that is there twice")
        return bool(distinct[0])


def _release(memories: list[Any]) -> None:
    for memory in memories:
        ffi.release(memory)


def _all_different(rows: npt.NDArray[np.int64], low: int, high: int) -> bool:
    """Whether no row is there twice of those from low to high. Takes no more memory than the rows' numbers have."""
    span = high - low + 1
    if span > rows.nbytes:
        ordered = np.sort(rows)
        return bool((ordered[:-1] != ordered[1:]).all())
    seen = np.zeros(span, np.bool_)
    seen[rows - low if low else rows] = True
    return bool(np.count_nonzero(seen) == rows.size)
