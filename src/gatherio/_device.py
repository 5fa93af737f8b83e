"""Which device a file lies on: its file system, its name in the system, and an identity that outlasts a restart."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo, which proc_pid_mountinfo(5) describes. Names are as Python has those of files."""

    number: str  # major:minor
    point: str
    options: str
    file_system: str
    source: str


def mount_of(path: str | os.PathLike[str]) -> Mount | None:
    """The mount that a path lies in; None where the system does not tell."""
    mounts = [mount for line in lines(Path("/proc/self/mountinfo")) if (mount := _parsed(line))]
    if not mounts:
        return None
    number = _number(os.stat(path).st_dev)
    real = os.path.realpath(path)
    around = [mount for mount in mounts if _is_within(real, mount.point)]
    return max(around, key=lambda mount: (mount.number == number, len(mount.point)), default=None)


def _parsed(line: bytes) -> Mount | None:
    """None of another line. Names may hold any byte; space, tab, line feed and backslash are escaped."""
    fields = line.split(b" ")
    try:
        _, _, number, _, point, options = fields[:6]
        at = fields.index(b"-", 6)  # behind any number of optional fields
        kind, source = fields[at + 1 : at + 3]
    except ValueError:
        return None
    return Mount(*(os.fsdecode(_unescaped(field)) for field in (number, point, options, kind, source)))


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), field)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _number(device: int) -> str:
    if sys.platform == "win32":
        return str(device)
    return f"{os.major(device)}:{os.minor(device)}"


def _sysfs(number: str) -> Path | None:
    """The folder in /sys of a block device, a partition's included."""
    try:
        return Path(f"/sys/dev/block/{number}").resolve(strict=True)
    except OSError:
        return None


def folder_of(device: int) -> Path | None:
    """The folder in /sys of a block device by its number, as st_rdev tells it."""
    return _sysfs(_number(device))


def block_device(path: str | os.PathLike[str]) -> Path | None:
    """The folder in /sys of the whole disk that a file lies on.

    None for a file system without a device of its own (tmpfs, overlayfs, a network's) and where there is no /sys.
    """
    found = _sysfs(_number(os.stat(path).st_dev)) or _source_device(mount_of(path))
    if found is not None and (found / "partition").exists():
        return found.parent
    return found


def _source_device(mount: Mount | None) -> Path | None:
    """Of a file system that numbers its files as no device (btrfs): the device that it is mounted from."""
    if sys.platform == "win32" or mount is None or not mount.source.startswith("/dev/"):
        return None
    try:
        return folder_of(os.stat(mount.source).st_rdev)
    except OSError:
        return None


def identity(path: str | os.PathLike[str]) -> str:
    """A text that stays the same for this file system on this device, and that another one does not have.

    On Linux the file system's UUID where udev tells it, else the device's own serial number (of a loop device its
    image), else its name, and the size; for a file system without a device what it is mounted from. On Windows the
    volume's serial number.
    """
    number = os.stat(path).st_dev
    if sys.platform == "win32":
        return f"volume {number:x}"
    mount = mount_of(path)
    folder = _sysfs(_number(number)) or _source_device(mount)
    if folder is None:
        if mount is None:
            return f"device {_number(number)}"
        return _in_any_locale(f"{mount.file_system} {mount.source} {mount.point}")
    return _uuid(folder.name) or _serial(folder) or f"{folder.name} of {read(folder / 'size')} sectors"


def _in_any_locale(name: str) -> str:
    """The same text whatever Python takes the encoding of names to be."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _uuid(name: str) -> str:
    """What links to /dev/NAME in /dev/disk/by-uuid."""
    try:
        links = sorted(Path("/dev/disk/by-uuid").iterdir())
    except OSError:
        return ""
    return next((f"uuid {link.name}" for link in links if os.path.basename(os.path.realpath(link)) == name), "")


def _serial(folder: Path) -> str:
    # Of a loop device the image: its own number is whichever was free.
    places = ("dm/uuid", "md/uuid", "loop/backing_file", "wwid", "serial", "device/wwid", "device/serial")
    for where in (folder, folder.parent) if (folder / "partition").exists() else (folder,):
        for place in places:
            if text := read(where / place):
                # With the size, as virtual disks may all have the same one.
                part = f", partition {read(folder / 'partition')}" if where != folder else ""
                return f"serial {text}{part}, {read(folder / 'size')} sectors"
    return ""


def read(path: Path) -> str:
    """The text of a small file of the system's; empty if there is none."""
    return _content(path).strip().decode("utf-8", "replace")


def lines(path: Path) -> list[bytes]:
    """The lines of such a file, as bytes: in text, Python takes more than a line feed for the end of a line."""
    return _content(path).split(b"\n")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
