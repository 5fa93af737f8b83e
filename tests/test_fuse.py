"""The file system for tests does what it is told to, and leaves nothing behind. No gatherio in here."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuse import Fuse
from oracle import FOREVER, KIB, PAGE, words

Mount = Callable[..., Fuse]

SIZE = 300 * KIB + 77  # three requests, and no whole number of anything
WAYS: list[dict[str, Any]] = [{}, {"direct_io": True}, {"writeback": True}]
pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "cached")


def some(nbytes: int = SIZE, salt: int = 0) -> bytes:
    return words(0, nbytes, salt).tobytes()


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


def write_all(path: Path, data: bytes) -> None:
    """Past the built-in file's buffer, which would hide the counts."""
    with path.open("wb", buffering=0) as file:
        done = 0
        while done < len(data):
            done += file.write(data[done:])


# --- a file system ---


def test_plain_files(fuse: Mount, way: dict[str, Any]) -> None:
    folder = fuse(**way).path
    path = folder / "file"
    path.write_bytes(some())
    assert path.read_bytes() == some()
    assert path.stat().st_size == SIZE
    with path.open("r+b", buffering=0) as file:
        assert os.pread(file.fileno(), 5000, 1000) == some()[1000:6000]
        assert os.pread(file.fileno(), 5000, SIZE - 10) == some()[-10:]
        assert os.pread(file.fileno(), 5000, SIZE) == b""
        assert os.pwrite(file.fileno(), b"middle", 12_345) == 6
        os.fsync(file.fileno())
    assert path.read_bytes() == some()[:12_345] + b"middle" + some()[12_351:]
    with path.open("ab") as file:
        file.write(b"end")
    assert path.read_bytes()[SIZE - 8 :] == some()[-8:] + b"end"


