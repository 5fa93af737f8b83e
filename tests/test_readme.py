"""The README's example does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 12
    monkeypatch.chdir(disk_dir)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["op"].result() == (disk_dir / "run.bin").stat().st_size == 8 * 2048 * 2048 * 2
    assert np.load("checkpoint.npy").shape == (10**7,)
