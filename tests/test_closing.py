"""Errors that the system tells when a file is closed: NFS and FUSE say only there that data is not on the server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuse import Fuse
from oracle import not_on_windows, run_python, shim, words

import gatherio as gio

pytestmark = not_on_windows("its calls are replaced in test_windows.py")

# close(2) closes, and then fails for the descriptors of files in whose path CLOSE_NAME is: all, those with O_DIRECT,
# those without, or those open for both directions, as in a file of mode "w" only the one of its locks is.
CLOSE = """
    #include <dlfcn.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    int close(int fd)
    {
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "close");
        const char *wanted = getenv("CLOSE_NAME"), *which = getenv("CLOSE_WHICH");
        char link[64], name[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, name, sizeof name - 1);
        int flags = fcntl(fd, F_GETFL), result = real(fd);
        name[length > 0 ? length : 0] = 0;
        if (wanted == NULL || strstr(name, wanted) == NULL)
            return result;
        if (strcmp(which, "direct") == 0 && !(flags & O_DIRECT))
            return result;
        if (strcmp(which, "ordinary") == 0 && (flags & O_DIRECT))
            return result;
        if (strcmp(which, "locks") == 0 && (flags & O_ACCMODE) != O_RDWR)
            return result;
        errno = atoi(getenv("CLOSE_ERROR"));
        return -1;
    }
"""

BEGIN = """
    import ctypes, errno, gc, os, sys, warnings, numpy as np, gatherio as gio
    from oracle import PAGE, MIB, fault, placed, set_fault, words
    from this_process import handle_count
    path = sys.argv[1]

    def let_fail(name):
        ctypes.CDLL(None).setenv(b"CLOSE_NAME", name.encode(), 1)

    def told(call):
        try:
            call()
        except OSError as failure:
            assert failure.filename == path, failure.filename
            return f"{failure.errno} {failure.__context__ is not None}"
        return "nothing"
