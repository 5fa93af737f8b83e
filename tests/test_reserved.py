"""Reserved space: a file is as long as what has been written, nobody's bytes are cut, and what is left goes back."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fuse import Fuse
from oracle import (
    KIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    fault,
    needs_root,
    not_on_windows,
    not_under_wine,
    placed,
    require,
    run_python,
    shim,
    strace,
    words,
)

import gatherio as gio
from gatherio import _native as native
from gatherio._core import file as file_module

Opener = Callable[..., gio.File]
ROOM = 4 * MIB  # reserved in most of these tests


def reserved(path: Path) -> int:
    """The bytes of the disk that the file has."""
    if sys.platform != "win32":
        return path.stat().st_blocks * 512
    import msvcrt

    information = (ctypes.c_int64 * 3)()  # FILE_STANDARD_INFO, which begins with AllocationSize
    with open(path, "rb") as plain:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(plain.fileno()))
        assert ctypes.WinDLL("kernel32").GetFileInformationByHandleEx(handle, 1, information, 24)
    return information[0]


def assert_reserved(path: Path) -> None:
    assert reserved(path) >= ROOM or ON_WINDOWS  # Wine does not reserve


def assert_given_back(path: Path) -> None:
    assert reserved(path) < ROOM // 2


# --- the length ---


def test_the_file_is_as_long_as_what_is_written(any_folder: Path, open_file: Opener) -> None:
    path = any_folder / "file"
    with open_file(path, "w", preallocate=ROOM) as f:
        assert f.size == path.stat().st_size == 0
        assert_reserved(path)
        f.write_at(words(0, MIB + 77), 0).result()
        assert f.size == path.stat().st_size == MIB + 77
        f.write_at(words(MIB + 77, 1000), MIB + 77).result()
        assert f.size == path.stat().st_size == MIB + 1077
        assert_reserved(path)
        assert_same_bytes(path.read_bytes(), words(0, MIB + 1077))  # what others see meanwhile
    assert_same_bytes(path.read_bytes(), words(0, MIB + 1077))
    assert_given_back(path)


def test_what_is_there_is_kept(any_folder: Path, open_file: Opener) -> None:
    path = any_folder / "file"
    path.write_bytes(words(0, 10_000))
    with open_file(path, "r+") as f:
        for n in (MIB, 100, 10_000, 0):
            f.preallocate(n)
            assert f.size == 10_000
    assert_same_bytes(path.read_bytes(), words(0, 10_000))
    with open_file(path, "r+", preallocate=MIB) as f:
        f.write_at(words(50_000, 10, 1), 50_000).result()
    content = path.read_bytes()
    assert_same_bytes(content[:10_000], words(0, 10_000))
    assert content[10_000:50_000] == bytes(40_000)
    assert_same_bytes(content[50_000:], words(50_000, 10, 1))


def test_mode_w_empties_an_old_file(folder: Path, open_file: Opener) -> None:
    path = folder / "file"
    path.write_bytes(words(0, MIB))
    with open_file(path, "w", preallocate=ROOM) as f:
        assert f.size == 0
        assert_reserved(path)
    assert path.stat().st_size == 0
    assert_given_back(path)


def test_truncate_sets_the_length_in_reserved_space(folder: Path, open_file: Opener) -> None:
    path = folder / "file"
    with open_file(path, "w", preallocate=ROOM) as f:
        f.truncate(MIB)  # less than is reserved
        assert f.size == MIB
        assert_reserved(path)
        f.write_at(words(0, 10), 0).result()
        assert f.size == MIB
    assert path.stat().st_size == MIB
    assert_given_back(path)
    with open_file(path, "w", preallocate=MIB) as f:
        f.truncate(2 * MIB)  # more
    assert path.stat().st_size == 2 * MIB
    with open_file(path, "w", preallocate=MIB) as f:
        f.truncate(0)
        f.write_at(words(0, 10), 0).result()
    assert path.stat().st_size == 10


@not_on_windows("there it goes back when the file is closed")
def test_truncate_to_the_length_gives_back(any_folder: Path, open_file: Opener) -> None:
    path = any_folder / "file"
    with open_file(path, "w", preallocate=ROOM) as f:
        f.write_at(words(0, 5000), 0).result()
        f.truncate(f.size)
        assert_given_back(path)
        assert f.size == 5000
        f.preallocate(ROOM)
        assert_reserved(path)
    assert_same_bytes(path.read_bytes(), words(0, 5000))
    assert_given_back(path)


@not_under_wine("it has no FILE_ALLOCATION_INFO")
def test_the_holes_of_a_sparse_file_are_filled(any_folder: Path, open_file: Opener) -> None:
    path = any_folder / "file"
    with open_file(path, "w") as f:
        f.truncate(ROOM)
        assert reserved(path) < MIB or ON_WINDOWS  # where only who asks for holes gets them
        f.preallocate(ROOM)
        assert reserved(path) >= ROOM
    assert path.stat().st_size == ROOM
    assert reserved(path) >= ROOM  # within the file nothing goes back


def test_a_write_that_fails_in_the_middle(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    path = folder / "file"
    f = open_file(path, "w", preallocate=ROOM)
    f.write_at(words(0, 10_000), 0).result()
    with fault(queue, "FAIL", value=errno.EIO):
        f.write_at(words(10_000, MIB), 10_000)
        with pytest.raises(OSError, match=f"write of {MIB} bytes at offset 10000") as caught:
            f.close()
    assert caught.value.errno == errno.EIO
    content = path.read_bytes()
    assert 10_000 <= len(content) <= 10_000 + MIB
    assert_same_bytes(content[:10_000], words(0, 10_000))
    assert_given_back(path)


def test_a_killed_process_leaves_what_it_has_written(disk_dir: Path) -> None:
    script = """
        import os, sys, gatherio as gio
        from oracle import MIB, words
        f = gio.open(sys.argv[1], "w", preallocate=4 * MIB)
        f.write_at(words(0, 10_001), 0).result()
        os._exit(7)
    """
    run_python(script, disk_dir / "file", code=7)
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 10_001))


def test_nothing_in_flight_is_waited_for(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    if ON_WINDOWS:
        pytest.skip("not on Windows: a write under way could be cut, so it is")
    with gio.open(disk_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD") as let_go:
        operation = f.write_at(placed(words(0, PAGE)), 0)
        f.preallocate(ROOM)
        assert not operation.done()
        assert_reserved(disk_dir / "file")
        let_go()
        assert operation.result() == PAGE


# --- other writers ---


@contextlib.contextmanager
def _another_object(path: Path) -> Iterator[Callable[[bytes], None]]:
    with gio.open(path, "r+") as f:
        yield lambda data: [f.write_at(np.frombuffer(data, "u1"), f.size).result(), f.flush()] and None


@contextlib.contextmanager
def _a_plain_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    with open(path, "ab", buffering=0) as f:
        yield lambda data: f.write(data) and None


@contextlib.contextmanager
def _another_process(path: Path) -> Iterator[Callable[[bytes], None]]:
    script = "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())"

    def write(data: bytes) -> None:
        subprocess.run([sys.executable, "-c", script, path], input=data, check=True)

    yield write


@contextlib.contextmanager
def _a_mapping(path: Path) -> Iterator[Callable[[bytes], None]]:
    def write(data: bytes) -> None:
        end = path.stat().st_size
        with gio.Mapping(path, "r+", size=end + len(data)) as m:
            m.write(np.frombuffer(data, "u1"), end)
            m.flush()

    yield write


WRITERS = {
    "object": _another_object,
    "plain file": _a_plain_file,
    "process": _another_process,
    "mapping": _a_mapping,
}


@pytest.mark.parametrize("end", ["close", "dropped", "preallocate", "still open"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_others_write_is_not_cut(folder: Path, direct: bool | None, writer: str, end: str) -> None:
    """More than this object has written, more than it reserved, before and while it goes."""
    path = folder / "file"
    f = gio.open(path, "w", direct=direct, preallocate=MIB)
    f.write_at(words(0, 5000), 0).result()
    with WRITERS[writer](path) as write:
        write(words(5000, 2 * MIB).tobytes())
        if end == "close":
            f.close()
        elif end == "dropped":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del f
                gc.collect()
        elif end == "preallocate":
            f.preallocate(MIB)
            f.preallocate(ROOM)
        write(words(5000 + 2 * MIB, 100).tobytes())
    if end in ("preallocate", "still open"):
        f.close()
    assert_same_bytes(path.read_bytes(), words(0, 5100 + 2 * MIB))


def test_a_write_of_another_thread_in_the_last_moment(
    folder: Path, open_file: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was submitted between the wait for what is in flight and the closing."""

    class Late:
        submitted: list[gio.Operation] = []

        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_file_close(self, file: object) -> int:
            if not self.submitted:
                f._closed = False  # as the other thread still found it
                self.submitted.append(f.write_at(placed(words(PAGE, MIB)), PAGE))
                f._closed = True
            return int(native.lib.gio_file_close(file))

    f = open_file(folder / "file", "w", preallocate=ROOM)
    f.write_at(placed(words(0, PAGE)), 0).result()
    monkeypatch.setattr(file_module, "lib", Late())
    f.close()
    assert Late.submitted.pop().result() == MIB
    assert_same_bytes((folder / "file").read_bytes(), words(0, PAGE + MIB))
    assert_given_back(folder / "file")


