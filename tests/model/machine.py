"""Takes random steps on real files, each drawn by the seed alone, whatever came of the earlier ones.

Whatever is found to differ raises `DifferenceError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from oracle import FOREVER, KIB, MIB, ON_WINE, PAGE

import gatherio as gio

from .contents import Bytes, DifferenceError, pattern
from .subjects import FAILURES, TRANSIENT, Flight, Lane, Memory, Opened, Place, some_lane

_FLIGHTS_MAX: Final = 24


class Machine:
    """One thread's files, and what it does to them."""

    def __init__(self, seed: str, start: Path, lanes: list[Lane], *, shared: Place | None, alone: bool) -> None:
        self.random = random.Random(seed)
        self.lanes = lanes
        self.alone = alone  # no other thread uses the queues
        self.interrupts = os.name != "nt" and threading.current_thread() is threading.main_thread() and alone
        self.number = 0
        self.salt = self.random.randrange(1 << 20)
        self.trace: list[str] = []
        self.flights: list[Flight] = []
        self.files: list[
            gio.File
        ] = []  # no destructor is to run in an interrupted wait: the signal would be lost in it
        self.steps: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.places = [Place(Path(f"{start}{name}")) for name in "ab"]
        if shared is not None:
            self.places.append(shared)
        self.pool = gio.Pool(4, 3 * PAGE, np.uint8)
        self._arena = gio.empty(MIB, np.uint8)
        self._arena_used = 0
        self._registrations: list[gio.Registration] = []
        for lane in lanes:
            with contextlib.suppress(OSError):  # another backend, an old kernel, memlock
                self._registrations.append(lane.queue.register(self._arena))
        for place in self.places:
            self.open(place, "r+" if place.is_shared else "x+")

    # -- running -----------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.step()
            self.finish()
        except BaseException:
            self.give_up()
            raise

    def step(self) -> None:
        self.number += 1
        names, weights = zip(*self.choices(), strict=True)
        name = self.random.choices(names, weights)[0]
        self.steps[name] += 1
        getattr(self, f"step_{name}")()
        while len(self.flights) > _FLIGHTS_MAX:
            self.settle(self.flights[0])

    def choices(self) -> list[tuple[str, int]]:
        found = [
            ("transfer", 60), ("now", 8), ("batch", 5), ("settle", 22), ("poll", 8), ("timeout", 4), ("wait", 5),
            ("as_completed", 3), ("awaiting", 2), ("cancel", 6), ("callback", 5), ("drop", 5), ("waiters", 2),
            ("get", 6), ("size", 6), ("flush", 3), ("truncate", 5), ("preallocate", 3), ("reopen", 5), ("second", 4),
            ("locks", 0 if ON_WINE else 5), ("compare", 3), ("peek", 5), ("append", 2), ("interrupt", 4), ("hold", 4),
            ("short", 5), ("transient", 3), ("register", 1),
        ]  # fmt: skip
        if self.alone:
            found += [("fail", 4), ("no_fault", 6), ("new_queue", 1)]
        return found

    def finish(self) -> None:
        """Let everything end, and compare."""
        self.settle_all()
        for place in self.places:
            self.compare(place)
            for opened in list(place.opened):
                self.close(opened)
            self.compare_file(place)
        for registration in self._registrations:
            registration.close()
        self.pool.close()

    def give_up(self) -> None:
        """After a difference: close what there is, whatever it says."""
        for lane in self.lanes:
            with contextlib.suppress(Exception):
                lane.set("NONE")
        for place in self.places:
            for opened in place.opened:
                with contextlib.suppress(Exception):
                    opened.file.close()

    def say(self, text: str) -> None:
        self.trace.append(f"{self.number}: {text}")
        del self.trace[:-60]

    # -- what to do it with ------------------------------------------------------------------------------

    def some_place(self) -> Place:
        return self.random.choice(self.places)

    def some_opened(self) -> Opened:
        place = self.some_place()
        return self.random.choice(place.opened)

    def some_offset(self, place: Place) -> int:
        """Near the boundaries that matter, or anywhere."""
        draw = self.random.random()
        if draw < 0.1:
            offset = self.random.choice([64 * KIB, MIB, 2 * MIB]) + self.random.choice([-1, 0, 1, 512, -PAGE])
        elif draw < 0.5:
            offset = self.random.randrange(24) * PAGE + self.random.choice([0, 0, 0, 1, -1, 7, 512, -512])
        elif draw < 0.7:
            offset = self.random.randrange(64) * PAGE
        else:
            offset = self.random.randrange(300_000)
        return self.inside(place, max(0, offset))

    def inside(self, place: Place, offset: int) -> int:
        return offset if place.end is None else place.begin + offset % (place.end - place.begin)

    def some_length(self) -> int:
        draw = self.random.random()
        if draw < 0.03:
            return 0
        if draw < 0.08:
            return self.random.choice([512 * KIB, MIB, 2 * MIB]) + self.random.choice([0, 0, 1, -77])
        if draw < 0.5:
            return self.random.randrange(1, 9) * PAGE + self.random.choice([0, 0, 0, 1, -1, 512, -512])
        return self.random.randrange(1, 40_000)

    def cut(self, place: Place, offset: int, length: int) -> int:
        return length if place.end is None else min(length, place.end - offset)

    def some_memory(self, lengths: list[int]) -> Memory:
        """Apart from each other, at any alignment; of numpy, of pages, registered."""
        places, at = [], self.random.choice([0, 0, 1, 8, 511, 512])
        for length in lengths:
            places.append((at, length))
            at += length + self.random.choice([0, 1, 64, PAGE])
        kind = self.random.random()
        if kind < 0.2 and (arena := self._some_arena(at + 64)) is not None:
            return Memory(arena, places)
        if kind < 0.3 and len(lengths) == 1 and at <= 3 * PAGE:
            with contextlib.suppress(gio.TimeoutError):
                array = self.pool.acquire(0)
                return Memory(array, places, lambda: self.pool.release(array))
        owner = np.empty(at + 64, np.uint8) if kind < 0.6 else gio.empty(at + 64, np.uint8)
        return Memory(owner, places)

    def _some_arena(self, nbytes: int) -> Bytes | None:
        """A part of the memory that is registered, until nothing is under way."""
        if not self.flights:
            self._arena_used = 0
        begin = -(-self._arena_used // PAGE) * PAGE
        if begin + nbytes > self._arena.size:
            return None
        self._arena_used = begin + nbytes
        return self._arena[begin : begin + nbytes]

    def some_pages(self, tail: int) -> Memory:
        """Whole pages in any order of memory, the last one perhaps less: for a transfer without a copy."""
        count = self.random.choice([1, 2, 3, 8, 17, 40])
        order = self.random.sample(range(count), count)
        apart = self.random.choice([1, 2])
        owner = gio.empty((apart * count + 1) * PAGE, np.uint8)
        lengths = [PAGE] * (count - 1) + [tail or PAGE]
        return Memory(owner, [(apart * i * PAGE, n) for i, n in zip(order, lengths, strict=True)])

    def some_rows(self) -> Memory:
        """The same by `Segments.rows`."""
        count = self.random.choice([2, 5, 16])
        rows = gio.empty((2 * count, PAGE), np.uint8)
        index = self.random.sample(range(2 * count), count)
        memory = Memory(rows.reshape(-1), [(i * PAGE, PAGE) for i in index])
        memory.handed_over = gio.Segments.rows(rows, index)
        return memory

    # -- opening and closing -----------------------------------------------------------------------------

    def open(self, place: Place, mode: str) -> Opened:
        lane = self.random.choice(self.lanes)
        direct = self.random.choice([None, None, False])
        durable = self.random.random() < 0.15
        preallocate = self.random.choice([None, None, None, 300_000]) if not place.is_shared else None
        self.say(f"open {place.path.name} {mode!r} direct={direct} durable={durable} preallocate={preallocate}")
        queue = None if lane.queue is None else lane.queue
        file = gio.open(
            place.path, mode, direct=direct, durable=durable, preallocate=preallocate, queue=queue, tuning=False
        )
        opened = Opened(place, lane, file)
        place.opened.append(opened)
        self.files.append(file)
        place.unit = max(PAGE, getattr(os, "statvfs", lambda _: None)(place.path).f_bsize) if os.name != "nt" else PAGE
        if mode[0] in "wx":
            place.contents.truncate(0)
        return opened

    def close(self, opened: Opened) -> None:
        """With what is in flight; afterwards all of that is known."""
        place = opened.place
        self.say(f"close one of {place.path.name}")
        self.release(opened.lane)
        flights = [flight for flight in self.flights if flight.opened is opened]
        failure: BaseException | None = None
        try:
            opened.file.close()
        except OSError as error:
            failure = error
        failed = []  # and nobody had asked
        for flight in flights:
            operation = flight.operation
            if operation is not None and not operation.done():
                raise DifferenceError(f"{flight} has not ended, and its file is closed")
            if self.settle(flight) and flight.write is not None and not flight.told:
                failed.append(flight)
        if (failure is not None) != bool(failed):
            raise DifferenceError(f"close raised {failure!r}; writes that failed and nobody was told of: {failed}")
        opened.file.close()  # twice is fine
        opened.locks.clear()
        place.opened.remove(opened)

    # -- submitting --------------------------------------------------------------------------------------

    def step_transfer(self) -> None:
        self.submit(self.some_opened(), dropped=False)

    def step_drop(self) -> None:
        """Nobody holds the operation."""
        opened = self.some_opened()
        if not opened.lane.errors:
            self.submit(opened, dropped=True)

    def step_batch(self) -> None:
        opened = self.some_opened()
        for flight in [flight for flight in self.flights if flight.opened is not opened]:
            if flight.opened.place is opened.place:
                self.settle(flight)
        with opened.lane.queue.batch():
            for _ in range(self.random.randrange(1, 12)):
                self.submit(opened, dropped=False)

    def submit(self, opened: Opened, *, dropped: bool) -> None:
        writes = self.random.random() < 0.6
        how = self.random.choice(["one", "one", "many", "pages", "rows", "batch"])
        place, file = opened.place, opened.file
        copy = self.random.choice([False, None, True])
        if how == "one":
            offset = self.some_offset(place)
            memory = self.some_memory([self.cut(place, offset, self.some_length())])
            places = [(offset, memory.arrays[0].size)]
            call = file.write_at if writes else file.read_at
            self.start(opened, memory, places, call, memory.arrays[0], offset, dropped=dropped)
        elif how == "batch":
            places = self.some_places(place)
            memory = self.some_memory([length for _, length in places])
            many = file.write_many if writes else file.read_many
            self.start(opened, memory, places, many, memory.arrays, [at for at, _ in places], dropped=dropped)
        else:
            memory, offset = self.some_arrays(how, opened)
            nbytes = sum(array.size for array in memory.arrays)
            if place.end is not None and offset + nbytes > place.end:
                memory.end()
                return
            together = file.write_gather if writes else file.read_scatter
            options = {"copy": (copy or None) if how == "many" else copy}
            self.start(
                opened, memory, [(offset, nbytes)], together, memory.handed_over, offset, dropped=dropped, **options
            )

    def some_arrays(self, how: str, opened: Opened) -> tuple[Memory, int]:
        """For one range of a file, and where that begins."""
        offset = self.some_offset(opened.place)
        if how == "many":
            count = self.random.randrange(1, 12)
            sizes = [0, 1, 511, PAGE, 5000, 3 * PAGE]
            return self.some_memory([self.random.choice([*sizes, self.random.randrange(1, 3000)])
                                     for _ in range(count)]), offset  # fmt: skip
        offset = self.inside(opened.place, offset) // PAGE * PAGE
        if opened.place.end is not None and offset < opened.place.begin:
            offset += PAGE
        alignment = opened.file.alignment
        tail = self.random.choice([0, 0, alignment]) if PAGE % alignment == 0 else 0
        return (self.some_pages(tail) if how == "pages" else self.some_rows()), offset

    def start(
        self,
        opened: Opened,
        memory: Memory,
        places: Sequence[tuple[int, int]],
        call: Callable[..., gio.Operation],
        *arguments: Any,
        dropped: bool = False,
        **options: Any,
    ) -> None:
        """Submit it, here and in the model."""
        flight = self.flight(opened, memory, places, call.__name__.startswith("write"))
        dropped = dropped and not flight.locked_out
        self.say(f"{call.__name__} {places[:3]} of {opened.place.path.name} {options} {'dropped' if dropped else ''}")
        operation = call(*arguments, **options, tag=flight)
        if not dropped:
            if operation.nbytes != flight.nbytes or operation.tag is not flight or operation.file is not opened.file:
                raise DifferenceError(f"{operation!r} is not what was submitted")
            flight.operation = operation
            if opened.lane.collects:
                opened.lane.submitted.append(operation)
        self.flights.append(flight)

    def some_places(self, place: Place) -> list[tuple[int, int]]:
        """Of a batch, apart from each other."""
        places: list[tuple[int, int]] = []
        for _ in range(self.random.randrange(1, 10)):
            at = self.some_offset(place)
            length = self.cut(place, at, self.random.choice([0, 1, 512, PAGE, PAGE + 1, 3 * PAGE, 9000]))
            if all(at + length <= other or other + size <= at for other, size in places):
                places.append((at, length))
        return places

    def flight(self, opened: Opened, memory: Memory, places: Sequence[tuple[int, int]], writes: bool) -> Flight:
        """What is about to be submitted, in the model."""
        place = opened.place
        self.make_room(opened, places, writes)
        flight = Flight(opened, memory, sum(length for _, length in places), self.number)
        flight.whole_units = all(at % place.unit == 0 and n % place.unit == 0 for at, n in places)
        flight.locked_out = place.locked_out(opened, writes, places)
        if not writes:
            flight.read = place.contents.begin_read(places)
            return flight
        self.salt += 1
        parts = [pattern(at, length, self.salt) for at, length in places]
        flight.data = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        memory.put(flight.data)
        flight.write = place.contents.begin_write(self.salt, [(at, part) for (at, _), part in zip(places, parts)])  # noqa: B905
        return flight

    def make_room(self, opened: Opened, places: Sequence[tuple[int, int]], writes: bool) -> None:
        """Two file objects may meet within a page only if the page cache, and nothing else, is between them."""
        others = [f for f in self.flights if f.opened.place is opened.place and f.opened is not opened]
        unit = opened.place.unit
        whole = all(at % unit == 0 and n % unit == 0 for at, n in places)
        for other in others:
            if not writes and other.write is None:
                continue
            if not (opened.file.direct or other.opened.file.direct):
                continue
            both = opened.file.direct and other.opened.file.direct
            shortens = opened.lane.shortens or other.opened.lane.shortens or not self.alone
            if not (both and whole and other.whole_units) or shortens:
                self.settle(other)

    def step_now(self) -> None:
        """`pread` and `pwrite`."""
        opened = self.some_opened()
        writes = self.random.random() < 0.5
        place = opened.place
        offset = self.some_offset(place)
        memory = self.some_memory([self.cut(place, offset, self.some_length())])
        array = memory.arrays[0]
        flight = self.flight(opened, memory, [(offset, array.size)], writes)
        self.say(f"{'pwrite' if writes else 'pread'} {offset, array.size} of {place.path.name}")
        self.release(opened.lane)
        self.flights.append(flight)
        outcome: int | BaseException
        try:
            outcome = opened.file.pwrite(array, offset) if writes else opened.file.pread(array, offset)
        except OSError as failure:
            outcome = failure
        self.learn(flight, outcome)

    # -- outcomes ----------------------------------------------------------------------------------------

    def settle(self, flight: Flight) -> bool:
        """Wait for it, and compare. Whether it failed."""
        if flight not in self.flights:
            return False
        self.release(flight.opened.lane)
        operation = flight.operation
        outcome: int | BaseException
        if operation is None:  # dropped: nothing but the file tells
            if not flight.opened.file.closed:
                flight.opened.file.flush()
            if flight.read is None:
                outcome = flight.nbytes
            else:
                size = os.path.getsize(flight.opened.place.path)
                outcome = -1 if flight.read.low != flight.read.high or size < flight.read.high else 0
                if outcome == 0:
                    outcome = flight.read.counts()[0]
        else:
            outcome = self.result(operation)
        return self.learn(flight, outcome)

    @staticmethod
    def result(operation: gio.Operation) -> int | BaseException:
        try:
            return operation.result(FOREVER)
        except gio.TimeoutError as failure:
            raise DifferenceError(f"{operation!r} does not end") from failure
        except (OSError, gio.CancelledError) as failure:
            return failure

    def learn(self, flight: Flight, outcome: int | BaseException) -> bool:
        """Take an outcome into the model. Whether it is a failure."""
        self.flights.remove(flight)
        flight.memory.check_around()
        failed = isinstance(outcome, BaseException)
        cancelled = isinstance(outcome, gio.CancelledError)
        self.check_outcome(flight, outcome)
        self.outcomes[type(outcome).__name__ if failed else "short" if outcome != flight.nbytes else "whole"] += 1
        self.outcomes["raced"] += (
            bool(flight.write.rivals) if flight.write else not flight.read.quiet if flight.read else 0
        )
        contents = flight.opened.place.contents
        if flight.write is not None:
            if not np.array_equal(flight.memory.taken(), flight.data):
                raise DifferenceError(f"the memory that was written from has changed: {flight}")
            if flight.locked_out and failed and not cancelled:
                contents.never_began(flight.write)
            else:
                in_place = _in_place(outcome, flight) if failed else None
                contents.end_write(flight.write, in_place)
        elif flight.read is not None:
            found = _split(flight.memory.taken(), [length for _, length in flight.read.places])
            known = not failed and outcome != -1
            contents.end_read(flight.read, found if known else None, outcome if isinstance(outcome, int) else 0)
        deadline = time.monotonic() + FOREVER
        while len(flight.calls) < flight.callbacks and time.monotonic() < deadline:
            time.sleep(0.001)  # another thread is calling them
        if flight.calls != [flight.operation] * flight.callbacks:
            raise DifferenceError(f"{flight.callbacks} callbacks were called {len(flight.calls)} times: {flight}")
        flight.memory.end()
        return failed and not cancelled

    def check_outcome(self, flight: Flight, outcome: int | BaseException) -> None:
        if isinstance(outcome, gio.CancelledError):
            if not flight.cancelled:
                raise DifferenceError(f"cancelled, and nobody asked for it: {flight}")
        elif flight.locked_out and flight.nbytes:
            if not isinstance(outcome, gio.LockedError):
                raise DifferenceError(f"{outcome!r} where a lock is in the way: {flight}")
        elif isinstance(outcome, OSError):
            if outcome.errno not in flight.errors:
                raise DifferenceError(f"failed, and no fault was set: {outcome!r} of {flight}") from outcome
            if outcome.filename != flight.opened.place.path:
                raise DifferenceError(f"the file's name is not in {outcome!r}")
        elif flight.write is not None and outcome != flight.nbytes:
            raise DifferenceError(f"{outcome} bytes written of {flight.nbytes}: {flight}")

    def settle_all(self) -> None:
        while self.flights:
            self.settle(self.random.choice(self.flights))

    def settle_place(self, place: Place) -> None:
        for flight in [flight for flight in self.flights if flight.opened.place is place]:
            self.settle(flight)

    def held_flights(self) -> list[Flight]:
        return [flight for flight in self.flights if flight.operation is not None]

    def step_settle(self) -> None:
        for flight in self.random.sample(self.flights, min(len(self.flights), self.random.randrange(1, 5))):
            self.settle(flight)

    def step_poll(self) -> None:
        for flight in self.held_flights()[:6]:
            assert flight.operation is not None
            if flight.operation.done() and flight.operation.running():
                raise DifferenceError(f"{flight} is done, and runs")

    def step_timeout(self) -> None:
        """A wait that may be too short. What it finds is looked at later, so that the next steps are the seed's."""
        flights = self.held_flights()
        if not flights:
            return
        flight = self.random.choice(flights)
        assert flight.operation is not None
        try:
            flight.operation.exception(0.001)
        except gio.TimeoutError:
            return
        except gio.CancelledError:
            if not flight.cancelled:
                raise
        flight.told = True

    def some_flights(self) -> list[Flight]:
        flights = self.held_flights()
        return self.random.sample(flights, min(len(flights), self.random.randrange(1, 9)))

    def release(self, lane: Lane) -> None:
        """Before a wait for something on this queue."""
        if self.alone:
            lane.release()
        else:
            self.release_all()

    def release_all(self) -> None:
        for lane in self.lanes:
            lane.release()

    def step_wait(self) -> None:
        flights = self.some_flights()
        operations = [flight.operation for flight in flights if flight.operation is not None]
        when = self.random.choice([gio.ALL_COMPLETED, gio.FIRST_COMPLETED, gio.FIRST_EXCEPTION])
        self.say(f"wait for {len(flights)}, {when}")
        if not operations:
            return
        self.release_all()
        done, not_done = gio.wait(operations, FOREVER, when)
        if done | not_done != set(operations) or done & not_done or not done:
            raise DifferenceError(f"wait says {done} and {not_done} of {operations}")
        if not all(operation.done() for operation in done) or (when == gio.ALL_COMPLETED and not_done):
            raise DifferenceError(f"wait says done of {done}, {when}")
        if when == gio.ALL_COMPLETED:
            for flight in flights:
                self.settle(flight)

    def step_as_completed(self) -> None:
        flights = self.some_flights()
        self.say(f"as_completed of {len(flights)}")
        self.release_all()
        operations = [flight.operation for flight in flights if flight.operation is not None]
        found = []
        for operation in gio.as_completed(operations, FOREVER):
            if not operation.done():
                raise DifferenceError(f"as_completed says done of {operation!r}")
            found.append(operation)
        if len(found) != len(operations) or set(found) != set(operations):
            raise DifferenceError(f"as_completed gave {found} of {operations}")
        for flight in flights:
            self.settle(flight)

    def step_awaiting(self) -> None:
        """In asyncio, all together."""
        flights = self.some_flights()
        self.say(f"await {len(flights)}")
        self.release_all()

        async def one(operation: gio.Operation) -> int:
            return await operation

        async def all_of_them() -> list[int | BaseException]:
            waiting = [one(flight.operation) for flight in flights if flight.operation is not None]
            return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), FOREVER)

        for flight, outcome in zip(flights, asyncio.run(all_of_them()), strict=True):
            again = self.result(flight.operation) if flight.operation is not None else 0
            if repr(again) != repr(outcome):
                raise DifferenceError(f"await gave {outcome!r}, and result {again!r}: {flight}")
            self.learn(flight, outcome)

    def step_waiters(self) -> None:
        """Several threads wait for one operation: each is told the same."""
        flights = self.held_flights()
        if not flights:
            return
        flight = self.random.choice(flights)
        assert flight.operation is not None
        self.say(f"three threads wait for {flight.step}")
        found: list[int | BaseException] = []

        def wait(operation: gio.Operation = flight.operation) -> None:
            found.append(self.result(operation))

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        self.release_all()  # while they wait, perhaps
        for thread in threads:
            thread.join(2 * FOREVER)
        if len({repr(one) for one in found}) != 1 or len(found) != 3:
            raise DifferenceError(f"three threads were told {found}")
        self.learn(flight, found[0])

    def step_cancel(self) -> None:
        for flight in self.some_flights()[:4]:
            assert flight.operation is not None
            self.say(f"cancel {flight.step}")
            flight.cancelled = True
            flight.operation.cancel()

    def step_callback(self) -> None:
        for flight in self.some_flights()[:4]:
            assert flight.operation is not None
            flight.callbacks += 1
            flight.operation.add_done_callback(flight.calls.append)

    def step_get(self) -> None:
        lane = self.random.choice(self.lanes)
        limit = self.random.choice([None, 1, 3])
        timeout = self.random.choice([0, 0.001])
        if lane.collects:
            lane.take(timeout, limit)

    # -- the file as a whole -----------------------------------------------------------------------------

    def step_size(self) -> None:
        opened = self.some_opened()
        if not self.is_shared(opened):
            opened.place.contents.check_size(opened.file.size)

    def is_shared(self, opened: Opened) -> bool:
        return opened.place.is_shared

    def step_flush(self) -> None:
        opened = self.some_opened()
        self.say(f"flush {opened.place.path.name}")
        if self.is_shared(opened):
            self.release_all()
        self.release(opened.lane)
        opened.file.flush()
        for flight in self.flights:
            if flight.opened is opened and flight.operation is not None and not flight.operation.done():
                raise DifferenceError(f"{flight} has not ended, and its file was flushed")

    def step_truncate(self) -> None:
        opened = self.some_opened()
        place = opened.place
        size = max(0, self.some_offset(place))
        if self.is_shared(opened):
            return
        for flight in [f for f in self.flights if f.opened.place is place]:
            if flight.opened is not opened or self.random.random() < 0.5:
                self.settle(flight)
        self.say(f"truncate {place.path.name} to {size}")
        self.release(opened.lane)
        old = os.path.getsize(place.path) if self.locks_of(place) else 0
        if self.locks_of(place):
            self.settle_place(place)
            old = os.path.getsize(place.path)
            if place.locked_out(opened, True, [(min(old, size), abs(old - size))]):
                try:
                    opened.file.truncate(size)
                except gio.LockedError:
                    return
                raise DifferenceError("truncate goes through a lock")
        opened.file.truncate(size)
        self.settle_place(place)  # ended before it
        place.contents.truncate(size)

    def locks_of(self, place: Place) -> bool:
        return any(opened.locks for opened in place.opened)

    def step_preallocate(self) -> None:
        opened = self.some_opened()
        nbytes = self.random.choice([0, PAGE, 100_000, 3 * MIB])
        if not self.is_shared(opened):
            self.say(f"preallocate {nbytes} of {opened.place.path.name}")
            self.release(opened.lane)
            opened.file.preallocate(nbytes)

    def step_reopen(self) -> None:
        """Close it with what is in flight, and open it again."""
        opened = self.some_opened()
        place = opened.place
        mode = self.random.choice(["r+", "r+", "r+", "w+"])
        if place.is_shared or len(place.opened) > 1:
            mode = "r+"
        self.close(opened)
        if not place.opened and not place.is_shared and self.random.random() < 0.3:
            self.compare_file(place)
        self.open(place, mode)

    def step_second(self) -> None:
        """A second object for a file, or one less."""
        place = self.some_place()
        if len(place.opened) > 1:
            self.close(self.random.choice(place.opened))
        elif not place.is_shared:
            self.open(place, "r+")

    def step_locks(self) -> None:
        """Take a lock, or give one back."""
        opened = self.some_opened()
        place = opened.place
        offset, length = self.some_offset(place), self.random.choice([1, 100, PAGE, 5 * PAGE])
        exclusive = self.random.random() < 0.6
        if place.is_shared:
            return
        if opened.locks:
            opened.locks.pop(self.random.randrange(len(opened.locks))).unlock()
            return
        overlapping = [
            lock
            for other in place.opened
            for lock in other.locks
            if offset < lock.offset + lock.length and lock.offset < offset + length
        ]
        expected = all(not lock.exclusive and not exclusive for lock in overlapping)
        self.say(f"lock {offset, length} exclusive={exclusive} of {place.path.name}")
        try:
            lock = opened.file.lock(offset, length, exclusive=exclusive)
        except gio.LockedError as failure:
            if expected:
                raise DifferenceError(f"a lock was refused: {failure!r}") from failure
            return
        opened.locks.append(lock)
        if not expected:
            raise DifferenceError(f"{lock!r} was given, with {overlapping} in the way")

    def step_peek(self) -> None:
        place = self.some_place()
        if not place.is_shared:
            self.say(f"peek at {place.path.name}")
            self.peek(place)

    def peek(self, place: Place) -> None:
        """Read it by plain `open` while it is being written. Who trusts the length sees data, and no zeros."""
        contents = place.contents
        low, growing = contents.low, contents.growing()
        read = contents.begin_read([(0, contents.high)])
        found = np.frombuffer(place.path.read_bytes(), np.uint8)
        contents.end_read(read, [found], found.size)
        in_order = all(opened.lane.in_order for opened in place.opened)
        if growing is not None and in_order and found.size > low:
            new = growing.data[low - growing.begin : found.size - growing.begin]
            if not np.array_equal(found[low:], new):
                raise DifferenceError(f"the file has {found.size} bytes, and behind {low} others than what is written")

    def step_append(self) -> None:
        """What comes behind the end, looked at while it is written."""
        opened = self.some_opened()
        place, size = opened.place, self.random.randrange(100_000)
        lengths = [self.random.choice([PAGE, 300_000, MIB]) + self.random.choice([0, 1, 600]) for _ in range(2)]
        copy = self.random.choice([None, True])
        if place.is_shared or self.locks_of(place):
            return
        self.settle_place(place)
        opened.file.truncate(size)
        place.contents.truncate(size)
        memory = self.some_memory(lengths)
        self.start(opened, memory, [(size, sum(lengths))], opened.file.write_gather, memory.arrays, size, copy=copy)
        for _ in range(3):
            self.peek(place)

    def step_interrupt(self) -> None:
        """A signal handler raises in the middle of a wait: the operation goes on."""
        flights = self.held_flights()
        if not flights or not self.interrupts:
            return
        flight = self.random.choice(flights)
        operation = flight.operation
        how = self.random.choice(["result", "wait", "as_completed", "get"])
        delay = self.random.choice([0, 50e-6, 200e-6, 1e-3])
        lane = self.random.choice(self.lanes)
        assert operation is not None
        self.say(f"interrupt {how} after {delay}")
        with contextlib.suppress(InterruptError), interrupted(delay):
            if how == "result" and flight.read is not None:  # of a write nobody would know who has been told
                operation.result(0.002)
            elif how == "wait":
                gio.wait([flight.operation for flight in flights if flight.operation], 0.002)
            elif how == "as_completed":
                for _ in gio.as_completed([operation], 0.002):
                    pass
            elif not lane.collects:  # what it was about to hand out would be lost with the exception
                lane.queue.get(0.002)

    def step_register(self) -> None:
        """Give the registered memory up, or register it again."""
        if self._registrations:
            self._registrations.pop().close()
        else:
            with contextlib.suppress(OSError):
                self._registrations.append(self.random.choice(self.lanes).queue.register(self._arena))

    def step_compare(self) -> None:
        self.compare(self.some_place())

    def compare(self, place: Place) -> None:
        """Let what is in flight end, read the file through an object of ours, and by plain `open`."""
        self.say(f"compare {place.path.name}")
        self.settle_place(place)
        self.compare_file(place)
        if not place.opened or self.locks_of(place):
            return
        opened = self.random.choice(place.opened)
        begin, end = place.begin, place.end or place.contents.high
        array = gio.empty(end - begin + 1, np.uint8)[: end - begin]
        if opened.lane.errors:
            opened.lane.set("NONE")
        self.release(opened.lane)
        count = opened.file.read_at(array, begin).result(FOREVER)
        if count != end - begin:
            raise DifferenceError(f"{count} bytes read of {end - begin}")
        place.contents.check_all(array, begin)

    def compare_file(self, place: Place) -> None:
        with open(place.path, "rb") as file:
            file.seek(place.begin)
            found = np.frombuffer(file.read() if place.end is None else file.read(place.end - place.begin), np.uint8)
        if place.end is None:
            place.contents.check_size(found.size)
        place.contents.check_all(found, place.begin)

    # -- faults ------------------------------------------------------------------------------------------

    def step_hold(self) -> None:
        lane = self.random.choice(self.lanes)
        after, count = self.random.randrange(4), self.random.randrange(1, 6)
        if lane.errors or lane.shortens:
            return
        self.say(f"HOLD after {after}, {count}")
        lane.set("HOLD", after, count)
        if not self.alone:  # who holds something and waits for another thread would be waited for by that
            for _ in range(3):
                self.submit(self.some_opened(), dropped=False)
            lane.set("NONE")

    def step_short(self) -> None:
        lane = self.random.choice(self.lanes)
        value = self.random.choice([1, 511, 512, 5000, PAGE, PAGE, 40_000, 3 * PAGE])
        after, count = self.random.randrange(4), self.random.randrange(1, 20)
        if self.alone and self.lanes_meet(lane):
            return
        self.say(f"SHORT after {after}, {count} of {value}")
        lane.set("SHORT", after, count, value)

    def lanes_meet(self, lane: Lane) -> bool:
        """Whether two objects of a file have something in flight: a short transfer goes on through the page cache."""
        return any(
            len({flight.opened for flight in self.flights if flight.opened.place is place}) > 1 for place in self.places
        )

    def step_transient(self) -> None:
        lane = self.random.choice(self.lanes)
        value, after, count = self.random.choice(TRANSIENT), self.random.randrange(4), self.random.randrange(1, 6)
        if lane.errors or lane.shortens:
            return
        self.say(f"transient {value} after {after}, {count}")
        lane.set("FAIL", after, count, value)

    def step_fail(self) -> None:
        lane = self.random.choice(self.lanes)
        value, after, count = self.random.choice(FAILURES), self.random.randrange(6), self.random.randrange(1, 4)
        for flight in [flight for flight in self.flights if flight.operation is None]:
            self.settle(flight)
        self.say(f"FAIL {value} after {after}, {count}")
        for flight in self.flights:
            if flight.opened.lane is lane:
                flight.errors.add(value)
        lane.set("FAIL", after, count, value)

    def step_no_fault(self) -> None:
        self.say("no faults")
        for lane in self.lanes:
            lane.set("NONE")

    def step_new_queue(self) -> None:
        """Close one with what is in flight, and make another one in its place."""
        number = self.random.randrange(len(self.lanes))
        lane, new = self.lanes[number], some_lane(self.random)
        self.lanes[number] = new
        self.say(f"close a queue; the new one is {new.queue!r}")
        lane.set("NONE")
        for registration in self._registrations:
            registration.close()
        self._registrations.clear()
        lane.queue.close()
        for flight in [flight for flight in self.flights if flight.opened.lane is lane]:
            if flight.operation is None:
                continue
            if not flight.operation.done():
                raise DifferenceError(f"{flight} has not ended, and its queue is closed")
            self.settle(flight)
        lane.finish()
        for place in self.places:
            for opened in [opened for opened in place.opened if opened.lane is lane]:
                self.close(opened)
            if not place.opened:
                self.open(place, "r+")


