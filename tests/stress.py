"""Threads at everything at once: a fixed amount of work, and all data compared. test_stress.py runs it.

    python stress.py DIR [--backend NAME] [--rounds N] [--threads N]      in the folder tests

In each round every thread does each of the tasks once, in an order of its own; then all meet, and one of them closes
what the others are using. A run that hangs prints every thread's stack and ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from model.contents import pattern
from oracle import BEST_BACKEND, FOREVER, KIB, PAGE

import gatherio as gio

Array = np.ndarray[Any, Any]

_HANG_S = 180  # some twenty times what it takes on a slow machine
_SLICE = 5 * KIB + 77  # of a thread's bytes; no multiple of anything
_SLICES = 8
_REGION = _SLICE * _SLICES  # each thread's bytes in the shared file
_ROWS = 16


class Together:
    """What the threads share."""

    def __init__(self, folder: Path, backend: str, threads: int) -> None:
        self.folder, self.backend, self.threads = folder, backend, threads
        self.queue = gio.CompletionQueue(32, backend=backend)
        self.queue.get(0)
        self.rows_at = -(-threads * _REGION // PAGE) * PAGE
        self.path = folder / "shared"
        self.file = gio.open(self.path, "w+", queue=self.queue)
        self.file.truncate(self.rows_at + threads * _ROWS * PAGE)
        self.pool = gio.Pool(max(1, threads // 2), 3 * PAGE, np.uint8)
        self.rows = gio.empty((2 * _ROWS, PAGE), np.uint8)
        self.rows[...] = pattern(0, self.rows.size, 1).reshape(self.rows.shape)
        self.order = random.Random(1).sample(range(2 * _ROWS), _ROWS)
        self.segments = gio.Segments.rows(self.rows, self.order)
        (folder / "count").write_bytes(bytes(8))
        (folder / "mapped").write_bytes(bytes(threads * PAGE))
        self.name = f"gatherio-stress-{random.SystemRandom().getrandbits(48):x}"
        self.named = gio.Mapping(None, size=threads * PAGE, name=self.name)
        self.handed_out: set[gio.Operation] = set()
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(threads, timeout=_HANG_S)
        self.victim: Any = None  # what is closed while all use it
        self.salts = itertools.count(2)

    def close(self) -> None:
        self.named.close()
        self.pool.close()
        self.file.close()
        self.queue.close()


class Worker:
    """One thread."""

    def __init__(self, together: Together, number: int) -> None:
        self.at = together
        self.number = number
        self.random = random.Random(number)
        self.begin = number * _REGION
        self.calls = 0
        self.watched = 0
        self.counted = 0
        self.tasks: list[Callable[[], None]] = [
            self.transfer,
            self.scatter,
            self.borrow,
            self.get,
            self.count,
            self.map,
            self.share,
            self.register,
            self.open,
        ]

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            for task in self.random.sample(self.tasks, len(self.tasks)):
                task()
            self.close_a_file(number)
            self.close_a_queue(number)
        deadline = time.monotonic() + FOREVER
        while self.calls < self.watched and time.monotonic() < deadline:
            time.sleep(0.001)  # another thread calls them
        assert self.calls == self.watched, f"{self.watched} callbacks, {self.calls} calls"

    # -- tasks -------------------------------------------------------------------------------------------

    def transfer(self) -> None:
        """Writes, some of them cancelled, some watched; what was not cancelled is read back."""
        salts = [next(self.at.salts) for _ in range(_SLICES)]
        data = [pattern(self.begin + i * _SLICE, _SLICE, salts[i]) for i in range(_SLICES)]
        operations = []
        for i in self.random.sample(range(_SLICES), _SLICES):
            operation = self.at.file.write_at(data[i], self.begin + i * _SLICE, tag=i)
            operations.append(operation)
            if self.random.random() < 0.4:
                self.watched += 1
                operation.add_done_callback(self.called)
            if self.random.random() < 0.2:
                operation.cancel()
        for operation in operations:
            try:
                assert operation.result(FOREVER) == _SLICE
            except gio.CancelledError:
                assert self.at.file.pwrite(data[operation.tag], operation.offset) == _SLICE
        found = np.zeros(_REGION, np.uint8)
        assert self.at.file.read_at(found, self.begin).result(FOREVER) == _REGION
        same(found, np.concatenate(data))

    def called(self, operation: gio.Operation) -> None:
        assert operation.done()
        with self.at.lock:
            self.calls += 1

    def scatter(self) -> None:
        """One `Segments` is used by all; the rows read are the thread's own."""
        offset = self.at.rows_at + self.number * _ROWS * PAGE
        assert self.at.file.write_gather(self.at.segments, offset).result(FOREVER) == _ROWS * PAGE
        apart = gio.empty((2 * _ROWS, PAGE), np.uint8)
        arrays = list(apart[::2])
        assert self.at.file.read_scatter(arrays, offset).result(FOREVER) == _ROWS * PAGE
        for array, row in zip(arrays, self.at.order, strict=True):
            same(array, self.at.rows[row])

    def borrow(self) -> None:
        """An array of the pool is nobody else's meanwhile."""
        array = self.at.pool.acquire(FOREVER)
        array[...] = self.number + 1
        assert self.at.file.pwrite(array[:_SLICE], self.begin) == _SLICE
        found = np.empty(_SLICE, np.uint8)
        assert self.at.file.pread(found, self.begin) == _SLICE
        assert (found == self.number + 1).all() and (array == self.number + 1).all()
        self.at.pool.release(array)

    def get(self) -> None:
        """Each operation is handed out once, whoever asks."""
        for operation in self.at.queue.get(0.001, self.random.choice([None, 1, 5])):
            assert operation.done()
            with self.at.lock:
                assert operation not in self.at.handed_out
                self.at.handed_out.add(operation)

    def count(self) -> None:
        """A number that is only ever counted up under a lock."""
        word = np.zeros(1, "<u8")
        with gio.open(self.at.folder / "count", "r+", direct=False, queue=self.at.queue) as file:
            for _ in range(2):
                with file.lock(0, 8, wait=True, timeout=FOREVER):
                    assert file.pread(word, 0) == 8
                    word += 1
                    assert file.pwrite(word, 0) == 8
                    self.counted += 1

    def map(self) -> None:
        """A page of a file that all have mapped."""
        data = pattern(self.number * PAGE, PAGE, next(self.at.salts))
        with gio.Mapping(self.at.folder / "mapped", "r+") as mapping:
            mine = mapping.array(PAGE, np.uint8, offset=self.number * PAGE)
            mine[...] = data
            del mine
            same(mapping.array(PAGE, np.uint8, offset=self.number * PAGE), data)

    def share(self) -> None:
        """A record in memory that has a name."""
        record = {"thread": self.number, "number": next(self.at.salts)}
        with gio.Mapping.open(self.at.name, "r+") as mapping:
            mapping.put(record, self.number * PAGE)
            assert mapping.get(self.number * PAGE) == record

    def register(self) -> None:
        array = gio.empty(4 * PAGE, np.uint8)
        array[...] = self.number
        try:
            registration = self.at.queue.register(array)
        except OSError:  # this backend has no such thing, or it may lock no more
            return
        with registration:
            assert self.at.file.write_at(array, self.begin).result(FOREVER) == array.size
            assert self.at.file.read_at(array, self.begin).result(FOREVER) == array.size
        assert (array == self.number).all()

    def open(self) -> None:
        """A queue, a file and an operation that nobody holds."""
        path = self.at.folder / f"own-{self.number}"
        data = pattern(0, 3 * PAGE + 5, next(self.at.salts))
        with gio.CompletionQueue(2, backend=self.at.backend) as queue, gio.open(path, "w", queue=queue) as file:
            file.write_at(data, 0)
        with gio.open(path) as file:
            found = np.empty(data.size, np.uint8)
            file.read_at(found, 0).result(FOREVER)
        same(found, data)

    # -- together ----------------------------------------------------------------------------------------

    def meet(self) -> None:
        self.at.barrier.wait()

    def close_a_file(self, number: int) -> None:
        """One closes the file that all write to: each write is refused, or all of it is there."""
        path = self.at.folder / "victim"
        if self.number == 0:
            self.at.victim = gio.open(path, "w", queue=self.at.queue)
        self.meet()
        operations = self.write_until_closed(self.at.victim, number, self.at.victim.close)
        self.meet()
        found = np.frombuffer(path.read_bytes(), np.uint8)
        self.compare(operations, found)
        self.meet()

    def close_a_queue(self, number: int) -> None:
        path = self.at.folder / "victim"
        if self.number == 0:
            queue = gio.CompletionQueue(4, backend=self.at.backend)
            self.at.victim = queue, gio.open(path, "w", queue=queue)
        self.meet()
        queue, file = self.at.victim
        operations = self.write_until_closed(file, number, queue.close)
        self.meet()
        found = np.frombuffer(path.read_bytes(), np.uint8)
        self.compare(operations, found)
        self.meet()
        if self.number == 0:
            file.close()

    def write_until_closed(self, file: gio.File, number: int, close: Callable[[], None]) -> list[gio.Operation]:
        operations = []
        for i in range(_SLICES):
            if number % self.at.threads == self.number and i == _SLICES // 2:
                close()
            offset = self.begin + i * _SLICE
            try:
                operations.append(file.write_at(pattern(offset, _SLICE, number), offset, tag=number))
            except ValueError as failure:
                assert "closed" in str(failure)
                break
        return operations

    def compare(self, operations: list[gio.Operation], found: Array) -> None:
        for operation in operations:
            assert operation.done()
            assert operation.result(0) == _SLICE
            begin = operation.offset
            same(found[begin : begin + _SLICE], pattern(begin, _SLICE, operation.tag))


