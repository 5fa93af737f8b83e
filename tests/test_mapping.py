"""Mapped files and memory: the bytes are the file's, at any offset, of any length, for as long as an array lives."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import multiprocessing
import os
import pickle
import platform
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import FOREVER, GIB, KIB, MIB, PAGE, assert_same_bytes, not_on_windows, run_python, strace, words
from peers import Peer

import gatherio as gio
from gatherio import mapping as mapping_module

on_linux = not_on_windows("it refuses that, or has no such thing")
needs_fork = not_on_windows("it has no fork")
no_fork_warning = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def path(disk_dir: Path) -> Iterator[Path]:
    """A file that is no whole number of pages."""
    path = disk_dir / "file"
    path.write_bytes(words(0, 100_001))
    yield path
    gc.collect()  # a traceback may hold arrays, and Windows removes no file that is mapped


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The windows that were mapped: start and stop of each."""
    seen: list[tuple[int, int]] = []
    true_map = mapping_module.Section.map

    def counting_map(self: Any, start: int, stop: int) -> Any:
        seen.append((start, stop))
        return true_map(self, start, stop)

    monkeypatch.setattr(mapping_module.Section, "map", counting_map)
    return seen


# --- arrays ---


@pytest.mark.parametrize("offset", [0, 1, 7, PAGE - 1, PAGE, 64 * KIB - 3, 64 * KIB + 5, 100_000])
def test_an_array_at_any_offset_is_the_file(path: Path, offset: int) -> None:
    size = 100_001 - offset
    with gio.Mapping(path, "r") as m:
        assert m.size == 100_001 and m.path == path and m.created
        assert_same_bytes(m.array(size, "u1", offset), words(offset, size), offset)
        count = size // 8
        assert_same_bytes(m.array(count, "<i8", offset), words(offset, 8 * count), offset)


def test_what_is_written_is_in_the_file(path: Path) -> None:
    expected = bytearray(words(0, 100_001))
    with gio.Mapping(path) as m:
        a = m.array((30, 40), np.float64, offset=12_345)
        assert a.shape == (30, 40) and a.flags.writeable and a.flags.c_contiguous
        a[...] = np.arange(1200).reshape(30, 40)
        expected[12_345 : 12_345 + 9600] = np.arange(1200.0).tobytes()
        assert_same_bytes(path.read_bytes(), bytes(expected))  # at once, not only when it is flushed
        f = m.array((2, 3), "<i4", offset=50_001, order="F")
        f[...] = [[1, 2, 3], [4, 5, 6]]
        expected[50_001:50_025] = np.array([1, 4, 2, 5, 3, 6], "<i4").tobytes()
        m.flush()
    assert_same_bytes(path.read_bytes(), bytes(expected))


def test_records_scalars_and_nothing(path: Path) -> None:
    kind = np.dtype([("a", "<u2"), ("b", "<f4")])
    with gio.Mapping(path, "r+") as m:
        m.array((), "<i8", 3)[...] = -5
        assert m.read(3, 8) == (-5).to_bytes(8, "little", signed=True)
        table = m.array(10, kind, 1001)
        table["b"] = 1.5
        assert m.array(10, kind, 1001)["b"].sum() == 15
        assert m.array((0, 5), "f8", 100_001).shape == (0, 5)
        assert m.array((np.int64(2), 2), "u1").shape == (2, 2)


def test_an_array_of_a_mapping_for_reading_is_read_only(path: Path) -> None:
    with gio.Mapping(path, "r") as m:
        a = m.array(10, "u1")
        assert not a.flags.writeable and not m.array(0, "u1").flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1
        with pytest.raises(ValueError):
            a.flags.writeable = True
        for refused in (lambda: m.write(b"x", 0), lambda: m.put(1, 0)):
            with pytest.raises(PermissionError) as caught:
                refused()
            assert caught.value.errno == errno.EACCES and caught.value.filename == path


