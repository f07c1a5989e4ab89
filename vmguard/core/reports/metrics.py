"""The metrics of a host for Prometheus: families of samples, computed from the daemon's answers. Pure.

Names and labels follow Prometheus' conventions: base units, ``_seconds`` and ``_total``, a label for each dimension,
and never a label with an unbounded set of values. The names in labels are strangers': they are shown as everywhere
else (``printable``), which leaves no byte that is not UTF-8, and no two samples of a metric have the same labels. One
of either would cost a host all of its metrics.

What rules count on is always there: an event that has not happened yet is 0, as is each state that something is not in.
Times are points in time, never countdowns: a reader that is late, or has missed some, still computes what is true.
``metrics_timestamp_seconds`` says as of when all of them are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from vmguard.core.locks.claim_states import WITHOUT_HOOK, State
from vmguard.core.locks.guard_states import GuardState
from vmguard.core.words import printable

GAUGE, COUNTER = "gauge", "counter"

Labels = dict[str, str]

#: of a lease (core/watchdog/states.py, which reports may not know)
PHASES = ("idle", "healthy", "late", "at-risk", "expired", "recovering")
#: what a rule may ask for: told as 0 from the beginning, so that increase() sees the first one
EVENTS = (
    "config.invalid",
    "daemon.descriptors",
    "fence.done",
    "fence.host",
    "lock.lost",
    "mount.at-risk",
    "mount.expired",
    "mount.identity-stolen",
    "mount.late",
    "start.refused",
    "vm.conflict",
    "vm.disk-replaced",
    "vm.fence",
    "vm.freeze",
    "vm.gone",
    "vm.ignored",
    "vm.thaw",
)


class Family(NamedTuple):
    """One metric and all its samples."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Labels, float]]


class VmSample(NamedTuple):
    """One VM of the daemon's status message."""

    name: str
    uuid: str
    state: str
    frozen: bool
    fencing: bool
    #: the hypervisor did not call the hook for its start
    without_hook: bool
    #: the guard of each file; ``none`` for none
    guards: list[str]

    @classmethod
    def from_json(cls, vm: Mapping[str, Any]) -> VmSample:
        return cls(
            name=str(vm["name"]),
            uuid=str(vm["uuid"]),
            state=str(vm["state"]),
            frozen=bool(vm.get("frozen") or vm.get("stopped")),
            fencing=bool(vm.get("fencing")),
            without_hook=vm.get("without_hook") == WITHOUT_HOOK,
            guards=[str(file["guard"] or "none") for file in vm["files"]],
        )


class MountSample(NamedTuple):
    """One mount of the daemon's health message. Times in seconds; None where there is no number."""

    mount: str
    source: str
    phase: str
    lease: float | None
    lease_age: float | None
    #: silence of the server after which its VMs are frozen
    freeze_after: float | None
    locks: float | None
    unsure: float | None
    lost: float | None

    @classmethod
    def from_json(cls, mount: Mapping[str, Any]) -> MountSample:
        numbers = {key: None if mount.get(key) is None else float(mount[key]) for key in _MOUNT_KEYS}
        return cls(mount=str(mount["mount"]), source=str(mount["source"]), phase=str(mount["phase"]), **numbers)


class Answers(NamedTuple):
    """What the daemon answered; ``problem`` says why it did not, empty when it did."""

    problem: str = ""
    version: str = ""
    vms: Sequence[VmSample] = ()
    mounts: Sequence[MountSample] = ()
    fences: int = 0
    disarmed_seconds: float = 0.0
    #: False while the last good configuration is in force, because the admin's files hold a mistake
    config_valid: bool = True
    #: VMs that a fence has killed in the last day, and that nobody has acknowledged
    fenced: int = 0
    #: of the first line of ``vmguard status``; None: not known
    severity: int | None = None
    #: in use, and the limit; None where the daemon does not tell
    descriptors: tuple[float, float] | None = None
    #: of each target of messages: name, messages that wait, whether the last one failed, events that were dropped
    notify: Sequence[tuple[str, float, float, float]] = ()
    #: code, and time in seconds since 1970, of each entry of the history, which needs no daemon
    history: Sequence[tuple[str, float]] = ()
    #: when all this was asked, in seconds since 1970
    now: float = 0.0

    @classmethod
    def of(
        cls,
        version: str,
        status: Sequence[Mapping[str, Any]],
        health: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        now: float,
    ) -> Answers:
        """Read the daemon's messages, which came at ``now``.

        Raises KeyError, TypeError or ValueError when they are of another shape.
        """
        files = health.get("descriptors")
        return cls(
            version=version,
            vms=[VmSample.from_json(vm) for vm in status],
            mounts=[MountSample.from_json(mount) for mount in health.get("mounts", [])],
            fences=len(health.get("fences", [])),
            disarmed_seconds=float((health.get("disarmed") or {}).get("seconds", 0.0)),
            config_valid=not health.get("config_problems"),
            notify=[_target(told) for told in health.get("notify") or ()],
            descriptors=(float(files["used"]), float(files["limit"])) if files else None,
            history=_events(history),
            now=now,
        )

    @classmethod
    def without_daemon(
        cls, problem: str, vms: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], now: float
    ) -> Answers:
        """Return what is known without the daemon: ``vms``, by its state files, whose QEMU still runs."""
        return cls(problem, vms=[VmSample.from_json(vm) for vm in vms], history=_events(history), now=now)


