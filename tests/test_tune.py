"""Settings of a device: measured by `gatherio tune`, stored, used by `open`, and told."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import ON_WINDOWS, PAGE, not_on_windows, run_python

import gatherio as gio
from gatherio import _device
from gatherio import _settings as tuning
from gatherio._cli import tuner
from gatherio._measure import Sample
from gatherio.probe import Bed, Run

MIB = 1 << 20
GATHERIO = [sys.executable, "-m", "gatherio"]


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own."""
    home = tmp_path / "config"
    monkeypatch.setenv("LOCALAPPDATA" if ON_WINDOWS else "XDG_CONFIG_HOME", str(home))
    return home


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GATHERIO, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def store(folder: Path, **settings: Any) -> None:
    tuning.store(folder, tuning.from_dict(settings), {"aim": "throughput", "when": "today"})


def stored_text(text: str) -> None:
    path = tuning.tuning_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- the command ---


def test_tune_stores_what_it_picks(disk_dir: Path) -> None:
    done = call("tune", disk_dir, "--tiny", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(disk_dir.iterdir()) == []
    assert Path(told["file"]) == tuning.tuning_file()
    settings = told["settings"]
    assert settings["request_size"] in tuner.REQUEST_SIZES
    assert settings["depth"] >= 2
    assert told["aim"] == "throughput" and told["measured"]
    with gio.open(disk_dir / "a", "w") as file:
        assert f"tuned by {tuning.tuning_file()}: request_size {settings['request_size']}" in file.reason
        assert file._queue.depth == settings["depth"]
    shown = gio.info(disk_dir)
    assert shown["tuning"] == {"file": told["file"], "exists": True, "problem": None, "devices": 1}
    for name, value in settings.items():
        assert shown["path"]["tuning"][name] == value
    assert shown["path"]["tuning"]["aim"] == "throughput"


def test_tune_for_people(disk_dir: Path) -> None:
    done = call("tune", disk_dir, "--tiny", "--for", "cpu", "--max-seconds", "60")
    assert done.returncode == 0, done.stderr
    assert "Picked for cpu" in done.stdout
    assert "requests of 1024 KiB" in done.stdout
    text = "".join(call("info", disk_dir).stdout.split())  # long paths are broken
    assert f"{tuning.tuning_file()}(settingsfor1device)" in text
    assert f"tunedby{tuning.tuning_file()}:request_size" in text
    assert call("tune", disk_dir, "--forget").stdout == f"removed from {tuning.tuning_file()}\n"
    assert "nothing is stored" in call("tune", disk_dir, "--forget").stdout
    assert "none is stored; gatherio tune measures the device" in " ".join(call("info", disk_dir).stdout.split())


def test_tune_where_it_cannot_be(disk_dir: Path) -> None:
    done = call("tune", disk_dir / "no")
    assert (done.returncode, done.stderr) == (2, f"gatherio tune: no such folder: {disk_dir / 'no'}\n")
    assert "do not fit" in call("tune", disk_dir, "--size", "900T").stderr
    assert "more than 0" in call("tune", disk_dir, "--max-seconds", "0").stderr
    assert not tuning.tuning_file().exists()


def test_tune_keeps_to_its_time(disk_dir: Path) -> None:
    bed = Bed(disk_dir, 8 * MIB)
    bed.file("read"), bed.file("write")
    told: list[str] = []
    picked = tuner.Tuner(bed, "throughput", 1e-9, lambda done, total, what: told.append(what)).pick()
    assert told == ["requests of 4096 KiB", "128 small reads in flight"], "the defaults, and nothing else"
    assert (picked.request_size, picked.depth, picked.stage_below) == (4 * MIB, 128, 0)


def candidate(value: Any, rate: float, cpu: float) -> tuner.Candidate:
    found = tuner.Candidate(str(value), value, lambda: tuner_run(rate, cpu), lambda: tuner_run(rate, cpu))
    found.race()
    return found


def tuner_run(rate: float, cpu: float) -> Run:
    return Run(Sample(MIB, 1 / rate, 1 / rate, cpu * MIB / 2**30, None, None, None))


def test_the_choice(disk_dir: Path) -> None:
    bed = Bed(disk_dir, 2 * MIB, tiny=True)

    def chosen(aim: tuner.Aim, *candidates: tuner.Candidate) -> Any:
        return tuner.Tuner(bed, aim, 1.0, lambda done, total, what: None)._best(candidates, "usual").value

    fast, cheap, usual = candidate("fast", 1000, 1), candidate("cheap", 920, 0.1), candidate("usual", 700, 2)
    assert chosen("throughput", fast, cheap, usual) == "fast"
    assert chosen("cpu", fast, cheap, usual) == "cheap"
    assert chosen("cpu", fast, candidate("cheap but slow", 500, 0.01), usual) == "fast"
    assert chosen("throughput", fast, candidate("usual", 985, 1)) == "usual", "the difference is noise"

    def stages(aim: tuner.Aim, in_place: tuner.Candidate, staged: tuner.Candidate) -> bool:
        return tuner.Tuner(bed, aim, 1.0, lambda done, total, what: None)._stages(in_place, staged)

    in_place, staged = candidate(False, 300, 0.03), candidate(True, 900, 0.1)
    assert stages("throughput", in_place, staged) and not stages("cpu", in_place, staged)
    assert stages("cpu", candidate(False, 300, 0.03), candidate(True, 900, 0.01))


# --- what open does with it ---


def test_nothing_stored_is_nothing_read(disk_dir: Path) -> None:
    with gio.open(disk_dir / "a", "w") as file:
        assert "tuned" not in file.reason
    assert gio.info(disk_dir)["path"]["tuning"] is None
    assert not tuning.tuning_file().exists()


def test_stored_settings_are_used_and_told(disk_dir: Path) -> None:
    store(disk_dir, request_size=MIB, depth=7)
    path = disk_dir / "a"
    with gio.open(path, "w") as file:
        assert (file._queue.depth, file.reason.count("tuned by")) == (7, 1)
        assert file.reason.endswith(f"tuned by {tuning.tuning_file()}: request_size {MIB}, depth 7, in place")
        file.write_at(np.arange(1000), 0).result()
        with gio.open(path, "r+") as other:
            assert other._queue is file._queue
    assert np.array_equal(np.fromfile(path, np.arange(1).dtype), np.arange(1000))
    with gio.open(path, tuning=False) as file:
        assert file._queue.depth != 7 and "tuned" not in file.reason
    with gio.open(path, tuning={"depth": 5}) as file:
        assert file._queue.depth == 5
        assert file.reason.endswith("tuned by given to open: depth 5, in place")
    gio.save(disk_dir / "b.npy", np.arange(10))
    assert np.array_equal(gio.load(disk_dir / "b.npy"), np.arange(10))


def test_a_queue_of_its_own_wins(disk_dir: Path) -> None:
    store(disk_dir, request_size=MIB, depth=7)
    with gio.CompletionQueue(3) as queue, gio.open(disk_dir / "a", "w", queue=queue) as file:
        assert file._queue is queue
        assert "tuned" not in file.reason
    store(disk_dir, request_size=MIB, depth=7, stage_below=PAGE + 1)
    with gio.CompletionQueue(3) as queue, gio.open(disk_dir / "a", "w", queue=queue) as file:
        assert file.reason.endswith(f": segments below {PAGE + 1} bytes staged")


@pytest.mark.parametrize(
    ("copy", "pages", "staged"),
    [(None, 1, True), (None, 4, False), (False, 1, False), (True, 4, True)],
)
def test_separate_pages_are_staged_as_stored_but_never_against_copy_false(
    copy: bool | None, pages: int, staged: bool, disk_dir: Path
) -> None:
    rows = gio.zeros((32, pages * PAGE), "u1")
    rows[:] = np.arange(32, dtype="u1")[:, np.newaxis]
    segments = gio.Segments.rows(rows, np.arange(0, 32, 2))
    with gio.CompletionQueue() as queue:
        with gio.open(disk_dir / "a", "w+", queue=queue, tuning={"stage_below": 2 * PAGE}) as file:
            file.write_gather(segments, 0, copy=copy).result()
            assert bool(queue.stats()["staged"]) == staged
            rows[:] = 0
            file.read_scatter(segments, 0, copy=copy).result()
    assert (rows[::2] == np.arange(0, 32, 2, dtype="u1")[:, np.newaxis]).all()


def test_a_file_that_changes_is_read_again(disk_dir: Path) -> None:
    for depth in (7, 9):
        store(disk_dir, depth=depth)
        with gio.open(disk_dir / "a", "w") as file:
            assert file._queue.depth == depth
    tuning.forget(disk_dir)
    with gio.open(disk_dir / "a", "w") as file:
        assert "tuned" not in file.reason


@not_on_windows("it has no tmpfs")
def test_settings_are_those_of_one_device(disk_dir: Path, tmpfs_dir: Path) -> None:
    store(disk_dir, depth=7)
    store(tmpfs_dir, depth=9)
    for folder, depth in ((disk_dir, 7), (tmpfs_dir, 9)):
        with gio.open(folder / "a", "w") as file:
            assert file._queue.depth == depth
    assert _device.identity(disk_dir) != _device.identity(tmpfs_dir)


def test_an_identity_stays_the_same(disk_dir: Path) -> None:
    (disk_dir / "folder").mkdir()
    assert _device.identity(disk_dir) == _device.identity(disk_dir / "folder") != ""


@pytest.mark.parametrize("path", ["a", os.fsencode("a"), Path("a")])
def test_a_file_in_this_folder(path: Any, disk_dir: Path) -> None:
    store(disk_dir, depth=7)
    with pytest.MonkeyPatch.context() as patch:  # over before the folder goes: Windows removes none that somebody is in
        patch.chdir(disk_dir)
        with gio.open(path, "w") as file:
            assert file._queue.depth == 7
        with gio.open(path) as file:
            assert file._queue.depth == 7


def test_a_folder_that_is_not_there(disk_dir: Path) -> None:
    store(disk_dir, depth=7)
    with pytest.raises(FileNotFoundError):
        gio.open(disk_dir / "no" / "a", "w")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"depht": 1}, ValueError),
        ({"depth": 0}, ValueError),
        ({"depth": 5000}, ValueError),
        ({"depth": True}, ValueError),
        ({"depth": "4"}, TypeError),
        ({"request_size": -1}, ValueError),
        ({"registered": 1}, ValueError),
        (True, TypeError),
        ("fast", TypeError),
    ],
)
def test_settings_that_make_no_sense(wrong: Any, error: type[Exception], disk_dir: Path) -> None:
    with pytest.raises(error, match="tuning|integer|interpreted"):
        gio.open(disk_dir / "a", "w", tuning=wrong)
    assert not (disk_dir / "a").exists()


