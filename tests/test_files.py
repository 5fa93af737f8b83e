"""Files: opening them, their length and what is on stable storage, closing them, and a disk that is full."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import (
    FOREVER,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    fault,
    fifo,
    handle_mode,
    needs_root,
    not_on_windows,
    pages,
    placed,
    press_ctrl_c,
    put_there,
    require,
    run_python,
    shim,
    skip_on_windows,
    strace,
    target,
    words,
)
from peers import Peer
from this_process import comes_down, handle_count

import gatherio as gio

Opener = Callable[..., gio.File]

# One byte to either side of each boundary that matters: a word, a disk's block, a page, two pages.
EDGES = [0, 1, 7, 511, 512, 513, PAGE - 1, PAGE, PAGE + 1, PAGE + 512, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1]


# --- opening ---


@pytest.mark.parametrize("mode", ["w", "w+", "x", "x+"])
def test_a_new_file_is_made(folder: Path, direct: bool | None, mode: str) -> None:
    umask = os.umask(0o022)
    try:
        with gio.open(folder / "new", mode, direct=direct) as f:
            assert f.size == 0 and f.mode == mode and f.name == folder / "new"
        (folder / "plain").touch()
    finally:
        os.umask(umask)
    found = stat.S_IMODE((folder / "new").stat().st_mode)
    assert found == stat.S_IMODE((folder / "plain").stat().st_mode)
    assert found == 0o644 or ON_WINDOWS


@pytest.mark.parametrize(("mode", "size"), [("r", 5000), ("r+", 5000), ("w", 0), ("w+", 0)])
def test_an_existing_file_is_kept_or_emptied(folder: Path, direct: bool | None, mode: str, size: int) -> None:
    (folder / "old").write_bytes(words(0, 5000))
    with gio.open(folder / "old", mode, direct=direct) as f:
        assert f.size == size
    assert (folder / "old").stat().st_size == size


def test_opening_says_what_is_wrong(folder: Path, direct: bool | None) -> None:
    (folder / "old").write_bytes(b"whole")
    # On Windows a folder on the way is not there, or is none: all one. And a long name is as wrong as any other.
    no_folder = (FileNotFoundError, errno.ENOENT) if ON_WINDOWS else (NotADirectoryError, errno.ENOTDIR)
    cases: list[tuple[str, str, type[OSError], int]] = [
        ("missing", "r", FileNotFoundError, errno.ENOENT),
        ("missing", "r+", FileNotFoundError, errno.ENOENT),
        ("missing/new", "w", FileNotFoundError, errno.ENOENT),
        ("old", "x", FileExistsError, errno.EEXIST),
        ("old", "x+", FileExistsError, errno.EEXIST),
        (".", "r", IsADirectoryError, errno.EISDIR),
        (".", "w", IsADirectoryError, errno.EISDIR),
        ("old/new", "w", *no_folder),
    ]
    if not ON_WINDOWS:
        cases.append(("n" * 300, "w", OSError, errno.ENAMETOOLONG))
    for name, mode, kind, number in cases:
        path = os.path.join(folder, name)
        with pytest.raises(kind) as caught:
            gio.open(path, mode, direct=direct)
        assert caught.value.errno == number, (name, mode)
        assert caught.value.filename == path
    with pytest.raises(OSError) as caught:
        gio.open(folder / ("n" * 300), "w", direct=direct)
    assert caught.value.errno in ((errno.EINVAL, errno.ENOENT) if ON_WINDOWS else (errno.ENAMETOOLONG,))
    assert (folder / "old").read_bytes() == b"whole"
    assert os.listdir(folder) == ["old"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("mode", ["r", "r+", "w"])
def test_a_fifo_is_refused_without_waiting_for_its_other_end(disk_dir: Path, mode: str) -> None:
    with fifo(disk_dir) as path, pytest.raises(OSError) as caught:
        gio.open(path, mode)
    assert caught.value.errno == errno.ESPIPE


# Once it was looked at, what stands beside it as *.planted is put into its place. What is looked at, shims say.
PLANTING = """
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/vfs.h>
    static void plant(void)
    {
        char planted[4096];
        snprintf(planted, sizeof planted, "%s.planted", getenv("REPLACED"));
        rename(planted, getenv("REPLACED"));
    }
