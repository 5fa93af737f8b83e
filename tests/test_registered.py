"""Memory that is registered with a queue: the same bytes, fewer steps; and everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

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
    needs_memlock,
    not_on_windows,
    placed,
    require,
    run_python,
    target,
    words,
)
from this_process import comes_down

import gatherio as gio
from gatherio import _native as native
from gatherio._core import registration as registration_module
from gatherio._native import ffi, lib

needs_uring = not_on_windows("it has no io_uring")
pytestmark = needs_memlock(
    8 * MIB
)  # what is let go of counts until a moment later: of the larger tests more than they hold


def registered(queue: gio.CompletionQueue) -> int:
    return queue.stats()["registered"]


def numpys_own(nbytes: int) -> np.ndarray:
    """Zeros that start on a page of numpy's memory."""
    memory = np.zeros(nbytes + PAGE, "u1")
    return memory[-memory.ctypes.data % PAGE :][:nbytes]


@pytest.fixture
def uring() -> gio.CompletionQueue:
    with gio.CompletionQueue(backend="uring") as queue:
        yield queue


@needs_uring
def test_transfers_from_and_to_registered_memory(uring: gio.CompletionQueue, any_folder: Path, direct) -> None:
    memory = gio.empty((600, PAGE), "u1")
    memory[...] = words(0, 600 * PAGE).reshape(600, PAGE)
    order = np.random.default_rng(0).permutation(600)
    path = any_folder / "file"
    with uring.register(memory), gio.open(path, "w+", direct=direct, queue=uring) as f:
        f.write_at(memory, 0).result(FOREVER)
        f.write_gather(gio.Segments.rows(memory, order), memory.nbytes).result(FOREVER)
        assert registered(uring) >= 2
        both = path.read_bytes()
        assert_same_bytes(both[: memory.nbytes], memory)
        assert_same_bytes(both[memory.nbytes :], memory[order])
        before = registered(uring)
        memory[...] = 0
        f.read_scatter(gio.Segments.rows(memory, order), memory.nbytes).result(FOREVER)
        assert registered(uring) > before
    assert_same_bytes(memory, words(0, memory.nbytes))