# --- a file that cannot be used ---


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        '{"schema": "gatherio-tuning-9", "devices": {}}',
        '{"schema": "gatherio-tuning-1", "devices": {"x": {"settings": {"depth": -1}}}}',
        '{"schema": "gatherio-tuning-1", "devices": {"x": {}}}',
        '{"schema": "gatherio-tuning-1", "devices": [1]}',
    ],
)
def test_a_file_that_cannot_be_used_is_a_warning(text: str, disk_dir: Path) -> None:
    stored_text(text)
    with pytest.warns(tuning.TuningWarning, match="it is not used; delete it, or run gatherio tune again") as found:
        file = gio.open(disk_dir / "a", "w")
    assert found[0].filename == __file__, "the warning names the line that opens the file"
    with file:
        assert "tuned" not in file.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gio.open(disk_dir / "a").close()  # told once
    problem = gio.info(disk_dir)["tuning"]["problem"]
    assert str(tuning.tuning_file()) in problem
    shown = call("info")
    assert shown.returncode == 0 and shown.stderr == ""
    assert "it is not used" in " ".join(shown.stdout.split())
    store(disk_dir, depth=7)
    assert tuning.tuning_file().with_name("tuning.json.bad").read_text() == text
    with gio.open(disk_dir / "a") as file:
        assert file._queue.depth == 7


