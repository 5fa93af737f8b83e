"""What is shipped, and who may import or include what: rules of the house, held as data."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracle import ON_WINDOWS, ON_WINE, skip_under_wine

import gatherio

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "gatherio"
STUDY = ROOT / "benchmarks" / "study"
CSRC = ROOT / "csrc"

# --- sdist and wheel ---


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel that was built from it, without a network."""
    skip_under_wine("it has no compiler")
    pytest.importorskip("build", reason="needs the package build: pip install 'gatherio[test]'")
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"  # a copy: a build leaves an egg-info folder, and an old one would be believed
    leave_out = shutil.ignore_patterns(
        ".git", ".*_cache", ".hypothesis", ".venv", "venv", "build", "dist", "*.egg-info", "*.so"
    )
    shutil.copytree(ROOT, tree, ignore=leave_out)
    dist = folder / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(tree)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (folder / "build.log").write_text(done.stdout, encoding="utf-8")
    return dist


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def wheel(request: pytest.FixtureRequest) -> Iterator[zipfile.ZipFile]:
    """Built here; under Wine the one that is installed, built from the sdist by another compiler."""
    folder = Path(sys.prefix) if ON_WINE else request.getfixturevalue("built")
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_c_compiles_without_a_warning(built: Path) -> None:
    log = (built.parent / "build.log").read_text(encoding="utf-8")
    # "plan.c:12:3: warning: ...", by Microsoft's compiler "plan.c(12): warning C4018: ..."
    assert re.findall(r"^.*\.[ch](?::\d+:\d+|\(\d+\)): warning.*$", log, re.MULTILINE) == []


def test_sdist_holds_the_c_of_every_system(sdist_names: set[str]) -> None:
    assert {f"csrc/{path.name}" for path in CSRC.iterdir()} <= sdist_names