def test_a_copy_on_write_is_nobody_elses(path: Path) -> None:
    with gio.Mapping(path, "c") as m, gio.Mapping(path, "c") as other, gio.Mapping(path) as shared:
        m.array(100_001, "u1")[...] = 7
        m.write(b"\x08" * 10, 50_000)
        assert m.read(49_999, 3) == b"\x07\x08\x08"  # its own views agree
        assert_same_bytes(other.array(100_001, "u1"), words(0, 100_001))
        m.flush()
        m.advise("dontneed")  # must not throw away what was written
        assert m.array(1, "u1", 77_777)[0] == 7
        shared.array(8, "u1", 90_000)[...] = 3
        assert m.array(1, "u1", 90_000)[0] == 7
    expected = words(0, 100_001)
    expected[90_000:90_008] = 3
    assert_same_bytes(path.read_bytes(), expected)


def test_many_views_agree_with_each_other_and_the_file(path: Path) -> None:
    with gio.Mapping(path) as m, gio.Mapping(path) as again, gio.Mapping(path, "r") as reader:
        views = [m.array(50_000, "u1", i) for i in range(0, 50_000, 777)]
        views[3][0] = 0xAB
        at = 3 * 777
        assert all(view[at - i * 777] == 0xAB for i, view in enumerate(views) if i * 777 <= at < i * 777 + 50_000)
        assert again.array(1, "u1", at)[0] == reader.read(at, 1)[0] == path.read_bytes()[at] == 0xAB


def test_plain_writes_to_the_file_show(path: Path) -> None:
    with gio.Mapping(path, "r") as m:
        a = m.array(100, "u1", 5000)
        with open(path, "r+b") as plain:
            plain.seek(5000)
            plain.write(b"x" * 100)
        assert a.tobytes() == m.read(5000, 100) == b"x" * 100


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda m: m.array(1, "u1", 100_001), ValueError),
        (lambda m: m.array(1, "u1", -1), ValueError),
        (lambda m: m.array(100_002, "u1"), ValueError),
        (lambda m: m.array((2**40, 2**40), "f8"), ValueError),
        (lambda m: m.array(-1, "u1"), ValueError),
        (lambda m: m.array(1, object), TypeError),
        (lambda m: m.array(1.5, "u1"), TypeError),
        (lambda m: m.array(1, "u1", 1.5), TypeError),
        (lambda m: m.read(100_000, 2), ValueError),
        (lambda m: m.read(-1, 1), ValueError),
        (lambda m: m.read(0, -1), ValueError),
        (lambda m: m.read(0, 4, out=bytearray(5)), ValueError),
        (lambda m: m.read(0, out=b"read-only"), ValueError),
        (lambda m: m.read(0, out=np.zeros((4, 4), "u1")[:, ::2]), ValueError),
        (lambda m: m.write(b"xy", 100_000), ValueError),
        (lambda m: m.write("text", 0), TypeError),
        (lambda m: m.write(np.array([None]), 0), TypeError),
        (lambda m: m.flush(0, 100_002), ValueError),
        (lambda m: m.commit(0, 10), ValueError),
        (lambda m: m.advise("soon"), ValueError),
    ],
)
def test_arguments_that_make_no_sense(path: Path, call: Callable[[gio.Mapping], object], kind: type[Exception]) -> None:
    with gio.Mapping(path) as m, pytest.raises(kind):
        call(m)
    assert_same_bytes(path.read_bytes(), words(0, 100_001))


def test_reading_and_writing_bytes(path: Path) -> None:
    expected = bytearray(words(0, 100_001))
    with gio.Mapping(path) as m:
        assert m.write(b"abc", 99_998) == 3
        assert m.write(np.arange(6, dtype="<u2").reshape(2, 3).T, 11) == 12  # in C order
        assert m.write(memoryview(np.arange(4, dtype="<u4")), 501) == 16
        assert m.write(np.array(["2020-01-01"], "M8[D]"), 601) == 8
        assert m.write(b"", 100_001) == 0
        expected[99_998:] = b"abc"
        expected[11:23] = np.array([0, 3, 1, 4, 2, 5], "<u2").tobytes()
        expected[501:517] = np.arange(4, dtype="<u4").tobytes()
        expected[601:609] = np.array(["2020-01-01"], "M8[D]").tobytes()
        assert m.read(0) == expected
        assert m.read(99_998) == b"abc" and m.read(0, 0) == b"" and m.read(100_001) == b""
        target = np.zeros((3, 7), "u1")
        assert m.read(10, out=target) is target and target.tobytes() == expected[10:31]
        held = bytearray(5)
        assert m.read(1, 5, held) is held and held == expected[1:6]
    assert path.read_bytes() == expected


