"""``vmguard status``: every VM that this host guards, and the leases that they depend on."""

from __future__ import annotations

import argparse
import time
from typing import Any

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.reports.vm_report import Status, guard_words, worst
from vmguard.query import lookup

#: seconds between two pictures, and what makes room for the next (ECMA-48: home, erase below)
_PICTURE = 1.0
_CLEAR = "\033[H\033[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="show it again each second, until interrupted")


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    if not args.watch or args.json:
        return _once(where, out, args)
    while True:
        out.block(_CLEAR + time.strftime("%H:%M:%S"))
        _once(where, out, args)
        time.sleep(_PICTURE)


def _once(where: lookup.Places, out: Output, args: argparse.Namespace) -> int:
    vms, problem = lookup.guarded_vms(where)
    health = {} if problem else lookup.health(where)
    mounts, disarmed = health.get("mounts", []), health.get("disarmed")
    if args.json:
        out.json({"schema": 1, "daemon": problem or "up", "disarmed": disarmed, "mounts": mounts, "vms": vms})
    elif not vms:
        out.line("this host guards no VM")
    else:
        _print(vms, mounts, out)
        for vm in vms if args.verbose else []:
            _details(vm, out)
        for vm in vms:
            if vm["state"] == "conflict":
                frozen = "; it is frozen" if vm.get("stopped") else ""
                out.status(Status.CRITICAL.name, f"VM '{vm['name']}' (pid {vm['pid']}) {vm['why']}{frozen}")
    for fence in health.get("fences", []):
        out.line(f"fencing VM '{fence['name']}': {fence['sentence']}")
    if disarmed:
        out.warn(f"DISARMED for {disarmed['seconds']:.0f} s more, by {disarmed['by']}: {disarmed['reason']}")
    if problem:
        out.warn(f"{problem}; this is what it guarded when it was last alive")
        return Status.CRITICAL if vms else Status.WARNING
    return worst([_status(vm) for vm in vms] + [Status.WARNING if disarmed else Status.OK])


def _print(vms: list[dict[str, Any]], mounts: list[dict[str, Any]], out: Output) -> None:
    rows = [
        [vm["name"], _state(vm), str(vm["pid"] or "-"), vm["claimed"], _files(vm), *_health(vm), _why(vm)]
        for vm in sorted(vms, key=lambda vm: str(vm["name"]))
    ]
    out.table(["vm", "state", "pid", "claimed", "files", "verdict", "freeze in", "why"], rows)
    if not mounts:
        return
    out.line()
    columns = ["mount", "server", "lease", "state", "age", "freeze in", "locks"]
    out.table(columns, [_mount(mount) for mount in mounts])


def _state(vm: dict[str, Any]) -> str:
    word = lookup.stance(vm)
    return word.upper() if word in ("frozen", "fencing") else word


def _mount(mount: dict[str, Any]) -> list[str]:
    locks = f"{mount['locks']}" + (f", {mount['unsure']} asked" if mount["unsure"] else "")
    return [
        mount["mount"],
        mount["source"],
        f"{mount['lease']:g} s",
        mount["phase"],
        _seconds(mount["lease_age"]),
        _seconds(mount["freeze_in"]),
        locks + (f", {mount['lost']} LOST" if mount["lost"] else ""),
    ]


def _status(vm: dict[str, Any]) -> Status:
    guards = {file["guard"] for file in vm["files"]}
    if vm["state"] == "conflict" or vm.get("fencing") or guards & {GuardState.LOST, GuardState.CONFLICT}:
        return Status.CRITICAL
    return Status.WARNING if vm.get("frozen") or any(file.get("weaker") for file in vm["files"]) else Status.OK


def _details(vm: dict[str, Any], out: Output) -> None:
    processes = ", ".join(f"{process['name']} (pid {process['pid']})" for process in vm.get("processes", []))
    out.line()
    out.line(f"VM '{vm['name']}' ({vm['uuid']}): {processes or 'no process'}")
    for file in vm["files"]:
        out.line(f"  {file['role']} {file['path']}")
        out.line(f"      {guard_words(file)}")


def _files(vm: dict[str, Any]) -> str:
    modes = [file["mode"] for file in vm["files"]]
    return f"{modes.count('exclusive')} exclusive, {modes.count('shared')} shared"


def _health(vm: dict[str, Any]) -> list[str]:
    watch = vm.get("watch")
    if not watch:
        return ["-", "-"]
    verdicts = {lock["verdict"] for lock in watch["locks"]}
    worst = next((word for word in ("lost", "unknown", "kept") if word in verdicts), "-")
    return [worst, _seconds(watch["freeze_in"])]


def _why(vm: dict[str, Any]) -> str:
    watch = vm.get("watch") or {}
    return str(watch.get("fence") or (watch["why"] if watch.get("need", "none") != "none" else vm["why"]))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
