"""What stands behind an error of Linux, and what to do about it.

The system tells a number. Which folder, attribute or limit it means is looked up here, once there is an error, and said
only where it is found to be so: a wrong reason is worse than none.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import _device

assert not TYPE_CHECKING or sys.platform != "win32"  # mypy reads no further for Windows

import fcntl  # noqa: E402
import resource  # noqa: E402

_GET_ATTRIBUTES: Final = 0x80086601  # FS_IOC_GETFLAGS of <linux/fs.h>
_IMMUTABLE: Final = 0x10
_APPEND_ONLY: Final = 0x20
_OPENS: Final = "gatherio opens regular files and block devices"
_TERMINAL_MAJORS: Final = (4, 5, *range(136, 144))  # of the kernel's list of devices


def remedy(number: int, path: object) -> str:
    """What is in the way, and what to do; empty where no more is known than the number says.

    Parameters
    ----------
    number : int
        An errno.
    path : object
        The file concerned; None if there is none.
    """
    try:
        if number in _OF_THE_PROCESS:
            return _OF_THE_PROCESS[number]()
        if number in _OF_A_FILE and isinstance(path, (str, bytes, os.PathLike)):
            return _OF_A_FILE[number](os.fsdecode(path))
    except (OSError, ValueError):  # the file, or /proc, is not there to be asked
        pass
    return ""


# --- a file's rights ---


def _may(place: str, rights: int) -> bool:
    return os.access(place, rights, effective_ids=os.access in os.supports_effective_ids)


def _shown(place: str) -> str:
    return repr(os.path.abspath(place))


def _denied(name: str) -> str:
    """EACCES: a folder on the way, the folder of a new file, or the file itself."""
    place = os.path.realpath(name)
    folder = os.path.dirname(place)
    try:
        found = os.stat(place)
    except FileNotFoundError:
        return "" if _may(folder, os.W_OK | os.X_OK) else _folder_denies(folder)
    except PermissionError:
        return _way_denies(folder)
    if not _may(place, os.R_OK | os.W_OK):
        rights = [word for right, word in ((os.R_OK, "read"), (os.W_OK, "write")) if _may(place, right)]
        may = f"only {rights[0]}" if rights else "neither read nor write"
        return f"this user may {may} it; ls -l and getfacl show who may what"
    parent = os.stat(folder)
    if parent.st_mode & stat.S_ISVTX and os.geteuid() != found.st_uid:
        return (
            f"it is somebody else's, in the sticky folder {_shown(folder)}, where the sysctl fs.protected_regular "
            "keeps mode 'w' off it; mode 'r+' may be allowed"
        )
    return "" if _may(folder, os.W_OK | os.X_OK) else _folder_denies(folder)


def _folder_denies(folder: str) -> str:
    return (
        f"this user may not write to the folder {_shown(folder)}, which a new file takes (the rights w and x); "
        "ls -ld shows who may"
    )


def _way_denies(folder: str) -> str:
    """The first folder on the way that cannot be entered."""
    while True:
        try:
            os.stat(folder)
        except PermissionError:
            folder = os.path.dirname(folder)
        else:
            return f"this user may not enter the folder {_shown(folder)}, which needs the right x; ls -ld shows who may"


def _not_permitted(name: str) -> str:
    """EPERM: what the file's attributes, or those of its folder, forbid even root."""
    place = os.path.realpath(name)
    if os.path.exists(place) and stat.S_ISBLK(os.stat(place).st_mode):
        return "the device is set to be read only: blockdev --setrw ends that, as root" if _is_read_only(place) else ""
    for at, what in ((place, "the file"), (os.path.dirname(place), "the folder")):
        attributes = _attributes(at)
        shows = f"lsattr -d {at} shows it"
        if attributes & _IMMUTABLE:
            return f"{what} is immutable: {shows}, and chattr -i {at} ends it, as root"
        if attributes & _APPEND_ONLY:
            return f"{what} only takes appends: {shows}, and chattr -a {at} ends it, as root"
    return ""


def _attributes(place: str) -> int:
    """Those of chattr(1), where they are to be had."""
    try:
        kind = os.stat(place).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return 0
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return int(struct.unpack("i", fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(8))[:4])[0])
        finally:
            os.close(descriptor)
    except OSError:
        return 0


def _is_read_only(device: str) -> bool:
    folder = _device.folder_of(os.stat(device).st_rdev)
    return folder is not None and _device.read(folder / "ro") == "1"


# --- a file's place ---


def _read_only(name: str) -> str:
    """EROFS."""
    place = os.path.realpath(name)
    if not os.path.exists(place):
        place = os.path.dirname(place)
    mount = _device.mount_of(place)
    if mount is None:
        return "mode 'r' reads the file"
    return (
        f"it is mounted at {mount.point} to be read only: mode 'r' reads the file, and "
        f"mount -o remount,rw {mount.point} makes it writeable, as root"
    )


def _busy(name: str) -> str:
    """EBUSY."""
    place = os.path.realpath(name)
    if stat.S_ISBLK(os.stat(place).st_mode):
        return (
            "something has the device to itself (a mounted file system, swap, RAID, LVM, a virtual machine): "
            "lsblk, swapon and fuser tell what; end that first"
        )
    mount = _device.mount_of(place)
    if mount is not None and mount.point == place:
        return (
            "it is a mount point, and no other file can take its place: write into it (mode 'r+'), or umount it first"
        )
    return "somebody, or the system, has it to itself: fuser and lsof tell who; end that first"


def _no_offsets(name: str) -> str:
    """ESPIPE: what it is."""
    found = os.stat(name)
    if stat.S_ISFIFO(found.st_mode):
        return f"it is a named pipe (FIFO); {_OPENS}; take the built-in open"
    if stat.S_ISSOCK(found.st_mode):
        return f"it is a socket; {_OPENS}; take the module socket"
    if stat.S_ISCHR(found.st_mode):
        terminal = os.major(found.st_rdev) in _TERMINAL_MAJORS
        return f"it is a {'terminal' if terminal else 'character device'}; {_OPENS}; take the built-in open"
    return f"{_OPENS}; take the built-in open"


# --- limits ---


def _too_many_files() -> str:
    """EMFILE."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"this process may have {most} descriptors, and a direct file takes two; close files, or raise the limit: "
        "ulimit -n, LimitNOFILE= or docker --ulimit nofile="
    )


def _too_large() -> str:
    """EFBIG."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most == resource.RLIM_INFINITY:
        return "the file system has no longer files"
    return f"this process may make files of at most {most} bytes; raise the limit: ulimit -f or LimitFSIZE="


_OF_A_FILE: Final[dict[int, Callable[[str], str]]] = {
    errno.EACCES: _denied,
    errno.EPERM: _not_permitted,
    errno.EROFS: _read_only,
    errno.EBUSY: _busy,
    errno.ESPIPE: _no_offsets,
    errno.ETXTBSY: lambda name: "it is a program that runs, or used for swap: end that, or save a new file instead",
}
_OF_THE_PROCESS: Final[dict[int, Callable[[], str]]] = {errno.EMFILE: _too_many_files, errno.EFBIG: _too_large}
