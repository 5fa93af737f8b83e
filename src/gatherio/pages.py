"""Page-aligned memory as ordinary numpy arrays.

The kernel moves a page straight between a device and memory only where memory begins on a page boundary (or on the
device's own alignment). ``numpy.empty`` gives addresses that are multiples of 16 or 64; the functions here give whole
pages, in huge pages where that pays, and faulted in, because the first touch of a page costs more than writing it
to the disk.
"""

from __future__ import annotations

import errno
import functools
import itertools
import operator
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from ._native import deadline_ns, describe, ffi, is_over, lib, os_error
from .errors import AllocationError, PoolError, TimeoutError

__all__ = ["Pool", "asaligned", "empty", "empty_like", "full", "is_aligned", "prefault", "zeros"]

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Order: TypeAlias = Literal["C", "F"]


def _system_facts() -> dict[str, int]:
    facts = ffi.new("gio_system_facts *")
    lib.gio_system(facts)
    return {name: getattr(facts, name) for name, _ in ffi.typeof("gio_system_facts").fields}


FACTS: Final = _system_facts()
PAGE_SIZE: Final = FACTS["page_size"]
HUGE_PAGE_SIZE: Final = FACTS["huge_page_size"]
_ADDRESS_SPACE: Final = 2**63 - 1
_HUGE_PAGES_NEED: Final = (
    'the user needs the right "Lock pages in memory"; they are scarce once the system has run for a while'
    if sys.platform == "win32"
    else "they have to be reserved: /proc/sys/vm/nr_hugepages"
)


def _as_shape(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(map(operator.index, shape)) if isinstance(shape, Sequence) or np.iterable(shape) else None
    if sizes is None:
        sizes = (operator.index(shape),)  # type: ignore[arg-type]
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative dimensions are not allowed: {sizes}")
    return sizes


def refuse_masked(array: object) -> None:
    """Raise TypeError if `array` is a masked one: its mask lies outside of the bytes that are moved."""
    # Asked only of subclasses: numpy 2 imports its masked arrays on first use, which takes 20 ms.
    if isinstance(array, np.ndarray) and type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask: pass array.data and array.mask one after the other, or array.filled()"
        )


class Allocation(np.ndarray[Any, np.dtype[np.uint8]]):
    """All bytes of one allocation; the arrays that users have are views of it.

    Attributes
    ----------
    serial : int
        Never used twice; 0 where pages may not be there yet.
    length : int
        Bytes that were asked for.
    """

    serial = 0
    length = 0


_serials = itertools.count(1)


def allocation_of(array: Array) -> Allocation | None:
    """The allocation that an array is part of, if it is one of ours."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if type(base) is Allocation and base.serial:
            return base
        base = base.base
    return None


def is_anonymous(array: Array) -> bool:
    """Whether an array's memory is sure to be no mapped file's: this library's, numpy's own, or a bytes object's."""
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        if type(base) is Allocation:
            return True
        if isinstance(base, memoryview):
            base = base.obj
        elif base.base is None:
            return bool(base.flags.owndata)
        else:
            base = base.base
    return isinstance(base, (bytes, bytearray))


def _pages(nbytes: int, huge_pages: bool | None) -> Allocation:
    """Fresh zeroed pages, which are given back when the last view of them goes."""
    address, allocated = ffi.new("void **"), ffi.new("uint64_t *")
    huge = lib.GIO_HUGE_AUTO if huge_pages is None else lib.GIO_HUGE_YES if huge_pages else lib.GIO_HUGE_NO
    code = lib.gio_pages_allocate(nbytes, huge, address, allocated)
    if code:
        how = f" of huge pages ({_HUGE_PAGES_NEED})" if huge_pages else ""
        raise MemoryError(f"cannot allocate {nbytes} bytes{how}: {describe(code)}")
    size = allocated[0]
    # No function of Python's: a signal that raised in it would leave the pages where they are, and go unnoticed.
    memory = ffi.gc(address[0], functools.partial(lib.gio_pages_free, size), size)
    allocation: Allocation = Allocation(size, np.uint8, ffi.buffer(memory, size))
    return allocation


