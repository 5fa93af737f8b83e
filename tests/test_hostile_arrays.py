"""Memory that somebody else decides about: arrays that lie, that change, and that lie on memory which goes.

What is read and written here lies in the middle of a larger array, so that an overrun meets bytes that are watched,
and no foreign memory.
"""

from __future__ import annotations

import array as arrays_of_c
import contextlib
import copy
import ctypes
import functools
import gc
import itertools
import mmap
import os
import pickle
import sys
import threading
import tracemalloc
import types
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import FOREVER, MIB, PAGE, fault, needs_memlock, not_on_windows

import gatherio as gio
from gatherio._mapping import mapping
from gatherio._memory import pages, segments

Array = np.ndarray[Any, Any]
Opener = Callable[..., gio.File]

NBYTES = 512
GUARD = 0xEE
DATA = np.arange(NBYTES, dtype="u4").astype("u1")
OTHER = DATA[::-1].copy()


class Arena:
    """An array of `NBYTES` bytes with watched bytes on both sides."""

    def __init__(self, data: Array = DATA) -> None:
        self.room = np.full(NBYTES + 2 * 65536, GUARD, "u1")
        self.array = self.room[65536 : 65536 + NBYTES]
        self.array[...] = data

    def bytes(self) -> bytes:
        assert (self.room[:65536] == GUARD).all() and (self.room[65536 + NBYTES :] == GUARD).all(), "an overrun"
        return self.array.tobytes()


# --- arrays that lie ---


def lie(**what: Any) -> type[Array]:
    """A subclass that has these instead of numpy's."""
    return type("Lie_" + "_".join(what), (np.ndarray,), what)


def telling(value: Any) -> Any:
    return property(lambda self: value)


def refusing(*_: Any, **__: Any) -> Any:
    raise RuntimeError("asked")


ELSEWHERE = np.full(NBYTES, 0x55, "u1")
LIES: dict[str, type[Array]] = {
    "nbytes": lie(nbytes=telling(65536)),
    "nbytes, fewer": lie(nbytes=telling(8)),
    "nbytes, none": lie(nbytes=telling(0)),
    "size": lie(size=telling(65536)),
    "itemsize": lie(itemsize=telling(128)),
    "shape": lie(shape=telling((65536,))),
    "ndim": lie(ndim=telling(0)),
    "strides": lie(strides=telling((0,))),
    "dtype": lie(dtype=telling(np.dtype("V128"))),
    "flags": lie(flags=telling(types.SimpleNamespace(writeable=False, c_contiguous=False, owndata=True, forc=False))),
    "base": lie(base=telling(ELSEWHERE)),
    "base, refused": lie(base=property(refusing)),
    "data": lie(data=telling(ELSEWHERE.data)),
    "ctypes": lie(ctypes=telling(ELSEWHERE.ctypes)),
    "T": lie(T=telling(ELSEWHERE)),
    "interface": lie(__array_interface__=telling(ELSEWHERE.__array_interface__)),
    "struct": lie(__array_struct__=telling(ELSEWHERE.__array_struct__)),
    "__array__": lie(__array__=lambda self, *_, **__: ELSEWHERE),
    "__array__, refused": lie(__array__=refusing),
    "__buffer__": lie(__buffer__=lambda self, flags: memoryview(ELSEWHERE)),
    "__array_finalize__": lie(__array_finalize__=lambda self, of: None),
    "__array_function__": lie(__array_function__=refusing),
    "__array_ufunc__": lie(__array_ufunc__=refusing),
    "__array_wrap__": lie(__array_wrap__=refusing),
    "__len__": lie(__len__=lambda self: 65536),
    "__iter__": lie(__iter__=lambda self: iter([ELSEWHERE])),
    "__getitem__": lie(__getitem__=lambda self, key: ELSEWHERE),
    "methods": lie(
        **dict.fromkeys(("reshape", "view", "ravel", "copy", "astype"), lambda self, *_, **__: ELSEWHERE),
        tobytes=lambda self, *_: b"",
    ),
    "__getattribute__": lie(__getattribute__=refusing),
    "__class__": lie(__class__=telling(int)),
    "__eq__": lie(__eq__=refusing, __hash__=refusing, __bool__=refusing),
}


@pytest.fixture(params=LIES)
def liar(request: pytest.FixtureRequest) -> Callable[[Array], Array]:
    kind = LIES[request.param]

    def make(array: Array) -> Array:
        view: Array = array.view(kind)
        return view

    return make


WRITES: dict[str, Callable[[gio.File, Array], gio.Operation]] = {
    "write_at": lambda f, a: f.write_at(a, 0),
    "write_gather": lambda f, a: f.write_gather([a], 0, copy=None),
    "write_gather, staged": lambda f, a: f.write_gather([a], 0, copy=True),
    "Segments": lambda f, a: f.write_gather(gio.Segments([a]), 0, copy=None),
    "Segments.rows": lambda f, a: f.write_gather(gio.Segments.rows(a, range(NBYTES)), 0, copy=None),
    "write_many": lambda f, a: f.write_many([a], [0]),
    "write_many, rows": lambda f, a: f.write_many(a, range(NBYTES)),
}
READS: dict[str, Callable[[gio.File, Array], gio.Operation]] = {
    "read_at": lambda f, a: f.read_at(a, 0),
    "read_scatter": lambda f, a: f.read_scatter([a], 0, copy=None),
    "read_scatter, staged": lambda f, a: f.read_scatter([a], 0, copy=True),
    "Segments": lambda f, a: f.read_scatter(gio.Segments([a]), 0, copy=None),
    "Segments.rows": lambda f, a: f.read_scatter(gio.Segments.rows(a, range(NBYTES)), 0, copy=None),
    "read_many": lambda f, a: f.read_many([a], [0]),
    "read_many, rows": lambda f, a: f.read_many(a, range(NBYTES)),
}


