"""The study: it runs, it says what it could not measure, it keeps to its limits and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import ON_WINDOWS

import gatherio as gio
from gatherio._cli.bench import SECTIONS as NAMES_OF_SECTIONS
from gatherio._cli.quick import Limits
from gatherio._cli.text import markdown_table
from gatherio.probe import ProbeError, Run, Spread, fill_pattern, rate, stored_difference
from study import bare_loop, document, fio, peers, report
from study.bed import Bed, Extent
from study.command import SECTIONS, main
from study.groups import Claim, Contender, Group, turns
from study.runner import run_groups
from study.runs import Target, outside

MIB = 1 << 20
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STUDY = [sys.executable, str(BENCHMARKS / "study")]


def bench(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*STUDY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, **options)


def measured(folder: Path, *arguments: str | Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """What a tiny run prints, and its results."""
    results = folder / "results.json"
    done = bench(folder, "--tiny", "--json", results, *arguments, **options)
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == [results.name], "files were left behind"
    return done.stdout, document.read(results)


def without_tools(**environment: str) -> dict[str, str]:
    """An environment in which there is no fio and no compiler."""
    return {**os.environ, "PATH": "", **environment}


# --- each section runs ---


def test_the_command_line_names_the_sections_that_there_are() -> None:
    assert NAMES_OF_SECTIONS == tuple(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_makes_its_files_when_it_runs(section: str, disk_dir: Path) -> None:
    """All sections are listed before the first one runs, and files are removed behind each."""
    assert list(SECTIONS[section](Bed(disk_dir, Extent(2 * MIB, tiny=True))))
    assert list(disk_dir.glob("*.bin")) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_runs_and_its_results_have_their_shape(section: str, disk_dir: Path) -> None:
    printed, found = measured(disk_dir, "--section", section)
    assert {row["section"] for row in found["rows"]} == {section}
    for row in found["rows"]:
        assert (row["rounds"] == 0) == (row["rate"] is None)
        assert row["rate"] is not None or row["note"], row["name"]
        assert not row["note"].startswith(("failed", "LOSES DATA")), (row["name"], row["note"])
        if row["rate"]:
            assert 0 < row["rate"]["min"] <= row["rate"]["median"] <= row["rate"]["max"]
            assert len(row["samples"]) == row["rounds"]
    for figure in found["figures"]:
        assert (figure["met"] is None) == (figure["threshold"] is None or figure["value"] is None)
        assert figure["value"] is not None or figure["note"]
    ours = [row for row in found["rows"] if row["axes"].get("library") == "gatherio" and section != "peers"]
    for row in ours:
        assert row["told"].startswith(("direct", "buffered")) or row["group"] in ("save, durable", "load, cold")
    if section != "maps":
        assert f"## {report.TITLES[section]}" in printed


def test_quick_is_also_a_selection_of_the_study(disk_dir: Path) -> None:
    """Where an option of the study's is given: beside fio, and with a report."""
    printed, found = measured(disk_dir, "--quick", "--section", "sequential", "--section", "small")
    assert "## In short" in printed
    for line in ("write one array over an old file", "4 KiB random reads, depth 1", "the same, asyncio"):
        assert line in printed
    assert found["arguments"]["quick"]
    assert {row["section"] for row in found["rows"]} == {"sequential", "small"}
    assert {"fio", "bare C loop"} <= {row["axes"]["library"] for row in found["rows"]}


def test_without_fio_and_a_compiler_the_rows_say_so(disk_dir: Path) -> None:
    printed, found = measured(disk_dir, "--section", "sequential", env=without_tools())
    notes = {row["note"] for row in found["rows"] if row["axes"]["library"] in ("fio", "bare C loop")}
    assert "fio is not installed" in notes
    assert len(notes) == 2  # of the bare loop: no compiler, no source, or no io_uring
    assert found["machine"]["fio"] is None
    against = [figure for figure in found["figures"] if "fio" in figure["name"]]
    assert against
    for figure in against:
        assert figure["value"] is None and figure["met"] is None
        assert "fio is not installed" in figure["note"]
    assert "not shown" in printed


