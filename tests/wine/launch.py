"""Runs CPython for Windows under Wine, with gatherio installed as this tree has it.

launch.py run ARGS...       python -m pytest ARGS..., with the tree's settings; fails if the interpreter dies
launch.py python ARGS...    python ARGS...
launch.py wheel FOLDER      copies the Windows wheel there
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from build_bed import BESIDE_PYTHON_EXE, DLLTOOL, GCC, HERE, Bed, build, stop_wine, wine, wine_environment
from cache import Lock, cache_folder, hash_of, in_use, kept, remove, remove_oldest

ROOT = HERE.parent.parent
sys.path.append(str(ROOT / "tests"))

import whole_run  # noqa: E402

BED_IS_MADE_FROM = [
    *("windows.lock", "tools.lock", "build_bed.py", "sitecustomize.py"),
    *("python.c", "python.manifest", "pyconfig.h"),
]
INSTALLATION_IS_MADE_FROM = [
    *("pyproject.toml", "setup.py", "build_ffi.py", "MANIFEST.in", "README.md", "LICENSE", "csrc", "src"),
    *("tests/wine/build_wheel.py", "tests/wine/launch.py"),
]
NOT_SOURCE = ["__pycache__", "*.py[cod]", "*.so", "*.o", "*.egg-info"]
NOT_IN_SDIST = [".git", ".venv", "venv", ".*_cache", ".hypothesis", "build", "dist"]
INSTALLATIONS_KEPT = 4  # to go back and forth between branches

DEBIAN_PACKAGE = {
    "wine": "wine wine64",
    "wineserver": "wine wine64",
    "wineboot": "wine wine64",
    GCC: "gcc-mingw-w64-x86-64",
    DLLTOOL: "gcc-mingw-w64-x86-64",
    "gendef": "mingw-w64-tools",
}


def main() -> int:
    # As an exception, so that what was begun is ended and removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    require_tools()
    command, *args = sys.argv[1:]
    with installed() as (bed, environment):
        if command == "wheel":
            return copy_wheel(environment, args)
        if command == "run":
            if not args:
                os.chdir(ROOT)  # where pytest finds the tests by its settings
            args = whole_run.command([*pytest_settings(bed, args), *args])
        code = run_python(bed, environment / "Scripts" / "python.exe", args)
        return whole_run.judged(code) if command == "run" else code


def require_tools() -> None:
    missing = {package for tool, package in DEBIAN_PACKAGE.items() if not shutil.which(tool)}
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.add("python3.11-dev")
    try:
        import ensurepip  # noqa: F401  Debian has it in a package of its own
    except ImportError:
        missing.add("python3.11-venv")
    if missing:
        raise SystemExit(f"Tools are missing. On Debian 12: apt-get install {' '.join(sorted(missing))}")


# --- what is installed ---


@contextlib.contextmanager
def installed() -> Iterator[tuple[Bed, Path]]:
    """The bed, and a virtual environment in it with this tree's wheel. Both are made if need be, and kept."""
    cache = cache_folder()
    with contextlib.ExitStack() as held:
        with Lock(cache / "build.lock").take_alone():
            key = hash_of(HERE, BED_IS_MADE_FROM, [], sys.version)
            bed = Bed(kept(cache / f"bed-{key}", lambda part: build(Bed(part))))
            bed_use = held.enter_context(in_use(bed.folder).share())
            environment = installation(bed)
            held.enter_context(in_use(environment).share())
            remove_oldest(cache.glob("bed-*"), keep=1)
            remove_oldest(environment.parent.iterdir(), keep=INSTALLATIONS_KEPT)
        try:
            yield bed, environment
        finally:
            if bed_use.try_alone():
                stop_wine(bed)
                remove(bed.temp)


def installation(bed: Bed) -> Path:
    parent = bed.folder / "installed"
    parent.mkdir(exist_ok=True)
    if os.environ.get("GATHERIO_WINE_BARE"):
        return kept(parent / "bare", lambda part: make_environment(bed, part))
    key = hash_of(ROOT, INSTALLATION_IS_MADE_FROM, NOT_SOURCE)
    return kept(parent / key, lambda part: install(bed, key, part))


def install(bed: Bed, key: str, environment: Path) -> None:
    make_environment(bed, environment)
    with tempfile.TemporaryDirectory(prefix="gatherio-wine-") as temp:
        tree = Path(temp) / "tree"  # a copy: a build leaves things behind, and the tree may change meanwhile
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_SOURCE, *NOT_IN_SDIST))
        if hash_of(tree, INSTALLATION_IS_MADE_FROM, NOT_SOURCE) != key:
            raise SystemExit("The sources changed while they were being copied. Run it again.")
        command = [bed.tools, HERE / "build_wheel.py", tree, bed.include, bed.libs, environment]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
            raise SystemExit("The Windows wheel could not be built: see above.")
    with zipfile.ZipFile(wheel_in(environment)) as archive:
        archive.extractall(environment / "Lib" / "site-packages")
    add_command(bed, environment)


def make_environment(bed: Bed, environment: Path) -> None:
    """What `python -m venv --system-site-packages` makes on Windows, with the interpreter itself."""
    (environment / "Lib" / "site-packages").mkdir(parents=True)
    scripts = environment / "Scripts"
    scripts.mkdir()
    for path in bed.python.iterdir():
        if path.name == "python.exe" or BESIDE_PYTHON_EXE.fullmatch(path.name):
            os.link(path, scripts / path.name)
    home = windows_path(bed.python)
    settings = f"home = {home}\ninclude-system-site-packages = true\n"
    (environment / "pyvenv.cfg").write_text(settings, encoding="utf-8")