# --- what goes back, and when it does not ---


@not_on_windows("there the file system itself gives it back")
@pytest.mark.parametrize("who", ["reader", "writer", "object", "copy of the descriptor"])
def test_space_is_kept_while_somebody_has_the_file_open(folder: Path, open_file: Opener, who: str) -> None:
    path = folder / "file"
    f = open_file(path, "w+", preallocate=ROOM)
    f.write_at(words(0, 5000), 0).result()
    with contextlib.ExitStack() as others:
        if who == "copy of the descriptor":
            others.callback(os.close, os.dup(f.fileno()))
        elif who == "object":
            others.enter_context(gio.open(path))
        else:
            others.enter_context(open(path, "rb" if who == "reader" else "r+b"))
        f.close()
        assert_reserved(path)
    assert_same_bytes(path.read_bytes(), words(0, 5000))
    with gio.open(path, "r+") as again:
        again.truncate(again.size)
    assert_given_back(path)


@not_on_windows("it has no fork, and gives it back itself")
def test_space_is_kept_by_who_does_not_call_close(disk_dir: Path) -> None:
    """Garbage, a forked child, the end of the interpreter: others may be at it, and nobody expects a wait."""
    script = """
        import gc, os, sys, warnings, gatherio as gio
        from oracle import MIB, words
        warnings.simplefilter("ignore")
        folder = sys.argv[1]

        def blocks(name):
            status = os.stat(f"{folder}/{name}")
            assert status.st_size == 5000
            return status.st_blocks * 512 >= 4 * MIB

        def made(name):
            f = gio.open(f"{folder}/{name}", "w", preallocate=4 * MIB)
            f.write_at(words(0, 5000), 0).result()
            return f

        f = made("garbage")
        del f
        gc.collect()
        print(blocks("garbage"))
        f = made("child")
        child = os.fork()
        if child == 0:
            f.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(blocks("child"))
        f.close()
        print(blocks("child"))
        f = made("exit")
    """
    assert run_python(script, disk_dir).split() == ["True", "True", "False"]
    assert reserved(disk_dir / "exit") >= ROOM and (disk_dir / "exit").stat().st_size == 5000


