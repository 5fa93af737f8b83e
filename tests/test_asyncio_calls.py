"""What asyncio and concurrent.futures have for futures, given operations: each call works, or raises at once.

One table: calls x states of the operation x loops x backends. Then files and locks in ``async with``, and trio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle import (
    FOREVER,
    ON_WINDOWS,
    ON_WINE,
    PAGE,
    assert_same_bytes,
    fault,
    not_on_windows,
    not_under_wine,
    placed,
    run_python,
    set_fault,
    shim,
    words,
)

import gatherio as gio

PAGE_DATA = placed(words(0, PAGE))
HAS_GROUPS = sys.version_info >= (3, 11)  # and asyncio.timeout

Call = Callable[[gio.Operation], Awaitable[int]]

# --- backends and loops ---


@pytest.fixture(params=["iocp"] if ON_WINDOWS else ["uring", "threads"])
def backend(request: pytest.FixtureRequest) -> str:
    """One of each kind that a loop meets: on Linux those whose completions it can watch and those it is told of."""
    name: str = request.param
    found = gio.info()["backends"][name]
    if not found["available"]:
        pytest.skip(found["reason"])
    return name


def new_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop: pip install 'gatherio[test]'")
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made


def new_checking_loop() -> asyncio.AbstractEventLoop:
    """One that raises where another thread's call is for its own."""
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = FOREVER  # a busy machine is not its affair
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": new_checking_loop}
if sys.platform == "win32":
    LOOPS["selector"] = asyncio.SelectorEventLoop
else:
    LOOPS["uvloop"] = new_uvloop


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made = LOOPS[request.param]()
    yield made
    if not made.is_closed():
        made.run_until_complete(made.shutdown_default_executor())
        made.close()


def run(loop: asyncio.AbstractEventLoop, main: Awaitable[Any]) -> Any:
    return loop.run_until_complete(asyncio.wait_for(main, FOREVER))


# --- calls ---


async def awaited(op: gio.Operation) -> int:
    return await op


async def waited(op: gio.Operation, when: str = asyncio.ALL_COMPLETED) -> int:
    done, pending = await asyncio.wait([op], return_when=when)
    assert not pending
    (found,) = done  # before Python 3.11 a task of it
    return found.result()


async def as_completed(op: gio.Operation) -> int:
    (only,) = asyncio.as_completed([op])
    return await only


async def gathered(op: gio.Operation) -> int:
    (result,) = await asyncio.gather(op)
    return result


async def gathered_with_exceptions(op: gio.Operation) -> int:
    (result,) = await asyncio.gather(op, return_exceptions=True)
    if isinstance(result, BaseException):
        raise result
    return result


async def in_time(op: gio.Operation) -> int:
    async with asyncio.timeout(FOREVER):
        return await op


async def in_a_group(op: gio.Operation) -> int:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.wait_for(op, None))
    except BaseExceptionGroup as failures:  # noqa: F821 (Python 3.11)
        raise failures.exceptions[0] from None
    return await task


async def from_another_thread(op: gio.Operation) -> int:
    loop = asyncio.get_running_loop()
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(op, None), loop)
    return await asyncio.to_thread(future.result)


def futures_wait(op: gio.Operation, when: str = concurrent.futures.ALL_COMPLETED) -> int:
    done, not_done = concurrent.futures.wait([op], FOREVER, when)  # type: ignore[list-item]
    assert done == {op} and not not_done  # type: ignore[comparison-overlap]
    return op.result(0)


def futures_as_completed(op: gio.Operation) -> int:
    (only,) = concurrent.futures.as_completed([op], FOREVER)  # type: ignore[list-item]
    assert only is op  # type: ignore[comparison-overlap]
    return op.result(0)


