"""Page-aligned arrays: alignment, huge pages, faulting in, lifetime, odd shapes; and the pool."""

from __future__ import annotations

import ctypes
import errno
import gc
import io
import math
import mmap
import re
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import FOREVER, KIB, MIB, ON_WINDOWS, PAGE, needs_root, not_on_windows, not_under_wine, run_python, shim
from this_process import resident, virtual

import gatherio as gio
from gatherio._memory import pages
from gatherio._memory.pages import HUGE_PAGE_SIZE

Array = np.ndarray[Any, Any]


def address(array: Array) -> int:
    return array.ctypes.data


def pages_there(array: Array) -> int:
    """How many pages of an array are in memory (mincore(2)); a mapping may have neighbours in it."""
    found = (ctypes.c_ubyte * -(-array.nbytes // PAGE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address(array)), ctypes.c_size_t(array.nbytes), found) == 0
    return sum(byte & 1 for byte in found)


def mapping_of(array: Array) -> dict[str, str]:
    """What /proc/self/smaps says of the mapping that an array begins in."""
    found: dict[str, str] = {}
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                if found:
                    return found
                begin, end = (int(text, 16) for text in header.groups())
                inside = begin <= address(array) < end
            elif inside:
                name, _, value = line.partition(":")
                found[name] = value.strip()
    return found


def pages_in_memory(array: Array) -> int:
    """How many of the pages of an array are there, by mincore(2) or QueryWorkingSetEx."""
    begin = address(array) // PAGE * PAGE
    count = -(-(address(array) + array.nbytes - begin) // PAGE)
    if sys.platform == "win32":
        asked = np.zeros((count, 2), np.uintp)  # address, attributes
        asked[:, 0] = begin + PAGE * np.arange(count)
        query = ctypes.WinDLL("psapi").QueryWorkingSetEx
        assert query(ctypes.c_void_p(-1), ctypes.c_void_p(asked.ctypes.data), ctypes.c_uint32(asked.nbytes))
        return int((asked[:, 1] & 1).sum())
    libc = ctypes.CDLL(None, use_errno=True)
    vector = (ctypes.c_ubyte * count)()
    assert libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(count * PAGE), vector) == 0
    return sum(byte & 1 for byte in vector)


# --- alignment and contents ---


@pytest.mark.parametrize("shape", [1, 7, 511, (3, 5), (1000, 1001), 2 * MIB, 2 * MIB + 1, (1 << 20, 9)])
@pytest.mark.parametrize("dtype", ["u1", "f4", ">i8", "c16", "S3", "M8[ns]"])
def test_arrays_start_on_a_page(shape: Any, dtype: str) -> None:
    for make in (gio.empty, gio.zeros):
        array = make(shape, dtype)
        plain = np.zeros(shape, dtype)
        assert (array.shape, array.dtype, array.strides) == (plain.shape, plain.dtype, plain.strides)
        assert address(array) % PAGE == 0
        assert gio.is_aligned(array)
        assert array.flags.writeable and array.flags.c_contiguous and type(array) is np.ndarray
        if array.nbytes >= HUGE_PAGE_SIZE and not ON_WINDOWS:  # its large pages are for those who ask
            assert address(array) % HUGE_PAGE_SIZE == 0
    assert (array == plain).all()


def test_the_last_page_is_its_own() -> None:
    """Many small arrays: no two on one page."""
    arrays = [gio.empty(100, "u1") for _ in range(500)]
    assert len({address(array) // PAGE for array in arrays}) == 500


def test_full() -> None:
    assert (gio.full((3, 4), 7) == 7).all() and gio.full((3, 4), 7).dtype == np.full((3, 4), 7).dtype
    assert gio.full(5, 1.5).dtype == np.float64
    assert gio.full(5, 300, "u2").tolist() == [300] * 5
    assert gio.full((2, 3), [1, 2, 3]).tolist() == [[1, 2, 3]] * 2
    assert gio.full(2, "ab").tolist() == ["ab", "ab"]
    assert gio.full((), True).item() is True
    with pytest.raises(ValueError):
        gio.full((2, 3), [1, 2])


FILL_VALUES: list[Any] = [
    *(0, -1, 255, 256, 300, 2**31, -(2**63), 2**63, 2**64, 10**30, 1.5, -0.0, 1e300, math.nan, math.inf, 2j, True),
    *("", "abc", "7", "\xfc", b"ab", b"", np.uint8(200), np.int64(-1), np.float32(2.5), np.bool_(True), np.str_("x")),
    *(np.datetime64("2020-01-01"), np.timedelta64(3, "s"), [1, 2, 3], [[1], [2]], [1, 2], [], range(3), np.arange(3.0)),
    *(np.array(-1), np.array([300, -1, 7]), np.zeros((2, 3), "u1")[:, ::-1], np.void(b"1234"), (1, 2, 3)),
]
FILL_DTYPES: list[Any] = [
    *(None, "u1", np.uint8, "i1", ">i2", "i4", "u8", "f2", "f4", ">f8", "c8", "?", bool, int, float, "M8[D]", "m8[s]"),
    *("S2", "U2", "S", "U", str, "V4", [("a", "u1"), ("b", "f4")], ("i4", (3,)), "S0", "U0", "V0"),
]


def outcome(call: Callable[[], Array]) -> Any:
    """What comes of it, bit by bit; the type of what is raised; what it warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            array = call()
        except Exception as failure:
            return (type(failure),)
        return array.dtype, array.shape, array.tobytes(), [warning.category for warning in told]


@pytest.mark.parametrize("dtype", FILL_DTYPES, ids=str)
def test_full_is_numpys(dtype: Any) -> None:
    for value in FILL_VALUES:
        if np.dtype(dtype).kind == "U" and not isinstance(value, (str, bytes)):
            continue  # numpy 1 writes beyond the end of such an array
        for shape in (3, (2, 3), (), 0):
            expected = outcome(lambda: np.full(shape, value, dtype))  # noqa: B023 - called at once
            found = outcome(lambda: gio.full(shape, value, dtype))  # noqa: B023
            if expected[0] is np.dtype(object):
                expected = (TypeError,)  # which pages do not hold
            assert found == expected, (shape, value, dtype)


def test_full_with_what_does_not_fit() -> None:
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        for value, dtype in ((-1, np.uint8), (300, np.uint8), (-129, "i1"), (2**64, "u8"), (2**63, int)):
            with pytest.raises(OverflowError):
                gio.full(3, value, dtype)
    assert gio.full(3, 1.5, np.int32).tolist() == [1, 1, 1]
    assert gio.full(2, "abc", "S2").tolist() == [b"ab", b"ab"]


@pytest.mark.parametrize("shape", [0, (0,), (0, 5), (3, 0, 2), ()])
def test_empty_and_0d_shapes(shape: Any) -> None:
    for make in (gio.empty, gio.zeros):
        array = make(shape, "f8")
        assert array.shape == np.zeros(shape).shape
        assert gio.is_aligned(array)
    assert array.tolist() == np.zeros(shape).tolist()


def test_shapes_of_other_kinds() -> None:
    assert gio.empty(np.int64(3)).shape == (3,)
    assert gio.empty([2, np.uint8(3)]).shape == (2, 3)
    assert gio.empty(np.array([4, 5])).shape == (4, 5)
    for shape, kind in ((-1, ValueError), ((2, -3), ValueError), (1.5, TypeError), ("3", TypeError)):
        with pytest.raises(kind):
            gio.empty(shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        gio.empty((1,) * 100)  # more dimensions than numpy has
    with pytest.raises(TypeError):
        gio.empty(3, "no such type")


def test_structured_dtypes() -> None:
    kind = np.dtype([("a", "<i2"), ("b", ">f8", (2, 3)), ("c", "S5")], align=True)
    array = gio.zeros((3, 2), kind)
    array["b"] = 2.5
    array[1, 1]["c"] = b"text"
    assert array.dtype == kind and array["b"].sum() == 2.5 * 36 and array[1, 1]["c"] == b"text"
    assert gio.is_aligned(array) and gio.is_aligned(array["b"]) is False


def test_python_objects_are_refused() -> None:
    for kind in (object, [("a", "i4"), ("b", object)]):
        for make in (gio.empty, gio.zeros):
            with pytest.raises(TypeError, match="Python objects"):
                make(3, kind)
    for call in (lambda: gio.full(3, None), lambda: gio.empty_like(np.empty(2, object))):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        gio.asaligned(np.empty(3, object))
    with pytest.raises(TypeError):
        gio.Pool(2, 3, object)


def test_fortran_order() -> None:
    array = gio.zeros((3, 4, 5), "i4", order="F")
    plain = np.zeros((3, 4, 5), "i4", order="F")
    assert array.strides == plain.strides and array.flags.f_contiguous
    assert gio.is_aligned(array)
    assert gio.full((2, 3), 1, "u1", "F").flags.f_contiguous
    with pytest.raises(ValueError):
        gio.empty(3, order="K")  # type: ignore[arg-type]


def test_empty_like() -> None:
    for plain in (
        np.zeros((3, 4), "f4"),
        np.zeros((3, 4), ">i2", order="F"),
        np.zeros((3, 4))[::2],
        np.zeros(()),
        np.zeros(0, "S3"),
    ):
        array = gio.empty_like(plain)
        assert (array.shape, array.dtype) == (plain.shape, plain.dtype)
        assert array.flags.f_contiguous == (plain.flags.f_contiguous or array.ndim < 2)
        assert gio.is_aligned(array)
    assert gio.empty_like(plain, "u2").dtype == np.uint16
    assert gio.empty_like(plain, shape=(2, 2)).shape == (2, 2)
    assert gio.empty_like([[1, 2]]).shape == (1, 2)
    assert gio.empty_like(np.zeros((2, 3), order="F"), order="C").flags.c_contiguous
    assert gio.empty_like(np.zeros((2, 3)), order="F").flags.f_contiguous


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (2**62, "f8"),
        (2**63 - 1, "u1"),
        (2**63, "u1"),
        (2**64 + 1, "u1"),  # 1 in 64 bits
        ((2**32, 2**32), "u1"),  # 0 in 64 bits
        ((2**33, 2**33, 2**33), "f8"),
        (2**46, "u1"),  # less than the address space, more than any machine's
        ((0, 2**62, 2**62), "f8"),  # nothing at all, but numpy refuses it, too
    ],
)
def test_shapes_too_large(shape: Any, dtype: str) -> None:
    for make in (gio.empty, gio.zeros):
        with pytest.raises((MemoryError, ValueError) if 0 in np.atleast_1d(shape) else MemoryError):
            make(shape, dtype)


LIMIT_OF_THE_MEMORY = """
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
"""
LIMIT_OF_THE_MEMORY_ON_WINDOWS = """
    import ctypes, struct
    kernel = ctypes.WinDLL("kernel32")
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    job, this_process = ctypes.c_void_p(kernel.CreateJobObjectW(None, None)), ctypes.c_void_p(-1)
    # JOBOBJECT_EXTENDED_LIMIT_INFORMATION: the flag JOB_OBJECT_LIMIT_PROCESS_MEMORY, and the limit
    limits = struct.pack("=16x L 92x Q 24x", 0x100, 2 << 30)
    assert kernel.SetInformationJobObject(job, 9, limits, len(limits))
    assert kernel.AssignProcessToJobObject(job, this_process)
"""


@not_under_wine("it has no limits of memory")
def test_memory_that_the_system_refuses() -> None:
    limit = LIMIT_OF_THE_MEMORY_ON_WINDOWS if ON_WINDOWS else LIMIT_OF_THE_MEMORY
    script = """
        import gatherio as gio
        for make in (gio.empty, gio.zeros, lambda n, t: gio.full(n, 1, t)):
            try:
                make(1 << 32, "u1")
            except MemoryError as failure:
                print(type(failure).__name__)
        print(gio.empty(1 << 20, "u1").size)
    """
    assert run_python(textwrap.dedent(limit) + textwrap.dedent(script)).split() == ["MemoryError"] * 3 + [str(MIB)]


# --- asaligned ---


def test_asaligned_returns_what_is_aligned() -> None:
    for array in (gio.zeros((3, 4)), gio.zeros((3, 4), order="F"), gio.zeros(2 * PAGE, "u1")[PAGE:], np.zeros(0)):
        assert gio.asaligned(array) is array


def test_asaligned_copies_the_rest() -> None:
    base = gio.empty(3 * PAGE, "u1")
    base[...] = np.arange(3 * PAGE) % 251
    for array in (base[1:100], base[:PAGE:2], base.reshape(3, PAGE).T[5:], np.asfortranarray(np.eye(3))[1:]):
        assert not gio.is_aligned(array)
        copy = gio.asaligned(array)
        assert copy is not array and gio.is_aligned(copy)
        assert copy.dtype == array.dtype and np.array_equal(copy, array)
        assert not np.shares_memory(copy, array)
    assert gio.asaligned([1, 2, 3]).tolist() == [1, 2, 3]
    assert gio.asaligned(5).shape == ()


# --- huge pages and faulting in ---


@pytest.mark.parametrize("nbytes", [1, PAGE, 100 * KIB, 2 * MIB, 2 * MIB + 1, 20 * MIB])
@pytest.mark.parametrize("huge_pages", [None, False])
def test_pages_are_faulted_in(nbytes: int, huge_pages: bool | None) -> None:
    before = resident()
    array = gio.empty(nbytes, "u1", huge_pages=huge_pages)
    count = -(-nbytes // PAGE)
    assert pages_in_memory(array) == count
    if nbytes >= 20 * MIB:
        assert resident() - before > nbytes - MIB


def test_pages_are_not_faulted_in_unless_wanted() -> None:
    array = gio.empty(16 * MIB, "u1", prefault=False, huge_pages=False)
    assert pages_in_memory(array) == 0
    array[5 * PAGE] = 1
    assert pages_in_memory(array) == 1
    gio.prefault(array[: 8 * MIB])
    assert pages_in_memory(array) == 8 * MIB // PAGE
    assert array[5 * PAGE] == 1  # the contents stay


def test_prefault_of_any_array() -> None:
    array = np.empty(MIB, "u1")
    gio.prefault(array[100:-100])
    assert pages_in_memory(array[100:-100]) > 0
    gio.prefault(np.empty(0))
    gio.prefault(np.empty(()))


# A kernel before 5.14. And another thread writes to a page in the very moment in which it is touched: the page is
# read-only until that is tried, and then each of its bytes has got one more.
SOMEBODY_WRITES = """
    #include <errno.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <sys/mman.h>
    #include <unistd.h>
    static uintptr_t begin, end;
    int madvise(void *address, size_t nbytes, int advice) { errno = EINVAL; return -1; }
    static void write_there(int number, siginfo_t *info, void *context)
    {
        uintptr_t page = sysconf(_SC_PAGESIZE), at = (uintptr_t)info->si_addr / page * page;
        if (at < begin || at >= end)
            abort();
        mprotect((void *)at, page, PROT_READ | PROT_WRITE);
        for (char *byte = (char *)at; byte < (char *)at + page; byte++)
            ++*byte;
    }
    void watch(char *address, size_t nbytes)
    {
        struct sigaction action = {.sa_sigaction = write_there, .sa_flags = SA_SIGINFO};
        begin = (uintptr_t)address;
        end = begin + nbytes;
        sigaction(SIGSEGV, &action, NULL);
        mprotect(address, nbytes, PROT_READ);
    }
"""


@not_on_windows("it has no LD_PRELOAD")
def test_where_pages_are_touched_nothing_of_others_is_lost(tmp_path: Path) -> None:
    script = """
        import ctypes, gatherio as gio, numpy as np
        from test_pages import pages_there
        PAGE = gio._memory.pages.PAGE_SIZE
        watch = ctypes.CDLL(None).watch
        watch.argtypes = ctypes.c_void_p, ctypes.c_size_t
        a = gio.empty(64 * PAGE, "u1", huge_pages=False)
        a[...] = np.arange(a.size) % 251
        watch(a.ctypes.data, a.nbytes)
        gio.prefault(a[100:-100])
        wrong = np.flatnonzero(a != np.arange(a.size) % 251 + 1)
        assert not wrong.size, wrong
        b = gio.empty(4 << 20, "u1", huge_pages=False, prefault=False)
        assert pages_there(b) == 0
        gio.prefault(b)
        assert pages_there(b) == b.nbytes // PAGE and not b.any()
    """
    run_python(script, under=shim(tmp_path, SOMEBODY_WRITES))


def test_a_read_only_array_of_a_file_is_not_faulted_in(disk_dir: Path) -> None:
    path = disk_dir / "file"
    path.write_bytes(bytes(8 * PAGE))
    with gio.Mapping(path, "r") as m:
        for array in (m.array(8 * PAGE, "u1"), np.memmap(path, "u1", "r")):
            with pytest.raises(ValueError, match="read-only"):
                gio.prefault(array)
    with gio.Mapping(path, "c") as m:
        gio.prefault(m.array(8 * PAGE, "u1"))
    gio.prefault(np.memmap(path, "u1", "r+"))
    read_only = gio.zeros(PAGE, "u1")
    read_only.flags.writeable = False
    gio.prefault(read_only)
    assert path.read_bytes() == bytes(8 * PAGE)


@not_on_windows("it touches the pages, and does not cut a mapped file")
def test_what_cannot_be_faulted_in_is_an_error(disk_dir: Path) -> None:
    """A read-only mapping, whatever the array says; a file that was cut; nothing at all."""
    script = """
        import ctypes, mmap, os, sys, gatherio as gio, numpy as np
        PAGE = gio._memory.pages.PAGE_SIZE
        def tell(array):
            try:
                gio.prefault(array)
                print("faulted in")
            except (OSError, MemoryError) as error:
                print(type(error).__name__, getattr(error, "errno", ""))
        libc = ctypes.CDLL(None)
        a = gio.zeros(4 * PAGE, "u1")
        assert libc.mprotect(ctypes.c_void_p(a.ctypes.data), a.nbytes, mmap.PROT_READ) == 0
        tell(a)
        path = sys.argv[1]
        for make in (lambda: np.memmap(path, "u1", "r+"), lambda: gio.Mapping(path)):
            with open(path, "wb") as file:
                file.write(bytes(8 * PAGE))
            mapped = make()
            array = mapped if isinstance(mapped, np.ndarray) else mapped.array(8 * PAGE, "u1")
            tell(array)
            os.truncate(path, 3 * PAGE)
            tell(array)
            tell(array[: 2 * PAGE])
        mapped.close()
        hole = gio.empty(4 * PAGE, "u1", prefault=False)
        assert libc.munmap(ctypes.c_void_p(hole.ctypes.data + PAGE), PAGE) == 0
        tell(hole)
    """
    (disk_dir / "file").touch()
    assert run_python(script, disk_dir / "file").splitlines() == [
        f"PermissionError {errno.EACCES}",
        *["faulted in", f"OSError {errno.EFAULT}", "faulted in"] * 2,
        "MemoryError ",
    ]


@not_on_windows("it has no transparent huge pages")
def test_huge_pages_by_default() -> None:
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as setting:
        if "[never]" in setting.read():
            pytest.skip("this system has transparent huge pages switched off")
    large = gio.empty(16 * MIB, "u1")
    assert address(large) % (2 * MIB) == 0
    assert "hg" in mapping_of(large)["VmFlags"].split()
    assert int(mapping_of(large)["AnonHugePages"].split()[0]) > 0
    never = gio.empty(16 * MIB, "u1", huge_pages=False)
    assert "nh" in mapping_of(never)["VmFlags"].split()
    assert int(mapping_of(never)["AnonHugePages"].split()[0]) == 0
    small = gio.empty(2 * MIB - PAGE, "u1")
    assert "hg" not in mapping_of(small)["VmFlags"].split()


def reserved_huge_pages() -> str:
    return "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


@not_on_windows("it has no reserved huge pages")
def test_reserved_huge_pages_or_an_error() -> None:
    """Without any reserved: MemoryError, with a word on where to reserve them."""
    with open(reserved_huge_pages()) as file:
        if int(file.read()):
            pytest.skip("this system has huge pages reserved, so they are not refused")
    with pytest.raises(MemoryError, match="nr_hugepages"):
        gio.empty(4 * MIB, "u1", huge_pages=True)


@not_on_windows("it has no reserved huge pages")
@needs_root("reserving huge pages")
def test_reserved_huge_pages() -> None:
    with open(reserved_huge_pages()) as file:
        before = file.read()
    try:
        with open(reserved_huge_pages(), "w") as file:
            file.write("8")
        with open(reserved_huge_pages()) as file:
            if int(file.read()) < 8:
                pytest.skip("no 16 MiB of unfragmented memory to be had")
        array = gio.empty(3 * MIB, "u1", huge_pages=True)
        assert address(array) % (2 * MIB) == 0
        assert "ht" in mapping_of(array)["VmFlags"].split()
        array[...] = 1
        with pytest.raises(MemoryError):
            gio.empty(64 * MIB, "u1", huge_pages=True)
        del array
    finally:
        with open(reserved_huge_pages(), "w") as file:
            file.write(before)


# --- lifetime ---


def test_views_keep_the_memory() -> None:
    for view_of in (
        lambda array: array[5:10],
        lambda array: array.reshape(-1, 2)[::3].T,
        lambda array: array.view("f4"),
        lambda array: memoryview(array),
        lambda array: np.asarray(array[1:2]),
        lambda array: array.ravel(),
    ):
        array = gio.full(4 * MIB, 7, "u1")
        view = np.asarray(view_of(array))
        expected = view.copy()
        seen = weakref.ref(array.base if isinstance(array.base, np.ndarray) else array)
        del array
        gc.collect()
        for _ in range(3):
            gio.full(4 * MIB, 9, "u1")  # would take the place of what was freed
        assert np.array_equal(view, expected)
        del view
        gc.collect()
        assert seen() is None


def test_memory_is_freed_once_and_in_full() -> None:
    """Neither do pages stay, nor address space."""
    for nbytes in (100, PAGE, MIB, 2 * MIB, 5 * MIB + 1):
        for _ in range(20):
            gio.empty(nbytes, "u1")
        gc.collect()
        before = virtual(), resident()
        for _ in range(400):
            array = gio.empty(nbytes, "u1")
            array[::PAGE] = 1
            del array
        gc.collect()
        assert virtual() - before[0] < 4 * MIB
        assert resident() - before[1] < 4 * MIB


def test_freeing_does_not_touch_the_neighbours() -> None:
    arrays = [gio.full(200 * KIB, i, "u1") for i in range(50)]
    for i in range(0, 50, 2):
        arrays[i] = np.empty(0)
    gc.collect()
    for i in range(1, 50, 2):
        assert (arrays[i] == i).all()


def test_arrays_cannot_be_resized_away() -> None:
    array = gio.zeros(PAGE, "u1")
    with pytest.raises(ValueError):
        array.resize(10 * PAGE)


def test_what_is_sure_to_be_no_mapped_files_memory(tmp_path: Path) -> None:
    """Only what is known: of anything else copies have to expect that its pages are gone."""
    (tmp_path / "file").write_bytes(bytes(PAGE))
    mapped = np.memmap(tmp_path / "file", "u1", "r+")
    own = np.arange(12.0)
    for array in (own, own[3:], own.reshape(3, 4).T, gio.empty(5)[1:], np.frombuffer(b"bytes", "u1")):
        assert pages.is_anonymous(array)
    assert pages.is_anonymous(np.frombuffer(io.BytesIO(b"bytes").getbuffer(), "u1"))
    for array in (mapped, mapped[5:], np.asarray(mapped), mapped.view(np.ndarray), np.frombuffer(mapped.base, "u1")):
        assert not pages.is_anonymous(array)
    assert pages.is_anonymous(np.array(mapped)) and pages.is_anonymous(mapped + 1)
    with gio.Mapping(tmp_path / "file") as m:
        assert not pages.is_anonymous(m.array(5, "u1", 7))
    buffer = (ctypes.c_char * 10)()
    assert not pages.is_anonymous(np.frombuffer(buffer, "u1"))  # whose may be what it was made from
    assert gio.Segments([own, gio.empty(3)]).anonymous and not gio.Segments([own, mapped]).anonymous
    del mapped, array


def test_copies_and_pickles_are_ordinary_arrays() -> None:
    import copy
    import pickle

    array = gio.full(1000, 3, "i4")
    for other in (array.copy(), copy.deepcopy(array), pickle.loads(pickle.dumps(array))):
        assert np.array_equal(other, array) and not np.shares_memory(other, array)


def test_page_size_is_that_of_the_system() -> None:
    assert PAGE == mmap.PAGESIZE == gio.info()["page_size"]
    assert gio.info()["allocation_granularity"] == mmap.ALLOCATIONGRANULARITY


# --- the pool ---


def test_a_pool_gives_each_array_to_one_user() -> None:
    with gio.Pool(4, (10, 20), np.uint16) as pool:
        assert len(pool) == 4 and pool.available == 4
        arrays = [pool.acquire() for _ in range(4)]
        assert len({address(array) for array in arrays}) == 4
        for array in arrays:
            assert array.shape == (10, 20) and array.dtype == np.uint16 and gio.is_aligned(array)
        assert pool.available == 0
        for timeout in (0, 0.01, -1):
            with pytest.raises(gio.TimeoutError, match="4 arrays"):
                pool.acquire(timeout=timeout)
        arrays[2][...] = 9
        pool.release(arrays[2])
        again = pool.acquire(timeout=0)
        assert address(again) == address(arrays[2]) and (again == 9).all()


def test_a_pool_takes_back_only_its_own_and_once() -> None:
    with gio.Pool(2, 100, "f8") as pool, gio.Pool(2, 100, "f8") as other:
        array = pool.acquire()
        foreign = other.acquire()
        for wrong in (np.zeros(100), gio.zeros(100), foreign, array[1:], array[:50], array[::2]):
            with pytest.raises(gio.PoolError):
                pool.release(wrong)
        with pytest.raises(TypeError):
            pool.release([1, 2])  # type: ignore[arg-type]
        assert pool.available == 1
        pool.release(array)
        with pytest.raises(gio.PoolError, match="twice"):
            pool.release(array)
        assert pool.available == 2
        other.release(foreign)


def test_a_pool_takes_views_of_the_whole_array() -> None:
    with gio.Pool(1, (10, 20), "u1") as pool:
        for view_of in (
            lambda array: array.reshape(-1),
            lambda array: array.view("i1"),
            lambda array: array[:],
            lambda array: array.T,
        ):
            pool.release(view_of(pool.acquire(timeout=0)))
        array = pool.acquire()
        with pytest.raises(gio.PoolError):
            pool.release(array[5:])
        with pytest.raises(gio.PoolError):
            pool.release(array[::-1])
        pool.release(array)


def test_arguments_of_a_pool() -> None:
    for count in (0, -1):
        with pytest.raises(ValueError):
            gio.Pool(count, 10)
    with pytest.raises(TypeError):
        gio.Pool(1.5, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        gio.Pool(2, -1)


@pytest.mark.parametrize("shape", [0, (3, 0)])
def test_a_pool_of_empty_arrays(shape: Any) -> None:
    """Each has a page of its own, so that they can be told apart."""
    with gio.Pool(3, shape, "u1") as pool:
        arrays = [pool.acquire(0) for _ in range(3)]
        assert len(pool) == 3
        for array in arrays:
            pool.release(array)


def test_acquire_waits_until_another_thread_releases() -> None:
    with gio.Pool(1, 10) as pool:
        array = pool.acquire()
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(address(pool.acquire(FOREVER))))
        thread.start()
        pool.release(array)
        thread.join()
        assert found == [address(array)]


def test_a_pool_shared_by_threads() -> None:
    """No array is with two users at a time."""
    users: dict[int, int] = {}
    failures: list[str] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with gio.Pool(3, 100, "u1") as pool:

        def use(me: int) -> None:
            for _ in range(300):
                array = pool.acquire(FOREVER)
                if users.setdefault(address(array), me) != me:
                    failures.append("two users")
                del users[address(array)]
                pool.release(array)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.available == 3
    sys.setswitchinterval(before)
    assert failures == []


def test_a_closed_pool() -> None:
    pool = gio.Pool(1, 10)
    array = pool.acquire()
    failures: list[BaseException] = []

    def acquire() -> None:
        try:
            pool.acquire(FOREVER)
        except ValueError as failure:
            failures.append(failure)

    thread = threading.Thread(target=acquire)
    thread.start()
    pool.close()
    thread.join()
    assert "closed" in str(failures[0])
    with pytest.raises(ValueError, match="closed"):
        pool.acquire()
    pool.close()
    array[...] = 1  # stays valid
    pool.release(array)
    assert (array == 1).all()


def test_acquire_keeps_to_its_time() -> None:
    with gio.Pool(1, 10) as pool:
        pool.acquire()
        begin = time.monotonic()
        with pytest.raises(gio.TimeoutError):
            pool.acquire(timeout=0.1)
        assert 0.09 < time.monotonic() - begin < 5
