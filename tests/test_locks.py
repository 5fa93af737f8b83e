"""Locks on ranges: the same rules within one file object, between two, and between processes."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import (
    FOREVER,
    KIB,
    ON_WINE,
    PAGE,
    assert_same_bytes,
    not_on_windows,
    not_under_wine,
    run_python,
    strace,
    words,
)
from peers import Peer, PeerError

import gatherio as gio

if sys.platform != "win32":
    import fcntl

on_linux = not_on_windows("its locks are of another kind, and bind all programs")
transfers_ask = not_under_wine("transfers go through locked ranges")
needs_fork = not_on_windows("it has no fork")
no_fork_warning = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

TOP = 1 << 64
ALL = TOP - 1  # the longest there is: lengths have 64 bits, too


@pytest.fixture
def path(disk_dir: Path) -> Path:
    path = disk_dir / "file"
    path.write_bytes(words(0, 64 * KIB))
    return path


@pytest.fixture
def f(path: Path, open_file: Callable[..., gio.File]) -> Iterator[gio.File]:
    with open_file(path, "r+") as file:
        yield file


@pytest.fixture
def g(path: Path, open_file: Callable[..., gio.File]) -> Iterator[gio.File]:
    """The same file, opened again."""
    with open_file(path, "r+") as file:
        yield file


@pytest.fixture
def peer(path: Path) -> Iterator[Peer]:
    with Peer() as other:
        other.do(f"f = gio.open({str(path)!r}, 'r+')")
        yield other


def refused(call: Callable[[], object]) -> bool:
    """Whether a lock is in the way, and says so as it should."""
    try:
        call()
    except gio.LockedError as error:
        assert error.errno == errno.EACCES and isinstance(error, PermissionError)
        assert error.filename is not None
        assert sys.platform != "win32" or error.winerror == 33
        return True
    return False


# --- who is refused ---


@pytest.mark.parametrize("held", [True, False], ids=["exclusive", "shared"])
@pytest.mark.parametrize("asked", [True, False], ids=["exclusive", "shared"])
def test_only_shared_locks_meet(f: gio.File, g: gio.File, peer: Peer, held: bool, asked: bool) -> None:
    expected = held or asked
    with f.lock(1000, 1000, exclusive=held):
        for offset, length in ((1000, 1000), (1999, 1), (0, 1001), (1500, 10), (0, ALL), (1999, TOP - 1999)):
            for other in (f, g):
                assert refused(lambda: other.lock(offset, length, exclusive=asked).unlock()) == expected  # noqa: B023
            try:
                peer.do(f"f.lock({offset}, {length}, exclusive={asked}).unlock()")
                assert not expected
            except PeerError as error:
                assert expected and error.kind == "LockedError"
        for offset, length in ((0, 1000), (2000, 1), (2000, TOP - 2000)):
            for other in (f, g):
                other.lock(offset, length, exclusive=asked).unlock()
            peer.do(f"f.lock({offset}, {length}, exclusive={asked}).unlock()")
    for other in (f, g):
        other.lock(0, ALL).unlock()
    peer.do(f"f.lock(0, {ALL}).unlock()")


def test_ranges_where_no_file_reaches(f: gio.File, g: gio.File, peer: Peer) -> None:
    for offset in (10**6, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 2):
        with f.lock(offset, 1):
            assert refused(lambda: g.lock(offset, 1)) and refused(lambda: g.lock(0, ALL))  # noqa: B023
            with pytest.raises(PeerError, match="LockedError"):
                peer.do(f"f.lock({offset}, 1)")
            g.lock(offset + 1, 1).unlock()
            g.lock(0, offset).unlock()
    with f.lock(2**63, 5), f.lock(TOP - 1, 1):
        assert refused(lambda: g.lock(2**63, 5)) and refused(lambda: f.lock(TOP - 1, 1))
        f.lock(2**63 + 5, 5).unlock()
        g.lock(0, 2**63 - 1).unlock()
    with f.lock(1, ALL):
        assert refused(lambda: g.lock(TOP - 1, 1)) and refused(lambda: g.lock(1, 1))
        g.lock(0, 1).unlock()


def test_ranges_that_make_no_sense(f: gio.File) -> None:
    for offset, length in ((-1, 1), (0, -1), (TOP, 0), (0, TOP), (2, ALL), (TOP - 1, 2), (2**63, 2**63 + 1)):
        for call in (f.lock, f.unlock):
            with pytest.raises(ValueError, match="2\\*\\*64"):
                call(offset, length)
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError):
            f.lock(wrong, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        f.lock(0, 1, timeout=1)
    f.lock(0, ALL).unlock()


def test_locks_of_no_bytes(f: gio.File, g: gio.File, peer: Peer) -> None:
    """In the way of what has them inside, through the same object; invisible to all others, and to transfers."""
    with f.lock(100, 0), f.lock(100, 0):
        assert refused(lambda: f.lock(98, 4)) and refused(lambda: f.lock(99, 2)) and refused(lambda: f.lock(0, ALL))
        for offset, length in ((90, 10), (100, 10), (100, 0), (99, 1)):
            f.lock(offset, length).unlock()
        g.lock(98, 4).unlock()
        peer.do("f.lock(98, 4).unlock()")
        assert f.write_at(np.zeros(10, "u1"), 95).result() == g.write_at(np.zeros(10, "u1"), 95).result() == 10
    with f.lock(98, 4):
        assert refused(lambda: f.lock(100, 0)) and refused(lambda: f.lock(100, 0, exclusive=False))
        f.lock(98, 0).unlock()
        f.lock(102, 0).unlock()
    with f.lock(98, 4, exclusive=False):
        f.lock(100, 0, exclusive=False).unlock()
    with f.lock(0, 0):
        f.lock(0, 5).unlock()
    with pytest.raises(gio.NotLockedError):
        f.unlock(100, 0)


def test_transfers_across_shared_locks_of_no_bytes(path: Path, f: gio.File, g: gio.File) -> None:
    """A shared lock is a promise that nobody writes to its bytes: there are none."""
    with f.lock(100, 0, exclusive=False), f.lock(PAGE, 0, exclusive=False), f.lock(64 * KIB, 0, exclusive=False):
        for file in (f, g):
            for offset, nbytes in ((90, 20), (100, 1), (99, 1), (0, 2 * PAGE), (PAGE - 1, 2), (0, 64 * KIB)):
                assert file.write_at(words(offset, nbytes, salt=5), offset).result() == nbytes
                assert file.read_at(np.zeros(nbytes, "u1"), offset).result() == nbytes
            assert file.write_many([words(95, 10, salt=5)], [95]).result() == 10
            file.truncate(64 * KIB + 1)
            file.truncate(64 * KIB)
    assert_same_bytes(path.read_bytes(), words(0, 64 * KIB, salt=5))


# --- giving back ---


def test_unlocking_names_the_exact_range(f: gio.File, g: gio.File) -> None:
    f.lock(100, 100)
    for offset, length in ((100, 99), (100, 101), (101, 99), (99, 101), (0, ALL), (100, 0), (150, 10)):
        with pytest.raises(gio.NotLockedError) as caught:
            f.unlock(offset, length)
        assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)
        assert caught.value.filename is not None
    with pytest.raises(gio.NotLockedError):
        g.unlock(100, 100)  # another one's
    assert refused(lambda: g.lock(199, 1))
    f.unlock(100, 100)
    with pytest.raises(gio.NotLockedError):
        f.unlock(100, 100)
    g.lock(0, ALL).unlock()


def test_neighbours_do_not_become_one(f: gio.File, g: gio.File) -> None:
    f.lock(100, 50)
    f.lock(150, 50)
    with pytest.raises(gio.NotLockedError):
        f.unlock(100, 100)
    f.unlock(100, 50)
    g.lock(100, 50).unlock()
    assert refused(lambda: g.lock(150, 1))
    f.unlock(150, 50)


def test_the_same_shared_range_twice_is_given_back_twice(f: gio.File, g: gio.File, peer: Peer) -> None:
    first, second = f.lock(100, 100, exclusive=False), f.lock(100, 100, exclusive=False)
    first.unlock()
    assert refused(lambda: g.lock(100, 1))
    first.unlock()  # has been: that is the other one's
    assert refused(lambda: g.lock(199, 1))
    second.unlock()
    peer.do("f.lock(0, 300).unlock()")


def test_overlapping_shared_locks_go_one_by_one(f: gio.File, g: gio.File, peer: Peer) -> None:
    locks = {
        (at, length): f.lock(at, length, exclusive=False) for at, length in ((0, 100), (50, 100), (120, 80), (60, 5))
    }
    held = dict(locks)
    for key in ((50, 100), (60, 5), (0, 100), (120, 80)):
        locks[key].unlock()
        del held[key]
        for byte in range(0, 210, 7):
            inside = any(at <= byte < at + length for at, length in held)
            assert refused(lambda: g.lock(byte, 1).unlock()) == inside, (key, byte)  # noqa: B023
    assert peer.do("f.lock(0, 210).unlock()") is None


def test_locks_in_with_blocks_and_by_name(f: gio.File, g: gio.File) -> None:
    with pytest.raises(KeyError), f.lock(5, 5) as lock:
        assert (lock.offset, lock.length, lock.exclusive) == (5, 5, True)
        assert "exclusive, 5 bytes at offset 5" in repr(lock)
        raise KeyError
    assert "given back" in repr(lock)
    with f.lock(5, 5):
        f.unlock(5, 5)  # the block's end finds nothing left to do ...
        other = f.lock(5, 5)
    assert refused(lambda: g.lock(5, 5))  # ... and leaves alone what is not its own
    other.unlock()
    g.lock(5, 5).unlock()


def test_a_closed_file_gives_its_locks_back(path: Path, g: gio.File, peer: Peer) -> None:
    f = gio.open(path, "r+")
    lock = f.lock(0, 100)
    f.lock(200, 100, exclusive=False)
    f.close()
    lock.unlock()
    g.lock(0, ALL).unlock()
    for call in (lambda: f.lock(0, 1), lambda: f.unlock(0, 100)):
        with pytest.raises(ValueError, match="closed"):
            call()
    peer.do("lock = f.lock(0, 100)")
    assert refused(lambda: g.lock(99, 1))
    peer.do("f.close()")
    g.lock(99, 1).unlock()


def test_a_dead_process_gives_its_locks_back(g: gio.File, peer: Peer) -> None:
    peer.do("f.lock(0, 100)")
    assert refused(lambda: g.lock(0, 1))
    peer.kill()
    g.lock(0, 1, wait=True, timeout=FOREVER).unlock()


def test_closing_something_else_of_the_file_keeps_the_locks(path: Path, f: gio.File, peer: Peer) -> None:
    """Classic POSIX locks go when any descriptor of the file is closed."""
    with f.lock(0, 100):
        with open(path, "rb") as plain:
            plain.read(10)
        gio.open(path).close()
        with pytest.raises(PeerError, match="LockedError"):
            peer.do("f.lock(0, 1)")


# --- transfers ---


def transfers(f: gio.File, offset: int, nbytes: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that touches [offset, offset + nbytes), which is whole pages."""
    pages = [gio.empty(PAGE, "u1") for _ in range(nbytes // PAGE)]
    for page in pages:
        page[...] = 1
    yield "write", lambda: f.write_gather(pages, offset).result()
    yield "write", lambda: f.write_at(np.ones(nbytes - 3, "u1"), offset + 1).result()
    yield "write", lambda: f.write_gather([np.ones(10, "u1")], offset, copy=None).result()
    yield "read", lambda: f.read_scatter(pages, offset).result()
    yield "read", lambda: f.read_at(np.ones(nbytes - 3, "u1"), offset + 1).result()


@transfers_ask
@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "shared"])
def test_transfers_ask_for_locks(f: gio.File, g: gio.File, exclusive: bool) -> None:
    with f.lock(PAGE, 2 * PAGE, exclusive=exclusive):
        for direction, call in transfers(g, PAGE, 2 * PAGE):
            assert refused(call) == (exclusive or direction == "write"), direction
        for direction, call in transfers(f, PAGE, 2 * PAGE):  # a shared lock binds its holder as well
            assert refused(call) == (not exclusive and direction == "write"), direction
        for file in (f, g):
            for offset in (0, 3 * PAGE):
                for _, call in transfers(file, offset, PAGE):
                    assert not refused(call)
            assert file.write_at(np.zeros(0, "u1"), PAGE).result() == 0
    for _, call in transfers(g, PAGE, 2 * PAGE):
        assert not refused(call)


