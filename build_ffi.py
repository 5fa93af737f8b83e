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

SHARED = ["plan.c", "operation.c", "queue.c", "file.c", "locks.c", "backend_sync.c"]
LINUX = ["backend_uring.c", "backend_threads.c", "os_linux.c", "locks_linux.c", "mapping_linux.c"]


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


if not sys.platform.startswith("linux"):
    raise SystemExit(f"gatherio can only be built on Linux as yet; this is {sys.platform}")

ffibuilder = FFI()
ffibuilder.cdef(cdef_region((ROOT / "csrc" / "gatherio.h").read_text(encoding="utf-8")))
ffibuilder.set_source(
    "gatherio._gatherio",
    '#include "gatherio.h"',
    sources=[f"csrc/{name}" for name in SHARED + LINUX],
    # Any header may change any file.
    depends=[f"csrc/{path.name}" for path in sorted((ROOT / "csrc").glob("*.h"))],
    include_dirs=["csrc"],
    # Only the module's entry point is exported: nothing here can clash with another library's names.
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)
