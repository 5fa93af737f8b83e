"""What this process has in its hands: threads, handles, memory. Imports nothing of gatherio."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ON_WINDOWS = sys.platform == "win32"


def thread_ids() -> set[int]:
    """The threads of this process, those of C included.

    One that was joined may stand there for a moment yet: the kernel wakes who joins it before it takes it off the list.
    """
    if not ON_WINDOWS:
        return set(map(int, os.listdir("/proc/self/task")))
    return _windows_thread_ids()


def thread_count() -> int:
    """How many they are."""
    return len(thread_ids())


def handle_count() -> int:
    """How many descriptors, or handles of all kinds, this process has open."""
    if not ON_WINDOWS:
        return len(os.listdir("/proc/self/fd"))
    return _windows_handle_count()


def comes_down(count: Callable[[], int], limit: int) -> bool:
    """Whether it does so within seconds: a thread that has ended takes a moment to be gone."""
    deadline = time.monotonic() + 60
    while count() > limit and time.monotonic() < deadline:
        time.sleep(0.01)
    return count() <= limit


def resident() -> int:
    """Bytes of memory that this process has in its hands."""
    if not ON_WINDOWS:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    return _windows_resident()


def peak_resident() -> int:
    """The most that it ever had."""
    if not ON_WINDOWS:
        status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss is inherited by a new process
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) << 10
    return _windows_peak_resident()


def virtual() -> int:
    """Bytes of address space that this process has taken."""
    if not ON_WINDOWS:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    return _windows_virtual()


if sys.platform == "win32":

    class _ThreadEntry(ctypes.Structure):
        """THREADENTRY32 of <tlhelp32.h>."""

        _fields_ = [
            (name, ctypes.c_uint32)
            for name in ("size", "usage", "thread", "process", "priority", "priority_change", "flags")
        ]

    def _windows_thread_ids() -> set[int]:
        kernel = ctypes.WinDLL("kernel32")
        kernel.CreateToolhelp32Snapshot.restype = ctypes.c_void_p
        snapshot = ctypes.c_void_p(kernel.CreateToolhelp32Snapshot(4, 0))  # TH32CS_SNAPTHREAD
        entry = _ThreadEntry(size=ctypes.sizeof(_ThreadEntry))
        ids, more = set(), kernel.Thread32First(snapshot, ctypes.byref(entry))
        while more:
            if entry.process == os.getpid():
                ids.add(entry.thread)
            more = kernel.Thread32Next(snapshot, ctypes.byref(entry))
        kernel.CloseHandle(snapshot)
        return ids

    def _windows_handle_count() -> int:
        """By the list of all handles of the system: of a process's own count Wine says 0."""
        query = ctypes.WinDLL("ntdll").NtQuerySystemInformation
        extended_handles, size, needed = 64, 1 << 16, ctypes.c_uint32()
        while True:
            # SYSTEM_HANDLE_INFORMATION_EX: their number, a reserved word, and five words for each
            words = (ctypes.c_size_t * (size // 8))()
            status = query(extended_handles, words, size, ctypes.byref(needed))
            if status == 0:
                return words[3 : 2 + 5 * words[0] : 5].count(os.getpid())
            assert status & 0xFFFFFFFF == 0xC0000004, hex(status)  # STATUS_INFO_LENGTH_MISMATCH
            size *= 2

    class _MemoryCounters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of <psapi.h>."""

        _fields_ = [
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("working_set", ctypes.c_size_t),
            ("quotas_and_page_file", ctypes.c_size_t * 6),
        ]

    class _Region(ctypes.Structure):
        """MEMORY_BASIC_INFORMATION of <winnt.h>."""

        _fields_ = [
            ("base", ctypes.c_size_t),
            ("allocation_base", ctypes.c_size_t),
            ("allocation_protection", ctypes.c_size_t),  # a DWORD and, on 64-bit systems, a partition
            ("nbytes", ctypes.c_size_t),
            ("state", ctypes.c_uint32),
            ("protection", ctypes.c_uint32),
            ("kind", ctypes.c_uint32),
        ]

    def _memory_counters() -> _MemoryCounters:
        counters = _MemoryCounters(size=ctypes.sizeof(_MemoryCounters))
        this_process = ctypes.c_void_p(-1)
        assert ctypes.WinDLL("psapi").GetProcessMemoryInfo(this_process, ctypes.byref(counters), counters.size)
        return counters

    def _windows_resident() -> int:
        return int(_memory_counters().working_set)

    def _windows_peak_resident() -> int:
        return int(_memory_counters().peak_working_set)

    def _windows_virtual() -> int:
        query = ctypes.WinDLL("kernel32").VirtualQuery
        query.restype = ctypes.c_size_t
        region, at, total = _Region(), 0, 0
        while query(ctypes.c_void_p(at), ctypes.byref(region), ctypes.c_size_t(ctypes.sizeof(region))):
            total += 0 if region.state == 0x10000 else region.nbytes  # MEM_FREE
            at = region.base + region.nbytes
        return total