@transfers_ask
def test_transfers_ask_for_locks_of_other_processes(path: Path, f: gio.File, peer: Peer) -> None:
    before = path.read_bytes()
    peer.do("lock = f.lock(5000, 100)")
    for nbytes, locked in ((5000, False), (5001, True), (64 * KIB, True)):
        assert refused(lambda: f.read_at(np.zeros(nbytes, "u1"), 0).result()) == locked  # noqa: B023
    operation = f.write_at(np.zeros(200, "u1"), 5050)
    with pytest.raises(gio.LockedError) as caught:
        operation.result()
    assert caught.value.bytes_in_place == 0 and "offset 5050" in str(caught.value)  # type: ignore[attr-defined]
    assert path.read_bytes() == before
    peer.do("lock.unlock(); lock = f.lock(5000, 100, exclusive=False)")
    assert f.read_at(np.zeros(5001, "u1"), 0).result() == 5001
    assert refused(lambda: f.write_at(np.zeros(5001, "u1"), 0).result())
    peer.do("f.close()")
    assert f.write_at(np.zeros(5001, "u1"), 0).result() == 5001


@transfers_ask
def test_a_refused_write_that_nobody_asks_about_is_told_at_close(path: Path, g: gio.File) -> None:
    with g.lock(0, 10):
        f = gio.open(path, "r+")
        f.write_at(np.zeros(5, "u1"), 0)
        with pytest.raises(gio.LockedError):
            f.close()
    assert_same_bytes(path.read_bytes(), words(0, 64 * KIB))


