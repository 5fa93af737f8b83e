"""What save and load hold beside the array at the worst moment, and what a million operations leave behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from gatherio import _measure
from gatherio._core.file import File
from gatherio._core.file import open as open_file
from gatherio._core.queue import CompletionQueue
from gatherio._formats import npy
from gatherio._memory import pages
from gatherio.probe import KIB, MIB, Array, Run, fill_pattern, keep_busy, measured

from .bed import Bed
from .groups import Claim, Contender, Group
from .programs import output_of, python
from .runs import Target

T = TypeVar("T")

BESIDE_ARRAY: Final = Target("<=", 64.0)  # MiB: the buffers of `save`, and as much again
LEFT_BEHIND: Final = Target("<=", 1.0)  # MiB of a million operations: a byte for each
OPERATIONS: Final = 1_000_000
TINY_OPERATIONS: Final = 600


def memory(bed: Bed) -> Iterator[Group]:
    """The section's groups. Each run in a process of its own, where nothing ran before."""
    path = bed.folder / "memory.npy"
    cases = [Contender(name, partial(_peak, bed, path, name)) for name in PEAK_CASES]
    claims = [
        Claim(f"beside the array: {name}", "MiB", _memory, name, target=BESIDE_ARRAY if name.startswith("g") else None)
        for name in PEAK_CASES
    ]
    yield Group("memory", "save and load", cases, 1, claims, warm_up=False, done=partial(path.unlink, missing_ok=True))
    count = TINY_OPERATIONS if bed.extent.tiny else OPERATIONS
    many = Contender(f"{count} operations", partial(_growth, bed, count))
    claim = Claim("left behind by a million operations", "MiB", _memory, many.name, target=LEFT_BEHIND)
    yield Group("memory", "many operations", [many], 1, [claim], per="operation", warm_up=False)


def _memory(run: Run) -> float:
    return run.memory_mib


def _in_new_process(folder: Path, function: Callable[..., T], *arguments: object) -> T:
    """Call it in an interpreter of its own, which runs in `folder`."""
    given = pickle.dumps((function, arguments)).hex()
    printed = output_of(python("memory", "answer"), folder, given=given)
    result: T | str = pickle.loads(bytes.fromhex(printed))
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def answer() -> None:
    """Be the other end of that: the call comes from standard input, and its result, or what went wrong, goes out."""
    function, arguments = pickle.loads(bytes.fromhex(sys.stdin.read()))
    try:
        result = function(*arguments)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    print(pickle.dumps(result).hex())


def _process_bytes(file: str, field: str) -> int:
    for value in _measure.values_of(Path("/proc/self") / file, field):
        return int(value) * KIB
    raise ValueError(f"/proc/self/{file} has no {field}")


if sys.platform == "win32":

    class _MemoryCounters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of <psapi.h>."""

        _fields_ = [
            ("cb", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 6),
        ]

    def _memory_counters() -> _MemoryCounters:
        counters = _MemoryCounters(cb=ctypes.sizeof(_MemoryCounters))
        this_process = ctypes.c_void_p(-1)
        if not ctypes.WinDLL("psapi").GetProcessMemoryInfo(this_process, ctypes.byref(counters), counters.cb):
            raise ctypes.WinError()
        return counters


def _resident() -> int:
    if sys.platform == "win32":
        return int(_memory_counters().working_set)
    return _process_bytes("smaps_rollup", "Rss")  # exact; the kernel estimates that in status


def _begin_peak() -> None:
    """On Windows nothing resets it: an earlier peak is told if it was higher."""
    if sys.platform != "win32":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """Since `_begin_peak`. Not ru_maxrss: a child inherits its parent's."""
    if sys.platform == "win32":
        return int(_memory_counters().peak_working_set)
    return _process_bytes("status", "VmHWM")


# --- the peak of save and load ---


