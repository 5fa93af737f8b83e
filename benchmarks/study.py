"""The full study, with tables and pictures: `gatherio bench` into benchmarks/results.

    python benchmarks/study.py /somewhere/on/the/disk

Takes some half an hour, and goes on where it was stopped. More options: `gatherio bench --help`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gatherio.__main__ import main

RESULTS = Path(__file__).parent / "results"

if __name__ == "__main__":
    sys.exit(main(["bench", "--resume", str(RESULTS / "study.json"), "--report", str(RESULTS), *sys.argv[1:]]))
