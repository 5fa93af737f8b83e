"""Records: one object at one place in a mapping, for whoever reads it there.

A record tells its own length and whether it is whole, so that a reader in another process finds out when it looks
where no record is, or where one is just being written. All numbers are little-endian::

    0   8 bytes   magic: 93 67 69 6f 52 65 63 0a
    8   uint16    version: 1
    10  uint16    kind: 1 JSON, 2 array, 3 pickle
    12  uint32    bytes of the description
    16  uint64    bytes of the data
    24  uint32    CRC-32 of bytes 8 to 23, of the description and of the data
    28  uint32    0
    32            the description, then the data

An array's description is the text of a .npy header (descr, fortran_order, shape) with spaces behind it, so that the
data begins at a multiple of 64 from the start of the record. JSON (ASCII) and pickles have none.

The magic is taken away before a record is overwritten and put back when it is whole: who reads meanwhile gets
ValueError, and so does he who finds what was written half when its writer died.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .._formats.npy_header import HEADER_MAX, descr_of, parse_fields, short
from .._memory.pages import is_array, refuse_masked

__all__ = ["HEADER_BYTES", "MAGIC", "Record", "decode", "encode"]

Bytes: TypeAlias = npt.NDArray[np.uint8]

MAGIC: Final = b"\x93gioRec\n"
VERSION: Final = 1
JSON, ARRAY, PICKLE = 1, 2, 3
_HEADER: Final = struct.Struct("<8sHHIQII")
HEADER_BYTES: Final = _HEADER.size
#: Where an array's data begins is a multiple of this: the widest vector loads, and a cache line.
_ALIGNMENT: Final = 64
#: Python's own bound, which its first versions of 3.10 do not have.
_DIGITS_MAX: Final = 4300
_STR: Final = frozenset({str})
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class Record(NamedTuple):
    """An object as it is stored: what stands before the data, without the checksum, and the data."""

    kind: int
    description: bytes
    data: Bytes

    @property
    def nbytes(self) -> int:
        return HEADER_BYTES + len(self.description) + self.data.size

    def header(self) -> bytes:
        checksum = _checksum(self.kind, self.description, self.data)
        return _HEADER.pack(MAGIC, VERSION, self.kind, len(self.description), self.data.size, checksum, 0)


def _checksum(kind: int, description: bytes, data: Bytes) -> int:
    fields = struct.pack("<HHIQ", VERSION, kind, len(description), data.size)
    return zlib.crc32(data.data, zlib.crc32(description, zlib.crc32(fields)))


def flat_bytes(array: npt.NDArray[Any]) -> Bytes:
    """The bytes of a contiguous array as they lie in memory, without a copy."""
    if array.nbytes == 0:
        return np.empty(0, np.uint8)
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array = array.T
    return array.reshape(-1).view(np.uint8)


def encode(obj: object, allow_pickle: bool) -> Record:
    """The record of an object.

    Raises
    ------
    TypeError
        It is neither an array nor what json can hold, and pickling was not allowed.
    """
    refuse_masked(obj)
    try:
        is_numpy = issubclass(type(obj), (np.ndarray, np.generic))
        return _encode_array(obj) if is_numpy else _encode_json(obj)
    except (TypeError, ValueError, RecursionError) as error:
        if not allow_pickle:
            raise TypeError(
                f"{error}: a record holds an array, or what json can hold; anything else is pickled, and only with "
                "allow_pickle=True"
            ) from error
    return Record(PICKLE, b"", np.frombuffer(pickle.dumps(obj, protocol=4), np.uint8))


def _encode_json(obj: object) -> Record:
    text = json.dumps(obj, separators=(",", ":"))  # first of all: it refuses what contains itself
    _check_keys(obj)
    # Two surrogates that a str holds one by one would come back as the one character that they stand for in JSON.
    if "\\ud" in text and _SURROGATES.search(json.dumps(obj, ensure_ascii=False)):
        raise ValueError("a str has two surrogates side by side, which JSON has as one character")
    return Record(JSON, b"", np.frombuffer(text.encode("ascii"), np.uint8))


def _check_keys(obj: object) -> None:
    """Raise TypeError where json would make another key of one, and may so lose an entry. At any depth."""
    containers = [obj]
    while containers:
        found = containers.pop()
        items: Iterable[object]
        if isinstance(found, dict):
            if not _STR.issuperset(map(type, found)):
                _check_odd_keys(found)
            items = found.values()
        elif isinstance(found, (list, tuple)):
            items = found
        else:
            continue
        if not _PLAIN.issuperset(map(type, items)):  # most lists are of numbers or text alone
            containers.extend([item for item in items if type(item) not in _PLAIN])


def _check_odd_keys(found: dict[Any, Any]) -> None:
    for key in found:
        if not isinstance(key, str):
            raise TypeError(
                f"the key {key!r} of a dict would become text: JSON has no keys of type {type(key).__name__} (use str, "
                "or store the items as a list of pairs)"
            )
    if {str.__str__(key) for key in found} != found.keys():  # of classes with a hash or an equality of their own
        raise TypeError("keys of a dict would not be found again, or become one, as the plain text that JSON has")


def _encode_array(obj: Any) -> Record:
    array = _plain(obj)
    descr = descr_of(array.dtype)
    fortran_order = array.flags.f_contiguous and not array.flags.c_contiguous
    if not fortran_order and not array.flags.c_contiguous:
        array = array.copy("C")
    fields = {"descr": descr, "fortran_order": fortran_order, "shape": array.shape}
    text = repr(fields).encode("utf-8")
    if len(text) > HEADER_MAX - _ALIGNMENT:
        raise ValueError(f"the dtype needs a description of {len(text)} bytes, more than {HEADER_MAX}")
    padding = -(HEADER_BYTES + len(text)) % _ALIGNMENT
    return Record(ARRAY, text + b" " * padding, flat_bytes(array))


def _plain(obj: Any) -> npt.NDArray[Any]:
    """What is in memory, whatever a subclass says of itself."""
    if not is_array(obj):
        dtype: np.dtype[Any] = np.generic.dtype.__get__(obj)
        if dtype.itemsize == 0:  # numpy makes room for a character where a scalar has none
            nothing: npt.NDArray[Any] = np.ndarray((), dtype)
            return nothing
    return np.asarray(obj)


def decode(read: Callable[[int, Bytes], None], available: int, allow_pickle: bool, where: str) -> Any:
    """The object of a record.

    Parameters
    ----------
    read : callable
        ``read(position, out)`` fills `out` with what stands `position` bytes behind the record's start.
    available : int
        Bytes from the record's start to the end of what there is.
    where : str
        For messages.

    Raises
    ------
    ValueError
        There is no whole record, or it is pickled and that was not allowed.
    """
    if available < HEADER_BYTES:
        raise ValueError(
            f"no record {where}: {available} bytes are left there, and a record has {HEADER_BYTES} or more"
        )
    start = np.empty(HEADER_BYTES, np.uint8)
    read(0, start)
    magic, version, kind, described, nbytes, checksum, _ = _HEADER.unpack(start.tobytes())
    if magic != MAGIC:
        raise ValueError(f"no record {where}: it begins with {magic!r} (one that is being written has no magic yet)")
    if version != VERSION or kind not in (JSON, ARRAY, PICKLE):
        raise ValueError(f"a record of version {version} and kind {kind} {where}, and this library knows version 1")
    if kind == PICKLE and not allow_pickle:
        raise ValueError(
            f"the record {where} is pickled, and unpickling runs whatever its writer wanted: allow_pickle=True if you "
            "trust whoever can write there"
        )
    if described > HEADER_MAX or described + nbytes > available - HEADER_BYTES:
        raise ValueError(f"a torn record {where}: it claims {described} + {nbytes} bytes of {available} that there are")
    description = np.empty(described, np.uint8)
    read(HEADER_BYTES, description)
    try:
        result, data = _room_for(kind, description.tobytes(), nbytes)
    except ValueError as error:
        raise ValueError(f"a torn record {where}: {error}") from error
    read(HEADER_BYTES + described, data)
    if _checksum(kind, description.tobytes(), data) != checksum:
        raise ValueError(f"a torn record {where}: its checksum is another one (it is being written, or was left half)")
    if kind == ARRAY:
        return result
    return _from_json(data, where) if kind == JSON else _from_pickle(data, where)


def _from_json(data: Bytes, where: str) -> Any:
    try:
        return json.loads(str(data.data, "ascii"), parse_int=_PARSE_INT)
    except RecursionError:
        wrong = "it is nested too deeply"
    except ValueError as error:  # which holds the whole text
        wrong = str(error)
    raise ValueError(f"the record {where} is no JSON that can be read: {wrong}")


def _from_pickle(data: Bytes, where: str) -> Any:
    try:
        return pickle.loads(data.data)
    except RecursionError as error:
        raise ValueError(f"the record {where} is nested too deeply") from error


def _bounded_int(digits: str) -> int:
    """As every Python since 3.10.7 has it: the time that digits take grows with the square of their number."""
    if len(digits) > _DIGITS_MAX:
        raise ValueError(f"a number has {len(digits)} digits, and {_DIGITS_MAX} are read at most")
    return int(digits)


#: None leaves numbers to json, which is much faster.
_PARSE_INT: Final = None if hasattr(sys, "get_int_max_str_digits") else _bounded_int


def _room_for(kind: int, description: bytes, nbytes: int) -> tuple[Any, Bytes]:
    """The array that is to be filled, if it is one, and the bytes to fill."""
    if kind != ARRAY:
        return None, np.empty(nbytes, np.uint8)
    shape, fortran_order, dtype = parse_fields(description, (3, 0), "its description")
    if math.prod(shape) * dtype.itemsize != nbytes:
        raise ValueError(
            f"{nbytes} bytes of data are none of shape {short(shape)} with items of {dtype.itemsize} bytes"
        )
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, order="F" if fortran_order else "C")
    return array, flat_bytes(array)
