"""A file system for tests, in which files fail in the ways that only a server can make them fail.

`Fuse` mounts one flat folder whose files are kept in the memory of a process of their own: it goes on when the test
forks, holds the GIL or is killed, and it ends and is unmounted whatever happens. That process is this file, run as a
program. It speaks the kernel's FUSE protocol over /dev/fuse (<linux/fuse.h>) without a library, and needs root.

How the parts fit together:

    Options, Fault    what may be asked for: the one when it is mounted, the other at any time
    Files             the files, and the answer to each request of the kernel
    Server            takes requests off /dev/fuse, lets faults happen, answers; takes orders from the test
    Fuse              the test's end: starts the server, gives it orders, unmounts

Names and times are never kept by the kernel (their time of validity is 0), so `stat` always tells what the server has.
"""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import enum
import errno
import json
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MAX_TRANSFER = 128 << 10  # of one request: what the kernel gives a server that asks for nothing special
UNLIMITED = 1 << 62
FOREVER = 60.0  # seconds: for the server's end, which comes at once unless it is broken


# --- what may be asked for ---


@dataclasses.dataclass
class Options:
    """How the file system is, from its mounting on."""

    direct_io: bool = False  # files are opened with FOPEN_DIRECT_IO: no page cache, whatever the caller asks for
    refuse_o_direct: bool = False  # open(O_DIRECT) answers EINVAL
    room: int = UNLIMITED  # bytes for all files together; then ENOSPC
    partial: bool = False  # a write to a server with too little room writes what fits, as a server on a full disk does
    statfs: str = ""  # "no_block_size", "no_blocks": tells 0 there, as servers do that don't know
    no_fallocate: int = 0  # the errno that fallocate answers: ENOSYS, EOPNOTSUPP
    refuse_chmod: bool = False  # chmod and chown answer EPERM
    writeback: bool = False  # the kernel keeps written pages, and tells their errors at fsync and close


@dataclasses.dataclass
class Fault:
    """What happens to the requests of one kind, from the `after`-th next one on, `count` of them."""

    error: int = 0  # the errno that is answered; nothing is done
    short: int = UNLIMITED  # bytes that one read or write moves at most
    drop: bool = False  # a write that succeeds, lengthens the file and stores zeros
    hold: bool = False  # no answer before the faults are changed, or the caller gets a signal (EINTR)
    after: int = 0
    count: int = UNLIMITED

    def strikes(self) -> bool:
        """Whether the request that has just come meets it."""
        if self.after > 0:
            self.after -= 1
            return False
        self.count -= 1
        return self.count >= 0


HEALTHY = Fault()


