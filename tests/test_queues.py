"""Completion queues: handing out, depth, backends, fairness, statistics, closing, and no growth."""

from __future__ import annotations

import collections
import errno
import gc
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from oracle import (
    BACKENDS,
    BEST_BACKEND,
    FOREVER,
    KIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    fault,
    not_on_windows,
    placed,
    run_python,
    target,
    words,
)
from this_process import comes_down, handle_count, thread_count, thread_ids

import gatherio as gio
from gatherio._core.engine import PENDING

PAGE_DATA = placed(words(0, PAGE))


# --- backends ---


def test_a_backend_by_name(backend: str) -> None:
    with gio.CompletionQueue(backend=backend) as queue:
        assert queue.backend == backend
        assert "by name" in queue.reason
        assert backend in repr(queue)


def test_the_default_is_the_best_that_works() -> None:
    found = gio.info()
    with gio.CompletionQueue() as queue:
        assert queue.backend == found["backend"]
        assert queue.backend in queue.reason
    best = next(name for name in BACKENDS if found["backends"][name]["available"])
    assert found["backend"] == best


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=f"unknown backend 'iocb'; this system has {BEST_BACKEND}"):
        gio.CompletionQueue(backend="iocb")
    for depth in (0, -1, 2**31):
        with pytest.raises(ValueError, match="depth"):
            gio.CompletionQueue(depth)
    with pytest.raises(TypeError):
        gio.CompletionQueue(1.5)  # type: ignore[arg-type]
    for request_size in (0, -1, 2**64):
        with pytest.raises(ValueError, match="request_size"):
            gio.CompletionQueue(request_size=request_size)
    with gio.CompletionQueue() as queue, pytest.raises(ValueError, match="max"):
        queue.get(0, max=0)


def test_requests_are_no_larger_than_asked(disk_dir: Path, backend: str, direct: bool | None) -> None:
    with gio.CompletionQueue(backend=backend, request_size=10_000) as queue:  # rounded up to whole pages
        with gio.open(disk_dir / "file", "w+", queue=queue, direct=direct) as f:
            f.write_at(placed(words(0, 30 * PAGE)), 0).result()
            assert queue.stats()["writes"] == 10
            array = target(30 * PAGE)
            f.read_at(array, 0).result()
            assert queue.stats()["reads"] == 10
    assert_same_bytes(array, words(0, 30 * PAGE))


# --- handing out ---


def test_get_hands_out_each_operation_once(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        operations = [f.write_at(PAGE_DATA, i * PAGE) for i in range(700)]
        seen: list[gio.Operation] = []
        while len(seen) < 700:
            found = queue.get(FOREVER)
            assert found
            seen.extend(found)
    assert len(set(seen)) == 700 and set(seen) == set(operations)
    assert queue.get(0) == []


def test_get_of_nothing_returns_when_the_time_is_up(queue: gio.CompletionQueue) -> None:
    assert queue.get(0) == []
    begin = time.monotonic()
    assert queue.get(timeout=0.2) == []
    assert 0.19 < time.monotonic() - begin < 5


def test_get_at_most_so_many(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        operations = [f.write_at(PAGE_DATA, i * PAGE) for i in range(50)]
        gio.wait(operations)
        seen = []
        for _ in range(16):
            found = queue.get(0, max=3)
            assert len(found) == 3
            seen.extend(found)
        assert len(queue.get(0, max=3)) == 2
        assert queue.get(0, max=3) == []
    assert len(set(seen)) == 48


def test_get_hands_out_what_nobody_holds(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    """The references were dropped before the end: the operations come all the same."""
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        for i in range(300):
            f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE)
        gc.collect()
        seen: list[gio.Operation] = []
        while len(seen) < 300:
            seen.extend(queue.get(FOREVER))
        assert [operation.result(0) for operation in seen] == [PAGE] * 300
    assert queue.get(0) == []
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 300 * PAGE))


