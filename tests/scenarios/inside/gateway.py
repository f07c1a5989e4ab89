"""A gateway in front of nfsd that answers SEEK as another server would, or delays: gateway.py PORT MODE_FILE.

The file says how, and is read anew at each call: ``plain`` (all is nfsd's own), ``absent`` (NFS4ERR_NOTSUPP to SEEK),
``odd`` (NFS4ERR_INVAL), ``hold`` and ``hold-lock`` (nothing gets through behind a client's RECLAIM_COMPLETE, or behind
the LOCK that it gets, as in an outage that comes at that moment).

A SEEK goes on as IO_ADVISE, which nfsd does not know either: the compound's answer is as long as one to SEEK, and only
its numbers are changed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from pathlib import Path

_STATUS = {"absent": 10004, "odd": 22}
_SEEK, _IO_ADVISE, _SEQUENCE, _PUTFH, _RECLAIM_COMPLETE, _LOCK = 69, 63, 53, 22, 58, 12
_HOLDS = ("hold", "hold-lock")
_LAST = 1 << 31


def exactly(stream: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = stream.recv(length - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts


def record(stream: socket.socket) -> bytearray:
    """Return the next RPC message (RFC 5531, record marking)."""
    parts = bytearray()
    while True:
        (head,) = struct.unpack(">I", exactly(stream, 4))
        parts += exactly(stream, head & (_LAST - 1))
        if head & _LAST:
            return parts


def padded(length: int) -> int:
    """Return the length of opaque data with its padding (RFC 4506)."""
    return length + 3 & ~3


def place_of(wanted: int, call: bytearray) -> int | None:
    """Return where an opcode stands in a compound that begins as a SEEK does; None if there is none."""
    _, kind, _, program, _, procedure = struct.unpack_from(">6I", call, 0)
    if (kind, program, procedure) != (0, 100003, 1):
        return None
    at = 24
    for _ in range(2):  # credential and verifier
        (length,) = struct.unpack_from(">I", call, at + 4)
        at += 8 + padded(length)
    (tag,) = struct.unpack_from(">I", call, at)
    at += 4 + padded(tag)
    _, operations = struct.unpack_from(">2I", call, at)
    at += 8
    for _ in range(operations):
        (operation,) = struct.unpack_from(">I", call, at)
        if operation == wanted:
            return at
        if operation == _SEQUENCE:
            at += 4 + 32
        elif operation == _PUTFH:
            (length,) = struct.unpack_from(">I", call, at + 4)
            at += 8 + padded(length)
        else:
            return None
    return None


class Connection:
    """One client's connection, and the one to nfsd behind it."""

    #: the client has sent the last request that gets through
    holding = False

    def __init__(self, client: socket.socket, mode: Path) -> None:
        self._client = client
        self._server = socket.create_connection(("127.0.0.1", 2049))
        self._mode = mode
        #: SEEKs on their way: the status that each is answered with
        self._changed: dict[bytes, int] = {}
        #: LOCKs on their way
        self._locks: set[bytes] = set()
        for run in (self._up, self._down):
            threading.Thread(target=self._until_it_ends, args=(run,), daemon=True).start()

    def _until_it_ends(self, run: object) -> None:
        assert callable(run)
        with contextlib.suppress(EOFError, OSError):
            while True:
                run()
        for stream in (self._client, self._server):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _up(self) -> None:
        call = record(self._client)
        while Connection.holding and self._mode.read_text().strip() in _HOLDS:
            time.sleep(0.05)
        mode = self._mode.read_text().strip()
        if mode == "hold" and place_of(_RECLAIM_COMPLETE, call) is not None:
            self._hold()
        elif mode == "hold-lock" and place_of(_LOCK, call) is not None:
            self._locks.add(bytes(call[:4]))
        at, status = place_of(_SEEK, call), _STATUS.get(mode)
        if at is not None and status is not None:
            self._changed[bytes(call[:4])] = status
            struct.pack_into(">I", call, at, _IO_ADVISE)
        self._server.sendall(struct.pack(">I", len(call) | _LAST) + call)

    @staticmethod
    def _hold() -> None:
        Connection.holding = True
        print("holding", flush=True)

    def _down(self) -> None:
        answer = record(self._server)
        is_reply = struct.unpack_from(">I", answer, 4)[0] == 1
        if is_reply and bytes(answer[:4]) in self._locks:
            self._locks.discard(bytes(answer[:4]))
            if struct.unpack_from(">I", answer, 24)[0] == 0:
                self._hold()
        status = self._changed.pop(bytes(answer[:4]), None) if is_reply else None
        if status is not None and struct.unpack_from(">I", answer, len(answer) - 8)[0] == _IO_ADVISE:
            struct.pack_into(">2I", answer, len(answer) - 8, _SEEK, status)
            struct.pack_into(">I", answer, 24, status)
        self._client.sendall(struct.pack(">I", len(answer) | _LAST) + answer)


def main() -> None:
    port, mode = int(sys.argv[1]), Path(sys.argv[2])
    listener = socket.create_server(("0.0.0.0", port))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection(client, mode)


if __name__ == "__main__":
    main()
