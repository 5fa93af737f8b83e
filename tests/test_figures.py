"""What the study and the demo tell is computed rightly: fixed inputs, and the exact numbers that come out.

Three rounds give 1, 2 and 9, or the like: their median is not their mean, and the ratio of two medians is not the
median of the ratios. A time until a call returned is never that until the data was durable, and MiB are not MB.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle import GIB, KIB, MIB, PAGE, not_on_windows

from gatherio import _measure, probe
from gatherio._cli import demo_job, demo_report, quick, tuner
from gatherio._cli import text as cli_text
from gatherio._cli.demo_phases import Check, Step
from gatherio._measure import Sample, measuring
from gatherio._text import size_text
from gatherio.probe import Run, Spread
from study import bare_loop, bed, fio, headline, memory, report, runner, runs, small, tables
from study.command import SECTIONS
from study.document import Document
from study.groups import Claim, Contender, Group, fastest
from study.runs import Target

GB = 10**9


def run_of(nbytes: int = GIB, returned_s: float = 1, seconds: float = 1, cpu_s: float = 1, **facts: Any) -> Run:
    """Facts of the sample, and of the run."""
    of_sample = {name: facts.pop(name, None) for name in ("system_cpu_s", "cache_bytes", "warm_bytes")}
    return Run(Sample(nbytes, returned_s, seconds, cpu_s, **of_sample), **facts)


def at_rates(*mib_per_s: float) -> list[Run]:
    return [run_of(MIB, 1 / rate, 2 / rate) for rate in mib_per_s]


# --- of one run ---

ONE = run_of(3 * MIB, 2.0, 4.0, 0.006, system_cpu_s=0.012, cache_bytes=3 * MIB // 4, operations=12)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (probe.rate, 1.5),  # MiB/s until the call returned
        (probe.durable_rate, 0.75),
        (probe.operations_per_second, 6.0),
        (probe.cpu_per_gib, 2.048),
        (runs.cpu_per_operation, 500.0),  # microseconds
        (probe.cache_percent, 25.0),
        (lambda run: run.sample.cpu_per_gib, 2.048),
        (lambda run: run.sample.system_cpu_per_gib, 4.096),
    ],
)
def test_a_metric(metric: probe.Metric, value: float) -> None:
    assert metric(ONE) == pytest.approx(value, rel=1e-12)


def test_gigabytes_are_thousands_and_count_until_the_data_is_durable() -> None:
    assert Sample(6 * GB, 2.0, 4.0, 1, None, None, None).gb_per_s == 1.5


def test_what_a_system_does_not_tell() -> None:
    run = run_of()
    assert run.sample.system_cpu_per_gib is None
    assert math.isnan(probe.cache_percent(run))


def test_a_clock_that_stands_still() -> None:
    run = run_of(MIB, 0.0, 0.0, operations=3)
    assert probe.rate(run) == probe.durable_rate(run) == pytest.approx(1e9)
    assert probe.operations_per_second(run) == pytest.approx(3e9)


def test_a_run_of_another_program() -> None:
    run = runs.outside(5 * MIB, 7, 2.5, 0.5, 64)
    assert run == Run(Sample(5 * MIB, 2.5, 2.5, 0.5, None, 64, None), 7)


# --- measuring ---


class Clock:
    """What the functions that measure look at; `after` seconds and as much of the rest pass when told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu, self.cache, self.system = 10.0, 3.0, 100, 7.0
        self.dropped: list[Path] = []
        patch.setattr(_measure.time, "perf_counter", lambda: self.now)
        patch.setattr(_measure.time, "process_time", lambda: self.cpu)
        patch.setattr(_measure, "cached_bytes", lambda: self.cache)
        patch.setattr(_measure, "system_cpu_s", lambda: self.system)
        patch.setattr(_measure, "drop_from_cache", self.dropped.append)
        patch.setattr(_measure, "resident_bytes", lambda path: 64 * len(self.dropped))

    def after(self, seconds: float, cpu: float = 0, cache: int = 0, system: float = 0) -> None:
        self.now, self.cpu = self.now + seconds, self.cpu + cpu
        self.cache, self.system = self.cache + cache, self.system + system


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_transfer_and_its_flush(clock: Clock) -> None:
    run = probe.measured(
        lambda: clock.after(2, 0.5, 300, 0.25), 4096, flush=lambda: clock.after(5, 1, 30, 0.5), operations=3, told="so"
    )
    assert run == Run(Sample(4096, 2.0, 7.0, 1.5, 0.75, 330, None), 3, True, "so")


def test_a_transfer_without_flush(clock: Clock) -> None:
    run = probe.measured(lambda: clock.after(2, 0.5, -30, 0.25), 4096, reads=Path("a"))
    assert run == Run(Sample(4096, 2.0, 2.0, 0.5, 0.25, -30, 64))
    assert clock.dropped == [Path("a")], "before it is looked at"


