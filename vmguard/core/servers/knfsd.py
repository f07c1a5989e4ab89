"""The probe's document of a Linux server, read into facts. Pure.

Sources: fs/nfsd/nfsctl.c (the files below /proc/fs/nfsd), fs/lockd/svc.c (get_lockd_grace_period),
fs/nfsd/nfs4state.c (lines of the log), nfs-utils' nfsdcld (main.sqlite, schema 4).
"""

from __future__ import annotations

import re

from vmguard.core.servers import clients
from vmguard.core.servers.document import Document
from vmguard.core.servers.facts import Client, Export, Grace, Lock, LogLine, Memory, ServerFacts, Times

KIND = "knfsd"
#: lockd's grace period is this many times nlm_timeout unless nlm_grace_period is set (get_lockd_grace_period)
_LOCKD_TIMEOUTS = 5
_TRACKER = re.compile(r"NFSD: Using (.+?) client tracking operations")
_GRACE_BEGINS = re.compile(r"NFSD: starting (\d+)-second grace period")
FORGOT = "no clients to reclaim, skipping NFSv4 grace period"
#: file systems that a reboot empties
VOLATILE = ("tmpfs", "ramfs", "rootfs")


def facts(found: Document) -> ServerFacts:
    """Read a document. Raises ServerError when a part of it is of another type."""
    files = found.part("files")
    log = _log(found)
    times, unknown = _times(files), list(found.texts("unknown"))
    known, states = _clients(found)
    versions = files.text("versions").split()
    return ServerFacts(
        kind=KIND,
        version=found.text("kernel"),
        host=found.text("host"),
        scope=found.text("scope") or found.text("host"),
        boot_id=files.text("boot_id").strip(),
        up=_up(files),
        uptime=found.number("uptime"),
        versions=versions,
        times=times,
        grace=_grace(found, files, log),
        clients=known,
        locks=states,
        memory=_memory(found, log),
        exports=_exports(files) if files.has("etab") else None,
        log=log,
        delegations=_yes(files, "leases", "1", "0"),
        filesystems=[(part.text("device"), part.text("point"), part.text("type")) for part in found.parts("mounts")],
        unknown=unknown,
    )


def _up(files: Document) -> bool | None:
    threads = _seconds(files, "threads")
    return threads > 0 if threads is not None else None


def _seconds(files: Document, key: str) -> float | None:
    text = files.text(key).strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _yes(files: Document, key: str, yes: str, no: str) -> bool | None:
    text = files.text(key).strip()
    return True if text == yes else False if text == no else None


def _times(files: Document) -> Times:
    lockd = None
    if files.has("nlm_end_grace"):
        timeout = _seconds(files, "nlm_timeout")
        own = _seconds(files, "nlm_grace_period")
        if own and timeout:
            lockd = -(-own // timeout) * timeout  # rounded up, as the kernel does
        elif timeout is not None:
            lockd = _LOCKD_TIMEOUTS * timeout
    runs = "+3" in files.text("versions").split() or "+2" in files.text("versions").split()
    return Times(_seconds(files, "nfsv4leasetime"), _seconds(files, "nfsv4gracetime"), lockd if runs else None)


def _log(found: Document) -> list[LogLine] | None:
    if not found.has("log"):
        return None
    now = found.number("uptime") or 0.0
    return [LogLine(max(0.0, now - (line.number("at") or 0.0)), line.text("text")) for line in found.parts("log")]


def _grace(found: Document, files: Document, log: list[LogLine] | None) -> Grace:
    """Read the grace period. ``v4_end_grace`` also says N before the server was started."""
    v4 = _yes(files, "v4_end_grace", "N", "Y")
    served = "+3" in files.text("versions").split() or "+2" in files.text("versions").split()
    lockd = _yes(files, "nlm_end_grace", "N", "Y") if served else False
    age = None
    for line in log or []:
        if _GRACE_BEGINS.search(line.text) or FORGOT in line.text:
            age = line.age
    database = found.part("database")
    epochs = {part.text("name"): part.texts("clients") for part in database.parts("epochs")}
    before = database.number("recovery") or 0
    return Grace(
        v4=v4,
        lockd=lockd,
        age=age,
        may_reclaim=epochs.get(_table(before), []) if before else [],
        reclaimed=epochs.get(_table(database.number("current") or 0), []) if before else [],
    )


def _table(epoch: float) -> str:
    return f"rec-{int(epoch):016x}"


def _clients(found: Document) -> tuple[list[Client] | None, list[Lock]]:
    if not found.has("clients"):
        return None, []
    known: list[Client] = []
    states: list[Lock] = []
    for part in found.parts("clients"):
        known.append(one := clients.client(part))
        states += clients.locks(one, part.text("states"))
    return known, states


def _memory(found: Document, log: list[LogLine] | None) -> Memory:
    database = found.part("database")
    tracker = ""
    for line in log or []:
        if match := _TRACKER.search(line.text):
            tracker = match[1]
    epochs = {part.text("name"): part.texts("clients") for part in database.parts("epochs")}
    current = database.number("current")
    return Memory(
        tracker=tracker,
        keeper_runs=found.flag("nfsdcld"),
        path=database.text("path"),
        problem=database.text("problem"),
        filesystem=database.text("filesystem"),
        epoch=int(current) if current is not None else None,
        recorded=epochs.get(_table(current or 0), []),
    )


def _exports(files: Document) -> list[Export]:
    """Read /var/lib/nfs/etab: ``FOLDER\\tCLIENT(OPTION,...)``, with octal escapes in the folder (exportfs(8))."""
    found = []
    for line in files.text("etab").split("\n"):
        folder, tab, rest = line.partition("\t")
        to, bracket, options = rest.rpartition("(")
        if tab and bracket:
            found.append(Export(folder, to, tuple(options.rstrip(")").split(","))))
    return found
