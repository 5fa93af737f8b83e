"""What a file may hold: for each byte the values that the rules allow, and for its length two bounds.

A write that ended well, with no other one under way on the same bytes meanwhile, leaves exactly its bytes. Where writes
were under way together, each byte is one of theirs. Of one that failed or was cancelled each byte is there or not, but
for those that it says are in place. What a read finds while nothing is written stays so.

Pure: knows nothing of files and queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Bytes = np.ndarray[Any, Any]

_GROWS_BY = 1 << 20


def pattern(offset: int, nbytes: int, salt: int) -> Bytes:
    """What the write with this number puts at [offset, offset + nbytes): never zero, so that a hole is known by it."""
    at = np.arange(offset, offset + nbytes, dtype=np.uint64) + np.uint64(salt * 7919 + 1)
    mixed = at * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return ((mixed >> np.uint64(7)) % np.uint64(255) + np.uint64(1)).astype(np.uint8)


class DifferenceError(AssertionError):
    """The file, or what was read, is not what the rules allow."""


class Span(NamedTuple):
    """Bytes of a write, or to be read, and which of them still count."""

    begin: int
    data: Bytes
    mask: Bytes

    @property
    def end(self) -> int:
        return self.begin + self.data.size


class Write:
    """A write from before its submission until nothing of it may be in the file any more."""

    def __init__(self, salt: int, places: Iterable[tuple[int, Bytes]]) -> None:
        self.salt = salt
        self.spans = [Span(begin, data, np.ones(data.size, bool)) for begin, data in places if data.size]
        self.rivals: set[Write] = set()  # under way at the same time, on some of the same bytes

    @property
    def end(self) -> int:
        return max((span.end for span in self.spans), default=0)

    def meets(self, other: Write) -> bool:
        return any(a.begin < b.end and b.begin < a.end for a in self.spans for b in other.spans)


class Read:
    """A read under way: what it may find."""

    def __init__(self, contents: Contents, places: Sequence[tuple[int, int]]) -> None:
        self.places = places
        self.low, self.high = contents.low, contents.high
        self.quiet = not contents.pending
        self.base = [contents.base_of(begin, length) for begin, length in places]
        self.loose = [[_cut(span, begin, length) for span in contents.spans()] for begin, length in places]

    def joined_by(self, write: Write) -> None:
        """A write begins meanwhile."""
        self.quiet = False
        self.high = max(self.high, write.end)
        for (begin, length), loose in zip(self.places, self.loose, strict=True):
            loose += [_cut(span, begin, length) for span in write.spans]

    def counts(self) -> tuple[int, int]:
        """The fewest and the most bytes that it may say it has read: up to the first place the file does not reach."""
        return _count(self.places, self.low), _count(self.places, self.high)


def _count(places: Sequence[tuple[int, int]], size: int) -> int:
    total = 0
    for begin, length in places:
        there = min(length, max(0, size - begin))
        total += there
        if there < length:
            break
    return total


def _cut(span: Span, begin: int, length: int) -> Span | None:
    """The part of it in a range, with a mask of its own; None if there is none."""
    first, last = max(span.begin, begin), min(span.end, begin + length)
    if first >= last:
        return None
    part = slice(first - span.begin, last - span.begin)
    return Span(first, span.data[part], span.mask[part].copy())


class Contents:
    """What one file may hold."""

    def __init__(self) -> None:
        self._base = np.zeros(_GROWS_BY, np.uint8)
        self._possible = np.ones(_GROWS_BY, bool)  # the byte in _base may be there
        self._loose: list[Write] = []  # what else may
        self._reads: list[Read] = []
        self.pending: list[Write] = []
        self.low = self.high = 0  # of the file's length

    def base_of(self, begin: int, length: int) -> tuple[Bytes, Bytes]:
        self._grow(begin + length)
        part = slice(begin, begin + length)
        return self._base[part].copy(), self._possible[part].copy()

    def spans(self) -> Iterable[Span]:
        for write in self._loose:
            yield from write.spans

    def _grow(self, size: int) -> None:
        if size > self._base.size:
            more = size - self._base.size + _GROWS_BY
            self._base = np.concatenate([self._base, np.zeros(more, np.uint8)])
            self._possible = np.concatenate([self._possible, np.ones(more, bool)])

    # -- writes ------------------------------------------------------------------------------------------

    def begin_write(self, salt: int, places: Iterable[tuple[int, Bytes]]) -> Write:
        write = Write(salt, places)
        self._grow(write.end)
        self.high = max(self.high, write.end)
        for other in self.pending:
            if other.meets(write):
                other.rivals.add(write)
                write.rivals.add(other)
        for read in self._reads:
            read.joined_by(write)
        self.pending.append(write)
        self._loose.append(write)
        return write

    def never_began(self, write: Write) -> None:
        """It was refused before anything was done."""
        self.pending.remove(write)
        self._loose.remove(write)
        for other in write.rivals:
            other.rivals.discard(write)
        if not self.pending and not any(span.mask.any() for span in self.spans()):
            self.high = self.low

    def end_write(self, write: Write, in_place: int | None = None) -> None:
        """It has ended: all of it is there, or (in the order of its places) so many bytes for sure."""
        self.pending.remove(write)
        left = sum(span.data.size for span in write.spans) if in_place is None else in_place
        for span in write.spans:
            sure = min(left, span.data.size)
            left -= sure
            if sure:
                self._is_there(write, span, sure)
                self.low = max(self.low, span.begin + sure)
        self._tidy()

    def _is_there(self, write: Write, span: Span, sure: int) -> None:
        """The first `sure` bytes of a span of `write` were put there, whatever came at the same time."""
        alone = np.ones(sure, bool)
        for other in self._loose:
            if other is write:
                continue
            for theirs in other.spans:
                first, last = max(theirs.begin, span.begin), min(theirs.end, span.begin + sure)
                if first >= last:
                    continue
                if other in write.rivals:
                    alone[first - span.begin : last - span.begin] = False
                else:
                    theirs.mask[first - theirs.begin : last - theirs.begin] = False
        # A rival that is no longer in the list was overwritten meanwhile, by another rival.
        base, possible = self._base[span.begin :], self._possible[span.begin :]
        base[:sure][alone] = span.data[:sure][alone]
        possible[:sure] = alone
        span.mask[:sure][alone] = False

    def _tidy(self) -> None:
        self._loose = [
            write for write in self._loose if write in self.pending or any(span.mask.any() for span in write.spans)
        ]

    # -- reads -------------------------------------------------------------------------------------------

    def begin_read(self, places: Sequence[tuple[int, int]]) -> Read:
        read = Read(self, places)
        self._reads.append(read)
        return read

    def end_read(self, read: Read, found: Sequence[Bytes] | None = None, count: int = 0) -> None:
        """It has ended, without an outcome that tells anything or with `count` bytes in front of what was found.

        Raises
        ------
        DifferenceError
        """
        self._reads.remove(read)
        if found is None:
            return
        fewest, most = read.counts()
        if not fewest <= count <= most:
            raise DifferenceError(f"{count} bytes read, where {fewest} to {most} are possible: {read.places[:4]}")
        for number, (begin, length) in enumerate(read.places):
            sure = min(length, max(count, read.low - begin if len(read.places) > 1 else 0, 0))
            count -= min(count, length)
            base, possible = read.base[number]
            self._compare(begin, found[number][:sure], base[:sure], possible[:sure], read.loose[number])
            if read.quiet:
                self._is_known(begin, found[number][:sure])

    def _is_known(self, begin: int, found: Bytes) -> None:
        """These bytes were found while nothing was written: they stay."""
        end = begin + found.size
        self._grow(end)
        self._base[begin:end] = found
        self._possible[begin:end] = True
        for span in self.spans():
            first, last = max(span.begin, begin), min(span.end, end)
            if first < last:
                span.mask[first - span.begin : last - span.begin] = False
        self._tidy()

    @staticmethod
    def _compare(begin: int, found: Bytes, base: Bytes, possible: Bytes, loose: Iterable[Span | None]) -> None:
        good = (found == base) & possible
        if good.all():
            return
        for span in loose:
            if span is None:
                continue
            last = min(span.end, begin + found.size)
            if span.begin < last:
                part = slice(span.begin - begin, last - begin)
                good[part] |= (found[part] == span.data[: last - span.begin]) & span.mask[: last - span.begin]
        bad = np.flatnonzero(~good)
        if bad.size:
            at = int(bad[0])
            raise DifferenceError(
                f"{bad.size} bytes are none that may be there, the first at {begin + at}, the last at "
                f"{begin + int(bad[-1])}: {found[at : at + 8].tobytes()!r} instead of {base[at : at + 8].tobytes()!r}"
                f"{'' if possible[at] else ' (or of one of several writes)'}",
                begin + at,
                found[at : at + 16].copy(),
            )

    def growing(self) -> Span | None:
        """What alone makes the file longer, from its end on; None if there is nothing, or more than one."""
        growing = [span for span in self.spans() if span.end > self.low and span.mask.any()]
        return growing[0] if len(growing) == 1 and growing[0].begin <= self.low else None

    # -- length ------------------------------------------------------------------------------------------

    def check_size(self, size: int) -> None:
        """The file has this length now; if nothing is being written, from now on.

        Raises
        ------
        DifferenceError
        """
        if not self.low <= size <= self.high:
            raise DifferenceError(f"the file has {size} bytes, where {self.low} to {self.high} are possible")
        if not self.pending:
            self._cut_at(size)

    def truncate(self, size: int) -> None:
        """The length has been set, with nothing under way."""
        assert not self.pending, "a truncation waits for writes"
        self._cut_at(size)

    def _cut_at(self, size: int) -> None:
        self._grow(size)
        self._base[size:] = 0
        self._possible[size:] = True
        for span in self.spans():
            span.mask[max(0, size - span.begin) :] = False
        self._tidy()
        self.low = self.high = size

    def check_all(self, found: Bytes, begin: int = 0) -> None:
        """Compare with what the file holds while nothing is written.

        Raises
        ------
        DifferenceError
        """
        base, possible = self.base_of(begin, found.size)
        self._compare(begin, found, base, possible, list(self.spans()))
        self._is_known(begin, found)