"""
AFTER_A_LOOK = """
    int stat(const char *path, struct stat *told)
    {
        int (*look)(const char *, struct stat *) = dlsym(RTLD_NEXT, "stat");
        int result = look(path, told);
        if (strcmp(path, getenv("REPLACED")) == 0)
            plant();
        return result;
    }
"""
ONCE_OPEN = """
    int fstatfs(int fd, struct statfs *told)
    {
        int (*look)(int, struct statfs *) = dlsym(RTLD_NEXT, "fstatfs");
        plant();
        return look(fd, told);
    }
"""
OPENING = """
    import sys, gatherio as gio
    try:
        gio.open(sys.argv[1], sys.argv[2], direct=True if sys.argv[2] == "x" else None)
        print("opened")
    except OSError as error:
        print(error.errno, error.filename == sys.argv[1])
"""


@not_on_windows("it has no mkfifo")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["r", "r+", "w", "w+"])
@pytest.mark.parametrize("plant", ["fifo", "socket", "device", "folder"])
def test_a_file_is_replaced_once_it_was_looked_at(
    disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, mode: str
) -> None:
    """Nobody is waited for, and nothing is done to it."""
    path, planted = disk_dir / "replaced", disk_dir / "replaced.planted"
    monkeypatch.setenv("REPLACED", str(path))
    if plant != "folder":
        path.write_bytes(b"file")
    put_there(plant, planted)
    told = run_python(OPENING, path, mode, under=shim(tmp_path, PLANTING + AFTER_A_LOOK), timeout=30)
    number, named = told.split()
    assert int(number) in {"folder": [errno.EISDIR], "device": [errno.ESPIPE]}.get(plant, [errno.ESPIPE, errno.ENXIO])
    assert named == "True" and not planted.exists()
    assert path.exists() and not path.is_file()


@not_on_windows("it has no mkfifo")
@pytest.mark.timeout(60)
def test_saving_waits_for_nobody(disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file cannot be written, and is opened to learn why; by then it is a pipe."""
    path = disk_dir / "replaced"
    monkeypatch.setenv("REPLACED", str(path))
    path.write_bytes(b"file")
    os.mkfifo(disk_dir / "replaced.planted")
    refused = """
        #include <errno.h>
        int faccessat(int folder, const char *path, int mode, int flags)
        {
            plant();
            errno = EACCES;
            return -1;
        }
    """
    script = """
        import sys, gatherio as gio, numpy as np
        try:
            gio.save(sys.argv[1], np.zeros(10))
        except OSError as error:
            print(error.errno, error.filename == sys.argv[1])
    """
    told = run_python(script, path, under=shim(tmp_path, PLANTING + refused), timeout=30)
    assert told == f"{errno.ENXIO} True\n"
    assert stat.S_ISFIFO(path.stat().st_mode) and os.listdir(disk_dir) == ["replaced"]


