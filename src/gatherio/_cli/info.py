"""`gatherio info`: what this system, and a file system, have to offer."""

from __future__ import annotations

import argparse
import os
import stat
from typing import Any

from .._text import json_text, shown, size_text
from ..info import info
from .arguments import OK, add_command, in_words, refuse
from .text import fields, paragraph, say

TEXT = """\
Tell what gatherio finds here: the sizes and limits of the system, every backend
with the reason why it can be had or not (and what would change that), and which
one is the default. With PATH also what its file system offers: whether
transfers go around the page cache (direct), or why they do not, and what they
must be aligned to.
"""

EPILOG = """\
examples:
  gatherio info
  gatherio info .                  the file system of this folder
  gatherio info data.npy --json    the same for machines

exit code: 0, or 2 if PATH cannot be asked about.
"""


def add(commands: Any) -> None:
    """The command, its options and its help."""
    summary = "what this system, and a file system, have to offer"
    command = add_command(commands, "info", summary, TEXT, EPILOG)
    command.set_defaults(run=run)
    command.add_argument("path", nargs="?", metavar="PATH", help="a file, or a folder in which one can be made")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Tell it; the exit code."""
    path: str | None = arguments.path
    try:
        if path is not None:
            _check_kind(path)
        found = info(path)
    except (OSError, ValueError) as error:
        return refuse("info", in_words(error))
    say(json_text(found) if arguments.json else _text(found))
    return OK


def _check_kind(path: str) -> None:
    """Raise ValueError for what would not answer: opening a pipe waits for somebody at the other end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)):
        raise ValueError(f"{path!r} is neither a file nor a folder")


def _text(found: dict[str, Any]) -> str:
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