def test_what_is_written_of_an_array_that_lies(
    liar: Callable[[Array], Array], quick_dir: Path, queue: gio.CompletionQueue
) -> None:
    arena = Arena()
    for name, write in WRITES.items():
        path = quick_dir / "file"
        with gio.open(path, "w", queue=queue) as f:
            assert write(f, liar(arena.array)).result(FOREVER) == NBYTES, name
        assert path.read_bytes() == DATA.tobytes(), name


def test_what_is_read_into_an_array_that_lies(
    liar: Callable[[Array], Array], quick_dir: Path, queue: gio.CompletionQueue
) -> None:
    (quick_dir / "file").write_bytes(DATA.tobytes() + bytes(65536))
    with gio.open(quick_dir / "file", queue=queue) as f:
        for name, read in READS.items():
            arena = Arena(OTHER)
            assert read(f, liar(arena.array)).result(FOREVER) == NBYTES, name
            assert arena.bytes() == DATA.tobytes(), name


def test_mappings_and_arrays_that_lie(liar: Callable[[Array], Array]) -> None:
    with gio.Mapping(None, size=4 * 65536) as m:
        m.write(np.full(4 * 65536, 0x77, "u1"), 0)
        assert m.write(liar(Arena().array), 65536) == NBYTES
        assert m.read(65536, NBYTES) == DATA.tobytes()
        assert set(m.read(65536 + NBYTES)) == {0x77}
        arena = Arena(OTHER)
        m.read(65536, NBYTES, out=liar(arena.array))
        assert arena.bytes() == DATA.tobytes()
        used = m.put(liar(Arena().array), 0)
        assert used == m.nbytes_of(liar(Arena().array)) == m.nbytes_of(DATA)
        found = m.get(0)
        assert found.dtype == DATA.dtype and (found == DATA).all()


def test_saving_and_loading_arrays_that_lie(liar: Callable[[Array], Array], quick_dir: Path) -> None:
    gio.save(quick_dir / "file.npy", liar(Arena().array))
    found = np.load(quick_dir / "file.npy")
    assert found.dtype == DATA.dtype and (found == DATA).all()
    arena = Arena(OTHER)
    out = liar(arena.array)
    assert gio.load(quick_dir / "file.npy", out=out) is out
    assert arena.bytes() == DATA.tobytes()


def test_memory_and_arrays_that_lie(liar: Callable[[Array], Array]) -> None:
    aligned = gio.empty((3, 65536), "u1")[1, :PAGE]
    gio.prefault(liar(aligned))
    assert gio.is_aligned(liar(aligned)) and not gio.is_aligned(liar(aligned[1:]))
    assert gio.empty_like(liar(aligned)).shape == (PAGE,)
    assert np.shares_memory(gio.asaligned(liar(aligned)), aligned)
    arena = Arena()
    assert gio.asaligned(liar(arena.array)).tobytes() == DATA.tobytes()
    with gio.Pool(2, PAGE, "u1") as pool:
        frame, other = pool.acquire(), pool.acquire()
        with pytest.raises(gio.PoolError):
            pool.release(liar(aligned))
        pool.release(liar(frame))
        assert pool.available == 1 and pool.acquire() is frame
        pool.release(other)


def test_an_array_cannot_say_that_it_is_another_one_of_the_pool() -> None:
    with gio.Pool(2, PAGE, "u1") as pool:
        frame, other = pool.acquire(), pool.acquire()
        pool.release(frame.view(lie(__array_interface__=telling(other.__array_interface__))))
        assert pool.acquire() is frame


@needs_memlock(MIB)
@not_on_windows("it has no io_uring")
def test_registering_arrays_that_lie(liar: Callable[[Array], Array], disk_dir: Path) -> None:
    memory = gio.full(4 * PAGE, 3, "u1")
    with gio.CompletionQueue(backend="uring") as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        with queue.register(liar(memory)) as registration:
            assert registration.nbytes == memory.nbytes
            f.write_at(memory, 0).result(FOREVER)
            assert queue.stats()["registered"] == 1
        assert registration.closed
    assert (disk_dir / "file").read_bytes() == memory.tobytes()


class Pretender:
    """No array, though it says so."""

    __class__ = property(lambda self: np.ndarray)  # type: ignore[assignment]
    dtype, shape, ndim, nbytes, size = np.dtype("u1"), (65536,), 1, 65536, 65536
    flags = types.SimpleNamespace(c_contiguous=True, f_contiguous=True, writeable=True, forc=True)
    __array_interface__ = ELSEWHERE.__array_interface__


def calls_with(array: Any, f: gio.File, m: gio.Mapping, queue: gio.CompletionQueue) -> Iterator[tuple[str, Any]]:
    """Every call that takes an array, by name."""
    yield from ((name, functools.partial(write, f, array)) for name, write in WRITES.items())
    yield from ((name, functools.partial(read, f, array)) for name, read in READS.items())
    yield "Mapping.write", lambda: m.write(array, 0)
    yield "Mapping.read", lambda: m.read(0, out=array)
    yield "prefault", lambda: gio.prefault(array)
    yield "register", lambda: queue.register(array)