def test_what_is_locked_is_still_moved_right(path: Path, f: gio.File) -> None:
    """Through the holder, at every kind of boundary."""
    expected = bytearray(words(0, 64 * KIB))
    with f.lock(0, ALL):
        for offset, nbytes in ((0, 10), (PAGE - 1, 2), (PAGE, PAGE), (5000, 20_000), (64 * KIB - 7, 100)):
            f.write_at(words(offset, nbytes, salt=3), offset).result()
            expected[offset : offset + nbytes] = words(offset, nbytes, salt=3).tobytes()
        f.flush()
        found = np.zeros(len(expected), "u1")
        assert f.read_at(found, 0).result() == len(expected)
        assert_same_bytes(found, bytes(expected))
    assert path.read_bytes() == expected


def test_opening_with_mode_w_asks_as_well(path: Path, f: gio.File, peer: Peer) -> None:
    peer.do("lock = f.lock(1000, 10, exclusive=False)")
    for mode in ("w", "w+"):
        assert refused(lambda: gio.open(path, mode))  # noqa: B023
    assert_same_bytes(path.read_bytes(), words(0, 64 * KIB))
    peer.do("lock.unlock(); lock = f.lock(64 * 1024, 10)")
    gio.open(path, "w").close()  # that is beyond its end
    assert path.stat().st_size == 0