class Op(enum.IntEnum):
    """enum fuse_opcode. What is not here is answered with ENOSYS, which the kernel then does without."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKNOD = 8
    UNLINK = 10
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


KINDS: dict[int, str] = {  # of requests that faults are asked for by
    Op.READ: "read",
    Op.WRITE: "write",
    Op.FLUSH: "flush",
    Op.FSYNC: "fsync",
    Op.FALLOCATE: "fallocate",
    Op.SETATTR: "setattr",
    Op.RENAME: "rename",
    Op.RENAME2: "rename",
    Op.OPEN: "open",
    Op.CREATE: "open",
    Op.UNLINK: "unlink",
}
CAN_BE_HELD = {"read", "write", "fsync"}  # a process that is killed can leave these; it would hang in the others


# --- the files ---

_INIT_ASYNC_READ, _INIT_BIG_WRITES, _INIT_WRITEBACK = 1 << 0, 1 << 5, 1 << 16
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_MTIME, _SET_MTIME_NOW = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_FOPEN_DIRECT_IO = 1 << 0
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # <linux/falloc.h>
_NOREPLACE, _EXCHANGE = 1, 2
_WRITE_CACHE = 1 << 0  # pages that the kernel has kept: it does not look at the count of such a write
_ROOT = 1
_BLOCK = 4096

_IN_HEADER = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, two of no interest
_OUT_HEADER = struct.Struct("=IiQ")  # length, -errno, unique
_IO_IN = struct.Struct("=QQIIQII")  # fuse_read_in and fuse_write_in: handle, offset, size, ...


class Request(NamedTuple):
    """What the kernel asks for."""

    op: int
    unique: int
    node: int
    uid: int
    gid: int
    body: bytes

    @property
    def kind(self) -> str:
        return KINDS.get(self.op, "")

    def names(self, skip: int = 0) -> list[bytes]:
        """The names that come behind the first `skip` bytes."""
        return self.body[skip:].split(b"\0")[:-1]


@dataclasses.dataclass
class Node:
    """A file, or the one folder."""

    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    data: bytearray = dataclasses.field(default_factory=bytearray)
    reserved: int = 0  # bytes from the start that fallocate has set aside
    links: int = 1
    handles: int = 0
    mtime: int = dataclasses.field(default_factory=time.time_ns)

    @property
    def space(self) -> int:
        return max(len(self.data), self.reserved)

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def attributes(self) -> bytes:
        """fuse_attr"""
        seconds, rest = divmod(self.mtime, 10**9)
        blocks = -(-self.space // 512)
        sizes = (self.number, len(self.data), blocks, seconds, seconds, seconds, rest, rest, rest)
        return struct.pack("=6Q10I", *sizes, self.mode, self.links, self.uid, self.gid, 0, _BLOCK, 0)


class Files:
    """The folder, and the answers to requests. What fails is raised as an OSError with the errno to be answered."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._nodes = {_ROOT: Node(_ROOT, stat.S_IFDIR | 0o777, links=2)}
        self._names: dict[bytes, Node] = {}
        self._answers: dict[int, Callable[[Request, Fault], bytes]] = {
            Op.INIT: self._init,
            Op.LOOKUP: lambda request, _: self._entry(self._find(*request.names())),
            Op.GETATTR: lambda request, _: self._attributes(self._nodes[request.node]),
            Op.SETATTR: self._setattr,
            Op.MKNOD: lambda request, _: self._entry(self._new(request)),
            Op.CREATE: self._create,
            Op.LINK: self._link,
            Op.UNLINK: self._unlink,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.FALLOCATE: self._fallocate,
            Op.RELEASE: self._release,
            Op.STATFS: self._statfs,
            Op.READDIR: self._readdir,
            Op.OPENDIR: lambda request, _: struct.pack("=QII", 0, 0, 0),
            **dict.fromkeys((Op.FLUSH, Op.FSYNC, Op.FSYNCDIR, Op.RELEASEDIR), lambda request, _: b""),
            **dict.fromkeys((Op.SETXATTR, Op.GETXATTR, Op.LISTXATTR, Op.REMOVEXATTR), _no_attributes),
        }

    def answer(self, request: Request, fault: Fault) -> bytes:
        if request.op not in self._answers:
            raise OSError(errno.ENOSYS, "not implemented")
        return self._answers[request.op](request, fault)

    def content(self, name: str) -> bytes:
        return bytes(self._find(name.encode()).data)

    # - names -

    def _init(self, request: Request, _: Fault) -> bytes:
        major, minor, no_read_ahead_limit, background, congestion = 7, 31, 1 << 17, 16, 12
        flags = _INIT_ASYNC_READ | _INIT_BIG_WRITES | (_INIT_WRITEBACK if self._options.writeback else 0)
        head = (major, minor, no_read_ahead_limit, flags, background, congestion, MAX_TRANSFER)
        return struct.pack("=4I2H2I2HI28x", *head, 1, 0, 0, 0)

    def _find(self, name: bytes) -> Node:
        if name not in self._names:
            raise OSError(errno.ENOENT, "no such name")
        return self._names[name]

    def _entry(self, node: Node) -> bytes:
        """fuse_entry_out"""
        return struct.pack("=4Q2I", node.number, 0, 0, 0, 0, 0) + node.attributes()

    def _attributes(self, node: Node) -> bytes:
        """fuse_attr_out"""
        return struct.pack("=Q2I", 0, 0, 0) + node.attributes()

    def _new(self, request: Request) -> Node:
        """A file by fuse_create_in or fuse_mknod_in, which agree in what is needed."""
        (mode,) = struct.unpack_from("=4xI" if request.op == Op.CREATE else "=I", request.body)
        (name,) = request.names(16)
        if name in self._names:
            raise OSError(errno.EEXIST, "the name is taken")
        node = Node(max(self._nodes) + 1, mode, request.uid, request.gid)
        self._nodes[node.number] = self._names[name] = node
        return node

    def _link(self, request: Request, _: Fault) -> bytes:
        (number,) = struct.unpack_from("=Q", request.body)
        (name,) = request.names(8)
        node = self._names[name] = self._nodes[number]
        node.links += 1
        return self._entry(node)

    def _unlink(self, request: Request, _: Fault) -> bytes:
        (name,) = request.names()
        self._find(name)
        self._drop(self._names.pop(name))
        return b""

    def _drop(self, node: Node) -> None:
        """It has lost a name."""
        node.links -= 1
        self._forget_if_unused(node)

    def _forget_if_unused(self, node: Node) -> None:
        """The space of a file that nobody can reach any more is free again."""
        if node.links == 0 and node.handles == 0:
            node.data.clear()
            node.reserved = 0

    def _rename(self, request: Request, _: Fault) -> bytes:
        flags = struct.unpack_from("=8xI", request.body)[0] if request.op == Op.RENAME2 else 0
        old, new = request.names(16 if request.op == Op.RENAME2 else 8)
        moved, replaced = self._find(old), self._names.get(new)
        if flags & _NOREPLACE and replaced is not None:
            raise OSError(errno.EEXIST, "the name is taken")
        del self._names[old]
        self._names[new] = moved
        if flags & _EXCHANGE and replaced is not None:
            self._names[old] = replaced
        elif replaced is not None:
            self._drop(replaced)
        return b""

    def _readdir(self, request: Request, _: Fault) -> bytes:
        start, size = _IO_IN.unpack_from(request.body)[1:3]
        root, entries = self._nodes[_ROOT], b""
        every = [(b".", root), (b"..", root), *self._names.items()]
        for i, (name, node) in enumerate(every[start:], start + 1):
            entry = struct.pack("=QQII", node.number, i, len(name), stat.S_IFMT(node.mode) >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    # - attributes -

    def _setattr(self, request: Request, _: Fault) -> bytes:
        node = self._nodes[request.node]
        fields = struct.unpack_from("=2I6Q8I", request.body)
        valid, size, seconds, rest = fields[0], fields[3], fields[6], fields[9]
        mode, uid, gid = fields[11], fields[13], fields[14]
        if valid & (_SET_MODE | _SET_UID | _SET_GID) and self._options.refuse_chmod:
            raise OSError(errno.EPERM, "neither mode nor owner can be changed here")
        if valid & _SET_SIZE:
            self._truncate(node, size)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode) if valid & _SET_MODE else node.mode
        node.uid = uid if valid & _SET_UID else node.uid
        node.gid = gid if valid & _SET_GID else node.gid
        if valid & (_SET_MTIME | _SET_MTIME_NOW):
            node.mtime = time.time_ns() if valid & _SET_MTIME_NOW else seconds * 10**9 + rest
        return self._attributes(node)

    def _truncate(self, node: Node, size: int) -> None:
        if size > self._end_of_room(node):
            raise OSError(errno.ENOSPC, "no room")
        node.resize(size)
        node.reserved = min(node.reserved, size)
        node.mtime = time.time_ns()

    def _statfs(self, request: Request, _: Fault) -> bytes:
        """fuse_kstatfs"""
        blocks = min(self._options.room, 1 << 42) // _BLOCK
        free = max(0, blocks - sum(-(-node.space // _BLOCK) for node in self._nodes.values()))
        size = 0 if self._options.statfs == "no_block_size" else _BLOCK
        if self._options.statfs == "no_blocks":
            blocks = free = 0
        return struct.pack("=5Q4I24x", blocks, free, free, 1000, 1000, size, 255, size, 0)

    # - data -

    def _create(self, request: Request, fault: Fault) -> bytes:
        self._refuse_o_direct(request)
        node = self._new(request)
        return self._entry(node) + self._open_handle(node)

    def _open(self, request: Request, _: Fault) -> bytes:
        self._refuse_o_direct(request)
        return self._open_handle(self._nodes[request.node])

    def _refuse_o_direct(self, request: Request) -> None:
        (flags,) = struct.unpack_from("=I", request.body)
        if flags & os.O_DIRECT and self._options.refuse_o_direct:
            raise OSError(errno.EINVAL, "no O_DIRECT")

    def _open_handle(self, node: Node) -> bytes:
        """fuse_open_out"""
        node.handles += 1
        return struct.pack("=QII", 0, _FOPEN_DIRECT_IO if self._options.direct_io else 0, 0)

    def _release(self, request: Request, _: Fault) -> bytes:
        node = self._nodes[request.node]
        node.handles -= 1
        self._forget_if_unused(node)
        return b""

    def _read(self, request: Request, fault: Fault) -> bytes:
        offset, size = _IO_IN.unpack_from(request.body)[1:3]
        return bytes(self._nodes[request.node].data[offset : offset + min(size, fault.short)])

    def _write(self, request: Request, fault: Fault) -> bytes:
        node = self._nodes[request.node]
        _, offset, size, flags, *_ = _IO_IN.unpack_from(request.body)
        data = request.body[_IO_IN.size :][: min(size, fault.short)]
        fits = self._what_fits(node, offset, bytes(len(data)) if fault.drop else data)
        node.resize(max(len(node.data), offset + len(fits)))
        node.data[offset : offset + len(fits)] = fits
        node.mtime = time.time_ns()
        if len(fits) < len(data) and flags & _WRITE_CACHE:
            raise OSError(errno.ENOSPC, "no room")
        return struct.pack("=II", len(fits), 0)

    def _end_of_room(self, node: Node) -> int:
        """How long the file can be."""
        others = sum(each.space for each in self._nodes.values() if each is not node)
        return max(node.space, self._options.room - others)

    def _what_fits(self, node: Node, offset: int, data: bytes) -> bytes:
        fits = data[: max(0, self._end_of_room(node) - offset)]
        if len(fits) < len(data) and not (fits and self._options.partial):
            raise OSError(errno.ENOSPC, "no room")
        return fits

    def _fallocate(self, request: Request, _: Fault) -> bytes:
        node = self._nodes[request.node]
        offset, length, mode = struct.unpack_from("=8xQQI", request.body)
        end = offset + length
        if self._options.no_fallocate:
            raise OSError(self._options.no_fallocate, "no fallocate")
        if mode & (_PUNCH_HOLE | _ZERO_RANGE):
            inside = len(node.data[offset:end])
            node.data[offset : offset + inside] = bytes(inside)
        if mode & _PUNCH_HOLE:
            return b""
        if end > self._end_of_room(node):
            raise OSError(errno.ENOSPC, "no room")
        node.reserved = max(node.reserved, end)
        if not mode & _KEEP_SIZE:
            node.resize(max(len(node.data), end))
        return b""


def _no_attributes(request: Request, _: Fault) -> bytes:
    raise OSError(errno.EOPNOTSUPP, "no extended attributes")


# --- the server ---

END = json.dumps(["end", None])  # the order to end: a test's forked child may keep the pipe open


class Server:
    """Answers the kernel, one request after the other, and the test, which gives its orders as lines of JSON."""

    def __init__(self, device: int, options: Options) -> None:
        self._device = device
        self._files = Files(options)
        self._faults: dict[str, Fault] = {}
        self._counts = dict.fromkeys(KINDS.values(), 0)
        self._held: list[Request] = []

    def run(self) -> None:
        """Until the file system is unmounted, or the test wants or meets its end."""
        orders, poll = sys.stdin.fileno(), select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(orders, select.POLLIN)
        going_on = True
        while going_on:
            for descriptor, _ in poll.poll():
                going_on = going_on and (self._obey() if descriptor == orders else self._serve())

    # - the test -

    def _obey(self) -> bool:
        order, argument = json.loads(sys.stdin.readline() or END)
        if order == "end":
            return False
        orders: dict[str, Callable[[], object]] = {
            "faults": lambda: self._set_faults(argument),
            "counts": lambda: self._counts,
            "held": lambda: len(self._held),
            "content": lambda: base64.b64encode(self._files.content(argument)).decode(),
        }
        tell(orders[order]())
        return True

    def _set_faults(self, faults: dict[str, dict[str, Any]]) -> None:
        self._faults = {kind: Fault(**fault) for kind, fault in faults.items()}
        held, self._held = self._held, []
        for request in held:
            self._answer(request)

    # - the kernel -

    def _serve(self) -> bool:
        try:
            raw = os.read(self._device, MAX_TRANSFER + _BLOCK)
        except OSError as error:
            # ENOENT, EAGAIN: whoever asked has gone meanwhile. ENODEV: unmounted.
            return error.errno in (errno.ENOENT, errno.EAGAIN, errno.EINTR)
        _, op, unique, node, uid, gid, *_ = _IN_HEADER.unpack_from(raw)
        self._take(Request(op, unique, node, uid, gid, raw[_IN_HEADER.size :]))
        return True

    def _take(self, request: Request) -> None:
        if request.op in (Op.FORGET, Op.BATCH_FORGET):
            return  # they have no answer
        if request.op == Op.INTERRUPT:
            self._interrupt(*struct.unpack_from("=Q", request.body))
            return
        if request.kind:
            self._counts[request.kind] += 1
        self._answer(request)

    def _interrupt(self, unique: int) -> None:
        """Whoever waits for a request has got a signal. One that is not held is answered in a moment anyway."""
        for request in self._held:
            if request.unique == unique:
                self._held.remove(request)
                self._reply(request, error=errno.EINTR)
                return

    def _answer(self, request: Request) -> None:
        fault = self._faults.get(request.kind)
        if fault is None or not fault.strikes():
            fault = HEALTHY
        if fault.hold:
            self._held.append(request)
            return
        try:
            if fault.error:
                raise OSError(fault.error, "asked for")
            self._reply(request, self._files.answer(request, fault))
        except OSError as error:
            self._reply(request, error=error.errno or errno.EIO)

    def _reply(self, request: Request, body: bytes = b"", error: int = 0) -> None:
        try:
            os.write(self._device, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), -error, request.unique) + body)
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.ENODEV):  # nobody waits any more
                raise RuntimeError(f"the kernel does not take the answer to {request[:5]}: {failure}") from failure


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def libc(function: str, *arguments: object) -> None:
    """Call a function of the C library that answers 0, or -1 and an errno."""
    library = ctypes.CDLL(None, use_errno=True)
    if library[function](*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def end_with(parent: int) -> None:
    """Let the system kill this process when the thread that has started it ends, however that happens."""
    pr_set_pdeathsig = 1
    libc("prctl", pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was too late for that
        sys.exit()


def mount(path: str) -> int:
    """Mount a file system whose requests come from the descriptor that is returned."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    no_suid, no_devices = 2, 4
    data = f"fd={device},rootmode=40777,user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_TRANSFER}"
    libc("mount", b"gatherio-tests", os.fsencode(path), b"fuse", no_suid | no_devices, data.encode())
    return device


def unmount(path: str) -> None:
    """It disappears at once; files that are open go on as long as there is a server."""
    detach = 2
    libc("umount2", os.fsencode(path), detach)


def main(path: str, parent: str, options: str) -> None:
    end_with(int(parent))
    try:
        device = mount(path)
    except OSError as error:
        tell([error.errno, error.strerror])
        return
    tell(None)
    Server(device, Options(**json.loads(options))).run()


# --- the test's end ---


class Fuse:
    """A mounted file system: a folder `path` for everybody, and orders to its server.

    To be used as a context manager, in a mount namespace of one's own: the fixture `fuse` does both.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        """Mount it at `path`, an empty folder. The keywords are the fields of `Options`."""
        self.path = path
        arguments = [str(path), str(os.getpid()), json.dumps(dataclasses.asdict(Options(**options)))]
        self._server = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test alone
        )
        refusal = self._answer()
        if refusal is not None:
            self._end()
            raise OSError(*refusal)
        self._mounted = True
        os.stat(path)  # waits until the kernel and the server have agreed

    def faults(self, **faults: dict[str, Any]) -> None:
        """Let these happen from now on, and no others: ``fs.faults(write=dict(error=errno.EIO, after=3))``.

        The keywords are the values of `KINDS`, the entries of each the fields of `Fault`. What is held is answered.
        """
        for kind, fault in faults.items():
            if kind not in KINDS.values():
                raise ValueError(f"no fault for {kind!r}: there is {', '.join(sorted(set(KINDS.values())))}")
            if Fault(**fault).hold and kind not in CAN_BE_HELD:
                raise ValueError(f"{kind} cannot be held: a process that is killed meanwhile would hang")
        self._ask("faults", faults)

    def counts(self) -> dict[str, int]:
        """How many requests of each kind have come so far."""
        counts: dict[str, int] = self._ask("counts")
        return counts

    def held(self) -> int:
        """How many requests wait for the end of a fault."""
        held: int = self._ask("held")
        return held

    def content(self, name: str) -> bytes:
        """What the server has in the file, past whatever the kernel keeps."""
        return base64.b64decode(self._ask("content", name))

    def close(self) -> None:
        """Unmount it and end the server."""
        if self._mounted:
            self._mounted = False
            unmount(str(self.path))
            self._end()
        if self._server.returncode != 0:
            raise AssertionError(f"the server of {self.path} has failed: exit code {self._server.returncode}")

    def __enter__(self) -> Fuse:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, order: str, argument: object = None) -> Any:
        orders = self._server.stdin
        assert orders is not None
        print(json.dumps([order, argument]), file=orders, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        answers = self._server.stdout
        assert answers is not None
        line = answers.readline()
        assert line, f"the server of {self.path} has ended, exit code {self._server.wait()}"
        return json.loads(line)

    def _end(self) -> None:
        """A server that is stuck is killed, and its exit code says so."""
        try:
            self._server.communicate(END + "\n", FOREVER)  # also to one that has ended already
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()


if __name__ == "__main__":
    main(*sys.argv[1:])
