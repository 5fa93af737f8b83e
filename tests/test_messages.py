"""What an error says: which file, folder, attribute or limit is in the way, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from oracle import PAGE, fifo, needs_root, not_on_windows, require, run_python, strace, words

import gatherio as gio

NOBODY = 65534
MODES = ["r", "r+", "w", "w+", "x", "x+"]


@contextlib.contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may do everything: be somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextlib.contextmanager
def said(number: int, path: object, *parts: str, kind: type[OSError] = OSError) -> Iterator[None]:
    """The block raises an OSError with this errno, about this file, whose text has all of these parts."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.errno == number
    assert caught.value.filename == path
    for part in parts:
        assert part in str(caught.value)


# --- what has no offsets ---


@pytest.mark.parametrize("mode", MODES[:4])
def test_a_pipe_is_called_one(disk_dir: Path, mode: str) -> None:
    with fifo(disk_dir) as path, said(errno.ESPIPE, path, "no offsets", "pipe", f"mode {mode!r}"):
        gio.open(path, mode)


def a_fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return str(folder / "fifo")


def a_link_to_a_fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("fifo")
    return str(folder / "link")


def a_socket(folder: Path) -> str:
    before = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
    finally:
        os.chdir(before)
    return str(folder / "socket")


def a_terminal(folder: Path) -> str:
    mine, theirs = os.openpty()
    try:
        return os.ttyname(theirs)
    finally:
        os.close(theirs)
        (folder / "kept").write_text(str(mine))


def a_device(folder: Path) -> str:
    return "/dev/zero"


KINDS: list[tuple[Callable[[Path], str], str, str]] = [
    (a_fifo, "it is a named pipe (FIFO)", "take the built-in open"),
    (a_link_to_a_fifo, "it is a named pipe (FIFO)", "take the built-in open"),
    (a_socket, "it is a socket", "take the module socket"),
    (a_terminal, "it is a terminal", "take the built-in open"),
    (a_device, "it is a character device", "take the built-in open"),
]


@not_on_windows("its pipes and devices are no entries of folders")
@pytest.mark.parametrize(("make", "what", "instead"), KINDS, ids=[make.__name__ for make, *_ in KINDS])
@pytest.mark.parametrize("direct", [None, True, False])
def test_what_has_no_offsets_is_named(
    make: Callable[[Path], str], what: str, instead: str, direct: bool | None, disk_dir: Path
) -> None:
    path = make(disk_dir)
    try:
        with said(errno.ESPIPE, path, what, "regular files and block devices", instead) as _:
            gio.open(path, "r+", direct=direct)
    finally:
        if (disk_dir / "kept").exists():
            os.close(int((disk_dir / "kept").read_text()))


# --- rights ---


@pytest.fixture
def open_to_all(disk_dir: Path) -> Path:
    """A folder that everybody may enter."""
    disk_dir.chmod(0o755)
    return disk_dir


def make_folder(parent: Path, name: str, mode: int) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "file").write_bytes(b"whole")
    (folder / "file").chmod(0o666)
    folder.chmod(mode)
    return folder


@not_on_windows("it has other rights")
@pytest.mark.parametrize("mode", ["w", "w+", "x", "x+"])
def test_a_new_file_where_the_folder_is_in_the_way(mode: str, open_to_all: Path) -> None:
    folder = make_folder(open_to_all, "closed", 0o555)
    path = folder / "new"
    with as_an_ordinary_user(), said(errno.EACCES, path, f"the folder {str(folder)!r}", kind=PermissionError):
        gio.open(path, mode)
    (folder / "link").unlink(missing_ok=True)
    link = open_to_all / "link"
    link.symlink_to(path)
    if mode.startswith("w"):
        with as_an_ordinary_user(), said(errno.EACCES, link, f"the folder {str(folder)!r}"):
            gio.open(link, mode)
    for name in (path, link):
        with as_an_ordinary_user(), said(errno.EACCES, str(name), f"the folder {str(folder)!r}"):
            gio.save(name, np.arange(5))
    folder.chmod(0o755)


