"""Eight threads at everything at once: stress.py says what they do. A fixed amount of work; data are compared."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from oracle import BEST_BACKEND, ON_WINDOWS, run_python, skip_on_windows

ROUNDS = 4 if ON_WINDOWS else 16  # three to four seconds for each backend

SCRIPT = """
    import sys
    from pathlib import Path
    from stress import run
    folder, backend, rounds = sys.argv[1:]
    run(Path(folder), backend, int(rounds), threads=8)
"""


def test_eight_threads_at_everything(disk_dir: Path, backend: str) -> None:
    """In a process of their own, which a hang ends with the stack of every thread."""
    run_python(SCRIPT, disk_dir, backend, ROUNDS, timeout=270)


def test_a_registration_that_all_close_has_ended_for_each(disk_dir: Path) -> None:
    """Whoever comes back from `close` may give the memory away: the kernel does not use it any more."""
    skip_on_windows("it has no io_uring")
    script = """
        import faulthandler, sys, threading
        import gatherio as gio
        from oracle import FOREVER, PAGE
        faulthandler.dump_traceback_later(FOREVER, exit=True)
        sys.setswitchinterval(1e-6)
        queue = gio.CompletionQueue(backend="uring")
        barrier = threading.Barrier(8, timeout=FOREVER)
        early = []
        registration = None

        def close():
            global registration
            for _ in range(200):
                if barrier.wait() == 0:
                    registration = queue.register(gio.empty(4 * PAGE, "u1"))
                barrier.wait()
                registration.close()
                if not registration.closed:
                    early.append(registration)

        threads = [threading.Thread(target=close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not early, f"{len(early)} of 1600 came back too early"
        queue.close()
        faulthandler.cancel_dump_traceback_later()
    """
    run_python(script)


# Each with what the run says then. By nothing but chance would they go unnoticed: each strikes again and again.
BROKEN = {
    "a write that is another's": """
        import gatherio as gio
        write_at = gio.File.write_at
        gio.File.write_at = lambda self, array, offset, **options: write_at(self, array[::-1].copy(), offset, **options)
    """,
    "an array for all": """
        import gatherio as gio
        array = gio.empty(3 * 4096, "u1")
        gio.Pool.acquire = lambda self, timeout=None: array
        gio.Pool.release = lambda self, array: None
    """,
    "a lock that keeps nobody out": """
        import contextlib, gatherio as gio
        gio.File.lock = lambda self, offset, length, **options: contextlib.nullcontext()
    """,
    "an operation handed out twice": """
        import gatherio as gio
        get = gio.CompletionQueue.get
        gio.CompletionQueue.get = lambda self, *arguments: 2 * get(self, *arguments)
    """,
    "a callback that is not called": """
        import gatherio as gio, oracle
        oracle.FOREVER = 5.0
        gio.Operation.add_done_callback = lambda self, fn: None
    """,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_breaks_is_found(broken: str, disk_dir: Path) -> None:
    script = textwrap.dedent(BROKEN[broken]) + textwrap.dedent(SCRIPT)
    with pytest.raises(AssertionError, match="(bytes differ|counted|AssertionError|callbacks)") as caught:
        run_python(script, disk_dir, BEST_BACKEND, ROUNDS, timeout=270)
    assert "Error" in str(caught.value)
