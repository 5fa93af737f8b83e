"""Folders, names and files of somebody else's: the command line runs, writes, removes and prints nothing for them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oracle import ON_WINDOWS, needs_root, not_on_windows, require, run_python

import gatherio as gio
from gatherio import _device
from gatherio import _settings as tuning
from gatherio.__main__ import main
from study.command import main as study

NOBODY = 65534
PACKAGE = Path(gio.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
GATHERIO = [sys.executable, "-m", "gatherio"]
STUDY = [sys.executable, str(ROOT / "benchmarks" / "study")]
#: Python takes the first for one in which names are UTF-8, and the second for one in which they are ASCII.
LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own."""
    home = tmp_path / "config"
    monkeypatch.setenv("LOCALAPPDATA" if ON_WINDOWS else "XDG_CONFIG_HOME", str(home))
    return home


def command(*arguments: str | Path) -> list[str]:
    """How the command line is called; the study's, with the gatherio that is installed, by its own name."""
    words = list(map(str, arguments))
    return [*STUDY, *words[1:]] if words[0] == "bench" and "--quick" not in words else [*GATHERIO, *words]


def call(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"errors": "replace", **options}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=200, **options)


def run(*words: str) -> int:
    """The same in this process."""
    return study(words[1:]) if words[0] == "bench" and "--quick" not in words else main(words)