IN_THREADS: dict[str, Callable[[gio.Operation], int]] = {
    "futures.wait": futures_wait,
    "futures.wait first": lambda op: futures_wait(op, concurrent.futures.FIRST_COMPLETED),
    "futures.wait exception": lambda op: futures_wait(op, concurrent.futures.FIRST_EXCEPTION),
    "futures.as_completed": futures_as_completed,
    "gio.wait": lambda op: next(iter(gio.wait([op], FOREVER).done)).result(),
    "result": lambda op: op.result(FOREVER),
}
CALLS: dict[str, Call] = {
    "await": awaited,
    "wait": waited,
    "wait first": lambda op: waited(op, asyncio.FIRST_COMPLETED),
    "wait exception": lambda op: waited(op, asyncio.FIRST_EXCEPTION),
    "as_completed": as_completed,
    "gather": gathered,
    "gather exceptions": gathered_with_exceptions,
    "wait_for": lambda op: asyncio.wait_for(op, FOREVER),
    "wait_for ever": lambda op: asyncio.wait_for(op, None),
    "shield": lambda op: asyncio.shield(op),
    "ensure_future": lambda op: asyncio.ensure_future(op),
    "create_task": lambda op: asyncio.create_task(asyncio.wait_for(op, None)),
    "run_coroutine_threadsafe": from_another_thread,
    **({"timeout": in_time, "TaskGroup": in_a_group} if HAS_GROUPS else {}),
    **{name: (lambda op, call=call: asyncio.to_thread(call, op)) for name, call in IN_THREADS.items()},
}

# --- states ---


class Behind:
    """An operation that waits for another one, which is held, in a queue of depth 1; and one that then fails."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.queue = gio.CompletionQueue(1, backend=backend)
        self.file = gio.open(folder / "file", "w+", queue=self.queue)
        set_fault(self.queue, "HOLD")
        self._first = self.file.write_at(PAGE_DATA, 0)
        self.op = self.file.write_at(PAGE_DATA, PAGE)
        self.failing = (
            self._fails_elsewhere() if ON_WINE else self.file.write_at(PAGE_DATA, 2**62)
        )  # no file is so long

    def _fails_elsewhere(self) -> gio.Operation:
        """At its own pace: where WriteFile fails at once Wine 8 sends a packet nevertheless."""
        self._elsewhere = gio.CompletionQueue(1, backend=self.queue.backend)
        set_fault(self._elsewhere, "FAIL", value=errno.EIO)
        self._other = gio.open(self.file.name, "r+", queue=self._elsewhere)
        return self._other.write_at(PAGE_DATA, 2 * PAGE)

    def let_go(self) -> None:
        set_fault(self.queue, "NONE")

    def cancel(self) -> None:
        assert self.op.cancel()

    def close(self) -> None:
        self.let_go()
        assert self._first.result(FOREVER) == PAGE
        assert isinstance(self.failing.exception(FOREVER), OSError)
        self.file.close()
        self.queue.close()
        if ON_WINE:
            self._other.close()
            self._elsewhere.close()


@pytest.fixture
def behind(disk_dir: Path, backend: str) -> Iterator[Behind]:
    with contextlib.closing(Behind(disk_dir, backend)) as made:
        yield made


ENDS: dict[str, tuple[str, Callable[[Behind], None], type[BaseException] | None]] = {
    "succeeds": ("op", Behind.let_go, None),
    "fails": ("failing", Behind.let_go, OSError),
    "is cancelled": ("op", Behind.cancel, gio.CancelledError),
}


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", [True, False], ids=["before", "meanwhile"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", CALLS)
def test_each_call_tells_how_it_ends(
    behind: Behind, loop: asyncio.AbstractEventLoop, name: str, end: str, before: bool
) -> None:
    which, bring_about, kind = ENDS[end]
    op: gio.Operation = getattr(behind, which)
    if kind is gio.CancelledError and name in ("run_coroutine_threadsafe", *IN_THREADS):
        kind = asyncio.CancelledError  # which asyncio makes of it on the way from a thread

    async def main() -> None:
        if before:
            bring_about(behind)
            gio.wait([op])
        task = asyncio.ensure_future(CALLS[name](op))
        if not before:
            await turns()
            assert not task.done() or op is not behind.op
            bring_about(behind)
        if kind is None:
            assert await task == PAGE
        else:
            with pytest.raises(kind):
                await task

    run(loop, main())


@pytest.mark.parametrize("name", CALLS)
def test_cancelling_the_task_leaves_the_operation(behind: Behind, loop: asyncio.AbstractEventLoop, name: str) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(CALLS[name](behind.op))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not behind.op.done()
        behind.let_go()
        assert await behind.op == PAGE

    run(loop, main())


@pytest.mark.parametrize("name", CALLS)
def test_several_operations(disk_dir: Path, backend: str, loop: asyncio.AbstractEventLoop, name: str) -> None:
    async def main() -> None:
        with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "file", "w", queue=queue) as f:
            ops = [f.write_at(PAGE_DATA, i * PAGE) for i in range(8)]
            assert await asyncio.gather(*(CALLS[name](op) for op in ops)) == [PAGE] * 8

    run(loop, main())


@pytest.mark.parametrize("name", CALLS)
def test_two_loops_at_once(behind: Behind, name: str) -> None:
    """Each in a thread of its own, both with one operation that a third thread has submitted."""
    results: list[object] = []
    begun = threading.Barrier(3)

    async def main() -> None:
        task = asyncio.ensure_future(CALLS[name](behind.op))
        await turns()
        await asyncio.to_thread(begun.wait, FOREVER)
        results.append(await asyncio.wait_for(task, FOREVER))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait(FOREVER)
    behind.let_go()
    for thread in threads:
        thread.join()
    assert results == [PAGE, PAGE]


# What is left of the coroutines wants to use the closed loop when it is let go of: asyncio's own affair.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in IN_THREADS and "thread" not in name])
def test_a_loop_closed_meanwhile(
    behind: Behind, loop: asyncio.AbstractEventLoop, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits in it is never woken. The next loop is not disturbed, and nothing is complained of."""
    left: list[Any] = []

    async def begin() -> None:
        left.append(asyncio.ensure_future(CALLS[name](behind.op)))
        await turns()
        left.extend(asyncio.all_tasks() - {asyncio.current_task()})

    loop.run_until_complete(begin())
    loop.close()
    behind.let_go()
    assert asyncio.run(awaited(behind.op)) == PAGE
    for task in left:
        assert not task.done()
        task._log_destroy_pending = False
    assert not caplog.records
    del task
    left.clear()
    gc.collect()