# --- sizes ---


def test_a_longer_file_is_made(path: Path) -> None:
    with gio.Mapping(path, "r+", 300_000) as m:
        assert m.size == 300_000 == path.stat().st_size
        assert not m.array(199_999, "u1", 100_001).any()
        m.array(1, "u1", 299_999)[0] = 9
    assert path.stat().st_size == 300_000 and path.read_bytes()[-1] == 9
    assert_same_bytes(path.read_bytes()[:100_001], words(0, 100_001))
    (path.parent / "empty").touch()
    with gio.Mapping(path.parent / "empty", size=5) as m:
        assert m.read(0) == bytes(5)


@on_linux
def test_what_is_added_has_its_space(path: Path) -> None:
    with gio.Mapping(path, "r+", 4 * MIB):
        assert path.stat().st_blocks * 512 >= 4 * MIB


def test_a_part_of_a_file(path: Path) -> None:
    for access in ("r", "r+", "c"):
        with gio.Mapping(path, access, 5000) as m:  # type: ignore[arg-type]
            assert m.size == 5000
            assert_same_bytes(m.read(0), words(0, 5000))
            with pytest.raises(ValueError, match="within"):
                m.array(1, "u1", 5000)
    assert path.stat().st_size == 100_001


def test_sizes_that_cannot_be(path: Path) -> None:
    (path.parent / "empty").touch()
    for access in ("r", "r+", "c"):
        with pytest.raises(ValueError, match="empty"):
            gio.Mapping(path.parent / "empty", access)  # type: ignore[arg-type]
        for size in (0, -1, 2**63, 2**100):
            with pytest.raises(ValueError):
                gio.Mapping(path, access, size)  # type: ignore[arg-type]
    for access in ("r", "c"):
        with pytest.raises(ValueError, match="shorter"):
            gio.Mapping(path, access, 100_002)  # type: ignore[arg-type]
    with pytest.raises(OSError) as caught:
        gio.Mapping(path, "r+", 2**62)
    assert caught.value.filename == path
    with pytest.raises(OSError):
        gio.Mapping(None, size=2**50)
    with pytest.raises(ValueError, match="needs a size"):
        gio.Mapping(None)
    assert path.stat().st_size == 100_001


def test_what_cannot_be_mapped(path: Path) -> None:
    cases: list[tuple[Any, type[Exception]]] = [
        (path.parent, IsADirectoryError),
        (path.parent / "missing", FileNotFoundError),
        (path / "below", OSError),
        ("nul\0byte", ValueError),
        (3, TypeError),
    ]
    for what, kind in cases:
        with pytest.raises(kind) as caught:
            gio.Mapping(what)
        if isinstance(caught.value, OSError):
            assert caught.value.filename == what
    with pytest.raises(ValueError, match="access is one of"):
        gio.Mapping(path, "w+")  # type: ignore[arg-type]


@on_linux
@pytest.mark.timeout(30)
def test_devices_and_pipes_are_refused(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    for special in ("/dev/null", "/dev/zero", path.parent / "fifo"):
        with pytest.raises(OSError) as caught:
            gio.Mapping(special, "r", 100)
        assert caught.value.errno == errno.ENODEV


def test_a_full_disk_is_an_error_now(small_disk_dir: Path) -> None:
    path = small_disk_dir / "file"
    path.write_bytes(words(0, 10_000))
    with pytest.raises(OSError) as caught:
        gio.Mapping(path, "r+", 100 * MIB)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == path
    assert path.stat().st_size == 10_000
    with gio.Mapping(path, "r+", 5 * MIB) as m:
        with open(small_disk_dir / "filler", "wb") as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(MIB))
                filler.flush()
        m.array(m.size, "u1")[...] = 1  # nothing more is needed
        m.flush()
    assert path.read_bytes() == b"\x01" * (5 * MIB)


