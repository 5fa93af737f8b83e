"""Text from outside as it can stand in tables and on pages: results may come from others."""

from __future__ import annotations

import re
from typing import Any

from gatherio._text import shown

# What begins a tag, a character reference, or the target of a link or picture. Figures like ">= 0.98" stay.
_MARKUP = {r"&(?=#?\w+;)": "&amp;", r"<(?=[A-Za-z/!?])": "&lt;", r">(?!=)": "&gt;", r"\](?=[(\[])": r"]\\"}


def shown_in(value: Any) -> Any:
    """The same of every text in the dicts and lists that a JSON document is made of."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        return [shown_in(each) for each in value]
    if isinstance(value, dict):
        return {shown_in(name): shown_in(each) for name, each in value.items()}
    return value


def markdown(text: str) -> str:
    """Markdown of ours in which text from outside is neither HTML nor a link."""
    for what, instead in _MARKUP.items():
        text = re.sub(what, instead, text)
    return text