def test_get_hands_out_failures(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        with fault(queue, "FAIL", value=errno.EIO):
            operation = f.write_at(PAGE_DATA, 0)
            assert queue.get(FOREVER) == [operation]
        with pytest.raises(OSError) as caught:
            operation.result()
        assert caught.value.errno == errno.EIO


def test_get_hands_out_what_was_asked_for_while_it_is_held(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        kept = f.write_at(PAGE_DATA, 0)
        kept.result()
        assert queue.get(0) == [kept]
        f.write_at(PAGE_DATA, 0).result()  # told, and dropped: nobody can miss it
        gc.collect()
        assert queue.get(0) == []


def test_each_once_for_several_consumers(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    """Four threads take, three submit, and threads switch as often as they can."""
    total = 6000
    taken: list[list[gio.Operation]] = [[], [], [], []]
    stop = threading.Event()

    def take(into: list[gio.Operation]) -> None:
        while not stop.is_set():
            into.extend(queue.get(0.01, max=7))

    def submit(f: gio.File, first: int) -> None:
        for i in range(first, total, 3):
            f.write_at(PAGE_DATA, i % 100 * PAGE)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            takers = [threading.Thread(target=take, args=(into,)) for into in taken]
            submitters = [threading.Thread(target=submit, args=(f, first)) for first in range(3)]
            for thread in takers + submitters:
                thread.start()
            for thread in submitters:
                thread.join()
            deadline = time.monotonic() + FOREVER
            while sum(map(len, taken)) < total and time.monotonic() < deadline:
                stop.wait(0.01)
            stop.set()
            for thread in takers:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    counts = collections.Counter(operation for into in taken for operation in into)
    assert len(counts) == total
    assert max(counts.values()) == 1
    assert queue.get(0) == []


def test_a_waiting_get_is_woken_by_the_completion(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    found: list[gio.Operation] = []
    with gio.open(disk_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        thread = threading.Thread(target=lambda: found.extend(queue.get(FOREVER)))
        thread.start()
        let_go()
        thread.join()
    assert found == [operation]


# --- depth ---


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_more_operations_than_the_queue_is_deep(disk_dir: Path, backend: str, depth: int) -> None:
    with gio.CompletionQueue(depth, backend=backend) as queue:
        assert queue.depth == depth
        with gio.open(disk_dir / "file", "w+", queue=queue) as f:
            order = [i * 7 % 200 for i in range(200)]
            operations = [f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in order]
            assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 200
            arrays = [target(PAGE) for _ in order]
            gio.wait([f.read_at(array, i * PAGE) for array, i in zip(arrays, order, strict=True)])
    for array, i in zip(arrays, order, strict=True):
        assert_same_bytes(array, words(i * PAGE, PAGE), i * PAGE)


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_requests_than_the_queue_is_deep(disk_dir: Path, backend: str, depth: int) -> None:
    with gio.CompletionQueue(depth, backend=backend, request_size=PAGE) as queue:
        with gio.open(disk_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD") as let_go:
            operation = f.write_at(placed(words(0, 20 * PAGE)), 0)
            others = [f.write_at(PAGE_DATA, 0) for _ in range(5)]
            assert gio.wait([operation, *others], 0.05).done == set()
            assert queue.stats()["writes"] == depth
            let_go()
            assert operation.result(FOREVER) == 20 * PAGE
        assert queue.stats()["writes"] == 25


@not_on_windows("it has no such backend")
@pytest.mark.parametrize(("depth", "most"), [(1, 1), (2, 2), (100, 16)])
def test_no_more_threads_than_requests_and_no_more_than_a_disk_needs(disk_dir: Path, depth: int, most: int) -> None:
    before = thread_ids()
    with gio.CompletionQueue(depth, backend="threads") as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        gio.wait([f.write_at(PAGE_DATA, i * PAGE) for i in range(1000)])
        assert 1 <= len(thread_ids() - before) <= most


@pytest.mark.parametrize(
    ("request_size", "least", "most"),
    [(MIB, 8, 64), (32 * MIB, 2, 2)],  # enough for any disk and no more; two at least, however large they are
)
def test_bytes_in_flight_are_limited(quick_dir: Path, backend: str, request_size: int, least: int, most: int) -> None:
    """What is in flight pins memory: not all of a large array at once."""
    array = gio.empty(4 * 32 * MIB, "u1", prefault=False)
    with gio.CompletionQueue(128, backend=backend, request_size=request_size) as queue:
        with gio.open(quick_dir / "file", "w+", queue=queue) as f, fault(queue, "HOLD"):
            f.truncate(array.nbytes)
            operation = f.read_at(array, 0)
            gio.wait([operation], 0.05)
            assert least <= queue.stats()["reads"] <= most
            operation.cancel()


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
def test_the_queues_thread_sleeps_again_once_no_listener_needs_it(disk_dir: Path, backend: str) -> None:
    """It takes part while somebody listens to several queues, and not afterwards."""
    with gio.CompletionQueue(8, backend=backend) as queue, gio.CompletionQueue(8, backend=backend) as other:
        with gio.open(disk_dir / "a", "w", queue=queue) as f, gio.open(disk_dir / "b", "w", queue=other) as g:
            for _ in range(5):
                with fault(queue, "HOLD"), fault(other, "HOLD"):
                    operations = [f.write_at(PAGE_DATA, 0), g.write_at(PAGE_DATA, 0)]
                    assert not gio.wait(operations, 0.02, gio.FIRST_COMPLETED).done
                gio.wait(operations)
            before = queue.stats()
            for i in range(1, 21):
                f.write_at(PAGE_DATA, 0)
                while queue.stats()["finished"] < before["finished"] + i:  # only looks
                    time.sleep(0.001)
            assert queue.stats()["pumped"] == before["pumped"]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
def test_a_small_read_does_not_queue_behind_a_large_write(disk_dir: Path, backend: str) -> None:
    """The large one is stopped for good at one of its first requests; the read comes through."""
    (disk_dir / "small").write_bytes(words(0, PAGE))
    with (
        gio.CompletionQueue(1, backend=backend, request_size=PAGE) as queue,
        gio.open(disk_dir / "large", "w", queue=queue) as large,
        gio.open(disk_dir / "small", queue=queue) as small,
        fault(queue, "HOLD", count=1) as let_go,
    ):
        big = large.write_at(gio.zeros(2000 * PAGE, "u1"), 0)
        array = target(PAGE)
        operation = small.read_at(array, 0)
        assert queue.stats()["reads"] == 0  # both wait for the first request of the large one
        let_go()
        assert operation.result(FOREVER) == PAGE
        # In turn: of the large write's 2000 requests no more than the first two had to go before it.
        assert queue.stats()["writes"] < 1000
        assert_same_bytes(array, words(0, PAGE))
        assert big.result(FOREVER) == 2000 * PAGE


# --- statistics ---


def test_stats_count_by_kind(disk_dir: Path, queue: gio.CompletionQueue, direct: bool | None) -> None:
    apart = gio.zeros((8, PAGE), "u1")
    with gio.open(disk_dir / "file", "w+", queue=queue, direct=direct) as f:
        direct_was_got = f.direct
        f.write_at(apart[0], 0).result()
        f.write_gather(list(apart[::2]), 0).result()
        f.read_scatter(list(apart[::2]), 0).result()
        f.read_scatter(list(apart[:2]), 0).result()
        f.read_at(apart[1], 0).result()
    stats = queue.stats()
    assert (stats["operations"], stats["finished"]) == (5, 5)
    if ON_WINDOWS and not direct_was_got:  # through the cache, its calls move one run of memory each
        assert (stats["writes"], stats["gathers"], stats["reads"], stats["scatters"]) == (1 + 4, 0, 2 + 4, 0)
    else:
        assert (stats["writes"], stats["gathers"], stats["reads"], stats["scatters"]) == (1, 1, 2, 1)
    assert stats["bytes_written"] == 5 * PAGE and stats["bytes_read"] == 7 * PAGE
    assert stats["staged"] == stats["ragged"] == stats["resumed"] == stats["retried"] == 0
    assert all(type(value) is int for value in stats.values())


def test_stats_count_staged_and_ragged(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_gather([gio.zeros(MIB, "u1")], 0, copy=True).result()
        staged = queue.stats()["staged"]
        assert staged >= 1 and queue.stats()["ragged"] == 0
        f.write_at(gio.zeros(2 * PAGE, "u1"), 100).result()
        assert queue.stats()["ragged"] == (2 if ON_WINDOWS else 1)  # with so few whole pages between, all of it
        f.write_at(gio.zeros(MIB, "u1"), 100).result()
        assert queue.stats()["ragged"] == (4 if ON_WINDOWS else 3)  # head and tail
        assert queue.stats()["staged"] > staged  # the middle: memory is not aligned where the file is


# --- batches ---


def test_a_batch_is_handed_over_with_few_calls(disk_dir: Path, backend: str) -> None:
    with gio.CompletionQueue(64, backend=backend) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        data = [placed(words(i * PAGE, PAGE)) for i in range(64)]
        before = queue.stats()["submits"]
        with queue.batch():
            operations = [f.write_at(page, i * PAGE) for i, page in enumerate(data)]
        if backend == "uring":
            assert queue.stats()["submits"] - before <= 32  # not 64: eight, and what the queue's thread does meanwhile
        assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 64
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 64 * PAGE))


def test_who_waits_within_a_batch_is_not_kept_waiting(disk_dir: Path, backend: str) -> None:
    (disk_dir / "file").write_bytes(words(0, PAGE))
    with gio.CompletionQueue(4, backend=backend) as queue, gio.open(disk_dir / "file", queue=queue) as f:
        with queue.batch(), queue.batch():
            assert f.read_at(target(PAGE), 0).result(FOREVER) == PAGE
            f.read_at(target(PAGE), 0)
            assert len(queue.get(FOREVER)) >= 1
        with pytest.raises(RuntimeError, match="the user's"), queue.batch():
            operation = f.read_at(target(PAGE), 0)
            raise RuntimeError("the user's")
        assert operation.result(FOREVER) == PAGE


def test_the_end_of_a_batch_hands_over_at_once(disk_dir: Path) -> None:
    """Not the queue's own thread at its next look, nor whoever waits. Within it at most eight wait for each other."""
    with gio.CompletionQueue(64, backend=BEST_BACKEND) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:

        def handed_over() -> int:
            return queue.stats()["submits" if queue.backend == "uring" else "writes"]  # of a port each is its own

        def submit(count: int) -> list[gio.Operation]:
            return [f.write_at(PAGE_DATA, i * PAGE) for i in range(1, count + 1)]

        with fault(queue, "HOLD", count=1):  # with an operation in flight that thread sleeps between its looks
            f.write_at(PAGE_DATA, 0)
            for count in [*range(1, 8), 20] * 5:
                before = handed_over()
                with queue.batch(), queue.batch():
                    operations = submit(count)
                    assert handed_over() - before >= count // 8
                assert handed_over() - before >= -(-count // 8)
                gio.wait(operations)
                before = handed_over()
                operations += submit(1)
                assert handed_over() > before, "no batch, no delay"
                assert [operation.result(FOREVER) for operation in operations] == [PAGE] * (count + 1)


def test_a_batch_goes_on_by_itself(disk_dir: Path, backend: str) -> None:
    (disk_dir / "file").write_bytes(words(0, 3 * PAGE))
    memory = target(3 * PAGE)
    with gio.CompletionQueue(4, backend=backend) as queue, gio.open(disk_dir / "file", queue=queue) as f:
        with queue.batch():
            for start in range(0, 3 * PAGE, PAGE):
                f.read_at(memory[start : start + PAGE], start)
            deadline = time.monotonic() + 30
            while (memory != words(0, 3 * PAGE)).any() and time.monotonic() < deadline:  # nobody asks the queue
                time.sleep(0.001)
            assert time.monotonic() < deadline


# --- closing ---


def test_close_waits_for_what_is_in_flight(disk_dir: Path, backend: str) -> None:
    queue = gio.CompletionQueue(2, backend=backend, request_size=64 * KIB)
    f = gio.open(disk_dir / "file", "w", queue=queue)
    operations = [f.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(16)]
    queue.close()
    assert queue.closed and "closed" in repr(queue)
    assert all(operation._completion.result != PENDING for operation in operations)
    assert [operation.result(0) for operation in operations] == [MIB] * 16
    queue.close()
    f.close()
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 16 * MIB))


def test_close_right_behind_the_last_outcome(disk_dir: Path, backend: str) -> None:
    """The queue's own thread may be on its way to sleep just then."""
    for _ in range(200):
        with gio.CompletionQueue(1, backend=backend) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
            for operation in [f.write_at(PAGE_DATA, i * PAGE) for i in range(4)]:
                assert operation.result(FOREVER) == PAGE


def test_a_closed_queue_refuses_everything(disk_dir: Path, backend: str) -> None:
    queue = gio.CompletionQueue(backend=backend)
    f = gio.open(disk_dir / "file", "w+", queue=queue)
    finished = f.write_at(PAGE_DATA, 0)
    queue.close()
    for use in (
        lambda: f.write_at(PAGE_DATA, 0),
        lambda: f.write_gather([PAGE_DATA], 0),
        lambda: f.read_at(target(PAGE), 0),
        lambda: gio.open(disk_dir / "file", queue=queue),
        lambda: gio.open(disk_dir / "new", "w", queue=queue),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert not (disk_dir / "new").exists()
    assert queue.get() == [finished]  # what finished before is still handed out
    with pytest.raises(ValueError, match="closed"):
        queue.get()
    assert finished.result() == PAGE
    f.close()


def test_close_sends_waiting_threads_away(disk_dir: Path, backend: str) -> None:
    queue = gio.CompletionQueue(backend=backend)
    failures: list[BaseException] = []
    inside = threading.Barrier(4)

    def get() -> None:
        inside.wait()
        try:
            queue.get(FOREVER)
        except ValueError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    queue.close()
    for thread in threads:
        thread.join(FOREVER)
        assert not thread.is_alive()
    assert len(failures) == 3


def test_an_unused_queue_gives_everything_back(backend: str) -> None:
    gio.CompletionQueue(backend=backend).close()
    gc.collect()
    before = handle_count(), thread_count()
    with pytest.warns(ResourceWarning):
        for _ in range(20):
            gio.CompletionQueue(backend=backend)  # dropped without close
        gc.collect()
    slack = 5 if ON_WINDOWS else 0  # its own handles come and go
    assert handle_count() <= before[0] + slack
    assert comes_down(thread_count, before[1])


def test_several_queues_at_once(disk_dir: Path, backend: str) -> None:
    queues = [gio.CompletionQueue(4, backend=backend) for _ in range(8)]
    files = [gio.open(disk_dir / str(i), "w", queue=queue) for i, queue in enumerate(queues)]
    for i in range(50):
        for j, f in enumerate(files):
            f.write_at(placed(words(i * PAGE, PAGE, j)), i * PAGE)
    for f, queue in zip(files, queues, strict=True):
        f.close()
        queue.close()
        assert len(queue.get()) == 50
    for j in range(8):
        assert_same_bytes((disk_dir / str(j)).read_bytes(), words(0, 50 * PAGE, j))


# --- no growth ---


def test_outcomes_that_were_told_are_not_kept(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    with gio.open(disk_dir / "file", "w", queue=queue) as f:
        operation = f.write_at(PAGE_DATA, 0)
        seen = weakref.ref(operation)
        operation.result()
        del operation
        gc.collect()
        assert seen() is None


LEAK = """
    import sys, time, gatherio as gio
    from this_process import resident
    path, how, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    queue = gio.CompletionQueue() if how == "explicit" else None
    array = gio.zeros(64, "u1")
    with gio.open(path, "w+", queue=queue) as f:
        write = f.write_at
        f.truncate(4096)

        def let_the_disk_catch_up():
            while f._queue.stats()["finished"] < f._queue.stats()["operations"]:
                time.sleep(0.001)  # stats() only looks

        def some(n):
            if how == "dropped":
                for i in range(n):
                    write(array, 0)
                    if i % 1000 == 0:
                        let_the_disk_catch_up()
            else:
                for i in range(n):
                    write(array, 0).result()

        some(count // 5)
        before = resident()
        some(count)
        after = resident()
        if how == "dropped":
            print(len(f._queue._engine.inflight), end=" ")
            f.flush()
        assert len(f._queue._engine.told) <= 512  # references to what has gone are tidied up now and then
        told = sum(reference() is not None for reference in f._queue._engine.told.values())
        print(len(f._queue._engine.inflight), len(f._queue._engine.untold), told, after - before)
    if queue is not None:
        queue.close()
"""


@pytest.fixture
def fast_dir(request: pytest.FixtureRequest) -> Path:
    """In memory where that can be had, for each of the many operations below writes."""
    path: Path = request.getfixturevalue("disk_dir" if ON_WINDOWS else "tmpfs_dir")
    return path


MANY = 50_000 if ON_WINDOWS else 500_000


@pytest.mark.parametrize("how", ["explicit", "default"])
def test_a_million_operations_leave_no_growth(fast_dir: Path, how: str) -> None:
    """Half of them on a queue of one's own, whose get() is never called, half on the shared one."""
    inflight, ready, told, growth = map(int, run_python(LEAK, fast_dir / "f", how, MANY).split())
    assert (inflight, ready, told) == (0, 0, 0)
    assert growth < MIB  # two bytes for each


def test_operations_that_nobody_waits_for_do_not_pile_up(fast_dir: Path) -> None:
    printed = run_python(LEAK, fast_dir / "f", "dropped", MANY // 5 * 2)
    at_most, inflight, ready, told, growth = map(int, printed.split())
    assert at_most < 10_000
    assert (inflight, ready, told) == (0, 0, 0)
    assert growth < 4 * MIB


COME_AND_GO = """
    import gc, operator, sys, warnings, gatherio as gio
    from oracle import PAGE
    from this_process import comes_down, handle_count, resident, thread_count, virtual
    path, backend, what, count = *sys.argv[1:4], int(sys.argv[4])
    array, apart = gio.zeros(PAGE, "u1"), gio.zeros((4, PAGE), "u1")[::2]
    queue = gio.CompletionQueue(backend=backend)
    other = gio.CompletionQueue(backend=backend)
    longlived, beside = gio.open(path, "r+", queue=queue), gio.open(path, "r+", queue=other)

    def files():
        with gio.open(path, "r+", queue=queue) as f, f.lock(0, 10), f.lock(20, 10):
            f.write_at(array, 0).result()

    def batches():
        with queue.batch():
            longlived.write_at(array, 0).result()

    def queues():
        with gio.CompletionQueue(64, backend=backend) as q:
            registration = q.register(array) if backend == "uring" else None
            with gio.open(path, "r+", queue=q) as f, q.batch():
                f.write_gather([apart[0], apart[1]], 0).result()
        if registration:
            registration.close()

    def dropped():
        warnings.simplefilter("ignore", ResourceWarning)
        q = gio.CompletionQueue(64, backend=backend)
        f = gio.open(path, "r+", queue=q)
        f.write_gather([apart[0], apart[1]], 0, copy=True).result()
        f.close()  # the queue goes with its last reference

    def registrations():
        queue.register(array).close()
        queue.register(array[:100])  # goes with its last reference
        with queue.register(apart.base):
            longlived.write_at(apart[1], 0).result()

    def events():
        operations = [longlived.write_at(array, 0), beside.write_at(array, 0)]
        gio.wait(operations, return_when=gio.FIRST_COMPLETED)
        for operation in operations:
            operation.result()  # what nobody asks about waits for get()

    def some(n):
        for _ in range(n):
            globals()[what]()
        gc.collect()

    some(count // 4)
    before, threads = (handle_count(), virtual(), resident()), thread_count()
    some(count)
    after = handle_count(), virtual(), resident()
    assert comes_down(thread_count, threads + 4), thread_count()  # the kernel keeps a worker or two for each ring
    print(*map(operator.sub, after, before))
    longlived.close()
    beside.close()
"""


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("files", 8000),
        ("batches", 60_000),
        ("queues", 400),
        ("dropped", 400),
        ("registrations", 8000),
        ("events", 3000),
    ],
)
def test_what_comes_and_goes_leaves_no_growth(
    quick_dir: Path, backend: str, what: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors, threads, address space and memory are what they were."""
    if what == "registrations" and backend != "uring":
        what, count = "files", 100  # no other backend has any
    (quick_dir / "file").write_bytes(bytes(PAGE))
    # glibc keeps the stacks of threads that have ended, as many as ever ran at once, and makes heaps for some of them.
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0:glibc.malloc.arena_max=1")
    count = count // 20 if ON_WINDOWS else count
    printed = run_python(COME_AND_GO, quick_dir / "file", backend, what, count)
    handles, address_space, memory = map(int, printed.split())
    assert handles <= (5 if ON_WINDOWS else 0)  # its own handles come and go
    assert address_space < 4 * MIB and memory < MIB


def test_get_waits_for_what_is_in_flight_while_the_queue_closes(disk_dir: Path, backend: str) -> None:
    queue = gio.CompletionQueue(backend=backend)
    got: list[gio.Operation] = []
    with gio.open(disk_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD", count=1) as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        getter = threading.Thread(target=lambda: got.extend(queue.get(FOREVER)))
        closer = threading.Thread(target=queue.close)
        getter.start()
        closer.start()
        while not queue.closed:
            time.sleep(0.001)
        getter.join(0.2)  # several looks of the getter
        assert getter.is_alive()
        let_go()
        getter.join(FOREVER)
        closer.join(FOREVER)
    assert got == [operation]


def test_small_unaligned_transfers_run_as_deep_as_the_queue(disk_dir: Path) -> None:
    """They are staged, in buffers of their own: none waits for one of the few large ones."""
    arrays = [placed(words(0, PAGE), shift=8) for _ in range(100)]
    with gio.CompletionQueue(128, backend=BEST_BACKEND) as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_at(placed(words(0, 100 * PAGE)), 0).result()
        if not f.direct:
            pytest.fail("this folder is to be on a disk with direct I/O")
        before = queue.stats()["reads"]
        with fault(queue, "HOLD"):
            operations = [f.read_at(array, i * PAGE) for i, array in enumerate(arrays)]
            assert queue.stats()["reads"] - before == 100
        gio.wait(operations)
    for i, array in enumerate(arrays):
        assert_same_bytes(array, words(i * PAGE, PAGE))


@pytest.mark.parametrize("others", [50, 300, 700])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
def test_a_ragged_write_among_many_that_wait_for_it(disk_dir: Path, backend: str, others: int) -> None:
    """Writes of single blocks wait until the ragged one is over, however far behind them it stands; nobody waits."""
    with gio.CompletionQueue(8, backend=backend) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        if f.alignment >= PAGE:
            pytest.fail("this folder is to be on a disk with blocks of less than a page")
        block = placed(words(0, 512))
        with fault(queue, "HOLD", count=1) as let_go:
            f.write_gather([block], 512)
            f.write_at(placed(words(0, 100)), 0)
            for i in range(others):
                f.write_gather([block], (2 * i + 3) * 512)
            let_go()
        deadline = time.monotonic() + FOREVER
        while queue.stats()["finished"] < others + 2 and time.monotonic() < deadline:
            time.sleep(0.01)  # stats() only looks
        assert queue.stats()["finished"] == others + 2