def test_growth_that_a_system_does_not_tell(clock: Clock) -> None:
    clock.cache = clock.system = None  # type: ignore[assignment]
    with measuring(1) as meter:
        clock.now += 1
    assert meter.sample == Sample(1, 1.0, 1.0, 0.0, None, None, None)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """files(**{"/proc/meminfo": text}): what those files of the system hold for `_measure`."""

    def path(name: str | Path) -> Path:
        return tmp_path / str(name).lstrip("/")

    def put(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path(name).parent.mkdir(parents=True, exist_ok=True)
            path(name).write_text(text)

    monkeypatch.setattr(_measure, "Path", path)
    monkeypatch.setattr(_measure, "open", lambda name, *_, **options: open(path(name), **options), raising=False)
    return put


MEMINFO = "MemTotal:  8000 kB\nMemAvailable:  3000 kB\nCached:  500 kB\nSwapCached: 7 kB\n"


@not_on_windows("it has no /proc")
def test_memory_of_the_machine(files: Callable[..., None]) -> None:
    files({"/proc/meminfo": MEMINFO})
    assert _measure.cached_bytes() == 500 * KIB
    assert _measure.total_memory() == 8000 * KIB
    assert _measure.available_memory() == 3000 * KIB
    assert _measure.meminfo("Nothing") is None


@not_on_windows("it has no control groups")
def test_memory_that_the_control_groups_leave(files: Callable[..., None]) -> None:
    top, inner = "/sys/fs/cgroup/a/", "/sys/fs/cgroup/a/b/"
    files({"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "1:name=x:/y\n0::/a/b\n"})
    files({top + "memory.max": "2000000\n", top + "memory.current": "1500000\n", top + "memory.stat": "file 9\n"})
    files({inner + "memory.max": "max\n", inner + "memory.current": "9\n", inner + "memory.stat": ""})
    assert _measure.available_memory() == 500_000
    files({top + "memory.stat": "file 9\ninactive_file 70000\n"})  # that can be given back
    assert _measure.available_memory() == 570_000
    files({inner + "memory.max": "100\n", inner + "memory.current": "300\n"})
    assert _measure.available_memory() == 0


@not_on_windows("it has no /proc")
def test_cpu_seconds_of_the_machine(files: Callable[..., None]) -> None:
    """Neither idle, nor waiting for the disk, nor stolen."""
    files({"/proc/stat": "cpu  100 20 30 4000 500 6 7 8000 90000 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"})
    assert _measure.system_cpu_s() == 163 / os.sysconf("SC_CLK_TCK")


@not_on_windows("it has no mincore")
def test_bytes_in_the_page_cache(quick_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mincore(address: Any, size: Any, vector: Any) -> int:
        assert size.value == 5 * PAGE - 100
        ctypes.memmove(vector, bytes(resident), 5)
        return code

    monkeypatch.setattr(_measure.ctypes, "CDLL", lambda name, use_errno: SimpleNamespace(mincore=mincore))
    path, code = quick_dir / "a", 0
    path.write_bytes(bytes(5 * PAGE - 100))
    resident = [1, 0, 2, 3, 0]  # the other bits are reserved
    assert _measure.resident_bytes(path) == 2 * PAGE
    resident = [1, 1, 1, 1, 1]
    assert _measure.resident_bytes(path) == 5 * PAGE - 100
    code = -1
    assert _measure.resident_bytes(path) is None


# --- of several runs ---


@pytest.mark.parametrize(
    ("values", "spread"),
    [([9, 1, 2], Spread(2, 1, 9)), ([9, 4, 1, 2], Spread(3, 1, 9)), ([5], Spread(5, 5, 5))],
)
def test_a_spread(values: list[float], spread: Spread) -> None:
    assert Spread.of(values) == spread


@pytest.mark.parametrize(("direction", "met"), [(">=", [False, True, True]), ("<=", [True, True, False])])
def test_a_target(direction: Any, met: list[bool]) -> None:
    assert [Target(direction, 0.5).met_by(value) for value in (0.4, 0.5, 0.6)] == met


def test_a_ratio_is_ours_by_theirs_within_each_round() -> None:
    found = {"a": at_rates(2, 8, 9), "b": at_rates(2, 4, 1)}
    assert Claim("c", "x", probe.rate, "a", "b").value(found) == (Spread(2, 1, 9), "")
    durable = {
        name: [replace(run, sample=run.sample._replace(seconds=1 / 3)) for run in of] for name, of in found.items()
    }
    assert Claim("c", "x", probe.durable_rate, "a", "b").value(durable) == (Spread(1, 1, 1), "")


def test_a_ratio_of_rounds_that_both_have_had() -> None:
    assert Claim("c", "x", probe.rate, "a", "b").value({"a": at_rates(2, 8), "b": at_rates(2, 4, 1)})[0] == Spread(
        1.5, 1, 2
    )


def test_a_difference_is_ours_less_theirs() -> None:
    found = {
        "asking": [run_of(cpu_s=cpu * 1e-6) for cpu in (10, 12, 19)],
        "not": [run_of(cpu_s=cpu * 1e-6) for cpu in (9, 10, 10)],
    }
    value, _ = Claim("c", "us", runs.cpu_per_operation, "asking", "not", difference=True).value(found)
    assert value is not None
    assert (value.median, value.min, value.max) == pytest.approx((2, 1, 9))


def test_the_best_is_that_with_the_best_median() -> None:
    found = {"p a": at_rates(1, 9, 9), "p b": at_rates(5, 5, 100), "one": at_rates(3, 3, 3)}  # means: 6.3, 36.7
    value, note = Claim("c", "x", probe.rate, "p*", "one").value(found)
    assert (value, note) == (Spread(3, pytest.approx(1 / 3), 3), "p a")
    cheap = {
        "p a": [run_of(cpu_s=cpu) for cpu in (1, 9, 9)],
        "p b": [run_of(cpu_s=cpu) for cpu in (5, 5, 100)],
        "other": [run_of(cpu_s=0.5)],
    }
    claim = Claim("c", "s/GiB", probe.cpu_per_gib, "p*", lower_is_better=True)
    assert claim.value(cheap) == (Spread(5, 5, 100), "p b")
    assert claim.value({"p a": [], "p b": []}) == (None, "there is no p  here".replace("  ", " "))


def test_a_figure_that_the_system_does_not_tell() -> None:
    claim = Claim("c", "%", probe.cache_percent, "a")
    assert claim.value({"a": [run_of()]}) == (None, "this system does not tell")
    assert claim.value({"a": [run_of(100, cache_bytes=grown) for grown in (1, 2, 9)]}) == (Spread(2, 1, 9), "")


def test_the_fastest() -> None:
    found = {"a": at_rates(1, 1, 100), "b": at_rates(3, 3, 3), "c": at_rates(2, 2, 2), "d": []}
    assert fastest(found, 2) == ["b", "c"]
    assert fastest(found, 2, probe.cpu_per_gib) == ["a", "b"]


def test_every_target_points_the_right_way(disk_dir: Path) -> None:
    """More of a rate is better, less of everything else; and ratios are ours by somebody else's."""
    here = bed.Bed(disk_dir, bed.Extent(2 * MIB))
    claims = [claim for section in SECTIONS.values() for group in section(here) for claim in group.claims]
    quoted = [claim for claim in claims if claim.target]
    assert len(quoted) > 20
    for claim in quoted:
        is_rate = claim.metric in (probe.rate, probe.durable_rate, probe.operations_per_second)
        assert claim.target is not None
        assert claim.target.direction == (">=" if is_rate else "<="), claim.name
    for claim in claims:
        assert not (claim.theirs or "").startswith(("gatherio", "objects", "pages", "m.")), claim.name
        assert claim.lower_is_better == (claim.metric is probe.cpu_per_gib and claim.ours == "pages*"), claim.name
    assert {claim.unit for claim in claims if claim.metric is runs.cpu_per_operation} <= {"us", "us/op"}
    assert {claim.unit for claim in claims if claim.metric is probe.cpu_per_gib} == {"x", "s/GiB"}
    here.release()


# --- limits ---


def test_limits_are_reached_at_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick.time, "monotonic", lambda: 104.0)
    reached = [quick.Limits(seconds=seconds, began=100.0).reached() for seconds in (4.5, 4, 3)]
    assert reached == ["", "--max-seconds 4", "--max-seconds 3"]
    reached = [quick.Limits(nbytes=7, moved=moved).reached() for moved in (6, 7, 8)]
    assert reached == ["", "--max-bytes 7", "--max-bytes 7"]


def test_room_is_the_share_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "free_space", lambda folder: 1000)
    monkeypatch.setattr(_measure, "available_memory", lambda: 1000)
    probe.require_room(tmp_path, 400, 800)
    with pytest.raises(probe.ProbeError, match="401 bytes do not fit: .* has 1000 bytes free"):
        probe.require_room(tmp_path, 401, 800)
    with pytest.raises(probe.ProbeError, match="801 bytes of memory are needed, 1000 bytes are available"):
        probe.require_room(tmp_path, 400, 801)


# --- the document ---


def spread(median: float, least: float, most: float) -> dict[str, float]:
    return pytest.approx({"median": median, "min": least, "max": most})  # type: ignore[return-value]


ROUNDS = [
    run_of(
        GIB // 2,
        returned_s,
        2 * returned_s,
        cpu_s,
        system_cpu_s=2 * cpu_s,
        cache_bytes=grown * GIB // 200,
        operations=500,
        durable=True,
        latency_us={"50": 10 * cpu_s, "100": 100 * cpu_s},
    )
    for returned_s, cpu_s, grown in ((1, 1, 9), (4, 2, 1), (0.5, 9, 2))
]


def added(group: Group, rounds: list[Run]) -> Document:
    found = Document({}, {})
    found.add(group, {"a": rounds}, {})
    return found


def test_a_row_by_gib() -> None:
    (row,) = added(Group("kinds", "g", [Contender("a", None)], 3), ROUNDS).rows
    assert (row["unit"], row["cpu_unit"], row["rounds"]) == ("MiB/s", "s/GiB", 3)
    assert row["rate"] == spread(512, 128, 1024)
    assert row["durable_rate"] == spread(256, 64, 512)
    assert row["cpu"] == spread(4, 2, 18)
    assert row["system_cpu"] == spread(8, 4, 36)
    assert row["cache_percent"] == spread(2, 1, 9)
    assert row["latency_us"] == {"50": 20, "100": 200}
    assert row["samples"][1]["returned_s"] == 4


def test_a_row_by_operation() -> None:
    (row,) = added(Group("small", "g", [Contender("a", None)], 3, per="operation"), ROUNDS).rows
    assert (row["unit"], row["cpu_unit"]) == ("1/s", "us/op")
    assert row["rate"] == spread(500, 125, 1000)
    assert row["durable_rate"] == spread(256, 64, 512)
    assert row["cpu"] == spread(4000, 2000, 18000)
    assert row["system_cpu"] == spread(8000, 4000, 36000)


@pytest.mark.parametrize(("target", "met"), [(Target(">=", 512), True), (Target("<=", 511), False), (None, None)])
def test_a_figure_is_judged_by_its_median(target: Target | None, met: bool | None) -> None:
    group = Group("kinds", "g", [Contender("a", None)], 3, [Claim("c", "MiB/s", probe.rate, "a", target=target)])
    found = added(group, ROUNDS)
    (figure,) = found.figures
    assert figure["value"] == spread(512, 128, 1024)
    assert (figure["met"], figure["rounds"]) == (met, 3)
    assert found.all_met() is (met is not False)


def test_all_met_asks_for_all() -> None:
    claims = [Claim("c", "", probe.rate, "a", target=target) for target in (Target(">=", 1), Target(">=", 513))]
    group = Group("kinds", "g", [Contender("a", None)], 3, claims)
    assert not added(group, ROUNDS).all_met()
    assert added(replace(group, claims=claims[:1]), ROUNDS).all_met()


# --- other programs, which measure themselves ---


def told_by(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    """Lets every program print the text; gives the command that was run last."""
    command: list[str] = []

    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        command[:] = arguments
        return subprocess.CompletedProcess(arguments, 0, text, "")

    monkeypatch.setattr(subprocess, "run", run)
    return command


@pytest.mark.parametrize(("how", "nbytes", "count", "seconds"), [("read", 7, 3, 2.5), ("randwrite", 5, 2, 0.001)])
def test_what_fio_tells(
    how: fio.How, nbytes: int, count: int, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {
        "read": {"io_bytes": 7, "total_ios": 3, "runtime": 2500},
        "write": {"io_bytes": 5, "total_ios": 2, "runtime": 0},  # less than a millisecond
        **{"usr_cpu": 10.0, "sys_cpu": 30.0, "job_runtime": 5000},
    }
    command = told_by(monkeypatch, "fio: a note\n" + json.dumps({"jobs": [job]}))
    cached = iter([100, 164])
    monkeypatch.setattr(_measure, "cached_bytes", lambda: next(cached))
    run = fio.FioJob(tmp_path / "a", how, 64 * KIB, 4 * KIB, 8, 5).run()
    assert run == runs.outside(nbytes, count, seconds, 2.0, 64)
    assert {f"--rw={how}", "--bs=4096", "--iodepth=8", f"--size={64 * KIB}", f"--io_size={20 * KIB}"} <= set(command)


def test_what_the_bare_loop_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    command = told_by(monkeypatch, '{"bytes": 7, "operations": 3, "seconds": 0.5, "cpu_s": 0.25}')
    run = bare_loop.run(Path("loop"), Path("a"), "randread", 4096, 8, 65536, fixed=True)
    assert run == runs.outside(7, 3, 0.5, 0.25)
    assert " ".join(command) == "loop --file a --rw randread --block 4096 --depth 8 --bytes 65536 --fixed"


# --- latencies, memory, the race of settings ---


class Reads:
    """A file and its queue, in which each read takes the next of the given times."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self._clock, self._seconds, self._under_way = clock, iter(seconds), list[Any]()

    def read_at(self, buffer: Any, place: int) -> Any:
        self._under_way.append(SimpleNamespace(result=lambda: None, place=place))
        return Hashable(self._under_way[-1])

    def get(self) -> list[Any]:
        self._clock.after(next(self._seconds))
        return [Hashable(self._under_way.pop(0))]


class Hashable:
    def __init__(self, of: Any) -> None:
        self._of, self.result = of, of.result

    def __hash__(self) -> int:
        return id(self._of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashable) and self._of is other._of


def test_percentiles_are_in_microseconds(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(64 * KIB))
    took = [*range(100, 9, -10), 0]  # microseconds: 0, 10, ... 100
    file = Reads(clock, [microseconds / 1e6 for microseconds in took])

    def in_queue(job: small.Job, transfers: Callable[[Any, Any], object]) -> Run:
        transfers(file, file)
        return run_of()

    monkeypatch.setattr(small, "in_queue", in_queue)
    run = small.timed_objects(small.Job(tmp_path / "a", "read", 4 * KIB, 1, len(took)))
    assert run.latency_us == pytest.approx({"50": 50, "90": 90, "99": 99, "99.9": 99.9, "100": 100})


def test_memory_that_is_left_behind(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter([100 * MIB, 103 * MIB + MIB // 2])
    monkeypatch.setattr(memory, "_resident", lambda: next(resident))
    counts: list[int] = []
    monkeypatch.setattr(memory, "_operate", lambda path, buffers, count: counts.append(count))
    run = memory.growth_run(tmp_path / "a", 1000)
    assert run.memory_mib == 3.5
    assert (run.operations, run.sample.nbytes, counts) == (1000, 1000 * 4 * KIB, [100, 1000])


@pytest.mark.parametrize(("peak", "made", "beside"), [(150, 40, 10), (150, 0, 50), (120, 40, 0)])
def test_memory_beside_the_array(
    peak: int, made: int, beside: float, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_begin_peak", lambda: None)
    monkeypatch.setattr(memory, "_resident", lambda: 100 * MIB)
    monkeypatch.setattr(memory, "_peak_bytes", lambda: peak * MIB)
    monkeypatch.setitem(memory.PEAK_CASES, "a case", lambda path, size: (lambda: None, made * MIB))
    assert memory.peak_run("a case", tmp_path / "a", 40 * MIB).memory_mib == beside


def test_a_setting_in_the_race() -> None:
    """As fast as writing and then reading the same; as dear as the two on average."""
    pairs = [
        (run_of(MIB, 1 / 100, cpu_s=1 / 1024), run_of(MIB, 1 / 300, cpu_s=3 / 1024)),
        (run_of(MIB, 1 / 50, cpu_s=8 / 1024), run_of(MIB, 1 / 50, cpu_s=10 / 1024)),
        (run_of(MIB, 1 / 900, cpu_s=2.5 / 1024), run_of(MIB, 1 / 900, cpu_s=3.5 / 1024)),
    ]
    found = tuner.Candidate("a", 1, lambda: pairs[0][0], lambda: pairs[0][1], pairs)
    assert found.rate == pytest.approx(150)
    assert found.cpu == pytest.approx(3)
    assert found.told() == {"name": "a", "mib_per_s": 150.0, "cpu_s_per_gib": 3.0}


# --- tables ---


def cells_of(table: str) -> list[list[str]]:
    """The texts of a table, line by line, the heading first."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12346"),
        (100, "100"),
        (99.94, "99.9"),
        (10, "10.0"),
        (9.994, "9.99"),
        (0.1, "0.10"),
        (0.0996, "0.0996"),
    ],
)
def test_a_number(value: float, text: str) -> None:
    assert cli_text.number(value) == text
    assert cli_text.number(-value) == f"-{text}"


def test_a_cell() -> None:
    assert cli_text.spread_text({"median": 2, "min": 1, "max": 90}) == "2.00 [1.00-90.0]"
    assert cli_text.spread_text({"median": 2, "min": 2, "max": 2}) == "2.00"
    assert cli_text.spread_text(None) == "-"


def test_a_size() -> None:
    sizes = 4 * KIB, 1023 * KIB, MIB, 64 * MIB
    assert [tables.size_name(size) for size in sizes] == ["4 KiB", "1023 KiB", "1 MiB", "64 MiB"]


def test_rows_of_a_table() -> None:
    found = added(Group("kinds", "g", [Contender("a", None), Contender("b", None, note="no b")], 3), ROUNDS)
    text = tables.rows_table(found.rows)
    head, a, b = cells_of(text)
    assert head == ["what", "rate MiB/s", "durable", "CPU s/GiB", "whole system", "cache grew"]
    assert a == ["a", "512 [128-1024]", "256 [64.0-512]", "4.00 [2.00-18.0]", "8.00 [4.00-36.0]", "2.0 %"]
    assert b == ["b", "no b", "", "", "", ""]


def figure(value: float | None, target: Target | None, met: bool | None, **other: Any) -> dict[str, Any]:
    return {
        "name": "f",
        "unit": "s/GiB",
        "value": value and {"median": value, "min": value, "max": value},
        "direction": target and target.direction,
        "threshold": target and target.threshold,
        "met": met,
        "note": "",
        **other,
    }


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (figure(2, Target("<=", 1.5), False), ["f", "2.00 s/GiB", "<= 1.5 s/GiB", "NOT MET"]),
        (figure(2, Target("<=", 2.0), True, note="of fio x"), ["f", "2.00 s/GiB (of fio x)", "<= 2 s/GiB", "met"]),
        (figure(2, None, None), ["f", "2.00 s/GiB", "", ""]),
        (figure(None, Target(">=", 1), None, note="no fio"), ["f", "no fio", ">= 1 s/GiB", "not shown"]),
    ],
)
def test_a_verdict(row: dict[str, Any], cells: list[str]) -> None:
    assert cells_of(tables.figures_table([row]))[1] == cells


