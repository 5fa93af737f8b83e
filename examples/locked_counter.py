"""Several processes count in one file, and no step is lost. Runs on Linux and on Windows.

    python examples/locked_counter.py

Each takes an exclusive lock on the eight bytes of the counter, reads, adds one and writes. While it has the lock, the
others' locks wait; a reader who does not lock at all gets a LockedError instead of a number that is about to change.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np

import gatherio as gio

PROCESSES, STEPS = 3, 200


def count(path: str) -> None:
    number = np.zeros(1, "<i8")
    with gio.open(path, "r+", direct=False) as file:
        for _ in range(STEPS):
            with file.lock(0, number.nbytes, wait=True):
                file.read_at(number, 0).result()
                number += 1
                file.write_at(number, 0).result()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "counter")
        number = np.zeros(1, "<i8")
        with gio.open(path, "w+", direct=False) as file:
            file.write_at(number, 0).result()
            processes = [subprocess.Popen([sys.executable, __file__, path]) for _ in range(PROCESSES)]
            if any([process.wait() for process in processes]):
                sys.exit("a process has failed")
            file.read_at(number, 0).result()
        verdict = "right" if number[0] == PROCESSES * STEPS else "wrong"
        print(f"{PROCESSES} processes counted to {number[0]}, and that is {verdict}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        count(sys.argv[1])
    else:
        main()
