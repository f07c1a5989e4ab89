"""What Prometheus may know of a host: families of samples, made from what the daemon tells. Pure.

Names and labels follow Prometheus' conventions: base units, ``_seconds`` and ``_total``, a label for what may be
several, and never a label whose values grow without end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from vmguard.core.locks.guard_states import GuardState

GAUGE, COUNTER = "gauge", "counter"

Labels = dict[str, str]


class Family(NamedTuple):
    """One metric with all of its samples."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Labels, float]]


class Seen(NamedTuple):
    """What was asked of the daemon; ``problem`` when it does not answer."""

    problem: str
    version: str
    vms: list[dict[str, Any]]
    health: dict[str, Any]
    history: list[dict[str, Any]]


#: name without the prefix -> help; the manual and the tests go by it
HELP = {
    "up": "Whether the vmguard daemon answers.",
    "build_info": "The version of the daemon that answers.",
    "vms": "VMs that this host guards, by the state of their claim.",
    "vm_frozen": "Whether a VM is stopped because nobody knows whether its locks still stand.",
    "vm_fencing": "Whether a VM is being killed because a lock of it is lost.",
    "vm_files": "Files of a VM, by how they are guarded: pinned to QEMU, held beside it, lost.",
    "mount_lease_seconds": "The lease of the mount's server.",
    "mount_lease_age_seconds": "Time since the last request was sent that the server has answered.",
    "mount_freeze_in_seconds": "Time until VMs are frozen if the server stays silent.",
    "mount_phase": "The phase of a mount's lease: 1 for the one it is in.",
    "mount_locks": "Locks that are watched on a mount.",
    "mount_locks_unsure": "Locks for which an answer is awaited.",
    "mount_locks_lost": "Locks that are proven to be lost.",
    "fences": "Fences under way.",
    "disarmed_seconds": "Time for which the watchdog only reports; 0 when it is armed.",
    "events_total": "Events of the watchdog since the host was booted, by what happened.",
}
_COUNTERS = ("events_total",)


def families(seen: Seen) -> list[Family]:
    """All of them; without a daemon only that it does not answer, and what the history still tells."""
    samples: dict[str, list[tuple[Labels, float]]] = {name: [] for name in HELP}
    samples["up"].append(({}, float(not seen.problem)))
    if not seen.problem:
        samples["build_info"].append(({"version": seen.version}, 1.0))
        samples["vms"] += _states(seen.vms)
        for vm in seen.vms:
            _vm(vm, samples)
        for mount in seen.health.get("mounts", []):
            _mount(mount, samples)
        samples["fences"].append(({}, float(len(seen.health.get("fences", [])))))
        disarmed = seen.health.get("disarmed") or {}
        samples["disarmed_seconds"].append(({}, float(disarmed.get("seconds", 0.0))))
    events = Counter((str(entry.get("code")), str(entry.get("level"))) for entry in seen.history)
    samples["events_total"] += [
        ({"event": code, "level": level}, float(count)) for (code, level), count in sorted(events.items())
    ]
    return [
        Family(f"vmguard_{name}", COUNTER if name in _COUNTERS else GAUGE, help, samples[name])
        for name, help in HELP.items()
        if samples[name]
    ]


def _states(vms: list[dict[str, Any]]) -> list[tuple[Labels, float]]:
    """Running is there with 0, too, so that an alert can tell "none" from "not known"."""
    counted = Counter({"running": 0})
    counted.update(str(vm["state"]) for vm in vms)
    return [({"state": state}, float(count)) for state, count in sorted(counted.items())]


def _vm(vm: dict[str, Any], samples: dict[str, list[tuple[Labels, float]]]) -> None:
    labels = {"vm": str(vm["name"]), "uuid": str(vm["uuid"])}
    samples["vm_frozen"].append((labels, float(bool(vm.get("frozen") or vm.get("stopped")))))
    samples["vm_fencing"].append((labels, float(bool(vm.get("fencing")))))
    guards = Counter({str(state): 0 for state in (GuardState.PINNED, GuardState.HELD, GuardState.LOST)})
    guards.update(str(file["guard"] or "none") for file in vm["files"])
    samples["vm_files"] += [({**labels, "guard": guard}, float(count)) for guard, count in sorted(guards.items())]


def _mount(mount: dict[str, Any], samples: dict[str, list[tuple[Labels, float]]]) -> None:
    labels = {"mount": str(mount["mount"]), "server": str(mount["source"])}
    for name, key in (
        ("mount_lease_seconds", "lease"),
        ("mount_lease_age_seconds", "lease_age"),
        ("mount_freeze_in_seconds", "freeze_in"),
        ("mount_locks", "locks"),
        ("mount_locks_unsure", "unsure"),
        ("mount_locks_lost", "lost"),
    ):
        if mount[key] is not None:
            samples[name].append((labels, float(mount[key])))
    samples["mount_phase"].append(({**labels, "phase": str(mount["phase"])}, 1.0))


# -- the text format ------------------------------------------------------------------------------------------------


def text(found: list[Family]) -> str:
    """The exposition format 0.0.4, as node_exporter's textfile collector reads it."""
    return "".join(f"{line}\n" for family in found for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{{{inside}}} {value:.15g}" if inside else f"{family.name} {value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