def test_latencies_of_a_table() -> None:
    row = {
        "axes": {"depth": 32},
        "rate": {"median": 500, "min": 125, "max": 1000},
        "latency_us": {"50": 12.34, "99.9": 1234.5, "100": 9999.9},
    }
    head, _, line = tables.latency_table([{"latency_us": None}, row]).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "operations in flight",
        "50 %",
        "99.9 %",
        "slowest",
        "per second",
    ]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["32", "12.3", "1234", "10000", "500 [125-1000]"]


def test_a_map() -> None:
    rows = [
        {"axes": {"request_size": size, "depth": depth}, "rate": value and {"median": value}, "cpu": {"median": 0.5}}
        for size, depth, value in ((MIB, 4, 400), (4 * KIB, 4, 40), (MIB, 1, None), (4 * KIB, 16, 4))
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.map_table(rows).splitlines()]
    assert [lines[0], *lines[2:]] == [
        ["request", "x 1", "x 4", "x 16"],
        ["4 KiB", "", "40.0", "4.00"],
        ["1 MiB", "", "400", ""],
    ]
    assert "0.50" in tables.map_table(rows, "cpu")


# --- the headline ---


def headline_row(group: str, name: str, rounds: list[tuple[float, float]], **other: Any) -> dict[str, Any]:
    """Of rounds of 1 GiB: seconds until the call returned, and until durable."""
    returned, durable = ([MIB / KIB / pair[i] for pair in rounds] for i in (0, 1))
    spreads = [
        dict(zip(("median", "min", "max"), (np.median(r), min(r), max(r)), strict=True)) for r in (returned, durable)
    ]
    samples = [{"nbytes": GIB, "returned_s": pair[0], "seconds": pair[1]} for pair in rounds]
    return {
        **{"section": "sequential", "group": group, "name": name, "note": "", "unit": "MiB/s", "cpu_unit": "s/GiB"},
        **{"rate": spreads[0], "durable_rate": spreads[1], "samples": samples},
        **{"cpu": {"median": 0.25, "min": 0.1, "max": 0.9}, **other},
    }


