"""Settings that suit a device: measured by ``gatherio tune``, stored per device, used by `open`.

They stand in one JSON file, ``tuning.json`` in the user's configuration folder (the one that platformdirs names):

    Linux      $XDG_CONFIG_HOME/gatherio, by default ~/.config/gatherio
    Windows    %LOCALAPPDATA%\\gatherio: what was measured on one machine is not for another

`gatherio.open` reads it when there is one, and again when it has changed. `File.reason` and ``gatherio info`` tell
whether settings come from there. What is wrong with the file is a warning, and the defaults are used.

Whose file it is does not matter to who reads it, not even to root with another user's environment (sudo): it holds four
numbers, each within bounds, of which the worst make transfers slow, or lock memory up to the usual limit. To write is
another thing: the folder has to be this user's, and root follows no link of anybody else's on the way there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import operator
import os
import reprlib
import secrets
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from . import _device, _folders
from ._native import encode_path, lib

__all__ = ["Tuning", "TuningWarning", "tuning_file"]

SCHEMA_NAME: Final = "gatherio-tuning-1"
DEPTH_MAX: Final = 4096
REQUEST_SIZE_MAX: Final = 2**40

AnyPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


_NAME: Final = "tuning.json"
_ADVICE: Final = (
    "settings are not stored there: sudo -H takes root's own configuration folder, XDG_CONFIG_HOME names another one"
)

# Bounds of the file, each far beyond what is written there.
_BYTES_MAX: Final = 1 << 20
_DIGITS_MAX: Final = 20  # 2**64 has 20
_LEVELS_MAX: Final = 16
_WORDS_MAX: Final = 200  # characters of what is said about it
#: What os.stat says of a file that, for this user, is not there.
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)


class TuningWarning(UserWarning):
    """The file with the stored settings is there and cannot be used."""


@dataclass(frozen=True)
class Tuning:
    """Settings for a device.

    Attributes
    ----------
    request_size : int
        Bytes in one request at most; None is the default.
    depth : int
        Requests in flight at most; None is the default.
    registered : bool
        Whether memory is registered with the kernel, where that can be had: an allocation of `empty`, `zeros` and the
        like once as much has been transferred as it holds, at most a quarter of the machine's memory in all; other
        memory for each transfer of many small segments in place. What is registered stays in memory and counts against
        memlock.
    stage_below : int
        With ``copy=None``, pages whose segments are shorter than this on average are copied through large buffers;
        0 never does that.
    source : str
        Where this comes from, in words.
    """

    request_size: int | None = None
    depth: int | None = None
    registered: bool = False
    stage_below: int = 0
    source: str = field(default="given to open", compare=False)

    def __str__(self) -> str:
        parts = [
            f"request_size {self.request_size}" if self.request_size else "",
            f"depth {self.depth}" if self.depth else "",
        ]
        parts.append("registered buffers" if self.registered else "")
        parts.append(f"segments below {self.stage_below} bytes staged" if self.stage_below else "in place")
        return ", ".join(filter(None, parts))

    def beside_a_queue(self) -> Tuning | None:
        """What is left for a file with a queue of its own, which has its own request size and depth."""
        if not (self.stage_below or self.registered):
            return None
        return Tuning(registered=self.registered, stage_below=self.stage_below, source=self.source)

    @property
    def reason(self) -> str:
        """For `File.reason`."""
        return f"tuned by {self.source}: {self}"


def from_dict(settings: Mapping[str, Any], source: str = "given to open") -> Tuning:
    """Settings out of a dict, checked.

    Raises
    ------
    ValueError, TypeError
        A name that is none, or a value that makes no sense.
    """
    known = ("request_size", "depth", "registered", "stage_below")
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"tuning has {', '.join(known)}, and not {', '.join(map(str, unknown))}")
    limits = {"request_size": (1, REQUEST_SIZE_MAX - 1), "depth": (1, DEPTH_MAX), "stage_below": (0, REQUEST_SIZE_MAX)}
    values: dict[str, Any] = {}
    for name, (low, high) in limits.items():
        if settings.get(name) is None:
            continue
        values[name] = operator.index(settings[name])
        if isinstance(settings[name], bool) or not low <= values[name] <= high:
            raise ValueError(f"{name} of a tuning is a number from {low} to {high}, not {settings[name]!r}")
    if "registered" in settings:
        if not isinstance(settings["registered"], bool):
            raise ValueError(f"registered of a tuning is True or False, not {settings['registered']!r}")
        values["registered"] = settings["registered"]
    return Tuning(**values, source=source)


def settings_for(path: AnyPath, tuning: Mapping[str, Any] | bool | None) -> Tuning | None:
    """The settings that a file is opened with.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        The file; it need not be there yet.
    tuning : None, dict or False
        None: what is stored for the file's device. A dict: these. False: none.
    """
    if tuning is None:
        return stored_for(path)
    if tuning is False:
        return None
    if isinstance(tuning, Mapping):
        return from_dict(tuning)
    raise TypeError(f"tuning is None, False or a dict, not {tuning!r}")


# --- the file ---


def tuning_file() -> Path:
    """Where settings are stored. The file need not be there."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(os.path.expanduser("~"), "AppData", "Local")
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base, "gatherio", _NAME)