def test_truncating_across_a_lock(path: Path, f: gio.File, g: gio.File, peer: Peer) -> None:
    with f.lock(10_000, 100):
        for n in (0, 10_000, 10_099):
            assert refused(lambda: g.truncate(n))  # noqa: B023
        assert path.stat().st_size == 64 * KIB
        g.truncate(10_100)
        g.truncate(20_000)
        f.truncate(5000)  # its own
        assert refused(lambda: g.truncate(10_001))
        g.truncate(10_000)
        with pytest.raises(PeerError, match="LockedError"):
            peer.do("f.truncate(10_050)")
    with f.lock(100, 10, exclusive=False):
        assert refused(lambda: g.truncate(105)) and refused(lambda: f.truncate(105))
    peer.do("f.truncate(10_050)")
    assert path.stat().st_size == 10_050


@on_linux
def test_locks_can_be_ignored(path: Path, f: gio.File, peer: Peer) -> None:
    peer.do("f.lock(0, 1000)")
    with gio.open(path, "r+", honor_locks=False) as g:
        assert g.write_at(np.zeros(10, "u1"), 0).result() == g.read_at(np.zeros(10, "u1"), 0).result() == 10
        g.truncate(500)
        assert refused(lambda: g.lock(0, 1))  # what it locks is another matter


@pytest.mark.parametrize("mode", ["r", "w"])
def test_files_that_are_open_for_one_direction(path: Path, g: gio.File, mode: str) -> None:
    with gio.open(path, mode) as f:
        for exclusive in (True, False):
            with f.lock(0, 10, exclusive=exclusive):
                assert refused(lambda: g.lock(0, 10))


