"""What the tests compare gatherio with, and how they reach rare states.

The oracle is plain: bytes made here, and files read by the built-in `open`. The data describes itself, so that
a wrong byte says where it came from: each 8-byte word holds its own file offset, with a `salt` in the top 16
bits that tells one writing from another.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_run import ENDED

import gatherio as gio
from gatherio._memory.pages import PAGE_SIZE
from gatherio._native import lib

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = PAGE_SIZE
FOREVER = 60.0  # seconds: for waits that end at once unless something is broken

Array = np.ndarray[Any, Any]

# --- systems ---

ON_WINDOWS = sys.platform == "win32"
ON_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
BACKENDS = ["iocp", "sync"] if ON_WINDOWS else ["uring", "threads", "sync"]
BEST_BACKEND = BACKENDS[0]


def not_on_windows(reason: str) -> pytest.MarkDecorator:
    """A mark for tests of what Windows does not have."""
    return pytest.mark.skipif(ON_WINDOWS, reason=f"not on Windows: {reason}")


def not_under_wine(reason: str) -> pytest.MarkDecorator:
    """A mark for tests of what Windows has and Wine lacks."""
    return pytest.mark.skipif(ON_WINE, reason=f"not under Wine: {reason}")


def skip_on_windows(reason: str) -> None:
    """The same in the middle of a test or a fixture."""
    if ON_WINDOWS:
        pytest.skip(f"not on Windows: {reason}")


def skip_under_wine(reason: str) -> None:
    if ON_WINE:
        pytest.skip(f"not under Wine: {reason}")


def press_ctrl_c() -> None:
    """What Ctrl-C does to this process, from any thread."""
    if ON_WINDOWS:
        signal.raise_signal(signal.SIGINT)  # os.kill would end the process
    else:
        os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def fifo(folder: Path) -> Iterator[str]:
    """The path of a pipe whose other end nobody has opened: in the folder, or where Windows has its pipes."""
    if sys.platform != "win32":
        os.mkfifo(folder / "fifo")
        yield str(folder / "fifo")
        return
    import _winapi

    name = rf"\\.\pipe\gatherio-{os.getpid()}"
    both_ways, instances = 3, 4  # each is opened once
    pipes = [_winapi.CreateNamedPipe(name, both_ways, 0, instances, PAGE, PAGE, 0, 0) for _ in range(instances)]
    try:
        yield name
    finally:
        for pipe in pipes:
            _winapi.CloseHandle(pipe)


def needs_root(what: str) -> pytest.MarkDecorator:
    """A mark for tests of what Linux lets only root do."""
    return pytest.mark.skipif(not ON_WINDOWS and os.geteuid() != 0, reason=f"{what} needs root")


def needs_memlock(nbytes: int) -> pytest.MarkDecorator:
    """A mark for tests that lock so much memory: but for root, all of a user's programs together may lock little."""
    limit = None
    if sys.platform != "win32" and os.geteuid() != 0:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    too_little = limit is not None and 0 <= limit < nbytes
    return pytest.mark.skipif(
        too_little, reason=f"needs {nbytes // MIB} MiB of locked memory, of {limit or 0} bytes: ulimit -l, or root"
    )


@contextlib.contextmanager
def heard(name: str) -> Iterator[None]:
    """The signal reaches programs that are started meanwhile, though this one was started with nohup and ignores it."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


def handle_mode(descriptor: int) -> int:
    """How Windows' handle of a descriptor was opened: the FileModeInformation."""
    assert sys.platform == "win32"
    import msvcrt

    mode, status = ctypes.c_uint32(), (ctypes.c_size_t * 2)()
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
    assert ctypes.WinDLL("ntdll").NtQueryInformationFile(handle, status, ctypes.byref(mode), 4, 16) == 0
    return mode.value


# --- data ---


def words(offset: int, nbytes: int, salt: int = 0) -> Array:
    """The bytes that belong at [offset, offset + nbytes) of a file, as uint8."""
    first, last = offset // 8, (offset + nbytes + 7) // 8
    return (np.arange(first, last, dtype="<u8") * 8 + (salt << 48)).view("u1")[offset % 8 : offset % 8 + nbytes]


def placed(data: Array | bytes, shift: int = 0) -> Array:
    """A copy of `data` that starts `shift` bytes behind a page boundary, between bytes that are no data."""
    source = np.frombuffer(data, "u1") if isinstance(data, bytes) else data
    room = gio.full(shift + source.size + PAGE, 0xEE, "u1")
    target = room[shift : shift + source.size]
    target[...] = source
    return target


def target(nbytes: int, shift: int = 0) -> Array:
    """Memory to read into, full of bytes that no file of these tests begins a word with."""
    return gio.full(shift + nbytes + PAGE, 0xDD, "u1")[shift : shift + nbytes]


def pages(count: int, salt: int = 0) -> list[Array]:
    """Separate pages: the i-th holds what belongs at page i of a file."""
    apart = gio.empty((2 * count, PAGE), "u1")
    for i in range(count):
        apart[2 * i] = words(i * PAGE, PAGE, salt)
    return [apart[2 * i] for i in range(count)]