def test_what_the_server_has(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    with (server.path / "file").open("wb") as file:
        file.write(some())
        file.flush()
        os.fsync(file.fileno())
        assert server.content("file") == some()
    assert server.counts()["write"] >= SIZE // (128 * KIB)
    assert server.counts()["flush"] == server.counts()["fsync"] == 1


def test_lengths(fuse: Mount, way: dict[str, Any]) -> None:
    path = fuse(**way).path / "file"
    path.write_bytes(some())
    os.truncate(path, 5000)
    assert path.read_bytes() == some(5000)
    os.truncate(path, 9000)
    assert path.read_bytes() == some(5000) + bytes(4000)
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far", 20_000)
        os.posix_fallocate(file.fileno(), 0, 30_000)
    assert path.read_bytes() == some(5000) + bytes(15_000) + b"far" + bytes(9_997)
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_names(fuse: Mount, way: dict[str, Any]) -> None:
    folder = fuse(**way).path
    old, new = folder / "old", folder / "new"
    refused(errno.ENOENT, old.stat)
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    refused(errno.EEXIST, os.open, old, os.O_CREAT | os.O_EXCL)
    assert sorted(os.listdir(folder)) == ["new", "old"]
    with new.open("rb") as replaced:
        old.rename(new)
        assert os.listdir(folder) == ["new"] and new.read_bytes() == b"old"
        assert replaced.read() == b"new"
    os.link(new, old)
    assert old.stat().st_nlink == 2 and old.read_bytes() == b"old"
    with new.open("r+b") as removed:
        new.unlink()
        old.unlink()
        assert removed.read() == b"old"
    assert os.listdir(folder) == []
    refused(errno.ENOENT, new.unlink)
    for number in range(1000):  # more than one answer holds
        (folder / f"a file with a long name {number}").touch()
    assert len(os.listdir(folder)) == 1000


def test_attributes(fuse: Mount, way: dict[str, Any]) -> None:
    path = fuse(**way).path / "file"
    path.touch(mode=0o600)
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.utime(path, ns=(0, 10**18 + 7))
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (0o640, 12, 34, 10**18 + 7)
    refused(errno.EOPNOTSUPP, os.setxattr, path, "user.name", b"value")
    refused(errno.EOPNOTSUPP, os.getxattr, path, "user.name")


# --- options ---


def test_o_direct(fuse: Mount, way: dict[str, Any]) -> None:
    yes, no = fuse(**way).path / "file", fuse(**way, refuse_o_direct=True).path / "file"
    os.close(os.open(yes, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    refused(errno.EINVAL, os.open, no, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    no.touch()
    refused(errno.EINVAL, os.open, no, os.O_RDONLY | os.O_DIRECT)


@pytest.mark.parametrize("room", [0, 1, PAGE, 200_000, 262_144])
def test_room(fuse: Mount, way: dict[str, Any], room: int) -> None:
    """What fits is written and told; then there is no room, until there is some again."""
    server = fuse(**way, room=room, partial=True)
    path, other = server.path / "file", server.path / "other"
    refused(errno.ENOSPC, write_and_sync, path, some())
    assert server.content("file") == some(room)
    refused(errno.ENOSPC, write_and_sync, other, b"1")
    if room:
        os.truncate(path, room - 1)
        write_and_sync(other, b"1")
        path.unlink()
        write_and_sync(other, some(room))
        assert other.read_bytes() == some(room)


def write_and_sync(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_room_without_partial_writes(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way, room=5000)
    refused(errno.ENOSPC, write_and_sync, server.path / "file", some(5001))
    if "writeback" not in way:  # there the kernel has taken it, page by page
        write_and_sync(server.path / "other", some(5000))


def test_the_count_of_a_partial_write(fuse: Mount, way: dict[str, Any]) -> None:
    path = fuse(**way, room=5000, partial=True).path / "file"
    with path.open("wb", buffering=0) as file:
        if "writeback" in way:
            assert file.write(some(6000)) == 6000
            refused(errno.ENOSPC, os.fsync, file.fileno())
            return
        assert file.write(some(6000)) == 5000
        refused(errno.ENOSPC, file.write, b"more")


def test_reserved_space(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way, room=100_000)
    with (server.path / "file").open("wb", buffering=0) as file:
        fallocate(file.fileno(), 1, 90_000)  # FALLOC_FL_KEEP_SIZE
        assert os.fstat(file.fileno()).st_size == 0
        assert os.fstat(file.fileno()).st_blocks == -(-90_000 // 512)
        refused(errno.ENOSPC, fallocate, file.fileno(), 0, 100_001)
        refused(errno.ENOSPC, write_and_sync, server.path / "other", some(10_001))
        os.ftruncate(file.fileno(), 0)  # gives it back
        write_and_sync(server.path / "other", some(100_000))


def fallocate(descriptor: int, mode: int, length: int) -> None:
    """os.posix_fallocate knows no mode, and writes zeros where the system call is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, mode, ctypes.c_long(0), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_no_fallocate(fuse: Mount, way: dict[str, Any], number: int) -> None:
    with (fuse(**way, no_fallocate=number).path / "file").open("wb") as file:
        refused(errno.EOPNOTSUPP, fallocate, file.fileno(), 0, 5000)  # the kernel says so in both cases


def test_statfs(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way, room=100 * PAGE)
    (server.path / "file").write_bytes(some(9 * PAGE + 1))
    found = os.statvfs(server.path)
    assert (found.f_frsize, found.f_blocks, found.f_bavail) == (PAGE, 100, 90)
    assert os.statvfs(fuse(**way, statfs="no_block_size").path).f_bsize == 0
    assert os.statvfs(fuse(**way, statfs="no_blocks").path).f_blocks == 0


def test_chmod_refused(fuse: Mount, way: dict[str, Any]) -> None:
    path = fuse(**way, refuse_chmod=True).path / "file"
    path.write_bytes(b"1")
    refused(errno.EPERM, path.chmod, 0o600)
    refused(errno.EPERM, os.chown, path, 1, 1)
    os.truncate(path, 0)


# --- faults ---


def test_short_writes(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    server.faults(write={"short": 777})
    with (server.path / "file").open("wb", buffering=0) as file:
        if "writeback" not in way:
            assert file.write(some()) == 777
            assert file.write(some()[777:]) == 777
            assert server.content("file") == some(2 * 777)


def test_short_reads(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    write_all(server.path / "file", some())
    server.faults(read={"short": 777})
    with (server.path / "file").open("rb", buffering=0) as file:
        # Through the page cache a short answer means that the file ends there.
        assert file.read(10 * KIB) == some(777) or "direct_io" not in way
        if "direct_io" in way:
            assert file.read(10 * KIB) == some()[777:1554]


def test_short_reads_with_o_direct(fuse: Mount, way: dict[str, Any]) -> None:
    """Only FOPEN_DIRECT_IO hands the count on. Otherwise the kernel itself reads the rest, through the page cache."""
    server = fuse(**way)
    write_all(server.path / "file", some())
    server.faults(read={"short": 5000})
    descriptor = os.open(server.path / "file", os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 2 * PAGE) as memory:
        count = os.preadv(descriptor, [memory], 0)
        assert count == (5000 if "direct_io" in way else 2 * PAGE)
        assert memory[:count] == some(count)
    os.close(descriptor)


def test_dropped_writes(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    server.faults(write={"drop": True})
    write_and_sync(server.path / "file", some())
    assert server.content("file") == bytes(SIZE)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOSPC])
def test_errors(fuse: Mount, way: dict[str, Any], number: int) -> None:
    server = fuse(**way)
    path = server.path / "file"
    write_all(path, some())
    server.faults(
        **{kind: {"error": number} for kind in ("open", "setattr", "rename", "unlink", "read", "fsync", "fallocate")}
    )
    refused(number, os.open, path, os.O_RDONLY)
    refused(number, os.open, server.path / "new", os.O_RDWR | os.O_CREAT)
    refused(number, os.truncate, path, 7)
    refused(number, path.chmod, 0o600)
    refused(number, path.rename, server.path / "new")
    refused(number, path.unlink)
    server.faults()
    with path.open("r+b", buffering=0) as file:
        server.faults(
            read={"error": number}, fsync={"error": number}, fallocate={"error": number}, write={"error": number}
        )
        refused(number, file.read, 100)
        refused(number, os.fsync, file.fileno())
        refused(number, fallocate, file.fileno(), 0, 2 * SIZE)
        if "writeback" not in way:
            refused(number, file.write, some())
    server.faults()
    assert path.read_bytes() == some()


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
def test_errors_at_close(fuse: Mount, way: dict[str, Any], number: int) -> None:
    server = fuse(**way)
    descriptor = os.open(server.path / "file", os.O_WRONLY | os.O_CREAT)
    assert os.write(descriptor, b"1") == 1
    server.faults(flush={"error": number})
    refused(number, os.close, descriptor)
    refused(errno.EBADF, os.fstat, descriptor)  # closed it is


def test_which_requests_meet_a_fault(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    server.faults(fsync={"error": errno.EIO, "after": 2, "count": 3})
    outcomes = []
    with (server.path / "file").open("wb") as file:
        for _ in range(8):
            try:
                os.fsync(file.fileno())
                outcomes.append(0)
            except OSError as error:
                outcomes.append(error.errno or -1)
    assert outcomes == [0, 0, errno.EIO, errno.EIO, errno.EIO, 0, 0, 0]


def test_a_fault_that_there_is_not(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    with pytest.raises(ValueError, match="no fault for 'wrte'"):
        server.faults(wrte={"error": 5})
    with pytest.raises(TypeError, match="eror"):
        server.faults(write={"eror": 5})
    with pytest.raises(ValueError, match="flush cannot be held"):
        server.faults(flush={"hold": True})
    with pytest.raises(TypeError, match="rom"):
        fuse(rom=5)


def hold_a_sync(server: Fuse, path: Path) -> tuple[threading.Thread, list[int]]:
    """A thread in the middle of an fsync."""
    server.faults(fsync={"hold": True})
    outcome: list[int] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)

    def sync() -> None:
        os.fsync(descriptor)
        outcome.append(1)
        os.close(descriptor)

    thread = threading.Thread(target=sync)
    thread.start()
    while server.held() == 0:  # each time the server is asked
        pass
    return thread, outcome


def test_held_requests(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    thread, outcome = hold_a_sync(server, server.path / "file")
    (server.path / "other").write_bytes(b"goes on")
    assert outcome == []
    server.faults()
    thread.join(FOREVER)
    assert outcome == [1] and server.held() == 0


# --- nothing is left behind ---


def test_it_outlives_a_fork_and_its_end(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    child = os.fork()
    if child == 0:
        os._exit((server.path / "file").write_bytes(b"child") != 5)
    assert os.waitpid(child, 0)[1] == 0
    assert (server.path / "file").read_bytes() == b"child"


def test_unmounted_though_files_are_open(fuse: Mount, way: dict[str, Any]) -> None:
    server = fuse(**way)
    descriptor = os.open(server.path / "file", os.O_RDWR | os.O_CREAT)
    child = os.fork()
    if child == 0:  # has the file, and the pipe to the server
        signal.pause()
    server.close()
    assert os.listdir(server.path) == []
    refused(errno.ENOTCONN, os.fstat, descriptor)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(OSError):  # ENOTCONN or ECONNABORTED, as the kernel likes
        os.close(descriptor)


SCRIPT = """
    import os, sys, threading
    from pathlib import Path
    from conftest import leave_the_mount_namespace
    from fuse import Fuse

    leave_the_mount_namespace()
    server = Fuse(Path(sys.argv[1]), **eval(sys.argv[2]))
    print(server._server.pid, flush=True)
    descriptor = os.open(server.path / "file", os.O_RDWR | os.O_CREAT)
    server.faults(fsync={"hold": True})
    if sys.argv[3] == "thread":
        threading.Thread(target=os.fsync, args=[descriptor]).start()
    print("ready", flush=True)
    if sys.argv[3] == "main":
        os.fsync(descriptor)
    else:
        sys.stdin.read()
"""


@pytest.mark.parametrize("stuck", ["main", "thread", "nobody"])
def test_a_test_that_is_killed(fuse: Mount, way: dict[str, Any], tmp_path: Path, stuck: str) -> None:
    """Also one with a thread in the middle of a request that is held."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), repr(way), stuck]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stdout is not None
        pid = int(killed.stdout.readline())
        server = os.pidfd_open(pid)
        assert killed.stdout.readline() == "ready\n"
        killed.kill()
        assert killed.wait(FOREVER) == -signal.SIGKILL
    assert select.select([server], [], [], FOREVER)[0], "the server goes on"
    os.close(server)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
