"""Progress of a transfer: a tqdm bar or a callable, behind one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from ._text import shown

Progress: TypeAlias = bool | Callable[[int, int], object] | None
"""None or False: none. True: a tqdm bar. Else called with (done_bytes, total_bytes) by the calling thread."""


@contextmanager
def reporting(progress: Progress, total: int, label: str) -> Iterator[Callable[[int], object]]:
    """Give a function that takes the bytes done so far, for as long as the transfer lasts.

    Parameters
    ----------
    progress : bool, callable or None
        See `Progress`.
    total : int
        Bytes of the whole transfer.
    label : str
        What the bar is called.

    Yields
    ------
    callable(done_bytes)
        What it raises is the caller's business.

    Raises
    ------
    ImportError
        When a bar is asked for and tqdm is not installed.
    TypeError
        When `progress` is nothing of the kind.
    """
    if progress is None or progress is False:
        yield _ignore
    elif progress is True:
        with _bar(total, label) as report:
            yield report
    elif callable(progress):
        yield lambda done: progress(done, total)
    else:
        raise TypeError(f"progress is None, True or a callable(done_bytes, total_bytes), not {progress!r}")


def _ignore(done: int) -> None:
    pass


@contextmanager
def _bar(total: int, label: str) -> Iterator[Callable[[int], object]]:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install gatherio[progress]") from error
    with tqdm(total=total, desc=shown(label), unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield lambda done: bar.update(done - bar.n)
