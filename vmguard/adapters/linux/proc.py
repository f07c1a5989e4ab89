"""Processes and their open files, seen through /proc and pidfds. Every read here answers at once.

None touches a share, and none takes another process's mmap lock: what does is in may_block.py. The daemon's loop may
call all of this.

A file is known by (device, inode) as the kernel's own fdinfo tells them (``mnt_id`` and ``ino``; ``ino`` since 5.14):
a stat() of the link under /proc/PID/fd would ask the NFS server and may hang.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from vmguard.adapters.linux import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: what says nothing of the process that is looked at
_OUR_LACK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: descriptors of one name in one process that are looked at
_LOOKS_PER_NAME = 64
#: bytes of fdinfo that are read: some hundred locks; whoever runs the process can take a hundred thousand
_MOST_OF_FDINFO = 1 << 15
#: device number and inode
Key = tuple[int, int]


class FdInfo:
    """What /proc/PID/fdinfo/FD says: flags of open(2), mount, inode, and the locks of this very description."""

    __slots__ = ("flags", "inode", "locks", "mount_id")

    def __init__(self, flags: int, mount_id: int, inode: int, locks: list[str]) -> None:
        self.flags = flags
        self.mount_id = mount_id
        self.inode = inode
        self.locks = locks

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)

    @property
    def appends(self) -> bool:
        """Whether every write goes to the end, as to a log. An image is never opened like that."""
        return bool(self.flags & os.O_APPEND)


class OpenFile:
    """A regular file that a process has open."""

    __slots__ = ("fd", "info", "key", "path", "pid")

    def __init__(self, pid: int, fd: int, path: str, key: Key, info: FdInfo) -> None:
        self.pid = pid
        self.fd = fd
        self.path = path
        self.key = key
        self.info = info

    @property
    def locks(self) -> list[tuple[bool, int, int]]:
        """The OFD locks on this description: (exclusive, start, length)."""
        return lock_ranges(self.info)


class CommandLine:
    """What a process runs, by its program file and its arguments. ``pid`` and ``started`` name it for ever."""

    __slots__ = ("arguments", "pid", "program", "started")

    def __init__(self, pid: int, started: int, program: str, arguments: list[str]) -> None:
        self.pid = pid
        #: see ``started`` below
        self.started = started
        self.program = program
        self.arguments = arguments


def fdinfo(pid: int | str, fd: int) -> FdInfo:
    """Read what the kernel says of a descriptor. Raises OSError if the process or the descriptor is gone."""
    flags = mount_id = inode = 0
    locks = []
    text = read_small(f"/proc/{pid}/fdinfo/{fd}", _MOST_OF_FDINFO).decode("ascii", "replace")
    for line in text[: text.rfind("\n") + 1].split("\n"):
        name, _, value = line.partition(":")
        if name == "flags":
            flags = int(value, 8)
        elif name == "mnt_id":
            mount_id = int(value)
        elif name == "ino":
            inode = int(value)
        elif name == "lock":
            locks.append(value.strip())
    return FdInfo(flags, mount_id, inode, locks)


def read_small(path: str, most: int = 1 << 31) -> bytes:
    """Read a small file of /proc; open() with its buffers would cost three times as much. Raises OSError.

    ``most``: about so many bytes at most.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, min(most, 65536))
        while len(data) % 4096 == 0 and data and len(data) < most:
            more = os.read(fd, 65536)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def own_key(fd: int, devices: dict[int, int] | None = None) -> Key:
    """Return device and inode of one of our own descriptors, without asking the server."""
    info = fdinfo("self", fd)
    known = mounts.devices() if devices is None else devices
    return known.get(info.mount_id, 0), info.inode


def lock_ranges(info: FdInfo) -> list[tuple[bool, int, int]]:
    """Return the OFD locks of a description from its ``lock:`` lines: (exclusive, start, length), length 0 to EOF.

    A line reads ``1: OFDLCK  ADVISORY  WRITE -1 00:2f:1234 0 EOF`` (fs/locks.c, lock_get_status). A shared one that
    the NFS client keeps under a read delegation says POSIX instead: _nfs4_proc_setlk in fs/nfs/nfs4proc.c (6.1) saves
    the lock's flags in a byte, and the flag for OFD does not fit in. Its owner is the description all the same.
    """
    found = []
    for line in info.locks:
        words = line.split()
        if len(words) >= 8 and (words[1] == "OFDLCK" or words[1::2][:2] == ["POSIX", "READ"]):
            start = int(words[-2])
            length = 0 if words[-1] == "EOF" else int(words[-1]) - start + 1
            found.append((words[3] == "WRITE", start, length))
    return found


def pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def open_files(pid: int, only_inodes: Collection[int] | None = None) -> Iterator[OpenFile]:
    """Yield the regular files that a process has open; none if it is gone. ``only_inodes`` saves all other look-ups.

    Raises OSError when we lack a descriptor or memory to look with: then nothing is known.
    """
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError as problem:
        if problem.errno in _OUR_LACK:
            raise
        return
    devices: dict[int, int] | None = None
    looks: dict[str, int] = {}
    for name in names:
        try:
            path = os.readlink(f"/proc/{pid}/fd/{name}")
            if not path.startswith("/"):
                continue
            # The link alone proves nothing: another file may have had that name. But with ten thousand descriptors of
            # one name whoever opened them could keep us busy.
            looks[path] = looks.get(path, 0) + 1
            if looks[path] > _LOOKS_PER_NAME:
                continue
            info = fdinfo(pid, int(name))
            if only_inodes is not None and info.inode not in only_inodes:
                continue
            if devices is None:
                devices = mounts.devices(pid)
        except OSError as problem:
            if problem.errno in _OUR_LACK:
                raise
            continue
        yield OpenFile(pid, int(name), path, (devices.get(info.mount_id, 0), info.inode), info)


class FdFolder:
    """/proc/PID/fd, kept open: what a process has open, looked at again and again at little cost.

    It belongs to that very process: when the number is given to another one, this folder is empty for ever.
    """

    __slots__ = ("_fd",)

    def __init__(self, pid: int) -> None:
        """Open the folder. Raises OSError if the process is gone."""
        self._fd = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def count(self) -> int:
        """Return how many descriptors are open; 0 if the process is gone, and before Linux 6.2, which does not tell."""
        try:
            return os.fstat(self._fd).st_size
        except OSError:
            return 0

    def has(self, links: list[tuple[str, str]]) -> bool:
        """Return whether all these descriptors are open with these links. Others are not looked for: see ``count``."""
        folder, readlink = self._fd, os.readlink
        try:
            for name, link in links:
                if readlink(name, dir_fd=folder) != link:
                    return False
        except OSError:
            return False
        return True

    def links(self, most: int, characters: int) -> list[tuple[str, str]]:
        """Return number and link of each descriptor, of the first ``most``; none if the process is gone.

        Beyond so many ``characters`` of their links none is read.

        Raises PermissionError, and OSError when we have no descriptor left to look with.
        """
        found: list[tuple[str, str]] = []
        folder = self._fd
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if len(found) == most or characters < 0:
                        break
                    try:
                        # Interned: a thousand QEMUs have sixty descriptors each, and most are called alike.
                        link = os.readlink(entry.name, dir_fd=folder)
                        found.append((sys.intern(entry.name), sys.intern(link)))
                        characters -= len(link)
                    except FileNotFoundError:
                        continue  # closed just now
        except (FileNotFoundError, ProcessLookupError):
            pass
        return found


def users_of(keys: Collection[Key], exclude: Collection[int] = ()) -> list[OpenFile]:
    """Return every open descriptor of these files in any process of this host, but for the excluded ones."""
    inodes = {inode for _, inode in keys}
    found: list[OpenFile] = []
    for pid in pids():
        if pid not in exclude:
            found.extend(user for user in open_files(pid, inodes) if user.key in keys)
    return found


def excludes_others(pid: int, key: Key) -> bool:
    """Return whether a process has a file open with an exclusive lock of its own, of whatever kind."""
    return any(user.key == key and " WRITE " in lock for user in open_files(pid, {key[1]}) for lock in user.info.locks)


def program(pid: int) -> str:
    """Return the program file that a process runs; empty for a kernel thread, and if the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def mount_namespace(pid: int) -> str:
    """Return the name of a process's mount namespace. Raises OSError if the process is gone."""
    return os.readlink(f"/proc/{pid}/ns/mnt")


def started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot (proc(5), stat, field 22); 0 if it is gone."""
    try:
        return int(read_small(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def births() -> list[tuple[int, int]]:
    """Return all processes: pid, and its inode in /proc, which the next process with this pid does not have."""
    with os.scandir("/proc") as entries:
        return [(int(entry.name), entry.inode()) for entry in entries if entry.name.isdigit()]


def name(pid: int) -> str:
    """Return a process's short name (comm); empty if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace", newline="\n") as stream:
            return stream.read().rstrip("\n")
    except OSError:
        return ""


def user(pid: int) -> int:
    """Return the real user id of a process (status, Uid); -1 if it is gone."""
    try:
        text = read_small(f"/proc/{pid}/status")
        return int(text.partition(b"\nUid:")[2].split(None, 1)[0])
    except (OSError, ValueError, IndexError):
        return -1


def has_locks(key: Key) -> bool:
    """Return whether any byte of a file is locked by anybody of this host, as /proc/locks has it."""
    device, inode = key
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    return any(place in words for words in map(str.split, read_small("/proc/locks").decode().split("\n")))


def parent(pid: int) -> int:
    """Return a process's parent (stat, field 4); 0 if the process is gone."""
    try:
        return int(read_small(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def thread_state(pid: int, thread: int) -> str:
    """Return one letter as in proc(5): R running, S sleeping, D waiting in the kernel, T stopped, Z zombie; X: gone."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", "rb") as stream:
            return stream.read().rpartition(b") ")[2][:1].decode()
    except OSError:
        return "X"


def is_dead(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended for certain: the pidfd is readable (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
