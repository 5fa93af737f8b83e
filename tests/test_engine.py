"""The engine: what it holds while it calls the system, and what becomes of it when the system stops answering."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracle import not_on_windows, run_python, shim, strace, words

pytestmark = not_on_windows("it has no io_uring, no LD_PRELOAD and no seccomp")

# --- no system call is made under a queue's lock ---

# `before` sees each call that is made by its number.
BEFORE_SYSCALL = """
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <stdarg.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static void before(long call, const long *arguments);

    long syscall(long call, ...)
    {
        static long (*next)(long, ...);
        va_list list;
        long a[6];
        va_start(list, call);
        for (int i = 0; i < 6; i++)
            a[i] = va_arg(list, long);
        va_end(list);
        if (next == NULL)
            next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
        before(call, a);
        return next(call, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
"""

# Calls of one kind wait in front of the system until the gate is opened.
GATE = (
    BEFORE_SYSCALL
    + """
    static long closed_for = -1;
    static int arrived;

    void gate_close(long call) { __atomic_store_n(&closed_for, call, __ATOMIC_SEQ_CST); }
    void gate_open(void) { __atomic_store_n(&closed_for, -1, __ATOMIC_SEQ_CST); }
    int gate_arrived(void) { return __atomic_load_n(&arrived, __ATOMIC_SEQ_CST); }

    static void pass(long call)
    {
        if (__atomic_load_n(&closed_for, __ATOMIC_SEQ_CST) != call)
            return;
        __atomic_store_n(&arrived, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&closed_for, __ATOMIC_SEQ_CST) == call)
            poll(NULL, 0, 1);
    }

    static void before(long call, const long *arguments) { pass(call); }

    static int control(const char *name, int fd, int command, void *argument)
    {
        if (command == 36 /* F_OFD_GETLK */)
            pass(SYS_fcntl);
        return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, name))(fd, command, argument);
    }

    int fcntl(int fd, int command, ...)
    {
        va_list list;
        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        return control("fcntl", fd, command, argument);
    }

    int fcntl64(int fd, int command, ...)
    {
        va_list list;
        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        return control("fcntl64", fd, command, argument);
    }
"""
)

BESIDE = """
    import ctypes, sys, threading
    import numpy as np, gatherio as gio
    path, backend, which = sys.argv[1:4]
    gate = ctypes.CDLL(None)
    call = {"enter": 426, "register": 427, "locks": 72, "writes": 328, "reads": 327}[which]
    assert ctypes.sizeof(ctypes.c_long) == 8
    gate.gate_close.argtypes = [ctypes.c_long]
    with gio.CompletionQueue(backend=backend) as q, gio.open(path, "r+", queue=q, direct=False) as f:
        file = gio.open(path, "r+", queue=q, honor_locks=False, direct=False)
        array, other = gio.zeros(4096, "u1"), gio.zeros(4096, "u1")
        f.read_at(array, 0).result()
        gate.gate_close(call)
        step = {"register": lambda: q.register(array), "writes": lambda: f.write_at(array, 4096).result(),
                "enter": lambda: f.read_at(array, 0).result(), "reads": lambda: f.read_at(array, 0).result(),
                "locks": lambda: f.read_at(array, 0).result()}[which]
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        while not gate.gate_arrived():
            pass
        # In nobody's way: what another thread does with the same queue, and what is let go of.
        q.stats(), f.size, f.backend, q.get(0)
        gio.open(path, "r", queue=q).close()
        del other
        if which in ("register", "locks"):
            assert file.write_at(np.ones(5000, "u1"), 100).result() == 5000
        assert thread.is_alive()
        gate.gate_open()
        thread.join()
        file.close()
