"""Flush, reserve and truncate as operations: in which order they begin, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import queue as queues
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracle import (
    FOREVER,
    MIB,
    ON_WINDOWS,
    PAGE,
    Array,
    assert_same_bytes,
    fault,
    not_on_windows,
    placed,
    run_python,
    shim,
    strace,
    target,
    words,
)

import gatherio as gio
from gatherio._core.engine import PENDING

Opener = Callable[..., gio.File]
Submit = Callable[[gio.File], gio.Operation]
N = 16 * PAGE

CALLS: dict[str, Submit] = {
    "flush": lambda f: f.flush_async(),
    "reserve": lambda f: f.preallocate_async(MIB),
    "truncate": lambda f: f.truncate_async(PAGE),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
in_line = pytest.mark.parametrize("call", [CALLS["flush"], CALLS["truncate"]], ids=["flush", "truncate"])


def block(offset: int, nbytes: int = N, salt: int = 0) -> Array:
    return placed(words(offset, nbytes, salt))


@pytest.fixture
def f(folder: Path, open_file: Opener) -> Iterator[gio.File]:
    with open_file(folder / "file", "w+") as made:
        yield made


@contextlib.contextmanager
def held_write(f: gio.File) -> Iterator[tuple[gio.Operation, Callable[[], None]]]:
    """A write of the first N bytes that has not finished, and what lets it finish."""
    while True:
        with fault(f._queue, "HOLD", count=1) as release:
            first, probe = f.write_at(block(0), 0), f.read_at(target(PAGE), 1 << 30)
            if probe in gio.wait([first, probe], return_when=gio.FIRST_COMPLETED).done:  # else that one is held
                yield first, release
                return


def content(f: gio.File) -> bytes:
    return Path(f.name).read_bytes()  # type: ignore[arg-type]


# --- what they do ---


def test_what_they_do(f: gio.File) -> None:
    tag = object()
    flush = f.flush_async(tag=tag)
    reserve = f.preallocate_async(MIB, tag="ahead")
    longer = f.truncate_async(5000, tag=3)
    assert [one.result(FOREVER) for one in (flush, reserve, longer)] == [0, 0, 0]
    assert f.size == 5000
    assert (flush.tag, reserve.tag, longer.tag) == (tag, "ahead", 3)
    assert (flush.offset, flush.nbytes) == (0, 0)
    assert (reserve.offset, reserve.nbytes) == (0, MIB)
    assert (longer.offset, longer.nbytes) == (5000, 0)
    for one, text in (
        (flush, "flush"),
        (reserve, f"reserving {MIB} bytes"),
        (longer, "setting the length to 5000 bytes"),
    ):
        assert one.file is f and one.done() and one.exception() is None and not one.cancelled() and not one.cancel()
        assert text in repr(one) and repr(f.name) in repr(one) and "finished" in repr(one)
    assert f.preallocate_async(0).result() == f.preallocate_async(10).result() == 0
    assert f.size == 5000
    assert f.truncate_async(0).result() == 0 and f.size == 0


def test_sync_has_done_it_when_it_is_submitted(folder: Path) -> None:
    with gio.CompletionQueue(backend="sync") as q, gio.open(folder / "file", "w", queue=q) as f:
        assert f.truncate_async(5000).done() and f.size == 5000
        assert f.flush_async().done() and f.preallocate_async(MIB).done()


def test_arguments(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w") as f:
        for call in (f.truncate_async, f.preallocate_async):
            with pytest.raises(ValueError, match="out of range"):
                call(-1)
            with pytest.raises(ValueError, match="out of range"):
                call(2**63)
            with pytest.raises(TypeError):
                call(1.5)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                call(1, "tag")  # type: ignore[call-arg]
    with open_file(folder / "file", "r") as f:
        for call in (f.truncate_async, f.preallocate_async):
            with pytest.raises(PermissionError, match="mode 'r' cannot be written"):
                call(1)
        assert f.flush_async().result() == 0
    for submit in (f.flush_async, lambda: f.truncate_async(1), lambda: f.preallocate_async(1)):
        with pytest.raises(ValueError, match="closed file"):
            submit()


def test_a_closed_queue(folder: Path) -> None:
    q = gio.CompletionQueue()
    f = gio.open(folder / "file", "w", queue=q)
    q.close()
    for call in CALLS.values():
        with pytest.raises(ValueError, match="closed"):
            call(f)
    f.flush()
    f.truncate(10)
    assert f.size == 10
    f.close()


@every_call
def test_they_are_handles(f: gio.File, call: Submit) -> None:
    operation = call(f)
    operation.result(FOREVER)
    with pytest.raises(TypeError):
        copy.copy(operation)


# --- the order ---


def test_a_flush_comes_after_what_was_before_it(f: gio.File) -> None:
    with held_write(f) as (first, release):
        flush = f.flush_async()
        assert f.write_at(block(N), N).result(FOREVER) == N  # is not held up
        assert f.read_at(target(N), N).result(FOREVER) == N
        second = f.flush_async()
        assert not flush.done() and not second.done() and not first.done()
        release()
        assert second.result(FOREVER) == 0
        assert flush.done() and first.done()
    assert_same_bytes(content(f), words(0, 2 * N))


def test_a_flush_of_one_file_does_not_wait_for_another(folder: Path, open_file: Opener, f: gio.File) -> None:
    with held_write(f), open_file(folder / "other", "w") as other:
        assert other.write_at(block(0), 0).result(FOREVER) == N
        assert other.flush_async().result(FOREVER) == 0
        assert other.truncate_async(5).result(FOREVER) == 0


def test_a_reservation_goes_on_beside_writes(f: gio.File) -> None:
    with held_write(f) as (first, release):
        reserve = f.preallocate_async(4 * MIB)
        if not ON_WINDOWS:
            assert reserve.result(FOREVER) == 0 and not first.done()
        after = f.write_at(block(N), N)
        if not ON_WINDOWS:
            assert after.result(FOREVER) == N
        release()
        assert reserve.result(FOREVER) == 0 and first.result(FOREVER) == after.result(FOREVER) == N
    assert f.size == 2 * N
    assert_same_bytes(content(f), words(0, 2 * N))


def test_a_recorder_reserves_ahead(f: gio.File) -> None:
    end, pending = 0, []
    for step in range(40):
        if step % 4 == 0:
            pending.append(f.preallocate_async(end + 8 * N))
        pending.append(f.write_at(block(end), end))
        end += N
    assert f.flush_async().result(FOREVER) == 0
    assert all(one.done() for one in pending)
    assert [one.result() for one in pending if one.nbytes == N] == [N] * 40
    assert f.size == end
    assert_same_bytes(content(f), words(0, end))


def test_what_follows_a_truncate_begins_after_it(f: gio.File) -> None:
    with held_write(f) as (first, release):
        cut = f.truncate_async(PAGE)
        array = target(N)
        behind = [
            f.write_at(block(2 * PAGE, PAGE, salt=1), 2 * PAGE),
            f.read_at(array, 0),
            f.flush_async(),
            f.preallocate_async(MIB),
            f.write_gather([block(3 * PAGE, PAGE, salt=1)], 3 * PAGE),
            f.write_many([words(4 * PAGE, 8, salt=1)], [4 * PAGE]),
            f.truncate_async(10 * PAGE),
        ]
        assert not cut.done() and not any(one.done() for one in behind)
        assert f.size == N or f._queue.backend != "sync"
        release()
        gio.wait([first, cut, *behind], FOREVER)
        assert all(one.done() for one in behind)
    assert first.result() == N and cut.result() == 0
    found = content(f)
    assert len(found) == 10 * PAGE
    assert_same_bytes(found[:PAGE], words(0, PAGE))
    assert_same_bytes(found[PAGE : 2 * PAGE], bytes(PAGE))
    assert_same_bytes(found[2 * PAGE : 4 * PAGE + 8], words(2 * PAGE, 2 * PAGE + 8, salt=1))
    assert_same_bytes(found[4 * PAGE + 8 :], bytes(6 * PAGE - 8))
    assert PAGE <= behind[1].result() <= 4 * PAGE + 8
    assert_same_bytes(array[:PAGE], words(0, PAGE))


def test_what_a_cancelled_truncate_held_up(f: gio.File) -> None:
    with held_write(f) as (first, release):
        cuts, writes = [], []
        for i in range(3):
            cuts.append(f.truncate_async(i))
            writes.append(f.write_at(block((i + 1) * N), (i + 1) * N))
        assert cuts[1].cancel() and cuts[1].cancelled()  # ended at once, and nobody has gone in front of the first one
        assert not writes[0].done() and not writes[1].done()
        assert cuts[0].cancel() and cuts[0].cancelled()
        assert writes[0].result(FOREVER) == writes[1].result(FOREVER) == N  # nothing of this is in front of them now
        assert not writes[2].done() and not first.done()
        assert cuts[2].cancel()
        assert writes[2].result(FOREVER) == N
        assert not first.done()
        release()
        assert first.result(FOREVER) == N
    for cut in cuts:
        with pytest.raises(gio.CancelledError, match="cancelled: setting the length to"):
            cut.result()
    assert_same_bytes(content(f), words(0, 4 * N))


def test_what_waits_may_be_cancelled(f: gio.File) -> None:
    with held_write(f) as (first, release):
        cut, write, flush = f.truncate_async(0), f.write_at(block(N), N), f.flush_async()
        for one in (write, flush, cut):
            assert one.cancel() and one.cancelled()  # ended at once
        release()
        assert first.result(FOREVER) == N
    assert f.size == N


@in_line
def test_cancelled_before_it_begins(f: gio.File, call: Submit) -> None:
    with held_write(f) as (first, _):
        operation = call(f)
        assert operation.cancel() and operation.cancelled() and not first.done()
        with pytest.raises(gio.CancelledError, match="cancelled: (flush|setting)"):
            operation.result()
    assert f.size == N
    f.close()  # has nothing to tell


def test_thousands_in_line(f: gio.File) -> None:
    array = block(0, PAGE)
    with held_write(f):
        pending = []
        for i in range(1, 1001):
            pending += [f.write_at(array, i * PAGE), f.flush_async()]
            if i % 10 == 0:
                pending.append(f.truncate_async((i + 1) * PAGE + 1))
        assert not pending[-1].done()
    assert len(gio.wait(pending, FOREVER).done) == len(pending)
    assert f.size == 1001 * PAGE + 1
    f.flush()


def test_the_calls_that_wait_get_in_line(f: gio.File) -> None:
    with held_write(f) as (first, release):
        done: queues.SimpleQueue[str] = queues.SimpleQueue()

        def make(name: str, call: Callable[[], None]) -> threading.Thread:
            thread = threading.Thread(target=lambda: (call(), done.put(name)))
            thread.start()
            while not any(name in repr(one) and one._completion.ticket for one in list(f._engine.inflight.values())):
                assert thread.is_alive()
            return thread

        flush = make("flush", f.flush)
        assert f.write_at(block(N), N).result(FOREVER) == N  # is not waited for, and does not wait
        cut = make("setting the length", lambda: f.truncate(PAGE))
        after = f.write_at(block(2 * PAGE, PAGE), 2 * PAGE)
        assert done.empty() and not after.done()
        release()
        for thread in (flush, cut):
            thread.join()
        assert first.result(FOREVER) == N and after.result(FOREVER) == PAGE
    assert f.size == 3 * PAGE


def test_preallocate_comes_after_a_truncate_in_front_of_it(f: gio.File) -> None:
    with held_write(f) as (_, release):
        cut = f.truncate_async(0)
        threading.Timer(0.05, release).start()
        f.preallocate(MIB)  # else the truncate would free it
        assert cut.done()


# --- told by everybody who tells of operations ---


@every_call
def test_a_queue_hands_them_out(folder: Path, backend: str, call: Submit) -> None:
    with gio.CompletionQueue(backend=backend) as q, gio.open(folder / "file", "w", queue=q) as f:
        operation = call(f)
        assert q.get(FOREVER, 1) == [operation]
        with fault(q, "HOLD", count=1) as release:
            write = f.write_at(block(0), 0)
            threading.Timer(0.05, release).start()
            f.flush()  # in line, and nobody's operation
        assert q.get(0, 2) == [write]
        assert q.get(0, 2) == []


@every_call
def test_waiters_and_callbacks(f: gio.File, call: Submit) -> None:
    told: queues.SimpleQueue[gio.Operation] = queues.SimpleQueue()
    with fault(f._queue, "HOLD", count=1) as release:
        operation = call(f)
        operation.add_done_callback(told.put)
        with pytest.raises(gio.TimeoutError, match="not finished within 0 s: (flush|reserving|setting)"):
            operation.result(0)
        assert gio.wait([operation], 0).not_done == {operation}
        release()
        assert list(gio.as_completed([operation], FOREVER)) == [operation]
    assert told.get(timeout=FOREVER) is operation


@every_call
def test_awaited(f: gio.File, call: Submit) -> None:
    async def main() -> None:
        assert await call(f) == 0
        assert await asyncio.gather(*(_await(call(f)) for _ in range(20))) == [0] * 20
        with fault(f._queue, "HOLD", count=1) as release:
            operation = call(f)
            task = asyncio.create_task(_await(operation))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not operation.done()  # it goes on
            release()
            assert await operation == 0

    async def _await(operation: gio.Operation) -> int:
        return await operation

    asyncio.run(main())


class Interrupted(BaseException):
    pass


@contextlib.contextmanager
def struck() -> Iterator[None]:
    """A signal handler raises in a moment."""

    def strike(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@not_on_windows("no signal interrupts who waits there")
@every_call
def test_an_exception_leaves_it_running(f: gio.File, call: Submit) -> None:
    with fault(f._queue, "HOLD", count=1) as release:
        operation = call(f)
        with struck():
            operation.result()
        assert not operation.done()
        release()
        assert operation.result(FOREVER) == 0


@not_on_windows("no signal interrupts who waits there")
def test_a_truncate_that_is_interrupted_in_line_does_not_happen_later(f: gio.File) -> None:
    with held_write(f) as (first, release):
        with struck():
            f.truncate(0)
        release()
        assert first.result(FOREVER) == N
    f.flush()
    assert f.size == N


# --- failures ---

# Waits for a byte in descriptor 100: 0 is success.
SLOW_FSYNC = """
    #include <errno.h>
    #include <unistd.h>
    int fsync(int fd)
    {
        char byte = 0;
        (void)fd;
        if (read(100, &byte, 1) == 1 && byte == '0')
            return 0;
        errno = EIO;
        return -1;
    }
