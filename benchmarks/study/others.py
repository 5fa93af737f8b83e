"""The section of the peers: gatherio, numpy and other libraries save an array for good, and load it, cold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gatherio import _measure
from gatherio._formats import npy
from gatherio.probe import Array, Run, measured, settle

from . import numpy_ways
from .bed import Bed
from .groups import Contender, Group
from .peers import PEERS, WRITTEN_FOR, Peer, loss


def peers(bed: Bed) -> Iterator[Group]:
    """The section's groups: a comparison each, of three rounds."""
    yield _group(bed, "write", "write, durable")
    yield _group(bed, "read", "read, cold")


def _group(bed: Bed, how: str, name: str) -> Group:
    ours = Contender("gatherio", partial(_ours, bed, how), {"how": how, "library": "gatherio"})
    usual = Contender(
        "np.save + fsync" if how == "write" else "np.load", partial(_numpy, bed, how), {"how": how, "library": "numpy"}
    )
    contenders = [ours, usual]
    for peer in PEERS:
        call = peer.write if how == "write" else peer.read
        if call is None:
            continue
        run = partial(_written if how == "write" else _read, bed, peer)
        missing = peer.missing()
        axes = {"how": how, "library": peer.name}
        contenders.append(Contender(peer.name, None if missing else run, axes, missing, foreign=True))
    done = partial(_remove_all, bed)
    return Group("peers", name, contenders, bed.extent.few_rounds, touched_bytes=bed.touched_bytes, done=done)


def _array(bed: Bed) -> Array:
    return bed.array().view(np.uint64)


def _folder(bed: Bed, name: str) -> Path:
    """An empty folder for one of them; there is room for one at a time."""
    _remove_all(bed)
    settle(bed.folder)
    folder = bed.folder / f"peer-{name.replace(' ', '-')}"
    folder.mkdir()
    return folder


def _remove_all(bed: Bed) -> None:
    for folder in bed.folder.glob("peer-*"):
        shutil.rmtree(folder)


def _flush(folder: Path) -> None:
    """Bring every file to stable storage, and its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            _measure.flush_to_disk(path)


# --- ours and numpy's ---


def _ours(bed: Bed, how: str) -> Run:
    array, path = _array(bed), _folder(bed, "gatherio") / "a.npy"
    if how == "write":
        return measured(lambda: npy.save(path, array, durable=True), array.nbytes, flush=lambda: None)
    npy.save(path, array, durable=True)
    return measured(lambda: npy.load(path), array.nbytes, reads=path)


def _numpy(bed: Bed, how: str) -> Run:
    array, path = _array(bed), _folder(bed, "numpy") / "a.npy"
    if how == "write":
        return numpy_ways.save_and_fsync(path, array)
    npy.save(path, array, durable=True)
    return measured(lambda: np.load(path), array.nbytes, reads=path)


# --- theirs ---


def _written(bed: Bed, peer: Peer) -> Run:
    assert peer.write is not None
    array, folder, write = _array(bed), _folder(bed, peer.name), peer.write
    run = measured(lambda: write(folder, array), array.nbytes, flush=lambda: _flush(folder))
    return replace(run, loss=loss(peer, folder, array))


def _read(bed: Bed, peer: Peer) -> Run:
    assert peer.read is not None
    array, folder, read = _array(bed), _folder(bed, peer.name), peer.read
    write = peer.write or WRITTEN_FOR[peer.name]
    write(folder, array)
    _flush(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            _measure.drop_from_cache(path)
    found: list[Array] = []
    run = measured(lambda: found.append(read(folder, array.nbytes)), array.nbytes)
    same = found[0].size == array.size and np.array_equal(found[0].reshape(-1), array)
    return replace(run, loss="" if same else "what it has read is not what was written")
