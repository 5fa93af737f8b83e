"""Pictures of the results, which can be read in black and white. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from gatherio._cli.quick import replace_file
from gatherio._cli.text import number

from .headline import LINES, pair, ratio, shown_rate
from .tables import size_name

matplotlib.use("Agg")  # no window
from matplotlib import pyplot

matplotlib.rcParams["text.parse_math"] = False  # a name with two dollar signs is a name

Row = dict[str, Any]
Content = dict[str, Any]

DOTS_PER_INCH: Final = 110
CPU_LEAST: Final = 1e-4  # seconds per GiB
OURS: Final = {"color": "#5b8db8", "hatch": "", "edgecolor": "black"}
THEIRS: Final = {"color": "#d9d9d9", "hatch": "///", "edgecolor": "black"}
#: Lines that differ by more than their colour.
STYLES: Final = [
    {"color": "#1f4e79", "marker": "o", "linestyle": "-"},
    {"color": "#c05000", "marker": "s", "linestyle": "--"},
    {"color": "#2e7d32", "marker": "^", "linestyle": "-."},
    {"color": "#777777", "marker": "D", "linestyle": ":"},
    {"color": "#000000", "marker": "x", "linestyle": "-"},
    {"color": "#7b4fa0", "marker": "v", "linestyle": "--"},
    {"color": "#a08000", "marker": "P", "linestyle": "-."},
    {"color": "#b03060", "marker": "*", "linestyle": ":"},
]


def draw_all(content: Content, folder: Path) -> list[Path]:
    """Draw what the results have enough for; the files."""
    drawings: list[tuple[str, Callable[[Content], Any]]] = [
        ("headline", headline),
        ("map-direct-rate", lambda found: heat_maps(found, direct=True, of="rate")),
        ("map-direct-cpu", lambda found: heat_maps(found, direct=True, of="cpu")),
        ("map-buffered-rate", lambda found: heat_maps(found, direct=False, of="rate")),
        ("map-buffered-cpu", lambda found: heat_maps(found, direct=False, of="cpu")),
        ("paths", paths),
        ("separate", separate),
        ("small", small),
        ("latency", latency),
        ("peers", peers),
    ]
    written = []
    for name, drawing in drawings:
        figure = drawing(content)
        if figure is None:
            continue
        path = folder / f"{name}.png"
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
        pyplot.close(figure)
        replace_file(path, picture.getvalue())
        written.append(path)
    return written


def _cpu_of(row: Row) -> dict[str, float]:
    """Not zero, which a logarithm cannot show: a coarse clock may see nothing of a short run."""
    return {name: max(value, CPU_LEAST) for name, value in row["cpu"].items()}


def _section(content: Content, section: str) -> list[Row]:
    """The rows that were measured; those of `gatherio bench --quick` have no axes to be drawn along."""
    return [row for row in content["rows"] if row["section"] == section and row["rate"] is not None and row["axes"]]


def _bars(
    axis: Any,
    places: Iterable[float],
    spreads: Sequence[dict[str, float]],
    label: str,
    style: Any,
    height: float = 0.38,
) -> None:
    medians = [spread["median"] for spread in spreads]
    errors = [
        [spread["median"] - spread["min"] for spread in spreads],
        [spread["max"] - spread["median"] for spread in spreads],
    ]
    whisker = {"elinewidth": 1.2, "capsize": 2.5, "ecolor": "black"}
    axis.barh(list(places), medians, height, xerr=errors, error_kw=whisker, label=label, **style)
    axis.spines[["top", "right"]].set_visible(False)


def _logarithmic(axis: Any, spreads: Iterable[dict[str, float]]) -> None:
    """With room for the shortest bar."""
    axis.set_xscale("log")
    axis.set_xlim(left=0.4 * min(spread["median"] for spread in spreads))


# --- bars ---


def headline(content: Content) -> Any:
    """What a user does most, beside what they would use otherwise: rates and CPU time."""
    found = [(line, *pair(line, content["rows"])) for line in LINES]
    shown = [(line, ours, theirs) for line, ours, theirs in found if ours and theirs and ours["unit"] == "MiB/s"]
    if not shown:
        return None
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.62 * len(shown) + 1.3), sharey=True)
    for axis, metric in zip(axes, (shown_rate, _cpu_of), strict=True):
        places = range(len(shown))
        _bars(axis, [i - 0.2 for i in places], [metric(ours) for _, ours, _ in shown], "gatherio", OURS)
        theirs_name = "fio, numpy, or one array"
        _bars(axis, [i + 0.2 for i in places], [metric(theirs) for _, _, theirs in shown], theirs_name, THEIRS)
    axes[0].set_xlabel("MiB/s: longer is better")
    axes[1].set_xlabel("CPU seconds per GiB, log scale: shorter is better")
    _logarithmic(axes[1], [_cpu_of(row) for _, ours, theirs in shown for row in (ours, theirs)])
    axes[0].set_yticks(range(len(shown)), [f"{line.title}\nbeside {theirs['name']}" for line, _, theirs in shown])
    axes[0].invert_yaxis()
    right = axes[0].get_xlim()[1]
    for i, (_, ours, theirs) in enumerate(shown):
        axes[0].text(right * 1.02, i, f"x {ratio(ours, theirs).median:.2f}", va="center", fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.0)
    )
    figure.tight_layout()
    return figure


def peers(content: Content) -> Any:
    """Each library at what it does best: durable writes and cold reads."""
    rows = _section(content, "peers")
    hows = [how for how in ("write", "read") if any(row["axes"]["how"] == how for row in rows)]
    if not hows:
        return None
    most = max(sum(row["axes"]["how"] == how for row in rows) for how in hows)
    figure, axes = pyplot.subplots(len(hows), 2, figsize=(11, len(hows) * (0.3 * most + 1.0)), squeeze=False)
    for how, (left, right) in zip(hows, axes, strict=True):
        of_how = sorted((row for row in rows if row["axes"]["how"] == how), key=lambda row: -_peer_rate(row)["median"])
        for axis, metric in ((left, _peer_rate), (right, _cpu_of)):
            for i, row in enumerate(of_how):
                style = OURS if row["axes"]["library"] == "gatherio" else THEIRS
                _bars(axis, [i], [metric(row)], "", style, 0.7)
            axis.set_yticks(
                range(len(of_how)), [_peer_name(row) for row in of_how] if axis is left else [""] * len(of_how)
            )
            axis.invert_yaxis()
        left.set_xlabel(f"{'durable write' if how == 'write' else 'cold read'}, MiB/s: longer is better")
        right.set_xlabel("CPU seconds per GiB, log scale: shorter is better")
        _logarithmic(right, [_cpu_of(row) for row in of_how])
    figure.tight_layout()
    return figure


def _peer_rate(row: Row) -> dict[str, float]:
    spread: dict[str, float] = row["durable_rate"] or row["rate"]
    return spread


def _peer_name(row: Row) -> str:
    return f"{row['name']} (LOSES DATA)" if row["note"].startswith("LOSES DATA") else str(row["name"])


# --- maps ---


def heat_maps(content: Content, *, direct: bool, of: str) -> Any:
    """Request size by depth, a panel for each way to read or write."""
    rows = [row for row in _section(content, "maps") if row["axes"]["direct"] == direct]
    if not rows:
        return None
    backend = rows[0]["axes"]["backend"]
    kinds = list(dict.fromkeys(row["axes"]["kind"] for row in rows if row["axes"]["backend"] == backend))
    figure, axes = pyplot.subplots(2, -(-len(kinds) // 2), figsize=(4.4 * -(-len(kinds) // 2), 7.6), squeeze=False)
    for axis in list(axes.flat)[len(kinds) :]:
        axis.axis("off")
    for axis, kind in zip(axes.flat, kinds, strict=False):
        cells = {
            (row["axes"]["request_size"], row["axes"]["depth"]): row[of]["median"]
            for row in rows
            if (row["axes"]["kind"], row["axes"]["backend"]) == (kind, backend)
        }
        _heat_map(axis, cells, logarithmic=of == "cpu")
        axis.set_title(kind, fontsize=11)
    unit = "MiB/s (darker is faster)" if of == "rate" else "CPU seconds per GiB (lighter is cheaper)"
    way = "past the page cache" if direct else "through the page cache"
    figure.suptitle(f"{unit}, {way}, {backend}", fontsize=12)
    figure.supxlabel("requests in flight", fontsize=10)
    figure.supylabel("bytes of a request", fontsize=10)
    figure.tight_layout()
    return figure


def _heat_map(axis: Any, cells: dict[tuple[int, int], float], *, logarithmic: bool) -> None:
    sizes = sorted({size for size, _ in cells})
    depths = sorted({depth for _, depth in cells})
    grid = np.array([[cells.get((size, depth), np.nan) for depth in depths] for size in sizes])
    shade = np.log10(np.maximum(grid, 1e-4)) if logarithmic else grid
    low, high = (np.nanmin(shade), np.nanmax(shade)) if logarithmic else (0.0, np.nanmax(shade))
    reach = max(float(high - low), 1e-9)
    axis.set_facecolor("white")
    axis.imshow(shade, cmap="Greys", vmin=low - 0.05 * reach, vmax=high + 0.35 * reach, aspect="auto")
    for y, x in np.ndindex(*grid.shape):
        if np.isnan(grid[y, x]):
            axis.text(x, y, "·", ha="center", va="center", fontsize=8, color="#999999")
            continue
        dark = (shade[y, x] - low) / reach > 0.62
        axis.text(x, y, _short(grid[y, x]), ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_xticks(range(len(depths)), depths, fontsize=8)
    axis.set_yticks(range(len(sizes)), [size_name(size) for size in sizes], fontsize=8)


def _short(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def paths(content: Content) -> Any:
    """Which way each kind of transfer went, by backend, as the file told, and the best rate it had there."""
    rows = _section(content, "maps")
    if not rows:
        return None
    backends = list(dict.fromkeys(row["axes"]["backend"] for row in rows))
    kinds = list(dict.fromkeys((row["axes"]["kind"], row["axes"]["direct"]) for row in rows))
    figure, axis = pyplot.subplots(figsize=(2.6 * len(backends) + 2.6, 0.42 * len(kinds) + 1.2))
    grid = np.full((len(kinds), len(backends)), np.nan)
    for (y, (kind, direct)), (x, backend) in ((k, b) for k in enumerate(kinds) for b in enumerate(backends)):
        key = (kind, direct, backend)
        found = [r for r in rows if (r["axes"]["kind"], r["axes"]["direct"], r["axes"]["backend"]) == key]
        if not found:
            axis.text(x, y, "not measured", ha="center", va="center", fontsize=8, color="#777777")
            continue
        best = max(found, key=lambda row: float(row["rate"]["median"]))
        grid[y, x] = best["rate"]["median"]
        way = re.split("[ :,;]", best["told"])[0]
        setting = f"{size_name(best['axes']['request_size'])} x {best['axes']['depth']}"
        dark = grid[y, x] > 0.62 * max(row["rate"]["median"] for row in rows)
        text = f"{way}: {grid[y, x]:.0f} MiB/s at {setting}"
        axis.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.imshow(grid, cmap="Greys", vmin=0, vmax=1.35 * np.nanmax(grid), aspect="auto")
    axis.set_xticks(range(len(backends)), backends)
    axis.xaxis.tick_top()
    labels = [f"{kind}, asked for {'direct' if direct else 'buffered'}" for kind, direct in kinds]
    axis.set_yticks(range(len(kinds)), labels, fontsize=9)
    axis.set_xticks([x - 0.5 for x in range(1, len(backends))], minor=True)
    axis.set_yticks([y - 0.5 for y in range(1, len(kinds))], minor=True)
    axis.grid(which="minor", color="black", linewidth=0.5)
    axis.tick_params(which="both", length=0)
    axis.set_title("the way that each transfer took, and its best rate there (darker is faster)", fontsize=11, pad=12)
    figure.tight_layout()
    return figure


# --- lines ---


def separate(content: Content) -> Any:
    """Separate pages: what a run of more pages brings, in place and staged."""
    rows = _section(content, "separate")
    if not rows:
        return None
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.8))
    panels = [(how, of) for of in ("rate", "cpu") for how in ("write", "read")]
    for axis, (how, of) in zip(axes, panels, strict=True):
        shuffled = [row for row in rows if row["axes"]["how"] == how and row["axes"]["order"] == "shuffled"]
        for i, name in enumerate(dict.fromkeys(row["name"] for row in shuffled)):
            found = sorted(
                (row for row in shuffled if row["name"] == name), key=lambda row: int(row["axes"]["run_pages"])
            )
            _line(axis, [row["axes"]["run_pages"] for row in found], [row[of] for row in found], name, i)
        ticks = sorted({row["axes"]["run_pages"] for row in shuffled})
        axis.set_xscale("log", base=4)
        axis.set_xticks(ticks, ticks)
        axis.minorticks_off()
        axis.set_xlabel("pages that stand together")
        axis.set_title(f"{how}, {'MiB/s' if of == 'rate' else 'CPU s/GiB'}", fontsize=11)
        axis.set_ylim(bottom=0)
    _legend_above(figure, axes[0])
    return figure


def small(content: Content) -> Any:
    """Small operations at random places by depth: each way's rate and CPU."""
    rows = [row for row in _section(content, "small") if not row["latency_us"]]
    rows = [row for row in rows if "registered" not in row["name"]]  # nearly the same, and lines enough without
    kinds = sorted({(row["axes"]["how"], row["axes"]["size"]) for row in rows}, key=lambda kind: (kind[1], kind[0]))
    if not kinds:
        return None
    figure, axes = pyplot.subplots(2, len(kinds), figsize=(3.4 * len(kinds) + 1, 6.4), squeeze=False)
    names = list(dict.fromkeys(map(_small_name, rows)))
    for column, (how, size) in enumerate(kinds):
        for line, of in enumerate(("rate", "cpu")):
            axis = axes[line][column]
            for i, name in enumerate(names):
                key = (name, how, size)
                found = [r for r in rows if (_small_name(r), r["axes"]["how"], r["axes"]["size"]) == key]
                found.sort(key=lambda row: int(row["axes"]["depth"]))
                _line(axis, [row["axes"]["depth"] for row in found], [row[of] for row in found], name, i)
            ticks = sorted({row["axes"]["depth"] for row in rows})
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, ticks)
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.set_title(f"{how} {size_name(size)}, {'per second' if of == 'rate' else 'CPU us each'}", fontsize=11)
        axes[1][column].set_xlabel("operations in flight")
    _legend_above(figure, axes[0][0])
    return figure


