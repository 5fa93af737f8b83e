"""Ctrl-C, SIGTERM and the like as an exception, so that everything is cleaned up on the way out."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SOON_S: Final = 0.01


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal raise `Stopped`: everything is cleaned up on the way out.

    On Windows Ctrl-Break does so, too. Closing the console does what Ctrl-Break does, but Windows ends the process
    without waiting for what comes of it.

    Where Python drops exceptions (in a finaliser, or a callback from C), that signal is raised once more, and soon.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    timers: list[threading.Timer] = []

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, Stopped):
            timers.append(threading.Timer(_SOON_S, _interrupt_main_thread, [what.exc_value.number]))
            timers[-1].daemon = True
            timers[-1].start()
        else:
            tell_dropped(what)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    else:
        numbers.append(signal.SIGHUP)
    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup, and shells' background jobs
    }
    tell_dropped, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = tell_dropped
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


if sys.platform == "win32":
    _interrupt_main_thread = _thread.interrupt_main
else:

    def _interrupt_main_thread(number: int) -> None:
        """Also where it waits in the kernel."""
        signal.pthread_kill(threading.main_thread().ident or 0, number)
