"""The command line: ``gatherio info``, ``demo``, ``bench`` and ``tune``; ``python -m gatherio`` is the same."""

from __future__ import annotations

import _thread
import argparse
import errno
import os
import re
import signal
import stat
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Final, NoReturn

from . import __version__
from ._demo_report import as_dict, closing, opening
from ._programs import nothing_from_here
from ._report import OutputError, complain, drop, fields, paragraph, progress, say, size_text
from ._text import json_text, shown, shown_lines
from .bench import command as bench
from .bench import tune_command as tune
from .demo import DemoError, Facts, run
from .info import info
from .queue import BACKENDS

_DATA: Final = "D:\\data" if sys.platform == "win32" else "/data"  # in the examples

# Exit codes.
OK, FAILED, UNUSABLE = 0, 1, 2
SIZE_LIMIT: Final = 2.0**63  # of files, of memory, and of what is counted in C
BY_SIGNAL: Final = 128  # and the signal's number, as shells have it

_SOON_S: Final = 0.01

EPILOG = f"""\
examples:
  gatherio info              what this machine offers
  {f"gatherio info {_DATA}":<25}  and what the file system of {_DATA} offers
  {f"gatherio demo {_DATA}":<25}  the main job in {_DATA}, measured beside numpy
  {f"gatherio tune {_DATA}":<25}  settings that suit it, used from then on
  gatherio bench --quick     what this disk gives, beside fio and numpy
  gatherio COMMAND --help    all about a command
"""

INFO_TEXT = """\
Tell what gatherio finds here: the sizes and limits of the system, every backend
with the reason why it can be had or not (and what would change that), and which
one is the default. With PATH also what its file system offers: whether
transfers go around the page cache (direct), or why they do not, and what they
must be aligned to.
"""

INFO_EPILOG = """\
examples:
  gatherio info
  gatherio info .                  the file system of this folder
  gatherio info data.npy --json    the same for machines

exit code: 0, or 2 if PATH cannot be asked about.
"""

DEMO_TEXT = """\
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

DEMO_EPILOG = f"""\
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
  gatherio demo {_DATA} --size 4G
  gatherio demo {_DATA} --backend {BACKENDS[1]}
  gatherio demo {_DATA} --json > demo.json

exit code: 0; 1 if a comparison finds a difference or a transfer fails; 2 if the
demo cannot be run in DIR; 130 after Ctrl-C, {_BREAK}.
"""


# --- arguments ---


def size(text: str) -> int:
    """Bytes from "512M", "2G", "1.5GiB" or a plain number.

    Parameters
    ----------
    text : str
        A number and a binary unit: K, M, G or T, with or without "iB".

    Raises
    ------
    argparse.ArgumentTypeError
        It is nothing of the kind.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give bytes, or a number with K, M, G or T, as in 512M")
    exponent = " KMGT".index(match[2].upper() or " ")
    value = float(match[1]) * 1024**exponent
    if value >= SIZE_LIMIT:
        raise argparse.ArgumentTypeError(f"{text!r} is more than any file holds")
    return int(value)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.color = False  # of Python 3.14: escape sequences, which `say` does not print

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help as everything else is: argparse says nothing where it cannot."""
        if message and file is sys.stdout:
            say(message.removesuffix("\n"))
        else:
            super()._print_message(shown_lines(message), file)

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong with the arguments, in a line."""
        super().error(shown(message))


