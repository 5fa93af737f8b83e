"""What is Windows' own: the calls themselves, handles, paths, errors. Everything else is in the tests for all systems.

The calls are seen by an import hook: the entries for ReadFile, WriteFile, ReadFileScatter and WriteFileGather in the
import table of the compiled module are replaced by functions that write down what they are given and pass it on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import wintypes
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracle import (
    FOREVER,
    GIB,
    KIB,
    MIB,
    PAGE,
    assert_same_bytes,
    handle_mode,
    not_under_wine,
    placed,
    set_fault,
    target,
    words,
)
from this_process import comes_down, handle_count

import gatherio as gio
from gatherio import _gatherio
from gatherio._core import file as file_module
from gatherio._native import lib

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)


# -- the import hook ---------------------------------------------------------------------------------------------

NAMES = ("ReadFile", "WriteFile", "ReadFileScatter", "WriteFileGather")


class Overlapped(ctypes.Structure):
    _fields_ = [
        ("internal", ctypes.c_size_t),
        ("internal_high", ctypes.c_size_t),
        ("offset", ctypes.c_uint32),
        ("offset_high", ctypes.c_uint32),
        ("event", ctypes.c_void_p),
    ]


class Call(NamedTuple):
    name: str
    handle: int
    nbytes: int
    offset: int
    offset_high: int
    fourth: int | None  # the reserved argument, or where the count would go: NULL for overlapped calls
    addresses: list[int]  # of the pages, until the NULL; of a plain call the one of the data
    thread: int


FUNCTION = ctypes.WINFUNCTYPE(
    wintypes.BOOL,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.POINTER(Overlapped),
    use_last_error=True,
)


def import_entries(module: int) -> Iterator[tuple[str, int]]:
    """Name and address of each entry of a loaded 64-bit module's import tables (the PE format)."""

    def u32(at: int) -> int:
        return ctypes.c_uint32.from_address(at).value

    def u64(at: int) -> int:
        return ctypes.c_uint64.from_address(at).value

    header = module + u32(module + 0x3C)
    descriptor = module + u32(header + 24 + 112 + 8)  # the optional header's second data directory
    while u32(descriptor + 12):  # the DLL's name
        names, entries = module + u32(descriptor), module + u32(descriptor + 16)
        for i in range(1 << 16):
            name = u64(names + 8 * i)
            if name == 0:
                break
            if not name >> 63:  # else by number
                yield ctypes.string_at(module + name + 2).decode(), entries + 8 * i
        descriptor += 20


@contextlib.contextmanager
def replaced(kind: Any, names: Sequence[str], make: Callable[[str, Any], Callable[..., int]]) -> Iterator[None]:
    """What the module calls by these names is `make(name, original)`. In any thread, so no assertions in there."""
    keep, slots = [], []
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    module = kernel32.GetModuleHandleW(_gatherio.__file__)
    assert module
    for name, entry in import_entries(module):
        if name in names:
            slot = ctypes.c_uint64.from_address(entry)
            substitute = kind(make(name, kind(slot.value)))
            keep.append(substitute)
            slots.append((slot, slot.value))
            make_writeable(entry)
            slot.value = ctypes.cast(substitute, ctypes.c_void_p).value
    assert len(slots) == len(names)
    try:
        yield
    finally:
        for slot, value in slots:
            slot.value = value


@pytest.fixture
def calls() -> Iterator[list[Call]]:
    """What the module calls from now on."""
    seen: list[Call] = []
    with replaced(FUNCTION, NAMES, lambda name, original: spying(name, original, seen)):
        yield seen


def make_writeable(address: int) -> None:
    before = wintypes.DWORD()
    assert kernel32.VirtualProtect(ctypes.c_void_p(address), ctypes.c_size_t(8), 0x04, ctypes.byref(before))


def spying(name: str, original: Any, seen: list[Call]) -> Any:
    def spy(handle: int, memory: int, nbytes: int, fourth: int | None, overlapped: Any) -> int:
        addresses = [memory]
        if name in ("ReadFileScatter", "WriteFileGather"):
            addresses = []
            while element := ctypes.c_uint64.from_address(memory + 8 * len(addresses)).value:
                addresses.append(element)
        where = overlapped.contents
        thread = threading.get_native_id()
        seen.append(Call(name, handle, nbytes, where.offset, where.offset_high, fourth, addresses, thread))
        return int(original(handle, memory, nbytes, fourth, overlapped))

    return spy


