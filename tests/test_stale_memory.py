"""Nobody's old bytes: what went through a staging buffer before appears in nothing that goes through it later.

All buffers hold a secret, a byte that occurs in no other data: it was written to another file through the same queue.
Then transfers that need those buffers, cut short, failing and cancelled on request, are made on a device, or at the end
of a file; and every byte of the device is looked at by means that are not ours.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from conftest import LoopMounts, _run
from oracle import KIB, MIB, PAGE, Array, fault, needs_root, not_on_windows, set_fault

import gatherio as gio

pytestmark = [not_on_windows("it has no loop devices"), needs_root("a loop device")]

SECRET = 0xE7
UNREAD = 0xDD  # what targets hold before
DEVICE_BYTES = 4 * MIB
LARGEST = 3 * MIB  # more than a staging buffer holds

Place = tuple[int, Array]  # offset in the device, memory


def old_bytes(nbytes: int) -> Array:
    at = np.arange(nbytes)
    return (1 + (at * 7 + at // 512) % 61).astype("u1")


def new_bytes(offset: int, nbytes: int, number: int) -> Array:
    at = np.arange(offset, offset + nbytes)
    return (64 + (at * 5 + at // 512 + number * 11) % 61).astype("u1")


@pytest.fixture
def queue(backend: str) -> Iterator[gio.CompletionQueue]:
    with gio.CompletionQueue(backend=backend, depth=136) as made:  # as many requests as there are staging buffers
        yield made


@pytest.fixture(params=[512, 4096], ids=["sectors512", "sectors4096"])
def device(request: pytest.FixtureRequest, disk_dir: Path) -> Iterator[Path]:
    """A raw device, full of old bytes."""
    LoopMounts._require("mkfs.ext4")
    image = disk_dir / "device"
    old_bytes(DEVICE_BYTES).tofile(image)
    path = _run("losetup", "--find", "--show", "--sector-size", str(request.param), image)
    yield Path(path)
    _run("losetup", "--detach", path)


@pytest.fixture
def secret(queue: gio.CompletionQueue, disk_dir: Path) -> Iterator[gio.File]:
    """The other file. All there is of it went through staging buffers."""
    with gio.open(disk_dir / "secret", "w+", queue=queue) as file:
        yield file


def fill_buffers(file: gio.File, of_each_kind: tuple[int, int] = (8, 128)) -> None:
    """Puts the secret into all staging buffers of the queue, the large and the small ones, or into as many."""
    queue = file._queue
    for count, nbytes in zip(of_each_kind, (2 * MIB, 16 * KIB), strict=True):
        data = gio.full(nbytes, SECRET, "u1")
        before = queue.stats()["staged"]
        with fault(queue, "HOLD"):  # so that none is used twice
            ops = [file.write_gather([data], i * nbytes, copy=True) for i in range(count)]
            assert queue.stats()["staged"] - before == count
        for op in ops:
            op.result()


def memory(rng: np.random.Generator, nbytes: int) -> Array:
    """On a page, on a sector, or anywhere; all around it is unread."""
    shift = int(rng.choice([0, 0, 0, 512, rng.integers(1, PAGE)]))
    return gio.full(shift + nbytes + PAGE, UNREAD, "u1")[shift : shift + nbytes]


def a_length(rng: np.random.Generator, unit: int = 1) -> int:
    nbytes = int(rng.choice([rng.integers(1, 700), rng.integers(1, 40 * KIB), rng.integers(1, 300 * KIB)]))
    return -(-nbytes // unit) * unit


def one_place(rng: np.random.Generator) -> list[Place]:
    unit = int(rng.choice([1, 512, PAGE]))
    nbytes = LARGEST if rng.integers(12) == 0 else a_length(rng, unit)
    return [(int(rng.integers((DEVICE_BYTES - nbytes) // unit)) * unit, memory(rng, nbytes))]


def places_in_a_row(rng: np.random.Generator) -> list[Place]:
    unit = int(rng.choice([1, 512, PAGE, PAGE]))
    at = int(rng.integers(MIB // unit)) * unit
    found = []
    for _ in range(int(rng.integers(1, 10))):
        array = memory(rng, a_length(rng, unit))
        found.append((at, array))
        at += array.size
    return found


def places_apart(rng: np.random.Generator) -> list[Place]:
    starts = rng.choice(DEVICE_BYTES // (64 * KIB), 10, replace=False) * 64 * KIB + rng.integers(0, 30 * KIB, 10)
    return [(int(start), memory(rng, int(rng.integers(1, 30 * KIB)))) for start in starts]


def submit(file: gio.File, kind: str, is_write: bool, places: list[Place], copy: bool | None) -> gio.Operation:
    offsets, arrays = [offset for offset, _ in places], [array for _, array in places]
    if kind == "at":
        return (file.write_at if is_write else file.read_at)(arrays[0], offsets[0])
    if kind == "row":
        return (file.write_gather if is_write else file.read_scatter)(arrays, offsets[0], copy=copy)
    return (file.write_many if is_write else file.read_many)(arrays, offsets)


def make_trouble(queue: gio.CompletionQueue, rng: np.random.Generator) -> str:
    kind = str(rng.choice(["NONE", "SHORT", "SHORT", "SHORT", "FAIL", "HOLD"]))
    value = {"SHORT": int(rng.choice([0, 100, 512, 1000, PAGE, 5000])), "FAIL": errno.EIO}.get(kind, 0)
    set_fault(queue, kind, after=int(rng.integers(3)), count=int(rng.integers(1, 6)), value=value)
    return kind


def outcome(op: gio.Operation) -> int | None:
    """The bytes moved, or None if nobody knows."""
    try:
        return op.result()
    except CancelledError:
        return None
    except OSError:
        return None


def contents(device: Path) -> Array:
    return np.fromfile(device, "u1", DEVICE_BYTES)


def check_write(before: Array, after: Array, places: list[Place], moved: int | None, what: str) -> None:
    """Each byte is old or new, and what was written is new. Then `before` is what there is."""
    for offset, array in places:
        there, was = after[offset : offset + array.size], before[offset : offset + array.size]
        right = there == array if moved is not None else (there == array) | (there == was)
        assert right.all(), f"{what}: byte {offset + int(np.argmin(right))} is {there[np.argmin(right)]:#x}"
        was[...] = there
    different = np.flatnonzero(before != after)
    assert different.size == 0, f"{what}: byte {different[0]} was not written, and is {after[different[0]]:#x} now"


def check_read(before: Array, places: list[Place], moved: int | None, what: str) -> None:
    """Each byte is that of the device, or untouched; so is what is around the targets."""
    total = 0
    for offset, array in places:
        room = array.base
        assert isinstance(room, np.ndarray)
        there = before[offset : offset + array.size]
        right = (array == there) | (array == UNREAD)
        known = max(0, min(array.size, (moved or 0) - total))
        right[:known] &= array[:known] == there[:known]
        assert right.all(), f"{what}: byte {offset + int(np.argmin(right))} was read as {array[np.argmin(right)]:#x}"
        array[...] = UNREAD
        assert (room == UNREAD).all(), f"{what}: bytes around the target were written"
        total += array.size


@pytest.mark.parametrize("seed", [1])
def test_a_raw_device_holds_what_was_written_and_nothing_else(
    queue: gio.CompletionQueue, device: Path, secret: gio.File, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before = contents(device)
    seen = dict.fromkeys(["staged", "ragged", "resumed", "gathers"], 0)
    staged_writes = failed = 0
    fill_buffers(secret)
    with gio.open(device, "r+", queue=queue, direct=True) as file:
        for number in range(120):
            fill_buffers(secret, (1, 4))
            kind = str(rng.choice(["at", "row", "row", "apart"]))
            places = {"at": one_place, "row": places_in_a_row, "apart": places_apart}[kind](rng)
            is_write, copy = bool(rng.integers(3)), [None, True][int(rng.integers(2))]
            for offset, array in places if is_write else []:
                array[...] = new_bytes(offset, array.size, number)
            start = queue.stats()
            trouble = make_trouble(queue, rng)
            what = f"seed {seed}, round {number}: {'write' if is_write else 'read'} {kind}, copy={copy}, {trouble}"
            op = submit(file, kind, is_write, places, copy)
            if trouble == "HOLD" or rng.integers(6) == 0:
                op.cancel()
            if trouble == "HOLD":
                set_fault(queue, "NONE")
            moved = outcome(op)
            set_fault(queue, "NONE")
            failed += moved is None
            for name in seen:
                seen[name] += queue.stats()[name] - start[name]
            staged_writes += is_write and queue.stats()["staged"] > start["staged"]
            after = contents(device)
            assert not (after == SECRET).any(), what
            if is_write:
                check_write(before, after, places, moved, what)
            else:
                check_read(before, places, moved, what)
        file.flush()
    # Chance decides how many: faults meet what the threads do first.
    assert min(*seen.values(), staged_writes) > 2 and failed > 2, (seen, staged_writes, failed)
    backing = Path(f"/sys/block/{device.name}/loop/backing_file").read_text().strip()
    assert (np.fromfile(backing, "u1") == before).all(), "what lies on the disk"


# --- the end of a file ---


def mounted_device(folder: Path) -> Path:
    """Of the file system that a folder lies in."""
    number = os.stat(folder).st_dev
    return Path("/dev") / Path(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")).name


def last_block(path: Path) -> bytes:
    """What the disk has of a file's last block, where that is told by FIBMAP (linux/fs.h)."""
    import fcntl  # which Windows lacks

    with open(path, "rb") as file:
        os.fsync(file.fileno())
        size, block = os.fstat(file.fileno()).st_size, os.statvfs(path).f_bsize
        (physical,) = struct.unpack("i", fcntl.ioctl(file, 1, struct.pack("i", (size - 1) // block)))
    assert physical != 0, "it is in no block of its own"
    descriptor = os.open(mounted_device(path.parent), os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, block) as aligned:
            assert os.preadv(descriptor, [aligned], physical * block) == block
            return aligned[:]
    finally:
        os.close(descriptor)


WAYS = {
    "write_at": lambda file, data, offset: file.write_at(data, offset),
    "gather": lambda file, data, offset: file.write_gather([data[:PAGE], data[PAGE:]], offset, copy=None),
    "gather, all staged": lambda file, data, offset: file.write_gather([data[:PAGE], data[PAGE:]], offset, copy=True),
    "many": lambda file, data, offset: file.write_many([data], [offset]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["ext4_dir", "sector4k_dir"])
def test_nothing_of_ours_lies_behind_the_end_of_a_file(
    queue: gio.CompletionQueue,
    direct: bool | None,
    secret: gio.File,
    request: pytest.FixtureRequest,
    kind: str,
    way: str,
) -> None:
    path = request.getfixturevalue(kind) / "file"
    fill_buffers(secret)
    # Whole and in part: sectors, pages, small and large staging buffers.
    for number, nbytes in enumerate([1, 511, 513, PAGE + 1, 3 * PAGE, 3 * PAGE + 512, 16 * KIB - 1, 300 * KIB + 77]):
        for kind_of_fault, value in [("NONE", 0), ("SHORT", 512), ("SHORT", 100)]:
            path.unlink(missing_ok=True)
            data = gio.empty(nbytes + 3, "u1")[3:]  # in memory where it can't be direct
            data[...] = new_bytes(0, nbytes, number)
            with gio.open(path, "w", queue=queue, direct=direct) as file:
                set_fault(queue, kind_of_fault, count=2, value=value)
                WAYS[way](file, data, 0).result()
                set_fault(queue, "NONE")
            assert path.read_bytes() == data.tobytes()
            block = last_block(path)
            rest = block[nbytes % len(block) or len(block) :]
            assert rest == bytes(len(rest)), f"{nbytes} bytes, {kind_of_fault} {value}: {rest.strip(bytes(1))[:8]!r}"
            os.truncate(path, nbytes + 3 * PAGE)
            assert path.read_bytes() == data.tobytes() + bytes(3 * PAGE)


def test_the_secret_would_be_seen(queue: gio.CompletionQueue, device: Path, secret: gio.File, ext4_dir: Path) -> None:
    """What the tests above look for is found where it is."""
    fill_buffers(secret)
    before = contents(device)
    with open(device, "r+b") as file:
        file.seek(5000)
        file.write(bytes([SECRET]))
    with pytest.raises(AssertionError, match="byte 5000 was not written, and is 0xe7 now"):
        check_write(before, contents(device), [], 0, "")
    target = memory(np.random.default_rng(0), 100)
    target[7] = SECRET
    with pytest.raises(AssertionError, match="byte 1007 was read as 0xe7"):
        check_read(before, [(1000, target)], None, "")
    (ext4_dir / "file").write_bytes(bytes([SECRET]) * (PAGE + 5))
    assert last_block(ext4_dir / "file") == bytes([SECRET]) * 5 + bytes(PAGE - 5)
