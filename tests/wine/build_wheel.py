"""Builds the Windows wheel out of a source tree, on Linux.

    build_wheel.py TREE INCLUDE LIBS OUT

Run by a Python with setuptools and cffi. setuptools does what it does for any wheel, only that it is told the
platform and finds the compiled module ready: mingw-w64 makes it, from the C that build_ffi.py names for Windows.
Everything is made from the sdist, so what that forgets is missed here.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

GCC = "x86_64-w64-mingw32-gcc"
OBJDUMP = "x86_64-w64-mingw32-objdump"
COMPILE = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]
LINK = ["-shared", "-s", "-static-libgcc"]

# Every Windows has these. python3.dll is what makes the module one for every CPython, and any other DLL would
# have to be shipped.
ALLOWED_DLLS = {"python3.dll", "kernel32.dll", "ntdll.dll", "advapi32.dll", "msvcrt.dll"}
TAG = "cp310-abi3-win_amd64"


def main() -> None:
    tree, include, libs, out = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="gatherio-wheel-") as temp:
        source = unpacked_sdist(tree.resolve(), Path(temp))
        setup(source, "build_py")
        (build_lib,) = (source / "build").glob("lib*")
        module = build_lib / "gatherio" / "_gatherio.pyd"
        compile_module(source, include.resolve(), libs.resolve(), module)
        check_imports(module)
        setup(source, "bdist_wheel", "--skip-build", "--plat-name=win_amd64", f"--dist-dir={temp}")
        (wheel,) = Path(temp).glob(f"*-{TAG}.whl")
        shutil.copy(wheel, out)


def unpacked_sdist(tree: Path, temp: Path) -> Path:
    setup(tree, "sdist", "--formats=gztar", f"--dist-dir={temp}")
    (sdist,) = temp.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(temp)
    return temp / sdist.name.removesuffix(".tar.gz")


def setup(source: Path, *command: str) -> None:
    """Shown only when it fails: setuptools would have its front ends call it, which can't do this by halves."""
    done = subprocess.run(
        [sys.executable, "setup.py", *command], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nsetup.py {' '.join(command)}: exit code {done.returncode}")


def compile_module(source: Path, include: Path, libs: Path, target: Path) -> None:
    sys.path.insert(0, str(source))
    build_ffi = importlib.import_module("build_ffi")
    glue = source / "_gatherio.c"
    with contextlib.redirect_stdout(None):  # it would say that it does
        build_ffi.builder("win32").emit_c_code(str(glue))
    files = [glue, *(source / "csrc" / name for name in build_ffi.sources("win32"))]
    objects = [source / f"{file.stem}.o" for file in files]
    for file, made in zip(files, objects, strict=True):
        run([GCC, *COMPILE, f"-I{include}", "-Icsrc", "-c", file, "-o", made], source)
    libraries = [f"-l{name}" for name in ["python3", *build_ffi.libraries("win32")]]
    run([GCC, *LINK, "-o", target, *objects, f"-L{libs}", *libraries], source)


def check_imports(module: Path) -> None:
    headers = subprocess.run([OBJDUMP, "-p", module], check=True, capture_output=True, text=True).stdout
    found = {name.lower() for name in re.findall(r"DLL Name: (\S+)", headers)}
    if "python3.dll" not in found or not found <= ALLOWED_DLLS:
        raise SystemExit(f"{module.name} is to import python3.dll and the system's, but it imports {sorted(found)}")


def run(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}")


if __name__ == "__main__":
    main()
