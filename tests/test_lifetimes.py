"""Who may go when: references, threads, forked processes, the interpreter itself, with work in flight."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracle import (
    BACKENDS,
    FOREVER,
    MIB,
    PAGE,
    assert_same_bytes,
    fault,
    needs_root,
    not_on_windows,
    placed,
    run_python,
    target,
    words,
)
from this_process import comes_down, handle_count

import gatherio as gio
from gatherio import _native as native
from gatherio._core import file as file_module
from gatherio._mapping import sections as sections_module

Opener = Callable[..., gio.File]


# --- dropped references ---


def test_arrays_are_kept_until_the_outcome(folder: Path, queue: gio.CompletionQueue, open_file: Opener) -> None:
    """Array, list, segments: the operation keeps them, and lets go when it has finished."""
    with open_file(folder / "file", "w") as f:
        with fault(queue, "HOLD") as let_go:
            single, listed = placed(words(0, MIB)), placed(words(MIB, MIB))
            rowed = placed(words(2 * MIB, MIB)).reshape(-1, PAGE)
            seen = [weakref.ref(array) for array in (single, listed, rowed)]
            operations = [
                f.write_at(single, 0),
                f.write_gather([listed], MIB),
                f.write_gather(gio.Segments.rows(rowed, range(len(rowed))), 2 * MIB),
            ]
            del single, listed, rowed
            gc.collect()
            assert all(ref() is not None for ref in seen)
            let_go()
            gio.wait(operations)
        gc.collect()
        assert all(ref() is None for ref in seen)
    assert_same_bytes((folder / "file").read_bytes(), words(0, 3 * MIB))


def test_memory_is_not_freed_under_the_kernel(folder: Path, open_file: Opener) -> None:
    """Everything is dropped at once, and what is freed is filled with other bytes."""
    with open_file(folder / "file", "w") as f:
        for i in range(100):
            f.write_at(placed(words(i * 100_001, 100_001), i % 3), i * 100_001)
            gio.full(100_001, 0xEE, "u1")
        gc.collect()
    assert_same_bytes((folder / "file").read_bytes(), words(0, 100 * 100_001))


def test_a_dropped_read_harms_nobody(folder: Path, open_file: Opener) -> None:
    (folder / "file").write_bytes(words(0, 4 * MIB))
    with open_file(folder / "file") as f:
        for _ in range(50):
            f.read_at(gio.empty(4 * MIB, "u1"), 0)
            assert (gio.zeros(4 * MIB, "u1") == 0).all()
        array = target(4 * MIB)
        assert f.read_at(array, 0).result() == 4 * MIB
    assert_same_bytes(array, words(0, 4 * MIB))


def test_a_dropped_file_finishes_its_writes_and_warns(
    folder: Path, queue: gio.CompletionQueue, open_file: Opener
) -> None:
    """What get() has not handed out yet keeps the file open; with the last operation it goes."""
    f = open_file(folder / "file", "w", preallocate=16 * MIB)
    for i in range(8):
        f.write_at(placed(words(i * MIB, MIB)), i * MIB)
    with pytest.warns(ResourceWarning, match="unclosed file.*" + re.escape(repr(folder / "file"))):
        del f
        handed_out = 0
        while handed_out < 8:
            handed_out += len(queue.get(FOREVER))
        gc.collect()
    assert_same_bytes((folder / "file").read_bytes(), words(0, 8 * MIB))


def test_a_dropped_file_of_the_shared_queue(folder: Path, direct: bool | None) -> None:
    """Nobody asks for its operations: they are let go when others are submitted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        f = gio.open(folder / "file", "w", preallocate=16 * MIB, direct=direct)
        seen = weakref.ref(f)
        for i in range(8):
            f.write_at(placed(words(i * MIB, MIB)), i * MIB)
        del f
        deadline = time.monotonic() + FOREVER
        with gio.open(folder / "other", "w", direct=direct) as other:
            while seen() is not None and time.monotonic() < deadline:
                other.write_at(placed(words(0, MIB)), 0).result()
                gc.collect()
    assert seen() is None
    assert_same_bytes((folder / "file").read_bytes(), words(0, 8 * MIB))


