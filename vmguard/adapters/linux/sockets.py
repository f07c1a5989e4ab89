"""Listening sockets under a path: who may connect is the mode of the socket, from its first moment on."""

from __future__ import annotations

import grp
import os
import socket


def listen(path: str, backlog: int, group: str = "") -> socket.socket:
    """Return a socket that listens (SOCK_SEQPACKET), in the place of one that nobody has any more. Raises OSError.

    Only our own user may connect, and the members of a ``group``, if this host has it and we may give it away.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        _remove(path)
        _bind(listener, path, _number_of(group) if group and os.geteuid() == 0 else 0)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _number_of(group: str) -> int:
    """Return a group's number, 0 if this host does not have it."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return 0


def _bind(listener: socket.socket, path: str, group: int) -> None:
    """Make the socket as a member of the group: nothing is changed by its name, which somebody may have exchanged."""
    umask, own = os.umask(0o117 if group else 0o177), os.getegid()
    try:
        if group:
            os.setegid(group)
        listener.bind(path)
    finally:
        if group:
            os.setegid(own)
        os.umask(umask)
