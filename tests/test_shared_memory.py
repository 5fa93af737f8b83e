"""Names: who creates, who opens, who is the last; and what crashes leave behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import os
import pickle
import re
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import (
    FOREVER,
    KIB,
    MIB,
    assert_same_bytes,
    needs_root,
    not_on_windows,
    put_there,
    run_python,
    shim,
    strace,
    words,
)
from peers import Peer, PeerError

import gatherio as gio
from gatherio import _native as native
from gatherio._mapping import sections
from gatherio._mapping.sections import HEADER_BYTES

NOBODY = 65534
on_linux = not_on_windows("it has no files in /dev/shm")
needs_fork = not_on_windows("it has no fork")
no_fork_warning = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name of this test's own, and the proof that nothing of it is left."""
    name = f"test-{os.getpid()}-{abs(hash(request.node.name)) % 10**9}"
    yield name
    gc.collect()
    with pytest.raises(FileNotFoundError):
        gio.Mapping.open(name)
    if sys.platform.startswith("linux"):
        assert not place(name).exists()


def place(name: str) -> Path:
    return Path(f"/dev/shm/gatherio-{os.geteuid()}-{name}")


@pytest.fixture
def path(disk_dir: Path) -> Iterator[Path]:
    path = disk_dir / "file"
    path.write_bytes(words(0, 100_001))
    yield path
    gc.collect()  # a traceback may hold arrays, and Windows removes no file that is mapped


# --- creating and opening ---


def test_the_second_one_learns_that_it_is_not_the_first(name: str) -> None:
    with gio.Mapping(None, size=100_001, name=name) as first:
        assert first.created and first.size == 100_001 and first.name == name
        assert not first.array(100_001, "u1").any()
        first.array(3, "u1", 77_777)[...] = [1, 2, 3]
        with gio.Mapping(None, size=5, name=name) as second, gio.Mapping.open(name, "r") as third:
            assert not second.created and not third.created
            assert second.size == third.size == 100_001
            assert second.read(77_777, 3) == third.array(3, "u1", 77_777).tobytes() == b"\x01\x02\x03"
            second.array(1, "u1", 100_000)[0] = 9
            assert third.read(100_000) == b"\x09" and not third.array(1, "u1").flags.writeable
            with pytest.raises(ValueError, match="100001"):
                gio.Mapping(None, size=100_002, name=name)


def test_processes_share_a_name(name: str) -> None:
    with Peer() as one, Peer() as two:
        with pytest.raises(PeerError, match="FileNotFoundError"):
            one.do(f"gio.Mapping.open({name!r})")
        one.do(f"m = gio.Mapping(None, size=3_000_000, name={name!r})")
        two.do(f"m = gio.Mapping(None, size=3_000_000, name={name!r})")
        assert one.do("m.created") is True and two.do("m.created") is False
        one.do("a = m.array((1000, 100), 'f8', 12_345); a[...] = np.arange(100_000.0).reshape(1000, 100)")
        assert two.do("float(m.array((1000, 100), 'f8', 12_345)[999, 99])") == 99_999
        with gio.Mapping.open(name) as here:
            here.array((), "f8", 12_345)[...] = -1
            assert one.do("float(a[0, 0])") == two.do("float(m.array(1, 'f8', 12_345)[0])") == -1
        one.do("m.close(); m = None")
        assert one.do("float(a[0, 0])") == -1
        with gio.Mapping.open(name) as here:
            assert here.array((), "f8", 12_345) == -1
        two.close()
        with pytest.raises(FileNotFoundError):
            gio.Mapping.open(name)
        assert one.do("float(a[0, 0])") == -1  # nothing is unmapped under an array


def test_a_name_can_be_used_again(name: str) -> None:
    for size in (10, 3 * MIB, 5):
        with gio.Mapping(None, size=size, name=name) as m:
            assert m.created and m.size == size and not m.array(size, "u1").any()
            m.array(size, "u1")[...] = 0xEE


@pytest.mark.parametrize("whose", ["ours", "another process's", "both"])
def test_a_second_name_leaves_the_first_one_usable(name: str, whose: str) -> None:
    """Whoever makes a name clears away what the dead have left: of the living it takes nothing."""
    with Peer() as other:
        if whose != "another process's":
            mine = gio.Mapping(None, size=1000, name=name)
        if whose != "ours":
            other.do(f"m = gio.Mapping(None, size=1000, name={name!r})")
        with gio.Mapping.open(name) as opened:
            opened.array(5, "u1", 7)[...] = [1, 2, 3, 4, 5]
        with gio.Mapping(None, size=1000, name=f"{name}-b") as second:
            second.array(1000, "u1")[...] = 9
            other.do(f"third = gio.Mapping(None, size=1000, name={name!r} + '-c')")
            with gio.Mapping.open(name) as opened:
                assert not opened.created and opened.read(7, 5) == b"\1\2\3\4\5"
                opened.array(1, "u1", 500)[0] = 6
                assert other.do(f"gio.Mapping.open({name!r}).read(500, 1)") == b"\6"
            assert second.read(500, 1) == b"\t" and other.do("third.read(500, 1)") == b"\0"
            with gio.Mapping(None, size=1000, name=name) as again:
                assert not again.created and again.read(500, 1) == b"\6"
        if whose != "another process's":
            assert mine.read(500, 1) == b"\6"
            mine.close()
        if whose != "ours":
            assert other.do("m.read(500, 1)") == b"\6"
            other.do("m.close()")
        other.do("third.close()")


