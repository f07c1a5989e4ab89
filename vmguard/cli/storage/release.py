"""``vmguard storage release FILE|--host H``: a dead host's state on the server, released before its time, with proof.

Nothing is done without --yes. The order: every reason against it; the server's firewall takes nothing more from that
host's address; exactly that client expires; it is looked whether it is gone, and for half a minute whether it comes
back. All of it is written down.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence

from vmguard.adapters.linux import atomic_file, bounded_child, clock, host_identity
from vmguard.cli import maintenance, places
from vmguard.cli.output import Output
from vmguard.cli.steps import ALREADY, DONE, FAILED, WOULD, Steps
from vmguard.cli.storage import asked, proofs
from vmguard.cli.storage.asked import Asked
from vmguard.core.servers import release as rules
from vmguard.core.servers.facts import Client, ServerFacts
from vmguard.core.servers.release import Signs
from vmguard.core.words import in_utf8, printable
from vmguard.errors import BadInput, ServerError, VmguardError

#: every release, and every try of one
TRAIL = "/var/lib/vmguard/storage-release.jsonl"
_WATCHED_S = 30.0
_PAUSE_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="", help="a disk that the dead host has locked")
    parser.add_argument("--host", metavar="HOST", help="the dead host, by its name on the server")
    parser.add_argument("--server", metavar="NAME", default="", help="with --host: on this server")
    parser.add_argument("--yes", action="store_true", help="do it; else it is only said what would be done")
    parser.add_argument(
        "--host-is-off", metavar="HOST", default="", help="your word, by its name, that it has no power"
    )
    parser.add_argument("--proof", metavar="COMMAND", default="", help="a command that ends with 0 only if it is off")
    parser.add_argument("--unblock", metavar="ADDRESS", default="", help="take the block of an address back, later")


def run(args: argparse.Namespace, out: Output) -> int:
    if args.unblock:
        return _unblock(args, out)
    if bool(args.file) == bool(args.host):
        raise BadInput("name either a FILE or --host HOST", "vmguard storage release --help")
    path = os.path.abspath(args.file) if args.file else ""
    one = _server(args, path)
    assert one.facts is not None
    client, why = _client(args, path, one.facts)
    subject = client.host if client is not None else args.host or path
    steps = Steps("storage release", subject, not args.yes, out)
    if client is None:
        steps.add("client", FAILED, why)
        return steps.end()
    steps.add("client", ALREADY, _about(one, client))
    signs = Signs(proofs.of_life(proofs.address_of(client.address), [path] if path else []), *_word(args, steps))
    against = rules.refusals(one.facts, client, host_identity.host_name(), signs)
    for reason in against:
        steps.add("refused", FAILED, reason)
    if against:
        _write_down(args, one, client, "refused", against)
    elif not args.yes:
        _would(one, client, steps)
    else:
        _carry_out(args, one, client, steps)
    return steps.end()


def _server(args: argparse.Namespace, path: str) -> Asked:
    found = asked.of(args, path or args.server)
    if len(found) != 1:
        raise BadInput("several servers are configured", "say on which one: --server NAME")
    if found[0].facts is None:
        raise ServerError(found[0].problem, found[0].hint)
    return found[0]


def _client(args: argparse.Namespace, path: str, facts: ServerFacts) -> tuple[Client | None, str]:
    if not path:
        return rules.client_of(facts, args.host)
    # The lock itself is not asked for: a courteous server would end a silent client for it (nfsd4_lockt, Linux 5.19).
    inode = bounded_child.run(lambda: os.stat(path).st_ino, places.timeout_of(args), f"asking for {path}")
    holder, why = rules.holder_of(facts, int(inode), os.path.basename(path))
    return rules.client_of(facts, holder.host) if holder is not None else (None, why)


def _word(args: argparse.Namespace, steps: Steps) -> tuple[str, str]:
    proof = ""
    if args.proof:
        try:
            proof = proofs.command_says_off(args.proof)
            steps.add("proof", ALREADY, proof)
        except VmguardError as problem:
            steps.add("proof", FAILED, problem.message)
    return args.host_is_off, proof


def _about(one: Asked, client: Client) -> str:
    assert one.facts is not None
    locks = [lock for lock in one.facts.locks if lock.client.number == client.number and lock.kind == "lock"]
    files = ", ".join(sorted({printable(lock.file) for lock in locks})[:4])
    idle = f"renewed {client.idle:.0f} s ago" if client.idle is not None else "renewed at a time not told"
    return (
        f"{client.host} at {client.address}, {client.state}, {idle}, {len(locks)} locks{': ' + files if files else ''}"
    )


def _would(one: Asked, client: Client, steps: Steps) -> None:
    address = proofs.address_of(client.address)
    if not one.server.may_release:
        steps.add("account", FAILED, f"servers.{one.name} has no release_destination and no release_command")
    steps.add("block", WOULD, f"{one.name}'s firewall would take nothing more from {address}")
    steps.add("expire", WOULD, f"client {client.clientid} of {client.host} would expire, with all of its locks")


def _carry_out(args: argparse.Namespace, one: Asked, client: Client, steps: Steps) -> None:
    address = proofs.address_of(client.address)
    _write_down(args, one, client, "begun", [])
    try:
        one.server.block(address)
        steps.add("block", DONE, f"{one.name}'s firewall takes nothing more from {address}, read back from it")
        one.server.release(client)
    except ServerError as problem:
        steps.add("expire", FAILED, problem.message)
        _write_down(args, one, client, "failed", [problem.message])
        _later(client, address, steps)
        return
    gone = _is_gone(one, client)
    steps.add(
        "expire",
        DONE if gone else FAILED,
        f"client {client.clientid} of {client.host} is {'gone' if gone else 'still there'}",
    )
    back = _comes_back(one, client) if gone else ""
    if gone:
        text = back or f"it did not come back within {_WATCHED_S:.0f} s"
        steps.add("watch", FAILED if back else DONE, text)
    _write_down(args, one, client, "done" if gone and not back else "alarm", [back] if back else [])
    _later(client, address, steps)


def _later(client: Client, address: str, steps: Steps) -> None:
    text = f"its address may be blocked; once {client.host} is clean: vmguard storage release --unblock {address} --yes"
    steps.add("later", ALREADY, text)


def _is_gone(one: Asked, client: Client) -> bool:
    clients = one.server.facts().clients
    return clients is not None and all(other.clientid != client.clientid for other in clients)


def _comes_back(one: Asked, client: Client) -> str:
    """Watch for the name; return the alarm, or nothing."""
    deadline = time.monotonic() + _WATCHED_S
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        try:
            clients = one.server.facts().clients or ()
        except ServerError:
            continue
        for other in clients:
            if other.host == client.host:
                return f"{client.host} IS BACK from {printable(other.address)}: it is not off; cut its power"
    return ""


def _write_down(args: argparse.Namespace, one: Asked, client: Client, what: str, words: Sequence[str]) -> None:
    entry = {
        "at": clock.wall(),
        "what": what,
        "by": maintenance.who(),
        "here": host_identity.host_name(),
        "server": one.name,
        "client": client.name,
        "clientid": client.clientid,
        "address": client.address,
        "file": args.file,
        "word": args.host_is_off,
        "proof": args.proof,
        "words": list(words),
    }
    try:
        atomic_file.append(TRAIL, f"{json.dumps(in_utf8(entry))}\n".encode())
    except OSError as problem:
        if what == "begun":
            raise VmguardError(f"{TRAIL} cannot be written, so nothing is done: {problem.strerror}") from None


def _unblock(args: argparse.Namespace, out: Output) -> int:
    one = _server(args, "")
    steps = Steps("storage release", args.unblock, not args.yes, out)
    if args.yes:
        one.server.unblock(args.unblock)
        steps.add("unblock", DONE, f"{one.name} takes what comes from {args.unblock} again")
    else:
        steps.add("unblock", WOULD, f"{one.name} would take what comes from {args.unblock} again")
    return steps.end()
