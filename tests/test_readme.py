"""The README's examples do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import ON_WINE

README = Path(__file__).parent.parent / "README.md"


def test_the_example_runs(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert [len(example.splitlines()) <= 12 for example in examples] == [True] * 3
    first, mapped, locked = examples
    monkeypatch.chdir(disk_dir)
    names: dict[str, Any] = {}
    exec(first, names)
    assert names["op"].result() == (disk_dir / "run.bin").stat().st_size == 8 * 2048 * 2048 * 2
    assert np.load("checkpoint.npy").shape == (10**7,)
    before = np.frombuffer((disk_dir / "run.bin").read_bytes(), "f8", 10**6, 12345)
    exec(mapped, names)
    after = np.frombuffer((disk_dir / "run.bin").read_bytes(), "f8", 10**6, 12345)
    assert (after == before + 1).all()
    del names["a"]
    exec(locked.replace("        pass", "        refused = True"), names)
    assert names.get("refused") or ON_WINE  # there transfers go through locked ranges
    assert np.fromfile("run.bin", "f8", 512).sum() == 512