"""


@pytest.mark.parametrize(
    ("backend", "which"),
    [
        ("uring", "enter"),
        ("uring", "register"),
        ("uring", "locks"),
        ("threads", "locks"),
        ("sync", "locks"),
        ("sync", "writes"),
        ("sync", "reads"),
        ("threads", "writes"),
    ],
)
def test_a_system_call_that_takes_long_is_in_nobodys_way(
    disk_dir: Path, tmp_path: Path, backend: str, which: str
) -> None:
    (disk_dir / "file").write_bytes(bytes(8192))
    run_python(BESIDE, disk_dir / "file", backend, which, under=shim(tmp_path, GATE), timeout=60)


# --- io_uring_enter fails for good ---

BREAK = """
    import asyncio, ctypes, fcntl, os, struct, sys
    import numpy as np, gatherio as gio
    from oracle import assert_same_bytes, words

    def forbid():
        "A seccomp filter for all threads: io_uring_enter is refused from now on."
        libc = ctypes.CDLL(None, use_errno=True)
        program = b"".join(struct.pack("<HBBI", *step) for step in [
            (0x20, 0, 0, 0), (0x15, 0, 1, 426), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)])
        code = ctypes.create_string_buffer(program, len(program))
        filter = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(code))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.syscall(317, 1, 1, filter) == 0, ctypes.get_errno()

    def is_ring(number):
        path = f"/proc/self/fd/{number}"
        return os.path.lexists(path) and "io_uring" in os.readlink(path)

    def close_ring():
        "As os.closerange does; and another file gets the number."
        for number in range(3, 100):
            if is_ring(number):
                os.close(number)
                if taken_by == "another file":
                    others.append(number)
                    os.dup2(os.open(sys.executable, os.O_RDONLY), number)
                elif taken_by == "another ring":
                    others.append(number)
                    queue = gio.CompletionQueue(depth=7, backend="uring")
                    kept.append(queue)
                    assert is_ring(number)
                return

    path, way, taken_by, then = sys.argv[1:5]
    others, kept = [], []
    q = gio.CompletionQueue(backend="uring", request_size=1 << 20)
    f = gio.open(path, "w+", queue=q)
    data = gio.asaligned(words(0, 40 << 20))
    assert f.write_at(data, 0).result() == data.nbytes
    # More than is handed over at once.
    under_way = [f.write_at(data, 0) for _ in range(8)] + [f.read_at(gio.empty(8 << 20, "u1"), 0)]
    forbid() if way == "seccomp" else close_ring()
    if then == "result":
        outcomes = [op.exception(20) for op in under_way]
    elif then == "poll":
        while not all(op.done() for op in under_way):
            pass
        outcomes = [op.exception(0) for op in under_way]
    elif then == "get":
        found = []
        while len(found) < len(under_way):
            found += q.get(20)
        outcomes = [op.exception(0) for op in under_way]
    else:
        async def wait():
            return await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 20)
        outcomes = [None if isinstance(one, int) else one for one in asyncio.run(wait())]
    for outcome in outcomes:
        assert outcome is None or (isinstance(outcome, OSError) and "io_uring" in str(outcome)), repr(outcome)
    # What follows works, and says how.
    small = gio.asaligned(words(5, 10_000))
    assert f.write_at(small, 12_345).result(20) == small.nbytes
    again = np.empty_like(small)
    assert f.read_at(again, 12_345).result(20) == small.nbytes
    assert_same_bytes(again, small)
    with gio.open(path, "r", queue=q) as another:
        assert another.backend == "threads" and "io_uring has stopped working" in another.reason
        assert another.read_at(again, 12_345).result(20) == small.nbytes
        assert_same_bytes(again, small)
    f.close()
    q.close()
    for number in others:  # not ours to close any more
        os.fstat(number)
    for queue in kept:
        queue.close()
"""


@pytest.mark.parametrize("then", ["result", "poll", "get", "asyncio"])
@pytest.mark.parametrize(
    ("way", "taken_by"),
    [("seccomp", ""), ("closed", "nobody"), ("closed", "another file"), ("closed", "another ring")],
)
def test_a_ring_that_stops_working(disk_dir: Path, way: str, taken_by: str, then: str) -> None:
    run_python(BREAK, disk_dir / "file", way, taken_by, then, timeout=60)


LEAVE = """
    for operation in under_way:
        operation.add_done_callback(lambda operation: operation.exception())  # somebody knows
    kept = [f]