@not_on_windows("it has other rights")
@pytest.mark.parametrize("name", ["file", "new", "deeper/file"])
@pytest.mark.parametrize("mode", ["r", "r+", "w", "x"])
def test_a_folder_on_the_way_that_cannot_be_entered(mode: str, name: str, open_to_all: Path) -> None:
    folder = make_folder(open_to_all, "closed", 0o000)
    path = str(folder / name)
    with as_an_ordinary_user(), said(errno.EACCES, path, f"may not enter the folder {str(folder)!r}"):
        gio.open(path, mode)
    with as_an_ordinary_user(), said(errno.EACCES, os.fsencode(path), f"may not enter the folder {str(folder)!r}"):
        gio.open(os.fsencode(path), mode)
    with as_an_ordinary_user(), said(errno.EACCES, path, f"may not enter the folder {str(folder)!r}"):
        gio.save(path, np.arange(5))
    folder.chmod(0o755)


@not_on_windows("it has other rights")
@pytest.mark.parametrize(
    ("rights", "mode", "may"),
    [(0o444, "r+", "only read it"), (0o444, "w", "only read it"), (0o222, "r", "only write it"), (0, "r", "neither")],
)
def test_a_file_whose_own_rights_are_in_the_way(rights: int, mode: str, may: str, open_to_all: Path) -> None:
    folder = make_folder(open_to_all, "open", 0o777)
    path = folder / "file"
    path.chmod(rights)
    with as_an_ordinary_user(), said(errno.EACCES, path, may):
        gio.open(path, mode)
    if mode == "w":
        with as_an_ordinary_user(), said(errno.EACCES, str(path), may):
            gio.save(path, np.arange(5))
    path.chmod(0o600)


@not_on_windows("it has other rights")
@needs_root("a file of somebody else's")
def test_a_mapping_says_so_too(open_to_all: Path) -> None:
    path = make_folder(open_to_all, "open", 0o755) / "file"
    path.chmod(0o444)
    with as_an_ordinary_user(), said(errno.EACCES, path, "this user may only read it"):
        gio.Mapping(path, "r+")


@not_on_windows("there a handle's rights do for locks")
@needs_root("a file that another user may only read")
def test_an_exclusive_lock_of_a_file_that_may_only_be_read(open_to_all: Path) -> None:
    path = make_folder(open_to_all, "open", 0o755) / "file"
    path.chmod(0o444)
    with as_an_ordinary_user(), gio.open(path) as file:
        with said(errno.EACCES, path, "to lock exclusively, takes the right to write", kind=PermissionError):
            file.lock(0, 10)
        file.lock(0, 10, exclusive=False).unlock()


# --- attributes and mounts ---


@not_on_windows("it has no chattr")
@needs_root("chattr")
@pytest.mark.parametrize(("attribute", "says"), [("i", "the file is immutable"), ("a", "the file only takes appends")])
def test_an_attribute_forbids_it(attribute: str, says: str, disk_dir: Path) -> None:
    path = disk_dir / "file"
    path.write_bytes(b"whole")
    chattr = require("chattr", "e2fsprogs")
    subprocess.run([chattr, f"+{attribute}", path], check=True)
    try:
        for mode in ("r+", "w"):
            with said(errno.EPERM, path, says, "lsattr -d", f"chattr -{attribute} {path}", kind=PermissionError):
                gio.open(path, mode)
        with said(errno.EPERM, path, says):
            gio.Mapping(path, "r+")
        with said(errno.EPERM, str(path), says), warnings.catch_warnings():
            warnings.simplefilter("ignore", gio.InPlaceWarning)  # what only takes appends is tried to be written
            gio.save(path, np.arange(5))
        gio.open(path, "r").close()
    finally:
        subprocess.run([chattr, f"-{attribute}", path], check=True)
    assert path.read_bytes() == b"whole"


@not_on_windows("it has no chattr")
@needs_root("chattr")
def test_an_attribute_of_the_folder_forbids_it(disk_dir: Path) -> None:
    folder, chattr = disk_dir / "folder", require("chattr", "e2fsprogs")
    folder.mkdir()
    subprocess.run([chattr, "+i", folder], check=True)
    try:
        for mode in ("w", "x"):
            with said(errno.EPERM, folder / "new", "the folder is immutable", f"chattr -i {folder}"):
                gio.open(folder / "new", mode)
        with said(errno.EPERM, str(folder / "new"), "the folder is immutable", f"chattr -i {folder}"):
            gio.save(folder / "new", np.arange(5))
    finally:
        subprocess.run([chattr, "-i", folder], check=True)