def _peak(bed: Bed, path: Path, name: str) -> Run:
    npy.save(path, np.zeros(bed.size // 8, np.uint64))
    return _in_new_process(bed.folder, peak_run, name, Path(path.name), bed.size)


def peak_run(name: str, path: Path, size: int) -> Run:
    """Run a case and tell what it held at most, beside the array and what the process held before."""
    call, made = PEAK_CASES[name](path, size)
    _begin_peak()
    before = _resident()
    kept: list[object] = []
    run = measured(lambda: kept.append(call()), size)
    beside = _peak_bytes() - before - made
    kept.clear()
    return Run(run.sample, memory_mib=max(0.0, beside / MIB))


def _save_case(save: Callable[[Path, Array], object], make: Callable[[int], Array], path: Path, size: int) -> Case:
    return partial(save, path, make(size)), 0


def _load_case(load: Callable[[Path], Array], path: Path, size: int) -> Case:
    return partial(load, path), size


def _load_out_case(path: Path, size: int) -> Case:
    return partial(npy.load, path, out=_aligned(size)), 0


def _aligned(size: int) -> Array:
    array = pages.empty(size // 8, np.uint64)
    fill_pattern(array)
    return array


def _ordinary(size: int) -> Array:
    array = np.empty(size // 8 + 1, np.uint64)[1:]
    fill_pattern(array)
    return array


def _non_contiguous(size: int) -> Array:
    swapped: Array = _ordinary(size).reshape(16, 64, -1).swapaxes(0, 1)
    return swapped


#: A call, and the bytes of the array that it makes.
Case = tuple[Callable[[], object], int]
PEAK_CASES: Final[dict[str, Callable[[Path, int], Case]]] = {
    "gatherio.save, page-aligned array": partial(_save_case, npy.save, _aligned),
    "gatherio.save, ordinary array": partial(_save_case, npy.save, _ordinary),
    "gatherio.save, non-contiguous array": partial(_save_case, npy.save, _non_contiguous),
    "np.save, ordinary array": partial(_save_case, np.save, _ordinary),
    "gatherio.load": partial(_load_case, npy.load),
    "gatherio.load, out=": _load_out_case,
    "np.load": partial(_load_case, np.load),
}


# --- many operations ---


def _growth(bed: Bed, count: int) -> Run:
    return _in_new_process(bed.folder, growth_run, Path(bed.file("write").name), count)


def growth_run(path: Path, count: int) -> Run:
    """Tell what `count` operations leave behind, after a tenth as many to warm up."""
    buffers = pages.empty((32, 4 * KIB), np.uint8)
    _operate(path, buffers, max(count // 10, 64))
    gc.collect()
    before = _resident()
    run = measured(lambda: _operate(path, buffers, count), count * 4 * KIB, operations=count)
    gc.collect()
    return Run(run.sample, count, memory_mib=(_resident() - before) / MIB)


def _operate(path: Path, buffers: Array, count: int) -> None:
    """In quarters: fetched from the queue, awaited one by one, awaited in asyncio, dropped and forgotten."""
    order = np.random.default_rng().permutation(min(path.stat().st_size, MIB) // (4 * KIB)) * 4 * KIB

    def quarter() -> Iterator[int]:
        return itertools.islice(itertools.cycle(order.tolist()), count // 4)

    with CompletionQueue(len(buffers)) as queue, open_file(path, "r+", queue=queue) as file:
        keep_busy("read", list(buffers), quarter(), file, queue)
    with open_file(path, "r+") as file:
        for place in quarter():
            file.write_gather([buffers[0]], place).result()
        asyncio.run(_await_each(file, buffers, quarter()))
        for number, place in enumerate(quarter()):
            operation = file.read_at(buffers[number % len(buffers)], place)
            if number % len(buffers) == 0:  # so that they do not pile up
                operation.result()


async def _await_each(file: File, buffers: Array, places: Iterator[int]) -> None:
    async def reader(buffer: Array) -> None:
        for place in places:
            await file.read_at(buffer, place)

    await asyncio.gather(*map(reader, buffers))
