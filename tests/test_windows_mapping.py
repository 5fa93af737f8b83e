"""What is Windows' own in locks and mappings. Everything else is in the tests for all systems."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from ctypes import wintypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import FOREVER, KIB, PAGE, target, words
from test_windows import ANY_FUNCTION, replaced

import gatherio as gio
from gatherio._mapping import sections
from gatherio._native import lib

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)


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


# --- whose a name is ---

STRANGER = "S-1-5-21-1-2-3-1001"
ADMINISTRATORS = "S-1-5-32-544"
READ_CONTROL = 0x00020000


class SecurityAttributes(ctypes.Structure):
    _fields_ = [("length", wintypes.DWORD), ("descriptor", ctypes.c_void_p), ("inherit", wintypes.BOOL)]


def this_user() -> str:
    """The SID that our objects are to belong to, from another source than the core's."""
    room, length, text = ctypes.create_string_buffer(256), wintypes.DWORD(), ctypes.c_wchar_p()
    token = ctypes.c_void_p()
    assert advapi32.OpenProcessToken(ctypes.c_void_p(-1), 8, ctypes.byref(token))
    assert advapi32.GetTokenInformation(token, 1, room, len(room), ctypes.byref(length))
    assert advapi32.ConvertSidToStringSidW(ctypes.c_void_p.from_buffer(room), ctypes.byref(text))
    kernel32.CloseHandle(token)
    assert text.value
    return text.value


def rights_of(handle: int) -> str:
    """Owner and access list, as SDDL writes them."""
    room, length, text = ctypes.create_string_buffer(4096), wintypes.DWORD(), ctypes.c_wchar_p()
    what = 1 | 4
    assert advapi32.GetKernelObjectSecurity(ctypes.c_void_p(handle), what, room, len(room), ctypes.byref(length))
    assert advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW(room, 1, what, ctypes.byref(text), None)
    assert text.value
    return text.value


def full(kind: str, name: str) -> str:
    return f"Local\\gatherio-{kind}-{name}"


def make(kind: str, name: str, rights: str | None) -> int:
    """A section or another object, with this owner and access list."""
    security = None
    if rights is not None:
        descriptor = ctypes.c_void_p()
        convert = advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
        assert convert(rights, 1, ctypes.byref(descriptor), None)
        security = ctypes.byref(SecurityAttributes(ctypes.sizeof(SecurityAttributes), descriptor, False))
    if kind == "section":
        arguments: tuple[Any, ...] = (ctypes.c_void_p(-1), security, 4, 0, 256 * KIB, name)
        function = kernel32.CreateFileMappingW
    elif kind == "semaphore":
        arguments, function = (security, 0, 1, name), kernel32.CreateSemaphoreW
    else:
        arguments = (security, kind == "owned mutex", *([False] if kind == "event" else []), name)
        function = kernel32.CreateEventW if kind == "event" else kernel32.CreateMutexW
    function.restype = ctypes.c_void_p
    handle = function(*arguments)
    assert handle and ctypes.get_last_error() == 0
    return int(handle)


@contextlib.contextmanager
def made(kind: str, name: str, rights: str | None) -> Iterator[int]:
    handle = make(kind, name, rights)
    try:
        yield handle
    finally:
        kernel32.CloseHandle(ctypes.c_void_p(handle))


def opened(function: Any, rights: int, name: str) -> int:
    function.restype = ctypes.c_void_p
    handle = function(rights | READ_CONTROL, False, name)
    assert handle
    return int(handle)


def uses(name: str, path: Path) -> list[Callable[[], gio.Mapping]]:
    return [
        lambda: gio.Mapping(None, size=10, name=name),
        lambda: gio.Mapping(path, name=name),
        lambda: gio.Mapping.open(name),
        lambda: gio.Mapping.open(name, "r"),
    ]


