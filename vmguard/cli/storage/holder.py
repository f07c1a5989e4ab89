"""``who FILE --ask-storage``: who has a file locked, by the name that the server has; beside the owner record."""

from __future__ import annotations

import argparse
import os

from vmguard.cli.storage import asked
from vmguard.core.locks.owner_record import Owner
from vmguard.core.servers import release
from vmguard.core.servers.facts import Client
from vmguard.core.words import printable


def of(args: argparse.Namespace, path: str, inode: int, owner: Owner | None, locked: bool) -> dict[str, object]:
    """Return what the server of a file says of its lock. ``locked``: whether the share itself refuses a lock.

    Raises BadInput when no server is configured for it.
    """
    one = asked.of(args, path)[0]
    told: dict[str, object] = {"server": one.name, "host": "", "address": "", "state": "", "idle": None}
    if one.facts is None:
        return {**told, "text": one.problem, "contradiction": ""}
    client, why = release.holder_of(one.facts, inode, os.path.basename(path))
    if client is None:
        against = f"but a lock on it is refused, and {printable(one.name)} names no holder" if locked else ""
        return {**told, "text": f"{printable(one.name)} says: {why}", "contradiction": against}
    return {
        "server": one.name,
        "host": client.host,
        "address": client.address,
        "state": client.state,
        "idle": client.idle,
        "text": _words(one.name, client, one.facts.times.lease),
        "contradiction": contradiction(client, owner),
    }


def _words(server: str, client: Client, lease: float | None) -> str:
    idle = f"renewed its lease {client.idle:.0f} s ago" if client.idle is not None else "its lease is not told"
    text = f"{printable(server)} says: held by {printable(client.host)} ({printable(client.address)}), {idle}"
    if lease is not None and client.idle is not None and client.idle >= lease:
        text += f", longer than a lease of {lease:.0f} s: it counts as dead, and is kept until somebody wants the lock"
    return text


def contradiction(client: Client, owner: Owner | None) -> str:
    """Say how the owner record and the server disagree; empty when they do not."""
    if owner is None or owner.host == client.host:
        return ""
    if owner.released:
        return f"the owner record's last claim, of {printable(owner.host)}, was released"
    return f"the owner record names {printable(owner.host)}: the server's word counts, the record is never the lock"