def line_of(rows: list[dict[str, Any]]) -> list[str]:
    return cells_of(headline.headline_table(rows))[1]


def test_a_line_of_the_headline() -> None:
    rows = [
        headline_row("write", "gatherio", [(1, 50), (0.5, 50), (2, 50)]),
        headline_row("write", "fio slow", [(10, 50), (0.1, 50), (10, 50)], cpu={"median": 9}),
        headline_row("write", "fio fast", [(1, 50), (4, 50), (4, 50)], cpu={"median": 0.75}),
    ]
    # Ratios of the rounds: 1, 8 and 2. The rates are 1024, 2048, 512 and 1024, 256, 256 MiB/s.
    assert line_of(rows) == [
        *("write one array over an old file", "1024 MiB/s", "0.25 s/GiB"),
        *("fio fast", "256 MiB/s", "0.75 s/GiB", "2.00 [1.00-8.00]"),
    ]
    absent = headline_row("write", "fio x", [(1, 1)], rate=None, note="fio is not installed")
    assert line_of([rows[0], absent])[3:] == ["fio is not installed", "", "", ""]


def test_what_is_saved_counts_until_it_is_durable() -> None:
    ours, theirs = "gatherio.save, page-aligned array", "np.save + fsync"
    rows = [
        headline_row("save, durable", ours, [(9, 1), (9, 2), (9, 4)], section="arrays"),
        headline_row("save, durable", theirs, [(1, 4), (1, 4), (1, 4)], section="arrays"),
    ]
    assert line_of(rows)[1::2] == ["512 MiB/s", theirs, "0.25 s/GiB"]
    assert line_of(rows)[4:] == ["256 MiB/s", "0.25 s/GiB", "2.00 [1.00-4.00]"]


