"""Text from outside (names, labels, messages) as it can be shown: it can neither act on a terminal nor add a line."""

from __future__ import annotations

import json
import re
from typing import Any

# What begins a tag, a character reference, or the target of a link or picture. Figures like ">= 0.98" stay.
_MARKUP = {r"&(?=#?\w+;)": "&amp;", r"<(?=[A-Za-z/!?])": "&lt;", r">(?!=)": "&gt;", r"\](?=[(\[])": r"]\\"}


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


def shown_in(value: Any) -> Any:
    """The same of every text in the dicts and lists that a JSON document is made of."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        return [shown_in(each) for each in value]
    if isinstance(value, dict):
        return {shown_in(name): shown_in(each) for name, each in value.items()}
    return value


def json_text(value: object) -> str:
    """JSON for the screen: ASCII without control characters, and exact."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")  # the one that json leaves as it is


def markdown(text: str) -> str:
    """Markdown of ours in which text from outside is neither HTML nor a link."""
    for what, instead in _MARKUP.items():
        text = re.sub(what, instead, text)
    return text
