"""One operation and several: outcomes, waiting, callbacks, cancelling, Ctrl-C, and going on by themselves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import itertools
import logging
import math
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from oracle import (
    BACKENDS,
    FOREVER,
    GIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    fault,
    not_on_windows,
    pages,
    placed,
    press_ctrl_c,
    run_python,
    target,
    words,
)

import gatherio as gio
from gatherio._core.engine import PENDING

Opener = Callable[..., gio.File]

PAGE_DATA = placed(words(0, PAGE))


@pytest.fixture
def f(disk_dir: Path, queue: gio.CompletionQueue) -> Iterator[gio.File]:
    with gio.open(disk_dir / "file", "w+", queue=queue) as opened:
        yield opened


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take the GIL from each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def no_switching() -> Iterator[None]:
    """No thread takes the GIL from another: it goes on only when that one gives it up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


# --- the names are those of concurrent.futures ---


def test_the_names_are_those_of_concurrent_futures() -> None:
    assert gio.TimeoutError is concurrent.futures.TimeoutError
    assert gio.CancelledError is concurrent.futures.CancelledError
    for name in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        assert getattr(gio, name) == getattr(concurrent.futures, name)
    methods = {name for name in dir(concurrent.futures.Future) if not name.startswith("_")}
    assert methods - set(dir(gio.Operation)) <= {
        "set_result",
        "set_exception",
        "set_running_or_notify_cancel",
    }


# --- one operation ---


def test_a_finished_operation(f: gio.File) -> None:
    operation = f.write_at(PAGE_DATA, 0)
    result = operation.result()
    assert result == PAGE and type(result) is int
    assert operation.result(timeout=0) == PAGE  # again, and at once
    assert operation.exception() is None and operation.exception(0) is None
    assert operation.done() and not operation.running()
    assert not operation.cancelled() and not operation.cancel()
    assert "finished" in repr(operation) and f"write of {PAGE} bytes at offset 0" in repr(operation)


def test_a_running_operation(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        assert not operation.done() and operation.running() and not operation.cancelled()
        assert "running" in repr(operation)
        for timeout in (0, 0.01, -1):
            with pytest.raises(gio.TimeoutError, match=f"write of {PAGE} bytes"):
                operation.result(timeout)
            with pytest.raises(gio.TimeoutError):
                operation.exception(timeout)
        begin = time.monotonic()
        with pytest.raises(gio.TimeoutError):
            operation.result(0.2)
        assert 0.19 < time.monotonic() - begin < 5
        let_go()
        assert operation.result(FOREVER) == PAGE


def test_a_failed_operation(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "FAIL", value=errno.EIO):
        operation = f.read_at(target(PAGE), 3 * PAGE)
        for _ in range(2):
            with pytest.raises(OSError, match=f"read of {PAGE} bytes at offset {3 * PAGE}") as caught:
                operation.result()
            assert caught.value.errno == errno.EIO
            assert caught.value.filename == f.name
            assert repr(f.name) in str(caught.value)
    failure = operation.exception()
    assert isinstance(failure, OSError) and failure.errno == errno.EIO
    assert failure.bytes_in_place == 0  # type: ignore[attr-defined]
    assert operation.done() and not operation.cancelled() and not operation.cancel()
    assert "failed" in repr(operation)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, PermissionError), (errno.EBADF, OSError), (errno.ENOSPC, OSError)],
)
def test_failures_are_the_subclass_by_errno(
    f: gio.File, queue: gio.CompletionQueue, number: int, kind: type[OSError]
) -> None:
    with fault(queue, "FAIL", value=number):
        failure = f.read_at(target(PAGE), 0).exception()
    assert type(failure) is kind


# --- cancelling ---


def outcome(operation: gio.Operation) -> int | None:
    """The result, or None for cancelled."""
    try:
        return operation.result(FOREVER)
    except gio.CancelledError:
        assert operation.cancelled()
        with pytest.raises(gio.CancelledError):
            operation.exception()
        return None


