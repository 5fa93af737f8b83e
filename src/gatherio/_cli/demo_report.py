"""What the demo tells: to people and to machines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .._measure import Sample
from .._memory.pages import PAGE_SIZE
from .._text import size_text
from .demo_job import Facts, Result
from .demo_phases import Step
from .text import Column, Section, fields, paragraph, table

MIB: Final = 1 << 20
WARM_SHARE: Final = 0.01  # more of a file than this in the page cache, and reading it is not called cold

COLUMNS: Final = [
    Column("returned", "s", spare=3),
    Column("durable", "or cold s"),
    Column("GB/s", ""),
    Column("GB/s", "min-max", spare=5),
    Column("x", "numpy", spare=1),
    Column("CPU s/GiB", "own"),
    Column("", "all", spare=4),
    Column("cache", "+MiB", spare=2),
]

LEGEND: Final = (
    "Medians of {rounds} rounds. durable: fsync included; cold: {cold}; x "
    "numpy: so many times as fast; own: CPU seconds of this process; all: of the whole machine; cache: "
    "growth of the page cache. More: gatherio demo --help"
)


COLD: Final = {
    True: "the page cache had let go of the file",
    False: "the page cache was asked to let go of the file, and did not",
    None: "the page cache was asked to let go of the file; this system does not tell whether it did",
}


# --- for people ---


def opening(facts: Facts) -> str:
    """Where, which way, how much: known before the first transfer."""
    path = facts.system["path"]
    free = f", {size_text(path['free_bytes'])} free" if path["free_bytes"] is not None else ""
    rows = [
        ("folder", f"{facts.directory} ({path['file_system']}{free})"),
        ("transfers", f"{'direct' if facts.direct else 'buffered'}, backend {facts.backend}"),
        ("reason", facts.reason),
        ("data", f"{size_text(facts.nbytes)} a time, {facts.rounds} rounds"),
    ]
    return f"gatherio {facts.system['version']}: the demo\n{fields(rows)}"


def closing(result: Result) -> str:
    """The table, and what is to be said about it."""
    parts = [
        _pages_line(result),
        table(COLUMNS, _sections(result)),
        paragraph(LEGEND.format(rounds=_rounds(result), cold=COLD[_reads_cold(result)])),
        *map(paragraph, _remarks(result)),
        paragraph(_verdict(result)),
    ]
    return "\n\n".join(parts)


def _rounds(result: Result) -> str:
    counts = sorted({len(samples) for _, samples in result.samples})
    return " or ".join(map(str, counts))  # a phase that takes too long ends earlier


def _pages_line(result: Result) -> str:
    counts = result.pages
    return paragraph(
        f"{counts['pages']:,} pages of {size_text(PAGE_SIZE)} in {counts['segments']:,} rows of "
        f"{counts['arrays']} arrays, in random order: {counts['listed']:,} rows as a list, the others by "
        f"Segments.rows; segments for writing and reading built in {result.segments_s * 1000:.0f} ms"
    )


def _sections(result: Result) -> list[Section]:
    titles = [
        "Gather separate pages into a file",
        "Scatter them into other arrays, in another order",
        "Save a .npy file",
        "Load it",
    ]
    found: list[Section] = []
    for group in _groups(result.samples):
        numpy_samples = next(samples for step, samples in group if step.library == "numpy")
        rows = [(step.name, _cells(step, samples, numpy_samples)) for step, samples in group]
        found.append(Section(titles[len(found)], rows))
    return found


def _groups(steps: Sequence[tuple[Step, list[Sample]]]) -> list[list[tuple[Step, list[Sample]]]]:
    """Runs of steps that do the same, numpy's among them."""
    groups: list[list[tuple[Step, list[Sample]]]] = []
    for entry in steps:
        if not groups or groups[-1][-1][0].direction != entry[0].direction:
            groups.append([])
        groups[-1].append(entry)
    return groups