@not_on_windows("it has no mkfifo")
@pytest.mark.parametrize("plant", ["a file", "link", "nothing"])
def test_a_file_that_was_made_in_vain_is_removed_and_no_other(
    tmpfs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    path, planted, other = tmpfs_dir / "replaced", tmpfs_dir / "replaced.planted", tmpfs_dir / "other"
    monkeypatch.setenv("REPLACED", str(path))
    other.write_bytes(b"other")
    if plant == "a file":
        planted.write_bytes(b"planted")
    elif plant == "link":
        planted.symlink_to(other)
    told = run_python(OPENING, path, "x", under=shim(tmp_path, PLANTING + ONCE_OPEN), timeout=30)
    assert told == f"{errno.EINVAL} True\n"  # no direct I/O
    assert path.is_symlink() == (plant == "link") and path.exists() == (plant != "nothing")
    assert other.read_bytes() == b"other"


@not_on_windows("it has no leases")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", ["r", "r+", "w", "mapped"])
def test_who_has_a_lease_is_waited_for(disk_dir: Path, mode: str) -> None:
    """As by any open(2): a file server, or somebody who gives back reserved space, has asked to be told."""
    path = disk_dir / "file"
    path.write_bytes(words(0, PAGE))
    with Peer() as holder:
        holder.do("import fcntl, os, signal")
        holder.do(f"fd = os.open({str(path)!r}, os.O_RDWR); told = []")
        holder.do(
            "def tell(*_):\n    told.append(os.pread(fd, 8, 8))\n    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n"
        )
        holder.do("signal.signal(signal.SIGIO, tell); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)")
        with gio.Mapping(path) if mode == "mapped" else gio.open(path, mode) as opened:
            assert holder.do("told") == [words(8, 8).tobytes()]
            assert opened.size == (0 if mode == "w" else PAGE)


@not_on_windows("it has no such flag")
@pytest.mark.parametrize("mode", ["r", "r+", "w", "w+", "x", "x+"])
def test_nothing_is_left_of_how_a_file_was_opened(folder: Path, direct: bool | None, mode: str) -> None:
    """O_NONBLOCK would have io_uring and others answer EAGAIN."""
    path = folder / "file"
    if mode[0] != "x":
        path.write_bytes(b"here")
    with gio.open(path, mode, direct=direct), gio.Mapping(path, size=100):
        descriptors = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
        ours = [fd for fd in descriptors if os.path.realpath(f"/proc/self/fd/{fd}") == os.path.realpath(path)]
        assert len(ours) >= 2
        for fd in ours:
            text = Path(f"/proc/self/fdinfo/{fd}").read_text()
            flags = int(re.search(r"^flags:\t(\d+)$", text, re.M)[1], 8)  # type: ignore[index]
            assert not flags & os.O_NONBLOCK and flags & os.O_CLOEXEC


@needs_root("a loop device")
@not_on_windows("it has no loop devices")
def test_a_device_is_opened_as_one_that_is_ready(disk_dir: Path, tmp_path: Path) -> None:
    """Not as with O_NONBLOCK, by which a drive without a medium opens."""
    image, losetup = disk_dir / "image", require("losetup", "mount")
    image.write_bytes(words(0, MIB))
    device = subprocess.run(
        [losetup, "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    script = """
        import sys, gatherio as gio
        for mode, direct in (("r", None), ("r+", None), ("r+", False), ("w+", False)):
            with gio.open(sys.argv[1], mode, direct=direct) as f:
                array = gio.zeros(8192, "u1")
                f.read_at(array, 4096).result()
                print(f.size, bytes(array[:8]).hex())
    """
    log = tmp_path / "log"
    try:
        told = run_python(script, device, under=strace(log, "-y", "-e", "trace=open,openat,preadv2,close"))
        assert told == f"{MIB} {words(4096, 8).tobytes().hex()}\n" * 4
    finally:
        subprocess.run([losetup, "--detach", device], check=True)
    reopened = re.findall(rf'openat\(AT_FDCWD\S*, "/proc/self/fd/\d+", (\S+)\) = \d+<{device}', log.read_text())
    assert len(reopened) >= 4 and not any("O_NONBLOCK" in flags for flags in reopened)


@pytest.mark.parametrize("mode", ["", "a", "rb", "wb", "rw", "R", "r ", "w++"])
def test_unknown_modes(disk_dir: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="mode is one of"):
        gio.open(disk_dir / "new", mode)
    assert os.listdir(disk_dir) == []


def test_arguments_of_the_wrong_kind(disk_dir: Path) -> None:
    with pytest.raises(ValueError, match="direct is None, True or False"):
        gio.open(disk_dir / "new", "w", direct="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null "):
        gio.open("nul\0byte", "w")
    with pytest.raises(TypeError):
        gio.open(3, "w")  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        gio.open(disk_dir / "new", "x", preallocate=-1)
    assert os.listdir(disk_dir) == []


def test_names_of_every_kind(folder: Path) -> None:
    encoded = os.fsencode(folder)
    names: list[str | bytes | Path] = [
        str(folder / "a plain str"),
        encoded + b"/bytes",
        folder / "a path",
        folder / "gr\u00fc\u00df \u6587\u4ef6 \U0001f600",
    ]
    if not ON_WINDOWS:  # where names are text
        names.append(encoded + b"/no \xff\xfe text")
        names.append(os.fsdecode(encoded + b"/no \xfe text"))  # surrogates
    for name in names:
        with gio.open(name, "w") as f:
            f.write_at(words(0, 100), 0).result()
        with open(name, "rb") as plain:
            assert_same_bytes(plain.read(), words(0, 100))
        with pytest.raises(FileExistsError) as caught:
            gio.open(name, "x")
        assert caught.value.filename == name
    assert len(os.listdir(folder)) == len(names)


def test_a_file_opened_for_one_direction_refuses_the_other(folder: Path, open_file: Opener) -> None:
    path = folder / "file"
    path.write_bytes(words(0, PAGE))
    array = gio.zeros(PAGE, "u1")
    with open_file(path, "r") as f:
        for refused in (
            lambda: f.write_at(array, 0),
            lambda: f.write_gather([array], 0),
            lambda: f.write_at(array[:0], 0),
            lambda: f.truncate(0),
            lambda: f.preallocate(MIB),
        ):
            with pytest.raises(PermissionError) as caught:
                refused()
            assert caught.value.filename == path
        assert f.read_at(array, 0).result() == PAGE
    assert_same_bytes(path.read_bytes(), words(0, PAGE))
    with open_file(path, "w") as f:
        for refused in (lambda: f.read_at(array, 0), lambda: f.read_scatter([array], 0)):
            with pytest.raises(PermissionError) as caught:
                refused()
            assert caught.value.filename == path


CLOSED_BEHIND = """
    import os, sys, gatherio as gio
    from oracle import pages, placed, target, words
    path, backend, direct, how = sys.argv[1], sys.argv[2], {"None": None, "False": False}[sys.argv[3]], sys.argv[4]

    def close_behind(f):
        if sys.platform == "win32":
            import ctypes
            assert ctypes.WinDLL("kernel32").CloseHandle(ctypes.c_void_p(f._handle))
            return
        ours = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == path]
        assert f.fileno() in ours
        for fd in ours:
            os.close(fd) if how == "close" else os.closerange(fd, fd + 1)

    calls = {
        "read_at": lambda f: f.read_at(target(4096), 0).result(),
        "read_scatter": lambda f: f.read_scatter([target(4096)], 0).result(),
        "read_many": lambda f: f.read_many(target(8192).reshape(2, 4096), [0, 8192]).result(),
        "pread": lambda f: f.pread(target(4096), 0),
        "write_at": lambda f: f.write_at(placed(words(0, 4096)), 0).result(),
        "ragged": lambda f: f.write_at(words(0, 100), 5).result(),
        "write_gather": lambda f: f.write_gather(pages(2), 0).result(),
        "write_many": lambda f: f.write_many([placed(words(0, 4096))], [0]).result(),
        "pwrite": lambda f: f.pwrite(words(0, 4096), 0),
        "size": lambda f: f.size,
        "truncate": lambda f: f.truncate(5),
        "preallocate": lambda f: f.preallocate(1 << 20),
        "flush": lambda f: f.flush(),
        "lock": lambda f: f.lock(0, 10),
        "shared": lambda f: f.lock(0, 10, exclusive=False),
        "unlock": lambda f: f.unlock(100, 10),
        "close": lambda f: f.close(),
    }
    with gio.CompletionQueue(backend=backend) as q:
        for name, call in calls.items():
            for honor_locks in (True, False):
                f = gio.open(path, "r+", direct=direct, queue=q, honor_locks=honor_locks)
                if name == "unlock":
                    f.lock(100, 10)
                close_behind(f)
                for attempt in (call, call) if name != "close" else (call,):
                    try:
                        attempt(f)
                        print(name, "went well")
                    except OSError as error:
                        told = type(error).__name__, error.errno, error.filename == path
                        print(name, *told, "descriptor" in str(error))
                try:
                    f.close()
                except OSError as error:
                    print("closing", error.errno, error.filename == path, "descriptor" in str(error))
"""


def test_a_descriptor_that_was_closed_behind_the_files_back(disk_dir: Path, backend: str, direct: bool | None) -> None:
    """By whoever closes numbers that are not his: os.close, os.closerange, a program that becomes a daemon."""
    if direct is None:
        skip_on_windows("the second handle of a direct file is nowhere to be asked for")
    path = disk_dir.resolve() / "file"
    path.write_bytes(words(0, 16384))
    for how in ("close",) if ON_WINDOWS else ("close", "closerange"):
        told = run_python(CLOSED_BEHIND, path, backend, direct, how, timeout=60).splitlines()
        assert told and {line.split(" ", 1)[1] for line in told if "closing" not in line} == {
            f"OSError {errno.EBADF} True True"
        }, told
        assert {line for line in told if "closing" in line} == {f"closing {errno.EBADF} True True"}
        assert len(told) == 2 * (16 * 3 + 1)  # closing twice is fine
    assert_same_bytes(path.read_bytes(), words(0, 16384))


# --- direct or not ---


def direct_alignment(path: Path) -> int | None:
    """What the file system takes, found by trying; None when it has no direct I/O. On Windows the volume's sector."""
    if sys.platform == "win32":
        sector, unused = ctypes.c_uint32(), ctypes.c_uint32()
        found = [ctypes.byref(number) for number in (unused, sector, unused, unused)]
        assert ctypes.WinDLL("kernel32").GetDiskFreeSpaceW(path.drive + "\\", *found)
        return sector.value
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CREAT)
        try:
            for block in (512, 1024, 2048, 4096):
                with contextlib.suppress(OSError):
                    os.pwrite(fd, memoryview(gio.zeros(block, "u1")), block)
                    return block
        finally:
            os.close(fd)
            os.unlink(path)
    return None


def goes_around_the_cache(f: gio.File) -> bool:
    """What the system says of the descriptor or handle."""
    if sys.platform != "win32":
        flags = Path(f"/proc/self/fdinfo/{f.fileno()}").read_text()
        return bool(int(re.search(r"flags:\s+(\d+)", flags)[1], 8) & os.O_DIRECT)  # type: ignore[index]
    return bool(handle_mode(f.fileno()) & 8)  # FILE_NO_INTERMEDIATE_BUFFERING


@pytest.mark.parametrize("name", ["disk", "ext4", "xfs", "sector4k"])
def test_direct_with_the_alignment_that_the_device_asks_for(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{name}_dir")
    expected = direct_alignment(folder / "tried")
    for direct in (None, True):
        with gio.open(folder / "file", "w", direct=direct) as f:
            assert f.direct
            assert f.alignment == expected
            assert "direct" in f.reason and str(expected) in f.reason
            assert goes_around_the_cache(f)
    if name == "sector4k":
        assert expected == 4096


def test_buffered_as_asked(folder: Path) -> None:
    with gio.open(folder / "file", "w", direct=False) as f:
        assert not f.direct
        assert "direct=False" in f.reason
        assert not goes_around_the_cache(f)


def test_without_direct_io_it_goes_buffered_and_says_so(tmpfs_dir: Path) -> None:
    with gio.open(tmpfs_dir / "file", "w") as f:
        assert not f.direct
        assert f.alignment == PAGE
        assert "memory" in f.reason and "direct" in f.reason


@pytest.mark.parametrize("mode", ["r", "r+", "w", "w+"])
def test_direct_that_cannot_be_leaves_the_old_file_whole(tmpfs_dir: Path, mode: str) -> None:
    (tmpfs_dir / "old").write_bytes(words(0, 5000))
    with pytest.raises(OSError, match="direct=None") as caught:
        gio.open(tmpfs_dir / "old", mode, direct=True)
    assert caught.value.filename == tmpfs_dir / "old"
    assert_same_bytes((tmpfs_dir / "old").read_bytes(), words(0, 5000))


@pytest.mark.parametrize("mode", ["w", "w+", "x", "x+"])
def test_direct_that_cannot_be_leaves_no_new_file(tmpfs_dir: Path, mode: str) -> None:
    with pytest.raises(OSError, match="direct=None") as caught:
        gio.open(tmpfs_dir / "new", mode, direct=True)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, tmpfs_dir / "new")
    assert os.listdir(tmpfs_dir) == []


def test_backend_and_reason_are_told(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        assert f.backend == queue.backend
        assert queue.reason in f.reason


@not_on_windows("it has no fincore")
def test_direct_transfers_leave_the_page_cache_alone(disk_dir: Path, backend: str) -> None:
    """Counted by what of the file is in memory afterwards (mincore, by fincore)."""
    data = gio.full(8 * MIB, 7, "u1")
    with (
        gio.CompletionQueue(backend=backend) as queue,
        gio.open(disk_dir / "file", "w+", queue=queue) as f,
    ):
        assert f.direct
        f.write_gather([data], 0).result()
        f.write_at(data[:1000], 8 * MIB).result()
        f.flush()
        f.read_scatter([data], 0).result()
    listed = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", disk_dir / "file"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(listed.stdout) <= 2 * PAGE  # of the ragged end, if the kernel was not done with it


# --- length and stable storage ---


def test_size_and_truncate(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w+") as f:
        f.write_at(words(0, 10_000), 0)
        f.truncate(5000)  # waits for the write
        assert f.size == 5000 == os.fstat(f.fileno()).st_size
        f.truncate(2**33 + 1)
        assert f.size == 2**33 + 1
        f.truncate(6000)
        with pytest.raises(ValueError):
            f.truncate(-1)
        with pytest.raises(TypeError):
            f.truncate(1.5)  # type: ignore[arg-type]
    expected = np.concatenate([words(0, 5000), np.zeros(1000, "u1")])
    assert_same_bytes((folder / "file").read_bytes(), expected)


def test_flush(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w+") as f:
        operation = f.write_at(words(0, 10_000), 0)
        f.flush()
        assert operation.done()
    with open_file(folder / "file", "r") as f:
        f.flush()


def test_durable_reaches_the_kernel(disk_dir: Path, tmp_path: Path) -> None:
    """Shown by strace, on the backend whose transfers are system calls."""
    script = """
        import sys, gatherio as gio
        from oracle import words, placed
        with gio.CompletionQueue(backend="threads") as q:
            for name, durable in (("plain", False), ("durable", True)):
                with gio.open(f"{sys.argv[1]}/{name}", "w", queue=q, durable=durable) as f:
                    f.write_gather([placed(words(0, 8192))], 0).result()
                    f.write_at(words(8192, 100), 8192).result()
    """
    log = tmp_path / "log"
    run_python(script, disk_dir, under=strace(log, "-y", "-e", "trace=openat,open,pwritev2"))
    lines = log.read_text().splitlines()
    opened = [line for line in lines if str(disk_dir / "durable") in line and "open" in line]
    assert opened and all("O_DSYNC" in line for line in opened if "O_WRONLY" in line)
    written = [line for line in lines if "pwritev2(" in line and "/durable>" in line]
    assert len(written) == 2 and all("RWF_DSYNC" in line for line in written)
    plain = [line for line in lines if str(disk_dir / "plain") in line]
    assert plain and not any("DSYNC" in line for line in plain)


@not_on_windows("it has no such calls")
@pytest.mark.parametrize("backend", ["threads", "sync"])
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EOPNOTSUPP"])
def test_where_the_newer_calls_are_refused_the_older_ones_do_the_same(
    disk_dir: Path, tmp_path: Path, backend: str, error: str
) -> None:
    """Before Linux 4.7, or in a sandbox. What is durable is so by the descriptor."""
    script = """
        import sys, gatherio as gio
        from oracle import assert_same_bytes, pages, placed, target, words
        with gio.CompletionQueue(backend=sys.argv[2]) as q:
            for durable in (False, True):
                with gio.open(sys.argv[1], "w+", queue=q, durable=durable) as f:
                    f.write_gather(pages(20), 0).result()
                    f.write_at(words(81920, 100), 81920).result()
                    array = target(82020)
                    assert f.read_at(array, 0).result() == 82020
                    assert_same_bytes(array, words(0, 82020))
            print(q.reason)
    """
    log = tmp_path / "log"
    calls = ["-e", "trace=openat,preadv2,pwritev2,preadv,pwritev"]
    calls += [part for call in ("preadv2", "pwritev2") for part in ("-e", f"inject={call}:error={error}")]
    told = run_python(script, disk_dir / "file", backend, under=strace(log, "-y", *calls))
    assert backend != "threads" or "preadv and pwritev" in told
    lines = [line for line in log.read_text().splitlines() if "/file>" in line]
    for old in ("preadv", "pwritev"):
        refused = [line for line in lines if f" {old}2(" in line]
        made = [line for line in lines if f" {old}(" in line]
        assert refused and len(made) == len(refused) and not any("= -1" in line for line in made)
    opened = [line for line in lines if "openat(" in line and "O_DSYNC" in line]
    assert len(opened) == 2  # the ordinary descriptor, and the one around the cache


def test_durable_writes_what_others_write(any_folder: Path, open_file: Opener) -> None:
    with open_file(any_folder / "file", "w", durable=True) as f:
        f.write_gather(pages(20), 0).result()
        f.write_at(words(20 * PAGE, 5000), 20 * PAGE).result()
    assert_same_bytes((any_folder / "file").read_bytes(), words(0, 20 * PAGE + 5000))


# --- closing ---


def test_everything_on_a_closed_file_is_a_value_error(folder: Path, open_file: Opener) -> None:
    array = gio.zeros(PAGE, "u1")
    f = open_file(folder / "file", "w+")
    f.close()
    f.close()
    assert f.closed
    for use in (
        lambda: f.write_at(array, 0),
        lambda: f.read_at(array, 0),
        lambda: f.write_gather([array], 0),
        lambda: f.read_scatter([array], 0),
        lambda: f.size,
        lambda: f.truncate(0),
        lambda: f.preallocate(0),
        lambda: f.flush(),
        lambda: f.fileno(),
        lambda: f.__enter__(),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(f)


def test_the_descriptors_are_closed(folder: Path, open_file: Opener) -> None:
    before = handle_count()
    with open_file(folder / "file", "w", preallocate=MIB):
        assert handle_count() > before
    assert comes_down(handle_count, before)


def test_close_waits_for_what_is_in_flight(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    f = open_file(folder / "file", "w")
    closed = threading.Event()
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(placed(words(0, PAGE)), 0)
        thread = threading.Thread(target=lambda: (f.close(), closed.set()))
        thread.start()
        while not f.closed:
            time.sleep(0)
        with pytest.raises(ValueError, match="closed"):
            f.size  # noqa: B018
        assert not closed.is_set()
        let_go()
        thread.join()
    assert closed.is_set()
    assert operation.done() and operation.result() == PAGE


def test_close_tells_of_a_failed_write_that_nobody_knows_of(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    f = open_file(folder / "file", "w")
    with fault(queue, "FAIL", value=errno.EIO):
        f.write_at(placed(words(0, PAGE)), 3 * PAGE)
        with pytest.raises(OSError, match=f"write of {PAGE} bytes at offset {3 * PAGE}") as caught:
            f.close()
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == folder / "file"
    assert f.closed
    f.close()


def test_close_counts_the_failed_writes(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    f = open_file(folder / "file", "w")
    with fault(queue, "FAIL", value=errno.EIO):
        for i in range(4):
            f.write_at(placed(words(0, PAGE)), i * PAGE)
        with pytest.raises(OSError, match="3 more writes failed"):
            f.close()


@pytest.mark.parametrize("how", ["result", "exception", "wait and result"])
def test_close_is_silent_about_a_failure_that_was_told(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener, how: str
) -> None:
    with open_file(folder / "file", "w+") as f, fault(queue, "FAIL", value=errno.EIO):
        operation = f.write_at(placed(words(0, PAGE)), 0)
        if how == "exception":
            assert isinstance(operation.exception(), OSError)
        else:
            if how != "result":
                gio.wait([operation])
            with pytest.raises(OSError) as caught:
                operation.result()
            assert caught.value.errno == errno.EIO
        f.read_at(target(PAGE), 0)  # a failed read has lost nothing: close says nothing of it


def test_an_exception_in_the_with_block_is_not_lost(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    with pytest.raises(OSError) as caught, fault(queue, "FAIL", value=errno.EIO):
        with open_file(folder / "file", "w") as f:
            f.write_at(placed(words(0, PAGE)), 0)
            raise KeyError("mine")
    assert caught.value.errno == errno.EIO
    assert isinstance(caught.value.__context__, KeyError)


# --- a full disk ---


@pytest.mark.parametrize("copy", [False, True])
def test_a_full_disk(small_disk_dir: Path, open_file: Opener, copy: bool) -> None:
    """One write of more than there is room for: the exception tells what is in place, and it is."""
    path = small_disk_dir / "file"
    total = 64 * MIB
    data = placed(words(0, total))
    f = open_file(path, "w")
    operation = f.write_gather([data], 0, copy=copy)
    with pytest.raises(OSError, match=f"write of {total} bytes at offset 0; the first") as caught:
        operation.result()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == path
    in_place: int = caught.value.bytes_in_place  # type: ignore[attr-defined]
    assert f"the first {in_place} bytes are in place" in str(caught.value)
    f.close()
    content = path.read_bytes()
    assert 0 <= in_place <= len(content) < total
    assert_same_bytes(content[:in_place], data[:in_place])


def test_a_full_disk_is_told_by_close(small_disk_dir: Path, open_file: Opener) -> None:
    f = open_file(small_disk_dir / "file", "w")
    data = gio.full(8 * MIB, 1, "u1")
    for i in range(6):
        f.write_at(data, i * data.nbytes)
    with pytest.raises(OSError) as caught:
        f.close()
    assert caught.value.errno == errno.ENOSPC


def test_a_signal_handler_may_close_a_file_that_is_being_closed(disk_dir: Path, backend: str) -> None:
    with gio.CompletionQueue(backend=backend) as queue:
        f = gio.open(disk_dir / "file", "w", queue=queue)
        with fault(queue, "HOLD", count=1) as let_go:
            f.write_at(placed(words(0, PAGE)), 0)

            def handler(*_: object) -> None:
                let_go()
                f.close()

            before = signal.signal(signal.SIGINT, handler)
            try:
                timer = threading.Timer(0.1, press_ctrl_c)
                timer.start()
                f.close()
                timer.join()
            finally:
                signal.signal(signal.SIGINT, before)
        assert f.closed
    assert (disk_dir / "file").stat().st_size == PAGE


def test_parts_of_a_page_written_side_by_side(disk_dir: Path, backend: str) -> None:
    """Blocks and ragged ends of one page, through two file objects at once: the page cache holds the page for both."""
    path = disk_dir / "file"
    for turn in range(30):
        path.write_bytes(bytes(4 * PAGE))
        with gio.CompletionQueue(backend=backend) as queue:
            with gio.open(path, "r+", queue=queue) as one, gio.open(path, "r+", queue=queue) as other:
                operations = [
                    one.write_at(placed(words(0, 600)), 0),
                    other.write_at(placed(words(1024, 2 * PAGE)), 1024),
                    one.write_at(placed(words(1024 + 2 * PAGE, 512)), 1024 + 2 * PAGE),
                ]
                assert gio.wait(operations, FOREVER).not_done == set()
        data = path.read_bytes()
        assert_same_bytes(data[:600], words(0, 600), turn)
        assert data[600:1024] == bytes(424)
        assert_same_bytes(data[1024 : 1536 + 2 * PAGE], words(1024, 2 * PAGE + 512), turn)
        assert data[1536 + 2 * PAGE :] == bytes(2 * PAGE - 1536)


def test_what_could_not_be_reserved_is_removed_where_it_was_made(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what has its name where the working directory is by then."""
    here, there = disk_dir / "here", disk_dir / "there"
    for folder in (here, there):
        folder.mkdir()
    (there / "file").write_bytes(b"another")

    def no_space(self: gio.File, n: int) -> None:
        os.chdir(there)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gio.File, "preallocate", no_space)
    for mode in ("x", "w+"):
        monkeypatch.chdir(here)
        with pytest.raises(OSError) as caught:
            gio.open("file", mode, preallocate=MIB)
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(here) == [] and (there / "file").read_bytes() == b"another"
    os.chdir(disk_dir.parent)  # Windows removes no folder that a process is in
