"""Two processes work on one array in shared memory, which nobody copies. Runs on Linux and on Windows.

    python examples/shared_array.py

The first process makes the memory, puts a description of the work at its beginning (a record) and the array behind
it, and starts the second one with nothing but the memory's name. Each fills every other row; then the first one
looks at what both have done.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

import gatherio as gio

ROWS, COLUMNS = 1000, 500
ARRAY_AT = 4096  # any byte would do; before it there is room for the record


def fill(shared: gio.Mapping, first_row: int) -> None:
    """Fill every other row with its number's square root."""
    work = shared.get(0)
    array = shared.array(work["shape"], work["dtype"], offset=ARRAY_AT)
    rows = np.arange(first_row, len(array), 2)
    array[rows] = np.sqrt(rows)[:, None]


def first() -> None:
    name = f"example-{os.getpid()}"
    with gio.Mapping(None, size=ARRAY_AT + ROWS * COLUMNS * 8, name=name) as shared:
        shared.put({"shape": [ROWS, COLUMNS], "dtype": "<f8"}, 0)
        partner = subprocess.Popen([sys.executable, __file__, name])
        fill(shared, 0)
        if partner.wait() != 0:
            sys.exit("the other process has failed")
        array = shared.array((ROWS, COLUMNS), "<f8", offset=ARRAY_AT)
        expected = np.sqrt(np.arange(ROWS)).sum() * COLUMNS
        verdict = "right" if np.isclose(array.sum(), expected) else "wrong"
        print(f"two processes filled {array.nbytes} bytes, and their sum is {verdict}")


def second(name: str) -> None:
    with gio.Mapping.open(name) as shared:
        fill(shared, 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        second(sys.argv[1])
    else:
        first()