@not_on_windows("it has no leases")
def test_who_opens_the_file_while_space_is_given_back_does_no_harm(disk_dir: Path) -> None:
    """It has to wait: opening without that is refused. The signal that tells us of it ends nobody."""
    source = """
        #include <dlfcn.h>
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/types.h>
        #include <unistd.h>

        int ftruncate(int fd, off_t size)
        {
            int (*real)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate");
            const char *path = getenv("GIVEN_BACK");
            if (path && size != 0) {
                int other = open(path, O_WRONLY | O_NONBLOCK);
                fprintf(stdout, "%s\\n", other < 0 && errno == EWOULDBLOCK ? "has to wait" : "opened");
                fflush(stdout);
            }
            return real(fd, size);
        }
    """
    script = """
        import os, signal, sys, gatherio as gio
        from oracle import MIB, words
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        f = gio.open(sys.argv[1], "w", preallocate=4 * MIB)
        f.write_at(words(0, 5000), 0).result()
        f.close()
        print("lives", os.stat(sys.argv[1]).st_blocks * 512 < 2 * MIB)
    """
    path = disk_dir / "file"
    under = [*shim(disk_dir, source), f"GIVEN_BACK={path}"]
    assert run_python(script, path, under=under).splitlines() == ["has to wait", "lives True"]
    assert_same_bytes(path.read_bytes(), words(0, 5000))


