"""A signal whose handler raises, as that of Ctrl-C does, at every place of a call where Python may look at signals.

Python runs a handler between two of its own instructions. So a trace function that raises before the n-th of them, for
every n there is, leaves out no place, and needs neither luck nor time.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from oracle import MIB, ON_WINDOWS, PAGE, not_on_windows, press_ctrl_c, run_python, shim, words
from peers import Peer
from this_process import handle_count, virtual

import gatherio as gio
from gatherio._core.engine import new_event
from gatherio._mapping import mapping
from gatherio._memory import pages
from gatherio._native import lib

NBYTES = 16 * MIB
PACKAGE = str(Path(gio.__file__).parent)
#: Windows' own come and go. Those of several places would be more.
HANDLES = 5 if ON_WINDOWS else 0
#: Python's own memory comes and goes meanwhile.
SLACK = NBYTES // 2


class Stop(BaseException):
    """What the handler raises."""


class Interruption:
    """Raises `Stop` before the n-th of this package's instructions inside its ``with`` block, if there are so many."""

    def __init__(self, n: int) -> None:
        self._left = n
        self.where = ""

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and self._counts(frame):
            if self._left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}, {frame.f_code.co_name}"
                raise Stop
            self._left -= 1
        return self._trace

    def _counts(self, frame: FrameType) -> bool:
        """Whether this instruction is one of them."""
        return True

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def interrupted(
    call: Callable[[], object], kind: type[Interruption] = Interruption
) -> Iterator[tuple[Interruption, BaseException]]:
    """Let the call be broken off at each of its instructions in turn. The exception is alive, and its traceback."""
    n = 0
    while True:
        interruption = kind(n)
        try:
            with interruption:
                call()
        except Stop as stop:
            yield interruption, stop
        if not interruption.where:
            return
        n += 1


class Books:
    """Handles and address space, as they were and as they are."""

    def __init__(self) -> None:
        gc.collect()
        self._handles, self._virtual = handle_count(), virtual()

    def _are_balanced(self) -> bool:
        return handle_count() <= self._handles + HANDLES and virtual() < self._virtual + SLACK

    def assert_balanced(self, where: str) -> None:
        if not self._are_balanced():
            gc.collect()
        assert self._are_balanced(), where


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a callback of a weak reference is told there, and changes nothing."""
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)


def balanced(call: Callable[[], object]) -> None:
    """Nothing of what the call makes stays behind, wherever it is broken off."""
    call()
    books, places = Books(), 0
    for interruption, stop in interrupted(call):
        places += 1
        stop.__traceback__ = None
        books.assert_balanced(interruption.where)
    assert places > 10


def test_an_interruption_strikes_every_instruction_once() -> None:
    """That of the test itself, which is no other than the package's."""
    code = compile("for i in range(3): seen.append(i)", f"{PACKAGE}/example.py", "exec")
    seen: list[int] = []
    runs: list[list[int]] = []
    for interruption, _ in interrupted(lambda: exec(code, {"seen": seen})):
        assert interruption.where == "example.py:1, <module>"
        runs.append(seen.copy())
        seen.clear()
    assert runs == sorted(runs) and seen == [0, 1, 2]
    assert all(prefix in runs for prefix in ([], [0], [0, 1], [0, 1, 2]))


@pytest.fixture
def path(disk_dir: Path) -> Iterator[Path]:
    (disk_dir / "file").write_bytes(words(0, NBYTES))
    yield disk_dir / "file"
    gc.collect()


@pytest.mark.parametrize("access", ["r", "r+", "c"])
def test_a_mapped_file(path: Path, access: Any) -> None:
    def use() -> None:
        with gio.Mapping(path, access) as m:
            m.array(10, "u1", 5)
            m.read(0, 10)

    balanced(use)


def test_a_file_that_grows(disk_dir: Path) -> None:
    def use() -> None:
        (disk_dir / "file").write_bytes(b"")
        gio.Mapping(disk_dir / "file", size=NBYTES).close()

    balanced(use)


def test_memory_without_a_name() -> None:
    def use() -> None:
        with gio.Mapping(None, size=NBYTES) as m:
            m.put({"a": [1, 2.5]}, 3)
            assert m.get(3) == {"a": [1, 2.5]}

    balanced(use)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["memory", "reserved", "file", "copy", "found", "found file"])
def test_names(path: Path, kind: str) -> None:
    """Though the traceback is kept, as by an interactive interpreter: nobody else waits for ever."""
    name = f"interrupted-{os.getpid()}"
    target, size = (path, None) if "file" in kind else (None, PAGE)
    first = gio.Mapping(target, size=size, name=name) if "found" in kind else None

    def use() -> None:
        if kind in ("found", "found file"):
            m = gio.Mapping.open(name)
        elif kind == "copy":
            m = gio.Mapping(None, "c", size=PAGE, name=name)
        else:
            m = gio.Mapping(target, size=size, name=name, reserve=kind == "reserved")
        with m:
            assert m.size in (size, NBYTES)

    use()
    places = 0
    with Peer() as other:
        books = Books()
        source = f"gio.Mapping({str(target) if target else None!r}, size={size}, name={name!r}).close()"
        for interruption, stop in interrupted(use):
            places += 1
            other.do(source)  # hangs if the name is locked
            stop.__traceback__ = None
            books.assert_balanced(interruption.where)
            if first is None:
                with pytest.raises(FileNotFoundError):
                    gio.Mapping.open(name)
        assert places > 100
    if first:
        first.close()


