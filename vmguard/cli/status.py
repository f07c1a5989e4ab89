"""``vmguard status``: every VM that this host guards, and the leases that they depend on."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from vmguard.cli import host, places
from vmguard.cli.host import Answers
from vmguard.cli.output import Output
from vmguard.core.locks.plan import EXCLUSIVE, SHARED
from vmguard.core.reports.health import Health, nfs_server
from vmguard.core.reports.local_time import local_time
from vmguard.core.words import vm_title
from vmguard.query import ask_share
from vmguard.query.answers import MountAnswer, VmAnswer
from vmguard.query.other_mounts import OnOtherMount
from vmguard.query.places import Places
from vmguard.query.wording import guard_words, stance

#: between two pictures of --watch
_REFRESH_S = 1.0
Pause = Callable[[float], object]
#: cursor home, erase to the end of the screen (ECMA-48)
_CLEAR = "\033[H\033[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", action="store_true", help="again each second, until interrupted; with --json one document a line"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    if not args.watch:
        return show(ask(where), args, out)
    return follow(lambda: ask(where), args, out)


def follow(asked: Callable[[], Answers], args: argparse.Namespace, out: Output, pause: Pause = time.sleep) -> NoReturn:
    """Print the answers again and again, each whole, until interrupted."""
    while True:
        if not args.json:
            out.block((_CLEAR if out.is_terminal else "\n") + time.strftime("%H:%M:%S %Z"))
        show(asked(), args, out)
        out.flush()
        pause(_REFRESH_S)


def ask(where: Places) -> Answers:
    """Ask the daemon, or its state files while it is down; and the storage, whether the disks are at their paths."""
    answers = host.ask(where)
    if answers.problem:
        return answers
    healthy = {mount.mount for mount in answers.health.mounts if mount.phase == "healthy"}
    asked = [vm for vm in answers.vms if vm.watch is None or {lock.mount for lock in vm.watch.locks} <= healthy]
    replaced = ask_share.replaced_now(asked, where)
    return dataclasses.replace(answers, vms=[ask_share.with_replaced(vm, replaced) for vm in answers.vms])


def show(answers: Answers, args: argparse.Namespace, out: Output) -> int:
    """Print the answers, for people or as JSON; return the exit status."""
    others = host.on_other_mounts(answers)
    found = answers.with_other_mounts(others).line()
    if args.json:
        out.json(_as_json(answers, found), compact=args.watch)
        return found.severity
    host.begin(found, out)
    if answers.vms:
        out.line()
        _print(answers, out)
    for vm in answers.vms if args.verbose else []:
        _details(vm, out)
    _remarks(answers, others, out)
    host.end(found, out, any(vm.frozen for vm in answers.vms))
    return found.severity


def _remarks(answers: Answers, others: Mapping[str, Sequence[OnOtherMount]], out: Output) -> None:
    """Print what the first line has no room for."""
    for vm in answers.vms:
        if why := _why(vm):
            out.line(f"{vm_title(vm.name)}: {why}")
    for name, found in others.items():
        for item in found:
            out.warn(f"VM '{name}': {item.path} is not guarded against other hosts: {item.why}")
    for fence in answers.health.fences:
        out.line(f"fencing VM '{fence.name}': {fence.sentence}")
    for text in answers.health.config_problems:
        out.warn(f"the daemon does not take the configuration, the last good one is in force: {text}")
    if answers.problem and answers.vms:
        out.warn(f"{answers.problem}; this is what it guarded when it was last alive")


def _as_json(answers: Answers, found: Health) -> dict[str, object]:
    health = answers.health
    return {
        "schema": 1,
        "status": found.severity.name,
        "health": found.as_json(),
        "daemon": answers.problem or "up",
        "disarmed": health.disarmed.json if health.disarmed is not None else None,
        "config_problems": list(health.config_problems),
        "mounts": [mount.json for mount in health.mounts],
        "fenced": [killed.as_json() for killed in answers.fenced],
        "vms": [vm.json for vm in answers.vms],
    }


def _print(answers: Answers, out: Output) -> None:
    rows = [
        [vm.name, _state(vm), str(vm.pid or "-"), _since(vm), _files(vm), _verdict(vm)]
        for vm in sorted(answers.vms, key=lambda vm: vm.name)
    ]
    out.table(["vm", "state", "pid", "guarded since", "files", "locks"], rows)
    mounts = answers.health.mounts
    if not mounts:
        return
    out.line()
    columns = ["mount", "server", "lease", "state", "answered", "freeze in", "locks"]
    out.table(columns, [_mount(mount, answers.health.disarmed is not None) for mount in mounts])
    for mount in mounts:
        if mount.probes not in ("", "SEEK"):
            out.line(f"{mount.mount}: probes: {mount.probes}")


def _state(vm: VmAnswer) -> str:
    word = stance(vm)
    return word.upper() if word in ("frozen", "fencing") else word


def _since(vm: VmAnswer) -> str:
    return local_time(vm.claimed, datetime.datetime.now(datetime.UTC)) if vm.claimed else "-"


def _mount(mount: MountAnswer, in_maintenance: bool) -> list[str]:
    locks = f"{mount.locks}" + (f", {mount.unsure} asked" if mount.unsure else "")
    return [
        mount.mount,
        nfs_server(mount.source) or mount.source,
        f"{mount.lease:g} s",
        mount.phase,
        "-" if mount.lease_age is None else f"{mount.lease_age:.1f} s ago",
        _freeze_in(mount, in_maintenance),
        locks + (f", {mount.lost} LOST" if mount.lost else ""),
    ]


def _freeze_in(mount: MountAnswer, in_maintenance: bool) -> str:
    if in_maintenance or mount.freeze_in is None:
        return "-"
    return f"{mount.freeze_in:.1f} s" if mount.freeze_in else "over"


def _details(vm: VmAnswer, out: Output) -> None:
    processes = ", ".join(f"{process.name} (pid {process.pid})" for process in vm.processes)
    out.line()
    out.line(f"{vm_title(vm.name)} ({vm.uuid}): {processes or 'no process'}")
    for file in vm.files:
        out.line(f"  {file.role} {file.path}")
        out.line(f"      {guard_words(file, exact=True)}")


def _files(vm: VmAnswer) -> str:
    modes = [file.mode for file in vm.files]
    shared = modes.count(SHARED)
    return f"{modes.count(EXCLUSIVE)} own" + (f", {shared} shared" if shared else "")


def _verdict(vm: VmAnswer) -> str:
    verdicts = {lock.verdict for lock in vm.watch.locks} if vm.watch is not None else set()
    word = next((word for word in ("lost", "unknown", "kept") if word in verdicts), "-")
    return "unsure" if word == "kept" and vm.watch is not None and vm.watch.need != "none" else word


def _why(vm: VmAnswer) -> str:
    """Say what there is to say about a VM beyond its state; empty when there is nothing."""
    watch = vm.watch
    if watch is not None and (watch.fence or watch.need != "none"):
        return watch.fence or watch.why
    return vm.why if vm.state not in ("running", "incoming") else ""
