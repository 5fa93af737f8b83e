"""Draws the picture of the README from the JSON of bench_transfer.py and bench_npy.py.

    python benchmarks/plot.py benchmarks/results/bench_transfer.json benchmarks/results/bench_npy.json -o picture.png

Needs matplotlib. Ours and theirs differ in shade and hatching, so that it can be read in black and white.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# What stands beside what: title, ours, theirs.
PAIRS = [
    ("write one array\nover an old file", "gatherio.write_gather", "fio write"),
    ("read it, cold", "gatherio.read_scatter", "fio read"),
    ("save .npy, durable", "gatherio.save, ordinary array", "np.save + fsync"),
    ("load .npy, cold", "gatherio.load, file of gatherio.save", "np.load, file of gatherio.save"),
    (
        "load .npy into an\nold array, cold",
        "gatherio.load, file of gatherio.save, out=",
        "np.load, file of gatherio.save",
    ),
]


def read_rows(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """The rows of the documents by name."""
    return {row["name"]: row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def fastest(rows: dict[str, dict[str, Any]], start: str) -> dict[str, Any] | None:
    """Of fio's several settings the best one; of a full name the only one."""
    found = [row for name, row in rows.items() if name.startswith(start)]
    return max(found, key=lambda row: float(row["rate"]["median"]), default=None)


def rate_of(row: dict[str, Any]) -> dict[str, float]:
    """Until the data was on stable storage, where that was measured."""
    spread: dict[str, float] = row["durable_rate"] or row["rate"]
    return spread


def draw(rows: dict[str, dict[str, Any]], picture: Path) -> None:
    """Rates and CPU time of each pair, as bars with the spread of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = [(title, rows.get(ours), fastest(rows, theirs)) for title, ours, theirs in PAIRS]
    shown = [(title, ours, theirs) for title, ours, theirs in pairs if ours and theirs]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    metrics = [
        ("MiB/s: longer is better", rate_of),
        ("CPU s/GiB, log scale: shorter is better", lambda row: row["cpu"]),
    ]
    for axis, (label, metric) in zip(axes, metrics, strict=True):
        for shift, which, colour, hatch in ((-0.2, 1, "#1f5a8a", ""), (0.2, 2, "#d9d9d9", "///")):
            spreads = [metric(pair[which]) for pair in shown]
            medians = [spread["median"] for spread in spreads]
            errors = [
                [spread["median"] - spread["min"] for spread in spreads],
                [spread["max"] - spread["median"] for spread in spreads],
            ]
            name = "gatherio" if which == 1 else "fio's best, or numpy"
            places = [number + shift for number in range(len(shown))]
            axis.barh(places, medians, 0.38, xerr=errors, color=colour, hatch=hatch, edgecolor="black", label=name)
        axis.set_xlabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xscale("log")
    axes[0].set_yticks(range(len(shown)), [title for title, _, _ in shown])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path, help="JSON of the benchmarks")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks.png"))
    arguments = parser.parse_args()
    draw(read_rows(arguments.documents), arguments.output)


if __name__ == "__main__":
    main()
