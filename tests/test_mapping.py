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
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import (
    FOREVER,
    GIB,
    KIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    not_on_windows,
    press_ctrl_c,
    run_python,
    shim,
    strace,
    words,
)
from peers import Peer

import gatherio as gio
from gatherio import _native as native
from gatherio._mapping import mapping as mapping_module
from gatherio._mapping import records
from gatherio._mapping import sections as sections_module

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
    """The views that were mapped: start and stop of each."""
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


# What copies much tells whether the thread has the GIL meanwhile.
TELLING = """
    #include <dlfcn.h>
    #include <sys/uio.h>
    static long held, copied;
    static void look(size_t nbytes)
    {
        int (*has_gil)(void) = dlsym(RTLD_DEFAULT, "PyGILState_Check");
        copied++;
        held += has_gil && has_gil();
    }
    static void *copy(void *to, const void *from, size_t nbytes)
    {
        static void *(*real)(void *, const void *, size_t);
        if (!real)
            real = dlsym(RTLD_NEXT, "memmove");
        if (nbytes >= 1 << 20)
            look(nbytes);
        return real(to, from, nbytes);
    }
    void *memcpy(void *to, const void *from, size_t nbytes) { return copy(to, from, nbytes); }
    void *memmove(void *to, const void *from, size_t nbytes) { return copy(to, from, nbytes); }
    #define BY_THE_KERNEL(name)                                                                                     \\
        ssize_t name(pid_t pid, const struct iovec *ours, unsigned long n, const struct iovec *other,               \\
                     unsigned long m, unsigned long flags)                                                          \\
        {                                                                                                           \\
            ssize_t (*real)(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long,        \\
                            unsigned long) = dlsym(RTLD_NEXT, #name);                                               \\
            if (other->iov_len >= 1 << 20)                                                                          \\
                look(other->iov_len);                                                                               \\
            return real(pid, ours, n, other, m, flags);                                                             \\
        }
    BY_THE_KERNEL(process_vm_readv)
    BY_THE_KERNEL(process_vm_writev)
    long times_copied(void) { long told = copied; copied = 0; return told; }
    long times_held(void) { return held; }
"""


@on_linux
def test_much_is_copied_without_the_gil(disk_dir: Path, tmp_path: Path) -> None:
    """Whatever is copied, and once: other threads go on meanwhile."""
    script = """
        import ctypes, sys, gatherio as gio, numpy as np
        shim = ctypes.PyDLL(None)
        n = 4 << 20
        a = np.arange(n, dtype="u1")
        b = np.lib.stride_tricks.as_strided(a[: n // 2], (n // 2,), (2,))
        def do(what, call):
            shim.times_copied()
            before = shim.times_held()
            call()
            print(what, shim.times_copied(), shim.times_held() - before)
        shim.memcpy(ctypes.c_void_p(a.ctypes.data), ctypes.c_void_p(a.ctypes.data + n // 2), ctypes.c_size_t(n // 2))
        print("the test itself", shim.times_copied(), shim.times_held())
        for what in (None, sys.argv[1]):
            with gio.Mapping(what, size=2 * n) as m:
                do("write", lambda: m.write(a, 0))
                do("write", lambda: m.write(bytearray(n), 0))
                do("read", lambda: m.read(0, n))
                do("read", lambda: m.read(0, out=a))
                do("read", lambda: m.read(0, out=bytearray(n)))
                do("put", lambda: m.put(a, 5))
                do("get", lambda: m.get(5))
                if what:
                    with gio.Mapping(what, "c") as c:
                        do("read", lambda: c.read(0, n))
                m.write(b, 0), m.put(b, 0), m.get(0)
        print("in all", shim.times_held())
    """
    (disk_dir / "file").touch()
    told = run_python(script, disk_dir / "file", under=shim(tmp_path, TELLING)).splitlines()
    assert told[0] == "the test itself 1 1" and told[-1] == "in all 1", told
    assert [line.split()[1:] for line in told[1:-1]] == [["1", "0"]] * 15, told