def prefault(array: Array) -> None:
    """Fault in every page that a contiguous array lies on, keeping its contents.

    Parameters
    ----------
    array : ndarray
        Contiguous, of any shape and dtype, on memory that may be written. Other threads may write to it meanwhile.

    Raises
    ------
    MemoryError
        The system has not enough memory.
    OSError
        Of a mapped file: it has become shorter than the array, or its disk is full (EFAULT); it is mapped for reading
        only (EACCES).
    ValueError
        A read-only array of a mapped file.

    Notes
    -----
    One call of madvise(2) with MADV_POPULATE_WRITE (Linux 5.14). Before that, and on Windows, each page is touched by
    an atomic addition of 0: where a mapped file has been cut, or is mapped for reading only though the array is
    writeable, that ends the process as any write does. The GIL is released.
    """
    if array.nbytes == 0:
        return
    if not (array.flags.writeable or is_anonymous(array)):
        raise ValueError("a read-only array of a mapped file cannot be faulted in to be written")
    code = lib.gio_pages_prefault(ffi.cast("void *", array.ctypes.data), array.nbytes)
    if code:
        text = f"cannot fault in {array.nbytes} bytes: {describe(code)}"
        if code == errno.EACCES:
            raise os_error(code, f"{text}: the memory cannot be written")
        if code == errno.EFAULT and not is_anonymous(array):
            raise os_error(code, f"{text}: a mapped file has become shorter than that, or its disk is full")
        raise MemoryError(text)


_fault_in: Final = prefault  # where a parameter has the other name