@pytest.mark.parametrize("what", ["memory", "file", "reserved"])
def test_names_are_this_users_alone(path: Path, what: str) -> None:
    """What holds the name, and its lock, at which others wait meanwhile: rights for this user, and none inherited."""
    name = f"rights-{os.getpid()}"
    seen: list[str] = []

    def look(_: str, original: Any) -> Callable[..., int]:
        def looking(*arguments: int) -> int:
            for handle in (
                opened(kernel32.OpenMutexW, 0, full("gate", name)),
                opened(kernel32.OpenFileMappingW, 0, full("name", name)),
            ):
                inherited = wintypes.DWORD(1)
                kernel32.GetHandleInformation(ctypes.c_void_p(handle), ctypes.byref(inherited))
                seen.append(rights_of(handle) if inherited.value == 0 else "inherited")
                kernel32.CloseHandle(ctypes.c_void_p(handle))
            return int(original(*arguments))

        return looking

    target, size = (path, None) if what == "file" else (None, 100_000)
    with replaced(ANY_FUNCTION, ["ReleaseMutex"], look):
        m = gio.Mapping(target, size=size, name=name, reserve=what == "reserved")
    with m, gio.Mapping.open(name):
        user = this_user()
        assert len(seen) == 2
        for text in seen:
            owner, _, rights = text.partition("D:")
            assert owner == f"O:{user}"
            flags, _, entries = rights.partition("(")
            assert "P" in flags and entries.count("(") == 0  # protected, and one entry
            kind, inheritance, mask, _, _, who = entries.rstrip(")").split(";")
            assert (kind, inheritance, who) == ("A", "", user) and mask


@pytest.mark.parametrize("owner", [STRANGER, ADMINISTRATORS, "S-1-1-0", "S-1-5-18", "none"])
@pytest.mark.parametrize("kind", ["section", "mutex", "owned mutex"])
@pytest.mark.timeout(60)
def test_what_a_stranger_has_made_is_refused(path: Path, owner: str, kind: str) -> None:
    """Though he gives everybody all rights. Nothing is waited for: he may keep the lock for ever."""
    name = f"strange-{os.getpid()}"
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:  # a mutex is a thread's
        rights = None if owner == "none" else f"O:{owner}D:P(A;;GA;;;WD)"
        with made(kind, full("name" if kind == "section" else "gate", name), rights):
            begun.set()
            ended.wait(FOREVER)

    if owner == "none" and kind == "owned mutex":
        owner = STRANGER
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert begun.wait(FOREVER)
        before = path.read_bytes()
        for use in uses(name, path):
            with pytest.raises(PermissionError) as caught:
                use()
            assert (caught.value.errno, caught.value.winerror, caught.value.filename) == (errno.EACCES, 5, name)
            assert "another user" in str(caught.value)
        assert path.read_bytes() == before
    finally:
        ended.set()
        holder.join()
    with gio.Mapping(None, size=10, name=name) as m:
        assert m.created


@pytest.mark.parametrize("kind", ["section", "mutex"])
def test_what_a_stranger_keeps_to_himself_is_refused(path: Path, kind: str) -> None:
    name = f"closed-{os.getpid()}"
    with made(kind, full("name" if kind == "section" else "gate", name), f"O:{STRANGER}D:P(A;;GA;;;{STRANGER})"):
        for use in uses(name, path):
            with pytest.raises(PermissionError, match="another user") as caught:
                use()
            assert caught.value.filename == name


@pytest.mark.parametrize(
    ("place", "kind"),
    [("gate", "section"), ("gate", "event"), ("gate", "semaphore"), ("name", "mutex"), ("name", "event")],
)
def test_an_object_of_another_kind_is_refused(path: Path, place: str, kind: str) -> None:
    """All kinds of objects share the names, also those of this user's own."""
    name = f"kind-{os.getpid()}"
    with made(kind, full(place, name), f"O:{this_user()}D:P(A;;GA;;;{this_user()})"):
        for use in uses(name, path):
            with pytest.raises(PermissionError, match="no shared memory") as caught:
                use()
            assert caught.value.filename == name


def test_what_this_user_has_made_by_other_means_is_no_stranger(path: Path) -> None:
    """It is memory like any, and does not say what it stands for."""
    name = f"own-{os.getpid()}"
    with made("section", full("name", name), f"O:{this_user()}D:P(A;;GA;;;{this_user()})"):
        for use in uses(name, path):
            with pytest.raises(ValueError, match="somebody else's memory"):
                use()


def test_no_thread_comes_out_of_a_call_with_a_names_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutex is a thread's: what the thread leaves half made may go in another one, which could not give it back."""
    name = f"lock-{os.getpid()}"
    begun, ended = threading.Event(), threading.Event()

    class Interrupted:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def gio_section_of_memory(self, *arguments: object) -> None:
            assert lib.gio_section_of_memory(*arguments) == 0
            handle = kernel32.OpenMutexW(0x00100000, False, full("gate", name))  # SYNCHRONIZE
            handles.append(handle)  # with it the mutex stays, whoever else lets go of it
            begun.set()
            ended.wait(FOREVER)
            raise KeyboardInterrupt

    def make() -> None:
        with pytest.raises(KeyboardInterrupt):
            gio.Mapping(None, size=10, name=name)

    handles: list[int | None] = []
    kernel32.OpenMutexW.restype = ctypes.c_void_p
    thread = threading.Thread(target=make)
    with monkeypatch.context() as patched:
        patched.setattr(sections, "lib", Interrupted())
        thread.start()
        assert begun.wait(FOREVER)
    try:
        wait_timeout = 258
        for handle in filter(None, handles):
            assert kernel32.WaitForSingleObject(ctypes.c_void_p(handle), 0) != wait_timeout
            kernel32.ReleaseMutex(ctypes.c_void_p(handle))
            kernel32.CloseHandle(ctypes.c_void_p(handle))
        with gio.Mapping(None, size=10, name=name) as m:
            assert not m.created
    finally:
        ended.set()
        thread.join()