@not_on_windows("it has no owners of this kind")
@needs_root("to be somebody else")
def test_another_users_file_keeps_its_space(disk_dir: Path) -> None:
    script = """
        import os, sys, gatherio as gio
        from oracle import MIB, words
        os.setuid(65534)
        with gio.open(sys.argv[1], "r+", preallocate=4 * MIB) as f:
            f.write_at(words(0, 5000), 0).result()
        status = os.stat(sys.argv[1])
        print(status.st_size, status.st_blocks * 512 >= 4 * MIB)
    """
    disk_dir.chmod(0o777)
    (disk_dir / "file").touch()
    (disk_dir / "file").chmod(0o666)
    assert run_python(script, disk_dir / "file") == "5000 True\n"


# --- no room ---


def test_a_disk_too_small(small_disk_dir: Path, direct: bool | None) -> None:
    path = small_disk_dir / "file"
    path.write_bytes(words(0, 10_000))
    with gio.open(path, "r+", direct=direct) as f:
        with pytest.raises(OSError, match=f"reserving {100 * MIB} bytes") as caught:
            f.preallocate(100 * MIB)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == path
        assert f.size == 10_000
        assert reserved(path) < 64 * KIB
        f.preallocate(MIB)  # what fits, fits
        assert reserved(path) >= MIB
    assert_same_bytes(path.read_bytes(), words(0, 10_000))


@pytest.mark.parametrize("mode", ["r+", "w", "w+"])
def test_an_open_that_cannot_reserve_leaves_the_old_file(small_disk_dir: Path, mode: str) -> None:
    path = small_disk_dir / "file"
    path.write_bytes(words(0, 10_000))
    before = path.stat()
    with pytest.raises(OSError) as caught:
        gio.open(path, mode, preallocate=100 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert_same_bytes(path.read_bytes(), words(0, 10_000))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)