def test_cancelling_what_waits_in_the_queue(disk_dir: Path, backend: str) -> None:
    """Behind a request that is held, an operation has not begun: nothing of it reaches the file."""
    with gio.CompletionQueue(1, backend=backend) as queue:
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            with fault(queue, "HOLD", count=1) as let_go:
                first = f.write_at(PAGE_DATA, 0)
                second = f.write_at(placed(words(PAGE, PAGE)), PAGE)
                assert second.cancel()
                assert outcome(second) is None
                assert "cancelled" in repr(second)
                assert second.cancel()  # as a Future says of a cancelled one
                let_go()
                assert first.result() == PAGE
    assert_same_bytes((disk_dir / "file").read_bytes(), PAGE_DATA)


def test_cancelling_in_the_middle(disk_dir: Path, backend: str) -> None:
    """What began is done, what did not begin is not, and the exception tells how far it came."""
    request = 64 * 1024
    data = placed(words(0, 64 * request))
    with gio.CompletionQueue(2, backend=backend, request_size=request) as queue:
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            # The third and fourth stay out, and two at a time is all: the rest cannot begin.
            with fault(queue, "HOLD", after=2, count=2) as let_go:
                operation = f.write_gather([data], 0)
                while queue.stats()["writes"] < 4:
                    operation.done()
                assert operation.cancel()
                assert not operation.done()
                with pytest.raises(gio.TimeoutError):
                    operation.result(0)
                let_go()
                with pytest.raises(gio.CancelledError) as told:
                    operation.result(FOREVER)
            assert queue.stats()["writes"] == 4
    # The third and fourth may still have been waiting, inside the kernel or for a thread, and were dropped, in any
    # order. To a port such writes are issued by another thread, and in flight there are any two of the four.
    least = 0 if backend == "iocp" else 2
    in_place = next(n * request for n in range(least, 5) if f"first {n * request} bytes are in" in str(told.value))
    content = (disk_dir / "file").read_bytes()
    assert_same_bytes(content[:in_place], data[:in_place])
    assert in_place <= len(content) <= 4 * request


def test_cancelling_what_the_kernel_has(f: gio.File) -> None:
    """Whatever comes of it, the outcome is the full result or CancelledError, and the file agrees."""
    outcomes = []
    for i in range(50):
        data = placed(words(0, 4 * MIB, salt=i))
        operation = f.write_at(data, 0)
        operation.cancel()
        outcomes.append(outcome(operation))
        content = np.fromfile(f.name, "u1", count=4 * MIB)
        if outcomes[-1] is not None:
            assert outcomes[-1] == data.nbytes
            assert_same_bytes(content, data)
    # No failure is left for close() to tell: a cancelled write is none.


CANCEL_STAGED = """
    import errno, os, sys, gatherio as gio
    from oracle import FOREVER, MIB, PAGE, fault, placed, target, words
    path, backend, direction, nbytes = *sys.argv[1:4], int(sys.argv[4])
    count = 300 if nbytes < MIB else 30
    data = placed(words(0, nbytes))

    def submit():
        if direction == "write":
            return f.write_gather([data], 0, copy=True)
        return f.read_scatter([target(nbytes)], 0, copy=True)

    def check(*operations):
        for operation in operations:
            try:
                assert operation.result(FOREVER) == nbytes
            except gio.CancelledError:
                pass
            except gio.TimeoutError:
                os._exit(1)  # closing would wait for it as well
            except OSError as failure:  # dropped by the system more often than it tries again, with nobody having asked
                assert failure.errno == errno.ECANCELED

    with gio.CompletionQueue(512, backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        with fault(queue, "HOLD"):  # before they begin
            operations = [submit() for _ in range(count)]
            for operation in operations:
                operation.cancel()
        check(*operations)
        for kind, many, value in ("FAIL", 2**62, errno.ECANCELED), ("SHORT", 1, PAGE // 2), ("NONE", 0, 0):
            for _ in range(count):  # on their way, and when they are through
                with fault(queue, kind, 0, many, value):
                    operation = submit()
                    operation.cancel()
                    check(operation)
        check(*[submit() for _ in range(count)])
        room = target(nbytes)
        check(f.read_scatter([room], 0, copy=True))
        assert (room == data).all()
"""


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
@pytest.mark.parametrize("nbytes", [2 * PAGE, 2 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("direction", ["read", "write"])
def test_cancelled_operations_give_their_staging_buffers_back(
    disk_dir: Path, backend: str, direction: str, nbytes: int
) -> None:
    """Cancelled more often than there are buffers; what is submitted afterwards finds some."""
    (disk_dir / "file").write_bytes(words(0, nbytes))
    run_python(CANCEL_STAGED, disk_dir / "file", backend, direction, nbytes)
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, nbytes))


