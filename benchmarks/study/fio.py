"""fio beside us: the same file, request size and depth."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gatherio import _measure
from gatherio._measure import meminfo
from gatherio.probe import KIB, Run

from .programs import ProgramError, find, output_of
from .runs import outside

How = Literal["read", "write", "randread", "randwrite"]


@dataclass(frozen=True)
class FioJob:
    """One fio job over an existing file, direct: io_uring, on Windows its own overlapped engine."""

    path: Path
    how: How
    nbytes: int
    request_size: int
    depth: int
    operations: int | None = None  # instead of the whole file once

    def run(self) -> Run:
        """Run it. Its start is not counted."""
        environment, memory = _huge_pages(self.request_size * self.depth)
        cached = _measure.cached_bytes()
        printed = output_of([*self._command(), memory], self.path.parent, environment=environment)
        job = json.loads(printed[printed.index("{") :])["jobs"][0]
        transfer = job["write" if "write" in self.how else "read"]
        after = _measure.cached_bytes()
        return outside(
            transfer["io_bytes"],
            transfer["total_ios"],
            max(transfer["runtime"], 1) / 1000,  # fio counts whole milliseconds
            (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000,
            None if cached is None or after is None else after - cached,
        )

    def _command(self) -> list[str]:
        engine = "windowsaio" if sys.platform == "win32" else "io_uring"
        command = [
            find("fio") or "",
            "--name=benchmark",
            "--output-format=json",
            f"--ioengine={engine}",
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
    size = meminfo("Hugepagesize")
    count = (meminfo("HugePages_Free") or 0) // KIB  # a count, which meminfo takes for KiB
    if count and size and (count - 1) * size >= nbytes:
        return {}, "--mem=mmaphuge"
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, "--mem=malloc"


def version(folder: Path) -> str | None:
    """What it says it is, run in a folder of ours; None if it is not installed, or does not say."""
    program = find("fio")
    try:
        printed = output_of([program, "--version"], folder) if program else ""
    except (ProgramError, OSError):
        return None
    return printed.strip() or None


def why_not(folder: Path) -> str:
    """Empty if fio works on this folder's files, directly."""
    if find("fio") is None:
        return "fio is not installed"
    probe = folder / "fio-probe.bin"
    probe.write_bytes(bytes(64 * KIB))
    try:
        FioJob(probe, "read", 64 * KIB, 64 * KIB, 1).run()
    except (ProgramError, ValueError, KeyError, OSError) as error:
        return f"fio does not work here: {error}"
    finally:
        probe.unlink()
    return ""