def test_machine_facts(disk_dir: Path) -> None:
    facts = measured(disk_dir, "--section", "memory")[1]["machine"]
    assert facts["cpus"] >= 1
    assert facts["memory_bytes"] > MIB
    assert facts["file_system"] == gio.info(disk_dir)["path"]["file_system"]
    assert facts["gatherio"] == gio.__version__
    assert {"device", "mount_options", "scheduler", "logical_block_size", "kernel", "cpu"} <= facts.keys()


# --- limits, resuming, ends ---


def test_resumed_it_measures_the_rest(disk_dir: Path, tmp_path: Path) -> None:
    results = tmp_path / "study.json"
    options = [disk_dir, "--tiny", "--section", "kinds", "--resume", results]
    first = bench(*options, "--max-bytes", "1")
    assert first.returncode == 0, first.stderr
    assert f"--resume {results} goes on" in first.stdout.replace("\n", " ")
    before = document.read(results)["rows"]
    second = bench(*options)
    assert second.returncode == 0, second.stderr
    assert "1 comparisons were there already" in second.stdout
    after = document.read(results)["rows"]
    assert after[: len(before)] == before
    assert len(after) > len(before) > 0
    assert "6 comparisons were there already" in bench(*options).stdout


def test_other_results_are_not_taken_up(disk_dir: Path, tmp_path: Path) -> None:
    results = tmp_path / "study.json"
    assert bench(disk_dir, "--tiny", "--section", "memory", "--resume", results).returncode == 0
    done = bench(disk_dir, "--size", "4M", "--section", "memory", "--resume", results)
    assert done.returncode == 2
    assert "results of another run: size was 2097152, and is 4194304" in done.stderr
    for content in ("no JSON", "{}", "[]"):
        results.write_text(content)
        done = bench(disk_dir, "--tiny", "--resume", results)
        assert done.returncode == 2
        assert "has no results of the study" in done.stderr
        assert results.read_text() == content


def test_limited_by_seconds(disk_dir: Path) -> None:
    done = bench(disk_dir, "--tiny", "--max-seconds", "0.001", "--section", "maps")
    assert done.returncode == 0
    assert "Stopped by --max-seconds 0.001" in done.stdout
    assert list(disk_dir.iterdir()) == []


def test_what_does_not_fit_is_refused(disk_dir: Path) -> None:
    done = bench(disk_dir, "--size", "900T")
    assert done.returncode == 2
    assert "do not fit" in done.stderr
    assert bench(disk_dir / "no").stderr == f"gatherio bench: no such folder: {disk_dir / 'no'}\n"
    assert "2M or more" in bench(disk_dir, "--size", "1").stderr
    assert list(disk_dir.iterdir()) == []


def test_on_a_small_disk_it_takes_less(small_disk_dir: Path, tmp_path: Path) -> None:
    done = bench(small_disk_dir, "--section", "arrays", "--rounds", "1", "--json", tmp_path / "small.json")
    assert done.returncode == 0, done.stderr
    assert document.read(tmp_path / "small.json")["arguments"]["size"] == 2 * MIB
    assert list(small_disk_dir.iterdir()) == []


# No process of Windows sends signals to another.
INTERRUPTED_FROM_WITHIN = """if True:
    import signal, sys, threading, time
    from pathlib import Path
    from study.command import main

    number, folder = int(sys.argv[1]), sys.argv[2]

    def interrupt():
        while not list(Path(folder).glob("*/*.npy")):
            time.sleep(0.002)
        signal.raise_signal(number)

    threading.Thread(target=interrupt, daemon=True).start()
    sys.exit(main([folder, *sys.argv[3:]]))
"""