# Any function of up to eight arguments, and what it returns: numbers and pointers.
ANY_FUNCTION = ctypes.WINFUNCTYPE(ctypes.c_size_t, *[ctypes.c_size_t] * 8, use_last_error=True)


@contextlib.contextmanager
def refused(name: str, code: int, when: Callable[[int], bool], answer: int = 0) -> Iterator[list[int]]:
    """The calls of a function whose number, from 1 on, fits are refused with the code. Gives the numbers so far."""
    seen: list[int] = []

    def make(_: str, original: Any) -> Callable[..., int]:
        def refusing(*arguments: int) -> int:
            seen.append(len(seen) + 1)
            if when(len(seen)):
                ctypes.set_last_error(code)
                return answer
            return int(original(*arguments))

        return refusing

    with replaced(ANY_FUNCTION, [name], make):
        yield seen


def separate_pages(count: int) -> tuple[Any, list[Any]]:
    """Pages of which no two are neighbours, and the memory that they lie in."""
    memory = gio.zeros((2 * count, PAGE), "u1")
    return memory, [memory[2 * i] for i in range(count)]


# -- the calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 5 * GIB + 3 * PAGE], ids=["near", "beyond 4 GiB"])
def test_a_gather_of_separate_pages_is_one_call(
    disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call], offset: int
) -> None:
    _, pages = separate_pages(7)
    for i, page in enumerate(pages):
        page[...] = words(offset + i * PAGE, PAGE)
    back_memory, back = separate_pages(7)
    with gio.open(disk_dir / "file", "w+", queue=queue) as f:
        assert f.direct
        assert f.write_gather(pages, offset).result(FOREVER) == 7 * PAGE
        (call,) = calls
        assert call.name == "WriteFileGather"
        assert call.addresses == [page.ctypes.data for page in pages]  # seven elements, then the NULL
        assert (call.nbytes, call.fourth) == (7 * PAGE, None)
        assert (call.offset, call.offset_high) == (offset & 0xFFFFFFFF, offset >> 32)
        calls.clear()

        assert f.read_scatter(back[::-1], offset).result(FOREVER) == 7 * PAGE
        (call,) = calls
        assert call.name == "ReadFileScatter"
        assert call.addresses == [page.ctypes.data for page in back[::-1]]
        assert (call.nbytes, call.fourth) == (7 * PAGE, None)
        assert (call.offset, call.offset_high) == (offset & 0xFFFFFFFF, offset >> 32)
        for i, page in enumerate(back[::-1]):
            assert_same_bytes(page, words(offset + i * PAGE, PAGE))
        stats = queue.stats()
        assert (stats["gathers"], stats["scatters"], stats["writes"], stats["reads"]) == (1, 1, 0, 0)
    assert not back_memory[1::2].any()


def test_larger_segments_are_one_element_for_each_page(
    disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]
) -> None:
    memory = placed(words(0, 9 * PAGE))
    parts = [memory[4 * PAGE : 7 * PAGE], memory[: 2 * PAGE]]
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        f.write_gather(parts, 0).result(FOREVER)
    (call,) = calls
    base = memory.ctypes.data
    assert call.addresses == [base + i * PAGE for i in (4, 5, 6, 0, 1)]
    assert (disk_dir / "file").read_bytes() == b"".join(part.tobytes() for part in parts)


def test_one_run_of_memory_is_a_plain_call(disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]) -> None:
    data = placed(words(0, 3 * PAGE))
    with gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_gather([data[:PAGE], data[PAGE:]], 0).result(FOREVER)  # neighbours
        f.read_scatter([data], 0).result(FOREVER)
    assert [(call.name, call.nbytes, call.fourth) for call in calls] == [
        ("WriteFile", 3 * PAGE, None),
        ("ReadFile", 3 * PAGE, None),
    ]


