"""Staging buffers: one pool for the process, shared by its queues, and given back.

What is counted is counted in a process of its own, where no other test has left anything.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from oracle import (
    FOREVER,
    KIB,
    MIB,
    PAGE,
    Array,
    assert_same_bytes,
    fault,
    not_on_windows,
    placed,
    run_python,
    set_fault,
    target,
    words,
)

import gatherio as gio

#: Large buffers of one queue, and those that queues share which stage at the same time (csrc/staging.c).
EACH, ALL = 8, 32
LARGE = 2 * MIB


def staged(queue: gio.CompletionQueue) -> int:
    return queue.stats()["staged"]


@pytest.fixture
def data_file(quick_dir: Path) -> Path:
    path = quick_dir / "data"
    words(0, 20 * MIB).tofile(path)
    return path


def read(file: gio.File, out: Array, offset: int = 0) -> gio.Operation:
    """In one piece, through a buffer, on any file system."""
    return file.read_scatter([out], offset, copy=True)


# --- what a queue may have of them ---


def test_queues_that_stage_at_the_same_time_share(backend: str, data_file: Path) -> None:
    """Each new one finds less, and one at least; whoever waits does so for a buffer of its own queue."""
    count = 40
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(gio.CompletionQueue(16, backend=backend)) for _ in range(count)]
        files = [stack.enter_context(gio.open(data_file, "r", queue=queue)) for queue in queues]
        outs, operations, got = [], [], []
        for queue, file in zip(queues, files, strict=True):
            stack.enter_context(fault(queue, "HOLD"))
            wanted = 10 if len(got) < 10 else 1
            outs += [target(300 * KIB) for _ in range(wanted)]
            operations += [read(file, out) for out in outs[-wanted:]]
            got.append(staged(queue))
        assert got[:10] == [min(EACH, ALL // (number + 1)) for number in range(10)]
        assert got[10:] == [1] * (count - 10)
        with gio.CompletionQueue(backend=backend) as queue, gio.open(data_file, "r", queue=queue) as file:
            out = target(20 * MIB)
            assert read(file, out).result(FOREVER) == out.nbytes, "and none waits for what the others hold"
            assert_same_bytes(out, words(0, out.nbytes))
        for queue in queues:
            set_fault(queue, "NONE")
        for operation, out in zip(operations, outs, strict=True):
            assert operation.result(FOREVER) == out.nbytes
            assert_same_bytes(out, words(0, out.nbytes))


def test_a_share_grows_when_others_have_ended(backend: str, data_file: Path) -> None:
    outs = [target(300 * KIB) for _ in range(EACH)]
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(gio.CompletionQueue(16, backend=backend)) for _ in range(ALL)]
        files = [stack.enter_context(gio.open(data_file, "r", queue=queue)) for queue in queues]
        for queue in queues[1:]:
            stack.enter_context(fault(queue, "HOLD"))
        others = [read(file, target(300 * KIB)) for file in files[1:]]
        with fault(queues[0], "HOLD"):
            first = [read(files[0], out) for out in outs]
            assert staged(queues[0]) == 1
            for queue in queues[1:]:
                set_fault(queue, "NONE")
            gio.wait(others, FOREVER)
        for operation, out in zip(first, outs, strict=True):
            assert operation.result(FOREVER) == out.nbytes
            assert_same_bytes(out, words(0, out.nbytes))
        with fault(queues[0], "HOLD"):
            before = staged(queues[0])
            again = [read(files[0], out) for out in outs]
            assert staged(queues[0]) - before == EACH
        gio.wait(again, FOREVER)


def test_small_transfers_do_not_wait_for_large_ones(queue: gio.CompletionQueue, data_file: Path) -> None:
    with gio.open(data_file, "r", queue=queue) as file, fault(queue, "HOLD") as let_go:
        outs = [target(300 * KIB) for _ in range(EACH + 4)]
        large = [read(file, out) for out in outs]
        assert staged(queue) == EACH
        small = target(PAGE)
        reading = read(file, small, 5 * PAGE)
        assert staged(queue) == EACH + 1
        let_go()
        assert reading.result(FOREVER) == PAGE
        assert_same_bytes(small, words(5 * PAGE, PAGE))
        for operation, out in zip(large, outs, strict=True):
            assert operation.result(FOREVER) == out.nbytes
            assert_same_bytes(out, words(0, out.nbytes))


def test_what_waits_for_a_buffer_can_be_cancelled(queue: gio.CompletionQueue, data_file: Path) -> None:
    with gio.open(data_file, "r", queue=queue) as file, fault(queue, "HOLD") as let_go:
        held = [read(file, target(300 * KIB)) for _ in range(EACH)]
        waiting = read(file, target(300 * KIB))
        assert waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result(FOREVER)
        assert staged(queue) == EACH
        let_go()
        assert [operation.result(FOREVER) for operation in held] == [300 * KIB] * EACH


# --- one pool, given back ---

COUNT = """
import contextlib, sys, threading, time
import gatherio as gio
from gatherio._native import lib
from oracle import MIB, PAGE, fault, set_fault, target, words

