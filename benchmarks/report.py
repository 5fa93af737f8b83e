"""Writes tables and pictures from the JSON of the study.

    python benchmarks/report.py benchmarks/results/study.json benchmarks/results

The pictures need matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gatherio._cli.text import complain, say
from gatherio._text import shown
from gatherio.probe import ProbeError
from study import document, report


def main(results: str, folder: str) -> None:
    for path in report.write(document.read(Path(results)), Path(folder)):
        say(shown(str(path)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ProbeError as error:
        complain(f"report.py: {error}")
        sys.exit(1)