CANCEL_WAITING = """
    import fcntl, os, sys, gatherio as gio
    from oracle import FOREVER, PAGE, placed, words
    path, workers, freeze, thaw = sys.argv[1], 16, 0xC0045877, 0xC0045878  # FIFREEZE, FITHAW of <linux/fs.h>
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    data = placed(words(0, PAGE))
    with gio.CompletionQueue(64, backend="threads") as queue, gio.open(path, "w", queue=queue) as f:
        f.write_at(data, 0).result()
        for _ in range(3):
            fcntl.ioctl(folder, freeze, 0)  # from now on every write waits in the kernel, and a worker with it
            try:
                begun = [f.write_at(data, 0) for _ in range(workers)]
                waiting = [f.write_at(data, 0) for _ in range(44)]
                dropped = [waiting.pop(at) for at in (0, 20, -1, *[2] * 37)]  # the first, the last, and in between
                print(all(operation.cancel() for operation in dropped), end=" ")
                print(all(operation.cancelled() for operation in dropped))
                begun += [*waiting, f.write_at(data, 0)]
            finally:
                fcntl.ioctl(folder, thaw, 0)
            try:
                assert [operation.result(FOREVER) for operation in begun] == [PAGE] * (workers + 5)
                for _ in range(3 * workers):
                    assert f.write_at(data, 0).result(FOREVER) == PAGE
            except gio.TimeoutError:
                os._exit(1)  # closing would wait for it as well
"""


@not_on_windows("it has no such backend")
def test_threads_go_on_after_what_waited_for_one_was_cancelled(ext4_dir: Path) -> None:
    """More requests than there are threads for: none of them has been taken up, so all of them end at once."""
    assert run_python(CANCEL_WAITING, ext4_dir / "file").splitlines() == ["True True"] * 3


def test_a_cancelled_operation_lets_go_of_its_array(f: gio.File) -> None:
    array = gio.zeros(64 * MIB, "u1")
    seen = weakref.ref(array)
    operation = f.write_at(array, 0)
    del array
    operation.cancel()
    outcome(operation)
    gc.collect()
    assert seen() is None


# --- callbacks ---


def test_a_callback_before_the_end(f: gio.File, queue: gio.CompletionQueue) -> None:
    calls: list[gio.Operation] = []
    called = threading.Event()
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        operation.add_done_callback(calls.append)
        operation.add_done_callback(lambda _: called.set())
        assert calls == []
        let_go()
        assert called.wait(FOREVER)  # nobody waits for the operation itself
    assert operation.result() == PAGE
    assert calls == [operation]


def test_a_callback_after_the_end_is_called_at_once(f: gio.File) -> None:
    operation = f.write_at(PAGE_DATA, 0)
    operation.result()
    threads: list[int] = []
    operation.add_done_callback(lambda _: threads.append(threading.get_ident()))
    assert threads == [threading.get_ident()]


def test_callbacks_are_called_in_order_and_the_outcome_is_known(f: gio.File, queue: gio.CompletionQueue) -> None:
    calls: list[object] = []
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        for i in range(5):
            operation.add_done_callback(lambda op, i=i: calls.append((i, op.done(), op.result(0))))
        let_go()
        operation.result(FOREVER)
        gio.wait([operation])
    while len(calls) < 5:  # another thread may be calling them
        time.sleep(0)
    assert calls == [(i, True, PAGE) for i in range(5)]


