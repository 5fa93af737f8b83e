"""Builds gatherio._gatherio, the compiled half of the package, with cffi.

Two decisions are made here and nowhere else. What Python sees of the C is the marked region of
csrc/gatherio.h, so the contract is written once. Which files make up the core depends on the operating
system, so that the C itself needs no #if for it.

cffi asks for the limited API by itself, and drops it where there is none (free-threaded CPython).
"""

import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent

SHARED = ["segments.c", "plan.c", "order.c", "operation.c", "request.c", "schedule.c", "refused.c", "wait.c", "queue.c"]
SHARED += ["staging.c", "registered.c", "file.c", "ranges.c", "locks.c"]
SHARED += ["workers.c", "backend_sync.c"]
SYSTEMS = {
    "linux": [
        *("backend_uring.c", "backend_threads.c", "os_linux.c", "device_linux.c"),
        *("copy_linux.c", "locks_linux.c", "mapping_linux.c"),
    ],
    "win32": ["backend_iocp.c", "os_windows.c", "copy_windows.c", "locks_windows.c", "mapping_windows.c"],
}
LIBRARIES = {"linux": [], "win32": ["advapi32"]}  # advapi32: privileges, owners and rights

# Only the module's entry point is exported: nothing here can clash with another library's names.
# What a debugger would want is two thirds of the module, and nobody debugs a wheel.
GCC = ["-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
MSVC = ["/std:c11", "/O2", "/W3"]


def sources(platform: str = sys.platform) -> list[str]:
    """The files of csrc/ that are the core on a system."""
    if platform not in SYSTEMS:
        raise SystemExit(f"gatherio can be built on Linux and on Windows; this is {platform}")
    return SHARED + SYSTEMS[platform]


def libraries(platform: str = sys.platform) -> list[str]:
    """The system's libraries that they need."""
    return LIBRARIES[platform]


def cdef_region(header: str) -> str:
    """The lines between the two markers; each has to be there exactly once, and in this order."""
    lines = header.splitlines()
    begin, end = (
        [number for number, line in enumerate(lines) if marker in line]
        for marker in ("/* cdef begin */", "/* cdef end */")
    )
    if len(begin) != 1 or len(end) != 1 or begin > end:
        raise SystemExit("csrc/gatherio.h: one line with /* cdef begin */ and below it one with /* cdef end */")
    return "\n".join(lines[begin[0] + 1 : end[0]])


def builder(platform: str = sys.platform) -> FFI:
    """Describes the module for a system, this one or another that it is cross-compiled for."""
    windows = platform == "win32"
    made = FFI()
    made.cdef(cdef_region((ROOT / "csrc" / "gatherio.h").read_text(encoding="utf-8")))
    made.set_source(
        "gatherio._gatherio",
        '#include "gatherio.h"',
        sources=[f"csrc/{name}" for name in sources(platform)],
        # Any header may change any file.
        depends=[f"csrc/{path.name}" for path in sorted((ROOT / "csrc").glob("*.h"))],
        include_dirs=["csrc"],
        libraries=libraries(platform),
        extra_compile_args=MSVC if windows else GCC,
        extra_link_args=[] if windows else ["-pthread"],
    )
    return made


ffibuilder = builder()