def empty(
    shape: Shape,
    dtype: npt.DTypeLike = float,
    order: Order = "C",
    *,
    huge_pages: bool | None = None,
    prefault: bool = True,
) -> Array:
    """Return a new page-aligned array, without promising its contents.

    Parameters
    ----------
    shape : int or sequence of int
        Any shape that numpy takes; 0-d and empty ones too.
    dtype : dtype
        Any but those that hold Python objects. Strings of no length ("U", "S0") stay so, and have no bytes.
    order : {"C", "F"}
        As in numpy.
    huge_pages : bool, optional
        None: from 2 MiB up the array starts on a huge page and asks for transparent ones (Linux). True: reserved huge
        pages (MAP_HUGETLB; MEM_LARGE_PAGES on Windows) or MemoryError. False: none.
    prefault : bool
        Fault all pages in now, so that the first transfer need not.

    Returns
    -------
    ndarray
        An ordinary one. Its last page is its own to the end; the memory goes when the last view of it goes.

    Raises
    ------
    MemoryError
        The system refuses the memory, or the shape exceeds any address space.
    TypeError
        The dtype holds Python objects.
    ValueError
        A negative dimension, or an unknown order.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array on pages cannot hold Python objects: {kind}")
    if order not in ("C", "F"):
        raise ValueError(f"order is 'C' or 'F', not {order!r}")
    sizes = _as_shape(shape)
    nbytes = kind.itemsize
    extent = max(kind.itemsize, 1)  # numpy bounds the product of the non-zero dimensions, too
    for size in sizes:
        nbytes *= size
        extent *= max(size, 1)
    if extent > _ADDRESS_SPACE:
        raise AllocationError(f"an array of shape {sizes} and dtype {kind} is larger than any address space")
    memory = _pages(nbytes, huge_pages)
    if prefault and nbytes:
        _fault_in(memory[:nbytes])
        memory.serial, memory.length = next(_serials), nbytes
    array: Array = np.ndarray(sizes, kind, memory, order=order)
    return array


def zeros(shape: Shape, dtype: npt.DTypeLike = float, order: Order = "C", *, huge_pages: bool | None = None) -> Array:
    """Return a new page-aligned array of zeros. As `empty` otherwise: fresh pages are zero."""
    return empty(shape, dtype, order, huge_pages=huge_pages)


def full(
    shape: Shape,
    fill_value: Any,
    dtype: npt.DTypeLike | None = None,
    order: Order = "C",
    *,
    huge_pages: bool | None = None,
) -> Array:
    """Return a new page-aligned array filled with `fill_value`, as `numpy.full` does.

    Parameters
    ----------
    shape, order, huge_pages
        As in `empty`.
    fill_value : scalar or array_like
        What it is filled with, broadcast to the shape.
    dtype : dtype, optional
        None: that of ``np.array(fill_value)``. One of strings without a length is one of a single character.

    Raises
    ------
    OverflowError
        `fill_value` is a Python integer outside of the dtype's range (numpy 2; numpy 1 wraps it around).
    TypeError
        The dtype holds Python objects, or `fill_value` is a masked array.
    ValueError
        `fill_value` is no value of this dtype, or cannot be broadcast to the shape.
    """
    refuse_masked(fill_value)
    if dtype is None:
        fill_value = np.asarray(fill_value)
        dtype = fill_value.dtype
    kind = np.dtype(dtype)
    if kind.itemsize == 0:
        kind = np.empty(0, kind).dtype  # where numpy makes room for a character
    array = empty(shape, kind, order, huge_pages=huge_pages)
    np.copyto(array, fill_value, casting="unsafe")  # not made an array before: numpy has its own rules for a scalar
    return array


def empty_like(
    prototype: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: Literal["C", "F", "A", "K"] = "K",
    *,
    shape: Shape | None = None,
    huge_pages: bool | None = None,
) -> Array:
    """Return a new page-aligned array of the shape and dtype of another one.

    ``order="K"`` and ``"A"`` give Fortran order for a Fortran-contiguous prototype, else C order: pages have no
    other strides. It is an ordinary array, also for a masked one or another subclass. See `empty`.
    """
    like = np.asanyarray(prototype)
    layout: Order
    if order == "C" or order == "F":
        layout = order
    else:
        layout = "F" if like.flags.f_contiguous and not like.flags.c_contiguous else "C"
    kind = like.dtype if dtype is None else dtype
    return empty(like.shape if shape is None else shape, kind, layout, huge_pages=huge_pages)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def is_aligned(x: Array) -> bool:
    """Whether an array is contiguous (C or Fortran) and starts on a page. An empty array always is."""
    contiguous = x.flags.c_contiguous or x.flags.f_contiguous
    return x.nbytes == 0 or (contiguous and _address(x) % PAGE_SIZE == 0)


def asaligned(x: npt.ArrayLike) -> Array:
    """Return `x` itself when it is aligned (`is_aligned`), else a page-aligned copy of it.

    Either is an ordinary array: of an aligned matrix, memmap or other subclass it is a view on the same memory, as from
    `numpy.asarray`.

    Raises
    ------
    TypeError
        The dtype holds Python objects, or `x` is a masked array.
    """
    array = np.asanyarray(x)
    refuse_masked(array)
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise TypeError(f"an array on pages cannot hold Python objects: {array.dtype}")
    if is_aligned(array):
        return array
    copy = empty_like(array)
    copy[...] = array
    return copy


class Pool:
    """Arrays that are made once and used many times.

    Parameters
    ----------
    count : int
        How many arrays.
    shape, dtype
        Of each of them.
    huge_pages : bool, optional
        As in `empty`.

    Notes
    -----
    The pool knows its arrays by where they lie: `release` takes the array that `acquire` gave, or a view that begins
    with it and has all its bytes. What is in an array stays there.
    """

    def __init__(
        self, count: int, shape: Shape, dtype: npt.DTypeLike = float, *, huge_pages: bool | None = None
    ) -> None:
        if operator.index(count) < 1:
            raise ValueError(f"a pool has at least one array, not {count}")
        self._arrays = {}
        self._available = threading.Condition()
        self._closed = False
        for _ in range(count):
            array = empty(shape, dtype, huge_pages=huge_pages)
            self._arrays[_address(array)] = array
        self._free = list(self._arrays)
        self._nbytes = array.nbytes

    _arrays: dict[int, Array]

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def available(self) -> int:
        """How many arrays can be acquired without waiting."""
        return len(self._free)

    def acquire(self, timeout: float | None = None) -> Array:
        """Take an array out of the pool; nobody else gets it until it is released.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for one. None waits until there is one, 0 does not wait.

        Raises
        ------
        TimeoutError
            None was released in time.
        ValueError
            The pool is closed.
        """
        deadline = deadline_ns(timeout)
        with self._available:
            while not self._free:
                if self._closed:
                    break
                if is_over(deadline):
                    raise TimeoutError(f"all {len(self)} arrays of the pool are in use; release one, or make it larger")
                left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e9
                self._available.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            if self._closed:
                raise ValueError("the pool is closed")
            return self._arrays[self._free.pop()]

    def release(self, array: Array) -> None:
        """Give an array back.

        Raises
        ------
        TypeError
            It is no array.
        PoolError
            It is not one of this pool's, or it has been released already.
        """
        if not isinstance(array, np.ndarray):
            raise TypeError(f"expected an array of this pool, not {type(array).__name__}")
        address = _address(array)
        with self._available:
            if address not in self._arrays or array.nbytes != self._nbytes:
                raise PoolError(f"not an array of this pool: shape {array.shape} at address {address:#x}")
            if address in self._free:
                raise PoolError(f"released twice: the array at address {address:#x}")
            self._free.append(address)
            self._available.notify()

    def close(self) -> None:
        """Hand out no more arrays. Those in use stay valid; the memory goes with the last of them."""
        with self._available:
            self._closed = True
            self._available.notify_all()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
