"""Objects in a mapping: what is put comes out, and what is no whole record says so."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from npy_oracle import assert_same
from peers import Peer

import gatherio as gio

SIZE = 1 << 20


@pytest.fixture(scope="module")
def m() -> Iterator[gio.Mapping]:
    with gio.Mapping(None, size=SIZE) as mapping:
        yield mapping


def round_trip(m: gio.Mapping, obj: Any, offset: int = 0, **allow: bool) -> Any:
    used = m.put(obj, offset, **allow)
    assert used == m.nbytes_of(obj, **allow)
    return m.get(offset, **allow)


kinds = hnp.array_dtypes(max_size=4) | hnp.scalar_dtypes()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), offset=st.integers(0, 1000), order=st.sampled_from("CFT"))
def test_arrays_come_back(m: gio.Mapping, data: st.DataObject, offset: int, order: str) -> None:
    kind = data.draw(kinds)
    array = data.draw(hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)))
    array = array.T if order == "T" else np.array(array, order=order)  # type: ignore[call-overload]
    found = round_trip(m, array, offset)
    assert found.dtype == array.dtype and found.shape == array.shape
    assert_same(found, array)
    assert repr(found) == repr(array)  # also of what is equal to nothing
    assert found.flags.f_contiguous == array.flags.f_contiguous and found.flags.writeable


def test_arrays_of_many_kinds(m: gio.Mapping) -> None:
    structured = np.zeros(3, [("a", ">i2", (2, 2)), ("\u00fc", "U5"), ("t", "M8[ns]"), ("n", [("x", "f4")])])
    structured["\u00fc"] = "\u6587"
    for array in (
        structured,
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.float64(1.5),
        np.array("text"),
        np.zeros(0),
        np.zeros((3, 0, 2), order="F"),
        np.arange(5, dtype=">f8"),
        np.zeros((2, 2)).view(np.recarray) if hasattr(np, "recarray") else np.zeros(1),
        np.array([b"", b""]),
    ):
        found = round_trip(m, array, 777)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, np.asarray(array))
        assert found.dtype == np.asarray(array).dtype


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=json_values, offset=st.integers(0, 1000))
def test_what_json_holds_comes_back(m: gio.Mapping, value: Any, offset: int) -> None:
    assert round_trip(m, value, offset) == value


def test_json_as_json_has_it(m: gio.Mapping) -> None:
    assert round_trip(m, (1, (2, 3))) == [1, [2, 3]]
    assert str(round_trip(m, [float("nan"), -0.0])) == "[nan, -0.0]"
    infinite = [float("inf"), -float("inf"), 1e-310, 10**4000, -(2**64)]
    assert round_trip(m, infinite) == infinite
    alone = ["\ud800", "\udc00 \ud800", {"\udfff": "\U0001f600\ud83d"}, "\\ud83d\\ude00", "\0\x7f\u2028"]
    assert round_trip(m, alone) == alone


class Text(str):
    """Other text for Python than for JSON: equal to itself alone."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


ODD_KEYS: list[Any] = [
    {1: "int"},
    {1: "int", "1": "str"},
    {1.5: 0},
    {float("nan"): 0},
    {True: 0, "true": 1},
    {None: 0},
    {None: 0, "null": 1, "a": 2},
    {IntEnum("Number", ["ONE"])(1): 0},
    {np.float64(1.5): 0},
    {np.int64(1): 0},
    {(1, 2): 0},
    {b"a": 0},
    {Text("a"): 1, "a": 2},
    {Text("a"): 1},
    OrderedDict([("1", 1), (1, 2)]),
    defaultdict(int, {2: 1}),
]


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: [0, "a", d], lambda d: {"a": {"b": (1, [d])}}])
@pytest.mark.parametrize("entries", ODD_KEYS, ids=repr)
def test_keys_that_json_would_change_are_refused(m: gio.Mapping, entries: Any, wrap: Any) -> None:
    obj = wrap(entries)
    m.put("old", 0)
    with pytest.raises(TypeError, match=r"key.*allow_pickle=True"):
        m.put(obj, 0)
    with pytest.raises(TypeError):
        m.nbytes_of(obj)
    assert m.get(0) == "old"
    if type(entries) is dict and not any(isinstance(key, (Text, IntEnum, float)) for key in entries):
        assert round_trip(m, obj, allow_pickle=True) == obj