def test_an_exception_in_a_callback_is_logged_and_the_others_are_called(
    f: gio.File, queue: gio.CompletionQueue, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()

    def fails(operation: gio.Operation) -> None:
        raise RuntimeError("from the callback")

    with caplog.at_level(logging.ERROR, "gatherio"), fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        operation.add_done_callback(fails)
        operation.add_done_callback(lambda _: called.set())
        let_go()
        assert called.wait(FOREVER)
        assert operation.result() == PAGE
        operation.add_done_callback(fails)  # at once: logged, too
    assert caplog.text.count("RuntimeError: from the callback") == 2


def test_callbacks_of_failed_and_cancelled_operations(f: gio.File, queue: gio.CompletionQueue) -> None:
    failed, cancelled = threading.Event(), threading.Event()
    with fault(queue, "FAIL", value=errno.EIO):
        operation = f.read_at(target(PAGE), 0)
        operation.add_done_callback(lambda op: op.exception() and failed.set())
        assert failed.wait(FOREVER)
    with fault(queue, "HOLD") as let_go:
        operations = [f.write_at(PAGE_DATA, 0) for _ in range(queue.depth + 1)]
        operations[-1].add_done_callback(lambda op: op.cancelled() and cancelled.set())
        assert operations[-1].cancel()
        assert cancelled.wait(FOREVER)
        let_go()


def test_a_callback_may_submit_and_wait(f: gio.File, queue: gio.CompletionQueue) -> None:
    results: list[int] = []
    done = threading.Event()

    def next_one(operation: gio.Operation) -> None:
        if len(results) == 20:
            done.set()
            return
        results.append(f.write_at(PAGE_DATA, PAGE).result(FOREVER))
        f.write_at(PAGE_DATA, 0).add_done_callback(next_one)

    f.write_at(PAGE_DATA, 0).add_done_callback(next_one)
    assert done.wait(FOREVER)
    assert results == [PAGE] * 20


@pytest.mark.usefixtures("eager_switching")
def test_each_callback_is_called_once_whoever_is_first(f: gio.File) -> None:
    """Callbacks are added while the operations end, and several threads collect."""
    calls: list[int] = []
    operations = []
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            gio.wait(operations[-20:], timeout=0)

    threads = [threading.Thread(target=collect) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(1000):
        operation = f.write_at(PAGE_DATA, 0)
        operations.append(operation)
        operation.add_done_callback(lambda _, i=i: calls.append(i))
    gio.wait(operations)
    stop.set()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + FOREVER
    while len(calls) < 1000 and time.monotonic() < deadline:
        time.sleep(0)
    assert sorted(calls) == list(range(1000))


# --- several ---


@pytest.fixture
def two(disk_dir: Path, backend: str) -> Iterator[tuple[gio.File, gio.File]]:
    """Two files with a queue each: the second one's can be held while the first one's goes on."""
    with gio.CompletionQueue(backend=backend) as a, gio.CompletionQueue(backend=backend) as b:
        with gio.open(disk_dir / "a", "w+", queue=a) as f, gio.open(disk_dir / "b", "w+", queue=b) as g:
            yield f, g


def submit(f: gio.File, count: int) -> list[gio.Operation]:
    return [f.write_at(PAGE_DATA, i * PAGE) for i in range(count)]


def test_wait_for_all(two: tuple[gio.File, gio.File]) -> None:
    operations = [*submit(two[0], 20), *submit(two[1], 20)]
    done, not_done = gio.wait(operations)
    assert done == set(operations) and not_done == set()
    done, not_done = gio.wait([*operations, *operations], timeout=0)
    assert done == set(operations) and not_done == set()


def test_wait_for_nothing() -> None:
    assert gio.wait([]) == (set(), set())
    assert list(gio.as_completed([])) == []
    with pytest.raises(ValueError, match="return condition"):
        gio.wait([], return_when="SOMETIME")


def test_wait_returns_what_it_has_when_the_time_is_up(two: tuple[gio.File, gio.File]) -> None:
    for timeout in (0.1, 0):
        with fault(two[1]._queue, "HOLD"):
            quick, held = submit(two[0], 3), submit(two[1], 2)
            if not timeout:
                gio.wait(quick)
            waited = gio.wait([*quick, *held], timeout=timeout)
            assert waited.done == set(quick) and waited.not_done == set(held)


def test_wait_for_the_first(two: tuple[gio.File, gio.File]) -> None:
    with fault(two[1]._queue, "HOLD") as let_go:
        held = submit(two[1], 5)
        quick = two[0].write_at(PAGE_DATA, 0)
        waited = gio.wait([*held, quick], FOREVER, gio.FIRST_COMPLETED)
        assert waited == ({quick}, set(held))
        assert gio.wait(held, 0.05, gio.FIRST_COMPLETED) == (set(), set(held))
        threading.Thread(target=let_go).start()
        waited = gio.wait(held, FOREVER, gio.FIRST_COMPLETED)
        assert waited.done and waited.done | waited.not_done == set(held)


def test_wait_for_the_first_of_one_queue(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "HOLD", count=5):  # whichever come back first
        operations = submit(f, 6)
        done, not_done = gio.wait(operations, FOREVER, gio.FIRST_COMPLETED)
        assert len(done) == 1 and done | not_done == set(operations)


def test_wait_for_the_first_exception(two: tuple[gio.File, gio.File]) -> None:
    f, g = two
    with fault(g._queue, "HOLD"), fault(f._queue, "FAIL", value=errno.EIO):
        held = submit(g, 3)
        failing = f.read_at(target(PAGE), 0)
        waited = gio.wait([*held, failing], FOREVER, gio.FIRST_EXCEPTION)
        assert waited == ({failing}, set(held))
    fine = [*submit(f, 5), *submit(g, 5)]
    assert gio.wait(fine, FOREVER, gio.FIRST_EXCEPTION).done == set(fine)  # none: as ALL_COMPLETED


def test_a_cancelled_operation_is_no_exception(disk_dir: Path, backend: str) -> None:
    """As concurrent.futures.wait has it."""
    with gio.CompletionQueue(1, backend=backend) as queue, gio.open(disk_dir / "f", "w", queue=queue) as f:
        with fault(queue, "HOLD"):
            held, cancelled = submit(f, 2)
            assert cancelled.cancel()
            outcome(cancelled)
            assert gio.wait([held, cancelled], 0, gio.FIRST_EXCEPTION) == ({cancelled}, {held})
            assert gio.wait([held, cancelled], 0.05, gio.FIRST_EXCEPTION) == ({cancelled}, {held})


def test_as_completed(two: tuple[gio.File, gio.File]) -> None:
    operations = [*submit(two[0], 30), *submit(two[1], 30)]
    seen = list(gio.as_completed([*operations, *operations[:5]]))
    assert len(seen) == 60 and set(seen) == set(operations)
    assert set(gio.as_completed(operations, timeout=0)) == set(operations)


def test_as_completed_gives_the_finished_before_the_others(two: tuple[gio.File, gio.File]) -> None:
    with fault(two[1]._queue, "HOLD") as let_go:
        held, quick = submit(two[1], 3), submit(two[0], 3)
        completed = gio.as_completed([*held, *quick])
        assert set(itertools.islice(completed, 3)) == set(quick)
        let_go()
        assert set(completed) == set(held)


def test_as_completed_out_of_time(two: tuple[gio.File, gio.File]) -> None:
    with fault(two[1]._queue, "HOLD"):
        held, quick = submit(two[1], 2), submit(two[0], 2)
        completed = gio.as_completed([*held, *quick], timeout=0.1)
        assert {next(completed), next(completed)} == set(quick)
        with pytest.raises(gio.TimeoutError, match=r"2 \(of 4\)"):
            next(completed)


@pytest.mark.parametrize("taken_before", [0, 1])
def test_the_time_of_as_completed_counts_from_the_call(
    taken_before: int, two: tuple[gio.File, gio.File], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic_ns()]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    with fault(two[1]._queue, "HOLD") as let_go:
        held, quick = submit(two[1], 2), submit(two[0], taken_before)
        completed = gio.as_completed([*held, *quick], timeout=50)
        assert {next(completed) for _ in quick} == set(quick)
        now[0] += 51 * 10**9  # spent by the caller, before the first step or between two
        last_resort = threading.Timer(5, let_go)
        last_resort.start()
        with pytest.raises(gio.TimeoutError, match=rf"2 \(of {2 + taken_before}\)"):
            next(completed)
        last_resort.cancel()


class Awaited(NamedTuple):
    """A call that waits, while there is nothing to be had, and what lets it go on."""

    call: Callable[[Any], object]
    let_go: Callable[[], object]


@contextlib.contextmanager
def nothing_to_be_had(name: str, f: gio.File, queue: gio.CompletionQueue) -> Iterator[Awaited]:
    with contextlib.ExitStack() as at_end:
        if name == "acquire":
            pool = at_end.enter_context(gio.Pool(1, 10))
            taken = pool.acquire()
            yield Awaited(lambda timeout: pool.acquire(timeout=timeout), lambda: pool.release(taken))
        elif name in ("lock", "lock_async"):
            lock = at_end.enter_context(f.lock(0, 10))
            calls: dict[str, Callable[[Any], object]] = {
                "lock": lambda timeout: f.lock(0, 10, wait=True, timeout=timeout),
                "lock_async": lambda timeout: asyncio.run(f.lock_async(0, 10, timeout=timeout)),
            }
            yield Awaited(calls[name], lock.unlock)
        else:
            let_go = at_end.enter_context(fault(queue, "HOLD"))
            operation = f.write_at(PAGE_DATA, 0)
            calls = {
                "result": operation.result,
                "exception": operation.exception,
                "wait": lambda timeout: give_or_raise(gio.wait([operation], timeout).done),
                "wait first": lambda timeout: give_or_raise(gio.wait([operation], timeout, gio.FIRST_COMPLETED).done),
                "as_completed": lambda timeout: next(gio.as_completed([operation], timeout)),
                "get": lambda timeout: give_or_raise(queue.get(timeout)),
            }
            yield Awaited(calls[name], let_go)


def give_or_raise(found: Collection[gio.Operation]) -> gio.Operation:
    if not found:
        raise gio.TimeoutError
    return next(iter(found))


TIMED = ["result", "exception", "wait", "wait first", "as_completed", "get", "acquire", "lock", "lock_async"]


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [math.inf, np.float32(np.inf), 1e300, 2**63, 10**400, 2**32, None], ids=repr)
def test_a_time_without_an_end(name: str, timeout: Any, f: gio.File, queue: gio.CompletionQueue) -> None:
    with nothing_to_be_had(name, f, queue) as awaited:
        others = threading.Timer(0.05, awaited.let_go)
        others.start()
        awaited.call(timeout)
        others.join()


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [0, -1, -0.5, -math.inf, -(10**400), False, Fraction(-1, 2)], ids=repr)
def test_a_time_that_is_over(name: str, timeout: Any, f: gio.File, queue: gio.CompletionQueue) -> None:
    with nothing_to_be_had(name, f, queue) as awaited:
        with pytest.raises((gio.TimeoutError, TimeoutError)):
            awaited.call(timeout)


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [math.nan, np.float64("nan"), "5", b"5", [1], 1j], ids=repr)
def test_a_time_that_is_none(name: str, timeout: Any, f: gio.File, queue: gio.CompletionQueue) -> None:
    with nothing_to_be_had(name, f, queue) as awaited:
        kind = ValueError if isinstance(timeout, float) else TypeError
        with pytest.raises(kind, match="a timeout is a number of seconds, or None, not "):
            awaited.call(timeout)


