"""What is known of a device: asked once, and of no other device that has its number later."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TOOL_PATH, leave_the_mount_namespace
from oracle import MIB, needs_root, not_on_windows, require, run_python, strace

import gatherio as gio
from gatherio import _device
from gatherio import _settings as tuning
from gatherio._native import lib

if sys.platform != "win32":
    import fcntl

pytestmark = [not_on_windows("a volume has a serial number"), needs_root("loop devices")]

_LOOP_CTL_ADD, _LOOP_CTL_REMOVE = 0x4C80, 0x4C81


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, env={**os.environ, "PATH": TOOL_PATH}, stdout=subprocess.DEVNULL)


class Slot:
    """A loop device of our own, which holds one image after another, always mounted at the same place."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device = device
        self._folder = folder
        self.place = folder / "place"
        self.place.mkdir()

    def image(self, name: str, sector: int) -> Path:
        path = self._folder / name
        with path.open("wb") as file:
            file.truncate(32 * MIB)
        with self._attached(path, sector):
            run("mkfs.ext4", "-q", "-F", "-b", "4096", self.device)
        return path

    @contextlib.contextmanager
    def _attached(self, image: Path, sector: int) -> Iterator[None]:
        run("losetup", "--sector-size", str(sector), self.device, image)
        try:
            yield
        finally:
            run("losetup", "--detach", self.device)

    @contextlib.contextmanager
    def mounted(self, image: Path, sector: int) -> Iterator[Path]:
        with self._attached(image, sector):
            run("mount", self.device, self.place)
            try:
                yield self.place
            finally:
                run("umount", self.place)


@pytest.fixture
def slot(disk_dir: Path) -> Iterator[Slot]:
    for tool, package in (("losetup", "mount"), ("mkfs.ext4", "e2fsprogs")):
        require(tool, package)
    leave_the_mount_namespace()
    with open("/dev/loop-control") as control:
        number = 4000 + os.getpid() % 1000  # not among those that others are given
        fcntl.ioctl(control, _LOOP_CTL_ADD, number)
        try:
            yield Slot(f"/dev/loop{number}", disk_dir)
        finally:
            fcntl.ioctl(control, _LOOP_CTL_REMOVE, number)


def mounts_are_told_apart() -> bool:
    """Linux 6.8: else everything is asked each time."""
    return bool(lib.gio_mount_of(b"/"))


def test_a_device_is_asked_once_and_the_next_one_anew(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same number, and another sector size."""
    script = """
        import os, subprocess, sys
        import gatherio as gio
        device, place = sys.argv[1:3]
        seen = set()
        for image, sector in zip(sys.argv[3::2], sys.argv[4::2]):
            subprocess.run(["losetup", "--sector-size", sector, device, image], check=True)
            subprocess.run(["mount", device, place], check=True)
            for name in "abcde":
                with gio.open(f"{place}/{name}", "w+") as f, gio.open(f"{place}/{name}", direct=False):
                    assert f.direct and f.alignment == int(sector)
                    seen.add(os.stat(place).st_dev)
            subprocess.run(["umount", place], check=True)
            subprocess.run(["losetup", "--detach", device], check=True)
        assert len(seen) == 1
    """
    images = [argument for sector in (512, 4096) for argument in (slot.image(f"{sector}", sector), sector)]
    log = tmp_path / "log"
    monkeypatch.setenv("PATH", TOOL_PATH)
    run_python(script, slot.device, slot.place, *images, *images[:2], under=strace(log, "-e", "trace=openat"))
    minor = os.minor(os.stat(slot.device).st_rdev)
    asked = re.findall(rf'openat\(AT_FDCWD, "/sys/dev/block/\d+:{minor}/queue/max_segments"', log.read_text())
    assert len(asked) == (3 if mounts_are_told_apart() else 15)


def test_stored_settings_are_for_no_other_device_with_the_same_number(
    slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first, second = slot.image("first", 512), slot.image("second", 512)
    numbers: set[int] = set()
    identities: set[str] = set()
    for image, expected in ((first, True), (second, False), (first, True)):
        with slot.mounted(image, 512) as place:
            if not numbers:
                tuning.store(place, tuning.Tuning(depth=7), {})
            numbers.add(os.stat(place).st_dev)
            identities.add(_device.identity(place))
            for _ in range(2):
                found = tuning.stored_for(place / "file")
                assert (found is not None) == expected
                with gio.open(place / "file", "w+") as f:
                    assert ("tuned by" in f.reason) == expected, f.reason
    assert len(numbers) == 1 and len(identities) == 2