def assert_same_bytes(found: bytes | Array, expected: bytes | Array, start: int = 0) -> None:
    """Compare, and on a difference tell where it is and what the word there says."""
    left = np.frombuffer(found, "u1") if isinstance(found, bytes) else found.reshape(-1).view("u1")
    right = np.frombuffer(expected, "u1") if isinstance(expected, bytes) else expected.reshape(-1).view("u1")
    assert left.size == right.size, f"{left.size} bytes, expected {right.size}"
    different = np.flatnonzero(left != right)
    if different.size:
        at = int(different[0])
        begin = at - (start + at) % 8 if at >= (start + at) % 8 else at
        last = start + int(different[-1])
        pytest.fail(
            f"{different.size} bytes differ, the first at {start + at}, the last at {last}: "
            f"{left[begin : begin + 8].tobytes()!r} instead of {right[begin : begin + 8].tobytes()!r}"
        )


# --- rare states, by the fault points of the core ---

# What Windows says where Linux says this errno.
_WINDOWS_CODES = {
    errno.EIO: 1117,  # ERROR_IO_DEVICE
    errno.ENOSPC: 112,  # ERROR_DISK_FULL
    errno.EDQUOT: 1295,  # ERROR_DISK_QUOTA_EXCEEDED
    errno.EINTR: 1237,  # ERROR_RETRY
    errno.EAGAIN: 1237,
    errno.ECANCELED: 995,  # ERROR_OPERATION_ABORTED
    errno.EINVAL: 87,  # ERROR_INVALID_PARAMETER
    errno.ENOMEM: 8,  # ERROR_NOT_ENOUGH_MEMORY
    errno.EACCES: 5,  # ERROR_ACCESS_DENIED
    errno.EBADF: 6,  # ERROR_INVALID_HANDLE
    errno.EFBIG: 223,  # ERROR_FILE_TOO_LARGE
    errno.EPERM: 1314,  # ERROR_PRIVILEGE_NOT_HELD
    0: 0,
}


def native_code(number: int) -> int:
    """The system's own code for an errno."""
    return _WINDOWS_CODES[number] if ON_WINDOWS else number


def set_fault(queue: gio.CompletionQueue, kind: str, after: int = 0, count: int = 2**62, value: int = 0) -> None:
    """From the `after`-th next request on, `count` of them meet the fault NONE, SHORT, FAIL (an errno) or HOLD.

    STAGE (an errno): so many staging buffers cannot be had.
    """
    if kind in ("FAIL", "STAGE"):
        value = native_code(value)
    assert lib.gio_queue_fault(queue._native, getattr(lib, f"GIO_FAULT_{kind}"), after, count, value) == 0


@contextlib.contextmanager
def fault(
    queue: gio.CompletionQueue, kind: str, after: int = 0, count: int = 2**62, value: int = 0
) -> Iterator[Callable[[], None]]:
    """The fault inside a ``with`` block. Gives a function that ends it earlier and lets go of what is held."""
    set_fault(queue, kind, after, count, value)
    try:
        yield lambda: set_fault(queue, "NONE")
    finally:
        set_fault(queue, "NONE")


# --- other processes ---


def require(tool: str, package: str) -> str:
    """The path of a tool, or a skip that says where to get it."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"needs {tool} (Debian: {package})")
    return found


def run_python(
    script: str,
    *arguments: object,
    under: list[str] | None = None,
    code: int = 0,
    warnings: str = "error",
    timeout: float = 120,
) -> str:
    """Run a script in a fresh interpreter and return what it printed. Warnings are errors there, too.

    A script that is to end by itself (`code` 0) has to come to its last line, and the interpreter to its end: 0 may be
    the exit code of one that died.
    """
    script = textwrap.dedent(script)
    if code == 0:
        script, code = f"{script}\nimport sys; sys.exit({ENDED})\n", ENDED
    # As errors, warnings of a destructor are printed only: "Exception ignored".
    done = subprocess.run(
        [*(under or []), sys.executable, "-W", warnings, "-X", "faulthandler", "-c", script]
        + [str(argument) for argument in arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.stdout


def put_there(kind: str, at: Path) -> None:
    """Make something that is no regular file: a fifo, a socket, a folder, or (a link to) a device."""
    if kind == "fifo":
        os.mkfifo(at)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bind:
            bind.bind(str(at))
    elif kind == "folder":
        at.mkdir()
    elif kind == "device":
        at.symlink_to("/dev/zero")
    else:
        raise ValueError(kind)


def strace(log: Path, *options: str) -> list[str]:
    """A command prefix: strace of a process and all its threads, into `log`."""
    skip_on_windows("it has no strace")
    return [require("strace", "strace"), "-f", "-qq", "-s", "256", "-o", str(log), *options]


def shim(folder: Path, source: str) -> list[str]:
    """A command prefix: functions of the C library replaced by those of a C source (LD_PRELOAD)."""
    skip_on_windows("it has no LD_PRELOAD")
    library = folder / "shim.so"
    (folder / "shim.c").write_text(textwrap.dedent(source))
    command = [require("gcc", "gcc"), "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, folder / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    return [require("env", "coreutils"), f"LD_PRELOAD={library}"]
