"""Other libraries that write arrays to files and read them: each at what it does best here.

A peer writes one array of 8-byte words into a folder of its own, and tells where its data stands there, so that it
can be checked by plain means. It is imported when it is first run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gatherio.probe import MIB

Array = npt.NDArray[Any]
#: Files that hold the data in its order; where in each it begins, and its length (None: to the end).
Pieces: TypeAlias = list[tuple[Path, int, int | None]]

CHUNK_BYTES: Final = 64 * MIB  # the best of what chunked stores were tried with
BLOCK_BYTES: Final = 4 * MIB  # of one request, for those that leave that to the caller
BLOCKS_IN_FLIGHT: Final = 16
FRAME_WORDS: Final = MIB  # of one frame of a stream: 8 MiB


@dataclass(frozen=True)
class Peer:
    """A library. What it does not do is None."""

    name: str
    module: str
    write: Callable[[Path, Array], object] | None
    read: Callable[[Path, int], Array] | None  # given the folder and the number of bytes
    pieces: Callable[[Path, int], Pieces]
    in_extra: bool = True  # `gatherio[bench]` installs it

    def missing(self) -> str:
        """Why it cannot be run, or ""."""
        try:
            found = find_spec(self.module)
        except (ImportError, ValueError):
            found = None
        if found is not None:
            return ""
        return f"{self.name} is not installed" + (": pip install 'gatherio[bench]'" if self.in_extra else "")


def _only(path: Path) -> Callable[[Path, int], Pieces]:
    """All the data at the end of one file."""

    def pieces(folder: Path, nbytes: int) -> Pieces:
        return [(folder / path, max(0, (folder / path).stat().st_size - nbytes), None)]

    return pieces


def _chunks(pattern: str, chunk_bytes: int | None = None) -> Callable[[Path, int], Pieces]:
    """Files named by their number, of a store in chunks along one dimension."""

    def pieces(folder: Path, nbytes: int) -> Pieces:
        def number(path: Path) -> tuple[int, ...]:
            return tuple(int(part) for part in path.relative_to(folder).parts if part.isdigit())

        length = None if chunk_bytes is None else min(chunk_bytes, nbytes)  # an index follows it
        return [(path, 0, length) for path in sorted((p for p in folder.glob(pattern) if p.name.isdigit()), key=number)]

    return pieces


# --- stores in chunks ---


def _zarr_write(folder: Path, array: Array) -> None:
    zarr: Any = import_module("zarr")
    store = str(folder / "a.zarr")
    chunk = min(array.size, CHUNK_BYTES // array.itemsize)
    target = zarr.create_array(store=store, shape=array.shape, chunks=(chunk,), dtype=array.dtype, compressors=None)
    target[:] = array


def _zarr_read(folder: Path, nbytes: int) -> Array:
    zarr: Any = import_module("zarr")
    array: Array = zarr.open_array(str(folder / "a.zarr"), mode="r")[:]
    return array


def _tensorstore(folder: Path, **options: Any) -> Any:
    tensorstore: Any = import_module("tensorstore")
    kvstore = {"driver": "file", "path": str(folder / "a.ts")}
    return tensorstore.open({"driver": "zarr", "kvstore": kvstore, **options.pop("spec", {})}, **options).result()


def _tensorstore_write(folder: Path, array: Array) -> None:
    chunk = min(array.size, CHUNK_BYTES // array.itemsize)
    metadata = {"shape": [array.size], "chunks": [chunk], "dtype": "<u8", "compressor": None, "order": "C"}
    _tensorstore(folder, spec={"metadata": metadata}, create=True).write(array).result()


def _tensorstore_read(folder: Path, nbytes: int) -> Array:
    array: Array = _tensorstore(folder).read().result()
    return array


def _acquire_zarr_write(folder: Path, array: Array) -> None:
    zarr: Any = import_module("acquire_zarr")
    side = 1024
    frames = array.reshape(-1, min(array.size, FRAME_WORDS) // side, side)
    sizes = {"t": 0, "y": frames.shape[1], "x": side}
    kinds = {"t": zarr.DimensionType.TIME}
    dimensions = [
        zarr.Dimension(
            name=name,
            kind=kinds.get(name, zarr.DimensionType.SPACE),
            array_size_px=size,
            chunk_size_px=size or 1,
            shard_size_chunks=1,
        )
        for name, size in sizes.items()
    ]
    settings = zarr.ArraySettings(dimensions=dimensions, data_type=zarr.DataType.UINT64)
    stream = zarr.ZarrStream(
        zarr.StreamSettings(arrays=[settings], store_path=str(folder / "a.acquire"), overwrite=True)
    )
    stream.append(frames)
    stream.close()


# --- one file ---


def _h5py_write(folder: Path, array: Array) -> None:
    h5py: Any = import_module("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a", data=array)


def _h5py_read(folder: Path, nbytes: int) -> Array:
    h5py: Any = import_module("h5py")
    with h5py.File(folder / "a.h5", "r") as file:
        array: Array = file["a"][...]
    return array


def _h5py_pieces(folder: Path, nbytes: int) -> Pieces:
    h5py: Any = import_module("h5py")
    with h5py.File(folder / "a.h5", "r") as file:
        return [(folder / "a.h5", int(file["a"].id.get_offset()), nbytes)]


def _safetensors_write(folder: Path, array: Array) -> None:
    numpy_part: Any = import_module("safetensors.numpy")
    numpy_part.save_file({"a": array}, folder / "a.safetensors")


def _safetensors_read(folder: Path, nbytes: int) -> Array:
    numpy_part: Any = import_module("safetensors.numpy")
    array: Array = numpy_part.load_file(folder / "a.safetensors")["a"]
    return array


def _obstore_write(folder: Path, array: Array) -> None:
    obstore: Any = import_module("obstore")
    store = import_module("obstore.store").LocalStore(prefix=str(folder))
    obstore.put(store, "a.object", array.data.cast("B"))


def _obstore_read(folder: Path, nbytes: int) -> Array:
    obstore: Any = import_module("obstore")
    store = import_module("obstore.store").LocalStore(prefix=str(folder))
    return np.frombuffer(obstore.get(store, "a.object").bytes(), np.uint64)


def _caio(folder: Path, transfer: Callable[[Any, int, int], Any], nbytes: int, flags: int) -> None:
    """Blocks of a file through caio, several in flight."""
    caio: Any = import_module("caio")

    async def blocks() -> None:
        descriptor = os.open(folder / "a.caio", flags | getattr(os, "O_BINARY", 0), 0o644)
        try:
            async with caio.AsyncioContext(max_requests=BLOCKS_IN_FLIGHT) as context:
                starts = range(0, nbytes, BLOCK_BYTES)
                await asyncio.gather(*(transfer(context, descriptor, start) for start in starts))
        finally:
            os.close(descriptor)

    asyncio.run(blocks())


def _caio_write(folder: Path, array: Array) -> None:
    view = array.data.cast("B")

    async def write(context: Any, descriptor: int, start: int) -> None:
        await context.write(bytes(view[start : start + BLOCK_BYTES]), descriptor, start)

    _caio(folder, write, array.nbytes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def _caio_read(folder: Path, nbytes: int) -> Array:
    array = np.empty(nbytes, np.uint8)

    async def read(context: Any, descriptor: int, start: int) -> None:
        part = await context.read(min(BLOCK_BYTES, nbytes - start), descriptor, start)
        array[start : start + len(part)] = np.frombuffer(part, np.uint8)

    _caio(folder, read, nbytes, os.O_RDONLY)
    return array.view(np.uint64)


# --- those that are only run where they are installed already ---


def _deepspeed_handle() -> Any:
    builder: Any = import_module("deepspeed.ops.op_builder")
    return builder.AsyncIOBuilder().load(verbose=False).aio_handle(8 * MIB, 32, False, True, 1)


def _deepspeed_write(folder: Path, array: Array) -> None:
    torch: Any = import_module("torch")
    _deepspeed_handle().sync_pwrite(torch.from_numpy(array.view(np.uint8)), str(folder / "a.aio"))


def _deepspeed_read(folder: Path, nbytes: int) -> Array:
    torch: Any = import_module("torch")
    handle = _deepspeed_handle()
    tensor = handle.new_cpu_locked_tensor(nbytes, torch.empty(0, dtype=torch.uint8))
    handle.sync_pread(tensor, str(folder / "a.aio"))
    array: Array = tensor.numpy().view(np.uint64)
    return array


def _runai_read(folder: Path, nbytes: int) -> Array:
    streamer: Any = import_module("runai_model_streamer")
    with streamer.SafetensorsStreamer() as stream:
        stream.stream_file(str(folder / "a.safetensors"))
        array: Array = next(tensor.numpy().copy() for _, tensor in stream.get_tensors())
    return array.view(np.uint64)


def _runai_file(folder: Path, array: Array) -> None:
    """What it reads, as it writes nothing."""
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (array.nbytes, array.nbytes)
    with open(folder / "a.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        array.tofile(file)


PEERS: Final = (
    Peer("zarr", "zarr", _zarr_write, _zarr_read, _chunks("a.zarr/c/*")),
    Peer("tensorstore", "tensorstore", _tensorstore_write, _tensorstore_read, _chunks("a.ts/*")),
    Peer("h5py", "h5py", _h5py_write, _h5py_read, _h5py_pieces),
    Peer("safetensors", "safetensors", _safetensors_write, _safetensors_read, _only(Path("a.safetensors"))),
    Peer("caio", "caio", _caio_write, _caio_read, _only(Path("a.caio"))),
    Peer("obstore", "obstore", _obstore_write, _obstore_read, _only(Path("a.object"))),
    Peer("acquire-zarr", "acquire_zarr", _acquire_zarr_write, None, _chunks("a.acquire/**/c/*/0/0", 8 * FRAME_WORDS)),
    Peer("deepspeed aio", "deepspeed", _deepspeed_write, _deepspeed_read, _only(Path("a.aio")), in_extra=False),
    Peer(
        "runai-model-streamer", "runai_model_streamer", None, _runai_read, _only(Path("a.safetensors")), in_extra=False
    ),
)
#: What a peer that only reads is given.
WRITTEN_FOR: Final[dict[str, Callable[[Path, Array], object]]] = {"runai-model-streamer": _runai_file}


def loss(peer: Peer, folder: Path, expected: Array) -> str:
    """What is missing or wrong in what a peer has written, read by plain means; empty if nothing is."""
    found, at = _stored_words(peer.pieces(folder, expected.nbytes)), 0
    for words in found:
        part = expected[at : at + words.size]
        if not np.array_equal(words[: part.size], part):
            return f"wrong from byte {(at + int(np.argmax(words[: part.size] != part))) * 8} on"
        at += words.size
    missing = expected.nbytes - 8 * at
    return f"{missing} of {expected.nbytes} bytes are missing" if missing > 0 else ""


def _stored_words(pieces: Pieces) -> Iterator[npt.NDArray[np.uint64]]:
    for path, start, length in pieces:
        left = path.stat().st_size - start if length is None else length
        with open(path, "rb") as file:
            file.seek(start)
            while part := file.read(min(left, 8 * MIB)):
                left -= len(part)
                yield np.frombuffer(part[: len(part) - len(part) % 8], np.uint64)
