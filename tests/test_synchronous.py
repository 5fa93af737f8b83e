"""pread and pwrite: one transfer, waited for."""

from __future__ import annotations

import errno
import gc
import random
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import (
    ON_WINE,
    PAGE,
    assert_same_bytes,
    not_on_windows,
    run_python,
    set_fault,
    strace,
    words,
)

import gatherio as gio
from gatherio._native import lib

Opener = Callable[..., gio.File]

EDGES = [0, 1, 511, 512, 513, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 7]


@pytest.mark.parametrize("at", [0, 1, 3, 512, PAGE, PAGE + 5])
def test_every_size_at_every_place(any_folder: Path, open_file: Opener, at: int) -> None:
    path = any_folder / "file"
    expected = bytearray(words(9, 12 * PAGE).tobytes())
    path.write_bytes(expected)
    with open_file(path, "r+") as f:
        for size in EDGES:
            data = np.frombuffer(words(size, size + 8).tobytes(), "u1")[3 : 3 + size]
            assert f.pwrite(data, at) == size
            expected[at : at + size] = data.tobytes()
            found = np.empty(size + 1, "u1")[1:]
            assert f.pread(found, at) == size
            assert_same_bytes(found, data)
    assert_same_bytes(path.read_bytes(), bytes(expected))


def test_shapes_and_types(folder: Path, open_file: Opener) -> None:
    array = np.arange(3 * 5 * 7, dtype=">i4").reshape(3, 5, 7)
    with open_file(folder / "file", "w+") as f:
        assert f.pwrite(array, 10) == array.nbytes
        found = gio.empty((3, 5, 7), ">i4")
        assert f.pread(found, 10) == array.nbytes
    assert (found == array).all()


def test_large_ones(disk_dir: Path, open_file: Opener) -> None:
    """More than one request, and more than is in flight at once."""
    data = words(1, 40 << 20)
    with open_file(disk_dir / "file", "w+") as f:
        assert f.pwrite(data, 4095) == data.nbytes
        found = gio.empty(data.nbytes, "u1")
        assert f.pread(found, 4095) == data.nbytes
        assert f.size == 4095 + data.nbytes
    assert_same_bytes(found, data)


def test_the_end_of_the_file(folder: Path, open_file: Opener) -> None:
    (folder / "file").write_bytes(words(0, 1000).tobytes())
    with open_file(folder / "file", "r") as f:
        array = gio.empty(PAGE, "u1")
        assert f.pread(array, 0) == 1000
        assert_same_bytes(array[:1000], words(0, 1000))
        assert f.pread(array, 999) == 1
        assert f.pread(array, 1000) == 0
        assert f.pread(array, 1 << 40) == 0
        assert f.pread(array[:0], 0) == 0