"""


def test_the_interpreter_leaves_beside_a_broken_ring(disk_dir: Path) -> None:
    run_python(
        BREAK.split("    if then ==")[0] + LEAVE, disk_dir / "file", "seccomp", "", "", timeout=60, warnings="ignore"
    )


BESIDE_CLOSE = """
    q = gio.CompletionQueue(depth=2, backend="uring", request_size=1 << 20)
    f = gio.open(sys.argv[1], "w+", queue=q)
    data = gio.asaligned(words(0, 1 << 20))
    under_way = [f.write_at(data, n << 20) for n in range(64)]
    forbid()
    q.close()
    failed = [n for n, op in enumerate(under_way) if op.exception(0) is not None]
    assert len(failed) <= 2, failed
    f.close()
    found = np.fromfile(sys.argv[1], "u1")
    for n in set(range(64)) - set(failed):
        assert_same_bytes(found[n << 20 : (n + 1) << 20], data)
"""


def test_a_ring_that_stops_working_beside_close(disk_dir: Path) -> None:
    """What waits in the backlog goes through threads, also while the queue closes; what the ring held is lost."""
    run_python(BREAK.split("    path, way")[0] + BESIDE_CLOSE, disk_dir / "file", timeout=60, warnings="ignore")


# --- completions that found no room ---

OVERFLOW = """
    import sys, threading, gatherio as gio
    from pathlib import Path
    from gatherio._native import ffi, lib
    path = sys.argv[1]
    with gio.CompletionQueue(depth=4, backend="uring", request_size=1 << 30) as q, gio.open(path, "r+", queue=q) as f:
        large, small = gio.empty(64 << 20, "u1"), gio.empty(4096, "u1")
        nothing, completion = ffi.from_buffer(small), ffi.new("gio_completion *")
        for _ in range(5):
            waiter = threading.Thread(target=f.read_at(large, 0).result)
            waiter.start()
            while waiter.is_alive():  # each of these finishes at once, and wakes the one who sleeps
                for _ in range(64):
                    lib.gio_submit_one(f._native, 0, nothing, 0, 0, 0, completion)
            waiter.join()
            ring = lib.gio_queue_poll_handle(q._native)
            lines = Path(f"/proc/self/fdinfo/{ring}").read_text().split("CqOverflowList:")
            assert "user_data" not in lines[1]
            operation = f.read_at(small, 0)
            while not operation.done():  # who only looks finds it, too
                pass
