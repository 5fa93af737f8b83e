"""What the benchmarks share: costs of one run, interleaved rounds, fio, a report for people and machines.

A figure here is never a single run. What is compared takes turns (A B C, C B A, A B C, ...) after one round
that does not count, since disks and their caches drift; a ratio is taken within each round, and the median of
the rounds is what is told, with the smallest and the largest beside it. Each run tells

    rate          bytes or operations by the time it took to return
    durable rate  the same until the data was on stable storage
    CPU           user and system time of this process with all its threads; of fio's job, as fio counts it
    whole system  busy time of all processors: buffered writes are paid for in kernel threads, too
    cache         by how much the page cache grew, in percent of the data

What a system does not tell is left out: it is None, and a dash in the report.

The JSON has the shape that `SCHEMA` states, and `check_schema` checks.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

import gatherio as gio
from gatherio._measure import available_memory, cached_bytes, drop_from_cache, free_space, system_cpu_s, total_memory

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SCHEMA_NAME = "gatherio-benchmark-1"
SPREAD = {"median": float, "min": float, "max": float}
#: A dict has exactly these keys, a list any number of such items; a tuple names alternatives.
SCHEMA: dict[str, Any] = {
    "schema": str,  # SCHEMA_NAME
    "script": str,
    "arguments": dict,
    "machine": dict,
    "rows": [
        {
            "section": str,
            "name": str,
            "rounds": int,
            "unit": str,  # of the rates: MiB/s or 1/s
            "rate": SPREAD,
            "durable_rate": (SPREAD, None),
            "cpu_unit": str,  # s/GiB, or us of one operation
            "cpu": SPREAD,
            "system_cpu": (SPREAD, None),
            "cache_percent": (SPREAD, None),
        }
    ],
    "figures": [
        {
            "section": str,
            "name": str,
            "unit": str,
            "value": (SPREAD, None),  # None: it could not be measured, and the note says why
            "direction": (str, None),  # of the target: ">=" or "<="
            "threshold": (float, None),
            "met": (bool, None),  # of the median; None where there is no target, or no value
            "note": str,
        }
    ],
}

T = TypeVar("T")
Array = npt.NDArray[Any]


# --- one run ---


@dataclass(frozen=True)
class Run:
    """What one run moved and cost. Times in seconds, sizes in bytes."""

    nbytes: int
    operations: int
    seconds: float
    durable_seconds: float | None
    process_cpu: float
    system_cpu: float | None
    cache_growth: int | None


def rate(run: Run) -> float:
    """MiB/s, returned."""
    return run.nbytes / MIB / run.seconds


def durable_rate(run: Run) -> float:
    """MiB/s, on stable storage."""
    assert run.durable_seconds is not None
    return run.nbytes / MIB / run.durable_seconds


def operations_per_second(run: Run) -> float:
    return run.operations / run.seconds


def cpu_per_gib(run: Run) -> float:
    """Seconds of this process's CPU time."""
    return run.process_cpu / (run.nbytes / GIB)


def cpu_per_operation(run: Run) -> float:
    """Microseconds of this process's CPU time."""
    return run.process_cpu / run.operations * 1e6


def cache_percent(runs: Iterable[Run]) -> Spread | None:
    """Of the data; None where the system does not tell."""
    known = [100 * run.cache_growth / run.nbytes for run in runs if run.cache_growth is not None]
    return Spread.of(known) if known else None


@dataclass(frozen=True)
class Clock:
    """The clocks at one moment."""

    wall: float
    process: float
    system: float | None
    cached: int | None

    @staticmethod
    def starting() -> Clock:
        system, cached, process = system_cpu_s(), cached_bytes(), time.process_time()  # of all threads
        return Clock(time.perf_counter(), process, system, cached)

    @staticmethod
    def stopping() -> Clock:
        wall = time.perf_counter()
        return Clock(wall, time.process_time(), system_cpu_s(), cached_bytes())


N = TypeVar("N", int, float)