def test_a_dropped_file_is_closed_even_if_warnings_are_errors(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: ignored.append(str(args.exc_value)))
    with gio.open(disk_dir / "another", "w", preallocate=MIB) as f:  # from here on there is the shared queue
        f.write_at(words(0, PAGE), 0).result()
    gc.collect()
    handles = handle_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        f = gio.open(disk_dir / "file", "w", preallocate=MIB)
        f.write_at(words(0, PAGE), 0).result()
        del f
        gc.collect()
    assert len(ignored) == 1 and "unclosed file" in ignored[0]
    assert comes_down(handle_count, handles)
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, PAGE))


def test_an_open_that_ctrl_c_breaks_off_leaves_nothing_open(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler of a signal that comes during the call is called right behind it."""

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_file_open(self, *arguments: object) -> None:
            assert native.lib.gio_file_open(*arguments) == 0
            raise KeyboardInterrupt

    with gio.CompletionQueue() as queue:
        gio.open(disk_dir / "file", "w", queue=queue).close()
        handles = handle_count()
        monkeypatch.setattr(file_module, "lib", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            gio.open(disk_dir / "file", "w", queue=queue)
        gc.collect()
        assert handle_count() == handles
        (disk_dir / "file").unlink()  # on Windows nobody may have it open


@pytest.mark.parametrize("kind", ["file", "memory", "new name", "open name"])
def test_a_mapping_that_ctrl_c_breaks_off_leaves_nothing_open(
    kind: str, disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a descriptor nor a name that is locked: all who want it would wait for this process."""

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_section_of_file(self, *arguments: object) -> None:
            assert native.lib.gio_section_of_file(*arguments) == 0
            raise KeyboardInterrupt

        def gio_section_of_memory(self, *arguments: object) -> None:
            assert native.lib.gio_section_of_memory(*arguments) == 0
            raise KeyboardInterrupt

    name = f"interrupted-{os.getpid()}"
    (disk_dir / "file").write_bytes(bytes(PAGE))
    make: dict[str, Callable[[], object]] = {
        "file": lambda: gio.Mapping(disk_dir / "file"),
        "memory": lambda: gio.Mapping(None, size=PAGE),
        "new name": lambda: gio.Mapping(None, size=PAGE, name=name),
        "open name": lambda: gio.Mapping.open(name),
    }
    with gio.Mapping(None, size=PAGE, name=name) if kind == "open name" else contextlib.nullcontext():
        handles = handle_count()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(sections_module, "lib", Interrupted())
            make[kind]()
        gc.collect()
        assert handle_count() == handles
    with pytest.raises(FileNotFoundError):
        gio.Mapping.open(name)


def test_a_file_that_ctrl_c_leaves_half_made_is_closed_in_silence(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(facts: object) -> str:
        raise KeyboardInterrupt

    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with gio.CompletionQueue() as queue:
        gio.open(disk_dir / "file", "w", queue=queue).close()
        handles = handle_count()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(file_module, "_why_direct", interrupted)
            gio.open(disk_dir / "file", "w", queue=queue)
        gc.collect()
        assert handle_count() == handles
    assert ignored == []


def test_no_function_of_pythons_stands_between_the_end_of_an_object_and_the_cores(disk_dir: Path) -> None:
    """A signal that raised in it would leave memory or a lock behind, and the exception would be dropped."""
    with gio.CompletionQueue() as queue:
        f = gio.open(disk_dir / "file", "w+", queue=queue)
        f.write_at(words(0, MIB), 0).result()
        f.close()
        mapping = gio.Mapping(disk_dir / "file")
        objects = {
            "pages": gio.zeros(MIB, "u1"),
            "file": f.__dict__.pop("_place"),
            "view": mapping._section.map(0, MIB),
        }
        mapping.close()
        objects["section"] = mapping.__dict__.pop("_section")
        if queue.backend == "uring":
            objects["registration"] = queue.register(gio.zeros(MIB, "u1"))
        called: dict[str, list[str]] = {}
        for name in list(objects):
            calls = called[name] = []
            sys.setprofile(lambda frame, event, _, calls=calls: calls.append(event) if event == "call" else None)
            del objects[name]
            sys.setprofile(None)
        assert called == {name: [] for name in called}


def test_operations_outlive_their_file(folder: Path, open_file: Opener) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        operations = [open_file(folder / str(i), "w").write_at(words(0, PAGE), 0) for i in range(20)]
        gc.collect()
        assert [operation.result() for operation in operations] == [PAGE] * 20
        del operations
        gc.collect()
    for i in range(20):
        assert_same_bytes((folder / str(i)).read_bytes(), words(0, PAGE))


def test_a_closed_file_does_not_warn(folder: Path, open_file: Opener) -> None:
    f = open_file(folder / "file", "w")
    f.close()
    del f
    with pytest.raises(FileNotFoundError):
        open_file(folder / "missing", "r")
    gc.collect()  # a warning would be an error


def test_a_dropped_queue_finishes_its_work(folder: Path, backend: str, direct: bool | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        queue = gio.CompletionQueue(2, backend=backend, request_size=64 * 1024)
        f = gio.open(folder / "file", "w", queue=queue, direct=direct)
        for i in range(8):
            f.write_at(placed(words(i * MIB, MIB)), i * MIB)
        seen = weakref.ref(queue)
        del f, queue
        deadline = time.monotonic() + FOREVER
        while seen() is not None and time.monotonic() < deadline:
            gio.CompletionQueue(backend="sync").close()  # each new queue looks after those that were dropped
            gc.collect()
        assert seen() is None
    assert_same_bytes((folder / "file").read_bytes(), words(0, 8 * MIB))


# --- threads ---


def test_submitting_in_a_thread_that_ends_at_once(folder: Path, open_file: Opener) -> None:
    """Large ragged writes, which the kernel hands to worker threads of the submitting one."""
    size = 3 * MIB + 77
    with open_file(folder / "file", "w+") as f:
        operations: list[gio.Operation] = []

        def submit(i: int) -> None:
            operations.append(f.write_at(placed(words(i * size, size), 3), i * size))

        for i in range(16):
            thread = threading.Thread(target=submit, args=(i,))
            thread.start()
            thread.join()
        assert [operation.result(FOREVER) for operation in operations] == [size] * 16
        arrays: list[np.ndarray] = [target(size, 3) for _ in range(16)]
        operations.clear()
        for i, array in enumerate(arrays):
            thread = threading.Thread(target=lambda array=array, i=i: operations.append(f.read_at(array, i * size)))
            thread.start()
            thread.join()
        assert [operation.result(FOREVER) for operation in operations] == [size] * 16
    assert_same_bytes((folder / "file").read_bytes(), words(0, 16 * size))
    for i, array in enumerate(arrays):
        assert_same_bytes(array, words(i * size, size), i * size)


def test_closing_while_others_submit(disk_dir: Path, backend: str) -> None:
    """Each submission is done in full, or refused with ValueError: nothing else, and no crash."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    surprises: list[BaseException] = []

    def work(f: gio.File, begun: threading.Event, finished: list[gio.Operation], base: int) -> None:
        try:
            while True:
                finished.append(f.write_at(words(base, 100), base))
                begun.set()
                f.size  # noqa: B018
                f.fileno()
        except ValueError:
            begun.set()
        except BaseException as surprise:
            surprises.append(surprise)
            begun.set()

    try:
        with gio.CompletionQueue(backend=backend) as queue:
            for _ in range(60):
                f = gio.open(disk_dir / "file", "w", queue=queue)
                finished: list[gio.Operation] = []
                begun = threading.Event()
                threads = [threading.Thread(target=work, args=(f, begun, finished, i * 200)) for i in range(3)]
                for thread in threads:
                    thread.start()
                begun.wait()
                f.close()
                for thread in threads:
                    thread.join()
                assert surprises == []
                assert all(operation.result(0) == 100 for operation in finished)
            assert not queue._engine.inflight
    finally:
        sys.setswitchinterval(before)


def test_two_threads_close_one_file(folder: Path, open_file: Opener) -> None:
    for _ in range(30):
        f = open_file(folder / "file", "w")
        f.write_at(placed(words(0, PAGE)), 0)
        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=lambda f=f, b=barrier: (b.wait(), f.close())) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait()
        f.close()
        for thread in threads:
            thread.join()
        assert_same_bytes((folder / "file").read_bytes(), words(0, PAGE))


# --- fork ---

FORK = """
    import faulthandler, os, sys, threading, warnings, gatherio as gio
    from oracle import MIB, PAGE, assert_same_bytes, placed, set_fault, target, words
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads: it is the point
    path, backend = sys.argv[1:]
    queue = None if backend == "default" else gio.CompletionQueue(2, backend=backend, request_size=65536)
    f = gio.open(path, "w+", queue=queue, preallocate=64 * MIB)
    queue = f._queue
    f.write_at(words(0, 8), 0).result()
    set_fault(queue, "HOLD", count=1)
    operations = [f.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(16)]
    held = [operation for operation in operations if not operation.done()]
    assert held  # of the work in flight, some is in flight for certain
    inside = threading.Event()
    waiter = threading.Thread(target=lambda: (inside.set(), operations[-1].result()))
    waiter.start()  # a thread that waits while we fork
    inside.wait()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(30, exit=True)
        array = target(PAGE)
        uses = {
            "write_at": lambda: f.write_at(array, 0),
            "read_at": lambda: f.read_at(array, 0),
            "write_gather": lambda: f.write_gather([array], 0),
            "size": lambda: f.size,
            "truncate": lambda: f.truncate(0),
            "flush": lambda: f.flush(),
            "result": lambda: held[0].result(),
            "done": lambda: held[0].done(),
            "cancel": lambda: held[0].cancel(),
            "wait": lambda: gio.wait(held),
            "get": lambda: queue.get(1),
            "open": lambda: gio.open(path, queue=queue if backend != "default" else f._queue),
        }
        for name, use in uses.items():
            try:
                use()
            except RuntimeError as failure:
                assert "fork" in str(failure), failure
            else:
                raise SystemExit(f"{name}: no RuntimeError in the child")
        # Its own work goes as in any process, on a queue of its own and on the default one.
        for own in (None, gio.CompletionQueue(backend=None if backend == "default" else backend)):
            with gio.open(path + ".child", "w+", queue=own) as g:
                g.write_at(placed(words(0, MIB)), 0).result()
                assert g.read_at(array, PAGE).result() == PAGE
                assert_same_bytes(array, words(PAGE, PAGE))
        f.close()  # closes the child's descriptors, cuts nothing
        f.close()
        queue.close()
        del f, queue, held, operations
        import gc
        gc.collect()
        print("child done", flush=True)
        sys.exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    set_fault(queue, "NONE")
    assert [operation.result() for operation in operations] == [MIB] * 16
    waiter.join()
    f.write_at(words(16 * MIB, 100), 16 * MIB).result()
    f.close()
    with open(path, "rb") as plain:
        assert_same_bytes(plain.read(), words(0, 16 * MIB + 100))
    with open(path + ".child", "rb") as plain:
        assert_same_bytes(plain.read(), words(0, MIB))
    print("parent done")
"""


@not_on_windows("it has no fork")
@pytest.mark.parametrize("name", [*BACKENDS, "default"])
def test_fork_with_work_in_flight(disk_dir: Path, name: str) -> None:
    """The child's inherited objects raise, its own work; the parent's goes on; both exit cleanly."""
    assert run_python(FORK, disk_dir / "file", name).splitlines() == ["child done", "parent done"]


@pytest.mark.parametrize("method", [pytest.param("fork", marks=not_on_windows("it has no fork")), "spawn"])
def test_a_pool_of_processes(disk_dir: Path, method: str) -> None:
    (disk_dir / "work.py").write_text("""if True:
        import warnings, gatherio as gio
        from oracle import words
        warnings.simplefilter("ignore", DeprecationWarning)

        def write(folder, i):
            with gio.open(f"{folder}/{i}", "w") as f:
                return f.write_at(words(0, 5000, i), 0).result()
    """)
    script = """
        import functools, multiprocessing, sys
        folder, method = sys.argv[1:]
        sys.path.insert(0, folder)
        import work
        work.write(folder, 0)  # the parent has its default queue before it forks
        with multiprocessing.get_context(method).Pool(4) as pool:
            print(pool.map(functools.partial(work.write, folder), range(1, 20)) == [5000] * 19)
            pool.close()
            pool.join()
        work.write(folder, 20)
    """
    assert run_python(script, disk_dir, method) == "True\n"
    for i in range(21):
        assert_same_bytes((disk_dir / str(i)).read_bytes(), words(0, 5000, i))


# --- the end of the interpreter ---

EXIT = """
    import sys, threading, warnings, gatherio as gio
    from oracle import MIB, placed, words
    warnings.simplefilter("ignore", ResourceWarning)
    path, backend, how = sys.argv[1:]
    queue = None if backend == "default" else gio.CompletionQueue(2, backend=backend, request_size=65536)
    f = gio.open(path, "w", queue=queue, preallocate=100 * MIB)
    operations = [f.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(32)]
    if how == "dropped":
        del operations, f, queue
    if how == "cycle":
        f.myself = f
        del operations, f, queue
    if how == "daemon":
        def wait():
            while True:
                gio.wait(operations)
                operations.append(f.write_at(words(0, 8), 0))
        threading.Thread(target=wait, daemon=True).start()
    if how == "get" and queue is not None:
        threading.Thread(target=lambda: [queue.get() for _ in range(10**6)], daemon=True).start()
    if how == "callback":
        for operation in operations:
            operation.add_done_callback(lambda _: None)
    if how == "exception":
        raise RuntimeError("with work in flight")
"""


@pytest.mark.parametrize("how", ["plain", "dropped", "cycle", "daemon", "get", "callback", "exception"])
@pytest.mark.parametrize("name", [*(name for name in BACKENDS if name != "sync"), "default"])
def test_exit_with_work_in_flight(disk_dir: Path, name: str, how: str) -> None:
    """The data is complete, the file cut to it, the exit code that of the script."""
    if name == "default" and how == "get":
        how = "plain"  # the shared queue hands nothing out
    run_python(EXIT, disk_dir / "file", name, how, code=1 if how == "exception" else 0)
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 32 * MIB))


DAEMONS = """
    import atexit, os, sys, threading
    os.dup2(1, 2)  # what is told on standard error becomes a part of the output
    how, folder, name = sys.argv[1:]
    at_work = threading.Event()

    def join():
        thread.join(60)
        print("alive" if thread.is_alive() else "ended")

    atexit.register(join)  # first, to be called last: gatherio has closed everything by then
    import asyncio, warnings
    import gatherio as gio
    from oracle import MIB, placed, words
    warnings.simplefilter("ignore", ResourceWarning)

    queue = None if name == "default" and how != "get" else gio.CompletionQueue(8)
    file = gio.open(folder + "/file", "w+", queue=queue)
    other = gio.open(folder + "/other", "w+", queue=queue)
    mapping = gio.Mapping(None, size=MIB)
    data = placed(words(0, 5000))

    async def wait_in_asyncio():
        while True:
            await other.write_at(data, 0)
            at_work.set()

    def submit_from_a_callback(operation):
        at_work.set()
        other.write_at(data, 0).add_done_callback(submit_from_a_callback)

    def save():
        gio.save(folder + "/saved.npy", data)

    def open_anew():
        with gio.open(folder + "/anew", "w", queue=queue) as opened:
            opened.write_at(data, 0).result()

    def make_a_queue():
        with gio.CompletionQueue(1) as made, gio.open(folder + "/anew", "w", queue=made) as opened:
            opened.write_at(data, 0).result()

    def get():
        other.write_at(data, 0)
        queue.get()

    def in_a_batch():
        with (queue or file._queue).batch():
            other.write_at(data, 0)

    steps = {
        "write": lambda: other.write_at(data, 0).result(),
        "read": lambda: other.read_at(data, 0).result(),
        "gather": lambda: other.write_gather([data], 0, copy=None).exception(),
        "many": lambda: other.write_many([data], [0]).done(),
        "wait": lambda: gio.wait([other.write_at(data, 0)]),
        "as_completed": lambda: list(gio.as_completed([other.write_at(data, 0)])),
        "size": lambda: other.size,
        "truncate": lambda: other.truncate(5000),
        "flush": lambda: other.flush(),
        "lock": lambda: other.lock(0, 10).unlock(),
        "map": lambda: mapping.write(b"data", 0),
        "asyncio": lambda: asyncio.run(wait_in_asyncio()),
        "callback": lambda: (submit_from_a_callback(None), threading.Event().wait(0.2)),
        "save": save, "open": open_anew, "queue": make_a_queue, "batch": in_a_batch, "get": get,
    }

    def work():
        while True:
            steps[how]()
            at_work.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    at_work.wait()
    operations = [file.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(16)]
"""
WORK = [
    *("write", "read", "gather", "many", "wait", "as_completed", "size", "truncate", "flush", "lock", "map"),
    *("asyncio", "callback", "save", "open", "queue", "batch", "get"),
]


@pytest.mark.parametrize(("name", "how"), [*(("own", how) for how in WORK), ("default", "write"), ("default", "open")])
def test_daemon_threads_at_work_end_in_silence(disk_dir: Path, name: str, how: str) -> None:
    """As those do that use built-in files. What was submitted before the end is there."""
    assert run_python(DAEMONS, how, disk_dir, name) == "ended\n"
    assert_same_bytes((disk_dir / "file").read_bytes(), words(0, 16 * MIB))


def test_what_is_closed_at_exit_is_an_error_to_the_main_thread(disk_dir: Path) -> None:
    script = """
        import atexit, sys, warnings

        def late():
            try:
                f.size
            except ValueError as error:
                print(error)

        atexit.register(late)
        import gatherio as gio
        warnings.simplefilter("ignore", ResourceWarning)
        f = gio.open(sys.argv[1], "w")
    """
    assert run_python(script, disk_dir / "file") == f"I/O operation on closed file {str(disk_dir / 'file')!r}\n"


def test_a_killed_process_leaves_whole_requests(disk_dir: Path) -> None:
    """os._exit: nothing is drained by us, but what was told to be done is there."""
    script = """
        import os, sys, gatherio as gio
        from oracle import MIB, placed, words
        f = gio.open(sys.argv[1], "w")
        operations = [f.write_at(placed(words(i * MIB, MIB)), i * MIB) for i in range(32)]
        for operation in operations[:16]:
            operation.result()
        os._exit(7)
    """
    run_python(script, disk_dir / "file", code=7)
    with open(disk_dir / "file", "rb") as plain:
        assert_same_bytes(plain.read(16 * MIB), words(0, 16 * MIB))


def test_unclosed_files_are_warned_of_at_exit(disk_dir: Path) -> None:
    script = """
        import os, sys, gatherio as gio
        os.dup2(1, 2)  # the warning becomes a part of the output
        f = gio.open(sys.argv[1], "w")
        f.write_at(gio.full(5000, 7, "u1"), 0)
    """
    assert "unclosed file" in run_python(script, disk_dir / "file", warnings="default")
    assert (disk_dir / "file").read_bytes() == b"\7" * 5000


def test_importing_starts_nothing() -> None:
    script = """
        import os, sys
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import asyncio, numpy
        from this_process import handle_count, thread_count
        threads, handles = thread_count(), handle_count()
        import gatherio
        libraries = 2 if sys.platform == "win32" else 0  # loaded: a handle each
        print(thread_count() == threads, handle_count() <= handles + libraries)
    """
    assert run_python(script) == "True True\n"


@not_on_windows("it has no setrlimit")
@needs_root("the limit of locked memory binds others only, but the tests of it")
def test_many_queues_do_not_run_out_of_locked_memory() -> None:
    script = """
        import resource, gatherio as gio
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
        queues = [gio.CompletionQueue() for _ in range(40)]
        print({q.backend for q in queues})
        for q in queues:
            q.close()
    """
    assert run_python(script).strip() in ("{'uring'}", "{'threads'}")
