"""What a mapped view costs, and what asking for locks adds to a transfer: a section of `gatherio bench`.

python benchmarks/bench_mapping.py /somewhere/on/the/disk --json mapping.json
"""

from __future__ import annotations

import sys

from gatherio.__main__ import main

SECTIONS = ("mappings",)

if __name__ == "__main__":
    sys.exit(main(["bench", *(f"--section={name}" for name in SECTIONS), *sys.argv[1:]]))
