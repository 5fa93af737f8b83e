"""The results for people: what is printed while they are made, and a folder with tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from gatherio._cli.quick import machine_text, replace_file
from gatherio._text import shown

from . import tables
from .headline import headline_table
from .programs import working_in
from .runner import Outcome
from .safe_text import markdown, shown_in

Content = dict[str, Any]

TITLES: Final = {
    "sequential": "One array, written over an old file and read back",
    "arrays": "Whole arrays: .npy files on stable storage, and back",
    "separate": "Separate pages, gathered and scattered",
    "small": "Small reads and writes at random places",
    "peers": "Other libraries, each at what it does best",
    "kinds": "Kinds of memory, numbers of files, handles and threads",
    "mappings": "Mapped views, and asking for locks",
    "memory": "What it holds beside the data",
    "maps": "Request size by queue depth",
}


def section_title(section: str) -> str:
    """As a heading."""
    return f"## {TITLES[section]}\n\n"


def group_text(content: Content, section: str, group: str) -> str:
    """One comparison: its rows, and the figures made of them."""
    rows = shown_in([row for row in content["rows"] if (row["section"], row["group"]) == (section, group)])
    figures = shown_in([row for row in content["figures"] if (row["section"], row["group"]) == (section, group)])
    parts = [
        f"### {shown(group)}",
        tables.latency_table(rows) if any(row["latency_us"] for row in rows) else tables.rows_table(rows),
    ]
    if figures:
        parts.append(tables.figures_table(figures))
    return "\n\n".join(parts) + "\n"


def closing(content: Content, outcome: Outcome, path: Path | None) -> str:
    """The headline: every figure that has a target; and what is left to do."""
    parts = _in_short(content)
    if outcome.skipped:
        parts.append(f"{outcome.skipped} comparisons were there already.")
    if outcome.left:
        more = (
            f"--resume {shown(str(path))} goes on"
            if path
            else "--json FILE saves them, so that --resume FILE can go on"
        )
        parts.append(f"Stopped by {outcome.stopped_by}: {outcome.left} comparisons are left; {more}.")
    return "\n\n".join(parts)


def _in_short(content: Content) -> list[str]:
    quoted = shown_in([figure for figure in content["figures"] if figure["threshold"] is not None])
    parts = [headline_table(shown_in(content["rows"])), tables.figures_table(quoted) if quoted else ""]
    return ["## In short", *filter(None, parts)] if any(parts) else []


# --- a folder ---


def write(content: Content, folder: Path) -> Iterator[Path]:
    """Write tables and, where matplotlib is installed, pictures; the files that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    content = shown_in(content)  # results may come from others
    pictures = _pictures(content, folder)
    page = folder / "study.md"
    replace_file(page, _page(content, pictures).encode())
    yield page
    yield from pictures


def has_pictures() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _pictures(content: Content, folder: Path) -> list[Path]:
    if not has_pictures():
        return []
    specification = find_spec("matplotlib")
    assert specification is not None and specification.origin is not None
    with working_in(Path(specification.origin).parent):  # it reads matplotlibrc in the working directory, with eval
        from . import pictures

    return pictures.draw_all(content, folder)


def _page(content: Content, pictures: list[Path]) -> str:
    parts = ["# Results", markdown(machine_text(content["machine"]))]
    parts += map(markdown, _in_short(content))
    parts += [f"![{path.stem}]({path.name})" for path in pictures]
    for section, title in TITLES.items():
        rows = [row for row in content["rows"] if row["section"] == section]
        if rows:
            found = _maps(rows) if section == "maps" else _groups(content, section, rows)
            parts += [f"## {title}", *map(markdown, found)]
    return "\n\n".join(parts) + "\n"


def _groups(content: Content, section: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    for group in dict.fromkeys(row["group"] for row in rows):
        yield group_text(content, section, group).rstrip()


def _maps(rows: list[dict[str, Any]]) -> Iterator[str]:
    axes = dict.fromkeys((row["axes"]["backend"], row["axes"]["kind"], row["axes"]["direct"]) for row in rows)
    for backend, kind, direct in axes:
        found = [
            row
            for row in rows
            if (row["axes"]["backend"], row["axes"]["kind"], row["axes"]["direct"]) == (backend, kind, direct)
        ]
        yield f"### {kind}, {'direct' if direct else 'buffered'}, {backend}"
        yield f"MiB/s:\n\n{tables.map_table(found)}"
        yield f"CPU s/GiB:\n\n{tables.map_table(found, 'cpu')}"
