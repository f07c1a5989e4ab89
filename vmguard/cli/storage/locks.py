"""``vmguard storage locks``: the locks as the servers have them, by host, beside what this host guards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from vmguard.adapters.linux import mounts
from vmguard.cli import host, places
from vmguard.cli.output import Output
from vmguard.cli.storage import asked
from vmguard.cli.storage.asked import Asked, Me
from vmguard.cli.storage.status import findings
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.reports.health import Finding, of_findings
from vmguard.core.reports.status import Status
from vmguard.core.servers import release
from vmguard.core.servers.facts import Client, ServerFacts
from vmguard.core.words import printable, vm_title
from vmguard.query.answers import FileAnswer, VmAnswer


@dataclass(frozen=True)
class Row:
    """One file that a client has locked, or that this host guards."""

    server: str
    #: None: the server has no lock on it
    client: Client | None
    file: str
    inode: int
    device: str = ""
    vm: str = ""
    path: str = ""
    #: what does not fit; empty when all does
    wrong: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vm", metavar="VM", help="only the disks of this VM, which this host guards")
    parser.add_argument("--host", metavar="HOST", help="only what this host has locked, by its name on the server")


def run(args: argparse.Namespace, out: Output) -> int:
    found, me = asked.of(args), asked.me()
    known = host.ask(places.of(args)).known
    vms = [vm for vm in known.vms if args.vm in (None, vm.name, vm.uuid)]
    rows = [row for one in found for row in rows_of(one, vms, me)]
    if args.vm:
        rows = [row for row in rows if row.vm]
    if args.host:
        rows = [row for row in rows if row.client is not None and row.client.host == args.host]
    told = [finding for one in found for finding in findings(one, me) if finding.severity is Status.UNKNOWN]
    told += [
        Finding(Status.CRITICAL, f"{vm_title(row.vm)}: {row.wrong}", f"vmguard check {row.vm}")
        for row in rows
        if row.wrong
    ]
    health = of_findings(told, f"{len(rows)} locks, as the servers have them")
    if args.json:
        listed = [_as_json(row) for row in rows]
        out.json({"schema": 1, "status": health.severity.name, "health": health.as_json(), "locks": listed})
        return health.severity
    host.begin(health, out)
    if rows:
        out.line()
        out.table(["host", "state", "renewed", "vm here", "file"], [_cells(row) for row in rows])
    host.end(health, out)
    return health.severity


def rows_of(one: Asked, vms: Sequence[VmAnswer], me: Me) -> list[Row]:
    """Return the locks of one server, and the files of VMs here that it knows no lock of this host on."""
    if one.facts is None:
        return []
    here = list(_files_here(one, vms))
    rows, seen = [], set()
    for lock in one.facts.locks:
        key = (lock.client.number, lock.device, lock.inode)
        if lock.kind != "lock" or key in seen:
            continue
        seen.add(key)
        vm, file = next(
            ((vm, file) for vm, file in here if file.inode == lock.inode and release.is_named(lock, _last(file.path))),
            (None, None),
        )
        name, path = (vm.name, file.path) if vm is not None and file is not None else ("", "")
        wrong = ""
        if name and file is not None and file.mode == EXCLUSIVE and not me.is_named(lock.client.name):
            wrong = f"{path} is locked by {printable(lock.client.host)} on the server"
        rows.append(Row(one.name, lock.client, lock.file, lock.inode, lock.device, name, path, wrong))
    return [*rows, *_unknown_there(one.facts, one.name, here, me)]


def _unknown_there(facts: ServerFacts, server: str, here: Sequence[tuple[VmAnswer, FileAnswer]], me: Me) -> list[Row]:
    if facts.clients is None or any(not client.complete for client in facts.clients):
        return []
    mine = {lock.inode for lock in facts.locks if lock.kind == "lock" and me.is_named(lock.client.name)}
    return [
        Row(
            server,
            None,
            "",
            file.inode,
            "",
            vm.name,
            file.path,
            f"the server knows no lock of this host on {file.path}",
        )
        for vm, file in here
        if file.inode not in mine and file.guard in ("held", "pinned")
    ]


def _files_here(one: Asked, vms: Sequence[VmAnswer]) -> list[tuple[VmAnswer, FileAnswer]]:
    table = list(mounts.mounts())
    return [
        (vm, file)
        for vm in vms
        for file in vm.files
        if (mount := mounts.mount_of_path(str(file.json.get("real") or file.path), table)) is not None
        and mount.point in one.points
    ]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _cells(row: Row) -> list[str]:
    client = row.client
    if client is None:
        return ["nobody", "", "", row.vm, row.path]
    idle = f"{client.idle:.0f} s ago" if client.idle is not None else "?"
    return [client.host, client.state, idle, row.vm or "-", row.path or f"{row.file} ({row.inode})"]


def _as_json(row: Row) -> dict[str, object]:
    client = row.client
    return {
        "server": row.server,
        "host": client.host if client is not None else "",
        "client": client.name if client is not None else "",
        "address": client.address if client is not None else "",
        "state": client.state if client is not None else "",
        "idle": client.idle if client is not None else None,
        "file": row.file,
        "inode": row.inode,
        "device": row.device,
        "vm": row.vm,
        "path": row.path,
        "wrong": row.wrong,
    }