@transfers_ask
def test_save_and_load_ask_as_well(disk_dir: Path) -> None:
    gio.save(disk_dir / "a.npy", np.arange(1000))
    with gio.open(disk_dir / "a.npy", "r+") as f, f.lock(5000, 10):
        assert refused(lambda: gio.load(disk_dir / "a.npy"))
    assert gio.load(disk_dir / "a.npy").sum() == 499_500


@on_linux
def test_save_and_load_can_ignore_locks(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, np.arange(1000))
    with gio.open(path, "r+") as f, f.lock(0, ALL):
        assert gio.load(path, honor_locks=False).sum() == 499_500
        for honor_locks in (True, False):
            gio.save(path, np.arange(10), honor_locks=honor_locks)  # a new file, on which there is no lock
            assert gio.load(path).sum() == 45


# --- many places, many locks ---


def in_the_way(held: list[tuple[int, int, bool]], places: list[tuple[int, int]], writes: bool) -> bool:
    """Whether a lock of `held` (offset, length, exclusive) is on one of the places."""
    return any((writes or exclusive) and meet((at, n), place) for at, n, exclusive in held for place in places)


@on_linux
@pytest.mark.parametrize("seed", range(4))
def test_batches_among_locks_of_several_holders(path: Path, f: gio.File, seed: int) -> None:
    """The kernel has locks by their holders, and one of this very process (POSIX) is in nobody's way."""
    numbers = np.random.default_rng(seed)
    with gio.open(path, "r+") as g, gio.open(path, "r+") as h, open(path, "r+b") as plain:
        for _ in range(60):
            held: dict[Any, list[tuple[int, int, bool]]] = {f: [], g: [], h: [], plain: []}
            for _ in range(numbers.integers(25)):
                holder = list(held)[numbers.integers(4)]
                at, n, exclusive = int(numbers.integers(390)), int(numbers.integers(1, 9)), bool(numbers.integers(2))
                try:
                    if holder is plain:
                        fcntl.lockf(plain, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB, n, at)
                    else:
                        holder.lock(at, n, exclusive=exclusive)
                    held[holder].append((at, n, exclusive))
                except (gio.LockedError, BlockingIOError):
                    continue
            for _ in range(6):
                count, width = int(numbers.integers(1, 12)), int(numbers.integers(1, 6))
                offsets, array = numbers.integers(0, 390, count), np.zeros((count, width), "u1")
                places = [(int(at), width) for at in offsets]
                for writes, call in ((False, f.read_many), (True, f.write_many)):
                    own = [lock for lock in held[f] if not lock[2]] if writes else []
                    expected = in_the_way(held[g] + held[h] + own, places, writes)
                    assert refused(lambda: call(array, offsets).result(FOREVER)) == expected  # noqa: B023
            fcntl.lockf(plain, fcntl.LOCK_UN)
            for holder in (f, g, h):
                for at, n, _ in held[holder]:
                    holder.unlock(at, n)
            f.lock(0, ALL).unlock()


@on_linux
@pytest.mark.parametrize("holder", ["another file", "this process"])
def test_a_batch_asks_once_for_each_stretch_without_a_lock(path: Path, tmp_path: Path, holder: str) -> None:
    """And not once for each of 3000 places, with 500 locks between the first and the last."""
    script = """
        import sys, fcntl, numpy as np, gatherio as gio
        path, mine = sys.argv[1], sys.argv[2] == "this process"
        with gio.open(path, "r+") as f, gio.open(path, "r+") as g, open(path, "r+b") as plain:
            for i in range(500):
                if mine:
                    fcntl.lockf(plain, fcntl.LOCK_EX, 5, 20_000 + 10 * i)
                else:
                    g.lock(20_000 + 10 * i, 5)
            places = 10 * np.arange(3000)
            places[1500:] += 20_000
            for offsets in (places, places[::-1], np.append(places, 20_005)):
                array = np.zeros((len(offsets), 5), "u1")
                assert f.read_many(array, offsets).result() == f.write_many(array, offsets).result() == array.nbytes
            try:
                f.read_many(array, np.append(places, 20_012)).result()
                assert mine
            except gio.LockedError:
                assert not mine
    """
    log = tmp_path / "log"
    run_python(script, path, holder, under=strace(log, "-e", "trace=fcntl"))
    # Seven batches: all at once, then around the cluster; of those that reach into it also the locks there, one by one.
    assert 7 < log.read_text().count("F_OFD_GETLK") <= 100


