"""The benchmarks run, and what they write has the shape that they state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from oracle import ON_WINDOWS, not_under_wine

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("bench_transfer", "bench_npy", "bench_mapping")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measure

    return measure


def run(script: str, folder: Path, *options: str, **environment: str) -> tuple[str, dict[str, Any]]:
    results = folder / "results.json"
    command = [sys.executable, BENCHMARKS / f"{script}.py", "--tiny", "--rounds", "1", *options]
    done = subprocess.run(
        [*command, "--dir", folder, "--json", results],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == [results.name], "files were left behind"
    return done.stdout, json.loads(results.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_and_fits_its_schema(script: str, disk_dir: Path, measure: ModuleType) -> None:
    printed, document = run(script, disk_dir)
    measure.check_schema(document)
    assert document["schema"] == measure.SCHEMA_NAME
    assert document["script"] == script
    for name in document["arguments"]["only"]:
        assert f"\n## {name}\n" in printed
    for row in document["rows"]:
        assert row["rate"]["min"] <= row["rate"]["median"] <= row["rate"]["max"]
        assert row["rounds"] == 1 and row["rate"]["min"] > 0
    for figure in document["figures"]:
        assert (figure["met"] is None) == (figure["threshold"] is None or figure["value"] is None)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_target_has_a_figure(script: str, disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    targets = __import__(script).TARGETS
    _, document = run(script, disk_dir, PATH="")
    shown = {(figure["section"], figure["name"]): figure for figure in document["figures"]}
    assert targets.keys() <= shown.keys()
    for key, target in targets.items():
        assert (shown[key]["direction"], shown[key]["threshold"]) == (target.direction, target.threshold)


def test_without_fio_the_figures_say_so(disk_dir: Path, measure: ModuleType) -> None:
    printed, document = run("bench_transfer", disk_dir, "--only", "sequential", "--only", "random", PATH="")
    measure.check_schema(document)
    assert document["machine"]["fio"] is None
    against_fio = [figure for figure in document["figures"] if "fio" in figure["name"]]
    assert len(against_fio) == 9
    for figure in against_fio:
        assert figure["value"] is None and figure["met"] is None
        assert figure["note"] == "fio is not installed"
    assert "fio is not installed" in printed and "not shown" in printed


def test_what_does_not_fit_is_refused(disk_dir: Path) -> None:
    command = [sys.executable, BENCHMARKS / "bench_npy.py", "--dir", disk_dir, "--size", "1000000G"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "do not fit" in done.stderr
    assert os.listdir(disk_dir) == []


SIGNALS = [signal.SIGINT, signal.SIGBREAK if ON_WINDOWS else signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_it_leaves_nothing_behind(number: int, disk_dir: Path) -> None:
    code = [sys.executable, "-c", INTERRUPTED_FROM_WITHIN, number] if ON_WINDOWS else [sys.executable]
    options = ["--size", "1M", "--rounds", "1000000", "--dir", disk_dir]
    command = [*map(str, code), str(BENCHMARKS / "bench_npy.py"), *map(str, options)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=None if ON_WINDOWS else heed
    ) as process:
        try:
            if not ON_WINDOWS:
                while not list(disk_dir.glob("*/save.npy")):  # in the midst of it
                    assert process.poll() is None
                process.send_signal(number)
            out, errors = process.communicate(timeout=60)
            assert process.returncode == 128 + number, errors
        finally:
            process.kill()
    assert os.listdir(disk_dir) == []


def heed() -> None:
    """A job in the background of a shell ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


# No process of Windows sends signals to another.
INTERRUPTED_FROM_WITHIN = """if True:
    import os, runpy, signal, sys, threading, time
    from pathlib import Path
    number, script, folder = int(sys.argv[1]), sys.argv[2], sys.argv[-1]

    def interrupt():
        while not list(Path(folder).glob("*/save.npy")):
            time.sleep(0.002)
        signal.raise_signal(number)

    threading.Thread(target=interrupt, daemon=True).start()
    sys.argv[:2] = []
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
"""


def test_strict_tells_by_the_exit_code(measure: ModuleType) -> None:
    report = measure.Report({("a", "b"): measure.Target(">=", 2.0), ("a", "c"): measure.Target("<=", 2.0)})
    report.add_figure("a", "b", "x", measure.Spread.of([3, 1, 2]))
    assert report.all_met()
    report.add_figure("a", "c", "x", None, "no fio")
    assert not report.all_met()


def test_contenders_take_turns_and_the_first_round_does_not_count(measure: ModuleType) -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        return lambda: order.append(name) or len(order)

    runs = measure.interleaved({"a": contender("a"), "b": contender("b")}, 3, "")
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert runs == {"a": [3, 6, 7], "b": [4, 5, 8]}


def test_ratios_are_taken_within_rounds(measure: ModuleType) -> None:
    ratio = measure.Spread.ratio(lambda run: run, [10, 40, 30], [10, 20, 10])
    assert (ratio.median, ratio.min, ratio.max) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document.pop("machine"),
        lambda document: document.update(extra=1),
        lambda document: document["rows"][0].update(rounds="5"),
        lambda document: document["figures"][0].update(met="yes"),
        lambda document: document["rows"][0].update(rate=None),
    ],
)
def test_the_schema_is_checked(measure: ModuleType, break_it: Any) -> None:
    report = measure.Report({})
    run = measure.Run(1 << 20, 1, 1.0, None, 0.1, None, 0)
    report.add_transfers("s", {"a": [run]})
    report.add_figure("s", "f", "x", measure.Spread.of([1]))
    document = json.loads(json.dumps(report.document("script", {}, {})))
    measure.check_schema(document)
    break_it(document)
    with pytest.raises(ValueError, match="expected"):
        measure.check_schema(document)


@not_under_wine("its Python has no matplotlib")
def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gatherio[bench]'")
    documents = sorted((BENCHMARKS / "results").glob("*.json"))
    assert len(documents) == 2
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(BENCHMARKS / "plot.py"), *map(str, documents), "-o", str(picture)]
    subprocess.run(command, check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