"""


def test_a_sleeper_is_woken_once(disk_dir: Path) -> None:
    (disk_dir / "file").write_bytes(bytes(64 << 20))
    run_python(OVERFLOW, disk_dir / "file", timeout=60)


def test_data_is_what_it_was(disk_dir: Path) -> None:
    """Many threads hand over at the same time: nothing is handed over twice, and nothing not at all."""
    run_python(
        """
        import sys, threading, numpy as np, gatherio as gio
        from oracle import assert_same_bytes, words
        path = sys.argv[1]
        expected = words(0, 8 << 20)
        expected.tofile(path)
        with gio.CompletionQueue(depth=16, backend="uring") as q, gio.open(path, "r+", queue=q) as f:
            def work(seed):
                places = np.random.default_rng(seed).integers(0, 2047, 400) * 4096
                arrays = [gio.empty(4096, "u1") for _ in places]
                operations = [f.read_at(a, int(p)) for a, p in zip(arrays, places)]
                for operation, array, place in zip(operations, arrays, places):
                    assert operation.result() == 4096
                    assert_same_bytes(array, expected[place : place + 4096])
                told.append(seed)
            told = []
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert sorted(told) == list(range(8))
            assert q.stats()["reads"] == 8 * 400
        """,
        disk_dir / "file",
    )


@pytest.mark.parametrize("refusals", ["2..3", "2..5", "2..20"])
def test_a_registration_that_ends_while_the_kernel_takes_nothing(disk_dir: Path, tmp_path: Path, refusals: str) -> None:
    """What names the memory as registered is not handed over yet: it goes without that."""
    (disk_dir / "file").write_bytes(words(0, 4096).tobytes())
    run_python(
        """
        import sys, gatherio as gio
        from oracle import assert_same_bytes, words
        with gio.CompletionQueue(backend="uring") as q, gio.open(sys.argv[1], "r", queue=q) as f:
            array = gio.zeros(4096, "u1")
            registration = q.register(array)
            with q.batch():
                operation = f.read_at(array, 0)
                registration.close()
            assert operation.result() == 4096
            assert_same_bytes(array, words(0, 4096))
        """,
        disk_dir / "file",
        under=strace(tmp_path / "log", "-e", f"inject=io_uring_enter:error=EAGAIN:when={refusals}"),
        timeout=60,
    )


# --- what is started is handed over ---

# Writes at the offsets 0 and 4096 wait in front of the system, each until it is let through.
TURNSTILE = (
    BEFORE_SYSCALL
    + """
    static int arrived[2], open_for[2];

    int turnstile_arrived(int which) { return __atomic_load_n(&arrived[which], __ATOMIC_SEQ_CST); }
    void turnstile_open(int which) { __atomic_store_n(&open_for[which], 1, __ATOMIC_SEQ_CST); }

    static void before(long call, const long *arguments)
    {
        if (call == SYS_pwritev2 && (arguments[3] == 0 || arguments[3] == 4096)) {
            __atomic_store_n(&arrived[arguments[3] != 0], 1, __ATOMIC_SEQ_CST);
            while (!__atomic_load_n(&open_for[arguments[3] != 0], __ATOMIC_SEQ_CST))
                poll(NULL, 0, 1);
        }
    }
"""
)

ABANDONED = """
    import ctypes, sys, threading, numpy as np, gatherio as gio
    from gatherio._native import lib
    from oracle import assert_same_bytes, words
    path = sys.argv[1]
    turnstile = ctypes.CDLL(None)

    def thread(call, *arguments):
        made = threading.Thread(target=call, args=arguments, daemon=True)
        made.start()
        return made

    data = words(0, 8192)
    q = gio.CompletionQueue(depth=2, backend="sync", request_size=4096)
    f = gio.open(path, "w+", queue=q, direct=False)
    lib.gio_queue_fault(q._native, lib.GIO_FAULT_SHORT, 1, 1, 100)
    submitter = thread(f.write_at, data, 0)  # makes the first of two requests,
    while not turnstile.turnstile_arrived(0):
        pass
    waiter = thread(lib.gio_file_drain, f._native, -1)  # and who waits the second one,
    while not turnstile.turnstile_arrived(1):
        pass
    turnstile.turnstile_open(0)
    submitter.join(20)
    assert not submitter.is_alive()
    turnstile.turnstile_open(1)  # which moves 100 bytes: the rest is to be started, and nobody else is there
    waiter.join(20)
    assert not waiter.is_alive(), "asleep, with a request in its hands"
    f.close()
    q.close()
    assert_same_bytes(np.fromfile(path, "u1"), data)