def test_what_is_read_is_there_once(path: Path) -> None:
    n = 32 * MIB
    with gio.Mapping(path, size=n) as m:
        m.read(0, 1)
        tracemalloc.start()
        try:
            read = m.read(0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(read) == n and n <= peak < n + MIB
        assert_same_bytes(read[:100_001], words(0, 100_001))


@pytest.mark.parametrize("call", ["read", "read into", "write", "put", "get"])
def test_ctrl_c_while_much_is_copied(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered behind the part that is being copied, which is small."""
    much = 512 * MIB
    memory = np.empty(much, "u1")  # nobody touches it
    parts: list[int] = []

    class Lib:
        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_section_copy(self, section: Any, direction: int, view: Any, memory: Any, nbytes: int, end: int) -> int:
            if nbytes < MIB:
                return int(native.lib.gio_section_copy(section, direction, view, memory, nbytes, end))
            parts.append(nbytes)
            press_ctrl_c()
            return 0

    with gio.Mapping(None, size=much + PAGE) as m:
        calls: dict[str, Callable[[], object]] = {
            "read": lambda: m.read(0, much),
            "read into": lambda: m.read(0, out=memory),
            "write": lambda: m.write(memory, 0),
            "put": lambda: m.put(memory, 0),
            "get": lambda: m.get(0),
        }
        record = records.Record(
            records.ARRAY, b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}" % much, memory
        )
        monkeypatch.setattr(records, "_checksum", lambda *_: 0)
        if call == "get":
            m.write(record.header() + record.description, 0)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(sections_module, "lib", Lib())
            calls[call]()
    assert len(parts) == 1 and parts[0] <= 256 * MIB


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
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG, *([errno.ENOMEM] if ON_WINDOWS else []))
    with pytest.raises(OSError) as caught:
        gio.Mapping(None, size=2**50)
    assert caught.value.errno == errno.ENOMEM
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


GROWING = """
    import errno, os, sys, gatherio as gio
    path, size = sys.argv[1], int(sys.argv[2])
    held = open(path, "rb") if sys.argv[3] == "held" else None  # then there is no lease
    try:
        with gio.Mapping(path, "r+", size) as m:
            print("mapped", m.size)
    except OSError as failure:
        assert failure.filename == path
        print(errno.errorcode[failure.errno])
    if held:
        held.close()
"""

# Whoever makes room meets somebody else, who writes in this very moment: within the part that is new, and behind it.
SOMEBODY_WRITES = """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    int fallocate(int fd, int mode, off_t offset, off_t length)
    {
        char name[40], path[512] = {0};
        snprintf(name, sizeof name, "/proc/self/fd/%%d", fd);
        readlink(name, path, sizeof path - 1);
        if (strstr(path, "grows")) {
            int other = open(path, O_RDWR);
            pwrite(other, "precious", 8, 20000);
            pwrite(other, "precious", 8, %d);
            close(other);
        }
        errno = %d;
        return -1;
    }
"""


@on_linux
@pytest.mark.parametrize("held", ["alone", "held"])
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("behind", [50_000, 150_000])
def test_growing_touches_nothing_of_what_others_write(
    disk_dir: Path, tmp_path: Path, number: int, held: str, behind: int
) -> None:
    """Whether it succeeds or fails, and whatever it is that fails."""
    path = disk_dir / "grows"
    path.write_bytes(words(0, 10_000))
    outcome = run_python(GROWING, path, 100_000, held, under=shim(tmp_path, SOMEBODY_WRITES % (behind, number)))
    without = number in (errno.EOPNOTSUPP, errno.ENOSYS)
    assert outcome == ("mapped 100000\n" if without else f"{errno.errorcode[number]}\n")
    content = path.read_bytes()
    assert len(content) == max(100_000 if without else 0, behind + 8)
    assert content[20_000:20_008] == content[behind : behind + 8] == b"precious"
    assert_same_bytes(content[:10_000], words(0, 10_000))


@on_linux
def test_growing_never_makes_a_file_shorter(disk_dir: Path, tmp_path: Path) -> None:
    """Many make one file longer at once without fallocate(2), each as far as it likes, and find all that they map."""
    no_fallocate = """
        #include <errno.h>
        #include <fcntl.h>
        int fallocate(int fd, int mode, off_t offset, off_t length) { errno = EOPNOTSUPP; return -1; }
    """
    script = """
        import random, sys, threading, gatherio as gio
        path, wrong = sys.argv[1], []
        def grow(seed):
            chance = random.Random(seed)
            for _ in range(100):
                size = chance.randrange(1, 1 << 20)
                with gio.Mapping(path, "r+", size) as m:
                    try:
                        m.write(b"x", size - 1)
                    except OSError as error:
                        wrong.append(error)
        threads = [threading.Thread(target=grow, args=(i,)) for i in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not wrong, wrong
    """
    (disk_dir / "file").touch()
    run_python(script, disk_dir / "file", under=shim(tmp_path, no_fallocate))


@on_linux
def test_where_space_cannot_be_reserved_it_is_looked_for(small_disk_dir: Path, tmp_path: Path, fuse: Any) -> None:
    path = small_disk_dir / "grows"
    path.write_bytes(words(0, 10_000))
    # Nothing can be reserved, and statfs(2) of this one is told. Then of one that knows nothing.
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", "inject=fallocate:error=EOPNOTSUPP")
    assert run_python(GROWING, path, 100 * MIB, "alone", under=prefix) == "ENOSPC\n"
    assert path.stat().st_size == 10_000
    assert run_python(GROWING, path, 5 * MIB, "alone", under=prefix) == f"mapped {5 * MIB}\n"
    for told in ("no_block_size", "no_blocks"):
        disk = fuse(statfs=told, no_fallocate=errno.ENOSYS)
        (disk.path / "file").write_bytes(b"here")
        with gio.Mapping(disk.path / "file", size=100_000) as m:
            assert m.read(0, 6) == b"here\0\0"


@on_linux
def test_what_was_reserved_in_vain_is_given_back(small_disk_dir: Path, tmp_path: Path) -> None:
    """The disk is fuller than it looked, so that all that there is was taken before the failure."""
    blind = """
        #include <dlfcn.h>
        #include <sys/vfs.h>
        int fstatfs(int fd, struct statfs *told)
        {
            int (*ask)(int, struct statfs *) = dlsym(RTLD_NEXT, "fstatfs");
            int result = ask(fd, told);
            told->f_blocks = told->f_bfree = told->f_bavail = 0;
            return result;
        }
    """
    path = small_disk_dir / "grows"
    path.write_bytes(words(0, 10_000))
    os.sync()
    free = os.statvfs(small_disk_dir).f_bfree
    assert run_python(GROWING, path, 100 * MIB, "alone", under=shim(tmp_path, blind)) == "ENOSPC\n"
    assert path.stat().st_size == 10_000
    assert os.statvfs(small_disk_dir).f_bfree >= free - 16  # blocks of the file's own map
    assert_same_bytes(path.read_bytes(), words(0, 10_000))


@on_linux
@pytest.mark.parametrize("where", ["file", "name"])
def test_a_signal_while_space_is_reserved(disk_dir: Path, tmp_path: Path, where: str) -> None:
    """tmpfs gives up all that it has allocated when a signal comes. A timer does not keep it busy for ever, and Ctrl-C
    is not kept waiting."""
    interrupted = """
        #include <dlfcn.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <signal.h>
        #include <stdlib.h>
        int fallocate(int fd, int mode, off_t offset, off_t length)
        {
            static int (*real)(int, int, off_t, off_t);
            static int calls;
            if (!real)
                real = dlsym(RTLD_NEXT, "fallocate");
            if (length <= 1 << 20 && !getenv("FOR_EVER")) /* that much is done between two signals */
                return real(fd, mode, offset, length);
            if (++calls > 1000)
                abort(); /* nobody looked at the signals */
            raise(getenv("FOR_EVER") ? SIGINT : SIGALRM);
            errno = EINTR;
            return -1;
        }
    """
    script = """
        import os, signal, sys
        ticks = []
        signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
        import gatherio as gio
        path, name = (sys.argv[1], None) if sys.argv[2] == "file" else (None, "interrupted")
        with gio.Mapping(path, size=5 << 20, name=name) as m:
            m.array(5 << 20, "u1")[...] = 1
        assert ticks
        os.environ["FOR_EVER"] = "1"
        try:
            gio.Mapping(path, size=9 << 20, name=name)
        except KeyboardInterrupt:
            print("interrupted")
        if name:
            assert not os.path.exists(f"/dev/shm/gatherio-{os.geteuid()}-interrupted")
        else:
            assert os.path.getsize(path) == 5 << 20
    """
    (disk_dir / "file").touch()
    assert run_python(script, disk_dir / "file", where, under=shim(tmp_path, interrupted)) == "interrupted\n"


@on_linux
def test_a_signal_while_memory_is_committed(tmp_path: Path) -> None:
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", "inject=fallocate:error=EINTR:when=1..5")
    script = """
        import gatherio as gio
        with gio.Mapping(None, size=1 << 30, reserve=True) as m:
            m.commit(1 << 20, 64 << 20)
            assert not m.array(64 << 20, "u1", 1 << 20).any()
    """
    run_python(script, under=prefix)
    assert (tmp_path / "log").read_text().count("(INJECTED)") == 5


def test_beyond_4_gib(disk_dir: Path) -> None:
    """The high halves of offsets and lengths; views, and arrays that cross their ends."""
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


# --- views ---


@pytest.mark.parametrize("by", [-1, 0, 1])
def test_an_array_that_ends_where_views_do(
    disk_dir: Path, maps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    """On the boundary, where the next view begins and where its own ends; a byte before, and a byte behind."""
    unit, count = 64 * KIB, 5
    monkeypatch.setattr(mapping_module, "VIEW_BYTES", unit)
    path = disk_dir / "views"
    path.write_bytes(words(0, count * unit))
    with gio.Mapping(path, "r") as m:
        for boundary in range(unit, count * unit + 1, unit):
            for start in (boundary - 1, boundary - unit, boundary - 2 * unit, boundary - 2 * unit + 5000, 0):
                stop = min(boundary + by, m.size)
                if not 0 <= start < stop:
                    continue
                maps.clear()
                array = m.array(stop - start, "u1", start)
                assert_same_bytes(array, words(start, stop - start), start)
                first = start - start % unit
                for begin, end in maps:  # the view of its beginning wherever it lies within one, and no other
                    assert begin <= start and stop <= end
                    assert (begin == first and end == min(first + 2 * unit, m.size)) or stop > first + 2 * unit


def test_many_small_arrays_are_few_views(path: Path, maps: list[tuple[int, int]]) -> None:
    with gio.Mapping(path) as m:
        for i in range(100_000):
            m.array(1, "u1", i)
    assert len(maps) == 1


def test_views_come_and_go_but_not_under_arrays(
    disk_dir: Path, maps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping_module, "VIEW_BYTES", 64 * KIB)
    path = disk_dir / "file"
    data = words(0, 4 * MIB + 5)
    path.write_bytes(data)
    with gio.Mapping(path) as m:
        held = [m.array(50_000, "u1", at) for at in range(0, 4 * MIB - 50_000, 100_000)]
        crossing = m.array(300_000, "u1", 200_001)
        for at in range(0, 4 * MIB, 30_011):
            assert_same_bytes(m.array(5, "u1", at), data[at : at + 5], at)
        assert len(m._kept) == mapping_module.VIEWS_KEPT
        assert len(m._living) > len(held) / 2
        for i, array in enumerate(held):
            assert_same_bytes(array, data[i * 100_000 : i * 100_000 + 50_000])
        assert_same_bytes(crossing, data[200_001:500_001])
        crossing[0] ^= 0xFF
        assert m.read(200_001, 1)[0] == crossing[0] == path.read_bytes()[200_001]
        del held, crossing, array
        gc.collect()
        assert len(m._living) == mapping_module.VIEWS_KEPT
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
    with pytest.warns(ResourceWarning, match="unclosed <gatherio.Mapping"):
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
    with pytest.warns(ResourceWarning):
        gio.Mapping(path).array(3)
        gc.collect()
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
    monkeypatch.setattr(mapping_module, "VIEW_BYTES", 64 * KIB)
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
def test_where_addresses_are_few_views_are_small(path: Path) -> None:
    """RLIMIT_AS is less than a view: what is asked for is mapped, and no more."""
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


def test_a_file_with_reserved_space_may_be_mapped_when_it_is_closed(disk_dir: Path) -> None:
    path = disk_dir / "file"
    f = gio.open(path, "w", preallocate=MIB)
    f.write_at(gio.full(100, 7, "u1"), 0).result()
    with gio.Mapping(path) as m:
        f.close()
        assert m.size == 100 and m.read(0, 100) == b"\7" * 100


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
    mapping = gio.Mapping(sys.argv[1])
    a = mapping.array(100_001, "u1")
    os.truncate(sys.argv[1], 10)
    a[50_000]
    """
    run_python(script, path, code=-signal.SIGBUS)


@on_linux
def test_nameless_memory_cannot_be_cut() -> None:
    with gio.Mapping(None, size=100_000) as m:
        (fd,) = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if "memfd:gatherio" in str(fd.resolve())]
        for cut in (0, 99_999):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, cut)
        m.write(b"x", 99_999)


CUT_SOURCES = """
    import os, sys, numpy as np, gatherio as gio
    folder = sys.argv[1]
    def cut(start):
        with open(folder + "/source", "wb") as file:
            file.write(bytes(300_000))
        a = np.memmap(folder + "/source", "u1", "r+", offset=start, shape=200_000)
        os.truncate(folder + "/source", 10_000)
        return a
    with open(folder + "/file", "wb") as file:
        file.write(bytes(300_000))
    mappings = {
        "file": gio.Mapping(folder + "/file"),
        "name": gio.Mapping(None, size=300_000, name=f"cut-sources-{os.getpid()}"),
        "nameless": gio.Mapping(None, size=300_000),
    }
    for what, m in mappings.items():
        with m:
            for start in (0, 7):
                calls = [lambda: m.write(cut(start), 3), lambda: m.put(cut(start), 3)]
                for call in [*calls, lambda: m.read(3, out=cut(start))]:
                    try:
                        call()
                        print("copied")
                    except OSError as failure:
                        print(failure.errno)
"""


@on_linux
def test_the_other_memorys_file_was_cut(disk_dir: Path) -> None:
    """What is written comes from a mapped file, or what is read goes to one: the mapping is not to blame."""
    assert run_python(CUT_SOURCES, disk_dir).split() == [str(errno.EFAULT)] * 18


# --- closing ---


@on_linux
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
def test_what_close_tells_is_told(fuse: Any, number: int) -> None:
    """As network file systems do: the data could not be stored."""
    disk = fuse()
    path = disk.path / "file"
    path.write_bytes(bytes(10_000))
    for name in (None, f"closing-{os.getpid()}"):
        m = gio.Mapping(path, name=name)
        m.array(100, "u1")[...] = 1
        disk.faults(flush={"error": number})
        with pytest.raises(OSError) as caught:
            m.close()
        assert (caught.value.errno, caught.value.filename) == (number, path)
        assert m.closed
        m.close()
        with pytest.raises(OSError), gio.Mapping(path):
            pass
        disk.faults()
        with gio.Mapping(path):  # the name has gone as well
            pass
    if name is not None:
        with pytest.raises(FileNotFoundError):
            gio.Mapping.open(name)


@on_linux
def test_what_close_tells_at_exit_is_printed(fuse: Any) -> None:
    disk = fuse()
    path = disk.path / "file"
    path.write_bytes(bytes(10_000))
    disk.faults(flush={"error": errno.EDQUOT})
    script = "import sys, gatherio as gio; m = gio.Mapping(sys.argv[1]); m.write(b'x', 0)"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert os.strerror(errno.EDQUOT) in done.stderr and str(path) in done.stderr


@on_linux
def test_a_mapping_that_could_not_be_made_says_why(fuse: Any) -> None:
    """And not what closing it gave."""
    disk = fuse(no_fallocate=errno.EOPNOTSUPP)
    path = disk.path / "file"
    path.write_bytes(bytes(10_000))
    disk.faults(flush={"error": errno.EDQUOT}, setattr={"error": errno.EACCES})
    with pytest.raises(OSError) as caught:
        gio.Mapping(path, size=20_000)
    assert caught.value.errno == errno.EACCES
    disk.faults()


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
def test_advice_reaches_the_kernel_and_views_to_come(path: Path) -> None:
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
