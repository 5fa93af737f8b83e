"""What stands in the header of a .npy file: read without trust, and written only as it can be read again.

The header is a Python literal, a dict of descr, fortran_order and shape, and it comes from whoever wrote the file.
Python's own parser needs hundreds of bytes and a microsecond for each token, and may run out of stack. So the text is
read here, by the grammar of what numpy writes, and the first thing that is none of it ends the reading::

    header  {'descr': type, 'fortran_order': True or False, 'shape': lengths}     keys in any order, each once
    type    string | [field, ...] | (type) | (type, lengths)
    field   (name, type) | (name, type, lengths)                                  lengths here also a number alone
    name    string | (title, string)                                     title a string, bytes, a number, a bool or None
    lengths (3, 4)                                                                at most 64

Spaces and newlines may stand between any two of them, and a comma behind the last of several. Numbers may have Python
2's L, strings the prefix u and the escapes that `repr` writes. A string that names a type is looked at before numpy
gets it: numpy would also read whole lists of types from it, and dies of a division by 0 on "M8[s/0]".
"""

from __future__ import annotations

import math
import re
import reprlib
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.lib import format as npy_format

Version: TypeAlias = tuple[int, int]

MAGIC = b"\x93NUMPY"
LENGTH_FIELD: dict[Version, str] = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
ENCODING: dict[Version, str] = {(1, 0): "latin1", (2, 0): "latin1", (3, 0): "utf-8"}

# Tens of thousands of fields fit, for which numpy alone needs some 30 ms.
HEADER_MAX = 1 << 20
# As many as fit, with names of two characters, as numpy writes them.
FIELDS_MAX = 1 << 16
# The bound of Python's own parser: numpy reads nothing deeper.
NESTING_MAX = 200
# numpy 2's bound; numpy 1 has 32 and says so itself.
DIMENSIONS_MAX = 64
# In one string. As many as fit into a header that np.load takes; each needs some memory of the regular expression.
ESCAPES_MAX = 5000
# An item's size is a C int.
ITEM_MAX = (1 << 31) - 1


# --- the prefix ---


def prefix_size_of(version: Version) -> int:
    return len(MAGIC) + len(version) + struct.calcsize(LENGTH_FIELD[version])


def parse_prefix(start: bytes, name: str) -> tuple[Version, int, int]:
    """The format's version, the size of what stands before the header's text, and of both together."""
    if not start.startswith(MAGIC):
        hint = ": an .npz archive is for numpy.load" if start.startswith(b"PK") else ""
        raise invalid(name, f"it begins with {start[: len(MAGIC)]!r}, not with {MAGIC!r}{hint}")
    field_start = len(MAGIC) + 2
    if len(start) < field_start:
        raise truncated(name, "header", field_start, len(start))
    version = (start[len(MAGIC)], start[len(MAGIC) + 1])
    if version not in LENGTH_FIELD:
        raise invalid(name, f"its version is {version[0]}.{version[1]}; known are 1.0, 2.0 and 3.0")
    text_start = prefix_size_of(version)
    if len(start) < text_start:
        raise truncated(name, "header", text_start, len(start))
    (length,) = struct.unpack(LENGTH_FIELD[version], start[field_start:text_start])
    if length > HEADER_MAX:
        raise invalid(name, f"its header is said to be {length} bytes long; load reads {HEADER_MAX} at most")
    return version, text_start, text_start + length


# --- the text ---


