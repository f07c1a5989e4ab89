"""How far a share reaches: where the links that lie on it, and the headers of its images, may lead root.

Whoever may write to a share, or has an image there, decides what they say. Followed blindly they would have root open,
lock and keep a record beside any file of this host, and QEMU write to it. The rule:

what names a file             it may lie
the VM's configuration        anywhere
a link on a file system of    anywhere: only this host's admins write there
  this host's own
a link on a share             on that share, on any NFSv4 share, below storage.trusted_folders
the header of an image        there, too; or in the folder of the image that the configuration names, and below it
                              (of a storage of Proxmox: anywhere in that storage)

Anything else is refused, with one exception. A backing image on a file system of this host's own is read, as QEMU will
read it, and gets no lock: no other host can open it, and a lock on /etc/passwd would harm this one.
"""

from __future__ import annotations

import os

from vmguard.adapters.linux import mounts, proc
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.errors import PlanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from vmguard.adapters.linux.mounts import Mount
    from vmguard.adapters.storage.path_walk import Found

    class OpenImage(Protocol):
        """An image that is open: its path, its descriptor, its device and inode."""

        path: str
        fd: int
        key: tuple[int, int]


_SETTING = "storage.trusted_folders in /etc/vmguard/vmguard.yaml"
_GONE = "an unmounted file system"


class Reach:
    """The rule, with this host's mounts and the folders that the admin trusts."""

    __slots__ = ("_read_mounts", "_table", "_trusted")

    def __init__(self, trusted: Iterable[str] = (), read_mounts: Callable[[], Iterable[Mount]] = mounts.mounts) -> None:
        self._trusted = tuple(trusted)
        self._read_mounts = read_mounts
        self._table: list[Mount] | None = None

    def judge_links(self, found: Found, what: str) -> None:
        """Raise PlanError if a link that lies on a share has led out of the shares."""
        for place, mount_id in found.links:
            link = self._mount(mount_id)
            if self._kind(link) != mounts.OWN and not self._may_lead(link, found):
                raise PlanError(
                    f"{what}: {found.path!r} is led out of its share: the symbolic link {place!r}"
                    f" on {link.point} ends at {found.real!r}",
                    f"put the file itself there; or, if the link is yours: {_SETTING}",
                    found.path,
                )

    def may_lock(self, found: Found, image: OpenImage, homes: Iterable[str], mode: str, what: str) -> bool:
        """Return whether a file that an image's header names is locked as a part of the VM. Raise PlanError: refused.

        ``homes``: the folders with all that belongs to the image.
        """
        if found.status.st_dev == image.key[0] and any(is_below(found.real, home) for home in homes):
            return True
        there = self._mount_of(found.fd)
        image_mount = self._mount_of(image.fd)
        if self._kind(image_mount) != mounts.OWN and there.device == image_mount.device:
            return True
        if self._is_open_to_all(there, found.real):
            return True
        if mode != EXCLUSIVE and self._kind(there) == mounts.OWN:
            return False
        where = "on this host's own file system" if self._kind(there) == mounts.OWN else f"on {there.point}"
        raise PlanError(
            f"{what}: {image.path!r} names {found.real!r} in its header, {where}: anybody who may"
            " write to an image can write such a name into it",
            f"if it is yours, say so: {_SETTING}; or name it in the VM's own configuration",
            found.path,
        )

    def is_on_share(self, found: Found) -> bool:
        """Return whether a file lies where other hosts, or others than this host's admins, may put it."""
        return self._kind(self._mount_of(found.fd)) != mounts.OWN

    def _may_lead(self, link: Mount, found: Found) -> bool:
        there = self._mount_of(found.fd)
        return there.device == link.device or self._is_open_to_all(there, found.real)

    def _is_open_to_all(self, mount: Mount, real: str) -> bool:
        """Return whether a file lies on a guarded share, or where the admin lets everything lead."""
        if self._kind(mount) == mounts.NFSV4:
            return True
        return any(is_below(real, folder) or is_below(real, os.path.realpath(folder)) for folder in self._trusted)

    def _mount_of(self, fd: int) -> Mount:
        return self._mount(proc.fdinfo("self", fd).mount_id)

    def _mount(self, mount_id: int) -> Mount:
        """Return a mount by its id. One that is gone, or of another namespace, is taken for a share."""
        if self._table is None:
            self._table = list(self._read_mounts())
        hidden = mounts.Mount(mount_id, -mount_id, _GONE, "hidden", "", "")
        return next((mount for mount in self._table if mount.id == mount_id), hidden)

    def _kind(self, mount: Mount) -> str:
        return mounts.kind_of(mount, self._table or ())


def is_below(real: str, folder: str) -> bool:
    """Return whether a path lies in a folder or below it, by their names alone."""
    return real.startswith(folder.rstrip("/") + "/")