def _small_name(row: Row) -> str:
    """For the legend: what goes by several names has one."""
    name = str(row["name"])
    return "os.preadv, os.pwritev" if name.startswith("os.") else re.sub(r", (result|queue\.(get|batch))\(\)", "", name)


def latency(content: Content) -> Any:
    """Percentiles of single reads of 4 KiB by depth."""
    rows = [row for row in _section(content, "small") if row["latency_us"]]
    if not rows:
        return None
    rows.sort(key=lambda row: int(row["axes"]["depth"]))
    figure, axis = pyplot.subplots(figsize=(7.5, 4.2))
    names = list(rows[0]["latency_us"])
    for i, name in enumerate(names):
        values = [row["latency_us"][name] for row in rows]
        label = "slowest" if name == "100" else "median" if name == "50" else f"{name} %"
        spreads = [{"median": value, "min": value, "max": value} for value in values]
        _line(axis, [row["axes"]["depth"] for row in rows], spreads, label, i)
        if i == 0 or values[-1] > 1.15 * rows[-1]["latency_us"][names[i - 1]]:  # else it would cover that one's
            place = (rows[-1]["axes"]["depth"], values[-1])
            axis.annotate(number(values[-1]), place, (6, -3), textcoords="offset points", fontsize=8)
    ticks = [row["axes"]["depth"] for row in rows]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ticks, ticks)
    axis.set_xlabel("operations in flight")
    axis.set_ylabel("microseconds, log scale")
    axis.grid(axis="y", which="both", color="#dddddd", linewidth=0.6)
    _legend_above(figure, axis)
    return figure


def _line(axis: Any, places: Sequence[float], spreads: Sequence[dict[str, float]], label: str, number_of: int) -> None:
    if not places:
        return
    medians = [spread["median"] for spread in spreads]
    errors = [
        [spread["median"] - spread["min"] for spread in spreads],
        [spread["max"] - spread["median"] for spread in spreads],
    ]
    style = STYLES[number_of % len(STYLES)]
    axis.errorbar(places, medians, yerr=errors, label=label, capsize=2.5, markersize=5, linewidth=1.4, **style)
    axis.spines[["top", "right"]].set_visible(False)


def _legend_above(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles, labels, loc="lower center", ncols=min(len(labels), 6), frameon=False, bbox_to_anchor=(0.5, 1.0)
    )