class _Stored:
    """What was read from the file, as long as it stays the same."""

    def __init__(self) -> None:
        self.stamp: tuple[str, int, int, int] | None = None
        self.devices: dict[str, Any] = {}
        self.problem = ""
        self.by_place: dict[tuple[int, int], Tuning | None] = {}  # to find out a device's identity takes a while


_stored = _Stored()


def _current() -> _Stored:
    """What the file says now; one look at its time stamp when nothing has changed."""
    global _stored
    path = tuning_file()
    try:
        found = os.stat(path if path.is_absolute() else "")  # none is read from the working directory
    except OSError as error:
        stamp = None if error.errno in _NOT_THERE else (str(path), error.errno or 0, 0, 0)
    else:
        is_file = stat.S_ISREG(found.st_mode)  # a folder or a pipe that is used stays what it is
        stamp = (str(path), found.st_mtime_ns if is_file else 0, found.st_size if is_file else 0, found.st_ino)
    if stamp != _stored.stamp:
        fresh = _Stored()
        fresh.stamp = stamp
        if stamp is not None:
            fresh.devices, fresh.problem = _read(path)
        _stored = fresh
        if fresh.problem:
            warnings.warn(fresh.problem, TuningWarning, stacklevel=5)
    return _stored


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """The devices, and what is wrong with the file. Whatever stands there, this neither waits nor takes long."""
    try:
        return _devices(text_of(path, _BYTES_MAX)), ""
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)[:_WORDS_MAX]
    return {}, f"{path} cannot be used: {problem}; it is not used; delete it, or run gatherio tune again"


def text_of(path: Path, bytes_max: int) -> str:
    """The text of a regular file of a size that can be: whatever stands there, this neither waits nor takes long.

    Raises
    ------
    ValueError
        It is something else, or larger, or no UTF-8.
    OSError
        It cannot be read.
    """
    with open(path, "rb", opener=_open_file) as file:
        _refuse_what_is_no_file(os.fstat(file.fileno()))
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ValueError(f"it has more than {bytes_max} bytes, which gatherio never writes there")
    return content.decode("utf-8")


def _refuse_what_is_no_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")


def _open_file(name: str, flags: int) -> int:
    """Open a regular file, and nothing else: a pipe would wait, and a device might act.

    It is looked at before, by O_PATH, which opens nothing yet, and opened through what was looked at.
    """
    if sys.platform == "win32":
        _refuse_what_is_no_file(os.stat(name))
        return os.open(name, flags)
    looked_at = os.open(name, os.O_PATH | os.O_CLOEXEC)
    try:
        _refuse_what_is_no_file(os.fstat(looked_at))
        return os.open(_folders.path_of(looked_at) or name, flags | os.O_NONBLOCK | os.O_NOCTTY)
    finally:
        os.close(looked_at)


