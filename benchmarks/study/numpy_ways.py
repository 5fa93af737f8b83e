"""numpy's own ways to write an array to the disk, for good, and to read it from there, cold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gatherio.probe import Run, measured, remove

Array = npt.NDArray[Any]


def save_and_fsync(path: Path, array: Array) -> Run:
    """np.save, then fsync."""
    remove(path)
    with open(path, "wb") as file:
        return measured(lambda: np.save(file, array), array.nbytes, flush=lambda: os.fsync(file.fileno()))


def tofile(path: Path, array: Array) -> Run:
    """ndarray.tofile, then fsync."""
    remove(path)
    with open(path, "wb") as file:
        return measured(lambda: array.tofile(file), array.nbytes, flush=lambda: os.fsync(file.fileno()))


def memmap_write(path: Path, array: Array) -> Run:
    """Assign to a memmap, then flush it (msync)."""
    remove(path)
    mapped: list[Any] = []

    def write() -> None:
        mapped.append(np.memmap(path, array.dtype, "w+", shape=array.shape))
        mapped[0][...] = array

    run = measured(write, array.nbytes, flush=lambda: mapped[0].flush())
    mapped.clear()
    return run


def load(path: Path, out: Array) -> Run:
    """np.load."""
    return measured(lambda: np.load(path), out.nbytes, reads=path)


def fromfile(path: Path, out: Array) -> Run:
    """np.fromfile of the data."""
    offset = path.stat().st_size - out.nbytes
    return measured(lambda: np.fromfile(path, out.dtype, out.size, offset=offset), out.nbytes, reads=path)


def memmap_read(path: Path, out: Array) -> Run:
    """np.load with mmap_mode, copied into an array that is there."""
    return measured(lambda: np.copyto(out, np.load(path, mmap_mode="r")), out.nbytes, reads=path)


WRITES: Final[list[tuple[str, Callable[[Path, Array], Run]]]] = [
    ("np.save + fsync", save_and_fsync),
    ("tofile + fsync", tofile),
    ("memmap + flush", memmap_write),
]
READS: Final[list[tuple[str, Callable[[Path, Array], Run]]]] = [
    ("np.load", load),
    ("np.fromfile", fromfile),
    ("np.load, mmap_mode, copied", memmap_read),
]