@on_linux
def test_a_lock_that_covers_many_others_goes_and_they_stay(f: gio.File, g: gio.File) -> None:
    others = [f.lock(10 * i, 5 + i % 7, exclusive=False) for i in range(1, 500)]  # some touch, some meet
    f.lock(3, 6000, exclusive=False).unlock()
    free = [byte for byte in range(6003) if not any(lock.offset <= byte < lock.offset + lock.length for lock in others)]
    for byte in free:
        g.lock(byte, 1).unlock()
    for lock in others[::2]:
        lock.unlock()
    for lock in others[1::2]:
        assert refused(lambda: g.lock(lock.offset, 1)) and refused(lambda: g.lock(lock.offset + lock.length - 1, 1))  # noqa: B023
        g.lock(lock.offset - 1, 1).unlock()
        lock.unlock()
    g.lock(0, ALL).unlock()


# --- waiting ---


def test_waiting_until_it_is_given_back(f: gio.File, g: gio.File) -> None:
    lock = f.lock(0, 10)
    timer = threading.Timer(0.1, lock.unlock)
    timer.start()
    begun = time.monotonic()
    with g.lock(5, 10, wait=True):
        assert time.monotonic() - begun > 0.09
        assert refused(lambda: f.lock(0, 10))
    timer.join()
    g.lock(0, 10, wait=True).unlock()


def test_waiting_for_another_process(f: gio.File, peer: Peer) -> None:
    lock = f.lock(0, 10)
    peer.tell("f.lock(0, 10, wait=True)")
    time.sleep(0.05)
    lock.unlock()
    peer.answer()
    assert refused(lambda: f.lock(0, 10))


def test_waiting_for_some_time(f: gio.File, g: gio.File) -> None:
    with f.lock(0, 10):
        for timeout in (0, -1, 0.05):
            begun = time.monotonic()
            with pytest.raises(gio.TimeoutError, match="10 bytes at offset 0"):
                g.lock(0, 10, wait=True, timeout=timeout)
            assert max(0, timeout) <= time.monotonic() - begun < FOREVER
    g.lock(0, 10, wait=True, timeout=0).unlock()


def test_waiting_keeps_nobody_from_working(f: gio.File, g: gio.File) -> None:
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1

    thread = threading.Thread(target=count)
    with f.lock(0, 10):
        thread.start()
        with pytest.raises(gio.TimeoutError):
            g.lock(0, 10, wait=True, timeout=0.2)
        done.set()
    thread.join()
    assert counted > 10_000


def test_ctrl_c_ends_the_wait(path: Path, f: gio.File) -> None:
    script = """
    import sys, threading, _thread, gatherio as gio
    with gio.open(sys.argv[1], "r+") as f:
        threading.Timer(0.2, _thread.interrupt_main).start()
        try:
            f.lock(0, 10, wait=True)
        except KeyboardInterrupt:
            print("interrupted")
        f.lock(10, 10).unlock()
    """
    with f.lock(0, 10):
        assert run_python(script, path).strip() == "interrupted"


