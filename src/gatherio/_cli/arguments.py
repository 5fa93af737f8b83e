"""What the commands have in common: sizes, exit codes, how a refusal reads."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, Final, NoReturn

from .._text import shown, shown_lines
from .text import complain, say

# Exit codes.
OK, FAILED, UNUSABLE = 0, 1, 2
BY_SIGNAL: Final = 128  # and the signal's number, as shells have it

DATA: Final = "D:\\data" if sys.platform == "win32" else "/data"  # in the examples
#: For root in somebody else's folder.
ADVICE: Final = "run this as the user whose folder it is, as with sudo -u, or give a folder of root's"
SIZE_LIMIT: Final = 2.0**63  # of files, of memory, and of what is counted in C


class Parser(argparse.ArgumentParser):
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


def add_command(commands: Any, name: str, summary: str, text: str, epilog: str) -> argparse.ArgumentParser:
    """A command of the grammar, to which its options are added."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return command


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


def in_words(error: OSError | ValueError) -> str:
    """What is wrong, behind the name of the file."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def refuse(command: str, text: str, code: int = UNUSABLE) -> int:
    """Tell on standard error why a command ends; its exit code."""
    complain(f"gatherio {command}: {text}" if command else f"gatherio: {text}")
    return code
