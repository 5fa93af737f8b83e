"""Objects that stand for something of this process: neither copied nor pickled; sets of them while others are made."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import not_on_windows

import gatherio as gio


@pytest.mark.parametrize(
    "way",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda thing, p=p: pickle.dumps(thing, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
)
@pytest.mark.parametrize("kind", ["File", "CompletionQueue", "Operation", "Pool", "Lock"])
def test_handles_are_not_copied(disk_dir: Path, kind: str, way: Callable[[Any], object]) -> None:
    with gio.CompletionQueue() as q, gio.open(disk_dir / "file", "w+", queue=q) as f, gio.Pool(2, 10) as pool:
        operation = f.write_at(gio.zeros(10, "u1"), 0)
        thing = {"File": f, "CompletionQueue": q, "Operation": operation, "Pool": pool, "Lock": f.lock(0, 5)}[kind]
        with pytest.raises(TypeError, match=f"gatherio.{kind} .*cannot be copied or pickled: .{{10}}"):
            way(thing)
        assert operation.result() == 10  # and nothing has happened to any of them
        assert f.write_at(gio.zeros(10, "u1"), 0).result() == 10
        assert f.size == 10
        pool.release(pool.acquire())


@not_on_windows("it has no registered memory")
def test_a_registration_is_not_copied() -> None:
    with gio.CompletionQueue(backend="uring") as q, q.register(gio.zeros(4096, "u1")) as registration:
        with pytest.raises(TypeError, match="Registration"):
            copy.copy(registration)


@pytest.mark.parametrize("way", ["unlocked", "closed", "left"])
def test_a_lock_that_was_given_back_protects_nothing(disk_dir: Path, way: str) -> None:
    with gio.open(disk_dir / "file", "w+") as f:
        lock = f.lock(0, 10)
        if way == "unlocked":
            lock.unlock()
        elif way == "closed":
            f.close()
        else:
            with lock:
                pass
        with pytest.raises(ValueError, match="given back"), lock:
            raise AssertionError("unprotected")


@pytest.mark.parametrize("what", ["queues", "files", "default queues"])
def test_made_by_many_threads_at_once(disk_dir: Path, what: str) -> None:
    failures: list[BaseException] = []
    shared = gio.CompletionQueue(depth=4)
    (disk_dir / "file").write_bytes(b"x")

    def make(number: int) -> None:
        try:
            for i in range(60):
                if what == "queues":
                    gio.CompletionQueue(depth=2).close()
                elif what == "files":
                    gio.open(disk_dir / "file", queue=shared).close()
                else:
                    gio.open(disk_dir / "file", tuning={"depth": 5 + i % 3}).close()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.close()
    assert not failures, failures


def test_get_hands_out_in_the_order_of_finishing(disk_dir: Path) -> None:
    with gio.CompletionQueue(backend="sync") as q, gio.open(disk_dir / "file", "w+", queue=q) as f:
        operations = [f.write_at(gio.zeros(8, "u1"), 8 * i) for i in range(1000)]
        found = []
        while len(found) < 1000:
            found += q.get(max=7)
        assert found == operations


def test_an_operation_tells_what_it_is(disk_dir: Path) -> None:
    tags = [object(), "frame 7", None, 5, (1, 2), ["mutable"]]
    page = gio.zeros(4096, "u1")
    with gio.CompletionQueue() as q, gio.open(disk_dir / "file", "w+", queue=q) as f:
        operations = [
            f.write_gather([page, page], 4096, tag=tags[0]),
            f.write_at(page[:5], 7, tag=tags[1]),
            f.write_many([page, page[:10]], [100, 5], tag=tags[2]),
        ]
        gio.wait(operations)
        operations += [
            f.read_scatter([page], 0, tag=tags[3]),
            f.read_at(gio.empty(5, "u1"), 7, tag=tags[4]),
            f.read_many([gio.empty(3, "u1")], [9], tag=tags[5]),
        ]
        gio.wait(operations)
        assert [operation.tag for operation in operations] == tags
        assert all(operation.file is f for operation in operations)
        assert [operation.nbytes for operation in operations] == [8192, 5, 4106, 4096, 5, 3]
        assert [np.asarray(operation.offset).tolist() for operation in operations] == [4096, 7, [100, 5], 0, 7, [9]]
        for name in ("file", "offset", "nbytes"):
            with pytest.raises(AttributeError):
                setattr(operations[0], name, None)
        operations[0].tag = "another"
        assert operations[0].tag == "another"
