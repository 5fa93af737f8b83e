"""Gather, scatter and random reads against fio: throughput, CPU, page cache, memory.

Sections: `sequential`, one array to and from a written file; `scattered`, separate 4 KiB pages in random
order; `random`, 4 KiB reads with an operation object each; `memory`, whether a million operations leave
something behind.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from measure import KIB, MIB, Bench, FioJob, Run, Spread, Target

import gatherio as gio

Array = npt.NDArray[Any]
Contenders = dict[str, Callable[[], Run]]

PAGE = 4 * KIB

# What gatherio's own queue does: requests of 4 MiB, 32 MiB in flight.
OUR_REQUEST_SIZE, OUR_DEPTH = 4 * MIB, 8
# What fio may choose from.
FIO_SETTINGS = tuple(itertools.product((1 * MIB, 4 * MIB, 8 * MIB), (4, 8, 16)))
FIO_FINALISTS = 2

TARGETS = {
    ("sequential", "write: rate / fio's, same request size and depth"): Target(">=", 0.95),
    ("sequential", "write: rate / fio's best"): Target(">=", 0.95),
    ("sequential", "write: CPU"): Target("<=", 0.02),
    ("sequential", "write: page cache grew by"): Target("<=", 1.0),
    ("sequential", "read: rate / fio's, same request size and depth"): Target(">=", 0.95),
    ("sequential", "read: rate / fio's best"): Target(">=", 0.95),
    ("sequential", "read: CPU"): Target("<=", 0.02),
    ("sequential", "read: page cache grew by"): Target("<=", 1.0),
    ("scattered", "Segments.rows: build time"): Target("<=", 10.0),
    ("scattered", "write in place: rate / sequential"): Target(">=", 0.45),
    ("scattered", "write in place: CPU"): Target("<=", 0.12),
    ("scattered", "write copy=True: rate / sequential"): Target(">=", 0.85),
    ("scattered", "read in place: rate / sequential"): Target(">=", 0.3),
    ("scattered", "read in place: CPU"): Target("<=", 0.12),
    ("scattered", "read copy=True: rate / sequential"): Target(">=", 0.85),
    ("random", "depth 1: rate / fio's"): Target(">=", 0.8),
    ("random", "depth 32: rate / fio's"): Target(">=", 0.7),
    ("random", "depth 32: CPU"): Target("<=", 8.0),
    ("random", "depth 32, asyncio: rate / fio's"): Target(">=", 0.6),
    ("memory", "growth by a million operations"): Target("<=", 1.0),  # MiB: a byte for each
}


# --- sequential ---


def sequential(bench: Bench) -> None:
    """One array, written with write_gather into a file that is there, and read with read_scatter."""
    array = gio.empty(bench.size, np.uint8)
    measure.fill_pattern(array)
    path = measure.written_file(bench.folder / "sequential", array)
    with gio.open(path, "r+") as file:
        ours = partial(write_all, file, [array])
        compare_with_fio(bench, "write", ours, path)
        ours()  # fio has overwritten it
        measure.drop_cache(path)
        measure.require_pattern(np.memmap(path, np.uint8, "r"), "what write_gather left in the file")

        compare_with_fio(bench, "read", partial(read_all, file, [array]), path)
        array[...] = 0
        file.read_scatter([array], 0).result()
        measure.require_pattern(array, "what read_scatter put into the array")
    path.unlink()


def write_all(file: gio.File, arrays: list[Array] | gio.Segments, *, copy: bool = False) -> Run:
    return measure.measured(lambda: file.write_gather(arrays, 0, copy=copy).result(), file.size, flush=file.flush)


def read_all(file: gio.File, arrays: list[Array] | gio.Segments, *, copy: bool = False) -> Run:
    measure.drop_cache(file.fileno())
    return measure.measured(lambda: file.read_scatter(arrays, 0, copy=copy).result(), file.size)


def compare_with_fio(bench: Bench, how: str, ours: Callable[[], Run], path: Path) -> None:
    us = "gatherio.write_gather" if how == "write" else "gatherio.read_scatter"
    contenders: Contenders = {us: ours}
    same = fio_name(how, OUR_REQUEST_SIZE, OUR_DEPTH)
    if not bench.no_fio:
        jobs = fio_jobs(how, path, bench)
        contenders[same] = jobs[same]
        contenders |= {name: jobs[name] for name in fastest(jobs, how)}
    runs = measure.interleaved(contenders, bench.rounds, f"sequential {how}")
    bench.report.add_transfers("sequential", runs)

    figure = partial(bench.report.add_figure, "sequential")
    if bench.no_fio:
        figure(f"{how}: rate / fio's, same request size and depth", "x", None, bench.no_fio)
        figure(f"{how}: rate / fio's best", "x", None, bench.no_fio)
    else:
        best = max(
            (name for name in runs if name != us),
            key=lambda name: Spread.of(map(measure.rate, runs[name])).median,
        )
        of_us = partial(Spread.ratio, measure.rate, runs[us])
        figure(f"{how}: rate / fio's, same request size and depth", "x", of_us(runs[same]))
        figure(f"{how}: rate / fio's best", "x", of_us(runs[best]), best)
    figure(f"{how}: CPU", "s/GiB", Spread.of(map(measure.cpu_per_gib, runs[us])))
    grown = measure.cache_percent(runs[us])
    figure(f"{how}: page cache grew by", "%", grown, "" if grown else "this system does not tell")


def fio_name(how: str, request_size: int, depth: int) -> str:
    return f"fio {how} {request_size // MIB} MiB x {depth}"


def fio_jobs(how: Any, path: Path, bench: Bench) -> Contenders:
    jobs: Contenders = {}
    for request_size, depth in FIO_SETTINGS if not bench.tiny else [(OUR_REQUEST_SIZE, OUR_DEPTH)]:
        job = FioJob(path, how, bench.size, min(request_size, bench.size), depth)
        jobs[fio_name(how, request_size, depth)] = job.run
    return jobs


def fastest(jobs: Contenders, how: str) -> list[str]:
    """The settings that won a first comparison, of two rounds."""
    runs = measure.interleaved(jobs, 2, f"choosing fio's settings for {how}", warm_up=False)
    ranked = sorted(runs, key=lambda name: Spread.of(map(measure.rate, runs[name])).median, reverse=True)
    return ranked[:FIO_FINALISTS]


# --- scattered ---


def scattered(bench: Bench) -> None:
    """Separate pages of one array in random order, against the array as it lies; at 2 GiB 262,144 of them."""
    pages = gio.empty((bench.size // 2 // PAGE, PAGE), np.uint8)
    measure.fill_pattern(pages)
    order = np.random.default_rng(1).permutation(len(pages))
    path = measure.written_file(bench.folder / "scattered", pages)
    segments = gio.Segments.rows(pages, order)
    with gio.open(path, "r+") as file:
        for how, transfer in (("write", write_all), ("read", read_all)):
            contenders: Contenders = {
                f"{how} sequential": partial(transfer, file, [pages]),
                f"{how} in place": partial(transfer, file, segments),
                f"{how} copy=True": partial(transfer, file, segments, copy=True),
            }
            runs = measure.interleaved(contenders, bench.rounds, f"scattered {how}")
            bench.report.add_transfers("scattered", runs)
            add_scattered_figures(bench, how, runs)
        for copy in (False, True):
            require_scattered(file, pages, segments, order, copy)
    build = Spread.of(build_ms(pages, order) for _ in range(3 * bench.rounds))
    bench.report.add_figure("scattered", "Segments.rows: build time", "ms", build, f"{len(pages)} pages")
    path.unlink()


def add_scattered_figures(bench: Bench, how: str, runs: dict[str, list[Run]]) -> None:
    for manner in ("in place", "copy=True"):
        ratio = Spread.ratio(measure.rate, runs[f"{how} {manner}"], runs[f"{how} sequential"])
        bench.report.add_figure("scattered", f"{how} {manner}: rate / sequential", "x", ratio)
        cpu = Spread.of(map(measure.cpu_per_gib, runs[f"{how} {manner}"]))
        bench.report.add_figure("scattered", f"{how} {manner}: CPU", "s/GiB", cpu)


def build_ms(pages: Array, order: Array) -> float:
    start = time.perf_counter()
    gio.Segments.rows(pages, order)
    return (time.perf_counter() - start) * 1000


def require_scattered(file: gio.File, pages: Array, segments: gio.Segments, order: Array, copy: bool) -> None:
    """End the program unless the file has the pages in that order, and they find their way back."""
    measure.fill_pattern(pages)
    file.write_gather(segments, 0, copy=copy).result()
    stored = np.memmap(file.name, np.uint8, "r").reshape(pages.shape)
    for start in range(0, len(pages), 4096):
        part = slice(start, start + 4096)
        if not np.array_equal(stored[part], pages[order[part]]):
            sys.exit(f"wrong data: what write_gather left in the file, with copy={copy}")
    pages[...] = 0
    file.read_scatter(segments, 0, copy=copy).result()
    measure.require_pattern(pages, f"what read_scatter put into the pages, with copy={copy}")


# --- random ---


def random(bench: Bench) -> None:
    """4 KiB reads at random places, each an operation of its own, against fio at the same depth."""
    content = gio.empty(bench.size, np.uint8)
    measure.fill_pattern(content)
    path = measure.written_file(bench.folder / "random", content)
    del content
    few, many = (20_000, 100_000) if not bench.tiny else (50, 200)
    plain: tuple[dict[str, Reader], ...] = ({}, {})
    if hasattr(os, "preadv"):  # not on Windows
        plain = {"os.preadv": preadv_loop}, {"os.preadv in threads": preadv_threads}
    random_at_depth(bench, path, 1, few, {"result()": read_one_by_one, **plain[0]})
    random_at_depth(bench, path, 32, many, {"queue.get()": read_in_batches, "asyncio": read_in_asyncio, **plain[1]})
    random_at_depth(bench, path, 128, many, {"queue.get()": read_in_batches, "asyncio": read_in_asyncio})
    path.unlink()


Reader = Callable[[Path, Array, list[int]], Run]


def random_at_depth(bench: Bench, path: Path, depth: int, count: int, readers: dict[str, Reader]) -> None:
    contenders: Contenders = {
        f"depth {depth}, {name}": partial(read_randomly, path, depth, count, reader) for name, reader in readers.items()
    }
    fio = f"depth {depth}, fio"
    if not bench.no_fio:
        contenders[fio] = FioJob(path, "randread", bench.size, PAGE, depth, count).run
    runs = measure.interleaved(contenders, bench.rounds, f"random, depth {depth}")
    bench.report.add_operations("random", runs)

    for name in readers:
        if name.startswith("os."):  # there for comparison
            continue
        label = f"depth {depth}, asyncio" if name == "asyncio" else f"depth {depth}"
        mine = runs[f"depth {depth}, {name}"]
        value = None if bench.no_fio else Spread.ratio(measure.operations_per_second, mine, runs[fio])
        bench.report.add_figure("random", f"{label}: rate / fio's", "x", value, bench.no_fio)
        cpu = Spread.of(map(measure.cpu_per_operation, mine))
        bench.report.add_figure("random", f"{label}: CPU", "us/op", cpu)


def read_randomly(path: Path, depth: int, count: int, reader: Reader) -> Run:
    pages = gio.zeros((depth, PAGE), np.uint8)
    places = np.random.default_rng().integers(0, path.stat().st_size // PAGE, count) * PAGE
    run = reader(path, pages, places.tolist())
    words = pages[pages.any(axis=1)].view(np.uint64)  # few reads may have left some page without any
    if not len(words) or (words - words[:, :1] != np.arange(PAGE // 8, dtype=np.uint64) * 8).any():
        sys.exit("wrong data: a random read brought something else than the file's words")
    return run


def measured_reads(reads: Callable[[], object], count: int) -> Run:
    return measure.measured(reads, count * PAGE, operations=count)


def read_one_by_one(path: Path, pages: Array, places: list[int]) -> Run:
    page = pages[0]
    with gio.open(path) as file:

        def reads() -> None:
            for place in places:
                file.read_at(page, place).result()

        return measured_reads(reads, len(places))


def read_in_batches(path: Path, pages: Array, places: list[int]) -> Run:
    with gio.CompletionQueue(len(pages)) as queue, gio.open(path, queue=queue) as file:
        return measured_reads(lambda: keep_reading(file, queue, list(pages), iter(places)), len(places))


def keep_reading(file: gio.File, queue: gio.CompletionQueue, pages: list[Array], places: Iterator[int]) -> None:
    """As many reads in flight as there are pages, until there are no more places."""
    reading = {file.read_at(page, place): page for page, place in zip(pages, places, strict=False)}
    while reading:
        for operation in queue.get():
            operation.result()
            page = reading.pop(operation)
            place = next(places, None)
            if place is not None:
                reading[file.read_at(page, place)] = page


def read_in_asyncio(path: Path, pages: Array, places: list[int]) -> Run:
    with gio.CompletionQueue(len(pages)) as queue, gio.open(path, queue=queue) as file:
        return measured_reads(lambda: asyncio.run(await_reads(file, list(pages), iter(places))), len(places))


async def await_reads(file: gio.File, pages: list[Array], places: Iterator[int]) -> None:
    """A task for each page."""

    async def reader(page: Array) -> None:
        for place in places:
            await file.read_at(page, place)

    await asyncio.gather(*map(reader, pages))


def preadv_loop(path: Path, pages: Array, places: list[int]) -> Run:
    with gio.open(path) as file:  # for its descriptor, which is direct where that is to be had
        return measured_reads(lambda: preadv_each(file.fileno(), pages[0], iter(places)), len(places))


def preadv_threads(path: Path, pages: Array, places: list[int]) -> Run:
    shared = iter(places)
    with gio.open(path) as file, ThreadPoolExecutor(len(pages)) as pool:

        def reads() -> None:
            list(pool.map(lambda page: preadv_each(file.fileno(), page, shared), pages))

        return measured_reads(reads, len(places))


def preadv_each(descriptor: int, page: Array, places: Iterator[int]) -> None:
    view = [page.data]
    for place in places:
        os.preadv(descriptor, view, place)


# --- memory ---


def memory(bench: Bench) -> None:
    """A million small operations, ended in every way there is: what the process holds before and after."""
    path = measure.written_file(bench.folder / "memory", gio.zeros(MIB, np.uint8))
    count = 1_000_000 if not bench.tiny else 600
    grown, seconds = measure.in_new_process(growth, path, count)
    bench.report.add_figure(
        "memory",
        "growth by a million operations",
        "MiB",
        Spread.of([grown / MIB]),
        f"{count} operations, {count / seconds:.0f}/s",
    )
    path.unlink()


def growth(path: Path, count: int) -> tuple[int, float]:
    """Memory that `count` operations leave behind, after a tenth as many to warm up, and their seconds."""
    pages = gio.empty((32, PAGE), np.uint8)
    operate(path, pages, max(count // 10, 64))
    gc.collect()
    before, start = measure.resident_bytes(), time.perf_counter()
    operate(path, pages, count)
    seconds = time.perf_counter() - start
    gc.collect()
    return measure.resident_bytes() - before, seconds


def operate(path: Path, pages: Array, count: int) -> None:
    """In quarters: fetched from the queue, awaited one by one, awaited in asyncio, dropped and forgotten."""
    order = np.random.default_rng().permutation(path.stat().st_size // PAGE) * PAGE

    def quarter() -> Iterator[int]:
        return itertools.islice(itertools.cycle(order.tolist()), count // 4)

    with gio.CompletionQueue(len(pages)) as queue, gio.open(path, "r+", queue=queue) as file:
        keep_reading(file, queue, list(pages), quarter())
    with gio.open(path, "r+") as file:
        for place in quarter():
            file.write_gather([pages[0]], place).result()
        asyncio.run(await_reads(file, list(pages), quarter()))
        for number, place in enumerate(quarter()):
            read = file.read_at(pages[number % len(pages)], place)
            if number % len(pages) == 0:  # so that they do not pile up
                read.result()


def main() -> int:
    sections = {"sequential": sequential, "scattered": scattered, "random": random, "memory": memory}
    assert __doc__ is not None
    return measure.run_script("bench_transfer", __doc__, sections, TARGETS, disk_factor=1.1, memory_factor=1.2)


if __name__ == "__main__":
    sys.exit(main())
