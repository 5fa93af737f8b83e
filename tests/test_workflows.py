"""The workflows under .github keep to their schema, and to what the rest of the tree says.

They run nowhere but at their host, so what a program can check of them is checked here.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from oracle import not_under_wine

ROOT = Path(__file__).resolve().parent.parent
DEPENDABOT = ROOT / ".github" / "dependabot.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = [
    not_under_wine("its Python has no check-jsonschema"),
    pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="there is no .github here: not a checkout"),
]
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)

#: Where each kind of wheel is built and tested: on a machine of that kind. A new image is named here first.
RUNNERS = {
    "manylinux_x86_64": "ubuntu-latest",
    "musllinux_x86_64": "ubuntu-latest",
    "manylinux_aarch64": "ubuntu-24.04-arm",
    "musllinux_aarch64": "ubuntu-24.04-arm",
    "win_amd64": "windows-latest",
    "win_arm64": "windows-11-arm",
}


def read(path: Path) -> Any:
    """What a YAML file says. The reader comes with check-jsonschema."""
    yaml = pytest.importorskip("ruamel.yaml", reason="needs check-jsonschema: pip install 'gatherio[test]'")
    return yaml.YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@functools.cache
def project() -> dict[str, Any]:
    """pyproject.toml. For Python 3.10, check-jsonschema brings the reader along."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    toml = pytest.importorskip(name, reason="needs check-jsonschema: pip install 'gatherio[test]'")
    found: dict[str, Any] = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found


def job(workflow: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(ROOT / ".github" / "workflows" / f"{workflow}.yml")["jobs"][name]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


# --- the form ---


@pytest.mark.parametrize(
    ("schema", "path"),
    [("github-workflows", path) for path in WORKFLOWS] + [("dependabot", DEPENDABOT)],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_the_schema_is_kept(schema: str, path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema: pip install 'gatherio[test]'")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@each_workflow
def test_actions_are_pinned(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    # A release, a major version that is kept compatible, or a commit; never a branch that anything may enter.
    pinned = re.compile(r"[\w-]+/[\w./-]+@(v\d+(\.\d+)*|release/v\d+|[0-9a-f]{40})")
    assert [name for name in used if not pinned.fullmatch(name)] == []


def test_cibuildwheel_is_pinned_to_the_patch() -> None:
    """It decides about compilers and interpreters, so every version of it makes other wheels."""
    (used,) = (step["uses"] for step in job("wheels", "wheels")["steps"] if "cibuildwheel" in step.get("uses", ""))
    assert re.fullmatch(r"pypa/cibuildwheel@v\d+\.\d+\.\d+", used)


@each_workflow
def test_nothing_runs_for_hours_or_may_write(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is not False
    for name, found in workflow["jobs"].items():
        assert found.get("timeout-minutes", 360) <= 60, name
        assert "permissions" not in found or name == "publish", name


def test_only_a_version_tag_is_published() -> None:
    publish = job("wheels", "publish")
    assert publish["if"] == "github.event_name == 'push' && startsWith(github.ref, 'refs/tags/v')"
    assert publish["permissions"] == {"id-token": "write"}  # trusted publishing needs it, and nothing else
    assert publish["environment"] == "pypi"
    others = read(ROOT / ".github" / "workflows" / "wheels.yml")["jobs"].keys() - {"publish"}
    assert set(publish["needs"]) == others


# --- what the workflows say of the tree ---


def scripts() -> list[str]:
    """Everything they run, and what pyproject.toml has cibuildwheel run."""
    found = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    return [*found, *project()["tool"]["cibuildwheel"]["test-command"]]


def files_in(script: str) -> set[str]:
    """The words of a script that name files of this tree."""
    words = re.split(r"[\s\"'|&;=]+", script.replace("{project}/", ""))
    relative = re.compile(r"[\w.-]+/[\w./-]*|[\w-]+\.(py|sh|toml|txt|cfg)")  # "dist/*" is of the script's own making
    return {word for word in words if relative.fullmatch(word)}


def test_the_reader_of_scripts() -> None:
    script = 'docker run --volume="$PWD:/x" -w /x .ci/run && pytest {project}/tests/test_plan.py\nsetup.py dist/*'
    assert files_in(script) == {".ci/run", "tests/test_plan.py", "setup.py"}


def test_scripts_run_files_that_exist() -> None:
    named = set().union(*map(files_in, scripts()))
    assert {".ci/run", "tests/test_plan.py"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_no_script_believes_an_exit_status_of_0() -> None:
    ci_run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pytest_runs = [line for text in [*scripts(), ci_run] for line in text.splitlines() if "whole_run.py" in line]
    assert len(pytest_runs) >= 3
    assert not any(re.search(r"(-m |^|\s)pytest( |$)", line) for text in scripts() for line in text.splitlines())
    assert "-m pytest" not in ci_run


def test_scripts_install_extras_that_exist() -> None:
    named = {extra for script in scripts() for extra in re.findall(r"\.\[(\w+)\]", script)}
    assert named
    assert named <= project()["project"]["optional-dependencies"].keys()


def lowest_python() -> str:
    found = re.fullmatch(r">=(3\.\d+)", project()["project"]["requires-python"])
    assert found
    return found[1]


def order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.removesuffix("t").split(".")))


def wheels(platform: str) -> set[str]:
    """The interpreters that cibuildwheel takes there, as "cp310", "cp314t"."""
    config = project()["tool"]["cibuildwheel"]
    interpreters = {f"cp3{minor}{suffix}" for minor in range(8, 20) for suffix in ("", "t")}

    def chosen(identifier: str) -> bool:
        built = any(fnmatch(identifier, pattern) for pattern in config["build"])
        return built and not any(fnmatch(identifier, pattern) for pattern in config["skip"].split())

    return {name for name in interpreters if chosen(f"{name}-{platform}")}


def test_wheels_are_built_on_every_platform() -> None:
    assert {row["runner"] for row in job("wheels", "wheels")["strategy"]["matrix"]["include"]} == set(RUNNERS.values())


@pytest.mark.parametrize("platform", RUNNERS)
def test_wheels_serve_every_python(platform: str) -> None:
    """One for each free-threaded CPython; one, built by the oldest CPython that can be, for all the others."""
    oldest = "cp311" if platform == "win_arm64" else f"cp{lowest_python().replace('.', '')}"  # pyproject.toml: why
    tested = job("tests", "suite")["strategy"]["matrix"]["python"]
    newest = {f"cp{version.replace('.', '')}" for version in tested if order(version) == max(map(order, tested))}
    assert wheels(platform) == {oldest, *newest}


def test_the_suite_runs_on_the_oldest_python_and_without_the_gil() -> None:
    matrix = job("tests", "suite")["strategy"]["matrix"]
    assert min(matrix["python"], key=order) == lowest_python()
    assert any(version.endswith("t") for version in matrix["python"])
    assert {"ubuntu-latest", "windows-latest"} <= set(matrix["runner"])


def test_linters_are_those_of_the_ci_script() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    systems = re.search(r"^for platform in (.*); do$", script, re.MULTILINE)
    assert systems
    ruff = re.findall(r"^ruff .*$", script, re.MULTILINE)
    expected = {*ruff, *(f"mypy --platform {name}" for name in systems[1].split())}
    assert expected <= {step.get("run") for step in job("tests", "lint")["steps"]}
