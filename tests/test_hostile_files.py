"""Headers and records from anybody: ValueError or what numpy gives, at a bounded cost, and nothing else.

What single odd headers do is told in test_npy_foreign.py and test_records.py. Here are costly ones, and thousands made
of good ones by chance, which is the same in each run.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import math
import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npy_oracle import Array, assert_same, filled, npy_bytes
from numpy.lib import format as npy_format
from oracle import not_on_windows, run_python

import gatherio as gio
from gatherio._formats import npy_header as _npy_header
from gatherio._mapping import records

MIB = 1 << 20


# --- headers that cost as much as they can ---


def header(descr: str = "'<i4'", shape: str = "(3,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def up_to(nbytes: int, unit: str) -> str:
    """As many of the units, each with its number if it has a place for it, as fit into so many bytes."""
    units: list[str] = []
    for number in itertools.count():
        one = unit.replace("%", f"{number:x}")
        nbytes -= len(one)
        if nbytes < 0:
            break
        units.append(one)
    return "".join(units)


def fields(unit: str) -> Callable[[int], str]:
    return lambda n: header("[" + up_to(n, unit) + "]")


# Of about so many bytes; and whether they are headers all the same, if they are no longer than np.load takes.
COSTLY: dict[str, tuple[Callable[[int], str], bool]] = {
    "lengths": (lambda n: header(shape="(" + up_to(n, "1,") + ")"), False),
    "lengths of 0": (lambda n: header(shape="(" + up_to(n, "0,") + ")"), False),
    "lengths in a field": (lambda n: header("[('a', '<i4', (" + up_to(n, "1,") + "))]"), False),
    "one long length": (lambda n: header(shape="(" + "9" * n + ",)"), False),
    "zeros": (lambda n: header(shape="(" + "0" * n + ",)"), False),
    "numbers": (lambda n: up_to(n, "1,"), False),
    "numbers in a dict": (lambda n: "{" + up_to(n, "1,"), False),
    "numbers of Python 2": (lambda n: up_to(n, "1L,"), False),
    "a list of types": (lambda n: header("'" + up_to(n, "2i1,") + "'"), False),
    "a list of types in a field": (lambda n: header("[('a', '" + up_to(n, "i1,") + "')]"), False),
    "a type of brackets": (lambda n: header("'" + "(" * n + "'"), False),
    "a type of a long name": (lambda n: header("'" + "a" * n + "'"), False),
    "a type of a long size": (lambda n: header("'V" + "9" * n + "'"), False),
    "a long unit": (lambda n: header("'<M8[" + "s" * n + "]'"), False),
    "spaces behind": (lambda n: header() + " " * n, True),
    "spaces within": (lambda n: header("[('a', '<i4')]".replace(" ", " " * n)), True),
    "spaces before a mistake": (lambda n: header("[('a', '<i4' X".replace(" ", " " * (n // 2))), False),
    "spaces everywhere": (lambda n: header("[ ( 'a' , ( 'b' , ( 1 , 2 X".replace(" ", " " * (n // 12))), False),
    "spaces in a shape": (lambda n: header(shape="(1 , X)".replace(" ", " " * (n // 2))), False),
    "spaces in no tuple": (lambda n: header(shape="(1 )".replace(" ", " " * n)), False),
    "spaces in a number of Python 2": (lambda n: header(shape="(1L ,)".replace(" ", " " * n)), False),
    "fields": (fields("('%','b'),"), True),
    "a field again and again": (fields("('a','b'),"), False),
    "a title again and again": (fields("(('a','%'),'b'),"), False),
    "titles": (fields("(('t%','%'),'b'),"), True),
    "padding": (fields("('','V1'),"), True),
    "fields with shapes": (fields("('%','b',(1,1)),"), True),
    "fields of many types": (lambda n: header("[" + up_to(n, "('%','V@'),").replace("@", "7") + "]"), True),
    "fields with escapes": (fields(r"('\x41%','b'),"), True),
    "fields without end": (lambda n: header("[" + up_to(n, "('%','b'),")), False),
    "fields of no fields": (fields("('%',[]),"), True),
    "fields within fields": (lambda n: header("[('a'," * 95 + f"[{up_to(n - 800, '(%,5),')}]" + ")]" * 95), False),
    "lists": (fields("[],"), False),
    "nothing but brackets": (lambda n: "[" * n, False),
    "nothing but braces": (lambda n: "{" * n, False),
    "types in brackets": (lambda n: header("(" * (n // 2) + "'<i4'" + ")" * (n // 2)), False),
    "fields too deep": (lambda n: header("[('a'," * (n // 9) + "'b'" + ")]" * (n // 9)), False),
    "keys": (lambda n: "{" + up_to(n, "'%':1,") + "}", False),
    "a long key": (lambda n: "{'" + "k" * n + "': 1}", False),
    "strings": (lambda n: up_to(n, "'a'"), False),
    "strings side by side": (lambda n: header("'<i4' " + up_to(n, "'' ")), False),
    "bytes": (lambda n: up_to(n, "b'a',"), False),
    "a long name": (lambda n: header("[('" + "a" * n + "', 'b')]"), True),
    "a long name of a bad field": (lambda n: header("[('" + "a" * n + "', 'nonsense')]"), False),
    "a long name of an object": (lambda n: header("[('" + "a" * n + "', 'O')]"), False),
    "a long name twice": (lambda n: header("[" + ("('" + "a" * (n // 2) + "', 'b'),") * 2 + "]"), False),
    "a long name without end": (lambda n: header("[('" + "a" * n), False),
    "a name of escapes": (lambda n: header("[('" + up_to(n, r"\n") + "', 'b')]"), True),
    "a name of escapes without end": (lambda n: header("[('" + up_to(n, r"\n")), False),
    "a name of characters by name": (lambda n: header("[('" + up_to(n, r"\N{DIGIT ONE}") + "', 'b')]"), False),
}
# What np.load takes has at most 10,000 characters; what we take, a MiB.
SMALL, LARGE = 9_900, MIB - 100


def cost_of(raw: bytes) -> tuple[str, int, float, int]:
    """What became of a header, the peak of memory, CPU seconds of this thread, and how often numpy made a dtype."""
    made = 0

    def counted(descr: Any) -> Any:
        nonlocal made
        made += 1
        return descr_to_dtype(descr)

    descr_to_dtype = npy_format.descr_to_dtype
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npy_format, "descr_to_dtype", counted)
        tracemalloc.start()
        try:
            start = time.thread_time()
            try:
                _npy_header.parse_fields(raw, (3, 0), "costly.npy")
                end = "a header"
            except ValueError as error:
                end = str(error)
                assert error.__cause__ is None and error.__context__ is None  # which would hold all of it
                assert "costly.npy" in end and len(end) < 1000
            seconds = time.thread_time() - start
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return end, peak, seconds, made


@pytest.mark.parametrize("kind", COSTLY)
def test_what_np_load_takes_costs_little(kind: str) -> None:
    """10 ms and 10 MiB at most. The time has some room here, for slow machines and for the counting of memory."""
    make, is_header = COSTLY[kind]
    raw = make(SMALL).encode()
    assert SMALL - 100 < len(raw) < 10_000 or "deep" in kind or "spaces" in kind
    end, peak, seconds, made = cost_of(raw)
    assert (end == "a header") == is_header, end
    assert peak < 10 * MIB and seconds < 0.5
    assert made == 0 or is_header or "name of" in kind  # what has no sense to us, numpy does not see


@pytest.mark.parametrize("kind", COSTLY)
def test_a_long_header_is_read_or_refused_soon(kind: str) -> None:
    """Read in about the time and the memory that numpy needs for the dtype; refused before, or with it."""
    raw = COSTLY[kind][0](LARGE).encode()
    end, peak, seconds, _ = cost_of(raw)
    assert len(raw) > MIB // 2
    assert peak < 32 * MIB and seconds < 10


@pytest.mark.parametrize("kind", [kind for kind, (_, is_header) in COSTLY.items() if not is_header])
def test_what_is_wrong_ends_the_reading(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few steps, however much follows; but for mistakes behind a number of fields that may be right."""
    steps = 0
    accept = _npy_header._Text._accept

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return accept(*arguments)

    monkeypatch.setattr(_npy_header._Text, "_accept", counted)
    with pytest.raises(ValueError):
        _npy_header.parse_fields(COSTLY[kind][0](LARGE).encode(), (3, 0), "costly.npy")
    assert steps < (70_000 if kind == "fields without end" else 500)


