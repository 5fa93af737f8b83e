"""Text for people: sizes, paragraphs, tables that fit the terminal, and a progress bar."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, NoReturn, TextIO, TypeAlias

from .._text import shown, shown_lines

Step: TypeAlias = Callable[[int, int, str], object]
"""Called with (steps done, steps in all, what is done next)."""

WIDTH_MIN = 40  # narrower, nothing can be laid out
WIDTH_MAX = 100  # longer lines are hard to read


def width() -> int:
    """Columns to fill: the terminal's, or 80 where there is none."""
    return max(WIDTH_MIN, min(WIDTH_MAX, shutil.get_terminal_size((80, 24)).columns))


def paragraph(text: str, indent: str = "") -> str:
    """`text` broken into lines that fit the terminal."""
    return textwrap.fill(shown(text), width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def fields(rows: Sequence[tuple[str, str]], indent: str = "  ") -> str:
    """Names on the left, their texts on the right, broken into lines beneath each other."""
    name_width = max(len(name) for name, _ in rows) + 2
    column = indent + " " * name_width
    lines = []
    for name, text in rows:
        first = f"{indent}{name:<{name_width}}"
        lines.append(
            textwrap.fill(shown(text), width(), initial_indent=first, subsequent_indent=column, break_on_hyphens=False)
        )
    return "\n".join(lines)


class Column(NamedTuple):
    """A column of figures: two lines of heading, and how soon it is left out where the terminal is narrow."""

    head: str
    unit: str
    spare: int = 0  # 0 stays; of the others the highest goes first


class Section(NamedTuple):
    """Rows of a table under a title of their own: a label, and a text for each column."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


def table(columns: Sequence[Column], sections: Sequence[Section]) -> str:
    """Lay out a table; columns that do not fit the terminal are left out."""
    rows = [row for section in sections for row in section.rows]
    label_width = 2 + max(len(label) for label, _ in rows)
    widths = [
        2 + max(map(len, (column.head, column.unit, *(cells[i] for _, cells in rows))))
        for i, column in enumerate(columns)
    ]
    chosen = _fitting(columns, widths, width() - label_width)

    def line(label: str, cells: Sequence[str]) -> str:
        return (f"{label:<{label_width}}" + "".join(f"{cells[i]:>{widths[i]}}" for i in chosen)).rstrip()

    lines = [line("", [column.head for column in columns]), line("", [column.unit for column in columns])]
    for section in sections:
        lines.append(section.title)
        lines += [line(f"  {label}", cells) for label, cells in section.rows]
    return "\n".join(lines)


def _fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The numbers of the columns that fit."""
    chosen = list(range(len(columns)))
    while sum(widths[i] for i in chosen) > room:
        goes = max(chosen, key=lambda i: columns[i].spare)
        if columns[goes].spare == 0:
            break
        chosen.remove(goes)
    return chosen


def number(value: float) -> str:
    """Three digits that count."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def spread_text(spread: dict[str, float] | None) -> str:
    """A median, with the smallest and the largest."""
    if spread is None:
        return "-"
    if spread["min"] == spread["max"]:
        return number(spread["median"])
    return f"{number(spread['median'])} [{number(spread['min'])}-{number(spread['max'])}]"


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with its columns under each other: it can be read in a terminal, too."""
    rows = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def laid_out(line: Sequence[str]) -> str:
        return "| " + " | ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([laid_out(head), rule, *map(laid_out, rows)])


class OutputError(Exception):
    """Standard output cannot be written; the text says why."""


def say(text: str) -> None:
    """Print and flush. Of what a terminal acts on only line feeds are printed as they are.

    Raises
    ------
    BrokenPipeError
        Whoever reads our output has left; so on every system.
    OutputError
        It cannot be written.
    """
    if sys.stdout is None:
        raise OutputError("it is closed")
    # A path may be what the encoding cannot say. In the C locale Python has surrogateescape, which fails there, too.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(shown_lines(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        if sys.platform == "win32" and error.errno == errno.EINVAL:  # so Windows' C library has it
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error
        raise OutputError(error.strerror or str(error)) from error


def complain(text: str) -> None:
    """Print a line on standard error, where there is one."""
    try:
        if sys.stderr is not None:
            print(shown(text), file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO | None) -> None:
    """Let go of what could not be written, else Python tries once more when it ends, and tells of it."""
    with suppress(OSError, ValueError):
        if stream is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


# --- progress ---


@contextmanager
def progress() -> Iterator[Step]:
    """A bar on standard error from the first step to the end of the block, where that is a terminal.

    tqdm's where it is installed, else a line that tells the step.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    with ExitStack() as at_end:
        try:
            from tqdm import tqdm
        except ImportError:
            at_end.callback(_tell, "")
            yield lambda done, total, what: _tell(f"{done}/{total} {what}")
            return
        bars: list[tqdm[NoReturn]] = []

        def show(done: int, total: int, what: str) -> None:
            if not bars:
                layout = "|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {desc}"
                told = os.get_terminal_size(sys.stderr.fileno()).columns > 0  # else tqdm draws nothing
                bar = tqdm(
                    total=total,
                    bar_format=layout,
                    leave=False,
                    ncols=None if told else 80,
                    nrows=None if told else 24,
                    dynamic_ncols=told,
                    file=sys.stderr,
                )
                bars.append(at_end.enter_context(bar))
            bars[0].total, bars[0].n = total, done
            bars[0].set_description_str(shown(what))  # draws it, too

        yield show


def _tell(text: str) -> None:
    """Put `text` in the place of the last one. Without escape sequences: a Windows console may show those."""
    room = shutil.get_terminal_size().columns - 1
    print(f"\r{shown(text)[:room]:<{room}}\r", end="", file=sys.stderr, flush=True)