def test_a_ragged_tail_is_a_plain_call_on_the_other_handle(
    disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]
) -> None:
    _, pages = separate_pages(3)
    tail = placed(words(3 * PAGE, 700))
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        f.write_gather([*pages, tail], 0, copy=None).result(FOREVER)
    by_name = {call.name: call for call in calls}
    assert len(calls) == 2
    assert len(by_name["WriteFileGather"].addresses) == 3
    assert by_name["WriteFile"].nbytes == 700
    assert by_name["WriteFile"].offset == 3 * PAGE
    assert by_name["WriteFile"].handle != by_name["WriteFileGather"].handle
    assert (disk_dir / "file").stat().st_size == 3 * PAGE + 700


def test_a_part_of_a_page_goes_by_itself(disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]) -> None:
    """copy=False allows the last array to be a multiple of the sector only."""
    _, pages = separate_pages(2)
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        last = gio.zeros(f.alignment, "u1")
        f.write_gather([*pages, last], 0).result(FOREVER)
    assert sorted((call.name, call.nbytes) for call in calls) == [
        ("WriteFile", last.nbytes),
        ("WriteFileGather", 2 * PAGE),
    ]


def test_a_million_pages_are_cut_into_requests(disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]) -> None:
    memory, pages = separate_pages(3000)
    memory[::2].view("u8")[:, 0] = np.arange(3000)
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        f.write_gather(pages, 0).result(FOREVER)
    assert {call.name for call in calls} == {"WriteFileGather"}
    assert sum(len(call.addresses) for call in calls) == 3000
    assert all(call.nbytes == PAGE * len(call.addresses) for call in calls)
    written = np.fromfile(disk_dir / "file", "u8").reshape(3000, -1)
    assert (written[:, 0] == np.arange(3000)).all()


def test_buffered_files_have_no_gather(disk_dir: Path, queue: gio.CompletionQueue, calls: list[Call]) -> None:
    _, pages = separate_pages(3)
    with gio.open(disk_dir / "file", "w+", direct=False, queue=queue) as f:
        f.write_gather(pages, 0).result(FOREVER)
        f.read_scatter(pages, 0).result(FOREVER)
    assert [call.name for call in calls] == ["WriteFile"] * 3 + ["ReadFile"] * 3


def test_what_may_block_is_called_by_a_thread_of_the_queue(disk_dir: Path, calls: list[Call]) -> None:
    data = placed(words(0, 2 * PAGE))
    me = threading.get_native_id()
    with gio.CompletionQueue(backend="iocp") as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_at(data, 0).result(FOREVER)  # extends
        f.write_at(data, 0).result(FOREVER)
        f.read_at(data, 0).result(FOREVER)
        f.write_at(data[:100], 0).result(FOREVER)  # through the cache
        assert [call.thread == me for call in calls] == [False, True, True, False]
        assert queue.stats()["handed_over"] == 2
    calls.clear()
    with gio.CompletionQueue(backend="sync") as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_at(data, 0).result(FOREVER)
        assert [call.thread for call in calls] == [me]  # what sync is for


# -- when the system is short of memory --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1450, 1453, 1816, 1784], ids=["resources", "working set", "quota", "user buffer"])
def test_a_shortage_of_memory_shrinks_what_is_in_flight(disk_dir: Path, queue: gio.CompletionQueue, code: int) -> None:
    data = placed(words(0, 16 * MIB))
    with gio.open(disk_dir / "file", "w", queue=queue) as f, native_failures(queue, code, 5):
        assert f.write_at(data, 0).result(FOREVER) == data.nbytes
        assert queue.stats()["retried"] == 5
    assert_same_bytes((disk_dir / "file").read_bytes(), data)


