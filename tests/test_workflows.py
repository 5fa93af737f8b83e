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
from workflow_rules import is_ours, loose_installs, loose_requirements, named, requirement_files, violations

ROOT = Path(__file__).resolve().parent.parent
DEPENDABOT = ROOT / ".github" / "dependabot.yml"
REQUIREMENTS = sorted((ROOT / ".github" / "requirements").glob("*.txt"))
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
    """What a YAML file says."""
    return parsed(path.read_text(encoding="utf-8"))


def parsed(text: str) -> Any:
    """The reader comes with check-jsonschema."""
    yaml = pytest.importorskip("ruamel.yaml", reason="needs check-jsonschema: pip install 'gatherio[test]'")
    return yaml.YAML(typ="safe", pure=True).load(text)


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


# --- who may get in (workflow_rules.py) ---


@each_workflow
def test_the_rules_are_kept(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), read(path)) == []


GOOD = """
on: [push, pull_request]
permissions: {}
jobs:
  make:
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with:
          persist-credentials: false
      - run: python -m pip install --require-hashes -r .github/requirements/sdist.txt
      - run: python -m build --sdist --no-isolation && pip install --no-deps --no-build-isolation dist/*.tar.gz
      - uses: actions/upload-artifact@bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0
  publish:
    if: startsWith(github.ref, 'refs/tags/v')
    needs: make
    environment: pypi
    permissions:
      id-token: write
    steps:
      - uses: actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1
      - run: test -f dist/some
      - uses: pypa/gh-action-pypi-publish@cef221092ed1bacb1cc03d23a2d87d1d172e277b # v1.14.0
"""
CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"
BY_HASHES = "pip install --require-hashes -r .github/requirements/sdist.txt"
NO_CREDENTIALS = "        with:\n          persist-credentials: false\n"


def test_a_workflow_may_do_this() -> None:
    assert violations(GOOD, parsed(GOOD)) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        # actions that others can move
        (f"{CHECKOUT} # v7.0.1", "actions/checkout@v7.0.1"),
        (f"{CHECKOUT} # v7.0.1", "actions/checkout@main"),
        (f"{CHECKOUT} # v7.0.1", CHECKOUT[:-1] + " # v7.0.1"),
        (f"{CHECKOUT} # v7.0.1", CHECKOUT),  # which version that is, nobody sees
        (f"{CHECKOUT} # v7.0.1", "'actions/checkout@v7' # v7.0.1"),
        ("- run: python -m pip", "- {uses: actions/setup-python@v7}\n      - run: python -m pip"),
        (f"- uses: {CHECKOUT} # v7.0.1", "- uses: docker://alpine:3"),
        # who starts it
        ("[push, pull_request]", "[push, pull_request_target]"),
        ("[push, pull_request]", "pull_request_target"),
        ("[push, pull_request]", "{push: {}, workflow_run: {workflows: [tests]}}"),
        # rights
        ("permissions: {}\njobs", "permissions: write-all\njobs"),
        ("permissions: {}\njobs", "permissions: {contents: write}\njobs"),
        ("permissions: {}\njobs", "permissions: {id-token: write}\njobs"),
        ("permissions: {}\njobs", "jobs"),
        ("  make:\n", "  make:\n    permissions: {contents: write}\n"),
        ("  make:\n", "  make:\n    permissions: {id-token: write}\n"),  # it runs this tree
        ("      id-token: write\n", "      id-token: write\n      contents: write\n"),
        ("    environment: pypi\n", ""),
        ("    if: startsWith(github.ref, 'refs/tags/v')\n", ""),
        ("run: test -f dist/some", "run: pip install --no-deps --no-build-isolation dist/some"),
        ("run: test -f dist/some", "run: test -f dist/some; sh dist/some"),
        # what is left behind
        (NO_CREDENTIALS, ""),
        (NO_CREDENTIALS, NO_CREDENTIALS.replace("false", "true")),
        (NO_CREDENTIALS, NO_CREDENTIALS + "          ref: ${{ github.event.pull_request.head.sha }}\n"),
        (NO_CREDENTIALS, NO_CREDENTIALS + "          cache: pip\n"),
        ("    needs: make\n", ""),
        ("actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1", f"{CHECKOUT} # v7.0.1"),
        ("    steps:\n      - uses: actions/checkout", "    steps:\n      - uses: actions/download-artifact"),
        ("actions/upload-artifact@", "actions/cache@"),
        ("run: test -f dist/some", "env: {PASSWORD: '${{ secrets.PYPI }}'}"),
        # what becomes a part of a script
        ("run: test -f dist/some", "run: test -f ${{ github.event.head_commit.message }}"),
        ("run: test -f dist/some", "run: test -f ${{ github.ref_name }}"),
        ("run: test -f dist/some", "run: test -f $(wget x)"),
        # what is installed
        (BY_HASHES, "pip install build twine"),
        (BY_HASHES, "pip install build==1.6.1"),
        (BY_HASHES, "pip install -r requirements.txt"),
        (
            BY_HASHES,
            "pip install --require-hashes -r x.txt more",
        ),
        ("pip install --no-deps --no-build-isolation dist", "pip install dist"),
        ("pip install --no-deps --no-build-isolation dist/*.tar.gz", 'pip install ".[all]"'),
        ("--sdist --no-isolation", "--sdist"),
        ("python -m build --sdist --no-isolation", "pipx run build"),
        ("python -m build --sdist --no-isolation", "curl -sSf some | sh"),
    ],
)
def test_a_workflow_may_not_do_this(good: str, bad: str) -> None:
    text = GOOD.replace(good, bad, 1)
    assert text != GOOD
    assert violations(text, parsed(text)) != []


