"""The results as one JSON document: its shape, saving it, taking it up again.

schema      SCHEMA_NAME
arguments   what was asked for
machine     what the figures depend on
rows        one for each contender of each group
figures     one for each claim, with its target where it has one
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gatherio._cli.quick import SCHEMA_NAME, row, save_results
from gatherio._settings import text_of
from gatherio.probe import ProbeError

from .groups import Claim, Group, Runs

#: Of a file of results, far beyond what a whole study writes.
BYTES_MAX: Final = 64 << 20
SPREAD = {"median": float, "min": float, "max": float}
#: A dict has exactly these keys, a list any number of such items; a tuple names alternatives.
SCHEMA: dict[str, Any] = {
    "schema": str,  # SCHEMA_NAME
    "arguments": dict,
    "machine": dict,
    "rows": [
        {
            "section": str,
            "group": str,  # what takes turns with each other
            "name": str,
            "axes": dict,  # request_size, depth, direct, ...
            "rounds": int,  # that count; 0: it was not measured, and the note says why
            "unit": str,  # of the rates: MiB/s or 1/s
            "rate": (SPREAD, None),
            "durable_rate": (SPREAD, None),  # the same until the data was on stable storage
            "cpu_unit": str,  # s/GiB, or us/op
            "cpu": (SPREAD, None),  # of the process with all its threads
            "system_cpu": (SPREAD, None),  # of the whole machine
            "cache_percent": (SPREAD, None),  # growth of the page cache
            "samples": [dict],  # each round: bytes, seconds until the call returned and until durable, CPU seconds
            "latency_us": (dict, None),  # percentile: median of the rounds
            "told": str,  # the path it took, in the library's words
            "note": str,
        }
    ],
    "figures": [
        {
            "section": str,
            "group": str,
            "name": str,
            "unit": str,
            "value": (SPREAD, None),  # None: it could not be measured, and the note says why
            "rounds": int,
            "direction": (str, None),  # of the target: ">=" or "<="
            "threshold": (float, None),
            "met": (bool, None),  # of the median; None where there is no target, or no value
            "note": str,
        }
    ],
}


def check_schema(value: object, shape: Any = SCHEMA, at: str = "document") -> None:
    """Raise ValueError unless a document has the shape that `SCHEMA` states."""
    if isinstance(shape, tuple):
        if value is None and None in shape:
            return
        shape = next(alternative for alternative in shape if alternative is not None)
    if isinstance(shape, dict):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            raise ValueError(f"{at}: expected an object with {list(shape)}, not {value!r:.200}")
        for key, inner in shape.items():
            check_schema(value[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{at}: expected a list, not {value!r:.200}")
        for number, item in enumerate(value):
            check_schema(item, shape[0], f"{at}[{number}]")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        raise ValueError(f"{at}: expected {shape.__name__}, not {value!r:.200}")


class Document:
    """Gathers rows and figures, and saves them after each group if there is a file to save them to."""

    def __init__(self, arguments: dict[str, Any], machine: dict[str, Any], path: Path | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "schema": SCHEMA_NAME,
            "arguments": arguments,
            "machine": machine,
            "rows": [],
            "figures": [],
        }

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each contender."""
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows

    @property
    def figures(self) -> list[dict[str, Any]]:
        """One for each claim."""
        figures: list[dict[str, Any]] = self.content["figures"]
        return figures

    def take_up(self, path: Path) -> None:
        """Go on with the results in a file, if it is there.

        Raises
        ------
        ProbeError
            They are no results of the study, or of another size or device: not to be mixed.
        """
        if not path.exists():
            return
        found = read(path)
        for kind, name in (("arguments", "size"), ("arguments", "quick"), ("machine", "device"), ("machine", "cpu")):
            before, now = found[kind].get(name), self.content[kind].get(name)
            if before != now:
                raise ProbeError(f"{path} has the results of another run: {name} was {before}, and is {now}")
        self.content["rows"], self.content["figures"] = found["rows"], found["figures"]

    def has(self, group: Group) -> bool:
        """Whether a group has been measured."""
        return any((row["section"], row["group"]) == (group.section, group.name) for row in self.rows)

    def add(self, group: Group, runs: Runs, notes: dict[str, str]) -> None:
        """A group's rows and figures; saved at once."""
        for contender in group.contenders:
            of_name = runs.get(contender.name, [])
            note, by_operation = notes.get(contender.name, contender.note), group.per == "operation"
            self.rows.append(
                row(
                    *(group.section, group.name, contender.name, of_name),
                    by_operation=by_operation,
                    axes=contender.axes,
                    note=note,
                )
            )
        for claim in group.claims:
            self.figures.append(_figure(group, claim, runs, notes))
        self.save()

    def save(self) -> None:
        """Replace the file in one step, if there is one."""
        save_results(self.path, self.content)

    def all_met(self) -> bool:
        """Whether every figure with a target was measured and meets it."""
        return all(figure["met"] for figure in self.figures if figure["threshold"] is not None)


def read(path: Path) -> dict[str, Any]:
    """The results in a file.

    Raises
    ------
    ProbeError
        It has none, or of another version.
    """
    try:
        found: dict[str, Any] = json.loads(text_of(path, BYTES_MAX))
        check_schema(found)
    except (OSError, ValueError, RecursionError) as error:
        raise ProbeError(f"{path} has no results of the study: {error}") from error
    if found["schema"] != SCHEMA_NAME:
        raise ProbeError(f"{path} has results of another version: {found['schema']}, not {SCHEMA_NAME}")
    return found


def _figure(group: Group, claim: Claim, runs: Runs, notes: dict[str, str]) -> dict[str, Any]:
    value, note = claim.value(runs)
    if value is None:
        why = [text for text in (*notes.values(), *(contender.note for contender in group.contenders)) if text]
        note = "; ".join(dict.fromkeys(why)) or note
    target = claim.target
    return {
        "section": group.section,
        "group": group.name,
        "name": claim.name,
        "unit": claim.unit,
        "value": None if value is None else asdict(value),
        "rounds": min((len(of_name) for of_name in runs.values() if of_name), default=0),
        "direction": target.direction if target else None,
        "threshold": float(target.threshold) if target else None,
        "met": target.met_by(value.median) if target and value else None,
        "note": note,
    }
