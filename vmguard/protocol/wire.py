"""The transport between hooks, command line and daemon: messages and descriptors over a unix socket.

The socket is of type SOCK_SEQPACKET (message boundaries are the kernel's, descriptors travel with their message),
mode 0600, owned by root; the daemon checks the peer's credentials as well. Each message is one JSON object:

request   ``{"v": 1, "op": "claim", ...}``
answer    ``{"v": 1, "ok": true, ...}`` or ``{"v": 1, "ok": false, "error": {"message": ..., "hint": ...}}``

A long answer comes as a list in a memory file, whose descriptor rides on the answer by SCM_RIGHTS. Locked descriptors
ride on ``hold`` requests in the same way, at most FDS_PER_MESSAGE in each (paths may be long; the kernel would take
253).

The table of requests is vmguard/protocol/requests.py. The hook imports this module, so ``socket`` is its C half only,
and integers are packed without ``struct``.
"""

from __future__ import annotations

import _socket
import os
import sys

from vmguard.core.lean_json import decode, encode
from vmguard.errors import DaemonError, DaemonForbidden, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict

VERSION = 1
#: well below the default SO_SNDBUF of 208 KiB, which bounds a SEQPACKET message
MAX_MESSAGE_BYTES = 128 * 1024
FDS_PER_MESSAGE = 20
SOCKET_NAME = "vmguard.sock"
#: connections that the kernel queues for the daemon; later ones wait for a place (vmguard.socket says the same)
BACKLOG = 512

