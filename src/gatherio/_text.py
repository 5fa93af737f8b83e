"""Text from outside (names, labels, messages) as it can be shown: it can neither act on a terminal nor add a line."""

from __future__ import annotations

import json


def shown(text: str) -> str:
    """`text` with what cannot be printed escaped as repr does: control characters, line separators, marks that turn the
    direction of text around, and bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shown_lines(text: str) -> str:
    """The same of text of ours, whose line feeds stay."""
    return "\n".join(map(shown, text.split("\n")))


def json_text(value: object) -> str:
    """JSON for the screen: ASCII without control characters, and exact."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")  # the one that json leaves as it is


def size_text(nbytes: int) -> str:
    """A number of bytes as one reads it: "512 bytes", "4 KiB", "1.5 GiB"."""
    value, unit = float(nbytes), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