"""


def test_who_goes_to_sleep_leaves_nothing_started_behind(disk_dir: Path, tmp_path: Path) -> None:
    run_python(ABANDONED, disk_dir / "file", under=shim(tmp_path, TURNSTILE), timeout=60)


# --- what runs under our locks ---

CALLBACKS = """
    import sys, threading, gatherio as gio
    path, backend, step = sys.argv[1:4]

    def elsewhere(call):
        "What a callback may do: wait for another thread, which uses the same objects."
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), step
        seen.append(step)

    def look():
        try:
            f.size, q.stats(), q.get(0), f.preallocate(0)
            gio.open(path, "r").close()
        except ValueError:  # closed by now
            assert step == "close"

    seen = []
    q = gio.CompletionQueue(backend=backend)
    f = gio.open(path, "w+", queue=q)
    array = gio.zeros(1 << 20, "u1")
    operation = f.write_at(array, 0)
    operation.add_done_callback(lambda operation: elsewhere(look))
    if step == "another queue":
        gio.CompletionQueue(backend=backend).close()
    elif step == "default queue":
        gio.open(path, "r", tuning={"depth": 3}).close()
    else:
        {"flush": f.flush, "truncate": lambda: f.truncate(1 << 20), "close": f.close, "get": lambda: q.get(1),
         "result": operation.result, "done": operation.done}[step]()
    while not seen:
        q.get(0.01)
    f.close()
    q.close()
"""


@pytest.mark.parametrize("backend", ["uring", "threads", "sync"])
@pytest.mark.parametrize(
    "step", ["flush", "truncate", "close", "get", "result", "done", "another queue", "default queue"]
)
def test_callbacks_run_under_no_lock(disk_dir: Path, step: str, backend: str) -> None:
    run_python(CALLBACKS, disk_dir / "file", backend, step, timeout=60)


FINALISERS = """
    import sys, threading, weakref, gatherio as gio
    path, backend, step = sys.argv[1:4]

    def last_words():
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        seen.append(step)

    def look():
        gio.open(path, "r", queue=q).close()
        q.stats(), q.get(0)
        f.read_at(gio.empty(10, "u1"), 0).result()

    seen = []
    q = gio.CompletionQueue(backend=backend)
    f = gio.open(path, "w+", queue=q)
    array = gio.zeros(1 << 20, "u1")
    weakref.finalize(array, last_words)
    operation = f.write_at(array, 0)
    del array
    if step == "dropped":
        del operation
        while not seen:
            f.write_at(gio.zeros(1 << 20, "u1"), 0).result()  # each looks after what was dropped
    elif step == "get":
        while not seen:
            q.get(0.01)
    else:
        operation.result()
    assert seen
    f.close()
    q.close()
"""


@pytest.mark.parametrize("backend", ["uring", "threads", "sync"])
@pytest.mark.parametrize("step", ["result", "get", "dropped"])
def test_arrays_die_under_no_lock(disk_dir: Path, step: str, backend: str) -> None:
    run_python(FINALISERS, disk_dir / "file", backend, step, timeout=60)


CALLER = """
    import asyncio, logging, resource, sys, threading, gatherio as gio
    from oracle import set_fault
    path, backend, what = sys.argv[1:4]
    logging.getLogger("gatherio").addHandler(logging.NullHandler())
    kinds = {"cancelled": asyncio.CancelledError, "interrupt": KeyboardInterrupt, "exit": SystemExit,
             "generator": GeneratorExit, "error": ZeroDivisionError}

    def bad(operation):
        raise kinds[what]

    q = gio.CompletionQueue(backend=backend)
    f = gio.open(path, "w+", queue=q, direct=False)
    array = gio.zeros(4096, "u1")
    called = threading.Event()
    if what == "no descriptor":
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
    else:
        set_fault(q, "HOLD")  # else it has finished, perhaps, and the callback is called right here
        f.write_at(array, 0).add_done_callback(bad)
        set_fault(q, "NONE")
    for _ in range(3):
        f.write_at(array, 0).add_done_callback(lambda operation: called.set())
        assert called.wait(20), "nobody calls"
        called.clear()
    if what == "no descriptor":
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    while q._engine.inflight:
        pass
    f.close()
    q.close()