def difference(end: N | None, start: N | None) -> N | None:
    return None if end is None or start is None else end - start


def _proc_bytes(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * KIB
    raise ValueError(f"{path} has no {name}")


class FreeMemory:
    """What a run will take from the system. The host of a virtual machine takes back memory that nobody uses, and
    giving it again can cost ten times the CPU time of a transfer: whoever lets the page cache grow pays for it.
    """

    touched_bytes = 0  # before each run; set by --warm-memory

    @classmethod
    def warm(cls) -> None:
        """Take as much memory as was asked for and give it back, so that it is there for the run."""
        if cls.touched_bytes:
            gio.empty(cls.touched_bytes, np.uint8)


def measured(
    transfer: Callable[[], object],
    nbytes: int,
    *,
    operations: int = 1,
    flush: Callable[[], object] | None = None,
) -> Run:
    """Run `transfer`, then `flush`. CPU and cache are those of both."""
    gc.collect()
    FreeMemory.warm()
    start = Clock.starting()
    kept = transfer()  # giving the memory of a result back is no part of the transfer
    returned = time.perf_counter()
    if flush is not None:
        flush()
    end = Clock.stopping()
    del kept
    return Run(
        nbytes=nbytes,
        operations=operations,
        seconds=returned - start.wall,
        durable_seconds=None if flush is None else end.wall - start.wall,
        process_cpu=end.process - start.process,
        system_cpu=difference(end.system, start.system),
        cache_growth=difference(end.cached, start.cached),
    )


# --- rounds ---


@dataclass(frozen=True)
class Spread:
    """The outcome of several rounds."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        found = [float(value) for value in values]
        return Spread(statistics.median(found), min(found), max(found))

    @staticmethod
    def ratio(metric: Callable[[Run], float], ours: Sequence[Run], theirs: Sequence[Run]) -> Spread:
        """Of two contenders, taken in each round."""
        return Spread.of(metric(a) / max(metric(b), 1e-9) for a, b in zip(ours, theirs, strict=True))


def interleaved(
    contenders: Mapping[str, Callable[[], Run]], rounds: int, label: str, *, warm_up: bool = True
) -> dict[str, list[Run]]:
    """Let the contenders take turns: forwards in one round, backwards in the next."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    turns = [(0, name) for name in names if warm_up]
    for number in range(1, rounds + 1):
        turns += [(number, name) for name in (names if number % 2 else reversed(names))]
    for number, name in progress(turns, label):
        run = contenders[name]()
        if number:
            runs[name].append(run)
    return runs


def progress(items: Sequence[T], label: str) -> Iterable[T]:
    """The items, with a bar on a terminal (needs tqdm)."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[T] = tqdm(items, desc=label, leave=False, disable=None)  # None: not on a terminal
    return bar


# --- files and memory ---


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A new folder that goes with all its files at the end; also after Ctrl-C, SIGTERM and Ctrl-Break."""
    signal.signal(signal.SIGTERM, _terminate)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, _terminate)
    with tempfile.TemporaryDirectory(prefix="gatherio-benchmark-", dir=parent) as name:
        try:
            yield Path(name)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # a file that one of them holds open stays on Windows
            raise


def _terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def require_room(folder: Path, disk_bytes: int, memory_bytes: int) -> None:
    """End the program unless this fits with a tenth of what is free to spare."""
    free = free_space(folder)
    if disk_bytes > 0.9 * free:
        sys.exit(
            f"{disk_bytes >> 20} MiB do not fit: {folder} has {free >> 20} MiB free, and a tenth stays so; see --size"
        )
    available = available_memory() or 0
    if memory_bytes > 0.9 * available:
        sys.exit(f"{memory_bytes >> 20} MiB of memory are needed, {available >> 20} MiB are available; see --size")


