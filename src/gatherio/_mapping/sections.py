"""Sections: what can be mapped, and names for them. The words are those of Windows.

A section is a file or a piece of memory. A name is a piece of memory, too, which the system knows by that name: it
begins with a header that says what the name stands for, the memory behind the header or a file, which whoever opens
the name then opens himself. So both systems have one kind of name, with the length of what it stands for.

Who may write the header is this user alone: the core opens nothing that is another's (mode and owner of the file in
/dev/shm; access list and owner of Windows' object). But every program of this user may write there, by mistake as well.
So it is read once, and checked before anything is done by it. Of a file it names the core looks at the identity before
it touches it.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._memory.pages import is_anonymous
from .._native import check, encode_name, encode_path, error, ffi, kept, lib, owned

__all__ = ["HEADER_BYTES", "SIZE_MAX", "Header", "Section", "checked_name", "find", "hold"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

#: Before the data of named memory: a view's offset is a multiple of this on Windows.
HEADER_BYTES: Final = 64 * 1024
#: With what both systems put around it, it fits into 255 bytes of a Linux file name and 260 characters on Windows.
_NAME_MAX: Final = 200
_LAYOUT: Final = struct.Struct("<8sQQQII")
_MAGIC: Final = b"gioName\x01"
_PATH_MAX: Final = HEADER_BYTES - _LAYOUT.size
#: Bytes of a mapping: offsets are signed 64-bit numbers, and the header lies before the data.
SIZE_MAX: Final = 2**63 - 1 - HEADER_BYTES
#: Bytes that are copied at once: a tenth of a second, in which Python does not see signals.
_COPY_BYTES: Final = 1 << 28
_FLAGS: Final = lib.GIO_MAP_EXECUTE | lib.GIO_MAP_RESERVE | lib.GIO_MAP_LARGE_PAGES | lib.GIO_MAP_NO_CACHE


class Section:
    """A section of the core, and views mapped of it.

    It is there before the core opens anything, so that whoever has it can close it, whatever a signal breaks off.

    Attributes
    ----------
    native : cdata
        The core's own.
    about : object
        For messages: the path or the name.
    size : int
        In bytes; of a name that existed, what there is.
    granularity : int
        Views begin at multiples of it.
    identity : (int, int)
        Device and inode of the file; 0 and 0 for memory.
    created : bool
        Whether the memory is new.
    """

    native: Any
    size: int
    granularity: int
    identity: tuple[int, int]
    is_memory: bool
    created: bool

    def __init__(self) -> None:
        self._place = owned("gio_section **", lib.gio_section_let_go)
        self.about: object = None
        self.access = lib.GIO_MAP_READ

    def open_file(
        self, path: Path, access: int, flags: int, size: int, expected: tuple[int, int] | None = None
    ) -> None:
        """Open a file; if one is expected, by device and inode, that one or none."""
        self.about, self.access = path, access
        encoded = encode_path(path)
        identity = ffi.NULL if expected is None else ffi.new("gio_file_identity *", expected)
        facts = ffi.new("gio_section_facts *")
        code = lib.gio_section_of_file(encoded, access, flags, size, identity, self._place, facts)
        if code == lib.GIO_E_EMPTY:
            raise ValueError(f"an empty file cannot be mapped, unless a size makes it longer: {path!r}")
        if code == lib.GIO_E_BEYOND:
            raise ValueError(f"{path!r} is shorter than {size} bytes; access 'r+' makes it longer")
        check(code, f"mapping {size or 'all'} bytes of the file", path)
        self._open(facts, f"mapping {size} bytes of the file")

    def open_memory(self, name: str | None, header: bytes | None, access: int, flags: int, size: int) -> None:
        """Make memory, or open what has the name. With a header the name is created if there is none yet."""
        self.about, self.access = name, access
        encoded = ffi.NULL if name is None else encode_name(name)
        start = (ffi.NULL, 0) if header is None else (header, len(header))
        making = name is None or header is not None
        facts = ffi.new("gio_section_facts *")
        code = lib.GIO_E_INTERRUPTED
        while code == lib.GIO_E_INTERRUPTED:  # and Python looks at the signal
            code = lib.gio_section_of_memory(encoded, *start, access, flags, size, self._place, facts)
        check(code, f"making {size} bytes of memory" if making else "opening memory by its name", name, is_file=False)
        self._open(facts, f"making {size} bytes of memory")

    def _open(self, facts: Any, doing: str) -> None:
        self.native = self._place[0]
        self.size, self.granularity = int(facts.size), int(facts.granularity)
        self.identity = int(facts.device), int(facts.inode)
        self.is_memory, self.created = self.identity == (0, 0), bool(facts.created)
        code = lib.GIO_E_INTERRUPTED
        while code == lib.GIO_E_INTERRUPTED:
            code = lib.gio_section_reserve(self.native)
        check(code, doing, self.about, is_file=not self.is_memory)

    def map(self, start: int, stop: int) -> Bytes:
        """Map a view. It is unmapped when nobody refers any more to the array that this returns."""
        section, nbytes = self.native, stop - start
        place = owned("void **", functools.partial(lib.gio_section_unmap, section, nbytes))
        check(
            lib.gio_section_map(section, start, nbytes, place), f"mapping {nbytes} bytes at offset {start}", self.about
        )
        memory = memoryview(ffi.buffer(kept(place[0], place), nbytes))
        # Read-only all the way down: nobody can make the array writeable again.
        return np.frombuffer(memory.toreadonly() if self.access == lib.GIO_MAP_READ else memory, np.uint8)

    def copy(self, direction: int, view: Bytes, position: int, memory: Bytes, end: int) -> int:
        """Copy between a view and other memory. Whoever cuts the file meanwhile gives an error, and no fault.

        Returns
        -------
        int
            The core's code.
        """
        direction |= lib.GIO_ANONYMOUS if self.is_memory and is_anonymous(memory) else 0
        inside, outside = ffi.from_buffer("char[]", view) + position, ffi.from_buffer("char[]", memory)
        nbytes, code = memory.size, 0
        for at in range(0, nbytes, _COPY_BYTES):
            part = min(_COPY_BYTES, nbytes - at)
            code = lib.gio_section_copy(self.native, direction, inside + at, outside + at, part, end)
            if code:
                break
        return int(code)

    def close(self) -> int:
        """Let go of the file or the name, if there is one. Views stay.

        Returns
        -------
        int
            What closing the file gave, as a code of the core.
        """
        native = self._place[0]
        return int(lib.gio_section_close(native)) if native else 0


class Header(NamedTuple):
    """What a name stands for."""

    size: int
    device: int  # of the file; 0 and 0 for memory
    inode: int
    flags: int
    path: bytes  # of the file; empty for memory

    def stands_for_the_same_as(self, other: Header) -> bool:
        return (bool(self.path), self.device, self.inode) == (bool(other.path), other.device, other.inode)


def checked_name(name: object) -> str:
    """The name, if both systems take it."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    if not name or any(character in "/\\:\0" for character in name):
        raise ValueError(f"a name is plain text without / \\ : and NUL, not {name!r}")
    if len(name.encode("utf-8")) > _NAME_MAX:
        raise ValueError(f"a name has {_NAME_MAX} bytes at most, not {len(name.encode('utf-8'))}")
    return name