# --- several at once ---


if sys.version_info >= (3, 11):  # before, asyncio.wait makes tasks of them

    @pytest.mark.parametrize("when", [asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION])
    def test_wait_gives_the_operations_themselves(behind: Behind, loop: asyncio.AbstractEventLoop, when: str) -> None:
        async def main() -> None:
            finished = behind.file.write_gather([], 0)
            assert await asyncio.wait([behind.op, finished], timeout=0.01) == ({finished}, {behind.op})
            everything = {behind.op, behind.failing, finished}
            waiting = asyncio.ensure_future(asyncio.wait(everything, return_when=when))
            await turns()
            behind.let_go()
            done, pending = await waiting
            expected = {
                asyncio.ALL_COMPLETED: everything,
                asyncio.FIRST_COMPLETED: {finished},
                asyncio.FIRST_EXCEPTION: {finished, behind.failing},
            }
            assert expected[when] <= done and done | pending == everything

        run(loop, main())


def test_futures_wait_with_operations_and_futures(behind: Behind) -> None:
    """Whichever comes first in memory, no future is left locked, which its worker would wait for at its end."""
    let_go = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(let_go.wait, FOREVER) for _ in range(4)]
        finished = behind.file.write_gather([], 0)
        everything: list[Any] = [behind.op, finished, *futures]
        done, not_done = concurrent.futures.wait(everything, 0)
        assert done == {finished} and not_done == {behind.op, *futures}
        done, _ = concurrent.futures.wait(everything, FOREVER, concurrent.futures.FIRST_COMPLETED)
        assert done == {finished}
        with pytest.raises(gio.TimeoutError):
            list(concurrent.futures.as_completed(everything, 0.01))
        let_go.set()
        done, not_done = concurrent.futures.wait([*everything[2:], finished], FOREVER)
        assert not not_done
        behind.let_go()
        done, _ = concurrent.futures.wait([behind.op, *futures], FOREVER)
        assert done == {behind.op, *futures}
        assert set(concurrent.futures.as_completed(everything, FOREVER)) == set(everything)


