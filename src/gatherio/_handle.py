"""What public objects have in common: they stand for something that this process alone has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, SupportsIndex, TypeVar

Member = TypeVar("Member")


class Handle:
    """An object that is neither copied nor pickled.

    Attributes
    ----------
    _instead : str
        What to do instead of that.
    """

    __slots__ = ()

    _instead: str

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        name = f"gatherio.{type(self).__name__}"
        raise TypeError(
            f"a {name} stands for something of this process and cannot be copied or pickled: {self._instead}"
        )


def members(weak: Iterable[Member]) -> list[Member]:
    """The members of a weak set, or the keys of a weak dictionary, to which other threads may be adding."""
    while True:
        try:
            return list(weak)
        except RuntimeError:  # changed size during iteration
            continue