def test_numbers_of_other_kinds_are_times(f: gio.File) -> None:
    operation = f.write_at(PAGE_DATA, 0)
    for timeout in (np.float32(60), np.int8(60), np.uint64(60), Fraction(61, 2), Decimal("60.5"), True):
        assert gio.wait([operation], timeout).done == {operation}


# --- what is no operation ---


async def a_coroutine() -> None:
    pass


@pytest.mark.parametrize("call", [gio.wait, gio.as_completed])
def test_only_operations_can_be_waited_for(call: Callable[[Any], object], f: gio.File) -> None:
    operation, name = f.write_at(PAGE_DATA, 0), call.__name__
    coroutine, loop = a_coroutine(), asyncio.new_event_loop()
    cases: list[tuple[Any, str]] = [
        ([1], "not int"),
        ([operation, None], "not NoneType"),
        ([np.zeros(3)], "not numpy.ndarray"),
        ([f], "not gatherio.File"),
        (operation, rf"an iterable of operations, as in {name}\(\[op\]\), not gatherio.Operation"),
        (7, "an iterable of operations.* not int"),
        ([concurrent.futures.Future()], f"Future: concurrent.futures.{name} takes it"),
        ([coroutine], f"asyncio.{name} takes it"),
        ([loop.create_future()], f"asyncio.{name} takes it"),
        ([[operation], [operation]], "in one list"),
    ]
    try:
        for ops, says in cases:
            with pytest.raises(TypeError, match=f"^gatherio.{name} takes .*{says}"):
                call(ops)
    finally:
        coroutine.close()
        loop.close()
    assert operation.result() == PAGE


