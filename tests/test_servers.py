"""Files that a server keeps: short transfers and full disks, through the page cache and past it, on every backend.

The server is our own (fuse.py). What it has is compared with what it was sent: a transfer ends in exactly the bytes
asked for, or in an OSError with the server's errno and the count of the bytes that are there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuse import MAX_TRANSFER, Fuse
from oracle import (
    FOREVER,
    KIB,
    MIB,
    PAGE,
    Array,
    assert_same_bytes,
    not_on_windows,
    pages,
    placed,
    target,
    words,
)
from this_process import thread_ids

import gatherio as gio
from gatherio._native import ffi, lib

pytestmark = not_on_windows("it has no /dev/fuse")

Mount = Callable[..., Fuse]
Opener = Callable[..., gio.File]

SIZE = 1_200_007  # ten requests of the kernel, and no whole number of anything
SHORT = [777, PAGE, 5000, 65_537]
PAST_THE_CACHE: dict[str, dict[str, Any]] = {
    "direct_io": {"direct_io": True},
    "direct_io-refused": {"direct_io": True, "refuse_o_direct": True},
}
WAYS: dict[str, dict[str, Any]] = {"plain": {}, "refused": {"refuse_o_direct": True}, **PAST_THE_CACHE}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How the server opens files: with a page cache, without, and both without O_DIRECT."""
    return WAYS[request.param]