def test_operations_of_the_headline() -> None:
    row = {"section": "small", "unit": "1/s", "cpu_unit": "us/op"}
    rows = [headline_row("read 4 KiB, depth 1", name, [(1, 1)], **row) for name in ("objects, result()", "fio")]
    assert line_of(rows)[1:3] == ["1024 per s", "0.25 us each"]


# --- pictures ---


@pytest.fixture
def drawn() -> Iterator[Any]:
    """The module that draws; what is drawn is looked at, and closed."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gatherio[pictures]'")
    from study import pictures

    yield pictures
    pictures.pyplot.close("all")


def lengths(axis: Any) -> list[float]:
    return [round(patch.get_width(), 9) for patch in axis.patches]


def whiskers(axis: Any) -> list[list[float]]:
    """From where to where each of them goes."""
    return [[float(x) for x, _ in segment] for lines in axis.collections for segment in lines.get_segments()]


def test_the_headline_as_a_picture(drawn: Any) -> None:
    rows = [
        headline_row("write", "gatherio", [(1, 50), (0.5, 50), (2, 50)]),
        headline_row("write", "fio", [(1, 50), (4, 50), (4, 50)], cpu={"median": 0.75, "min": 0.5, "max": 1}),
    ]
    rates, cpu = drawn.headline({"rows": rows}).axes
    assert (lengths(rates), lengths(cpu)) == ([1024, 256], [0.25, 0.75])
    assert whiskers(rates) == [[512, 2048], [256, 1024]]
    assert [text.get_text() for text in rates.texts] == ["x 2.00"]


def test_maps_as_pictures(drawn: Any) -> None:
    axes = {"kind": "overwrite", "direct": True, "backend": "uring"}
    rows = [
        {
            **{"section": "maps", "told": "direct: so", "axes": {**axes, "request_size": size, "depth": depth}},
            **{"rate": {"median": rate}, "cpu": {"median": cpu}},
        }
        for size, depth, rate, cpu in ((MIB, 1, 400, 0.5), (MIB, 4, 9.54, 0.0625), (4 * KIB, 4, 40, 2.0))
    ]
    panel = drawn.heat_maps({"rows": rows}, direct=True, of="rate").axes[0]
    assert [text.get_text() for text in panel.texts] == ["·", "40", "400", "9.5"]
    panel = drawn.heat_maps({"rows": rows}, direct=True, of="cpu").axes[0]
    assert [text.get_text() for text in panel.texts] == ["·", "2.0", "0.50", "0.062"]
    (axis,) = drawn.paths({"rows": rows}).axes
    assert [text.get_text() for text in axis.texts] == ["direct: 400 MiB/s at 1 MiB x 1"]


def test_in_short_is_what_has_a_target() -> None:
    content = {"rows": [], "figures": [{**figure(2, None, None), "name": "free"}, figure(2, Target("<=", 2), True)]}
    text = report.closing(content, runner.Outcome(measured=1, skipped=3, left=2, stopped_by="--max-bytes 7"), None)
    assert "free" not in text and "<= 2 s/GiB" in text
    assert "3 comparisons were there already." in text
    assert "Stopped by --max-bytes 7: 2 comparisons are left" in text


# --- texts ---


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1 MiB"),
        (GB, "953.7 MiB"),
        (GIB, "1 GiB"),
        (1536 * GIB, "1.5 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_a_size_as_one_reads_it(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text


# --- the demo ---


def result_of(
    *steps: tuple[Step, list[Sample]], nbytes: int = 2 * GIB, checks: tuple[Check, ...] = ()
) -> demo_job.Result:
    path = {"file_system": "ext4", "free_bytes": 3 * GIB}
    system = {"version": "1", "system": "Linux", "python": "3", "path": path}
    facts = demo_job.Facts("/data", system, True, "uring", "direct", nbytes, 3)
    pages = {"pages": 1, "arrays": 1, "segments": 1, "listed": 1}
    return demo_job.Result(facts, pages, 0.0125, list(steps), list(checks))


def samples(*rounds: tuple[float, float, float, int | None, int | None]) -> list[Sample]:
    """Of 2 GB: seconds until returned and until durable, CPU seconds, growth of the page cache, what was warm."""
    return [
        Sample(2 * GB, returned, seconds, cpu, None if cache is None else 3 * cpu, cache, warm)
        for returned, seconds, cpu, cache, warm in rounds
    ]


OURS = samples((0.1, 1, 0.2, 9 * MIB, None), (0.2, 2, 0.1, MIB, None), (0.9, 4, 0.9, 2 * MIB, None))
THEIRS = samples((1, 9, 2, 900 * MIB, None), (2, 2, 1, 100 * MIB, None), (9, 8, 9, 200 * MIB, None))
WRITES = [(Step("ours", "gatherio", "write"), OURS), (Step("theirs", "numpy", "write"), THEIRS)]


def test_a_measurement_of_the_demo() -> None:
    """Seconds by numpy's within each round: 9, 1 and 2. Of 2 GB in 2 s: 1 GB/s; 2 GB are 1.8626 GiB."""
    ours, theirs = demo_report.as_dict(result_of(*WRITES))["measurements"]
    found = {name: ours[name] for name in ours if name not in ("samples", "name", "library", "direction")}
    gib = 2 * GB / GIB
    assert found == {
        "bytes": 2 * GB,
        "returned_s": 0.2,
        "durable_s": 2,
        "gb_per_s": 1.0,
        "times_as_fast_as_numpy": 2.0,
        "cpu_s_per_gib": pytest.approx(0.2 / gib),
        "system_cpu_s_per_gib": pytest.approx(0.6 / gib),
        "cache_growth_bytes": 2 * MIB,
    }
    assert (theirs["times_as_fast_as_numpy"], theirs["durable_s"], theirs["gb_per_s"]) == (1.0, 8, 0.25)