def test_a_shortage_that_does_not_end_is_told(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f, native_failures(queue, 1453, 2**62):
        with pytest.raises(OSError, match="16777216 bytes at offset 0") as told:
            f.write_at(placed(words(0, 16 * MIB)), 0).result(FOREVER)
        assert (told.value.errno, told.value.winerror) == (errno.ENOMEM, 1453)


@contextlib.contextmanager
def native_failures(queue: gio.CompletionQueue, code: int, count: int) -> Iterator[None]:
    """`count` requests fail with a code of Windows' own."""
    assert lib.gio_queue_fault(queue._native, lib.GIO_FAULT_FAIL, 0, count, code) == 0
    try:
        yield
    finally:
        set_fault(queue, "NONE")


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "number"),
    [
        (1117, OSError, errno.EIO),
        (23, OSError, errno.EIO),
        (112, OSError, errno.ENOSPC),
        (39, OSError, errno.ENOSPC),
        (5, PermissionError, errno.EACCES),
        (33, gio.LockedError, errno.EACCES),
        (19, OSError, errno.EROFS),
        (87, OSError, errno.EINVAL),
    ],
)
def test_errors_are_those_of_the_other_system_and_have_winerror(
    disk_dir: Path, queue: gio.CompletionQueue, code: int, kind: type[OSError], number: int
) -> None:
    path = disk_dir / "file"
    with gio.open(path, "w", queue=queue) as f, native_failures(queue, code, 1):
        operation = f.write_at(placed(words(0, PAGE)), 8192)
        with pytest.raises(kind) as told:
            operation.result(FOREVER)
    assert type(told.value) is kind
    assert (told.value.errno, told.value.winerror, told.value.filename) == (number, code, path)
    assert f"[WinError {code}]" in str(told.value)
    assert "4096 bytes at offset 8192" in str(told.value)


def test_opening_fails_as_elsewhere(disk_dir: Path) -> None:
    with pytest.raises(FileNotFoundError) as told:
        gio.open(disk_dir / "missing")
    assert told.value.winerror == 2
    with pytest.raises(IsADirectoryError):
        gio.open(disk_dir)
    (disk_dir / "there").touch()
    with pytest.raises(FileExistsError):
        gio.open(disk_dir / "there", "x")
    for name in ("con", "nul"):
        with pytest.raises(OSError, match=name):
            gio.open(name, "r+")


# -- calls that are refused: what strace's injection shows on Linux ------------------------------------------------

INVALID_HANDLE = 2**64 - 1


@contextlib.contextmanager
def one_call_at_a_time(path: Path, backend: str) -> Iterator[gio.File]:
    with gio.CompletionQueue(1, backend=backend, request_size=4 * PAGE) as queue:
        with gio.open(path, "r+", queue=queue) as f:
            yield f


@pytest.mark.parametrize("name", ["WriteFile", "ReadFile", "GetOverlappedResult"])
def test_an_error_of_the_call_is_raised(disk_dir: Path, backend: str, name: str) -> None:
    path = disk_dir / "file"
    path.write_bytes(words(0, 16 * PAGE))
    array = placed(words(0, 16 * PAGE))
    with one_call_at_a_time(path, backend) as f, refused(name, 1117, lambda number: number == 3) as seen:
        operation = f.read_at(array, 0) if name == "ReadFile" else f.write_at(array, 0)
        with pytest.raises(OSError, match=f"{16 * PAGE} bytes at offset 0; the first {8 * PAGE} bytes") as told:
            operation.result(FOREVER)
        assert (told.value.errno, told.value.winerror, told.value.filename) == (errno.EIO, 1117, path)
        assert seen == [1, 2, 3]  # the fourth was never begun


@pytest.mark.parametrize("name", ["WriteFile", "ReadFile"])
def test_a_call_to_be_retried_is_made_again(disk_dir: Path, backend: str, name: str) -> None:
    path = disk_dir / "file"
    path.write_bytes(words(0, 16 * PAGE) if name == "ReadFile" else bytes(16 * PAGE))
    array = target(16 * PAGE) if name == "ReadFile" else placed(words(0, 16 * PAGE))
    with one_call_at_a_time(path, backend) as f, refused(name, 1237, lambda number: number % 2 == 1) as seen:
        operation = f.read_at(array, 0) if name == "ReadFile" else f.write_at(array, 0)
        assert operation.result(FOREVER) == 16 * PAGE
        assert len(seen) == 8
    assert_same_bytes(array, words(0, 16 * PAGE))
    assert_same_bytes(path.read_bytes(), words(0, 16 * PAGE))