@not_on_windows("reads /proc")
def test_the_process_stays_small(quick_dir: Path) -> None:
    """Nothing that the counting of Python's memory does not see, either."""
    paths = []
    for number, (make, _) in enumerate(COSTLY.values()):
        paths.append(quick_dir / f"{number}.npy")
        paths[-1].write_bytes(npy_bytes(make(LARGE), (2, 0)) + bytes(100))
    grown = run_python(
        """
        import sys
        import gatherio as gio

        def peak():
            (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
            return int(line.split()[1])

        for path in sys.argv[1:]:
            try:
                gio.load(path)
            except ValueError:
                pass
            if path == sys.argv[1]:
                before = peak()
        print(peak() - before)
        """,
        *paths,
        warnings="ignore",  # the files that a failing test run leaves open
    )
    assert int(grown) < 64 << 10


@pytest.mark.parametrize("count", [900, 5000, 40_000])
def test_what_save_writes_load_reads(count: int, quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    array = filled((2,), [(f"field_{number:05}", "<f4") for number in range(count)])
    gio.save(path, array)
    assert_same(gio.load(path), array)
    with gio.Mapping(None, size=array.nbytes + 2 * MIB) as mapping:
        mapping.put(array, 0)
        assert_same(mapping.get(0), array)


UNREADABLE: dict[str, Any] = {
    "more fields than are read": [(f"{number:x}", "b") for number in range(_npy_header.FIELDS_MAX + 1)],
    "more escapes than are read": [("\n" * (_npy_header.ESCAPES_MAX + 1), "<f4")],
    "a title that is a tuple": [(((1, 2), "x"), "<f4")],
    "a time of no length": "<M8[0s]",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_load_would_refuse_is_not_written(kind: str, quick_dir: Path) -> None:
    array = np.zeros(2, UNREADABLE[kind])
    with pytest.raises(ValueError, match="header") as caught:
        gio.save(quick_dir / "a.npy", array)
    assert len(str(caught.value)) < 1000
    assert list(quick_dir.iterdir()) == []
    with gio.Mapping(None, size=4 * MIB) as mapping, pytest.raises(TypeError, match="header"):
        mapping.put(array, 0)


def test_a_type_that_would_end_the_process(quick_dir: Path) -> None:
    """numpy divides by what stands behind the stroke."""
    for number, descr in enumerate(["'<M8[s/0]'", "'m8[0s/0]'", "[('a', '<M8[s/0]')]", "'datetime64[7D/0]'"]):
        (quick_dir / f"{number}.npy").write_bytes(npy_bytes(header(descr)) + bytes(24))
    script = """
        import sys, pathlib
        import gatherio as gio

        for path in pathlib.Path(sys.argv[1]).iterdir():
            try:
                gio.load(path)
            except ValueError as error:
                assert "no name of one type" in str(error)
            else:
                raise AssertionError(path)
        """
    run_python(script, quick_dir)


# --- good files, changed by chance ---

FILES = 12_000
DTYPES: list[Any] = [
    "?", "<i4", ">i2", "|u1", "<f8", ">c16", "S3", "<U2", "V5", "<M8[ns]", ">m8[25s]", "<M8", "V0",
    [("x", "<f4"), ("y", ">i8")],
    [(("a title", "x"), "<f4"), ("y", "S3")],
    [("x", "<f4", (2, 3)), ("y", [("z", "u1", 5), ("w", "<M8[s]")])],
    {"names": ["x", "y"], "formats": ["<i4", "<f8"], "offsets": [4, 16], "itemsize": 32},
    np.dtype([("a", "u1"), ("b", "<f8"), ("c", "<i2")], align=True),
    [((b"\xff'", "x"), "<f4"), ((7, "y"), "u1")],
    [("it's", "<i4"), ('quo"te', "u1"), ("back\\slash\n", "?"), ("é", "u1")],
    [],
]  # fmt: skip


def good_files() -> list[bytes]:
    made = []
    shapes = itertools.cycle([(3,), (2, 2), (), (0, 3), (1, 2, 1, 2)])
    for dtype, shape in zip(DTYPES, shapes, strict=False):
        array = filled(shape, dtype)
        for version in ((1, 0), (2, 0), (3, 0)):
            file = io.BytesIO()
            npy_format.write_array(file, array if version != (2, 0) else array.T, version)
            made.append(file.getvalue())
    data = bytes(range(24))
    made.append(npy_bytes("{'descr': [(u'a', '<i4', (1L,))], 'fortran_order': False, 'shape': (3L, 2L)}") + data)
    made.append(npy_bytes('{"shape":(2,3),"fortran_order":True,"descr":"float32"}') + data)
    made.append(npy_bytes("{'descr': ('|S1'), 'fortran_order': True, 'shape': (3,)}") + data)
    return made


WORDS = [
    *(bytes([one]) for one in b"\0 \n\t\\'\"()[]{},:L#-+*/._u<>|8UV\xff"),
    *(b"None", b"True", b"False", b"0", b"1", b"(1,)", b"[]", b"u''", b"b''", b"'' ", b"'shape'", b"'descr'"),
    *(b"'<i4'", b"'|O'", b"'i4,i4'", b"'V2147483647'", b"'V2147483648'", b"[7s]", b"M8[s]"),
    *(b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"18446744073709551615"),
    *(b"99999999999999999999", b"1e9", b"0x3", b"007", b"1_0", b"\\x41", b"\\u0041", b"\\N{DIGIT ONE}", b"\xc3\xa9"),
    *(b"('a','<i4'),", b"('','V2'),", b"(('t','n'),'u1'),", b"('a','<i4',2),", b" " * 70),
]
LENGTHS = [0, 1, 0x7FFF, 0xFFFF, 0x10000, 1 << 20, (1 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]


class Chance:
    """Changes to bytes. Most of them touch what stands before the data."""

    def __init__(self, seed: int, good: list[bytes]) -> None:
        self._random = np.random.default_rng(seed)
        self._good = good

    def below(self, end: int) -> int:
        return int(self._random.integers(max(end, 1)))

    def changed(self, raw: bytes, end: int) -> bytes:
        """With one to three changes in front of `end`."""
        for _ in range(1 + self.below(3)):
            raw = self._changes[self.below(len(self._changes))](self, raw, self.below(min(end, len(raw))))
        return raw

    def bit(self, raw: bytes, at: int) -> bytes:
        return raw[:at] + bytes([raw[at] ^ 1 << self.below(8)]) + raw[at + 1 :] if raw else raw

    def byte(self, raw: bytes, at: int) -> bytes:
        return raw[:at] + bytes([self.below(256)]) + raw[at + 1 :]

    def cut(self, raw: bytes, at: int) -> bytes:
        return raw[:at] if self.below(4) == 0 else raw[: len(raw) - self.below(9)]

    def gap(self, raw: bytes, at: int) -> bytes:
        return raw[:at] + raw[at + 1 + self.below(6) :]

    def again(self, raw: bytes, at: int) -> bytes:
        return raw[: at + self.below(20)] + raw[at:]

    def splice(self, raw: bytes, at: int) -> bytes:
        other = self._good[self.below(len(self._good))]
        return raw[:at] + other[at + self.below(9) - 4 if at > 4 else at :]

    def word(self, raw: bytes, at: int) -> bytes:
        return raw[:at] + WORDS[self.below(len(WORDS))] + raw[at + self.below(4) :]

    def digit(self, raw: bytes, at: int) -> bytes:
        places = [place for place in range(at, min(at + 60, len(raw))) if raw[place : place + 1].isdigit()]
        if not places:
            return raw
        place = places[self.below(len(places))]
        return raw[:place] + str(self.below(300)).encode() + raw[place + 1 :]

    def length(self, raw: bytes, at: int) -> bytes:
        """The field of the header's length: an extreme, or what is right by now."""
        field, start = ("<H", 10) if raw[6:7] == b"\1" else ("<I", 12)
        value = LENGTHS[self.below(len(LENGTHS))] if self.below(2) else raw.find(b"\n") + 1 - start
        return raw[:8] + struct.pack(field, value & (0xFFFF if start == 10 else 0xFFFFFFFF)) + raw[start:]

    _changes: tuple[Callable[[Chance, bytes, int], bytes], ...] = (
        *(bit, byte, cut, gap, again, splice, word, word, word, digit, digit, length, length),
    )


def loaded(raw: bytes) -> Array | None:
    """What gio.load does with a file of these bytes, without a file."""
    try:
        version, start, size = _npy_header.parse_prefix(raw[:4096], "a.npy")
        if size > len(raw):
            return None
        shape, fortran_order, dtype = _npy_header.parse_fields(raw[start:size], version, "a.npy")
    except ValueError:
        return None
    nbytes = math.prod(shape) * dtype.itemsize
    if size + nbytes > len(raw):
        return None
    memory = bytearray(raw[size : size + nbytes]) if nbytes else None
    return np.ndarray(shape, dtype, memory, order="F" if fortran_order else "C")


def numpys(raw: bytes) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Python 2's numbers
        found: Array = np.load(io.BytesIO(raw), allow_pickle=False, max_header_size=2 * MIB)
    return found


def assert_numpys(found: Array, raw: bytes) -> None:
    expected = numpys(raw)
    assert_same(found, expected)
    assert found.dtype.descr == expected.dtype.descr and not found.dtype.hasobject
    if found.nbytes:
        assert found.flags.c_contiguous == expected.flags.c_contiguous
        assert found.flags.f_contiguous == expected.flags.f_contiguous


def test_changed_files_are_refused_or_what_numpy_loads() -> None:
    good = good_files()
    chance = Chance(15, good)
    taken = 0
    for number in range(FILES):
        raw = good[number % len(good)]
        raw = chance.changed(raw, raw.index(b"\n") + (8 if number % 8 == 0 else 0))
        found = loaded(raw)
        if found is not None:
            taken += 1
            assert_numpys(found, raw)
    assert FILES / 20 < taken < FILES / 2


def test_changed_files_on_a_disk(quick_dir: Path) -> None:
    good = good_files()
    chance = Chance(16, good)
    path = quick_dir / "a.npy"
    taken = 0
    for number in range(600):
        raw = good[number % len(good)]
        raw = chance.changed(raw, raw.index(b"\n") + 8)
        path.write_bytes(raw)
        try:
            found = gio.load(path)
        except ValueError as error:
            assert "a.npy" in str(error)
            assert loaded(raw) is None
        else:
            taken += 1
            assert_numpys(found, raw)
    assert taken > 30


@pytest.mark.parametrize("length", [*LENGTHS, 10_000, 10_001])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_any_length_of_a_header(version: tuple[int, int], length: int, quick_dir: Path) -> None:
    limit = 0xFFFF if version == (1, 0) else 0xFFFFFFFF
    raw = npy_bytes(header(), version, length & limit)
    (quick_dir / "a.npy").write_bytes(raw + bytes(100))
    with pytest.raises(ValueError, match=r"a\.npy"):
        gio.load(quick_dir / "a.npy")
    assert loaded(raw + bytes(100)) is None


HUGE = [0, 1, 3, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**20 - 1]
HUGE_TYPES = ["'<i4'", "'V0'", "'U0'", "[]", "'V2147483647'", "[('a', 'V1', (2147483647,))]", "[('a', '<i4', (0,))]"]


@pytest.mark.parametrize("descr", HUGE_TYPES)
def test_lengths_beyond_all_bounds(descr: str) -> None:
    """Products that wrap at 32, 63 or 64 bits, or are no float; with lengths of 0, and with items of no bytes."""
    taken = 0
    shapes = [*itertools.product(HUGE, repeat=1), *itertools.product(HUGE, repeat=2), (10**20 - 1,) * 64]
    for shape in shapes:
        raw = npy_bytes(header(descr, repr(shape)), (3, 0)) + bytes(100)
        found = loaded(raw)
        if found is not None:
            taken += 1
            assert found.shape == shape and found.nbytes <= 100 and math.prod(filter(None, shape)) < 2**63
            if found.nbytes:
                assert_numpys(found, raw)
            elif 0 in shape:
                assert numpys(raw).shape == shape
        data = b"" if found is None else bytes(found.nbytes)
        back = decoded(record(records.ARRAY, header(descr, repr(shape)).encode(), data))
        assert (back is None) == (found is None)
    assert taken > 3


# --- records ---

RECORDS = 12_000


def record(kind: int, description: bytes, data: bytes) -> bytes:
    return sealed(
        struct.pack("<8sHHIQII", records.MAGIC, 1, kind, len(description), len(data), 0, 0) + description + data
    )


def sealed(raw: bytes) -> bytes:
    """With the checksum that is right for its lengths."""
    described, nbytes = struct.unpack_from("<IQ", raw, 12)
    return raw[:24] + struct.pack("<I", zlib.crc32(raw[8:24] + raw[32 : 32 + described + nbytes])) + raw[28:]


def decoded(raw: bytes) -> Any:
    """What stands in a record that lies in memory; None if it is refused."""

    def read(position: int, out: Any) -> None:
        assert position + out.size <= len(raw)
        out[:] = np.frombuffer(raw, np.uint8, out.size, position)

    try:
        return (records.decode(read, len(raw), False, "here"),)
    except ValueError as error:
        assert "here" in str(error) and len(str(error)) < 1000
        return None


def expected_of(raw: bytes) -> Any:
    """By the layout in the module's text, with Python's and numpy's own parsers."""
    magic, version, kind, described, nbytes, checksum = struct.unpack_from("<8sHHIQI", raw)
    body = raw[32 : 32 + described + nbytes]
    assert (magic, version, len(body)) == (b"\x93gioRec\n", 1, described + nbytes)
    assert zlib.crc32(raw[8:24] + body) == checksum
    if kind == 1:
        return json.loads(body[described:].decode("ascii"))
    assert kind == 2
    fields = ast.literal_eval(body[:described].decode())
    dtype = npy_format.descr_to_dtype(fields["descr"])
    memory = bytearray(body[described:]) if nbytes else None
    return np.ndarray(fields["shape"], dtype, memory, order="F" if fields["fortran_order"] else "C")


def assert_got(found: Any, expected: Any) -> None:
    """What `decoded` gave."""
    assert found is not None
    if isinstance(expected, np.ndarray):
        assert_same(found[0], expected)
        assert found[0].dtype.descr == expected.dtype.descr and not found[0].dtype.hasobject
    else:
        assert repr(found[0]) == repr(expected)


def good_records() -> list[bytes]:
    made = []
    for number, dtype in enumerate(DTYPES):
        array = filled((2, 3) if number % 2 else (4,), dtype)
        one = records.encode(array.T if number % 3 else array, False)
        made.append(one.header() + one.description + one.data.tobytes())
    for obj in ({"a": [1, None, True, -0.5], "é": "\ud800"}, [[], {}, [[1e300, 2**70]]], "text", 7, list(range(30))):
        one = records.encode(obj, False)
        made.append(one.header() + one.description + one.data.tobytes())
    return made


NUMBERS = [*LENGTHS, 2, 3, 2**20 - 64, 2**31, 2**32, 2**63 - 1, 2**64 - 33]


def test_changed_records_are_refused_or_what_numpy_and_json_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pickle.loads", None)  # nothing is ever unpickled
    good = good_records()
    chance = Chance(17, good_files())
    taken = 0
    for number in range(RECORDS):
        raw = good[number % len(good)]
        if chance.below(4):
            raw = raw[:32] + chance.changed(raw[32:], len(raw) if number % 2 else 60)
        else:
            at, field = [(0, "<Q"), (8, "<H"), (10, "<H"), (12, "<I"), (16, "<Q"), (24, "<I"), (28, "<I")][
                chance.below(7)
            ]
            value = NUMBERS[chance.below(len(NUMBERS))] & (1 << 8 * struct.calcsize(field)) - 1
            raw = raw[:at] + struct.pack(field, value) + raw[at + struct.calcsize(field) :]
        described, nbytes = struct.unpack_from("<IQ", raw, 12)
        if chance.below(2) and described <= len(raw) - 32:
            raw = raw[:16] + struct.pack("<Q", len(raw) - 32 - described) + raw[24:]
        if chance.below(8):
            raw = sealed(raw)
        found = decoded(raw)
        if found is None:
            continue
        taken += 1
        assert_got(found, expected_of(raw))
    assert RECORDS / 20 < taken < RECORDS


def test_changed_records_in_a_mapping() -> None:
    good = good_records()
    chance = Chance(18, good_files())
    taken = 0
    with gio.Mapping(None, size=64 << 10) as mapping:
        for number in range(600):
            raw = good[number % len(good)]
            raw = sealed(raw[:32] + chance.changed(raw[32:], len(raw))[: len(raw) - 32].ljust(len(raw) - 32))
            mapping.write(raw, mapping.size - len(raw))
            found = decoded(raw)
            try:
                got = mapping.get(mapping.size - len(raw))
            except ValueError:
                assert found is None
            else:
                taken += 1
                assert_got(found, got)
    assert taken > 30


@pytest.mark.parametrize("kind", [records.JSON, records.ARRAY, records.PICKLE])
def test_any_lengths_of_a_record(kind: int) -> None:
    tracemalloc.start()
    try:
        for described, nbytes in itertools.product(NUMBERS, repeat=2):
            lengths = described & 0xFFFFFFFF, nbytes & 2**64 - 1
            raw = sealed(struct.pack("<8sHHIQII", records.MAGIC, 1, kind, *lengths, 0, 0) + bytes(64))
            assert decoded(raw) is None
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", COSTLY)
def test_a_description_costs_what_a_header_costs(kind: str) -> None:
    make, is_header = COSTLY[kind]
    raw = make(SMALL).encode()
    shape, _, dtype = _npy_header.parse_fields(raw, (3, 0), "") if is_header else ((), False, np.dtype("u1"))
    sealed_record = record(records.ARRAY, raw, bytes(math.prod(shape) * dtype.itemsize))
    tracemalloc.start()
    try:
        start = time.thread_time()
        found = decoded(sealed_record)
        assert time.thread_time() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()
    assert (found is not None) == is_header


HOSTILE_JSON = {
    "nothing": b"",
    "half a list": b"[1, 2",
    "no ascii": '"é"'.encode(),
    "another encoding": "[1]".encode("utf-16"),
    "lists too deep": b"[" * 300_000 + b"]" * 300_000,
    "dicts too deep": b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
    "a number of many digits": b"[" + b"7" * 1_000_000 + b"]",
    "a negative number of many digits": b"-" + b"7" * 1_000_000,
    "a nul": b'"\0"',
    "two values": b"1 2",
}


@pytest.mark.parametrize("python_bounds_digits", [True, False])
@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_json_that_is_none(text: bytes, python_bounds_digits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not python_bounds_digits:  # as before 3.10.7
        monkeypatch.setattr(records, "_PARSE_INT", records._bounded_int)
        monkeypatch.setattr(records, "_DIGITS_MAX", 999_990)
    start = time.thread_time()
    assert decoded(record(records.JSON, b"", text)) is None
    assert time.thread_time() - start < 2


def test_json_that_is_odd_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = b"7" * 4300
    for parse_int in (None, records._bounded_int):
        monkeypatch.setattr(records, "_PARSE_INT", parse_int)
        assert decoded(record(records.JSON, b"", digits)) == (int(digits),)
        assert decoded(record(records.JSON, b"", b'{"a":1,"a":2}')) == ({"a": 2},)  # the last one, as json has it
        assert decoded(record(records.JSON, b"", b"[1e999999999,0.%s]" % (b"1" * 100_000))) == ([math.inf, 1 / 9],)
        assert repr(decoded(record(records.JSON, b"", b"NaN"))) == "(nan,)"


def changing(raw: bytes, changes: Iterator[int]) -> tuple[Any, bytearray]:
    """What is read of a record that somebody changes behind each look at it, and what has been seen of it."""
    memory, seen = bytearray(raw), bytearray(len(raw))
    looked_at = np.zeros(len(raw), np.uint8)

    def read(position: int, out: Any) -> None:
        end = position + out.size
        out[:] = np.frombuffer(memory, np.uint8)[position:end]
        seen[position:end] = out.tobytes()
        looked_at[position:end] += 1
        for at in range(len(memory)):
            memory[at] ^= next(changes)

    try:
        found = records.decode(read, len(raw), False, "here")
    except ValueError:
        found = None
    assert looked_at.max() <= 1  # what has been checked is what is used
    if isinstance(found, np.ndarray):
        before = records.flat_bytes(found).tobytes()  # with padding
        memory[:] = bytes(len(memory))
        assert records.flat_bytes(found).tobytes() == before and found.flags.owndata and found.flags.writeable
    return found, seen


def test_a_record_that_changes_while_it_is_read() -> None:
    chance = np.random.default_rng(19)
    for raw in good_records():
        found, seen = changing(raw, itertools.repeat(0))
        assert found is not None and seen[:24] == raw[:24]
        found, _ = changing(raw, map(int, chance.integers(1, 256, 4 * len(raw))))
        assert found is None
        for _ in range(30):
            changes = np.where(chance.random(4 * len(raw)) < 0.02, chance.integers(256, size=4 * len(raw)), 0)
            found, seen = changing(raw, map(int, changes))
            if found is not None:
                assert_got(decoded(bytes(seen)), found)