def test_sdist_builds_and_tests_itself(sdist_names: set[str]) -> None:
    needed = [
        "pyproject.toml",
        "setup.py",
        "build_ffi.py",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    tests = [f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")]
    examples = [f"examples/{path.name}" for path in (ROOT / "examples").glob("*.*")]
    assert {*needed, *tests, *examples, ".ci/run", "src/gatherio/py.typed"} <= sdist_names


def test_sdist_has_the_study(sdist_names: set[str]) -> None:
    benchmarks = [path for path in (ROOT / "benchmarks").rglob("*") if path.suffix in (".py", ".c", ".md")]
    assert STUDY / "command.py" in benchmarks
    assert {path.relative_to(ROOT).as_posix() for path in benchmarks} <= sdist_names
    assert not any(name.endswith(".pyc") for name in sdist_names)


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    python = {f"gatherio/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    typing = {"gatherio/py.typed", *(f"gatherio/{path.name}" for path in PACKAGE.glob("*.pyi"))}
    suffix = ".pyd" if ON_WINDOWS else ".so"
    extension = {name for name in names if name.startswith("gatherio/_gatherio.") and name.endswith(suffix)}
    assert len(extension) == 1
    assert names == python | typing | extension


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="free-threaded CPython has no stable ABI")
def test_wheel_serves_every_cpython_from_310_on(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL"))
    tag = re.search(r"^Tag: (\S+)$", wheel.read(metadata).decode(), re.MULTILINE)
    assert tag and tag[1].startswith("cp310-abi3-win_" if ON_WINDOWS else "cp310-abi3-linux_")
    assert f"gatherio/_gatherio{'.pyd' if ON_WINDOWS else '.abi3.so'}" in wheel.namelist()


def test_the_wheel_imports(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    program = "import sys; sys.path.insert(0, sys.argv[1]); import gatherio; print(gatherio.__file__)"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


# --- imports point one way ---

# A module may import from its own row and from the rows above it, never in a circle. A new module gets its
# place here first.
LAYERS = [
    {"_core.__init__", "_formats.__init__", "_mapping.__init__", "_memory.__init__"},
    {"_handle", "_text", "_folders"},
    {"_version", "errors", "_native", "_remedy", "_progress", "_device", "_formats.npy_header"},
    {"_memory.pages", "_memory.segments", "_settings"},
    {"_core.engine", "_core.replace", "_core.futures"},
    {"_core.loop", "_core.registration"},
    {"_core.locks", "_core.operation", "_core.queue"},
    {"_core.file"},
    {"info", "_formats.npy", "_mapping.sections"},
    {"_mapping.records"},
    {"_mapping.mapping"},
    {"__init__"},
    {"_measure"},
    {"probe"},
    {"_cli.__init__", "_cli.search_path", "_cli.signals", "_cli.text"},
    {"_cli.arguments"},
    {"_cli.demo_phases", "_cli.demo_job", "_cli.demo_report", "_cli.quick", "_cli.tuner"},
    {"_cli.info", "_cli.demo", "_cli.bench", "_cli.tune"},
    {"_cli.main"},
    {"__main__"},
]
#: Of the study, which may import from the package whatever it likes: from the inside out.
STUDY_LAYERS = [
    {"__init__", "programs", "runs", "safe_text", "headline", "tables"},
    {"bare_loop", "fio", "groups", "machine", "numpy_ways", "peers"},
    {"bed"},
    {"sequential", "arrays", "separate", "small", "others", "kinds", "mappings", "memory", "maps"},
    {"document", "runner"},
    {"pictures", "report"},
    {"command"},
    {"__main__"},
]


def numbered(layers: list[set[str]]) -> dict[str, int]:
    return {name: number for number, names in enumerate(layers) for name in names}


LAYER_OF = numbered(LAYERS)
STUDY_LAYER_OF = numbered(STUDY_LAYERS)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`, which no program runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for alternative in node.orelse:
                yield alternative
                yield from runtime_nodes(alternative)
        else:
            yield node
            yield from runtime_nodes(node)


def imports_of(source: str, package: str = "gatherio", layer_of: dict[str, int] = LAYER_OF) -> set[str]:
    """The names of the package's modules that a module of it imports, at its top or inside a function."""
    top = package.split(".")[0]
    found: set[str] = set()
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            dotted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(module_named(name, layer_of) for name in dotted if name.split(".")[0] == top)
    return found


def module_named(dotted: str, layer_of: dict[str, int]) -> str:
    """The module that a dotted name is, or that the name is taken from."""
    rest = dotted.split(".")[1:]
    for length in (2, 1):
        name = ".".join(rest[:length])
        if name in layer_of or name == "_gatherio":
            return name
    return "__init__"


def imports_in(folder: Path, layer_of: dict[str, int]) -> dict[str, set[str]]:
    """What each module of a package imports of it."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        package = ".".join((folder.name, *parts[:-1]))
        found[".".join(parts)] = imports_of(path.read_text(encoding="utf-8"), package, layer_of)
    return found


def package_imports() -> dict[str, set[str]]:
    return imports_in(PACKAGE, LAYER_OF)


def study_imports() -> dict[str, set[str]]:
    return imports_in(STUDY, STUDY_LAYER_OF)


def test_the_import_reader_sees_every_form() -> None:
    source = """
import gatherio._memory.pages
import numpy
from gatherio import info as i, open
from . import errors
from ._core.queue import CompletionQueue
if TYPE_CHECKING:
    from ._formats.npy import save
def late():
    from gatherio._gatherio import lib
"""
    assert imports_of(source) == {"_memory.pages", "info", "__init__", "errors", "_core.queue", "_gatherio"}
    below = "from .._core.file import open; from .. import _measure; from . import quick; from .text import say"
    assert imports_of(below, "gatherio._cli") == {"_core.file", "_measure", "_cli.quick", "_cli.text"}


def test_public_names_show_their_public_module() -> None:
    shown = {name: getattr(getattr(gatherio, name), "__module__", "gatherio") for name in gatherio.__all__}
    outside = {"ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "CancelledError", "TimeoutError"}
    assert {name: module for name, module in shown.items() if module != "gatherio"}.keys() <= outside


def test_every_module_has_its_place() -> None:
    assert package_imports().keys() == LAYER_OF.keys(), "give the new module a row in LAYERS"
    assert study_imports().keys() == STUDY_LAYER_OF.keys()


@pytest.mark.parametrize(("imports", "layer_of"), [(package_imports, LAYER_OF), (study_imports, STUDY_LAYER_OF)])
def test_imports_point_one_way(imports: Callable[[], dict[str, set[str]]], layer_of: dict[str, int]) -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, names in imports().items()
        for imported in names - {"_gatherio"}
        if layer_of[imported] > layer_of[importer]
    ]
    assert not wrong


@pytest.mark.parametrize("imports", [package_imports, study_imports])
def test_imports_make_no_circle(imports: Callable[[], dict[str, set[str]]]) -> None:
    waiting = {name: imported - {"_gatherio"} for name, imported in imports().items()}
    while free := [name for name, imported in waiting.items() if not imported & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, "these modules import each other"


def test_only_native_imports_the_compiled_module() -> None:
    assert [name for name, imported in package_imports().items() if "_gatherio" in imported] == ["_native"]


def test_the_package_needs_nothing_of_the_study() -> None:
    """But by `gatherio bench`, which looks for it."""
    for path in PACKAGE.rglob("*.py"):
        names = [
            node.module or ""
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
        ]
        assert not any(name.split(".")[0] == "study" for name in names), path


# --- the build chooses files, the preprocessor does not ---

ONE_SYSTEM = re.compile(r".*_(linux|windows)|backend_(uring|threads|iocp)")
CONDITIONAL = re.compile(r"^[ \t]*#[ \t]*(?:if|ifdef|ifndef|elif|else)\b.*$", re.MULTILINE)
INCLUDE_GUARD = re.compile(r"^#ifndef (\w+)\n#define \1\n", re.MULTILINE)


def conditionals(text: str) -> list[str]:
    """The conditional lines of a C file, without the guard against being included twice."""
    return CONDITIONAL.findall(INCLUDE_GUARD.sub("", text, count=1))


def test_the_conditional_reader() -> None:
    guard = "/* what it is */\n#ifndef A_H\n#define A_H\nint a;\n#endif\n"
    assert conditionals(guard) == []
    assert conditionals(guard + "# ifdef _WIN32\n#endif\n") == ["# ifdef _WIN32"]
    assert conditionals("#ifndef A\n#define A 1\n#endif\n") == ["#ifndef A"]


def test_shared_c_has_no_conditionals() -> None:
    found = {
        path.name: lines
        for path in sorted(CSRC.glob("*.[ch]"))
        if not ONE_SYSTEM.fullmatch(path.stem) and (lines := conditionals(path.read_text(encoding="utf-8")))
    }
    assert not found
