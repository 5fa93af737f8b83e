"""`python benchmarks/study DIR`, or `python -m study DIR` in benchmarks/: `gatherio bench` with this study."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # its folder was run: what is imported is the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from study.command import main

sys.exit(main())
