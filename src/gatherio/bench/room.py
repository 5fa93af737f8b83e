"""Room on the disk and in memory, and data that tells where it belongs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _measure
from .._device import block_device, read
from .._replace import write_file
from .._report import size_text
from ..file import open as open_file

Array = npt.NDArray[Any]

WORDS_AT_ONCE = 1 << 20  # few enough that comparing needs no memory to speak of
#: Of what is free in a file system the study takes at most this much at a time.
SHARE_OF_DISK = 0.4


class BenchError(Exception):
    """The study cannot be made here, or what was measured is wrong; the text says why."""


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file of results in one step: whoever pulls the plug finds the old one or the new one.

    Raises
    ------
    BenchError
        There is something that is no file.
    OSError
        It cannot be written.
    """
    try:
        write_file(path, content)
    except ValueError as error:
        raise BenchError(str(error)) from error


def require_room(folder: Path, disk_bytes: int, memory_bytes: int) -> None:
    """Raise BenchError unless this fits with plenty to spare."""
    free = _measure.free_space(folder)
    if disk_bytes > SHARE_OF_DISK * free:
        raise BenchError(
            f"{size_text(disk_bytes)} do not fit: {folder} has {size_text(free)} free, and more than half of it stays "
            "so; give a smaller --size"
        )
    available = _measure.available_memory()
    if available is not None and memory_bytes > 0.8 * available:
        raise BenchError(
            f"{size_text(memory_bytes)} of memory are needed, {size_text(available)} are available; "
            "give a smaller --size"
        )


def settle(folder: Path) -> None:
    """Wait until the disk has done what earlier runs left to it: journal commits, discards."""
    if sys.platform == "win32":
        return  # it takes an administrator to flush a volume
    os.sync()
    device = block_device(folder)
    idle_since = started = time.monotonic()
    while device is not None and time.monotonic() - idle_since < 0.02 and time.monotonic() - started < 2:
        if any(map(int, read(device / "inflight").split())):
            idle_since = time.monotonic()
        time.sleep(0.004)


def remove(path: Path) -> None:
    """So that no run has to dispose of what another one wrote."""
    path.unlink(missing_ok=True)
    settle(path.parent)


def fill_pattern(array: Array) -> None:
    """Let each 8-byte word hold its own offset, so that what went where can be told."""
    words = array.reshape(-1).view(np.uint64)
    for start in range(0, words.size, WORDS_AT_ONCE):
        stop = min(start + WORDS_AT_ONCE, words.size)
        words[start:stop] = np.arange(start, stop, dtype=np.uint64) * 8


def difference(array: Array) -> str:
    """Where an array is not what `fill_pattern` made; empty if it is."""
    words = array.reshape(-1).view(np.uint64)
    for start in range(0, words.size, WORDS_AT_ONCE):
        part = words[start : start + WORDS_AT_ONCE]
        expected = np.arange(start, start + part.size, dtype=np.uint64) * 8
        if not np.array_equal(part, expected):
            return f"wrong from byte {(start + int(np.argmax(part != expected))) * 8} on"
    return ""


def require_pattern(array: Array, what: str) -> None:
    """Raise BenchError if something else was moved than is claimed."""
    if found := difference(array):
        raise BenchError(f"wrong data: {what}, {found}")


def require_stored(path: Path, nbytes: int, what: str, data_offset: int = 0) -> None:
    """The same of a file, read by plain means."""
    if found := stored_difference(path, nbytes, data_offset):
        raise BenchError(f"wrong data: {what}, {found}")


def stored_difference(path: Path, nbytes: int, data_offset: int = 0) -> str:
    """Where a file is not the pattern; empty if it is."""
    with open(path, "rb") as file:
        file.seek(data_offset)
        for start in range(0, nbytes, 8 * WORDS_AT_ONCE):
            wanted = min(8 * WORDS_AT_ONCE, nbytes - start)
            part = file.read(wanted)
            if len(part) < wanted:
                return f"{nbytes - start - len(part)} of {nbytes} bytes are missing at the end"
            words = np.frombuffer(part, np.uint64)
            expected = np.arange(start // 8, start // 8 + words.size, dtype=np.uint64) * 8
            if not np.array_equal(words, expected):
                return f"wrong from byte {start + int(np.argmax(words != expected)) * 8} on"
    return ""


def written_file(path: Path, array: Array) -> Path:
    """A file with the array's bytes, in space that was reserved in one go, on stable storage."""
    with open_file(path, "w", preallocate=array.nbytes) as file:
        file.truncate(array.nbytes)
        file.write_at(array, 0).result()
        file.flush()
    return path
