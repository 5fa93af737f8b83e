"""Which writes of a file are under way together, and in which order: what readers and neighbours may rely on.

Requests that are held (a fault point) have been carried out, and their completion is not told: what has to wait for
them has not begun then, and that shows in the file.
"""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuse import Fuse
from oracle import FOREVER, assert_same_bytes, fault, needs_root, not_on_windows, placed, run_python, strace, words

import gatherio as gio

KIB, MIB = 1 << 10, 1 << 20
PAGE = 4096
FOLIO = 2 * MIB  # what the page cache of Linux may keep in one piece

needs_several_requests = pytest.mark.parametrize("backend", ["uring", "threads"])
of_linux = not_on_windows("its backends are Linux's")


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- a reader who trusts the length ---


@of_linux
@needs_several_requests
@pytest.mark.parametrize("way", [None, False], ids=["direct", "buffered"])
@pytest.mark.parametrize("shift", [0, 1], ids=["in-place", "staged"])
@pytest.mark.parametrize("held", [0, 1])
def test_what_lengthens_a_file_goes_in_order(
    disk_dir: Path, backend: str, way: bool | None, shift: int, held: int
) -> None:
    path, data = disk_dir / "file", words(0, 12 * MIB + 1, salt=1)
    with gio.CompletionQueue(backend=backend) as queue, gio.open(path, "w", queue=queue, direct=way) as f:
        with fault(queue, "HOLD", after=held, count=1):
            operation = f.write_at(placed(data, shift), 0)
            step = (2 if shift and f.direct else 4) * MIB  # a staging buffer; a request
            until(lambda: path.stat().st_size >= step * (held + 1))
            assert not operation.done()
            assert path.stat().st_size == step * (held + 1)  # nothing behind the one that is held
            assert_same_bytes(path.read_bytes(), data[: step * (held + 1)])
        assert operation.result() == data.nbytes
    assert_same_bytes(path.read_bytes(), data)


@of_linux
@needs_several_requests
@pytest.mark.parametrize("request_size", [64 * KIB, MIB])
def test_the_tail_starts_last(disk_dir: Path, backend: str, request_size: int) -> None:
    """However small the requests, which are under way together then."""
    path, data = disk_dir / "file", words(0, 3 * MIB + 1, salt=1)
    count = 3 * MIB // request_size
    with (
        gio.CompletionQueue(backend=backend, request_size=request_size) as queue,
        gio.open(path, "w", queue=queue) as f,
    ):
        with fault(queue, "HOLD", count=count):
            operation = f.write_at(placed(data), 0)
            until(
                lambda: path.stat().st_size >= 3 * MIB and bool(np.all(np.fromfile(path, "u1", 3 * MIB) == data[:-1]))
            )
            assert not operation.done()
            assert path.stat().st_size == 3 * MIB
        assert operation.result() == data.nbytes
    assert_same_bytes(path.read_bytes(), data)


@of_linux
@needs_several_requests
def test_a_tail_does_not_lengthen_a_file_whose_middle_failed(disk_dir: Path, backend: str) -> None:
    path, data = disk_dir / "file", words(0, 3 * MIB + 1)
    with (
        gio.CompletionQueue(backend=backend, request_size=MIB) as queue,
        gio.open(path, "w", queue=queue) as f,
        fault(queue, "FAIL", after=1, count=1, value=errno.ENOSPC),
        pytest.raises(OSError) as caught,
    ):
        f.write_at(placed(data), 0).result()
    assert caught.value.errno == errno.ENOSPC
    assert path.stat().st_size <= 3 * MIB


LIVE_READER = """
    import os, sys, numpy as np
    fd = os.open(sys.argv[1], os.O_RDONLY)
    print("ready", flush=True)
    seen = 0
    while not os.path.exists(sys.argv[1] + ".done"):
        size = os.fstat(fd).st_size
        if size > seen:
            data = np.frombuffer(os.pread(fd, size, 0), np.uint8)
            if len(data) != size or not data.all():
                print("zeros", size, np.flatnonzero(data == 0)[:3])
                break
            seen = size
    else:
        print("none")
"""