"""


@pytest.mark.parametrize("backend", ["uring", "threads"])
@pytest.mark.parametrize("what", ["cancelled", "interrupt", "exit", "generator", "error", "no descriptor"])
def test_callbacks_are_called_whatever_one_of_them_raises(disk_dir: Path, what: str, backend: str) -> None:
    run_python(CALLER, disk_dir / "file", backend, what, timeout=60)


# --- fork, copies, other threads ---


@pytest.mark.parametrize("backend", ["uring", "threads"])
def test_a_child_waits_for_no_thread_of_its_parent(disk_dir: Path, backend: str) -> None:
    run_python(
        """
        import os, sys, threading, warnings, gatherio as gio
        from gatherio._native import lib
        warnings.simplefilter("ignore", DeprecationWarning)
        q = gio.CompletionQueue(backend=sys.argv[2])
        f = gio.open(sys.argv[1], "w+", queue=q)
        lib.gio_queue_fault(q._native, lib.GIO_FAULT_HOLD, 0, 1, 0)
        operation = f.write_at(gio.zeros(4096, "u1"), 0)
        taken, go = threading.Event(), threading.Event()

        def keep():
            with f._lock:
                taken.set()
                go.wait()

        threads = [threading.Thread(target=f.flush), threading.Thread(target=keep)]  # one waits, one has the lock
        for thread in threads:
            thread.start()
        taken.wait()
        child = os.fork()
        if child == 0:
            code = 1
            for call in (f.flush, lambda: f.truncate(0), lambda: f.size, lambda: f.preallocate(5), lambda: q.get(0)):
                try:
                    call()
                except RuntimeError:
                    code = 0
                else:
                    os._exit(2)
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        lib.gio_queue_fault(q._native, lib.GIO_FAULT_NONE, 0, 0, 0)
        assert operation.result() == 4096
        go.set()
        for thread in threads:
            thread.join()
        f.close()
        q.close()
        """,
        disk_dir / "file",
        backend,
        timeout=60,
    )


# A call in which the thread waits, where another one has a mutex that it wants, until it is let through.
PATIENCE = (
    GATE
    + """
    #include <errno.h>
    #include <pthread.h>

    static __thread int patient;
    static int waits, through;

    int call_patiently(int (*keep)(void *, void *, uint64_t, uint64_t), void *queue, void *address, uint64_t nbytes)
    {
        patient = 1;
        return keep(queue, address, nbytes, (uint64_t)1 << 40);
    }

    static void *open_gate(void *unused)
    {
        poll(NULL, 0, 200);
        gate_open();
        return unused;
    }

    void gate_open_soon(void) /* by a thread that needs nothing of Python's */
    {
        pthread_t thread;
        pthread_create(&thread, NULL, open_gate, NULL);
    }

    int patience_waits(void) { return __atomic_load_n(&waits, __ATOMIC_SEQ_CST); }
    void patience_end(void) { __atomic_store_n(&through, 1, __ATOMIC_SEQ_CST); }

    int pthread_mutex_lock(pthread_mutex_t *mutex)
    {
        static int (*next)(pthread_mutex_t *);
        if (next == NULL)
            next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
        if (!patient)
            return next(mutex);
        int code = pthread_mutex_trylock(mutex);
        if (code != EBUSY)
            return code;
        patient = 0;
        __atomic_store_n(&waits, 1, __ATOMIC_SEQ_CST);
        while (!__atomic_load_n(&through, __ATOMIC_SEQ_CST))
            poll(NULL, 0, 1);
        return next(mutex);
    }