def test_the_message_names_the_key(m: gio.Mapping) -> None:
    with pytest.raises(TypeError, match=r"the key 7 of a dict would become text.*type int.*use str"):
        m.put({"a": {"b": 0, 7: 1}}, 0)


def test_text_that_json_would_change_is_refused(m: gio.Mapping) -> None:
    """Two surrogates that Python holds one by one stand for one character in JSON."""
    for obj in ("\ud83d\ude00", ["a", {"b": "x\ud800\udc00"}], {"\U0001f600": 0, "\ud83d\ude00": 1}):
        with pytest.raises(TypeError, match="surrogates"):
            m.put(obj, 0)
        assert round_trip(m, obj, allow_pickle=True) == obj


def test_numbers_too_long_for_text_are_refused(m: gio.Mapping) -> None:
    with pytest.raises(TypeError, match=r"4300 digits.*allow_pickle=True"):
        m.put({"a": [10**5000]}, 0)
    assert round_trip(m, 10**5000, allow_pickle=True) == 10**5000


def test_subclasses_come_back_as_the_plain_class(m: gio.Mapping) -> None:
    number = IntEnum("Number", ["ONE", "TWO"])
    for obj, plain in (
        ([np.float64(1.5), np.str_("a")], [1.5, "a"]),
        ({np.str_("a"): number(2)}, {"a": 2}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, {"a": [1]}), {"a": [1]}),
        (namedtuple("Point", "x y")(1, 2), [1, 2]),
    ):
        found = round_trip(m, obj)
        assert repr(found) == repr(plain)


def test_what_is_put_at_the_greatest_depth_is_got(m: gio.Mapping) -> None:
    deepest = 0
    for depth in range(1, sys.getrecursionlimit(), 7):
        obj: Any = "core"
        for level in range(depth):
            obj = [obj] if level % 2 else {"a": obj}
        try:
            m.put(obj, 0)
        except TypeError:
            break
        found = m.get(0)
        for level in reversed(range(depth)):
            (found,) = found if level % 2 else found.values()
        assert found == "core"
        deepest = depth
    assert deepest > 200


def test_pickle_only_when_allowed(m: gio.Mapping) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for obj in ({1, 2}, b"bytes", 1j, {"array": np.arange(3)}, np.array([None, {}], object), loop, object):
        with pytest.raises(TypeError, match="allow_pickle=True"):
            m.put(obj, 0)
        with pytest.raises(TypeError):
            m.nbytes_of(obj)
    mixed = OrderedDict(array=np.arange(3), set={1, 2})
    assert str(round_trip(m, mixed, allow_pickle=True)) == str(mixed)
    with pytest.raises(ValueError, match="allow_pickle=True"):
        m.get(0)
    np.testing.assert_array_equal(round_trip(m, np.array([None, 1]), allow_pickle=True), np.array([None, 1]))
    assert round_trip(m, [1], allow_pickle=True) == [1]
    assert m.get(0) == [1]  # JSON all the same


class Liar(np.ndarray):  # type: ignore[type-arg]
    """An array that says something else of itself."""

    nbytes = size = itemsize = 0  # type: ignore[assignment]
    shape = (1000, 1000)  # type: ignore[assignment]
    dtype = np.dtype("<f8")  # type: ignore[assignment]
    flags = property(lambda self: pytest.fail("asked"))  # type: ignore[assignment]
    T = data = flags  # type: ignore[assignment]
    __array_interface__ = {"shape": (1 << 20,), "typestr": "<f8", "data": (1, False), "version": 3}

    def __array__(self, *arguments: Any, **more: Any) -> Any:
        raise AssertionError("asked")

    reshape = view = copy = tobytes = __array__  # type: ignore[assignment]


class LyingScalar(np.float64):
    nbytes = itemsize = 0
    shape = (1000, 1000)
    dtype = np.dtype("<i4")


def test_what_a_subclass_says_of_itself_is_not_asked(m: gio.Mapping) -> None:
    array = np.arange(6, dtype="<u2").reshape(2, 3)
    liar = np.ndarray.view(array, Liar)
    found = round_trip(m, liar)
    assert_same(found, array)
    assert type(found) is np.ndarray
    objects = np.ndarray.view(np.array([None, 1], object), Liar)
    with pytest.raises(TypeError, match="Python objects"):
        m.put(objects, 0)
    found = round_trip(m, LyingScalar(1.5))
    assert_same(found, np.array(1.5))


def test_a_masked_array_is_no_array(m: gio.Mapping) -> None:
    with pytest.raises(TypeError, match="mask"):
        m.put(np.ma.masked_array([1, 2], [True, False]), 0)


