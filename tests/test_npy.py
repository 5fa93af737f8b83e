"""gio.save and gio.load, with numpy as the oracle: what one writes, the other reads."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from npy_oracle import Array, assert_same, data_offset_of, filled
from oracle import ON_WINDOWS, fifo, not_on_windows, not_under_wine, run_python
from this_process import comes_down, handle_count, virtual

import gatherio as gio

MIB = 1 << 20


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def header_text(path: Path) -> str:
    """Without the padding."""
    raw = path.read_bytes()[: data_offset_of(path)]
    text = raw[10 if raw[6] == 1 else 12 :].decode("utf-8" if raw[6] == 3 else "latin1")
    assert text.endswith("\n")
    return text.rstrip(" \n")


# --- arrays of all kinds ---


ALIGNED = np.dtype([("a", "u1"), ("b", "<f8"), ("c", "<i2")], align=True)
DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", "<u4", ">i8", "<f2", ">f4", "<f8", "<c8", ">c16",
    *(["<f16", "<c32"] if np.dtype("g").itemsize == 16 else []),
    "<M8[ns]", ">M8[D]", "<M8", "<m8[25us]", "S1", "S7", "<U1", ">U5", "V3", "V16", "S0", "<U0", "V0",
    [("x", "<f4"), ("y", ">i8")],
    [(("a title", "x"), "<f4"), ("y", "S3")],
    [("x", "<f4", (2, 3)), ("y", [("z", "u1", 5), ("w", "<M8[s]")])],
    {"names": ["x", "y"], "formats": ["<i4", "<f8"], "offsets": [4, 16], "itemsize": 32},
    ALIGNED,
    [("nested", ALIGNED, 3), ("last", "u1")],
    [("empty", "S0"), ("x", "<i4")],
    [("é", "<i4")],
    [("温度", "<i4"), ("🌡", "<f8")],
    [("it's", "<i4"), ('quo"te', "<f8"), ("back\\slash", "?"), ("[({", "u1"), ("L 5L", "u1")],
    [],
]  # fmt: skip
SHAPES = [(), (0,), (1,), (7,), (0, 3), (3, 0, 2), (5, 4), (2, 3, 4), (1, 1, 1, 1), (1024,), (33, 65)]


@pytest.mark.filterwarnings("ignore:Stored array in format")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_both_ways(dtype: Any, quick_dir: Path) -> None:
    ours, theirs = quick_dir / "ours.npy", quick_dir / "theirs.npy"
    for shape in SHAPES:
        for order in "CF":
            array = filled(shape, dtype)
            array = array if order == "C" else array.T
            gio.save(ours, array)
            np.save(theirs, array)
            assert header_text(ours) == header_text(theirs)
            data = theirs.read_bytes()[data_offset_of(theirs) :]
            assert ours.read_bytes()[data_offset_of(ours) :] == data
            assert_same(np.load(ours), np.load(theirs))
            for path in (ours, theirs):
                loaded = gio.load(path)
                assert_same(loaded, np.load(path))
                assert (loaded if array.flags.c_contiguous else loaded.T).tobytes() == data  # padding too
                if array.itemsize:  # numpy sees no order in items of no bytes, or any
                    assert loaded.flags.c_contiguous == array.flags.c_contiguous
                    assert loaded.flags.f_contiguous == array.flags.f_contiguous
                assert loaded.flags.writeable and type(loaded) is np.ndarray
    assert names_in(quick_dir) == ["ours.npy", "theirs.npy"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_data_starts_on_a_page_and_can_be_mapped(order: Any, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    array = np.asarray(filled((300, 41), "<f4"), order=order)
    gio.save(path, array)
    assert data_offset_of(path) == 4096
    assert path.stat().st_size == 4096 + array.nbytes
    mapped = np.load(path, mmap_mode="r")
    assert mapped.offset == 4096 and mapped.flags.f_contiguous == (order == "F")
    assert_same(mapped, array)
    loaded = gio.load(path)
    assert gio.is_aligned(loaded if order == "C" else loaded.T)


DTYPE_STRATEGY = st.one_of(
    npst.scalar_dtypes(), npst.datetime64_dtypes(), npst.nested_dtypes(), npst.unicode_string_dtypes()
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays of any dtype and layout: reversed, strided, transposed, broadcast, in either order."""
    dtype = draw(DTYPE_STRATEGY)
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    array = np.asarray(filled(shape, "u1") if dtype.itemsize == 0 else np.zeros(shape, dtype))
    fill = draw(st.binary(max_size=64))
    if fill and array.nbytes and dtype.kind not in "U":
        raw = np.resize(np.frombuffer(fill, np.uint8), array.nbytes)
        array = raw.view(array.dtype).reshape(shape)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    if array.ndim and draw(st.booleans()):
        array = array[draw(npst.basic_indices(array.shape, allow_newaxis=True, allow_ellipsis=True))]
    array = np.asarray(array)
    if array.ndim < 4 and draw(st.booleans()):
        array = np.broadcast_to(array, (draw(st.integers(0, 5)), *array.shape))
    return array


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(array=arrays())
def test_any_array_survives(array: Array, quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    gio.save(path, array)
    assert_same(np.load(path), array)
    assert_same(gio.load(path), array)
    out = np.empty(array.shape, array.dtype, order="F" if "'fortran_order': True" in header_text(path) else "C")
    assert gio.load(path, out) is out
    assert_same(out, array)


@pytest.mark.usefixtures("small_steps")
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 400_000)),
        st.tuples(st.integers(1, 600), st.integers(1, 600)),
        st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)),
    ),
    itemsize=st.one_of(st.sampled_from([1, 2, 3, 4, 8, 12, 16, 100, 4096, 4097]), st.integers(1, 30_000)),
    steps=st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), min_size=3, max_size=3),
    transposed=st.booleans(),
)
def test_any_layout_through_small_buffers(
    shape: tuple[int, ...], itemsize: int, steps: list[int], transposed: bool, disk_dir: Path
) -> None:
    shape = (max(1, min(shape[0], 1_200_000 // (itemsize * int(np.prod(shape[1:]))))), *shape[1:])
    if itemsize * int(np.prod(shape)) > 16 * MIB:
        shape = shape[:1]
    array = filled(shape, f"V{itemsize}")[tuple(slice(None, None, step) for step in steps[: len(shape)])]
    array = array.T if transposed else array
    path = disk_dir / "a.npy"
    gio.save(path, array)
    assert_same(np.load(path), array)
    assert_same(gio.load(path), array)


@pytest.mark.parametrize("layout", ["ordinary", "aligned", "fortran", "strided", "slice of fortran", "rows"])
def test_large_arrays_of_every_layout(layout: str, folder: Path) -> None:
    path = folder / "a.npy"
    base = np.random.default_rng(1).integers(0, 1 << 62, (3001, 4003), np.int64)  # some 92 MiB
    array = {
        "ordinary": lambda: base,
        "aligned": lambda: gio.asaligned(base),
        "fortran": lambda: base.T,
        "strided": lambda: base[::-1, ::2],
        "slice of fortran": lambda: base.T[:-1],
        "rows": lambda: base[:, :-1],
    }[layout]()
    gio.save(path, array)
    assert_same(np.load(path), array)
    assert_same(gio.load(path), array)
    out = np.empty(array.nbytes + 1, np.uint8)[1:].view(np.int64)  # nowhere near aligned
    out = out.reshape(array.T.shape).T if layout == "fortran" else out.reshape(array.shape)
    gio.load(path, out)
    assert_same(out, array)


def test_an_item_larger_than_a_block(disk_dir: Path) -> None:
    array = filled((4, 2), f"S{3 * MIB + 5}")[:, ::-1]
    gio.save(disk_dir / "a.npy", array)
    assert_same(np.load(disk_dir / "a.npy"), array)


@pytest.mark.parametrize(
    "anything",
    [5, 2.5, True, b"bytes", "text", [1, 2, 3], [[1.5], [2]], (), range(4), np.float32(3)],
    ids=repr,
)
def test_what_is_not_an_array_becomes_one(anything: Any, quick_dir: Path) -> None:
    gio.save(quick_dir / "a.npy", anything)
    assert_same(np.load(quick_dir / "a.npy"), np.asanyarray(anything))


def test_subclasses(quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    np.arange(24.0).tofile(quick_dir / "raw")
    mapped = np.memmap(quick_dir / "raw", np.float64, "r", shape=(4, 6))
    records = np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")])
    for array in (mapped, mapped[:, ::2], mapped.T, records, np.array([[1, 2], [3, 4]]).view(np.matrix)):
        gio.save(path, array)
        assert_same(np.load(path), np.asarray(array))


def test_a_masked_array_is_refused(quick_dir: Path) -> None:
    with pytest.raises(TypeError, match="mask"):
        gio.save(quick_dir / "a.npy", np.ma.masked_array([1, 2], [True, False]))
    assert names_in(quick_dir) == []


def test_an_array_mapped_from_the_file_it_is_saved_to(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    array = filled((300, 1000), "<f8")
    gio.save(path, array)
    if ON_WINDOWS:  # where nothing replaces a file that is mapped
        mapped = np.load(path, mmap_mode="r")
        with pytest.raises(OSError, match=re.escape(repr(str(path)))):
            gio.save(path, mapped[::-1])
        assert_same(mapped, array)
        assert names_in(disk_dir) == ["a.npy"]
        return
    gio.save(path, np.load(path, mmap_mode="r")[::-1])
    assert_same(np.load(path), array[::-1])


OBJECT_DTYPES: list[Any] = [
    "O",
    [("a", "O")],
    [("a", "<i4"), ("b", [("c", "O", (2,))])],
]


@pytest.mark.parametrize("dtype", OBJECT_DTYPES, ids=str)
def test_python_objects_are_not_saved(dtype: Any, quick_dir: Path) -> None:
    with pytest.raises(ValueError, match="Python objects.*pickle"):
        gio.save(quick_dir / "a.npy", np.zeros(3, dtype))
    assert names_in(quick_dir) == []


def test_variable_width_strings_are_not_saved(quick_dir: Path) -> None:
    if not hasattr(np.dtypes, "StringDType"):
        return  # numpy 1 has none
    with pytest.raises(ValueError, match="Python objects"):
        gio.save(quick_dir / "a.npy", np.array(["a", "b"], np.dtypes.StringDType()))


def test_fields_that_no_header_can_describe_are_not_saved(quick_dir: Path) -> None:
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 2]})
    with pytest.raises(ValueError, match="header can't describe"):
        gio.save(quick_dir / "a.npy", np.zeros(3, overlapping))
    assert names_in(quick_dir) == []


def test_metadata_of_a_dtype_is_dropped_with_numpys_warning(quick_dir: Path) -> None:
    array = np.zeros(3, np.dtype("<f4", metadata={"unit": "m"}))
    with pytest.warns(UserWarning, match="metadata"):
        gio.save(quick_dir / "a.npy", array)
    assert_same(np.load(quick_dir / "a.npy"), np.zeros(3, "<f4"))


# --- long headers ---


def wide_dtype(text_bytes: int) -> np.dtype[Any]:
    """A dtype with which the header's text has about `text_bytes`."""
    return np.dtype([(f"field_{i:05}", "<f4") for i in range((text_bytes - 60) // 24)])


@pytest.mark.parametrize(
    ("text_bytes", "data_offset"), [(3000, 4096), (4000, 4096), (4200, 8192), (8100, 8192), (9000, None)]
)
def test_the_header_takes_as_many_pages_as_it_needs(text_bytes: int, data_offset: int | None, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    array = filled((3,), wide_dtype(text_bytes))
    gio.save(path, array)
    offset = data_offset_of(path)
    assert offset == data_offset if data_offset else offset % 64 == 0
    assert_same(np.load(path), array)  # below numpy's bound without being asked to
    assert_same(np.load(path, mmap_mode="r"), array)
    assert_same(gio.load(path), array)


@pytest.mark.parametrize(
    ("nbytes", "data_offset"),
    [(4095, 4096), (4096, 4096), (4097, 8192), (8191, 8192), (8192, 8192), (8193, 8256)],
)
def test_a_header_that_ends_with_a_page(nbytes: int, data_offset: int, quick_dir: Path) -> None:
    """`nbytes` of it before any padding, the newline at its end included."""
    path = quick_dir / "a.npy"
    base = wide_dtype(nbytes - 100).descr
    gio.save(path, np.zeros(3, [*base, ("x", "u1")]))
    unpadded = 10 + len(header_text(path)) + 1
    array = filled((3,), [*base, ("x" * (1 + nbytes - unpadded), "u1")])
    gio.save(path, array)
    assert 10 + len(header_text(path)) + 1 == nbytes
    assert data_offset_of(path) == data_offset
    assert path.stat().st_size == data_offset + array.nbytes
    assert_same(np.load(path), array)
    assert_same(gio.load(path), array)
    out = np.zeros_like(array)
    gio.load(path, out=out)
    assert_same(out, array)
    path.write_bytes(path.read_bytes()[: data_offset - 1])
    with pytest.raises(ValueError, match="truncated"):
        gio.load(path)


def test_padding_never_pushes_a_header_over_numpys_bound(quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    base = wide_dtype(9900)
    lengths = []
    for name_length in range(1, 140):
        array = np.zeros(1, np.dtype([*base.descr, ("x" * name_length, "u1")]))
        gio.save(path, array)
        (length,) = struct.unpack("<H", path.read_bytes()[8:10])
        lengths.append(length)
        if len(header_text(path)) < 10_000:
            assert_same(np.load(path), array)
    assert min(lengths) < 10_000 and 10_000 in lengths and max(lengths) > 10_000


@pytest.mark.filterwarnings("ignore:Stored array in format")
@pytest.mark.parametrize("text_bytes", [20_000, 65_400, 65_500, 65_600, 200_000])
def test_very_long_headers(text_bytes: int, quick_dir: Path) -> None:
    ours, theirs = quick_dir / "ours.npy", quick_dir / "theirs.npy"
    array = filled((2,), wide_dtype(text_bytes))
    gio.save(ours, array)
    np.save(theirs, array)
    for path in (ours, theirs):
        assert_same(np.load(path, max_header_size=MIB), array)
        assert_same(gio.load(path), array)
    assert ours.read_bytes()[6] == (1 if text_bytes < 65_450 else 2)


def test_a_header_that_load_would_refuse_is_not_written(quick_dir: Path) -> None:
    with pytest.raises(ValueError, match="header"):
        gio.save(quick_dir / "a.npy", np.zeros(1, wide_dtype(1_100_000)))
    assert names_in(quick_dir) == []


@pytest.mark.parametrize(("name", "version"), [("a", 1), ("é", 1), ("ÿ", 1), ("Ā", 3), ("温", 3)])
def test_the_version_is_the_oldest_that_takes_the_names(name: str, version: int, quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    array = np.zeros(2, [(name, "<i4")])
    gio.save(path, array)
    assert path.read_bytes()[6] == version
    assert_same(np.load(path), array)
    assert_same(gio.load(path), array)


# --- out= ---


@pytest.fixture
def saved(quick_dir: Path) -> Path:
    path = quick_dir / "saved.npy"
    np.save(path, np.arange(12, dtype="<i4").reshape(3, 4))
    return path


def test_out_is_filled_and_returned(saved: Path, quick_dir: Path) -> None:
    mapped = np.memmap(quick_dir / "raw", "<i4", "w+", shape=(3, 4))
    for out in (np.empty((3, 4), "<i4"), gio.empty((3, 4), "<i4"), mapped):
        assert gio.load(saved, out) is out
        assert_same(out, np.load(saved))
    assert gio.load(saved, out=out) is out


def test_out_in_fortran_order(quick_dir: Path) -> None:
    path = quick_dir / "f.npy"
    array = np.asfortranarray(np.arange(12).reshape(3, 4))
    gio.save(path, array)
    out = np.empty((3, 4), array.dtype, order="F")
    assert gio.load(path, out) is out
    assert_same(out, array)
    with pytest.raises(ValueError, match=r"Fortran.*f\.npy"):
        gio.load(path, np.empty((3, 4), array.dtype))


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        (np.empty((4, 3), "<i4"), r"shape \(4, 3\).*\(3, 4\)"),
        (np.empty(12, "<i4"), "shape"),
        (np.empty((1, 3, 4), "<i4"), "shape"),
        (np.empty((3, 4), ">i4"), "dtype >i4.*int32"),
        (np.empty((3, 4), "<f4"), "dtype"),
        (np.empty((3, 4), "<u4"), "dtype"),
        (np.empty((3, 4), "<i4", order="F"), "not C-contiguous"),
        (np.empty((3, 8), "<i4")[:, ::2], "not C-contiguous"),
        (np.broadcast_to(np.int32(0), (3, 4)), "not C-contiguous"),
        (np.frombuffer(bytes(48), "<i4").reshape(3, 4), "read-only"),
    ],
)
def test_out_that_does_not_fit(out: Array, complaint: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        gio.load(saved, out)


def test_out_that_is_no_array(saved: Path) -> None:
    with pytest.raises(TypeError, match="ndarray"):
        gio.load(saved, bytearray(48))  # type: ignore[arg-type]


# --- progress ---


class Calls(list[tuple[int, int]]):
    """Notes what it is called with, and by whom; raises at the call it is told to."""

    def __init__(self, raise_at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.raise_at, self.error = raise_at, error

    def __call__(self, done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.append((done, total))
        if len(self) - 1 == self.raise_at and self.error is not None:
            raise self.error

    def __bool__(self) -> bool:
        return False  # it is a callable all the same

    def assert_kept(self, total: int) -> None:
        assert all(type(number) is int for call in self for number in call)
        done = [call[0] for call in self]
        assert done == sorted(done) and min(done) >= 0
        assert {call[1] for call in self} == {total}
        assert done[-1] == total


LAYOUTS = {
    "C": lambda: filled((300, 1000), "<f4"),
    "fortran": lambda: filled((300, 1000), "<f4").T,
    "strided": lambda: filled((300, 1000), "<f4")[:, ::2],
    "small": lambda: filled((3,), "u1"),
    "0-d": lambda: filled((), "<f8"),
    "empty": lambda: filled((0, 5), "<f8"),
    "no bytes": lambda: filled((5,), "V0"),
}


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_progress(layout: str, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    array = LAYOUTS[layout]()
    saved, loaded, loaded_out = Calls(), Calls(), Calls()
    gio.save(path, array, progress=saved)
    result = gio.load(path, progress=loaded)
    assert_same(result, array)
    gio.load(path, result, progress=loaded_out)
    for calls in (saved, loaded, loaded_out):
        calls.assert_kept(array.nbytes)
        assert len(calls) > 5 if array.nbytes > MIB / 2 else len(calls) == 1


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("error", [ValueError("enough"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("layout", ["C", "fortran", "strided", "small", "empty"])
def test_a_callback_that_raises_ends_the_save(layout: str, error: BaseException, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    old = np.arange(5)
    gio.save(path, old)
    array = LAYOUTS[layout]()
    every = Calls()
    gio.save(disk_dir / "b.npy", array, progress=every)
    for call in range(len(every)):  # up to the last: the old file stays until all is well
        with pytest.raises(type(error)) as caught:
            gio.save(path, array, progress=Calls(call, error))
        assert caught.value is error
        assert names_in(disk_dir) == ["a.npy", "b.npy"]
        assert_same(np.load(path), old)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("with_out", [False, True])
def test_a_callback_that_raises_ends_the_load(with_out: bool, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    array = LAYOUTS["C"]()
    gio.save(path, array)
    out = np.empty_like(array) if with_out else None
    for call in (0, 1, 7):
        with pytest.raises(KeyboardInterrupt):
            gio.load(path, out, progress=Calls(call, KeyboardInterrupt()))
    assert_same(gio.load(path, out), array)


@pytest.mark.usefixtures("small_steps")
def test_the_old_file_stands_until_the_end(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    old, new = filled((1000,), "<f8"), LAYOUTS["C"]()
    gio.save(path, old)
    gio.save(path, new, progress=lambda done, total: assert_same(np.load(path), old))
    assert_same(np.load(path), new)


@pytest.mark.usefixtures("small_steps")
def test_a_bar(disk_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gio.save(disk_dir / "a.npy", LAYOUTS["C"](), progress=True)
    gio.load(disk_dir / "a.npy", progress=True)
    shown = capsys.readouterr().err
    assert shown.count("100%") >= 2 and "a.npy" in shown


def test_a_bar_without_tqdm(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install gatherio\[progress\]"):
        gio.save(disk_dir / "a.npy", [1, 2], progress=True)
    with pytest.raises(TypeError, match="progress"):
        gio.save(disk_dir / "a.npy", [1, 2], progress=5)  # type: ignore[arg-type]
    assert names_in(disk_dir) == []
    gio.save(disk_dir / "a.npy", [1, 2], progress=False)


# --- the file and its name ---


def test_the_name_is_taken_as_it_is(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(disk_dir)
    longest = "x" * 255
    strange = "длинный \U0001f39e" if ON_WINDOWS else os.fsdecode(b"not utf-8 \xff\n")
    for path in ("plain", b"bytes", Path("path"), Path("a.txt").absolute(), longest, strange, "./-"):
        gio.save(path, [1, 2, 3])
        assert_same(gio.load(path), np.array([1, 2, 3]))
    assert names_in(disk_dir) == sorted(["plain", "bytes", "path", "a.txt", longest, strange, "-"])
    no_name: Any
    for no_name in (None, 5, 2.5):
        with pytest.raises(TypeError):
            gio.save(no_name, [1])
        with pytest.raises(TypeError):
            gio.load(no_name)


@not_under_wine("it has no symbolic links")
def test_a_symbolic_link_stays_and_what_it_points_at_is_replaced(disk_dir: Path) -> None:
    (disk_dir / "real").mkdir()
    target, link = disk_dir / "real" / "a.npy", disk_dir / "link.npy"
    link.symlink_to(Path("real", "a.npy"))
    for array in (np.arange(3), np.arange(4)):  # the link dangles at first
        gio.save(link, array)
        assert link.is_symlink() and not target.is_symlink()
        assert_same(np.load(target), array)
        assert_same(gio.load(link), array)
    assert names_in(disk_dir) == ["link.npy", "real"] and names_in(disk_dir / "real") == ["a.npy"]


@not_under_wine("it has no symbolic links")
def test_a_loop_of_links(disk_dir: Path) -> None:
    (disk_dir / "a").symlink_to("b")
    (disk_dir / "b").symlink_to("a")
    for call in (lambda: gio.save(disk_dir / "a", [1]), lambda: gio.load(disk_dir / "a")):
        with pytest.raises(OSError) as caught:
            call()
        if sys.platform == "win32":
            assert caught.value.winerror == 1921  # ERROR_CANT_RESOLVE_FILENAME
        else:
            assert caught.value.errno == errno.ELOOP


def test_hard_links_keep_the_old_content(disk_dir: Path) -> None:
    path, other = disk_dir / "a.npy", disk_dir / "b.npy"
    gio.save(path, [1])
    other.hardlink_to(path)
    gio.save(path, [2])
    assert np.load(other) == [1] and np.load(path) == [2]


def test_only_regular_files_are_replaced(disk_dir: Path) -> None:
    with fifo(disk_dir) as pipe:
        with pytest.raises(ValueError, match="no regular file"):
            gio.save(pipe, [1])
        assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    before = names_in(disk_dir)
    with pytest.raises(ValueError, match="no regular file"):
        gio.save(os.devnull, [1])
    with pytest.raises(IsADirectoryError) as caught:
        gio.save(disk_dir, [1])
    assert caught.value.filename == str(disk_dir)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert names_in(disk_dir) == before


def test_a_missing_folder(disk_dir: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        gio.save(disk_dir / "none" / "a.npy", [1])
    assert caught.value.filename == str(disk_dir / "none" / "a.npy")


@pytest.fixture
def umask() -> Iterator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_a_new_file_has_the_mode_of_any_new_file(mask: int, disk_dir: Path, umask: Callable[[int], object]) -> None:
    umask(mask)
    (disk_dir / "plain").touch()
    gio.save(disk_dir / "a.npy", [1])
    assert (disk_dir / "a.npy").stat().st_mode == (disk_dir / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o666] if ON_WINDOWS else [0o600, 0o640, 0o644, 0o666, 0o755])
def test_a_replaced_file_keeps_its_mode(mode: int, disk_dir: Path, umask: Callable[[int], object]) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, [1])
    path.chmod(mode)
    seen = []

    def look(done: int, total: int) -> None:
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in disk_dir.iterdir())

    gio.save(path, [1, 2], progress=look)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert set(seen) == {mode}  # it was never open to more people than the old one


@contextlib.contextmanager
def as_a_plain_user(folder: Path) -> Iterator[None]:
    """Root may do anything: be someone else for a while."""
    nobody = 65534
    if ON_WINDOWS or os.geteuid() != 0:
        yield
        return
    os.chown(folder, nobody, -1)
    for path in folder.iterdir():
        os.chown(path, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_write_protected_file_is_left_alone(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, [1])
    path.chmod(0o444)
    with as_a_plain_user(disk_dir):
        with pytest.raises(PermissionError) as caught:
            gio.save(path, [2])
        assert caught.value.filename == str(path)
    assert np.load(path) == [1] and names_in(disk_dir) == ["a.npy"]


@not_on_windows("it has no modes of folders")
def test_a_write_protected_folder(disk_dir: Path) -> None:
    """See test_replace.py for what else stands in the way of another file."""
    path = disk_dir / "a.npy"
    gio.save(path, [1])
    path.chmod(0o666)
    disk_dir.chmod(0o555)
    try:
        with as_a_plain_user(disk_dir):
            with pytest.warns(gio.InPlaceWarning):
                gio.save(path, [2])
            with pytest.raises(PermissionError) as caught:
                gio.save(disk_dir / "b.npy", [2])
            assert caught.value.filename == str(disk_dir / "b.npy")  # not some name that nobody has heard of
    finally:
        disk_dir.chmod(0o755)
    assert np.load(path) == [2] and names_in(disk_dir) == ["a.npy"]


@not_on_windows("it has no chown")
def test_the_owner_stays_where_that_is_allowed(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, [1])
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    gio.save(path, [2])
    after = path.stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_durable_flushes_the_file_before_and_the_folder_after_the_renaming(
    disk_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    flush, replace, link, fsync = gio.File.flush, os.replace, os.link, os.fsync

    def note(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            events.append(event)
            return function(*args, **options)

        return noted

    def folder_fsync(descriptor: int) -> None:
        assert os.path.samefile(f"/proc/self/fd/{descriptor}", disk_dir)
        events.append("folder")
        fsync(descriptor)

    monkeypatch.setattr(gio.File, "flush", note("flush", flush))
    monkeypatch.setattr(os, "replace", note("replace", replace))
    monkeypatch.setattr(os, "link", note("link", link))
    monkeypatch.setattr(os, "fsync", folder_fsync)
    gio.save(disk_dir / "a.npy", np.arange(5000), durable=True)
    if not ON_WINDOWS:  # a new file may be given its name by a link
        assert events in (["flush", "link", "folder"], ["flush", "replace", "folder"])
    events.clear()
    gio.save(disk_dir / "a.npy", np.arange(5000), durable=True)
    kept = [event for event in events if event != "link"]
    assert kept == (["flush", "replace"] if ON_WINDOWS else ["flush", "replace", "folder"])
    events.clear()
    gio.save(disk_dir / "a.npy", np.arange(5000))
    assert [event for event in events if event != "link"] == ["replace"]


def test_a_file_that_somebody_looks_at_is_replaced(disk_dir: Path) -> None:
    """On Windows as soon as it is closed; see also the test with one that is mapped."""
    path = disk_dir / "a.npy"
    gio.save(path, [1])
    with open(path, "rb") as plain:
        closing = threading.Timer(0.2, plain.close)
        closing.start()
        gio.save(path, [2])
        closing.join()
    assert np.load(path) == [2]
    assert names_in(disk_dir) == ["a.npy"]


def test_two_threads_save_under_one_name(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    errors: list[BaseException] = []

    def load() -> Array:
        while True:
            try:
                return gio.load(path)
            except PermissionError:  # Windows lets nobody open a file that is just being renamed
                if not ON_WINDOWS:
                    raise

    def save_often(value: int) -> None:
        try:
            for _ in range(20):
                gio.save(path, np.full(100_000, value))
                assert len(set(load().tolist())) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save_often, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and names_in(disk_dir) == ["a.npy"]


# --- disasters ---

KILLED_SAVE = """
import os, sys
import numpy as np, gatherio as gio
from gatherio._formats import npy

npy.PIECE = npy.BUFFER_BYTES = 1 << 20
npy.BLOCK_BYTES = 1 << 17
path, layout, when = sys.argv[1], sys.argv[2], float(sys.argv[3])
array = np.ones((1024, 2048))
array = {"C": array, "fortran": array.T, "strided": array[:, ::2]}[layout]

def kill(done, total):
    if done >= when * total:
        os.kill(os.getpid(), 9)  # SIGKILL; on Windows the exit code

gio.save(path, array, durable=True, progress=kill)
"""


@pytest.mark.parametrize("when", [0, 0.5, 1])
@pytest.mark.parametrize("layout", ["C", "fortran", "strided"])
def test_a_killed_save_leaves_the_old_file_whole(layout: str, when: float, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    old = filled((1000, 1000), "<f4")
    gio.save(path, old)
    raw = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SAVE, str(path), layout, str(when)], capture_output=True, text=True
    )
    assert done.returncode == (9 if ON_WINDOWS else -signal.SIGKILL), done.stderr
    assert path.read_bytes() == raw
    assert_same(gio.load(path), old)
    left = set(names_in(disk_dir)) - {"a.npy"}  # on Linux where every file has to have a name
    assert len(left) <= 1 and all(name.startswith(".gatherio-") and name.endswith(".tmp") for name in left)
    gio.save(path, [1])  # and the next save is not in its way
    assert np.load(path) == [1]
    assert ON_WINDOWS or names_in(disk_dir) == ["a.npy"]


@pytest.mark.parametrize("reserved", [True, False], ids=["noticed at once", "noticed on the way"])
@pytest.mark.parametrize("layout", ["C", "strided"])
def test_a_full_disk(layout: str, reserved: bool, small_disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_disk_dir / "a.npy"
    old = filled((1000,), "<f4")
    gio.save(path, old)
    array = np.ones((1024, 16384))
    if not reserved:
        monkeypatch.setattr(gio.File, "preallocate", lambda self, nbytes: None)
    with pytest.raises(OSError) as caught:
        gio.save(path, array if layout == "C" else array[:, ::2])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path) and str(path) in str(caught.value)
    assert names_in(small_disk_dir) == ["a.npy"]
    assert_same(np.load(path), old)
    gio.save(path, np.ones(1_000_000))  # the room is there again


MEASURED = """
import sys
import numpy as np, gatherio as gio
from this_process import peak_resident

path, what = sys.argv[1:]
rows = 32768
before = peak_resident()
if what == "load":
    array = gio.load(path)
elif what == "load watched":
    array = gio.load(path, progress=lambda done, total: None)
else:
    if what == "strided":
        array = np.ones((rows, 2048))[:, :-1]
    elif what == "aligned":
        array = gio.full((rows, 2048), 1.0)
    else:
        array = np.ones((rows, 2048), order="F" if what == "fortran" else "C")
    gio.save(path, array, progress=(lambda done, total: None) if what == "watched" else None)
held = array.nbytes if array.base is None else rows * 2048 * 8
print((peak_resident() - before - held) / 2**20)
"""


@pytest.mark.parametrize("what", ["ordinary", "aligned", "fortran", "strided", "watched", "load", "load watched"])
def test_peak_memory_is_the_array_and_64_mib(what: str, disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    if what.startswith("load"):
        gio.save(path, np.ones((32768, 2048)))
    assert float(run_python(MEASURED, path, what)) < 64


def test_descriptors_and_memory_maps_are_given_back(disk_dir: Path) -> None:
    def maps() -> int:
        return 0 if ON_WINDOWS else len(Path("/proc/self/maps").read_text().splitlines())

    path = disk_dir / "a.npy"

    def rounds(count: int) -> None:
        for _ in range(count):
            gio.save(path, np.ones((100, 100))[:, ::2], durable=True)
            gio.load(path)
            with contextlib.suppress(ValueError):
                gio.load(path, np.empty(3))
            with contextlib.suppress(TypeError):
                gio.save(path, [1], progress=5)  # type: ignore[arg-type]

    rounds(5)
    handles, maps_before, virtual_before = handle_count(), maps(), virtual()
    rounds(100)
    assert comes_down(handle_count, handles)
    assert maps() < maps_before + 20
    assert virtual() < virtual_before + 16 * MIB


def test_the_text_of_a_header_is_a_literal(quick_dir: Path) -> None:
    gio.save(quick_dir / "a.npy", np.zeros((2, 3), "<f4"))
    assert ast.literal_eval(header_text(quick_dir / "a.npy")) == {
        "descr": "<f4",
        "fortran_order": False,
        "shape": (2, 3),
    }
    assert (quick_dir / "a.npy").read_bytes()[4095:4097] == b"\n\0"
