"""``vmguard status``: every VM that this host guards, and the leases that they depend on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmguard.cli import places
from vmguard.cli.output import Output
from vmguard.core.reports.fenced_vms import FencedVm
from vmguard.core.reports.vm_report import Status, worst
from vmguard.daemon.report import acknowledged
from vmguard.query import ask_daemon, other_mounts
from vmguard.query.answers import HealthAnswer, MountAnswer, VmAnswer
from vmguard.query.judge import status_of
from vmguard.query.other_mounts import OnOtherMount
from vmguard.query.places import Places
from vmguard.query.wording import guard_words, stance

#: between two pictures of --watch
_REFRESH_S = 1.0
#: cursor home, erase to the end of the screen (ECMA-48)
_CLEAR = "\033[H\033[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="show it again each second, until interrupted")


def run(args: argparse.Namespace, out: Output) -> int:
    where = places.of(args)
    if not args.watch or args.json:
        return show(ask(where), args, out)
    while True:
        out.block(_CLEAR + time.strftime("%H:%M:%S"))
        show(ask(where), args, out)
        time.sleep(_REFRESH_S)


@dataclass(frozen=True)
class Answers:
    """What the daemon says: its VMs, its health, and why it cannot be asked (empty when it can).

    ``fenced``: VMs that were fenced, which nobody has acknowledged yet.
    """

    vms: Sequence[VmAnswer]
    health: HealthAnswer
    problem: str = ""
    fenced: Sequence[FencedVm] = ()


def ask(where: Places) -> Answers:
    """Ask the daemon, or its state files while it is down."""
    vms, problem = ask_daemon.guarded_vms(where)
    health = HealthAnswer() if problem else ask_daemon.health(where)
    return Answers(vms, health, problem, acknowledged.fenced_lately(where.run_dir))


def show(answers: Answers, args: argparse.Namespace, out: Output) -> int:
    """Print the answers, for people or as JSON; return the exit status."""
    vms, health, problem, fenced = answers.vms, answers.health, answers.problem, answers.fenced
    disarmed = health.disarmed
    if args.json:
        out.json(_as_json(vms, health, problem, fenced))
    elif not vms:
        out.line("this host guards no VM")
    else:
        _print(vms, health.mounts, out)
        for vm in vms if args.verbose else []:
            _details(vm, out)
        for vm in vms:
            if vm.state == "conflict":
                frozen = "; it is frozen" if vm.stopped else ""
                out.status(Status.CRITICAL.name, f"VM '{vm.name}' (pid {vm.pid}) {vm.why}{frozen}")
    others = {vm.name: other_mounts.of_vm(vm, not problem) for vm in vms}
    if not args.json:
        _warn_of(others, out)
    for killed in fenced if not args.json else []:
        out.status(Status.CRITICAL.name, killed.sentence)
    if fenced and not args.json:
        out.line("  do now: vmguard history says why; vmguard history --acknowledge when it is settled")
    for fence in health.fences:
        out.line(f"fencing VM '{fence.name}': {fence.sentence}")
    if disarmed:
        out.warn(disarmed.sentence)
    for text in health.config_problems:
        out.warn(f"the daemon does not take the configuration, the last good one is in force: {text}")
    few = health.descriptors is not None and health.descriptors.alarm
    if health.descriptors is not None and few:
        out.warn(health.descriptors.sentence)
    if problem:
        out.warn(f"{problem}; this is what it guarded when it was last alive")
        return Status.CRITICAL if vms else Status.WARNING
    if fenced:
        return Status.CRITICAL
    weaker = Status.WARNING if disarmed or few or health.config_problems or any(others.values()) else Status.OK
    return worst([status_of(vm) for vm in vms] + [weaker])


def _warn_of(others: Mapping[str, Sequence[OnOtherMount]], out: Output) -> None:
    for name, found in others.items():
        for item in found:
            out.warn(f"VM '{name}': {item.path} is not guarded against other hosts: {item.why}")


def _as_json(
    vms: Sequence[VmAnswer], health: HealthAnswer, problem: str, fenced: Sequence[FencedVm]
) -> dict[str, object]:
    return {
        "schema": 1,
        "daemon": problem or "up",
        "disarmed": health.disarmed.json if health.disarmed is not None else None,
        "config_problems": list(health.config_problems),
        "mounts": [mount.json for mount in health.mounts],
        "fenced": [killed.as_json() for killed in fenced],
        "vms": [vm.json for vm in vms],
    }


def _print(vms: Sequence[VmAnswer], mounts: Sequence[MountAnswer], out: Output) -> None:
    rows = [
        [vm.name, _state(vm), str(vm.pid or "-"), vm.claimed, _files(vm), *_health(vm), _why(vm)]
        for vm in sorted(vms, key=lambda vm: vm.name)
    ]
    out.table(["vm", "state", "pid", "claimed", "files", "verdict", "freeze in", "why"], rows)
    if not mounts:
        return
    out.line()
    columns = ["mount", "server", "lease", "state", "age", "freeze in", "locks"]
    out.table(columns, [_mount(mount) for mount in mounts])
    for mount in mounts:
        if mount.probes not in ("", "SEEK"):
            out.line(f"{mount.mount}: probes: {mount.probes}")


def _state(vm: VmAnswer) -> str:
    word = stance(vm)
    return word.upper() if word in ("frozen", "fencing") else word


def _mount(mount: MountAnswer) -> list[str]:
    locks = f"{mount.locks}" + (f", {mount.unsure} asked" if mount.unsure else "")
    return [
        mount.mount,
        mount.source,
        f"{mount.lease:g} s",
        mount.phase,
        _seconds(mount.lease_age),
        _seconds(mount.freeze_in),
        locks + (f", {mount.lost} LOST" if mount.lost else ""),
    ]


def _details(vm: VmAnswer, out: Output) -> None:
    processes = ", ".join(f"{process.name} (pid {process.pid})" for process in vm.processes)
    out.line()
    out.line(f"VM '{vm.name}' ({vm.uuid}): {processes or 'no process'}")
    for file in vm.files:
        out.line(f"  {file.role} {file.path}")
        out.line(f"      {guard_words(file)}")


def _files(vm: VmAnswer) -> str:
    modes = [file.mode for file in vm.files]
    return f"{modes.count('exclusive')} exclusive, {modes.count('shared')} shared"


def _health(vm: VmAnswer) -> list[str]:
    if vm.watch is None:
        return ["-", "-"]
    verdicts = {lock.verdict for lock in vm.watch.locks}
    worst = next((word for word in ("lost", "unknown", "kept") if word in verdicts), "-")
    return [worst, _seconds(vm.watch.freeze_in)]


def _why(vm: VmAnswer) -> str:
    watch = vm.watch
    if watch is None:
        return vm.why
    return watch.fence or (watch.why if watch.need != "none" else vm.why)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