def test_beyond_4_gib(disk_dir: Path) -> None:
    """The high halves of offsets and lengths; windows, and views that cross them."""
    path = disk_dir / "sparse"
    with open(path, "wb") as plain:
        plain.truncate(5 * GIB + 77)
    marks = [0, 2**31 - 4, 2**32 - 8, 2**32 - 3, 2**32, 2**32 + 12_345, 5 * GIB + 69]
    with gio.Mapping(path) as m:
        assert m.size == 5 * GIB + 77
        for i, mark in enumerate(marks):
            if i != 3:
                m.array((), "<u8", mark)[...] = mark + 1
        across = m.array(16, "u1", 2**32 - 8)
        assert across.tobytes() == (2**32 - 7).to_bytes(8, "little") + (2**32 + 1).to_bytes(8, "little")
        assert m.read(2**32 - 3, 6) == across[5:11].tobytes()
        long = m.array(m.size, "u1")
        assert long[5 * GIB + 69 :].tobytes() == (5 * GIB + 70).to_bytes(8, "little")
        long[2**32 + 5] = 0xEE
        assert across[13] == 0xEE
        m.flush(2**32 - 100, 200)
        with gio.Mapping(path, "c") as copy:
            copy.array(8, "u1", 2**32 + 100)[...] = 1
            assert not long[2**32 + 100 : 2**32 + 108].any()
    with open(path, "rb") as plain:
        for i, mark in enumerate(marks):
            plain.seek(mark)
            if i not in (3, 4):
                assert int.from_bytes(plain.read(8), "little") == mark + 1


# --- windows ---


def test_many_small_views_are_few_mappings(path: Path, maps: list[tuple[int, int]]) -> None:
    with gio.Mapping(path) as m:
        for i in range(100_000):
            m.array(1, "u1", i)
    assert len(maps) == 1


def test_windows_come_and_go_but_not_under_arrays(
    disk_dir: Path, maps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping_module, "WINDOW_BYTES", 64 * KIB)
    path = disk_dir / "file"
    data = words(0, 4 * MIB + 5)
    path.write_bytes(data)
    with gio.Mapping(path) as m:
        held = [m.array(50_000, "u1", at) for at in range(0, 4 * MIB - 50_000, 100_000)]
        crossing = m.array(300_000, "u1", 200_001)
        for at in range(0, 4 * MIB, 30_011):
            assert_same_bytes(m.array(5, "u1", at), data[at : at + 5], at)
        assert len(m._kept) == mapping_module.WINDOWS_KEPT
        assert len(m._living) > len(held) / 2
        for i, array in enumerate(held):
            assert_same_bytes(array, data[i * 100_000 : i * 100_000 + 50_000])
        assert_same_bytes(crossing, data[200_001:500_001])
        crossing[0] ^= 0xFF
        assert m.read(200_001, 1)[0] == crossing[0] == path.read_bytes()[200_001]
        del held, crossing, array
        gc.collect()
        assert len(m._living) == mapping_module.WINDOWS_KEPT
        assert all(start % (64 * KIB) == 0 for start, _ in maps)


def test_arrays_outlive_the_mapping(path: Path) -> None:
    m = gio.Mapping(path)
    a = m.array(100, "u1", 12_345)
    b = a[10:].view("<i2")
    m.close()
    m.close()
    assert m.closed
    for refused in (lambda: m.array(1), lambda: m.read(0, 1), lambda: m.flush(), lambda: m.put(1, 0), m.__enter__):
        with pytest.raises(ValueError, match="closed"):
            refused()
    a[...] = 5
    del a
    gc.collect()
    assert (b == 0x0505).all()
    b[0] = 7
    assert path.read_bytes()[12_355] == 7
    alone = gio.Mapping(path, "r").array(10, "u1")  # nobody closes the mapping
    gc.collect()
    assert_same_bytes(alone, words(0, 10))