def heed() -> None:
    """A job in the background of a shell ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGBREAK if ON_WINDOWS else signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(number: int, disk_dir: Path) -> None:
    options = ["--size", "2M", "--rounds", "1000000", "--section", "arrays"]
    script = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n{INTERRUPTED_FROM_WITHIN}"
    within = [sys.executable, "-c", script, str(int(number)), str(disk_dir), *options]
    command = within if ON_WINDOWS else [*STUDY, str(disk_dir), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=None if ON_WINDOWS else heed
    ) as process:
        try:
            if not ON_WINDOWS:
                while not list(disk_dir.glob("*/*.npy")):  # in the midst of it
                    assert process.poll() is None
                    time.sleep(0.002)
                process.send_signal(number)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 128 + number, errors
            assert "cleaned up" in errors
        finally:
            process.kill()
    assert os.listdir(disk_dir) == []


# --- turns, claims, notes ---


def run_of(seconds: float) -> Run:
    return outside(MIB, 1, seconds, 0.1)


def a_group(contenders: list[Contender], rounds: int = 1, **options: Any) -> Group:
    return Group("kinds", "a group", contenders, rounds, **options)


def after(groups: list[Group], limits: Limits | None = None) -> document.Document:
    found = document.Document({}, {})
    run_groups(groups, found, limits or Limits(), lambda done, total, what: None)
    document.check_schema(json.loads(json.dumps(found.content)))
    return found


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    group = a_group([Contender(name, lambda: run_of(1)) for name in "ab"], rounds=3)
    assert "".join(contender.name for _, contender in turns(group)) == "ab" + "ab" + "ba" + "ab"
    assert [number for number, _ in turns(group)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert group.turns == 8
    assert [row["rounds"] for row in after([group]).rows] == [3, 3]


def test_ratios_are_taken_within_rounds() -> None:
    runs = {"a": [run_of(s) for s in (1, 1 / 4, 1 / 3)], "b": [run_of(s) for s in (1, 1 / 2, 1)]}
    value, _ = Claim("c", "x", rate, "a", "b").value(runs)
    assert value == Spread(pytest.approx(2), pytest.approx(1), pytest.approx(3))


def test_the_best_of_several() -> None:
    runs = {"gatherio": [run_of(1)], "fio x": [run_of(2)], "fio y": [run_of(0.5)]}
    value, note = Claim("c", "x", rate, "gatherio", "fio*").value(runs)
    assert value is not None and value.median == pytest.approx(0.5)
    assert note == "fio y"
    assert Claim("c", "x", rate, "gatherio", "dd*").value(runs) == (None, "there is no dd here")


def test_what_fails_says_so_and_the_others_go_on() -> None:
    def fail() -> Run:
        raise OSError(5, "Input/output error")

    group = a_group(
        [
            Contender("good", lambda: run_of(1)),
            Contender("bad", fail, foreign=True),
            Contender("absent", None, note="no"),
        ],
        claims=[Claim("c", "x", rate, "good", "bad", Target(">=", 1))],
    )
    found = after([group])
    rows = {row["name"]: row for row in found.rows}
    assert rows["good"]["rounds"] == 1
    assert rows["bad"]["note"] == "failed: OSError: [Errno 5] Input/output error"
    assert rows["absent"]["note"] == "no"
    (figure,) = found.figures
    assert figure["value"] is None and figure["met"] is None and "Input/output error" in figure["note"]
    assert not found.all_met()
    outcome = run_groups(
        [a_group([Contender("ours", fail)])], document.Document({}, {}), Limits(), lambda done, total, what: None
    )
    assert outcome.failures == ["kinds, a group: ours failed: OSError: [Errno 5] Input/output error"]


def test_wrong_data_ends_the_study() -> None:
    def wrong() -> Run:
        raise ProbeError("wrong data: a byte")

    with pytest.raises(ProbeError):
        after([a_group([Contender("wrong", wrong, foreign=True)])])


def test_a_group_under_way_ends_with_whole_rounds() -> None:
    group = a_group([Contender(name, lambda: run_of(1)) for name in "ab"], rounds=9)
    found = after([group], Limits(nbytes=5 * MIB))
    assert [row["rounds"] for row in found.rows] == [2, 2]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda found: found.pop("machine"),
        lambda found: found.update(extra=1),
        lambda found: found["rows"][0].update(rounds="5"),
        lambda found: found["figures"][0].update(met="yes"),
        lambda found: found["rows"][0].update(told=None),
    ],
)
def test_the_schema_is_checked(break_it: Callable[[dict[str, Any]], object]) -> None:
    group = a_group([Contender("a", lambda: run_of(1))], claims=[Claim("c", "MiB/s", rate, "a")])
    content = json.loads(json.dumps(after([group]).content))
    document.check_schema(content)
    break_it(content)
    with pytest.raises(ValueError, match="expected"):
        document.check_schema(content)


# --- peers ---


def stored(peer: peers.Peer, folder: Path) -> np.ndarray[Any, Any]:
    array = gio.empty(2 * MIB // 8, np.uint64)
    fill_pattern(array)
    assert peer.write is not None
    peer.write(folder, array)
    return array


def plain_file(folder: Path, nbytes: int) -> peers.Pieces:
    return [(folder / "a", 0, None)]


PLAIN = peers.Peer("plain", "numpy", lambda folder, array: array.tofile(folder / "a"), None, plain_file)


def test_what_a_peer_loses_is_found(tmp_path: Path) -> None:
    here = [peer for peer in peers.PEERS if peer.in_extra and not peer.missing()]  # none has to be
    for peer in [PLAIN, *here]:
        folder = tmp_path / peer.name
        folder.mkdir()
        array = stored(peer, folder)
        assert peers.loss(peer, folder, array) == "", peer.name
        path, start, _ = peer.pieces(folder, array.nbytes)[-1]
        with open(path, "rb+") as file:
            file.seek(start + MIB)
            file.write(b"?")
        assert "wrong from byte" in peers.loss(peer, folder, array), peer.name


def test_a_missing_tail_is_found(tmp_path: Path) -> None:
    peer = replace(PLAIN, write=lambda folder, array: array[:-512].tofile(folder / "a"))
    array = stored(peer, tmp_path)
    assert peers.loss(peer, tmp_path, array) == f"4096 of {array.nbytes} bytes are missing"
    assert stored_difference(tmp_path / "a", array.nbytes).startswith("4096 of")


def test_a_peer_that_is_not_there_says_so() -> None:
    (peer,) = (peer for peer in peers.PEERS if peer.name == "zarr")
    absent = peers.Peer("x", "no_such_module.inner", peer.write, peer.read, peer.pieces)
    assert absent.missing() == "x is not installed: pip install 'gatherio[bench]'"


# --- tables and pictures ---


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Of a tiny run of what the pictures show."""
    folder = tmp_path_factory.mktemp("bench")
    sections = ("sequential", "arrays", "separate", "small", "peers", "maps")
    chosen = [option for name in sections for option in ("--section", name)]
    done = bench(folder, "--tiny", "--json", folder / "results.json", *chosen)
    assert done.returncode == 0, done.stderr
    yield document.read(folder / "results.json")