def test_closing_a_mapping_again(path: Path) -> None:
    """What a broken off close has not done the next one does."""
    name = f"interrupted-{os.getpid()}"
    made: list[gio.Mapping] = []
    gio.Mapping(path, name=name).close()
    books = Books()

    def use() -> None:
        made.append(gio.Mapping(path, name=name))
        made[0].close()

    for interruption, stop in interrupted(use):
        stop.__traceback__ = None
        for m in made:
            m.close()
        made.clear()
        books.assert_balanced(interruption.where)


@pytest.mark.parametrize("prefault", [False, True])
def test_pages(prefault: bool) -> None:
    def use() -> None:
        array = gio.empty(NBYTES, "u1", prefault=prefault)
        array[-1] = 1

    balanced(use)


def test_a_pool() -> None:
    def use() -> None:
        with gio.Pool(2, NBYTES, "u1") as pool:
            pool.release(pool.acquire())

    balanced(use)


def test_events() -> None:
    def use() -> None:
        assert new_event()[0]

    balanced(use)


# --- much memory is faulted in ---

MUCH = 512 * MIB


def _fault_in(what: str, path: Path) -> Callable[[], object]:
    if what == "array of a file":
        array = gio.Mapping(path, size=MUCH).array(MUCH, "u1")
        return lambda: gio.prefault(array)
    if what == "array":
        array = np.empty(MUCH, "u1")
        return lambda: gio.prefault(array)
    if what == "committed":
        m = gio.Mapping(None, size=MUCH, reserve=True)
        return lambda: m.commit(0, MUCH)
    makers: dict[str, Callable[[], object]] = {
        "empty": lambda: gio.empty(MUCH, "u1"),
        "zeros": lambda: gio.zeros((MUCH // 8,)),
        "full": lambda: gio.full(MUCH, 7, "u1"),
        "empty_like": lambda: gio.empty_like(np.broadcast_to(np.uint8(0), (MUCH,))),
        "pool": lambda: gio.Pool(2, MUCH // 2, "u1"),
    }
    return makers[what]


@pytest.mark.parametrize(
    "what", ["empty", "zeros", "full", "empty_like", "pool", "array", "array of a file", "committed"]
)
def test_ctrl_c_while_memory_is_faulted_in(what: str, disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered behind the part that is being faulted in, which is small, and memory that nobody has got is given
    back, though the traceback is kept."""
    (disk_dir / "file").touch()
    call = _fault_in(what, disk_dir / "file")
    parts: list[int] = []

    class Lib:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def gio_pages_prefault(self, address: object, nbytes: int) -> int:
            return self._with_ctrl_c(nbytes)

        def gio_section_commit(self, section: object, address: object, offset: int, nbytes: int) -> int:
            return self._with_ctrl_c(nbytes)

        def _with_ctrl_c(self, nbytes: int) -> int:
            parts.append(nbytes)
            press_ctrl_c()
            return 0  # which takes neither time nor memory

    gc.collect()
    before = virtual()
    with monkeypatch.context() as patched:
        patched.setattr(pages, "lib", Lib())
        patched.setattr(mapping, "lib", Lib())
        try:
            call()
        except KeyboardInterrupt:
            assert virtual() < before + 64 * MIB + (3 * MUCH if what == "committed" else 0)  # its view
        else:
            pytest.fail("nobody looked at the signal")
    assert len(parts) == 1 and parts[0] <= 256 * MIB
    del call  # and with it the array, lest the file be mapped
    gc.collect()


# Populating is broken off by a signal: four times, or for ever.
BROKEN_OFF = """
    #include <dlfcn.h>
    #include <errno.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <sys/mman.h>
    int madvise(void *address, size_t nbytes, int advice)
    {
        static int (*real)(void *, size_t, int);
        static int calls;
        if (!real)
            real = dlsym(RTLD_NEXT, "madvise");
        if (advice != 23 || !getenv("BY")) /* MADV_POPULATE_WRITE */
            return real(address, nbytes, advice);
        if (++calls > 1000)
            abort(); /* nobody looks at the signals */
        if (atoi(getenv("BY")) == SIGALRM && calls % 5 == 0)
            return real(address, nbytes, advice);
        raise(atoi(getenv("BY")));
        errno = calls % 2 ? EINTR : EAGAIN;
        return -1;
    }
"""


@not_on_windows("it has no LD_PRELOAD")
@pytest.mark.parametrize("what", ["empty", "array", "committed"])
def test_faulting_in_is_broken_off_again_and_again(what: str, tmp_path: Path) -> None:
    """A timer's signal does not keep it busy for ever, and Ctrl-C is not kept waiting."""
    script = """
        import os, signal, sys, gatherio as gio, numpy as np
        from test_pages import pages_in_memory
        ticks, nbytes = [], 1 << 24
        signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
        a, m = np.empty(nbytes, "u1"), gio.Mapping(None, size=nbytes, reserve=True)
        def commit():
            m.commit(0, nbytes)
            return m.array(nbytes, "u1")
        calls = {"empty": lambda: gio.empty(nbytes, "u1"), "array": lambda: gio.prefault(a), "committed": commit}
        do = calls[sys.argv[1]]
        os.environ["BY"] = str(int(signal.SIGALRM))
        made = do()
        assert len(ticks) >= 4 and pages_in_memory(a if made is None else made) >= nbytes // gio._memory.pages.PAGE_SIZE
        os.environ["BY"] = str(int(signal.SIGINT))
        try:
            do()
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert run_python(script, what, under=shim(tmp_path, BROKEN_OFF)) == "interrupted\n"
