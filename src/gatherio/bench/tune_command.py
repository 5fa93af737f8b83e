"""`gatherio tune`: its command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .. import tuning
from .._device import block_device
from .._folders import RefusedError, work_folder
from .._report import complain, fields, progress, say
from .._text import json_text, shown
from .._version import __version__
from ..demo import ADVICE
from ..queue import DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE
from . import bed as beds
from .bed import Bed, Extent
from .room import BenchError, require_room
from .tables import number, table
from .tuner import SIZE_MAX, Tuner

TEXT: Final = """\
Measure the device under DIR for at most a minute, and pick what suits it: the
size of requests, how many of them are in flight, registered buffers where they
are to be had, and whether separate pages are written and read in place or
through large buffers. The result is stored for this device in your
configuration folder. gatherio.open, save and load use it from then on, and say
so in File.reason; gatherio info shows it.

Everything happens in a temporary folder inside DIR, which goes at the end.
"""
EPILOG: Final = """\
examples:
  gatherio tune /data
  gatherio tune /data --for cpu    what costs least CPU time
  gatherio tune /data --forget     back to the defaults
  gatherio info /data              what is stored

exit code: 0; 2 if DIR cannot be measured; 130 after Ctrl-C, 143 after SIGTERM.
"""
OK, UNUSABLE = 0, 2


def add_options(command: argparse.ArgumentParser, size: Callable[[str], int]) -> None:
    """The options of `gatherio tune`; `size` reads a number of bytes."""
    add = command.add_argument
    add("directory", metavar="DIR", help="a folder on the device")
    add("--for", dest="aim", choices=("throughput", "cpu"), default="throughput", help="(default: throughput)")
    add("--max-seconds", type=float, default=60, metavar="N", help="(default: 60)")
    add("--size", type=size, metavar="BYTES", help="of each of the two files that are used; up to 512M by default")
    add("--forget", action="store_true", help="measure nothing; remove what is stored for the device")
    add("--json", action="store_true", help="print JSON")
    add("--tiny", action="store_true", help=argparse.SUPPRESS)  # see that it works: the result means nothing


def run_tune(arguments: argparse.Namespace) -> int:
    """Measure and store, or forget; the exit code."""
    try:
        return _forget(arguments) if arguments.forget else _tune(arguments)
    except BenchError as error:
        complain(f"gatherio tune: {error}")
    except RefusedError as error:
        complain(f"gatherio tune: {error.filename}: {error.strerror}")
    return UNUSABLE


def _parent(arguments: argparse.Namespace) -> Path:
    parent = Path(arguments.directory)
    if not parent.is_dir():
        raise BenchError(f"no such folder: {parent}")
    if arguments.max_seconds <= 0:
        raise BenchError("--max-seconds is more than 0")
    return parent


def _forget(arguments: argparse.Namespace) -> int:
    parent = _parent(arguments)
    was_there = tuning.forget(parent)
    say(f"{'removed from' if was_there else 'nothing is stored for it in'} {shown(str(tuning.tuning_file()))}")
    return OK


def _tune(arguments: argparse.Namespace) -> int:
    parent, began = _parent(arguments), time.monotonic()
    size = arguments.size or (beds.TINY_SIZE if arguments.tiny else min(SIZE_MAX, beds.automatic_size(parent, False)))
    size = max(beds.TINY_SIZE, size - size % beds.TINY_SIZE)
    tuning.check_storable()
    require_room(parent, int(size * beds.DISK_FACTOR), int(size * beds.MEMORY_FACTOR))
    with work_folder(parent, "gatherio-tune", ADVICE) as folder, progress() as step:
        bed = Bed(folder, Extent(size, tiny=arguments.tiny))
        tuner = Tuner(bed, arguments.aim, arguments.max_seconds, step, began=began)
        picked = tuner.pick()
    device = block_device(parent)
    details = {
        "aim": arguments.aim,
        "device": device.name if device else None,
        "measured": tuner.measured,
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "gatherio": __version__,
        "seconds": round(time.monotonic() - began, 1),
    }
    identity = tuning.store(parent, picked, details)
    told = {"file": str(tuning.tuning_file()), "identity": identity, "settings": tuning.as_dict(picked), **details}
    say(json_text(told) if arguments.json else _text(told))
    return OK


def _measured_cells(entry: dict[str, Any]) -> tuple[str, str]:
    if "mib_per_s" in entry:
        return f"{number(entry['mib_per_s'])} MiB/s", number(entry["cpu_s_per_gib"])
    return (f"{entry['per_s']} per s" if "per_s" in entry else ""), ""


def _text(told: dict[str, Any]) -> str:
    rows = [
        [
            entry["name"],
            number(entry["mib_per_s"])
            if "mib_per_s" in entry
            else f"{entry['per_s']} per s"
            if "per_s" in entry
            else "",
            number(entry["cpu_s_per_gib"]) if "cpu_s_per_gib" in entry else "",
        ]
        for entry in told["measured"]
    ]
    settings = told["settings"]
    usual = {"request_size": DEFAULT_REQUEST_SIZE, "depth": DEFAULT_DEPTH, "registered": False, "stage_below": 0}
    lines = [
        (name, f"{value}" + (" (the default)" if value == usual[name] else f" (default: {usual[name]})"))
        for name, value in settings.items()
    ]
    return "\n\n".join(
        [
            table(["what", "rate", "CPU s/GiB"], rows),
            f"Picked for {told['aim']}, in {told['seconds']} s:\n{fields(lines)}",
            f"Stored for {shown(told['identity'])} in\n  {shown(told['file'])}",
        ]
    )
