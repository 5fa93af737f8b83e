"""Runs pytest as `python -m pytest ARGS...` does, and is not deceived by an interpreter that dies with status 0.

    python tests/whole_run.py ARGS...

An exit status of 0 shows nothing by itself: `os._exit(0)` in a library ends the tests with it, and under Wine so does
an access violation that no frame handles. So pytest runs in a process whose status is ENDED more than pytest's own; it
has that only when pytest has written its report to the end, and the interpreter has ended as it should.
"""

from __future__ import annotations

import signal
import subprocess
import sys

ENDED = 100  # added to a status; no interpreter that dies gives one of these
STATUSES = range(ENDED, ENDED + 10)  # pytest's are 0 to 5

# As -m does, but for good: -c would look for modules in whatever is the working directory then.
PROGRAM = f"import os, sys; sys.path[0] = os.getcwd(); import pytest; sys.exit({ENDED} + pytest.main())"


def command(arguments: list[str]) -> list[str]:
    """What the interpreter is to be told."""
    return ["-c", PROGRAM, *arguments]


def judged(code: int) -> int:
    """pytest's status, of the code that the interpreter ended with; never 0 if that died before."""
    if code in STATUSES:
        return code - ENDED
    sys.stdout.flush()
    print(f"The interpreter died before pytest had ended (exit code {code}): the tests have failed.", file=sys.stderr)
    return 128 - code if code < 0 else code or 1


def main() -> int:
    with subprocess.Popen([sys.executable, *command(sys.argv[1:])]) as process:
        signal.signal(signal.SIGINT, lambda number, frame: None)  # pytest gets a terminal's Ctrl-C too, and ends
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        return judged(process.wait())


if __name__ == "__main__":
    sys.exit(main())
