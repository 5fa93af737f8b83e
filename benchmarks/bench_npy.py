"""gatherio.save and load against numpy's: throughput, CPU, page cache, peak memory.

Sections: `save`, until the file is on stable storage; `load`, of a file that is not in the page cache, as
either of the two has written it; `memory`, how much is held beside the array at the worst moment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from measure import MIB, Bench, Run, Spread, Target

import gatherio as gio

Array = npt.NDArray[Any]

BESIDE_ARRAY_MIB = 64.0
TARGETS = {
    ("save", "page-aligned array: durable rate / numpy's"): Target(">=", 1.3),
    ("save", "page-aligned array: CPU / numpy's"): Target("<=", 0.1),
    ("save", "ordinary array: durable rate / numpy's"): Target(">=", 1.2),
    ("save", "ordinary array: CPU / numpy's"): Target("<=", 0.8),
    ("load", "file of gatherio.save: rate / np.load's"): Target(">=", 1.0),
    ("load", "file of gatherio.save: CPU / np.load's"): Target("<=", 0.5),
    ("load", "file of gatherio.save, out=: rate / np.load's"): Target(">=", 1.0),
    ("load", "file of gatherio.save, out=: CPU / np.load's"): Target("<=", 0.1),
    ("load", "file of np.save: rate / np.load's"): Target(">=", 1.0),
    ("load", "file of np.save: CPU / np.load's"): Target("<=", 0.5),
    ("load", "file of np.save, out=: rate / np.load's"): Target(">=", 1.0),
    ("memory", "gatherio.save, page-aligned array"): Target("<=", BESIDE_ARRAY_MIB),
    ("memory", "gatherio.save, ordinary array"): Target("<=", BESIDE_ARRAY_MIB),
    ("memory", "gatherio.save, non-contiguous array"): Target("<=", BESIDE_ARRAY_MIB),
    ("memory", "gatherio.load"): Target("<=", BESIDE_ARRAY_MIB),
    ("memory", "gatherio.load, out="): Target("<=", BESIDE_ARRAY_MIB),
}


def ordinary(size: int) -> Array:
    """What numpy makes by itself: an array that starts somewhere in a page."""
    array = np.empty(size // 8 + 1, np.uint64)
    array = array[1:] if gio.is_aligned(array) else array[:-1]
    measure.fill_pattern(array)
    return array


def aligned(size: int) -> Array:
    array = gio.empty(size // 8, np.uint64)
    measure.fill_pattern(array)
    return array


# --- save ---


def save(bench: Bench) -> None:
    """A new file each time; on stable storage at the end."""
    path = bench.folder / "save.npy"
    arrays = {"page-aligned array": aligned(bench.size), "ordinary array": ordinary(bench.size)}
    contenders = {f"gatherio.save, {kind}": partial(our_save, path, array) for kind, array in arrays.items()}
    contenders["np.save + fsync"] = partial(numpy_save, path, arrays["ordinary array"])
    runs = measure.interleaved(contenders, bench.rounds, "save")
    bench.report.add_transfers("save", runs)
    for kind, array in arrays.items():
        mine, theirs = runs[f"gatherio.save, {kind}"], runs["np.save + fsync"]
        ratio = Spread.ratio(measure.durable_rate, mine, theirs)
        bench.report.add_figure("save", f"{kind}: durable rate / numpy's", "x", ratio)
        ratio = Spread.ratio(measure.cpu_per_gib, mine, theirs)
        bench.report.add_figure("save", f"{kind}: CPU / numpy's", "x", ratio)
        our_save(path, array)
        measure.require_pattern(np.load(path, mmap_mode="r"), f"what gatherio.save wrote of the {kind}")
    path.unlink()


def our_save(path: Path, array: Array) -> Run:
    remove(path)
    # It returns when all is on stable storage: nothing is left to flush.
    return measure.measured(lambda: gio.save(path, array, durable=True), array.nbytes, flush=lambda: None)


def numpy_save(path: Path, array: Array) -> Run:
    remove(path)
    with open(path, "wb") as file:
        return measure.measured(lambda: np.save(file, array), array.nbytes, flush=lambda: os.fsync(file.fileno()))


def remove(path: Path) -> None:
    """So that no run has to dispose of what another one wrote."""
    path.unlink(missing_ok=True)
    measure.settle(path.parent)


# --- load ---


def load(bench: Bench) -> None:
    """From the disk: the page cache is dropped before each."""
    array = aligned(bench.size)
    path = bench.folder / "load.npy"
    for writer, write in (("gatherio.save", gio.save), ("np.save", np.save)):
        write(path, array)
        contenders: dict[str, Callable[[], Run]] = {
            f"gatherio.load, file of {writer}": partial(cold_load, path, gio.load, bench.size),
            f"gatherio.load, file of {writer}, out=": partial(
                cold_load, path, partial(gio.load, out=array), bench.size
            ),
            f"np.load, file of {writer}": partial(cold_load, path, np.load, bench.size),
        }
        runs = measure.interleaved(contenders, bench.rounds, f"load, file of {writer}")
        bench.report.add_transfers("load", runs)
        for which in ("", ", out="):
            mine, theirs = runs[f"gatherio.load, file of {writer}{which}"], runs[f"np.load, file of {writer}"]
            ratio = Spread.ratio(measure.rate, mine, theirs)
            bench.report.add_figure("load", f"file of {writer}{which}: rate / np.load's", "x", ratio)
            ratio = Spread.ratio(measure.cpu_per_gib, mine, theirs)
            bench.report.add_figure("load", f"file of {writer}{which}: CPU / np.load's", "x", ratio)
        measure.require_pattern(gio.load(path), f"what gatherio.load made of the file of {writer}")
        array[...] = 0
        gio.load(path, out=array)
        measure.require_pattern(array, f"what gatherio.load put into out= of the file of {writer}")
        path.unlink()


def cold_load(path: Path, loader: Callable[[Path], Array], nbytes: int) -> Run:
    measure.drop_cache(path)
    return measure.measured(lambda: loader(path), nbytes)


# --- memory ---


def memory(bench: Bench) -> None:
    """Each in a process of its own: its peak, less the array and what the process held before."""
    path = bench.folder / "memory.npy"
    for name in PEAK_CASES:
        gio.save(path, np.zeros(bench.size // 8, np.uint64))
        before, beside = measure.in_new_process(peak_of, name, path, bench.size)
        note = f"and {before / MIB:.0f} MiB of interpreter and libraries"
        bench.report.add_figure("memory", name, "MiB", Spread.of([beside / MIB]), note)
    path.unlink()


def save_case(save: Callable[[Path, Array], object], make: Callable[[int], Array], path: Path, size: int) -> Case:
    return partial(save, path, make(size)), 0


def load_case(load: Callable[[Path], Array], path: Path, size: int) -> Case:
    return partial(load, path), size


def load_out_case(path: Path, size: int) -> Case:
    return partial(gio.load, path, out=aligned(size)), 0


def non_contiguous(size: int) -> Array:
    swapped: Array = ordinary(size).reshape(16, 64, -1).swapaxes(0, 1)
    return swapped


#: A call, and the bytes of the array that it makes.
Case = tuple[Callable[[], object], int]
PEAK_CASES: dict[str, Callable[[Path, int], Case]] = {
    "gatherio.save, page-aligned array": partial(save_case, gio.save, aligned),
    "gatherio.save, ordinary array": partial(save_case, gio.save, ordinary),
    "gatherio.save, non-contiguous array": partial(save_case, gio.save, non_contiguous),
    "np.save, ordinary array": partial(save_case, np.save, ordinary),
    "gatherio.load": partial(load_case, gio.load),
    "gatherio.load, out=": load_out_case,
    "np.load": partial(load_case, np.load),
}


def peak_of(name: str, path: Path, size: int) -> tuple[int, int]:
    """Bytes that the process held before, and that the call held at most beside those and the array."""
    before = measure.resident_bytes()
    call, made = PEAK_CASES[name](path, size)
    measure.reset_peak_resident()
    with_array = measure.resident_bytes()
    kept = call()
    beside = measure.peak_resident_bytes() - with_array - made
    del kept
    return before, beside


def main() -> int:
    assert __doc__ is not None
    sections = {"save": save, "load": load, "memory": memory}
    return measure.run_script("bench_npy", __doc__, sections, TARGETS, disk_factor=1.1, memory_factor=3.2)


if __name__ == "__main__":
    sys.exit(main())