@pytest.mark.parametrize("name", ["ReadFile", "GetOverlappedResult"])
def test_the_end_of_the_file_is_no_error(disk_dir: Path, backend: str, name: str) -> None:
    """Whether the call tells it or its completion; who else has cut the file, nobody tells us."""
    path = disk_dir / "file"
    path.write_bytes(words(0, 16 * PAGE))
    array = target(16 * PAGE)
    with one_call_at_a_time(path, backend) as f, refused(name, 38, lambda number: number == 2):
        assert f.read_at(array, 0).result(FOREVER) == 4 * PAGE
    assert_same_bytes(array[: 4 * PAGE], words(0, 4 * PAGE))


def test_a_failed_flush_is_raised(disk_dir: Path) -> None:
    path = disk_dir / "file"
    with gio.open(path, "w") as f, refused("FlushFileBuffers", 1117, lambda number: True):
        f.write_at(words(0, 5000), 0).result(FOREVER)
        with pytest.raises(OSError, match="flushing") as told:
            f.flush()
        assert (told.value.errno, told.value.winerror, told.value.filename) == (errno.EIO, 1117, path)


def test_a_file_system_without_direct_io(disk_dir: Path) -> None:
    path = disk_dir / "file"
    path.write_bytes(words(0, 5000))
    handles = 0
    for i in range(10):
        with refused("ReOpenFile", 87, lambda number: number == 1, INVALID_HANDLE):
            with pytest.raises(OSError, match="direct I/O asked for") as told:
                gio.open(path, "w", direct=True)
            assert (told.value.errno, told.value.winerror) == (errno.EINVAL, 87)
        assert_same_bytes(path.read_bytes()[:5000], words(0, 5000, 2 * i))  # mode "w" was refused: still whole
        for refusals in (1, 2):  # of the second call, too: then everything goes through the first handle
            with refused("ReOpenFile", 87, lambda number, last=refusals: number <= last, INVALID_HANDLE):
                with gio.open(path, "r+") as f:
                    assert not f.direct
                    assert "direct I/O is not to be had" in f.reason
                    f.write_gather(separate_pages(3)[1], 0).result(FOREVER)
                    f.write_at(words(0, 5000, 2 * i + refusals), 0).result(FOREVER)
            assert_same_bytes(path.read_bytes()[:5000], words(0, 5000, 2 * i + refusals))
        handles = handles or handle_count()
    assert comes_down(handle_count, handles + 5)


@pytest.mark.parametrize("code", [112, 39, 1295])
def test_space_that_is_not_there_is_refused(disk_dir: Path, code: int) -> None:
    path = disk_dir / "file"
    path.write_bytes(words(0, 5000))
    with refused("SetFileInformationByHandle", code, lambda number: number == 1):
        with pytest.raises(OSError, match="reserving") as told:
            gio.open(path, "r+", preallocate=MIB)
        assert told.value.errno == (errno.EDQUOT if code == 1295 else errno.ENOSPC)
    assert_same_bytes(path.read_bytes(), words(0, 5000))


@contextlib.contextmanager
def allocations() -> Iterator[list[tuple[int, int]]]:
    """What is set of a file from now on, class and number. Allocations are only written down: Wine has none."""
    allocation_info, seen = 5, []

    def make(_: str, original: Any) -> Callable[..., int]:
        def setting(*arguments: int) -> int:
            seen.append((arguments[1], ctypes.c_int64.from_address(arguments[2]).value))
            return 1 if arguments[1] == allocation_info else int(original(*arguments))

        return setting

    with replaced(ANY_FUNCTION, ["SetFileInformationByHandle"], make):
        yield seen


