"""Page-aligned memory as ordinary numpy arrays.

The kernel moves a page straight between a device and memory only where memory begins on a page boundary (or on the
device's own alignment). ``numpy.empty`` gives addresses that are multiples of 16 or 64; the functions here give whole
pages, in huge pages where that pays, and faulted in, because the first touch of a page costs more than writing it
to the disk.
"""

from __future__ import annotations

import errno
import functools
import io
import itertools
import operator
import pickle
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, SupportsIndex, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from .._handle import Handle
from .._native import deadline_ns, describe, ffi, is_over, kept, lib, os_error, owned
from ..errors import AllocationError, PoolError, TimeoutError

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
#: Memory that is faulted in at once: a tenth of a second where it is slow, in which Python does not see signals.
_PREFAULT_BYTES: Final = 1 << 26
_INTERRUPTED: Final[int] = lib.GIO_E_INTERRUPTED
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


def is_array(x: object) -> TypeGuard[Array]:
    """Whether it is an ndarray, or of a subclass. An object can say so of itself (``__class__``); its type cannot."""
    return issubclass(type(x), np.ndarray)


def refuse_masked(array: object) -> None:
    """Raise TypeError if `array` is a masked one: its mask lies outside of the bytes that are moved."""
    # Asked only of subclasses: numpy 2 imports its masked arrays on first use, which takes 20 ms.
    if type(array) is not np.ndarray and is_array(array) and issubclass(type(array), np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask: pass array.data and array.mask one after the other, or array.filled()"
        )


def exact(array: object) -> Array:
    """`array` itself, or of one of a subclass an ndarray on the same memory, of which nothing can be overridden."""
    if type(array) is np.ndarray:
        return array
    if not is_array(array):
        raise TypeError(f"expected a numpy array, not {type(array).__name__}")
    refuse_masked(array)
    return np.asarray(array)


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


# --- whose memory it is ---

# As numpy has it, whatever a subclass says.
_base_of: Final[Callable[[Array], Any]] = np.ndarray.base.__get__
_array_of: Final[Callable[[Any], Any]] = np.void.base.__get__
#: What lies under an Allocation. Nobody can resize or close it: to refer to it is enough.
PAGES: Final[type] = ffi.buffer
_STAYS: Final = (PAGES, bytes)
#: What has memory of its own: with that of a BytesIO's buffer.
_PLAIN: Final = (bytes, bytearray, type(io.BytesIO().getbuffer().obj))
#: Buffers of something else.
_GIVE_ON: Final = (memoryview, pickle.PickleBuffer)
#: What as_strided puts between an array and its view.
_STRIDED: Final[Any] = type(np.lib.stride_tricks.as_strided(np.empty(1)).base)


def _under(array: Array) -> tuple[Array, Any]:
    """The last array under an array, and what that one lies on: None where it has memory of its own."""
    base: Any
    last, base = array, _base_of(array)
    while base is not None:
        if is_array(base):
            last, base = base, _base_of(base)
        elif type(base) is _STRIDED:
            base = base.base
        else:
            break
    return last, base


def allocation_of(array: Array) -> Allocation | None:
    """The allocation that an array is part of, if it is one of ours."""
    last, base = _under(array)
    return last if type(last) is Allocation and type(base) is PAGES and last.serial else None


def is_anonymous(array: Array) -> bool:
    """Whether an array's memory is sure to be no mapped file's: this library's, numpy's own, or a bytes object's."""
    if array.size == 0:
        return True
    last, base = _under(array)
    if base is None:
        return bool(np.ndarray.flags.__get__(last).owndata)
    if type(base) is PAGES:
        return type(last) is Allocation
    while type(base) is memoryview:
        base = base.obj
    return type(base) in _PLAIN


class _Held(np.ndarray[Any, np.dtype[Any]]):
    """A view that nobody else has, with what keeps its memory."""

    held: Any = None