def add_command(bed: Bed, environment: Path) -> None:
    """gatherio.exe, as easy_install used to make it: setuptools' launcher, and beside it what it launches."""
    (launcher,) = (bed.folder / "tools").glob("lib/python3*/site-packages/setuptools/cli-64.exe")
    shutil.copy(launcher, environment / "Scripts" / "gatherio.exe")
    python = windows_path(environment.with_suffix("") / "Scripts" / "python.exe")  # without .part
    program = f"#!{python}\nimport sys\nfrom gatherio.__main__ import main\nsys.exit(main())\n"
    (environment / "Scripts" / "gatherio-script.py").write_text(program, encoding="utf-8")


def wheel_in(environment: Path) -> Path:
    (wheel,) = environment.glob("*.whl")
    return wheel


def copy_wheel(environment: Path, args: list[str]) -> int:
    if len(args) != 1:
        raise SystemExit("usage: tests/wine/wheel FOLDER")
    folder = Path(args[0])
    folder.mkdir(parents=True, exist_ok=True)
    print(shutil.copy(wheel_in(environment), folder))
    return 0


# --- running ---


def windows_path(path: Path, drive: str = "Z:", root: Path = Path("/")) -> str:
    """As it is on one of Wine's drives. Z: is all of Linux."""
    return f"{drive}\\" + str(path.relative_to(root)).replace("/", "\\")


def pytest_settings(bed: Bed, args: list[str]) -> list[str]:
    """The tree's own, also for tests that lie elsewhere; only the results of the last run are not Linux's."""
    settings = [f"--rootdir={windows_path(ROOT)}", f"--config-file={windows_path(ROOT / 'pyproject.toml')}"]
    if not any("no:cacheprovider" in arg for arg in args):  # without that plugin, nobody knows the setting
        settings.append(f"--override-ini=cache_dir={windows_path(bed.folder / 'pytest_cache')}")
    return settings


def python_environment(bed: Bed, temp: str) -> dict[str, str]:
    environment = wine_environment(bed)
    if "PYTHONIOENCODING" not in environment:
        environment["GATHERIO_WINE_UTF8"] = "1"  # for sitecustomize.py
    environment["GATHERIO_WINE_TMP"] = temp  # becomes TEMP and TMP: build_bed.py
    # Linux's CPython 3.11 would take what is in the tree's __pycache__ for its own.
    environment["PYTHONPYCACHEPREFIX"] = windows_path(bed.folder / "pycache")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = windows_path(bed.folder / "hypothesis")
    return environment


@contextlib.contextmanager
def temp_folder(bed: Bed) -> Iterator[str]:
    """On drive C: as on Windows, for a short name; and Wine asks no label of a disk for it."""
    if own := os.environ.get("GATHERIO_WINE_TMP"):
        yield windows_path(Path(own).resolve(strict=True))
        return
    bed.temp.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bed.temp, ignore_cleanup_errors=True) as name:
        yield windows_path(Path(name), "C:", bed.drive_c)


def run_python(bed: Bed, python: Path, args: list[str]) -> int:
    # Wine's services start with the first program and keep its streams: whoever reads ours would wait for them.
    wine(bed, "wine", "cmd", "/c", "exit")
    with temp_folder(bed) as temp, contextlib.ExitStack() as pipes:
        process = subprocess.Popen(
            ["wine", str(python), *args],
            env=python_environment(bed, temp),
            stdin=input_pipe(pipes),
            stdout=output_pipe(1, pipes),
            stderr=subprocess.STDOUT if same_file(1, 2) else output_pipe(2, pipes),
        )
        try:
            code = process.wait()
        finally:
            process.kill()
    return code if code >= 0 else 128 - code


# CPython under Wine dies at its start ("Invalid handle") when a standard stream is a file or closed, and writes
# a console's escape sequences to a terminal. So all three are pipes.


def file_type(descriptor: int) -> int:
    """As stat has it, S_IFIFO for a pipe; 0 when nothing is open there."""
    try:
        return stat.S_IFMT(os.fstat(descriptor).st_mode)
    except OSError:
        return 0


def same_file(one: int, other: int) -> bool:
    return bool(file_type(one) and file_type(other)) and os.path.sameopenfile(one, other)


def input_pipe(pipes: contextlib.ExitStack) -> int | IO[bytes] | None:
    """Standard input if it is a pipe or a file, else nothing to read: a terminal would have to be a console."""
    if file_type(0) == stat.S_IFIFO:
        return 0
    if file_type(0) != stat.S_IFREG:
        return subprocess.DEVNULL
    cat = pipes.enter_context(subprocess.Popen(["cat"], stdout=subprocess.PIPE))
    pipes.callback(cat.kill)
    return cat.stdout


def output_pipe(descriptor: int, pipes: contextlib.ExitStack) -> int | IO[bytes] | None:
    if file_type(descriptor) == stat.S_IFIFO:
        return descriptor
    if not file_type(descriptor):
        return subprocess.DEVNULL
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=descriptor)
    pipes.callback(finish, cat)
    return cat.stdin


def finish(cat: subprocess.Popen[bytes]) -> None:
    """Waits until all has been written, but not for a program that was left behind and holds the pipe open."""
    assert cat.stdin
    cat.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        cat.wait(timeout=5)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
