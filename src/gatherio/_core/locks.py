"""Locks on ranges of a file, by Windows' rules on every system.

A lock is refused where it meets another one, through the same `File` or another, in this process or another, unless
both are shared. Whoever has an exclusive lock reads and writes its range and nobody else does either; shared ones let
everybody read and nobody write, not even those who hold them. Nothing of this binds programs that do not ask: on Linux
locks are advisory. There POSIX locks (`fcntl.lockf`) of this process keep others from taking a lock, and no `File` of
this process from reading and writing.

Waiting is trying again, after 1 ms at first and 20 ms in the end: no system has a wait for a lock that can be
cancelled, timed out and interrupted alike. Who waits longer has no precedence.
"""

from __future__ import annotations

import asyncio
import operator
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from .._handle import Handle
from .._native import deadline_ns, error, ffi, is_over, lib
from ..errors import LockedError, TimeoutError
from .loop import running_loop

if TYPE_CHECKING:
    from .file import File

__all__ = ["Lock", "acquire", "acquire_async", "checked_range", "release"]

#: Offsets have 64 bits, as on Windows; a lock may lie where no file reaches.
_END: Final = 1 << 64
_FIRST_DELAY: Final = 0.001
_LAST_DELAY: Final = 0.020


class Lock(Handle):
    """A lock that is held. Made by `File.lock`; give it back with `unlock`, or use it in a ``with`` block."""

    __slots__ = ("_file", "_id", "exclusive", "length", "offset")

    _instead = "take one of its own, with File.lock"

    def __init__(self, file: File, offset: int, length: int, exclusive: bool, number: int) -> None:
        self.offset = offset
        self.length = length
        self.exclusive = exclusive
        self._file = file
        self._id = number

    def unlock(self) -> None:
        """Give it back. Twice is fine, and so is a file that was closed meanwhile, which has given it back already."""
        number, self._id = self._id, 0
        if number and not self._file.closed:
            code = lib.gio_file_unlock(self._file._native, self.offset, self.length, number)
            if code not in (0, lib.GIO_E_NOT_LOCKED, lib.GIO_E_CLOSED):
                raise error(code, f"unlocking {_range(self.offset, self.length)}", self._file.name)

    def __enter__(self) -> Lock:
        if not self._id or self._file.closed:
            raise ValueError(f"the lock of {_range(self.offset, self.length)} has been given back: take it again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlock()

    async def __aenter__(self) -> Lock:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlock()  # no system lets one wait to give a lock back

    def __repr__(self) -> str:
        kind = "exclusive" if self.exclusive else "shared"
        state = "" if self._id else ", given back"
        return f"<gatherio.Lock: {kind}, {_range(self.offset, self.length)} of {self._file.name!r}{state}>"


def _range(offset: int, length: int) -> str:
    return f"{length} bytes at offset {offset}"


def checked_range(offset: int, length: int) -> tuple[int, int]:
    offset, length = operator.index(offset), operator.index(length)
    if not 0 <= offset < _END or not 0 <= length < _END or offset + length > _END:
        raise ValueError(f"a lock lies between 0 and 2**64, and {_range(offset, length)} do not")
    return offset, length


def _try(file: File, offset: int, length: int, exclusive: bool) -> Lock:
    number = ffi.new("uint64_t *")
    file._check_open()
    try:
        code = lib.gio_file_lock(file._native, offset, length, exclusive, number)
        if code == 0:
            return Lock(file, offset, length, exclusive, number[0])
    except BaseException:  # Ctrl-C just now: nobody would know of the lock
        if number[0]:
            lib.gio_file_unlock(file._native, offset, length, number[0])
        raise
    file._check_open()
    raise error(code, f"locking {_range(offset, length)}{'' if exclusive else ', shared'}", file.name)


def _try_in_time(
    file: File, offset: int, length: int, exclusive: bool, deadline: int | None, timeout: float | None
) -> Lock | None:
    """The lock; None: another one is in the way, and there is time left."""
    try:
        return _try(file, offset, length, exclusive)
    except LockedError as failure:
        if is_over(deadline):
            text = f"not locked within {timeout} s: {_range(offset, length)} of {file.name!r}"
            raise TimeoutError(text) from failure
        return None


def acquire(file: File, offset: int, length: int, exclusive: bool, wait: bool, timeout: float | None) -> Lock:
    offset, length = checked_range(offset, length)
    if not wait:
        if timeout is not None:
            raise ValueError("a timeout is for wait=True")
        return _try(file, offset, length, exclusive)
    deadline = deadline_ns(timeout)
    delay = _FIRST_DELAY
    while (lock := _try_in_time(file, offset, length, exclusive, deadline, timeout)) is None:
        time.sleep(delay)
        delay = min(2 * delay, _LAST_DELAY)
    return lock


async def acquire_async(file: File, offset: int, length: int, exclusive: bool, timeout: float | None) -> Lock:
    running_loop("f.lock")  # here: a lock that is free does not wait for anything
    offset, length = checked_range(offset, length)
    deadline = deadline_ns(timeout)
    delay = _FIRST_DELAY
    while (lock := _try_in_time(file, offset, length, exclusive, deadline, timeout)) is None:
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LAST_DELAY)
    return lock


def release(file: File, offset: int, length: int) -> None:
    offset, length = checked_range(offset, length)
    file._check_open()
    code = lib.gio_file_unlock(file._native, offset, length, 0)
    if code:
        file._check_open()
        raise error(code, f"unlocking {_range(offset, length)}", file.name)