def test_an_allocation_is_never_below_the_end_of_the_file(disk_dir: Path) -> None:
    """It would cut the file. A sparse or compressed one has less space than it is long."""

    def make(_: str, original: Any) -> Callable[..., int]:
        def sparse(*arguments: int) -> int:
            result = int(original(*arguments))
            if arguments[1] == 1:  # FileStandardInfo
                ctypes.c_int64.from_address(arguments[2]).value = 0  # its AllocationSize
            return result

        return sparse

    path = disk_dir / "file"
    path.write_bytes(words(0, 5 * MIB))
    with gio.open(path, "r+") as f, allocations() as seen:
        with replaced(ANY_FUNCTION, ["GetFileInformationByHandleEx"], make):
            for n in (1, MIB, 5 * MIB, 5 * MIB + 1, 8 * MIB):
                f.preallocate(n)
        assert seen == [(5, n) for n in (5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB + 1, 8 * MIB)]  # and no end
        assert f.size == 5 * MIB
    assert_same_bytes(path.read_bytes(), words(0, 5 * MIB))


def test_what_is_in_flight_ends_before_an_allocation(
    disk_dir: Path, queue: gio.CompletionQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Releasing:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def gio_submit_call(self, *arguments: object) -> int:
            code = int(lib.gio_submit_call(*arguments))
            assert seen == []
            set_fault(queue, "NONE")
            return code

    with gio.open(disk_dir / "file", "w", queue=queue) as f, allocations() as seen, monkeypatch.context() as patched:
        set_fault(queue, "HOLD", count=1)
        operation = f.write_at(placed(words(0, PAGE)), 8 * MIB)
        patched.setattr(file_module, "lib", Releasing())
        f.preallocate(MIB)
        assert operation.done()
        assert seen == [(5, 8 * MIB + PAGE)]  # the end that this write has made
    assert (disk_dir / "file").stat().st_size == 8 * MIB + PAGE


def test_valid_data_is_not_set_without_writing_it() -> None:
    """It shows what was on the disk before."""
    kernel32.GetModuleHandleW.restype = ctypes.c_void_p
    names = {name for name, _ in import_entries(kernel32.GetModuleHandleW(_gatherio.__file__))}
    assert "SetFileInformationByHandle" in names and "SetFileValidData" not in names


@pytest.mark.parametrize("which", ["all", "CreateFileW", "ReOpenFile"])
def test_close_tells_that_a_handle_could_not_be_closed(disk_dir: Path, queue: gio.CompletionQueue, which: str) -> None:
    """And closes the others."""
    failing: set[int] = set()

    def make(name: str, original: Any) -> Callable[..., int]:
        def opening(*arguments: int) -> int:
            handle = int(original(*arguments))
            if which in ("all", name):
                failing.add(handle)
            return handle

        def closing(*arguments: int) -> int:
            result = int(original(*arguments))
            if arguments[0] not in failing:
                return result
            failing.discard(arguments[0])
            ctypes.set_last_error(1117)
            return 0

        return closing if name == "CloseHandle" else opening

    path = disk_dir / "file"
    handles = handle_count()
    with replaced(ANY_FUNCTION, ["CreateFileW", "ReOpenFile", "CloseHandle"], make):
        f = gio.open(path, "w", queue=queue)
        f.write_at(words(0, 5000), 0).result(FOREVER)
        f.fileno()
        with pytest.raises(OSError, match="closing the file") as told:
            f.close()
        assert (told.value.errno, told.value.winerror, told.value.filename) == (errno.EIO, 1117, path)
        assert f.closed and not failing
        f.close()
    assert comes_down(handle_count, handles + 2)
    path.unlink()  # nobody has it open


def test_close_tells_that_the_descriptor_could_not_be_closed(disk_dir: Path) -> None:
    path = disk_dir / "file"
    f = gio.open(path, "w")
    os.close(f.fileno())
    with pytest.raises(OSError) as told:
        f.close()
    assert (told.value.errno, told.value.filename) == (errno.EBADF, path)
    path.unlink()  # nobody has it open


def test_without_completion_ports_it_takes_sync_and_says_why(disk_dir: Path) -> None:
    with refused("CreateIoCompletionPort", 1450, lambda number: True):
        with gio.CompletionQueue() as queue:
            assert queue.backend == "sync"
            assert "iocp cannot be had" in queue.reason
            with gio.open(disk_dir / "file", "w", queue=queue) as f:
                f.write_at(words(0, 5000), 0).result(FOREVER)
        with pytest.raises(OSError, match="iocp cannot be had") as told:
            gio.CompletionQueue(backend="iocp")
        assert (told.value.errno, told.value.winerror) == (errno.ENOMEM, 1450)


def test_a_handle_that_cannot_be_bound_is_closed(disk_dir: Path) -> None:
    path = disk_dir / "file"
    with gio.CompletionQueue(backend="iocp") as queue:
        for which in (1, 2):
            with refused("CreateIoCompletionPort", 87, lambda number, which=which: number == which):
                with pytest.raises(OSError) as told:
                    gio.open(path, "w", queue=queue)
                assert told.value.winerror == 87
            path.unlink(missing_ok=True)  # nobody has it open


# -- handles, paths ----------------------------------------------------------------------------------------------


def test_paths_of_any_length_and_alphabet(disk_dir: Path) -> None:
    folder = disk_dir
    for _ in range(5):
        folder = folder / ("длинный путь 長い " + "x" * 60)
    os.makedirs("\\\\?\\" + str(folder))
    path = folder / "файл 🎞.npy"
    assert len(str(path)) > 300
    data = placed(words(0, PAGE + 5))
    with gio.open(path, "w") as f:
        f.write_at(data, 0).result(FOREVER)
    with open("\\\\?\\" + str(path), "rb") as plain:
        assert_same_bytes(plain.read(), data)
    with gio.open(os.fsencode(path)) as f:
        assert f.size == data.nbytes
    gio.save(path, data)
    assert_same_bytes(gio.load(path), data)


def test_others_may_open_the_file_meanwhile(disk_dir: Path) -> None:
    """As a file that Python has opened: others read and write it, and nobody removes it."""
    path = disk_dir / "file"
    with gio.open(path, "w+") as f:
        f.write_at(placed(words(0, PAGE)), 0).result(FOREVER)
        with open(path, "rb+") as plain:
            assert_same_bytes(plain.read(), words(0, PAGE))
            plain.seek(0)
            plain.write(b"others")
        array = target(PAGE)
        assert f.read_at(array, 0).result(FOREVER) == PAGE
        assert bytes(array[:6]) == b"others"
        with pytest.raises(PermissionError):
            path.unlink()
    path.unlink()


def test_fileno_is_a_descriptor_of_the_same_file(disk_dir: Path) -> None:
    path = disk_dir / "file"
    with gio.open(path, "w+") as f:
        f.write_at(placed(words(0, 3 * PAGE)), 0).result(FOREVER)
        number = f.fileno()
        assert f.fileno() == number
        assert os.fstat(number).st_size == 3 * PAGE
        f.write_at(placed(words(0, PAGE)), 3 * PAGE).result(FOREVER)  # as before
    with pytest.raises(OSError) as caught:
        os.fstat(number)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="closed"):
        f.fileno()