"""


def closing(folder: Path, script: str, *arguments: object, which: str = "all", error: int = errno.EDQUOT) -> list[str]:
    """What the script prints, a line each, when closing descriptors of ``folder/file`` fails."""
    under = [*shim(folder, CLOSE), f"CLOSE_NAME={folder}/file", f"CLOSE_WHICH={which}", f"CLOSE_ERROR={error}"]
    return run_python(BEGIN + script, folder / "file", *arguments, under=under).splitlines()


@pytest.mark.parametrize(("which", "error"), [("all", errno.EDQUOT), ("direct", errno.EIO), ("ordinary", errno.ENOSPC)])
def test_close_tells_them(disk_dir: Path, backend: str, direct: bool | None, which: str, error: int) -> None:
    script = """
    backend, direct = sys.argv[2], {"None": None, "False": False}[sys.argv[3]]
    with gio.CompletionQueue(backend=backend) as q:
        handles = handle_count()
        f = gio.open(path, "w", queue=q, direct=direct)
        f.write_at(words(0, 5000), 0).result()
        print(told(f.close), f.closed, handle_count() - handles)
        print(told(f.close), handle_count() - handles)
    """
    expected = "nothing" if which == "direct" and direct is False else f"{error} False"
    found = closing(disk_dir, script, backend, direct, which=which, error=error)
    assert found == [f"{expected} True 0", "nothing 0"]
    assert (disk_dir / "file").stat().st_size == 5000


@pytest.mark.parametrize("mode", ["r", "r+", "w", "x"])
def test_in_every_mode(disk_dir: Path, mode: str) -> None:
    script = """
    mode = sys.argv[2]
    if mode != "x":
        open(path[:-4] + "other", "wb").close()
        os.rename(path[:-4] + "other", path)
    f = gio.open(path, mode)
    print(told(f.close))
    """
    assert closing(disk_dir, script, mode) == [f"{errno.EDQUOT} False"]


def test_an_interrupted_close_has_closed(disk_dir: Path) -> None:
    script = """
    handles = handle_count()
    with gio.CompletionQueue(backend="threads") as q, gio.open(path, "w", queue=q, preallocate=MIB) as f:
        f.lock(0, 10)
    print(handle_count() - handles)
    """
    assert closing(disk_dir, script, error=errno.EINTR) == ["0"]


def test_the_descriptor_of_locks_tells_them(disk_dir: Path) -> None:
    script = """
    f = gio.open(path, "w", direct=False)
    lock = f.lock(0, 10)
    print(told(f.close), told(f.close))
    """
    assert closing(disk_dir, script, which="locks") == [f"{errno.EDQUOT} False nothing"]


@pytest.mark.parametrize("reserve", [False, True])
def test_with_blocks_tell_them(disk_dir: Path, reserve: bool) -> None:
    """Also where space is given back meanwhile."""
    script = """
    def block(failure):
        with gio.open(path, "w", preallocate=MIB if sys.argv[2] == "True" else None) as f:
            f.write_at(words(0, 5000), 0).result()
            if failure:
                raise KeyError("mine")
    print(told(lambda: block(False)), os.stat(path).st_blocks * 512 < MIB)
    print(told(lambda: block(True)))
    """
    assert closing(disk_dir, script, reserve) == [f"{errno.EDQUOT} False True", f"{errno.EDQUOT} True"]


def test_a_failed_write_that_nobody_knows_of_goes_first(disk_dir: Path, backend: str) -> None:
    script = """
    with gio.CompletionQueue(backend=sys.argv[2]) as q:
        f = gio.open(path, "w", queue=q)
        with fault(q, "FAIL", value=errno.EIO):
            f.write_at(placed(words(0, PAGE)), 0)
            print(told(f.close))
        print(told(f.close))
    """
    assert closing(disk_dir, script, backend) == [f"{errno.EIO} True", "nothing"]


def test_nobody_to_tell(disk_dir: Path) -> None:
    """A file that is dropped: as with the built-in ones, what cannot be raised goes to sys.unraisablehook."""
    script = """
    ignored = []
    sys.unraisablehook = lambda args: ignored.append(args.exc_value)
    handles = handle_count()
    with gio.CompletionQueue(backend="threads") as q:
        f = gio.open(path, "w", queue=q)
        f.write_at(words(0, 5000), 0).result()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            q.get(0)
            del f
            gc.collect()
        print([warning.category.__name__ for warning in seen], [failure.errno for failure in ignored])
    print(handle_count() - handles)
    """
    assert closing(disk_dir, script) == [f"['ResourceWarning'] [{errno.EDQUOT}]", "0"]


def test_a_close_that_ctrl_c_breaks_off_tells_them_when_it_is_repeated(disk_dir: Path) -> None:
    script = """
    from gatherio._core import file as file_module
    from gatherio._native import lib

    class Interrupted:
        def __getattr__(self, name):
            return getattr(lib, name)

        def gio_file_close(self, native):
            file_module.lib = lib
            lib.gio_file_close(native)
            raise KeyboardInterrupt

    f = gio.open(path, "w")
    file_module.lib = Interrupted()
    try:
        f.close()
    except KeyboardInterrupt:
        print(told(f.close), told(f.close))
    """
    assert closing(disk_dir, script) == [f"{errno.EDQUOT} True nothing"]


@pytest.mark.parametrize("failing", ["write", "close"])
def test_the_end_of_the_interpreter_prints_them(disk_dir: Path, failing: str) -> None:
    """It says nothing else, and the exit code stays what it is."""
    script = """
    os.dup2(1, 2)
    warnings.simplefilter("ignore")
    queue = gio.CompletionQueue(backend="threads")
    f = gio.open(path, "w", queue=queue)
    if sys.argv[2] == "write":
        let_fail("none")
        set_fault(queue, "FAIL", value=errno.EDQUOT)
    f.write_at(words(0, 5000), 0)
    """
    found = "\n".join(closing(disk_dir, script, failing))
    assert found.count("Exception ignored") == 1 and "Disk quota exceeded" in found and f"{disk_dir}/file" in found


def test_a_forked_child_is_told_what_its_own_close_gives(disk_dir: Path) -> None:
    script = """
    warnings.simplefilter("ignore", DeprecationWarning)
    f = gio.open(path, "w")
    child = os.fork()
    if child == 0:
        print(told(f.close), told(f.close), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(told(f.close))
    """
    assert closing(disk_dir, script) == [f"{errno.EDQUOT} False nothing", f"{errno.EDQUOT} False"]


def test_an_open_that_fails_behind_it(disk_dir: Path) -> None:
    """The new file is removed all the same."""
    script = """
    print(told(lambda: gio.open(path, "w", preallocate=1 << 60)), os.path.exists(path))
    """
    assert closing(disk_dir, script) == [f"{errno.EDQUOT} True False"]


def test_save_keeps_the_old_file(disk_dir: Path) -> None:
    """Closing the new one fails: what is there is good, and stays."""
    script = """
    gio.save(path, np.arange(10))
    before = set(os.listdir(os.path.dirname(path)))
    let_fail(os.path.dirname(path))
    print(told(lambda: gio.save(path, np.ones(100_000))))
    let_fail("none")
    print(np.load(path).tolist() == list(range(10)), set(os.listdir(os.path.dirname(path))) == before)
    """
    found = closing(disk_dir, script)
    assert found[0].startswith(f"{errno.EDQUOT} ") and found[1:] == ["True True"]


# --- a server that tells them ---


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("how", ["close", "with"])
def test_what_a_server_tells(
    fuse: Callable[..., Fuse], backend: str, direct: bool | None, number: int, how: str
) -> None:
    server = fuse()
    path = server.path / "file"
    with gio.CompletionQueue(backend=backend) as queue:
        f = gio.open(path, "w", queue=queue, direct=direct, preallocate=1 << 20)
        f.write_at(words(0, 5000), 0).result()
        server.faults(flush={"error": number})
        with pytest.raises(OSError) as caught:
            if how == "close":
                f.close()
            else:
                with f:
                    pass
        assert (caught.value.errno, caught.value.filename) == (number, path)
        assert f.closed


def test_what_the_kernel_has_kept_and_the_server_refuses(fuse: Callable[..., Fuse]) -> None:
    """The write itself succeeds. That is a buffered file's way, of which nobody asks more before it is closed."""
    server = fuse(writeback=True)
    f = gio.open(server.path / "file", "w", direct=False)
    server.faults(write={"error": errno.EDQUOT})
    f.write_at(words(0, 5000), 0).result()
    with pytest.raises(OSError):
        f.close()


def test_save_to_a_server_that_fails_at_the_end(fuse: Callable[..., Fuse]) -> None:
    server = fuse()
    path = server.path / "a.npy"
    gio.save(path, np.arange(10))
    server.faults(flush={"error": errno.EDQUOT})
    with pytest.raises(OSError) as caught:
        gio.save(path, np.ones(100_000))
    server.faults()
    assert (caught.value.errno, caught.value.filename) == (errno.EDQUOT, str(path))
    assert np.load(path).tolist() == list(range(10))
    assert os.listdir(server.path) == ["a.npy"]
