"""`gatherio info`, `demo` and `bench --quick`, as they are called: in processes of their own."""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import BACKENDS, MIB, ON_WINDOWS, heard, needs_root, not_on_windows, require

import gatherio as gio
from gatherio import _measure, probe
from gatherio._cli import arguments, demo_job, demo_phases, main, signals
from gatherio._formats import npy
from gatherio._native import ffi
from gatherio._text import size_text

GATHERIO = [sys.executable, "-m", "gatherio"]
STEPS = {
    ("write_gather", "gatherio", "write"),
    ("write_gather, copied", "gatherio", "write"),
    ("numpy a[i].tofile", "numpy", "write"),
    ("read_scatter", "gatherio", "read"),
    ("read_scatter, copied", "gatherio", "read"),
    ("numpy fromfile", "numpy", "read"),
    ("gio.save", "gatherio", "write"),
    ("gio.save plain array", "gatherio", "write"),
    ("np.save", "numpy", "write"),
    ("gio.load", "gatherio", "read"),
    ("gio.load out=", "gatherio", "read"),
    ("np.load", "numpy", "read"),
}


FOLDERS = ["disk_dir"] if ON_WINDOWS else ["disk_dir", "tmpfs_dir"]


def call(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [*GATHERIO, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def output(*arguments: str | Path, **options: Any) -> str:
    done = call(*arguments, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(*arguments: str | Path) -> str:
    """The one line on standard error of a call that ends with 2."""
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


# --- both ---


def test_no_arguments_show_the_help() -> None:
    assert output() == output("--help")


@pytest.mark.parametrize("command", [[], ["info"], ["demo"], ["bench"], ["tune"]])
def test_help_fits_a_terminal(command: list[str]) -> None:
    text = output(*command, "--help", env={**os.environ, "COLUMNS": "80"})
    assert "examples:" in text
    assert max(map(len, text.splitlines())) <= 80


def test_version() -> None:
    assert output("--version") == f"gatherio {gio.__version__}\n"


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("gatherio.exe" if ON_WINDOWS else "gatherio")
    if not script.exists():
        pytest.skip("gatherio is not installed beside this Python: pip install .")
    done = subprocess.run([script, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"gatherio {gio.__version__}\n"


def test_a_reader_that_leaves_early() -> None:
    process = subprocess.Popen([*GATHERIO, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


COMMANDS = [
    ["--help"],
    ["--version"],
    [],
    ["info"],
    ["info", "--json"],
    ["info", "--help"],
    ["demo", "DIR", "--size", "1M"],
    ["demo", "DIR", "--size", "1M", "--json"],
    ["tune", "DIR", "--tiny"],
    ["tune", "DIR", "--forget"],
    ["bench", "DIR", "--quick", "--tiny"],
]


@not_on_windows("it has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("where", ["full", "closed"])
def test_output_that_cannot_be_written(where: str, arguments: list[str], unbuffered: str, disk_dir: Path) -> None:
    if unbuffered and arguments[:1] in (["demo"], ["tune"], ["bench"]):
        arguments = ["info", str(disk_dir)]
    words = [str(disk_dir) if word == "DIR" else word for word in arguments]
    end = ">/dev/full" if where == "full" else ">&-"
    command = ["sh", "-c", f'exec "$@" {end}', "sh", *GATHERIO, *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "XDG_CONFIG_HOME": str(disk_dir / "config")}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    name = words[0] if words and not words[0].startswith("-") and "--help" not in words else ""
    why = os.strerror(errno.ENOSPC) if where == "full" else "it is closed"
    assert done.stderr == f"gatherio{' ' if name else ''}{name}: standard output cannot be written: {why}\n"
    assert done.returncode == 1
    assert [path.name for path in disk_dir.iterdir() if path.name != "config"] == []


@not_on_windows("it has no /dev/full")
@pytest.mark.parametrize("end", ["2>/dev/full", "2>&-"])
def test_a_complaint_that_cannot_be_written(end: str, disk_dir: Path) -> None:
    """It does not go to standard output instead, and the exit code stays."""
    for words in (["info", str(disk_dir / "no")], ["demo", str(disk_dir / "no")], ["tune", str(disk_dir / "no")]):
        done = subprocess.run(["sh", "-c", f'exec "$@" {end}', "sh", *GATHERIO, *words], stdout=subprocess.PIPE)
        assert (done.returncode, done.stdout) == (2, b"")


def test_an_error_of_the_system_is_one_line(disk_dir: Path) -> None:
    (disk_dir / "file").touch()
    done = call("bench", disk_dir, "--quick", "--tiny", "--json", disk_dir / "file" / "results.json")
    (line,) = done.stderr.splitlines()
    assert line.startswith("gatherio bench: ") and "results.json" in line
    assert done.returncode == 1


# --- info ---


def test_info_tells_what_the_library_tells(disk_dir: Path) -> None:
    told = json.loads(output("info", disk_dir, "--json"))
    expected = gio.info(disk_dir)
    for volume in (told["path"], expected["path"]):
        del volume["free_bytes"]
    assert told == expected


@pytest.mark.parametrize("folder", FOLDERS)
def test_info_for_people(folder: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(folder)
    found = gio.info(path)
    text = output("info", path)
    for name in found["backends"]:
        assert re.search(rf"^  {name}\b", text, re.MULTILINE)
    assert f"{found['backend']} (default)" in text
    assert re.search(rf"file system +{found['path']['file_system']}\n", text)
    assert ("transfers    direct" in text) == found["path"]["direct"]
    assert found["path"]["reason"] in " ".join(text.split())
    assert max(len(line) for line in text.splitlines() if line != str(path)) <= 80
    assert not list(path.iterdir())


def test_info_about_a_file(disk_dir: Path) -> None:
    path = disk_dir / "data.npy"
    np.save(path, np.arange(3))
    before = path.read_bytes()
    assert json.loads(output("info", path, "--json"))["path"]["path"] == str(path)
    assert path.read_bytes() == before


def test_info_about_what_is_not_there(disk_dir: Path) -> None:
    path = disk_dir / "missing"
    with pytest.raises(FileNotFoundError) as told:
        path.stat()
    assert refused("info", path) == f"gatherio info: {path}: {told.value.strerror}"


def test_info_about_what_is_no_file() -> None:
    assert refused("info", os.devnull) == f"gatherio info: {os.devnull!r} is neither a file nor a folder"


def test_info_about_a_path_that_the_output_cannot_say(disk_dir: Path) -> None:
    path = disk_dir / "данные"
    path.mkdir()
    text = output("info", path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert r"\u0434\u0430\u043d\u043d\u044b\u0435" in text


@not_on_windows("it has no mkfifo")
def test_info_does_not_wait_for_the_other_end_of_a_pipe(disk_dir: Path) -> None:
    path = disk_dir / "pipe"
    os.mkfifo(path)
    assert "neither a file nor a folder" in refused("info", path)


@not_on_windows("it has no io_uring")
def test_info_with_io_uring_forbidden() -> None:
    inject = [require("strace", "strace"), "-f", "-o", "/dev/null", "-e", "inject=io_uring_setup:error=EPERM"]
    done = subprocess.run([*inject, *GATHERIO, "info", "--json"], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["backend"] == "threads"
    assert not found["backends"]["uring"]["available"]
    for reason in (found["reason"], found["backends"]["uring"]["reason"]):
        assert "Operation not permitted" in reason
        assert "sysctl" in reason or "seccomp" in reason


# --- demo ---


def check_demo(found: dict[str, Any], folder: Path, size: int) -> None:
    assert found["ok"]
    assert all(check["ok"] and check["difference"] is None for check in found["checks"])
    rounds = found["rounds"]
    assert rounds >= 2
    assert len(found["checks"]) == 6 * rounds + 5  # each reading, and once each writing by the library or for it
    assert found["directory"] == str(folder)
    assert found["size_bytes"] == size
    assert found["pages"]["pages"] == size // found_page_size()
    assert {(step["name"], step["library"], step["direction"]) for step in found["measurements"]} == STEPS
    for _, steps in itertools.groupby(found["measurements"], key=lambda step: step["direction"]):
        group = list(steps)
        (numpys,) = (step for step in group if step["library"] == "numpy")
        for step in group:
            check_measurement(step, numpys, size, rounds)


def found_page_size() -> int:
    return int(gio.info()["page_size"])


def check_measurement(step: dict[str, Any], numpys: dict[str, Any], size: int, rounds: int) -> None:
    """The figures are those of the samples, which are told beside them."""
    seconds = [sample["seconds"] for sample in step["samples"]]
    ratios = [sample["seconds"] / own for sample, own in zip(numpys["samples"], seconds, strict=True)]
    assert 0 < step["returned_s"] <= step["durable_s" if step["direction"] == "write" else "cold_s"]
    assert step["durable_s" if step["direction"] == "write" else "cold_s"] == statistics.median(seconds)
    assert step["gb_per_s"] == pytest.approx(statistics.median(size / each / 1e9 for each in seconds))
    assert step["times_as_fast_as_numpy"] == pytest.approx(statistics.median(ratios))
    assert step["cpu_s_per_gib"] >= 0 if ON_WINDOWS else step["cpu_s_per_gib"] > 0  # its clock goes by 16 ms
    assert step["bytes"] == size
    assert len(step["samples"]) == rounds


@pytest.mark.parametrize("backend", [None, *BACKENDS[1:]])
@pytest.mark.parametrize("folder", FOLDERS)
def test_demo(folder: str, backend: str | None, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(folder)
    by_name = [] if backend is None else ["--backend", backend]
    found = json.loads(output("demo", path, "--size", "4M", "--json", *by_name))
    check_demo(found, path, 4 * MIB)
    assert found["backend"] == (backend or gio.info()["backend"])
    assert found["direct"] == gio.info(path)["path"]["direct"]
    assert found["reads_cold"] is (None if ON_WINDOWS else folder == "disk_dir")
    assert not list(path.iterdir())


def test_demo_for_people(disk_dir: Path) -> None:
    text = output("demo", disk_dir, "--size", "1M", env={**os.environ, "COLUMNS": "80"})
    lines = text.splitlines()
    assert lines[0] == f"gatherio {gio.__version__}: the demo"
    assert "".join(text.split()).startswith("".join(f"{lines[0]} folder {disk_dir} (".split()))
    assert re.search(r"^  transfers  (direct|buffered), backend \w+\n  reason +\w", text, re.MULTILINE)
    for name, _, _ in STEPS:
        assert re.search(rf"^  {re.escape(name)} +\d+\.\d", text, re.MULTILINE)
    told = " ".join(text.split())
    assert "every byte as it should be" in told
    assert ("this system does not tell whether it did" in told) == ON_WINDOWS
    assert max(map(len, lines)) <= 80
    assert "\r" not in text and "\033" not in text


def test_demo_in_a_narrow_terminal(disk_dir: Path) -> None:
    text = output("demo", disk_dir, "--size", "1M", env={**os.environ, "COLUMNS": "50"})
    assert max(map(len, text.splitlines())) <= 50
    assert "GB/s" in text
    assert "min-max" not in text


def test_demo_in_this_folder(disk_dir: Path) -> None:
    found = json.loads(output("demo", "--json", "--size", "1MiB", cwd=disk_dir))
    assert found["directory"] == "."


@not_on_windows("it has no openpty")
def test_demo_progress_is_for_terminals(disk_dir: Path) -> None:
    terminal, theirs = os.openpty()
    command: list[str | Path] = [*GATHERIO, "demo", disk_dir, "--size", "1M", "--json"]
    with open(terminal, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody is left at the other end
            while text := screen.read(1 << 12):
                shown += text
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"write_gather" in shown
    assert json.loads(out)["ok"]


SIGNALS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGBREAK", 149) if ON_WINDOWS else ("SIGHUP", 129)]


@pytest.mark.parametrize(("name", "code"), SIGNALS)
def test_demo_cleans_up_when_stopped(name: str, code: int, disk_dir: Path) -> None:
    command: list[str | Path] = [*GATHERIO, "demo", disk_dir, "--size", "64M", "--json"]
    if ON_WINDOWS:  # no process sends signals to another
        command[1:3] = ["-c", STOPPED_FROM_WITHIN, name]
    with heard(name):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if not ON_WINDOWS:
            until_it_is_at_work(process, disk_dir)
            process.send_signal(getattr(signal, name))
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert errors == f"gatherio demo: stopped by {name}; cleaned up\n"
    assert process.returncode == code
    assert out == ""
    assert not list(disk_dir.iterdir())


STOPPED_FROM_WITHIN = """if True:
    import signal, sys, threading, time
    from pathlib import Path
    from gatherio.__main__ import main

    def stop():
        while not list(Path(sys.argv[3]).glob("gatherio-demo-*/gathered.bin")):
            time.sleep(0.002)
        signal.raise_signal(getattr(signal, sys.argv[1]))

    threading.Thread(target=stop, daemon=True).start()
    sys.exit(main(sys.argv[2:]))
"""


def until_it_is_at_work(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob("gatherio-demo-*/gathered.bin")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


class AtItsEnd:
    """Is told of a signal where Python drops exceptions."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("where", ["finaliser", "callback from C"])
def test_a_signal_that_python_drops_comes_again(where: str) -> None:
    began = time.monotonic()
    with pytest.raises(signals.Stopped), signals.signals_raise():
        if where == "finaliser":
            AtItsEnd()
        else:
            ffi.release(ffi.gc(ffi.new("int *"), lambda _: signal.raise_signal(signal.SIGINT)))
        while time.monotonic() - began < 30:
            time.sleep(10)
    assert time.monotonic() - began < 30


def test_demo_where_it_cannot_be(disk_dir: Path) -> None:
    file = disk_dir / "file"
    file.write_bytes(b"")
    assert refused("demo", file) == f"gatherio demo: not a folder: {file}"
    assert refused("demo", disk_dir / "no") == f"gatherio demo: no such folder: {disk_dir / 'no'}"
    assert "not enough space" in refused("demo", disk_dir, "--size", "900T")
    assert "at least 1 MiB" in refused("demo", disk_dir, "--size", "1000")
    assert list(disk_dir.iterdir()) == [file]


@not_on_windows("it has no io_uring")
def test_demo_with_a_backend_that_cannot_be_had(disk_dir: Path) -> None:
    inject = [require("strace", "strace"), "-f", "-o", "/dev/null", "-e", "inject=io_uring_setup:error=EPERM"]
    command: list[str | Path] = [*inject, *GATHERIO, "demo", disk_dir, "--backend", "uring"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("gatherio demo: uring cannot be had: Operation not permitted; ")
    assert not list(disk_dir.iterdir())


def test_demo_on_a_full_disk(small_disk_dir: Path) -> None:
    assert "not enough space" in refused("demo", small_disk_dir, "--size", "16M")
    (small_disk_dir / "ballast").write_bytes(b"x" * 12 * MIB)
    assert "not enough space" in refused("demo", small_disk_dir)


def test_demo_on_a_small_disk_takes_less(small_disk_dir: Path) -> None:
    found = json.loads(output("demo", small_disk_dir, "--json"))
    assert found["ok"]
    assert found["size_bytes"] <= 3 * MIB


TMPFS_SIZES = [17 * MIB, 24 * MIB, 6146 * 4096, 37 * MIB + 4096]  # a tenth of some is no multiple of 8


@not_on_windows("it has no tmpfs")
@needs_root("mounting")
@pytest.mark.parametrize("nbytes", TMPFS_SIZES)
@pytest.mark.parametrize("by_size", [[], ["--size", "4M"]], ids=["", "4M"])
def test_demo_where_little_is_free(nbytes: int, by_size: list[str], disk_dir: Path) -> None:
    mount = f"mount -t tmpfs -o size={nbytes} none '{disk_dir}'"
    command = [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        f'{mount}; exec "$@"',
        "sh",
        *GATHERIO,
        "demo",
        str(disk_dir),
        "--json",
    ]
    done = subprocess.run([*command, *by_size], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["ok"] and found["size_bytes"] == (4 * MIB if by_size else nbytes // 10 // MIB * MIB)


@pytest.mark.parametrize("size", [[], ["--size", "4M"]], ids=["", "4M"])
def test_demo_on_a_small_disk_of_any_size(size: list[str], small_disk_dir: Path) -> None:
    for ballast in (1, MIB + 4096):
        (small_disk_dir / "ballast").write_bytes(b"x" * ballast)
        assert json.loads(output("demo", small_disk_dir, "--json", *size))["ok"]


@pytest.mark.parametrize("free", [0, 3 * MIB + 1, 17 * MIB + 8, 168 * MIB + 4096, 319 * MIB + 7, 10**12])
def test_demo_probes_the_disk_whatever_is_free(free: int, disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "free_space", lambda folder: free)
    with gio.CompletionQueue() as queue:
        assert demo_job._round_seconds_per_byte(disk_dir, queue) > 0


def test_demo_says_how_much_it_needs(small_disk_dir: Path) -> None:
    (small_disk_dir / "ballast").write_bytes(b"x" * 12 * MIB)
    told = refused("demo", small_disk_dir)
    assert re.search(r"the demo needs 16 MiB free, and [0-9.]+ MiB is; .* --size 1M, which needs 2.2 MiB$", told)
    assert json.loads(output("demo", small_disk_dir, "--size", "1M", "--json"))["ok"]
    assert [path.name for path in small_disk_dir.iterdir()] == ["ballast"]


def test_demo_that_runs_out_of_space_says_what_to_do(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(array: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/file")

    monkeypatch.setattr(demo_phases.WholeArray, "_read", fail)
    assert main.main(["demo", str(disk_dir), "--size", "1M"]) == 2
    expected = "gatherio demo: /data/file: No space left on device; give a smaller --size or another folder\n"
    assert capsys.readouterr().err == expected


def test_demo_tells_what_differs(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = npy.load

    def wrong(path: Path, out: Any = None, *, queue: Any = None) -> Any:
        array = real(path, out)
        array.reshape(-1).view(np.uint8)[5000] ^= 1
        return array

    monkeypatch.setattr(npy, "load", wrong)
    code = main.main(["demo", str(disk_dir), "--size", "1M"])
    out, errors = capsys.readouterr()
    assert code == 1
    assert "CHECKS FAILED" in out
    assert re.search(r"^gatherio demo: array read by gio.load: byte 5000 is 0x.. and should be 0x..", errors, re.M)
    assert not list(disk_dir.iterdir())


def test_demo_tells_of_a_failed_transfer(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(array: Any) -> Any:
        raise OSError(5, "Input/output error", "/data/file")

    monkeypatch.setattr(demo_phases.WholeArray, "_read", fail)
    assert main.main(["demo", str(disk_dir), "--size", "1M"]) == 1
    assert capsys.readouterr().err == "gatherio demo: /data/file: Input/output error\n"
    assert not list(disk_dir.iterdir())


def test_demo_chooses_its_size(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = gio.info(disk_dir)
    fast, slow = 1 / (4 << 30), 1 / (20 << 20)
    monkeypatch.setattr(_measure, "free_space", lambda folder: 100 << 30)
    monkeypatch.setattr(_measure, "available_memory", lambda: 64 << 30)
    assert demo_job._automatic_size(disk_dir, system, fast) == 1 << 30
    assert MIB <= demo_job._automatic_size(disk_dir, system, slow) <= 300 * MIB
    monkeypatch.setattr(_measure, "available_memory", lambda: 800 * MIB)
    assert demo_job._automatic_size(disk_dir, system, fast) == 100 * MIB
    monkeypatch.setattr(_measure, "free_space", lambda folder: 100 * MIB)
    assert demo_job._automatic_size(disk_dir, system, fast) == 10 * MIB


# --- bench ---

LINES = {
    "write one array over an old file": "tofile + fsync",
    "read it, cold": "np.fromfile",
    "save .npy, durable": "np.save + fsync",
    "the same, ordinary array": "np.save + fsync",
    "load .npy, cold": "np.load",
    "the same into an old array": "np.load",
    "write separate 4 KiB pages": "one array",
    "read separate 4 KiB pages": "one array",
    "4 KiB random reads, depth 1": "-" if ON_WINDOWS else "os.preadv",
    "the same, depth 32": "-" if ON_WINDOWS else "os.preadv",
}


def quick(folder: Path, *options: str | Path) -> tuple[str, dict[str, Any]]:
    """What a tiny run prints, and its results."""
    results = folder / "results.json"
    printed = output("bench", folder, "--quick", "--tiny", "--json", results, *options)
    assert os.listdir(folder) == [results.name], "files were left behind"
    return printed, json.loads(results.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_quick_gives_the_headline(folder: str, request: pytest.FixtureRequest) -> None:
    printed, found = quick(request.getfixturevalue(folder))
    assert "## In short" in printed
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert {line[0]: line[3] for line in cells[2:]} == LINES
    assert len({len(line) for line in printed.splitlines() if line.startswith("|")}) == 1, "the columns line up"
    assert found["arguments"]["quick"] and found["machine"]["gatherio"] == gio.__version__
    assert {row["section"] for row in found["rows"]} == {"sequential", "arrays", "separate", "small"}
    for row in found["rows"]:
        assert 0 < row["rate"]["min"] <= row["rate"]["median"] <= row["rate"]["max"]
        assert len(row["samples"]) == row["rounds"] == 1


def test_quick_takes_as_many_rounds_as_it_is_told(disk_dir: Path) -> None:
    assert {row["rounds"] for row in quick(disk_dir, "--rounds", "2")[1]["rows"]} == {2}


def test_quick_begins_nothing_behind_its_limits(disk_dir: Path) -> None:
    printed = output("bench", disk_dir, "--quick", "--tiny", "--max-seconds", "0")
    assert "Stopped by --max-seconds 0: 8 comparisons are left." in printed
    printed, found = quick(disk_dir, "--rounds", "5", "--max-bytes", "1")
    assert "Stopped by --max-bytes 1: 7 comparisons are left." in printed
    assert {(row["group"], row["rounds"]) for row in found["rows"]} == {("write", 1)}, "whole rounds, and one at least"


def test_bench_where_it_cannot_be(disk_dir: Path) -> None:
    for options in (["--quick"], []):
        assert refused("bench", disk_dir / "no", *options) == f"gatherio bench: no such folder: {disk_dir / 'no'}"
        assert "2M or more" in refused("bench", disk_dir, "--size", "1", *options)
        assert "--rounds is 1 or more" in refused("bench", disk_dir, "--rounds", "0", *options)
    assert "do not fit" in refused("bench", disk_dir, "--quick", "--size", "900T")
    assert list(disk_dir.iterdir()) == []


@pytest.mark.parametrize("what", ["saved", "loaded", "written", "read", "pages", "words"])
def test_quick_tells_of_wrong_data(
    what: str, disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real_save, real_load, real_in_queue = npy.save, npy.load, probe.in_queue

    def save(path: Any, array: Any, **options: Any) -> None:
        wrong = array.copy()
        wrong.view(np.uint8)[-1] ^= 1
        real_save(path, wrong, **options)

    def load(path: Any, **options: Any) -> Any:
        array = real_load(path, **options)
        array.view(np.uint8)[-1] ^= 1
        return array

    def changed(method: str) -> Any:
        real = getattr(gio.File, method)

        def call(self: Any, arrays: Any, *arguments: Any, **options: Any) -> Any:
            operation = real(self, arrays, *arguments, **options)
            operation.result()
            if method == "read_scatter" and isinstance(arrays, list):
                arrays[0][-1] ^= 1
            elif method == "write_gather" and isinstance(arrays, list) == (what == "written"):
                with open(self.name, "rb+") as file:
                    file.write(b"?")
            return operation

        monkeypatch.setattr(gio.File, method, call)

    def in_queue(job: probe.Job, transfers: Any, buffers: Any = None) -> probe.Run:
        run = real_in_queue(job, transfers, buffers)
        if buffers is not None:
            buffers[0, -1] ^= 1
        return run

    if what == "words":
        monkeypatch.setattr(probe, "in_queue", in_queue)
    elif what == "saved":
        monkeypatch.setattr(npy, "save", save)
    elif what == "loaded":
        monkeypatch.setattr(npy, "load", load)
    else:
        changed({"written": "write_gather", "read": "read_scatter", "pages": "write_gather"}[what])
    assert main.main(["bench", str(disk_dir), "--quick", "--tiny"]) == 1
    errors = capfd.readouterr().err
    assert re.fullmatch("gatherio bench: wrong data: [^\n]+\n", errors), errors
    assert list(disk_dir.iterdir()) == []


# --- the parts ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("4096B", 4096), ("512M", 512 << 20), ("2G", 2 << 30), ("1.5gib", 3 << 29), ("1 TB", 1 << 40)],
)
def test_sizes_read(text: str, expected: int) -> None:
    assert arguments.size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1G", "1X", "1e9", "2 G G"])
def test_sizes_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        arguments.size(text)


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(0, "0 bytes"), (512, "512 bytes"), (4096, "4 KiB"), (3 << 29, "1.5 GiB"), (1 << 50, "1024 TiB")],
)
def test_sizes_written(nbytes: int, expected: str) -> None:
    assert size_text(nbytes) == expected


def test_differences_are_found_wherever_they_are() -> None:
    right = np.arange(20 * MIB, dtype=np.uint32).view(np.uint8)
    assert demo_phases._difference(right, right, 0) is None
    for at in (0, demo_phases.COMPARED_BYTES, right.size - 1):
        wrong = right.copy()
        wrong[at] ^= 0x80
        assert (demo_phases._difference(wrong, right, 7) or "").startswith(f"byte {at + 7} is ")
    assert demo_phases._difference(right[:-1], right, 0) is not None
    assert demo_phases._difference(right, right[:-1], 0) is not None
