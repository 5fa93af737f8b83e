"""The scripts in benchmarks/ run; what they run is tested in test_bench.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study import document
from study.command import SECTIONS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("bench_transfer", "bench_npy", "bench_mapping")


def run(script: str, *arguments: str | Path, **options: Any) -> str:
    command = [sys.executable, BENCHMARKS / script, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs(script: str, disk_dir: Path, tmp_path: Path) -> None:
    sections = __import__(script).SECTIONS
    results = tmp_path / "results.json"
    run(f"{script}.py", disk_dir, "--tiny", "--json", results)
    assert os.listdir(disk_dir) == []
    assert {row["section"] for row in document.read(results)["rows"]} == set(sections)


def test_every_section_but_the_maps_has_a_script() -> None:
    sections = [name for script in SCRIPTS for name in __import__(script).SECTIONS]
    assert sorted([*sections, "maps"]) == sorted(SECTIONS)


def test_the_study_and_its_report(disk_dir: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    limited = ["--tiny", "--max-bytes", "1", "--section", "memory", "--resume", results, "--report", tmp_path / "a"]
    run("study", disk_dir, *limited)
    assert os.listdir(disk_dir) == []
    run("report.py", results, tmp_path / "b")
    assert (tmp_path / "a" / "study.md").read_bytes() == (tmp_path / "b" / "study.md").read_bytes()


def test_the_study_runs_as_a_module(disk_dir: Path) -> None:
    command = [sys.executable, "-m", "study", str(disk_dir), "--tiny", "--max-bytes", "1", "--section", "memory"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "gatherio.load, out=" in done.stdout


def test_the_results_have_their_shape() -> None:
    found = list((BENCHMARKS / "results").rglob("*.json"))
    assert BENCHMARKS / "results" / "study.json" in found
    for path in found:
        assert document.read(path)["rows"], path