@pytest.mark.parametrize("direct", [None, False], ids=["direct", "buffered"])
def test_durable_files_are_written_through(disk_dir: Path, direct: bool | None) -> None:
    write_through = 2  # FILE_WRITE_THROUGH
    with gio.open(disk_dir / "file", "w", direct=direct, durable=True) as f:
        assert handle_mode(f.fileno()) & write_through
    with gio.open(disk_dir / "file", "w", direct=direct) as f:
        assert not handle_mode(f.fileno()) & write_through


def test_no_handle_is_inherited(disk_dir: Path) -> None:
    """A child that outlives us must not keep the file from being removed."""
    path = disk_dir / "file"
    f = gio.open(path, "w")
    f.fileno()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
    )
    try:
        f.close()
        path.unlink()
        assert not path.exists()
    finally:
        child.communicate(b"")


def test_all_handles_are_closed(disk_dir: Path) -> None:
    def once() -> None:
        with gio.CompletionQueue() as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
            f.write_at(placed(words(0, PAGE + 7)), 0).result(FOREVER)
            f.fileno()
        for backend in ("iocp", "sync"):
            gio.CompletionQueue(backend=backend).close()
        with pytest.raises(FileNotFoundError):
            gio.open(disk_dir / "missing")

    once()
    before = handle_count()
    for _ in range(50):
        once()
    assert comes_down(handle_count, before + 5)