def hold(holder: Section, name: str, wanted: Header) -> Header:
    """Create a name, or open the one there is: what it stands for."""
    flags, nbytes = (0, HEADER_BYTES) if wanted.path else (wanted.flags, HEADER_BYTES + wanted.size)
    holder.open_memory(name, _packed(wanted), lib.GIO_MAP_WRITE, flags, nbytes)
    return wanted if holder.created else _read(holder, name)


def find(holder: Section, name: str) -> Header:
    """Open a name that exists: what it stands for."""
    holder.open_memory(name, None, lib.GIO_MAP_WRITE, 0, 0)
    return _read(holder, name)


def _packed(header: Header) -> bytes:
    if len(header.path) > _PATH_MAX:
        raise ValueError(f"the path of the file is too long for a name: {len(header.path)} bytes")
    fields = header.size, header.device, header.inode, header.flags, len(header.path)
    start = _LAYOUT.pack(_MAGIC, *fields) + header.path
    return start + bytes(HEADER_BYTES - len(start))


def _start(holder: Section) -> Bytes:
    return holder.map(0, max(HEADER_BYTES, holder.granularity))


def _read(holder: Section, name: str) -> Header:
    raw = b""
    if holder.size >= HEADER_BYTES:
        start = np.empty(HEADER_BYTES, np.uint8)
        code = holder.copy(lib.GIO_READ, _start(holder), 0, start, HEADER_BYTES)
        check(code, "reading what the name stands for", name)
        raw = start.tobytes()
    if not raw.startswith(_MAGIC):
        raise ValueError(f"somebody else's memory has the name {name!r}: it does not begin as gatherio's does")
    found = _parse(raw, name)
    if not found.path and holder.size < HEADER_BYTES + found.size:
        raise error(lib.GIO_E_SHRUNK, f"the memory has {holder.size} bytes, for {found.size}", name)
    return found


def _parse(raw: bytes, name: str) -> Header:
    """What a header says, if a mapping could have written it."""
    _, size, device, inode, flags, length = _LAYOUT.unpack_from(raw)
    path = raw[_LAYOUT.size :][:length]
    wrong = None
    if not 0 < size <= SIZE_MAX:
        wrong = f"a size of {size} bytes"
    elif flags & ~_FLAGS:
        wrong = f"flags that this version does not know ({flags:#x})"
    elif length > _PATH_MAX:
        wrong = f"a path of {length} bytes"
    elif (length != 0) != ((device, inode) != (0, 0)):
        wrong = "a file without its identity, or the reverse"
    elif length and not _is_absolute(path):
        wrong = f"no absolute path of a file: {path[:100]!r}"
    if wrong is not None:
        raise ValueError(f"what the name {name!r} stands for is damaged: it gives {wrong}")
    return Header(size, device, inode, flags, path)


def _is_absolute(path: bytes) -> bool:
    """Whether it is a path as `os.path.abspath` gives it: the same file from every working directory."""
    try:
        name = os.fsdecode(path)
    except UnicodeDecodeError:  # Windows' paths are UTF-8 here
        return False
    return "\0" not in name and os.path.abspath(name) == name