def test_wrong_arguments(folder: Path, open_file: Opener) -> None:
    (folder / "file").write_bytes(bytes(100))
    array = gio.zeros(10, "u1")
    with open_file(folder / "file", "r") as f:
        with pytest.raises(PermissionError):
            f.pwrite(array, 0)
        for offset in (-1, 2**63 - 5, 2**64):
            with pytest.raises(ValueError):
                f.pread(array, offset)
        with pytest.raises(TypeError):
            f.pread(bytearray(10), 0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            f.pread(np.ma.masked_array([1, 2]), 0)
        with pytest.raises(gio.AlignmentError):
            f.pread(np.zeros((4, 4), "u1")[:, :2], 0)
        array.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            f.pread(array, 0)
    with pytest.raises(ValueError, match="closed"):
        f.pread(gio.zeros(1, "u1"), 0)


@pytest.mark.parametrize("writes", [False, True])
def test_errors(folder: Path, open_file: Opener, queue: gio.CompletionQueue, writes: bool) -> None:
    (folder / "file").write_bytes(bytes(4 * PAGE))
    array = gio.zeros(4 * PAGE, "u1")
    with open_file(folder / "file", "r+") as f:
        set_fault(queue, "FAIL", count=1, value=errno.EIO)
        with pytest.raises(OSError, match="16384 bytes at offset 0") as caught:
            (f.pwrite if writes else f.pread)(array, 0)
        assert caught.value.errno == errno.EIO
        assert caught.value.filename == folder / "file"
        assert caught.value.bytes_in_place == 0  # type: ignore[attr-defined]
        assert (f.pwrite if writes else f.pread)(array, 0) == array.nbytes  # and close raises nothing: it was told


def test_locks_of_others(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w+") as f, open_file(folder / "file", "r+") as other:
        f.pwrite(gio.zeros(100, "u1"), 0)
        with f.lock(10, 20):
            if not ON_WINE:  # transfers do not ask
                with pytest.raises(gio.LockedError):
                    other.pread(gio.empty(5, "u1"), 15)
                with pytest.raises(gio.LockedError):
                    other.pwrite(gio.zeros(5, "u1"), 15)
            assert f.pread(gio.empty(5, "u1"), 15) == 5
            assert other.pread(gio.empty(5, "u1"), 40) == 5


def test_nobody_else_is_told(folder: Path, open_file: Opener, queue: gio.CompletionQueue) -> None:
    with open_file(folder / "file", "w+") as f:
        operation = f.write_at(gio.zeros(PAGE, "u1"), 0)
        assert f.pwrite(gio.zeros(PAGE, "u1"), PAGE) == PAGE
        operation.result()
        assert queue.get(1) == [operation]
        assert queue.get(0) == []
        assert not queue._engine.inflight
    stats = queue.stats()
    assert stats["operations"] == stats["finished"] == 2


def test_many_threads(folder: Path, open_file: Opener) -> None:
    expected = words(0, 64 * PAGE)
    (folder / "file").write_bytes(expected.tobytes())
    failures: list[BaseException] = []

    def work(seed: int, f: gio.File) -> None:
        try:
            chance = random.Random(seed)
            array = gio.empty(PAGE, "u1")
            for _ in range(200):
                at = chance.randrange(0, 64 * PAGE - 5000)
                size = chance.choice([100, PAGE])
                assert f.pread(array[:size], at) == size
                assert_same_bytes(array[:size], expected[at : at + size])
        except BaseException as failure:
            failures.append(failure)

    with open_file(folder / "file", "r") as f:
        threads = [threading.Thread(target=work, args=(seed, f)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures


class Interrupted(BaseException):
    pass


@not_on_windows("no signal interrupts who waits there")
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("backend_name", ["uring", "threads"])
def test_an_exception_leaves_it_running_and_its_array_safe(disk_dir: Path, backend_name: str, writes: bool) -> None:
    def strike(number: int, frame: object) -> None:
        raise Interrupted

    path = disk_dir / "file"
    path.write_bytes(words(0, 4 * PAGE).tobytes())
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with gio.CompletionQueue(backend=backend_name) as q:
            f = gio.open(path, "r+", queue=q)
            lib.gio_queue_fault(q._native, lib.GIO_FAULT_HOLD, 0, 1, 0)
            array = gio.full(4 * PAGE, 7, "u1")
            gone = weakref.ref(array.base)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupted):
                (f.pwrite if writes else f.pread)(array, 0)
            del array
            gc.collect()
            assert gone() is not None  # the kernel's
            assert len(q._engine.inflight) == 1
            lib.gio_queue_fault(q._native, lib.GIO_FAULT_NONE, 0, 0, 0)
            f.close()
            gc.collect()
            assert gone() is None
            assert not q._engine.inflight
    finally:
        signal.signal(signal.SIGALRM, before)
    if writes:
        assert_same_bytes(path.read_bytes(), bytes([7]) * 4 * PAGE)


CALLS = """
    import sys, gatherio as gio
    with gio.CompletionQueue(backend=sys.argv[2]) as q, gio.open(sys.argv[1], "r+", queue=q, honor_locks=False) as f:
        array = gio.zeros(4096, "u1")
        f.pread(array, 0)
        open("/proc/self/comm").close()
        for i in range(100):
            f.pread(array, 4096 * i)
            f.pwrite(array, 4096 * i)
        open("/proc/self/comm").close()
"""


@not_on_windows("it has no strace")
def test_one_system_call(disk_dir: Path, tmp_path: Path) -> None:
    (disk_dir / "file").write_bytes(bytes(100 * PAGE))
    run_python(CALLS, disk_dir / "file", "uring", under=strace(tmp_path / "log"))
    lines = (tmp_path / "log").read_text().splitlines()
    first, last = (i for i, line in enumerate(lines) if "openat(" in line and "/proc/self/comm" in line)
    own = lines[first].split()[0]
    made = [line.split(None, 1)[1] for line in lines[first + 1 : last] if line.split()[0] == own]
    enters = [line for line in made if line.startswith("io_uring_enter")]
    assert 200 <= len(enters) <= 210  # a few are woken early
    others = ("io_uring_enter", "futex", "close", "newfstatat", "fstat", "ioctl", "lseek")  # of the markers and the GIL
    rest = [line for line in made if not line.startswith((*others, "<..."))]  # halves of what was cut
    assert not rest, rest


@pytest.mark.parametrize("writes", [False, True])
def test_a_failure_that_an_exception_hides_is_told_by_close(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """A signal handler that raises right behind the call, which has ended."""
    path = disk_dir / "file"
    path.write_bytes(bytes(4 * PAGE))

    class Struck:
        def __getattr__(self, name: str) -> object:
            found = getattr(lib, name)
            return found if name != "gio_transfer" else lambda *arguments: strike(found(*arguments))

    def strike(code: int) -> None:
        assert code == 0
        raise Interrupted

    with gio.CompletionQueue(backend="sync") as q:
        f = gio.open(path, "r+", queue=q)
        set_fault(q, "FAIL", count=1, value=errno.EIO)
        with monkeypatch.context() as patched:
            patched.setattr("gatherio._core.file.lib", Struck())
            with pytest.raises(Interrupted):
                (f.pwrite if writes else f.pread)(gio.zeros(PAGE, "u1"), 0)
        assert not q._engine.inflight
        if writes:
            with pytest.raises(OSError, match="4096 bytes at offset 0"):
                f.close()
        f.close()