"""
DOING = {"flush": "flush", "reserve": "reserving", "truncate": "setting the length to"}


@pytest.mark.parametrize("name", CALLS)
def test_a_failure(f: gio.File, name: str) -> None:
    with fault(f._queue, "FAIL", count=1, value=errno.EIO):
        operation = CALLS[name](f)
        with pytest.raises(OSError, match=DOING[name]) as caught:
            operation.result(FOREVER)
    assert caught.value.errno == errno.EIO and caught.value.filename == f.name
    assert "in place" not in str(caught.value)
    assert CALLS[name](f).result(FOREVER) == 0  # told once
    f.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_failure_that_nobody_asked_about(folder: Path, open_file: Opener, name: str) -> None:
    f = open_file(folder / "file", "w")
    with fault(f._queue, "FAIL", count=1, value=errno.EIO):
        CALLS[name](f)
        f._drain()
    if name == "reserve":  # nothing is lost
        f.close()
        return
    with pytest.raises(OSError, match=DOING[name]) as caught:
        f.close()
    assert caught.value.errno == errno.EIO and caught.value.filename == f.name
    f.close()


def test_close_counts_them(f: gio.File) -> None:
    with fault(f._queue, "FAIL", value=errno.EIO):
        f.write_at(block(0), 0)
        f.flush_async()
        f.truncate_async(0)
        with pytest.raises(OSError, match="2 more operations failed unnoticed"):
            f.close()


def test_no_room(small_disk_dir: Path, open_file: Opener) -> None:
    path = small_disk_dir / "file"
    with open_file(path, "w") as f:
        write = f.write_at(block(0), 0)
        with pytest.raises(OSError, match=f"reserving {100 * MIB} bytes") as caught:
            f.preallocate_async(100 * MIB).result(FOREVER)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == path
        assert write.result(FOREVER) == N and f.size == N


def test_locks_of_others(f: gio.File, folder: Path, open_file: Opener) -> None:
    assert f.write_at(block(0), 0).result(FOREVER) == N
    with open_file(folder / "file", "r+") as other, other.lock(PAGE, 10):
        for n in (0, PAGE + 5):
            with pytest.raises(gio.LockedError, match="setting the length") as caught:
                f.truncate_async(n).result(FOREVER)
            assert caught.value.filename == f.name
        assert f.size == N
        assert f.truncate_async(2 * PAGE).result(FOREVER) == 0
    assert f.truncate_async(0).result(FOREVER) == 0 and f.size == 0


def test_a_lock_that_is_taken_before_it_begins_counts(f: gio.File, folder: Path, open_file: Opener) -> None:
    with held_write(f) as (_, release), open_file(folder / "file", "r+") as other:
        cut = f.truncate_async(0)
        with other.lock(0, 10):
            release()
            with pytest.raises(gio.LockedError):
                cut.result(FOREVER)
    assert f.size == N


def test_a_mapped_file_is_not_cut(f: gio.File) -> None:
    f.truncate(N)
    with gio.Mapping(f.name, "r"):
        with pytest.raises(OSError, match="mapped") as caught:
            f.truncate_async(PAGE).result(FOREVER)
        assert caught.value.errno == errno.EBUSY
    assert f.truncate_async(PAGE).result(FOREVER) == 0


@pytest.mark.parametrize("direct", [None, False])
@pytest.mark.parametrize("backend_name", ["uring", "threads", "sync"])
def test_the_system_fails_to_flush(disk_dir: Path, tmp_path: Path, backend_name: str, direct: bool | None) -> None:
    script = """
        import errno, sys, gatherio as gio
        from oracle import words
        path, backend, direct = sys.argv[1:]
        with gio.CompletionQueue(backend=backend) as q:
            f = gio.open(path, "w", queue=q, direct=None if direct == "None" else False)
            f.write_at(words(0, 5000), 0)
            for flush in (lambda: f.flush_async().result(), f.flush, lambda: f.flush_async().result()):
                try:
                    flush()
                except OSError as error:
                    assert error.errno == errno.EIO and error.filename == path, error
                    print("told")
            f.close()
    """
    prefix = strace(tmp_path / "log", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO")
    assert run_python(script, disk_dir / "file", backend_name, direct, under=prefix) == "told\n" * 3


@pytest.mark.parametrize("backend_name", ["uring", "threads"])
def test_a_flush_that_fails_beside_durable_writes(disk_dir: Path, tmp_path: Path, backend_name: str) -> None:
    """It may have been told their error: what is under way on the same descriptor is written again."""
    script = """
        import errno, os, sys, gatherio as gio
        from test_calls import held_write
        begin, end = os.pipe()
        os.dup2(begin, 100)
        with gio.CompletionQueue(backend=sys.argv[2]) as q:
            with gio.open(sys.argv[1], "w+", queue=q, direct=False, durable=True) as f:
                flush = f.flush_async()
                with held_write(f) as (write, _):
                    os.write(end, b"x")
                    assert flush.exception().errno == errno.EIO
                assert write.result() == write.nbytes
                assert q.stats()["retried"] == 1
    """
    path = disk_dir / "file"
    run_python(script, path, backend_name, under=shim(tmp_path, SLOW_FSYNC))
    assert_same_bytes(path.read_bytes(), words(0, N))


@pytest.mark.parametrize("kind", ["always", "sometimes"])
@pytest.mark.parametrize("backend_name", ["uring", "threads", "sync"])
def test_a_reservation_that_is_interrupted(disk_dir: Path, tmp_path: Path, backend_name: str, kind: str) -> None:
    script = """
        import errno, os, sys, gatherio as gio
        with gio.CompletionQueue(backend=sys.argv[2]) as q, gio.open(sys.argv[1], "w", queue=q) as f:
            operation = f.preallocate_async(1 << 20)
            if sys.argv[3] == "always":
                assert isinstance(operation.exception(), OSError), operation
            else:
                assert operation.result() == 0
                assert os.stat(sys.argv[1]).st_blocks * 512 >= 1 << 20
    """
    which = "1+" if kind == "always" else "1..20"
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", f"inject=fallocate:error=EINTR:when={which}")
    run_python(script, disk_dir / "file", backend_name, kind, under=prefix)


# --- nobody else is held up ---


@pytest.mark.parametrize("backend_name", ["uring", "threads"])
def test_a_flush_that_takes_long_holds_up_nobody(disk_dir: Path, tmp_path: Path, backend_name: str) -> None:
    script = """
        import os, sys, gatherio as gio
        from oracle import target, words
        begin, end = os.pipe()
        os.dup2(begin, 100)
        with gio.CompletionQueue(backend=sys.argv[2]) as q, gio.open(sys.argv[1], "w+", queue=q) as f:
            write = f.write_at(words(0, 5000), 0)
            flush = f.flush_async()
            for i in range(100):
                assert f.write_at(words(5000, 5000), 5000).result() == 5000
                assert f.pread(target(5000), 0) == 5000
            assert f.preallocate_async(1 << 20).result() == 0
            f.fileno(), f.size
            assert not flush.done() and flush.running()
            os.write(end, b"0")
            assert flush.result() == 0
            os.write(end, b"0")
            f.flush()
    """
    run_python(script, disk_dir / "file", backend_name, under=shim(tmp_path, SLOW_FSYNC))


@not_on_windows("its preallocate is in line")
def test_who_flushes_an_idle_file_needs_no_thread(disk_dir: Path) -> None:
    script = """
        import os, sys, gatherio as gio
        from oracle import words
        with gio.CompletionQueue(backend="uring") as q, gio.open(sys.argv[1], "w", queue=q) as f:
            f.pwrite(words(0, 5000), 0)
            before = len(os.listdir("/proc/self/task"))
            f.flush(), f.truncate(100), f.preallocate(1 << 20)
            assert len(os.listdir("/proc/self/task")) == before
            f.flush_async().result()
            assert len(os.listdir("/proc/self/task")) > before  # it would be seen
    """
    run_python(script, disk_dir / "file")


# --- lifetimes ---


def test_close_waits_for_them(folder: Path, open_file: Opener) -> None:
    path = folder / "file"
    f = open_file(path, "w")
    write, cut = f.write_at(block(0), 0), f.truncate_async(5000)
    f.close()
    assert write.done() and cut.done() and path.stat().st_size == 5000
    for call in CALLS.values():
        f = open_file(path, "r+")
        with fault(f._queue, "HOLD", count=1) as release:
            operation = call(f)
            closer = threading.Thread(target=f.close)
            closer.start()
            assert not operation.done() and not f._released
            release()
            closer.join()
        assert operation.result() == 0


def test_a_queue_that_closes_waits_for_them(folder: Path, backend: str) -> None:
    path = folder / "file"
    with gio.CompletionQueue(backend=backend) as q:
        f = gio.open(path, "w", queue=q)
        write, cut, flush = f.write_at(block(0), 0), f.truncate_async(5000), f.flush_async()
    assert write.done() and cut.result() == flush.result() == 0
    f.close()


def test_dropped(folder: Path, open_file: Opener) -> None:
    with open_file(folder / "file", "w") as f:
        for i in range(300):
            f.write_at(block(i * PAGE, PAGE), i * PAGE)
            f.flush_async()
            f.preallocate_async((i + 10) * PAGE)
        f.truncate_async(300 * PAGE + 1)
    assert (folder / "file").stat().st_size == 300 * PAGE + 1


@pytest.mark.parametrize("backend_name", ["default", *(["iocp"] if sys.platform == "win32" else ["uring", "threads"])])
def test_the_interpreter_leaves(disk_dir: Path, backend_name: str) -> None:
    script = """
        import sys, gatherio as gio
        from oracle import placed, words
        path, backend = sys.argv[1:]
        q = None if backend == "default" else gio.CompletionQueue(backend=backend)
        f = gio.open(path, "w", queue=q)
        f.write_at(placed(words(0, 8 << 20)), 0)
        f.truncate_async(5000)
        f.preallocate_async(1 << 20)
        f.write_at(words(5000, 5000), 5000)
        f.flush_async()
    """
    path = disk_dir / "file"
    run_python(script, path, backend_name, warnings="ignore")
    assert_same_bytes(path.read_bytes(), words(0, 10_000))


@not_on_windows("it has no fork")
@pytest.mark.parametrize("backend_name", ["default", "uring", "threads", "sync"])
def test_fork(disk_dir: Path, backend_name: str) -> None:
    script = """
        import faulthandler, os, sys, warnings, gatherio as gio
        from oracle import set_fault, words
        warnings.simplefilter("ignore", DeprecationWarning)
        path, backend = sys.argv[1:]
        q = None if backend == "default" else gio.CompletionQueue(backend=backend)
        f = gio.open(path, "w", queue=q)
        q = f._queue
        set_fault(q, "HOLD", count=1)
        write = f.write_at(words(0, 5000), 0)
        cut, flush, reserve = f.truncate_async(100), f.flush_async(), f.preallocate_async(1 << 20)
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(30, exit=True)
            calls = [lambda: f.truncate_async(0), f.flush_async, lambda: f.preallocate_async(1), f.flush]
            for call in [cut.result, flush.result, reserve.cancel, *calls]:
                try:
                    call()
                except RuntimeError:
                    continue
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not cut.done()
        set_fault(q, "NONE")
        assert write.result() == 5000 and cut.result() == flush.result() == reserve.result() == 0
        f.close()
        assert os.path.getsize(path) == 100
    """
    run_python(script, disk_dir / "file", backend_name)


def test_many_threads(folder: Path, open_file: Opener) -> None:
    """Each has its own part of the file; what all of them do to its length leaves their bytes alone."""
    threads, rounds = 6, 40
    failures: list[BaseException] = []

    with open_file(folder / "file", "w+") as f:

        def work(number: int) -> None:
            try:
                for step in range(rounds):
                    offset = (number * rounds + step) * PAGE
                    write = f.write_at(block(offset, PAGE), offset)
                    calls = [f.flush_async(), f.truncate_async(threads * rounds * PAGE), f.preallocate_async(2 * MIB)]
                    if step % 5 == 0:
                        f.flush()
                    if step % 7 == 0:
                        calls[step % 3].cancel()
                    if step % 11 == 0:
                        f.truncate(threads * rounds * PAGE)
                    array = target(PAGE)
                    assert f.read_at(array, offset).result(FOREVER) in (PAGE, 0)
                    assert write.result(FOREVER) == PAGE
            except BaseException as failure:
                failures.append(failure)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures, failures
        assert f.size == threads * rounds * PAGE
    assert_same_bytes((folder / "file").read_bytes(), words(0, threads * rounds * PAGE))


@not_on_windows("it has no io_uring")
def test_a_line_of_calls_goes_on_whatever_python_does(disk_dir: Path) -> None:
    """Nobody waits, and nobody calls the core again: the queue's own thread sees to it."""
    page = gio.full(PAGE, 7, "u1")
    with gio.CompletionQueue(backend="uring") as q, gio.open(disk_dir / "file", "w+", queue=q) as f:
        operations = []
        for i in range(40):
            operations += [f.write_at(page, i * PAGE), f.truncate_async((i + 1) * PAGE)]
        deadline = time.monotonic() + FOREVER
        while any(one._completion.result == PENDING for one in operations):
            assert time.monotonic() < deadline
        assert q.stats()["pumped"] > 0
    assert (disk_dir / "file").read_bytes() == bytes([7]) * 40 * PAGE