def test_futures_wait_ends_with_the_first_exception(behind: Behind) -> None:
    with gio.CompletionQueue(backend=behind.queue.backend) as queue:
        with gio.open(behind.file.name, "r+", queue=queue) as f, fault(queue, "HOLD"):
            everything: list[Any] = [behind.failing, f.write_at(PAGE_DATA, 9 * PAGE)]
            behind.let_go()
            done, not_done = concurrent.futures.wait(everything, FOREVER, concurrent.futures.FIRST_EXCEPTION)
            assert (done, not_done) == ({behind.failing}, {everything[1]})


def living(name: str) -> int:
    """How many objects are there with this name, or of a class with it."""
    gc.collect()
    return sum(name in (getattr(each, "__name__", ""), type(each).__name__) for each in gc.get_objects())


def test_asking_again_and_again_leaves_nothing_behind(behind: Behind, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        for _ in range(100):
            done, _ = await asyncio.wait([behind.op], timeout=0)
            assert not done

    run(loop, main())
    for _ in range(100):
        assert concurrent.futures.wait([behind.op], 0).done == set()  # type: ignore[list-item]
    assert living("_on_completion") == 0  # the callback of asyncio.wait
    assert living("_AllCompletedWaiter") == 1  # the class itself


# --- what cannot be: at once, and with the call that works ---


def wrong_calls() -> dict[str, Callable[[gio.Operation], object]]:
    async def in_a_group(op: gio.Operation) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(op)  # type: ignore[arg-type]

    calls: dict[str, Callable[[gio.Operation], object]] = {
        "create_task": asyncio.create_task,  # type: ignore[dict-item]
        "loop.create_task": lambda op: asyncio.get_running_loop().create_task(op),  # type: ignore[arg-type]
        "wrap_future": asyncio.wrap_future,  # type: ignore[dict-item]
    }
    return {**calls, **({"TaskGroup": in_a_group} if HAS_GROUPS else {})}


@pytest.mark.parametrize("name", wrong_calls())
@pytest.mark.parametrize("done", [True, False], ids=["done", "running"])
def test_calls_for_coroutines_and_futures_alone(
    behind: Behind, loop: asyncio.AbstractEventLoop, name: str, done: bool
) -> None:
    async def main() -> None:
        op = behind.file.write_gather([], 0) if done else behind.op
        try:
            made: Any = wrong_calls()[name](op)
            if asyncio.iscoroutine(made):
                await made
        except BaseException as failure:
            while hasattr(failure, "exceptions"):
                (failure,) = failure.exceptions
            assert isinstance(failure, (TypeError, AssertionError))
            assert "asyncio.ensure_future(op)" in str(failure)
        else:
            pytest.fail("it took it")

    run(loop, main())
    assert "asyncio" not in repr(behind.op)  # where no loop runs, it is of no interest


# --- callbacks ---


def test_what_is_of_asyncio_is_called_in_its_loop(behind: Behind, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        queue: asyncio.Queue[gio.Operation] = asyncio.Queue()
        behind.op.add_done_callback(queue.put_nowait)
        getting = asyncio.ensure_future(queue.get())
        await turns()
        behind.let_go()
        assert await getting is behind.op
        behind.op.add_done_callback(queue.put_nowait)
        assert await queue.get() is behind.op

    run(loop, main())


def test_of_a_closed_loop_nothing_is_called(
    behind: Behind, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> asyncio.Queue[gio.Operation]:
        queue: asyncio.Queue[gio.Operation] = asyncio.Queue()
        behind.op.add_done_callback(queue.put_nowait)
        return queue

    queue = run(loop, main())
    loop.close()
    calls: list[gio.Operation] = []
    behind.op.add_done_callback(calls.append)
    behind.let_go()
    behind.op.result(FOREVER)
    gio.wait([behind.op])
    assert calls == [behind.op]
    assert queue.empty() and not caplog.records


def test_removed_callbacks_are_not_called(behind: Behind) -> None:
    called: list[str] = []

    class Teller:
        def __init__(self, name: str) -> None:
            self.name = name

        def tell(self, _: gio.Operation) -> None:
            called.append(self.name)

    first, second, third = Teller("first"), Teller("second"), Teller("third")
    for teller in (first, second, second, third):
        behind.op.add_done_callback(teller.tell)
    assert behind.op.remove_done_callback(second.tell) == 2
    assert behind.op.remove_done_callback(second.tell) == 0
    assert behind.op.remove_done_callback(len) == 0  # type: ignore[arg-type]
    behind.let_go()
    behind.op.result(FOREVER)
    behind.op.add_done_callback(second.tell)
    assert called == ["first", "third", "second"]
    assert behind.op.remove_done_callback(first.tell) == 0


# --- files and locks ---


def test_a_file_in_async_with(disk_dir: Path, queue: gio.CompletionQueue, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with gio.open(disk_dir / "file", "w+", queue=queue) as f:
            op = f.write_at(PAGE_DATA, 0)
            assert await f.flush_async() == 0
            assert op.done()
            await f.write_at(PAGE_DATA, PAGE)
        assert f.closed
        await f.aclose()  # twice is fine
        with pytest.raises(ValueError, match="closed"):
            async with f:
                pass
        with pytest.raises(ValueError, match="closed"):
            await awaited(f.flush_async())

    run(loop, main())
    assert_same_bytes((disk_dir / "file").read_bytes(), bytes(PAGE_DATA) * 2)


@pytest.mark.parametrize("call", ["flush_async", "aclose", "async with"])
def test_the_loop_goes_on_while_what_is_in_flight_is_waited_for(
    disk_dir: Path, queue: gio.CompletionQueue, loop: asyncio.AbstractEventLoop, call: str
) -> None:
    async def main() -> None:
        f = gio.open(disk_dir / "file", "w", queue=queue)

        async def ended() -> None:
            if call == "async with":
                async with f:
                    pass
            else:
                await getattr(f, call)()

        with fault(queue, "HOLD") as let_go:
            op = f.write_at(PAGE_DATA, 0)
            task = asyncio.ensure_future(ended())
            await turns()
            assert not task.done()
            let_go()
            await task
        assert op.result(0) == PAGE
        assert f.closed == (call != "flush_async")
        await f.aclose()

    run(loop, main())


def test_cancelling_a_flush_is_told_at_once(
    disk_dir: Path, queue: gio.CompletionQueue, loop: asyncio.AbstractEventLoop
) -> None:
    async def main() -> None:
        async with gio.open(disk_dir / "file", "w", queue=queue) as f:
            with fault(queue, "HOLD") as let_go:
                op = f.write_at(PAGE_DATA, 0)
                task = asyncio.ensure_future(f.flush_async())
                await turns()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not op.done()
                let_go()
                assert await op == PAGE

    run(loop, main())


def test_cancelling_the_task_does_not_cut_closing_short(
    disk_dir: Path, queue: gio.CompletionQueue, loop: asyncio.AbstractEventLoop
) -> None:
    async def main() -> None:
        f = gio.open(disk_dir / "file", "w", queue=queue)
        with fault(queue, "HOLD") as let_go:
            op = f.write_at(PAGE_DATA, 0)
            task = asyncio.ensure_future(f.aclose())
            for _ in range(3):
                await turns()
                task.cancel()
            await turns()
            assert not task.done() and not op.done()
            let_go()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert f.closed and op.result(0) == PAGE

    run(loop, main())


@not_under_wine("what fails there is another file's")
@pytest.mark.parametrize("cancelled", [False, True])
def test_closing_tells_of_a_write_that_failed(behind: Behind, loop: asyncio.AbstractEventLoop, cancelled: bool) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(behind.file.aclose())
        await turns()
        if cancelled:
            task.cancel()
            await turns()
        behind.let_go()
        with pytest.raises(OSError, match="write of"):
            await task

    run(loop, main())


@not_on_windows("it has no LD_PRELOAD")
def test_a_flush_that_fails_when_nobody_waits_for_it_is_told_later(disk_dir: Path) -> None:
    """By the next `flush` or by `close`, once; and not again where the task has been told."""
    script = """
        import asyncio, errno, sys, gatherio as gio
        from oracle import placed, set_fault, words

        async def told(call):
            try:
                return await call
            except OSError as failure:
                return failure.errno == errno.EIO and failure.filename == sys.argv[1]

        async def flushed(f):
            f.flush()

        async def main():
            with gio.CompletionQueue() as queue:
                for end in (flushed, gio.File.aclose):
                    f = gio.open(sys.argv[1], "w", queue=queue, direct=False)
                    assert await told(f.flush_async()) is True  # each second fsync fails
                    assert await told(f.flush_async()) == 0
                    set_fault(queue, "HOLD")
                    op = f.write_at(placed(words(0, 100)), 0)
                    task = asyncio.ensure_future(f.flush_async())
                    await asyncio.sleep(0)
                    task.cancel()
                    try:
                        await task
                    except asyncio.CancelledError:
                        pass
                    set_fault(queue, "NONE")
                    assert await op == 100
                    assert await told(end(f)) is True
                    assert await told(f.aclose()) is None

        asyncio.run(main())
    """
    failing = """
        #include <errno.h>
        int fsync(int fd) { static int n; (void)fd; if (n++ % 2) return 0; errno = EIO; return -1; }
        int fdatasync(int fd) { return fsync(fd); }
    """
    run_python(script, disk_dir / "file", under=shim(disk_dir, failing))


def test_a_lock_in_async_with(disk_dir: Path, queue: gio.CompletionQueue, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with gio.open(disk_dir / "file", "w+", queue=queue) as f, gio.open(f.name, "r+", queue=queue) as g:
            async with await f.lock_async(0, PAGE) as lock:
                assert (lock.offset, lock.length, lock.exclusive) == (0, PAGE, True)
                with pytest.raises(gio.LockedError):
                    g.lock(0, 1)
                waiting = asyncio.ensure_future(g.lock_async(0, 1, exclusive=False))
                given_up = asyncio.ensure_future(g.lock_async(1, 1))
                await turns()
                assert not waiting.done()
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
            async with await waiting as lock:
                assert not lock.exclusive
            with pytest.raises(ValueError, match="given back"):
                async with lock:
                    pass
            f.lock(0, PAGE).unlock()
            with pytest.raises(RuntimeError, match="of the block"):
                async with await f.lock_async(0, PAGE):
                    raise RuntimeError("of the block")
            f.lock(0, PAGE).unlock()

    run(loop, main())


# --- other loops, and none ---

ASYNC: dict[str, Callable[[gio.File, gio.Operation], Any]] = {
    "await": lambda f, op: awaited(op),
    "flush_async": lambda f, op: awaited(f.flush_async()),
    "aclose": lambda f, op: f.aclose(),
    "lock_async": lambda f, op: f.lock_async(0, 1),
    "async with": lambda f, op: f.__aenter__(),
}


@pytest.mark.parametrize("done", [True, False], ids=["done", "running"])
@pytest.mark.parametrize("name", ASYNC)
def test_without_a_loop(behind: Behind, name: str, done: bool) -> None:
    op = behind.file.write_gather([], 0) if done else behind.op
    coroutine = ASYNC[name](behind.file, op)
    with pytest.raises(RuntimeError, match=r"no running event loop of asyncio.*trio\.to_thread\.run_sync\((op|f)\."):
        coroutine.send(None)
    assert not behind.file.closed
    behind.file.lock(0, 1).unlock()


@not_on_windows("its AFD sockets are not Wine's, and nothing here differs")
@pytest.mark.parametrize("done", [True, False], ids=["done", "running"])
@pytest.mark.parametrize("name", ASYNC)
def test_in_trio(behind: Behind, name: str, done: bool) -> None:
    trio = pytest.importorskip("trio", reason="needs trio: pip install 'gatherio[test]'")

    async def main() -> None:
        op = behind.file.write_gather([], 0) if done else behind.op
        with pytest.raises(RuntimeError, match=r"in trio: await trio\.to_thread\.run_sync\("):
            await ASYNC[name](behind.file, op)
        behind.let_go()
        assert await trio.to_thread.run_sync(op.result) == (0 if done else PAGE)  # as the message says

    trio.run(main)
