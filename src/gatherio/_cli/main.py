"""The command line's grammar, and how every command ends."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial

from .. import __version__
from .._cli import bench, demo, info, tune
from .arguments import BY_SIGNAL, DATA, FAILED, OK, Parser, in_words, refuse
from .search_path import nothing_from_here
from .signals import Stopped, signals_raise
from .text import OutputError, complain, drop

EPILOG = f"""\
examples:
  gatherio info              what this machine offers
  {f"gatherio info {DATA}":<25}  and what the file system of {DATA} offers
  {f"gatherio demo {DATA}":<25}  the main job in {DATA}, measured beside numpy
  {f"gatherio tune {DATA}":<25}  settings that suit it, used from then on
  gatherio bench --quick     what this disk gives, beside numpy
  gatherio COMMAND --help    all about a command
"""


def parser(study: bench.Study | None = None) -> argparse.ArgumentParser:
    """The command line's grammar and its help; `study` as for `bench.add`."""
    top = Parser(
        prog="gatherio",
        description="Feeds numpy arrays to disk and back at the speed of the disk.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gatherio {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    info.add(commands)
    demo.add(commands)
    bench.add(commands, study)
    tune.add(commands)
    return top


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
    return call(parser(), argv)


def call(top: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run what the arguments say; the exit code, whatever happens."""
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
        return refuse(command, f"standard output cannot be written: {error}", FAILED)


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
        return refuse(arguments.command, f"stopped by {name}; cleaned up", BY_SIGNAL + stopped.number)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        return refuse(arguments.command, f"not enough memory, give a smaller --size: {error}", FAILED)
    except OSError as error:
        return refuse(arguments.command, in_words(error), FAILED)
    except (OutputError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # a fault of ours: told as Python does, but for what a terminal acts on
        complain("Traceback (most recent call last):")
        for line in "".join(traceback.format_tb(error.__traceback__)).rstrip("\n").split("\n"):
            complain(line)
        complain(f"{type(error).__name__}: {error}")
        return FAILED


def _show_warning(command: str, message: Warning | str, *where: object) -> None:
    refuse(command, f"warning: {message}")