def test_what_only_says_that_it_is_an_array(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(quick_dir / "file", "w+", queue=queue) as f, gio.Mapping(None, size=PAGE) as m:
        for name, call in calls_with(Pretender(), f, m, queue):
            with pytest.raises(TypeError):
                call()
                pytest.fail(name)
        with gio.Pool(1, 10) as pool, pytest.raises(TypeError, match="expected an array"):
            pool.release(Pretender())
        with pytest.raises(TypeError):
            gio.is_aligned(Pretender())
        gio.save(quick_dir / "a.npy", DATA)
        with pytest.raises(TypeError):
            gio.load(quick_dir / "a.npy", out=Pretender())


def test_a_masked_array_that_denies_it(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    class Denies(np.ma.MaskedArray):
        __class__ = property(lambda self: np.ndarray)  # type: ignore[assignment]

    masked = Denies(Arena().array, mask=True)
    with gio.open(quick_dir / "file", "w+", queue=queue) as f, gio.Mapping(None, size=PAGE) as m:
        for name, call in calls_with(masked, f, m, queue):
            with pytest.raises(TypeError, match="mask"):
                call()
                pytest.fail(name)
        with pytest.raises(TypeError, match="mask"):
            m.put(masked, 0)
    with pytest.raises(TypeError, match="mask"):
        gio.save(quick_dir / "a.npy", masked)


def test_records_of_scalars_that_lie() -> None:
    class Lies(np.float64):
        nbytes = property(lambda self: 0)
        shape = property(lambda self: (1000,))
        dtype = property(lambda self: np.dtype("i8"))

    with gio.Mapping(None, size=65536) as m:
        m.put(Lies(1.5), 0)
        assert m.get(0) == 1.5 and m.get(0).shape == ()


# --- lists, segments, mappings and numbers that change ---


class Changing(list[Any]):
    """Gives something else each time."""

    def __init__(self, *times: Any) -> None:
        super().__init__(times[0])
        self.times = list(times)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.times.pop(0) if len(self.times) > 1 else self.times[0])

    def __len__(self) -> int:
        return 1000


def test_a_list_is_looked_at_once(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    first, second = Arena(), np.zeros(8, "u1")
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        assert f.write_gather(Changing([first.array], [second] * 9), 0, copy=None).result(FOREVER) == NBYTES
        assert f.write_many(Changing([first.array], [second] * 9), [0]).result(FOREVER) == NBYTES
        found = gio.Segments(Changing([first.array], [second] * 9))
        assert len(found) == 1 and found.nbytes == NBYTES
    assert (quick_dir / "file").read_bytes() == DATA.tobytes()


def test_segments_do_not_change(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    arena = Arena()
    made = gio.Segments([arena.array])
    for name in ("nbytes", "base"):
        with pytest.raises(AttributeError):
            setattr(made, name, 8)
    assert copy.copy(made) is made
    made.__init__([np.zeros(8, "u1")])  # type: ignore[misc]
    assert made.nbytes == NBYTES and made.base is arena.array
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        assert f.write_gather(made, 0, copy=None).result(FOREVER) == NBYTES
    assert (quick_dir / "file").read_bytes() == DATA.tobytes()
    with pytest.raises(TypeError, match="subclass"):
        type("Mine", (gio.Segments,), {})


def test_what_only_says_that_it_is_segments(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    class Pretends:
        __class__ = property(lambda self: gio.Segments)  # type: ignore[assignment]

    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        for call in (f.write_gather, f.read_scatter, f.write_many, f.read_many):
            with pytest.raises(TypeError, match="not iterable"):
                call(Pretends(), 0)  # type: ignore[operator]


def test_the_size_that_a_mapping_tells_is_not_what_it_goes_by() -> None:
    with gio.Mapping(None, size=PAGE) as m:
        m.size = 1 << 40
        for call in (
            lambda: m.read(0, 2 * PAGE),
            lambda: m.write(bytes(2 * PAGE), 0),
            lambda: m.read(PAGE - 8, out=bytearray(64)),
            lambda: m.put(bytes(PAGE).decode(), 0),
            lambda: m.array(2 * PAGE, "u1"),
        ):
            with pytest.raises(ValueError, match="do not lie within"):
                call()
        assert len(m.read(0)) == PAGE


class Number:
    """An integer that is another one when it is asked again."""

    def __init__(self, first: int, then: int) -> None:
        self.first, self.then, self.asked = first, then, 0

    def __index__(self) -> int:
        self.asked += 1
        return self.first if self.asked == 1 else self.then


def test_numbers_are_asked_once(quick_dir: Path, backend: str) -> None:
    numbers: list[Number] = []

    def number(first: int, then: int) -> Any:
        numbers.append(Number(first, then))
        return numbers[-1]

    array = np.zeros(64, "u1")
    with gio.CompletionQueue(number(4, 1 << 20), backend=backend, request_size=number(65536, -1)) as queue:
        with gio.open(quick_dir / "file", "w+", queue=queue, preallocate=number(8192, -1)) as f:
            operations = [f.write_at(array, number(64 * i, -1)) for i in range(4)]
            for operation in operations:
                operation.result(FOREVER)
            assert len(queue.get(max=number(1, 100))) == 1
            f.write_gather([array], number(0, -1), copy=None).result(FOREVER)
            f.write_many([array], [number(0, -1)]).result(FOREVER)
            f.truncate(number(256, -1))
            f.preallocate(number(256, -1))
            with f.lock(number(0, 2**65), number(8, -1)):
                pass
            assert f.size == 256
    with gio.Pool(number(2, 1000), number(8, -1)) as pool:
        assert len(pool) == 2
    assert gio.empty((number(2, -1), number(3, -1))).shape == (2, 3)
    with gio.Mapping(None, size=number(PAGE, -1)) as m:
        assert m.array((number(2, 1 << 40),), "u1", number(8, -1)).shape == (2,)
        assert len(m.read(number(0, -1), number(8, 1 << 40))) == 8
        m.flush(number(0, -1), number(8, -1))
    assert {one.asked for one in numbers} == {1}


def test_a_copy_that_equals_false_is_false(quick_dir: Path) -> None:
    """What may be copied is decided once: else arrays would be taken that copy=False refuses."""
    with gio.open(quick_dir / "file", "w+") as f:
        for no in (False, np.False_, 0):
            with pytest.raises(gio.AlignmentError):
                f.write_gather([np.zeros(PAGE + 1, "u1")[1:]], 0, copy=no)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="copy is"):
            f.write_gather([], 0, copy="no")  # type: ignore[arg-type]


# --- changed by another thread between the check and the use ---


class Shared:
    """Gives its own array, whatever is asked for."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array


def at_every_call(change: Callable[[], object], run: Callable[[], Any]) -> Any:
    """Run with `change` called whenever a function is called or returns, which is where another thread may come in."""

    def profile(frame: Any, event: str, what: Any) -> None:
        if "gatherio" in frame.f_code.co_filename:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy will end some of these ways
                change()

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        return run()
    finally:
        sys.setprofile(before)


def table_of(made: gio.Segments) -> list[list[int]]:
    return [[segment.address, segment.length] for segment in made._native]


@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "__array__"])
@pytest.mark.parametrize("dtype", ["i8", "u8", "i4"])
def test_an_index_array_that_changes(wrapped: bool, dtype: str) -> None:
    """An index is checked, and what was checked is used."""
    arena = Arena()
    rows = arena.array.reshape(8, -1)
    first = rows.__array_interface__["data"][0]
    for at in range(60):  # the call at which it changes
        index = np.array([0, 1, 2], dtype)
        calls = itertools.count()

        def change(index: Array = index, at: int = at, calls: Iterator[int] = calls) -> None:
            if next(calls) == at:
                index[...] = np.array(-1).astype(dtype)

        try:
            given = Shared(index) if wrapped else index
            made = at_every_call(change, functools.partial(gio.Segments.rows, rows, given))
        except IndexError:
            continue
        before = [[first + 64 * row, 64] for row in range(3)]
        assert table_of(made) in (before, 3 * [[first + 7 * 64, 64]]), at


@pytest.mark.parametrize("what", ["indices", "offsets"])
def test_numbers_are_our_own_copy(what: str) -> None:
    theirs = np.array([0, 1, 2])
    for given in (theirs, theirs.view(lie(copy=lambda self: self)), Shared(theirs), memoryview(theirs)):
        assert not np.shares_memory(segments._integers(given, what), theirs)  # type: ignore[arg-type]


def test_an_array_that_changes_its_shape(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """Another thread sets shape, strides and dtype all the time: the right bytes, or a refusal."""
    ways: list[Callable[[Array], object]] = [
        lambda a: setattr(a, "shape", (8, 64)),
        lambda a: setattr(a, "shape", (NBYTES,)),
        lambda a: setattr(a, "strides", (2,)),
        lambda a: setattr(a, "strides", (1,)),
        lambda a: setattr(a, "dtype", "u2"),
        lambda a: setattr(a, "dtype", "u1"),
        lambda a: setattr(a.flags, "writeable", False),
        lambda a: setattr(a.flags, "writeable", True),
    ]
    path = quick_dir / "file"
    offsets = range(NBYTES)

    def changing(array: Array, start: int) -> Callable[[], None]:
        turn = iter(ways[start:] + ways * 1000)

        def change() -> None:
            try:
                next(turn)(array)
            except (ValueError, TypeError, AttributeError):
                pass

        return change

    done = 0
    with gio.Mapping(None, size=65536) as m, gio.open(path, "w+", queue=queue) as f:
        for start in range(len(ways)):
            for name, call, check in [
                ("write_at", lambda a: f.write_at(a, 0).result(FOREVER), "file"),
                ("write_gather", lambda a: f.write_gather([a], 0, copy=None).result(FOREVER), "file"),
                ("write_many", lambda a: f.write_many([a], [0]).result(FOREVER), "file"),
                ("Mapping.write", lambda a: m.write(a, 0), "contiguous"),
                ("save", lambda a: gio.save(quick_dir / "a.npy", a), "saved"),
                ("read_at", lambda a: f.read_at(a, 0).result(FOREVER), "memory"),
                ("read_scatter", lambda a: f.read_scatter([a], 0, copy=None).result(FOREVER), "memory"),
                ("read_many", lambda a: f.read_many(a, offsets[: len(a)]).result(FOREVER), "whole"),
                ("Mapping.read", lambda a: m.read(0, a.nbytes, out=a), "memory"),
            ]:
                m.array(NBYTES, "u1")[:] = DATA
                path.write_bytes(DATA.tobytes() if check in ("memory", "whole") else bytes(NBYTES))
                arena = Arena(OTHER if check in ("memory", "whole") else DATA)
                array = arena.array
                try:
                    at_every_call(changing(array, start), functools.partial(call, array))
                except (ValueError, TypeError):
                    arena.bytes()
                    continue
                done += 1
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    array = arena.room[65536 : 65536 + NBYTES]
                arena.array = array
                found = arena.bytes()
                if check == "memory":
                    assert found == DATA.tobytes(), (name, start)
                elif check == "file":
                    assert path.read_bytes() == DATA.tobytes(), (name, start)
                elif check == "saved":
                    saved = np.load(quick_dir / "a.npy")  # of one of the shapes that it had, and so of those bytes
                    assert saved.nbytes == NBYTES
                    assert saved.tobytes() in (DATA.tobytes(), arena.room[65536:][: 2 * NBYTES : 2].tobytes()), start
    assert done > 20


# --- memory that goes ---


class Memory:
    """An array on memory of something else.

    Attributes
    ----------
    try_to_resize : callable
        BufferError while the memory must stay. Where it may go, it stays all the same: a test that fails should not
        end in a heap that is broken.
    let_go : callable
        Ends the memory.
    gone : str
        What the message calls its owner.
    """

    def __init__(
        self, array: Array, try_to_resize: Callable[[], object], let_go: Callable[[], object], gone: str
    ) -> None:
        self.array, self.try_to_resize, self.let_go, self.gone = array, try_to_resize, let_go, gone


def without_first(owner: Any) -> Callable[[], None]:
    """Neither a bytearray nor an array moves for that."""
    return lambda: owner.__delitem__(slice(0, 1))


def on_bytearray() -> Memory:
    owner = bytearray(NBYTES)
    return Memory(np.ndarray(NBYTES, "u1", owner), without_first(owner), owner.clear, "bytearray")


def on_part_of_bytearray() -> Memory:
    owner = bytearray(3 * NBYTES)
    array = np.ndarray((8, 64), "u1", owner, NBYTES)[:].reshape(-1)
    return Memory(array, without_first(owner), lambda: owner.__delitem__(slice(9, None)), "bytearray")


def on_subclass() -> Memory:
    owner = bytearray(NBYTES)
    array = np.ndarray(NBYTES, "u1", owner).view(LIES["base"]).view(LIES["flags"])
    return Memory(array, without_first(owner), owner.clear, "bytearray")


def on_strided_view() -> Memory:
    owner = bytearray(NBYTES)
    array = np.lib.stride_tricks.as_strided(np.ndarray(NBYTES, "u1", owner), (NBYTES // 8, 8), (8, 1))
    return Memory(array.reshape(-1), without_first(owner), owner.clear, "bytearray")


def on_memoryview() -> Memory:
    owner = bytearray(NBYTES)
    view = memoryview(owner)
    array = np.ndarray(NBYTES, "u1", view)
    view.release()  # numpy looked through it, at its owner
    return Memory(array, without_first(owner), owner.clear, "bytearray")


def on_buffer_of_numpy() -> Memory:
    array = np.frombuffer(bytearray(NBYTES), "u1")
    view: Any = array.base
    kept = view.obj

    def release() -> None:
        view.release()
        assert len(kept) == NBYTES

    return Memory(array, release, release, "memoryview")


def on_array_of_c() -> Memory:
    owner = arrays_of_c.array("B", bytes(NBYTES))
    array = np.ndarray(NBYTES, "u1", owner)
    return Memory(array, without_first(owner), lambda: owner.__delitem__(slice(None)), "array")


def on_mmap() -> Memory:
    owner = mmap.mmap(-1, PAGE)
    return Memory(np.ndarray(NBYTES, "u1", owner), lambda: owner.resize(PAGE), owner.close, "mmap")


def on_shared_memory() -> Memory:
    owner = SharedMemory(create=True, size=PAGE)
    owner.unlink()
    mapped: Any = owner.buf.obj
    return Memory(np.ndarray(NBYTES, "u1", owner.buf), lambda: mapped.resize(PAGE), owner.close, "mmap")


def through(give: Callable[[Array], Array]) -> Callable[[], Memory]:
    """On the buffer of an array, which lies on a bytearray itself and does not hold it."""

    def make() -> Memory:
        owner = bytearray(NBYTES)
        return Memory(give(np.ndarray(NBYTES, "u1", owner)), without_first(owner), owner.clear, "bytearray")

    return make


OF_ARRAYS: dict[str, Callable[[Array], Array]] = {
    "frombuffer": lambda array: np.frombuffer(array, "u1"),
    "memoryview": lambda array: np.asarray(memoryview(array)),
    "memoryview twice": lambda array: np.asarray(memoryview(np.asarray(memoryview(memoryview(array)))[:])),
    "subclass": lambda array: np.asarray(memoryview(array.view(LIES["base"]))).view(LIES["flags"]),
    "PickleBuffer": lambda array: np.ndarray(NBYTES, "u1", pickle.PickleBuffer(array)),
    "memoryview of PickleBuffer": lambda array: np.frombuffer(pickle.PickleBuffer(array), "u1"),
    "record": lambda array: array.view([("of", "u1", (NBYTES,))])[0]["of"],
}


OWNERS = {
    made.__name__[3:]: made
    for made in (
        on_bytearray,
        on_part_of_bytearray,
        on_subclass,
        on_strided_view,
        on_memoryview,
        on_buffer_of_numpy,
        on_array_of_c,
        on_mmap,
        on_shared_memory,
    )
} | {f"{name}, of an array": through(give) for name, give in OF_ARRAYS.items()}


if sys.version_info >= (3, 12):  # where Python code can give buffers

    class Exporter:
        """Gives what it has, or each time something else."""

        def __init__(self, changes: bool = False) -> None:
            self.owner, self.changes = bytearray(NBYTES), changes

        def __buffer__(self, flags: int) -> memoryview:
            if self.changes:
                self.owner = bytearray(NBYTES)
            return memoryview(self.owner)

    def on_exporter() -> Memory:
        exporter = Exporter()
        owner = exporter.owner
        return Memory(np.ndarray(NBYTES, "u1", exporter), without_first(owner), owner.clear, "Exporter")

    OWNERS["exporter"] = on_exporter

    def test_an_exporter_that_gives_something_else(quick_dir: Path, queue: gio.CompletionQueue) -> None:
        array = np.ndarray(NBYTES, "u1", Exporter(changes=True))
        with gio.open(quick_dir / "file", "w+", queue=queue) as f, pytest.raises(ValueError, match="has gone"):
            f.write_at(array, 0)


@pytest.fixture(params=OWNERS)
def memory(request: pytest.FixtureRequest) -> Memory:
    return OWNERS[request.param]()


def refused(memory: Memory) -> None:
    with pytest.raises(BufferError):
        memory.try_to_resize()


SUBMISSIONS = {**WRITES, **{f"{name}, read": read for name, read in READS.items()}}


def test_memory_stays_under_an_operation(memory: Memory, quick_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        for submit in SUBMISSIONS.values():
            with fault(queue, "HOLD") as let_go:
                operation = submit(f, memory.array)
                refused(memory)
                let_go()
                operation.result(FOREVER)
        memory.let_go()  # the operation is there still; it has finished


def test_memory_stays_under_an_operation_that_nobody_has(
    memory: Memory, quick_dir: Path, queue: gio.CompletionQueue
) -> None:
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        with fault(queue, "HOLD") as let_go:
            f.write_at(memory.array, 0)
            gc.collect()
            refused(memory)
            let_go()
            f.flush()
        memory.let_go()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # in a process with threads
@not_on_windows("it has no fork")
def test_a_forked_child_holds_no_memory_of_its_parents_operations(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    owner = bytearray(NBYTES)
    array = np.ndarray(NBYTES, "u1", owner)
    with gio.open(quick_dir / "file", "w+", queue=queue) as f, fault(queue, "HOLD") as let_go:
        operations = [f.write_at(array, 0), f.write_gather([array], NBYTES, copy=None)]
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BufferError):
                owner.clear()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(BufferError):
            del owner[:1]
        let_go()
        for operation in operations:
            operation.result(FOREVER)
    assert (quick_dir / "file").read_bytes() == 2 * bytes(NBYTES)


def test_memory_stays_under_a_cancelled_operation(memory: Memory, quick_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        with fault(queue, "HOLD") as let_go:
            operation = f.write_gather([memory.array], 0, copy=None)
            operation.cancel()
            if not operation.done():
                refused(memory)
            let_go()
            gio.wait([operation])
        memory.let_go()


def test_memory_stays_under_what_can_only_be_read(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """numpy's records have buffers themselves, read-only ones."""
    for give in (lambda record: np.ndarray(NBYTES, "u1", record), lambda record: np.asarray(memoryview(record))["of"]):
        memory = through(lambda array, give=give: give(array.view([("of", "u1", (NBYTES,))])[0]))()
        assert not memory.array.flags.writeable
        with gio.open(quick_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD") as let_go:
            operation = f.write_at(memory.array, 0)
            refused(memory)
            let_go()
            operation.result(FOREVER)
        memory.let_go()


def test_memory_stays_under_segments(memory: Memory) -> None:
    for made in (gio.Segments([memory.array]), gio.Segments.rows(memory.array, [0, 5])):
        refused(memory)
        del made
    memory.let_go()


def test_a_refusal_holds_no_memory(memory: Memory, quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """Not even as long as somebody has the exception, whose traceback has what the call had."""
    array = memory.array
    caught = []
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        for call in (
            lambda: f.write_at(array, -1),
            lambda: f.write_gather([array], -1, copy=None),
            lambda: f.write_gather([array, array[1:2]], 0),
            lambda: f.read_scatter([array, array], 0, copy=None),
            lambda: f.read_many([array, array], [0, 0]),
            lambda: f.write_many([array], [-1]),
            lambda: f.write_many(array, [0]),
            lambda: gio.Segments.rows(array, [NBYTES]),
            lambda: gio.Segments([array, array[::2]]),
        ):
            with pytest.raises((ValueError, IndexError)) as failure:
                call()
            caught.append(failure)
    memory.let_go()
    assert len(caught) == 9


def test_a_failed_submission_holds_no_memory(memory: Memory, quick_dir: Path, backend: str) -> None:
    caught = []
    queue = gio.CompletionQueue(backend=backend)
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        queue.close()
        for name, submit in SUBMISSIONS.items():
            if not name.startswith("Segments"):  # which hold it themselves
                with pytest.raises(ValueError, match="closed") as failure:
                    submit(f, memory.array)
                caught.append(failure)
        memory.let_go()
    assert len(caught) == 10


def test_memory_that_has_gone(memory: Memory, quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """What numpy would let one read and write all the same is refused, and is not held."""
    caught = []
    memory.let_go()
    with gio.open(quick_dir / "file", "w+", queue=queue) as f, gio.Mapping(None, size=PAGE) as m:
        for name, call in calls_with(memory.array, f, m, queue):
            with pytest.raises(ValueError, match=f"has gone: the {memory.gone}") as failure:
                call()
                pytest.fail(name)
            caught.append(failure)
        with pytest.raises(ValueError, match="has gone"):
            m.put(memory.array, 0)
        with pytest.raises(ValueError, match="has gone"):
            gio.save(quick_dir / "a.npy", memory.array)
        with pytest.raises(ValueError, match="has gone"):
            gio.save(quick_dir / "a.npy", memory.array[::2])
        gio.save(quick_dir / "a.npy", DATA)
        with pytest.raises(ValueError, match="has gone"):
            gio.load(quick_dir / "a.npy", out=memory.array)
        assert (f.size, set(m.read(0))) == (0, {0})
    memory.let_go()


def test_no_memory_need_stay_of_an_empty_array(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    owner = bytearray(8)
    nothing = np.ndarray(0, "u1", owner)
    made = gio.Segments([nothing])
    owner.clear()
    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        assert f.write_at(nothing, 0).result(FOREVER) == 0
        assert f.write_gather(made, 0).result(FOREVER) == 0


def test_a_buffer_with_strides(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """A memoryview backwards, and an array backwards on it: contiguous once more."""
    owner = bytearray(range(256))
    view = memoryview(owner)[::-1]
    backwards = np.asarray(view)[::-1]
    assert backwards.flags.c_contiguous and type(backwards.base.base) is memoryview  # type: ignore[union-attr]
    with gio.open(quick_dir / "file", "w+", queue=queue) as f, fault(queue, "HOLD") as let_go:
        operation = f.write_at(backwards, 0)
        view.release()
        backwards.base.base.release()  # type: ignore[union-attr]
        with pytest.raises(BufferError):
            del owner[:1]
        let_go()
        operation.result(FOREVER)
    assert (quick_dir / "file").read_bytes() == bytes(range(256))


def test_memory_without_a_buffer(quick_dir: Path, queue: gio.CompletionQueue) -> None:
    """DLPack and __array_interface__: what is referred to stays, as ever."""

    class Interface:
        def __init__(self) -> None:
            self.kept = DATA.copy()
            self.__array_interface__ = self.kept.__array_interface__

    with gio.open(quick_dir / "file", "w+", queue=queue) as f:
        for array in (np.asarray(Interface()), np.from_dlpack(DATA.copy())):
            f.write_at(np.zeros(NBYTES, "u1"), 0).result(FOREVER)
            assert f.write_at(array, 0).result(FOREVER) == NBYTES
            assert (quick_dir / "file").read_bytes() == DATA.tobytes()


def test_what_is_ours_or_numpys_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The common cases take no look at who the memory belongs to."""
    monkeypatch.setattr(pages, "_exports_under", refusing)
    for array in (np.zeros(8), gio.empty(8), gio.empty((4, 8))[1:], gio.Pool(1, 8).acquire()):
        assert len(pages.memory_of(array)) == array.nbytes


# --- without an operation ---


def in_the_middle(monkeypatch: pytest.MonkeyPatch, m: gio.Mapping, do: Callable[[], object]) -> None:
    """While a mapping copies, which it does without the GIL."""
    copy = m._section.copy

    def between(*arguments: Any) -> int:
        do()
        return copy(*arguments)

    monkeypatch.setattr(m._section, "copy", between)


def test_memory_stays_while_a_mapping_copies(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    array = memory.array
    with gio.Mapping(None, size=65536) as m:
        in_the_middle(monkeypatch, m, lambda: refused(memory))
        m.write(array, 0)
        m.read(0, NBYTES, out=array)
        m.write(memoryview(array), 0)
        m.read(0, NBYTES, out=memoryview(array))
        m.put(array, 0)
        m.write(array[::2], 0)
        with pytest.raises(ValueError, match="do not lie within") as caught:
            m.write(array, 65536)
        memory.let_go()
    del caught


def test_memory_stays_while_its_checksum_is_made(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """zlib lets go of the GIL."""
    checksum = mapping.records._checksum

    def between(*arguments: Any) -> int:
        refused(memory)
        return checksum(*arguments)

    monkeypatch.setattr(mapping.records, "_checksum", between)
    with gio.Mapping(None, size=65536) as m:
        m.put(memory.array, 0)
    memory.let_go()


def test_memory_stays_while_it_is_faulted_in(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lib:
        def gio_pages_prefault(self, *arguments: Any) -> int:
            refused(memory)
            return int(lib.gio_pages_prefault(*arguments))

    lib = pages.lib
    monkeypatch.setattr(pages, "lib", Lib())
    gio.prefault(memory.array)
    memory.let_go()


def test_memory_stays_while_it_is_saved(memory: Memory, quick_dir: Path) -> None:
    for array in (memory.array, memory.array.reshape(16, -1)[:, ::2], memory.array.reshape(16, -1).T):
        gio.save(quick_dir / "a.npy", array, progress=lambda *_: refused(memory))
        assert np.array_equal(np.load(quick_dir / "a.npy"), np.asarray(array))
    memory.let_go()


def test_memory_stays_while_it_is_loaded(quick_dir: Path, small_steps: None) -> None:
    data = np.arange(1 << 20, dtype="u1")
    gio.save(quick_dir / "a.npy", data)
    owner = bytearray(data.size)
    told = []

    def progress(done: int, total: int) -> None:
        told.append(done)
        if done < total:
            with pytest.raises(BufferError):
                del owner[:1]

    gio.load(quick_dir / "a.npy", out=np.ndarray(data.shape, data.dtype, owner), progress=progress)
    assert owner == data.tobytes() and len(told) > 4
    owner.clear()


def test_memory_stays_while_it_is_aligned(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pages.empty

    class Target(np.ndarray):
        def __setitem__(self, key: Any, value: Any) -> None:
            refused(memory)
            super().__setitem__(key, value)

    monkeypatch.setattr(pages, "empty", lambda *arguments, **options: made(*arguments, **options).view(Target))
    gio.asaligned(np.asarray(memory.array)[1:])
    memory.let_go()


def test_prefault_touches_only_the_array() -> None:
    whole = gio.zeros((64, PAGE), "u1")
    for array in (whole[::2], whole[::-1], whole[:, 1:]):
        with pytest.raises(ValueError, match="not contiguous"):
            gio.prefault(array)
    gio.prefault(whole.T)


# --- registered ---


@contextlib.contextmanager
def pages_at(address: int, value: int) -> Iterator[Array]:
    """A MiB of new pages there, where nothing is."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    read_write, private, anonymous, fixed_noreplace = 3, 0x02, 0x20, 0x100000
    assert libc.mmap(address, MIB, read_write, private | anonymous | fixed_noreplace, -1, 0) == address
    try:
        array = np.ctypeslib.as_array((ctypes.c_ubyte * MIB).from_address(address))
        array[:] = value
        yield array
    finally:
        libc.munmap(address, MIB)


@needs_memlock(4 * MIB)
@not_on_windows("it has no io_uring")
def test_registered_memory_stays_until_the_registration_ends(disk_dir: Path) -> None:
    """Else what comes to lie at its address would be written from the old pages."""
    owner = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    old = np.ndarray(MIB, "u1", owner)
    old[:] = 1
    address = old.__array_interface__["data"][0]
    with gio.CompletionQueue(backend="uring") as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        registration = queue.register(old)
        with pytest.raises(BufferError):
            owner.close()
        f.write_at(old, 0).result(FOREVER)
        assert queue.stats()["registered"] > 0
        registration.close()
        owner.close()
        with pages_at(address, 2) as new:
            f.write_at(new, 0).result(FOREVER)
    assert (disk_dir / "file").read_bytes() == bytes([2]) * MIB


@needs_memlock(4 * MIB)
@not_on_windows("it has no io_uring")
def test_memory_registered_for_one_transfer_stays_for_it(disk_dir: Path) -> None:
    """As stored settings have it: many small segments in place."""
    owner = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    old = np.ndarray((MIB // PAGE, PAGE), "u1", owner)
    old[...] = 1
    address = old.__array_interface__["data"][0]
    order = np.random.default_rng(0).permutation(len(old))
    with (
        gio.CompletionQueue(backend="uring") as queue,
        gio.open(disk_dir / "file", "w", queue=queue, tuning={"registered": True}) as f,
    ):
        with fault(queue, "HOLD") as let_go:
            operation = f.write_gather(gio.Segments.rows(old, order), 0)
            with pytest.raises(BufferError):
                owner.close()
            let_go()
            operation.result(FOREVER)
        assert queue.stats()["registered"] > 0
        owner.close()
        with pages_at(address, 2) as new:
            f.write_gather(gio.Segments.rows(new.reshape(-1, PAGE), order), 0).result(FOREVER)
    assert (disk_dir / "file").read_bytes() == bytes([2]) * MIB


def test_a_refused_registration_holds_no_memory(memory: Memory) -> None:
    with gio.CompletionQueue(backend="sync") as queue:
        with pytest.raises(OSError, match="registered memory") as caught:
            queue.register(memory.array)
        memory.let_go()
    del caught


@needs_memlock(MIB)
@not_on_windows("it has no io_uring")
def test_the_end_of_a_registration_ends_the_hold(memory: Memory) -> None:
    with gio.CompletionQueue(backend="uring") as queue:
        for end in (
            lambda made: made.close(),
            lambda made: made.__exit__(None, None, None),
            lambda made: None,  # the object goes
        ):
            made = queue.register(memory.array)
            refused(memory)
            end(made)
            del made
            gc.collect()
        made = queue.register(memory.array)
        refused(memory)
    assert made.closed  # with its queue
    memory.let_go()


def test_only_our_own_allocations_are_kept_registered() -> None:
    """An array can be viewed as what the library calls its allocations; it is none for that."""
    foreign = np.frombuffer(mmap.mmap(-1, MIB), "u1").view(pages.Allocation)
    foreign.serial = 1
    assert pages.allocation_of(foreign) is None and pages.allocation_of(np.asarray(foreign)) is None
    assert not pages.is_anonymous(np.asarray(foreign))
    copy = gio.empty(8).base.copy()  # type: ignore[union-attr]
    copy.serial = 1
    assert pages.allocation_of(copy) is None
    ours = gio.empty((4, 8))
    assert pages.allocation_of(ours[1:]) is ours.base and pages.is_anonymous(ours[1:])
    for class_ in (LIES["base"], LIES["base, refused"], LIES["flags"]):
        mapped = np.frombuffer(mmap.mmap(-1, MIB), "u1").view(class_)
        assert not pages.is_anonymous(np.asarray(mapped))


# --- rows ---


@pytest.mark.parametrize("picked", [[5, 3, 100], [5, 3, 5]], ids=["different", "twice"])
def test_rows_take_memory_by_the_indices(picked: list[int]) -> None:
    """Not by the rows there are: of a one-dimensional array each item is one."""
    array = np.zeros(64 * MIB, "u1")
    gio.Segments.rows(array, [0]).check_targets()  # what is imported, is
    tracemalloc.start()
    try:
        made = gio.Segments.rows(array, picked)
        if len(set(picked)) == len(picked):
            made.check_targets()
        else:
            with pytest.raises(ValueError, match="twice"):
                made.check_targets()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB


@pytest.mark.parametrize("count", [1, 2, 8, 100, 10**6])
@pytest.mark.parametrize("row_bytes", [0, 1, 3, 8])
def test_no_row_twice(count: int, row_bytes: int) -> None:
    """Few and many, near each other and far, at the beginning and at the end."""
    rows = np.zeros((count, row_bytes), "u1")
    rng = np.random.default_rng(count)
    for many in (1, 2, min(count, 50), min(count, 5000)):
        for index in (
            rng.permutation(count)[:many],
            np.arange(count)[-many:],
            -1 - rng.permutation(count)[:many],
            rng.integers(0, count, many),
            np.append(rng.permutation(count)[:many], 0),
        ):
            made = gio.Segments.rows(rows, index)
            if row_bytes == 0 or len(set((index % count).tolist())) == len(index):
                made.check_targets()
                made.check_targets()
            else:
                for _ in range(2):
                    with pytest.raises(ValueError, match="twice"):
                        made.check_targets()


def test_rows_are_checked_by_several_threads_at_once() -> None:
    rows = np.zeros((10**5, 1), "u1")
    for twice in (False, True):
        index = np.random.default_rng(0).permutation(10**5)
        index[0] = index[1] if twice else index[0]
        made = gio.Segments.rows(rows, index)
        found: list[bool] = []

        def look(made: gio.Segments = made, found: list[bool] = found) -> None:
            try:
                made.check_targets()
            except ValueError:
                found.append(True)
            else:
                found.append(False)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [twice] * 4