# --- the GIL ---


def waits(f: gio.File, queue: gio.CompletionQueue) -> dict[str, Callable[[gio.Operation], object]]:
    return {
        "result": lambda operation: operation.result(FOREVER),
        "exception": lambda operation: operation.exception(FOREVER),
        "wait": lambda operation: gio.wait([operation], FOREVER).done.pop(),
        "wait first": lambda operation: gio.wait([operation], FOREVER, gio.FIRST_COMPLETED).done.pop(),
        "as_completed": lambda operation: next(gio.as_completed([operation], FOREVER)),
        "get": lambda operation: queue.get(FOREVER).index(operation),
        "flush": lambda operation: f.flush(),
        "truncate": lambda operation: f.truncate(PAGE),
        "close": lambda operation: f.close(),
        "queue.close": lambda operation: queue.close(),
    }


WAITS = list(waits(None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.usefixtures("no_switching")
def test_waiting_releases_the_gil(f: gio.File, queue: gio.CompletionQueue, name: str) -> None:
    """What is waited for is let go by another thread, which gets the GIL only if the waiting one gives it up."""
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(PAGE_DATA, 0)
        waiting = threading.Event()
        thread = threading.Thread(target=lambda: (waiting.wait(), let_go()))
        thread.start()
        waiting.set()
        waits(f, queue)[name](operation)
        thread.join()
        assert operation.result(0) == PAGE


SPINNING_WRITER = """
import mmap, sys, time, gatherio as gio, numpy as np
path, flag, backend = sys.argv[1:]
with open(flag, "r+b") as shared:
    stop = mmap.mmap(shared.fileno(), 1)
region = gio.empty((8, 1 << 20), "u1")
region[...] = np.arange(1, 9, dtype="u1")[:, None]
segments = gio.Segments.rows(region, np.arange(1024) * 3 % 8)
sys.setswitchinterval(1000)
with gio.CompletionQueue(backend=backend, depth=8, request_size=1 << 20) as q:
    with gio.open(path, "w", queue=q, preallocate=1 << 30) as f:
        operation = f.write_gather(segments, 0)
        deadline = time.monotonic() + 100
        while stop[0] == 0 and time.monotonic() < deadline:
            pass  # nothing here lets go of the GIL
        stats = q.stats()
        print(stop[0], operation.done(), stats["writes"], stats["operations"])
"""


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "sync"], indirect=True)
def test_an_operation_goes_on_while_python_holds_the_gil(disk_dir: Path, backend: str) -> None:
    """1 GiB in 1024 requests. This process looks at the file and tells the other when all of it is there."""
    flag = disk_dir / "flag"
    flag.write_bytes(b"\0")
    command = [sys.executable, "-c", SPINNING_WRITER, disk_dir / "file", flag, backend]
    expected = bytes(i * 3 % 8 + 1 for i in range(1024))
    with (
        open(flag, "r+b") as shared,
        mmap.mmap(shared.fileno(), 1) as stop,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer,
    ):
        deadline = time.monotonic() + 90
        missing = list(range(1024))
        while missing and time.monotonic() < deadline and writer.poll() is None:
            time.sleep(0.02)  # not for synchronisation: so as not to take the CPU from the other one
            missing = [i for i in missing if last_byte_of_mib(disk_dir / "file", i) != expected[i]]
        stop[0] = 1
        printed, _ = writer.communicate(timeout=FOREVER)
    assert not missing, f"{len(missing)} requests had not been written after 90 s of spinning"
    assert printed.split() == ["1", "True", "1024", "1"]
    assert (disk_dir / "file").stat().st_size == GIB


