"""What the workflows may do: so that nobody gets in by way of them, and nothing is published that nobody looked at.

Actions are those of a commit, tools those of a hash. Outsiders, who may write branch names, titles and files, meet
no rights, no secrets and no place where what they write is run. The right to publish is with one job, which runs
nothing of this tree; what it publishes was made in the same run. A cache could bring in what another run left, so
there is none.

`violations` is given the text of a workflow and tells what is wrong with it; `loose_installs`, a command;
`loose_requirements`, a file of pip's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

COMMIT = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
IMAGE = re.compile(r"docker://[\w./:-]+@sha256:[0-9a-f]{64}")
VERSION = re.compile(r"# v\d+\.\d+\.\d+")
OUTSIDERS_TRIGGERS = {"pull_request_target", "workflow_run", "issue_comment", "issues", "discussion", "fork"}
WORKS_FOR_NOBODY = {"actions/cache", "actions/cache/restore", "actions/github-script"}
INSTALLERS = re.compile(r"\b(pipx|uvx?|np[mx]|cargo|gem|curl|wget|iwr)\b")


def violations(text: str, workflow: Any) -> list[str]:
    """All that is wrong with a workflow: its text, and what that says as YAML."""
    jobs = workflow["jobs"]
    found = [f"started by outsiders: {name}" for name in sorted(OUTSIDERS_TRIGGERS & set(_triggers(workflow)))]
    found += [f"not the commit of an action, with its version behind it: {line}" for line in _loose_actions(text)]
    found += [f"secrets: {name}" for name in re.findall(r"\$\{\{[^}]*\bsecrets\b[^}]*\}\}|secrets: inherit", text)]
    if workflow.get("permissions") not in ({}, {"contents": "read"}):
        found.append(f"permissions of all jobs: {workflow.get('permissions')}")
    for name, job in jobs.items():
        found += [f"{name}: {what}" for what in _wrong_with_job(name, job, jobs)]
    return found


def _triggers(workflow: Any) -> list[str]:
    told = workflow["on"]
    return [told] if isinstance(told, str) else list(told)


def _loose_actions(text: str) -> Iterator[str]:
    for line in text.splitlines():
        uses = re.match(r"\s*(?:-\s+)?[\"']?uses[\"']?\s*:\s*(.*)", line)
        if uses is None:
            if re.search(r"[{,]\s*[\"']?uses[\"']?\s*:", line):  # in braces: nobody writes that here
                yield line.strip()
            continue
        name, _, comment = uses[1].strip().partition(" ")
        pinned = COMMIT.fullmatch(name) and VERSION.fullmatch(comment.strip())
        if not pinned and not IMAGE.fullmatch(name) and not name.startswith("./"):
            yield line.strip()


def _wrong_with_job(name: str, job: Any, jobs: Any) -> Iterator[str]:
    steps = job.get("steps", [])
    used = [str(step.get("uses", "")).partition("@")[0] for step in steps]
    rights = job.get("permissions", {})
    if rights not in ({}, {"contents": "read"}, {"id-token": "write"}):
        yield f"permissions: {rights}"
    if _publishes(job):
        yield from _wrong_with_publisher(job, used)
    elif "actions/download-artifact" in used:
        yield "takes over an artifact, and does not publish it"
    publishers = [other for other in jobs.values() if _publishes(other) and name in _needs(other)]
    if "actions/upload-artifact" in used and not publishers:
        yield "leaves an artifact that no job publishes"
    for action in WORKS_FOR_NOBODY.intersection(used):
        yield f"uses {action}"
    for step in steps:
        yield from _wrong_with_step(step)


def _publishes(job: Any) -> bool:
    return job.get("permissions") == {"id-token": "write"}


def _needs(job: Any) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else needs


def _wrong_with_publisher(job: Any, used: list[str]) -> Iterator[str]:
    if set(used) - {"", "actions/download-artifact", "pypa/gh-action-pypi-publish"}:
        yield f"may publish, and uses {', '.join(filter(None, used))}"
    if "refs/tags/v" not in str(job.get("if", "")) or "environment" not in job:
        yield "publishes what is no version, or without the environment that asks for consent"
    for step in job["steps"]:
        if not re.fullmatch(r"(test [^;&|`\n]*)?", str(step.get("run", ""))):
            yield f"may publish, and runs {step['run']}"


def _wrong_with_step(step: Any) -> Iterator[str]:
    used, given = str(step.get("uses", "")), step.get("with", {})
    if used.startswith("actions/checkout@") and given.get("persist-credentials") is not False:
        yield "a checkout leaves its credentials behind: persist-credentials: false"
    if used.startswith("actions/checkout@") and {"ref", "repository", "token"} & set(given):
        yield "checks out something other than what started it"
    if any(key.startswith("cache") for key in given):
        yield f"takes a cache: {used}"
    script = str(step.get("run", ""))
    if "${{" in script:
        yield f"what is filled in becomes a part of the script; pass it in env: {script.strip()}"
    yield from (f"installs what no hash tells: {line}" for line in loose_installs(script))


# --- what commands install ---


def loose_installs(script: str) -> list[str]:
    """The lines of a script that install, or build with, what is not told by a hash. Debian's packages are signed."""
    found = []
    for line in re.split(r"\n|&&|;|\|\|", script.replace("\\\n", " ")):
        words = line.split()
        if _is_loose_pip(words) or _is_loose_build(words) or INSTALLERS.search(line):
            found.append(line.strip())
    return found


def _is_loose_pip(words: list[str]) -> bool:
    """`pip install` goes by a list with hashes, or takes what lies here, with nothing else."""
    pips = [at for at, word in enumerate(words) if re.fullmatch(r"(.*/)?pip[\d.]*", word)]
    if not pips:
        return False
    rest = words[pips[0] + 1 :]
    if not {"install", "wheel", "download"} & set(rest):
        return False
    options = {word for word in rest if word.startswith("-")}
    names = [word for word in rest[1:] if not word.startswith("-")]
    if options == {"--require-hashes", "-r"}:
        return len(names) != 1
    here = all(re.fullmatch(r"\.|\./.*|dist/[^ ]*", name.strip("\"'")) for name in names)
    return not here or options != {"--no-deps", "--no-build-isolation"}


def _is_loose_build(words: list[str]) -> bool:
    """In isolation it would fetch the newest of what builds."""
    return " -m build" in " ".join(words) and "--no-isolation" not in words


def requirement_files(script: str) -> set[str]:
    return set(re.findall(r"(?:-r|--requirement)[ =](\S+)", script))


# --- files of requirements ---


def loose_requirements(text: str) -> list[str]:
    """The lines that name no version, or no hash."""
    entries = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    pinned = re.compile(r"[\w.-]+==[\w.!+-]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    return [line for line in entries if not pinned.fullmatch(line)]


def named(text: str) -> set[str]:
    """The packages that a file of requirements, or a list of lines like that, asks for: in their normal form."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def is_ours(path: str) -> bool:
    return PurePosixPath(path.removeprefix("{project}/")).parent == PurePosixPath(".github/requirements")