def _target(told: Mapping[str, Any]) -> tuple[str, float, float, float]:
    failing, waiting, dropped = float(bool(told["problem"])), float(told["waiting"]), float(told["dropped"])
    return str(told["target"]), waiting, failing, dropped


def _events(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    return [(str(entry.get("code")), _seconds(entry.get("at"))) for entry in history]


def _seconds(at: object) -> float:
    """Return a time of the history (UTC, ISO) in seconds since 1970; 0 for anything else."""
    try:
        return datetime.fromisoformat(str(at)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


#: metric -> key of the health message
_MOUNT_NUMBERS = {
    "mount_lease_seconds": "lease",
    "mount_freeze_after_seconds": "freeze_after",
    "mount_locks": "locks",
    "mount_locks_unsure": "unsure",
    "mount_locks_lost": "lost",
}
_MOUNT_KEYS = (*_MOUNT_NUMBERS.values(), "lease_age")


#: name without the prefix -> help; the manual and the tests are made from it
HELP = {
    "up": "Whether the vmguard daemon answers.",
    "severity": "How this host stands, as the first line of vmguard status: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
    "build_info": "The version of the daemon that answers.",
    "vms": "VMs that this host guards, by the state of their claim.",
    "vm_frozen": "Whether a VM is stopped because nobody knows whether its locks still stand.",
    "vm_fencing": "Whether a VM is being killed because a lock of it is lost.",
    "vm_without_hook": "Whether the hypervisor did not call the hook when it started the VM.",
    "vm_files": "Files of a VM, by how they are guarded: pinned to QEMU, held beside it, lost.",
    "mount_lease_seconds": "The lease of the mount's server.",
    "mount_confirmed_timestamp_seconds": "When the last request was sent that the server has answered.",
    "mount_freeze_after_seconds": "Silence of the server after which the mount's VMs are frozen.",
    "mount_phase": "The phase of a mount's lease: 1 for the one it is in, 0 for the others.",
    "mount_locks": "Locks that are watched on a mount.",
    "mount_locks_unsure": "Locks for which an answer is awaited.",
    "mount_locks_lost": "Locks that are proven to be lost.",
    "fences": "Fences under way.",
    "disarmed_until_timestamp_seconds": "Until when the watchdog only reports; 0 when it is armed.",
    "config_valid": "Whether the configuration is taken; 0 while the last good one is in force in its place.",
    "fenced_lately": "VMs that a fence has killed in the last day; 0 again when that is acknowledged.",
    "open_files": "File descriptors that the daemon has in use.",
    "open_files_limit": "File descriptors that it may have; without one no VM can be started.",
    "notify_waiting": "Entries that wait to be sent to a target of notify.targets.",
    "notify_failing": "Whether the last message to a target was not taken.",
    "notify_dropped_total": "Events that a target is not told of, because too much was waiting for it.",
    "events_total": "Events of the watchdog since the host was booted, by what happened.",
    "last_event_timestamp_seconds": "When an event last happened since the host was booted; 0 if it has not.",
    "metrics_timestamp_seconds": "As of when all this is: an old one means that nobody writes it any more.",
}
_COUNTERS = ("events_total", "notify_dropped_total")


def families(answers: Answers) -> list[Family]:
    """Return all metrics; without a daemon only that it does not answer, and what the history still tells."""
    samples: dict[str, list[tuple[Labels, float]]] = {name: [] for name in HELP}
    samples["up"].append(({}, float(not answers.problem)))
    samples["fenced_lately"].append(({}, float(answers.fenced)))
    if answers.severity is not None:
        samples["severity"].append(({}, float(answers.severity)))
    samples["config_valid"].append(({}, float(answers.config_valid)))
    for vm in answers.vms:
        _add_vm(vm, samples)
    if not answers.problem:
        samples["build_info"].append(({"version": answers.version}, 1.0))
        samples["vms"] += _states(answers.vms)
        for vm in answers.vms:
            _add_files(vm, samples)
        for mount in answers.mounts:
            _add_mount(mount, answers.now, samples)
        samples["fences"].append(({}, float(answers.fences)))
        until = round(answers.now + answers.disarmed_seconds) if answers.disarmed_seconds > 0 else 0
        samples["disarmed_until_timestamp_seconds"].append(({}, float(until)))
        for target, waiting, failing, dropped in answers.notify:
            samples["notify_waiting"].append(({"target": target}, waiting))
            samples["notify_failing"].append(({"target": target}, failing))
            samples["notify_dropped_total"].append(({"target": target}, dropped))
        if answers.descriptors is not None:
            for name, value in zip(("open_files", "open_files_limit"), answers.descriptors, strict=True):
                samples[name].append(({}, value))
    _add_events(answers.history, samples)
    samples["metrics_timestamp_seconds"].append(({}, round(answers.now, 3)))
    return [
        Family(f"vmguard_{name}", COUNTER if name in _COUNTERS else GAUGE, help, _shown(samples[name]))
        for name, help in HELP.items()
        if samples[name]
    ]


def _shown(samples: Sequence[tuple[Labels, float]]) -> list[tuple[Labels, float]]:
    """Make all labels printable; of samples that read the same then, the largest counts."""
    found: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in samples:
        shown = tuple((name, printable(text)) for name, text in labels.items())
        found[shown] = max(value, found.get(shown, value))
    return [(dict(labels), value) for labels, value in found.items()]


def _states(vms: Sequence[VmSample]) -> list[tuple[Labels, float]]:
    """Count the VMs by state; each state is always there, so that an alert can tell "none" from "not known"."""
    counted = Counter({str(state): 0 for state in State})
    counted.update(vm.state for vm in vms)
    return [({"state": state}, float(count)) for state, count in sorted(counted.items())]


def _labels(vm: VmSample) -> Labels:
    return {"vm": vm.name, "uuid": vm.uuid}


def _add_vm(vm: VmSample, samples: dict[str, list[tuple[Labels, float]]]) -> None:
    samples["vm_frozen"].append((_labels(vm), float(vm.frozen)))
    samples["vm_fencing"].append((_labels(vm), float(vm.fencing)))
    samples["vm_without_hook"].append((_labels(vm), float(vm.without_hook)))


def _add_files(vm: VmSample, samples: dict[str, list[tuple[Labels, float]]]) -> None:
    guards = Counter({str(state): 0 for state in (GuardState.PINNED, GuardState.HELD, GuardState.LOST)})
    guards.update(vm.guards)
    samples["vm_files"] += [({**_labels(vm), "guard": guard}, float(count)) for guard, count in sorted(guards.items())]


def _add_mount(mount: MountSample, now: float, samples: dict[str, list[tuple[Labels, float]]]) -> None:
    labels = {"mount": mount.mount, "server": mount.source}
    values = mount._asdict()
    for name, key in _MOUNT_NUMBERS.items():
        if values[key] is not None:
            samples[name].append((labels, values[key]))
    if mount.lease_age is not None:
        samples["mount_confirmed_timestamp_seconds"].append((labels, round(now - mount.lease_age, 3)))
    phases = dict.fromkeys([*PHASES, mount.phase], 0.0) | {mount.phase: 1.0}
    samples["mount_phase"] += [({**labels, "phase": phase}, value) for phase, value in phases.items()]


def _add_events(history: Sequence[tuple[str, float]], samples: dict[str, list[tuple[Labels, float]]]) -> None:
    counted = Counter(dict.fromkeys(EVENTS, 0))
    counted.update(code for code, _ in history)
    last = dict.fromkeys(counted, 0.0)
    for code, at in history:
        last[code] = max(last[code], at)
    samples["events_total"] += [({"event": code}, float(count)) for code, count in sorted(counted.items())]
    samples["last_event_timestamp_seconds"] += [({"event": code}, at) for code, at in sorted(last.items())]


# -- the text format ------------------------------------------------------------------------------------------------


def text(found: list[Family]) -> str:
    """Format the metrics in the exposition format 0.0.4, which node_exporter's textfile collector reads."""
    return "".join(f"{line}\n" for family in found for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{{{inside}}} {value:.15g}" if inside else f"{family.name} {value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
