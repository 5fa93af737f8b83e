"""Folders on file systems of every kind the library meets. With GATHERIO_CI=1 the rules of ci_rules.py hold.

`disk_dir` is had everywhere, `tmpfs_dir` on Linux, and `quick_dir` is the latter where there is one. The others are
loop devices, made on first use, and need root:

    ext4_dir, xfs_dir, btrfs_dir   1 GiB each, 512-byte sectors
    xfs16k_dir, xfs64k_dir         the same with blocks larger than a page (Linux 6.12)
    sector4k_dir                   ext4 on a device with 4096-byte sectors, as on a 4Kn disk
    small_disk_dir                 ext4 with some 20 MiB of room, to be filled up

`fuse` mounts a file system whose server is told by the test how to fail (fuse.py); it needs root, too.

Each fixture gives a new, empty folder, which is removed after the test.

The conformance suite runs each test for every backend, direct and buffered, in several file systems: a test
that takes `open_file` (or `queue`, `direct`, `folder`) is run for each combination of what it takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ci_rules import WINDOWS_ONLY, Rules
from fuse import Fuse
from oracle import BACKENDS, ON_WINDOWS, ON_WINE, skip_on_windows

import gatherio as gio
from gatherio._formats import npy

collect_ignore = [] if ON_WINDOWS else WINDOWS_ONLY

TOOL_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps mkfs, also for plain users


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("GATHERIO_CI") == "1":
        config.pluginmanager.register(Rules(Path(__file__).parent))


# --- Wine ---

if ON_WINE:
    _begin = subprocess.Popen.__init__
    _INTERNAL_ERROR = 1359

    @functools.wraps(_begin)
    def _begin_again(self: subprocess.Popen[str], *arguments: object, **options: object) -> None:
        """Wine 8 fails to start a process once in thousands of times."""
        try:
            _begin(self, *arguments, **options)  # type: ignore[arg-type]
        except OSError as error:
            if error.winerror != _INTERNAL_ERROR:
                raise
            _begin(self, *arguments, **options)  # type: ignore[arg-type]

    subprocess.Popen.__init__ = _begin_again  # type: ignore[method-assign]


# --- signals ---


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts its background jobs with SIGINT ignored, and what they start ignores it, too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# --- settings ---


@pytest.fixture(autouse=True, scope="session")
def no_stored_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `gatherio tune` has stored on this machine is not for the tests."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("config")
        patch.setenv("LOCALAPPDATA" if ON_WINDOWS else "XDG_CONFIG_HOME", str(home))
        yield


# --- folders ---


def file_system_type(path: Path) -> str:
    """The name statfs gives it: "ext2/ext3", "xfs", "btrfs", "tmpfs", "overlayfs"."""
    command = ["stat", "--file-system", "--format=%T", path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gatherio-", dir=parent) as name:
        yield Path(name)


@functools.cache
def _disk() -> Path:
    """A place on this machine's own disk. Not pytest's tmp_path: /tmp may be a tmpfs."""
    path = Path(os.environ.get("GATHERIO_TEST_DIR", tempfile.gettempdir() if ON_WINDOWS else "/var/tmp"))
    if not ON_WINDOWS and file_system_type(path) in ("tmpfs", "ramfs"):
        pytest.skip(f"{path} is in memory: set GATHERIO_TEST_DIR to a folder on a disk")
    return path


@pytest.fixture
def disk_dir() -> Iterator[Path]:
    with _new_folder(_disk()) as folder:
        yield folder


@pytest.fixture
def tmpfs_dir() -> Iterator[Path]:
    skip_on_windows("it has no tmpfs")
    shm = Path("/dev/shm")
    if not shm.is_dir() or file_system_type(shm) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with _new_folder(shm) as folder:
        yield folder


@pytest.fixture
def quick_dir(request: pytest.FixtureRequest) -> Path:
    """For tests of what no file system changes: in memory, where it can be."""
    path: Path = request.getfixturevalue("disk_dir" if ON_WINDOWS else "tmpfs_dir")
    return path


# --- loop-mounted disks ---


class LoopDisk(NamedTuple):
    size_mib: int  # of a sparse image: what is not written costs nothing
    sector_size: int
    mkfs: list[str]


LOOP_DISKS = {
    # mkfs.xfs refuses less than 300 MiB; the rest is room for the tests.
    "ext4": LoopDisk(1024, 512, ["mkfs.ext4", "-q", "-F"]),
    "xfs": LoopDisk(1024, 512, ["mkfs.xfs", "-q", "-f"]),
    "xfs16k": LoopDisk(1024, 512, ["mkfs.xfs", "-q", "-f", "-b", "size=16384"]),
    "xfs64k": LoopDisk(1024, 512, ["mkfs.xfs", "-q", "-f", "-b", "size=65536"]),
    "btrfs": LoopDisk(1024, 512, ["mkfs.btrfs", "-q", "-f"]),
    "sector4k": LoopDisk(1024, 4096, ["mkfs.ext4", "-q", "-F"]),
    # No journal: freed blocks can be used at once. No reserve: root runs out of room like anybody.
    "small": LoopDisk(24, 512, ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal"]),
}
DEBIAN_PACKAGE = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, env={**os.environ, "PATH": TOOL_PATH}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


@functools.cache
def leave_the_mount_namespace() -> None:
    """What is mounted from now on is seen by this process and its children only, and goes with them."""
    clone_newns = 0x00020000  # os.unshare came with Python 3.12
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newns) != 0:
        error = ctypes.get_errno()
        pytest.skip(f"no mount namespace of our own to be had: {os.strerror(error)}")
    _run("mount", "--make-rprivate", "/")  # else our mounts would appear outside too


class LoopMounts:
    """The loop disks mounted so far, in a mount namespace of this process.

    Nothing is left behind whatever happens: the namespace goes with the process and takes the mounts along, a
    device detaches itself when it is unmounted, and an image has lost its name before the first test sees it.
    """

    def __init__(self, folder: Path, at_end: contextlib.ExitStack) -> None:
        self._folder = folder
        self._at_end = at_end
        self._mounted: dict[str, Path] = {}

    def mount(self, name: str) -> Path:
        if name not in self._mounted:
            self._require(LOOP_DISKS[name].mkfs[0])
            leave_the_mount_namespace()
            self._mounted[name] = self._make(name, LOOP_DISKS[name])
        return self._mounted[name]

    @staticmethod
    def _require(mkfs: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a loop device needs root")
        for tool, package in ((mkfs, DEBIAN_PACKAGE[mkfs]), ("losetup", "mount"), ("mount", "mount")):
            if shutil.which(tool, path=TOOL_PATH) is None:
                pytest.skip(f"needs {tool} (Debian: {package})")
        if not Path("/dev/loop-control").exists():
            pytest.skip("this kernel or container has no loop devices (/dev/loop-control)")

    def _make(self, name: str, disk: LoopDisk) -> Path:
        image = self._folder / f"{name}.img"
        mount_point = self._folder / name
        mount_point.mkdir()
        with image.open("wb") as file:
            file.truncate(disk.size_mib << 20)
        try:
            device = _run("losetup", "--find", "--show", "--sector-size", str(disk.sector_size), image)
        finally:
            image.unlink()  # the device holds on to it
        try:
            _run(*disk.mkfs, device)
            _run("mount", device, mount_point)
        finally:
            _run("losetup", "--detach", device)  # takes effect when the device is no longer mounted
        # Lazily: a failed test may still hold a file open.
        self._at_end.callback(_run, "umount", "--lazy", mount_point)
        return mount_point


@pytest.fixture(scope="session")
def loop_mounts() -> Iterator[LoopMounts]:
    skip_on_windows("it has no loop devices")
    with _new_folder(_disk()) as folder, contextlib.ExitStack() as at_end:
        yield LoopMounts(folder, at_end)


@pytest.fixture
def ext4_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("ext4")) as folder:
        yield folder


@pytest.fixture
def xfs_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("xfs")) as folder:
        yield folder


@pytest.fixture
def xfs16k_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("xfs16k")) as folder:
        yield folder


@pytest.fixture
def xfs64k_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("xfs64k")) as folder:
        yield folder


@pytest.fixture
def btrfs_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("btrfs")) as folder:
        yield folder


@pytest.fixture
def sector4k_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("sector4k")) as folder:
        yield folder


@pytest.fixture
def small_disk_dir(loop_mounts: LoopMounts) -> Iterator[Path]:
    with _new_folder(loop_mounts.mount("small")) as folder:
        yield folder


# --- a server that fails on request ---


@pytest.fixture
def fuse() -> Iterator[Callable[..., Fuse]]:
    """Mounts file systems of our own: ``fuse(**options)`` gives one, a `Fuse`, with its folder as `path`."""
    skip_on_windows("it has no /dev/fuse")
    if os.geteuid() != 0:
        pytest.skip("mounting a file system of our own needs root")
    if not Path("/dev/fuse").exists():
        pytest.skip("this kernel or container has no FUSE (/dev/fuse)")
    leave_the_mount_namespace()
    with _new_folder(_disk()) as folder, contextlib.ExitStack() as at_end:

        def mount(**options: object) -> Fuse:
            mount_point = Path(tempfile.mkdtemp(prefix="fuse-", dir=folder))
            return at_end.enter_context(Fuse(mount_point, **options))

        yield mount


# --- the conformance suite: backend x direct or buffered x file system ---


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    found = gio.info()["backends"][name]
    if not found["available"]:
        pytest.skip(found["reason"])
    return name


@pytest.fixture
def queue(backend: str) -> Iterator[gio.CompletionQueue]:
    with gio.CompletionQueue(backend=backend) as made:
        yield made


@pytest.fixture(params=[None, False], ids=["direct", "buffered"])
def direct(request: pytest.FixtureRequest) -> bool | None:
    """None: where the file system can. `direct=True` adds nothing but an error where it can't."""
    return request.param


@pytest.fixture(params=["disk"] if ON_WINDOWS else ["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(f"{request.param}_dir")
    return path


@pytest.fixture(params=["disk"] if ON_WINDOWS else ["disk", "tmpfs", "xfs", "btrfs", "sector4k"])
def any_folder(request: pytest.FixtureRequest) -> Path:
    """For the tests that are run on every file system we have."""
    path: Path = request.getfixturevalue(f"{request.param}_dir")
    return path


@pytest.fixture
def open_file(queue: gio.CompletionQueue, direct: bool | None) -> Callable[..., gio.File]:
    """`gio.open` for the backend and the way (direct or buffered) of this run."""
    return functools.partial(gio.open, direct=direct, queue=queue)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that large arrays go through, with small ones: many pieces, blocks and buffers."""
    monkeypatch.setattr(npy, "PIECE", 64 << 10)
    monkeypatch.setattr(npy, "FIRST_FAULTED_PIECE", 4 << 10)
    monkeypatch.setattr(npy, "BUFFER_BYTES", 64 << 10)
    monkeypatch.setattr(npy, "BLOCK_BYTES", 8 << 10)