# -- memory and the system ---------------------------------------------------------------------------------------


def test_small_arrays_share_a_region() -> None:
    """VirtualAlloc would give each page a region of 64 KiB of its own."""
    arrays = [gio.zeros(100, "u1") for _ in range(400)]
    addresses = sorted(array.ctypes.data for array in arrays)
    assert all(address % PAGE == 0 for address in addresses)
    assert len(set(addresses)) == 400
    close = sum(after - before == PAGE for before, after in zip(addresses, addresses[1:], strict=False))
    assert close > 300
    for i, array in enumerate(arrays):
        array[...] = i % 251
    del arrays[::2], array
    more = [gio.zeros(300, "u1") for _ in range(300)]
    assert not any(array.any() for array in more)  # zero again
    assert all((array == (2 * i + 1) % 251).all() for i, array in enumerate(arrays))


def test_info_tells_the_numbers_of_the_system(disk_dir: Path) -> None:
    found = gio.info(disk_dir)
    assert (found["page_size"], found["allocation_granularity"]) == (4096, 65536)
    assert list(found["backends"]) == ["iocp", "sync"]
    assert all(backend["available"] for backend in found["backends"].values())
    about = found["path"]
    assert about["direct"] is True
    assert about["offset_alignment"] in (512, 4096)
    assert about["memory_alignment"] == 4096
    assert isinstance(about["file_system"], str) and about["file_system"]
    assert about["free_bytes"] > MIB


def test_large_pages_need_a_right() -> None:
    try:
        array = gio.zeros(3 * MIB, "u1", huge_pages=True)
    except MemoryError as error:
        assert "Lock pages in memory" in str(error)
    else:
        assert array.ctypes.data % gio.info()["huge_page_size"] == 0


def test_reserved_space_is_allocated(disk_dir: Path) -> None:
    path = disk_dir / "file"
    with gio.open(path, "w", preallocate=3 * MIB) as f:
        assert f.size == 0
        f.write_at(placed(words(0, 100 * KIB + 1)), 0).result(FOREVER)
    assert path.stat().st_size == 100 * KIB + 1
    with pytest.raises(OSError) as told:
        gio.open(path, "r+", preallocate=2**60)
    assert told.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EINVAL)
    assert_same_bytes(path.read_bytes(), words(0, 100 * KIB + 1))


# -- Ctrl-Break --------------------------------------------------------------------------------------------------


@not_under_wine("it has no console")
def test_ctrl_break_ends_the_demo(disk_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gatherio", "demo", disk_dir, "--size", "64M", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
    )
    try:
        deadline = time.monotonic() + FOREVER
        while not list(disk_dir.glob("gatherio-demo-*/gathered.bin")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.CTRL_BREAK_EVENT)
        out, errors = process.communicate(timeout=FOREVER)
    finally:
        process.kill()
        process.wait()
    assert errors == "gatherio demo: stopped by SIGBREAK; cleaned up\n"
    assert (process.returncode, out) == (149, "")
    assert not list(disk_dir.iterdir())


# -- asyncio -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["ProactorEventLoop", "SelectorEventLoop"])
def test_both_loops(disk_dir: Path, queue: gio.CompletionQueue, loop: str) -> None:
    async def main() -> None:
        with gio.open(disk_dir / "file", "w+", queue=queue) as f:
            arrays = [placed(words(i * PAGE, PAGE)) for i in range(64)]
            sizes = await asyncio.gather(*(f.write_at(array, i * PAGE) for i, array in enumerate(arrays)))
            assert sizes == [PAGE] * 64
            back = target(64 * PAGE)
            assert await f.read_at(back, 0) == back.nbytes
            assert_same_bytes(back, words(0, 64 * PAGE))
            await echo()  # the loop's own business goes on

    made = getattr(asyncio, loop)()
    try:
        made.run_until_complete(asyncio.wait_for(main(), FOREVER))
    finally:
        made.close()


async def echo() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1000))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"x" * 1000)
        assert await reader.readexactly(1000) == b"x" * 1000
        writer.close()
        await writer.wait_closed()