def parse_fields(raw: bytes, version: Version, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype.

    Raises
    ------
    ValueError
        Of whatever is wrong. It holds nothing of the header but a few words: neither as its cause nor as its context.
    """
    try:
        text = raw.decode(ENCODING[version])
        fields = _Text(text, python2=version < (3, 0)).header()
        shape, fortran_order, dtype = fields["shape"], fields["fortran_order"], _dtype_of(fields["descr"])
        _check_size(shape, dtype)
    except (ValueError, RecursionError) as error:
        wrong = str(error)
    else:
        return shape, fortran_order, dtype
    raise invalid(name, wrong)


_SPACE = r"[ \t\r\n]*"
_NUMBER = r"(?:0{1,20}|[1-9][0-9]{0,19})L?"
_BYTE_ESCAPE = r"[\\'\"abfnrtv]|x[\da-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7])"
_ESCAPE = rf"{_BYTE_ESCAPE}|u[\da-fA-F]{{4}}|U[\da-fA-F]{{8}}"


def _quoted(escape: str, but: str) -> str:
    """A string literal without the characters `but`, and with some escapes."""
    marks = []
    for mark in "'\"":
        plain = rf"[^{mark}\\\r\n\0{but}]*"
        marks.append(rf"{mark}{plain}(?:\\(?:{escape}){plain}){{0,{ESCAPES_MAX}}}{mark}")
    return f"(?:{'|'.join(marks)})"


def _pattern(*parts: str) -> re.Pattern[str]:
    """With spaces between the parts. No two of them can be side by side, so each text is matched in one way at most."""
    return re.compile(_SPACE.join(parts), re.ASCII)


_STRING = "[uU]?" + _quoted(_ESCAPE, but="")
_BYTES = "[bB]" + _quoted(_BYTE_ESCAPE, but=r"\x80-\U0010ffff")
_TITLE = f"None|True|False|{_STRING}|{_BYTES}|{_NUMBER}"
_LENGTHS = _SPACE.join([r"\(", rf"(?:{_NUMBER}{_SPACE},{_SPACE}){{0,{DIMENSIONS_MAX}}}(?:{_NUMBER}{_SPACE})?\)"])
_SHAPE_BEHIND = rf"(?:,{_SPACE}({_LENGTHS}|{_NUMBER}){_SPACE})?"
_FIELD_END = rf"{_SHAPE_BEHIND}(?:,{_SPACE})?\){_SPACE}(?:,|(?=\]))"
_NAME = rf"(?:({_STRING})|\({_SPACE}({_TITLE}){_SPACE},{_SPACE}({_STRING}){_SPACE}(?:,{_SPACE})?\))"

# Python takes lines of spaces around an expression only where they end with a newline. These are tried first: most
# headers end with thousands of spaces and a newline.
OPEN = re.compile(r"(?:[ \t\r\n]*[\r\n]|[ \t]*)\{")
CLOSE = re.compile(rf"{_SPACE}\}}(?:[ \t\r\n]*[\r\n]|[ \t]*)\Z")
# "Terminated by a newline and padded with spaces", says the format, and some pad behind the newline. Of the first two
# versions np.load takes that.
CLOSE_PADDED = re.compile(rf"{_SPACE}\}}(?:[ \t\r\n]*[\r\n]|(?:[ \t\r\n]*\n)?[ \t]*)\Z")
KEY = _pattern("", rf"({_STRING})", ":")
ENTRY_END = _pattern("", r"(?:,|(?=\}))")
TRUTH = _pattern("", "(True|False)")
SHAPE = _pattern("", rf"({_LENGTHS})")
TYPE = _pattern("", rf"({_STRING})")
BRACKET = _pattern("", r"([\[(])")
BRACKET_END = _pattern("", rf"{_SHAPE_BEHIND}\)")
LIST_END = _pattern("", r"\]")
# A field with a type that is a string is matched as a whole, as most of them are such; of others only the beginning.
FIELD = re.compile(rf"{_SPACE}\({_SPACE}{_NAME}{_SPACE},(?:{_SPACE}({_STRING}){_SPACE}{_FIELD_END})?", re.ASCII)
FIELD_END = _pattern("", _FIELD_END)
DIGITS = re.compile("[0-9]+")
_CONSTANTS = {"None": None, "True": True, "False": False}

# Byte order, kind or name, size, unit of time: all that `dtype.str` gives, and the plain names.
TYPE_NAME = re.compile(r"[<>=|]?(\?|[A-Za-z_]{1,20})([0-9]{0,10})(?:\[(?:[1-9][0-9]{0,9})?[A-Za-z]{1,7}\])?", re.ASCII)


class _Text:
    """A header's text, read from its start to its end."""

    def __init__(self, text: str, *, python2: bool) -> None:
        self._text = text
        self._python2 = python2
        self._close = CLOSE_PADDED if python2 else CLOSE
        self._position = 0
        self._field_count = 0
        self._types: dict[str, str] = {}

    def header(self) -> dict[str, Any]:
        values: dict[str, Callable[[], Any]] = {
            "descr": lambda: self.type_at(1),
            "fortran_order": self._truth,
            "shape": self._shape,
        }
        found: dict[str, Any] = {}
        self._expect(OPEN, "a dict")
        while not self._accept(self._close):
            if len(found) == len(values):
                raise self._unexpected("the end")
            key = _unquoted(self._expect(KEY, "a key")[1])
            if key not in values or key in found:
                raise ValueError(
                    f"its header is no dict of descr, fortran_order and shape: it has the key {short(key)}"
                )
            found[key] = values[key]()
            self._expect(ENTRY_END, "a comma or the end")
        if len(found) < len(values):
            raise ValueError(f"its header is no dict of descr, fortran_order and shape: it has {list(found)}")
        return found

    def _truth(self) -> bool:
        return self._expect(TRUTH, "a fortran_order of True or False")[1] == "True"

    def _shape(self) -> tuple[int, ...]:
        text = self._expect(SHAPE, f"a tuple of at most {DIMENSIONS_MAX} lengths as its shape")[1]
        shape = self._lengths(text)
        if len(shape) == 1 and "," not in text:
            raise ValueError(f"its shape is {cut(text)}, no tuple of lengths")
        return shape

    def _lengths(self, text: str) -> tuple[int, ...]:
        """The numbers of a tuple, or one alone, that a pattern has matched."""
        if "L" in text and not self._python2:
            raise ValueError(f"the numbers {cut(text)} are those of Python 2, which wrote no version 3.0")
        lengths = tuple(map(int, DIGITS.findall(text)))
        if len(lengths) > DIMENSIONS_MAX:
            raise ValueError(f"it has {len(lengths)} dimensions")
        return lengths

    def type_at(self, depth: int) -> Any:
        """A type as `numpy.lib.format.descr_to_dtype` takes it, within so many brackets."""
        if depth + 3 > NESTING_MAX:  # a list, a field and its shape
            raise ValueError(f"brackets are nested more than {NESTING_MAX} deep")
        if found := self._accept(TYPE):
            return self._type_name(found[1])
        if self._expect(BRACKET, "a descr that is a type")[1] == "[":
            return self._fields(depth + 1)
        inner = self.type_at(depth + 1)
        shape = self._expect(BRACKET_END, "a shape or the end of the type")[1]
        return inner if shape is None else (inner, self._lengths(shape))

    def _fields(self, depth: int) -> list[tuple[Any, ...]]:
        fields: list[tuple[Any, ...]] = []
        labels: set[str] = set()
        while found := self._accept(FIELD):
            self._field_count += 1
            if self._field_count > FIELDS_MAX:
                raise ValueError(f"it has more than {FIELDS_MAX} fields")
            name, title, titled, kind, shape = found.groups()
            if kind is not None:
                inner = self._type_name(kind)
            else:
                inner = self.type_at(depth + 1)
                shape = self._expect(FIELD_END, "a shape or the end of the field")[1]
            label: Any = _unquoted(name) if name is not None else (self._title(title), _unquoted(titled))
            for one in label if name is None else (label,):
                if not one or not isinstance(one, str):
                    continue  # padding has no name, and by a title that is no string numpy finds no field
                if one in labels:
                    raise ValueError(f"two fields have the name or title {short(one)}")
                labels.add(one)
            fields.append((label, inner) if shape is None else (label, inner, self._lengths(shape)))
        self._expect(LIST_END, "a field or the end of the list")
        return fields

    def _title(self, token: str) -> str | bytes | int | None:
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token[0].isdigit():
            return self._lengths(token)[0]
        return _unquoted(token).encode("latin1") if token[0] in "bB" else _unquoted(token)

    def _type_name(self, token: str) -> str:
        """The string of a type that numpy may see. The same one again, as many fields have it, is known."""
        name = self._types.get(token)
        if name is None:
            name = self._types[token] = _checked_type_name(_unquoted(token))
        return name

    def _accept(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._position)
        if found:
            self._position = found.end()
        return found

    def _expect(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = self._accept(pattern)
        if found is None:
            raise self._unexpected(what)
        return found

    def _unexpected(self, what: str) -> ValueError:
        there = self._text[self._position : self._position + 60]
        return ValueError(f"its header should have {what} at character {self._position}, and there is {there!r}")


def _unquoted(token: str) -> str:
    """The text of a string literal that a pattern has matched."""
    text = token[token.index(token[-1]) + 1 : -1]
    if "\\" not in text:
        return text
    return text.encode("latin1", "backslashreplace").decode("unicode_escape")


def _checked_type_name(name: str) -> str:
    found = TYPE_NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"its descr is no dtype: {short(name)} is no name of one type")
    if int(found[2] or 0) * (4 if found[1] == "U" else 1) > ITEM_MAX:  # numpy 1 would take it modulo 2**32
        raise ValueError(f"its descr is no dtype: items of {name} are larger than 2 GiB")
    return name


# --- the dtype ---


def _dtype_of(descr: Any) -> np.dtype[Any]:
    try:
        dtype = npy_format.descr_to_dtype(descr)
    # Whatever a strange descr makes numpy raise: IndexError, OverflowError, warnings turned into errors.
    except Exception as error:
        raise ValueError(f"its descr is no dtype ({cut(str(error))}): {short(descr)}") from None
    if dtype.hasobject:
        raise ValueError(f"it holds Python objects ({short(descr)}), and load never unpickles")
    if dtype.subdtype is not None:
        raise ValueError(f"its descr is no dtype of an array: {short(descr)}")
    return dtype


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is beyond 63 bits even without its lengths of 0: some of that numpy lets pass, and counts wrongly."""
    if math.prod(length for length in shape if length) * max(dtype.itemsize, 1) > np.iinfo(np.intp).max:
        raise ValueError(f"no array has shape {short(shape)} and items of {dtype.itemsize} bytes")


def descr_of(dtype: np.dtype[Any]) -> Any:
    """What the header says of a dtype, proven to lead back to the same dtype."""
    if dtype.kind == "T":
        raise ValueError(
            f"{dtype} keeps its text outside of the array, as Python objects do: array.astype('U20') has room for 20 "
            "characters in each item, and none elsewhere"
        )
    if dtype.hasobject:
        raise ValueError(f"{dtype} holds Python objects: they would have to be pickled")
    view = _nameable(dtype)
    if view is not dtype:
        spelled = f"np.{view}" if view.kind == "u" else repr(view.str) if view.names is None else str(view)
        raise ValueError(
            f"a .npy header can't describe {dtype}, which is not numpy's own: it would come back as bytes of no type, "
            f"or not at all. array.view({spelled}) has the same bytes and can be stored, and a view of those with the "
            "dtype is the array again; safetensors files have names for bfloat16 and float8"
        )
    try:
        descr = npy_format.dtype_to_descr(dtype)
        read_back = _dtype_of(_Text(repr(descr), python2=False).type_at(1))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a .npy header can't describe {cut(str(dtype))}: {cut(str(error))}") from error
    if read_back != dtype:
        raise ValueError(f"a .npy header can't describe {dtype}: it would be read back as {read_back}")
    return descr


def _nameable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype itself if all of it is numpy's own; else one with integers, or bytes, in place of what is not."""
    if dtype.subdtype is not None:
        base = _nameable(dtype.base)
        return dtype if base is dtype.base else np.dtype((base, dtype.shape))
    if dtype.names is not None:
        fields = fields_of(dtype)
        formats = [_nameable(kind) for _, kind, _ in fields]
        if all(new is kind for new, (_, kind, _) in zip(formats, fields, strict=True)):
            return dtype
        layout = {"names": dtype.names, "formats": formats, "itemsize": dtype.itemsize}
        plain: np.dtype[Any] = np.dtype(cast(Any, {**layout, "offsets": [place for _, _, place in fields]}))
        return plain
    try:
        if np.dtype(dtype.str) == dtype:
            return dtype
    except TypeError:  # its name says nothing to numpy
        pass
    return np.dtype(f"u{dtype.itemsize}" if dtype.itemsize in (1, 2, 4, 8) else f"V{dtype.itemsize}")


def fields_of(dtype: np.dtype[Any]) -> list[tuple[str, np.dtype[Any], int]]:
    """Name, dtype and place of each field."""
    fields = cast(Any, dtype.fields)
    return [(name, *fields[name][:2]) for name in dtype.names or ()]


# --- errors ---


def invalid(name: str, what: str) -> ValueError:
    return ValueError(f"{name!r} is no .npy file that can be loaded: {what}")


def truncated(name: str, part: str, expected: int, found: int) -> ValueError:
    return ValueError(f"{name!r} is truncated: with its {part} it has {expected} bytes or more, found {found}")


_REPR = reprlib.Repr()
_REPR.maxstring = 100


def short(value: object) -> str:
    """A hostile header is long, and a message is not."""
    return cut(_REPR.repr(value))


def cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