@needs_uring
def test_parts_and_neighbours(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """A request counts only if all of its memory is in one registration."""
    first, second, other = (placed(words(i * 8 * PAGE, 8 * PAGE)) for i in range(3))
    with gio.open(disk_dir / "file", "w", queue=uring) as f, uring.register(first), uring.register(second):
        for arrays, counts in (
            ([first[PAGE : 3 * PAGE]], 1),
            ([first[4 * PAGE :], first[: 2 * PAGE]], 1),
            ([first[: 2 * PAGE], second[4 * PAGE :]], 0),
            ([second, other], 0),
            ([other], 0),
        ):
            before = registered(uring)
            f.write_gather(arrays, 0).result(FOREVER)
            assert registered(uring) - before == counts
            written = (disk_dir / "file").read_bytes()[: sum(array.nbytes for array in arrays)]
            assert written == b"".join(array.tobytes() for array in arrays)


@needs_uring
def test_the_end_of_a_registration(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    memory = placed(words(0, 4 * PAGE))
    with gio.open(disk_dir / "file", "w", queue=uring) as f:

        def counts() -> int:
            before = registered(uring)
            f.write_at(memory, 0).result(FOREVER)
            return registered(uring) - before

        registration = uring.register(memory)
        assert (registration.nbytes, registration.closed, counts()) == (4 * PAGE, False, 1)
        registration.close()
        registration.close()
        assert (registration.closed, counts()) == (True, 0)
        assert "closed" in repr(registration)
        registration = uring.register(memory)
        again = uring.register(memory)  # twice is fine
        del registration
        gc.collect()
        assert counts() == 1
        again.close()
        assert counts() == 0


@needs_uring
def test_who_closes_second_waits_for_the_first(uring: gio.CompletionQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """When close returns it has ended, whoever has ended it."""
    ended: list[bool] = []

    class Lib:
        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_unregister(self, made: object, memory: object) -> None:
            second.start()
            second.join(0.2)  # it would be through by then
            native.lib.gio_unregister(made, memory)
            ended.append(True)

    def close_second() -> None:
        registration.close()
        ended.append(registration.closed)

    second = threading.Thread(target=close_second)
    with monkeypatch.context() as patched:
        patched.setattr(registration_module, "lib", Lib())
        registration = uring.register(gio.zeros(PAGE, "u1"))
    registration.close()
    second.join()
    assert ended == [True, True]


@needs_uring
def test_memory_that_is_given_back_takes_its_registration_along(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """Else new memory at the old address would be written from the old pages."""
    path = disk_dir / "file"
    with gio.open(path, "w", queue=uring) as f:
        for salt in range(20):
            memory = gio.empty(3 * MIB, "u1")
            memory[...] = words(0, memory.nbytes, salt)
            with uring.register(memory) if salt % 2 else uring.register(memory[: 2 * MIB]):
                f.write_at(memory, 0).result(FOREVER)
            assert_same_bytes(path.read_bytes(), words(0, memory.nbytes, salt))
            del memory
        registration = uring.register(gio.zeros(MIB, "u1"))  # keeps it alive
        assert registration.nbytes == MIB


@needs_uring
@needs_memlock(128 * MIB)
def test_a_registration_may_end_while_transfers_are_under_way(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    memory = placed(words(0, 64 * MIB))
    with gio.open(disk_dir / "file", "w", queue=uring) as f:
        with fault(uring, "HOLD", 0, 3), uring.register(memory):
            operation = f.write_at(memory, 0)
        assert operation.result(FOREVER) == memory.nbytes
    assert_same_bytes((disk_dir / "file").read_bytes(), memory)


@needs_uring
@needs_memlock(2 * GIB)
def test_more_than_one_gib(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """The kernel takes 1 GiB at a time."""
    memory = gio.empty(GIB + 2 * MIB, "u1", prefault=False)
    memory[GIB - MIB :] = words(0, 3 * MIB)
    with uring.register(memory), gio.open(disk_dir / "file", "w", queue=uring) as f:
        f.write_at(memory[GIB - MIB :], 0).result(FOREVER)  # across the two parts: goes all the same
        before = registered(uring)
        f.write_at(memory[GIB:], MIB).result(FOREVER)
        assert registered(uring) > before
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 3 * MIB))


@needs_uring
def test_the_table_is_large_and_ends(uring: gio.CompletionQueue) -> None:
    memory = gio.zeros((300, PAGE), "u1")
    kept = []
    with pytest.raises(OSError, match="no more memory can be registered") as told:
        for row in memory:
            kept.append(uring.register(row))
    assert told.value.errno == errno.ENOBUFS
    assert len(kept) >= 200
    kept.pop().close()
    uring.register(memory[0]).close()


@needs_uring
def test_a_registration_ends_with_its_last_byte(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """Memory that begins before it, or ends behind it, by a byte goes as if there were none."""
    memory = placed(words(0, 3 * PAGE))
    with gio.open(disk_dir / "file", "w", queue=uring, direct=False) as f, uring.register(memory[PAGE : PAGE + 100]):
        for first, last, counts in (
            (PAGE, PAGE + 100, 1),
            (PAGE + 99, PAGE + 100, 1),
            (PAGE, PAGE + 1, 1),
            (PAGE, PAGE + 101, 0),
            (PAGE + 99, PAGE + 101, 0),
            (PAGE - 1, PAGE + 100, 0),
            (PAGE + 100, PAGE + 101, 0),
        ):
            before = registered(uring)
            assert f.write_at(memory[first:last], first).result(FOREVER) == last - first
            assert registered(uring) - before == counts, (first, last)


@needs_uring
def test_a_registration_may_end_before_its_transfers_are_handed_over(
    uring: gio.CompletionQueue, disk_dir: Path
) -> None:
    """They are in the queue and not with the kernel yet, which would find nothing in its place."""
    memory = placed(words(0, 4 * PAGE))
    with gio.open(disk_dir / "file", "w", queue=uring) as f, fault(uring, "HOLD", count=1):
        f.write_at(memory, 8 * PAGE)  # with one in flight the queue's own thread sleeps between its looks
        for _ in range(20):
            with uring.batch():
                with uring.register(memory):
                    operations = [f.write_at(memory[i * PAGE : (i + 1) * PAGE], i * PAGE) for i in range(4)]
                memory_again = uring.register(gio.zeros(PAGE, "u1"))  # takes its place
            assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 4
            memory_again.close()
    assert_same_bytes((disk_dir / "file").read_bytes()[: 4 * PAGE], memory)


@needs_uring
@needs_memlock(2 * GIB)
def test_what_fits_only_in_part_is_not_registered(
    pinned: Callable[[], int], uring: gio.CompletionQueue, disk_dir: Path
) -> None:
    """More than 1 GiB takes two places in the table. There is one, and it is free again afterwards."""
    rows = gio.zeros((254, PAGE), "u1")
    large = gio.empty(GIB + 2 * MIB, "u1", prefault=False)
    kept = [uring.register(array) for array in (*rows, large[GIB:])]  # what would be the second part is one of its own
    before = pinned()
    with pytest.raises(OSError, match="no more memory can be registered") as told:
        uring.register(large)
    assert told.value.errno == errno.ENOBUFS
    assert comes_down(pinned, before)
    with gio.open(disk_dir / "file", "w", queue=uring) as f:
        f.write_at(large[:PAGE], 0).result(FOREVER)
        assert registered(uring) == 0, "nothing of it is used"
        f.write_at(large[GIB:], 0).result(FOREVER)
        assert registered(uring) == 1, "that one stays"
        with uring.register(large[:PAGE]):
            f.write_at(large[:PAGE], 0).result(FOREVER)
            assert registered(uring) == 2
            with pytest.raises(OSError, match="no more memory can be registered"):
                uring.register(rows)
    kept.clear()
    assert comes_down(pinned, 0)


@needs_uring
def test_the_limit_of_locked_memory() -> None:
    script = """
    import resource
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
    import os
    if os.geteuid() == 0:  # root may exceed it as long as it has the capability
        import ctypes
        CAP_IPC_LOCK = 14
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        data[0] &= ~(1 << CAP_IPC_LOCK)
        data[1] &= ~(1 << CAP_IPC_LOCK)
        assert libc.capset(header, data) == 0
    import gatherio as gio
    with gio.CompletionQueue(4, backend="uring") as queue:
        try:
            queue.register(gio.zeros(64 << 20, "u1"))
        except OSError as error:
            print(error.errno, error)
        with gio.open("/var/tmp/gatherio-memlock", "w", queue=queue) as f:
            f.write_gather([gio.zeros(8192, "u1"), gio.zeros(100, "u1")], 0, copy=True).result()  # staging goes without
        memory = gio.zeros(2 << 20, "u1")
        with gio.open("/var/tmp/gatherio-memlock", "w", queue=queue, tuning={"registered": True}) as f:
            for _ in range(3):
                f.write_at(memory, 0).result()
        assert queue.stats()["registered"] == 0
    os.unlink("/var/tmp/gatherio-memlock")
    """
    told = run_python(script)
    assert told.startswith(f"{errno.ENOMEM} ")
    assert "ulimit -l" in told and "67108864 bytes" in told


@needs_uring
def test_a_tuned_file_registers_separate_pages_for_one_transfer(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    rows = numpys_own(512 * PAGE).reshape(512, PAGE)  # for ours see below
    rows[:] = np.arange(512)[:, np.newaxis] % 251
    expected, pages = rows[1::2].tobytes(), gio.Segments.rows(rows, np.arange(1, 512, 2))
    with gio.open(disk_dir / "a", "w+", queue=uring, tuning={"registered": True}) as file:
        for _ in range(300):  # more than there are slots: each transfer gives its own back
            before = registered(uring)
            file.write_gather(pages, 0).result()
            assert registered(uring) > before
        before = registered(uring)
        file.write_at(rows, 2**21).result()
        file.write_gather([rows[:256], rows[256:]], 2**21).result()
        assert registered(uring) == before, "long runs gain nothing"
        rows[:] = 0
        file.read_scatter(pages, 0).result()
        assert registered(uring) > before
    assert rows[1::2].tobytes() == expected
    assert not rows[::2].any()


# --- kept from one transfer to the next ---


def pinned_bytes() -> int:
    """What io_uring has pinned for this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPin"))
    return int(line.split()[1]) << 10


@pytest.fixture
def pinned() -> Callable[[], int]:
    """Bytes that have been pinned since, once the queues of other tests have gone: the kernel takes its time."""
    gc.collect()
    found = [pinned_bytes()]
    while len(found) < 20 or len(set(found[-20:])) > 1:
        time.sleep(0.01)
        found.append(pinned_bytes())
    return lambda: pinned_bytes() - found[-1]


@needs_uring
def test_memory_that_is_transferred_again_stays_registered(
    pinned: Callable[[], int], uring: gio.CompletionQueue, disk_dir: Path, direct: bool | None
) -> None:
    memory = gio.empty((3, MIB), "u1")
    memory[...] = words(0, 3 * MIB).reshape(3, MIB)
    with gio.open(disk_dir / "file", "w+", queue=uring, tuning={"registered": True}, direct=direct) as f:
        f.write_at(memory, 0).result(FOREVER)
        assert (registered(uring), pinned()) == (0, 0), "perhaps that was all"
        memory[1] ^= 0xFF
        f.write_at(memory[1], MIB).result(FOREVER)  # the same allocation
        assert registered(uring) == 1
        assert pinned() == 3 * MIB, "all of the allocation"
        f.write_gather(gio.Segments.rows(memory, [2, 0]), 3 * MIB).result(FOREVER)
        f.write_many(memory, [5 * MIB, 6 * MIB, 7 * MIB]).result(FOREVER)
        assert registered(uring) >= 4
        expected = np.concatenate([*memory, memory[2], memory[0], *memory])
        assert_same_bytes((disk_dir / "file").read_bytes(), expected)
        count = registered(uring)
        memory[...] = 0
        assert f.read_at(memory.reshape(-1)[: 2 * MIB], MIB).result(FOREVER) == 2 * MIB
        assert registered(uring) > count
        assert_same_bytes(memory.reshape(-1)[: 2 * MIB], expected[MIB : 3 * MIB])
        assert pinned() == 3 * MIB
        del memory
        gc.collect()
        assert comes_down(pinned, 0)


@needs_uring
def test_what_is_not_kept(
    pinned: Callable[[], int], uring: gio.CompletionQueue, disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def stays_unregistered(memory: np.ndarray, **how: object) -> None:
        with gio.open(disk_dir / "file", "w", queue=uring, **how) as f:
            for _ in range(4):
                f.write_at(memory, 0).result(FOREVER)
        assert (registered(uring), pinned()) == (0, 0)

    tuned = {"tuning": {"registered": True}}
    stays_unregistered(gio.zeros(MIB - PAGE, "u1"), **tuned)  # too little to matter
    stays_unregistered(gio.empty(2 * MIB, "u1", prefault=False), **tuned)  # its pages may never be there
    stays_unregistered(numpys_own(2 * MIB), **tuned)  # nobody tells when it goes
    stays_unregistered(gio.zeros(2 * MIB, "u1"), tuning=False)
    monkeypatch.setattr("gatherio._core.queue._KEPT_BYTES_MAX", 2 * MIB - 1)
    stays_unregistered(gio.zeros(2 * MIB, "u1"), **tuned)


@needs_uring
def test_new_memory_at_the_place_of_kept_memory(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """It would be written from the old pages, were they still registered."""
    path, places = disk_dir / "file", set()
    with gio.open(path, "w+", queue=uring, tuning={"registered": True}) as f:
        for salt in range(30):
            memory = gio.empty(2 * MIB, "u1")
            places.add(memory.ctypes.data)
            for part in (2 * salt, 2 * salt + 1):
                memory[...] = words(0, memory.nbytes, part)
                f.write_at(memory, 0).result(FOREVER)
                assert_same_bytes(path.read_bytes(), words(0, memory.nbytes, part))
            assert registered(uring) == salt + 1
            del memory
    assert len(places) < 30, "this test needs memory to be used again"


@needs_uring
def test_parts_count_as_well(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """As of a ring of frames: once all of it has been round."""
    frames = gio.zeros((4, MIB), "u1")
    with gio.open(disk_dir / "file", "w", queue=uring, tuning={"registered": True}) as f:
        counts = []
        for number in range(6):
            f.write_at(frames[number % 4], number * MIB).result(FOREVER)
            counts.append(registered(uring))
    assert counts == [0, 0, 0, 0, 1, 2]


@needs_uring
def test_memory_that_the_kernel_does_not_let_go_of_is_not_used_again(disk_dir: Path) -> None:
    script = """
    import sys, gatherio as gio
    with gio.CompletionQueue(backend="uring") as queue:
        with gio.open(sys.argv[1], "w", queue=queue, tuning={"registered": True}) as f:
            memory = gio.full(1 << 21, 1, "u1")
            place = memory.ctypes.data
            for _ in range(2):
                f.write_at(memory, 0).result()
            del memory
            memory = gio.full(1 << 21, 2, "u1")
            assert memory.ctypes.data == place
            f.write_at(memory, 0).result()
            assert queue.stats()["registered"] == 1
    """
    # The fourth call gives the memory back; before it came the table, the probe, and the memory.
    inject = [require("strace", "strace"), "-f", "-o", str(disk_dir / "trace"), "-e", "trace=io_uring_register"]
    inject += ["-e", "inject=io_uring_register:error=ENOMEM:when=4"]
    run_python(script, disk_dir / "file", under=inject)
    assert "(INJECTED)" in (disk_dir / "trace").read_text()
    assert set((disk_dir / "file").read_bytes()) == {2}


@needs_uring
@pytest.mark.filterwarnings("ignore:unclosed <gatherio.CompletionQueue:ResourceWarning")
def test_kept_memory_ends_with_its_queue(pinned: Callable[[], int], disk_dir: Path) -> None:
    memory = gio.zeros(2 * MIB, "u1")

    def used_queue() -> gio.CompletionQueue:
        queue = gio.CompletionQueue(backend="uring")
        with gio.open(disk_dir / "file", "w", queue=queue, tuning={"registered": True}) as f:
            for _ in range(2):
                f.write_at(memory, 0).result(FOREVER)
        assert pinned() == memory.nbytes
        return queue

    used_queue().close()
    assert comes_down(pinned, 0)
    forgotten = used_queue()
    del forgotten
    gc.collect()
    assert comes_down(pinned, 0)


@needs_uring
@needs_memlock(256 * MIB)
def test_more_allocations_than_are_kept(pinned: Callable[[], int], uring: gio.CompletionQueue, disk_dir: Path) -> None:
    many = [gio.full(MIB, number, "u1", huge_pages=False) for number in range(150)]
    with gio.open(disk_dir / "file", "w+", queue=uring, tuning={"registered": True}) as f:
        for _ in range(2):
            for number, memory in enumerate(many):
                f.write_at(memory, number * MIB).result(FOREVER)
        kept = pinned()
        assert 100 * MIB <= kept < 150 * MIB
        del many[:100], memory
        assert comes_down(pinned, kept - 100 * MIB), "the first"
        for number, memory in enumerate(many):
            f.write_at(memory, number * MIB).result(FOREVER)
        assert pinned() == 50 * MIB, "there is room again"
        assert_same_bytes((disk_dir / "file").read_bytes()[: 50 * MIB], np.repeat(np.arange(100, 150, dtype="u1"), MIB))


@needs_uring
@needs_memlock(64 * MIB)
def test_what_many_queues_keep_ends_with_its_memory_or_its_queue(pinned: Callable[[], int]) -> None:
    """Each piece of memory in one queue, or in all of them; freed in any order, by the calls of the core."""
    rng = np.random.default_rng(2)
    queues = [gio.CompletionQueue(1, backend="uring") for _ in range(8)]
    kept: dict[int, tuple[int, int]] = {}  # by address: its length, and how many keep it
    per_queue = 100

    def keep(queue: gio.CompletionQueue, address: int, nbytes: int) -> None:
        assert lib.gio_queue_keep(queue._native, ffi.cast("void *", address), nbytes, GIB) == 0

    for number, queue in enumerate(queues):
        for _ in range(per_queue):
            place, allocated = ffi.new("void **"), ffi.new("uint64_t *")
            assert lib.gio_pages_allocate(int(rng.integers(1, 4)) * PAGE, lib.GIO_HUGE_NO, place, allocated) == 0
            address, nbytes = int(ffi.cast("uintptr_t", place[0])), int(allocated[0])
            keepers = queues if len(kept) % 40 == 0 else [queue]
            for other in keepers:
                for _ in range(2):  # what is kept already is not kept twice
                    keep(other, address, nbytes)
            kept[address] = nbytes, len(keepers)
        assert pinned() == sum(nbytes * keepers for nbytes, keepers in kept.values()), number
    addresses = rng.permutation(list(kept))
    for address in addresses[::2]:
        nbytes, _ = kept.pop(int(address))
        lib.gio_pages_free(nbytes, ffi.cast("void *", int(address)))
    left = sum(nbytes * keepers for nbytes, keepers in kept.values())
    assert comes_down(pinned, left) and pinned() == left
    for queue in queues:
        queue.close()
    assert comes_down(pinned, 0)
    for address, (nbytes, _) in kept.items():
        lib.gio_pages_free(nbytes, ffi.cast("void *", address))


@needs_uring
@needs_memlock(64 * MIB)
def test_the_limit_of_kept_memory_is_one_for_all_queues(
    pinned: Callable[[], int], disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds for what all of them keep together, and what goes makes room in any of them."""
    monkeypatch.setattr("gatherio._core.queue._KEPT_BYTES_MAX", 5 * MIB)

    def is_kept(file: gio.File, memory: np.ndarray) -> bool:
        for _ in range(2):
            file.write_at(memory, 0).result(FOREVER)
        before = registered(file._queue)
        file.write_at(memory, 0).result(FOREVER)
        return registered(file._queue) > before

    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(gio.CompletionQueue(8, backend="uring")) for _ in range(2)]
        f, g = (
            stack.enter_context(gio.open(disk_dir / str(i), "w", queue=queue, tuning={"registered": True}))
            for i, queue in enumerate(queues)
        )
        first, second, third = (gio.zeros(mib * MIB, "u1") for mib in (3, 2, 1))
        assert is_kept(f, first)
        assert is_kept(g, second), "up to the limit, that included"
        assert not is_kept(f, third) and not is_kept(g, third)
        assert not is_kept(g, first), "the same in another queue counts again"
        assert pinned() == 5 * MIB
        del second
        gc.collect()
        assert is_kept(f, third) and is_kept(g, third), "there is room again"
        assert pinned() == 5 * MIB
        fourth = gio.zeros(MIB, "u1")
        assert not is_kept(f, fourth) and not is_kept(g, fourth)
        del third  # from both
        gc.collect()
        assert is_kept(g, fourth) and is_kept(f, fourth)
        assert pinned() == 5 * MIB
        del first, fourth
        gc.collect()
        assert comes_down(pinned, 0)
        fifth = gio.zeros(5 * MIB, "u1")
        assert is_kept(g, fifth)
        assert pinned() == 5 * MIB


@needs_uring
@needs_memlock(64 * MIB)
def test_what_a_queue_keeps_counts_until_it_is_closed(
    pinned: Callable[[], int], disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatherio._core.queue._KEPT_BYTES_MAX", 2 * MIB)
    memory = gio.zeros(2 * MIB, "u1")
    closed = []
    for number in range(3):
        with gio.CompletionQueue(8, backend="uring") as queue:
            with gio.open(disk_dir / "file", "w", queue=queue, tuning={"registered": True}) as f:
                for _ in range(3):
                    f.write_at(memory, 0).result(FOREVER)
            assert registered(queue) == 2, number
            assert pinned() == 2 * MIB
        assert comes_down(pinned, 0)
        closed.append(queue)  # it is there yet, and has nothing any more


@needs_uring
@needs_memlock(64 * MIB)
def test_a_fork_copies_no_kept_memory(disk_dir: Path) -> None:
    script = """
    import os, pathlib, sys, time, gatherio as gio
    def pinned():
        return int(pathlib.Path("/proc/self/status").read_text().split("VmPin:")[1].split()[0])
    def comes_down():
        deadline = time.monotonic() + 10
        while pinned() and time.monotonic() < deadline:
            time.sleep(0.01)
        return pinned() == 0
    memory = gio.zeros(1 << 24, "u1")
    with gio.open(sys.argv[1], "w", tuning={"registered": True}) as f:
        for _ in range(2):
            f.write_at(memory, 0).result()
        assert pinned() == 1 << 14, pinned()
        child = os.fork()
        if child == 0:
            memory[:] = 1
            with gio.open(sys.argv[1] + "-child", "w", tuning={"registered": True}) as own:
                for _ in range(2):
                    own.write_at(memory, 0).result()
            assert pinned() == 1 << 14, pinned()
            del memory
            assert comes_down(), pinned()
            os._exit(7)
        assert comes_down(), pinned()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        memory[:] = 2
        f.write_at(memory, 0).result()
        assert pinned() == 1 << 14, "used once more, it is registered again"
    """
    run_python(script, disk_dir / "file")
    assert set((disk_dir / "file").read_bytes()) == {2}
    assert set((disk_dir / "file-child").read_bytes()) == {1}


@needs_uring
@needs_memlock(64 * MIB)
def test_registrations_come_and_go_while_another_thread_transfers(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    """A request that is on its way to the kernel must not find its pages gone."""
    memory, done = placed(words(0, 4 * MIB)), threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            uring.register(memory).close()

    thread = threading.Thread(target=come_and_go)
    with gio.open(disk_dir / "file", "w+", queue=uring) as f:
        f.write_at(memory, 0).result(FOREVER)
        thread.start()
        try:
            for _ in range(500):
                assert f.read_at(memory, 0).result(FOREVER) == memory.nbytes
        finally:
            done.set()
            thread.join()
    assert_same_bytes(memory, words(0, memory.nbytes))


@needs_uring
@needs_memlock(64 * MIB)
@pytest.mark.filterwarnings("ignore:unclosed <gatherio.CompletionQueue:ResourceWarning")
def test_the_collector_may_take_a_queue_before_its_registration(pinned: Callable[[], int]) -> None:
    for _ in range(20):
        everything: dict[str, object] = {"queue": gio.CompletionQueue(1, backend="uring")}
        everything["registration"] = everything["queue"].register(gio.zeros(MIB, "u1"))
        everything["itself"] = everything
        del everything
    gc.collect()
    assert comes_down(pinned, 0)


@needs_uring
def test_read_only_memory_can_be_written_from(uring: gio.CompletionQueue, disk_dir: Path) -> None:
    memory = placed(words(0, 4 * PAGE))
    memory.flags.writeable = False
    with uring.register(memory), gio.open(disk_dir / "file", "w+", queue=uring) as f:
        f.write_at(memory, 0).result(FOREVER)
        with pytest.raises(ValueError, match="read-only"):
            f.read_at(memory, 0)


def test_staged_transfers_are_right_with_registered_buffers(queue: gio.CompletionQueue, disk_dir: Path) -> None:
    data = placed(words(0, 9 * MIB), 3)
    with gio.open(disk_dir / "file", "w+", queue=queue) as f:
        f.write_gather([data], 0, copy=True).result(FOREVER)
        back = target(9 * MIB, 5)
        f.read_scatter([back], 0, copy=True).result(FOREVER)
    assert_same_bytes(back, data)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "uring"])
def test_other_backends_say_that_they_cannot(backend: str) -> None:
    with gio.CompletionQueue(backend=backend) as queue, pytest.raises(OSError, match=backend) as told:
        queue.register(gio.zeros(MIB, "u1"))
    assert told.value.errno == errno.EOPNOTSUPP


def test_bad_arguments() -> None:
    queue = gio.CompletionQueue()
    with pytest.raises(TypeError, match="numpy array"):
        queue.register(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        queue.register(gio.zeros(0, "u1"))
    with pytest.raises(gio.AlignmentError, match="C-contiguous"):
        queue.register(gio.zeros((8, 8), "u1").T[1:])
    queue.close()
    if not ON_WINDOWS:
        with pytest.raises(ValueError, match="closed"):
            queue.register(gio.zeros(8, "u1"))


@needs_uring
def test_a_queue_may_be_closed_before_its_registrations(uring: gio.CompletionQueue) -> None:
    registration = uring.register(gio.zeros(MIB, "u1"))
    uring.close()
    registration.close()


@not_on_windows("it has no fork")
def test_a_forked_child_touches_nothing(disk_dir: Path) -> None:
    script = """
    import os, sys, gatherio as gio
    queue = gio.CompletionQueue(backend="uring")
    memory = gio.zeros(1 << 20, "u1")
    registration = queue.register(memory)
    child = os.fork()
    if child == 0:
        registration.close()
        try:
            queue.register(memory)
        except RuntimeError as error:
            assert "fork" in str(error)
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with gio.open(sys.argv[1], "w", queue=queue) as f:
        f.write_at(memory, 0).result()
    assert queue.stats()["registered"] == 1
    """
    run_python(script, disk_dir / "file")
    assert os.path.getsize(disk_dir / "file") == MIB
