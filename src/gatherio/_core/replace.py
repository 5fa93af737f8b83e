"""A new file takes an old one's place in one step: who opens the name gets the old content or the new, each whole.

On Linux there are three ways, tried in this order:

without a name
    The new file is made with O_TMPFILE (ext4, xfs, btrfs, tmpfs) and has no name while it is written, so that nobody
    else can open it and nothing is left of it if the process is killed. At the end link(2) gives it the target's name,
    or, where that is taken, a temporary one that rename(2) moves over it.
with a temporary name
    Where the file system has no O_TMPFILE (NFS, FAT, most of FUSE). Its name tells what it is to replace, and its
    process holds a lock (flock(2)) on it, which ends with the process: who next replaces the same target finds what a
    killed one has left, and removes it. SIGTERM removes it at once.
in place
    Where the name cannot be given to another file (a bind mount, a folder that may not be written) the old file itself
    is written, and a warning says that its content is lost if that fails in the middle.

The new file is made with mode 0600, and has owner, group, ACL, mode and the other extended attributes of the old one
before the first byte is written. What cannot be kept leaves it with fewer rights than the old one gave, never with
more. All of this goes through its descriptor, and every name is relative to a descriptor of the folder: it does not
matter what is renamed, and where the working directory is, once there is a `Target`.

On Windows the new file has a temporary name and MoveFileEx moves it.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import secrets
import signal
import stat
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar

from .._native import long_path, remedy
from ..errors import InPlaceWarning

if sys.platform != "win32":
    import fcntl

__all__ = ["Place", "Target", "write_file"]

Made = TypeVar("Made")


class _Opened(Protocol):
    def fileno(self) -> int: ...


class Place(NamedTuple):
    """Where the new content is to be written.

    Attributes
    ----------
    path : str
        What to open. Valid within the call only.
    mode : str
        For `gatherio.open`: "r+", or "x" on Windows, of the new file; "w" of the old one. The built-in `open` takes
        "w" for all of them.
    again : bool
        Whether this is the second call: the content has been written, and could not be put in place.
    check : callable(file)
        Has to be called with the open file before anything is written to it.
    """

    path: str
    mode: str
    again: bool
    check: Callable[[_Opened], object]


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Errors name what the caller knows, not how we got there, and say what is in the way."""
    try:
        yield
    except OSError as error:
        why = remedy(error.errno, name) if error.errno and error.strerror == os.strerror(error.errno) else ""
        if why:
            error.strerror = f"{error.strerror}: {why}"
        _tell_of(name, error)
        raise


def _tell_of(name: str, error: OSError) -> None:
    error.filename = name
    if error.filename2 is not None:
        del error.filename2


def _write(name: str, write: Callable[[Place], object], place: Place) -> None:
    try:
        write(place)
    except OSError as error:
        if error.filename == place.path:  # else it is about another file, or another one's
            _tell_of(name, error)
        raise


def _close(descriptor: int) -> None:
    """Let go of a descriptor through which nothing was written: what its closing tells is not about the content."""
    with suppress(OSError):
        os.close(descriptor)


def _unchecked(file: _Opened) -> None:
    """For a path that cannot lead anywhere else."""


