"""Failures, made to order: short, failing and late requests, refused system calls, full disks, limits.

Three tools: the fault points of the core, strace's injection into system calls, and real limits of the system.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import (
    BACKENDS,
    FOREVER,
    KIB,
    MIB,
    ON_WINDOWS,
    PAGE,
    assert_same_bytes,
    fault,
    not_on_windows,
    pages,
    placed,
    require,
    run_python,
    strace,
    target,
    words,
)

import gatherio as gio

Opener = Callable[..., gio.File]


# --- short transfers ---


def short(f: gio.File, value: int, copy: bool | None) -> int:
    """So much that a request which moves it is short."""
    # Through the cache, Windows moves one run of memory at a time, which is here a page.
    return value % PAGE or 512 if ON_WINDOWS and not f.direct and copy is not True else value


@pytest.mark.parametrize("value", [512, PAGE, PAGE + 512, PAGE + 100, 5000, 9999, 40_001])
@pytest.mark.parametrize("copy", [False, None, True])
def test_short_writes_are_resumed(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener, value: int, copy: bool | None
) -> None:
    """Once short, at aligned and unaligned counts: the rest goes from there, through the cache where it must."""
    with open_file(folder / "file", "w+") as f:
        with fault(queue, "SHORT", count=1, value=short(f, value, copy)):
            assert f.write_gather(pages(20), 0, copy=copy).result() == 20 * PAGE
        resumed = queue.stats()["resumed"]  # Windows takes one run of memory at a time through its cache
        assert 1 <= resumed <= 20 if ON_WINDOWS and f.direct else resumed == 1
    assert_same_bytes((folder / "file").read_bytes(), words(0, 20 * PAGE))


@pytest.mark.parametrize("value", [512, PAGE, PAGE + 100, 5000, 40_001])
@pytest.mark.parametrize("copy", [False, None, True])
def test_short_reads_are_resumed(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener, value: int, copy: bool | None
) -> None:
    (folder / "file").write_bytes(words(0, 20 * PAGE))
    memory = gio.full((40, PAGE), 0xDD, "u1")
    with open_file(folder / "file") as f:
        with fault(queue, "SHORT", count=1, value=short(f, value, copy)):
            assert f.read_scatter(list(memory[::2]), 0, copy=copy).result() == 20 * PAGE
        assert queue.stats()["resumed"] == 1
    assert_same_bytes(memory[::2], words(0, 20 * PAGE))
    assert (memory[1::2] == 0xDD).all()


def test_transfers_short_again_and_again(folder: Path, backend: str, direct: bool | None) -> None:
    """Each request moves a page and a bit at most, for as long as it takes."""
    size = 30 * PAGE + 77
    with (
        gio.CompletionQueue(backend=backend, request_size=64 * KIB) as queue,
        gio.open(folder / "file", "w+", queue=queue, direct=direct) as f,
        fault(queue, "SHORT", value=PAGE + 700),
    ):
        assert f.write_at(placed(words(0, size)), 0).result() == size
        assert_same_bytes((folder / "file").read_bytes(), words(0, size))
        array = target(size, 8)
        assert f.read_at(array, 0).result() == size
        assert_same_bytes(array, words(0, size))
        assert queue.stats()["resumed"] > 40


def test_no_progress_is_an_error_for_a_write(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    with open_file(folder / "file", "w") as f:
        for value, in_place in ((0, 0), (2 * PAGE, 2 * PAGE)):
            # What comes behind the short transfer moves nothing at all.
            with fault(queue, "SHORT", count=1, value=value) as end:
                operation = f.write_at(placed(words(0, 4 * PAGE)), 0)
                if value == 0:
                    with pytest.raises(OSError, match=f"moves nothing.*first {in_place} bytes") as caught:
                        operation.result()
                    assert caught.value.errno == errno.EIO
                else:
                    assert operation.result() == 4 * PAGE
                end()


# --- failing requests ---


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_one_failing_request_in_the_middle(disk_dir: Path, backend: str, number: int) -> None:
    """The bytes before it are in place, and the exception says how many."""
    request = 64 * KIB
    data = placed(words(0, 32 * request))
    with (
        gio.CompletionQueue(1, backend=backend, request_size=request) as queue,
        gio.open(disk_dir / "file", "w", queue=queue) as f,
    ):
        with fault(queue, "FAIL", after=5, count=1, value=number):
            operation = f.write_gather([data], PAGE)
            with pytest.raises(OSError, match="at offset 4096; the first 327680 bytes are in place") as caught:
                operation.result()
        assert caught.value.errno == number
        assert caught.value.bytes_in_place == 5 * request  # type: ignore[attr-defined]
        assert caught.value.filename == disk_dir / "file"
        assert queue.stats()["writes"] == 6  # nothing more was begun
    content = (disk_dir / "file").read_bytes()
    assert_same_bytes(content[PAGE : PAGE + 5 * request], data[: 5 * request])


def test_the_failure_nearest_to_the_start_is_told(disk_dir: Path, backend: str) -> None:
    """Several requests in flight fail: bytes in place are counted up to the first of them."""
    data = placed(words(0, 8 * PAGE))
    with (
        gio.CompletionQueue(8, backend=backend, request_size=PAGE) as queue,
        gio.open(disk_dir / "file", "w", queue=queue) as f,
        fault(queue, "FAIL", value=errno.EIO),
    ):
        failure = f.write_gather([data], 0).exception(FOREVER)
        assert isinstance(failure, OSError)
        assert failure.bytes_in_place == 0  # type: ignore[attr-defined]


TWO_CODES = """
    import ctypes, mmap, resource, signal, sys, gatherio as gio
    from oracle import PAGE, fault, placed, words
    path, backend, way, order, *numbers = sys.argv[1:]
    count, beyond, bad = map(int, numbers)
    data = placed(words(0, count * PAGE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # What begins at this offset, or behind it, fails with EFBIG ...
    resource.setrlimit(resource.RLIMIT_FSIZE, (beyond * PAGE, resource.RLIM_INFINITY))
    # ... and what comes from this page, which cannot be read, with EFAULT.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    assert libc.mprotect(data.ctypes.data + bad * PAGE, PAGE, 0) == 0
    with gio.CompletionQueue(count, backend=backend, request_size=PAGE) as queue:
        with gio.open(path, "r+", queue=queue, direct={"direct": None, "buffered": False}[way]) as f:
            # Those that are held come back last first.
            with fault(queue, "HOLD" if order == "turned" else "NONE"):
                operation = f.write_at(data, 0)
                gio.wait([operation], 0.1)
            failure = operation.exception()
            print(failure.errno, failure.bytes_in_place)
    libc.mprotect(data.ctypes.data, count * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
"""


@not_on_windows("it has no setrlimit")
@pytest.mark.parametrize("order", ["as they come", "turned"])
@pytest.mark.parametrize(
    ("beyond", "bad", "number"),
    [(3, 1, errno.EFAULT), (1, 2, errno.EFBIG)],
)
def test_of_several_codes_that_of_the_first_bytes_is_told(
    disk_dir: Path, backend: str, direct: bool | None, order: str, beyond: int, bad: int, number: int
) -> None:
    """Requests of one operation fail differently, and come back in one order and in the other."""
    (disk_dir / "file").write_bytes(bytes(4 * PAGE))
    way = "direct" if direct is None else "buffered"
    told = run_python(TWO_CODES, disk_dir / "file", backend, way, order, 4, beyond, bad)
    assert told.split() == [str(number), str(PAGE)]
    assert_same_bytes((disk_dir / "file").read_bytes()[:PAGE], words(0, PAGE))


def test_a_failed_read_says_what_it_has(disk_dir: Path, backend: str) -> None:
    (disk_dir / "file").write_bytes(words(0, 8 * PAGE))
    array = target(8 * PAGE)
    with (
        gio.CompletionQueue(1, backend=backend, request_size=PAGE) as queue,
        gio.open(disk_dir / "file", queue=queue) as f,
        fault(queue, "FAIL", after=3, count=1, value=errno.EIO),
    ):
        with pytest.raises(OSError, match=f"the first {3 * PAGE} bytes are in place"):
            f.read_at(array, 0).result()
    assert_same_bytes(array[: 3 * PAGE], words(0, 3 * PAGE))


@pytest.mark.parametrize("number", [errno.EAGAIN] if ON_WINDOWS else [errno.EINTR, errno.EAGAIN])
def test_interrupted_requests_are_started_again(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener, number: int
) -> None:
    with open_file(folder / "file", "w+") as f:
        with fault(queue, "FAIL", count=3, value=number):
            assert f.write_at(placed(words(0, PAGE)), 0).result() == PAGE
        assert queue.stats()["retried"] == 3
        with fault(queue, "FAIL", value=number):  # for ever: it gives up
            with pytest.raises(OSError) as caught:
                f.read_at(target(PAGE), 0).result()
        assert caught.value.errno == number
    assert_same_bytes((folder / "file").read_bytes(), words(0, PAGE))


# More often than it would be without a pause.
REFUSALS = 70


def test_a_moments_shortage_is_no_error(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    """The system refuses a request again and again, and then does not."""
    with open_file(folder / "file", "w+") as f:
        for offset, direction in ((0, "write"), (0, "read"), (3, "write"), (3, "read")):
            before = queue.stats()["retried"]
            array = placed(words(offset, 20_000)) if direction == "write" else target(20_000)
            with fault(queue, "FAIL", count=REFUSALS, value=errno.EAGAIN):
                call = f.write_at if direction == "write" else f.read_at
                assert call(array, offset).result(FOREVER) == 20_000
            assert queue.stats()["retried"] == before + REFUSALS
            assert_same_bytes(array, words(offset, 20_000))
    assert_same_bytes((folder / "file").read_bytes(), words(0, 20_003))


def test_who_is_refused_goes_on_though_nobody_waits(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    path = folder / "file"
    with open_file(path, "w") as f, fault(queue, "FAIL", count=5, value=errno.EAGAIN):
        done: list[gio.Operation] = []
        operation = f.write_at(placed(words(0, PAGE)), 0)
        operation.add_done_callback(done.append)
        deadline = time.monotonic() + FOREVER
        while not done:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert operation.result(0) == PAGE


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "sync"])  # which has finished when it returns
def test_who_is_refused_can_be_cancelled(disk_dir: Path, name: str) -> None:
    (disk_dir / "file").write_bytes(words(0, 4 * PAGE))
    with gio.CompletionQueue(4, backend=name) as queue, gio.open(disk_dir / "file", "r+", queue=queue) as f:
        with fault(queue, "FAIL", value=errno.EAGAIN):
            operations = [f.read_at(target(PAGE), i * PAGE) for i in range(8)]
            operations += [f.write_at(words(1, 100), 1), f.write_at(placed(words(PAGE, PAGE)), PAGE)]
            for operation in operations:
                assert operation.cancel()
                with pytest.raises(gio.CancelledError):
                    operation.result(FOREVER)
        assert f.read_at(target(PAGE), 0).result(FOREVER) == PAGE


@not_on_windows("it has no strace")
@pytest.mark.parametrize("backend", ["threads", "sync"])
@pytest.mark.parametrize(("direction", "call"), [("write", "pwritev2"), ("read", "preadv2")])
def test_a_system_call_that_is_refused_for_a_moment(
    disk_dir: Path, tmp_path: Path, direction: str, call: str, backend: str
) -> None:
    (disk_dir / "file").write_bytes(words(0, 65536) if direction == "read" else bytes(65536))
    log = tmp_path / "log"
    prefix = strace(log, "-e", f"trace={call}", "-e", f"inject={call}:error=EAGAIN:when=2..{REFUSALS + 1}")
    printed = run_python(TRANSFER, disk_dir / "file", direction, 65536, backend, under=prefix)
    assert printed.split()[0] == "65536"
    assert log.read_text().count("(INJECTED)") == REFUSALS
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 65536))


def test_a_request_that_the_kernel_dropped_is_started_again(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    """As io_uring does with what waits in the worker queue of a thread that exits."""
    with open_file(folder / "file", "w") as f, fault(queue, "FAIL", count=1, value=errno.ECANCELED):
        operation = f.write_at(placed(words(0, PAGE)), 0)
        assert operation.result() == PAGE
        assert not operation.cancelled()
    assert_same_bytes((folder / "file").read_bytes(), words(0, PAGE))


def test_a_failure_leaves_the_other_operations_alone(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    with open_file(folder / "file", "w") as f:
        with fault(queue, "FAIL", after=10, count=5, value=errno.EIO):
            operations = [f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(40)]
            failed = [i for i, operation in enumerate(operations) if operation.exception()]
    assert len(failed) == 5
    # The fault is told of requests that succeeded; what matters is that the others did.
    assert_same_bytes((folder / "file").read_bytes(), words(0, 40 * PAGE))


def test_late_completions_in_any_order(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    """Held ones come back in the reverse order, after operations that were submitted later."""
    with open_file(folder / "file", "w+") as f:
        with fault(queue, "HOLD", count=10) as let_go:
            operations = [f.write_at(placed(words(i * PAGE, PAGE)), i * PAGE) for i in range(30)]
            done = set[gio.Operation]()
            while len(done) < 20:
                done = gio.wait(operations, 0.01).done
            assert len(done) == 20
            let_go()
            assert [operation.result(FOREVER) for operation in operations] == [PAGE] * 30
    assert_same_bytes((folder / "file").read_bytes(), words(0, 30 * PAGE))


# --- io_uring refused ---

WHICH_BACKEND = """
    import sys, gatherio as gio
    from oracle import words
    with gio.CompletionQueue() as q, gio.open(sys.argv[1], "w+", queue=q) as f:
        print(q.backend, f.backend, gio.info()["backend"], gio.info()["backends"]["uring"]["available"])
        print(q.reason)
        print(gio.info()["backends"]["uring"]["reason"])
        f.write_at(words(0, 10000), 0).result()
    try:
        gio.CompletionQueue(backend="uring")
    except OSError as failure:
        print(failure.errno)
        print(failure)
"""


@not_on_windows("it has no io_uring")
@pytest.mark.parametrize(
    ("error", "cure"),
    [
        ("ENOSYS", "Linux 5.11"),
        ("EPERM", "seccomp"),
        ("EACCES", "seccomp"),
        ("ENOMEM", "memlock"),
    ],
)
@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter"])
def test_without_io_uring_it_takes_threads_and_says_why(
    disk_dir: Path, tmp_path: Path, call: str, error: str, cure: str
) -> None:
    if error == "EPERM" and Path("/proc/sys/kernel/io_uring_disabled").read_text().strip() in ("1", "2"):
        cure = "sysctl"
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error={error}")
    which, reason, told, number, raised = run_python(WHICH_BACKEND, disk_dir / "file", under=prefix).splitlines()
    assert which == "threads threads threads False"
    for text in (reason, told, raised):
        assert os.strerror(getattr(errno, error)) in text
        assert cure in text
    assert "threads" in reason
    assert int(number) == getattr(errno, error)
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 10_000))


# --- system calls that fail ---

TRANSFER = """
    import sys, gatherio as gio
    from oracle import words, placed, target
    path, direction, nbytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with gio.CompletionQueue(1, backend=(sys.argv[4:] or ["threads"])[0], request_size=16384) as q:
        with gio.open(path, "r+", queue=q) as f:
            try:
                if direction == "write":
                    print(f.write_at(placed(words(0, nbytes)), 0).result())
                else:
                    array = target(nbytes)
                    print(f.read_at(array, 0).result(), (array == words(0, nbytes)).all())
            except OSError as failure:
                print(failure.errno, failure.bytes_in_place, failure)
"""


@pytest.mark.parametrize("name", ["threads", "sync"])
@pytest.mark.parametrize(
    ("direction", "call", "error"),
    [("write", "pwritev2", error) for error in ("EIO", "ENOSPC", "EDQUOT", "EFBIG")] + [("read", "preadv2", "EIO")],
)
def test_an_error_of_the_system_call_is_raised(
    disk_dir: Path, tmp_path: Path, direction: str, call: str, error: str, name: str
) -> None:
    (disk_dir / "file").write_bytes(words(0, 65536))
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=3")
    printed = run_python(TRANSFER, disk_dir / "file", direction, 65536, name, under=prefix)
    assert printed.startswith(f"{getattr(errno, error)} 32768 ")
    assert str(disk_dir / "file") in printed and f"{direction} of 65536 bytes at offset 0" in printed
    log = (tmp_path / "log").read_text()
    assert log.count(f"{call}(") == 3 and "(INJECTED)" in log  # the fourth was never begun


SHORT_AND_INTERRUPTED = """
    import sys, gatherio as gio
    from oracle import PAGE, fault, placed, target, words
    path, backend, direction, pages = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    with gio.CompletionQueue(1, backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        with fault(queue, "SHORT", value=PAGE):
            if direction == "write":
                print(f.write_at(placed(words(0, pages * PAGE)), 0).result())
            else:
                array = target(pages * PAGE)
                print(f.read_at(array, 0).result(), (array == words(0, array.size)).all())
        print(queue.stats()["retried"], queue.stats()["resumed"])
"""


@pytest.mark.parametrize("backend", ["threads", "sync"])
@pytest.mark.parametrize(("direction", "call"), [("write", "pwritev2"), ("read", "preadv2")])
def test_interruptions_count_from_the_last_progress(
    disk_dir: Path, tmp_path: Path, backend: str, direction: str, call: str
) -> None:
    """One request is cut a hundred times, and interrupted each time: more often than it would be without progress."""
    pages = 100
    (disk_dir / "file").write_bytes(words(0, pages * PAGE) if direction == "read" else bytes(pages * PAGE))
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error=EINTR:when=1+2")
    told = run_python(SHORT_AND_INTERRUPTED, disk_dir / "file", backend, direction, pages, under=prefix)
    done, counts = told.splitlines()
    assert done == (f"{pages * PAGE} True" if direction == "read" else f"{pages * PAGE}")
    assert counts == f"{pages} {pages - 1}"
    assert (tmp_path / "log").read_text().count("(INJECTED)") == pages
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, pages * PAGE))


@pytest.mark.parametrize(("direction", "call"), [("write", "pwritev2"), ("read", "preadv2")])
@pytest.mark.parametrize("error", ["EINTR", "EAGAIN"])
def test_an_interrupted_system_call_is_made_again(
    disk_dir: Path, tmp_path: Path, direction: str, call: str, error: str
) -> None:
    (disk_dir / "file").write_bytes(words(0, 65536) if direction == "read" else bytes(65536))
    prefix = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when=1+2")
    printed = run_python(TRANSFER, disk_dir / "file", direction, 65536, under=prefix)
    assert printed.split()[0] == "65536"
    assert (tmp_path / "log").read_text().count("(INJECTED)") == 4  # each of the four requests, once
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 65536))


CUT = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdarg.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    /* Every preadv2 and pwritev2 is asked for no more than $CUT bytes: short transfers that really are short. */
    long syscall(long number, ...)
    {
        long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
        long a[6];
        struct iovec vector[1024];
        size_t left = (size_t)atol(getenv("CUT"));
        long count = 0;
        va_list arguments;
        va_start(arguments, number);
        for (int i = 0; i < 6; i++)
            a[i] = va_arg(arguments, long);
        va_end(arguments);
        if (number != SYS_preadv2 && number != SYS_pwritev2)
            return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        for (; count < (int)a[2] && left > 0; count++) {
            vector[count] = ((const struct iovec *)a[1])[count];
            if (vector[count].iov_len > left)
                vector[count].iov_len = left;
            left -= vector[count].iov_len;
        }
        return next(number, a[0], vector, count, a[3], a[4], a[5]);
    }
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that is to be loaded in front of the C library."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "cut.c").write_text(CUT)
    command = [require("gcc", "gcc"), "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "cut.so", folder / "cut.c"]
    subprocess.run(command, check=True)
    return folder / "cut.so"


@not_on_windows("it has no LD_PRELOAD")
@pytest.mark.parametrize("name", ["threads", "sync"])
@pytest.mark.parametrize(
    ("nbytes", "direct"), [(PAGE, None), (PAGE + 512, None), (17 * PAGE, None), (777, False), (5000, False), (1, False)]
)
def test_what_the_system_really_cuts_is_resumed(
    folder: Path, cut: Path, name: str, nbytes: int, direct: bool | None
) -> None:
    """The fault point SHORT tells less than has been moved. Here no more is moved than is told."""
    size = 40 * PAGE + 777 if nbytes > 1 else PAGE + 77
    script = """
        import sys, gatherio as gio
        from oracle import assert_same_bytes, pages, placed, target, words
        path, name, size, direct = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
        with gio.CompletionQueue(backend=name, request_size=1 << 16) as q:
            with gio.open(path, "w+", queue=q, direct=direct) as f:
                for start, shift in ((0, 0), (0, 3), (1234, 0)):
                    assert f.write_at(placed(words(start, size, salt=shift + 1), shift), start).result() == size
                    with open(path, "rb") as plain:
                        plain.seek(start)
                        assert_same_bytes(plain.read(), words(start, size, salt=shift + 1))
                    array = target(size + 100, shift)
                    assert f.read_at(array, start).result() == size
                    assert_same_bytes(array[:size], words(start, size, salt=shift + 1))
        with gio.CompletionQueue(backend=name) as q, gio.open(path, "w+", queue=q, direct=direct) as f:
            assert f.write_gather(pages(20), 0).result() == 20 * 4096
            with open(path, "rb") as plain:
                assert_same_bytes(plain.read(), words(0, 20 * 4096))
            print(q.stats()["resumed"])
    """
    command = ["env", f"LD_PRELOAD={cut}", f"CUT={nbytes}"]
    assert int(run_python(script, folder / "file", name, size, direct, under=command)) > 0


def test_a_read_that_the_system_cuts_to_nothing_ends_short(disk_dir: Path, tmp_path: Path) -> None:
    """A result of 0 is the end of the file, whoever says so: no endless loop."""
    (disk_dir / "file").write_bytes(words(0, 65536))
    prefix = strace(tmp_path / "log", "-e", "trace=preadv2", "-e", "inject=preadv2:retval=0:when=2")
    printed = run_python(TRANSFER, disk_dir / "file", "read", 65536, under=prefix)
    assert printed.split()[0] == "16384"


def test_a_write_that_the_system_cuts_to_nothing_fails(disk_dir: Path, tmp_path: Path) -> None:
    (disk_dir / "file").touch()
    prefix = strace(tmp_path / "log", "-e", "trace=pwritev2", "-e", "inject=pwritev2:retval=0:when=2")
    printed = run_python(TRANSFER, disk_dir / "file", "write", 65536, under=prefix)
    assert printed.startswith(f"{errno.EIO} 16384 ") and "moves nothing" in printed


def test_a_failed_fsync_is_raised(disk_dir: Path, tmp_path: Path) -> None:
    script = """
        import sys, gatherio as gio
        from oracle import words
        with gio.open(sys.argv[1], "w") as f:
            f.write_at(words(0, 5000), 0)
            try:
                f.flush()
            except OSError as failure:
                print(failure.errno, failure.filename, failure)
    """
    prefix = strace(tmp_path / "log", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO")
    printed = run_python(script, disk_dir / "file", under=prefix)
    assert printed.startswith(f"{errno.EIO} {disk_dir / 'file'} ") and "flushing" in printed


@pytest.mark.parametrize("name", ["threads", "sync"])
def test_a_failed_write_back_of_a_ragged_end_is_raised(disk_dir: Path, tmp_path: Path, name: str) -> None:
    """It went through the page cache: that it did not get to the disk shows in sync_file_range."""
    (disk_dir / "file").touch()
    prefix = strace(tmp_path / "log", "-e", "trace=sync_file_range", "-e", "inject=sync_file_range:error=EIO")
    printed = run_python(TRANSFER, disk_dir / "file", "write", MIB + 100, name, under=prefix)
    assert printed.startswith(f"{errno.EIO} {MIB} ")


def test_a_file_system_that_cannot_reserve(disk_dir: Path, tmp_path: Path) -> None:
    """fallocate is refused: nothing happens, and what does not fit anyway is refused."""
    script = """
        import os, sys, gatherio as gio
        from oracle import words
        with gio.open(sys.argv[1], "w", preallocate=1 << 20) as f:
            print(f.size)
            f.write_at(words(0, 5000), 0).result()
            try:
                f.preallocate(1 << 60)
            except OSError as failure:
                print(failure.errno)
        print(os.path.getsize(sys.argv[1]))
    """
    prefix = strace(tmp_path / "log", "-e", "trace=fallocate", "-e", "inject=fallocate:error=EOPNOTSUPP")
    printed = run_python(script, disk_dir / "file", under=prefix).split()
    assert printed == ["0", str(errno.ENOSPC), "5000"]
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 5000))


@pytest.mark.parametrize("error", ["EINVAL", "EOPNOTSUPP"])
def test_a_file_system_without_direct_io(disk_dir: Path, tmp_path: Path, error: str) -> None:
    """Opening with O_DIRECT (the second open of the file) is refused: buffered by default, an error if asked for."""
    script = """
        import sys, gatherio as gio
        from oracle import words
        path = sys.argv[1]
        with gio.open(path, "r+") as f:
            print(f.direct, f.reason)
            f.write_at(words(0, 5000), 0).result()
        try:
            gio.open(path, "w", direct=True)
        except OSError as failure:
            print(failure.errno, failure)
    """
    path = disk_dir / "file"
    path.touch()
    # The names that the second open goes by; the first one is left alone.
    names = [option for fd in range(3, 40) for option in ("-P", f"/proc/self/fd/{fd}")]
    prefix = strace(tmp_path / "log", *names, "-e", "trace=openat,open", "-e", f"inject=openat,open:error={error}")
    first, second = run_python(script, path, under=prefix).splitlines()
    number = getattr(errno, error)
    assert first.startswith("False") and os.strerror(number) in first
    assert second.startswith(f"{number} ")
    assert_same_bytes(path.read_bytes(), words(0, 5000))  # mode "w" was refused: still whole


# --- limits of the system ---


@not_on_windows("it has no setrlimit")
def test_a_limit_on_the_file_size(disk_dir: Path, backend: str, direct: bool | None) -> None:
    """RLIMIT_FSIZE cuts the request that crosses it, to an unaligned length: then there is no more progress."""
    script = """
        import os, resource, signal, sys, gatherio as gio
        from oracle import words, placed
        path, backend, direct = sys.argv[1], sys.argv[2], {"None": None, "False": False}[sys.argv[3]]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with gio.CompletionQueue(1, backend=backend, request_size=16384) as q:
            with gio.open(path, "w", queue=q, direct=direct) as f:
                print(f.write_at(placed(words(0, 65536)), 0).result())
                try:
                    f.write_at(placed(words(65536, 131072)), 65536).result()
                except OSError as failure:
                    print(failure.bytes_in_place, failure.errno)
    """
    printed = run_python(script, disk_dir / "file", backend, direct).split()
    assert printed[0] == "65536"
    in_place = int(printed[1])
    assert 32768 <= in_place <= 100_000 - 65536
    assert int(printed[2]) in (errno.EFBIG, errno.EINVAL, errno.EIO)
    content = np.fromfile(disk_dir / "file", "u1")
    assert 65536 + in_place <= content.size <= 100_000
    assert_same_bytes(content[: 65536 + in_place], words(0, 65536 + in_place))


@not_on_windows("it has no setrlimit")
def test_no_descriptors_left(disk_dir: Path) -> None:
    """Opening fails cleanly wherever the descriptors run out: EMFILE, nothing leaked, and then it works again."""
    script = """
        import os, resource, sys, gatherio as gio
        q = gio.CompletionQueue(backend="threads")
        used = len(os.listdir("/proc/self/fd")) - 1
        for spare in range(0, 4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, 4096))
            try:
                gio.open(f"{sys.argv[1]}/{spare}", "w", queue=q).close()
                print("opened", end=" ")
            except OSError as failure:
                print(failure.errno, end=" ")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
        assert len(os.listdir("/proc/self/fd")) - 1 == used
        gio.open(f"{sys.argv[1]}/last", "w", queue=q).close()
        q.close()
    """
    printed = run_python(script, disk_dir).split()
    assert printed[0] == str(errno.EMFILE) and printed[-1] == "opened"
    assert set(printed) <= {str(errno.EMFILE), "opened"}


# --- memory whose pages are gone ---

CUT_MEMORY = """
    import os, sys
    import numpy as np
    import gatherio as gio
    from oracle import words
    folder, backend, direct = sys.argv[1], sys.argv[2], {"direct": None, "buffered": False}[sys.argv[3]]
    file, source = folder + "/file", folder + "/source"
    with open(file, "wb") as f:
        f.write(words(0, 3 << 20))
    for start in (0, 7):  # on a page, so that it can go in place; and not, so that it is staged
        with open(source, "wb") as f:
            f.write(words(0, 3 << 20))
        a = np.memmap(source, "u1", "r+", offset=start, shape=(2 << 20) + 8192)
        os.truncate(source, 20_000)
        rows = a[: 2 << 20].reshape(-1, 4096)
        with gio.CompletionQueue(backend=backend) as q, gio.open(file, "r+", queue=q, direct=direct) as f:
            for array, offset in ((a, 0), (a, 1), (a[100_000:100_100], 3), (a[50_001:90_001], 4096)):
                for call in (f.write_at, f.read_at):
                    print(start, call.__name__, array.nbytes, repr(call(array, offset).exception()))
            for copy in (None, True):
                for call in (f.write_gather, f.read_scatter):
                    segments = gio.Segments.rows(rows, np.arange(512)[::-1])
                    print(start, call.__name__, copy, repr(call(segments, 0, copy=copy).exception()))
            for call in (f.write_many, f.read_many):
                print(start, call.__name__, repr(call(list(rows[::16]), np.arange(32) * 5000).exception()))
            good = np.full(1000, 7, "u1")
            assert f.write_at(good, 11).result() == 1000  # the queue goes on
            good[...] = 0
            assert f.read_at(good, 11).result() == 1000 and (good == 7).all()
        try:
            gio.save(folder + "/saved.npy", a)
            print("saved")
        except OSError as failure:
            print(start, "save", repr(failure))
"""


@not_on_windows("it does not cut a mapped file")
@pytest.mark.parametrize("way", ["direct", "buffered"])
def test_memory_of_a_file_that_was_cut_is_an_error(folder: Path, backend: str, way: str) -> None:
    """As with write(2), wherever the memory begins: EFAULT, and not a SIGBUS."""
    lines = run_python(CUT_MEMORY, folder, backend, way).splitlines()
    assert len(lines) == 2 * (8 + 4 + 2 + 1)
    for line in lines:
        assert f"OSError({errno.EFAULT}, " in line, line


STAGED = """
    import sys
    import numpy as np
    import gatherio as gio
    from oracle import assert_same_bytes, words
    path, which = sys.argv[1:]
    expected = words(0, 3 << 20)
    if which == "mapped":
        with open(path + ".source", "wb") as f:
            f.write(bytes(5) + expected.tobytes())
        a = np.memmap(path + ".source", "u1", "r+", offset=5)
    else:
        a = np.empty(len(expected) + 5, "u1")[5:]  # an odd address, so that it is staged
        a[...] = expected
    with gio.CompletionQueue() as q, gio.open(path, "w+", queue=q) as f:
        assert f.write_at(a, 0).result() == a.nbytes
        a[...] = 0
        assert f.read_at(a, 0).result() == a.nbytes
        assert_same_bytes(a, expected)
        rows = np.arange(len(a) // 4096)[::-1]
        assert f.write_gather(gio.Segments.rows(a.reshape(-1, 4096), rows), 0, copy=True).result() == a.nbytes
        assert_same_bytes(np.fromfile(path, "u1").reshape(-1, 4096)[::-1], expected.reshape(-1, 4096))
        assert q.stats()["staged"] > 0
"""


@pytest.mark.parametrize("which", ["mapped", "own"])
def test_the_kernel_copies_only_where_memory_may_be_a_files(disk_dir: Path, tmp_path: Path, which: str) -> None:
    calls = "process_vm_readv,process_vm_writev"
    run_python(STAGED, disk_dir / "file", which, under=strace(tmp_path / "log", "-e", f"trace={calls}"))
    counted = (tmp_path / "log").read_text().count("process_vm_")
    # 768 rows, 64 of them with one call; and once it is tried.
    assert counted == 0 if which == "own" else 3 <= counted < 40


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_where_the_kernel_may_not_copy_we_do(disk_dir: Path, tmp_path: Path, error: str) -> None:
    """As in a sandbox, which knows these calls as a debugger's. They are tried once."""
    calls = "process_vm_readv,process_vm_writev"
    prefix = strace(tmp_path / "log", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}")
    run_python(STAGED, disk_dir / "file", "mapped", under=prefix)
    assert (tmp_path / "log").read_text().count("(INJECTED)") == 1
