"""A file takes another one's place: rights, links, names, what is left behind; numpy.save is the oracle.

On Linux each test is run both ways: with files that have no name while they are written, and with a temporary name, as
on file systems that have no O_TMPFILE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import leave_the_mount_namespace
from fuse import Fuse
from oracle import ON_WINDOWS, needs_root, not_on_windows, require, run_python, strace

import gatherio as gio
from gatherio._core import replace as _replace
from gatherio._formats import npy

pytestmark = not_on_windows("rights, links and names are of another kind there")

NOBODY = 65534
ALICE, BOB, TEAM, GUESTS = 20_001, 20_002, 20_100, 20_200
ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF

OLD, NEW = np.arange(5), np.arange(70_000)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """As in <linux/posix_acl_xattr.h>: a version, then tag, rights and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def refuse(*arguments: object, **options: object) -> int:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.fixture(params=["unnamed", "named"], autouse=not ON_WINDOWS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    way: str = request.param
    if way == "named":
        monkeypatch.setattr(_replace, "_unnamed", refuse)
    return way


@pytest.fixture(autouse=not ON_WINDOWS)
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@contextlib.contextmanager
def user(uid: int, *groups: int) -> Iterator[None]:
    """Be an ordinary user for a while."""
    before = os.getgroups()
    os.setgroups(groups[1:])
    os.setegid(groups[0] if groups else uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@pytest.fixture
def folder(disk_dir: Path) -> Path:
    """One that everybody may enter."""
    disk_dir.chmod(0o755)
    return disk_dir


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def rights(path: Path) -> dict[str, Any]:
    found = path.stat()
    names = sorted(os.listxattr(path))
    return {
        "mode": oct(stat.S_IMODE(found.st_mode)),
        "owner": found.st_uid,
        "group": found.st_gid,
        **{name: os.getxattr(path, name) for name in names},
    }


def old_file(path: Path, mode: int = 0o644, owner: int = 0, group: int = 0, **attributes: bytes) -> Path:
    np.save(path, OLD)
    os.chown(path, owner, group)
    path.chmod(mode)
    for name, value in attributes.items():
        os.setxattr(path, {"acl": ACL}.get(name, f"user.{name}"), value)
    return path


def save(path: Path | str, **options: Any) -> None:
    gio.save(path, NEW, **options)
    assert np.array_equal(np.load(path), NEW)


# --- rights ---

TEAM_ONLY = acl((USER_OBJ, 6, NO_ID), (USER, 6, BOB), (GROUP_OBJ, 0, NO_ID), (MASK, 6, NO_ID), (OTHER, 0, NO_ID))
FOR_GUESTS = acl((USER_OBJ, 6, NO_ID), (USER, 4, BOB), (GROUP_OBJ, 4, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID))
READ_ONLY_OWNER = acl(
    (USER_OBJ, 4, NO_ID), (GROUP_OBJ, 6, NO_ID), (GROUP, 6, TEAM), (MASK, 6, NO_ID), (OTHER, 4, NO_ID)
)


@needs_root("to give files away")
@pytest.mark.parametrize(
    "old",
    [
        {"mode": 0o600},
        {"mode": 0o640, "group": TEAM},
        {"mode": 0o666, "owner": ALICE, "group": TEAM},
        {"mode": 0o444},
        {"mode": 0o000, "owner": ALICE},
        {"mode": 0o755, "owner": ALICE, "note": b"keep me", "empty": b""},
        {"mode": 0o600, "group": TEAM, "acl": TEAM_ONLY, "note": b"\0\xff" * 100},
        {"mode": 0o600, "owner": ALICE, "group": TEAM, "acl": READ_ONLY_OWNER},
    ],
    ids=str,
)
@pytest.mark.parametrize("default_acl", [None, FOR_GUESTS], ids=["", "default ACL"])
def test_a_file_that_replaces_another_has_its_rights(
    old: dict[str, Any], default_acl: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before the first byte on; as with numpy.save, which writes into the old one."""
    ours, theirs = old_file(folder / "ours.npy", **old), old_file(folder / "theirs.npy", **old)
    os.setxattr(ours, "trusted.note", b"for root")
    os.setxattr(theirs, "trusted.note", b"for root")
    if default_acl:
        os.setxattr(folder, DEFAULT_ACL, default_acl)
    np.save(theirs, NEW)
    expected = rights(theirs)
    seen = []

    def opened(path: str, *arguments: Any, **options: Any) -> gio.File:
        seen.append(rights(Path(path)))
        assert os.stat(path).st_size == 0
        return gio.open(path, *arguments, **options)

    monkeypatch.setattr(npy, "open_file", opened)
    save(ours)
    assert rights(ours) == expected
    (early,) = seen
    if old["mode"] & 0o600 == 0o600 and old.get("acl") != READ_ONLY_OWNER:
        assert early == expected
    else:  # its owner may write to it until it is whole
        assert {**early, "mode": "", ACL: b""} == {**expected, "mode": "", ACL: b""}
        assert int(early["mode"], 8) == int(expected["mode"], 8) | 0o600
    assert names_in(folder) == ["ours.npy", "theirs.npy"]


@needs_root("to be somebody else")
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_nobody_else_reads_what_is_being_saved(
    mode: int, way: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when the new file is made, nor when it is opened, nor later."""
    path = old_file(folder / "a.npy", mode, ALICE, TEAM)
    looks = 0

    def look(*arguments: object) -> None:
        nonlocal looks
        looks += 1
        with user(BOB, GUESTS):
            for name in names_in(folder):
                with pytest.raises(PermissionError):
                    os.close(os.open(folder / name, os.O_RDONLY))

    made = os.open

    def make(name: Any, flags: int, *arguments: Any, **options: Any) -> int:
        descriptor = made(name, flags, *arguments, **options)
        if flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE:
            assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
            monkeypatch.setattr(os, "open", made)
            look()
        return descriptor

    def opened(*arguments: Any, **options: Any) -> gio.File:
        look()
        return gio.open(*arguments, **options)

    monkeypatch.setattr(npy, "open_file", opened)
    monkeypatch.setattr(os, "open", make)
    save(path, progress=look)
    assert looks >= 3
    assert names_in(folder) == ["a.npy"]


@needs_root("to be somebody else")
@pytest.mark.parametrize(
    ("old", "groups", "expected"),
    [
        # One may give a file to a group that one is in,
        ({"mode": 0o664, "owner": ALICE, "group": TEAM}, (GUESTS, TEAM), (0o664, TEAM)),
        ({"mode": 0o660, "owner": ALICE, "group": TEAM}, (TEAM,), (0o660, TEAM)),
        # and to no other: then nobody has more rights than he had, in whatever group he is.
        ({"mode": 0o666, "owner": ALICE, "group": TEAM}, (GUESTS,), (0o666, GUESTS)),
        ({"mode": 0o646, "owner": ALICE, "group": TEAM}, (GUESTS,), (0o644, GUESTS)),
        ({"mode": 0o662, "owner": ALICE, "group": TEAM}, (GUESTS,), (0o622, GUESTS)),
        ({"mode": 0o606, "owner": ALICE, "group": TEAM}, (GUESTS,), (0o600, GUESTS)),
        ({"mode": 0o6675, "owner": BOB, "group": TEAM}, (GUESTS,), (0o655, GUESTS)),
        ({"mode": 0o664, "owner": BOB, "group": GUESTS}, (GUESTS,), (0o664, GUESTS)),
        ({"mode": 0o200, "owner": BOB, "group": GUESTS}, (GUESTS,), (0o200, GUESTS)),
        ({"mode": 0o464, "owner": ALICE, "group": TEAM}, (TEAM,), (0o464, TEAM)),
        # Without its group an ACL is not the old one.
        ({"mode": 0o660, "owner": ALICE, "group": TEAM, "acl": TEAM_ONLY}, (GUESTS,), (0o600, GUESTS)),
        ({"mode": 0o660, "owner": ALICE, "group": GUESTS, "acl": TEAM_ONLY}, (GUESTS,), (0o660, GUESTS)),
    ],
    ids=str,
)
def test_what_an_ordinary_user_cannot_keep_leaves_fewer_rights(
    old: dict[str, Any], groups: tuple[int, ...], expected: tuple[int, int], folder: Path
) -> None:
    folder.chmod(0o777)
    path = old_file(folder / "a.npy", **old)
    before = rights(path)
    with user(BOB, *groups):
        gio.save(path, NEW)
    assert np.array_equal(np.load(path), NEW)
    found = path.stat()
    assert found.st_uid == BOB
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == expected
    assert rights(path).get(ACL) == (before.get(ACL) if found.st_gid == old["group"] else None)
    assert names_in(folder) == ["a.npy"]


@needs_root("to be somebody else")
def test_a_file_system_without_chmod(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file has the old one's mode all the same, or a narrower one; and nothing fails."""
    for number in (errno.EPERM, errno.EOPNOTSUPP):

        def no(*arguments: object) -> None:
            raise OSError(number, os.strerror(number))  # noqa: B023

        for call in ("fchmod", "fchown", "setxattr", "removexattr"):
            monkeypatch.setattr(os, call, no)
        for mode in (0o600, 0o644, 0o640):
            path = folder / f"{mode:o}.npy"
            np.save(path, OLD)
            os.chmod(path, mode)
            save(path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
        path = folder / "team.npy"
        np.save(path, OLD)
        os.chown(path, 0, TEAM)
        os.chmod(path, 0o664)
        save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_gid == 0
    assert names_in(folder) == ["600.npy", "640.npy", "644.npy", "team.npy"]


@needs_root("to set them")
def test_an_acl_that_cannot_be_set_leaves_the_owner_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_file(folder / "a.npy", 0o660, ALICE, TEAM, acl=TEAM_ONLY)
    monkeypatch.setattr(os, "setxattr", refuse)
    save(path)
    assert rights(path) == {"mode": "0o600", "owner": ALICE, "group": TEAM}


@needs_root("to set them")
def test_rights_of_a_program_do_not_pass_to_new_content(folder: Path) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    for name, store in (("ours.npy", gio.save), ("theirs.npy", np.save)):
        path = old_file(folder / name)
        path.chmod(0o6755)
        os.setxattr(path, "security.capability", capability)
        store(path, NEW)  # type: ignore[operator]
        assert os.listxattr(path) == []
    assert stat.S_IMODE((folder / "ours.npy").stat().st_mode) == 0o755


@needs_root("to be somebody else")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077, 0o222, 0o777])
@pytest.mark.parametrize("default_acl", [None, FOR_GUESTS], ids=["", "default ACL"])
@pytest.mark.parametrize("folder_mode", [0o777, 0o2777], ids=["", "setgid"])
def test_a_new_file_has_the_rights_of_any_new_file(
    umask: int, default_acl: bytes | None, folder_mode: int, folder: Path
) -> None:
    os.chown(folder, -1, TEAM)
    folder.chmod(folder_mode)
    if default_acl:
        os.setxattr(folder, DEFAULT_ACL, default_acl)
    os.umask(umask)
    with user(BOB, GUESTS):
        np.save(folder / "theirs.npy", NEW)
        gio.save(folder / "ours.npy", NEW)
    assert rights(folder / "ours.npy") == rights(folder / "theirs.npy")
    assert (folder / "ours.npy").stat().st_gid == (TEAM if folder_mode & stat.S_ISGID else GUESTS)
    assert np.array_equal(np.load(folder / "ours.npy"), NEW)


@needs_root("to give files away")
def test_rights_on_every_file_system(any_folder: Path) -> None:
    for default_acl in (None, FOR_GUESTS):
        if default_acl:
            os.setxattr(any_folder, DEFAULT_ACL, default_acl)
        for mask in (0o022, 0o027):
            os.umask(mask)
            for name, store in (("ours", gio.save), ("theirs", np.save)):
                any_folder.joinpath(f"{name}.npy").unlink(missing_ok=True)
                store(any_folder / f"{name}.npy", NEW)  # type: ignore[operator]
            assert rights(any_folder / "ours.npy") == rights(any_folder / "theirs.npy")
    for old in ({"mode": 0o640, "owner": ALICE, "group": TEAM}, {"mode": 0o660, "group": TEAM, "acl": TEAM_ONLY}):
        path = any_folder / "ours.npy"
        path.unlink()
        old_file(path, **old)
        os.removexattr(path, ACL)
        old_file(path, **old)
        os.setxattr(path, "trusted.note", b"for root")
        before = rights(path)
        save(path)
        assert rights(path) == before
    assert names_in(any_folder) == ["ours.npy", "theirs.npy"]


# --- where the name leads ---


def test_a_relative_path_is_that_of_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = folder / "here", folder / "there"
    for path in (here, there, here / "deep"):
        path.mkdir()
    (here / "link").symlink_to("deep/a.npy")

    class Moves:
        """An array that takes its time."""

        def __array__(self, *arguments: object, **options: object) -> np.ndarray[Any, Any]:
            os.chdir(there)
            return NEW

    for name in ("a.npy", "deep/a.npy", "./a.npy", "link", "../here/a.npy"):
        for _ in range(2):  # new, and in the place of another
            for array, progress in ((NEW, lambda done, total: os.chdir(there)), (Moves(), None)):
                monkeypatch.chdir(here)
                gio.save(name, array, durable=True, progress=progress)
                assert np.array_equal(np.load(here / name), NEW)
    assert names_in(there) == [] and names_in(here) == ["a.npy", "deep", "link"]
    monkeypatch.chdir(here)
    with pytest.raises(ZeroDivisionError):
        gio.save("a.npy", NEW, progress=lambda done, total: os.chdir(there) or 1 / 0)
    assert names_in(there) == [] and names_in(here) == ["a.npy", "deep", "link"]


def test_a_folder_that_is_renamed_meanwhile(folder: Path) -> None:
    (folder / "before").mkdir()
    gio.save(folder / "before" / "a.npy", NEW, progress=lambda done, total: move_once(folder))
    assert np.array_equal(np.load(folder / "after" / "a.npy"), NEW)
    assert names_in(folder) == ["after"] and names_in(folder / "after") == ["a.npy"]


def move_once(folder: Path) -> None:
    if (folder / "before").exists():
        (folder / "before").rename(folder / "after")


@pytest.mark.parametrize("length", [4095, 4092, 4070])
def test_paths_of_every_length(length: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "x" * 200
    path = str(folder)
    monkeypatch.chdir(folder)
    while len(path) + len(part) + 1 < length - 205:
        os.mkdir(part)
        os.chdir(part)
        path = f"{path}/{part}"
    part = "y" * (length - len(path) - 10)
    os.mkdir(part)
    path = f"{path}/{part}/abcd.npy"
    assert len(path) == length
    os.chdir(folder)
    np.save(path, OLD)
    for _ in range(2):
        gio.save(path, NEW)
        assert np.array_equal(gio.load(path), NEW)
        os.unlink(path)
    gio.save(path, NEW)
    assert os.listdir(os.path.dirname(path)) == ["abcd.npy"]
    with pytest.raises(OSError) as caught:
        gio.save(path + "z" * (4096 - length), NEW)
    assert caught.value.errno == errno.ENAMETOOLONG and caught.value.filename == path + "z" * (4096 - length)


@pytest.mark.parametrize("name", ["", "none/a.npy", "file/a.npy", ".", "..", "/", "sub/", "sub", "n" * 256])
def test_names_of_no_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    (folder / "file").touch()
    with pytest.raises(OSError) as theirs:
        open(name, "wb").close()
    with pytest.raises(OSError) as ours:
        gio.save(name, NEW)
    assert (ours.value.errno, ours.value.filename) == (theirs.value.errno, name)
    assert names_in(folder) == ["file", "sub"]


@pytest.mark.parametrize(
    "target", ["real/a.npy", "chain", "{folder}/real/a.npy", "../{name}/real/a.npy", "real/../b.npy"]
)
@pytest.mark.parametrize("there", [True, False], ids=["", "dangling"])
def test_links_lead_where_the_system_says(target: str, there: bool, folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "chain").symlink_to("real/link")
    (folder / "real" / "link").symlink_to("a.npy")
    link = folder / "link"
    link.symlink_to(target.format(folder=folder, name=folder.name))
    if there:
        link.write_bytes(b"old")
    for _ in range(2):
        gio.save(link, NEW)
        assert link.is_symlink() and (folder / "chain").is_symlink() and (folder / "real" / "link").is_symlink()
        assert np.array_equal(np.load(link), NEW)
    assert set(names_in(folder)) <= {"real", "chain", "link", "b.npy"}
    assert set(names_in(folder / "real")) <= {"link", "a.npy"}


def test_links_that_lead_to_no_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    for target, number in (
        ("sub", errno.EISDIR),
        ("sub/", errno.EISDIR),
        ("none/a.npy", errno.ENOENT),
        (".", errno.EISDIR),
    ):
        link = folder / "link"
        link.symlink_to(target)
        with pytest.raises(OSError) as caught:
            gio.save(link, NEW)
        assert (caught.value.errno, caught.value.filename) == (number, str(link))
        link.unlink()
    (folder / "link").symlink_to("/dev/null")
    with pytest.raises(ValueError, match="no regular file"):
        gio.save(folder / "link", NEW)
    with open(folder / "gone", "wb") as file:
        os.unlink(folder / "gone")
        with pytest.raises(OSError) as caught:
            gio.save(f"/proc/self/fd/{file.fileno()}", NEW)
        assert caught.value.errno == errno.ESTALE
    assert names_in(folder) == ["link", "sub"]


@needs_root("to be somebody else")
def test_a_strangers_link_in_a_folder_of_everybodys_is_not_followed(folder: Path) -> None:
    """By the rules of fs.protected_symlinks, whether it is switched on or not."""
    secret = old_file(folder / "secret.npy", 0o600)
    public = folder / "public"
    public.mkdir()
    link = public / "link"

    def plant(owner: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(secret)
        os.chown(link, owner, owner, follow_symlinks=False)

    for mode, folder_owner, link_owner, followed in (
        (0o1777, 0, BOB, False),
        (0o1777, ALICE, BOB, False),
        (0o1777, BOB, BOB, True),
        (0o1777, ALICE, 0, True),
        (0o777, 0, BOB, True),
        (0o1755, 0, BOB, True),
    ):
        public.chmod(mode)
        os.chown(public, folder_owner, -1)
        for target in (secret, public / "new.npy"):
            secret = target
            plant(link_owner)
            if followed:
                save(link)
            else:
                with pytest.raises(PermissionError) as caught:
                    gio.save(link, NEW)
                assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(link))
                assert np.array_equal(np.load(folder / "secret.npy"), OLD) and names_in(public) == ["link"]
        secret = old_file(folder / "secret.npy", 0o600)
        with contextlib.suppress(FileNotFoundError):
            (public / "new.npy").unlink()


def test_a_temporary_name_that_is_taken_away(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to the folder can put something else there: it is neither moved nor removed."""
    path = folder / "a.npy"
    np.save(path, OLD)
    put = _replace.Target.leads_to

    def swap_and_look(target: _replace.Target, name: str, expected: os.stat_result) -> bool:
        temporary = folder / name
        if temporary.stat().st_size > NEW.nbytes and not temporary.stat().st_uid == NOBODY:
            temporary.unlink()
            temporary.write_text("a stranger's")
        return put(target, name, expected)

    monkeypatch.setattr(_replace.Target, "leads_to", swap_and_look)
    with pytest.raises(OSError, match="temporary name") as caught:
        gio.save(path, NEW)
    assert (caught.value.errno, caught.value.filename) == (errno.ESTALE, str(path))
    assert np.array_equal(np.load(path), OLD)
    (planted,) = set(folder.iterdir()) - {path}
    assert planted.read_text() == "a stranger's"
    monkeypatch.undo()
    os.chown(planted, NOBODY, NOBODY)
    save(path)
    assert planted.read_text() == "a stranger's"


def test_a_new_file_that_somebody_else_makes_meanwhile(folder: Path) -> None:
    path = folder / "a.npy"
    save(path, progress=lambda done, total: np.save(path, OLD))
    assert names_in(folder) == ["a.npy"]


# --- in place, where no other file can have the name ---


@contextlib.contextmanager
def mounted(source: Path, point: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, point], check=True)
    try:
        if options:
            subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), point], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def save_in_place(path: Path) -> None:
    """With an old file that is shorter, or longer; nothing but its content changes."""
    inode = path.stat().st_ino
    for array in (NEW, NEW[::-2], OLD):
        with pytest.warns(gio.InPlaceWarning, match=re.escape(repr(str(path)))) as caught:
            gio.save(path, array, durable=True)
        assert [warning.filename for warning in caught] == [__file__]
        assert path.stat().st_ino == inode
        assert path.stat().st_size == 4096 + array.nbytes
        if os.access(path, os.R_OK, effective_ids=True):
            assert np.array_equal(np.load(path), array)


def untouched(path: Path, number: int) -> None:
    """What cannot be written at all says why, without a warning."""
    with pytest.raises(OSError) as theirs:
        np.save(path, NEW)
    with pytest.raises(OSError) as ours:
        gio.save(path, NEW)
    assert ours.value.errno == theirs.value.errno == number
    assert ours.value.filename == str(path)
    assert np.array_equal(np.load(path), OLD)


@pytest.fixture
def own_mounts() -> None:
    """A mount namespace of this process."""
    leave_the_mount_namespace()


@needs_root("mounting")
@pytest.mark.usefixtures("own_mounts")
def test_a_file_that_is_a_mount_point(folder: Path) -> None:
    """As a container's, whose folder is another file system's, or the same one's."""
    for source in (folder / "source.npy", Path("/dev/shm") / f"gatherio-{os.getpid()}.npy"):
        point = old_file(folder / "a.npy")
        old_file(source, 0o640, ALICE, TEAM)
        try:
            with mounted(source, point):
                before = rights(point)
                calls: list[int] = []
                save_in_place(point)
                with pytest.warns(gio.InPlaceWarning):
                    gio.save(point, NEW, progress=lambda done, total: calls.append(done))  # noqa: B023
                assert calls == sorted(calls) and calls.count(NEW.nbytes) == 1
                assert rights(point) == before
            assert np.array_equal(np.load(source), NEW) and np.array_equal(np.load(point), OLD)
        finally:
            source.unlink()
        assert names_in(folder) == ["a.npy"]


@needs_root("mounting")
@pytest.mark.usefixtures("own_mounts")
def test_read_only_mounts(folder: Path) -> None:
    (folder / "sub").mkdir()
    path = old_file(folder / "sub" / "a.npy")
    source = old_file(folder / "source.npy")
    with mounted(folder / "sub", folder / "sub", "ro"):
        untouched(path, errno.EROFS)
        with mounted(source, path):  # which may be written, though its folder may not
            save_in_place(path)
        with pytest.raises(OSError) as caught:
            gio.save(path.with_name("new.npy"), NEW)
        assert caught.value.errno == errno.EROFS
        assert caught.value.filename == str(path.with_name("new.npy"))


@needs_root("to be somebody else")
def test_a_folder_that_may_not_be_written(folder: Path) -> None:
    path = old_file(folder / "a.npy", 0o666, ALICE, TEAM)
    only_writing = old_file(folder / "w.npy", 0o222, ALICE, TEAM)
    private = old_file(folder / "private.npy", 0o644)
    for mode in (0o755, 0o711):
        folder.chmod(mode)
        before = rights(path)
        with user(BOB):
            save_in_place(path)
            save_in_place(only_writing)
            untouched(private, errno.EACCES)
            with pytest.raises(PermissionError) as caught:
                gio.save(folder / "new.npy", NEW)
            assert caught.value.filename == str(folder / "new.npy")
        assert rights(path) == before
    assert names_in(folder) == ["a.npy", "private.npy", "w.npy"]


@needs_root("to be somebody else")
def test_a_folder_that_may_not_be_listed(folder: Path) -> None:
    folder.chmod(0o333)
    with user(BOB):
        save(folder / "a.npy")
        save(folder / "a.npy")
    folder.chmod(0o755)
    assert names_in(folder) == ["a.npy"]


@needs_root("to be somebody else")
def test_another_users_file_in_a_sticky_folder(folder: Path) -> None:
    folder.chmod(0o1777)
    path = old_file(folder / "a.npy", 0o666, ALICE, TEAM)
    with user(BOB):
        save_in_place(path)
        gio.save(folder / "own.npy", OLD)
        save(folder / "own.npy")
    assert names_in(folder) == ["a.npy", "own.npy"]


@needs_root("to set them")
def test_immutable_files(folder: Path) -> None:
    path = old_file(folder / "a.npy")
    for attribute in "ia":
        subprocess.run([require("chattr", "e2fsprogs"), f"+{attribute}", path], check=True)
        try:
            with pytest.raises(PermissionError) as caught, warnings.catch_warnings():
                warnings.simplefilter("ignore", gio.InPlaceWarning)
                gio.save(path, NEW)
        finally:
            subprocess.run(["chattr", f"-{attribute}", path], check=True)
        assert (caught.value.errno, caught.value.filename) == (errno.EPERM, str(path))
        assert np.array_equal(np.load(path), OLD) and names_in(folder) == ["a.npy"]


@needs_root("to set them")
def test_an_append_only_folder(way: str, folder: Path) -> None:
    """Nothing can be moved there, nor removed: what is left has no content."""
    path = old_file(folder / "a.npy")
    subprocess.run([require("chattr", "e2fsprogs"), "+a", folder], check=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if way == "named" else "error", gio.InPlaceWarning)
            save(folder / "new.npy")
        save_in_place(path)
    finally:
        subprocess.run(["chattr", "-a", folder], check=True)
    assert all((folder / name).stat().st_size == 0 for name in temporaries(folder))


@needs_root("to be somebody else")
def test_nothing_is_written_in_place_when_the_warning_is_an_error(folder: Path) -> None:
    path = old_file(folder / "a.npy", 0o666)
    before = path.read_bytes()
    with user(BOB):
        with warnings.catch_warnings():
            warnings.simplefilter("error", gio.InPlaceWarning)
            with pytest.raises(gio.InPlaceWarning):
                gio.save(path, NEW)
        assert path.read_bytes() == before
        # The old content goes when there is space for the new one, and nobody else has a lock on it.
        with pytest.warns(gio.InPlaceWarning), pytest.raises(gio.LockedError) as caught:
            with gio.open(path, "r+") as f, f.lock(0, 10):
                gio.save(path, NEW)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == before
        with pytest.warns(gio.InPlaceWarning), gio.open(path, "r+") as f, f.lock(0, 10):
            gio.save(path, NEW, honor_locks=False)
    assert np.array_equal(np.load(path), NEW)


def test_in_place_a_full_disk_leaves_the_old_content(small_disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_disk_dir / "a.npy"
    np.save(path, OLD)
    monkeypatch.setattr(_replace, "_unnamed", refuse)
    monkeypatch.setattr(_replace, "_named", refuse)
    with pytest.warns(gio.InPlaceWarning), pytest.raises(OSError) as caught:
        gio.save(path, np.zeros(64 << 20, "u1"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert np.array_equal(np.load(path), OLD)


def test_a_folder_that_cannot_be_flushed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is told, unless the file system has no such thing. The new file is in place then."""
    for number, told in ((errno.EINVAL, False), (errno.EIO, True), (errno.EROFS, True), (errno.EACCES, True)):

        def no(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))  # noqa: B023

        monkeypatch.setattr(os, "fsync", no)
        for _ in range(2):
            with pytest.raises(OSError) if told else contextlib.nullcontext() as caught:
                gio.save(folder / "a.npy", NEW, durable=True)
            if caught is not None:
                assert (caught.value.errno, caught.value.filename) == (number, str(folder / "a.npy"))
            assert np.array_equal(np.load(folder / "a.npy"), NEW)
        (folder / "a.npy").unlink()
    assert names_in(folder) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK])
def test_where_files_without_a_name_cannot_be_linked(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written once more, with a name."""

    def no(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no)
    for _ in range(2):
        calls: list[int] = []
        save(folder / "a.npy", progress=lambda done, total: calls.append(done))  # noqa: B023
        assert calls == sorted(calls) and calls.count(NEW.nbytes) == 1
    assert names_in(folder) == ["a.npy"]


# --- what is left behind ---

KILLED = """
import os, signal, sys
import numpy as np, gatherio as gio
from gatherio._core import replace as _replace

path, way, what = sys.argv[1:]

def refuse(*arguments):
    raise OSError(95, "no such files")

if way == "named":
    _replace._unnamed = refuse

def stop(done, total):
    if what == "live":
        print("saving", flush=True)
        input()
    elif what == "fork":
        import time
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), 9)
    else:
        os.kill(os.getpid(), int(what))

gio.save(path, np.arange(70_000), progress=None if what == "0" else stop)
print("saved", flush=True)
"""


def start(path: Path, way: str, what: str | int, *under: str) -> subprocess.Popen[str]:
    command = [*under, sys.executable, "-W", "ignore::DeprecationWarning", "-c", KILLED, str(path), way, str(what)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def temporaries(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.startswith(".gatherio-")]


@pytest.mark.parametrize("there", [True, False], ids=["", "new"])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_what_a_killed_one_leaves_is_removed_by_the_next(name: str, there: bool, way: str, any_folder: Path) -> None:
    number = getattr(signal, name)
    path = any_folder / "a.npy"
    if there:
        np.save(path, OLD)
    for _ in range(3):
        with start(path, way, int(number)) as process:
            assert process.wait() == -number
        left = way == "named" and name == "SIGKILL"
        assert len(temporaries(any_folder)) == left  # not one more for each
        assert not there or np.array_equal(np.load(path), OLD)
    gio.save(any_folder / "other.npy", OLD)  # it is not its own to remove
    assert len(temporaries(any_folder)) == left
    save(path)
    assert names_in(any_folder) == ["a.npy", "other.npy"]


@pytest.mark.parametrize("there", [True, False], ids=["", "new"])
def test_killed_at_every_call_that_gives_it_a_name(there: bool, way: str, folder: Path, tmp_path: Path) -> None:
    """Right before the renaming is the moment at which a file that had none has a temporary name."""
    path = folder / "a.npy"
    for call in ("linkat", "renameat", "flock"):
        path.unlink(missing_ok=True)
        if there:
            np.save(path, OLD)
        kill = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL")
        with start(path, way, 0, *kill) as process:
            code = process.wait()
        if code == 0:  # this way there is no such call
            continue
        assert len(temporaries(folder)) <= 1
        assert not path.exists() or len(np.load(path)) in (5, 70_000)
        save(path)
        assert names_in(folder) == ["a.npy"], call


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("call", ["linkat", "renameat", "flock"])
def test_no_signal_ends_it_between_its_names(call: str, name: str, folder: Path, tmp_path: Path) -> None:
    """The signal comes while the file without a name gets a temporary one, and is heard when it has its own."""
    path = folder / "a.npy"
    np.save(path, OLD)
    end = strace(tmp_path / "log", "-e", f"trace={call}", "-e", f"inject={call}:signal={name[3:]}:when=1")
    with start(path, "unnamed", 0, *end) as process:
        code = process.wait()
    assert code == -getattr(signal, name)
    assert len(np.load(path)) == 70_000
    assert names_in(folder) == ["a.npy"]


def test_sigterm_is_what_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler is there while a temporary name is, and is put back, unless the program has set another one."""
    found: list[object] = []

    def look(done: int, total: int) -> None:
        found.append(signal.getsignal(signal.SIGTERM))

    def mine(number: int, frame: object) -> None:
        pass

    def set_mine(done: int, total: int) -> None:
        signal.signal(signal.SIGTERM, mine)

    monkeypatch.setattr(_replace, "_unnamed", refuse)
    path = folder / "a.npy"
    try:
        save(path, progress=look)
        assert callable(found[-1]) and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        thread = threading.Thread(target=save, args=(path,), kwargs={"progress": look})
        thread.start()
        thread.join()
        assert found[-1] == signal.SIG_DFL
        save(path, progress=set_mine)
        assert signal.getsignal(signal.SIGTERM) is mine
        save(path, progress=look)
        assert found[-1] is mine is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_what_a_living_one_writes_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replace, "_unnamed", refuse)
    path = folder / "a.npy"
    with contextlib.ExitStack() as stack:
        living = []
        for count in range(1, 7):  # more than there are names to look for
            process = stack.enter_context(start(path, "named", "live"))
            living.append(process)
            assert process.stdout is not None and process.stdout.readline() == "saving\n"
            assert len(temporaries(folder)) == count
            save(path)
            assert len(temporaries(folder)) == count
        for process in living:
            assert process.communicate("\n" * 10)[0].endswith("saved\n")
            assert process.returncode == 0
    assert names_in(folder) == ["a.npy"]


def test_a_forked_child_keeps_what_its_parent_has_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the child lives nobody can know that the parent is gone."""
    monkeypatch.setattr(_replace, "_unnamed", refuse)
    path = folder / "a.npy"
    with start(path, "named", "fork") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert process.wait() == -signal.SIGKILL
            save(path)
            assert len(temporaries(folder)) == 1
        finally:
            os.kill(child, signal.SIGKILL)
        process.stdout.read()  # ends when the child has
    save(path)
    assert names_in(folder) == ["a.npy"]


def test_a_forked_child_that_goes_on_removes_nothing(folder: Path) -> None:
    path = folder / "a.npy"
    seen = []

    def fork(done: int, total: int) -> None:
        before = names_in(folder)
        child = os.fork()
        if child == 0:
            raise SystemExit
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        seen.append(names_in(folder) == before)

    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
            save(path, progress=fork)
    finally:
        if os.getpid() != parent:
            os._exit(0)
    assert seen and all(seen)
    assert names_in(folder) == ["a.npy"]


@needs_root("to be somebody else")
def test_what_is_not_ours_to_remove(folder: Path, tmpfs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replace, "_unnamed", refuse)
    folder.chmod(0o777)
    path = folder / "a.npy"
    with _replace.Target(str(path)) as target:
        names = target.temporaries()
    treasure = folder / "treasure"
    treasure.write_bytes(b"x")
    os.chown(treasure, BOB, BOB)

    def hard() -> None:
        os.link(treasure, folder / names[0])

    def strangers() -> None:
        (folder / names[0]).touch()
        os.chown(folder / names[0], BOB, BOB)

    def soft() -> None:
        (folder / names[0]).symlink_to(treasure)

    kinds = [hard, strangers, soft, lambda: os.mkfifo(folder / names[0]), lambda: (folder / names[0]).mkdir()]
    for make in kinds:
        make()
        before = os.lstat(folder / names[0])
        save(path)
        assert os.path.samestat(os.lstat(folder / names[0]), before)
        if stat.S_ISDIR(before.st_mode):
            os.rmdir(folder / names[0])
        else:
            os.unlink(folder / names[0])
    for name in names:  # all taken
        (folder / name).symlink_to(treasure)
    save(path)
    save(path)
    assert names_in(folder) == sorted(["a.npy", "treasure", *names])
    assert treasure.read_bytes() == b"x"


def test_temporary_names_differ_by_target_user_and_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(name: str) -> set[str]:
        with _replace.Target(str(folder / name)) as target:
            return set(target.temporaries())

    found = [names("a.npy"), names("b.npy")]
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found.append(names("a.npy"))
    monkeypatch.setattr(_replace, "_machine", lambda: "another")
    found.append(names("a.npy"))
    assert len(set().union(*found)) == 4 * len(found[0])
    assert all(len(name) < 40 for name in found[0])


# --- a file system of a server, which has no files without a name ---


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
@pytest.mark.parametrize("options", [{}, {"refuse_chmod": True}], ids=str)
def test_a_server(mode: int, options: dict[str, Any], fuse: Callable[..., Fuse]) -> None:
    """Also one that refuses chmod and chown: there the new file is made as it is to be."""
    folder = fuse(**options).path
    path = folder / "a.npy"
    os.close(os.open(path, os.O_CREAT, mode))
    mode = stat.S_IMODE(path.stat().st_mode)  # without what the umask takes
    for _ in range(2):
        save(path, durable=True)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    os.umask(0o777)
    save(path)
    assert stat.S_IMODE(path.stat().st_mode) & ~mode == 0  # perhaps narrower, for a umask cannot be got around
    os.umask(0o022)
    save(folder / "new.npy")
    assert stat.S_IMODE((folder / "new.npy").stat().st_mode) == 0o644
    assert names_in(folder) == ["a.npy", "new.npy"]


def test_what_a_killed_one_leaves_on_a_server(fuse: Callable[..., Fuse]) -> None:
    folder = fuse().path
    path = folder / "a.npy"
    np.save(path, OLD)
    for name in ("SIGKILL", "SIGTERM"):
        with start(path, "", int(getattr(signal, name))) as process:
            assert process.wait() == -getattr(signal, name)
        assert len(temporaries(folder)) == (name == "SIGKILL")
    assert np.array_equal(np.load(path), OLD)
    save(path)
    assert names_in(folder) == ["a.npy"]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("fault", ["write"])
def test_what_a_server_says_when_a_file_is_closed_keeps_the_old_one(
    fault: str, durable: bool, fuse: Callable[..., Fuse]
) -> None:
    server = fuse(refuse_o_direct=True)
    path = server.path / "a.npy"
    np.save(path, OLD)
    server.faults(**{fault: {"error": errno.EDQUOT}})
    with pytest.raises(OSError) as caught:
        gio.save(path, NEW, durable=durable)
    assert (caught.value.errno, caught.value.filename) == (errno.EDQUOT, str(path))
    server.faults()
    assert np.array_equal(np.load(path), OLD)
    assert names_in(server.path) == ["a.npy"]


def test_a_server_without_renaming(fuse: Callable[..., Fuse]) -> None:
    """New files and old ones are written where they are to be."""
    server = fuse()
    server.faults(rename={"error": errno.EOPNOTSUPP})
    for array in (NEW, OLD):
        with pytest.warns(gio.InPlaceWarning):
            gio.save(server.path / "a.npy", array)
        assert np.array_equal(np.load(server.path / "a.npy"), array)
    assert names_in(server.path) == ["a.npy"]


def test_closing_what_nothing_was_written_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells nothing about the content, and hides no other error."""
    path = folder / "a.npy"
    (folder / "link").symlink_to("a.npy")
    close = os.close

    def fails(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", fails)
    for name in ("a.npy", "link", "a.npy"):
        gio.save(folder / name, NEW, durable=True)
    with pytest.raises(ZeroDivisionError):
        gio.save(path, OLD, progress=lambda done, total: 1 / 0)
    with pytest.raises(IsADirectoryError):
        gio.save(folder, NEW)
    monkeypatch.undo()
    assert np.array_equal(np.load(path), NEW) and names_in(folder) == ["a.npy", "link"]


# --- without /proc ---

WITHOUT_PROC = """
import os, sys
import numpy as np, gatherio as gio

assert not os.path.exists("/proc/self")
path = sys.argv[1]
for array in (np.arange(5), np.arange(70_000), np.arange(70_000)[::2]):
    gio.save(path, array)
    assert np.array_equal(np.load(path), array) and np.array_equal(gio.load(path), array)
os.chmod(path, 0o640)
os.setxattr(path, "user.note", b"keep me")
os.chdir(os.path.dirname(path))
gio.save(os.path.basename(path), array, progress=lambda done, total: os.chdir("/"))
assert os.getxattr(path, "user.note") == b"keep me" and os.stat(path).st_mode & 0o777 == 0o640
print(os.listdir(os.path.dirname(path)))

from gatherio._formats import npy
def swap(place, *arguments, **options):
    os.unlink(place)
    open(place, "w").close()
    return gio.open(place, *arguments, **options)
npy.open_file = swap
try:
    gio.save(path, array)
except OSError as error:
    print(error.errno, error.filename == path, np.array_equal(np.load(path), array))
"""


@needs_root("mounting")
def test_without_proc(folder: Path) -> None:
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    found = run_python(WITHOUT_PROC, folder / "a.npy", under=hide)
    assert found == f"['a.npy']\n{errno.ESTALE} True True\n"