if sys.platform != "win32":
    _PROC = "/proc/self/fd"
    # O_PATH asks for no right to list the folder, and serves for everything but fsync(2).
    _FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    # The number of links that the kernel follows in one path (path_resolution(7)).
    _LINKS_MAX = 40
    # PATH_MAX of <linux/limits.h> counts a NUL at the end.
    _PATH_MAX = 4095
    # Temporary names of one target. More processes than that at once leave names that nobody looks for.
    _NAMES = 4
    # Somebody may take away a new file's name once, while he removes a dead process's.
    _TRIES = 10

    # What is refused for the folder's sake, and may be allowed for the file's.
    _FOLDER_REFUSES = frozenset(
        (
            *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
            *(errno.EOPNOTSUPP, errno.ENOSYS, errno.ENAMETOOLONG),
        )
    )
    # What rename(2) says of a mount point, of another user's file in a sticky folder, of a file system without it.
    _NAME_STAYS = frozenset(
        (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EXDEV, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS)
    )

    # What file systems without extended attributes say.
    _NO_ATTRIBUTES = frozenset((errno.EOPNOTSUPP, errno.ENOSYS))
    # They are the file's rights, together with its mode. The second one is that of an NFSv4 mount.
    _ACLS = ("system.posix_acl_access", "system.nfs4_acl")
    # They were for the old content: rights of a program, and sums over the content.
    _OF_CONTENT = ("security.capability", "security.ima", "security.evm")

    def _way_to(
        target: Target, descriptor: int, name: str | None
    ) -> tuple[os.stat_result, str, Callable[[_Opened], None]]:
        """A file's status, a path by which it can be opened once more, and what makes sure that it is that file."""
        path = f"{_PROC}/{descriptor}"
        with suppress(FileNotFoundError):
            return os.stat(path), path, _unchecked
        # No /proc, as in a bare chroot.
        if name is None:
            raise OSError(errno.EOPNOTSUPP, "without /proc a file needs a name")
        path = os.path.join(os.path.dirname(os.path.realpath(target.name)), name)

        def check(file: _Opened) -> None:
            if not os.path.samestat(os.fstat(file.fileno()), os.fstat(descriptor)):
                raise OSError(errno.ESTALE, "somebody has put another file there; nothing was written", path)

        return os.fstat(descriptor), path, check

    # What ends the process, or raises KeyboardInterrupt, unless the program does something else with it.
    _ENDING = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))

    @contextmanager
    def _undisturbed() -> Iterator[None]:
        """No signal ends this thread in the middle."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            yield
        finally:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            except BaseException:  # what a handler raises, maybe before the mask is set
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                raise

    class _NoLinkError(Exception):
        """A file without a name cannot be given one: Android, for one, lets nobody link."""

        def __init__(self, reason: OSError) -> None:
            super().__init__(str(reason))
            self.reason = reason

    class Target:
        """A name, and what it leads to now: what is put in its place, or made where there is nothing.

        A symbolic link stays, and what it points at is replaced.

        Parameters
        ----------
        name : str
            Of a regular file that this process may write to, or of nothing.
        durable : bool
            Bring the folder to stable storage as well. To do so with the content is up to who writes it.

        Attributes
        ----------
        folder, base : int, str
            Descriptor of the folder and the name in it, once symbolic links have been followed.
        old : stat_result or None
            What has the name now.

        Raises
        ------
        ValueError
            There is something that is no regular file.
        OSError
            With `name` as ``filename``, as from ``open(name, "w")``. A symbolic link in a folder that everybody may
            write to, with the sticky bit set, is refused (EACCES) unless it belongs to this process's user or to the
            folder's owner, as Linux does with fs.protected_symlinks (proc(5)).
        """

        def __init__(self, name: str, *, durable: bool = False) -> None:
            self.name = name
            self.durable = durable
            self._listable = -1  # descriptor of the folder, to flush it
            self.users = {os.geteuid()}  # whose temporary files may be removed
            with _told_of(name):
                if not name:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                if len(os.fsencode(name)) > _PATH_MAX:  # nobody could open it by this name
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                folder, self.base = os.path.split(name)
                self.folder = os.open(folder or os.curdir, _FOLDER)
                try:
                    self.old = self._look()
                    if self.old is not None:
                        self.users.add(self.old.st_uid)
                except BaseException:
                    _close(self.folder)
                    raise

        def __enter__(self) -> Target:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            _close(self.folder)
            if self._listable >= 0:
                _close(self._listable)

        def replace(self, write: Callable[[Place], object]) -> None:
            """Let `write` make a new file, and put it in place.

            Whatever `write` raises leaves the old file as it was, unless that is written in place.

            Parameters
            ----------
            write : callable(Place)
                Opens the place, writes everything and closes it. It is called again if the new file cannot be put in
                place.

            Raises
            ------
            OSError
                With the target's name as ``filename``.

            Warns
            -----
            InPlaceWarning
                Before the old file is written in place.
            """
            again = False
            for make in (_unnamed, _named):
                try:
                    with _told_of(self.name):
                        new = make(self, 0o600)
                        if new.wants is not None:
                            # No chmod here. Then it is made with the mode that it is to have: it has its owner.
                            with new:
                                pass
                            new = make(self, new.wants)
                except OSError as error:
                    failure = error
                    continue
                with new:
                    _write(self.name, write, Place(new.path, "r+", again, new.check))
                    again = True
                    try:
                        with _told_of(self.name):
                            self._put(new)
                    except _NoLinkError as error:
                        failure = error.reason
                        _tell_of(self.name, failure)
                    except OSError as error:
                        if error.errno not in _NAME_STAYS:
                            raise
                        failure = error
                        break
                    else:
                        with _told_of(self.name):
                            self._flush_folder()
                        return
            if failure.errno not in _FOLDER_REFUSES | _NAME_STAYS:
                raise failure
            self._write_in_place(write, failure, again)

        def _write_in_place(self, write: Callable[[Place], object], reason: OSError, again: bool) -> None:
            with _told_of(self.name):
                # NOFOLLOW: it was no link when we looked.
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                flags |= 0 if self.old else os.O_CREAT
                descriptor = os.open(self.base, flags, 0o666, dir_fd=self.folder)
            lost = "the old content is lost" if self.old else "a part of the new content is left"
            try:
                with _told_of(self.name):
                    status, path, check = _way_to(self, descriptor, self.base)
                    if not stat.S_ISREG(status.st_mode):
                        raise OSError(errno.ESTALE, "it is no regular file any more; nothing was written")
                warnings.warn(
                    f"{self.name!r} is written in place, because no other file can be given its name "
                    f"({reason.strerror}): if that fails, or the process is killed, {lost}",
                    InPlaceWarning,
                    stacklevel=4,  # who calls save
                )
                _write(self.name, write, Place(path, "w", again, check))
            finally:
                _close(descriptor)

        # -- what is there --

        def _look(self) -> os.stat_result | None:
            """What is there, refused as `open(name, "w")` would, or because it would be lost."""
            found = self._stat()
            if found is not None and stat.S_ISLNK(found.st_mode):
                found = self._look_behind_links()
            if found is None:
                return None
            self._check_kind(found)
            if not os.access(self.base, os.W_OK, dir_fd=self.folder, effective_ids=True):
                # Opening it tells why: no right, a read-only mount, an immutable file.
                flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe by now, perhaps
                _close(os.open(self.base, flags, dir_fd=self.folder))
            return found

        def _stat(self) -> os.stat_result | None:
            if self.base in ("", os.curdir, os.pardir):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with suppress(FileNotFoundError):
                return os.stat(self.base, dir_fd=self.folder, follow_symlinks=False)
            return None

        def _check_kind(self, found: os.stat_result) -> None:
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{self.name!r} is no regular file: save replaces what it names, and would remove it")

        def _look_behind_links(self) -> os.stat_result | None:
            behind = None
            with suppress(FileNotFoundError):
                behind = os.stat(self.base, dir_fd=self.folder)
                self._check_kind(behind)
            for _ in range(_LINKS_MAX):
                self._follow()
                found = self._stat()
                if found is None or not stat.S_ISLNK(found.st_mode):
                    break
            else:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if (found is None) != (behind is None) or (found and behind and not os.path.samestat(found, behind)):
                # A link of /proc whose file has no name any more, or somebody who changes links right now.
                raise OSError(
                    errno.ESTALE, "the symbolic link does not lead to the file by its text; nothing was saved"
                )
            return found

        def _follow(self) -> None:
            """Go where the link leads: `folder` and `base` are those of what it names."""
            link = os.open(self.base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
            try:
                found, folder = os.fstat(link), os.fstat(self.folder)
                everybodys = stat.S_ISVTX | stat.S_IWOTH
                if folder.st_mode & everybodys == everybodys and found.st_uid not in (os.geteuid(), folder.st_uid):
                    raise PermissionError(
                        errno.EACCES,
                        "a symbolic link of another user, in a folder that everybody may write to, is not followed",
                    )
                head, base = os.path.split(os.readlink("", dir_fd=link))
            finally:
                _close(link)
            beyond = os.open(head or os.curdir, _FOLDER, dir_fd=self.folder)
            _close(self.folder)
            self.folder, self.base = beyond, base

        def attributes(self) -> dict[str, bytes | None]:
            """The old file's extended attributes; None for an ACL that is there, or may be, and cannot be read."""
            try:
                with suppress(FileNotFoundError):  # no /proc
                    return _attributes(f"{_PROC}/{self.folder}/{self.base}", follow=False)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                opened = os.open(self.base, flags, dir_fd=self.folder)
                try:
                    return _attributes(opened, follow=True)
                finally:
                    _close(opened)
            except OSError as error:
                return {} if error.errno in _NO_ATTRIBUTES else {_ACLS[0]: None}

        # -- temporary names --

        def claim(self, make: Callable[[str], Made]) -> tuple[str, Made]:
            """What `make` makes of the first temporary name that is free, or that nobody alive has."""
            for name in self.temporaries():
                for _ in range(2):
                    try:
                        return name, make(name)
                    except FileExistsError:
                        if not self.remove_dead(name):
                            break
            name = f".gatherio-{secrets.token_hex(8)}.tmp"
            return name, make(name)

        def temporaries(self) -> list[str]:
            """The temporary names of this target; short, as a long target's name may leave no room for more.

            Another machine has others, for locks may not reach there. So has another user.
            """
            whose = zlib.crc32(f"{_machine()}/{os.geteuid()}/".encode() + os.fsencode(self.base))
            return [f".gatherio-{whose:08x}-{number}.tmp" for number in range(_NAMES)]

        def remove_dead(self, name: str) -> bool:
            """Remove a temporary file whose process is gone; whether the name may be free now.

            Whoever has made one holds its lock, until the process ends. We remove it with the lock in our hands: then
            nobody else does, and whoever has just made it and not yet locked it sees that it is lost.
            """
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                descriptor = os.open(name, flags, dir_fd=self.folder)
            except OSError as error:
                return error.errno == errno.ENOENT
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in self.users:
                    return False
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.leads_to(name, found):
                    os.unlink(name, dir_fd=self.folder)
                return True
            except OSError:  # it is in use, or nobody can tell, or it is not ours to remove
                return False
            finally:
                _close(descriptor)

        def leads_to(self, name: str, expected: os.stat_result) -> bool:
            try:
                return os.path.samestat(os.stat(name, dir_fd=self.folder, follow_symlinks=False), expected)
            except FileNotFoundError:
                return False

        # -- the step --

        def _put(self, new: _New) -> None:
            """Give the new file the target's name."""
            if self.durable and self._listable < 0:  # before: what cannot be made durable does not begin
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._listable = os.open(os.curdir, flags, dir_fd=self.folder)
            new.narrow()
            if new.name is not None or self.old is not None or not self._link(new):
                with _undisturbed():  # while a file that had no name has a temporary one
                    self._rename(new)

        def _link(self, new: _New) -> bool:
            """Without an old file no temporary name is needed."""
            try:
                self._link_to(new, self.base)
            except FileExistsError:  # somebody else was faster
                return False
            return True

        def _rename(self, new: _New) -> None:
            if new.name is None:
                new.lock()
                new.name = self.claim(lambda name: self._link_to(new, name))[0]
            if not self.leads_to(new.name, new.status):
                new.name = None
                raise OSError(errno.ESTALE, "somebody has taken the new file's temporary name; nothing was replaced")
            os.replace(new.name, self.base, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            new.name = None
            new.unlock()

        def _link_to(self, new: _New, name: str) -> None:
            try:
                os.link(new.path, name, dst_dir_fd=self.folder, follow_symlinks=True)  # through the link in /proc
            except FileExistsError:
                raise
            except OSError as error:
                raise _NoLinkError(error) from error

        def _flush_folder(self) -> None:
            if not self.durable:
                return
            try:
                os.fsync(self._listable)
            except OSError as error:
                if error.errno != errno.EINVAL:  # some file systems do not sync folders, and say so like this
                    raise

    def _attributes(path: str | int, *, follow: bool) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for name in os.listxattr(path, follow_symlinks=follow):
            if name in _ACLS:
                found[name] = None
            with suppress(OSError):
                found[name] = os.getxattr(path, name, follow_symlinks=follow)
        return found

    @functools.cache
    def _machine() -> str:
        return platform.node()

    def _unnamed(target: Target, mode: int) -> _New:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        return _New(target, os.open(os.curdir, flags, mode if target.old else 0o666, dir_fd=target.folder))

    def _named(target: Target, mode: int) -> _New:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR | os.O_CLOEXEC
        wish = mode if target.old else 0o666
        for _ in range(_TRIES):
            name, descriptor = target.claim(lambda name: os.open(name, flags, wish, dir_fd=target.folder))
            new = _New(target, descriptor, name)
            # Until it is locked somebody may take it for a dead one's.
            if new.lock() and target.leads_to(name, new.status):
                break
            with new:
                new.name = None
        else:
            raise OSError(errno.ESTALE, "the new file's temporary name is taken away again and again")
        target.users.add(new.status.st_uid)  # some servers and mounts give our files to another user
        for other in target.temporaries():
            if other != name:
                target.remove_dead(other)
        return new

    class _New:
        """A new file that is to be put in place.

        Attributes
        ----------
        name : str or None
            In the folder, if it has one there.
        path : str
            To open it by.
        wants : int or None
            The mode that the file system would not give it, where nothing else is amiss.
        """

        def __init__(self, target: Target, descriptor: int, name: str | None = None) -> None:
            self._target = target
            self._descriptor = descriptor
            self._process = os.getpid()
            self._mode: int | None = None  # to be set in the end
            self._listens = False
            self.name = name
            self.wants: int | None = None
            try:
                self.status, self.path, self.check = _way_to(target, descriptor, name)
                mode = stat.S_IMODE(self.status.st_mode)
                if target.old is not None:
                    mode = self._take_over(target.old, target.attributes())
                self._widen(mode)
            except BaseException:
                self.__exit__(None, None, None)
                raise

        def __enter__(self) -> _New:
            if self.name is not None:
                self._listen()
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            """Remove its temporary name, if it still has one, and let go of it."""
            if self.name is not None and self._process == os.getpid():  # not in a forked child
                try:
                    if self._target.leads_to(self.name, os.fstat(self._descriptor)):
                        os.unlink(self.name, dir_fd=self._target.folder)
                except OSError:  # an append-only folder: then at least without the content
                    with suppress(OSError):
                        os.ftruncate(self._descriptor, 0)
                self.name = None
            if self._listens and signal.getsignal(signal.SIGTERM) == self._end:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _close(self._descriptor)

        def _listen(self) -> None:
            """Hear SIGTERM, if the program does nothing with it. That is for the main thread alone."""
            if (
                threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            ):
                self._listens = True
                signal.signal(signal.SIGTERM, self._end)

        def _end(self, number: int, frame: object) -> None:
            """Remove the temporary name before SIGTERM ends the process."""
            self.__exit__(None, None, None)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        def lock(self) -> bool:
            """Whether nobody takes it for a dead process's from here on. Where there are no locks nobody can."""
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
            return True

        def unlock(self) -> None:
            """Now: a child that was forked meanwhile would keep the lock until it ends."""
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

        def _take_over(self, old: os.stat_result, attributes: dict[str, bytes | None]) -> int:
            """Give it what the old file has. Returns the mode that it has now.

            Set-user-id and set-group-id bits are left out: they were meant for the old content.
            """
            for name, value in attributes.items():
                if name not in _ACLS and name not in _OF_CONTENT and value is not None:
                    with suppress(OSError):
                        os.setxattr(self._descriptor, name, value)
            group_stays = self._chown(old)
            mode = stat.S_IMODE(old.st_mode) & 0o777
            acls = {name: attributes[name] for name in _ACLS if name in attributes}
            if acls:
                # The group's bits of the mode are the ACL's mask: without it they would be the group's.
                kept = group_stays and all([self._set(name, value) for name, value in acls.items()])
                return mode if kept else self._chmod(mode & 0o700)
            if not group_stays:
                # Who was in the old group is one of the others now, and one of the others may be in the new group.
                return self._chmod(mode & 0o700 | (mode & mode >> 3 & 0o007) * 0o11)
            if not self._remove_acls():
                return self._chmod(mode & 0o700)
            found = self._chmod(mode)
            if found != mode and (self.status.st_uid, self.status.st_gid) == (old.st_uid, old.st_gid):
                self.wants = mode
            return found

        def _chown(self, old: os.stat_result) -> bool:
            """Owner and group, or the group alone; whether the group is the old one's."""
            if (self.status.st_uid, self.status.st_gid) == (old.st_uid, old.st_gid):
                return True
            for owner in (old.st_uid, -1):
                with suppress(OSError):
                    os.fchown(self._descriptor, owner, old.st_gid)
                    return True
            return self.status.st_gid == old.st_gid

        def _set(self, name: str, value: bytes | None) -> bool:
            if value is None:
                return False
            with suppress(OSError):
                os.setxattr(self._descriptor, name, value)
                return True
            return False

        def _remove_acls(self) -> bool:
            """Those that it has from the folder; whether it has none now."""
            try:
                for name in os.listxattr(self._descriptor):
                    if name in _ACLS:
                        os.removexattr(self._descriptor, name)
            except OSError as error:
                return error.errno in _NO_ATTRIBUTES
            return True

        def _chmod(self, mode: int) -> int:
            """The mode that it has afterwards: what refuses it leaves the one that it was made with."""
            before = stat.S_IMODE(self.status.st_mode)
            if mode != before:
                try:
                    os.fchmod(self._descriptor, mode)
                except OSError:
                    return before
            return mode

        def _widen(self, mode: int) -> None:
            """Let its owner read and write it until it is whole, for it will be opened once more."""
            if mode & 0o600 != 0o600:
                with suppress(OSError):
                    os.fchmod(self._descriptor, mode | 0o600)
                    self._mode = mode

        def narrow(self) -> None:
            """Its own mode, now that it is whole."""
            if self._mode is not None:
                os.fchmod(self._descriptor, self._mode)


# --- Windows ---


# Seconds for which a file that somebody has open is tried to be replaced.
_PATIENCE = 1.0

if sys.platform == "win32":

    class Target:
        """A name, and what it leads to now. See the other one."""

        def __init__(self, name: str, *, durable: bool = False) -> None:
            self.name = name
            with _told_of(name):
                self._path = long_path(os.path.abspath(name))
                self._old = _replaceable(name, self._path)
                if os.path.islink(self._path):
                    self._path = long_path(os.path.realpath(self._path))

        def __enter__(self) -> Target:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def replace(self, write: Callable[[Place], object]) -> None:
            """Let `write` make a new file, and put it in place."""
            # Short, as a long target's name may leave no room for more.
            temporary = long_path(os.path.join(os.path.dirname(self._path), f".gatherio-{secrets.token_hex(8)}.tmp"))

            def check(file: _Opened) -> None:
                if self._old is not None and os.stat(temporary).st_mode != self._old.st_mode:
                    os.chmod(temporary, stat.S_IMODE(self._old.st_mode))

            try:
                _write(self.name, write, Place(temporary, "x", False, check))
                with _told_of(self.name):
                    _move(temporary, self._path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def _replaceable(name: str, target: str) -> os.stat_result | None:
        """What is there now, refused as `open(name, "w")` would; None if nothing is."""
        try:
            old = os.stat(target)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(old.st_mode):
            raise ValueError(f"{name!r} is no regular file: save replaces what it names, and would remove it")
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return old

    def _move(temporary: str, target: str) -> None:
        """Rename over what is there.

        Windows refuses that while somebody has the old file open, and whoever looks for new files, to index them or for
        viruses, may have opened the new one. That is over soon, or it is not.
        """
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with suppress(PermissionError):
                os.replace(temporary, target)
                return
            time.sleep(0.005)
        os.replace(temporary, target)


# --- small files ---


def write_file(name: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file by these bytes, or make it, in one step.

    Raises
    ------
    ValueError
        There is something that is no regular file.
    OSError
        With `name` as ``filename``.
    """

    def write(place: Place) -> None:
        try:
            with open(place.path, "wb", opener=_open_as_it_is) as file:
                place.check(file)
                file.truncate(0)
                file.write(content)
        except OSError as error:
            if error.filename is None:  # of a write
                error.filename = os.fspath(name)
            raise

    with Target(os.fspath(name)) as target:
        target.replace(write)


def _open_as_it_is(name: str, flags: int) -> int:
    """Open what is to be checked before it loses its content."""
    return os.open(name, flags & ~os.O_TRUNC, 0o666)
