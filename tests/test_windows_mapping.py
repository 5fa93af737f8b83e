"""What is Windows' own in locks and mappings. Everything else is in the tests for all systems."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from oracle import KIB, PAGE, target, words

import gatherio as gio
from gatherio._native import lib


@pytest.fixture
def path(disk_dir: Path) -> Iterator[Path]:
    path = disk_dir / "file"
    path.write_bytes(words(0, 64 * KIB))
    yield path


def test_what_is_locked_goes_through_the_handle_that_has_the_lock(path: Path, backend: str) -> None:
    """Windows binds locks to a handle, and a direct file has two."""
    pages = [gio.full(PAGE, i, "u1") for i in range(8)]
    with gio.CompletionQueue(backend=backend) as queue, gio.open(path, "r+", queue=queue) as f:
        f.write_gather(pages, 0).result()
        before = queue.stats()
        assert before["ragged"] == 0
        with f.lock(PAGE + 5, 10):
            f.write_gather(pages, 0).result()
            assert queue.stats()["ragged"] > 0 and queue.stats()["gathers"] == before["gathers"]
            ragged = queue.stats()["ragged"]
            array = target(8 * PAGE)
            assert f.read_at(array, 0).result() == 8 * PAGE
            assert queue.stats()["ragged"] > ragged
            ragged = queue.stats()["ragged"]
            f.write_gather(pages[2:], 2 * PAGE).result()  # beside it
            assert queue.stats()["ragged"] == ragged
        assert (array.reshape(8, PAGE) == np.arange(8)[:, None]).all()


def test_a_refusal_of_the_system_is_told_as_one(path: Path, queue: gio.CompletionQueue) -> None:
    error_lock_violation = 33
    with gio.open(path, "r+", queue=queue) as f:
        for call in (f.write_at, f.read_at):
            assert lib.gio_queue_fault(queue._native, lib.GIO_FAULT_FAIL, 0, 1, error_lock_violation) == 0
            with pytest.raises(gio.LockedError) as caught:
                call(gio.zeros(PAGE, "u1"), 0).result()
            assert caught.value.winerror == error_lock_violation and caught.value.errno == errno.EACCES