class InterruptError(Exception):
    """What the signal handler raises."""


@contextlib.contextmanager
def interrupted(delay: float) -> Iterator[None]:
    """SIGUSR2 comes after some time, and its handler raises, if that is still inside of the block."""
    armed = True

    def handler(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise InterruptError

    def send() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, handler)
    gc.disable()  # see Machine.files
    thread = threading.Thread(target=send)
    thread.start()
    try:
        with contextlib.suppress(gio.TimeoutError, gio.CancelledError, OSError):
            yield
    finally:
        armed = False
        gc.enable()
        thread.join()
        signal.signal(signal.SIGUSR2, before)


def _in_place(outcome: int | BaseException, flight: Flight) -> int:
    """How many bytes the exception says are in place; of a cancelled operation its text alone tells."""
    found = getattr(outcome, "bytes_in_place", None)
    if found is None:
        found = int(str(outcome).rsplit("the first ", 1)[1].split(" ", 1)[0])
    if not 0 <= found <= flight.nbytes:
        raise DifferenceError(f"{found} bytes in place of {flight.nbytes}: {flight}")
    return int(found)


def _split(found: Bytes, lengths: Sequence[int]) -> list[Bytes]:
    return np.split(found, np.cumsum(lengths)[:-1]) if lengths else []
