"""Gather, scatter and small reads against fio and a bare C loop: four sections of `gatherio bench`.

python benchmarks/bench_transfer.py /somewhere/on/the/disk --json transfer.json
"""

from __future__ import annotations

import sys

from study.command import main

SECTIONS = ("sequential", "separate", "small", "kinds")

if __name__ == "__main__":
    sys.exit(main([*(f"--section={name}" for name in SECTIONS), *sys.argv[1:]]))
