"""What small operations cost, counted and not timed; who hands them over; and who is told of them."""

from __future__ import annotations

import gc
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from oracle import FOREVER, MIB, PAGE, fault, not_on_windows, pages, placed, run_python, words
from this_process import comes_down, handle_count

import gatherio as gio
from gatherio._core import queue as queues
from gatherio._core.engine import PENDING, Waiter

PAGE_DATA = placed(words(0, PAGE))
PACKAGE = str(Path(gio.__file__).parent)


@pytest.fixture
def f(disk_dir: Path, queue: gio.CompletionQueue) -> Iterator[gio.File]:
    with gio.open(disk_dir / "file", "w+", queue=queue) as made:
        yield made


def counted(call: Callable[[], object]) -> tuple[int, int]:
    """How many functions of the package's Python a call goes through, and how many of the core."""
    frames = calls = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal frames, calls
        if event == "call":
            frames += frame.f_code.co_filename.startswith(PACKAGE)
        elif event == "c_call":
            calls += getattr(argument, "__name__", "").startswith("gio_")

    call()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return frames, calls


# --- what they cost ---


def test_frames_and_calls_of_one_operation(f: gio.File) -> None:
    array, list_of_them = gio.empty(PAGE, "u1"), pages(3)
    segments = gio.Segments(list_of_them)
    f.write_gather(list_of_them, 0).result()
    costs = {
        "write_at": counted(lambda: f.write_at(array, 0).result()),
        "read_at": counted(lambda: f.read_at(array, 0).result()),
        "pwrite": counted(lambda: f.pwrite(array, 0)),
        "pread": counted(lambda: f.pread(array, 0)),
        "write_gather": counted(lambda: f.write_gather(list_of_them, 0).result()),
        "of Segments": counted(lambda: f.write_gather(segments, 0).result()),
    }
    most = {
        "write_at": (12, 2),
        "read_at": (12, 2),
        "pwrite": (6, 1),
        "pread": (6, 1),
        "write_gather": (16, 3),  # the third looks at the list
        "of Segments": (16, 2),
    }
    assert all(costs[name] <= most[name] and costs[name][1] <= most[name][1] for name in most), costs


def test_what_has_finished_is_asked_of_nobody(f: gio.File) -> None:
    operation = f.write_at(PAGE_DATA, 0)
    operation.result(FOREVER)
    assert counted(operation.done)[1] == 0
    assert counted(operation.result)[1] == 0
    assert counted(operation.exception)[1] == 0
    assert counted(lambda: operation.add_done_callback(lambda _: None))[1] == 0


def grows_with(cost: Callable[[int], int]) -> float:
    """How many times more eight times as many cost."""
    return cost(400) / cost(50)


def test_each_one_costs_a_constant(f: gio.File, queue: gio.CompletionQueue) -> None:
    """With one call of the engine's for each that finishes, and not for each that has not."""

    def submitted(n: int) -> list[gio.Operation]:
        return [f.write_at(PAGE_DATA, 0) for _ in range(n)]

    def as_completed(n: int) -> int:
        with fault(queue, "HOLD") as let_go:
            operations = submitted(n)
            let_go()
            return sum(counted_once(lambda: list(gio.as_completed(operations))))

    def callbacks(n: int) -> int:
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(PAGE_DATA, 0)
            called: list[int] = []
            for i in range(n):
                operation.add_done_callback(lambda _, i=i: called.append(i))
            let_go()
            cost = sum(counted_once(lambda: operation.result(FOREVER)))
        while len(called) < n:  # its own thread may be calling them
            time.sleep(0.001)
        assert called == list(range(n))
        return max(cost, 4 * n)

    assert grows_with(as_completed) < 12
    assert grows_with(callbacks) < 12


def counted_once(call: Callable[[], object]) -> tuple[int, int]:
    """As `counted`, of what can be done but once."""
    runs = iter([lambda: None, call])  # the first one is not counted

    def run() -> None:
        next(runs)()

    return counted(run)


# --- company ---


