"""Scan what processes have open, at the lowest cost that misses nothing.

There is a cheap and an expensive scan. Both read /proc, and neither sends a request to a server:

=======  ==================================================================  ==================
changed  the number of descriptors (Linux 6.2 and later), and their links    1 us a descriptor
full     fdinfo of each file: mount, inode, mode, and the locks on it        10 us a file
=======  ==================================================================  ==================

The number alone would not do: a close hides an open. When it is unchanged and every known descriptor still has its
link, no other one can be open. That leaves a file that was closed and opened again and got its old number back: inotify
reports it (scan/open_events.py), and in the end the full scan finds it.

Whoever runs a process decides how many descriptors it has, what their files are called, and how many mounts it sees:
neither a million of them nor megabytes of names must keep the loop or its memory. So there are limits, within which
each name is looked at before more of the same. What is cut short proves nothing closed (``shows``).

Not chosen: lstat of the links instead of reading them. It costs the same, and shows neither another file nor another
description: /proc keeps the inode of a number, with its times, as long as anything refers to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vmguard.adapters.linux import clock, mounts, proc
from vmguard.adapters.linux.mounts import Mount
from vmguard.adapters.linux.proc import FdFolder, FdInfo, Key, OpenFile
from vmguard.core.locks.pin import Description
from vmguard.core.locks.ranges import QEMU_RANGE, covers
from vmguard.core.sources.process_arguments import Kind

#: links that are files, but never a disk
_NO_IMAGES = ("/dev/", "/proc/", "/sys/", "/memfd:", "/anon_hugepage", "/[")


class Limits(NamedTuple):
    """How much of one process is looked at."""

    #: descriptors whose links are read, and the characters of those
    links: int
    characters: int
    #: files that are looked at, and the characters of their names
    files: int
    names: int
    #: mounts of its namespace
    mounts: int
    #: CPU time for its files: the kernel takes 30 ms for one that has ten thousand locks
    seconds: float


#: 60 ms as a rule. A QEMU has two descriptors for each disk, and two or three for each queue of each device
OF_A_VM = Limits(16384, 1 << 20, 1024, 1 << 18, 32768, 0.1)
#: 10 ms as a rule: of a process that is no guarded VM's; a user may run thousands of these
OF_A_STRANGER = Limits(2048, 1 << 17, 64, 1 << 13, 2048, 0.01)
#: more links, or longer ones, are not kept, only their hash
_MOST_KEPT, _MOST_CHARACTERS = 1024, 1 << 13
#: lifetime of the cached mount tables, and how soon one without a wanted mount is read again; a pin reads it anew
_FRESH_S, _MISSED_S = 1.0, 0.05


class MountTables:
    """The devices of mount ids, by mount namespace: read once for all processes that share one."""

    def __init__(
        self, now: Callable[[], float] = clock.boottime, read: Callable[[], Iterable[Mount]] = mounts.mounts
    ) -> None:
        self._now = now
        self._read = read
        #: by namespace, and the limit within which it was read: when, and the devices
        self._tables: dict[tuple[str, int], tuple[float, dict[int, int]]] = {}
        self._shares: frozenset[int] = frozenset()
        self._smb: frozenset[int] = frozenset()
        self._others: dict[int, str] = {}
        self._shares_until = 0.0

    def key(self, pid: int, info: FdInfo, most: int = OF_A_VM.mounts) -> Key:
        """Return device and inode of an open file; its device is 0 if that is not among the first ``most`` mounts.

        Raises OSError when the process is gone.
        """
        place = proc.mount_namespace(pid), most
        now = self._now()
        read, table = self._tables.get(place, (-_FRESH_S, {}))
        # A file whose mount was cut off (MNT_DETACH) is in no table, however often that is read.
        if now >= read + (_FRESH_S if info.mount_id in table else _MISSED_S):
            if len(self._tables) > 64:
                self._tables.clear()
            table = mounts.devices(pid, most)
            self._tables[place] = (now, table)
        return table.get(info.mount_id, 0), info.inode

    def shares(self) -> frozenset[int]:
        """Return the devices of this host's NFS mounts, at most a second old."""
        now = self._now()
        if now >= self._shares_until:
            table = list(self._read())
            self._shares = frozenset(mount.device for mount in table if mount.is_nfs)
            self._smb = frozenset(mount.device for mount in table if mount.type in mounts.SMB_TYPES)
            others = [mount for mount in table if mounts.kind_of(mount, table) == mounts.OTHER]
            self._others = {mount.device: mounts.why_other(mount) for mount in others}
            self._shares_until = now + _FRESH_S
        return self._shares

    def why_other(self, device: int) -> str:
        """Return why a lock on a device is not proven to keep other hosts out; empty where it is, or none could be."""
        self.shares()
        return self._others.get(device, "")

    def smb(self) -> frozenset[int]:
        """Return the devices on which nothing is ever locked: SMB's locks are mandatory and would stop QEMU."""
        self.shares()
        return self._smb