def same(found: Array, expected: Array) -> None:
    if not np.array_equal(found, expected):
        bad = np.flatnonzero(found != expected)
        raise AssertionError(f"{bad.size} bytes differ, the first at {bad[0]}, the last at {bad[-1]}")


def run(folder: Path, backend: str, rounds: int, threads: int) -> None:
    """Do the work.

    Raises
    ------
    AssertionError, or whatever a thread's first failure was
    """
    faulthandler.dump_traceback_later(_HANG_S, exit=True)
    sys.setswitchinterval(1e-5)  # with a GIL, so that threads meet anywhere
    together = Together(folder, backend, threads)
    workers = [Worker(together, number) for number in range(threads)]
    failures: list[BaseException] = []

    def go(worker: Worker) -> None:
        try:
            worker.run(rounds)
        except BaseException as failure:
            failures.append(failure)
            together.barrier.abort()

    running = [threading.Thread(target=go, args=(worker,), name=f"stress-{worker.number}") for worker in workers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    causes = [failure for failure in failures if not isinstance(failure, threading.BrokenBarrierError)]
    if causes or failures:
        raise [*causes, *failures][0]
    together.close()
    counted = int.from_bytes((folder / "count").read_bytes(), "little")
    assert counted == sum(worker.counted for worker in workers), f"counted {counted}"
    faulthandler.cancel_dump_traceback_later()


def main() -> None:
    parser = argparse.ArgumentParser(description="Threads at everything at once.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backend", default=BEST_BACKEND)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    run(options.folder, options.backend, options.rounds, options.threads)
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(
        f"{options.backend}: {options.threads} threads, {options.rounds} rounds, {'with' if gil else 'without'} a GIL"
    )


if __name__ == "__main__":
    main()
