"""``vmguard adopt``: guards VMs that run already, without touching them: they are neither stopped nor written to."""

from __future__ import annotations

import argparse
from typing import Any

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.locks.plan import EXCLUSIVE
from vmguard.core.reports.vm_report import Status, guard_words, worst
from vmguard.errors import BadInput, VmguardError
from vmguard.protocol.client import Daemon
from vmguard.query import lookup
from vmguard.query.lookup import Places

_STATUS = {
    "adopted": Status.OK,
    "guarded": Status.OK,
    "nothing": Status.OK,
    "would-adopt": Status.OK,
    "gone": Status.UNKNOWN,
    "pending": Status.UNKNOWN,
    "conflict": Status.CRITICAL,
}
_SENTENCES = {
    "adopted": "was unguarded, is guarded now",
    "guarded": "was guarded already",
    "nothing": "has no file open that could be guarded",
    "would-adopt": "is unguarded; nothing was done (dry run)",
    "pending": "the storage has not answered yet; the daemon goes on trying",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vms", metavar="VM", nargs="*", help="a VM's name or uuid")
    parser.add_argument("--all", action="store_true", help="every VM that runs on this host")
    parser.add_argument("--pid", type=int, default=0, help="a QEMU process, whoever started it")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done, and who is in the way")


def run(args: argparse.Namespace, out: Output) -> int:
    if not (args.vms or args.all or args.pid):
        raise BadInput("no VM given", "vmguard adopt --all --dry-run shows what runs unguarded on this host")
    where = places.of(args)
    seconds = 10.0 if args.timeout is None else args.timeout
    wanted = {"names": args.vms, "all": args.all, "pid": args.pid, "dry_run": args.dry_run, "seconds": seconds}
    with Daemon(where.run_dir, seconds + 5.0) as daemon:
        results = daemon.adopt(wanted)
    for result in results:
        _ask_about(result, where)
        result["status"] = _status(result).name
    status = worst([Status[result["status"]] for result in results]) if results else Status.OK
    if args.json:
        out.json({"schema": 1, "status": status.name, "dry_run": args.dry_run, "vms": results})
    else:
        _print(results, out)
    return status


def _status(result: dict[str, Any]) -> Status:
    status = _STATUS[result["result"]]
    if any(file.get("rival") for file in result["files"]):
        return Status.CRITICAL
    weaker = any(file["guard"] not in (GuardState.PINNED, GuardState.PENDING) for file in result["files"])
    return Status.WARNING if weaker and status is Status.OK else status


def _ask_about(result: dict[str, Any], where: Places) -> None:
    """Who is in the way: of a conflict always, in a dry run of each file. Asks the share, in a bounded child."""
    for file in result["files"]:
        if not file["conflict"] and result["result"] != "would-adopt":
            continue
        if file["mode"] != EXCLUSIVE and not file["conflict"]:
            continue
        try:
            found = lookup.elsewhere(file, where)
        except VmguardError as problem:
            file["rival"] = problem.message if file["conflict"] else ""
            continue
        file["rival"] = found or file["conflict"]


def _print(results: list[dict[str, Any]], out: Output) -> None:
    if not results:
        out.line("no QEMU runs on this host")
    for result in sorted(results, key=lambda result: str(result["name"])):
        who = f"VM '{result['name']}'" + (f" (pid {result['pid']})" if result["pid"] else "")
        out.status(result["status"], f"{who}: {_SENTENCES.get(result['result'], result['why'])}")
        for file in result["files"]:
            out.line(f"  {file['role']} {file['path']}")
            if result["result"] != "would-adopt":
                out.line(f"      {guard_words(file)}")
            elif not file.get("rival"):
                out.line(f"      would get its {file['mode']} lock")
            if file.get("rival"):
                out.line(f"      {file['rival']}")
        if result.get("stopped"):
            out.line(f"      it is frozen; end one of the two, then: vmguard adopt {result['name']}")
