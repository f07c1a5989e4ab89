"""Make this host's NFS client give a delegation back, so that a lock reaches the server. It may hang with the storage.

Linux servers since 6.6 give a write delegation to whoever opens a file for writing without O_DIRECT: to ``qemu-img
create``, a copy, a restore, a QEMU with a cache. The client keeps it after the close. Every later open of the file on
this host rides on it, an O_DIRECT one, too, and a lock then stays in the client (_nfs4_proc_setlk). It does keep other
hosts out: the server calls the delegation back before it lets them open the file, and the client sends its locks first.
But nobody can see it, another host's open waits a whole lease if this host is dead, and a server that cannot call back
(a firewall, a lost session) takes it away from a host that is alive.

The client gives a delegation back, after it has sent all its opens and locks of the file (nfs_end_delegation_return),
when a name of the file is about to vanish by a rename onto it (nfs4_proc_rename_setup). So the file gets a second name
for a moment, and another file is renamed onto that; nothing happens to the first name. No call on an open file does
it to a write delegation of NFSv4.1 and newer: not chmod, chown or utimes (nfs4_inode_make_writeable).

A storage reboot brings one back (measured on servers 6.12 and 7.2): with the reclaimed open of a QEMU that has a cache
the server gives a write delegation that nobody had, and the client does not reclaim the lock (nfs4_lock_reclaim). It
lives in the delegation from then on, although fdinfo calls it what it was, until another host opens the file, or
daemon/pin/after_reboot.py sees to it.

Not chosen: the module parameter delegation_watermark=0, by which the client gives back what it closes. It is the whole
host's, and does nothing for what is open. Not chosen: an open by a second client (a mount of another minor version),
for which the server has to call back. It leaves one more client in the server's recovery database.

Measured on Linux 6.1, 6.12 and 7.2, clients and servers: OPEN, LOCK, DELEGRETURN, LINK, RENAME, REMOVE; 5 to 7 ms.
"""

from __future__ import annotations

import contextlib
import os
import stat

from vmguard.adapters.linux import ofd
from vmguard.core.locks.pin import SEAM, halves
from vmguard.core.locks.ranges import covers, subtract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmguard.core.locks.ranges import Range

#: of the second name, before the inode; it lies beside the file for a moment
PREFIX = ".vmguard-delegation-"
_STAYS = "its lock stays in this host's NFS client: the server has given this host a delegation of the file"


class NotGivenBack(OSError):
    """The delegation could not be given back."""


def give_back(fd: int, real: str) -> None:
    """Give back a delegation of an open file, if there is one; locks on it are on the server when this returns.

    ``real`` is its path without links. Where root may not make names, the file's owner may. Raises OSError.
    """
    wanted = os.fstat(fd)
    try:
        _give_back(wanted, real)
    except PermissionError:
        if os.geteuid() != 0:
            raise
        from vmguard.adapters.linux.fs_user import file_system_user

        with file_system_user(wanted.st_uid, wanted.st_gid):
            _give_back(wanted, real)


def _give_back(wanted: os.stat_result, real: str) -> None:
    folder = os.open(os.path.dirname(real), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not linked by our descriptor, which may be of another mount namespace: link(2) refuses that (EXDEV).
        file = os.open(os.path.basename(real), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                raise NotGivenBack(f"{real} is another file by now")
            _rename_onto_second_name(file, f"{PREFIX}{wanted.st_ino}", folder)
        finally:
            os.close(file)
    finally:
        os.close(folder)


def _rename_onto_second_name(file: int, second: str, folder: int) -> None:
    other = f"{second}.{os.getpid()}"
    _remove(second, folder)  # left by one that was killed half way
    try:
        os.symlink("vmguard", other, dir_fd=folder)
        os.link(f"/proc/self/fd/{file}", second, dst_dir_fd=folder)
        os.rename(other, second, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        for name in (other, second):
            _remove(name, folder)


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def send_locks(fd: int, path: str, real: str, pieces: list[Range]) -> None:
    """Bring exclusive locks that stayed in this client to the server, and make fdinfo say so.

    The ranges are taken anew half by half, so that a rival that needs both never gets in. A byte between the halves
    comes last: the kernel would join them otherwise, and the new half would be called what the old one is.
    Raises NotGivenBack, OSError, LockConflict.
    """
    try:
        give_back(fd, real)
    except OSError as problem:
        raise NotGivenBack(f"{_STAYS}, and that cannot be given back: {problem}") from problem
    for half in halves(pieces):
        for piece in half:
            ofd.unlock(fd, piece)
        for piece in subtract(half, SEAM):
            ofd.lock(fd, path, ofd.WRITE, piece)
    if covers(pieces, SEAM):
        ofd.lock(fd, path, ofd.WRITE, SEAM)
    if ofd.stays_here(fd):
        raise NotGivenBack(f"{_STAYS}, and gives that again at once")