def drop_cache(file: Path | int) -> None:
    """Leave nothing of a file, or of a descriptor's, in the page cache; as root, nothing of any file."""
    if sys.platform == "win32":
        if isinstance(file, Path):  # a descriptor is that of a direct file, which has nothing there
            drop_from_cache(file)
        return
    descriptor = os.open(file, os.O_RDONLY) if isinstance(file, Path) else file
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        if isinstance(file, Path):
            os.close(descriptor)
    if os.geteuid() == 0:
        with suppress(OSError):  # a container's root may not
            Path("/proc/sys/vm/drop_caches").write_text("1")


def settle(path: Path) -> None:
    """Wait until the disk has done what earlier runs left to it: journal commits, discards."""
    if sys.platform == "win32":
        return  # it takes an administrator to flush a volume
    os.sync()
    inflight = _block_device(path) / "inflight"
    idle_since = started = time.monotonic()
    while inflight.exists() and time.monotonic() - idle_since < 0.05 and time.monotonic() - started < 2:
        if any(map(int, inflight.read_text().split())):
            idle_since = time.monotonic()
        time.sleep(0.005)


WORDS_AT_ONCE = 1 << 20  # few enough that comparing needs no memory to speak of


def fill_pattern(array: Array) -> None:
    """Let each 8-byte word hold its own offset, so that what went where can be told."""
    words = array.reshape(-1).view(np.uint64)
    for start in range(0, words.size, WORDS_AT_ONCE):
        stop = min(start + WORDS_AT_ONCE, words.size)
        words[start:stop] = np.arange(start, stop, dtype=np.uint64) * 8


def require_pattern(array: Array, what: str) -> None:
    """End the program if the benchmark has moved anything but what it claims."""
    words = array.reshape(-1).view(np.uint64)
    for start in range(0, words.size, WORDS_AT_ONCE):
        part = words[start : start + WORDS_AT_ONCE]
        expected = np.arange(start, start + part.size, dtype=np.uint64) * 8
        if not np.array_equal(part, expected):
            sys.exit(f"wrong data: {what}, somewhere from byte {start * 8} on")


def written_file(path: Path, array: Array) -> Path:
    """A file with the array's bytes, in space that was reserved in one go."""
    with gio.open(path, "w", preallocate=array.nbytes) as file:
        file.write_at(array, 0).result()
        file.flush()
    return path


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function of the script's top level returns in a process of its own, where nothing ran before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


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


def resident_bytes() -> int:
    if sys.platform == "win32":
        return int(_memory_counters().working_set)
    return _proc_bytes("/proc/self/smaps_rollup", "Rss")  # exact; the kernel estimates that in status


def reset_peak_resident() -> None:
    """On Windows nothing resets it: an earlier peak is told if it was higher."""
    if sys.platform != "win32":
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident_bytes() -> int:
    """Since `reset_peak_resident`. Not ru_maxrss: a child inherits its parent's."""
    if sys.platform == "win32":
        return int(_memory_counters().peak_working_set)
    return _proc_bytes("/proc/self/status", "VmHWM")


# --- fio ---