READ_ONLY = """
    import sys
    import gatherio as gio

    folder = sys.argv[1]
    calls = [(gio.open, "new", "w"), (gio.open, "new", "x"), (gio.open, "file", "r+"), (gio.open, "file", "w")]
    calls += [(gio.save, "file", [1, 2]), (gio.save, "new", [1, 2])]
    for call, *arguments in [*calls, (gio.Mapping, "file", "r+"), (gio.info, "")]:
        try:
            call(f"{folder}/{arguments[0]}", *arguments[1:])
        except OSError as error:
            print(error.errno, error.filename, error)
    gio.open(folder + "/file").close()
"""


def in_a_mount_namespace(*commands: str) -> list[str]:
    """A command prefix: another program after these, which nobody else sees the effects of."""
    return [require("unshare", "util-linux"), "--mount", "sh", "-ec", "\n".join([*commands, 'exec "$@"']), "sh"]


@not_on_windows("it has no such mounts")
@needs_root("mounting")
def test_a_read_only_mount(disk_dir: Path) -> None:
    (disk_dir / "file").write_bytes(b"whole")
    under = in_a_mount_namespace(f"mount --bind '{disk_dir}' '{disk_dir}'", f"mount -o remount,bind,ro '{disk_dir}'")
    printed = run_python(READ_ONLY, disk_dir, under=under).splitlines()
    assert len(printed) == 8
    for line in printed:
        number, filename, text = line.split(" ", 2)
        assert int(number) == errno.EROFS
        assert filename in (f"{disk_dir}/", f"{disk_dir}/new", f"{disk_dir}/file")
        assert f"mounted at {disk_dir} to be read only" in text and "remount,rw" in text


@needs_root("a loop device")
@not_on_windows("it has no loop devices")
def test_a_block_device_that_is_read_only(disk_dir: Path) -> None:
    image, losetup = disk_dir / "image", require("losetup", "mount")
    image.write_bytes(bytes(1 << 20))
    made = subprocess.run(
        [losetup, "--find", "--show", "--read-only", image], check=True, capture_output=True, text=True
    )
    device = made.stdout.strip()
    try:
        with gio.open(device, "r+", direct=False) as file:
            with said(errno.EPERM, device, "the device is set to be read only", "blockdev --setrw"):
                file.write_at(words(0, PAGE), 0).result()
    finally:
        subprocess.run([losetup, "--detach", device], check=True)


# --- busy, and limits ---

OPENING = """
    import sys
    import gatherio as gio

    try:
        gio.open(sys.argv[1], "r+")
    except OSError as error:
        print(error.errno, error.filename == sys.argv[1], error)
"""


@not_on_windows("it has no strace")
@pytest.mark.parametrize(
    ("error", "says"),
    [("EBUSY", "fuser and lsof tell who"), ("ETXTBSY", "a program that runs, or used for swap")],
)
def test_a_file_that_is_in_use(error: str, says: str, disk_dir: Path) -> None:
    path = disk_dir / "file"
    path.write_bytes(b"whole")
    inject = strace(disk_dir / "log", "-P", str(path), "-e", f"inject=openat:error={error}")
    number, name, text = run_python(OPENING, path, under=inject).split(" ", 2)
    assert (int(number), name) == (getattr(errno, error), "True")
    assert says in text


