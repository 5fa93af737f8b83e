"""Writes tables and pictures from the JSON of the study.

    python benchmarks/report.py benchmarks/results/study.json benchmarks/results

The pictures need matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gatherio.bench import document, report


def main(results: str, folder: str) -> None:
    for path in report.write(document.read(Path(results)), Path(folder)):
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