@not_on_windows("it has no io_uring")
def test_a_small_one_waits_for_company(disk_dir: Path) -> None:
    large, small = gio.zeros(64 * MIB, "u1"), gio.zeros(PAGE, "u1")
    with gio.CompletionQueue(backend="uring", request_size=1 << 30) as q, gio.open(disk_dir / "f", "w+", queue=q) as f:
        f.write_at(large, 0).result()
        alone = q.stats()["submits"]
        f.read_at(small, 0)
        assert q.stats()["submits"] == alone + 1  # at once
        for _ in range(200):  # until nothing came between: the disk may be quick, and this thread may have to wait
            busy = f.read_at(large, 0)
            before = q.stats()["submits"]
            held = [f.read_at(small, 0) for _ in range(5)]
            after = q.stats()["submits"]
            is_busy = busy._completion.result == PENDING
            gio.wait([busy, *held])
            if is_busy and after == before:
                break
        else:
            pytest.fail("each is handed over by itself")
        for _ in range(200):
            busy = f.read_at(large, 0)
            before = q.stats()["submits"]
            held = [f.read_at(small, 0) for _ in range(8)]
            after = q.stats()["submits"]
            is_busy = busy._completion.result == PENDING
            gio.wait([busy, *held])
            if is_busy and after == before + 1:
                break
        else:
            pytest.fail("eight are not handed over together")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 9])
def test_small_ones_go_on_whatever_python_does(disk_dir: Path, backend: str, n: int) -> None:
    """Nobody waits, and nobody calls the core again."""
    large, small = gio.zeros(32 * MIB, "u1"), gio.zeros(PAGE, "u1")
    with gio.CompletionQueue(backend=backend) as q, gio.open(disk_dir / "file", "w+", queue=q) as f:
        f.write_at(large, 0).result()
        for _ in range(3):
            busy = f.read_at(large, 0)
            operations = [f.read_at(small, 0) for _ in range(n)]
            deadline = time.monotonic() + FOREVER
            while any(one._completion.result == PENDING for one in [busy, *operations]):
                assert time.monotonic() < deadline


# --- who is told ---


def by_as_completed(operations: list[gio.Operation]) -> set[gio.Operation]:
    return set(gio.as_completed(operations, FOREVER))


def by_wait(operations: list[gio.Operation]) -> set[gio.Operation]:
    left = set(operations)
    while left:
        left = gio.wait(left, FOREVER, gio.FIRST_COMPLETED).not_done
    return set(operations)


def by_result(operations: list[gio.Operation]) -> set[gio.Operation]:
    return {one for one in operations if one.result(FOREVER) == PAGE}


@pytest.mark.parametrize("wait", [by_as_completed, by_wait, by_result])
def test_several_threads_wait_for_the_same(f: gio.File, queue: gio.CompletionQueue, wait: Any) -> None:
    """The one that comes second finds nothing to take over, and is told all the same."""
    with fault(queue, "HOLD") as let_go:
        operations = [f.write_at(PAGE_DATA, i * PAGE) for i in range(20)]
        found: list[set[gio.Operation]] = []
        threads = [threading.Thread(target=lambda: found.append(wait(operations))) for _ in range(4)]
        for thread in threads:
            thread.start()
        let_go()
        for thread in threads:
            thread.join(FOREVER)
    assert found == [set(operations)] * 4


def test_who_sleeps_is_woken_by_who_takes_it_over(f: gio.File, queue: gio.CompletionQueue) -> None:
    """A watcher is told by another thread while its own is on its way to sleep."""
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        waiter = Waiter([operation])
        with waiter:
            telling = threading.Thread(target=lambda: waiter.finished(operation))
            telling.start()
            assert waiter.wait(None) == [operation]
            telling.join()
        let_go()
        operation.result(FOREVER)