@needs_root("a loop device")
@not_on_windows("it has no loop devices")
def test_a_block_device_that_is_in_use(disk_dir: Path) -> None:
    image, losetup = disk_dir / "image", require("losetup", "mount")
    image.write_bytes(bytes(1 << 20))
    made = subprocess.run([losetup, "--find", "--show", image], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        inject = strace(disk_dir / "log", "-P", device, "-e", "inject=openat:error=EBUSY")
        assert "something has the device to itself" in run_python(OPENING, device, under=inject)
    finally:
        subprocess.run([losetup, "--detach", device], check=True)


@not_on_windows("it has no bind mounts")
@needs_root("mounting")
def test_a_mount_point_is_called_one(disk_dir: Path) -> None:
    path = disk_dir / "file"
    path.write_bytes(b"whole")
    script = """
        import errno, sys
        from gatherio._native import error
        print(error(errno.EBUSY, "replacing the file", sys.argv[1]))
    """
    printed = run_python(script, path, under=in_a_mount_namespace(f"mount --bind '{path}' '{path}'"))
    assert "it is a mount point, and no other file can take its place" in printed


@not_on_windows("it has no such limit")
def test_too_many_open_files(disk_dir: Path) -> None:
    script = """
        import resource, sys
        import gatherio as gio

        with gio.open(sys.argv[1], "w"):  # what is made once, is made
            pass
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        files = []
        try:
            while True:
                files.append(gio.open(sys.argv[1]))
        except OSError as error:
            print(error.errno, error.filename == sys.argv[1], error)
        while files:
            files.pop().close()
    """
    number, name, text = run_python(script, disk_dir / "file").split(" ", 2)
    assert (int(number), name) == (errno.EMFILE, "True")
    assert "this process may have 20 descriptors" in text and "ulimit -n" in text


@not_on_windows("it has no such limit")
@pytest.mark.parametrize("backend", ["uring", "threads", "sync"])
def test_a_file_longer_than_this_process_may_make(backend: str, disk_dir: Path) -> None:
    script = """
        import resource, sys
        import gatherio as gio

        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
        with gio.CompletionQueue(backend=sys.argv[2]) as queue:
            with gio.open(sys.argv[1], "w", queue=queue) as file:
                try:
                    file.write_at(gio.zeros(4096, "u1"), 16384).result()
                except OSError as error:
                    print(error.errno, error.filename == sys.argv[1], error)
    """
    number, name, text = run_python(script, disk_dir / "file", backend).split(" ", 2)
    assert (int(number), name) == (errno.EFBIG, "True")
    assert "files of at most 16384 bytes" in text and "ulimit -f" in text


# --- without /proc ---

WITHOUT_PROC = """
    import errno, os, sys
    from pathlib import Path
    import numpy as np
    import gatherio as gio

    assert not os.path.exists("/proc/self")
    path, data = sys.argv[1], np.arange(5000, dtype="u1")
    with gio.open(path, "w+") as file:
        assert not file.direct
        print(file.reason)
        file.write_at(data, 0).result()
        found = np.empty_like(data)
        assert file.read_at(found, 0).result() == 5000 and (found == data).all()
        for exclusive in (True, False):
            try:
                file.lock(0, 10, exclusive=exclusive)
            except OSError as error:
                print(error)
                assert (error.errno, error.filename) == (errno.EOPNOTSUPP, path)
    for mode, name in (("r", path), ("r+", path), ("w", path), ("x", path + "-new")):
        try:
            gio.open(name, mode, direct=True)
        except OSError as error:
            print(error)
            assert (error.errno, error.filename) == (errno.EOPNOTSUPP, name)
            assert "direct=None goes buffered" in str(error)
    assert Path(path).read_bytes() == data.tobytes()
    gio.save(path + ".npy", data)
    assert (gio.load(path + ".npy") == data).all()
    print(gio.info(path)["path"]["reason"])
"""


@not_on_windows("it has no /proc")
@needs_root("mounting")
def test_without_proc(disk_dir: Path) -> None:
    printed = run_python(WITHOUT_PROC, disk_dir / "file", under=in_a_mount_namespace("mount -t tmpfs none /proc"))
    lines = printed.splitlines()
    assert len(lines) == 8
    assert all("/proc is not mounted" in line for line in lines)
    assert sorted(os.listdir(disk_dir)) == ["file", "file.npy"]


# --- nothing more is known ---


def test_what_nothing_more_is_known_of_says_no_more(disk_dir: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        gio.open(str(disk_dir / "missing"))
    assert str(caught.value).endswith(f"(opening the file, mode 'r'): {str(disk_dir / 'missing')!r}")


def test_a_name_of_memory_is_no_file(disk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        gio.Mapping.open("gatherio-nothing-of-that-name")
    assert "folder" not in str(caught.value)
