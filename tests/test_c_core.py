"""The C core without Python: the programs in tests/c, built with gcc's sanitizers and run for every backend; and built
for Windows by mingw-w64 and run under Wine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from oracle import not_on_windows

from gatherio._native import ffi, lib

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
TESTS_C = ROOT / "tests" / "c"
PROGRAMS = ("test_core", "test_threads", "test_plan", "test_staging", "test_ranges")
LINK = {"test_staging": ["-Wl,--wrap=gio_plan_next"]}

SANITIZERS = {
    "address,undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
SKIPPED = 77  # how a program says that it cannot run here (tests/c/check.h)

pytestmark = not_on_windows("its native tests are started from Linux")


def _build_ffi() -> ModuleType:
    """build_ffi.py as a module: it says which files make up the core."""
    spec = importlib.util.spec_from_file_location("build_ffi", ROOT / "build_ffi.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _backends() -> list[str]:
    names = []
    while (name := lib.gio_backend_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def _sources(platform: str, programs: tuple[str, ...] = PROGRAMS) -> list[Path]:
    system = {"linux": "platform_linux.c", "win32": "platform_windows.c"}[platform]
    core = [CSRC / name for name in _build_ffi().sources(platform)]
    return [*core, TESTS_C / system, *(TESTS_C / f"{name}.c" for name in programs)]


def _run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """With standard output and error in one text. A program that hangs is ended, and the test fails."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **SANITIZER_OPTIONS, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def _require_gcc() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc (Debian: gcc libc6-dev)")


def _require_sanitizer(name: str, folder: Path) -> None:
    _require_gcc()
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n", encoding="ascii")
    built = _run("gcc", *SANITIZERS[name], probe, "-o", folder / "probe")
    if built.returncode:
        pytest.skip(f"gcc cannot build with -fsanitize={name} here: {built.stdout.strip()}")
    ran = _run(folder / "probe")
    if ran.returncode:
        pytest.skip(f"a program built with -fsanitize={name} does not run here: {ran.stdout.strip()}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Path]]:
    """program(sanitizer, name): the path of a built program. Each sanitizer's are built once."""
    folders: dict[str, Path] = {}

    def build(sanitizer: str, name: str) -> Path:
        if sanitizer not in folders:
            folder = tmp_path_factory.mktemp("c")
            _require_sanitizer(sanitizer, folder)
            sources = _sources("linux")
            flags = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-pthread", *SANITIZERS[sanitizer]]
            done = _run("gcc", *flags, "-Wall", "-Wextra", f"-I{CSRC}", f"-I{TESTS_C}", "-c", *sources, cwd=folder)
            assert done.returncode == 0 and done.stdout == "", done.stdout
            shared = [path for path in folder.glob("*.o") if path.stem not in PROGRAMS]
            for program in PROGRAMS:
                link = LINK.get(program, [])
                done = _run("gcc", *flags, *link, *shared, folder / f"{program}.o", "-o", folder / program)
                assert done.returncode == 0, done.stdout
            folders[sanitizer] = folder
        return folders[sanitizer] / name

    yield build
    for folder in folders.values():
        shutil.rmtree(folder)


def _check_passed(done: subprocess.CompletedProcess[str], cases: list[str]) -> None:
    """All of the cases, up to the program's last line: an exit code of 0 alone may be that of a program that died."""
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}"
    assert cases and re.findall(r"^passed: (\w+) ", done.stdout, re.MULTILINE) == cases, done.stdout
    assert done.stdout.splitlines()[-1] == f"{len(cases)} cases passed", done.stdout


def _names(listed: subprocess.CompletedProcess[str]) -> list[str]:
    """The cases of a program that was asked for its list."""
    assert listed.returncode == 0, listed.stdout
    return listed.stdout.split()


def _check(program: Path, folder: Path, backend: str) -> None:
    done = _run(program, folder, backend)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    _check_passed(done, _names(_run(program, "--list")))
    assert list(folder.iterdir()) == [], "the program cleans up after itself"