def test_the_table_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_text, "width", lambda: 200)
    reads = [(step._replace(direction="read"), of) for step, of in WRITES]
    unknown = samples((0.1, 1, 0.2, None, None))
    lines = demo_report.closing(result_of(*WRITES, *reads)).splitlines()
    of_step = [line.split() for line in lines if line.startswith(("  ours", "  theirs"))]
    assert of_step[0] == ["ours", "0.200", "2.000", "1.00", "0.50-2.00", "2.00", "0.107", "0.32", "2"]
    assert of_step[1] == ["theirs", "2.000", "8.000", "0.25", "0.22-1.00", "1.00", "1.074", "3.22", "200"]
    assert of_step[2] == ["ours", "2.000", "1.00", "0.50-2.00", "2.00", "0.107", "0.32", "2"]
    told_nothing = demo_report.closing(result_of((WRITES[0][0], unknown), (WRITES[1][0], unknown)))
    assert next(line for line in told_nothing.splitlines() if "ours" in line).split()[-2:] == ["-", "-"]
    assert "built in 12 ms" in told_nothing


@pytest.mark.parametrize(("warm", "cold"), [(None, None), (0, True), (20 * MIB, True), (20 * MIB + 1, False)])
def test_reads_are_cold_up_to_a_hundredth(warm: int | None, cold: bool | None) -> None:
    """Of what was read; the worst of the rounds counts."""
    rounds = samples((1, 1, 1, 0, None), (1, 1, 1, 0, warm), (1, 1, 1, 0, warm and 0))
    steps = [(step._replace(direction="read"), rounds) for step, _ in WRITES]
    found = result_of(*steps, nbytes=2000 * MIB)
    assert demo_report.as_dict(found)["reads_cold"] is cold
    assert ("Not cold: 20 MiB of 2 GiB" in demo_report.closing(found)) == (cold is False)