@on_linux
def test_nothing_stays_behind(path: Path) -> None:
    def count() -> tuple[int, int]:
        gc.collect()
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
        return len(lines), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(50):
        with gio.Mapping(path) as m:
            array = m.array(10)
        assert count() == (1, before[1])
        del array
    gio.Mapping(path).array(3)
    assert count() == before


spans = st.tuples(st.integers(0, 400_000), st.integers(0, 150_000))
near = st.builds(lambda base, step, n: (max(0, base + step), n), st.sampled_from([0, 65_536, 131_072, 262_144]),
                 st.integers(-9, 9), st.sampled_from([1, 8, 65_536, 131_073]))  # fmt: skip
actions = st.tuples(
    st.sampled_from(["view", "view", "write", "read", "drop", "flush", "change"]), spans | near, st.integers(0, 255)
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(size=st.integers(1, 400_000), sequence=st.lists(actions, min_size=1, max_size=40), named=st.booleans())
def test_views_against_a_bytearray(
    size: int, sequence: list[tuple[str, tuple[int, int], int]], named: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(mapping_module, "WINDOW_BYTES", 64 * KIB)
    path = tmp_path / "model"
    path.write_bytes(words(0, size))
    model = bytearray(words(0, size))
    views: list[tuple[int, Any]] = []
    m = gio.Mapping(None, size=size, name=f"model-{os.getpid()}") if named else gio.Mapping(path)
    with m:
        if named:
            m.write(words(0, size), 0)
        for action, (offset, nbytes), value in sequence:
            if offset + nbytes > size:
                with pytest.raises(ValueError):
                    m.array(nbytes, "u1", offset)
                offset %= size
                nbytes = min(nbytes, size - offset)
            if action == "view":
                kind = np.dtype(["u1", "<u2", "<f4", "<c16"][value % 4])
                views.append((offset, m.array(nbytes // kind.itemsize, kind, offset)))
            elif action == "write":
                m.write(bytes([value]) * nbytes, offset)
                model[offset : offset + nbytes] = bytes([value]) * nbytes
            elif action == "read":
                assert m.read(offset, nbytes) == model[offset : offset + nbytes]
            elif action == "drop" and views:
                views.pop(value % len(views))
            elif action == "flush":
                m.flush(offset, nbytes)
            elif action == "change" and views:
                start, array = views[value % len(views)]
                array.view("u1")[::3] = value
                model[start : start + array.nbytes : 3] = bytes([value]) * len(array.view("u1")[::3])
        for start, array in views:
            assert_same_bytes(array.view("u1"), bytes(model[start : start + array.nbytes]), start)
        assert m.read(0) == model
    if not named:
        assert path.read_bytes() == model


@on_linux
def test_where_addresses_are_few_windows_are_small(path: Path) -> None:
    """RLIMIT_AS is less than a window: what is asked for is mapped, and no more."""
    script = """
    import os, resource, sys
    import gatherio as gio, numpy as np
    os.truncate(sys.argv[1], 8 << 30)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
    with gio.Mapping(sys.argv[1]) as m:
        for i in range(500):
            m.array(1 << 20, "u1", i * 15_000_001)[0] = 1
        assert m.read(15_000_001, 1) == b"\\x01"
        try:
            m.array(1 << 30, "u1")
        except OSError as error:
            print(error.errno)
    """
    assert run_python(script, path) == f"{errno.ENOMEM}\n"


def read_until_closed(m: gio.Mapping, started: threading.Barrier, wrong: list[BaseException]) -> None:
    started.wait(FOREVER)
    try:
        while True:
            assert m.read(8, 8) == words(8, 8).tobytes()
            m.flush(0, 10)
    except ValueError:
        pass
    except BaseException as error:
        wrong.append(error)


def test_closing_while_others_read(path: Path) -> None:
    wrong: list[BaseException] = []
    for _ in range(20):
        m = gio.Mapping(path)
        started = threading.Barrier(4)
        threads = [threading.Thread(target=read_until_closed, args=(m, started, wrong)) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait(FOREVER)
        m.close()
        for thread in threads:
            thread.join()
    assert not wrong


# --- who cuts the file ---


def test_a_mapped_file_is_not_cut_in_this_process(path: Path) -> None:
    with gio.open(path, "r+") as f:
        m = gio.Mapping(path, "r", 50_000)
        f.truncate(120_000)  # growing is fine
        for cut in (
            lambda: f.truncate(10_000),
            lambda: f.truncate(119_999),
            lambda: gio.open(path, "w"),
            lambda: gio.open(path, "w+", direct=False),
        ):
            with pytest.raises(OSError) as caught:
                cut()
            assert caught.value.errno == errno.EBUSY and caught.value.filename == path
        array = m.array(10, "u1", 49_990)
        m.close()
        with pytest.raises(OSError, match="mapped"):
            f.truncate(10_000)
        assert_same_bytes(array, words(49_990, 10))
        del array
        gc.collect()
        f.truncate(10_000)
    gio.open(path, "w").close()
    assert path.stat().st_size == 0


def test_reserved_space_that_is_mapped_is_not_cut_silently(disk_dir: Path) -> None:
    path = disk_dir / "file"
    f = gio.open(path, "w", preallocate=MIB)
    f.write_at(gio.zeros(100, "u1"), 0).result()
    m = gio.Mapping(path)
    with pytest.raises(OSError) as caught:
        f.close()
    assert caught.value.errno == errno.EBUSY and f.closed
    m.close()


@on_linux
@pytest.mark.parametrize("access", ["r", "r+", "c"])
def test_another_process_cuts_the_file(path: Path, access: Any) -> None:
    with gio.Mapping(path, access) as m:
        run_python("import os, sys; os.truncate(sys.argv[1], 10_000)", path)
        assert_same_bytes(m.read(9000, 1000), words(9000, 1000))
        for offset, nbytes in ((9000, 1001), (10_001, 10), (50_000, 10), (0, 100_001), (100_000, 1)):
            with pytest.raises(OSError) as caught:
                m.read(offset, nbytes)
            assert caught.value.errno == errno.EIO and caught.value.filename == path
            assert "shorter" in str(caught.value)
            if access != "r":
                with pytest.raises(OSError, match="shorter"):
                    m.write(bytes(nbytes), offset)
        with pytest.raises(OSError, match="shorter"):
            m.get(60_000)
        assert path.stat().st_size == 10_000
    assert_same_bytes(path.read_bytes()[:9000], words(0, 9000) if access != "r+" else path.read_bytes()[:9000])


@on_linux
def test_a_file_that_shrinks_again_and_again(path: Path) -> None:
    """A process that cuts and grows it all the time: bytes or OSError, and no crash."""
    with Peer() as other, gio.Mapping(path) as m:
        other.do("import os")
        other.tell(f"for i in range(3000): os.truncate({str(path)!r}, 0); os.truncate({str(path)!r}, 100_001)")
        outcomes = {"read": 0, "refused": 0}
        for _ in range(3000):
            try:
                m.read(0, 100_001)
                outcomes["read"] += 1
            except OSError as error:
                assert error.errno == errno.EIO
                outcomes["refused"] += 1
        other.answer()
        m.read(0, 100_001)


@on_linux
def test_touching_what_was_cut_is_a_sigbus(path: Path) -> None:
    """As the documentation says of bare arrays."""
    script = """
    import os, resource, sys, gatherio as gio
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    a = gio.Mapping(sys.argv[1]).array(100_001, "u1")
    os.truncate(sys.argv[1], 10)
    a[50_000]
    """
    run_python(script, path, code=-signal.SIGBUS)


# --- flushing, advice ---


@on_linux
def test_flushing_asks_the_system(path: Path, tmp_path: Path) -> None:
    script = """
    import sys, gatherio as gio
    with gio.Mapping(sys.argv[1]) as m:
        m.array(100_001, "u1")[...] = 1
        m.flush(5000, 100)
        m.flush()
    for access in ("r", "c"):
        with gio.Mapping(sys.argv[1], access) as m:
            m.flush()
    """
    log = tmp_path / "strace"
    run_python(script, path, under=strace(log, "-e", "trace=msync,fsync"))
    calls = re.findall(r"(msync\(\w+, \d+, MS_SYNC\)|fsync\(\d+\)) += 0", log.read_text())
    assert len(calls) == 2 and calls[0].startswith("msync") and calls[1].startswith("fsync")
    assert int(calls[0].split(",")[1]) < 3 * PAGE


@on_linux
@pytest.mark.parametrize("call", ["msync", "fsync"])
def test_a_flush_that_fails_says_so(path: Path, tmp_path: Path, call: str) -> None:
    script = """
    import sys, gatherio as gio
    with gio.Mapping(sys.argv[1]) as m:
        try:
            m.flush(*([0, 10] if sys.argv[2] == "msync" else []))
        except OSError as error:
            print(error.errno, error.filename == sys.argv[1])
    """
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:error=EIO"]
    assert run_python(script, path, call, under=strace(tmp_path / "log", *inject)) == f"{errno.EIO} True\n"


def test_advice_changes_nothing_but_speed(path: Path) -> None:
    for access in ("r", "r+", "c"):
        with gio.Mapping(path, access) as m:  # type: ignore[arg-type]
            for advice in ("sequential", "random", "normal", "willneed", "dontneed"):
                m.advise(advice)  # type: ignore[arg-type]
                m.advise(advice, 5001, 20_000)  # type: ignore[arg-type]
                m.advise(advice, 100_001)  # type: ignore[arg-type]
                assert_same_bytes(m.read(0), words(0, 100_001))


@on_linux
def test_advice_reaches_the_kernel_and_windows_to_come(path: Path) -> None:
    with gio.Mapping(path) as m:
        m.advise("random")
        text = Path("/proc/self/smaps").read_text()
        flags = re.search(rf"{path}\n(?:.*\n)*?VmFlags: (.*)\n", text)
        assert flags and "rr" in flags[1].split()


# --- memory and flags ---


def test_nameless_memory() -> None:
    with gio.Mapping(None, size=100_001) as m:
        assert m.created and m.path is None and m.name is None
        a = m.array(100_001, "u1")
        assert not a.any()
        a[77_777] = 1
        assert m.read(77_777, 1) == b"\x01"
        m.flush()
        m.advise("dontneed")
        assert a[77_777] == 1
    with gio.Mapping(None, "r", 10) as m:
        assert not m.array(10, "u1").flags.writeable


def test_memory_that_is_only_reserved() -> None:
    with gio.Mapping(None, size=GIB, reserve=True) as m:
        for early in (lambda: m.array(1, "u1"), lambda: m.write(b"x", 0), lambda: m.read(0, 1)):
            with pytest.raises(ValueError, match="commit"):
                early()
        m.commit(100 * KIB, 300 * KIB)
        m.commit(100 * KIB, 300 * KIB)
        a = m.array(300 * KIB, "u1", 100 * KIB)
        assert not a.any()
        a[...] = 1
        m.commit(350 * KIB, 100 * KIB)
        assert m.array(350 * KIB, "u1", 100 * KIB).sum() == 300 * KIB
        with pytest.raises(ValueError, match="commit"):
            m.array(600 * KIB, "u1", 100 * KIB)
        with pytest.raises(ValueError):
            m.commit(0, GIB + 1)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the code in it is x86-64's")
def test_code_in_memory_runs() -> None:
    with gio.Mapping(None, size=PAGE, execute=True) as m:
        m.write(b"\xb8\x2a\x00\x00\x00\xc3", 0)  # mov eax, 42; ret
        address = m.array(1, "u1").__array_interface__["data"][0]
        assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == 42


def test_large_pages_are_had_whole_or_not_at_all() -> None:
    try:
        m = gio.Mapping(None, size=3 * MIB, large_pages=True)
    except OSError as error:
        assert error.errno in (errno.ENOMEM, errno.EPERM, errno.EACCES) or getattr(error, "winerror", 0)
        return
    with m:
        assert m.size == 3 * MIB
        m.array(3 * MIB, "u1")[...] = 1


@on_linux
def test_what_linux_lacks(path: Path) -> None:
    for make in (
        lambda: gio.Mapping(None, size=10, no_cache=True),
        lambda: gio.Mapping(path, no_cache=True),
        lambda: gio.Mapping(None, size=10, name="large", large_pages=True),
    ):
        with pytest.raises(OSError) as caught:
            make()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_flags_that_are_for_memory(path: Path) -> None:
    for flags in ({"reserve": True}, {"large_pages": True}):
        with pytest.raises(ValueError, match="for memory"):
            gio.Mapping(path, **flags)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude"):
        gio.Mapping(None, size=10, reserve=True, large_pages=True)


# --- other processes ---


def test_pythons_own_mmap_sees_the_same_bytes(path: Path) -> None:
    with gio.Mapping(path) as m, Peer() as other:
        other.do("import mmap")
        other.do(f"file = open({str(path)!r}, 'r+b'); theirs = mmap.mmap(file.fileno(), 0)")
        a = m.array(100, "u1", 77_777)
        a[...] = 5
        assert other.do("theirs[77776:77878]") == bytes([*words(77_776, 1), *[5] * 100, *words(77_877, 1)])
        other.do("theirs[77780:77783] = b'abc'")
        assert a[3:6].tobytes() == b"abc"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as ours, gio.Mapping(path) as m:
        m.write(b"here too", 1234)
        assert ours[1234:1242] == b"here too"


def _change(m: gio.Mapping, offset: int) -> None:
    with m:
        m.array(5, "u1", offset)[...] = 9


def test_a_pickled_mapping_opens_its_file_again(path: Path) -> None:
    with gio.Mapping(path, "r+", 50_000) as m:
        again = pickle.loads(pickle.dumps(m))
        assert (again.access, again.size) == ("r+", 50_000)
        again.close()
        process = multiprocessing.get_context("spawn").Process(target=_change, args=(m, 12_345))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert m.read(12_345, 5) == b"\x09" * 5


def test_a_relative_path_means_where_it_was_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with gio.Mapping("file", "r") as m:
        monkeypatch.chdir(path.parent.parent)
        with pickle.loads(pickle.dumps(m)) as again:
            assert_same_bytes(again.read(0), words(0, 100_001))


def test_what_cannot_be_pickled(path: Path) -> None:
    with gio.Mapping(None, size=10) as m, pytest.raises(TypeError, match="name"):
        pickle.dumps(m)
    with gio.Mapping(path, "c") as m, pytest.raises(TypeError, match="copy"):
        pickle.dumps(m)
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(m)


@needs_fork
@no_fork_warning
def test_a_forked_child_goes_on(path: Path) -> None:
    m, memory = gio.Mapping(path), gio.Mapping(None, size=100)
    a = memory.array(100, "u1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            m.array(4, "u1", 5)[...] = 1
            a[0] = 2
            memory.write(b"\x03", 1)
            m.close()
            memory.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert m.read(5, 4) == b"\x01" * 4 and a[:2].tobytes() == memory.read(0, 2) == b"\x02\x03"
    m.close()
    memory.close()


def test_repr_and_names_of_files(path: Path) -> None:
    os.rename(path, path.with_name("gr\u00fc\u00df \u6587"))
    with gio.Mapping(os.fsencode(path.with_name("gr\u00fc\u00df \u6587")), "r") as m:
        assert "access 'r', 100001 bytes" in repr(m) and "closed" not in repr(m)
    assert "closed" in repr(m)