path, backend = sys.argv[1:3]
words(0, 20 * MIB).tofile(path)
allocated = lib.gio_staging_allocated

def comes_down(limit):
    deadline = time.monotonic() + 60
    while allocated() > limit and time.monotonic() < deadline:
        time.sleep(0.01)
    assert allocated() <= limit, allocated()

def new_queue(depth=16):
    return gio.CompletionQueue(depth, backend=backend)

def read(file, nbytes):
    return file.read_scatter([target(nbytes)], 0, copy=True)
"""


def count(script: str, path: Path, backend: str) -> None:
    run_python(COUNT + script, path, backend)


def test_a_hundred_queues_share_one_block_of_small_buffers(quick_dir: Path, backend: str) -> None:
    script = """
with contextlib.ExitStack() as stack:
    assert allocated() == 0, "nothing before anything is staged"
    queues = [stack.enter_context(new_queue(2)) for _ in range(100)]
    files = [stack.enter_context(gio.open(path, "r", queue=queue)) for queue in queues]
    for queue in queues:
        set_fault(queue, "HOLD")
    operations = [read(file, PAGE) for file in files]
    assert [queue.stats()["staged"] for queue in queues] == [1] * 100
    assert allocated() == 2 * MIB, allocated()
    for queue in queues:
        set_fault(queue, "NONE")
    assert [operation.result(60) for operation in operations] == [PAGE] * 100
    assert allocated() == 2 * MIB, "it stays for the next"
assert allocated() == 0, allocated()
"""
    count(script, quick_dir / "file", backend)


def test_a_hundred_threads_with_a_queue_each(quick_dir: Path, backend: str) -> None:
    """While they transfer, a large buffer each at most; afterwards what one busy queue needs."""
    script = """
most, begin, end = 0, threading.Barrier(101), threading.Barrier(101)
def transfer():
    global most
    with new_queue() as queue, gio.open(path, "r", queue=queue) as file:
        begin.wait()
        for _ in range(3):
            assert read(file, 3 * MIB).result(60) == 3 * MIB and read(file, PAGE).result(60) == PAGE
            most = max(most, allocated())
        end.wait()
        end.wait()
threads = [threading.Thread(target=transfer) for _ in range(100)]
for thread in threads:
    thread.start()
begin.wait()
end.wait()
comes_down(18 * MIB)
assert 4 * MIB <= most <= 300 * MIB, most
end.wait()
for thread in threads:
    thread.join()
assert allocated() == 0, allocated()
"""
    count(script, quick_dir / "file", backend)


def test_buffers_come_one_by_one_and_go_with_the_last_queue(quick_dir: Path, backend: str) -> None:
    script = """
with new_queue() as other, gio.open(path, "r", queue=other) as unstaged:
    assert unstaged.read_scatter([target(PAGE)], 0).result(60) == PAGE
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(new_queue()) for _ in range(6)]
        files = [stack.enter_context(gio.open(path, "r", queue=queue)) for queue in queues]
        for number in range(1, 9):
            set_fault(queues[0], "HOLD")
            read(files[0], MIB)
            assert allocated() == number * 2 * MIB, (number, allocated())
        for queue in queues[1:]:
            set_fault(queue, "HOLD")
        more = [read(file, MIB) for file in files[1:] for _ in range(6)]
        held = sum(queue.stats()["staged"] for queue in queues)
        assert held > 20 and allocated() == held * 2 * MIB
        for queue in queues:
            set_fault(queue, "NONE")
        gio.wait(more, 60)
        files[0].close()
        comes_down(16 * MIB)  # as much as one of them needs
        assert read(files[1], MIB).result(60) == MIB and allocated() == 16 * MIB
        for queue in queues[:-1]:
            queue.close()
        assert allocated() == 16 * MIB, "one is left that stages"
    assert allocated() == 0, "the one that is left has staged nothing"
    assert read(unstaged, PAGE).result(60) == PAGE and allocated() == 2 * MIB
assert allocated() == 0, allocated()
"""
    count(script, quick_dir / "file", backend)


@not_on_windows("it has no fork")
def test_a_forked_child_has_none(quick_dir: Path, backend: str) -> None:
    """And its parent goes on with those it has, full of what is under way."""
    script = """