def test_a_name_that_cannot_be_given_rights_is_not_made() -> None:
    """Whatever of it fails: no memory that is open to others instead."""
    name = f"fails-{os.getpid()}"
    for function in (
        "GetTokenInformation",
        "InitializeAcl",
        "AddAccessAllowedAce",
        "InitializeSecurityDescriptor",
        "SetSecurityDescriptorOwner",
        "SetSecurityDescriptorDacl",
        "SetSecurityDescriptorControl",
        "GetKernelObjectSecurity",
    ):

        def refuse(_: str, __: Any) -> Callable[..., int]:
            def refusing(*___: int) -> int:
                ctypes.set_last_error(1344)  # ERROR_ALLOTTED_SPACE_EXCEEDED
                return 0

            return refusing

        with replaced(ANY_FUNCTION, [function], refuse), pytest.raises(OSError) as caught:
            gio.Mapping(None, size=10, name=name)
        assert caught.value.winerror == 1344, function
        with pytest.raises(FileNotFoundError):
            gio.Mapping.open(name)


def test_a_server_of_pipes_may_not_act_for_who_opens(path: Path) -> None:
    """A path may lead to a pipe, and its server would be whoever opens it (SECURITY_IDENTIFICATION)."""
    flags: list[int] = []

    def spy(_: str, original: Any) -> Callable[..., int]:
        def spying(*arguments: int) -> int:
            flags.append(arguments[5] & 0xFFFFFFFF)
            return int(original(*arguments))

        return spying

    with replaced(ANY_FUNCTION, ["CreateFileW"], spy):
        gio.Mapping(path).close()
        gio.open(path, "r+").close()
        gio.open(path, "w").close()
    assert len(flags) == 3
    assert all(flag & 0x001F0000 == 0x00110000 for flag in flags)


# --- pages ---


def test_where_pages_are_touched_nothing_of_others_is_lost() -> None:
    """Another thread writes to a page in the very moment in which it is touched: it is read-only until that is tried,
    and then each of its bytes has got one more."""
    a = gio.empty(64 * PAGE, "u1")
    a[...] = np.arange(a.size) % 251
    begin, end, touched = a.ctypes.data, a.ctypes.data + a.nbytes, 0
    before = wintypes.DWORD()

    class Record(ctypes.Structure):
        _fields_ = [
            ("code", ctypes.c_uint32),
            ("flags", ctypes.c_uint32),
            ("next", ctypes.c_void_p),
            ("at", ctypes.c_void_p),
            ("count", ctypes.c_uint32),
            ("information", ctypes.c_size_t * 15),
        ]

    def write_there(pointers: Any) -> int:
        nonlocal touched
        record = pointers[0].contents
        where = record.information[1]
        if record.code != 0xC0000005 or not begin <= where < end:
            return 0  # EXCEPTION_CONTINUE_SEARCH
        page = (where - begin) // PAGE
        kernel32.VirtualProtect(ctypes.c_void_p(begin + page * PAGE), ctypes.c_size_t(PAGE), 4, ctypes.byref(before))
        a[page * PAGE : (page + 1) * PAGE] += 1
        touched += 1
        return -1  # EXCEPTION_CONTINUE_EXECUTION

    kind = ctypes.WINFUNCTYPE(ctypes.c_long, ctypes.POINTER(ctypes.POINTER(Record)))
    handler = kind(write_there)
    kernel32.AddVectoredExceptionHandler.restype = ctypes.c_void_p
    added = kernel32.AddVectoredExceptionHandler(1, handler)
    try:
        assert kernel32.VirtualProtect(ctypes.c_void_p(begin), ctypes.c_size_t(a.nbytes), 2, ctypes.byref(before))
        gio.prefault(a[100:-100])
    finally:
        kernel32.RemoveVectoredExceptionHandler(ctypes.c_void_p(added))
    assert touched == 64
    assert (a == np.arange(a.size) % 251 + 1).all()
