"""What the machine moves and what it moves it through, each with its part in the model.

Memory    arrays for one operation
Lane      a completion queue, and the faults that are set in it
Opened    a file object
Place     a file: its path, what it may hold, the objects that have it open
Flight    an operation under way
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from oracle import BACKENDS, KIB, MIB, PAGE, set_fault

import gatherio as gio

from .contents import Bytes, Contents, DifferenceError, Read, Write

NOTHING: Final = 0xEE  # what memory is full of where no data belongs
#: Told to the caller.
FAILURES: Final = (errno.EIO, errno.ENOSPC)
#: Tried again without anybody knowing.
TRANSIENT: Final = (errno.EINTR, errno.EAGAIN)


# --- memory ---


class Memory:
    """Arrays for one operation, apart from each other, between bytes that nobody may touch."""

    def __init__(self, owner: Bytes, places: Sequence[tuple[int, int]], end: Callable[[], None] | None = None) -> None:
        self._owner = owner
        self._places = places
        self._end = end
        owner[...] = NOTHING
        self.arrays = [owner[at : at + length] for at, length in places]
        self.handed_over: Any = self.arrays  # a list, or Segments of the same

    def put(self, data: Bytes) -> None:
        for array in self.arrays:
            array[...] = data[: array.size]
            data = data[array.size :]

    def taken(self) -> Bytes:
        return np.concatenate(self.arrays) if self.arrays else np.empty(0, np.uint8)

    def check_around(self) -> None:
        outside = np.ones(self._owner.size, bool)
        for at, length in self._places:
            outside[at : at + length] = False
        if not (self._owner[outside] == NOTHING).all():
            raise DifferenceError("bytes of memory were written that are not part of the operation")

    def end(self) -> None:
        if self._end is not None:
            self._end()


# --- queues and files ---


class Lane:
    """A completion queue."""

    def __init__(self, queue: gio.CompletionQueue, collects: bool, in_order: bool) -> None:
        self.queue = queue
        self.collects = collects  # somebody calls `get`
        self.handed_out: set[gio.Operation] = set()
        self.submitted: list[gio.Operation] = []  # where somebody collects
        self.errors: set[int] = set()  # that operations may fail with
        self.in_order = in_order  # what makes a file longer goes in the order of the file
        self.holds = False
        self.shortens = False
        self._lock = threading.Lock()
        if collects:
            queue.get(0)

    def set(self, kind: str, after: int = 0, count: int = 2**62, value: int = 0) -> None:
        """The fault, instead of the one there was; what that held goes on."""
        with self._lock:
            if self.holds:
                set_fault(self.queue, "NONE")
            set_fault(self.queue, kind, after, count, value)
            self.holds = kind == "HOLD"
            self.shortens = kind == "SHORT"
            self.errors = {value} if kind == "FAIL" and value in FAILURES else set()

    def take(self, timeout: float, limit: int | None) -> bool:
        """What `get` hands out: each operation once. Whether there was something."""
        found = self.queue.get(timeout, limit)
        if limit is not None and len(found) > limit:
            raise DifferenceError(f"get gave {len(found)} of at most {limit}")
        for operation in found:
            if not operation.done():
                raise DifferenceError(f"get gave {operation!r}, which is not done")
            with self._lock:
                if operation in self.handed_out:
                    raise DifferenceError(f"get gave {operation!r} twice")
                self.handed_out.add(operation)
        return bool(found)

    def finish(self) -> None:
        """Close it. What it still has is handed out, then it says so."""
        self.set("NONE")
        self.queue.close()
        if not self.collects:
            return
        try:
            while self.take(0, 7):
                pass
            raise DifferenceError("get finds nothing, and does not say that the queue is closed")
        except ValueError:  # nothing is left
            pass
        if left := set(self.submitted) - self.handed_out:
            raise DifferenceError(f"get has never given {left}")

    def release(self) -> None:
        """Nothing is held any more; other faults stay."""
        if self.holds:
            self.set("NONE")


class Opened:
    """A file object."""

    def __init__(self, place: Place, lane: Lane, file: gio.File) -> None:
        self.place, self.lane, self.file = place, lane, file
        self.locks: list[gio.Lock] = []


class Place:
    """A file, or a part of one that nobody else writes to."""

    def __init__(self, path: Path, begin: int = 0, end: int | None = None) -> None:
        self.path = path
        self.begin, self.end = begin, end
        self.contents = Contents()
        self.opened: list[Opened] = []
        self.unit = PAGE  # what two file objects must not write to together
        if end is not None:
            self.contents.truncate(os.path.getsize(path))

    @property
    def is_shared(self) -> bool:
        return self.end is not None

    def locked_out(self, opened: Opened, writes: bool, places: Sequence[tuple[int, int]]) -> bool:
        """Whether a lock is in the way."""
        for other in self.opened:
            for lock in other.locks:
                if not any(at < lock.offset + lock.length and lock.offset < at + n for at, n in places if n):
                    continue
                if (other is not opened and lock.exclusive) or (writes and not lock.exclusive):
                    return True
        return False


class Flight:
    """An operation under way."""

    def __init__(self, opened: Opened, memory: Memory, nbytes: int, step: int) -> None:
        self.opened = opened
        self.memory = memory
        self.nbytes = nbytes
        self.step = step
        self.operation: gio.Operation | None = None  # none: dropped
        self.write: Write | None = None
        self.read: Read | None = None
        self.data: Bytes | None = None
        self.whole_units = False
        self.locked_out = False
        self.cancelled = False
        self.told = False  # somebody has asked how it ended
        self.errors = set(opened.lane.errors)
        self.calls: list[gio.Operation] = []  # of callbacks
        self.callbacks = 0

    def __repr__(self) -> str:
        return f"<flight of step {self.step}: {self.operation!r}>"


def some_lane(draw: random.Random) -> Lane:
    depth, backend = draw.choice([1, 2, 8, 128]), draw.choice(BACKENDS)
    request_size = draw.choice([PAGE, 64 * KIB, 4 * MIB])
    queue = gio.CompletionQueue(depth, backend=backend, request_size=request_size)
    return Lane(queue, collects=draw.random() < 0.5, in_order=request_size >= 4 * MIB)


@contextlib.contextmanager
def lanes_for(draw: random.Random) -> Iterator[list[Lane]]:
    """Some queues of any backends, closed at the end."""
    lanes = [some_lane(draw) for _ in range(draw.randrange(1, 4))]
    try:
        yield lanes
    finally:
        for lane in lanes:
            lane.queue.close()