HEAD = '{"schema": "gatherio-tuning-1", "devices": '
HOSTILE: dict[str, bytes] = {
    "lists in lists": (HEAD + "[" * 200_000 + "]" * 200_000 + "}").encode(),
    "objects in objects": (HEAD + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}").encode(),
    "a version in lists": b'{"schema": ' + b"[" * 900 + b"]" * 900 + b"}",
    "settings in lists": (HEAD + '{"x": {"settings": {"depth": ' + "[" * 900 + "]" * 900 + "}}}}").encode(),
    "details in lists": (HEAD + '{"x": {"settings": {}, "aim": ' + "[" * 500 + "]" * 500 + "}}}").encode(),
    "a number without an end": (HEAD + '{"x": {"settings": {"depth": ' + "9" * 900_000 + "}}}}").encode(),
    "a number of a few digits too many": (HEAD + '{"x": {"settings": {"depth": ' + "9" * 21 + "}}}}").encode(),
    "too large": b" " * (2 * MIB) + (HEAD + "{}}").encode(),
    "UTF-16": (HEAD + "{}}").encode("utf-16"),
    "no text": bytes(range(256)),
    "a mark in front": b"\xef\xbb\xbf" + (HEAD + "{}}").encode(),
    "half a pair": b'{"schema": "\\ud800", "devices": {}}',
    "null": b"null",
    "a number": b"1",
    "a string": b'"x"',
    "no entry": (HEAD + '{"x": null}}').encode(),
    "settings in a list": (HEAD + '{"x": {"settings": []}}}').encode(),
    "settings in a string": (HEAD + '{"x": {"settings": "abc"}}}').encode(),
    "no number": (HEAD + '{"x": {"settings": {"depth": NaN}}}}').encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_the_file_holds_open_works_and_warns_once(content: bytes, disk_dir: Path) -> None:
    stored_text("")
    tuning.tuning_file().write_bytes(content)
    assert_it_is_told_and_not_used(disk_dir)
    assert tuning.tuning_file().with_name("tuning.json.bad").read_bytes() == content


def assert_it_is_told_and_not_used(folder: Path) -> None:
    with pytest.warns(tuning.TuningWarning, match="it is not used; delete it, or run gatherio tune again") as found:
        with gio.open(folder / "a", "w") as file:
            assert "tuned" not in file.reason
    assert len(found) == 1 and len(str(found[0].message)) < 500 + len(str(tuning.tuning_file()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            gio.open(folder / "a").close()  # told once
    problem = gio.info(folder)["tuning"]["problem"]
    assert str(tuning.tuning_file()) in problem
    for arguments in (["info", folder], ["info", folder, "--json"]):
        shown = call(*arguments)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "it is not used" in " ".join(shown.stdout.split())
    store(folder, depth=7)
    with gio.open(folder / "a") as file:
        assert file._queue.depth == 7


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_text("kept")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_what_cannot_be_read(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # a socket's path is short
        server.bind(path.name)


@not_on_windows("it has no mkfifo")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("bad_is_there", ["", "a file", "a folder"])
@pytest.mark.parametrize(
    "make", [a_folder, a_pipe, a_link_to_a_device, a_link_to_itself, a_link_to_what_cannot_be_read, a_socket]
)
def test_whatever_stands_there_open_works_and_warns_once(
    make: Callable[[Path], None], bad_is_there: str, disk_dir: Path
) -> None:
    path = tuning.tuning_file()
    path.parent.mkdir(parents=True)
    make(path)
    bad = path.with_name("tuning.json.bad")
    if bad_is_there == "a file":
        bad.write_text("older")
    if bad_is_there == "a folder":
        bad.mkdir()
        (bad / "older").write_text("older")
    assert_it_is_told_and_not_used(disk_dir)
    kept = [each for each in path.parent.iterdir() if each != path]
    replaced = bad_is_there == "a file" and make is not a_folder
    assert len(kept) == (2 if bad_is_there and not replaced else 1)


@not_on_windows("it has other rights")
def test_a_file_without_rights(disk_dir: Path, tmp_path: Path) -> None:
    script = """
        import os, sys, warnings
        import gatherio as gio
        from gatherio import _settings as tuning

        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for hidden in (tuning.tuning_file(), tuning.tuning_file().parent):
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                for _ in range(3):
                    gio.open(sys.argv[1]).close()
            print(len(found), "Permission denied" in str(found[0].message) if found else "")
            os.chmod(hidden.parent if hidden.is_file() else hidden, 0)
    """
    (disk_dir / "config" / "gatherio").mkdir(parents=True)
    path = disk_dir / "config" / "gatherio" / "tuning.json"
    path.write_text(HEAD + "{}}")
    (disk_dir / "file").touch()
    disk_dir.chmod(0o755)
    if os.geteuid() == 0:
        for each in (path.parent.parent, path.parent, path):
            os.chown(each, 65534, 65534)
    path.chmod(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(disk_dir / "config"))
        printed = run_python(script, disk_dir / "file").splitlines()
    path.parent.chmod(0o700)
    assert printed[0] == "1 True"
    assert printed[1].startswith("0"), "what cannot be looked into is as good as not there"


@not_on_windows("root is another one there")
def test_tune_says_beforehand_that_nothing_can_be_stored(disk_dir: Path) -> None:
    tuning.tuning_file().parent.parent.mkdir(parents=True, exist_ok=True)
    tuning.tuning_file().parent.write_text("no folder")
    done = call("tune", disk_dir, "--tiny")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == f"gatherio tune: {tuning.tuning_file().parent}: File exists"


# --- the file changes ---


def test_a_file_of_another_size_is_read_again_whatever_its_time(disk_dir: Path) -> None:
    store(disk_dir, depth=7)
    path = tuning.tuning_file()
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 7
    before = path.stat()
    path.write_text(path.read_text().replace('"depth": 7', '"depth": 77'))  # the same inode
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 77


def test_another_file_is_read_whatever_its_time_and_size(disk_dir: Path) -> None:
    store(disk_dir, depth=7)
    path = tuning.tuning_file()
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 7
    before = path.stat()
    beside = path.with_name("beside")
    beside.write_text(path.read_text().replace('"depth": 7', '"depth": 8'))
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(beside, path)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert after.st_ino != before.st_ino
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 8


@not_on_windows("no signal there ends a process that writes too much")
def test_settings_are_whole_if_the_one_that_stores_them_is_killed_in_the_middle(disk_dir: Path) -> None:
    store(disk_dir, depth=7)
    before = tuning.tuning_file().read_bytes()
    script = """
        import resource, signal, sys
        from gatherio import _settings as tuning

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        settings = tuning.from_dict({"depth": 9})
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))  # bytes: the first ones are written, the next ones kill
        tuning.store(sys.argv[1], settings, {"aim": "throughput", "when": "today"})
    """
    assert len(before) > 128
    run_python(script, disk_dir, code=-signal.SIGXFSZ)
    assert tuning.tuning_file().read_bytes() == before
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 7
    store(disk_dir, depth=9)
    with gio.open(disk_dir / "a", "w") as file:
        assert file._queue.depth == 9


def test_settings_are_whole_if_storing_them_fails(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(disk_dir, depth=7)
    path, before = tuning.tuning_file(), tuning.tuning_file().read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        store(disk_dir, depth=9)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@not_on_windows("platformdirs asks the system there, and not the environment")
def test_the_folder_is_the_one_that_platformdirs_names() -> None:
    platformdirs = pytest.importorskip("platformdirs", reason="needs platformdirs: pip install 'gatherio[test]'")
    assert tuning.tuning_file() == Path(platformdirs.user_config_dir("gatherio", appauthor=False)) / "tuning.json"


@not_on_windows("there it is in %LOCALAPPDATA%")
def test_without_a_variable_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tuning.tuning_file() == tmp_path / ".config" / "gatherio" / "tuning.json"
