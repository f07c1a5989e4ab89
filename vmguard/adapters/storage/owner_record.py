"""Read and write owner records on the share. The hook's child writes them behind the claim.

All of this is NFS I/O and may hang: it runs in a process that can be killed, or in a thread that may hang, never in
the daemon's loop. No failure here may stand in the way of a start; the caller reports it and goes on. ``disk`` is
always the real path.

Records are opened O_DIRECT wherever the file system has it. The client then asks for no delegation
(fs/nfs/nfs4proc.c, nfs4_map_atomic_open_share), which a dead host would keep for a whole lease while every other host's
open waits, and a read always reaches the server.
"""

from __future__ import annotations

import errno
import fcntl
import os

from vmguard.adapters.linux.regular_file import open_regular, read_regular
from vmguard.core.locks.owner_record import SLOT_BYTES, Owner, file_name, next_epoch, parse_slot, position, slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

#: slots from the end that are tried: the last one may be torn
_READ_BACK_SLOTS = 4
#: the last ones that a record keeps: more than anybody reads (saved_state.MAX_FAILED, _READ_BACK_SLOTS)
KEPT_SLOTS = 16
#: holes of whole blocks alone give anything back
_BLOCK_BYTES = 4096
#: FALLOC_FL_* (linux/falloc.h)
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
#: of the list of a VM's disks, after its id
LIST = ".disks"
_MAX_LISTED = 150
#: what os.open answers for O_DIRECT on file systems without it (tmpfs), and I/O that is not aligned for the device
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)


def _folder(disk: str, name: str) -> str:
    return os.path.join(os.path.dirname(disk), name)