def test_awaiting_a_lock(f: gio.File, g: gio.File) -> None:
    async def main() -> None:
        with await f.lock_async(0, 10):
            waiting = asyncio.ensure_future(g.lock_async(5, 10))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            with pytest.raises(gio.TimeoutError):
                await g.lock_async(5, 10, timeout=0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(g.lock_async(5, 10), 0.01)
            given_up = asyncio.ensure_future(g.lock_async(0, 1))
            await asyncio.sleep(0.01)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        with await waiting as lock:
            assert refused(lambda: f.lock(5, 1)) and not lock.length != 10
            shared = await asyncio.gather(*(h.lock_async(100, 10, exclusive=False) for h in (f, g)))
            for each in shared:
                each.unlock()
        with pytest.raises(ValueError):
            await f.lock_async(-1, 1)
        f.lock(0, ALL).unlock()

    asyncio.run(main())


def test_threads_take_turns(f: gio.File, path: Path) -> None:
    """A counter in the file, read and written under the lock by threads and processes, loses no step."""
    f.write_at(np.zeros(1, "<u8"), 0).result()
    script = """
    import sys, numpy as np, gatherio as gio
    a = np.zeros(1, "<u8")
    with gio.open(sys.argv[1], "r+") as f:
        for i in range(100):
            with f.lock(0, 8, wait=True):
                f.read_at(a, 0).result()
                a += 1
                f.write_at(a, 0).result()
    """

    threads = [threading.Thread(target=run_python, args=(script, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = np.zeros(1, "<u8")
    f.read_at(found, 0).result()
    assert found[0] == 300


# --- against a model ---

ranges = st.tuples(st.integers(0, 12), st.integers(0, 6)) | st.just((3, TOP - 3))
steps = st.lists(st.tuples(st.sampled_from("lluu"), st.integers(0, 1), ranges, st.booleans()), max_size=30)


def meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    if a[1] == 0 or b[1] == 0:
        inner, outer = (a, b) if a[1] == 0 else (b, a)
        return outer[0] < inner[0] < outer[0] + outer[1]
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequence=steps)
def test_locks_against_a_model(sequence: list[tuple[str, int, tuple[int, int], bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        Path(path).write_bytes(bytes(32))
        with gio.open(path, "r+") as f, gio.open(path, "r+") as g, gio.open(path, "r+") as third:
            files = (f, g)
            held: list[tuple[int, tuple[int, int], bool]] = []
            for action, who, where, exclusive in sequence:
                if action == "l":
                    expected = any(
                        (exclusive or other_exclusive)
                        and meet(where, there)
                        and (owner == who or (where[1] != 0 and there[1] != 0))
                        for owner, there, other_exclusive in held
                    )
                    assert refused(lambda: files[who].lock(*where, exclusive=exclusive)) == expected  # noqa: B023
                    if not expected:
                        held.append((who, where, exclusive))
                else:
                    matching = [lock for lock in held if lock[:2] == (who, where)]
                    if matching:
                        files[who].unlock(*where)
                        held.remove(matching[0])
                    else:
                        with pytest.raises(gio.NotLockedError):
                            files[who].unlock(*where)
            for byte in range(20):
                over = [exclusive for _, (at, length), exclusive in held if at <= byte < at + length]
                assert refused(lambda: third.lock(byte, 1).unlock()) == bool(over)  # noqa: B023
                assert refused(lambda: third.lock(byte, 1, exclusive=False).unlock()) == any(over)  # noqa: B023
                if ON_WINE:  # transfers do not ask
                    continue
                one = np.zeros(1, "u1")
                assert refused(lambda: third.read_at(one, byte).result()) == any(over)  # noqa: B023
                assert refused(lambda: third.write_at(one, byte).result()) == bool(over)  # noqa: B023


# --- the system's own locks ---


def ofd_lock(file: Any, kind: str, offset: int, length: int) -> bool:
    import fcntl

    number = {"exclusive": fcntl.F_WRLCK, "shared": fcntl.F_RDLCK, "none": fcntl.F_UNLCK}[kind]
    try:
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", number, 0, offset, length, 0))  # F_OFD_SETLK
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES)
        return False
    return True


@on_linux
def test_pythons_own_locks_are_the_same(path: Path, f: gio.File) -> None:
    with open(path, "r+b") as plain:
        with f.lock(100, 100):
            assert not ofd_lock(plain, "shared", 199, 1) and ofd_lock(plain, "exclusive", 200, 1)
        assert ofd_lock(plain, "shared", 150, 1)
        assert refused(lambda: f.lock(100, 100)) and refused(lambda: f.write_at(np.zeros(200, "u1"), 0).result())
        f.lock(100, 100, exclusive=False).unlock()
        assert f.read_at(np.zeros(200, "u1"), 0).result() == 200
        ofd_lock(plain, "none", 0, 0)
        f.lock(100, 100).unlock()


@on_linux
def test_classic_locks_of_another_process(path: Path, f: gio.File) -> None:
    with Peer() as other:
        other.do(f"import fcntl; plain = open({str(path)!r}, 'r+b')")
        other.do("fcntl.lockf(plain, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)")
        assert refused(lambda: f.lock(105, 1)) and refused(lambda: f.read_at(np.zeros(200, "u1"), 0).result())
        other.do("fcntl.lockf(plain, fcntl.LOCK_UN)")
        with f.lock(105, 1):
            with pytest.raises(PeerError, match="BlockingIOError"):
                other.do("fcntl.lockf(plain, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)")


@on_linux
def test_classic_locks_of_this_process(path: Path, f: gio.File, g: gio.File) -> None:
    """They are in nobody's way here, as with read and write; but another one's in, before or behind their range is."""
    buffer = np.zeros(1000, "u1")
    with open(path, "r+b") as plain, Peer() as other:
        other.do(f"import fcntl; plain = open({str(path)!r}, 'r+b')")
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            for offset, length in ((100, 100), (0, 0), (300, 0), (0, 64 * KIB)):
                fcntl.lockf(plain, kind | fcntl.LOCK_NB, length, offset)
                assert f.read_at(buffer, 0).result() == f.write_at(buffer, 0).result() == 1000
                assert refused(lambda: f.lock(0, 400))  # what it locks is another matter
                fcntl.lockf(plain, fcntl.LOCK_UN)
        for own_first, own_last in ((100, 199), (400, 499), (700, 799)):
            fcntl.lockf(plain, fcntl.LOCK_EX | fcntl.LOCK_NB, own_last - own_first + 1, own_first)
            for first in (0, 250, 550, 850):
                with g.lock(first, 50):
                    assert refused(lambda: f.read_at(buffer, 0).result())
                    assert refused(lambda: f.write_at(buffer, 0).result())
                other.do(f"fcntl.lockf(plain, fcntl.LOCK_EX | fcntl.LOCK_NB, 50, {first})")
                assert refused(lambda: f.read_at(buffer, 0).result())
                assert refused(lambda: f.write_at(buffer, 0).result())
                other.do("fcntl.lockf(plain, fcntl.LOCK_UN)")
                assert f.read_at(buffer, 0).result() == 1000
        # Shared ones may lie in the same place.
        fcntl.lockf(plain, fcntl.LOCK_UN)
        fcntl.lockf(plain, fcntl.LOCK_SH | fcntl.LOCK_NB, 900, 50)
        for theirs in ((100, 10), (0, 1000), (50, 900), (940, 20)):
            other.do(f"fcntl.lockf(plain, fcntl.LOCK_SH | fcntl.LOCK_NB, {theirs[1]}, {theirs[0]})")
            assert f.read_at(buffer, 0).result() == 1000
            assert refused(lambda: f.write_at(buffer, 0).result())
            other.do("fcntl.lockf(plain, fcntl.LOCK_UN)")
            assert f.write_at(buffer, 0).result() == 1000


@on_linux
def test_save_and_load_beside_a_classic_lock_of_this_process(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, np.arange(1000))
    with open(path, "r+b") as plain:
        fcntl.lockf(plain, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert gio.load(path).sum() == 499_500
        gio.save(path, np.arange(10))
    assert gio.load(path).sum() == 45


@on_linux
def test_exclusive_locks_need_the_right_to_write(path: Path) -> None:
    path.chmod(0o444)
    path.parent.chmod(0o755)
    script = """
    import os, sys
    import gatherio as gio
    if os.geteuid() == 0:
        os.setegid(12345); os.seteuid(12345)
    with gio.open(sys.argv[1], queue=gio.CompletionQueue(backend="threads")) as f:
        f.lock(0, 10, exclusive=False).unlock()
        try:
            f.lock(0, 10)
        except PermissionError as error:
            print(type(error).__name__, error.errno, error.filename == sys.argv[1])
    """
    assert run_python(script, path) == f"PermissionError {errno.EACCES} True\n"


@needs_fork
@no_fork_warning
def test_a_forked_child_does_not_keep_locks_alive(path: Path, g: gio.File) -> None:
    with Peer() as parent:
        parent.do(f"f = gio.open({str(path)!r}, 'r+'); f.lock(0, 100)")
        parent.do("import os, time")
        parent.do("child = os.fork()\nif child == 0: time.sleep(60); os._exit(0)")
        child = parent.do("child")
        assert refused(lambda: g.lock(0, 1))
        parent.kill()
        try:
            g.lock(0, 1, wait=True, timeout=FOREVER).unlock()
        finally:
            os.kill(child, 9)


@needs_fork
@no_fork_warning
def test_a_forked_child_gives_nothing_back(f: gio.File, g: gio.File) -> None:
    with f.lock(0, 100):
        child = os.fork()
        if child == 0:
            try:
                f.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert refused(lambda: g.lock(0, 1))
