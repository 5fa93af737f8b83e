"""What a mapped view costs, and what asking for locks adds to a transfer: a section of `gatherio bench`.

python benchmarks/bench_mapping.py /somewhere/on/the/disk --json mapping.json
"""

from __future__ import annotations

import sys

from study.command import main

SECTIONS = ("mappings",)

if __name__ == "__main__":
    sys.exit(main([*(f"--section={name}" for name in SECTIONS), *sys.argv[1:]]))