@pytest.fixture(params=PAST_THE_CACHE)
def past_the_cache(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where a read may be short: through the page cache a short answer says that the file ends there."""
    return WAYS[request.param]


@pytest.fixture
def opened(queue: gio.CompletionQueue) -> Iterator[Opener]:
    """`gio.open` in the queue of this run; what is open is closed in the end."""
    files: list[gio.File] = []

    def open_file(path: Path, mode: str = "r", **options: Any) -> gio.File:
        files.append(gio.open(path, mode, queue=queue, **options))
        return files[-1]

    yield open_file
    for file in files:
        file.close()


def whole(server: Fuse, name: str = "file") -> bytes:
    """The file, which the server and a reader through the kernel agree about."""
    content = (server.path / name).read_bytes()
    assert_same_bytes(server.content(name), content)
    return content


def odd_arrays(nbytes: int) -> list[Array]:
    """The first `nbytes` of the words of a file, in arrays of many lengths that begin anywhere."""
    lengths, arrays, start = [PAGE, 1, 8191, 3 * PAGE, 100_000, 7, 2 * PAGE], [], 0
    while start < nbytes:
        length = min(lengths[len(arrays) % len(lengths)], nbytes - start)
        arrays.append(placed(words(start, length), 0 if length % PAGE == 0 else len(arrays)))
        start += length
    return arrays


def odd_targets(nbytes: int) -> list[Array]:
    return [target(array.size, i % 9) for i, array in enumerate(odd_arrays(nbytes))]


def written_at(f: gio.File, nbytes: int) -> gio.Operation:
    return f.write_at(placed(words(0, nbytes)), 0)


def written_at_from_odd_memory(f: gio.File, nbytes: int) -> gio.Operation:
    return f.write_at(placed(words(0, nbytes), 3), 0)


def gathered(f: gio.File, nbytes: int) -> gio.Operation:
    return f.write_gather(odd_arrays(nbytes), 0, copy=None)


def gathered_pages(f: gio.File, nbytes: int) -> gio.Operation:
    """As many whole pages as there are: these go without a copy."""
    return f.write_gather(pages(-(-nbytes // PAGE)), 0)


def written_as_many(f: gio.File, nbytes: int) -> gio.Operation:
    arrays = odd_arrays(nbytes)
    return f.write_many(arrays, np.cumsum([0, *(array.size for array in arrays[:-1])]))


Write = Callable[[gio.File, int], gio.Operation]
WRITES: list[Write] = [written_at, written_at_from_odd_memory, gathered, gathered_pages, written_as_many]
each_write = pytest.mark.parametrize("write", WRITES)


# --- full servers ---


def refused(operation: gio.Operation, number: int) -> int:
    """It fails with this errno; how many bytes it says are in place."""
    failure = operation.exception(FOREVER)
    assert isinstance(failure, OSError), f"told {operation.result(0)}"
    assert failure.errno == number, failure
    in_place: int = failure.bytes_in_place  # type: ignore[attr-defined]
    return in_place


@each_write
@pytest.mark.parametrize("room", [0, 1_000_000])
def test_full_server(fuse: Mount, way: dict[str, Any], opened: Opener, write: Write, room: int) -> None:
    """It takes what fits, as write(2) does on a full disk; in the end just that is there, and said to be."""
    server = fuse(room=room, partial=True, **way)
    in_place = refused(write(opened(server.path / "file", "w"), SIZE), errno.ENOSPC)
    assert_same_bytes(whole(server), words(0, room))
    assert in_place == room


def test_full_server_at_every_edge(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    for room in (1, PAGE - 1, PAGE, PAGE + 1, 5000, MAX_TRANSFER - 1, MAX_TRANSFER, 244 * PAGE, SIZE - 1):
        server = fuse(room=room, partial=True, **way)
        assert refused(written_at(opened(server.path / "file", "w"), SIZE), errno.ENOSPC) == room
        assert_same_bytes(whole(server), words(0, room))


@pytest.mark.parametrize("write", [written_at, gathered, written_as_many])
def test_full_server_that_takes_all_or_nothing(fuse: Mount, way: dict[str, Any], opened: Opener, write: Write) -> None:
    server = fuse(room=1_000_000, **way)
    in_place = refused(write(opened(server.path / "file", "w"), SIZE), errno.ENOSPC)
    content = whole(server)
    assert_same_bytes(content, words(0, len(content)))
    assert in_place == len(content)


@pytest.mark.parametrize(
    "start, room", [(1, 1_000_000), (12_345, 244 * PAGE), (3 * PAGE, 1_000_007), (299_999, 300_001)]
)
def test_full_server_behind_what_is_there(
    fuse: Mount, way: dict[str, Any], opened: Opener, start: int, room: int
) -> None:
    """The write begins in the middle of a file, which it lengthens."""
    server = fuse(room=room, partial=True, **way)
    (server.path / "file").write_bytes(words(0, 300_000, salt=1))
    in_place = refused(opened(server.path / "file", "r+").write_at(placed(words(start, SIZE)), start), errno.ENOSPC)
    assert in_place == room - start
    assert_same_bytes(whole(server), np.concatenate([words(0, start, salt=1), words(start, room - start)]))


def test_full_server_in_a_hole(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(room=1_000_000, partial=True, **way)
    start = 700_001
    in_place = refused(opened(server.path / "file", "w").write_at(placed(words(start, SIZE)), start), errno.ENOSPC)
    assert in_place == 1_000_000 - start
    assert_same_bytes(whole(server), np.concatenate([np.zeros(start, "u1"), words(start, in_place)]))


@pytest.mark.parametrize("depth", [1, 8])
def test_full_server_with_many_requests(fuse: Mount, way: dict[str, Any], backend: str, depth: int) -> None:
    """Whichever of them fails first, what is said to be in place is."""
    server = fuse(room=1_000_001, partial=True, **way)
    with (
        gio.CompletionQueue(depth, backend=backend, request_size=64 * KIB) as queue,
        gio.open(server.path / "file", "w", queue=queue) as f,
    ):
        in_place = refused(written_at(f, SIZE), errno.ENOSPC)
    content = whole(server)
    assert len(content) <= 1_000_001
    assert_same_bytes(content[:in_place], words(0, in_place))
    if depth == 1:
        assert in_place == len(content) == 1_000_001


def test_full_server_has_room_again(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(room=SIZE, partial=True, **way)
    (server.path / "other").write_bytes(bytes(300_000))
    f = opened(server.path / "file", "w")
    in_place = refused(written_at(f, SIZE), errno.ENOSPC)
    (server.path / "other").unlink()
    rest = f.write_at(placed(words(in_place, SIZE - in_place)), in_place)
    assert rest.result() == SIZE - in_place
    assert_same_bytes(whole(server), words(0, SIZE))


@pytest.mark.parametrize(
    "write, number",
    [(written_at, number) for number in (errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ENOSPC)]
    + [(write, errno.EDQUOT) for write in WRITES[1:]],
)
def test_errors_of_a_server_are_told(
    fuse: Mount, way: dict[str, Any], opened: Opener, write: Write, number: int
) -> None:
    """From some request on, all of them fail."""
    server = fuse(**way)
    for healthy in (0, 1, 3):
        server.faults()
        f = opened(server.path / f"file {healthy}", "w")
        server.faults(write={"error": number, "after": healthy})
        in_place = refused(write(f, SIZE), number)
        content = whole(server, f"file {healthy}")
        # Which of many arrays the healthy requests were for is nobody's promise.
        assert in_place == len(content) or write is written_as_many and in_place < len(content)
        assert_same_bytes(content[:in_place], words(0, in_place))


def test_errors_of_reads_are_told(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(**way)
    (server.path / "file").write_bytes(words(0, SIZE))
    for number in (errno.EIO, errno.ESTALE, errno.EACCES):
        server.faults()
        f, array = opened(server.path / "file"), target(SIZE)
        server.faults(read={"error": number, "after": 2})
        in_place = refused(f.read_at(array, 0), number)
        assert_same_bytes(array[:in_place], words(0, in_place))


def test_save_on_a_full_server(fuse: Mount, way: dict[str, Any]) -> None:
    """The server doesn't say how much room it has: the middle of the file is where it shows."""
    server = fuse(room=1_000_000, partial=True, statfs="no_blocks", no_fallocate=errno.EOPNOTSUPP, **way)
    path = server.path / "file.npy"
    gio.save(path, np.arange(1000))
    with pytest.raises(OSError) as caught:
        gio.save(path, words(0, SIZE))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(server.path) == ["file.npy"]
    assert (np.load(path) == np.arange(1000)).all()


# --- short transfers ---


@each_write
def test_short_writes(fuse: Mount, way: dict[str, Any], opened: Opener, write: Write) -> None:
    server = fuse(**way)
    nbytes = -(-SIZE // PAGE) * PAGE if write is gathered_pages else SIZE
    for short in SHORT:
        f = opened(server.path / f"file {short}", "w")
        server.faults(write={"short": short})
        assert write(f, SIZE).result() == nbytes
        assert_same_bytes(whole(server, f"file {short}"), words(0, nbytes))


def test_short_writes_in_the_middle(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(**way)
    expected = words(0, SIZE, salt=1).copy()
    expected[5001:505_001] = words(5001, 500_000)
    for short in SHORT:
        server.faults()
        (server.path / "file").write_bytes(words(0, SIZE, salt=1))
        f = opened(server.path / "file", "r+")
        server.faults(write={"short": short})
        assert f.write_at(placed(words(5001, 500_000), 1), 5001).result() == 500_000
        assert_same_bytes(whole(server), expected)


def test_now_and_then_a_short_write(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(**way)
    for after in (0, 1, 5):
        f = opened(server.path / f"file {after}", "w")
        server.faults(write={"short": 1, "after": after, "count": 1})
        assert written_at(f, SIZE).result() == SIZE
        assert_same_bytes(whole(server, f"file {after}"), words(0, SIZE))


def read_at(f: gio.File, nbytes: int) -> tuple[int, Array]:
    array = target(nbytes)
    return f.read_at(array, 0).result(), array


def read_at_into_odd_memory(f: gio.File, nbytes: int) -> tuple[int, Array]:
    array = target(nbytes, 5)
    return f.read_at(array, 0).result(), array


def scattered(f: gio.File, nbytes: int) -> tuple[int, Array]:
    arrays = odd_targets(nbytes)
    return f.read_scatter(arrays, 0, copy=None).result(), np.concatenate(arrays)


def read_as_many(f: gio.File, nbytes: int) -> tuple[int, Array]:
    arrays = odd_targets(nbytes)
    offsets = np.cumsum([0, *(array.size for array in arrays[:-1])])
    return f.read_many(arrays, offsets).result(), np.concatenate(arrays)


Read = Callable[[gio.File, int], tuple[int, Array]]
READS: list[Read] = [read_at, read_at_into_odd_memory, scattered, read_as_many]
each_read = pytest.mark.parametrize("read", READS)


@each_read
def test_short_reads(fuse: Mount, past_the_cache: dict[str, Any], opened: Opener, read: Read) -> None:
    server = fuse(**past_the_cache)
    (server.path / "file").write_bytes(words(0, SIZE))
    for short in SHORT:
        server.faults(read={"short": short})
        count, found = read(opened(server.path / "file"), SIZE)
        assert count == SIZE
        assert_same_bytes(found, words(0, SIZE))


def test_reads_of_a_byte_at_a_time(fuse: Mount, past_the_cache: dict[str, Any], opened: Opener) -> None:
    server = fuse(**past_the_cache)
    (server.path / "file").write_bytes(words(0, PAGE + 7))
    server.faults(read={"short": 1})
    for read in READS:
        count, found = read(opened(server.path / "file"), PAGE + 7)
        assert count == PAGE + 7
        assert_same_bytes(found, words(0, PAGE + 7))


def test_short_reads_of_whole_pages(fuse: Mount, past_the_cache: dict[str, Any], opened: Opener) -> None:
    server = fuse(**past_the_cache)
    (server.path / "file").write_bytes(words(0, 40 * PAGE))
    for short in SHORT:
        server.faults(read={"short": short})
        memory = gio.full((80, PAGE), 0xDD, "u1")
        assert opened(server.path / "file").read_scatter(list(memory[::2]), 0).result() == 40 * PAGE
        assert_same_bytes(memory[::2], words(0, 40 * PAGE))
        assert (memory[1::2] == 0xDD).all()


@each_read
def test_short_reads_of_a_file_that_ends(
    fuse: Mount, past_the_cache: dict[str, Any], opened: Opener, read: Read
) -> None:
    """An end is told as an end, wherever a short answer leaves off."""
    server = fuse(**past_the_cache)
    for length in (0, 1, 776, 777, 778, PAGE - 1, PAGE, PAGE + 1, 2 * 5000, 700_003):
        server.faults()
        (server.path / "file").write_bytes(words(0, length))
        for short in (777, 5000):
            server.faults(read={"short": short})
            count, found = read(opened(server.path / "file"), SIZE)
            assert count == length
            assert_same_bytes(found[:length], words(0, length))


def test_reads_around_the_end(fuse: Mount, way: dict[str, Any], opened: Opener) -> None:
    server = fuse(**way)
    for length in (0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE - 1, 3 * PAGE, MAX_TRANSFER + 1):
        (server.path / "file").write_bytes(words(0, length))
        f = opened(server.path / "file")
        for start in {0, max(0, length - 1), length, length + 1, length + PAGE, length + MIB}:
            for nbytes in (0, 1, PAGE - 1, PAGE, PAGE + 1, MAX_TRANSFER + PAGE):
                array, there = target(nbytes), max(0, min(nbytes, length - start))
                assert f.read_at(array, start).result() == there
                assert_same_bytes(array[:there], words(start, there))


@pytest.mark.parametrize("short", [777, 50_001])
def test_many_requests_that_are_short(fuse: Mount, past_the_cache: dict[str, Any], backend: str, short: int) -> None:
    """Each goes on from where it was left; a file's end is told wherever it lies in them."""
    server = fuse(**past_the_cache)
    server.faults(read={"short": short}, write={"short": short})
    with (
        gio.CompletionQueue(8, backend=backend, request_size=64 * KIB) as queue,
        gio.open(server.path / "file", "w+", queue=queue) as f,
    ):
        assert written_at(f, SIZE).result() == SIZE
        assert_same_bytes(whole(server), words(0, SIZE))
        for read in READS:
            count, found = read(f, SIZE + 300_000)
            assert count == SIZE
            assert_same_bytes(found[:SIZE], words(0, SIZE))
        array = target(SIZE)
        assert f.read_at(array, 500_001).result() == SIZE - 500_001
        assert_same_bytes(array[: SIZE - 500_001], words(500_001, SIZE - 500_001))


@pytest.mark.parametrize("options", [{"durable": True}, {"direct": False}], ids=["durable", "buffered"])
def test_files_opened_in_other_ways(fuse: Mount, way: dict[str, Any], opened: Opener, options: dict[str, Any]) -> None:
    server = fuse(room=SIZE, partial=True, **way)
    f = opened(server.path / "file", "w+", **options)
    server.faults(write={"short": 5000})
    assert written_at(f, SIZE).result() == SIZE
    assert_same_bytes(whole(server), words(0, SIZE))
    assert refused(f.write_at(placed(words(PAGE, SIZE)), PAGE), errno.ENOSPC) == SIZE - PAGE
    assert_same_bytes(whole(server), words(0, SIZE))


def test_registered_memory(fuse: Mount, way: dict[str, Any]) -> None:
    """Memory that io_uring knows, for a file that it has nothing to do with."""
    server, memory = fuse(**way), placed(words(0, MIB))
    with (
        gio.CompletionQueue(backend="uring") as queue,
        gio.open(server.path / "file", "w+", queue=queue) as f,
        queue.register(memory),
    ):
        server.faults(write={"short": 5000})
        assert f.write_at(memory, 0).result() == MIB
        assert_same_bytes(whole(server), words(0, MIB))
        memory[:] = 0xDD
        assert f.read_at(memory, 0).result() == MIB
    assert_same_bytes(memory, words(0, MIB))


@pytest.mark.parametrize("short", [777, 65_537])
def test_load_and_save_by_short_transfers(fuse: Mount, past_the_cache: dict[str, Any], short: int) -> None:
    server = fuse(**past_the_cache)
    array = words(0, SIZE - SIZE % 8).view("<u8")
    path = server.path / "file.npy"
    server.faults(read={"short": short}, write={"short": short})
    gio.save(path, array)
    assert_same_bytes(gio.load(path), array)
    assert_same_bytes(gio.load(path, out=np.empty_like(array)), array)
    strided = array[: array.size // 2 * 2].reshape(2, -1)[:, ::2]
    gio.save(path, strided)
    assert_same_bytes(gio.load(path), np.ascontiguousarray(strided))
    server.faults()
    assert_same_bytes(np.load(path), np.ascontiguousarray(strided))


def test_load_of_a_file_that_ends_too_early(fuse: Mount, past_the_cache: dict[str, Any]) -> None:
    server = fuse(**past_the_cache)
    path = server.path / "file.npy"
    np.save(path, words(0, SIZE))
    os.truncate(path, SIZE - 5000)
    server.faults(read={"short": 777})
    with pytest.raises(ValueError, match=r"file\.npy"):
        gio.load(path)


# --- who carries them out ---


def test_files_of_servers_go_through_threads(fuse: Mount, disk_dir: Path, way: dict[str, Any], opened: Opener) -> None:
    """io_uring moves other bytes than it says when a server answers short. Only these files are in question."""
    f = opened(fuse(**way).path / "file", "w+")
    on_disk = opened(disk_dir / "file", "w+")
    queue = on_disk._queue
    assert on_disk.backend == queue.backend
    if queue.backend == "uring":
        assert f.backend == "threads" and "FUSE" in f.reason
        assert "FUSE" not in on_disk.reason and "FUSE" not in queue.reason
    else:
        assert f.backend == queue.backend


@pytest.fixture
def server(fuse: Mount) -> Fuse:
    """For what the ways of opening don't change."""
    return fuse(direct_io=True)


@pytest.fixture(params=["uring", "threads"])
def both(request: pytest.FixtureRequest, server: Fuse, disk_dir: Path) -> Iterator[tuple[gio.File, gio.File]]:
    """A file of the server and one on a disk, in a queue whose operations go on by themselves."""
    with (
        gio.CompletionQueue(backend=request.param) as queue,
        gio.open(server.path / "file", "w+", queue=queue) as f,
        gio.open(disk_dir / "file", "w+", queue=queue) as on_disk,
    ):
        try:
            yield f, on_disk
        finally:
            server.faults()  # a file with an operation that is held would not be closed


def wait_until_held(server: Fuse, count: int = 1) -> None:
    while server.held() < count:  # each time the server is asked
        pass


def test_a_held_operation_keeps_no_other_waiting(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    f, on_disk = both
    server.faults(write={"hold": True})
    late = f.write_at(placed(words(0, PAGE)), 0)
    wait_until_held(server)
    assert on_disk.write_at(placed(words(0, SIZE)), 0).result(FOREVER) == SIZE
    assert not late.done()
    with pytest.raises(gio.TimeoutError):
        late.result(0)
    server.faults()
    assert late.result(FOREVER) == PAGE
    assert_same_bytes(server.content("file"), words(0, PAGE))


def test_what_waits_behind_a_held_operation_is_cancelled(server: Fuse) -> None:
    with gio.CompletionQueue(1, backend="uring") as queue, gio.open(server.path / "file", "w", queue=queue) as f:
        server.faults(write={"hold": True})
        first = f.write_at(placed(words(0, PAGE)), 0)
        wait_until_held(server)
        second = f.write_at(placed(words(PAGE, PAGE)), PAGE)
        assert second.cancel()
        assert second.cancelled()
        server.faults()
        assert first.result(FOREVER) == PAGE
    assert_same_bytes(server.content("file"), words(0, PAGE))


def test_a_file_opened_as_its_queue_is_closed(server: Fuse) -> None:
    """By two threads at once: no thread of the queue is left, of those that such a file needs."""
    before = thread_ids()
    queue = gio.CompletionQueue(backend="uring")
    queue.close()
    place, facts = ffi.new("gio_file **"), ffi.new("gio_file_facts *")
    path = ffi.from_buffer(bytes(server.path / "file") + b"\0")
    wish = (lib.GIO_ACCESS_WRITE, lib.GIO_OPEN_NEW, lib.GIO_DIRECT_AUTO, 0)
    assert lib.gio_file_open(queue._native, path, *wish, place, facts) == lib.GIO_E_CLOSED
    assert thread_ids() <= before


def test_cancelling_one_that_is_held(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    f, _ = both
    server.faults(write={"hold": True})
    operation = f.write_at(placed(words(0, PAGE)), 0)
    wait_until_held(server)
    operation.cancel()
    server.faults()
    try:
        assert operation.result(FOREVER) == PAGE
    except gio.CancelledError:
        assert operation.cancelled()


def test_mixed_operations_are_handed_out(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    server.faults(write={"short": 5000})
    expected = {f.write_at(placed(words(i * MIB, MIB)), i * MIB) for f in both for i in range(5)}
    found: list[gio.Operation] = []
    while len(found) < len(expected):
        found += both[0]._queue.get(FOREVER)
    assert set(found) == expected
    assert all(operation.result(0) == MIB for operation in found)
    for f in both:
        array = target(5 * MIB)
        assert f.read_at(array, 0).result() == 5 * MIB
        assert_same_bytes(array, words(0, 5 * MIB))


def test_callbacks(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    f, on_disk = both
    server.faults(write={"hold": True})
    called: list[gio.Operation] = []
    all_called = threading.Barrier(3)
    operations = [each.write_at(placed(words(0, PAGE)), 0) for each in (f, on_disk)]
    for operation in operations:
        operation.add_done_callback(called.append)
    for operation in operations:
        threading.Thread(target=lambda each: (each.result(FOREVER), all_called.wait(FOREVER)), args=[operation]).start()
    wait_until_held(server)
    server.faults()
    all_called.wait(FOREVER)
    assert gio.wait(operations, FOREVER).done == set(operations)
    assert sorted(map(id, called)) == sorted(map(id, operations))


def test_asyncio(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    f, on_disk = both

    async def main() -> list[int]:
        server.faults(write={"hold": True})
        late = asyncio.ensure_future(wait_for(f.write_at(placed(words(0, SIZE)), 0)))
        assert await on_disk.write_at(placed(words(0, PAGE)), 0) == PAGE
        assert not late.done()
        server.faults(write={"short": 5000})
        return [await late, await f.read_at(target(SIZE), 0), await on_disk.read_at(target(SIZE), 0)]

    async def wait_for(operation: gio.Operation) -> int:
        return await operation

    assert asyncio.run(main()) == [SIZE, SIZE, PAGE]


def test_batches(server: Fuse, both: tuple[gio.File, gio.File]) -> None:
    with both[0]._queue.batch():
        operations = [f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(50) for f in both]
    assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 100
    assert_same_bytes(server.content("file"), words(0, 50 * PAGE))


@pytest.mark.parametrize("closes", ["file", "queue"])
def test_closing_with_operations_in_flight(server: Fuse, both: tuple[gio.File, gio.File], closes: str) -> None:
    """It waits for them."""
    f, on_disk = both
    server.faults(write={"hold": True})
    operations = [each.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(20) for each in both]
    wait_until_held(server)
    closing = threading.Thread(target=f.close if closes == "file" else f._queue.close)
    closing.start()
    assert not operations[0].done() and closing.is_alive()
    server.faults()
    closing.join(FOREVER)
    assert not closing.is_alive()
    assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 40
    assert_same_bytes(server.content("file"), words(0, 20 * PAGE))


def test_many_files_of_one_server(server: Fuse, backend: str) -> None:
    """More operations than requests, and more files than threads."""
    with gio.CompletionQueue(4, backend=backend) as queue:
        files = [gio.open(server.path / f"file {i}", "w", queue=queue) for i in range(30)]
        server.faults(write={"short": 50_001})
        for operation in [f.write_at(placed(words(0, 100_001 + i)), 0) for i, f in enumerate(files)]:
            operation.result(FOREVER)
        for f in files:
            f.close()
    for i in range(30):
        assert_same_bytes(server.content(f"file {i}"), words(0, 100_001 + i))