@dataclass(frozen=True)
class FioJob:
    """One fio job over an existing file: io_uring or Windows' overlapped calls, direct."""

    path: Path
    how: Literal["read", "write", "randread"]
    nbytes: int
    request_size: int
    depth: int
    operations: int | None = None  # instead of the whole file once

    def run(self) -> Run:
        environment, memory = _huge_pages(self.request_size * self.depth)
        cached = cached_bytes()
        done = subprocess.run(
            [*self._command(), memory],
            env={**os.environ, **environment},
            cwd=self.path.parent,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"fio ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        transfer = job["write" if self.how == "write" else "read"]
        return Run(
            nbytes=transfer["io_bytes"],
            operations=transfer["total_ios"],
            seconds=max(transfer["runtime"], 1) / 1000,  # fio counts whole milliseconds
            durable_seconds=None,
            process_cpu=(job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000,
            system_cpu=None,  # would count fio's start, too
            cache_growth=difference(cached_bytes(), cached),
        )

    def _command(self) -> list[str]:
        command = [
            "fio",
            "--name=benchmark",
            "--output-format=json",
            "--ioengine=windowsaio" if sys.platform == "win32" else "--ioengine=io_uring",
            "--direct=1",
            f"--filename={self.path.name}",  # a colon in the folder's name would separate files
            f"--size={self.nbytes}",
            f"--rw={self.how}",
            f"--bs={self.request_size}",
            f"--iodepth={self.depth}",
            "--overwrite=1",
            "--allow_file_create=0",
            "--scramble_buffers=0",  # fio need not touch the data, as we do not
            "--norandommap=1",
            "--randrepeat=0",
        ]
        if self.operations is not None:
            command.append(f"--io_size={self.operations * self.request_size}")
        return command


def _huge_pages(nbytes: int) -> tuple[dict[str, str], str]:
    """Environment and option that put fio's buffers on huge pages: reserved ones, else transparent ones.

    On Windows large pages take a right that few have; ours are not on such either.
    """
    if sys.platform == "win32":
        return {}, "--mem=malloc"
    reserved = int(_first_match("/proc/meminfo", "HugePages_Free") or 0)
    if reserved and (reserved - 1) * _proc_bytes("/proc/meminfo", "Hugepagesize") >= nbytes:
        return {}, "--mem=mmaphuge"
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, "--mem=malloc"


def why_no_fio(folder: Path) -> str:
    """Empty if fio, as we call it, works on this folder's files."""
    if shutil.which("fio") is None:
        return "fio is not installed"
    probe = folder / "fio-probe"
    probe.write_bytes(bytes(64 * KIB))
    try:
        FioJob(probe, "read", 64 * KIB, 64 * KIB, 1).run()
    except (RuntimeError, ValueError, KeyError) as error:
        return f"fio does not work here: {str(error).splitlines()[0]}"
    finally:
        probe.unlink()
    return ""


# --- the machine ---


def machine_facts(folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    about = gio.info(folder)
    return {
        **_system_facts(folder, about["path"]["file_system"]),
        "direct": about["path"]["direct"],
        "offset_alignment": about["path"]["offset_alignment"],
        "backend": about["backend"],
        "gatherio": about["version"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fio": _fio_version(),
    }


def _system_facts(folder: Path, file_system: str) -> dict[str, Any]:
    if sys.platform == "win32":
        return {
            "cpu": platform.processor(),
            "cpus": os.cpu_count(),
            "load_average": None,
            "memory_bytes": total_memory(),
            "kernel": f"Windows {platform.version()}",
            "file_system": file_system,
        }
    return {
        "cpu": _first_match("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "memory_bytes": total_memory(),
        "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "kernel": platform.release(),
        **_mount_facts(folder),
        **_device_facts(folder),
    }


def _first_match(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _chosen(path: str) -> str:
    """What stands in brackets in a file of /sys."""
    try:
        return Path(path).read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def _mount_facts(folder: Path) -> dict[str, str]:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split()[2] == number:
            kind, source, _ = system.split(maxsplit=2)
            return {"file_system": kind, "mounted_from": source, "mount_options": mount.split()[5]}
    return {"file_system": "unknown", "mounted_from": "", "mount_options": ""}


def _block_device(path: Path) -> Path:
    """In /sys. Does not exist for a file system without a device of its own (tmpfs, btrfs, overlayfs)."""
    device = os.stat(path).st_dev
    found = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    return found.parent if (found / "partition").exists() else found


def _device_facts(folder: Path) -> dict[str, Any]:
    device = _block_device(folder)
    queue = device / "queue"
    if not queue.exists():
        return {"device": None}
    names = ("logical_block_size", "physical_block_size", "max_segments", "max_sectors_kb")
    return {
        "device": device.name,
        "scheduler": _chosen(str(queue / "scheduler")),
        **{name: int((queue / name).read_text()) for name in names},
    }


def _fio_version() -> str | None:
    if shutil.which("fio") is None:
        return None
    return subprocess.run(["fio", "--version"], capture_output=True, text=True).stdout.strip()


# --- the report ---


@dataclass(frozen=True)
class Target:
    """What a figure is to reach."""

    direction: Literal[">=", "<="]
    threshold: float

    def met_by(self, value: float) -> bool:
        return value >= self.threshold if self.direction == ">=" else value <= self.threshold


@dataclass
class Report:
    """Gathers rows and figures, and prints each section when it is through."""

    targets: dict[tuple[str, str], Target]  # by section and name of the figure
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def add_transfers(self, section: str, runs: dict[str, list[Run]]) -> None:
        """A row per contender, in MiB/s and seconds of CPU per GiB."""
        self._add_rows(section, runs, "MiB/s", rate, "s/GiB", lambda run: run.nbytes / GIB)

    def add_operations(self, section: str, runs: dict[str, list[Run]]) -> None:
        """A row per contender, in operations per second and microseconds of CPU each."""
        self._add_rows(section, runs, "1/s", operations_per_second, "us/op", lambda run: run.operations / 1e6)

    def _add_rows(
        self,
        section: str,
        runs: dict[str, list[Run]],
        unit: str,
        metric: Callable[[Run], float],
        cpu_unit: str,
        amount: Callable[[Run], float],
    ) -> None:
        for name, of_name in runs.items():
            durable = [durable_rate(run) for run in of_name if run.durable_seconds is not None]
            system = [run.system_cpu / amount(run) for run in of_name if run.system_cpu is not None]
            cache = cache_percent(of_name)
            self.rows.append(
                {
                    "section": section,
                    "name": name,
                    "rounds": len(of_name),
                    "unit": unit,
                    "rate": asdict(Spread.of(map(metric, of_name))),
                    "durable_rate": asdict(Spread.of(durable)) if durable else None,
                    "cpu_unit": cpu_unit,
                    "cpu": asdict(Spread.of(run.process_cpu / amount(run) for run in of_name)),
                    "system_cpu": asdict(Spread.of(system)) if system else None,
                    "cache_percent": asdict(cache) if cache else None,
                }
            )

    def add_figure(self, section: str, name: str, unit: str, value: Spread | None, note: str = "") -> None:
        """A figure, beside its target if it has one. Without a value, `note` says why."""
        target = self.targets.get((section, name))
        self.figures.append(
            {
                "section": section,
                "name": name,
                "unit": unit,
                "value": None if value is None else asdict(value),
                "direction": target.direction if target else None,
                "threshold": target.threshold if target else None,
                "met": target.met_by(value.median) if target and value else None,
                "note": note,
            }
        )

    def document(self, script: str, arguments: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
        return {
            "schema": SCHEMA_NAME,
            "script": script,
            "arguments": arguments,
            "machine": machine,
            "rows": self.rows,
            "figures": self.figures,
        }

    def all_met(self) -> bool:
        """Whether every figure with a target was measured and meets it."""
        return all(figure["met"] for figure in self.figures if figure["threshold"] is not None)

    def print_section(self, section: str) -> None:
        rows = [row for row in self.rows if row["section"] == section]
        print(f"\n## {section}\n")
        if rows:
            print("| what | rate | durable | CPU | whole system | cache grew |")
            print("|---|---|---|---|---|---|")
        for row in rows:
            cells = [
                f"{_cell(row['rate'])} {row['unit']}",
                _cell(row["durable_rate"]),
                f"{_cell(row['cpu'])} {row['cpu_unit']}",
                _cell(row["system_cpu"]),
                "-" if row["cache_percent"] is None else f"{round(row['cache_percent']['median'], 1) + 0.0} %",
            ]
            print(f"| {row['name']} | {' | '.join(cells)} |")
        print("\n| figure | measured | target | |")
        print("|---|---|---|---|")
        for figure in self.figures:
            if figure["section"] == section:
                print(_figure_line(figure))


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def _cell(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    return f"{_number(spread['median'])} [{_number(spread['min'])}-{_number(spread['max'])}]"


def _figure_line(figure: dict[str, Any]) -> str:
    value = figure["note"] if figure["value"] is None else f"{_cell(figure['value'])} {figure['unit']}".strip()
    if figure["value"] is not None and figure["note"]:
        value += f" ({figure['note']})"
    target = "" if figure["threshold"] is None else f"{figure['direction']} {figure['threshold']:g} {figure['unit']}"
    verdict = {True: "met", False: "NOT MET", None: "not shown" if target else ""}[figure["met"]]
    return f"| {figure['name']} | {value} | {target.strip()} | {verdict} |"


def check_schema(value: object, shape: Any = SCHEMA, at: str = "document") -> None:
    """Raise ValueError unless a document has the shape that `SCHEMA` states."""
    if isinstance(shape, tuple):
        if value is None and None in shape:
            return
        shape = next(alternative for alternative in shape if alternative is not None)
    if isinstance(shape, dict):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            raise ValueError(f"{at}: expected an object with {list(shape)}, not {value!r}")
        for key, inner in shape.items():
            check_schema(value[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{at}: expected a list, not {value!r}")
        for number, item in enumerate(value):
            check_schema(item, shape[0], f"{at}[{number}]")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        raise ValueError(f"{at}: expected {shape.__name__}, not {value!r}")


# --- the command line ---


@dataclass(frozen=True)
class Bench:
    """What a section is given to work with."""

    folder: Path
    size: int
    rounds: int
    tiny: bool
    report: Report
    no_fio: str  # why there is none, or ""


Section = Callable[[Bench], None]


def run_script(
    script: str,
    description: str,
    sections: Mapping[str, Section],
    targets: dict[tuple[str, str], Target],
    *,
    disk_factor: float,
    memory_factor: float,
) -> int:
    """The main function of a benchmark. `disk_factor` and `memory_factor`: what it needs, in sizes."""
    options = _parsed(description, sections)
    size = TINY_SIZE if options.tiny else options.size
    require_room(options.dir, int(size * disk_factor), int(size * memory_factor))
    report = Report(targets)
    if options.warm_memory:
        FreeMemory.touched_bytes = min(3 * size, (available_memory() or 0) // 2)
    try:
        with workspace(options.dir) as folder:
            machine = machine_facts(folder)
            _print_machine(script, machine)
            bench = Bench(folder, size, options.rounds, options.tiny, report, why_no_fio(folder))
            for name in options.only or sections:
                sections[name](bench)
                report.print_section(name)
    except KeyboardInterrupt:
        print("\ninterrupted; the files are removed", file=sys.stderr)
        return 130
    arguments = {
        "size": size,
        "rounds": options.rounds,
        "only": options.only or list(sections),
        "tiny": options.tiny,
        "warm_memory": options.warm_memory,
    }
    document = report.document(script, arguments, machine)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if options.strict and not report.all_met() else 0


TINY_SIZE = 2 * MIB


def _parsed(description: str, sections: Mapping[str, Section]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path(), help="a folder on the disk to measure (default: this one)")
    parser.add_argument("--size", type=_size, default=2 * GIB, help="bytes; K, M and G are known (default: 2G)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--only", action="append", choices=sections, help="just this section; may be repeated")
    parser.add_argument("--strict", action="store_true", help="exit code 1 unless every target is met")
    parser.add_argument(
        "--warm-memory", action="store_true", help="touch free memory before each run, so that its host has given it"
    )
    parser.add_argument("--tiny", action="store_true", help="see that it works: the figures mean nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is 1 or more")
    return options


def _size(text: str) -> int:
    units = {"K": KIB, "M": MIB, "G": GIB}
    unit = units.get(text[-1:].upper(), 1)
    nbytes = int(float(text[:-1]) * unit) if unit > 1 else int(text)
    if nbytes < MIB:
        raise argparse.ArgumentTypeError("1M or more")
    return nbytes // MIB * MIB


def _print_machine(script: str, machine: dict[str, Any]) -> None:
    print(f"# {script}\n")
    print("; ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items() if value is not None))
    if (machine["load_average"] or 0) > 0.5:
        print("\nThis machine is busy with something else: figures are too low, and the spread is wide.")
