"""Put a descriptor into the queue of a socket, where no process has it open and it stays open all the same.

Whoever closes a descriptor of a file on NFS may wait without end, also when it is not the last one: close(2) ends the
POSIX locks of the process on that file (filp_flush, locks_remove_posix), and for that the NFS client writes out what is
dirty and waits for requests under way (do_unlk, nfs_iocounter_wait). Those that count are the requests of the same
``files_struct`` (nfs_get_lock_context), which is the address of a table of descriptors: a process that was born after a
QEMU was killed can get the table that was QEMU's, and waits for QEMU's last writes then (measured on 6.12).

A message in the queue of a unix socket holds the description without any of this: its end is fput(), and fput() does
nothing as long as another reference is left. So PID 1 gets the socket, called a parcel here, and can close it, fork,
and exec as it likes; only the last reference of all still talks to the server.

What lies in queues is counted for the user that sent it, root. That is nothing to the daemon (CAP_SYS_RESOURCE), but
root's programs without that capability and CAP_SYS_ADMIN cannot pass descriptors while it is more than their own limit
of open files, 1024 as a rule (ETOOMANYREFS, unix(7)): from some 500 VMs with image locks off on one host.
"""

from __future__ import annotations

import array
import os
import socket
import stat

_WORD = b"vmguard"


def wrap(fd: int) -> socket.socket:
    """Return a new parcel with a copy of a descriptor. Raises OSError."""
    sender, parcel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with sender:
        try:
            socket.send_fds(sender, [_WORD], [fd])
        except OSError:
            parcel.close()
            raise
    return parcel


def unwrap(fd: int) -> int | None:
    """Return a new copy of the descriptor in a parcel, which stays as it is; None if that is no parcel."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
    with socket.socket(fileno=os.dup(fd)) as parcel:
        if parcel.family != socket.AF_UNIX or parcel.type != socket.SOCK_DGRAM:
            return None
        try:
            word, found = receive(parcel, len(_WORD), 1, flags)
        except OSError:
            return None
    return found[0] if word == _WORD and found else None


def receive(sock: socket.socket, size: int, count: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return a message and its descriptors, which no program inherits. Raises OSError.

    socket.recv_fds() takes flags as well, and forgets them (Python 3.11).
    """
    fds = array.array("i")
    space = socket.CMSG_SPACE(count * fds.itemsize)
    data, extra, _, _ = sock.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
    return data, list(fds)