"""
)


def test_memory_that_is_being_kept_while_the_process_forks(disk_dir: Path, tmp_path: Path) -> None:
    """It is given up by the fork, whichever comes first; and new memory at its address is written itself."""
    (disk_dir / "file").write_bytes(words(0, 1 << 20).tobytes())
    run_python(
        """
        import ctypes, os, sys, threading, warnings, gatherio as gio
        from gatherio._native import ffi, lib
        from oracle import assert_same_bytes, words
        import numpy as np
        warnings.simplefilter("ignore", DeprecationWarning)
        gate = ctypes.CDLL(None)
        gate.gate_close.argtypes = [ctypes.c_long]
        nbytes = 1 << 20
        place, allocated = ffi.new("void **"), ffi.new("uint64_t *")
        assert lib.gio_pages_allocate(nbytes, 0, place, allocated) == 0
        address = int(ffi.cast("uintptr_t", place[0]))
        q = gio.CompletionQueue(backend="uring")
        f = gio.open(sys.argv[1], "r", queue=q, direct=False)

        def pointer(to):
            return ctypes.c_void_p(int(ffi.cast("uintptr_t", to)))

        def keep():
            codes.append(gate.call_patiently(
                pointer(ffi.addressof(lib, "gio_queue_keep")), pointer(q._native), pointer(place[0]),
                ctypes.c_uint64(nbytes)))

        def fork():
            child = os.fork()
            if child == 0:
                os._exit(0)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        def thread(call, *arguments):
            made = threading.Thread(target=call, args=arguments, daemon=True)
            made.start()
            return made

        codes = []
        array = gio.empty(4096, "u1")
        gate.gate_close(427)
        registers = thread(lambda: codes.append(q.register(array).close()))
        while not gate.gate_arrived():
            pass
        keeps = thread(keep)  # has noted it, and waits for the one who registers
        while not gate.patience_waits():
            pass
        gate.gate_open_soon()
        fork()  # waits for him, too
        gate.patience_end()
        keeps.join()
        registers.join()
        assert sorted(codes, key=str) == [0, 0, None], codes
        lib.gio_pages_free(allocated[0], place[0])
        gate.mmap.restype = ctypes.c_void_p
        gate.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        assert gate.mmap(address, nbytes, 3, 0x100022, -1, 0) == address  # MAP_FIXED_NOREPLACE
        new = np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), "u1")
        assert f.read_at(new, 0).result() == nbytes
        assert_same_bytes(new, words(0, nbytes))
        f.close()
        q.close()
        """,
        disk_dir / "file",
        under=shim(tmp_path, PATIENCE),
        timeout=60,
    )


# --- a shortage ---

SHORT = """
    import os, sys, gatherio as gio
    with gio.CompletionQueue(backend="uring") as q, gio.open(sys.argv[1], "w+", queue=q) as f:
        array = gio.zeros(4096, "u1")
        operation = f.write_at(array, 0)
        while sys.argv[2] == "for good":  # which counts for each thread
            try:
                operation.result(0.5)
                operation = f.write_at(array, 0)
            except gio.TimeoutError:
                print("no spinning", flush=True)
                os._exit(3)
        assert operation.result(20) == 4096
        assert f.read_at(array, 0).result(20) == 4096
        assert f.pread(array, 0) == 4096
"""


@pytest.mark.parametrize("error", ["EAGAIN", "EBUSY", "ENOMEM", "EINTR"])
@pytest.mark.parametrize("when", ["1", "2", "3", "1+2", "2+2", "1..5"])
def test_a_moment_without_memory_changes_nothing(disk_dir: Path, tmp_path: Path, error: str, when: str) -> None:
    inject = strace(
        tmp_path / "log", "-e", "trace=io_uring_enter", "-e", f"inject=io_uring_enter:error={error}:when={when}"
    )
    run_python(SHORT, disk_dir / "file", "for a moment", under=inject, timeout=60)
    assert "(INJECTED)" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("error", ["EAGAIN", "EBUSY", "ENOMEM"])
def test_who_waits_for_memory_does_not_spin(disk_dir: Path, tmp_path: Path, error: str) -> None:
    inject = strace(
        tmp_path / "log", "-e", "trace=io_uring_enter", "-e", f"inject=io_uring_enter:error={error}:when=2+"
    )
    assert "no spinning" in run_python(SHORT, disk_dir / "file", "for good", under=inject, timeout=60, code=3)
    assert 5 < (tmp_path / "log").read_text().count("(INJECTED)") < 2000