def _open_folder(folder: str, create: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(folder, flags)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        pass
    return os.open(folder, flags)


def _open_record(disk: str, folder_name: str, inode: int, flags: int) -> int:
    # Whoever may write to the share can put anything in a record's place: only a file with this one name is opened.
    name, create = file_name(inode), bool(flags & os.O_CREAT)
    folder = _open_folder(_folder(disk, folder_name), create)
    try:
        for direct in (os.O_DIRECT, 0):
            try:
                return _open_or_create(name, flags | direct, folder, create)
            except OSError as problem:
                if problem.errno not in _NOT_DIRECT or not direct:
                    raise
    finally:
        os.close(folder)
    raise AssertionError("the second try returns or raises")


def _open_or_create(name: str, flags: int, folder: int, create: bool) -> int:
    flags &= ~os.O_CREAT
    try:
        return open_regular(name, flags, folder, links=1)
    except FileNotFoundError:
        if not create:
            raise
    try:
        return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
    except FileExistsError:  # another claim's, just now; or a file system without O_DIRECT has made it nevertheless
        return open_regular(name, flags, folder, links=1)


def _directly(fd: int, call: Callable[[], T]) -> T:
    """Do I/O on a record, through the page cache where the device does not take a slot's size or our buffer."""
    try:
        return call()
    except OSError as problem:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if problem.errno not in _NOT_DIRECT or not flags & os.O_DIRECT:
            raise
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        return call()


def _read(fd: int, epoch: int) -> bytes:
    return _directly(fd, lambda: os.pread(fd, SLOT_BYTES, position(epoch)))


def as_owner(disk: str, call: Callable[[], T]) -> T:
    """Do it as root, and where the server squashes root, as the disk's owner. Only in a process of a single thread.

    Raises OSError.
    """
    try:
        return call()
    except PermissionError:
        if os.geteuid() != 0:
            raise
    status = os.lstat(disk)
    group = os.getegid()
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        return call()
    finally:
        os.seteuid(0)
        os.setegid(group)


def write_claim(disk: str, folder_name: str, inode: int, fields: dict[str, str]) -> int:
    """Write the record of a claim that is already locked, and return its epoch. Raises OSError."""
    fd = _open_record(disk, folder_name, inode, os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    try:
        epoch = next_epoch(os.fstat(fd).st_size)
        _write(fd, slot(Owner(epoch, **fields)), position(epoch))
        return epoch
    finally:
        os.close(fd)


def write_release(disk: str, folder_name: str, inode: int, owner: Owner) -> None:
    """Mark a claim's own slot as released. Raises OSError, also when the slot is no longer this claim's."""
    fd = _open_record(disk, folder_name, inode, os.O_RDWR | os.O_DSYNC)
    try:
        found = parse_slot(_read(fd, owner.epoch))
        if found is None or (found.boot, found.uuid) != (owner.boot, owner.uuid):
            raise OSError(errno.ESTALE, "the record's slot belongs to another claim")
        # Why it ended is known later than that it ended, and may be written by a process that was faster than this one.
        owner.ended = owner.ended or found.ended
        owner.released = found.released or owner.released
        _write(fd, slot(owner), position(owner.epoch))
        if owner.epoch % KEPT_SLOTS == 0 and owner.epoch > KEPT_SLOTS:
            _free_old_slots(fd, owner.epoch)
    finally:
        os.close(fd)


def _free_old_slots(fd: int, epoch: int) -> None:
    """Give the blocks of old slots back. The size stays, which tells the newest epoch.

    NFS 4.2 has it (DEALLOCATE); where a server or a file system has not, the record goes on growing by a slot a claim.
    """
    import ctypes  # the hook does not come here

    from vmguard.adapters.linux.libc import libc

    end = position(epoch - KEPT_SLOTS + 1) // _BLOCK_BYTES * _BLOCK_BYTES
    libc.fallocate64(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(end))


def listed_disks(disk: str, folder_name: str, vm_id: str) -> list[int]:
    """Return the inodes beside a disk that a VM had last; none if it left no list. Raises OSError."""
    try:
        folder = _open_folder(_folder(disk, folder_name), False)
    except FileNotFoundError:
        return []
    try:
        return read_list(_list_name(vm_id), folder)
    except FileNotFoundError:
        return []
    finally:
        os.close(folder)


def read_list(name: str, folder: int) -> list[int]:
    """Return the inodes of a list in the open folder of the records. Raises OSError."""
    text = os.readlink(name, dir_fd=folder)
    return [int(word) for word in text.split(",") if word.isascii() and word.isdigit()]


def list_disks(disk: str, folder_name: str, vm_id: str, inodes: list[int]) -> None:
    """Leave the list of the inodes beside a disk that a VM writes to. Raises OSError.

    It is the text of a symbolic link that leads nowhere: written and read as a whole, and without an OPEN.
    """
    name, text = _list_name(vm_id), ",".join(map(str, inodes[:_MAX_LISTED]))
    folder = _open_folder(_folder(disk, folder_name), False)
    try:
        os.symlink(text, name, dir_fd=folder)
    except FileExistsError:
        new = f"{name}.{os.urandom(8).hex()}"
        os.symlink(text, new, dir_fd=folder)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _list_name(vm_id: str) -> str:
    return vm_id.replace("/", "_") + LIST


def _write(fd: int, data: bytes, where: int) -> None:
    written = _directly(fd, lambda: os.pwrite(fd, data, where))
    if written != len(data):
        raise OSError(errno.ENOSPC, "only a part of the owner record could be written")


def read_owner(disk: str, folder_name: str, inode: int) -> Owner | None:
    """Return the latest readable claim of a disk; None if none was ever written. Raises OSError."""
    return next(iter(read_claims(disk, folder_name, inode, 1)), None)


def read_claims(disk: str, folder_name: str, inode: int, count: int) -> list[Owner]:
    """Return the latest readable claims of a disk, the newest first, at most ``count``. Raises OSError."""
    try:
        fd = _open_record(disk, folder_name, inode, os.O_RDONLY)
    except FileNotFoundError:
        return []
    claims: list[Owner] = []
    try:
        last = os.fstat(fd).st_size // SLOT_BYTES
        for index in range(last, max(0, last - _READ_BACK_SLOTS - count + 1), -1):
            owner = parse_slot(_read(fd, index))
            if owner is not None:
                claims.append(owner)
            if len(claims) == count:
                break
        return claims
    finally:
        os.close(fd)


def is_damaged(disk: str, folder_name: str, inode: int) -> bool:
    """Return whether there is a record in which no claim can be read. Raises OSError."""
    try:
        fd = _open_record(disk, folder_name, inode, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_size > 0
    finally:
        os.close(fd)


def last_slots(path: str, count: int, dir_fd: int | None = None) -> list[Owner]:
    """Return the claims in the last slots of a record, the oldest first; none if it is no record, or unreadable."""
    try:
        fd = read_regular(path, dir_fd, links=1)
    except OSError:
        return []
    try:
        slots = os.fstat(fd).st_size // SLOT_BYTES
        data = os.pread(fd, count * SLOT_BYTES, max(0, slots - count) * SLOT_BYTES)
    except OSError:
        return []
    finally:
        os.close(fd)
    owners = [parse_slot(data[at : at + SLOT_BYTES]) for at in range(0, len(data), SLOT_BYTES)]
    return [owner for owner in owners if owner is not None]


def last_claim(path: str, dir_fd: int | None = None) -> Owner | None:
    """Return the last slot of a record; None if it is unreadable or torn."""
    return next(iter(last_slots(path, 1, dir_fd)), None)
