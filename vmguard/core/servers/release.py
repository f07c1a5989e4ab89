"""Whether a dead host's state on the server may be released before its time, and why not. Pure.

A host that is only cut off goes on: what it re-sends after its client was expired is refused where QEMU's own
description carries the lock, and only there. So a release needs somebody's word that the host is off, and everything
that speaks against it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.core.servers.facts import CONFIRMED, COURTESY, EXPIRABLE, Client, Lock, ServerFacts
from vmguard.core.servers.names import host_in
from vmguard.core.words import printable

#: names of clients that a sentence lists
_MOST = 5


@dataclass(frozen=True)
class Signs:
    """What was seen of the host besides: signs of life, each a sentence; and the word or the proof that it is off."""

    #: an answer from its address, a disk of it that changed
    of_life: Sequence[str] = ()
    #: the name that the person typed; empty: none was
    typed: str = ""
    #: what a command proved; empty: nothing
    proof: str = ""


def client_of(facts: ServerFacts, host: str) -> tuple[Client | None, str]:
    """Return the one client of a host, or why there is none to release."""
    if facts.clients is None:
        return None, "the server does not tell who its clients are"
    found = [client for client in facts.clients if client.host == host]
    if not found:
        names = sorted({printable(client.host) for client in facts.clients})
        listed = ", ".join(names[:_MOST]) + (", ..." if len(names) > _MOST else "")
        return None, f"the server knows no client of host {printable(host)}; it knows: {listed or 'nobody'}"
    if len(found) > 1:
        where = ", ".join(printable(client.address) for client in found[:_MOST])
        return (
            None,
            f"{len(found)} clients call themselves {printable(host)} ({where}): which one is dead is not certain",
        )
    return found[0], ""


def holder_of(facts: ServerFacts, inode: int, file: str) -> tuple[Client | None, str]:
    """Return the one client that has a file locked, or why it is not certain. ``file``: the last part of its path."""
    locks = facts.locks_of(inode)
    if not locks:
        return None, "the server knows no lock on this file"
    named = [lock for lock in locks if is_named(lock, file)]
    if not named:
        return None, f"the server has a lock on {printable(locks[0].file)} under this number: another export's file"
    if len({lock.device for lock in named}) > 1:
        return None, "files of several file systems have this number, and their names do not tell them apart"
    holders = {lock.client.number: lock.client for lock in named}
    if len(holders) > 1:
        hosts = ", ".join(sorted(printable(client.host) for client in holders.values()))
        return None, f"several hosts have parts of it locked: {hosts}"
    return next(iter(holders.values())), ""


def is_named(lock: Lock, file: str) -> bool:
    """Return whether a lock can be on a file of this name. After a reclaim the server has no name: ``/``."""
    return lock.file in ("", "/") or lock.file.rpartition("/")[2] == file


def refusals(facts: ServerFacts, client: Client, me: str, signs: Signs) -> list[str]:
    """Return every reason not to release a client; empty when it may be."""
    host = printable(client.host)
    found = []
    if facts.up is not True:
        found.append("the server does not say that it serves")
    if facts.grace.v4 is not False:
        found.append("the server is in its grace period, or does not say that it is not: it may come back and reclaim")
    if client.host == me:
        found.append(f"{host} is this host")
    if client.state not in (CONFIRMED, COURTESY, EXPIRABLE):
        found.append(f"the server calls {host} {printable(client.state) or 'nothing'}, which is not known here")
    lease = facts.times.lease
    if lease is None or client.idle is None:
        found.append("the server does not tell its lease, or when the client renewed it")
    elif client.idle < lease:
        found.append(f"{host} renewed its lease {client.idle:.0f} s ago, and a lease is {lease:.0f} s: it may live")
    found += signs.of_life
    if signs.typed and signs.typed != host_in(client.name):
        found.append(f"the name typed is {printable(signs.typed)}, and the client is {host}")
    if not signs.typed and not signs.proof:
        found.append("nobody says that it is off")
    return found