@of_linux
@pytest.mark.parametrize("backend", ["uring", "threads", "sync"])
@pytest.mark.parametrize("nbytes", [100, PAGE + 1, 8 * MIB + 1, 8 * MIB])
def test_a_live_reader_sees_no_zeros(disk_dir: Path, backend: str, nbytes: int) -> None:
    path = disk_dir / "file"
    path.touch()
    data = placed(np.full(nbytes, 7, np.uint8))
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LIVE_READER), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout and reader.stdout.readline() == "ready\n"
    with gio.CompletionQueue(backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        for i in range(4):
            f.write_at(data, i * nbytes).result()
    Path(f"{path}.done").touch()
    assert reader.communicate(timeout=60)[0] == "none\n"


# --- ragged ends beside direct writes ---


def read(path: Path, offset: int, nbytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(nbytes)


@of_linux
@needs_several_requests
def test_a_ragged_end_waits_for_a_direct_write_near_it(disk_dir: Path, backend: str) -> None:
    path = disk_dir / "file"
    path.write_bytes(bytes(3 * FOLIO))
    page, odd = gio.full(PAGE, 1, np.uint8), np.full(100, 2, np.uint8)
    with gio.CompletionQueue(backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        if not f.direct:
            pytest.skip("no direct I/O on this disk")
        with fault(queue, "HOLD"):
            operations = [f.write_at(page, FOLIO + 8 * PAGE)]
            operations += [f.write_at(odd, FOLIO + 10), f.write_at(odd, 2 * FOLIO - 100)]  # near
            operations += [f.write_at(odd, FOLIO - 100), f.write_at(odd, 2 * FOLIO)]  # far
            until(lambda: read(path, FOLIO - 100, 100) == read(path, 2 * FOLIO, 100) == b"\2" * 100)
            until(lambda: read(path, FOLIO + 8 * PAGE, PAGE) == b"\1" * PAGE)
            assert read(path, FOLIO, 4 * PAGE) == bytes(4 * PAGE)
            assert read(path, 2 * FOLIO - 100, 100) == bytes(100)
        for operation in operations:
            operation.result()
    assert read(path, FOLIO + 10, 100) == read(path, 2 * FOLIO - 100, 100) == b"\2" * 100
    assert read(path, FOLIO + 8 * PAGE, PAGE) == b"\1" * PAGE


@of_linux
@needs_several_requests
def test_a_direct_write_waits_for_a_ragged_end_near_it(disk_dir: Path, backend: str) -> None:
    path = disk_dir / "file"
    path.write_bytes(bytes(3 * FOLIO))
    page, odd = gio.full(PAGE, 1, np.uint8), np.full(100, 2, np.uint8)
    with gio.CompletionQueue(backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        if not f.direct:
            pytest.skip("no direct I/O on this disk")
        with fault(queue, "HOLD"):
            operations = [f.write_at(odd, FOLIO + 10)]
            operations += [f.write_at(page, FOLIO + PAGE), f.write_at(page, 2 * FOLIO)]  # near, far
            operations += [f.write_at(odd, FOLIO + 9 * PAGE + 1)]  # does not overtake what waits in front of it
            until(lambda: read(path, 2 * FOLIO, PAGE) == b"\1" * PAGE)
            until(lambda: read(path, FOLIO + 10, 100) == b"\2" * 100)
            assert read(path, FOLIO + PAGE, 9 * PAGE) == bytes(9 * PAGE)
        for operation in operations:
            operation.result()
    assert read(path, FOLIO + PAGE, PAGE) == b"\1" * PAGE
    assert read(path, FOLIO + 9 * PAGE + 1, 100) == b"\2" * 100


@pytest.mark.parametrize("way", ["cancel", "fail"])
def test_what_waits_ends_with_its_operation(disk_dir: Path, queue: gio.CompletionQueue, way: str) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        with fault(queue, "HOLD" if way == "cancel" else "FAIL", count=1, value=errno.EIO):
            operation = f.write_at(placed(words(0, 20 * MIB + 7)), 0)
            if way == "cancel":
                operation.cancel()
            else:
                assert isinstance(operation.exception(), OSError)
        if way == "cancel":
            with pytest.raises(gio.CancelledError):
                operation.result()
        assert f.write_at(words(0, PAGE + 3), 0).result() == PAGE + 3  # and nobody waits for what has gone
    assert queue.stats()["finished"] == 2


# --- writes that go on later than they began ---


def ended(*operations: gio.Operation) -> list[int | BaseException]:
    """What became of them. Those that wait for ever are cancelled, so that the test fails and ends."""
    try:
        return [operation.exception(FOREVER) or operation.result() for operation in operations]
    except TimeoutError:
        for operation in operations:
            operation.cancel()
        raise


@pytest.mark.parametrize("again", ["short", "error"])
def test_what_goes_on_later_is_waited_for_no_longer(fuse: Callable[..., Fuse], again: str) -> None:
    """The first write ends with a ragged rest, which waits for the second one, under way near it. That one comes back
    and has to go on, and now it waits for the first."""
    server = fuse(direct_io=True)
    path, data = server.path / "file", words(0, 5 * PAGE)
    path.write_bytes(bytes(5 * PAGE))
    shortly: dict[str, Any] = {"short": PAGE} if again == "short" else {"error": errno.EIO}
    with (
        gio.CompletionQueue(backend="threads") as queue,
        gio.open(path, "r+", queue=queue, direct=True, durable=again == "error") as f,
    ):
        with fault(queue, "HOLD", count=2):
            server.faults(write={"short": 1000, "count": 1})
            before = server.counts()["write"]
            first = f.write_at(placed(data[: 2 * PAGE]), 0)
            until(lambda: server.counts()["write"] == before + 1)
            server.faults(write={**shortly, "count": 2})
            second = f.write_at(placed(data[2 * PAGE :]), 2 * PAGE)
            until(lambda: server.counts()["write"] == before + 2)
        assert ended(first, second) == [2 * PAGE, 3 * PAGE]
    assert_same_bytes(path.read_bytes(), data)


def test_what_was_copied_while_the_write_failed_does_not_begin(fuse: Callable[..., Fuse]) -> None:
    source, server = fuse(), fuse()
    (source.path / "memory").write_bytes(words(2 * MIB, 2 * MIB).tobytes())
    memory = np.memmap(source.path / "memory", np.uint8, "r")
    path = server.path / "file"
    with gio.CompletionQueue(backend="threads") as queue, gio.open(path, "w", queue=queue) as f:
        source.faults(read={"hold": True})
        server.faults(write={"error": errno.ENOSPC, "count": 1})
        with fault(queue, "HOLD", count=1):
            submitted: list[gio.Operation] = []
            parts = [words(0, 2 * MIB), memory]  # one staging buffer each
            submitter = threading.Thread(target=lambda: submitted.append(f.write_gather(parts, 0, copy=True)))
            submitter.start()
            until(lambda: source.held() > 0 and server.counts().get("write") == 1)
        source.faults()  # the first part has failed, and the second one is copied
        submitter.join()
        (failure,) = ended(*submitted)
        assert isinstance(failure, OSError)
        assert failure.errno == errno.ENOSPC
        assert path.stat().st_size == 0
    del memory


# --- errors of others ---

DURABLE = """
    import sys, gatherio as gio
    from oracle import words, placed
    path, durable, nbytes = sys.argv[1], sys.argv[2] == "durable", int(sys.argv[3])
    with gio.CompletionQueue(1, backend="threads", request_size=16384) as q:
        with gio.open(path, "r+", queue=q, durable=durable) as f:
            try:
                print(f.write_at(placed(words(0, nbytes)), 0).result())
            except OSError as failure:
                print("OSError", failure.errno, failure.bytes_in_place)
"""


@pytest.mark.parametrize("nbytes", [100, MIB + 100])
@pytest.mark.parametrize(
    ("durable", "call"), [("no", "sync_file_range"), ("durable", "pwritev2")], ids=["write-back", "durable"]
)
def test_an_error_that_another_write_left_is_not_told(
    disk_dir: Path, tmp_path: Path, durable: str, call: str, nbytes: int
) -> None:
    """The kernel tells it to each descriptor, once: when it is asked for stable storage."""
    path = disk_dir / "file"
    path.touch()
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=1")
    assert run_python(DURABLE, path, durable, nbytes, under=prefix) == f"{nbytes}\n"
    assert "(INJECTED)" in (tmp_path / "log").read_text()
    assert_same_bytes(path.read_bytes(), words(0, nbytes))


@pytest.mark.parametrize(
    ("durable", "call"), [("no", "sync_file_range"), ("durable", "pwritev2")], ids=["write-back", "durable"]
)
def test_an_error_that_stays_is_told(disk_dir: Path, tmp_path: Path, durable: str, call: str) -> None:
    path = disk_dir / "file"
    path.touch()
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO")
    assert run_python(DURABLE, path, durable, 100, under=prefix) == f"OSError {errno.EIO} 0\n"
    assert (tmp_path / "log").read_text().count("(INJECTED)") == 3


@pytest.mark.parametrize("durable", [False, True])
def test_bytes_that_were_lost_are_not_told_as_written(fuse: Callable[..., Fuse], durable: bool) -> None:
    """Of several that ask for stable storage together, the kernel tells one that there was an error: any."""
    server = fuse(writeback=True)
    path = server.path / "file"
    path.write_bytes(bytes(32 * PAGE))
    with (
        gio.CompletionQueue(backend="threads") as queue,
        gio.open(path, "r+", queue=queue, direct=True, durable=durable) as f,
    ):
        for i in range(40):
            data = words(0, 100, salt=i + 1)
            server.faults(write={"error": errno.EIO, "count": 1})
            offsets = [j * 8 * PAGE + 10 for j in range(4)]
            assert ended(*[f.write_at(data, offset) for offset in offsets]) == [100] * 4
            stored = server.content("file")
            assert [stored[offset : offset + 100] for offset in offsets] == [data.tobytes()] * 4


# --- ragged ends go to the disk together ---


def test_small_appends_in_flight_share_a_write_back(disk_dir: Path, tmp_path: Path) -> None:
    script = """
        import pathlib, sys, gatherio as gio
        from oracle import fault, words
        with gio.CompletionQueue(backend="threads") as q, gio.open(sys.argv[1], "w", queue=q) as f:
            data = words(0, 3200)
            with fault(q, "HOLD"):
                ops = [f.write_at(data[i : i + 100], i) for i in range(0, 3200, 100)]
                while pathlib.Path(sys.argv[1]).read_bytes() != data.tobytes():
                    pass
            print(sum(op.result() for op in ops))
    """
    prefix = strace(tmp_path / "log", "-e", "trace=sync_file_range")
    assert run_python(script, disk_dir / "file", under=prefix) == "3200\n"
    # One for the first, and one for all that were written meanwhile. Some may have come back later than the rest.
    assert 2 <= (tmp_path / "log").read_text().count("sync_file_range(") <= 16
    assert_same_bytes((disk_dir / "file").read_bytes()[:3200], words(0, 3200))


# --- blocks and folios larger than a page, with others beside ---

NEIGHBOURS = """
    import os, random, sys
    path, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    fd = os.open(path, os.O_RDWR)
    print("ready", flush=True)
    i = 0
    while not os.path.exists(path + ".done"):
        i += 1
        if i % 50 == 0:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        at = random.randrange(0, last, 65536)
        os.pread(fd, 65536, at)
        if i % 3 == 0:  # bytes of its own, in the same folios
            os.pwrite(fd, b"\\xee" * 50, random.randrange(first, last - 50))
"""


@needs_root("loop devices")
@pytest.mark.parametrize("system", ["xfs", "xfs16k", "xfs64k", "ext4", "btrfs"])
def test_healthy_writes_beside_a_buffered_reader_and_writer(request: pytest.FixtureRequest, system: str) -> None:
    folder: Path = request.getfixturevalue(f"{system}_dir")
    path = folder / "file"
    ours, theirs = 2 * MIB, 2 * MIB + 512 * KIB  # the neighbour writes behind us, within the reach of a folio
    path.write_bytes(bytes(theirs))
    neighbour = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(NEIGHBOURS), str(path), str(ours), str(theirs)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert neighbour.stdout and neighbour.stdout.readline() == "ready\n"
    expected, random = np.zeros(ours, np.uint8), np.random.default_rng(1)
    try:
        with gio.open(path, "r+") as f:
            for i in range(300):
                operations = []
                edges = np.unique(random.integers(0, ours, 7))
                for begin, end in zip(edges[:-1], edges[1:], strict=True):
                    begin -= begin % PAGE * int(random.integers(0, 2))
                    end = min(int(end), int(begin) + 70_000)
                    data = gio.full(end - int(begin), i % 251 + 1, np.uint8)
                    operations.append(f.write_at(data, int(begin)))
                    expected[begin:end] = data
                for operation in operations:
                    operation.result()
                if i % 10 == 0:
                    back = gio.empty(ours, np.uint8)
                    assert f.read_at(back, 0).result() == ours
                    assert_same_bytes(back, expected)
    finally:
        Path(f"{path}.done").touch()
        neighbour.communicate(timeout=60)
    assert_same_bytes(path.read_bytes()[:ours], expected)