#: of a C int, as SCM_RIGHTS and SO_PEERCRED carry it
_INT_BYTES = 4
#: of a C long: a struct timeval is two of them
_LONG_BYTES = 8


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Connection:
    """One end of a connection. Not thread-safe; close it when done."""

    __slots__ = ("_sock",)

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def settimeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)

    def peer(self) -> tuple[int, int, int]:
        """Return process id, user id and group id of the peer, as they were at connect (SO_PEERCRED)."""
        pid, uid, gid = _integers(self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * _INT_BYTES))
        return pid, uid, gid

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send one message. Raise WireError when it is too large, OSError when the peer is gone."""
        data = encode({"v": VERSION, **message}).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise WireError(f"message of {len(data)} bytes is larger than the allowed {MAX_MESSAGE_BYTES}")
        if len(fds) > FDS_PER_MESSAGE:
            raise WireError(f"{len(fds)} descriptors in one message, {FDS_PER_MESSAGE} are allowed")
        if fds:
            rights = b"".join(fd.to_bytes(_INT_BYTES, sys.byteorder) for fd in fds)
            self._sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)], _socket.MSG_NOSIGNAL)
        else:
            self._sock.send(data, _socket.MSG_NOSIGNAL)

    def brings_descriptors(self) -> bool:
        """Return whether descriptors wait with the next message; both stay in the queue. Raise OSError.

        To receive a descriptor, or to let it fall, may be its last close, which waits for the storage of its file.
        Without a place for them MSG_PEEK does neither, and MSG_CTRUNC tells that there are some (recvmsg(2)).
        """
        _, _, flags, _ = self._sock.recvmsg(1, 0, _socket.MSG_PEEK)
        return bool(flags & _socket.MSG_CTRUNC)

    def receive(self, close: Callable[[list[int]], None] = close_all) -> tuple[Message, list[int]] | None:
        """Return the next message and the descriptors that came with it; None when the peer has closed.

        Raise WireError for anything that is not a message of this version; descriptors are closed then. ``close``: the
        daemon's own way to do that, because a close on a share may hang.
        """
        space = _socket.CMSG_SPACE(FDS_PER_MESSAGE * _INT_BYTES)
        data, extra, flags, _ = self._sock.recvmsg(MAX_MESSAGE_BYTES, space, _socket.MSG_CMSG_CLOEXEC)
        fds = _descriptors(extra)
        if not data and not fds:
            return None
        try:
            if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                raise WireError(
                    "message or its descriptors were cut short by the kernel",
                    "does the receiver have too many files open? it is LimitNOFILE of vmguard's unit",
                )
            return _parse(data), fds
        except BaseException:
            close(fds)
            raise

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        """Send a request and return its answer. Raise DaemonError when the daemon refuses or goes away."""
        self.send(message, fds)
        return self.answer()

    def answer(self) -> Message:
        """Return the next answer. Raise DaemonError when it is a refusal or the daemon went away."""
        answer, fds = self.answer_with_fds()
        close_all(fds)
        return answer

    def answer_with_fds(self) -> tuple[Message, list[int]]:
        """Return the next answer and its descriptors. Raise DaemonError as ``answer`` does."""
        received = self.receive()
        if received is None:
            raise DaemonError("the vmguard daemon closed the connection", "look at: journalctl -u vmguard")
        answer, fds = received
        if answer.get("ok") is not True:
            close_all(fds)
            error = answer.get("error")
            error = error if isinstance(error, dict) else {}
            raise DaemonError.passed_on(str(error.get("message", "the daemon refused")), str(error.get("hint", "")))
        return answer, fds


def _descriptors(extra: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, payload in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.extend(_integers(payload))
    return fds


def _integers(data: bytes) -> list[int]:
    """Unpack an array of C ints; of one that was cut short, the whole ones."""
    ends = range(_INT_BYTES, len(data) + 1, _INT_BYTES)
    return [int.from_bytes(data[end - _INT_BYTES : end], sys.byteorder, signed=True) for end in ends]


def _parse(data: bytes) -> Message:
    try:
        message = decode(data.decode())
    except (ValueError, RecursionError) as problem:
        raise WireError(f"message is not JSON: {problem}") from None
    if not isinstance(message, dict):
        raise WireError("message is not a JSON object")
    version = message.get("v")
    if version != VERSION:
        spoken = repr(version) if isinstance(version, int) or version is None else "of an unknown form"
        raise WireError(
            f"the other side speaks protocol version {spoken}, this one {VERSION}",
            "restart the daemon after an upgrade: systemctl restart vmguard",
        )
    return message


def connect(path: str, timeout: float) -> Connection:
    """Connect to the daemon's socket; ``timeout`` seconds bound every later wait as well.

    Raise DaemonError (DaemonForbidden), which says in words what is wrong.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        # Not settimeout: a connect that may not wait is refused at once while the daemon's queue is full. With the
        # kernel's own limit it waits its turn there.
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(timeout))
        sock.connect(path)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(0.0))
        sock.settimeout(timeout)
    except FileNotFoundError:
        sock.close()
        raise DaemonError(
            f"the vmguard daemon is not running (no socket {path})", "start it: systemctl start vmguard"
        ) from None
    except ConnectionRefusedError:
        sock.close()
        raise DaemonError(
            f"the vmguard daemon is not running (nobody listens on {path})", "start it: systemctl start vmguard"
        ) from None
    except PermissionError:
        sock.close()
        raise DaemonForbidden(
            f"user {os.geteuid()} may not talk to the vmguard daemon (permission denied for {path})",
            "only root may" if os.geteuid() else "does AppArmor or SELinux forbid it? journalctl -k | grep -i denied",
        ) from None
    except BlockingIOError:
        sock.close()
        raise DaemonError(
            f"the vmguard daemon does not answer on {path}: its queue of connections has been full for {timeout:g} s",
            "look at: journalctl -u vmguard",
        ) from None
    except OSError as problem:
        sock.close()
        raise DaemonError(f"cannot connect to the vmguard daemon on {path}: {problem.strerror or problem}") from problem
    return Connection(sock)


def _timeval(seconds: float) -> bytes:
    """Pack a struct timeval; 0.0 stands for no limit."""
    whole = int(seconds)
    parts = whole, int((seconds - whole) * 1_000_000)
    return b"".join(part.to_bytes(_LONG_BYTES, sys.byteorder) for part in parts)


def pair() -> tuple[Connection, Connection]:
    """Return two connected ends, for tests and for talking to a child."""
    kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
    one, other = _socket.socketpair(_socket.AF_UNIX, kind)
    return Connection(one), Connection(other)
