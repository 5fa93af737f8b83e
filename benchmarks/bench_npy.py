"""gatherio.save and load against numpy's ways and other libraries: three sections of `gatherio bench`.

python benchmarks/bench_npy.py /somewhere/on/the/disk --json npy.json
"""

from __future__ import annotations

import sys

from study.command import main

SECTIONS = ("arrays", "peers", "memory")

if __name__ == "__main__":
    sys.exit(main([*(f"--section={name}" for name in SECTIONS), *sys.argv[1:]]))