class ProcessFds:
    """The descriptors of one process, as of the last full scan. The constructor raises OSError when it is gone."""

    __slots__ = ("_count", "_folder", "_hash", "_limits", "_links", "forbidden", "is_cut", "pid")

    def __init__(self, pid: int, open_folder: Callable[[int], FdFolder] = FdFolder) -> None:
        self.pid = pid
        self._folder = open_folder(pid)
        self._count = -1
        self._links: list[tuple[str, str]] = []
        self._limits = OF_A_VM
        #: of the links, if they are too many to be kept; else 0
        self._hash = 0
        #: not all of its files were looked at: it has too many, or we had no descriptor left to look with
        self.is_cut = False
        #: the kernel forbids us to read its descriptors
        self.forbidden = False

    def close(self) -> None:
        self._folder.close()

    def count(self) -> int:
        """Return how many descriptors are open now; 0 where the kernel does not tell."""
        return self._folder.count()

    def changed(self) -> bool:
        """Return whether the descriptors, or their links, differ from those of the last full scan."""
        count = self._folder.count()
        if count and count != self._count:
            return True
        if self._hash:
            return hash(tuple(self._look())) != self._hash
        if not count:  # the kernel does not tell the number, or the process is gone
            return self._look() != self._links
        return not self._folder.has(self._links)

    def full(self, tables: MountTables, limits: Limits = OF_A_VM) -> list[OpenFile]:
        """Return every open file that may be an image, within the limits, and note all descriptors for ``changed``."""
        self._limits, most = limits, limits.files
        self.is_cut = False
        self._count = self._folder.count()  # before the links: an open in between must change it
        links = self._look()
        kept = len(links) <= _MOST_KEPT and _characters(links) <= _MOST_CHARACTERS
        self._hash = 0 if kept else hash(tuple(links)) or 1
        self._links = [] if self._hash else links
        named = [(number, path) for number, path in links if path.startswith("/") and not path.startswith(_NO_IMAGES)]
        self.is_cut |= len(links) == limits.links or _characters(links) > limits.characters or len(named) > most
        found: list[OpenFile] = []
        left, end = limits.names, time.thread_time() + limits.seconds
        for number, path in _each_name(named, most) if len(named) > most else named:
            left -= len(path)
            if left < 0 or (found and time.thread_time() > end):
                self.is_cut = True
                break
            try:
                info = proc.fdinfo(self.pid, int(number))
                key = tables.key(self.pid, info, limits.mounts)
                found.append(OpenFile(self.pid, int(number), path, key, info))
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:  # we have no descriptor left to look with
                self.is_cut = True
        return found

    def shows(self) -> bool:
        """Return whether all of the process's descriptors can be seen: none is, once it has begun to exit."""
        return not self.is_cut and bool(self._look())

    def _look(self) -> list[tuple[str, str]]:
        try:
            self.forbidden = False
            return self._folder.links(self._limits.links, self._limits.characters)
        except PermissionError:
            self.forbidden = True
        except OSError:
            self.is_cut = True
        return []


def _characters(links: list[tuple[str, str]]) -> int:
    return sum(len(link) for _, link in links)


def _each_name(links: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Choose so many links: the first of each name, then the others."""
    first = {path: number for number, path in reversed(links)}
    chosen = [(number, path) for path, number in first.items()]
    chosen += [(number, path) for number, path in links if first[path] != number]
    return chosen[:most]


def descriptions(users: list[OpenFile]) -> list[Description]:
    """Return the open files as the pure rules of the pin need them."""
    return [Description(user.pid, user.fd, user.info.writable, tuple(user.locks)) for user in users]


def has_image_locks(user: OpenFile) -> bool:
    """Return whether QEMU itself treats a file as a disk image: it locks permission bytes (where locking is on)."""
    return any(covers([QEMU_RANGE], (start, length or 1)) for _, start, length in user.locks)


def may_be_image(kind: Kind, user: OpenFile, shares: frozenset[int]) -> bool:
    """Return whether a lock should guard a file that a process has open, as far as can be told from outside.

    virtiofsd opens whatever its guest asks for, which is shared by nature; swtpm locks its ``.lock`` itself.
    """
    on_share = user.key[0] in shares and not user.info.appends
    if kind is Kind.SWTPM:
        return on_share and user.info.writable and not user.path.endswith(".lock")
    return kind is not Kind.VIRTIOFSD and (on_share or has_image_locks(user))
