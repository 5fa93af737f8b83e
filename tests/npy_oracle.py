"""What the tests of gio.save and gio.load share: arrays to write, and what to compare them by."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def assert_same(found: Array, expected: Array) -> None:
    """Bit by bit, so NaN and signed zeros too; without padding, which numpy.load does not restore."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype.names is None:
        assert found.tobytes() == np.asarray(expected).tobytes()
    else:
        for name in found.dtype.names:
            assert_same(np.asarray(found)[name], np.asarray(expected)[name])


def data_offset_of(path: Path) -> int:
    raw = path.read_bytes()[:12]
    start, field = (10, "<H") if raw[6] == 1 else (12, "<I")
    return start + int(struct.unpack(field, raw[8:start])[0])


def npy_bytes(text: str | bytes, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file up to its data, with this text as the header."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8" if version == (3, 0) else "latin1")
    field = "<H" if version == (1, 0) else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(field, len(raw) if length is None else length) + raw


def filled(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array whose bytes differ, also where the dtype has padding."""
    dtype = np.dtype(dtype)
    if dtype.itemsize == 0:
        return np.ndarray(shape, dtype)
    count = int(np.prod(shape))
    raw = np.random.default_rng(count).integers(0, 256, count * dtype.itemsize, np.uint8)
    if dtype.kind == "U":  # not every number is a character
        raw = np.frombuffer((raw[: raw.size // 4] % 128).astype(dtype.byteorder + "u4").tobytes(), np.uint8)
    if dtype.kind == "b":
        raw %= 2
    return raw.view(dtype).reshape(shape) if count else np.empty(shape, dtype)