def _cells(step: Step, samples: list[Sample], numpy_samples: list[Sample]) -> list[str]:
    speeds = [sample.gb_per_s for sample in samples]
    all_cpu = _median(sample.system_cpu_per_gib for sample in samples)
    cache = _median(sample.cache_bytes for sample in samples)
    return [
        f"{_middle(samples, lambda sample: sample.returned_s):.3f}" if step.direction == "write" else "",
        f"{_middle(samples, lambda sample: sample.seconds):.3f}",
        f"{statistics.median(speeds):.2f}",
        f"{min(speeds):.2f}-{max(speeds):.2f}",
        f"{_times_as_fast(samples, numpy_samples):.2f}",
        f"{_middle(samples, lambda sample: sample.cpu_per_gib):.3f}",
        "-" if all_cpu is None else f"{all_cpu:.2f}",
        "-" if cache is None else str(round(cache / MIB)),
    ]


def _middle(samples: list[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(map(of, samples))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _times_as_fast(samples: list[Sample], numpy_samples: list[Sample]) -> float:
    """The median over the rounds of numpy's seconds by these."""
    pairs = zip(samples, numpy_samples, strict=True)
    return statistics.median(theirs.seconds / mine.seconds for mine, theirs in pairs)


def _warm_bytes(result: Result) -> int | None:
    """How much of a file to be read cold was in the page cache, at most; None where the system does not tell."""
    known = (sample.warm_bytes for _, samples in result.samples for sample in samples)
    return max((warm for warm in known if warm is not None), default=None)


def _reads_cold(result: Result) -> bool | None:
    """Whether what was read came from the disk."""
    warm = _warm_bytes(result)
    return None if warm is None else warm <= WARM_SHARE * result.facts.nbytes


def _remarks(result: Result) -> list[str]:
    warm, nbytes = _warm_bytes(result), result.facts.nbytes
    if warm is None or warm <= WARM_SHARE * nbytes:
        return []
    return [
        f"Not cold: {size_text(warm)} of {size_text(nbytes)} stayed in memory though the system was asked to "
        "drop it, so the figures for reading are not those of a disk. A file system in memory (tmpfs) has no "
        "other place for it."
    ]


def _verdict(result: Result) -> str:
    wrong = [check for check in result.checks if not check.ok]
    if wrong:
        return f"CHECKS FAILED: {len(wrong)} of {len(result.checks)}."
    total = size_text(sum(check.nbytes for check in result.checks))
    return (
        f"Checked against open().read(), np.load and np.fromfile: {len(result.checks)} comparisons, {total}, "
        "every byte as it should be."
    )


# --- for machines ---


def as_dict(result: Result) -> dict[str, Any]:
    """The same as plain dicts and lists."""
    facts = result.facts
    return {
        "version": facts.system["version"],
        "system": facts.system["system"],
        "python": facts.system["python"],
        "directory": facts.directory,
        "path": facts.system["path"],
        "direct": facts.direct,
        "backend": facts.backend,
        "reason": facts.reason,
        "size_bytes": facts.nbytes,
        "rounds": min(len(samples) for _, samples in result.samples),
        "pages": result.pages,
        "segments_built_s": result.segments_s,
        "reads_cold": _reads_cold(result),
        "measurements": [
            _measurement(step, samples, group) for group in _groups(result.samples) for step, samples in group
        ],
        "checks": [
            {"what": check.what, "bytes": check.nbytes, "ok": check.ok, "difference": check.difference}
            for check in result.checks
        ],
        "ok": result.ok,
    }


def _measurement(step: Step, samples: list[Sample], group: list[tuple[Step, list[Sample]]]) -> dict[str, Any]:
    numpy_samples = next(theirs for other, theirs in group if other.library == "numpy")
    return {
        "name": step.name,
        "library": step.library,
        "direction": step.direction,
        "bytes": samples[0].nbytes,
        "returned_s": _middle(samples, lambda sample: sample.returned_s),
        "durable_s" if step.direction == "write" else "cold_s": _middle(samples, lambda sample: sample.seconds),
        "gb_per_s": _middle(samples, lambda sample: sample.gb_per_s),
        "times_as_fast_as_numpy": _times_as_fast(samples, numpy_samples),
        "cpu_s_per_gib": _middle(samples, lambda sample: sample.cpu_per_gib),
        "system_cpu_s_per_gib": _median(sample.system_cpu_per_gib for sample in samples),
        "cache_growth_bytes": _median(sample.cache_bytes for sample in samples),
        "samples": [sample._asdict() for sample in samples],
    }