def memory_of(array: Array) -> Any:
    """The bytes of a C-contiguous ndarray (`exact`) for the core: address and length as they are at one moment.

    The memory stays where it is for as long as what this returns. numpy refers to the object that an array's memory
    belongs to (a bytearray, an mmap, the ``buf`` of a SharedMemory), but lets it free or move that memory; an export of
    its buffer does not.

    Raises
    ------
    ValueError
        The memory has gone already. Or the array is not C-contiguous.
    """
    base = array.base
    while type(base) is np.ndarray:
        base = base.base
    if base is None or (type(base) is Allocation and type(base.base) is PAGES):  # most are: numpy's own, or ours
        return ffi.from_buffer(array)
    view = array.view(_Held)
    memory = ffi.from_buffer(view)
    if len(memory):
        view.held = held = _exports_under(array)
        if held and not _lies_within(memory, len(memory), held):
            held.clear()  # no traceback is to hold it
            raise _gone(array)
    return memory


class Hold:
    """In its ``with`` block an array's memory stays where it is, as with `memory_of`, whatever strides the array has.

    Raises
    ------
    ValueError
        The memory has gone already.
    """

    __slots__ = ("_held",)

    def __init__(self, array: Array) -> None:
        self._held: list[Any] | None = None
        if array.base is None or array.size == 0:
            return
        self._held = _exports_under(array)
        if self._held:
            start, nbytes = _extent(array)
            if not _lies_within(ffi.cast("char *", start), nbytes, self._held):
                self._held.clear()
                raise _gone(array)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = None


def _extent(array: Array) -> tuple[int, int]:
    """Where the first byte of an array lies, and how many from there to the end of the last."""
    low = high = _address(array)
    for length, stride in zip(array.shape, array.strides, strict=True):
        low, high = low + min(0, (length - 1) * stride), high + max(0, (length - 1) * stride)
    return low, high - low + array.itemsize


def address_of(memory: Any) -> int:
    """Where it begins, of what `memory_of` gives."""
    return int(ffi.cast("uintptr_t", memory))


def _lies_within(start: Any, nbytes: int, held: list[Any]) -> bool:
    """Whether this is part of the buffer that lies under all others. Where that has strides it is not known."""
    buffer = held[-1]
    if type(buffer) is memoryview:
        return True
    distance = (start + 0) - (buffer + 0)  # an array of C has no difference, and a pointer has
    return 0 <= int(distance) <= len(buffer) - nbytes


def _exports_under(array: Array) -> list[Any]:
    """Exports of the buffers that an array lies on; the last is of what the memory belongs to.

    There are several where an array was made on the buffer of another one, which holds what that lies on no more than
    numpy does. None is needed of what cannot let the memory go. What has no buffer (DLPack, __array_interface__) is
    referred to, and that is all there is.
    """
    held: list[Any] = []
    _, base = _under(array)
    while base is not None and type(base) not in _STAYS:
        try:
            held.append(ffi.from_buffer(base))
        except ValueError as error:  # a memoryview that was released, an mmap that was closed
            held.clear()
            raise _gone(array) from error
        except (TypeError, BufferError):
            try:
                held.append(memoryview(base))  # it has strides
            except (TypeError, BufferError):
                break
        base = _base_behind(base)
    return held


def _base_behind(base: Any) -> Any:
    """What the array lies on whose buffer this gives; None if it gives its own."""
    if type(base) in _GIVE_ON:
        try:
            base = memoryview(base).obj
        except ValueError:  # released
            return None
    if issubclass(type(base), np.void):  # a record of a structured array
        base = _array_of(base)
    return _under(base)[1] if is_array(base) else None


def _gone(array: Array) -> ValueError:
    _, base = _under(array)
    while (behind := _base_behind(base)) is not None:
        base = behind
    return ValueError(
        f"the memory of this array has gone: the {type(base).__name__} that it was made on has been closed, released "
        "or resized since; make a new array on what there is now"
    )


def _pages(nbytes: int, huge_pages: bool | None) -> Allocation:
    """Fresh zeroed pages, which are given back when the last view of them goes."""
    allocated = ffi.new("uint64_t *")
    address = owned("void **", functools.partial(lib.gio_pages_let_go, allocated))
    huge = lib.GIO_HUGE_AUTO if huge_pages is None else lib.GIO_HUGE_YES if huge_pages else lib.GIO_HUGE_NO
    code = lib.gio_pages_allocate(nbytes, huge, address, allocated)
    if code:
        how = f" of huge pages ({_HUGE_PAGES_NEED})" if huge_pages else ""
        raise MemoryError(f"cannot allocate {nbytes} bytes{how}: {describe(code)}")
    size = allocated[0]
    allocation: Allocation = Allocation(size, np.uint8, ffi.buffer(kept(address[0], address), size))
    return allocation