def as_nobody(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [require("setpriv", "util-linux"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command += [*GATHERIO, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


# --- the working directory ---

MODULES = (
    "study",
    "tqdm",
    "matplotlib",
    "zarr",
    "tensorstore",
    "h5py",
    "safetensors",
    "caio",
    "obstore",
    "acquire_zarr",
)
#: A child of ours would import these, if it looked there first.
OF_CHILDREN = ("multiprocessing", "pickle", "gatherio", "numpy")


def environment_of(packages: Path) -> dict[str, str]:
    """An environment in which gatherio is a copy in this folder."""
    shutil.copytree(PACKAGE, packages / "gatherio", ignore=shutil.ignore_patterns("__pycache__"))
    return {**os.environ, "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which gatherio is an installed copy, with no checkout around it."""
    yield environment_of(tmp_path / "lib" / "site")


def make_checkout(folder: Path) -> dict[str, str]:
    """What of a checkout `gatherio bench` looks for, and an environment in which it is the one in use."""
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "benchmarks" / "study", folder / "benchmarks" / "study", ignore=without)
    (folder / "csrc").mkdir()
    for mark in ("pyproject.toml", "csrc/gatherio.h"):
        (folder / mark).touch()
    found = [folder, *folder.rglob("*")]
    for path in found:  # whoever has fetched ours may have let others write to it
        path.chmod(0o755 if path.is_dir() else 0o644)
    return environment_of(folder / "src")


@pytest.fixture
def checkout(tmp_path: Path) -> dict[str, str]:
    """An environment in which gatherio is that of a checkout, without its C."""
    return make_checkout(tmp_path / "checkout")


def plant(folder: Path, modules: tuple[str, ...]) -> Path:
    """Fill a folder with whatever might be run from it; what has been run stands in the file."""
    ran = folder / "ran"
    for module in modules:
        (folder / f"{module}.py").write_text(f"print('{module}', file=open({str(ran)!r}, 'a'))\nraise ImportError\n")
    source = f'#include <stdlib.h>\nint main(void) {{ return system("echo bare_uring >> {ran}"); }}\n'
    (folder / "benchmarks" / "study").mkdir(parents=True)
    (folder / "benchmarks" / "study" / "__init__.py").write_text(f"print('a study', file=open({str(ran)!r}, 'a'))\n")
    for place in (folder, folder / "benchmarks"):
        (place / "bare_uring.c").write_text(source)
    (folder / "bin").mkdir()
    for place in (folder, folder / "bin"):
        for program in ("fio", "cc", "gcc", "clang", "uname", "as", "ld", "collect2"):
            (place / program).write_text(f"#!/bin/sh\necho {program} >> '{ran}'\n")
            (place / program).chmod(0o755)
    (folder / "matplotlibrc").write_text("no settings of anybody's\n")
    return ran


BENCH = ["--tiny", "--section", "memory", "--section", "sequential", "--section", "peers"]


@not_on_windows("what is planted are scripts of its shell")
@pytest.mark.parametrize("how", ["-m", "script", "PYTHONPATH"])
def test_nothing_in_the_working_directory_is_run(
    how: str, checkout: dict[str, str], disk_dir: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    # With the others Python itself has looked there for what it needs to come to us.
    ran = plant(here, MODULES + OF_CHILDREN if how == "script" else MODULES)
    script = tmp_path / "script"
    script.write_text("import sys\nfrom gatherio.__main__ import main\nsys.exit(main())\n")
    called = GATHERIO if how == "-m" else [sys.executable, str(script)]
    environment = {**checkout, "PATH": f":.:bin:{checkout['PATH']}", "LD_LIBRARY_PATH": ":", "CPATH": ":"}
    if how == "PYTHONPATH":
        environment["PYTHONPATH"] += ":"  # an empty part
    results = tmp_path / "results.json"
    options = [*BENCH, "--json", str(results), "--report", str(tmp_path / "report")]
    done = subprocess.run(
        [*called, "bench", disk_dir, *options], cwd=here, env=environment, capture_output=True, text=True, timeout=200
    )
    assert not ran.exists(), ran.read_text()
    assert done.returncode == 0, done.stderr
    assert "matplotlibrc" not in done.stderr
    rows = json.loads(results.read_text())["rows"]
    notes = {row["note"] for row in rows if row["axes"].get("library") == "bare C loop"}
    assert notes == {"benchmarks/bare_uring.c is not here, or others may write to it: give --bare-loop FILE"}
    assert not any(row["note"].startswith("failed") for row in rows), rows


@pytest.mark.parametrize("how", ["-m", "PYTHONPATH"])
def test_an_installed_package_finds_no_study_but_has_the_headline(
    how: str, installed: dict[str, str], disk_dir: Path, tmp_path: Path
) -> None:
    """Not even where it stands in what looks like a checkout."""
    here = tmp_path / "here"
    here.mkdir()
    ran = plant(here, MODULES)
    (here / "csrc").mkdir()
    for mark in ("pyproject.toml", "csrc/gatherio.h"):
        (here / mark).touch()
    if how == "PYTHONPATH":
        installed["PYTHONPATH"] += os.pathsep  # an empty part
    for place in (here, Path(installed["PYTHONPATH"].rstrip(os.pathsep)).parent):
        done = call("bench", disk_dir, "--quick", "--tiny", cwd=place, env=installed)
        assert (done.returncode, done.stderr) == (0, "")
        assert "save .npy, durable" in done.stdout
        report = ["--quick", "--report", tmp_path / "report", "--bare-loop", "a.c"]
        for options, without in (([], ""), (["--section", "memory"], ""), (report, " without --report, --bare-loop")):
            bench = [*GATHERIO, "bench", disk_dir, "--tiny", *options]
            done = subprocess.run(bench, cwd=place, env=installed, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == (
                "gatherio bench: the study is not part of the installed package: run python benchmarks/study in a "
                f"checkout of gatherio; gatherio bench --quick works here{without}\n"
            )
    assert not ran.exists(), ran.read_text()
    assert list(disk_dir.iterdir()) == []


@not_on_windows("it has no io_uring")
def test_the_bare_loop_that_is_named_is_run(checkout: dict[str, str], disk_dir: Path, tmp_path: Path) -> None:
    require("cc", "gcc")
    results = tmp_path / "results.json"
    options = ["--tiny", "--section", "sequential", "--bare-loop", "bare_uring.c", "--json", results]
    shutil.copy(ROOT / "benchmarks" / "bare_uring.c", tmp_path)
    bench = [*GATHERIO, "bench", disk_dir, *options]
    done = subprocess.run(bench, cwd=tmp_path, env=checkout, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(results.read_text())["rows"] if row["axes"].get("library") == "bare C loop"]
    assert rows and all(row["rounds"] for row in rows), rows


def study_found(environment: dict[str, str]) -> str:
    script = "from gatherio._cli import bench; print(bench.study_folder())"
    done = subprocess.run([sys.executable, "-c", script], cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_study_is_that_of_the_checkout_around_us(checkout: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    assert study_found(checkout) == str(folder / "benchmarks" / "study")
    for mark in ("pyproject.toml", "csrc/gatherio.h", "benchmarks/study/__init__.py"):
        (folder / mark).rename(folder / "aside")
        assert study_found(checkout) == "None", "it is no checkout"
        (folder / "aside").rename(folder / mark)
    (folder / "src").rename(folder / "lib")
    assert study_found({**checkout, "PYTHONPATH": str(folder / "lib")}) == "None"


@not_on_windows("it has other rights")
@needs_root("to give files away")
def test_nobody_has_a_say_in_the_study_who_has_none_in_the_package(checkout: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "benchmarks" / "study"
    bytecode = folder / "__pycache__"
    bytecode.mkdir(mode=0o755)
    (bytecode / "fio.pyc").touch(mode=0o644)
    inner = [folder / "command.py", bytecode, bytecode / "fio.pyc"]
    assert study_found(checkout) == str(folder)
    for place in (tmp_path / "checkout", folder.parent, folder, *inner):
        mode = place.stat().st_mode
        place.chmod(mode | 0o002)
        assert study_found(checkout) == "None", place
        place.chmod(mode)
        os.chown(place, NOBODY, -1)
        assert study_found(checkout) == "None", place
        os.chown(place, 0, -1)
    for place in inner[:1]:
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
        assert study_found(checkout) == "None", place


def test_a_package_that_is_called_study_as_well_is_not_taken_for_it(
    checkout: dict[str, str], disk_dir: Path, tmp_path: Path
) -> None:
    """Nor in the processes that the study starts."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.py").write_text("raise SystemExit('another study')\n")
    environment = {**checkout, "PYTHONPATH": f"{other}{os.pathsep}{checkout['PYTHONPATH']}"}
    bench = [*GATHERIO, "bench", disk_dir, "--tiny", "--section", "memory"]
    done = subprocess.run(bench, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gatherio.load, out=" in done.stdout and "failed" not in done.stdout


@not_on_windows("it has no io_uring")
@needs_root("to give files away")
def test_the_source_of_the_bare_loop_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from study import bare_loop

    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir(mode=0o755)
    module, source = benchmarks / "bare_loop.py", benchmarks / "bare_uring.c"
    module.touch(mode=0o644)
    monkeypatch.setattr(bare_loop, "__file__", str(module))
    monkeypatch.setattr(bare_loop, "SOURCE", source)
    assert bare_loop.own_source() is None
    source.touch(mode=0o644)
    assert bare_loop.own_source() == source
    for place in (benchmarks, source):
        mode = place.stat().st_mode
        place.chmod(0o1777)
        assert bare_loop.own_source() is None
        place.chmod(mode)
        os.chown(place, NOBODY, -1)
        assert bare_loop.own_source() is None
        os.chown(place, 0, -1)
    source.rename(tmp_path / "elsewhere.c")
    source.symlink_to(tmp_path / "elsewhere.c")
    assert bare_loop.own_source() is None


def test_programs_are_found_where_path_names_whole_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from study import programs

    name = "some-program.exe" if ON_WINDOWS else "some-program"
    for place in (tmp_path, tmp_path / "bin", tmp_path / "whole"):
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(b"")
        (place / name).chmod(0o755)
    without_drive = [os.path.splitdrive(tmp_path)[1]] if ON_WINDOWS else []
    relative = ["", ".", "bin", os.path.join(".", "bin"), *without_drive]
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("PATH", os.pathsep.join(relative))
        assert programs.find("some-program") is None
        patch.setenv("PATH", os.pathsep.join([*relative, str(tmp_path / "whole")]))
        assert programs.find("some-program") == str(tmp_path / "whole" / name)
        patch.delenv("PATH")
        assert programs.find("some-program") is None


# --- a work folder that is taken away ---

DECOYS = [
    *(
        "gathered.bin",
        "staged.bin",
        "numpy.bin",
        "asked.bin",
        "probe.npy",
        "gatherio.npy",
        "numpy.npy",
        "ordinary.npy",
    ),
    *("kept.bin", "overwritten.bin", "fio-probe.bin", "memory.npy", "saved.npy", "loaded.npy", "bare_uring", "new.bin"),
]
TAKEN: dict[str, tuple[str, list[str]]] = {
    "demo": ("gatherio._cli.demo_job.info", ["demo", "DIR", "--size", "1M"]),
    "bench": (
        "study.command.machine_facts",
        ["bench", "DIR", "--tiny"]
        + [f"--section={name}" for name in ("memory", "sequential", "arrays", "kinds", "maps")],
    ),
    "bench --quick": ("gatherio._cli.quick.facts", ["bench", "DIR", "--quick", "--tiny"]),
    "tune": ("gatherio._cli.tune.Bed", ["tune", "DIR", "--tiny"]),
}


@not_on_windows("it lets nobody rename a folder in which files are open")
@pytest.mark.parametrize("called", TAKEN)
def test_nothing_elsewhere_is_touched_when_a_link_takes_the_work_folders_place(
    called: str, disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    victim, folder, aside = tmp_path / "victim", disk_dir / "folder", disk_dir / "aside"
    victim.mkdir()
    folder.mkdir()
    for name in DECOYS:
        (victim / name).write_text(name)
    (victim / "peer-numpy").mkdir()
    where, words = TAKEN[called]
    real = pytest.importorskip(where.rpartition(".")[0]).__dict__[where.rpartition(".")[2]]

    def taken_away(*arguments: Any, **more: Any) -> Any:
        """Called when the work folder has been made."""
        if not aside.exists():
            (work,) = folder.iterdir()
            work.rename(aside)
            work.symlink_to(victim)
        return real(*arguments, **more)

    monkeypatch.setattr(where, taken_away)
    assert run(*(str(folder) if word == "DIR" else word for word in words)) == 0, capfd.readouterr().err
    assert aside.exists(), "it has not been taken away"
    assert {path.name: path.read_text() for path in victim.glob("*.*")} == {
        name: name for name in DECOYS if "." in name
    }
    assert sorted(path.name for path in victim.iterdir()) == sorted([*DECOYS, "peer-numpy"])
    assert list(aside.iterdir()) == []
    (link,) = folder.iterdir()
    assert link.is_symlink(), "what is not ours stays"


@not_on_windows("it has other rights")
@needs_root("to give a folder away")
@pytest.mark.parametrize("instead", ["of another's", "with something in it", "a link", "open to all"])
def test_a_work_folder_that_is_taken_away_at_once(
    instead: str, disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatherio import _folders

    other, real = tmp_path / "other" if instead == "a link" else disk_dir / "other", os.mkdir
    other.mkdir()
    if instead != "open to all":
        (other / "kept").touch()
    if instead == "of another's":
        (other / "kept").unlink()
        os.chown(other, NOBODY, NOBODY)
    other.chmod(0o777)

    def swapped(name: str, mode: int, *, dir_fd: int) -> None:
        real(name, mode, dir_fd=dir_fd)
        (disk_dir / name).rename(disk_dir / "aside")
        if instead == "a link":
            (disk_dir / name).symlink_to(other)
        else:
            other.rename(disk_dir / name)

    monkeypatch.setattr(os, "mkdir", swapped)
    if instead == "open to all":  # an empty folder of ours: it becomes one
        with _folders.work_folder(disk_dir, "work", "advice") as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
        return
    with pytest.raises(OSError), _folders.work_folder(disk_dir, "work", "advice"):
        pytest.fail("it was used")
    if instead == "a link":
        assert os.listdir(other) == ["kept"]
    if instead == "with something in it":
        assert len(list(disk_dir.glob("work-*/kept"))) == 1


@not_on_windows("it has no /proc")
def test_without_proc_the_work_folder_is_removed_too(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatherio import _folders

    monkeypatch.setattr(_folders, "path_of", lambda descriptor: "")
    with _folders.work_folder(disk_dir, "work", "advice") as folder:
        assert folder.parent == disk_dir and folder.stat().st_mode & 0o777 == 0o700
        (folder / "inside").mkdir()
        (folder / "inside" / "file").touch()
        (folder / "link").symlink_to("/")
    assert list(disk_dir.iterdir()) == []


def test_errors_tell_the_work_folders_own_name(disk_dir: Path) -> None:
    from gatherio import _folders

    with pytest.raises(OSError) as told, _folders.work_folder(disk_dir, "work", "advice") as folder:
        (name,) = os.listdir(disk_dir)
        assert _folders.named(f"of {folder / 'a'!s}") == f"of {disk_dir / name / 'a'}"
        gio.open(folder / "a")
    assert told.value.filename == str(disk_dir / name / "a") or Path(told.value.filename) == disk_dir / name / "a"


# --- root in other people's folders ---


def owned_by_nobody(folder: Path) -> Path:
    os.chown(folder, NOBODY, NOBODY)
    return folder


def below_nobodys(folder: Path) -> Path:
    (folder / "inside").mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder / "inside"


def everybody_writes(folder: Path) -> Path:
    folder.chmod(0o777)
    return folder


def everybody_writes_above(folder: Path) -> Path:
    (folder / "inside").mkdir()
    folder.chmod(0o777)
    return folder / "inside"


def a_group_writes(folder: Path) -> Path:
    os.chown(folder, 0, NOBODY)
    folder.chmod(0o775)
    return folder


def somebody_else_writes_by_a_list(folder: Path) -> Path:
    nobody = 0xFFFFFFFF  # <linux/posix_acl_xattr.h>: tag, rights and user of each entry
    entries = [(0x01, 7, nobody), (0x02, 7, NOBODY), (0x04, 5, nobody), (0x10, 7, nobody), (0x20, 5, nobody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, "system.posix_acl_access", acl)
    return folder


def nobodys_link(folder: Path) -> Path:
    (folder / "inside").mkdir()
    folder.chmod(0o1777)
    (folder / "link").symlink_to(folder / "inside")
    os.chown(folder / "link", NOBODY, NOBODY, follow_symlinks=False)
    return folder / "link"


def out_of_nobodys(folder: Path) -> Path:
    (folder / "roots").mkdir()
    (folder / "nobodys").mkdir()
    os.chown(folder / "nobodys", NOBODY, NOBODY)
    return folder / "nobodys" / ".." / "roots"


@not_on_windows("it has other rights")
@needs_root("to be attacked as root")
@pytest.mark.parametrize("called", ["demo", "bench --tiny", "bench --quick --tiny", "tune --tiny"])
@pytest.mark.parametrize(
    "make",
    [
        owned_by_nobody,
        below_nobodys,
        everybody_writes,
        everybody_writes_above,
        a_group_writes,
        somebody_else_writes_by_a_list,
        nobodys_link,
        out_of_nobodys,
    ],
)
def test_root_refuses_a_folder_that_somebody_else_can_lead_it_out_of(
    make: Callable[[Path], Path], called: str, disk_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make(disk_dir)
    before = sorted(disk_dir.rglob("*"))
    name, *options = called.split(" ")
    assert run(name, str(folder), *options) == 2
    out, errors = capfd.readouterr()
    (line,) = errors.splitlines()
    assert line.startswith(f"gatherio {name}: {folder}: ")
    assert "belongs to the user nobody" in line or "may rename what lies in the folder" in line
    assert "sudo -u" in line
    assert sorted(disk_dir.rglob("*")) == before


def roots_own_link(folder: Path) -> Path:
    (folder / "inside").mkdir()
    (folder / "link").symlink_to("inside")
    return folder / "link"


def sticky(folder: Path) -> Path:
    folder.chmod(0o1777)
    return folder


def its_own_group_writes(folder: Path) -> Path:
    folder.chmod(0o775)
    return folder


@not_on_windows("it has other rights")
@pytest.mark.parametrize("make", [roots_own_link, sticky, its_own_group_writes])
def test_folders_in_which_nobody_else_can_do_that_serve(make: Callable[[Path], Path], disk_dir: Path) -> None:
    folder = make(disk_dir)
    done = call("demo", folder.name, "--size", "1M", "--json", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    assert list(folder.iterdir()) in ([], [folder / "inside"])


@not_on_windows("it has other rights")
@needs_root("to give a folder away")
def test_root_of_a_user_namespace_is_a_plain_user(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of users that the namespace does not know, the system's root among them, are nobody's there."""
    from gatherio import _folders

    os.chown(disk_dir, NOBODY, NOBODY)
    with pytest.raises(_folders.RefusedError), _folders.work_folder(disk_dir, "work", "advice"):
        pass
    monkeypatch.setattr(_folders, "_is_unknown", lambda opened: True)
    with _folders.work_folder(disk_dir, "work", "advice"):
        pass


NAMESPACE = """
    import ctypes, os, sys
    from pathlib import Path
    from gatherio import _folders

    ends, others = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.read(ends[0], 1)
        for which in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{which}").write_text(sys.argv[1])
        os.write(others[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
    else:
        try:
            assert ctypes.CDLL(None).unshare(0x10000000) == 0
            os.write(ends[1], b"x")
            os.read(others[0], 1)
            os.setgid(0)
            os.setuid(0)
            for folder in sys.argv[2:]:
                assert os.stat(Path(folder).parent).st_uid == 65534
                try:
                    with _folders.work_folder(Path(folder), "work", "advice"):
                        print("used", flush=True)
                except _folders.RefusedError:
                    print("refused", flush=True)
            os._exit(0)
        finally:
            os._exit(1)
"""


@not_on_windows("it has no user namespaces")
@needs_root("to have users for a namespace")
@pytest.mark.parametrize(
    ("users", "outcome"),
    [("0 100000 65536", "used refused"), ("0 100000 1000", "used used"), ("0 0 1", "refused refused")],
)
def test_nobody_of_a_user_namespace_is_not_taken_for_the_unknown(users: str, outcome: str, disk_dir: Path) -> None:
    """Both are shown as 65534: the system's users, who can do what they like to a plain user, and its own nobody."""
    disk_dir.chmod(0o755)
    folders = [disk_dir / name / "inside" for name in ("unknown", "nobodys")]
    for folder, owner in zip(folders, (1, 100000 + NOBODY), strict=True):
        folder.mkdir(parents=True)
        os.chown(folder.parent, owner, owner)
        os.chown(folder, 100000, 100000)
    assert run_python(NAMESPACE, users, *folders).split() == outcome.split()


@not_on_windows("it has other rights")
@needs_root("to be another user")
def test_a_plain_user_may_work_in_the_folders_of_others(disk_dir: Path) -> None:
    os.chown(disk_dir, 1, 1)
    disk_dir.chmod(0o777)
    done = as_nobody("demo", disk_dir, "--size", "1M", "--json")
    assert done.returncode == 0, done.stderr
    assert list(disk_dir.iterdir()) == []


# --- files that the command line writes ---

QUICK = ["--tiny", "--section", "kinds", "--max-bytes", "1"]


@not_on_windows("it takes a right to make links")
def test_results_are_not_written_through_a_planted_link(disk_dir: Path, tmp_path: Path) -> None:
    victim, results = tmp_path / "victim", tmp_path / "results.json"
    victim.write_text("precious")
    planted = [tmp_path / f"results.json{end}" for end in (".new", ".tmp", "~", ".bak")]
    for link in planted:
        link.symlink_to(victim)
    done = call("bench", disk_dir, *QUICK, "--json", results)
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "precious"
    assert all(link.is_symlink() for link in planted)
    assert json.loads(results.read_text())["rows"]


@not_on_windows("it takes a right to make links")
@needs_root("to give a link away")
@pytest.mark.parametrize("option", ["--json", "--report"])
def test_results_are_not_written_through_a_strangers_link(option: str, disk_dir: Path, tmp_path: Path) -> None:
    victim, shared = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / ("results.json" if option == "--json" else "study.md")
    link.symlink_to(victim)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    target = link if option == "--json" else shared
    done = call("bench", disk_dir, *QUICK, option, target)
    assert done.returncode == 1
    assert "symbolic link of another user" in done.stderr
    assert victim.read_text() == "precious"


def test_results_that_are_no_file(disk_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    done = call("bench", disk_dir, *QUICK, "--json", tmp_path / "results.json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gatherio bench: {tmp_path / 'results.json'}: ")


@not_on_windows("it has no mkfifo")
def test_results_are_not_written_to_a_pipe(disk_dir: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "results.json")
    done = call("bench", disk_dir, *QUICK, "--json", tmp_path / "results.json")
    assert done.returncode == 2
    assert "is no regular file" in done.stderr and len(done.stderr.splitlines()) == 1


# --- settings, under sudo ---


def a_linked_folder(home: Path, victim: Path) -> None:
    (home / "gatherio").symlink_to(victim)
    os.chown(home / "gatherio", NOBODY, NOBODY, follow_symlinks=False)


def a_link_to_what_is_missing(home: Path, victim: Path) -> None:
    (home / "gatherio").symlink_to(victim / "made")
    os.chown(home / "gatherio", NOBODY, NOBODY, follow_symlinks=False)


def a_folder_of_his(home: Path, victim: Path) -> None:
    (home / "gatherio").mkdir()
    os.chown(home / "gatherio", NOBODY, NOBODY)


def nothing_yet(home: Path, victim: Path) -> None:
    pass


@not_on_windows("it has no sudo")
@needs_root("to be attacked as root")
@pytest.mark.parametrize("make", [a_linked_folder, a_link_to_what_is_missing, a_folder_of_his, nothing_yet])
@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
def test_root_stores_no_settings_where_another_user_leads_it(
    variable: str, make: Callable[[Path, Path], None], disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, victim = tmp_path / "home", tmp_path / "victim"
    config = home / ".config" if variable == "HOME" else home
    for folder in (home, victim, config):
        folder.mkdir(exist_ok=True)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv(variable, str(home))
    make(config, victim)
    for folder in (home, config):
        os.chown(folder, NOBODY, NOBODY)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["tune", disk_dir, "--tiny"],):
        done = call(*arguments)
        assert done.returncode == 2, done.stdout
        assert "belongs to the user nobody" in done.stderr and "sudo -H" in done.stderr
    with pytest.raises(PermissionError, match="sudo -H"):
        tuning.store(disk_dir, tuning.from_dict({"depth": 7}), {})
    assert sorted(tmp_path.rglob("*")) == before
    assert list(victim.iterdir()) == []


@not_on_windows("it has no sudo")
@needs_root("to be attacked as root")
def test_root_forgets_no_settings_of_another_user(disk_dir: Path, tmp_path: Path, config_home: Path) -> None:
    tuning.store(disk_dir, tuning.from_dict({"depth": 7}), {})
    path = tuning.tuning_file()
    before = path.read_bytes()
    for each in (config_home, path.parent, path):
        os.chown(each, NOBODY, NOBODY)
    with gio.open(disk_dir / "a", "w") as file:
        assert "depth 7" in file.reason, "to be read they may be anybody's"
    assert call("tune", disk_dir, "--forget").returncode == 2
    assert path.read_bytes() == before


@not_on_windows("it lets nobody replace a file that is open")
def test_settings_are_read_from_the_file_that_was_looked_at(
    disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from what has its name by then, which may be a device that acts when it is opened."""
    tuning.store(disk_dir, tuning.from_dict({"depth": 7}), {})
    path, other, real = tuning.tuning_file(), tmp_path / "other", tuning._refuse_what_is_no_file
    other.write_text(path.read_text().replace('"depth": 7', '"depth": 8'))

    def looked_at(found: os.stat_result) -> None:
        real(found)
        if other.exists():
            other.rename(path)

    monkeypatch.setattr(tuning, "_refuse_what_is_no_file", looked_at)
    assert '"depth": 7' in tuning.text_of(path, 1 << 20)
    assert not other.exists() and '"depth": 8' in tuning.text_of(path, 1 << 20)


@not_on_windows("it takes a right to make links")
def test_settings_may_lie_behind_a_link_of_ones_own(disk_dir: Path, tmp_path: Path, config_home: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    config_home.symlink_to("dotfiles")
    tuning.store(disk_dir, tuning.from_dict({"depth": 7}), {})
    assert (tmp_path / "dotfiles" / "gatherio" / "tuning.json").is_file()
    with gio.open(disk_dir / "a", "w") as file:
        assert "depth 7" in file.reason


@not_on_windows("it has other rights")
@needs_root("to be another user")
def test_a_plain_user_stores_nothing_in_the_folder_of_another(disk_dir: Path) -> None:
    config = disk_dir / "config"
    (config / "gatherio").mkdir(parents=True)
    for folder in (disk_dir, config, config / "gatherio"):
        os.chown(folder, 1, 1)
        folder.chmod(0o777)
    done = as_nobody("tune", disk_dir, "--tiny", env={**os.environ, "XDG_CONFIG_HOME": str(config)})
    assert done.returncode == 1
    assert "belongs to another user" in done.stderr
    assert list((config / "gatherio").iterdir()) == []


@pytest.mark.parametrize("home", ["", "config"])
def test_settings_lie_not_in_the_working_directory(
    home: str, disk_dir: Path, tmp_path: Path, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home folder of a user whom the system does not know is "~"; XDG has relative paths ignored."""
    tuning.store(disk_dir, tuning.from_dict({"depth": 7}), {})
    monkeypatch.setenv("LOCALAPPDATA" if ON_WINDOWS else "XDG_CONFIG_HOME", home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    planted = tuning.tuning_file()
    planted.parent.mkdir(parents=True, exist_ok=True)
    if not planted.exists():
        shutil.copy(config_home / "gatherio" / "tuning.json", planted)
    before = planted.read_bytes()
    assert tuning.stored_for(disk_dir) is None and not tuning.about()["exists"]
    with pytest.raises(FileNotFoundError, match="to a whole path"):
        tuning.store(disk_dir, tuning.from_dict({"depth": 8}), {})
    assert planted.read_bytes() == before


# --- mount points ---

NAMES = [
    *(b"vertical\x0btab", b"form\x0cfeed", b"return\rhere", b"separators\x1c\x1d\x1e\x1f"),
    *("next\x85line".encode(), "line\u2028separator".encode(), "paragraph\u2029separator".encode()),
    *(b"a space", b"a tab\t", b"a line\nfeed", b"a back\\slash", b"a back\\040slash", b"a - minus", b" - "),
    *(b"not \xff\xfe UTF-8", "ümläut".encode(), "no-break\xa0space".encode(), b"#number", b"\x1b[31mred"),
]
MOUNTED = """
    import contextlib, ctypes, json, os, sys
    import gatherio as gio
    from gatherio import _device
    from gatherio import _settings as tuning
    from gatherio.__main__ import main

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0 and libc.mount(None, b"/", None, 1 << 14 | 1 << 18, None) == 0
    top, names = os.fsencode(sys.argv[1]), [bytes.fromhex(name) for name in sys.argv[2:]]
    folders = [os.path.join(top, name) for name in names]
    for folder in folders:
        os.mkdir(folder)
        assert libc.mount(os.path.basename(folder), folder, b"tmpfs", 0, b"size=48m") == 0, folder
    found = []
    for number, folder in enumerate(map(os.fsdecode, folders)):
        mount = _device.mount_of(folder)
        assert (mount.point, mount.source, mount.file_system) == (folder, os.path.basename(folder), "tmpfs"), mount
        found.append(_device.identity(folder))
        tuning.store(folder, tuning.from_dict({"depth": 10 + number}), {})
        assert gio.info(folder)["path"]["file_system"] == "tmpfs"
    for number, folder in enumerate(map(os.fsdecode, folders)):
        with gio.open(os.path.join(folder, "a"), "w") as file:
            assert f"depth {10 + number}," in file.reason, file.reason
    print(json.dumps(found))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for folder in (top, *folders[:: len(folders) - 1]):
            for arguments in (["info"], ["demo", "--size", "1M"], ["tune", "--tiny"]):
                assert main([*arguments, os.fsdecode(folder)]) == 0, (arguments, folder)
"""


@not_on_windows("it has no mounts")
@needs_root("mounting")
def test_mount_points_of_any_name(disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for name, variables in LOCALES.items():
        with monkeypatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            patch.setenv("XDG_CONFIG_HOME", str(tmp_path / name))
            folder = disk_dir / "mounts"
            folder.mkdir()
            told.append(run_python(MOUNTED, folder, *(each.hex() for each in NAMES)))
            subprocess.run(["rm", "-rf", folder], check=True)
    assert told[0] == told[1], "a device is the same in every locale"
    assert len(set(json.loads(told[0]))) == len(NAMES)


@not_on_windows("it has no /proc")
@pytest.mark.parametrize(
    ("line", "mount"),
    [
        (b"36 35 98:0 / /a rw master:1 shared:2 - ext3 /dev/root rw", ("98:0", "/a", "rw", "ext3", "/dev/root")),
        (b"36 35 98:0 / /a\\040-\\040b rw - tmpfs  rw", ("98:0", "/a - b", "rw", "tmpfs", "")),
        (b"36 35 98:0 / /\\134040 rw - tmpfs \\043 rw", ("98:0", "/\\040", "rw", "tmpfs", "#")),
        (b"36 35 98:0 / /a rw", None),
        (b"", None),
    ],
)
def test_a_line_of_mountinfo(line: bytes, mount: tuple[str, ...] | None) -> None:
    assert _device._parsed(line) == mount


@not_on_windows("it has no /proc")
def test_a_control_group_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatherio import _measure

    contents = {
        "/proc/meminfo": b"MemAvailable: 5000000 kB\n",
        "/proc/self/cgroup": b"1:name=\x85x\x0b:/\n0::/\xff\xe2\x80\xa8\x1c\n",
        "/proc/self/status": "Name:\tx\u2028VmHWM: 1\nVmHWM:\t 7 kB\n".encode(),
    }
    for path, content in contents.items():
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).write_bytes(content)
    group = tmp_path / "sys/fs/cgroup" / os.fsdecode(b"\xff\xe2\x80\xa8\x1c")
    group.mkdir(parents=True)
    for name, value in (("memory.max", "3000\n"), ("memory.current", "1000\n"), ("memory.stat", "inactive_file 5\n")):
        (group / name).write_text(value)
    monkeypatch.setattr(_measure, "Path", lambda path: tmp_path / str(path)[1:])
    assert _measure.available_memory() == 2005
    assert _measure.values_of(tmp_path / "proc/self/status", "VmHWM") == [b"7"]


# --- names on the screen ---

HOSTILE = "x\x7f\x9b31m\u2028\u202e\u2066"
if not ON_WINDOWS:
    HOSTILE += "\x1b[31m\x07\t\nFORGED "


@pytest.fixture
def hostile_dir(disk_dir: Path) -> Path:
    """A folder with such a name."""
    path = disk_dir / (HOSTILE if ON_WINDOWS else os.fsdecode(HOSTILE.encode() + b"\x9b\xff"))
    path.mkdir()
    return path


def assert_harmless(*outputs: bytes) -> None:
    for output in outputs:
        text = output.decode("utf-8")  # so no single byte of C1 either
        bad = {each for each in text if not each.isprintable()} - ({"\r", "\n"} if ON_WINDOWS else {"\n"})
        assert not bad, text
        assert not any(line.startswith("FORGED") for line in text.splitlines()), text


#: What is called, with the folder for DIR and its name for NAME, and the exit code.
CALLS: list[tuple[str, int]] = [
    ("info DIR", 0),
    ("info DIR --json", 0),
    ("info DIR/NAME", 2),
    ("info DIR NAME", 2),
    ("NAME", 2),
    ("demo DIR --size 1M", 0),
    ("demo DIR --size 1M --json", 0),
    ("demo DIR/NAME", 2),
    ("demo DIR/file", 2),
    ("demo DIR --size NAME", 2),
    ("tune DIR --tiny", 0),
    ("tune DIR --tiny --json", 0),
    ("tune DIR --forget", 0),
    ("tune DIR/NAME", 2),
    (" ".join(["bench DIR --resume DIR/results.json", *QUICK]), 0),
    (" ".join(["bench DIR --json DIR/file/results", *QUICK]), 1),
    (" ".join(["bench DIR --report DIR/report", *QUICK]), 0),
    ("bench DIR --tiny --resume DIR/file", 2),
    ("bench DIR/NAME", 2),
    ("bench DIR --quick --tiny --json DIR/results.json", 0),
    ("bench DIR --quick --tiny --json DIR/file/results", 1),
    ("bench DIR/NAME --quick", 2),
    ("bench DIR --section NAME", 2),
]


@pytest.mark.parametrize("locale", ["UTF-8"] if ON_WINDOWS else LOCALES)
@pytest.mark.parametrize(("called", "code"), CALLS, ids=[called for called, _ in CALLS])
def test_names_are_printed_without_what_a_terminal_acts_on(
    called: str, code: int, locale: str, hostile_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hostile_dir / "file").write_text(HOSTILE, encoding="utf-8")
    for variable, value in LOCALES[locale].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("LOCALAPPDATA" if ON_WINDOWS else "XDG_CONFIG_HOME", str(hostile_dir / "config"))
    words = [word.replace("DIR", str(hostile_dir)).replace("NAME", hostile_dir.name) for word in called.split(" ")]
    done = subprocess.run(command(*words), capture_output=True, timeout=200)
    assert_harmless(done.stdout, done.stderr)
    assert done.returncode == code
    if called == "info DIR --json" and locale == "UTF-8":
        assert json.loads(done.stdout)["path"]["path"] == str(hostile_dir), "it is exact"


def test_warnings_are_printed_without_it() -> None:
    script = """if True:
        import sys, warnings
        from gatherio._cli import info, main

        info.info = lambda path: warnings.warn(sys.argv[1]) or {}
        sys.exit(main.main(["info", "--json"]))
    """
    done = subprocess.run([sys.executable, "-c", script, HOSTILE], capture_output=True, timeout=60)
    assert_harmless(done.stderr)
    assert (done.returncode, done.stdout.split()) == (0, [b"{}"])
    assert done.stderr.startswith(b"gatherio info: warning: x") and done.stderr.count(b"\n") == 1


def test_faults_of_ours_are_told_without_it(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("gatherio._cli.info.info", fail)
    assert main(["info"]) == 1
    errors = capfd.readouterr().err
    assert_harmless(errors.encode())
    assert errors.startswith("Traceback ") and "RuntimeError: x" in errors


@not_on_windows("it has no openpty")
@pytest.mark.parametrize("has_tqdm", [True, False])
def test_progress_is_shown_without_it(has_tqdm: bool) -> None:
    script = """
        import os, sys
        if sys.argv[2] == "False":
            sys.modules["tqdm"] = sys.modules["tqdm.auto"] = None
        from gatherio._cli import text
        with text.progress() as step:
            step(0, 2, sys.argv[1])
            step(1, 2, sys.argv[1])
        if sys.argv[2] == "True":
            from gatherio._progress import reporting
            with reporting(True, 2, sys.argv[1]) as report:
                report(1)
    """
    terminal, theirs = os.openpty()
    name, shown = "x\x1b[31m\x07\u202e", b""
    with open(terminal, "rb", buffering=0) as screen:
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), name, str(has_tqdm)], stderr=theirs)
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody is left at the other end
            while part := screen.read(1 << 12):
                shown += part
        assert process.wait(timeout=60) == 0
    assert b"x\\x1b[31m\\x07\\u202e" in shown
    assert b"\x1b[31m" not in shown and b"\x07" not in shown and "\u202e".encode() not in shown


def test_results_of_others_are_harmless_in_tables_and_pictures(tmp_path: Path, disk_dir: Path) -> None:
    from gatherio._cli import quick
    from study import document, report

    results = tmp_path / "results.json"
    done = call("bench", disk_dir, "--tiny", "--section", "peers", "--json", results)
    assert done.returncode == 0, done.stderr
    found = document.read(results)
    bad = f"{HOSTILE}<script>a</script><!-- ![a](http://b) [c](d) &lt;img> |"
    found["machine"]["model"] = found["rows"][0]["group"] = bad
    for row in found["rows"]:
        row["name"] = f"<b>$\\frac$\x1b{row['name']}"
        row["note"] = bad if row["note"] else ""
    page, *pictures = report.write(found, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert_harmless(text.encode())
    ours = "\n".join(line for line in text.split("\n") if not line.startswith("![peers](peers.png)"))
    assert "<script" not in ours and "<!" not in ours and "](" not in ours and "&lt;img" not in ours
    assert "&lt;script&gt;a&lt;/script&gt;" in ours
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert_harmless(quick.opening(found["machine"]).encode(), report.group_text(found, "peers", "read, cold").encode())


# --- the way that the surroundings lead programs and files ---


@not_on_windows("it has no io_uring")
def test_the_compiler_keeps_nothing_in_a_folder_that_others_name(
    disk_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files between compiler and assembler are code that will be run, and their names are used twice."""
    from study import bare_loop

    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nprintf "%s\\n" "$TMPDIR" "$TMP" "$TEMP" "$PWD" > told\n')
    compiler.chmod(0o755)
    for variable in ("TMPDIR", "TMP", "TEMP"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(bare_loop, "find", lambda name: str(compiler))
    program, why = bare_loop.build(disk_dir, tmp_path / "source.c")
    assert (program, why) == (disk_dir / "bare_uring", "")
    assert (disk_dir / "told").read_text().split("\n")[:4] == [".", ".", ".", str(disk_dir)]


@not_on_windows("it lets nobody rename the working directory")
def test_the_working_directory_is_the_same_one_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from study import programs

    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    monkeypatch.chdir(here)
    with programs.working_in(Path("/")):
        here.rename(tmp_path / "moved")
        here.symlink_to(other)
    assert os.path.samefile(os.curdir, tmp_path / "moved")
    (tmp_path / "moved").rmdir()
    with programs.working_in(Path("/")):
        assert os.getcwd() == "/"
    assert os.listdir(os.curdir) == []


@not_on_windows("it has no /proc")
def test_bench_without_proc(disk_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from gatherio import _folders

    for module in (_folders, sys.modules["gatherio.info"]):
        monkeypatch.setattr(module, "path_of", lambda descriptor: "")
    assert study([str(disk_dir), *QUICK]) == 0, capfd.readouterr().err
    assert list(disk_dir.iterdir()) == [] and _folders.named("x/") == "x/"


@not_on_windows("it has no /proc")
def test_info_tells_the_folders_name(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gatherio.info"]

    def fail(name: str, *_: Any) -> None:
        raise OSError(24, "Too many open files", name)

    monkeypatch.setattr(module, "File", fail)
    with pytest.raises(OSError) as told:
        gio.info(disk_dir)
    assert told.value.filename == str(disk_dir)


@not_on_windows("its folders are not removed by descriptors")
def test_a_work_folder_goes_when_no_descriptor_is_left(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatherio import _folders

    def fail(path: object) -> None:
        raise OSError(24, "Too many open files")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="first"),
        _folders.work_folder(disk_dir, "work", "advice"),
    ):
        patch.setattr(os, "scandir", fail)
        raise ValueError("first")
    assert os.listdir(disk_dir) == []


# --- results that somebody else has made ---


@not_on_windows("it has no such files")
@pytest.mark.parametrize("kind", ["pipe", "endless", "large"])
def test_results_are_taken_up_from_a_file_of_a_size_that_can_be(kind: str, disk_dir: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    if kind == "pipe":
        os.mkfifo(results)
    elif kind == "endless":
        results.symlink_to("/dev/zero")
    else:
        results.touch()
        os.truncate(results, 1 << 40)
    done = call("bench", disk_dir, *QUICK, "--resume", results)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gatherio bench: {results} has no results of the study: it ")


@not_on_windows("it has no tmpfs")
@needs_root("mounting")
def test_what_does_not_fit_is_told_with_its_name(disk_dir: Path, tmp_path: Path) -> None:
    script = """
        import ctypes, os, sys
        from gatherio.__main__ import main
        from study.command import main as study

        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x00020000) == 0 and libc.mount(None, b"/", None, 1 << 14 | 1 << 18, None) == 0
        full = sys.argv[2]
        assert libc.mount(b"x", os.fsencode(full), b"tmpfs", 0, b"size=4m") == 0
        with open(f"{full}/filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        os.environ["XDG_CONFIG_HOME"] = full
        bench = [sys.argv[1], "--tiny", "--section", "kinds", "--max-bytes", "1"]
        codes = [study([*bench, "--json", f"{full}/j"]), study([*bench, "--report", f"{full}/r"])]
        codes.append(main(["bench", sys.argv[1], "--quick", "--tiny", "--json", f"{full}/j"]))
        codes.append(main(["tune", sys.argv[1], "--tiny"]))
        assert codes == [1, 1, 1, 1], codes
        assert [name for _, _, names in os.walk(full) for name in names] == ["filling"]  # nothing half written
    """
    full = tmp_path / "full"
    full.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), disk_dir, full],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"gatherio bench: {full}/j: No space left on device",
        f"gatherio bench: {full}/r/study.md: No space left on device",
        f"gatherio bench: {full}/j: No space left on device",
        f"gatherio tune: {full}/gatherio/tuning.json: No space left on device",
    ]


@not_on_windows("it has no /proc")
def test_what_has_taken_a_new_files_name_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc a small file is opened by its name once more."""
    from gatherio._core import replace as _replace

    victim, real = tmp_path / "victim", open
    victim.write_text("precious")

    def swapped(path: str, *arguments: Any, **options: Any) -> Any:
        os.unlink(path)
        os.symlink(victim, path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(_replace, "_PROC", str(tmp_path / "missing"))
    monkeypatch.setattr(_replace, "open", swapped, raising=False)
    with pytest.raises(OSError, match="nothing was written"):
        _replace.write_file(tmp_path / "new", b"new")
    assert victim.read_text() == "precious"


# --- what the encoding cannot say ---


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_text_that_the_output_cannot_encode_is_escaped(errors: str) -> None:
    """In the C locale Python has surrogateescape, which lets bytes through and stops at letters."""
    script = "from gatherio._cli.text import say; say('Gr\\xf6\\ufffd\\udcff')"
    environment = {**os.environ, "PYTHONIOENCODING": f"ascii:{errors}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, [b"Gr\\xf6\\ufffd\\udcff"]), done.stderr


@pytest.mark.parametrize("text", ["9" * 400, "8388608T", str(2**63)])
def test_a_size_that_nothing_has_is_refused(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--size", text])
    assert ended.value.code == 2
    assert "is more than any file holds" in capfd.readouterr().err