def test_as_completed_of_several_queues(disk_dir: Path, backend: str) -> None:
    with gio.CompletionQueue(backend=backend) as one, gio.CompletionQueue(backend=backend) as other:
        with gio.open(disk_dir / "a", "w", queue=one) as f, gio.open(disk_dir / "b", "w", queue=other) as g:
            operations = [file.write_at(PAGE_DATA, i * PAGE) for i in range(50) for file in (f, g)]
            assert set(gio.as_completed(operations, FOREVER)) == set(operations)
            with fault(one, "HOLD"):
                held, free = f.write_at(PAGE_DATA, 0), g.write_at(PAGE_DATA, 0)
                waiting = gio.as_completed([held, free], 0.1)
                assert next(waiting) is free
                with pytest.raises(gio.TimeoutError, match=r"1 \(of 2\)"):
                    next(waiting)


def test_an_abandoned_as_completed_leaves_nothing(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "HOLD"):
        operations = [f.write_at(PAGE_DATA, i * PAGE) for i in range(3)]
        waiting = gio.as_completed(operations, 0)
        with pytest.raises(gio.TimeoutError):
            next(waiting)
        assert not any(operation._watchers for operation in operations)
    gio.wait(operations)


@pytest.mark.parametrize("how", ["result", "exception", "wait", "first", "as_completed", "callback", "pread"])
def test_what_somebody_knows_of_is_kept_for_nobody(disk_dir: Path, how: str) -> None:
    """A queue that nobody calls `get` on keeps no operation, and no file, that nobody holds."""
    with gio.CompletionQueue() as q, gio.open(disk_dir / "file", "w+", queue=q) as f:
        for _ in range(20):
            called: list[int] = []
            if how == "pread":
                f.pwrite(PAGE_DATA, 0)
                continue
            operations = [f.write_at(PAGE_DATA, 0) for _ in range(100)]
            if how == "wait":
                gio.wait(operations)
            elif how == "first":
                left = set(operations)
                while left:
                    left = gio.wait(left, return_when=gio.FIRST_COMPLETED).not_done
            elif how == "as_completed":
                for _one in gio.as_completed(operations):
                    pass
            elif how == "callback":
                for operation in operations:
                    operation.add_done_callback(lambda _, called=called: called.append(1))
                while len(called) < 100:
                    time.sleep(0.001)
            else:
                for operation in operations:
                    getattr(operation, how)()
        kept = operations[-1] if how != "pread" else None
        operations, left, operation, _one = [], set(), None, None
        gc.collect()
        assert q.get(0) == ([kept] if kept is not None else [])  # who holds one may be given it yet


# --- queues that are let go of ---


def test_a_dropped_queue_warns(backend: str) -> None:
    with pytest.warns(ResourceWarning, match=f"unclosed <gatherio.CompletionQueue: {backend}"):
        gio.CompletionQueue(backend=backend)
        gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gio.CompletionQueue(backend=backend).close()
        with gio.CompletionQueue(backend=backend):
            pass
        gc.collect()


def test_shared_queues_go_with_their_last_file(disk_dir: Path) -> None:
    """Each of the settings of a device has one of its own."""
    gio.open(disk_dir / "file", "w").close()
    before, count = handle_count(), len(queues._defaults)
    for i in range(1, 30):
        with gio.open(disk_dir / "file", "r+", tuning={"request_size": PAGE * i, "depth": 3}) as f:
            f.write_at(PAGE_DATA, 0)
        del f
    gc.collect()
    assert len(queues._defaults) == count
    assert comes_down(handle_count, before + 5)
    with gio.open(disk_dir / "file", tuning={"depth": 5}) as f, gio.open(disk_dir / "file", tuning={"depth": 5}) as g:
        assert f._queue is g._queue


def test_transfers_that_are_no_operations_do_not_keep_others_from_being_let_go_of(disk_dir: Path) -> None:
    script = """
        import sys, gatherio as gio
        with gio.open(sys.argv[1], "w+") as f:
            array = gio.zeros(512, "u1")
            f.pwrite(array, 0)
            for _ in range(3000):
                f.write_at(array, 0)  # dropped
                f.pread(array, 0)
            print(len(f._engine.inflight) < 700)
    """
    assert run_python(script, disk_dir / "file") == "True\n"
