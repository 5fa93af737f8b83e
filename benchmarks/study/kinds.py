"""Kinds of memory, numbers of files, handles and threads: the same transfer, done otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from gatherio import _measure
from gatherio._core.file import File
from gatherio._core.file import open as open_file
from gatherio._core.operation import Operation
from gatherio._core.queue import DEFAULT_DEPTH, DEFAULT_REQUEST_SIZE, CompletionQueue
from gatherio.probe import KIB, MIB, Array, Run, measured, opened, read_all, write_all, written_file

from .bed import Bed, finished, variants, whole_pages
from .groups import Axes, Contender, Group

REQUESTS: Final = ((64 * KIB, 64), (1 * MIB, 8), (4 * MIB, 8))
FILES: Final = (1, 2, 4, 8)
THREADS: Final = (1, 2, 4)


def kinds(bed: Bed) -> Iterator[Group]:
    """The section's groups."""
    for how in ("write", "read"):
        for request_size, depth in REQUESTS[-1:] if bed.extent.tiny else REQUESTS:
            yield _memory(bed, how, request_size, depth)
        yield _files(bed, how)
        yield _handles(bed, how)


# --- memory ---


def _memory(bed: Bed, how: str, request_size: int, depth: int) -> Group:
    """Huge and small pages, in plain buffers and in such as were registered beforehand."""

    def run(huge_pages: bool | None, registered: bool) -> Run:
        array = bed.array(huge_pages=huge_pages)
        transfer = read_all if how == "read" else write_all
        return opened(
            bed.file(how),
            "r" if how == "read" else "r+",
            lambda file: transfer(file, [array]),
            request_size=request_size,
            depth=depth,
            register=array if registered else None,
        )

    axes: Axes = {"how": how, "request_size": request_size, "depth": depth}
    contenders = [
        Contender(
            f"{size} pages, {buffers} buffers",
            partial(run, huge_pages, registered),
            {**axes, "pages": size, "buffers": buffers},
        )
        for size, huge_pages in (("huge", None), ("small", False))
        for buffers, registered in variants().items()
    ]
    name = f"memory, {how}, {request_size // KIB} KiB x {depth}"
    return Group("kinds", name, contenders, bed.extent.few_rounds)


# --- files ---


def _parts(array: Array, count: int) -> list[Array]:
    step = whole_pages(array.nbytes // count)
    return [array[start : start + step] for start in range(0, step * count, step)]


def _files(bed: Bed, how: str) -> Group:
    """The same bytes in one file and in several, all in flight together."""

    def run(count: int) -> Run:
        parts = _parts(bed.array(), count)
        paths = _written(bed, parts)
        if how == "read":
            for path in paths:
                _measure.drop_from_cache(path)
        with ExitStack() as stack:
            mode = "r" if how == "read" else "r+"
            queue = stack.enter_context(CompletionQueue(DEFAULT_DEPTH, request_size=DEFAULT_REQUEST_SIZE))
            files = [stack.enter_context(open_file(path, mode, queue=queue)) for path in paths]
            return _together(how, list(zip(files, parts, [0] * count, strict=True)))

    contenders = [
        Contender(f"{count} file{'s' if count > 1 else ''}", partial(run, count), {"how": how, "files": count})
        for count in FILES
    ]
    return Group("kinds", f"files, {how}", contenders, bed.extent.few_rounds, done=partial(_remove_parts, bed))


def _written(bed: Bed, parts: list[Array]) -> list[Path]:
    paths = [bed.folder / f"part-{len(parts)}-{number}.bin" for number in range(len(parts))]
    if not paths[0].exists():
        _remove_parts(bed)  # those of another number: there is not room for all
        for path, part in zip(paths, parts, strict=True):
            written_file(path, part)
    return paths


def _remove_parts(bed: Bed) -> None:
    for path in bed.folder.glob("part-*.bin"):
        path.unlink()


def _together(how: str, work: list[tuple[File, Array, int]]) -> Run:
    """Submit everything, then wait for all of it."""

    def transfer() -> None:
        finished([_begin(how, file)(array, offset) for file, array, offset in work])

    def flush() -> None:
        for file in {id(file): file for file, _, _ in work}.values():
            file.flush()

    nbytes = sum(array.nbytes for _, array, _ in work)
    return measured(transfer, nbytes, flush=None if how == "read" else flush, told=work[0][0].reason)


def _begin(how: str, file: File) -> Callable[[Array, int], Operation]:
    return file.read_at if how == "read" else file.write_at


# --- handles and threads ---


def _handles(bed: Bed, how: str) -> Group:
    """Threads that share a file object, and threads with one of their own, each with its own part of the file."""

    def run(threads: int, shared: bool) -> Run:
        parts = _parts(bed.array(), threads)
        path = bed.file(how)
        if how == "read":
            _measure.drop_from_cache(path)
        with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
            mode = "r" if how == "read" else "r+"
            files = [_handle(stack, path, mode) for _ in range(1 if shared else threads)] * (threads if shared else 1)

            def work(number: int) -> None:
                offset = number * parts[0].nbytes
                step = 16 * MIB  # so that a thread has something to do meanwhile
                operations = [
                    _begin(how, files[number])(parts[number][start : start + step], offset + start)
                    for start in range(0, parts[number].nbytes, step)
                ]
                finished(operations)

            def transfer() -> None:
                list(pool.map(work, range(threads)))

            nbytes = sum(part.nbytes for part in parts)
            return measured(transfer, nbytes, told=files[0].reason)

    contenders = [
        Contender(
            f"{threads} thread{'s' if threads > 1 else ''}, {'one handle' if shared else 'a handle each'}",
            partial(run, threads, shared),
            {"how": how, "threads": threads, "handles": 1 if shared else threads},
        )
        for threads in THREADS
        for shared in ((True,) if threads == 1 else (True, False))
    ]
    return Group("kinds", f"handles, {how}", contenders, bed.extent.few_rounds)


def _handle(stack: ExitStack, path: Path, mode: str) -> File:
    """A file object with a queue of its own."""
    queue = stack.enter_context(CompletionQueue(DEFAULT_DEPTH, request_size=DEFAULT_REQUEST_SIZE))
    return stack.enter_context(open_file(path, mode, queue=queue))