import os, pathlib
data = words(0, 5 * MIB)
with new_queue() as queue, gio.open(path + "-parent", "w+", queue=queue) as file:
    with fault(queue, "HOLD"):
        writing = file.write_gather([data], 0, copy=True)
        before = allocated()
        child = os.fork()
        if child == 0:
            assert allocated() == 0, allocated()
            try:
                file.write_gather([data], 0, copy=True)
            except RuntimeError:
                pass
            with new_queue() as own, gio.open(path + "-child", "w+", queue=own) as mine:
                assert mine.write_gather([data[::-1].copy()], 0, copy=True).result(60) == data.nbytes
                assert allocated() != 0
            assert allocated() == 0, allocated()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert allocated() == before != 0
    assert writing.result(60) == data.nbytes
assert allocated() == 0
assert pathlib.Path(path + "-parent").read_bytes() == data.tobytes()
assert pathlib.Path(path + "-child").read_bytes() == data[::-1].tobytes()
"""
    count(script, quick_dir / "file", backend)


@not_on_windows("it has no fork")
def test_forks_while_other_threads_stage(quick_dir: Path, backend: str) -> None:
    """The child finds no lock that one of them has taken with it."""
    script = """
import os
done = threading.Event()
def transfer():
    while not done.is_set():
        with new_queue() as queue, gio.open(path, "r", queue=queue) as file:
            for _ in range(4):
                assert read(file, 300_000).result(60) == 300_000
threads = [threading.Thread(target=transfer) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        assert allocated() == 0
        with new_queue() as queue, gio.open(path, "r", queue=queue) as file:
            assert read(file, 300_000).result(60) == 300_000
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
done.set()
for thread in threads:
    thread.join()
assert allocated() == 0
"""
    count(script, quick_dir / "file", backend)


# --- no memory for one ---

WAYS: dict[str, Callable[[gio.File], gio.Operation]] = {
    "write_gather": lambda file: file.write_gather([placed(words(0, 3 * PAGE))], 0, copy=True),
    "read_scatter": lambda file: file.read_scatter([target(3 * PAGE)], 0, copy=True),
    "large": lambda file: file.write_gather([placed(words(0, 5 * MIB))], 0, copy=True),
    "write_at": lambda file: file.write_at(placed(words(0, MIB), shift=8), 0),
    "read_at": lambda file: file.read_at(target(PAGE, shift=8), PAGE),
    "write_many": lambda file: file.write_many([placed(words(0, PAGE), shift=8)], [MIB]),
    "read_many": lambda file: file.read_many([target(PAGE, shift=8)], [MIB]),
}


@pytest.fixture
def file(disk_dir: Path, queue: gio.CompletionQueue) -> Iterator[gio.File]:
    with gio.open(disk_dir / "file", "w+", queue=queue) as opened:
        if not opened.direct:
            pytest.fail("this folder is to be on a disk with direct I/O")
        opened.write_at(placed(words(0, 6 * MIB)), 0).result(FOREVER)
        yield opened


@pytest.mark.parametrize("way", WAYS)
def test_a_shortage_is_told_to_the_operation_that_met_it(queue: gio.CompletionQueue, file: gio.File, way: str) -> None:
    before = staged(queue)
    with fault(queue, "STAGE", count=1, value=errno.ENOMEM):
        met, after = WAYS[way](file), WAYS[way](file)
        with pytest.raises(OSError, match="file") as caught:
            met.result(FOREVER)
        assert caught.value.errno == errno.ENOMEM
        assert after.result(FOREVER) > 0
    assert staged(queue) > before
    assert WAYS[way](file).result(FOREVER) > 0


def test_a_shortage_for_one_queue_is_none_for_another(backend: str, data_file: Path) -> None:
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(gio.CompletionQueue(backend=backend)) for _ in range(2)]
        files = [stack.enter_context(gio.open(data_file, "r", queue=queue)) for queue in queues]
        with fault(queues[0], "STAGE", value=errno.ENOMEM):
            for _ in range(3):
                with pytest.raises(OSError):
                    read(files[0], target(MIB)).result(FOREVER)
                out = target(MIB)
                assert read(files[1], out).result(FOREVER) == MIB
                assert_same_bytes(out, words(0, MIB))


# --- many at once ---


def test_queues_in_many_threads(backend: str, disk_dir: Path) -> None:
    """More of them than there are buffers to share, and each gets its own bytes."""
    failed: list[BaseException] = []

    def transfer(number: int) -> None:
        try:
            with gio.CompletionQueue(4, backend=backend) as queue:
                data = placed(words(0, 5 * MIB + 77, number), shift=8)
                with gio.open(disk_dir / str(number), "w+", queue=queue) as file:
                    for _ in range(2):
                        file.write_at(data, 3).result(FOREVER)
                        out = target(data.nbytes, shift=24)
                        assert file.read_at(out, 3).result(FOREVER) == data.nbytes
                        assert_same_bytes(out, data)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=transfer, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