def _devices(text: str) -> dict[str, Any]:
    """What is stored for each device, checked."""
    content = json.loads(text, parse_int=_integer)
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if content.get("schema") != SCHEMA_NAME:
        raise ValueError(f"it is of another version: {reprlib.repr(content.get('schema'))}, not {SCHEMA_NAME!r}")
    devices = content.get("devices")
    if not isinstance(devices, dict):
        raise ValueError("it holds no devices")
    for name, entry in devices.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
            raise ValueError(f"the device {reprlib.repr(name)} has no settings")
        from_dict(entry["settings"])
    if _is_deeper(devices, _LEVELS_MAX):
        raise ValueError(f"it is nested more than {_LEVELS_MAX} levels deep")
    return devices


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:  # some versions of Python take very long for a million of them
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _is_deeper(value: object, levels: int) -> bool:
    """Whether there are more levels of objects and lists."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inside is not None and (levels == 0 or any(_is_deeper(each, levels - 1) for each in inside))


def stored_for(path: AnyPath) -> Tuning | None:
    """What is stored for the device that a file lies on, or will."""
    stored = _current()
    if not stored.devices:
        return None
    try:
        place, number = _existing(path)
    except OSError:
        return None  # opening will say why
    # A number may be another device's the next time, unless the mount is the same.
    known = number, lib.gio_mount_of(encode_path(place))
    if known not in stored.by_place:
        entry = stored.devices.get(_device.identity(place))
        found = from_dict(entry["settings"], str(tuning_file())) if entry else None
        if sys.platform != "win32" and known[1] == 0:
            return found
        stored.by_place[known] = found
    return stored.by_place[known]


def _existing(path: AnyPath) -> tuple[str, int]:
    """The path itself, or the folder that it will be made in, and the number of its device."""
    name = os.fsdecode(path)
    with contextlib.suppress(FileNotFoundError):
        return name, os.stat(name).st_dev
    folder = os.path.dirname(os.path.realpath(name))
    return folder, os.stat(folder).st_dev


def entry_for(path: AnyPath) -> dict[str, Any] | None:
    """All that is stored for the device under a path: settings, aim, when, on what."""
    found: dict[str, Any] | None = _current().devices.get(_device.identity(_existing(path)[0]))
    return found


def about() -> dict[str, Any]:
    """For ``gatherio info``: the file, whether it is there, what is wrong with it, how many devices it knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)  # told in words here
        stored = _current()
    return {
        "file": str(tuning_file()),
        "exists": stored.stamp is not None,
        "problem": stored.problem or None,
        "devices": len(stored.devices),
    }


def as_dict(tuning: Tuning) -> dict[str, Any]:
    """The settings alone."""
    settings = asdict(tuning)
    del settings["source"]
    return settings


def store(path: AnyPath, tuning: Tuning, details: Mapping[str, Any]) -> str:
    """Store settings for the device under a path, and return the device's identity.

    What cannot be used is kept beside the new file as ``tuning.json.bad``.

    Raises
    ------
    OSError
        It cannot be stored.
    """
    device = _device.identity(_existing(path)[0])
    with _folder(make=True) as folder:
        target = folder / _NAME
        devices: dict[str, Any] = {}
        if os.path.lexists(target):
            devices, problem = _read(target)
            if problem:
                _set_aside(target)
        devices[device] = {"settings": as_dict(tuning), **details}
        _write(target, devices)
    return device


@contextlib.contextmanager
def _folder(*, make: bool = False) -> Iterator[Path]:
    """The folder of the file, to write to: this user's own, and no link of another's leads to it."""
    folder = tuning_file().parent
    if not folder.is_absolute():  # "~" stays where the system knows no home folder of this user's
        variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME"
        raise FileNotFoundError(
            errno.ENOENT,
            f"settings are not stored in the working directory: set {variable} to a whole path",
            str(folder),
        )
    with _folders.opened(folder, _ADVICE, make=make) as inside:
        if sys.platform != "win32" and os.stat(inside).st_uid not in (0, os.geteuid()):
            raise PermissionError(
                errno.EACCES, "it belongs to another user: set XDG_CONFIG_HOME to a folder of this user's", str(folder)
            )
        yield inside


def _set_aside(target: Path) -> None:
    kept = target.with_name(target.name + ".bad")
    if kept.is_dir() or (target.is_dir() and os.path.lexists(kept)):  # those two do not take each other's place
        kept = kept.with_name(f"{kept.name}-{secrets.token_hex(4)}")
    os.replace(target, kept)


def check_storable() -> None:
    """Raise OSError if settings cannot be stored: before anything is measured."""
    with _folder(make=True) as folder:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(
                errno.EACCES, "settings cannot be stored in this folder; it needs the right to write", str(folder)
            )


def forget(path: AnyPath) -> bool:
    """Remove what is stored for the device under a path; whether there was anything."""
    devices = dict(_current().devices)
    if devices.pop(_device.identity(_existing(path)[0]), None) is None:
        return False
    with _folder() as folder:
        _write(folder / _NAME, devices)
    return True


def _write(target: Path, devices: Mapping[str, Any]) -> None:
    """Replace the file in one step."""
    content = json.dumps({"schema": SCHEMA_NAME, "devices": devices}, indent=1) + "\n"
    descriptor, beside = tempfile.mkstemp(prefix=".tuning-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        if isinstance(error, OSError) and error.filename is None:  # of a write
            error.filename = str(target)
        raise
