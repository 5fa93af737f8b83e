"""Folders that stay the ones they were: what is made, written and removed in them goes nowhere else.

A path is looked up anew by each call. Who may write to a folder on its way can rename what lies there, and put a link
in its place, between two calls. So a folder is opened once, and paths in it begin with ``/proc/self/fd/N``, which leads
to the open folder whatever has become of its name (proc(5)). `named` turns them into what the user knows, for messages.

That does not help against whoever decides where the way led in the first place. Where it matters most, for root, each
folder and link on the way has to be root's own, and no other may have everybody write to it without the sticky bit
(which keeps strangers from renaming what is not theirs: `RefusedError`).

Where /proc is missing, a path is the folder's own: then only what root was promised above holds. On Windows too: there
a work folder has the rights that its parent hands down (from Python 3.12.4 on its owner's and administrators' alone),
and is as safe as its parent is.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["RefusedError", "known_as", "named", "opened", "path_of", "work_folder"]

#: On Windows a file cannot go while somebody looks at it, and virus scanners and indexers look at all that is new. Some
#: servers keep a file that is open under another name.
_REMOVALS_MAX: Final = 20
_names: dict[str, str] = {}  # of the folders that are open here, by the paths that lead to them


class RefusedError(PermissionError):
    """Root does not work in a folder that another user can lead it out of. The text says whose, and what to do."""


def named(text: str) -> str:
    """A message or path with the names that the user knows."""
    for path, name in _names.items():
        text = text.replace(f"{path}/", f"{name.rstrip('/')}/").replace(f"{path}'", f"{name}'")
    return text


@contextmanager
def known_as(path: str, name: str) -> Iterator[None]:
    """Within the block, and in the error that ends it, `path` goes by this name."""
    before = _names.get(path)  # without /proc a path is its own name, and may be opened twice
    _names[path] = name
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, (str, os.PathLike)):
            inside = f"{os.fspath(error.filename)}/"
            if inside.startswith(f"{path}/"):
                error.filename = name.rstrip("/") + inside[len(path) : -1]
        raise
    finally:
        if before is None:
            del _names[path]
        else:
            _names[path] = before


if sys.platform != "win32":
    import pwd

    # Each asks for no right but that to look into the folder above.
    _ANYTHING: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    _FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    _LISTABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    #: The number of links that the kernel follows in one path (path_resolution(7)).
    _LINKS_MAX: Final = 40
    _ROOT: Final = 0
    #: Shown as the owner where a user namespace does not know it (user_namespaces(7)), the real root among others.
    _OVERFLOW: Final = 65534
    #: Of <linux/capability.h>, as a bit.
    _CAP_FOWNER: Final = 1 << 3
    #: The rights of a folder that holds settings, as the XDG Base Directory Specification has them.
    _MODE: Final = 0o700

    @contextmanager
    def opened(path: str | os.PathLike[str], advice: str = "", *, make: bool = False) -> Iterator[Path]:
        """Within the block a path to a folder, which stays with it.

        Parameters
        ----------
        path : str or os.PathLike
        advice : str
            What root is told to do where it is refused; without one it is not.
        make : bool
            Make what is missing of it.

        Raises
        ------
        RefusedError
            This process is root's, and another user decides where the path leads.
        OSError
            The folder cannot be opened, or made.
        """
        descriptor = _open(os.fspath(path), advice, make)
        try:
            inside = path_of(descriptor) or os.fspath(path)
            with known_as(inside, os.fspath(path)):
                yield Path(inside)
        finally:
            os.close(descriptor)

    @contextmanager
    def work_folder(parent: Path, name: str, advice: str) -> Iterator[Path]:
        """Within the block a path to a new folder in `parent`, removed at the end with all that is in it.

        Nobody else may write to it, and nothing outside of it is touched, whoever may write to `parent`.

        Raises
        ------
        RefusedError
            As by `opened`, of `parent`.
        OSError
            It cannot be made, or somebody has put something else in its place.
        """
        base = f"{name}-{secrets.token_hex(8)}"
        above, inside = _open(os.fspath(parent), advice, False), -1
        try:  # before it is made: a signal may come at any moment
            with known_as(base, str(parent / base)):
                os.mkdir(base, _MODE, dir_fd=above)
                inside = _open_new(base, above)
            path = path_of(inside) or str(parent / base)
            with known_as(path, str(parent / base)):
                yield Path(path)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # some servers keep what one of them holds open
            raise
        finally:
            try:
                _remove(base, above, inside)
            except BaseException:  # Ctrl-C once more
                _remove(base, above, inside)
                raise
            finally:
                for descriptor in (above, inside):
                    if descriptor >= 0:
                        os.close(descriptor)

    def path_of(descriptor: int) -> str:
        """A path that leads to what is open, by whatever name; empty where there is no /proc."""
        path = f"/proc/self/fd/{descriptor}"
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return path
        return ""

    def _open_new(base: str, above: int) -> int:
        """Open what has just been made.

        Raises
        ------
        OSError
            It is another folder, which somebody has put in its place.
        """
        inside = os.open(base, _LISTABLE, dir_fd=above)
        try:
            if not os.listdir(inside):
                with suppress(OSError):  # not every file system has modes
                    os.fchmod(inside, _MODE)
                if not os.listdir(inside) and os.fstat(inside).st_uid == _owner_of_new(inside):
                    return inside
            raise OSError(errno.ESTALE, "somebody has put another folder in the place of the one just made", base)
        except BaseException:
            os.close(inside)
            raise

    def _owner_of_new(folder: int) -> int:
        """To whom belongs what we make in a folder: not to us, where a server or file system has one owner for all."""
        name, flags = ".owner", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            os.unlink(name, dir_fd=folder)
            return os.fstat(file).st_uid
        finally:
            os.close(file)

    def _remove(base: str, above: int, inside: int) -> None:
        """Remove all that is in a folder, and its name, if that is still its own."""
        for number in range(_REMOVALS_MAX):
            if number:
                time.sleep(0.1)
            if inside >= 0:
                with suppress(OSError):  # no descriptor is left: maybe there is nothing in it
                    _empty(inside)
            try:
                found = os.stat(base, dir_fd=above, follow_symlinks=False)
                if inside < 0 or os.path.samestat(found, os.fstat(inside)):
                    os.rmdir(base, dir_fd=above)
                return
            except FileNotFoundError:
                return
            except OSError:
                continue

    def _empty(folder: int) -> None:
        with os.scandir(folder) as entries:
            inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in inside:
            with suppress(OSError):
                if not is_folder:
                    os.unlink(name, dir_fd=folder)
                    continue
                below = os.open(name, _LISTABLE, dir_fd=folder)
                try:
                    _empty(below)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=folder)

    # -- the way to a folder --

    def _open(path: str, advice: str, make: bool) -> int:
        if os.geteuid() == _ROOT and advice:
            return _open_as_root(path, advice, make)
        if make:
            os.makedirs(path, _MODE, exist_ok=True)
        return os.open(path, _FOLDER)

    def _open_as_root(path: str, advice: str, make: bool) -> int:
        """Go the way step by step, as the kernel would, and look at each folder and link before it is believed."""
        # Not normalized: behind a link ".." leads elsewhere.
        whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
        steps, links = whole.split("/")[::-1], 0
        at = os.open("/", _FOLDER)
        try:
            while True:
                _check_folder(at, path, advice)
                while steps and steps[-1] in ("", os.curdir):
                    steps.pop()
                if not steps:
                    return at
                step = steps.pop()
                below = _step(step, at, path, make, last=not any(steps))
                if not stat.S_ISLNK(os.fstat(below).st_mode):
                    at, before = below, at
                    os.close(before)
                    continue
                try:
                    links += 1
                    if links > _LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    _check_owner(below, "the link", path, advice)
                    target = os.readlink("", dir_fd=below)
                finally:
                    os.close(below)
                steps += target.split("/")[::-1]
                if target.startswith("/"):
                    at, before = os.open("/", _FOLDER), at
                    os.close(before)
        except BaseException:
            os.close(at)
            raise

    def _step(step: str, at: int, path: str, make: bool, last: bool) -> int:
        """Open a folder or a link in a folder, made if that is asked for."""
        try:
            try:
                below = os.open(step, _ANYTHING, dir_fd=at)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(step, _MODE, dir_fd=at)
                below = os.open(step, _ANYTHING, dir_fd=at)
        except OSError as error:
            error.filename = path
            raise
        mode = os.fstat(below).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            return below
        os.close(below)
        number = errno.EEXIST if make and last else errno.ENOTDIR
        raise OSError(number, os.strerror(number), path)

    def _check_folder(folder: int, path: str, advice: str) -> None:
        """Raise RefusedError if anybody but root can rename what lies in a folder."""
        _check_owner(folder, "the folder", path, advice)
        found = os.fstat(folder)
        if found.st_mode & stat.S_ISVTX:
            return
        if found.st_mode & stat.S_IWOTH:
            who = "everybody"
        elif found.st_mode & stat.S_IWGRP and (found.st_gid != _ROOT or _has_acl(folder)):
            who = f"its group ({found.st_gid})"
        else:
            return
        raise RefusedError(
            errno.EACCES,
            f"{who} may rename what lies in the folder {_name_of(folder)!r} on the way there, and lead root elsewhere; "
            f"chmod +t, or g-w and o-w, ends that; {advice}",
            path,
        )

    def _check_owner(opened: int, what: str, path: str, advice: str) -> None:
        owner = os.fstat(opened).st_uid
        if owner in (_ROOT, os.geteuid()) or (owner == _OVERFLOW and _is_unknown(opened)):
            return
        raise RefusedError(
            errno.EACCES,
            f"{what} {_name_of(opened)!r} on the way there belongs to the user {_user(owner)}, who could lead root "
            f"elsewhere; {advice}",
            path,
        )

    def _has_acl(folder: int) -> bool:
        """Whether the group's rights may be those of a list of others."""
        try:
            return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{folder}")
        except OSError as error:
            return error.errno != errno.EOPNOTSUPP

    def _is_unknown(opened: int) -> bool:
        """Whether what is shown as the overflow user's belongs to somebody whom our user namespace does not know, and
        root of it is a plain user outside, who has no more rights there than that one.
        """
        try:
            users, status = (Path("/proc/self", name).read_bytes().split(b"\n") for name in ("uid_map", "status"))
        except OSError:
            return False
        ranges = [tuple(map(int, line.split())) for line in users if line]
        if not any(inside == _ROOT and outside != _ROOT for inside, outside, _ in ranges):
            return False
        if not any(inside <= _OVERFLOW < inside + count for inside, _, count in ranges):
            return True
        # That user is somebody here. O_NOATIME is for the owner and for CAP_FOWNER, which is a right over the files of
        # users whom the namespace knows (open(2), user_namespaces(7)).
        rights = [int(line.split()[1], 16) for line in status if line.startswith(b"CapEff:")]
        if not any(right & _CAP_FOWNER for right in rights):
            return False
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME | os.O_CLOEXEC
        try:
            os.close(os.open(os.curdir, flags, dir_fd=opened))
        except OSError as error:
            return error.errno == errno.EPERM
        return False

    def _name_of(opened: int) -> str:
        with suppress(OSError):
            return os.readlink(f"/proc/self/fd/{opened}")
        return "?"

    def _user(number: int) -> str:
        with suppress(KeyError):
            return pwd.getpwuid(number).pw_name
        return str(number)

else:

    @contextmanager
    def opened(path: str | os.PathLike[str], advice: str = "", *, make: bool = False) -> Iterator[Path]:
        """The folder's own path. See the other one."""
        if make:
            os.makedirs(path, exist_ok=True)
        yield Path(path)

    def path_of(descriptor: int) -> str:
        """None leads to what is open."""
        return ""

    @contextmanager
    def work_folder(parent: Path, name: str, advice: str) -> Iterator[Path]:
        """A new folder in `parent`, removed at the end with all that is in it. See the other one."""
        folder = parent / f"{name}-{secrets.token_hex(8)}"
        try:  # before it is made: a signal may come at any moment
            folder.mkdir(mode=0o700)
            yield folder
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # a file that one of them holds open stays
            raise
        finally:
            _remove(folder)

    def _remove(folder: Path) -> None:
        try:
            for _ in range(_REMOVALS_MAX):
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break
                time.sleep(0.1)
        except BaseException:  # Ctrl-C once more
            _remove(folder)
            raise
