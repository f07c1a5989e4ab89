"""The signs of life that are looked for before a dead host's state is released, and the command that proves it off."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Sequence

from vmguard.adapters.linux import bounded_child, programs
from vmguard.core.words import printable
from vmguard.errors import BadInput, VmguardError

#: ssh, rpcbind, libvirt, Proxmox's API
_PORTS = (22, 111, 16509, 8006)
_ANSWER_S = 1.0
_DISK_S = 2.0
_PROOF_S = 30.0


def address_of(client_address: str) -> str:
    """Return the address in a client's ``ADDRESS:PORT`` (``[ADDRESS]:PORT`` for IPv6)."""
    return client_address.rpartition(":")[0].strip("[]")


def of_life(address: str, disks: Sequence[str]) -> list[str]:
    """Return a sentence for each sign of life: an answer from an address, a disk that changes."""
    found = []
    for port in _PORTS:
        try:
            socket.create_connection((address, port), _ANSWER_S).close()
        except ConnectionRefusedError:
            found.append(f"{printable(address)} refuses a connection to port {port}: it answers")
        except OSError:
            continue
        else:
            found.append(f"{printable(address)} takes a connection to port {port}: it answers")
        break
    if not found and _pings(address):
        found.append(f"{printable(address)} answers a ping")
    return found + [f"{printable(path)} changes: its VM beats" for path in disks if _changes(path)]


def _pings(address: str) -> bool:
    try:
        return programs.run(["ping", "-c", "1", "-W", "1", address], 3.0, mixed=True).status == 0
    except OSError:
        return False


def _changes(path: str) -> bool:
    """Return whether a file is written to. One that cannot be asked for in time counts as one that is."""

    def times() -> list[int]:
        seen = []
        for pause in (_DISK_S, 0.0):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # an open asks the server for the attributes anew
            status = os.fstat(fd)
            os.close(fd)
            seen += [status.st_mtime_ns]
            time.sleep(pause)
        return seen

    try:
        first, second = bounded_child.run(times, 10.0, f"looking whether {path} changes")
    except VmguardError:
        return True
    return bool(first != second)


def command_says_off(command: str) -> str:
    """Run the command that proves a host off; return what it said. Raises VmguardError unless it ends with 0."""
    words = shlex.split(command)
    if not words:
        raise BadInput("--proof names no command")
    try:
        ended = programs.run(words, _PROOF_S, mixed=True)
    except OSError as problem:
        raise VmguardError(f"the proof cannot be had: {problem}") from None
    said = printable(ended.text.strip()[:200])
    if ended.status:
        raise VmguardError(f"no proof: {printable(words[0])} ended with {ended.status}: {said}")
    return f"{printable(command)}: {said}"