def test_the_report(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gatherio[pictures]'")
    written = list(report.write(results, tmp_path / "new"))
    names = {path.name for path in written}
    assert {"study.md", "headline.png", "map-direct-rate.png", "paths.png", "latency.png", "peers.png"} <= names
    for path in written[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    page = written[0].read_text(encoding="utf-8")
    for path in written[1:]:
        assert f"({path.name})" in page
    assert "### read cold, direct" in page


def test_tables_line_up() -> None:
    text = markdown_table(["a", "bb"], [["long|one", "1"], ["x", ""]])
    assert len({len(line.replace("\\|", "|")) for line in text.splitlines()}) <= 2
    assert "long\\|one" in text


def test_strict_tells_by_the_exit_code(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document.Document, "all_met", lambda self: False)
    assert main([str(disk_dir), "--tiny", "--section", "memory", "--strict"]) == 1


# --- fio and the bare loop ---


def test_no_fio_without_fio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert fio.why_not(tmp_path) == "fio is not installed"


@pytest.mark.skipif(ON_WINDOWS, reason="not on Windows: it has no io_uring")
def test_the_bare_loop_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "no.c"
    source.write_text("no C\n")
    program, why = bare_loop.build(tmp_path, source)
    assert program is None and "does not compile no.c: " in why
    monkeypatch.setenv("PATH", "")
    assert bare_loop.build(tmp_path, source)[1].startswith("there is no C compiler")
    monkeypatch.setattr(bare_loop, "SOURCE", tmp_path / "bare_uring.c")
    why = "benchmarks/bare_uring.c is not here, or others may write to it: give --bare-loop FILE"
    assert bare_loop.build(tmp_path) == (None, why)


def test_the_common_file_keeps_its_words(disk_dir: Path) -> None:
    bed = Bed(disk_dir, Extent(2 * MIB, tiny=True))
    bed.array()[...] = 0
    assert stored_difference(bed.file(), bed.size) == ""
    assert bed.file("write") != bed.file("read")
    bed.release()
    assert not list(disk_dir.glob("*.bin"))
