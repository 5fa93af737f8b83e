"""The tests fail when they did not run: an interpreter that dies in the middle, a test that was left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ci_rules import STRANGERS
from oracle import ON_WINDOWS, not_on_windows, require, run_python

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"


def write(folder: Path, **files: str) -> None:
    """Files of tests: name="its text"."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def run(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder, without what this run of pytest has put into the environment."""
    left_out = ("GATHERIO_CI", *STRANGERS)
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )


# --- an interpreter that dies ---

IN_THE_MIDDLE = """
import ctypes, os

{die}

def test_before(): pass
def test_dies(): die()
def test_behind(): pass
"""
AT_THE_END = """
import ctypes, os, sys

{die}

class Last:
    def __del__(self, die=die): die()

def test_all(): pass

sys.modules["last"] = Last()  # goes with the interpreter
"""
EACH_TIME = pytest.mark.parametrize("when", [IN_THE_MIDDLE, AT_THE_END], ids=["in the middle", "at the end"])

EXITS = "def die(end=os._exit): end(0)"
# A thread of Windows' own that runs at address 16: no frame of ctypes is there to handle the access violation.
VIOLATES = """
def die(kernel32=ctypes.WinDLL("kernel32"), pointer=ctypes.c_void_p):
    kernel32.WaitForSingleObject(pointer(kernel32.CreateThread(None, 0, pointer(16), None, 0, None)), -1)
"""
TERMINATES = """
def die(kernel32=ctypes.WinDLL("kernel32"), pointer=ctypes.c_void_p): kernel32.TerminateProcess(pointer(-1), 0)
"""
DIED = "The interpreter died before pytest had ended"


@EACH_TIME
def test_an_interpreter_that_dies_with_status_0(when: str, tmp_path: Path) -> None:
    write(tmp_path, test_it=when.format(die=EXITS))
    done = run([sys.executable, TESTS / "whole_run.py", "test_it.py"], tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"{DIED} (exit code 0)" in done.stdout


def test_a_script_that_dies_with_status_0() -> None:
    with pytest.raises(AssertionError, match="exit code 0"):
        run_python("import os; print('right', flush=True); os._exit(0)")
    assert run_python("print('right')") == "right\n"


@not_on_windows("it has no signals that end a process")
def test_an_interpreter_that_is_killed(tmp_path: Path) -> None:
    write(tmp_path, test_it=IN_THE_MIDDLE.format(die="def die(): os.kill(os.getpid(), 11)"))
    done = run([sys.executable, TESTS / "whole_run.py", "test_it.py"], tmp_path)
    assert done.returncode == 128 + 11, done.stdout
    assert f"{DIED} (exit code -11)" in done.stdout


STATUSES = {"pass": 0, "assert False": 1, "raise KeyboardInterrupt": 2, "sys.exit(0)": 1}


@pytest.mark.parametrize(("body", "status"), STATUSES.items(), ids=STATUSES)
def test_the_status_of_pytest_is_passed_on(body: str, status: int, tmp_path: Path) -> None:
    write(tmp_path, test_it=f"import sys\ndef test_it(): {body}\n")
    done = run([sys.executable, TESTS / "whole_run.py", "test_it.py"], tmp_path)
    assert done.returncode == status, done.stdout
    assert DIED not in done.stdout


def under_wine(folder: Path) -> subprocess.CompletedProcess[str]:
    for tool, package in (("wine", "wine wine64"), ("gendef", "mingw-w64-tools")):
        require(tool, package)
    require("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64")
    # Else it would look at all that lies beside the folder, which others may just be removing.
    program = [TESTS / "wine" / "run", "-p", "no:cacheprovider", "--confcutdir=.", "test_it.py"]
    return run(program, folder, GATHERIO_WINE_BARE="1")  # without gatherio, so nothing has to be compiled


@not_on_windows("Wine is started from Linux")
@pytest.mark.parametrize("die", [VIOLATES, TERMINATES], ids=["access violation", "terminated"])
@EACH_TIME
def test_an_interpreter_that_dies_under_wine(when: str, die: str, disk_dir: Path) -> None:
    """Its status is 0 then, whatever killed it."""
    write(disk_dir, test_it=when.format(die=die))
    done = under_wine(disk_dir)
    assert done.returncode == 1, done.stdout
    assert f"{DIED} (exit code 0)" in done.stdout
    assert ("1 passed" in done.stdout) == (when is AT_THE_END)


@not_on_windows("Wine is started from Linux")
@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("assert False", 1)])
def test_the_status_of_pytest_under_wine(body: str, status: int, disk_dir: Path) -> None:
    write(disk_dir, test_it=f"def test_it(): {body}\n")
    done = under_wine(disk_dir)
    assert done.returncode == status, done.stdout
    assert DIED not in done.stdout and f"1 {'failed' if status else 'passed'}" in done.stdout


# --- a test that is left out ---

