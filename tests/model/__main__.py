"""python -m model --dir D [--seed N] [--seconds S | --runs R] [--steps M] [--fuse]: see --help. In the folder tests."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuse import Fuse

from . import DifferenceError, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model", description="Random operations against a model in memory.")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    parser.add_argument("--seed", type=int, default=0, help="the first one; the next ones follow")
    parser.add_argument("--seconds", type=float, default=60, help="begin no further seed after that time")
    parser.add_argument("--runs", type=int, default=sys.maxsize, help="so many seeds at most")
    parser.add_argument("--steps", type=int, default=200, help="of each seed")
    parser.add_argument(
        "--fuse", action="store_true", help="on a FUSE server (tests/fuse.py) mounted below DIR; as root"
    )
    parser.add_argument("--go-on", action="store_true", help="after a difference, too")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    steps: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    runs = different = 0
    with contextlib.ExitStack() as at_end:
        folder = options.dir
        if options.fuse:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="fuse-", dir=folder)))
            at_end.enter_context(Fuse(folder))
        while time.monotonic() < end and runs < options.runs and (options.go_on or not different):
            faulthandler.dump_traceback_later(240, exit=True)
            if sys.stdout.isatty():
                print(f"seed {options.seed + runs}", end="\r", flush=True)
            try:
                taken = run(options.seed + runs, folder, options.steps)
                steps += taken.steps
                outcomes += taken.outcomes
            except DifferenceError as difference:
                print(difference, flush=True)
                different += 1
            runs += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{runs} seeds, {steps.total()} steps, {different} differences")
    for counted in (steps, outcomes):
        print(", ".join(f"{name} {count}" for name, count in counted.most_common()))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
