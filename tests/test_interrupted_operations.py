"""A signal whose handler raises, at every place of a call that submits, waits, hands out or closes.

Nothing is lost and nothing stays: what the kernel has is held until it has ended, what it has not is let go of.
"""

from __future__ import annotations

import dis
import errno
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from oracle import FOREVER, ON_WINDOWS, PAGE, assert_same_bytes, fault, pages, placed, words
from test_interrupts import Books, Interruption
from test_interrupts import interrupted as broken_off
from test_interrupts import quiet as quiet

import gatherio as gio

#: Python runs signal handlers behind these, not between any two: a lock that is taken is let go of by its ``with``.
LOOKS = ("CALL", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "RESUME", "JUMP_ABSOLUTE")


class WherePythonLooks(Interruption):
    """Raises `Stop` at the n-th place where Python looks at signals, if there are so many."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self._behind: dict[int, tuple[object, str]] = {}  # by the frame's number, which another one may get later

    def _counts(self, frame: FrameType) -> bool:
        code, behind = self._behind.get(id(frame), (None, ""))
        self._behind[id(frame)] = frame.f_code, dis.opname[frame.f_code.co_code[frame.f_lasti]]
        return code is frame.f_code and behind.startswith(LOOKS)


def interrupted(call: Callable[[], object]) -> Iterator[tuple[Interruption, BaseException]]:
    """Let the call be broken off at each such place in turn."""
    return broken_off(call, WherePythonLooks)


@pytest.fixture(params=["sync", "threads"] if not ON_WINDOWS else ["iocp"])
def backend(request: pytest.FixtureRequest) -> str:
    """One that ends in the call, and one that does so behind it."""
    name: str = request.param
    return name


CALLS: dict[str, Callable[[gio.File], gio.Operation | int]] = {
    "write_at": lambda f: f.write_at(gio.full(2 * PAGE, 7, "u1"), 0),
    "read_at": lambda f: f.read_at(gio.zeros(2 * PAGE, "u1"), 0),
    "write_gather": lambda f: f.write_gather([gio.full(PAGE, 7, "u1") for _ in range(2)], 0),
    "read_scatter": lambda f: f.read_scatter(gio.Segments(pages(2)), 0, copy=None),
    "write_many": lambda f: f.write_many([gio.full(PAGE, 7, "u1") for _ in range(2)], [0, PAGE]),
    "pwrite": lambda f: f.pwrite(gio.full(2 * PAGE, 7, "u1"), 0),
    "pread": lambda f: f.pread(gio.zeros(2 * PAGE, "u1"), 0),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_submitted_is_held_and_nothing_else(disk_dir: Path, backend: str, call: str) -> None:
    with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_at(placed(words(0, 2 * PAGE)), 0).result()
        places = 0

        def use() -> None:
            made = CALLS[call](f)
            if not isinstance(made, int):
                made.result(FOREVER)

        for interruption, _stop in interrupted(use):
            places += 1
            f.flush()  # waits for what is in flight
            assert not queue._engine.inflight, interruption.where
        assert places > 10
        gc.collect()
        queue.get(0)


@pytest.mark.parametrize("how", ["result", "done", "wait", "first", "as_completed", "callback"])
def test_nothing_is_lost_or_told_twice(disk_dir: Path, backend: str, how: str) -> None:
    """However often it is broken off, the next one finds what this one has left."""
    with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        page = placed(words(0, PAGE))
        called: list[gio.Operation] = []
        submitted: list[gio.Operation] = []

        def use() -> None:
            operations = submitted[-3:]
            if how == "callback":
                for operation in operations:
                    operation.add_done_callback(called.append)
                    operation.result(FOREVER)
            elif how == "as_completed":
                assert set(gio.as_completed(operations, FOREVER)) == set(operations)
            elif how == "wait":
                assert gio.wait(operations, FOREVER).done == set(operations)
            elif how == "first":
                assert gio.wait(operations, FOREVER, gio.FIRST_COMPLETED).done
            else:
                for operation in operations:
                    getattr(operation, how)()

        submitted += [f.write_at(page, i * PAGE) for i in range(3)]
        for interruption, _stop in interrupted(use):
            for operation in submitted[-3:]:
                assert operation.result(FOREVER) == PAGE, interruption.where
                assert operation.exception(0) is None
            submitted += [f.write_at(page, i * PAGE) for i in range(3)]
        gio.wait(submitted)
        handed_out = queue.get(0)
        assert not queue._engine.inflight
        assert len(set(handed_out)) == len(handed_out)
        assert len(called) <= len(submitted)
        assert set(handed_out) == set(submitted)  # all are still held: each is handed out, once


def test_a_queue_is_made_whole_or_not_at_all(disk_dir: Path, backend: str) -> None:
    def use() -> None:
        with gio.CompletionQueue(4, backend=backend):
            pass

    use()
    books = Books()
    for interruption, stop in interrupted(use):
        stop.__traceback__ = None
        gc.collect()
        books.assert_balanced(interruption.where)


def test_a_failed_write_is_told_once(disk_dir: Path, backend: str) -> None:
    """By whoever asks first: `result`, or `close`. Broken off in between, by the next one."""
    with gio.CompletionQueue(backend=backend) as queue:
        told: list[BaseException] = []
        file: list[gio.File] = []

        def use() -> None:
            try:
                file[0].write_at(placed(words(0, PAGE)), 0).result(FOREVER)
            except OSError as failure:
                told.append(failure)

        file.append(gio.open(disk_dir / "file", "w+", queue=queue))
        with fault(queue, "FAIL", value=errno.EIO):
            for interruption, _stop in interrupted(use):
                f = file.pop()
                try:
                    f.close()
                except OSError as failure:
                    told.append(failure)
                assert len(told) <= 2, interruption.where  # raised once, and perhaps not heard
                told.clear()
                file.append(gio.open(disk_dir / "file", "w+", queue=queue))
        file[0].close()
        assert len(told) == 1


def test_arrays_go_once_they_are_no_longer_needed(disk_dir: Path, backend: str) -> None:
    with gio.CompletionQueue(backend=backend) as queue, gio.open(disk_dir / "file", "w+", queue=queue) as f:
        seen: list[weakref.ref[object]] = []

        def use() -> None:
            array = gio.full(PAGE, 3, "u1")
            seen[:] = [weakref.ref(array.base)]
            f.pwrite(array, 0)
            f.write_at(array, PAGE).result(FOREVER)

        for interruption, stop in interrupted(use):
            stop.__traceback__ = None
            f.flush()
            queue.get(0)
            gc.collect()
            assert all(one() is None for one in seen), interruption.where
        assert_same_bytes((disk_dir / "file").read_bytes(), bytes([3]) * 2 * PAGE)