def last_byte_of_mib(path: Path, index: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return -1
    try:
        if not ON_WINDOWS:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        os.lseek(fd, (index + 1) * MIB - 1, os.SEEK_SET)
        byte = os.read(fd, 1)
        return byte[0] if byte else -1
    finally:
        os.close(fd)


# --- Ctrl-C ---


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_in_a_wait_leaves_the_operation_running(f: gio.File, queue: gio.CompletionQueue, name: str) -> None:
    data = placed(words(0, MIB))
    with fault(queue, "HOLD") as let_go:
        operation = f.write_at(data, 0)
        interrupt = threading.Timer(0.1, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            interrupt.start()
            waits(f, queue)[name](operation)
        interrupt.join()
        assert operation._completion.result == PENDING
        del data
        gc.collect()
        let_go()
        assert operation.result(FOREVER) == MIB
        f.close()
        queue.close()
    assert_same_bytes(Path(f.name).read_bytes(), words(0, MIB))  # type: ignore[arg-type]


@contextlib.contextmanager
def ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Has it called by the main thread, wherever that is, some thousands of times a second."""
    number = signal.SIGINT if sys.platform == "win32" else signal.SIGALRM
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            signal.raise_signal(number)
            time.sleep(0)

    before = signal.signal(number, lambda *_: tick())
    sender = threading.Thread(target=send)
    try:
        if sys.platform == "win32":
            sender.start()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        yield
    finally:
        if sys.platform == "win32":
            stop.set()
            sender.join()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


# Now and then an interrupt meets a callback of the garbage collector, which Python can only print.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("eager_switching")
def test_ctrl_c_loses_no_operation(disk_dir: Path, backend: str) -> None:
    """Interrupted again and again while it takes them, get() hands out each operation once."""
    interrupts = 0
    armed = False
    seen: list[gio.Operation] = []

    def interrupt() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "f", "w+", queue=queue) as f:
        operations = submit(f, 500)
        with ticking(interrupt):
            while True:
                try:
                    armed = True
                    found = queue.get(0, max=1)
                    armed = False
                    seen.extend(found)
                    if not found and all(operation._completion.result != PENDING for operation in operations):
                        if interrupts >= 10:
                            break
                        operations += submit(f, 500)
                except KeyboardInterrupt:
                    interrupts += 1
        assert len(set(seen)) == len(seen)
        # An interrupt between the return and us loses the one that was just handed out; the library loses none.
        assert len(seen) + interrupts >= len(operations)
        assert gio.wait(operations, FOREVER).not_done == set()
        assert all(operation.result() == PAGE for operation in operations)


def test_reads_many_ways_at_once(disk_dir: Path, queue: gio.CompletionQueue) -> None:
    """Several threads, each waiting in its own way for its own operations of one file."""
    (disk_dir / "file").write_bytes(words(0, 256 * PAGE))
    failures: list[BaseException] = []

    def read(f: gio.File, begin: int, how: str) -> None:
        try:
            arrays = [target(PAGE) for _ in range(64)]
            operations = [f.read_at(array, (begin + i) * PAGE) for i, array in enumerate(arrays)]
            if how == "wait":
                gio.wait(operations)
            elif how == "as_completed":
                assert len(list(gio.as_completed(operations, FOREVER))) == 64
            elif how == "done":
                while not all(operation.done() for operation in operations):
                    pass
            assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 64
            for i, array in enumerate(arrays):
                assert_same_bytes(array, words((begin + i) * PAGE, PAGE))
        except BaseException as failure:
            failures.append(failure)

    with gio.open(disk_dir / "file", queue=queue) as f:
        threads = [
            threading.Thread(target=read, args=(f, 64 * i, how))
            for i, how in enumerate(["wait", "as_completed", "done", "result"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_gather_keeps_its_segments(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "HOLD") as let_go:
        operation = f.write_gather(gio.Segments(pages(1100)), 0)
        gc.collect()
        let_go()
        assert operation.result(FOREVER) == 1100 * PAGE
    assert_same_bytes(Path(f.name).read_bytes(), words(0, 1100 * PAGE))  # type: ignore[arg-type]


def test_callbacks_do_not_run_within_a_submission(f: gio.File) -> None:
    lock = threading.Lock()
    called = threading.Event()

    def callback(_: gio.Operation) -> None:
        with lock:
            called.set()

    with lock:
        first = f.write_at(placed(words(0, MIB)), 0)
        first.add_done_callback(callback) if not first.done() else called.set()
        for i in range(1, 5):
            f.write_at(placed(words(i * MIB, MIB)), i * MIB)
    assert called.wait(FOREVER)


def test_first_exception_is_not_a_cancellation(disk_dir: Path, backend: str) -> None:
    with gio.CompletionQueue(1, backend=backend) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
        with fault(queue, "HOLD", count=1) as let_go:
            running = f.write_at(placed(words(0, PAGE)), 0)
            dropped = f.write_at(placed(words(PAGE, PAGE)), PAGE)
            assert dropped.cancel()
            done, not_done = gio.wait([running, dropped], 0.1, gio.FIRST_EXCEPTION)
            assert (done, not_done) == ({dropped}, {running})
            threading.Timer(0.1, let_go).start()
            assert gio.wait([running, dropped], FOREVER, gio.FIRST_EXCEPTION).not_done == set()
