"""The headline table: what a user does most, beside what they would use otherwise."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from gatherio._cli.text import markdown_table, number, spread_text
from gatherio.probe import Spread

Row = dict[str, Any]


class Line(NamedTuple):
    """A line of the table. A name that ends with "*" is the fastest of all that begin so."""

    title: str
    section: str
    group: str
    ours: str
    theirs: str


LINES: Final = (
    Line("write one array over an old file", "sequential", "write", "gatherio", "fio*"),
    Line("read it, cold", "sequential", "read", "gatherio", "fio*"),
    Line("save .npy, durable", "arrays", "save, durable", "gatherio.save, page-aligned array", "np.save + fsync"),
    Line("the same, ordinary array", "arrays", "save, durable", "gatherio.save, ordinary array", "np.save + fsync"),
    Line("load .npy, cold", "arrays", "load, cold", "gatherio.load", "np.load"),
    Line("the same into an old array", "arrays", "load, cold", "gatherio.load, out=", "np.load"),
    Line("write separate 4 KiB pages", "separate", "write, runs of 1 page, shuffled", "pages*", "one array"),
    Line("read separate 4 KiB pages", "separate", "read, runs of 1 page, shuffled", "pages*", "one array"),
    Line("4 KiB random reads, depth 1", "small", "read 4 KiB, depth 1", "objects, result()", "fio*"),
    Line("the same, depth 32", "small", "read 4 KiB, depth 32", "objects, queue.batch()", "fio*"),
    Line("the same, asyncio", "small", "read 4 KiB, depth 32", "asyncio", "fio*"),
    Line("the same, depth 128", "small", "read 4 KiB, depth 128", "objects, queue.batch()", "fio*"),
)


def headline_table(rows: list[Row]) -> str:
    """The lines that were measured; empty if none was."""
    found = [cells for line in LINES if (cells := _cells(line, rows))]
    head = ["", "gatherio", "CPU", "beside", "its rate", "its CPU", "times as fast"]
    return markdown_table(head, found) if found else ""


def pair(line: Line, rows: list[Row]) -> tuple[Row | None, Row | None]:
    """Ours and theirs, as far as they were measured."""
    group = [row for row in rows if (row["section"], row["group"]) == (line.section, line.group) and row["rate"]]
    return _fastest(line.ours, group), _fastest(line.theirs, group)


def _named(rule: str, rows: list[Row]) -> list[Row]:
    return [row for row in rows if (row["name"].startswith(rule[:-1]) if rule.endswith("*") else row["name"] == rule)]


def _fastest(rule: str, rows: list[Row]) -> Row | None:
    return max(_named(rule, rows), key=lambda row: float(shown_rate(row)["median"]), default=None)


def shown_rate(row: Row) -> dict[str, float]:
    """Until the data was on stable storage, for rows of which that is the point."""
    spread: dict[str, float] = row["durable_rate"] if row["group"] == "save, durable" else row["rate"]
    return spread


def ratio(ours: Row, theirs: Row) -> Spread:
    """Times as fast, taken within each round."""
    key = "seconds" if ours["group"] == "save, durable" else "returned_s"
    mine, others = ours["samples"], theirs["samples"]
    return Spread.of(
        (a["nbytes"] / max(a[key], 1e-9)) / (b["nbytes"] / max(b[key], 1e-9))
        for a, b in zip(mine, others, strict=False)
    )


def _cells(line: Line, rows: list[Row]) -> list[str]:
    ours, theirs = pair(line, rows)
    if ours is None:
        return []
    mine = [line.title, _rate_text(ours), _cpu_text(ours)]
    if theirs is None:
        group = [row for row in rows if (row["section"], row["group"]) == line[1:3]]
        note = next((row["note"] for row in _named(line.theirs, group) if row["note"]), "-")
        return [*mine, note, "", "", ""]
    spread = ratio(ours, theirs)
    times = spread_text({"median": spread.median, "min": spread.min, "max": spread.max})
    return [*mine, theirs["name"], _rate_text(theirs), _cpu_text(theirs), times]


def _rate_text(row: Row) -> str:
    return f"{number(shown_rate(row)['median'])} {row['unit'].replace('1/s', 'per s')}"


def _cpu_text(row: Row) -> str:
    return f"{number(row['cpu']['median'])} {row['cpu_unit'].replace('us/op', 'us each')}"