@pytest.mark.parametrize("backend", _backends())
@pytest.mark.parametrize("kind", ["disk_dir", "tmpfs_dir"])
def test_core(program, request: pytest.FixtureRequest, kind: str, backend: str) -> None:
    _check(program("address,undefined", "test_core"), request.getfixturevalue(kind), backend)


@pytest.mark.parametrize("backend", _backends())
def test_core_races(program, disk_dir: Path, backend: str) -> None:
    _check(program("thread", "test_core"), disk_dir, backend)


def test_random_plans(program, tmpfs_dir: Path) -> None:
    """260,000 of them. No backend has a part in them, and no file."""
    _check(program("address,undefined", "test_plan"), tmpfs_dir, "sync")


def test_tables_of_locked_ranges(program, tmpfs_dir: Path) -> None:
    """180,000 of them, beside a plain list."""
    _check(program("address,undefined", "test_ranges"), tmpfs_dir, "sync")


@pytest.mark.parametrize("backend", _backends())
@pytest.mark.parametrize("kind", ["disk_dir", "tmpfs_dir"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_threads(program, request: pytest.FixtureRequest, sanitizer: str, kind: str, backend: str) -> None:
    _check(program(sanitizer, "test_threads"), request.getfixturevalue(kind), backend)


@pytest.mark.parametrize("backend", _backends())
@pytest.mark.parametrize("kind", ["disk_dir", "tmpfs_dir"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_staging(program, request: pytest.FixtureRequest, sanitizer: str, kind: str, backend: str) -> None:
    _check(program(sanitizer, "test_staging"), request.getfixturevalue(kind), backend)


def test_a_check_that_fails_is_seen(program, tmpfs_dir: Path) -> None:
    """The programs really end with an error, and say where, when something is wrong."""
    core = program("address,undefined", "test_core")
    done = _run(core, tmpfs_dir / "missing", "sync", "contiguous")
    assert done.returncode == 1
    assert "test_core.c:" in done.stdout
    assert _run(core, tmpfs_dir, "no such backend").returncode == SKIPPED
    assert _run(core, tmpfs_dir, "sync", "no such case").returncode == 2


LEAVES = """
#include "check.h"
static void stays(void) {}
static void leaves(void) { fflush(NULL); _Exit(0); }
static const test_case cases[] = {{"before", stays}, {"leaves", leaves}, {"behind", stays}};
int main(int argc, char **argv) { return run_cases(argc, argv, cases, 3); }
"""


def _check_that_leaving_is_seen(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    assert re.findall(r"passed: (\w+)", done.stdout) == ["before"]
    with pytest.raises(AssertionError):
        _check_passed(done, ["before", "leaves", "behind"])


def test_a_program_that_ends_early_is_seen(program, tmp_path: Path) -> None:
    built = program("address,undefined", "test_core").parent
    (tmp_path / "leaves.c").write_text(LEAVES, encoding="ascii")
    core = [path for path in built.glob("*.o") if path.stem not in PROGRAMS]
    flags = [*SANITIZERS["address,undefined"], "-pthread", f"-I{CSRC}", f"-I{TESTS_C}"]
    done = _run("gcc", *flags, tmp_path / "leaves.c", *core, "-o", tmp_path / "leaves")
    assert done.returncode == 0, done.stdout
    assert _names(_run(tmp_path / "leaves", "--list")) == ["before", "leaves", "behind"]
    _check_that_leaving_is_seen(_run(tmp_path / "leaves", tmp_path, "sync"))
    with pytest.raises(AssertionError):  # and one that runs a part of what there is
        _check_passed(_run(tmp_path / "leaves", tmp_path, "sync", "before"), ["before", "leaves", "behind"])


# -- Windows ---------------------------------------------------------------------------------------------------

MINGW = "x86_64-w64-mingw32-gcc"
WINDOWS_BACKENDS = ("iocp", "sync")


def _require_wine() -> None:
    for tool in (MINGW, "wine", "wineserver"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: wine wine64 gcc-mingw-w64-x86-64)")


@pytest.fixture(scope="module")
def windows_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the programs, and a prefix for Wine in it."""
    _require_wine()
    folder = tmp_path_factory.mktemp("windows")
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", f"-I{CSRC}", f"-I{TESTS_C}"]
    libraries = [f"-l{name}" for name in _build_ffi().libraries("win32")]
    for program in PROGRAMS:
        link = [*LINK.get(program, []), "-static", *_sources("win32", (program,)), *libraries]
        done = _run(MINGW, *flags, "-o", folder / f"{program}.exe", *link)
        assert done.returncode == 0 and done.stdout == "", done.stdout
    made = _wine(folder, "wineboot", "-i")
    assert made.returncode == 0, made.stdout
    yield folder
    _wine(folder, "wineserver", "-k")
    shutil.rmtree(folder)


def _wine(folder: Path, *command: str | Path, debug: str = "-all") -> subprocess.CompletedProcess[str]:
    env = {
        "WINEPREFIX": str(folder / "prefix"),
        "WINEDEBUG": debug,
        "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=",
        "DISPLAY": "",
    }
    return _run(*command, env=env)


@pytest.mark.parametrize(
    ("program_name", "backend"),
    [(name, backend) for name in ("test_core", "test_threads", "test_staging") for backend in WINDOWS_BACKENDS]
    + [("test_plan", "sync"), ("test_ranges", "sync")],
)
def test_on_windows(windows_programs: Path, disk_dir: Path, program_name: str, backend: str) -> None:
    program = windows_programs / f"{program_name}.exe"
    done = _wine(windows_programs, "wine", program, f"Z:{disk_dir}", backend)
    _check_passed(done, _names(_wine(windows_programs, "wine", program, "--list")))
    assert list(disk_dir.iterdir()) == [], "the program cleans up after itself"


def test_a_check_that_fails_on_windows_is_seen(windows_programs: Path, disk_dir: Path) -> None:
    done = _wine(windows_programs, "wine", windows_programs / "test_core.exe", f"Z:{disk_dir}/missing", "iocp", "open")
    assert done.returncode == 1
    assert "test_core.c:" in done.stdout


def test_a_program_that_ends_early_on_windows_is_seen(windows_programs: Path, tmp_path: Path) -> None:
    (tmp_path / "leaves.c").write_text(LEAVES, encoding="ascii")
    flags = ["-std=c11", f"-I{CSRC}", f"-I{TESTS_C}", "-static"]
    libraries = [f"-l{name}" for name in _build_ffi().libraries("win32")]
    sources = [tmp_path / "leaves.c", *_sources("win32", ())]
    done = _run(MINGW, *flags, "-o", tmp_path / "leaves.exe", *sources, *libraries)
    assert done.returncode == 0, done.stdout
    _check_that_leaving_is_seen(_wine(windows_programs, "wine", tmp_path / "leaves.exe", f"Z:{tmp_path}", "sync"))


def test_the_calls_as_wine_sees_them(windows_programs: Path, disk_dir: Path) -> None:
    """2500 separate pages are written, and read back, by calls with a list of pages; seen from outside, in Wine's trace
    of calls between DLLs. What the lists hold is in test_windows.py."""
    names = "KERNEL32.WriteFileGather;KERNEL32.ReadFileScatter"
    done = _wine(
        windows_programs, "wine", "reg", "add", "HKCU\\Software\\Wine\\Debug", "/v", "RelayInclude", "/d", names
    )
    assert done.returncode == 0, done.stdout
    program = windows_programs / "test_core.exe"
    done = _wine(windows_programs, "wine", program, f"Z:{disk_dir}", "iocp", "scattered", debug="+relay")
    assert done.returncode == 0 and "1 cases passed" in done.stdout, done.stdout
    # (handle, list, bytes, reserved, OVERLAPPED), in hexadecimal
    call = re.compile(r"Call KERNEL32\.(\w+)\(([0-9a-f]+),([0-9a-f]+),([0-9a-f]+),([0-9a-f]+),([0-9a-f]+)\)")
    found = [(name, *(int(number, 16) for number in numbers)) for name, *numbers in call.findall(done.stdout)]
    for name in ("WriteFileGather", "ReadFileScatter"):
        calls = [rest for called, *rest in found if called == name]
        assert sorted(nbytes for _, _, nbytes, _, _ in calls) == [452 * 4096, 1024 * 4096, 1024 * 4096]
        assert all(reserved == 0 and overlapped != 0 for *_, reserved, overlapped in calls)


def test_what_all_systems_share_is_plain_c11() -> None:
    """No extension of a compiler and no header of a system, in the tests' own C neither: MSVC has to take it."""
    _require_gcc()
    shared = [CSRC / name for name in _build_ffi().SHARED]
    for path in [*shared, *(TESTS_C / f"{name}.c" for name in PROGRAMS)]:
        _check_is_plain("gcc", path)


def test_what_windows_adds_is_plain_c11() -> None:
    """By gcc for Windows, whose headers are at hand; MSVC's are not."""
    if shutil.which(MINGW) is None:
        pytest.skip(f"needs {MINGW} (Debian: gcc-mingw-w64-x86-64)")
    for path in _sources("win32"):
        _check_is_plain(MINGW, path)


WIDE_ARGUMENTS = """
#define _GNU_SOURCE
#include <unistd.h>
#include <sys/syscall.h>
#undef _GNU_SOURCE
#define WIDE(x) (0 * sizeof(char[sizeof((x) + 0) == 8 ? 1 : -1]))
#define SUM_7(a, b, c, d, e, f, g) WIDE(a) + WIDE(b) + WIDE(c) + WIDE(d) + WIDE(e) + WIDE(f) + WIDE(g)
#define PADDED(call, a, b, c, d, e, f, g, ...) ((void)(SUM_7(a, b, c, d, e, f, g)), syscall(call, a, b, c, d, e, f))
#define syscall(...) PADDED(__VA_ARGS__, 0L, 0L, 0L, 0L, 0L, 0L, 0L)
"""


def test_every_argument_of_a_system_call_has_64_bits(tmp_path: Path) -> None:
    """syscall(2) is variadic and takes each for a long: of an int the upper half would be whatever stood there."""
    _require_gcc()
    (tmp_path / "wide.h").write_text(WIDE_ARGUMENTS, encoding="ascii")
    (tmp_path / "narrow.c").write_text("long f(int fd) { return syscall(SYS_close, fd); }\n", encoding="ascii")
    flags = ["-std=gnu11", "-fsyntax-only", f"-I{CSRC}", "-include", tmp_path / "wide.h"]
    assert _run("gcc", *flags, tmp_path / "narrow.c").returncode != 0
    calls = 0
    for name in _build_ffi().sources("linux"):
        calls += (CSRC / name).read_text(encoding="utf-8").count("syscall(")
        done = _run("gcc", *flags, CSRC / name)
        assert done.returncode == 0, done.stdout
    assert calls >= 6


def _check_is_plain(compiler: str, path: Path) -> None:
    flags = ["-std=c11", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = _run(compiler, *flags, f"-I{CSRC}", f"-I{TESTS_C}", path)
    assert done.returncode == 0, done.stdout


def test_no_file_for_all_systems_asks_which_system_it_is() -> None:
    for name in [*_build_ffi().SHARED, "gatherio.h", "internal.h"]:
        text = (CSRC / name).read_text(encoding="utf-8")
        assert not re.search(r"_WIN32|_MSC_VER|__linux__|__GNUC__|__attribute__|__atomic|__builtin", text), name