@pytest.mark.parametrize("mode", ["x", "x+", "w", "w+"])
def test_an_open_that_cannot_reserve_leaves_no_new_file(small_disk_dir: Path, mode: str) -> None:
    with pytest.raises(OSError) as caught:
        gio.open(small_disk_dir / "file", mode, preallocate=100 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(small_disk_dir) == []


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
def test_a_reservation_that_the_system_refuses(disk_dir: Path, tmp_path: Path, error: str) -> None:
    script = """
        import sys, gatherio as gio
        from oracle import words
        for mode in ("r+", "w"):
            try:
                gio.open(sys.argv[1], mode, preallocate=1 << 20)
            except OSError as failure:
                print(failure.errno, failure.filename == sys.argv[1])
    """
    path = disk_dir / "file"
    path.write_bytes(words(0, 10_000))
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", f"inject=fallocate:error={error}")
    assert run_python(script, path, under=prefix).splitlines() == [f"{getattr(errno, error)} True"] * 2
    assert_same_bytes(path.read_bytes(), words(0, 10_000))


# What statfs(2) tells: f_bsize, f_frsize, f_blocks, f_bfree = f_bavail; and how many bytes fit, None for any number.
VOLUMES = {
    "no block size": ((0, 0, 1000, 100), None),
    "no blocks": ((4096, 4096, 0, 0), None),
    "nothing at all": ((0, 0, 0, 0), None),
    "full": ((4096, 4096, 1000, 0), 0),
    "fragments": ((1 << 20, 4096, 1000, 100), 100 * 4096),
    "no fragments": ((4096, 0, 1000, 100), 100 * 4096),
}


@pytest.mark.parametrize("volume", VOLUMES)
def test_what_the_file_system_tells_of_its_room(disk_dir: Path, volume: str) -> None:
    """Where it cannot reserve, and tells something odd besides."""
    source = """
        #include <errno.h>
        #include <string.h>
        #include <stdlib.h>
        #include <stdio.h>
        #include <sys/statfs.h>
        #include <sys/types.h>

        int fstatfs(int fd, struct statfs *told)
        {
            unsigned long bsize, frsize, blocks, available;
            sscanf(getenv("VOLUME"), "%lu,%lu,%lu,%lu", &bsize, &frsize, &blocks, &available);
            memset(told, 0, sizeof *told);
            told->f_bsize = bsize;
            told->f_frsize = frsize;
            told->f_blocks = blocks;
            told->f_bfree = told->f_bavail = available;
            return 0;
        }

        int fallocate(int fd, int mode, off_t offset, off_t length)
        {
            errno = EOPNOTSUPP;
            return -1;
        }
    """
    script = """
        import errno, os, sys, numpy as np, gatherio as gio
        from oracle import words
        folder, fits = sys.argv[1], sys.argv[2]
        with gio.open(f"{folder}/file", "w") as f:
            f.preallocate(0)
            for n in (1, 4096) if fits == "None" else (int(fits),):
                f.preallocate(n)
            for n in (1 << 50,) if fits == "None" else ():
                f.preallocate(n)
            if fits != "None":
                try:
                    f.preallocate(int(fits) + 1)
                except OSError as failure:
                    assert failure.errno == errno.ENOSPC
                else:
                    raise SystemExit("not refused")
            assert f.size == 0
            f.write_at(words(0, 5000), 0).result()
        if fits != "0":
            gio.save(f"{folder}/a.npy", np.arange(1000))
            assert (np.load(f"{folder}/a.npy") == np.arange(1000)).all()
        print(os.path.getsize(f"{folder}/file"))
    """
    told, fits = VOLUMES[volume]
    under = [*shim(disk_dir, source), "VOLUME=" + ",".join(map(str, told))]
    assert run_python(script, disk_dir, fits, under=under) == "5000\n"


# --- servers ---


def test_a_server_that_reserves_keeps_it(fuse: Callable[..., Fuse]) -> None:
    """Its other clients know nothing of a lease of this kernel's: the length is not set, for it may be old."""
    server = fuse()
    path = server.path / "file"
    with gio.open(path, "w", preallocate=ROOM) as f:
        f.write_at(words(0, 5000), 0).result()
        assert f.size == path.stat().st_size == 5000
        before = server.counts().get("setattr", 0)
    assert server.counts().get("setattr", 0) == before
    assert_reserved(path)
    assert_same_bytes(server.content("file"), words(0, 5000))


@pytest.mark.parametrize("statfs", ["", "no_block_size", "no_blocks"])
@pytest.mark.parametrize("number", [0, errno.ENOSYS, errno.EOPNOTSUPP])
def test_what_a_server_tells_of_its_room(fuse: Callable[..., Fuse], statfs: str, number: int) -> None:
    server = fuse(statfs=statfs, no_fallocate=number)
    with gio.open(server.path / "file", "w", preallocate=ROOM) as f:
        assert f.size == 0
        f.write_at(words(0, 5000), 0).result()
    assert_same_bytes(server.content("file"), words(0, 5000))
    gio.save(server.path / "a.npy", np.arange(1000))
    assert (np.load(server.path / "a.npy") == np.arange(1000)).all()


@pytest.mark.parametrize("number", [0, errno.EOPNOTSUPP])
def test_a_server_with_too_little_room(fuse: Callable[..., Fuse], number: int) -> None:
    server = fuse(room=MIB, no_fallocate=number)
    path = server.path / "file"
    path.write_bytes(words(0, 5000))
    for mode in ("r+", "w"):
        with pytest.raises(OSError) as caught:
            gio.open(path, mode, preallocate=2 * MIB)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
        assert_same_bytes(server.content("file"), words(0, 5000))


# --- signals ---


def test_an_interrupted_reservation_is_made_again(disk_dir: Path, tmp_path: Path) -> None:
    script = """
        import os, sys, gatherio as gio
        with gio.open(sys.argv[1], "w", preallocate=1 << 20) as f:
            print(f.size, os.stat(sys.argv[1]).st_blocks * 512 >= 1 << 20)
    """
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", "inject=fallocate:error=EINTR:when=1..70")
    assert run_python(script, disk_dir / "file", under=prefix) == "0 True\n"
    assert (tmp_path / "log").read_text().count("(INJECTED)") == 70


def test_ctrl_c_ends_a_reservation_that_never_succeeds(disk_dir: Path) -> None:
    """On tmpfs a signal undoes fallocate: with a timer that is faster than it, it is made for ever."""
    source = """
        #include <errno.h>
        #include <signal.h>
        #include <sys/types.h>

        int fallocate(int fd, int mode, off_t offset, off_t length)
        {
            raise(SIGINT);
            errno = EINTR;
            return -1;
        }
    """
    script = """
        import os, signal, sys, gatherio as gio
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it is ignored from the start
        f = gio.open(sys.argv[1], "w")
        try:
            f.preallocate(1 << 20)
        except KeyboardInterrupt:
            print("heard")
        f.close()
        try:
            gio.open(sys.argv[1] + ".new", "x", preallocate=1 << 20)
        except KeyboardInterrupt:
            print("heard", os.path.exists(sys.argv[1] + ".new"))
    """
    under = shim(disk_dir, source)
    assert run_python(script, disk_dir / "file", under=under, timeout=30).split() == ["heard", "heard", "False"]


# --- devices ---


@pytest.fixture
def device(disk_dir: Path) -> Iterator[Path]:
    """A loop device of 1 MiB."""
    image = disk_dir / "image"
    image.write_bytes(words(0, MIB))
    command = [require("losetup", "mount"), "--find", "--show", image]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(name)
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


@not_on_windows("it has no loop devices")
@needs_root("a loop device")
@pytest.mark.parametrize("direct", [None, False], ids=["direct", "buffered"])
def test_a_device_has_the_size_it_has(device: Path, direct: bool | None) -> None:
    with gio.open(device, "r+", direct=direct) as f:
        assert f.size == MIB
        uses: list[Callable[[], object]] = [
            *(lambda n=n: f.preallocate(n) for n in (1, MIB, 2 * MIB)),
            *(lambda n=n: f.truncate(n) for n in (0, MIB, 2 * MIB)),
            *(lambda mode=mode: gio.open(device, mode, direct=direct, preallocate=PAGE) for mode in ("r+", "w", "w+")),
        ]
        for use in uses:
            with pytest.raises(OSError, match="a device has the size it has") as caught:
                use()
            assert caught.value.errno == errno.EINVAL and caught.value.filename == device
        assert f.size == MIB
    assert_same_bytes(device.read_bytes(), words(0, MIB))


# --- save ---


@pytest.mark.parametrize("layout", ["C", "strided"])
def test_save_sets_the_length_beforehand(disk_dir: Path, layout: str, small_steps: None) -> None:
    """Nobody else sees its file yet, and writes that lengthen no file are faster."""
    array = np.arange(200_000.0).reshape(400, 500)
    array = array if layout == "C" else array[:, ::2]
    sizes = set()

    def look(done: int, total: int) -> None:
        sizes.update(path.stat().st_size for path in disk_dir.iterdir())
        for fd in [] if ON_WINDOWS else os.listdir("/proc/self/fd"):  # it may have no name yet
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{disk_dir}/"):
                    sizes.add(os.fstat(int(fd)).st_size)

    gio.save(disk_dir / "a.npy", array, progress=look)
    assert sizes == {(disk_dir / "a.npy").stat().st_size}
    assert_given_back(disk_dir / "a.npy")