def test_a_copy_on_write_of_shared_memory(name: str) -> None:
    with gio.Mapping(None, size=100_000, name=name) as m, gio.Mapping.open(name, "c") as copy:
        m.write(b"shared", 50_000)
        copy.write(b"own", 50_000)
        assert copy.read(50_000, 6) == b"ownred" and m.read(50_000, 6) == b"shared"
    with gio.Mapping(None, "c", 10, name=name) as copy:
        assert copy.created
        copy.write(b"x", 0)
        with gio.Mapping.open(name) as m:
            assert m.read(0) == bytes(10)


def test_reserved_memory_with_a_name(name: str) -> None:
    with gio.Mapping(None, size=1 << 30, name=name, reserve=True) as m, Peer() as other:
        other.do(f"m = gio.Mapping.open({name!r})")
        with pytest.raises(PeerError, match="commit"):
            other.do("m.read(1_000_000, 5)")
        m.commit(1_000_000, 100)
        m.write(b"hello", 1_000_000)
        assert other.do("m.read(1_000_000, 5)") == b"hello"
        other.do("m.commit(500_000_000, 1); m.write(b'x', 500_000_000)")
        assert m.read(500_000_000, 1) == b"x"


def test_many_create_at_once(name: str) -> None:
    """One of them creates, and the others see what it wrote before they could come in: nothing half made."""
    created: list[bool] = []
    started = threading.Barrier(8)

    def create(mappings: list[gio.Mapping]) -> None:
        started.wait(FOREVER)
        mappings.append(gio.Mapping(None, size=64, name=name))
        created.append(mappings[-1].created)
        started.wait(FOREVER)

    for _ in range(20):
        created.clear()
        mappings: list[gio.Mapping] = []
        threads = [threading.Thread(target=create, args=(mappings,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(created) == [False] * 7 + [True]
        for mapping in mappings:
            mapping.close()


def test_processes_come_and_go_all_the_time(name: str) -> None:
    """Whoever comes finds zeros or the mark that others leave, and never a ruin."""
    script = """
    import sys, gatherio as gio
    made = 0
    for i in range(300):
        with gio.Mapping(None, size=5000, name=sys.argv[1]) as m:
            made += m.created
            found = m.read(4000, 8)
            assert found in (bytes(8), b"the mark"), found
            m.write(b"the mark", 4000)
    print(made)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), name]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    made = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert 1 <= sum(made) <= 1200


# --- names for files ---


def test_a_name_for_a_file(name: str, path: Path) -> None:
    with gio.Mapping(path, name=name) as m, Peer() as other:
        assert m.created and m.size == 100_001
        other.do(f"m = gio.Mapping.open({name!r})")
        assert other.do("m.size") == 100_001 and os.path.samefile(other.do("m.path"), path)
        other.do("m.array(10, 'u1', 12_345)[...] = 5; m.flush()")
        assert path.read_bytes()[12_345:12_355] == m.read(12_345, 10) == b"\x05" * 10
        with gio.Mapping(path, "r", name=name) as again:
            assert not again.created
            assert_same_bytes(again.read(0, 1000), words(0, 1000))
        m.close()
        with gio.Mapping.open(name) as third:
            assert third.read(12_345, 1) == b"\x05"


def test_a_name_stands_for_one_thing(name: str, path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    with gio.Mapping(path, name=name):
        for made in (lambda: gio.Mapping(other, name=name), lambda: gio.Mapping(None, size=10, name=name)):
            with pytest.raises(FileExistsError) as caught:
                made()
            assert caught.value.filename == name
    with gio.Mapping(None, size=10, name=name), pytest.raises(FileExistsError):
        gio.Mapping(path, name=name)


@on_linux
def test_the_file_behind_a_name_was_replaced(name: str, path: Path) -> None:
    with gio.Mapping(path, name=name):
        path.rename(path.with_name("moved"))
        with pytest.raises(FileNotFoundError):
            gio.Mapping.open(name)
        path.write_bytes(bytes(200_000))
        with pytest.raises(OSError, match="another file"):
            gio.Mapping.open(name)


# --- what a name says it stands for ---

SIZE, DEVICE, INODE, FLAGS, LENGTH = range(1, 6)


def say(m: gio.Mapping, changes: dict[int, int], path: bytes | None = None) -> None:
    """Another program of this user changes what the name stands for."""
    view = sections._start(m._holder)
    fields = list(sections._LAYOUT.unpack_from(view))
    if path is not None:
        view[sections._LAYOUT.size :][: len(path)] = np.frombuffer(path, np.uint8)
        fields[LENGTH] = len(path)
    for field, value in changes.items():
        fields[field] = value
    sections._LAYOUT.pack_into(view, 0, *fields)


def inventory(folder: Path) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_size, entry.stat().st_ino) for entry in folder.iterdir()}


BIG = [0, 2**63 - HEADER_BYTES, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("what", ["memory", "file"])
@pytest.mark.parametrize(
    "changes",
    [{SIZE: size} for size in BIG]
    + [{FLAGS: flags} for flags in (16, 1 << 15, 1 << 31, 2**32 - 1)]
    + [{DEVICE: 0, INODE: 0, LENGTH: 9}, {DEVICE: 1}, {INODE: 2**64 - 1, LENGTH: 0}]
    + [{LENGTH: length} for length in (HEADER_BYTES - 39, 2**31, 2**32 - 1)],
    ids=str,
)
def test_a_damaged_name_is_refused(name: str, path: Path, what: str, changes: dict[int, int]) -> None:
    """Whatever stands there, and whatever is written behind the path: no number is too large."""
    target, size = (path, None) if what == "file" else (None, 1000)
    with gio.Mapping(target, size=size, name=name) as m:
        say(m, changes)
        before = inventory(path.parent)
        for access in ("r", "r+", "c"):
            with pytest.raises((ValueError, OSError)):
                gio.Mapping.open(name, access)  # type: ignore[arg-type]
        with pytest.raises((ValueError, OSError)):
            gio.Mapping(target, size=size, name=name)
        assert inventory(path.parent) == before
    assert_same_bytes(path.read_bytes(), words(0, 100_001))


PATHS = [b"file", b"./file", b"..", b".", b"/", b"\0", b"\xff\xfe", b"x" * 5000, b"CON"]


@pytest.mark.parametrize(
    "behind", [b"", b"\0tail", b"\xff\xfe", b"/below", b"/", b"/../file", b"x" * 300, b"/x" * 9000]
)
def test_a_path_that_leads_elsewhere(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, behind: bytes) -> None:
    """Relative ones would lead to another file from each working directory, and a longer one must not end at a NUL."""
    monkeypatch.chdir(path.parent)
    with gio.Mapping(path, name=name) as m:
        before = inventory(path.parent)
        for said in [*PATHS, os.fsencode(path)]:
            if said + behind == os.fsencode(path):
                continue
            say(m, {SIZE: 200_000}, said + behind)
            with pytest.raises((ValueError, OSError)):
                gio.Mapping.open(name)
        assert inventory(path.parent) == before
        say(m, {}, os.fsencode(path))
        gio.Mapping.open(name).close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            SIZE: st.sampled_from([1, 100_001, 100_002, *BIG]) | st.integers(2**50, 2**64 - 1),
            DEVICE: st.integers(0, 2**64 - 1),
            INODE: st.integers(0, 2**64 - 1),
            FLAGS: st.integers(0, 2**32 - 1),
            LENGTH: st.integers(0, 100) | st.integers(0, 2**32 - 1),
        },
    ),
    path_says=st.none() | st.binary(max_size=40),
    access=st.sampled_from(["r", "r+", "c"]),
)
def test_any_damage_is_an_error_or_the_file(
    fields: dict[int, int], path_says: bytes | None, access: Any, tmp_path: Path
) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(words(0, 100_001))
    other.write_bytes(b"other")
    with gio.Mapping(file, name=f"damage-{os.getpid()}") as m:
        say(m, fields, path_says)
        try:
            with gio.Mapping.open(f"damage-{os.getpid()}", access) as again:
                assert os.path.samefile(os.fspath(again.path or ""), file)
        except (ValueError, OSError):
            pass
    gc.collect()
    assert other.read_bytes() == b"other" and file.stat().st_size in (100_001, 100_002)


@pytest.mark.parametrize("access", ["r", "r+", "c"])
def test_another_file_at_the_path_is_not_touched(name: str, path: Path, access: Any) -> None:
    """It is the identity that counts, and it is looked at before anything is made longer."""
    other = path.with_name("other")
    with gio.Mapping(path, name=name) as m:
        for content in (b"", b"short", bytes(300_000)):
            other.write_bytes(content)
            before = inventory(path.parent)
            for size in (1, 200_000, 2**40):
                say(m, {SIZE: size}, os.fsencode(other))
                with pytest.raises(OSError, match="another file") as caught:
                    gio.Mapping.open(name, access)
                assert caught.value.errno == errno.ESTALE
            assert inventory(path.parent) == before and other.read_bytes() == content
        say(m, {SIZE: 100_001, INODE: os.stat(other).st_ino}, os.fsencode(path))
        with pytest.raises(OSError, match="another file"):
            gio.Mapping.open(name, access)
    assert_same_bytes(path.read_bytes(), words(0, 100_001))


def test_the_right_file_is_made_as_long_as_it_was(name: str, path: Path) -> None:
    with gio.Mapping(path, name=name) as m:
        say(m, {SIZE: 150_000})
        with gio.Mapping.open(name) as again:
            assert again.size == 150_000 == path.stat().st_size
            assert_same_bytes(again.read(0, 100_001), words(0, 100_001))


@on_linux
@pytest.mark.timeout(60)
def test_what_is_no_file_at_the_path_is_not_even_opened(name: str, path: Path, tmp_path: Path) -> None:
    """Opening alone rewinds a tape, starts a watchdog, and wakes who waits at a pipe."""
    os.mkfifo(path.with_name("fifo"))
    put_there("socket", path.with_name("socket"))
    path.with_name("other").write_bytes(b"other")
    path.with_name("other-link").symlink_to("other")
    path.with_name("zero-link").symlink_to("/dev/zero")
    path.with_name("loop-link").symlink_to("loop-link")
    plants = ["fifo", "socket", "other", "other-link", "zero-link", "loop-link", "."]
    script = """
        import sys, gatherio as gio
        for access in ("r", "r+", "c"):
            try:
                gio.Mapping.open(sys.argv[1], access)
            except OSError as error:
                print(type(error).__name__, error.errno)
    """
    with gio.Mapping(path, name=name) as m:
        for plant in [*plants, "/dev/ptmx"]:
            log = tmp_path / "log"
            at = os.path.normpath(path.parent / plant)
            say(m, {SIZE: 200_000}, os.fsencode(at))
            assert run_python(script, name, under=strace(log, "-e", "trace=open,openat")).count("\n") == 3
            assert f'"{at}"' not in log.read_text()
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")  # it is the file all the same
        say(m, {SIZE: 100_001}, os.fsencode(path))
        with gio.Mapping.open(name) as again:
            assert_same_bytes(again.read(0), words(0, 100_001))
    assert path.with_name("other").read_bytes() == b"other"


# After it was looked at, something else is put into the place of a file: what stands beside it as *.planted.
REPLACED_ONCE_LOOKED_AT = """
    #include <dlfcn.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/stat.h>
    int stat(const char *path, struct stat *told)
    {
        int (*look)(const char *, struct stat *) = dlsym(RTLD_NEXT, "stat");
        int result = look(path, told);
        char planted[4096];
        if (strstr(path, "replaced")) {
            snprintf(planted, sizeof planted, "%s.planted", path);
            rename(planted, path);
        }
        return result;
    }
"""


@on_linux
@pytest.mark.timeout(120)
@pytest.mark.parametrize("plant", ["fifo", "another file", "link", "socket", "device"])
@pytest.mark.parametrize("access", ["r", "r+", "c"])
def test_what_was_looked_at_is_replaced(name: str, disk_dir: Path, tmp_path: Path, plant: str, access: str) -> None:
    path, planted, other = disk_dir / "replaced", disk_dir / "replaced.planted", disk_dir / "other"
    path.write_bytes(bytes(1000))
    other.write_bytes(b"other")
    script = """
        import sys, gatherio as gio
        for _ in range(2):
            try:
                gio.Mapping.open(*sys.argv[1:])
                print("opened")
            except OSError as error:
                print(error.errno)
    """
    with gio.Mapping(path, name=name) as m:
        say(m, {SIZE: 100_000 if access == "r+" else 1})
        if plant == "link":
            planted.symlink_to(other)
        elif plant == "another file":
            planted.write_bytes(b"planted")
        else:
            put_there(plant, planted)
        outcome = run_python(script, name, access, under=shim(tmp_path, REPLACED_ONCE_LOOKED_AT), timeout=30).split()
    assert not planted.exists() and not planted.is_symlink()
    known = {"fifo": errno.ENODEV, "device": errno.ENODEV, "socket": errno.ENXIO}.get(plant, errno.ESTALE)
    again = errno.ENODEV if plant in ("fifo", "device", "socket") else errno.ESTALE
    assert outcome == [str(known), str(again)]
    assert other.read_bytes() == b"other"
    if plant == "another file":
        assert path.read_bytes() == b"planted"


def test_a_name_is_read_once(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes it meanwhile changes nothing for who has read it."""
    other = path.with_name("other")
    other.write_bytes(b"other")
    true_copy = sections.Section.copy
    with gio.Mapping(path, name=name) as m:

        def copy_and_change(self: Any, direction: int, *rest: Any) -> int:
            code = true_copy(self, direction, *rest)
            say(m, {SIZE: 2**64 - 1, FLAGS: 2**32 - 1, INODE: 1}, os.fsencode(other))
            return code

        monkeypatch.setattr(sections.Section, "copy", copy_and_change)
        with gio.Mapping.open(name) as again:
            assert again.size == 100_001 and again.path == str(path)
        monkeypatch.undo()
    assert other.read_bytes() == b"other"


# --- which names ---


def test_names_that_are_refused(path: Path) -> None:
    for name in ("", "a/b", "a\\b", "C:", "nul\0byte", "n" * 201, "\u00fc" * 101, "lone \ud800"):
        for use in (
            lambda n: gio.Mapping(None, size=10, name=n),
            lambda n: gio.Mapping(path, name=n),
            gio.Mapping.open,
        ):
            with pytest.raises(ValueError):
                use(name)
    for wrong in (5, b"bytes", Path("x")):
        with pytest.raises(TypeError):
            gio.Mapping(None, size=10, name=wrong)  # type: ignore[arg-type]


def test_names_that_are_taken() -> None:
    for name in (".", "..", " ", "a b", "gr\u00fc\u00df \u6587\u4ef6 \U0001f600", "n" * 190, "%s", "con"):
        unique = f"{name}{os.getpid()}"
        with gio.Mapping(None, size=10, name=unique) as m, gio.Mapping.open(unique) as again:
            m.write(b"x", 9)
            assert again.read(9) == b"x"


# --- rights ---


@contextlib.contextmanager
def acting_as(user: int) -> Iterator[None]:
    """What the core takes for this user is the effective one."""
    before = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)


@on_linux
@pytest.mark.parametrize("mask", [0, 0o077, 0o277, 0o777])
@pytest.mark.parametrize("who", ["this user", "nobody"])
def test_names_are_this_users_alone(name: str, path: Path, mask: int, who: str) -> None:
    if who == "nobody" and os.geteuid() != 0:
        pytest.skip("acting as somebody else needs root")
    path.parent.chmod(0o777)
    path.chmod(0o666)
    umask = os.umask(mask)
    try:
        with acting_as(NOBODY if who == "nobody" else os.geteuid()):
            for what, size in ((None, 10), (path, None)):
                with gio.Mapping(what, size=size, name=name) as m, gio.Mapping.open(name) as again:
                    status = place(name).stat()
                    assert stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == os.geteuid()
                    m.write(b"x", 5)
                    assert again.read(5, 1) == b"x"
    finally:
        os.umask(umask)


@on_linux
@pytest.mark.timeout(60)
@needs_root("making what belongs to somebody else")
@pytest.mark.parametrize(
    ("plant", "whose"),
    [("file", NOBODY), ("second link", 0)]
    + [
        (kind, user)
        for kind in ("fifo", "socket", "device", "link", "link to nothing", "folder")
        for user in (0, NOBODY)
    ],
)
def test_what_stands_in_the_way_is_refused_and_left_alone(name: str, path: Path, plant: str, whose: int) -> None:
    """By root, too: /dev/shm is everybody's. Also a second link to a file of root's own, which anybody could make there
    but for fs.protected_hardlinks."""
    at, precious = place(name), Path("/dev/shm") / f"precious-{name}"
    precious.write_bytes(b"precious")
    precious.chmod(0o600)
    try:
        if plant == "file":
            at.write_bytes(b"planted")
        elif plant == "device":
            os.mknod(at, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        elif plant == "second link":
            os.link(precious, at)
        elif plant in ("link", "link to nothing"):
            at.symlink_to(precious if plant == "link" else "/dev/shm/nowhere-at-all")
        else:
            put_there(plant, at)
        if plant != "second link":
            os.chown(at, whose, whose, follow_symlinks=False)
            if plant not in ("link", "link to nothing"):
                at.chmod(0o600)
        before = at.lstat()
        for use in (
            lambda: gio.Mapping(None, size=10, name=name),
            lambda: gio.Mapping(path, name=name),
            lambda: gio.Mapping.open(name),
        ):
            with pytest.raises(IsADirectoryError if plant == "folder" else PermissionError) as caught:
                use()
            assert caught.value.filename == name
        for _ in range(20):  # who makes another name clears away what the dead have left, and not this
            gio.Mapping(None, size=10, name=f"{name}-other").close()
        after = at.lstat()
        assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
        assert precious.read_bytes() == b"precious" and not Path("/dev/shm/nowhere-at-all").exists()
    finally:
        precious.unlink()
        if plant == "folder":
            at.rmdir()
        elif at.is_symlink() or at.exists():
            at.unlink()


@on_linux
@needs_root("making what belongs to somebody else")
@pytest.mark.parametrize("plant", ["file", "fifo", "link", "nothing"])
def test_a_name_is_taken_away_while_it_is_used(name: str, plant: str) -> None:
    """Its views are of the memory there was, and closing takes away nothing that somebody else has put there."""
    at, precious = place(name), Path("/dev/shm") / f"precious-{name}"
    precious.write_bytes(bytes(70_000))
    try:
        with gio.Mapping(None, size=1000, name=name) as m, gio.Mapping.open(name) as other:
            at.unlink()
            if plant == "file":
                at.write_bytes(bytes(70_000))
            elif plant == "fifo":
                os.mkfifo(at)
            elif plant == "link":
                at.symlink_to(precious)
            if plant != "nothing":
                os.chown(at, NOBODY, NOBODY, follow_symlinks=False)
            m.write(b"mine", 0)
            assert other.array(4, "u1").tobytes() == b"mine"
        if plant != "nothing":
            assert at.lstat().st_uid == NOBODY
            at.unlink()
        assert not any(precious.read_bytes())
    finally:
        precious.unlink()


# When a name is about to be locked it is taken away, and somebody else's file stands there.
REPLACED_BEFORE_THE_LOCK = """
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <stdarg.h>
    #include <stdlib.h>
    #include <unistd.h>
    int fcntl(int fd, int command, ...)
    {
        static int (*real)(int, int, ...);
        static int done;
        va_list list;
        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        if (!real)
            real = dlsym(RTLD_NEXT, "fcntl");
        if (command == F_OFD_SETLKW && !done++) {
            unlink(getenv("PLACE"));
            int planted = open(getenv("PLACE"), O_RDWR | O_CREAT | O_EXCL, 0600);
            write(planted, "planted", 7);
            fchown(planted, 65534, 65534);
            close(planted);
        }
        return real(fd, command, argument);
    }
"""


@on_linux
@needs_root("making what belongs to somebody else")
@pytest.mark.parametrize("there", ["nothing", "ours"])
def test_a_name_is_replaced_while_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setenv("PLACE", str(place(name)))
    script = """
        import sys, gatherio as gio
        try:
            gio.Mapping(None, size=10, name=sys.argv[1])
        except PermissionError as error:
            print(error.filename)
    """
    mine = gio.Mapping(None, size=10, name=name) if there == "ours" else None
    assert run_python(script, name, under=shim(tmp_path, REPLACED_BEFORE_THE_LOCK)) == f"{name}\n"
    if mine:
        mine.close()
    assert place(name).read_bytes() == b"planted"
    place(name).unlink()


# When a name is about to be locked somebody gives its file a second name.
LINKED_BEFORE_THE_LOCK = """
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <stdarg.h>
    #include <stdlib.h>
    #include <unistd.h>
    int fcntl(int fd, int command, ...)
    {
        static int (*real)(int, int, ...);
        va_list list;
        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        if (!real)
            real = dlsym(RTLD_NEXT, "fcntl");
        if (command == F_OFD_SETLKW)
            link(getenv("PLACE"), getenv("SECOND"));
        return real(fd, command, argument);
    }
"""


@on_linux
def test_a_name_gets_a_second_link_while_it_is_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and what stands there is left alone."""
    second = Path(f"{place(name)}-second")
    monkeypatch.setenv("PLACE", str(place(name)))
    monkeypatch.setenv("SECOND", str(second))
    place(name).write_bytes(b"left by the dead, or something else")
    place(name).chmod(0o600)
    script = """
        import sys, gatherio as gio
        for use in (lambda: gio.Mapping(None, size=10, name=sys.argv[1]), lambda: gio.Mapping.open(sys.argv[1])):
            try:
                use()
            except PermissionError as error:
                print(error.filename)
    """
    try:
        assert run_python(script, name, under=shim(tmp_path, LINKED_BEFORE_THE_LOCK)) == f"{name}\n" * 2
        assert second.read_bytes() == place(name).read_bytes() == b"left by the dead, or something else"
    finally:
        second.unlink(missing_ok=True)
        place(name).unlink(missing_ok=True)


@on_linux
def test_what_others_put_in_the_way_is_refused(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    stranger = place(name)
    for arrange in ("link", "open to all", "somebody else's", "folder"):
        if arrange == "link":
            stranger.symlink_to(victim)
        elif arrange == "folder":
            stranger.mkdir()
        else:
            stranger.touch(0o600)
            if arrange == "open to all":
                stranger.chmod(0o666)
            elif os.geteuid() == 0:
                os.chown(stranger, 12345, 12345)
        try:
            if arrange != "somebody else's" or os.geteuid() == 0:
                for use in (lambda: gio.Mapping(None, size=10, name=name), lambda: gio.Mapping.open(name)):
                    with pytest.raises(OSError) as caught:
                        use()
                    assert caught.value.errno == (errno.EISDIR if arrange == "folder" else errno.EACCES)
        finally:
            if arrange == "folder":
                stranger.rmdir()
            else:
                stranger.unlink()
    assert victim.read_bytes() == b"precious"


# --- interruptions (more in test_interrupts.py) and crashes ---


@pytest.mark.timeout(60)
def test_a_thread_that_was_broken_off_keeps_nobody_waiting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has half made goes in another thread, and others wait for the name meanwhile. It lives on."""
    stops: list[KeyboardInterrupt] = []
    begun, ended = threading.Event(), threading.Event()

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(native.lib, name)

        def gio_section_of_memory(self, *arguments: object) -> None:
            assert native.lib.gio_section_of_memory(*arguments) == 0
            raise KeyboardInterrupt

    def make() -> None:
        try:
            gio.Mapping(None, size=10, name=name)
        except KeyboardInterrupt as stop:
            stops.append(stop)
        begun.set()
        ended.wait(FOREVER)

    with Peer() as other:
        with monkeypatch.context() as patched:
            patched.setattr(sections, "lib", Interrupted())
            thread = threading.Thread(target=make)
            thread.start()
            assert begun.wait(FOREVER)
        other.tell(f"gio.Mapping(None, size=10, name={name!r}).close()")
        stops.pop().__traceback__ = None
        gc.collect()
        other.answer()
        ended.set()
        thread.join()


def test_a_killed_owner_blocks_nobody(name: str) -> None:
    with Peer() as owner:
        owner.do(f"m = gio.Mapping(None, size=100_000, name={name!r}); m.array(100_000, 'u1')[...] = 7")
        owner.kill()
    with pytest.raises(FileNotFoundError):
        gio.Mapping.open(name)
    with gio.Mapping(None, size=50_000, name=name) as m:
        assert m.created and m.size == 50_000 and not m.array(50_000, "u1").any()
    with Peer() as owner:
        owner.do(f"m = gio.Mapping(None, size=100_000, name={name!r}); m.array(100_000, 'u1')[...] = 7")
        owner.kill()
    with gio.Mapping(None, size=50_000, name=name) as m:
        assert m.created and not m.array(50_000, "u1").any()


def test_a_killed_owner_takes_nothing_from_others(name: str) -> None:
    with Peer() as owner, Peer() as other:
        owner.do(f"m = gio.Mapping(None, size=100_000, name={name!r}); m.array(100_000, 'u1')[...] = 7")
        other.do(f"m = gio.Mapping.open({name!r})")
        owner.kill()
        with gio.Mapping.open(name) as m:
            assert m.read(99_999) == b"\x07"
        assert other.do("m.read(5, 1)") == b"\x07"
        assert other.close() == 0  # the last one out


@on_linux
def test_memory_of_the_dead_is_given_back(name: str) -> None:
    with Peer() as owner:
        owner.do(f"m = gio.Mapping(None, size=100_000, name={name!r})")
        owner.kill()
    assert place(name).exists()
    with gio.Mapping(None, size=10, name=f"{name}-other"):
        assert not place(name).exists()


@on_linux
def test_a_name_costs_the_same_however_many_there_are(tmp_path: Path) -> None:
    """In calls of the system, and one descriptor."""
    script = """
        import os, sys, gatherio as gio
        names = [f"many-{os.getpid()}-{i}" for i in range(450)]
        mappings = []
        for name in names:
            os.access("/begin", 0)
            mappings.append(gio.Mapping(None, size=100, name=name))
        os.access("/begin", 0)
        before = len(os.listdir("/proc/self/fd"))
        for name in names[:20]:
            mappings.append(gio.Mapping.open(name))
            mappings[-1].write(b"x", 50)
        print(before, len(os.listdir("/proc/self/fd")) - before)
    """
    log = tmp_path / "log"
    before, more = map(int, run_python(script, under=strace(log)).split())
    assert 450 <= before < 470 and more == 20
    calls = [part.count("\n") for part in re.split(r'.* access\("/begin".*\n', log.read_text())[1:-1]]
    assert len(calls) == 450
    assert max(calls[-100:]) < min(calls[:3]) + 60 and max(calls[-100:]) <= max(calls[20:120]) + 4


@on_linux
def test_many_dead_among_the_living_are_given_back(name: str) -> None:
    """Not by the next name, which looks at a few only. But they do not pile up."""
    living = [gio.Mapping(None, size=10, name=f"{name}-living-{i}") for i in range(30)]
    with Peer() as owner:
        owner.do(f"m = [gio.Mapping(None, size=10, name=f'{name}-dead-{{i}}') for i in range(60)]")
        owner.kill()
    assert place(f"{name}-dead-0").exists()
    for _ in range(100):
        with gio.Mapping(None, size=10, name=name):
            pass
    assert not any(place(f"{name}-dead-{i}").exists() for i in range(60))
    for i, m in enumerate(living):
        with gio.Mapping.open(f"{name}-living-{i}") as again:
            m.write(b"here", 0)
            assert again.read(0, 4) == b"here"
        m.close()


@on_linux
def test_short_lived_processes_give_back_the_dead(name: str) -> None:
    """Each makes one name, and begins to look somewhere else."""
    living = [gio.Mapping(None, size=10, name=f"{name}-living-{i}") for i in range(30)]
    with Peer() as owner:
        owner.do(f"m = [gio.Mapping(None, size=10, name=f'{name}-dead-{{i}}') for i in range(8)]")
        owner.kill()
    script = "import sys, gatherio as gio; gio.Mapping(None, size=10, name=sys.argv[1]).close()"
    for _ in range(40):
        run_python(script, name)
        if not any(place(f"{name}-dead-{i}").exists() for i in range(8)):
            break
    else:
        pytest.fail("they are still there")
    for m in living:
        m.close()


def test_ending_without_closing_gives_the_name_back(name: str) -> None:
    run_python("import sys, gatherio as gio; m = gio.Mapping(None, size=10, name=sys.argv[1])", name)


@on_linux
def test_a_name_that_somebody_removed_goes_on(name: str) -> None:
    """Who has it open keeps it, and makes views of it, whatever stands in its place. Who comes later finds that."""
    with gio.Mapping(None, size=100, name=name) as m:
        place(name).unlink()
        m.write(b"old", 0)
        with gio.Mapping(None, size=100, name=name) as again:
            assert again.created and again.read(0, 3) == bytes(3)
            with gio.Mapping.open(name) as third:
                again.write(b"new", 0)
                assert m.read(0, 3) == b"old" and third.read(0, 3) == b"new"


@on_linux
def test_foreign_contents_under_a_name(name: str) -> None:
    """Somebody of this user holds a file with our locks and other contents."""
    with gio.Mapping(None, size=100_000, name=name):
        with open(place(name), "r+b") as file:
            file.write(b"something else")
        with pytest.raises(ValueError, match="somebody else's"):
            gio.Mapping.open(name)


# --- what others do to the memory ---

CUT_NAMES = """
    import os, sys, gatherio as gio
    name = f"cut-{os.getpid()}"
    for size in (0, 10, 65536, 70_000):  # within what says what the name stands for, behind it, within the data
        for access in ("r+", "r", "c"):
            with gio.Mapping(None, size=100_000, name=name) as m, gio.Mapping.open(name, access) as other:
                m.put(list(range(3000)), 30_000)
                for held in (m, other):
                    held.read(0)
                file = f"/dev/shm/gatherio-{os.geteuid()}-{name}"
                os.truncate(file, size)
                calls = [lambda: m.read(0), lambda: m.write(b"x", 50_000), lambda: m.put("x", 50_000)]
                calls += [lambda: m.get(30_000), lambda: other.read(90_000), lambda: gio.Mapping.open(name)]
                if access != "r":
                    calls += [lambda: other.write(b"xyz", 90_000)]
                for call in calls:
                    try:
                        call()
                        print("no error")
                    except (OSError, ValueError) as failure:
                        print(type(failure).__name__, getattr(failure, "errno", ""))
                os.truncate(file, 165_536)
            assert not os.path.exists(file)
"""


@on_linux
def test_named_memory_that_is_cut_is_an_error() -> None:
    """Its file lies where every program of this user can reach it."""
    lines = run_python(CUT_NAMES).splitlines()
    assert len(lines) == 4 * (6 * 3 + 2)
    # Who opens a name of which not even the beginning is there finds nothing of ours.
    assert set(lines) == {f"OSError {errno.EIO}", "ValueError "}
    assert lines.count("ValueError ") == 2 * 3


@on_linux
def test_named_memory_is_not_cut_in_this_process(name: str) -> None:
    with gio.Mapping(None, size=100_000, name=name) as m, gio.open(place(name), "r+") as f:
        with pytest.raises(OSError) as caught:
            f.truncate(10)
        assert caught.value.errno == errno.EBUSY
        m.write(b"x", 99_999)


# --- handing on ---


def _sum_up(m: gio.Mapping, name: str) -> None:
    with m:
        assert m.name == name and not m.created
        m.array((), "f8")[...] = m.array((300, 40), np.float64, 8).sum()


def test_multiprocessing_by_spawn(name: str) -> None:
    with gio.Mapping(None, size=100_000, name=name) as m:
        m.array((300, 40), np.float64, 8)[...] = 0.5
        process = multiprocessing.get_context("spawn").Process(target=_sum_up, args=(m, name))
        process.start()
        process.join()
        assert process.exitcode == 0 and m.array((), "f8") == 6000
        again = pickle.loads(pickle.dumps(m))
        assert again.read(0, 8) == m.read(0, 8)
        again.close()
        handed = pickle.dumps(m)
    with pytest.raises(FileNotFoundError):
        pickle.loads(handed)


@needs_fork
@no_fork_warning
def test_a_forked_child_holds_the_name_in_its_own_right(name: str) -> None:
    m = gio.Mapping(None, size=64 * KIB, name=name)
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(back[1], b"!")
            os.read(there[0], 1)  # the parent has closed
            with gio.Mapping.open(name) as again:
                m.write(b"child", 5)
                assert again.read(5, 5) == b"child"
            m.close()
            code = 0
        finally:
            os._exit(code)
    os.read(back[0], 1)
    m.close()
    os.write(there[1], b"!")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*there, *back):
        os.close(end)


@needs_fork
@no_fork_warning
def test_a_forked_child_has_the_name_from_its_first_moment(name: str) -> None:
    """Its parent may let go of it before the child has run at all."""
    for _ in range(20):
        mapping = gio.Mapping(None, size=64 * KIB, name=name)
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(mouth)
            os.read(ear, 1)
            mapping.close()
            os._exit(0)
        mapping.close()
        try:
            with gio.Mapping.open(name):
                pass
        finally:
            os.close(mouth)
            os.close(ear)
            os.waitpid(child, 0)
        with pytest.raises(FileNotFoundError):
            gio.Mapping.open(name)


@needs_fork
@no_fork_warning
def test_a_forked_child_takes_nothing_from_its_parent(name: str) -> None:
    with gio.Mapping(None, size=64 * KIB, name=name) as m, gio.Mapping.open(name, "r") as reader:
        for closes in (True, False):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    if closes:
                        m.close()
                        reader.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0) == (child, 0)
            with gio.Mapping.open(name):
                pass


@needs_fork
@no_fork_warning
def test_a_killed_parent_is_not_kept_alive_by_its_child(name: str) -> None:
    """Names go by locks, and the child has what the parent had mapped."""
    with Peer() as parent:
        parent.do(f"m = gio.Mapping(None, size=100_000, name={name!r}); a = m.array(10)")
        parent.do(
            "import os, time; ear, mouth = os.pipe(); child = os.fork()\n"
            "if child == 0: m.close(); os.write(mouth, b'!'); time.sleep(60); os._exit(0)\n"
            "os.read(ear, 1)"
        )
        child = parent.do("child")
        parent.kill()
        try:
            with gio.Mapping(None, size=10, name=name) as m:
                assert m.created
        finally:
            os.kill(child, 9)


@on_linux
@pytest.mark.timeout(30)
def test_a_stopped_process_that_has_the_lock_holds_up_nobodys_closing(name: str) -> None:
    """Somebody was stopped while coming or going. Closing waits a second at most, and leaves the rest to the next."""
    import fcntl
    import struct

    m = gio.Mapping(None, size=10, name=name)
    with open(place(name), "r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1 << 62, 1, 0)
        fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK
        m.close()
        assert place(name).exists()
    with gio.Mapping(None, size=10, name=f"{name}-next"):
        assert not place(name).exists()
