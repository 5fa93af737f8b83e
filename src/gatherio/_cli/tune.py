"""`gatherio tune`: its command line."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from .. import _settings as tuning
from .._core.queue import DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE
from .._device import block_device
from .._folders import RefusedError, work_folder
from .._text import json_text, shown
from .._version import __version__
from ..probe import SIZE_MIN, Bed, ProbeError, automatic_size, require_room_for
from .arguments import ADVICE, OK, add_command, refuse, size
from .text import fields, markdown_table, number, progress, say
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


def add(commands: Any) -> None:
    """The command, its options and its help."""
    summary = "measure a device for a minute, and store the settings that suit it"
    command = add_command(commands, "tune", summary, TEXT, EPILOG)
    command.set_defaults(run=run)
    add = command.add_argument
    add("directory", metavar="DIR", help="a folder on the device")
    add("--for", dest="aim", choices=("throughput", "cpu"), default="throughput", help="(default: throughput)")
    add("--max-seconds", type=float, default=60, metavar="N", help="(default: 60)")
    add("--size", type=size, metavar="BYTES", help="of each of the two files that are used; up to 512M by default")
    add("--forget", action="store_true", help="measure nothing; remove what is stored for the device")
    add("--json", action="store_true", help="print JSON")
    add("--tiny", action="store_true", help=argparse.SUPPRESS)  # see that it works: the result means nothing


def run(arguments: argparse.Namespace) -> int:
    """Measure and store, or forget; the exit code."""
    try:
        return _forget(arguments) if arguments.forget else _tune(arguments)
    except ProbeError as error:
        return refuse("tune", str(error))
    except RefusedError as error:
        return refuse("tune", f"{error.filename}: {error.strerror}")


def _parent(arguments: argparse.Namespace) -> Path:
    parent = Path(arguments.directory)
    if not parent.is_dir():
        raise ProbeError(f"no such folder: {parent}")
    if arguments.max_seconds <= 0:
        raise ProbeError("--max-seconds is more than 0")
    return parent


def _forget(arguments: argparse.Namespace) -> int:
    parent = _parent(arguments)
    was_there = tuning.forget(parent)
    say(f"{'removed from' if was_there else 'nothing is stored for it in'} {shown(str(tuning.tuning_file()))}")
    return OK


def _tune(arguments: argparse.Namespace) -> int:
    parent, began = _parent(arguments), time.monotonic()
    nbytes = arguments.size or (SIZE_MIN if arguments.tiny else automatic_size(parent, SIZE_MAX))
    nbytes = max(SIZE_MIN, nbytes - nbytes % SIZE_MIN)
    tuning.check_storable()
    require_room_for(parent, nbytes)
    with work_folder(parent, "gatherio-tune", ADVICE) as folder, progress() as step:
        tuner = Tuner(Bed(folder, nbytes, tiny=arguments.tiny), arguments.aim, arguments.max_seconds, step, began=began)
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


def _cells(entry: dict[str, Any]) -> list[str]:
    if "mib_per_s" in entry:
        return [entry["name"], number(entry["mib_per_s"]), number(entry["cpu_s_per_gib"])]
    return [entry["name"], f"{entry['per_s']} per s", ""]


def _text(told: dict[str, Any]) -> str:
    settings = told["settings"]
    usual = {"request_size": DEFAULT_REQUEST_SIZE, "depth": DEFAULT_DEPTH, "registered": False, "stage_below": 0}
    lines = [
        (name, f"{value}" + (" (the default)" if value == usual[name] else f" (default: {usual[name]})"))
        for name, value in settings.items()
    ]
    return "\n\n".join(
        [
            markdown_table(["what", "rate", "CPU s/GiB"], map(_cells, told["measured"])),
            f"Picked for {told['aim']}, in {told['seconds']} s:\n{fields(lines)}",
            f"Stored for {shown(told['identity'])} in\n  {shown(told['file'])}",
        ]
    )