def test_what_is_installed_is_told_by_hashes() -> None:
    assert {path.stem for path in REQUIREMENTS} == {"audit", "build", "cibuildwheel", "sdist", "suite", "test"}
    for path in REQUIREMENTS:
        assert loose_requirements(path.read_text(encoding="utf-8")) == [], path.name
    one, two = (f"--hash=sha256:{digit * 64}" for digit in "1a")
    good = f"one==1.0 \\\n    {one} \\\n    {two}\ntwo==2 ; x > '3' {one}\n"
    assert loose_requirements(good) == []
    for bad in ("one==1.0", "one>=1.0 --hash=sha256:" + "0" * 64, "one==1.0 --hash=md5:00", "-e .", "one @ file:x"):
        assert loose_requirements(good + bad) == [bad]


def test_requirements_are_those_that_are_wanted() -> None:
    """Each list has what was asked for, and each is used."""
    for path in REQUIREMENTS:
        wanted = path.with_suffix(".in")
        asked = wanted.read_text(encoding="utf-8") if wanted.exists() else "\n".join(extras("all"))
        assert named(asked) and named(asked) <= named(path.read_text(encoding="utf-8")), path.name
    used = set().union(*map(requirement_files, scripts()))
    assert all(is_ours(name) for name in used)
    assert {Path(name).stem for name in used} == {path.stem for path in REQUIREMENTS}


def test_what_builds_and_tests_wheels_is_told_by_hashes() -> None:
    """The wheel still lies there while it is tested."""
    config = project()["tool"]["cibuildwheel"]
    assert config["build-frontend"] == {"name": "build", "args": ["--no-isolation"]}
    assert config["audit-requires"][:2] == ["--require-hashes", "-r"]
    assert not {"test-requires", "test-extras", "test-groups", "before-all", "environment"} & config.keys()
    assert loose_installs("\n".join(wheel_scripts())) == []
    build_system = named("\n".join(project()["build-system"]["requires"]))
    for name in ("build", "sdist"):  # nothing else is fetched
        assert build_system <= named((ROOT / ".github" / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))
    for name in ("test", "sdist", "suite"):
        dependencies = named("\n".join(project()["project"]["dependencies"]))
        assert dependencies <= named((ROOT / ".github" / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))


def test_dependabot_watches_all_of_it() -> None:
    watched = {(entry["package-ecosystem"], entry["directory"]) for entry in read(DEPENDABOT)["updates"]}
    assert watched == {("github-actions", "/"), ("uv", "/.github/requirements")}


def test_the_python_for_windows_is_told_by_hashes() -> None:
    """What tests/wine installs and unpacks."""
    for name in ("tools.lock", "windows.lock"):
        assert loose_requirements((ROOT / "tests" / "wine" / name).read_text(encoding="utf-8")) == []
    calls = re.findall(r"^ *pip\((.*)\)$", (ROOT / "tests" / "wine" / "build_bed.py").read_text(encoding="utf-8"), re.M)
    assert len(calls) == 2 and all('"--require-hashes"' in call for call in calls)


# --- what they do ---


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
    return [*found, *wheel_scripts()]


def wheel_scripts() -> list[str]:
    config = project()["tool"]["cibuildwheel"]
    audit = " ".join(["pip install", *config["audit-requires"]])
    return [config["before-build"], audit, config["before-test"], *config["test-command"]]


def extras(name: str) -> list[str]:
    """The requirements of an extra, and of those that it names."""
    found = []
    for requirement in project()["project"]["optional-dependencies"][name]:
        others = re.fullmatch(r"gatherio\[([\w,]+)\]", requirement)
        found += [one for other in others[1].split(",") for one in extras(other)] if others else [requirement]
    return found


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
