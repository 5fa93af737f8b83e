"""gio.load of what others wrote, and of what nobody should have written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from npy_oracle import assert_same, filled, npy_bytes

import gatherio as gio

MIB = 1 << 20


# --- files that others wrote ---


GOOD = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }"
GOOD_DATA = np.arange(3, dtype="<i4")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n",
        GOOD + " " * 50 + "\n",
        "{'shape':(3,),'fortran_order':False,'descr':'<i4'}",
        '{"descr": "<i4", "fortran_order": False, "shape": (3,)}',
        "  " + GOOD,
        " \n\r\n" + GOOD,
        "{'descr': u'<i4', 'fortran_order': False,\n 'shape': (3,)}\n",
        "{'descr': '\\x3ci4', 'fortran_order': False, 'shape': (3 ,) }",
        "{'descr': ('<i4'), 'fortran_order': False, 'shape': (3,), }",
        "{'descr': U'<i4', 'fortran_order': False, 'shape': ( 3 , ) ,\n}",
        "{'descr': 'int32', 'fortran_order': False, 'shape': (3,)} \t\n  \n\r\n",
        r"{'descr': '\u003ci\064', 'fort\x72an_order': False, 'shape': (3,)}",
        '\t{\t"shape"\t:\t(\t3\t,\t)\t,\t"fortran_order"\t:\tFalse\t,\t"descr"\t:\t"<i4"\t}\t',
    ],
)
def test_headers_as_others_write_them(text: str, version: tuple[int, int], quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    path.write_bytes(npy_bytes(text, version) + GOOD_DATA.tobytes())
    assert_same(np.load(path), GOOD_DATA)
    assert_same(gio.load(path), GOOD_DATA)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("end", ["\n" + " " * 50, "\n\n\t", " \r\n  \n  "])
def test_spaces_behind_the_newline(end: str, version: tuple[int, int], quick_dir: Path) -> None:
    """As some read the format: "terminated by a newline and padded with spaces". numpy takes them up to version 2.0."""
    path = quick_dir / "a.npy"
    path.write_bytes(npy_bytes(GOOD + end, version) + GOOD_DATA.tobytes())
    for load in (np.load, gio.load):
        if version < (3, 0):
            assert_same(load(path), GOOD_DATA)
        else:
            with pytest.raises(ValueError, match="header"):
                load(path)


@pytest.mark.parametrize(
    "descr",
    [
        "[('a', '<i4')]",
        "[ ( 'a' , '<i4' , ) , ]",
        "[('a', '<i2', 2)]",
        "[('a', '<i2', (2,)), ]",
        "[('a', '<i2', (2, 1, ), ), ]",
        "[('a', ('<i2', (2,)))]",
        "[('a', [('b', '<i2'), ('c', '<i2')], ()), ]",
        "[('a', ([('b', '<i2', (2, 1))]))]",
        "[('', '|V1'), ('a', 'u1'), ('', '|V2')]",
        "[((u'title', u'a'), '<i4')]",
        "[((None, 'a'), '<i4')]",
        r"[((b'ti\x74le\'\377', 'a'), '<i4')]",
        "[((17, 'a'), '<i2'), ((0, 'b'), '<i2')]",
        "[((17, 'a'), '<i2'), ((17, 'b'), '<i2')]",
        "[((b't', 'a'), '<i2'), ((b't', 'b'), '<i2')]",
        "[((True, 'a'), '<i2'), ((False, 'b'), '<i2')]",
        "[(('title' , 'a' , ) , [('b', '<M8'  , (0,)), ('c', '|S4')])]",
        "[('a', [('a', [('a', '<U1')])])]",
        r"[('it\'s \\', 'S1'), ('\x00\377\n', '?'), ('\ud800', 'b'), ('\\N{DIGIT ONE}', 'B')]",
        "[('a', []), ('b', '=f'), ('c', '|V0')]",
        "[('a', 'half'), ('b', 'uint16')]",
    ],
)
def test_fields_as_others_write_them(descr: str, quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    path.write_bytes(npy_bytes(with_shape("(3,)", descr)) + GOOD_DATA.tobytes())
    expected = np.load(path)
    loaded = gio.load(path)
    assert_same(loaded, expected)
    assert loaded.dtype.descr == expected.dtype.descr


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_the_long_numbers_of_python_2(version: tuple[int, int], quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    text = "{'descr': [('5L', '<i4', (1L,))], 'fortran_order': False, 'shape': (3L, 1L), }"
    path.write_bytes(npy_bytes(text, version) + GOOD_DATA.tobytes())
    with pytest.warns(UserWarning, match="Python 2"):
        expected = np.load(path)
    assert_same(gio.load(path), expected)


def test_there_are_no_long_numbers_in_version_3(quick_dir: Path) -> None:
    (quick_dir / "a.npy").write_bytes(npy_bytes(GOOD.replace("3", "3L"), (3, 0)) + GOOD_DATA.tobytes())
    with pytest.raises(ValueError, match=r"a\.npy.*Python 2"):
        gio.load(quick_dir / "a.npy")


OFFSETS = [67, 68, 127, 128, 511, 512, 513, 1024, 4095, 4096, 4097, 8191, 12_288, 65_537]


@pytest.mark.parametrize("data_offset", OFFSETS)
def test_data_at_any_offset(data_offset: int, folder: Path) -> None:
    path = folder / "a.npy"
    array = filled((1_000_003,), "u1")
    text = f"{{'descr':'|u1','fortran_order':False,'shape':({array.size},)}}"
    version = (1, 0) if data_offset < 60_000 else (2, 0)
    start = len(npy_bytes("", version))
    path.write_bytes(npy_bytes(text.ljust(data_offset - start), version) + array.tobytes() + b"and more")
    loaded = gio.load(path)
    assert_same(loaded, array)
    # On a page, or where it need not be copied: as far behind one as in the file.
    place = loaded.__array_interface__["data"][0] % 4096
    assert place in ({0} if data_offset % 16 else {0, data_offset % 4096, data_offset % 512})
    for shift in (0, 1, 512):
        out = gio.empty(array.size + shift, np.uint8)[shift:]
        gio.load(path, out)
        assert_same(out, array)


# --- files that nobody should have written ---


def with_shape(shape: str, descr: str = "'<i4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


HOSTILE_TEXTS = {
    "empty": "",
    "blank": " \n",
    "no dict": "[1, 2]",
    "a set": "{'descr', 'fortran_order', 'shape'}",
    "a number": "5",
    "a string": "'descr'",
    "two dicts": GOOD + GOOD,
    "a list of dicts": f"[{GOOD}, {GOOD}]",
    "a dict called": GOOD + "()",
    "a dict subscripted": GOOD + "['shape']",
    "code": "__import__('os').abort()",
    "a comment": GOOD + " # comment",
    "an expression": with_shape("(1+2,)"),
    "a negative length": with_shape("(-1,)"),
    "a negative product": with_shape("(-1, -3)"),
    "a float length": with_shape("(3.0,)"),
    "an exponent": with_shape("(1e3,)"),
    "a bool length": with_shape("(True, 3)"),
    "a string length": with_shape("('3',)"),
    "a hex length": with_shape("(0x3,)"),
    "an underscore": with_shape("(1_0,)"),
    "an octal length": with_shape("(010,)"),
    "a list for a shape": with_shape("[3]"),
    "a number for a shape": with_shape("3"),
    "None for a shape": with_shape("None"),
    "a huge length": with_shape("(1000000000000,)"),
    "a length beyond 63 bits": with_shape("(9223372036854775808,)"),
    "a length beyond 64 bits": with_shape("(99999999999999999999,)"),
    "a length of many digits": with_shape("(" + "9" * 5000 + ",)"),
    "a product that wraps to 0": with_shape("(4294967296, 4294967296)"),
    "a product that wraps to 3": with_shape("(12297829382473034411, 9)", "'|u1'"),
    "nothing, and a huge length": with_shape("(0, 4611686018427387904, 4)"),
    "nothing, and a length beyond 64 bits": with_shape("(0, 99999999999999999999)"),
    "items of no bytes, too many": with_shape("(99999999999999999999,)", "'|V0'"),
    "too many dimensions": with_shape("(" + "1," * 65 + ")"),
    "very many dimensions": with_shape("(" + "99999999999999999999," * 3000 + ")"),
    "no keys": "{}",
    "a missing key": "{'descr': '<i4', 'shape': (3,)}",
    "an extra key": GOOD[:-1] + "'more': 1}",
    "a key of another type": GOOD[:-1] + "1: 1}",
    "an unhashable key": "{[]: 1}",
    "an unhashable key deep down": "{{}: {[]: 1}}",
    "fortran_order 0": GOOD.replace("False", "0"),
    "fortran_order None": GOOD.replace("False", "None"),
    "fortran_order 'C'": GOOD.replace("False", "'C'"),
    "object": with_shape("(3,)", "'|O'"),
    "object in a field": with_shape("(3,)", "[('a', '<i4'), ('b', '|O')]"),
    "object deep down": with_shape("(3,)", "[('a', [('b', [('c', '|O', (2,))])])]"),
    "object in a list of types": with_shape("(3,)", "'i4,O'"),
    "objects, and none of them": with_shape("(0,)", "'|O'"),
    "an unknown type": with_shape("(3,)", "'nonsense'"),
    "no type": with_shape("(3,)", "''"),
    "a number for a type": with_shape("(3,)", "5"),
    "a dict for a type": with_shape("(3,)", "{'names': ['a'], 'formats': ['<i4']}"),
    "a tuple for a type": with_shape("(3,)", "()"),
    "a type with a shape": with_shape("(3,)", "('<i4', (2,))"),
    "a type with a shape, in a string": with_shape("(3,)", "'(2,)<i4'"),
    "a type with a huge shape": with_shape("(3,)", "[('a', '<i4', (2147483647, 2147483647))]"),
    "a type with a negative shape": with_shape("(3,)", "[('a', '<i4', (-1,))]"),
    "a type of 2 GiB": with_shape("(3,)", "'|V2147483648'"),
    "fields of 2 GiB": with_shape("(3,)", "[('a', '|V2147483648'), ('b', '<i8')]"),
    "fields of 4 GiB": with_shape("(3,)", "[('a','|V2147483647'), ('b','|V2147483647'), ('c','|V9')]"),
    "a type beyond 64 bits": with_shape("(3,)", "'|V99999999999999999999'"),
    "a field twice": with_shape("(3,)", "[('a', '<i4'), ('a', '<i4')]"),
    "a field and a title of one name": with_shape("(3,)", "[(('a', 'b'), '<i4'), ('a', '<i4')]"),
    "a key twice": GOOD[:-1] + "'shape': (2,)}",
    "a list of types in a string": with_shape("(1,)", "'i4,i4'"),
    "a list of one type in a string": with_shape("(3,)", "'<i4,'"),
    "a list of types in a field": with_shape("(1,)", "[('a', 'i4,i4')]"),
    "a shape in a field's string": with_shape("(1,)", "[('a', '2i4')]"),
    "a size modulo 2**32": with_shape("(3,)", "'|S4294967300'"),
    "a number of characters modulo 2**30": with_shape("(3,)", "'<U1073741825'"),
    "a size with a sign": with_shape("(3,)", "'|V+4'"),
    "a time of no length": with_shape("(1,)", "'<M8[0s]'"),
    "a time with a divisor": with_shape("(1,)", "'<M8[s/2]'"),
    "bytes for a type": with_shape("(3,)", "b'<i4'"),
    "bytes for a name": with_shape("(3,)", "[(b'a', '<i4')]"),
    "bytes for a key": GOOD.replace("'shape'", "b'shape'"),
    "a list for a field": with_shape("(3,)", "[['a', '<i4']]"),
    "a string for a field": with_shape("(3,)", "['ab']"),
    "a name that is a number": with_shape("(3,)", "[(1, '<i4')]"),
    "a title that is a float": with_shape("(3,)", "[((1.5, 'a'), '<i4')]"),
    "a title of bytes beyond ascii": with_shape("(3,)", "[((b'é', 'a'), '<i4')]"),
    "a title of bytes with a character": with_shape("(3,)", r"[((b'\u0041', 'a'), '<i4')]"),
    "a name of three parts": with_shape("(3,)", "[(('a', 'b', 'c'), '<i4')]"),
    "no commas": with_shape("(3,)", "[('a' '<i4')]"),
    "commas only": with_shape("(,)"),
    "a comma too many": with_shape("(3,,)"),
    "a comma before": with_shape("(3,)", "[,('a', '<i4')]"),
    "no comma between fields": with_shape("(3,)", "[('a', '<i2') ('b', '<i2')]"),
    "no comma between keys": GOOD.replace("False,", "False"),
    "spaces in a type": with_shape("(3,)", "' <i4'"),
    "a character by name": with_shape("(3,)", r"[('\N{DIGIT ONE}', '<i4')]"),
    "an escape that is none": with_shape("(3,)", r"[('\d', '<i4')]"),
    "an octal escape beyond a byte": with_shape("(3,)", r"[('\477', '<i4')]"),
    "a character beyond all": with_shape("(3,)", r"[('\U00110000', '<i4')]"),
    "half an escape": with_shape("(3,)", r"[('\x4', '<i4')]"),
    "three quotes": with_shape("(3,)", "'''<i4'''"),
    "a raw string": with_shape("(3,)", "r'<i4'"),
    "brackets around all": f"({GOOD})",
    "a space behind a carriage return": GOOD + "\r ",
    "an indented line": "\n " + GOOD,
    "a field of one part": with_shape("(3,)", "[('a',)]"),
    "a field of four parts": with_shape("(3,)", "[('a', '<i4', 2, 3)]"),
    "a field that is a number": with_shape("(3,)", "[1]"),
    "a field of itself": with_shape("(3,)", "[('a', [('a', [])]), 'b']"),
    "an odd escape": with_shape("(3,)", r"'\N{NO SUCH THING}'"),
    "a lone surrogate": with_shape("(3,)", r"'\ud800'"),
    "an open string": GOOD.replace("'shape'", "'shape"),
    "an open bracket": GOOD[:-1],
    "a bracket too many": GOOD + "}",
    "crossed brackets": with_shape("(3,]"),
    "a null byte": GOOD + "\0",
    "a null byte in a string": GOOD.replace("shape", "sha\0pe"),
    "a form feed": "\f" + GOOD,
    "adjacent strings": GOOD.replace("'<i4'", "'<' 'i4'"),
    "nested in parentheses": "(" * 60_000 + ")" * 3,
    "nested in lists": "[" * 30_000 + "]" * 30_000,
    "nested in dicts": "{1:" * 20_000,
    "nested to Python's bound": "[" * 200 + "]" * 200,
    "nested beyond it": "[" * 201 + "]" * 201,
    "a nested type": with_shape("(3,)", "[('a', " * 90 + "'<i4'" + ")]" * 90),
    "signs": with_shape("(" + "-" * 60_000 + "1,)"),
    "nots": "not " * 15_000 + "1",
    "sums": "1" + "+1" * 30_000,
    "calls": "a" + "()" * 30_000,
    "subscripts": "'a'" + "[0]" * 20_000,
    "attributes": "a" + ".a" * 30_000,
    "lambdas": "lambda:" * 9_000 + "1",
    "strings": "'a' " * 15_000,
    "an f-string": "f'{1+1}'",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS.keys())
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
def test_hostile_headers(text: str, version: tuple[int, int], quick_dir: Path) -> None:
    path = quick_dir / "hostile.npy"
    path.write_bytes(npy_bytes(text, version) + bytes(64))
    if text == HOSTILE_TEXTS["a nested type"]:
        assert gio.load(path).shape == (3,)  # deep, and valid
        return
    with pytest.raises(ValueError, match=r"hostile\.npy") as caught:
        gio.load(path)
    assert len(str(caught.value)) < 1000


HOSTILE_FILES = {
    "no bytes": b"",
    "text": b"hello, world\n",
    "a zip archive": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95",
    "half the magic": b"\x93NUM",
    "magic only": b"\x93NUMPY",
    "half a version": b"\x93NUMPY\x01",
    "no length": b"\x93NUMPY\x01\x00",
    "half a length": b"\x93NUMPY\x01\x00\x76",
    "half a long length": b"\x93NUMPY\x02\x00\x76\x00\x00",
    "version 0.0": npy_bytes(GOOD, (0, 0)),
    "version 1.1": npy_bytes(GOOD, (1, 1)),
    "version 4.0": npy_bytes(GOOD, (4, 0)),
    "version 255.255": npy_bytes(GOOD, (255, 255)),
    "a length beyond the file": npy_bytes(GOOD, length=60_000),
    "a length of 4 GiB": npy_bytes(GOOD, (2, 0), length=0xFFFFFFFF),
    "a length beyond the bound": npy_bytes(GOOD.ljust(2 * MIB), (2, 0)),
    "a length that cuts the text": npy_bytes(GOOD, length=20),
    "no utf-8": npy_bytes(GOOD.encode().replace(b"i4", b"\xff\xfe"), (3, 0)),
    "one byte short": npy_bytes(GOOD) + GOOD_DATA.tobytes()[:-1],
    "no data": npy_bytes(GOOD),
}


@pytest.mark.parametrize("raw", HOSTILE_FILES.values(), ids=HOSTILE_FILES.keys())
def test_files_that_are_none(raw: bytes, quick_dir: Path) -> None:
    (quick_dir / "hostile.npy").write_bytes(raw)
    with pytest.raises(ValueError, match=r"hostile\.npy"):
        gio.load(quick_dir / "hostile.npy")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text("{}[]()',:L0123456789 \n\\'\"TrueFalseudbscrhpN-+.*", max_size=200),
        st.builds(
            lambda cut, insert: GOOD[:cut] + insert + GOOD[cut:],
            st.integers(0, len(GOOD)),
            st.text("{}[]()',:L0\\ -.", max_size=3),
        ),
    ),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
@example(text=GOOD, version=(1, 0))
def test_no_header_is_taken_that_numpy_refuses(text: str, version: tuple[int, int], quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    path.write_bytes(npy_bytes(text, version) + bytes(4096))
    assert loaded_as_numpy_loads(path) or text != GOOD


def loaded_as_numpy_loads(path: Path) -> bool:
    """Whether the file is loaded: then numpy loads it, too, and the same."""
    try:
        loaded = gio.load(path)
    except ValueError:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 2's numbers
        assert_same(loaded, np.load(path))
    return True


def test_random_bytes_never_crash(quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    good = npy_bytes(GOOD.ljust(117) + "\n") + GOOD_DATA.tobytes()
    random = np.random.default_rng(7)
    loaded = 0
    for _ in range(2000):
        raw = bytearray(good)
        positions = random.integers(0, len(raw), random.integers(1, 4))
        for position in positions:
            raw[position] = random.integers(0, 256)
        path.write_bytes(raw)
        is_loaded = loaded_as_numpy_loads(path)
        assert is_loaded or min(positions) < len(good) - GOOD_DATA.nbytes  # any data is as good
        loaded += is_loaded
    assert loaded > 50


@pytest.mark.parametrize("writer", [np.save, gio.save])
def test_a_file_cut_anywhere(writer: Callable[..., None], quick_dir: Path) -> None:
    path = quick_dir / "cut.npy"
    writer(path, np.arange(8))
    whole = path.read_bytes()
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        with pytest.raises(ValueError, match=r"cut\.npy") as caught:
            gio.load(path)
        if length >= 6:
            assert "truncated" in str(caught.value) and str(caught.value).endswith(f"found {length}")


def test_truncated_data_is_told_in_numbers(quick_dir: Path) -> None:
    path = quick_dir / "a.npy"
    gio.save(path, np.zeros(1000, "<f8"))
    os.truncate(path, 4096 + 7999)
    with pytest.raises(ValueError, match=r"truncated.*12096 bytes.*found 12095"):
        gio.load(path)


@pytest.mark.usefixtures("small_steps")
def test_a_file_that_is_cut_while_it_is_read(disk_dir: Path) -> None:
    path = disk_dir / "a.npy"
    gio.save(path, filled((4 * MIB,), "u1"))
    with pytest.raises(ValueError, match="truncated"):
        gio.load(path, progress=lambda done, total: os.truncate(path, 8192))


def test_the_widest_shape_of_no_bytes(quick_dir: Path) -> None:
    (quick_dir / "a.npy").write_bytes(npy_bytes(with_shape("(4611686018427387904,)", "'|V0'")))
    assert gio.load(quick_dir / "a.npy").shape == (1 << 62,)


def test_a_missing_file(quick_dir: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        gio.load(quick_dir / "none.npy")
    assert caught.value.filename == str(quick_dir / "none.npy")
