"""Looks at what processes have open, again and again, at as little cost as keeps it right.

Two looks, a cheap and a dear one; both through /proc, none asks a server:

=======  ==================================================================  ==================
changed  the number of descriptors (Linux 6.2 and later), and their links    1 us a descriptor
full     fdinfo of each file: mount, inode, mode, and the locks on it        10 us a file
=======  ==================================================================  ==================

The number alone would not do: an open hides behind a close. When it is the same and every known descriptor has its
link still, no other one can be open. That leaves a file that was opened and closed twice and got its old number back:
inotify tells of it (scan/open_events.py), and in the end the slow full look.

Not chosen: lstat of the links instead of reading them. It costs the same, and shows neither another file nor another
description: /proc keeps the inode of a number, with its times, as long as somebody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable

from vmguard.adapters.linux import clock, mounts, proc
from vmguard.adapters.linux.proc import FdFolder, FdInfo, Key, OpenFile
from vmguard.core.locks.pin import Description
from vmguard.core.locks.ranges import QEMU_RANGE, covers
from vmguard.core.sources.process_arguments import Kind

#: links that are files, but never a disk
_NO_IMAGES = ("/dev/", "/proc/", "/sys/", "/memfd:", "/anon_hugepage", "/[")
#: lifetime of the cached mount tables; a pin reads the table anew
_FRESH_S = 1.0


def nfs_devices() -> frozenset[int]:
    """Return the devices of this host's NFS mounts."""
    return frozenset(mount.device for mount in mounts.mounts() if mount.is_nfs)


class MountTables:
    """From mount id to device, by mount namespace: read once for all processes that share one."""

    def __init__(
        self, now: Callable[[], float] = clock.boottime, nfs_devices: Callable[[], frozenset[int]] = nfs_devices
    ) -> None:
        self._now = now
        self._nfs_devices = nfs_devices
        self._tables: dict[str, tuple[float, dict[int, int]]] = {}
        self._shares: frozenset[int] = frozenset()
        self._shares_until = 0.0

    def key(self, pid: int, info: FdInfo) -> Key:
        """Raises OSError when the process is gone."""
        namespace = proc.mount_namespace(pid)
        now = self._now()
        until, table = self._tables.get(namespace, (0.0, {}))
        if now >= until or info.mount_id not in table:
            if len(self._tables) > 64:
                self._tables.clear()
            table = mounts.devices(pid)
            self._tables[namespace] = (now + _FRESH_S, table)
        return table.get(info.mount_id, 0), info.inode

    def shares(self) -> frozenset[int]:
        """The devices that are NFS mounts of this host."""
        now = self._now()
        if now >= self._shares_until:
            self._shares = self._nfs_devices()
            self._shares_until = now + _FRESH_S
        return self._shares


class ProcessFds:
    """One process and what was last seen of it. Making one raises OSError when the process is gone by then."""

    __slots__ = ("_count", "_folder", "_links", "forbidden", "pid")

    def __init__(self, pid: int, open_folder: Callable[[int], FdFolder] = FdFolder) -> None:
        self.pid = pid
        self._folder = open_folder(pid)
        self._count = -1
        self._links: list[tuple[str, str]] = []
        #: the kernel does not let us see what it has open
        self.forbidden = False

    def close(self) -> None:
        self._folder.close()

    def changed(self) -> bool:
        """Whether other descriptors are open than at the last full look, or the same ones with other links."""
        count = self._folder.count()
        if not count:  # the kernel does not count, or the process is gone
            return self._look() != self._links
        return count != self._count or not self._folder.has(self._links)

    def full(self, tables: MountTables) -> list[OpenFile]:
        """Every file that may be an image."""
        self._count = self._folder.count()  # before the links: what opens in between must change it
        self._links = self._look()
        found = []
        for number, path in self._links:
            if not path.startswith("/") or path.startswith(_NO_IMAGES):
                continue
            try:
                info = proc.fdinfo(self.pid, int(number))
                found.append(OpenFile(self.pid, int(number), path, tables.key(self.pid, info), info))
            except OSError:
                continue
        return found

    def shows(self) -> bool:
        """Whether the process's descriptors can be seen at all: not once it has begun to exit."""
        return bool(self._look())

    def _look(self) -> list[tuple[str, str]]:
        try:
            self.forbidden = False
            return self._folder.links()
        except PermissionError:
            self.forbidden = True
            return []


def descriptions(users: list[OpenFile]) -> list[Description]:
    """What the pure rules of the pin need to know."""
    return [Description(user.pid, user.fd, user.info.writable, tuple(user.locks)) for user in users]


def has_image_locks(user: OpenFile) -> bool:
    """Whether QEMU itself treats it as a disk image: it locks permission bytes of those (where locking is on)."""
    return any(covers([QEMU_RANGE], (start, length or 1)) for _, start, length in user.locks)


def may_be_image(kind: Kind, user: OpenFile, shares: frozenset[int]) -> bool:
    """Whether a file that a process has open is one that a lock should guard, as far as can be told from outside.

    virtiofsd opens whatever its guest asks for, shared by nature; swtpm locks its ``.lock`` itself.
    """
    on_share = user.key[0] in shares and not user.info.appends
    if kind is Kind.SWTPM:
        return on_share and user.info.writable and not user.path.endswith(".lock")
    return kind is not Kind.VIRTIOFSD and (on_share or has_image_locks(user))
