"""`gatherio demo`: the main job in a folder, checked, and measured beside numpy."""

from __future__ import annotations

import argparse
import errno
import sys
from typing import Any, Final

from .._cli import demo_job
from .._core.queue import BACKENDS
from .._text import json_text
from .arguments import DATA, FAILED, OK, UNUSABLE, add_command, in_words, refuse, size
from .demo_job import DemoError, Facts
from .demo_report import as_dict, closing, opening
from .text import progress, say

TEXT = """\
Do gatherio's main job in a temporary folder inside DIR, and measure it beside
numpy:

  - gather thousands of separate pages from several arrays, in random order,
    into one file (write_gather);
  - scatter them into other arrays in another order (read_scatter);
  - save a large .npy file, and load it.

Everything is compared with what a plain open().read(), np.load and np.fromfile
find. No special right is needed, and nothing is left behind, not even after
Ctrl-C.
"""

_CACHE: Final = "Windows' system cache" if sys.platform == "win32" else "Cached in /proc/meminfo"
_BREAK: Final = "149 after Ctrl-Break" if sys.platform == "win32" else "143 after SIGTERM"

EPILOG = f"""\
the rows:
  write_gather          in place: pages go to the disk from where they stand
                        (copy=False)
  write_gather, copied  through a few large buffers (copy=True), which is the
                        faster way on some disks
  numpy a[i].tofile     without gatherio: copy the rows into order, write that
  read_scatter          in place, and copied: the same in the other direction
  numpy fromfile        read into a new array, copy its rows to their places
  gio.save              of a page-aligned array, as gatherio.empty makes them
  gio.save plain array  of an array as numpy makes them
  gio.load              into a new array
  gio.load out=         into an array that is there already

the columns:
  returned  writing: seconds until the call came back. What was written through
            the page cache is then in memory, not on the disk
  durable   writing: seconds until fsync has ended too, for all in the same way
  cold      reading: seconds, after the page cache was asked to drop the file
  GB/s      10^9 bytes per second, durable or cold; min-max: slowest and fastest
            round
  x numpy   so many times as fast as numpy's row of the same group; the median
            of the rounds
  own       CPU seconds of this process per GiB (2^30 bytes)
  all       the same of the whole machine: what goes through the page cache is
            written by threads of the kernel, at nobody's charge. Whatever else
            runs is in it
  cache     growth of the page cache ({_CACHE}) in MiB: memory
            taken from others. Whatever else runs is in it, too
A dash stands for what the system does not tell. In a narrow terminal some
columns are left out. --json has them all, and every round.

examples:
  gatherio demo
  gatherio demo {DATA} --size 4G
  gatherio demo {DATA} --backend {BACKENDS[1]}
  gatherio demo {DATA} --json > demo.json

exit code: 0; 1 if a comparison finds a difference or a transfer fails; 2 if the
demo cannot be run in DIR; 130 after Ctrl-C, {_BREAK}.
"""


def add(commands: Any) -> None:
    """The command, its options and its help."""
    summary = "gather, scatter, save and load, checked and measured beside numpy"
    command = add_command(commands, "demo", summary, TEXT, EPILOG)
    command.set_defaults(run=run)
    command.add_argument("directory", nargs="?", default=".", metavar="DIR", help="where (default: this folder)")
    command.add_argument(
        "--size",
        type=size,
        metavar="BYTES",
        help="data per transfer, as 512M or 2G (default: what half a minute, a tenth of the free space and "
        "an eighth of the memory allow, 1G at most); needs two and a quarter times as much room on the disk "
        "and four times as much memory",
    )
    command.add_argument(
        "--backend", choices=BACKENDS, help="what carries out transfers (default: the best that works)"
    )
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else, on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit code."""
    began = False

    def begin(facts: Facts) -> None:
        nonlocal began
        began = True
        if not arguments.json:
            say(opening(facts) + "\n")

    try:
        with progress() as step:
            result = demo_job.run(
                arguments.directory,
                size=arguments.size,
                backend=arguments.backend,
                begin=begin,
                progress=step,
            )
    except BrokenPipeError:
        raise
    except DemoError as error:
        return refuse("demo", str(error))
    except MemoryError as error:
        return refuse("demo", f"not enough memory, give a smaller --size: {error}")
    except OSError as error:
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_room:
            return refuse("demo", f"{in_words(error)}; give a smaller --size or another folder")
        return refuse("demo", in_words(error), FAILED if began else UNUSABLE)
    say(json_text(as_dict(result)) if arguments.json else closing(result))
    for check in result.checks:
        if not check.ok:
            refuse("demo", f"{check.what}: {check.difference}")
    return OK if result.ok else FAILED