def parser() -> argparse.ArgumentParser:
    """The command line's grammar and its help."""
    top = _Parser(
        prog="gatherio",
        description="Feeds numpy arrays to disk and back at the speed of the disk.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gatherio {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    _add_info(commands)
    _add_demo(commands)
    _add_bench(commands)
    _add_tune(commands)
    return top


def _add_command(
    commands: Any, name: str, summary: str, text: str, epilog: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def _add_info(commands: Any) -> None:
    summary = "what this system, and a file system, have to offer"
    command = _add_command(commands, "info", summary, INFO_TEXT, INFO_EPILOG, _run_info)
    command.add_argument("path", nargs="?", metavar="PATH", help="a file, or a folder in which one can be made")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_demo(commands: Any) -> None:
    summary = "gather, scatter, save and load, checked and measured beside numpy"
    command = _add_command(commands, "demo", summary, DEMO_TEXT, DEMO_EPILOG, _run_demo)
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


def _add_bench(commands: Any) -> None:
    summary = "the study: this disk at every size and depth, beside fio, numpy and others"
    command = _add_command(commands, "bench", summary, bench.TEXT, bench.EPILOG, bench.run_bench)
    bench.add_options(command, size)


def _add_tune(commands: Any) -> None:
    summary = "measure a device for a minute, and store the settings that suit it"
    command = _add_command(commands, "tune", summary, tune.TEXT, tune.EPILOG, tune.run_tune)
    tune.add_options(command, size)


# --- info ---


def _run_info(arguments: argparse.Namespace) -> int:
    path: str | None = arguments.path
    try:
        if path is not None:
            _check_kind(path)
        found = info(path)
    except (OSError, ValueError) as error:
        return _refuse("info", _in_words(error))
    say(json_text(found) if arguments.json else _info_text(found))
    return OK


def _check_kind(path: str) -> None:
    """Raise ValueError for what would not answer: opening a pipe waits for somebody at the other end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
        raise ValueError(f"{path!r} is neither a file nor a folder")


def _info_text(found: dict[str, Any]) -> str:
    parts = [
        f"gatherio {found['version']}, {found['python']}, {found['system']}",
        "Memory and requests\n"
        + fields(
            [
                ("page", size_text(found["page_size"])),
                ("huge page", size_text(found["huge_page_size"]) if found["huge_page_size"] else "none"),
                ("mappings", f"start at multiples of {size_text(found['allocation_granularity'])}"),
                (
                    "one request",
                    f"at most {found['max_segments']:,} segments and {found['max_request_bytes']:,} bytes",
                ),
            ]
        ),
        "Backends\n" + fields(_backend_rows(found)) + "\n" + paragraph(f"Default: {found['reason']}", "  "),
        "Tuning\n" + fields([("file", _tuning_text(found["tuning"]))]),
    ]
    if "path" in found:
        parts.append(_path_text(found["path"]))
    return "\n\n".join(parts)


def _backend_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, backend in found["backends"].items():
        default = " (default)" if name == found["backend"] else ""  # the reason says if it cannot be had
        rows.append((name + default, backend["reason"]))
    return rows


def _tuning_text(tuning: dict[str, Any]) -> str:
    if tuning["problem"]:
        return str(tuning["problem"])
    state = "not there: the defaults are used"
    if tuning["exists"]:
        state = f"settings for {tuning['devices']} device{'' if tuning['devices'] == 1 else 's'}"
    return f"{tuning['file']} ({state})"


def _path_text(path: dict[str, Any]) -> str:
    rows = [
        ("file system", path["file_system"]),
        ("free", "unknown" if path["free_bytes"] is None else size_text(path["free_bytes"])),
        ("transfers", "direct" if path["direct"] else "buffered"),
        ("reason", path["reason"]),
        ("tuning", path["tuning"]["reason"] if path["tuning"] else "none is stored; gatherio tune measures the device"),
        ("alignment", f"offsets {path['offset_alignment']} bytes, memory {path['memory_alignment']} bytes"),
    ]
    return f"{shown(path['path'])}\n{fields(rows)}"


# --- demo ---


def _run_demo(arguments: argparse.Namespace) -> int:
    began = False

    def begin(facts: Facts) -> None:
        nonlocal began
        began = True
        if not arguments.json:
            say(opening(facts) + "\n")

    try:
        with progress() as step:
            result = run(
                arguments.directory,
                size=arguments.size,
                backend=arguments.backend,
                begin=begin,
                progress=step,
            )
    except BrokenPipeError:
        raise
    except DemoError as error:
        return _refuse("demo", str(error))
    except MemoryError as error:
        return _refuse("demo", f"not enough memory, give a smaller --size: {error}")
    except OSError as error:
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_room:
            return _refuse("demo", f"{_in_words(error)}; give a smaller --size or another folder")
        return _refuse("demo", _in_words(error), FAILED if began else UNUSABLE)
    say(json_text(as_dict(result)) if arguments.json else closing(result))
    for check in result.checks:
        if not check.ok:
            _refuse("demo", f"{check.what}: {check.difference}")
    return OK if result.ok else FAILED


# --- ends ---


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


def _in_words(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _refuse(command: str, text: str, code: int = UNUSABLE) -> int:
    complain(f"gatherio {command}: {text}" if command else f"gatherio: {text}")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        What stands behind the program's name; None takes it from `sys.argv`.

    Returns
    -------
    int
        The exit code.
    """
    top = parser()
    command = ""
    try:
        arguments = top.parse_args(argv)
        command = arguments.command or ""
        return _run(top, arguments)
    except BrokenPipeError:  # whoever reads our output, as in "gatherio info | head -1", has seen enough
        drop(sys.stdout)
        return FAILED
    except OutputError as error:
        drop(sys.stdout)
        return _refuse(command, f"standard output cannot be written: {error}", FAILED)


def _run(top: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.command is None:
        top.print_help()
        return OK
    try:
        with signals_raise(), warnings.catch_warnings(), nothing_from_here():
            warnings.showwarning = partial(_show_warning, arguments.command)
            code: int = arguments.run(arguments)
            return code
    except Stopped as stopped:
        name = signal.Signals(stopped.number).name
        return _refuse(arguments.command, f"stopped by {name}; cleaned up", BY_SIGNAL + stopped.number)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        return _refuse(arguments.command, f"not enough memory, give a smaller --size: {error}", FAILED)
    except OSError as error:
        return _refuse(arguments.command, _in_words(error), FAILED)
    except (OutputError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # a fault of ours: told as Python does, but for what a terminal acts on
        complain("Traceback (most recent call last):")
        for line in "".join(traceback.format_tb(error.__traceback__)).rstrip("\n").split("\n"):
            complain(line)
        complain(f"{type(error).__name__}: {error}")
        return FAILED


def _show_warning(command: str, message: Warning | str, *where: object) -> None:
    _refuse(command, f"warning: {message}")


if __name__ == "__main__":
    sys.exit(main())
