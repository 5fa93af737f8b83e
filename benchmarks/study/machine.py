"""What the figures depend on: the processor, the memory, the system, the disk. What is not told is None."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from gatherio._cli.quick import facts
from gatherio._device import block_device, lines, mount_of, read
from gatherio.info import info


def machine_facts(folder: Path) -> dict[str, Any]:
    """Of the machine and the disk under a folder."""
    mount = mount_of(folder)
    return {
        "cpu": _cpu(),
        "cpus": _cpus(),
        "transparent_huge_pages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "memlock_bytes": _memlock(),
        **facts(folder),
        "mounted_from": mount.source if mount else None,
        "mount_options": mount.options if mount else None,
        "offset_alignment": info(folder)["path"]["offset_alignment"],
        **_device_facts(folder),
    }


def _cpu() -> str | None:
    for line in lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(b":")
        if key.strip() == b"model name":
            return value.strip().decode("utf-8", "replace")
    if sys.platform == "win32":
        return platform.processor() or None
    return platform.machine() or None  # elsewhere platform.processor starts a program


def _cpus() -> int | None:
    """Those that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memlock() -> int | None:
    """How much memory a process may lock; None is no limit, or unknown."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _chosen(path: Path) -> str | None:
    """What stands in brackets in a file of /sys."""
    return read(path).partition("[")[2].partition("]")[0] or None


def _device_facts(folder: Path) -> dict[str, Any]:
    device = block_device(folder)
    queue = device / "queue" if device else None
    names = ("logical_block_size", "physical_block_size", "max_segments", "max_sectors_kb", "rotational", "nr_requests")
    texts = {name: read(queue / name) if queue else "" for name in names}
    return {
        "model": (read(device / "device" / "model") or None) if device else None,
        "scheduler": _chosen(queue / "scheduler") if queue else None,
        **{name: int(text) if text.isdigit() else None for name, text in texts.items()},
    }
