"""Findings about a storage server, from what it says of itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vmguard.core.servers import names, outlook
from vmguard.core.servers.facts import CONFIRMED, Memory, ServerFacts
from vmguard.core.servers.knfsd import VOLATILE
from vmguard.core.words import printable
from vmguard.doctor.finding import Finding, fail, ok, warn

_MOST_NAMES = 6
_RESTART = "then restart nfs-server at a quiet hour"


def judge_server(name: str, facts: ServerFacts, disks: Sequence[int] = ()) -> list[Finding]:
    """Judge one server. ``disks``: the inodes of the files that this host guards there."""
    found = [_serves(name, facts), *_grace(name, facts), _nfs3(name, facts), _version(name, facts)]
    if facts.memory is not None:
        found += [_tracker(name, facts.memory), _database(name, facts.memory), *_records(name, facts, facts.memory)]
    found += [_delegations(name, facts, disks), *_exports(name, facts)]
    return found


def judge_pair(name: str, facts: ServerFacts, partner: str, other: ServerFacts) -> Finding:
    """Judge what must be equal on both nodes of a fail-over pair for a client to reclaim on the other one."""
    subject = f"{name} and {partner}"
    if facts.scope != other.scope:
        scopes = f"{printable(facts.scope)} and {printable(other.scope)}"
        text = f"scopes {scopes}: after a fail-over no client even tries to reclaim"
        mend = "start nfsd under one name on both: option nfs_server_scope of ocf:heartbeat:nfsserver"
        return fail("server.partner", subject, text, mend)
    mine, theirs = _fsids(facts), _fsids(other)
    unequal = sorted(folder for folder in mine.keys() & theirs.keys() if mine[folder] != theirs[folder])
    if unequal:
        text = f"another fsid on each: {_listed(unequal)}: open files are stale after a fail-over"
        return fail("server.partner", subject, text, "the same fsid= for each export on both, in /etc/exports")
    lease, grace = other.times.lease, facts.times.grace
    if lease is not None and grace is not None and grace < lease:
        text = f"the grace period of {name} ({grace:g} s) is shorter than the lease that {partner} gave ({lease:g} s)"
        return fail("server.partner", subject, text, f"[nfsd] grace-time={lease:.0f} or more on {name}, {_RESTART}")
    return ok("server.partner", subject, "one scope, equal fsids, grace as long as the other's lease")


def _fsids(facts: ServerFacts) -> dict[str, str]:
    """Return the fsid= of each export; empty where it is made of the file system, which is another on each node."""
    return {
        export.folder: next((word for word in export.options if word.startswith("fsid=")), "")
        for export in facts.exports or ()
    }


def no_answer(name: str, problem: str, hint: str) -> Finding:
    """Return the finding about a server that cannot be asked."""
    return warn("server.answers", name, problem, hint or f"correct servers.{name} in /etc/vmguard/vmguard.yaml")


def _serves(name: str, facts: ServerFacts) -> Finding:
    if facts.up is False:
        return fail(
            "server.answers", name, "nfsd has no threads: it serves nothing", "systemctl start nfs-server   # there"
        )
    missing = f"; not known: {'; '.join(facts.unknown)}" if facts.unknown else ""
    return ok("server.answers", name, f"{facts.version}, scope {facts.scope}{missing}")


def _grace(name: str, facts: ServerFacts) -> list[Finding]:
    lease, grace = facts.times.lease, facts.times.grace
    if lease is None or grace is None:
        return [warn("server.grace", name, "its lease or its grace period is not told", "ask as root there")]
    back = outlook.reconnect(lease)
    longest = max(lease, back)
    mend = f"on the server: /etc/nfs.conf, [nfsd] grace-time={longest * 1.5:.0f}, {_RESTART}"
    if grace < lease:
        text = (
            f"grace {grace:g} s is shorter than the lease of {lease:g} s: a rebooted server can give a lock away early"
        )
        return [fail("server.grace", name, text, mend)]
    if grace < back:
        text = f"grace {grace:g} s is shorter than the {back:g} s in which a client is back at the latest"
        return [warn("server.grace", name, text, mend)]
    return [ok("server.grace", name, f"lease {lease:g} s, grace {grace:g} s; clients are back within {back:g} s")]


def _nfs3(name: str, facts: ServerFacts) -> Finding:
    if not facts.serves("3"):
        return ok("server.nfs3", name, "NFSv3 is off")
    lockd, grace = facts.times.lockd_grace, facts.times.grace
    if lockd is not None and grace is not None and lockd > grace:
        text = (
            f"NFSv3 is on: no new NFSv4 lock for {lockd:g} s after a start (lockd's grace), NFSv4's own is {grace:g} s"
        )
        mend = f"on the server: /etc/nfs.conf, [nfsd] vers3=n, {_RESTART}; or [lockd] grace-time={grace:.0f}"
        return warn("server.nfs3", name, text, mend)
    return ok("server.nfs3", name, "NFSv3 is on, and its grace period is no longer than NFSv4's")


def _version(name: str, facts: ServerFacts) -> Finding:
    old = sorted({printable(client.host) for client in facts.clients or () if client.minor == 0})
    if old:
        text = f"clients of NFSv4.0, which has no sessions: {_listed(old)}"
        return warn("server.version", name, text, "mount with vers=4.2 there; on the server: [nfsd] vers4.0=n")
    return ok("server.version", name, "no client of NFSv4.0")


def _tracker(name: str, memory: Memory) -> Finding:
    if memory.is_unattended:
        text = "nfsdcld does not run: new clients are written down nowhere, and are forgotten at the next reboot"
        return fail(
            "server.tracker", name, text, "systemctl restart nfsdcld   # on the server, then vmguard storage status"
        )
    if memory.tracker and memory.tracker != "nfsdcld":
        text = f"its clients are tracked by {printable(memory.tracker)}, whose record cannot be read from here"
        return warn(
            "server.tracker", name, text, "systemctl enable --now nfsdcld   # on the server, before its next start"
        )
    if memory.keeper_runs is False:
        text = "nfsdcld does not run, and the log does not tell any more what writes the clients down"
        return warn("server.tracker", name, text, "systemctl status nfsdcld   # on the server")
    return ok("server.tracker", name, "nfsdcld writes its clients down")


def _database(name: str, memory: Memory) -> Finding:
    where = printable(memory.path)
    if memory.filesystem in VOLATILE:
        text = f"{where} lies on {memory.filesystem}: a reboot forgets every client, and each of their locks is lost"
        return fail("server.memory", name, text, "put /var/lib/nfs on a file system that survives a reboot")
    if memory.problem:
        text = f"{where} cannot be read ({printable(memory.problem)}): whether it would forget is not known"
        return warn("server.memory", name, text, "ask as root there, and look whether nfsdcld runs")
    return ok("server.memory", name, f"{where} lies on {memory.filesystem or '?'}")


def _records(name: str, facts: ServerFacts, memory: Memory) -> list[Finding]:
    if memory.problem or memory.epoch is None or facts.clients is None or facts.grace.v4 is not False:
        return [ok("server.on-record", name, "not judged: in grace, or the record or the clients cannot be read")]
    # A courteous server keeps a dead client until somebody wants its locks (NFSv4 courtesy, Linux 5.19).
    there = {client.name for client in facts.clients if client.state == CONFIRMED}
    unwritten = names.hosts(sorted(there - set(memory.recorded)))
    dead = facts.dead_on_record
    if unwritten:
        text = f"not on record, so that they could reclaim nothing after a reboot: {_listed(unwritten)}"
        found = [
            fail("server.on-record", name, text, "systemctl restart nfsdcld   # on the server; then mount anew there")
        ]
    else:
        found = [ok("server.on-record", name, f"each of {len(there)} clients is on record")]
    if dead:
        text = f"on record, but not there: {_listed(dead)}; the next grace period waits for them to its very end"
        found.append(
            warn("server.dead-records", name, text, "nothing, if they come back; else expect the full grace period")
        )
    else:
        found.append(ok("server.dead-records", name, "nobody is on record who is not there"))
    return found


def _delegations(name: str, facts: ServerFacts, disks: Sequence[int]) -> Finding:
    given = [
        lock for lock in facts.locks if lock.kind == "deleg" and lock.inode in disks and "w" in (lock.access or "w")
    ]
    if given:
        files = sorted({printable(lock.file) for lock in given})
        text = f"write delegations on disks that are guarded here: {_listed(files)}"
        return warn("server.delegations", name, text, "on the server: sysctl fs.leases-enable=0, before its next start")
    return ok("server.delegations", name, "no write delegation on a disk that is guarded here")


def _exports(name: str, facts: ServerFacts) -> list[Finding]:
    if facts.exports is None:
        return []
    risky = sorted({printable(export.folder) for export in facts.exports if "async" in export.options})
    if risky:
        text = (
            f"exported with async, so that a crash of the server loses writes that were acknowledged: {_listed(risky)}"
        )
        return [fail("server.sync", name, text, "on the server: sync in /etc/exports, then exportfs -ra")]
    return [ok("server.sync", name, "every export is sync")]


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else ""
    return ", ".join(map(printable, words[:_MOST_NAMES])) + more
