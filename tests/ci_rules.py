"""What GATHERIO_CI=1 asks of a run: that no test is left out, by whomever and however.

A skip is a failure, but one that names what Windows or Wine lacks. So is a test that is expected to fail.
What was collected has been run: nothing was deselected (-k, a plugin), and nobody ended the run early.
Without files in the arguments, each tests/**/test_*.py has run, but Windows' own on Linux.
Nothing in the environment tells pytest or Python what to do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

LACKING = ("not on Windows: ", "not under Wine: ")  # how the reason of a skip begins that is none of our making
WINDOWS_ONLY = ["test_windows.py", "test_windows_mapping.py"]  # nothing of them can run on Linux
STRANGERS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONPATH")

Report = pytest.TestReport | pytest.CollectReport


class Rules:
    """A plugin for a run whose tests lie in a folder."""

    def __init__(self, tests: Path) -> None:
        self._tests = tests
        self._collected: dict[str, Path] = {}  # what was found, by its name
        self._run: set[str] = set()
        self._problems: list[str] = []

    def pytest_sessionstart(self) -> None:
        if found := [name for name in STRANGERS if os.environ.get(name)]:
            raise pytest.UsageError(f"GATHERIO_CI=1 allows no {', '.join(found)} in the environment")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._collected[item.nodeid] = item.path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        _refuse(report)
        if report.when == "call" or report.outcome != "passed":  # a skip is told of by the setup
            self._run.add(report.nodeid)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        _refuse(report)
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus != pytest.ExitCode.OK:
            return
        if left := self._collected.keys() - self._run:
            self._problems.append(f"{len(left)} tests were collected and did not run, {min(left)} for one")
        if session.config.args_source != pytest.Config.ArgsSource.ARGS:
            self._problems += [f"no test of {path} has run" for path in self._files_left_out()]
        if self._problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _files_left_out(self) -> list[Path]:
        seen = {self._collected[nodeid] for nodeid in self._run}
        elsewhere = set() if sys.platform == "win32" else {self._tests / name for name in WINDOWS_ONLY}
        return sorted(set(self._tests.rglob("test_*.py")) - seen - elsewhere)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for text in self._problems:
            terminalreporter.write_line(f"GATHERIO_CI=1: {text}", red=True)


def _refuse(report: Report) -> None:
    """Turn a skip, or a test that is expected to fail, into a failure."""
    if hasattr(report, "wasxfail"):
        why = "expected to fail"
        del report.wasxfail
    elif report.skipped and not (sys.platform == "win32" and any(text in report.longreprtext for text in LACKING)):
        why = "skipped"
    else:
        return
    report.outcome = "failed"
    report.longrepr = f"{why}, and GATHERIO_CI=1 allows none of that: {report.longreprtext}"