def _fault_in(address: int, nbytes: int) -> int:
    """Fault in memory that the caller keeps, part by part: a code of the core.

    It takes an address, for a traceback of Ctrl-C's would keep an array.
    """
    code = 0
    for at in range(0, nbytes, _PREFAULT_BYTES):
        start = ffi.cast("void *", address + at)
        code = _INTERRUPTED
        while code == _INTERRUPTED:  # and Python looks at the signal
            code = lib.gio_pages_prefault(start, min(_PREFAULT_BYTES, nbytes - at))
        if code:
            break
    return int(code)


def prefault(array: Array) -> None:
    """Fault in every page that a contiguous array lies on, keeping its contents.

    Parameters
    ----------
    array : ndarray
        Contiguous (C or Fortran), of any shape and dtype, on memory that may be written. Other threads may write to it
        meanwhile.

    Raises
    ------
    MemoryError
        The system has not enough memory.
    OSError
        Of a mapped file: it has become shorter than the array, or its disk is full (EFAULT); it is mapped for reading
        only (EACCES).
    ValueError
        A read-only array of a mapped file, or one that is not contiguous; or its memory has gone.

    Notes
    -----
    madvise(2) with MADV_POPULATE_WRITE (Linux 5.14), a part at a time, so that Ctrl-C is answered. Before that, and on
    Windows, each page is touched by an atomic addition of 0: where a mapped file has been cut, or is mapped for reading
    only though the array is writeable, that ends the process as any write does. The GIL is released.
    """
    array = exact(array).view()  # its own: nobody changes it between the checks and the call
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise ValueError("the array is not contiguous: fault in the array that it is a view of")
    with Hold(array):
        mapped = not is_anonymous(array)
        if mapped and not array.flags.writeable:
            raise ValueError("a read-only array of a mapped file cannot be faulted in to be written")
        memory = ffi.from_buffer(array if array.flags.c_contiguous else array.T)
        code = _fault_in(address_of(memory), len(memory))
    if code:
        text = f"cannot fault in {array.nbytes} bytes: {describe(code)}"
        if code == errno.EACCES:
            raise os_error(code, f"{text}: the memory cannot be written")
        if code == errno.EFAULT and mapped:
            raise os_error(code, f"{text}: a mapped file has become shorter than that, or its disk is full")
        raise MemoryError(text)


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
        pages (MAP_HUGETLB; MEM_LARGEPAGES on Windows) or MemoryError. False: none.
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
        try:
            code = _fault_in(_address(memory), nbytes)
            if code:
                raise MemoryError(f"cannot fault in {nbytes} bytes: {describe(code)}")
        except BaseException:
            del memory  # which the traceback would keep
            raise
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
    like = np.asarray(prototype)
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
    x = np.asarray(x) if is_array(x) else exact(x)  # of a masked one its data
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
    with Hold(array):  # numpy lets go of the GIL
        copy[...] = array
    return copy


class Pool(Handle):
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

    _instead = "make one where its arrays are used"

    def __init__(
        self, count: int, shape: Shape, dtype: npt.DTypeLike = float, *, huge_pages: bool | None = None
    ) -> None:
        count = operator.index(count)
        if count < 1:
            raise ValueError(f"a pool has at least one array, not {count}")
        self._arrays = {}
        self._available = threading.Condition()
        self._closed = False
        sizes, kind = _as_shape(shape), np.dtype(dtype)
        try:
            for _ in range(count):
                self._add(empty(sizes, kind, huge_pages=huge_pages))
        except BaseException:
            self._arrays.clear()  # which the traceback would keep
            raise
        self._free = list(self._arrays)

    _arrays: dict[int, Array]
    _nbytes: int  # of each

    def _add(self, array: Array) -> None:
        self._arrays[_address(array)], self._nbytes = array, array.nbytes

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
        if not is_array(array):
            raise TypeError(f"expected an array of this pool, not {type(array).__name__}")
        array = np.asarray(array)
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
