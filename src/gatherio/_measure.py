"""What one transfer costs: seconds, CPU, page cache. And what there is to be used: memory, room on the disk.

No root is needed. What a system does not tell is None.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ._core.file import open as gatherio_open
from ._device import lines, read
from ._memory.pages import PAGE_SIZE

GIB = 1 << 30
Number = TypeVar("Number", int, float)


class Sample(NamedTuple):
    """One measured transfer."""

    nbytes: int
    returned_s: float  # until the call came back
    seconds: float  # until the data was on stable storage, or in memory
    cpu_s: float  # user and system time of this process
    system_cpu_s: float | None  # of the whole system: the kernel's threads write buffered data back
    cache_bytes: int | None  # growth of the page cache (Cached in /proc/meminfo, Windows' system cache)
    warm_bytes: int | None  # of a file to be read: what the page cache still held of it

    @property
    def gb_per_s(self) -> float:
        """Throughput in 10**9 bytes per second."""
        return self.nbytes / self.seconds / 1e9

    @property
    def cpu_per_gib(self) -> float:
        """CPU seconds of this process per GiB."""
        return self.cpu_s * GIB / self.nbytes

    @property
    def system_cpu_per_gib(self) -> float | None:
        """CPU seconds of the whole system per GiB."""
        return None if self.system_cpu_s is None else self.system_cpu_s * GIB / self.nbytes


class Meter:
    """Made by `measuring`; holds the sample when the block has ended."""

    sample: Sample

    def __init__(self) -> None:
        self._returned: float | None = None

    def returned(self) -> None:
        """Tell that the call has come back; what follows in the block makes its data durable."""
        self._returned = time.perf_counter()


@contextmanager
def measuring(nbytes: int, reads: Path | None = None) -> Iterator[Meter]:
    """Measure what the block does.

    Parameters
    ----------
    nbytes : int
        What it transfers.
    reads : Path, optional
        The file it reads, which is dropped from the page cache first.
    """
    warm = None
    if reads is not None:
        drop_from_cache(reads)
        warm = resident_bytes(reads)
    meter = Meter()
    cached, system_cpu = cached_bytes(), system_cpu_s()
    cpu, start = time.process_time(), time.perf_counter()
    yield meter
    end, cpu = time.perf_counter(), time.process_time() - cpu
    meter.sample = Sample(
        nbytes,
        (meter._returned or end) - start,
        end - start,
        cpu,
        _growth(system_cpu, system_cpu_s()),
        _growth(cached, cached_bytes()),
        warm,
    )


def _growth(before: Number | None, after: Number | None) -> Number | None:
    return None if before is None or after is None else after - before


class _PerformanceInformation(ctypes.Structure):
    """PERFORMANCE_INFORMATION of <psapi.h>; memory in pages."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        *(
            (name, ctypes.c_size_t)
            for name in (
                *("commit_total", "commit_limit", "commit_peak"),
                *("physical_total", "physical_available", "system_cache"),
                *("kernel_total", "kernel_paged", "kernel_nonpaged", "page_size"),
            )
        ),
        *((name, ctypes.c_uint32) for name in ("handles", "processes", "threads")),
    ]


def _performance(field: str) -> int | None:
    """A field of it that counts memory, in bytes."""
    if sys.platform != "win32":
        return None
    facts = _PerformanceInformation(cb=ctypes.sizeof(_PerformanceInformation))
    told = ctypes.WinDLL("psapi").GetPerformanceInfo(ctypes.byref(facts), facts.cb)
    return int(getattr(facts, field) * facts.page_size) if told else None


# --- the page cache ---


def meminfo(field: str) -> int | None:
    """A line of /proc/meminfo in bytes."""
    return next((int(value) * 1024 for value in values_of(Path("/proc/meminfo"), field)), None)


def values_of(path: Path, field: str) -> list[bytes]:
    """The first word behind "FIELD:" in each such line of a file of the system's."""
    name = field.encode() + b":"
    behind = [line[len(name) :].split() for line in lines(path) if line.startswith(name)]
    return [words[0] for words in behind if words]


def cached_bytes() -> int | None:
    """How large the page cache is."""
    if sys.platform == "win32":
        return _performance("system_cache") or None  # Wine says 0
    return meminfo("Cached")


def flush_to_disk(path: Path) -> None:
    """Bring a file and its name to stable storage."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def drop_from_cache(path: Path) -> None:
    """Drop a file from the page cache, where the system lets everybody do that."""
    if sys.platform == "win32":
        gatherio_open(path, "r").close()  # to open it without buffering makes Windows give up what it has cached
    else:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())  # only clean pages are dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(path: Path) -> int | None:
    """How much of a file stands in the page cache: mincore(2) of a mapping that nobody touches."""
    size = path.stat().st_size
    if sys.platform == "win32" or size == 0:
        return None
    pages = np.zeros(-(-size // PAGE_SIZE), np.uint8)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        view = np.frombuffer(mapping, np.uint8)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        address, vector = ctypes.c_void_p(view.ctypes.data), ctypes.c_void_p(pages.ctypes.data)
        code = mincore(address, ctypes.c_size_t(size), vector)
        del view  # a mapping with a view cannot be closed
    return None if code else min(size, int(np.count_nonzero(pages & 1)) * PAGE_SIZE)


# --- the CPU ---


def system_cpu_s() -> float | None:
    """CPU seconds that the whole system has spent so far, without waiting and without stolen time."""
    if sys.platform == "win32":
        idle, kernel, user = (ctypes.c_uint64() for _ in range(3))  # in units of 100 ns; kernel includes idle
        told = ctypes.WinDLL("kernel32").GetSystemTimes(*map(ctypes.byref, (idle, kernel, user)))
        return (kernel.value - idle.value + user.value) / 1e7 if told else None
    try:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, lines(Path("/proc/stat"))[0].split()[1:8])
    except ValueError:
        return None
    return float(user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# --- what is there to be used ---


def available_memory() -> int | None:
    """Bytes of memory that this process can get without swapping, a container's limit included."""
    if sys.platform == "win32":
        return _performance("physical_available")
    found = [meminfo("MemAvailable"), _available_in_cgroup()]
    return min((size for size in found if size is not None), default=None)


def _available_in_cgroup() -> int | None:
    """What the memory limits of this process's control groups (version 2) leave."""
    name = next((line[3:] for line in lines(Path("/proc/self/cgroup")) if line.startswith(b"0::")), None)
    if name is None:
        return None
    top = Path("/sys/fs/cgroup")
    group, left = top / os.fsdecode(name).strip("/"), []
    while group.is_relative_to(top):
        left.append(_left_in(group))
        group = group.parent
    return min((size for size in left if size is not None), default=None)


def _left_in(group: Path) -> int | None:
    try:
        limit = int(read(group / "memory.max"))  # "max" is no limit, and so is nothing
        used = int(read(group / "memory.current"))
        details = dict(line.split() for line in lines(group / "memory.stat") if line)
    except ValueError:
        return None
    return max(0, limit - used + int(details.get(b"inactive_file", 0)))


def total_memory() -> int | None:
    """Bytes of memory that the machine has."""
    if sys.platform == "win32":
        return _performance("physical_total")
    return meminfo("MemTotal")


def free_space(folder: Path) -> int:
    """Bytes that a plain user can still write in this folder's file system."""
    return shutil.disk_usage(folder).free
