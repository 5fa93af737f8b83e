"""Operations awaited in asyncio: in any loop, without a thread for each, and with safe memory when cancelled."""

from __future__ import annotations

import asyncio
import errno
import gc
import selectors
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracle import (
    FOREVER,
    KIB,
    MIB,
    PAGE,
    assert_same_bytes,
    fault,
    not_on_windows,
    placed,
    run_python,
    set_fault,
    target,
    words,
)
from this_process import comes_down, handle_count, thread_count

import gatherio as gio

PAGE_DATA = placed(words(0, PAGE))


@pytest.fixture
def f(disk_dir: Path, queue: gio.CompletionQueue) -> Iterator[gio.File]:
    with gio.open(disk_dir / "file", "w+", queue=queue) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    for _ in range(int(FOREVER * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came true")


def test_await(f: gio.File) -> None:
    async def main() -> None:
        assert await f.write_at(placed(words(0, MIB)), 0) == MIB
        array = target(MIB)
        operation = f.read_at(array, 0)
        assert await operation == MIB
        assert await operation == MIB  # again: at once
        assert operation.result(0) == MIB
        assert_same_bytes(array, words(0, MIB))
        assert await f.write_gather([], 0) == 0

    asyncio.run(main())


def test_many_at_once(f: gio.File) -> None:
    async def main() -> None:
        count = 2000
        threads = thread_count()
        assert (
            await asyncio.gather(*(f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(count)))
            == [PAGE] * count
        )
        memory = gio.empty((count, PAGE), "u1")

        async def read(i: int) -> None:
            assert await f.read_at(memory[i], i * PAGE) == PAGE

        await asyncio.gather(*(read(i) for i in range(count)))
        assert_same_bytes(memory, words(0, count * PAGE))
        assert thread_count() <= threads + 16  # the pool of the threads backend

    asyncio.run(main())


def test_one_after_the_other(f: gio.File) -> None:
    async def main() -> None:
        for i in range(300):
            assert await f.write_at(PAGE_DATA, i * PAGE) == PAGE

    asyncio.run(main())


def test_a_loop_after_another(f: gio.File) -> None:
    async def main(i: int) -> int:
        return await f.write_at(PAGE_DATA, i * PAGE)

    handles = 0
    for i in range(30):
        assert asyncio.run(main(i)) == PAGE
        gc.collect()
        if i == 5:
            handles = handle_count()
    assert comes_down(handle_count, handles)  # each loop took its own along


def test_other_tasks_run_meanwhile(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        with fault(queue, "HOLD") as let_go:
            task = asyncio.ensure_future(wrapped(f.write_at(PAGE_DATA, 0)))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not task.done()
            let_go()
            assert await asyncio.wait_for(task, FOREVER) == PAGE

    asyncio.run(main())


async def wrapped(operation: gio.Operation) -> int:
    return await operation


def test_two_tasks_await_one_operation(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(PAGE_DATA, 0)
            tasks = [asyncio.ensure_future(wrapped(operation)) for _ in range(3)]
            await asyncio.sleep(0.01)
            tasks[1].cancel()
            await asyncio.sleep(0)
            let_go()
            assert await tasks[0] == await tasks[2] == PAGE
            assert tasks[1].cancelled()

    asyncio.run(main())


def test_await_of_a_failed_operation(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        with fault(queue, "FAIL", value=errno.EIO):
            operation = f.write_at(PAGE_DATA, 0)
            for _ in range(2):
                with pytest.raises(OSError, match=f"write of {PAGE} bytes at offset 0"):
                    await operation

    asyncio.run(main())  # and close() has nothing to tell


def test_await_of_a_cancelled_operation(disk_dir: Path, backend: str) -> None:
    async def main() -> None:
        with gio.CompletionQueue(1, backend=backend) as queue:
            with gio.open(disk_dir / "file", "w", queue=queue) as f, fault(queue, "HOLD") as let_go:
                first, second = f.write_at(PAGE_DATA, 0), f.write_at(PAGE_DATA, PAGE)
                task = asyncio.ensure_future(wrapped(second))
                await asyncio.sleep(0)
                assert second.cancel()
                with pytest.raises(gio.CancelledError):
                    await asyncio.wait_for(asyncio.shield(task), FOREVER)
                let_go()
                assert await first == PAGE

    asyncio.run(main())


def test_cancelling_the_task_leaves_the_operation_and_its_memory(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        array = placed(words(0, MIB))
        seen = weakref.ref(array)
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(array, 0)
            task = asyncio.ensure_future(wrapped(operation))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del array, task
            gc.collect()
            assert not operation.done()
            assert seen() is not None
            let_go()
            assert await operation == MIB

    asyncio.run(main())
    assert_same_bytes(Path(f.name).read_bytes(), words(0, MIB))  # type: ignore[arg-type]


def test_wait_for_out_of_time(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(PAGE_DATA, 0)
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(wrapped(operation), 0.02)
            assert not operation.done() and not operation.cancelled()
            let_go()
            assert await asyncio.wait_for(wrapped(operation), FOREVER) == PAGE

    asyncio.run(main())


def test_two_loops_in_two_threads_on_one_queue(f: gio.File) -> None:
    """Whichever loop or thread sees a completion first: each task is woken."""
    failures: list[BaseException] = []

    async def main(which: int) -> None:
        async def work(lane: int) -> None:
            base = (which * 16 + lane) * 40 * PAGE
            for i in range(40):
                at = base + i * PAGE
                assert await f.write_at(placed(words(at, PAGE)), at) == PAGE
                array = target(PAGE)
                assert await f.read_at(array, at) == PAGE
                assert_same_bytes(array, words(at, PAGE), at)

        await asyncio.wait_for(asyncio.gather(*(work(lane) for lane in range(16))), FOREVER)

    def run(which: int) -> None:
        try:
            if which == 2:  # a plain thread between them
                for i in range(300):
                    f.write_at(PAGE_DATA, (2000 + i) * PAGE).result(FOREVER)
            else:
                asyncio.run(main(which))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_result_in_a_thread_of_what_is_awaited_in_a_loop(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        for _ in range(30):
            with fault(queue, "HOLD") as let_go:
                operation = f.write_at(PAGE_DATA, 0)
                results: list[int] = []
                thread = threading.Thread(target=lambda op=operation, r=results: r.append(op.result(FOREVER)))
                thread.start()
                task = asyncio.ensure_future(wrapped(operation))
                await asyncio.sleep(0)
                let_go()
                assert await asyncio.wait_for(task, FOREVER) == PAGE
                thread.join()
                assert results == [PAGE]

    asyncio.run(main())


def test_waited_for_by_get_while_awaited(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(PAGE_DATA, 0)
            task = asyncio.ensure_future(wrapped(operation))
            await asyncio.sleep(0)
            getting = asyncio.get_running_loop().run_in_executor(None, queue.get, FOREVER)
            let_go()
            assert await asyncio.wait_for(task, FOREVER) == PAGE
            assert await getting == [operation]

    asyncio.run(main())


def test_callbacks_while_awaiting(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        calls: list[gio.Operation] = []
        with fault(queue, "HOLD") as let_go:
            operation = f.write_at(PAGE_DATA, 0)
            operation.add_done_callback(calls.append)
            task = asyncio.ensure_future(wrapped(operation))
            await asyncio.sleep(0)
            let_go()
            assert await asyncio.wait_for(task, FOREVER) == PAGE
            await until(lambda: calls == [operation])

    asyncio.run(main())


def test_a_large_operation_goes_on_while_awaited(disk_dir: Path, backend: str) -> None:
    """Many requests through a shallow queue: the loop's own looks keep it filled."""

    async def main() -> None:
        with gio.CompletionQueue(2, backend=backend, request_size=64 * KIB) as queue:
            with gio.open(disk_dir / "file", "w", queue=queue) as f:
                operations = [f.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(32)]
                assert await asyncio.wait_for(asyncio.gather(*map(wrapped, operations)), FOREVER) == [MIB] * 32

    asyncio.run(main())
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 32 * MIB))


def test_a_loop_closed_with_an_operation_in_flight(f: gio.File, queue: gio.CompletionQueue) -> None:
    set_fault(queue, "HOLD")
    operation = f.write_at(placed(words(0, MIB)), 0)
    loop = asyncio.new_event_loop()
    task = loop.create_task(wrapped(operation))
    loop.run_until_complete(asyncio.sleep(0.01))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    del loop, task
    gc.collect()
    set_fault(queue, "NONE")
    assert operation.result(FOREVER) == MIB
    assert asyncio.run(wrapped(f.read_at(target(MIB), 0))) == MIB  # the next loop is not disturbed
    assert_same_bytes(Path(f.name).read_bytes(), words(0, MIB))  # type: ignore[arg-type]


def test_a_loop_closed_under_a_waiting_task(disk_dir: Path, backend: str) -> None:
    """The task is never woken, which asyncio complains of; nothing crashes, and the write is complete."""
    script = """
        import asyncio, gc, sys, gatherio as gio
        from oracle import MIB, placed, set_fault, words
        async def wrapped(operation):
            return await operation
        with gio.CompletionQueue(backend=sys.argv[2]) as q, gio.open(sys.argv[1], "w+", queue=q) as f:
            set_fault(q, "HOLD")
            operation = f.write_at(placed(words(0, MIB)), 0)
            loop = asyncio.new_event_loop()
            task = loop.create_task(wrapped(operation))
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()
            set_fault(q, "NONE")
            print(operation.result(), task.done())
            task._log_destroy_pending = False
            del task, loop
            gc.collect()
            print(asyncio.run(wrapped(f.write_at(words(MIB, 100), MIB))))
    """
    assert run_python(script, disk_dir / "file", backend).split() == [str(MIB), "False", "100"]
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, MIB + 100))


def test_awaiting_on_the_shared_queue(disk_dir: Path) -> None:
    async def main() -> None:
        with gio.open(disk_dir / "file", "w+") as f:
            operations = [f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(100)]
            assert await asyncio.gather(*map(wrapped, operations)) == [PAGE] * 100

    asyncio.run(main())
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 100 * PAGE))


def test_await_outside_a_loop(f: gio.File, queue: gio.CompletionQueue) -> None:
    with fault(queue, "HOLD"):
        operation = f.write_at(PAGE_DATA, 0)
        with pytest.raises(RuntimeError, match="no running event loop"):
            operation.__await__().send(None)
    assert operation.result(FOREVER) == PAGE


def test_a_closed_queue_leaves_nothing_in_the_loop(disk_dir: Path, backend: str) -> None:
    """The number of a closed descriptor becomes another file's, which the loop must then watch as any other."""

    async def use_a_queue() -> None:
        with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
            assert await f.write_at(PAGE_DATA, 0) == PAGE

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await use_a_queue()
        before = handle_count()
        for _ in range(20):
            await use_a_queue()
            await asyncio.sleep(0)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setblocking(False)
                waiting = asyncio.ensure_future(loop.sock_recv(ours, 1))
                await asyncio.sleep(0)
                theirs.send(b"x")
                assert await asyncio.wait_for(waiting, FOREVER) == b"x"
        gc.collect()
        assert comes_down(handle_count, before + 2)

    asyncio.run(main())


# --- what the loop watches ---


class Watching:
    """A loop, and which descriptors it is told to watch beside its own."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(selector)
        self._map = selector.get_map
        self._own = set(selector.get_map())

    def descriptors(self) -> set[int]:
        return set(self._map()) - self._own


@pytest.fixture
def watching() -> Iterator[Watching]:
    made = Watching()
    yield made
    made.loop.close()


@not_on_windows("no loop there can watch what we have")
def test_the_readers_go_with_the_queue(watching: Watching, disk_dir: Path, backend: str) -> None:
    async def main() -> None:
        queue = gio.CompletionQueue(backend=backend)
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            with fault(queue, "HOLD") as let_go:
                task = asyncio.ensure_future(awaited(f.write_at(PAGE_DATA, 0)))
                await until(lambda: bool(watching.descriptors()))
                let_go()
                assert await task == PAGE
        queue.close()
        await until(lambda: not watching.descriptors())

    watching.loop.run_until_complete(main())


async def awaited(operation: gio.Operation) -> int:
    return await operation


@not_on_windows("no loop there can watch what we have")
def test_the_readers_go_when_the_queue_is_closed_in_another_thread(
    watching: Watching, disk_dir: Path, backend: str
) -> None:
    async def main() -> None:
        queue = gio.CompletionQueue(backend=backend)
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            with fault(queue, "HOLD") as let_go:
                task = asyncio.ensure_future(awaited(f.write_at(PAGE_DATA, 0)))
                await until(lambda: bool(watching.descriptors()))
                let_go()
                await task
        closing = threading.Thread(target=queue.close)
        closing.start()
        await until(lambda: not watching.descriptors())
        closing.join()

    watching.loop.run_until_complete(main())


@not_on_windows("no loop there can watch what we have")
@pytest.mark.filterwarnings("ignore:unclosed <gatherio.CompletionQueue:ResourceWarning")
def test_the_readers_go_when_the_queue_is_dropped(watching: Watching, disk_dir: Path, backend: str) -> None:
    async def use() -> weakref.ref[gio.CompletionQueue]:
        queue = gio.CompletionQueue(backend=backend)
        with gio.open(disk_dir / "file", "w", queue=queue) as f:
            with fault(queue, "HOLD") as let_go:
                task = asyncio.ensure_future(awaited(f.write_at(PAGE_DATA, 0)))
                await until(lambda: bool(watching.descriptors()))
                let_go()
                await task
        return weakref.ref(queue)

    async def main() -> None:
        queue = await use()
        await asyncio.sleep(0)
        gc.collect()
        assert queue() is None
        await until(lambda: not watching.descriptors())

    watching.loop.run_until_complete(main())


@not_on_windows("no loop there can watch what we have")
def test_the_readers_go_when_something_finishes_that_nobody_awaits(
    watching: Watching, f: gio.File, queue: gio.CompletionQueue
) -> None:
    async def main() -> None:
        for _ in range(3):  # and they come back for whoever awaits
            with fault(queue, "HOLD") as let_go:
                task = asyncio.ensure_future(awaited(f.write_at(PAGE_DATA, 0)))
                await until(lambda: bool(watching.descriptors()))
                let_go()
                assert await task == PAGE
            f.write_at(PAGE_DATA, 0).result()
            await until(lambda: not watching.descriptors())

    watching.loop.run_until_complete(main())


def test_awaited_operations_are_not_kept(f: gio.File, queue: gio.CompletionQueue) -> None:
    async def main() -> None:
        for i in range(300):
            assert await f.write_at(PAGE_DATA, i * PAGE) == PAGE

    asyncio.run(main())
    gc.collect()
    assert queue.get(0) == []
