"""Results as Markdown tables that can also be read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gatherio._cli.text import markdown_table, number, spread_text

Row = dict[str, Any]


def rows_table(rows: Sequence[Row]) -> str:
    """What was measured in a group."""
    head = ["what", f"rate {rows[0]['unit']}", "durable", f"CPU {rows[0]['cpu_unit']}", "whole system", "cache grew"]
    return markdown_table(head, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    if row["rate"] is None:
        return [row["name"], row["note"] or "not measured", "", "", "", ""]
    cache = row["cache_percent"]
    name = f"{row['name']}: {row['note']}" if row["note"] else row["name"]
    name += f" ({row['told']})" if row["axes"].get("place") is not None else ""
    return [
        name,
        spread_text(row["rate"]),
        spread_text(row["durable_rate"]),
        spread_text(row["cpu"]),
        spread_text(row["system_cpu"]),
        "-" if cache is None else f"{round(cache['median'], 1) + 0.0} %",
    ]


def figures_table(figures: Iterable[Row]) -> str:
    """Claims, what came out, and the verdicts."""
    return markdown_table(["figure", "measured", "target", ""], map(_figure_cells, figures))


def _figure_cells(figure: Row) -> list[str]:
    value = figure["note"] if figure["value"] is None else f"{spread_text(figure['value'])} {figure['unit']}".strip()
    if figure["value"] is not None and figure["note"]:
        value += f" ({figure['note']})"
    target = "" if figure["threshold"] is None else f"{figure['direction']} {figure['threshold']:g} {figure['unit']}"
    verdict = {True: "met", False: "NOT MET", None: "not shown" if target else ""}[figure["met"]]
    return [figure["name"], value, target.strip(), verdict]


def latency_table(rows: Iterable[Row]) -> str:
    """Percentiles of single operations, in microseconds."""
    found = [row for row in rows if row["latency_us"]]
    names = list(found[0]["latency_us"])
    head = ["operations in flight", *(f"{name} %" if name != "100" else "slowest" for name in names), "per second"]
    return markdown_table(
        head,
        [
            [str(row["axes"]["depth"]), *(number(row["latency_us"][name]) for name in names), spread_text(row["rate"])]
            for row in found
        ],
    )


def map_table(rows: Sequence[Row], of: str = "rate") -> str:
    """One map: request sizes downwards, depths across, medians."""
    cells = {(row["axes"]["request_size"], row["axes"]["depth"]): row for row in rows}
    sizes = sorted({size for size, _ in cells})
    depths = sorted({depth for _, depth in cells})
    lines = []
    for size in sizes:
        found = [cells.get((size, depth)) for depth in depths]
        lines.append(
            [size_name(size), *("" if row is None or row[of] is None else number(row[of]["median"]) for row in found)]
        )
    return markdown_table(["request", *(f"x {depth}" for depth in depths)], lines)


def size_name(nbytes: int) -> str:
    """4 KiB, 1 MiB."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