CONFTEST = f"""
import os, sys
from pathlib import Path

sys.path.append({str(TESTS)!r})
from ci_rules import Rules

def pytest_configure(config):
    if os.environ.get("GATHERIO_CI") == "1":
        config.pluginmanager.register(Rules(Path(__file__).parent))
"""
TWO = "def test_one(): pass\ndef test_two(): pass\n"
NOT_RUN = "1 tests were collected and did not run"
DESELECT = """
def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[items.pop()])
"""
FORGET = """
def pytest_collection_modifyitems(items): items.pop()
"""
HIDE = "collect_ignore = ['test_b.py']\n"

LEFT_OUT: dict[str, tuple[dict[str, str], list[str], dict[str, str], str]] = {
    # files beside the two of two tests each, arguments, environment: what is told
    "deselected by an argument": ({}, ["-k", "one or test_b"], {}, NOT_RUN),
    "deselected by name": ({}, ["--deselect", "tests/test_a.py::test_one"], {}, NOT_RUN),
    "deselected by a plugin": ({"conftest": CONFTEST + DESELECT}, [], {}, NOT_RUN),
    "dropped by a plugin": ({"conftest": CONFTEST + FORGET}, [], {}, NOT_RUN),
    "by the environment": ({}, [], {"PYTEST_ADDOPTS": "-k one"}, "allows no PYTEST_ADDOPTS in the environment"),
    "files by the environment": ({}, [], {"PYTEST_ADDOPTS": "tests/test_a.py"}, "allows no PYTEST_ADDOPTS"),
    "a plugin by the environment": ({}, [], {"PYTEST_PLUGINS": "this"}, "allows no PYTEST_PLUGINS"),
    "no assertions": ({}, [], {"PYTHONOPTIMIZE": "1"}, "allows no PYTHONOPTIMIZE"),
    "a hidden file": ({"conftest": CONFTEST + HIDE}, [], {}, "test_b.py has run"),
    "an ignored file": ({}, ["--ignore=tests/test_b.py"], {}, "test_b.py has run"),
    "a file without tests": ({"test_b": "def text_one(): pass\n"}, [], {}, "test_b.py has run"),
    "a file in a folder": ({"inner/test_c": "def tset_one(): pass\n"}, [], {}, "test_c.py has run"),
    "only listed": ({}, ["--collect-only"], {}, "4 tests were collected and did not run"),
    "an early end": ({"test_b": "import pytest\ndef test_one(): pytest.exit('', 0)\n"}, [], {}, NOT_RUN),
    "skipped": ({"test_b": "import pytest\ndef test_one(): pytest.skip('no')\n"}, [], {}, "skipped, and GATHERIO_CI"),
    "a skipped file": (
        {"test_b": "import pytest\npytest.skip('no', allow_module_level=True)\n"},
        [],
        {},
        "skipped, and GATHERIO_CI",
    ),
    "expected to fail": (
        {"test_b": "import pytest\n@pytest.mark.xfail\ndef test_one(): assert False\n"},
        [],
        {},
        "expected to fail, and GATHERIO_CI",
    ),
    "expected to fail, and passes": (
        {"test_b": "import pytest\n@pytest.mark.xfail(strict=False)\ndef test_one(): pass\n"},
        [],
        {},
        "expected to fail, and GATHERIO_CI",
    ),
    "expected to fail half-way": (
        {"test_b": "import pytest\ndef test_one(): pytest.xfail('no')\n"},
        [],
        {},
        "expected to fail, and GATHERIO_CI",
    ),
}


def run_tests(folder: Path, files: dict[str, str], *arguments: str, **environment: str) -> tuple[int, str]:
    (folder / "tests" / "inner").mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    write(folder / "tests", **{"conftest": CONFTEST, "test_a": TWO, "test_b": TWO, **files})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = run(command, folder, **environment)
    return done.returncode, done.stdout


@not_on_windows("the rules are the same, and processes are slow to start")
@pytest.mark.parametrize("how", LEFT_OUT)
def test_a_run_that_leaves_tests_out_fails(how: str, tmp_path: Path) -> None:
    files, arguments, environment, told = LEFT_OUT[how]
    status, printed = run_tests(tmp_path, files, *arguments, GATHERIO_CI="1", **environment)
    assert status != 0, printed
    assert told in printed


def test_windows_own_files_run_on_windows(tmp_path: Path) -> None:
    hidden = {"conftest": CONFTEST + "collect_ignore = ['test_windows.py']\n", "test_windows": TWO}
    status, printed = run_tests(tmp_path, hidden, GATHERIO_CI="1")
    assert status == (1 if ON_WINDOWS else 0), printed
    assert "4 passed" in printed


@pytest.mark.parametrize(("ci", "status"), [("1", 1), ("0", 0)])
def test_the_rules_hold_where_they_are_asked_for(ci: str, status: int, tmp_path: Path) -> None:
    found, printed = run_tests(tmp_path, {}, "-k", "one", GATHERIO_CI=ci)
    assert found == status, printed


def test_a_file_alone_is_no_whole_run(tmp_path: Path) -> None:
    status, printed = run_tests(tmp_path, {}, "tests/test_a.py", GATHERIO_CI="1")
    assert status == 0, printed
    assert "2 passed" in printed