def test_checks_of_the_demo() -> None:
    good, bad = Check("a", 3 * GIB, None), Check("b", GIB // 2, "byte 7")
    found = result_of(*WRITES, checks=(good, good))
    assert "2 comparisons, 6 GiB" in " ".join(demo_report.closing(found).split())
    found = result_of(*WRITES, checks=(good, bad, good))
    assert "CHECKS FAILED: 1 of 3." in demo_report.closing(found)
    assert demo_report.as_dict(found)["ok"] is False


def test_the_demo_takes_no_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = {"path": {"file_system": "ext4"}}
    monkeypatch.setattr(_measure, "free_space", lambda folder: int(2.25 * 100 * MIB))
    monkeypatch.setattr(_measure, "available_memory", lambda: int(4.25 * 100 * MIB))
    demo_job._check_room(tmp_path, 100 * MIB, system)
    with pytest.raises(demo_job.DemoError, match="not enough space"):
        demo_job._check_room(tmp_path, 100 * MIB + 1, system)
    monkeypatch.setattr(_measure, "free_space", lambda folder: GIB)
    with pytest.raises(demo_job.DemoError, match="not enough memory"):
        demo_job._check_room(tmp_path, 100 * MIB + 1, system)
    with pytest.raises(demo_job.DemoError, match="not enough memory"):
        demo_job._check_room(tmp_path, 100 * MIB, {"path": {"file_system": "tmpfs"}})
