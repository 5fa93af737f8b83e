"""Types that are easily stored as something else: masked arrays, strings of no characters, types of others than numpy.

Each comes back as it was, or is refused with the call that works.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npy_oracle import assert_same, data_offset_of, filled
from oracle import FOREVER, ON_WINDOWS, PAGE, run_python

import gatherio as gio

Array = np.ndarray[Any, Any]


# --- masked arrays: their mask lies outside of their bytes ---


def masked() -> Any:
    """On a page, so that nothing but its mask is in the way."""
    return np.ma.masked_array(gio.zeros(PAGE, "u1"), np.arange(PAGE) % 2 == 0)


@pytest.fixture
def f(disk_dir: Path) -> Iterator[gio.File]:
    (disk_dir / "file").write_bytes(b"old" * PAGE)
    with gio.open(disk_dir / "file", "r+") as file:
        yield file


FILE_CALLS: dict[str, Callable[[gio.File, Any], Any]] = {
    "write_at": lambda f, array: f.write_at(array, 0),
    "read_at": lambda f, array: f.read_at(array, 0),
    "write_gather": lambda f, array: f.write_gather([gio.zeros(PAGE, "u1"), array], 0),
    "read_scatter": lambda f, array: f.read_scatter([array], 0),
    "write_gather staged": lambda f, array: f.write_gather([array], 0, copy=True),
    "write_many": lambda f, array: f.write_many([array, gio.zeros(5, "u1")], [0, PAGE]),
    "read_many": lambda f, array: f.read_many([array], [0]),
    "write_many of rows": lambda f, array: f.write_many(array.reshape(4, -1), np.arange(4)),
    "read_many of rows": lambda f, array: f.read_many(array.reshape(4, -1), np.arange(4)),
    "masked offsets": lambda f, _: f.write_many(gio.zeros((2, 8), "u1"), np.ma.masked_array([0, 8], [0, 1])),
    "Segments": lambda f, array: gio.Segments([array]),
    "Segments.rows": lambda f, array: gio.Segments.rows(array, [0]),
    "masked indices": lambda f, _: gio.Segments.rows(gio.zeros((2, 8)), np.ma.masked_array([0, 1], [0, 1])),
    "register": lambda f, array: f._queue.register(array),
    "asaligned": lambda f, array: gio.asaligned(array),
    "asaligned, unaligned": lambda f, array: gio.asaligned(array[1:]),
    "full": lambda f, array: gio.full(PAGE, array),
    "full with a dtype": lambda f, array: gio.full(3, np.ma.masked, "f8"),
    "save": lambda f, array: gio.save(f.name, array),
}


@pytest.mark.parametrize("call", FILE_CALLS)
def test_masked_arrays_are_refused(call: str, f: gio.File) -> None:
    array = masked()
    with pytest.raises(TypeError, match=r"mask.*array\.filled\(\)"):
        FILE_CALLS[call](f, array)
    assert not array.data.any()  # not read into
    assert Path(f.name).read_bytes() == b"old" * PAGE
    FILE_CALLS["write_at"](f, array.filled(7)).result(FOREVER)


def test_masked_arrays_are_refused_by_load(quick_dir: Path) -> None:
    gio.save(quick_dir / "a.npy", np.ones(PAGE, "u1"))
    array = masked()
    with pytest.raises(TypeError, match="mask"):
        gio.load(quick_dir / "a.npy", out=array)
    assert not array.data.any()


def test_masked_arrays_are_refused_by_mappings() -> None:
    array = masked()
    with gio.Mapping(None, size=4 * PAGE) as m:
        m.write(b"\1" * m.size, 0)
        for call in (
            lambda: m.write(array, 0),
            lambda: m.read(0, out=array),
            lambda: m.put(array, 0),
            lambda: m.put(array, 0, allow_pickle=True),
            lambda: m.nbytes_of(array),
        ):
            with pytest.raises(TypeError, match="mask"):
                call()
        assert m.read(0) == b"\1" * m.size and not array.data.any()


def test_who_has_no_masked_arrays_does_not_wait_for_their_import(quick_dir: Path) -> None:
    script = """
        import sys
        import numpy as np
        before = "numpy.ma" in sys.modules
        import gatherio as gio
        array = gio.asaligned(gio.full((2, 8), 7))
        with gio.open(sys.argv[1], "w+") as f:
            f.write_at(array, 0).result()
            f.read_many(array, [0, 64]).result()
            gio.Segments.rows(array, [1])
        gio.save(sys.argv[1] + ".npy", array)
        gio.load(sys.argv[1] + ".npy", out=array)
        with gio.Mapping(None, size=4096) as m:
            m.put(array, m.put({"a": 1}, 0))
            m.read(0, out=np.empty(8))
        assert ("numpy.ma" in sys.modules) == before
    """
    run_python(script, quick_dir / "file")


def test_only_the_shape_of_a_masked_array_is_taken() -> None:
    array = gio.empty_like(masked())
    assert type(array) is np.ndarray and (array.shape, array.dtype) == ((PAGE,), np.uint8)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_other_subclasses_are_the_arrays_they_are(disk_dir: Path) -> None:
    """Whether one is aligned changes nothing but whether there is a copy."""
    memory = gio.zeros((2, PAGE // 8))
    for array in (memory.view(np.matrix), memory[:, 1:3].view(np.matrix), memory.view([("a", "f8")]).view(np.recarray)):
        found = gio.asaligned(array)
        assert type(found) is np.ndarray and gio.is_aligned(found)
        assert found.dtype == array.dtype
        assert np.shares_memory(found, memory) == gio.is_aligned(array)
    with gio.open(disk_dir / "file", "w") as f:
        f.write_at(np.matrix([[1, 2], [3, 4]], "u1"), 0).result(FOREVER)
    assert (disk_dir / "file").read_bytes() == b"\1\2\3\4"


# --- strings of no characters ---

NOTHING: list[Any] = [
    "U0",
    ">U0",
    "S0",
    "V0",
    [("a", "U0")],
    [("a", "S0"), ("b", "<i4")],
    [("b", "<i4"), ("a", "U0"), ("c", [("d", "V0")])],
    [],
]


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", NOTHING, ids=str)
def test_strings_of_no_characters(shape: tuple[int, ...], dtype: Any, quick_dir: Path) -> None:
    kind = np.dtype(dtype)
    array = np.ndarray(shape, kind, bytearray(100))
    with gio.Mapping(None, size=PAGE) as m:
        used = m.put(array, 0)
        assert used == m.nbytes_of(array)
        assert_same(m.get(0), array)
        mapped = m.array(shape, kind, 512)
        assert (mapped.shape, mapped.dtype, mapped.nbytes) == (shape, kind, array.nbytes)
        assert m.write(array, 1024) == array.nbytes
        out = np.ndarray(shape, kind, bytearray(100))
        assert m.read(1024, out=out) is out
    path = quick_dir / "a.npy"
    gio.save(path, array)
    assert path.stat().st_size == data_offset_of(path) + array.nbytes
    assert_same(gio.load(path), array)
    assert gio.load(path, out=out) is out
    for made in (gio.empty(shape, kind), gio.zeros(shape, kind), gio.empty_like(array), gio.asaligned(array)):
        assert (made.shape, made.dtype, made.nbytes) == (shape, kind, array.nbytes)
    with gio.open(quick_dir / "file", "w+") as f:
        assert f.write_at(array, 5).result(FOREVER) == array.nbytes
        assert f.read_scatter([out], 5, copy=None).result(FOREVER) == array.nbytes


def test_scalars_of_no_characters() -> None:
    with gio.Mapping(None, size=PAGE) as m:
        for scalar in (np.str_(""), np.bytes_(b""), np.void(b"")):
            m.put(scalar, 0)
            assert_same(m.get(0), np.ndarray((), scalar.dtype))


# --- types that are not numpy's own ---


def foreign_types() -> list[np.dtype[Any]]:
    try:  # numpy's own example of such a type: a fraction of two int32
        from numpy._core._rational_tests import rational  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # numpy 1
        from numpy.core._rational_tests import rational  # type: ignore[import-not-found,no-redef,unused-ignore]
    found = [np.dtype(rational)]
    if not ON_WINDOWS:  # its wheel is not among those that Wine's Python gets
        import ml_dtypes

        names = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
        found += [np.dtype(getattr(ml_dtypes, name)) for name in names]
    return found


FOREIGN = foreign_types()


def within(kind: np.dtype[Any]) -> list[Any]:
    """The type alone, and wherever else a dtype can have it."""
    return [
        kind,
        np.dtype([("a", "<i4"), ("b", kind)]),
        np.dtype([("a", kind, (2, 3)), ("b", [("c", kind), ("d", "S3")], (2,))]),
        np.dtype([("a", "u1"), ("b", kind)], align=True),
    ]


def some(kind: np.dtype[Any]) -> Array:
    """Items made of bytes that differ."""
    return filled((5,), f"V{kind.itemsize}").view(kind)


def bits(array: Array) -> bytes:
    return array.view(f"V{array.itemsize}").tobytes()


@pytest.mark.parametrize("kind", FOREIGN, ids=str)
def test_foreign_types_are_saved_by_the_call_that_the_message_names(kind: np.dtype[Any], quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    for dtype in within(kind):
        array = some(dtype)
        path.write_bytes(b"old")
        with pytest.raises(ValueError, match=rf"{kind.name}.*array\.view.*safetensors") as refusal:
            gio.save(path, array)
        assert path.read_bytes() == b"old"
        call = re.search(r"array\.view\(.+?\)(?= has)", str(refusal.value))
        assert call is not None
        gio.save(path, eval(call[0], {"array": array, "np": np}))
        assert bits(gio.load(path).view(dtype)) == bits(array)


@pytest.mark.parametrize("kind", FOREIGN, ids=str)
def test_a_file_of_bytes_of_no_type_fills_an_array_of_any_type_of_that_size(
    kind: np.dtype[Any], quick_dir: Path
) -> None:
    path = quick_dir / "a.npy"
    for dtype in within(kind)[:3] if kind.str[1] == "V" else ():  # what numpy stores of float8_e5m2 nobody can read
        array = some(dtype)
        np.save(path, array)  # numpy leaves out the type
        out = np.zeros_like(array)
        assert gio.load(path, out=out) is out
        assert bits(out) == bits(array)
        assert bits(gio.load(path)) == bits(array)
    np.save(path, np.arange(5, dtype=f"u{kind.itemsize}"))
    with pytest.raises(ValueError, match=kind.name):
        gio.load(path, out=np.zeros(5, kind))  # from integers: that is another type


def test_bytes_of_no_type_and_what_may_take_them(quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    np.save(path, filled((4,), "V8"))
    for dtype in ("<f8", ">i8", "M8[ns]", "S8", "U2", [("a", "u1", (3,)), ("b", "S5")], "V8"):
        assert bits(gio.load(path, out=np.zeros(4, dtype))) == bits(np.load(path))
    for dtype in ("O", [("a", "O")], "f4", "V4", "V16", "c16", "U0"):
        with pytest.raises(ValueError, match="out has dtype"):
            gio.load(path, out=np.ndarray((4,), dtype))
    np.save(path, filled((4,), [("a", "<i4"), ("b", "V4")]))
    assert bits(gio.load(path, out=np.zeros(4, [("a", "<i4"), ("b", "<f4")]))) == bits(np.load(path))
    for dtype in (
        "V8",  # what has a type keeps it
        "<f8",
        [("a", "<u4"), ("b", "V4")],
        [("a", "<i4"), ("c", "V4")],
        [("b", "<f4"), ("a", "<i4")],
        [("a", "<i4"), ("b", "V5")],
        [("a", "<i4"), ("b", "V3"), ("c", "V1")],
        {"names": ["a", "b"], "formats": ["<i4", "<f4"], "offsets": [4, 0]},
    ):
        with pytest.raises(ValueError, match="out has dtype"):
            gio.load(path, out=np.zeros(4, dtype))


@pytest.mark.parametrize("kind", FOREIGN, ids=str)
def test_records_keep_foreign_types_or_refuse_them(kind: np.dtype[Any]) -> None:
    with gio.Mapping(None, size=1 << 16) as m:
        m.put("old", 0)
        for dtype in within(kind):
            for obj in (some(dtype), some(dtype)[0], some(dtype)[:0]):
                with pytest.raises(TypeError, match=r"array\.view.*allow_pickle=True"):
                    m.put(obj, 0)
                with pytest.raises(TypeError):
                    m.nbytes_of(obj)
        assert m.get(0) == "old"
        if kind.name != "rational":  # which cannot be pickled
            m.put(some(kind), 0, allow_pickle=True)
            found = m.get(0, allow_pickle=True)
            assert found.dtype == kind and bits(found) == bits(some(kind))


@pytest.mark.parametrize("kind", FOREIGN, ids=str)
def test_foreign_types_are_moved_as_the_bytes_they_are(kind: np.dtype[Any], quick_dir: Path) -> None:
    array = some(kind)
    for copy in (gio.asaligned(array), gio.full(5, array, kind)):
        assert copy.dtype == kind and bits(copy) == bits(array)
    with gio.open(quick_dir / "file", "w+") as f:
        f.write_at(array, 3).result(FOREVER)
        back = gio.empty_like(array)
        f.read_at(back, 3).result(FOREVER)
    assert back.dtype == kind and bits(back) == bits(array)


def test_strings_of_any_length_are_refused_with_the_call_that_works(quick_dir: Path) -> None:
    if not hasattr(np.dtypes, "StringDType"):
        return  # numpy 1 has none
    array = np.array(["a", "text"], np.dtypes.StringDType())
    with pytest.raises(ValueError, match=r"array\.astype\('U20'\)"):
        gio.save(quick_dir / "a.npy", array)
    gio.save(quick_dir / "a.npy", array.astype("U20"))
    assert gio.load(quick_dir / "a.npy").tolist() == ["a", "text"]
    with gio.Mapping(None, size=PAGE) as m:
        with pytest.raises(TypeError, match="allow_pickle"):
            m.put(array, 0)


@pytest.mark.parametrize(
    "dtype", ["g", ">G", "M8", ">M8[25us]", "m8[D]", "?", "V3", np.dtype((np.record, [("a", "u2")]))], ids=str
)
def test_numpys_own_types_stay_what_they_are(dtype: Any, quick_dir: Path) -> None:
    array = np.zeros(3, dtype)
    gio.save(quick_dir / "a.npy", array)
    assert_same(gio.load(quick_dir / "a.npy"), array)
    with gio.Mapping(None, size=PAGE) as m:
        m.put(array, 0)
        assert_same(m.get(0), array)


def test_a_dtype_with_two_readings_is_not_stored_as_one_of_them(quick_dir: Path) -> None:
    both = np.dtype(("<i4", [("low", "<i2"), ("high", "<i2")]))  # an integer whose halves have names
    with pytest.raises(ValueError, match="header can't describe"):
        gio.save(quick_dir / "a.npy", np.zeros(3, both))