def test_the_layout_is_the_documented_one(m: gio.Mapping) -> None:
    used = m.put(np.arange(6, dtype="<u2").reshape(2, 3), 64)
    raw = m.read(64, used)
    magic, version, kind, described, nbytes, checksum, zero = struct.unpack("<8sHHIQII", raw[:32])
    assert (magic, version, kind, nbytes, zero) == (b"\x93gioRec\n", 1, 2, 12, 0)
    assert used == 32 + described + 12 and (32 + described) % 64 == 0
    assert zlib.crc32(raw[8:24] + raw[32:]) == checksum
    assert eval(raw[32 : 32 + described]) == {"descr": "<u2", "fortran_order": False, "shape": (2, 3)}
    assert raw[-12:] == np.arange(6, dtype="<u2").tobytes()
    raw = m.read(0, m.put({"a": [1, None]}, 0))
    assert raw[10:12] == b"\x01\x00" and json.loads(raw[32:]) == {"a": [1, None]}


def test_every_torn_byte_is_found(m: gio.Mapping) -> None:
    for obj in (np.arange(10), {"key": "value"}):
        used = m.put(obj, 100)
        for at in range(100, 100 + used):
            if at - 100 in range(28, 32):
                continue  # reserved
            (byte,) = m.read(at, 1)
            m.write(bytes([byte ^ 0x41]), at)
            with pytest.raises(ValueError):
                m.get(100, allow_pickle=True)
            m.write(bytes([byte]), at)
        np.testing.assert_array_equal(m.get(100), obj)


def test_what_is_no_record(m: gio.Mapping) -> None:
    m.write(bytes(1000), 0)
    with pytest.raises(ValueError, match="no record"):
        m.get(0)
    with pytest.raises(ValueError, match="no record"):
        m.get(SIZE - 5)
    with pytest.raises(ValueError):
        m.get(SIZE + 1)
    # Lengths that lead out of the mapping or of memory, with a checksum that is right.
    for kind, described, nbytes, text in (
        (2, 8, 2**60, b""),
        (2, 2**31, 8, b""),
        (1, 0, SIZE, b""),
        (9, 0, 0, b""),
        (2, 64, 0, b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,)}"),
        (2, 64, 8, b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        (2, 64, 8, b"[" * 64),
    ):
        fields = struct.pack("<HHIQ", 1, kind, described, nbytes)
        body = text.ljust(64) + bytes(8)
        checksum = zlib.crc32(fields + body[: described + nbytes] if described + nbytes < 100 else fields)
        m.write(b"\x93gioRec\n" + fields + struct.pack("<II", checksum, 0) + body, 0)
        with pytest.raises(ValueError):
            m.get(0, allow_pickle=True)


def test_json_that_is_none(m: gio.Mapping) -> None:
    for text in (b"{", b"\xff\xfe", b"[" * 100_000):
        fields = struct.pack("<HHIQ", 1, 1, 0, len(text))
        m.write(b"\x93gioRec\n" + fields + struct.pack("<II", zlib.crc32(fields + text), 0) + text, 0)
        with pytest.raises(ValueError):
            m.get(0)


def test_what_does_not_fit_changes_nothing(m: gio.Mapping) -> None:
    m.put("old", SIZE - 100)
    with pytest.raises(ValueError):
        m.put(np.zeros(100), SIZE - 100)
    assert m.get(SIZE - 100) == "old"
    size = m.nbytes_of([1, 2, 3])
    assert m.put([1, 2, 3], SIZE - size) == size
    with pytest.raises(ValueError):
        m.put([1, 2, 3], SIZE - size + 1)
    with pytest.raises(ValueError):
        m.put(1, -1)


def test_a_reader_never_gets_half_of_a_record() -> None:
    """One process puts one of two arrays after the other in the same place; readers get one of them, or ValueError."""
    with gio.Mapping(None, size=300_000, name="half") as m, Peer() as writer:
        writer.do("m = gio.Mapping.open('half')")
        writer.tell("for i in range(2000): m.put(np.full(1000 + 20_000 * (i % 2), i % 2, 'u1'), 3)")
        whole = torn = 0
        while whole + torn < 4000:
            try:
                found = m.get(3)
            except ValueError:
                torn += 1
            else:
                assert found.size == 1000 + 20_000 * int(found[0]) and (found == found[0]).all()
                whole += 1
        writer.answer()
        assert m.get(3).size == 21_000
