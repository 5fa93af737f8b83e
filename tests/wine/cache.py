"""A cache folder that several runs use at once, and that an interrupted one leaves whole.

    build.lock          held while anything below is made, chosen or removed
    bed-KEY/            a bed (build_bed.py); the key is a hash of what it is made from
        in-use          held by every run in it; who gets it alone was the last one, and ends Wine
        installed/KEY/  a Windows virtual environment with gatherio, and its wheel; the key is a hash of the sources
            in-use      held by every run of it: nobody removes it under them
        prefix/         Wine's, with a folder for each run in drive_c/tmp

What is being made is called KEY.part until it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path


def say(message: str) -> None:
    print(f"wine: {message}", file=sys.stderr, flush=True)


class Lock:
    """A lock of a file, held until this is closed or the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def share(self) -> Lock:
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return self

    def take_alone(self) -> Lock:
        if not self.try_alone():
            say("waiting for another run that is building")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def try_alone(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def cache_folder() -> Path:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("GATHERIO_WINE_CACHE") or user_cache / "gatherio-wine").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    return cache


# The rest is called with the build lock held.


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which is made when it is not there."""
    if not folder.exists():
        for left_by_interrupted in folder.parent.glob("*.part"):
            remove(left_by_interrupted)
        part = folder.with_name(f"{folder.name}.part")
        start = time.monotonic()
        make(part)
        part.rename(folder)
        say(f"made {folder} in {time.monotonic() - start:.0f} s")
    os.utime(folder)  # when it was last used
    return folder


def in_use(folder: Path) -> Lock:
    return Lock(folder / "in-use")


def remove_oldest(folders: Iterable[Path], keep: int) -> None:
    """All but the number of those used last, and those used now."""
    newest_first = sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in newest_first[keep:]:
        with in_use(folder) as lock:
            if lock.try_alone():
                remove(folder.rename(folder.with_name(f"{folder.name}.part")))


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def hash_of(folder: Path, names: Iterable[str], ignored: Iterable[str], *texts: str) -> str:
    """Of the files with these names, of all files in the folders with these names, and of the texts."""
    digest = hashlib.sha256("\0".join(texts).encode())
    for name in names:
        top = folder / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            inner = path.relative_to(folder)
            if path.is_file() and not any(fnmatch(part, pattern) for part in inner.parts for pattern in ignored):
                digest.update(f"{inner}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
