"""Results as Markdown tables that can also be read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def number(value: float) -> str:
    """Three digits that count."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def cell(spread: dict[str, float] | None) -> str:
    """A median, with the smallest and the largest."""
    if spread is None:
        return "-"
    if spread["min"] == spread["max"]:
        return number(spread["median"])
    return f"{number(spread['median'])} [{number(spread['min'])}-{number(spread['max'])}]"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table with its columns under each other."""
    rows = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def laid_out(line: Sequence[str]) -> str:
        return "| " + " | ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([laid_out(head), rule, *map(laid_out, rows)])


def rows_table(rows: Sequence[Row]) -> str:
    """What was measured in a group."""
    head = ["what", f"rate {rows[0]['unit']}", "durable", f"CPU {rows[0]['cpu_unit']}", "whole system", "cache grew"]
    return table(head, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    if row["rate"] is None:
        return [row["name"], row["note"] or "not measured", "", "", "", ""]
    cache = row["cache_percent"]
    name = f"{row['name']}: {row['note']}" if row["note"] else row["name"]
    name += f" ({row['told']})" if row["axes"].get("place") is not None else ""
    return [
        name,
        cell(row["rate"]),
        cell(row["durable_rate"]),
        cell(row["cpu"]),
        cell(row["system_cpu"]),
        "-" if cache is None else f"{round(cache['median'], 1) + 0.0} %",
    ]


def figures_table(figures: Iterable[Row]) -> str:
    """Claims, what came out, and the verdicts."""
    return table(["figure", "measured", "target", ""], map(_figure_cells, figures))


def _figure_cells(figure: Row) -> list[str]:
    value = figure["note"] if figure["value"] is None else f"{cell(figure['value'])} {figure['unit']}".strip()
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
    return table(
        head,
        [
            [str(row["axes"]["depth"]), *(number(row["latency_us"][name]) for name in names), cell(row["rate"])]
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
    return table(["request", *(f"x {depth}" for depth in depths)], lines)


def size_name(nbytes: int) -> str:
    """4 KiB, 1 MiB."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def machine_text(machine: dict[str, Any]) -> str:
    """The facts in one paragraph, without those that are not known."""
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items() if value is not None)
